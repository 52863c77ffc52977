//! Ranges of costs and sizes, whose arithmetic ends at the largest number instead of overflowing.

/// The least and the most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Range {
    pub min: u64,
    pub max: u64,
}

impl Range {
    pub const UNKNOWN: Range = Range { min: 0, max: u64::MAX };
    /// What a union with anything replaces.
    pub const NOTHING: Range = Range { min: u64::MAX, max: 0 };

    pub fn fixed(value: u64) -> Range {
        Range { min: value, max: value }
    }

    pub fn plus(self, other: Range) -> Range {
        Range { min: self.min.saturating_add(other.min), max: self.max.saturating_add(other.max) }
    }

    pub fn times(self, other: Range) -> Range {
        Range { min: self.min.saturating_mul(other.min), max: self.max.saturating_mul(other.max) }
    }

    /// Each end by a factor, rounded up.
    pub fn scaled(self, factor: f64) -> Range {
        Range { min: scale(self.min, factor), max: scale(self.max, factor) }
    }

    pub fn union(self, other: Range) -> Range {
        Range { min: self.min.min(other.min), max: self.max.max(other.max) }
    }
}

/// A number by a factor, rounded up.
pub fn scale(value: u64, factor: f64) -> u64 {
    // Beyond the largest number, the conversion ends there.
    (value as f64 * factor).ceil() as u64
}
