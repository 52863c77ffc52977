//! Leases under which keys expire. Keys that are put one after the other share one, as kube-apiserver's events do, so that
//! a thousand events are not a thousand leases (upstream's storage/etcd3/lease_manager.go has the same numbers).

use std::time::Duration;

use etcd_client::Client;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::timely;
use crate::store::StoreError;

/// A lease takes on keys for so long, or for a twentieth of its time, whichever is shorter.
const REUSE: Duration = Duration::from_secs(60);
const KEYS_PER_LEASE: u32 = 1000;

#[derive(Default)]
pub(super) struct Leases(Mutex<Option<Last>>);

struct Last {
    id: i64,
    expires: Instant,
    keys: u32,
}

impl Last {
    /// Whether a key put now lives at least `ttl` under it, and not much longer.
    fn fits(&self, now: Instant, ttl: Duration) -> bool {
        self.keys < KEYS_PER_LEASE && now + ttl < self.expires && self.expires <= now + ttl + reuse(ttl)
    }
}

fn reuse(ttl: Duration) -> Duration {
    REUSE.min(Duration::from_secs(ttl.as_secs() / 20))
}

impl Leases {
    /// A lease that lasts at least `ttl` from now. etcd counts whole seconds and has a minimum of a few.
    pub async fn lease(&self, client: &Client, ttl: Duration) -> Result<i64, StoreError> {
        let mut last = self.0.lock().await;
        let now = Instant::now();
        if let Some(last) = last.as_mut().filter(|last| last.fits(now, ttl)) {
            last.keys += 1;
            return Ok(last.id);
        }
        let whole = ttl + reuse(ttl);
        let seconds = whole.as_secs() + u64::from(whole.subsec_nanos() > 0);
        let mut leases = client.lease_client();
        let granted = timely("grant a lease of etcd", leases.grant(super::signed(seconds), None)).await?;
        *last = Some(Last { id: granted.id(), expires: now + whole, keys: 1 });
        Ok(granted.id())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_share_a_lease_for_a_while() {
        let now = Instant::now();
        let hour = Duration::from_secs(3600);
        let mut last = Last { id: 1, expires: now + hour + reuse(hour), keys: 1 };
        assert!(last.fits(now, hour) && last.fits(now + Duration::from_secs(59), hour));
        assert!(!last.fits(now + Duration::from_secs(61), hour), "it would end too soon");
        assert!(!last.fits(now, Duration::from_secs(60)), "it would end too late");
        last.keys = KEYS_PER_LEASE;
        assert!(!last.fits(now, hour));
        assert_eq!(reuse(Duration::from_secs(1)), Duration::ZERO);
    }
}
