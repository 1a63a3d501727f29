//! The way of commands: what may go to the upstream and when, and what is not for it.

use std::borrow::Cow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::ahead::{Ahead, MOST};
use super::owed::What;
use super::state::{Answering, Channels, Effect, Pin, encoded, number};
use super::{ANSWER, Cause, Framing, Hold, Own, PING, Reset, Session};
use crate::net::Side;
use crate::relay::copy::{Failed, end_turn};
use crate::resp::auth::{Command, command};
use crate::resp::commands::{
    Class, Commands, First, Found, LONGEST_TOGETHER, NoCommand, Special, UNLIMITED, first,
};

/// After so long a look at the socket costs nobody anything, and tells of an end that the runtime has not heard of yet.
const PAUSE: Duration = Duration::from_millis(10);

/// What a server that expects a command in a place where it may not be left out is given instead of a client's AUTH; its
/// reply is the same but for its kind.
const INSTEAD: &[u8] = b"*2\r\n$4\r\nPING\r\n$2\r\nOK\r\n";

/// A command that every server refuses.
const INCOMPLETE: &[u8] = b"*1\r\n$7\r\nCLUSTER\r\n";

/// What is to be done with a command.
enum Admit {
    /// It goes to the upstream.
    Pass,
    /// Not now.
    Stop,
    /// Not on an upstream that others share.
    Own,
    /// It is answered, and nothing behind it is heard.
    Last,
    /// Something else goes to the upstream in its place; nothing, maybe.
    Instead(Cow<'static, [u8]>),
}

impl Session {
    /// Passes on what the client says.
    pub(super) fn poll_commands<C: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        target: &mut Option<T>,
        buffer: &mut [u8],
    ) -> Poll<Result<(), Failed>> {
        let turn = self.pair.to_target.turn();
        loop {
            if self.target_end.is_some() && self.framing == Framing::Exact {
                // What becomes of the session is decided before it gets any more.
                return Poll::Pending;
            }
            if let Some(target) = target {
                ready!(self.pair.to_target.poll_out(cx, target))?;
            }
            if !self.pair.to_target.is_flowing() {
                return Poll::Ready(Ok(()));
            }
            if self.hold == Hold::News {
                self.hold = Hold::None;
            }
            let before = self.ahead.len();
            if before > 0 {
                let mut ahead = std::mem::take(&mut self.ahead);
                let (taken, passed) = self.pass(cx, target, &ahead);
                ahead.took(taken);
                self.ahead = ahead;
                passed?;
                if taken > 0 {
                    continue;
                }
            }
            if self.client_ended {
                // Of a command that is not whole the target would hear in vain.
                let waits =
                    self.hold != Hold::None || self.is_leaving(target.as_ref()) && !self.ahead.is_empty();
                if waits && self.is_blocked(target.is_some()) && self.rare().alarm.is_none() {
                    self.set_alarm(ANSWER);
                    cx.waker().wake_by_ref();
                }
                // Of the end an upstream hears nothing that is given back.
                if !waits && !self.gives_back(target.as_ref()) {
                    self.pair.to_target.end();
                    if target.is_some() {
                        continue;
                    }
                }
                return self.poll_flush(cx, target);
            }
            if self.pair.to_target.moved() >= turn {
                end_turn(cx);
                return Poll::Pending;
            }
            let is_held = self.hold != Hold::None || self.is_leaving(target.as_ref());
            let room = (if is_held { MOST } else { buffer.len() }).saturating_sub(before);
            if room == 0 {
                return self.poll_flush(cx, target);
            }
            // Behind what is there already, so that little is copied.
            let (front, rest) = buffer.split_at_mut(before);
            let length = match self.pair.to_target.poll_read(cx, client, &mut rest[..room]) {
                Poll::Ready(Ok(0)) => {
                    self.client_ended = true;
                    continue;
                }
                Poll::Ready(Ok(length)) => before + length,
                Poll::Ready(Err(error)) => return Poll::Ready(Err(Failed::Read(error))),
                Poll::Pending => return self.poll_flush(cx, target),
            };
            if is_held {
                self.ahead.extend(&rest[..length - before]);
                continue;
            }
            front.copy_from_slice(&self.ahead);
            self.ahead = Ahead::default();
            let (taken, passed) = self.pass(cx, target, &buffer[..length]);
            self.ahead.extend(&buffer[taken..length]);
            passed?;
        }
    }

    /// Nothing more comes from the client for now.
    fn poll_flush<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut Option<T>,
    ) -> Poll<Result<(), Failed>> {
        if let Some(target) = target {
            ready!(self.pair.to_target.poll_flush(cx, target))?;
        }
        Poll::Pending
    }

    /// Whether no further command goes to this upstream, because it is to be left.
    fn is_leaving<T: Side>(&self, target: Option<&T>) -> bool {
        let is_asked = self.pair.leave().is_some_and(|leave| leave.from <= Instant::now())
            || target.is_some_and(Side::is_leaving);
        is_asked
            && self.framing == Framing::Exact
            && !self.owed.transaction().unwrap_or(self.state.is_in_transaction())
    }

    /// Whether the upstream answers a command when it pleases. It would end such a command when its client ends its stream, and
    /// has no ear for what follows it.
    pub(super) fn is_blocked(&self, has_target: bool) -> bool {
        has_target && self.owed.front() == Some(What::Blocks)
    }

    /// Passes commands on, as far as they may go now. Returns how many bytes were taken, and what came of it.
    fn pass<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut Option<T>,
        bytes: &[u8],
    ) -> (usize, Result<(), Failed>) {
        // Half a command that has gone before is as good as none.
        let is_half = !self.commands.is_between() && self.owed.is_one();
        let (was_empty, moved) = (self.owed.is_empty() || is_half, self.pair.to_target.moved());
        let (mut at, mut from) = (0, 0);
        while at < bytes.len() && self.hold == Hold::None {
            if self.are_raw {
                at = bytes.len();
                break;
            }
            let (class, length, is_whole) = match self.commands.find(&bytes[at..]) {
                Ok(Found::Whole(class, length)) => (class, length, true),
                Ok(Found::Begun(class)) => (class, bytes.len() - at, false),
                Ok(Found::More(length)) => {
                    at += length;
                    if self.is_replaced {
                        from = at;
                        self.is_replaced = !self.commands.is_between();
                    }
                    continue;
                }
                Ok(Found::Nothing(length)) => {
                    // Nobody answers it; but to some versions of Redis it was the command whose reply is skipped.
                    if self.state.answering == Answering::Skip {
                        self.state.answering = Answering::On;
                        self.stop_counting();
                    }
                    from = if target.is_none() { at + length } else { from };
                    at += length;
                    continue;
                }
                Ok(Found::Partial) => break,
                Err(NoCommand) if target.as_ref().is_none_or(Side::is_shared) => {
                    self.asks_for_its_own(target);
                    break;
                }
                Err(NoCommand) => {
                    self.are_raw = true;
                    self.lose("the client speaks no RESP");
                    continue;
                }
            };
            let instead = match self.admit(class, &bytes[at..at + length], is_whole, target) {
                Admit::Pass => None,
                Admit::Instead(other) => Some(other),
                Admit::Last => return (bytes.len(), Ok(())),
                admit => {
                    if !is_whole {
                        self.commands = Commands::default();
                    }
                    if matches!(admit, Admit::Own) {
                        self.asks_for_its_own(target);
                    }
                    break;
                }
            };
            self.count += 1;
            if self.owed.is_too_much() {
                if target.as_ref().is_some_and(Side::is_shared) {
                    self.hold = Hold::Boundary;
                } else {
                    self.stop_counting();
                }
            }
            if let Some(other) = instead {
                for bytes in [&bytes[from..at], &other] {
                    if let Err(failed) = self.write(cx, target, bytes) {
                        return (at + length, Err(failed));
                    }
                }
                from = at + length;
                self.is_replaced = !is_whole;
            }
            at += length;
        }
        let written = self.write(cx, target, &bytes[from..at]);
        if written.is_err() && was_empty && self.pair.to_target.moved() == moved {
            self.owed.was_not_sent();
        }
        (at, written)
    }

    fn write<T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        target: &mut Option<T>,
        bytes: &[u8],
    ) -> Result<(), Failed> {
        let Some(target) = target.as_mut().filter(|_| !bytes.is_empty()) else { return Ok(()) };
        if self.framing == Framing::Exact {
            self.owed.keep(bytes, self.commands.rest());
        }
        self.pair.to_target.write(cx, target, bytes)
    }

    /// What is to be done with a command.
    // Inlined, since most are of the first kinds and go through.
    #[inline]
    fn admit<T: Side>(
        &mut self,
        class: Class,
        bytes: &[u8],
        is_whole: bool,
        target: &mut Option<T>,
    ) -> Admit {
        let is_shared = target.as_ref().is_some_and(Side::is_shared);
        // A small one is waited for.
        let is_to_share = is_shared || target.is_none() && self.policy.shares;
        let least = bytes.len().saturating_add(self.commands.rest());
        if is_to_share && !is_whole && class.travels() && least <= LONGEST_TOGETHER {
            return Admit::Stop;
        }
        let may_share = class.travels() && is_whole && bytes.len() <= LONGEST_TOGETHER && !self.is_large;
        if target.is_none() {
            self.needs_own = !may_share;
        }
        if is_shared && self.needs_own {
            // It is there for what it bears alone, and may be of another state than the session.
            if !self.owed.is_empty() {
                return self.waits_for_boundary();
            }
            if may_share {
                self.let_go(Cause::Lent, target);
                self.needs_own = false;
                self.hold = Hold::Upstream;
                return Admit::Stop;
            }
        }
        if self.target_end.is_some() || self.owed.is_empty() && !self.may_begin(class, bytes, target) {
            return Admit::Stop;
        }
        if self.is_leaving(target.as_ref()) {
            return Admit::Stop;
        }
        if is_shared && !may_share && !self.is_own(class, bytes) {
            let is_borne = is_whole && target.as_ref().is_some_and(|target| target.bears(bytes));
            if !is_borne {
                return Admit::Own;
            }
        }
        let sets = matches!(class, Class::Special(Special::Select | Special::Hello | Special::Client));
        if self.policy.shares && !is_shared && !may_share && !sets {
            self.is_needed();
        }
        let what = match class {
            Class::Names if self.policy.retells && self.framing != Framing::Exact => {
                // Nobody would know which reply names servers: it is left incomplete, and refused by the server itself.
                self.owe(What::Leaves);
                return Admit::Instead(INCOMPLETE.into());
            }
            Class::Names if self.policy.retells => What::Names,
            // Its error is not the server's own.
            Class::ReadsByScript if self.policy.retells => What::Runs,
            Class::Reads | Class::Names | Class::ReadsByScript => What::Reads,
            Class::Writes => What::Writes,
            Class::Blocks => What::Blocks,
            Class::Runs => What::Runs,
            Class::Other => What::Other,
            Class::Unknown => return self.leaves(What::Leaves, Effect::Unknown),
            Class::Special(special) => return self.special(special, bytes, is_whole, is_shared),
        };
        self.owe(what);
        Admit::Pass
    }

    /// Whether a command is for us, and not for the upstream.
    fn is_own(&self, class: Class, bytes: &[u8]) -> bool {
        match class {
            Class::Special(Special::Auth | Special::Hello) => {
                self.policy.absorbs
                    && match first(bytes, UNLIMITED) {
                        First::Command(arguments, _) => shows(&arguments),
                        // So long that it was not waited for.
                        _ => true,
                    }
            }
            Class::Special(Special::Quit) => self.policy.shares,
            _ => false,
        }
    }

    /// What may not go out among others waits until nothing is owed, and then for an upstream of the session's own.
    fn asks_for_its_own<T>(&mut self, target: &mut Option<T>) {
        if target.is_some() && !self.owed.is_empty() {
            self.hold = Hold::Boundary;
            return;
        }
        if target.is_some() {
            self.let_go(Cause::Lent, target);
        }
        self.needs_own = true;
        self.hold = Hold::Upstream;
    }

    /// Before a command goes out though nothing is owed: whether the upstream is there.
    fn may_begin<T: Side>(&mut self, class: Class, bytes: &[u8], target: &mut Option<T>) -> bool {
        if self.framing != Framing::Exact {
            return true;
        }
        let Some(stream) = target else {
            // Those that are not for the upstream are seen to first.
            let is_own = self.is_own(class, bytes);
            if !is_own {
                self.hold = Hold::Upstream;
            }
            return is_own;
        };
        let now = Instant::now();
        let mut silence = now.saturating_duration_since(self.last_at);
        if std::mem::take(&mut self.is_fresh) {
            silence = silence.max(stream.silence());
        }
        if self.is_worth_asking(silence) {
            self.hold = Hold::Asking;
            self.owed.push(What::Probe, 1);
            self.pair.to_target.keep(PING);
            self.set_alarm(ANSWER);
            return false;
        }
        // What it says, or that it has ended, is read first; the runtime tells when.
        if silence >= PAUSE && !stream.is_quiet() {
            self.hold = Hold::News;
            return false;
        }
        self.last_at = now;
        self.is_timed = true;
        true
    }

    /// A command goes to the upstream.
    #[inline]
    fn owe(&mut self, what: What) {
        self.state.sends(false);
        if self.state.answering != Answering::On {
            self.is_not_answered(!matches!(what, What::Reads | What::Names));
        } else if self.framing == Framing::Exact {
            self.owed.push(what, 1);
        }
    }

    /// A command goes out that is never answered.
    fn is_not_answered(&mut self, writes: bool) {
        self.owed.keeps_nothing();
        if writes {
            self.state.wrote();
        }
        if self.state.answering == Answering::Skip {
            self.state.answering = Answering::On;
            // When it has been executed the next reply tells.
            self.state.sends(self.policy.shares);
        }
    }

    /// A command goes to the upstream that leaves something behind, unless it is refused.
    fn leaves(&mut self, what: What, effect: Effect) -> Admit {
        if self.framing == Framing::Exact && self.state.answering == Answering::On {
            self.state.sends(false);
            self.owed.push_effect(what, effect);
        } else {
            // Whether it is refused nobody knows.
            self.state.replied(effect, true);
            if self.state.answering != Answering::On {
                self.state.pin_until_reset(Pin::RepliesOff);
            }
            self.owe(what);
        }
        Admit::Pass
    }

    /// Whether what is to be known of the connection, or said to the client, is told by replies that are still to come.
    fn is_early(&self) -> bool {
        self.framing == Framing::Exact && !(self.owed.is_empty() && self.has_said_all())
    }

    /// A command that goes out when all before it are answered.
    fn waits_for_boundary(&mut self) -> Admit {
        self.hold = Hold::Boundary;
        Admit::Stop
    }

    /// A command that leaves something behind, or is answered in a way of its own.
    fn special(&mut self, special: Special, bytes: &[u8], is_whole: bool, is_shared: bool) -> Admit {
        let First::Command(arguments, _) = first(bytes, UNLIMITED) else {
            // So long that it was not waited for.
            debug_assert!(!is_whole);
            if matches!(special, Special::Auth | Special::Hello) && self.policy.absorbs {
                return self.awaits_judgement(&[]);
            }
            return self.leaves(What::Leaves, Effect::Unknown);
        };
        match special {
            Special::Auth | Special::Hello => return self.own(&arguments, bytes),
            Special::Reset if arguments.len() == 1 => return self.resets(),
            Special::Client => return self.client(&arguments),
            Special::Subscribe | Special::Unsubscribe => {
                let of = Channels::of(&arguments[0].to_ascii_lowercase());
                return self.subscribes(special == Special::Subscribe, of, arguments.len() - 1);
            }
            Special::Select | Special::Readonly | Special::Readwrite => return self.sets(&arguments),
            Special::Multi => return self.leaves(What::Leaves, Effect::Multi),
            Special::Exec => return self.leaves(What::Leaves, Effect::Exec),
            Special::Discard => return self.leaves(What::Leaves, Effect::Discard),
            Special::Watch => return self.leaves(What::Sets, Effect::Watch),
            Special::Unwatch => return self.leaves(What::Sets, Effect::Unwatch),
            Special::Wait if !self.state.wrote_elsewhere() => {
                let wanted = arguments[1..].split_last().map_or(&[][..], |(_, servers)| servers);
                let wanted = wanted.iter().map(|word| number(word).unwrap_or(u64::MAX)).collect();
                let is_in_multi = self.owed.transaction().unwrap_or(self.state.is_in_transaction());
                let is_exact = self.framing == Framing::Exact && self.state.answering == Answering::On;
                if self.policy.shares && is_exact && !is_in_multi {
                    if self.is_early() {
                        return self.waits_for_boundary();
                    }
                    // A server waits for what it had written at the connection's last command: this one may have had none.
                    self.owed.push(What::Probe, 1);
                    self.pair.to_target.keep(PING);
                }
                return self.leaves(What::Blocks, Effect::Wait(wanted));
            }
            // The client is told behind all replies to what it has said.
            Special::Wait if self.is_early() => return self.waits_for_boundary(),
            Special::Wait => {
                self.hold = Hold::Waiting;
                return Admit::Stop;
            }
            Special::Xread => {
                // One that waits has to be answered in its time: what is new to another server is not what was new to this one.
                let waits = arguments.iter().any(|word| word.eq_ignore_ascii_case(b"BLOCK"));
                self.owe(if waits { What::Blocks } else { What::Reads });
                return Admit::Pass;
            }
            Special::Quit if is_shared || self.policy.shares && self.gone.is_some() => {
                if self.is_early() {
                    return self.waits_for_boundary();
                }
                // The others stay.
                self.pair.to_client.keep(b"+OK\r\n");
                self.client_ended = true;
                return Admit::Last;
            }
            Special::Quit => self.state.is_quitting = true,
            Special::Lasting => self.stop_counting(),
            Special::Asking | Special::Reset => {}
        }
        self.owe(What::Leaves);
        self.state.sends(special == Special::Asking);
        Admit::Pass
    }

    /// AUTH or HELLO.
    fn own(&mut self, arguments: &[Cow<'_, [u8]>], bytes: &[u8]) -> Admit {
        if !(self.policy.absorbs && shows(arguments)) {
            return match command(arguments) {
                Command::Auth(_) => self.leaves(What::Sets, Effect::Auth),
                Command::Hello(..) => self.sets(arguments),
                _ => {
                    self.owe(What::Leaves);
                    Admit::Pass
                }
            };
        }
        match self.state.answering {
            Answering::Off => return Admit::Instead(Cow::default()),
            Answering::Skip => {
                self.owe(What::Reads);
                return Admit::Instead(PING.into());
            }
            Answering::On => {}
        }
        self.awaits_judgement(bytes)
    }

    /// The client's own authentication is judged in its place among the replies, as far as that is known. What is too long
    /// to be looked at is shown as nothing.
    fn awaits_judgement(&mut self, bytes: &[u8]) -> Admit {
        if self.is_early() {
            return self.waits_for_boundary();
        }
        if self.state.is_in_multi() {
            self.owe(What::Leaves);
            return Admit::Instead(INSTEAD.into());
        }
        self.hold = Hold::Judging;
        let mut own = Ahead::default();
        own.extend(bytes);
        self.rare().own = Some(Own(own));
        Admit::Instead(Cow::default())
    }

    fn resets(&mut self) -> Admit {
        if self.policy.reset != Reset::Renews
            && self.framing == Framing::Exact
            && self.state.answering == Answering::On
        {
            return self.leaves(What::Sets, Effect::Reset { strips: self.policy.reset == Reset::Strips });
        }
        self.hold = Hold::Resetting;
        match (self.framing, self.state.answering) {
            (Framing::Exact, Answering::Skip) => {
                // No version of Redis answers it then; the command behind it tells that it has been executed.
                self.state.answering = Answering::On;
                self.owed.push(What::Mark, 1);
                return Admit::Instead(RESET_AND_PING.into());
            }
            (Framing::Exact, Answering::On) => self.owed.push(What::Reset, 1),
            _ => self.set_alarm(ANSWER),
        }
        Admit::Pass
    }

    fn client(&mut self, arguments: &[Cow<'_, [u8]>]) -> Admit {
        let word = |number: usize| arguments.get(number).map_or(Vec::new(), |word| word.to_ascii_lowercase());
        match &word(1)[..] {
            b"tracking" => return self.leaves(What::Sets, Effect::Tracking(word(2) != b"off")),
            b"reply" => return self.reply_mode(&word(2), arguments.len() == 3),
            b"maint_notifications" => {
                // What only a client that dials the target itself has any use for. Without what it asks for every server refuses it,
                // in its own words.
                self.owe(What::Leaves);
                return Admit::Instead(encoded(&[&arguments[0], &arguments[1]]).into());
            }
            // Who knows it may do something to the connection from elsewhere.
            b"id" if self.policy.shares => return self.leaves(What::Sets, Effect::Unknown),
            b"id" | b"info" | b"list" | b"getname" | b"getredir" | b"trackinginfo" | b"help" => {
                self.owe(What::Reads);
            }
            b"kill" | b"pause" | b"unpause" | b"unblock" | b"caching" => {
                self.owe(What::Leaves);
                self.state.sends(word(1) == b"caching");
            }
            _ => return self.sets(arguments),
        }
        Admit::Pass
    }

    /// A command that sets something that another upstream is given too.
    fn sets(&mut self, arguments: &[Cow<'_, [u8]>]) -> Admit {
        match Effect::setting(arguments, self.policy.database) {
            None | Some(Effect::Unknown) => self.leaves(What::Leaves, Effect::Unknown),
            Some(effect) => self.leaves(What::Sets, effect),
        }
    }

    /// CLIENT REPLY.
    fn reply_mode(&mut self, mode: &[u8], is_complete: bool) -> Admit {
        if !is_complete {
            // Refused, with an error.
            self.owe(What::Leaves);
            return Admit::Pass;
        }
        // Among subscriptions it is refused, and behind DISCARD it is in no transaction: that is known once nothing is owed.
        if self.state.answering == Answering::On && self.is_early() {
            return self.waits_for_boundary();
        }
        if self.state.is_in_multi() {
            // EXEC's reply does not add up any more.
            self.stop_counting();
            return Admit::Pass;
        }
        let is_refused = self.state.is_subscribed() && !self.state.is_resp3;
        if self.framing == Framing::Exact && self.state.answering == Answering::On && is_refused {
            self.owe(What::Leaves);
            return Admit::Pass;
        }
        self.state.sends(false);
        let answering = match mode {
            b"on" => Answering::On,
            // The one behind it is skipped too.
            b"skip" if self.state.answering != Answering::Off => Answering::Skip,
            b"off" | b"skip" => Answering::Off,
            _ => {
                self.owe(What::Leaves);
                return Admit::Pass;
            }
        };
        self.state.answering = answering;
        if answering == Answering::On {
            self.owe(What::Leaves);
        } else {
            self.owed.keeps_nothing();
        }
        Admit::Pass
    }

    fn subscribes(&mut self, begins: bool, of: Channels, channels: usize) -> Admit {
        if channels == 0 && begins {
            self.owe(What::Leaves);
            return Admit::Pass;
        }
        // How many there are, and whether it is in a transaction, is known once nothing is owed.
        let may_be_queued = self.state.is_in_multi() || self.owed.transaction() == Some(true);
        if (channels == 0 || may_be_queued) && self.is_early() {
            return self.waits_for_boundary();
        }
        let channels = match channels {
            0 => self.state.subscriptions(of).max(1),
            channels => u32::try_from(channels).unwrap_or(u32::MAX),
        };
        // What comes of it in a transaction, or instead of replies, is not known.
        if self.state.is_in_multi() || self.state.answering != Answering::On {
            self.stop_counting();
            return Admit::Pass;
        }
        self.state.sends(false);
        if self.framing == Framing::Exact {
            let what = if begins { What::Subscribe } else { What::Unsubscribe };
            self.owed.push(what, channels);
        }
        Admit::Pass
    }
}

/// Whether an AUTH or HELLO says who the client is.
fn shows(arguments: &[Cow<'_, [u8]>]) -> bool {
    match command(arguments) {
        Command::Auth(_) => true,
        // Its answer is the same whoever gives it.
        Command::Wrong(_) => arguments.first().is_some_and(|name| name.eq_ignore_ascii_case(b"AUTH")),
        Command::Hello(shown, _) => shown.is_some(),
        _ => false,
    }
}

/// What goes out where RESET itself has no reply.
const RESET_AND_PING: &[u8] = b"*1\r\n$5\r\nRESET\r\n*1\r\n$4\r\nPING\r\n";
