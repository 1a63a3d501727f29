//! Real Redis servers.

use std::env;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, Peer, eventually, leave_out, own_address};

/// Whether a test that needs `program` has to be left out, which it says; never in continuous integration.
pub(crate) fn command_is_missing(program: &str) -> bool {
    let search = env::var_os("PATH").unwrap_or_default();
    let found = env::split_paths(&search).any(|directory| directory.join(program).is_file());
    is_missing(program, found)
}

/// The same for a module of Python.
pub(crate) fn module_is_missing(module: &str) -> bool {
    let import = Command::new("python3").args(["-c", &format!("import {module}")]).output();
    is_missing(&format!("Python's {module}"), import.is_ok_and(|output| output.status.success()))
}

fn is_missing(what: &str, found: bool) -> bool {
    if !found {
        leave_out(&format!("{what} is not installed"));
    }
    !found
}

/// A server that the ambassador stands in front of. `need_servers` of scripts/common has put all but Debian's own into
/// the build's directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Version {
    Redis62,
    /// The machine's own `redis-server`, as which Debian 12 has Redis 7.0.
    Redis70,
    Redis82,
    Valkey81,
    Valkey91,
}

impl Version {
    pub(crate) const ALL: [Self; 5] =
        [Self::Redis62, Self::Redis70, Self::Redis82, Self::Valkey81, Self::Valkey91];

    /// As its folder in `fixtures/replies` is called.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Redis62 => "redis-6.2",
            Self::Redis70 => "redis-7.0",
            Self::Redis82 => "redis-8.2",
            Self::Valkey81 => "valkey-8.1",
            Self::Valkey91 => "valkey-9.1",
        }
    }

    /// What to start; where there is none the test is left out, which is said.
    fn program(self) -> Option<PathBuf> {
        let program = match self {
            Self::Redis70 => {
                return (!command_is_missing("redis-server")).then(|| PathBuf::from("redis-server"));
            }
            Self::Redis62 | Self::Redis82 => "redis-server",
            Self::Valkey81 | Self::Valkey91 => "valkey-server",
        };
        let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build's directory");
        let path = target.join("servers").join(self.name()).join(program);
        let found = path.is_file();
        (!is_missing(&format!("{} (see need_servers in scripts/common)", self.name()), found)).then_some(path)
    }
}

/// A server of the test's own, on TCP and on a Unix socket. Killed when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    program: PathBuf,
    child: Option<Child>,
    directory: TempDir,
    address: SocketAddr,
    configuration: String,
}

impl RedisServer {
    /// Starts this machine's own server with these lines of configuration; `None` where there is none to start.
    pub(crate) fn start(configuration: &str) -> Option<Self> {
        Self::start_version(Version::Redis70, configuration)
    }

    /// Another server, at the same port of another address.
    pub(crate) fn start_beside(&self, configuration: &str) -> Option<Self> {
        let port = self.address.port();
        let free = || SocketAddr::new(own_address().ip(), port);
        Self::start_at(Version::Redis70, free, |_| configuration.to_owned())
    }

    /// The same of any version.
    pub(crate) fn start_version(version: Version, configuration: &str) -> Option<Self> {
        Self::start_at(version, own_address, |_| configuration.to_owned())
    }

    /// The same, for a node of a cluster.
    pub(crate) fn start_node(
        version: Version,
        free: impl Fn() -> SocketAddr,
        configuration: &str,
    ) -> Option<Self> {
        // A connection to another node comes from elsewhere.
        Self::start_at(version, free, |address| {
            format!("{configuration}\ncluster-announce-ip {}", address.ip())
        })
    }

    /// The same, for a server that tells its primary where it listens, from where it does not connect.
    pub(crate) fn start_announced(configuration: &str) -> Option<Self> {
        Self::start_version_announced(Version::Redis70, configuration)
    }

    /// The same of any version.
    pub(crate) fn start_version_announced(version: Version, configuration: &str) -> Option<Self> {
        Self::start_at(version, own_address, |address| {
            let (ip, port) = (address.ip(), address.port());
            format!("{configuration}\nreplica-announce-ip {ip}\nreplica-announce-port {port}")
        })
    }

    fn start_at(
        version: Version,
        free: impl Fn() -> SocketAddr,
        configuration: impl Fn(SocketAddr) -> String,
    ) -> Option<Self> {
        let program = version.program()?;
        // Somebody else may take the port between the choice and the start.
        for _ in 0..5 {
            let address = free();
            let mut server = Self {
                program: program.clone(),
                child: None,
                directory: TempDir::new().expect("a temporary directory"),
                address,
                configuration: configuration(address),
            };
            if server.try_start() {
                return Some(server);
            }
        }
        panic!("{} does not start with:\n{}", version.name(), configuration(free()));
    }

    fn try_start(&mut self) -> bool {
        let directory = self.directory.path().display();
        let lines = format!(
            "bind {ip}\nport {port}\nunixsocket {directory}/redis.sock\ndir {directory}\nsave \"\"\n\
             appendonly no\nprotected-mode no\nlogfile {directory}/redis.log\n{configuration}\n",
            ip = self.address.ip(),
            port = self.address.port(),
            configuration = self.configuration,
        );
        let path = self.directory.path().join("redis.conf");
        fs::write(&path, lines).expect("a configuration file");
        let child = Command::new(&self.program)
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("a server that can be started");
        let child = self.child.insert(child);
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().expect("a child to wait for").is_none() {
            if answers(self.address) {
                return true;
            }
            assert!(Instant::now() < deadline, "redis-server does not answer");
            thread::sleep(Duration::from_millis(10));
        }
        false
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn is_running(&self) -> bool {
        self.child.is_some()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// Kills the server; its data are gone.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Has the server end by itself, as a restart of its service does; its data are gone. Says when it had ended.
    pub(crate) fn shut_down(&mut self, password: &str) -> Instant {
        let mut child = self.child.take().expect("a server that runs");
        // The answer is the end.
        let _ = redis::cmd("SHUTDOWN").arg("NOSAVE").exec(&mut self.administrator(password));
        let _ = child.wait();
        Instant::now()
    }

    /// How many times the server has executed a command since it was started, as `CLIENT|KILL`.
    pub(crate) fn calls(&self, password: &str, command: &str) -> usize {
        let mut administrator = self.administrator(password);
        let statistics: String =
            redis::cmd("INFO").arg("commandstats").query(&mut administrator).expect("statistics");
        let prefix = format!("cmdstat_{}:calls=", command.to_lowercase());
        let line = statistics.lines().find_map(|line| line.strip_prefix(&*prefix));
        line.and_then(|line| line.split(',').next()).map_or(0, |calls| calls.parse().expect("a number"))
    }

    /// Ends all connections of clients but the administrator's own, which is returned.
    pub(crate) fn end_clients(&self, password: &str) -> redis::Connection {
        let mut administrator = self.administrator(password);
        for kind in ["normal", "pubsub"] {
            let mut kill = redis::cmd("CLIENT");
            let kill = kill.arg(&["KILL", "TYPE", kind]);
            kill.query::<usize>(&mut administrator).expect("connections that end");
        }
        administrator
    }

    /// The same, and waits until the other side has seen it.
    pub(crate) fn cut(&self, password: &str) {
        let mut administrator = self.end_clients(password);
        self.wait_until_alone(&mut administrator);
    }

    /// Waits until the server has no client but this one, and all others have closed their ends too.
    pub(crate) fn wait_until_alone(&self, administrator: &mut redis::Connection) {
        eventually("the server is alone, and everybody knows", || {
            let list: String = redis::cmd("CLIENT").arg("LIST").query(administrator).expect("CLIENT LIST");
            list.lines().count() == 1 && !self.is_half_closed()
        });
    }

    /// Waits until everybody has closed the connections that the server has ended.
    pub(crate) fn wait_until_nobody_is_half_closed(&self) {
        eventually("everybody knows what the server has ended", || !self.is_half_closed());
    }

    /// Whether anybody holds a connection that the server has ended (tcp in proc(5)).
    fn is_half_closed(&self) -> bool {
        const CLOSE_WAIT: &str = "08";
        let SocketAddr::V4(address) = self.address else { panic!("{} is no IPv4 address", self.address) };
        // It has the address for itself, on whatever ports it listens.
        let server = format!("{:08X}:", u32::from_ne_bytes(address.ip().octets()));
        let connections = fs::read_to_string("/proc/net/tcp").expect("the kernel's connections");
        connections.lines().any(|line| {
            let fields: Vec<_> = line.split_whitespace().collect();
            fields.get(2).is_some_and(|remote| remote.starts_with(&server))
                && fields.get(3) == Some(&CLOSE_WAIT)
        })
    }

    /// Stops the server where it stands, or lets it go on.
    pub(crate) fn signal(&self, signal: Signal) {
        let child = self.child.as_ref().expect("a server that runs");
        kill_process(Pid::from_child(child), signal).expect("a process to signal");
    }

    /// Starts it again, at the same address.
    pub(crate) fn start_again(&mut self) {
        assert!(self.try_start(), "redis-server does not start again");
    }

    /// A connection past the ambassador, for what only an administrator may do.
    pub(crate) fn administrator(&self, password: &str) -> redis::Connection {
        let client = redis::Client::open(format!("redis://:{password}@{}/", self.address)).expect("a URL");
        client.get_connection().expect("a connection to Redis")
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Whether a server serves there, or would if it knew us.
fn answers(address: SocketAddr) -> bool {
    let Ok(mut peer) = Peer::try_connect(address) else {
        return false;
    };
    peer.try_send(b"PING\r\n").is_ok() && {
        let mut reply = [0; 5];
        peer.read_exact(&mut reply).is_ok() && matches!(&reply, b"+PONG" | b"-NOAU")
    }
}
