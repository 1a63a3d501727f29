//! Measures redis-ambassador side by side with the proxies people would otherwise take, in one run.
//!
//! - [`peers`] is the list of proxies: to compare with another one, add it there.
//! - [`workloads`] is the list of what is measured: to measure something else, add it there.
//! - [`certificates`] are what TLS needs, made for the run.
//! - [`load`] makes the traffic, [`targets`] answers it, [`accounting`] reads what the kernel says about a
//!   process.
//! - [`samples`] keeps every figure of every round, [`goals`] judges them, [`report`] and [`charts`] show
//!   them.
//!
//! `benches/run` prepares the machine and calls this with the path of the ambassador's binary.

mod accounting;
mod certificates;
mod charts;
mod goals;
mod load;
mod machine;
mod peers;
mod report;
mod samples;
mod settings;
mod targets;
mod workloads;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, Result};

use crate::accounting::CoreTime;
use crate::certificates::Certificates;
use crate::machine::Machine;
use crate::peers::Peers;
use crate::samples::Results;
use crate::settings::Settings;
use crate::targets::{BulkTarget, Redis};

/// What every workload has at hand.
struct Bench {
    settings: Settings,
    /// Most connections to hold open through one proxy.
    capacity: usize,
    peers: Peers,
    certificates: Certificates,
    redis: Redis,
    bulk: BulkTarget,
}

fn main() -> ExitCode {
    match run() {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Returns whether everything that was to be measured could be measured.
fn run() -> Result<bool> {
    let ambassador = std::env::args_os()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: compare <the redis-ambassador binary>")?;
    let settings = Settings::from_env()?;
    let raw = Path::new("target/bench");
    let logs = raw.join("logs");
    std::fs::create_dir_all(&logs)?;

    let capacity = settings::raise_descriptor_limit()?;
    let certificates = Certificates::make(&raw.join("certificates"))?;
    let bench = Bench {
        capacity,
        peers: Peers::find(&ambassador, &logs, capacity)?,
        redis: Redis::start(&logs, &certificates, capacity)?,
        bulk: BulkTarget::start()?,
        certificates,
        settings,
    };
    let machine = Machine::describe(&bench.peers.programs, &bench.settings.image);

    let mut results = Results::default();
    let before = CoreTime::now()?;
    for workload in &bench.settings.workloads {
        eprintln!("{}", workload.name);
        let start = Instant::now();
        (workload.run)(&bench, &mut results).with_context(|| workload.name)?;
        eprintln!("  took {:.0?}", start.elapsed());
    }
    let stolen = CoreTime::now()?.stolen_since(&before);

    report::write(&bench, &machine, stolen, &results, raw)?;
    for failure in results.failures() {
        eprintln!("bench: {failure}");
    }
    Ok(results.failures().is_empty())
}
