//! One connection, from top to bottom.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::FutureExt;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::client::accept::Admitted;
use crate::client::auth::{Judged, judged, require};
use crate::config::link::{self, ClientAuth, Credentials, Required};
use crate::failure::Failure;
use crate::failure::tls::{by_client, late_refusal, slow_client};
use crate::net::proxy_protocol::{Header, NoHeader};
use crate::net::tls::AcceptError;
use crate::net::tls::explain::is_no_tls;
use crate::net::{Accepted, Client, Stream};
use crate::relay::drain::{DrainRequest, Reason};
use crate::relay::{
    self, Cause, End, Event, Limits, Named, Own, Party, Policy, Reset, Restore, Seat, Session, Tunnel,
};
use crate::resp;
use crate::text;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::Lease;
use crate::upstream::connections::{ConnectionGuard, Known};
use crate::upstream::handshake::Upstream;
use crate::upstream::loops;
use crate::upstream::pool::{Origin, Warm};

/// How much of what a client says before its upstream is there is taken in. It has to be read to see that a client
/// has left, and it is enough for the first commands of any client library; the rest waits in the kernel.
const EARLY: usize = 16 * 1024;

/// A plain client that has ended its stream without a word may have gone, or may wait for a target that speaks first. A
/// dial that is under way gets this much longer, far more than one takes.
const SILENT: Duration = Duration::from_millis(500);

/// How often a client from which nothing more is read is looked at: often enough for the target to be spared the dial.
const LOOK: Duration = Duration::from_millis(500);

/// Before an upstream is dialled that refuses or closes again and again.
const AGAIN: Duration = Duration::from_millis(50);

/// How long a refused client may go on sending before its connection is closed for good.
pub const LINGER: Duration = Duration::from_secs(2);

impl LinkRuntime {
    /// Serves one client: its TLS, dial, handshake, relay with all that it needs on the way, one line in the log.
    ///
    /// Every step is boxed, and what a living connection needs lies in one box of its own: an idle one carries nothing
    /// that only a dial or a handshake needs. All of it together is boxed too: the runtime rounds a task up to 128 bytes.
    pub fn serve(
        self: Arc<Self>,
        accepted: Accepted,
        client: Client,
        admitted: Admitted,
    ) -> Pin<Box<impl Future<Output = ()> + Send>> {
        let establishing = Box::pin(self.establish(accepted, client, admitted));
        Box::pin(async move {
            let Some(mut connection) = establishing.await else { return };
            loop {
                let following = {
                    let event = poll_fn(|cx| connection.poll(cx)).await;
                    Box::pin(connection.follow(event))
                };
                match following.await {
                    Some(same) => connection = same,
                    None => return,
                }
            }
        })
    }

    /// Everything up to the moment when bytes may pass. A client that can't be served has been told so.
    async fn establish(
        self: Arc<Self>,
        accepted: Accepted,
        peer: Client,
        admitted: Admitted,
    ) -> Option<Box<Established>> {
        let accepted_at = Instant::now();
        let (mut stream, client, known) = self.take_in(accepted, peer).await?;
        let name = known.as_ref().and_then(|known| known.name.clone());
        if let Some(known) = known {
            admitted.guard.came_as(known);
        }
        let limits = self.limits();
        let mut early = Vec::new();
        if let Some(required) = self.required() {
            let limit = self.link.connect_timeout;
            let shown = tokio::select! {
                shown = require(&mut stream, &mut early, required, limit) => shown,
                // Nothing is under way that would have to be waited for.
                _ = poll_fn(|cx| admitted.guard.poll_drain(cx)) => {
                    let _ = stream.shutdown().now_or_never();
                    return None;
                }
            };
            if let Err(failure) = shown {
                self.reject(stream, client, &failure, LINGER).await;
                return None;
            }
        }
        // A client that has spoken already is served at once.
        let takes_warm = early.is_empty() && !self.sharing.is_on();
        let held = match takes_warm.then(|| self.warm.take(&self)).flatten() {
            Some(warm) => Box::pin(self.hold(warm, &mut stream, &mut early, &admitted.guard, limits)).await,
            None => Ok(Held::Gone),
        };
        let begun = Instant::now();
        let nothing = Restore::default();
        let host = self.link.redis.as_ref().and_then(|_| loops::host(&stream));
        let whose = self.whose(client, &stream, &admitted.guard);
        let upstream = match held {
            Ok(Held::Warm(warm)) => Ok(Some(Way::of_upstream(warm.serve(&self)))),
            Ok(Held::Released) => Ok(None),
            Ok(Held::Gone) => tokio::select! {
                biased;
                upstream = async {
                    self.dialler.unanswered.wait(host, self.link.connect_timeout / 2).await?;
                    if self.sharing.is_on() {
                        return self.seat(&nothing).await.map(Way::of_seat);
                    }
                    self.upstream(&nothing, whose).await.map(Way::of_upstream)
                } => upstream.map(Some),
                () = client_leaves(&mut stream, &mut early, self.link.redis.is_some(), false) => Err(Failure::ClientLeft),
            },
            Err(left) => Err(left),
        };
        match upstream {
            Ok(found) => {
                let (upstream, leading, lease) = match found {
                    Some((upstream, leading, lent)) => {
                        self.metrics.dialled(begun.elapsed());
                        (Some(upstream), leading, lent.map(|(lease, _)| lease))
                    }
                    None => (None, Vec::new(), None),
                };
                tracing::debug!(
                    target: "client",
                    link = self.link.name,
                    %client,
                    name = name.as_deref(),
                    backend = lease.as_ref().map(tracing::field::display),
                    milliseconds = milliseconds(accepted_at),
                    "connection opened"
                );
                let server =
                    upstream.as_ref().map(|upstream| upstream.server(lease.as_ref())).unwrap_or_default();
                if let Some(lease) = lease {
                    self.backends.assign(&admitted.guard, lease);
                }
                let relay = match self.policy() {
                    None => Relay::Tunnel(Tunnel::new(early, leading, limits)),
                    Some(policy) if upstream.is_none() => Relay::Session(Session::released(limits, policy)),
                    Some(policy) => Relay::Session(Session::new(early, leading, limits, policy)),
                };
                Some(Box::new(Established {
                    service: self,
                    client,
                    accepted_at,
                    stream,
                    upstream,
                    server,
                    origin: None,
                    relay,
                    admitted,
                }))
            }
            Err(failure) => {
                // It stays registered until it is gone: its descriptor counts, and a drain waits for the line.
                self.reject(stream, client, &failure, LINGER).await;
                drop(admitted);
                None
            }
        }
    }

    /// Holds a warm upstream until the client says its first word, or there is another reason to begin. While not a
    /// byte has gone to it, one that ends or spoils can be replaced as if it had never been: then there is none any
    /// more. A client that leaves without a word has needed none.
    async fn hold(
        &self,
        warm: Warm,
        client: &mut Stream,
        early: &mut Vec<u8>,
        guard: &ConnectionGuard,
        limits: Limits,
    ) -> Result<Held, Failure> {
        let (latest, release) = (limits.reached_at(), limits.released_at());
        let mut held = Some(warm);
        loop {
            let target_says = poll_fn(|cx| match &mut held {
                Some(warm) => warm.poll_says(cx),
                None => Poll::Pending,
            });
            tokio::select! {
                biased;
                read = read_some(client, early) => {
                    if let Ok(1..) = read {
                        return Ok(held.filter(|warm| warm.serves(self)).into());
                    }
                    if let Some(unused) = held {
                        self.warm.discard(self, unused, "client_left");
                    }
                    return Err(Failure::ClientLeft);
                }
                said = target_says => match said {
                    Ok(1..) => return Ok(held.into()),
                    // What the client has no use for yet is got when it has.
                    Ok(0) | Err(_) => held = None,
                },
                () = poll_fn(|cx| guard.poll_drain(cx).map(drop)) => return Ok(held.into()),
                () = sleep_until(latest.unwrap_or_else(Instant::now)), if latest.is_some() => return Ok(held.into()),
                () = sleep_until(release.unwrap_or_else(Instant::now)), if release.is_some() => {
                    if let Some(unused) = held {
                        self.warm.discard(self, unused, "released");
                    }
                    return Ok(Held::Released);
                }
            }
        }
    }

    /// What a client has to show before it is served.
    fn required(&self) -> Option<&Required> {
        match self.link.redis.as_ref().map(|redis| &redis.client_auth) {
            Some(ClientAuth::Require(required)) => Some(required),
            _ => None,
        }
    }

    /// Tells a client that came when it could not be taken; `linger` is zero where there is no room to wait for its
    /// end of the connection.
    pub async fn reject_early(&self, accepted: Accepted, peer: Client, failure: &Failure, linger: Duration) {
        // Who the client is, and what it understands, shows only after a header and a TLS handshake, which are waits too.
        if linger.is_zero() && (self.link.listen_tls.is_some() || self.link.listen_proxy_protocol) {
            return self.report(peer, failure);
        }
        if let Some((stream, client, _)) = self.take_in(accepted, peer).await {
            self.reject(stream, client, failure, linger).await;
        }
    }

    /// Makes the client's socket one of this thread, and takes what comes before the client's own bytes: what a balancer says
    /// of it, and TLS, where the link has them. A client that there is no stream for has been told why, as far as it can be
    /// told.
    async fn take_in(&self, accepted: Accepted, peer: Client) -> Option<(Stream, Client, Option<Known>)> {
        let mut stream = accepted
            .into_stream()
            .inspect_err(|error| {
                let client = peer;
                tracing::error!(target: "client", link = self.link.name, %client, %error, "client socket registration failed");
            })
            .ok()?;
        let (mut client, mut to) = (peer, None);
        if self.link.listen_proxy_protocol {
            let announced = self.announced(&mut stream, peer).await;
            // At once, and without a wait: until then it has a place that another one could have.
            let admitted = announced.map_err(|failure| (peer, failure, LINGER)).and_then(|(client, to)| {
                let no = |address| (client, Failure::NotAllowed { address }, Duration::ZERO);
                self.link.allows(client).map(|()| (client, to)).map_err(no)
            });
            match admitted {
                Ok(admitted) => (client, to) = admitted,
                Err((client, failure, linger)) => {
                    // Who speaks TLS reads nothing that is said without.
                    if self.link.listen_tls.is_some() {
                        self.report(client, &failure);
                    } else {
                        self.reject(stream, client, &failure, linger).await;
                    }
                    return None;
                }
            }
            tracing::debug!(target: "client", link = self.link.name, %client, via = %peer, "client announced");
        }
        let stream = self.accept_tls(stream, client).await?;
        let name = match (&stream, &self.link.listen_tls) {
            (Stream::Tls(stream), Some(tls)) => tls.name_of(stream).map(Into::into),
            _ => None,
        };
        let is_known = self.link.listen_proxy_protocol || name.is_some();
        Some((stream, client, is_known.then_some(Known { client, to, name })))
    }

    /// The client, as the balancer at the other end says, and what it had dialled.
    async fn announced(
        &self,
        stream: &mut Stream,
        peer: Client,
    ) -> Result<(Client, Option<SocketAddr>), Failure> {
        let limit = self.link.connect_timeout;
        let Ok(read) = timeout(limit, Header::read(stream)).await else {
            let reason = format!("its header was not there within {}", humantime::format_duration(limit));
            return Err(Failure::Unannounced { reason });
        };
        match read {
            Ok(Header::Tcp { from, to }) => Ok((Client::Tcp(from), Some(to))),
            Ok(Header::Unix) => Ok((Client::Unix, None)),
            Ok(Header::Own) => Ok((peer, None)),
            Err(NoHeader::Left) => Err(Failure::ClientLeft),
            Err(why) => Err(Failure::Unannounced { reason: why.to_string() }),
        }
    }

    /// Whose connection it is, for a target that is told.
    fn whose(&self, client: Client, stream: &Stream, guard: &ConnectionGuard) -> Header {
        if self.link.proxy_protocol.is_none() {
            return Header::Own;
        }
        Header::of(client, guard.dialled().or_else(|| Some(stream.ends()?.0)))
    }

    /// Takes up TLS with a client where the link has it.
    async fn accept_tls(&self, stream: Stream, client: Client) -> Option<Stream> {
        let Some(tls) = &self.link.listen_tls else {
            return Some(stream);
        };
        let limit = self.link.connect_timeout;
        let Ok(accepted) = timeout(limit, tls.accept(stream)).await else {
            self.report(client, &slow_client(limit));
            return None;
        };
        let AcceptError { error, mut socket } = match accepted {
            Ok(stream) => return Some(stream),
            Err(unaccepted) => unaccepted,
        };
        let failure = by_client(&error, &self.link);
        self.report(client, &failure);
        // One that speaks no TLS may be a Redis client that can read the line; any other has its alert.
        let reply = self.refusal(&failure);
        let speaks_plainly = is_no_tls(&error) && self.link.redis.is_some();
        let line = if speaks_plainly { reply.as_bytes() } else { b"" };
        // A client that has gone meanwhile is no news.
        let _ = timeout(LINGER, say_and_close(&mut socket, line)).await;
        None
    }

    /// Tells a client why it is not served, and the log too.
    async fn reject(&self, mut stream: Stream, client: Client, failure: &Failure, linger: Duration) {
        self.report(client, failure);
        if self.link.redis.is_some() {
            let reply = self.refusal(failure);
            // A client that has gone meanwhile is no news, and one that had only ended its stream still listens.
            let _ = timeout(linger, say_and_close(&mut stream, reply.as_bytes())).await;
        }
    }

    /// Tells the log and the metrics why a client is not served.
    fn report(&self, client: Client, failure: &Failure) {
        let link = &self.link.name;
        if matches!(failure, Failure::ClientLeft | Failure::ClientQuit) {
            tracing::debug!(target: "client", link, %client, "client left before it was served");
        } else {
            self.metrics.failed(failure.stage());
            self.reports.failed(client, failure, &self.link);
        }
    }

    /// What a session is to do; none where bytes are passed on as they come.
    fn policy(&self) -> Option<Policy> {
        let redis = self.link.redis.as_ref().filter(|redis| redis.sessions)?;
        Some(Policy {
            reset: match redis.reset {
                _ if !redis.loses_by_reset() => Reset::Harmless,
                link::Reset::Reauthenticate => Reset::Renews,
                link::Reset::Forward => Reset::Strips,
            },
            absorbs: redis.absorbs_auth(),
            // Clients of a cluster know themselves where else to go.
            resends: self.cluster.is_none() && (redis.role.is_some() || self.backends.are_several()),
            patience: self.link.connect_timeout,
            database: self.link.database(),
            shares: self.sharing.is_on(),
            retells: self.cluster.is_some(),
        })
    }
}

/// The way of a client's bytes to the target.
type Way = relay::Way<Stream>;

/// A way, what the target has said on it already, and what belongs to an upstream of the client's own.
type Found = (Way, Vec<u8>, Option<(Lease, Origin)>);

impl Way {
    fn of_upstream((upstream, lease, origin): (Upstream, Lease, Origin)) -> Found {
        let (stream, leading) = upstream.into_parts();
        (Self::Own(stream), leading, Some((lease, origin)))
    }

    fn of_seat(seat: Seat) -> Found {
        (Self::Seat(seat), Vec::new(), None)
    }

    /// The number of the server that it leads to.
    fn server(&self, lease: Option<&Lease>) -> u64 {
        match self {
            Self::Seat(seat) => seat.server(),
            Self::Own(_) => lease.map(|lease| lease.backend().number).unwrap_or_default(),
        }
    }

    /// Closes with a reset.
    fn reset(self) {
        match self {
            Self::Own(stream) => stream.reset(),
            Self::Seat(_) => {}
        }
    }
}

/// What a living connection does.
#[derive(Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "it lies in a box with all else that belongs to the connection"
)]
enum Relay {
    Tunnel(Tunnel),
    Session(Session),
}

/// A connection whose upstream is there.
struct Established {
    service: Arc<LinkRuntime>,
    client: Client,
    accepted_at: Instant,
    stream: Stream,
    /// None while a session waits for its client's next command.
    upstream: Option<Way>,
    /// The number of the last upstream's server.
    server: u64,
    /// Of an upstream that was lent; boxed, since most connections have none.
    origin: Option<Box<Origin>>,
    relay: Relay,
    admitted: Admitted,
}

/// What has become of a warm upstream while its client was silent.
enum Held {
    Warm(Warm),
    /// It is none any more, or there was none.
    Gone,
    /// It was given back, and the client is served without one.
    Released,
}

impl From<Option<Warm>> for Held {
    fn from(warm: Option<Warm>) -> Self {
        warm.map_or(Self::Gone, Self::Warm)
    }
}

/// How a connection ended.
enum Ending {
    End(End),
    /// It can't go on, and the client is told why.
    Failed(Failure),
}

impl Established {
    /// Ready when the relay needs something, or has come to an end.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        let Self { service, stream, upstream, relay, admitted, .. } = self;
        match (relay, upstream) {
            (Relay::Session(session), upstream) => {
                let event = session.poll(cx, stream, upstream, &admitted.guard, &service.metrics.session);
                if upstream.is_none() {
                    admitted.guard.release();
                }
                if service.sharing.is_on() {
                    admitted.guard.is_lent(!session.keeps_its_own());
                }
                event
            }
            (Relay::Tunnel(tunnel), Some(upstream)) => {
                tunnel.poll(cx, stream, upstream, &admitted.guard).map(Event::End)
            }
            (Relay::Tunnel(_), None) => Poll::Ready(Event::End(End::Closed)),
        }
    }

    /// Does what the relay needs: the connection goes on, or is closed.
    async fn follow(mut self: Box<Self>, event: Event) -> Option<Box<Self>> {
        let ending = match event {
            Event::End(end) => Some(Ending::End(end)),
            Event::Upstream(cause) => self.exchange(cause).await,
            Event::Reauthenticate => {
                self.reauthenticate();
                None
            }
            Event::Share => {
                self.share();
                None
            }
            Event::Reset => self.greet_again().await,
            Event::Own(own) => self.judge(&own).await,
            Event::Names(names) => self.retell(names).await,
            Event::AuthRefused => {
                self.service.reports.password_refused(self.client, &self.service.link);
                None
            }
            Event::SentAway => {
                self.tell_of_cluster();
                None
            }
            Event::Wait => Some(Ending::Failed(Failure::WaitElsewhere)),
        };
        let Some(ending) = ending else { return Some(self) };
        self.close(ending).await;
        None
    }

    fn tell_of_cluster(&self) {
        let link = &self.service.link;
        tracing::warn!(
            target: "client",
            link = link.name,
            client = %self.client,
            remedy = link.cluster_remedy(),
            "the target is a node of a Redis Cluster; it sends clients on to nodes that they have to reach by themselves"
        );
    }

    /// The session's own upstream is closed, and it goes on among others; or has none, until its client's next command.
    fn share(&mut self) {
        let Relay::Session(session) = &mut self.relay else { return };
        if !self.service.sharing.is_on() {
            session.shares_nothing();
            return;
        }
        let left = session.left_behind();
        if let (Some(Way::Own(stream)), Some(lease), Some(origin), Some(left)) =
            (self.upstream.take(), self.admitted.guard.release(), self.origin.take(), left)
        {
            let given_back = Upstream::given_back(stream);
            tokio::spawn(Arc::clone(&self.service).take_back(given_back, left, lease, *origin));
        }
        let seat = session.shared().and_then(|state| self.service.sharing.seat(&state));
        session.needs_none();
        if let Some(seat) = &seat {
            session.goes_on_at(self.server == seat.server());
            self.server = seat.server();
            session.attach(&[], self.service.limits(), &self.admitted.guard);
        }
        self.upstream = seat.map(Way::Seat);
    }

    /// Gets the session another upstream, with all that it had on the one before.
    async fn exchange(&mut self, cause: Cause) -> Option<Ending> {
        let Self { service, client, stream, upstream, server, origin, relay, admitted, .. } = self;
        let Relay::Session(session) = relay else { return None };
        let whose = service.whose(*client, stream, &admitted.guard);
        let before = admitted.guard.release();
        if !service.sharing.is_on() {
            session.shares_nothing();
        }
        let (restore, shared) = (session.restore(), session.shared());
        let behind = if shared.is_none() { session.shared_behind() } else { None };
        let guest = behind.and_then(|state| service.sharing.seat(&state));
        let is_waited_for = session.is_waited_for();
        if let (Some(Way::Seat(seat)), Cause::Refused) = (&upstream, cause) {
            // Another one may take what this one has refused.
            seat.leave();
        }
        let since = session.resent_at();
        let dialled = tokio::select! {
            biased;
            dialled = async {
                match guest {
                    Some(seat) => Ok(Way::of_seat(seat)),
                    None => another(service, &restore, whose, shared.as_ref(), since).await,
                }
            } => dialled,
            () = client_leaves(stream, session.ahead(), true, is_waited_for) => Err(Failure::ClientLeft),
            reason = drained(&admitted.guard) => return Some(Ending::End(End::Left(reason))),
        };
        let has_role = service.link.redis.as_ref().is_some_and(|redis| redis.role.is_some());
        match (dialled, cause) {
            (Ok((fresh, _, lent)), Cause::Refused)
                if !has_role && fresh.server(lent.as_ref().map(|(lease, _)| lease)) == *server =>
            {
                // It would say the same again.
                session.refusal_stands();
                if let Some((lease, _)) = lent {
                    service.backends.assign(&admitted.guard, lease);
                }
            }
            (Ok((fresh, leading, lent)), cause) => {
                let (lease, from) = lent.unzip();
                let at = fresh.server(lease.as_ref());
                session.goes_on_at(*server == at);
                *server = at;
                *origin = from.map(Box::new);
                let again = session.attach(&leading, service.limits(), &admitted.guard);
                tracing::debug!(
                    target: "client",
                    link = service.link.name,
                    %client,
                    backend = lease.as_ref().map(tracing::field::display),
                    cause = cause.name(),
                    again,
                    "session went on with another upstream"
                );
                *upstream = Some(fresh);
                service.metrics.session.exchanged(cause);
                service.metrics.session.resent(again);
                if let Some(lease) = lease {
                    service.backends.assign(&admitted.guard, lease);
                }
            }
            (Err(failure), Cause::Refused) if !matches!(failure, Failure::ClientLeft) => {
                session.refusal_stands();
                if let Some(before) = before {
                    service.backends.assign(&admitted.guard, before);
                }
            }
            (Err(failure), _) => return Some(Ending::Failed(failure)),
        }
        None
    }

    /// Behind a RESET: the link's own handshake once more. Where the upstream does not survive that, another one takes its
    /// place; and the client authenticates itself again, where it has to.
    async fn greet_again(&mut self) -> Option<Ending> {
        let LinkRuntime { link, dialler, backends, .. } = &*self.service;
        let guard = &self.admitted.guard;
        let greeted = match (self.upstream.take(), guard.release()) {
            (Some(Way::Own(old)), Some(lease)) => {
                dialler.greet_again(link, backends, &lease, old).await.map(|upstream| (upstream, lease))
            }
            _ => Err(Failure::ClientLeft),
        };
        let leading = match greeted {
            Ok((upstream, lease)) => {
                let (upstream, leading) = upstream.into_parts();
                self.upstream = Some(Way::Own(upstream));
                backends.assign(guard, lease);
                Some(leading)
            }
            Err(error) => {
                let (link, client) = (&link.name, self.client);
                tracing::debug!(target: "client", link, %client, %error, "handshake behind RESET failed");
                let ending = self.exchange(Cause::Closed).await;
                if ending.is_some() {
                    return ending;
                }
                None
            }
        };
        let Self { service, stream, relay, admitted, .. } = self;
        let Relay::Session(session) = relay else { return None };
        if let Some(required) = service.required() {
            // As new as a connection is after a RESET.
            let limit = service.link.connect_timeout;
            let shown = tokio::select! {
                shown = require(stream, session.ahead(), required, limit) => shown,
                drain = asked_to_drain(&admitted.guard) => return Some(Ending::End(End::Left(drain.reason))),
            };
            if let Err(failure) = shown {
                return Some(Ending::Failed(failure));
            }
        }
        if let Some(leading) = leading {
            session.greeted(&leading);
        }
        None
    }

    /// Shows the upstream the link's other secret.
    fn reauthenticate(&mut self) {
        let credentials = self.service.link.credentials();
        let credential = credentials.and_then(Credentials::last);
        if let (Relay::Session(session), Some(credential)) = (&mut self.relay, credential) {
            session.reauthenticate(resp::commands(&[credential.command()]).expose());
        }
    }

    /// A reply that names nodes of the cluster: the client hears of our listeners instead.
    async fn retell(&mut self, Named { reply, is_server_s_own }: Named) -> Option<Ending> {
        let dialled = self.admitted.guard.dialled().or_else(|| Some(self.stream.ends()?.0));
        let host = dialled.map(|dialled| dialled.ip().to_canonical());
        let retold = tokio::select! {
            biased;
            retold = self.service.retell(&reply, is_server_s_own, host) => retold,
            reason = drained(&self.admitted.guard) => return Some(Ending::End(End::Left(reason))),
        };
        if let Relay::Session(session) = &mut self.relay {
            session.retold(&retold);
        }
        None
    }

    /// A client's own authentication, when it has been let in already.
    async fn judge(&mut self, own: &Own) -> Option<Ending> {
        let Relay::Session(session) = &mut self.relay else { return None };
        match judged(own, self.service.required()).await {
            Ok(Judged::Answer(answer)) => session.judged(Ok(answer.as_bytes())),
            Ok(Judged::Hello(command)) => session.judged(Err(command.expose())),
            Err(failure) => return Some(Ending::Failed(failure)),
        }
        None
    }

    /// One line in the log, and the end that each side is owed.
    async fn close(self: Box<Self>, ending: Ending) {
        let Self { service, client, accepted_at, mut stream, upstream, admitted, relay, .. } = *self;
        let (moved, has_more) = match &relay {
            Relay::Tunnel(tunnel) => (tunnel.moved(), false),
            Relay::Session(session) => (session.moved(), session.is_ahead()),
        };
        drop(relay);
        let (name, error) = match &ending {
            Ending::End(end) => (end.name(), end.error().map(text::io_error)),
            Ending::Failed(_) => ("failure", None),
        };
        tracing::debug!(
            target: "client",
            link = service.link.name,
            %client,
            to_target = moved.to_target,
            to_client = moved.to_client,
            milliseconds = milliseconds(accepted_at),
            ended_by = name,
            error,
            "connection closed"
        );
        match ending {
            // Both have said goodbye.
            Ending::End(End::Closed) => {}
            Ending::Failed(failure) => {
                drop(upstream);
                service.reject(stream, client, &failure, LINGER).await;
                // A drain waits for the line.
                drop(admitted);
            }
            Ending::End(End::Broken(party, error)) => {
                if let Some(upstream) = upstream {
                    upstream.reset();
                }
                let was_served = party == Party::Client || moved.to_client > 0;
                let refusal = late_refusal(&error, &service.link.target.to_string(), &service.link);
                match refusal.filter(|_| !was_served) {
                    Some(failure) if service.link.redis.is_some() => {
                        service.reject(stream, client, &failure, LINGER).await;
                        drop(admitted);
                    }
                    refusal => {
                        if let Some(failure) = refusal {
                            service.report(client, &failure);
                        }
                        stream.reset();
                    }
                }
            }
            Ending::End(End::Idle | End::Left(_)) => {
                if let Some(mut stream) = upstream {
                    // Whoever does not take a goodbye at once is not waited for.
                    let _ = stream.shutdown().now_or_never();
                }
                let _ = stream.shutdown().now_or_never();
                if has_more {
                    // The socket holds or will hold what nobody reads any more, and would be reset.
                    let _ = timeout(LINGER, say_and_close(&mut stream, b"")).await;
                    drop(admitted);
                }
            }
        }
    }
}

/// Another upstream for a session. A server that is about to stop closes a connection in the midst of its handshake; so
/// does one behind a balancer that knows it no more.
async fn another(
    service: &Arc<LinkRuntime>,
    restore: &Restore,
    whose: Header,
    shared: Option<&Restore>,
    since: Option<Instant>,
) -> Result<Found, Failure> {
    let begun = Instant::now();
    if let Some(since) = since {
        // What has been sent in vain just now is not sent again at once.
        sleep(AGAIN.saturating_sub(since.elapsed())).await;
    }
    loop {
        let found = match shared {
            Some(state) => service.seat(state).await.map(Way::of_seat),
            None => service.upstream(restore, whose).await.map(Way::of_upstream),
        };
        match found {
            Err(Failure::Closed { .. }) if begun.elapsed() + AGAIN < service.link.connect_timeout => {
                sleep(AGAIN).await;
            }
            dialled => return dialled,
        }
    }
}

/// Ready when a drain is over, at the time when the connection is closed in any case.
async fn drained(guard: &ConnectionGuard) -> Reason {
    let drain = asked_to_drain(guard).await;
    sleep_until(drain.latest).await;
    drain.reason
}

/// Ready when the process is to end. Where a dial leads what else is asked of a connection does not matter: the session
/// sees to it.
async fn asked_to_drain(guard: &ConnectionGuard) -> DrainRequest {
    poll_fn(|cx| match guard.poll_drain(cx) {
        Poll::Ready(leave) if leave.reason == Reason::Drain => Poll::Ready(leave),
        _ => Poll::Pending,
    })
    .await
}

/// How long that is ago, for the log.
fn milliseconds(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

/// Returns once nobody waits for an answer any more, also to what was said before (`has_asked`). What the client says
/// meanwhile goes to `early`.
///
/// Half-close: a client that has said something and ended its stream waits for its answer, as `printf 'PING\r\n' | nc`
/// does. That it has gone all the same shows only where its connection is reset.
async fn client_leaves(client: &mut Stream, early: &mut Vec<u8>, is_redis: bool, has_asked: bool) {
    while early.len() < EARLY {
        match read_some(client, early).await {
            Ok(1..) => {}
            Ok(0) if has_asked || !early.is_empty() => break,
            Ok(0) if is_redis => return,
            Ok(0) => return sleep(SILENT).await,
            Err(_) => return,
        }
    }
    while !client.is_gone() {
        sleep(LOOK).await;
    }
}

/// Reads what is there, without holding memory while nothing is.
pub async fn read_some(stream: &mut Stream, bytes: &mut Vec<u8>) -> io::Result<usize> {
    poll_fn(|cx| stream.poll_read_more(cx, bytes)).await
}

/// Says a last line, and closes so that it arrives: a socket closed while bytes of its peer are unread is reset, and
/// a reset overtakes the line. So the end of stream is sent first, and what still comes is read until the client's
/// own end.
async fn say_and_close(stream: &mut Stream, line: &[u8]) -> io::Result<()> {
    stream.write_all(line).await?;
    stream.shutdown().await?;
    // On the heap, so that the many who never come here do not carry it.
    let mut unread = vec![0; 4096];
    while stream.read(&mut unread).await? > 0 {}
    Ok(())
}
