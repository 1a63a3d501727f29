//! What the kernel says about a process and its descendants: processor time and memory.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

/// What one count in `/proc/<pid>/stat` stands for: `USER_HZ` is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// The processor time, user and system, of the process `root` and its descendants, those that have ended
/// included.
///
/// Of a living process it comes from its own processor clock, exact to the nanosecond and with all its
/// threads, the ended ones too; of ended children it is what the kernel added to the parent, known to the
/// tick.
pub fn cpu_time(root: Pid) -> Result<Duration> {
    let mut sum = Duration::ZERO;
    for pid in descendants(root) {
        match own_and_reaped(pid) {
            Ok(time) => sum += time,
            Err(error) if pid == root => return Err(error),
            // A child that ended since the listing: its time is its parent's by now.
            Err(_) => {}
        }
    }
    Ok(sum)
}

/// The processor time once the process has come to rest, so that what it does after the last reply (closing
/// connections, reaping children) is counted with the load that caused it.
pub fn settled_cpu_time(root: Pid) -> Result<Duration> {
    const PAUSE: Duration = Duration::from_millis(10);
    const AT_REST: Duration = Duration::from_micros(100);
    let deadline = Instant::now() + Duration::from_secs(2);
    let mut last = cpu_time(root)?;
    loop {
        thread::sleep(PAUSE);
        let now = cpu_time(root)?;
        if now.saturating_sub(last) < AT_REST || Instant::now() > deadline {
            return Ok(now);
        }
        last = now;
    }
}

fn own_and_reaped(pid: Pid) -> Result<Duration> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in parentheses may hold anything; the numbers start after it, with the third field.
    let (_, numbers) = stat.rsplit_once(')').context("no name in /proc/<pid>/stat")?;
    let numbers: Vec<&str> = numbers.split_whitespace().collect();
    let ticks = |field: usize| -> Result<Duration> {
        let count: u32 = numbers.get(field - 3).context("a short /proc/<pid>/stat")?.parse()?;
        Ok(TICK * count)
    };
    let (reaped_user, reaped_system) = (ticks(16)?, ticks(17)?);
    let own = Duration::from(clock_getcpuclockid(pid)?.now()?);
    Ok(own + reaped_user + reaped_system)
}

/// The proportional set size of the process and its descendants, in bytes.
pub fn proportional_set_size(root: Pid) -> Result<u64> {
    memory(root, "Pss:")
}

/// The resident set size of the process and its descendants, in bytes; pages that they share count for each.
pub fn resident_set_size(root: Pid) -> Result<u64> {
    memory(root, "Rss:")
}

fn memory(root: Pid, field: &str) -> Result<u64> {
    let mut sum = 0;
    for pid in descendants(root) {
        match memory_of(pid, field) {
            Ok(bytes) => sum += bytes,
            Err(error) if pid == root => return Err(error),
            Err(_) => {}
        }
    }
    Ok(sum)
}

fn memory_of(pid: Pid, field: &str) -> Result<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let line = rollup
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .with_context(|| format!("no {field} of {pid}"))?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kibibytes * 1024)
}

/// The process and all its descendants, children before their parents.
pub fn descendants(root: Pid) -> Vec<Pid> {
    let mut all = Vec::new();
    let threads = fs::read_dir(format!("/proc/{root}/task")).into_iter().flatten().flatten();
    for thread in threads {
        let children = fs::read_to_string(thread.path().join("children")).unwrap_or_default();
        for child in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            all.extend(descendants(Pid::from_raw(child)));
        }
    }
    all.push(root);
    all
}

/// Where the machine's processor time went.
pub struct CoreTime {
    all: u64,
    stolen: u64,
}

impl CoreTime {
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let line = stat.lines().next().context("an empty /proc/stat")?;
        let counts: Vec<u64> = line.split_whitespace().skip(1).map(str::parse).collect::<Result<_, _>>()?;
        // user, nice, system, idle, iowait, irq, softirq, steal; what follows (guests) is in user already.
        Ok(Self { all: counts.iter().take(8).sum(), stolen: counts.get(7).copied().unwrap_or(0) })
    }

    /// The share that the hypervisor gave to others, in percent.
    pub fn stolen_since(&self, earlier: &Self) -> f64 {
        100.0 * (self.stolen - earlier.stolen) as f64 / (self.all - earlier.all).max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader};
    use std::process::{Command, Stdio};

    use nix::sys::resource::{UsageWho, getrusage};

    use super::*;

    fn waited_for() -> Duration {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN).expect("getrusage");
        let [user, system] = [usage.user_time(), usage.system_time()];
        let micros =
            user.tv_sec() * 1_000_000 + user.tv_usec() + system.tv_sec() * 1_000_000 + system.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    }

    /// A process is charged for itself, for its living children and for those that have ended.
    #[test]
    fn the_processor_time_of_a_process_is_what_the_kernel_charges_for_it_in_the_end() {
        let burn = "i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done";
        let script =
            format!("exec 3<&0; sh -c '{burn}'; ({burn}; echo burnt; read _ <&3) & {burn}; echo burnt; wait");
        let before = waited_for();
        let mut shell = Command::new("sh")
            .args(["-c", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a shell");
        let burnt = BufReader::new(shell.stdout.take().expect("its output")).lines().take(2).count();
        assert_eq!(burnt, 2);
        let pid = Pid::from_raw(i32::try_from(shell.id()).expect("a process id"));
        let measured = settled_cpu_time(pid).expect("a living shell");
        drop(shell.stdin.take());
        shell.wait().expect("the shell's end");
        let charged = waited_for().saturating_sub(before);
        let difference = charged.abs_diff(measured);
        assert!(difference < Duration::from_millis(30), "{measured:?} measured, {charged:?} charged");
    }
}
