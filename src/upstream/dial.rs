//! From a link to an upstream that is ready for a client, within one deadline.
//!
//! A dial goes through the link's backends once, in the order that their balance gives: who fails is passed over. A
//! name is resolved when its turn comes, and stands for each of its addresses from then; they have a head start on each
//! other, so that one that hangs costs a moment.
//! A target that refuses or resets is tried again until the deadline: its restart costs a new client a wait, not an
//! error. So does a password that is being changed. A target that has failed for longer than the connect timeout gets
//! one try a client until a dial works again, so that a long outage fails fast.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::{Mutex, MutexGuard};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::backoff::Backoff;
use crate::config::Link;
use crate::config::link::Redis;
use crate::failure::tls::by_target;
use crate::failure::{Failure, Stage};
use crate::net::proxy_protocol::{Announcement, Header};
use crate::net::resolve::{Addresses, Resolver};
use crate::net::{Address, Stream};
use crate::random;
use crate::relay::Restore;
use crate::upstream::backends::{Backends, Done, Lease, Listed, Next, Round};
use crate::upstream::credentials::{AuthState, Login};
use crate::upstream::handshake::{Greeted, Handshake, Observer, Step, Upstream};
use crate::upstream::loops::{Listening, Unanswered};

/// Before a target is tried again: at the longest enough to spare a starting server, and too short for anybody to notice.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(25), longest: Duration::from_millis(250) };

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
    /// Since when all have ended like the last one.
    since: Option<Instant>,
}

/// How a dial ended.
#[derive(Debug, Serialize, Deserialize)]
pub struct DialState {
    /// Whether it led to an upstream that was ready for a client.
    pub worked: bool,
    /// How long ago that was.
    pub seconds_ago: f64,
    /// For how long all have ended so, well or not.
    #[serde(default)]
    pub since_seconds: f64,
    /// What failed.
    #[serde(flatten)]
    pub failure: Option<DialFailure>,
}

/// Why a dial failed.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DialFailure {
    /// Where.
    pub stage: String,
    /// What happened, in words.
    pub error: String,
    /// What to do about it.
    pub remedy: String,
}

impl Known {
    fn ended(&mut self, failure: Option<DialFailure>) {
        let now = Instant::now();
        let is_as_before = self.last.as_ref().is_some_and(|(_, last)| last.is_none() == failure.is_none());
        self.since = self.since.filter(|_| is_as_before).or(Some(now));
        self.last = Some((now, failure));
    }
}

impl Health {
    fn works(&self) {
        let mut known = self.lock();
        known.failing_since = None;
        known.ended(None);
    }

    /// Notes what a dial, or one try of it, came to.
    fn note(&self, failure: &Failure, link: &Link) {
        let told = DialFailure {
            stage: failure.stage().name().to_owned(),
            error: failure.to_string(),
            remedy: failure.remedy(link),
        };
        self.lock().ended(Some(told));
    }

    /// Returns since when there have been nothing but failures, of which this is one.
    fn fails(&self) -> Instant {
        *self.lock().failing_since.get_or_insert_with(Instant::now)
    }

    /// Others know already that it fails: a client gets one try, as where a target has failed for longer than the connect
    /// timeout.
    pub fn is_known_to_fail(&self, connect_timeout: Duration) {
        let since = Instant::now().checked_sub(connect_timeout);
        let mut known = self.lock();
        known.failing_since = known.failing_since.min(since).or(since);
    }

    /// How the last dial ended, if there was any.
    pub fn last_dial(&self) -> Option<DialState> {
        let Known { last, since, .. } = &*self.lock();
        let (at, failure) = last.clone()?;
        Some(DialState {
            worked: failure.is_none(),
            seconds_ago: at.elapsed().as_secs_f64(),
            since_seconds: since.map_or(0.0, |since| since.elapsed().as_secs_f64()),
            failure,
        })
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.0.lock()
    }
}

/// Everything that a dial needs and that outlives it.
pub struct Dialler {
    /// Looks names up.
    pub resolver: Resolver,
    /// When TCP probes a silent target.
    pub keepalive: Option<Duration>,
    /// Where this process itself is reached.
    pub listening: Listening,
    /// Handshakes that have not been answered.
    pub unanswered: Unanswered,
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

/// One dial: for what, with what to begin, and until when.
struct Dial<'a> {
    link: &'a Link,
    backends: &'a Backends,
    restore: &'a Restore,
    whose: Header,
    deadline: Instant,
}

impl Dialler {
    /// Dials until there is an upstream, the connect timeout is over, or the target's answer is final.
    pub async fn dial(
        &self,
        link: &Link,
        backends: &Backends,
        health: &Health,
        restore: &Restore,
        whose: Header,
    ) -> Result<(Upstream, Lease), Failure> {
        let begun = Instant::now();
        let deadline = begun + link.connect_timeout;
        let dial = Dial { link, backends, restore, whose, deadline };
        let mut rounds = 0;
        let mut given_up = Done::default();
        let mut refusal = None;
        let mut patience_ends = None;
        loop {
            let mut changes = backends.changes();
            let failure = match self.try_each(&dial, &mut given_up).await {
                Ok(dialled) => {
                    health.works();
                    return Ok(dialled);
                }
                Err(failure) => failure,
            };
            health.note(&failure, link);
            backends.request_refresh();
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
            rounds += 1;
            let wait = BACKOFF.wait(rounds);
            if Instant::now() + wait >= patience_ends {
                return Err(failure);
            }
            tracing::debug!(target: "dial", link = link.name, error = %failure, "dial retried");
            refusal = Some(failure);
            tokio::select! {
                () = sleep(wait) => {}
                () = changes.changed() => {}
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
    ) -> Result<(Upstream, Lease), Failure> {
        let deadline = Instant::now() + within.min(link.connect_timeout);
        let dial = Dial { link, backends, restore: &Restore::default(), whose: Header::Own, deadline };
        let dialled = self.try_each(&dial, &mut Done::default()).await;
        match &dialled {
            Ok(_) => health.works(),
            Err(failure) => {
                health.note(failure, link);
                backends.request_refresh();
            }
        }
        dialled
    }

    /// One try at each backend, in the balance's order, until one serves. Those whose answer is final are given up.
    async fn try_each(&self, dial: &Dial<'_>, given_up: &mut Done) -> Result<(Upstream, Lease), Failure> {
        let Dial { backends, deadline, .. } = *dial;
        let mut round = backends.round(given_up);
        // When the turn of the candidate began, and what its name stands for.
        let mut turn = None;
        while let Some(next) = round.step() {
            match next {
                Next::Resolve(listed) => {
                    let begun = Instant::now();
                    let until = share(round.others_elsewhere(&listed), deadline);
                    match self.resolve(&listed, until).await {
                        Ok(answer) => {
                            round.resolved(&listed, &answer);
                            turn = Some((begun, answer));
                            // However late it is: the step that there is no time for any more has its name.
                            continue;
                        }
                        Err(failure) => round.unresolved(&listed, failure),
                    }
                }
                Next::Dial(lease) => {
                    let turn = turn.take().unwrap_or_else(|| (Instant::now(), Addresses::whole([])));
                    let dialled = self.attempt(dial, &mut round, lease, turn).await?;
                    if let Some((upstream, lease)) = dialled {
                        backends.works(&lease);
                        return Ok((upstream, lease));
                    }
                }
            }
            if Instant::now() >= deadline {
                break;
            }
        }
        Err(round.failure())
    }

    /// One try at a backend, or at the one of the same name that accepts the connection first. `None` where the round
    /// knows what became of it; an error where no other backend could serve either.
    async fn attempt(
        &self,
        dial: &Dial<'_>,
        round: &mut Round<'_>,
        lease: Lease,
        (begun, mut answer): (Instant, Addresses),
    ) -> Result<Option<(Upstream, Lease)>, Failure> {
        let Dial { link, backends, restore, whose, deadline } = *dial;
        let first = Arc::clone(lease.backend());
        // Before anything is connected: a program may take its time, and no server likes to be kept waiting for a
        // password.
        let login = match self.login(link, backends, &first.auth_state, deadline).await {
            Ok(login) => login,
            Err(failure) => return refused(round, &lease, failure),
        };
        let announcement = link.announcement(whose);
        let raced = self.race(round, (lease, begun), &mut answer, announcement, deadline).await;
        let Some((stream, lease)) = raced else {
            return Ok(None);
        };
        let backend = Arc::clone(lease.backend());
        let login = if Arc::ptr_eq(&backend, &first) {
            Ok(login)
        } else {
            self.login(link, backends, &backend.auth_state, deadline).await
        };
        let deadline = share(round.others(&lease), deadline);
        let introduction = Introduction::to(link, &lease, begun, deadline).restoring(restore);
        let _asked = link.redis.is_some().then(|| self.unanswered.begin(&stream));
        match introduction.make(stream, login, &()).await.and_then(Introduced::upstream) {
            Ok(upstream) => Ok(Some((upstream, lease))),
            Err(failure) => refused(round, &lease, failure),
        }
    }

    /// One try at one backend and no other, of which nobody else is told: password, connect, TLS, greet. Each step is told
    /// by its own name when the deadline ends it.
    pub async fn ask(
        &self,
        link: &Link,
        backends: &Backends,
        lease: &Lease,
        deadline: Instant,
    ) -> Result<Upstream, Failure> {
        let begun = Instant::now();
        let backend = lease.backend();
        let login = self.login(link, backends, &backend.auth_state, deadline).await?;
        let announcement = link.announcement(Header::Own);
        let stream =
            self.connect(&lease.to_string(), &backend.address, announcement, begun, deadline).await?;
        Introduction::to(link, lease, begun, deadline).make(stream, Ok(login), &()).await?.upstream()
    }

    /// The handshake once more, with a server that has done a RESET.
    pub async fn greet_again(
        &self,
        link: &Link,
        backends: &Backends,
        lease: &Lease,
        stream: Stream,
    ) -> Result<Upstream, Failure> {
        let begun = Instant::now();
        let deadline = begun + link.connect_timeout;
        let Some(redis) = &link.redis else { return Ok(Upstream::of_plain_tunnel(stream)) };
        let login = self.login(link, backends, &lease.backend().auth_state, deadline).await?;
        Introduction::to(link, lease, begun, deadline).greet(stream, redis, login, &()).await.upstream()
    }

    /// Puts a session's state on an upstream that is ready.
    pub async fn restore(
        &self,
        link: &Link,
        lease: &Lease,
        upstream: Upstream,
        restore: &Restore,
    ) -> Result<Upstream, Failure> {
        if restore.is_empty() {
            return Ok(upstream);
        }
        self.put(link, lease, upstream, restore, None).await
    }

    /// Takes away what a session has left behind on an upstream that was lent to it, and has the server prove that it has said
    /// all.
    pub async fn undo(
        &self,
        link: &Link,
        lease: &Lease,
        upstream: Upstream,
        undone: &Restore,
    ) -> Result<Upstream, Failure> {
        self.put(link, lease, upstream, undone, Some(&random::word())).await
    }

    async fn put(
        &self,
        link: &Link,
        lease: &Lease,
        upstream: Upstream,
        state: &Restore,
        proof: Option<&str>,
    ) -> Result<Upstream, Failure> {
        let Some(redis) = &link.redis else { return Ok(upstream) };
        let begun = Instant::now();
        let deadline = begun + link.connect_timeout;
        let shown = lease.to_string();
        let probe = &lease.backend().probe;
        let (stream, leading) = upstream.into_parts();
        let handshake = Handshake::begin(stream, &shown, link, redis, probe, &());
        let late = late(Stage::Select, format!("the handshake with {shown}"), begun, deadline);
        handshake.restore(leading, state, proof, deadline, late).await.upstream()
    }

    /// What to offer to a server that has said so much to our passwords. It has all the time that there is, since no
    /// other backend could do without the password either.
    pub async fn login<'a>(
        &self,
        link: &'a Link,
        backends: &'a Backends,
        auth_state: &'a AuthState,
        deadline: Instant,
    ) -> Result<Option<Login<'a>>, Failure> {
        let begun = Instant::now();
        let Some(credentials) = link.credentials() else {
            return Ok(None);
        };
        timeout_at(deadline, Box::pin(credentials.login(auth_state, &backends.metrics)))
            .await
            .map_err(|_| credentials.late(between(begun, deadline)))?
            .map(Some)
    }

    /// The addresses that a name stands for, at least one; none where the endpoint has no name.
    pub async fn resolve(&self, listed: &Listed, deadline: Instant) -> Result<Addresses, Failure> {
        let begun = Instant::now();
        let Some(host) = listed.name() else {
            return Ok(Addresses::whole([]));
        };
        timeout_at(deadline, self.resolver.addresses(host))
            .await
            .map_err(late(
                Stage::Resolve,
                format!("resolving {host} with {}", self.resolver),
                begun,
                deadline,
            ))?
            .map_err(|reason| Failure::Resolve { name: host.to_string(), reason: reason.to_string() })
    }

    /// The first backend of a name to accept the connection (RFC 8305, 5). Each has a head start on the next one, and those that
    /// were overtaken rest, so that the next dial does not wait for them. What is found of the name's `answer` meanwhile
    /// joins in. The turn of the `first` had begun before its name was resolved.
    pub async fn race(
        &self,
        round: &mut Round<'_>,
        (first, begun): (Lease, Instant),
        answer: &mut Addresses,
        announcement: Option<Announcement>,
        deadline: Instant,
    ) -> Option<(Stream, Lease)> {
        let listed = Arc::clone(first.listed());
        let mut racing = FuturesUnordered::new();
        let mut runners = Vec::new();
        let mut joining = Some((first, begun));
        // One that may take the next try is dialled again at once, with whatever is known by then.
        let mut may_wait = true;
        let (winner, stream) = loop {
            if let Some((lease, begun)) = joining.take() {
                let number = runners.len();
                let until = share(round.others(&lease), deadline);
                racing.push({
                    let (shown, address) = (lease.to_string(), lease.backend().address.clone());
                    async move { (number, self.connect(&shown, &address, announcement, begun, until).await) }
                });
                runners.push(Some((lease, Instant::now())));
            }
            let is_last = racing.is_empty();
            tokio::select! {
                // A connection that is there is taken, though the process was busy until the deadline was over.
                biased;
                Some((number, connected)) = racing.next() => match connected {
                    Ok(stream) => break (number, stream),
                    Err(failure) => {
                        if let Some((lease, joined)) = runners[number].take() {
                            let failure = if number == 0 {
                                self.of_slow_name(failure, &lease, begun, joined)
                            } else {
                                failure
                            };
                            may_wait = !failure.is_passing();
                            round.unreachable(&lease, failure);
                        }
                    }
                },
                more = answer.more(), if answer.may_be_more() && (may_wait || !is_last) => {
                    if !more.is_empty() {
                        round.resolved(&listed, answer);
                    }
                }
                // A head start that is over is no error: the next one joins the race.
                () = sleep(HEAD_START), if round.has_beside(&listed) => {}
                () = sleep_until(deadline), if is_last && answer.may_be_more() && may_wait => return None,
                else => return None,
            }
            joining = round.beside(&listed).map(|lease| (lease, Instant::now()));
        };
        let (lease, _) = runners[winner].take()?;
        for (lease, begun) in runners.into_iter().flatten() {
            match begun.elapsed() {
                time if time >= HEAD_START => round.overtaken(&lease, HEAD_START),
                _ => round.spare(&lease),
            }
        }
        Some((stream, lease))
    }

    /// The deadline ended a connect: where the name had taken most of the time, that is what was too slow.
    fn of_slow_name(&self, failure: Failure, lease: &Lease, begun: Instant, resolved: Instant) -> Failure {
        let Failure::TimedOut { after, .. } = failure else { return failure };
        let (resolving, connecting) =
            (between(begun, resolved), after.saturating_sub(between(begun, resolved)));
        match lease.listed().name() {
            Some(host) if resolving > connecting => {
                let took = humantime::format_duration(resolving);
                let doing =
                    format!("resolving {host} with {} took {took}, and connecting to {lease}", self.resolver);
                Failure::TimedOut { stage: Stage::Resolve, doing, after: connecting }
            }
            _ => failure,
        }
    }

    /// Connects to an address that is called so, whose turn began at that time, and announces whose connection it is, if it
    /// is to be told that before anything else.
    pub async fn connect(
        &self,
        shown: &str,
        address: &Address,
        announcement: Option<Announcement>,
        begun: Instant,
        deadline: Instant,
    ) -> Result<Stream, Failure> {
        if self.listening.has(address) {
            return Err(Failure::Itself { endpoint: shown.to_owned() });
        }
        let connecting = async {
            let mut stream = Stream::connect(address, self.keepalive).await?;
            if let Some(announcement) = announcement {
                announcement.send(&mut stream).await?;
            }
            Ok(stream)
        };
        timeout_at(deadline, connecting)
            .await
            .map_err(late(Stage::Connect, format!("connecting to {shown}"), begun, deadline))?
            .map_err(|source| Failure::Connect { endpoint: shown.to_owned(), source })
    }
}

/// Tells the round of a server that does not serve, unless no other one could either.
fn refused<T>(round: &mut Round<'_>, lease: &Lease, failure: Failure) -> Result<Option<T>, Failure> {
    if let Failure::Secret(_) = failure {
        return Err(failure);
    }
    round.refused(lease, failure);
    Ok(None)
}

/// What a fresh connection to a backend goes through: TLS and the handshake.
pub struct Introduction<'a> {
    link: &'a Link,
    lease: &'a Lease,
    /// The server, as errors name it.
    shown: String,
    begun: Instant,
    deadline: Instant,
    /// What the handshake puts on the connection.
    restore: Option<&'a Restore>,
}

/// What comes of it.
#[expect(
    clippy::large_enum_variant,
    reason = "it lives for a moment, and a box would be an allocation for each dial"
)]
pub enum Introduced<'a> {
    /// A plain tunnel, which is not greeted.
    Tunnel(Stream),
    /// A Redis link, whatever the handshake came to.
    Redis(Greeted<'a>),
}

impl Introduced<'_> {
    /// For a client.
    pub fn upstream(self) -> Result<Upstream, Failure> {
        match self {
            Self::Tunnel(stream) => Ok(Upstream::of_plain_tunnel(stream)),
            Self::Redis(greeted) => greeted.upstream(),
        }
    }
}

impl<'a> Introduction<'a> {
    /// Of what was connected to since `begun`.
    pub fn to(link: &'a Link, lease: &'a Lease, begun: Instant, deadline: Instant) -> Self {
        Self { link, lease, shown: lease.to_string(), begun, deadline, restore: None }
    }

    /// Of one that takes over a session.
    fn restoring(self, restore: &'a Restore) -> Self {
        Self { restore: Some(restore).filter(|restore| !restore.is_empty()), ..self }
    }

    /// Goes through all of it. A login that could not be had is told once it is needed.
    pub async fn make<'b>(
        &'b self,
        stream: Stream,
        login: Result<Option<Login<'b>>, Failure>,
        observer: &'b dyn Observer,
    ) -> Result<Introduced<'b>, Failure> {
        let stream = self.secure(stream).await?;
        if self.link.tls.is_some() {
            observer.has_done(Step::Tls(&stream));
        }
        let Some(redis) = &self.link.redis else {
            return Ok(Introduced::Tunnel(stream));
        };
        Ok(Introduced::Redis(self.greet(stream, redis, login?, observer).await))
    }

    /// The handshake alone.
    async fn greet<'b>(
        &'b self,
        stream: Stream,
        redis: &'b Redis,
        login: Option<Login<'b>>,
        observer: &'b dyn Observer,
    ) -> Greeted<'b> {
        let probe = &self.lease.backend().probe;
        let greeting = Handshake::begin(stream, &self.shown, self.link, redis, probe, observer);
        let doing = format!("the handshake with {}", self.shown);
        let late = late(Stage::Auth, doing, self.begun, self.deadline);
        greeting.handshake(login, self.restore, self.deadline, late).await
    }

    /// Takes up TLS where the link has it.
    pub async fn secure(&self, stream: Stream) -> Result<Stream, Failure> {
        let Some(tls) = &self.link.tls else { return Ok(stream) };
        let doing = format!("the TLS handshake with {}", self.shown);
        timeout_at(self.deadline, Box::pin(tls.connect(stream, &self.lease.listed().endpoint)))
            .await
            .map_err(late(Stage::Tls, doing, self.begun, self.deadline))?
            .map_err(|error| by_target(error, &self.shown, self.link))
    }
}
