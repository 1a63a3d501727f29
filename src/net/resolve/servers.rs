//! Name servers: whom to ask, in which order, and what half an answer is worth.
//!
//! A name's IPv4 and IPv6 addresses are two questions. Either may be late, lost, refused or answered with nonsense while
//! the other is answered well: then what there is counts, and is waited for no longer than it takes an honest server to
//! answer the other one too (RFC 8305, 3).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::Resolver as Hickory;
use hickory_resolver::config::{
    ConnectionConfig, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use tokio::time::{Instant, timeout, timeout_at};

use super::system::ResolvConf;
use crate::text;

/// How long a name server has for itself before the next one is asked too: many times what a server nearby takes, and
/// little of a connect timeout.
const HEAD_START: Duration = Duration::from_millis(500);

/// How long one half of an answer is waited for where the other one is there (RFC 8305, 8: the Resolution Delay).
const RESOLUTION_DELAY: Duration = Duration::from_millis(50);

/// How long the other half is waited for where one comes to nothing: long enough for a question that was lost to be asked
/// twice more. Some servers say even that there is no such name, where it has only addresses of the other kind.
const DENIAL_DELAY: Duration = Duration::from_secs(1);

/// A question that is not answered is asked anew, after half the time that there is: a name server that was away for a
/// moment has lost those that were asked meanwhile.
const ATTEMPTS: u32 = 2;

/// The name servers, and what the system's file says beside them.
pub(super) struct Servers {
    /// What this was made from.
    pub(super) conf: Arc<ResolvConf>,
    list: Vec<Arc<NameServer>>,
    /// What errors add where nobody has named a server.
    hint: &'static str,
}

/// One name server, with what it is asked by.
struct NameServer {
    address: SocketAddr,
    config: ResolverConfig,
    options: ResolverOpts,
    /// Questions that it has answered.
    answered: AtomicUsize,
    /// Whether it gave no answer the last time.
    silent: AtomicBool,
}

/// A kind of address, with the question for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Family {
    V4,
    V6,
}

impl Family {
    pub(super) const BOTH: [Self; 2] = [Self::V4, Self::V6];

    fn question(self) -> RecordType {
        match self {
            Self::V4 => RecordType::A,
            Self::V6 => RecordType::AAAA,
        }
    }

    pub(super) fn has(self, address: IpAddr) -> bool {
        address.is_ipv4() == (self == Self::V4)
    }
}

/// One half of an answer: the addresses of one kind, at least one.
type Half = (Family, Result<Vec<IpAddr>, Problem>);

/// Halves that are still to come.
type Rest = FuturesUnordered<BoxFuture<'static, Half>>;

/// Addresses, at least one.
pub(super) struct Found {
    pub(super) addresses: Vec<IpAddr>,
    /// The kinds of address of which it is not known whether there are any.
    pub(super) unknown: Vec<Family>,
    /// What is still to come of those.
    late: Rest,
}

/// Why there is nothing, as far as the name servers say.
pub(super) struct Nothing {
    pub(super) words: String,
    /// Whether one of them has answered all that was asked: there is nothing.
    pub(super) is_answer: bool,
}

impl Nothing {
    pub(super) fn answered(words: String) -> Self {
        Self { words, is_answer: true }
    }
}

/// How much a server says with it that there is nothing; more than others what comes last.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// There is no such name.
    NoName,
    /// The name has nothing of the kind.
    NoRecord,
    /// The server can't or does not want to say.
    NoAnswer,
    /// The server can't be heard.
    Silence,
}

/// Why there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Problem {
    kind: Kind,
    /// What the server does, as it follows its name.
    words: String,
    /// Whether all that was asked has been answered.
    is_whole: bool,
}

impl Problem {
    fn new(kind: Kind, words: impl Into<String>) -> Self {
        let is_whole = matches!(kind, Kind::NoName | Kind::NoRecord);
        Self { kind, words: words.into(), is_whole }
    }

    /// Whether the server has answered, and there is no need to ask another one.
    fn is_answer(&self) -> bool {
        matches!(self.kind, Kind::NoName | Kind::NoRecord)
    }

    /// What an error says; `None` where it says that the name has nothing of the kind.
    fn of(error: &NetError) -> Option<Self> {
        Some(match error {
            NetError::Dns(
                DnsError::NoRecordsFound(NoRecords { response_code: code, .. })
                | DnsError::ResponseCode(code),
            ) => match code {
                ResponseCode::NXDomain => Self::new(Kind::NoName, "knows no such name (NXDOMAIN)"),
                ResponseCode::NoError => return None,
                ResponseCode::ServFail => Self::new(Kind::NoAnswer, "could not find out (SERVFAIL)"),
                ResponseCode::Refused => Self::new(Kind::NoAnswer, "refuses to say (REFUSED)"),
                code => Self::new(Kind::NoAnswer, format!("answers an error ({code})")),
            },
            NetError::Timeout => Self::new(Kind::Silence, "does not answer"),
            NetError::Io(error) => {
                Self::new(Kind::Silence, format!("can't be asked: {}", text::io_error(error)))
            }
            error => Self::new(Kind::NoAnswer, format!("answers nonsense: {error}")),
        })
    }

    fn words_of(half: Option<&Self>) -> &str {
        half.map_or("does not answer", |problem| &problem.words)
    }

    /// What becomes of two halves without an address; one that has not come yet is none.
    fn of_halves(halves: &[(Family, Option<&Self>)]) -> Self {
        let is_whole = halves.iter().filter_map(|(_, problem)| *problem).all(|problem| problem.is_whole);
        Self { is_whole, ..Self::said_by(halves) }
    }

    fn said_by(halves: &[(Family, Option<&Self>)]) -> Self {
        let said = || halves.iter().filter_map(|(_, problem)| *problem);
        let most = said().map(|problem| problem.kind).max().unwrap_or(Kind::Silence);
        // Who knows no such name needs no more to say about it; that the name is there is a contradiction.
        let is_denied = most != Kind::NoRecord && said().any(|problem| problem.kind == Kind::NoName);
        let kind = if is_denied { Kind::NoName } else { most };
        match halves {
            [(_, first), rest @ ..]
                if rest.iter().all(|(_, other)| Self::words_of(*other) == Self::words_of(*first)) =>
            {
                Self::new(kind, Self::words_of(*first))
            }
            _ => {
                let asked = |(family, problem): &(Family, Option<&Self>)| {
                    format!("{} when asked for {family} addresses", Self::words_of(*problem))
                };
                Self::new(kind, halves.iter().map(asked).collect::<Vec<_>>().join(", and "))
            }
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// As errors name them.
impl fmt::Display for Servers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, server) in self.list.iter().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", server.address)?;
        }
        f.write_str(self.hint)
    }
}

impl Servers {
    /// With these name servers, or else with those of the system's file.
    pub(super) fn new(named: Option<&[SocketAddr]>, conf: Arc<ResolvConf>) -> Self {
        let is_assumed = named.is_none() && conf.names_no_server();
        let hint = if is_assumed { " (/etc/resolv.conf names no server)" } else { "" };
        let addresses = named.map_or_else(|| conf.addresses(), <[_]>::to_vec);
        let list = addresses.into_iter().map(|address| Arc::new(NameServer::new(address, &conf))).collect();
        Self { conf, list, hint }
    }

    /// The addresses of a name, as soon as there are any.
    pub(super) async fn look_up(&self, name: &Name) -> Result<Found, Nothing> {
        let names = self.conf.candidates(name);
        let families = if self.conf.no_aaaa { &[Family::V4][..] } else { &Family::BOTH };
        self.ask(|server| Box::pin(server.addresses(names.clone(), families))).await
    }

    /// The SRV records of a name, at least one.
    pub(super) async fn services(&self, name: &Name) -> Result<Vec<Record>, Nothing> {
        let names = self.conf.candidates(name);
        self.ask(|server| Box::pin(server.services(names.clone()))).await
    }

    /// Asks the name servers, and takes the first answer that is one: something, or that there is nothing.
    async fn ask<T>(
        &self,
        question: impl Fn(Arc<NameServer>) -> BoxFuture<'static, Result<T, Problem>>,
    ) -> Result<T, Nothing> {
        let mut waiting = self.list.iter();
        let mut asked = FuturesUnordered::new();
        let mut problems = Vec::new();
        loop {
            let latest = waiting.next();
            if let Some(server) = latest {
                let answer = question(Arc::clone(server));
                asked.push(async move { (server, answer.await) });
            }
            let answered = match latest {
                Some(server) if waiting.len() > 0 => {
                    let silent = server.silent.load(Ordering::Relaxed);
                    let head_start = if silent { Duration::ZERO } else { HEAD_START };
                    let before = server.answered.load(Ordering::Relaxed);
                    let Ok(answered) = timeout(head_start, asked.next()).await else {
                        // One that has answered half of a question is not silent.
                        let silent = server.answered.load(Ordering::Relaxed) == before;
                        server.silent.store(silent, Ordering::Relaxed);
                        continue;
                    };
                    answered
                }
                _ => asked.next().await,
            };
            let Some((server, answer)) = answered else {
                return Err(Nothing { words: problems.join("; "), is_answer: false });
            };
            let silent = matches!(answer, Err(Problem { kind: Kind::Silence, .. }));
            server.silent.store(silent, Ordering::Relaxed);
            match answer {
                Ok(found) => return Ok(found),
                Err(problem) => {
                    let words = format!("{} {}{}", server.address, problem.words, self.hint);
                    if problem.is_answer() {
                        return Err(Nothing { words, is_answer: problem.is_whole });
                    }
                    problems.push(words);
                }
            }
        }
    }
}

impl NameServer {
    fn new(address: SocketAddr, conf: &ResolvConf) -> Self {
        let udp = (!conf.tcp_only).then(ConnectionConfig::udp);
        let mut connections: Vec<_> = udp.into_iter().chain([ConnectionConfig::tcp()]).collect();
        for connection in &mut connections {
            connection.port = address.port();
        }
        let server = NameServerConfig::new(address.ip(), true, connections);
        let mut options = ResolverOpts::default();
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.edns0 = conf.edns0;
        options.timeout = conf.timeout / ATTEMPTS;
        // Beside the first.
        options.attempts = (ATTEMPTS - 1) as usize;
        Self {
            address,
            // The names that are asked for have their search domains already.
            config: ResolverConfig::from_parts(None, Vec::new(), vec![server]),
            options,
            answered: AtomicUsize::new(0),
            silent: AtomicBool::new(false),
        }
    }

    /// The records of one kind, at least one; `what` they are called.
    async fn question(&self, name: Name, kind: RecordType, what: &str) -> Result<Vec<Record>, Problem> {
        // Each question has a client of its own: a common one holds it against the server that a name has no IPv6 address,
        // until it waits for seconds before it repeats a question that was lost.
        let mut client = Hickory::builder_with_config(self.config.clone(), TokioRuntimeProvider::default());
        *client.options_mut() = self.options.clone();
        let said = match client.build() {
            Ok(client) => client.lookup(name, kind).await,
            Err(error) => Err(error),
        };
        let nothing = || Problem::new(Kind::NoRecord, format!("has no {what} for it"));
        let said = match said {
            Ok(said) => {
                let is_asked_for = |record: &&Record| record.record_type() == kind;
                let records: Vec<_> = said.answers().iter().filter(is_asked_for).cloned().collect();
                if records.is_empty() { Err(nothing()) } else { Ok(records) }
            }
            Err(error) => Err(Problem::of(&error).unwrap_or_else(nothing)),
        };
        if !matches!(said, Err(Problem { kind: Kind::Silence, .. })) {
            self.answered.fetch_add(1, Ordering::Relaxed);
        }
        said
    }

    /// The SRV records of the first of these names that has any.
    async fn services(self: Arc<Self>, names: Vec<Name>) -> Result<Vec<Record>, Problem> {
        let mut problems = Vec::new();
        for name in names {
            match self.question(name, RecordType::SRV, "SRV record").await {
                Ok(records) => return Ok(records),
                Err(problem) => problems.push(problem),
            }
            if problems.last().is_some_and(|problem| problem.kind == Kind::Silence) {
                break;
            }
        }
        Err(worst(problems))
    }

    /// The addresses of the first of these names that has any.
    async fn addresses(
        self: Arc<Self>,
        names: Vec<Name>,
        families: &'static [Family],
    ) -> Result<Found, Problem> {
        let mut problems = Vec::new();
        let mut late = Rest::new();
        for name in names {
            let halves = families.iter().map(|family| Arc::clone(&self).half(name.clone(), *family));
            let (found, rest) = both(families, halves.collect()).await;
            match found {
                Ok(found) => return Ok(found),
                Err(problem) => problems.push(problem),
            }
            late.extend(rest);
            // Who says nothing to one name won't to the next one.
            if problems.last().is_some_and(|problem| problem.kind == Kind::Silence) {
                break;
            }
        }
        let is_whole = problems.iter().all(|problem| problem.is_whole);
        let mut problem = Problem { is_whole, ..worst(problems) };
        let patience =
            if problem.kind == Kind::NoName { DENIAL_DELAY } else { self.options.timeout * ATTEMPTS };
        let patience = Instant::now() + patience;
        while let Ok(Some((family, said))) = timeout_at(patience, late.next()).await {
            match said {
                Ok(addresses) => {
                    let unknown = families.iter().copied().filter(|other| *other != family).collect();
                    return Ok(Found { addresses, unknown, late: Rest::new() });
                }
                Err(of_late) => problem.is_whole &= of_late.is_whole,
            }
        }
        problem.is_whole &= late.is_empty();
        Err(problem)
    }

    /// The addresses of one kind.
    fn half(self: Arc<Self>, name: Name, family: Family) -> BoxFuture<'static, Half> {
        Box::pin(async move {
            let records = self.question(name, family.question(), "address").await;
            (family, records.and_then(|records| usable(&records)))
        })
    }
}

/// What the halves of an answer come to, with those of them that are late.
async fn both(asked: &[Family], mut halves: Rest) -> (Result<Found, Problem>, Rest) {
    let mut said: Vec<Half> = Vec::new();
    loop {
        let next = match said.last() {
            // There is nothing to be done without the first.
            None => halves.next().await,
            Some((_, said)) => timeout(patience_beside(said), halves.next()).await.unwrap_or_default(),
        };
        match next {
            Some(half) => said.push(half),
            None => break,
        }
    }
    let of = |family: Family| said.iter().find(|(other, _)| *other == family).map(|(_, said)| said);
    let addresses: Vec<_> =
        asked.iter().filter_map(|family| of(*family)?.as_ref().ok()).flatten().copied().collect();
    if addresses.is_empty() {
        let problem = |family: Family| of(family).and_then(|said| said.as_ref().err());
        let problems: Vec<_> = asked.iter().map(|family| (*family, problem(*family))).collect();
        return (Err(Problem::of_halves(&problems)), halves);
    }
    let unknown = asked.iter().copied().filter(|family| !of(*family).is_some_and(is_known)).collect();
    (Ok(Found { addresses, unknown, late: halves }), Rest::new())
}

/// How long the other half is waited for before it goes on without it.
fn patience_beside(said: &Result<Vec<IpAddr>, Problem>) -> Duration {
    match said {
        Ok(_) | Err(Problem { kind: Kind::NoName, .. }) => RESOLUTION_DELAY,
        // A name that is there is not to be left in a hurry for one of another domain.
        Err(Problem { kind: Kind::NoRecord | Kind::NoAnswer, .. }) => DENIAL_DELAY,
        Err(Problem { kind: Kind::Silence, .. }) => Duration::MAX,
    }
}

/// Whether it is known now which addresses of a kind there are.
fn is_known(said: &Result<Vec<IpAddr>, Problem>) -> bool {
    // That there is no such name at all is not true, where there is an address of the other kind.
    said.as_ref().map_or_else(|problem| problem.kind == Kind::NoRecord, |_| true)
}

impl Found {
    /// All that there are.
    pub(super) fn whole(addresses: Vec<IpAddr>) -> Self {
        Self { addresses, unknown: Vec::new(), late: Rest::new() }
    }

    /// The same with the half that was late; `None` where it comes to nothing.
    pub(super) async fn completed(mut self) -> Option<Self> {
        let (family, said) = self.late.next().await?;
        if !is_known(&said) {
            return None;
        }
        self.unknown.retain(|other| *other != family);
        self.addresses.extend(said.into_iter().flatten());
        Some(self)
    }
}

/// Addresses that somebody can be at. A filter says "nowhere" by an address that is this host's own.
fn usable(records: &[Record]) -> Result<Vec<IpAddr>, Problem> {
    let is_somewhere = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    let found = records.iter().filter_map(|record| record.data.ip_addr());
    let mut found: Vec<_> = found.collect();
    let first = found.first().copied();
    found.retain(is_somewhere);
    match first {
        Some(first) if found.is_empty() => {
            Err(Problem::new(Kind::NoRecord, format!("answers {first}, which is no server's address")))
        }
        _ => Ok(found),
    }
}

/// What says most of why there is nothing under any of several names.
fn worst(problems: Vec<Problem>) -> Problem {
    let worst = problems.into_iter().rev().max_by_key(|problem| problem.kind);
    worst.unwrap_or_else(|| Problem::new(Kind::NoName, "was asked for no name"))
}
