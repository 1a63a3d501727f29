//! A session: a client, and the upstream that it has at the moment.
//!
//! Bytes pass as through a tunnel, but both directions are followed: [`Commands`] knows where commands end and what they
//! are, [`Replies`] where replies end. So it is known what is [owed] to the client, and what its commands have
//! [left behind](state) on the connection. From that comes everything else:
//!
//! - Whoever wants the connection to end gets it at a boundary: nothing is owed, and no command half sent.
//! - An upstream that ends, or has to be left, while nothing is owed is exchanged for another one with the client's next
//!   command. Commands that only read are sent again where an upstream breaks before it has answered; what it has refused
//!   because of a failover is sent to another one.
//! - Behind RESET the client's next command waits until the link's own handshake has been made again.
//! - A client's own authentication is answered in its place.
//!
//! The session makes no connection and reads no password: it says what it needs ([`Event`]), and its owner tells it what
//! came of that.
//!
//! Where framing is lost, because one side does not speak RESP or a command makes the connection one of another kind, bytes
//! pass as through a tunnel; such a session is never exchanged.

mod ahead;
mod commanding;
mod owed;
mod replying;
pub(super) mod state;

use std::borrow::Cow;
use std::io;
use std::pin::Pin as Pinned;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, Sleep, sleep};

use self::ahead::Ahead;
use self::owed::{Owed, What};
use self::replying::Refusal;
use self::state::{Answering, Pin, Restore, State};
use super::copy::{Failed, with_buffer};
use super::drain::{Handle, Moved, Reason};
use super::pair::Pair;
use super::{End, Limits, Party};
pub use crate::metrics::session::Cause;
use crate::metrics::session::SessionMetrics;
use crate::net::Side;
use crate::resp::commands::{Commands, First, LONGEST_TOGETHER, UNLIMITED, first};
use crate::resp::replies::Replies;

/// An upstream that has been silent for so long is asked whether it is there before a command is entrusted to it: the
/// strictest firewalls and balancers forget connections after a minute.
const SILENCE: Duration = Duration::from_secs(30);

/// How long it may take to answer.
const ANSWER: Duration = Duration::from_secs(1);

/// Who needs an upstream of its own again and again, with no longer pauses, keeps it over these.
const BUSY: Duration = Duration::from_millis(20);

/// The longest reply, in bytes, behind which the next one is expected among those of others.
const LARGE: u32 = 16 * 1024;

/// What it is asked.
const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";

/// What a session is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Policy {
    pub reset: Reset,
    /// Whether a client's own authentication is not for the target.
    pub absorbs: bool,
    /// Whether the link has another server, or may find one, for what this one refuses because of a failover.
    pub resends: bool,
    /// For how long a command may wait for that.
    pub patience: Duration,
    /// The database in which an upstream stands before the client has said anything.
    pub database: u32,
    /// Whether sessions share upstreams for what may travel together.
    pub shares: bool,
    /// Whether the client hears of other addresses than those that the upstream names.
    pub retells: bool,
}

/// What becomes of a client's RESET.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reset {
    /// It takes away nothing that the client does not know of.
    Harmless,
    /// What it takes away is put back by the link's handshake.
    Renews,
    /// What it takes away is the client's matter from then on.
    Strips,
}

/// What a session needs from its owner before it goes on.
#[derive(Debug)]
pub enum Event {
    /// It is over.
    End(End),
    /// Another upstream, on which [`Session::restore`] has been done: [`Session::attach`], or where a refusal was the cause
    /// and there is none [`Session::refusal_stands`].
    Upstream(Cause),
    /// The upstream is to be authenticated with the link's other secret: [`Session::reauthenticate`].
    Reauthenticate,
    /// The upstream has done a RESET: the link's handshake on it, then [`Session::greeted`].
    Reset,
    /// A judgement of the client's own AUTH or HELLO: [`Session::judged`].
    Own(Own),
    /// The upstream has refused the client's own password. The client has read that, and the session goes on.
    AuthRefused,
    /// The upstream has sent a client to another server, for the first time on this link, and it is not known that there is
    /// one. The client has read that, and the session goes on.
    SentAway,
    /// The session needs no upstream of its own any more: a seat at a shared one, with [`Session::attach`], or none.
    Share,
    /// A WAIT for writes that the upstream knows nothing of. It can't be answered.
    Wait,
    /// What names other servers, for [`Session::retold`].
    Names(Named),
}

/// A reply that names other servers, or an error in one.
#[derive(Debug, Default)]
pub struct Named {
    pub reply: Vec<u8>,
    /// Whether it is the server's own words. Others are those of a script, or of who wrote what that has read.
    pub is_server_s_own: bool,
}

/// A client's own AUTH or HELLO. It may hold a password, so it has no `Debug` of its own.
pub struct Own(Ahead);

impl Own {
    /// The command's arguments.
    pub fn arguments(&self) -> Vec<Cow<'_, [u8]>> {
        match first(&self.0, UNLIMITED) {
            First::Command(arguments, _) => arguments,
            _ => Vec::new(),
        }
    }
}

impl std::fmt::Debug for Own {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Own(***)")
    }
}

/// What is known of where replies end, and so of what is owed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// Everything.
    Exact,
    /// Where they end, but not to what they belong.
    Uncounted,
    /// Nothing any more.
    Lost,
}

/// Why no further command goes to the upstream now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hold {
    None,
    /// The next command wants an upstream, and there is none.
    Upstream,
    /// The next command waits until nothing is owed.
    Boundary,
    /// The upstream has said something that is read first, or has ended; the runtime tells when.
    News,
    /// The reply to a RESET is to come.
    Resetting,
    /// It has come, and the owner has to do its part.
    Greeting,
    /// A refusal may lead to another upstream.
    Refused,
    /// The upstream is asked whether it is there.
    Asking,
    /// A client's own authentication is to be judged.
    Judging,
    /// A WAIT that can't be answered.
    Waiting,
}

/// How the upstream's stream ended.
#[derive(Debug)]
enum TargetEnd {
    Eof,
    Broke(io::Error),
}

/// The state of a session.
#[derive(Debug)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Session {
    pair: Pair,
    policy: Policy,
    commands: Commands,
    replies: Replies,
    owed: Owed,
    state: State,
    ahead: Ahead,
    framing: Framing,
    /// Whether the client's bytes are no commands, so that nothing can be said of them.
    are_raw: bool,
    hold: Hold,
    /// Why there is no upstream at the moment.
    gone: Option<Cause>,
    client_ended: bool,
    /// Whether what comes next may not travel among commands of other sessions. At a shared upstream: the session is there for
    /// what that bears alone.
    needs_own: bool,
    /// How much of the reply under way has come, and whether the last one was large. In bytes.
    reply_length: u32,
    is_large: bool,
    /// Whether the upstream has said what may not be what it seemed: replies were not counted, or one was an error, which
    /// with some servers can be more than one line.
    is_tainted: bool,
    target_end: Option<Box<TargetEnd>>,
    /// Whether something else has gone to the upstream instead of the command under way, of which more is to come.
    is_replaced: bool,
    /// Whether the session has asked nothing on this upstream yet.
    is_fresh: bool,
    /// When the upstream was heard last; while one command alone is under way and [timed](Self::is_timed), when that came.
    last_at: Instant,
    is_timed: bool,
    /// Commands since the last count.
    count: u32,
    rare: Option<Box<Rare>>,
}

/// What is there only now and then.
#[derive(Debug, Default)]
struct Rare {
    /// What came of a reply that may not be passed on.
    withheld: Vec<u8>,
    refusal: Option<Refusal>,
    /// What names other servers, and what the upstream has said behind it.
    names: Option<Named>,
    behind_names: Bytes,
    /// Whether the transaction has a command whose reply names servers.
    names_in_transaction: bool,
    own: Option<Own>,
    /// The upstream has refused the client's own password, and the owner is to hear of it.
    auth_refused: bool,
    /// The upstream has sent the client to another server, and the owner is to hear of it.
    sent_away: bool,
    alarm: Option<Pinned<Box<Sleep>>>,
    /// Since when commands have been sent again without any answer.
    resent_since: Option<Instant>,
    /// When that was the last time.
    resent_at: Option<Instant>,
    /// When the session has needed an upstream of its own the last time.
    needed_at: Option<Instant>,
    /// For how long the one that is lent now is kept.
    keeps: Option<Pinned<Box<Sleep>>>,
}

impl Session {
    /// `early` is what the client has said already, `leading` what the upstream has.
    pub fn new(early: Vec<u8>, leading: Vec<u8>, limits: Limits, policy: Policy) -> Self {
        let mut session = Self {
            pair: Pair::new(Vec::new(), leading, limits),
            policy,
            commands: Commands::default(),
            replies: Replies::telling_errors(policy.retells),
            owed: Owed::default(),
            state: State::default(),
            ahead: Ahead::of(early),
            framing: Framing::Exact,
            are_raw: false,
            hold: Hold::None,
            gone: None,
            client_ended: false,
            needs_own: false,
            reply_length: 0,
            is_large: false,
            is_tainted: false,
            target_end: None,
            is_replaced: false,
            is_fresh: true,
            last_at: Instant::now(),
            is_timed: false,
            count: 0,
            rare: None,
        };
        if !session.pair.to_client.holds_nothing() {
            session.lose("the target spoke first");
        }
        session
    }

    /// One that has given its upstream back before its client has said a word.
    pub fn released(limits: Limits, policy: Policy) -> Self {
        let mut session = Self::new(Vec::new(), Vec::new(), limits, policy);
        session.gone = Some(Cause::Released);
        session.pair.released();
        session
    }

    /// Bytes so far.
    pub fn moved(&self) -> Moved {
        self.pair.moved()
    }

    /// What has to be done on another upstream before it serves this session.
    pub fn restore(&self) -> Restore {
        self.state.restore()
    }

    /// What has to be done on an upstream that it shares with sessions of the same state; none where it needs one of its own.
    pub fn shared(&self) -> Option<Restore> {
        if self.policy.shares && !self.needs_own { self.state.shared() } else { None }
    }

    /// What sessions have in common behind the client's next command, where that one sets nothing else: at an upstream that
    /// these share it changes nothing, and is answered all the same.
    pub fn shared_behind(&self) -> Option<Restore> {
        let First::Command(arguments, length) = first(&self.ahead, UNLIMITED) else { return None };
        let after = self.state.shared_behind(&arguments, self.policy.database);
        after.filter(|_| self.policy.shares && self.owed.is_empty() && length <= LONGEST_TOGETHER)
    }

    /// Whether the next upstream, which is [attached](Self::attach) now, leads to the same server as the last one: another
    /// connection to it knows of the same writes.
    pub fn goes_on_at(&mut self, is_same: bool) {
        if !is_same {
            self.state.leaves_upstream();
        }
    }

    /// What there is on the session's own upstream, as far as can be told for sure.
    pub fn left_behind(&self) -> Option<Restore> {
        (!self.is_tainted).then(|| self.state.restore())
    }

    /// There are no shared upstreams any more.
    pub fn shares_nothing(&mut self) {
        self.policy.shares = false;
    }

    /// Whether the session keeps an upstream of its own for good, as far as can be told.
    pub fn keeps_its_own(&self) -> bool {
        !matches!(self.state.pin(), None | Some(Pin::Transaction | Pin::Watch | Pin::RepliesOff))
    }

    /// What the client has said and no upstream has heard, for who reads on while the session does not.
    pub fn ahead(&mut self) -> &mut Vec<u8> {
        self.ahead.buffer()
    }

    /// Whether the client has said anything that no upstream has heard.
    pub fn is_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// When commands were sent again the last time, if none has been answered since.
    pub fn resent_at(&self) -> Option<Instant> {
        self.rare.as_ref().and_then(|rare| rare.resent_at)
    }

    /// Whether the client waits for anything.
    pub fn is_waited_for(&self) -> bool {
        !self.owed.is_empty() || !self.ahead.is_empty()
    }

    /// Goes on with another upstream, which has said `leading` already. Returns how many commands are sent again.
    pub fn attach(&mut self, leading: &[u8], limits: Limits, handle: &Handle) -> u32 {
        let again = self.leave_upstream();
        self.leave_is_served(handle);
        self.pair.renew(limits);
        self.begin_with(leading);
        if let Some(rare) = self.rare.as_mut().filter(|_| self.needs_own) {
            let is_busy = rare.needed_at.is_some_and(|at| at.elapsed() < BUSY);
            rare.keeps = is_busy.then(|| Box::pin(sleep(BUSY)));
        }
        again
    }

    /// There is no upstream until the next command.
    pub fn needs_none(&mut self) {
        self.gone = Some(Cause::Lent);
        self.leave_upstream();
    }

    /// The refusal is the client's: there is no other upstream to be had.
    pub fn refusal_stands(&mut self) {
        self.release_refusal();
    }

    /// The link's handshake has been made again behind a RESET, on the same upstream.
    pub fn greeted(&mut self, leading: &[u8]) {
        self.begin_with(leading);
    }

    fn begin_with(&mut self, leading: &[u8]) {
        self.hold = Hold::None;
        self.gone = None;
        self.target_end = None;
        self.is_fresh = true;
        self.last_at = Instant::now();
        if !leading.is_empty() {
            self.pair.to_client.keep(leading);
            self.lose("the target spoke first");
        }
    }

    /// The client hears this instead of what the upstream has said.
    pub fn retold(&mut self, reply: &[u8]) {
        self.pair.to_client.keep(reply);
    }

    /// What became of the client's own authentication: it reads this, or the upstream hears that command instead.
    pub fn judged(&mut self, answer: Result<&[u8], &[u8]>) {
        self.hold = Hold::None;
        match answer {
            Ok(answer) => self.pair.to_client.keep(answer),
            Err(command) => self.ahead.prepend(command),
        }
    }

    /// Shows the upstream another secret, with this command. Its reply is nobody's.
    pub fn reauthenticate(&mut self, command: &[u8]) {
        self.owed.push(What::Reauth, 1);
        self.pair.keep_of_ours(command);
        if self.state.gets_pushes() {
            // A server that still has a push to send refuses an AUTH without a word. What is behind it tells.
            self.owed.push(What::Probe, 1);
            self.pair.keep_of_ours(PING);
        }
        // That tells as well whether the upstream is there still.
        if self.is_worth_asking(self.last_at.elapsed()) {
            self.hold = Hold::Asking;
            self.set_alarm(ANSWER);
        }
    }

    /// Whether an AUTH of ours may stand here.
    fn may_reauthenticate(&self) -> bool {
        self.is_at_boundary()
            && self.state.bears_auth()
            && self.gone.is_none()
            && self.hold == Hold::None
            && self.target_end.is_none()
            && !self.client_ended
    }

    /// A command goes out that needs the upstream of its own.
    fn is_needed(&mut self) {
        let now = Instant::now();
        let rare = self.rare();
        rare.needed_at = Some(now);
        if let Some(time) = &mut rare.keeps {
            time.as_mut().reset(now + BUSY);
        }
    }

    /// Whether the session has no use any more for an upstream of its own, which others may have.
    fn gives_back<T: Side>(&self, target: Option<&T>) -> bool {
        self.policy.shares
            && target.is_some_and(|target| !target.is_shared())
            && self.has_no_use_for_it()
            && self.state.shared().is_some()
    }

    /// Whether the upstream could as well be another one, as far as the client has said.
    fn has_no_use_for_it(&self) -> bool {
        self.is_at_boundary()
            && self.state.pin().is_none()
            && self.ahead.is_empty()
            && self.hold == Hold::None
            && self.target_end.is_none()
            // It has not heard the client's end.
            && self.pair.to_target.is_flowing()
    }

    /// Whether the upstream has been silent for so long that it is to be asked, and may be replaced.
    fn is_worth_asking(&self, silence: Duration) -> bool {
        silence >= SILENCE && self.state.pin().is_none()
    }

    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// From here on bytes pass as they come.
    fn lose(&mut self, reason: &'static str) {
        if self.framing != Framing::Lost {
            tracing::debug!(target: "client", reason, "session framing lost");
        }
        self.follow_no_more();
    }

    fn follow_no_more(&mut self) {
        self.stop_counting();
        self.framing = Framing::Lost;
        self.owed = Owed::default();
        match self.hold {
            Hold::Asking => self.hold = Hold::None,
            Hold::Resetting => self.set_alarm(ANSWER),
            _ => {}
        }
        self.release_withheld();
    }

    /// From the next command on nobody knows to which one a reply belongs.
    fn stop_counting(&mut self) {
        if self.framing == Framing::Exact {
            self.framing = Framing::Uncounted;
        }
        self.is_timed = false;
        self.is_tainted = true;
        self.state.pin_until_reset(Pin::LostFraming);
        if self.hold == Hold::Boundary {
            self.hold = Hold::None;
        }
    }

    /// Whether nothing is owed to the client and no command half sent.
    fn is_at_boundary(&self) -> bool {
        self.framing == Framing::Exact
            && self.owed.is_empty()
            && self.has_said_all()
            && self.commands.is_between()
            && self.pair.to_client.holds_nothing()
            && self.pair.to_target.holds_nothing()
    }

    /// Whether the upstream is in the midst of no reply, and all that it has said has been taken in.
    fn has_said_all(&self) -> bool {
        let waits = |rare: &Rare| rare.names.is_some() || !rare.behind_names.is_empty();
        self.replies.is_between() && !self.rare.as_deref().is_some_and(waits)
    }

    /// Goes on as far as it goes now. `target` is taken away when it is to be left.
    pub fn poll<C: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        target: &mut Option<T>,
        handle: &Handle,
        metrics: &SessionMetrics,
    ) -> Poll<Event> {
        loop {
            if let Poll::Ready(leave) = handle.poll_drain(cx) {
                self.pair.leave_by(leave);
            }
            let before = self.pair.moved();
            with_buffer(|buffer| {
                // The target first: what it says in this turn can't be the answer to what the client says in this turn.
                if let Poll::Ready(Err(failed)) = self.poll_replies(cx, client, target, buffer, metrics) {
                    self.pair.failed(failed, Party::Target, Party::Client);
                    // What is left to be passed on may have nothing else that wakes it.
                    cx.waker().wake_by_ref();
                }
                if let Poll::Ready(Err(failed)) = self.poll_commands(cx, client, target, buffer) {
                    self.command_failed(failed, target);
                    cx.waker().wake_by_ref();
                }
            });
            self.pair.count(before, std::mem::take(&mut self.count), handle);
            if self.pair.are_over() {
                return Poll::Ready(Event::End(self.pair.end(End::Closed)));
            }
            if let Some(event) = self.decide(cx, target, handle, metrics) {
                match event {
                    Decided::Event(event) => return Poll::Ready(event),
                    Decided::Again => continue,
                }
            }
            if !self.pair.is_timed() {
                return Poll::Pending;
            }
            let boundary = (self.framing == Framing::Exact)
                .then(|| self.is_at_boundary() && !self.state.is_in_transaction());
            let end = self.pair.poll_clock(cx, client, target.as_ref(), !self.ahead.is_empty(), boundary);
            let is_kept_for_nothing = !self.client_ended && self.pair.is_quiet() && self.has_no_use_for_it();
            if end.is_pending() && target.is_some() && is_kept_for_nothing {
                self.let_go(Cause::Released, target);
                self.pair.released();
                continue;
            }
            match ready!(end) {
                // The boundary has come with the time.
                End::Left(reason) if boundary == Some(true) => {
                    if let Some(end) = self.leave(reason, target, handle, metrics) {
                        return Poll::Ready(Event::End(end));
                    }
                }
                // What only reads is asked of another server.
                End::Left(reason) if self.may_be_exchanged() && reason != Reason::Drain => {
                    self.leave_is_served(handle);
                    metrics.resent(self.let_go(cause(reason), target));
                }
                end => {
                    if let (End::Left(_), Some(pin)) = (&end, self.state.pin()) {
                        metrics.pinned(pin);
                    }
                    return Poll::Ready(Event::End(end));
                }
            }
        }
    }

    /// A half of the way to the upstream failed. Where it is the upstream's, and it owes nothing that another one could not
    /// give, that is no news.
    fn command_failed<T>(&mut self, failed: Failed, target: &mut Option<T>) {
        match failed {
            Failed::Write(error) if self.may_be_exchanged() => {
                self.target_end = Some(Box::new(TargetEnd::Broke(error)));
            }
            // What it has said is heard first; what is behind that tells how it ended.
            Failed::Write(_) if self.framing == Framing::Exact => self.pair.to_target.stop(),
            Failed::Write(_) if target.is_none() => {}
            failed => self.pair.failed(failed, Party::Client, Party::Target),
        }
    }

    /// What the state of things asks for, now that nothing moves by itself.
    fn decide<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut Option<T>,
        handle: &Handle,
        metrics: &SessionMetrics,
    ) -> Option<Decided> {
        if let Some(names) = self.rare.as_mut().and_then(|rare| rare.names.take()) {
            return Some(Decided::Event(Event::Names(names)));
        }
        // What a target says at its end tells more than that it takes nothing any more.
        if self.pair.is_broken() && (self.target_end.is_none() || self.pair.to_client.is_over()) {
            return None;
        }
        if self.target_end.is_some() && self.pair.to_client.holds_nothing() {
            return self.target_ended(target, metrics);
        }
        if let Some(rare) = &mut self.rare {
            if std::mem::take(&mut rare.auth_refused) {
                return Some(Decided::Event(Event::AuthRefused));
            }
            if std::mem::take(&mut rare.sent_away) {
                return Some(Decided::Event(Event::SentAway));
            }
        }
        if let Some(decided) = self.poll_alarm(cx, target) {
            return Some(decided);
        }
        match self.hold {
            // What comes of it may be said to the client, behind all that it is still to hear.
            _ if !self.pair.to_client.holds_nothing() => {}
            Hold::Greeting => return Some(Decided::Event(Event::Reset)),
            Hold::Judging if self.framing == Framing::Lost || self.replies.is_between() => {
                if let Some(own) = self.rare().own.take() {
                    return Some(Decided::Event(Event::Own(own)));
                }
            }
            Hold::Waiting => return Some(Decided::Event(Event::Wait)),
            Hold::Refused if self.are_all_refused() => {
                return Some(Decided::Event(Event::Upstream(Cause::Refused)));
            }
            Hold::Boundary if self.is_at_boundary() => {
                self.hold = Hold::None;
                return Some(Decided::Again);
            }
            Hold::Upstream => {
                return Some(Decided::Event(Event::Upstream(self.gone.unwrap_or(Cause::Closed))));
            }
            _ => {}
        }
        if let Some(leaving) = target.as_ref().filter(|target| target.is_leaving()) {
            if self.is_at_boundary() {
                self.let_go(Cause::Lent, target);
                return Some(Decided::Again);
            }
            if !self.owed.is_empty() && leaving.is_delayed() && self.may_be_exchanged() {
                // What only reads need not be waited for.
                metrics.resent(self.let_go(Cause::Lent, target));
                return Some(Decided::Again);
            }
        }
        if (self.client_ended || !handle.wants_authentication()) && self.gives_back(target.as_ref()) {
            self.needs_own = false;
            let rare = self.rare();
            let is_kept = rare.keeps.as_mut().is_some_and(|time| time.as_mut().poll(cx).is_pending());
            if self.client_ended || !is_kept {
                self.rare().keeps = None;
                return Some(Decided::Event(Event::Share));
            }
        }
        if handle.wants_authentication()
            && target.as_ref().is_some_and(|target| !target.is_shared())
            && self.may_reauthenticate()
        {
            handle.forget_authentication();
            return Some(Decided::Event(Event::Reauthenticate));
        }
        let is_going = self.pair.to_client.is_flowing() || !self.pair.to_target.is_over();
        // A command may wait for an upstream until a slow reader has heard what came before.
        let wants_nothing = self.client_ended && self.hold == Hold::None;
        if target.is_none() && wants_nothing && is_going {
            // Nobody wants anything any more.
            self.pair.to_target.stop();
            self.pair.to_client.end();
            return Some(Decided::Again);
        }
        let leave = self.pair.leave()?;
        let may_leave = self.is_at_boundary() && !self.state.is_in_transaction();
        if !may_leave || leave.from > Instant::now() {
            return None;
        }
        let end = self.leave(leave.reason, target, handle, metrics);
        Some(end.map_or(Decided::Again, |end| Decided::Event(Event::End(end))))
    }

    /// At a boundary, somebody wants the connection to end: it does, or only its upstream is left.
    fn leave<T>(
        &mut self,
        reason: Reason,
        target: &mut Option<T>,
        handle: &Handle,
        metrics: &SessionMetrics,
    ) -> Option<End> {
        if reason == Reason::Drain {
            return Some(self.pair.end(End::Left(reason)));
        }
        if let Some(pin) = self.state.pin() {
            metrics.pinned(pin);
            return Some(self.pair.end(End::Left(reason)));
        }
        self.leave_is_served(handle);
        metrics.resent(self.let_go(cause(reason), target));
        None
    }

    /// Who wanted the upstream to be left has nothing more to ask for.
    fn leave_is_served(&mut self, handle: &Handle) {
        if let Some(leave) = self.pair.leave().filter(|leave| leave.reason != Reason::Drain) {
            handle.done(leave);
            self.pair.served();
        }
    }

    /// The upstream is none any more. Returns how many commands are to be sent again.
    fn let_go<T>(&mut self, cause: Cause, target: &mut Option<T>) -> u32 {
        *target = None;
        // Where there is none already, nothing else takes it away.
        self.gone.get_or_insert(cause);
        self.leave_upstream()
    }

    /// Forgets all that belongs to the upstream. What it has not answered goes before what has not been sent.
    fn leave_upstream(&mut self) -> u32 {
        let again = self.owed.unanswered();
        let unanswered = self.owed.take();
        self.ahead.prepend(&unanswered);
        self.commands = Commands::default();
        self.is_replaced = false;
        self.replies = Replies::telling_errors(self.policy.retells);
        self.target_end = None;
        self.is_timed = false;
        self.is_tainted = false;
        // Whether that is another server is told when there is one.
        if self.gone != Some(Cause::Lent) {
            self.state.leaves_upstream();
        }
        self.pair.to_target.begin_again();
        // What the client has said itself is judged whatever the upstream.
        if self.hold != Hold::Judging {
            self.hold = Hold::None;
        }
        if let Some(rare) = &mut self.rare {
            rare.refusal = None;
            rare.withheld = Vec::new();
            rare.behind_names = Bytes::new();
            rare.names_in_transaction = false;
            rare.alarm = None;
        }
        // Where it was left of our own will nobody has to be patient.
        if again > 0 && self.gone != Some(Cause::Lent) {
            let now = Instant::now();
            self.rare().resent_at = Some(now);
            self.rare().resent_since.get_or_insert(now);
        }
        again
    }

    /// Whether another upstream can take the place of this one, with all that is owed.
    fn may_be_exchanged(&self) -> bool {
        let rare = self.rare.as_ref();
        let seen = rare.and_then(|rare| rare.refusal.as_ref()).map_or(0, Refusal::seen);
        let is_patient = rare
            .and_then(|rare| rare.resent_since)
            .is_none_or(|since| since.elapsed() < self.policy.patience);
        // A reply of which the client has a part can't come from another one.
        let is_all_withheld =
            |rare: &Rare| u32::try_from(rare.withheld.len()).is_ok_and(|length| length == self.reply_length);
        let rare = rare.map(|rare| &**rare);
        let is_whole = self.replies.is_between() || rare.is_some_and(is_all_withheld);
        let may_be_repeated = match self.commands.is_between() {
            is_between if self.owed.is_empty() => is_between,
            is_between => is_patient && self.owed.may_be_repeated(seen, is_between),
        };
        self.framing == Framing::Exact && self.state.pin().is_none() && is_whole && may_be_repeated
    }

    /// The upstream has ended its stream, or broke.
    fn target_ended<T: Side>(&mut self, target: &mut Option<T>, metrics: &SessionMetrics) -> Option<Decided> {
        // Half a command is as good as none where nothing more of it comes.
        let is_half = !self.commands.is_between() && self.owed.is_one();
        let needs_none = self.client_ended && self.ahead.is_empty() && (self.owed.is_empty() || is_half);
        if !self.pair.is_broken() && self.may_be_exchanged() && !needs_none {
            match self.hold {
                // The handshake finds out.
                Hold::Greeting => return Some(Decided::Event(Event::Reset)),
                // Of the one that has refused nothing more is wanted, whether others share it or not.
                Hold::Refused if self.are_all_refused() => {
                    return Some(Decided::Event(Event::Upstream(Cause::Refused)));
                }
                _ => {}
            }
            metrics.resent(self.let_go(Cause::Closed, target));
            return Some(Decided::Again);
        }
        if self.release_withheld() {
            return Some(Decided::Again);
        }
        let end = self.target_end.take()?;
        // A client that has gone has lost nothing.
        if let Some(pin) = self.state.pin().filter(|_| !self.client_ended && !self.state.is_quitting) {
            metrics.pinned(pin);
        }
        self.follow_no_more();
        // Whoever waits for it waits in vain.
        self.hold = Hold::None;
        match *end {
            TargetEnd::Eof => {
                self.pair.to_client.end();
                // One that is shared hears nothing more, and what would be said on another one comes behind what is lost.
                if target.as_ref().is_some_and(Side::is_shared) {
                    self.pair.to_target.stop();
                }
            }
            TargetEnd::Broke(error) => {
                self.pair.failed(Failed::Read(error), Party::Target, Party::Client);
            }
        }
        Some(Decided::Again)
    }

    /// An upstream that does not answer in time.
    fn poll_alarm<T: Side>(&mut self, cx: &mut Context<'_>, target: &mut Option<T>) -> Option<Decided> {
        let alarm = self.rare.as_mut()?.alarm.as_mut()?;
        if alarm.as_mut().poll(cx).is_pending() {
            return None;
        }
        self.rare().alarm = None;
        match self.hold {
            Hold::Asking => {
                if let Some(target) = target {
                    target.does_not_answer();
                }
                self.let_go(Cause::Silent, target);
            }
            // It can't be known whether the RESET has been refused.
            Hold::Resetting if self.framing != Framing::Exact || self.state.answering == Answering::Off => {
                self.hold = Hold::None;
            }
            // What was refused is not held back any longer for what is still to come.
            Hold::Refused => {
                self.release_withheld();
            }
            _ if self.client_ended && self.is_blocked(target.is_some()) => {
                self.ahead = Ahead::default();
                self.pair.to_target.end();
            }
            _ => return None,
        }
        Some(Decided::Again)
    }

    /// Sets the alarm for whatever is waited for.
    fn set_alarm(&mut self, after: Duration) {
        self.rare().alarm = Some(Box::pin(sleep(after)));
    }
}

/// What an upstream is left for.
fn cause(reason: Reason) -> Cause {
    match reason {
        Reason::Demoted => Cause::Demoted,
        Reason::Lifetime => Cause::Lifetime,
        Reason::Moved | Reason::Drain => Cause::Moved,
    }
}

/// What came of a look at the state of things.
enum Decided {
    Event(Event),
    /// Something has changed, so that more may move.
    Again,
}

#[cfg(test)]
mod tests;
