//! From a listed endpoint to its servers and addresses.
//!
//! Each address of a name is a [`Backend`], from the first answer with it until it is [gone](super::addresses). Each
//! server of the last answer is an [`Entry`], the unit that a balance chooses. Every address is a server of its own,
//! except where a name has exactly one address of each family: these are two addresses of one server (RFC 8305), as
//! with `localhost`. That is one entry, shown by its name, and down only when both addresses fail.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::ejection::Ejection;
use crate::net::Address;
use crate::net::resolve::Addresses as Answer;
use crate::net::{Endpoint, Host};
use crate::upstream::credentials::AuthState;
use crate::upstream::handshake::Probe;

/// An address to dial, and what is known of it from earlier dials.
#[derive(Debug)]
pub struct Backend {
    /// No other one has it, nor will have it.
    pub number: u64,
    pub address: Address,
    /// What the server's handshake has shown: which commands it knows, whether it requires a password.
    pub probe: Probe,
    /// The passwords that the server has accepted and refused.
    pub auth_state: AuthState,
    /// Current connections and dials.
    pub(super) active: AtomicUsize,
    /// Whether it is no longer listed: its endpoint was removed, or its name no longer has the address.
    pub(super) gone: AtomicBool,
    /// Whether it had the required role when it was last asked.
    pub(super) has_role: AtomicBool,
    /// Whether it had another one.
    pub(super) has_other_role: AtomicBool,
    pub(super) rest: Ejection,
}

impl Backend {
    fn new(address: Address) -> Arc<Self> {
        static LAST: AtomicU64 = AtomicU64::new(0);
        Arc::new(Self {
            number: LAST.fetch_add(1, Ordering::Relaxed) + 1,
            address,
            probe: Probe::default(),
            auth_state: AuthState::default(),
            active: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            has_role: AtomicBool::new(false),
            has_other_role: AtomicBool::new(false),
            rest: Ejection::default(),
        })
    }

    pub fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn has(&self, address: IpAddr) -> bool {
        self.address.ip() == Some(address)
    }

    fn is_ipv6(&self) -> bool {
        self.address.ip().is_some_and(|ip| ip.is_ipv6())
    }
}

/// An endpoint of the source, and the addresses of its name.
#[derive(Debug)]
pub struct Listed {
    pub endpoint: Endpoint,
    /// The back-off of a name that can't be resolved.
    pub(super) rest: Ejection,
    name: Mutex<Name>,
}

/// The backends of a name; of an endpoint without a name, its only backend.
#[derive(Debug, Default)]
struct Name {
    addresses: Addresses,
    /// The backends at its addresses, in the order in which they became known: the order of an answer means
    /// nothing, and
    /// many DNS servers rotate it.
    known: Vec<Arc<Backend>>,
    /// Those in the last answer.
    current: Vec<Arc<Backend>>,
}

impl Listed {
    pub(super) fn new(endpoint: Endpoint) -> Arc<Self> {
        let address = match &endpoint {
            Endpoint::Unix(path) => Some(Address::Unix(path.clone())),
            Endpoint::Tcp(Host::Address(address), port) => Some(Address::Tcp((*address, *port).into())),
            Endpoint::Tcp(Host::LinkLocal(link_local), port) => {
                Some(Address::LinkLocal(link_local.clone(), *port))
            }
            Endpoint::Tcp(Host::Name(_) | Host::Linked { .. }, _) => None,
        };
        let known: Vec<_> = address.map(Backend::new).into_iter().collect();
        let name = Name { addresses: Addresses::default(), current: known.clone(), known };
        Arc::new(Self { endpoint, rest: Ejection::default(), name: Mutex::new(name) })
    }

    /// The name to resolve before a dial; `None` for an address or a Unix socket.
    pub fn name(&self) -> Option<&Host> {
        match &self.endpoint {
            Endpoint::Tcp(host @ (Host::Name(_) | Host::Linked { .. }), _) => Some(host),
            Endpoint::Tcp(Host::Address(_) | Host::LinkLocal(_), _) | Endpoint::Unix(_) => None,
        }
    }

    /// Takes in an answer for its name; returns the addresses that are gone.
    pub(super) fn resolved(&self, answer: &Answer, now: Instant) -> Vec<IpAddr> {
        let Endpoint::Tcp(_, port) = self.endpoint else {
            return Vec::new();
        };
        let mut name = self.name.lock();
        let left = name.addresses.answered(answer, now);
        for gone in name.known.extract_if(.., |backend| left.iter().any(|address| backend.has(*address))) {
            gone.gone.store(true, Ordering::SeqCst);
        }
        for address in answer.iter() {
            if !name.known.iter().any(|backend| backend.has(*address)) {
                name.known.push(Backend::new(Address::Tcp((*address, port).into())));
            }
        }
        // An answer for one address family changes nothing in the other.
        let is_current = |backend: &&Arc<Backend>| {
            backend.address.ip().is_some_and(|ip| answer.contains(&ip) || !answer.tell_of(ip))
        };
        name.current = name.known.iter().filter(is_current).cloned().collect();
        left
    }

    /// Marks its backends as gone: the source no longer lists it.
    pub(super) fn leave(&self) {
        for backend in &self.name.lock().known {
            backend.gone.store(true, Ordering::SeqCst);
        }
    }

    /// Whether one of its addresses has connections.
    pub fn is_used(&self) -> bool {
        self.name.lock().known.iter().any(|backend| backend.active() > 0)
    }

    /// The servers that it currently stands for; before its name is resolved, one without any backend.
    pub(super) fn entries(self: &Arc<Self>, priority: u16, weight: Option<u16>) -> Vec<Arc<Entry>> {
        let servers = servers(&self.name.lock().current);
        let siblings = servers.len();
        let entry = |backends| Entry { listed: Arc::clone(self), backends, siblings, priority, weight };
        servers.into_iter().map(|backends| Arc::new(entry(backends))).collect()
    }
}

/// Groups addresses by server.
fn servers(current: &[Arc<Backend>]) -> Vec<Vec<Arc<Backend>>> {
    let ipv6 = current.iter().filter(|backend| backend.is_ipv6()).count();
    if ipv6 <= 1 && current.len() - ipv6 <= 1 {
        vec![current.to_vec()]
    } else {
        current.iter().map(|backend| vec![Arc::clone(backend)]).collect()
    }
}

/// A server: the unit that a balance chooses.
#[derive(Debug)]
pub struct Entry {
    pub(super) listed: Arc<Listed>,
    /// Its addresses; none before its name is resolved.
    pub backends: Vec<Arc<Backend>>,
    /// The number of servers of its name.
    pub(super) siblings: usize,
    /// The lowest number is tried first.
    pub(super) priority: u16,
    /// The weight of its name among those of one priority; `None` where the order of the list decides.
    pub(super) weight: Option<u16>,
}

impl Entry {
    /// The endpoint that it was found by.
    pub fn endpoint(&self) -> &Endpoint {
        &self.listed.endpoint
    }

    pub fn addresses(&self) -> Vec<IpAddr> {
        self.backends.iter().filter_map(|backend| backend.address.ip()).collect()
    }

    pub fn active(&self) -> usize {
        self.backends.iter().map(|backend| backend.active()).sum()
    }

    /// Whether both are servers at the same addresses.
    pub(super) fn are_same(some: &[Arc<Self>], others: &[Arc<Self>]) -> bool {
        let addresses = |entry: &Arc<Self>| entry.backends.iter().map(Arc::as_ptr).collect::<Vec<_>>();
        some.iter().map(addresses).eq(others.iter().map(addresses))
    }

    pub(super) fn has(&self, backend: &Arc<Backend>) -> bool {
        self.backends.iter().any(|own| Arc::ptr_eq(own, backend))
    }

    pub(super) fn is_of(&self, listed: &Arc<Listed>) -> bool {
        Arc::ptr_eq(&self.listed, listed)
    }

    /// Whether one of its addresses did not fail when it was last dialled.
    pub(super) fn is_up(&self) -> bool {
        let fails = !self.backends.is_empty() && self.backends.iter().all(|backend| backend.rest.fails());
        !fails && !self.listed.rest.fails()
    }

    /// Whether it had the required role when it was last asked, at one of its addresses; `None` before.
    pub(super) fn has_role(&self) -> Option<bool> {
        let any = |of: fn(&Backend) -> &AtomicBool| {
            self.backends.iter().any(|backend| of(backend).load(Ordering::Relaxed))
        };
        let has_other_role = any(|backend| &backend.has_other_role);
        any(|backend| &backend.has_role).then_some(true).or(has_other_role.then_some(false))
    }

    /// Whether it is in back-off: its name, or all of its addresses.
    pub(super) fn rests(&self, now: Instant) -> bool {
        let rests = |backend: &Arc<Backend>| backend.rest.holds(now);
        let all_rest = !self.backends.is_empty() && self.backends.iter().all(rests);
        all_rest || self.listed.rest.holds(now)
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let endpoint = &self.listed.endpoint;
        match (endpoint, self.backends.first().map(|backend| &backend.address)) {
            // Docker froze the address in the variable; show the one that is dialled.
            (Endpoint::Tcp(Host::Linked { .. }, _), Some(address)) => address.fmt(f),
            (_, Some(Address::Tcp(address))) if self.siblings > 1 => {
                write!(f, "{endpoint} ({})", address.ip())
            }
            _ => endpoint.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed() -> Arc<Listed> {
        Listed::new(crate::config::target::endpoint("h:1", None).expect("an endpoint"))
    }

    fn shown(listed: &Arc<Listed>) -> Vec<String> {
        listed.entries(0, None).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn one_address_of_each_family_is_one_server_and_more_are_several() {
        let listed = listed();
        assert_eq!(shown(&listed), ["h:1"]);
        for (answer, expected) in [
            (vec!["10.0.0.1"], vec!["h:1"]),
            (vec!["::1", "10.0.0.1"], vec!["h:1"]),
            (vec!["10.0.0.1", "10.0.0.2"], vec!["h:1 (10.0.0.1)", "h:1 (10.0.0.2)"]),
            // In the order in which they became known.
            (
                vec!["10.0.0.3", "10.0.0.2", "10.0.0.1"],
                vec!["h:1 (10.0.0.1)", "h:1 (10.0.0.2)", "h:1 (10.0.0.3)"],
            ),
            (vec!["::2"], vec!["h:1"]),
        ] {
            let answer: Vec<IpAddr> = answer.into_iter().map(|address| address.parse().unwrap()).collect();
            listed.resolved(&Answer::whole(answer), Instant::now());
            assert_eq!(shown(&listed), expected);
        }
    }

    #[test]
    fn a_backend_is_the_same_for_as_long_as_its_name_has_its_address() {
        let listed = listed();
        let backends = |answer: &[IpAddr]| {
            listed.resolved(&Answer::whole(answer), Instant::now());
            listed.entries(0, None).iter().flat_map(|entry| entry.backends.clone()).collect::<Vec<_>>()
        };
        let [a, b, c] = [1, 2, 3].map(|last| IpAddr::from([10, 0, 0, last]));
        let first = backends(&[a, b]);
        assert!(Arc::ptr_eq(&backends(&[b])[0], &first[1]));
        assert!(Arc::ptr_eq(&backends(&[b, a])[0], &first[0]));
        backends(&[c]);
        assert!(first.iter().all(|backend| backend.gone.load(Ordering::SeqCst)));
        assert!(!Arc::ptr_eq(&backends(&[a])[0], &first[0]));
    }
}
