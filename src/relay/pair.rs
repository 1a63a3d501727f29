//! Two copies, and all that tunnels and sessions have in common: sides that break, looks at those that are not read,
//! limits and requests to end.

use std::io;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::Instant;

use super::copy::{Copy, Failed};
use super::drain::{DrainRequest, Handle, Moved};
use super::timers::{Activity, Clock, Event, Limits};
use super::{End, Party};
use crate::net::Side;

/// How long what a broken side had sent may take to reach the other side.
pub(super) const LAST_WORDS: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Pair {
    pub(super) to_target: Copy,
    pub(super) to_client: Copy,
    pub(super) target_spoke_last: bool,
    broken: Option<Box<(Party, io::Error)>>,
    /// Set once there is something to wait for.
    clock: Option<Box<Clock>>,
}

impl Pair {
    /// `early` is what the client has sent already, `leading` what the target has; they go first.
    pub(super) fn new(early: Vec<u8>, leading: Vec<u8>, limits: Limits) -> Self {
        Self {
            target_spoke_last: early.is_empty(),
            to_target: Copy::new(early),
            to_client: Copy::new(leading),
            broken: None,
            clock: Clock::for_limits(limits).map(Box::new),
        }
    }

    /// Bytes so far, both ways.
    pub(super) fn moved(&self) -> Moved {
        Moved { to_target: self.to_target.moved(), to_client: self.to_client.moved(), commands: 0 }
    }

    fn total(&self) -> u64 {
        self.to_target.moved() + self.to_client.moved()
    }

    /// Counts what has moved since.
    pub(super) fn count(&mut self, before: Moved, commands: u32, handle: &Handle) {
        let now = self.moved();
        let moved = Moved {
            to_target: now.to_target - before.to_target,
            to_client: now.to_client - before.to_client,
            commands: commands.into(),
        };
        if moved.to_client > 0 {
            self.target_spoke_last = true;
        }
        if moved.to_target > 0 {
            self.target_spoke_last = false;
        }
        handle.count(moved);
    }

    pub(super) fn are_over(&self) -> bool {
        self.to_target.is_over() && self.to_client.is_over()
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_some()
    }

    fn are_reading(&self) -> bool {
        self.to_target.is_reading() && self.to_client.is_reading()
    }

    pub(super) fn clock(&mut self) -> &mut Clock {
        self.clock.get_or_insert_default()
    }

    /// The request to go that is being waited for.
    pub(super) fn leave(&self) -> Option<DrainRequest> {
        self.clock.as_ref().and_then(|clock| clock.leave())
    }

    /// Takes in a request to go.
    pub(super) fn leave_by(&mut self, leave: DrainRequest) {
        let moved = self.total();
        self.clock().leave_by(leave, moved);
    }

    /// The request to go was served.
    pub(super) fn served(&mut self) {
        let moved = self.total();
        if let Some(clock) = &mut self.clock {
            clock.served(moved);
        }
    }

    /// From now on these limits hold.
    pub(super) fn renew(&mut self, limits: Limits) {
        let moved = self.total();
        match &mut self.clock {
            Some(clock) => clock.renew(limits, moved),
            None => self.clock = Clock::for_limits(limits).map(Box::new),
        }
    }

    /// Whether a session may give its upstream back: nothing has moved for long enough.
    pub(super) fn is_quiet(&self) -> bool {
        !self.is_broken() && self.clock.as_ref().is_some_and(|clock| clock.is_quiet(self.total()))
    }

    /// It has given it back.
    pub(super) fn released(&mut self) {
        let moved = self.total();
        if let Some(clock) = &mut self.clock {
            clock.released(moved);
        }
    }

    /// A command of ours goes to the target, of which a quiet client knows nothing.
    pub(super) fn keep_of_ours(&mut self, command: &[u8]) {
        self.to_target.keep(command);
        if let Some(clock) = &mut self.clock {
            clock.passes_over(command.len() as u64);
        }
    }

    /// How it ended: where a side broke that is the news, whatever came of it later.
    pub(super) fn end(&mut self, end: End) -> End {
        self.broken.take().map_or(end, |broken| End::Broken(broken.0, broken.1))
    }

    /// Whether anything ends it by time, as matters stand.
    pub(super) fn is_timed(&self) -> bool {
        self.clock.is_some() || !self.are_reading()
    }

    /// Waits for what ends a connection by time. A connection that is asked to go does so when it is quiet, or `boundary`
    /// says that it may.
    pub(super) fn poll_clock<C: Side, T: Side>(
        &mut self,
        cx: &mut Context<'_>,
        client: &C,
        target: Option<&T>,
        holds_more: bool,
        boundary: Option<bool>,
    ) -> Poll<End> {
        if !self.are_reading() {
            self.clock().look_soon();
        }
        loop {
            let quiet = self.target_spoke_last
                && self.to_target.holds_nothing()
                && !holds_more
                && self.to_client.holds_nothing();
            let activity = Activity { moved: self.total(), between_commands: quiet, boundary };
            let Some(clock) = &mut self.clock else { return Poll::Pending };
            match ready!(clock.poll(cx, activity)) {
                Event::Look => self.look(client, target),
                Event::Over(end) => return Poll::Ready(self.end(end)),
            }
            if self.are_over() {
                return Poll::Ready(self.end(End::Closed));
            }
        }
    }

    /// Finds out about sides that broke while nothing was read from them.
    fn look(&mut self, client: &impl Side, target: Option<&impl Side>) {
        if !self.to_target.is_reading()
            && let Some(error) = client.take_error()
        {
            self.broke(Party::Client, Failed::Write(error));
        }
        if !self.to_client.is_reading()
            && let Some(error) = target.and_then(Side::take_error)
        {
            self.broke(Party::Target, Failed::Write(error));
        }
        if !self.are_reading() {
            self.clock().look_soon();
        }
    }

    /// One half of a direction failed.
    pub(super) fn failed(&mut self, failed: Failed, reader: Party, writer: Party) {
        let party = if matches!(failed, Failed::Read(_)) { reader } else { writer };
        self.broke(party, failed);
    }

    /// Nothing more can go to a side that broke. What it had sent may be on its way still: bytes that were kept, and,
    /// where it was a write that failed, bytes that wait to be read (a server's last words before it closed).
    /// A write that failed only tells that nobody is there any more; an error that is read after it tells why.
    fn broke(&mut self, party: Party, broken: Failed) {
        let (from, to) = match party {
            Party::Client => (&mut self.to_target, &mut self.to_client),
            Party::Target => (&mut self.to_client, &mut self.to_target),
        };
        to.stop();
        let is_first = self.broken.is_none();
        let (error, tells_why) = match broken {
            Failed::Read(error) => {
                from.stop_reading();
                (error, self.broken.as_ref().is_some_and(|broken| broken.0 == party))
            }
            Failed::Write(error) => (error, false),
        };
        if is_first || tells_why {
            self.broken = Some(Box::new((party, error)));
        }
        if is_first {
            self.clock().end_by(Instant::now() + LAST_WORDS);
        }
    }
}
