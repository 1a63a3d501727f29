//! Several backends: which of them serves, and what becomes of those that do not.

use std::collections::HashMap;
use std::fs;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;

use tempfile::TempDir;

use crate::faults::hang;
use crate::support::{
    Ambassador, BlackHole, Launch, Named, Peer, RedisServer, Target, command, command_is_missing, eventually,
    fixture, own_address, password, try_whom, whom,
};

/// `tcp://` of all these, in one variable.
fn tunnel(backends: &[&SocketAddr]) -> Launch {
    let backends: Vec<_> = backends.iter().map(ToString::to_string).collect();
    Launch::plain(backends.join(","))
}

fn shares(ambassador: &Ambassador, dials: usize) -> HashMap<String, usize> {
    let mut shares = HashMap::new();
    for _ in 0..dials {
        *shares.entry(whom(&mut ambassador.connect("db:5432"))).or_default() += 1;
    }
    shares
}

/// A web server that counts its requests, one a connection.
struct Web {
    server: crate::support::Served,
    requests: Arc<AtomicUsize>,
}

impl Web {
    fn at(target: Target, name: &'static str) -> Self {
        let requests = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&requests);
        let server = target.serve(move |mut peer| {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") {
                match peer.read(&mut byte) {
                    Ok(1) => request.push(byte[0]),
                    _ => return,
                }
            }
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{name}",
                name.len()
            );
            // Whoever asked may have gone.
            let _ = peer.write_all(answer.as_bytes());
        });
        Self { server, requests }
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

/// One request over one connection: the body, or `None` if it failed.
fn get(address: SocketAddr) -> Option<String> {
    let mut client = Peer::try_connect(address).ok()?;
    client.try_send(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n").ok()?;
    let mut answer = String::new();
    client.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.starts_with("HTTP/1.1 200").then(|| body.to_owned())
}

/// Three web servers behind a plain tunnel have even shares. One of them goes away and comes back, under load: no
/// request fails, the others share alike meanwhile, and then all three do again.
#[test]
fn a_web_service_is_balanced_over_three_servers_of_which_one_goes_and_comes_back() {
    let [a, b, c] = [(); 3].map(|()| own_address());
    let web = |address, name| Web::at(Target::at(address), name);
    let (first, second, third) = (web(a, "a"), web(b, "b"), web(c, "c"));
    let ambassador = tunnel(&[&a, &b, &c]).start();
    let address = ambassador.address("db:5432");
    for _ in 0..60 {
        get(address).expect("an answer");
    }
    assert_eq!([first.requests(), second.requests(), third.requests()], [20, 20, 20]);

    let failed = Arc::new(Mutex::new(Vec::new()));
    let answered = Arc::new(AtomicUsize::new(0));
    let stopped = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let (failed, stopped, answered) =
                (Arc::clone(&failed), Arc::clone(&stopped), Arc::clone(&answered));
            thread::spawn(move || {
                while !stopped.load(Ordering::Relaxed) {
                    match get(address) {
                        Some(_) => _ = answered.fetch_add(1, Ordering::Relaxed),
                        None => failed.lock().expect("a list").push(()),
                    }
                }
            })
        })
        .collect();
    let more_answers = |more: usize| {
        let before = answered.load(Ordering::Relaxed);
        eventually("more answers", || answered.load(Ordering::Relaxed) >= before + more);
    };
    more_answers(100);
    drop(second);
    // Those that it had accepted and carried when it went are its own.
    let carried = 4;
    more_answers(20);
    let before = [first.requests(), third.requests()];
    more_answers(300);
    let shares = [first.requests() - before[0], third.requests() - before[1]];
    assert!(shares[0].abs_diff(shares[1]) <= 30, "{shares:?}");
    let again = web(b, "b");
    eventually("the server that is back", || again.requests() > 0);
    let before = [first.requests(), again.requests(), third.requests()];
    more_answers(300);
    let after = [first.requests(), again.requests(), third.requests()];
    for (after, before) in after.iter().zip(before) {
        let share = after - before;
        assert!(share.abs_diff(100) <= 30, "{share} of 300: {before:?} {after:?}");
    }
    stopped.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("a client");
    }
    assert!(failed.lock().expect("a list").len() <= carried, "{failed:?}");
    assert!(third.server.accepted() > 0);
}

/// `first` takes the first backend that serves, in the order of the list, and comes back to it by itself.
#[test]
fn first_takes_the_first_that_serves_and_comes_back_to_it() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let address = a.address();
    let ambassador = tunnel(&[&address, &b.address()]).variable("DB_BALANCE", "first").start();
    assert_eq!(shares(&ambassador, 10)["a"], 10);
    drop(a);
    assert_eq!(shares(&ambassador, 10)["b"], 10);
    let line = ambassador.wait_for("backend ejected");
    assert_eq!(line["backend"], address.to_string(), "{line}");
    assert!(line["remedy"].as_str().is_some_and(|remedy| remedy.contains("DB_PORT_5432_TCP")), "{line}");
    let _a = Named::at(address, "a");
    eventually("the first one again", || whom(&mut ambassador.connect("db:5432")) == "a");
    ambassador.wait_for("backend recovered");
}

/// `least-connections` evens out what connections that stay have made uneven.
#[test]
fn least_connections_evens_out() {
    let (a, b) = (Named::start("a"), Named::start("b"));
    let ambassador =
        tunnel(&[&a.address(), &b.address()]).variable("DB_BALANCE", "least-connections").start();
    let mut kept = Vec::new();
    let mut dropped = Vec::new();
    for _ in 0..20 {
        let mut client = ambassador.connect("db:5432");
        match whom(&mut client).as_str() {
            "a" => dropped.push(client),
            _ => kept.push(client),
        }
    }
    assert_eq!((dropped.len(), kept.len()), (10, 10));
    drop(dropped);
    eventually("the ends of the dropped connections", || a.open() == 0);
    let mut seen = HashMap::<_, usize>::new();
    for _ in 0..10 {
        let mut client = ambassador.connect("db:5432");
        *seen.entry(whom(&mut client)).or_default() += 1;
        kept.push(client);
    }
    assert!(seen["a"] >= 9, "{seen:?}");
}

/// All backends rest: they are tried all the same, and the one that is back serves at once.
#[test]
fn backends_that_all_rest_are_tried_all_the_same() {
    let [a, b] = [(); 2].map(|()| own_address());
    let ambassador = tunnel(&[&a, &b]).variable("DB_CONNECT_TIMEOUT", "300ms").start();
    for _ in 0..8 {
        ambassador.connect("db:5432").expect_gone();
    }
    let _b = Named::at(b, "b");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "b");
}

/// A backend that swallows every packet leaves the others the time to serve.
#[test]
fn a_backend_that_hangs_leaves_time_for_the_others() {
    let hole = BlackHole::start();
    let silent = Target::start();
    let redis = Target::start().serve(|mut peer| {
        peer.expect(&command(&[b"SELECT", b"1"]));
        peer.send(b"+OK\r\n");
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
    });
    let ambassador = Launch::redis(format!("{},{},{}/1", hole.address(), silent.address(), redis.address()))
        .variable("REDIS_CONNECT_TIMEOUT", "3s")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// A backend that refuses the password is passed over at once, and not asked again by the same client.
#[test]
fn a_backend_that_refuses_the_password_is_passed_over() {
    let (right, wrong) = (password(), password());
    let Some(other) = RedisServer::start(&format!("requirepass {wrong}")) else { return };
    let Some(good) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let ambassador = Launch::redis(format!("{},{}", other.address(), good.address()))
        .variable("REDIS_AUTH", &right)
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    let line = ambassador.wait_for("backend ejected");
    assert_eq!(line["stage"], "auth", "{line}");

    let refusing = own_address();
    let ambassador = Launch::redis(format!("{},{refusing}", other.address()))
        .variable("REDIS_AUTH", &right)
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let mut administrator = other.administrator(&wrong);
    let log = |administrator: &mut redis::Connection| {
        let entries: redis::Value = redis::cmd("ACL").arg("LOG").query(administrator).expect("a log");
        format!("{entries:?}")
    };
    redis::cmd("ACL").arg(&["LOG", "RESET"]).exec(&mut administrator).expect("an empty log");
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.to_lowercase().contains("refused"), "{words}");
    // The dial went on for a second, for the sake of the other backend.
    let entries = log(&mut administrator);
    assert!(entries.contains("count") && entries.contains("int(1)"), "{entries}");
}

/// What every backend said is told in one line.
#[test]
fn what_every_backend_said_is_told() {
    let [a, b] = [(); 2].map(|()| own_address());
    let ambassador = Launch::redis(format!("{a},{b}")).variable("REDIS_CONNECT_TIMEOUT", "300ms").start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains(&a.to_string()) && words.contains(&b.to_string()), "{words}");
}

/// A plain tunnel to the backends of a file.
fn from_file(path: &Path) -> Launch {
    Launch::plain("unused:1").variable("DB_PORT_5432_TCP", format!("tcp+file://{}", path.display()))
}

/// A file of backends is read again however it was replaced, and connections leave backends that it lists no more.
#[test]
fn a_file_of_backends_is_followed_however_it_is_replaced() {
    let directory = TempDir::new().expect("a temporary directory");
    let servers = ["a", "b", "c", "d"].map(Named::start);
    let line = |number: usize| format!("# the servers\n\n{} # one\n", servers[number].address());
    let path = directory.path().join("backends");
    fs::write(&path, line(0)).expect("a file");
    let ambassador = from_file(&path).start();
    let mut client = ambassador.connect("db:5432");
    assert_eq!(whom(&mut client), "a");
    let arrive = |name: &str, client: &mut Peer| {
        client.expect_end();
        *client = ambassador.connect("db:5432");
        assert_eq!(whom(client), name);
    };
    // Written in place.
    fs::write(&path, line(1)).expect("a file");
    arrive("b", &mut client);
    // Replaced by a rename.
    let other = directory.path().join("other");
    fs::write(&other, line(2)).expect("a file");
    fs::rename(&other, &path).expect("a rename");
    arrive("c", &mut client);
    // As ConfigMaps are: a link to a link to a folder that is turned.
    for (number, folder) in [(2, "one"), (3, "two")] {
        fs::create_dir(directory.path().join(folder)).expect("a folder");
        fs::write(directory.path().join(folder).join("backends"), line(number)).expect("a file");
    }
    symlink("one", directory.path().join("data")).expect("a link");
    fs::remove_file(&path).expect("a file that is gone");
    symlink("data/backends", &path).expect("a link");
    symlink("two", directory.path().join("data.new")).expect("a link");
    assert_eq!(whom(&mut client), "c");
    fs::rename(directory.path().join("data.new"), directory.path().join("data")).expect("a turn");
    arrive("d", &mut client);
}

/// A broken file leaves the last good one in force, and says which line is broken; so does one that is gone or empty.
#[test]
fn a_broken_file_leaves_the_last_good_one_in_force() {
    let directory = TempDir::new().expect("a temporary directory");
    let (a, b) = (Named::start("a"), Named::start("b"));
    let path = directory.path().join("backends");
    let trouble = "discovery failed; keeping the last known backends";
    for (broken, said) in
        [(Some("\nhost:port\n"), "line 2"), (Some("# none\n"), "no backend"), (None, "No such file")]
    {
        fs::write(&path, a.address().to_string()).expect("a file");
        let ambassador = from_file(&path).start();
        let mut stays = ambassador.connect("db:5432");
        assert_eq!(whom(&mut stays), "a");
        match broken {
            Some(text) => fs::write(&path, text).expect("a file"),
            None => fs::remove_file(&path).expect("no file"),
        }
        let line = ambassador.wait_for(trouble);
        let error = line["error"].as_str().unwrap_or_default();
        assert!(error.contains(said) && error.contains("backends"), "{line}");
        assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
        assert_eq!(whom(&mut stays), "a");
        fs::write(&path, b.address().to_string()).expect("a file");
        stays.expect_end();
        ambassador.wait_for("discovery recovered");
        assert_eq!(whom(&mut ambassador.connect("db:5432")), "b");
    }
}

/// Where the file system of the file hangs, the last backends serve and the log says why; it is followed on afterwards.
#[test]
fn a_file_whose_file_system_hangs_leaves_the_last_backends_in_force() {
    if command_is_missing("perl") {
        return;
    }
    let directory = TempDir::new().expect("a temporary directory");
    let (a, b) = (Named::start("a"), Named::start("b"));
    let path = directory.path().join("backends");
    fs::write(&path, a.address().to_string()).expect("a file");
    let ambassador = from_file(&path).start();
    let mut stays = ambassador.connect("db:5432");
    assert_eq!(whom(&mut stays), "a");
    let holder = hang(&path);
    let line = ambassador.wait_for("discovery failed; keeping the last known backends");
    let error = line["error"].as_str().unwrap_or_default();
    assert!(error.contains("the file system does not answer"), "{line}");
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "a");
    assert_eq!(whom(&mut stays), "a");
    drop(holder);
    ambassador.wait_for("discovery recovered");
    assert_eq!(whom(&mut stays), "a");
    fs::write(&path, b.address().to_string()).expect("a file");
    stays.expect_end();
    assert_eq!(whom(&mut ambassador.connect("db:5432")), "b");
}

/// A file that is missing or broken at start is a mistake of configuration, by its line.
#[test]
fn a_file_that_can_not_be_read_at_start_is_refused() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    from_file(&path).finish().expect_mistake("DB_PORT_5432_TCP");
    fs::write(&path, "a:1\n\nb:x\n").expect("a file");
    let said = from_file(&path).finish().expect_mistake("DB_PORT_5432_TCP");
    assert!(said.contains("line 3"), "{said}");
    fs::write(&path, "# nothing\n").expect("a file");
    from_file(&path).finish().expect_mistake("DB_PORT_5432_TCP");
}

/// Ten thousand backends are no burden, and neither is another ten thousand.
#[test]
fn ten_thousand_backends_are_no_burden() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    let (a, b) = (Named::start("a"), Named::start("b"));
    let list = |network: u8, place: usize, server: &Named| {
        let mut lines: Vec<_> = (0..9_999)
            .map(|number| format!("127.{network}.{}.{}:1", number / 250, 1 + number % 250))
            .collect();
        lines.insert(place, server.address().to_string());
        lines.join("\n")
    };
    fs::write(&path, list(3, 0, &a)).expect("a file");
    let wiring = from_file(&path).wiring();
    assert_eq!(wiring["links"][0]["backends"].as_array().map(Vec::len), Some(10_000));
    let ambassador = from_file(&path).variable("DB_BALANCE", "first").start();
    let mut clients: Vec<_> = (0..100).map(|_| ambassador.connect("db:5432")).collect();
    for client in &mut clients {
        assert_eq!(whom(client), "a");
    }
    fs::write(&path, list(4, 10, &b)).expect("a file");
    for mut client in clients {
        client.expect_end();
    }
    // Ten before it fail first.
    assert_eq!(shares(&ambassador, 100)["b"], 100);
}

/// A backend that a file lists twice is one, which has one share.
#[test]
fn a_backend_that_a_file_lists_twice_is_one() {
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    let (a, b, c) = (Named::start("a"), Named::start("b"), Named::start("c"));
    let write = |list: &[&Named]| {
        let lines: Vec<_> = list.iter().map(|server| server.address().to_string()).collect();
        fs::write(&path, lines.join("\n")).expect("a file");
    };
    write(&[&a, &b, &a]);
    let ambassador = from_file(&path).start();
    assert_eq!(shares(&ambassador, 60)["a"], 30);
    write(&[&a, &c, &a]);
    ambassador.wait_for("backends changed");
    assert_eq!(shares(&ambassador, 60)["a"], 30);
}

/// A primary and a replica that follows it.
fn primary_and_replica(configuration: &str) -> Option<(RedisServer, RedisServer)> {
    let primary = RedisServer::start(configuration)?;
    let follow =
        format!("{configuration}\nreplicaof {} {}", primary.address().ip(), primary.address().port());
    let replica = RedisServer::start(&follow)?;
    Some((primary, replica))
}

fn role(ambassador: &Ambassador) -> String {
    let mut client = ambassador.connect("redis:6379");
    client.send(b"HELLO 3\r\n");
    let mut answer = Vec::new();
    let mut byte = [0];
    // A list of nothing, the modules, is at its end.
    while !answer.ends_with(b"*0\r\n") {
        client.read_exact(&mut byte).expect("an answer");
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    answer.split("\r\n").skip_while(|word| *word != "role").nth(2).unwrap_or_default().to_owned()
}

/// `ROLE=master` and `ROLE=replica` find their server in any order, for a user who may ask for neither ROLE nor INFO.
#[test]
fn the_role_finds_its_server_for_a_user_who_may_not_ask_for_it() {
    let password = password();
    let user = format!("user app on >{password} ~* &* +@all -@admin -@dangerous -role -info");
    let Some((primary, replica)) = primary_and_replica(&user) else { return };
    for backends in [[primary.address(), replica.address()], [replica.address(), primary.address()]] {
        for wanted in ["master", "replica"] {
            let ambassador = Launch::redis(format!("{},{}", backends[0], backends[1]))
                .variable("REDIS_USERNAME", "app")
                .variable("REDIS_AUTH", &password)
                .variable("REDIS_ROLE", wanted)
                .start();
            assert_eq!(role(&ambassador), wanted);
        }
    }
}

/// No backend has the role: the client is told which role each of them has.
#[test]
fn a_role_that_nobody_has_is_told() {
    let Some(primary) = RedisServer::start("") else { return };
    let ambassador = Launch::redis(primary.address())
        .variable("REDIS_ROLE", "replica")
        .variable("REDIS_CONNECT_TIMEOUT", "500ms")
        .start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("is a master, not a replica"), "{words}");
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["stage"], "role", "{line}");
}

/// The question for the role rides in the one write of the handshake; what a server has answered once is asked alone,
/// so that no refusal goes to the log of its ACLs again.
#[test]
fn the_question_for_the_role_rides_in_the_one_write() {
    let target = Target::start();
    let ambassador = Launch::redis(format!("{}/3", target.address()))
        .variable("REDIS_AUTH", "pw")
        .variable("REDIS_ROLE", "master")
        .variable("REDIS_MOVE_GRACE", "off")
        .start();
    let begins =
        [command(&[b"AUTH", b"pw"]), command(&[b"SELECT", b"3"]), command(&[b"HELLO", b"2"])].concat();
    // With a module, whose own list is in the reply.
    let hello = fixture("replies/redis-8.2/hello-2.resp");
    let noperm =
        fixture("replies/redis-7.0/noperm-role.resp").strip_prefix(b"+OK\r\n").expect("AUTH succeeds");
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let mut server = target.accept();
    // Nothing is said before all of it has come.
    server.expect(&[&begins[..], &command(&[b"ROLE"])].concat());
    server.drip(&[&b"+OK\r\n+OK\r\n"[..], hello, noperm].concat());
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");

    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let mut server = target.accept();
    server.expect(&begins);
    server.send(&[&b"+OK\r\n+OK\r\n"[..], hello, b"+what belongs to the client\r\n"].concat());
    client.expect(b"+what belongs to the client\r\n");
    server.expect(b"PING\r\n");
}

/// Redis 5 knows no HELLO, and a server may have had its ROLE renamed: the role is found all the same.
#[test]
fn an_old_server_tells_its_role_too() {
    let unknown_hello = fixture("replies/redis-5/unknown-hello.resp");
    let hello_and_role = [command(&[b"HELLO", b"2"]), command(&[b"ROLE"])].concat();
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_ROLE", "replica")
        .variable("REDIS_MOVE_GRACE", "off")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let mut server = target.accept();
    server.expect(&hello_and_role);
    server.send(&[unknown_hello, fixture("replies/redis-5/role-replica.resp")].concat());
    server.expect(b"PING\r\n");

    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_ROLE", "master")
        .variable("REDIS_MOVE_GRACE", "off")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    let mut server = target.accept();
    server.expect(&hello_and_role);
    server.send(&[unknown_hello, fixture("replies/redis-5/unknown-role.resp")].concat());
    server.expect(&command(&[b"INFO", b"replication"]));
    server.send(fixture("replies/redis-7.0/info-replication.resp"));
    server.expect(b"PING\r\n");
}

/// A stranger's lists in lists end the handshake, not the process.
#[test]
fn lists_in_lists_without_end_are_no_answer() {
    let target = Target::start().serve(|mut peer| {
        // The ambassador closes as soon as it has seen enough.
        let _ = peer.write_all(&b"*1\r\n".repeat(50_000));
        let _ = peer.read_to_end(&mut Vec::new());
    });
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_ROLE", "master")
        .variable("REDIS_CONNECT_TIMEOUT", "2s")
        .start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("does not answer like a Redis server"), "{words}");
}

/// Settings of several backends that make no sense are mistakes, each by its name.
#[test]
fn settings_that_make_no_sense_are_refused() {
    let redis = || Launch::redis("a:1,b:2");
    redis().variable("REDIS_BALANCE", "random").finish().expect_mistake("REDIS_BALANCE");
    redis().variable("REDIS_ROLE", "leader").finish().expect_mistake("REDIS_ROLE");
    redis().variable("REDIS_MOVE_GRACE", "soon").finish().expect_mistake("REDIS_MOVE_GRACE");
    redis().variable("REDIS_SENTINEL_AUTH", password()).finish().expect_mistake("REDIS_SENTINEL_AUTH");
    redis().variable("REDIS_SENTINEL_USERNAME", "u").finish().expect_mistake("REDIS_SENTINEL_USERNAME");
    Launch::plain("a:1").variable("DB_ROLE", "master").finish().expect_mistake("DB_ROLE");
    Launch::new()
        .variable("REDIS_PORT_6379_TCP", "redis+sentinel://s:1/m")
        .variable("REDIS_SENTINEL_USERNAME", "u")
        .finish()
        .expect_mistake("REDIS_SENTINEL_USERNAME");
}

/// `links` shows every backend that the configuration lists.
#[test]
fn links_shows_the_backends() {
    let wiring = Launch::redis("a,b:7").wiring();
    assert_eq!(wiring["links"][0]["backends"], serde_json::json!(["a:6379", "b:7"]));
    let directory = TempDir::new().expect("a temporary directory");
    let path = directory.path().join("backends");
    fs::write(&path, "x:1\ny:2 # two\n").expect("a file");
    let wiring = from_file(&path).wiring();
    assert_eq!(wiring["links"][0]["backends"], serde_json::json!(["x:1", "y:2"]));
}

/// A client that reads nothing but the end of its connection sees no difference while backends fail: a dial that was
/// passed on is no failure.
#[test]
fn a_backend_that_fails_is_not_the_clients_business() {
    let refusing = own_address();
    let server = Named::start("a");
    let ambassador = tunnel(&[&refusing, &server.address()]).variable("DB_BALANCE", "first").start();
    for _ in 0..20 {
        assert_eq!(try_whom(&mut ambassador.connect("db:5432")).as_deref(), Some("a"));
    }
}
