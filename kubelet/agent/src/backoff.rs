//! Doubling back-off per name, as upstream's flowcontrol.Backoff counts it. No clock of its own.

use k8s_openapi::jiff::{SignedDuration, Timestamp};
use std::collections::HashMap;

/// First delay.
const INITIAL: SignedDuration = SignedDuration::from_secs(10);
/// Longest delay.
const MAXIMUM: SignedDuration = SignedDuration::from_secs(300);

#[derive(Debug, Clone, Copy)]
struct Entry {
    delay: SignedDuration,
    updated: Timestamp,
}

/// Delays by name.
#[derive(Debug, Clone, Default)]
pub struct Backoff {
    entries: HashMap<String, Entry>,
}

impl Backoff {
    /// If `name`, whose last attempt ended at `since`, still has to wait: until when, and the delay.
    pub fn waiting(&self, name: &str, since: Timestamp, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let entry = self.entries.get(name)?;
        if expired(entry, since) {
            return None;
        }
        let until = since.checked_add(entry.delay).ok()?;
        (now < until).then_some((until, entry.delay))
    }

    /// Like [`Backoff::waiting`], counted from the last failure.
    pub fn waiting_since_update(&self, name: &str, now: Timestamp) -> Option<(Timestamp, SignedDuration)> {
        let entry = self.entries.get(name)?;
        if now.duration_since(entry.updated) > MAXIMUM * 2 {
            return None;
        }
        let until = entry.updated.checked_add(entry.delay).ok()?;
        (now < until).then_some((until, entry.delay))
    }

    /// Counts one more attempt.
    pub fn next(&mut self, name: &str, since: Timestamp, now: Timestamp) {
        let delay = match self.entries.get(name) {
            Some(entry) if !expired(entry, since) => (entry.delay * 2).min(MAXIMUM),
            _ => INITIAL,
        };
        self.entries.insert(name.to_string(), Entry { delay, updated: now });
    }

    /// Forgets a name.
    pub fn forget(&mut self, name: &str) {
        self.entries.remove(name);
    }
}

/// Whether so much good time passed that counting starts anew.
fn expired(entry: &Entry, since: Timestamp) -> bool {
    since.duration_since(entry.updated) > MAXIMUM * 2
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(seconds).unwrap()
    }

    #[test]
    fn delays_double_up_to_five_minutes_and_start_anew_after_ten_good_minutes() {
        let mut backoff = Backoff::default();
        let mut now = 1000;
        let mut delays = Vec::new();
        assert!(backoff.waiting("c", at(now), at(now)).is_none(), "the first crash restarts at once");
        backoff.next("c", at(now), at(now));
        for _ in 0..7 {
            let (until, delay) = backoff.waiting("c", at(now), at(now)).unwrap();
            delays.push(delay.as_secs());
            now = until.as_second();
            assert!(backoff.waiting("c", at(now - delay.as_secs()), at(now)).is_none());
            backoff.next("c", at(now), at(now));
        }
        assert_eq!(delays, [10, 20, 40, 80, 160, 300, 300]);
        let later = now + 601;
        assert!(backoff.waiting("c", at(later), at(later)).is_none());
        backoff.next("c", at(later), at(later));
        assert_eq!(backoff.waiting("c", at(later), at(later)).unwrap().1.as_secs(), 10);
    }
}
