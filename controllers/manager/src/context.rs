//! Starts every enabled loop over shared stores, and ends them together: cancel, drain, join.

use std::pin::Pin;
use std::sync::Arc;

use skeg_controller_runtime::lease::lead;
use skeg_controller_runtime::{Clock, EventRecorder, Events, Stores, SystemClock};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::Config;

/// Why the controllers could not run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("unknown controller {0:?} in --controllers")]
    UnknownController(String),
    #[error("the signing authority cannot be used")]
    Signing(#[source] rcgen::Error),
    #[error("the leader lease was lost")]
    LeaseLost,
}

/// What every loop is given.
#[derive(Clone)]
pub struct Context {
    pub config: Arc<Config>,
    pub stores: Arc<Stores>,
    pub clock: Arc<dyn Clock>,
    pub shutdown: CancellationToken,
    events: Arc<Events>,
}

impl Context {
    /// Events in the name of `component`.
    pub fn recorder(&self, component: &'static str) -> EventRecorder {
        self.events.recorder(component)
    }

    /// The same, with requests made as the service account, where loops have accounts and this one has its own.
    fn acting_as(&self, account: Option<&str>) -> Context {
        let mut context = self.clone();
        if let (Some(accounts), Some(account)) = (&self.config.accounts, account) {
            context.stores = self.stores.acting_as(accounts.client(account));
        }
        context
    }
}

type Running = Pin<Box<dyn Future<Output = ()> + Send>>;
type Start = fn(Context) -> Running;

macro_rules! controllers {
    ($($name:literal => $start:path),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$($name),*];
        const STARTS: &[(&str, Start)] = &[$(($name, |context| Box::pin($start(context)))),*];
    };
}

controllers! {
    "namespace-controller" => crate::namespace::run,
    "serviceaccount-controller" => crate::serviceaccount::run,
    "serviceaccount-token-controller" => crate::tokens::run,
    "root-ca-certificate-publisher-controller" => crate::rootca::run,
    "replicaset-controller" => crate::replicaset::run,
    "replicationcontroller-controller" => crate::replicaset::run_replication,
    "deployment-controller" => crate::deployment::run,
    "endpoints-controller" => crate::endpoints::run,
    "endpointslice-controller" => crate::endpointslice::run,
    "endpointslice-mirroring-controller" => crate::endpointslicemirroring::run,
    "service-cidr-controller" => crate::servicecidrs::run,
    "node-ipam-controller" => crate::nodeipam::run,
    "node-lifecycle-controller" => crate::nodelifecycle::run,
    "taint-eviction-controller" => crate::tainteviction::run,
    "garbage-collector-controller" => crate::garbagecollector::run,
    "daemonset-controller" => crate::daemonset::run,
    "statefulset-controller" => crate::statefulset::run,
    "job-controller" => crate::job::run,
    "cronjob-controller" => crate::cronjob::run,
    "ttl-after-finished-controller" => crate::ttlafterfinished::run,
    "persistentvolume-binder-controller" => crate::persistentvolume::run,
    "persistentvolumeclaim-protection-controller" => crate::storageprotection::run_claims,
    "persistentvolume-protection-controller" => crate::storageprotection::run_volumes,
    "volumeattributesclass-protection-controller" => crate::storageprotection::run_classes,
    "ephemeral-volume-controller" => crate::ephemeralvolume::run,
    "local-path-provisioner-controller" => crate::localpath::run,
    "horizontal-pod-autoscaler-controller" => crate::horizontalpodautoscaler::run,
    "clusterrole-aggregation-controller" => crate::clusterroleaggregation::run,
    "resourcequota-controller" => crate::resourcequota::run,
    "disruption-controller" => crate::disruption::run,
    "pod-garbage-collector-controller" => crate::podgc::run,
    "certificatesigningrequest-approving-controller" => crate::certificates::run_approver,
    "certificatesigningrequest-signing-controller" => crate::certificates::run_signer,
    "certificatesigningrequest-cleaner-controller" => crate::certificates::run_cleaner,
}

/// The account in kube-system to whose name upstream's bootstrap roles are bound (`system:controller:…`); loops that upstream
/// does not have, and those that it runs as kube-controller-manager itself, have none.
fn account(controller: &str) -> Option<&'static str> {
    Some(match controller {
        "namespace-controller" => "namespace-controller",
        "serviceaccount-controller" => "service-account-controller",
        "root-ca-certificate-publisher-controller" => "root-ca-cert-publisher",
        "replicaset-controller" => "replicaset-controller",
        "replicationcontroller-controller" => "replication-controller",
        "deployment-controller" => "deployment-controller",
        "endpoints-controller" => "endpoint-controller",
        "endpointslice-controller" => "endpointslice-controller",
        "endpointslice-mirroring-controller" => "endpointslicemirroring-controller",
        "service-cidr-controller" => "service-cidrs-controller",
        "node-ipam-controller" | "node-lifecycle-controller" | "taint-eviction-controller" => "node-controller",
        "garbage-collector-controller" => "generic-garbage-collector",
        "daemonset-controller" => "daemon-set-controller",
        "statefulset-controller" => "statefulset-controller",
        "job-controller" => "job-controller",
        "cronjob-controller" => "cronjob-controller",
        "ttl-after-finished-controller" => "ttl-after-finished-controller",
        "persistentvolume-binder-controller" => "persistent-volume-binder",
        "persistentvolumeclaim-protection-controller" => "pvc-protection-controller",
        "persistentvolume-protection-controller" => "pv-protection-controller",
        "volumeattributesclass-protection-controller" => "volumeattributesclass-protection-controller",
        "ephemeral-volume-controller" => "ephemeral-volume-controller",
        "horizontal-pod-autoscaler-controller" => "horizontal-pod-autoscaler",
        "clusterrole-aggregation-controller" => "clusterrole-aggregation-controller",
        "resourcequota-controller" => "resourcequota-controller",
        "disruption-controller" => "disruption-controller",
        "pod-garbage-collector-controller" => "pod-garbage-collector",
        name if name.starts_with("certificatesigningrequest-") => "certificate-controller",
        _ => return None,
    })
}

/// Runs the controllers until `shutdown`, with stores of their own.
pub async fn run(config: Config, client: kube::Client, shutdown: CancellationToken) -> Result<(), Error> {
    let stop = shutdown.child_token();
    let stores = Stores::new(client, stop.clone());
    let outcome = run_with(config, stores.clone(), shutdown).await;
    stop.cancel();
    stores.join().await;
    outcome
}

/// Runs the controllers until `shutdown` over stores that others in the process use too.
pub async fn run_with(config: Config, stores: Arc<Stores>, shutdown: CancellationToken) -> Result<(), Error> {
    for entry in &config.controllers {
        let name = entry.strip_prefix('-').unwrap_or(entry);
        if name != "*" && !NAMES.contains(&name) {
            return Err(Error::UnknownController(name.to_owned()));
        }
    }
    if let Some(signing) = &config.signing {
        crate::certificates::check(signing).map_err(Error::Signing)?;
    }
    let Some(election) = config.election.clone() else {
        run_loops(config, stores, Arc::new(SystemClock), shutdown).await;
        return Ok(());
    };
    let api = stores.api().clone();
    let loops = |stop| run_loops(config, stores, Arc::new(SystemClock), stop);
    if lead(api, election, &SystemClock, &shutdown, loops).await { Ok(()) } else { Err(Error::LeaseLost) }
}

/// Runs the enabled loops until `shutdown`; returns when the last has drained.
pub(crate) async fn run_loops(config: Config, stores: Arc<Stores>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let (events, sending) = Events::new(stores.api().clone(), clock.clone(), shutdown.clone());
    let context = Context { config: Arc::new(config), stores, clock, shutdown: shutdown.clone(), events };
    let mut tasks = JoinSet::new();
    tasks.spawn(sending);
    for (name, start) in STARTS {
        if context.config.enabled(name) {
            tasks.spawn(start(context.acting_as(account(name))));
        }
    }
    drop(context);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller failed");
        }
    }
}
