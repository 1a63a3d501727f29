//! Secrets, from the first byte read to the last byte written.
//!
//! A [`Secret`] is zeroed when it is dropped and has no way into a log line: its `Debug` shows nothing, it has no
//! `Display`, and [`Secret::expose`] is called only where bytes go to the target. Every buffer that a secret passes
//! through on its way is allocated at its final size (growing would leave copies behind) and zeroed too.
//!
//! What clients say is theirs, though it may hold the password that a link requires of them: the buffer in which that is
//! looked for is zeroed, but an inline argument, and what the relay passes on, are bytes like any others.
//!
//! A [`Source`] is where a secret comes from: a variable, a URL, a file that is read again, or a [program](command).

pub mod command;

use std::fmt;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{DumpableBehavior, Resource, Rlimit, set_dumpable_behavior, setrlimit};
use secrecy::{ExposeSecret, SecretSlice};
use tokio::sync::{Mutex as AsyncMutex, OwnedMutexGuard};
use tokio::time::{Instant, sleep};
use zeroize::Zeroizing;

use self::command::{CommandError, SecretCommand};
use crate::files;
use crate::text;

/// The longest password a Redis server takes before authentication: its limit for one bulk string, in bytes.
pub const LONGEST: usize = 16 * 1024;

/// Bytes that must never be shown.
pub struct Secret(SecretSlice<u8>);

impl Secret {
    /// Takes over `bytes`. To leave no copy behind, their capacity should equal their length.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(SecretSlice::from(bytes))
    }

    /// The bytes themselves; for the wire, and for nothing else.
    pub fn expose(&self) -> &[u8] {
        self.0.expose_secret()
    }

    /// `text` with every trace of this secret masked: a server may quote what it was sent, whole or cut short.
    ///
    /// Any run of at least six bytes that begins like the secret is masked, and so is a shorter secret as a whole. The
    /// text is one line: where the secret has control characters it has spaces.
    pub fn mask(&self, text: &str) -> String {
        const TELLING: usize = 6;
        let mut secret = Zeroizing::new(Vec::with_capacity(self.expose().len()));
        secret.extend(self.expose().iter().map(|byte| if byte.is_ascii_control() { b' ' } else { *byte }));
        let secret = Zeroizing::new(String::from_utf8_lossy(&secret).into_owned());
        let mut masked = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(first) = rest.chars().next() {
            let shared: usize =
                secret.chars().zip(rest.chars()).take_while(|(a, b)| a == b).map(|(a, _)| a.len_utf8()).sum();
            if shared > 0 && (shared == secret.len() || shared >= TELLING) {
                masked.push_str("***");
                rest = &rest[shared..];
            } else {
                masked.push(first);
                rest = &rest[first.len_utf8()..];
            }
        }
        masked
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// How long a comparison takes tells how the two begin: not for what a stranger has sent.
impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.expose() == other.expose()
    }
}

/// Where a value comes from; asked at every dial.
#[derive(Debug)]
pub enum Source {
    /// A variable of the environment.
    Variable(Arc<Secret>),
    /// The user information of a target URL.
    Url(Arc<Secret>),
    /// A file that is read again whenever the value is needed.
    File(SecretFile),
    /// A program that prints the value.
    Command(SecretCommand),
}

impl Source {
    /// The value as of now.
    pub async fn current(&self) -> Result<Arc<Secret>, Unavailable> {
        self.recent(Duration::ZERO).await
    }

    /// The same where many ask again and again: a look that is at most so old will do.
    pub async fn recent(&self, age: Duration) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Ok(Arc::clone(secret)),
            Self::File(file) => Ok(file.current(age).await),
            Self::Command(command) => Ok(command.current().await?),
        }
    }

    /// The value that has taken the place of `refused`, if there is another one.
    pub async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, Unavailable> {
        match self {
            Self::Command(command) => Ok(command.instead_of(refused).await?),
            _ => self.current().await,
        }
    }

    /// Whether the value can become another one while the process runs.
    pub fn can_change(&self) -> bool {
        matches!(self, Self::File(_) | Self::Command(_))
    }

    /// Whether there was nothing to be had when somebody looked last, so that the value is an old one or none.
    pub fn is_stale(&self) -> bool {
        match self {
            Self::Variable(_) | Self::Url(_) => false,
            Self::File(file) => !file.0.lock().0.is_readable,
            Self::Command(command) => command.is_failing(),
        }
    }

    /// How `links` and the log name this source.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Variable(_) => "env",
            Self::Url(_) => "url",
            Self::File(_) => "file",
            Self::Command(_) => "command",
        }
    }

    /// The value as it was last known, without looking again; a program that was not run yet has none.
    pub fn last(&self) -> Option<Arc<Secret>> {
        match self {
            Self::Variable(secret) | Self::Url(secret) => Some(Arc::clone(secret)),
            Self::File(file) => Some(file.last()),
            Self::Command(command) => command.last(),
        }
    }
}

/// A secret can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Unavailable {
    /// From its file.
    #[error("the secret can't be read: {0}")]
    File(#[from] FileError),
    /// From its program.
    #[error("the secret can't be had from its program: {0}")]
    Command(#[from] CommandError),
}

/// How long a file must have been left alone before what is new in it is used: whoever writes it in place empties it
/// first, and may need more than one write. One who waits for this notices nothing.
const SETTLED: Duration = Duration::from_millis(20);

/// Looks at a file that goes on changing before it is taken as it is.
const LOOKS: usize = 5;

/// A file, and what the last look at it came to.
#[derive(Debug)]
struct Looked<T> {
    path: PathBuf,
    last: Mutex<(T, Instant)>,
    looking: Arc<AsyncMutex<()>>,
}

/// Held while somebody looks, and by the thread that reads until it has: on a file system that hangs one thread waits,
/// and not one for every dial that has given up.
type Looking = Arc<OwnedMutexGuard<()>>;

impl<T: Clone> Looked<T> {
    fn new(path: PathBuf, first: T) -> Self {
        Self { path, last: Mutex::new((first, Instant::now())), looking: Arc::default() }
    }

    /// What somebody's `look` came to within `age`, or else this one's, which knows what the last came to.
    async fn recent<Look>(&self, age: Duration, look: impl FnOnce(T, Looking) -> Look) -> T
    where
        Look: Future<Output = T>,
    {
        let looking = Arc::new(Arc::clone(&self.looking).lock_owned().await);
        let (known, at) = self.lock().clone();
        if at.elapsed() < age {
            return known;
        }
        let found = look(known, Arc::clone(&looking)).await;
        *self.lock() = (found.clone(), Instant::now());
        found
    }

    /// The file, while somebody looks at it.
    fn looked_at(&self) -> Option<&Path> {
        self.looking.try_lock().is_err().then_some(&self.path)
    }

    fn lock(&self) -> MutexGuard<'_, (T, Instant)> {
        self.last.lock()
    }
}

/// A file with one value, and the last value that could be read from it.
#[derive(Debug)]
pub struct SecretFile(Looked<Readable>);

#[derive(Debug, Clone)]
struct Readable {
    secret: Arc<Secret>,
    /// Whether the file could be read when somebody looked last.
    is_readable: bool,
}

impl SecretFile {
    /// Reads the file for the first time; a file that can't be read at start is a mistake of configuration.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let secret = Arc::new(read(&path)?.secret);
        Ok(Self(Looked::new(path, Readable { secret, is_readable: true })))
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.0.path
    }

    /// The file, while somebody reads it.
    pub fn being_read(&self) -> Option<&Path> {
        self.0.looked_at()
    }

    /// Reads the file again, unless somebody has done so within `age`.
    ///
    /// A file that can't be read now leaves the last value that could be, with a warning: secrets are often
    /// replaced by removing and writing, and the old one mostly still serves.
    async fn current(&self, age: Duration) -> Arc<Secret> {
        self.0.recent(age, |known, looking| look(self.path(), known, looking)).await.secret
    }

    fn last(&self) -> Arc<Secret> {
        Arc::clone(&self.0.lock().0.secret)
    }
}

/// Reads what there is to be known of a file now, once it has settled.
async fn look(path: &Path, known: Readable, looking: Looking) -> Readable {
    let mut result = read_away(path, &looking).await;
    for _ in 1..LOOKS {
        let is_settled = match &result {
            Ok(read) => read.secret == *known.secret || !read.is_fresh,
            // Emptied or removed a moment ago, to be written; or long since, which has been told.
            Err(_) => !known.is_readable,
        };
        if is_settled {
            break;
        }
        sleep(SETTLED).await;
        result = read_away(path, &looking).await;
    }
    let is_readable = result.is_ok();
    let secret = match result {
        Ok(read) => {
            if !known.is_readable {
                tracing::info!(file = %path.display(), "a secret's file can be read again");
            }
            if read.secret == *known.secret { known.secret } else { Arc::new(read.secret) }
        }
        Err(error) => {
            if known.is_readable {
                tracing::warn!(
                    file = %path.display(),
                    error = %error.reason,
                    "a secret's file can't be read; its last value serves on"
                );
            }
            known.secret
        }
    };
    Readable { secret, is_readable }
}

/// A file whose value is there only for a while: missing or empty, there is none.
#[derive(Debug)]
pub struct OccasionalFile(Looked<Option<Arc<Secret>>>);

impl OccasionalFile {
    /// A file that can't be read at start is a mistake of configuration; an empty one is not.
    pub fn open(path: PathBuf) -> Result<Self, FileError> {
        let first = match read(&path) {
            Ok(read) => Some(Arc::new(read.secret)),
            Err(error) if error.is_empty => None,
            Err(error) => return Err(error),
        };
        Ok(Self(Looked::new(path, first)))
    }

    /// The file, while somebody reads it.
    pub fn being_read(&self) -> Option<&Path> {
        self.0.looked_at()
    }

    /// The value as of now; a look that is at most so old will do.
    pub async fn recent(&self, age: Duration) -> Option<Arc<Secret>> {
        let path = &self.0.path;
        let look = |_, looking| async move {
            let read = read_away(path, &looking).await;
            let read = read.inspect_err(|error| tracing::debug!(%error, "no value in this file"));
            read.ok().map(|read| Arc::new(read.secret))
        };
        self.0.recent(age, look).await
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

async fn read_away(path: &Path, looking: &Looking) -> Result<Found, FileError> {
    let (owned, looking) = (path.to_path_buf(), Arc::clone(looking));
    let reading = files::away(move || {
        let found = read(&owned);
        drop(looking);
        found
    });
    reading.await.unwrap_or_else(|| Err(FileError::unreadable(path, files::NO_THREAD)))
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

/// Keeps what is in memory out of core dumps and out of reach of other processes of the same user, as far as the kernel
/// lets: nobody but root can trace this process then, or look into its memory or environment (ptrace(2), proc(5)).
pub fn keep_to_ourselves() {
    // Both can only be refused by a kernel that knows neither; there is nothing else that could be done.
    let _ = setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) });
    let _ = set_dumpable_behavior(DumpableBehavior::NotDumpable);
}

/// A value as people write it into files and variables, without one line ending at its end.
pub fn without_line_ending(bytes: &[u8]) -> &[u8] {
    match bytes.strip_suffix(b"\n") {
        Some(line) => line.strip_suffix(b"\r").unwrap_or(line),
        None => bytes,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    #[test]
    fn one_line_ending_is_cut_off_and_every_other_byte_counts() {
        for (file, value) in [
            (&b"p"[..], &b"p"[..]),
            (b"p\n", b"p"),
            (b"p\r\n", b"p"),
            (b"p\n\n", b"p\n"),
            (b"p\r\r\n", b"p\r"),
            (b"p\r", b"p\r"),
            (b" p ", b" p "),
        ] {
            assert_eq!(without_line_ending(file), value);
        }
    }

    /// Many ask for the previous password, and one of them reads it; who is late can tell what is waited for.
    #[tokio::test]
    async fn a_look_at_a_file_serves_all_who_come_within_an_age() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("previous");
        std::fs::write(&path, "old").expect("a file");
        let file = OccasionalFile::open(path.clone()).expect("a value");
        std::fs::write(&path, "new").expect("a file");
        let hour = Duration::from_hours(1);
        let shown = async |age| file.recent(age).await.map(|secret| secret.expose().to_vec());
        assert_eq!(shown(hour).await.as_deref(), Some(&b"old"[..]));
        assert_eq!(shown(Duration::ZERO).await.as_deref(), Some(&b"new"[..]));
        std::fs::remove_file(&path).expect("a file");
        assert_eq!(shown(hour).await.as_deref(), Some(&b"new"[..]));
        assert_eq!(shown(Duration::ZERO).await, None);
        assert_eq!(file.being_read(), None);
        let _reading = file.0.looking.lock().await;
        assert_eq!(file.being_read(), Some(&*path));
    }

    #[tokio::test]
    async fn a_look_that_nobody_waits_for_any_more_is_still_the_only_one() {
        let file = Looked::new(PathBuf::from("file"), ());
        let (release, released) = std::sync::mpsc::channel::<()>();
        let look = |(), looking| async move {
            let reading = tokio::task::spawn_blocking(move || {
                let _ = released.recv();
                drop::<Looking>(looking);
            });
            drop(reading.await);
        };
        assert!(file.recent(Duration::ZERO, look).now_or_never().is_none());
        assert_eq!(file.looked_at(), Some(Path::new("file")));
        drop(release);
        drop(file.looking.lock().await);
        assert_eq!(file.looked_at(), None);
    }

    #[test]
    fn a_quoted_secret_is_masked_whole_cut_short_or_repeated() {
        let secret = Secret::new(b"hunter2hunter2".to_vec());
        assert_eq!(secret.mask("ERR unknown command 'hunter2hunter2'"), "ERR unknown command '***'");
        assert_eq!(secret.mask("ERR 'hunter2hu'"), "ERR '***'");
        assert_eq!(secret.mask("a hunter"), "a ***");
        assert_eq!(secret.mask("a hunt"), "a hunt");
        assert_eq!(Secret::new(b"abc".to_vec()).mask("xabcabx"), "x***abx");
        assert_eq!(Secret::new(b"a\nb\tcdefg".to_vec()).mask("ERR 'a b cdefg'"), "ERR '***'");
    }

    #[test]
    fn debug_shows_nothing() {
        assert!(!format!("{:?}", Secret::new(b"hunter2".to_vec())).contains("hunter"));
    }
}
