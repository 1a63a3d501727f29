//! Words for people out of what machines say.

use std::io;

/// The kernel's words without its number.
pub fn io_error(error: &io::Error) -> String {
    let words = error.to_string();
    match words.split_once(" (os error") {
        Some((words, _)) => words.to_owned(),
        None => words,
    }
}

/// Bytes of a stranger, fit for one line of a log or a reply: nothing but printable characters.
pub fn one_line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let printable = |c: char| if c.is_control() { ' ' } else { c };
    text.trim().chars().map(printable).collect()
}
