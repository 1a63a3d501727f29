//! The threads that serve connections: each with a runtime of its own, so that a connection is woken, read and written
//! on one thread and no message crosses over to another.
//!
//! A new connection goes to the thread that has the fewest. The first thread is the one that accepts; where several
//! have the fewest it is taken, because that costs no hand-over.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::thread;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::descriptors;

/// Threads for work that may block (secrets' files) beside one worker: as many as may hang on a file system that does
/// before others have to wait for it too.
const BLOCKING_THREADS: usize = 16;

/// Every thread that serves connections.
pub struct Workers(Vec<Worker>);

struct Worker {
    runtime: Handle,
    connections: Arc<AtomicUsize>,
}

/// A runtime for one thread.
pub fn runtime() -> io::Result<Runtime> {
    // In pairs, since the first one takes two more, for signals, and panics where it does not get them.
    descriptors::expect(descriptors::OF_A_RUNTIME)?;
    Builder::new_current_thread().enable_all().max_blocking_threads(BLOCKING_THREADS).build()
}

impl Workers {
    /// Starts `count` workers, of which the calling thread, within a runtime, is the first. The others live as long
    /// as the process. Where one can't be had there are those before it, and the error.
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

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Spawns a connection on the worker that has the fewest. It counts there until it drops its place.
    pub fn spawn<F>(&self, connection: impl FnOnce(LoadGuard) -> F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let fewest = self.0.iter().min_by_key(|worker| worker.connections.load(Ordering::Relaxed));
        // There is always a first worker; iterators can't know that.
        let Some(worker) = fewest else { return };
        worker.runtime.spawn(connection(LoadGuard::take(&worker.connections)));
    }
}

impl Worker {
    fn of(runtime: Handle) -> Self {
        Self { runtime, connections: Arc::default() }
    }

    /// A thread with a runtime, which is made there: within another runtime it could not be dropped if there is no thread.
    fn start(number: usize) -> io::Result<Self> {
        let (tell, told) = mpsc::channel();
        thread::Builder::new().name(format!("worker-{number}")).spawn(move || match runtime() {
            Ok(runtime) => {
                // Whoever has started the thread waits for this.
                let _ = tell.send(Ok(runtime.handle().clone()));
                runtime.block_on(std::future::pending::<()>());
            }
            Err(error) => drop(tell.send(Err(error))),
        })?;
        let runtime = told.recv().unwrap_or_else(|_| Err(io::Error::other("it has ended at once")))?;
        Ok(Self::of(runtime))
    }
}

/// A connection's part in its worker's load; given back when it is dropped.
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
