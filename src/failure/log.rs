//! What the log says of clients that can't be served: each with its stage, why, and the remedy.
//!
//! A target that is down fails every client, and a log that is flooded hides what else it says. So of each stage the first
//! few failures are told at once, and after them one a second, which says how many were held back.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use tokio::time::{Instant, sleep};

use crate::config::Link;
use crate::failure::{Failure, Stage};
use crate::net::Client;

/// Enough to see whether it is one client or all of them.
const AT_ONCE: u32 = 5;

/// How often there is a line after them.
const PACE: Duration = Duration::from_secs(1);

/// The failures of one link.
#[derive(Debug)]
pub struct FailureLog {
    link: String,
    bursts: [Mutex<Burst>; Stage::ALL.len()],
}

/// Failures of one stage that come close to each other.
#[derive(Debug, Default)]
struct Burst {
    /// Failures that were told since then.
    told: u32,
    since: Option<Instant>,
    /// The last one that was not told, and how many others were not.
    held: Option<(Told, u64)>,
}

/// What is told of a failure.
#[derive(Debug)]
struct Told {
    client: Client,
    error: String,
    remedy: String,
}

impl FailureLog {
    /// Nothing has failed yet.
    pub fn of(link: &Link) -> Arc<Self> {
        Arc::new(Self { link: link.name.clone(), bursts: Default::default() })
    }

    /// Tells of a failure, now or within a second. Must be called within a runtime.
    pub fn failed(self: &Arc<Self>, client: Client, failure: &Failure, link: &Link) {
        let stage = failure.stage();
        let told = Told { client, error: failure.to_string(), remedy: failure.remedy(link) };
        let mut burst = self.burst(stage);
        let now = Instant::now();
        if burst.held.is_none() && burst.since.is_none_or(|since| since + PACE <= now) {
            *burst = Burst { told: 0, since: Some(now), held: None };
        }
        if burst.told < AT_ONCE {
            burst.told += 1;
            drop(burst);
            return self.tell(stage, &told, 0);
        }
        let others = burst.held.as_ref().map(|(_, others)| others + 1);
        burst.held = Some((told, others.unwrap_or(0)));
        if others.is_none() {
            let reports = Arc::clone(self);
            tokio::spawn(async move {
                sleep(PACE).await;
                reports.tell_held(stage);
            });
        }
    }

    /// Tells what is held back still; for the end of the process.
    pub fn tell_all(&self) {
        for stage in Stage::ALL {
            self.tell_held(stage);
        }
    }

    fn tell_held(&self, stage: Stage) {
        let mut burst = self.burst(stage);
        if let Some((told, others)) = burst.held.take() {
            // While it goes on there is one line a second, not the first few again.
            burst.since = Some(Instant::now());
            // Under the lock, so that the process does not end between the two.
            self.tell(stage, &told, others);
        }
    }

    fn tell(&self, stage: Stage, told: &Told, others: u64) {
        tracing::warn!(
            target: "client",
            link = self.link,
            client = %told.client,
            stage = stage.name(),
            error = told.error,
            remedy = told.remedy,
            held_back = (others > 0).then_some(others),
            "connection failed"
        );
    }

    fn burst(&self, stage: Stage) -> MutexGuard<'_, Burst> {
        self.bursts[stage as usize].lock()
    }
}
