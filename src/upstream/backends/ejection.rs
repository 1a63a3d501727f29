//! The back-off of a backend that has failed: for a growing time others are preferred, then one dial tries it again.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::backoff::Backoff;
use crate::random::jittered;

/// At its longest, the retries are a negligible load and a server that is back is used again within half a minute.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// When the back-off ends, one dial tries the backend; for this time others still prefer another one.
const TRIAL: Duration = Duration::from_secs(2);

/// The back-off of one backend or name.
#[derive(Debug, Default)]
pub(super) struct Ejection {
    /// Whether the last dial failed. An atomic beside the lock, so that a long list of healthy backends is searched
    /// quickly.
    fails: AtomicBool,
    row: Mutex<Row>,
}

/// Consecutive failures.
#[derive(Debug, Default)]
struct Row {
    failures: u32,
    /// The end of the back-off.
    until: Option<Instant>,
    /// Whether the back-off is over and one dial is trying the backend.
    on_trial: bool,
}

impl Row {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}

impl Ejection {
    /// Whether the last dial failed.
    pub(super) fn fails(&self) -> bool {
        self.fails.load(Ordering::Relaxed)
    }

    /// Whether the back-off is running.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.fails() && !self.row.lock().is_over(now)
    }

    /// Called before a dial. If the back-off is over, this dial is the trial, and [`TRIAL`] keeps others away.
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

    /// A dial succeeded.
    pub(super) fn end(&self) {
        if self.fails.swap(false, Ordering::Relaxed) {
            *self.row.lock() = Row::default();
        }
    }

    /// A dial failed.
    pub(super) fn begin(&self, now: Instant) {
        let mut row = self.row.lock();
        // Concurrent dials that fail together count as one failure.
        if row.on_trial || row.is_over(now) {
            let failures = row.failures.saturating_add(1);
            *row = Row { failures, until: Some(now + jittered(BACKOFF.wait(failures))), on_trial: false };
            self.fails.store(true, Ordering::Relaxed);
        }
    }
}
