//! The pool of ready connections (`WARM`): upstreams whose handshake (TLS, AUTH, SELECT) was completed before a client
//! needs one.
//!
//! A link with a pool has one task, [`keep`], that dials a few at a time and watches them. Each upstream serves one
//! client and is never returned to the pool, but for those that are [lent](Pool::give_back). Until then it belongs to the
//! runtime of that task; [`Pool::take`] moves its socket to the runtime of the client. That costs two system calls. With a
//! pool for each runtime, a client on one thread would wait while an upstream is ready on another.
//!
//! An upstream is discarded when it becomes readable (EOF above all), at its [maximum age](MAX_AGE), when the secret
//! differs from the one that it was authenticated with, and when a new dial would choose another backend. All of this
//! is checked again when it is taken.
//!
//! No command keeps them alive. A server that closes idle connections (Redis' `timeout`) does so on purpose; the EOF is
//! seen at once and the upstream replaced.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::backoff::Backoff;
use crate::config::Link;
use crate::config::link::Credential;
use crate::failure::Failure;
use crate::metrics::WarmConnection;
use crate::random::jittered;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::Lease;
use crate::upstream::handshake::Upstream;

/// So many that were lent are kept for the next sessions beside the pool's own.
const MOST_GIVEN_BACK: usize = 32;

/// The age at which an upstream is replaced, jittered. Firewalls and load balancers drop idle connections silently,
/// the strictest after one minute; one dial in thirty seconds is a negligible load.
const MAX_AGE: Duration = Duration::from_secs(30);

/// Concurrent dials: enough to keep up with clients that arrive one after the other, too few to overload a server that
/// has just restarted.
const MAX_CONCURRENT_DIALS: usize = 4;

/// How long new dials are put off after a client has taken an upstream, so that its first command goes first.
const YIELD: Duration = Duration::from_millis(2);

/// The interval at which secrets are read again and stale upstreams evicted.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// An upstream that the target closes before this age counts as a failed dial: the target closes connections at once.
const MIN_AGE: Duration = Duration::from_millis(500);

/// Between dials after failures. At its longest it keeps refused passwords in the server's log rare. A client's dial
/// that succeeds resets it.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(30) };

/// The ready connections of one link.
#[derive(Debug)]
pub struct Pool {
    size: usize,
    state: Mutex<State>,
    /// Notified when an upstream may have to be dialled.
    wakeup: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Warm>,
    /// Consecutive failures.
    failures: u32,
    /// Whether the last dial succeeded. Until then there is one dial at a time, so that a wrong password is refused
    /// once.
    works: bool,
    /// The end of the back-off.
    rest: Option<Instant>,
}

/// When an upstream was got, and the credential that it has shown then at the latest.
#[derive(Debug)]
pub struct Origin {
    made: Instant,
    made_with: Option<Arc<Credential>>,
}

impl Origin {
    /// Of one that is got next.
    pub fn now(service: &LinkRuntime) -> Self {
        Self { made: Instant::now(), made_with: last_credential(&service.link) }
    }
}

/// An unused upstream.
#[derive(Debug)]
pub struct Warm {
    upstream: Upstream,
    lease: Lease,
    made_with: Option<Arc<Credential>>,
    made: Instant,
    expires: Instant,
    /// Counts it in the metrics while it is in the pool, and while a client holds it.
    counted: Option<WarmConnection>,
}

impl Warm {
    /// Why it must not serve a client any more; `None` if it may.
    fn stale_reason(&self, service: &LinkRuntime) -> Option<&'static str> {
        if self.expires <= Instant::now() {
            Some("max_age")
        } else if self.made_with != last_credential(&service.link) {
            Some("secret_changed")
        } else if !service.backends.lead_to(&self.lease) {
            Some("backend_changed")
        } else {
            None
        }
    }

    /// Whether it can serve a client whose first bytes have arrived. True at this moment only: do not await
    /// anything
    /// before those bytes are written.
    pub fn serves(&self, service: &LinkRuntime) -> bool {
        self.stale_reason(service).is_none() && self.upstream.is_quiet()
    }

    /// Ready when the target has sent bytes, with their number, or has ended the stream (0).
    pub fn poll_says(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.upstream.poll_says(cx)
    }

    /// Hands it to the client that it serves.
    pub fn serve(self, service: &LinkRuntime) -> (Upstream, Lease, Origin) {
        service.metrics.warm_hit();
        (self.upstream, self.lease, Origin { made: self.made, made_with: self.made_with })
    }
}

/// The last known credential: the one that a handshake offers first.
fn last_credential(link: &Link) -> Option<Arc<Credential>> {
    link.credentials()?.last()
}

impl Pool {
    /// An empty pool of the size that the link configures.
    pub fn of(link: &Link) -> Self {
        Self { size: link.warm(), state: Mutex::default(), wakeup: Notify::new() }
    }

    /// Takes the newest usable upstream, the one least likely to be closed soon, as a stream of the current
    /// runtime.
    pub fn take(&self, service: &LinkRuntime) -> Option<Warm> {
        while let Some(warm) = self.newest() {
            self.wakeup.notify_one();
            if let Some(why) = warm.stale_reason(service) {
                self.discard(service, warm, why);
            } else if !warm.upstream.is_quiet() {
                self.ended(service, warm);
            } else {
                let Warm { upstream, lease, made_with, made, expires, counted: _ } = warm;
                // Where the runtime can't register one more socket, a dial would fail too.
                let upstream = upstream.into_this_runtime().ok()?;
                tracing::debug!(target: "pool", link = service.link.name, ready = self.count(), "ready connection taken");
                let counted = Some(service.metrics.held_connection());
                return Some(Warm { upstream, lease, made_with, made, expires, counted });
            }
        }
        None
    }

    /// Counts a client that has to wait for a dial.
    pub fn missed(&self, service: &LinkRuntime) {
        if self.size > 0 {
            service.metrics.warm_miss();
        }
    }

    /// Ends the back-off: a client's dial has succeeded, or backends or secrets have changed.
    pub fn reset_backoff(&self) {
        if self.size > 0 {
            self.state().rest = None;
            self.wakeup.notify_one();
        }
    }

    /// Takes in one that a session has needed for a while, and on which nothing is left behind.
    pub fn give_back(&self, service: &LinkRuntime, upstream: Upstream, lease: Lease, origin: Origin) {
        let Origin { made, made_with } = origin;
        let unused = Instant::now() + MAX_AGE;
        let expires = service.link.max_lifetime.map_or(unused, |lifetime| unused.min(made + lifetime));
        let warm = Warm { upstream, lease, made_with, made, expires, counted: None };
        if warm.serves(service) {
            self.put(service, warm);
            self.wakeup.notify_one();
        }
        // Any other one is closed.
    }

    fn newest(&self) -> Option<Warm> {
        self.state().ready.pop()
    }

    /// How many dials to start now, beside the `making` that are in progress.
    fn missing(&self, service: &LinkRuntime, making: usize) -> usize {
        let state = self.state();
        if state.rest.is_some_and(|rest| rest > Instant::now()) {
            return 0;
        }
        let concurrent = if state.works { MAX_CONCURRENT_DIALS } else { 1 };
        // No more connections to the target than clients could use.
        let free = service.link.max_connections.map(|most| most.saturating_sub(service.connections.count()));
        let wanted = self.size.min(free.unwrap_or(usize::MAX));
        wanted.saturating_sub(state.ready.len() + making).min(concurrent.saturating_sub(making))
    }

    fn put(&self, service: &LinkRuntime, mut warm: Warm) {
        if warm.upstream.is_quiet() {
            warm.counted = Some(service.metrics.warm_connection());
            let mut state = self.state();
            // Counted under the lock that it is added under: many are given back at the same time.
            if state.ready.len() >= self.size + MOST_GIVEN_BACK {
                drop(state);
                warm.counted = None;
                return self.discard(service, warm, "too_many");
            }
            state.ready.push(warm);
            state.works = true;
            drop(state);
            tracing::debug!(target: "pool", link = service.link.name, ready = self.count(), "ready connection added");
        } else {
            self.ended(service, warm);
        }
    }

    /// Removes the upstreams that have become readable; registers the task's waker with the others.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Vec<Warm>> {
        let ended: Vec<_> = self.state().ready.extract_if(.., |warm| warm.poll_says(cx).is_ready()).collect();
        if ended.is_empty() { Poll::Pending } else { Poll::Ready(ended) }
    }

    /// Discards the upstreams that must not serve a client any more.
    fn evict_stale(&self, service: &LinkRuntime) {
        let is_stale = |warm: &mut Warm| warm.stale_reason(service).is_some();
        let evicted: Vec<_> = self.state().ready.extract_if(.., is_stale).collect();
        for warm in evicted {
            let why = warm.stale_reason(service).unwrap_or_default();
            self.discard(service, warm, why);
        }
        let mut state = self.state();
        if state.failures > 0 && state.ready.iter().any(|warm| warm.made.elapsed() >= MIN_AGE) {
            state.failures = 0;
            drop(state);
            tracing::info!(target: "pool", link = service.link.name, "pool recovered");
        }
    }

    /// The target has sent unrequested bytes or ended the stream.
    fn ended(&self, service: &LinkRuntime, warm: Warm) {
        let ended_early = warm.made.elapsed() < MIN_AGE;
        self.discard(service, warm, "closed_by_target");
        if ended_early {
            self.fails(
                service,
                &"the target closes ready connections at once",
                "check the Redis server's log",
            );
        }
    }

    fn fails(&self, service: &LinkRuntime, error: &dyn std::fmt::Display, remedy: &str) {
        let now = Instant::now();
        let mut state = self.state();
        // Concurrent dials that fail together count as one failure.
        if state.rest.is_some_and(|rest| rest > now) {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        state.rest = Some(now + jittered(BACKOFF.wait(state.failures)));
        state.works = false;
        if state.failures == 1 {
            drop(state);
            let link = &service.link.name;
            tracing::warn!(target: "pool", link, %error, remedy, "pool failed; clients wait for a dial");
        }
    }

    pub fn discard(&self, service: &LinkRuntime, warm: Warm, reason: &str) {
        let (link, ready, age) = (&service.link.name, self.count(), warm.made.elapsed().as_secs_f64());
        tracing::debug!(target: "pool", link, ready, backend = %warm.lease, age, reason, "ready connection discarded");
        warm.upstream.close();
    }

    fn count(&self) -> usize {
        self.state().ready.len()
    }

    /// Yields to the client that has just taken an upstream: a dial on this thread would delay its first command.
    /// Only
    /// while at least half of the pool is left.
    async fn wait_for_more(&self, service: &LinkRuntime) {
        let enough = service.link.warm().div_ceil(2);
        let until = Instant::now() + YIELD;
        while self.count() >= enough && Instant::now() < until {
            tokio::select! {
                () = self.wakeup.notified() => {}
                () = sleep_until(until) => {}
            }
        }
    }

    fn rest(&self) -> Option<Instant> {
        self.state().rest.filter(|rest| *rest > Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

/// Keeps a link's pool full until `stop` is true; then closes what is left in it.
pub async fn keep(service: &LinkRuntime, mut stop: watch::Receiver<bool>) {
    let pool = &service.warm;
    if pool.size == 0 && !service.sharing.is_on() {
        return;
    }
    tokio::select! {
        () = make_and_watch(service) => {}
        // An error means that the sender is gone: the process ends.
        _ = stop.wait_for(|stop| *stop) => {}
    }
    while let Some(warm) = pool.newest() {
        warm.upstream.close();
    }
}

async fn make_and_watch(service: &LinkRuntime) {
    let pool = &service.warm;
    let mut making = FuturesUnordered::new();
    let mut changes = service.backends.changes();
    let mut checking = Box::pin(refresh_secret(service));
    let mut known = last_credential(&service.link);
    loop {
        for _ in 0..pool.missing(service, making.len()) {
            making.push(make(service));
        }
        let rest = pool.rest();
        tokio::select! {
            Some(made) = making.next() => match made {
                Ok(warm) => pool.put(service, warm),
                Err(failure) => pool.fails(service, &failure, &failure.remedy(&service.link)),
            },
            () = pool.wakeup.notified() => pool.wait_for_more(service).await,
            ended = std::future::poll_fn(|cx| pool.poll_ended(cx)) => {
                for warm in ended {
                    pool.ended(service, warm);
                }
            }
            () = changes.changed() => {
                pool.reset_backoff();
                pool.evict_stale(service);
            }
            () = &mut checking => {
                checking.set(refresh_secret(service));
                let read = last_credential(&service.link);
                if read != known {
                    known = read;
                    pool.reset_backoff();
                }
                pool.evict_stale(service);
            }
            () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {}
        }
    }
}

async fn make(service: &LinkRuntime) -> Result<Warm, Failure> {
    // Read before the dial: if the file changes meanwhile, a usable upstream is discarded, never a stale one kept.
    let made_with = last_credential(&service.link);
    let LinkRuntime { link, dialler, backends, health, .. } = service;
    let (upstream, lease) = dialler.dial_once(link, backends, health, link.connect_timeout).await?;
    let made = Instant::now();
    Ok(Warm { upstream, lease, made_with, made, expires: made + jittered(MAX_AGE), counted: None })
}

/// Reads the secrets again after [`CHECK_INTERVAL`].
async fn refresh_secret(service: &LinkRuntime) {
    sleep(CHECK_INTERVAL).await;
    if let Some(credentials) = service.link.credentials() {
        credentials.look(&service.metrics).await;
    }
}
