//! Names to addresses: the hosts file first, then DNS, for every dial anew.
//!
//! An answer is shared by the dials within one second and no longer, whatever its TTL: Docker's DNS says 600
//! seconds and changes at once. The hosts file is read each time, because Docker rewrites it under running containers.
//!
//! Name servers are asked in the order in which they are listed, as everybody expects who has one for the names of his
//! own network before one for the rest. But each has only a short head start on the next one, so that one that
//! hangs costs a moment, and from then on nothing until it answers again.

use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::net::{DnsError, NetError, NoRecords};
use hickory_resolver::proto::op::ResponseCode;
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hickory_resolver::system_conf::read_system_conf;
use hickory_resolver::{Resolver as Hickory, TokioResolver};
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout};

use crate::config::target::Host;
use crate::failure::words;

/// How long dials share an answer.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// How long a name server has for itself before the next one is asked too: many times what a server nearby takes, and
/// little of a connect timeout.
const HEAD_START: Duration = Duration::from_millis(500);

/// How long an answer is waited for by those who have no deadline of their own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names whose answers are kept before those that nobody shares any more are thrown away.
const MOST_ANSWERS: usize = 1024;

/// The addresses of a name, or the reason in words why there are none.
pub type Answer = Result<Arc<[IpAddr]>, Arc<str>>;

/// The last answer and its time, locked while a lookup is under way.
type Shared = Arc<AsyncMutex<Option<(Instant, Answer)>>>;

/// What SRV records say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Services {
    /// The records; none where the name says that there is no such service.
    pub records: Vec<Service>,
    /// How long they hold.
    pub ttl: Duration,
}

/// One SRV record (RFC 2782).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Service {
    /// Those with the lowest number go first.
    pub priority: u16,
    /// The share among those of one priority.
    pub weight: u16,
    /// The host.
    pub host: Host,
    /// The port.
    pub port: u16,
}

/// Looks names up.
pub struct Resolver {
    /// Name servers that are asked instead of the system's.
    named: Option<Vec<SocketAddr>>,
    servers: Mutex<Arc<Servers>>,
    answers: Mutex<HashMap<String, Shared>>,
}

/// The name servers, and the search domains, as the system's file had them.
struct Servers {
    /// Without name servers, names can still be in the hosts file.
    list: Result<Vec<NameServer>, String>,
    /// When the file was last changed.
    changed: Option<SystemTime>,
}

/// The system's name servers and search domains.
const RESOLV_CONF: &str = "/etc/resolv.conf";

fn last_change() -> Option<SystemTime> {
    std::fs::metadata(RESOLV_CONF).and_then(|file| file.modified()).ok()
}

/// One name server, with what it is asked by.
struct NameServer {
    address: SocketAddr,
    dns: TokioResolver,
    /// Whether it gave no answer the last time.
    silent: AtomicBool,
}

impl Resolver {
    /// With these name servers, or else the system's; with the search domains that `/etc/resolv.conf` has.
    pub fn new(named: Option<&[SocketAddr]>) -> Self {
        Self {
            named: named.map(<[_]>::to_vec),
            servers: Mutex::new(Arc::new(Servers::read(named, last_change()))),
            answers: Mutex::default(),
        }
    }

    /// Whom to ask now: Docker rewrites the file of a container that joins a network.
    fn servers(&self) -> Arc<Servers> {
        let changed = last_change();
        let mut servers = self.servers.lock().unwrap_or_else(PoisonError::into_inner);
        if servers.changed != changed {
            *servers = Arc::new(Servers::read(self.named.as_deref(), changed));
        }
        Arc::clone(&servers)
    }

    /// Every address of `host`, at least one, or the reason why there is none.
    pub async fn addresses(&self, host: &Host) -> Answer {
        match host {
            Host::Address(address) => Ok([*address].into()),
            Host::Name(name) => self.lookup(name).await,
            Host::Linked { alias, address } => match in_hosts_file(alias) {
                found if found.is_empty() => Ok([*address].into()),
                found => Ok(found.into()),
            },
        }
    }

    async fn lookup(&self, name: &str) -> Answer {
        let shared = self.share(name);
        // Whoever comes while a lookup is under way waits for it here.
        let mut answer = shared.lock().await;
        if let Some((at, answer)) = &*answer
            && at.elapsed() < SHARED_FOR
        {
            return answer.clone();
        }
        let fresh = self.look_up(name).await;
        *answer = Some((Instant::now(), fresh.clone()));
        fresh
    }

    fn share(&self, name: &str) -> Shared {
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        if answers.len() >= MOST_ANSWERS {
            // Locked or held elsewhere: somebody is just about to use it.
            answers.retain(|_, shared| {
                let fresh = |answer: &Option<(Instant, Answer)>| {
                    answer.as_ref().is_some_and(|(at, _)| at.elapsed() < SHARED_FOR)
                };
                Arc::strong_count(shared) > 1 || shared.try_lock().is_ok_and(|answer| fresh(&answer))
            });
        }
        Arc::clone(answers.entry(name.to_owned()).or_default())
    }

    async fn look_up(&self, name: &str) -> Answer {
        let listed = in_hosts_file(name);
        if !listed.is_empty() {
            return Ok(listed.into());
        }
        let name = parse(name)?;
        self.ask("address", move |dns| {
            let name = name.clone();
            Box::pin(async move {
                let found = dns.lookup_ip(name).await?;
                Ok(found.iter().collect::<Vec<_>>())
            })
        })
        .await
        .map(Into::into)
    }

    /// The SRV records of `name`.
    pub async fn services(&self, name: &str) -> Result<Services, Arc<str>> {
        let name = parse(name)?;
        let found = self.ask("SRV record", move |dns| {
            let name = name.clone();
            Box::pin(async move {
                let found = dns.lookup(name, RecordType::SRV).await?;
                let is_service = |record: &&Record| matches!(record.data, RData::SRV(_));
                Ok(found.answers().iter().filter(is_service).cloned().collect::<Vec<_>>())
            })
        });
        let found = timeout(PATIENCE, found)
            .await
            .unwrap_or_else(|_| Err(format!("{self} did not answer within {PATIENCE:?}").into()))?;
        Ok(services(&found))
    }

    /// Asks the name servers, and takes the first answer that is one: records, or that there are none.
    async fn ask<T>(
        &self,
        what: &str,
        question: impl Fn(TokioResolver) -> BoxFuture<'static, Result<Vec<T>, NetError>>,
    ) -> Result<Vec<T>, Arc<str>> {
        let servers = self.servers();
        let servers = servers.list.as_ref().map_err(|reason| Arc::from(reason.as_str()))?;
        let mut waiting = servers.iter();
        let mut asked = FuturesUnordered::new();
        let mut problems = Vec::new();
        loop {
            let latest = waiting.next();
            if let Some(server) = latest {
                let answer = question(server.dns.clone());
                asked.push(async move { (server, answer.await) });
            }
            let answered = match latest {
                Some(server) if waiting.len() > 0 => {
                    let silent = server.silent.load(Ordering::Relaxed);
                    let head_start = if silent { Duration::ZERO } else { HEAD_START };
                    let Ok(answered) = timeout(head_start, asked.next()).await else {
                        server.silent.store(true, Ordering::Relaxed);
                        continue;
                    };
                    answered
                }
                _ => asked.next().await,
            };
            let Some((server, answer)) = answered else {
                return Err(problems.join("; ").into());
            };
            let silent = matches!(answer, Err(NetError::Timeout | NetError::Io(_)));
            server.silent.store(silent, Ordering::Relaxed);
            match answer {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => return Err(format!("{} has no {what} for it", server.address).into()),
                Err(error) => {
                    let (is_answer, problem) = server.problem(&error, what);
                    if is_answer {
                        return Err(problem.into());
                    }
                    problems.push(problem);
                }
            }
        }
    }
}

/// What the SRV records in an answer say.
pub(crate) fn services(found: &[Record]) -> Services {
    let ttl = found.iter().map(|record| record.ttl).min().unwrap_or_default();
    let records = found.iter().filter_map(|record| match &record.data {
        // RFC 2782: a target of "." means that the service is decidedly not available.
        RData::SRV(srv) if !srv.target.is_root() => Some(Service {
            priority: srv.priority,
            weight: srv.weight,
            // Fully qualified: search domains have no say in it.
            host: Host::Name(srv.target.to_ascii()),
            port: srv.port,
        }),
        _ => None,
    });
    Services { records: records.collect(), ttl: Duration::from_secs(ttl.into()) }
}

/// The name servers, as errors name them.
impl fmt::Display for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let servers = self.servers();
        for (index, server) in servers.list.iter().flatten().enumerate() {
            if index > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{}", server.address)?;
        }
        Ok(())
    }
}

impl Servers {
    fn read(named: Option<&[SocketAddr]>, changed: Option<SystemTime>) -> Self {
        let (config, options) = match (named, read_system_conf()) {
            (_, Ok(system)) => system,
            (Some(_), Err(_)) => Default::default(),
            (None, Err(error)) => {
                let reason = format!("no name server can be asked: {RESOLV_CONF}: {error}");
                return Self { list: Err(reason), changed };
            }
        };
        let servers = match named {
            Some(servers) => servers.iter().map(|server| at_port(*server)).collect(),
            None => config.name_servers().to_vec(),
        };
        let servers = servers.into_iter().map(|server| NameServer::new(server, &config, options.clone()));
        Self { list: servers.collect(), changed }
    }
}

/// Both ways to ask a server at a port of its own.
fn at_port(server: SocketAddr) -> NameServerConfig {
    let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
    for connection in &mut connections {
        connection.port = server.port();
    }
    NameServerConfig::new(server.ip(), true, connections)
}

impl NameServer {
    fn new(
        server: NameServerConfig,
        system: &ResolverConfig,
        mut options: ResolverOpts,
    ) -> Result<Self, String> {
        let port = server.connections.first().map_or(53, |connection| connection.port);
        let address = SocketAddr::new(server.ip, port);
        options.cache_size = 0;
        options.use_hosts_file = ResolveHosts::Never;
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        // A question is repeated while it is waited for; to begin it anew would only make a dead server's silence longer.
        options.attempts = 0;
        // Above what one link's backends ask at once; beyond it questions wait.
        options.max_active_requests = 256;
        let config =
            ResolverConfig::from_parts(system.domain().cloned(), system.search().to_vec(), vec![server]);
        let mut builder = Hickory::builder_with_config(config, TokioRuntimeProvider::default());
        *builder.options_mut() = options;
        let dns = builder.build().map_err(|error| format!("{address} can't be asked: {error}"))?;
        Ok(Self { address, dns, silent: AtomicBool::new(false) })
    }

    /// An error in words, and whether it is an answer all the same: that there is nothing of that name.
    fn problem(&self, error: &NetError, what: &str) -> (bool, String) {
        let server = self.address;
        match error {
            NetError::Dns(DnsError::NoRecordsFound(NoRecords { response_code, .. })) => match response_code {
                ResponseCode::NXDomain => (true, format!("{server} knows no such name (NXDOMAIN)")),
                ResponseCode::NoError => (true, format!("{server} has no {what} for it")),
                ResponseCode::ServFail => (false, format!("{server} could not find out (SERVFAIL)")),
                ResponseCode::Refused => (false, format!("{server} refuses to say (REFUSED)")),
                code => (false, format!("{server} answered {code}")),
            },
            NetError::Dns(DnsError::ResponseCode(ResponseCode::ServFail)) => {
                (false, format!("{server} could not find out (SERVFAIL)"))
            }
            NetError::Dns(DnsError::ResponseCode(ResponseCode::Refused)) => {
                (false, format!("{server} refuses to say (REFUSED)"))
            }
            NetError::Timeout => (false, format!("{server} does not answer")),
            NetError::Io(error) => (false, format!("{server} can't be asked: {}", words(error))),
            error => (false, format!("{server}: {error}")),
        }
    }
}

fn parse(name: &str) -> Result<Name, Arc<str>> {
    Name::from_str_relaxed(name).map_err(|error| Arc::from(error.to_string()))
}

/// What the hosts file has for `name`; a file that can't be read has nothing.
fn in_hosts_file(name: &str) -> Vec<IpAddr> {
    File::open("/etc/hosts").map(|file| listed(BufReader::new(file), name)).unwrap_or_default()
}

/// hosts(5): an address and its names on a line, `#` for comments.
fn listed(hosts: impl BufRead, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut addresses = Vec::new();
    for line in hosts.lines().map_while(Result::ok) {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        if let Some(Ok(address)) = words.next().map(str::parse)
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !addresses.contains(&address)
        {
            addresses.push(address);
        }
    }
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hosts_file_is_read_as_docker_and_people_write_it() {
        let hosts = "\u{feff}127.0.0.1\tlocalhost\n::1 localhost ip6-localhost # both\n\n#10.9.9.9 redis\n\
                     172.17.0.2\tmy_db 3f2a1b app-db\nnonsense redis\n10.0.0.7 REDIS redis\n";
        let addresses = |name: &str| listed(hosts.as_bytes(), name);
        assert_eq!(addresses("ip6-localhost"), ["::1".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("my_db."), ["172.17.0.2".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("redis"), ["10.0.0.7".parse::<IpAddr>().unwrap()]);
        assert_eq!(addresses("absent"), [] as [IpAddr; 0]);
    }
}
