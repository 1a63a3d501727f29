//! One upstream that sessions of a thread share.
//!
//! What they say goes out in one write when all who are ready have been heard, and what the server says is cut where
//! replies end: each session has a [`Seat`], to which it writes its commands and from which it reads its own replies.
//!
//! A mistake would give one client what is another's. So a seat takes whole commands alone, of the classes that may [travel
//! together](crate::resp::commands::Class::travels), or that set only what is [set already](Restore::bears), and looks for
//! itself; and whatever a server says that nobody has asked for ends the upstream for all.

use std::collections::VecDeque;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep, sleep_until};
use zeroize::Zeroizing;

use super::copy::{end_turn, with_buffer};
use super::drain::{DrainRequest, Handle, Reason};
use super::session::state::Restore;
use crate::net::Side;
use crate::resp::commands::{Commands, First, Found, LONGEST_TOGETHER, UNLIMITED, first};
use crate::resp::replies::{Replies, Step};

/// How much of what sessions have said may wait for the server before they have to wait. In bytes.
const UNSENT: usize = 256 * 1024;

/// How much is kept for a client that does not read before nothing more is taken from it, and nothing more for it where
/// others need not wait for that. In bytes.
const UNREAD: usize = 1024 * 1024;

/// How much is kept for a client that does not read, and for whom others would have to wait. In bytes.
pub(super) const MOST_UNREAD: usize = 16 * 1024 * 1024;

/// How long those wait all the same whose writes stand behind that, so that a client that does read may keep up.
const PATIENCE: Duration = Duration::from_secs(5);

/// The longest pause of one that does read.
const PAUSE: Duration = Duration::from_millis(250);

/// A reply longer than this is nothing to stand behind: a gigabit line is busy with it for 34 ms. In bytes.
const HUGE: usize = 4 * 1024 * 1024;

/// How long an upstream without a session is kept for the next one.
const LINGER: Duration = Duration::from_secs(30);

/// How much is read before others on the thread have their turn: so little that who reads at all is never behind by
/// [`UNREAD`]. In bytes.
const TURN: usize = UNREAD / 2;

/// How long an AUTH of ours may hold up all others.
const AUTH_ANSWER: Duration = Duration::from_secs(5);

/// An upstream on which nothing was heard for so long, though it was asked, is no longer there.
const ANSWER: Duration = Duration::from_secs(1);

/// Why it came to an end.
#[derive(Debug)]
pub enum Ended {
    /// It was to be left, or nobody needed it any more.
    Left,
    /// The server closed it.
    Eof,
    Broke(io::Error),
    /// The server has said what a server does not say here.
    Spoiled(&'static str),
}

/// What a server says that closes a connection, as one does that has too many clients: it says nothing of whether it can be
/// shared.
pub const UNASKED_ERROR: &str = "an error that nobody asked for";

/// What it is that a server has said unasked.
fn unasked(bytes: &[u8]) -> &'static str {
    if bytes.starts_with(b"-") { UNASKED_ERROR } else { "a reply that nobody asked for" }
}

/// What the sessions and the upstream's [`Driver`] have in common.
#[derive(Debug, Default)]
struct Mux {
    /// What goes to the server with the next write, and whose the replies to that will be.
    unsent: Vec<u8>,
    queued: VecDeque<Run>,
    /// Whose the replies are that are still to come, in order.
    owed: VecDeque<Run>,
    /// How much of the reply under way has come.
    begun: usize,
    /// When the server has said something the last time, that of the handshake too.
    heard_at: Option<Instant>,
    places: Slab<Place>,
    driver: Option<Waker>,
    /// Seats that wait until less is unsent.
    waiting: Vec<Waker>,
    /// No further command goes to it.
    is_leaving: bool,
    /// It was asked whether it is there, and has not answered.
    is_silent: bool,
    is_ended: bool,
    /// What reading fails with, as it did not end cleanly, or has said what is nobody's.
    broken: Option<io::ErrorKind>,
    /// Whether the server has accepted another secret of ours, once it has answered.
    reauthenticated: Option<bool>,
}

/// Others may have to wait for a session to read.
#[derive(Debug, Clone, Copy)]
struct Held {
    since: Instant,
    /// When it has read the last time.
    read_at: Instant,
}

impl Held {
    /// Until when they do.
    fn until(self) -> Instant {
        (self.since + PATIENCE).min(self.read_at + PAUSE)
    }
}

/// Several replies to one session.
#[derive(Debug)]
struct Run {
    /// None for a command of ours.
    place: Option<usize>,
    count: u32,
}

/// What there is for one session.
#[derive(Debug, Default)]
struct Place {
    /// Replies that the session has not read, and how much of them it has.
    unread: Vec<u8>,
    taken: usize,
    /// Replies that are still to come.
    owed: u32,
    /// The session has gone: its replies are nobody's.
    is_left: bool,
    /// The client has said all that it has to say.
    is_finished: bool,
    /// More is unread than is kept.
    is_full: bool,
    /// Since as much was unread as is kept, until that is little again.
    held: Option<Held>,
    waker: Option<Waker>,
}

/// A shared upstream, for who takes seats at it.
#[derive(Debug, Clone, Default)]
pub struct Shared(Arc<Common>);

/// One allocation, so that a seat is small.
#[derive(Debug, Default)]
struct Common {
    mux: Mutex<Mux>,
    server: u64,
    state: Restore,
    database: u32,
}

/// A session's place at a shared upstream: a stream of its own commands and replies.
#[derive(Debug)]
pub struct Seat {
    shared: Shared,
    place: usize,
}

/// What a seat fails with when its client does not read its replies: it is the client that is to go, and nothing is to be
/// asked again elsewhere.
pub(super) const UNREAD_REPLIES: io::ErrorKind = io::ErrorKind::QuotaExceeded;

impl Shared {
    /// A new one, and its first session's seat. `server` is the number of the one that it leads to, `state` what was set
    /// there, `database` the link's.
    pub fn new(server: u64, state: Restore, database: u32) -> (Self, Seat) {
        let shared = Self(Arc::new(Common { server, state, database, ..Common::default() }));
        shared.mux().heard_at = Some(Instant::now());
        let place = shared.mux().places.insert(Place::default());
        let seat = Seat { shared: shared.clone(), place };
        (shared, seat)
    }

    fn mux(&self) -> MutexGuard<'_, Mux> {
        self.0.mux.lock()
    }

    /// A place for one more session; none where the upstream is to be left, or has ended.
    pub fn seat(&self) -> Option<Seat> {
        let mut mux = self.mux();
        if mux.is_leaving || mux.is_ended {
            return None;
        }
        let place = mux.places.insert(Place::default());
        Some(Seat { shared: self.clone(), place })
    }

    /// Whether the command sets nothing but what is set already, or what people alone read.
    fn bears(&self, command: &[u8]) -> bool {
        match first(command, UNLIMITED) {
            First::Command(arguments, length) if length <= LONGEST_TOGETHER => {
                self.0.state.bears(&arguments, self.0.database)
            }
            _ => false,
        }
    }

    /// Whether nobody can take a seat any more.
    pub fn is_over(&self) -> bool {
        let mux = self.mux();
        mux.is_leaving || mux.is_ended
    }

    /// How many sessions there are.
    pub fn sessions(&self) -> usize {
        self.mux().places.len()
    }
}

impl Mux {
    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    /// Takes whole commands of one session: those that travel together, and those that the upstream bears.
    fn takes(&mut self, place: usize, bytes: &[u8], bears: impl Fn(&[u8]) -> bool) -> io::Result<()> {
        let mut commands = Commands::default();
        let (mut at, mut count) = (0, 0);
        while at < bytes.len() {
            match commands.find(&bytes[at..]) {
                Ok(Found::Whole(class, length))
                    if class.travels() && length <= LONGEST_TOGETHER || bears(&bytes[at..at + length]) =>
                {
                    at += length;
                    count += 1;
                }
                Ok(Found::Nothing(length)) => at += length,
                _ => return Err(io::Error::other("a command that may not travel with others")),
            }
        }
        if count > 0 {
            match self.queued.back_mut() {
                Some(run) if run.place == Some(place) => run.count += count,
                _ => self.queued.push_back(Run { place: Some(place), count }),
            }
            self.places[place].owed += count;
        }
        self.unsent.extend_from_slice(bytes);
        self.wake_driver();
        Ok(())
    }

    /// All that is unsent goes out by way of this empty buffer.
    fn sends(&mut self, sending: &mut Vec<u8>) {
        std::mem::swap(sending, &mut self.unsent);
        self.owed.append(&mut self.queued);
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
    }

    /// Cuts what the server has said.
    fn hears(&mut self, replies: &mut Replies, bytes: &[u8]) -> Result<(), &'static str> {
        let mut at = 0;
        while at < bytes.len() {
            let Some(run) = self.owed.front_mut() else { return Err(unasked(&bytes[at..])) };
            let (place, from, before) = (run.place, at, run.count);
            let was_huge = self.begun > HUGE;
            let mut wrong = None;
            while at < bytes.len() && run.count > 0 && wrong.is_none() {
                let is_push = replies.is_between() && matches!(bytes[at], b'>' | b'|');
                match replies.follow(&bytes[at..]) {
                    _ if is_push => wrong = Some("a push"),
                    Err(_) => wrong = Some("bytes that are no reply"),
                    Ok(Step { ended, length, .. }) => {
                        if place.is_none() && ended.is_some() {
                            self.reauthenticated = Some(!replies.head(&bytes[at..]).starts_with(b"-"));
                        }
                        self.begun = if ended.is_some() { 0 } else { self.begun + length };
                        run.count -= u32::from(ended.is_some());
                        at += length;
                    }
                }
            }
            let (whole, is_over) = (before - run.count, run.count == 0);
            if is_over {
                self.owed.pop_front();
            }
            if let Some(number) = place {
                self.gives(number, &bytes[from..at], whole);
            }
            if let Some(wrong) = wrong {
                return Err(wrong);
            }
            if self.begun > HUGE && !was_huge {
                // Who can goes elsewhere.
                self.is_leaving = true;
                self.wake_all();
            }
        }
        Ok(())
    }

    /// Gives a session its part, in which so many replies end.
    fn gives(&mut self, number: usize, piece: &[u8], whole: u32) {
        let place = &mut self.places[number];
        place.owed -= whole;
        if place.is_left {
            if place.owed == 0 {
                self.places.remove(number);
            }
            return;
        }
        // What the client has is not kept.
        if place.taken > UNREAD / 4 && place.taken > place.unread.len() / 2 {
            place.unread.drain(..place.taken);
            place.taken = 0;
        }
        if place.unread() + piece.len() > MOST_UNREAD {
            let now = Instant::now();
            let held = *place.held.get_or_insert(Held { since: now, read_at: now });
            if held.until() <= now && self.is_waited_for(number) {
                let place = &mut self.places[number];
                place.is_full = true;
                place.unread = Vec::new();
                place.taken = 0;
            }
        }
        let place = &mut self.places[number];
        if !place.is_full {
            place.unread.extend_from_slice(piece);
        }
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
    }

    /// Whether one session has so much unread that no more is read now.
    fn is_held_up(&mut self, now: Instant) -> bool {
        let Some(Run { place: Some(number), .. }) = self.owed.front() else { return false };
        let (number, place) = (*number, &self.places[*number]);
        if place.is_left || place.unread() <= UNREAD {
            return false;
        }
        if self.held_until().is_some_and(|until| until > now) {
            return true;
        }
        // Nobody else is to come behind it.
        self.leave();
        !self.is_waited_for(number)
    }

    /// Until when all wait for the session that is owed the next reply, as no more of it is kept.
    fn held_until(&self) -> Option<Instant> {
        let place = &self.places[self.owed.front()?.place?];
        place.held.filter(|_| !place.is_left && place.unread() > MOST_UNREAD).map(Held::until)
    }

    /// Whether anybody stands behind what this session is owed.
    fn is_waited_for(&self, number: usize) -> bool {
        let mut all = self.owed.iter().chain(&self.queued);
        all.any(|run| run.place.is_none_or(|place| place != number && !self.places[place].is_left))
    }

    /// No further command goes to the upstream; sessions leave it when they are owed nothing.
    fn leave(&mut self) {
        if !self.is_leaving {
            self.is_leaving = true;
            self.wake_all();
        }
    }

    fn end(&mut self) {
        self.is_ended = true;
        self.unsent = Vec::new();
        self.queued.clear();
        self.owed.clear();
        self.wake_all();
    }

    fn wake_all(&mut self) {
        for waker in self.waiting.drain(..) {
            waker.wake();
        }
        for (_, place) in &mut self.places {
            if let Some(waker) = place.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Place {
    /// How much there is for the session to read.
    fn unread(&self) -> usize {
        self.unread.len() - self.taken
    }

    fn waits(&mut self, cx: &Context<'_>) {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
    }
}

impl AsyncRead for Seat {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mux = &mut *self.shared.mux();
        let place = &mut mux.places[self.place];
        if place.is_full {
            return Poll::Ready(Err(io::Error::new(UNREAD_REPLIES, "the client does not read its replies")));
        }
        let left = &place.unread[place.taken..];
        if left.is_empty() {
            if let Some(broken) = mux.broken {
                return Poll::Ready(Err(broken.into()));
            }
            if mux.is_ended || place.is_finished && place.owed == 0 {
                return Poll::Ready(Ok(()));
            }
            place.waits(cx);
            return Poll::Pending;
        }
        let was_much = left.len() > UNREAD;
        let length = left.len().min(buffer.remaining());
        buffer.put_slice(&left[..length]);
        place.taken += length;
        if place.taken == place.unread.len() {
            place.taken = 0;
            place.unread.clear();
            if place.unread.capacity() > UNREAD {
                place.unread = Vec::new();
            }
        }
        if was_much {
            if place.unread() <= UNREAD {
                place.held = None;
            }
            if let Some(held) = &mut place.held {
                held.read_at = Instant::now();
            }
            mux.wake_driver();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Seat {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { shared, place: number } = &*self;
        let mux = &mut *shared.mux();
        if mux.is_ended {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let place = &mut mux.places[*number];
        if place.unread() > UNREAD {
            place.waits(cx);
            return Poll::Pending;
        }
        if mux.unsent.len() > UNSENT {
            mux.waiting.push(cx.waker().clone());
            return Poll::Pending;
        }
        mux.takes(*number, bytes, |command| shared.bears(command))?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        let place = &mut self.shared.mux().places[self.place];
        place.is_finished = true;
        if let Some(waker) = place.waker.take() {
            waker.wake();
        }
        Poll::Ready(Ok(()))
    }
}

impl Side for Seat {
    fn take_error(&self) -> Option<io::Error> {
        None
    }

    fn is_quiet(&self) -> bool {
        let mux = self.shared.mux();
        !mux.is_ended && mux.places[self.place].unread.is_empty()
    }

    fn is_shared(&self) -> bool {
        true
    }

    fn is_leaving(&self) -> bool {
        self.shared.mux().is_leaving
    }

    fn bears(&self, command: &[u8]) -> bool {
        self.shared.bears(command)
    }

    fn is_delayed(&self) -> bool {
        let mux = self.shared.mux();
        mux.begun > HUGE && mux.owed.front().is_some_and(|run| run.place != Some(self.place))
    }

    fn silence(&self) -> Duration {
        self.shared.mux().heard_at.map(|at| at.elapsed()).unwrap_or_default()
    }

    fn does_not_answer(&self) {
        let mut mux = self.shared.mux();
        if mux.heard_at.is_none_or(|at| at.elapsed() >= ANSWER) {
            mux.is_silent = true;
            mux.leave();
        }
    }
}

impl Seat {
    /// The number of the server that it leads to.
    pub fn server(&self) -> u64 {
        self.shared.0.server
    }

    /// Nobody is to come here any more.
    pub fn leave(&self) {
        self.shared.mux().leave();
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mux = &mut *self.shared.mux();
        let place = &mut mux.places[self.place];
        if place.owed == 0 || mux.is_ended {
            mux.places.remove(self.place);
        } else {
            place.is_left = true;
            place.unread = Vec::new();
            place.waker = None;
        }
        mux.wake_driver();
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.shared.mux().end();
    }
}

/// What moves bytes between the server and the seats. It may hold a password, so it has no `Debug`.
pub struct Driver {
    shared: Shared,
    replies: Replies,
    /// What the server has said before anybody asked.
    leading: Vec<u8>,
    /// An AUTH of ours that waits until nothing is owed: one that is refused may get no reply while another one is on its way.
    secret: Option<Zeroizing<Vec<u8>>>,
    /// Until when its reply has to be there.
    answer_by: Option<Instant>,
    /// What is being written, and how much of it the server has taken.
    sending: Zeroizing<Vec<u8>>,
    sent: usize,
    is_flushed: bool,
    /// Whether the server takes commands still.
    takes_more: bool,
    leave: Option<DrainRequest>,
    /// When its age asks it to go.
    lifetime: Option<(Instant, DrainRequest)>,
    alarm: Option<(Instant, Pin<Box<Sleep>>)>,
    /// Since when there is no session.
    alone_since: Option<Instant>,
}

impl Driver {
    /// `leading` is what the server has said already; `lifetime` is when its age asks it to go, and how.
    pub fn new(shared: Shared, leading: Vec<u8>, lifetime: Option<(Instant, DrainRequest)>) -> Self {
        Self {
            shared,
            replies: Replies::default(),
            leading,
            secret: None,
            answer_by: None,
            sending: Zeroizing::default(),
            sent: 0,
            is_flushed: true,
            takes_more: true,
            leave: None,
            lifetime,
            alarm: None,
            alone_since: Some(Instant::now()),
        }
    }

    /// Shows the server another secret, with this command, once nothing is owed. Its reply is nobody's.
    pub fn reauthenticate(&mut self, command: &[u8]) {
        self.secret = Some(Zeroizing::new(command.to_vec()));
        self.shared.mux().wake_driver();
    }

    /// Whether another secret was accepted, once that is known.
    pub fn take_reauthenticated(&mut self) -> Option<bool> {
        self.shared.mux().reauthenticated.take()
    }

    /// Goes on as far as it goes now; ready when the upstream is over. It is for all when the driver is dropped.
    pub fn poll<T: Side>(&mut self, cx: &mut Context<'_>, target: &mut T, handle: &Handle) -> Poll<Ended> {
        let ended = ready!(self.go_on(cx, target, handle));
        self.shared.mux().broken = match &ended {
            Ended::Left | Ended::Eof => None,
            Ended::Broke(error) => Some(error.kind()),
            Ended::Spoiled(_) => Some(io::ErrorKind::ConnectionReset),
        };
        Poll::Ready(ended)
    }

    fn go_on<T: Side>(&mut self, cx: &mut Context<'_>, target: &mut T, handle: &Handle) -> Poll<Ended> {
        // One time for all: what is not due when it is looked at is waited for.
        let now = Instant::now();
        if let Poll::Ready(leave) = handle.poll_drain(cx)
            && leave.reason != Reason::Drain
        {
            self.leave = Some(leave);
        }
        if let Some((_, leave)) = self.lifetime.take_if(|(at, _)| *at <= now) {
            self.leave.get_or_insert(leave);
        }
        if self.leave.is_some_and(|leave| leave.from <= now) {
            self.shared.mux().leave();
        }
        if !self.leading.is_empty() {
            return Poll::Ready(Ended::Spoiled(unasked(&self.leading)));
        }
        if let Poll::Ready(ended) = self.poll_read(cx, target, now) {
            return Poll::Ready(ended);
        }
        if self.takes_more
            && let Poll::Ready(Err(_)) = self.poll_write(cx, target)
        {
            // What it has said is heard first; what is behind that tells how it ended.
            self.takes_more = false;
            self.shared.mux().leave();
        }
        self.poll_end(cx, now)
    }

    fn poll_read<T: Side>(&mut self, cx: &mut Context<'_>, target: &mut T, now: Instant) -> Poll<Ended> {
        let Self { shared, replies, .. } = self;
        with_buffer(|buffer| {
            let mut moved = 0;
            loop {
                if moved >= TURN {
                    end_turn(cx);
                    return Poll::Pending;
                }
                if shared.mux().is_held_up(now) {
                    return Poll::Pending;
                }
                let mut read = ReadBuf::new(buffer);
                if let Err(error) = ready!(Pin::new(&mut *target).poll_read(cx, &mut read)) {
                    return Poll::Ready(Ended::Broke(error));
                }
                let bytes = read.filled();
                if bytes.is_empty() {
                    return Poll::Ready(Ended::Eof);
                }
                moved += bytes.len();
                let mut mux = shared.mux();
                mux.heard_at = Some(Instant::now());
                if let Err(what) = mux.hears(replies, bytes) {
                    return Poll::Ready(Ended::Spoiled(what));
                }
            }
        })
    }

    fn poll_write<T: Side>(&mut self, cx: &mut Context<'_>, target: &mut T) -> Poll<io::Result<()>> {
        loop {
            while self.sent < self.sending.len() {
                let taken = ready!(Pin::new(&mut *target).poll_write(cx, &self.sending[self.sent..]))?;
                if taken == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                self.sent += taken;
                self.is_flushed = false;
            }
            let mux = &mut *self.shared.mux();
            if mux.owed.back().is_some_and(|run| run.place.is_none()) {
                // It was a secret.
                self.sending = Zeroizing::default();
            }
            self.sending.clear();
            self.sent = 0;
            if mux.owed.is_empty()
                && let Some(secret) = self.secret.take()
            {
                self.sending = secret;
                self.answer_by = Some(Instant::now() + AUTH_ANSWER);
                mux.owed.push_back(Run { place: None, count: 1 });
                continue;
            }
            let is_alone = self.secret.is_some() || mux.owed.front().is_some_and(|run| run.place.is_none());
            if mux.unsent.is_empty() || is_alone {
                break;
            }
            mux.sends(&mut self.sending);
        }
        if self.sending.capacity() > UNSENT {
            self.sending = Zeroizing::default();
        }
        if !self.is_flushed {
            ready!(Pin::new(target).poll_flush(cx))?;
            self.is_flushed = true;
        }
        Poll::Pending
    }

    /// Whether nobody needs it any more, or its time is over; sees to it that the driver is woken again.
    fn poll_end(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<Ended> {
        let (is_alone, is_leaving, is_asked, held) = {
            let mut mux = self.shared.mux();
            let is_alone = if mux.is_silent {
                // What is owed never comes.
                mux.places.iter().all(|(_, place)| place.is_left)
            } else {
                mux.places.is_empty() && mux.owed.is_empty() && mux.queued.is_empty()
            };
            if !mux.driver.as_ref().is_some_and(|driver| driver.will_wake(cx.waker())) {
                mux.driver = Some(cx.waker().clone());
            }
            let is_asked = mux.owed.front().is_some_and(|run| run.place.is_none());
            (is_alone, mux.is_leaving, is_asked, mux.held_until())
        };
        self.answer_by = self.answer_by.filter(|_| is_asked);
        self.alone_since = if is_alone { self.alone_since.or_else(|| Some(Instant::now())) } else { None };
        if is_alone && is_leaving {
            return Poll::Ready(Ended::Left);
        }
        let until_left = self.leave.map(|leave| if leave.from > now { leave.from } else { leave.latest });
        let until_closed = self.alone_since.map(|since| since + LINGER);
        let until_old = self.lifetime.map(|(at, _)| at);
        let until_read = held.filter(|at| *at > now);
        let times = [until_left, until_closed, until_old, until_read, self.answer_by];
        let Some(at) = times.into_iter().flatten().min() else {
            self.alarm = None;
            return Poll::Pending;
        };
        let is_set = self.alarm.as_ref().is_some_and(|(set, _)| *set == at);
        if !is_set {
            self.alarm = Some((at, Box::pin(sleep_until(at))));
        }
        if let Some((_, alarm)) = &mut self.alarm {
            ready!(alarm.as_mut().poll(cx));
        }
        let is_over = self.leave.is_some_and(|leave| leave.latest <= Instant::now())
            || self.alone_since.is_some_and(|since| since.elapsed() >= LINGER);
        if self.answer_by.is_some_and(|by| by <= Instant::now()) {
            return Poll::Ready(Ended::Broke(io::ErrorKind::TimedOut.into()));
        }
        if is_over {
            // Nobody takes a seat from here on.
            return Poll::Ready(Ended::Left);
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use proptest::collection::vec;
    use proptest::prelude::{Just, Strategy, prop_assert_eq, prop_oneof, proptest};
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::time::{advance, timeout};

    use super::*;
    use crate::relay::Way;

    /// A shared upstream whose server the test plays; the driver's task ends with why.
    fn played() -> (Shared, Seat, DuplexStream, tokio::task::JoinHandle<Ended>) {
        let (near, server) = duplex(64 * 1024 * 1024);
        let (shared, seat, running) = played_by(near);
        (shared, seat, server, running)
    }

    fn played_by(mut near: impl Side + Send + 'static) -> (Shared, Seat, tokio::task::JoinHandle<Ended>) {
        let (shared, seat) = Shared::new(0, Restore::default(), 0);
        let mut driver = Driver::new(shared.clone(), Vec::new(), None);
        let running = tokio::spawn(async move {
            let handle = Handle::default();
            poll_fn(|cx| driver.poll(cx, &mut near, &handle)).await
        });
        (shared, seat, running)
    }

    async fn hears(server: &mut DuplexStream, expected: &[u8]) {
        let mut heard = vec![0; expected.len()];
        server.read_exact(&mut heard).await.expect("commands");
        assert_eq!(heard.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    async fn gets(seat: &mut Seat, expected: &[u8]) {
        let mut got = vec![0; expected.len()];
        timeout(Duration::from_secs(5), seat.read_exact(&mut got)).await.expect("in time").expect("replies");
        assert_eq!(got.escape_ascii().to_string(), expected.escape_ascii().to_string());
    }

    async fn is_at_its_end(seat: &mut Seat) {
        let rest = timeout(Duration::from_secs(5), seat.read(&mut [0; 16])).await.expect("in time");
        assert_eq!(rest.expect("an end"), 0);
    }

    #[tokio::test]
    async fn each_gets_its_own_replies_however_they_come() {
        for pieces in [1, 2, 3, 7, 1000] {
            let (shared, mut one, mut server, _running) = played();
            let mut two = shared.seat().expect("a seat");
            one.write_all(b"GET a\r\nGET b\r\n").await.expect("taken");
            two.write_all(b"*2\r\n$6\r\nLRANGE\r\n$1\r\nc\r\n").await.expect("taken");
            one.write_all(b"\r\nGET d\r\n").await.expect("taken");
            hears(&mut server, b"GET a\r\nGET b\r\n*2\r\n$6\r\nLRANGE\r\n$1\r\nc\r\n\r\nGET d\r\n").await;
            let (first, second) = (&b"$1\r\na\r\n-ERR b\r\n"[..], &b"*2\r\n$1\r\nc\r\n*1\r\n:7\r\n"[..]);
            for piece in [first, second, b"$-1\r\n"].concat().chunks(pieces) {
                server.write_all(piece).await.expect("said");
                tokio::task::yield_now().await;
            }
            gets(&mut two, second).await;
            gets(&mut one, &[first, b"$-1\r\n"].concat()).await;
        }
    }

    #[tokio::test]
    async fn who_leaves_leaves_its_replies_to_nobody() {
        let (shared, mut one, mut server, _running) = played();
        let mut two = shared.seat().expect("a seat");
        one.write_all(b"GET a\r\nGET b\r\n").await.expect("taken");
        two.write_all(b"GET c\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\nGET b\r\nGET c\r\n").await;
        server.write_all(b"$1\r\na\r\n$10\r\nhalf ").await.expect("said");
        gets(&mut one, b"$1\r\na\r\n$10\r\nhalf ").await;
        drop(one);
        // Its place is not given to another one before all of them have come.
        let mut three = shared.seat().expect("a seat");
        three.write_all(b"GET d\r\n").await.expect("taken");
        hears(&mut server, b"GET d\r\n").await;
        server.write_all(b"of it\r\n$1\r\nc\r\n$1\r\nd\r\n").await.expect("said");
        gets(&mut two, b"$1\r\nc\r\n").await;
        gets(&mut three, b"$1\r\nd\r\n").await;
        assert_eq!(shared.sessions(), 2);
    }

    #[tokio::test]
    async fn what_may_not_travel_is_not_taken() {
        let large = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$17000\r\n{}\r\n", "v".repeat(17_000));
        for refused in [
            &b"MULTI\r\n"[..],
            b"BLPOP a 0\r\n",
            b"EVAL x 0\r\n",
            b"EVAL_RO x 0\r\n",
            b"SELECT 1\r\n",
            b"CLIENT ID\r\n",
            b"SUBSCRIBE a\r\n",
            b"MODULE.UNKNOWN\r\n",
            b"GET a",
            b"*2\r\n$3\r\nGET\r\n$1\r\n",
            b"*2\r\n$3\r\nGET\r\n$100\r\nabc",
            b"GET a\r\nMULTI\r\n",
            b"\x16\x03\x01",
            large.as_bytes(),
        ] {
            let (shared, mut one, mut server, _running) = played();
            let mut two = shared.seat().expect("a seat");
            assert!(one.write_all(refused).await.is_err(), "{}", refused.escape_ascii());
            two.write_all(b"GET b\r\n").await.expect("taken");
            hears(&mut server, b"GET b\r\n").await;
            server.write_all(b"$1\r\nb\r\n").await.expect("said");
            gets(&mut two, b"$1\r\nb\r\n").await;
        }
    }

    #[tokio::test]
    async fn what_nobody_asked_for_ends_it_for_all() {
        for said in [
            &b"$1\r\na\r\n$1\r\nb\r\n+OK\r\n"[..],
            b">2\r\n+invalidate\r\n*0\r\n",
            // Of one that is not all there nobody gets a part.
            b">2\r\n+invali",
            b"|1\r\n+a\r\n+b\r\n$1\r\na\r\n",
            b"HTTP/1.1 400 Bad Request\r\n",
            b"$1\r\na\r\n$1\r\nb\r\n-ERR max number of clients reached\r\n",
        ] {
            let (shared, mut one, mut server, running) = played();
            let mut two = shared.seat().expect("a seat");
            one.write_all(b"GET a\r\n").await.expect("taken");
            two.write_all(b"GET b\r\n").await.expect("taken");
            hears(&mut server, b"GET a\r\nGET b\r\n").await;
            server.write_all(said).await.expect("said");
            let ended = timeout(Duration::from_secs(5), running).await;
            let ended = ended.unwrap_or_else(|_| panic!("{} ends nothing", said.escape_ascii()));
            assert!(matches!(ended, Ok(Ended::Spoiled(_))), "{ended:?}");
            let mut rest = Vec::new();
            let broken = one.read_to_end(&mut rest).await.expect_err("a reset");
            assert_eq!(broken.kind(), io::ErrorKind::ConnectionReset);
            assert!(rest.is_empty() || rest == b"$1\r\na\r\n", "{}", rest.escape_ascii());
            assert!(two.read_to_end(&mut rest).await.is_err());
            assert!(shared.seat().is_none() && one.write_all(b"GET a\r\n").await.is_err());
        }
    }

    #[tokio::test]
    async fn a_server_that_takes_no_more_is_heard_to_its_end() {
        let (shared, mut one, mut server, running) = played();
        let whole = format!("${}\r\n{}\r\n", 3 * UNREAD, "v".repeat(3 * UNREAD));
        one.write_all(b"GET a\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\n").await;
        server.write_all(whole.as_bytes()).await.expect("said");
        drop(server);
        // That can't be sent any more when less than all of it has been read.
        one.write_all(b"GET b\r\n").await.expect("taken");
        gets(&mut one, whole.as_bytes()).await;
        is_at_its_end(&mut one).await;
        let ended = timeout(Duration::from_secs(5), running).await;
        assert!(matches!(ended, Ok(Ok(Ended::Eof))), "{ended:?}");
        assert!(shared.is_over());
    }

    /// The other one's reply stands behind more than is kept for the slow one.
    async fn stands_behind(slow: &mut Seat, other: &mut Seat, server: &mut DuplexStream) {
        let most = format!("${MOST_UNREAD}\r\n{}\r\n", "v".repeat(MOST_UNREAD));
        slow.write_all(b"GET a\r\nGET a\r\n").await.expect("taken");
        other.write_all(b"GET b\r\n").await.expect("taken");
        hears(server, b"GET a\r\nGET a\r\nGET b\r\n").await;
        server.write_all(most.as_bytes()).await.expect("said");
        server.write_all(most.as_bytes()).await.expect("said");
        server.write_all(b"$1\r\nb\r\n").await.expect("said");
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_holds_up_nobody_for_long() {
        let (shared, mut slow, mut server, _running) = played();
        let begun = Instant::now();
        let mut other = shared.seat().expect("a seat");
        stands_behind(&mut slow, &mut other, &mut server).await;
        gets(&mut other, b"$1\r\nb\r\n").await;
        assert!(begun.elapsed() < 2 * PAUSE, "{:?}", begun.elapsed());
        let error = slow.read(&mut [0; 16]).await.expect_err("too much");
        assert_eq!(error.kind(), UNREAD_REPLIES);
    }

    #[tokio::test(start_paused = true)]
    async fn each_of_several_who_do_not_read_is_bounded() {
        let (shared, mut reads, mut server, _running) = played();
        let [mut deaf, mut other] = [(); 2].map(|()| shared.seat().expect("a seat"));
        let most = format!("${MOST_UNREAD}\r\n{}\r\n", "v".repeat(MOST_UNREAD));
        reads.write_all(b"GET a\r\n").await.expect("taken");
        other.write_all(b"GET b\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\nGET b\r\n").await;
        server.write_all(most.as_bytes()).await.expect("said");
        server.write_all(b"$1\r\nb\r\n").await.expect("said");
        gets(&mut other, b"$1\r\nb\r\n").await;
        assert!(shared.mux().places[reads.place].held.is_some());
        // It reads, and still has much to read.
        gets(&mut reads, &most.as_bytes()[..MOST_UNREAD - 2 * UNREAD]).await;
        deaf.write_all(&b"GET a\r\n".repeat(4)).await.expect("taken");
        other.write_all(b"GET b\r\n").await.expect("taken");
        hears(&mut server, &[&b"GET a\r\n".repeat(4)[..], b"GET b\r\n"].concat()).await;
        let begun = Instant::now();
        server.write_all(most.repeat(4).as_bytes()).await.expect("said");
        server.write_all(b"$1\r\nb\r\n").await.expect("said");
        gets(&mut other, b"$1\r\nb\r\n").await;
        assert!(begun.elapsed() < 2 * PAUSE, "{:?}", begun.elapsed());
        let error = deaf.read(&mut [0; 16]).await.expect_err("too much");
        assert_eq!(error.kind(), UNREAD_REPLIES);
        gets(&mut reads, &most.as_bytes()[MOST_UNREAD - 2 * UNREAD..]).await;
    }

    /// A stream that takes so much time for the next write.
    struct Slow(DuplexStream, Arc<Mutex<Duration>>);

    impl AsyncRead for Slow {
        fn poll_read(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            buffer: &mut ReadBuf<'_>,
        ) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_read(cx, buffer)
        }
    }

    impl AsyncWrite for Slow {
        fn poll_write(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            let passes = std::mem::take(&mut *self.1.lock());
            // The clock is set at the first look.
            let _ = pin!(advance(passes)).poll(&mut Context::from_waker(Waker::noop()));
            Pin::new(&mut self.0).poll_write(cx, bytes)
        }

        fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_flush(cx)
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            Pin::new(&mut self.0).poll_shutdown(cx)
        }
    }

    impl Side for Slow {
        fn take_error(&self) -> Option<io::Error> {
            None
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_time_that_is_over_while_the_driver_writes_is_not_missed() {
        let (near, mut server) = duplex(64 * 1024 * 1024);
        let passes = Arc::new(Mutex::new(Duration::ZERO));
        let (shared, mut slow, _running) = played_by(Slow(near, Arc::clone(&passes)));
        let mut other = shared.seat().expect("a seat");
        stands_behind(&mut slow, &mut other, &mut server).await;
        while shared.mux().held_until().is_none() {
            tokio::task::yield_now().await;
        }
        *passes.lock() = PAUSE;
        other.write_all(b"GET c\r\n").await.expect("taken");
        gets(&mut other, b"$1\r\nb\r\n").await;
    }

    #[tokio::test]
    async fn what_is_unread_is_bounded_where_nobody_waits_behind_it() {
        let (shared, mut slow, mut server, _running) = played();
        let size = 3 * MOST_UNREAD;
        let whole = format!("${size}\r\n{}\r\n", "v".repeat(size));
        slow.write_all(b"GET a\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\n").await;
        server.write_all(whole.as_bytes()).await.expect("said");
        // Nobody comes behind it.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert!(shared.is_over() && shared.seat().is_none());
        let unread = shared.mux().places[0].unread.len();
        assert!(unread > UNREAD && unread <= UNREAD + 256 * 1024, "{unread}");
        gets(&mut slow, whole.as_bytes()).await;
    }

    #[tokio::test]
    async fn another_secret_is_shown_when_nothing_is_owed_and_alone() {
        let (mut near, mut server) = duplex(1024);
        let (shared, mut seat) = Shared::new(0, Restore::default(), 0);
        let mut other = shared.seat().expect("a seat");
        let driver = Arc::new(Mutex::new(Driver::new(shared, Vec::new(), None)));
        let driving = Arc::clone(&driver);
        let _running = tokio::spawn(async move {
            let handle = Handle::default();
            poll_fn(|cx| driving.lock().poll(cx, &mut near, &handle)).await
        });
        for (reply, accepted) in [(&b"-WRONGPASS no\r\n"[..], false), (b"+OK\r\n", true)] {
            seat.write_all(b"GET a\r\n").await.expect("taken");
            hears(&mut server, b"GET a\r\n").await;
            driver.lock().reauthenticate(b"AUTH p\r\n");
            other.write_all(b"GET b\r\n").await.expect("taken");
            // It would read this as its own otherwise, should the server say nothing to the AUTH.
            server.write_all(b"$1\r\na\r\n").await.expect("said");
            gets(&mut seat, b"$1\r\na\r\n").await;
            hears(&mut server, b"AUTH p\r\n").await;
            let early = timeout(Duration::from_millis(20), server.read(&mut [0; 8])).await;
            assert!(early.is_err(), "nothing goes out behind it");
            server.write_all(reply).await.expect("said");
            hears(&mut server, b"GET b\r\n").await;
            server.write_all(b"$1\r\nb\r\n").await.expect("said");
            gets(&mut other, b"$1\r\nb\r\n").await;
            assert_eq!(driver.lock().take_reauthenticated(), Some(accepted));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_secret_that_is_not_answered_ends_it() {
        let (mut near, mut server) = duplex(1024);
        let (shared, mut seat) = Shared::new(0, Restore::default(), 0);
        let mut driver = Driver::new(shared, Vec::new(), None);
        driver.reauthenticate(b"AUTH p\r\n");
        let running = tokio::spawn(async move {
            let handle = Handle::default();
            poll_fn(|cx| driver.poll(cx, &mut near, &handle)).await
        });
        hears(&mut server, b"AUTH p\r\n").await;
        seat.write_all(b"GET a\r\n").await.expect("taken");
        let ended = running.await.expect("an end");
        assert!(
            matches!(&ended, Ended::Broke(error) if error.kind() == io::ErrorKind::TimedOut),
            "{ended:?}"
        );
        let broken = seat.read(&mut [0; 8]).await.expect_err("no answer");
        assert_eq!(broken.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_one_is_left_when_nothing_is_owed() {
        let (mut near, mut server) = duplex(1024);
        let (shared, mut seat) = Shared::new(0, Restore::default(), 0);
        let at = Instant::now() + Duration::from_mins(10);
        let leave = DrainRequest { reason: Reason::Lifetime, from: at, latest: at + Duration::from_hours(1) };
        let mut driver = Driver::new(shared.clone(), Vec::new(), Some((at, leave)));
        let running = tokio::spawn(async move {
            let handle = Handle::default();
            poll_fn(|cx| driver.poll(cx, &mut near, &handle)).await
        });
        seat.write_all(b"GET a\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\n").await;
        tokio::time::sleep(Duration::from_mins(11)).await;
        assert!(seat.is_leaving() && shared.seat().is_none());
        server.write_all(b"$1\r\na\r\n").await.expect("said");
        gets(&mut seat, b"$1\r\na\r\n").await;
        drop(seat);
        assert!(matches!(running.await.expect("an end"), Ended::Left));
    }

    #[tokio::test]
    async fn who_reads_slowly_costs_no_more_than_it_is_behind() {
        let (shared, mut slow, mut server, _running) = played();
        let value = format!("$100000\r\n{}\r\n", "v".repeat(100_000));
        let mut got = vec![0; 90_000];
        for _ in 0..50 {
            slow.write_all(b"GET a\r\n").await.expect("taken");
            hears(&mut server, b"GET a\r\n").await;
            server.write_all(value.as_bytes()).await.expect("said");
            slow.read_exact(&mut got).await.expect("a part of it");
            let held = shared.mux().places[0].unread.len();
            assert!(held < 2 * UNREAD, "{held} bytes are kept");
        }
    }

    #[tokio::test]
    async fn one_that_does_not_answer_is_left_unless_it_was_heard_just_now() {
        let (shared, mut one, mut server, _running) = played();
        one.write_all(b"GET a\r\n").await.expect("taken");
        hears(&mut server, b"GET a\r\n").await;
        server.write_all(b"$1\r\na\r\n").await.expect("said");
        gets(&mut one, b"$1\r\na\r\n").await;
        let one: Way<DuplexStream> = Way::Seat(one);
        one.does_not_answer();
        assert!(!one.is_leaving(), "it has answered somebody");
        shared.mux().heard_at = Instant::now().checked_sub(ANSWER);
        one.does_not_answer();
        assert!(one.is_leaving() && shared.seat().is_none());
    }

    #[tokio::test]
    async fn it_ends_when_it_is_to_be_left_and_nothing_is_owed() {
        let (near, mut server) = duplex(1024);
        let (shared, mut seat) = Shared::new(0, Restore::default(), 0);
        let handle = Arc::new(Handle::default());
        let (mut near, asked) = (near, Arc::clone(&handle));
        let mut driver = Driver::new(shared.clone(), Vec::new(), None);
        let running = tokio::spawn(async move { poll_fn(|cx| driver.poll(cx, &mut near, &handle)).await });
        seat.write_all(b"GET a\r\n").await.expect("taken");
        let now = Instant::now();
        asked.ask(DrainRequest { reason: Reason::Moved, from: now, latest: now + Duration::from_mins(1) });
        hears(&mut server, b"GET a\r\n").await;
        server.write_all(b"$1\r\na\r\n").await.expect("said");
        gets(&mut seat, b"$1\r\na\r\n").await;
        assert!(seat.is_leaving() && shared.seat().is_none());
        drop(seat);
        assert!(matches!(running.await.expect("an end"), Ended::Left));
    }

    #[tokio::test]
    async fn a_finished_client_gets_its_replies_and_then_the_end() {
        let (_shared, mut seat, mut server, _running) = played();
        seat.write_all(b"GET a\r\n").await.expect("taken");
        seat.shutdown().await.expect("finished");
        hears(&mut server, b"GET a\r\n").await;
        server.write_all(b"$1\r\na\r\n").await.expect("said");
        gets(&mut seat, b"$1\r\na\r\n").await;
        is_at_its_end(&mut seat).await;
    }

    /// Sessions of the test below.
    const SESSIONS: usize = 5;

    #[derive(Debug, Clone)]
    enum Step {
        /// A session says so many commands.
        Says(usize, u8),
        /// The server says so many bytes of what it owes.
        Hears(usize),
        /// A session reads so many bytes.
        Reads(usize, usize),
        /// A session goes, and another one comes.
        Leaves(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            6 => (0..SESSIONS, 1..6u8).prop_map(|(session, count)| Step::Says(session, count)),
            6 => prop_oneof![1..40usize, Just(2000)].prop_map(Step::Hears),
            4 => (0..SESSIONS, 1..100usize).prop_map(|(session, length)| Step::Reads(session, length)),
            1 => (0..SESSIONS).prop_map(Step::Leaves),
        ];
        vec(step, 1..200)
    }

    /// A reply that no other one is like.
    fn reply(number: usize) -> String {
        match number % 5 {
            0 => format!("+{number}\r\n"),
            1 => format!(":{number}\r\n"),
            2 => format!("-ERR {number}\r\n"),
            3 => format!("$9\r\n\r\n{number:07}\r\n"),
            _ => format!("*2\r\n*1\r\n:{number}\r\n$-1\r\n"),
        }
    }

    /// One session of the test below: what it has got, and what is to come in all.
    struct Client {
        seat: Seat,
        got: Vec<u8>,
        expected: Vec<u8>,
    }

    impl Client {
        fn new(seat: Seat) -> Self {
            Self { seat, got: Vec::new(), expected: Vec::new() }
        }

        fn reads(&mut self, length: usize) {
            let mut bytes = vec![0; length];
            let mut read = ReadBuf::new(&mut bytes);
            let polled =
                Pin::new(&mut self.seat).poll_read(&mut Context::from_waker(Waker::noop()), &mut read);
            assert!(matches!(polled, Poll::Ready(Ok(())) | Poll::Pending), "{polled:?}");
            self.got.extend_from_slice(read.filled());
            assert!(self.expected.starts_with(&self.got), "{}", self.got.escape_ascii());
        }
    }

    proptest! {
        /// Whatever sessions say and read, and however they come and go.
        #[test]
        fn nobody_gets_what_is_anothers(steps in steps()) {
            let (shared, seat) = Shared::new(0, Restore::default(), 0);
            let mut clients = vec![Client::new(seat)];
            clients.extend((1..SESSIONS).map(|_| Client::new(shared.seat().expect("a seat"))));
            let (mut replies, mut said, mut number) = (Replies::default(), Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Says(session, count) => {
                        let client = &mut clients[session];
                        let commands = "GET a\r\n".repeat(count.into());
                        let mut cx = Context::from_waker(Waker::noop());
                        let polled = Pin::new(&mut client.seat).poll_write(&mut cx, commands.as_bytes());
                        assert!(matches!(polled, Poll::Ready(Ok(length)) if length == commands.len()));
                        for _ in 0..count {
                            let reply = reply(number);
                            number += 1;
                            client.expected.extend_from_slice(reply.as_bytes());
                            said.extend_from_slice(reply.as_bytes());
                        }
                    }
                    Step::Hears(length) => {
                        let length = length.min(said.len());
                        let bytes: Vec<u8> = said.drain(..length).collect();
                        let mut mux = shared.mux();
                        mux.sends(&mut Vec::new());
                        mux.hears(&mut replies, &bytes).expect("replies");
                    }
                    Step::Reads(session, length) => clients[session].reads(length),
                    Step::Leaves(session) => clients[session] = Client::new(shared.seat().expect("a seat")),
                }
            }
            shared.mux().sends(&mut Vec::new());
            shared.mux().hears(&mut replies, &said).expect("replies");
            for client in &mut clients {
                client.reads(client.expected.len() + 1);
                prop_assert_eq!(client.got.escape_ascii().to_string(), client.expected.escape_ascii().to_string());
            }
            // Nothing is left of those that have gone.
            prop_assert_eq!(shared.sessions(), SESSIONS);
            prop_assert_eq!(shared.mux().owed.len(), 0);
        }
    }
}
