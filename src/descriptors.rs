//! How many file descriptors there are to be had, and what they carry.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// Descriptors for all that is not a connection: standard streams, signals, lookups, files that are read.
const OTHERS: u64 = 32;

/// Descriptors that a runtime takes for itself: epoll twice, what wakes it, and what tells it of signals.
pub const OF_A_RUNTIME: u64 = 4;

/// Clients that are told at the same time that they are not served; each needs one descriptor for a moment.
const REFUSALS: u64 = 64;

/// Connections to the admin endpoint at the same time: far more than probes and scrapes need.
const ADMIN: usize = 16;

/// The part of all descriptors that threads may take for themselves.
const SHARE_OF_THREADS: u64 = 4;

/// The soft limit that the process was started with; `None` stands for no limit.
static STARTED_WITH: OnceLock<Option<u64>> = OnceLock::new();

/// The limit on file descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit to the hard one. Where that is not allowed the soft limit is what there is.
    pub fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        STARTED_WITH.get_or_init(|| current);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        Self(limit.unwrap_or(u64::MAX))
    }

    /// The number itself.
    pub fn limit(self) -> u64 {
        self.0
    }

    /// Whether they carry so many connections that are kept ready, and as many that are used.
    pub fn carry(self, warm: usize) -> bool {
        warm as u64 <= self.0 / 4
    }

    /// Clients that may be told at the same time that they are not served.
    pub fn refusals(self) -> usize {
        usize::try_from(REFUSALS.min(self.0 / 8)).unwrap_or(1)
    }

    /// What the admin endpoint may take; where there are few, it has few clients too.
    pub fn admin(self) -> usize {
        let most = usize::try_from(self.0 / 16).unwrap_or(usize::MAX);
        most.clamp(1, ADMIN)
    }

    /// Threads that they carry.
    pub fn threads(self) -> usize {
        let threads = self.0 / SHARE_OF_THREADS / OF_A_RUNTIME;
        usize::try_from(threads).unwrap_or(usize::MAX).max(1)
    }

    /// Connections that they carry beside those that are kept ready: two descriptors each, a client's and a target's.
    pub fn connections(self, threads: usize, listeners: usize, warm: usize) -> usize {
        let others = (listeners + self.refusals() + self.admin() + warm) as u64;
        let others = OTHERS + others + threads as u64 * OF_A_RUNTIME;
        let connections = self.0.saturating_sub(others) / 2;
        usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// An error if there are no `pairs` of descriptors to be had now.
pub fn expect(pairs: u64) -> io::Result<()> {
    // Kept until all are there.
    (0..pairs).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// The soft limit for programs that we run. Ours is raised, and some close every descriptor that they could have, one by
/// one.
pub fn limit_of_programs() -> Rlimit {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let started_with = STARTED_WITH.get().copied().unwrap_or(current);
    // The hard limit may have been lowered meanwhile; `None`, no limit, is the highest.
    let lower = [started_with, maximum].into_iter().flatten().min();
    Rlimit { current: lower, maximum }
}
