//! Clients that authenticate themselves: to nobody, or to the ambassador, but never to the target.
//!
//! `absorb` is for applications that insist on sending some password: whatever AUTH says is answered with `+OK`, and a
//! HELLO goes on without it. `require` lets in only who shows the link's own password ([`require`], before anything is
//! dialled, and again behind a RESET, which makes a connection as good as new). What a client that has been let in shows
//! later is judged in its place among its commands ([`judged`]).

use std::io;
use std::time::Duration;

use subtle::ConstantTimeEq;
use tokio::io::AsyncWriteExt;
use tokio::task::coop::consume_budget;
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::client::connection::read_some;
use crate::config::link::Required;
use crate::failure::Failure;
use crate::net::Stream;
use crate::relay::Own;
use crate::resp;
use crate::resp::auth::{Command, DEFAULT_USER, OK, Shown, command};
use crate::resp::commands::{First, UNAUTHENTICATED, first};
use crate::secret::{LONGEST, Secret};

const NO_AUTH: &str = "-NOAUTH Authentication required.\r\n";
const WRONG_PASSWORD: &str = "-WRONGPASS invalid username-password pair or user is disabled.\r\n";
const HELLO_WITHOUT_AUTH: &str = "-NOAUTH HELLO must be called with the client already authenticated, otherwise the \
     HELLO AUTH <user> <pass> option can be used to authenticate the client and select the RESP protocol version at the \
     same time\r\n";

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

/// What becomes of a client's own AUTH or HELLO.
pub enum Judged {
    /// The client reads this.
    Answer(String),
    /// In its place the target hears this HELLO, and answers.
    Hello(Secret),
}

/// Judges the authentication of a client that has been let in already. One that is not right leaves what was.
pub async fn judged(own: &Own, required: Option<&Required>) -> Result<Judged, Failure> {
    let arguments = own.arguments();
    let is_met = async |shown: &Shown<'_>| match required {
        Some(required) => required.is_met_by(shown).await,
        None => Ok(true),
    };
    if arguments.is_empty() {
        return Err(Failure::NotAuthenticated {
            reason: "its AUTH is too long".to_owned(),
            line: Some("-ERR Protocol error: invalid bulk length\r\n".to_owned()),
        });
    }
    Ok(match command(&arguments) {
        Command::Auth(shown) if is_met(&shown).await? => Judged::Answer(OK.to_owned()),
        Command::Hello(Some(shown), kept) if is_met(&shown).await? => Judged::Hello(resp::commands(&[kept])),
        Command::Auth(_) | Command::Hello(Some(_), _) => Judged::Answer(WRONG_PASSWORD.to_owned()),
        Command::Hello(None, kept) => Judged::Hello(resp::commands(&[kept])),
        Command::Wrong(words) => Judged::Answer(words),
        // It would not have been taken for one.
        Command::Nothing | Command::Quit | Command::Reset | Command::Other => Judged::Answer(String::new()),
    })
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
    use crate::secret::{Secret, Source};

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
}
