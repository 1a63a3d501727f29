//! What a service manager is told, by the protocol of `sd_notify(3)`.

use std::net::TcpListener;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{Launch, PATIENCE, Target, password, random};

/// The socket of a service manager.
struct Manager {
    socket: UnixDatagram,
    name: String,
    _directory: Option<TempDir>,
}

impl Manager {
    fn at_a_path() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let name = directory.path().join("notify").display().to_string();
        let socket = UnixDatagram::bind(&name).expect("a socket");
        Self::with(socket, name, Some(directory))
    }

    fn without_a_path() -> Self {
        let name = format!("redis-ambassador-test-{}", random());
        let address = SocketAddr::from_abstract_name(&name).expect("a short name");
        Self::with(UnixDatagram::bind_addr(&address).expect("a socket"), format!("@{name}"), None)
    }

    fn with(socket: UnixDatagram, name: String, directory: Option<TempDir>) -> Self {
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self { socket, name, _directory: directory }
    }

    /// The next message.
    #[track_caller]
    fn hears(&self) -> String {
        let mut message = [0; 8192];
        let len = self.socket.recv(&mut message).expect("a message");
        // systemd reads no longer ones.
        assert!(len <= 4096, "{len} bytes");
        String::from_utf8(message[..len].to_vec()).expect("UTF-8")
    }

    /// There is no message, and nobody is left who could send one.
    #[track_caller]
    fn hears_nothing_more(&self) {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut message = [0; 8192];
        if let Ok(len) = self.socket.recv(&mut message) {
            panic!("{}", String::from_utf8_lossy(&message[..len]));
        }
    }
}

/// Ready is who listens, with what it serves; stopping is who drains, and it says how long that may take.
#[test]
fn the_service_manager_hears_when_all_listen_and_when_the_drain_begins() {
    for manager in [Manager::at_a_path(), Manager::without_a_path()] {
        let echo = Target::start().echo();
        let ambassador = Launch::plain(echo.address())
            .redis_link("REDIS", echo.address())
            .variable("NOTIFY_SOCKET", &manager.name)
            .variable("AMBASSADOR_DRAIN_DELAY", "100ms")
            .variable("AMBASSADOR_DRAIN_TIMEOUT", "1m")
            .start_in_silence();
        let ready = manager.hears();
        let (db, redis) = (ambassador.listens("db:5432"), ambassador.listens("redis:6379"));
        assert_eq!(ready, format!("READY=1\nSTATUS=Serving db:5432 on {db}, redis:6379 on {redis}"));
        let mut client = ambassador.connect("db:5432");
        client.send(b"hello");
        client.expect(b"hello");

        ambassador.signal(Signal::TERM);
        assert_eq!(
            manager.hears(),
            "STOPPING=1\nSTATUS=Draining connections: 1\nEXTEND_TIMEOUT_USEC=62100000"
        );
        client.expect_end();
        assert_eq!(ambassador.finish().code, Some(0));
        manager.hears_nothing_more();
    }
}

/// So `systemctl start` fails, and says so.
#[test]
fn the_service_manager_never_hears_ready_while_a_port_is_taken() {
    let manager = Manager::at_a_path();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let finished = Launch::plain("127.0.0.1:1")
        .variable("REDIS_PORT_6379_TCP", "tcp://127.0.0.1:1")
        .variable("REDIS_LISTEN", format!("127.0.0.1:{port}"))
        .variable("NOTIFY_SOCKET", &manager.name)
        .finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    manager.hears_nothing_more();
}

/// Twice in the interval that the manager has set, through the drain to the end.
#[test]
fn a_watchdog_hears_that_the_service_is_alive() {
    let manager = Manager::at_a_path();
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("WATCHDOG_USEC", "50000")
        .variable("AMBASSADOR_THREADS", "4")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "10m")
        .start();
    assert!(manager.hears().starts_with("READY=1\n"));
    for _ in 0..5 {
        assert_eq!(manager.hears(), "WATCHDOG=1");
    }
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    client.send(b"BLPOP queue 0\r\n");
    server.expect(b"BLPOP queue 0\r\n");
    ambassador.signal(Signal::TERM);
    while !manager.hears().starts_with("STOPPING=1\n") {}
    for _ in 0..5 {
        assert_eq!(manager.hears(), "WATCHDOG=1");
    }
}

/// Variables that were inherited from a service are not meant for its child.
#[test]
fn the_watchdog_of_another_process_hears_nothing() {
    let manager = Manager::at_a_path();
    let ambassador = Launch::plain("127.0.0.1:1")
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("WATCHDOG_USEC", "50000")
        .variable("WATCHDOG_PID", "1")
        .start();
    assert!(manager.hears().starts_with("READY=1\n"));
    ambassador.signal(Signal::TERM);
    assert!(manager.hears().starts_with("STOPPING=1\n"));
    assert_eq!(ambassador.finish().code, Some(0));
    manager.hears_nothing_more();
}

/// However many links there are, the message is one that systemd reads.
#[test]
fn the_status_of_many_links_is_shortened() {
    let manager = Manager::at_a_path();
    let links = (0..200)
        .fold(Launch::new(), |launch, number| launch.plain_link(&format!("A_LINK_{number}"), "127.0.0.1:1"));
    let _ambassador = links.variable("NOTIFY_SOCKET", &manager.name).start();
    let ready = manager.hears();
    assert!(
        ready.starts_with("READY=1\nSTATUS=Serving a_link_0:5432 on ") && ready.ends_with('…'),
        "{ready}"
    );
}

/// It serves without it, and says what is wrong.
#[test]
fn a_service_manager_that_cannot_be_reached_is_a_warning() {
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address()).variable("NOTIFY_SOCKET", "/nowhere/to/be/found").start();
    let warning = ambassador.wait_for("the service manager can't be told");
    assert_eq!((&warning["level"], &warning["error"]), (&"WARN".into(), &"No such file or directory".into()));
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
}

/// A program that gives a password can't speak for the service.
#[test]
fn programs_do_not_know_the_service_manager() {
    let manager = Manager::at_a_path();
    let secret = password();
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("WATCHDOG_USEC", "50000000")
        .variable(
            "REDIS_AUTH_COMMAND",
            format!("/bin/sh -c 'echo ${{NOTIFY_SOCKET}}${{WATCHDOG_USEC}}{secret}'"),
        )
        .start();
    let _client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    let auth = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{secret}\r\n", secret.len());
    server.expect(auth.as_bytes());
}
