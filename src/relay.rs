//! The relay: bytes both ways between a client and its target.
//!
//! A [`Tunnel`] is two [copies](copy) and knows no protocol. A [`Session`] is two copies with exact boundaries: it knows
//! where commands and replies end, and so whether the client waits for something, and can go on with another upstream
//! where it does not. What both promise, on any two streams:
//!
//! - Each side's end of stream is passed on by itself, after every byte before it (half-close).
//! - A side that breaks ends the connection: what it had sent before is still handed over, then the caller resets the
//!   other side ([`End::Broken`]).
//! - A side that reads slowly slows the other one down: nothing is read from one side while bytes wait for the other.
//! - A side that breaks while nothing is read from it, because it had ended its stream or because the other side does
//!   not keep up, is found out too, by looking ([`Side::take_error`](crate::net::Side::take_error)).
//! - An idle connection holds no buffer. Bytes are read into one buffer a thread, and written straight out; only what
//!   the other side would not take at once is kept by the connection.

mod copy;
pub mod drain;
#[cfg(test)]
mod model;
mod pair;
mod session;
pub mod shared;
mod timers;
mod tunnel;
mod way;

use std::io;

use self::drain::Reason;
pub use self::session::state::Restore;
pub use self::session::{Cause, Event, Named, Own, Policy, Reset, Session};
pub use self::shared::{Driver, Ended, Seat, Shared, UNASKED_ERROR};
pub use self::timers::Limits;
pub use self::tunnel::Tunnel;
pub use self::way::Way;

/// One of the two ends of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Party {
    /// The one that connected to us.
    Client,
    /// The one that we connected to.
    Target,
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// Both sides ended their streams.
    Closed,
    /// One side broke; the other is to be reset.
    Broken(Party, io::Error),
    /// Nothing moved for the idle timeout.
    Idle,
    /// It was asked to go, and went.
    Left(Reason),
}

impl End {
    /// The end's name in logs.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Closed => "eof",
            Self::Broken(Party::Client, _) => "client_error",
            Self::Broken(Party::Target, _) => "target_error",
            Self::Idle => "idle_timeout",
            Self::Left(reason) => reason.name(),
        }
    }

    /// What the kernel or TLS said of a stream that broke.
    pub fn error(&self) -> Option<&io::Error> {
        match self {
            Self::Broken(_, error) => Some(error),
            _ => None,
        }
    }
}
