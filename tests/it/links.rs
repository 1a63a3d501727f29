//! From the environment to the wiring: what makes a link, what does not, and what is a mistake.

use std::net::TcpListener;

use serde_json::{Value, json};

use crate::support::{Finished, Launch, fixture_text, on_a_terminal, password, shown, token};

/// The wiring of an environment with these variables.
fn wiring(variables: &[(&str, &str)]) -> Value {
    launch(variables).wiring()
}

/// The variables that became links.
fn linked(variables: &[(&str, &str)]) -> Vec<String> {
    let wiring = wiring(variables);
    let links = wiring["links"].as_array().expect("a list");
    links.iter().map(|link| link["variable"].as_str().expect("a name").to_owned()).collect()
}

/// The variables that `links` warns of.
fn warned(wiring: &Value) -> String {
    wiring["warnings"].to_string()
}

fn refused(variables: &[(&str, &str)]) -> Finished {
    launch(variables).argument("links").finish()
}

fn launch(variables: &[(&str, &str)]) -> Launch {
    variables.iter().fold(Launch::new(), |launch, (name, value)| launch.variable(name, value))
}

const REDIS: (&str, &str) = ("REDIS_PORT_6379_TCP", "tcp://10.0.0.5:6380");

/// Every field of the table, as scripts read it.
#[test]
fn the_wiring_is_printed_as_json() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    std::fs::write(&path, password()).unwrap();
    let wiring = wiring(&[
        REDIS,
        ("REDIS_AUTH_FILE", path.to_str().unwrap()),
        ("REDIS_USERNAME", "app"),
        ("REDIS_DB", "2"),
        ("REDIS_LISTEN", "127.0.0.1:7000"),
        ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443"),
        ("REDIS_PORT_6379_UDP", "udp://10.0.0.5:6380"),
    ]);
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(keys(&wiring).len(), 3, "{wiring}");
    let mut link = wiring["links"][0].clone();
    // How a backend is shown is not settled beyond its address.
    let backends = link.as_object_mut().unwrap().remove("backends").unwrap();
    assert_eq!(backends.as_array().unwrap().len(), 1, "{backends}");
    assert!(backends.to_string().contains("10.0.0.5:6380"), "{backends}");
    assert_eq!(
        link,
        json!({
            "alias": "REDIS",
            "port": 6379,
            "variable": "REDIS_PORT_6379_TCP",
            "listen": "127.0.0.1:7000",
            "cluster_ports": null,
            "announce": null,
            "kind": "redis",
            "target": "tcp://10.0.0.5:6380",
            "tls": false,
            "tls_verify": null,
            "listen_tls": false,
            "listen_proxy_protocol": false,
            "proxy_protocol": null,
            "auth": "file",
            "username": "app",
            "db": 2
        })
    );
    let ignored = wiring["ignored"].as_array().unwrap();
    assert_eq!(ignored.len(), 1, "{wiring}");
    assert_eq!(ignored[0]["variable"], "KUBERNETES_PORT_443_TCP");
    assert!(!ignored[0]["reason"].as_str().unwrap().is_empty());
    assert_eq!(wiring["warnings"].as_array().unwrap().len(), 1, "{wiring}");
}

/// Where the password comes from is shown; that there is none too.
#[test]
fn the_source_of_the_password_is_shown() {
    let secret = password();
    let url = format!("redis://app:{secret}@cache:6380/4");
    for (variables, auth) in [
        (vec![("REDIS_PORT_6379_TCP", "redis://cache")], "none"),
        (vec![REDIS, ("REDIS_AUTH", &secret)], "env"),
        (vec![("REDIS_PORT_6379_TCP", &*url)], "url"),
    ] {
        let wiring = wiring(&variables);
        let link = &wiring["links"][0];
        assert_eq!(link["auth"], auth, "{wiring}");
        assert_eq!(link["kind"], "redis", "{wiring}");
        if auth == "url" {
            assert_eq!((&link["username"], &link["db"]), (&json!("app"), &json!(4)), "{wiring}");
            let target = link["target"].as_str().unwrap();
            assert!(target.starts_with("redis://cache:6380"), "user or password in {target}");
        } else {
            assert_eq!((&link["username"], &link["db"]), (&Value::Null, &Value::Null), "{wiring}");
        }
    }
}

/// What a balancer has to say, and what a target is told, is shown.
#[test]
fn the_proxy_protocol_is_shown_on_both_sides() {
    let variables = [
        ("DB_PORT_5432_TCP", "tcp://10.0.0.5:5432"),
        ("DB_LISTEN_PROXY_PROTOCOL", "true"),
        ("DB_PROXY_PROTOCOL", "v2"),
    ];
    let wiring = wiring(&variables);
    let link = &wiring["links"][0];
    assert_eq!(
        (&link["listen_proxy_protocol"], &link["proxy_protocol"]),
        (&json!(true), &json!("v2")),
        "{wiring}"
    );
    let launch = Launch::new().argument("links");
    let table =
        variables.iter().fold(launch, |launch, (name, value)| launch.variable(*name, *value)).finish();
    let row = "5432, behind the PROXY protocol   tcp://10.0.0.5:5432, with PROXY v2";
    assert!(table.stdout.contains(row), "{}", table.stdout);
}

/// For people there is a table with all links in it.
#[test]
fn the_wiring_is_printed_as_a_table() {
    let finished = launch(&[REDIS, ("DB_PORT_5432_TCP", "tcp://db:5433")]).argument("links").finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    for word in ["REDIS", "6379", "10.0.0.5:6380", "DB", "5432", "db:5433"] {
        assert!(
            finished.stdout.to_uppercase().contains(&word.to_uppercase()),
            "{word} in {}",
            finished.stdout
        );
    }
}

/// Where the nodes of a cluster are listened for, and what clients are told, is shown to scripts and to people.
#[test]
fn the_ports_of_a_clusters_nodes_are_shown() {
    let cluster = ("REDIS_PORT_6379_TCP", "redis+cluster://n1,n2:7000");
    let (ports, host) = (("REDIS_CLUSTER_PORTS", "7000-7010"), ("REDIS_ANNOUNCE", "[2001:db8::1]"));
    for (variables, ports, host, shown) in [
        (vec![cluster], "6380-6479", Value::Null, "*:6379, nodes on 6380-6479   "),
        (vec![cluster, ports], "7000-7010", Value::Null, "*:6379, nodes on 7000-7010   "),
        (
            vec![cluster, ports, host],
            "7000-7010",
            json!("2001:db8::1"),
            "*:6379, nodes on 7000-7010, announced as 2001:db8::1   ",
        ),
        (vec![cluster, ("REDIS_CLUSTER_PORTS", "7000")], "7000", Value::Null, "*:6379, nodes on 7000   "),
    ] {
        let wiring = wiring(&variables);
        let link = &wiring["links"][0];
        assert_eq!((&link["cluster_ports"], &link["announce"]), (&json!(ports), &host), "{wiring}");
        assert_eq!(link["kind"], "redis", "{wiring}");
        assert_eq!(link["target"], "redis+cluster://n1:6379,n2:7000", "{wiring}");
        assert_eq!(link["backends"], json!(["n1:6379", "n2:7000"]), "{wiring}");
        let table = launch(&variables).argument("links").finish().stdout;
        assert!(table.contains(shown), "{table}");
    }
}

/// `links` opens no port and asks no name server.
#[test]
fn the_wiring_needs_no_network() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let wiring = wiring(&[("DB_PORT_5432_TCP", "tcp://no-such-host.invalid:5432"), ("DB_LISTEN", &address)]);
    assert_eq!(wiring["links"][0]["listen"], address);
}

/// Every form of target that has one backend.
#[test]
fn targets_are_taken_in_every_form() {
    for (value, kind, backend) in [
        ("tcp://10.0.0.5:5432", "tcp", "10.0.0.5:5432"),
        ("tcp://db:5432", "tcp", "db:5432"),
        ("tcp://my_db.my_net:5432", "tcp", "my_db.my_net:5432"),
        ("tcp://[2001:db8::1]:5432", "tcp", "[2001:db8::1]:5432"),
        ("redis://cache", "redis", "cache:6379"),
        ("redis://cache:7000", "redis", "cache:7000"),
        ("redis://[::1]", "redis", "[::1]:6379"),
        ("redis://cache/3", "redis", "cache:6379"),
        ("redis+cluster://node", "redis", "node:6379"),
        ("rediss+cluster://node:7000/0", "redis", "node:7000"),
        ("valkey+cluster://node", "redis", "node:6379"),
        ("redis-cluster://[::1]:7000", "redis", "[::1]:7000"),
        ("unix:///run/db.sock", "tcp", "/run/db.sock"),
        ("redis+unix:///run/redis.sock", "redis", "/run/redis.sock"),
    ] {
        let wiring = wiring(&[("LINK_PORT_1_TCP", value)]);
        let link = &wiring["links"][0];
        assert_eq!(link["kind"], kind, "{value}: {wiring}");
        assert!(link["backends"].to_string().contains(backend), "{value}: {wiring}");
    }
}

/// An alias may be written in any way that a variable's name can.
#[test]
fn aliases_are_any_word() {
    for variable in
        ["db_PORT_1_TCP", "_PORT_1_TCP", "My_Db2_PORT_1_TCP", "A_PORT_2_PORT_1_TCP", "PORT_PORT_1_TCP"]
    {
        if variable == "_PORT_1_TCP" {
            // Nothing before the first underscore of `_PORT_` is no alias.
            let finished = refused(&[(variable, "tcp://db:1")]);
            assert_eq!(finished.code, Some(2), "{}", finished.stdout);
            continue;
        }
        assert_eq!(linked(&[(variable, "tcp://db:1")]), [variable]);
    }
}

/// An environment of `fixtures/env`.
fn environment(file: &str) -> Vec<(&'static str, &'static str)> {
    let lines = fixture_text(&format!("env/{file}.env")).lines();
    lines.map(|line| line.split_once('=').expect("a name and a value")).collect()
}

/// What Docker sets beside a link, and Kubernetes beside a Service, is passed over without a word.
#[test]
fn the_companions_of_a_link_are_passed_over_without_a_word() {
    for file in ["docker-link", "kubernetes-service"] {
        let environment = environment(file);
        assert_eq!(linked(&environment), ["REDIS_PORT_6379_TCP"], "{file}");
        let wiring = wiring(&environment);
        assert_eq!(wiring["warnings"], json!([]), "{file}: {wiring}");
        // But for what is in every pod.
        let ignored = wiring["ignored"].as_array().unwrap().iter().map(|ignored| &ignored["variable"]);
        assert!(ignored.clone().all(|variable| variable == "KUBERNETES_PORT_443_TCP"), "{file}: {wiring}");
        assert_eq!(ignored.count(), usize::from(file == "kubernetes-service"), "{file}: {wiring}");
    }
}

/// Compose sets what its file says, and a secret is a file.
#[test]
fn a_service_of_compose_needs_two_variables() {
    let secret = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(secret.path(), password()).unwrap();
    let path = secret.path().to_str().unwrap();
    let mut environment = environment("compose");
    let (_, file) = environment.iter_mut().find(|(name, _)| *name == "REDIS_AUTH_FILE").expect("a secret");
    *file = path;
    let wiring = wiring(&environment);
    assert_eq!((&wiring["links"][0]["auth"], &wiring["warnings"]), (&json!("file"), &json!([])), "{wiring}");
}

/// The linked container's own links are none of ours, but an alias that merely holds `_ENV_` is.
#[test]
fn a_link_of_the_linked_container_is_not_a_link() {
    let echo = ("REDIS_ENV_DB_PORT_5432_TCP", "tcp://10.0.0.9:5432");
    assert_eq!(linked(&[REDIS, echo]), ["REDIS_PORT_6379_TCP"]);
    assert_eq!(
        linked(&[("TEST_ENV_DB_PORT_5432_TCP", "tcp://10.0.0.9:5432")]),
        ["TEST_ENV_DB_PORT_5432_TCP"]
    );
    // Its settings are not ours either, whatever they hold.
    let wiring =
        wiring(&[REDIS, echo, ("REDIS_ENV_REDIS_PASSWORD", &password()), ("REDIS_ENV_DB_PORT", "x")]);
    assert_eq!(wiring["warnings"], json!([]), "{wiring}");
    assert_eq!(wiring["links"][0]["auth"], "none", "{wiring}");
}

/// A UDP link is warned about, and the TCP link beside it works.
#[test]
fn a_udp_link_is_warned_about() {
    let wiring =
        wiring(&[("DNS_PORT_53_UDP", "udp://10.0.0.2:53"), ("DNS_PORT_53_TCP", "tcp://10.0.0.2:53")]);
    assert_eq!(wiring["links"].as_array().unwrap().len(), 1, "{wiring}");
    assert!(warned(&wiring).contains("DNS_PORT_53_UDP"), "{wiring}");
}

/// What Kubernetes sets in every pod is no link, unless it is asked for by name.
#[test]
fn the_kubernetes_api_is_a_link_only_when_asked_for() {
    let kubernetes = ("KUBERNETES_PORT_443_TCP", "tcp://10.96.0.1:443");
    let both = wiring(&[REDIS, kubernetes]);
    assert_eq!(both["links"].as_array().unwrap().len(), 1, "{both}");
    assert_eq!(both["ignored"][0]["variable"], kubernetes.0, "{both}");
    let asked = linked(&[REDIS, kubernetes, ("AMBASSADOR_LINKS", "redis,kubernetes")]);
    assert_eq!(asked.len(), 2, "{asked:?}");
}

/// `AMBASSADOR_LINKS` and `--links` take the named aliases alone, in any case of letters.
#[test]
fn only_the_named_aliases_are_taken() {
    let db = ("DB_PORT_5432_TCP", "tcp://db:5432");
    let broken = ("OTHER_PORT_1_TCP", "not a target");
    for list in ["redis", "REDIS", "Redis", " redis "] {
        assert_eq!(linked(&[REDIS, db, broken, ("AMBASSADOR_LINKS", list)]), [REDIS.0], "{list:?}");
    }
    assert_eq!(linked(&[REDIS, db, broken, ("AMBASSADOR_LINKS", "redis,db")]).len(), 2);
    let by_flag = launch(&[REDIS, db]).argument("--links").argument("db").wiring();
    assert_eq!(by_flag["links"][0]["variable"], db.0, "{by_flag}");
    let none = refused(&[REDIS, ("AMBASSADOR_LINKS", "cache")]);
    assert_eq!(none.code, Some(2), "{}", none.stdout);
    assert!(none.stderr.contains("AMBASSADOR_LINKS"), "{}", none.stderr);
}

/// Without any link there is nothing to do, and an example shows what is missing.
#[test]
fn no_link_at_all_is_a_mistake_with_an_example() {
    for finished in [refused(&[]), launch(&[]).finish()] {
        assert_eq!(finished.code, Some(2), "{}", finished.stderr);
        assert!(finished.stderr.contains("_PORT_6379_TCP=tcp://"), "{}", finished.stderr);
        assert_eq!(finished.stdout, "");
    }
}

/// A value that is no target, and a name whose number is no port.
#[test]
fn malformed_links_are_mistakes() {
    for value in [
        "",
        "db",
        "db:5432",
        "tcp://",
        "tcp://db",
        "tcp://db:",
        "tcp://:5432",
        "tcp://db:0",
        "tcp://db:65536",
        "tcp://db:-1",
        "tcp://db:5432x",
        "tcp://db:5432/path",
        "tcp://2001:db8::1:5432",
        "tcp://[2001:db8::1]5432",
        "tcp://[::g]:5432",
        "tcp://256.1.1.1:5432",
        "tcp://a host:5432",
        "tcp://user@db:5432",
        "http://db:80",
        "ftp+unix:///run/x",
        "redis://",
        "redis://cache:0",
        "redis://cache/minus",
        "redis://cache/-1",
        "redis://:6379",
        "unix://",
        "unix://relative/path",
        "redis+unix://relative",
    ] {
        refused(&[("DB_PORT_5432_TCP", value)]).expect_mistake("DB_PORT_5432_TCP");
    }
    for variable in ["DB_PORT_0_TCP", "DB_PORT_65536_TCP", "DB_PORT_99999999999999999999_TCP"] {
        refused(&[(variable, "tcp://db:5432")]).expect_mistake(variable);
    }
}

/// Two links can't listen on one address; on two addresses or on two free ports they can.
#[test]
fn two_links_on_one_address_are_a_mistake() {
    let one = ("ONE_PORT_6379_TCP", "tcp://one:6379");
    let two = ("TWO_PORT_6379_TCP", "tcp://two:6379");
    for listen in [
        vec![],
        vec![("AMBASSADOR_BIND", "127.0.0.1")],
        vec![("ONE_LISTEN", "127.0.0.1:7000"), ("TWO_LISTEN", "127.0.0.1:7000")],
        vec![("ONE_LISTEN", "unix:/run/x.sock"), ("TWO_LISTEN", "unix:/run/x.sock")],
        vec![("ONE_LISTEN", "127.0.0.1:7000"), ("TWO_LISTEN", "0.0.0.0:7000")],
    ] {
        let finished = refused(&[&[one, two], &listen[..]].concat());
        assert_eq!(finished.code, Some(2), "{listen:?}: {}", finished.stdout);
        for (variable, _) in [one, two] {
            assert!(finished.stderr.contains(variable), "{}", finished.stderr);
        }
        // Whoever does what the remedy says is done.
        let remedy =
            finished.stderr.split_once("remedy: ").and_then(|(_, remedy)| remedy.split_once("as in "));
        let setting = remedy.and_then(|(_, setting)| setting.trim_end().split_once('='));
        let setting = setting.unwrap_or_else(|| panic!("no setting to copy: {}", finished.stderr));
        assert_eq!(linked(&[&[one, two], &listen[..], &[setting]].concat()).len(), 2, "{setting:?}");
    }
    for listen in [
        [("ONE_LISTEN", "127.0.0.1:7000"), ("TWO_LISTEN", "127.0.0.2:7000")],
        [("ONE_LISTEN", "127.0.0.1:0"), ("TWO_LISTEN", "127.0.0.1:0")],
        [("ONE_LISTEN", "unix:/run/x.sock"), ("TWO_LISTEN", "unix:/run/y.sock")],
    ] {
        assert_eq!(linked(&[&[one, two], &listen[..]].concat()).len(), 2, "{listen:?}");
    }
}

/// Every mistake is told at once, each with the variable, the reason and the remedy, whichever way it is started.
#[test]
fn every_mistake_is_told_at_once() {
    let variables = [
        ("ONE_PORT_1_TCP", "tcp://one"),
        ("TWO_PORT_70000_TCP", "tcp://two:2"),
        REDIS,
        ("REDIS_AUTH_FILE", "/nowhere/to/be/found"),
        ("REDIS_CONNECT_TIMEOUT", "soon"),
        ("REDIS_DB", "first"),
        ("REDIS_PORT_6380_AUTH", "x"),
        ("REDIS_ALLOW", "everybody"),
        ("REDIS_LISTEN", "somewhere"),
        ("REDIS_MAX_CONNECTIONS", "many"),
        ("AMBASSADOR_DRAIN_TIMEOUT", "later"),
    ];
    for finished in
        [refused(&variables), launch(&variables).finish(), launch(&variables).argument("run").finish()]
    {
        for (variable, _) in variables.iter().filter(|variable| **variable != REDIS) {
            finished.expect_mistake(variable);
        }
        assert_eq!(finished.stdout, "");
    }
}

/// A mistake in a value with a password in it is told without the value.
#[test]
fn a_mistake_never_shows_the_password() {
    let secret = token();
    for value in [
        format!("redis://:{secret}@cache:0"),
        format!("redis://app:{secret}@"),
        format!("redis://:{secret}@cache/x"),
        format!("redis://:{secret}:{secret}@cache:x"),
        format!("redis://{secret}@cache"),
        format!("redis//:{secret}@cache"),
        format!("tcp://app:{secret}@db:5432"),
        format!(":{secret}@cache"),
    ] {
        // Whatever an ambassador printed is looked through for the secret.
        refused(&[("REDIS_PORT_6379_TCP", &value)]).expect_mistake("REDIS_PORT_6379_TCP");
    }
}

/// Where the table has no room, there is a block for each link, whose lines have.
#[test]
fn the_wiring_fits_the_terminal() {
    for (columns, is_table) in [(160, true), (100, false), (60, false), (40, false)] {
        let Some(mut command) = on_a_terminal(columns, 24, "links") else { return };
        command.env("REDIS_PORT_6379_TCP", "redis://one.example.com,two.example.com,three.example.com/2");
        command.env("REDIS_AUTH", password()).env("REDIS_USERNAME", "app");
        command.env("DB_PORT_5432_TCP", "tcp://db:5432").env("DB_PORT_53_UDP", "udp://db:53");
        let printed = shown(command);
        let table = printed.starts_with("LINK ");
        assert_eq!(table, is_table, "{columns}: {printed}");
        assert!(printed.lines().all(|line| line.chars().count() <= columns.into()), "{columns}: {printed}");
        if !is_table {
            for line in
                ["redis:6379", "  listens on *:6379", "  kind redis, auth env, user app, db 2", "db:5432"]
            {
                assert!(printed.lines().any(|shown| shown == line), "{columns}: {line}: {printed}");
            }
            assert!(printed.contains("warning: DB_PORT_53_UDP"), "{columns}: {printed}");
        }
    }
}
