//! The proxies that are compared. To compare with another one, add it to [`Peers::find`].

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rustls::ClientConfig;

use crate::accounting;
use crate::certificates::Certificates;
use crate::load::tls::{self, Sessions};
use crate::load::{self, Conversation, Credentials};
use crate::targets::{Target, free_port};

pub const DIRECT: &str = "direct";
pub const DIRECT_RESUMED: &str = "direct, resuming";
pub const OURS: &str = "redis-ambassador";
/// Ours without connections kept ready.
pub const COLD: &str = "WARM=0";
/// Ours whose clients share no upstreams.
pub const UNSHARED: &str = "not sharing";
/// Ours that does not follow where commands and replies end.
pub const UNFRAMED: &str = "SESSIONS=off";
pub const HAPROXY: &str = "HAProxy";
pub const NGINX: &str = "nginx";
pub const SOCAT: &str = "socat";
pub const STUNNEL: &str = "stunnel";
pub const TWEMPROXY: &str = "twemproxy";
pub const PREDIXY: &str = "predixy";

/// A way to reach a target.
pub struct Peer {
    pub name: &'static str,
    reach: Reach,
}

enum Reach {
    /// No proxy is on the way.
    Direct(Sessions),
    Through {
        proxy: Arc<Proxy>,
        /// What the ambassador's link is told beside where to listen and what to dial.
        settings: Settings,
    },
}

type Settings = &'static [(&'static str, &'static str)];

pub struct Proxy {
    pub name: &'static str,
    pub program: PathBuf,
    /// As the program itself states it.
    pub version: String,
    /// Whether the client need not authenticate, because the proxy does.
    authenticates: bool,
    command: CommandFor,
    capacity: usize,
    folder: PathBuf,
}

/// What starts a proxy in the foreground.
type CommandFor = fn(&Instance<'_>) -> Result<Command>;

/// What a proxy is started for.
#[derive(Clone, Copy)]
pub struct Route<'a> {
    pub target: &'a Target,
    /// What the proxy shows to clients, where it speaks TLS to them.
    pub shown: Option<&'a Certificates>,
}

impl<'a> Route<'a> {
    /// Plain for clients; towards the target as the target wants it.
    pub fn to(target: &'a Target) -> Self {
        Self { target, shown: None }
    }
}

/// One start of a proxy.
struct Instance<'a> {
    program: &'a Path,
    listen: SocketAddr,
    route: Route<'a>,
    settings: Settings,
    /// The connections it has to carry.
    capacity: usize,
    /// Where a configuration file may be put.
    folder: &'a Path,
}

/// Who takes part in what, ours always first.
pub struct Peers {
    /// Every program.
    pub programs: Vec<Arc<Proxy>>,
    pub plain: Vec<Peer>,
    /// The same, and ours without sessions, where that makes a difference.
    pub redis: Vec<Peer>,
    pub tls: Vec<Peer>,
    pub warm: Vec<Peer>,
    /// The ambassador with itself.
    pub sessions: Vec<Peer>,
    /// With the proxies that share connections too, as far as they are installed.
    pub sharing: Vec<Peer>,
    /// The same without those, which answer a PING by themselves.
    pub first_answers: Vec<Peer>,
}

impl Peers {
    /// A proxy is its name, its program, how the program states its version (asked by which flag, after which
    /// words) and what starts it.
    pub fn find(ambassador: &Path, folder: &Path, capacity: usize) -> Result<Self> {
        let ambassador = std::path::absolute(ambassador)?;
        let folder = fs::canonicalize(folder)?;
        let proxy = |name, program: &Path, (flag, words): (&str, &str), command: CommandFor| {
            Arc::new(Proxy {
                name,
                program: find(program),
                version: version(program, flag, words),
                authenticates: [OURS, PREDIXY].contains(&name),
                command,
                capacity,
                folder: folder.clone(),
            })
        };
        let ours = proxy(OURS, &ambassador, ("--version", "redis-ambassador "), ambassador_command);
        let haproxy = proxy(HAPROXY, Path::new("haproxy"), ("-v", "HAProxy version "), haproxy_command);
        let nginx = proxy(NGINX, Path::new("nginx"), ("-v", "nginx version: nginx/"), nginx_command);
        let socat = proxy(SOCAT, Path::new("socat"), ("-V", "socat version "), socat_command);
        let stunnel = proxy(STUNNEL, Path::new("stunnel"), ("-version", "stunnel "), stunnel_command);
        let twemproxy =
            proxy(TWEMPROXY, Path::new("nutcracker"), ("--version", "nutcracker-"), twemproxy_command);
        let predixy = proxy(PREDIXY, Path::new("predixy"), ("--version", "predixy-"), predixy_command);

        let through = |proxy: &Arc<Proxy>| Peer {
            name: proxy.name,
            reach: Reach::Through { proxy: Arc::clone(proxy), settings: &[] },
        };
        let ours_with =
            |name, settings| Peer { name, reach: Reach::Through { proxy: Arc::clone(&ours), settings } };
        let direct = |name, sessions| Peer { name, reach: Reach::Direct(sessions) };
        let plain = || {
            vec![
                through(&ours),
                through(&haproxy),
                through(&nginx),
                through(&socat),
                direct(DIRECT, Sessions::Fresh),
            ]
        };
        let unframed = || ours_with(UNFRAMED, &[("SESSIONS", "off")]);
        let mut redis = plain();
        redis.insert(1, unframed());
        let first_answers = || {
            vec![
                ours_with(OURS, &[("SHARE", "1")]),
                ours_with(UNSHARED, &[]),
                through(&haproxy),
                direct(DIRECT, Sessions::Fresh),
            ]
        };
        let mut sharing = first_answers();
        let installed = [&twemproxy, &predixy].into_iter().filter(|proxy| proxy.is_installed());
        // The direct connection stays the last one.
        let last = sharing.len() - 1;
        sharing.splice(last..last, installed.map(through));
        Ok(Self {
            plain: plain(),
            redis,
            tls: vec![through(&ours), through(&haproxy), through(&stunnel)],
            warm: vec![
                ours_with(OURS, &[("WARM", "8")]),
                ours_with(COLD, &[]),
                direct(DIRECT, Sessions::Fresh),
                direct(DIRECT_RESUMED, Sessions::Resumed),
            ],
            sessions: vec![through(&ours), unframed()],
            sharing,
            first_answers: first_answers(),
            programs: vec![ours, haproxy, nginx, socat, stunnel, twemproxy, predixy],
        })
    }
}

#[expect(clippy::unnecessary_wraps, reason = "others write a configuration, which can fail")]
fn ambassador_command(instance: &Instance<'_>) -> Result<Command> {
    let Route { target, shown } = instance.route;
    let (address, listen) = (target.address, instance.listen.to_string());
    let mut command = Command::new(instance.program);
    // A variable of the caller's might be a link.
    command.env_clear();
    // Counting is part of what is measured; its port is any that is free.
    command.env("AMBASSADOR_ADMIN", "127.0.0.1:0");
    let Some(password) = &target.password else {
        command.env("BULK_PORT_7000_TCP", format!("tcp://{address}")).env("BULK_LISTEN", listen);
        return Ok(command);
    };
    command.env("REDIS_LISTEN", listen).env("REDIS_AUTH", password);
    match &target.authority {
        Some(authority) => command
            .env("REDIS_PORT_6379_TCP", format!("rediss://{address}"))
            .env("REDIS_TLS_CA_FILE", authority),
        None => command.env("REDIS_PORT_6379_TCP", format!("tcp://{address}")),
    };
    if let Some(certificates) = shown {
        command
            .env("REDIS_LISTEN_TLS_CERT_FILE", &certificates.certificate)
            .env("REDIS_LISTEN_TLS_KEY_FILE", &certificates.key);
    }
    for (name, value) in instance.settings {
        command.env(format!("REDIS_{name}"), value);
    }
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
/// - TLS 1.3 alone, as with all of them. Sessions are kept and resumed by default on either side, with tickets
///   and a cache of 20,000; records are as large as its buffers.
/// - No log, no checks, no statistics. `TCP_NODELAY` is on by itself.
/// - No `cpu-map`: the load generator and Redis need the same cores.
fn haproxy_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, route: Route { target, shown }, capacity, folder, .. } = instance;
    let path = folder.join("haproxy.cfg");
    let listen_tls = shown.map_or_else(String::new, |certificates| {
        format!(" ssl crt {} ssl-min-ver TLSv1.3", certificates.pair.display())
    });
    let target_tls = target.authority.as_ref().map_or_else(String::new, |authority| {
        let authority = authority.display();
        format!(
            " ssl verify required ca-file {authority} sni str(localhost) verifyhost localhost ssl-min-ver TLSv1.3"
        )
    });
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
    bind {listen} backlog 4096{listen_tls}
    server target {}{target_tls}
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
    let Instance { program, listen, route: Route { target, .. }, capacity, folder, .. } = instance;
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
    let Instance { program, listen, route: Route { target, .. }, .. } = instance;
    let mut command = Command::new(program);
    let (port, address) = (listen.port(), listen.ip());
    command
        .arg(format!("TCP4-LISTEN:{port},bind={address},reuseaddr,fork,backlog=4096,nodelay"))
        .arg(format!("TCP4:{},nodelay", target.address));
    Ok(command)
}

/// stunnel: a thread a connection, which is how Debian builds it.
///
/// - `TCP_NODELAY` on either side, as its manual's example for low latency has it.
/// - TLS 1.3 alone, as with all of them. It keeps and resumes sessions by default (`sessionResume`), and the
///   cache has room for as many as HAProxy's.
/// - No log, and no question to TCP wrappers for every connection.
fn stunnel_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, route: Route { target, shown }, folder, .. } = instance;
    let path = folder.join("stunnel.conf");
    let role = match (shown, &target.authority) {
        (Some(certificates), None) => {
            format!("cert = {}\nkey = {}", certificates.certificate.display(), certificates.key.display())
        }
        (None, Some(authority)) => {
            let authority = authority.display();
            format!(
                "client = yes\nCAfile = {authority}\nverifyChain = yes\ncheckHost = localhost\nsni = localhost"
            )
        }
        _ => bail!("it speaks TLS on one side"),
    };
    let configuration = format!(
        "foreground = yes
pid =
debug = emerg
syslog = no
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
[target]
accept = {listen}
connect = {}
{role}
sslVersionMin = TLSv1.3
sessionCacheSize = 20000
libwrap = no
",
        target.address
    );
    fs::write(&path, configuration)?;
    let mut command = Command::new(program);
    command.arg(path);
    Ok(command)
}

/// twemproxy, which Debian calls nutcracker.
///
/// - `server_connections`: one, its default. Its recommendations warn of more: a client's pipeline might then be
///   answered out of date.
/// - `mbuf-size`: its default of 16 KiB. Its recommendations want small ones to save memory for very many connections
///   alone; large ones read and write more at once.
/// - `preconnect`: its connection to Redis is there before the first client.
/// - It has one thread. No `timeout`, no ejection of servers, and of its log what it has by default. Its statistics
///   can't be turned off, but nobody asks for them.
/// - The password can't be given otherwise than in the file; it is made for the run alone. Clients have to send it too.
fn twemproxy_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, route: Route { target, .. }, folder, .. } = instance;
    let path = folder.join("twemproxy.yml");
    let password = target.password.as_deref().context("it is for Redis alone")?;
    let configuration = format!(
        "target:
  listen: {listen}
  backlog: 4096
  redis: true
  redis_auth: {password}
  preconnect: true
  servers:
    - {}:1
",
        target.address
    );
    fs::write(&path, configuration)?;
    // Held for a moment, so that the other one is not the same.
    let held = TcpListener::bind(listen)?;
    let statistics = free_port()?;
    drop(held);
    let mut command = Command::new(program);
    command.arg("-c").arg(path).args(["-a", "127.0.0.1", "-s", &statistics.to_string()]);
    Ok(command)
}

/// predixy, which Debian has no package of. Its release 7.0.1 states that it is 1.0.5.
///
/// - `WorkerThreads`: one a core, as the others have it; each has a connection to Redis.
/// - `BufSize`: its default of 4 KiB. Its manual leaves a better one to everybody's own measurements.
/// - A pool of one server, which needs a hash and a distribution, but has nothing to distribute.
/// - No line in the log for every connection; clients need no password.
/// - The password can't be given otherwise than in the file; it is made for the run alone.
fn predixy_command(instance: &Instance<'_>) -> Result<Command> {
    let Instance { program, listen, route: Route { target, .. }, folder, .. } = instance;
    let path = folder.join("predixy.conf");
    let password = target.password.as_deref().context("it is for Redis alone")?;
    let configuration = format!(
        "Bind {listen}
WorkerThreads {}
LogNoticeSample 0
StandaloneServerPool {{
    Password {password}
    Hash crc16
    Distribution modula
    RefreshMethod fixed
    Group target {{
        + {}
    }}
}}
",
        thread::available_parallelism()?,
        target.address
    );
    fs::write(&path, configuration)?;
    let mut command = Command::new(program);
    command.arg(path);
    Ok(command)
}

impl Proxy {
    pub fn is_installed(&self) -> bool {
        self.program.is_file()
    }
}

impl Peer {
    pub fn is_proxy(&self) -> bool {
        matches!(self.reach, Reach::Through { .. })
    }

    /// Starts the proxy on the route and waits until it listens.
    pub fn start(&self, route: Route<'_>) -> Result<Running> {
        let mut running = self.spawn(route)?;
        running.connect()?;
        Ok(running)
    }

    /// Starts the proxy on the route, and waits for nothing.
    pub fn spawn(&self, route: Route<'_>) -> Result<Running> {
        let Route { target, shown } = route;
        let name = self.name;
        let (proxy, settings) = match &self.reach {
            Reach::Through { proxy, settings } => (proxy, *settings),
            Reach::Direct(sessions) => {
                let tls: Option<Arc<ClientConfig>> = match &target.authority {
                    Some(authority) => Some(tls::careful(authority, *sessions)?),
                    None => None,
                };
                let credentials = Credentials { password: target.password.clone(), tls };
                let (address, started) = (target.address, Instant::now());
                return Ok(Running { name, address, credentials, started, process: None });
            }
        };
        let credentials = Credentials {
            password: target.password.clone().filter(|_| !proxy.authenticates),
            tls: shown.map(|_| tls::credulous(Sessions::Fresh)).transpose()?,
        };
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?));
        let mut command = (proxy.command)(&Instance {
            program: &proxy.program,
            listen: address,
            route,
            settings,
            capacity: proxy.capacity,
            folder: &proxy.folder,
        })?;
        let log = File::create(proxy.folder.join(format!("{name}.log")))?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        let started = Instant::now();
        let process = command.spawn().with_context(|| proxy.program.display().to_string())?;
        Ok(Running { name, address, credentials, started, process: Some(process) })
    }
}

/// A peer at work; ended when this is dropped.
pub struct Running {
    pub name: &'static str,
    /// Where clients connect to.
    pub address: SocketAddr,
    /// What clients need.
    pub credentials: Credentials,
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
    pub fn open(&self) -> Result<Conversation> {
        load::open(self.address, &self.credentials)
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
