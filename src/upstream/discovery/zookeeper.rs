//! Discovery by ZooKeeper: the children of a node, each of which a server made of itself (an *ephemeral* node, which goes with
//! its server).
//!
//! The node and its children are *watched*: ZooKeeper says when one has changed, and that one is read again. The client
//! is our own, over the few operations that this takes ([`wire`]): those that there are bring an asynchronous runtime and a
//! TLS library of their own, or panic at what a server may send.
//!
//! The session is only good for watching. When it is lost, another one is begun with the next server, and everything is
//! read again; meanwhile the last list serves.

mod entry;
pub mod wire;

use std::collections::{BTreeMap, HashSet};
use std::fmt;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

#[cfg(any(test, fuzzing))]
pub use self::entry::read;
use self::wire::{NotZooKeeper, Operation, Said, Xid};
use super::{Found, PassedOver, addresses, open, some};
use crate::backoff::Backoff;
use crate::config::Link;
use crate::net::{Address, Endpoint, Stream};
use crate::random::{fraction, jittered};
use crate::text;
use crate::upstream::backends::{Backends, Listing};
use crate::upstream::dial::Dialler;

/// After how long without a word a server may forget us, and we it; servers with usual settings take no less than 4 s.
const SESSION: Duration = Duration::from_secs(6);

/// The timeout of one server, from its name to the session, and of one answer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// The shortest time between two looks at a node that goes on changing.
const MIN_INTERVAL: Duration = Duration::from_millis(200);

/// Between rounds in which no server has served us.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(5) };

/// The most servers that a node may list.
const MOST_ENTRIES: usize = 16 * 1024;

/// How many nodes are asked for in one write.
const BATCH: usize = 256;

/// What a server answers about a node that is not there.
const NO_NODE: i32 = -101;
/// What it answers whom it does not show the node.
const NO_AUTH: i32 = -102;
/// What it answers to credentials that it does not take.
const AUTH_FAILED: i32 = -115;

/// Follows the node's children. Never returns.
pub(super) async fn follow(
    backends: &Backends,
    dialler: &Dialler,
    link: &Link,
    servers: &[Endpoint],
    path: &str,
) {
    let ensemble = Ensemble { dialler, link, servers, path };
    let mut entries = Entries::default();
    // A session that ends is no failure if there is another one at once. Before the first one it is.
    let mut failures = 1;
    loop {
        let ended = match ensemble.begin().await {
            Ok(session) => ensemble.watch(session, &mut entries, backends, &mut failures).await,
            Err(reason) => reason,
        };
        failures += 1;
        if failures > 1 {
            backends.unknown(&ended, None);
        }
        sleep(jittered(BACKOFF.wait(failures))).await;
    }
}

/// Reads the node's children once.
pub(super) async fn ask_once(
    dialler: &Dialler,
    link: &Link,
    servers: &[Endpoint],
    path: &str,
) -> Result<Found, String> {
    let ensemble = Ensemble { dialler, link, servers, path };
    let mut entries = Entries::default();
    let mut session = ensemble.begin().await?;
    ensemble.look(&mut session, &mut entries).await.map_err(|trouble| trouble.to_string())?;
    let (endpoints, wrong) = (entries.endpoints(path)?, entries.wrong(path));
    let passed_over = (!wrong.is_empty()).then(|| PassedOver { what: some(&wrong), remedy: REMEDY });
    Ok(Found { endpoints, passed_over })
}

/// What helps against a node that can't be understood.
const REMEDY: &str = "mend the node, or have its server register again";

/// The servers of ZooKeeper, and what they are asked for.
struct Ensemble<'a> {
    dialler: &'a Dialler,
    link: &'a Link,
    servers: &'a [Endpoint],
    path: &'a str,
}

impl<'a> Ensemble<'a> {
    /// Begins a session with the first server that serves, in any order: not all clients with the same one.
    async fn begin(&self) -> Result<Session<'a>, String> {
        let mut failures = Vec::new();
        let mut servers = self.servers.to_vec();
        servers.sort_by_cached_key(|_| fraction().to_bits());
        for server in &servers {
            let deadline = Instant::now() + TIMEOUT;
            let addresses = addresses(self.dialler, server, deadline).await.unwrap_or_else(|reason| {
                failures.push(format!("{server}: {reason}"));
                Vec::new()
            });
            for address in addresses {
                let deadline = Instant::now() + TIMEOUT;
                let begun = timeout_at(deadline, self.begin_at(server, &address, deadline)).await;
                match begun.unwrap_or_else(|_| Err("no answer in time".to_owned())) {
                    Ok(session) => return Ok(session),
                    // Most failures of a connection name it themselves.
                    Err(reason) if reason.contains(&address.to_string()) => failures.push(reason),
                    Err(reason) => failures.push(format!("{address}: {reason}")),
                }
            }
        }
        Err(format!("no server of ZooKeeper serves: {}", some(&failures)))
    }

    async fn begin_at(
        &self,
        server: &Endpoint,
        address: &Address,
        deadline: Instant,
    ) -> Result<Session<'a>, String> {
        let access = &self.link.zookeeper;
        let stream = open(self.dialler, self.link, access.tls.as_ref(), server, address, deadline).await?;
        let mut session = Session::over(stream, self.path);
        session.send(&wire::connect(SESSION)).await?;
        session.timeout = wire::connected(session.read().await?)?.min(SESSION);
        if session.timeout.is_zero() {
            return Err("it begins no session".to_owned());
        }
        let Some(digest) = &access.digest else { return Ok(session) };
        let digest = digest.current().await.map_err(|error| error.to_string())?;
        session.send(&wire::digest(digest.expose())).await?;
        match session.reply(wire::AUTH).await? {
            Ok(_) => Ok(session),
            Err(AUTH_FAILED) => Err("it refused the credentials".to_owned()),
            Err(error) => Err(unexpected(error)),
        }
    }

    /// Looks, and looks again whenever something has changed, until the session ends; returns why.
    async fn watch(
        &self,
        mut session: Session<'a>,
        entries: &mut Entries,
        backends: &Backends,
        failures: &mut u32,
    ) -> String {
        loop {
            let begun = Instant::now();
            match self.look(&mut session, entries).await {
                Err(Trouble::Session(reason)) => return reason,
                looked => {
                    *failures = 0;
                    let told = looked.map_err(|trouble| trouble.to_string());
                    match told.and_then(|()| entries.endpoints(self.path)) {
                        Ok(endpoints) => {
                            let listings = endpoints.into_iter().map(Listing::in_order);
                            backends.publish(listings.collect(), "zookeeper");
                        }
                        Err(reason) => backends.unknown(&reason, None),
                    }
                }
            }
            if let Err(reason) = session.until_changed().await {
                return reason;
            }
            sleep_until(begun + MIN_INTERVAL).await;
        }
    }

    /// Reads what has changed, and has it watched.
    async fn look(&self, session: &mut Session<'a>, entries: &mut Entries) -> Result<(), Trouble> {
        if std::mem::take(&mut session.is_list_stale) {
            let names = self.names(session).await?;
            if names.len() > MOST_ENTRIES {
                let reason = format!("{} has {} nodes, more than {MOST_ENTRIES}", self.path, names.len());
                return Err(Trouble::Node(reason));
            }
            let names: HashSet<_> = names.into_iter().collect();
            session.read.retain(|name| names.contains(name));
            entries.0.retain(|name, _| names.contains(name));
            session.names = names;
        }
        session.is_node_stale = false;
        let wanted: Vec<_> = session.names.difference(&session.read).cloned().collect();
        for batch in wanted.chunks(BATCH) {
            let first = session.xid;
            let mut requests = Vec::new();
            for name in batch {
                requests.extend(session.request(Operation::Data, &format!("{}/{name}", self.path)));
            }
            session.send(&requests).await?;
            for (name, xid) in batch.iter().zip(first..) {
                let found = match session.reply(xid).await? {
                    Ok(frame) => {
                        session.read.insert(name.clone());
                        entry::read(name, &wire::data(frame)?, self.link.tls.is_some())
                    }
                    // Neither is watched. It has gone since, and may be there again when the list is read.
                    Err(NO_NODE) => Ok(None),
                    Err(NO_AUTH) => Err(self.not_shown()),
                    Err(error) => return Err(unexpected(error).into()),
                };
                entries.note(name, found, self);
            }
        }
        Ok(())
    }

    /// The names of the children, from a server that is as current as its leader.
    async fn names(&self, session: &mut Session<'a>) -> Result<Vec<String>, Trouble> {
        let [sync, children] = [session.xid, session.xid + 1];
        let requests = [Operation::Sync, Operation::Children].map(|op| session.request(op, self.path));
        session.send(&requests.concat()).await?;
        // Of a node that is not there, the second answer says so too.
        let _ = session.reply(sync).await?;
        match session.reply(children).await? {
            Ok(frame) => return Ok(wire::children(frame)?),
            Err(NO_NODE) => {}
            Err(NO_AUTH) => return Err(format!("{}: {}", self.path, self.not_shown()).into()),
            Err(error) => return Err(unexpected(error).into()),
        }
        let exists = session.xid;
        let request = session.request(Operation::Exists, self.path);
        session.send(&request).await?;
        // It may have come this moment.
        session.is_list_stale = session.reply(exists).await?.is_ok();
        Err(Trouble::Node(format!("ZooKeeper has no node {}", self.path)))
    }

    fn not_shown(&self) -> String {
        let variable = self.link.setting("ZOOKEEPER_AUTH_FILE");
        format!("ZooKeeper does not show it; set {variable} to credentials that may read it")
    }
}

/// Why a look has found no list.
enum Trouble {
    /// That is what the server says of the node.
    Node(String),
    /// The session is of no more use.
    Session(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node(reason) | Self::Session(reason) => f.write_str(reason),
        }
    }
}

impl From<String> for Trouble {
    fn from(reason: String) -> Self {
        Self::Session(reason)
    }
}

impl From<NotZooKeeper> for Trouble {
    fn from(error: NotZooKeeper) -> Self {
        Self::Session(error.into())
    }
}

impl From<NotZooKeeper> for String {
    fn from(NotZooKeeper: NotZooKeeper) -> Self {
        "it does not answer like ZooKeeper".to_owned()
    }
}

fn unexpected(error: i32) -> String {
    format!("it answers with the error {error}")
}

/// What servers say of themselves, by the names of their nodes. It outlives sessions.
#[derive(Default)]
struct Entries(BTreeMap<String, Entry>);

#[derive(Default)]
struct Entry {
    /// The server, as it was last to be understood; none where it does not serve.
    server: Option<Endpoint>,
    /// What is wrong with the node now.
    wrong: Option<String>,
}

impl Entries {
    /// A node that can't be understood leaves what it said before.
    fn note(&mut self, name: &str, found: Result<Option<Endpoint>, String>, ensemble: &Ensemble<'_>) {
        let entry = self.0.entry(name.to_owned()).or_default();
        let before = entry.wrong.take();
        match found {
            Ok(server) => entry.server = server,
            Err(wrong) => {
                if before.as_ref() != Some(&wrong) {
                    tracing::warn!(
                        target: "discovery",
                        link = ensemble.link.name,
                        node = shown(ensemble.path, name),
                        error = wrong,
                        keeping = entry.server.as_ref().map(ToString::to_string),
                        remedy = REMEDY,
                        "node passed over"
                    );
                }
                entry.wrong = Some(wrong);
            }
        }
    }

    /// The servers, in the order of their nodes' names. None at all is more often a mistake than meant: sessions of all
    /// servers that have expired at once, a node that was emptied.
    fn endpoints(&self, path: &str) -> Result<Vec<Endpoint>, String> {
        let endpoints: Vec<_> = self.0.values().filter_map(|entry| entry.server.clone()).collect();
        if !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let wrong = self.wrong(path);
        Err(if wrong.is_empty() { format!("no server is listed in {path}") } else { some(&wrong) })
    }

    /// What is wrong with nodes.
    fn wrong(&self, path: &str) -> Vec<String> {
        let wrong = self.0.iter().filter_map(|(name, entry)| {
            entry.wrong.as_ref().map(|wrong| format!("{}: {wrong}", shown(path, name)))
        });
        wrong.collect()
    }
}

fn shown(path: &str, name: &str) -> String {
    format!("{path}/{}", text::one_line(name.as_bytes()))
}

/// A session with one server.
struct Session<'a> {
    stream: Stream,
    buffer: BytesMut,
    path: &'a str,
    /// The number of the next request.
    xid: Xid,
    /// After how long without a word either side forgets the other.
    timeout: Duration,
    heard: Instant,
    /// The names of the node's children.
    names: HashSet<String>,
    /// Those that have been read, and not changed since.
    read: HashSet<String>,
    is_list_stale: bool,
    is_node_stale: bool,
}

impl<'a> Session<'a> {
    fn over(stream: Stream, path: &'a str) -> Self {
        Self {
            stream,
            buffer: BytesMut::new(),
            path,
            xid: 1,
            timeout: SESSION,
            heard: Instant::now(),
            names: HashSet::new(),
            read: HashSet::new(),
            is_list_stale: true,
            is_node_stale: false,
        }
    }

    /// The next request, which has its answer watched.
    fn request(&mut self, operation: Operation, path: &str) -> Vec<u8> {
        let xid = self.xid;
        // Negative numbers have a meaning of their own.
        self.xid = xid.checked_add(1).unwrap_or(1);
        wire::request(xid, operation, path)
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), String> {
        let deadline = Instant::now() + self.timeout;
        let sent = timeout_at(deadline, async {
            self.stream.write_all(bytes).await?;
            // A TLS stream may still buffer some of it.
            self.stream.flush().await
        });
        sent.await.map_err(|_| SILENT.to_owned())?.map_err(|error| text::io_error(&error))
    }

    /// The next frame. Nothing is lost when this is given up.
    async fn read(&mut self) -> Result<Bytes, String> {
        loop {
            if let Some(frame) = wire::frame(&mut self.buffer)? {
                self.heard = Instant::now();
                return Ok(frame);
            }
            match self.stream.read_buf(&mut self.buffer).await {
                Ok(0) => return Err("it closed the connection".to_owned()),
                Ok(_) => {}
                Err(error) => return Err(text::io_error(&error)),
            }
        }
    }

    /// The reply to a request; those before it have been taken.
    async fn reply(&mut self, xid: Xid) -> Result<Result<Bytes, i32>, String> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let frame = timeout_at(deadline, self.read()).await.map_err(|_| SILENT.to_owned())??;
            match wire::said(frame)? {
                Said::Reply(number, reply) if number == xid => return Ok(reply),
                said => self.note(said)?,
            }
        }
    }

    /// Waits until something has changed that was read, or until it is time to try again what could not be read.
    async fn until_changed(&mut self) -> Result<(), String> {
        let pause = self.timeout / 3;
        let mut next_ping = Instant::now() + pause;
        while !(self.is_list_stale || self.is_node_stale) {
            match timeout_at(next_ping, self.read()).await {
                Ok(frame) => self.note(wire::said(frame?)?)?,
                Err(_) if self.heard.elapsed() > self.timeout => return Err(SILENT.to_owned()),
                Err(_) => {
                    self.send(&wire::ping()).await?;
                    next_ping += pause;
                    self.is_node_stale |= self.read.len() < self.names.len();
                }
            }
        }
        Ok(())
    }

    /// Takes in what was not asked for.
    fn note(&mut self, said: Said) -> Result<(), String> {
        match said {
            Said::Changed(path) if path == self.path => self.is_list_stale = true,
            Said::Changed(path) => {
                let name = path.strip_prefix(self.path).and_then(|rest| rest.strip_prefix('/'));
                self.is_node_stale |= name.is_some_and(|name| self.read.remove(name));
            }
            Said::Nothing => {}
            Said::Expired => return Err("the session has expired".to_owned()),
            Said::Reply(..) => return Err(NotZooKeeper.into()),
        }
        Ok(())
    }
}

const SILENT: &str = "it does not answer any more";
