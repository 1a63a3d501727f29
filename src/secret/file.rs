//! Secrets in files, which are read again when a dial needs them.

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use zeroize::Zeroizing;

use super::{LONGEST, Secret, without_line_ending};
use crate::files;
use crate::reload::{Event, Failure, Reloading};
use crate::text;

/// A file with one value, and the last value that could be read from it.
pub struct SecretFile {
    path: PathBuf,
    value: Reloading<Arc<Secret>>,
}

impl SecretFile {
    /// Reads the first value.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let first = Arc::new(read(&path)?);
        let (read_from, reported) = (path.clone(), path.clone());
        let look = move |last: &Arc<Secret>| {
            let found = read(&read_from).map_err(|error| error.reason)?;
            Ok((found != **last).then(|| Arc::new(found)))
        };
        let report = move |event: Event<'_>| report(&reported, event);
        Ok(Self { value: Reloading::new([path.clone()], first, look, report), path })
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Why it gives no new value, so that the last one serves on, if that is so.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.value.failure()
    }

    /// Reads it again; why that gives no new value, if it does not.
    pub async fn look(&self) -> Option<Failure> {
        self.value.current().await;
        self.failure()
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
        Event::Failed(Failure { reason, remedy }) => tracing::warn!(
            target: "secret",
            %file,
            error = reason,
            remedy = remedy.as_deref(),
            "secret reload failed; keeping the last value"
        ),
        Event::Recovered => tracing::info!(target: "secret", %file, "secret reload recovered"),
    }
}

/// A file whose value is there only for a while: missing or empty, there is none.
pub struct OptionalSecretFile(Reloading<Option<Arc<Secret>>>);

impl OptionalSecretFile {
    /// Looks for a value, which need not be there yet.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let first = match read(&path) {
            Ok(found) => Some(Arc::new(found)),
            Err(error) if error.is_empty => None,
            Err(error) => return Err(error),
        };
        let paths = [path.clone()];
        let look = move |last: &Option<Arc<Secret>>| {
            let found = read(&path)
                .inspect_err(|error| tracing::debug!(target: "secret", %error, "secret file not usable"))
                .ok();
            Ok((found.as_ref() != last.as_deref()).then(|| found.map(Arc::new)))
        };
        // Nobody needs to know: it may come and go.
        Ok(Self(Reloading::new(paths, first, look, |_| {})))
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

/// The file's bytes without one trailing line ending.
fn read(path: &Path) -> Result<Secret, FileError> {
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
    Ok(Secret::new(value.to_vec()))
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
