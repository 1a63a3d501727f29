//! What each link did lately: every five seconds for ten minutes, and every minute for an hour.
//!
//! The figures are read from the metrics, as a scrape would read them, so that nothing is counted for them on the way of bytes.
//! A link takes less than 8 KiB.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::{MissedTickBehavior, interval};

use super::Admin;

/// Between two samples.
pub(super) const EVERY: Duration = Duration::from_secs(5);

/// Samples of ten minutes.
pub(super) const SAMPLES: usize = 120;

const SAMPLES_A_MINUTE: usize = 12;
const MINUTES: usize = 60;

/// What a link did within one interval.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Sample {
    /// A second.
    pub(super) commands: f64,
    pub(super) errors: f64,
    /// In milliseconds, of those commands that were alone on their way; none without any.
    pub(super) median: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// How often something happened.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Events {
    /// Sessions that went on with another upstream.
    pub(super) exchanged: f64,
    /// Secrets that changed.
    pub(super) rotated: f64,
    /// Targets that moved.
    pub(super) moved: f64,
}

impl Events {
    fn plus(self, other: Self) -> Self {
        Self {
            exchanged: self.exchanged + other.exchanged,
            rotated: self.rotated + other.rotated,
            moved: self.moved + other.moved,
        }
    }
}

/// The history of one link.
#[derive(Debug, Default)]
pub(super) struct OfLink {
    totals: Totals,
    pub(super) samples: VecDeque<Sample>,
    /// The minute that is not over yet, and those before it.
    minute: Events,
    minutes: VecDeque<Events>,
}

impl OfLink {
    /// What has happened within the last hour.
    pub(super) fn hour(&self) -> Events {
        self.minutes.iter().fold(self.minute, |sum, minute| sum.plus(*minute))
    }

    fn take(&mut self, totals: Totals, is_minute: bool) {
        let since = |now: f64, before: f64| (now - before).max(0.0);
        let a_second = |now, before| since(now, before) / EVERY.as_secs_f64();
        let before = std::mem::replace(&mut self.totals, totals);
        let now = &self.totals;
        let buckets: Vec<_> =
            now.buckets.iter().map(|(bound, count)| (*bound, since(*count, before.bucket(*bound)))).collect();
        if self.samples.len() == SAMPLES {
            self.samples.pop_front();
        }
        self.samples.push_back(Sample {
            commands: a_second(now.commands, before.commands),
            errors: a_second(now.errors, before.errors),
            median: percentile(&buckets, 0.5),
            p99: percentile(&buckets, 0.99),
        });
        self.minute = self.minute.plus(Events {
            exchanged: since(now.exchanges, before.exchanges),
            rotated: since(now.reloads, before.reloads),
            moved: since(now.changes, before.changes),
        });
        if is_minute {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(std::mem::take(&mut self.minute));
        }
    }
}

/// The percentile in milliseconds, from cumulated counts: within a bucket every time is as likely as any other.
fn percentile(buckets: &[(f64, f64)], part: f64) -> Option<f64> {
    let (_, all) = *buckets.last()?;
    let wanted = all * part;
    let (mut low, mut below) = (0.0, 0.0);
    for (bound, count) in buckets.iter().copied().filter(|_| all > 0.0) {
        if count >= wanted && bound.is_finite() {
            let within = if count > below { (wanted - below) / (count - below) } else { 1.0 };
            return Some((low + (bound - low) * within) * 1e3);
        }
        if bound.is_finite() {
            (low, below) = (bound, count);
        }
    }
    // Longer than the last bound.
    (all > 0.0).then_some(low * 1e3)
}

/// What the metrics say of one link.
#[derive(Debug, Default, Clone, PartialEq)]
struct Totals {
    commands: f64,
    errors: f64,
    exchanges: f64,
    reloads: f64,
    changes: f64,
    /// Upper bounds in seconds, and how many were at most so long.
    buckets: Vec<(f64, f64)>,
}

impl Totals {
    fn bucket(&self, bound: f64) -> f64 {
        let of_bound = self.buckets.iter().find(|(known, _)| known.total_cmp(&bound).is_eq());
        of_bound.map_or(0.0, |(_, count)| *count)
    }

    /// Those of every link, from the text of a scrape.
    fn read(text: &str) -> BTreeMap<String, Self> {
        let mut links = BTreeMap::<String, Self>::new();
        for line in text.lines() {
            let Some((name, labels, value)) = series(line) else { continue };
            let Some(link) = label(labels, "link") else { continue };
            let of_link = links.entry(link.to_owned()).or_default();
            match name {
                "commands_total" => of_link.commands += value,
                "errors_total" => of_link.errors += value,
                "exchanges_total" => of_link.exchanges += value,
                "secret_reloads_total" => of_link.reloads += value,
                "target_changes_total" => of_link.changes += value,
                "command_seconds_bucket" => {
                    let bound = label(labels, "le").and_then(|bound| match bound {
                        "+Inf" => Some(f64::INFINITY),
                        bound => bound.parse().ok(),
                    });
                    of_link.buckets.extend(bound.map(|bound| (bound, value)));
                }
                _ => {}
            }
        }
        links
    }
}

/// The name without the prefix, the labels and the value of a line of the text format.
fn series(line: &str) -> Option<(&str, &str, f64)> {
    let (name, rest) = line.strip_prefix("redis_ambassador_")?.split_once('{')?;
    let (labels, value) = rest.rsplit_once("} ")?;
    Some((name, labels, value.parse().ok()?))
}

/// No name of a link has a quotation mark in it, nor has any other value that is looked for.
fn label<'a>(labels: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = labels.split_once(&format!("{name}=\""))?;
    rest.split('"').next()
}

/// The history of every link.
#[derive(Debug, Default)]
pub(super) struct History(Mutex<BTreeMap<String, OfLink>>);

impl History {
    /// Looks at what there is of a link.
    pub(super) fn of<T>(&self, link: &str, look: impl FnOnce(&OfLink) -> T) -> Option<T> {
        self.0.lock().get(link).map(look)
    }

    fn take(&self, text: &str, is_minute: bool) {
        let mut links = self.0.lock();
        for (link, totals) in Totals::read(text) {
            match links.get_mut(&link) {
                Some(known) => known.take(totals, is_minute),
                // The first look tells how much there was, and not since when.
                None => {
                    links.insert(link, OfLink { totals, ..OfLink::default() });
                }
            }
        }
    }
}

/// Takes a sample of every link, again and again. Never returns.
pub async fn keep(admin: Arc<Admin>) {
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    for number in 1_usize.. {
        ticks.tick().await;
        admin.history.take(&admin.metrics.text(), number.is_multiple_of(SAMPLES_A_MINUTE));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(commands: u64, fast: u64, slow: u64, exchanges: u64) -> String {
        let all = fast + slow;
        format!(
            "# HELP x\nredis_ambassador_commands_total{{link=\"redis:6379\"}} {commands}\n\
             redis_ambassador_errors_total{{link=\"redis:6379\",code=\"ERR\"}} 3\n\
             redis_ambassador_exchanges_total{{link=\"redis:6379\",cause=\"moved\"}} {exchanges}\n\
             redis_ambassador_command_seconds_bucket{{le=\"0.001\",link=\"redis:6379\"}} {fast}\n\
             redis_ambassador_command_seconds_bucket{{le=\"0.01\",link=\"redis:6379\"}} {all}\n\
             redis_ambassador_command_seconds_bucket{{le=\"+Inf\",link=\"redis:6379\"}} {all}\n"
        )
    }

    #[test]
    fn samples_are_what_came_since_the_one_before() {
        let history = History::default();
        history.take(&scrape(1000, 50, 0, 7), false);
        history.take(&scrape(1500, 150, 100, 9), true);
        let (samples, hour) =
            history.of("redis:6379", |of| (of.samples.clone(), of.hour())).expect("a history");
        let sample = samples[0];
        assert_eq!((samples.len(), sample.commands, sample.errors), (1, 100.0, 0.0));
        assert_eq!(sample.median.map(|median| (median * 10.0).round() / 10.0), Some(1.0));
        assert!(sample.p99.is_some_and(|p99| (9.0..10.0).contains(&p99)), "{sample:?}");
        assert_eq!(hour, Events { exchanged: 2.0, ..Events::default() });
    }

    #[test]
    fn no_more_is_kept_than_ten_minutes_and_an_hour() {
        let history = History::default();
        for number in 0..3_000 {
            history.take(&scrape(number * 10, number, 0, number), number.is_multiple_of(12));
        }
        let (samples, minutes, hour) = history
            .of("redis:6379", |of| (of.samples.len(), of.minutes.len(), of.hour()))
            .expect("a history");
        assert_eq!((samples, minutes), (SAMPLES, MINUTES));
        assert!((700.0..740.0).contains(&hour.exchanged), "{hour:?}");
        assert!(size_of::<Sample>() * SAMPLES + size_of::<Events>() * MINUTES < 8 * 1024);
    }
}
