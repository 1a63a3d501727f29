//! A Redis Cluster on a network that the client is not on.

use crate::docker::{Images, Network, Recipe, docker, eventually};
use crate::roles::{Ambassador, Client, Redis, new_password};

/// Each node is a container. The client reaches none of them, and sees all slots through the ambassador; also when a
/// primary's container has been killed and its replica has taken over.
#[test]
fn a_client_on_another_network_sees_all_slots_and_a_failover() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let (outside, inside) = (Network::create("outside"), Network::create("inside"));
    let configuration = format!(
        "protected-mode no\nsave \"\"\nrequirepass {password}\nmasterauth {password}\ncluster-enabled yes\n\
         cluster-node-timeout 1000\nrepl-diskless-sync-delay 0\n"
    );
    let names = ["node-1", "node-2", "node-3", "node-4", "node-5", "node-6"];
    let nodes = names.map(|name| {
        let recipe =
            Recipe::of(&images.redis).file("/etc/redis.conf", configuration.as_str()).on(&inside, name);
        Redis::start(recipe.command(&["redis-server", "/etc/redis.conf"]), &password)
    });
    let addresses: Vec<_> = nodes.iter().map(|node| format!("{}:6379", node.address())).collect();
    let mut create = vec!["--cluster", "create"];
    create.extend(addresses.iter().map(String::as_str));
    create.extend(["--cluster-replicas", "1", "--cluster-yes"]);
    nodes[0].command(&create);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&outside, "redis")
            .on(&inside, "ambassador")
            .env("REDIS_PORT_6379_TCP", "redis+cluster://node-1,node-2,node-3")
            .env("REDIS_CLUSTER_PORTS", "7000-7009")
            .env("REDIS_AUTH", &password),
    );
    let client = Client::on(&outside, &images);
    eventually("every node has a listener", || {
        (ambassador.events("node listening").len() == names.len()).then_some(())
    });
    // The client's own view: what it reads of the nodes are addresses of the ambassador.
    let slots = client.redis(&["CLUSTER", "SLOTS"]);
    for address in &addresses {
        let ip = address.trim_end_matches(":6379");
        assert!(!slots.lines().any(|line| line.contains(ip)), "{ip} is named:\n{slots}");
        let dial = client
            .container
            .try_run(&[], &["socat", "-T", "1", "-", &format!("TCP:{address},connect-timeout=1")]);
        assert!(!dial.status.success(), "{address} can be reached");
    }
    // A key for each node, and many more.
    let each_key = |body: &str| {
        let script = format!("for key in $KEYS; do {body} || exit; done");
        let keys = (0..60).map(|number| format!("key:{number}")).collect::<Vec<_>>().join(" ");
        let done = client.container.try_run(&[("KEYS", &keys)], &["sh", "-c", &script]);
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    let set = each_key("redis-cli -c -h redis SET $key $key");
    assert_eq!(set.lines().filter(|line| *line == "OK").count(), 60, "{set}");
    let read_all = || {
        let read = each_key("redis-cli -c -h redis GET $key");
        (0..60).all(|number| read.lines().any(|line| line == format!("key:{number}")))
    };
    assert!(read_all());

    eventually("replicas follow", || {
        let followed = |node: &Redis| node.command(&["INFO", "replication"]).contains("state=online");
        (nodes.iter().filter(|node| followed(node)).count() == 3).then_some(())
    });
    let primary = nodes.iter().find(|node| node.command(&["ROLE"]).starts_with("master"));
    docker(["kill", primary.expect("a primary").id()]);
    eventually("the replica serves", || read_all().then_some(()));
}
