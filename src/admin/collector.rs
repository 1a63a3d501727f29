//! Metrics collected at each scrape from the state of the links.

use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;

use crate::metrics::labels;
use crate::secret::Source;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::BackendState;

/// The links whose state is collected.
#[derive(Clone)]
pub struct LinkCollector(pub Vec<Arc<LinkRuntime>>);

impl fmt::Debug for LinkCollector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|service| &service.link.name)).finish()
    }
}

impl Collector for LinkCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let Self(services) = self;
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
        let mut stale = encoder.encode_descriptor(
            "secret_stale",
            "Whether the last read of a secret from its file or program failed.",
            None,
            MetricType::Gauge,
        )?;
        for service in services {
            let redis = service.link.redis.as_ref();
            let is_stale = redis.is_some_and(|redis| redis.sources().any(Source::is_stale));
            let number = ConstGauge::new(i64::from(is_stale));
            number.encode(stale.encode_family(&labels(&service.link.name, None))?)?;
        }
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
            |state| state.up,
        )?;
        gauge(
            "backend_wants_no_password",
            "Whether a backend answered the last AUTH that it requires no password.",
            |state| state.wants_no_password,
        )
    }
}
