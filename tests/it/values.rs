//! Values as people and tools write them: what has one meaning only is taken, and of everything else is shown, in the user's
//! own words and without secrets, what would be taken.

use std::net::Ipv4Addr;

use serde_json::{Value, json};

use crate::settings::{expect_mistake, launch, link, warnings, wiring};
use crate::support::{Launch, Peer, Target, command, password, token};

const REDIS: (&str, &str) = ("REDIS_PORT_6379_TCP", "redis://cache");

/// The wiring of one link, and the warnings.
fn wired(value: &str) -> (Value, String) {
    let wiring = wiring(&[("LINK_PORT_7000_TCP", value)]);
    (link(&wiring, "LINK_PORT_7000_TCP").clone(), warnings(&wiring))
}

/// The `remedy` of a value that is refused.
#[track_caller]
fn remedy(variables: &[(&str, &str)], variable: &str) -> String {
    let told = expect_mistake(variables, variable);
    told.split_once("remedy: ").expect("a remedy").1.trim().to_owned()
}

/// An env-file keeps the quotation marks that a shell takes away.
#[test]
fn quotation_marks_around_a_value_are_taken_away() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    let secret = password();
    std::fs::write(&path, &secret).unwrap();
    for mark in ['"', '\''] {
        let quoted = |text: &str| format!("{mark}{text}{mark}");
        let target = Target::start();
        let ambassador = Launch::new()
            .variable("REDIS_PORT_6379_TCP", quoted(&format!("redis://{}", target.address())))
            .variable("REDIS_LISTEN", quoted("127.0.0.1:0"))
            .variable("REDIS_AUTH_FILE", quoted(&path.display().to_string()))
            .variable("REDIS_USERNAME", quoted("app"))
            .variable("REDIS_DB", quoted("2"))
            .variable("REDIS_ALLOW", quoted("127.0.0.0/8"))
            .variable("REDIS_CONNECT_TIMEOUT", quoted("5s"))
            .variable("REDIS_TLS", quoted("false"))
            .variable("AMBASSADOR_LINKS", quoted("redis"))
            .variable("AMBASSADOR_ADMIN", quoted("127.0.0.1:0"))
            .start();
        let _client = ambassador.connect("redis:6379");
        let auth = command(&[b"AUTH", b"app", secret.as_bytes()]);
        target.accept().expect(&[auth, command(&[b"SELECT", b"2"])].concat());
    }
}

/// In a password every byte counts, quotation marks too.
#[test]
fn quotation_marks_around_a_password_are_a_part_of_it() {
    let target = Target::start();
    let secret = format!("\"{}\"", password());
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", &secret).start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&command(&[b"AUTH", secret.as_bytes()]));
}

/// A file may be named by a URL, and with white space around it.
#[test]
fn a_file_may_be_named_by_a_url() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    std::fs::write(&path, password()).unwrap();
    for written in [format!("file://{}", path.display()), format!(" {}\r", path.display())] {
        let wiring = wiring(&[REDIS, ("REDIS_AUTH_FILE", &written)]);
        assert_eq!(link(&wiring, REDIS.0)["auth"], "file", "{written:?}");
    }
}

/// Schemes in any case, and by the names that others have for them.
#[test]
fn schemes_are_known_by_their_other_names() {
    for (written, shown, kind, tls) in [
        ("REDIS://Cache:1", "redis://Cache:1", "redis", false),
        ("Tcp://db:1", "tcp://db:1", "tcp", false),
        ("valkey://cache", "redis://cache:6379", "redis", false),
        ("VALKEYS://cache", "rediss://cache:6379", "redis", true),
        ("redis+tls://cache", "rediss://cache:6379", "redis", true),
        ("redis+ssl://cache:1", "rediss://cache:1", "redis", true),
        ("ssl://db:1", "tls://db:1", "tcp", true),
        ("tcp+tls://db:1", "tls://db:1", "tcp", true),
        ("redis-socket:///run/x.sock", "redis+unix:///run/x.sock", "redis", false),
        ("redis+socket:///run/x.sock", "redis+unix:///run/x.sock", "redis", false),
        ("valkey+unix:///run/x.sock", "redis+unix:///run/x.sock", "redis", false),
        ("redis+srv://_redis._tcp.example", "redis+srv://_redis._tcp.example", "redis", false),
        ("redis+sentinel://s1,s2/m", "redis+sentinel://s1:26379,s2:26379/m", "redis", false),
        ("redis-sentinel://s1,s2/m", "redis+sentinel://s1:26379,s2:26379/m", "redis", false),
        ("rediss-sentinel://s1/0#m", "rediss+sentinel://s1:26379/m/0", "redis", true),
        ("redis-sentinel://s1?sentinelMasterId=m", "redis+sentinel://s1:26379/m", "redis", false),
        ("redis+sentinel://s1/1?master_name=m", "redis+sentinel://s1:26379/m/1", "redis", false),
    ] {
        let (link, warnings) = wired(written);
        assert_eq!(
            (&link["target"], &link["kind"], &link["tls"]),
            (&json!(shown), &json!(kind), &json!(tls))
        );
        assert_eq!(warnings, "[]", "{written}");
    }
}

/// What the URLs of clients' libraries say of the target is taken.
#[test]
fn parameters_of_urls_are_taken() {
    let secret = token();
    for (written, shown) in [
        ("redis://cache/?db=2", "redis://cache:6379/2"),
        ("redis://cache:1/2?db=2", "redis://cache:1/2"),
        ("redis://cache:1?database=2", "redis://cache:1/2"),
        ("redis://cache/0?virtual_host=0", "redis://cache:6379/0"),
        ("redis+unix:///run/x.sock?db=2", "redis+unix:///run/x.sock?db=2"),
        ("redis+unix:///run/x%3Fdb=2", "redis+unix:///run/x%3Fdb=2"),
        ("redis-socket:///run/x.sock?database=3", "redis+unix:///run/x.sock?db=3"),
        ("redis://cache/2/", "redis://cache:6379/2"),
        ("redis://cache?ssl=True", "rediss://cache:6379"),
        ("redis://cache?tls=1&db=4", "rediss://cache:6379/4"),
        ("rediss://cache?ssl_cert_reqs=required", "rediss://cache:6379"),
        ("rediss://cache?ssl_cert_reqs=CERT_REQUIRED&skip_verify=false", "rediss://cache:6379"),
        ("redis://cache?", "redis://cache:6379"),
        ("redis://a:1,redis://b:2", "redis://a:1,b:2"),
        ("redis://a/3,redis://b/3", "redis://a:6379,b:6379/3"),
        ("tcp://a:1, b:2", "tcp://a:1,b:2"),
    ] {
        let (link, warnings) = wired(written);
        assert_eq!(link["target"], shown, "{written}");
        assert_eq!(warnings, "[]", "{written}");
    }
    for written in [
        format!("redis://cache?password={secret}"),
        format!("redis://cache:1/2?db=2&password={secret}@{secret}"),
        format!("redis://:{secret}@a:1,redis://:{secret}@b:2"),
        format!("redis://:{secret}?{secret}@cache"),
        format!("redis+unix://:{secret}@/run/x.sock"),
    ] {
        assert_eq!(wired(&written).0["auth"], "url", "{written}");
    }
}

/// What a parameter says is what is sent.
#[test]
fn a_user_and_a_password_may_be_parameters() {
    let target = Target::start();
    let secret = token();
    let url = format!("{}/?username=app&password={secret}%26+@&db=3", target.address());
    let ambassador = Launch::redis(url).start();
    let _client = ambassador.connect("redis:6379");
    let auth = command(&[b"AUTH", b"app", format!("{secret}& @").as_bytes()]);
    target.accept().expect(&[auth, command(&[b"SELECT", b"3"])].concat());
}

/// What is a client's own business is passed over, and worth a word.
#[test]
fn parameters_of_clients_are_passed_over() {
    let url = "redis://cache/1?timeout=5s&client_name=app&protocol=3&decode_responses=true&poolSize=10";
    let (link, warnings) = wired(url);
    assert_eq!(link["target"], "redis://cache:6379/1");
    for named in ["LINK_PORT_7000_TCP", "timeout", "client_name", "protocol", "decode_responses", "poolSize"]
    {
        assert!(warnings.contains(named), "{named}: {warnings}");
    }
}

/// A URL may say that certificates are not verified; as with the setting, everybody is told. The setting wins.
#[test]
fn a_url_may_switch_the_verification_off() {
    for url in [
        "rediss://cache?ssl_cert_reqs=none",
        "rediss://cache?ssl_cert_reqs=CERT_NONE",
        "rediss://cache?skip_verify=true",
        "rediss://cache?verifyPeer=NONE",
        "rediss://cache/0#insecure",
    ] {
        let (link, warnings) = wired(url);
        assert_eq!(link["tls"], true, "{url}");
        assert!(warnings.contains("not verified"), "{url}: {warnings}");
        let strict = wiring(&[("LINK_PORT_7000_TCP", url), ("LINK_TLS_INSECURE", "false")]);
        assert_eq!(strict["warnings"], json!([]), "{url}");
    }
}

/// Parameters that contradict each other, that are unknown, or that belong to a setting.
#[test]
fn parameters_that_can_not_be_taken_are_mistakes() {
    let secret = token();
    for (written, told) in [
        ("redis://cache/1?db=2", vec!["two databases"]),
        ("redis://cache?db=one", vec!["not a number"]),
        ("redis://cache?databse=2", vec!["databse", "LINK_PORT_7000_TCP=redis://cache:6379"]),
        ("rediss://cache?ssl=false", vec!["requires TLS"]),
        ("redis://cache?ssl=maybe", vec!["neither true nor false"]),
        ("rediss://cache?ssl_cert_reqs=perhaps", vec!["neither none nor required"]),
        (
            "rediss://cache:1?ssl_ca_certs=/etc/ca.pem",
            vec!["set LINK_TLS_CA_FILE=/etc/ca.pem", "LINK_PORT_7000_TCP=rediss://cache:1"],
        ),
        ("rediss://cache?ssl_check_hostname=false", vec!["set LINK_TLS_VERIFY=ca"]),
        ("redis+unix:///run/x.sock?ssl=true", vec!["Unix socket"]),
        ("unix:///run/x.sock?db=1", vec!["LINK_PORT_7000_TCP=redis+unix:///run/x.sock?db=1"]),
        ("tcp://cache:1?database=15", vec!["LINK_PORT_7000_TCP=redis://cache:1/15"]),
        ("redis://a/1,redis://b/2", vec!["differ"]),
        ("redis://cache#elsewhere", vec!["#"]),
        ("redis-sentinel://s1/one#two", vec!["not a number"]),
    ] {
        let mistake = expect_mistake(&[("LINK_PORT_7000_TCP", written)], "LINK_PORT_7000_TCP");
        for told in told {
            assert!(mistake.contains(told), "{written}: {mistake}");
        }
    }
    for written in [
        format!("redis://:{secret}@cache?password={secret}"),
        format!("redis://:{secret}@a,redis://:x{secret}@b"),
        format!("redis://:{secret}@cache?{secret}"),
        format!("tcp://cache:1?password={secret}"),
        format!("rediss://app:{secret}@cache?ssl_check_hostname=false"),
        format!("cache.example.com:6380,password={secret},ssl=True,abortConnect=False"),
        format!("redis://cache?x{secret}=1&db=1"),
    ] {
        // Whatever is printed is looked through for the secret.
        expect_mistake(&[("LINK_PORT_7000_TCP", &written)], "LINK_PORT_7000_TCP");
    }
}

/// A program that makes the password is told nothing of another link's, which may stand in a parameter too.
#[test]
fn a_password_in_a_parameter_is_hidden_from_programs() {
    let target = Target::start();
    let secret = token();
    let directory = tempfile::tempdir().expect("a temporary directory");
    let seen = directory.path().join("seen");
    let ambassador = Launch::redis(target.address())
        .variable("OTHER_PORT_7000_TCP", format!("redis://cache?password={secret}"))
        .variable("OTHER_LISTEN", "127.0.0.1:0")
        .variable("REDIS_AUTH_COMMAND", format!("/bin/sh -c 'env > {}; echo pw'", seen.display()))
        .start();
    let _client = ambassador.connect("redis:6379");
    target.accept().expect(&command(&[b"AUTH", b"pw"]));
    let seen = std::fs::read_to_string(seen).unwrap();
    assert!(seen.contains("REDIS_PORT_6379_TCP="), "{seen}");
    assert!(!seen.contains(&secret), "{seen}");
}

/// What is no target is shown as the target that was probably meant, with the port of the link's name.
#[test]
fn a_wrong_target_is_shown_put_right() {
    for (written, right) in [
        ("db:5432", "LINK_PORT_7000_TCP=tcp://db:5432"),
        ("tcp://db", "LINK_PORT_7000_TCP=tcp://db:7000"),
        ("tcp://db:0", "LINK_PORT_7000_TCP=tcp://db:7000"),
        ("tcp:/db:5432", "LINK_PORT_7000_TCP=tcp://db:5432"),
        ("tcp://db:5432/tcp", "LINK_PORT_7000_TCP=tcp://db:5432"),
        ("tcp://redis:6379/2", "LINK_PORT_7000_TCP=redis://redis:6379/2"),
        ("tcp://2001:db8::1:5432", "LINK_PORT_7000_TCP=tcp://[2001:db8::1]:5432"),
        ("http://web/path", "LINK_PORT_7000_TCP=tcp://web:7000"),
        ("unix://run/db.sock", "LINK_PORT_7000_TCP=unix:///run/db.sock"),
        ("/run/db.sock", "LINK_PORT_7000_TCP=unix:///run/db.sock"),
        ("redis:/10.0.0.5:6379", "LINK_PORT_7000_TCP=redis://10.0.0.5:6379"),
        ("reddis://10.0.0.5:6379", "LINK_PORT_7000_TCP=redis://10.0.0.5:6379"),
        ("redis+clusters://node", "LINK_PORT_7000_TCP=redis+cluster://node:6379"),
        ("redis+cluster://n1,n2/2", "LINK_PORT_7000_TCP=redis+cluster://n1:6379,n2:6379"),
        ("tls+cluster://node:7000", "LINK_PORT_7000_TCP=rediss+cluster://node:7000"),
        ("cache.example.com", "LINK_PORT_7000_TCP=tcp://cache.example.com:7000"),
        ("tcp://a:1 tcp://b:2", "LINK_PORT_7000_TCP=tcp://a:1,b:2"),
        ("", "LINK_PORT_7000_TCP=tcp://link.example.com:7000"),
    ] {
        let told = remedy(&[("LINK_PORT_7000_TCP", written)], "LINK_PORT_7000_TCP");
        assert_eq!(told, format!("write {}{right}", if written.is_empty() { "for example " } else { "" }));
    }
    let secret = token();
    for (written, right) in [
        (format!("tcp://app:{secret}@redis:6379"), "redis://****@redis:6379"),
        (format!("redis://app:{secret}@redis:x"), "redis://****@redis:6379"),
        (format!("redis//:{secret}@redis"), "redis://****@redis:6379"),
        (format!("redis://{secret}@redis"), "redis://:****@redis:6379"),
        (format!("x.example.com:6380,password={secret},ssl=True"), "rediss://:****@x.example.com:6380"),
        (format!("postgres://app:{secret}@db:5432/orders"), "tcp://db:5432"),
    ] {
        let told = remedy(&[("LINK_PORT_7000_TCP", &written)], "LINK_PORT_7000_TCP");
        assert!(told.starts_with(&format!("write LINK_PORT_7000_TCP={right}")), "{told}");
    }
    // What nobody has replaced.
    for written in ["redis://${REDIS_HOST}:6379", "redis://$(REDIS_HOST)", "tcp://$REDIS_HOST:6379"] {
        let told = expect_mistake(&[("LINK_PORT_7000_TCP", written)], "LINK_PORT_7000_TCP");
        assert!(told.contains("nothing has replaced"), "{told}");
    }
}

/// Hosts in other scripts and other notations.
#[test]
fn hosts_are_read_as_they_are_written() {
    for (written, shown) in [
        ("tcp://bücher.example:1", "tcp://xn--bcher-kva.example:1"),
        ("tcp://例え。テスト:1", "tcp://xn--r8jz45g.xn--zckzah:1"),
        ("tcp://１０.0.0.5:1", "tcp://10.0.0.5:1"),
        ("tcp://[::ffff:10.0.0.5]:1", "tcp://10.0.0.5:1"),
        ("tcp://db.example.:1", "tcp://db.example:1"),
        ("tcp://my_db:1/", "tcp://my_db:1"),
    ] {
        assert_eq!(wired(written).0["target"], shown, "{written}");
    }
    for written in ["tcp://10.0.0.05:1", "tcp://fe80::1:1", "tcp://[fe80::1%]:1", "tcp://a\u{a0}b:1"] {
        expect_mistake(&[("LINK_PORT_7000_TCP", written)], "LINK_PORT_7000_TCP");
    }
}

/// Yes and no, in the words that people have for them.
#[test]
fn flags_are_read_in_every_way() {
    for (words, tls) in
        [(["true", "TRUE", "yes", "On", "1"], true), (["false", "False", "no", "OFF", "0"], false)]
    {
        for word in words {
            let wiring = wiring(&[("LINK_PORT_7000_TCP", "tcp://db:1"), ("LINK_TLS", word)]);
            assert_eq!(link(&wiring, "LINK_PORT_7000_TCP")["tls"], tls, "{word}");
            let settings =
                [("LINK_PORT_7000_TCP", "tcp://db:1"), ("LINK_TLS", word), ("LINK_TLS_SERVER_NAME", "x")];
            let code = launch(&settings).argument("links").finish().code;
            assert_eq!(code, Some(if tls { 0 } else { 2 }), "{word}");
        }
    }
    let tls = ("LINK_PORT_7000_TCP", "tls://db:1");
    expect_mistake(&[tls, ("LINK_TLS", "maybe")], "LINK_TLS");
    // A certificate has names without a port.
    let told = remedy(&[tls, ("LINK_TLS_SERVER_NAME", "db.example.com:5432")], "LINK_TLS_SERVER_NAME");
    assert_eq!(told, "write LINK_TLS_SERVER_NAME=db.example.com");
    wiring(&[tls, ("LINK_TLS_SERVER_NAME", "'db.example.com.'")]);
}

/// Words in any case, and durations with their units in any case; without a unit both are shown.
#[test]
fn words_and_durations_are_read_in_every_way() {
    wiring(&[
        REDIS,
        ("REDIS_ROLE", "Primary"),
        ("REDIS_BALANCE", "Round_Robin"),
        ("REDIS_RESET", "REAUTH"),
        ("REDIS_CLIENT_AUTH", "Absorb"),
        ("REDIS_CONNECT_TIMEOUT", "5 S"),
        ("REDIS_IDLE_TIMEOUT", "OFF"),
        ("REDIS_MOVE_GRACE", "0"),
        ("AMBASSADOR_LOG", "WARN"),
        ("AMBASSADOR_LOG_FORMAT", "JSON"),
        ("AMBASSADOR_DRAIN_TIMEOUT", "0"),
        ("AMBASSADOR_KEEPALIVE", "90 Sec"),
        ("AMBASSADOR_DNS", "127.0.0.1 , [::1]:53, localhost:8600"),
    ]);
    for balance in ["roundrobin", "leastconn", "least_conn", "FIRST"] {
        wiring(&[REDIS, ("REDIS_BALANCE", balance)]);
    }
    for (variable, written, right) in [
        ("REDIS_CONNECT_TIMEOUT", "5", "REDIS_CONNECT_TIMEOUT=5s (or 5ms"),
        ("REDIS_IDLE_TIMEOUT", "5000", "REDIS_IDLE_TIMEOUT=5000s (or 5000ms"),
        ("REDIS_IDLE_TIMEOUT", "0", "REDIS_IDLE_TIMEOUT=off"),
        ("REDIS_MAX_LIFETIME", "never", "REDIS_MAX_LIFETIME=off"),
        ("AMBASSADOR_KEEPALIVE", "60", "AMBASSADOR_KEEPALIVE=60s"),
        ("AMBASSADOR_DRAIN_DELAY", "1.5", "AMBASSADOR_DRAIN_DELAY=1.5s"),
        ("AMBASSADOR_LOG", "Warning", "AMBASSADOR_LOG=warn"),
        ("REDIS_AUTH_COMMAND", "\"/bin/echo a password\"", "take the quotation marks"),
        ("REDIS_DB", "", "remove REDIS_DB"),
        ("REDIS_LISTEN", " ", "remove REDIS_LISTEN"),
        ("REDIS_MAX_CONNECTIONS", "0", "remove it"),
    ] {
        let told = remedy(&[REDIS, (variable, written)], variable);
        assert!(told.contains(right), "{written}: {told}");
    }
}

/// The names of containers and Services have dashes, and those of variables don't.
#[test]
fn aliases_are_read_as_they_are_called() {
    let my_redis = ("MY_REDIS_PORT_6379_TCP", "redis://cache");
    let other = ("OTHER_PORT_6379_TCP", "redis://other");
    for written in ["my-redis", "My_Redis", "'my-redis'", "my-redis;nobody", "my-redis nobody"] {
        let wiring = wiring(&[my_redis, other, ("AMBASSADOR_LINKS", written)]);
        assert_eq!(wiring["links"].as_array().map(Vec::len), Some(1), "{written}");
        assert_eq!(wiring["links"][0]["variable"], my_redis.0, "{written}");
    }
    let told = remedy(&[my_redis, ("AMBASSADOR_LINKS", "my-redis:6379")], "AMBASSADOR_LINKS");
    assert_eq!(told, "write AMBASSADOR_LINKS=my_redis");
    let told = remedy(&[my_redis, ("AMBASSADOR_LINKS", "*")], "AMBASSADOR_LINKS");
    assert!(told.contains("leave it out"), "{told}");
}

/// Of two links on one port, one that Kubernetes made of a Service is the one that nobody means.
#[test]
fn a_clash_with_a_service_says_how_kubernetes_makes_none() {
    let service = [
        ("CACHE_SERVICE_HOST", "10.96.0.7"),
        ("CACHE_SERVICE_PORT", "6379"),
        ("CACHE_PORT", "tcp://10.96.0.7:6379"),
        ("CACHE_PORT_6379_TCP", "tcp://10.96.0.7:6379"),
        ("CACHE_PORT_6379_TCP_ADDR", "10.96.0.7"),
    ];
    let own = ("REDIS_PORT_6379_TCP", "redis://redis.example.com");
    let told = remedy(&[&service[..], &[own]].concat(), own.0);
    assert!(told.contains("CACHE is a Service"), "{told}");
    assert!(told.contains("enableServiceLinks: false"), "{told}");
    assert!(told.contains("AMBASSADOR_LINKS=redis;"), "{told}");
    let wiring = wiring(&[&service[..], &[own, ("AMBASSADOR_LINKS", "redis")]].concat());
    assert_eq!(wiring["links"].as_array().map(Vec::len), Some(1));
    // One of the user's own that has a Service's name is no such thing.
    let own_cache = ("CACHE_PORT_6379_TCP", "redis://cache.example.com");
    let variables = [&[service[0], own_cache, own][..]].concat();
    let told = remedy(&variables, own.0);
    assert!(!told.contains("enableServiceLinks"), "{told}");
}

/// Networks in the notations that people have for them.
#[test]
fn networks_are_read_as_they_are_written() {
    let target = Target::start().echo();
    for allow in [
        "127.0.0.2",
        "10.0.0.0/8 127.0.0.2/32",
        "127.0.0.2/255.255.255.255",
        "[::1]; 127.0.0.2",
        "::ffff:127.0.0.2",
        "::ffff:127.0.0.2/127",
        ",127.0.0.2,",
    ] {
        let ambassador = Launch::plain(target.address()).variable("DB_ALLOW", allow).start();
        let address = ambassador.address("db:5432");
        let mut client = Peer::connect_from(Ipv4Addr::new(127, 0, 0, 2), address);
        client.send(b"hello");
        client.expect(b"hello");
        Peer::connect_from(Ipv4Addr::new(127, 0, 0, 4), address).expect_gone();
    }
    let ambassador = Launch::plain(target.address()).variable("DB_ALLOW", "localhost").start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
    // What is behind the network's own bits says nothing; that is worth a word.
    let plain = ("DB_PORT_5432_TCP", "tcp://db:5432");
    let told = warnings(&wiring(&[plain, ("DB_ALLOW", "10.1.2.3/8")]));
    assert!(told.contains("10.1.2.3/8") && told.contains("10.0.0.0/8"), "{told}");
    assert_eq!(warnings(&wiring(&[plain, ("DB_ALLOW", "10.0.0.0/8,::1")])), "[]");
    for wrong in ["*", "all", "10.0.0.*", "10.0.0.1-10.0.0.9", "10.0.0.0/33", "10.0.0.0/255.0.255.0", ","] {
        expect_mistake(&[plain, ("DB_ALLOW", wrong)], "DB_ALLOW");
    }
}

/// The ports of a cluster's nodes are a range, and wrong ones are shown put right.
#[test]
fn ranges_of_ports_are_read_as_they_are_written() {
    let cluster = ("LINK_PORT_7000_TCP", "redis+cluster://node");
    for (written, read) in
        [("7001-7010", "7001-7010"), ("7001 - 7010", "7001-7010"), ("'7001'", "7001"), ("7001-7001", "7001")]
    {
        let wiring = wiring(&[cluster, ("LINK_CLUSTER_PORTS", written)]);
        assert_eq!(link(&wiring, "LINK_PORT_7000_TCP")["cluster_ports"], read, "{written}");
    }
    for (written, right) in [
        ("7010-7001", "7001-7010"),
        ("0-10", "1-10"),
        ("65000-66000", "65000-65535"),
        ("7001:7010", "7001-7010"),
        ("0", "7001-7100"),
        ("70000", "7001-7100"),
        ("7001,7003", "7001-7100"),
        ("many", "7001-7100"),
    ] {
        let told = remedy(&[cluster, ("LINK_CLUSTER_PORTS", written)], "LINK_CLUSTER_PORTS");
        assert_eq!(told, format!("write LINK_CLUSTER_PORTS={right}"), "{written}");
    }
    let told = remedy(&[cluster, ("LINK_CLUSTER_PORTS", "")], "LINK_CLUSTER_PORTS");
    assert!(told.contains("remove LINK_CLUSTER_PORTS"), "{told}");
}

/// What clients of a cluster are told is a name or an address, and nothing around it.
#[test]
fn an_announced_host_is_a_name_or_an_address() {
    let cluster = ("LINK_PORT_7000_TCP", "redis+cluster://node");
    for (written, told) in [
        ("redis.example.com", "redis.example.com"),
        ("10.0.0.5", "10.0.0.5"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("\"my_host\"", "my_host"),
    ] {
        let wiring = wiring(&[cluster, ("LINK_ANNOUNCE", written)]);
        assert_eq!(link(&wiring, "LINK_PORT_7000_TCP")["announce"], told, "{written}");
    }
    let secret = token();
    for (written, right) in [
        ("redis.example.com:6379".to_owned(), "redis.example.com"),
        ("[2001:db8::1]:6379".to_owned(), "2001:db8::1"),
        ("redis://redis.example.com:6379/0".to_owned(), "redis.example.com"),
        (format!("redis://app:{secret}@redis.example.com"), "redis.example.com"),
    ] {
        let told = remedy(&[cluster, ("LINK_ANNOUNCE", &written)], "LINK_ANNOUNCE");
        assert_eq!(told, format!("write LINK_ANNOUNCE={right}"));
    }
    for written in
        ["two hosts", "one,two", "0.0.0.0", "::", "*", "fe80::1", "[fe80::1%eth0]", "10.0.0.300", ""]
    {
        expect_mistake(&[cluster, ("LINK_ANNOUNCE", written)], "LINK_ANNOUNCE");
    }
    let told = expect_mistake(&[cluster, ("LINK_ANNOUNCE", "${HOST}")], "LINK_ANNOUNCE");
    assert!(told.contains("nothing has replaced"), "{told}");
}
