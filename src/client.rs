//! The side of the clients: accept, admit, authenticate, serve.

pub mod accept;
pub mod auth;
pub mod connection;
