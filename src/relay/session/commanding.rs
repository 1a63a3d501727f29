//! The way of commands: what may go to the upstream and when, and what is not for it.

use std::borrow::Cow;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::ahead::{Ahead, MOST};
use super::owed::What;
use super::state::{Answering, Channels, Effect, Pin, Slot};
use super::{Framing, Hold, Own, Reset, Session};
use crate::net::Side;
use crate::relay::copy::Failed;
use crate::resp;
use crate::resp::auth::{Command, command};
use crate::resp::commands::{Class, Commands, First, Found, NoCommand, Special, UNLIMITED, first};

/// An upstream that has been silent for so long is asked whether it is there before a command is entrusted to it: the
/// strictest firewalls and balancers forget connections after a minute.
pub(super) const SILENCE: Duration = Duration::from_secs(30);

/// After so long a look at the socket costs nobody anything, and tells of an end that the runtime has not heard of yet.
const PAUSE: Duration = Duration::from_millis(10);

const PING: &[u8] = b"*1\r\n$4\r\nPING\r\n";
/// What a server that expects a command in a place where it may not be left out is given instead of a client's AUTH; its
/// reply is the same but for its kind.
const INSTEAD: &[u8] = b"*2\r\n$4\r\nPING\r\n$2\r\nOK\r\n";

/// What is to be done with a command.
enum Admit {
    /// It goes to the upstream.
    Pass,
    /// Not now.
    Stop,
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
                let waits = self.wants_upstream || self.wants_boundary || self.hold != Hold::None;
                let is_blocked = waits && target.is_some() && self.owed.front() == Some(What::Blocks);
                if is_blocked && self.rare().alarm.is_none() {
                    self.set_alarm();
                    cx.waker().wake_by_ref();
                }
                if !waits && !self.is_leaving() {
                    self.pair.to_target.end();
                    if target.is_some() {
                        continue;
                    }
                }
                return self.poll_flush(cx, target);
            }
            if self.pair.to_target.moved() >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let is_held =
                self.hold != Hold::None || self.wants_boundary || self.wants_upstream || self.is_leaving();
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
    fn is_leaving(&self) -> bool {
        self.framing == Framing::Exact
            && !self.state.is_in_transaction()
            && self.pair.leave().is_some_and(|leave| leave.from <= Instant::now())
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
                Ok(Found::More(length, _)) => {
                    at += length;
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
                Err(NoCommand) if target.is_none() => {
                    self.wants_upstream = true;
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
                Admit::Stop => {
                    if !is_whole {
                        self.commands = Commands::default();
                    }
                    break;
                }
            };
            self.count += 1;
            if let Some(other) = instead {
                for bytes in [&bytes[from..at], &other] {
                    if let Err(failed) = self.write(cx, target, bytes) {
                        return (at + length, Err(failed));
                    }
                }
                from = at + length;
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
        if self.target_end.is_some() || self.owed.is_empty() && !self.may_begin(class, target) {
            return Admit::Stop;
        }
        if self.pair.leave().is_some() && self.is_leaving() {
            return Admit::Stop;
        }
        let (what, writes) = match class {
            Class::Reads => (What::Reads, false),
            Class::Writes => (What::Writes, true),
            Class::Blocks => (What::Blocks, true),
            Class::Runs => (What::Runs, true),
            Class::Other => (What::Other, true),
            Class::Unknown => return self.leaves_unknown(),
            Class::Special(special) => return self.special(special, bytes, is_whole),
        };
        self.owe(what, writes);
        Admit::Pass
    }

    /// Before a command goes out though nothing is owed: whether the upstream is there.
    fn may_begin<T: Side>(&mut self, class: Class, target: &mut Option<T>) -> bool {
        if self.framing != Framing::Exact {
            return true;
        }
        let Some(stream) = target else {
            // Those that are not for the upstream are seen to first.
            let is_own =
                matches!(class, Class::Special(Special::Auth | Special::Hello)) && self.policy.absorbs;
            self.wants_upstream = !is_own;
            return is_own;
        };
        let now = Instant::now();
        let silence = now.saturating_duration_since(self.last_at);
        if silence >= SILENCE && self.state.pin().is_none() {
            self.hold = Hold::Asking;
            self.owed.push(What::Probe, 1);
            self.pair.to_target.keep(PING);
            self.set_alarm();
            return false;
        }
        // What it says, or that it has ended, is read first; the runtime tells when.
        if silence >= PAUSE && !stream.is_quiet() {
            return false;
        }
        self.last_at = now;
        self.is_timed = true;
        true
    }

    /// A command goes to the upstream.
    #[inline]
    fn owe(&mut self, what: What, writes: bool) {
        self.state.passes(writes, false);
        if self.state.answering != Answering::On {
            self.owed.keeps_nothing();
            if self.state.answering == Answering::Skip {
                self.state.answering = Answering::On;
            }
        } else if self.framing == Framing::Exact {
            self.owed.push(what, 1);
        }
    }

    /// A command that may leave anything behind, unless it is refused.
    fn leaves_unknown(&mut self) -> Admit {
        if self.framing == Framing::Exact && self.state.answering == Answering::On && !self.state.is_in_multi
        {
            self.state.expect(Some(Effect::Unknown));
            self.owe(What::Leaves, true);
        } else {
            self.state.pin_for_good(Pin::UnknownCommand);
            self.owe(What::Other, true);
        }
        Admit::Pass
    }

    /// A command of which something is to be noted once its reply is there.
    fn sets(&mut self, effect: Option<Effect>) -> Admit {
        if self.state.is_in_multi {
            self.state.queues();
            self.owe(What::Other, false);
        } else if self.framing == Framing::Exact && self.state.answering == Answering::On {
            self.state.expect(effect);
            self.owe(What::Sets, false);
        } else {
            self.state.pin_for_good(Pin::RepliesOff);
            self.owe(What::Other, false);
        }
        Admit::Pass
    }

    /// A command that leaves something behind, or is answered in a way of its own.
    fn special(&mut self, special: Special, bytes: &[u8], is_whole: bool) -> Admit {
        let First::Command(arguments, _) = first(bytes, UNLIMITED) else {
            // So long that it was not waited for.
            debug_assert!(!is_whole);
            if matches!(special, Special::Auth | Special::Hello) && self.policy.absorbs {
                return self.awaits_judgement(&[]);
            }
            self.state.pin_for_good(Pin::UnknownCommand);
            self.owe(What::Other, true);
            return Admit::Pass;
        };
        let is_alone = arguments.len() == 1;
        match special {
            Special::Auth | Special::Hello => return self.own(&arguments, bytes),
            Special::Reset if is_alone => return self.resets(),
            Special::Client => return self.client(&arguments),
            Special::Select => {
                let words = arguments.iter().map(|word| &**word).collect();
                return self.sets(Some(Effect::Set(Slot::Database, Some(encoded(words)))));
            }
            Special::Readonly => {
                return self.sets(Some(Effect::Set(Slot::Readonly, Some(encoded(vec![b"READONLY"])))));
            }
            Special::Readwrite => return self.sets(Some(Effect::Set(Slot::Readonly, None))),
            Special::Discard if is_alone => {
                self.state.expect(Some(Effect::Discard));
                self.owe(What::Sets, false);
                return Admit::Pass;
            }
            Special::Unwatch if is_alone && !self.state.is_in_multi => {
                return self.sets(Some(Effect::Unwatch));
            }
            Special::Multi if is_alone => self.state.is_in_multi = true,
            Special::Exec => self.state.exec(),
            Special::Watch => self.state.watch(),
            Special::Quit => self.state.is_quitting = true,
            Special::Lasting => self.stop_counting(),
            Special::Subscribe | Special::Unsubscribe => {
                let of = Channels::of(&arguments[0].to_ascii_lowercase());
                return self.subscribes(special == Special::Subscribe, of, arguments.len() - 1);
            }
            Special::Asking => {
                self.owe(What::Other, false);
                self.state.passes(false, true);
                return Admit::Pass;
            }
            Special::Wait => {
                if !self.state.waits() {
                    self.hold = Hold::Waiting;
                    return Admit::Stop;
                }
                self.owe(What::Other, false);
                return Admit::Pass;
            }
            _ => {}
        }
        self.owe(What::Other, special == Special::Exec);
        Admit::Pass
    }

    /// AUTH or HELLO.
    fn own(&mut self, arguments: &[Cow<'_, [u8]>], bytes: &[u8]) -> Admit {
        let shows = match command(arguments) {
            Command::Auth(_) => true,
            // Its answer is the same whoever gives it.
            Command::Wrong(_) => arguments.first().is_some_and(|name| name.eq_ignore_ascii_case(b"AUTH")),
            Command::Hello(shown, _) => shown.is_some(),
            _ => false,
        };
        if !(shows && self.policy.absorbs) {
            if self.gone.is_some() {
                self.wants_upstream = true;
                return Admit::Stop;
            }
            let effect = match command(arguments) {
                Command::Auth(_) => Some(Effect::Auth),
                Command::Hello(credential, kept) => Some(Effect::Hello {
                    protocol: kept.get(1).and_then(|version| version.first()).map(|digit| digit - b'0'),
                    name: kept.get(2..4).map(|named| encoded(vec![b"CLIENT", b"SETNAME", named[1]])),
                    authenticates: credential.is_some(),
                }),
                _ => None,
            };
            return self.sets(effect);
        }
        match self.state.answering {
            Answering::Off => return Admit::Instead(Cow::default()),
            Answering::Skip => {
                self.owe(What::Other, false);
                return Admit::Instead(PING.into());
            }
            Answering::On => {}
        }
        if self.state.is_in_multi {
            self.owe(What::Other, false);
            return Admit::Instead(INSTEAD.into());
        }
        self.awaits_judgement(bytes)
    }

    /// The client's own authentication is judged in its place among the replies, as far as that is known. What is too long
    /// to be looked at is shown as nothing.
    fn awaits_judgement(&mut self, bytes: &[u8]) -> Admit {
        if self.framing == Framing::Exact && !self.is_answered() {
            self.wants_boundary = true;
            return Admit::Stop;
        }
        self.hold = Hold::Judging;
        let mut own = Ahead::default();
        own.extend(bytes);
        self.rare().own = Some(Own(own));
        Admit::Instead(Cow::default())
    }

    /// Whether what is said to the client now comes behind all replies to what it has said.
    fn is_answered(&self) -> bool {
        self.owed.is_empty() && self.replies.is_between()
    }

    fn resets(&mut self) -> Admit {
        if self.policy.reset != Reset::Renews {
            return match self.framing {
                Framing::Exact if self.state.answering == Answering::On => {
                    self.state.begins_reset();
                    self.state
                        .expect(Some(Effect::Reset { is_harmless: self.policy.reset == Reset::Harmless }));
                    self.owe(What::Sets, false);
                    Admit::Pass
                }
                _ => {
                    self.owe(What::Other, false);
                    Admit::Pass
                }
            };
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
            _ => self.set_alarm(),
        }
        Admit::Pass
    }

    fn client(&mut self, arguments: &[Cow<'_, [u8]>]) -> Admit {
        let word = |number: usize| arguments.get(number).map_or(Vec::new(), |word| word.to_ascii_lowercase());
        let all = || encoded(arguments.iter().map(|word| &**word).collect());
        let set = |slot, on| Some(Effect::Set(slot, on));
        let what = match &word(1)[..] {
            b"setname" => {
                // Without a name it has none.
                let has_name = arguments.get(2).is_some_and(|name| !name.is_empty());
                return self.sets(set(Slot::Name, has_name.then(all)));
            }
            b"setinfo" => {
                let slot = match &word(2)[..] {
                    b"lib-name" => Slot::LibraryName,
                    b"lib-ver" => Slot::LibraryVersion,
                    _ => return self.sets(None),
                };
                return self.sets(set(slot, Some(all())));
            }
            b"no-evict" => return self.sets(set(Slot::NoEvict, (word(2) == b"on").then(all))),
            b"no-touch" => return self.sets(set(Slot::NoTouch, (word(2) == b"on").then(all))),
            b"capa" => return self.sets(set(Slot::Capabilities, Some(all()))),
            b"tracking" => return self.sets(Some(Effect::Tracking(word(2) != b"off"))),
            b"reply" => return self.reply_mode(&word(2), arguments.len() == 3),
            b"maint_notifications" => {
                // What only a client that dials the target itself has any use for. Without what it asks for every server refuses it,
                // in its own words.
                self.owe(What::Other, false);
                return Admit::Instead(encoded(arguments[..2].iter().map(|word| &**word).collect()).into());
            }
            b"caching" => {
                self.owe(What::Other, false);
                self.state.passes(false, true);
                return Admit::Pass;
            }
            b"id" | b"info" | b"list" | b"getname" | b"getredir" | b"trackinginfo" | b"help" => What::Reads,
            b"kill" | b"pause" | b"unpause" | b"unblock" => What::Other,
            _ => return self.leaves_unknown(),
        };
        self.owe(what, false);
        Admit::Pass
    }

    /// CLIENT REPLY.
    fn reply_mode(&mut self, mode: &[u8], is_complete: bool) -> Admit {
        if !is_complete {
            // Refused, with an error.
            self.owe(What::Other, false);
            return Admit::Pass;
        }
        // Among subscriptions it is refused, and behind DISCARD it is in no transaction: that is known once nothing is owed.
        if self.framing == Framing::Exact && self.state.answering == Answering::On && !self.is_answered() {
            self.wants_boundary = true;
            return Admit::Stop;
        }
        if self.state.is_in_multi {
            // EXEC's reply does not add up any more.
            self.stop_counting();
            return Admit::Pass;
        }
        let is_refused = self.state.is_subscribed() && !self.state.is_resp3;
        if self.framing == Framing::Exact && self.state.answering == Answering::On && is_refused {
            self.owe(What::Other, false);
            return Admit::Pass;
        }
        match (mode, self.state.answering) {
            (b"on", _) => {
                self.state.answering = Answering::On;
                self.owe(What::Other, false);
            }
            (b"off" | b"skip", _) if self.state.answering == Answering::On => {
                self.owed.keeps_nothing();
                self.state.answering = if mode == b"off" { Answering::Off } else { Answering::Skip };
            }
            (b"off", _) => self.state.answering = Answering::Off,
            // The one behind it is skipped too.
            (b"skip", Answering::On | Answering::Skip) => self.state.answering = Answering::Skip,
            (b"skip", Answering::Off) => {}
            _ => self.owe(What::Other, false),
        }
        Admit::Pass
    }

    fn subscribes(&mut self, begins: bool, of: Channels, channels: usize) -> Admit {
        if channels == 0 && begins {
            self.owe(What::Other, false);
            return Admit::Pass;
        }
        if self.framing == Framing::Exact && self.state.is_in_multi && !self.is_answered() {
            self.wants_boundary = true;
            return Admit::Stop;
        }
        let channels = if channels > 0 {
            u32::try_from(channels).unwrap_or(u32::MAX)
        } else if self.framing == Framing::Exact && !self.is_answered() {
            // How many there are is known once nothing is owed.
            self.wants_boundary = true;
            return Admit::Stop;
        } else {
            self.state.subscriptions(of).max(1)
        };
        // What comes of it in a transaction, or instead of replies, is not known.
        if self.state.is_in_multi || self.state.answering != Answering::On {
            self.stop_counting();
            return Admit::Pass;
        }
        self.state.passes(false, false);
        if self.framing == Framing::Exact {
            let what = if begins { What::Subscribe } else { What::Unsubscribe };
            self.owed.push(what, channels);
        }
        Admit::Pass
    }
}

/// What goes out where RESET itself has no reply.
const RESET_AND_PING: &[u8] = b"*1\r\n$5\r\nRESET\r\n*1\r\n$4\r\nPING\r\n";

fn encoded(words: Vec<&[u8]>) -> Vec<u8> {
    resp::commands(&[words]).expose().to_vec()
}
