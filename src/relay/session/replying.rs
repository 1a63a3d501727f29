//! The way of replies: what belongs to whom, and what is not for the client.

use std::task::{Context, Poll, ready};

use tokio::time::Instant;

use super::owed::What;
use super::state::{Channels, Pin};
use super::{Decided, Event, Framing, Hold, Rare, Session, TargetEnd};
use crate::metrics::session::SessionMetrics;
use crate::net::Side;
use crate::relay::Cause;
use crate::relay::copy::Failed;
use crate::resp::replies::{Frame, Replies};

/// So much is kept of replies behind a refusal, until it is known whether all of them are refusals.
const REFUSALS: usize = 64 * 1024;

/// The longest error reply that is waited for: a refusal is short.
const LONGEST_REFUSAL: usize = 1024;

/// The reply to RESET.
const RESET_REPLY: &[u8] = b"+RESET\r\n";

/// Refusals because of a failover, and the replies behind them.
#[derive(Debug, Default)]
pub(super) struct Refusal {
    replies: Vec<u8>,
    /// How many they are.
    seen: usize,
    /// They are the client's after all.
    stands: bool,
}

impl Refusal {
    pub(super) fn stands(&mut self) {
        self.stands = true;
    }

    pub(super) fn seen(&self) -> usize {
        self.seen
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.replies
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
            let is_read = self.pair.to_client.is_flowing() && self.target_end.is_none();
            let Some(target) = target.as_mut().filter(|_| is_read) else {
                return self.pair.to_client.poll_flush(cx, client);
            };
            if self.pair.to_client.moved() >= turn {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            match self.pair.to_client.poll_read(cx, target, buffer) {
                Poll::Ready(Ok(0)) => self.target_end = Some(Box::new(TargetEnd::Eof)),
                Poll::Ready(Err(error)) => self.target_end = Some(Box::new(TargetEnd::Broke(error))),
                Poll::Ready(Ok(length)) => self.replied(cx, client, &buffer[..length], metrics)?,
                Poll::Pending => {
                    ready!(self.pair.to_client.poll_flush(cx, client))?;
                    return Poll::Pending;
                }
            }
        }
    }

    /// Takes in what the target has said.
    fn replied<C: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &mut C,
        bytes: &[u8],
        metrics: &SessionMetrics,
    ) -> Result<(), Failed> {
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
                return self.pair.to_client.write(cx, client, &bytes[at..]);
            };
            let piece = &bytes[at..at + step.length];
            let is_withheld = self.rare.as_ref().is_some_and(|rare| !rare.withheld.is_empty());
            let Some(frame) = step.ended else {
                if is_withheld || was_between && self.may_withhold(piece) {
                    self.pair.to_client.write(cx, client, &bytes[from..at])?;
                    self.rare().withheld.extend_from_slice(piece);
                    self.release_if_long();
                } else {
                    self.pair.to_client.write(cx, client, &bytes[from..])?;
                }
                return Ok(());
            };
            let verdict = self.judge(frame, piece, was_between || is_withheld, metrics);
            if matches!(verdict, Verdict::Pass) && !is_withheld {
                at += step.length;
                continue;
            }
            self.pair.to_client.write(cx, client, &bytes[from..at])?;
            let withheld =
                self.rare.as_mut().map(|rare| std::mem::take(&mut rare.withheld)).unwrap_or_default();
            match verdict {
                Verdict::Pass => {
                    self.pair.to_client.write(cx, client, &withheld)?;
                    self.pair.to_client.write(cx, client, piece)?;
                }
                Verdict::Swallow => {}
                Verdict::Withhold => self.withhold(&withheld, piece),
            }
            at += step.length;
            from = at;
        }
        if self.framing == Framing::Lost {
            self.look_for_reset(&bytes[bytes.len().saturating_sub(RESET_REPLY.len())..]);
        }
        self.pair.to_client.write(cx, client, &bytes[from..])
    }

    /// Whether a reply that begins so may not be the client's.
    fn may_withhold(&self, begin: &[u8]) -> bool {
        if self.framing != Framing::Exact {
            return false;
        }
        if self.hold == Hold::Refused {
            return true;
        }
        match self.owed.front() {
            Some(What::Probe | What::Reauth | What::Mark) => begin.first() != Some(&b'>'),
            Some(_) => self.policy.resends && begin.first() == Some(&b'-'),
            None => false,
        }
    }

    /// What is too long for a refusal is none.
    fn release_if_long(&mut self) {
        let is_ours = self.owed.front().is_some_and(What::is_ours);
        let limit = if self.hold == Hold::Refused { REFUSALS } else { LONGEST_REFUSAL };
        let rare = self.rare();
        if rare.withheld.len() > limit && !is_ours {
            let refused = rare.refusal.take();
            let withheld = std::mem::take(&mut rare.withheld);
            if let Some(refusal) = refused {
                self.release(&refusal);
            }
            self.pair.to_client.keep(&withheld);
        }
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
        if self.framing == Framing::Uncounted {
            let head = self.replies.head(piece).to_vec();
            self.look_for_reset(&head);
            return Verdict::Pass;
        }
        let is_error = self.replies.head(piece).first() == Some(&b'-');
        if frame == Frame::Reply && !is_error && !self.state.is_subscribed() && self.hold != Hold::Refused {
            match self.owed.front() {
                Some(What::Reads | What::Writes | What::Blocks | What::Runs | What::Other) => {
                    self.owed.settle();
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
        let head = self.replies.head(piece).to_vec();
        let is_error = matches!(head.first(), Some(b'-' | b'!'));
        let kind = kind(&head);
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
            metrics.error(code(&head));
        }
        if self.hold == Hold::Refused {
            return self.behind_refusal(&head);
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
            What::Probe => {
                self.owed.settle();
                self.hold = Hold::None;
                self.rare().alarm = None;
                return Verdict::Swallow;
            }
            What::Reauth => {
                self.owed.settle();
                metrics.reauthenticated(!is_error);
                return Verdict::Swallow;
            }
            // Should a server answer it all the same, the mark's own reply is still to come.
            What::Mark if head.starts_with(b"+RESET\r\n") => {}
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
            What::Sets | What::Leaves => {
                self.owed.settle();
                self.state.settle(!is_error);
            }
            What::Reads | What::Writes | What::Blocks
                if is_all_here && is_refusal(&head) && self.may_resend() =>
            {
                self.hold = Hold::Refused;
                self.rare().refusal = Some(Refusal::default());
                return self.behind_refusal(&head);
            }
            _ => self.owed.settle(),
        }
        if let Some(rare) = &mut self.rare {
            rare.answered();
        }
        Verdict::Pass
    }

    fn may_resend(&self) -> bool {
        let since = self.rare.as_ref().and_then(|rare| rare.resent_since);
        self.policy.resends
            && self.owed.are_kept()
            && self.state.pin().is_none()
            && self.commands.is_between()
            && since.is_none_or(|since| since.elapsed() < self.policy.patience)
    }

    /// A reply of those from the first refusal on. As long as nothing was executed all of it can go to another server.
    fn behind_refusal(&mut self, head: &[u8]) -> Verdict {
        let rare = self.rare.get_or_insert_default();
        let Some(refusal) = &mut rare.refusal else { return Verdict::Pass };
        let may_go_on = match self.owed.nth(refusal.seen) {
            Some(What::Reads) => true,
            Some(What::Writes | What::Blocks) => is_refusal(head),
            _ => false,
        };
        if may_go_on && refusal.replies.len() < REFUSALS {
            refusal.seen += 1;
            return Verdict::Withhold;
        }
        let refusal = rare.refusal.take();
        if let Some(refusal) = refusal {
            self.release(&refusal);
        }
        // The one that was not refused.
        if matches!(self.owed.front(), Some(What::Sets | What::Leaves)) {
            self.state.settle(head.first() != Some(&b'-'));
        }
        self.owed.settle();
        Verdict::Pass
    }

    /// The refusals are the client's.
    fn release(&mut self, refusal: &Refusal) {
        self.hold = Hold::None;
        for _ in 0..refusal.seen {
            self.owed.settle();
        }
        if let Some(rare) = &mut self.rare {
            rare.answered();
        }
        self.pair.to_client.keep(&refusal.replies);
    }

    /// What comes of refusals, once all replies are there.
    pub(super) fn refused(&mut self) -> Option<Decided> {
        let refusal = self.rare.as_mut()?.refusal.take()?;
        if refusal.stands {
            self.release(&refusal);
            return Some(Decided::Again);
        }
        let is_complete = self.owed.nth(refusal.seen).is_none();
        self.rare().refusal = Some(refusal);
        is_complete.then_some(Decided::Event(Event::Upstream(Cause::Refused)))
    }

    /// A channel was joined or left.
    fn confirmed(&mut self, kind: &[u8], piece: &[u8]) {
        let begins = matches!(kind, b"subscribe" | b"psubscribe" | b"ssubscribe");
        match (self.owed.front(), begins) {
            (Some(What::Subscribe), true) | (Some(What::Unsubscribe), false) => self.owed.settle(),
            _ => {}
        }
        match last_number(piece) {
            Some(total) => self.state.subscribes(Channels::of(kind), total),
            // It came in pieces.
            None => self.state.pin_for_good(Pin::Subscription),
        }
    }

    /// While nobody counts replies, one of them shows all the same.
    fn look_for_reset(&mut self, reply: &[u8]) {
        if self.hold == Hold::Resetting && reply == RESET_REPLY {
            self.replies = Replies::default();
            self.rare().alarm = None;
            self.framing = Framing::Exact;
            self.was_reset();
        }
    }

    /// The connection is as good as new.
    fn was_reset(&mut self) {
        self.state.reset();
        self.hold = Hold::Greeting;
    }

    /// Why the session can't go on with another upstream, if that is so.
    pub fn pin(&self) -> Option<Pin> {
        self.state.pin()
    }
}
