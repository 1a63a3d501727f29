//! Checks the backends that have connections: does the name still have the address, and the server the role?
//!
//! A dial checks both too, but a link whose clients stay connected may not dial for hours.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::random::jittered;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::{Lease, Listed};

/// The interval of the checks, jittered.
const INTERVAL: Duration = Duration::from_secs(2);

/// The timeout of one check.
const TIMEOUT: Duration = Duration::from_secs(5);

/// Backends checked concurrently.
const MAX_CONCURRENT_CHECKS: usize = 16;

/// Checks every [`INTERVAL`]. Never returns unless there is nothing to check.
pub(super) async fn watch(service: &LinkRuntime) {
    // Without a drain (MOVE_GRACE=off) and without a pool a change has no effect.
    if service.link.move_grace.is_none() && service.link.warm() == 0 {
        return;
    }
    loop {
        sleep(jittered(INTERVAL)).await;
        join(check_names(service), check_roles(service)).await;
    }
}

async fn check_names(service: &LinkRuntime) {
    let names = service.backends.listed().into_iter();
    let used = names.filter(|listed| listed.name().is_some() && listed.is_used());
    let look_up = |listed: Arc<Listed>| async move {
        // A name that can't be resolved now keeps its addresses.
        if let Ok(addresses) = service.dialler.resolve(&listed, Instant::now() + TIMEOUT).await {
            service.backends.resolved(&listed, &addresses);
        }
    };
    stream::iter(used).for_each_concurrent(MAX_CONCURRENT_CHECKS, look_up).await;
}

async fn check_roles(service: &LinkRuntime) {
    if service.link.redis.as_ref().is_none_or(|redis| redis.role.is_none()) {
        return;
    }
    let mut used = Vec::new();
    for entry in service.backends.list().iter() {
        let ways = entry.backends.iter().filter(|backend| backend.active() > 0);
        used.extend(ways.map(|backend| (Arc::clone(entry), Arc::clone(backend))));
    }
    let look = |(entry, backend)| async move {
        let lease = Lease::at(&entry, &backend);
        let deadline = Instant::now() + TIMEOUT.min(service.link.connect_timeout);
        let looked = service.dialler.ask(&service.link, &service.backends, &lease, deadline).await;
        // A server that can't be reached, or is too busy to answer, keeps its role.
        if let Err(failure @ Failure::WrongRole { .. }) = looked {
            service.backends.fails(&lease, &failure);
        }
    };
    stream::iter(used).for_each_concurrent(MAX_CONCURRENT_CHECKS, look).await;
}
