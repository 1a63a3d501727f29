//! What systemd is told, by the protocol of `sd_notify(3)`: that the service is ready, alive, stopping, and what it does;
//! and the sockets that it passes, by that of `sd_listen_fds(3)`. Other service managers speak both, too.

use std::convert::Infallible;
use std::env;
use std::ffi::OsStr;
use std::future::pending;
use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram as Socket};
use std::process;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use listenfd::ListenFd;
use rustix::cmsg_space;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use tokio::io::Interest;
use tokio::net::UnixDatagram;
use tokio::time::timeout;

use crate::text;
use crate::workers::Workers;

/// The variables of the protocols. They are meant for this process alone.
pub const VARIABLES: [&str; 8] =
    [SOCKET, INTERVAL, PROCESS, STORE, PASSED, PASSED_TO, "LISTEN_FDNAMES", "LISTEN_PIDFDID"];

const SOCKET: &str = "NOTIFY_SOCKET";
const INTERVAL: &str = "WATCHDOG_USEC";
const PROCESS: &str = "WATCHDOG_PID";
const STORE: &str = "FDSTORE";
const PASSED: &str = "LISTEN_FDS";
const PASSED_TO: &str = "LISTEN_PID";

/// The wait for room in the socket's queue; a manager that does not read must not keep the service from its work.
const PATIENCE: Duration = Duration::from_secs(1);

/// Bytes of a status: systemd reads no message of more than 4096.
const MAX_STATUS: usize = 1024;

/// The interval at which the status is looked at, and told where it has changed.
const STATUS_INTERVAL: Duration = Duration::from_secs(2);

/// A descriptor that the service manager has passed.
#[derive(Debug)]
pub struct Passed {
    /// `FileDescriptorName=` of its unit, or the name that it was [stored](ServiceManager::store) under.
    pub name: String,
    /// None where it is no stream socket. Then it stays open, for nothing.
    pub socket: Option<OwnedFd>,
}

/// Takes what the service manager has passed; programs that are started do not inherit it. To be called once, while the
/// process has one thread and no other descriptors.
pub fn passed() -> Vec<Passed> {
    let count = env::var(PASSED).ok();
    let named = sd_notify::listen_fds().and_then(|passed| match passed.len() {
        // Names of what was passed to another process are its own.
        0 => Ok(Vec::new()),
        _ => Ok(sd_notify::listen_fds_with_names()?.map(|(_, name)| name).collect()),
    });
    let named = match named {
        Ok(named) => named,
        Err(error) => {
            tracing::warn!(
                target: "listen",
                error = text::io_error(&error),
                LISTEN_FDS = count,
                remedy = "check what starts this process: LISTEN_FDS, LISTEN_PID and LISTEN_FDNAMES are set by it",
                "sockets of the service manager passed over"
            );
            return Vec::new();
        }
    };
    if named.is_empty() {
        if count.is_some_and(|count| count != "0") {
            tracing::warn!(
                target: "listen",
                LISTEN_PID = env::var(PASSED_TO).ok(),
                process = process::id(),
                remedy = "start the program itself, or by exec: sockets are passed to one process alone",
                "sockets passed over that the service manager has passed to another process"
            );
        }
        return Vec::new();
    }
    let mut taken = ListenFd::from_env();
    let mut take = |index| {
        let tcp = taken.take_tcp_listener(index).ok().flatten().map(OwnedFd::from);
        tcp.or_else(|| taken.take_unix_listener(index).ok().flatten().map(OwnedFd::from))
    };
    named.into_iter().enumerate().map(|(index, name)| Passed { name, socket: take(index) }).collect()
}

/// The service manager, if it asked to be told.
#[derive(Default)]
pub struct ServiceManager {
    // Opened once: descriptors may run out later.
    socket: Option<UnixDatagram>,
    watchdog: Option<Duration>,
    /// So many descriptors it keeps at the most, and so many of them are stored.
    most_stored: usize,
    stored: AtomicUsize,
    /// Whether the last message could not be sent, which was told then.
    is_out_of_reach: AtomicBool,
}

impl ServiceManager {
    /// The one that the environment names; `stored` descriptors of its store are in use. Must be called within a runtime.
    pub fn from_environment(stored: usize) -> Self {
        let Some(name) = env::var_os(SOCKET).filter(|name| !name.is_empty()) else {
            return Self::default();
        };
        let socket = connect(name.as_bytes()).inspect_err(warn).ok();
        let most_stored = number(STORE).and_then(|most| usize::try_from(most).ok()).unwrap_or_default();
        Self { socket, watchdog: watchdog(), most_stored, stored: stored.into(), ..Self::default() }
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

    /// Has the status told while it changes, and never returns.
    pub async fn keep_status(&self, status: impl Fn() -> String) -> Infallible {
        if self.socket.is_none() {
            return pending().await;
        }
        let mut told = status();
        let mut ticks = tokio::time::interval(STATUS_INTERVAL);
        loop {
            ticks.tick().await;
            let current = status();
            if current != told {
                self.tell(&format!("STATUS={}", shortened(&current))).await;
                told = current;
            }
        }
    }

    /// Has it keep a descriptor for the next process of the service, under this name. Returns whether it does.
    pub async fn store(&self, name: &str, descriptor: BorrowedFd<'_>) -> bool {
        if self.most_stored == 0 {
            return false;
        }
        let stored = self.stored.fetch_add(1, Ordering::Relaxed);
        if stored == self.most_stored {
            tracing::warn!(
                target: "listen",
                FileDescriptorStoreMax = self.most_stored,
                remedy = "raise both FileDescriptorStoreMax= and Environment=FDSTORE= in the unit to as many as there are listeners",
                "the service manager stores no more listeners: those that are not stored are closed by a restart"
            );
        }
        if stored < self.most_stored
            && self.send(&format!("FDSTORE=1\nFDNAME={name}"), &[descriptor], self.patience()).await
        {
            return true;
        }
        self.stored.fetch_sub(1, Ordering::Relaxed);
        false
    }

    /// Has it close a descriptor that is in use no more.
    pub async fn take_back(&self, name: &str) {
        self.forget(name).await;
        self.stored.fetch_sub(1, Ordering::Relaxed);
    }

    /// Has it close what it may have stored under this name.
    pub async fn forget(&self, name: &str) {
        self.send(&format!("FDSTOREREMOVE=1\nFDNAME={name}"), &[], self.patience()).await;
    }

    async fn tell(&self, message: &str) {
        self.send(message, &[], PATIENCE).await;
    }

    /// The wait for what there may be much of, listener by listener: none where it was in vain before.
    fn patience(&self) -> Duration {
        if self.is_out_of_reach.load(Ordering::Relaxed) { Duration::ZERO } else { PATIENCE }
    }

    /// Returns whether it was sent. What goes wrong is told.
    async fn send(&self, message: &str, descriptors: &[BorrowedFd<'_>], patience: Duration) -> bool {
        let Some(socket) = &self.socket else { return false };
        let sent = timeout(
            patience,
            socket.async_io(Interest::WRITABLE, || {
                let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
                let mut attached = SendAncillaryBuffer::new(&mut space);
                if !descriptors.is_empty() {
                    attached.push(SendAncillaryMessage::ScmRights(descriptors));
                }
                let message = [IoSlice::new(message.as_bytes())];
                Ok(sendmsg(socket, &message, &mut attached, SendFlags::NOSIGNAL)?)
            }),
        );
        let sent = sent.await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let was_out_of_reach = self.is_out_of_reach.swap(sent.is_err(), Ordering::Relaxed);
        sent.inspect_err(|error| {
            if !was_out_of_reach {
                warn(error);
            }
        })
        .is_ok()
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

fn number(variable: &str) -> Option<u64> {
    env::var(variable).ok()?.parse().ok()
}

/// The interval within which the manager wants to hear from this process.
fn watchdog() -> Option<Duration> {
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
