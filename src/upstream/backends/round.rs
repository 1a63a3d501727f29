//! The candidates of one dial.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::Instant;

use super::listed::{Backend, Entry, Listed};
use super::{Backends, List};
use crate::failure::{Failure, Stage};
use crate::net::resolve::Addresses;

/// Candidates tried in one round at most. Those that failed are in back-off, so the next round tries others.
const MOST_TRIES: usize = 32;

/// A connection's lease of a backend, from the dial until it is dropped; counted in [`Backend::active`].
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

    pub fn backend(&self) -> &Arc<Backend> {
        &self.backend
    }

    /// The server that the backend is an address of.
    pub(super) fn entry(&self) -> &Arc<Entry> {
        &self.entry
    }

    /// The endpoint that it was found by.
    pub fn listed(&self) -> &Arc<Listed> {
        &self.entry.listed
    }

    /// Whether the backend is no longer listed.
    pub(super) fn is_abandoned(&self) -> bool {
        self.backend.gone.load(Ordering::SeqCst)
    }
}

/// The server's name in errors and the log.
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

/// Candidates that are not tried again.
#[derive(Debug, Default)]
pub struct Done {
    backends: Vec<Arc<Backend>>,
    /// Names that could not be resolved.
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

/// The next step of a dial.
pub enum Next {
    /// Resolve this name and report the result to the round.
    Resolve(Arc<Listed>),
    Dial(Lease),
}

/// The candidates of one dial, each tried once, and their failures.
///
/// A name is resolved when it is chosen, not before, so that a name that can't be resolved does not delay the others.
/// One of the servers in the answer is then tried in the same step.
pub struct Round<'a> {
    backends: &'a Backends,
    list: List,
    turn: usize,
    given_up: &'a mut Done,
    tried: Done,
    /// Names resolved in this round.
    resolved: Vec<Arc<Listed>>,
    /// The candidate whose name is being resolved. It is the next to be dialled: choosing again would favour the
    /// larger
    /// weights twice.
    resolving: Option<Arc<Entry>>,
    /// The failure of each server.
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

    /// The next step; `None` when no candidate is left. Candidates in back-off come last.
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

    /// The next candidate by the last known addresses, without resolving its name again.
    pub fn next_known(&mut self) -> Option<Lease> {
        let entry = self.choose(|_| true)?;
        self.place_at(&entry)
    }

    /// The next candidate of the same name.
    pub fn beside(&mut self, listed: &Arc<Listed>) -> Option<Lease> {
        let entry = self.choose(|entry| entry.is_of(listed))?;
        self.place_at(&entry)
    }

    /// Whether [`Self::beside`] would find one.
    pub fn has_beside(&self, listed: &Arc<Listed>) -> bool {
        self.left(|entry| entry.is_of(listed)) > 0
    }

    /// The number of untried servers other than that of `lease`.
    pub fn others(&self, lease: &Lease) -> usize {
        self.left(|entry| !std::ptr::eq(entry, &raw const **lease.entry()))
    }

    /// The number of untried servers of other names.
    pub fn others_elsewhere(&self, listed: &Arc<Listed>) -> usize {
        self.left(|entry| !entry.is_of(listed))
    }

    /// Takes in the addresses of a name.
    pub fn resolved(&mut self, listed: &Arc<Listed>, answer: &Addresses) {
        self.backends.resolved(listed, answer);
        self.list = self.backends.list();
    }

    /// Reports a name that could not be resolved.
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

    /// Reports a failed connection; other addresses of the same server are still tried.
    pub fn unreachable(&mut self, lease: &Lease, failure: Failure) {
        self.backends.fails(lease, &failure);
        if !failure.is_passing() {
            self.given_up.backends.push(Arc::clone(lease.backend()));
        }
        let known = self.failures.iter_mut().find(|(entry, _)| Arc::ptr_eq(entry, lease.entry()));
        match known {
            // Of two failures keep the timeout, else the one that is worth a retry: on a host without IPv6
            // the other
            // address fails at once and says nothing about the server.
            Some((_, known)) if known.is_timeout() => {}
            Some((_, known)) if known.is_passing() && !failure.is_passing() && !failure.is_timeout() => {}
            Some((_, known)) => *known = failure,
            None => self.failures.push((Arc::clone(lease.entry()), failure)),
        }
    }

    /// Reports a server that was reached but refused the handshake; its other addresses are not tried.
    pub fn refused(&mut self, lease: &Lease, failure: Failure) {
        // During a password rotation the server itself has not failed.
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

    /// Reports an address that lost the race for the connection, `after` this time. It may be tried again, but is
    /// in
    /// back-off, for later dials too.
    pub fn overtaken(&mut self, lease: &Lease, after: Duration) {
        let doing = format!("connecting to {lease}");
        self.backends.fails(lease, &Failure::TimedOut { stage: Stage::Connect, doing, after });
        self.spare(lease);
    }

    /// Makes `lease` a candidate again: it was not tried.
    pub fn spare(&mut self, lease: &Lease) {
        self.tried.backends.retain(|tried| !Arc::ptr_eq(tried, lease.backend()));
    }

    /// The failure of the whole round.
    pub fn failure(self) -> Failure {
        let failures = self.failures.into_iter().map(|(_, failure)| failure).collect();
        Failure::of_all(failures).unwrap_or_else(|| self.backends.no_backend())
    }

    /// The candidate whose name has just been resolved, or one of its new servers; `None` if it is in back-off.
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
        let ready: Vec<_> = untried.iter().copied().filter(|entry| !entry.rests(now)).collect();
        let usable = if ready.is_empty() { &untried } else { &ready };
        (!usable.is_empty()).then(|| Arc::clone(self.backends.link.balance.choose(usable, self.turn)))
    }

    /// A lease of the server's first untried address, preferring one that is not in back-off.
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
