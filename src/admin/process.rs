//! What every process has: memory, descriptors, processor time. The names are those of Prometheus' own clients.

use std::fmt;
use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use rustix::process::{Resource, getrlimit};
use rustix::time::{ClockId, clock_gettime};

use super::figures::number;

/// This process.
#[derive(Debug)]
pub struct ProcessCollector {
    started: SystemTime,
}

impl ProcessCollector {
    /// One that has just started.
    pub fn new() -> Self {
        Self { started: SystemTime::now() }
    }
}

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut gauge = |name: &str, help: &str, value: Option<f64>| match value {
            Some(value) => ConstGauge::new(value).encode(encoder.encode_descriptor(
                name,
                help,
                None,
                MetricType::Gauge,
            )?),
            None => Ok(()),
        };
        gauge("process_resident_memory_bytes", "Resident memory size in bytes.", resident_memory())?;
        gauge("process_open_fds", "Number of open file descriptors.", open_descriptors())?;
        let limit = getrlimit(Resource::Nofile).current.map(number);
        gauge("process_max_fds", "Maximum number of open file descriptors.", limit)?;
        let started = self.started.duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs_f64());
        gauge(
            "process_start_time_seconds",
            "Start time of the process since the unix epoch in seconds.",
            started,
        )?;
        let used = clock_gettime(ClockId::ProcessCPUTime);
        let seconds = std::time::Duration::try_from(used).unwrap_or_default().as_secs_f64();
        let help = "Total user and system processor time spent in seconds.";
        let counter = encoder.encode_descriptor("process_cpu_seconds", help, None, MetricType::Counter)?;
        ConstCounter::new(seconds).encode(counter)
    }
}

fn resident_memory() -> Option<f64> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let kilobytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix("kB"))?;
    Some(number(kilobytes.trim().parse::<u64>().ok()? * 1024))
}

/// As the size of their directory, or, before Linux 6.2, by looking at each.
fn open_descriptors() -> Option<f64> {
    let directory = "/proc/self/fd";
    match fs::metadata(directory).ok()?.len() {
        // One of them is the directory itself while it is read.
        0 => Some(number((fs::read_dir(directory).ok()?.count() as u64).saturating_sub(1))),
        size => Some(number(size)),
    }
}
