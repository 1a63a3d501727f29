//! What a client's commands have left behind on its connection: what can be put on another one, and what can't.

use std::borrow::Cow;
use std::str::FromStr;

pub use crate::metrics::session::Pin;
use crate::resp;
use crate::resp::auth::{Command, command};

/// The longest command that is kept for other upstreams, in bytes. Who sets more than that keeps its upstream.
const LONGEST_SET: usize = 1024;

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
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

    /// Whether sessions for which it is the same can share a connection.
    fn is_shared(self) -> bool {
        matches!(self, Self::Protocol | Self::Database)
    }

    /// The command that takes away whatever was set; none where nothing does. `database` is the link's.
    fn default(self, database: u32) -> Option<Vec<u8>> {
        let database = database.to_string();
        let words: &[&[u8]] = match self {
            Self::Protocol => &[b"HELLO", b"2"],
            Self::Name => &[b"CLIENT", b"SETNAME", b""],
            Self::Database => &[b"SELECT", database.as_bytes()],
            Self::LibraryName => &[b"CLIENT", b"SETINFO", b"LIB-NAME", b""],
            Self::LibraryVersion => &[b"CLIENT", b"SETINFO", b"LIB-VER", b""],
            // A session that has set one of these shares nothing.
            Self::NoEvict | Self::NoTouch | Self::Capabilities | Self::Readonly => return None,
        };
        Some(encoded(words))
    }
}

/// What a command leaves behind, or takes away, once its reply is good.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Effect {
    Set(Slot, Option<Vec<u8>>),
    Hello {
        protocol: Option<u8>,
        name: Option<Vec<u8>>,
        authenticates: bool,
    },
    /// The client's own AUTH.
    Auth,
    Multi,
    /// The end of a transaction, whatever the reply.
    Exec,
    Discard,
    Watch,
    Unwatch,
    Tracking(bool),
    /// Writes so far were waited for, if all of these numbers of servers have them.
    Wait(Vec<u64>),
    /// RESET, where no handshake follows; whether something of the link's own is lost.
    Reset {
        strips: bool,
    },
    /// May have left anything behind.
    Unknown,
}

impl Effect {
    /// Of a command that sets something that any connection can be given; none of any other. `database` is the link's: in
    /// that one a connection is as any other.
    pub(super) fn setting(arguments: &[Cow<'_, [u8]>], database: u32) -> Option<Self> {
        let words: Vec<&[u8]> = arguments.iter().map(|word| &**word).collect();
        let [name, rest @ ..] = &words[..] else { return None };
        let all = || encoded(&words);
        let (slot, command) = match &name.to_ascii_lowercase()[..] {
            b"select" => {
                let wanted = if let [word] = rest { number(word) } else { None };
                let select = |wanted: u32| encoded(&[b"SELECT", wanted.to_string().as_bytes()]);
                (Slot::Database, (wanted != Some(database)).then(|| wanted.map_or_else(all, select)))
            }
            b"readonly" => (Slot::Readonly, Some(all())),
            b"readwrite" => (Slot::Readonly, None),
            b"hello" => return hello(arguments),
            b"client" => {
                let word = |at: usize| rest.get(at).map_or(Vec::new(), |word| word.to_ascii_lowercase());
                let is_on = || word(1) == b"on";
                match &word(0)[..] {
                    // Without a name it has none.
                    b"setname" => (Slot::Name, rest.get(1).is_some_and(|name| !name.is_empty()).then(all)),
                    b"setinfo" if word(1) == b"lib-name" => (Slot::LibraryName, Some(all())),
                    b"setinfo" if word(1) == b"lib-ver" => (Slot::LibraryVersion, Some(all())),
                    b"no-evict" => (Slot::NoEvict, is_on().then(all)),
                    b"no-touch" => (Slot::NoTouch, is_on().then(all)),
                    b"capa" => (Slot::Capabilities, Some(all())),
                    _ => return None,
                }
            }
            _ => return None,
        };
        let is_short = command.as_ref().is_none_or(|command| command.len() <= LONGEST_SET);
        Some(if is_short { Self::Set(slot, command) } else { Self::Unknown })
    }

    /// What sessions share where this has its effect too; none where that can't be shared.
    fn shared(&self, mut before: Restore) -> Option<Restore> {
        match self {
            Self::Set(slot, command) if slot.is_shared() => put(&mut before.0, *slot, command.clone()),
            Self::Set(slot, command) if slot.is_needed() && command.is_some() => return None,
            Self::Set(..) => {}
            Self::Hello { protocol: Some(protocol), authenticates: false, .. } => {
                put(&mut before.0, Slot::Protocol, (*protocol == 3).then(hello_3));
            }
            _ => return None,
        }
        Some(before)
    }

    /// Whether a reply that is no error is a good one.
    pub(super) fn is_met(&self, reply: &[u8]) -> bool {
        let Self::Wait(wanted) = self else { return true };
        let lines = reply
            .split(|byte| *byte == b'\n')
            .filter_map(|line| line.strip_prefix(b":")?.strip_suffix(b"\r"));
        let numbers: Vec<u64> =
            lines.filter_map(|line| std::str::from_utf8(line).ok()?.parse().ok()).collect();
        numbers.len() == wanted.len() && numbers.iter().zip(wanted).all(|(has, wanted)| has >= wanted)
    }

    /// Whether the client says who it is.
    pub(super) fn authenticates(&self) -> bool {
        matches!(self, Self::Auth | Self::Hello { authenticates: true, .. })
    }

    /// Whether a transaction goes on behind the command, if it has to do with one.
    pub(super) fn transaction(&self) -> Option<bool> {
        match self {
            Self::Multi | Self::Watch => Some(true),
            Self::Exec | Self::Discard | Self::Unwatch | Self::Reset { .. } => Some(false),
            _ => None,
        }
    }
}

/// HELLO, with its version and maybe a name.
fn hello(arguments: &[Cow<'_, [u8]>]) -> Option<Effect> {
    let Command::Hello(credential, kept) = command(arguments) else { return None };
    let protocol = match kept.get(1).map(|version| &version[..]) {
        None => None,
        Some(b"2") => Some(2),
        Some(b"3") => Some(3),
        Some(_) => return Some(Effect::Unknown),
    };
    let name = kept.get(2..).and_then(<[_]>::last).map(|name| encoded(&[b"CLIENT", b"SETNAME", name]));
    let name = name.filter(|name| name.len() <= LONGEST_SET);
    Some(Effect::Hello { protocol, name, authenticates: credential.is_some() })
}

/// A number, as a command has it.
pub(super) fn number<T: FromStr>(word: &[u8]) -> Option<T> {
    std::str::from_utf8(word).ok()?.parse().ok()
}

fn hello_3() -> Vec<u8> {
    encoded(&[b"HELLO", b"3"])
}

pub(super) fn encoded(words: &[&[u8]]) -> Vec<u8> {
    resp::commands(&[words.to_vec()]).expose().to_vec()
}

/// Commands that put a session's state on another connection.
#[derive(Debug, Default, Clone, PartialEq, Eq, Hash)]
pub struct Restore(Set);

impl Restore {
    /// The commands, as RESP arrays, and whether each of them has to succeed.
    pub fn commands(&self) -> impl ExactSizeIterator<Item = (&[u8], bool)> {
        self.0.iter().map(|(slot, command)| (&command[..], slot.is_needed()))
    }

    /// Whether a connection that sessions share in this state is the same behind a command that sets something, as far as
    /// that makes a difference to them.
    pub fn bears(&self, arguments: &[Cow<'_, [u8]>], database: u32) -> bool {
        let effect = Effect::setting(arguments, database);
        effect.and_then(|effect| effect.shared(self.clone())).is_some_and(|after| after == *self)
    }

    /// What takes all of it away again; none where nothing does.
    pub fn undone(&self, database: u32) -> Option<Self> {
        let undone = self.0.iter().map(|(slot, _)| Some((*slot, slot.default(database)?.into())));
        undone.collect::<Option<_>>().map(Self)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// Pins that hold until RESET. There may be several: which is the first one says nothing of the others.
#[derive(Debug, Default, Clone, Copy)]
struct Lasting(u16);

impl Lasting {
    fn add(&mut self, pin: Pin) {
        self.0 |= 1 << pin as u16;
    }

    fn has(self, pin: Pin) -> bool {
        self.0 & 1 << pin as u16 != 0
    }
}

/// What was set, and the commands that set it, in order.
type Set = Vec<(Slot, Box<[u8]>)>;

fn put(set: &mut Set, slot: Slot, command: Option<Vec<u8>>) {
    set.retain(|(known, _)| *known != slot);
    if let Some(command) = command {
        set.push((slot, command.into()));
        set.sort_unstable_by_key(|(slot, _)| *slot);
    }
}

/// The state that the replies so far tell of; but for [`answering`](Self::answering), which has to be known as soon as a
/// command is sent.
#[derive(Debug, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is a fact of its own about the connection")]
pub(super) struct State {
    pub(super) answering: Answering,
    pub(super) is_resp3: bool,
    /// Subscriptions: of channels, of patterns, of shard channels.
    subscribed: [u32; 3],
    is_in_multi: bool,
    /// Whether something is queued there that leaves something behind.
    has_queued: bool,
    watches: bool,
    tracks: bool,
    lasting: Lasting,
    /// What was sent last holds for the next command alone.
    once: bool,
    /// The client has said that it leaves.
    pub(super) is_quitting: bool,
    /// There are writes that no WAIT has waited for: on this upstream, and on one before it.
    wrote: bool,
    wrote_elsewhere: bool,
    /// Boxed, since most sessions set nothing.
    set: Option<Box<Set>>,
}

impl State {
    /// Why it can't be put on another connection, if that is so.
    pub(super) fn pin(&self) -> Option<Pin> {
        Pin::ALL.into_iter().find(|pin| self.is_pinned(*pin))
    }

    fn is_pinned(&self, pin: Pin) -> bool {
        self.lasting.has(pin)
            || match pin {
                Pin::Transaction => self.is_in_multi,
                Pin::Watch => self.watches,
                Pin::Subscription => self.is_subscribed(),
                Pin::Tracking => self.tracks,
                Pin::OwnAuth | Pin::LostFraming => false,
                Pin::RepliesOff => self.answering != Answering::On,
                Pin::UnknownCommand => self.once,
                Pin::Quit => self.is_quitting,
            }
    }

    /// Whether an AUTH of ours would do no harm here.
    pub(super) fn bears_auth(&self) -> bool {
        // In RESP3 commands may stand among subscriptions.
        let is_free = self.is_resp3 || !self.is_pinned(Pin::Subscription);
        let is_ours =
            ![Pin::OwnAuth, Pin::LostFraming, Pin::Transaction].iter().any(|pin| self.lasting.has(*pin));
        let is_alone = !self.is_in_multi && !self.once && self.answering == Answering::On;
        is_free && is_ours && is_alone && !self.is_quitting
    }

    /// Whether it is in the midst of something that soon comes to an end.
    pub(super) fn is_in_transaction(&self) -> bool {
        self.is_in_multi || self.watches
    }

    pub(super) fn is_in_multi(&self) -> bool {
        self.is_in_multi
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

    pub(super) fn pin_until_reset(&mut self, pin: Pin) {
        self.lasting.add(pin);
    }

    /// Whether the upstream may say something of its own accord among replies in RESP3.
    pub(super) fn gets_pushes(&self) -> bool {
        self.is_resp3 && (self.is_subscribed() || self.tracks)
    }

    /// A command goes to the upstream; whether something holds for the one behind it.
    #[inline]
    pub(super) fn sends(&mut self, once: bool) {
        self.once = once;
    }

    /// The upstream may have written something.
    #[inline]
    pub(super) fn wrote(&mut self) {
        self.wrote = true;
    }

    /// Whether a WAIT would be answered by an upstream that does not know of all the writes that it is for.
    pub(super) fn wrote_elsewhere(&self) -> bool {
        self.wrote_elsewhere
    }

    /// Another upstream takes the place of this one.
    pub(super) fn leaves_upstream(&mut self) {
        self.wrote_elsewhere |= std::mem::take(&mut self.wrote);
    }

    /// The reply to a command that leaves something behind is there.
    pub(super) fn replied(&mut self, effect: Effect, is_good: bool) {
        match effect {
            Effect::Exec if self.is_in_multi => {
                // Of what was executed nobody knows what it has left behind.
                if self.has_queued && is_good {
                    self.pin_until_reset(Pin::Transaction);
                }
                self.wrote |= is_good;
                self.ends_transaction();
            }
            Effect::Discard if self.is_in_multi && is_good => self.ends_transaction(),
            Effect::Reset { strips } if is_good => self.reset(strips),
            _ if is_good && self.is_in_multi => self.has_queued = true,
            effect if is_good => self.apply(effect),
            _ => {}
        }
    }

    fn ends_transaction(&mut self) {
        self.is_in_multi = false;
        self.has_queued = false;
        self.watches = false;
    }

    fn apply(&mut self, effect: Effect) {
        match effect {
            Effect::Set(slot, command) => self.set(slot, command),
            Effect::Hello { protocol, name, authenticates } => {
                if let Some(protocol) = protocol {
                    self.is_resp3 = protocol == 3;
                    self.set(Slot::Protocol, self.is_resp3.then(hello_3));
                }
                if name.is_some() {
                    self.set(Slot::Name, name);
                }
                if authenticates {
                    self.pin_until_reset(Pin::OwnAuth);
                }
            }
            Effect::Auth => self.pin_until_reset(Pin::OwnAuth),
            Effect::Multi => self.is_in_multi = true,
            Effect::Exec | Effect::Discard | Effect::Reset { .. } => {}
            Effect::Watch => self.watches = true,
            Effect::Unwatch => self.watches = false,
            Effect::Tracking(on) => self.tracks = on,
            Effect::Wait(_) => self.wrote = false,
            Effect::Unknown => self.pin_until_reset(Pin::UnknownCommand),
        }
    }

    fn set(&mut self, slot: Slot, command: Option<Vec<u8>>) {
        put(self.set.get_or_insert_default(), slot, command);
        self.shrink();
    }

    fn shrink(&mut self) {
        self.set.take_if(|set| set.is_empty());
        if let Some(set) = &mut self.set {
            set.shrink_to_fit();
        }
    }

    /// RESET has worked. What a client's library says of itself survives it, and what was said behind it.
    pub(super) fn reset(&mut self, strips: bool) {
        let mut set = self.set.take();
        if let Some(set) = &mut set {
            set.retain(|(slot, _)| {
                matches!(slot, Slot::LibraryName | Slot::LibraryVersion | Slot::Capabilities)
            });
        }
        let Self { wrote, wrote_elsewhere, answering, once, is_quitting, .. } = *self;
        *self = Self { answering, once, is_quitting, wrote, wrote_elsewhere, set, ..Self::default() };
        self.shrink();
        if strips {
            // As whom it goes on no handshake of ours could tell.
            self.pin_until_reset(Pin::OwnAuth);
        }
    }

    /// What puts it on a connection that it shares with others of the same state; none where that can't be.
    pub(super) fn shared(&self) -> Option<Restore> {
        let Restore(mut set) = self.restore();
        set.retain(|(slot, _)| slot.is_needed());
        (self.pin().is_none() && set.iter().all(|(slot, _)| slot.is_shared())).then_some(Restore(set))
    }

    /// The same behind a command that sets something, if that has worked.
    pub(super) fn shared_behind(&self, arguments: &[Cow<'_, [u8]>], database: u32) -> Option<Restore> {
        Effect::setting(arguments, database)?.shared(self.shared()?)
    }

    /// What puts it on another connection.
    pub(super) fn restore(&self) -> Restore {
        Restore(self.set.as_deref().cloned().unwrap_or_default())
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
        let set = |slot, command: &str| Effect::Set(slot, Some(command.into()));
        state.replied(set(Slot::LibraryName, "lib"), true);
        state.replied(set(Slot::Database, "refused"), false);
        state.replied(set(Slot::Database, "1"), true);
        let hello = Effect::Hello { protocol: Some(3), name: Some(b"me".to_vec()), authenticates: false };
        state.replied(hello, true);
        state.replied(set(Slot::Database, "2"), true);
        assert_eq!(restored(&state), ["*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n", "me", "2", "lib"]);
        assert!(state.is_resp3 && state.pin().is_none());
        state.reset(false);
        assert_eq!(restored(&state), ["lib"]);
        assert!(!state.is_resp3);
    }

    fn words(command: &str) -> Vec<Cow<'_, [u8]>> {
        command.split(' ').map(|word| Cow::Borrowed(word.as_bytes())).collect()
    }

    /// Commands that one after the other are good, and whether an upstream that sessions share bears the last one.
    #[test]
    fn what_changes_nothing_is_borne() {
        for (said, is_borne) in [
            (&["SELECT 1"][..], false),
            (&["SELECT 7"], true),
            (&["SELECT 1", "SELECT 1"], true),
            (&["SELECT 1", "SELECT 7"], false),
            (&["SELECT 1", "SELECT 7", "SELECT 7"], true),
            (&["SELECT 1", "SELECT 1 x"], false),
            (&["SELECT 1", "HELLO"], false),
            (&["HELLO 2"], true),
            (&["HELLO 3"], false),
            (&["HELLO 3", "HELLO 3"], true),
            (&["HELLO 3", "HELLO 2"], false),
            (&["HELLO 3", "hello 3 setname me"], true),
            (&["HELLO 3", "HELLO 3 AUTH a b"], false),
            (&["HELLO 03"], false),
            (&["HELLO 4"], false),
            (&["CLIENT SETNAME me"], true),
            (&["CLIENT SETINFO LIB-NAME lib"], true),
            (&["client setinfo lib-ver 1"], true),
            (&["CLIENT SETINFO OTHER 1"], false),
            (&["CLIENT NO-EVICT ON"], false),
            (&["CLIENT NO-EVICT OFF"], true),
            (&["CLIENT CAPA redirect"], false),
            (&["READONLY"], false),
            (&["READWRITE"], true),
            (&["CLIENT TRACKING ON"], false),
            (&["CLIENT KILL x"], false),
            (&["MULTI"], false),
            (&["RESET"], false),
            (&["AUTH x"], false),
            (&["GET a"], false),
        ] {
            let [before @ .., last] = said else { continue };
            let mut state = State::default();
            for command in before {
                state.replied(Effect::setting(&words(command), 7).expect("a setting"), true);
            }
            let shared = state.shared().expect("a shared one");
            assert_eq!(shared.bears(&words(last), 7), is_borne, "{said:?}");
            // Where the session would go for it, it is borne.
            let behind = state.shared_behind(&words(last), 7);
            assert!(behind.as_ref().is_none_or(|behind| behind.bears(&words(last), 7)), "{said:?}");
            assert!(!is_borne || behind == Some(shared), "{said:?}");
        }
    }

    #[test]
    fn what_was_set_can_be_undone() {
        let mut state = State::default();
        for command in ["HELLO 3 SETNAME you SETNAME me", "SELECT 1", "CLIENT SETINFO LIB-VER 1"] {
            state.replied(Effect::setting(&words(command), 7).expect("a setting"), true);
        }
        let undone = state.restore().undone(7).expect("a way back");
        let undone: Vec<u8> = undone.commands().flat_map(|(command, _)| command.to_vec()).collect();
        let expected = [
            &["HELLO", "2"][..],
            &["CLIENT", "SETNAME", ""],
            &["SELECT", "7"],
            &["CLIENT", "SETINFO", "LIB-VER", ""],
        ];
        let expected: Vec<u8> = expected
            .iter()
            .flat_map(|words| encoded(&words.iter().map(|word| word.as_bytes()).collect::<Vec<_>>()))
            .collect();
        assert_eq!(undone.escape_ascii().to_string(), expected.escape_ascii().to_string());
        state.replied(Effect::setting(&words("CLIENT NO-TOUCH on"), 7).expect("a setting"), true);
        assert!(state.restore().undone(7).is_none());
    }

    #[test]
    fn a_pin_ends_with_its_cause() {
        let mut state = State::default();
        state.replied(Effect::Watch, true);
        state.replied(Effect::Multi, true);
        state.replied(Effect::Unwatch, true);
        state.replied(Effect::Discard, false);
        assert_eq!(state.pin(), Some(Pin::Transaction));
        state.replied(Effect::Exec, false);
        assert_eq!(state.pin(), None, "nothing was executed");
        state.replied(Effect::Tracking(true), true);
        assert_eq!(state.pin(), Some(Pin::Tracking));
        state.replied(Effect::Tracking(false), true);
        assert_eq!(state.pin(), None);
        state.pin_until_reset(Pin::UnknownCommand);
        state.replied(Effect::Exec, true);
        assert_eq!(state.pin(), Some(Pin::UnknownCommand));
        state.reset(false);
        assert_eq!(state.pin(), None);
        state.replied(Effect::Multi, true);
        state.replied(Effect::Auth, true);
        state.replied(Effect::Exec, true);
        assert_eq!(state.pin(), Some(Pin::Transaction), "as whom it goes on nobody knows");
    }

    #[test]
    fn one_pin_hides_no_other() {
        for (pin, bears) in [
            (Pin::UnknownCommand, true),
            (Pin::OwnAuth, false),
            (Pin::LostFraming, false),
            (Pin::Transaction, false),
        ] {
            let mut state = State::default();
            state.pin_until_reset(pin);
            assert_eq!(state.bears_auth(), bears, "{pin:?}");
            state.replied(Effect::Multi, true);
            assert!(!state.bears_auth(), "{pin:?}");
            state.replied(Effect::Exec, true);
            state.sends(true);
            assert!(!state.bears_auth(), "{pin:?}");
        }
    }

    #[test]
    fn nobody_waits_for_writes_of_another_upstream() {
        let mut state = State::default();
        state.wrote();
        state.replied(Effect::Wait(vec![1]), true);
        state.leaves_upstream();
        assert!(!state.wrote_elsewhere(), "they were waited for");
        state.wrote();
        state.leaves_upstream();
        assert!(state.wrote_elsewhere());
        state.replied(Effect::Wait(vec![1]), true);
        assert!(state.wrote_elsewhere());
    }

    #[test]
    fn a_wait_is_met_by_as_many_servers_as_it_is_for() {
        for (wanted, reply, is_met) in [
            (vec![1], &b":1\r\n"[..], true),
            (vec![1], b":0\r\n", false),
            (vec![1], b":12\r\n", true),
            (vec![1, 2], b"*2\r\n:1\r\n:2\r\n", true),
            (vec![1, 2], b"*2\r\n:1\r\n:1\r\n", false),
            (vec![1, 2], b"*2\r\n:1\r\n:", false),
            (vec![1], b"+OK\r\n", false),
        ] {
            assert_eq!(Effect::Wait(wanted).is_met(reply), is_met, "{}", reply.escape_ascii());
        }
        assert!(Effect::Multi.is_met(b"+OK\r\n"));
    }
}
