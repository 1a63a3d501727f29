//! Looks after backends that connections sit at: does the name still have that address, and the server that role?
//!
//! A dial finds out both too, but a link whose clients stay connected may not dial for hours.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join;
use futures_util::stream::{self, StreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::{Backend, Place};
use crate::config::target::{Endpoint, Host};
use crate::connection::Service;
use crate::failure::Failure;
use crate::random::jittered;

/// How often, more or less.
const LOOK: Duration = Duration::from_secs(2);

/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Backends that are looked at together.
const TOGETHER: usize = 16;

/// Looks again and again, for as long as the process runs.
pub(super) async fn watch(service: &Service) {
    // Where nobody would ever be asked to leave, and nobody is kept ready, there is nothing to look for.
    if service.backends.grace.is_none() && service.link.warm() == 0 {
        return;
    }
    loop {
        sleep(jittered(LOOK)).await;
        let list = service.backends.list();
        let used = list.iter().map(|entry| &entry.backend).filter(|backend| backend.active() > 0);
        stream::iter(used)
            .for_each_concurrent(TOGETHER, |backend| async move {
                join(look_up(service, backend), look_at_role(service, backend)).await;
            })
            .await;
    }
}

async fn look_up(service: &Service, backend: &Backend) {
    let Endpoint::Tcp(host @ (Host::Name(_) | Host::Linked { .. }), _) = &backend.endpoint else {
        return;
    };
    // A name that can't be resolved now has not moved.
    if let Ok(Ok(addresses)) = timeout(PATIENCE, service.dialler.resolver.addresses(host)).await {
        service.backends.found(backend, &addresses);
    }
}

async fn look_at_role(service: &Service, backend: &Arc<Backend>) {
    if service.link.redis.as_ref().is_none_or(|redis| redis.role.is_none()) {
        return;
    }
    let mut place = Place::at(backend);
    let deadline = Instant::now() + PATIENCE.min(service.link.connect_timeout);
    let looked = service.dialler.attempt(&service.link, &service.backends, &mut place, 0, deadline).await;
    // One that can't be asked, or is too busy to answer, has not been demoted.
    if let Err(failure @ Failure::WrongRole { .. }) = looked {
        service.backends.fails(backend, &failure);
    }
}
