//! What people and programs are told of a cluster: `/links`, the page, `status`, `check` and `/metrics`.

use std::collections::BTreeSet;
use std::net::SocketAddr;

use serde_json::{Value, json};

use super::broken::{Line, id, play_at};
use super::{FIRST, Front, ask, launch};
use crate::check::{check, expect};
use crate::health::health;
use crate::status::status;
use crate::support::{
    Authority, Browser, Cluster, RedisServer, SLOTS, Version, eventually, get, metric, own_address, password,
    redis_over_tls,
};
use crate::tls::launch_over_tls;

impl Front {
    /// What `/links` says.
    fn told(&self) -> Value {
        get(self.ambassador.admin(), "/links").link("redis:6379")
    }

    fn page(&self) -> String {
        get(self.ambassador.admin(), "/").body
    }

    fn status(&self) -> String {
        status(self.ambassador.admin(), &[]).stdout
    }

    fn metric(&self, series: &str) -> f64 {
        metric(self.ambassador.admin(), series)
    }

    /// Waits until that many nodes are told, none of which is down.
    #[track_caller]
    fn is_whole(&self, nodes: usize) {
        eventually("all of the cluster is up", || {
            let told = self.told();
            let nodes_told = told["cluster"]["nodes"].as_array().expect("nodes");
            nodes_told.len() == nodes
                && nodes_told.iter().all(|node| node["up"] == true)
                && told["cluster"]["slots_uncovered"] == json!([])
        });
    }
}

fn nodes(told: &Value) -> Vec<Value> {
    told["cluster"]["nodes"].as_array().expect("nodes").clone()
}

fn words(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("no words: {value}"))
}

/// The first and the last slot of each range, as JSON has them.
fn ranges(value: &Value) -> Vec<(u16, u16)> {
    serde_json::from_value(value.clone()).expect("ranges")
}

fn number(ranges: &[(u16, u16)]) -> u16 {
    ranges.iter().map(|(first, last)| last - first + 1).sum()
}

fn is(value: f64, expected: usize) -> bool {
    let expected = f64::from(u32::try_from(expected).expect("a small number"));
    (value - expected).abs() < 0.5
}

/// The warnings of a link, as one text.
fn warnings(told: &Value) -> String {
    told["warnings"].as_array().expect("warnings").iter().map(words).collect::<Vec<_>>().join("\n")
}

/// The address of the master of these slots.
fn master_of(nodes: &[Value], slot: u16) -> SocketAddr {
    let serves =
        |node: &&Value| ranges(&node["slots"]).iter().any(|(first, last)| (*first..=*last).contains(&slot));
    words(&nodes.iter().find(serves).expect("a master")["address"]).parse().expect("an address")
}

/// The address of the replica of that master.
fn replica_of(nodes: &[Value], master: SocketAddr) -> SocketAddr {
    let follows = |node: &&Value| node["follows"] == master.to_string();
    words(&nodes.iter().find(follows).expect("a replica")["address"]).parse().expect("an address")
}

/// A cluster of which all is known, and its password.
fn whole() -> Option<(Cluster, Front, String)> {
    let password = password();
    let cluster = Cluster::start(&password)?;
    let front = Front::of(&cluster);
    front.knows(6);
    front.is_whole(6);
    Some((cluster, front, password))
}

#[test]
fn every_node_is_shown_with_its_role_its_slots_and_its_listener() {
    let Some((cluster, front, _)) = whole() else { return };
    let told = front.told();
    assert_eq!((&told["state"], &told["warnings"]), (&json!("unknown"), &json!([])), "{told:#}");
    assert_eq!((&told["cluster"]["trouble"], &told["cluster"]["remedy"]), (&json!(null), &json!(null)));
    let shown = nodes(&told);
    let listen: Vec<_> = shown.iter().map(|node| words(&node["listen"]).to_owned()).collect();
    let expected: Vec<_> = (FIRST..FIRST + 6).map(|port| format!("{}:{port}", front.at)).collect();
    assert_eq!(listen, expected, "{told:#}");
    let ids: BTreeSet<_> = shown.iter().map(|node| words(&node["id"]).to_owned()).collect();
    let known = cluster.known();
    assert_eq!(ids, known.iter().map(|node| node.id.clone()).collect(), "{told:#}");
    for node in &known {
        let shown = shown.iter().find(|shown| shown["id"] == node.id).expect("the node");
        assert_eq!(shown["address"], node.address.to_string());
        assert_eq!(shown["role"], if node.is_primary { "master" } else { "replica" });
        assert_eq!(ranges(&shown["slots"]).is_empty(), !node.has_slots());
        let followed = shown["follows"].as_str().map(|address| address.parse().expect("an address"));
        let is_primary = |address| known.iter().any(|node| node.is_primary && node.address == address);
        assert!(followed.map_or(node.is_primary, |address| !node.is_primary && is_primary(address)));
    }
    let slots: Vec<_> = shown.iter().flat_map(|node| ranges(&node["slots"])).collect();
    assert_eq!(number(&slots), SLOTS);

    // The same for people, each node once.
    let (page, status) = (front.page(), front.status());
    assert!(page.contains("<summary>6 nodes</summary>") && !page.contains("backends</summary>"), "{page}");
    for node in &shown {
        let (address, listen) = (words(&node["address"]), words(&node["listen"]));
        assert_eq!(page.matches(&format!("<li><code>{address}</code>")).count(), 1, "{address}: {page}");
        let what = if let Some(master) = node["follows"].as_str() {
            format!("replica of {master}")
        } else {
            let (first, last) = ranges(&node["slots"])[0];
            format!("master, slots {first}-{last}")
        };
        let line = format!("\n  {listen} -> {address}: {what}\n");
        assert_eq!(status.matches(&line).count(), 1, "{line}: {status}");
        let line = format!(" · on {listen} · {}</span>", what.replace(", ", " · "));
        assert!(page.contains(&line), "{line}: {page}");
    }
}

#[test]
fn connections_are_counted_at_each_node_and_for_the_link() {
    let Some((cluster, front, _)) = whole() else { return };
    let (replicas, masters) = (
        "cluster_nodes{link=\"redis:6379\",role=\"replica\"}",
        "cluster_nodes{link=\"redis:6379\",role=\"master\"}",
    );
    assert!(is(front.metric(replicas), 3) && is(front.metric(masters), 3));
    assert!(is(front.metric("cluster_slots_uncovered{link=\"redis:6379\"}"), 0));
    // Two clients of the second node, one of the fifth.
    let mut clients: Vec<_> = [1, 1, 4].map(|number| front.node(number)).into_iter().collect();
    for client in &mut clients {
        assert_eq!(ask(client, &[b"PING"]), b"+PONG\r\n");
    }
    let counts = || -> Vec<u64> {
        nodes(&front.told()).iter().map(|node| node["connections"].as_u64().expect("a number")).collect()
    };
    // Nodes are asked for the topology by connections of their own.
    eventually("each is told at its node", || counts() == [0, 2, 0, 0, 1, 0]);
    let told = front.told();
    assert_eq!((&told["connections"], &told["upstreams"]), (&json!(3), &json!(3)), "{told:#}");
    assert!(front.status().lines().any(|line| line.ends_with(", 2 connections")), "{}", front.status());
    assert!(front.page().contains(" · 2 connections</span>"));
    assert!(is(front.metric("connections_active{link=\"redis:6379\"}"), 3));
    assert!(is(front.metric("upstream_connections{link=\"redis:6379\",kind=\"own\"}"), 3));
    assert!(is(front.metric("connections_accepted_total{link=\"redis:6379\"}"), 3));
    assert!(front.metric("commands_total{link=\"redis:6379\"}") > 5.5);
    for node in &cluster.nodes {
        let series = format!("backend_up{{link=\"redis:6379\",backend=\"{}\"}}", node.address());
        assert!(is(front.metric(&series), 1), "{series}");
    }
    drop(clients);
    eventually("all have left", || counts() == [0; 6]);
}

#[test]
fn nodes_that_are_down_and_slots_that_nobody_serves_are_told() {
    let Some((mut cluster, front, password)) = whole() else { return };
    let shown = nodes(&front.told());
    let master = master_of(&shown, 0);
    let replica = replica_of(&shown, master);
    let slots = shown.iter().find(|node| node["address"] == master.to_string()).expect("it")["slots"].clone();
    let check_again = || check(launch(&cluster_target(&shown), &password).0);

    // A replica: the cluster works.
    cluster.at(replica).stop();
    let down = format!("down: 1 of 6 nodes ({replica})");
    eventually("it is told", || warnings(&front.told()).starts_with(&down));
    let told = front.told();
    assert_eq!((&told["state"], &told["cluster"]["slots_uncovered"]), (&json!("degraded"), &json!([])));
    assert!(front.status().contains(&format!(" -> {replica}: down, replica of {master}\n")));
    let page = front.page();
    assert!(page.contains("<summary>6 nodes, 1 down</summary>"), "{page}");
    assert!(page.contains(&format!("<li class=\"down\"><code>{replica}</code>")), "{page}");
    let report = check_again();
    let failed: Vec<_> = report["findings"].as_array().expect("findings").iter().collect();
    assert!(report["ok"] == true && failed.iter().all(|finding| finding["level"] == "warning"), "{report:#}");
    let said = format!("the cluster says that {replica}, a replica of {master}, has failed");
    let said = failed.iter().find(|finding| finding["what"] == said).expect("the finding");
    assert!(words(&said["remedy"]).contains("CLUSTER FORGET "), "{report:#}");
    assert_eq!((&said["about"], &said["backend"]), (&json!("cluster"), &json!(replica.to_string())));

    // Its master, too: nobody serves its slots.
    cluster.at(master).stop();
    eventually("they are told", || front.told()["cluster"]["slots_uncovered"] == slots);
    let told = front.told();
    let (first, last) = ranges(&slots)[0];
    let count = usize::from(number(&ranges(&slots)));
    let words = format!("nobody serves {count} of 16384 slots ({first}-{last}), for which clients read");
    assert!(warnings(&told).starts_with(&words) && told["state"] == "degraded", "{told:#}");
    assert!(is(front.metric("cluster_slots_uncovered{link=\"redis:6379\"}"), count));
    assert!(is(front.metric("cluster_nodes{link=\"redis:6379\",role=\"master\"}"), 3));
    expect(&check_again(), "problem", "cluster", &[&words], "redis-cli --cluster fix 127.");

    for node in [master, replica] {
        cluster.at(node).start_again();
    }
    eventually("all is well", || {
        let told = front.told();
        told["warnings"] == json!([]) && told["cluster"]["slots_uncovered"] == json!([])
    });
    assert!(is(front.metric("cluster_slots_uncovered{link=\"redis:6379\"}"), 0));
}

#[test]
fn a_node_that_no_client_goes_to_is_known_to_be_back() {
    let Some((mut cluster, front, _)) = whole() else { return };
    let shown = nodes(&front.told());
    let replica = replica_of(&shown, master_of(&shown, 0));
    let number = front.number_of(replica) - FIRST;
    cluster.at(replica).stop();
    // Somebody finds out before the cluster says so.
    let said = front.node(number).expect_line();
    assert!(said.starts_with("-CLUSTERDOWN "), "{said}");
    eventually("it is told", || warnings(&front.told()).starts_with("down: 1 of 6 nodes"));
    cluster.at(replica).start_again();
    front.is_whole(6);
    assert_eq!(front.told()["warnings"], json!([]));
    assert!(is(front.metric(&format!("backend_up{{link=\"redis:6379\",backend=\"{replica}\"}}")), 1));
}

/// The script writes what the server has written.
#[test]
fn a_browser_shows_the_nodes_as_the_page_has_them() {
    let Some(mut browser) = Browser::start() else { return };
    let Some((mut cluster, front, _)) = whole() else { return };
    browser.open(&format!("http://{}/", front.ambassador.admin()));
    browser.eventually("document.querySelector('.backends summary').textContent === '6 nodes'");
    let shown = nodes(&front.told());
    let replica = replica_of(&shown, master_of(&shown, 0));
    // One that stays.
    let number = if front.number_of(replica) == FIRST + 2 { 3 } else { 2 };
    let mut client = front.node(number);
    assert_eq!(ask(&mut client, &[b"PING"]), b"+PONG\r\n");
    cluster.at(replica).stop();
    browser.eventually("document.querySelector('.backends summary').textContent === '6 nodes, 1 down'");
    let rows =
        "[...document.querySelectorAll('.backends li')].map(row => row.className + ' ' + row.textContent)";
    let live = browser.value(&format!("{rows}.join('\\n')"));
    let page = front.page();
    let (_, list) = page.split_once("<ul>").expect("a list");
    let written = list.split("<li").skip(1).map(|row| {
        let row = row.split("</li>").next().expect("a row");
        let (class, row) = row.split_once('>').expect("its end");
        let class = class.trim_start_matches(" class=").trim_matches('"');
        let text: String =
            row.split('<').map(|part| part.split_once('>').map_or(part, |part| part.1)).collect();
        format!("{class} {text}")
    });
    let written: Vec<_> = written.collect();
    assert_eq!(words(&live), written.join("\n"));
    assert!(written.iter().any(|row| row.starts_with(&format!("down {replica} · on "))), "{written:?}");
    assert!(written[usize::from(number)].ends_with(" · 1 connection"), "{written:?}");
    browser.expect_no_complaint();
}

/// A link to all of these nodes.
fn cluster_target(nodes: &[Value]) -> String {
    let addresses: Vec<_> = nodes.iter().map(|node| words(&node["address"])).collect();
    format!("redis+cluster://{}", addresses.join(","))
}

#[test]
fn too_few_numbers_are_told_with_the_variable() {
    let password = password();
    let Some(cluster) = Cluster::start_with(Version::Redis70, &password, 3, |_| String::new()) else {
        return;
    };
    let few = || {
        let (launch, at) = launch(&cluster.target(), &password);
        (launch.variable("REDIS_CLUSTER_PORTS", format!("{FIRST}-{}", FIRST + 1)), at)
    };
    let front = Front::start(few());
    front.knows(2);
    let trouble = format!("the cluster has 3 nodes, but CLUSTER_PORTS={FIRST}-{} has 2 numbers", FIRST + 1);
    let remedy = "set REDIS_CLUSTER_PORTS to a range";
    let told = front.told();
    assert_eq!(told["cluster"]["trouble"], trouble, "{told:#}");
    assert!(words(&told["cluster"]["remedy"]).starts_with(remedy), "{told:#}");
    assert!(warnings(&told).starts_with(&format!("{trouble}; {remedy}")), "{told:#}");
    assert_eq!(told["state"], "fails", "{told:#}");
    assert!(is(front.metric("cluster_nodes_without_listener{link=\"redis:6379\"}"), 1));
    let health = health(&front.ambassador.admin().to_string(), &["--links"]);
    let failing = format!("1 of 1 links fail: redis:6379: {trouble}; {remedy}");
    assert!(health.code == Some(1) && health.stderr.contains(&failing), "{}", health.stderr);
    let listeners: Vec<_> = nodes(&told).iter().map(|node| node["listen"].is_null()).collect();
    assert_eq!(listeners, [false, false, true], "{told:#}");
    assert!(front.status().contains("\n  no listener -> 127."), "{}", front.status());
    assert!(front.page().contains(" · no listener · master · slots "), "{}", front.page());
    expect(&check(few().0), "problem", "cluster", &[&trouble], remedy);
}

#[test]
fn check_looks_at_every_node() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let any = cluster.nodes[0].address();
    let one = || launch(&format!("redis+cluster://{any}"), &password).0;
    let report = check(one());
    assert_eq!((&report["ok"], &report["findings"]), (&json!(true), &json!([])), "{report:#}");
    let link = &report["links"][0];
    assert_eq!(link["cluster"]["slots_uncovered"], json!([]), "{report:#}");
    let known = cluster.known();
    let shown = nodes(link);
    let backends = link["backends"].as_array().expect("backends");
    assert_eq!((shown.len(), backends.len()), (6, 6), "{report:#}");
    for node in &known {
        let address = node.address.to_string();
        let backend = backends.iter().find(|backend| backend["backend"] == address).expect("the backend");
        let role = if node.is_primary { "master" } else { "replica" };
        assert_eq!((&backend["state"], &backend["server"]["role"]), (&json!("ok"), &json!(role)));
        assert_eq!(backend["server"]["mode"], "cluster");
        let shown = shown.iter().find(|shown| shown["id"] == node.id).expect("the node");
        assert_eq!((&shown["address"], &shown["role"]), (&json!(address), &json!(role)));
        assert_eq!((shown["follows"].is_null(), &shown["failed"]), (node.is_primary, &json!(false)));
        assert_eq!(ranges(&shown["slots"]).is_empty(), !node.has_slots());
    }
    let finished = one().argument("check").finish();
    let said = "redis:6379: a cluster of 6 nodes with 3 masters; all 16384 slots are served\n";
    assert!(finished.stdout.contains(said), "{}", finished.stdout);
    let header = finished.stdout.lines().next().expect("a table");
    assert!(header.ends_with("ROLE      SLOTS"), "{}", finished.stdout);
    for node in &shown {
        let row = finished.stdout.lines().find(|line| line.contains(words(&node["address"]))).expect("a row");
        match ranges(&node["slots"]).first() {
            Some((first, last)) => assert!(row.ends_with(&format!("master    {first}-{last}")), "{row}"),
            None => assert!(row.ends_with("replica   -"), "{row}"),
        }
    }
}

#[test]
fn a_target_that_is_no_cluster_is_told_what_to_write() {
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let address = server.address();
    let target = format!("redis+cluster://{address}");
    let remedy = format!("write REDIS_PORT_6379_TCP=redis://{address}");
    let report = check(launch(&target, &password).0);
    expect(&report, "problem", "cluster", &[&format!("{target} leads to no Redis Cluster")], &remedy);
    assert_eq!(report["links"][0]["cluster"], json!(null), "{report:#}");
    // What stands in the target stays there.
    let (launch_with, _) = launch(&format!("redis+cluster://:{password}@{address}"), &password);
    let report = check(launch_with.without("REDIS_AUTH"));
    let masked = format!("=redis://****@{address}, with what stands there now in the place of ****");
    expect(&report, "problem", "cluster", &[], &masked);
    // At run time, too.
    let front = Front::start(launch(&target, &password));
    eventually("it is told", || warnings(&front.told()).ends_with(&remedy));
    let told = front.told();
    assert_eq!((&told["state"], &told["cluster"]["nodes"]), (&json!("degraded"), &json!([])), "{told:#}");
    assert!(words(&told["cluster"]["trouble"]).contains("it is no node of a cluster"), "{told:#}");
    assert!(front.page().contains(&format!("<li><code>{address}</code>")), "{}", front.page());
    assert!(is(front.metric("cluster_nodes{link=\"redis:6379\",role=\"master\"}"), 0));
}

#[test]
fn a_cluster_behind_a_link_to_one_server_is_told_what_to_write() {
    let authority = Authority::new("Test CA");
    let configuration = "cluster-enabled yes\ntls-cluster yes\ntls-auth-clients no";
    let Some((_server, address)) = redis_over_tls(&authority, configuration) else { return };
    let report = check(launch_over_tls(address, &authority));
    let target = format!("REDIS_PORT_6379_TCP=rediss+cluster://{address}");
    let remedy = format!("write {target}, if");
    expect(&report, "warning", "cluster", &["is a node of a Redis Cluster"], &remedy);
    let (variable, value) = target.split_once('=').expect("a value");
    let report = check(launch_over_tls(address, &authority).variable(variable, value));
    // It is alone, and serves no slot.
    let words = "nobody serves 16384 of 16384 slots (0-16383)";
    expect(&report, "problem", "cluster", &[words], "redis-cli --cluster fix");
}

#[test]
fn a_cluster_that_nobody_tells_of_is_told_once() {
    let report = check(launch(&format!("redis+cluster://{}", own_address()), &password()).0);
    expect(
        &report,
        "problem",
        "connect",
        &["Connection refused"],
        "check that the target of REDIS_PORT_6379_TCP",
    );
    // A user who may not ask.
    let secret = password();
    let acl = format!("cluster-enabled yes\nuser default on >{secret} ~* +@all -cluster");
    let Some(server) = RedisServer::start(&acl) else { return };
    let report = check(launch(&format!("redis+cluster://{}", server.address()), &secret).0);
    let words = ["no node tells of the cluster", "NOPERM"];
    expect(&report, "problem", "cluster", &words, "that the user may ask CLUSTER NODES");
}

#[test]
fn nodes_that_tell_different_things_are_told() {
    let (one, other) = (own_address(), own_address());
    let all = move |epoch| -> Vec<Line> {
        vec![(id(1), one, "master", epoch, "0-99"), (id(2), other, "master", 1, "100-16383")]
    };
    let pong = || "+PONG\r\n".to_owned();
    let _nodes = (
        play_at(one, move || all(2), pong),
        play_at(other, move || vec![(id(2), other, "master", 1, "0-16383")], pong),
    );
    let report = check(launch(&format!("redis+cluster://{one}"), &password()).0);
    let findings = report["findings"].as_array().expect("findings").iter();
    let found: Vec<_> = findings.filter(|finding| finding["about"] == "cluster").collect();
    assert_eq!(found.len(), 1, "{report:#}");
    assert_eq!((&found[0]["level"], &found[0]["backend"]), (&json!("warning"), &json!(other.to_string())));
    assert_eq!(found[0]["what"], format!("{other} tells of other nodes or slots than the rest"));
    assert_eq!(nodes(&report["links"][0]).len(), 2, "{report:#}");
}
