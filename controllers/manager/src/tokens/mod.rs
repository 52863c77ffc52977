//! Fills Secrets of type `kubernetes.io/service-account-token`, and removes those whose account is gone
//! (upstream: pkg/controller/serviceaccount/tokens_controller.go).

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use serde::Deserialize;
use serde_json::{Value, json};
use skeg_controller_runtime::objects::ServiceAccount;
use skeg_controller_runtime::{
    Controller, DeleteOptions, Error, Meta, Object, Outcome, Pairs, PatchKind, Resource, Store, Str, WorkQueue, key,
    run_controller,
};

use crate::context::Context;

const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// A token Secret; no other Secret is ever watched.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct TokenSecret {
    metadata: Meta,
    data: Pairs,
}

impl Object for TokenSecret {
    const RESOURCE: Resource = Resource::new("", "v1", "Secret", "secrets", true);
    const FIELDS: &'static str = "type=kubernetes.io/service-account-token";
    fn meta(&self) -> &Meta {
        &self.metadata
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Action {
    Keep,
    /// Its account is gone.
    Delete,
    Fill,
}

fn plan(secret: &TokenSecret, account: Option<&ServiceAccount>, root_ca: &str) -> Action {
    if secret.metadata.deleting() || secret.metadata.annotation(ACCOUNT).is_none() {
        return Action::Keep;
    }
    let wanted = secret.metadata.annotation(ACCOUNT_UID);
    let Some(account) = account.filter(|a| wanted.is_none_or(|uid| a.metadata.uid == *uid)) else {
        return Action::Delete;
    };
    let ca = root_ca.is_empty() || secret.data.get("ca.crt") == Some(&STANDARD.encode(root_ca));
    let whole = secret.data.get("token").is_some_and(|t| !t.is_empty()) && secret.data.contains_key("namespace");
    if whole && ca && wanted == Some(&account.metadata.uid) { Action::Keep } else { Action::Fill }
}

/// A token without an end, bound to its Secret.
fn token(issuer: &str, pem: &str, secret: &Meta, account: &Meta) -> Result<String, jsonwebtoken::errors::Error> {
    let (algorithm, key) = match EncodingKey::from_rsa_pem(pem.as_bytes()) {
        Ok(key) => (Algorithm::RS256, key),
        Err(_) => (Algorithm::ES256, EncodingKey::from_ec_pem(pem.as_bytes())?),
    };
    let claims = json!({
        "iss": issuer,
        "sub": format!("system:serviceaccount:{}:{}", account.namespace, account.name),
        "kubernetes.io/serviceaccount/namespace": account.namespace,
        "kubernetes.io/serviceaccount/secret.name": secret.name,
        "kubernetes.io/serviceaccount/service-account.name": account.name,
        "kubernetes.io/serviceaccount/service-account.uid": account.uid,
    });
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key)
}

struct Tokens {
    secrets: Arc<Store<TokenSecret>>,
    accounts: Arc<Store<ServiceAccount>>,
    issuer: String,
    pem: String,
    root_ca: String,
}

const BY_ACCOUNT: &str = "account";

pub(crate) async fn run(context: Context) {
    let Some(pem) = context.config.service_account_key_pem.clone() else { return };
    let queue = Arc::new(WorkQueue::new());
    let secrets = context.stores.get::<TokenSecret>();
    let accounts = context.stores.get::<ServiceAccount>();
    secrets.add_index(BY_ACCOUNT, |s| {
        let account = s.metadata.annotation(ACCOUNT);
        account.map(|a| key(&s.metadata.namespace, a)).into_iter().collect()
    });
    let line = queue.clone();
    secrets.subscribe(move |change| line.add(change.object().metadata.key()));
    let (line, known) = (queue.clone(), secrets.clone());
    accounts.subscribe(move |change| {
        for secret in known.by_index(BY_ACCOUNT, &change.object().metadata.key()) {
            line.add(secret.metadata.key());
        }
    });
    let controller = Tokens {
        secrets,
        accounts,
        issuer: context.config.service_account_issuer.clone(),
        pem,
        root_ca: context.config.root_ca_pem.clone(),
    };
    run_controller(Arc::new(controller), queue, 2, context.shutdown).await;
}

#[async_trait]
impl Controller for Tokens {
    type Key = Str;
    fn name(&self) -> &'static str {
        "serviceaccount-token-controller"
    }
    async fn synced(&self) {
        self.secrets.synced().await;
        self.accounts.synced().await;
    }
    async fn reconcile(&self, key: &Str) -> Result<Outcome, Error> {
        let Some(secret) = self.secrets.get(key) else { return Ok(Outcome::Done) };
        let meta = &secret.metadata;
        let name = meta.annotation(ACCOUNT).unwrap_or("");
        let mut account = self.accounts.find(&meta.namespace, name);
        if plan(&secret, account.as_deref(), &self.root_ca) == Action::Delete {
            // The watch may be late: ask before deleting.
            account = self.accounts.fetch(&meta.namespace, name).await?;
        }
        match (plan(&secret, account.as_deref(), &self.root_ca), account) {
            (Action::Delete, _) => self.secrets.delete(meta, &DeleteOptions::uid(&meta.uid)).await?,
            (Action::Fill, Some(account)) => {
                let body = self.filled(&secret, &account.metadata)?;
                self.secrets.patch(meta, "", PatchKind::Merge, &body).await?;
            }
            _ => {}
        }
        Ok(Outcome::Done)
    }
}

impl Tokens {
    fn filled(&self, secret: &TokenSecret, account: &Meta) -> Result<Value, Error> {
        let meta = &secret.metadata;
        let mut data = json!({"namespace": STANDARD.encode(meta.namespace.as_bytes())});
        if !self.root_ca.is_empty() {
            data["ca.crt"] = json!(STANDARD.encode(&self.root_ca));
        }
        if secret.data.get("token").is_none_or(str::is_empty) {
            let token = token(&self.issuer, &self.pem, meta, account)
                .map_err(|e| Error::Other(format!("sign a service account token: {e}")))?;
            data["token"] = json!(STANDARD.encode(token));
        }
        Ok(json!({"metadata": {"uid": meta.uid, "annotations": {ACCOUNT_UID: account.uid}}, "data": data}))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_secret_is_filled_once_and_goes_with_its_account() {
        let account: ServiceAccount = serde_json::from_value(json!({"metadata": {"name": "sa", "uid": "1"}})).unwrap();
        let secret = |annotations: Value, data: Value| -> TokenSecret {
            serde_json::from_value(json!({"metadata": {"name": "s", "annotations": annotations}, "data": data}))
                .unwrap()
        };
        let full = json!({"token": "dA==", "namespace": "bg=="});
        let ours = json!({ACCOUNT: "sa", ACCOUNT_UID: "1"});
        for (name, secret, account, expected) in [
            ("all good: do nothing", secret(ours.clone(), full.clone()), Some(&account), Action::Keep),
            ("empty: fill", secret(json!({ACCOUNT: "sa"}), json!({})), Some(&account), Action::Fill),
            ("account gone: delete", secret(ours, full.clone()), None, Action::Delete),
            (
                "another account of that name: delete",
                secret(json!({ACCOUNT: "sa", ACCOUNT_UID: "0"}), full),
                Some(&account),
                Action::Delete,
            ),
            ("names no account: leave", secret(json!({}), json!({})), None, Action::Keep),
        ] {
            assert_eq!(plan(&secret, account, ""), expected, "{name}");
        }
    }

    #[test]
    fn a_token_names_its_account() {
        let key = rcgen::KeyPair::generate().unwrap().serialize_pem();
        let meta = |name: &str| -> Meta {
            serde_json::from_value(json!({"name": name, "namespace": "n", "uid": "u"})).unwrap()
        };
        let token = token("kubernetes/serviceaccount", &key, &meta("s"), &meta("sa")).unwrap();
        let claims = token.split('.').nth(1).unwrap();
        let claims = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims).unwrap();
        let claims: Value = serde_json::from_slice(&claims).unwrap();
        assert_eq!(claims["sub"], "system:serviceaccount:n:sa");
    }
}
