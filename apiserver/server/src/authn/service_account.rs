//! Service-account tokens: signing, the published keys, and verifying with everything that a token is bound to (upstream
//! pkg/serviceaccount/{jwt,claims,legacy}.go, jwks). Knows the tokens of old Secrets too, which do not expire. Does not decide who may ask for one ([`crate::special::token`]).

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rcgen::{KeyPair, PublicKeyData};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use skeg_machinery::gvk::GroupResource;
use x509_parser::prelude::FromDer;
use x509_parser::public_key::PublicKey;
use x509_parser::x509::SubjectPublicKeyInfo;

use super::{Authentication, Authenticator, Credentials};
use crate::pki;
use crate::request::UserInfo;
use crate::resources::Resources;

pub const USERNAME_PREFIX: &str = "system:serviceaccount:";
pub const ALL_SERVICE_ACCOUNTS: &str = "system:serviceaccounts";
const EXTRA: &str = "authentication.kubernetes.io/";
/// Clocks may differ by this much, in seconds, as upstream's JWT library allows.
const LEEWAY: i64 = 60;
/// What tokens in Secrets of type kubernetes.io/service-account-token name as their issuer.
pub const LEGACY_ISSUER: &str = "kubernetes/serviceaccount";
const INVALID_SINCE: &str = "kubernetes.io/legacy-token-invalid-since";

pub fn username(namespace: &str, name: &str) -> String {
    format!("{USERNAME_PREFIX}{namespace}:{name}")
}

pub fn groups(namespace: &str) -> Vec<String> {
    vec![ALL_SERVICE_ACCOUNTS.into(), format!("{ALL_SERVICE_ACCOUNTS}:{namespace}")]
}

/// Namespace and name of a service account's user name.
pub fn split_username(user: &str) -> Option<(&str, &str)> {
    let (namespace, name) = user.strip_prefix(USERNAME_PREFIX)?.split_once(':')?;
    let good = |s: &str| !s.is_empty() && !s.contains([':', '/']);
    (good(namespace) && good(name)).then_some((namespace, name))
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ref {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bound {
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pod: Option<Ref>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<Ref>,
    #[serde(default)]
    pub serviceaccount: Ref,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warnafter: Option<i64>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    #[serde(default, deserialize_with = "one_or_many")]
    pub aud: Vec<String>,
    #[serde(default)]
    pub exp: i64,
    #[serde(default)]
    pub iat: i64,
    #[serde(default)]
    pub iss: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub jti: String,
    #[serde(default, rename = "kubernetes.io")]
    pub kubernetes: Bound,
    #[serde(default)]
    pub nbf: i64,
    #[serde(default)]
    pub sub: String,
}

/// What a token in a Secret says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LegacyClaims {
    #[serde(default)]
    pub iss: String,
    #[serde(default)]
    pub sub: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/namespace")]
    pub namespace: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/secret.name")]
    pub secret: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.name")]
    pub account: String,
    #[serde(default, rename = "kubernetes.io/serviceaccount/service-account.uid")]
    pub uid: String,
}

fn one_or_many<'de, D: serde::Deserializer<'de>>(value: D) -> Result<Vec<String>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum OneOrMany {
        One(String),
        Many(Vec<String>),
    }
    Ok(match OneOrMany::deserialize(value)? {
        OneOrMany::One(one) => vec![one],
        OneOrMany::Many(many) => many,
    })
}

#[derive(Debug, thiserror::Error)]
pub enum IssuerError {
    #[error("service-account signing key: {0}")]
    Key(String),
    #[error("sign token")]
    Sign(#[source] jsonwebtoken::errors::Error),
}

/// A public key of an issuer, in the three forms that it is needed in.
struct VerifyingKey {
    algorithm: Algorithm,
    /// The hash of the key that tokens name it by.
    id: String,
    decoding: DecodingKey,
    jwk: Value,
}

impl VerifyingKey {
    /// From the DER of a SubjectPublicKeyInfo.
    fn new(spki: &[u8]) -> Result<Self, IssuerError> {
        let bad = |e: &dyn std::fmt::Display| IssuerError::Key(e.to_string());
        let (_, info) = SubjectPublicKeyInfo::from_der(spki).map_err(|e| bad(&e))?;
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let unsigned = |bytes: &[u8]| text(&bytes[bytes.iter().take_while(|byte| **byte == 0).count()..]);
        let id = text(&Sha256::digest(spki));
        let (algorithm, jwk) = match info.parsed().map_err(|e| bad(&e))? {
            PublicKey::RSA(key) => {
                let (n, e) = (unsigned(key.modulus), unsigned(key.exponent));
                (Algorithm::RS256, json!({"use": "sig", "kty": "RSA", "kid": id, "alg": "RS256", "n": n, "e": e}))
            }
            PublicKey::EC(point) => {
                let (algorithm, curve, size) = match point.data().len() {
                    65 => (Algorithm::ES256, "P-256", 32),
                    97 => (Algorithm::ES384, "P-384", 48),
                    _ => return Err(bad(&"only the curves P-256 and P-384 are supported")),
                };
                let (x, y) = point.data()[1..].split_at(size);
                let (x, y, alg) = (text(x), text(y), json!(algorithm));
                let jwk = json!({"use": "sig", "kty": "EC", "kid": id, "crv": curve, "alg": alg, "x": x, "y": y});
                (algorithm, jwk)
            }
            _ => return Err(bad(&"it is neither an RSA nor an ECDSA key")),
        };
        let typed: Jwk = serde_json::from_value(jwk.clone()).map_err(|e| bad(&e))?;
        let decoding = DecodingKey::from_jwk(&typed).map_err(|e| bad(&e))?;
        Ok(VerifyingKey { algorithm, id, decoding, jwk })
    }

    /// All keys of a PEM text: public keys, those of certificates, and those that belong to private keys.
    fn read(pem: &str) -> Result<Vec<Self>, IssuerError> {
        let bad = |e: &dyn std::fmt::Display| IssuerError::Key(e.to_string());
        let mut keys = Vec::new();
        for spki in pki::pem_blocks(pem, "PUBLIC KEY") {
            keys.push(VerifyingKey::new(&spki)?);
        }
        for certificate in pki::pem_blocks(pem, "CERTIFICATE") {
            let (_, parsed) = x509_parser::parse_x509_certificate(&certificate).map_err(|e| bad(&e))?;
            keys.push(VerifyingKey::new(parsed.public_key().raw)?);
        }
        if keys.is_empty() {
            let key = KeyPair::from_pem(pem).map_err(|e| bad(&e))?;
            keys.push(VerifyingKey::new(&key.subject_public_key_info())?);
        }
        Ok(keys)
    }
}

/// Signs tokens and knows the keys that verify them.
pub struct TokenIssuer {
    pub issuer: String,
    /// Names that older tokens may have in its place.
    former: Vec<String>,
    /// The API server's own audiences: what a token without another is for. Never empty.
    pub audiences: Vec<String>,
    encoding: EncodingKey,
    /// The signing key's first.
    keys: Vec<VerifyingKey>,
}

impl TokenIssuer {
    /// `key_pem` is an ECDSA P-256/P-384 or RSA private key.
    pub fn new(issuer: &str, audiences: Vec<String>, key_pem: &str) -> Result<Self, IssuerError> {
        let key = KeyPair::from_pem(key_pem).map_err(|e| IssuerError::Key(e.to_string()))?;
        // rcgen reads every PEM flavour and writes PKCS#8, which is what jsonwebtoken reads.
        let pem = key.serialize_pem();
        let bad = |e: jsonwebtoken::errors::Error| IssuerError::Key(e.to_string());
        let verifying = VerifyingKey::new(&key.subject_public_key_info())?;
        let encoding = match verifying.algorithm {
            Algorithm::RS256 => EncodingKey::from_rsa_pem(pem.as_bytes()),
            _ => EncodingKey::from_ec_pem(pem.as_bytes()),
        };
        let audiences = if audiences.is_empty() { vec![issuer.to_owned()] } else { audiences };
        let (former, keys) = (Vec::new(), vec![verifying]);
        Ok(TokenIssuer { issuer: issuer.into(), former, audiences, encoding: encoding.map_err(bad)?, keys })
    }

    /// Takes tokens that the keys in PEM texts verify, beside its own.
    pub fn also_verifying(mut self, pems: &[String]) -> Result<Self, IssuerError> {
        for pem in pems {
            for key in VerifyingKey::read(pem)? {
                if self.keys.iter().all(|known| known.id != key.id) {
                    self.keys.push(key);
                }
            }
        }
        Ok(self)
    }

    /// Takes tokens that name another issuer, beside its own.
    pub fn also_issued_by(mut self, former: Vec<String>) -> Self {
        self.former = former;
        self
    }

    /// The claims of a token that one of the keys verifies.
    fn decode<C: serde::de::DeserializeOwned + Clone>(
        &self,
        token: &str,
        issuers: &[&str],
        required: &[&str],
    ) -> Result<C, String> {
        let named = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        let of_name = |key: &&VerifyingKey| named.as_ref().is_some_and(|name| *name == key.id);
        let mut keys: Vec<&VerifyingKey> = self.keys.iter().filter(of_name).collect();
        if keys.is_empty() {
            keys = self.keys.iter().collect();
        }
        let mut error = String::new();
        for key in keys {
            let mut validation = Validation::new(key.algorithm);
            // Times are checked against the clock that is passed in, with upstream's words.
            validation.validate_exp = false;
            validation.validate_aud = false;
            validation.set_issuer(issuers);
            validation.set_required_spec_claims(required);
            match jsonwebtoken::decode::<C>(token, &key.decoding, &validation) {
                Ok(decoded) => return Ok(decoded.claims),
                Err(e) => error = format!("invalid bearer token: {e}"),
            }
        }
        Err(error)
    }

    /// Signs `claims` with this issuer's name in them.
    pub fn sign(&self, mut claims: Claims) -> Result<String, IssuerError> {
        claims.iss = self.issuer.clone();
        let mut header = Header::new(self.keys[0].algorithm);
        header.typ = None;
        header.kid = Some(self.keys[0].id.clone());
        jsonwebtoken::encode(&header, &claims, &self.encoding).map_err(IssuerError::Sign)
    }

    /// The claims of a token that this issuer signed and that is valid now; nothing about audiences or bound objects.
    pub fn verify(&self, token: &str, now: DateTime<Utc>) -> Result<Claims, String> {
        let issuers: Vec<&str> = [&self.issuer].into_iter().chain(&self.former).map(String::as_str).collect();
        let claims: Claims = self.decode(token, &issuers, &["exp", "iss", "sub"])?;
        let now = now.timestamp();
        if now > claims.exp + LEEWAY {
            return Err("service account token has expired".into());
        }
        if now + LEEWAY < claims.nbf {
            return Err("service account token is not valid yet".into());
        }
        if now + LEEWAY < claims.iat {
            return Err("service account token is issued in the future".into());
        }
        Ok(claims)
    }

    /// The claims of a token of an old Secret, signed with the same key.
    fn verify_legacy(&self, token: &str) -> Result<LegacyClaims, String> {
        self.decode(token, &[LEGACY_ISSUER], &["iss", "sub"])
    }

    /// `/openid/v1/jwks`.
    pub fn jwks(&self) -> Value {
        json!({ "keys": self.keys.iter().map(|key| &key.jwk).collect::<Vec<_>>() })
    }

    /// `/.well-known/openid-configuration`; `jwks_uri` is where clients find the keys.
    pub fn openid_configuration(&self, jwks_uri: &str) -> Value {
        let algorithms: std::collections::BTreeSet<&str> =
            self.keys.iter().filter_map(|key| key.jwk["alg"].as_str()).collect();
        json!({
            "issuer": self.issuer,
            "jwks_uri": jwks_uri,
            "response_types_supported": ["id_token"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": algorithms,
        })
    }

    /// Who a token says that it is from, unverified; `None` when it is no JWT.
    fn claimed_issuer(token: &str) -> Option<String> {
        let mut parts = token.split('.');
        let (Some(_), Some(payload), Some(_), None) = (parts.next(), parts.next(), parts.next(), parts.next()) else {
            return None;
        };
        #[derive(Deserialize)]
        struct Issuer {
            #[serde(default)]
            iss: String,
        }
        URL_SAFE_NO_PAD
            .decode(payload.trim_end_matches('='))
            .ok()
            .and_then(|json| serde_json::from_slice::<Issuer>(&json).ok())
            .map(|issuer| issuer.iss)
    }
}

pub struct ServiceAccountTokens {
    pub issuer: Arc<TokenIssuer>,
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Authenticator for ServiceAccountTokens {
    async fn authenticate(&self, credentials: &Credentials) -> Authentication {
        let Some(token) = credentials.bearer_token.as_deref() else { return Authentication::Unknown };
        // Anything that does not name an issuer of ours is for other authenticators.
        match TokenIssuer::claimed_issuer(token) {
            Some(issuer) if issuer == self.issuer.issuer || self.issuer.former.contains(&issuer) => {}
            Some(issuer) if issuer == LEGACY_ISSUER => return self.legacy(token, credentials).await,
            _ => return Authentication::Unknown,
        }
        let wanted = if credentials.audiences.is_empty() { &self.issuer.audiences } else { &credentials.audiences };
        let now = Utc::now();
        let claims = match self.issuer.verify(token, now) {
            Ok(claims) => claims,
            Err(why) => return Authentication::Rejected(why),
        };
        let audiences: Vec<String> = wanted.iter().filter(|a| claims.aud.contains(a)).cloned().collect();
        if audiences.is_empty() {
            return Authentication::Rejected(format!(
                "token audiences {:?} is invalid for the target audiences {wanted:?}",
                claims.aud
            ));
        }
        match self.check_bound(&claims, now).await {
            Ok(()) => Authentication::User { user: user_of(&claims), audiences },
            Err(why) => Authentication::Rejected(why),
        }
    }
}

impl ServiceAccountTokens {
    /// A token of an old Secret is for the API server's own audiences, and dies with its Secret.
    async fn legacy(&self, token: &str, credentials: &Credentials) -> Authentication {
        let own = &self.issuer.audiences;
        let wanted = if credentials.audiences.is_empty() { own } else { &credentials.audiences };
        let audiences: Vec<String> = wanted.iter().filter(|audience| own.contains(audience)).cloned().collect();
        let claims = match self.issuer.verify_legacy(token) {
            Ok(claims) => claims,
            Err(why) => return Authentication::Rejected(why),
        };
        if audiences.is_empty() {
            return Authentication::Rejected(format!(
                "token audiences {own:?} is invalid for the target audiences {wanted:?}"
            ));
        }
        match self.check_legacy(token, &claims).await {
            Ok(()) => {
                let user = UserInfo {
                    name: username(&claims.namespace, &claims.account),
                    uid: claims.uid,
                    groups: groups(&claims.namespace),
                    extra: BTreeMap::new(),
                };
                Authentication::User { user, audiences }
            }
            Err(why) => Authentication::Rejected(why),
        }
    }

    async fn check_legacy(&self, token: &str, claims: &LegacyClaims) -> Result<(), String> {
        let LegacyClaims { namespace, secret: secret_name, account, uid: wanted, .. } = claims;
        if claims.sub != username(namespace, account) {
            return Err("sub claim is invalid".into());
        }
        let secret = self.resources.get(&GroupResource::from_static("", "secrets"), namespace, secret_name).await;
        let secret = secret.map_err(|_| "Token has been invalidated")?;
        if !secret["metadata"]["deletionTimestamp"].is_null() {
            return Err("Token has been invalidated".into());
        }
        let stored = secret["data"]["token"].as_str().and_then(|data| STANDARD.decode(data).ok()).unwrap_or_default();
        if !super::equal_secrets(&stored, token.as_bytes()) {
            return Err("Token does not match server's copy".into());
        }
        let reference = Ref { name: account.clone(), uid: wanted.clone() };
        let found = self.find("serviceaccounts", namespace, &reference).await;
        let found = found.ok_or_else(|| format!("serviceaccounts \"{account}\" not found"))?;
        if !found["metadata"]["deletionTimestamp"].is_null() {
            return Err(format!("ServiceAccount {namespace}/{account} has been deleted"));
        }
        if uid_differs(&found, &reference) {
            return Err(format!("ServiceAccount UID ({}) does not match claim ({wanted})", uid(&found)));
        }
        if secret["metadata"]["labels"][INVALID_SINCE].as_str().is_some_and(|since| !since.is_empty()) {
            return Err(format!(
                "the token in secret {namespace}/{secret_name} for service account {namespace}/{account} has been marked \
                 invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the \
                 '{INVALID_SINCE}' label from the secret to temporarily allow use of this token"
            ));
        }
        Ok(())
    }

    /// Everything that the token is bound to must still be there and be the same.
    async fn check_bound(&self, claims: &Claims, now: DateTime<Utc>) -> Result<(), String> {
        let bound = &claims.kubernetes;
        let (namespace, account) = (&bound.namespace, &bound.serviceaccount);
        if claims.sub != username(namespace, &account.name) {
            return Err("service account token subject does not match its claims".into());
        }
        let gone = || "service account token has been invalidated".to_owned();
        let found = self.find("serviceaccounts", namespace, account).await;
        let found = found.ok_or_else(|| format!("serviceaccounts \"{}\" not found", account.name))?;
        let uid = uid(&found);
        if uid != account.uid {
            return Err(format!("service account UID ({uid}) does not match claim ({})", account.uid));
        }
        if deleted(&found, now) {
            return Err(format!("service account {namespace}/{} has been deleted", account.name));
        }
        // A pod's node is for information; only a token bound to nothing but a node depends on it.
        let node = bound.node.as_ref().filter(|_| bound.pod.is_none());
        for (resource, namespace, bound) in [
            ("secrets", namespace.as_str(), bound.secret.as_ref()),
            ("pods", namespace, bound.pod.as_ref()),
            ("nodes", "", node),
        ] {
            let Some(bound) = bound else { continue };
            let found = self.find(resource, namespace, bound).await.ok_or_else(gone)?;
            if uid_differs(&found, bound) || deleted(&found, now) {
                return Err(gone());
            }
        }
        Ok(())
    }

    /// From the cache, or from the store when the cache has not (this one) yet.
    async fn find(&self, resource: &'static str, namespace: &str, wanted: &Ref) -> Option<Arc<Value>> {
        let resource = GroupResource::from_static("", resource);
        let cached = self.resources.get_cached(&resource, namespace, &wanted.name).await.ok().flatten();
        if let Some(cached) = cached.filter(|found| !uid_differs(found, wanted)) {
            return Some(cached);
        }
        self.resources.get(&resource, namespace, &wanted.name).await.ok().map(Arc::new)
    }
}

fn uid(object: &Value) -> &str {
    object["metadata"]["uid"].as_str().unwrap_or_default()
}

fn uid_differs(object: &Value, wanted: &Ref) -> bool {
    uid(object) != wanted.uid
}

/// Deleted for longer than clocks may differ.
fn deleted(object: &Value, now: DateTime<Utc>) -> bool {
    let timestamp = object["metadata"]["deletionTimestamp"].as_str();
    timestamp
        .and_then(|t| DateTime::parse_from_rfc3339(t).ok())
        .is_some_and(|t| t.timestamp() < now.timestamp() - LEEWAY)
}

fn user_of(claims: &Claims) -> UserInfo {
    let bound = &claims.kubernetes;
    let mut extra = BTreeMap::new();
    let mut add = |key: &str, value: &str| {
        if !value.is_empty() {
            extra.insert(format!("{EXTRA}{key}"), vec![value.to_owned()]);
        }
    };
    if let Some(pod) = &bound.pod {
        add("pod-name", &pod.name);
        add("pod-uid", &pod.uid);
    }
    if let Some(node) = &bound.node {
        add("node-name", &node.name);
        add("node-uid", &node.uid);
    }
    if !claims.jti.is_empty() {
        add("credential-id", &format!("JTI={}", claims.jti));
    }
    UserInfo {
        name: username(&bound.namespace, &bound.serviceaccount.name),
        uid: bound.serviceaccount.uid.clone(),
        groups: groups(&bound.namespace),
        extra,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::fake::Memory;

    const ISSUER: &str = "https://kubernetes.default.svc.cluster.local";

    fn key() -> String {
        KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap().serialize_pem()
    }

    fn issuer() -> Arc<TokenIssuer> {
        Arc::new(TokenIssuer::new(ISSUER, vec![], &key()).unwrap())
    }

    fn claims() -> Claims {
        let now = Utc::now().timestamp();
        let named = |name: &str, uid: &str| Ref { name: name.into(), uid: uid.into() };
        Claims {
            aud: vec![ISSUER.into()],
            exp: now + 600,
            iat: now,
            nbf: now,
            jti: "j-1".into(),
            sub: username("team", "robot"),
            kubernetes: Bound {
                namespace: "team".into(),
                serviceaccount: named("robot", "sa-uid"),
                pod: Some(named("web", "pod-uid")),
                node: Some(named("node-a", "node-uid")),
                ..Default::default()
            },
            ..Default::default()
        }
    }

    #[test]
    fn tokens_of_an_old_key_and_an_old_issuer_stay_good() {
        let (old, new) = (key(), key());
        let public = KeyPair::from_pem(&old).unwrap().public_key_pem();
        let token = TokenIssuer::new("https://old", vec![], &old).unwrap().sign(claims()).unwrap();
        let alone = TokenIssuer::new(ISSUER, vec![], &new).unwrap();
        assert!(alone.verify(&token, Utc::now()).is_err());
        let both = TokenIssuer::new(ISSUER, vec![], &new).unwrap().also_verifying(&[public, new]).unwrap();
        assert!(both.verify(&token, Utc::now()).is_err(), "another issuer");
        let both = both.also_issued_by(vec!["https://old".into()]);
        assert_eq!(both.verify(&token, Utc::now()).unwrap().iss, "https://old");
        assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2, "its own key is there once");
        assert!(both.verify(&both.sign(claims()).unwrap(), Utc::now()).is_ok());
    }

    fn objects() -> Memory {
        let object = |name: &str, uid: &str| json!({"metadata": {"name": name, "namespace": "team", "uid": uid}});
        Memory::with(vec![("", "serviceaccounts", object("robot", "sa-uid")), ("", "pods", object("web", "pod-uid"))])
    }

    async fn ask(objects: Memory, claims: Claims) -> Authentication {
        let issuer = issuer();
        let token = issuer.sign(claims).unwrap();
        let tokens = ServiceAccountTokens { issuer, resources: Arc::new(objects) };
        tokens.authenticate(&Credentials::token(&token, vec![])).await
    }

    #[tokio::test]
    async fn a_bound_token_tells_account_groups_pod_and_node() {
        let Authentication::User { user, audiences } = ask(objects(), claims()).await else { panic!("refused") };
        assert_eq!(user.name, "system:serviceaccount:team:robot");
        assert_eq!(user.uid, "sa-uid");
        assert_eq!(user.groups, ["system:serviceaccounts", "system:serviceaccounts:team"]);
        let extra: Vec<_> = user.extra.iter().map(|(k, v)| format!("{}={}", &k[EXTRA.len()..], v[0])).collect();
        assert_eq!(
            extra,
            ["credential-id=JTI=j-1", "node-name=node-a", "node-uid=node-uid", "pod-name=web", "pod-uid=pod-uid"]
        );
        assert_eq!(audiences, [ISSUER]);
    }

    #[tokio::test]
    async fn a_token_dies_with_what_it_is_bound_to() {
        let rejected = |answer: Authentication| match answer {
            Authentication::Rejected(why) => why,
            other => panic!("{other:?}"),
        };
        let without = |resource: &'static str| {
            let objects = objects();
            objects.remove("", resource);
            objects
        };
        assert_eq!(rejected(ask(without("pods"), claims()).await), "service account token has been invalidated");
        assert_eq!(rejected(ask(without("serviceaccounts"), claims()).await), "serviceaccounts \"robot\" not found");
        let mut other = claims();
        other.kubernetes.serviceaccount.uid = "older".into();
        assert_eq!(rejected(ask(objects(), other).await), "service account UID (sa-uid) does not match claim (older)");
        let mut other = claims();
        other.kubernetes.pod.as_mut().unwrap().uid = "older".into();
        assert_eq!(rejected(ask(objects(), other).await), "service account token has been invalidated");
    }

    #[tokio::test]
    async fn times_audience_and_signature_are_checked() {
        let rejected = |answer: Authentication| matches!(answer, Authentication::Rejected(_));
        let now = Utc::now().timestamp();
        assert!(rejected(ask(objects(), Claims { exp: now - 61, ..claims() }).await));
        assert!(rejected(ask(objects(), Claims { nbf: now + 120, ..claims() }).await));
        assert!(rejected(ask(objects(), Claims { aud: vec!["vault".into()], ..claims() }).await));
        let foreign = issuer().sign(claims()).unwrap();
        let tokens = ServiceAccountTokens { issuer: issuer(), resources: Arc::new(objects()) };
        assert!(rejected(tokens.authenticate(&Credentials::token(&foreign, vec![])).await));
        let unknown = tokens.authenticate(&Credentials::token("abcdef.0123456789abcdef", vec![])).await;
        assert_eq!(unknown, Authentication::Unknown);
    }

    #[tokio::test]
    async fn a_token_for_another_audience_is_good_for_who_asks_for_that_audience() {
        let issuer = issuer();
        let token = issuer.sign(Claims { aud: vec!["vault".into()], ..claims() }).unwrap();
        let tokens = ServiceAccountTokens { issuer, resources: Arc::new(objects()) };
        let asked = Credentials::token(&token, vec!["vault".into(), "other".into()]);
        let Authentication::User { audiences, .. } = tokens.authenticate(&asked).await else { panic!("refused") };
        assert_eq!(audiences, ["vault"]);
    }

    #[tokio::test]
    async fn a_token_of_a_secret_lives_as_long_as_its_secret() {
        let issuer = issuer();
        let claims = LegacyClaims {
            iss: LEGACY_ISSUER.into(),
            sub: username("team", "robot"),
            namespace: "team".into(),
            secret: "robot-token".into(),
            account: "robot".into(),
            uid: "sa-uid".into(),
        };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::ES256), &claims, &issuer.encoding).unwrap();
        let secret = |token: &str| json!({"metadata": {"name": "robot-token", "namespace": "team"}, "data": {"token": STANDARD.encode(token)}});
        let ask = |objects: Memory| {
            let tokens = ServiceAccountTokens { issuer: issuer.clone(), resources: Arc::new(objects) };
            let asked = Credentials::token(&token, vec![]);
            async move { tokens.authenticate(&asked).await }
        };
        let with = |stored: &str| {
            let objects = objects();
            objects.put("", "secrets", secret(stored));
            objects
        };
        let Authentication::User { user, .. } = ask(with(&token)).await else { panic!("refused") };
        assert_eq!(user.name, "system:serviceaccount:team:robot");
        assert_eq!(ask(with("another")).await, Authentication::Rejected("Token does not match server's copy".into()));
        assert_eq!(ask(objects()).await, Authentication::Rejected("Token has been invalidated".into()));
    }

    #[test]
    fn the_published_key_verifies_a_token() {
        let issuer = issuer();
        let token = issuer.sign(claims()).unwrap();
        let jwks: jsonwebtoken::jwk::JwkSet = serde_json::from_value(issuer.jwks()).unwrap();
        let header = jsonwebtoken::decode_header(&token).unwrap();
        let key = DecodingKey::from_jwk(jwks.find(&header.kid.unwrap()).unwrap()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.set_audience(&[ISSUER]);
        let read = jsonwebtoken::decode::<Claims>(&token, &key, &validation).unwrap().claims;
        assert_eq!(read.kubernetes, claims().kubernetes);
        assert_eq!(issuer.openid_configuration("https://x/openid/v1/jwks")["issuer"], ISSUER);
    }
}
