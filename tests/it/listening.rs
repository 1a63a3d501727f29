//! Where clients come in: several addresses, both of `localhost`, and Unix sockets with their files.

use std::fs::{self, Permissions};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use serde_json::json;

use crate::settings::{link, start_on_a_free_port};
use crate::support::{
    Ambassador, Finished, Launch, Peer, Served, Target, another_user, eventually, get, say_skipped,
};

fn exchange(client: &mut Peer) {
    client.send(b"hello");
    client.expect(b"hello");
}

fn has_ipv6() -> bool {
    TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).is_ok()
}

/// Becomes the program with this umask.
fn umask(mask: &str) -> [String; 4] {
    ["sh".to_owned(), "-c".to_owned(), format!("umask {mask}; exec \"$@\""), "sh".to_owned()]
}

/// A tunnel to an echo through the socket at a path of its own.
struct Socket {
    _directory: tempfile::TempDir,
    target: Served,
    path: PathBuf,
}

impl Socket {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        // Other users of the tests come here too.
        fs::set_permissions(directory.path(), Permissions::from_mode(0o755)).unwrap();
        let path = directory.path().join("ambassador.sock");
        Self { _directory: directory, target: Target::start().echo(), path }
    }

    fn launch(&self) -> Launch {
        Launch::plain(self.target.address()).variable("DB_LISTEN", format!("unix:{}", self.path.display()))
    }

    fn mode(&self) -> u32 {
        fs::metadata(&self.path).expect("a socket").mode() & 0o7777
    }

    /// A file that a process left behind.
    fn leave_behind(&self) {
        drop(UnixListener::bind(&self.path).expect("a socket"));
        assert!(self.path.exists());
    }

    fn identity(&self) -> (u64, u64) {
        let found = fs::symlink_metadata(&self.path).expect("a file");
        (found.dev(), found.ino())
    }

    #[track_caller]
    fn refused(&self) -> Finished {
        let finished = self.launch().finish();
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains("can't start"), "{}", finished.stderr);
        assert!(finished.stderr.contains("remedy: "), "{}", finished.stderr);
        finished
    }
}

/// Whatever the umask is, the file has the mode that is asked for, and the group of who made it; without the setting it has
/// what the umask leaves.
#[test]
fn a_unix_socket_has_the_mode_that_is_asked_for() {
    let socket = Socket::new();
    for (mask, written, mode) in [
        ("022", "0660", 0o660),
        ("077", "660", 0o660),
        ("000", "0o600", 0o600),
        ("077", "\"0777\"", 0o777),
        ("0777", "0700", 0o700),
    ] {
        let launch = socket.launch().variable("DB_LISTEN_MODE", written).under(&umask(mask));
        let ambassador = launch.start();
        assert_eq!(socket.mode(), mode, "{written} with the umask {mask}");
        assert_eq!(fs::metadata(&socket.path).unwrap().gid(), rustix::process::getegid().as_raw());
        exchange(&mut ambassador.connect("db:5432"));
    }
    for (mask, mode) in [("022", 0o755), ("007", 0o770)] {
        let _ambassador = socket.launch().under(&umask(mask)).start();
        assert_eq!(socket.mode(), mode, "with the umask {mask}");
    }
}

/// Who is in the group may connect, and who is not may not.
#[test]
fn the_mode_says_who_may_connect() {
    let Some(stranger) = another_user() else { return };
    let group = format!("--regid={}", rustix::process::getegid().as_raw());
    let member = stranger.clone().map(|word| if word.starts_with("--regid=") { group.clone() } else { word });
    let connects = |socket: &Socket, user: &[String]| {
        let launch = Launch::new().variable("DB_PORT_1_TCP", format!("unix://{}", socket.path.display()));
        launch.argument("check").under(user).finish().code == Some(0)
    };
    let socket = Socket::new();
    let _ambassador = socket.launch().variable("DB_LISTEN_MODE", "0660").start();
    assert!(connects(&socket, &member));
    assert!(!connects(&socket, &stranger));
}

/// Values that are no mode, modes that lock everybody out, and a mode without a socket. What YAML makes of an octal number is
/// recognised.
#[test]
fn a_mode_that_is_none_is_a_mistake() {
    let socket = Socket::new();
    for (written, told) in [
        ("rw-rw----", "octal"),
        ("0888", "octal"),
        ("-660", "octal"),
        ("01777", "more than 0777"),
        ("0440", "owner"),
        ("0", "owner"),
        // 0660, 0600 and 0700 as decimal numbers.
        ("432", "DB_LISTEN_MODE=\"0660\""),
        ("384", "DB_LISTEN_MODE=\"0600\""),
        ("448", "DB_LISTEN_MODE=\"0700\""),
    ] {
        let finished = socket.launch().variable("DB_LISTEN_MODE", written).argument("links").finish();
        let mistake = finished.expect_mistake("DB_LISTEN_MODE");
        assert!(mistake.contains(told), "{written}: {mistake}");
    }
    let finished = Launch::plain("db:1").variable("DB_LISTEN_MODE", "0660").argument("links").finish();
    let mistake = finished.expect_mistake("DB_LISTEN_MODE");
    assert!(mistake.contains("DB_LISTEN=unix:"), "{mistake}");
}

/// Whoever listens is not displaced, not even one that is too busy to take a connection: its file stays as it is.
#[test]
fn a_socket_that_somebody_listens_at_is_left_alone() {
    let socket = Socket::new();
    let listening = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
    listening.bind(&socket2::SockAddr::unix(&socket.path).unwrap()).unwrap();
    listening.listen(0).unwrap();
    let identity = socket.identity();
    // Nobody accepts these, so that at last no more can wait.
    let mut waiting = Vec::new();
    loop {
        let client = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM, None).unwrap();
        client.set_nonblocking(true).unwrap();
        if client.connect(&socket2::SockAddr::unix(&socket.path).unwrap()).is_err() {
            break;
        }
        waiting.push(client);
        let finished = socket.refused();
        assert!(finished.stderr.contains("in use"), "{}", finished.stderr);
    }
    let finished = socket.refused();
    assert!(finished.stderr.contains("in use"), "{}", finished.stderr);
    assert!(finished.stderr.contains("stop what listens there"), "{}", finished.stderr);
    assert_eq!(socket.identity(), identity);
    drop(waiting);
}

/// A socket that nobody listens at any more gives way, and nothing else does: what is there is told and left as it is.
#[test]
fn what_is_no_stale_socket_is_left_alone() {
    type Make = fn(&Path) -> Option<UnixDatagram>;
    let cases: [(&str, Make); 5] = [
        ("a file that is no socket", |path| {
            fs::write(path, "precious").unwrap();
            None
        }),
        ("a directory", |path| {
            fs::create_dir(path).unwrap();
            None
        }),
        ("a symbolic link", |path| {
            symlink("/nowhere/to/be/found", path).unwrap();
            None
        }),
        ("a symbolic link", |path| {
            let stale = path.with_extension("stale");
            drop(UnixListener::bind(&stale).unwrap());
            symlink(&stale, path).unwrap();
            None
        }),
        ("a socket of another kind", |path| Some(UnixDatagram::bind(path).unwrap())),
    ];
    for (told, make) in cases {
        let socket = Socket::new();
        let _bound = make(&socket.path);
        let identity = socket.identity();
        let finished = socket.refused();
        assert!(finished.stderr.contains(told), "{told}: {}", finished.stderr);
        let remedy = format!("remove {}", socket.path.display());
        assert!(finished.stderr.contains(&remedy), "{}", finished.stderr);
        assert_eq!(socket.identity(), identity, "{told}");
    }
    let socket = Socket::new();
    socket.leave_behind();
    exchange(&mut socket.launch().start().connect("db:5432"));
}

/// Whoever may not connect can't know whether anybody listens, and leaves the file alone.
#[test]
fn a_socket_that_may_not_be_asked_is_left_alone() {
    let Some(user) = another_user() else { return };
    let socket = Socket::new();
    let _listening = UnixListener::bind(&socket.path).unwrap();
    fs::set_permissions(&socket.path, Permissions::from_mode(0o600)).unwrap();
    let identity = socket.identity();
    let finished = socket.launch().under(&user).finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("may not connect to"), "{}", finished.stderr);
    assert_eq!(socket.identity(), identity);
}

/// A path that no socket can have is a mistake before anything starts.
#[test]
fn a_path_that_is_too_long_is_a_mistake() {
    let long = format!("unix:/run/{}.sock", "x".repeat(100));
    let finished = Launch::plain("db:1").variable("DB_LISTEN", &long).argument("links").finish();
    assert!(finished.expect_mistake("DB_LISTEN").contains("107"), "{}", finished.stderr);
    let finished = Launch::new().variable("DB_PORT_1_TCP", long.replace("unix:", "unix://")).finish();
    assert!(finished.expect_mistake("DB_PORT_1_TCP").contains("107"), "{}", finished.stderr);
}

/// What another process has put in the place of our file meanwhile stays there.
#[test]
fn at_the_end_nobody_elses_file_is_removed() {
    let socket = Socket::new();
    let ambassador = socket.launch().start();
    exchange(&mut ambassador.connect("db:5432"));
    let other = socket.path.with_extension("other");
    let _listening = UnixListener::bind(&other).unwrap();
    fs::rename(&other, &socket.path).unwrap();
    let identity = socket.identity();
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    assert_eq!(socket.identity(), identity);
    UnixStream::connect(&socket.path).expect("the other one");
}

/// Of several that start at the same time over a file that was left behind one listens, where clients find it, and the
/// others say so.
#[test]
fn of_several_that_start_together_one_listens() {
    for _ in 0..5 {
        let socket = Socket::new();
        socket.leave_behind();
        let starting: Vec<_> = (0..4)
            .map(|_| {
                let launch = socket.launch();
                thread::spawn(move || launch.try_start())
            })
            .collect();
        let started: Vec<_> = starting.into_iter().map(|start| start.join().expect("a start")).collect();
        let (listening, refused): (Vec<_>, Vec<_>) = started.into_iter().partition(Result::is_ok);
        for finished in refused.into_iter().filter_map(Result::err) {
            assert!(finished.stderr.contains("in use"), "{}", finished.stderr);
        }
        assert_eq!(listening.len(), 1);
        exchange(&mut Peer::connect_unix(&socket.path));
    }
}

/// Whoever starts looks whether anybody listens only when nobody else is about to: it waits for its turn in the directory.
#[test]
fn whoever_is_about_to_listen_is_waited_for() {
    let socket = Socket::new();
    socket.leave_behind();
    let identity = socket.identity();
    let directory = fs::File::open(socket.path.parent().expect("a directory")).unwrap();
    rustix::fs::flock(&directory, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let launch = socket.launch();
    let second = thread::spawn(move || launch.finish());
    // Long enough for a start.
    thread::sleep(Duration::from_millis(500));
    assert_eq!(socket.identity(), identity);
    fs::remove_file(&socket.path).unwrap();
    let _listening = UnixListener::bind(&socket.path).unwrap();
    drop(directory);
    let finished = second.join().expect("an end");
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("in use"), "{}", finished.stderr);
}

/// The addresses that a link announces.
fn announced(ambassador: &Ambassador, link: &str) -> Vec<SocketAddr> {
    let parse = |address: &str| address.parse().unwrap_or_else(|error| panic!("{address}: {error}"));
    ambassador.listens(link).split(',').map(parse).collect()
}

/// One link may listen at several places, and is one link all the same: its limits hold for all of them together.
#[test]
fn a_link_listens_at_every_place_of_its_list() {
    let socket = Socket::new();
    let path = socket.path.display();
    let ambassador = socket
        .launch()
        .variable("DB_LISTEN", format!("127.0.0.1:0, 127.0.0.2:0 ,unix:{path},"))
        .variable("DB_LISTEN_MODE", "0600")
        .variable("DB_MAX_CONNECTIONS", "3")
        // For those who come over the network; the others have no address.
        .variable("DB_ALLOW", "127.0.0.0/8")
        .start();
    assert_eq!(socket.mode(), 0o600);
    let listens = ambassador.listens("db:5432");
    let places: Vec<_> = listens.split(',').collect();
    assert_eq!(places.len(), 3, "{listens}");
    assert_eq!(places[2], format!("unix:{path}"));
    let connect = |place: &str| match place.strip_prefix("unix:") {
        Some(path) => Peer::connect_unix(Path::new(path)),
        None => Peer::connect(place.parse().expect("an address")),
    };
    let mut clients: Vec<_> = places.iter().map(|place| connect(place)).collect();
    clients.iter_mut().for_each(exchange);
    for place in &places {
        connect(place).expect_gone();
    }
    let state = get(ambassador.admin(), "/links").link("db:5432");
    assert_eq!((&state["listen"], &state["connections"]), (&json!(listens), &json!(3)), "{state}");
    // A drain closes all of them.
    ambassador.signal(Signal::TERM);
    clients.clear();
    assert_eq!(ambassador.finish().code, Some(0));
    assert!(!socket.path.exists());
}

/// Where many wait at one place, whoever comes to another one has a turn all the same.
#[test]
fn no_place_of_a_list_waits_for_another() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .variable("DB_LISTEN", "127.0.0.1:0,127.0.0.2:0,127.0.0.3:0")
        .variable("DB_MAX_CONNECTIONS", "10")
        .start();
    let places = announced(&ambassador, "db:5432");
    // None of them is accepted before all of them wait.
    let stop = || {
        ambassador.signal(Signal::STOP);
        eventually("a stop", || ambassador.kernel_file("status").contains("State:\tT"));
    };
    stop();
    for busy in places.iter().copied() {
        let crowd: Vec<_> = (0..50).map(|_| Peer::connect(busy)).collect();
        let others = places.iter().filter(|place| **place != busy);
        let others: Vec<_> = others.map(|place| Peer::connect(*place)).collect();
        ambassador.signal(Signal::CONT);
        for mut client in others {
            exchange(&mut client);
        }
        drop(crowd);
        eventually("free places", || get(ambassador.admin(), "/links").link("db:5432")["connections"] == 0);
        stop();
    }
}

/// A client that dials `localhost` may try 127.0.0.1 or `::1`: there is somebody at both.
#[test]
fn localhost_is_both_loopback_addresses() {
    let target = Target::start().echo();
    for (variable, value) in
        [("AMBASSADOR_BIND", "localhost"), ("AMBASSADOR_BIND", "127.0.0.1,::1"), ("LISTEN", "localhost")]
    {
        let (ambassador, port) = start_on_a_free_port(|port| {
            let launch = Launch::new()
                .variable(format!("LINK_PORT_{port}_TCP"), format!("tcp://{}", target.address()));
            match variable {
                "LISTEN" => launch.variable("LINK_LISTEN", format!("LocalHost:{port}")),
                variable => launch.variable(variable, value),
            }
        });
        let loopback = [IpAddr::V4(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let loopback = loopback.into_iter().filter(|address| address.is_ipv4() || has_ipv6());
        let expected: Vec<_> = loopback.map(|address| SocketAddr::new(address, port)).collect();
        assert_eq!(announced(&ambassador, &format!("link:{port}")), expected, "{variable}={value}");
        for address in expected {
            exchange(&mut Peer::connect(address));
        }
        // And nobody at any other address.
        assert!(Peer::try_connect(SocketAddr::from((Ipv4Addr::new(127, 0, 0, 2), port))).is_err());
    }
}

/// Where the host has no IPv6, `localhost` is 127.0.0.1, and that is worth a note. An address that is named and not there
/// is none.
#[test]
fn without_ipv6_localhost_is_one_address() {
    let script = "ip link set lo up && echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6 && exec \"$@\"";
    let without_ipv6 = ["unshare", "--net", "sh", "-c", script, "sh"];
    let tried = std::process::Command::new("unshare").args(&without_ipv6[1..]).arg("true").output();
    if !tried.is_ok_and(|done| done.status.success()) {
        return say_skipped("only root may have a network without IPv6");
    }
    let launch = || Launch::plain("127.0.0.1:1").under(&without_ipv6);
    let ambassador = launch().variable("DB_LISTEN", "localhost:0").start();
    let places = announced(&ambassador, "db:5432");
    assert_eq!(places.iter().map(SocketAddr::ip).collect::<Vec<_>>(), [Ipv4Addr::LOCALHOST], "{places:?}");
    let note = ambassador.wait_for_log("a note", |line| line.to_string().contains("localhost"));
    assert_eq!((&note["level"], &note["address"]), (&json!("INFO"), &json!("::1")), "{note}");
    let finished = launch().variable("DB_LISTEN", "127.0.0.1:0,[::1]:0").finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("[::1]:0 (DB_PORT_5432_TCP)"), "{}", finished.stderr);
}

/// The admin endpoint can be on `localhost` too; `health` finds it at either address.
#[test]
fn the_admin_endpoint_may_be_on_localhost() {
    let target = Target::start();
    let admin = |address: &'static str| Launch::plain(target.address()).variable("AMBASSADOR_ADMIN", address);
    let ambassador = admin("localhost:0").start();
    let announced = ambassador.wait_for("admin endpoint")["listen"].as_str().expect("addresses").to_owned();
    let places: Vec<SocketAddr> =
        announced.split(',').map(|place| place.parse().expect("an address")).collect();
    assert_eq!(places.len(), if has_ipv6() { 2 } else { 1 }, "{announced}");
    for place in &places {
        assert_eq!(get(*place, "/livez").status, 200, "{place}");
    }
    let port = places[0].port();
    let health = |written: String| {
        let finished = Launch::new().variable("AMBASSADOR_ADMIN", written).argument("health").finish();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    };
    health(format!("localhost:{port}"));
    health(format!("*:{port}"));
    if has_ipv6() {
        let ambassador = admin("[::1]:0").start();
        health(format!("localhost:{}", ambassador.admin().port()));
    }
}

/// The interface's own link-local address, as the kernel lists it.
fn link_local() -> Option<String> {
    let list = fs::read_to_string("/proc/net/if_inet6").ok()?;
    list.lines().find_map(|line| {
        let fields: Vec<_> = line.split_whitespace().collect();
        let bits = u128::from_str_radix(fields.first()?, 16).ok()?;
        let address = Ipv6Addr::from_bits(bits);
        address.is_unicast_link_local().then(|| format!("{address}%{}", fields[5]))
    })
}

/// A link-local address means nothing without its interface; with it, it can be listened on and dialled.
#[test]
fn link_local_addresses_have_a_zone() {
    let Some(address) = link_local() else {
        return say_skipped("no interface has a link-local address");
    };
    let target = Target::start().echo();
    let inner = Launch::plain(target.address()).variable("DB_LISTEN", format!("[{address}]:0")).start();
    let port = inner.address("db:5432").port();
    for written in [address.clone(), address.replace('%', "%25")] {
        let outer = Launch::plain(format!("[{written}]:{port}")).start();
        exchange(&mut outer.connect("db:5432"));
        let shown = get(outer.admin(), "/links").link("db:5432")["target"].clone();
        assert_eq!(shown, format!("tcp://[{address}]:{port}"));
    }
    let (address, _) = address.split_once('%').expect("a zone");
    let elsewhere =
        Launch::plain(format!("[{address}%nowhere0]:1")).variable("DB_CONNECT_TIMEOUT", "1s").start();
    elsewhere.connect("db:5432").expect_gone();
    let failure = elsewhere.wait_for("connection failed");
    assert!(failure["error"].as_str().is_some_and(|error| error.contains("%nowhere0")), "{failure}");
    for (variable, value) in [
        ("DB_LISTEN", format!("[{address}]:1")),
        ("DB_PORT_5432_TCP", format!("tcp://[{address}]:1")),
        ("AMBASSADOR_BIND", address.to_owned()),
    ] {
        let launch = Launch::plain("db:1").variable(variable, value).argument("links");
        let mistake = launch.finish().expect_mistake(variable);
        assert!(mistake.contains("%eth0"), "{mistake}");
    }
}

/// Lists in the wiring, and which of two links are in each other's way.
#[test]
fn lists_are_shown_as_they_are_written() {
    for (written, shown) in [
        ("127.0.0.1:1,[::1]:1", "127.0.0.1:1,[::1]:1"),
        ("localhost:1", "localhost:1"),
        ("LOCALHOST:1,127.0.0.1:1,[::1]:1", "localhost:1"),
        ("0.0.0.0:1,[::]:1", "[::]:1"),
        ("127.0.0.1:1,127.0.0.1:1", "127.0.0.1:1"),
        ("127.0.0.1:1,:1", "*:1"),
        ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
        ("tcp://127.0.0.1:1", "127.0.0.1:1"),
        ("/run/x.sock", "unix:/run/x.sock"),
        ("unix:///run/x.sock,*:1", "unix:/run/x.sock,*:1"),
        ("'127.0.0.1:1'", "127.0.0.1:1"),
    ] {
        let wiring = Launch::plain("db:2").variable("DB_LISTEN", written).wiring();
        assert_eq!(link(&wiring, "DB_PORT_5432_TCP")["listen"], shown, "{written}");
    }
    for (written, shown) in [
        ("localhost", "localhost:5432"),
        ("127.0.0.1, ::1", "127.0.0.1:5432,[::1]:5432"),
        ("*", "*:5432"),
        ("[::1]", "[::1]:5432"),
    ] {
        let launch = Launch::plain("db:2").without("DB_LISTEN").variable("AMBASSADOR_BIND", written);
        assert_eq!(link(&launch.wiring(), "DB_PORT_5432_TCP")["listen"], shown, "{written}");
    }
    let both = |one: &str, two: &str| {
        let launch = Launch::plain("db:2").plain_link("OTHER", "other:2");
        launch.variable("DB_LISTEN", one).variable("OTHER_LISTEN", two).argument("links").finish().code
    };
    for (one, two, code) in [
        ("localhost:1", "127.0.0.1:1", 2),
        ("localhost:1", "[::1]:1", 2),
        ("127.0.0.1:1,127.0.0.2:1", "127.0.0.3:1,127.0.0.2:1", 2),
        ("0.0.0.0:1", "localhost:1", 2),
        ("*:1", "[::1]:1", 2),
        ("unix:/run/x.sock,127.0.0.1:1", "127.0.0.1:2,unix:/run/x.sock", 2),
        ("unix:/run/x.sock", "unix:/run//./x.sock", 2),
        ("localhost:1", "localhost:2", 0),
        ("localhost:1", "127.0.0.2:1", 0),
        ("0.0.0.0:1", "[::1]:1", 0),
        ("localhost:0", "localhost:0", 0),
    ] {
        assert_eq!(both(one, two), Some(code), "{one} and {two}");
    }
    // Whoever dials localhost dials either of its addresses.
    for listen in ["localhost:1", "127.0.0.1:1", "[::1]:1", "*:1"] {
        let finished = Launch::plain("localhost:1").variable("DB_LISTEN", listen).argument("links").finish();
        assert!(
            finished.expect_mistake("DB_PORT_5432_TCP").contains("which is itself"),
            "{}",
            finished.stderr
        );
    }
}

/// What is nearly right is shown as it would be right.
#[test]
fn a_wrong_address_is_shown_put_right() {
    for (written, right) in [
        ("6379", "DB_LISTEN=*:6379"),
        ("127.0.0.1", "DB_LISTEN=127.0.0.1:5432"),
        ("localhost", "DB_LISTEN=localhost:5432"),
        ("::1", "DB_LISTEN=[::1]:5432"),
        ("::1:6379", "DB_LISTEN=[::1]:6379"),
        ("unix:run/x.sock", "DB_LISTEN=unix:/run/x.sock"),
        ("unix://run/x.sock", "DB_LISTEN=unix:/run/x.sock"),
        ("unix:@name", "abstract"),
        ("redis:6379", "DB_LISTEN"),
    ] {
        let finished = Launch::plain("db:2").variable("DB_LISTEN", written).argument("links").finish();
        let mistake = finished.expect_mistake("DB_LISTEN");
        assert!(mistake.contains(right), "{written}: {mistake}");
    }
    for (variable, written, right) in [
        ("AMBASSADOR_BIND", "127.0.0.1:6379", "AMBASSADOR_BIND=127.0.0.1"),
        ("AMBASSADOR_BIND", "::1, 127.0.0.1:6379 ,127.0.0.2", "AMBASSADOR_BIND=::1,127.0.0.1,127.0.0.2"),
        ("DB_LISTEN", "localhost:1,6379", "DB_LISTEN=localhost:1,*:6379"),
        ("AMBASSADOR_BIND", "unix:/run/x.sock", "<ALIAS>_LISTEN"),
        ("AMBASSADOR_ADMIN", "9180", "AMBASSADOR_ADMIN=*:9180"),
        ("AMBASSADOR_ADMIN", "127.0.0.1", "AMBASSADOR_ADMIN=127.0.0.1:9180"),
    ] {
        let finished = Launch::plain("db:2").variable(variable, written).argument("links").finish();
        let mistake = finished.expect_mistake(variable);
        assert!(mistake.contains(right), "{written}: {mistake}");
    }
}

/// A port that is taken is told by the place of the list that has it.
#[test]
fn of_a_list_the_place_that_is_taken_is_told() {
    let holder = TcpListener::bind("127.0.0.3:0").unwrap();
    let taken = holder.local_addr().unwrap();
    let finished = Launch::plain("db:2").variable("DB_LISTEN", format!("127.0.0.2:0,{taken}")).finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains(&format!("{taken} (DB_PORT_5432_TCP)")), "{}", finished.stderr);
    assert!(!finished.stderr.contains("127.0.0.2:0 ("), "{}", finished.stderr);
}
