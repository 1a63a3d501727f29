//! Sessions that have been quiet for `RELEASE_AFTER` give their upstream back, and no client notices.

use std::fs;
use std::time::Duration;

use redis::Connection;
use rustix::process::Signal;

use super::{LINK, counted, exchanges};
use crate::support::{Ambassador, Launch, Peer, RedisServer, Target, command, eventually, password};

/// More clients than a server has connections for at a time.
const MANY: usize = 300;

fn launch(server: &RedisServer, password: &str) -> Launch {
    Launch::redis(server.address()).variable("REDIS_AUTH", password).variable("REDIS_RELEASE_AFTER", "200ms")
}

fn ask(client: &mut Peer, command: &str, answer: &str) {
    client.send(command.as_bytes());
    client.expect(answer.as_bytes());
}

/// A client that has an upstream.
fn served(ambassador: &Ambassador) -> Peer {
    let mut client = ambassador.connect(LINK);
    ask(&mut client, "PING\r\n", "+PONG\r\n");
    client
}

/// What is connected to the server, by the names of the last commands.
fn connected(administrator: &mut Connection) -> Vec<String> {
    let list: String = redis::cmd("CLIENT").arg("LIST").query(administrator).expect("a list");
    let commands = list.split_whitespace().filter_map(|word| word.strip_prefix("cmd="));
    commands.filter(|command| !command.starts_with("client")).map(str::to_owned).collect()
}

fn upstreams(ambassador: &Ambassador, kind: &str) -> usize {
    counted(ambassador, &format!("upstream_connections{{link=\"{LINK}\",kind=\"{kind}\"}}"))
}

fn clients(ambassador: &Ambassador) -> usize {
    counted(ambassador, &format!("connections_active{{link=\"{LINK}\"}}"))
}

#[track_caller]
fn wait_for_release(ambassador: &Ambassador) {
    eventually("all upstreams to be given back", || upstreams(ambassador, "own") == 0);
}

#[test]
fn idle_clients_hold_no_upstream_and_find_all_as_they_left_it() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}\nmaxclients 200")) else { return };
    let mut administrator = server.administrator(&password);
    let ambassador = launch(&server, &password).variable("REDIS_DB", "2").start();
    let mut clients_there = Vec::new();
    for round in 0..2 {
        for number in 0..MANY {
            if round == 0 {
                let mut client = ambassador.connect(LINK);
                let state = format!("CLIENT SETNAME c{number}\r\nSELECT {}\r\n", number % 8);
                ask(&mut client, &state, "+OK\r\n+OK\r\n");
                ask(&mut client, &format!("SET who:{number} {number}\r\n"), "+OK\r\n");
                clients_there.push(client);
            } else {
                let (name, value) = (format!("c{number}"), number.to_string());
                let answer = format!("${}\r\n{name}\r\n${}\r\n{value}\r\n", name.len(), value.len());
                let question = format!("CLIENT GETNAME\r\nGET who:{number}\r\n");
                ask(&mut clients_there[number], &question, &answer);
            }
            // Twice as many are all that the server has room for.
            if number % 100 == 99 {
                server.wait_until_alone(&mut administrator);
            }
        }
    }
    wait_for_release(&ambassador);
    assert_eq!(upstreams(&ambassador, "ready"), 0);
    assert_eq!(clients(&ambassador), MANY);
    assert!(exchanges(&ambassador, "released") >= MANY, "each client got another one");
    // Where there is none, a client can go all the same, and be as dead.
    let rest = clients_there.split_off(MANY / 2);
    drop(clients_there);
    rest.into_iter().for_each(Peer::reset);
    eventually("all clients to be gone", || clients(&ambassador) == 0);
}

/// Whoever waits for anything keeps its upstream, and so does one whose state can't be had on another one.
#[test]
fn who_is_owed_something_or_pinned_keeps_its_upstream() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let mut administrator = server.administrator(&password);
    let ambassador = launch(&server, &password).start();
    let [mut blocked, mut subscribed, mut queued, mut watching, mut free] =
        std::array::from_fn(|_| ambassador.connect(LINK));
    blocked.send(b"BLPOP list 0\r\n");
    ask(&mut subscribed, "SUBSCRIBE a\r\n", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n");
    ask(&mut queued, "MULTI\r\nINCR counter\r\n", "+OK\r\n+QUEUED\r\n");
    ask(&mut watching, "WATCH counter\r\n", "+OK\r\n");
    let mut held = Vec::new();
    for _ in 0..5 {
        // As often as it gives its upstream back, the others don't.
        ask(&mut free, "PING\r\n", "+PONG\r\n");
        eventually("the free one without an upstream", || {
            held = connected(&mut administrator);
            !held.iter().any(|command| command == "ping")
        });
    }
    held.sort();
    assert_eq!(held, ["blpop", "incr", "subscribe", "watch"]);
    redis::cmd("PUBLISH").arg(&["a", "b"]).exec(&mut administrator).expect("published");
    redis::cmd("RPUSH").arg(&["list", "value"]).exec(&mut administrator).expect("pushed");
    blocked.expect(b"*2\r\n$4\r\nlist\r\n$5\r\nvalue\r\n");
    subscribed.expect(b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$1\r\nb\r\n");
    ask(&mut queued, "EXEC\r\n", "*1\r\n:1\r\n");
    ask(&mut watching, "UNWATCH\r\n", "+OK\r\n");
    free.finish_sending();
    free.expect_end();
    // What was in the way has come to its end.
    eventually("the subscriber alone with an upstream", || connected(&mut administrator) == ["subscribe"]);
}

/// The next command is all that a session needs to have an upstream again, whatever it is.
#[test]
fn whatever_comes_first_after_a_release_is_answered() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = launch(&server, &password).variable("REDIS_CLIENT_AUTH", "absorb").start();
    let mut client = served(&ambassador);
    let value = "v".repeat(300_000);
    let large = format!("*3\r\n$3\r\nSET\r\n$1\r\na\r\n$300000\r\n{value}\r\n");
    for (said, heard) in [
        ("SELECT 3\r\n", "+OK\r\n"),
        (&*large, "+OK\r\n"),
        ("AUTH any password\r\n", "+OK\r\n"),
        ("AUTH any\r\nSET b 1\r\nINCR b\r\nGET b\r\n", "+OK\r\n+OK\r\n:2\r\n$1\r\n2\r\n"),
        ("\r\n\r\nINCR b\r\n", ":3\r\n"),
        ("BLPOP none 0.01\r\n", "*-1\r\n"),
        ("MULTI\r\nINCR b\r\nEXEC\r\n", "+OK\r\n+QUEUED\r\n*1\r\n:4\r\n"),
        ("WAIT 0 1\r\n", "-ERR"),
        ("RESET\r\nEXISTS b\r\n", "+RESET\r\n:0\r\n"),
        ("SELECT 3\r\n", "+OK\r\n"),
        ("EXISTS b\r\n", ":1\r\n"),
        ("QUIT\r\n", "+OK\r\n"),
    ] {
        wait_for_release(&ambassador);
        if said.starts_with("WAIT") {
            // An upstream knows of no writes on another one.
            let mut waiting = served(&ambassador);
            ask(&mut waiting, "SET c 1\r\nWAIT 0 1\r\n", "+OK\r\n:0\r\n");
            wait_for_release(&ambassador);
            ask(&mut waiting, "WAIT 0 1\r\n", ":0\r\n");
            ask(&mut waiting, "SET c 1\r\n", "+OK\r\n");
            wait_for_release(&ambassador);
            waiting.send(said.as_bytes());
            assert!(waiting.expect_line().starts_with(heard));
            waiting.expect_end();
            continue;
        }
        let (head, tail) = said.as_bytes().split_at(said.len().min(3));
        client.send(head);
        client.send(tail);
        client.expect(heard.as_bytes());
    }
    client.expect_end();
}

/// One that was ready is given back by a client that says nothing, and another one serves when it does.
#[test]
fn who_has_said_nothing_yet_gives_back_what_was_ready() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador =
        launch(&server, &password).variable("REDIS_WARM", "1").variable("AMBASSADOR_LOG", "debug").start();
    let kinds = || ["own", "ready"].map(|kind| upstreams(&ambassador, kind));
    eventually("one that is ready", || kinds() == [0, 1]);
    let released = || ambassador.logged(|line| line["reason"] == "released").len();
    let mut silent = ambassador.connect(LINK);
    eventually("it to be given back", || released() == 1);
    eventually("another one to be ready", || kinds() == [0, 1]);
    assert_eq!(clients(&ambassador), 1);
    ask(&mut silent, "PING\r\n", "+PONG\r\n");
    assert_eq!(exchanges(&ambassador, "released"), 1);
    assert_eq!(counted(&ambassador, &format!("warm_hits_total{{link=\"{LINK}\"}}")), 1);
    eventually("one to be ready, and none with the client", || kinds() == [0, 1]);
    ask(&mut silent, "PING\r\n", "+PONG\r\n");
    assert_eq!(counted(&ambassador, &format!("warm_hits_total{{link=\"{LINK}\"}}")), 2);
    // One that leaves without a word has needed none.
    eventually("one to be ready, and none with the client", || kinds() == [0, 1]);
    let mut leaving = ambassador.connect(LINK);
    eventually("what it held to be given back", || released() == 2);
    leaving.finish_sending();
    leaving.expect_end();
    assert_eq!(counted(&ambassador, &format!("warm_hits_total{{link=\"{LINK}\"}}")), 2);
}

/// A drain has nothing to wait for, and a client nothing to lose.
#[test]
fn a_drain_closes_clients_without_an_upstream_at_once() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_RELEASE_AFTER", "200ms")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "1h")
        .start();
    let [mut idle, mut half] = std::array::from_fn(|_| {
        let client = ambassador.connect(LINK);
        target.accept().expect_end();
        client
    });
    half.send(b"*1\r\n$4\r\nPI");
    ambassador.signal(Signal::TERM);
    idle.expect_end();
    half.expect_end();
    drop(half);
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Who has no upstream is not moved, and dials the new place.
#[test]
fn who_comes_back_is_led_to_where_the_target_is_now() {
    let targets = [Target::start(), Target::start()];
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("backends");
    fs::write(&path, format!("{}\n", targets[0].address())).expect("a file");
    let ambassador = Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", format!("redis+file://{}", path.display()))
        .variable("REDIS_RELEASE_AFTER", "200ms")
        .start();
    let mut client = ambassador.connect(LINK);
    targets[0].accept().expect_end();
    let next = directory.path().join("next");
    fs::write(&next, format!("{}\n", targets[1].address())).expect("a file");
    fs::rename(next, &path).expect("a rename");
    let changes = format!("target_changes_total{{link=\"{LINK}\"}}");
    eventually("the move", || counted(&ambassador, &changes) > 0);
    client.send(&command(&[b"PING"]));
    let mut upstream = targets[1].accept();
    upstream.expect(&command(&[b"PING"]));
    upstream.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
    assert_eq!(["released", "moved"].map(|cause| exchanges(&ambassador, cause)), [1, 0]);
}

/// Sessions without an upstream hear of another secret with the next one, and keep nobody else waiting for it.
#[test]
fn another_secret_is_shown_by_who_has_an_upstream_and_whoever_comes_back() {
    let (root, [old, new]) = (password(), [password(), password()]);
    let configuration = format!("requirepass {root}\nuser app on >{old} ~* &* +@all");
    let Some(server) = RedisServer::start(&configuration) else { return };
    let mut administrator = server.administrator(&root);
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, &old).expect("a file");
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH_FILE", &file)
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_RELEASE_AFTER", "200ms")
        .start();
    let mut released: Vec<_> = (0..100).map(|_| served(&ambassador)).collect();
    let mut pinned = served(&ambassador);
    ask(&mut pinned, "WATCH a\r\n", "+OK\r\n");
    eventually("all but one to be released", || upstreams(&ambassador, "own") == 1);
    let rules = [format!(">{new}"), format!("<{old}")];
    redis::cmd("ACL").arg("SETUSER").arg("app").arg(&rules).exec(&mut administrator).expect("a user");
    let next = directory.path().join("next");
    fs::write(&next, &new).expect("a file");
    fs::rename(next, &file).expect("a file that is replaced");
    let shown = format!("reauthentications_total{{link=\"{LINK}\",result=\"ok\"}}");
    eventually("the secret to be shown", || counted(&ambassador, &shown) > 0);
    for client in &mut released {
        ask(client, "PING\r\n", "+PONG\r\n");
    }
    pinned.expect_silence(Duration::from_millis(100));
    ask(&mut pinned, "UNWATCH\r\n", "+OK\r\n");
}
