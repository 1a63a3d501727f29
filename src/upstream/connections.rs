//! The registry of a link's connections.
//!
//! A [`ConnectionGuard`] is a connection's registration; every connection holds it until it ends, so an empty registry means that
//! all have ended. Once dialled, a connection has a [`Lease`] at one of the link's backends, so that all connections of
//! one backend can be drained.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::backends::Lease;
use crate::net::Client;
use crate::relay::drain::{DrainRequest, Handle, Moved};

/// The connections of one link.
#[derive(Debug, Default)]
pub struct Connections {
    registry: Mutex<Registry>,
    wait_idle: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    connections: Slab<Arc<Registered>>,
    /// How many of them are clients'; the others are shared by those.
    clients: usize,
    /// Those of clients of whom others say who they are, by their number. Beside the others, which are more, and smaller for it.
    known: HashMap<usize, Known>,
    /// The drain request to all connections; later ones get it too.
    everyone: Option<DrainRequest>,
    /// The bytes of connections that have ended.
    moved_before: Moved,
}

#[derive(Debug, Default)]
struct Registered {
    handle: Handle,
    /// Set after the dial.
    lease: Mutex<Option<Lease>>,
    is_shared: bool,
    /// Whether a client that shares upstreams has one lent for a while.
    is_lent: AtomicBool,
}

impl Connections {
    /// Registers a client.
    pub fn register(self: &Arc<Self>) -> ConnectionGuard {
        self.register_as(false)
    }

    /// Registers an upstream that clients share. It goes when they have gone, so a drain of all is not for it.
    pub fn register_shared(self: &Arc<Self>) -> ConnectionGuard {
        self.register_as(true)
    }

    fn register_as(self: &Arc<Self>, is_shared: bool) -> ConnectionGuard {
        let mut registry = self.registry.lock();
        let everyone = registry.everyone.filter(|_| !is_shared);
        registry.clients += usize::from(!is_shared);
        let handle = Handle::new(everyone);
        let connection = Arc::new(Registered { handle, is_shared, ..Registered::default() });
        let number = registry.connections.insert(Arc::clone(&connection));
        ConnectionGuard { connections: Arc::clone(self), connection, number }
    }

    /// Drains every connection, also those that register later; returns the number of current ones.
    pub fn drain_all(&self, leave: DrainRequest) -> usize {
        let mut registry = self.registry.lock();
        registry.everyone = Some(leave);
        for (_, connection) in registry.connections.iter().filter(|(_, connection)| !connection.is_shared) {
            connection.handle.ask(leave);
        }
        registry.clients
    }

    /// Drains the connections for whose lease `leaves` is true and that are not draining yet; returns their number.
    /// `when(number, count)` makes the request of each.
    pub fn drain_matching(
        &self,
        leaves: impl Fn(&Lease) -> bool,
        when: impl Fn(usize, usize) -> DrainRequest,
    ) -> usize {
        let registry = self.registry.lock();
        let leaving = |connection: &&Arc<Registered>| {
            connection.lease.lock().as_ref().is_some_and(&leaves) && !connection.handle.is_asked()
        };
        let leaving: Vec<_> =
            registry.connections.iter().map(|(_, connection)| connection).filter(leaving).collect();
        for (number, connection) in leaving.iter().enumerate() {
            connection.handle.ask(when(number, leaving.len()));
        }
        leaving.len()
    }

    /// The current connections, to be asked one after the other. One that ends meanwhile gives its lease back at once.
    pub fn all(&self) -> Vec<Reference> {
        let registry = self.registry.lock();
        registry.connections.iter().map(|(_, connection)| Reference(Arc::downgrade(connection))).collect()
    }

    /// The number of current clients.
    pub fn count(&self) -> usize {
        self.registry.lock().clients
    }

    /// The clients of whom others say who they are, by their names and addresses, and how many connections each has.
    pub fn known(&self) -> BTreeMap<(Option<Arc<str>>, Option<IpAddr>), usize> {
        let named = |known: &Known| (known.name.clone(), known.client.address());
        // They are counted behind the lock, for which others wait who come and go.
        let all: Vec<_> = self.registry.lock().known.values().map(named).collect();
        let mut clients = BTreeMap::new();
        for one in all {
            *clients.entry(one).or_default() += 1;
        }
        clients
    }

    /// Whether there is neither a client nor an upstream that clients share.
    pub fn is_empty(&self) -> bool {
        self.registry.lock().connections.is_empty()
    }

    /// The number of upstreams of each kind.
    pub fn upstreams(&self) -> Upstreams {
        let registry = self.registry.lock();
        let leased = registry.connections.iter().filter(|(_, connection)| connection.lease.lock().is_some());
        let mut upstreams = Upstreams::default();
        for (_, connection) in leased {
            *match (connection.is_shared, connection.is_lent.load(Ordering::Relaxed)) {
                (true, _) => &mut upstreams.shared,
                (false, true) => &mut upstreams.lent,
                (false, false) => &mut upstreams.own,
            } += 1;
        }
        upstreams
    }

    /// Bytes forwarded by all connections, current and ended.
    pub fn moved(&self) -> Moved {
        let registry = self.registry.lock();
        let mut moved = registry.moved_before;
        registry.connections.iter().for_each(|(_, connection)| moved.add(connection.handle.moved()));
        moved
    }

    /// Waits until there is no connection.
    pub async fn wait_idle(&self) {
        loop {
            // Subscribed before the check, so that the end of the last connection is not missed.
            let idle = self.wait_idle.notified();
            if self.registry.lock().clients == 0 {
                return;
            }
            idle.await;
        }
    }
}

/// What others say of a client: the balancer that it came through, or the authority that vouches for its certificate.
#[derive(Debug)]
pub struct Known {
    pub client: Client,
    /// What it had dialled, where a balancer says so.
    pub to: Option<SocketAddr>,
    /// Its name, where an authority vouches for it.
    pub name: Option<Arc<str>>,
}

/// How many upstreams there are.
#[derive(Debug, Default, Clone, Copy)]
pub struct Upstreams {
    /// Of a client each.
    pub own: usize,
    /// Of all clients of a thread.
    pub shared: usize,
    /// Of a client each, until it needs none of its own any more.
    pub lent: usize,
}

impl Upstreams {
    /// Of all kinds.
    pub fn all(self) -> usize {
        self.own + self.shared + self.lent
    }
}

/// A connection's registration; removed when dropped.
#[derive(Debug)]
pub struct ConnectionGuard {
    connections: Arc<Connections>,
    connection: Arc<Registered>,
    number: usize,
}

impl ConnectionGuard {
    /// Assigns the connection to a backend; releases the one before.
    pub fn assign(&self, lease: Lease) {
        *self.connection.lease.lock() = Some(lease);
    }

    /// Notes what is known of the client.
    pub fn came_as(&self, known: Known) {
        self.connections.registry.lock().known.insert(self.number, known);
    }

    /// The address that the client had dialled, where a balancer says so.
    pub fn dialled(&self) -> Option<SocketAddr> {
        self.connections.registry.lock().known.get(&self.number)?.to
    }

    /// Whether its upstream is lent, should it have one of its own.
    pub fn is_lent(&self, is_lent: bool) {
        self.connection.is_lent.store(is_lent, Ordering::Relaxed);
    }

    /// Takes the lease away: the connection is at no backend.
    pub fn release(&self) -> Option<Lease> {
        self.connection.lease.lock().take()
    }
}

impl Deref for ConnectionGuard {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.connection.handle
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        let mut registry = self.connections.registry.lock();
        registry.connections.remove(self.number);
        registry.known.remove(&self.number);
        registry.moved_before.add(self.connection.handle.moved());
        registry.clients -= usize::from(!self.connection.is_shared);
        if registry.clients == 0 {
            self.connections.wait_idle.notify_waiters();
        }
    }
}

/// A connection that may have ended.
pub struct Reference(Weak<Registered>);

impl Reference {
    /// Whether it has an upstream now.
    pub fn has_upstream(&self) -> bool {
        self.0.upgrade().is_some_and(|connection| connection.lease.lock().is_some())
    }

    /// Asks for its upstream to be authenticated again, with another secret.
    pub fn ask_for_authentication(&self) {
        if let Some(connection) = self.0.upgrade() {
            connection.handle.ask_for_authentication();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::relay::drain::Reason;

    #[tokio::test]
    async fn the_room_is_empty_once_the_last_seat_is_dropped() {
        let connections = Arc::new(Connections::default());
        let (first, second) = (connections.register(), connections.register());
        drop(first);
        assert_eq!(connections.count(), 1);
        let ((), ()) = tokio::join!(connections.wait_idle(), async { drop(second) });
        assert_eq!(connections.count(), 0);
    }

    #[test]
    fn bytes_are_counted_while_a_connection_is_here_and_after_it_has_left() {
        let connections = Arc::new(Connections::default());
        let (first, second) = (connections.register(), connections.register());
        first.count(Moved { to_target: 3, ..Moved::default() });
        second.count(Moved { to_target: 1, to_client: 7, commands: 2 });
        first.count(Moved { to_target: 2, to_client: 1, commands: 0 });
        let all = Moved { to_target: 6, to_client: 8, commands: 2 };
        assert_eq!(connections.moved(), all);
        drop(first);
        assert_eq!(connections.moved(), all);
        drop(second);
        assert_eq!(connections.moved(), all);
    }

    #[tokio::test]
    async fn what_is_asked_of_all_holds_for_those_who_come_later() {
        let connections = Arc::new(Connections::default());
        let early = connections.register();
        let leave = DrainRequest { reason: Reason::Drain, from: Instant::now(), latest: Instant::now() };
        assert_eq!(connections.drain_all(leave), 1);
        let late = connections.register();
        for guard in [early, late] {
            let asked = std::future::poll_fn(|cx| guard.poll_drain(cx)).await;
            assert_eq!(asked, leave);
        }
    }
}
