//! The relay: bytes both ways, unchanged, until both sides are done.
//!
//! What it promises, on any two streams:
//! - Each side's end of stream is passed on by itself, after every byte before it (half-close).
//! - A side that breaks ends the connection: what it had sent before is still handed over (but for what waits behind a
//!   RESET or a HELLO), then the caller resets the other side ([`End::Broken`]).
//! - A side that reads slowly slows the other one down: nothing is read from one side while bytes wait for the other.
//! - A side that breaks while nothing is read from it, because it had ended its stream or because the other side does
//!   not keep up, is found out too, by looking ([`Side::take_error`]).
//! - On request the client's bytes are watched on their way, unchanged: where a RESET ends the relay stops and says so
//!   ([`End::Cut`]), and can then go on with the same target or with another one. Only what they begin with may be kept
//!   from the target, if it is a client's own authentication and the link absorbs that.
//! - An idle connection holds no buffer. Bytes are read into one buffer a thread, and written straight out; only what
//!   the other side would not take at once is kept by the connection.

pub mod drain;
mod goodbye;
#[cfg(test)]
mod model;
mod timers;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

use self::goodbye::{Goodbye, QUIT};
pub use self::timers::Limits;
use self::timers::{Activity, Clock, Event};
use crate::net::Side;
use crate::relay::drain::{Handle, Moved, Reason};
use crate::resp;
use crate::resp::auth::{Leading, absorb};
use crate::resp::commands::Commands;

/// What is read at once at first, and always by a connection whose peer does not keep up: what a slow reader pins a
/// direction.
const SMALL_READ: u32 = 64 * 1024;

/// What is read at once by a bulk stream whose peer takes it all, and so what one pins whose peer stops all of a
/// sudden.
const LARGE_READ: u32 = 256 * 1024;

/// What one direction may move before others on the thread have their turn.
const TURN: usize = 1024 * 1024;

/// How much of what a client says behind a RESET is taken in while nobody is there to hear it. It has to be read to see
/// that a client has left.
const AHEAD: usize = 16 * 1024;

/// The longest reply to a HELLO: it lists the server's modules.
const LONGEST_HELLO: usize = 256 * 1024;

/// How long what a broken side had sent may take to reach the other side.
const LAST_WORDS: Duration = Duration::from_secs(5);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGE_READ as usize]);
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The one that connected to us.
    Client,
    /// The one that we connected to.
    Target,
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams.
    Closed,
    /// One side broke; the other is to be reset.
    Broken(Party, io::Error),
    /// Nothing moved for the idle timeout.
    Idle,
    /// It was asked to go, and went.
    Left(Reason),
    /// No end: the target has all that the client has said up to the end of a RESET, and nothing of what follows. The
    /// other direction goes on when the relay is run again.
    Cut,
    /// No end: the target has said its last to a client that goes on with another one.
    Parted,
}

impl End {
    /// The end's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed => "eof",
            Self::Broken(Party::Client, _) => "client_error",
            Self::Broken(Party::Target, _) => "target_error",
            Self::Idle => "idle_timeout",
            Self::Left(reason) => reason.name(),
            Self::Cut => "reset_command",
            Self::Parted => "quit",
        }
    }

    /// What the kernel or TLS said of a stream that broke.
    pub fn error(&self) -> Option<&io::Error> {
        match self {
            Self::Broken(_, error) => Some(error),
            _ => None,
        }
    }
}

/// What a connection did.
#[derive(Debug)]
pub struct Outcome {
    /// Bytes that the target took.
    pub to_target: u64,
    /// Bytes that the client took.
    pub to_client: u64,
    /// How it ended.
    pub end: End,
}

/// The state of a connection that is relayed.
#[derive(Debug)]
pub struct Relay {
    to_target: Direction,
    to_client: Direction,
    target_spoke_last: bool,
    broken: Option<(Party, io::Error)>,
    /// Set once there is something to wait for.
    clock: Option<Box<Clock>>,
}

impl Relay {
    /// `early` is what the client has sent already, `leading` what the target has; they go first.
    pub fn new(early: Vec<u8>, leading: Vec<u8>, limits: Limits) -> Self {
        Self {
            target_spoke_last: early.is_empty(),
            to_target: Direction::new(early),
            to_client: Direction::new(leading),
            broken: None,
            clock: Clock::for_limits(limits).map(Box::new),
        }
    }

    /// Watches the client's bytes, which is to be said before the first run: for RESET, and for the authentication with
    /// which they may begin and which is not for the target.
    #[must_use]
    pub fn watch(mut self, resets: bool, absorbs: bool) -> Self {
        if resets || absorbs {
            self.to_target.watch = Some(Box::new(Watch {
                commands: if resets { Commands::default() } else { Commands::unwatched() },
                beginning: if absorbs { Beginning::Watched } else { Beginning::Ignored },
                ahead: std::mem::take(&mut self.to_target.kept),
                ..Watch::default()
            }));
        }
        self
    }

    /// After a parting: what the client has said already, and the next target has to hear.
    pub fn ahead(&mut self) -> &mut Vec<u8> {
        &mut self.to_target.watch.get_or_insert_default().ahead
    }

    /// Whether the client's bytes wait behind a RESET. While a relay runs that was cut, either side may end it, and
    /// with it the need for another target.
    pub fn is_cut(&self) -> bool {
        self.to_target.phase == Phase::Waiting
    }

    /// After a cut: goes on with the same target.
    pub fn resume(&mut self) {
        self.to_client.goodbye = None;
        self.to_target.resume();
    }

    /// After a cut: has the target answer all that it was sent and close. What it still says up to its end goes to the
    /// client when the relay is run again, which then ends with [`End::Parted`].
    pub fn part(&mut self) {
        if let Some(goodbye) = &mut self.to_client.goodbye {
            goodbye.leave();
        }
    }

    /// After a parting: goes on with another target, which has said `leading` already.
    pub fn resume_with(&mut self, leading: &[u8]) {
        self.to_client.goodbye = None;
        self.to_client.kept.extend_from_slice(leading);
        self.to_client.phase = Phase::Flowing;
        // What the old one did not take is not for this one.
        self.to_target.kept = Vec::new();
        self.to_target.taken = 0;
        if let Some(watch) = &mut self.to_target.watch {
            watch.begin();
        }
        self.to_target.resume();
    }

    /// Relays until both sides are done, one breaks, or a limit or request ends it. The streams are left to the
    /// caller, who closes or resets them.
    pub async fn run(&mut self, client: &mut impl Side, target: &mut impl Side, handle: &Handle) -> Outcome {
        poll_fn(|cx| self.poll_outcome(cx, client, target, handle)).await
    }

    /// Relays as [`run`](Self::run) does, as far as it goes now.
    pub fn poll_outcome(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut impl Side,
        target: &mut impl Side,
        handle: &Handle,
    ) -> Poll<Outcome> {
        let end = ready!(self.poll(cx, client, target, handle));
        Poll::Ready(Outcome { to_target: self.to_target.moved, to_client: self.to_client.moved, end })
    }

    fn poll<C, T>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        target: &mut T,
        handle: &Handle,
    ) -> Poll<End>
    where
        C: Side,
        T: Side,
    {
        let before = (self.to_target.moved, self.to_client.moved);
        BUFFER.with_borrow_mut(|buffer| {
            // The target first: what it says in this turn can't be the answer to what the client says in this turn.
            if let Poll::Ready(Err(broken)) = self.to_client.poll(cx, target, client, buffer) {
                self.broke(broken.of(Party::Target, Party::Client));
                // What is left to be passed on may have nothing else that wakes it.
                cx.waker().wake_by_ref();
            }
            if self.to_client.moved != before.1 {
                self.target_spoke_last = true;
            }
            if self.to_client.phase != Phase::Parted
                && let Poll::Ready(Err(broken)) = self.to_target.poll(cx, client, target, buffer)
            {
                self.broke(broken.of(Party::Client, Party::Target));
                cx.waker().wake_by_ref();
            }
            if self.to_target.moved != before.0 {
                self.target_spoke_last = false;
            }
        });
        handle.count(Moved {
            to_target: self.to_target.moved - before.0,
            to_client: self.to_client.moved - before.1,
        });
        if self.to_target.is_over() && self.to_client.is_over() {
            return Poll::Ready(self.end(End::Closed));
        }
        self.answer(cx);
        if self.to_target.phase == Phase::Cut {
            self.to_target.phase = Phase::Waiting;
            self.to_client.goodbye = Some(Box::default());
            return Poll::Ready(End::Cut);
        }
        if let Some(goodbye) = &mut self.to_client.goodbye
            && self.to_target.phase == Phase::Waiting
            // A target that has not heard all can't have answered it.
            && self.to_target.kept.is_empty()
            && goodbye.poll_quit(cx).is_ready()
        {
            self.to_target.kept.extend_from_slice(QUIT);
            if let Some(watch) = &mut self.to_target.watch {
                watch.last_end = LastEnd::Due;
            }
            cx.waker().wake_by_ref();
        }
        if self.to_client.phase == Phase::Parted {
            if self.to_target.phase == Phase::Waiting {
                return Poll::Ready(End::Parted);
            }
            // The client has ended its stream meanwhile, so that there is nothing to go on with.
            self.to_client.phase = Phase::Ending;
            cx.waker().wake_by_ref();
        }
        if self.to_client.is_over() && self.to_target.phase == Phase::Waiting {
            // This target was the client's last: it would not hear another one.
            self.to_target.resume_unwatched();
            cx.waker().wake_by_ref();
        }
        if let Poll::Ready(leave) = handle.poll_drain(cx) {
            let moved = self.moved();
            self.clock().leave_by(leave, moved);
        }
        if !(self.to_target.is_reading() && self.to_client.is_reading()) {
            self.clock().look_soon();
        }
        loop {
            let activity = Activity {
                moved: self.moved(),
                between_commands: self.target_spoke_last
                    && self.to_target.holds_nothing()
                    && !self.to_target.is_ahead()
                    && self.to_client.holds_nothing(),
            };
            let Some(clock) = &mut self.clock else { return Poll::Pending };
            match ready!(clock.poll(cx, activity)) {
                Event::Look => self.look(client, target),
                Event::Over(end) => return Poll::Ready(self.end(end)),
            }
            if self.to_target.is_over() && self.to_client.is_over() {
                return Poll::Ready(self.end(End::Closed));
            }
        }
    }

    /// Answers what the client says to the ambassador alone: behind the reply to a HELLO, if one is still to come.
    fn answer(&mut self, cx: &mut Context<'_>) {
        self.to_target.phase = match self.to_target.phase {
            // A client that takes no answer is not asked for more.
            Phase::Answering if !self.to_client.kept.is_empty() => return,
            Phase::Answering => {
                if let Some(watch) = &mut self.to_target.watch {
                    let answer = std::mem::take(&mut watch.leading);
                    // One that has heard the end of the stream hears nothing more.
                    if !self.to_client.is_over() {
                        self.to_client.kept = answer;
                    }
                }
                Phase::Flowing
            }
            Phase::Asking => {
                self.to_client.reply = Some(Box::default());
                Phase::Awaiting
            }
            Phase::Awaiting if self.to_client.reply.is_none() || self.to_client.is_over() => Phase::Flowing,
            _ => return,
        };
        cx.waker().wake_by_ref();
    }

    /// Bytes so far, both ways.
    fn moved(&self) -> u64 {
        self.to_target.moved + self.to_client.moved
    }

    fn clock(&mut self) -> &mut Clock {
        self.clock.get_or_insert_default()
    }

    /// How it ended: where a side broke that is the news, whatever came of it later.
    fn end(&mut self, end: End) -> End {
        self.broken.take().map_or(end, |(party, error)| End::Broken(party, error))
    }

    /// Finds out about sides that broke while nothing was read from them.
    fn look(&mut self, client: &impl Side, target: &impl Side) {
        if !self.to_target.is_reading()
            && let Some(error) = client.take_error()
        {
            self.broke((Party::Client, Failed::Write(error)));
        }
        if !self.to_client.is_reading()
            && let Some(error) = target.take_error()
        {
            self.broke((Party::Target, Failed::Write(error)));
        }
        if !(self.to_target.is_reading() && self.to_client.is_reading()) {
            self.clock().look_soon();
        }
    }

    /// Nothing more can go to a side that broke. What it had sent may be on its way still: bytes that were kept, and,
    /// where it was a write that failed, bytes that wait to be read (a server's last words before it closed).
    /// A write that failed only tells that nobody is there any more; an error that is read after it tells why.
    fn broke(&mut self, (party, broken): (Party, Failed)) {
        let (from, to) = match party {
            Party::Client => (&mut self.to_target, &mut self.to_client),
            Party::Target => (&mut self.to_client, &mut self.to_target),
        };
        to.stop();
        let is_first = self.broken.is_none();
        let (error, tells_why) = match broken {
            Failed::Read(error) => {
                from.stop_reading();
                let broke_before = self.broken.as_ref().is_some_and(|(broken, _)| *broken == party);
                (error, broke_before)
            }
            Failed::Write(error) => (error, false),
        };
        if is_first || tells_why {
            self.broken = Some((party, error));
        }
        if is_first {
            self.clock.get_or_insert_default().end_by(Instant::now() + LAST_WORDS);
        }
    }
}

/// Which half of a direction failed.
enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl Failed {
    fn of(self, reader: Party, writer: Party) -> (Party, Self) {
        match self {
            Self::Read(_) => (reader, self),
            Self::Write(_) => (writer, self),
        }
    }
}

/// One way through the relay.
#[derive(Debug)]
struct Direction {
    /// Bytes that the writer would not take yet, and how many of them it has taken since.
    kept: Vec<u8>,
    taken: usize,
    /// Whether the writer has passed on all that it took. A stream that buffers (TLS) may not have.
    flushed: bool,
    /// In bytes, at most [`LARGE_READ`].
    read_size: u32,
    moved: u64,
    phase: Phase,
    /// Looks at what passes.
    watch: Option<Box<Watch>>,
    /// Knows the last words of a target, from a RESET on.
    goodbye: Option<Box<Goodbye>>,
    /// What has come of a reply that is waited for.
    reply: Option<Box<Reply>>,
}

/// The beginning of a reply.
#[derive(Debug, Default)]
struct Reply(Vec<u8>);

/// What looks at a client's commands.
#[derive(Debug, Default)]
struct Watch {
    commands: Commands,
    beginning: Beginning,
    /// Part of a command which that may be; once the command is whole, what the client is to be answered.
    leading: Vec<u8>,
    /// Bytes that were read and not looked at yet; they go before what is read next.
    ahead: Vec<u8>,
    /// Whether the reader has ended its stream behind them.
    has_ended: bool,
    last_end: LastEnd,
}

/// Whether the client's own authentication is looked for in what it says.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Beginning {
    /// Never.
    #[default]
    Ignored,
    /// Now.
    Watched,
    /// Not until the next beginning.
    Over,
}

/// Whether a target that hears nothing more hears that the client has ended its stream.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LastEnd {
    /// Not yet: more may come before.
    #[default]
    Open,
    /// As soon as there is one.
    Due,
    /// It has.
    Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes flow.
    Flowing,
    /// There is an answer for the reader that is not the writer's.
    Answering,
    /// A HELLO has been passed on; nobody knows it yet.
    Asking,
    /// Nothing passes before the reply to it is there.
    Awaiting,
    /// A RESET has been passed on; nobody knows it yet.
    Cut,
    /// Whoever knows it decides how it goes on.
    Waiting,
    /// The reader has said goodbye, and somebody else comes in its place.
    Parted,
    /// The reader has ended its stream; this is still to be passed on.
    Ending,
    /// The reader broke; what is kept is still to be written.
    LastWords,
    /// Nothing is left to do.
    Over,
}

impl Direction {
    fn new(first: Vec<u8>) -> Self {
        Self {
            // An empty one may still hold memory.
            kept: if first.is_empty() { Vec::new() } else { first },
            taken: 0,
            flushed: true,
            read_size: SMALL_READ,
            moved: 0,
            phase: Phase::Flowing,
            watch: None,
            goodbye: None,
            reply: None,
        }
    }

    /// Whether the reader would tell by itself if it broke.
    fn is_reading(&self) -> bool {
        let reads = match self.phase {
            Phase::Flowing => true,
            Phase::Waiting | Phase::Awaiting => self.watch.as_ref().is_some_and(|watch| watch.has_room()),
            _ => false,
        };
        reads && self.kept.is_empty()
    }

    fn is_over(&self) -> bool {
        self.phase == Phase::Over
    }

    fn stop(&mut self) {
        self.kept = Vec::new();
        self.phase = Phase::Over;
    }

    fn stop_reading(&mut self) {
        self.phase = if self.holds_nothing() { Phase::Over } else { Phase::LastWords };
    }

    /// Lets what waits behind a RESET pass.
    fn resume(&mut self) {
        if self.phase == Phase::Waiting {
            self.phase = Phase::Flowing;
        }
        if let Some(watch) = &mut self.watch {
            watch.last_end = LastEnd::Open;
        }
    }

    /// The same for the last time.
    fn resume_unwatched(&mut self) {
        if let Some(watch) = &mut self.watch {
            watch.commands = Commands::unwatched();
            watch.begin();
        }
        self.resume();
    }

    /// Whether all that was read has gone out.
    fn holds_nothing(&self) -> bool {
        self.is_over() || self.kept.is_empty() && self.flushed
    }

    /// Whether bytes wait that were read ahead.
    fn is_ahead(&self) -> bool {
        self.watch.as_ref().is_some_and(|watch| !(watch.ahead.is_empty() && watch.leading.is_empty()))
    }

    /// Moves what can be moved now. Ready when the direction is over, or when one half failed.
    fn poll<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        let turn_ends = self.moved + TURN as u64;
        loop {
            ready!(self.poll_kept(cx, writer))?;
            match self.phase {
                Phase::Flowing => {}
                Phase::Answering | Phase::Asking | Phase::Cut | Phase::Parted => return Poll::Pending,
                Phase::Waiting | Phase::Awaiting => {
                    ready!(self.poll_ahead(cx, reader, writer))?;
                    continue;
                }
                Phase::Ending => {
                    ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Write)?;
                    self.phase = Phase::Over;
                    return Poll::Ready(Ok(()));
                }
                Phase::LastWords | Phase::Over => {
                    if self.phase == Phase::LastWords {
                        ready!(self.poll_flush(cx, writer))?;
                    }
                    self.phase = Phase::Over;
                    return Poll::Ready(Ok(()));
                }
            }
            if self.moved >= turn_ends {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            if let Some(watch) = &mut self.watch {
                let ahead = std::mem::take(&mut watch.ahead);
                if !ahead.is_empty() {
                    self.pass(cx, writer, &ahead)?;
                    continue;
                }
                if watch.has_ended {
                    self.end(cx, writer)?;
                    continue;
                }
            }
            let mut read = ReadBuf::new(&mut buffer[..self.read_size as usize]);
            let result = match Pin::new(&mut *reader).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) if !read.filled().is_empty() => {
                    self.pass(cx, writer, read.filled())?;
                    continue;
                }
                Poll::Ready(result) => result,
                Poll::Pending => {
                    ready!(self.poll_flush(cx, writer))?;
                    if let Some(goodbye) = &mut self.goodbye {
                        ready!(goodbye.poll_patience(cx));
                        self.phase = Phase::Parted;
                    }
                    return Poll::Pending;
                }
            };
            if let Some(goodbye) = self.goodbye.take() {
                if goodbye.has_parted(result.is_ok()) {
                    self.phase = Phase::Parted;
                    continue;
                }
                self.write_out(cx, writer, &goodbye.into_held())?;
            }
            result.map_err(Failed::Read)?;
            self.end(cx, writer)?;
        }
    }

    /// Lets bytes pass that were read, up to where somebody has to be asked.
    fn pass<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        if let Some(watch) = &mut self.watch {
            if watch.beginning == Beginning::Watched {
                return self.pass_leading(cx, writer, bytes);
            }
            if let Some(end) = watch.commands.find_reset(bytes) {
                watch.ahead = bytes[end..].to_vec();
                self.phase = Phase::Cut;
                return self.write_out(cx, writer, &bytes[..end]);
            }
        }
        if let Some(mut reply) = self.reply.take() {
            reply.0.extend_from_slice(bytes);
            // What is no reply is the client's all the same.
            if reply.0.len() < LONGEST_HELLO && resp::length(&reply.0) == Ok(None) {
                self.reply = Some(reply);
                return Ok(());
            }
            return self.write_out(cx, writer, &reply.0);
        }
        match &mut self.goodbye {
            Some(goodbye) => {
                let passes = goodbye.hold_back(bytes);
                self.write_out(cx, writer, &passes)
            }
            None => self.write_out(cx, writer, bytes),
        }
    }

    /// Lets the client's first words pass, but for what is not for the target.
    fn pass_leading<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        let Some(watch) = &mut self.watch else { return Ok(()) };
        watch.leading.extend_from_slice(bytes);
        let mut all = std::mem::take(&mut watch.leading);
        match absorb(&all) {
            Leading::Partial => watch.leading = all,
            Leading::Answered(length, answer) => {
                watch.ahead = all.split_off(length);
                watch.leading = answer.into_bytes();
                self.phase = Phase::Answering;
            }
            Leading::Hello(length, command) => {
                watch.ahead = all.split_off(length);
                self.phase = Phase::Asking;
                return self.write_out(cx, writer, &command);
            }
            Leading::Other => {
                watch.ahead = all;
                watch.beginning = Beginning::Over;
            }
        }
        Ok(())
    }

    /// The reader has ended its stream. Of a command that is not whole the writer would hear in vain; of a reply there
    /// may be more to hear.
    fn end<W: AsyncWrite + Unpin>(&mut self, cx: &mut Context<'_>, writer: &mut W) -> Result<(), Failed> {
        self.phase = Phase::Ending;
        match self.reply.take() {
            Some(reply) => self.write_out(cx, writer, &reply.0),
            None => Ok(()),
        }
    }

    /// While bytes wait behind a RESET or a HELLO: takes in a few more, to see whether the reader is still there. Ready
    /// when it has ended its stream and nothing waits any more.
    fn poll_ahead<R, W>(
        &mut self,
        cx: &mut Context<'_>,
        reader: &mut R,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>>
    where
        R: AsyncRead + Unpin,
        W: AsyncWrite + Unpin,
    {
        // Not waited for: a writer that takes nothing does not keep the reader's end from being seen.
        let _ = self.poll_flush(cx, writer)?;
        let Some(watch) = &mut self.watch else {
            return Poll::Pending;
        };
        while watch.has_room() {
            let mut chunk = [MaybeUninit::uninit(); 4096];
            let mut chunk = ReadBuf::uninit(&mut chunk);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut chunk)).map_err(Failed::Read)?;
            watch.has_ended = chunk.filled().is_empty();
            watch.ahead.extend_from_slice(chunk.filled());
        }
        if watch.has_ended {
            if watch.ahead.is_empty() {
                self.phase = Phase::Ending;
                return Poll::Ready(Ok(()));
            }
            // A target that is left while a command blocks in it ends that as for any client that has gone.
            if watch.last_end == LastEnd::Due {
                ready!(Pin::new(&mut *writer).poll_shutdown(cx)).map_err(Failed::Write)?;
                watch.last_end = LastEnd::Told;
            }
        }
        Poll::Pending
    }

    /// Lets the writer pass on what it holds back until it is told that no more comes now.
    fn poll_flush<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>> {
        if !self.flushed {
            ready!(Pin::new(writer).poll_flush(cx)).map_err(Failed::Write)?;
            self.flushed = true;
        }
        Poll::Ready(Ok(()))
    }

    /// Writes bytes that were just read, and keeps those that the writer does not take.
    fn write_out<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        let filled = bytes.len() == self.read_size as usize;
        let mut rest = bytes;
        while !rest.is_empty() {
            match Pin::new(&mut *writer).poll_write(cx, rest) {
                Poll::Ready(Ok(0)) => return Err(Failed::Write(io::ErrorKind::WriteZero.into())),
                Poll::Ready(Ok(n)) => {
                    self.flushed = false;
                    self.moved += n as u64;
                    rest = &rest[n..];
                }
                Poll::Ready(Err(e)) => return Err(Failed::Write(e)),
                Poll::Pending => {
                    self.kept = rest.to_vec();
                    self.read_size = SMALL_READ;
                    return Ok(());
                }
            }
        }
        if filled {
            self.read_size = LARGE_READ.min(self.read_size * 2);
        }
        Ok(())
    }

    /// Writes what was kept; ready when nothing is.
    fn poll_kept<W: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        writer: &mut W,
    ) -> Poll<Result<(), Failed>> {
        if self.kept.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while self.taken < self.kept.len() {
            let rest = &self.kept[self.taken..];
            match ready!(Pin::new(&mut *writer).poll_write(cx, rest)) {
                Ok(0) => return Poll::Ready(Err(Failed::Write(io::ErrorKind::WriteZero.into()))),
                Ok(n) => {
                    self.flushed = false;
                    self.taken += n;
                    self.moved += n as u64;
                }
                Err(e) => return Poll::Ready(Err(Failed::Write(e))),
            }
        }
        self.kept = Vec::new();
        self.taken = 0;
        Poll::Ready(Ok(()))
    }
}

impl Watch {
    /// Behind a RESET all is as in the beginning.
    fn begin(&mut self) {
        if self.beginning == Beginning::Over {
            self.beginning = Beginning::Watched;
        }
    }

    fn has_room(&self) -> bool {
        self.ahead.len() < AHEAD && !self.has_ended
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    use super::*;
    use crate::resp::commands::{First, UNAUTHENTICATED, first};

    /// A side that plays what it is told to, and holds back what is written until it is flushed, as TLS may.
    #[derive(Default)]
    struct Played {
        says: VecDeque<Result<&'static [u8], io::ErrorKind>>,
        refuses: Option<io::ErrorKind>,
        held: Vec<u8>,
        passed_on: Vec<u8>,
    }

    impl Side for Played {
        fn take_error(&self) -> Option<io::Error> {
            None
        }
    }

    impl AsyncRead for Played {
        fn poll_read(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            match self.says.pop_front() {
                None => Poll::Pending,
                Some(Ok(bytes)) => {
                    buffer.put_slice(bytes);
                    Poll::Ready(Ok(()))
                }
                Some(Err(kind)) => Poll::Ready(Err(kind.into())),
            }
        }
    }

    impl AsyncWrite for Played {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if let Some(kind) = self.refuses {
                return Poll::Ready(Err(kind.into()));
            }
            self.held.extend(bytes);
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            let held = std::mem::take(&mut self.held);
            self.passed_on.extend(held);
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.poll_flush(cx)
        }
    }

    async fn run(early: &[u8], client: &mut Played, target: &mut Played) -> End {
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
        let handle = Handle::default();
        Relay::new(early.to_vec(), Vec::new(), limits).run(client, target, &handle).await.end
    }

    #[tokio::test]
    async fn what_a_side_that_broke_has_said_is_flushed_before_the_end() {
        let mut client = Played::default();
        let says = VecDeque::from([Ok(&b"last words"[..]), Err(io::ErrorKind::ConnectionReset)]);
        let mut target = Played { says, ..Played::default() };
        let begun = Instant::now();
        let end = run(b"", &mut client, &mut target).await;
        assert!(matches!(end, End::Broken(Party::Target, _)), "{end:?}");
        assert_eq!(client.passed_on, b"last words");
        assert!(begun.elapsed() < LAST_WORDS, "nothing had to be waited for");
    }

    #[tokio::test]
    async fn an_error_that_is_read_tells_more_than_the_write_that_failed_before() {
        // In the turn after the write, as it comes: an alert behind a reset.
        let says = VecDeque::from([Ok(&b"x"[..]), Err(io::ErrorKind::InvalidData)]);
        let mut client = Played { says: VecDeque::from([Ok(&b"y"[..])]), ..Played::default() };
        let refuses = Some(io::ErrorKind::BrokenPipe);
        let mut target = Played { says: VecDeque::new(), refuses, ..Played::default() };
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
        let handle = Handle::default();
        let mut relay = Relay::new(Vec::new(), Vec::new(), limits);
        let first = poll_fn(|cx| Poll::Ready(relay.poll(cx, &mut client, &mut target, &handle))).await;
        assert!(first.is_pending());
        target.says = says;
        match relay.run(&mut client, &mut target, &handle).await.end {
            End::Broken(Party::Target, error) => assert_eq!(error.kind(), io::ErrorKind::InvalidData),
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_takes_no_answer_is_not_asked_for_more() {
        let (client, mut near) = duplex(64);
        let (mut far, _target) = duplex(64);
        let (mut listening, mut speaking) = tokio::io::split(client);
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
        let handle = Handle::default();
        let mut relay = Relay::new(Vec::new(), Vec::new(), limits).watch(false, true);
        let said = b"AUTH x\n".repeat(1000);
        let mut taken = 0;
        let speaks = async {
            while taken < said.len() {
                taken += speaking.write(&said[taken..]).await.unwrap();
            }
        };
        let late = tokio::select! {
            () = speaks => panic!("all was taken"),
            outcome = relay.run(&mut near, &mut far, &handle) => panic!("{}", outcome.end.name()),
            () = tokio::time::sleep(Duration::from_mins(1)) => said.len() - taken,
        };
        assert!(late > said.len() / 2, "{taken} bytes taken");
        // Nothing is lost on one that reads late.
        let speaks = async {
            speaking.write_all(&said[taken..]).await.unwrap();
            std::future::pending::<()>().await;
        };
        let mut read = vec![0; b"+OK\r\n".len() * 1000];
        tokio::select! {
            () = speaks => {}
            outcome = relay.run(&mut near, &mut far, &handle) => panic!("{}", outcome.end.name()),
            read = listening.read_exact(&mut read) => drop(read.unwrap()),
        }
        assert_eq!(read, b"+OK\r\n".repeat(1000));
    }

    #[tokio::test(start_paused = true)]
    async fn a_target_that_has_not_heard_all_has_not_said_its_last() {
        let (mut client, mut near) = duplex(64);
        let (mut far, mut target) = duplex(16);
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
        let handle = Handle::default();
        let said = b"SET a 1\r\nSET b 2\r\nRESET\r\nPING\r\n".to_vec();
        let mut relay = Relay::new(said, Vec::new(), limits).watch(true, false);
        let outcome = relay.run(&mut near, &mut far, &handle).await;
        assert!(matches!(outcome.end, End::Cut), "{}", outcome.end.name());
        relay.part();
        let mut read = [0; 5];
        let plays = async {
            // Longer than it may be silent.
            tokio::time::sleep(Duration::from_secs(1)).await;
            target.write_all(b"+OK\r\n").await.unwrap();
            client.read_exact(&mut read).await.unwrap();
        };
        tokio::select! {
            outcome = relay.run(&mut near, &mut far, &handle) => panic!("{}", outcome.end.name()),
            played = tokio::time::timeout(Duration::from_mins(1), plays) => played.expect("it is held back"),
        }
        assert_eq!(&read, b"+OK\r\n");
        drop(target);
        let end = relay.run(&mut near, &mut far, &handle).await.end;
        assert!(matches!(end, End::Broken(Party::Target, _)), "{end:?}");
        // What it did not hear is not for another one.
        relay.resume_with(b"");
        assert!(relay.to_target.kept.is_empty());
    }

    impl Side for DuplexStream {
        fn take_error(&self) -> Option<io::Error> {
            None
        }
    }

    #[derive(Debug, Clone)]
    enum Say {
        Auth(Vec<u8>),
        Hello { version: u8, auth: bool, name: bool },
        Other(Vec<u8>),
    }

    fn say() -> impl Strategy<Value = Say> {
        let bytes = || proptest::collection::vec(any::<u8>(), 0..30);
        prop_oneof![
            bytes().prop_map(Say::Auth),
            (2_u8..4, any::<bool>(), any::<bool>()).prop_map(|(version, auth, name)| Say::Hello {
                version,
                auth,
                name
            }),
            bytes().prop_map(Say::Other),
        ]
    }

    /// What a client says that way, or what the target hears of it.
    fn spoken(say: &Say, with_auth: bool) -> Vec<u8> {
        let version;
        let mut words: Vec<&[u8]> = Vec::new();
        match say {
            Say::Auth(password) => words.extend([&b"AUTH"[..], password]),
            Say::Hello { version: number, auth, name } => {
                version = [b'0' + number];
                words.extend([&b"HELLO"[..], &version]);
                if *auth && with_auth {
                    words.extend([&b"AUTH"[..], b"user", b"password"]);
                }
                if *name {
                    words.extend([&b"SETNAME"[..], b"me"]);
                }
            }
            Say::Other(value) => words.extend([&b"SET"[..], b"AUTH", value]),
        }
        resp::commands(&[words]).expose().to_vec()
    }

    /// What the target answers to the command of that number.
    fn reply(number: usize, command: &[u8]) -> Vec<u8> {
        match command {
            b"HELLO" => format!("%1\r\n$5\r\nproto\r\n*2\r\n:{number}\r\n_\r\n"),
            _ => format!(":{number}\r\n"),
        }
        .into_bytes()
    }

    /// Has a client say all that in pieces of these sizes; returns what the target heard and what the client read.
    async fn absorbed(said: Vec<u8>, sizes: Vec<usize>) -> (Vec<u8>, Vec<u8>) {
        let (client, mut near) = duplex(64);
        let (mut far, mut target) = duplex(64);
        let (mut listening, mut speaking) = tokio::io::split(client);
        let speaks = async move {
            let mut rest = &said[..];
            for size in sizes.iter().cycle() {
                let (piece, more) = rest.split_at((*size).min(rest.len()));
                speaking.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
                rest = more;
                if rest.is_empty() {
                    break;
                }
            }
            speaking.shutdown().await.unwrap();
        };
        let listens = async move {
            let mut read = Vec::new();
            listening.read_to_end(&mut read).await.unwrap();
            read
        };
        let answers = async move {
            let (mut heard, mut at, mut number) = (Vec::new(), 0, 0);
            while target.read_buf(&mut heard).await.unwrap() > 0 {
                while let First::Command(words, length) = first(&heard[at..], UNAUTHENTICATED) {
                    target.write_all(&reply(number, &words[0])).await.unwrap();
                    (at, number) = (at + length, number + 1);
                }
            }
            target.shutdown().await.unwrap();
            heard
        };
        let relays = async move {
            let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None };
            let handle = Handle::default();
            Relay::new(Vec::new(), Vec::new(), limits)
                .watch(true, true)
                .run(&mut near, &mut far, &handle)
                .await;
            // So that both ends see the end.
            drop((near, far));
        };
        let ((), read, heard, ()) = tokio::join!(speaks, listens, answers, relays);
        (heard, read)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(100))]
        #[test]
        fn what_is_absorbed_is_what_comes_first_and_is_a_clients_own_authentication(
            said in proptest::collection::vec(say(), 0..12),
            sizes in proptest::collection::vec(1_usize..50, 1..6),
        ) {
            let (mut heard, mut read, mut number, mut is_leading) = (Vec::new(), Vec::new(), 0, true);
            for say in &said {
                is_leading &= !matches!(say, Say::Other(_));
                if is_leading && matches!(say, Say::Auth(_)) {
                    read.extend(b"+OK\r\n");
                    continue;
                }
                heard.extend(spoken(say, !is_leading));
                let name: &[u8] = if matches!(say, Say::Hello { .. }) { b"HELLO" } else { b"" };
                read.extend(reply(number, name));
                number += 1;
            }
            let stream: Vec<u8> = said.iter().flat_map(|say| spoken(say, true)).collect();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            prop_assert_eq!(runtime.block_on(absorbed(stream, sizes)), (heard, read));
        }
    }
}
