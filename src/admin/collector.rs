//! Metrics collected at each scrape from the state of the links.

use std::fmt;
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::config::link::Role;
use crate::metrics::labels;
use crate::net::tls::{Acceptor, Connector};
use crate::secret::Source;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::BackendState;
use crate::upstream::cluster::{ClusterState, topology};
use crate::upstream::connections::Upstreams;

/// The links whose state is collected.
#[derive(Clone)]
pub struct LinkCollector {
    pub links: Vec<Arc<LinkRuntime>>,
    /// How many connections they may have together.
    pub limit: usize,
}

impl fmt::Debug for LinkCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.links.iter().map(|service| &service.link.name)).finish()
    }
}

impl LinkCollector {
    /// What has passed.
    fn encode_moved(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let Self { links: services, .. } = self;
        let mut bytes = encoder.encode_descriptor(
            "bytes",
            "Bytes forwarded, by direction.",
            None,
            MetricType::Counter,
        )?;
        for service in services {
            let moved = service.connections.moved();
            for (direction, number) in [("to_target", moved.to_target), ("to_client", moved.to_client)] {
                let labels = labels(&service.link.name, Some(("direction", direction)));
                ConstCounter::new(number).encode(bytes.encode_family(&labels)?)?;
            }
        }
        let mut commands = encoder.encode_descriptor(
            "commands",
            "Commands of clients, where sessions follow them.",
            None,
            MetricType::Counter,
        )?;
        for service in services {
            let labels = labels(&service.link.name, None);
            ConstCounter::new(service.connections.moved().commands)
                .encode(commands.encode_family(&labels)?)?;
        }
        Ok(())
    }

    /// What serves though it can't be had anew.
    fn encode_stale(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let links = || self.links.iter().map(|service| (service, &*service.link.name));
        let secrets = links().map(|(service, link)| {
            let redis = service.link.redis.as_ref();
            (link, i64::from(redis.is_some_and(|redis| redis.sources().any(Source::is_stale))))
        });
        let help = "Whether the last read of a secret from its file, program or provider failed.";
        of_links(encoder, "secret_stale", help, secrets)?;
        let backends = links().map(|(service, link)| (link, i64::from(service.backends.stale().is_some())));
        let help = "Whether the last look for the backends failed, so that the last list serves.";
        of_links(encoder, "backends_stale", help, backends)?;
        let names = self.links.first().map_or(0, |service| service.dialler.resolver.stale_names());
        ConstGauge::new(i64::try_from(names).unwrap_or(i64::MAX)).encode(encoder.encode_descriptor(
            "names_stale",
            "Names that keep their last addresses, because no name server answers.",
            None,
            MetricType::Gauge,
        )?)
    }

    /// The ends of the certificates that are shown.
    fn encode_certificates(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let mut ends = encoder.encode_descriptor(
            "certificate_not_after_timestamp_seconds",
            "The end of a certificate: the `listener`'s for clients, the `client`'s for the target, the `server`'s that \
             the target showed last.",
            None,
            MetricType::Gauge,
        )?;
        for service in &self.links {
            let (target, clients) = (service.link.tls.as_ref(), service.link.listen_tls.as_ref());
            for (certificate, end) in [
                ("listener", clients.and_then(Acceptor::own_ends)),
                ("client", target.and_then(Connector::own_ends)),
                ("server", target.and_then(Connector::target_ends)),
            ] {
                let since = end.and_then(|end| end.duration_since(UNIX_EPOCH).ok());
                let Some(seconds) = since.and_then(|since| i64::try_from(since.as_secs()).ok()) else {
                    continue;
                };
                let labels = labels(&service.link.name, Some(("certificate", certificate)));
                ConstGauge::new(seconds).encode(ends.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }

    /// What is known of the clusters, where there are any.
    fn encode_clusters(&self, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
        let state = |service: &Arc<LinkRuntime>| {
            let cluster = service.cluster.as_ref()?.states(&service.link);
            Some((service.link.name.clone(), cluster))
        };
        let clusters: Vec<_> = self.links.iter().filter_map(state).collect();
        if clusters.is_empty() {
            return Ok(());
        }
        let mut nodes = encoder.encode_descriptor(
            "cluster_nodes",
            "Nodes that a Redis Cluster tells of, failed ones too, by their role.",
            None,
            MetricType::Gauge,
        )?;
        for (link, cluster) in &clusters {
            for role in [Role::Master, Role::Replica].map(|role| role.to_string()) {
                let number = cluster.nodes.iter().filter(|node| node.role.as_ref() == Some(&role)).count();
                let labels = labels(link, Some(("role", &role)));
                let number = ConstGauge::new(i64::try_from(number).unwrap_or(i64::MAX));
                number.encode(nodes.encode_family(&labels)?)?;
            }
        }
        let slots = |cluster: &ClusterState| i64::from(topology::number(&cluster.slots_uncovered));
        let uncovered = clusters.iter().map(|(link, cluster)| (&**link, slots(cluster)));
        let help = "Slots of a Redis Cluster that nobody serves.";
        of_links(encoder, "cluster_slots_uncovered", help, uncovered)?;
        let nodes = |cluster: &ClusterState| i64::try_from(cluster.without_listener).unwrap_or(i64::MAX);
        let without = clusters.iter().map(|(link, cluster)| (&**link, nodes(cluster)));
        let help = "Nodes of a Redis Cluster without a listener, because CLUSTER_PORTS has too few numbers.";
        of_links(encoder, "cluster_nodes_without_listener", help, without)
    }
}

/// A gauge with a series for each link.
fn of_links<'a>(
    encoder: &mut DescriptorEncoder<'_>,
    name: &str,
    help: &str,
    values: impl Iterator<Item = (&'a str, i64)>,
) -> fmt::Result {
    let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    for (link, value) in values {
        ConstGauge::new(value).encode(gauge.encode_family(&labels(link, None))?)?;
    }
    Ok(())
}

impl Collector for LinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self { links: services, limit } = self;
        let mut active = encoder.encode_descriptor(
            "connections_active",
            "Current connections of clients.",
            None,
            MetricType::Gauge,
        )?;
        for service in services {
            let number = i64::try_from(service.connections.count()).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(active.encode_family(&labels(&service.link.name, None))?)?;
        }
        let mut upstreams = encoder.encode_descriptor(
            "upstream_connections",
            "Current connections to the target: clients' own, those that clients share, those lent to such a client, and those \
             kept ready.",
            None,
            MetricType::Gauge,
        )?;
        for service in services {
            let Upstreams { own, shared, lent } = service.upstreams();
            let ready = service.metrics.warm_connections();
            for (kind, number) in [("own", own), ("shared", shared), ("lent", lent), ("ready", ready)] {
                let labels = labels(&service.link.name, Some(("kind", kind)));
                let number = i64::try_from(number).unwrap_or(i64::MAX);
                ConstGauge::new(number).encode(upstreams.encode_family(&labels)?)?;
            }
        }
        let mut most = encoder.encode_descriptor(
            "connections_limit",
            "Connections of clients that are possible at a time.",
            None,
            MetricType::Gauge,
        )?;
        for service in services {
            let of_link = service.link.max_connections.map_or(*limit, |of_link| of_link.min(*limit));
            let number = i64::try_from(of_link).unwrap_or(i64::MAX);
            ConstGauge::new(number).encode(most.encode_family(&labels(&service.link.name, None))?)?;
        }
        let all = encoder.encode_descriptor(
            "connections_capacity",
            "Connections of clients that the limit on file descriptors carries, those of all links together.",
            None,
            MetricType::Gauge,
        )?;
        ConstGauge::new(i64::try_from(*limit).unwrap_or(i64::MAX)).encode(all)?;
        self.encode_moved(&mut encoder)?;
        self.encode_clusters(&mut encoder)?;
        self.encode_stale(&mut encoder)?;
        self.encode_certificates(&mut encoder)?;
        let mut gauge = |name, help, holds: fn(&BackendState) -> bool| {
            let mut gauge = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for service in services {
                for state in service.backends.states() {
                    let labels = labels(&service.link.name, Some(("backend", &state.backend)));
                    ConstGauge::new(i64::from(holds(&state))).encode(gauge.encode_family(&labels)?)?;
                }
            }
            Ok(())
        };
        gauge(
            "backend_up",
            "Whether the last dial of a backend succeeded, or there was none yet.",
            |state| !state.is_down(),
        )?;
        gauge(
            "backend_wants_no_password",
            "Whether a backend answered the last AUTH that it requires no password.",
            |state| state.wants_no_password,
        )
    }
}
