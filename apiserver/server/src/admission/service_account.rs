//! ServiceAccount: every pod has one, its token is mounted, its pull secrets are used (upstream
//! plugin/pkg/admission/serviceaccount).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;

use super::{Attributes, Operation, Plugin, items, items_mut, list_mut};
use crate::resources::Resources;

const ACCOUNTS: GroupResource = GroupResource::from_static("", "serviceaccounts");
const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
const ENFORCE_MOUNTABLE: &str = "kubernetes.io/enforce-mountable-secrets";
const SUFFIX_LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Tells the token service that the kubelet asked for the default: it warns instead of failing after this many seconds.
pub const DEFAULT_TOKEN_SECONDS: i64 = 3607;

pub struct ServiceAccount {
    pub resources: Arc<dyn Resources>,
}

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    async fn mutate(&self, attributes: &Attributes<'_>, pod: &mut Value) -> Result<(), Status> {
        if !attributes.is("", "pods") || attributes.operation != Operation::Create || is_mirror(pod) {
            return Ok(());
        }
        if meta::str_at(pod, &["spec", "serviceAccountName"]).is_empty() {
            pod["spec"]["serviceAccountName"] = "default".into();
        }
        // The deprecated field says the same, as defaulting makes it.
        pod["spec"]["serviceAccount"] = pod["spec"]["serviceAccountName"].clone();
        let account = self.account(attributes, pod).await?;
        if automounts(&account, pod) {
            mount_token(pod);
        }
        if items(&pod["spec"], "imagePullSecrets").next().is_none() {
            let secrets: Vec<Value> =
                items(&account, "imagePullSecrets").map(|secret| json!({ "name": secret["name"] })).collect();
            if !secrets.is_empty() {
                pod["spec"]["imagePullSecrets"] = secrets.into();
            }
        }
        Ok(())
    }

    async fn validate(&self, attributes: &Attributes<'_>, pod: Option<&Value>) -> Result<(), Status> {
        let (Some(pod), true) = (pod, attributes.is_any("", "pods")) else { return Ok(()) };
        let ephemeral = attributes.operation == Operation::Update && attributes.subresource == "ephemeralcontainers";
        if !ephemeral && (attributes.operation != Operation::Create || !attributes.subresource.is_empty()) {
            return Ok(());
        }
        if !ephemeral && is_mirror(pod) {
            return mirror_is_bare(pod).map_err(|why| attributes.forbidden(Some(pod), why));
        }
        let account = self.account(attributes, pod).await?;
        let enforced = meta::annotation(&account, ENFORCE_MOUNTABLE);
        if !enforced.is_some_and(|value| matches!(value, "1" | "t" | "T" | "TRUE" | "true" | "True")) {
            return Ok(());
        }
        let lists: &[(&str, &str)] = if ephemeral {
            &[("ephemeralContainers", "ephemeral container")]
        } else {
            &[("initContainers", "init container"), ("containers", "container")]
        };
        mountable(&account, pod, lists, !ephemeral).map_err(|why| attributes.forbidden(Some(pod), why))
    }
}

impl ServiceAccount {
    /// The pod's account. `default` is waited for a little: a controller makes it right after the namespace.
    async fn account(&self, attributes: &Attributes<'_>, pod: &Value) -> Result<Arc<Value>, Status> {
        let (namespace, name) = (attributes.namespace, meta::str_at(pod, &["spec", "serviceAccountName"]));
        if name.is_empty() {
            let why = format!("no service account specified for pod {namespace}/{}", meta::name(pod));
            return Err(attributes.forbidden(Some(pod), why));
        }
        if let Some(account) = self.resources.get_cached(&ACCOUNTS, namespace, name).await? {
            return Ok(account);
        }
        let attempts = if name == "default" { 20 } else { 1 };
        for attempt in 0..attempts {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(50 + rand::random_range(0..50))).await;
            }
            match self.resources.get(&ACCOUNTS, namespace, name).await {
                Ok(account) => return Ok(Arc::new(account)),
                Err(status) if status.is_not_found() => {}
                Err(status) => return Err(status),
            }
        }
        let why = format!("error looking up service account {namespace}/{name}: serviceaccount \"{name}\" not found");
        Err(attributes.forbidden(Some(pod), why))
    }
}

fn is_mirror(pod: &Value) -> bool {
    meta::annotation(pod, "kubernetes.io/config.mirror").is_some()
}

fn automounts(account: &Value, pod: &Value) -> bool {
    let wish = pod["spec"]["automountServiceAccountToken"].as_bool();
    wish.or(account["automountServiceAccountToken"].as_bool()).unwrap_or(true)
}

fn mount_token(pod: &mut Value) {
    let existing = items(&pod["spec"], "volumes").filter_map(|v| v["name"].as_str());
    let existing = existing.into_iter().find(|name| name.starts_with(VOLUME_PREFIX)).map(str::to_owned);
    let has_volume = existing.is_some();
    let volume = existing.unwrap_or_else(|| {
        let letter = |_| SUFFIX_LETTERS[rand::random_range(0..SUFFIX_LETTERS.len())] as char;
        (0..5).fold(VOLUME_PREFIX.to_owned(), |mut name, i| {
            name.push(letter(i));
            name
        })
    });
    let mut needed = false;
    for list in ["initContainers", "containers"] {
        for container in items_mut(&mut pod["spec"], list) {
            if items(container, "volumeMounts").any(|mount| mount["mountPath"] == TOKEN_PATH) {
                continue;
            }
            let mount = json!({ "name": volume, "readOnly": true, "mountPath": TOKEN_PATH });
            list_mut(container, "volumeMounts").push(mount);
            needed = true;
        }
    }
    if needed && !has_volume {
        let projected = json!({
            "defaultMode": 0o644,
            "sources": [
                { "serviceAccountToken": { "expirationSeconds": DEFAULT_TOKEN_SECONDS, "path": "token" } },
                { "configMap": { "name": "kube-root-ca.crt", "items": [{ "key": "ca.crt", "path": "ca.crt" }] } },
                { "downwardAPI": { "items": [{
                    "path": "namespace",
                    "fieldRef": { "apiVersion": "v1", "fieldPath": "metadata.namespace" },
                }] } },
            ],
        });
        list_mut(&mut pod["spec"], "volumes").push(json!({ "name": volume, "projected": projected }));
    }
}

/// A mirror pod was written by a node: it must not reach for anything.
fn mirror_is_bare(pod: &Value) -> Result<(), String> {
    if !meta::str_at(pod, &["spec", "serviceAccountName"]).is_empty() {
        return Err("a mirror pod may not reference service accounts".into());
    }
    let spec = &pod["spec"];
    let containers = ["initContainers", "containers", "ephemeralContainers"];
    let in_env = containers.iter().flat_map(|list| items(spec, list)).any(|container| {
        items(container, "envFrom").any(|from| !from["secretRef"].is_null())
            || items(container, "env").any(|env| !env["valueFrom"]["secretKeyRef"].is_null())
    });
    let in_volumes = items(spec, "volumes").any(|volume| {
        !volume["secret"].is_null() || items(&volume["projected"], "sources").any(|source| !source["secret"].is_null())
    });
    if in_env || in_volumes || items(spec, "imagePullSecrets").next().is_some() {
        return Err("a mirror pod may not reference secrets".into());
    }
    let tokens = items(spec, "volumes")
        .any(|v| items(&v["projected"], "sources").any(|source| !source["serviceAccountToken"].is_null()));
    if tokens {
        return Err("a mirror pod may not use ServiceAccountToken volume projections".into());
    }
    Ok(())
}

/// Whether every secret of the pod is one that its account lists.
fn mountable(account: &Value, pod: &Value, lists: &[(&str, &str)], whole: bool) -> Result<(), String> {
    let name = meta::name(account);
    let listed = |field: &str, secret: &Value| items(account, field).any(|s| s["name"] == *secret);
    let refused = |what: String| {
        Err(format!("{what} is not allowed because service account {name} does not reference that secret"))
    };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if whole {
        for secret in items(&pod["spec"], "volumes").map(|v| &v["secret"]["secretName"]).filter(|s| s.is_string()) {
            if !listed("secrets", secret) {
                return refused(format!("volume with secret.secretName=\"{}\"", text(secret)));
            }
        }
    }
    for (list, what) in lists {
        for container in items(&pod["spec"], list) {
            let container_name = text(&container["name"]);
            for env in items(container, "env") {
                let secret = &env["valueFrom"]["secretKeyRef"]["name"];
                if secret.is_string() && !listed("secrets", secret) {
                    return refused(format!(
                        "{what} {container_name} with envVar {} referencing secret.secretName=\"{}\"",
                        text(&env["name"]),
                        text(secret)
                    ));
                }
            }
            for from in items(container, "envFrom") {
                let secret = &from["secretRef"]["name"];
                if secret.is_string() && !listed("secrets", secret) {
                    let secret = text(secret);
                    return refused(format!(
                        "{what} {container_name} with envFrom referencing secret.secretName=\"{secret}\""
                    ));
                }
            }
        }
    }
    for (i, secret) in items(&pod["spec"], "imagePullSecrets").enumerate().filter(|_| whole) {
        if !listed("imagePullSecrets", &secret["name"]) {
            return Err(format!(
                "imagePullSecrets[{i}].name=\"{}\" is not allowed because service account {name} does not reference \
                 that imagePullSecret",
                text(&secret["name"])
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::fake::{Memory, Write};
    use super::*;

    fn plugin(account: Value) -> ServiceAccount {
        ServiceAccount { resources: Arc::new(Memory::with(vec![("", "serviceaccounts", account)])) }
    }

    fn account() -> Value {
        json!({"metadata": {"namespace": "team", "name": "default"}, "imagePullSecrets": [{"name": "pull"}]})
    }

    async fn admit(account: Value, pod: Value) -> Result<Value, Status> {
        let mut write = Write::pod("team", pod);
        let plugin = plugin(account);
        let mut object = std::mem::take(&mut write.object);
        plugin.mutate(&write.attributes(), &mut object).await?;
        plugin.validate(&write.attributes(), Some(&object)).await?;
        Ok(object)
    }

    fn pod() -> Value {
        json!({"kind": "Pod", "metadata": {"name": "web"}, "spec": {"containers": [{"name": "c"}], "initContainers": [{"name": "i"}]}})
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_its_token_and_pull_secrets() {
        let pod = admit(account(), pod()).await.unwrap();
        let spec = &pod["spec"];
        assert_eq!((&spec["serviceAccountName"], &spec["serviceAccount"]), (&json!("default"), &json!("default")));
        let volume = spec["volumes"][0]["name"].as_str().unwrap();
        assert!(volume.starts_with("kube-api-access-") && volume.len() == VOLUME_PREFIX.len() + 5);
        for list in ["containers", "initContainers"] {
            let mount = json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH});
            assert_eq!(spec[list][0]["volumeMounts"], json!([mount]));
        }
        assert_eq!(spec["volumes"][0]["projected"]["defaultMode"], 420);
        assert_eq!(spec["volumes"][0]["projected"]["sources"][0]["serviceAccountToken"]["expirationSeconds"], 3607);
        assert_eq!(spec["imagePullSecrets"], json!([{"name": "pull"}]));
    }

    #[tokio::test]
    async fn who_does_not_want_a_token_gets_none() {
        let mut unwilling = pod();
        unwilling["spec"]["automountServiceAccountToken"] = false.into();
        assert!(admit(account(), unwilling).await.unwrap()["spec"]["volumes"].is_null());
        let mut account = account();
        account["automountServiceAccountToken"] = false.into();
        assert!(admit(account.clone(), pod()).await.unwrap()["spec"]["volumes"].is_null());
        let mut willing = pod();
        willing["spec"]["automountServiceAccountToken"] = true.into();
        assert!(!admit(account, willing).await.unwrap()["spec"]["volumes"].is_null());
    }

    #[tokio::test]
    async fn a_container_that_mounts_there_itself_is_left_alone() {
        let mut own = pod();
        own["spec"]["containers"][0]["volumeMounts"] = json!([{"name": "mine", "mountPath": TOKEN_PATH}]);
        own["spec"]["initContainers"] = json!([]);
        let pod = admit(account(), own).await.unwrap();
        assert!(pod["spec"]["volumes"].is_null());
    }

    #[tokio::test]
    async fn an_account_that_is_not_there_refuses_the_pod() {
        let mut other = pod();
        other["spec"]["serviceAccountName"] = "ghost".into();
        let refused = admit(account(), other).await.unwrap_err();
        assert_eq!(
            refused.message,
            "pods \"web\" is forbidden: error looking up service account team/ghost: serviceaccount \"ghost\" not found"
        );
    }

    #[tokio::test]
    async fn a_mirror_pod_reaches_for_nothing() {
        let mut mirror = pod();
        mirror["metadata"]["annotations"] = json!({"kubernetes.io/config.mirror": "x"});
        admit(account(), mirror.clone()).await.unwrap();
        mirror["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "s"}}]);
        assert!(
            admit(account(), mirror).await.unwrap_err().message.ends_with("a mirror pod may not reference secrets")
        );
    }

    #[tokio::test]
    async fn an_enforcing_account_limits_secrets() {
        let mut strict = account();
        strict["metadata"]["annotations"] = json!({ENFORCE_MOUNTABLE: "true"});
        strict["secrets"] = json!([{"name": "ok"}]);
        let mut using = pod();
        using["spec"]["volumes"] = json!([{"name": "v", "secret": {"secretName": "ok"}}]);
        admit(strict.clone(), using.clone()).await.unwrap();
        using["spec"]["volumes"][0]["secret"]["secretName"] = "other".into();
        assert!(admit(strict, using).await.unwrap_err().message.contains("secret.secretName=\"other\" is not allowed"));
    }
}
