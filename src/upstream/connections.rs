//! The registry of a link's connections.
//!
//! A [`Seat`] is a connection's registration; dropping it is how a connection ends, whatever path it takes, so an empty
//! registry means that all are gone. Once dialled, a connection has a [`Place`] at one of the link's backends, by which
//! those at the same one can be asked to end.

use std::ops::Deref;
use std::sync::Arc;

use parking_lot::Mutex;
use slab::Slab;
use tokio::sync::Notify;

use super::backends::{Backend, Place};
use crate::relay::drain::{Handle, Leave, Moved};

/// The connections of one link.
#[derive(Debug, Default)]
pub struct Connections {
    registry: Mutex<Registry>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Registry {
    connections: Slab<Arc<Registered>>,
    /// What was asked of all; it also holds for those that come later.
    everyone: Option<Leave>,
    /// What those that have ended had moved.
    moved_before: Moved,
}

#[derive(Debug, Default)]
struct Registered {
    handle: Handle,
    /// Known once the dial has come to an end.
    place: Mutex<Option<Place>>,
}

impl Connections {
    /// Registers a connection.
    pub fn enter(self: &Arc<Self>) -> Seat {
        let mut registry = self.registry.lock();
        let registered = Registered { handle: Handle::new(registry.everyone), place: Mutex::default() };
        let connection = Arc::new(registered);
        let number = registry.connections.insert(Arc::clone(&connection));
        Seat { connections: Arc::clone(self), connection, number }
    }

    /// Asks every connection to end, those that are here and those that may still come; returns how many are here.
    pub fn ask_all(&self, leave: Leave) -> usize {
        let mut registry = self.registry.lock();
        registry.everyone = Some(leave);
        for (_, connection) in &registry.connections {
            connection.handle.ask(leave);
        }
        registry.connections.len()
    }

    /// Asks those to end at whose place `leaves` holds, and that have not been asked yet; returns how many that are.
    /// `when` gives each its request, by its number among how many.
    pub fn ask_those(&self, leaves: impl Fn(&Place) -> bool, when: impl Fn(usize, usize) -> Leave) -> usize {
        let registry = self.registry.lock();
        let leaving = |connection: &&Arc<Registered>| {
            connection.place.lock().as_ref().is_some_and(&leaves) && !connection.handle.is_asked()
        };
        let leaving: Vec<_> =
            registry.connections.iter().map(|(_, connection)| connection).filter(leaving).collect();
        for (number, connection) in leaving.iter().enumerate() {
            connection.handle.ask(when(number, leaving.len()));
        }
        leaving.len()
    }

    /// How many are here.
    pub fn count(&self) -> usize {
        self.registry.lock().connections.len()
    }

    /// Bytes that all connections so far have moved, those that are here and those that have ended.
    pub fn moved(&self) -> Moved {
        let registry = self.registry.lock();
        let mut moved = registry.moved_before;
        registry.connections.iter().for_each(|(_, connection)| moved.add(connection.handle.moved()));
        moved
    }

    /// Waits until none is here.
    pub async fn emptied(&self) {
        loop {
            // Registered before the look, so that the last one can't slip out between the two.
            let emptied = self.emptied.notified();
            if self.registry.lock().connections.is_empty() {
                return;
            }
            emptied.await;
        }
    }
}

/// A connection's registration; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    connection: Arc<Registered>,
    number: usize,
}

impl Seat {
    /// Takes a place at a backend; one that was taken before is given back.
    pub fn sit(&self, place: Place) {
        *self.connection.place.lock() = Some(place);
    }

    /// The backend that the connection is at.
    pub fn backend(&self) -> Option<Arc<Backend>> {
        self.connection.place.lock().as_ref().map(|place| Arc::clone(place.backend()))
    }
}

impl Deref for Seat {
    type Target = Handle;

    fn deref(&self) -> &Handle {
        &self.connection.handle
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut registry = self.connections.registry.lock();
        registry.connections.remove(self.number);
        registry.moved_before.add(self.connection.handle.moved());
        if registry.connections.is_empty() {
            self.connections.emptied.notify_waiters();
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
        let (first, second) = (connections.enter(), connections.enter());
        drop(first);
        assert_eq!(connections.count(), 1);
        let ((), ()) = tokio::join!(connections.emptied(), async { drop(second) });
        assert_eq!(connections.count(), 0);
    }

    #[test]
    fn bytes_are_counted_while_a_connection_is_here_and_after_it_has_left() {
        let connections = Arc::new(Connections::default());
        let (first, second) = (connections.enter(), connections.enter());
        first.count(Moved { to_target: 3, to_client: 0 });
        second.count(Moved { to_target: 1, to_client: 7 });
        first.count(Moved { to_target: 2, to_client: 1 });
        let all = Moved { to_target: 6, to_client: 8 };
        assert_eq!(connections.moved(), all);
        drop(first);
        assert_eq!(connections.moved(), all);
        drop(second);
        assert_eq!(connections.moved(), all);
    }

    #[tokio::test]
    async fn what_is_asked_of_all_holds_for_those_who_come_later() {
        let connections = Arc::new(Connections::default());
        let early = connections.enter();
        let leave = Leave { reason: Reason::Drain, from: Instant::now(), latest: Instant::now() };
        assert_eq!(connections.ask_all(leave), 1);
        let late = connections.enter();
        for seat in [early, late] {
            let asked = std::future::poll_fn(|cx| seat.poll_leave(cx)).await;
            assert_eq!(asked, leave);
        }
    }
}
