//! Randomness for jitter and balancing; not for cryptography.

use std::hash::{BuildHasher, RandomState};
use std::time::Duration;

/// A random number in [0, 1).
pub fn fraction() -> f64 {
    let bits = u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default();
    f64::from(bits) / (f64::from(u32::MAX) + 1.0)
}

/// A number below `bound`, which must not be 0.
pub fn below(bound: u64) -> u64 {
    // The remainder favours small numbers by one part in 2⁶⁴/bound, which is negligible.
    RandomState::new().hash_one(()) % bound
}

/// A random word that is certainly not a password in use.
pub fn word() -> String {
    let half = || RandomState::new().hash_one(());
    format!("{:016x}{:016x}", half(), half())
}

/// A random duration within ±25 % of this one.
pub fn jittered(duration: Duration) -> Duration {
    duration.mul_f64(0.75 + fraction() / 2.0)
}
