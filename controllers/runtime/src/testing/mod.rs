//! An API server in memory, beneath [`kube::Client`]: enough of Kubernetes for control loops (versions, watches,
//! optimistic locking, subresources, finalizers, graceful deletion), with faults on request.
//!
//! It validates nothing and defaults nothing. Patches are merge patches; of strategic ones it merges `conditions` by
//! type.

mod fake;

pub use fake::{FakeApi, Faults};

use std::sync::{Arc, Mutex};

use crate::Timestamp;
use crate::clock::Clock;

/// A clock that stands still until it is moved.
#[derive(Clone)]
pub struct FakeClock(Arc<Mutex<Timestamp>>);

impl FakeClock {
    pub fn at(time: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(time)))
    }
    pub fn advance(&self, seconds: i64) {
        let mut now = self.0.lock().expect("no panic while locked");
        *now = crate::clock::after(*now, seconds);
    }
}

impl Clock for FakeClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().expect("no panic while locked")
    }
}
