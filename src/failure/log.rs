//! The rate-limited log of failed connections.
//!
//! When a target is down, every client fails, and one line for each would flood the log. The first [`BURST`] failures
//! of a stage are logged at once, then one a second with the number of those held back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use crate::config::Link;
use crate::failure::{Failure, Stage};
use crate::net::Client;

/// Failures logged at once: enough to see whether one client fails or all of them.
const BURST: u32 = 5;

/// The interval of log lines after the burst.
const INTERVAL: Duration = Duration::from_secs(1);

/// The failures of one link.
#[derive(Debug)]
pub struct FailureLog {
    link: String,
    bursts: [Mutex<Burst>; Stage::ALL.len()],
}

/// Consecutive failures of one stage.
#[derive(Debug, Default)]
struct Burst {
    /// Failures logged since `since`.
    logged: u32,
    since: Option<Instant>,
    /// The last failure held back, and the number of others held back.
    held: Option<(LogEntry, u64)>,
}

/// The fields of a log line.
#[derive(Debug)]
struct LogEntry {
    client: Client,
    error: String,
    remedy: String,
}

impl FailureLog {
    pub fn of(link: &Link) -> Arc<Self> {
        Arc::new(Self { link: link.name.clone(), bursts: Default::default() })
    }

    /// Logs a failure, now or within a second. Must be called within a runtime.
    pub fn failed(self: &Arc<Self>, client: Client, failure: &Failure, link: &Link) {
        let stage = failure.stage();
        let entry = LogEntry { client, error: failure.to_string(), remedy: failure.remedy(link) };
        let mut burst = self.burst(stage);
        let now = Instant::now();
        if burst.held.is_none() && burst.since.is_none_or(|since| since + INTERVAL <= now) {
            *burst = Burst { logged: 0, since: Some(now), held: None };
        }
        if burst.logged < BURST {
            burst.logged += 1;
            drop(burst);
            return self.write(stage, &entry, 0);
        }
        let others = burst.held.as_ref().map(|(_, others)| others + 1);
        burst.held = Some((entry, others.unwrap_or(0)));
        if others.is_none() {
            let reports = Arc::clone(self);
            tokio::spawn(async move {
                sleep(INTERVAL).await;
                reports.write_held(stage);
            });
        }
    }

    /// Logs what is still held back, at the end of the process.
    pub fn tell_all(&self) {
        for stage in Stage::ALL {
            self.write_held(stage);
        }
    }

    fn write_held(&self, stage: Stage) {
        let mut burst = self.burst(stage);
        if let Some((entry, others)) = burst.held.take() {
            // While failures continue, one line a second, not another burst.
            burst.since = Some(Instant::now());
            // Logged under the lock, so that `tell_all` at the end of the process waits for it.
            self.write(stage, &entry, others);
        }
    }

    fn write(&self, stage: Stage, entry: &LogEntry, others: u64) {
        tracing::warn!(
            target: "client",
            link = self.link,
            client = %entry.client,
            stage = stage.name(),
            error = entry.error,
            remedy = entry.remedy,
            held_back = (others > 0).then_some(others),
            "connection failed"
        );
    }

    fn burst(&self, stage: Stage) -> MutexGuard<'_, Burst> {
        self.bursts[stage as usize].lock()
    }
}
