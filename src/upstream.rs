//! The side of the target: which servers there are, and how a connection to one becomes an upstream.

pub mod backends;
pub mod cluster;
pub mod connections;
mod conversation;
pub mod credentials;
pub mod dial;
pub mod discovery;
pub mod handshake;
mod link;
pub mod loops;
pub mod pool;
pub mod reauth;
pub mod sharing;

pub use link::LinkRuntime;
