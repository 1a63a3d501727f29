//! The few variables that shorten or lengthen a run.

use std::env;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::workloads::{self, Workload};

/// Fewer rounds say too little about the spread to be published.
const PUBLISHED_ROUNDS: usize = 5;

/// The connections that "10,000 connections" stands for.
const WANTED_CONNECTIONS: usize = 10_000;

/// Descriptors that a proxy needs beside two a connection: its listeners, pollers, logs
/// and pipes.
const SPARE_DESCRIPTORS: usize = 400;

pub struct Settings {
    pub rounds: usize,
    /// How long one cell of one round is measured.
    pub duration: Duration,
    pub workloads: Vec<&'static Workload>,
    /// The image whose size is reported.
    pub image: String,
}

impl Settings {
    pub fn from_env() -> Result<Self> {
        let rounds = variable("BENCH_ROUNDS", PUBLISHED_ROUNDS)?;
        ensure!(rounds > 0, "BENCH_ROUNDS: at least one round");
        let seconds = variable("BENCH_SECONDS", 0.5)?;
        let duration = Duration::try_from_secs_f64(seconds).context("BENCH_SECONDS")?;
        let only: String = variable("BENCH_ONLY", String::new())?;
        let mut chosen = Vec::new();
        for name in only.split(',').filter(|name| !name.is_empty()) {
            let Some(workload) = workloads::ALL.iter().find(|workload| workload.name == name) else {
                let names: Vec<_> = workloads::ALL.iter().map(|workload| workload.name).collect();
                bail!("BENCH_ONLY: {name} is none of {}", names.join(", "));
            };
            chosen.push(workload);
        }
        if chosen.is_empty() {
            chosen = workloads::ALL.iter().collect();
        }
        Ok(Self {
            rounds,
            duration,
            workloads: chosen,
            image: variable("BENCH_IMAGE", "redis-ambassador:bench".to_owned())?,
        })
    }

    /// Whether this run is whole enough to replace the published report.
    pub fn publishes(&self) -> bool {
        self.rounds >= PUBLISHED_ROUNDS && self.workloads.len() == workloads::ALL.len()
    }
}

fn variable<T: FromStr>(name: &str, default: T) -> Result<T>
where
    T::Err: std::error::Error + Send + Sync + 'static,
{
    match env::var(name) {
        Ok(text) if !text.is_empty() => text.parse().with_context(|| format!("{name}={text}")),
        _ => Ok(default),
    }
}

/// Raises the soft limit on file descriptors, which the peers inherit, to the hard one, and returns how many
/// connections a proxy can hold open under it.
pub fn raise_descriptor_limit() -> Result<usize> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    let carried = usize::try_from(hard)?.saturating_sub(SPARE_DESCRIPTORS) / 2;
    ensure!(
        carried > 1_000,
        "a limit of {hard} file descriptors is too low: ulimit -n 20400 carries every workload"
    );
    Ok(carried.min(WANTED_CONNECTIONS))
}
