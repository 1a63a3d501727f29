//! A histogram of times.
//!
//! The library's can't be read back, and the admin endpoint's history needs the counts between two looks. To observe a
//! time takes two additions, and no lock.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::{MetricType, TypedMetric};

/// How many times were in each bucket; clones count together.
#[derive(Debug, Clone)]
pub struct Times(Arc<Counts>);

#[derive(Debug)]
struct Counts {
    /// Upper bounds in seconds, in ascending order.
    bounds: &'static [f64],
    /// One for each bound, and one for what is longer.
    buckets: Box<[AtomicU64]>,
    nanoseconds: AtomicU64,
}

impl Times {
    /// Nothing observed yet.
    pub fn new(bounds: &'static [f64]) -> Self {
        let buckets = (0..=bounds.len()).map(|_| AtomicU64::new(0)).collect();
        Self(Arc::new(Counts { bounds, buckets, nanoseconds: AtomicU64::new(0) }))
    }

    /// Counts a time.
    pub fn observe(&self, time: Duration) {
        let seconds = time.as_secs_f64();
        let bucket = self.0.bounds.iter().take_while(|bound| seconds > **bound).count();
        self.0.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.0.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// The upper bounds in seconds.
    pub fn bounds(&self) -> &'static [f64] {
        self.0.bounds
    }

    /// How many times were in each bucket so far; the last one has no bound.
    pub fn counts(&self) -> Vec<u64> {
        self.0.buckets.iter().map(|count| count.load(Ordering::Relaxed)).collect()
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
        let sum = Duration::from_nanos(self.0.nanoseconds.load(Ordering::Relaxed)).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        Self::TYPE
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::encoding::prometheus_text;
    use prometheus_client::registry::Registry;

    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket_and_what_is_longer_to_the_last() {
        let times = Times::new(&[0.001, 0.01]);
        for milliseconds in [0, 1, 2, 10, 11, 1000] {
            times.observe(Duration::from_millis(milliseconds));
        }
        assert_eq!(times.counts(), [2, 2, 2]);
        let mut registry = Registry::default();
        registry.register("times", "Times", times);
        let mut text = String::new();
        prometheus_text::encode(&mut text, &registry).expect("text");
        for line in [
            "times_sum 1.024",
            "times_count 6",
            "times_bucket{le=\"0.001\"} 2",
            "times_bucket{le=\"0.01\"} 4",
            "times_bucket{le=\"+Inf\"} 6",
        ] {
            assert!(text.lines().any(|told| told == line), "{line}: {text}");
        }
        assert_eq!(text.matches("_bucket").count(), 3, "{text}");
    }
}
