//! Starts every enabled loop over shared stores, and ends them together: cancel, drain, join.

use std::pin::Pin;
use std::sync::Arc;

use skeg_controller_runtime::lease::{Candidate, Election};
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
    let Some(identity) = config.leader_election_identity.clone() else {
        run_loops(config, stores, Arc::new(SystemClock), shutdown).await;
        return Ok(());
    };
    let clock = SystemClock;
    let election = Election::new("kube-controller-manager", &identity);
    let mut candidate = Candidate::new(stores.api().clone(), election, &clock);
    if !candidate.acquire(&shutdown).await {
        return Ok(());
    }
    let stop = shutdown.child_token();
    let loops = run_loops(config, stores, Arc::new(SystemClock), stop.clone());
    tokio::pin!(loops);
    tokio::select! {
        () = &mut loops => return Ok(()),
        () = candidate.hold(&shutdown) => stop.cancel(),
    }
    loops.await;
    if shutdown.is_cancelled() { Ok(()) } else { Err(Error::LeaseLost) }
}

/// Runs the enabled loops until `shutdown`; returns when the last has drained.
pub(crate) async fn run_loops(config: Config, stores: Arc<Stores>, clock: Arc<dyn Clock>, shutdown: CancellationToken) {
    let (events, sending) = Events::new(stores.api().clone(), clock.clone(), shutdown.clone());
    let context = Context { config: Arc::new(config), stores, clock, shutdown: shutdown.clone(), events };
    let mut tasks = JoinSet::new();
    tasks.spawn(sending);
    for (name, start) in STARTS {
        if context.config.enabled(name) {
            tasks.spawn(start(context.clone()));
        }
    }
    drop(context);
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "a controller failed");
        }
    }
}
