//! The handshake with a Redis target, and the only type that may be relayed to.
//!
//! [`Upstream`] has no other constructors than [`Greeted::upstream`], which has seen every reply be good, and
//! [`Upstream::of_plain_tunnel`]: relaying before authentication does not compile.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BytesMut;
use futures_util::FutureExt;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::error::Elapsed;
use tokio::time::{Instant, timeout_at};

use crate::config::Link;
use crate::config::link::Credential;
use crate::config::link::{Redis, Role};
use crate::failure::tls::late_refusal;
use crate::failure::{Failure, Stage};
use crate::failure::{OF_AMBASSADOR, OWN_WORDS, REFUSED};
use crate::metrics::CredentialKind;
use crate::net::Stream;
use crate::relay::Restore;
use crate::resp::commands::{First, UNLIMITED, first};
use crate::resp::{self, Reply};
use crate::secret::Secret;
use crate::text;
use crate::upstream::credentials::{Login, auth};

/// A connection to the target that a client's bytes may go to.
#[derive(Debug)]
pub struct Upstream {
    stream: Stream,
    leading: Vec<u8>,
}

impl Upstream {
    /// The connection, and what the target said behind its last handshake reply, which belongs to the client.
    pub fn into_parts(self) -> (Stream, Vec<u8>) {
        (self.stream, self.leading)
    }

    /// One that a session had, and on which it has left nothing behind.
    pub fn given_back(stream: Stream) -> Self {
        Self::of_plain_tunnel(stream)
    }

    /// A plain tunnel needs no handshake.
    pub fn of_plain_tunnel(stream: Stream) -> Self {
        Self { stream, leading: Vec::new() }
    }

    /// Makes it an upstream of the current runtime, whichever one it belonged to.
    pub fn into_this_runtime(self) -> io::Result<Self> {
        Ok(Self { stream: self.stream.into_this_runtime()?, ..self })
    }

    /// Whether the target is there, and has said nothing since the handshake, as far as the kernel knows now.
    pub fn is_quiet(&self) -> bool {
        self.leading.is_empty() && self.stream.is_quiet()
    }

    /// Says goodbye, as far as the target takes it at once.
    pub fn close(mut self) {
        // Nobody waits for a target that is not needed.
        let _ = self.stream.shutdown().now_or_never();
    }

    /// Ready when the target has said something, with how many bytes that was, or has ended the stream. The bytes
    /// belong to the client.
    pub fn poll_says(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.stream.poll_read_more(cx, &mut self.leading)
    }
}

/// A step of a dial that has gone well, once there is a connection.
pub enum Step<'a> {
    /// TLS.
    Tls(&'a Stream),
    /// AUTH, and where the password came from.
    Auth(Option<CredentialKind>),
    /// SELECT.
    Select,
    /// The target has the role that the link asks for.
    Role,
}

/// Watches a dial go through its steps. What a step came to that did not go well is the dial's failure.
pub trait Observer: Sync {
    /// A step has gone well.
    fn has_done(&self, step: Step<'_>);

    /// Whether the steps behind a refusal are taken all the same. No client is served after that.
    fn goes_on_after(&self, _: &Failure) -> bool {
        false
    }
}

/// Nobody watches.
impl Observer for () {
    fn has_done(&self, _: Step<'_>) {}
}

/// What the handshake asked for, and so what a reply answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Asked {
    Auth,
    Select,
    Role(Question),
    Ping,
    /// PING behind a header of the PROXY protocol: a server that does not expect the header answers that, and what clients ask
    /// would be answered one too early for ever.
    Header,
    /// Something that belongs to a session, which is another one without it or not.
    Restore(bool),
}

impl Asked {
    fn stage(self) -> Stage {
        match self {
            // Whoever has no password to send is told so by the first answer.
            Self::Auth | Self::Ping | Self::Header => Stage::Auth,
            Self::Select | Self::Restore(_) => Stage::Select,
            Self::Role(_) => Stage::Role,
        }
    }

    /// The command's name.
    fn name(self) -> &'static str {
        match self {
            Self::Auth => "AUTH",
            Self::Select => "SELECT",
            Self::Role(Question::Hello) => "HELLO",
            Self::Role(Question::Role) => "ROLE",
            Self::Role(Question::Info) => "INFO",
            Self::Ping | Self::Header => "PING",
            Self::Restore(_) => "what the session had before",
        }
    }
}

/// The ways to ask a server for its role. No user of Redis 6 and later can be forbidden HELLO; ROLE and INFO are
/// dangerous commands in the eyes of its ACLs, but the only ones that Redis 5 knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Question {
    Hello,
    Role,
    Info,
}

impl Question {
    const ALL: [Self; 3] = [Self::Hello, Self::Role, Self::Info];

    fn command(self) -> Vec<&'static [u8]> {
        match self {
            // Version 2 is what is spoken already.
            Self::Hello => vec![b"HELLO", b"2"],
            Self::Role => vec![b"ROLE"],
            Self::Info => vec![b"INFO", b"replication"],
        }
    }

    /// The role in an answer.
    fn role(self, answer: &BytesFrame) -> Option<&str> {
        match (self, answer) {
            (Self::Hello, answer) => resp::field(answer, "role").and_then(resp::text),
            (Self::Role, BytesFrame::Array(items)) => items.first().and_then(resp::text),
            (Self::Info, answer) => resp::text(answer)?.lines().find_map(|line| line.strip_prefix("role:")),
            _ => None,
        }
        .map(str::trim)
    }
}

/// What is known of how a server answers.
#[derive(Debug, Default)]
pub struct Probe {
    /// Which question it has answered with its role. Not knowing, two are asked at once; afterwards only the one that it
    /// takes, because every refusal goes to the log of its ACLs.
    role: AtomicU8,
    /// Whether it wanted no password when it was sent one.
    wants_no_password: AtomicBool,
}

impl Probe {
    fn questions(&self) -> Vec<Question> {
        match Question::ALL.get(usize::from(self.role.load(Ordering::Relaxed)).wrapping_sub(1)) {
            Some(known) => vec![*known],
            None => vec![Question::Hello, Question::Role],
        }
    }

    /// Whether it wanted no password when it was last sent one.
    pub fn wants_no_password(&self) -> bool {
        self.wants_no_password.load(Ordering::Relaxed)
    }

    fn learn(&self, answered: Question) {
        self.role.store(answered as u8 + 1, Ordering::Relaxed);
    }
}

/// What an exchange came to.
enum Exchanged {
    /// Every reply was good. The first answer to a question for the role.
    Good(Option<(Question, String)>),
    /// The password was refused, in these words. The replies to everything else are still to come.
    Refused(String),
}

/// How long a server may take to show what is wrong with a password that it has refused; the client is waiting.
const DIAGNOSIS: Duration = Duration::from_millis(500);

/// A handshake under way, and what the words in it are judged by.
pub struct Handshake<'a> {
    stream: Stream,
    /// What came and was not taken yet.
    buffer: BytesMut,
    /// Replies that are still to come.
    awaited: usize,
    /// What the end of the connection may mean, while nothing has come.
    hint: &'static str,
    endpoint: &'a str,
    link: &'a Link,
    redis: &'a Redis,
    probe: &'a Probe,
    observer: &'a dyn Observer,
    /// The passwords that were sent.
    sent: Vec<Arc<Secret>>,
    /// Where the last of them came from.
    offered: Option<CredentialKind>,
    /// Why no client is served, though the handshake went on.
    ignored: Option<Failure>,
}

impl<'a> Handshake<'a> {
    /// Before the first word.
    pub fn begin(
        stream: Stream,
        endpoint: &'a str,
        link: &'a Link,
        redis: &'a Redis,
        probe: &'a Probe,
        observer: &'a dyn Observer,
    ) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            awaited: 0,
            // To who speaks TLS only our first words are nonsense, and Redis then leaves without one of its own.
            hint: if link.tls.is_none() { ", as a server that speaks TLS only does" } else { "" },
            endpoint,
            link,
            redis,
            probe,
            observer,
            sent: Vec::new(),
            offered: None,
            ignored: None,
        }
    }

    /// Authenticates, selects the database and asks for the role: all commands in one write, then exactly as many
    /// replies.
    ///
    /// Where the password is refused the login may have another one to offer on the same connection, which goes through
    /// all of it again: a refusal never ends in anything but an acceptance or the end of the connection.
    pub async fn handshake(
        mut self,
        login: Option<Login<'_>>,
        restore: Option<&Restore>,
        deadline: Instant,
        late: impl FnOnce(Elapsed) -> Failure,
    ) -> Greeted<'a> {
        let done = timeout_at(deadline, self.go_through(login, restore)).await;
        Greeted { done: done.map_err(late).flatten(), greeting: self }
    }

    /// Puts a session's state on a connection that has been greeted. With a `proof`, a word that nobody knows, the server has to
    /// show that it has said all that there was to say before: it has to come back as the last thing. Otherwise a line that is
    /// still on its way would be the first answer to somebody else.
    pub async fn restore(
        mut self,
        leading: Vec<u8>,
        restore: &Restore,
        proof: Option<&str>,
        deadline: Instant,
        late: impl FnOnce(Elapsed) -> Failure,
    ) -> Greeted<'a> {
        self.buffer.extend_from_slice(&leading);
        let restoring: Vec<_> =
            restore.commands().map(|(command, is_needed)| (arguments(command), is_needed)).collect();
        let mut commands: Vec<_> = restoring.iter().map(|(command, _)| command.clone()).collect();
        let asked: Vec<_> = restoring.iter().map(|(_, is_needed)| Asked::Restore(*is_needed)).collect();
        commands.extend(proof.map(|proof| vec![&b"PING"[..], proof.as_bytes()]));
        let done = async {
            self.exchange(&commands, &asked).await?;
            let Some(proof) = proof else { return Ok(()) };
            let whole = |buffer: &mut BytesMut| resp::value(buffer, LONGEST_ANSWER);
            match self.take(Stage::Select, &mut Ok(()), whole).await? {
                BytesFrame::BulkString(echo) if echo == proof && self.buffer.is_empty() => Ok(()),
                _ => Err(self.not_redis(Stage::Select, b"something else than the echo")),
            }
        };
        let done = timeout_at(deadline, done).await;
        Greeted { done: done.map_err(late).flatten(), greeting: self }
    }

    async fn go_through(
        &mut self,
        login: Option<Login<'_>>,
        restore: Option<&Restore>,
    ) -> Result<(), Failure> {
        let (redis, probe) = (self.redis, self.probe);
        let database = redis.select().map(|number| number.to_string());
        let mut asked = Vec::with_capacity(4);
        let mut commands: Vec<Vec<&[u8]>> = Vec::with_capacity(4);
        if let Some(database) = &database {
            commands.push(vec![b"SELECT", database.as_bytes()]);
            asked.push(Asked::Select);
        }
        if redis.role.is_some() {
            for question in probe.questions() {
                commands.push(question.command());
                asked.push(Asked::Role(question));
            }
        }
        if self.link.proxy_protocol.is_some() {
            commands.push(vec![b"PING"]);
            asked.push(Asked::Header);
        }
        for (command, is_needed) in restore.into_iter().flat_map(Restore::commands) {
            commands.push(arguments(command));
            asked.push(Asked::Restore(is_needed));
        }
        if asked.is_empty() && login.is_none() {
            return Ok(());
        }

        let (told, login) = self.offer(login, &commands, &asked).await?;
        if let Some(wanted) = redis.role {
            self.expect_role(wanted, told, &asked).await?;
        }
        if let Some(login) = login {
            login.served();
        }
        Ok(())
    }

    /// Holds the role that the server has told, if it has, against the one that is wanted.
    async fn expect_role(
        &mut self,
        wanted: Role,
        mut told: Option<(Question, String)>,
        asked: &[Asked],
    ) -> Result<(), Failure> {
        if told.is_none() {
            // It understands none of what it was asked, or only what it was asked before it was upgraded.
            let more = Question::ALL.into_iter().filter(|more| !asked.contains(&Asked::Role(*more)));
            let more: Vec<_> = more.collect();
            let commands: Vec<_> = more.iter().map(|question| question.command()).collect();
            let asked: Vec<_> = more.iter().copied().map(Asked::Role).collect();
            if let Exchanged::Good(answer) = self.exchange(&commands, &asked).await? {
                told = answer;
            }
        }
        let Some((question, role)) = told else {
            return Err(Failure::Refused {
                stage: Stage::Role,
                what: "the target does not tell its role",
                words: "neither to HELLO nor to ROLE nor to INFO".to_owned(),
                remedy: format!(
                    "allow the user ROLE on the server (ACL SETUSER … +role), or remove {}",
                    self.link.setting("ROLE")
                ),
            });
        };
        self.probe.learn(question);
        let has = match role.as_str() {
            "master" => Some(Role::Master),
            "slave" | "replica" => Some(Role::Replica),
            _ => None,
        };
        if has != Some(wanted) {
            let role = has.map_or_else(|| format!("\"{role}\""), |has| format!("a {has}"));
            return Err(Failure::WrongRole { endpoint: self.endpoint.to_owned(), role, wanted });
        }
        self.observer.has_done(Step::Role);
        Ok(())
    }

    /// Writes all commands at once.
    async fn write(&mut self, commands: &[Vec<&[u8]>]) -> std::io::Result<()> {
        self.awaited += commands.len();
        self.stream.write_all(resp::commands(commands).expose()).await?;
        // A stream that buffers (TLS) may still hold some of it.
        self.stream.flush().await
    }

    /// Exchanges until the server takes what the login offers, if there is one. Gives the login back.
    async fn offer<'l>(
        &mut self,
        mut login: Option<Login<'l>>,
        commands: &[Vec<&[u8]>],
        asked: &[Asked],
    ) -> Result<(Option<(Question, String)>, Option<Login<'l>>), Failure> {
        let mut credential = None;
        if let Some(mut offering) = login.take() {
            match offering.next().await {
                Some(first) => (credential, login) = (Some(first), Some(offering)),
                None => return Err(offering.failed(false)),
            }
        }
        loop {
            self.offered = login.as_ref().and_then(Login::offered);
            let words = match self.introduce(credential.take(), commands, asked).await {
                Ok(Exchanged::Good(told)) => return Ok((told, login)),
                Ok(Exchanged::Refused(words)) => words,
                Err(failure) => {
                    let login = login.filter(|_| self.sent.len() > 1);
                    return Err(interrupted(login, failure));
                }
            };
            // A refusal answers an offer, so there is a login.
            let Some(mut offering) = login.take() else { return Err(self.refusal(words)) };
            // Boxed, as all that the many who never come here need not carry.
            credential = Box::pin(offering.refused(words)).await;
            if credential.is_none() {
                Box::pin(self.diagnose(&offering)).await;
                return Err(offering.failed(false));
            }
            if let Err(failure) = Box::pin(self.skip()).await {
                return Err(interrupted(Some(offering), failure));
            }
            login = Some(offering);
        }
    }

    /// One exchange that begins with this credential, if there is one.
    async fn introduce(
        &mut self,
        credential: Option<Arc<Credential>>,
        commands: &[Vec<&[u8]>],
        asked: &[Asked],
    ) -> Result<Exchanged, Failure> {
        let Some(credential) = credential else { return self.exchange(commands, asked).await };
        self.sent.push(Arc::clone(&credential.password));
        let commands = [&[credential.command()], commands].concat();
        self.exchange(&commands, &[&[Asked::Auth], asked].concat()).await
    }

    /// Writes all commands at once and takes as many replies.
    async fn exchange(&mut self, commands: &[Vec<&[u8]>], asked: &[Asked]) -> Result<Exchanged, Failure> {
        // The replies to the most that is asked fit into it.
        self.buffer.reserve(128);
        // A server may refuse and close before it has read anything; its words then wait to be read all the same.
        let mut written = self.write(commands).await;
        let mut told = None;
        for asked in asked {
            match *asked {
                Asked::Restore(is_needed) => {
                    match self.take(asked.stage(), &mut written, resp::outcome).await? {
                        Reply::Error(words) if is_needed => self.judge(*asked, &words)?,
                        // Who it is on the server's lists is told to people alone.
                        Reply::Error(_) | Reply::Good => {}
                    }
                }
                Asked::Header => {
                    let whole = |buffer: &mut BytesMut| resp::value(buffer, LONGEST_ANSWER);
                    match self.take(asked.stage(), &mut written, whole).await? {
                        BytesFrame::SimpleString(words) if words == "PONG" => {}
                        // An answer all the same; what the client asks will have one like it.
                        BytesFrame::Error(words) if is_of_the_moment(&words) => {}
                        BytesFrame::Error(words) => self.judge(*asked, &words)?,
                        _ => return Err(self.no_header_expected("something else than PONG")),
                    }
                }
                Asked::Auth | Asked::Select | Asked::Ping => {
                    match self.take(asked.stage(), &mut written, resp::reply).await? {
                        Reply::Error(words) if *asked == Asked::Auth && is_wrong_password(&words) => {
                            return Ok(Exchanged::Refused(self.mask(words.as_bytes())));
                        }
                        Reply::Error(words) => {
                            if let Err(failure) = self.judge(*asked, &words) {
                                self.pass_over(failure)?;
                                continue;
                            }
                        }
                        Reply::Good if *asked == Asked::Auth => {
                            self.probe.wants_no_password.store(false, Ordering::Relaxed);
                        }
                        Reply::Good => {}
                    }
                    match asked {
                        Asked::Auth => self.observer.has_done(Step::Auth(self.offered)),
                        Asked::Select => self.observer.has_done(Step::Select),
                        _ => {}
                    }
                }
                Asked::Role(question) => {
                    let whole = |buffer: &mut BytesMut| resp::value(buffer, LONGEST_ANSWER);
                    match self.take(Stage::Role, &mut written, whole).await? {
                        // Another question may be answered.
                        BytesFrame::Error(words) if is_not_understood(&words) => {}
                        BytesFrame::Error(words) => self.judge(*asked, &words)?,
                        answer if told.is_none() => {
                            told = question.role(&answer).map(|role| (question, self.mask(role.as_bytes())));
                        }
                        _ => {}
                    }
                }
            }
        }
        Ok(Exchanged::Good(told))
    }

    /// Goes on after a refusal, if that is asked for.
    fn pass_over(&mut self, failure: Failure) -> Result<(), Failure> {
        if !self.observer.goes_on_after(&failure) {
            return Err(failure);
        }
        self.ignored.get_or_insert(failure);
        Ok(())
    }

    /// Takes the replies that are still to come, because one before them was a refusal, whatever they are.
    async fn skip(&mut self) -> Result<(), Failure> {
        while self.awaited > 0 {
            self.take(Stage::Auth, &mut Ok(()), |buffer| resp::value(buffer, LONGEST_ANSWER)).await?;
        }
        Ok(())
    }

    /// Finds out whether the password would do without the white space around it. Whatever comes of it, the connection
    /// ends here.
    async fn diagnose(&mut self, login: &Login<'_>) {
        let Some(trimmed) = login.trimmed() else { return };
        // That it would do is no step of the dial.
        self.observer = &();
        self.sent.push(Arc::clone(&trimmed.password));
        let diagnosis = tokio::time::timeout(DIAGNOSIS, async {
            self.skip().await?;
            self.exchange(&[trimmed.command()], &[Asked::Auth]).await
        });
        // Of a server that does not answer in time, or not like this, there is nothing to learn.
        if let Ok(Ok(exchanged)) = diagnosis.await {
            login.diagnosed(matches!(exchanged, Exchanged::Good(_)));
        }
    }

    fn refusal(&self, words: String) -> Failure {
        let variable = &self.link.variable;
        Failure::Refused { stage: Stage::Auth, what: REFUSED, words, remedy: format!("check {variable}") }
    }

    /// Takes the next reply, as `decode` finds it in what has come.
    async fn take<T>(
        &mut self,
        stage: Stage,
        written: &mut std::io::Result<()>,
        decode: impl Fn(&mut BytesMut) -> Result<Option<T>, resp::NotReply>,
    ) -> Result<T, Failure> {
        loop {
            match decode(&mut self.buffer) {
                Ok(Some(reply)) => {
                    self.awaited = self.awaited.saturating_sub(1);
                    return Ok(reply);
                }
                Ok(None) => {}
                Err(resp::NotReply) => return Err(self.not_redis(stage, &self.buffer)),
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) if self.buffer.is_empty() => {
                    let endpoint = self.endpoint.to_owned();
                    let written = std::mem::replace(written, Ok(()));
                    written.map_err(|source| self.broken(stage, source))?;
                    return Err(Failure::Closed { stage, endpoint, hint: self.hint });
                }
                Ok(0) => return Err(self.not_redis(stage, &self.buffer)),
                Ok(_) => self.hint = "",
                Err(source) => return Err(self.broken(stage, source)),
            }
        }
    }

    fn broken(&self, stage: Stage, source: std::io::Error) -> Failure {
        late_refusal(&source, self.endpoint, self.link).unwrap_or_else(|| Failure::Broken {
            stage,
            endpoint: self.endpoint.to_owned(),
            hint: self.hint,
            source,
        })
    }

    /// The target's words on one line, with nothing in them that was sent to it in confidence.
    fn mask(&self, words: &[u8]) -> String {
        self.sent.iter().fold(text::one_line(words), |words, password| password.mask(&words))
    }

    /// An error reply ends the handshake, but for one: a server that wants no password serves those who send one.
    fn judge(&self, asked: Asked, words: &str) -> Result<(), Failure> {
        if asked == Asked::Auth && wants_no_password(words) {
            // Once, and not for every connection.
            if !self.probe.wants_no_password.swap(true, Ordering::Relaxed) {
                let credentials = self.redis.credentials.as_ref();
                let user = credentials.map_or("USERNAME", |credentials| &credentials.username_variable);
                tracing::warn!(
                    target: "handshake",
                    link = self.link.name,
                    backend = self.endpoint,
                    remedy = format!(
                        "see whether it is the right server; if the password belongs to an ACL user, set {user}"
                    ),
                    "target wants no password, though one is configured"
                );
            }
            return Ok(());
        }
        if let Some(failure) = self.of_ambassador(asked.stage(), words) {
            return Err(failure);
        }
        if self.link.proxy_protocol.is_some() && is_unknown_command(words) && words.contains("PROXY") {
            return Err(self.no_header_expected(words));
        }
        let credentials = self.redis.credentials.as_ref();
        let variable = credentials.map_or(&self.link.variable, |credentials| &credentials.variable);
        let code = words.split(' ').next().unwrap_or_default();
        let command = asked.name();
        let (what, remedy) = match code {
            "DENIED" => (
                "the target is in protected mode",
                "set a password on the Redis server (requirepass), or protected-mode no".to_owned(),
            ),
            "NOPERM" => {
                let allow = format!(
                    "allow the user {command} on the server (ACL SETUSER … +{})",
                    command.to_lowercase()
                );
                ("the target does not permit it to this user", or_no_database(asked, allow, self.link))
            }
            "NOAUTH" => (
                "the target wants a password",
                format!(
                    "set {} to the file that holds it, and {} to its user where \"default\" is disabled",
                    self.link.setting("AUTH_FILE"),
                    self.link.setting("USERNAME")
                ),
            ),
            "MASTERDOWN" | "LOADING" | "BUSY" => {
                ("the target is not ready", "wait for it, and see the Redis server's own log".to_owned())
            }
            _ if words.contains("max number of clients") => (
                "the target has too many clients",
                "raise maxclients on the Redis server, or close idle clients".to_owned(),
            ),
            _ if words.contains("cluster mode") => (
                "the target refused SELECT",
                format!("remove {}: a Redis Cluster has database 0 only", self.link.setting("DB")),
            ),
            _ if is_unknown_command(words) => {
                let configured = format!(
                    "take rename-command {command} out of the server's configuration, if it is there, and check that {} names \
                     the Redis server itself",
                    self.link.variable
                );
                let what = match asked {
                    Asked::Auth => "the target knows no AUTH",
                    Asked::Select => "the target knows no SELECT",
                    Asked::Ping | Asked::Header => "the target knows no PING",
                    Asked::Role(_) | Asked::Restore(_) => "the target does not know what it was asked",
                };
                (what, or_no_database(asked, configured, self.link))
            }
            _ if words.contains("wrong number of arguments") => (
                "the target knows no ACL users",
                format!("remove {}, or use Redis 6 or later", self.link.setting("USERNAME")),
            ),
            _ => match asked {
                Asked::Restore(_) => (
                    "the target can't take over the session",
                    "see whether all of the link's servers have the same version and configuration"
                        .to_owned(),
                ),
                Asked::Auth => ("the target refused AUTH", format!("check {variable}")),
                Asked::Select => (
                    "the target refused SELECT",
                    format!("check {}, and the number of databases on the server", self.link.setting("DB")),
                ),
                Asked::Role(_) => (
                    "the target does not tell its role",
                    format!("check the target of {}", self.link.variable),
                ),
                Asked::Ping | Asked::Header => {
                    ("the target does not answer PING", format!("check the target of {}", self.link.variable))
                }
            },
        };
        Err(Failure::Refused { stage: asked.stage(), what, words: self.mask(words.as_bytes()), remedy })
    }

    /// The target takes the header of the PROXY protocol for a command.
    fn no_header_expected(&self, words: &str) -> Failure {
        Failure::Refused {
            stage: Stage::Auth,
            what: "the target does not expect the PROXY protocol",
            words: self.mask(words.as_bytes()),
            remedy: format!(
                "remove {0}_PROXY_PROTOCOL, or let {1} name what expects it in front of the Redis server",
                self.link.alias, self.link.variable
            ),
        }
    }

    /// The target is an ambassador that can't serve, if it says so. Of what that has from a third one, only the last words
    /// count.
    fn of_ambassador(&self, stage: Stage, words: &str) -> Option<Failure> {
        let words = words.strip_prefix(OWN_WORDS)?;
        let words = words.rsplit(OF_AMBASSADOR).next().unwrap_or(words);
        let words = self.mask(words.as_bytes());
        Some(Failure::Ambassador { stage, endpoint: self.endpoint.to_owned(), words })
    }

    fn not_redis(&self, stage: Stage, bytes: &[u8]) -> Failure {
        // Enough to recognise a protocol by.
        const SHOWN: usize = 64;
        let remedy = match bytes {
            [0x15, 0x03, ..] => format!(
                "turn TLS on: write rediss:// in {}, or set {}=true; or dial a plain port",
                self.link.variable,
                self.link.setting("TLS")
            ),
            [b'H', b'T', b'T', b'P', ..] => {
                format!("the target is a web server: name the Redis server in {}", self.link.variable)
            }
            _ => format!("name the Redis server itself in {}", self.link.variable),
        };
        let shown = match bytes {
            [0x15, 0x03, ..] => "it speaks TLS".to_owned(),
            bytes => self.mask(bytes).chars().take(SHOWN).collect(),
        };
        Failure::NotRedis { stage, endpoint: self.endpoint.to_owned(), shown, remedy: remedy.into() }
    }
}

/// A connection that has gone through the handshake, and what that came to.
pub struct Greeted<'a> {
    greeting: Handshake<'a>,
    done: Result<(), Failure>,
}

impl<'a> Greeted<'a> {
    /// For a client, if every reply was good.
    pub fn upstream(self) -> Result<Upstream, Failure> {
        let Self { greeting, done } = self;
        match greeting.ignored {
            None => done.map(|()| Upstream { stream: greeting.stream, leading: greeting.buffer.to_vec() }),
            Some(failure) => Err(failure),
        }
    }

    /// For who has more questions, whatever the replies were: with each refusal, the last of which may have been the end.
    pub fn interview(mut self) -> (Interview<'a>, Vec<Failure>) {
        let failures = self.greeting.ignored.take().into_iter().chain(self.done.err()).collect();
        (Interview(self.greeting), failures)
    }
}

/// Questions to a server beside the handshake. Nothing that comes of it can be relayed to.
pub struct Interview<'a>(Handshake<'a>);

impl<'a> Interview<'a> {
    /// Of a server that has not been greeted.
    pub fn begin(
        stream: Stream,
        endpoint: &'a str,
        link: &'a Link,
        redis: &'a Redis,
        probe: &'a Probe,
    ) -> Self {
        Self(Handshake::begin(stream, endpoint, link, redis, probe, &()))
    }

    /// AUTH with something that is nobody's password.
    pub async fn try_random_password(
        &mut self,
        username: Option<&[u8]>,
        nonsense: &str,
    ) -> Result<OpenAccess, Failure> {
        Ok(match self.ask(&auth(username, nonsense.as_bytes())).await? {
            BytesFrame::Error(words) if wants_no_password(&words) => OpenAccess::NoPasswordWanted,
            BytesFrame::Error(_) => OpenAccess::Refused,
            _ => OpenAccess::Taken,
        })
    }

    /// PING.
    pub async fn ping(&mut self) -> Result<(), Failure> {
        match self.ask(&[b"PING"]).await? {
            // Whoever is told that it may not do so is being served.
            BytesFrame::Error(words) if words.starts_with("NOPERM") => Ok(()),
            BytesFrame::Error(words) => self.0.judge(Asked::Ping, &words),
            _ => Ok(()),
        }
    }

    /// Any question, and its answer, which may be an error.
    pub async fn ask(&mut self, command: &[&[u8]]) -> Result<BytesFrame, Failure> {
        self.0.skip().await?;
        let mut written = self.0.write(&[command.to_vec()]).await;
        self.0.take(Stage::Auth, &mut written, |buffer| resp::value(buffer, LONGEST_ANSWER)).await
    }

    /// The target's words on one line, with nothing in them that was sent to it in confidence.
    pub fn mask(&self, words: &str) -> String {
        self.0.mask(words.as_bytes())
    }
}

/// What a server says to nobody's password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenAccess {
    /// That it is none.
    Refused,
    /// That it is welcome.
    Taken,
    /// That it wants no password at all.
    NoPasswordWanted,
}

/// The longest answer to a question: ROLE lists a master's replicas, HELLO the modules, INFO everything.
const LONGEST_ANSWER: usize = 256 * 1024;

/// What the end of a handshake means. Some servers close the connection when they have refused a password; what else
/// there is to offer then goes to another connection.
fn interrupted(login: Option<Login<'_>>, failure: Failure) -> Failure {
    match (failure, login) {
        (Failure::Closed { .. } | Failure::Broken { .. }, Some(login)) => login.failed(true),
        (failure, _) => failure,
    }
}

/// Whether a server does not know a command, or does not permit it to this user.
fn is_not_understood(words: &str) -> bool {
    words.starts_with("NOPERM") || words.starts_with("ERR") && !words.contains("max number of clients")
}

/// A command's arguments.
fn arguments(command: &[u8]) -> Vec<&[u8]> {
    let First::Command(arguments, _) = first(command, UNLIMITED) else { return Vec::new() };
    let borrowed = arguments.into_iter().filter_map(|argument| match argument {
        Cow::Borrowed(argument) => Some(argument),
        // An array has none.
        Cow::Owned(_) => None,
    });
    borrowed.collect()
}

/// What servers of all versions say to a command that they don't have, or have under another name (`rename-command`).
fn is_unknown_command(words: &str) -> bool {
    words.to_ascii_lowercase().starts_with("err unknown command")
}

/// Whether a server that is reached, and goes on answering, has no other answer at the moment or for this user.
fn is_of_the_moment(words: &str) -> bool {
    let code = words.split(' ').next().unwrap_or_default();
    matches!(code, "NOAUTH" | "NOPERM" | "LOADING" | "MASTERDOWN" | "BUSY" | "MISCONF")
}

/// A remedy; who is refused SELECT can also do without it.
fn or_no_database(asked: Asked, remedy: String, link: &Link) -> String {
    match asked {
        Asked::Select => format!("{remedy}; or remove {}", link.setting("DB")),
        _ => remedy,
    }
}

/// What servers before and since 6.0 say to a password that is not theirs.
fn is_wrong_password(words: &str) -> bool {
    words.starts_with("WRONGPASS") || words.contains("invalid password") && !words.starts_with(OWN_WORDS)
}

/// What servers before and since 6.0 say to `AUTH password` where the default user has none.
pub(crate) fn wants_no_password(words: &str) -> bool {
    words.starts_with("ERR Client sent AUTH, but no password is set")
        || words.starts_with("ERR AUTH <password> called without any password configured")
}
