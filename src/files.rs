//! Files that settings name, and the system's own.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::MetadataExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};

use crate::text;
use tokio::sync::Mutex as AsyncMutex;
use tokio::time::{Instant, timeout_at};

/// Opens a file for reading, or says why it can't be: opening a pipe that nobody writes to would wait for ever, and a
/// device may have no end.
pub fn open(path: &Path) -> Result<File, String> {
    let kind = std::fs::metadata(path).map_err(|e| text::io_error(&e))?;
    if !kind.is_file() {
        return Err("it is not a regular file".to_owned());
    }
    File::open(path).map_err(|e| text::io_error(&e))
}

/// Why [`away`] did nothing.
pub const NO_THREAD: &str =
    "no thread can be started to read it; is there a limit on processes (ulimit -u, pids_limit)?";

/// Does what a file system that hangs may hold up, away from the threads that serve connections. `None` where no thread
/// can be started for it, and where the runtime is shutting down.
///
/// Work that has not begun when nobody waits for it any more is dropped; what has begun goes on.
pub async fn away<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
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

/// Two writes within this time can leave the same stamp.
const STAMPS_DIFFER: Duration = Duration::from_secs(2);

/// What changes whenever a file does: which file it is (a rename, a link that was turned), its size, its times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no file, or none that may be looked at. A file system that hangs keeps the caller.
    pub fn of(path: &Path) -> Option<Self> {
        std::fs::metadata(path).ok().as_ref().map(Self::from)
    }

    /// Whether a write that comes now could leave this same stamp behind.
    pub fn is_fresh(self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        now.saturating_sub(changed) < STAMPS_DIFFER
    }
}

impl From<&Metadata> for Stamp {
    fn from(data: &Metadata) -> Self {
        Self {
            file: (data.dev(), data.ino()),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        }
    }
}

/// How long a file is waited for: what takes longer is a file system that hangs, and then what it held before serves.
const PATIENCE: Duration = Duration::from_millis(250);

/// How long a changed file must have been left alone: whoever writes it in place empties it first. Nobody notices this.
const SETTLED: Duration = Duration::from_millis(20);

/// Looks at a file that goes on changing before it is taken as it is.
const LOOKS: usize = 5;

/// Far more than the longest lists of advertisers' hosts have.
const LARGEST: u64 = 16 * 1024 * 1024;

/// A file that is read again when it has changed, away from the threads that serve connections. While its file system
/// hangs it is what it was.
pub struct Reloading<T>(Arc<State<T>>);

struct State<T> {
    path: PathBuf,
    parse: fn(&[u8]) -> T,
    last: Mutex<Last<T>>,
    /// Held by the one who looks: on a file system that hangs one thread waits, and not one for every dial.
    looking: Arc<AsyncMutex<()>>,
    /// Whether it has been said that the file system hangs.
    is_told: AtomicBool,
}

struct Last<T> {
    /// What the file meant, and its stamp; `None` where nobody has been able to look yet.
    read: Option<(Arc<T>, Option<Stamp>)>,
    /// When the last look at it began, or the one that is under way.
    begun: Option<Instant>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// A file and what makes sense of its bytes; of a missing file there are none. Nothing is read yet.
    pub fn new(path: &str, parse: fn(&[u8]) -> T) -> Self {
        Self(Arc::new(State {
            path: path.into(),
            parse,
            last: Mutex::new(Last { read: None, begun: None }),
            looking: Arc::default(),
            is_told: AtomicBool::new(false),
        }))
    }

    /// What the file holds now, or held when it could last be read. `None` where it could not be read even once.
    pub async fn current(&self) -> Option<Arc<T>> {
        let asked = Instant::now();
        let hangs = self.0.looking.try_lock().is_err()
            && self.0.lock().begun.is_some_and(|begun| asked.duration_since(begun) > PATIENCE);
        if !hangs && timeout_at(asked + PATIENCE, self.look(asked)).await.is_err() {
            self.0.say_that_it_hangs();
        }
        self.last()
    }

    /// What the file held at the last look.
    pub fn last(&self) -> Option<Arc<T>> {
        self.0.lock().read.as_ref().map(|(value, _)| Arc::clone(value))
    }

    /// Looks at the file, unless somebody has begun to do so since this was `asked` for.
    async fn look(&self, asked: Instant) {
        let looking = Arc::clone(&self.0.looking).lock_owned().await;
        if self.0.lock().begun.is_some_and(|begun| begun >= asked) {
            return;
        }
        self.0.lock().begun = Some(Instant::now());
        let state = Arc::clone(&self.0);
        let look = move || {
            state.look();
            drop(looking);
        };
        if away(look).await.is_none() && self.last().is_none() {
            // Where there is no thread for it, it is read here for once, since nothing works without it.
            self.0.look();
        }
    }
}

impl<T> State<T> {
    fn lock(&self) -> MutexGuard<'_, Last<T>> {
        self.last.lock()
    }

    /// Reads the file if it is not what it was.
    fn look(&self) {
        let known = self.lock().read.as_ref().map(|(_, stamp)| *stamp);
        let mut stamp = Stamp::of(&self.path);
        let is_same = known == Some(stamp);
        if !is_same || stamp.is_some_and(Stamp::is_fresh) {
            let mut bytes = self.read();
            for _ in 1..LOOKS {
                // At the first look there is nothing better that one could wait with.
                if known.is_none() || is_same {
                    break;
                }
                sleep(SETTLED);
                let settled = Stamp::of(&self.path);
                if settled == stamp {
                    break;
                }
                stamp = settled;
                bytes = self.read();
            }
            if let Ok(bytes) = bytes {
                let value = Arc::new((self.parse)(&bytes));
                self.lock().read = Some((value, stamp));
            }
        }
        if self.is_told.swap(false, Ordering::Relaxed) {
            tracing::info!(target: "file", file = %self.path.display(), "file reload recovered");
        }
    }

    /// The file's bytes; none where there is no such file, or none that is meant for us. An error says nothing of the
    /// file: there are no descriptors left, say.
    fn read(&self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let read = match std::fs::metadata(&self.path) {
            Ok(data) if !data.is_file() => Ok(0),
            _ => File::open(&self.path).and_then(|file| file.take(LARGEST).read_to_end(&mut bytes)),
        };
        match read {
            Ok(_) => Ok(bytes),
            Err(error) => match error.kind() {
                ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::PermissionDenied => {
                    Ok(Vec::new())
                }
                _ if self.lock().read.is_none() => Ok(Vec::new()),
                _ => Err(error),
            },
        }
    }

    fn say_that_it_hangs(&self) {
        if !self.is_told.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                target: "file",
                file = %self.path.display(),
                remedy = "look after its file system, which does not answer",
                "file reload failed; keeping the last content"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_that_comes_changes_and_goes_is_followed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("hosts");
        let file = Reloading::new(path.to_str().unwrap(), <[u8]>::to_vec);
        assert_eq!(file.last(), None);
        for held in ["", "one", "two", "", "three"] {
            if held.is_empty() {
                // Missing at first, and later removed.
                let _ = std::fs::remove_file(&path);
            } else {
                std::fs::write(&path, held).unwrap();
            }
            assert_eq!(file.current().await.unwrap().as_slice(), held.as_bytes());
            assert_eq!(file.last(), file.current().await);
        }
        // What is no file has nothing in it.
        let directory = Reloading::new(directory.path().to_str().unwrap(), <[u8]>::to_vec);
        assert_eq!(directory.current().await.unwrap().as_slice(), b"");
    }
}
