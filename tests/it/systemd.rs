//! What a service manager is told, by the protocol of `sd_notify(3)`, and what it passes, by that of `sd_listen_fds(3)`.

use std::fs;
use std::io::{self, IoSlice, IoSliceMut, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr as NetAddress, TcpListener, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustix::cmsg_space;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};
use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Ambassador, Launch, PATIENCE, Peer, Target, command_is_missing, eventually, get, own_address, password,
    play_server, random,
};

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
        self.hears_with_descriptors().0
    }

    /// The next message, and the descriptors that came with it.
    #[track_caller]
    fn hears_with_descriptors(&self) -> (String, Vec<OwnedFd>) {
        let mut message = [0; 8192];
        let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(8))];
        let mut attached = RecvAncillaryBuffer::new(&mut space);
        let mut parts = [IoSliceMut::new(&mut message)];
        let len = recvmsg(&self.socket, &mut parts, &mut attached, RecvFlags::CMSG_CLOEXEC)
            .expect("a message")
            .bytes;
        // systemd reads no longer ones.
        assert!(len <= 4096, "{len} bytes");
        let descriptors = attached.drain().filter_map(|attached| match attached {
            RecvAncillaryMessage::ScmRights(descriptors) => Some(descriptors),
            _ => None,
        });
        let descriptors = descriptors.flatten().collect();
        (String::from_utf8(message[..len].to_vec()).expect("UTF-8"), descriptors)
    }

    /// The next message that is not only a new status.
    #[track_caller]
    fn hears_beside_the_status(&self) -> String {
        loop {
            let message = self.hears();
            if !message.starts_with("STATUS=") {
                return message;
            }
        }
    }

    /// There is no message beside the status, and nobody is left who could send one.
    #[track_caller]
    fn hears_nothing_more(&self) {
        self.socket.set_nonblocking(true).expect("a socket");
        let mut message = [0; 8192];
        while let Ok(len) = self.socket.recv(&mut message) {
            let message = String::from_utf8_lossy(&message[..len]);
            assert!(message.starts_with("STATUS="), "{message}");
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
        let serving = format!("db:5432 on {db}, redis:6379 on {redis}");
        assert_eq!(ready, format!("READY=1\nSTATUS=Serving 0 clients: {serving}"));
        let mut client = ambassador.connect("db:5432");
        client.send(b"hello");
        client.expect(b"hello");

        ambassador.signal(Signal::TERM);
        assert_eq!(
            manager.hears_beside_the_status(),
            "STOPPING=1\nSTATUS=Draining connections: 1\nEXTEND_TIMEOUT_USEC=62100000"
        );
        client.expect_end();
        assert_eq!(ambassador.finish().code, Some(0));
        manager.hears_nothing_more();
    }
}

/// While it serves and while it drains.
#[test]
fn the_status_follows_the_number_of_clients() {
    let manager = Manager::at_a_path();
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("NOTIFY_SOCKET", &manager.name).start();
    let serving = format!("redis:6379 on {}", ambassador.listens("redis:6379"));
    assert_eq!(manager.hears(), format!("READY=1\nSTATUS=Serving 0 clients: {serving}"));
    let busy = || {
        let (mut client, mut server) = (ambassador.connect("redis:6379"), target.accept());
        client.send(b"BLPOP queue 0\r\n");
        server.expect(b"BLPOP queue 0\r\n");
        (client, server)
    };
    let _one = busy();
    assert_eq!(manager.hears(), format!("STATUS=Serving 1 client: {serving}"));
    let (mut client, mut server) = busy();
    ambassador.signal(Signal::TERM);
    let stopping = manager.hears_beside_the_status();
    assert!(stopping.starts_with("STOPPING=1\nSTATUS=Draining connections: 2\n"), "{stopping}");
    server.send(b"*-1\r\n");
    client.expect(b"*-1\r\n");
    client.expect_end();
    assert_eq!(manager.hears(), "STATUS=Draining connections: 1");
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
        ready.starts_with("READY=1\nSTATUS=Serving 0 clients: a_link_0:5432 on ") && ready.ends_with('…'),
        "{ready}"
    );
}

/// It serves without it, and says what is wrong.
#[test]
fn a_service_manager_that_cannot_be_reached_is_a_warning() {
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address())
        .variable("NOTIFY_SOCKET", "/nowhere/to/be/found")
        .variable("FDSTORE", "8")
        .start();
    let warning = ambassador.wait_for("the service manager can't be told");
    assert_eq!((&warning["level"], &warning["error"]), (&"WARN".into(), &"No such file or directory".into()));
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
}

/// One that goes away is told once, however often there is something to say; everything goes on.
#[test]
fn a_service_manager_that_goes_away_is_one_warning() {
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address())
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("WATCHDOG_USEC", "20000")
        .start();
    drop(manager);
    ambassador.wait_for("the service manager can't be told");
    let mut client = ambassador.connect("db:5432");
    exchange(&mut client);
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    drop(client);
    let finished = ambassador.finish();
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.stderr.matches("can't be told").count(), 1, "{}", finished.stderr);
}

/// One that reads nothing is waited for once, however many listeners it is to store, and not while clients are served.
#[test]
fn a_service_manager_that_does_not_read_holds_up_nothing() {
    let manager = Manager::at_a_path();
    let stranger = UnixDatagram::unbound().expect("a socket");
    stranger.set_nonblocking(true).expect("a socket");
    while stranger.send_to(b"STATUS=", &manager.name).is_ok() {}
    let echo = Target::start().echo();
    let links = (0..20)
        .fold(Launch::new(), |launch, number| launch.plain_link(&format!("A_LINK_{number}"), echo.address()));
    let begun = Instant::now();
    let ambassador = links
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("FDSTORE", "64")
        .variable("WATCHDOG_USEC", "20000")
        .start();
    let mut client = ambassador.connect("a_link_19:5432");
    exchange(&mut client);
    let warning = ambassador.wait_for("the service manager can't be told");
    assert_eq!(warning["error"], "timed out", "{warning}");
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    // A second for each listener would be twenty.
    assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
    assert_eq!(finished.code, Some(0));
    assert_eq!(finished.stderr.matches("can't be told").count(), 1, "{}", finished.stderr);
}

/// A program that gives a password can't speak for the service.
#[test]
fn programs_do_not_know_the_service_manager() {
    let manager = Manager::at_a_path();
    let secret = password();
    let target = Target::start();
    let launch = Launch::redis(target.address())
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("FDSTORE", "1")
        .variable("WATCHDOG_USEC", "50000000")
        .variable(
            "REDIS_AUTH_COMMAND",
            // What was passed is not inherited either.
            format!(
                "/bin/sh -c 'for fd in 3 4 5; do test -e /proc/$$/fd/$fd && echo $fd; done; \
                 echo ${{NOTIFY_SOCKET}}${{WATCHDOG_USEC}}${{LISTEN_FDS}}${{LISTEN_PID}}${{LISTEN_FDNAMES}}${{FDSTORE}}{secret}'"
            ),
        );
    let (pipe, _other_end) = io::pipe().expect("a pipe");
    let launch = if command_is_missing("python3") {
        launch
    } else {
        Passing::default()
            .and("redis-6379", listening().0)
            .and("unused", listening().0)
            .and("pipe", pipe)
            .to(launch)
    };
    let ambassador = launch.start();
    let _client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    let auth = format!("*2\r\n$4\r\nAUTH\r\n${}\r\n{secret}\r\n", secret.len());
    server.expect(auth.as_bytes());
}

/// Becomes the program behind it, with the descriptors that come over the socket of that name, as a service manager starts it.
const PASS: &str = r#"
import array, fcntl, os, socket, sys
giver = socket.socket(socket.AF_UNIX)
giver.connect("\0" + sys.argv[1])
names, attached, _, _ = giver.recvmsg(4096, socket.CMSG_SPACE(16 * 4), socket.MSG_CMSG_CLOEXEC)
given = array.array("i", attached[0][2]) if attached else []
given = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 100) for fd in given]
for number, fd in enumerate(given):
    os.dup2(fd, 3 + number)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS=str(len(given)), LISTEN_FDNAMES=names.decode())
os.execv(sys.argv[2], sys.argv[2:])
"#;

/// What a service manager passes, each with its name.
#[derive(Default)]
struct Passing(Vec<(String, OwnedFd)>);

impl Passing {
    fn and(mut self, name: &str, descriptor: impl Into<OwnedFd>) -> Self {
        self.0.push((name.to_owned(), descriptor.into()));
        self
    }

    /// Has the ambassador started with it; nothing of it is left here.
    fn to(self, launch: Launch) -> Launch {
        let place = format!("redis-ambassador-test-{}", random());
        let address = SocketAddr::from_abstract_name(&place).expect("a short name");
        let giver = UnixListener::bind_addr(&address).expect("a socket");
        thread::spawn(move || {
            let (taker, _) = giver.accept().expect("a launcher");
            let names = self.0.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(":");
            let descriptors: Vec<BorrowedFd<'_>> =
                self.0.iter().map(|(_, descriptor)| descriptor.as_fd()).collect();
            let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(16))];
            let mut attached = SendAncillaryBuffer::new(&mut space);
            attached.push(SendAncillaryMessage::ScmRights(&descriptors));
            sendmsg(&taker, &[IoSlice::new(names.as_bytes())], &mut attached, SendFlags::empty())
                .expect("a message");
        });
        launch.under(&["python3", "-c", PASS, &place])
    }
}

fn listening() -> (TcpListener, NetAddress) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    (listener, address)
}

#[track_caller]
fn exchange(client: &mut Peer) {
    client.send(b"hello");
    client.expect(b"hello");
}

/// The client who waited at the socket before there was a process is served: by the link that the socket is named after,
/// or by the one that listens at its address. The admin endpoint has its own, too.
#[test]
fn clients_are_served_who_came_to_passed_sockets_before_the_start() {
    if command_is_missing("python3") {
        return;
    }
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("named");
    let ((named, at_name), (by_address, at_address), (admin, at_admin)) =
        (listening(), listening(), listening());
    let unix = UnixListener::bind(&path).expect("a socket");
    let mut clients = [Peer::connect(at_name), Peer::connect_unix(&path), Peer::connect(at_address)];
    for client in &mut clients {
        client.send(b"hello");
    }
    let launch = Launch::plain(echo.address())
        .plain_link("OTHER", echo.address())
        // Where the link listens of which none is named.
        .variable("OTHER_LISTEN", at_address.to_string())
        // The port is taken: it is the socket's name that counts.
        .variable("DB_LISTEN", at_address.to_string().replace("127.0.0.1", "127.0.0.2"))
        .variable("AMBASSADOR_ADMIN", at_admin.to_string());
    let passing = Passing::default()
        .and("db-5432", named)
        .and("redis-ambassador.socket", by_address)
        .and("db-5432", unix)
        .and("admin", admin);
    let ambassador = passing.to(launch).start();
    for client in &mut clients {
        client.expect(b"hello");
    }
    assert_eq!(ambassador.listens("db:5432"), format!("{at_name},unix:{}", path.display()));
    assert_eq!(ambassador.listens("other:5432"), at_address.to_string());
    assert_eq!(ambassador.admin(), at_admin);
    assert!(get(at_admin, "/readyz").status == 200);

    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    // It is somebody else's.
    assert!(path.exists());
}

/// A socket that no link wants is closed, whatever is no socket is passed over, and links without a socket listen by
/// themselves; all of them are told, with what to do.
#[test]
fn sockets_without_a_link_and_links_without_a_socket_are_told() {
    if command_is_missing("python3") {
        return;
    }
    let echo = Target::start().echo();
    let ((wide, at_wide), (stranger, at_stranger)) = (listening(), listening());
    // Wider than what the link may listen on.
    drop(wide);
    let wide = TcpListener::bind(("0.0.0.0", at_wide.port())).expect("a port");
    let datagrams = UnixDatagram::unbound().expect("a socket");
    let connected = TcpStream::connect(at_stranger).expect("a connection");
    let (pipe, _other_end) = io::pipe().expect("a pipe");
    let ambassador = Passing::default()
        .and("wide", wide)
        .and("redis-6380", stranger)
        .and("datagrams", datagrams)
        .and("connected", connected)
        .and("pipe", pipe)
        .to(Launch::plain(echo.address()))
        .start();
    for (name, listen) in
        [("wide", format!("0.0.0.0:{}", at_wide.port())), ("redis-6380", at_stranger.to_string())]
    {
        let warning = ambassador.wait_for_log(name, |line| line["name"] == name);
        assert_eq!(warning["message"], "socket of the service manager closed: no link listens there");
        assert_eq!((&warning["level"], &warning["listen"]), (&"WARN".into(), &listen.into()));
        let remedy = warning["remedy"].as_str().expect("a remedy");
        assert!(remedy.contains("FileDescriptorName=") && remedy.contains("(db-5432, admin)"), "{remedy}");
    }
    for name in ["datagrams", "connected", "pipe"] {
        let warning = ambassador.wait_for_log(name, |line| line["name"] == name);
        assert_eq!(
            warning["message"],
            "descriptor of the service manager passed over: it is no listening socket"
        );
        assert!(warning["remedy"].as_str().is_some_and(|remedy| remedy.contains("Accept=no")), "{warning}");
    }
    for link in ["db:5432", "admin"] {
        let told = ambassador.wait_for_log(link, |line| {
            line["message"] == "listening without a socket of the service manager" && line["link"] == link
        });
        assert!(
            told["remedy"].as_str().is_some_and(|remedy| remedy.contains(&link.replace(':', "-"))),
            "{told}"
        );
    }
    exchange(&mut ambassador.connect("db:5432"));
    Peer::try_connect(at_stranger).expect_err("nobody listens there");
}

/// Variables that were inherited, or are wrong, are told, and the links listen by themselves.
#[test]
fn sockets_for_another_process_and_malformed_variables_are_passed_over() {
    let echo = Target::start().echo();
    let own = std::process::id().to_string();
    let cases: [(&[(&str, &str)], &str); 6] = [
        (&[("LISTEN_PID", &own), ("LISTEN_FDS", "1")], "to another process"),
        (&[("LISTEN_PID", &own), ("LISTEN_FDS", "1"), ("LISTEN_FDNAMES", "db-5432")], "to another process"),
        (&[("LISTEN_FDS", "1")], "to another process"),
        (&[("LISTEN_PID", "$$"), ("LISTEN_FDS", "many")], "sockets of the service manager passed over"),
        (&[("LISTEN_PID", "$$"), ("LISTEN_FDS", "4294967295")], "sockets of the service manager passed over"),
        (&[("LISTEN_PID", "one"), ("LISTEN_FDS", "1")], "sockets of the service manager passed over"),
    ];
    for (variables, warning) in cases {
        let assignments: Vec<_> = variables.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let script = format!(r#"{} exec "$0" "$@""#, assignments.join(" "));
        let ambassador = Launch::plain(echo.address()).under(&["/bin/sh", "-c", &script]).start();
        let told = ambassador.wait_for_log(warning, |line| {
            line["message"].as_str().is_some_and(|message| message.contains(warning))
        });
        assert_eq!(told["level"], "WARN", "{told}");
        assert!(told["remedy"].is_string(), "{told}");
        exchange(&mut ambassador.connect("db:5432"));
    }
}

impl Manager {
    /// What is stored from now on, until the next other message, with its names; and that message.
    #[track_caller]
    fn stores(&self) -> (Passing, String) {
        let mut stored = Passing::default();
        loop {
            let (message, mut descriptors) = self.hears_with_descriptors();
            let Some(name) = message.strip_prefix("FDSTORE=1\nFDNAME=") else { return (stored, message) };
            // The characters and the length that systemd allows.
            assert!(name.len() < 256 && name.chars().all(|c| c.is_ascii_graphic() && c != ':'), "{name}");
            stored = stored.and(name, descriptors.pop().expect("a descriptor"));
            assert!(descriptors.is_empty(), "{message}");
        }
    }
}

impl Passing {
    /// The same descriptors once more, as a manager has them.
    fn again(&self) -> Self {
        let again =
            |(name, socket): &(String, OwnedFd)| (name.clone(), socket.try_clone().expect("a descriptor"));
        Self(self.0.iter().map(again).collect())
    }

    fn names(&self) -> Vec<&str> {
        self.0.iter().map(|(name, _)| name.as_str()).collect()
    }
}

/// Clients that come and go all the time; each of them must be served.
struct Coming {
    stop: Arc<AtomicBool>,
    served: Arc<AtomicUsize>,
    clients: Vec<JoinHandle<io::Result<()>>>,
}

impl Coming {
    fn to(address: NetAddress) -> Self {
        let (stop, served) = (Arc::<AtomicBool>::default(), Arc::<AtomicUsize>::default());
        let clients = (0..4).map(|_| {
            let (stop, served) = (Arc::clone(&stop), Arc::clone(&served));
            thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let mut client = TcpStream::connect(address)?;
                    client.set_read_timeout(Some(PATIENCE))?;
                    client.write_all(b"hello")?;
                    client.read_exact(&mut [0; 5])?;
                    served.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self { clients: clients.collect(), stop, served }
    }

    /// Waits for some that came later than now.
    #[track_caller]
    fn go_on(&self) {
        let before = self.served.load(Ordering::Relaxed);
        eventually("clients are served, or one has failed", || {
            self.served.load(Ordering::Relaxed) > before + 20
                || self.clients.iter().any(JoinHandle::is_finished)
        });
    }

    #[track_caller]
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().expect("a thread").expect("every client is served");
        }
    }
}

/// A plain link to that echo, whose listeners the manager stores.
fn stored_by(manager: &Manager, echo: NetAddress, listen: &str) -> Launch {
    Launch::plain(echo)
        .variable("DB_LISTEN", listen)
        .variable("AMBASSADOR_ADMIN", "off")
        .variable("NOTIFY_SOCKET", &manager.name)
        .variable("FDSTORE", "8")
}

/// It stops, and the manager hears of that.
#[track_caller]
fn ends(ambassador: Ambassador, manager: &Manager) {
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    assert!(manager.hears_beside_the_status().starts_with("STOPPING=1\n"));
}

/// While the old process drains and after it has ended, clients wait at the listener that lives on; the next process serves
/// them. The old one's clients are drained as at every stop.
#[test]
fn a_restart_refuses_nobody_where_the_service_manager_stores_the_listeners() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let (address, path) = (own_address(), directory.path().join("socket"));
    let admin = own_address();
    let launch = || {
        stored_by(&manager, echo.address(), &format!("{address},unix:{}", path.display()))
            .variable("AMBASSADOR_ADMIN", admin.to_string())
            .variable("FDSTORE", "3")
    };
    let mut ambassador = launch().start();
    let (stored, ready) = manager.stores();
    assert!(ready.starts_with("READY=1\n"), "{ready}");
    let dashed = |address: &dyn std::fmt::Display| format!("stored-{address}").replace(':', "-");
    let unix = dashed(&format_args!("unix:{}", path.display()));
    assert_eq!(stored.names(), [dashed(&address), unix, dashed(&admin)]);
    let coming = Coming::to(address);
    coming.go_on();
    for _ in 0..2 {
        let mut old = Peer::connect(address);
        exchange(&mut old);
        ambassador.signal(Signal::TERM);
        old.expect_end();
        assert_eq!(ambassador.finish().code, Some(0));
        let mut waiting = [Peer::connect(address), Peer::connect_unix(&path), Peer::connect(address)];
        for client in &mut waiting {
            client.send(b"hello");
        }
        ambassador = stored.again().to(launch()).start();
        for client in &mut waiting {
            client.expect(b"hello");
        }
        coming.go_on();
        // What the manager has is not stored once more.
        assert!(manager.hears_beside_the_status().starts_with("STOPPING=1\n"));
        assert!(manager.hears_beside_the_status().starts_with("READY=1\n"));
    }
    coming.end();
}

/// What is stored and belongs to no link any more, a Unix socket whose file is gone, and what others have stored: all of it
/// is closed and removed from the store, with a word for each.
#[test]
fn what_is_stored_and_not_wanted_is_removed_from_the_store() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let (address, path) = (own_address(), directory.path().join("socket"));
    let launch = |listen: &str| stored_by(&manager, echo.address(), listen);
    let unix = format!("unix:{}", path.display());
    let ambassador = launch(&format!("{address},{unix}")).start();
    let (stored, _) = manager.stores();
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    assert!(manager.hears().starts_with("STOPPING=1\n"));
    // As RuntimeDirectory= does.
    fs::remove_file(&path).expect("a file");

    let (pipe, _other_end) = io::pipe().expect("a pipe");
    let names: Vec<_> = stored.names().into_iter().map(str::to_owned).collect();
    let passing = stored.and("secret", pipe).and("foreign", listening().0);
    let ambassador = passing.to(launch(&unix)).start();
    let mut removed: Vec<_> = (0..4)
        .map(|_| {
            let message = manager.hears();
            message.strip_prefix("FDSTOREREMOVE=1\nFDNAME=").unwrap_or_else(|| panic!("{message}")).to_owned()
        })
        .collect();
    removed.sort();
    let mut expected = vec!["foreign".to_owned(), names[0].clone(), names[1].clone(), "secret".to_owned()];
    expected.sort();
    assert_eq!(removed, expected);
    // It is stored only when the old one of this name is gone.
    assert_eq!(manager.stores().0.names(), [&names[1]]);
    for (name, level) in expected.iter().zip(["WARN", "WARN", "INFO", "INFO"]) {
        assert_eq!(ambassador.wait_for_log(name, |line| line["name"] == **name)["level"], level, "{name}");
    }
    exchange(&mut ambassador.connect("db:5432"));
    // A program that waits at a listener that nobody serves would wait for ever.
    Peer::try_connect(address).expect_err("nobody listens there");
}

/// A start that fails after it has closed what its links do not want tells the service manager nothing: what the next
/// start gets is closed already. That has to bind anew, and with the mode that it is to have.
#[test]
fn a_stored_unix_socket_is_taken_only_while_it_listens_and_has_the_mode_of_now() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let launch = |listen: &str| stored_by(&manager, echo.address(), listen);
    let unix = format!("unix:{}", path.display());
    let mode = || fs::metadata(&path).expect("a file").permissions().mode() & 0o777;
    let ambassador = launch(&unix).variable("DB_LISTEN_MODE", "666").start();
    let (stored, _) = manager.stores();
    assert_eq!(mode(), 0o666);
    ends(ambassador, &manager);

    let other = UnixListener::bind(directory.path().join("other")).expect("a socket");
    let of_umask = other.local_addr().expect("an address");
    let of_umask = of_umask.as_pathname().expect("a path");
    let of_umask = fs::metadata(of_umask).expect("a file").permissions().mode() & 0o777;
    let ambassador = stored.again().to(launch(&unix)).start();
    assert!(manager.hears_beside_the_status().starts_with("READY=1\n"));
    assert_eq!(mode(), of_umask);
    ends(ambassador, &manager);

    let (_taken, taken) = listening();
    let failed = stored.again().to(launch(&taken.to_string())).finish();
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(!path.exists());
    let _ambassador = stored.to(launch(&unix)).start();
    let mut client = Peer::connect_unix(&path);
    exchange(&mut client);
}

/// A start that fails leaves what its links want as it is: who comes meanwhile is served by the next start.
#[test]
fn what_is_stored_and_wanted_outlives_a_start_that_fails() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let unix = format!("unix:{}", path.display());
    let launch = |listen: &str| stored_by(&manager, echo.address(), listen);
    let ambassador = launch(&unix).start();
    let (stored, _) = manager.stores();
    ends(ambassador, &manager);

    let (_taken, taken) = listening();
    let failed = stored.again().to(launch(&format!("{unix},{taken}"))).finish();
    assert_eq!(failed.code, Some(1), "{}", failed.stderr);
    assert!(!failed.stderr.contains("no link listens there"), "{}", failed.stderr);
    let mut waiting = Peer::connect_unix(&path);
    let _ambassador = stored.to(launch(&unix)).start();
    exchange(&mut waiting);
}

/// What is stored does not keep a link from listening on more or on less of the same port, though the service manager
/// takes its time to close it.
#[test]
fn other_addresses_of_a_stored_port_are_listened_on() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    // Below those that the system gives to others.
    let port = std::iter::repeat_with(|| 10240 + (random() % 20000) as u16)
        .find(|port| TcpListener::bind(("0.0.0.0", *port)).is_ok())
        .expect("a port");
    let mut stored = Passing::default();
    let mut ambassador = None;
    let places = ["127.0.0.1", "127.0.0.2", "127.0.0.3"];
    for (listen, is_served) in [
        ("127.0.0.1", [true, false, false]),
        ("*", [true, true, true]),
        ("127.0.0.2", [false, true, false]),
        ("localhost", [true, false, false]),
        ("127.0.0.1", [true, false, false]),
    ] {
        if let Some(old) = ambassador.take() {
            ends(old, &manager);
        }
        let launch = stored_by(&manager, echo.address(), &format!("{listen}:{port}"));
        let started = stored.again().to(launch).start();
        loop {
            let (message, descriptors) = manager.hears_with_descriptors();
            if let Some(name) = message.strip_prefix("FDSTOREREMOVE=1\nFDNAME=") {
                stored.0.retain(|(known, _)| known != name);
            } else if let Some(name) = message.strip_prefix("FDSTORE=1\nFDNAME=") {
                stored =
                    descriptors.into_iter().fold(stored, |stored, descriptor| stored.and(name, descriptor));
            } else if message.starts_with("READY=1\n") {
                break;
            }
        }
        for (place, is_served) in places.iter().zip(is_served) {
            let address = NetAddress::new(place.parse().expect("an address"), port);
            assert_eq!(Peer::try_connect(address).is_ok(), is_served, "{listen}: {place}");
        }
        ambassador = Some(started);
    }
}

/// A listener for which the store has no room is closed at the end like any other, and that is told with what helps.
#[test]
fn a_listener_that_is_not_stored_ends_with_its_process() {
    let manager = Manager::at_a_path();
    let echo = Target::start().echo();
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("socket");
    let ambassador = stored_by(&manager, echo.address(), &format!("127.0.0.1:0,unix:{}", path.display()))
        .variable("FDSTORE", "1")
        .start();
    assert_eq!(manager.stores().0.names().len(), 1);
    let warning = ambassador.wait_for_log("the store is full", |line| line["FileDescriptorStoreMax"] == 1);
    assert!(
        warning["remedy"].as_str().is_some_and(|remedy| {
            remedy.contains("FileDescriptorStoreMax=") && remedy.contains("Environment=FDSTORE=")
        }),
        "{warning}"
    );
    exchange(&mut Peer::connect_unix(&path));
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    assert!(!path.exists());
}

/// The listeners of a cluster's nodes live on, too: who comes to one meanwhile waits until the cluster has been seen. What no
/// node needs then is closed.
#[test]
fn the_listeners_of_a_clusters_nodes_are_stored() {
    if command_is_missing("python3") {
        return;
    }
    let manager = Manager::at_a_path();
    let (first, second) = (own_address(), own_address());
    let of_two = Arc::new(AtomicBool::new(true));
    let told = {
        let of_two = Arc::clone(&of_two);
        move || {
            let line = |id: u8, at: NetAddress, slots| {
                format!(
                    "{:040} {at}@{} master - 0 0 {id} connected {slots}\n",
                    id,
                    u32::from(at.port()) + 10000
                )
            };
            if of_two.load(Ordering::Relaxed) {
                line(1, first, "0-8191") + &line(2, second, "8192-16383")
            } else {
                line(1, first, "0-16383")
            }
        }
    };
    let _nodes = [first, second].map(|at| {
        let told = told.clone();
        Target::at(at).serve(move |peer| {
            play_server(peer, |words| match words {
                ["CLUSTER", "NODES"] => format!("${}\r\n{}\r\n", told().len(), told()),
                ["CLUSTER", ..] => "*0\r\n".to_owned(),
                _ => "+PONG\r\n".to_owned(),
            });
        })
    });
    let here = own_address();
    let launch = || {
        Launch::new()
            .variable("REDIS_PORT_6379_TCP", format!("redis+cluster://{first}"))
            .variable("REDIS_LISTEN", here.to_string())
            .variable("REDIS_CLUSTER_PORTS", "7100-7115")
            .variable("AMBASSADOR_ADMIN", "off")
            .variable("NOTIFY_SOCKET", &manager.name)
            .variable("FDSTORE", "8")
    };
    let name = |port: u16| format!("stored-{}-{port}", here.ip());
    let ambassador = launch().start();
    let (of_link, _) = manager.stores();
    assert_eq!(of_link.names(), [name(here.port())]);
    let mut stored = of_link;
    while stored.0.len() < 3 {
        let (message, descriptors) = manager.hears_with_descriptors();
        let added = message.strip_prefix("FDSTORE=1\nFDNAME=").unwrap_or_else(|| panic!("{message}"));
        stored = descriptors.into_iter().fold(stored, |stored, descriptor| stored.and(added, descriptor));
    }
    stored.0.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut expected = [name(here.port()), name(7100), name(7101)];
    expected.sort();
    assert_eq!(stored.names(), expected);
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));

    let node = |port| NetAddress::new(here.ip(), port);
    let mut waiting = Peer::connect(node(7100));
    waiting.send(b"PING\r\n");
    of_two.store(false, Ordering::Relaxed);
    assert!(manager.hears_beside_the_status().starts_with("STOPPING=1\n"));
    let _ambassador = stored.to(launch()).start();
    assert!(manager.hears_beside_the_status().starts_with("READY=1\n"));
    waiting.expect(b"+PONG\r\n");
    assert_eq!(manager.hears_beside_the_status(), format!("FDSTOREREMOVE=1\nFDNAME={}", name(7101)));
    Peer::try_connect(node(7101)).expect_err("no node is there");
}
