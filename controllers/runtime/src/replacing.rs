//! Replacing what may not be patched. Upstream's controllers write status, and most of their own objects, by PUT, and the
//! roles that it makes for their accounts allow no more; ours patch. Which resources that is so for is learnt from refusals.

use std::collections::HashSet;
use std::sync::Mutex;

use serde_json::Value;

use crate::api::{Api, Error};
use crate::resource::Resource;

/// How often an object that others write to is tried.
pub(crate) const TRIES: usize = 5;

/// What an account may not patch, and who reads what it replaces.
pub(crate) struct Replacing {
    reader: Api,
    refused: Mutex<HashSet<(String, String)>>,
}

impl Replacing {
    pub(crate) fn new(reader: kube::Client) -> Self {
        Self { reader: Api::new(reader), refused: Mutex::default() }
    }

    pub(crate) fn is_refused(&self, resource: &Resource, subresource: &str) -> bool {
        self.refused.lock().expect("nothing panics with it locked").contains(&key(resource, subresource))
    }

    pub(crate) fn refuse(&self, resource: &Resource, subresource: &str) {
        self.refused.lock().expect("nothing panics with it locked").insert(key(resource, subresource));
    }

    /// The object as it is now, with a merge patch applied. Read by listing, which the controllers' user may do everywhere.
    pub(crate) async fn merged(
        &self,
        resource: &Resource,
        namespace: &str,
        name: &str,
        patch: &Value,
    ) -> Result<Value, Error> {
        let query = format!("fieldSelector=metadata.name%3D{name}");
        let mut found: Vec<Value> = self.reader.list(resource, namespace, &query).await?;
        let Some(mut whole) = found.pop() else {
            // Says "not found" as every reader understands it.
            return self.reader.get(resource, namespace, name).await;
        };
        json_patch::merge(&mut whole, patch);
        Ok(whole)
    }
}

fn key(resource: &Resource, subresource: &str) -> (String, String) {
    (format!("{}/{}", resource.group, resource.plural), subresource.to_owned())
}

/// Whether nobody with these rights may patch it, whatever is in the patch.
pub(crate) fn is_refusal(error: &Error) -> bool {
    error.is_forbidden() && error.message().contains(" cannot patch resource ")
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use serde_json::json;

    use super::*;
    use crate::api::PatchKind;

    const JOBS: Resource = Resource::new("batch", "v1", "Job", "jobs", true);

    /// A server that lets nobody patch, and whose first PUT comes too late.
    fn server(requests: std::sync::Arc<Mutex<Vec<String>>>) -> kube::Client {
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let requests = requests.clone();
            async move {
                let line = format!("{} {}", request.method(), request.uri());
                let body = request.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
                let puts = {
                    let mut seen = requests.lock().unwrap();
                    seen.push(line.clone());
                    seen.iter().filter(|line| line.starts_with("PUT")).count()
                };
                let failure = |code: u16, reason: &str, message: &str| {
                    (
                        code,
                        json!({"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}),
                    )
                };
                let (code, answer) = match line.split(' ').next() {
                    Some("PATCH") => failure(403, "Forbidden", "User \"u\" cannot patch resource \"jobs/status\""),
                    Some("GET") => (
                        200,
                        json!({"metadata": {}, "items": [
                        {"metadata": {"name": "j", "resourceVersion": "7"}, "spec": {"a": 1}, "status": {"old": true}}]}),
                    ),
                    _ if puts == 1 => failure(409, "Conflict", "too late"),
                    _ => (200, serde_json::from_slice(&body).unwrap()),
                };
                let response = Response::builder().status(code).body(Full::from(answer.to_string())).unwrap();
                Ok::<_, Infallible>(response)
            }
        });
        kube::Client::new(service, "default")
    }

    #[tokio::test]
    async fn what_may_not_be_patched_is_replaced_and_tried_again() {
        let requests = std::sync::Arc::new(Mutex::new(Vec::new()));
        let client = server(requests.clone());
        let api = Api::of_account(client.clone(), client);
        let patch = json!({"status": {"old": null, "new": true}});
        let status = |patch: Value| {
            let api = api.clone();
            async move { api.patch::<Value>(&JOBS, "n", "j", "status", PatchKind::Merge, &patch).await }
        };
        let written = status(patch.clone()).await.unwrap();
        assert_eq!((&written["spec"]["a"], &written["status"]), (&json!(1), &json!({"new": true})));
        status(patch).await.unwrap();
        let methods: Vec<String> =
            requests.lock().unwrap().iter().map(|line| line.split(' ').next().unwrap().to_owned()).collect();
        assert_eq!(methods, ["PATCH", "GET", "PUT", "GET", "PUT", "GET", "PUT"]);
    }

    #[tokio::test]
    async fn a_version_that_is_asked_for_is_not_tried_again() {
        let client = server(std::sync::Arc::default());
        let api = Api::of_account(client.clone(), client);
        let patch = json!({"metadata": {"resourceVersion": "6"}, "status": {"new": true}});
        let late = api.patch::<Value>(&JOBS, "n", "j", "status", PatchKind::Merge, &patch).await;
        assert!(late.unwrap_err().is_conflict());
    }
}
