//! What goes wrong around the ambassador: after each fault it lives, nobody's bytes are lost that could be kept, nothing is
//! left behind, and the next client is served. `docs/reliability.md` has all faults with their promises and tests.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use hickory_resolver::proto::op::ResponseCode;
use rustix::process::{Pid, Signal, kill_process};

use crate::support::{
    Ambassador, Authority, BlackHole, Launch, Manner, NameServer, Peer, RedisServer, Served, Target, TlsPeer,
    another_user, command, command_is_missing, eventually, fixture, get, leave_out, metric, noise,
    own_address, password, say_skipped,
};

/// Long enough for bytes that must not come to come after all.
const A_MOMENT: Duration = Duration::from_millis(300);

/// Nothing is open any more that was not open at first, and the gauge says so too.
#[track_caller]
pub(crate) fn expect_nothing_left(ambassador: &Ambassador, descriptors: usize, link: &str) {
    let gauge = format!("connections_active{{link=\"{link}\"}}");
    eventually("no connection is counted", || metric(ambassador.admin(), &gauge) < 0.5);
    eventually("no descriptor is left open", || ambassador.descriptors() <= descriptors);
}

pub(crate) fn ping(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// A program of the system. Killed when dropped.
pub(crate) struct Running {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    pub(crate) fn start(program: &str, arguments: &[&str]) -> Self {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("{program}: {error}"));
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        Self { child, output }
    }

    /// Tells it a line.
    fn tell(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("a pipe");
        writeln!(input, "{line}").expect("a program that reads");
    }

    /// Waits for the next line of its output.
    fn next_line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).expect("a line");
        line.trim_end().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Tests that need what only root may do are left out elsewhere, which they say.
fn may_not(what: &str) -> bool {
    let is_root = rustix::process::geteuid().is_root();
    if !is_root {
        leave_out(&format!("only root may {what}"));
    }
    !is_root
}

/// A target that stands still costs a wait: what was under way is answered once it goes on. New clients hear of it within
/// the connect timeout.
#[test]
fn a_frozen_target_costs_a_wait_and_nothing_is_lost() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_CONNECT_TIMEOUT", "500ms")
        .start();
    let descriptors = ambassador.descriptors();
    let mut client = ambassador.connect("redis:6379");
    ping(&mut client);
    redis.signal(Signal::STOP);
    client.send(&command(&[b"INCR", b"counter"]));
    client.expect_silence(A_MOMENT);
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("took longer than"), "{words}");
    redis.signal(Signal::CONT);
    client.expect(b":1\r\n");
    ping(&mut ambassador.connect("redis:6379"));
    drop(client);
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// A client that stands still keeps nobody else waiting and loses nothing.
#[test]
fn a_frozen_client_keeps_nobody_waiting() {
    if command_is_missing("redis-cli") {
        return;
    }
    let Some(redis) = RedisServer::start("") else { return };
    let ambassador = Launch::redis(redis.address()).start();
    let descriptors = ambassador.descriptors();
    let port = ambassador.address("redis:6379").port().to_string();
    // Monitors everything, and so would have much to read.
    let frozen = Running::start("redis-cli", &["-p", &port, "MONITOR"]);
    let active = "connections_active{link=\"redis:6379\"}";
    eventually("the client is connected", || metric(ambassador.admin(), active) > 0.5);
    kill_process(Pid::from_child(&frozen.child), Signal::STOP).expect("a process to stop");
    let mut client = ambassador.connect("redis:6379");
    let value = vec![b'x'; 64 * 1024];
    for _ in 0..100 {
        client.send(&command(&[b"SET", b"key", &value]));
        client.expect(b"+OK\r\n");
    }
    drop((client, frozen));
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// A line that is slow: a few bytes at a time, each after a while and some after a longer one, both ways.
fn slow_line(to: SocketAddr) -> Served {
    Target::start().serve(move |mut near| {
        let Ok(mut far) = Peer::try_connect(to) else { return };
        let (mut near_too, mut far_too) = (near.handle(), far.handle());
        thread::scope(|scope| {
            scope.spawn(|| trickle(&mut near, &mut far));
            scope.spawn(|| trickle(&mut far_too, &mut near_too));
        });
    })
}

fn trickle(from: &mut Peer, to: &mut Peer) {
    let mut some = [0; 999];
    let mut times = 0;
    while let Ok(length @ 1..) = from.read(&mut some) {
        times += 1;
        // What makes it slow.
        thread::sleep(Duration::from_millis(if times % 64 == 0 { 100 } else { 1 }));
        if to.try_send(&some[..length]).is_err() {
            return;
        }
    }
    // The other side may have gone.
    let _ = to.try_finish_sending();
}

/// Where the line to the target is slow, or that to the client, or both, everything arrives in its order, and others are
/// served as fast as ever.
#[test]
fn on_slow_lines_nothing_is_lost_and_nobody_else_waits() {
    let Some(redis) = RedisServer::start("") else { return };
    let slow = slow_line(redis.address());
    let ambassador = Launch::redis(slow.address())
        .variable("REDIS_DB", "1")
        .redis_link("QUICK", redis.address())
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    let (descriptors, memory) = (ambassador.descriptors(), ambassador.memory());
    let front = slow_line(ambassador.address("redis:6379"));
    let values: Vec<_> = (0..200).map(|number| noise(number, 2000)).collect();
    let mut requests = Vec::new();
    let mut replies = Vec::new();
    for value in &values {
        requests.extend(command(&[b"ECHO", value]));
        replies.extend([format!("${}\r\n", value.len()).as_bytes(), value, b"\r\n"].concat());
    }
    let clients = [Peer::connect(front.address()), ambassador.connect("redis:6379")];
    thread::scope(|scope| {
        let asking: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                let (requests, replies) = (&requests, &replies);
                scope.spawn(move || {
                    let mut writer = client.handle();
                    thread::scope(|scope| {
                        scope.spawn(move || {
                            writer.send(requests);
                            writer.finish_sending();
                        });
                        client.expect(replies);
                        client.expect_end();
                    });
                })
            })
            .collect();
        let mut rounds = 0;
        while !asking.iter().all(thread::ScopedJoinHandle::is_finished) {
            ping(&mut ambassador.connect("quick:6379"));
            rounds += 1;
        }
        assert!(rounds > 10, "{rounds} others were served meanwhile");
    });
    let most = memory + 4 * 1024 * 1024;
    assert!(ambassador.memory() < most, "{memory} bytes became {}", ambassador.memory());
    drop(front);
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// A network of its own, in which packets can be dropped. Removed when dropped.
pub(crate) struct Network(pub(crate) String);

impl Network {
    pub(crate) fn new() -> Option<Self> {
        if may_not("make a network namespace") || command_is_missing("ip") || command_is_missing("iptables") {
            return None;
        }
        let network =
            Self(format!("ambassador-{:x}", u32::from(own_address().port()) ^ std::process::id() << 16));
        network.ip(&["netns", "add", &network.0]);
        network.ip(&["-n", &network.0, "link", "set", "lo", "up"]);
        Some(network)
    }

    pub(crate) fn ip(&self, arguments: &[&str]) {
        let done = Command::new("ip").args(arguments).output().expect("ip runs");
        assert!(done.status.success(), "{}: {}", self.0, String::from_utf8_lossy(&done.stderr));
    }

    /// Drops all packets from and to this port, or lets them pass again.
    pub(crate) fn drop_packets(&self, change: &str, port: &str) {
        for side in ["--dport", "--sport"] {
            self.ip(&[
                "netns", "exec", &self.0, "iptables", change, "INPUT", "-p", "tcp", side, port, "-j", "DROP",
            ]);
        }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", &self.0]).output();
    }
}

/// A host whose packets are lost costs new clients the connect timeout and no more; what was under way is answered when the
/// network is back.
#[test]
fn an_unreachable_host_costs_a_wait_and_nothing_is_lost() {
    let Some(network) = Network::new() else { return };
    if command_is_missing("redis-server") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("redis.sock");
    let home = directory.path().to_str().expect("a path of text");
    let _redis = Running::start(
        "ip",
        &["netns", "exec", &network.0, "redis-server", "--port", "6379", "--save", "", "--dir", home],
    );
    let ambassador = Launch::redis("127.0.0.1:6379")
        .variable("REDIS_LISTEN", format!("unix:{}", socket.display()))
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .variable("REDIS_DB", "1")
        .under(&["ip", "netns", "exec", &network.0])
        .start();
    let connect = || Peer::connect_unix(&socket);
    eventually("the server serves", || {
        let mut client = connect();
        client.try_send(b"PING\r\n").is_ok() && client.receive(1) == b"+"
    });
    let mut client = connect();
    ping(&mut client);
    let descriptors = ambassador.descriptors();
    network.drop_packets("-A", "6379");
    client.send(&command(&[b"INCR", b"counter"]));
    let begun = Instant::now();
    let words = connect().expect_refusal("redis:6379");
    assert!(begun.elapsed() < Duration::from_secs(5), "{words} after {:?}", begun.elapsed());
    network.drop_packets("-D", "6379");
    client.expect(b":1\r\n");
    ping(&mut connect());
    eventually("no descriptor is left open", || ambassador.descriptors() <= descriptors);
}

/// A client whose packets are lost for a while goes on when they are not; others are served meanwhile.
#[test]
fn a_client_that_can_not_be_reached_for_a_while_goes_on() {
    let Some(network) = Network::new() else { return };
    if command_is_missing("redis-cli") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (socket, listen) = (directory.path().join("redis.sock"), directory.path().join("db.sock"));
    // On a Unix socket, which all networks see.
    let server = ["--port", "0", "--unixsocket", socket.to_str().expect("a path of text"), "--save", ""];
    let _redis = Running::start("redis-server", &server);
    eventually("the server serves", || socket.exists());
    let ambassador = Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", format!("redis+unix://{}", socket.display()))
        .variable("REDIS_LISTEN", "127.0.0.1:7000")
        .variable("OTHER_PORT_6379_TCP", format!("redis+unix://{}", socket.display()))
        .variable("OTHER_LISTEN", format!("unix:{}", listen.display()))
        .under(&["ip", "netns", "exec", &network.0])
        .start();
    let descriptors = ambassador.descriptors();
    let mut client = Running::start("ip", &["netns", "exec", &network.0, "redis-cli", "-p", "7000"]);
    client.tell("INCR counter");
    assert_eq!(client.next_line(), "1");
    network.drop_packets("-A", "7000");
    client.tell("INCR counter");
    let mut other = Peer::connect_unix(&listen);
    ping(&mut other);
    other.expect_silence(A_MOMENT);
    // It has not got through.
    other.send(b"GET counter\r\n");
    other.expect(b"$1\r\n1\r\n");
    drop(other);
    network.drop_packets("-D", "7000");
    assert_eq!(client.next_line(), "2");
    drop(client);
    eventually("no descriptor is left open", || ambassador.descriptors() <= descriptors);
}

/// Makes every attempt to open a file wait, as a file system does that hangs: a lease is asked back, and not given.
pub(crate) fn hang(path: &Path) -> Running {
    // F_SETLEASE is 1024, F_WRLCK is 1.
    let script = "$SIG{IO} = 'IGNORE'; $| = 1; open(F, '+<', $ARGV[0]) or die; \
                  defined fcntl(F, 1024, 1) or die; print \"leased\\n\"; sleep 60";
    let mut holder = Running::start("perl", &["-e", script, path.to_str().expect("a path of text")]);
    assert_eq!(holder.next_line(), "leased");
    holder
}

/// A file system that hangs holds up those alone whose password lies on it, for half a second: then the last password serves.
#[test]
fn a_file_system_that_hangs_holds_up_nobody_else() {
    if command_is_missing("perl") {
        return;
    }
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (hanging, sound) = (directory.path().join("hanging"), directory.path().join("sound"));
    fs::write(&hanging, &password).unwrap();
    fs::write(&sound, &password).unwrap();
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &hanging)
        .redis_link("SOUND", redis.address())
        .variable("SOUND_AUTH_FILE", &sound)
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    ping(&mut ambassador.connect("redis:6379"));
    let descriptors = ambassador.descriptors();
    let holder = hang(&hanging);
    let mut waiting: Vec<_> = (0..40).map(|_| ambassador.connect("redis:6379")).collect();
    for _ in 0..10 {
        ping(&mut ambassador.connect("sound:6379"));
    }
    waiting.iter_mut().for_each(ping);
    drop((holder, waiting));
    eventually("the password can be read again", || {
        let mut client = ambassador.connect("redis:6379");
        client.try_send(b"PING\r\n").is_ok() && client.receive(1) == b"+"
    });
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// A pipe in the place of a file is a mistake of configuration, not a start that never ends.
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused_at_start() {
    if command_is_missing("mkfifo") {
        return;
    }
    let directory = tempfile::tempdir().expect("a temporary directory");
    let pipe = directory.path().join("pipe");
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("mkfifo runs").success());
    let backends = Launch::new().variable("DB_PORT_5432_TCP", format!("tcp+file://{}", pipe.display()));
    backends.finish().expect_mistake("DB_PORT_5432_TCP");
    for setting in ["REDIS_AUTH_FILE", "REDIS_TLS_CA_FILE"] {
        let launch = Launch::redis("127.0.0.1:9").variable("REDIS_TLS", "true").variable(setting, &pipe);
        launch.finish().expect_mistake(setting);
    }
}

/// No thread can be started: files can't be read then, and what was read last serves, until there are threads again.
#[test]
fn without_threads_what_was_read_last_serves() {
    if command_is_missing("setpriv") || command_is_missing("prlimit") {
        return;
    }
    let (first, second) = (password(), password());
    let target = Target::start();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (path, list) = (directory.path().join("password"), directory.path().join("backends"));
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(&path, &first).unwrap();
    fs::write(&list, target.address().to_string()).unwrap();
    let authority = Authority::new("Ours");
    let mut identity = authority.issue(&["127.0.0.1"]);
    for file in [&mut identity.certificate, &mut identity.key] {
        let readable = directory.path().join(file.file_name().expect("a name"));
        fs::copy(&*file, &readable).unwrap();
        fs::set_permissions(&readable, fs::Permissions::from_mode(0o644)).unwrap();
        *file = readable;
    }
    let echo = Target::start().echo();
    // The limit counts all of a user's threads.
    let Some(user) = another_user() else { return };
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_FILE", &path)
        .variable("DB_PORT_5432_TCP", format!("tcp+file://{}", list.display()))
        .plain_link("SAFE", echo.address())
        .listen_tls("SAFE", &identity)
        .variable("AMBASSADOR_THREADS", "1")
        .under(&["prlimit", "--nproc=1:10", "--"])
        .under(&user)
        .start();
    let descriptors = ambassador.descriptors();
    let expect = |password: &str| {
        let _client = ambassador.connect("redis:6379");
        target.accept().expect(&command(&[b"AUTH", password.as_bytes()]));
    };
    expect(&first);
    fs::write(&path, &second).unwrap();
    fs::write(&list, "127.0.0.1:9").unwrap();
    for _ in 0..3 {
        expect(&first);
        let mut client = TlsPeer::connect(ambassador.address("safe:5432"), &authority.client(None));
        client.send(b"hello");
        client.expect(b"hello");
    }
    ambassador.wait_for_log("a warning about the file", |line| {
        line.to_string().contains("no thread can be started") && line["level"] == "WARN"
    });
    let process = ambassador.id().to_string();
    let raise = ["prlimit", "--pid", &process, "--nproc=10:"];
    let raised = Command::new(&user[0]).args(&user[1..]).args(raise).status();
    assert!(raised.expect("prlimit runs").success());
    expect(&second);
    eventually("the list can be read again", || {
        get(ambassador.admin(), "/links").link("db:5432")["backends"].to_string().contains("127.0.0.1:9\"")
    });
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// A disk that is full takes no log lines; connections are none of its business.
#[test]
fn a_log_that_can_not_be_written_holds_up_nobody() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let socket = directory.path().join("db.sock");
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .variable("DB_LISTEN", format!("unix:{}", socket.display()))
        .variable("AMBASSADOR_LOG", "trace")
        .under(&["/bin/sh", "-c", "exec \"$0\" \"$@\" 2>/dev/full"])
        .start_in_silence();
    eventually("the listener", || socket.exists());
    for _ in 0..10 {
        let mut client = Peer::connect_unix(&socket);
        client.send(b"hello");
        client.expect(b"hello");
    }
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Clients that are relayed, and their upstreams: quiet, with a command under way, half closed, and with a target that
/// takes no more.
fn relayed(ambassador: &Ambassador, target: &Target) -> (Vec<Peer>, Vec<Peer>) {
    let stages = (0..4).map(|stage| {
        let mut client = ambassador.connect("db:5432");
        client.send(b"hello");
        let mut upstream = target.accept();
        upstream.expect(b"hello");
        match stage {
            0 => {
                upstream.send(b"bye");
                client.expect(b"bye");
            }
            1 => {}
            2 => client.finish_sending(),
            _ => drop(client.send_until_it_blocks()),
        }
        (client, upstream)
    });
    stages.unzip()
}

/// A signal ends the process wherever a connection is in its life, and every client sees an end.
#[test]
fn a_signal_ends_the_process_at_every_stage_of_a_connections_life() {
    if command_is_missing("perl") {
        return;
    }
    let authority = Authority::new("Ours");
    let identity = authority.issue(&["localhost"]);
    let hole = BlackHole::start();
    let (silent, talking, refusing) = (Target::start(), Target::start(), Target::start());
    let (warm, resetting, rotating) = (Target::start(), Target::start(), Target::start());
    let dns = NameServer::start();
    dns.behaves(Manner::Hangs);
    let refusing = refusing.serve(|mut peer| {
        let _ = peer.try_send(fixture("replies/redis-7.0/wrongpass.resp"));
        let _ = peer.read(&mut [0; 64]);
    });
    let directory = tempfile::tempdir().expect("a temporary directory");
    let [file, hanging] = ["password", "hanging"].map(|name| directory.path().join(name));
    let password = password();
    fs::write(&file, &password).unwrap();
    fs::write(&hanging, &password).unwrap();
    let ambassador = Launch::redis(hole.address())
        .redis_link("HANGING", silent.address())
        .variable("HANGING_AUTH_FILE", &hanging)
        .redis_link("WARM", warm.address())
        .variable("WARM_WARM", "1")
        .redis_link("RESETTING", resetting.address())
        .variable("RESETTING_AUTH", &password)
        .redis_link("ROTATING", rotating.address())
        .variable("ROTATING_AUTH_FILE", &file)
        .redis_link("NAMED", "nowhere.test:6379")
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("HANDSHAKE_PORT_6379_TCP", format!("rediss://{}", silent.address()))
        .variable("HANDSHAKE_LISTEN", "127.0.0.1:0")
        .variable("HANDSHAKE_TLS_INSECURE", "true")
        .redis_link("SILENT", silent.address())
        .variable("SILENT_AUTH", &password)
        .redis_link("REFUSING", refusing.address())
        .variable("REFUSING_AUTH", &password)
        .redis_link("STRANGERS", talking.address())
        .variable("STRANGERS_CLIENT_AUTH", "require")
        .variable("STRANGERS_CLIENT_PASSWORD", &password)
        .plain_link("DB", talking.address())
        .plain_link("SAFE", talking.address())
        .listen_tls("SAFE", &identity)
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1m")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "1s")
        .start();
    let mut clients = Vec::new();
    // Waiting for a name, for a file, and for the target's TLS.
    clients.push(ambassador.connect("named:6379"));
    eventually("the name is asked for", || dns.asked() > 0);
    let _holder = hang(&hanging);
    clients.push(ambassador.connect("hanging:6379"));
    clients.push(ambassador.connect("handshake:6379"));
    let _greeted = silent.accept();
    // Before its first word on a connection that was ready.
    let _ready = warm.accept();
    clients.push(ambassador.connect("warm:6379"));
    // Another one takes the place of that which it has.
    let _ready_too = warm.accept();
    let auth = command(&[b"AUTH", password.as_bytes()]);
    let accept = |target: &Target| {
        let mut upstream = target.accept();
        upstream.expect(&auth);
        upstream.send(b"+OK\r\n");
        upstream
    };
    // Behind a RESET that is not answered.
    let mut client = ambassador.connect("resetting:6379");
    let _old = accept(&resetting);
    client.send(b"RESET\r\nPING\r\n");
    clients.push(client);
    // While the password is changed, and the other half of that is still to come.
    let before = (ambassador.connect("rotating:6379"), accept(&rotating));
    drop(before);
    clients.push(ambassador.connect("rotating:6379"));
    let mut refused = rotating.accept();
    refused.expect(&auth);
    refused.send(fixture("replies/redis-7.0/wrongpass.resp"));
    ambassador.wait_for("password rotation started");
    // Dialling, and waiting for the reply to AUTH.
    clients.push(ambassador.connect("redis:6379"));
    clients.push(ambassador.connect("silent:6379"));
    let mut asked = silent.accept();
    asked.expect(&auth);
    // Refused, and staying.
    let mut refused = ambassador.connect("refusing:6379");
    refused.expect_line();
    clients.push(refused);
    // Before the handshake, in the middle of it, and before the password.
    clients.push(ambassador.connect("safe:5432"));
    let mut half = ambassador.connect("safe:5432");
    half.send(b"\x16\x03\x01\x02\x00");
    clients.push(half);
    clients.push(ambassador.connect("strangers:6379"));
    let (relayed, _upstreams) = relayed(&ambassador, &talking);
    clients.extend(relayed);
    let begun = Instant::now();
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(begun.elapsed() < Duration::from_secs(5), "it took {:?}", begun.elapsed());
    for client in &mut clients {
        client.expect_gone();
    }
}

/// Where memory is short the kernel says so by ending the process, so what one connection holds has to be little: many
/// clients that stop reading fit into a small limit.
#[test]
fn many_clients_that_stop_reading_fit_into_little_memory() {
    let Some(group) = MemoryLimit::new(48 * 1024 * 1024) else { return };
    let target = Target::start().serve(|mut peer| {
        // Until the ambassador takes no more, and then until the client has gone.
        let block = vec![0x5a; 64 * 1024];
        while peer.try_send(&block).is_ok() {}
    });
    let ambassador = Launch::plain(target.address()).under(&group.enter()).start();
    let descriptors = ambassador.descriptors();
    let clients: Vec<_> = (0..100).map(|_| ambassador.connect("db:5432")).collect();
    let mut before = 0;
    eventually("nothing moves any more", || {
        let memory = ambassador.memory();
        let same = memory == before;
        before = memory;
        thread::sleep(Duration::from_millis(200));
        same && target.accepted() == 100
    });
    drop(clients);
    expect_nothing_left(&ambassador, descriptors, "db:5432");
    let mut client = ambassador.connect("db:5432");
    client.receive(1024);
}

/// Faults that come again and again leave nothing behind: no memory, no descriptor, no thread, nobody counted as present. Every
/// client is counted once, as one that was served or as one that was not.
#[test]
fn faults_that_come_again_and_again_leave_nothing_behind() {
    const ROUNDS: u32 = 300;
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let takes_the_password = {
        let auth = command(&[b"AUTH", password.as_bytes()]);
        move |peer: &mut Peer| {
            let mut asked = vec![0; auth.len()];
            peer.read_exact(&mut asked).is_ok() && peer.try_send(b"+OK\r\n").is_ok()
        }
    };
    let takes_it_too = takes_the_password.clone();
    let tears = Target::start().serve(move |mut peer| {
        if takes_the_password(&mut peer) && matches!(peer.read(&mut [0; 64]), Ok(1..)) {
            let _ = peer.try_send(b"$100\r\nhalf of it");
            peer.reset();
        }
    });
    let dies = Target::start().serve(move |mut peer| {
        if takes_it_too(&mut peer) {
            let _ = peer.read(&mut [0; 64]);
        }
    });
    let refuses = Target::start().serve(|mut peer| {
        let _ = peer.read(&mut [0; 64]);
        let _ = peer.try_send(fixture("replies/redis-7.0/wrongpass.resp"));
        let _ = peer.read(&mut [0; 64]);
    });
    let (hole, echo) = (BlackHole::start(), Target::start().echo());
    let dns = NameServer::start();
    dns.behaves(Manner::Says(ResponseCode::ServFail));
    let authority = Authority::new("Ours");
    let identity = authority.issue(&["127.0.0.1"]);
    let ambassador = ["TEARS", "DIES", "REFUSES"]
        .iter()
        .zip([tears.address(), dies.address(), refuses.address()])
        .fold(Launch::redis(redis.address()), |launch, (alias, address)| {
            launch.redis_link(alias, address).variable(format!("{alias}_AUTH"), &password)
        })
        .variable("REDIS_AUTH", &password)
        .redis_link("HOLE", hole.address())
        .redis_link("NAMED", "nowhere.test:6379")
        .plain_link("SAFE", echo.address())
        .listen_tls("SAFE", &identity)
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "1s")
        .start();
    let links =
        ["redis:6379", "tears:6379", "dies:6379", "refuses:6379", "hole:6379", "named:6379", "safe:5432"];
    let descriptors = ambassador.descriptors();
    let round = |number: u32| {
        ping(&mut ambassador.connect("redis:6379"));
        // In the midst of a reply, and of what a client says.
        let mut client = ambassador.connect("tears:6379");
        client.send(b"INCR a\r\n");
        client.expect_reset();
        let mut client = ambassador.connect("redis:6379");
        client.send(b"*2\r\n$3\r\nGET\r\n$100\r\nhalf of it");
        client.reset();
        // With a command under way.
        let mut client = ambassador.connect("dies:6379");
        client.send(b"INCR a\r\n");
        client.expect_gone();
        // At the password, the name, the connection, and TLS.
        ambassador.connect("refuses:6379").expect_refusal("refuses:6379");
        if number.is_multiple_of(10) {
            ambassador.connect("named:6379").expect_refusal("named:6379");
        }
        ambassador.connect("hole:6379").reset();
        ambassador.connect("safe:5432").send(b"\x16\x03\x01\x02\x00\x01");
    };
    let settled = || {
        for link in links {
            expect_nothing_left(&ambassador, descriptors, link);
        }
        (ambassador.memory(), ambassador.threads())
    };
    (0..ROUNDS).for_each(round);
    let (memory, threads) = settled();
    (0..ROUNDS).for_each(round);
    let (memory_then, threads_then) = settled();
    assert!(memory_then <= memory + 512 * 1024, "{memory} bytes became {memory_then}");
    // Some come and go with work that may block.
    assert!(threads_then <= threads + 4, "{threads} threads became {threads_then}");
    // Who leaves before it can be served was neither served nor refused.
    for (link, clients, failures) in [
        ("redis:6379", 4 * ROUNDS, None),
        ("tears:6379", 2 * ROUNDS, None),
        ("dies:6379", 2 * ROUNDS, None),
        ("refuses:6379", 2 * ROUNDS, Some(("auth", 2 * ROUNDS))),
        ("hole:6379", 2 * ROUNDS, None),
        ("named:6379", 2 * ROUNDS / 10, Some(("resolve", 2 * ROUNDS / 10))),
        ("safe:5432", 2 * ROUNDS, None),
    ] {
        let expect = |series: String, number: u32| {
            let counted = metric(ambassador.admin(), &series);
            assert!((counted - f64::from(number)).abs() < 0.5, "{series} is {counted}, not {number}");
        };
        expect(format!("connections_accepted_total{{link=\"{link}\"}}"), clients);
        for stage in ["resolve", "connect", "tls", "auth", "select", "role", "client_auth", "limit", "allow"]
        {
            let number = failures.filter(|(at, _)| *at == stage).map_or(0, |(_, number)| number);
            expect(format!("connections_failed_total{{link=\"{link}\",stage=\"{stage}\"}}"), number);
        }
    }
}

/// A group of processes that may have no more than so much memory. Removed when dropped.
struct MemoryLimit(PathBuf);

impl MemoryLimit {
    fn new(bytes: u64) -> Option<Self> {
        if may_not("limit memory") {
            return None;
        }
        let name = format!("ambassador-{}-{}", std::process::id(), own_address().port());
        // The second version of control groups, and the first.
        for (root, file) in
            [("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/memory", "memory.limit_in_bytes")]
        {
            let group = Self(Path::new(root).join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(file), bytes.to_string()).is_ok() {
                return Some(group);
            }
        }
        say_skipped("memory can't be limited here");
        None
    }

    /// What puts a process into the group and becomes it.
    fn enter(&self) -> [&str; 4] {
        let path = self.0.to_str().expect("a path of text");
        ["/bin/sh", "-c", "echo $$ >\"$0/cgroup.procs\" && exec \"$@\"", path]
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

/// Nothing waits by the wall clock: whoever sets it changes what stands in the log, and whether a certificate is valid.
#[test]
fn nothing_waits_by_the_wall_clock() {
    /// Where the time of day is read, and why that does no harm.
    const READERS: &[(&str, &str)] = &[
        ("reload.rs", "how long ago a file was written: looked at once more or less"),
        ("net/tls.rs", "whether a certificate is still valid"),
        ("cli/check/findings.rs", "when a certificate ends"),
        ("cloud.rs", "how long a token lives of which the end is told by the clock"),
        ("cloud/aws.rs", "when a request is signed"),
        ("cloud/aws/keys.rs", "when a request is signed"),
        ("cloud/gcp.rs", "when an assertion is signed"),
        ("admin/process.rs", "when the process was started, for Prometheus"),
    ];
    fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(directory).expect("sources") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                sources(&path, found);
            } else {
                found.push(path);
            }
        }
    }
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    sources(&root, &mut found);
    let readers: Vec<_> = found
        .iter()
        .filter(|path| {
            let source = fs::read_to_string(path).expect("a source");
            ["SystemTime::now", "UnixTime::now", "std::time::Instant"]
                .iter()
                .any(|clock| source.contains(clock))
        })
        .map(|path| path.strip_prefix(&root).expect("below the root").display().to_string())
        .filter(|path| !READERS.iter().any(|(reader, _)| reader == path))
        .collect();
    assert!(readers.is_empty(), "these read another clock than tokio's: {readers:?}");
}
