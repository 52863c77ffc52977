//! A work queue: each key at most once in line, never in two hands at a time, retried with exponential back-off.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::hash::Hash;
use std::sync::Mutex;
use std::time::Duration;

use hashbrown::{HashMap, HashSet};
use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_RETRY: Duration = Duration::from_millis(5);
const LAST_RETRY: Duration = Duration::from_secs(1000);

struct State<K> {
    line: VecDeque<K>,
    /// In line, or to be put in line again when done.
    dirty: HashSet<K>,
    in_hand: HashSet<K>,
    failures: HashMap<K, u32>,
    due: HashMap<K, Instant>,
    timers: BinaryHeap<Reverse<(Instant, u64)>>,
    timer_keys: HashMap<u64, K>,
    next_timer: u64,
    closed: bool,
}

/// A de-duplicating, delaying, rate-limiting queue of keys. Share it in an `Arc`.
pub struct WorkQueue<K> {
    state: Mutex<State<K>>,
    arrived: Notify,
    first_retry: Duration,
    last_retry: Duration,
}

impl<K: Hash + Eq + Clone> Default for WorkQueue<K> {
    fn default() -> Self {
        Self::new()
    }
}

impl<K: Hash + Eq + Clone> WorkQueue<K> {
    /// Retries after 5 ms, doubling up to 1000 s.
    pub fn new() -> Self {
        Self::with_backoff(FIRST_RETRY, LAST_RETRY)
    }
    pub fn with_backoff(first_retry: Duration, last_retry: Duration) -> Self {
        let state = State {
            line: VecDeque::new(),
            dirty: HashSet::new(),
            in_hand: HashSet::new(),
            failures: HashMap::new(),
            due: HashMap::new(),
            timers: BinaryHeap::new(),
            timer_keys: HashMap::new(),
            next_timer: 0,
            closed: false,
        };
        Self { state: Mutex::new(state), arrived: Notify::new(), first_retry, last_retry }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State<K>> {
        self.state.lock().expect("nothing panics while the queue is locked")
    }

    /// Puts the key in line unless it is there.
    pub fn add(&self, key: K) {
        if self.lock().add(key) {
            self.arrived.notify_one();
        }
    }
    /// Adds the key after `wait`; of several pending waits of one key the earliest counts.
    pub fn add_after(&self, key: K, wait: Duration) {
        if wait.is_zero() {
            return self.add(key);
        }
        let at = Instant::now() + wait;
        let mut state = self.lock();
        if state.due.get(&key).is_some_and(|due| *due <= at) {
            return;
        }
        let id = state.next_timer;
        state.next_timer += 1;
        state.due.insert(key.clone(), at);
        state.timers.push(Reverse((at, id)));
        state.timer_keys.insert(id, key);
        drop(state);
        self.arrived.notify_one();
    }
    /// Adds the key after its back-off and remembers one more failure.
    pub fn add_rate_limited(&self, key: K) {
        let wait = {
            let mut state = self.lock();
            let failures = state.failures.entry(key.clone()).or_insert(0);
            let wait =
                self.first_retry.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(self.last_retry);
            *failures = (*failures + 1).min(31);
            wait
        };
        self.add_after(key, wait);
    }
    /// How often the key failed since it was last forgotten.
    pub fn failures(&self, key: &K) -> u32 {
        self.lock().failures.get(key).copied().unwrap_or(0)
    }
    /// The key succeeded: its next failure starts from the first wait again.
    pub fn forget(&self, key: &K) {
        self.lock().failures.remove(key);
    }
    /// How many keys are in line.
    pub fn len(&self) -> usize {
        self.lock().line.len()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Nothing in line, in hand or waiting for its time.
    pub fn is_idle(&self) -> bool {
        let state = self.lock();
        state.line.is_empty() && state.in_hand.is_empty()
    }
    /// Ends the queue: `get` returns `None`, adds are ignored.
    pub fn close(&self) {
        self.lock().closed = true;
        self.arrived.notify_waiters();
        self.arrived.notify_one();
    }

    /// Takes the next key in hand, waiting for one; `None` once closed. Call [`WorkQueue::done`] with it.
    pub async fn get(&self) -> Option<K> {
        loop {
            let arrived = self.arrived.notified();
            tokio::pin!(arrived);
            arrived.as_mut().enable();
            let next_timer = {
                let mut state = self.lock();
                if state.closed {
                    self.arrived.notify_one();
                    return None;
                }
                state.ring(Instant::now());
                if let Some(key) = state.line.pop_front() {
                    state.dirty.remove(&key);
                    state.in_hand.insert(key.clone());
                    if !state.line.is_empty() {
                        self.arrived.notify_one();
                    }
                    return Some(key);
                }
                state.timers.peek().map(|Reverse((at, _))| *at)
            };
            match next_timer {
                Some(at) => tokio::select! {
                    () = arrived => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => arrived.await,
            }
        }
    }
    /// The key is out of hand; if it was added meanwhile, it goes in line again.
    pub fn done(&self, key: &K) {
        let mut state = self.lock();
        state.in_hand.remove(key);
        if state.dirty.contains(key) {
            state.line.push_back(key.clone());
            drop(state);
            self.arrived.notify_one();
        }
    }
}

impl<K: Hash + Eq + Clone> State<K> {
    fn add(&mut self, key: K) -> bool {
        if self.closed || !self.dirty.insert(key.clone()) || self.in_hand.contains(&key) {
            return false;
        }
        self.line.push_back(key);
        true
    }
    fn ring(&mut self, now: Instant) {
        while let Some(Reverse((at, id))) = self.timers.peek().copied() {
            if at > now {
                return;
            }
            self.timers.pop();
            let Some(key) = self.timer_keys.remove(&id) else { continue };
            if self.due.get(&key) == Some(&at) {
                self.due.remove(&key);
                self.add(key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_key_added_twice_is_handed_out_once() {
        let queue = WorkQueue::new();
        queue.add(1);
        queue.add(1);
        assert_eq!(queue.get().await, Some(1));
        queue.done(&1);
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_key_added_while_in_hand_comes_again_after_done() {
        let queue = WorkQueue::new();
        queue.add(1);
        assert_eq!(queue.get().await, Some(1));
        queue.add(1);
        assert!(queue.is_empty());
        queue.done(&1);
        assert_eq!(queue.get().await, Some(1));
    }

    #[tokio::test(start_paused = true)]
    async fn the_earliest_of_two_delays_counts_and_rings_once() {
        let queue = WorkQueue::new();
        let begun = Instant::now();
        queue.add_after(1, Duration::from_secs(60));
        queue.add_after(1, Duration::from_secs(1));
        assert_eq!(queue.get().await, Some(1));
        assert_eq!(begun.elapsed().as_secs(), 1);
        queue.done(&1);
        tokio::time::sleep(Duration::from_secs(120)).await;
        queue.add(2);
        assert_eq!(queue.get().await, Some(2));
        assert!(queue.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_wait_twice_as_long_each_time_until_forgotten() {
        let queue = WorkQueue::new();
        for wait in [5, 10, 20] {
            let begun = Instant::now();
            queue.add_rate_limited(1);
            assert_eq!(queue.get().await, Some(1));
            assert_eq!(begun.elapsed().as_millis() / 5, wait / 5);
            queue.done(&1);
        }
        queue.forget(&1);
        assert_eq!(queue.failures(&1), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn closing_wakes_every_waiter() {
        let queue = std::sync::Arc::new(WorkQueue::<u8>::new());
        let waiters: Vec<_> = (0..3)
            .map(|_| {
                let queue = queue.clone();
                tokio::spawn(async move { queue.get().await })
            })
            .collect();
        tokio::task::yield_now().await;
        queue.close();
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), None);
        }
    }
}
