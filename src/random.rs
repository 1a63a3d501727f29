//! Chance: enough to spread what would otherwise happen at once, and good for nothing else.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A number from 0 up to but not including 1, different every time.
pub fn fraction() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A number below `bound`, which must not be 0.
pub fn below(bound: u64) -> u64 {
    // The remainder favours small numbers by one part in 2⁶⁴/bound, which nobody can measure.
    RandomState::new().hash_one(()) % bound
}

/// A word that nobody has for a password.
pub fn word() -> String {
    let half = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", half(), half())
}

/// A duration within a quarter of this one.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + fraction() / 2.0)
}
