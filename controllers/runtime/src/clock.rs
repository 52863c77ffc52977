//! Time as a value that is passed in.

use crate::Timestamp;

/// Where "now" comes from.
pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
}

/// As the API writes a time: whole seconds, UTC.
pub fn rfc3339(time: Timestamp) -> String {
    Timestamp::from_second(time.as_second()).expect("a whole second of a valid time is valid").to_string()
}

/// As the API writes a MicroTime.
pub fn rfc3339_micro(time: Timestamp) -> String {
    format!("{time:.6}")
}

/// `time` plus seconds, saturating at the far future.
pub fn after(time: Timestamp, seconds: i64) -> Timestamp {
    time.checked_add(crate::SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

/// How long from `now` until `then`; zero if it has passed.
pub fn until(now: Timestamp, then: Timestamp) -> std::time::Duration {
    std::time::Duration::try_from(then.duration_since(now)).unwrap_or_default()
}
