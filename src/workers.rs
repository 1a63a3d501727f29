//! The worker threads, each with a runtime of its own: a connection is woken, read and written on one thread, without
//! messages between threads.
//!
//! A new connection goes to the worker with the fewest. The first worker is the accepting thread; it is preferred among
//! equals, because no hand-over is needed. Connections that share upstreams fill one worker after the other instead: the
//! more of them are on a thread, the more of their commands go out in one write.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use futures_util::future::join_all;
use tokio::runtime::{Builder, Handle, Runtime};

use crate::descriptors;

/// Blocking threads of one worker, for reading files of secrets: the number of reads that may hang on an unresponsive
/// file system before others have to wait.
const BLOCKING_THREADS: usize = 16;

/// So many connections are together on one worker before the next one gets any. One thread carries more requests than a
/// single Redis server, and more connections in one batch bring little.
const TOGETHER: usize = 256;

pub struct Workers(Vec<Worker>);

/// Which worker gets a new connection.
#[derive(Debug, Clone, Copy)]
pub enum Placement {
    /// The one with the fewest.
    Apart,
    /// The one with the most that has room ([`TOGETHER`]).
    Together,
}

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A runtime for one thread.
pub fn runtime() -> io::Result<Runtime> {
    // In pairs, as the first runtime opens two more, for signals, and panics where it can't.
    descriptors::expect(descriptors::OF_A_RUNTIME)?;
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()
}

impl Workers {
    /// Starts `count` workers; the first is the calling thread, which must be within a runtime. The others run until
    /// the
    /// process ends. If a thread can't be started, returns the workers before it and the error.
    pub fn start(count: usize) -> (Self, Option<io::Error>) {
        let mut workers = vec![Worker::of(Handle::current())];
        for number in 1..count {
            match Worker::start(number) {
                Ok(worker) => workers.push(worker),
                Err(error) => return (Self(workers), Some(error)),
            }
        }
        (Self(workers), None)
    }

    pub fn count(&self) -> usize {
        self.0.len()
    }

    fn place(&self, placement: Placement) -> Option<&Worker> {
        let connections = |worker: &&Worker| worker.connections.load(Ordering::Relaxed);
        let fullest = || {
            // Of equals the last one is taken: it is to be the first worker.
            let with_room = self.0.iter().rev().filter(|worker| connections(worker) < TOGETHER);
            with_room.max_by_key(connections)
        };
        let fewest = || self.0.iter().min_by_key(connections);
        match placement {
            Placement::Apart => fewest(),
            Placement::Together => fullest().or_else(fewest),
        }
    }

    /// Returns once every worker has run a task: none of them hangs.
    pub async fn respond(&self) {
        join_all(self.0.iter().map(|worker| worker.runtime.spawn(async {}))).await;
    }

    /// Spawns a connection. It counts at its worker until its [`LoadGuard`] is dropped.
    pub fn spawn<F>(&self, placement: Placement, connection: impl FnOnce(LoadGuard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        // There is always a first worker.
        let Some(worker) = self.place(placement) else { return };
        worker.runtime.spawn(connection(LoadGuard::take(&worker.connections)));
    }
}

impl Worker {
    fn of(runtime: Handle) -> Self {
        Self { runtime, connections: Arc::default() }
    }

    /// Starts a thread and its runtime. The runtime is created in the thread: created here, within another runtime, it
    /// could not be dropped if the thread fails to start.
    fn start(number: usize) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime() {
            Ok(runtime) => {
                // The starting thread waits for it.
                let _ = tell.send(Ok(runtime.handle().clone()));
                runtime.block_on(std::future::pending::<()>());
            }
            Err(error) => drop(tell.send(Err(error))),
        })?;
        let runtime = told.recv().unwrap_or_else(|_| Err(io::Error::other("the thread ended at once")))?;
        Ok(Self::of(runtime))
    }
}

/// A connection's share of its worker's load, until it is dropped.
#[derive(Debug)]
pub struct LoadGuard(Arc<AtomicUsize>);

impl LoadGuard {
    fn take(connections: &Arc<AtomicUsize>) -> Self {
        connections.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(connections))
    }
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    /// Threads by the number of connections on each, and the one that gets the next.
    #[test]
    fn connections_that_share_fill_one_worker_after_the_other() {
        let place = |numbers: &[usize], placement| {
            let workers = runtime().expect("a runtime").block_on(async {
                numbers
                    .iter()
                    .map(|number| {
                        let worker = Worker::of(Handle::current());
                        worker.connections.store(*number, Ordering::Relaxed);
                        worker
                    })
                    .collect()
            });
            let workers = Workers(workers);
            let chosen = workers.place(placement).expect("a worker");
            workers.0.iter().position(|worker| std::ptr::eq(worker, chosen)).expect("one of them")
        };
        for (numbers, together, apart) in [
            ([0, 0, 0], 0, 0),
            ([1, 0, 0], 0, 1),
            ([3, 5, 4], 1, 0),
            ([TOGETHER - 1, 0, 0], 0, 1),
            ([TOGETHER, 0, 0], 1, 1),
            ([TOGETHER, TOGETHER + 2, TOGETHER + 1], 0, 0),
        ] {
            assert_eq!(place(&numbers, Placement::Together), together, "{numbers:?}");
            assert_eq!(place(&numbers, Placement::Apart), apart, "{numbers:?}");
        }
    }

    /// Whoever asks waits for it, until it goes on.
    #[test]
    fn a_worker_that_hangs_does_not_respond() {
        runtime().expect("a runtime").block_on(async {
            let (workers, error) = Workers::start(2);
            assert!(error.is_none(), "{error:?}");
            let (release, released) = mpsc::channel::<()>();
            workers.0[1].runtime.spawn(async move { released.recv() });
            assert!(timeout(Duration::from_millis(50), workers.respond()).await.is_err());
            drop(release);
            workers.respond().await;
        });
    }
}
