//! A client's own authentication: AUTH and HELLO as Redis reads them.

use std::borrow::Cow;

use crate::text;

/// The user that a password alone is for.
pub const DEFAULT_USER: &[u8] = b"default";

pub const OK: &str = "+OK\r\n";

/// What a client shows, which may be a secret, so it has no `Debug`.
pub struct Shown<'a> {
    pub username: &'a [u8],
    pub password: &'a [u8],
}

/// A command, as far as authentication is concerned.
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
