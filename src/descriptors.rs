//! The limit on file descriptors, and how many connections it allows.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::sync::Semaphore;

/// Descriptors for everything but connections: standard streams, signals, lookups, files.
const OTHERS: u64 = 32;

/// File descriptors of a runtime: two epoll instances, its waker and its signal pipe.
pub const OF_A_RUNTIME: u64 = 4;

/// Concurrent refusals of clients; each needs one descriptor until its error is written.
const REFUSALS: u64 = 64;

/// Concurrent connections of the admin endpoint: far more than probes and scrapes need.
const ADMIN: usize = 16;

/// The worker threads' runtimes may use one in this many descriptors.
const SHARE_OF_THREADS: u64 = 4;

/// The soft limit at the start of the process; `None` is no limit.
static STARTED_WITH: OnceLock<Option<u64>> = OnceLock::new();

/// The limit on file descriptors.
#[derive(Debug, Clone, Copy)]
pub struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit to the hard one, if allowed.
    pub fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        STARTED_WITH.get_or_init(|| current);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        Self(limit.unwrap_or(u64::MAX))
    }

    pub fn limit(self) -> u64 {
        self.0
    }

    /// Whether they suffice for `warm` ready connections and as many in use.
    pub fn carry(self, warm: usize) -> bool {
        warm as u64 <= self.0 / 4
    }

    /// The limit of concurrent refusals.
    pub fn refusals(self) -> usize {
        usize::try_from(REFUSALS.min(self.0 / 8)).unwrap_or(1)
    }

    /// The limit of the admin endpoint's connections, lower where descriptors are few.
    pub fn admin(self) -> usize {
        let most = usize::try_from(self.0 / 16).unwrap_or(usize::MAX);
        most.clamp(1, ADMIN)
    }

    /// The limit of worker threads.
    pub fn threads(self) -> usize {
        let threads = self.0 / SHARE_OF_THREADS / OF_A_RUNTIME;
        usize::try_from(threads).unwrap_or(usize::MAX).max(1)
    }

    /// The limit of connections beside the ready ones: two descriptors each, a client's and a target's.
    pub fn connections(self, threads: usize, listeners: usize, warm: usize) -> usize {
        let others = (listeners + self.refusals() + self.admin() + warm) as u64;
        let others = OTHERS + others + threads as u64 * OF_A_RUNTIME;
        let connections = self.0.saturating_sub(others) / 2;
        usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// An error unless `pairs` pairs of descriptors can be opened now.
pub fn expect(pairs: u64) -> io::Result<()> {
    // All are open at the same time.
    (0..pairs).map(|_| UnixStream::pair()).collect::<io::Result<Vec<_>>>().map(drop)
}

/// The limit for programs that we run: our original soft limit. Some programs close every possible descriptor one by
/// one,
/// which takes long with a raised limit.
pub fn limit_of_programs() -> Rlimit {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let started_with = STARTED_WITH.get().copied().unwrap_or(current);
    // The hard limit may have been lowered since; `None`, no limit, is the highest.
    let lower = [started_with, maximum].into_iter().flatten().min();
    Rlimit { current: lower, maximum }
}
