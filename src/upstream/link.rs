//! A link at work.

use std::sync::Arc;
use std::time::Duration;

use super::backends::{Backends, Lease};
use super::connections::Connections;
use super::dial::{Dialler, Health};
use super::handshake::Upstream;
use super::pool::Pool;
use crate::config::Link;
use crate::failure::Failure;
use crate::failure::log::FailureLog;
use crate::metrics::LinkMetrics;

/// A link at work: what all of its connections share.
pub struct LinkRuntime {
    /// What the configuration says.
    pub link: Link,
    /// What makes upstreams.
    pub dialler: Arc<Dialler>,
    /// Where the target is.
    pub backends: Backends,
    /// What dials have found out about the target.
    pub health: Health,
    /// The upstreams that are ready.
    pub warm: Pool,
    /// The connections that are being served.
    pub connections: Arc<Connections>,
    /// What is counted.
    pub metrics: Arc<LinkMetrics>,
    /// What the log says of those who can't be served.
    pub reports: Arc<FailureLog>,
}

impl LinkRuntime {
    /// An upstream for one client: one that is ready, or else one that is dialled now.
    pub async fn upstream(&self) -> Result<(Upstream, Lease), Failure> {
        if let Some(warm) = self.warm.take(self) {
            return Ok(warm.serve(self));
        }
        self.warm.missed(self);
        let dialled = self.dialler.dial(&self.link, &self.backends, &self.health).await;
        if dialled.is_ok() {
            self.warm.encourage();
        }
        dialled
    }

    /// Finds out whether a client could be served now, and remembers it in the link's health.
    pub async fn find_out(&self, within: Duration) {
        // Whatever came of it, the health knows.
        let _ = self.dialler.dial_once(&self.link, &self.backends, &self.health, within).await;
    }
}
