//! Clusters that are none, that lie, or that can't be reached.

use std::fmt::Write as _;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::Value;

use super::{FIRST, Front, ask, is_closed, launch};
use crate::support::{
    Launch, Peer, RedisServer, Served, Target, command, eventually, get, metric, own_address, password,
};

/// What a scripted node tells of the cluster: an id, an address, flags, an epoch, slots.
pub(super) type Line = (String, SocketAddr, &'static str, u64, &'static str);

/// A node that answers what it is asked as its script has it, and nothing else.
pub(super) fn play_at(
    address: SocketAddr,
    tell: impl Fn() -> Vec<Line> + Send + Sync + 'static,
    other: impl Fn() -> String + Send + Sync + 'static,
) -> Served {
    Target::at(address).serve(move |mut peer| {
        while let Some(asked) = next(&mut peer) {
            let is = |words: &[&str]| {
                asked.len() >= words.len()
                    && words.iter().zip(&asked).all(|(word, asked)| word.eq_ignore_ascii_case(asked))
            };
            let reply = if is(&["AUTH"]) {
                "+OK\r\n".to_owned()
            } else if is(&["ECHO"]) {
                format!("${}\r\n{}\r\n", asked[1].len(), asked[1])
            } else if is(&["CLUSTER", "NODES"]) {
                let mut lines = String::new();
                for (id, address, flags, epoch, slots) in tell() {
                    let (ip, port, bus) = (address.ip(), address.port(), u32::from(address.port()) + 10000);
                    let _ = writeln!(lines, "{id} {ip}:{port}@{bus} {flags} - 0 0 {epoch} connected {slots}");
                }
                format!("${}\r\n{lines}\r\n", lines.len())
            } else if is(&["CLUSTER", "SLOTS"]) {
                "*0\r\n".to_owned()
            } else {
                other()
            };
            if peer.try_send(reply.as_bytes()).is_err() {
                return;
            }
        }
    })
}

/// The arguments of the next command.
fn next(peer: &mut Peer) -> Option<Vec<String>> {
    let count: usize = line(peer)?.strip_prefix('*')?.parse().ok()?;
    (0..count)
        .map(|_| {
            line(peer)?;
            line(peer)
        })
        .collect()
}

/// A line without its ending.
fn line(peer: &mut Peer) -> Option<String> {
    let (mut line, mut byte) = (Vec::new(), [0]);
    while !line.ends_with(b"\r\n") {
        peer.read_exact(&mut byte).ok()?;
        line.push(byte[0]);
    }
    line.truncate(line.len() - 2);
    String::from_utf8(line).ok()
}

pub(super) fn id(number: usize) -> String {
    format!("{number:040x}")
}

#[test]
fn an_address_that_no_node_has_gets_a_listener_all_the_same() {
    let elsewhere = RedisServer::start("requirepass secret-of-nobody");
    let Some(elsewhere) = elsewhere else { return };
    let at = own_address();
    let moved = format!("-MOVED 7 {}\r\n", elsewhere.address());
    let node = play_at(at, move || vec![(id(1), at, "myself,master", 1, "0-16383")], move || moved.clone());
    let front = Front::start(launch(&format!("redis+cluster://{}", node.address()), &password()));
    front.knows(1);
    let mut client = front.ambassador.connect("redis:6379");
    let told = ask(&mut client, &[b"GET", b"key"]);
    assert_eq!(String::from_utf8_lossy(&told), format!("-MOVED 7 {}:{}\r\n", front.at, FIRST + 1));
    // That is where the client was sent, and no error.
    let metrics = get(front.ambassador.admin(), "/metrics").body;
    assert!(!metrics.contains("code=\"MOVED\""), "{metrics}");
    front
        .ambassador
        .wait_for("a node names an address that no node is known at; it has a listener all the same");
    // Our password is not that server's: it is reached, and says so.
    let mut there = front.node(1);
    there.send(&command(&[b"PING"]));
    assert!(there.expect_line().contains("the target refused the password"));
}

/// Where the link does not know of a cluster, its clients are sent to servers that they may not reach: that is an error, and the
/// log says once what to write instead.
#[test]
fn a_link_that_leads_to_one_node_as_if_there_were_no_others_is_told_once() {
    let at = own_address();
    let moved = || "-MOVED 7 192.0.2.7:6379\r\n".to_owned();
    let node = play_at(at, move || vec![(id(1), at, "myself,master", 1, "0-100")], moved);
    let ambassador = Launch::redis(node.address()).start();
    for _ in 0..3 {
        let mut client = ambassador.connect("redis:6379");
        assert_eq!(ask(&mut client, &[b"GET", b"key"]), moved().as_bytes());
        assert_eq!(ask(&mut client, &[b"GET", b"key"]), moved().as_bytes());
    }
    let is_told = |line: &Value| {
        line["message"].as_str().is_some_and(|told| told.contains("a node of a Redis Cluster"))
    };
    let line = ambassador.wait_for_log("the target is a node", is_told);
    let remedy = format!("write REDIS_PORT_6379_TCP=redis+cluster://{}", node.address());
    assert!(line["remedy"].as_str().is_some_and(|told| told.starts_with(&remedy)), "{line}");
    assert!(metric(ambassador.admin(), "errors_total{link=\"redis:6379\",code=\"MOVED\"}") > 5.5);
    assert_eq!(ambassador.logged(is_told).len(), 1);
}

#[test]
fn nobody_is_dialled_whom_a_script_names() {
    let stranger = Target::start();
    let (at, said) = (own_address(), format!("-MOVED 7 {}\r\n", stranger.address()));
    let node = play_at(at, move || vec![(id(1), at, "myself,master", 1, "0-16383")], move || said.clone());
    let front = Front::start(launch(&format!("redis+cluster://{}", node.address()), &password()));
    front.knows(1);
    let mut client = front.ambassador.connect("redis:6379");
    for script in [&[b"EVAL".as_slice(), b"x", b"0"][..], &[b"EVAL_RO", b"x", b"0"], &[b"FCALL", b"x", b"0"]]
    {
        let told = ask(&mut client, script);
        assert_eq!(String::from_utf8_lossy(&told), "-MOVED 7 :0\r\n");
    }
    assert!(Peer::try_connect(SocketAddr::new(front.at.into(), FIRST + 1)).is_err());
    stranger.expect_no_connection(Duration::from_millis(100));
}

#[test]
fn addresses_without_end_come_to_an_end() {
    let (at, counted) = (own_address(), Arc::new(AtomicUsize::new(0)));
    let other = move || format!("-ASK 7 127.9.9.9:{}\r\n", 1000 + counted.fetch_add(1, Ordering::Relaxed));
    let node = play_at(at, move || vec![(id(1), at, "myself,master", 1, "0-16383")], other);
    let (launch, address) = launch(&format!("redis+cluster://{}", node.address()), &password());
    let front = Front::start((launch.variable("REDIS_MOVE_GRACE", "20s"), address));
    let mut client = front.ambassador.connect("redis:6379");
    for number in 1..16 {
        let told = ask(&mut client, &[b"GET", b"key"]);
        assert_eq!(String::from_utf8_lossy(&told), format!("-ASK 7 {address}:{}\r\n", FIRST + number));
    }
    let told = String::from_utf8_lossy(&ask(&mut client, &[b"GET", b"key"])).into_owned();
    assert!(told.starts_with("-ERR redis-ambassador: redis:6379: the cluster has 17 nodes"), "{told}");
}

#[test]
fn the_newest_epoch_is_believed() {
    let mut places: Vec<_> = (0..3).map(|_| own_address()).collect();
    places.sort();
    let old: Vec<Line> = vec![(id(1), places[0], "master", 1, "0-16383"), (id(2), places[1], "slave", 1, "")];
    let new: Vec<Line> = vec![(id(2), places[1], "master", 2, "0-16383"), (id(3), places[2], "slave", 2, "")];
    let seeds = [place(places[0], &old), place(places[1], &new)];
    let seeds: Vec<_> = seeds.iter().map(|seed| seed.address().to_string()).collect();
    let front = Front::start(launch(&format!("redis+cluster://{}", seeds.join(",")), &password()));
    front.knows(2);
    assert_eq!(front.number_of(places[1]), FIRST);
    assert_eq!(front.number_of(places[2]), FIRST + 1);
    let told = ask(&mut front.ambassador.connect("redis:6379"), &[b"GET", b"key"]);
    assert_eq!(told, b"$-1\r\n");
}

fn place(at: SocketAddr, lines: &[Line]) -> Served {
    let lines = lines.to_vec();
    play_at(at, move || lines.clone(), || "$-1\r\n".to_owned())
}

#[test]
fn a_topology_that_changes_at_every_look_stays_within_its_numbers() {
    let (at, looks) = (own_address(), Arc::new(AtomicUsize::new(0)));
    let tell = move || {
        let look = looks.fetch_add(1, Ordering::Relaxed);
        let fleeting: SocketAddr = format!("127.9.9.{}:7000", look % 200 + 1).parse().expect("an address");
        vec![(id(1), at, "myself,master", 1, "0-16383"), (id(look + 2), fleeting, "slave", 1, "")]
    };
    let node = play_at(at, tell, || "$-1\r\n".to_owned());
    let (launch, address) = launch(&format!("redis+cluster://{}", node.address()), &password());
    let front = Front::start((launch.variable("REDIS_MOVE_GRACE", "0s"), address));
    let mut client = front.ambassador.connect("redis:6379");
    eventually("many looks", || {
        // Each names a node that is not known, and asks for a look.
        ask(&mut client, &[b"CLUSTER", b"NODES"]);
        front.ambassador.logged(is_closed).len() > 20
    });
    assert!(front.nodes().len() <= 3, "{:?}", front.nodes());
}

#[test]
fn who_is_no_cluster_is_told_so() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else { return };
    let front = Front::start(launch(&format!("redis+cluster://{}", server.address()), &secret));
    let warned = front.ambassador.wait_for("discovery failed; keeping the last known backends");
    let words = warned["error"].as_str().expect("words");
    assert!(words.contains("it is no node of a cluster") && words.contains("redis://"), "{words}");
    // What it can it does all the same.
    let told = ask(&mut front.ambassador.connect("redis:6379"), &[b"SET", b"key", b"value"]);
    assert_eq!(told, b"+OK\r\n");
}

#[test]
fn nobody_answers() {
    let address = own_address();
    let (launch, at) = launch(&format!("redis+cluster://{address}"), &password());
    let front = Front::start((launch.variable("REDIS_CONNECT_TIMEOUT", "1s"), at));
    let warned = front.ambassador.wait_for("discovery failed; keeping the last known backends");
    let words = warned["error"].as_str().expect("words");
    assert!(
        words.contains("no node tells of the cluster") && words.contains("Connection refused"),
        "{words}"
    );
    let refused = front.ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(refused.contains(&address.to_string()), "{refused}");
}

#[test]
fn a_node_that_can_not_be_reached_sends_its_clients_elsewhere() {
    let (at, dead) = (own_address(), own_address());
    let lines: Vec<Line> =
        vec![(id(1), at, "myself,master", 1, "0-16383"), (id(2), dead, "master,fail", 1, "")];
    let node = place(at, &lines);
    let front = Front::start(launch(&format!("redis+cluster://{}", node.address()), &password()));
    front.knows(2);
    let mut client = front.node(front.number_of(dead) - FIRST);
    client.send(&command(&[b"PING"]));
    let line = client.expect_line();
    assert!(
        line.starts_with("-CLUSTERDOWN redis-ambassador: redis:6379: this node can't be reached"),
        "{line}"
    );
    client.expect_end();
}

#[test]
fn what_comes_in_pieces_is_told_as_a_whole() {
    let at = own_address();
    let said = Arc::new(Mutex::new(Vec::<u8>::new()));
    let script = Arc::clone(&said);
    let node = Target::at(at).serve(move |mut peer| {
        while let Some(asked) = next(&mut peer) {
            let line =
                format!("{} {}:{}@1 myself,master - 0 0 1 connected 0-16383\n", id(1), at.ip(), at.port());
            let told = match &asked[0].to_ascii_uppercase()[..] {
                "AUTH" => b"+OK\r\n".to_vec(),
                "CLUSTER" if asked[1] == "NODES" => format!("${}\r\n{line}\r\n", line.len()).into_bytes(),
                "CLUSTER" => b"*0\r\n".to_vec(),
                _ => {
                    peer.drip(&script.lock().expect("a script"));
                    continue;
                }
            };
            if peer.try_send(&told).is_err() {
                return;
            }
        }
    });
    let front = Front::start(launch(&format!("redis+cluster://{}", node.address()), &password()));
    front.knows(1);
    let (theirs, ours) = (at.to_string(), format!("{}:{FIRST}", front.at));
    let mut client = front.ambassador.connect("redis:6379");
    for (theirs, ours) in [
        (format!("-MOVED 1 {theirs}\r\n"), format!("-MOVED 1 {ours}\r\n")),
        (format!("*2\r\n-ASK 1 {theirs}\r\n:1\r\n"), format!("*2\r\n-ASK 1 {ours}\r\n:1\r\n")),
        (format!("*2\r\n:1\r\n-MOVED 1 {theirs}\r\n"), format!("*2\r\n:1\r\n-MOVED 1 {ours}\r\n")),
        ("*2\r\n-ERR no\r\n-MOVEDX 1 h:1\r\n".to_owned(), "*2\r\n-ERR no\r\n-MOVEDX 1 h:1\r\n".to_owned()),
        ("-MOVED nonsense\r\n".to_owned(), "-MOVED nonsense\r\n".to_owned()),
        (format!("-{}\r\n", "x".repeat(9000)), format!("-{}\r\n", "x".repeat(9000))),
    ] {
        theirs.as_bytes().clone_into(&mut said.lock().expect("a script"));
        client.send(&command(&[b"GET", b"key"]));
        client.expect(ours.as_bytes());
    }
}
