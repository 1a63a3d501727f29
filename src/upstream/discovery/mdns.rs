//! Discovery in the local network: servers announce themselves by multicast (mDNS, RFC 6762; DNS-SD, RFC 6763), as Avahi and
//! Bonjour do.
//!
//! A thread of the library's listens and asks at each interface ([`ServiceDaemon`]); what it finds comes through a channel.
//! One for all interfaces would not do: a name belongs to a server within one network only, and the library takes the
//! servers of one name for one, and the leave of either for that of both. Each kind of address has one too: what was heard
//! over IPv6, where Avahi tells no IPv4 address, is not asked for any more. Nobody in the network is the source as a whole:
//! when the last server falls silent it may as well be we who hear nothing, so that the last list serves on.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use futures_util::stream::{BoxStream, SelectAll, StreamExt, once, pending};
use mdns_sd::{
    DaemonEvent, IfKind, Metrics, Receiver, ResolvedService, ScopedIp, ServiceDaemon, ServiceEvent,
};
use tokio::time::{Instant, sleep, timeout_at};

use super::{Found, PassedOver, some};
use crate::backoff::Backoff;
use crate::config::Link;
use crate::net::{Endpoint, Host, LinkLocal};
use crate::text;
use crate::upstream::backends::{Backends, Listing};

/// How long nobody is waited for before that is said.
const PATIENCE: Duration = Duration::from_secs(2);

/// How long servers are waited for that are asked once. It is asked again after one second and after three: who has just
/// answered somebody else keeps silent (RFC 6762, 6 and 7).
const ASKED_FOR: Duration = Duration::from_millis(3500);

/// The shortest time between two lists while servers go on changing.
const MIN_INTERVAL: Duration = Duration::from_millis(100);

/// Between attempts to listen.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(10) };

/// Longer than any process lives.
const FOREVER: Duration = Duration::from_hours(24 * 365 * 30);

/// The most announcements, of which a server has one for each interface and kind of address.
const MOST: usize = 32 * 1024;

/// The most records that an ear may keep, of which a server has several, and whatever else somebody says: 32 MiB.
const MOST_RECORDS: i64 = 64 * 1024;

/// How many notes of a time take as much memory as a record. Every repetition of a record leaves two until its end.
const TIMERS_A_RECORD: i64 = 16;

/// The most places that are listened at: each takes a thread.
const MOST_PLACES: usize = 64;

/// How often the interfaces are looked at, and what is kept.
const LOOK: Duration = Duration::from_secs(1);

/// Follows those who announce themselves. Never returns.
pub(super) async fn follow(backends: &Backends, link: &Link, service: &str) {
    let mut failures = 0;
    loop {
        let ended = match Listener::start(service, &link.name) {
            Ok(mut listener) => listen(&mut listener, backends, &mut failures).await,
            Err(reason) => reason,
        };
        backends.unknown(&ended, None);
        failures += 1;
        sleep(BACKOFF.wait(failures)).await;
    }
}

/// Publishes whoever is there, until nothing is heard any more; returns why.
async fn listen(listener: &mut Listener<'_>, backends: &Backends, failures: &mut u32) -> String {
    let mut patience_ends = Instant::now() + PATIENCE;
    // Whether the last list serves on while nobody of it is heard: whoever is heard first is not all there is.
    let mut is_outdated = *failures > 0;
    loop {
        match timeout_at(patience_ends, listener.hear()).await {
            Err(_) => {
                backends.unknown(&listener.nobody(), None);
                patience_ends += PATIENCE;
            }
            Ok(Err(reason)) => return reason,
            Ok(Ok(())) => {
                // What belongs together comes in several packets.
                let mut collected = listener.collect(MIN_INTERVAL).await;
                if collected.is_ok() && is_outdated && !listener.endpoints().is_empty() {
                    collected = listener.collect(ASKED_FOR).await;
                }
                if let Err(reason) = collected {
                    return reason;
                }
                let endpoints = listener.endpoints();
                if !endpoints.is_empty() {
                    *failures = 0;
                    is_outdated = false;
                    // While there are some, nobody is waited for.
                    patience_ends = Instant::now() + FOREVER;
                    backends.publish(endpoints.into_iter().map(Listing::in_order).collect(), "mdns");
                } else if patience_ends > Instant::now() + PATIENCE {
                    is_outdated = true;
                    patience_ends = Instant::now() + PATIENCE;
                }
            }
        }
    }
}

/// Asks once who is there.
pub(super) async fn ask_once(link: &Link, service: &str) -> Result<Found, String> {
    let mut listener = Listener::start(service, &link.name)?;
    // Whoever asks for it waits no longer than for a connection.
    listener.collect(ASKED_FOR.min(link.connect_timeout.mul_f64(0.8))).await?;
    let (endpoints, nowhere) = (listener.endpoints(), listener.nowhere());
    if endpoints.is_empty() {
        return Err(listener.nobody());
    }
    let passed_over = (!nowhere.is_empty()).then(|| PassedOver { what: some(&nowhere), remedy: REMEDY });
    Ok(Found { endpoints, passed_over })
}

/// What is wrong with an announcement that is passed over.
const NOWHERE: &str = "it announces no address and port that can be dialled";

/// What helps against it.
const REMEDY: &str = "let the server announce its port, and an address of its own";

/// What is heard of one service.
struct Listener<'a> {
    service: &'a str,
    link: &'a str,
    ears: BTreeMap<Place, Ear>,
    heard: SelectAll<BoxStream<'static, Heard>>,
    next_look: Instant,
    /// Whether there are more places than are listened at, which was told then.
    passes_over: bool,
    /// Who is there, by the names under which they announce themselves, and where these are heard.
    servers: BTreeMap<(String, Place), Server>,
}

/// The number of an interface, and whether it is listened at over IPv4.
type Place = (u32, bool);

/// What was heard at a place; nothing where nothing is heard any more.
type Heard = (Place, Option<ServiceEvent>);

/// A server that announces itself.
enum Server {
    /// The rest of what is to be known of it is not there yet.
    Found,
    /// A host of this name.
    At(String, Endpoint),
    /// What it announces can't be dialled.
    Nowhere,
}

impl<'a> Listener<'a> {
    fn start(service: &'a str, link: &'a str) -> Result<Self, String> {
        let mut heard = SelectAll::new();
        // Where there is no interface yet, there is nothing to hear yet.
        heard.push(pending().boxed());
        let mut listener = Self {
            service,
            link,
            ears: BTreeMap::new(),
            heard,
            next_look: Instant::now(),
            passes_over: false,
            servers: BTreeMap::new(),
        };
        listener.look()?;
        Ok(listener)
    }

    /// Listens at the interfaces that there are, as long as what is kept is not too much.
    fn look(&mut self) -> Result<(), String> {
        self.next_look = Instant::now() + LOOK;
        let all = places().map_err(|error| failed(&text::io_error(&error)))?;
        let number = all.len();
        if number > MOST_PLACES && !self.passes_over {
            tracing::warn!(
                target: "discovery",
                link = self.link,
                places = number,
                remedy = "run where there are fewer interfaces if servers are missing: each has one place for IPv4 and one for IPv6",
                "listening at the first {MOST_PLACES} places of the local network alone"
            );
        }
        self.passes_over = number > MOST_PLACES;
        // Those of the interfaces that were there first.
        let places: BTreeSet<_> = all.into_iter().take(MOST_PLACES).collect();
        self.ears.retain(|place, _| places.contains(place));
        self.servers.retain(|(_, place), _| places.contains(place));
        for place in places {
            if let Some(ear) = self.ears.get_mut(&place) {
                ear.expect_room()?;
                continue;
            }
            let (ear, events) = Ear::open(place, self.service).map_err(|error| failed(&error))?;
            self.ears.insert(place, ear);
            let events = events.into_stream().map(Some).chain(once(async { None }));
            self.heard.push(events.map(move |event| (place, event)).boxed());
        }
        Ok(())
    }

    /// Takes in what comes next, or whatever has changed at the interfaces. Nothing is lost when this is given up.
    async fn hear(&mut self) -> Result<(), String> {
        match timeout_at(self.next_look, self.heard.next()).await {
            Err(_) => self.look()?,
            // It may be the last word of an interface that is gone.
            Ok(Some((place, event))) if self.ears.contains_key(&place) => {
                self.take(place, event.ok_or("more was announced than could be followed")?)?;
            }
            Ok(_) => {}
        }
        Ok(())
    }

    /// Takes all that comes within this time, as it comes: the library gives up where more than 1000 events wait.
    async fn collect(&mut self, time: Duration) -> Result<(), String> {
        let until = Instant::now() + time;
        while Instant::now() < until
            && let Ok(heard) = timeout_at(until, self.hear()).await
        {
            heard?;
        }
        Ok(())
    }

    fn take(&mut self, place: Place, event: ServiceEvent) -> Result<(), String> {
        match event {
            ServiceEvent::ServiceFound(_, name) => {
                self.servers.entry((name, place)).or_insert(Server::Found);
            }
            ServiceEvent::ServiceResolved(found) => {
                let key = (found.fullname.clone(), place);
                let before = self.servers.get(&key);
                let server = match endpoint(&found, before) {
                    Some(endpoint) => Server::At(found.host, endpoint),
                    None => Server::Nowhere,
                };
                if matches!(server, Server::Nowhere) && !matches!(before, Some(Server::Nowhere)) {
                    tracing::warn!(
                        target: "discovery",
                        link = self.link,
                        server = text::one_line(found.fullname.as_bytes()),
                        error = NOWHERE,
                        remedy = REMEDY,
                        "announcement passed over"
                    );
                }
                self.servers.insert(key, server);
            }
            ServiceEvent::ServiceRemoved(_, name) => drop(self.servers.remove(&(name, place))),
            _ => {}
        }
        if self.servers.len() > MOST {
            return Err(format!("more than {MOST} announcements of {}.local", self.service));
        }
        Ok(())
    }

    /// One of each name and host: who is heard at several interfaces is one server, as a host at two networks is, or one
    /// that has bridges for containers.
    fn endpoints(&self) -> Vec<Endpoint> {
        let mut found = BTreeMap::new();
        for ((name, _), server) in &self.servers {
            if let Server::At(host, endpoint) = server {
                let best = found.entry((name, host)).or_insert(endpoint);
                if reach(endpoint) < reach(best) {
                    *best = endpoint;
                }
            }
        }
        found.into_values().cloned().collect()
    }

    /// Those whose announcements are passed over.
    fn nowhere(&self) -> Vec<String> {
        let nowhere = self.servers.iter().filter(|(_, server)| matches!(server, Server::Nowhere));
        let names: BTreeSet<_> = nowhere.map(|((name, _), _)| name).collect();
        names.iter().map(|name| format!("{}: {NOWHERE}", text::one_line(name.as_bytes()))).collect()
    }

    /// Why there is nobody, as far as is known.
    fn nobody(&self) -> String {
        let troubles = self.ears.values().flat_map(|ear| ear.troubles.try_iter());
        let trouble = troubles.filter_map(|event| match event {
            DaemonEvent::Error(error) => Some(format!(" ({error})")),
            _ => None,
        });
        let trouble = trouble.last().unwrap_or_default();
        format!("nobody in the local network announces {}.local{trouble}", self.service)
    }
}

fn failed(error: &dyn fmt::Display) -> String {
    format!("the local network can't be listened to: {error}")
}

/// Where there is an address.
fn places() -> io::Result<BTreeSet<Place>> {
    let all = if_addrs::get_if_addrs()?;
    let usable = all.iter().filter(|interface| interface.is_oper_up() && !interface.is_p2p());
    Ok(usable.filter_map(|interface| Some((interface.index?, interface.ip().is_ipv4()))).collect())
}

/// What listens and asks at one place.
struct Ear {
    daemon: ServiceDaemon,
    troubles: Receiver<DaemonEvent>,
    /// What it keeps, which was asked for at the last look.
    kept: Receiver<Metrics>,
}

impl Ear {
    fn open(
        (number, is_ipv4): Place,
        service: &str,
    ) -> Result<(Self, Receiver<ServiceEvent>), mdns_sd::Error> {
        let daemon = ServiceDaemon::new()?;
        daemon.disable_interface(IfKind::All)?;
        daemon.enable_interface(if is_ipv4 { IfKind::IndexV4(number) } else { IfKind::IndexV6(number) })?;
        let events = daemon.browse(&format!("{service}.local."))?;
        Ok((Self { troubles: daemon.monitor()?, kept: daemon.get_metrics()?, daemon }, events))
    }

    /// It keeps whatever anybody says for as long as it is said to hold.
    fn expect_room(&mut self) -> Result<(), String> {
        // One that is busy has not answered yet.
        let Ok(kept) = self.kept.try_recv() else { return Ok(()) };
        self.kept = self.daemon.get_metrics().map_err(|error| failed(&error))?;
        let records: i64 =
            kept.iter().filter(|(name, _)| name.starts_with("cached-")).map(|(_, count)| count).sum();
        let timers = kept.get("timer").unwrap_or(&0);
        if records + timers / TIMERS_A_RECORD > MOST_RECORDS {
            return Err(format!("more than {MOST_RECORDS} records are announced in the local network"));
        }
        Ok(())
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        // One that has ended already can't be ended again.
        let _ = self.daemon.shutdown();
    }
}

/// The less, the farther an endpoint's address reaches.
fn reach(endpoint: &Endpoint) -> u8 {
    match endpoint {
        Endpoint::Tcp(Host::Address(IpAddr::V4(_)), _) => 0,
        Endpoint::Tcp(Host::Address(IpAddr::V6(_)), _) => 1,
        _ => 2,
    }
}

/// Where a server is dialled: of its addresses, at the one that reaches farthest; among equals, at the one of before.
fn endpoint(found: &ResolvedService, before: Option<&Server>) -> Option<Endpoint> {
    let is_new = |endpoint: &Endpoint| !matches!(before, Some(Server::At(_, before)) if before == endpoint);
    let hosts = found.addresses.iter().filter_map(host).filter(|_| found.port != 0);
    let endpoints = hosts.map(|host| Endpoint::Tcp(host, found.port));
    endpoints.min_by_key(|endpoint| (reach(endpoint), is_new(endpoint), endpoint.to_string()))
}

fn host(address: &ScopedIp) -> Option<Host> {
    match address {
        ScopedIp::V6(scoped) if scoped.addr().is_unicast_link_local() => {
            // As a person would write it, with all that is refused then.
            let written: LinkLocal = format!("{}%{}", scoped.addr(), scoped.scope_id().name).parse().ok()?;
            Some(Host::LinkLocal(written))
        }
        address => {
            let address = address.to_ip_addr();
            let is_one = !address.is_unspecified() && !address.is_multicast();
            is_one.then(|| Host::Address(address.to_canonical()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn more_announcements_than_are_meant_are_told_with_the_limit() {
        let (service, link) = ("_db._tcp", "db:5432");
        let mut listener = Listener {
            service,
            link,
            ears: BTreeMap::new(),
            heard: SelectAll::new(),
            next_look: Instant::now(),
            passes_over: false,
            servers: BTreeMap::new(),
        };
        let mut found = |number: usize| {
            listener.take((1, true), ServiceEvent::ServiceFound(service.into(), number.to_string()))
        };
        assert!((0..MOST).all(|number| found(number).is_ok()));
        assert_eq!(found(0), Ok(()));
        assert_eq!(found(MOST), Err("more than 32768 announcements of _db._tcp.local".to_owned()));
    }
}
