//! Protocol-level streaming.
