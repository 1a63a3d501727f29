//! The relay: bytes both ways, unchanged, until both sides are done.
//!
//! What it promises, on any two streams:
//! - Each side's end of stream is passed on by itself, after every byte before it (half-close).
//! - A side that breaks ends the connection: what it had sent before is still handed over, then the caller resets
//!   the other side ([`End::Broken`]).
//! - A side that reads slowly slows the other one down: nothing is read from one side while bytes wait for the other.
//! - An idle connection holds no buffer. Bytes are read into one buffer a thread, and written straight out; only what
//!   the other side would not take at once is kept by the connection.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::leave::{Leave, Reason, Seat};

/// What is read at once at first, and always by a connection whose peer does not keep up: the most that a slow
/// reader pins a direction.
const SMALL_READ: usize = 64 * 1024;

/// What is read at once by a bulk stream whose peer takes it all.
const LARGE_READ: usize = 256 * 1024;

/// What one direction may move before others on the thread have their turn.
const TURN: usize = 1024 * 1024;

/// A connection is quiet when it has moved nothing for this long, and the target spoke last: no command is under way.
const QUIET: Duration = Duration::from_millis(100);

/// An idle timeout is looked at so many times while it runs, so that it is at most an eighth late and costs nothing
/// a message.
const IDLE_LOOKS: u32 = 8;

/// How long what a broken side had sent may take to reach the other side.
const LAST_WORDS: Duration = Duration::from_secs(5);

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; LARGE_READ]);
}

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
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
    Broken(Side, io::Error),
    /// Nothing moved for the idle timeout.
    Idle,
    /// It was asked to go, and went.
    Left(Reason),
}

impl std::fmt::Display for End {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Closed => f.write_str("both sides"),
            Self::Broken(Side::Client, e) => write!(f, "client: {e}"),
            Self::Broken(Side::Target, e) => write!(f, "target: {e}"),
            Self::Idle => f.write_str("idle timeout"),
            Self::Left(reason) => f.write_str(reason.name()),
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

/// How long a connection may live.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may move nothing.
    pub idle: Option<Duration>,
    /// When it is asked to go by its age.
    pub lifetime: Option<(Instant, Leave)>,
}

/// Relays until both sides are done, one breaks, or a limit or request ends it.
///
/// `early` is what the client has sent already, `leading` what the target has; they go first. The streams are left to
/// the caller, who closes or resets them.
pub async fn relay<C, T>(
    client: &mut C,
    early: Vec<u8>,
    target: &mut T,
    leading: Vec<u8>,
    limits: Limits,
    seat: &Seat,
) -> Outcome
where
    C: AsyncRead + AsyncWrite + Unpin,
    T: AsyncRead + AsyncWrite + Unpin,
{
    let mut relay = Relay {
        target_spoke_last: early.is_empty(),
        to_target: Direction::new(early),
        to_client: Direction::new(leading),
        broken: None,
        clock: Clock::new(limits),
    };
    let end = poll_fn(|cx| relay.poll(cx, client, target, seat)).await;
    Outcome { to_target: relay.to_target.moved, to_client: relay.to_client.moved, end }
}

struct Relay {
    to_target: Direction,
    to_client: Direction,
    target_spoke_last: bool,
    broken: Option<(Side, io::Error)>,
    clock: Clock,
}

impl Relay {
    fn poll<C, T>(&mut self, cx: &mut Context<'_>, client: &mut C, target: &mut T, seat: &Seat) -> Poll<End>
    where
        C: AsyncRead + AsyncWrite + Unpin,
        T: AsyncRead + AsyncWrite + Unpin,
    {
        BUFFER.with_borrow_mut(|buffer| {
            // The target first: what it says in this turn can't be the answer to what the client says in this turn.
            let before = self.to_client.moved;
            if let Poll::Ready(Err(broken)) = self.to_client.poll(cx, target, client, buffer) {
                self.side_broke(cx, broken.side(Side::Target, Side::Client));
            }
            if self.to_client.moved != before {
                self.target_spoke_last = true;
            }
            let before = self.to_target.moved;
            if let Poll::Ready(Err(broken)) = self.to_target.poll(cx, client, target, buffer) {
                self.side_broke(cx, broken.side(Side::Client, Side::Target));
            }
            if self.to_target.moved != before {
                self.target_spoke_last = false;
            }
        });
        if self.to_target.is_over() && self.to_client.is_over() {
            return Poll::Ready(match self.broken.take() {
                Some((side, error)) => End::Broken(side, error),
                None => End::Closed,
            });
        }
        if let Poll::Ready(leave) = seat.poll_leave(cx) {
            self.clock.leave_by(leave);
        }
        let activity = Activity {
            moved: self.to_target.moved + self.to_client.moved,
            between_commands: self.target_spoke_last
                && self.to_target.holds_nothing()
                && self.to_client.holds_nothing(),
        };
        match self.clock.poll(cx, activity) {
            Poll::Ready(end) => Poll::Ready(match self.broken.take() {
                Some((side, error)) => End::Broken(side, error),
                None => end,
            }),
            Poll::Pending => Poll::Pending,
        }
    }

    /// Nothing more can go to a side that broke. What it had sent may be on its way still: bytes that were kept, and,
    /// where it was a write that failed, bytes that wait to be read (a server's last words before it closed).
    /// A write that failed only tells that nobody is there any more; an error that is read after it tells why.
    fn side_broke(&mut self, cx: &Context<'_>, (side, broken): (Side, Failed)) {
        let (from, to) = match side {
            Side::Client => (&mut self.to_target, &mut self.to_client),
            Side::Target => (&mut self.to_client, &mut self.to_target),
        };
        to.stop();
        let is_first = self.broken.is_none();
        let (error, tells_why) = match broken {
            Failed::Read(error) => {
                from.stop_reading();
                // What the writer still holds is its own to pass on, which nothing would wake us for.
                cx.waker().wake_by_ref();
                let broke_before = self.broken.as_ref().is_some_and(|(broken, _)| *broken == side);
                (error, broke_before)
            }
            Failed::Write(error) => (error, false),
        };
        if is_first || tells_why {
            self.broken = Some((side, error));
        }
        if is_first {
            self.clock.end_by(Instant::now() + LAST_WORDS);
        }
    }
}

/// Which half of a direction failed.
enum Failed {
    Read(io::Error),
    Write(io::Error),
}

impl Failed {
    fn side(self, reader: Side, writer: Side) -> (Side, Self) {
        match self {
            Self::Read(_) => (reader, self),
            Self::Write(_) => (writer, self),
        }
    }
}

/// One way through the relay.
struct Direction {
    /// Bytes that the writer would not take yet, and how many of them it has taken since.
    kept: Vec<u8>,
    taken: usize,
    /// Whether the writer has passed on all that it took. A stream that buffers (TLS) may not have.
    flushed: bool,
    read_size: usize,
    moved: u64,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Bytes flow.
    Flowing,
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
        }
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

    /// Whether all that was read has gone out.
    fn holds_nothing(&self) -> bool {
        self.is_over() || self.kept.is_empty() && self.flushed
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
            let mut read = ReadBuf::new(&mut buffer[..self.read_size]);
            match Pin::new(&mut *reader).poll_read(cx, &mut read) {
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(Failed::Read(e))),
                Poll::Pending => {
                    ready!(self.poll_flush(cx, writer))?;
                    return Poll::Pending;
                }
            }
            if read.filled().is_empty() {
                self.phase = Phase::Ending;
                continue;
            }
            self.write_out(cx, writer, read.filled())?;
        }
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
        let filled = bytes.len() == self.read_size;
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

/// What the clock wants to know when it looks.
#[derive(Clone, Copy)]
struct Activity {
    /// Bytes so far, both ways.
    moved: u64,
    /// Whether the target spoke last and nothing is on its way.
    between_commands: bool,
}

/// Everything that ends a connection by time. It holds no timer until there is something to wait for, and looks at
/// counters when the timer fires, so that a message costs it nothing.
struct Clock {
    idle: Option<Duration>,
    lifetime: Option<(Instant, Leave)>,
    leave: Option<Leave>,
    /// When it is over in any case.
    end: Option<Instant>,
    alarm: Option<Pin<Box<Sleep>>>,
    /// What had moved at the last look, and for how many looks in a row it has been so.
    seen: u64,
    unchanged: u32,
}

impl Clock {
    fn new(limits: Limits) -> Self {
        let mut clock = Self {
            idle: limits.idle,
            lifetime: limits.lifetime,
            leave: None,
            end: None,
            alarm: None,
            seen: 0,
            unchanged: 0,
        };
        clock.set_alarm();
        clock
    }

    fn leave_by(&mut self, leave: Leave) {
        if self.leave.is_none_or(|current| leave.latest < current.latest) {
            if self.leave.is_none() {
                // From now on a look is for quiet, not for idleness.
                self.seen = u64::MAX;
            }
            self.leave = Some(leave);
            self.set_alarm();
        }
    }

    fn end_by(&mut self, end: Instant) {
        self.end = Some(end);
        self.set_alarm();
    }

    /// The next moment to look at the counters.
    fn set_alarm(&mut self) {
        let now = Instant::now();
        let look = match (self.leave, self.idle) {
            (Some(_), _) => Some(now + QUIET),
            (None, Some(idle)) => Some(now + idle / IDLE_LOOKS),
            (None, None) => None,
        };
        let latest = self.leave.map(|leave| leave.latest);
        let age = self.lifetime.map(|(at, _)| at);
        let next = [look, latest, age, self.end].into_iter().flatten().min();
        match (next, &mut self.alarm) {
            (Some(at), Some(alarm)) => alarm.as_mut().reset(at),
            (Some(at), alarm) => *alarm = Some(Box::pin(tokio::time::sleep_until(at))),
            (None, alarm) => *alarm = None,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, activity: Activity) -> Poll<End> {
        while let Some(alarm) = &mut self.alarm {
            ready!(alarm.as_mut().poll(cx));
            if let Some(end) = self.look(activity) {
                return Poll::Ready(end);
            }
            self.set_alarm();
        }
        Poll::Pending
    }

    /// The alarm has fired: is it over?
    fn look(&mut self, activity: Activity) -> Option<End> {
        let now = Instant::now();
        if self.end.is_some_and(|end| now >= end) {
            return Some(End::Closed);
        }
        if let Some((at, leave)) = self.lifetime
            && now >= at
        {
            self.lifetime = None;
            self.leave_by(leave);
            return None;
        }
        if activity.moved == self.seen {
            self.unchanged += 1;
        } else {
            self.seen = activity.moved;
            self.unchanged = 0;
        }
        if let Some(leave) = self.leave {
            let quiet = self.unchanged > 0 && activity.between_commands;
            return (quiet || now >= leave.latest).then_some(End::Left(leave.reason));
        }
        (self.idle.is_some() && self.unchanged >= IDLE_LOOKS).then_some(End::Idle)
    }
}
