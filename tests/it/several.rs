//! Names that stand for several servers: each address is a backend, with its rest, its role, its share and its line.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::names::can_mount;
use crate::support::{
    Ambassador, Authority, BlackHole, Launch, NameServer, Named, Peer, RedisServer, eventually, get, metric,
    own_address, password, whom,
};

const NAME: &str = "redis.test";

/// How long a hanging address has for itself before the next one joins.
const HEAD_START: Duration = Duration::from_millis(250);

/// `N` servers at one port of different addresses, each with what `configuration` says for its number, and `who` set to
/// that number; `None` where there is no Redis.
fn servers<const N: usize>(configuration: impl Fn(usize) -> String) -> Option<[RedisServer; N]> {
    let mut servers = vec![RedisServer::start(&configuration(0))?];
    for number in 1..N {
        servers.push(servers[0].start_beside(&configuration(number))?);
    }
    Some(servers.try_into().expect("as many as were started"))
}

/// The same without a password; each knows its number.
fn plain_servers<const N: usize>() -> Option<[RedisServer; N]> {
    let servers = servers(|_| String::new())?;
    for (number, server) in servers.iter().enumerate() {
        let mut connection = server.administrator("");
        redis::cmd("SET").arg("who").arg(number).exec(&mut connection).expect("a value");
    }
    Some(servers)
}

fn ips(servers: &[&RedisServer]) -> Vec<IpAddr> {
    servers.iter().map(|server| server.address().ip()).collect()
}

/// The link `redis:6379` to [`NAME`] at this port.
fn launch(dns: &NameServer, port: u16) -> Launch {
    Launch::redis(format!("{NAME}:{port}")).variable("AMBASSADOR_DNS", dns.address().to_string())
}

/// How a server is called where its name stands for several.
fn called(address: SocketAddr) -> String {
    format!("{NAME}:{} ({})", address.port(), address.ip())
}

#[track_caller]
fn expect_pong(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// The number of the server that a client is connected to.
#[track_caller]
fn who(client: &mut Peer) -> usize {
    client.send(b"GET who\r\n");
    client.expect(b"$1\r\n");
    client.expect_line().parse().expect("a number")
}

/// What `/links` says of the backends: which are up.
fn lines(ambassador: &Ambassador) -> BTreeMap<String, bool> {
    let link = get(ambassador.admin(), "/links").link("redis:6379");
    let state = |backend: &Value| {
        let name = backend["backend"].as_str().expect("a name").to_owned();
        (name, backend["up"].as_bool().expect("whether it is up"))
    };
    link["backends"].as_array().expect("backends").iter().map(state).collect()
}

/// The series of `backend_up`, by their backends.
fn series(ambassador: &Ambassador) -> BTreeSet<String> {
    let metrics = get(ambassador.admin(), "/metrics").body;
    let prefix = "redis_ambassador_backend_up{link=\"redis:6379\",backend=\"";
    metrics
        .lines()
        .filter_map(|line| Some(line.strip_prefix(prefix)?.split_once('"')?.0.to_owned()))
        .collect()
}

fn is_up(ambassador: &Ambassador, backend: &str) -> bool {
    metric(ambassador.admin(), &format!("backend_up{{link=\"redis:6379\",backend=\"{backend}\"}}")) > 0.5
}

/// With `ROLE` each address is asked for its role, wherever in the answer the right one stands.
#[test]
fn the_master_is_found_at_whichever_address_it_is() {
    let Some(master) = RedisServer::start("") else { return };
    let replica_of = format!("replicaof {} {}", master.address().ip(), master.address().port());
    let Some(first) = master.start_beside(&replica_of) else { return };
    let Some(second) = master.start_beside(&replica_of) else { return };
    for order in [[&first, &master, &second], [&first, &second, &master]] {
        let dns = NameServer::start();
        dns.addresses(NAME, &ips(&order));
        let ambassador = launch(&dns, master.address().port()).variable("REDIS_ROLE", "master").start();
        for _ in 0..3 {
            let mut client = ambassador.connect("redis:6379");
            client.send(b"SET k v\r\n");
            client.expect(b"+OK\r\n");
        }
        let up = |server: &RedisServer| (called(server.address()), std::ptr::eq(server, &raw const master));
        let expected: BTreeMap<_, _> = [up(&first), up(&second), up(&master)].into();
        // Those behind the master were not asked.
        let lines = lines(&ambassador);
        assert_eq!(lines.keys().collect::<Vec<_>>(), expected.keys().collect::<Vec<_>>(), "{lines:?}");
        assert!(!lines[&called(first.address())] && lines[&called(master.address())], "{lines:?}");
        // It was dialled all the same, and is no cause for an alert.
        assert!(is_up(&ambassador, &called(first.address())));
    }
}

/// A role that no address has is told with what each of them said.
#[test]
fn what_every_address_said_is_told() {
    let Some([first, second]) = plain_servers() else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&[&first, &second]));
    let ambassador = launch(&dns, first.address().port()).variable("REDIS_ROLE", "replica").start();
    // It waits for a replica.
    let _client = ambassador.connect("redis:6379");
    let said =
        [&first, &second].map(|server| format!("{} is a master, not a replica", called(server.address())));
    eventually("both addresses' words", || {
        let link = get(ambassador.admin(), "/links").link("redis:6379");
        let words = link["last_dial"]["error"].as_str().unwrap_or_default().to_owned();
        said.iter().all(|said| words.contains(said))
    });
}

/// An address that refuses connections, refuses the password, swallows packets, or takes the connection and is silent is
/// passed over, and rests: the next clients don't wait for it.
#[test]
fn whatever_is_wrong_with_one_address_the_next_one_serves() {
    let secret = password();
    let Some([good, wrong, stopped]) = servers(|number| match number {
        1 => format!("requirepass {}", password()),
        _ => format!("requirepass {secret}"),
    }) else {
        return;
    };
    stopped.signal(Signal::STOP);
    let port = good.address().port();
    let hole = BlackHole::at(SocketAddr::new(own_address().ip(), port));
    let refusing = own_address();
    for bad in [refusing.ip(), wrong.address().ip(), hole.address().ip(), stopped.address().ip()] {
        let dns = NameServer::start();
        dns.addresses(NAME, &[bad, good.address().ip()]);
        let ambassador = launch(&dns, port)
            .variable("REDIS_AUTH", &secret)
            // A share of it is what a silent server may take.
            .variable("REDIS_CONNECT_TIMEOUT", "2s")
            .start();
        expect_pong(&mut ambassador.connect("redis:6379"));
        let bad = called(SocketAddr::new(bad, port));
        assert!(!is_up(&ambassador, &bad) && is_up(&ambassador, &called(good.address())), "{bad}");
        ambassador.wait_for_log("a line", |line| line["backend"] == bad && line["level"] == "WARN");
        expect_pong(&mut ambassador.connect("redis:6379"));
    }
    stopped.signal(Signal::CONT);
}

/// An address that swallows packets costs one client its head start, and others now and then, but not each of them.
#[test]
fn an_address_that_hangs_does_not_cost_every_client_its_head_start() {
    let Some([good]) = plain_servers() else { return };
    let port = good.address().port();
    let hole = BlackHole::at(SocketAddr::new(own_address().ip(), port));
    let dns = NameServer::start();
    dns.addresses(NAME, &[hole.address().ip(), good.address().ip()]);
    let ambassador = launch(&dns, port).start();
    let begun = Instant::now();
    for _ in 0..20 {
        expect_pong(&mut ambassador.connect("redis:6379"));
    }
    assert!(begun.elapsed() < 10 * HEAD_START, "{:?}", begun.elapsed());
}

/// `BALANCE` shares among the addresses.
#[test]
fn thirty_connections_are_spread_over_three_addresses() {
    let Some(servers) = plain_servers::<3>() else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&servers.each_ref()));
    for (balance, shares) in
        [("round-robin", [10, 10, 10]), ("least-connections", [10, 10, 10]), ("first", [30, 0, 0])]
    {
        let ambassador = launch(&dns, servers[0].address().port()).variable("REDIS_BALANCE", balance).start();
        let mut clients: Vec<_> = (0..30).map(|_| ambassador.connect("redis:6379")).collect();
        let mut seen = [0; 3];
        for client in &mut clients {
            seen[who(client)] += 1;
        }
        assert_eq!(seen, shares, "{balance}");
        let expected: BTreeSet<_> = servers.iter().map(|server| called(server.address())).collect();
        assert_eq!(lines(&ambassador).into_keys().collect::<BTreeSet<_>>(), expected);
        assert_eq!(series(&ambassador), expected);
    }
}

/// The order of an answer says nothing: many name servers give another one each time, and the shares stay even.
#[test]
fn answers_in_another_order_leave_the_shares_even() {
    let Some(servers) = plain_servers::<3>() else { return };
    let dns = NameServer::start();
    let mut order = ips(&servers.each_ref());
    dns.addresses(NAME, &order);
    let ambassador =
        launch(&dns, servers[0].address().port()).variable("REDIS_BALANCE", "round-robin").start();
    let mut seen = [0; 3];
    let mut clients = Vec::new();
    for _ in 0..3 {
        let mut client = ambassador.connect("redis:6379");
        seen[who(&mut client)] += 1;
        clients.push(client);
        order.rotate_right(1);
        dns.addresses(NAME, &order);
        // Connections have their name looked after.
        let before = dns.asked();
        eventually("another answer", || dns.asked() >= before + 2);
    }
    assert_eq!(seen, [1, 1, 1]);
}

/// An address that the name has no more is left by those who sit there, and by nobody else; its line and its series go.
#[test]
fn an_address_that_leaves_the_answer_is_left_by_its_own_connections_alone() {
    let Some(servers) = plain_servers::<3>() else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&servers.each_ref()));
    let ambassador = launch(&dns, servers[0].address().port())
        .variable("REDIS_BALANCE", "round-robin")
        .variable("REDIS_MOVE_GRACE", "1s")
        .start();
    let mut clients: BTreeMap<_, _> = (0..3)
        .map(|_| {
            let mut client = ambassador.connect("redis:6379");
            (who(&mut client), client)
        })
        .collect();
    assert_eq!(clients.len(), 3);
    let [first, second, third] = servers;
    dns.addresses(NAME, &ips(&[&first, &second]));
    let mut moved = clients.remove(&2).expect("a client of the third");
    let line = ambassador.wait_for("backend moved");
    assert_eq!(line["from"], third.address().ip().to_string(), "{line}");
    assert_eq!(line["connections"], 1, "{line}");
    for (number, client) in &mut clients {
        assert_eq!(who(client), *number);
    }
    eventually("the client of the third at another one", || who(&mut moved) != 2);
    let expected: BTreeSet<_> = [&first, &second].map(|server| called(server.address())).into();
    assert_eq!(series(&ambassador), expected);
    assert_eq!(lines(&ambassador).into_keys().collect::<BTreeSet<_>>(), expected);
    let changes = "target_changes_total{link=\"redis:6379\"}";
    assert!((metric(ambassador.admin(), changes) - 1.0).abs() < 0.5);
    // Who is left alone is called by the name.
    dns.addresses(NAME, &ips(&[&third]));
    for (_, mut client) in clients {
        eventually("a client at the new address", || who(&mut client) == 2);
    }
    eventually("the new address", || who(&mut ambassador.connect("redis:6379")) == 2);
    assert_eq!(series(&ambassador), [format!("{NAME}:{}", third.address().port())].into());
}

/// More addresses take their share as soon as the name has them; nobody is asked to leave for that.
#[test]
fn an_address_that_joins_takes_its_share_and_moves_nobody() {
    let Some(servers) = plain_servers::<3>() else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&[&servers[0]]));
    let ambassador =
        launch(&dns, servers[0].address().port()).variable("REDIS_BALANCE", "least-connections").start();
    let mut clients: Vec<_> = (0..4).map(|_| ambassador.connect("redis:6379")).collect();
    assert!(clients.iter_mut().all(|client| who(client) == 0));
    dns.addresses(NAME, &ips(&servers.each_ref()));
    eventually("three lines", || {
        drop(ambassador.connect("redis:6379"));
        lines(&ambassador).len() == 3
    });
    eventually("the end of those that asked", || {
        metric(ambassador.admin(), "connections_active{link=\"redis:6379\"}") < 4.5
    });
    clients.extend((0..8).map(|_| ambassador.connect("redis:6379")));
    let mut seen = [0; 3];
    for client in &mut clients {
        seen[who(client)] += 1;
    }
    assert_eq!(seen, [4, 4, 4]);
    assert!(ambassador.logged(|line| line["message"] == "backend moved").is_empty());
}

/// An address that dies is passed over, is down by itself, and comes back by itself.
#[test]
fn an_address_that_dies_rests_alone_and_comes_back() {
    let Some(mut servers) = plain_servers::<3>() else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&servers.each_ref()));
    let ambassador =
        launch(&dns, servers[0].address().port()).variable("REDIS_BALANCE", "round-robin").start();
    let called = servers.each_ref().map(|server| called(server.address()));
    servers[1].stop();
    let mut seen = [0_usize; 3];
    for _ in 0..30 {
        seen[who(&mut ambassador.connect("redis:6379"))] += 1;
    }
    assert!(seen[1] == 0 && seen[0].abs_diff(seen[2]) <= 4, "{seen:?}");
    assert_eq!(called.each_ref().map(|backend| is_up(&ambassador, backend)), [true, false, true]);
    servers[1].start_again();
    redis::cmd("SET").arg("who").arg(1).exec(&mut servers[1].administrator("")).expect("a value");
    eventually("the one that is back", || who(&mut ambassador.connect("redis:6379")) == 1);
    let line = ambassador.wait_for("backend recovered");
    assert_eq!(line["backend"], called[1], "{line}");
    assert!(is_up(&ambassador, &called[1]));
}

/// A password that one address refuses is not offered there again by the same client, whatever the others do.
#[test]
fn an_address_that_refuses_the_password_is_asked_once() {
    let (right, wrong) = (password(), password());
    let Some([refusing]) = servers(|_| format!("requirepass {wrong}")) else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &[refusing.address().ip(), own_address().ip()]);
    let ambassador = launch(&dns, refusing.address().port())
        .variable("REDIS_AUTH", &right)
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    // The dial goes on for a second, for the sake of the other one.
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("Connection refused"), "{words}");
    let mut administrator = refusing.administrator(&wrong);
    let entries: redis::Value = redis::cmd("ACL").arg("LOG").query(&mut administrator).expect("a log");
    let entries = format!("{entries:?}");
    assert!(entries.contains("count") && entries.contains("int(1)"), "{entries}");
}

/// `check` has a line for each address; a replica beside a master is no problem where a master is asked for.
#[test]
fn check_looks_at_every_address() {
    let secret = password();
    let Some(master) = RedisServer::start(&format!("requirepass {secret}")) else { return };
    let (ip, port) = (master.address().ip(), master.address().port());
    let replica_of = format!("replicaof {ip} {port}\nmasterauth {secret}\nrequirepass {secret}");
    let Some(replica) = master.start_beside(&replica_of) else { return };
    let Some(wrong) = master.start_beside(&format!("requirepass {}", password())) else { return };
    let dns = NameServer::start();
    let check = |servers: &[&RedisServer]| {
        dns.addresses(NAME, &ips(servers));
        let launch = launch(&dns, port).variable("REDIS_ROLE", "master").variable("REDIS_AUTH", &secret);
        let finished = launch.argument("check").argument("--format").argument("json").finish();
        serde_json::from_str::<Value>(&finished.stdout).expect("JSON")
    };
    let report = check(&[&replica, &master]);
    let backends = &report["links"][0]["backends"];
    for (number, (server, state)) in [(&replica, "note"), (&master, "ok")].into_iter().enumerate() {
        let address = server.address();
        assert_eq!(backends[number]["backend"], called(address), "{report:#}");
        assert_eq!(backends[number]["state"], state, "{report:#}");
        assert_eq!(backends[number]["address"], address.ip().to_string(), "{report:#}");
        assert_eq!(backends[number]["addresses"], json!([address.ip()]), "{report:#}");
        assert_eq!(backends[number]["steps"][0]["step"], "resolve", "{report:#}");
    }
    assert_eq!(report["ok"], true, "{report:#}");
    let report = check(&[&master, &wrong]);
    let states: Vec<_> = report["links"][0]["backends"]
        .as_array()
        .expect("backends")
        .iter()
        .map(|backend| (backend["backend"].as_str().unwrap(), backend["state"].as_str().unwrap()))
        .collect();
    let called = [&master, &wrong].map(|server| called(server.address()));
    assert_eq!(states, [(&*called[0], "ok"), (&*called[1], "problem")], "{report:#}");
}

/// The certificate of every address is verified against the name.
#[test]
fn every_address_has_to_show_a_certificate_of_the_name() {
    let authority = Authority::new("Test CA");
    let port = own_address().port();
    let configuration = |name: &str| {
        let identity = authority.issue(&[name]);
        format!(
            "tls-port {port}\ntls-auth-clients no\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}",
            identity.certificate.display(),
            identity.key.display(),
            authority.file().display(),
        )
    };
    let Some(stranger) = RedisServer::start(&configuration("other.test")) else { return };
    let Some(right) = RedisServer::start(&configuration(NAME)) else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&[&stranger, &right]));
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("rediss://{NAME}:{port}"))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .variable("REDIS_TLS_CA_FILE", authority.file())
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .start();
    for _ in 0..2 {
        expect_pong(&mut ambassador.connect("redis:6379"));
    }
    let line = ambassador.wait_for("backend ejected");
    let error = line["error"].as_str().unwrap_or_default();
    assert!(error.contains("other.test") && error.contains(NAME), "{line}");
    assert_eq!(line["backend"], called(SocketAddr::new(stranger.address().ip(), port)), "{line}");
}

/// Connections are kept ready at the address that has the role, and go with it to another one.
#[test]
fn what_is_kept_ready_is_at_the_master() {
    let Some(mut master) = RedisServer::start("") else { return };
    let replica_of = format!("replicaof {} {}", master.address().ip(), master.address().port());
    let Some(replica) = master.start_beside(&replica_of) else { return };
    let dns = NameServer::start();
    dns.addresses(NAME, &ips(&[&replica, &master]));
    let ambassador = launch(&dns, master.address().port())
        .variable("REDIS_ROLE", "master")
        .variable("REDIS_WARM", "2")
        .start();
    let ready = || metric(ambassador.admin(), "warm_connections{link=\"redis:6379\"}");
    let writes = || {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"SET k v\r\n");
        client.expect(b"+OK\r\n");
    };
    eventually("what is ready", || ready() > 1.5);
    writes();
    master.stop();
    redis::cmd("REPLICAOF").arg(&["NO", "ONE"]).exec(&mut replica.administrator("")).expect("a master");
    writes();
    eventually("what is ready at the other one", || ready() > 1.5);
    writes();
}

/// One address of each family is one server: one line, called by its name, up while either serves, without a word in
/// the log; and one that hangs does not cost every client its head start, whichever comes first.
#[test]
fn a_server_with_an_address_of_each_family_is_one_server() {
    let Some([server]) = plain_servers() else { return };
    if !can_mount() {
        return;
    }
    let port = server.address().port();
    let directory = TempDir::new().expect("a temporary directory");
    let hosts = directory.path().join("hosts");
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    fs::write(&hosts, format!("{loopback} {NAME}\n{} {NAME}\n", server.address().ip()))
        .expect("a hosts file");
    let hole = BlackHole::at(SocketAddr::new(loopback, port));
    let (hanging, refusing) = (Some(hole), None);
    for mut hole in [hanging, refusing] {
        let ambassador = Launch::redis(format!("{NAME}:{port}"))
            .variable("REDIS_BALANCE", "round-robin")
            .mount(&hosts, "/etc/hosts")
            .start();
        let begun = Instant::now();
        for _ in 0..20 {
            expect_pong(&mut ambassador.connect("redis:6379"));
        }
        assert!(begun.elapsed() < 10 * HEAD_START, "{:?}", begun.elapsed());
        assert_eq!(lines(&ambassador), [(format!("{NAME}:{port}"), true)].into());
        assert_eq!(series(&ambassador), [format!("{NAME}:{port}")].into());
        assert!(ambassador.logged(|line| line["level"] == "WARN").is_empty());
        drop(hole.take());
    }
}

/// Such a server is refused, or fails, as one: it is offered a password once, and its failure is one.
#[test]
fn a_server_with_an_address_of_each_family_fails_as_one() {
    let (right, wrong) = (password(), password());
    let loopback = IpAddr::from(Ipv6Addr::LOCALHOST);
    let Some(mut server) = RedisServer::start(&format!("requirepass {wrong}\nbind * -::*")) else { return };
    let port = server.address().port();
    let dns = NameServer::start();
    dns.addresses(NAME, &[loopback, server.address().ip()]);
    let launch =
        || launch(&dns, port).variable("REDIS_AUTH", &right).variable("REDIS_CONNECT_TIMEOUT", "500ms");
    let ambassador = launch().start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.contains("refused") && !words.contains("none of"), "{words}");
    let mut administrator = server.administrator(&wrong);
    let entries: redis::Value = redis::cmd("ACL").arg("LOG").query(&mut administrator).expect("a log");
    let entries = format!("{entries:?}");
    assert!(entries.contains("count") && entries.contains("int(1)"), "{entries}");
    server.stop();
    let ambassador = launch().start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert_eq!(words, format!("can't connect to {NAME}:{port}: Connection refused"));
    assert_eq!(lines(&ambassador), [(format!("{NAME}:{port}"), false)].into());
}

/// Where one way hangs and the other is refused, the connect timeout is what is told of.
#[test]
fn of_two_ways_to_a_server_the_one_that_hangs_is_told_of() {
    let hole = BlackHole::at(SocketAddr::new(own_address().ip(), 0));
    let port = hole.address().port();
    let dns = NameServer::start();
    dns.addresses(NAME, &[hole.address().ip(), Ipv6Addr::LOCALHOST.into()]);
    let ambassador = launch(&dns, port).variable("REDIS_CONNECT_TIMEOUT", "700ms").start();
    let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(words.starts_with(&format!("connecting to {NAME}:{port} took longer than ")), "{words}");
}

/// A server that restarts is waited for, though another address of its name hangs.
#[test]
fn a_restart_beside_an_address_that_hangs_costs_a_wait() {
    let Some([mut server]) = plain_servers() else { return };
    let port = server.address().port();
    let hole = BlackHole::at(SocketAddr::new(own_address().ip(), port));
    let dns = NameServer::start();
    dns.addresses(NAME, &[hole.address().ip(), server.address().ip()]);
    let ambassador = launch(&dns, port).variable("REDIS_CONNECT_TIMEOUT", "10s").start();
    server.stop();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_silence(Duration::from_millis(500));
    server.start_again();
    client.expect(b"+PONG\r\n");
}

/// A name beside others that can't be resolved rests as they do, and is back when it can be.
#[test]
fn a_name_that_can_not_be_resolved_leaves_the_others_alone() {
    let dns = NameServer::start();
    let [a, b, c] = Named::at_one_port(["a", "b", "c"]);
    let port = a.address().port();
    dns.addresses("two.test", &[a.ip(), b.ip()]);
    let ambassador = Launch::plain(format!("one.test:{port},two.test:{port}"))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .start();
    let mut seen = BTreeMap::<_, usize>::new();
    for _ in 0..20 {
        *seen.entry(whom(&mut ambassador.connect("db:5432"))).or_default() += 1;
    }
    assert!(seen["a"] >= 8 && seen["b"] >= 8, "{seen:?}");
    let line = ambassador.wait_for("backend ejected");
    assert_eq!((&line["backend"], &line["stage"]), (&json!(format!("one.test:{port}")), &json!("resolve")));
    dns.addresses("one.test", &[c.ip()]);
    eventually("the name that is there", || whom(&mut ambassador.connect("db:5432")) == "c");
    ambassador.wait_for("backend recovered");
}
