//! Real Redis servers.

use std::env;
use std::fs;
use std::io::Read;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::{PATIENCE, Peer, leave_out, own_address};

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

/// A `redis-server` of the test's own, on TCP and on a Unix socket. Killed when dropped.
#[derive(Debug)]
pub(crate) struct RedisServer {
    child: Option<Child>,
    directory: TempDir,
    address: SocketAddr,
    configuration: String,
}

impl RedisServer {
    /// Starts a server with these lines of configuration; `None` where there is none to start.
    pub(crate) fn start(configuration: &str) -> Option<Self> {
        Self::start_at(own_address, |_| configuration.to_owned())
    }

    /// Another server, at the same port of another address.
    pub(crate) fn start_beside(&self, configuration: &str) -> Option<Self> {
        let port = self.address.port();
        Self::start_at(|| SocketAddr::new(own_address().ip(), port), |_| configuration.to_owned())
    }

    /// The same, for a server that tells its primary where it listens, from where it does not connect.
    pub(crate) fn start_announced(configuration: &str) -> Option<Self> {
        Self::start_at(own_address, |address| {
            let (ip, port) = (address.ip(), address.port());
            format!("{configuration}\nreplica-announce-ip {ip}\nreplica-announce-port {port}")
        })
    }

    fn start_at(free: impl Fn() -> SocketAddr, configuration: impl Fn(SocketAddr) -> String) -> Option<Self> {
        if command_is_missing("redis-server") {
            return None;
        }
        // Somebody else may take the port between the choice and the start.
        for _ in 0..5 {
            let address = free();
            let mut server = Self {
                child: None,
                directory: TempDir::new().expect("a temporary directory"),
                address,
                configuration: configuration(address),
            };
            if server.try_start() {
                return Some(server);
            }
        }
        panic!("redis-server does not start with:\n{}", configuration(free()));
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
        let child = Command::new("redis-server")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server starts");
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
