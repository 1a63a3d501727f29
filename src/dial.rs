//! From a link to an upstream that is ready for a client, within one deadline.
//!
//! A dial goes through the link's backends once, in the order that their balance gives: who fails is passed over.
//! A target that refuses or resets is tried again until the deadline: its restart costs a new client a wait, not an
//! error. So does a password that is being changed. A target that has failed for longer than the connect timeout gets
//! one try a client until a dial works again, so that a long outage fails fast.

use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::{DialFailure, DialState};
use crate::backends::{Backend, Backends, Place};
use crate::config::Link;
use crate::config::target::{Endpoint, Host};
use crate::failure::{Failure, Stage, is_passing};
use crate::greet::{Upstream, greet};
use crate::net::Stream;
use crate::resolve::Resolver;
use crate::tls::explain::by_target;

/// The first wait before a target is tried again; each is twice the one before, up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(25);
/// Long enough to spare a starting server, short enough for nobody to notice.
const LONGEST_WAIT: Duration = Duration::from_millis(250);

/// What it is when a deadline ends a step that began so long before it.
pub fn late(
    stage: Stage,
    doing: String,
    begun: Instant,
    deadline: Instant,
) -> impl FnOnce(tokio::time::error::Elapsed) -> Failure {
    let after = between(begun, deadline);
    move |_| Failure::TimedOut { stage, doing, after }
}

/// Takes up TLS where the link has it, with what was connected to since `begun`.
pub async fn secure(
    link: &Link,
    stream: Stream,
    endpoint: &Endpoint,
    shown: &str,
    begun: Instant,
    deadline: Instant,
) -> Result<Stream, Failure> {
    match &link.tls {
        None => Ok(stream),
        Some(tls) => timeout_at(deadline, Box::pin(tls.connect(stream, endpoint)))
            .await
            .map_err(late(Stage::Tls, format!("the TLS handshake with {shown}"), begun, deadline))?
            .map_err(|error| by_target(error, shown, link)),
    }
}

/// In whole milliseconds, as people set it.
fn between(begun: Instant, deadline: Instant) -> Duration {
    let milliseconds = (deadline.saturating_duration_since(begun) + Duration::from_micros(500)).as_millis();
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

/// How long an address has for itself before the next one of the same name is tried beside it (RFC 8305, 5).
const HEAD_START: Duration = Duration::from_millis(250);

/// What a link's dials know of their target.
#[derive(Debug, Default)]
pub struct Health(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    failing_since: Option<Instant>,
    last: Option<(Instant, Option<DialFailure>)>,
}

impl Health {
    fn works(&self) {
        *self.lock() = Known { failing_since: None, last: Some((Instant::now(), None)) };
    }

    /// Notes what a dial, or one try of it, came to.
    fn note(&self, failure: &Failure, link: &Link) {
        let told = DialFailure {
            stage: failure.stage().name().to_owned(),
            error: failure.to_string(),
            remedy: failure.remedy(link),
        };
        self.lock().last = Some((Instant::now(), Some(told)));
    }

    /// Returns since when there have been nothing but failures, of which this is one.
    fn fails(&self) -> Instant {
        *self.lock().failing_since.get_or_insert_with(Instant::now)
    }

    /// How the last dial ended, if there was any.
    pub fn last_dial(&self) -> Option<DialState> {
        let (at, failure) = self.lock().last.clone()?;
        Some(DialState { worked: failure.is_none(), seconds_ago: at.elapsed().as_secs_f64(), failure })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Everything that a dial needs and that outlives it.
pub struct Dialler {
    /// Looks names up.
    pub resolver: Resolver,
    /// When TCP probes a silent target.
    pub keepalive: Option<Duration>,
}

/// Of the time that is left, a backend has at most this part while there are others to try: a dial that hangs must not
/// cost them theirs.
const SHARE: u32 = 3;

/// Until when a backend may take, beside so many `others`.
fn share(others: usize, deadline: Instant) -> Instant {
    if others == 0 {
        return deadline;
    }
    let parts = SHARE.min(u32::try_from(others).unwrap_or(SHARE).saturating_add(1));
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / parts
}

impl Dialler {
    /// Dials until there is an upstream, the connect timeout is over, or the target's answer is final.
    pub async fn dial(
        &self,
        link: &Link,
        backends: &Backends,
        health: &Health,
    ) -> Result<(Upstream, Place), Failure> {
        let begun = Instant::now();
        let deadline = begun + link.connect_timeout;
        let mut wait = FIRST_WAIT;
        let mut given_up = Vec::new();
        let mut refusal = None;
        let mut patience_ends = None;
        loop {
            let mut news = backends.news();
            let failure = match self.try_each(link, backends, &mut given_up, deadline).await {
                Ok(dialled) => {
                    health.works();
                    return Ok(dialled);
                }
                Err(failure) => failure,
            };
            health.note(&failure, link);
            backends.look_again();
            if !failure.is_passing() {
                // Where the deadline cut the last try short, what ended those before it says more.
                let cut_short =
                    matches!(failure, Failure::TimedOut { stage: Stage::Resolve | Stage::Connect, .. });
                return Err(refusal.filter(|_| cut_short).unwrap_or(failure));
            }
            let patience_ends = if failure.is_rotation() {
                deadline
            } else {
                // Decided once a client: only where the target had failed for so long before it came, it gets one try.
                *patience_ends.get_or_insert_with(|| {
                    let long_before = health.fails() + link.connect_timeout <= begun;
                    if long_before { begun } else { deadline }
                })
            };
            if Instant::now() + wait >= patience_ends {
                return Err(failure);
            }
            tracing::debug!(link = link.name, error = %failure, "dialling again");
            refusal = Some(failure);
            tokio::select! {
                () = sleep(wait) => wait = LONGEST_WAIT.min(wait * 2),
                () = news.another_list() => {}
            }
        }
    }

    /// One try at each backend for what no client waits for, within that time and the link's own. That it fails takes no
    /// patience from the clients.
    pub async fn dial_once(
        &self,
        link: &Link,
        backends: &Backends,
        health: &Health,
        within: Duration,
    ) -> Result<(Upstream, Place), Failure> {
        let deadline = Instant::now() + within.min(link.connect_timeout);
        let dialled = self.try_each(link, backends, &mut Vec::new(), deadline).await;
        match &dialled {
            Ok(_) => health.works(),
            Err(failure) => {
                health.note(failure, link);
                backends.look_again();
            }
        }
        dialled
    }

    /// One try at each backend, in the balance's order, until one serves. Those whose answer is final are given up.
    async fn try_each(
        &self,
        link: &Link,
        backends: &Backends,
        given_up: &mut Vec<Arc<Backend>>,
        deadline: Instant,
    ) -> Result<(Upstream, Place), Failure> {
        let mut failures = Vec::new();
        let mut finals = Vec::new();
        let mut round = backends.round(given_up);
        while let Some(mut place) = round.next_place() {
            let backend = Arc::clone(place.backend());
            match self.attempt(link, backends, &mut place, round.left(), deadline).await {
                Ok(upstream) => {
                    backends.works(&backend);
                    return Ok((upstream, place));
                }
                // Not the backend's fault, and no other backend's either.
                Err(failure @ Failure::Secret(_)) => return Err(failure),
                Err(failure) => {
                    // Whoever waits for another password has not failed.
                    if !failure.is_rotation() {
                        backends.fails(&backend, &failure);
                    }
                    if !failure.is_passing() {
                        finals.push(backend);
                    }
                    failures.push(failure);
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        given_up.append(&mut finals);
        Err(Failure::of_all(failures).unwrap_or_else(|| backends.absence()))
    }

    /// One try at one backend: password, resolve, connect, TLS, greet. Each step is told by its own name when the
    /// deadline ends it. What follows the password has to leave time for so many `others`.
    pub async fn attempt(
        &self,
        link: &Link,
        backends: &Backends,
        place: &mut Place,
        others: usize,
        deadline: Instant,
    ) -> Result<Upstream, Failure> {
        let backend = Arc::clone(place.backend());
        let begun = Instant::now();
        let credentials = link.redis.as_ref().and_then(|redis| redis.credentials.as_ref());
        // First of all: a program may take its time, and no server likes to be kept waiting for a password. It has all
        // the time that there is, since no other backend could do without the password either.
        let login = match credentials {
            None => None,
            Some(credentials) => Some(
                timeout_at(deadline, Box::pin(credentials.login(&backend.standing, &backends.metrics)))
                    .await
                    .map_err(|_| credentials.late(between(begun, deadline)))??,
            ),
        };
        let deadline = share(others, deadline);
        let (stream, shown) =
            self.open(&backend.endpoint, deadline, |addresses| backends.found(&backend, addresses)).await?;
        if let (Endpoint::Tcp(Host::Name(_) | Host::Linked { .. }, _), Some(address)) =
            (&backend.endpoint, stream.peer())
        {
            place.note_address(address);
        }
        let stream = secure(link, stream, &backend.endpoint, &shown, begun, deadline).await?;
        match &link.redis {
            None => Ok(Upstream::of_plain_tunnel(stream)),
            Some(redis) => timeout_at(deadline, greet(stream, &shown, link, redis, &backend.probe, login))
                .await
                .map_err(late(Stage::Auth, format!("the handshake with {shown}"), begun, deadline))?,
        }
    }

    /// Connects to an endpoint, and says how it is called: where Docker wrote a link, by the address it has now.
    /// `found` is told the addresses of its name.
    pub async fn open(
        &self,
        endpoint: &Endpoint,
        deadline: Instant,
        found: impl FnOnce(&[IpAddr]),
    ) -> Result<(Stream, String), Failure> {
        let begun = Instant::now();
        let (host, port) = match endpoint {
            Endpoint::Tcp(host, port) => (host, *port),
            Endpoint::Unix(path) => {
                let shown = endpoint.to_string();
                let stream = timeout_at(deadline, Stream::connect_unix(path))
                    .await
                    .map_err(late(Stage::Connect, format!("connecting to {shown}"), begun, deadline))?
                    .map_err(|source| Failure::Connect { endpoint: shown.clone(), source })?;
                return Ok((stream, shown));
            }
        };
        let addresses = timeout_at(deadline, self.resolver.addresses(host))
            .await
            .map_err(late(
                Stage::Resolve,
                format!("resolving {host} with {}", self.resolver),
                begun,
                deadline,
            ))?
            .map_err(|reason| Failure::Resolve { name: host.to_string(), reason: reason.to_string() })?;
        let shown = match host {
            Host::Linked { .. } => SocketAddr::new(addresses[0], port).to_string(),
            Host::Address(_) | Host::Name(_) => endpoint.to_string(),
        };
        found(&addresses);
        let stream = timeout_at(deadline, self.connect(&addresses, port))
            .await
            .map_err(late(Stage::Connect, format!("connecting to {shown}"), begun, deadline))?
            .map_err(|source| Failure::Connect { endpoint: shown.clone(), source })?;
        Ok((stream, shown))
    }

    /// The first of a name's addresses to take the connection. Each has a head start on the next.
    async fn connect(&self, addresses: &[IpAddr], port: u16) -> std::io::Result<Stream> {
        let mut waiting = addresses.iter().map(|address| SocketAddr::new(*address, port));
        let mut racing = FuturesUnordered::new();
        let mut last_error = std::io::Error::from(std::io::ErrorKind::AddrNotAvailable);
        loop {
            match waiting.next() {
                Some(address) => racing.push(Stream::connect_tcp(address, self.keepalive)),
                None if racing.is_empty() => return Err(last_error),
                None => {}
            }
            let finished = async {
                match racing.next().await {
                    Some(Ok(stream)) => Ok(stream),
                    Some(Err(e)) => Err(Some(e)),
                    None => Err(None),
                }
            };
            let finished = if waiting.len() == 0 {
                finished.await
            } else {
                // A head start that is over is no error: the next address joins the race.
                tokio::time::timeout(HEAD_START, finished).await.unwrap_or(Err(None))
            };
            match finished {
                Ok(stream) => return Ok(stream),
                // Of several the one that is worth another try, if there is one: a host without IPv6 fails at once.
                Err(Some(e)) if is_passing(&last_error) && !is_passing(&e) => {}
                Err(Some(e)) => last_error = e,
                Err(None) => {}
            }
        }
    }
}
