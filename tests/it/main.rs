//! The ambassador as its users meet it: the real binary, in front of real Redis servers and of servers that a test
//! plays byte by byte. A file a capability; every test is named as a promise.

mod admin;
mod backends;
mod certificates;
mod check;
mod client_auth;
mod deployments;
mod documents;
mod faults;
mod handshake;
mod health;
mod links;
mod logs;
mod moving;
mod names;
mod process;
mod redis;
mod reset;
mod retry;
mod rotation;
mod secrets;
mod sentinel;
mod settings;
mod several;
mod srv;
mod start;
mod support;
mod surroundings;
mod tls;
mod tls_chain;
mod tls_errors;
mod tls_rotation;
mod tokens;
mod tunnel;
mod warm;
