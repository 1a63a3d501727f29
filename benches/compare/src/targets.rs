//! What the proxies stand in front of: one Redis, plain and TLS, a server that does little else than shake hands,
//! a sink and source for bulk streams, and a long way to any of them.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{MsgFlags, recv};
use nix::unistd::Pid;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};

use crate::accounting;
use crate::certificates::Certificates;
use crate::load::tls::{self, Sessions};
use crate::load::{self, Credentials};

/// Where a proxy sends its connections.
#[derive(Clone)]
pub struct Target {
    pub address: SocketAddr,
    /// A Redis wants this; a plain tunnel has none.
    pub password: Option<String>,
    /// The file of the authority that vouches for a target that speaks TLS.
    pub authority: Option<PathBuf>,
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

/// A redis-server with a password and without persistence, that listens with and without TLS.
pub struct Redis {
    process: Child,
    target: Target,
    tls_target: Target,
}

impl Redis {
    pub fn start(logs: &Path, certificates: &Certificates, capacity: usize) -> Result<Self> {
        let port = free_port()?;
        // Held for a moment, so that it is another one.
        let held = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
        let tls_port = free_port()?;
        drop(held);
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
             tcp-backlog 4096\nio-threads 1\nsave \"\"\nappendonly no\n\
             tls-port {tls_port}\ntls-cert-file \"{}\"\ntls-key-file \"{}\"\ntls-ca-cert-file \"{}\"\n\
             tls-auth-clients no\ntls-protocols TLSv1.3\ntls-ciphersuites TLS_AES_256_GCM_SHA384\n",
            capacity + 100,
            certificates.certificate.display(),
            certificates.key.display(),
            certificates.authority.display(),
        );
        process.stdin.take().context("no standard input")?.write_all(configuration.as_bytes())?;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let target = Target { address, password: Some(password), authority: None };
        let tls_target = Target {
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, tls_port)),
            authority: Some(certificates.authority.clone()),
            ..target.clone()
        };
        let redis = Self { process, target, tls_target };
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

    pub fn tls_target(&self) -> &Target {
        &self.tls_target
    }

    /// The processor time used so far.
    pub fn cpu_time(&self) -> Result<Duration> {
        accounting::cpu_time(Pid::from_raw(i32::try_from(self.process.id())?))
    }

    /// Runs a command on a connection of its own and returns the first bytes of the reply.
    pub fn command(&self, arguments: &[&[u8]]) -> Result<String> {
        let mut stream = load::open(self.target.address, &self.credentials())?;
        stream.write_all(&load::encode(arguments))?;
        let mut reply = vec![0; 64 * 1024];
        let length = stream.read(&mut reply)?;
        let reply = String::from_utf8_lossy(&reply[..length]).into_owned();
        ensure!(!reply.starts_with('-'), "redis-server: {}", reply.trim());
        Ok(reply)
    }

    fn credentials(&self) -> Credentials {
        Credentials { password: self.target.password.clone(), tls: None }
    }

    /// Waits until the connections of what was measured last are gone, so that they don't burden what comes
    /// next. A few may stay: a proxy is free to keep some ready.
    pub fn wait_until_quiet(&self) -> Result<()> {
        const FEW: usize = 40;
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
        let target = Target { address: listener.local_addr()?, password: None, authority: None };
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

/// A server that shakes hands, says `+OK` to AUTH and `+PONG` to PING: it costs less than Redis, and can be
/// told not to let sessions be resumed, so that every handshake with it is a whole one.
pub struct HandshakeTarget {
    target: Target,
    shaken: Arc<Shaken>,
}

/// The handshakes so far.
#[derive(Default)]
struct Shaken {
    fresh: AtomicU64,
    resumed: AtomicU64,
}

impl HandshakeTarget {
    pub fn start(certificates: &Certificates, sessions: Sessions) -> Result<Self> {
        let chain = vec![CertificateDer::from_pem_file(&certificates.certificate)?];
        let key = PrivateKeyDer::from_pem_file(&certificates.key)?;
        let builder =
            ServerConfig::builder_with_provider(tls::provider()).with_protocol_versions(&[&TLS13])?;
        let mut config = builder.with_no_client_auth().with_single_cert(chain, key)?;
        match sessions {
            Sessions::Fresh => config.send_tls13_tickets = 0,
            Sessions::Resumed => config.ticketer = ring::Ticketer::new()?,
        }
        let config = Arc::new(config);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
        let target = Target {
            address: listener.local_addr()?,
            // Any will do.
            password: Some(random_password()?),
            authority: Some(certificates.authority.clone()),
        };
        let shaken = Arc::<Shaken>::default();
        let counter = Arc::clone(&shaken);
        thread::spawn(move || {
            for socket in listener.incoming().flatten() {
                let (config, counter) = (Arc::clone(&config), Arc::clone(&counter));
                // What goes wrong is seen by the client, which gets no answer.
                thread::spawn(move || answer(socket, config, &counter).ok());
            }
        });
        Ok(Self { target, shaken })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }

    /// How many handshakes there were: all, and those of them that resumed a session.
    pub fn handshakes(&self) -> (u64, u64) {
        let resumed = self.shaken.resumed.load(Ordering::Relaxed);
        (self.shaken.fresh.load(Ordering::Relaxed) + resumed, resumed)
    }
}

fn answer(socket: TcpStream, config: Arc<ServerConfig>, shaken: &Shaken) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = StreamOwned::new(ServerConnection::new(config)?, socket);
    let mut is_known = false;
    let mut chunk = [0; 1024];
    loop {
        let length = stream.read(&mut chunk)?;
        if length == 0 {
            return Ok(());
        }
        if !is_known {
            let resumed = stream.conn.handshake_kind() == Some(HandshakeKind::Resumed);
            let counter = if resumed { &shaken.resumed } else { &shaken.fresh };
            counter.fetch_add(1, Ordering::Relaxed);
            is_known = true;
        }
        // Each command comes in one piece, being written at once and much smaller than any buffer on the way.
        let words = chunk[..length].split(|byte| *byte == b'\n');
        let replies = words.filter_map(|word| match word {
            b"AUTH\r" => Some(b"+OK\r\n".as_slice()),
            b"PING\r" => Some(b"+PONG\r\n".as_slice()),
            _ => None,
        });
        stream.write_all(&replies.collect::<Vec<_>>().concat())?;
    }
}

/// A way to a target on which every byte takes a set time, in either direction.
pub struct LongWay {
    target: Target,
}

/// What connecting over a long way takes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Connecting {
    NoTime,
    /// There and back, as on a network. The client believes to be connected at once; what it says waits for so long.
    RoundTrip,
}

impl LongWay {
    pub fn start(target: &Target, delay: Duration, connecting: Connecting) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port()?))?;
        let way = Target { address: listener.local_addr()?, ..target.clone() };
        let end = target.address;
        thread::spawn(move || {
            for near in listener.incoming().flatten() {
                // Where it can't go on, the client sees its connection end.
                thread::spawn(move || {
                    if connecting == Connecting::RoundTrip {
                        thread::sleep(2 * delay);
                    }
                    forward(&near, end, delay).ok()
                });
            }
        });
        Ok(Self { target: way })
    }

    pub fn target(&self) -> &Target {
        &self.target
    }
}

fn forward(near: &TcpStream, end: SocketAddr, delay: Duration) -> Result<()> {
    let far = TcpStream::connect(end)?;
    for socket in [near, &far] {
        socket.set_nodelay(true)?;
    }
    thread::scope(|scope| {
        scope.spawn(|| carry(near, &far, delay));
        carry(&far, near, delay);
    });
    Ok(())
}

/// Carries what was written at once later and at once, which is right for requests that await their replies.
fn carry(mut from: &TcpStream, mut to: &TcpStream, delay: Duration) {
    let mut chunk = vec![0; 64 * 1024];
    loop {
        let length = from.read(&mut chunk).unwrap_or(0);
        thread::sleep(delay);
        if length == 0 || to.write_all(&chunk[..length]).is_err() {
            // Either side may be gone for good by now.
            let _ = to.shutdown(Shutdown::Write);
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Without a round trip for connecting an answer takes the way there and back, with one twice as long.
    #[test]
    fn a_long_way_takes_its_time() {
        const DELAY: Duration = Duration::from_millis(20);
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut byte = [0];
                // A client that is not answered fails.
                let _ = stream.read_exact(&mut byte).and_then(|()| stream.write_all(&byte));
            }
        });
        let target = Target { address, password: None, authority: None };
        for (connecting, least) in [(Connecting::NoTime, 2 * DELAY), (Connecting::RoundTrip, 4 * DELAY)] {
            let way = LongWay::start(&target, DELAY, connecting).expect("a way");
            let start = Instant::now();
            let mut stream = TcpStream::connect(way.target().address).expect("connected");
            stream.write_all(b"?").expect("sent");
            stream.read_exact(&mut [0]).expect("answered");
            assert!(start.elapsed() >= least, "{:?}", start.elapsed());
        }
    }
}
