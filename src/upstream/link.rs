//! A link at run time.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::backends::{Backends, Lease};
use super::cluster::Cluster;
use super::connections::{Connections, Upstreams};
use super::dial::{Dialler, Health};
use super::handshake::Upstream;
use super::pool::{Origin, Pool};
use super::sharing::Sharing;
use crate::config::Link;
use crate::failure::Failure;
use crate::failure::log::FailureLog;
use crate::metrics::LinkMetrics;
use crate::net::Endpoint;
use crate::net::proxy_protocol::Header;
use crate::random::fraction;
use crate::relay::drain::{DrainRequest, Reason};
use crate::relay::{Limits, Restore};

/// Longer than any process runs.
const NO_DEADLINE: Duration = Duration::from_hours(24 * 365 * 30);

/// What all connections of one link share.
pub struct LinkRuntime {
    pub link: Arc<Link>,
    pub dialler: Arc<Dialler>,
    pub backends: Backends,
    /// The result of the last dial.
    pub health: Health,
    pub warm: Pool,
    pub sharing: Sharing,
    pub connections: Arc<Connections>,
    pub metrics: Arc<LinkMetrics>,
    /// The rate-limited log of failed connections.
    pub reports: Arc<FailureLog>,
    /// The cluster that it leads to, if it is one.
    pub cluster: Option<Arc<Cluster>>,
    /// Whether it leads to one node of that alone.
    pub is_node: bool,
}

impl LinkRuntime {
    /// The runtime of one node of the link's cluster: all is the link's own, but for what is about the upstreams.
    pub fn at_node(&self, endpoint: &Endpoint) -> Self {
        Self {
            backends: self.backends.at_one(endpoint),
            health: Health::default(),
            warm: Pool::of(&self.link),
            sharing: Sharing::of(&self.link),
            link: Arc::clone(&self.link),
            dialler: Arc::clone(&self.dialler),
            connections: Arc::clone(&self.connections),
            metrics: Arc::clone(&self.metrics),
            reports: Arc::clone(&self.reports),
            cluster: self.cluster.clone(),
            is_node: true,
        }
    }

    /// What a client reads that can't be served; empty for one that has left.
    pub fn refusal(&self, failure: &Failure) -> String {
        if self.is_node && failure.is_of_one_server() {
            // Clients of a cluster ask another node then, and come again. They hear of no node's own address.
            let link = &self.link.name;
            return format!(
                "-CLUSTERDOWN redis-ambassador: {link}: this node can't be reached at the moment\r\n"
            );
        }
        failure.reply(&self.link.name)
    }

    /// An upstream for one client: from the pool, else dialled. It has the state that a session had before, and its target is
    /// told whose it is.
    pub async fn upstream(
        &self,
        restore: &Restore,
        whose: Header,
    ) -> Result<(Upstream, Lease, Origin), Failure> {
        if let Some(warm) = self.warm.take(self) {
            let (upstream, lease, origin) = warm.serve(self);
            // One that can't take over is replaced like any other that has ended.
            if let Ok(upstream) = self.dialler.restore(&self.link, &lease, upstream, restore).await {
                return Ok((upstream, lease, origin));
            }
        } else {
            self.warm.missed(self);
        }
        let origin = Origin::now(self);
        let (upstream, lease) =
            self.dialler.dial(&self.link, &self.backends, &self.health, restore, whose).await?;
        self.warm.reset_backoff();
        Ok((upstream, lease, origin))
    }

    /// Takes back an upstream that was lent to a session; what that has left behind is taken away. One with which that
    /// can't be done is closed.
    pub async fn take_back(self: Arc<Self>, upstream: Upstream, left: Restore, lease: Lease, origin: Origin) {
        let Some(undone) = left.undone(self.link.database()) else { return };
        if let Ok(upstream) = self.dialler.undo(&self.link, &lease, upstream, &undone).await {
            self.warm.give_back(&self, upstream, lease, origin);
        }
    }

    /// How long a connection that begins now may live.
    pub fn limits(&self) -> Limits {
        let now = Instant::now();
        Limits {
            idle: self.link.idle_timeout,
            idle_since: now,
            release_after: self.link.redis.as_ref().and_then(|redis| redis.release_after),
            lifetime: self.link.max_lifetime.map(|lifetime| {
                // Connections that came together don't have to go together: up to a tenth earlier. A tunnel is over a
                // tenth later in any case.
                let from = now + lifetime.mul_f64(1.0 - 0.1 * fraction());
                // A session ends nothing for it that is under way.
                let has_session = self.link.redis.as_ref().is_some_and(|redis| redis.sessions);
                let grace = if has_session { NO_DEADLINE } else { lifetime / 10 };
                (from, DrainRequest { reason: Reason::Lifetime, from, latest: now + lifetime + grace })
            }),
        }
    }

    /// How many upstreams clients have; those that hold one and have said nothing yet have it for their own.
    pub fn upstreams(&self) -> Upstreams {
        let upstreams = self.connections.upstreams();
        Upstreams { own: upstreams.own + self.metrics.held_connections(), ..upstreams }
    }

    /// Dials once to check the target; the result is in the link's health.
    pub async fn find_out(&self, within: Duration) {
        // The health has the result, an error too.
        let _ = self.dialler.dial_once(&self.link, &self.backends, &self.health, within).await;
    }
}
