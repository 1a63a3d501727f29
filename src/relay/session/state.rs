//! What a client's commands have left behind on its connection: what can be put on another one, and what can't.

use std::collections::VecDeque;

pub use crate::metrics::session::Pin;
use crate::resp;

/// Which replies come.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answering {
    #[default]
    On,
    /// Not the next one.
    Skip,
    Off,
}

/// What can be subscribed to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channels {
    Names,
    Patterns,
    Shards,
}

impl Channels {
    /// By the name of a command, or of its confirmation.
    pub(super) fn of(name: &[u8]) -> Self {
        match name {
            b"psubscribe" | b"punsubscribe" => Self::Patterns,
            b"ssubscribe" | b"sunsubscribe" => Self::Shards,
            _ => Self::Names,
        }
    }
}

/// What can be put on another connection, in the order in which it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Slot {
    Protocol,
    Name,
    Database,
    LibraryName,
    LibraryVersion,
    NoEvict,
    NoTouch,
    Capabilities,
    Readonly,
}

impl Slot {
    /// Whether the connection is another one without it; a name is one that people read.
    fn is_needed(self) -> bool {
        !matches!(self, Self::Name | Self::LibraryName | Self::LibraryVersion)
    }
}

/// What a command does once its reply is good.
#[derive(Debug)]
pub(super) enum Effect {
    /// Leaves this behind, or takes it away.
    Set(Slot, Option<Vec<u8>>),
    Hello {
        protocol: Option<u8>,
        name: Option<Vec<u8>>,
        authenticates: bool,
    },
    Auth,
    Discard,
    Unwatch,
    Tracking(bool),
    /// May have left anything behind.
    Unknown,
    /// RESET, where no handshake follows; whether nothing of the link's own is lost.
    Reset {
        is_harmless: bool,
    },
}

/// Commands that put a session's state on another connection.
#[derive(Debug, Default)]
pub struct Restore(Vec<(Vec<u8>, bool)>);

impl Restore {
    /// The commands, as RESP arrays, and whether each of them has to succeed.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = (&[u8], bool)> {
        self.0.iter().map(|(command, is_needed)| (&command[..], *is_needed))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the connection")]
pub(super) struct State {
    pub(super) answering: Answering,
    pub(super) is_resp3: bool,
    /// Subscriptions: of channels, of patterns, of shard channels.
    subscribed: [u32; 3],
    pub(super) is_in_multi: bool,
    /// Whether something is queued there that leaves something behind.
    has_queued: bool,
    watches: bool,
    tracks: bool,
    /// What lasts until RESET.
    lasting: Option<Pin>,
    /// Something holds for the next command alone.
    once: bool,
    /// The client has said that it leaves.
    pub(super) is_quitting: bool,
    /// There are writes that no WAIT has waited for: on this upstream, and on one before it.
    wrote: bool,
    wrote_elsewhere: bool,
    rare: Option<Box<Rare>>,
}

/// What most sessions have none of.
#[derive(Debug, Default)]
struct Rare {
    set: Vec<(Slot, Box<[u8]>)>,
    /// What waits for replies.
    effects: VecDeque<Option<Effect>>,
}

impl State {
    fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Why it can't be put on another connection, if that is so.
    pub(super) fn pin(&self) -> Option<Pin> {
        if let Some(pin) = self.lasting {
            return Some(pin);
        }
        [
            (self.is_quitting, Pin::Quit),
            (self.is_in_multi, Pin::Transaction),
            (self.watches, Pin::Watch),
            (self.is_subscribed(), Pin::Subscription),
            (self.tracks, Pin::Tracking),
            (self.answering != Answering::On, Pin::RepliesOff),
            (self.once, Pin::UnknownCommand),
        ]
        .into_iter()
        .find_map(|(holds, pin)| holds.then_some(pin))
    }

    /// Whether it is in the midst of something that soon comes to an end.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_multi || self.watches
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed != [0; 3]
    }

    /// A subscription was confirmed, with how many there are now. Those of channels and patterns are counted together.
    pub(super) fn subscribes(&mut self, to: Channels, total: u32) {
        let [channels, patterns, _] = self.subscribed;
        self.subscribed[to as usize] = match to {
            Channels::Names => total.saturating_sub(patterns),
            Channels::Patterns => total.saturating_sub(channels),
            Channels::Shards => total,
        };
    }

    /// How many there are.
    pub(super) fn subscriptions(&self, to: Channels) -> u32 {
        self.subscribed[to as usize]
    }

    pub(super) fn pin_for_good(&mut self, pin: Pin) {
        self.lasting.get_or_insert(pin);
    }

    pub(super) fn watch(&mut self) {
        // A WATCH in MULTI is refused.
        self.watches = true;
    }

    /// A command that leaves something behind is queued.
    pub(super) fn queues(&mut self) {
        self.has_queued = true;
    }

    /// A transaction is over. Of what was executed in it nobody knows what it has left behind.
    pub(super) fn exec(&mut self) {
        if std::mem::take(&mut self.has_queued) {
            self.pin_for_good(Pin::Transaction);
        }
        self.is_in_multi = false;
        self.watches = false;
    }

    /// A command goes to the upstream; whether it writes, and whether something holds for the one behind it.
    pub(super) fn passes(&mut self, writes: bool, once: bool) {
        self.wrote |= writes;
        self.once = once;
    }

    /// WAIT goes to the upstream: false where it would answer for writes that this upstream does not know of.
    pub(super) fn waits(&mut self) -> bool {
        self.wrote = false;
        !self.wrote_elsewhere
    }

    /// Another upstream takes the place of this one.
    pub(super) fn leaves_upstream(&mut self) {
        self.wrote_elsewhere |= std::mem::take(&mut self.wrote);
        if let Some(rare) = &mut self.rare {
            rare.effects.clear();
        }
    }

    /// Something is to be noted once the reply is there.
    pub(super) fn expect(&mut self, effect: Option<Effect>) {
        if let Some(Effect::Tracking(true)) = effect {
            self.tracks = true;
        }
        self.rare().effects.push_back(effect);
    }

    /// The reply to what waited first is there, and good or an error.
    pub(super) fn settle(&mut self, is_good: bool) {
        let effect = self.rare.as_mut().and_then(|rare| rare.effects.pop_front()).flatten();
        let Some(effect) = effect.filter(|_| is_good) else { return };
        match effect {
            Effect::Set(slot, command) => self.set(slot, command),
            Effect::Hello { protocol, name, authenticates } => {
                if let Some(protocol) = protocol {
                    self.is_resp3 = protocol == 3;
                    let hello = || resp::commands(&[vec![b"HELLO", b"3"]]).expose().to_vec();
                    self.set(Slot::Protocol, self.is_resp3.then(hello));
                }
                if name.is_some() {
                    self.set(Slot::Name, name);
                }
                if authenticates {
                    self.pin_for_good(Pin::OwnAuth);
                }
            }
            Effect::Auth => self.pin_for_good(Pin::OwnAuth),
            Effect::Discard => {
                self.has_queued = false;
                self.exec();
            }
            Effect::Unwatch => self.watches = false,
            Effect::Tracking(on) => self.tracks = on,
            Effect::Unknown => self.pin_for_good(Pin::UnknownCommand),
            Effect::Reset { is_harmless } => {
                // What was sent behind it holds.
                let (is_in_multi, watches, tracks) = (self.is_in_multi, self.watches, self.tracks);
                let (answering, is_quitting) = (self.answering, self.is_quitting);
                self.reset();
                *self = Self { answering, is_in_multi, watches, tracks, is_quitting, ..std::mem::take(self) };
                if !is_harmless {
                    // As whom it goes on no handshake of ours could tell.
                    self.pin_for_good(Pin::OwnAuth);
                }
            }
        }
        self.shrink();
    }

    fn set(&mut self, slot: Slot, command: Option<Vec<u8>>) {
        let set = &mut self.rare().set;
        set.retain(|(known, _)| *known != slot);
        if let Some(command) = command {
            set.push((slot, command.into()));
            set.sort_unstable_by_key(|(slot, _)| *slot);
        }
    }

    fn shrink(&mut self) {
        if let Some(rare) = &mut self.rare
            && rare.effects.is_empty()
        {
            if rare.set.is_empty() {
                self.rare = None;
            } else {
                rare.effects = VecDeque::new();
                rare.set.shrink_to_fit();
            }
        }
    }

    /// RESET is sent, and commands behind it before it is answered.
    pub(super) fn begins_reset(&mut self) {
        self.is_in_multi = false;
        self.watches = false;
        self.tracks = false;
    }

    /// RESET has worked. What a client's library says of itself survives it.
    pub(super) fn reset(&mut self) {
        let rare = self.rare.take().map(|mut rare| {
            rare.set.retain(|(slot, _)| {
                matches!(slot, Slot::LibraryName | Slot::LibraryVersion | Slot::Capabilities)
            });
            rare
        });
        let (wrote, wrote_elsewhere) = (self.wrote, self.wrote_elsewhere);
        *self = Self { wrote, wrote_elsewhere, rare, ..Self::default() };
        self.shrink();
    }

    /// What puts it on another connection.
    pub(super) fn restore(&self) -> Restore {
        let set = self.rare.iter().flat_map(|rare| &rare.set);
        Restore(set.map(|(slot, command)| (command.to_vec(), slot.is_needed())).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn restored(state: &State) -> Vec<String> {
        let restore = state.restore();
        restore.commands().map(|(command, _)| String::from_utf8_lossy(command).into_owned()).collect()
    }

    #[test]
    fn what_was_set_is_put_on_another_connection_in_order_and_reset_takes_it_away() {
        let mut state = State::default();
        let set = |slot, command: &str| Some(Effect::Set(slot, Some(command.into())));
        state.expect(set(Slot::LibraryName, "lib"));
        state.expect(set(Slot::Database, "refused"));
        state.expect(set(Slot::Database, "1"));
        state.expect(Some(Effect::Hello {
            protocol: Some(3),
            name: Some(b"me".to_vec()),
            authenticates: false,
        }));
        state.expect(None);
        state.expect(set(Slot::Database, "2"));
        for good in [true, false, true, true, true, true] {
            state.settle(good);
        }
        assert_eq!(restored(&state), ["*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", "me", "2", "lib"]);
        assert!(state.is_resp3 && state.pin().is_none());
        state.reset();
        assert_eq!(restored(&state), ["lib"]);
        assert!(!state.is_resp3);
    }

    #[test]
    fn a_pin_ends_with_its_cause() {
        let mut state = State::default();
        state.watch();
        state.is_in_multi = true;
        state.expect(Some(Effect::Discard));
        state.settle(false);
        assert_eq!(state.pin(), Some(Pin::Transaction));
        state.exec();
        assert_eq!(state.pin(), None);
        state.expect(Some(Effect::Tracking(true)));
        assert_eq!(state.pin(), Some(Pin::Tracking));
        state.settle(true);
        state.expect(Some(Effect::Tracking(false)));
        state.settle(true);
        assert_eq!(state.pin(), None);
        state.pin_for_good(Pin::UnknownCommand);
        state.exec();
        assert_eq!(state.pin(), Some(Pin::UnknownCommand));
        state.reset();
        assert_eq!(state.pin(), None);
    }

    #[test]
    fn nobody_waits_for_writes_of_another_upstream() {
        let mut state = State::default();
        state.passes(true, false);
        assert!(state.waits());
        state.leaves_upstream();
        assert!(state.waits(), "they were waited for");
        state.passes(true, false);
        state.leaves_upstream();
        state.passes(true, false);
        assert!(!state.waits());
    }
}
