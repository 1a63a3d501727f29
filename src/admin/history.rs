//! What each link did lately: every five seconds for ten minutes, and every minute for an hour.
//!
//! One task looks at what the links count anyway, so that nothing is done for it on the way of bytes. A link takes less than
//! 8 KiB.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use serde::Serialize;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::Admin;
use super::figures::number;
use crate::upstream::LinkRuntime;

/// The time between two samples.
const EVERY: Duration = Duration::from_secs(5);

/// The samples of ten minutes.
const SAMPLES: usize = 120;

const SAMPLES_A_MINUTE: u64 = 12;
const MINUTES: usize = 60;

/// What a link did between two looks.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    /// A second.
    pub(super) commands: f32,
    /// A second.
    pub(super) errors: f32,
    /// In milliseconds, of the commands that were alone on their way; none without any.
    pub(super) p50: Option<f32>,
    pub(super) p99: Option<f32>,
    /// At that time.
    pub(super) clients: u32,
}

/// How often something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub(super) struct Events {
    /// Sessions that went on with another upstream.
    pub(super) exchanged: u64,
    /// Secrets that changed.
    pub(super) rotated: u64,
    /// Changes of the backends.
    pub(super) moved: u64,
}

impl Events {
    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            exchanged: self.exchanged + other.exchanged,
            rotated: self.rotated + other.rotated,
            moved: self.moved + other.moved,
        }
    }

    fn since(self, before: Self) -> Self {
        Self {
            exchanged: self.exchanged.saturating_sub(before.exchanged),
            rotated: self.rotated.saturating_sub(before.rotated),
            moved: self.moved.saturating_sub(before.moved),
        }
    }
}

/// What a link has counted so far.
#[derive(Debug, Clone, Default)]
struct Totals {
    commands: u64,
    errors: u64,
    clients: usize,
    events: Events,
    /// The upper bounds of times in seconds, and how many were in each bucket.
    bounds: &'static [f64],
    times: Vec<u64>,
}

impl Totals {
    fn of(service: &LinkRuntime) -> Self {
        let LinkRuntime { connections, metrics, .. } = service;
        Self {
            commands: connections.moved().commands,
            errors: metrics.session.errors(),
            clients: connections.count(),
            events: Events {
                exchanged: metrics.session.exchanges(),
                rotated: metrics.secret_reloads(),
                moved: metrics.target_changes(),
            },
            bounds: metrics.session.command_seconds.bounds(),
            times: metrics.session.command_seconds.counts(),
        }
    }
}

/// The history of one link.
#[derive(Debug, Default)]
struct OfLink {
    totals: Totals,
    samples: VecDeque<Sample>,
    /// The minute that is not over yet, and those before it.
    minute: Events,
    minutes: VecDeque<Events>,
}

impl OfLink {
    fn last_hour(&self) -> Events {
        self.minutes.iter().fold(self.minute, |sum, minute| sum.plus(*minute))
    }

    #[expect(clippy::cast_possible_truncation, reason = "a figure for people has few digits")]
    fn take(&mut self, totals: Totals, since: Duration, is_minute: bool) {
        let before = std::mem::replace(&mut self.totals, totals);
        let now = &self.totals;
        let a_second = |now: u64, before| (number(now.saturating_sub(before)) / since.as_secs_f64()) as f32;
        let times: Vec<_> =
            now.times.iter().zip(&before.times).map(|(now, before)| now.saturating_sub(*before)).collect();
        let milliseconds = |part| percentile(now.bounds, &times, part).map(|seconds| (seconds * 1e3) as f32);
        let sample = Sample {
            commands: a_second(now.commands, before.commands),
            errors: a_second(now.errors, before.errors),
            p50: milliseconds(0.5),
            p99: milliseconds(0.99),
            clients: u32::try_from(now.clients).unwrap_or(u32::MAX),
        };
        push(&mut self.samples, sample, SAMPLES);
        self.minute = self.minute.plus(now.events.since(before.events));
        if is_minute {
            push(&mut self.minutes, std::mem::take(&mut self.minute), MINUTES);
        }
    }
}

/// At most so many are kept.
fn push<T>(kept: &mut VecDeque<T>, item: T, most: usize) {
    if kept.len() == most {
        kept.pop_front();
    }
    kept.push_back(item);
}

/// Within a bucket every time is as likely as any other; beyond the last bound that bound stands for all.
fn percentile(bounds: &[f64], counts: &[u64], part: f64) -> Option<f64> {
    let all: u64 = counts.iter().sum();
    if all == 0 {
        return None;
    }
    let wanted = number(all) * part;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in bounds.iter().zip(counts) {
        let count = number(*count);
        if count > 0.0 && below + count >= wanted {
            return Some(low + (bound - low) * (wanted - below) / count);
        }
        (low, below) = (*bound, below + count);
    }
    Some(low)
}

/// The history of every link, in their order.
#[derive(Debug)]
pub(super) struct History(Mutex<Taken>);

#[derive(Debug)]
struct Taken {
    /// How many samples have been taken.
    number: u64,
    at: Instant,
    links: Vec<OfLink>,
}

/// The JSON of `/history`.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// The time between two samples.
    every_seconds: u64,
    /// How many samples have been taken since the start; the last one of each list is the newest.
    taken: u64,
    links: Vec<LinkReport>,
}

#[derive(Debug, Serialize)]
struct LinkReport {
    link: String,
    /// A second.
    commands: Vec<f32>,
    errors: Vec<f32>,
    p50_ms: Vec<Option<f32>>,
    p99_ms: Vec<Option<f32>>,
    clients: Vec<u32>,
    last_hour: Events,
}

impl History {
    /// From now on.
    pub(super) fn of(services: &[(String, Arc<LinkRuntime>)]) -> Self {
        let begin = |(_, service): &(_, Arc<LinkRuntime>)| OfLink {
            totals: Totals::of(service),
            ..OfLink::default()
        };
        let links = services.iter().map(begin).collect();
        Self(Mutex::new(Taken { number: 0, at: Instant::now(), links }))
    }

    /// The last sample of each link, and what happened within the hour.
    pub(super) fn last(&self) -> Vec<(Sample, Events)> {
        let taken = self.0.lock();
        let last = |of: &OfLink| (of.samples.back().copied().unwrap_or_default(), of.last_hour());
        taken.links.iter().map(last).collect()
    }

    /// What was taken after so many samples.
    pub(super) fn report(&self, names: impl Iterator<Item = String>, after: u64) -> Report {
        let taken = self.0.lock();
        let new = usize::try_from(taken.number.saturating_sub(after)).unwrap_or(SAMPLES);
        let links = names.zip(&taken.links).map(|(link, of)| {
            let samples = of.samples.range(of.samples.len().saturating_sub(new)..);
            LinkReport {
                link,
                commands: samples.clone().map(|sample| rounded(sample.commands)).collect(),
                errors: samples.clone().map(|sample| rounded(sample.errors)).collect(),
                p50_ms: samples.clone().map(|sample| sample.p50.map(rounded)).collect(),
                p99_ms: samples.clone().map(|sample| sample.p99.map(rounded)).collect(),
                clients: samples.map(|sample| sample.clients).collect(),
                last_hour: of.last_hour(),
            }
        });
        Report { every_seconds: EVERY.as_secs(), taken: taken.number, links: links.collect() }
    }

    fn take(&self, totals: impl Iterator<Item = Totals>, now: Instant) {
        let mut taken = self.0.lock();
        taken.number += 1;
        let since = now.saturating_duration_since(taken.at).max(Duration::from_millis(1));
        taken.at = now;
        let is_minute = taken.number.is_multiple_of(SAMPLES_A_MINUTE);
        for (of, totals) in taken.links.iter_mut().zip(totals) {
            of.take(totals, since, is_minute);
        }
    }
}

/// To a microsecond, or a thousandth of a command.
pub(super) fn rounded(figure: f32) -> f32 {
    (figure * 1e3).round() / 1e3
}

/// Takes a sample of every link, again and again. Never returns.
pub async fn keep(admin: Arc<Admin>) {
    let mut ticks = interval(EVERY);
    // A late one is no reason for another right behind it.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        admin.history.take(admin.links.iter().map(|(_, service)| Totals::of(service)), Instant::now());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: &[f64] = &[0.001, 0.01];

    fn totals(commands: u64, times: [u64; 3], exchanged: u64) -> Totals {
        Totals {
            commands,
            errors: 3,
            clients: 2,
            events: Events { exchanged, ..Events::default() },
            bounds: BOUNDS,
            times: times.to_vec(),
        }
    }

    fn history(totals: Totals) -> History {
        let links = vec![OfLink { totals, ..OfLink::default() }];
        History(Mutex::new(Taken { number: 0, at: Instant::now(), links }))
    }

    fn take(history: &History, totals: Totals) {
        let at = history.0.lock().at;
        history.take([totals].into_iter(), at + EVERY);
    }

    #[test]
    fn a_sample_is_what_came_since_the_one_before() {
        let history = history(totals(1000, [50, 0, 0], 7));
        take(&history, totals(1500, [150, 100, 0], 9));
        let (sample, hour) = history.last()[0];
        assert_eq!((sample.commands, sample.errors, sample.clients), (100.0, 0.0, 2));
        assert_eq!(sample.p50.map(rounded), Some(1.0));
        assert!(sample.p99.is_some_and(|p99| (9.0..10.0).contains(&p99)), "{sample:?}");
        assert_eq!(hour, Events { exchanged: 2, ..Events::default() });
        take(&history, totals(1500, [150, 100, 0], 9));
        assert_eq!(history.last()[0].0, Sample { clients: 2, ..Sample::default() });
    }

    #[test]
    fn a_time_beyond_every_bound_counts_as_the_last_one() {
        assert_eq!(percentile(BOUNDS, &[0, 0, 1], 0.5), Some(0.01));
        assert_eq!(percentile(BOUNDS, &[0, 0, 0], 0.5), None);
        assert_eq!(percentile(BOUNDS, &[0, 2, 0], 0.0), Some(0.001));
    }

    #[test]
    fn no_more_is_kept_than_ten_minutes_and_an_hour() {
        let history = history(totals(0, [0; 3], 0));
        for number in 1..3_000 {
            take(&history, totals(number * 10, [number, 0, 0], number));
        }
        {
            let taken = history.0.lock();
            let of = &taken.links[0];
            assert_eq!((of.samples.len(), of.minutes.len()), (SAMPLES, MINUTES));
            let size =
                of.samples.capacity() * size_of::<Sample>() + of.minutes.capacity() * size_of::<Events>();
            assert!(size < 8 * 1024, "{size}");
        }
        let (_, hour) = history.last()[0];
        assert!((720..=732).contains(&hour.exchanged), "{hour:?}");
    }

    #[test]
    fn only_what_is_new_is_told() {
        let history = history(totals(0, [0; 3], 0));
        for number in 1..200 {
            take(&history, totals(number * 10, [number, 0, 0], number));
        }
        let told = |after| {
            let report = history.report(["redis:6379".to_owned()].into_iter(), after);
            assert_eq!(report.taken, 199);
            report.links[0].commands.len()
        };
        assert_eq!([0, 198, 199, 5_000].map(told), [SAMPLES, 1, 0, 0]);
    }
}
