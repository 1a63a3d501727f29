//! Tunnels and sessions on a network that is played: whatever the lines and the parties do, what they promise holds.
//!
//! A scenario is data: what each party says, when it reads, how it leaves, and what its line does to reads and writes.
//! The clock is paused, so a stall of minutes takes no time. The same scenarios run over TLS, with the stream that real
//! connections use on our side of the line and on the party's.

mod sessions;

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use futures_util::FutureExt;
use parking_lot::{Mutex, MutexGuard};
use proptest::collection::vec;
use proptest::prelude::*;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf, split};
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep, timeout};

use super::copy::LARGE_READ;
use super::drain::{DrainRequest, Handle, Moved};
use super::pair::LAST_WORDS;
use super::*;
use crate::net::Side;
use crate::net::tls::stream::TlsStream;

/// One way of a line.
#[derive(Default)]
struct Way {
    /// Bytes that the reader can have.
    flying: VecDeque<u8>,
    /// Bytes that wait for a flush.
    held: Vec<u8>,
    ended: bool,
    broken: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

impl Way {
    fn wake(&mut self) {
        for waker in [self.reader.take(), self.writer.take()].into_iter().flatten() {
            waker.wake();
        }
    }

    /// Lets held bytes fly as far as there is room.
    fn release(&mut self, room: usize) {
        let most = room.saturating_sub(self.flying.len()).min(self.held.len());
        if most > 0 {
            self.flying.extend(self.held.drain(..most));
            self.wake();
        }
    }
}

/// What a line does to those who use it.
#[derive(Debug, Clone)]
struct Manners {
    /// How many bytes may be on their way.
    room: usize,
    /// How many bytes it holds back until it is told to flush.
    holds: usize,
    reads: Vec<Whim>,
    writes: Vec<Whim>,
}

/// One read or write: so many bytes at the most, after so many milliseconds.
#[derive(Debug, Clone, Copy)]
struct Whim {
    most: usize,
    after: u64,
}

/// Whims one after the other; after the last one everything goes at once.
struct Whims {
    left: VecDeque<Whim>,
    stall: Option<Pin<Box<Sleep>>>,
}

impl Whims {
    fn new(whims: &[Whim]) -> Self {
        Self { left: whims.iter().copied().collect(), stall: None }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<usize> {
        let Some(whim) = self.left.front() else {
            return Poll::Ready(usize::MAX);
        };
        if whim.after > 0 {
            let after = Duration::from_millis(whim.after);
            ready!(self.stall.get_or_insert_with(|| Box::pin(sleep(after))).as_mut().poll(cx));
        }
        let most = whim.most;
        self.stall = None;
        self.left.pop_front();
        Poll::Ready(most)
    }
}

type Shared = Arc<Mutex<Way>>;

fn lock(way: &Shared) -> MutexGuard<'_, Way> {
    way.lock()
}

/// One end of a line.
struct Socket {
    inbound: Shared,
    outbound: Shared,
    room: usize,
    holds: usize,
    reads: Whims,
    writes: Whims,
}

/// Both ends of a line: ours, with its manners, and the party's.
fn line(manners: &Manners) -> (Socket, Socket) {
    let (to_party, to_us) = (Shared::default(), Shared::default());
    let socket = |inbound: &Shared, outbound: &Shared, holds, reads: &[Whim], writes: &[Whim]| Socket {
        inbound: Arc::clone(inbound),
        outbound: Arc::clone(outbound),
        room: manners.room,
        holds,
        reads: Whims::new(reads),
        writes: Whims::new(writes),
    };
    let ours = socket(&to_us, &to_party, manners.holds, &manners.reads, &manners.writes);
    (ours, socket(&to_party, &to_us, 0, &[], &[]))
}

/// What this end wrote and is on its way arrives still; what comes the other way is lost.
fn reset(inbound: &Shared, outbound: &Shared) {
    for (way, is_lost) in [(inbound, true), (outbound, false)] {
        let mut way = lock(way);
        way.broken = true;
        if is_lost {
            way.flying.clear();
            way.held.clear();
        }
        way.wake();
    }
}

impl Drop for Socket {
    /// A socket that is closed after its end of stream only stops reading; one without is reset.
    fn drop(&mut self) {
        if self.outbound.lock().ended {
            let mut way = self.inbound.lock();
            way.broken |= !way.ended;
            way.wake();
        } else {
            reset(&self.inbound, &self.outbound);
        }
    }
}

impl Side for Socket {
    fn take_error(&self) -> Option<io::Error> {
        self.inbound.lock().broken.then(|| io::ErrorKind::ConnectionReset.into())
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let mut way = this.inbound.lock();
        if way.flying.is_empty() && !way.ended && !way.broken {
            way.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        drop(way);
        let most = ready!(this.reads.poll(cx));
        let mut way = this.inbound.lock();
        if way.flying.is_empty() {
            let reset = way.broken && !way.ended;
            return Poll::Ready(if reset { Err(io::ErrorKind::ConnectionReset.into()) } else { Ok(()) });
        }
        let most = most.min(buffer.remaining());
        let (front, _) = way.flying.as_slices();
        let front = &front[..front.len().min(most)];
        buffer.put_slice(front);
        let read = front.len();
        way.flying.drain(..read);
        way.release(this.room);
        way.wake();
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let most = ready!(this.writes.poll(cx)).min(bytes.len());
        let mut way = this.outbound.lock();
        assert!(!way.ended, "bytes after the end of the stream");
        if way.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if way.held.len() >= this.holds {
            way.release(this.room);
        }
        let free = if this.holds > 0 {
            this.holds.saturating_sub(way.held.len())
        } else {
            this.room.saturating_sub(way.flying.len())
        };
        if free == 0 {
            way.writer = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let bytes = &bytes[..most.min(free)];
        if this.holds > 0 {
            way.held.extend(bytes);
        } else {
            way.flying.extend(bytes);
            way.wake();
        }
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut way = self.outbound.lock();
        if !way.broken {
            way.release(self.room);
        }
        if way.held.is_empty() {
            return Poll::Ready(Ok(()));
        }
        if way.broken {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        way.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.as_mut().poll_flush(cx))?;
        let mut way = self.outbound.lock();
        way.ended = true;
        way.wake();
        Poll::Ready(Ok(()))
    }
}

/// A side whose use by the relay is counted.
struct Counted<S> {
    side: S,
    counts: Arc<Mutex<Counts>>,
}

#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    read: usize,
    written: usize,
    ends_read: usize,
    ends_passed_on: usize,
}

impl<S> Counted<S> {
    fn count(&self, count: impl FnOnce(&mut Counts)) {
        count(&mut self.counts.lock());
    }
}

impl<S: Side> Side for Counted<S> {
    fn take_error(&self) -> Option<io::Error> {
        self.side.take_error()
    }
}

impl<S: Side> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.side).poll_read(cx, buffer))?;
        let read = buffer.filled().len() - before;
        self.count(|counts| {
            counts.read += read;
            counts.ends_read += usize::from(read == 0);
        });
        Poll::Ready(Ok(()))
    }
}

impl<S: Side> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.side).poll_write(cx, bytes))?;
        self.count(|counts| counts.written += written);
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.side).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.side).poll_shutdown(cx))?;
        self.count(|counts| counts.ends_passed_on += 1);
        Poll::Ready(Ok(()))
    }
}

/// What a party does.
#[derive(Debug, Clone)]
struct Script {
    /// What it had said before the relay began.
    early: usize,
    acts: Vec<Act>,
    leaves: Leaves,
    /// How long it reads nothing at first, in seconds.
    deaf: u64,
    line: Manners,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// Says so many bytes.
    Say(usize),
    /// Waits for so many milliseconds.
    Wait(u64),
    /// Waits until it has heard so many bytes in all.
    Hear(usize),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Leaves {
    WithAnEnd,
    WithAReset,
}

/// What came of a party's part.
#[derive(Debug)]
struct Played {
    said: usize,
    /// When it reset the line.
    reset: Option<Instant>,
    heard: usize,
    /// Whether what it heard had a clean end.
    heard_end: bool,
}

/// More than any party says.
const MOST: usize = 2 * 1024 * 1024;

/// What parties say: from the front the client, from the middle on the target.
static WORDS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut state = 1_u32;
    let mut byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[1]
    };
    (0..2 * MOST).map(|_| byte()).collect()
});

/// Plays a party on its end of the line.
async fn play<S: Side>(
    script: &Script,
    (says, expects): (&[u8], &[u8]),
    stream: S,
    ways: (Shared, Shared),
) -> Played {
    let (mut reader, mut writer) = split(stream);
    let (progress, mut heard) = watch::channel(0);
    let listening = async move {
        sleep(Duration::from_secs(script.deaf)).await;
        let mut buffer = vec![0; 64 * 1024];
        let mut count = 0;
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) => return (count, true),
                Ok(read) => {
                    assert!(buffer[..read] == expects[count..count + read], "other bytes were heard");
                    count += read;
                    // Whoever speaks may have finished.
                    let _ = progress.send(count);
                }
                Err(_) => return (count, false),
            }
        }
    };
    let speaking = async {
        let mut said = script.early;
        let mut is_heard = true;
        for act in &script.acts {
            match *act {
                Act::Wait(time) => sleep(Duration::from_millis(time)).await,
                Act::Hear(count) => is_heard &= heard.wait_for(|heard| *heard >= count).await.is_ok(),
                Act::Say(length) => {
                    let end = said + length;
                    while said < end && is_heard {
                        match writer.write(&says[said..end]).await {
                            Ok(written) => said += written,
                            Err(_) => is_heard = false,
                        }
                    }
                    is_heard &= writer.flush().await.is_ok();
                }
            }
            if !is_heard {
                break;
            }
        }
        let mut at = None;
        match script.leaves {
            // The other side may have gone before.
            Leaves::WithAnEnd => drop(writer.shutdown().await),
            Leaves::WithAReset => {
                reset(&ways.0, &ways.1);
                at = Some(Instant::now());
            }
        }
        (said, at)
    };
    let ((heard, heard_end), (said, reset)) = tokio::join!(listening, speaking);
    Played { said, reset, heard, heard_end }
}

/// What the relay did.
struct Relayed {
    end: End,
    moved: Moved,
    begun: Instant,
    ended: Instant,
    /// The counts of the client's side and of the target's.
    client: Counts,
    target: Counts,
}

#[derive(Debug, Clone)]
struct Scenario {
    client: Script,
    target: Script,
    /// When the connection is asked to go, and how long it may take, in milliseconds.
    leave: Option<(u64, u64)>,
}

/// Relays between two sides, and ends as a connection does.
async fn relay<C: Side, T: Side>(scenario: &Scenario, client: C, target: T) -> Relayed {
    let mut client = Counted { side: client, counts: Arc::default() };
    let mut target = Counted { side: target, counts: Arc::default() };
    let counts = (Arc::clone(&client.counts), Arc::clone(&target.counts));
    let begun = Instant::now();
    let handle = Handle::default();
    let early = WORDS[..scenario.client.early].to_vec();
    let leading = WORDS[MOST..][..scenario.target.early].to_vec();
    let (early_length, leading_length) = (early.len(), leading.len());
    let limits = Limits { idle: None, idle_since: begun, lifetime: None, release_after: None };
    let mut tunnel = Tunnel::new(early, leading, limits);
    let asking = async {
        if let Some((after, grace)) = scenario.leave {
            sleep(Duration::from_millis(after)).await;
            let now = Instant::now();
            let latest = now + Duration::from_millis(grace);
            handle.ask(DrainRequest { reason: Reason::Moved, from: now, latest });
        }
        std::future::pending::<()>().await;
    };
    let end = {
        let mut running = Box::pin(tunnel.run(&mut client, &mut target, &handle));
        let held =
            |(from, already): (&Counts, usize), to: &Counts| (from.read + already).saturating_sub(to.written);
        let most = LARGE_READ as usize + 16 * 1024;
        // After every turn: no more is kept than one read.
        let watched = poll_fn(|cx| {
            let polled = running.as_mut().poll(cx);
            let client = *counts.0.lock();
            let target = *counts.1.lock();
            let kept = [held((&client, early_length), &target), held((&target, leading_length), &client)];
            assert!(kept.iter().all(|kept| *kept <= most) || polled.is_ready(), "{kept:?} bytes kept");
            polled
        });
        tokio::select! {
            end = timeout(Duration::from_mins(20), watched) => end.expect("it goes on for ever"),
            () = asking => unreachable!("it is pending for ever"),
        }
    };
    let ended = Instant::now();
    if let End::Left(_) = end {
        // As a connection does: whoever does not take a goodbye at once is not waited for.
        let _ = client.side.shutdown().now_or_never();
        let _ = target.side.shutdown().now_or_never();
    }
    let counts = |counts: &Mutex<Counts>| *counts.lock();
    Relayed {
        end,
        moved: tunnel.moved(),
        begun,
        ended,
        client: counts(&client.counts),
        target: counts(&target.counts),
    }
}

/// Plays a scenario; `None` where a party left before its TLS was there.
async fn perform(scenario: &Scenario, tls: bool) -> Option<(Relayed, Played, Played)> {
    let manners = |script: &Script| {
        let line = script.line.clone();
        // As sockets are: there is room for what both sides of a handshake say at once, and nothing is held back.
        if tls { Manners { room: line.room.max(8 * 1024), holds: 0, ..line } } else { line }
    };
    let (our_client, their_client) = line(&manners(&scenario.client));
    let (our_target, their_target) = line(&manners(&scenario.target));
    let ways = |socket: &Socket| (Arc::clone(&socket.inbound), Arc::clone(&socket.outbound));
    let (client_ways, target_ways) = (ways(&their_client), ways(&their_target));
    let (of_client, of_target) = WORDS.split_at(MOST);
    let (client_lines, target_lines) = ((of_client, of_target), (of_target, of_client));
    if !tls {
        let (relayed, client, target) = tokio::join!(
            relay(scenario, our_client, our_target),
            play(&scenario.client, client_lines, their_client, client_ways),
            play(&scenario.target, target_lines, their_target, target_ways),
        );
        return Some((relayed, client, target));
    }
    let relaying = async {
        let client = handshake(our_client, server()).await?;
        let target = handshake(our_target, self::client()).await?;
        Some(relay(scenario, client, target).await)
    };
    let playing_client = async {
        let stream = handshake(their_client, self::client()).await?;
        Some(play(&scenario.client, client_lines, stream, client_ways).await)
    };
    let playing_target = async {
        let stream = handshake(their_target, server()).await?;
        Some(play(&scenario.target, target_lines, stream, target_ways).await)
    };
    let (relayed, client, target) = tokio::join!(relaying, playing_client, playing_target);
    Some((relayed?, client?, target?))
}

async fn handshake(socket: Socket, connection: rustls::Connection) -> Option<TlsStream<Socket>> {
    let mut stream = TlsStream::new(socket, connection);
    stream.handshake().await.ok()?;
    Some(stream)
}

/// Plays a scenario, and judges what came of it.
fn judge(scenario: &Scenario, tls: bool) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    let performed =
        runtime.block_on(async { timeout(Duration::from_hours(2), perform(scenario, tls)).await });
    let Some((relayed, client, target)) = performed.expect("a party waits for ever") else {
        return;
    };
    let Relayed { end, moved, begun, ended, client: client_side, target: target_side } = relayed;
    let parties = [
        (&scenario.client, &client, client_side, &scenario.target, &target, target_side),
        (&scenario.target, &target, target_side, &scenario.client, &client, client_side),
    ];
    assert!(moved.to_target == target_side.written as u64 && moved.to_client == client_side.written as u64);
    // That it is a prefix has been seen byte by byte.
    let read = [client_side.read + scenario.client.early, target_side.read + scenario.target.early];
    assert!(read[0] <= client.said && read[1] <= target.said, "more was read than was said");
    let due = read;
    assert!(target_side.written <= due[0] && client_side.written <= due[1], "more was written than is due");
    let due_in_all = [client.said, target.said];
    assert!(target.heard <= due_in_all[0] && client.heard <= due_in_all[1], "more arrived than was said");
    for (.., side, _, _, to) in parties {
        assert!(to.ends_passed_on <= 1, "an end was passed on {} times", to.ends_passed_on);
        assert!(side.ends_read <= 1, "an end was asked for again");
        assert!(to.ends_passed_on <= side.ends_read, "an end that nobody had sent was passed on");
    }
    let resets = [client.reset, target.reset];
    match &end {
        End::Closed => {
            for (_, played, side, ..) in parties {
                assert!(
                    side.ends_read == 1 && side.ends_passed_on == 1,
                    "closed, but not by both ends: {side:?}"
                );
                assert!(played.heard_end || played.reset.is_some(), "no end was heard");
            }
            if resets == [None, None] {
                assert_eq!([target.heard, client.heard], due_in_all, "not all arrived");
            }
        }
        End::Broken(party, _) => {
            let (reset, other) = match party {
                Party::Client => (client.reset, target.reset),
                Party::Target => (target.reset, client.reset),
            };
            let first = [reset, other].into_iter().flatten().min().expect("somebody reset the line");
            assert!(reset.is_some(), "{party:?} did not break");
            // Stalls of the line are at most some seconds in all.
            let late = ended.saturating_duration_since(first);
            assert!(late < LAST_WORDS + Duration::from_secs(20), "ended {late:?} after the reset");
            if other.is_none() {
                let (due, hearing, hears) = match party {
                    Party::Client => (due_in_all[0], &target, &scenario.target),
                    Party::Target => (due_in_all[1], &client, &scenario.client),
                };
                // Unless they take too long, or the connection had to go meanwhile.
                let lines = [&scenario.client.line, &scenario.target.line];
                let whims = lines.into_iter().flat_map(|line| line.reads.iter().chain(&line.writes));
                let stalls = Duration::from_millis(whims.map(|whim| whim.after).sum());
                if hears.deaf == 0 && scenario.leave.is_none() && stalls < LAST_WORDS {
                    assert_eq!(hearing.heard, due, "last words were lost");
                }
                assert!(!hearing.heard_end, "a break passed for an end");
            }
        }
        End::Left(_) => {
            let (after, grace) = scenario.leave.expect("asked to go");
            let latest = begun + Duration::from_millis(after + grace);
            assert!(ended <= latest + Duration::from_millis(2), "left too late");
            if ended < latest {
                assert_eq!([target_side.written, client_side.written], due, "left with bytes in hand");
            }
        }
        End::Idle => panic!("nobody asked for this: {}", end.name()),
    }
    if resets == [None, None] && scenario.leave.is_none() {
        assert!(matches!(end, End::Closed), "{} instead of both ends", end.name());
    }
}

/// A certificate for both servers, believed by both clients.
static CERTIFICATE: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["target".to_owned()]).expect("a certificate");
    let certificate = CertificateDer::from(made.cert.der().to_vec());
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.clone()], key.into())
        .expect("an identity");
    let mut authorities = RootCertStore::empty();
    authorities.add(certificate).expect("an authority");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(authorities)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
});

fn server() -> rustls::Connection {
    ServerConnection::new(Arc::clone(&CERTIFICATE.0)).expect("a server").into()
}

fn client() -> rustls::Connection {
    let name = "target".try_into().expect("a name");
    ClientConnection::new(Arc::clone(&CERTIFICATE.1), name).expect("a client").into()
}

fn whims() -> impl Strategy<Value = Vec<Whim>> {
    let most = prop_oneof![Just(1), 1..100_usize, 1..100_000_usize];
    let after = prop_oneof![3 => Just(0), 1 => 1..200_u64];
    vec((most, after).prop_map(|(most, after)| Whim { most, after }), 0..30)
}

fn manners() -> impl Strategy<Value = Manners> {
    let room = prop_oneof![1 => 1..100_usize, 3 => 1_000..300_000_usize];
    let holds = prop_oneof![Just(0), 1..70_000_usize];
    (room, holds, whims(), whims()).prop_map(|(room, holds, reads, writes)| Manners {
        room,
        holds,
        reads,
        writes,
    })
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![10 => 1..100_usize, 9 => 1..20_000_usize, 1 => 1..300_000_usize]
}

fn leaves() -> impl Strategy<Value = Leaves> {
    prop_oneof![2 => Just(Leaves::WithAnEnd), 1 => Just(Leaves::WithAReset)]
}

fn early() -> impl Strategy<Value = usize> {
    prop_oneof![3 => Just(0), 1 => 1..16_384_usize]
}

/// Both speak as they like, and neither waits for the other.
fn independent() -> impl Strategy<Value = Scenario> {
    let acts = || {
        let act = prop_oneof![2 => length().prop_map(Act::Say), 1 => (1..3000_u64).prop_map(Act::Wait)];
        vec(act, 0..6)
    };
    let deaf = || prop_oneof![4 => Just(0), 1 => 1..300_u64];
    let script =
        move || {
            (early(), acts(), leaves(), deaf(), manners())
                .prop_map(|(early, acts, leaves, deaf, line)| Script { early, acts, leaves, deaf, line })
        };
    let leave = prop_oneof![3 => Just(None), 1 => (0..5000_u64, 0..5000_u64).prop_map(Some)];
    (script(), script(), leave).prop_map(|(client, target, leave)| Scenario { client, target, leave })
}

/// A request, its reply, and so on: nobody says anything more before all of the other's words have come.
fn conversation() -> impl Strategy<Value = Scenario> {
    let turns = vec((length(), length()), 1..6);
    (turns, early(), leaves(), manners(), manners()).prop_map(|(turns, early, ends, ours, theirs)| {
        let (mut asks, mut answers) = (Vec::new(), Vec::new());
        let (mut asked, mut answered) = (early, 0);
        for (question, answer) in turns {
            asked += question;
            asks.push(Act::Say(question));
            answers.extend([Act::Hear(asked), Act::Say(answer)]);
            answered += answer;
            asks.push(Act::Hear(answered));
        }
        let script = |early, acts, leaves, line| Script { early, acts, leaves, deaf: 0, line };
        let target = script(0, answers, Leaves::WithAnEnd, theirs);
        Scenario { client: script(early, asks, ends, ours), target, leave: None }
    })
}

/// As many as `PROPTEST_CASES` says, or else this many.
fn cases(cases: u32) -> ProptestConfig {
    let cases =
        if std::env::var_os("PROPTEST_CASES").is_some() { ProptestConfig::default().cases } else { cases };
    ProptestConfig { cases, failure_persistence: None, ..ProptestConfig::default() }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn what_it_promises_holds_whatever_both_sides_and_the_network_do(scenario in independent()) {
        judge(&scenario, false);
    }

    #[test]
    fn nothing_that_a_reply_waits_for_is_held_back(scenario in conversation()) {
        judge(&scenario, false);
    }
}

proptest! {
    #![proptest_config(cases(60))]

    #[test]
    fn over_tls_it_promises_the_same(scenario in independent()) {
        judge(&scenario, true);
    }

    #[test]
    fn over_tls_nothing_that_a_reply_waits_for_is_held_back(scenario in conversation()) {
        judge(&scenario, true);
    }
}
