//! Exponential back-off: each wait is twice the one before, up to the longest.

use std::time::Duration;

/// The waits between retries; the caller counts consecutive failures.
#[derive(Debug, Clone, Copy)]
pub struct Backoff {
    /// The wait after the first failure.
    pub first: Duration,
    pub longest: Duration,
}

impl Backoff {
    /// The wait after this many consecutive failures; zero after none.
    pub fn wait(self, failures: u32) -> Duration {
        match failures.checked_sub(1) {
            None => Duration::ZERO,
            Some(doublings) => self.longest.min(self.first.saturating_mul(2_u32.saturating_pow(doublings))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(5) };
        let waits = [0, 1, 2, 3, 4, 5, u32::MAX].map(|failures| backoff.wait(failures).as_secs());
        assert_eq!(waits, [0, 1, 2, 4, 5, 5, 5]);
    }
}
