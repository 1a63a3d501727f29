//! A histogram of times.
//!
//! The library's can't be read back, and the admin endpoint's history needs the counts between two looks. To observe a
//! time takes two additions, and no lock. Threads count apart: a cache line that two of them write to has to be fetched
//! from the other one's processor for every request.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// So many threads count apart; if there are more some share.
const SHARDS: usize = 8;

/// How many buckets there may be. With the sum they fill two cache lines.
const BUCKETS: usize = 15;

thread_local! {
    static SHARD: usize = {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS
    };
}

/// How many times were in each bucket; clones count together.
#[derive(Debug, Clone)]
pub struct Times(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Upper bounds in seconds, in ascending order.
    bounds: &'static [f64],
    shards: [Shard; SHARDS],
}

/// What some threads have observed. Processors fetch two lines of 64 bytes together.
#[derive(Debug, Default)]
#[repr(align(128))]
struct Shard {
    /// One for each bound, and one for what is longer.
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Times {
    /// Nothing observed yet. There are fewer than [`BUCKETS`] bounds.
    pub fn new(bounds: &'static [f64]) -> Self {
        assert!(bounds.len() < BUCKETS, "a bucket for each bound, and one for what is longer");
        Self(Arc::new(Counts { bounds, shards: Default::default() }))
    }

    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.0.bounds.iter().take_while(|bound| seconds > **bound).count();
        let shard = &self.0.shards[SHARD.with(|shard| *shard)];
        shard.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        shard.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The upper bounds in seconds.
    pub fn bounds(&self) -> &'static [f64] {
        self.0.bounds
    }

    /// How many times were in each bucket so far; the last one has no bound.
    pub fn counts(&self) -> Vec<u64> {
        let count = |bucket: usize| self.sum(|shard| &shard.buckets[bucket]);
        (0..=self.0.bounds.len()).map(count).collect()
    }

    fn sum(&self, count: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.0.shards.iter().map(|shard| count(shard).load(Ordering::Relaxed)).sum()
    }
}

impl TypedMetric for Times {
    const TYPE: MetricType = MetricType::Histogram;
}

impl EncodeMetric for Times {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let counts = self.counts();
        let count = counts.iter().sum();
        // The library adds the bucket without a bound.
        let buckets: Vec<_> = self.0.bounds.iter().copied().zip(counts).collect();
        let sum = Duration::from_nanos(self.sum(|shard| &shard.nanoseconds)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_longer_to_the_last() {
        let times = Times::new(&[0.001, 0.01]);
        // Each in a thread of its own, more than are counted apart.
        for milliseconds in [0, 1, 2, 10, 11, 1000, 0, 1, 2, 10] {
            let times = times.clone();
            let observed = thread::spawn(move || times.observe(Duration::from_millis(milliseconds)));
            observed.join().expect("it is counted");
        }
        assert_eq!(times.counts(), [4, 4, 2]);
        let mut registry = Registry::default();
        registry.register("times", "Times", times);
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("text");
        for line in [
            "times_sum 1.037",
            "times_count 10",
            "times_bucket{le=\"0.001\"} 4",
            "times_bucket{le=\"0.01\"} 8",
            "times_bucket{le=\"+Inf\"} 10",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        assert_eq!(text.matches("_bucket").count(), 3, "{text}");
    }
}
