//! One dial's way through the candidates.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::listed::{Backend, Entry, Listed};
use super::{Backends, List};
use crate::failure::{Failure, Stage};
use crate::net::resolve::Addresses;

/// Candidates that one round tries at the most; those that failed rest, so that the next round has others.
const MOST_TRIES: usize = 32;

/// A connection's share of a backend, from the dial to the end; `least-connections` counts them.
#[derive(Debug)]
pub struct Lease {
    entry: Arc<Entry>,
    backend: Arc<Backend>,
}

impl Lease {
    pub fn at(entry: &Arc<Entry>, backend: &Arc<Backend>) -> Self {
        backend.active.fetch_add(1, Ordering::Relaxed);
        Self { entry: Arc::clone(entry), backend: Arc::clone(backend) }
    }

    /// The backend.
    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The server that the backend is a way to.
    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// What listed it.
    pub fn listed(&self) -> &Arc<Listed> {
        &self.entry.listed
    }

    /// Whether nothing leads there any more.
    pub(super) fn is_abandoned(&self) -> bool {
        self.backend.gone.load(Ordering::SeqCst)
    }
}

/// The server, as errors and the log name it.
impl std::fmt::Display for Lease {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.entry.fmt(f)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.backend.active.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Candidates that a dial is done with.
#[derive(Debug, Default)]
pub struct Done {
    backends: Vec<Arc<Backend>>,
    /// Those that could not be resolved.
    names: Vec<Arc<Listed>>,
}

impl Done {
    fn has(&self, backend: &Arc<Backend>) -> bool {
        self.backends.iter().any(|done| Arc::ptr_eq(done, backend))
    }

    fn has_name(&self, listed: &Arc<Listed>) -> bool {
        self.names.iter().any(|done| Arc::ptr_eq(done, listed))
    }
}

/// What a dial does next.
pub enum Next {
    /// Resolves this name, and tells the round.
    Resolve(Arc<Listed>),
    /// Dials there.
    Dial(Lease),
}

/// The candidates of one dial, each of them once, and what became of them.
///
/// A name is resolved when its turn comes, and not before: one that nobody can resolve holds up no others. What the
/// answer has is chosen from then, in the same turn.
pub struct Round<'a> {
    backends: &'a Backends,
    list: List,
    turn: usize,
    given_up: &'a mut Done,
    tried: Done,
    /// Names that have been resolved for this round.
    resolved: Vec<Arc<Listed>>,
    /// The candidate whose name is resolved at this moment. Its turn it is behind that: to choose once more would give
    /// those with the larger weights a second chance.
    resolving: Option<Arc<Entry>>,
    /// What each server came to.
    failures: Vec<(Arc<Entry>, Failure)>,
}

impl<'a> Round<'a> {
    pub(super) fn of(backends: &'a Backends, list: List, turn: usize, given_up: &'a mut Done) -> Self {
        Self {
            backends,
            list,
            turn,
            given_up,
            tried: Done::default(),
            resolved: Vec::new(),
            resolving: None,
            failures: Vec::new(),
        }
    }

    /// What to do about the next candidate. Those that rest come last.
    pub fn step(&mut self) -> Option<Next> {
        let entry = self.whose_turn_it_is().or_else(|| self.choose(|_| true))?;
        let listed = &entry.listed;
        listed.rest.begin_trial(Instant::now());
        let is_known =
            listed.name().is_none() || self.resolved.iter().any(|known| Arc::ptr_eq(known, listed));
        Some(if is_known {
            Next::Dial(self.place_at(&entry)?)
        } else {
            self.resolved.push(Arc::clone(listed));
            self.resolving = Some(Arc::clone(&entry));
            Next::Resolve(Arc::clone(listed))
        })
    }

    /// A lease at the next candidate, however old the answer of its name is.
    pub fn next_known(&mut self) -> Option<Lease> {
        let entry = self.choose(|_| true)?;
        self.place_at(&entry)
    }

    /// A lease at the next candidate of this name.
    pub fn beside(&mut self, listed: &Arc<Listed>) -> Option<Lease> {
        let entry = self.choose(|entry| entry.is_of(listed))?;
        self.place_at(&entry)
    }

    /// Whether there is one.
    pub fn has_beside(&self, listed: &Arc<Listed>) -> bool {
        self.left(|entry| entry.is_of(listed)) > 0
    }

    /// How many servers there are still to try beside the one at `lease`.
    pub fn others(&self, lease: &Lease) -> usize {
        self.left(|entry| !std::ptr::eq(entry, &raw const **lease.entry()))
    }

    /// How many there are of other names.
    pub fn others_elsewhere(&self, listed: &Arc<Listed>) -> usize {
        self.left(|entry| !entry.is_of(listed))
    }

    /// Takes in the answer of a name.
    pub fn resolved(&mut self, listed: &Arc<Listed>, answer: &Addresses) {
        self.backends.resolved(listed, answer);
        self.list = self.backends.list();
    }

    /// A name could not be resolved.
    pub fn unresolved(&mut self, listed: &Arc<Listed>, failure: Failure) {
        self.backends.unresolved(listed, &failure);
        self.tried.names.push(Arc::clone(listed));
        if !failure.is_passing() {
            self.given_up.names.push(Arc::clone(listed));
        }
        if let Some(entry) = self.list.iter().find(|entry| entry.is_of(listed)) {
            self.failures.push((Arc::clone(entry), failure));
        }
    }

    /// No connection could be had there; another way to the same server is still to be tried.
    pub fn unreachable(&mut self, lease: &Lease, failure: Failure) {
        self.backends.fails(lease, &failure);
        if !failure.is_passing() {
            self.given_up.backends.push(Arc::clone(lease.backend()));
        }
        let known = self.failures.iter_mut().find(|(entry, _)| Arc::ptr_eq(entry, lease.entry()));
        match known {
            // Of two ways the one that took all the time tells most, then the one that is worth another try: a host
            // without IPv6 fails at once.
            Some((_, known)) if known.is_timeout() => {}
            Some((_, known)) if known.is_passing() && !failure.is_passing() && !failure.is_timeout() => {}
            Some((_, known)) => *known = failure,
            None => self.failures.push((Arc::clone(lease.entry()), failure)),
        }
    }

    /// The server that was reached there does not serve, whichever way leads to it.
    pub fn refused(&mut self, lease: &Lease, failure: Failure) {
        // Whoever waits for another password has not failed.
        if !failure.is_rotation() {
            self.backends.fails(lease, &failure);
        }
        let ways = || lease.entry().backends.iter().cloned();
        self.tried.backends.extend(ways());
        if !failure.is_passing() {
            self.given_up.backends.extend(ways());
        }
        self.failures.retain(|(entry, _)| !Arc::ptr_eq(entry, lease.entry()));
        self.failures.push((Arc::clone(lease.entry()), failure));
    }

    /// Another address took the connection while this one had not answered after so long. It may be tried again, but
    /// others come first, for whoever dials next too.
    pub fn overtaken(&mut self, lease: &Lease, after: Duration) {
        let doing = format!("connecting to {lease}");
        self.backends.fails(lease, &Failure::TimedOut { stage: Stage::Connect, doing, after });
        self.spare(lease);
    }

    /// It was not tried after all.
    pub fn spare(&mut self, lease: &Lease) {
        self.tried.backends.retain(|tried| !Arc::ptr_eq(tried, lease.backend()));
    }

    /// What it came to, where nobody serves.
    pub fn failure(self) -> Failure {
        let failures = self.failures.into_iter().map(|(_, failure)| failure).collect();
        Failure::of_all(failures).unwrap_or_else(|| self.backends.absence())
    }

    /// The candidate whose name has been resolved, or where that has other servers now one of them, unless it rests.
    fn whose_turn_it_is(&mut self) -> Option<Arc<Entry>> {
        let resolved = self.resolving.take()?;
        let is_there = self.list.iter().any(|entry| Arc::ptr_eq(entry, &resolved));
        let entry = if is_there && !resolved.backends.is_empty() && self.is_untried(&resolved) {
            resolved
        } else {
            self.choose(|entry| entry.is_of(&resolved.listed))?
        };
        (!entry.rests(Instant::now())).then_some(entry)
    }

    fn choose(&self, is_meant: impl Fn(&Entry) -> bool) -> Option<Arc<Entry>> {
        if self.tries() >= MOST_TRIES {
            return None;
        }
        let now = Instant::now();
        let untried: Vec<_> =
            self.list.iter().filter(|entry| is_meant(entry) && self.is_untried(entry)).collect();
        let awake: Vec<_> = untried.iter().copied().filter(|entry| !entry.rests(now)).collect();
        let usable = if awake.is_empty() { &untried } else { &awake };
        (!usable.is_empty()).then(|| Arc::clone(self.backends.balance.choose(usable, self.turn)))
    }

    /// A lease of the first address that is not ejected, or else of the first.
    fn place_at(&mut self, entry: &Arc<Entry>) -> Option<Lease> {
        let now = Instant::now();
        let untried = || entry.backends.iter().filter(|backend| self.is_fresh(backend));
        let backend = untried().find(|backend| !backend.rest.holds(now)).or_else(|| untried().next())?;
        backend.rest.begin_trial(now);
        self.tried.backends.push(Arc::clone(backend));
        Some(Lease::at(entry, backend))
    }

    fn tries(&self) -> usize {
        self.tried.backends.len() + self.tried.names.len()
    }

    fn left(&self, is_meant: impl Fn(&Entry) -> bool) -> usize {
        let untried = self.list.iter().filter(|entry| is_meant(entry) && self.is_untried(entry)).count();
        untried.min(MOST_TRIES.saturating_sub(self.tries()))
    }

    fn is_untried(&self, entry: &Arc<Entry>) -> bool {
        let done = |done: &Done| done.has_name(&entry.listed);
        let has_way = entry.backends.is_empty() || entry.backends.iter().any(|way| self.is_fresh(way));
        has_way && !done(&self.tried) && !done(self.given_up)
    }

    fn is_fresh(&self, backend: &Arc<Backend>) -> bool {
        !self.tried.has(backend) && !self.given_up.has(backend)
    }
}
