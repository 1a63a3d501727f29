//! Everything that ends a connection by time.
//!
//! The clock holds no timer until there is something to wait for, and looks at counters when the timer fires, so that a
//! message costs it nothing.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

use super::End;
use crate::relay::drain::DrainRequest;

/// A connection is quiet when it has moved nothing for this long, and the target spoke last: no command is under way.
const QUIET: Duration = Duration::from_millis(100);

/// A time without a byte is looked at so many times while it runs, so that it is at most an eighth late and costs nothing
/// a message.
const IDLE_LOOKS: u32 = 8;

/// How often a side that is not being read is looked at: nothing else would tell that it broke, and its connection
/// would last as long as the other side pleases.
const LOOK: Duration = Duration::from_secs(2);

/// How long a connection may live.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// How long it may move nothing.
    pub idle: Option<Duration>,
    /// Since when it has moved nothing.
    pub idle_since: Instant,
    /// When it is asked to go by its age.
    pub lifetime: Option<(Instant, DrainRequest)>,
    /// After how long without a byte a session gives its upstream back.
    pub release_after: Option<Duration>,
}

impl Limits {
    /// When the first of them is reached by a connection that has moved nothing.
    pub fn reached_at(&self) -> Option<Instant> {
        let idle = self.idle.map(|idle| self.idle_since + idle);
        let age = self.lifetime.map(|(at, _)| at);
        [idle, age].into_iter().flatten().min()
    }

    /// When such a connection gives its upstream back.
    pub fn released_at(&self) -> Option<Instant> {
        self.release_after.map(|after| self.idle_since + after)
    }
}

/// What the clock wants to know when it counts.
#[derive(Clone, Copy)]
pub(super) struct Activity {
    /// Bytes so far, both ways.
    pub(super) moved: u64,
    /// Whether the target spoke last and nothing is on its way.
    pub(super) between_commands: bool,
    /// Where that is known exactly: whether the connection may go now. Then quiet is not waited for.
    pub(super) boundary: Option<bool>,
}

/// Why the clock rings.
pub(super) enum Event {
    /// It is time to look at the sides.
    Look,
    /// The connection's time is over.
    Over(End),
}

/// One timer for all that can be waited for.
#[derive(Debug, Default)]
pub(super) struct Clock {
    idle: Option<Duration>,
    release_after: Option<Duration>,
    /// When its age asks the connection to go.
    lifetime: Option<(Instant, DrainRequest)>,
    leave: Option<DrainRequest>,
    /// Whether boundaries are known, so that nobody counts for quiet.
    is_exact: bool,
    /// When it is over in any case.
    end: Option<Instant>,
    /// When sides that are not being read are to be looked at.
    look: Option<Instant>,
    /// When to count what has moved, what had moved the last time, and since when it has been so.
    count: Option<Instant>,
    counted: u64,
    unchanged_since: Option<Instant>,
    /// Whether that was so for long enough for a session to give its upstream back, at the last count.
    is_quiet: bool,
    alarm: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// A clock for those limits; where there are none it takes no room until something else comes up.
    pub(super) fn for_limits(limits: Limits) -> Option<Self> {
        let Limits { idle, idle_since, lifetime, release_after } = limits;
        if idle.is_none() && lifetime.is_none() && release_after.is_none() {
            return None;
        }
        let unchanged_since = Some(idle_since);
        let mut clock = Self { idle, release_after, lifetime, unchanged_since, ..Self::default() };
        clock.count_from(0);
        Some(clock)
    }

    /// Notes a request to go; of several the most urgent counts.
    pub(super) fn leave_by(&mut self, leave: DrainRequest, moved: u64) {
        match self.leave {
            Some(current) if current.latest <= leave.latest => {}
            _ => {
                self.leave = Some(leave);
                if self.is_exact {
                    self.set_alarm();
                } else {
                    // From now on counting is for quiet, not for idleness, and from this request's own beginning.
                    self.count_from(moved);
                }
            }
        }
    }

    /// The request to go that is being waited for.
    pub(super) fn leave(&self) -> Option<DrainRequest> {
        self.leave
    }

    /// The request was served without an end.
    pub(super) fn served(&mut self, moved: u64) {
        self.leave = None;
        self.lifetime = None;
        self.count_from(moved);
    }

    /// From now on these limits hold.
    pub(super) fn renew(&mut self, limits: Limits, moved: u64) {
        self.idle = limits.idle;
        self.lifetime = limits.lifetime;
        self.release_after = limits.release_after;
        self.unchanged_since = Some(limits.idle_since);
        self.is_quiet = false;
        self.counted = moved;
        self.count_from(moved);
    }

    /// Whether a session may give its upstream back: nothing has moved for long enough.
    pub(super) fn is_quiet(&self, moved: u64) -> bool {
        self.is_quiet && moved == self.counted
    }

    /// It has given it back, and has none to give back before the next one. Its other times run on.
    pub(super) fn released(&mut self, moved: u64) {
        self.release_after = None;
        self.is_quiet = false;
        self.count_from(moved);
    }

    /// So many bytes that are about to move are nobody's but ours, and a session is as quiet as without them.
    pub(super) fn passes_over(&mut self, bytes: u64) {
        self.counted += bytes;
    }

    /// Ends it all at that time.
    pub(super) fn end_by(&mut self, end: Instant) {
        self.end = Some(end);
        self.set_alarm();
    }

    /// Arranges for a look at the sides, if none is arranged already.
    pub(super) fn look_soon(&mut self) {
        if self.look.is_none() {
            self.look = Some(Instant::now() + LOOK);
            self.set_alarm();
        }
    }

    /// Starts counting anew.
    fn count_from(&mut self, moved: u64) {
        self.note(moved, Instant::now());
        let at = self.pace().map(|pace| Instant::now() + pace);
        self.count = at.map(|at| self.quiet_from().map_or(at, |from| at.max(from)));
        self.set_alarm();
    }

    /// From when on quiet is waited for, if it is.
    fn quiet_from(&self) -> Option<Instant> {
        self.leave.filter(|_| !self.is_exact).map(|leave| leave.from)
    }

    /// How often to count.
    fn pace(&self) -> Option<Duration> {
        match self.quiet_from() {
            Some(_) => Some(QUIET),
            None => self.idle.into_iter().chain(self.release_after).min().map(|least| least / IDLE_LOOKS),
        }
    }

    fn set_alarm(&mut self) {
        let latest = self.leave.map(|leave| leave.latest);
        let from = self.leave.map(|leave| leave.from).filter(|from| self.is_exact && *from > Instant::now());
        let age = self.lifetime.map(|(at, _)| at);
        let next = [latest, from, age, self.end, self.look, self.count].into_iter().flatten().min();
        match (next, &mut self.alarm) {
            (Some(at), Some(alarm)) => alarm.as_mut().reset(at),
            (Some(at), alarm) => *alarm = Some(Box::pin(tokio::time::sleep_until(at))),
            (None, alarm) => *alarm = None,
        }
    }

    /// Ready when it rings.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>, activity: Activity) -> Poll<Event> {
        if self.is_exact != activity.boundary.is_some() {
            self.is_exact = activity.boundary.is_some();
            self.count_from(activity.moved);
        }
        // Timers ring up to a millisecond late, time enough for another command to a server that was left behind.
        if let Some(leave) = self.leave.filter(|leave| leave.latest <= Instant::now()) {
            return Poll::Ready(Event::Over(End::Left(leave.reason)));
        }
        while let Some(alarm) = &mut self.alarm {
            ready!(alarm.as_mut().poll(cx));
            let event = self.due(Instant::now(), activity);
            self.set_alarm();
            if let Some(event) = event {
                return Poll::Ready(event);
            }
        }
        Poll::Pending
    }

    fn due(&mut self, now: Instant, activity: Activity) -> Option<Event> {
        if self.end.is_some_and(|end| now >= end) {
            return Some(Event::Over(End::Closed));
        }
        if let Some(leave) = self.leave
            && (now >= leave.latest || now >= leave.from && activity.boundary == Some(true))
        {
            return Some(Event::Over(End::Left(leave.reason)));
        }
        if let Some((at, leave)) = self.lifetime
            && now >= at
        {
            self.lifetime = None;
            self.leave_by(leave, activity.moved);
        }
        if self.look.is_some_and(|look| now >= look) {
            self.look = None;
            return Some(Event::Look);
        }
        if self.count.is_some_and(|count| now >= count) {
            return self.count(now, activity).map(Event::Over);
        }
        None
    }

    /// Takes in what has moved so far; whether that is more than the last time.
    fn note(&mut self, moved: u64, now: Instant) -> bool {
        let has_moved = moved != self.counted;
        if has_moved {
            self.counted = moved;
            self.unchanged_since = Some(now);
        }
        has_moved
    }

    /// One count: has anything moved since the last one?
    fn count(&mut self, now: Instant, activity: Activity) -> Option<End> {
        let has_moved = self.note(activity.moved, now);
        self.count = self.pace().map(|pace| now + pace);
        let unchanged = self.unchanged_since.map(|since| now.saturating_duration_since(since));
        let is_reached = |limit: Option<Duration>| limit.is_some_and(|limit| unchanged >= Some(limit));
        self.is_quiet = is_reached(self.release_after);
        match self.leave {
            Some(leave) if !self.is_exact => {
                let is_quiet = !has_moved && activity.between_commands;
                is_quiet.then_some(End::Left(leave.reason))
            }
            _ => is_reached(self.idle).then_some(End::Idle),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn time_without_a_byte_counts_though_the_relay_had_not_begun() {
        let idle = Duration::from_secs(8);
        for (seconds, is_over) in [(0, false), (3, false), (8, true), (16, true)] {
            let idle_since =
                Instant::now().checked_sub(Duration::from_secs(seconds)).expect("a time after boot");
            let limits = Limits { idle: Some(idle), idle_since, lifetime: None, release_after: None };
            let mut clock = Clock::for_limits(limits).expect("a clock");
            let activity = Activity { moved: 0, between_commands: false, boundary: None };
            let counted = clock.count(Instant::now(), activity);
            assert_eq!(matches!(counted, Some(End::Idle)), is_over, "{seconds}");
        }
    }
}
