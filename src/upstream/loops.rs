//! Ambassadors that lead to themselves, or to each other.
//!
//! An address where this very process listens is not dialled ([`Listening`]). A connection that comes back by way of
//! another ambassador can't be told from others; but its client has the address of a target that has not answered yet, and will not
//! before that client is served. So while a target owes the answer to a handshake, further dials for clients that come
//! from its address wait for that answer ([`Unanswered`]). Where it comes, as it does from every server that has clients of
//! its own beside it, nobody has lost more than a moment.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::failure::Failure;
use crate::net::{Address, Stream};

/// On one host everybody has the same address: so many may be unanswered there before anybody waits.
const ON_THIS_HOST: usize = 8;

/// Where this process listens for clients.
#[derive(Debug, Default)]
pub struct Listening {
    /// From the start to the end.
    links: Vec<Address>,
    /// By the listener's own words, for as long as it is open.
    nodes: RwLock<HashMap<String, Vec<Address>>>,
}

impl FromIterator<Address> for Listening {
    fn from_iter<T: IntoIterator<Item = Address>>(addresses: T) -> Self {
        Self { links: addresses.into_iter().collect(), nodes: RwLock::default() }
    }
}

impl Listening {
    /// A listener was opened.
    pub fn add(&self, listener: &str, addresses: impl IntoIterator<Item = Address>) {
        self.nodes.write().insert(listener.to_owned(), addresses.into_iter().collect());
    }

    /// It is to be closed.
    pub fn remove(&self, listener: &str) {
        self.nodes.write().remove(listener);
    }

    /// Whether a connection to that address would lead back here.
    pub fn has(&self, address: &Address) -> bool {
        let Address::Tcp(dialled) = address else { return self.links.contains(address) };
        let dialled = SocketAddr::new(dialled.ip().to_canonical(), dialled.port());
        self.links.iter().chain(self.nodes.read().values().flatten()).any(|listening| match listening {
            Address::Tcp(every) if every.ip().is_unspecified() => {
                // Every address of IPv6 is every one of IPv4 too, but not the other way round.
                let covers = every.is_ipv6() || dialled.is_ipv4();
                covers && every.port() == dialled.port() && is_of_this_host(dialled)
            }
            Address::Tcp(one) => *one == dialled,
            Address::LinkLocal(..) | Address::Unix(_) => false,
        })
    }
}

/// Whether the address is one of this host's own: then the kernel's way to it begins at that address. Nothing is sent.
fn is_of_this_host(address: SocketAddr) -> bool {
    let any: IpAddr =
        if address.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0)).and_then(|socket| {
        socket.connect(address)?;
        socket.local_addr()
    });
    address.ip().is_loopback() || socket.is_ok_and(|local| local.ip() == address.ip())
}

/// Targets that have not answered the first word of a handshake, by their address.
#[derive(Debug, Default)]
pub struct Unanswered(Mutex<HashMap<IpAddr, Waiting>>);

#[derive(Debug, Default)]
struct Waiting {
    handshakes: usize,
    /// Told of each that has ended.
    answers: Arc<Notify>,
}

/// A handshake without an answer, until it is dropped.
#[derive(Debug)]
pub struct Asked<'a> {
    unanswered: &'a Unanswered,
    host: Option<IpAddr>,
}

/// The host at the other end, if it has an address; every one of this host counts as the same.
pub fn host(stream: &Stream) -> Option<IpAddr> {
    let (ours, theirs) = stream.ends()?;
    let is_this_host = theirs.ip().is_loopback() || ours.ip() == theirs.ip();
    Some(if is_this_host { Ipv4Addr::LOCALHOST.into() } else { theirs.ip() })
}

impl Unanswered {
    /// A handshake begins over this connection.
    pub fn begin(&self, stream: &Stream) -> Asked<'_> {
        let host = host(stream);
        if let Some(host) = host {
            self.0.lock().entry(host).or_default().handshakes += 1;
        }
        Asked { unanswered: self, host }
    }

    /// Returns once a dial for a client from this [`host`] may begin.
    ///
    /// # Errors
    ///
    /// The client's own host has not answered for so long.
    pub async fn wait(&self, host: Option<IpAddr>, most: Duration) -> Result<(), Failure> {
        let Some(host) = host else { return Ok(()) };
        let few = if host.is_loopback() { ON_THIS_HOST } else { 1 };
        let answered = match self.0.lock().get(&host) {
            Some(waiting) if waiting.handshakes >= few => Arc::clone(&waiting.answers).notified_owned(),
            _ => return Ok(()),
        };
        timeout(most, answered).await.map_err(|_| Failure::LeadsBack { host, after: most })
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        let Some(host) = self.host else { return };
        let mut unanswered = self.unanswered.0.lock();
        if let Some(waiting) = unanswered.get_mut(&host) {
            waiting.handshakes -= 1;
            waiting.answers.notify_waiters();
            if waiting.handshakes == 0 {
                unanswered.remove(&host);
            }
        }
    }
}
