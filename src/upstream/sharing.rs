//! The upstreams that clients of a link share (`SHARE`): so many for each thread and each state (database, protocol).
//!
//! An upstream belongs to a task of its own, on the thread of its sessions, from the first session that needs one until
//! nobody has for a while.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::{self, ThreadId};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{Instant, timeout_at};

use super::LinkRuntime;
use super::backends::Lease;
use crate::config::Link;
use crate::config::link::Credentials;
use crate::failure::{Failure, Stage};
use crate::net::Stream;
use crate::net::proxy_protocol::Header;
use crate::relay::{Driver, Ended, Restore, Seat, Shared, UNASKED_ERROR};
use crate::resp;
use crate::text;

/// So many shared upstreams one after the other, each [young](YOUNG), on which the target says what nobody has asked for:
/// it can't be shared.
const MOST_SPOILED: u32 = 3;
const YOUNG: Duration = Duration::from_secs(10);

/// A dial tells by itself that it takes too long, and says more.
const GRACE: Duration = Duration::from_millis(100);

/// The shared upstreams of one link.
#[derive(Debug)]
pub struct Sharing {
    /// How many for each thread and state; none where nothing is shared.
    each: usize,
    spoiled: AtomicU32,
    groups: Mutex<Groups>,
}

/// By their thread and state.
type Groups = HashMap<(ThreadId, Restore), Arc<Group>>;

/// Those of one thread and state.
#[derive(Debug, Default)]
struct Group {
    upstreams: Mutex<Vec<Shared>>,
    /// Held while one is dialled, so that clients that come together do not dial one each.
    dialling: tokio::sync::Mutex<()>,
}

impl Sharing {
    pub fn of(link: &Link) -> Self {
        Self { each: link.share(), spoiled: AtomicU32::new(0), groups: Mutex::default() }
    }

    /// Whether sessions share upstreams.
    pub fn is_on(&self) -> bool {
        self.each > 0 && self.spoiled.load(Ordering::Relaxed) < MOST_SPOILED
    }

    /// One has ended after that time. Returns whether nothing is shared from now on.
    fn ended(&self, is_spoiled: bool, age: Duration) -> bool {
        if is_spoiled && age < YOUNG {
            return self.spoiled.fetch_add(1, Ordering::Relaxed) + 1 == MOST_SPOILED;
        }
        if age >= YOUNG && self.is_on() {
            self.spoiled.store(0, Ordering::Relaxed);
        }
        false
    }

    /// A seat at an upstream of that state, if there is one.
    pub fn seat(&self, state: &Restore) -> Option<Seat> {
        let group = self.groups.lock().get(&key(state)).cloned();
        group?.seat(1)
    }

    fn group(&self, state: &Restore) -> Arc<Group> {
        Arc::clone(self.groups.lock().entry(key(state)).or_default())
    }
}

fn key(state: &Restore) -> (ThreadId, Restore) {
    (thread::current().id(), state.clone())
}

impl Group {
    /// A seat at the upstream with the fewest sessions; none where there are less than `least` and each has some.
    fn seat(&self, least: usize) -> Option<Seat> {
        let mut upstreams = self.upstreams.lock();
        upstreams.retain(|upstream| !upstream.is_over());
        let fewest = upstreams.iter().min_by_key(|upstream| upstream.sessions())?;
        if upstreams.len() < least && fewest.sessions() > 0 { None } else { fewest.seat() }
    }
}

impl LinkRuntime {
    /// A seat at an upstream of that state, which is dialled where there are too few.
    pub async fn seat(self: &Arc<Self>, state: &Restore) -> Result<Seat, Failure> {
        let (group, each, after) = (self.sharing.group(state), self.sharing.each, self.link.connect_timeout);
        let latest = Instant::now() + after;
        if let Some(seat) = group.seat(each) {
            return Ok(seat);
        }
        let late = || {
            let doing = "waiting for a connection that clients share".to_owned();
            Failure::TimedOut { stage: Stage::Connect, doing, after }
        };
        let Ok(_dialling) = timeout_at(latest, group.dialling.lock()).await else {
            return group.seat(1).ok_or_else(late);
        };
        if let Some(seat) = group.seat(each) {
            return Ok(seat);
        }
        let dialled = timeout_at(latest + GRACE, self.upstream(state, Header::Own)).await;
        let (upstream, lease, _) = match dialled.unwrap_or_else(|_| Err(late())) {
            Ok(dialled) => dialled,
            // Few are better than none.
            Err(failure) => return group.seat(1).ok_or(failure),
        };
        let (stream, leading) = upstream.into_parts();
        let (shared, seat) = Shared::new(lease.backend().number, state.clone(), self.link.database());
        group.upstreams.lock().push(shared.clone());
        tokio::spawn(drive(Arc::clone(self), shared, stream, leading, lease));
        Ok(seat)
    }
}

/// Moves bytes for as long as the upstream lasts.
async fn drive(
    service: Arc<LinkRuntime>,
    shared: Shared,
    mut stream: Stream,
    leading: Vec<u8>,
    lease: Lease,
) {
    let guard = service.connections.register_shared();
    let backend = lease.to_string();
    service.backends.assign(&guard, lease);
    let mut driver = Driver::new(shared, leading, service.limits().lifetime);
    let begun = Instant::now();
    let ended = poll_fn(|cx| {
        let ended = driver.poll(cx, &mut stream, &guard);
        if guard.wants_authentication() {
            guard.forget_authentication();
            if let Some(credential) = service.link.credentials().and_then(Credentials::last) {
                driver.reauthenticate(resp::commands(&[credential.command()]).expose());
            }
        }
        if let Some(is_accepted) = driver.take_reauthenticated() {
            service.metrics.session.reauthenticated(is_accepted);
        }
        ended
    })
    .await;
    drop(driver);
    let link = &service.link.name;
    let is_spoiled = matches!(ended, Ended::Spoiled(said) if said != UNASKED_ERROR);
    let is_over = service.sharing.ended(is_spoiled, begun.elapsed());
    match ended {
        Ended::Spoiled(said) => tracing::error!(
            target: "client",
            link,
            backend,
            said,
            remedy = "check what stands between here and Redis; clients have got other connections",
            "shared connection closed: the target says what no Redis server says here"
        ),
        Ended::Left => tracing::debug!(target: "client", link, backend, "shared connection left"),
        Ended::Eof => {
            tracing::debug!(target: "client", link, backend, "shared connection closed by the target");
        }
        Ended::Broke(error) => {
            let error = text::io_error(&error);
            tracing::debug!(target: "client", link, backend, error, "shared connection broke");
        }
    }
    if is_over {
        let remedy = format!(
            "remove {} if that is no Redis server, or restart when it is one again",
            service.link.setting("SHARE")
        );
        tracing::warn!(
            target: "client",
            link,
            backend,
            remedy,
            "target can't be shared; every client has its own connection"
        );
    }
}
