//! Values that come from files, which are read again when the files have changed and somebody asks.
//!
//! Files that can't be read leave the last value in force; so does a file system that hangs, after half a second. One
//! thread looks at a time, whoever asks, and what it finds serves all who had asked before it began.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::files;

/// How long a look is waited for: far longer than any file system takes that works.
const PATIENCE: Duration = Duration::from_millis(500);

/// How long changed files must have been left alone before what is new in them serves. Writing in place empties a file
/// first and may take several writes, and a certificate is followed by its key. A dial can wait for this.
const SETTLED: Duration = Duration::from_millis(50);

/// How often files are read that go on changing, or have just become useless, before they are taken as they are.
/// Together this takes far less than the patience.
const READS: usize = 5;

/// Two writes within this time can leave the same stamp: the clocks of some file systems know only seconds.
const STAMPS_DIFFER: Duration = Duration::from_secs(2);

/// Looks at files, on a thread that may be held up: another value than the last one, `None` if they still hold that, or why
/// they hold none.
type Look<T> = dyn FnMut(&T) -> Result<Option<T>, Failure> + Send;

/// Why files hold no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure {
    /// What is wrong.
    pub reason: String,
    /// What to do about it, where the reason does not say so.
    pub remedy: Option<String>,
}

impl Failure {
    /// A file that was replaced on the host, while what is mounted here goes on to be the old one.
    fn of_replaced(path: &Path) -> Self {
        Self {
            reason: format!("{} was replaced, and the old file is still mounted here", path.display()),
            remedy: Some(
                "restart the container, or mount the file's directory instead of the file".to_owned(),
            ),
        }
    }

    fn of_file_system() -> Self {
        Self {
            reason: "the file system does not answer".to_owned(),
            remedy: Some("check the disk or the server that holds it".to_owned()),
        }
    }
}

impl From<String> for Failure {
    fn from(reason: String) -> Self {
        Self { reason, remedy: None }
    }
}

/// What happens to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another one serves from now on.
    Changed,
    /// The files hold none any more, for this reason; the last one serves on.
    Failed(&'a Failure),
    /// The files hold one again.
    Recovered,
}

/// A value that files hold.
pub struct Reloading<T> {
    shared: Arc<Shared<T>>,
    /// What there are no files for never changes.
    is_fixed: bool,
}

struct Shared<T> {
    latest: watch::Sender<Latest<T>>,
    progress: Mutex<Progress>,
    /// Locked by the one thread that looks.
    look: Mutex<Box<Look<T>>>,
    report: Box<dyn Fn(Event<'_>) + Send + Sync>,
}

struct Latest<T> {
    value: Arc<T>,
    /// When the look began that found it.
    at: Instant,
    /// The number of that look.
    look: u64,
    failure: Option<Failure>,
}

#[derive(Default)]
struct Progress {
    /// Looks that have begun.
    begun: u64,
    /// Since when one is under way.
    since: Option<Instant>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// A value that has just been read from these files. `read` reads them all: another value than the last one, `None`
    /// if they still hold that, or why they hold none. `report` tells the log what happens to the value, each time once.
    pub fn new(
        paths: impl IntoIterator<Item = PathBuf>,
        first: T,
        read: impl Fn(&T) -> Result<Option<T>, Failure> + Send + 'static,
        report: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Self {
        let mut files = Files { paths: paths.into_iter().collect(), read_at: None, failure: None };
        let is_fixed = files.paths.is_empty();
        Self { is_fixed, ..Self::looking(first, move |last: &T| files.look(|| read(last)), report) }
    }

    fn looking(
        first: T,
        look: impl FnMut(&T) -> Result<Option<T>, Failure> + Send + 'static,
        report: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Self {
        let latest = Latest { value: Arc::new(first), at: Instant::now(), look: 0, failure: None };
        let shared = Shared {
            latest: watch::Sender::new(latest),
            progress: Mutex::default(),
            look: Mutex::new(Box::new(look)),
            report: Box::new(report),
        };
        Self { shared: Arc::new(shared), is_fixed: false }
    }

    /// What was found last, without another look.
    pub fn last(&self) -> Arc<T> {
        Arc::clone(&self.shared.latest.borrow().value)
    }

    /// Why the files hold no value, if that is so.
    pub fn failure(&self) -> Option<Failure> {
        self.shared.latest.borrow().failure.clone()
    }

    /// What the files hold now, or held when they could last be read.
    pub async fn current(&self) -> Arc<T> {
        self.recent(Duration::ZERO).await
    }

    /// What a look found or finds that is no older than `age`.
    pub async fn recent(&self, age: Duration) -> Arc<T> {
        let mut latest = self.shared.latest.subscribe();
        if self.is_fixed || latest.borrow_and_update().at.elapsed() < age {
            return self.last();
        }
        // One that is under way may have looked already.
        let wanted = self.shared.progress.lock().begun + 1;
        while latest.borrow_and_update().look < wanted {
            let since = self.shared.begin();
            if timeout_at(since + PATIENCE, latest.changed()).await.is_err() {
                self.shared.fail(Failure::of_file_system());
                break;
            }
        }
        self.last()
    }
}

impl<T: Send + Sync + 'static> Shared<T> {
    /// Begins a look unless one is under way; returns when it began.
    fn begin(self: &Arc<Self>) -> Instant {
        let mut progress = self.progress.lock();
        if let Some(since) = progress.since {
            return since;
        }
        let at = Instant::now();
        progress.since = Some(at);
        progress.begun += 1;
        let number = progress.begun;
        let shared = Arc::clone(self);
        // A task of its own: it goes on though whoever began it waits no longer.
        tokio::spawn(async move {
            let (looking, last) = (Arc::clone(&shared), Arc::clone(&shared.latest.borrow().value));
            let look = move || (looking.look.lock())(&last);
            let found = files::offload(look).await;
            let found = found.unwrap_or_else(|| Err(files::NO_THREAD.to_owned().into()));
            shared.end(number, at, found);
        });
        at
    }

    fn end(&self, number: u64, at: Instant, found: Result<Option<T>, Failure>) {
        let found = found.map_err(|failure| self.fail(failure));
        self.progress.lock().since = None;
        self.latest.send_modify(|latest| {
            latest.look = number;
            latest.at = at;
            let Ok(other) = found else { return };
            if latest.failure.take().is_some() {
                (self.report)(Event::Recovered);
            }
            if let Some(other) = other {
                latest.value = Arc::new(other);
                (self.report)(Event::Changed);
            }
        });
    }

    fn fail(&self, failure: Failure) {
        self.latest.send_if_modified(|latest| {
            if latest.failure.as_ref() != Some(&failure) {
                (self.report)(Event::Failed(&failure));
            }
            latest.failure = Some(failure);
            // Nobody waits for that.
            false
        });
    }
}

/// Files that belong together.
struct Files {
    paths: Vec<PathBuf>,
    /// Their stamps before they were last read; `None` where another look has to read them in any case.
    read_at: Option<Vec<Stamp>>,
    /// Why that gave no value, if it did not.
    failure: Option<Failure>,
}

impl Files {
    /// Reads them if they have changed, once they have settled.
    fn look<T>(
        &mut self,
        mut read: impl FnMut() -> Result<Option<T>, Failure>,
    ) -> Result<Option<T>, Failure> {
        let mut stamps = self.stamps();
        if stamps.is_some() && stamps == self.read_at {
            return self.failure.clone().map_or(Ok(None), Err);
        }
        let mut read = || match read() {
            // Nothing can change in it any more.
            Ok(None) => match self.paths.iter().find(|path| has_no_name(path)) {
                Some(replaced) => Err(Failure::of_replaced(replaced)),
                None => Ok(None),
            },
            found => found,
        };
        let mut found = read();
        for _ in 1..READS {
            // The value that is in force, or a failure that has been told: there is nothing to wait for.
            if matches!(found, Ok(None)) || (found.is_err() && self.failure.is_some()) {
                break;
            }
            sleep(SETTLED);
            let before = std::mem::replace(&mut stamps, self.stamps());
            if found.is_ok() && stamps == before {
                break;
            }
            found = read();
        }
        self.read_at = stamps.filter(|stamps| !stamps.iter().any(Stamp::is_fresh));
        self.failure = found.as_ref().err().cloned();
        found
    }

    fn stamps(&self) -> Option<Vec<Stamp>> {
        self.paths.iter().map(|path| Stamp::of(path)).collect()
    }
}

/// Whether the file has no name left, which only a mount of it can still lead to.
fn has_no_name(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|data| data.nlink() == 0)
}

/// What changes whenever a file does: which file it is (a rename, a link that was turned), its size, its times.
#[derive(Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    /// `None` where there is no file, or none that can be read. It is opened, since NFS tells only then how the file is
    /// now, and else how it was up to a minute ago.
    fn of(path: &Path) -> Option<Self> {
        let data = files::open(path).ok()?.metadata().ok()?;
        Some(Self {
            file: (data.dev(), data.ino()),
            size: data.size(),
            modified: (data.mtime(), data.mtime_nsec()),
            changed: (data.ctime(), data.ctime_nsec()),
        })
    }

    /// Whether a write that comes now could leave this same stamp behind.
    fn is_fresh(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let changed = Duration::from_secs(u64::try_from(self.changed.0).unwrap_or_default());
        now.saturating_sub(changed) < STAMPS_DIFFER
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use futures_util::FutureExt;

    use super::*;

    const NOW: Duration = Duration::ZERO;

    type Found = Result<Option<u32>, String>;

    /// A value, what it is read from, and what happens to it.
    fn reloading() -> (Reloading<u32>, mpsc::Sender<Found>, mpsc::Receiver<String>) {
        let (files, found) = mpsc::channel();
        let (events, told) = mpsc::channel();
        let look = move |_: &u32| {
            let found = found.recv().unwrap_or_else(|_| Err("gone".to_owned()));
            found.map_err(Failure::from)
        };
        let report = move |event: Event<'_>| {
            let event = match event {
                Event::Failed(failure) => format!("Failed({:?})", failure.reason),
                other => format!("{other:?}"),
            };
            events.send(event).expect("somebody listens");
        };
        (Reloading::looking(1, look, report), files, told)
    }

    fn told(events: &mpsc::Receiver<String>) -> Vec<String> {
        events.try_iter().collect()
    }

    #[tokio::test]
    async fn the_last_value_serves_while_there_is_none_and_each_change_is_told_once() {
        let (value, files, events) = reloading();
        let found = [Ok(None), Ok(Some(2)), Err("a"), Err("a"), Err("b"), Err("b"), Ok(None), Ok(None)];
        for (found, serves) in found.into_iter().zip([1, 2, 2, 2, 2, 2, 2, 2]) {
            files.send(found.map_err(str::to_owned)).expect("a look");
            assert_eq!(*value.recent(NOW).await, serves);
        }
        assert_eq!(told(&events), ["Changed", "Failed(\"a\")", "Failed(\"b\")", "Recovered"]);
        assert_eq!(value.failure(), None);
    }

    #[tokio::test]
    async fn a_look_serves_all_who_come_within_an_age() {
        let (value, files, _events) = reloading();
        files.send(Ok(Some(2))).expect("a look");
        assert_eq!(*value.recent(Duration::from_hours(1)).await, 1);
        assert_eq!(*value.recent(NOW).await, 2);
        assert_eq!(*value.recent(Duration::from_hours(1)).await, 2);
    }

    #[tokio::test]
    async fn what_hangs_is_waited_for_once_and_not_for_long() {
        let (value, files, events) = reloading();
        let begun = Instant::now();
        assert_eq!(*value.recent(NOW).await, 1);
        assert!(begun.elapsed() >= PATIENCE);
        // Whoever comes later does not wait again.
        assert_eq!(value.recent(NOW).now_or_never().map(|value| *value), Some(1));
        files.send(Ok(Some(2))).expect("a look");
        while value.failure().is_some() {
            tokio::task::yield_now().await;
        }
        files.send(Ok(Some(3))).expect("another one");
        assert_eq!(*value.recent(NOW).await, 3);
        assert_eq!(
            told(&events),
            ["Failed(\"the file system does not answer\")", "Recovered", "Changed", "Changed"]
        );
    }

    #[tokio::test]
    async fn whoever_comes_while_somebody_looks_waits_for_the_next_look() {
        let (value, files, _events) = reloading();
        let first = value.recent(NOW);
        tokio::pin!(first);
        assert!(first.as_mut().now_or_never().is_none());
        let second = value.recent(NOW);
        files.send(Ok(Some(2))).expect("a look");
        files.send(Ok(Some(3))).expect("another one");
        let (first, second) = tokio::join!(first, second);
        assert_eq!((*first, *second), (2, 3));
    }

    #[test]
    fn files_that_become_useless_are_given_a_moment_once() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("file");
        std::fs::write(&path, "held").expect("a file");
        let mut files = Files { paths: vec![path], read_at: None, failure: None };
        let useless = || Err(Failure::from("useless".to_owned()));
        let mut look = |found: Vec<Result<Option<u32>, Failure>>| {
            let mut found = found.into_iter();
            let looked = files.look(|| found.next().expect("no more than these reads"));
            assert_eq!(found.len(), 0, "fewer reads");
            looked
        };
        // A certificate whose key comes a moment later.
        assert_eq!(look(vec![useless(), useless(), Ok(Some(2))]), Ok(Some(2)));
        assert_eq!(look(vec![Ok(None)]), Ok(None));
        assert_eq!(look(vec![useless(); READS]), useless());
        assert_eq!(look(vec![useless()]), useless());
        assert_eq!(look(vec![Ok(None)]), Ok(None));
    }
}
