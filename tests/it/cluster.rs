//! Redis Cluster behind one address: clients that speak it, what they are told of the nodes, and nodes that move.

mod broken;
mod clients;
mod shown;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

use redis::Commands;
use redis::cluster::{ClusterClient, ClusterConnection};
use serde_json::Value;

use crate::support::{
    Ambassador, Cluster, Known, Launch, Peer, SLOTS, Version, command, eventually, own_address, password,
    random,
};

/// An ambassador in front of a cluster, at a loopback address of its own.
struct Front {
    ambassador: Ambassador,
    at: Ipv4Addr,
}

/// Whether a line tells that a node is gone.
fn is_closed(line: &Value) -> bool {
    line["message"] == "listener of a node closed" && line["why"] == "gone"
}

/// The first number of the nodes' listeners.
const FIRST: u16 = 7100;

impl Front {
    fn of(cluster: &Cluster) -> Self {
        Self::start(launch(&cluster.target(), &cluster.password))
    }

    fn start((launch, at): (Launch, Ipv4Addr)) -> Self {
        Self { ambassador: launch.start(), at }
    }

    /// Waits until so many nodes have a listener.
    #[track_caller]
    fn knows(&self, nodes: usize) {
        eventually("the nodes have listeners", || self.nodes().len() == nodes);
    }

    /// Where nodes listen, as the log has it.
    fn nodes(&self) -> BTreeSet<String> {
        let lines = self.ambassador.logged(|line| line["message"] == "node listening");
        lines.iter().map(|line| line["listen"].as_str().expect("an address").to_owned()).collect()
    }

    fn node(&self, number: u16) -> Peer {
        Peer::connect(SocketAddr::new(self.at.into(), FIRST + number))
    }

    /// The number of the listener that leads to that node.
    fn number_of(&self, node: SocketAddr) -> u16 {
        let line = self.ambassador.wait_for_log("the node's listener", |line| {
            line["message"] == "node listening" && line["backend"] == node.to_string()
        });
        let listen: SocketAddr = line["listen"].as_str().expect("an address").parse().expect("an address");
        listen.port()
    }

    /// A client that knows this address and no password.
    fn client(&self) -> ClusterClient {
        let url = format!("redis://{}/", self.ambassador.address("redis:6379"));
        ClusterClient::builder(vec![url]).retries(40).build().expect("a client")
    }

    fn connection(&self) -> ClusterConnection {
        self.client().get_connection().expect("a connection to the cluster")
    }
}

fn launch(target: &str, password: &str) -> (Launch, Ipv4Addr) {
    let SocketAddr::V4(own) = own_address() else { panic!("an IPv4 address") };
    let launch = Launch::new()
        .variable("REDIS_PORT_6379_TCP", target)
        .variable("REDIS_AUTH", password)
        .variable("REDIS_LISTEN", format!("{}:0", own.ip()))
        .variable("REDIS_CLUSTER_PORTS", format!("{FIRST}-{}", FIRST + 15));
    (launch, *own.ip())
}

/// Whole replies of RESP, as text: one line for each element.
fn ask(client: &mut Peer, arguments: &[&[u8]]) -> Vec<u8> {
    client.send(&command(arguments));
    client.send(&command(&[b"ECHO", b"that is all"]));
    let said = client.receive_until(b"$11\r\nthat is all\r\n");
    said[..said.len() - b"$11\r\nthat is all\r\n".len()].to_vec()
}

#[test]
fn a_client_needs_one_address_and_no_password() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    for share in ["", "2"] {
        let (launch, at) = launch(&cluster.target(), &password);
        let launch = if share.is_empty() { launch } else { launch.variable("REDIS_SHARE", share) };
        let front = Front::start((launch, at));
        let mut client = front.connection();
        let keys: Vec<_> = (0..200).map(|number| format!("{}:{number}", random())).collect();
        for key in &keys {
            client.set::<_, _, ()>(key, key).expect("SET");
        }
        for key in &keys {
            assert_eq!(client.get::<_, String>(key).expect("GET"), *key);
        }
        let mut pipe = redis::cluster::cluster_pipe();
        for key in &keys {
            pipe.cmd("APPEND").arg(key).arg("!").ignore();
            pipe.cmd("GET").arg(key);
        }
        let all: Vec<String> = pipe.query(&mut client).expect("a pipeline over all nodes");
        assert!(all.iter().zip(&keys).all(|(value, key)| *value == format!("{key}!")));
    }
}

#[test]
fn no_reply_names_a_node() {
    let password = password();
    for version in Version::ALL {
        let Some(cluster) = Cluster::start_with(version, &password, 6, |_| String::new()) else { continue };
        let front = Front::of(&cluster);
        front.knows(6);
        let ids: Vec<_> = cluster.known().into_iter().map(|node| node.id).collect();
        for protocol in ["2", "3"] {
            let mut clients: Vec<_> = (0..6).map(|number| front.node(number)).collect();
            clients.push(front.ambassador.connect("redis:6379"));
            for mut client in clients {
                ask(&mut client, &[b"HELLO", protocol.as_bytes()]);
                let mut commands: Vec<Vec<&[u8]>> =
                    vec![vec![b"CLUSTER", b"SLOTS"], vec![b"CLUSTER", b"NODES"], vec![b"CLUSTER", b"SHARDS"]];
                for id in &ids {
                    commands.push(vec![b"cluster", b"replicas", id.as_bytes()]);
                    commands.push(vec![b"CLUSTER", b"SLAVES", id.as_bytes()]);
                }
                for asked in commands {
                    let told = ask(&mut client, &asked);
                    cluster.expect_unnamed(&told);
                    let text = String::from_utf8_lossy(&told);
                    let names_ours = text.contains(&front.at.to_string());
                    assert!(names_ours || text.starts_with('-') || text.starts_with("*0"), "{text}");
                }
                for slot in ["a", "b", "c", "d", "e", "f"] {
                    let told = ask(&mut client, &[b"SET", slot.as_bytes(), b"x"]);
                    cluster.expect_unnamed(&told);
                    let is_redirection = told.starts_with(b"-MOVED ");
                    assert!(is_redirection || told.starts_with(b"+OK"), "{}", told.escape_ascii());
                    let ours = format!(" {}:7", front.at);
                    assert!(!is_redirection || String::from_utf8_lossy(&told).contains(&ours));
                }
            }
        }
    }
}

#[test]
fn redirections_inside_of_other_replies_lead_to_our_listeners_too() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let front = Front::of(&cluster);
    let node = cluster.nodes[1].address();
    let number = front.number_of(node);
    let (theirs, ours) = (node.to_string(), format!("{}:{number}", front.at));
    let mut client = front.ambassador.connect("redis:6379");
    for kind in ["MOVED", "ASK"] {
        let script = format!(
            "return {{1, {{err='{kind} 7 {theirs}'}}, {{{{err='{kind} 8 {theirs} script: x'}}, 'b'}}}}"
        );
        let told = ask(&mut client, &[b"EVAL", script.as_bytes(), b"0"]);
        let expected =
            format!("*3\r\n:1\r\n-{kind} 7 {ours}\r\n*2\r\n-{kind} 8 {ours} script: x\r\n$1\r\nb\r\n");
        assert_eq!(String::from_utf8_lossy(&told), expected);
        // What only looks like one is the client's own.
        let text = format!("return {{'-{kind} 7 {theirs}', {{err='ERR {kind} 7 {theirs}'}}}}");
        let told = ask(&mut client, &[b"EVAL", text.as_bytes(), b"0"]);
        assert_eq!(String::from_utf8_lossy(&told).matches(&theirs).count(), 2);
    }
    client.send(&command(&[b"MULTI"]));
    for queued in [&[b"CLUSTER".as_slice(), b"SLOTS"][..], &[b"PING"], &[b"CLUSTER", b"NODES"]] {
        client.send(&command(queued));
    }
    let told = ask(&mut client, &[b"EXEC"]);
    cluster.expect_unnamed(&told);
    let text = String::from_utf8_lossy(&told);
    assert!(text.starts_with("+OK\r\n+QUEUED\r\n+QUEUED\r\n+QUEUED\r\n*3\r\n*3\r\n"), "{text}");
    assert!(text.contains("\r\n+PONG\r\n$"), "{text}");
    // Later transactions stream on.
    client.send(&[command(&[b"MULTI"]), command(&[b"PING"])].concat());
    assert_eq!(ask(&mut client, &[b"EXEC"]), b"+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n");
}

#[test]
fn many_redirections_at_once_stay_in_order() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let front = Front::of(&cluster);
    let mut client = front.ambassador.connect("redis:6379");
    let keys: Vec<_> = (0..2000).map(|number| format!("key{number}")).collect();
    let mut direct = Peer::connect(cluster.nodes[0].address());
    ask(&mut direct, &[b"AUTH", password.as_bytes()]);
    front.knows(6);
    let mut node = front.node(front.number_of(cluster.nodes[0].address()) - FIRST);
    let replies = |peer: &mut Peer| {
        let commands: Vec<u8> = keys.iter().flat_map(|key| command(&[b"EXISTS", key.as_bytes()])).collect();
        peer.send(&commands);
        ask(peer, &[b"PING"])
    };
    let (theirs, ours) = (replies(&mut direct), replies(&mut node));
    let mut expected = String::from_utf8(theirs).expect("text");
    for node in cluster.known() {
        let listener = SocketAddr::new(front.at.into(), front.number_of(node.address));
        expected = expected.replace(&format!(" {}\r", node.address), &format!(" {listener}\r"));
    }
    assert_eq!(String::from_utf8(ours).expect("text"), expected);
    replies(&mut client);
}

/// Clients that write numbers that grow and read them again, each with keys of its own all over the slots.
struct Work {
    stopped: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<Vec<String>>>,
}

impl Work {
    fn begin(front: &Front) -> Self {
        let (stopped, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let threads = (0..3).map(|_| {
            let (client, stopped, done) = (front.client(), Arc::clone(&stopped), Arc::clone(&done));
            thread::spawn(move || work(&client, &stopped, &done))
        });
        let work = Self { threads: threads.collect(), stopped, done };
        work.goes_on();
        work
    }

    /// Waits for a thousand more.
    #[track_caller]
    fn goes_on(&self) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("clients go on", || self.done.load(Ordering::Relaxed) >= before + 1000);
    }

    /// Returns the errors that clients have seen.
    fn end(self) -> Vec<String> {
        self.stopped.store(true, Ordering::Relaxed);
        self.threads.into_iter().flat_map(|thread| thread.join().expect("a client")).collect()
    }
}

fn work(client: &ClusterClient, stopped: &AtomicBool, done: &AtomicUsize) -> Vec<String> {
    let mut connection = client.get_connection().expect("a connection to the cluster");
    let mut errors = Vec::new();
    let name = random();
    let mut number = 0_u64;
    while !stopped.load(Ordering::Relaxed) {
        number += 1;
        let key = format!("{name}:{}", number % 300);
        match connection.set::<_, _, ()>(&key, number) {
            // What is not known to be written is not asked for.
            Err(error) => errors.push(error.to_string()),
            Ok(()) => match connection.get::<_, Option<u64>>(&key) {
                Ok(found) => assert_eq!(found, Some(number), "{key}"),
                Err(error) => errors.push(error.to_string()),
            },
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    errors
}

#[test]
fn slots_move_under_load_and_clients_follow() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let front = Front::of(&cluster);
    let work = Work::begin(&front);
    let primaries: Vec<_> = cluster.known().into_iter().filter(Known::has_slots).collect();
    for to in &primaries[..2] {
        let from: Vec<_> = primaries.iter().filter(|node| node.id != to.id).map(|node| &*node.id).collect();
        let (from, any) = (from.join(","), cluster.nodes[0].address().to_string());
        cluster.administer(&[
            "reshard",
            &any,
            "--cluster-from",
            &from,
            "--cluster-to",
            &to.id,
            "--cluster-slots",
            "300",
            "--cluster-yes",
            "--cluster-pipeline",
            "1",
        ]);
        cluster.settle();
    }
    work.goes_on();
    assert_eq!(work.end(), Vec::<String>::new());
}

#[test]
fn a_planned_failover_costs_no_error() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let front = Front::of(&cluster);
    let work = Work::begin(&front);
    for _ in 0..2 {
        for node in cluster.known().iter().filter(|node| !node.is_primary) {
            let replica = cluster.nodes.iter().find(|own| own.address() == node.address).expect("a node");
            let mut administrator = replica.administrator(&password);
            redis::cmd("CLUSTER").arg("FAILOVER").exec(&mut administrator).expect("CLUSTER FAILOVER");
            work.goes_on();
        }
        cluster.settle();
    }
    assert_eq!(work.end(), Vec::<String>::new());
}

#[test]
fn a_primary_is_killed_and_comes_back_at_its_number() {
    let password = password();
    let Some(mut cluster) = Cluster::start(&password) else { return };
    let front = Front::of(&cluster);
    front.knows(6);
    let work = Work::begin(&front);
    let killed = cluster.serving("key");
    cluster.at(killed).stop();
    eventually("another one serves", || {
        let of_slot =
            |node: &Cluster| node.known().iter().filter(|node| node.has_slots() && node.is_primary).count();
        of_slot(&cluster) == 3
    });
    // Whoever dials the dead node finds that out at once, as without us.
    let number = front.number_of(killed);
    front.ambassador.wait_for_log("its listener is closed", |line| {
        line["message"] == "listener of a node closed" && line["why"] == "down"
    });
    eventually("its number refuses", || Peer::try_connect(SocketAddr::new(front.at.into(), number)).is_err());
    work.goes_on();
    cluster.at(killed).start_again();
    eventually("its number serves", || Peer::try_connect(SocketAddr::new(front.at.into(), number)).is_ok());
    work.goes_on();
    drop(work.end());
    let mut client = front.connection();
    client.set::<_, _, ()>("key", "after").expect("SET");
    assert_eq!(client.get::<_, String>("key").expect("GET"), "after");
    assert_ne!(cluster.serving("key"), killed);
}

#[test]
fn a_node_joins_and_another_one_leaves() {
    let password = password();
    let Some(mut cluster) = Cluster::start(&password) else { return };
    let (launch, at) = launch(&cluster.target(), &password);
    let front = Front::start((launch.variable("REDIS_MOVE_GRACE", "500ms"), at));
    front.knows(6);
    let work = Work::begin(&front);
    let any = cluster.nodes[0].address().to_string();
    let fresh = cluster.another(Version::Redis70, "").expect("a node");
    let address = fresh.address();
    cluster.nodes.push(fresh);
    cluster.administer(&["add-node", &address.to_string(), &any]);
    cluster.settle();
    front.knows(7);
    assert_eq!(front.number_of(address), FIRST + 6);
    let id = cluster.known().into_iter().find(|node| node.address == address).expect("the node").id;
    cluster.administer(&["rebalance", &any, "--cluster-use-empty-masters", "--cluster-pipeline", "5"]);
    work.goes_on();
    // It serves slots, and gives them back before it leaves.
    cluster.administer(&[
        "rebalance",
        &any,
        "--cluster-weight",
        &format!("{id}=0"),
        "--cluster-pipeline",
        "5",
    ]);
    cluster.administer(&["del-node", &any, &id]);
    front.ambassador.wait_for_log("the node is gone", is_closed);
    eventually("its number is free", || TcpListener::bind((at, FIRST + 6)).is_ok());
    // For another node, which is not there yet: nobody else had it.
    assert!(
        front
            .ambassador
            .logged(|line| line["message"] == "number passed over: it can't be listened on")
            .is_empty()
    );
    work.goes_on();
    // Who was about to ask that very node hears that it is gone, as without us.
    drop(work.end());
}

#[test]
fn a_number_that_is_taken_is_passed_over_and_too_few_are_an_error() {
    let password = password();
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, |_| String::new()) else {
        return;
    };
    let (launch, at) = launch(&cluster.target(), &password);
    let taken = TcpListener::bind((at, FIRST + 1)).expect("a number to take");
    let front = Front::start((launch.variable("REDIS_CLUSTER_PORTS", format!("{FIRST}-{}", FIRST + 2)), at));
    let passed_over = front.ambassador.wait_for("number passed over: it can't be listened on");
    assert_eq!(passed_over["listen"], format!("{at}:{}", FIRST + 1));
    let remedy = passed_over["remedy"].as_str();
    assert!(remedy.is_some_and(|told| told.starts_with("set REDIS_CLUSTER_PORTS ")), "{passed_over}");
    let error = front.ambassador.wait_for("nodes have no listener");
    let words = error["error"].as_str().expect("words");
    assert!(words.contains("3 nodes") && words.contains("7100-7102 has 2 free numbers"), "{words}");
    let mut client = front.ambassador.connect("redis:6379");
    let told = ask(&mut client, &[b"CLUSTER", b"SLOTS"]);
    assert!(
        told.starts_with(b"-ERR redis-ambassador: redis:6379: the cluster has 3 nodes"),
        "{}",
        told.escape_ascii()
    );
    drop(taken);
    eventually("the number serves", || ask(&mut client, &[b"CLUSTER", b"SLOTS"]).starts_with(b"*3"));
    front.knows(3);
}

#[test]
fn clients_are_told_what_is_announced() {
    let password = password();
    let named = |number: usize| {
        format!("cluster-announce-hostname node-{number}.invalid\ncluster-preferred-endpoint-type ip")
    };
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, named) else { return };
    let (launch, at) = launch(&cluster.target(), &password);
    let front = Front::start((launch.variable("REDIS_ANNOUNCE", "redis.example"), at));
    let mut client = front.ambassador.connect("redis:6379");
    for asked in ["SLOTS", "SHARDS", "NODES"] {
        let told = ask(&mut client, &[b"CLUSTER", asked.as_bytes()]);
        cluster.expect_unnamed(&told);
        let text = String::from_utf8_lossy(&told);
        assert!(text.contains("redis.example") && !text.contains("invalid"), "{text}");
    }
    let told: Vec<_> =
        ["a", "b", "c"].iter().map(|key| ask(&mut client, &[b"GET", key.as_bytes()])).collect();
    assert!(told.iter().any(|told| String::from_utf8_lossy(told).contains(" redis.example:71")));
}

#[test]
fn nodes_are_found_by_whatever_they_are_to_be_dialled_by() {
    let password = password();
    // By a name, by nothing but the host that was asked.
    for (kind, host) in [("hostname", "localhost"), ("unknown-endpoint", "")] {
        let configuration = |_: usize| {
            let name =
                if host.is_empty() { String::new() } else { format!("cluster-announce-hostname {host}\n") };
            format!("{name}cluster-preferred-endpoint-type {kind}")
        };
        let Some(cluster) =
            Cluster::start_at_one_address(Ipv4Addr::LOCALHOST.into(), &password, 3, configuration)
        else {
            return;
        };
        let seed = cluster.nodes[1].address();
        let front = Front::start(launch(&format!("redis+cluster://localhost:{}", seed.port()), &password));
        front.knows(3);
        let mut client = front.connection();
        for number in 0..50 {
            client.set::<_, _, ()>(format!("{kind}{number}"), number).expect("SET");
        }
        let mut raw = front.ambassador.connect("redis:6379");
        let told = ask(&mut raw, &[b"GET", b"a"]);
        let others = ask(&mut raw, &[b"GET", b"b"]);
        for told in [told, others] {
            let text = String::from_utf8_lossy(&told).into_owned();
            assert!(!text.starts_with("-MOVED") || text.contains(&format!(" {}:71", front.at)), "{text}");
        }
    }
}

#[test]
fn nodes_with_ipv6_addresses_are_led_to_and_never_named() {
    let password = password();
    let loopback = Ipv6Addr::LOCALHOST;
    let configuration = |_: usize| String::new();
    let Some(cluster) = Cluster::start_at_one_address(loopback.into(), &password, 3, configuration) else {
        return;
    };
    // To clients that come by IPv4, and to those that come by IPv6.
    let (by_ipv4, at) = launch(&cluster.target(), &password);
    let (by_ipv6, _) = launch(&cluster.target(), &password);
    // Others listen at that address too: those numbers are passed over.
    let first = 7100 + 50 * (std::process::id() % 500) as u16;
    let by_ipv6 = by_ipv6
        .variable("REDIS_LISTEN", format!("[{loopback}]:0"))
        .variable("REDIS_CLUSTER_PORTS", format!("{first}-{}", first + 49));
    for (launch, ours) in [(by_ipv4, at.to_string()), (by_ipv6, loopback.to_string())] {
        let front = Front::start((launch, at));
        front.knows(3);
        let mut client = front.connection();
        for number in 0..50 {
            client.set::<_, _, ()>(format!("key{number}"), number).expect("SET");
            assert_eq!(client.get::<_, i32>(format!("key{number}")).expect("GET"), number);
        }
        let mut raw = front.ambassador.connect("redis:6379");
        for protocol in [&b"2"[..], b"3"] {
            ask(&mut raw, &[b"HELLO", protocol]);
            let mut told: Vec<_> =
                ["a", "b", "c", "d"].iter().map(|key| ask(&mut raw, &[b"GET", key.as_bytes()])).collect();
            told.retain(|told| told.starts_with(b"-MOVED "));
            assert!(!told.is_empty());
            told.extend(
                ["SLOTS", "SHARDS", "NODES"].map(|list| ask(&mut raw, &[b"CLUSTER", list.as_bytes()])),
            );
            for told in told {
                let text = String::from_utf8_lossy(&told);
                assert!(text.contains(&ours), "{text}");
                if ours != loopback.to_string() {
                    cluster.expect_unnamed(&told);
                }
                for node in &cluster.nodes {
                    let port = node.address().port().to_string();
                    let mut numbers = text.split(|c: char| !c.is_ascii_digit());
                    assert!(!numbers.any(|number| number == port), "{port} is named: {text}");
                }
            }
        }
    }
}

#[test]
fn a_link_that_is_asked_before_it_knows_the_cluster_waits_for_it() {
    let password = password();
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, |_| String::new()) else {
        return;
    };
    for _ in 0..10 {
        let front = Front::of(&cluster);
        let told = ask(&mut front.ambassador.connect("redis:6379"), &[b"CLUSTER", b"SLOTS"]);
        cluster.expect_unnamed(&told);
        assert!(told.starts_with(b"*3\r\n"), "{}", told.escape_ascii());
        assert!(String::from_utf8_lossy(&told).contains(&format!(":{FIRST}\r\n")));
    }
}

#[test]
fn every_slot_is_led_to_its_node() {
    let password = password();
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, |_| String::new()) else {
        return;
    };
    let front = Front::of(&cluster);
    front.knows(3);
    let mut clients: Vec<_> = (0..3).map(|number| front.node(number)).collect();
    let counts: Vec<u16> = clients
        .iter_mut()
        .map(|client| {
            client.send(
                &(0..SLOTS)
                    .flat_map(|slot| command(&[b"CLUSTER", b"COUNTKEYSINSLOT", slot.to_string().as_bytes()]))
                    .collect::<Vec<_>>(),
            );
            ask(client, &[b"PING"]);
            let told = String::from_utf8(ask(client, &[b"CLUSTER", b"NODES"])).expect("text");
            let own = told.lines().find(|line| line.contains("myself")).expect("a line");
            let range = own.trim_end().rsplit(' ').next().expect("slots");
            let (first, last) = range.split_once('-').expect("a range");
            last.parse::<u16>().expect("a slot") - first.parse::<u16>().expect("a slot") + 1
        })
        .collect();
    assert_eq!(counts.iter().sum::<u16>(), SLOTS);
}

#[test]
fn listeners_of_nodes_close_with_the_process() {
    let password = password();
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, |_| String::new()) else {
        return;
    };
    let front = Front::of(&cluster);
    front.knows(3);
    let mut idle = front.node(0);
    idle.send(&command(&[b"PING"]));
    idle.expect(b"+PONG\r\n");
    front.ambassador.signal(rustix::process::Signal::TERM);
    idle.expect_end();
    let finished = front.ambassador.finish();
    assert_eq!(finished.code, Some(0));
    let mut rest = String::new();
    idle.handle().read_to_string(&mut rest).expect("an end");
    assert!(TcpListener::bind((front.at, FIRST)).is_ok());
}
