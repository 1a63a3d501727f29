//! Upstreams that are kept ready: dialled, under TLS, authenticated and at their database before a client asks
//! for one.
//!
//! A link that wants some has one task that makes them, a few at a time, and watches them. Each goes to one client,
//! once, and never comes back. They are the task's runtime's until they are taken; then the socket becomes one of the
//! runtime that serves the client. That costs two system calls, where a pool for each runtime would have an upstream
//! ready on one thread and a client waiting on another.
//!
//! One is thrown away when it has anything to read, the end of its stream above all, when it is [old](OLD), when the
//! secret is another one than it was made with, and when a dial made now would not lead to its backend. All of that is
//! looked at once more as it is taken.
//!
//! They are not kept alive by commands. A server that closes idle connections (Redis' `timeout`) means it, and says so:
//! an end is seen at once and another upstream made.

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

/// The age, more or less, at which one is replaced. Firewalls and load balancers forget idle connections without a word
/// to either side, the strictest of them after a minute; and twice a minute is no work for anybody.
const OLD: Duration = Duration::from_secs(30);

/// How many are made together: enough to follow clients that come one after the other, and no storm on a server that has
/// just come back.
const TOGETHER: usize = 4;

/// How long the making waits for the clients that have just taken one.
const BREATH: Duration = Duration::from_millis(2);

/// How often secrets are read and everything is looked through.
const LOOK: Duration = Duration::from_secs(1);

/// An upstream that ends before it is so old is as good as none: its target does not want to be connected to.
const YOUNG: Duration = Duration::from_millis(500);

/// Behind failures; at the longest seldom enough for a log of refusals. A client's dial that works ends it.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(30) };

/// The upstreams of one link that are ready.
#[derive(Debug)]
pub struct Pool {
    /// How many there should be.
    size: usize,
    state: Mutex<State>,
    /// Told when there may be something to make.
    stirred: Notify,
}

#[derive(Debug, Default)]
struct State {
    ready: Vec<Warm>,
    /// Failures in a row.
    failures: u32,
    /// Whether the last one could be made. Where that is not known one is tried, so that a wrong password is refused once.
    works: bool,
    /// Until when none is made.
    rest: Option<Instant>,
}

/// An upstream that nobody has used.
#[derive(Debug)]
pub struct Warm {
    upstream: Upstream,
    lease: Lease,
    made_with: Option<Arc<Credential>>,
    made: Instant,
    old: Instant,
    /// Counts it while it is in the pool.
    counted: Option<WarmConnection>,
}

impl Warm {
    /// Why no client should have it any more, if that is so.
    fn spoiled(&self, service: &LinkRuntime) -> Option<&'static str> {
        if self.old <= Instant::now() {
            Some("max_age")
        } else if self.made_with != secrets(&service.link) {
            Some("secret_changed")
        } else if !service.backends.lead_to(&self.lease) {
            Some("backend_changed")
        } else if self.lease.backend().probe.asks_about_reset() {
            // One that is made now asks, and the answer decides what becomes of the client's RESET.
            Some("reset_unknown")
        } else {
            None
        }
    }

    /// Whether it can serve a client that has said its first word. The answer holds for this moment: nothing may be
    /// awaited before that word is written.
    pub fn serves(&self, service: &LinkRuntime) -> bool {
        self.spoiled(service).is_none() && self.upstream.is_quiet()
    }

    /// Ready when the target has said something, with how many bytes that was, or has ended the stream.
    pub fn poll_says(&mut self, cx: &mut Context<'_>) -> Poll<std::io::Result<usize>> {
        self.upstream.poll_says(cx)
    }

    /// For the client that it goes to.
    pub fn serve(self, service: &LinkRuntime) -> (Upstream, Lease) {
        service.metrics.warm_hit();
        (self.upstream, self.lease)
    }
}

/// What the sources gave last: what an upstream's handshake begins with.
fn secrets(link: &Link) -> Option<Arc<Credential>> {
    link.redis.as_ref()?.credentials.as_ref()?.last()
}

impl Pool {
    /// As large as the link wants it.
    pub fn of(link: &Link) -> Self {
        Self { size: link.warm(), state: Mutex::default(), stirred: Notify::new() }
    }

    /// The newest that can serve a client, as a stream of the current runtime: of all it is the least likely to end
    /// soon.
    pub fn take(&self, service: &LinkRuntime) -> Option<Warm> {
        while let Some(warm) = self.newest() {
            self.stirred.notify_one();
            if let Some(why) = warm.spoiled(service) {
                self.throw_away(service, warm, why);
            } else if !warm.upstream.is_quiet() {
                self.ended(service, warm);
            } else {
                let Warm { upstream, lease, made_with, made, old, counted: _ } = warm;
                // Without the means to watch one more socket there is no upstream either way.
                let upstream = upstream.into_this_runtime().ok()?;
                tracing::debug!(target: "pool", link = service.link.name, ready = self.count(), "ready connection taken");
                return Some(Warm { upstream, lease, made_with, made, old, counted: None });
            }
        }
        None
    }

    /// A client has to wait for a dial.
    pub fn missed(&self, service: &LinkRuntime) {
        if self.size > 0 {
            service.metrics.warm_miss();
        }
    }

    /// A client's dial has worked: there is no more reason to rest.
    pub fn encourage(&self) {
        if self.size > 0 {
            self.state().rest = None;
            self.stirred.notify_one();
        }
    }

    fn newest(&self) -> Option<Warm> {
        self.state().ready.pop()
    }

    /// How many to begin now, beside those that are being made.
    fn missing(&self, service: &LinkRuntime, making: usize) -> usize {
        let state = self.state();
        if state.rest.is_some_and(|rest| rest > Instant::now()) {
            return 0;
        }
        let together = if state.works { TOGETHER } else { 1 };
        // The target has no more connections than clients could use.
        let free = service.link.max_connections.map(|most| most.saturating_sub(service.connections.count()));
        let wanted = self.size.min(free.unwrap_or(usize::MAX));
        wanted.saturating_sub(state.ready.len() + making).min(together.saturating_sub(making))
    }

    fn put(&self, service: &LinkRuntime, mut warm: Warm) {
        if warm.upstream.is_quiet() {
            warm.counted = Some(service.metrics.warm_connection());
            let mut state = self.state();
            state.ready.push(warm);
            state.works = true;
            drop(state);
            tracing::debug!(target: "pool", link = service.link.name, ready = self.count(), "ready connection added");
        } else {
            self.ended(service, warm);
        }
    }

    /// Takes out those that have something to read, which wake the task when they have.
    fn poll_ended(&self, cx: &mut Context<'_>) -> Poll<Vec<Warm>> {
        let ended: Vec<_> = self.state().ready.extract_if(.., |warm| warm.poll_says(cx).is_ready()).collect();
        if ended.is_empty() { Poll::Pending } else { Poll::Ready(ended) }
    }

    /// Throws those away that no client should have any more.
    fn look_through(&self, service: &LinkRuntime) {
        let spoiled = |warm: &mut Warm| warm.spoiled(service).is_some();
        let spoiled: Vec<_> = self.state().ready.extract_if(.., spoiled).collect();
        for warm in spoiled {
            let why = warm.spoiled(service).unwrap_or_default();
            self.throw_away(service, warm, why);
        }
        let mut state = self.state();
        if state.failures > 0 && state.ready.iter().any(|warm| warm.made.elapsed() >= YOUNG) {
            state.failures = 0;
            drop(state);
            tracing::info!(target: "pool", link = service.link.name, "pool recovered");
        }
    }

    /// The target has spoken or ended the stream, though it was asked for nothing.
    fn ended(&self, service: &LinkRuntime, warm: Warm) {
        let is_young = warm.made.elapsed() < YOUNG;
        self.throw_away(service, warm, "closed_by_target");
        if is_young {
            self.fails(service, &"the target ends them at once", "see the Redis server's own log");
        }
    }

    fn fails(&self, service: &LinkRuntime, error: &dyn std::fmt::Display, remedy: &str) {
        let now = Instant::now();
        let mut state = self.state();
        // Those that were under way together count as one.
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

    /// It is nobody's any more.
    pub fn throw_away(&self, service: &LinkRuntime, warm: Warm, reason: &str) {
        let (link, ready, age) = (&service.link.name, self.count(), warm.made.elapsed().as_secs_f64());
        tracing::debug!(target: "pool", link, ready, backend = %warm.lease, age, reason, "ready connection discarded");
        warm.upstream.close();
    }

    /// How many are ready.
    fn count(&self) -> usize {
        self.state().ready.len()
    }

    /// Lets the client that has just taken one go first: its first command is on its way, and would wait for the thread
    /// that is busy with a dial. There is time while enough are left.
    async fn wait_for_more(&self, service: &LinkRuntime) {
        let enough = service.link.warm().div_ceil(2);
        let until = Instant::now() + BREATH;
        while self.count() >= enough && Instant::now() < until {
            tokio::select! {
                () = self.stirred.notified() => {}
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

/// Keeps a link's upstreams ready until `stop` says so; then closes them.
pub async fn keep(service: &LinkRuntime, mut stop: watch::Receiver<bool>) {
    let pool = &service.warm;
    if pool.size == 0 {
        return;
    }
    tokio::select! {
        () = make_and_watch(service) => {}
        // The sender lives as long as the process; without it nobody is left to be ready for.
        _ = stop.wait_for(|stop| *stop) => {}
    }
    while let Some(warm) = pool.newest() {
        warm.upstream.close();
    }
}

async fn make_and_watch(service: &LinkRuntime) {
    let pool = &service.warm;
    let mut making = FuturesUnordered::new();
    let mut news = service.backends.news();
    let mut looking = Box::pin(look(service));
    let mut known = secrets(&service.link);
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
            () = pool.stirred.notified() => pool.wait_for_more(service).await,
            ended = std::future::poll_fn(|cx| pool.poll_ended(cx)) => {
                for warm in ended {
                    pool.ended(service, warm);
                }
            }
            () = news.another_list() => {
                pool.encourage();
                pool.look_through(service);
            }
            () = &mut looking => {
                looking.set(look(service));
                let read = secrets(&service.link);
                if read != known {
                    known = read;
                    pool.encourage();
                }
                pool.look_through(service);
            }
            () = sleep_until(rest.unwrap_or_else(Instant::now)), if rest.is_some() => {}
        }
    }
}

async fn make(service: &LinkRuntime) -> Result<Warm, Failure> {
    // Before the dial: where the file changes meanwhile, one too many is thrown away.
    let made_with = secrets(&service.link);
    let LinkRuntime { link, dialler, backends, health, .. } = service;
    let (upstream, lease) = dialler.dial_once(link, backends, health, link.connect_timeout).await?;
    let made = Instant::now();
    Ok(Warm { upstream, lease, made_with, made, old: made + jittered(OLD), counted: None })
}

/// Reads the secrets again after a while.
async fn look(service: &LinkRuntime) {
    sleep(LOOK).await;
    if let Some(credentials) = service.link.redis.as_ref().and_then(|redis| redis.credentials.as_ref()) {
        credentials.look(&service.metrics).await;
    }
}
