//! The Rust client library against a cluster; ../README.md tells what each of these programs does. Owns the order of the
//! parts and the namespace of a run; the parts themselves are in the modules.

mod objects;
mod pods;
mod watches;

use std::fmt::Debug;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use futures::future::BoxFuture;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::api::{DeleteParams, PostParams};
use kube::{Api, Client};
use serde_json::{Value, json};

const IMAGE: &str = "registry.k8s.io/e2e-test-images/agnhost:2.63.0";
const DEADLINE: Duration = Duration::from_secs(60);

/// What every part is given.
#[derive(Clone)]
pub struct Cluster {
    client: Client,
    namespace: String,
}

impl Cluster {
    fn config_maps(&self) -> Api<ConfigMap> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }
}

type Part = fn(Cluster) -> BoxFuture<'static, Result<()>>;

const PARTS: [(&str, Part); 10] = [
    ("discovery", |cluster| Box::pin(objects::discovery(cluster))),
    ("crud", |cluster| Box::pin(objects::crud(cluster))),
    ("dynamic", |cluster| Box::pin(objects::dynamic(cluster))),
    ("apply", |cluster| Box::pin(objects::applying(cluster))),
    ("custom resource", |cluster| Box::pin(objects::custom_resource(cluster))),
    ("watch", |cluster| Box::pin(watches::watching(cluster))),
    ("reflector", |cluster| Box::pin(watches::reflecting(cluster))),
    ("exec", |cluster| Box::pin(pods::executing(cluster))),
    ("port-forward", |cluster| Box::pin(pods::forwarding(cluster))),
    ("logs", |cluster| Box::pin(pods::logs(cluster))),
];

#[tokio::main]
async fn main() -> ExitCode {
    match work().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("kube-rs: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn work() -> Result<()> {
    let begun = Instant::now();
    let client = Client::try_default().await?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let cluster = Cluster { client: client.clone(), namespace: format!("client-kube-rs-{}", &id[..6]) };
    let namespaces: Api<Namespace> = Api::all(client);
    let namespace = serde_json::from_value(json!({"metadata": {"name": cluster.namespace}}))?;
    namespaces.create(&PostParams::default(), &namespace).await?;
    let result = run(&cluster).await;
    namespaces.delete(&cluster.namespace, &DeleteParams::default()).await?;
    result?;
    println!("{} parts passed in {:.1} s", PARTS.len(), begun.elapsed().as_secs_f32());
    Ok(())
}

async fn run(cluster: &Cluster) -> Result<()> {
    for (name, part) in PARTS {
        let done = tokio::time::timeout(2 * DEADLINE, part(cluster.clone())).await;
        done.with_context(|| format!("{name}: not done in time"))?.context(name)?;
        println!("ok {name}");
    }
    Ok(())
}

/// An error when the two differ.
fn expect<T: PartialEq + Debug>(what: &str, got: T, wanted: T) -> Result<()> {
    ensure!(got == wanted, "{what}: got {got:?}, expected {wanted:?}");
    Ok(())
}

/// The server said no with this code and reason.
fn refused<T: Debug>(what: &str, result: kube::Result<T>, code: u16, reason: &str) -> Result<()> {
    match result {
        Err(kube::Error::Api(status)) => {
            expect(what, (status.code, status.reason.as_str()), (code, reason)).context(status.message)
        }
        other => bail!("{what}: got {other:?}, expected {code} {reason}"),
    }
}

fn config_map(name: &str, data: Value, kind: &str) -> Result<ConfigMap> {
    Ok(serde_json::from_value(json!({"metadata": {"name": name, "labels": {"kind": kind}}, "data": data}))?)
}

fn data(map: &ConfigMap) -> Value {
    json!(map.data)
}
