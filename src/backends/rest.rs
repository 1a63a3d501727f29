//! The rest of what has failed: for a growing time others come first, then one dial finds out whether it is back.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::time::Instant;

use super::lock;
use crate::random::jittered;

/// The first rest after a failure; each is twice the one before, up to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
/// Long enough to be no burden for anybody, short enough that nobody waits for a server that is back.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// When a rest is over one dial finds out; for so long others leave it alone.
const TRIAL: Duration = Duration::from_secs(2);

/// What comes of failures.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// Whether there is anything to look at, so that a long list of what serves is gone through quickly.
    fails: AtomicBool,
    row: Mutex<Row>,
}

/// Failures in a row.
#[derive(Debug, Default)]
struct Row {
    failures: u32,
    /// Until when others come first.
    until: Option<Instant>,
    /// Whether the rest was over, and a dial is finding out now.
    on_trial: bool,
}

impl Row {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}

impl Rest {
    /// Whether it failed when it was last tried.
    pub(super) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// Whether others come first now.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.fails() && !lock(&self.row).is_over(now)
    }

    /// Of those who find the rest over, the first has it for itself for a moment.
    pub(super) fn begin_trial(&self, now: Instant) {
        if !self.fails() {
            return;
        }
        let mut row = lock(&self.row);
        if row.is_over(now) {
            row.until = Some(now + TRIAL);
            row.on_trial = true;
        }
    }

    /// It works.
    pub(super) fn end(&self) {
        if self.fails.swap(false, Ordering::Relaxed) {
            *lock(&self.row) = Row::default();
        }
    }

    /// It has failed.
    pub(super) fn begin(&self, now: Instant) {
        let mut row = lock(&self.row);
        // Dials that were under way together count as one.
        if row.on_trial || row.is_over(now) {
            let time = LONGEST_REST.min(FIRST_REST * 2_u32.saturating_pow(row.failures));
            *row = Row {
                failures: row.failures.saturating_add(1),
                until: Some(now + jittered(time)),
                on_trial: false,
            };
            self.fails.store(true, Ordering::Relaxed);
        }
    }
}
