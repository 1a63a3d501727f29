//! Passwords that can be told from anything else, and the search for them.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// A part of every password made so far, which nothing else contains.
static TOKENS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A number that no other call returns.
pub(crate) fn random() -> u64 {
    RandomState::new().build_hasher().finish()
}

/// A piece of text that occurs nowhere else; no output of any ambassador may hold it from now on.
pub(crate) fn token() -> String {
    let token = format!("{:016x}", random());
    TOKENS.lock().unwrap_or_else(PoisonError::into_inner).push(token.clone());
    token
}

/// A password that no output of any ambassador may hold from now on.
pub(crate) fn password() -> String {
    format!("pass-{}", token())
}

/// A password of `len` bytes with every byte value in it, and a token at either end.
pub(crate) fn every_byte(len: usize) -> Vec<u8> {
    let (head, tail) = (token(), token());
    let mut bytes = head.into_bytes();
    bytes.extend(b"\r\nSELECT 9\r\n");
    let filling = len - bytes.len() - tail.len();
    bytes.extend((0..=u8::MAX).cycle().take(filling));
    bytes.extend(tail.into_bytes());
    bytes
}

/// The passwords that `output` holds a part of.
pub(crate) fn found_in(output: &str) -> Vec<String> {
    let tokens = TOKENS.lock().unwrap_or_else(PoisonError::into_inner);
    tokens.iter().filter(|token| output.contains(*token)).cloned().collect()
}
