//! What the proxies stand in front of: one Redis, and a sink and source for bulk streams.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, recv};

use crate::load;

/// Where a proxy sends its connections.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// A Redis wants this; a plain tunnel has none.
    pub password: Option<String>,
}

/// A port of loopback that is free and stays so: below those that the kernel takes for outgoing connections,
/// or one of the thousands of connections to come might sit on it.
pub fn free_port() -> Result<u16> {
    let range = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")?;
    let first_outgoing: u16 = range.split_whitespace().next().context("an empty port range")?.parse()?;
    (10_000..first_outgoing)
        .rev()
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .with_context(|| format!("no free port between 10000 and {first_outgoing}"))
}

/// A redis-server with a password and without persistence.
pub struct Redis {
    process: Child,
    target: Target,
}

impl Redis {
    pub fn start(logs: &Path, capacity: usize) -> Result<Self> {
        let port = free_port()?;
        let password = random_password()?;
        let log = File::create(logs.join("redis-server.log"))?;
        // The configuration goes in by standard input: no password on a command line or on disk.
        let mut process = Command::new("redis-server")
            .arg("-")
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("redis-server")?;
        let configuration = format!(
            "bind 127.0.0.1\nport {port}\nrequirepass {password}\nmaxclients {}\n\
             tcp-backlog 4096\nio-threads 1\nsave \"\"\nappendonly no\n",
            capacity + 100
        );
        process.stdin.take().context("no standard input")?.write_all(configuration.as_bytes())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let redis = Self { process, target: Target { address, password: Some(password) } };
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(address).is_err() {
            ensure!(Instant::now() < deadline, "redis-server does not listen, see {}", logs.display());
            thread::sleep(Duration::from_millis(5));
        }
        Ok(redis)
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// Runs a command on a connection of its own and returns the first bytes of the reply.
    pub fn command(&self, arguments: &[&[u8]]) -> Result<String> {
        let mut stream = load::open(self.target.address, self.target.password.as_deref())?;
        stream.write_all(&load::encode(arguments))?;
        let mut reply = vec![0; 64 * 1024];
        let length = stream.read(&mut reply)?;
        let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
        ensure!(!reply.starts_with('-'), "redis-server: {}", reply.trim());
        Ok(reply)
    }

    /// Waits until the connections of what was measured last are gone, so that they don't burden what comes
    /// next. A few may stay: a proxy is free to keep some ready.
    pub fn wait_until_quiet(&self) -> Result<()> {
        const FEW: usize = 20;
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            let information = self.command(&[b"INFO", b"clients"])?;
            let clients = information.lines().find_map(|line| line.strip_prefix("connected_clients:"));
            if clients.context("redis-server does not tell its clients")?.parse::<usize>()? <= FEW {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "redis-server keeps connections that should be gone");
            thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // Nothing is left to do for a process that has ended already.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn random_password() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(format!("{:032x}", u128::from_ne_bytes(bytes)))
}

/// Which way a bulk stream flows, as the client says in its first byte.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    ToTarget,
    ToClient,
}

impl Direction {
    pub fn byte(self) -> u8 {
        match self {
            Self::ToTarget => b'>',
            Self::ToClient => b'<',
        }
    }
}

/// What is handed to the kernel at once; large, so that the ends of a stream cost little beside the proxy.
pub const CHUNK: usize = 256 * 1024;

/// A server that swallows what it is sent, or sends without end.
pub struct BulkTarget {
    target: Target,
    swallowed: Arc<AtomicU64>,
}

impl BulkTarget {
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
        let target = Target { address: listener.local_addr()?, password: None };
        let swallowed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&swallowed);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let counter = Arc::clone(&counter);
                // The stream's end, clean or not, is the client's to judge.
                thread::spawn(move || serve(stream, &counter).ok());
            }
        });
        Ok(Self { target, swallowed })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// The bytes that have arrived here since the start.
    pub fn swallowed(&self) -> &Arc<AtomicU64> {
        &self.swallowed
    }
}

fn serve(mut stream: TcpStream, swallowed: &AtomicU64) -> Result<()> {
    let mut direction = [0];
    stream.read_exact(&mut direction)?;
    if direction[0] == Direction::ToTarget.byte() {
        swallow(&stream, swallowed)
    } else {
        let chunk = vec![0x55; CHUNK];
        loop {
            stream.write_all(&chunk)?;
        }
    }
}

/// Takes bytes off a stream until it ends, and counts them.
///
/// They are discarded in the kernel (`MSG_TRUNC`): the receiving end is not what is measured, and on a few
/// cores its copying would hide what the proxy costs.
pub fn swallow(stream: &TcpStream, count: &AtomicU64) -> Result<()> {
    let mut chunk = vec![0; CHUNK];
    loop {
        match recv(stream.as_raw_fd(), &mut chunk, MsgFlags::MSG_TRUNC)? {
            0 => return Ok(()),
            length => count.fetch_add(length as u64, Ordering::Relaxed),
        };
    }
}
