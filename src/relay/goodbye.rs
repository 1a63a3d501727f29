//! The last words of a target that a client is led away from.
//!
//! It has been sent a RESET, and is sent QUIT when it has answered everything or is silent. It answers what came
//! before, then `+OK`, and closes. Everything but this `+OK` is the client's. No reply needs to be understood for that:
//! what may be the last `+OK` is held back until something follows it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Sleep, sleep};

/// What asks a target to close once it has answered all else.
pub(super) const QUIT: &[u8] = b"*1\r\n$4\r\nQUIT\r\n";

/// Its answer.
const OK: &[u8] = b"+OK\r\n";

/// The answer to RESET.
const RESET: &[u8] = b"+RESET\r\n";

/// A target that has not answered RESET and says nothing for so long is in a command that blocks, and is sent QUIT at
/// once: whatever it had to say before that is said. Sent earlier, QUIT would have an `+OK` from before the command
/// held back.
const SILENCE: Duration = Duration::from_millis(100);

/// How long a target that has answered both may take to close. Only the close tells the answers from a value that looks
/// like them and is not all there yet, so a server gets far more time than it takes.
const PATIENCE: Duration = Duration::from_secs(5);

/// From the RESET on.
#[derive(Debug, Default)]
pub(super) struct Goodbye {
    stage: Stage,
    /// The end of what came, if it may be the beginning of the last answer.
    held: Vec<u8>,
    /// The end of what came before.
    before: Vec<u8>,
    /// Whether the last line of it, as far as it is there, is an error.
    is_error: bool,
    /// Runs while the target is silent before its QUIT, or once it has answered everything.
    timer: Option<Pin<Box<Sleep>>>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody knows yet whether this target is to be left.
    #[default]
    Open,
    /// It is to be sent QUIT.
    Leaving,
    /// It has been.
    Left,
}

impl Goodbye {
    /// The target is to be left.
    pub(super) fn leave(&mut self) {
        self.stage = Stage::Leaving;
        self.timer = Some(Box::pin(sleep(SILENCE)));
    }

    /// Ready, once, when it is time for QUIT.
    pub(super) fn poll_quit(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stage != Stage::Leaving || self.before != RESET && self.poll_timer(cx).is_pending() {
            return Poll::Pending;
        }
        self.stage = Stage::Left;
        self.timer = None;
        Poll::Ready(())
    }

    /// Takes in what came; returns what is surely the client's.
    pub(super) fn hold_back(&mut self, bytes: &[u8]) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.held);
        all.extend_from_slice(bytes);
        if self.stage == Stage::Left {
            let may_be_last = |length: &usize| all.ends_with(&OK[..*length]);
            let length = (1..=OK.len()).rev().find(may_be_last).unwrap_or_default();
            self.held = all.split_off(all.len() - length);
        }
        self.find_error(&all);
        self.before.extend_from_slice(&all[all.len().saturating_sub(RESET.len())..]);
        self.before.drain(..self.before.len().saturating_sub(RESET.len()));
        let wait = match self.stage {
            Stage::Leaving => Some(SILENCE),
            Stage::Left if self.is_complete() && self.before == RESET => Some(PATIENCE),
            Stage::Open | Stage::Left => None,
        };
        self.timer = wait.map(|time| Box::pin(sleep(time)));
        all
    }

    fn find_error(&mut self, passed: &[u8]) {
        let Some((_, inner)) = passed.split_last() else { return };
        if let Some(end) = inner.iter().rposition(|byte| *byte == b'\n') {
            self.is_error = passed[end + 1] == b'-';
        } else if matches!(self.before.last(), None | Some(b'\n')) {
            self.is_error = passed[0] == b'-';
        }
    }

    /// Whether the last answer is there, if nothing follows it.
    fn is_complete(&self) -> bool {
        self.held == OK
    }

    /// Whether a target that has ended its stream has answered everything. Else what looks like its last answer is one
    /// to another command, and the target died before it came to RESET. Behind the answer to RESET it does not matter
    /// how it ends; if that may be an error (of a server that does not know or allow it), only a clean end is a goodbye.
    /// What can't be told from it is a value that ends in just these answers, and a target that dies at its last byte.
    pub(super) fn has_parted(&self, cleanly: bool) -> bool {
        let is_error = self.is_error && self.before.ends_with(b"\r\n");
        self.is_complete() && (self.before == RESET || is_error && cleanly)
    }

    /// What was held back and is the client's after all.
    pub(super) fn into_held(self) -> Vec<u8> {
        self.held
    }

    /// Ready when a target that has answered everything has had the time to close.
    pub(super) fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.stage == Stage::Left { self.poll_timer(cx) } else { Poll::Pending }
    }

    fn poll_timer(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match &mut self.timer {
            Some(timer) => timer.as_mut().poll(cx),
            None => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_but_the_last_answer_passes_at_every_split() {
        for said in [&b"+OK\r\n+RESET\r\n"[..], b"", b"$7\r\n+OK\r\n+O\r\n:1\r\n", b"+O+OK\r\n+OK"] {
            let stream = [said, OK].concat();
            for split in 0..=stream.len() {
                let mut goodbye = Goodbye { stage: Stage::Left, ..Goodbye::default() };
                let mut passed = goodbye.hold_back(&stream[..split]);
                passed.extend(goodbye.hold_back(&stream[split..]));
                assert_eq!(passed, said, "{split}");
                assert!(goodbye.is_complete());
                assert_eq!(goodbye.has_parted(false), said.ends_with(RESET));
                assert_eq!(goodbye.timer.is_some(), said.ends_with(RESET));
            }
        }
    }

    #[tokio::test]
    async fn what_is_held_back_is_not_lost_where_more_or_nothing_follows() {
        let mut goodbye = Goodbye { stage: Stage::Left, ..Goodbye::default() };
        assert_eq!(goodbye.hold_back(b"+RESET\r\n+OK\r\n"), b"+RESET\r\n");
        assert_eq!(goodbye.hold_back(b"+OK"), b"+OK\r\n");
        assert!(goodbye.timer.is_none() && !goodbye.is_complete());
        assert_eq!(goodbye.into_held(), b"+OK");
    }

    #[tokio::test]
    async fn an_error_in_the_place_of_reset_needs_a_clean_end() {
        for (said, parts) in [
            (&b"-ERR unknown command 'RESET'\r\n"[..], true),
            (b":1\r\n-NOPERM\r\n", true),
            (b"-ERR\r\n:1\r\n", false),
            (b"$6\r\n-NOPERM", false),
            (b"", false),
        ] {
            let stream = [said, OK].concat();
            for split in 0..=stream.len() {
                let mut goodbye = Goodbye { stage: Stage::Left, ..Goodbye::default() };
                goodbye.hold_back(&stream[..split]);
                goodbye.hold_back(&stream[split..]);
                assert_eq!(goodbye.has_parted(true), parts, "{split}");
                assert!(!goodbye.has_parted(false));
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn quit_comes_behind_the_answer_to_reset_or_a_silence() {
        let begun = tokio::time::Instant::now();
        let mut goodbye = Goodbye::default();
        assert_eq!(goodbye.hold_back(b"+OK\r\n"), b"+OK\r\n");
        goodbye.leave();
        std::future::poll_fn(|cx| goodbye.poll_quit(cx)).await;
        assert!(begun.elapsed() >= SILENCE);

        let begun = tokio::time::Instant::now();
        let mut goodbye = Goodbye::default();
        goodbye.leave();
        assert_eq!(goodbye.hold_back(b"+OK\r\n+RESET\r\n"), b"+OK\r\n+RESET\r\n");
        std::future::poll_fn(|cx| goodbye.poll_quit(cx)).await;
        assert!(begun.elapsed() < SILENCE);
    }
}
