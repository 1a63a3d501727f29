//! What sessions count.

use std::collections::HashMap;
use std::time::Duration;

use parking_lot::Mutex;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

use super::times::Times;
use super::{Labels, labels};

/// Upper bounds of the time to a command's reply in seconds: from a server on the same host to one that blocks.
const COMMAND_SECONDS: [f64; 12] =
    [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0];

/// So many errors are told apart; a script may say anything.
const CODES: usize = 32;

/// What all other errors are counted as, and those whose first word is none.
const OTHER: &str = "other";

/// Why there is to be another upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    Closed,
    Moved,
    Demoted,
    Lifetime,
    Silent,
    Refused,
    /// The session had no use for it for a while.
    Released,
    /// What comes next needs an upstream of the session's own, or none any more. That is no exchange for anybody to know of.
    Lent,
}

impl Cause {
    pub const ALL: [Self; 7] = [
        Self::Closed,
        Self::Moved,
        Self::Demoted,
        Self::Lifetime,
        Self::Silent,
        Self::Refused,
        Self::Released,
    ];

    /// The cause's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Moved => "moved",
            Self::Demoted => "demoted",
            Self::Lifetime => "lifetime",
            Self::Silent => "silent",
            Self::Refused => "refused",
            Self::Released => "released",
            Self::Lent => "lent",
        }
    }
}

/// Why a session can't go on with another upstream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pin {
    Transaction,
    Watch,
    Subscription,
    Tracking,
    OwnAuth,
    RepliesOff,
    UnknownCommand,
    LostFraming,
    Quit,
}

impl Pin {
    pub const ALL: [Self; 9] = [
        Self::Transaction,
        Self::Watch,
        Self::Subscription,
        Self::Tracking,
        Self::OwnAuth,
        Self::RepliesOff,
        Self::UnknownCommand,
        Self::LostFraming,
        Self::Quit,
    ];

    /// The pin's name in logs and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::Transaction => "transaction",
            Self::Watch => "watch",
            Self::Subscription => "subscription",
            Self::Tracking => "tracking",
            Self::OwnAuth => "own_auth",
            Self::RepliesOff => "replies_off",
            Self::UnknownCommand => "unknown_command",
            Self::LostFraming => "lost_framing",
            Self::Quit => "quit",
        }
    }
}

/// Families of all links.
#[derive(Debug)]
pub(super) struct Families {
    errors: Family<Labels, Counter>,
    command_seconds: Family<Labels, Times, fn() -> Times>,
    exchanges: Family<Labels, Counter>,
    resent: Family<Labels, Counter>,
    pinned: Family<Labels, Counter>,
    reauthentications: Family<Labels, Counter>,
}

impl Families {
    pub(super) fn new(registry: &mut Registry) -> Self {
        let families = Self {
            errors: Family::default(),
            command_seconds: Family::new_with_constructor(|| Times::new(&COMMAND_SECONDS)),
            exchanges: Family::default(),
            resent: Family::default(),
            pinned: Family::default(),
            reauthentications: Family::default(),
        };
        registry.register(
            "errors",
            "Error replies, by their first word; on a link to a Redis Cluster redirections are none",
            families.errors.clone(),
        );
        registry.register(
            "command_seconds",
            "Time from a command to the beginning of its reply, where no other was under way",
            families.command_seconds.clone(),
        );
        registry.register(
            "exchanges",
            "Times that a session went on with another upstream, by the cause",
            families.exchanges.clone(),
        );
        registry.register(
            "commands_resent",
            "Commands that were sent again to another upstream",
            families.resent.clone(),
        );
        registry.register(
            "pinned",
            "Sessions that ended with their upstream, by what kept them there",
            families.pinned.clone(),
        );
        registry.register(
            "reauthentications",
            "Open sessions that were authenticated again",
            families.reauthentications.clone(),
        );
        families
    }

    pub(super) fn link(&self, name: &str) -> SessionMetrics {
        let of_link = labels(name, None);
        let labelled = |family: &Family<Labels, Counter>, label, value| {
            family.get_or_create_owned(&labels(name, Some((label, value))))
        };
        SessionMetrics {
            link: name.to_owned(),
            errors: Mutex::new(HashMap::from([(OTHER.to_owned(), labelled(&self.errors, "code", OTHER))])),
            all_errors: self.errors.clone(),
            command_seconds: self.command_seconds.get_or_create_owned(&of_link),
            exchanges: Cause::ALL.map(|cause| labelled(&self.exchanges, "cause", cause.name())),
            resent: self.resent.get_or_create_owned(&of_link),
            pinned: Pin::ALL.map(|pin| labelled(&self.pinned, "reason", pin.name())),
            reauthentications: ["ok", "refused"]
                .map(|result| labelled(&self.reauthentications, "result", result)),
        }
    }
}

/// What the sessions of one link count.
#[derive(Debug)]
pub struct SessionMetrics {
    link: String,
    errors: Mutex<HashMap<String, Counter>>,
    all_errors: Family<Labels, Counter>,
    /// The times to a reply.
    pub command_seconds: Times,
    exchanges: [Counter; Cause::ALL.len()],
    resent: Counter,
    pinned: [Counter; Pin::ALL.len()],
    reauthentications: [Counter; 2],
}

impl SessionMetrics {
    /// The target has answered with an error that begins with this word. Returns whether it is the first one that does, of
    /// those that are told apart.
    pub fn error(&self, code: &[u8]) -> bool {
        let code = std::str::from_utf8(code).ok().filter(|code| !code.is_empty()).unwrap_or(OTHER);
        let mut errors = self.errors.lock();
        if let Some(known) = errors.get(code) {
            known.inc();
            return false;
        }
        // One of them is the others.
        let code = if errors.len() <= CODES { code } else { OTHER };
        let labels = labels(&self.link, Some(("code", code)));
        let counter =
            errors.entry(code.to_owned()).or_insert_with(|| self.all_errors.get_or_create_owned(&labels));
        counter.inc();
        code != OTHER
    }

    /// How many errors the target has answered so far.
    pub fn errors(&self) -> u64 {
        self.errors.lock().values().map(Counter::get).sum()
    }

    /// How many times a session has gone on with another upstream so far, though it had a use for the one before.
    pub fn exchanges(&self) -> u64 {
        let unasked = Cause::ALL.into_iter().filter(|cause| *cause != Cause::Released);
        unasked.map(|cause| self.exchanges[cause as usize].get()).sum()
    }

    /// The reply to a command began after this time.
    pub fn answered(&self, time: Duration) {
        self.command_seconds.observe(time);
    }

    /// A session goes on with another upstream.
    pub fn exchanged(&self, cause: Cause) {
        // Of the lent ones nobody wants to know.
        if let Some(exchanges) = self.exchanges.get(cause as usize) {
            exchanges.inc();
        }
    }

    /// So many commands are sent again.
    pub fn resent(&self, commands: u32) {
        self.resent.inc_by(commands.into());
    }

    /// A session was lost with its upstream.
    pub fn pinned(&self, pin: Pin) {
        self.pinned[pin as usize].inc();
    }

    /// How many sessions were authenticated again so far, and how many times the target has refused that.
    pub fn reauthentications(&self) -> (u64, u64) {
        (self.reauthentications[0].get(), self.reauthentications[1].get())
    }

    /// A session was authenticated again, or was not.
    pub fn reauthenticated(&self, worked: bool) {
        self.reauthentications[usize::from(!worked)].inc();
    }
}

#[cfg(test)]
mod tests {
    use crate::metrics::Metrics;

    #[test]
    fn errors_are_told_apart_up_to_a_measure() {
        let metrics = Metrics::new();
        let link = metrics.link("redis:6379");
        for number in 0..100 {
            link.session.error(format!("E{number}").as_bytes());
        }
        link.session.error(b"E0");
        link.session.error(b"");
        let text = metrics.text();
        let codes = text.lines().filter(|line| line.starts_with("redis_ambassador_errors_total")).count();
        assert_eq!(codes, 33, "{text}");
        assert!(text.contains("code=\"E0\"} 2"), "{text}");
        assert!(text.contains("code=\"other\"} 69"), "{text}");
    }
}
