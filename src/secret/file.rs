//! Secrets in files, which are read again when a dial needs them.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use zeroize::Zeroizing;

use super::{LONGEST, Secret, without_line_ending};
use crate::files;
use crate::reload::{Event, Reloading};
use crate::text;

/// How long a file must have been left alone before what is new in it is used: whoever writes it in place empties it
/// first, and may need more than one write. One who waits for this notices nothing.
const SETTLED: Duration = Duration::from_millis(20);

/// Looks at a file that goes on changing before it is taken as it is.
const LOOKS: usize = 5;

/// A file with one value, and the last value that could be read from it.
pub struct SecretFile {
    path: PathBuf,
    value: Reloading<Arc<Secret>>,
}

impl SecretFile {
    /// Reads the first value.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let first = Arc::new(read(&path)?.secret);
        let (looked_at, reported) = (path.clone(), path.clone());
        let mut is_readable = true;
        let look = move |last: &Arc<Secret>| {
            let found = settled(&looked_at, last, is_readable);
            is_readable = found.is_ok();
            let found = found.map_err(|error| error.reason)?;
            Ok((found != **last).then(|| Arc::new(found)))
        };
        let report = move |event: Event<'_>| report(&reported, event);
        Ok(Self { path, value: Reloading::new(first, look, report) })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it can't be read, so that the last value that could be serves on.
    pub(super) fn is_stale(&self) -> bool {
        self.value.failure().is_some()
    }

    /// The value as of now, or as of a look that is at most so old.
    pub(super) async fn recent(&self, age: Duration) -> Arc<Secret> {
        Arc::clone(&*self.value.recent(age).await)
    }

    /// What was read last.
    pub(super) fn last(&self) -> Arc<Secret> {
        Arc::clone(&*self.value.last())
    }
}

impl fmt::Debug for SecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretFile").field("path", &self.path).finish_non_exhaustive()
    }
}

fn report(path: &Path, event: Event<'_>) {
    let file = path.display();
    match event {
        // The metric of reloads knows it from the credentials.
        Event::Changed => {}
        Event::Failed(error) => {
            tracing::warn!(target: "secret", %file, error, "secret reload failed; keeping the last value");
        }
        Event::Recovered => tracing::info!(target: "secret", %file, "secret reload recovered"),
    }
}

/// What the file holds once it has settled.
fn settled(path: &Path, last: &Secret, was_readable: bool) -> Result<Secret, FileError> {
    let mut result = read(path);
    for _ in 1..LOOKS {
        let is_settled = match &result {
            Ok(found) => found.secret == *last || !found.is_fresh,
            // Emptied or removed a moment ago, to be written; or long since, which has been told.
            Err(_) => !was_readable,
        };
        if is_settled {
            break;
        }
        sleep(SETTLED);
        result = read(path);
    }
    result.map(|found| found.secret)
}

/// A file whose value is there only for a while: missing or empty, there is none.
pub struct OptionalSecretFile(Reloading<Option<Arc<Secret>>>);

impl OptionalSecretFile {
    /// Looks for a value, which need not be there yet.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let first = match read(&path) {
            Ok(found) => Some(Arc::new(found.secret)),
            Err(error) if error.is_empty => None,
            Err(error) => return Err(error),
        };
        let look = move |last: &Option<Arc<Secret>>| {
            let found = read(&path)
                .inspect_err(|error| tracing::debug!(target: "secret", %error, "secret file not usable"));
            let found = found.ok().map(|found| found.secret);
            Ok((found.as_ref() != last.as_deref()).then(|| found.map(Arc::new)))
        };
        // Nobody needs to know: it may come and go.
        Ok(Self(Reloading::new(first, look, |_| {})))
    }

    /// The value as of now, or as of a look that is at most so old.
    pub async fn recent(&self, age: Duration) -> Option<Arc<Secret>> {
        Option::clone(&*self.0.recent(age).await)
    }
}

impl fmt::Debug for OptionalSecretFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OptionalSecretFile")
    }
}

/// Why a file gives no value; never quotes what it holds.
#[derive(Debug, thiserror::Error)]
#[error("{}: {reason}", path.display())]
pub struct FileError {
    /// The file.
    pub path: PathBuf,
    /// What is wrong with it.
    pub reason: String,
    /// Whether it could be read, and holds nothing.
    is_empty: bool,
}

impl FileError {
    /// A file that can't be read.
    pub fn unreadable(path: &Path, reason: impl fmt::Display) -> Self {
        Self { path: path.to_path_buf(), reason: reason.to_string(), is_empty: false }
    }
}

/// What was found in a file.
struct Found {
    secret: Secret,
    /// Whether the file was written a moment ago, so that there may be more to come.
    is_fresh: bool,
}

/// The file's bytes without one trailing line ending.
fn read(path: &Path) -> Result<Found, FileError> {
    let error = |reason: String| FileError::unreadable(path, reason);
    let file = files::open(path).map_err(error)?;
    // One byte more than the longest value and its line ending, so that a longer one shows itself.
    let mut buffer = Zeroizing::new(vec![0; LONGEST + 3]);
    let mut length = 0;
    let mut file = file.take(buffer.len() as u64);
    loop {
        match file.read(&mut buffer[length..]) {
            Ok(0) => break,
            Ok(n) => length += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(error(text::io_error(&e))),
        }
    }
    let value = without_line_ending(&buffer[..length]);
    if value.is_empty() {
        return Err(FileError { is_empty: true, ..error("it is empty".into()) });
    }
    if value.len() > LONGEST {
        return Err(error(format!("it holds more than {LONGEST} bytes, the most that a Redis server takes")));
    }
    let modified = file.get_ref().metadata().and_then(|data| data.modified());
    Ok(Found { secret: Secret::new(value.to_vec()), is_fresh: modified.is_ok_and(is_fresh) })
}

/// Whether that was a moment ago; the clock that stamps files may be a little ahead or behind.
fn is_fresh(modified: SystemTime) -> bool {
    match SystemTime::now().duration_since(modified) {
        Ok(ago) => ago < SETTLED,
        Err(ahead) => ahead.duration() < SETTLED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_look_at_a_file_serves_all_who_come_within_an_age() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("previous");
        std::fs::write(&path, "old").expect("a file");
        let file = OptionalSecretFile::open(path.clone()).expect("a value");
        std::fs::write(&path, "new").expect("a file");
        let hour = Duration::from_hours(1);
        let shown = async |age| file.recent(age).await.map(|secret| secret.expose().to_vec());
        assert_eq!(shown(hour).await.as_deref(), Some(&b"old"[..]));
        assert_eq!(shown(Duration::ZERO).await.as_deref(), Some(&b"new"[..]));
        std::fs::remove_file(&path).expect("a file");
        assert_eq!(shown(hour).await.as_deref(), Some(&b"new"[..]));
        assert_eq!(shown(Duration::ZERO).await, None);
    }
}
