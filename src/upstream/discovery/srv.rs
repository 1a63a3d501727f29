//! Backends from DNS SRV records (RFC 2782).

use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::net::Endpoint;
use crate::net::resolve::Resolver;
use crate::upstream::backends::{Backends, Listing};

/// Records are looked up again when they run out, but no sooner than this, whatever their TTL and however many dials
/// fail,
const SOONEST: Duration = Duration::from_secs(1);
/// and no later than this.
const LATEST: Duration = Duration::from_secs(10);

/// Looks the records up again and again, for as long as the process runs.
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
                services.ttl.clamp(SOONEST, LATEST)
            }
            Err(reason) => {
                backends.unknown(&format!("the SRV records of {name}: {reason}"));
                SOONEST
            }
        };
        tokio::select! {
            () = sleep_until(asked + hold) => {}
            () = backends.wanted() => sleep_until(asked + SOONEST).await,
        }
    }
}
