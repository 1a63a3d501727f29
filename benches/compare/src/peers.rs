//! The proxies that are compared. To compare with another one, add it to [`all`].

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::accounting;
use crate::load;
use crate::targets::{Target, free_port};

pub const DIRECT: &str = "direct";
pub const OURS: &str = "redis-ambassador";
pub const HAPROXY: &str = "HAProxy";
pub const NGINX: &str = "nginx";
pub const SOCAT: &str = "socat";

/// A way to reach a target.
pub struct Peer {
    pub name: &'static str,
    /// Whether the client need not authenticate, because the proxy does.
    authenticates: bool,
    /// None where there is no proxy on the way.
    pub proxy: Option<Proxy>,
}

pub struct Proxy {
    pub program: PathBuf,
    /// As the program itself states it.
    pub version: String,
    command: CommandFor,
    capacity: usize,
    folder: PathBuf,
}

/// What starts a proxy in the foreground.
type CommandFor = fn(&Instance<'_>) -> Result<Command>;

/// One start of a proxy.
struct Instance<'a> {
    program: &'a Path,
    listen: SocketAddr,
    target: &'a Target,
    /// The connections it has to carry.
    capacity: usize,
    /// Where a configuration file may be put.
    folder: &'a Path,
}

/// Every peer, ours first.
///
/// A proxy is its name, its program, how the program states its version (asked by which flag, after which
/// words) and what starts it.
pub fn all(ambassador: &Path, folder: &Path, capacity: usize) -> Result<Vec<Peer>> {
    let ambassador = std::path::absolute(ambassador)?;
    let folder = fs::canonicalize(folder)?;
    let proxy = |name, program: &Path, (flag, words): (&str, &str), command: CommandFor| {
        let version = version(program, flag, words);
        let proxy = Proxy { program: find(program), version, command, capacity, folder: folder.clone() };
        Peer { name, authenticates: name == OURS, proxy: Some(proxy) }
    };
    Ok(vec![
        proxy(OURS, &ambassador, ("--version", "redis-ambassador "), ambassador_command),
        proxy(HAPROXY, Path::new("haproxy"), ("-v", "HAProxy version "), haproxy_command),
        proxy(NGINX, Path::new("nginx"), ("-v", "nginx version: nginx/"), nginx_command),
        proxy(SOCAT, Path::new("socat"), ("-V", "socat version "), socat_command),
        Peer { name: DIRECT, authenticates: false, proxy: None },
    ])
}

#[expect(clippy::unnecessary_wraps, reason = "others write a configuration, which can fail")]
fn ambassador_command(instance: &Instance<'_>) -> Result<Command> {
    let target = instance.target;
    let (address, listen) = (format!("tcp://{}", target.address), instance.listen.to_string());
    let mut command = Command::new(instance.program);
    // A variable of the caller's might be a link.
    command.env_clear();
    match &target.password {
        Some(password) => command
            .env("REDIS_PORT_6379_TCP", address)
            .env("REDIS_LISTEN", listen)
            .env("REDIS_AUTH", password),
        None => command.env("BULK_PORT_7000_TCP", address).env("BULK_LISTEN", listen),
    };
    Ok(command)
}

/// HAProxy in TCP mode, tuned as its manual says.
///
/// - `nbthread`: one thread a core is its default, so it is left alone; so are `tune.bufsize`, which the
///   manual strongly recommends not to change, and `shards`, which it suggests for very many threads only.
/// - `option splice-auto`: forwards large payloads in the kernel where HAProxy's heuristics find it worth
///   while. Pipes for the busiest workload, of 50 connections, suffice: by itself it would reserve
///   descriptors for a quarter of `maxconn`.
/// - `option tcp-smart-accept` and `tcp-smart-connect`: save a packet at the begin of a connection whose
///   client speaks first.
/// - No log, no checks, no statistics. `TCP_NODELAY` is on by itself.
/// - No `cpu-map`: the load generator and Redis need the same cores.
fn haproxy_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, target, capacity, folder } = instance;
    let path = folder.join("haproxy.cfg");
    let configuration = format!(
        "global
    maxconn {}
    maxpipes 100
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
    option splice-auto
    option tcp-smart-accept
    option tcp-smart-connect
listen target
    bind {listen} backlog 4096
    server target {}
",
        capacity + 50,
        target.address
    );
    fs::write(&path, configuration)?;
    let mut command = Command::new(program);
    command.arg("-db").arg("-f").arg(path);
    Ok(command)
}

/// nginx with its stream module: a worker a core, each with a socket of its own to accept from (`reuseport`),
/// as its manual advises; everything else is left at its default (`tcp_nodelay` is on, buffers have 16 KiB).
fn nginx_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, target, capacity, folder } = instance;
    let path = folder.join("nginx.conf");
    // Debian packages the module apart; other builds have it inside.
    let module = Path::new("/usr/lib/nginx/modules/ngx_stream_module.so");
    let load_module =
        if module.exists() { format!("load_module {};\n", module.display()) } else { String::new() };
    let configuration = format!(
        "{load_module}daemon off;
pid {};
error_log stderr;
worker_processes auto;
events {{
    worker_connections {};
}}
stream {{
    server {{
        listen {listen} reuseport backlog=4096;
        proxy_pass {};
        proxy_timeout 1h;
    }}
}}
",
        path.with_extension("pid").display(),
        // Two a connection, and a single worker might get nearly all of them.
        2 * capacity + 100,
        target.address
    );
    fs::write(&path, configuration)?;
    let mut command = Command::new(program);
    command.arg("-c").arg(&path).args(["-e", "stderr"]);
    Ok(command)
}

/// socat: a process a connection. Its buffer of 8 KiB is left at its default.
#[expect(clippy::unnecessary_wraps, reason = "others write a configuration, which can fail")]
fn socat_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, target, .. } = instance;
    let mut command = Command::new(program);
    let (port, address) = (listen.port(), listen.ip());
    command
        .arg(format!("TCP4-LISTEN:{port},bind={address},reuseaddr,fork,backlog=4096,nodelay"))
        .arg(format!("TCP4:{},nodelay", target.address));
    Ok(command)
}

impl Peer {
    /// Starts the proxy in front of the target and waits until it listens.
    pub fn start(&self, target: &Target) -> Result<Running> {
        let mut running = self.spawn(target)?;
        running.connect()?;
        Ok(running)
    }

    /// Starts the proxy in front of the target, and waits for nothing.
    pub fn spawn(&self, target: &Target) -> Result<Running> {
        let password = target.password.clone().filter(|_| !self.authenticates);
        let name = self.name;
        let Some(proxy) = &self.proxy else {
            let address = target.address;
            return Ok(Running { name, address, password, started: Instant::now(), process: None });
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = (proxy.command)(&Instance {
            program: &proxy.program,
            listen: address,
            target,
            capacity: proxy.capacity,
            folder: &proxy.folder,
        })?;
        let log = File::create(proxy.folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let process = command.spawn().with_context(|| proxy.program.display().to_string())?;
        Ok(Running { name, address, password, started, process: Some(process) })
    }
}

/// A peer at work; ended when this is dropped.
pub struct Running {
    pub name: &'static str,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// What clients have to authenticate with.
    pub password: Option<String>,
    /// Just before its program was executed.
    pub started: Instant,
    process: Option<Child>,
}

impl Running {
    /// Connects as soon as the peer lets it.
    pub fn connect(&mut self) -> Result<TcpStream> {
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            match TcpStream::connect(self.address) {
                Ok(stream) => return Ok(stream),
                Err(error)
                    if error.kind() == io::ErrorKind::ConnectionRefused && Instant::now() < deadline => {}
                Err(error) => return Err(error).context("it does not listen"),
            }
            if let Some(process) = &mut self.process
                && let Some(status) = process.try_wait()?
            {
                bail!("it ended at once: {status}; its log is target/bench/logs/{}.log", self.name);
            }
            thread::sleep(Duration::from_micros(20));
        }
    }

    /// A connection through the peer that works.
    pub fn open(&self) -> Result<TcpStream> {
        load::open(self.address, self.password.as_deref())
    }

    /// The processor time used so far; none without a process.
    pub fn cpu_time(&self) -> Result<Duration> {
        self.pid().map_or(Ok(Duration::ZERO), accounting::cpu_time)
    }

    /// The same, once the peer has come to rest.
    pub fn settled_cpu_time(&self) -> Result<Duration> {
        self.pid().map_or(Ok(Duration::ZERO), accounting::settled_cpu_time)
    }

    /// Proportional set size in bytes.
    pub fn proportional_set_size(&self) -> Result<u64> {
        self.pid().map_or(Ok(0), accounting::proportional_set_size)
    }

    /// Resident set size in bytes.
    pub fn resident_set_size(&self) -> Result<u64> {
        self.pid().map_or(Ok(0), accounting::resident_set_size)
    }

    pub fn is_proxy(&self) -> bool {
        self.process.is_some()
    }

    fn pid(&self) -> Option<Pid> {
        self.process.as_ref().and_then(|process| i32::try_from(process.id()).ok()).map(Pid::from_raw)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Some(pid) = self.pid() else { return };
        for member in accounting::descendants(pid).into_iter().rev() {
            // One that has ended meanwhile needs no signal.
            let _ = kill(member, Signal::SIGKILL);
        }
        if let Some(process) = &mut self.process {
            let _ = process.wait();
        }
    }
}

/// What a program says of its version, on the first line that has the marker, without it.
fn version(program: &Path, flag: &str, marker: &str) -> String {
    let Ok(output) = Command::new(program).arg(flag).output() else {
        return "not found".to_owned();
    };
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    let line =
        text.lines().find_map(|line| line.split_once(marker).map(|(_, version)| version)).unwrap_or_default();
    line.split_whitespace().next().unwrap_or("unknown").to_owned()
}

/// Where a program lies, as the shell would find it.
fn find(program: &Path) -> PathBuf {
    let folders = std::env::var_os("PATH").unwrap_or_default();
    let found =
        std::env::split_paths(&folders).map(|folder| folder.join(program)).find(|path| path.is_file());
    found.unwrap_or_else(|| program.to_owned())
}
