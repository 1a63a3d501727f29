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
//!
//! The last answer outlives the name servers: while none of them answers, a name keeps the addresses that it had (as RFC
//! 8767 has it for caches). The name servers are asked on meanwhile: once a second, and more rarely while nobody
//! wants the name. That a name is gone is an answer.

mod servers;
mod system;

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::ops::Deref;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use hickory_resolver::proto::rr::{Name, RData, Record};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout};

use self::servers::{Family, Found, Nothing, Servers};
use self::system::{Hosts, ResolvConf};
use crate::net::Host;
use crate::reload::Reloading;

/// How long dials share an answer.
const SHARED_FOR: Duration = Duration::from_secs(1);

/// How long an answer is waited for by those who have no deadline of their own.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the name servers are waited for where there are earlier addresses: many times what one nearby takes, and
/// little of a connect timeout.
const PATIENCE_BESIDE_STALE: Duration = Duration::from_millis(500);

/// How long after somebody wanted a name the name servers are asked on for it.
const WANTED_FOR: Duration = Duration::from_mins(10);

/// How long before they are asked again. Names that have connections are wanted every two seconds.
const ASKED_AGAIN: Duration = Duration::from_secs(1);
/// The same where nobody has wanted the name for so long.
const RARELY: Duration = Duration::from_secs(10);

/// Names whose answers are kept; beyond them goes what nobody has wanted for longest.
const MOST_ANSWERS: usize = 16 * 1024;

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

    /// These, of an earlier answer, while name servers give none.
    fn stale(known: Arc<[IpAddr]>) -> Self {
        Self { known, unknown: Family::BOTH.into(), later: None }
    }

    /// Whether they are of an earlier answer: nothing is known of today's.
    fn is_stale(&self) -> bool {
        self.unknown.len() == Family::BOTH.len()
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
}

/// Where names are looked up, and what came of it.
struct Sources {
    /// Name servers that are asked instead of the system's.
    named: Option<Vec<SocketAddr>>,
    hosts: Reloading<Hosts>,
    conf: Reloading<ResolvConf>,
    servers: Mutex<Option<Arc<Servers>>>,
    lookups: Mutex<HashMap<String, Lookup>>,
    /// Names that have nothing but earlier addresses now.
    stale: AtomicUsize,
}

/// A lookup that is under way, and what it came to.
struct Lookup {
    told: watch::Receiver<Told>,
    /// When somebody wanted it last.
    wanted: Instant,
}

impl Lookup {
    /// Whether it serves those who come now.
    fn is_fresh(&self) -> bool {
        let goes_on = || self.told.has_changed().is_ok();
        match &*self.told.borrow() {
            Some((_, Ok(addresses))) if addresses.is_stale() => goes_on(),
            Some((at, _)) => at.elapsed() < SHARED_FOR,
            None => goes_on(),
        }
    }

    /// The addresses that it came to.
    fn addresses(&self) -> Option<Arc<[IpAddr]>> {
        match &*self.told.borrow() {
            Some((_, Ok(addresses))) => Some(Arc::clone(&addresses.known)),
            _ => None,
        }
    }
}

impl Resolver {
    /// With these name servers, or else the system's; with the search domains that `/etc/resolv.conf` has.
    pub fn new(named: Option<&[SocketAddr]>) -> Self {
        let sources = Sources {
            named: named.map(<[_]>::to_vec),
            hosts: system::hosts(),
            conf: system::resolv_conf(),
            servers: Mutex::default(),
            lookups: Mutex::default(),
            stale: AtomicUsize::new(0),
        };
        Self { sources: Arc::new(sources) }
    }

    /// How many names have nothing but earlier addresses now, because no name server answers.
    pub fn stale_names(&self) -> usize {
        self.sources.stale.load(Ordering::Relaxed)
    }

    /// Whether `host` has nothing but earlier addresses now.
    pub fn is_stale(&self, host: &Host) -> bool {
        let Host::Name(name) = host else { return false };
        let lookups = self.sources.lookups.lock();
        lookups.get(name).is_some_and(
            |lookup| matches!(&*lookup.told.borrow(), Some((_, Ok(addresses))) if addresses.is_stale()),
        )
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
        let may_be_more = !answer.unknown.is_empty() && !answer.is_stale();
        answer.later = may_be_more.then_some(told);
        Ok(answer)
    }

    /// The lookup of a name that is under way, or was done a moment ago, or else a new one. It goes on though whoever
    /// began it may leave.
    fn share(&self, name: &str) -> watch::Receiver<Told> {
        let mut lookups = self.sources.lookups.lock();
        let wanted = Instant::now();
        let mut last = None;
        if let Some(lookup) = lookups.get_mut(name) {
            lookup.wanted = wanted;
            if lookup.is_fresh() {
                return lookup.told.clone();
            }
            last = lookup.addresses();
        } else if lookups.len() >= MOST_ANSWERS {
            let unwanted = lookups.iter().min_by_key(|(_, lookup)| lookup.wanted);
            if let Some(name) = unwanted.map(|(name, _)| name.clone()) {
                lookups.remove(&name);
            }
        }
        let (tell, told) = watch::channel(None);
        let sources = Arc::clone(&self.sources);
        let begun = name.to_owned();
        tokio::spawn(async move { sources.look_up(&begun, last, &tell).await });
        lookups.insert(name.to_owned(), Lookup { told: told.clone(), wanted });
        told
    }

    /// The SRV records of `name`.
    pub async fn services(&self, name: &str) -> Result<Services, Arc<str>> {
        let name = parse(name)?;
        let found = async { self.sources.servers().await.services(&name).await };
        let found = timeout(PATIENCE, found)
            .await
            .map_err(|_| format!("{self} did not answer within {}", humantime::format_duration(PATIENCE)))?;
        Ok(services(&found.map_err(|nothing| nothing.words)?))
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
    async fn look_up(&self, name: &str, last: Option<Arc<[IpAddr]>>, tell: &watch::Sender<Told>) {
        let now = |answer| Some((Instant::now(), answer));
        let found = match last {
            None => self.find(name).await,
            Some(last) => {
                let stale = || {
                    tell.send_replace(now(Ok(Addresses::stale(Arc::clone(&last)))));
                };
                match self.find_again(name, stale).await {
                    Some(found) => found,
                    None => return,
                }
            }
        };
        match found {
            Err(nothing) => {
                tell.send_replace(now(Err(nothing.words.into())));
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

    async fn find(&self, name: &str) -> Result<Found, Nothing> {
        match self.listed(name).await {
            Some(listed) => Ok(Found::whole(listed.to_vec())),
            None => self.servers().await.look_up(&parse(name).map_err(Nothing::answered)?).await,
        }
    }

    /// Asks until there is an answer, be it that the name is gone. Calls `stale` once, as soon as the last addresses have
    /// to serve meanwhile. `None` where nobody wants the name any more.
    async fn find_again(&self, name: &str, stale: impl Fn()) -> Option<Result<Found, Nothing>> {
        let mut outage: Option<Outage<'_>> = None;
        loop {
            let begun = Instant::now();
            let mut find = pin!(self.find(name));
            let soon = match outage {
                Some(_) => None,
                None => timeout(PATIENCE_BESIDE_STALE, &mut find).await.ok(),
            };
            let found = if let Some(found) = soon {
                found
            } else {
                outage.get_or_insert_with(|| Outage::begin(self, &stale));
                find.await
            };
            match found {
                Err(nothing) if !nothing.is_answer => {
                    outage.get_or_insert_with(|| Outage::begin(self, &stale)).tell(name, &nothing);
                }
                found => {
                    if let Some(outage) = outage {
                        outage.end(name);
                    }
                    return Some(found);
                }
            }
            let unwanted = self.unwanted_for(name);
            if unwanted >= WANTED_FOR {
                return None;
            }
            sleep_until(begun + if unwanted < RARELY { ASKED_AGAIN } else { RARELY }).await;
        }
    }

    fn unwanted_for(&self, name: &str) -> Duration {
        self.lookups.lock().get(name).map_or(Duration::MAX, |lookup| lookup.wanted.elapsed())
    }
}

/// The last addresses of a name serve, for as long as this lives.
struct Outage<'a> {
    sources: &'a Sources,
    is_told: bool,
}

impl<'a> Outage<'a> {
    fn begin(sources: &'a Sources, stale: impl Fn()) -> Self {
        sources.stale.fetch_add(1, Ordering::Relaxed);
        stale();
        Self { sources, is_told: false }
    }

    /// A name server that is slow is not worth a line; one that fails is.
    fn tell(&mut self, name: &str, nothing: &Nothing) {
        if !std::mem::replace(&mut self.is_told, true) {
            tracing::warn!(
                target: "resolve",
                name,
                error = nothing.words,
                remedy = "check the name servers; until they answer a change of address is not seen",
                "no name server answers; keeping the last addresses"
            );
        }
    }

    fn end(self, name: &str) {
        if self.is_told {
            tracing::info!(target: "resolve", name, "name servers answer again");
        }
    }
}

impl Drop for Outage<'_> {
    fn drop(&mut self) {
        self.sources.stale.fetch_sub(1, Ordering::Relaxed);
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
