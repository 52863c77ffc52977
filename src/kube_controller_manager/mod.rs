//! `skeg kube-controller-manager`: the controllers alone, with kube-controller-manager's flags, so that they can stand where
//! that one stands.
//!
//! ```text
//! flags ─> options (files read, values checked) ─> the controllers, as one user or each with an account of its own (accounts)
//! ```

mod accounts;
mod names;
mod options;

use std::sync::Arc;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::accounts::ServiceAccounts;
use crate::component::flags::{BOOL, COMMON, Flag, Flags, Given, Honoured, Only, Tunes, VALUE};
use crate::component::{Component, LOOPS, client_config, serve_health};

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// The component.
pub const COMPONENT: Component = Component {
    name: NAME,
    about: "Runs the controllers of a cluster, as kube-controller-manager does.",
    flags: FLAGS,
    run: |given, shutdown| Box::pin(run(given, shutdown)),
};

const FLAGS: Flags = &[COMMON, LOOPS, OWN];

#[rustfmt::skip]
const OWN: &[Flag] = &[
    ("allocate-node-cidrs", BOOL, Honoured),
    ("cidr-allocator-type", VALUE, Only("RangeAllocator")),
    ("cloud-provider", VALUE, Only("external")),
    ("cluster-cidr", VALUE, Honoured),
    ("cluster-name", VALUE, Tunes),
    ("cluster-signing-cert-file", VALUE, Honoured),
    ("cluster-signing-duration", VALUE, Honoured),
    ("cluster-signing-key-file", VALUE, Honoured),
    ("concurrent-cron-job-syncs", VALUE, Tunes),
    ("concurrent-daemonset-syncs", VALUE, Tunes),
    ("concurrent-deployment-syncs", VALUE, Tunes),
    ("concurrent-endpoint-syncs", VALUE, Tunes),
    ("concurrent-ephemeralvolume-syncs", VALUE, Tunes),
    ("concurrent-gc-syncs", VALUE, Tunes),
    ("concurrent-horizontal-pod-autoscaler-syncs", VALUE, Tunes),
    ("concurrent-job-syncs", VALUE, Tunes),
    ("concurrent-namespace-syncs", VALUE, Tunes),
    ("concurrent-rc-syncs", VALUE, Tunes),
    ("concurrent-replicaset-syncs", VALUE, Tunes),
    ("concurrent-resource-quota-syncs", VALUE, Tunes),
    ("concurrent-service-endpoint-syncs", VALUE, Tunes),
    ("concurrent-service-syncs", VALUE, Tunes),
    ("concurrent-serviceaccount-token-syncs", VALUE, Tunes),
    ("concurrent-statefulset-syncs", VALUE, Tunes),
    ("concurrent-ttl-after-finished-syncs", VALUE, Tunes),
    ("configure-cloud-routes", BOOL, Tunes),
    ("controller-start-interval", VALUE, Tunes),
    ("controllers", VALUE, Honoured),
    ("enable-dynamic-provisioning", BOOL, Only("true")),
    ("enable-garbage-collector", BOOL, Only("true")),
    ("endpoint-updates-batch-period", VALUE, Tunes),
    ("endpointslice-updates-batch-period", VALUE, Tunes),
    ("horizontal-pod-autoscaler-sync-period", VALUE, Only("15s")),
    ("horizontal-pod-autoscaler-tolerance", VALUE, Only("0.1")),
    ("min-resync-period", VALUE, Tunes),
    ("namespace-sync-period", VALUE, Tunes),
    ("node-cidr-mask-size", VALUE, Honoured),
    ("node-cidr-mask-size-ipv4", VALUE, Honoured),
    ("node-cidr-mask-size-ipv6", VALUE, Honoured),
    ("node-monitor-grace-period", VALUE, Honoured),
    ("node-monitor-period", VALUE, Tunes),
    ("pvclaimbinder-sync-period", VALUE, Tunes),
    ("resource-quota-sync-period", VALUE, Tunes),
    ("root-ca-file", VALUE, Honoured),
    ("route-reconciliation-period", VALUE, Tunes),
    ("service-account-private-key-file", VALUE, Honoured),
    ("service-cluster-ip-range", VALUE, Honoured),
    ("terminated-pod-gc-threshold", VALUE, Honoured),
    ("use-service-account-credentials", BOOL, Honoured),
];

async fn run(given: Given, shutdown: CancellationToken) -> anyhow::Result<()> {
    let mut config = options::read(&given)?;
    let connection = client_config(&given).await?;
    let client = kube::Client::try_from(connection.clone())?;
    let (tasks, stop) = (TaskTracker::new(), shutdown.child_token());
    if given.flag("use-service-account-credentials", false) {
        config.accounts = Some(Arc::new(ServiceAccounts::new(client.clone(), connection)?));
    }
    serve_health(&given, NAME, PORT, &tasks, &stop).await?;
    let ended = skeg_controllers::run(config, client, shutdown).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(ended?)
}
