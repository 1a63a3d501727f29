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
use crate::systemd::ServiceManager;
use crate::upstream::LinkRuntime;
use crate::upstream::cluster::{Change, Cluster, Opened};
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
        // Where a balancer says who the client is, it is judged after that.
        if !service.link.listen_proxy_protocol {
            service.link.allows(client).map_err(|address| Failure::NotAllowed { address })?;
        }
        let take = |permits: &Arc<Semaphore>| Arc::clone(permits).try_acquire_owned();
        let link = self.link.as_ref().map(take).transpose();
        let permits = link.and_then(|link| take(&self.process).map(|process| (link, process)));
        permits.map_err(|_| Failure::Full)
    }
}

/// Accepts until `stop` says so; then takes in those who were waiting already, but for the clients of the next process,
/// and closes the listener.
pub async fn accept(
    mut listener: Listener,
    service: Arc<LinkRuntime>,
    admission: Admission,
    workers: Arc<Workers>,
    mut stop: watch::Receiver<bool>,
) {
    accept_until(&mut listener, &service, &admission, &workers, &mut stop).await;
    listener.let_go();
    take_in(&mut listener, &service, &admission, &workers);
}

async fn accept_until(
    listener: &mut Listener,
    service: &Arc<LinkRuntime>,
    admission: &Admission,
    workers: &Workers,
    stop: &mut watch::Receiver<bool>,
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
                admit(accepted, client, service, admission, workers);
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
}

/// Takes in those who wait.
fn take_in(listener: &mut Listener, service: &Arc<LinkRuntime>, admission: &Admission, workers: &Workers) {
    // More than can have waited is not taken in, so that a flood of new ones can't go on for ever.
    for _ in 0..BACKLOG {
        // Unconstrained: the runtime's budget would call it the end after a few.
        match unconstrained(listener.accept()).now_or_never() {
            Some(Ok((accepted, client))) => admit(accepted, client, service, admission, workers),
            Some(Err(error)) if concerns_one_client(&error) => {}
            Some(Err(_)) | None => break,
        }
    }
}

/// Accepts the clients of a cluster's nodes, each on its own listener, until `stop` says so.
pub async fn accept_at_nodes(
    cluster: Arc<Cluster>,
    mut changes: mpsc::UnboundedReceiver<Change>,
    admission: Admission,
    workers: Arc<Workers>,
    manager: Arc<ServiceManager>,
    mut stop: watch::Receiver<bool>,
) {
    let mut accepting = JoinSet::new();
    loop {
        let change = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => break,
            change = changes.recv() => change,
            Some(_) = accepting.join_next() => continue,
        };
        match change {
            Some(Change::Opened(opened)) => {
                let (ready, until) = (Arc::clone(&opened.service), opened.stop.clone());
                accepting.spawn(async move { pool::keep(&ready, until).await });
                let (admission, workers, manager) =
                    (admission.clone(), Arc::clone(&workers), Arc::clone(&manager));
                accepting.spawn(accept_at_node(opened, admission, workers, manager, stop.clone()));
            }
            Some(Change::Unneeded(names)) => {
                for name in names {
                    manager.take_back(&name).await;
                }
            }
            None => break,
        }
    }
    cluster.close();
    // A listener that was opened at the last moment is closed unseen.
    drop(changes);
    while accepting.join_next().await.is_some() {}
}

/// Accepts until the node is gone, or the process `ends`: then the next one goes on with the listener.
async fn accept_at_node(
    Opened { mut listener, service, mut stop }: Opened,
    admission: Admission,
    workers: Arc<Workers>,
    manager: Arc<ServiceManager>,
    ends: watch::Receiver<bool>,
) {
    listener.store(&manager).await;
    accept_until(&mut listener, &service, &admission, &workers, &mut stop).await;
    if *ends.borrow() {
        listener.let_go();
    }
    take_in(&mut listener, &service, &admission, &workers);
    listener.take_back(&manager).await;
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
