//! The ambassador as its users meet it: the real binary, in front of real Redis servers and of servers that a test
//! plays byte by byte. A file a capability; every test is named as a promise.

mod handshake;
mod links;
mod process;
mod redis;
mod retry;
mod secrets;
mod settings;
mod support;
mod tls;
mod tls_chain;
mod tls_errors;
mod tls_rotation;
mod tunnel;
