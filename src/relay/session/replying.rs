//! The way of replies: what belongs to whom, and what is not for the client.

use std::io;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use tokio::time::Instant;

use super::owed::What;
use super::state::{Answering, Channels, Pin};
use super::{Framing, Hold, LARGE, Named, Rare, Reset, Session, TargetEnd};
use crate::metrics::session::SessionMetrics;
use crate::net::Side;
use crate::relay::copy::{Failed, end_turn};
use crate::relay::shared::UNREAD_REPLIES;
use crate::resp::cluster::is_redirection;
use crate::resp::replies::{Frame, HEAD, Replies, Step};

/// So much is kept of replies behind a refusal, until it is known whether all of them are refusals: those to as many small
/// commands as are kept.
const REFUSALS: usize = 256 * 1024;

/// The longest error that is waited for: a refusal is short, and a redirection too, but for what a script adds to it.
const LONGEST_REFUSAL: usize = 4096;

/// The longest reply that names servers, in bytes: a hundred for each.
const LONGEST_NAMES: usize = 4 * 1024 * 1024;

/// The reply to RESET.
const RESET_REPLY: &[u8] = b"+RESET\r\n";

/// Refusals because of a failover, and the replies behind them.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    replies: Vec<u8>,
    /// How many they are.
    seen: usize,
}

impl Refusal {
    pub(super) fn seen(&self) -> usize {
        self.seen
    }
}

/// What becomes of a reply.
enum Verdict {
    /// It is the client's.
    Pass,
    /// It is nobody's.
    Swallow,
    /// Nobody knows yet.
    Withhold,
}

/// Whether an error says that the server has not executed the command because of a failover.
fn is_refusal(head: &[u8]) -> bool {
    [&b"-READONLY "[..], b"-LOADING ", b"-MASTERDOWN ", b"-CLUSTERDOWN "]
        .iter()
        .any(|words| head.starts_with(words))
}

/// Whether an error says that a client's AUTH has the wrong password, or that none is wanted, as far as its head tells. Servers
/// before 6.0 have no word of its own for it.
fn refuses_password(head: &[u8]) -> bool {
    [&b"-WRONGPASS "[..], b"-ERR invalid password", b"-ERR Client sent AUTH", b"-ERR AUTH <password>"]
        .iter()
        .any(|words| head.starts_with(words))
}

/// Whether these two are an error that sends the client to another server.
fn begins_redirection(begin: &[u8], end: &[u8]) -> bool {
    let first = begin.first().or(end.first());
    first == Some(&b'-')
        && is_redirection(&[&begin[..begin.len().min(HEAD)], &end[..end.len().min(HEAD)]].concat())
}

/// The first word of an error.
fn code(head: &[u8]) -> &[u8] {
    let words = head.get(1..).unwrap_or_default();
    let end =
        words.iter().position(|byte| !(byte.is_ascii_uppercase() || byte.is_ascii_digit() || *byte == b'_'));
    &words[..end.unwrap_or(words.len())]
}

/// What a subscriber gets, by the first element of what it is in.
fn kind(head: &[u8]) -> &[u8] {
    let is_array = matches!(head, [b'*' | b'>', b'3' | b'4', b'\r', b'\n', b'$', ..]);
    let length = head.iter().skip(5).position(|byte| *byte == b'\n').filter(|_| is_array);
    let begin = length.map_or(head.len(), |length| 5 + length + 1);
    let word = &head[begin..];
    &word[..word.iter().position(|byte| *byte == b'\r').unwrap_or(word.len())]
}

/// What a server says to a subscriber of its own accord.
fn is_message(kind: &[u8]) -> bool {
    matches!(kind, b"message" | b"pmessage" | b"smessage")
}

/// The number that a confirmation ends with, if all of it is there.
fn last_number(piece: &[u8]) -> Option<u32> {
    let line = piece.strip_suffix(b"\r\n")?;
    let at = line.iter().rposition(|byte| *byte == b':')?;
    std::str::from_utf8(&line[at + 1..]).ok()?.parse().ok()
}

fn is_confirmation(kind: &[u8]) -> bool {
    matches!(
        kind,
        b"subscribe" | b"psubscribe" | b"ssubscribe" | b"unsubscribe" | b"punsubscribe" | b"sunsubscribe"
    )
}

impl Rare {
    /// The client has had an answer: it is patient again.
    fn answered(&mut self) {
        self.resent_since = None;
        self.resent_at = None;
    }
}

impl Session {
    /// Passes on what the target says.
    pub(super) fn poll_replies<C: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        target: &mut Option<T>,
        buffer: &mut [u8],
        metrics: &SessionMetrics,
    ) -> Poll<Result<(), Failed>> {
        let turn = self.pair.to_client.turn();
        loop {
            ready!(self.pair.to_client.poll_out(cx, client))?;
            let is_named = self.rare.as_ref().is_some_and(|rare| rare.names.is_some());
            if let Some(rare) = self.rare.as_mut().filter(|rare| !is_named && !rare.behind_names.is_empty()) {
                let mut behind = std::mem::take(&mut rare.behind_names);
                behind.advance(self.replied(cx, client, &behind, metrics)?);
                self.rare().behind_names = behind;
                continue;
            }
            let is_read = self.pair.to_client.is_flowing() && self.target_end.is_none() && !is_named;
            let Some(target) = target.as_mut().filter(|_| is_read) else {
                return self.pair.to_client.poll_flush(cx, client);
            };
            if self.pair.to_client.moved() >= turn {
                end_turn(cx);
                return Poll::Pending;
            }
            match self.pair.to_client.poll_read(cx, target, buffer) {
                Poll::Ready(Ok(0)) => self.target_end = Some(Box::new(TargetEnd::Eof)),
                Poll::Ready(Err(error)) if error.kind() == UNREAD_REPLIES => {
                    return Poll::Ready(Err(Failed::Write(error)));
                }
                Poll::Ready(Err(error)) => self.target_end = Some(Box::new(TargetEnd::Broke(error))),
                Poll::Ready(Ok(length)) => {
                    let taken = self.replied(cx, client, &buffer[..length], metrics)?;
                    if taken < length {
                        self.rare().behind_names = Bytes::copy_from_slice(&buffer[taken..length]);
                    }
                }
                Poll::Pending => {
                    ready!(self.pair.to_client.poll_flush(cx, client))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes in what the target has said, up to what names servers; returns how much that is.
    fn replied<C: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        bytes: &[u8],
        metrics: &SessionMetrics,
    ) -> Result<usize, Failed> {
        let now = Instant::now();
        if std::mem::take(&mut self.is_timed) && self.owed.is_one() {
            metrics.answered(now.saturating_duration_since(self.last_at));
        }
        self.last_at = now;
        let (mut at, mut from) = (0, 0);
        while at < bytes.len() && self.framing != Framing::Lost {
            let was_between = self.replies.is_between();
            let Ok(step) = self.replies.follow(&bytes[at..]) else {
                self.pair.to_client.write(cx, client, &bytes[from..at])?;
                self.lose("the target speaks no RESP");
                self.pair.to_client.write(cx, client, &bytes[at..])?;
                return Ok(bytes.len());
            };
            let piece = &bytes[at..at + step.length];
            let length = u32::try_from(step.length).unwrap_or(u32::MAX);
            self.reply_length = self.reply_length.saturating_add(length);
            if step.ended.is_some() {
                self.is_large = self.policy.shares && self.reply_length > LARGE;
                self.reply_length = 0;
            }
            let is_withheld = self.rare.as_ref().is_some_and(|rare| !rare.withheld.is_empty());
            // Whether what is there begins with the first byte of a reply, or of an error in one.
            let is_from_start = was_between || is_withheld || step.is_error;
            let is_list = self.lists_servers(piece);
            let is_server_s_own = self.policy.retells && !step.is_error && self.comes_from_server(is_list);
            // What is whole is not held back any longer, whatever becomes of the session.
            let mut withheld = Vec::new();
            if is_withheld && (step.ended.is_some() || step.is_error) {
                std::mem::swap(&mut withheld, &mut self.rare().withheld);
            }
            let verdict = match step.ended {
                Some(frame) => self.judge(frame, piece, was_between || is_withheld, metrics),
                None => self.judge_part(&step, piece, was_between || is_withheld, is_list),
            };
            let names = self.policy.retells
                && is_from_start
                && matches!(verdict, Verdict::Pass)
                && (is_list && step.ended == Some(Frame::Reply) || begins_redirection(&withheld, piece));
            if matches!(verdict, Verdict::Pass) && !is_withheld && !names {
                at += step.length;
                continue;
            }
            self.pair.to_client.write(cx, client, &bytes[from..at])?;
            at += step.length;
            from = at;
            if matches!(verdict, Verdict::Withhold) && step.ended.is_none() {
                let rare = self.rare();
                if !withheld.is_empty() {
                    rare.withheld = withheld;
                }
                rare.withheld.extend_from_slice(piece);
                self.release_if_long(is_list)?;
                continue;
            }
            match verdict {
                Verdict::Pass if names => {
                    withheld.extend_from_slice(piece);
                    self.rare().names = Some(Named { reply: withheld, is_server_s_own });
                    return Ok(at);
                }
                Verdict::Pass => {
                    self.pair.to_client.write(cx, client, &withheld)?;
                    self.pair.to_client.write(cx, client, piece)?;
                }
                Verdict::Swallow => {}
                Verdict::Withhold => self.withhold(&withheld, piece),
            }
        }
        if self.framing == Framing::Lost {
            self.look_for_reset(&bytes[bytes.len().saturating_sub(RESET_REPLY.len())..]);
        }
        self.pair.to_client.write(cx, client, &bytes[from..])?;
        Ok(bytes.len())
    }

    /// Whether it is known to what the next reply belongs.
    fn is_counted(&self) -> bool {
        // What was owed when counting stopped comes first.
        self.framing == Framing::Exact || self.framing == Framing::Uncounted && !self.owed.is_empty()
    }

    /// Whether the reply under way lists servers.
    fn lists_servers(&self, piece: &[u8]) -> bool {
        let is_list = || match self.owed.front() {
            Some(What::Names) => true,
            Some(What::Leaves) => {
                let in_transaction = self.rare.as_ref().is_some_and(|rare| rare.names_in_transaction);
                in_transaction && self.owed.ends_transaction()
            }
            _ => false,
        };
        self.policy.retells && is_list() && self.replies.head(piece).first() != Some(&b'>')
    }

    /// Whether the reply under way is the server's own words: not those of a script, nor a transaction's, which may have both.
    fn comes_from_server(&self, is_list: bool) -> bool {
        match self.owed.front() {
            None | Some(What::Runs | What::Other) => false,
            Some(What::Names) => true,
            Some(_) => !is_list,
        }
    }

    /// What becomes of part of a reply, until all of it is there.
    fn judge_part(&self, step: &Step, piece: &[u8], may_be_withheld: bool, is_list: bool) -> Verdict {
        let first = self.replies.head(piece).first();
        let names = self.policy.retells
            && (is_list
                || step.is_error && !piece.ends_with(b"\n")
                || may_be_withheld && !step.is_error && first == Some(&b'-'));
        match self.owed.front() {
            Some(what) if self.is_counted() && what.is_ours() && first != Some(&b'>') => Verdict::Swallow,
            _ if names => Verdict::Withhold,
            Some(_) if self.is_counted() && may_be_withheld => {
                let may_be_refusal = self.policy.resends && first == Some(&b'-');
                let is_withheld = self.hold == Hold::Refused || may_be_refusal;
                if is_withheld { Verdict::Withhold } else { Verdict::Pass }
            }
            _ => Verdict::Pass,
        }
    }

    /// What is too long for a refusal is none; what is too long for a list of servers comes from none.
    fn release_if_long(&mut self, is_list: bool) -> Result<(), Failed> {
        let limit = match self.hold {
            _ if is_list => LONGEST_NAMES,
            Hold::Refused => REFUSALS,
            _ => LONGEST_REFUSAL,
        };
        if self.rare().withheld.len() <= limit {
            return Ok(());
        }
        if is_list {
            return Err(Failed::Read(io::Error::other("a list of servers without end")));
        }
        self.release_refusal();
        let withheld = std::mem::take(&mut self.rare().withheld);
        self.pair.to_client.keep(&withheld);
        Ok(())
    }

    /// What was withheld is the client's after all; false if nothing was.
    pub(super) fn release_withheld(&mut self) -> bool {
        let is_refusal = self.release_refusal();
        let withheld = self.rare.as_mut().map(|rare| std::mem::take(&mut rare.withheld)).unwrap_or_default();
        if self.policy.retells {
            // It may name a server, and the rest of it does not come.
            return is_refusal;
        }
        self.pair.to_client.keep(&withheld);
        is_refusal || !withheld.is_empty()
    }

    fn withhold(&mut self, begin: &[u8], end: &[u8]) {
        if let Some(refusal) = &mut self.rare().refusal {
            refusal.replies.extend_from_slice(begin);
            refusal.replies.extend_from_slice(end);
        }
    }

    /// To whom a whole reply belongs.
    #[inline]
    fn judge(&mut self, frame: Frame, piece: &[u8], is_all_here: bool, metrics: &SessionMetrics) -> Verdict {
        if !self.is_counted() {
            if self.hold == Hold::Resetting {
                let head = self.replies.head(piece).to_vec();
                self.look_for_reset(&head);
            }
            return Verdict::Pass;
        }
        let is_error = self.replies.head(piece).first() == Some(&b'-');
        if frame == Frame::Reply && !is_error && !self.state.is_subscribed() && self.hold != Hold::Refused {
            match self.owed.front() {
                Some(what @ (What::Reads | What::Writes | What::Runs | What::Other)) => {
                    self.owed.settle();
                    if what.has_written(false) {
                        self.state.wrote();
                    }
                    if let Some(rare) = &mut self.rare {
                        rare.answered();
                    }
                    return Verdict::Pass;
                }
                None => {
                    self.lose("the target answers what was not asked");
                    return Verdict::Pass;
                }
                _ => {}
            }
        }
        self.judge_slowly(frame, piece, is_all_here, metrics)
    }

    fn judge_slowly(
        &mut self,
        frame: Frame,
        piece: &[u8],
        is_all_here: bool,
        metrics: &SessionMetrics,
    ) -> Verdict {
        let (mut head, known) = ([0; HEAD], self.replies.head(piece));
        let length = known.len();
        head[..length].copy_from_slice(known);
        let head = &head[..length];
        let is_error = matches!(head.first(), Some(b'-' | b'!'));
        let kind = kind(head);
        if frame == Frame::Push {
            if !self.state.is_resp3 {
                self.lose("a push in RESP2");
            } else if is_confirmation(kind) {
                self.confirmed(kind, piece);
            }
            return Verdict::Pass;
        }
        if self.state.is_subscribed() && !self.state.is_resp3 && is_message(kind) {
            return Verdict::Pass;
        }
        if is_error {
            self.note_error(head, metrics);
        }
        if self.hold == Hold::Refused {
            if self.goes_on_refused(head) {
                return Verdict::Withhold;
            }
            self.release_refusal();
        }
        let Some(what) = self.owed.front() else {
            // A slot that leaves takes its subscriptions with it.
            if !(self.state.is_subscribed() && kind == b"sunsubscribe") {
                self.lose("the target answers what was not asked");
            }
            return Verdict::Pass;
        };
        match what {
            What::Subscribe | What::Unsubscribe if is_error => self.owed.refuse(),
            What::Subscribe | What::Unsubscribe if is_confirmation(kind) => self.confirmed(kind, piece),
            What::Subscribe | What::Unsubscribe => self.lose("a subscription is answered in another way"),
            What::Probe | What::Reauth => {
                self.owed.settle();
                if what == What::Reauth && head.starts_with(b"+PONG\r\n") {
                    // That is the reply to what was sent behind it.
                    metrics.reauthenticated(false);
                    self.owed.settle();
                    return Verdict::Swallow;
                }
                if self.hold == Hold::Asking {
                    self.hold = Hold::None;
                    self.rare().alarm = None;
                }
                if what == What::Reauth {
                    metrics.reauthenticated(!is_error);
                }
                return Verdict::Swallow;
            }
            // Should a server answer the RESET all the same, the mark's own reply is still to come.
            What::Mark if head.starts_with(RESET_REPLY) => return Verdict::Swallow,
            What::Mark => {
                self.owed.settle();
                self.was_reset();
                return Verdict::Swallow;
            }
            What::Reset => {
                self.owed.settle();
                if is_error {
                    self.hold = Hold::None;
                } else {
                    self.was_reset();
                }
            }
            What::Reads | What::Writes | What::Blocks
                if is_all_here && is_refusal(head) && self.may_resend() =>
            {
                self.hold = Hold::Refused;
                self.rare().refusal = Some(Refusal { replies: Vec::new(), seen: 1 });
                self.set_alarm(self.policy.patience);
                return Verdict::Withhold;
            }
            _ => {
                if what.has_written(is_error) {
                    self.state.wrote();
                }
                if what == What::Names && head.starts_with(b"+QUEUED") {
                    self.rare().names_in_transaction = true;
                } else if what == What::Leaves
                    && self.owed.ends_transaction()
                    && let Some(rare) = &mut self.rare
                {
                    rare.names_in_transaction = false;
                }
                if let Some(effect) = self.owed.settle() {
                    if effect.authenticates() && refuses_password(head) {
                        self.rare().auth_refused = true;
                    }
                    let is_good = !is_error && effect.is_met(head);
                    self.state.replied(*effect, is_good);
                }
            }
        }
        if let Some(rare) = &mut self.rare {
            rare.answered();
        }
        Verdict::Pass
    }

    fn note_error(&mut self, head: &[u8], metrics: &SessionMetrics) {
        // Clients of a cluster are sent on all the time. Elsewhere hardly one of them can follow.
        let is_redirection = is_redirection(head);
        let is_news = !(is_redirection && self.policy.retells) && metrics.error(code(head));
        if is_redirection && is_news {
            self.rare().sent_away = true;
        }
        self.is_tainted = true;
    }

    fn may_resend(&self) -> bool {
        let since = self.rare.as_ref().and_then(|rare| rare.resent_since);
        self.policy.resends
            && self.owed.are_kept()
            && self.state.pin().is_none()
            && self.commands.is_between()
            && since.is_none_or(|since| since.elapsed() < self.policy.patience)
    }

    /// A reply behind the first refusal: as long as nothing was executed all of it can go to another server.
    fn goes_on_refused(&mut self, head: &[u8]) -> bool {
        let Some(refusal) = self.rare.as_mut().and_then(|rare| rare.refusal.as_mut()) else { return false };
        let goes_on = match self.owed.nth(refusal.seen) {
            Some(What::Reads) => true,
            Some(What::Writes | What::Blocks) => is_refusal(head),
            _ => false,
        };
        let goes_on = goes_on && refusal.replies.len() < REFUSALS;
        refusal.seen += usize::from(goes_on);
        goes_on
    }

    /// The refusals are the client's; false if there are none.
    pub(super) fn release_refusal(&mut self) -> bool {
        let Some(refusal) = self.rare.as_mut().and_then(|rare| rare.refusal.take()) else { return false };
        self.hold = Hold::None;
        for _ in 0..refusal.seen {
            self.owed.settle();
        }
        self.rare().alarm = None;
        self.rare().answered();
        self.pair.to_client.keep(&refusal.replies);
        true
    }

    /// Whether all that is owed was refused.
    pub(super) fn are_all_refused(&self) -> bool {
        let refusal = self.rare.as_ref().and_then(|rare| rare.refusal.as_ref());
        refusal.is_some_and(|refusal| self.owed.nth(refusal.seen).is_none())
    }

    /// A channel was joined or left.
    fn confirmed(&mut self, kind: &[u8], piece: &[u8]) {
        let begins = matches!(kind, b"subscribe" | b"psubscribe" | b"ssubscribe");
        match (self.owed.front(), begins) {
            (Some(What::Subscribe), true) | (Some(What::Unsubscribe), false) => drop(self.owed.settle()),
            _ => {}
        }
        match last_number(piece) {
            Some(total) => self.state.subscribes(Channels::of(kind), total),
            // It came in pieces.
            None => self.state.pin_until_reset(Pin::Subscription),
        }
    }

    /// While nobody counts replies, one of them shows all the same.
    fn look_for_reset(&mut self, reply: &[u8]) {
        if self.hold == Hold::Resetting && reply == RESET_REPLY {
            self.replies = Replies::telling_errors(self.policy.retells);
            self.rare().alarm = None;
            self.framing = Framing::Exact;
            self.was_reset();
        }
    }

    /// The connection is as good as new, but for the link's handshake.
    fn was_reset(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.names_in_transaction = false;
        }
        self.state.answering = Answering::On;
        self.state.reset(self.policy.reset == Reset::Strips);
        self.hold = if self.policy.reset == Reset::Renews { Hold::Greeting } else { Hold::None };
    }

    /// Why the session can't go on with another upstream, if that is so.
    pub fn pin(&self) -> Option<Pin> {
        self.state.pin()
    }
}
