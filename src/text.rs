//! Text for messages: errors of the kernel, and bytes from a peer.

use std::io;

/// The kernel's message without the error number.
pub fn io_error(error: &io::Error) -> String {
    let words = error.to_string();
    match words.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => words,
    }
}

/// Bytes from a peer as one printable line for a log or a reply: control characters become spaces.
pub fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(printable).collect()
}
