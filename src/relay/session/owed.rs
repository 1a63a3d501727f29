//! What is owed to a client: the replies to the commands that have gone to its upstream, in order.

use std::collections::VecDeque;

use super::ahead::Ahead;
use super::state::Effect;
use crate::resp::commands::{First, UNLIMITED, first};

/// So much of the commands under way is kept, to send it again.
const KEPT: usize = 64 * 1024;

/// So many runs of replies are remembered, and so many commands that leave something behind. A client that asks for more
/// without reading is not followed any further.
const RUNS: usize = 64 * 1024;
const EFFECTS: u16 = 1024;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum What {
    /// The reply to a command that changes nothing.
    Reads,
    /// To one that changes nothing, and that names servers.
    Names,
    /// To one that may change something: data, data that it waits for, by a script, anything.
    Writes,
    Blocks,
    Runs,
    Other,
    /// To one about the connection, which can be sent again.
    Sets,
    /// To one about the connection that can't: it belongs to a transaction, or nobody knows what it does.
    Leaves,
    /// To the client's RESET.
    Reset,
    /// Confirmations of so many channels.
    Subscribe,
    Unsubscribe,
    /// To a command of ours, and nobody's: a question whether the target is there, an AUTH.
    Probe,
    Reauth,
    /// To the command of ours behind a RESET that may not be answered.
    Mark,
}

impl What {
    /// Whether the command can be sent again, whatever has become of it.
    fn may_be_repeated(self) -> bool {
        matches!(self, Self::Reads | Self::Names | Self::Sets | Self::Reset | Self::Probe | Self::Reauth)
    }

    /// Whether the command may have written something, going by its reply.
    pub(super) fn has_written(self, is_error: bool) -> bool {
        match self {
            Self::Writes | Self::Blocks | Self::Other => !is_error,
            // Before its error.
            Self::Runs => true,
            _ => false,
        }
    }

    /// Whether the command is about data alone.
    fn is_of_data(self) -> bool {
        matches!(self, Self::Reads | Self::Names | Self::Writes | Self::Blocks)
    }

    /// Whether the command is one of ours, of which nothing is kept.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Probe | Self::Reauth | Self::Mark)
    }
}

/// Several of one kind.
#[derive(Debug)]
struct Run {
    what: What,
    count: u32,
    /// What the command leaves behind, once its reply is good. Such a command has a run of its own.
    effect: Option<Box<Effect>>,
}

#[derive(Debug)]
pub(super) struct Owed {
    /// The first of them, so that one command alone needs no memory.
    first: Option<Run>,
    #[expect(clippy::box_collection, reason = "an idle session has none, and a box is small")]
    more: Option<Box<VecDeque<Run>>>,
    /// The commands since nothing was owed, while they are not too long.
    kept: Ahead,
    is_kept: bool,
    /// Whether one of them may hold a password.
    is_secret: bool,
    /// Whether nothing of it has reached the upstream.
    is_unsent: bool,
    /// How many of them have been answered: as many as can be kept at the most.
    answered: u16,
    /// How many leave something behind.
    effects: u16,
    /// Whether a transaction goes on behind the last one that has to do with one.
    transaction: Option<bool>,
}

impl Default for Owed {
    fn default() -> Self {
        Self {
            first: None,
            more: None,
            kept: Ahead::default(),
            is_kept: true,
            is_secret: false,
            is_unsent: false,
            answered: 0,
            effects: 0,
            transaction: None,
        }
    }
}

impl Owed {
    pub(super) fn is_empty(&self) -> bool {
        self.first.is_none()
    }

    /// Whether one reply alone is owed.
    pub(super) fn is_one(&self) -> bool {
        self.more.is_none() && self.first.as_ref().is_some_and(|run| run.count == 1)
    }

    #[inline]
    pub(super) fn push(&mut self, what: What, count: u32) {
        self.is_secret |= !what.is_of_data();
        // Channels of one command are confirmed together or not at all.
        let is_alike =
            |run: &&mut Run| run.what == what && !matches!(what, What::Subscribe | What::Unsubscribe);
        let last = self.more.as_mut().and_then(|more| more.back_mut()).or(self.first.as_mut());
        match last.filter(is_alike).filter(|run| run.effect.is_none()) {
            Some(run) => run.count = run.count.saturating_add(count),
            None => self.add(Run { what, count, effect: None }),
        }
    }

    /// The reply to a command that leaves something behind.
    pub(super) fn push_effect(&mut self, what: What, effect: Effect) {
        self.is_secret = true;
        self.effects = self.effects.saturating_add(1);
        self.transaction = effect.transaction().or(self.transaction);
        self.add(Run { what, count: 1, effect: Some(Box::new(effect)) });
    }

    fn add(&mut self, run: Run) {
        if self.first.is_none() {
            self.first = Some(run);
        } else {
            self.more.get_or_insert_default().push_back(run);
        }
    }

    /// Whether there is more of it than is worth to be remembered.
    #[inline]
    pub(super) fn is_too_much(&self) -> bool {
        self.effects > EFFECTS || self.more.as_ref().is_some_and(|more| more.len() > RUNS)
    }

    /// Keeps commands that go to the upstream, as long as there is room for all of them: so many bytes are still to come.
    pub(super) fn keep(&mut self, bytes: &[u8], rest: usize) {
        if self.is_kept && (self.kept.len() + bytes.len()).saturating_add(rest) <= KEPT {
            self.kept.extend(bytes);
        } else {
            self.kept = Ahead::default();
            self.is_kept = false;
        }
    }

    /// A command goes out that is never answered: nobody could tell later whether it was executed.
    pub(super) fn keeps_nothing(&mut self) {
        self.kept = Ahead::default();
        self.is_kept = false;
    }

    /// Whether a transaction goes on behind what is under way, if any of that has to do with one.
    pub(super) fn transaction(&self) -> Option<bool> {
        self.transaction
    }

    fn runs(&self) -> impl Iterator<Item = &Run> {
        self.first.iter().chain(self.more.iter().flat_map(|more| more.iter()))
    }

    pub(super) fn front(&self) -> Option<What> {
        self.first.as_ref().map(|run| run.what)
    }

    /// Whether the next reply is the one that ends a transaction.
    pub(super) fn ends_transaction(&self) -> bool {
        let effect = self.first.as_ref().and_then(|run| run.effect.as_deref());
        effect.is_some_and(|effect| effect.transaction() == Some(false))
    }

    /// What stands behind so many others.
    pub(super) fn nth(&self, number: usize) -> Option<What> {
        let mut left = number;
        self.runs().find_map(|run| {
            let count = run.count as usize;
            let is_here = left < count;
            left = left.saturating_sub(count);
            is_here.then_some(run.what)
        })
    }

    /// One reply, or one confirmation, is there. Returns what its command leaves behind if that reply is good.
    pub(super) fn settle(&mut self) -> Option<Box<Effect>> {
        let run = self.first.as_mut()?;
        run.count -= 1;
        let effect = run.effect.take();
        self.effects -= u16::from(effect.is_some());
        let is_command = match run.what {
            What::Subscribe | What::Unsubscribe => run.count == 0,
            what => !what.is_ours(),
        };
        if run.count == 0 {
            self.first = self.more.as_mut().and_then(|more| more.pop_front());
            self.more.take_if(|more| more.is_empty());
        }
        self.answered = self.answered.saturating_add(is_command.into());
        if self.first.is_none() {
            if !self.is_secret {
                self.kept.release();
            }
            *self = Self::default();
        }
        effect
    }

    /// The command whose confirmations are waited for was refused.
    pub(super) fn refuse(&mut self) {
        if let Some(run) = &mut self.first {
            run.count = 1;
        }
        self.settle();
    }

    /// The upstream was gone before it could be told any of it.
    pub(super) fn was_not_sent(&mut self) {
        self.is_unsent = true;
    }

    /// Whether all of it, but for the first ones, can be had from another upstream.
    ///
    /// Where the last of the commands is not whole yet, it can't have been executed.
    pub(super) fn may_be_repeated(&self, but: usize, is_last_whole: bool) -> bool {
        let mut skipped = but;
        let mut left = self.runs().map(|run| run.count as usize).sum::<usize>();
        left -= usize::from(!is_last_whole && left > 0);
        self.is_kept
            && self.runs().all(|run| {
                let count = (run.count as usize).min(left);
                left -= count;
                let counts = count.saturating_sub(skipped);
                skipped = skipped.saturating_sub(count);
                counts == 0 || self.is_unsent || run.what.may_be_repeated()
            })
    }

    /// How many commands of the client's have not been answered; each channel of a subscription counts.
    pub(super) fn unanswered(&self) -> u32 {
        let own = self.runs().filter(|run| !run.what.is_ours());
        own.map(|run| run.count).sum()
    }

    /// Whether all commands are kept.
    pub(super) fn are_kept(&self) -> bool {
        self.is_kept
    }

    /// Forgets all of it; returns the commands that have not been answered.
    pub(super) fn take(&mut self) -> Ahead {
        let Self { mut kept, answered, .. } = std::mem::take(self);
        let (mut at, mut left) = (0, answered);
        while left > 0
            && let First::Command(arguments, length) = first(&kept[at..], UNLIMITED)
        {
            left -= u16::from(!arguments.is_empty());
            at += length;
        }
        kept.took(at);
        kept
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_answered_is_taken_in_order() {
        let mut owed = Owed::default();
        owed.push(What::Reads, 1);
        owed.push(What::Reads, 1);
        owed.push(What::Sets, 1);
        owed.keep(b"GET a\r\n\r\nGET b\r\n", 0);
        owed.keep(b"*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n", 0);
        assert_eq!((owed.unanswered(), owed.is_one(), owed.may_be_repeated(0, true)), (3, false, true));
        owed.settle();
        assert_eq!(*owed.take(), *b"\r\nGET b\r\n*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n");
        assert!(owed.is_empty() && owed.take().is_empty());
    }

    #[test]
    fn a_write_is_not_repeated_and_what_is_too_long_is_not_kept() {
        let mut owed = Owed::default();
        owed.push(What::Writes, 1);
        owed.push(What::Reads, 1);
        assert!(!owed.may_be_repeated(0, true) && owed.may_be_repeated(1, true));
        assert_eq!([owed.nth(0), owed.nth(1), owed.nth(2)], [Some(What::Writes), Some(What::Reads), None]);
        owed.settle();
        assert!(owed.may_be_repeated(0, true));
        owed.keep(&vec![b'x'; KEPT + 1], 0);
        assert!(!owed.may_be_repeated(0, true));
        owed.settle();
        assert!(owed.is_empty() && owed.are_kept());
    }

    #[test]
    fn channels_are_confirmed_one_by_one_and_refused_together() {
        let mut owed = Owed::default();
        owed.push(What::Subscribe, 2);
        owed.push(What::Subscribe, 3);
        owed.push(What::Reads, 1);
        owed.settle();
        owed.settle();
        owed.refuse();
        assert_eq!(owed.front(), Some(What::Reads));
    }
}
