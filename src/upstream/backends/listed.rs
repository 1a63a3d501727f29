//! From what a source lists to backends: a name stands for each of its addresses.
//!
//! Every address that a name is known by is a [`Backend`] of its own, from the first answer that has it until the name
//! [has left it](super::addresses). A balance chooses among the servers of the last answer, each of which is an
//! [`Entry`]: an address is a server, except where a name has just one of each family. Those are two ways to one server
//! (RFC 8305), as `localhost` has them: it is one entry, shown by its name, and it is down only when neither serves.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::time::Instant;

use super::addresses::Addresses;
use super::ejection::Ejection;
use crate::net::Address;
use crate::net::resolve::Addresses as Answer;
use crate::net::{Endpoint, Host};
use crate::upstream::credentials::AuthState;
use crate::upstream::handshake::Probe;

/// One address to dial, and what dials have found out about it.
#[derive(Debug)]
pub struct Backend {
    /// Where it is.
    pub address: Address,
    /// How the server tells its role.
    pub probe: Probe,
    /// What the server said to our passwords.
    pub auth_state: AuthState,
    /// Connections and dials at this moment.
    pub(super) active: AtomicUsize,
    /// Whether nothing leads to it any more: no list has it, or its name has left it.
    pub(super) gone: AtomicBool,
    /// Whether it had the role that the link asks for when it was last seen.
    pub(super) has_role: AtomicBool,
    pub(super) rest: Ejection,
}

impl Backend {
    fn new(address: Address) -> Arc<Self> {
        Arc::new(Self {
            address,
            probe: Probe::default(),
            auth_state: AuthState::default(),
            active: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            has_role: AtomicBool::new(false),
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

/// An endpoint as a source lists it, and what is known of its name.
#[derive(Debug)]
pub struct Listed {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// What comes of its name not being resolved.
    pub(super) rest: Ejection,
    name: Mutex<Name>,
}

/// What is known of a name; of an endpoint without one, its only backend.
#[derive(Debug, Default)]
struct Name {
    addresses: Addresses,
    /// The backends at its addresses, in the order in which they became known: an answer's own order says nothing, and
    /// many servers give another one each time.
    known: Vec<Arc<Backend>>,
    /// Those of them that the last answer had.
    current: Vec<Arc<Backend>>,
}

/// What an answer has changed.
pub(super) struct Change {
    /// The addresses that the name has left.
    pub(super) left: Vec<IpAddr>,
    /// Whether it is another set of backends than before.
    pub(super) is_another: bool,
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

    /// The name to resolve before a dial, if there is one.
    pub fn name(&self) -> Option<&Host> {
        match &self.endpoint {
            Endpoint::Tcp(host @ (Host::Name(_) | Host::Linked { .. }), _) => Some(host),
            Endpoint::Tcp(Host::Address(_) | Host::LinkLocal(_), _) | Endpoint::Unix(_) => None,
        }
    }

    /// Takes in an answer of its name.
    pub(super) fn resolved(&self, answer: &Answer, now: Instant) -> Change {
        let Endpoint::Tcp(_, port) = self.endpoint else {
            return Change { left: Vec::new(), is_another: false };
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
        // Of what half an answer does not tell nothing is known to have changed.
        let is_current = |backend: &&Arc<Backend>| {
            backend.address.ip().is_some_and(|ip| answer.contains(&ip) || !answer.tell_of(ip))
        };
        let current: Vec<_> = name.known.iter().filter(is_current).cloned().collect();
        let is_another = !current.iter().map(Arc::as_ptr).eq(name.current.iter().map(Arc::as_ptr));
        name.current = current;
        Change { left, is_another }
    }

    /// No list has it any more.
    pub(super) fn leave(&self) {
        for backend in &self.name.lock().known {
            backend.gone.store(true, Ordering::SeqCst);
        }
    }

    /// Whether connections sit at one of its addresses.
    pub fn is_used(&self) -> bool {
        self.name.lock().known.iter().any(|backend| backend.active() > 0)
    }

    /// The servers that it stands for now; one without any backend where its name has not been resolved yet.
    pub(super) fn entries(self: &Arc<Self>, priority: u16, weight: Option<u16>) -> Vec<Arc<Entry>> {
        let servers = servers(&self.name.lock().current);
        let siblings = servers.len();
        let entry = |backends| Entry { listed: Arc::clone(self), backends, siblings, priority, weight };
        servers.into_iter().map(|backends| Arc::new(entry(backends))).collect()
    }
}

/// The servers at these addresses.
fn servers(current: &[Arc<Backend>]) -> Vec<Vec<Arc<Backend>>> {
    let ipv6 = current.iter().filter(|backend| backend.is_ipv6()).count();
    if ipv6 <= 1 && current.len() - ipv6 <= 1 {
        vec![current.to_vec()]
    } else {
        current.iter().map(|backend| vec![Arc::clone(backend)]).collect()
    }
}

/// A server: what a balance chooses from.
#[derive(Debug)]
pub struct Entry {
    pub(super) listed: Arc<Listed>,
    /// The ways to it; none while its name has not been resolved yet.
    pub backends: Vec<Arc<Backend>>,
    /// How many servers its name stands for.
    pub(super) siblings: usize,
    /// Those with the lowest number go first.
    pub(super) priority: u16,
    /// The share of its name among those of one priority; `None` where the order of the list counts.
    pub(super) weight: Option<u16>,
}

impl Entry {
    /// The endpoint that stands for it.
    pub fn endpoint(&self) -> &Endpoint {
        &self.listed.endpoint
    }

    /// The ways to it.
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.backends.iter().filter_map(|backend| backend.address.ip()).collect()
    }

    pub fn active(&self) -> usize {
        self.backends.iter().map(|backend| backend.active()).sum()
    }

    pub(super) fn has(&self, backend: &Arc<Backend>) -> bool {
        self.backends.iter().any(|own| Arc::ptr_eq(own, backend))
    }

    pub(super) fn is_of(&self, listed: &Arc<Listed>) -> bool {
        Arc::ptr_eq(&self.listed, listed)
    }

    /// Whether there is a way to it that did not fail when it was last tried.
    pub(super) fn is_up(&self) -> bool {
        let fails = !self.backends.is_empty() && self.backends.iter().all(|backend| backend.rest.fails());
        !fails && !self.listed.rest.fails()
    }

    /// Whether others come first now.
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
            // The frozen address in the variable is not the one that is dialled.
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
