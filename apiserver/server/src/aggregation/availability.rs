//! Whether the servers behind APIServices answer: each is asked for its discovery document, and the Available condition
//! says what came of it (kube-aggregator/pkg/controllers/status/remote).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use futures::StreamExt;
use http::Request;
use http_body_util::{BodyExt, Limited};
use serde_json::{Value, json};
use skeg_machinery::gvk::GroupResource;
use skeg_machinery::meta;
use skeg_machinery::status::Status;
use tokio_util::sync::CancellationToken;

use super::{APISERVICES, Aggregation, Remote, proxy};
use crate::request::UserInfo;
use crate::resources::{Change, Resources, WriteOptions};
use crate::streaming::tunnel;

const SERVICES: GroupResource = GroupResource::from_static("", "services");
/// How often an answer is asked for again.
const AGAIN: Duration = Duration::from_secs(5);
const ANSWER: Duration = Duration::from_secs(5);
const MOST_DOCUMENT: usize = 4 * 1024 * 1024;

/// Follows APIServices and checks those with a service, until the shutdown.
pub async fn run(aggregation: Arc<Aggregation>, shutdown: CancellationToken) {
    let mut changes = aggregation.resources.follow(&APISERVICES);
    let mut services: BTreeMap<String, Value> = BTreeMap::new();
    let mut again = tokio::time::interval(AGAIN);
    loop {
        let change = tokio::select! {
            Some(change) = changes.next() => Some(change),
            _ = again.tick() => None,
            () = shutdown.cancelled() => return,
        };
        match change {
            Some(Change::Restart) => services.clear(),
            Some(Change::Applied(service)) => {
                let name = meta::name(&service).to_owned();
                let fresh = services.get(&name).is_none_or(|old| old["spec"] != service["spec"]);
                let remote = service["spec"]["service"].is_object();
                services.insert(name.clone(), service);
                if remote {
                    aggregation.take(&services);
                    if fresh {
                        check(&aggregation, &name).await;
                    }
                }
            }
            Some(Change::Deleted(service)) => {
                services.remove(meta::name(&service));
                aggregation.take(&services);
            }
            Some(Change::Synced) => aggregation.take(&services),
            None => {
                let names: Vec<String> = aggregation.remotes.load().iter().map(|remote| remote.name.clone()).collect();
                futures::future::join_all(names.iter().map(|name| check(&aggregation, name))).await;
            }
        }
    }
}

/// Asks one service and writes what came of it, where that is new.
async fn check(aggregation: &Aggregation, name: &str) {
    let remotes = aggregation.remotes.load_full();
    let Some(remote) = remotes.iter().find(|remote| remote.name == name) else { return };
    let result = probe(aggregation, remote).await;
    aggregation.remember(remote, result.as_ref().ok().cloned());
    let (status, reason, message) = match &result {
        Ok(_) => ("True", "Passed", "all checks passed".to_owned()),
        Err((reason, message)) => ("False", *reason, message.clone()),
    };
    if let Err(error) =
        write(&*aggregation.resources, name, |service| condition(service, status, reason, &message)).await
        && !error.is_not_found()
    {
        tracing::warn!(apiservice = name, why = error.message, "availability could not be written");
    }
}

/// Another's write may come between; the next round writes what these attempts could not.
const ATTEMPTS: usize = 5;

/// Writes a status where it changes, in the server's name.
async fn write(resources: &dyn Resources, name: &str, edit: impl Fn(&mut Value)) -> Result<(), Status> {
    let options = WriteOptions { dry_run: false, field_manager: "kube-apiserver".into() };
    let mut refused = Ok(());
    for _ in 0..ATTEMPTS {
        let found = resources.get(&APISERVICES, "", name).await?;
        let mut service = found.clone();
        edit(&mut service);
        if service == found {
            return Ok(());
        }
        match resources.update(&UserInfo::loopback(), &APISERVICES, "status", service, &options).await {
            Ok(_) => return Ok(()),
            Err(status) if status.code == 409 => refused = Err(status),
            Err(status) => return Err(status),
        }
    }
    refused
}

fn condition(service: &mut Value, status: &str, reason: &str, message: &str) {
    let now = chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    if !service["status"]["conditions"].is_array() {
        service["status"]["conditions"] = json!([]);
    }
    let Some(conditions) = service["status"]["conditions"].as_array_mut() else { return };
    let mut new =
        json!({"type": "Available", "status": status, "lastTransitionTime": now, "reason": reason, "message": message});
    match conditions.iter_mut().find(|condition| condition["type"] == "Available") {
        Some(old) => {
            if old["status"] == status {
                new["lastTransitionTime"] = old["lastTransitionTime"].clone();
            }
            *old = new;
        }
        None => conditions.push(new),
    }
}

type Unavailable = (&'static str, String);

/// The group version's APIResourceList.
async fn probe(aggregation: &Aggregation, remote: &Remote) -> Result<Value, Unavailable> {
    let (namespace, service) = (&remote.namespace, &remote.service);
    let found = aggregation.resources.get_cached(&SERVICES, namespace, service).await;
    let found = found.map_err(|status| {
        (
            "ServiceAccessError",
            format!("service/{service} in {namespace:?} cannot be checked due to: {}", status.message),
        )
    })?;
    let found =
        found.ok_or_else(|| ("ServiceNotFound", format!("service/{service} in {namespace:?} is not present")))?;
    let ports = found["spec"]["ports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let Some(port) = ports.iter().find(|port| port["port"].as_u64() == Some(remote.port.into())) else {
        let why = format!("service/{service} in {namespace:?} is not listening on port {}", remote.port);
        return Err(("ServicePortError", why));
    };
    if aggregation.resolver.endpoint(namespace, service, remote.port).await.is_err() {
        let name = port["name"].as_str().unwrap_or_default();
        let why =
            format!("endpointslices for service/{service} in {namespace:?} have no addresses with port name {name:?}");
        return Err(("MissingEndpoints", why));
    }
    let path = format!("/apis/{}/{}", remote.group, remote.version);
    let failed = |why: String| {
        let why =
            format!("failing or missing response from https://{service}.{namespace}.svc:{}{path}: {why}", remote.port);
        ("FailedDiscoveryCheck", why)
    };
    match tokio::time::timeout(ANSWER, document(aggregation, remote, &path)).await {
        Ok(result) => result.map_err(failed),
        Err(_) => Err(failed("context deadline exceeded".to_owned())),
    }
}

async fn document(aggregation: &Aggregation, remote: &Remote, path: &str) -> Result<Value, String> {
    let io = aggregation.connect(remote).await?;
    let mut request = Request::get(path)
        .header("host", format!("{}.{}.svc", remote.service, remote.namespace))
        .header("accept", "application/json")
        .body(Body::empty())
        .map_err(|error| error.to_string())?;
    let user = UserInfo {
        name: "system:kube-aggregator".into(),
        groups: vec!["system:masters".into()],
        ..UserInfo::default()
    };
    proxy::name_user(request.headers_mut(), &user);
    let answer = tunnel::send(io, request).await.map_err(|status| status.message)?;
    let code = answer.status();
    let body = Limited::new(answer.into_body(), MOST_DOCUMENT).collect().await.map_err(|error| error.to_string())?;
    if !code.is_success() {
        return Err(format!("bad status from the service: {}", code.as_u16()));
    }
    serde_json::from_slice(&body.to_bytes()).map_err(|error| error.to_string())
}
