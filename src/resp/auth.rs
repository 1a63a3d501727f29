//! A client's own authentication: AUTH and HELLO as Redis reads them.

use std::borrow::Cow;

use super::commands::{First, UNAUTHENTICATED, first};
use crate::resp;
use crate::text;

/// The user that a password alone is for.
pub const DEFAULT_USER: &[u8] = b"default";

pub const OK: &str = "+OK\r\n";

/// What a client shows, which may be a secret, so it has no `Debug`.
pub struct Shown<'a> {
    pub username: &'a [u8],
    pub password: &'a [u8],
}

/// A leading command.
pub enum Command<'a> {
    /// An empty line or array, to which nobody answers.
    Nothing,
    /// AUTH.
    Auth(Shown<'a>),
    /// HELLO: what it shows, if it does, and what is left of it for the target.
    Hello(Option<Shown<'a>>, Vec<&'a [u8]>),
    /// An AUTH or HELLO that is not right, with Redis' answer.
    Wrong(String),
    /// QUIT and RESET, which Redis takes from everybody.
    Quit,
    Reset,
    /// Any other.
    Other,
}

pub fn command<'a>(arguments: &'a [Cow<'a, [u8]>]) -> Command<'a> {
    let mut words = arguments.iter().map(|argument| &**argument);
    let Some(name) = words.next() else { return Command::Nothing };
    let rest: Vec<&[u8]> = words.collect();
    match (&name.to_ascii_lowercase()[..], &rest[..]) {
        (b"auth", []) => Command::Wrong("-ERR wrong number of arguments for 'auth' command\r\n".to_owned()),
        (b"auth", [password]) => Command::Auth(Shown { username: DEFAULT_USER, password }),
        (b"auth", [username, password]) => Command::Auth(Shown { username, password }),
        (b"auth", _) => Command::Wrong("-ERR syntax error\r\n".to_owned()),
        (b"hello", options) => hello(name, options),
        (b"quit", _) => Command::Quit,
        (b"reset", []) => Command::Reset,
        _ => Command::Other,
    }
}

/// `HELLO [version [AUTH user password] [SETNAME name]]`, as Redis reads it.
fn hello<'a>(name: &'a [u8], arguments: &[&'a [u8]]) -> Command<'a> {
    let mut kept = vec![name];
    let mut shown = None;
    let mut rest = arguments;
    if let [version, options @ ..] = rest {
        match std::str::from_utf8(version).ok().and_then(|version| version.parse().ok()) {
            Some(2_i64 | 3) => {}
            Some(_) => {
                return Command::Wrong("-NOPROTO unsupported protocol version\r\n".to_owned());
            }
            None => {
                let words = "-ERR Protocol version is not an integer or out of range\r\n";
                return Command::Wrong(words.to_owned());
            }
        }
        kept.push(*version);
        rest = options;
    }
    loop {
        match rest {
            [] => return Command::Hello(shown, kept),
            [option, username, password, others @ ..] if option.eq_ignore_ascii_case(b"AUTH") => {
                shown = Some(Shown { username, password });
                rest = others;
            }
            [option, name, others @ ..] if option.eq_ignore_ascii_case(b"SETNAME") => {
                kept.extend([*option, *name]);
                rest = others;
            }
            [option, ..] => {
                let option = text::one_line(option);
                return Command::Wrong(format!("-ERR Syntax error in HELLO option '{option}'\r\n"));
            }
        }
    }
}

/// What comes of the beginning of a stream whose client authenticates to nobody.
#[derive(Debug, PartialEq, Eq)]
pub enum Leading {
    /// It has to be seen more of it.
    Partial,
    /// So many bytes, of one command or more, are answered with this, and the target hears nothing.
    Answered(usize, String),
    /// In the place of so many bytes the target hears this HELLO, whose reply comes before anything else is answered.
    Hello(usize, Vec<u8>),
    /// Something else begins; from here on all is the target's.
    Other,
}

/// The answers that are given at once.
const ANSWERS: usize = 16 * 1024;

/// Looks at the beginning of a stream.
pub fn absorb(stream: &[u8]) -> Leading {
    let (mut length, mut answers) = (0, String::new());
    // Several at once, since what follows them is copied.
    while answers.len() < ANSWERS {
        match absorb_first(&stream[length..]) {
            Leading::Answered(more, answer) => {
                length += more;
                answers += &answer;
            }
            other if length == 0 => return other,
            _ => break,
        }
    }
    Leading::Answered(length, answers)
}

fn absorb_first(stream: &[u8]) -> Leading {
    let may_be_ours = |name: &[u8]| name.eq_ignore_ascii_case(b"AUTH") || name.eq_ignore_ascii_case(b"HELLO");
    match first(stream, UNAUTHENTICATED) {
        First::Partial(Some(name)) if !may_be_ours(name) => Leading::Other,
        First::Partial(_) => Leading::Partial,
        First::Broken(_) => Leading::Other,
        First::Command(arguments, length) => match command(&arguments) {
            Command::Nothing => Leading::Answered(length, String::new()),
            Command::Auth(_) => Leading::Answered(length, OK.to_owned()),
            Command::Wrong(words) => Leading::Answered(length, words),
            Command::Hello(_, kept) => Leading::Hello(length, resp::commands(&[kept]).expose().to_vec()),
            Command::Quit | Command::Reset | Command::Other => Leading::Other,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_answered_is_answered_at_once_up_to_a_measure() {
        let stream = b"AUTH\n".repeat(10_000);
        let Leading::Answered(length, answers) = absorb(&stream) else { panic!("no answer") };
        assert!(length < stream.len() && (ANSWERS..2 * ANSWERS).contains(&answers.len()));
        let stream = [&b"AUTH a\n\nHELLO 9\n"[..], b"PING\n"].concat();
        let answers = "+OK\r\n-NOPROTO unsupported protocol version\r\n".to_owned();
        assert_eq!(absorb(&stream), Leading::Answered(16, answers));
    }
}
