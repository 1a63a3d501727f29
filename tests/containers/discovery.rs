//! Redis containers that move while clients work: what Docker's own DNS says changes, and its TTL says ten minutes.

use crate::Connection;
use crate::docker::{Images, Network, docker, eventually};
use crate::roles::{Ambassador, Client, Redis, new_password};

/// A network alias moves from one Redis container to another while clients work: new connections go to the new one at
/// once, and whoever is connected to the old one is asked to leave, in a clean way.
#[test]
fn an_alias_that_moves_takes_its_clients_along() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let aside = Network::create("aside");
    let first = Redis::on(&network, "database", &images, &password);
    let second = Redis::on(&aside, "waiting", &images, &password);
    first.command(&["SET", "where", "first"]);
    second.command(&["SET", "where", "second"]);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password),
    );
    let client = Client::on(&network, &images);
    assert_eq!(client.redis(&["GET", "where"]), "first");
    let stays = Connection::open(&client, "TCP:redis:6379").exchange("PING\r\n", "+PONG\r\n");

    let name = networks(&first);
    docker(["network", "disconnect", &name, first.id()]);
    // Docker gives a free address to the next who comes: somebody else, so that the name really moves.
    let _somebody_else = Client::on(&network, &images);
    docker(["network", "connect", "--alias", "database", &name, second.id()]);

    stays.assert_clean_end();
    assert_eq!(client.redis(&["GET", "where"]), "second");
    assert_eq!(ambassador.events("backend moved").len(), 1);
}

/// The new container has the alias before the old one loses it, as in a rolling update: nobody is turned away meanwhile,
/// and in the end everybody is at the new one.
#[test]
fn an_alias_that_two_containers_share_for_a_while_ends_up_at_the_new_one() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let network = Network::create("network");
    let first = Redis::on(&network, "database", &images, &password);
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password),
    );
    let client = Client::on(&network, &images);
    let stays = Connection::open(&client, "TCP:redis:6379").exchange("PING\r\n", "+PONG\r\n");
    let second = Redis::on(&network, "database", &images, &password);
    for _ in 0..10 {
        assert_eq!(client.redis(&["PING"]), "PONG");
    }

    docker(["network", "disconnect", &networks(&first), first.id()]);

    stays.assert_clean_end();
    second.command(&["SET", "where", "second"]);
    eventually("everybody at the new one", || (client.redis(&["GET", "where"]) == "second").then_some(()));
    assert!(!ambassador.events("backend moved").is_empty());
}

/// The names of a container's networks.
fn networks(redis: &Redis) -> String {
    docker([
        "inspect",
        "--format",
        "{{range $name, $_ := .NetworkSettings.Networks}}{{$name}}{{end}}",
        redis.id(),
    ])
}
