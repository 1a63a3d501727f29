//! Looks after backends that connections sit at: does the name still have that address, and the server that role?
//!
//! A dial finds out both too, but a link whose clients stay connected may not dial for hours.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep};

use crate::failure::Failure;
use crate::random::jittered;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::{Lease, Listed};

/// How often, more or less.
const LOOK: Duration = Duration::from_secs(2);

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Backends that are looked at together.
const TOGETHER: usize = 16;

/// Looks again and again, for as long as the process runs.
pub(super) async fn watch(service: &LinkRuntime) {
    // Where nobody would ever be asked to leave, and nobody is kept ready, there is nothing to look for.
    if service.backends.grace.is_none() && service.link.warm() == 0 {
        return;
    }
    loop {
        sleep(jittered(LOOK)).await;
        join(look_names_up(service), look_at_roles(service)).await;
    }
}

async fn look_names_up(service: &LinkRuntime) {
    let names = service.backends.listed().into_iter();
    let used = names.filter(|listed| listed.name().is_some() && listed.is_used());
    let look_up = |listed: Arc<Listed>| async move {
        // A name that can't be resolved now has not moved.
        if let Ok(addresses) = service.dialler.resolve(&listed, Instant::now() + PATIENCE).await {
            service.backends.resolved(&listed, &addresses);
        }
    };
    stream::iter(used).for_each_concurrent(TOGETHER, look_up).await;
}

async fn look_at_roles(service: &LinkRuntime) {
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
        let deadline = Instant::now() + PATIENCE.min(service.link.connect_timeout);
        let looked = service.dialler.ask(&service.link, &service.backends, &lease, deadline).await;
        // One that can't be asked, or is too busy to answer, has not been demoted.
        if let Err(failure @ Failure::WrongRole { .. }) = looked {
            service.backends.fails(&lease, &failure);
        }
    };
    stream::iter(used).for_each_concurrent(TOGETHER, look).await;
}
