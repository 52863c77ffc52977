//! What controllers and scheduler are told alike: how to reach the API server, and whether to lead first.

use std::time::Duration;

use anyhow::{Context, ensure};
use kube::config::{KubeConfigOptions, Kubeconfig};
use skeg_controller_runtime::lease::Election;

use super::flags::{BOOL, Flag, Given, Honoured, Only, Tunes, VALUE};

/// What controllers and scheduler have beside what every component has.
#[rustfmt::skip]
pub const LOOPS: &[Flag] = &[
    ("authentication-kubeconfig", VALUE, Tunes),
    ("authentication-skip-lookup", BOOL, Tunes),
    ("authentication-token-webhook-cache-ttl", VALUE, Tunes),
    ("authentication-tolerate-lookup-failure", BOOL, Tunes),
    ("authorization-always-allow-paths", VALUE, Only("/healthz,/readyz,/livez")),
    ("authorization-kubeconfig", VALUE, Tunes),
    ("authorization-webhook-cache-authorized-ttl", VALUE, Tunes),
    ("authorization-webhook-cache-unauthorized-ttl", VALUE, Tunes),
    ("client-ca-file", VALUE, Tunes),
    ("contention-profiling", BOOL, Tunes),
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
    ("requestheader-allowed-names", VALUE, Tunes),
    ("requestheader-client-ca-file", VALUE, Tunes),
    ("requestheader-extra-headers-prefix", VALUE, Tunes),
    ("requestheader-group-headers", VALUE, Tunes),
    ("requestheader-username-headers", VALUE, Tunes),
];

/// `--kubeconfig` as a client's configuration.
pub async fn client_config(given: &Given) -> anyhow::Result<kube::Config> {
    let path = given.path("kubeconfig").context("--kubeconfig is missing: it says where the API server is")?;
    let read = Kubeconfig::read_from(&path).with_context(|| format!("cannot use {}", path.display()))?;
    let mut config = kube::Config::from_custom_kubeconfig(read, &KubeConfigOptions::default()).await?;
    config.headers.retain(|(name, _)| name != http::header::USER_AGENT);
    Ok(config)
}

/// `--leader-elect…`: `None` when it is turned off. `component` names the lease unless another name is given.
pub fn election(given: &Given, component: &str) -> anyhow::Result<Option<Election>> {
    let identity = || -> anyhow::Result<String> {
        let host = nix::unistd::gethostname().context("this machine has no name")?;
        Ok(format!("{}_{}", host.to_string_lossy(), uuid::Uuid::new_v4()))
    };
    let mut election = Election::new(given.text("leader-elect-resource-name").unwrap_or(component), &identity()?);
    if let Some(namespace) = given.text("leader-elect-resource-namespace") {
        namespace.clone_into(&mut election.namespace);
    }
    let duration = |name: &str, default: Duration| Ok::<_, anyhow::Error>(given.duration(name)?.unwrap_or(default));
    election.lease = duration("leader-elect-lease-duration", election.lease)?;
    election.renew_deadline = duration("leader-elect-renew-deadline", election.renew_deadline)?;
    election.retry = duration("leader-elect-retry-period", election.retry)?;
    ensure!(
        election.lease > election.renew_deadline,
        "--leader-elect-lease-duration must be longer than --leader-elect-renew-deadline"
    );
    ensure!(
        election.renew_deadline > election.retry,
        "--leader-elect-renew-deadline must be longer than --leader-elect-retry-period"
    );
    Ok(given.flag("leader-elect", true).then_some(election))
}
