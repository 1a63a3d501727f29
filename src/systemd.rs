//! What systemd is told, by the protocol of `sd_notify(3)`: that the service is ready, alive, stopping. Other service
//! managers speak it too.

use std::env;
use std::ffi::OsStr;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as Socket};
use std::process;
use std::time::Duration;

use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::text;
use crate::workers::Workers;

/// The variables of the protocol. They are meant for this process alone.
pub const VARIABLES: [&str; 3] = [SOCKET, INTERVAL, PROCESS];

const SOCKET: &str = "NOTIFY_SOCKET";
const INTERVAL: &str = "WATCHDOG_USEC";
const PROCESS: &str = "WATCHDOG_PID";

/// The wait for room in the socket's queue; a manager that does not read must not keep the service from its work.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a status: systemd reads no message of more than 4096.
const MAX_STATUS: usize = 1024;

/// The service manager, if it asked to be told.
#[derive(Default)]
pub struct ServiceManager {
    // Opened once: descriptors may run out later.
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
}

impl ServiceManager {
    /// The one that the environment names. Must be called within a runtime.
    pub fn from_environment() -> Self {
        let Some(name) = env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let socket = connect(name.as_bytes()).inspect_err(warn).ok();
        Self { socket, watchdog: watchdog() }
    }

    pub async fn ready(&self, status: &str) {
        self.tell(&format!("READY=1\nSTATUS={}", shortened(status))).await;
    }

    /// The drain begins, and ends after `longest`: systemd does not kill the service before.
    pub async fn stopping(&self, status: &str, longest: Duration) {
        let longest = longest.as_micros();
        let status = shortened(status);
        self.tell(&format!("STOPPING=1\nSTATUS={status}\nEXTEND_TIMEOUT_USEC={longest}")).await;
    }

    /// Says twice in the interval that the manager has set that the service is alive, unless one of its workers hangs.
    /// Returns at once where no interval is set.
    pub async fn keep_alive(&self, workers: &Workers) {
        let Some(interval) = self.watchdog else { return };
        let mut ticks = tokio::time::interval(interval / 2);
        loop {
            ticks.tick().await;
            workers.respond().await;
            self.tell("WATCHDOG=1").await;
        }
    }

    async fn tell(&self, message: &str) {
        let Some(socket) = &self.socket else { return };
        let sent = timeout(PATIENCE, socket.send(message.as_bytes())).await;
        if let Err(error) = sent.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
            warn(&error);
        }
    }
}

fn connect(name: &[u8]) -> io::Result<UnixDatagram> {
    let address = match name.strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name),
        None => SocketAddr::from_pathname(OsStr::from_bytes(name)),
    };
    let socket = Socket::unbound()?;
    socket.connect_addr(&address?)?;
    socket.set_nonblocking(true)?;
    UnixDatagram::from_std(socket)
}

/// The interval within which the manager wants to hear from this process.
fn watchdog() -> Option<Duration> {
    let number = |name| env::var(name).ok().and_then(|value| value.parse().ok());
    let is_ours = env::var_os(PROCESS).is_none() || number(PROCESS) == Some(process::id().into());
    let interval = number(INTERVAL).filter(|interval| is_ours && *interval > 0)?;
    Some(Duration::from_micros(interval))
}

/// One line that fits into a message.
fn shortened(status: &str) -> String {
    let mut line = text::one_line(status.as_bytes());
    if line.len() > MAX_STATUS {
        line.truncate(line.floor_char_boundary(MAX_STATUS));
        line.push('…');
    }
    line
}

fn warn(error: &io::Error) {
    tracing::warn!(
        target: "process",
        error = text::io_error(error),
        remedy = "start it without NOTIFY_SOCKET, or let it reach that socket",
        "the service manager can't be told"
    );
}
