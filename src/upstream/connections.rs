//! The registry of a link's connections.
//!
//! A [`ConnectionGuard`] is a connection's registration; every connection holds it until it ends, so an empty registry means that
//! all have ended. Once dialled, a connection has a [`Lease`] at one of the link's backends, so that all connections of
//! one backend can be drained.

use std::ops::Deref;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::backends::Lease;
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
}

impl Connections {
    pub fn register(self: &Arc<Self>) -> ConnectionGuard {
        let mut registry = self.registry.lock();
        let registered = Registered { handle: Handle::new(registry.everyone), lease: Mutex::default() };
        let connection = Arc::new(registered);
        let number = registry.connections.insert(Arc::clone(&connection));
        ConnectionGuard { connections: Arc::clone(self), connection, number }
    }

    /// Drains every connection, also those that register later; returns the number of current ones.
    pub fn drain_all(&self, leave: DrainRequest) -> usize {
        let mut registry = self.registry.lock();
        registry.everyone = Some(leave);
        for (_, connection) in &registry.connections {
            connection.handle.ask(leave);
        }
        registry.connections.len()
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

    /// The number of current connections.
    pub fn count(&self) -> usize {
        self.registry.lock().connections.len()
    }

    /// The number of current connections that have an upstream.
    pub fn upstreams(&self) -> usize {
        let registry = self.registry.lock();
        registry.connections.iter().filter(|(_, connection)| connection.lease.lock().is_some()).count()
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
            if self.registry.lock().connections.is_empty() {
                return;
            }
            idle.await;
        }
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
        registry.moved_before.add(self.connection.handle.moved());
        if registry.connections.is_empty() {
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
