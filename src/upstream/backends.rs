//! A link's backends at run time: the current list, the candidates of a dial, and draining a backend that is removed.
//!
//! - The configuration or a source in [`discovery`](crate::upstream::discovery) publishes a list of endpoints. A
//!   hostname in it stands for its addresses, as every dial resolves them ([`Listed`]).
//! - A dial tries the candidates of one [`Round`], in the order of the link's
//!   [`Balance`](crate::config::link::Balance), and reports each result. A failed backend is in back-off for a growing
//!   time; until it ends, it is tried only when no other is left.
//! - A connection holds a [`Lease`] at its backend until it ends, so that the connections of a backend that is removed
//!   or demoted can be drained.

mod addresses;
mod balance;
mod ejection;
mod listed;
mod round;

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch as latest};
use tokio::time::Instant;

pub use listed::{Backend, Entry, Listed};
pub use round::{Done, Lease, Next, Round};

use crate::config::Link;
use crate::config::link::Role;
use crate::failure::{Failure, no_list_remedy};
use crate::metrics::LinkMetrics;
use crate::net::Endpoint;
use crate::net::resolve::Addresses;
use crate::random::fraction;
use crate::relay::drain::{DrainRequest, Reason};
use crate::upstream::connections::{ConnectionGuard, Connections};

/// Connections drained per second at most, unless the grace period is too short for that.
const DRAIN_RATE: f64 = 1000.0;

/// Connections that are drained at once: no target minds so few that reconnect.
const FEW: usize = 10;

/// The part of the grace period over which the drain of many connections is spread. The rest leaves the last of them
/// time to reach a quiet moment.
const SPREAD: f64 = 0.8;

/// Backends named in one log line at most.
const SHOWN: usize = 8;

/// What a backend has that has not the role that the link asks for.
const OTHER_ROLE: &str = "other";

/// The current servers, in the order of the source.
type List = Arc<[Arc<Entry>]>;

/// A backend as a source lists it.
#[derive(Debug)]
pub struct Listing {
    pub endpoint: Endpoint,
    pub priority: u16,
    pub weight: Option<u16>,
}

impl Listing {
    pub fn in_order(endpoint: Endpoint) -> Self {
        Self { endpoint, priority: 0, weight: None }
    }
}

/// An endpoint of the source, and the servers that it currently stands for.
struct Row {
    listed: Arc<Listed>,
    priority: u16,
    weight: Option<u16>,
    entries: Vec<Arc<Entry>>,
}

impl Row {
    fn of(listed: Arc<Listed>, priority: u16, weight: Option<u16>) -> Self {
        let entries = listed.entries(priority, weight);
        Self { listed, priority, weight, entries }
    }
}

fn list(rows: &[Row]) -> List {
    rows.iter().flat_map(|row| &row.entries).cloned().collect()
}

pub struct Backends {
    link: Arc<Link>,
    connections: Arc<Connections>,
    pub metrics: Arc<LinkMetrics>,
    /// The source's endpoints. `list` is made of them under this lock.
    rows: Mutex<Vec<Row>>,
    list: latest::Sender<List>,
    /// The number of dials, for round-robin.
    turn: AtomicUsize,
    /// Notified when a dial has failed: the source should refresh its list.
    refresh_requested: Arc<Notify>,
    /// Whether a list has ever been published.
    is_known: AtomicBool,
    /// The error of the last refresh; `None` after a successful one.
    last_error: Mutex<Option<String>>,
}

impl Backends {
    /// Starts with the backends that the configuration lists; discovery publishes the others.
    pub fn of(link: &Arc<Link>, connections: Arc<Connections>, metrics: Arc<LinkMetrics>) -> Self {
        Self::at(link, &link.endpoints, connections, metrics)
    }

    pub fn at(
        link: &Arc<Link>,
        endpoints: &[Endpoint],
        connections: Arc<Connections>,
        metrics: Arc<LinkMetrics>,
    ) -> Self {
        let mut seen = HashSet::new();
        let endpoints = endpoints.iter().filter(|endpoint| seen.insert(*endpoint));
        let rows: Vec<_> = endpoints.map(|one| Row::of(Listed::new(one.clone()), 0, None)).collect();
        Self {
            link: Arc::clone(link),
            connections,
            metrics,
            list: latest::Sender::new(list(&rows)),
            rows: Mutex::new(rows),
            turn: AtomicUsize::new(0),
            refresh_requested: Arc::default(),
            is_known: AtomicBool::new(false),
            last_error: Mutex::default(),
        }
    }

    /// The role that a backend must have.
    fn role(&self) -> Option<Role> {
        self.link.redis.as_ref().and_then(|redis| redis.role)
    }

    /// The part of these that one endpoint is: its servers are the same, with all that is known of them.
    pub fn at_one(&self, endpoint: &Endpoint) -> Self {
        let part = Self {
            link: Arc::clone(&self.link),
            connections: Arc::clone(&self.connections),
            metrics: Arc::clone(&self.metrics),
            list: latest::Sender::new(list(&[])),
            rows: Mutex::default(),
            turn: AtomicUsize::new(0),
            refresh_requested: Arc::clone(&self.refresh_requested),
            is_known: AtomicBool::new(true),
            last_error: Mutex::default(),
        };
        part.lead_to_part(Some(endpoint), self);
        part
    }

    /// Goes over to another endpoint of `whole`, or to none.
    pub fn lead_to_part(&self, endpoint: Option<&Endpoint>, whole: &Self) {
        let listed = endpoint.map(|endpoint| {
            let known = whole.listed().into_iter().find(|listed| listed.endpoint == *endpoint);
            known.unwrap_or_else(|| Listed::new(endpoint.clone()))
        });
        let mut rows = self.rows.lock();
        let is_same = rows.iter().map(|row| &row.listed).map(Arc::as_ptr).eq(listed.iter().map(Arc::as_ptr));
        if is_same {
            return;
        }
        *rows = listed.into_iter().map(|listed| Row::of(listed, 0, None)).collect();
        self.list.send_replace(list(&rows));
    }

    /// The current servers.
    pub fn list(&self) -> List {
        Arc::clone(&self.list.borrow())
    }

    /// The endpoints of the source.
    pub fn listed(&self) -> Vec<Arc<Listed>> {
        self.rows.lock().iter().map(|row| Arc::clone(&row.listed)).collect()
    }

    /// The state of every server, for the admin endpoint.
    pub fn states(&self) -> Vec<BackendState> {
        let state = |entry: &Arc<Entry>| BackendState {
            backend: entry.to_string(),
            up: entry.is_up(),
            role: self.role().and_then(|role| {
                entry.has_role().map(|has_it| if has_it { role.to_string() } else { OTHER_ROLE.to_owned() })
            }),
            connections: entry.active(),
            wants_no_password: entry.backends.iter().any(|backend| backend.probe.wants_no_password()),
        };
        self.list().iter().map(state).collect()
    }

    /// Subscribes to new lists.
    pub fn changes(&self) -> Changes {
        Changes(self.list.subscribe())
    }

    /// The candidates of one dial, without those in `given_up`.
    pub fn round<'a>(&'a self, given_up: &'a mut Done) -> Round<'a> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Round::of(self, self.list(), turn, given_up)
    }

    /// A round with one candidate.
    pub fn round_at<'a>(&'a self, entry: &Arc<Entry>, given_up: &'a mut Done) -> Round<'a> {
        Round::of(self, [Arc::clone(entry)].into(), 0, given_up)
    }

    /// The failure of a round without any candidate.
    pub fn no_backend(&self) -> Failure {
        let reason = self.last_error.lock().clone().unwrap_or_else(|| {
            let is_known = self.is_known.load(Ordering::Relaxed);
            if is_known { "there is none at the moment" } else { "backends not discovered yet" }.to_owned()
        });
        Failure::NoBackend { reason }
    }

    /// Whether a new dial could choose this backend: it is still listed, has the required role, and no backend that
    /// is
    /// preferred to it is up.
    pub fn lead_to(&self, lease: &Lease) -> bool {
        let list = self.list();
        let Some(at) = list.iter().position(|entry| entry.has(lease.backend())) else {
            return false;
        };
        let own = &list[at];
        let goes_before = |(number, other): (usize, &Arc<Entry>)| {
            let in_order =
                other.priority == own.priority && number < at && self.link.balance.goes_by_order(own);
            (other.priority < own.priority || in_order) && other.is_up()
        };
        let has_role = lease.backend().has_role.load(Ordering::Relaxed);
        has_role && !lease.is_abandoned() && !list.iter().enumerate().any(goes_before)
    }

    /// Asks the source to refresh: a dial has failed, so the list may be outdated.
    pub fn request_refresh(&self) {
        self.refresh_requested.notify_one();
    }

    /// Waits for [`Self::request_refresh`].
    pub async fn refresh_requested(&self) {
        self.refresh_requested.notified().await;
    }

    /// Reports a successful dial: ends the back-off.
    pub fn works(&self, lease: &Lease) {
        let was_up = lease.entry().is_up();
        lease.backend().has_role.store(true, Ordering::Relaxed);
        lease.backend().has_other_role.store(false, Ordering::Relaxed);
        lease.backend().rest.end();
        if !was_up && self.are_several() {
            tracing::info!(target: "backends", link = self.link.name, backend = %lease, "backend recovered");
        }
    }

    /// Reports a failed dial: the backend is in back-off, longer after each failure. With the wrong role, its
    /// connections are drained too.
    pub fn fails(&self, lease: &Lease, failure: &Failure) {
        let entry = lease.entry();
        let was_up = entry.is_up();
        lease.backend().rest.begin(Instant::now());
        let has_answered = matches!(failure, Failure::WrongRole { .. });
        lease.backend().has_other_role.store(has_answered, Ordering::Relaxed);
        if has_answered {
            let connections = self.ask(Reason::Demoted, |lease| entry.has(lease.backend()));
            let had_role = |backend: &Arc<Backend>| backend.has_role.swap(false, Ordering::Relaxed);
            if entry.backends.iter().filter(|backend| had_role(backend)).count() > 0 {
                self.metrics.target_changed();
                tracing::warn!(
                    target: "backends",
                    link = self.link.name,
                    backend = %lease,
                    error = %failure,
                    connections,
                    "backend demoted"
                );
            }
        } else if was_up && !entry.is_up() && self.are_several() {
            self.warn(lease, failure);
        }
    }

    fn warn(&self, backend: &dyn fmt::Display, failure: &Failure) {
        tracing::warn!(
            target: "backends",
            link = self.link.name,
            %backend,
            stage = failure.stage().name(),
            error = %failure,
            remedy = failure.remedy(&self.link),
            "backend ejected"
        );
    }

    /// Reports a name that could not be resolved: it is in back-off, longer after each failure.
    fn unresolved(&self, listed: &Listed, failure: &Failure) {
        let is_news = !listed.rest.fails();
        listed.rest.begin(Instant::now());
        if is_news && self.rows.lock().len() > 1 {
            self.warn(&listed.endpoint, failure);
        }
    }

    /// Takes in a name's new addresses; connections at addresses that it no longer has are drained.
    pub fn resolved(&self, listed: &Arc<Listed>, addresses: &Addresses) {
        let mut rows = self.rows.lock();
        let Some(at) = rows.iter().position(|row| Arc::ptr_eq(&row.listed, listed)) else {
            return;
        };
        let left = listed.resolved(addresses, Instant::now());
        // Another list of the same servers may have heard of them before.
        let Row { priority, weight, .. } = rows[at];
        let entries = listed.entries(priority, weight);
        if !Entry::are_same(&entries, &rows[at].entries) {
            rows[at].entries = entries;
            self.list.send_replace(list(&rows));
        }
        let is_back = listed.rest.fails() && rows.len() > 1;
        drop(rows);
        listed.rest.end();
        if is_back {
            tracing::info!(target: "backends", link = self.link.name, backend = %listed.endpoint, "backend recovered");
        }
        if !left.is_empty() {
            self.metrics.target_changed();
            let connections = self.ask(Reason::Moved, Lease::is_abandoned);
            tracing::info!(
                target: "backends",
                link = self.link.name,
                backend = %listed.endpoint,
                from = shown(&left),
                to = shown(addresses.iter()),
                reason = "address_changed",
                connections,
                "backend moved"
            );
        }
    }

    /// Assigns a connection to the backend that it was dialled to.
    pub fn assign(&self, guard: &ConnectionGuard, lease: Lease) {
        let backend = Arc::clone(lease.backend());
        guard.assign(lease);
        // A backend removed during the dial: the drain then did not include this connection.
        if backend.gone.load(Ordering::SeqCst) {
            self.ask(Reason::Moved, Lease::is_abandoned);
        }
    }

    /// Drains the connections for which `leaves` is true; returns their number.
    fn ask(&self, reason: Reason, leaves: impl Fn(&Lease) -> bool) -> usize {
        let Some(grace) = self.link.move_grace else {
            return 0;
        };
        let now = Instant::now();
        self.connections.drain_matching(leaves, |at, count| {
            let (from, latest) = drain_window(grace, at, count, fraction());
            DrainRequest { reason, from: now + from, latest: now + latest }
        })
    }

    /// Whether there is more than one server.
    pub fn are_several(&self) -> bool {
        self.list.borrow().len() > 1
    }

    /// Replaces the list and drains the connections of backends that are no longer on it.
    pub fn publish(&self, listings: Vec<Listing>, reason: &str) {
        if self.last_error.lock().take().is_some() {
            tracing::info!(target: "backends", link = self.link.name, "discovery recovered");
        }
        self.is_known.store(true, Ordering::Relaxed);
        let mut rows = self.rows.lock();
        let mut known: HashMap<_, _> = rows.iter().map(|row| (&row.listed.endpoint, &row.listed)).collect();
        let mut seen = HashSet::new();
        let new: Vec<_> = listings
            .into_iter()
            .filter(|listing| seen.insert(listing.endpoint.clone()))
            .map(|Listing { endpoint, priority, weight }| {
                let listed = known.remove(&endpoint).map_or_else(|| Listed::new(endpoint), Arc::clone);
                Row::of(listed, priority, weight)
            })
            .collect();
        let is_as_before = |(new, old): (&Row, &Row)| {
            Arc::ptr_eq(&new.listed, &old.listed) && (new.priority, new.weight) == (old.priority, old.weight)
        };
        if new.len() == rows.len() && new.iter().zip(&*rows).all(is_as_before) {
            return;
        }
        let gone: Vec<_> = known.into_values().collect();
        let same = gone.is_empty() && new.len() == rows.len();
        for listed in gone {
            listed.leave();
        }
        let endpoints = |rows: &[Row]| shown(rows.iter().map(|row| &row.listed.endpoint));
        let (from, to) = (endpoints(&rows), endpoints(&new));
        self.list.send_replace(list(&new));
        *rows = new;
        drop(rows);
        if !same {
            self.metrics.target_changed();
            let connections = self.ask(Reason::Moved, Lease::is_abandoned);
            tracing::info!(target: "backends", link = self.link.name, from, to, reason, connections, "backends changed");
        }
    }

    /// Why discovery failed the last time, if it did: then the list is an earlier one.
    pub fn stale(&self) -> Option<String> {
        self.last_error.lock().clone()
    }

    /// Reports that discovery failed, in one log line until it recovers. The last known list stays in use. The source may
    /// know a better `remedy` than most of its failures have.
    pub fn unknown(&self, reason: &str, remedy: Option<&str>) {
        if self.last_error.lock().replace(reason.to_owned()).is_none() {
            let serving = self.rows.lock().len();
            tracing::warn!(
                target: "backends",
                link = self.link.name,
                error = reason,
                remedy = remedy.map_or_else(|| no_list_remedy(&self.link), str::to_owned),
                serving,
                "discovery failed; keeping the last known backends"
            );
        }
    }
}

/// A backend, as the admin endpoint shows it.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendState {
    pub backend: String,
    /// Whether the last dial succeeded, or there was none yet.
    pub up: bool,
    /// Where the link asks for a role: `master` or `replica` if the backend had it when it was last asked, else `other`.
    pub role: Option<String>,
    /// Current connections to it, those kept ready and dials among them.
    #[serde(default)]
    pub connections: usize,
    /// Whether it answered the last AUTH that it requires no password.
    pub wants_no_password: bool,
}

impl BackendState {
    /// Whether it can't be dialled. One that has another role than the link asks for has answered.
    pub fn is_down(&self) -> bool {
        !self.up && !self.has_other_role()
    }

    pub fn has_other_role(&self) -> bool {
        self.role.as_deref() == Some(OTHER_ROLE)
    }
}

/// A subscription to new lists of backends.
pub struct Changes(latest::Receiver<List>);

impl Changes {
    /// Waits for a list published since the subscription or the last call.
    pub async fn changed(&mut self) {
        // The sender is in `Backends`, which outlives every subscriber.
        let _ = self.0.changed().await;
    }
}

/// The drain of connection `at` of `count`: from when it ends at a quiet moment, and when it is closed in any case, both
/// from now. Spread over the grace period, so that the clients do not all reconnect at once. `chance` is in [0, 1).
fn drain_window(grace: Duration, at: usize, count: usize, chance: f64) -> (Duration, Duration) {
    let number = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let spread = match count {
        0..=FEW => Duration::ZERO,
        _ => grace.mul_f64(SPREAD).min(Duration::from_secs_f64(number(count) / DRAIN_RATE)),
    };
    let from = spread.mul_f64((number(at) + chance) / number(count));
    (from, grace.saturating_sub(spread.saturating_sub(from)))
}

/// At most [`SHOWN`] names, for a log line.
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

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(5);

    #[test]
    fn one_connection_has_the_whole_grace_to_find_a_quiet_moment() {
        let (from, latest) = drain_window(GRACE, 0, 1, 0.5);
        assert!(from <= Duration::from_millis(1) && latest + Duration::from_millis(1) >= GRACE);
        assert_eq!(drain_window(Duration::ZERO, 3, 10, 0.5), (Duration::ZERO, Duration::ZERO));
    }

    #[test]
    fn many_connections_leave_one_after_the_other_within_the_grace() {
        for count in [2_000, 10_000] {
            let times: Vec<_> = (0..count).map(|at| drain_window(GRACE, at, count, fraction())).collect();
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
