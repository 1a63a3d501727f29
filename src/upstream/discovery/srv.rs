//! Backends from DNS SRV records (RFC 2782).

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::net::Endpoint;
use crate::net::resolve::Resolver;
use crate::upstream::backends::{Backends, Listing};

/// The shortest time between two lookups, whatever the TTL and however many dials fail.
const MIN_INTERVAL: Duration = Duration::from_secs(1);
/// The longest time between two lookups, whatever the TTL.
const MAX_INTERVAL: Duration = Duration::from_secs(10);

/// Looks the records up whenever their TTL ends or a dial has failed. Never returns.
pub(super) async fn follow(backends: &Backends, resolver: &Resolver, name: &str) {
    loop {
        let asked = Instant::now();
        let hold = match resolver.services(name).await {
            Ok(services) => {
                let listing = |service: crate::net::resolve::Service| Listing {
                    endpoint: Endpoint::Tcp(service.host, service.port),
                    priority: service.priority,
                    weight: Some(service.weight),
                };
                backends.publish(services.records.into_iter().map(listing).collect(), "srv_changed");
                services.ttl.clamp(MIN_INTERVAL, MAX_INTERVAL)
            }
            Err(reason) => {
                backends.unknown(&format!("the SRV records of {name}: {reason}"), None);
                MIN_INTERVAL
            }
        };
        tokio::select! {
            () = sleep_until(asked + hold) => {}
            () = backends.refresh_requested() => sleep_until(asked + MIN_INTERVAL).await,
        }
    }
}
