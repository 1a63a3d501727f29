//! The handshake with a Redis target, and the only type that may be relayed to.
//!
//! [`Upstream`] has no other constructors than [`greet`], which has seen every reply be good, and
//! [`Upstream::of_plain_tunnel`]: relaying before authentication does not compile.

use std::sync::Arc;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::config::Link;
use crate::config::link::Redis;
use crate::failure::{Failure, Stage};
use crate::net::Stream;
use crate::resp::{self, Reply};
use crate::secret::Secret;
use crate::tls::explain::late_refusal;

/// A connection to the target that a client's bytes may go to.
#[derive(Debug)]
pub struct Upstream {
    /// The connection.
    pub stream: Stream,
    /// What the target said behind its last handshake reply; it belongs to the client.
    pub leading: Vec<u8>,
}

impl Upstream {
    /// A plain tunnel needs no handshake.
    pub fn of_plain_tunnel(stream: Stream) -> Self {
        Self { stream, leading: Vec::new() }
    }
}

/// What the handshake asked for, and so what a reply answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Auth,
    Select,
}

impl Asked {
    fn stage(self) -> Stage {
        match self {
            Self::Auth => Stage::Auth,
            Self::Select => Stage::Select,
        }
    }
}

/// Authenticates and selects the database: all commands in one write, then exactly as many replies.
///
/// The secret is read now, so that a rotation needs no restart.
pub async fn greet(
    mut stream: Stream,
    endpoint: &str,
    link: &Link,
    redis: &Redis,
) -> Result<Upstream, Failure> {
    let username = match &redis.username {
        Some(source) => Some(source.current().await?),
        None => None,
    };
    let password = match &redis.password {
        Some(source) => Some(source.current().await?),
        None => None,
    };
    let database = redis.database.map(|number| number.to_string());

    let mut asked = Vec::with_capacity(2);
    let mut commands: Vec<Vec<&[u8]>> = Vec::with_capacity(2);
    if let Some(password) = &password {
        let username = username.as_ref().map(|username| username.expose());
        let command = [Some(&b"AUTH"[..]), username, Some(password.expose())];
        commands.push(command.into_iter().flatten().collect());
        asked.push(Asked::Auth);
    }
    if let Some(database) = &database {
        commands.push(vec![b"SELECT", database.as_bytes()]);
        asked.push(Asked::Select);
    }
    let Some(first) = asked.first() else {
        return Ok(Upstream::of_plain_tunnel(stream));
    };

    let greeting = Greeting {
        endpoint,
        link,
        redis,
        secrets: [&username, &password].into_iter().flatten().cloned().collect(),
    };
    let broken = |stage, hint, source| {
        late_refusal(&source, endpoint, link).unwrap_or_else(|| Failure::Broken {
            stage,
            endpoint: endpoint.to_owned(),
            hint,
            source,
        })
    };
    // To who speaks TLS only our first words are nonsense, and Redis then leaves without one of its own.
    let mut hint = if link.tls.is_none() { ", as a server that speaks TLS only does" } else { "" };
    // A server may refuse and close before it has read anything; its words then wait to be read all the same.
    let written = async {
        stream.write_all(resp::commands(&commands).expose()).await?;
        // A stream that buffers (TLS) may still hold some of it.
        stream.flush().await
    };
    let written = written.await;
    let mut buffer = BytesMut::with_capacity(128);
    for asked in &asked {
        let stage = asked.stage();
        let reply = loop {
            match resp::reply(&mut buffer) {
                Ok(Some(reply)) => break reply,
                Ok(None) => {}
                Err(resp::NotReply) => return Err(greeting.not_redis(stage, &buffer)),
            }
            match stream.read_buf(&mut buffer).await {
                Ok(0) if buffer.is_empty() => {
                    written.map_err(|source| broken(first.stage(), hint, source))?;
                    return Err(Failure::Closed { stage, endpoint: endpoint.to_owned(), hint });
                }
                Ok(0) => return Err(greeting.not_redis(stage, &buffer)),
                Ok(_) => hint = "",
                Err(source) => return Err(broken(stage, hint, source)),
            }
        };
        if let Reply::Error(words) = reply {
            greeting.judge(*asked, &words)?;
        }
    }
    Ok(Upstream { stream, leading: buffer.to_vec() })
}

/// What the words of a handshake are judged by.
struct Greeting<'a> {
    endpoint: &'a str,
    link: &'a Link,
    redis: &'a Redis,
    secrets: Vec<Arc<Secret>>,
}

impl Greeting<'_> {
    /// The target's words on one line, with nothing in them that was sent to it in confidence.
    fn mask(&self, words: &[u8]) -> String {
        let words = resp::one_line(words);
        self.secrets.iter().fold(words, |words, secret| secret.mask(&words))
    }

    /// An error reply ends the handshake, but for one: a server that wants no password serves those who send one.
    fn judge(&self, asked: Asked, words: &str) -> Result<(), Failure> {
        if asked == Asked::Auth && wants_no_password(words) {
            tracing::warn!(
                link = self.link.name,
                backend = self.endpoint,
                "the target wants no password, though one is set; is it the right server, and is it protected?"
            );
            return Ok(());
        }
        let alias = &self.link.alias;
        let variable = self.redis.password_variable.as_deref().unwrap_or(&self.link.variable);
        let code = words.split(' ').next().unwrap_or_default();
        let (what, remedy) = match code {
            "WRONGPASS" => (
                "the target refused the password",
                format!("check {variable}: is it this target's password, and complete?"),
            ),
            "DENIED" => (
                "the target is in protected mode",
                "set a password on the Redis server (requirepass), or protected-mode no".to_owned(),
            ),
            "NOPERM" => (
                "the target does not permit it to this user",
                format!("allow the user SELECT on the server (ACL SETUSER … +select), or remove {alias}_DB"),
            ),
            "NOAUTH" => {
                ("the target wants a password", format!("set {alias}_AUTH_FILE to the file that holds it"))
            }
            "MASTERDOWN" | "LOADING" | "BUSY" => {
                ("the target is not ready", "wait for it, and see the Redis server's own log".to_owned())
            }
            _ if words.contains("invalid password") => (
                "the target refused the password",
                format!("check {variable}: is it this target's password, and complete?"),
            ),
            _ if words.contains("max number of clients") => (
                "the target has too many clients",
                "raise maxclients on the Redis server, or close idle clients".to_owned(),
            ),
            _ if words.contains("wrong number of arguments") => {
                ("the target knows no ACL users", format!("remove {alias}_USERNAME, or use Redis 6 or later"))
            }
            _ => match asked {
                Asked::Auth => ("the target refused AUTH", format!("check {variable}")),
                Asked::Select => (
                    "the target refused SELECT",
                    format!("check {alias}_DB, and the number of databases on the server"),
                ),
            },
        };
        Err(Failure::Refused { stage: asked.stage(), what, words: self.mask(words.as_bytes()), remedy })
    }

    fn not_redis(&self, stage: Stage, bytes: &[u8]) -> Failure {
        // Enough to recognise a protocol by.
        const SHOWN: usize = 64;
        let remedy = match bytes {
            [0x15, 0x03, ..] => {
                "turn TLS on: write rediss://, or set TLS=true for the link; or dial a plain port"
            }
            [b'H', b'T', b'T', b'P', ..] => "the target is a web server: name the Redis server",
            _ => "name the Redis server itself",
        };
        let shown = match bytes {
            [0x15, 0x03, ..] => "it speaks TLS".to_owned(),
            bytes => self.mask(bytes).chars().take(SHOWN).collect(),
        };
        Failure::NotRedis { stage, endpoint: self.endpoint.to_owned(), shown, remedy }
    }
}

/// What servers before and since 6.0 say to `AUTH password` where the default user has none.
fn wants_no_password(words: &str) -> bool {
    words.starts_with("ERR Client sent AUTH, but no password is set")
        || words.starts_with("ERR AUTH <password> called without any password configured")
}
