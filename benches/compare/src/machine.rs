//! What the figures were measured on, and with.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use serde::Serialize;

use crate::peers::Proxy;

#[derive(Serialize)]
pub struct Machine {
    pub date: String,
    pub processor: String,
    pub cores: usize,
    pub memory_gib: f64,
    pub kernel: String,
    pub system: String,
    /// Runnable processes before the run, by the kernel's average over a minute: what else was going on.
    pub load_before: String,
    pub programs: Vec<Program>,
    /// Bytes of the image; none where there is no such image.
    pub image: Option<u64>,
}

#[derive(Serialize)]
pub struct Program {
    pub name: &'static str,
    pub version: String,
    /// Bytes of the executable file.
    pub size: Option<u64>,
}

impl Machine {
    pub fn describe(proxies: &[Arc<Proxy>], image: &str) -> Self {
        let program = |proxy: &Arc<Proxy>| Program {
            name: proxy.name,
            version: proxy.version.clone(),
            size: size(&proxy.program),
        };
        let mut programs: Vec<Program> = proxies.iter().map(program).collect();
        let redis = output("redis-server", &["--version"]);
        let redis = redis
            .split_whitespace()
            .find_map(|word| word.strip_prefix("v="))
            .unwrap_or("not found")
            .to_owned();
        programs.push(Program { name: "Redis", version: redis, size: None });
        Self {
            date: output("date", &["-u", "+%Y-%m-%d"]),
            processor: field("/proc/cpuinfo", "model name"),
            cores: thread::available_parallelism().map_or(1, usize::from),
            memory_gib: field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse().unwrap_or(0.0)
                / 1024.0
                / 1024.0,
            kernel: output("uname", &["-sr"]),
            system: field("/etc/os-release", "PRETTY_NAME").trim_matches('"').to_owned(),
            load_before: fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .split(' ')
                .next()
                .unwrap_or_default()
                .to_owned(),
            programs,
            image: output("docker", &["image", "inspect", "--format", "{{.Size}}", image]).parse().ok(),
        }
    }

    /// Bytes of a peer's executable file.
    pub fn binary_of(&self, name: &str) -> Option<u64> {
        self.programs.iter().find(|program| program.name == name)?.size
    }
}

fn size(path: &Path) -> Option<u64> {
    fs::metadata(path).ok().map(|metadata| metadata.len())
}

/// The value after `name`, in files with a name and a value on each line.
fn field(file: &str, name: &str) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
    line.trim_start_matches([' ', '\t', ':', '=']).to_owned()
}

/// What a program prints, or nothing where there is no such program.
fn output(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
