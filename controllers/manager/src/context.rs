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
    ($($name:literal, $account:expr => $start:path),* $(,)?) => {
        pub(crate) const NAMES: &[&str] = &[$($name),*];
        const STARTS: &[(&str, Option<&str>, Start)] = &[$(($name, $account, |context| Box::pin($start(context)))),*];
    };
}

// Name; the account in kube-system to whose name upstream's bootstrap roles are bound (`system:controller:…`): loops that upstream
// does not have, and those that it runs as kube-controller-manager itself, have none; and the loop.
controllers! {
    "namespace-controller", Some("namespace-controller") => crate::namespace::run,
    "serviceaccount-controller", Some("service-account-controller") => crate::serviceaccount::run,
    "serviceaccount-token-controller", None => crate::tokens::run,
    "root-ca-certificate-publisher-controller", Some("root-ca-cert-publisher") => crate::rootca::run,
    "replicaset-controller", Some("replicaset-controller") => crate::replicaset::run,
    "replicationcontroller-controller", Some("replication-controller") => crate::replicaset::run_replication,
    "deployment-controller", Some("deployment-controller") => crate::deployment::run,
    "endpoints-controller", Some("endpoint-controller") => crate::endpoints::run,
    "endpointslice-controller", Some("endpointslice-controller") => crate::endpointslice::run,
    "endpointslice-mirroring-controller", Some("endpointslicemirroring-controller") => crate::endpointslicemirroring::run,
    "service-cidr-controller", Some("service-cidrs-controller") => crate::servicecidrs::run,
    "node-ipam-controller", Some("node-controller") => crate::nodeipam::run,
    "node-lifecycle-controller", Some("node-controller") => crate::nodelifecycle::run,
    "ttl-controller", Some("ttl-controller") => crate::ttl::run,
    "taint-eviction-controller", Some("node-controller") => crate::tainteviction::run,
    "garbage-collector-controller", Some("generic-garbage-collector") => crate::garbagecollector::run,
    "daemonset-controller", Some("daemon-set-controller") => crate::daemonset::run,
    "statefulset-controller", Some("statefulset-controller") => crate::statefulset::run,
    "job-controller", Some("job-controller") => crate::job::run,
    "cronjob-controller", Some("cronjob-controller") => crate::cronjob::run,
    "ttl-after-finished-controller", Some("ttl-after-finished-controller") => crate::ttlafterfinished::run,
    "persistentvolume-binder-controller", Some("persistent-volume-binder") => crate::persistentvolume::run,
    "persistentvolumeclaim-protection-controller", Some("pvc-protection-controller") => crate::storageprotection::run_claims,
    "persistentvolume-protection-controller", Some("pv-protection-controller") => crate::storageprotection::run_volumes,
    "volumeattributesclass-protection-controller", Some("volumeattributesclass-protection-controller") => crate::storageprotection::run_classes,
    "ephemeral-volume-controller", Some("ephemeral-volume-controller") => crate::ephemeralvolume::run,
    "local-path-provisioner-controller", None => crate::localpath::run,
    "horizontal-pod-autoscaler-controller", Some("horizontal-pod-autoscaler") => crate::horizontalpodautoscaler::run,
    "clusterrole-aggregation-controller", Some("clusterrole-aggregation-controller") => crate::clusterroleaggregation::run,
    "resourcequota-controller", Some("resourcequota-controller") => crate::resourcequota::run,
    "disruption-controller", Some("disruption-controller") => crate::disruption::run,
    "pod-garbage-collector-controller", Some("pod-garbage-collector") => crate::podgc::run,
    "certificatesigningrequest-approving-controller", Some("certificate-controller") => crate::certificates::run_approver,
    "certificatesigningrequest-signing-controller", Some("certificate-controller") => crate::certificates::run_signer,
    "certificatesigningrequest-cleaner-controller", Some("certificate-controller") => crate::certificates::run_cleaner,
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
    for (name, account, start) in STARTS {
        if context.config.enabled(name) {
            tasks.spawn(start(context.acting_as(*account)));
        }
    }
    drop(context);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller failed");
        }
    }
}
