//! The rate-limited log of failed connections, and of clients whose own password the target refuses.
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
    failed: [Mutex<Burst>; Stage::ALL.len()],
    password_refused: Mutex<Burst>,
}

/// What lines are counted together.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Connections that failed at this stage.
    Failed(Stage),
    /// Clients whose own password the target has refused.
    PasswordRefused,
}

/// Consecutive lines of one kind.
#[derive(Debug, Default)]
struct Burst {
    /// Lines logged since `since`.
    logged: u32,
    since: Option<Instant>,
    /// The last line held back, and the number of others held back.
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
        Arc::new(Self {
            link: link.name.clone(),
            failed: Default::default(),
            password_refused: Mutex::default(),
        })
    }

    /// Logs a failure, now or within a second. Must be called within a runtime.
    pub fn failed(self: &Arc<Self>, client: Client, failure: &Failure, link: &Link) {
        let entry = LogEntry { client, error: failure.to_string(), remedy: failure.remedy(link) };
        self.tell(Kind::Failed(failure.stage()), entry);
    }

    /// Logs that the target has refused a password that came from the client, now or within a second. Must be called within
    /// a runtime.
    pub fn password_refused(self: &Arc<Self>, client: Client, link: &Link) {
        let error = "the client sends a password of its own, and the target does not take it".to_owned();
        let remedy = format!(
            "take the password out of the client's configuration, or set {}=absorb, which answers it here",
            link.setting("CLIENT_AUTH")
        );
        self.tell(Kind::PasswordRefused, LogEntry { client, error, remedy });
    }

    fn tell(self: &Arc<Self>, kind: Kind, entry: LogEntry) {
        let mut burst = self.burst(kind);
        let now = Instant::now();
        if burst.held.is_none() && burst.since.is_none_or(|since| since + INTERVAL <= now) {
            *burst = Burst { logged: 0, since: Some(now), held: None };
        }
        if burst.logged < BURST {
            burst.logged += 1;
            drop(burst);
            return self.write(kind, &entry, 0);
        }
        let others = burst.held.as_ref().map(|(_, others)| others + 1);
        burst.held = Some((entry, others.unwrap_or(0)));
        if others.is_none() {
            let reports = Arc::clone(self);
            tokio::spawn(async move {
                sleep(INTERVAL).await;
                reports.write_held(kind);
            });
        }
    }

    /// Logs what is still held back, at the end of the process.
    pub fn tell_all(&self) {
        for kind in Stage::ALL.map(Kind::Failed).into_iter().chain([Kind::PasswordRefused]) {
            self.write_held(kind);
        }
    }

    fn write_held(&self, kind: Kind) {
        let mut burst = self.burst(kind);
        if let Some((entry, others)) = burst.held.take() {
            // While failures continue, one line a second, not another burst.
            burst.since = Some(Instant::now());
            // Logged under the lock, so that `tell_all` at the end of the process waits for it.
            self.write(kind, &entry, others);
        }
    }

    fn write(&self, kind: Kind, entry: &LogEntry, others: u64) {
        let held_back = (others > 0).then_some(others);
        let LogEntry { client, error, remedy } = entry;
        match kind {
            Kind::Failed(stage) => tracing::warn!(
                target: "client",
                link = self.link,
                %client,
                stage = stage.name(),
                error,
                remedy,
                held_back,
                "connection failed"
            ),
            Kind::PasswordRefused => tracing::warn!(
                target: "client",
                link = self.link,
                %client,
                error,
                remedy,
                held_back,
                "target refused the client's own password"
            ),
        }
    }

    fn burst(&self, kind: Kind) -> MutexGuard<'_, Burst> {
        match kind {
            Kind::Failed(stage) => &self.failed[stage as usize],
            Kind::PasswordRefused => &self.password_refused,
        }
        .lock()
    }
}
