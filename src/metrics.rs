//! Prometheus metrics.
//!
//! No handle is global: [`LinkMetrics`] has the counters of one link, and each of its methods is an event. Every series
//! exists from the start, at zero. State that is kept elsewhere (current connections, bytes, backends) is collected at
//! each scrape: a connection counts its own bytes, which costs the relay an uncontended store.

pub mod session;
pub mod times;

use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::prometheus_text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use self::session::{Families, SessionMetrics};
use self::times::Times;
use crate::failure::Stage;

/// The HTTP content type of the text format.
pub const CONTENT_TYPE: &str = prometheus_text::CONTENT_TYPE;

/// Upper bounds of a dial's time in seconds: from a server on the same host to the default connect timeout and beyond.
const DIAL_SECONDS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Which secret the target accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CredentialKind {
    /// The configured one.
    Current,
    /// That of `AUTH_PREVIOUS_FILE`.
    Previous,
    /// The last accepted one.
    LastGood,
}

impl CredentialKind {
    const ALL: [Self; 3] = [Self::Current, Self::Previous, Self::LastGood];

    /// The secret's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Previous => "previous",
            Self::LastGood => "last_good",
        }
    }
}

pub type Labels = Vec<(&'static str, String)>;

pub fn labels(link: &str, more: Option<(&'static str, &str)>) -> Labels {
    let more = more.map(|(name, value)| (name, value.to_owned()));
    [("link", link.to_owned())].into_iter().chain(more).collect()
}

/// Where names get our own prefix.
fn own(registry: &mut Registry) -> &mut Registry {
    registry.sub_registry_with_prefix("redis_ambassador")
}

/// The registry, and the families of all links.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    accepted: Family<Labels, Counter>,
    failed: Family<Labels, Counter>,
    dial_seconds: Family<Labels, Times, fn() -> Times>,
    secrets_used: Family<Labels, Counter>,
    secret_reloads: Family<Labels, Counter>,
    warm: Family<Labels, Gauge>,
    warm_hits: Family<Labels, Counter>,
    warm_misses: Family<Labels, Counter>,
    target_changes: Family<Labels, Counter>,
    sessions: Families,
}

impl Metrics {
    pub fn new() -> Self {
        let mut all = Registry::default();
        let registry = own(&mut all);
        let mut metrics = Self {
            sessions: Families::new(registry),
            registry: all,
            accepted: Family::default(),
            failed: Family::default(),
            dial_seconds: Family::new_with_constructor(|| Times::new(&DIAL_SECONDS)),
            secrets_used: Family::default(),
            secret_reloads: Family::default(),
            warm: Family::default(),
            warm_hits: Family::default(),
            warm_misses: Family::default(),
            target_changes: Family::default(),
        };
        // The library adds the full stop to the help text, and `_total` to a counter's name.
        let registry = own(&mut metrics.registry);
        let version = Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]);
        registry.register("build", "The version of this program", version);
        registry.register(
            "connections_accepted",
            "Connections opened by clients, served or not",
            metrics.accepted.clone(),
        );
        registry.register(
            "connections_failed",
            "Connections that were not served, by the stage that failed",
            metrics.failed.clone(),
        );
        registry.register(
            "dial_seconds",
            "Time until a client's connection to the target was ready, including name resolution, TLS and AUTH",
            metrics.dial_seconds.clone(),
        );
        registry.register(
            "auth_secret_used",
            "Successful handshakes, by the secret that was accepted",
            metrics.secrets_used.clone(),
        );
        registry.register(
            "secret_reloads",
            "Times that the value of a secret changed",
            metrics.secret_reloads.clone(),
        );
        registry.register("warm_connections", "Connections kept ready for clients", metrics.warm.clone());
        registry.register("warm_hits", "Clients that got a ready connection", metrics.warm_hits.clone());
        registry.register(
            "warm_misses",
            "Clients for which no connection was ready, though the link has WARM",
            metrics.warm_misses.clone(),
        );
        registry.register(
            "target_changes",
            "Times that the backends of a link changed, moved or were demoted",
            metrics.target_changes.clone(),
        );
        metrics
    }

    /// The metrics of a link, starting at zero.
    pub fn link(&self, name: &str) -> LinkMetrics {
        let of_link = labels(name, None);
        let counter = |family: &Family<Labels, Counter>| family.get_or_create_owned(&of_link);
        let labelled = |family: &Family<Labels, Counter>, label, value| {
            family.get_or_create_owned(&labels(name, Some((label, value))))
        };
        LinkMetrics {
            accepted: counter(&self.accepted),
            failed: Stage::ALL.map(|stage| labelled(&self.failed, "stage", stage.name())),
            dial_seconds: self.dial_seconds.get_or_create_owned(&of_link),
            secrets_used: CredentialKind::ALL
                .map(|which| labelled(&self.secrets_used, "which", which.name())),
            secret_reloads: counter(&self.secret_reloads),
            warm: self.warm.get_or_create_owned(&of_link),
            held: Gauge::default(),
            warm_hits: counter(&self.warm_hits),
            warm_misses: counter(&self.warm_misses),
            target_changes: counter(&self.target_changes),
            session: self.sessions.link(name),
        }
    }

    /// Adds a collector, which is called at every scrape.
    pub fn register(&mut self, collector: Box<dyn Collector>) {
        own(&mut self.registry).register_collector(collector);
    }

    /// The same for what every process has, which goes by the names that are known for that.
    pub fn register_of_process(&mut self, collector: Box<dyn Collector>) {
        self.registry.register_collector(collector);
    }

    /// All metrics in Prometheus' text format.
    pub fn text(&self) -> String {
        let mut text = String::new();
        // Writing to a string can't fail, and neither does a collector.
        let _ = prometheus_text::encode(&mut text, &self.registry);
        text
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// The metrics of one link.
#[derive(Debug)]
pub struct LinkMetrics {
    accepted: Counter,
    failed: [Counter; Stage::ALL.len()],
    dial_seconds: Times,
    secrets_used: [Counter; CredentialKind::ALL.len()],
    secret_reloads: Counter,
    warm: Gauge,
    /// Of those that were ready, the ones that silent clients hold; part of `upstream_connections`.
    held: Gauge,
    warm_hits: Counter,
    warm_misses: Counter,
    target_changes: Counter,
    /// What its sessions count.
    pub session: SessionMetrics,
}

impl LinkMetrics {
    /// A client has connected, served or not.
    pub fn accepted(&self) {
        self.accepted.inc();
    }

    /// A client could not be served.
    pub fn failed(&self, stage: Stage) {
        self.failed[stage as usize].inc();
    }

    /// A client has got its upstream, after this time.
    pub fn dialled(&self, time: Duration) {
        self.dial_seconds.observe(time);
    }

    /// The target accepted a secret.
    pub fn secret_used(&self, which: CredentialKind) {
        self.secrets_used[which as usize].inc();
    }

    /// The value of a secret has changed.
    pub fn secret_reloaded(&self) {
        self.secret_reloads.inc();
    }

    /// Counts a ready connection until the guard is dropped.
    pub fn warm_connection(&self) -> WarmConnection {
        self.warm.inc();
        WarmConnection(self.warm.clone())
    }

    /// Counts a connection that was ready and is held for a silent client, until the guard is dropped.
    pub fn held_connection(&self) -> WarmConnection {
        self.held.inc();
        WarmConnection(self.held.clone())
    }

    /// How many of them there are.
    pub fn held_connections(&self) -> usize {
        usize::try_from(self.held.get()).unwrap_or_default()
    }

    /// How many connections are ready.
    pub fn warm_connections(&self) -> usize {
        usize::try_from(self.warm.get()).unwrap_or_default()
    }

    /// A client has got a ready connection.
    pub fn warm_hit(&self) {
        self.warm_hits.inc();
    }

    /// No connection was ready for a client, though the link has a pool.
    pub fn warm_miss(&self) {
        self.warm_misses.inc();
    }

    /// How many times the value of a secret has changed so far.
    pub fn secret_reloads(&self) -> u64 {
        self.secret_reloads.get()
    }

    /// How many times the backends have changed so far.
    pub fn target_changes(&self) -> u64 {
        self.target_changes.get()
    }

    /// The list of backends, an address or a role has changed.
    pub fn target_changed(&self) {
        self.target_changes.inc();
    }
}

/// Counts a ready connection until it is dropped.
#[derive(Debug)]
pub struct WarmConnection(Gauge);

impl Drop for WarmConnection {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_counted_is_told_under_its_own_name() {
        let metrics = Metrics::new();
        let link = metrics.link("db:5432");
        let told = |series: String| metrics.text().contains(&format!("redis_ambassador_{series} 1\n"));
        for stage in Stage::ALL {
            let series =
                || format!("connections_failed_total{{link=\"db:5432\",stage=\"{}\"}}", stage.name());
            assert!(!told(series()), "{stage:?}");
            link.failed(stage);
            assert!(told(series()), "{stage:?}");
        }
        for which in CredentialKind::ALL {
            let series = || format!("auth_secret_used_total{{link=\"db:5432\",which=\"{}\"}}", which.name());
            assert!(!told(series()), "{which:?}");
            link.secret_used(which);
            assert!(told(series()), "{which:?}");
        }
    }

    #[test]
    fn a_warm_connection_is_counted_for_as_long_as_it_is_there() {
        let metrics = Metrics::new();
        let link = metrics.link("redis:6379");
        let counted = || {
            let text = metrics.text();
            let series = "redis_ambassador_warm_connections{link=\"redis:6379\"} ";
            text.lines().find_map(|line| line.strip_prefix(series)).map(str::to_owned)
        };
        let (first, second) = (link.warm_connection(), link.warm_connection());
        assert_eq!(counted().as_deref(), Some("2"));
        drop((first, second));
        assert_eq!(counted().as_deref(), Some("0"));
    }
}
