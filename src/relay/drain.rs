//! A connection as others see it: it can be asked to end, and it counts the bytes that it moves.
//!
//! Whatever wants a connection to end (a drain, its lifetime, a target that moved) makes the same request: *end at your
//! first quiet moment, at the latest then, for this reason*. The relay looks at its own [`Handle`] and knows nothing of
//! who asked.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use futures_util::task::AtomicWaker;
use parking_lot::Mutex;
use tokio::time::Instant;

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
    /// The reason's name in logs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::Lifetime => "max_lifetime",
            Self::Moved => "moved",
            Self::Demoted => "demoted",
        }
    }
}

/// A request to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainRequest {
    /// Why.
    pub reason: Reason,
    /// From when on a quiet moment is good enough: many who are asked together need not go together.
    pub from: Instant,
    /// When, if no quiet moment has come before.
    pub latest: Instant,
}

/// Bytes, both ways.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Moved {
    /// Bytes that the target took.
    pub to_target: u64,
    /// Bytes that the client took.
    pub to_client: u64,
    /// Commands of the client's, where they are followed.
    pub commands: u64,
}

impl Moved {
    pub fn add(&mut self, other: Self) {
        self.to_target += other.to_target;
        self.to_client += other.to_client;
        self.commands += other.commands;
    }
}

/// How a connection is reached from outside.
#[derive(Debug, Default)]
pub struct Handle {
    /// Boxed, since most are never asked.
    leave: Mutex<Option<Box<DrainRequest>>>,
    waker: AtomicWaker,
    /// Whether the upstream is to be authenticated again.
    reauthenticates: AtomicBool,
    /// Bytes so far, stored by the connection alone.
    to_target: AtomicU64,
    to_client: AtomicU64,
    commands: AtomicU64,
}

impl Handle {
    /// A connection that is asked from the start, or not.
    pub fn new(leave: Option<DrainRequest>) -> Self {
        Self { leave: Mutex::new(leave.map(Box::new)), ..Self::default() }
    }

    /// Asks the connection to end.
    pub fn ask(&self, leave: DrainRequest) {
        *self.leave.lock() = Some(Box::new(leave));
        self.waker.wake();
    }

    /// The connection has done what this request asked for, and goes on; another one may follow.
    pub fn done(&self, leave: DrainRequest) {
        self.leave.lock().take_if(|asked| **asked == leave);
    }

    /// Asks for the upstream to be authenticated again, with another secret.
    pub fn ask_for_authentication(&self) {
        self.reauthenticates.store(true, Ordering::Relaxed);
        self.waker.wake();
    }

    /// Whether that was asked for.
    pub fn wants_authentication(&self) -> bool {
        self.reauthenticates.load(Ordering::Relaxed)
    }

    /// It has been seen to.
    pub fn forget_authentication(&self) {
        self.reauthenticates.store(false, Ordering::Relaxed);
    }

    /// Whether it has been asked.
    pub fn is_asked(&self) -> bool {
        self.leave.lock().is_some()
    }

    /// Ready once the connection has been asked to end.
    pub fn poll_drain(&self, cx: &Context<'_>) -> Poll<DrainRequest> {
        self.waker.register(cx.waker());
        match self.leave.lock().as_deref() {
            Some(leave) => Poll::Ready(*leave),
            None => Poll::Pending,
        }
    }

    /// Counts what the connection has moved.
    pub fn count(&self, moved: Moved) {
        // Nobody else stores here, so that what was loaded is still true: a plain store is enough, and costs nothing.
        let count = |counter: &AtomicU64, number| {
            if number > 0 {
                counter.store(counter.load(Ordering::Relaxed) + number, Ordering::Relaxed);
            }
        };
        count(&self.to_target, moved.to_target);
        count(&self.to_client, moved.to_client);
        count(&self.commands, moved.commands);
    }

    /// Bytes so far.
    pub fn moved(&self) -> Moved {
        Moved {
            to_target: self.to_target.load(Ordering::Relaxed),
            to_client: self.to_client.load(Ordering::Relaxed),
            commands: self.commands.load(Ordering::Relaxed),
        }
    }
}
