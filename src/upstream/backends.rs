//! A link's backends at run time: which there are, which of them a dial tries, and who has to leave one.
//!
//! Sources (`file`, `srv`, `sentinel`) *publish* lists of endpoints, and a name among those stands for its addresses, as
//! each dial finds them ([`Listed`]). A dial goes through a [`Round`] of candidates, chosen by the link's [`Balance`],
//! and tells how each did: one that fails *rests* for a growing time, in which it is tried only if nothing else is left.
//! A connection keeps its [`Lease`] at its backend for life, so that whoever sits at a backend that is gone or was
//! demoted can be asked to leave.

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
use crate::config::link::Balance;
use crate::failure::Failure;
use crate::metrics::LinkMetrics;
use crate::net::Endpoint;
use crate::net::resolve::Addresses;
use crate::random::fraction;
use crate::relay::drain::{DrainRequest, Reason};
use crate::upstream::connections::{ConnectionGuard, Connections};

/// Connections that end in a second at the most when many are asked to, if the grace allows it.
const LEAVING_PACE: f64 = 1000.0;

/// The part of the grace over which many connections are spread; the rest is left for the last of them to find a quiet
/// moment.
const SPREAD: f64 = 0.8;

/// How many backends a log line names.
const SHOWN: usize = 8;

/// The servers that there are now, in the order of what lists them.
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

/// What a source lists, and the servers that it stands for now.
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

/// A link's backends.
pub struct Backends {
    link: String,
    balance: Balance,
    pub(super) grace: Option<Duration>,
    connections: Arc<Connections>,
    /// What is counted.
    pub metrics: Arc<LinkMetrics>,
    /// What the source lists; locked while another list is made of it.
    rows: Mutex<Vec<Row>>,
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
    /// The backends that the configuration lists; the others are found out by discovery.
    pub fn of(link: &Link, connections: Arc<Connections>, metrics: Arc<LinkMetrics>) -> Self {
        Self::at(link, &link.endpoints, connections, metrics)
    }

    /// These backends.
    pub fn at(
        link: &Link,
        endpoints: &[Endpoint],
        connections: Arc<Connections>,
        metrics: Arc<LinkMetrics>,
    ) -> Self {
        let mut seen = HashSet::new();
        let endpoints = endpoints.iter().filter(|endpoint| seen.insert(*endpoint));
        let rows: Vec<_> = endpoints.map(|one| Row::of(Listed::new(one.clone()), 0, None)).collect();
        Self {
            link: link.name.clone(),
            balance: link.balance,
            grace: link.move_grace,
            connections,
            metrics,
            list: latest::Sender::new(list(&rows)),
            rows: Mutex::new(rows),
            turn: AtomicUsize::new(0),
            wanted: Notify::new(),
            is_known: AtomicBool::new(false),
            trouble: Mutex::default(),
        }
    }

    /// The servers that there are now.
    pub fn list(&self) -> List {
        Arc::clone(&self.list.borrow())
    }

    /// What the source lists.
    pub fn listed(&self) -> Vec<Arc<Listed>> {
        self.rows.lock().iter().map(|row| Arc::clone(&row.listed)).collect()
    }

    /// How each of them does.
    pub fn states(&self) -> Vec<BackendState> {
        let state = |entry: &Arc<Entry>| BackendState {
            backend: entry.to_string(),
            up: entry.is_up(),
            wants_no_password: entry.backends.iter().any(|backend| backend.probe.wants_no_password()),
        };
        self.list().iter().map(state).collect()
    }

    /// Says when another list is published.
    pub fn news(&self) -> News {
        News(self.list.subscribe())
    }

    /// Begins to go through the candidates of one dial, but for those that it has given up already.
    pub fn round<'a>(&'a self, given_up: &'a mut Done) -> Round<'a> {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        Round::of(self, self.list(), turn, given_up)
    }

    /// The same with one candidate alone.
    pub fn round_at<'a>(&'a self, entry: &Arc<Entry>, given_up: &'a mut Done) -> Round<'a> {
        Round::of(self, [Arc::clone(entry)].into(), 0, given_up)
    }

    /// Why there is no candidate at all.
    pub fn absence(&self) -> Failure {
        let reason = self.trouble.lock().clone().unwrap_or_else(|| {
            let is_known = self.is_known.load(Ordering::Relaxed);
            if is_known { "there is none at the moment" } else { "backends not discovered yet" }.to_owned()
        });
        Failure::NoBackend { reason }
    }

    /// Whether a dial made now might lead to the same backend: it is still listed, and no backend that comes before it has
    /// recovered.
    pub fn lead_to(&self, lease: &Lease) -> bool {
        let list = self.list();
        let Some(at) = list.iter().position(|entry| entry.has(lease.backend())) else {
            return false;
        };
        let own = &list[at];
        let goes_before = |(number, other): (usize, &Arc<Entry>)| {
            let in_order = other.priority == own.priority && number < at && self.balance.goes_by_order(own);
            (other.priority < own.priority || in_order) && other.is_up()
        };
        let has_role = lease.backend().has_role.load(Ordering::Relaxed);
        has_role && !lease.is_abandoned() && !list.iter().enumerate().any(goes_before)
    }

    /// A dial came to nothing: the list may be old.
    pub fn look_again(&self) {
        self.wanted.notify_one();
    }

    /// Waits until a dial has come to nothing.
    pub async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// A dial to a backend worked.
    pub fn works(&self, lease: &Lease) {
        let was_up = lease.entry().is_up();
        lease.backend().has_role.store(true, Ordering::Relaxed);
        lease.backend().rest.end();
        if !was_up && self.are_several() {
            tracing::info!(target: "backends", link = self.link, backend = %lease, "backend recovered");
        }
    }

    /// A dial to a backend failed: it is ejected, with a back-off.
    pub fn fails(&self, lease: &Lease, failure: &Failure) {
        let entry = lease.entry();
        let was_up = entry.is_up();
        lease.backend().rest.begin(Instant::now());
        if let Failure::WrongRole { .. } = failure {
            let connections = self.ask(Reason::Demoted, |lease| entry.has(lease.backend()));
            let had_role = |backend: &Arc<Backend>| backend.has_role.swap(false, Ordering::Relaxed);
            if entry.backends.iter().filter(|backend| had_role(backend)).count() > 0 {
                self.metrics.target_changed();
                tracing::warn!(
                    target: "backends",
                    link = self.link,
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
            link = self.link,
            %backend,
            stage = failure.stage().name(),
            error = %failure,
            "backend ejected"
        );
    }

    /// A name could not be resolved: the others come first for a while, a longer one each time.
    fn unresolved(&self, listed: &Listed, failure: &Failure) {
        let is_news = !listed.rest.fails();
        listed.rest.begin(Instant::now());
        if is_news && self.rows.lock().len() > 1 {
            self.warn(&listed.endpoint, failure);
        }
    }

    /// The addresses of a name, as just resolved: connections to others are asked to end.
    pub fn resolved(&self, listed: &Arc<Listed>, addresses: &Addresses) {
        let mut rows = self.rows.lock();
        let Some(at) = rows.iter().position(|row| Arc::ptr_eq(&row.listed, listed)) else {
            return;
        };
        let change = listed.resolved(addresses, Instant::now());
        if change.is_another {
            let Row { priority, weight, .. } = rows[at];
            rows[at].entries = listed.entries(priority, weight);
            self.list.send_replace(list(&rows));
        }
        let is_back = listed.rest.fails() && rows.len() > 1;
        drop(rows);
        listed.rest.end();
        if is_back {
            tracing::info!(target: "backends", link = self.link, backend = %listed.endpoint, "backend recovered");
        }
        if !change.left.is_empty() {
            self.metrics.target_changed();
            let connections = self.ask(Reason::Moved, Lease::is_abandoned);
            tracing::info!(
                target: "backends",
                link = self.link,
                backend = %listed.endpoint,
                from = shown(&change.left),
                to = shown(addresses.iter()),
                reason = "address_changed",
                connections,
                "backend moved"
            );
        }
    }

    /// A client uses RESET: the next greeting of every backend that nobody has asked asks whether it knows that.
    pub fn ask_about_reset(&self) {
        for backend in self.list().iter().flat_map(|entry| &entry.backends) {
            backend.probe.ask_about_reset();
        }
    }

    /// Seats a connection at the backend that its dial led to.
    pub fn guard(&self, guard: &ConnectionGuard, lease: Lease) {
        let backend = Arc::clone(lease.backend());
        guard.sit(lease);
        // It may have gone while it was being dialled, when there was nobody yet to be asked.
        if backend.gone.load(Ordering::SeqCst) {
            self.ask(Reason::Moved, Lease::is_abandoned);
        }
    }

    /// Asks the connections to end for whose lease `leaves` holds; returns how many.
    fn ask(&self, reason: Reason, leaves: impl Fn(&Lease) -> bool) -> usize {
        let Some(grace) = self.grace else {
            return 0;
        };
        let now = Instant::now();
        self.connections.drain_matching(leaves, |at, count| {
            let (from, latest) = departure(grace, at, count, fraction());
            DrainRequest { reason, from: now + from, latest: now + latest }
        })
    }

    fn are_several(&self) -> bool {
        self.list.borrow().len() > 1
    }

    /// Replaces the list; connections of backends that are not on it any more are asked to end.
    pub fn publish(&self, listings: Vec<Listing>, reason: &str) {
        if self.trouble.lock().take().is_some() {
            tracing::info!(target: "backends", link = self.link, "discovery recovered");
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
            tracing::info!(target: "backends", link = self.link, from, to, reason, connections, "backends changed");
        }
    }

    /// Says that the source can't be asked, once; the last list serves on.
    pub fn unknown(&self, reason: &str) {
        if self.trouble.lock().replace(reason.to_owned()).is_none() {
            let serving = self.rows.lock().len();
            tracing::warn!(
                target: "backends",
                link = self.link,
                error = reason,
                serving,
                "discovery failed; keeping the last known backends"
            );
        }
    }
}

/// How a backend does.
#[derive(Debug, Serialize, Deserialize)]
pub struct BackendState {
    /// The server, as errors and the log name it.
    pub backend: String,
    /// Whether the last dial of it worked, or there was none yet.
    pub up: bool,
    /// Whether it wanted no password when it was last sent one.
    pub wants_no_password: bool,
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

/// When connection number `at` of `count` may end at a quiet moment, and when it ends in any case: spread, so that they
/// do not reconnect all at once. `chance` is below 1.
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
