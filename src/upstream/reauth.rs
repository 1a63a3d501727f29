//! Keeps open sessions authenticated: another secret is shown on each of them.
//!
//! Servers that take tokens end connections whose token has ended; and a server may forget a password that was rotated.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use super::LinkRuntime;

/// How often the sources are looked at, while there are connections.
const INTERVAL: Duration = Duration::from_millis(250);

/// The longest time over which the sessions are spread.
const LONGEST: Duration = Duration::from_mins(1);

/// Has open sessions show each secret that comes, for as long as the process runs.
pub async fn run(service: &LinkRuntime) {
    let redis = service.link.redis.as_ref().filter(|redis| redis.sessions && redis.reauth);
    let Some(credentials) = redis.and_then(|redis| redis.credentials.as_ref()) else { return };
    if !credentials.can_change() {
        return;
    }
    let mut known = credentials.last();
    let mut since = Instant::now();
    loop {
        sleep(INTERVAL).await;
        if service.connections.count() == 0 {
            known = credentials.last();
            continue;
        }
        credentials.refresh(INTERVAL, &service.metrics).await;
        let last = credentials.last();
        if last == known {
            continue;
        }
        known = last;
        // A tenth of what the last one has lived for.
        let spread = (since.elapsed() / 10).min(LONGEST);
        since = Instant::now();
        service.connections.authenticate_all(spread).await;
    }
}
