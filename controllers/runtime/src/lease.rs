//! Leader election over a coordination.k8s.io Lease: of many replicas one runs the loops
//! (upstream: client-go/tools/leaderelection; 15 s lease, 10 s to renew, tries each 2 s).

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::api::{Api, Error, chain};
use crate::clock::{Clock, rfc3339_micro};
use crate::meta::Meta;
use crate::resource::Resource;

const LEASE: Resource = Resource::new("coordination.k8s.io", "v1", "Lease", "leases", true);

/// How an election is held.
#[derive(Clone, Debug)]
pub struct Election {
    pub namespace: String,
    pub name: String,
    /// Unique to this process.
    pub identity: String,
    pub lease: Duration,
    pub renew_deadline: Duration,
    pub retry: Duration,
}

impl Election {
    /// Upstream's timing in kube-system.
    pub fn new(name: &str, identity: &str) -> Self {
        Self {
            namespace: "kube-system".to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            lease: Duration::from_secs(15),
            renew_deadline: Duration::from_secs(10),
            retry: Duration::from_secs(2),
        }
    }
}

#[derive(Deserialize)]
struct Lease {
    metadata: Meta,
    #[serde(default)]
    spec: LeaseSpec,
}

#[derive(Clone, Default, Deserialize, PartialEq)]
#[serde(default, rename_all = "camelCase")]
struct LeaseSpec {
    holder_identity: Option<String>,
    lease_duration_seconds: Option<i64>,
    acquire_time: Option<String>,
    renew_time: Option<String>,
    lease_transitions: Option<i64>,
}

/// Runs `work` once the election is won, until `shutdown` or until the lease is lost; both cancel the token that it is given.
/// Returns when it has ended, `false` if the lease was lost.
pub async fn lead<Work: Future<Output = ()>>(
    api: Api,
    election: Election,
    clock: &dyn Clock,
    shutdown: &CancellationToken,
    work: impl FnOnce(CancellationToken) -> Work,
) -> bool {
    let mut candidate = Candidate::new(api, election, clock);
    if !candidate.acquire(shutdown).await {
        return true;
    }
    let stop = shutdown.child_token();
    let work = work(stop.clone());
    tokio::pin!(work);
    tokio::select! {
        () = &mut work => return true,
        () = candidate.hold(shutdown) => stop.cancel(),
    }
    work.await;
    shutdown.is_cancelled()
}

/// One candidate.
pub struct Candidate<'a> {
    api: Api,
    election: Election,
    clock: &'a dyn Clock,
    /// The other holder's record and when we first saw it: its clock is never trusted.
    seen: Option<(LeaseSpec, Instant)>,
}

impl<'a> Candidate<'a> {
    pub fn new(api: Api, election: Election, clock: &'a dyn Clock) -> Self {
        Self { api, election, clock, seen: None }
    }

    /// Waits until this process leads; `false` if shutdown came first.
    pub async fn acquire(&mut self, shutdown: &CancellationToken) -> bool {
        loop {
            if self.try_once().await.unwrap_or(false) {
                return true;
            }
            let wait = self.election.retry.mul_f64(1.0 + rand::random::<f64>() * 0.2);
            tokio::select! {
                () = shutdown.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Renews until the lease is lost or shutdown comes (then it is released). The leader must stop when this returns.
    pub async fn hold(&mut self, shutdown: &CancellationToken) {
        let mut renewed = Instant::now();
        loop {
            tokio::select! {
                () = shutdown.cancelled() => {
                    self.release().await;
                    return;
                }
                () = tokio::time::sleep(self.election.retry) => {}
            }
            let left = self.election.renew_deadline.saturating_sub(renewed.elapsed());
            match tokio::time::timeout(left, self.try_once()).await {
                Ok(Ok(true)) => renewed = Instant::now(),
                Ok(Ok(false)) => return,
                Ok(Err(error)) => tracing::debug!(error = chain(&error), "lease not renewed"),
                Err(_) => {}
            }
            if renewed.elapsed() >= self.election.renew_deadline {
                return;
            }
        }
    }

    async fn try_once(&mut self) -> Result<bool, Error> {
        let (namespace, name) = (self.election.namespace.clone(), self.election.name.clone());
        let now = rfc3339_micro(self.clock.now());
        let Some(lease) = self.api.find::<Lease>(&LEASE, &namespace, &name).await? else {
            let body = json!({"metadata": {"name": name, "namespace": namespace}, "spec": self.record(&now, &now, 0)});
            return match self.api.create::<serde::de::IgnoredAny>(&LEASE, &namespace, &body).await {
                Ok(_) => Ok(true),
                Err(error) if error.is_already_exists() => Ok(false),
                Err(error) => Err(error),
            };
        };
        let holder = lease.spec.holder_identity.as_deref().unwrap_or("");
        let ours = holder == self.election.identity;
        if !ours && !holder.is_empty() {
            match &self.seen {
                Some((spec, at)) if *spec == lease.spec => {
                    if at.elapsed() < self.election.lease {
                        return Ok(false);
                    }
                }
                _ => {
                    self.seen = Some((lease.spec, Instant::now()));
                    return Ok(false);
                }
            }
        }
        let transitions = lease.spec.lease_transitions.unwrap_or(0) + i64::from(!ours);
        let acquired = if ours { lease.spec.acquire_time.unwrap_or_else(|| now.clone()) } else { now.clone() };
        self.write(&lease.metadata, self.record(&acquired, &now, transitions)).await
    }

    fn record(&self, acquired: &str, renewed: &str, transitions: i64) -> serde_json::Value {
        json!({
            "holderIdentity": self.election.identity,
            "leaseDurationSeconds": self.election.lease.as_secs(),
            "acquireTime": acquired,
            "renewTime": renewed,
            "leaseTransitions": transitions,
        })
    }

    async fn write(&self, meta: &Meta, spec: serde_json::Value) -> Result<bool, Error> {
        let body = json!({
            "metadata": {
                "name": meta.name, "namespace": meta.namespace, "resourceVersion": meta.resource_version.to_string(),
            },
            "spec": spec,
        });
        match self.api.update::<serde::de::IgnoredAny>(&LEASE, &meta.namespace, &meta.name, "", &body).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn release(&self) {
        let (namespace, name) = (&self.election.namespace, &self.election.name);
        let Ok(Some(lease)) = self.api.find::<Lease>(&LEASE, namespace, name).await else { return };
        if lease.spec.holder_identity.as_deref() != Some(&self.election.identity) {
            return;
        }
        let now = rfc3339_micro(self.clock.now());
        let mut spec = self.record(&now, &now, lease.spec.lease_transitions.unwrap_or(0));
        spec["holderIdentity"] = json!("");
        spec["leaseDurationSeconds"] = json!(1);
        if let Err(error) = self.write(&lease.metadata, spec).await {
            tracing::debug!(error = chain(&error), "lease not released");
        }
    }
}
