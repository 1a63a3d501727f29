//! Values that come from files, which are read again when somebody asks.
//!
//! Files that can't be read leave the last value in force; so does a file system that hangs, after half a second. One
//! thread looks at a time, whoever asks, and what it finds serves all who had asked before it began.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::files;

/// How long a look is waited for: far longer than any file system takes that works.
const PATIENCE: Duration = Duration::from_millis(500);

/// Looks at files, on a thread that may be held up: another value than the last one, `None` if they still hold that, or why
/// they hold none.
type Look<T> = dyn FnMut(&T) -> Result<Option<T>, String> + Send;

/// What happens to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event<'a> {
    /// Another one serves from now on.
    Changed,
    /// The files hold none any more, for this reason; the last one serves on.
    Failed(&'a str),
    /// The files hold one again.
    Recovered,
}

/// A value that files hold.
pub struct Reloading<T> {
    shared: Arc<Shared<T>>,
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
    failure: Option<String>,
}

#[derive(Default)]
struct Progress {
    /// Looks that have begun.
    begun: u64,
    /// Since when one is under way.
    since: Option<Instant>,
}

impl<T: Send + Sync + 'static> Reloading<T> {
    /// A value that has just been read. `report` tells the log what happens to it, each time once.
    pub fn new(
        first: T,
        look: impl FnMut(&T) -> Result<Option<T>, String> + Send + 'static,
        report: impl Fn(Event<'_>) + Send + Sync + 'static,
    ) -> Self {
        let latest = Latest { value: Arc::new(first), at: Instant::now(), look: 0, failure: None };
        let shared = Shared {
            latest: watch::Sender::new(latest),
            progress: Mutex::default(),
            look: Mutex::new(Box::new(look)),
            report: Box::new(report),
        };
        Self { shared: Arc::new(shared) }
    }

    /// What was found last, without another look.
    pub fn last(&self) -> Arc<T> {
        Arc::clone(&self.shared.latest.borrow().value)
    }

    /// Why the files hold no value, if that is so.
    pub fn failure(&self) -> Option<String> {
        self.shared.latest.borrow().failure.clone()
    }

    /// What a look found or finds that is no older than `age`.
    pub async fn recent(&self, age: Duration) -> Arc<T> {
        let mut latest = self.shared.latest.subscribe();
        if latest.borrow_and_update().at.elapsed() < age {
            return self.last();
        }
        // One that is under way may have looked already.
        let wanted = self.shared.progress.lock().begun + 1;
        while latest.borrow_and_update().look < wanted {
            let since = self.shared.begin();
            if timeout_at(since + PATIENCE, latest.changed()).await.is_err() {
                self.shared.fail("the file system does not answer".to_owned());
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
            let found = files::away(look).await.unwrap_or_else(|| Err(files::NO_THREAD.to_owned()));
            shared.end(number, at, found);
        });
        at
    }

    fn end(&self, number: u64, at: Instant, found: Result<Option<T>, String>) {
        let found = found.map_err(|reason| self.fail(reason));
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

    fn fail(&self, reason: String) {
        self.latest.send_if_modified(|latest| {
            if latest.failure.is_none() {
                (self.report)(Event::Failed(&reason));
            }
            latest.failure = Some(reason);
            // Nobody waits for that.
            false
        });
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
        let look = move |_: &u32| found.recv().unwrap_or_else(|_| Err("gone".to_owned()));
        let report = move |event: Event<'_>| events.send(format!("{event:?}")).expect("somebody listens");
        (Reloading::new(1, look, report), files, told)
    }

    fn told(events: &mpsc::Receiver<String>) -> Vec<String> {
        events.try_iter().collect()
    }

    #[tokio::test]
    async fn the_last_value_serves_while_there_is_none_and_each_change_is_told_once() {
        let (value, files, events) = reloading();
        for (found, serves) in [(Ok(None), 1), (Ok(Some(2)), 2), (Err("a"), 2), (Err("b"), 2), (Ok(None), 2)]
        {
            files.send(found.map_err(str::to_owned)).expect("a look");
            assert_eq!(*value.recent(NOW).await, serves);
        }
        assert_eq!(told(&events), ["Changed", "Failed(\"a\")", "Recovered"]);
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
}
