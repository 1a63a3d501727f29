//! The accept loop: it can neither die nor spin.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio::task::JoinSet;
use tokio::task::coop::unconstrained;
use tokio::time::sleep;

use crate::backoff::Backoff;
use crate::client::connection::LINGER;
use crate::failure::Failure;
use crate::net::{Accepted, BACKLOG, Client, Listener};
use crate::upstream::LinkRuntime;
use crate::upstream::cluster::{Cluster, Opened};
use crate::upstream::connections::ConnectionGuard;
use crate::upstream::pool;
use crate::workers::{LoadGuard, Placement, Workers};

/// Behind accepts that fail: out of file descriptors, the only cure is that connections end.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(5), longest: Duration::from_secs(1) };

/// What bounds the connections that are accepted.
#[derive(Clone)]
pub struct Admission {
    /// Those of the link.
    pub link: Option<Arc<Semaphore>>,
    /// Those of the whole process, by its file descriptors.
    pub process: Arc<Semaphore>,
    /// Clients that are being told that they are not served, each for a short time.
    pub refusals: Arc<Semaphore>,
}

type Permits = (Option<OwnedSemaphorePermit>, OwnedSemaphorePermit);

/// What a connection holds while it lives; all of it is given back when it is dropped.
#[derive(Debug)]
pub struct Admitted {
    /// Its registration among the link's connections.
    pub guard: ConnectionGuard,
    _permits: Permits,
    _place: LoadGuard,
}

impl Admission {
    fn admit(&self, service: &LinkRuntime, client: Client) -> Result<Permits, Failure> {
        let allow = &service.link.allow;
        if let Some(address) = client.address()
            && !allow.is_empty()
            && !allow.iter().any(|network| network.contains(&address))
        {
            return Err(Failure::NotAllowed { address });
        }
        let take = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned();
        let link = self.link.as_ref().map(take).transpose();
        let permits = link.and_then(|link| take(&self.process).map(|process| (link, process)));
        permits.map_err(|_| Failure::Full)
    }
}

/// Accepts until `stop` says so; then takes in those who were waiting already, and closes the listener.
pub async fn accept(
    mut listener: Listener,
    service: Arc<LinkRuntime>,
    admission: Admission,
    workers: Arc<Workers>,
    mut stop: watch::Receiver<bool>,
) {
    let mut failures = 0;
    loop {
        let accepted = tokio::select! {
            biased;
            // The sender lives as long as the process; without it there is nothing left to accept for.
            _ = stop.wait_for(|stop| *stop) => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((accepted, client)) => {
                failures = 0;
                admit(accepted, client, &service, &admission, &workers);
            }
            Err(error) if concerns_one_client(&error) => {}
            Err(error) => {
                tracing::error!(
                    target: "client",
                    link = service.link.name,
                    %error,
                    remedy = "raise the limit on open files (ulimit -n), or lower AMBASSADOR_MAX_CONNECTIONS",
                    "accept failed; retrying"
                );
                failures += 1;
                tokio::select! {
                    () = sleep(BACKOFF.wait(failures)) => {}
                    _ = stop.wait_for(|stop| *stop) => break,
                }
            }
        }
    }
    // More than can have waited is not taken in, so that a flood of new ones can't go on for ever.
    for _ in 0..BACKLOG {
        // Unconstrained: the runtime's budget would call it the end after a few.
        match unconstrained(listener.accept()).now_or_never() {
            Some(Ok((accepted, client))) => admit(accepted, client, &service, &admission, &workers),
            Some(Err(error)) if concerns_one_client(&error) => {}
            Some(Err(_)) | None => break,
        }
    }
}

/// Accepts the clients of a cluster's nodes, each on its own listener, until `stop` says so.
pub async fn accept_at_nodes(
    cluster: Arc<Cluster>,
    mut opened: mpsc::UnboundedReceiver<Opened>,
    admission: Admission,
    workers: Arc<Workers>,
    mut stop: watch::Receiver<bool>,
) {
    let mut accepting = JoinSet::new();
    loop {
        let opened = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            opened = opened.recv() => opened,
            Some(_) = accepting.join_next() => continue,
        };
        let Some(Opened { listener, service, stop }) = opened else { break };
        let (ready, until) = (Arc::clone(&service), stop.clone());
        accepting.spawn(async move { pool::keep(&ready, until).await });
        accepting.spawn(accept(listener, service, admission.clone(), Arc::clone(&workers), stop));
    }
    cluster.close();
    // A listener that was opened at the last moment is closed unseen.
    drop(opened);
    while accepting.join_next().await.is_some() {}
}

/// accept(2): the connection was gone before it was taken; the next one is not affected.
fn concerns_one_client(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset | io::ErrorKind::Interrupted
    )
}

fn admit(
    accepted: Accepted,
    client: Client,
    service: &Arc<LinkRuntime>,
    admission: &Admission,
    workers: &Workers,
) {
    let service = Arc::clone(service);
    service.metrics.accepted();
    match admission.admit(&service, client) {
        Ok(permits) => {
            let guard = service.connections.register();
            let placement = if service.sharing.is_on() { Placement::Together } else { Placement::Apart };
            workers.spawn(placement, |place| {
                service.serve(accepted, client, Admitted { guard, _permits: permits, _place: place })
            });
        }
        Err(failure) => {
            // Where even these are too many, the client is told and not waited for.
            let permit = Arc::clone(&admission.refusals).try_acquire_owned();
            let linger = if permit.is_ok() { LINGER } else { Duration::ZERO };
            workers.spawn(Placement::Apart, |place| async move {
                service.reject_early(accepted, client, &failure, linger).await;
                drop((permit, place));
            });
        }
    }
}
