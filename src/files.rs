//! Files that settings name, and the system's own.

use std::fs::File;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::text;

/// Opens a file for reading, or says why it can't be: opening a pipe that nobody writes to would wait for ever, and a
/// device may have no end.
pub fn open(path: &Path) -> Result<File, String> {
    let kind = std::fs::metadata(path).map_err(|e| text::io_error(&e))?;
    if kind.is_dir() {
        return Err("it is a directory: Docker makes one where the host has no such file".to_owned());
    }
    if !kind.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|e| text::io_error(&e))
}

/// Why [`offload`] did nothing.
pub const NO_THREAD: &str =
    "no thread can be started to read it; is there a limit on processes (ulimit -u, pids_limit)?";

/// Does what a file system that hangs may hold up, away from the threads that serve connections. `None` where no thread
/// can be started for it, and where the runtime is shutting down.
///
/// Work that has not begun when nobody waits for it any more is dropped; what has begun goes on.
pub async fn offload<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    // The runtime may keep what it was given until there is a thread, and with it locks that the work holds.
    let work = Arc::new(Mutex::new(Some(work)));
    let queued = Arc::downgrade(&work);
    let begin = move || {
        let work = queued.upgrade()?;
        let work = work.lock().take()?;
        Some(work())
    };
    // A runtime that has no thread yet and gets none panics.
    let done = catch_unwind(AssertUnwindSafe(|| tokio::task::spawn_blocking(begin))).ok()?;
    done.await.ok().flatten()
}
