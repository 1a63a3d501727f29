//! The rest of what has failed: for a growing time others come first, then one dial finds out whether it is back.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::random::jittered;

/// For how long others come first: at the longest enough to be no burden for anybody, and short enough that nobody waits for
/// a server that is back.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// When a rest is over one dial finds out; for so long others leave it alone.
const TRIAL: Duration = Duration::from_secs(2);

/// What comes of failures.
#[derive(Debug, Default)]
pub(super) struct Ejection {
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

impl Ejection {
    /// Whether it failed when it was last tried.
    pub(super) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// Whether others come first now.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.fails() && !self.row.lock().is_over(now)
    }

    /// Of those who find the rest over, the first has it for itself for a moment.
    pub(super) fn begin_trial(&self, now: Instant) {
        if !self.fails() {
            return;
        }
        let mut row = self.row.lock();
        if row.is_over(now) {
            row.until = Some(now + TRIAL);
            row.on_trial = true;
        }
    }

    /// It works.
    pub(super) fn end(&self) {
        if self.fails.swap(false, Ordering::Relaxed) {
            *self.row.lock() = Row::default();
        }
    }

    /// It has failed.
    pub(super) fn begin(&self, now: Instant) {
        let mut row = self.row.lock();
        // Dials that were under way together count as one.
        if row.on_trial || row.is_over(now) {
            let failures = row.failures.saturating_add(1);
            *row = Row { failures, until: Some(now + jittered(BACKOFF.wait(failures))), on_trial: false };
            self.fails.store(true, Ordering::Relaxed);
        }
    }
}
