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
use crate::component::flags::{BOOL, Flags, Given, Honoured, Only, Tunes, VALUE};
use crate::component::{Component, client_config, serve_health};

const NAME: &str = "kube-controller-manager";
const PORT: u16 = 10257;

/// The component.
pub const COMPONENT: Component = Component {
    name: NAME,
    about: "Runs the controllers of a cluster, as kube-controller-manager does.",
    flags: FLAGS,
    run: |given, shutdown| Box::pin(run(given, shutdown)),
};

#[rustfmt::skip]
const FLAGS: Flags = &[
    ("allocate-node-cidrs", BOOL, Honoured),
    ("authentication-kubeconfig", VALUE, Tunes),
    ("authentication-skip-lookup", BOOL, Tunes),
    ("authentication-token-webhook-cache-ttl", VALUE, Tunes),
    ("authentication-tolerate-lookup-failure", BOOL, Tunes),
    ("authorization-always-allow-paths", VALUE, Only("/healthz,/readyz,/livez")),
    ("authorization-kubeconfig", VALUE, Tunes),
    ("authorization-webhook-cache-authorized-ttl", VALUE, Tunes),
    ("authorization-webhook-cache-unauthorized-ttl", VALUE, Tunes),
    ("bind-address", VALUE, Honoured),
    ("cidr-allocator-type", VALUE, Only("RangeAllocator")),
    ("client-ca-file", VALUE, Tunes),
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
    ("contention-profiling", BOOL, Tunes),
    ("controller-start-interval", VALUE, Tunes),
    ("controllers", VALUE, Honoured),
    ("enable-dynamic-provisioning", BOOL, Only("true")),
    ("enable-garbage-collector", BOOL, Only("true")),
    ("endpoint-updates-batch-period", VALUE, Tunes),
    ("endpointslice-updates-batch-period", VALUE, Tunes),
    ("feature-gates", VALUE, Honoured),
    ("help", BOOL, Honoured),
    ("horizontal-pod-autoscaler-sync-period", VALUE, Only("15s")),
    ("horizontal-pod-autoscaler-tolerance", VALUE, Only("0.1")),
    ("kube-api-burst", VALUE, Tunes),
    ("kube-api-content-type", VALUE, Tunes),
    ("kube-api-qps", VALUE, Tunes),
    ("kubeconfig", VALUE, Honoured),
    ("leader-elect", BOOL, Honoured),
    ("leader-elect-lease-duration", VALUE, Honoured),
    ("leader-elect-renew-deadline", VALUE, Honoured),
    ("leader-elect-resource-lock", VALUE, Only("leases")),
    ("leader-elect-resource-name", VALUE, Honoured),
    ("leader-elect-resource-namespace", VALUE, Honoured),
    ("leader-elect-retry-period", VALUE, Honoured),
    ("log-flush-frequency", VALUE, Tunes),
    ("logging-format", VALUE, Only("text")),
    ("min-resync-period", VALUE, Tunes),
    ("namespace-sync-period", VALUE, Tunes),
    ("node-cidr-mask-size", VALUE, Honoured),
    ("node-cidr-mask-size-ipv4", VALUE, Honoured),
    ("node-cidr-mask-size-ipv6", VALUE, Honoured),
    ("node-monitor-grace-period", VALUE, Honoured),
    ("node-monitor-period", VALUE, Tunes),
    ("profiling", BOOL, Tunes),
    ("pvclaimbinder-sync-period", VALUE, Tunes),
    ("requestheader-allowed-names", VALUE, Tunes),
    ("requestheader-client-ca-file", VALUE, Tunes),
    ("requestheader-extra-headers-prefix", VALUE, Tunes),
    ("requestheader-group-headers", VALUE, Tunes),
    ("requestheader-username-headers", VALUE, Tunes),
    ("resource-quota-sync-period", VALUE, Tunes),
    ("root-ca-file", VALUE, Honoured),
    ("route-reconciliation-period", VALUE, Tunes),
    ("secure-port", VALUE, Honoured),
    ("service-account-private-key-file", VALUE, Honoured),
    ("service-cluster-ip-range", VALUE, Honoured),
    ("terminated-pod-gc-threshold", VALUE, Honoured),
    ("tls-cert-file", VALUE, Honoured),
    ("tls-min-version", VALUE, Only("VersionTLS12")),
    ("tls-private-key-file", VALUE, Honoured),
    ("use-service-account-credentials", BOOL, Honoured),
    ("v", VALUE, Honoured),
    ("version", BOOL, Honoured),
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
