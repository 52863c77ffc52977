//! Exponential back-off with jitter, for reconnecting.

use std::time::Duration;

/// Doubles from `base` to `max`; each step is spread by up to a half.
#[derive(Debug)]
pub struct Backoff {
    base: Duration,
    max: Duration,
    current: Duration,
}

impl Backoff {
    pub fn new(base: Duration, max: Duration) -> Self {
        Self { base, max, current: base }
    }
    pub fn step(&mut self) -> Duration {
        let wait = self.current;
        self.current = (self.current * 2).min(self.max);
        wait.mul_f64(1.0 + rand::random::<f64>() / 2.0)
    }
    pub fn reset(&mut self) {
        self.current = self.base;
    }
}
