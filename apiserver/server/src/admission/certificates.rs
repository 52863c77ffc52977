//! Certificate signing requests: who may approve and sign for which signer, and that nobody gets system:masters through
//! one (upstream plugin/pkg/admission/certificates).

use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use skeg_machinery::text::quote;
use x509_parser::prelude::FromDer;

use super::{Attributes, Operation, Plugin};
use crate::authz::{Authorizer, Decision};
use crate::pki::pem_blocks;
use crate::request::{RequestInfo, UserInfo};

const GROUP: &str = "certificates.k8s.io";
const REQUESTS: &str = "certificatesigningrequests";

/// CertificateApproval and CertificateSigning: `approve` and `sign` on the signer's name, or on `DOMAIN/*`.
pub struct CertificateAuthority {
    pub authorizer: Arc<dyn Authorizer>,
}

#[async_trait]
impl Plugin for CertificateAuthority {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    async fn validate(&self, attributes: &Attributes<'_>, request: Option<&Value>) -> Result<(), Status> {
        let (Some(request), Some(old)) = (request, attributes.old_object) else { return Ok(()) };
        if attributes.operation != Operation::Update || !attributes.is_any(GROUP, REQUESTS) {
            return Ok(());
        }
        let verb = match attributes.subresource {
            "approval" => "approve",
            "status" if request["status"]["certificate"] != old["status"]["certificate"] => "sign",
            "status" if failed(request) != failed(old) => "sign",
            _ => return Ok(()),
        };
        let signer = meta::str_at(old, &["spec", "signerName"]);
        if authorized(self.authorizer.as_ref(), attributes.user, verb, signer).await {
            return Ok(());
        }
        let why = format!("user not permitted to {verb} requests with signerName {}", quote(signer));
        Err(attributes.forbidden(Some(request), why))
    }
}

fn failed(request: &Value) -> bool {
    super::items(&request["status"], "conditions").any(|condition| condition["type"] == "Failed")
}

async fn authorized(authorizer: &dyn Authorizer, user: &UserInfo, verb: &str, signer: &str) -> bool {
    let domain = signer.split_once('/').map(|(domain, _)| format!("{domain}/*"));
    for name in std::iter::once(signer.to_owned()).chain(domain) {
        let request = RequestInfo {
            is_resource_request: true,
            verb: verb.into(),
            api_group: GROUP.into(),
            api_version: "*".into(),
            resource: "signers".into(),
            name,
            ..Default::default()
        };
        if matches!(authorizer.authorize(user, &request).await, Decision::Allow(_)) {
            return true;
        }
    }
    false
}

/// No client certificate of the API server's own signer may be in system:masters.
pub struct CertificateSubjectRestriction;

#[async_trait]
impl Plugin for CertificateSubjectRestriction {
    fn name(&self) -> &'static str {
        "CertificateSubjectRestriction"
    }

    async fn validate(&self, attributes: &Attributes<'_>, request: Option<&Value>) -> Result<(), Status> {
        let Some(request) =
            request.filter(|_| attributes.operation == Operation::Create && attributes.is(GROUP, REQUESTS))
        else {
            return Ok(());
        };
        if request["spec"]["signerName"] != "kubernetes.io/kube-apiserver-client" {
            return Ok(());
        }
        let pem = STANDARD.decode(meta::str_at(request, &["spec", "request"])).unwrap_or_default();
        let der =
            pem_blocks(&String::from_utf8_lossy(&pem), "CERTIFICATE REQUEST").into_iter().next().unwrap_or_default();
        let Ok((_, parsed)) = x509_parser::certification_request::X509CertificationRequest::from_der(&der) else {
            return Err(attributes.forbidden(Some(request), "failed to parse CSR"));
        };
        let subject = &parsed.certification_request_info.subject;
        if subject.iter_organization().any(|group| group.as_str() == Ok("system:masters")) {
            let why = "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed";
            return Err(attributes.forbidden(Some(request), why));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::Write;
    use super::*;
    use crate::authz::rbac::Rbac;
    use serde_json::json;

    #[tokio::test]
    async fn approving_takes_the_right_to_the_signer() {
        let rbac = Rbac::new();
        let role = json!({"metadata": {"name": "approver"}, "rules": [{"verbs": ["approve"], "apiGroups": [GROUP],
            "resources": ["signers"], "resourceNames": ["example.com/*"]}]});
        let binding = json!({"metadata": {"name": "b"}, "roleRef": {"kind": "ClusterRole", "name": "approver"},
            "subjects": [{"kind": "User", "name": "alice"}]});
        rbac.preload([("clusterroles", &role), ("clusterrolebindings", &binding)]);
        let plugin = CertificateAuthority { authorizer: rbac };
        for (user, signer, subresource, allowed) in [
            ("alice", "example.com/web", "approval", true),
            ("alice", "other.com/web", "approval", false),
            ("bob", "example.com/web", "approval", false),
            ("alice", "example.com/web", "status", false),
        ] {
            let old = json!({"metadata": {"name": "r"}, "spec": {"signerName": signer}});
            let mut new = old.clone();
            new["status"]["certificate"] = "abc".into();
            let write =
                Write::create(GROUP, "v1", REQUESTS, "", new).update(old).subresource(subresource).user(user, &[]);
            let answer = plugin.validate(&write.attributes(), Some(&write.object)).await;
            assert_eq!(answer.is_ok(), allowed, "{user} {signer} {subresource}");
        }
    }

    #[tokio::test]
    async fn nobody_asks_for_masters() {
        let ask = |group: &str| {
            let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
            let mut params = rcgen::CertificateParams::default();
            params.distinguished_name = rcgen::DistinguishedName::new();
            params.distinguished_name.push(rcgen::DnType::OrganizationName, group);
            let pem = params.serialize_request(&key).unwrap().pem().unwrap();
            let spec = json!({"signerName": "kubernetes.io/kube-apiserver-client", "request": STANDARD.encode(pem)});
            Write::create(GROUP, "v1", REQUESTS, "", json!({"metadata": {"name": "r"}, "spec": spec}))
        };
        let masters = ask("system:masters");
        assert_eq!(
            CertificateSubjectRestriction
                .validate(&masters.attributes(), Some(&masters.object))
                .await
                .unwrap_err()
                .code,
            403
        );
        let dev = ask("dev");
        CertificateSubjectRestriction.validate(&dev.attributes(), Some(&dev.object)).await.unwrap();
    }
}
