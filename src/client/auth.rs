//! Clients that authenticate themselves: to nobody, or to the ambassador, but never to the target.
//!
//! `absorb` is for applications that insist on sending some password: whatever AUTH says in the beginning is answered
//! with `+OK`, and a HELLO goes on without it. `require` lets in only who shows the link's own password ([`require`],
//! before anything is dialled); what it has shown is then absorbed. The first command of another kind ends the looking;
//! behind a RESET, which makes a connection as good as new, it begins again.

use std::borrow::Cow;
use std::io;
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::client::connection::read_some;
use crate::failure::Failure;
use crate::net::Stream;
use crate::resp;
use crate::resp::commands::{First, UNAUTHENTICATED, first};
use crate::secret::{LONGEST, Source};
use crate::text;

/// What becomes of a client's own authentication.
#[derive(Debug)]
pub enum ClientAuth {
    /// It is the target's business, as every other command.
    Forward,
    /// It is taken for good, whatever it is.
    Absorb,
    /// Without the right one nobody is served.
    Require(Box<Required>),
}

/// What a client has to show.
#[derive(Debug)]
pub struct Required {
    /// The user; without one, Redis' `default`.
    pub username: Option<Source>,
    /// The password.
    pub password: Source,
}

/// The user that a password alone is for.
const DEFAULT_USER: &[u8] = b"default";

const OK: &str = "+OK\r\n";
const NO_AUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONG_PASSWORD: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const HELLO_WITHOUT_AUTH: &str = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the \
     HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
     same time\r\n";

/// What a client shows, which may be a secret, so it has no `Debug`.
struct Shown<'a> {
    username: &'a [u8],
    password: &'a [u8],
}

/// A leading command.
enum Command<'a> {
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

fn command<'a>(arguments: &'a [Cow<'a, [u8]>]) -> Command<'a> {
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

/// Answers a client until it has shown what is required, as Redis answers one that has not authenticated. `said` holds
/// what it has said already, and afterwards what it said behind that.
pub async fn require(
    client: &mut Stream,
    said: &mut Vec<u8>,
    required: &Required,
    limit: Duration,
) -> Result<(), Failure> {
    let mut has_tried = false;
    let shown = timeout(limit, until_shown(client, said, required, &mut has_tried)).await;
    match shown {
        Ok(Err(Failure::ClientLeft)) if has_tried => {
            // It has its answer, and asks for nothing more.
            let line = Some(String::new());
            Err(Failure::NotAuthenticated { reason: "it left after a wrong password".to_owned(), line })
        }
        Ok(shown) => shown,
        Err(_) => {
            let after = humantime::format_duration(limit);
            let reason = if has_tried {
                format!("it showed no right password within {after}")
            } else {
                format!("it showed none within {after}")
            };
            Err(Failure::NotAuthenticated { reason, line: None })
        }
    }
}

async fn until_shown(
    client: &mut Stream,
    said: &mut Vec<u8>,
    required: &Required,
    has_tried: &mut bool,
) -> Result<(), Failure> {
    let mut stream = Zeroizing::new(std::mem::take(said));
    // Up to where it has been answered.
    let mut at = 0;
    loop {
        // Nothing else may be waited for, however much there is of it.
        consume_budget().await;
        let (arguments, length) = match first(&stream[at..], UNAUTHENTICATED) {
            First::Command(arguments, length) => (arguments, length),
            First::Broken(words) => {
                let line = Some(format!("-ERR Protocol error: {words}\r\n"));
                return Err(Failure::NotAuthenticated { reason: format!("protocol error: {words}"), line });
            }
            First::Partial(_) => {
                stream.drain(..at);
                at = 0;
                match read_more(client, &mut stream).await {
                    Ok(1..) => continue,
                    Ok(0) | Err(_) => return Err(Failure::ClientLeft),
                }
            }
        };
        at += length;
        let reply = match command(&arguments) {
            Command::Nothing => continue,
            Command::Auth(shown) => {
                if required.is_met_by(&shown).await? {
                    said.extend_from_slice(&stream[at..]);
                    return answer(client, OK).await;
                }
                *has_tried = true;
                WRONG_PASSWORD
            }
            Command::Hello(None, _) => HELLO_WITHOUT_AUTH,
            Command::Hello(Some(shown), kept) => {
                if required.is_met_by(&shown).await? {
                    // The answer is the target's, once it is there.
                    said.extend_from_slice(resp::commands(&[kept]).expose());
                    said.extend_from_slice(&stream[at..]);
                    return Ok(());
                }
                *has_tried = true;
                WRONG_PASSWORD
            }
            Command::Wrong(words) => {
                answer(client, &words).await?;
                continue;
            }
            Command::Quit => return Err(Failure::ClientQuit),
            Command::Reset => "+RESET\r\n",
            Command::Other => NO_AUTH,
        };
        answer(client, reply).await?;
    }
}

/// Reads what is there. A buffer that grows leaves no copy behind.
async fn read_more(client: &mut Stream, stream: &mut Zeroizing<Vec<u8>>) -> io::Result<usize> {
    let mut more = Zeroizing::new(Vec::new());
    read_some(client, &mut more).await?;
    if stream.capacity() - stream.len() < more.len() {
        let mut larger = Zeroizing::new(Vec::with_capacity(2 * (stream.len() + more.len())));
        larger.extend_from_slice(stream);
        *stream = larger;
    }
    stream.extend_from_slice(&more);
    Ok(more.len())
}

async fn answer(client: &mut Stream, reply: &str) -> Result<(), Failure> {
    let said = async {
        client.write_all(reply.as_bytes()).await?;
        client.flush().await
    };
    said.await.map_err(|_: io::Error| Failure::ClientLeft)
}

impl Required {
    /// Compares in a time that tells nothing of what is compared.
    async fn is_met_by(&self, shown: &Shown<'_>) -> Result<bool, Failure> {
        let password = self.password.current().await?;
        let username = match &self.username {
            Some(source) => Some(source.current().await?),
            None => None,
        };
        let username = username.as_ref().map_or(DEFAULT_USER, |username| username.expose());
        let same = are_same(shown.username, username) & are_same(shown.password, password.expose());
        Ok(same.into())
    }
}

/// Compares both as if they were as long as can be.
fn are_same(one: &[u8], other: &[u8]) -> subtle::Choice {
    let padded = |bytes: &[u8]| {
        let mut padded = Zeroizing::new(vec![0; LONGEST]);
        let length = bytes.len().min(LONGEST);
        padded[..length].copy_from_slice(&bytes[..length]);
        padded
    };
    padded(one)[..].ct_eq(&padded(other)[..]) & one.len().ct_eq(&other.len())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures_util::FutureExt;
    use tokio::net::UnixStream;

    use super::*;
    use crate::secret::Secret;

    #[tokio::test]
    async fn a_stranger_who_says_nothing_at_length_holds_up_nobody() {
        let (near, _far) = UnixStream::pair().unwrap();
        let mut client = Stream::Unix(near);
        // So much that time which grows with its square would be minutes.
        let mut said = [&b"\r\n".repeat(500_000)[..], b"QUIT\r\n"].concat();
        let password = Source::Variable(Arc::new(Secret::new(b"secret".to_vec())));
        let required = Required { username: None, password };
        let mut has_tried = false;
        let mut asking = Box::pin(until_shown(&mut client, &mut said, &required, &mut has_tried));
        assert!((&mut asking).now_or_never().is_none(), "others had no turn");
        assert!(matches!(asking.await, Err(Failure::ClientQuit)));
    }

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
