//! Names to addresses: the hosts file first, then DNS, for every dial anew.
//!
//! An answer is shared by the dials within one second and no longer, whatever its TTL: Docker's DNS says 600
//! seconds and changes at once. The hosts file is looked at each time, because Docker rewrites it under running
//! containers.
//!
//! Name servers are asked in the order in which they are listed, as everybody expects who has one for the names of his
//! own network before one for the rest. But each has only a short head start on the next one, so that one that
//! hangs costs a moment, and from then on nothing until it answers again.
//!
//! Half an answer is an answer: see [`servers`]. What comes of the other half later is there for who still dials.

mod servers;
mod system;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, Record};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use self::servers::{Family, Found, Servers};
use self::system::{Hosts, ResolvConf};
use crate::net::Host;
use crate::reload::Reloading;

/// How long dials share an answer.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// How long an answer is waited for by those who have no deadline of their own.
const PATIENCE: Duration = Duration::from_secs(5);

/// Names whose answers are kept before those that nobody shares any more are thrown away.
const MOST_ANSWERS: usize = 1024;

/// The addresses of a name, at least one, or the reason in words why there is none.
pub type Answer = Result<Addresses, Arc<str>>;

/// The addresses of a name, as far as they are known.
#[derive(Debug, Clone)]
pub struct Addresses {
    known: Arc<[IpAddr]>,
    /// The kinds of address of which it is not known whether there are any.
    unknown: Arc<[Family]>,
    /// Where the other half of the answer is told, for as long as it may still come.
    later: Option<watch::Receiver<Told>>,
}

/// What a lookup has come to, and when; `None` as long as it is under way.
type Told = Option<(Instant, Answer)>;

impl Addresses {
    /// All that a name has.
    pub fn whole(known: impl Into<Arc<[IpAddr]>>) -> Self {
        Self { known: known.into(), unknown: [].into(), later: None }
    }

    /// These, of one kind, while nothing is known of the other.
    #[cfg(test)]
    pub(crate) fn half<const N: usize>(known: [IpAddr; N]) -> Self {
        let unknown = Family::BOTH.into_iter().filter(|family| !family.has(known[0])).collect();
        Self { known: known.into(), unknown, later: None }
    }

    /// Whether this says of an address that the name has it or not: nobody knows what an answer that has not come holds.
    pub fn tell_of(&self, address: IpAddr) -> bool {
        !self.unknown.iter().any(|family| family.has(address))
    }

    /// Whether there may be more of them in a moment.
    pub fn may_be_more(&self) -> bool {
        self.later.is_some()
    }

    /// Waits for those that were not known yet, which may come to nothing; for ever where there are none to come.
    pub async fn more(&mut self) -> Vec<IpAddr> {
        let Some(later) = &mut self.later else { return std::future::pending().await };
        let is_told = later.changed().await.is_ok();
        let told = later.borrow().clone();
        self.later = None;
        match told {
            Some((_, Ok(all))) if is_told => {
                let new = all.iter().copied().filter(|address| !self.contains(address)).collect();
                *self = all;
                new
            }
            _ => Vec::new(),
        }
    }
}

impl Deref for Addresses {
    type Target = [IpAddr];

    fn deref(&self) -> &[IpAddr] {
        &self.known
    }
}

impl From<&Found> for Addresses {
    fn from(found: &Found) -> Self {
        Self {
            known: found.addresses.as_slice().into(),
            unknown: found.unknown.as_slice().into(),
            later: None,
        }
    }
}

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
    sources: Arc<Sources>,
    /// Lookups under way, and what they came to.
    lookups: Mutex<HashMap<String, watch::Receiver<Told>>>,
}

/// Where names are looked up.
struct Sources {
    /// Name servers that are asked instead of the system's.
    named: Option<Vec<SocketAddr>>,
    hosts: Reloading<Hosts>,
    conf: Reloading<ResolvConf>,
    servers: Mutex<Option<Arc<Servers>>>,
}

impl Resolver {
    /// With these name servers, or else the system's; with the search domains that `/etc/resolv.conf` has.
    pub fn new(named: Option<&[SocketAddr]>) -> Self {
        let sources = Sources {
            named: named.map(<[_]>::to_vec),
            hosts: system::hosts(),
            conf: system::resolv_conf(),
            servers: Mutex::default(),
        };
        Self { sources: Arc::new(sources), lookups: Mutex::default() }
    }

    /// The addresses of `host`, as soon as there are any, or the reason why there is none.
    pub async fn addresses(&self, host: &Host) -> Answer {
        match host {
            Host::Address(address) => Ok(Addresses::whole([*address])),
            Host::LinkLocal(link_local) => Ok(Addresses::whole([link_local.address.into()])),
            Host::Name(name) => self.lookup(name).await,
            Host::Linked { alias, address } => {
                let listed = self.sources.listed(alias).await;
                Ok(listed.unwrap_or_else(|| Addresses::whole([*address])))
            }
        }
    }

    async fn lookup(&self, name: &str) -> Answer {
        let mut told = self.share(name);
        // Whoever comes while a lookup is under way waits for it here.
        let answer = match told.wait_for(Option::is_some).await {
            Ok(told) => told.as_ref().map(|(_, answer)| answer.clone()),
            Err(_) => None,
        };
        let mut answer = answer.unwrap_or_else(|| Err("the lookup broke off".into()))?;
        answer.later = (!answer.unknown.is_empty()).then_some(told);
        Ok(answer)
    }

    /// The lookup of a name that is under way, or was done a moment ago, or else a new one. It goes on though whoever
    /// began it may leave.
    fn share(&self, name: &str) -> watch::Receiver<Told> {
        let is_fresh = |told: &watch::Receiver<Told>| match &*told.borrow() {
            Some((at, _)) => at.elapsed() < SHARED_FOR,
            None => told.has_changed().is_ok(),
        };
        let mut lookups = self.lookups.lock();
        if let Some(told) = lookups.get(name).filter(|told| is_fresh(told)) {
            return told.clone();
        }
        if lookups.len() >= MOST_ANSWERS {
            lookups.retain(|_, told| is_fresh(told));
        }
        let (tell, told) = watch::channel(None);
        let sources = Arc::clone(&self.sources);
        let begun = name.to_owned();
        tokio::spawn(async move { sources.look_up(&begun, &tell).await });
        lookups.insert(name.to_owned(), told.clone());
        told
    }

    /// The SRV records of `name`.
    pub async fn services(&self, name: &str) -> Result<Services, Arc<str>> {
        let name = parse(name)?;
        let found = async { self.sources.servers().await.services(&name).await };
        let found = timeout(PATIENCE, found).await.unwrap_or_else(|_| {
            Err(format!("{self} did not answer within {}", humantime::format_duration(PATIENCE)))
        })?;
        Ok(services(&found))
    }
}

impl Sources {
    /// What the hosts file has for a name.
    async fn listed(&self, name: &str) -> Option<Addresses> {
        Some(Addresses::whole(self.hosts.current().await.addresses(name)?))
    }

    /// Whom to ask now: Docker rewrites the file of a container that joins a network.
    async fn servers(&self) -> Arc<Servers> {
        let conf = self.conf.current().await;
        let mut servers = self.servers.lock();
        match &*servers {
            // The same servers are kept, with what is known of them.
            Some(servers) if *servers.conf == *conf => Arc::clone(servers),
            _ => {
                let new = Arc::new(Servers::new(self.named.as_deref(), conf));
                *servers = Some(Arc::clone(&new));
                new
            }
        }
    }

    /// Looks a name up, and tells what comes of it: first as much as is worth dialling, then the rest.
    async fn look_up(&self, name: &str, tell: &watch::Sender<Told>) {
        let now = |answer| Some((Instant::now(), answer));
        if let Some(listed) = self.listed(name).await {
            tell.send_replace(now(Ok(listed)));
            return;
        }
        let found = async { self.servers().await.look_up(&parse(name)?).await };
        match found.await {
            Err(reason) => {
                tell.send_replace(now(Err(reason.into())));
            }
            Ok(found) => {
                tell.send_replace(now(Ok(Addresses::from(&found))));
                if let Some(all) = found.completed().await {
                    // The answer is no younger for it.
                    tell.send_modify(|told| {
                        if let Some((_, answer)) = told {
                            *answer = Ok(Addresses::from(&all));
                        }
                    });
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
        match self.sources.servers.lock().as_deref() {
            Some(servers) => servers.fmt(f),
            None => f.write_str("no name server yet"),
        }
    }
}

fn parse(name: &str) -> Result<Name, String> {
    Name::from_str_relaxed(name).map_err(|_| "it is no name that a name server could be asked for".to_owned())
}
