//! Pods that wait for a node: the most important first, those that failed later and later. Holds no clock.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use skeg_controller_runtime::{Key, SignedDuration, Timestamp};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// Even if nothing happens that could help, a pod is tried again.
const STUCK: SignedDuration = SignedDuration::from_mins(5);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    Active,
    /// Waits for its time.
    Backoff(Timestamp),
    /// Waits for something to change in the cluster, since then.
    Stuck(Timestamp),
    /// Being decided or bound.
    Away,
}

#[derive(Debug)]
struct Entry {
    rank: (i64, u64),
    place: Place,
    attempts: u32,
    failed_at: Timestamp,
}

/// Keys by priority and order of arrival.
#[derive(Debug, Default)]
pub struct Queue {
    entries: HashMap<Key, Entry>,
    active: BTreeSet<((i64, u64), Key)>,
    arrivals: u64,
    /// Cluster changes so far; a pod that failed while one came in is not stuck.
    moves: u64,
}

impl Queue {
    /// A pod appeared, or changed in a way that could make it fit.
    pub fn add(&mut self, key: &Key, priority: i32) {
        if let Some(entry) = self.entries.get_mut(key) {
            match entry.place {
                Place::Stuck(_) => entry.place = Place::Active,
                Place::Away => self.moves += 1,
                _ => {}
            }
            if entry.place == Place::Active {
                self.active.insert((entry.rank, key.clone()));
            }
            return;
        }
        self.arrivals += 1;
        let rank = (-i64::from(priority), self.arrivals);
        let entry = Entry { rank, place: Place::Active, attempts: 0, failed_at: Timestamp::UNIX_EPOCH };
        self.entries.insert(key.clone(), entry);
        self.active.insert((rank, key.clone()));
    }

    pub fn remove(&mut self, key: &str) {
        if let Some((key, entry)) = self.entries.remove_entry(key) {
            self.active.remove(&(entry.rank, key));
        }
    }

    pub fn contains(&self, key: &str) -> bool {
        self.entries.contains_key(key)
    }

    /// The next pod to decide on, with the count of cluster changes at that moment for [`Queue::failed`].
    pub fn pop(&mut self) -> Option<(Key, u64)> {
        let (_, key) = self.active.pop_first()?;
        let entry = self.entries.get_mut(&key).expect("active keys have entries");
        entry.place = Place::Away;
        entry.attempts += 1;
        Some((key, self.moves))
    }

    /// No node fitted, or binding failed (`retry`: no change of the cluster is needed for another try).
    pub fn failed(&mut self, key: &str, moves_then: u64, retry: bool, now: Timestamp) {
        let moved = self.moves != moves_then;
        let Some(entry) = self.entries.get_mut(key) else { return };
        entry.failed_at = now;
        entry.place = if moved || retry { Place::Backoff(entry.ready_at()) } else { Place::Stuck(now) };
    }

    /// Something changed that could make a stuck pod fit.
    pub fn cluster_changed(&mut self, now: Timestamp) {
        self.moves += 1;
        for entry in self.entries.values_mut() {
            if let Place::Stuck(_) = entry.place {
                entry.place = Place::Backoff(entry.ready_at().max(now));
            }
        }
    }

    /// Activates what has waited long enough; returns when to look again.
    pub fn flush(&mut self, now: Timestamp) -> Option<Timestamp> {
        let mut next: Option<Timestamp> = None;
        for (key, entry) in &mut self.entries {
            let due = match entry.place {
                Place::Backoff(at) => at,
                Place::Stuck(since) => since + STUCK,
                Place::Active | Place::Away => continue,
            };
            if due <= now {
                entry.place = Place::Active;
                self.active.insert((entry.rank, key.clone()));
            } else {
                next = Some(next.map_or(due, |n| n.min(due)));
            }
        }
        next
    }
}

impl Entry {
    fn ready_at(&self) -> Timestamp {
        let doublings = self.attempts.saturating_sub(1).min(8);
        let wait = (FIRST_BACKOFF * 2u32.pow(doublings)).min(LAST_BACKOFF);
        self.failed_at + SignedDuration::try_from(wait).unwrap_or(SignedDuration::MAX)
    }
}
