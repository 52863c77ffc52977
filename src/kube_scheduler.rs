//! `skeg kube-scheduler`: the scheduler alone, with kube-scheduler's flags, so that it can stand where that one stands. It
//! schedules with the profile that upstream has without a configuration file.

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::component::flags::{BOOL, Flags, Given, Honoured, Only, Tunes, VALUE};
use crate::component::{Component, client_config, election, gates, serve_health};

const NAME: &str = "kube-scheduler";
const PORT: u16 = 10259;

/// The component.
pub const COMPONENT: Component = Component {
    name: NAME,
    about: "Finds a node for every pod, as kube-scheduler does.",
    flags: FLAGS,
    run: |given, shutdown| Box::pin(run(given, shutdown)),
};

#[rustfmt::skip]
const FLAGS: Flags = &[
    ("authentication-kubeconfig", VALUE, Tunes),
    ("authentication-skip-lookup", BOOL, Tunes),
    ("authentication-token-webhook-cache-ttl", VALUE, Tunes),
    ("authentication-tolerate-lookup-failure", BOOL, Tunes),
    ("authorization-always-allow-paths", VALUE, Only("/healthz,/readyz,/livez")),
    ("authorization-kubeconfig", VALUE, Tunes),
    ("authorization-webhook-cache-authorized-ttl", VALUE, Tunes),
    ("authorization-webhook-cache-unauthorized-ttl", VALUE, Tunes),
    ("bind-address", VALUE, Honoured),
    ("client-ca-file", VALUE, Tunes),
    ("contention-profiling", BOOL, Tunes),
    ("feature-gates", VALUE, Honoured),
    ("help", BOOL, Honoured),
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
    ("profiling", BOOL, Tunes),
    ("requestheader-allowed-names", VALUE, Tunes),
    ("requestheader-client-ca-file", VALUE, Tunes),
    ("requestheader-extra-headers-prefix", VALUE, Tunes),
    ("requestheader-group-headers", VALUE, Tunes),
    ("requestheader-username-headers", VALUE, Tunes),
    ("secure-port", VALUE, Honoured),
    ("tls-cert-file", VALUE, Honoured),
    ("tls-min-version", VALUE, Only("VersionTLS12")),
    ("tls-private-key-file", VALUE, Honoured),
    ("v", VALUE, Honoured),
    ("version", BOOL, Honoured),
];

async fn run(given: Given, shutdown: CancellationToken) -> anyhow::Result<()> {
    gates::check(&given.map("feature-gates"))?;
    let config = skeg_scheduler::Config { election: election(&given, NAME)?, ..skeg_scheduler::Config::default() };
    let client = kube::Client::try_from(client_config(&given).await?)?;
    let (tasks, stop) = (TaskTracker::new(), shutdown.child_token());
    serve_health(&given, NAME, PORT, &tasks, &stop).await?;
    let leads = skeg_scheduler::run(config, client, shutdown).await;
    stop.cancel();
    tasks.close();
    tasks.wait().await;
    anyhow::ensure!(leads, "leaderelection lost");
    Ok(())
}
