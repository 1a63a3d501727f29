//! A link's backends at run time: which there are, which of them a dial tries, and who has to leave one.
//!
//! Sources (`file`, `srv`, `sentinel`) *publish* lists. A dial goes through a [`Round`] of candidates, chosen by the
//! link's [`Balance`], and tells how each did: one that fails *rests* for a growing time, in which it is tried only if
//! nothing else is left. A connection keeps its [`Place`] at its backend for life, so that whoever sits at a backend
//! that is gone, was demoted or has another address now can be asked to leave.

mod addresses;
mod balance;
pub mod file;
pub(crate) mod sentinel;
mod srv;
mod watch;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join;
use tokio::sync::{Notify, watch as latest};
use tokio::time::Instant;

pub use balance::Balance;

use crate::admin::BackendState;
use crate::config::Link;
use crate::config::target::{Backends as Source, Endpoint};
use crate::connection::Service;
use crate::credentials::Standing;
use crate::dial::Dialler;
use crate::failure::Failure;
use crate::greet::Probe;
use crate::leave::{Connections, Leave, Reason, Seat};
use crate::metrics::LinkMetrics;
use crate::random::{fraction, jittered};
use addresses::Addresses;

/// The first rest of a backend that failed; each is twice the one before, up to the longest.
const FIRST_REST: Duration = Duration::from_millis(500);
/// Long enough to be no burden for anybody, short enough that nobody waits for a backend that is back.
const LONGEST_REST: Duration = Duration::from_secs(30);

/// When a rest is over one dial tries the backend; for so long others leave it alone.
const TRIAL: Duration = Duration::from_secs(2);

/// Candidates that one round tries at the most; those that failed rest, so that the next round has others.
const MOST_TRIES: usize = 32;

/// Connections that are asked to leave go no faster than this in a second, if the grace allows it.
const LEAVING_PACE: f64 = 1000.0;

/// The part of the grace over which many connections are spread; the rest is left for the last of them to find a quiet
/// moment.
const SPREAD: f64 = 0.8;

/// How many backends a log line names.
const SHOWN: usize = 8;

/// A list as it was published.
type List = Arc<[Entry]>;

/// A backend's place in the list.
#[derive(Debug)]
struct Entry {
    backend: Arc<Backend>,
    /// Those with the lowest number go first.
    priority: u16,
    /// The share among those of one priority; `None` where the order of the list counts.
    weight: Option<u16>,
}

/// A backend as a source lists it.
#[derive(Debug)]
struct Listing {
    endpoint: Endpoint,
    priority: u16,
    weight: Option<u16>,
}

impl Listing {
    fn in_order(endpoint: Endpoint) -> Self {
        Self { endpoint, priority: 0, weight: None }
    }
}

/// One place to dial, and what dials have found out about it.
#[derive(Debug)]
pub struct Backend {
    /// The place.
    pub endpoint: Endpoint,
    /// How the server tells its role.
    pub probe: Probe,
    /// What the server said to our passwords.
    pub standing: Standing,
    /// Connections and dials at this moment.
    active: AtomicUsize,
    /// Whether it is on no list any more.
    gone: AtomicBool,
    /// Whether it had the role that the link asks for when it was last seen.
    has_role: AtomicBool,
    /// Whether there is a rest to look at, so that a long list of backends that serve is gone through quickly.
    fails: AtomicBool,
    rest: Mutex<Rest>,
    addresses: Mutex<Addresses>,
}

/// What comes of failures.
#[derive(Debug, Default)]
struct Rest {
    /// Failures in a row.
    failures: u32,
    /// Until when others come first.
    until: Option<Instant>,
    /// Whether the rest was over, and a dial is finding out now.
    on_trial: bool,
}

impl Rest {
    fn is_over(&self, now: Instant) -> bool {
        self.until.is_none_or(|until| until <= now)
    }
}

impl fmt::Display for Backend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.endpoint.fmt(f)
    }
}

impl Backend {
    fn new(endpoint: Endpoint) -> Arc<Self> {
        Arc::new(Self {
            endpoint,
            probe: Probe::default(),
            standing: Standing::default(),
            active: AtomicUsize::new(0),
            gone: AtomicBool::new(false),
            has_role: AtomicBool::new(false),
            fails: AtomicBool::new(false),
            rest: Mutex::default(),
            addresses: Mutex::default(),
        })
    }

    fn active(&self) -> usize {
        self.active.load(Ordering::Relaxed)
    }

    fn rests(&self, now: Instant) -> bool {
        self.fails.load(Ordering::Relaxed) && !lock(&self.rest).is_over(now)
    }

    /// Of those who find the rest over, the first has the backend for itself for a moment.
    fn begin_trial(&self, now: Instant) {
        let mut rest = lock(&self.rest);
        if rest.failures > 0 && rest.is_over(now) {
            rest.until = Some(now + TRIAL);
            rest.on_trial = true;
        }
    }

    /// Returns how many failures there had been.
    fn end_rest(&self) -> u32 {
        self.fails.store(false, Ordering::Relaxed);
        std::mem::take(&mut *lock(&self.rest)).failures
    }

    /// Begins a rest after a failure; returns whether it is the first failure in a row.
    fn begin_rest(&self, now: Instant) -> bool {
        let mut rest = lock(&self.rest);
        // Dials that were under way together count as one.
        if !(rest.on_trial || rest.is_over(now)) {
            return false;
        }
        let time = LONGEST_REST.min(FIRST_REST * 2_u32.saturating_pow(rest.failures));
        *rest = Rest {
            failures: rest.failures.saturating_add(1),
            until: Some(now + jittered(time)),
            on_trial: false,
        };
        self.fails.store(true, Ordering::Relaxed);
        rest.failures == 1
    }

    fn has_left(&self, address: IpAddr) -> bool {
        lock(&self.addresses).has_left(address)
    }
}

/// A connection's place at a backend, from the dial to the end.
#[derive(Debug)]
pub struct Place {
    backend: Arc<Backend>,
    /// The address that was dialled, where the backend has a name.
    address: Option<IpAddr>,
}

impl Place {
    fn at(backend: &Arc<Backend>) -> Self {
        backend.active.fetch_add(1, Ordering::Relaxed);
        Self { backend: Arc::clone(backend), address: None }
    }

    /// Notes the address that took the connection.
    pub fn note_address(&mut self, address: IpAddr) {
        self.address = Some(address);
    }

    /// Whether the backend is not there any more, as the sources know it.
    fn is_abandoned(&self) -> bool {
        self.backend.gone.load(Ordering::SeqCst)
            || self.address.is_some_and(|address| self.backend.has_left(address))
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.backend.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A link's backends.
pub struct Backends {
    link: String,
    balance: Balance,
    grace: Option<Duration>,
    connections: Arc<Connections>,
    /// What is counted.
    pub metrics: Arc<LinkMetrics>,
    list: latest::Sender<List>,
    /// Counts dials.
    turn: AtomicUsize,
    /// Told when a dial failed and the source should look again.
    wanted: Notify,
    /// Whether any list has been published.
    is_known: AtomicBool,
    /// Why the source knows nothing new, while that is so.
    trouble: Mutex<Option<String>>,
}

impl Backends {
    /// The backends that the configuration lists; the others are found out by [`follow`].
    pub fn of(link: &Link, connections: Arc<Connections>, metrics: Arc<LinkMetrics>) -> Self {
        let entry = |endpoint: &Endpoint| Entry {
            backend: Backend::new(endpoint.clone()),
            priority: 0,
            weight: None,
        };
        let mut seen = HashSet::new();
        let endpoints = link.endpoints.iter().filter(|endpoint| seen.insert(*endpoint));
        Self {
            link: link.name.clone(),
            balance: link.balance,
            grace: link.move_grace,
            connections,
            metrics,
            list: latest::Sender::new(endpoints.map(entry).collect()),
            turn: AtomicUsize::new(0),
            wanted: Notify::new(),
            is_known: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    fn list(&self) -> List {
        Arc::clone(&self.list.borrow())
    }

    /// How each of them does.
    pub fn states(&self) -> Vec<BackendState> {
        let state = |Entry { backend, .. }: &Entry| BackendState {
            backend: backend.to_string(),
            up: !backend.fails.load(Ordering::Relaxed),
            wants_no_password: backend.probe.wants_no_password(),
        };
        self.list().iter().map(state).collect()
    }

    /// Says when another list is published.
    pub fn news(&self) -> News {
        News(self.list.subscribe())
    }

    /// Begins to go through the candidates of one dial, but for those that it has given up already.
    pub fn round<'a>(&'a self, given_up: &'a [Arc<Backend>]) -> Round<'a> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Round { balance: self.balance, list: self.list(), turn, given_up, tried: Vec::new() }
    }

    /// Why there is no candidate at all.
    pub fn absence(&self) -> Failure {
        let reason = lock(&self.trouble).clone().unwrap_or_else(|| {
            let is_known = self.is_known.load(Ordering::Relaxed);
            if is_known { "there is none at the moment" } else { "nobody has said yet where it is" }
                .to_owned()
        });
        Failure::NoBackend { reason }
    }

    /// Whether a dial made now might lead to this place too: it is not left behind, and nothing that goes before it
    /// serves again.
    pub fn lead_to(&self, place: &Place) -> bool {
        let list = self.list();
        let Some(at) = list.iter().position(|entry| Arc::ptr_eq(&entry.backend, &place.backend)) else {
            return false;
        };
        let own = &list[at];
        let goes_before = |(number, other): (usize, &Entry)| {
            let in_order = other.priority == own.priority && number < at && self.balance.goes_by_order(own);
            (other.priority < own.priority || in_order) && !other.backend.fails.load(Ordering::Relaxed)
        };
        let has_role = place.backend.has_role.load(Ordering::Relaxed);
        has_role && !place.is_abandoned() && !list.iter().enumerate().any(goes_before)
    }

    /// A dial came to nothing: the list may be old.
    pub fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a dial has come to nothing.
    async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A dial to `backend` worked.
    pub fn works(&self, backend: &Backend) {
        backend.has_role.store(true, Ordering::Relaxed);
        if backend.end_rest() > 0 && self.are_several() {
            tracing::info!(link = self.link, %backend, "a backend is back");
        }
    }

    /// A dial to `backend` failed: others come first for a while, a longer one each time.
    pub fn fails(&self, backend: &Arc<Backend>, failure: &Failure) {
        let first = backend.begin_rest(Instant::now());
        if let Failure::WrongRole { .. } = failure {
            let connections = self.ask(Reason::Demoted, |place| Arc::ptr_eq(&place.backend, backend));
            if backend.has_role.swap(false, Ordering::Relaxed) {
                self.metrics.target_changed();
                tracing::warn!(link = self.link, %backend, why = %failure, connections, "a backend was demoted");
            }
        } else if first && self.are_several() {
            tracing::warn!(
                link = self.link,
                %backend,
                stage = failure.stage().name(),
                error = %failure,
                "a backend fails; others come first for a while"
            );
        }
    }

    /// The addresses of a backend's name, as they were found just now: those that sit at others have to leave.
    pub fn found(&self, backend: &Backend, addresses: &[IpAddr]) {
        let left = lock(&backend.addresses).answered(addresses, Instant::now());
        if !left.is_empty() {
            self.metrics.target_changed();
            let connections = self.ask(Reason::Moved, Place::is_abandoned);
            tracing::info!(
                link = self.link,
                %backend,
                from = shown(&left),
                to = shown(addresses),
                why = "its name has another address",
                connections,
                "a backend moved"
            );
        }
    }

    /// A client uses RESET: the next greeting of every backend that nobody has asked asks whether it knows that.
    pub fn ask_about_reset(&self) {
        for entry in self.list().iter() {
            entry.backend.probe.ask_about_reset();
        }
    }

    /// Seats a connection at the backend that its dial led to.
    pub fn seat(&self, seat: &Seat, place: Place) {
        let backend = Arc::clone(&place.backend);
        let address = place.address;
        seat.sit(place);
        // It may have gone while it was being dialled, when there was nobody yet to be asked.
        if backend.gone.load(Ordering::SeqCst) || address.is_some_and(|address| backend.has_left(address)) {
            self.ask(Reason::Moved, Place::is_abandoned);
        }
    }

    /// Asks those to leave for whom `leaves` holds; returns how many.
    fn ask(&self, reason: Reason, leaves: impl Fn(&Place) -> bool) -> usize {
        let Some(grace) = self.grace else {
            return 0;
        };
        let now = Instant::now();
        self.connections.ask_those(leaves, |at, count| {
            let (from, latest) = departure(grace, at, count, fraction());
            Leave { reason, from: now + from, latest: now + latest }
        })
    }

    fn are_several(&self) -> bool {
        self.list.borrow().len() > 1
    }

    /// Replaces the list; whoever sits at a backend that is not on it any more has to leave.
    fn publish(&self, listings: Vec<Listing>, why: &str) {
        if lock(&self.trouble).take().is_some() {
            tracing::info!(link = self.link, "the backends can be found out again");
        }
        self.is_known.store(true, Ordering::Relaxed);
        let old = self.list();
        let mut known: HashMap<_, _> = old.iter().map(|e| (&e.backend.endpoint, &e.backend)).collect();
        let mut seen = HashSet::new();
        let new: List = listings
            .into_iter()
            .filter(|listing| seen.insert(listing.endpoint.clone()))
            .map(|Listing { endpoint, priority, weight }| {
                let backend = known.remove(&endpoint).map_or_else(|| Backend::new(endpoint), Arc::clone);
                Entry { backend, priority, weight }
            })
            .collect();
        let gone: Vec<_> = known.into_values().collect();
        let same = gone.is_empty() && new.len() == old.len();
        for backend in &gone {
            backend.gone.store(true, Ordering::SeqCst);
        }
        let backends = |list: &List| shown(list.iter().map(|entry| &entry.backend));
        let (from, to) = (backends(&old), backends(&new));
        self.list.send_replace(new);
        if !same {
            self.metrics.target_changed();
            let connections = self.ask(Reason::Moved, Place::is_abandoned);
            tracing::info!(link = self.link, from, to, why, connections, "the backends changed");
        }
    }

    /// Says that the source can't be asked, once; the last list serves on.
    fn unknown(&self, reason: &str) {
        if lock(&self.trouble).replace(reason.to_owned()).is_none() {
            let serving = self.list.borrow().len();
            tracing::warn!(
                link = self.link,
                error = reason,
                serving,
                "the backends can't be found out; those last known serve on"
            );
        }
    }
}

/// Says when another list is published.
pub struct News(latest::Receiver<List>);

impl News {
    /// Waits for a list that is newer than this, or than the last one that this waited for.
    pub async fn another_list(&mut self) {
        // The sender lives as long as the link; without it nobody waits.
        let _ = self.0.changed().await;
    }
}

/// The candidates of one dial, each of them once.
pub struct Round<'a> {
    balance: Balance,
    list: List,
    turn: usize,
    given_up: &'a [Arc<Backend>],
    tried: Vec<Arc<Backend>>,
}

impl Round<'_> {
    /// A place at the next candidate. Those that rest come last.
    pub fn next_place(&mut self) -> Option<Place> {
        if self.tried.len() >= MOST_TRIES {
            return None;
        }
        let now = Instant::now();
        let untried: Vec<&Entry> = self.list.iter().filter(|entry| self.is_untried(&entry.backend)).collect();
        let awake: Vec<&Entry> = untried.iter().copied().filter(|entry| !entry.backend.rests(now)).collect();
        let usable = if awake.is_empty() { &untried } else { &awake };
        if usable.is_empty() {
            return None;
        }
        let backend = &self.balance.choose(usable, self.turn).backend;
        backend.begin_trial(now);
        self.tried.push(Arc::clone(backend));
        Some(Place::at(backend))
    }

    /// How many candidates there are still to try.
    pub fn left(&self) -> usize {
        let untried = self.list.iter().filter(|entry| self.is_untried(&entry.backend)).count();
        untried.min(MOST_TRIES.saturating_sub(self.tried.len()))
    }

    fn is_untried(&self, backend: &Arc<Backend>) -> bool {
        let mut done = self.tried.iter().chain(self.given_up);
        !done.any(|done| Arc::ptr_eq(done, backend))
    }
}

/// Keeps a link's backends up to date, for as long as the process runs.
pub async fn follow(service: &Service) {
    let Service { link, dialler, backends, .. } = service;
    let source = async {
        match &link.target.backends {
            Source::Listed(_) => {}
            Source::Srv(name) => srv::follow(backends, &dialler.resolver, name).await,
            Source::File(path) => file::follow(backends, path, link.target.scheme.default_port()).await,
            Source::Sentinel { sentinels, service } => {
                sentinel::follow(backends, dialler, link, sentinels, service).await;
            }
        }
    };
    join(source, watch::watch(service)).await;
}

/// Where a link's backends are at this moment, found out once; an error says why nobody knows.
pub async fn look_up(link: &Link, dialler: &Dialler) -> Result<Vec<Endpoint>, String> {
    let found = match &link.target.backends {
        Source::Listed(_) | Source::File(_) => link.endpoints.clone(),
        Source::Srv(name) => {
            let services = dialler.resolver.services(name).await;
            let mut records =
                services.map_err(|reason| format!("the SRV records of {name}: {reason}"))?.records;
            records.sort_by_key(|record| record.priority);
            records.into_iter().map(|record| Endpoint::Tcp(record.host, record.port)).collect()
        }
        Source::Sentinel { sentinels, service } => {
            sentinel::ask_once(dialler, link, sentinels, service).await?
        }
    };
    let mut seen = HashSet::new();
    let found: Vec<_> = found.into_iter().filter(|endpoint| seen.insert(endpoint.clone())).collect();
    if found.is_empty() { Err("there is none at the moment".to_owned()) } else { Ok(found) }
}

/// When the connection of number `at` among `count` may leave at a quiet moment, and when it leaves in any case: spread,
/// so that those who come after each other do not come all at once. `chance` is below 1.
fn departure(grace: Duration, at: usize, count: usize, chance: f64) -> (Duration, Duration) {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let spread = grace.mul_f64(SPREAD).min(Duration::from_secs_f64(number(count) / LEAVING_PACE));
    let from = spread.mul_f64((number(at) + chance) / number(count));
    (from, grace.saturating_sub(spread.saturating_sub(from)))
}

/// Names for a log line, which has to end somewhere.
fn shown<T: fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    let mut items = items.into_iter();
    let mut text = String::new();
    for item in items.by_ref().take(SHOWN) {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(&item.to_string());
    }
    match items.count() {
        0 => text,
        more => format!("{text} and {more} more"),
    }
}

/// Nothing that holds one of these locks can leave half a change behind, so a panic elsewhere does not spoil them.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[test]
    fn one_connection_has_the_whole_grace_to_find_a_quiet_moment() {
        let (from, latest) = departure(GRACE, 0, 1, 0.5);
        assert!(from <= Duration::from_millis(1) && latest + Duration::from_millis(1) >= GRACE);
        assert_eq!(departure(Duration::ZERO, 3, 10, 0.5), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn many_connections_leave_one_after_the_other_within_the_grace() {
        for count in [2_000, 10_000] {
            let times: Vec<_> = (0..count).map(|at| departure(GRACE, at, count, fraction())).collect();
            // A thousand a second if there is time, else evenly over four fifths of the grace.
            let pace = 1000.max(count / 4);
            for pick in [|times: &(Duration, Duration)| times.0, |times: &(Duration, Duration)| times.1] {
                let mut seconds = std::collections::BTreeMap::<_, usize>::new();
                for times in &times {
                    *seconds.entry(pick(times).as_secs()).or_default() += 1;
                }
                assert!(seconds.values().all(|leaving| *leaving <= pace + 1), "{count}: {seconds:?}");
            }
            assert!(times.iter().all(|(from, latest)| from <= latest && *latest <= GRACE));
        }
    }
}
