//! Every figure of every round, and what is read out of them.

use serde::Serialize;

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    RequestRate,
    ConnectionRate,
    Median,
    P99,
    RequestCpu,
    RedisCpu,
    ConnectionCpu,
    Resumed,
    ConnectionMemory,
    ProcessMemory,
    StreamRate,
    StreamCpu,
    Listening,
    FirstReply,
    ResidentMemory,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    Less,
    More,
}

impl Metric {
    pub fn title(self) -> &'static str {
        match self {
            Self::RequestRate | Self::ConnectionRate | Self::StreamRate => "Throughput",
            Self::Median => "Latency, median (p50)",
            Self::P99 => "Latency, 99th percentile (p99)",
            Self::RequestCpu => "Processor time of the proxy a request",
            Self::RedisCpu => "Processor time of Redis a request",
            Self::ConnectionCpu => "Processor time of the proxy a connection",
            Self::Resumed => "Handshakes that resumed a session",
            Self::ConnectionMemory => "Memory an idle connection",
            Self::ProcessMemory => "Memory of the proxy",
            Self::StreamCpu => "Processor time of the proxy a gigabyte",
            Self::Listening => "From exec to listening",
            Self::FirstReply => "From exec to the first reply from Redis",
            Self::ResidentMemory => "Resident memory after the first reply",
        }
    }

    pub fn unit(self) -> &'static str {
        match self {
            Self::RequestRate => "requests/s",
            Self::ConnectionRate => "connections/s",
            Self::Median | Self::P99 | Self::RequestCpu | Self::RedisCpu | Self::ConnectionCpu => "µs",
            Self::Resumed => "%",
            Self::ConnectionMemory => "KiB",
            Self::ProcessMemory | Self::ResidentMemory => "MiB",
            Self::StreamRate => "Gbit/s",
            Self::StreamCpu | Self::Listening | Self::FirstReply => "ms",
        }
    }

    pub fn better(self) -> Better {
        match self {
            Self::RequestRate | Self::ConnectionRate | Self::StreamRate | Self::Resumed => Better::More,
            _ => Better::Less,
        }
    }
}

/// One figure of one round.
#[derive(Serialize)]
pub struct Sample {
    workload: &'static str,
    case: String,
    peer: &'static str,
    metric: Metric,
    round: usize,
    value: f64,
}

/// Median and spread over the rounds.
#[derive(Clone, Copy)]
pub struct Summary {
    pub median: f64,
    pub min: f64,
    pub max: f64,
}

impl Summary {
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let middle = sorted.len() / 2;
        let median = if sorted.len() % 2 == 1 {
            sorted[middle]
        } else {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        };
        Some(Self { median, min, max })
    }
}

/// Something that could not be measured.
#[derive(Serialize)]
struct Failure {
    workload: &'static str,
    peer: &'static str,
    case: String,
    reason: String,
}

#[derive(Default, Serialize)]
pub struct Results {
    samples: Vec<Sample>,
    failures: Vec<Failure>,
}

/// One cell of one round.
pub struct Cell<'a> {
    pub workload: &'static str,
    pub case: &'a str,
    pub peer: &'static str,
    pub round: usize,
}

impl Results {
    /// Takes the figures of one cell, or why there are none.
    pub fn record(&mut self, cell: &Cell<'_>, figures: anyhow::Result<Vec<(Metric, f64)>>) {
        match figures {
            Ok(figures) => {
                for (metric, value) in figures {
                    let Cell { workload, case, peer, round } = *cell;
                    self.samples.push(Sample { workload, case: case.to_owned(), peer, metric, round, value });
                }
            }
            Err(error) => {
                let Cell { workload, case, peer, .. } = *cell;
                let reason = format!("{error:#}");
                eprintln!("  {peer}, {case}: {reason}");
                self.failures.push(Failure { workload, peer, case: case.to_owned(), reason });
            }
        }
    }

    /// What could not be measured: one line a peer and workload, with the first of its reasons.
    pub fn failures(&self) -> Vec<String> {
        let mut lines = Vec::new();
        let mut seen = Vec::new();
        for Failure { workload, peer, case, reason } in &self.failures {
            if !seen.contains(&(workload, peer)) {
                seen.push((workload, peer));
                let times = self
                    .failures
                    .iter()
                    .filter(|other| (&other.workload, &other.peer) == (workload, peer))
                    .count();
                lines.push(format!(
                    "{peer} could not be measured in {workload}, {case}: {reason} ({times} such cells)"
                ));
            }
        }
        lines
    }

    /// The cases of a workload that have this metric, in the order in which they were measured.
    pub fn cases(&self, workload: &str, metric: Metric) -> Vec<&str> {
        let mut cases: Vec<&str> = Vec::new();
        for sample in &self.samples {
            if sample.workload == workload
                && sample.metric == metric
                && !cases.contains(&sample.case.as_str())
            {
                cases.push(&sample.case);
            }
        }
        cases
    }

    /// The figure of each round.
    fn rounds(&self, workload: &str, case: &str, metric: Metric, peer: &str) -> Vec<(usize, f64)> {
        let wanted = |sample: &&Sample| {
            sample.workload == workload
                && sample.case == case
                && sample.metric == metric
                && sample.peer == peer
        };
        self.samples.iter().filter(wanted).map(|sample| (sample.round, sample.value)).collect()
    }

    pub fn summary(&self, workload: &str, case: &str, metric: Metric, peer: &str) -> Option<Summary> {
        let values: Vec<f64> =
            self.rounds(workload, case, metric, peer).into_iter().map(|(_, value)| value).collect();
        Summary::of(&values)
    }

    /// How two figures compare: the ratio of their medians, with the least and greatest ratio within one
    /// round.
    pub fn ratio(
        &self,
        workload: &str,
        over: (&str, Metric, &str),
        under: (&str, Metric, &str),
    ) -> Option<Summary> {
        let over = self.rounds(workload, over.0, over.1, over.2);
        let under = self.rounds(workload, under.0, under.1, under.2);
        let of_round =
            |round: usize| under.iter().find(|(other, _)| *other == round).map(|(_, value)| *value);
        let paired: Vec<f64> =
            over.iter().filter_map(|(round, value)| Some(value / of_round(*round)?)).collect();
        let median = |rounds: &[(usize, f64)]| {
            Summary::of(&rounds.iter().map(|(_, value)| *value).collect::<Vec<_>>())
        };
        let spread = Summary::of(&paired)?;
        Some(Summary { median: median(&over)?.median / median(&under)?.median, ..spread })
    }

    /// The peers that have this metric in this workload, in the order in which they were measured first.
    pub fn peers(&self, workload: &str, metric: Metric) -> Vec<&'static str> {
        let mut peers = Vec::new();
        for sample in &self.samples {
            if sample.workload == workload && sample.metric == metric && !peers.contains(&sample.peer) {
                peers.push(sample.peer);
            }
        }
        peers
    }
}

/// A figure as a person reads it: three digits that count, thousands apart.
pub fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 99.95 => grouped(&format!("{value:.0}")),
        size if size >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A count, thousands apart.
pub fn count(value: usize) -> String {
    grouped(&value.to_string())
}

fn grouped(digits: &str) -> String {
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}
