//! The one way to leave.
//!
//! Whoever wants a living connection to end (a drain, a connection's own age, a target that moved) says the same
//! thing: *go at your first quiet moment, at the latest then, for this reason*. [`Connections`] holds a [`Seat`] for
//! every connection of a link; the relay watches its own seat and knows nothing of who asked. Dropping a seat is how a
//! connection ends, whatever path it takes, so an empty room means that all are gone.
//!
//! Once dialled, a connection has a [`Place`] at one of the link's backends, by which those that sit at the same one
//! can be asked.
//!
//! The seat is also where a connection counts the bytes that it moves: on its own, with no other connection to wait for.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::{Mutex, MutexGuard};
use slab::Slab;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::upstream::backends::{Backend, Place};

/// Why a connection is asked to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// The process is ending.
    Drain,
    /// The connection has reached its age.
    Lifetime,
    /// Its backend is not one of the link's any more.
    Moved,
    /// Its backend does not have the role any more that the link asks for.
    Demoted,
}

impl Reason {
    /// The reason's name in the log.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Lifetime => "max lifetime",
            Self::Moved => "target moved",
            Self::Demoted => "target demoted",
        }
    }
}

/// A request to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leave {
    /// Why.
    pub reason: Reason,
    /// From when on a quiet moment is good enough: many who are asked together need not go together.
    pub from: Instant,
    /// When, if no quiet moment has come before.
    pub latest: Instant,
}

/// The connections of one link.
#[derive(Debug, Default)]
pub struct Connections {
    room: Mutex<Room>,
    emptied: Notify,
}

#[derive(Debug, Default)]
struct Room {
    seats: Slab<Arc<Request>>,
    /// What was asked of all; it also holds for those who come later.
    everyone: Option<Leave>,
    /// What those who have left had moved.
    moved_before: Moved,
}

/// Bytes, both ways.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that the target took.
    pub to_target: u64,
    /// Bytes that the client took.
    pub to_client: u64,
}

impl Moved {
    fn add(&mut self, other: Self) {
        self.to_target += other.to_target;
        self.to_client += other.to_client;
    }
}

#[derive(Debug, Default)]
struct Request {
    state: Mutex<State>,
    waker: AtomicWaker,
    /// Bytes so far, stored by the connection alone.
    to_target: AtomicU64,
    to_client: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    /// Boxed, since most are never asked.
    leave: Option<Box<Leave>>,
    /// Known once the dial has come to an end.
    place: Option<Place>,
}

impl Request {
    fn ask(&self, leave: Leave) {
        self.state.lock().leave = Some(Box::new(leave));
        self.waker.wake();
    }

    fn moved(&self) -> Moved {
        Moved {
            to_target: self.to_target.load(Ordering::Relaxed),
            to_client: self.to_client.load(Ordering::Relaxed),
        }
    }
}

impl Connections {
    /// Takes a connection in.
    pub fn enter(self: &Arc<Self>) -> Seat {
        let mut room = self.room();
        let state = State { leave: room.everyone.map(Box::new), place: None };
        let request = Arc::new(Request { state: Mutex::new(state), ..Request::default() });
        let number = room.seats.insert(Arc::clone(&request));
        Seat { connections: Arc::clone(self), request, number }
    }

    /// Asks every connection to go, those that are here and those that may still come; returns how many are here.
    pub fn ask_all(&self, leave: Leave) -> usize {
        let mut room = self.room();
        room.everyone = Some(leave);
        for (_, request) in &room.seats {
            request.ask(leave);
        }
        room.seats.len()
    }

    /// Asks those to go that sit where `leaves` says, and have not been asked yet; returns how many that are.
    /// `when` gives each its request, by its number among how many.
    pub fn ask_those(&self, leaves: impl Fn(&Place) -> bool, when: impl Fn(usize, usize) -> Leave) -> usize {
        let room = self.room();
        let leaving = |request: &&Arc<Request>| {
            let state = request.state.lock();
            state.place.as_ref().is_some_and(&leaves) && state.leave.is_none()
        };
        let leaving: Vec<_> = room.seats.iter().map(|(_, request)| request).filter(leaving).collect();
        for (number, request) in leaving.iter().enumerate() {
            request.ask(when(number, leaving.len()));
        }
        leaving.len()
    }

    /// How many are here.
    pub fn count(&self) -> usize {
        self.room().seats.len()
    }

    /// Bytes that all connections so far have moved, those that are here and those that have left.
    pub fn moved(&self) -> Moved {
        let room = self.room();
        let mut moved = room.moved_before;
        room.seats.iter().for_each(|(_, request)| moved.add(request.moved()));
        moved
    }

    /// Waits until nobody is here.
    pub async fn emptied(&self) {
        loop {
            // Registered before the look, so that the last one can't slip out between the two.
            let emptied = self.emptied.notified();
            if self.room().seats.is_empty() {
                return;
            }
            emptied.await;
        }
    }

    fn room(&self) -> MutexGuard<'_, Room> {
        self.room.lock()
    }
}

/// A connection's place among the [`Connections`]; given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    connections: Arc<Connections>,
    request: Arc<Request>,
    number: usize,
}

impl Seat {
    /// Takes a place at a backend; one that was taken before is given back.
    pub fn sit(&self, place: Place) {
        self.request.state.lock().place = Some(place);
    }

    /// The backend that the connection sits at.
    pub fn backend(&self) -> Option<Arc<Backend>> {
        self.request.state.lock().place.as_ref().map(|place| Arc::clone(place.backend()))
    }

    /// Counts bytes that the connection has moved.
    pub fn count(&self, moved: Moved) {
        // Nobody else stores here, so that what was loaded is still true: a plain store is enough, and costs nothing.
        let count = |counter: &AtomicU64, bytes| {
            if bytes > 0 {
                counter.store(counter.load(Ordering::Relaxed) + bytes, Ordering::Relaxed);
            }
        };
        count(&self.request.to_target, moved.to_target);
        count(&self.request.to_client, moved.to_client);
    }

    /// Ready once the connection has been asked to go.
    pub fn poll_leave(&self, cx: &Context<'_>) -> Poll<Leave> {
        self.request.waker.register(cx.waker());
        match self.request.state.lock().leave.as_deref() {
            Some(leave) => Poll::Ready(*leave),
            None => Poll::Pending,
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut room = self.connections.room();
        room.seats.remove(self.number);
        room.moved_before.add(self.request.moved());
        if room.seats.is_empty() {
            self.connections.emptied.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
