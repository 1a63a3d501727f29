//! What the ambassador prints, whole: the files of `fixtures/golden`, for people to read and to see in a diff what
//! changes. They are written anew by
//!
//!     UPDATE_GOLDEN=1 cargo test --test it golden

use std::env;
use std::fs;
use std::path::Path;

use crate::support::{Launch, Served, Target, eventually, fixture_text, get, play_sentinel, unknown_command};

/// Compares with a file, or writes it.
#[track_caller]
fn expect_golden(file: &str, printed: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/golden").join(file);
    if env::var_os("UPDATE_GOLDEN").is_some() {
        fs::write(&path, printed).expect("a file that can be written");
    }
    let expected = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let lines = printed.lines().map(Some).chain([None]);
    let difference = lines.zip(expected.lines().map(Some).chain([None])).find(|(a, b)| a != b);
    assert!(
        printed == expected,
        "fixtures/golden/{file} has another line (UPDATE_GOLDEN=1 writes it anew): {difference:#?}\n{printed}"
    );
}

/// Links of every kind, and what is worth a word beside them.
fn wiring() -> Launch {
    let environment = fixture_text("env/kubernetes-service.env").lines();
    let environment = environment.map(|line| line.split_once('=').expect("a name and a value"));
    let launch = environment.fold(Launch::new(), |launch, (name, value)| launch.variable(name, value));
    launch
        .variable("REDIS_AUTH", "secret")
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_DB", "2")
        .variable("REDIS_AUHT_FILE", "/run/secrets/redis")
        .variable("CACHE_PORT_6380_TCP", "rediss+sentinel://s1,s2,s3/mymaster")
        .variable("CACHE_LISTEN", "unix:/run/cache.sock")
        .variable("DB_PORT_5432_TCP", "tcp://db-1.example.com:5432,db-2.example.com:5432")
        .variable("SHARDS_PORT_7000_TCP", "redis+cluster://node-1,node-2")
        .variable("SHARDS_ANNOUNCE", "redis.example.com")
        .variable("DB_PORT_53_UDP", "udp://10.0.0.2:53")
        .argument("links")
}

#[test]
fn links_are_shown_as_a_table() {
    let finished = wiring().finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    expect_golden("links.txt", &(finished.stdout + &finished.stderr));
}

#[test]
fn links_are_shown_as_json() {
    let finished = wiring().argument("--format").argument("json").finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    expect_golden("links.json", &finished.stdout);
}

/// A Redis 7.0 that takes any password, and wants none.
fn server() -> Served {
    let answer = |name: &str| {
        let recorded =
            |situation: &str| fixture_text(&format!("replies/redis-7.0/{situation}.resp")).to_owned();
        match name {
            "AUTH" | "SELECT" => "+OK\r\n".to_owned(),
            "PING" => recorded("ping"),
            "INFO" => recorded("info"),
            _ => unknown_command(name),
        }
    };
    Target::start().serve(move |peer| play_sentinel(peer, answer))
}

/// What `check` says of three links, one of which can't be dialled, with constant ports and times.
fn check(format: &str) -> String {
    let server = server();
    let nobody = Target::start();
    let nobody_at = nobody.address();
    drop(nobody);
    let mut printed = String::new();
    eventually("times below ten milliseconds, which are as wide as those in the file", || {
        let launch = Launch::redis(format!("{}/3", server.address()))
            .variable("REDIS_AUTH", "secret")
            .redis_link("CACHE", server.address())
            .plain_link("DB", nobody_at)
            .argument("check")
            .argument("--format")
            .argument(format);
        printed = launch.finish().stdout;
        for (address, port) in [(server.address(), "50000"), (nobody_at, "50001")] {
            printed = printed.replace(&address.port().to_string(), port);
        }
        constant_times(&mut printed)
    });
    printed
}

/// Makes times constant; `false` if one is wider than the others.
fn constant_times(printed: &mut String) -> bool {
    let mut narrow = true;
    let lines = printed.lines().map(|line| {
        if let Some(at) = line.find("ms\": ").map(|at| at + 5)
            && line[at..].starts_with(|c: char| c.is_ascii_digit())
        {
            let comma = if line.ends_with(',') { "," } else { "" };
            return format!("{}0.25{comma}\n", &line[..at]);
        }
        let mut parts = line.split(" ms").collect::<Vec<_>>();
        let last = parts.pop().unwrap_or_default();
        let parts = parts.iter().map(|part| {
            let before = part.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
            narrow &= part.len() - before.len() == "0.25".len();
            format!("{before}0.25 ms")
        });
        format!("{}{last}\n", parts.collect::<String>())
    });
    let constant = lines.collect();
    *printed = constant;
    narrow
}

#[test]
fn a_check_is_shown_as_a_table() {
    expect_golden("check.txt", &check("table"));
}

#[test]
fn a_check_is_shown_as_json() {
    expect_golden("check.json", &check("json"));
}

/// Every kind of mistake at once.
#[test]
fn mistakes_are_shown_with_their_remedies() {
    let finished = Launch::new()
        .variable("ONE_PORT_1_TCP", "tcp://one")
        .variable("TWO_PORT_70000_TCP", "tcp://two:2")
        .variable("REDIS_PORT_6379_TCP", "redis://cache")
        .variable("REDIS_AUTH_FILE", "/nowhere/to/be/found")
        .variable("REDIS_CONNECT_TIMEOUT", "soon")
        .variable("REDIS_DB", "first")
        .variable("REDIS_PORT_6380_AUTH", "x")
        .variable("REDIS_ALLOW", "everybody")
        .variable("REDIS_LISTEN", "somewhere")
        .variable("REDIS_MAX_CONNECTIONS", "many")
        .variable("REDIS_ROLE", "leader")
        .variable("REDIS_TLS", "perhaps")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "later")
        .variable("AMBASSADOR_DNS", "dns.example.com")
        .finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (Some(2), ""), "{}", finished.stderr);
    let user = format!("user {}", rustix::process::geteuid());
    expect_golden("mistakes.txt", &finished.stderr.replace(&user, "user 1000"));
}

/// Every series that there is from the start.
#[test]
fn the_metrics_of_an_idle_link_are_all_there() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", "secret").start();
    let metrics = get(ambassador.admin(), "/metrics").body;
    let metrics = metrics
        .replace(&target.address().port().to_string(), "50000")
        .replace(concat!("version=\"", env!("CARGO_PKG_VERSION"), "\""), "version=\"0.0.0\"");
    expect_golden("metrics.txt", &in_order(&metrics).lines().map(without_chance).collect::<String>());
}

/// What differs from process to process and from machine to machine.
fn without_chance(line: &str) -> String {
    let name = line.split(['{', ' ']).next().unwrap_or_default();
    let is_by_chance = name.starts_with("process_")
        || ["redis_ambassador_connections_limit", "redis_ambassador_connections_capacity"].contains(&name);
    match line.rsplit_once(' ') {
        Some((series, _)) if is_by_chance => format!("{series} N\n"),
        _ => format!("{line}\n"),
    }
}

/// The series of one name follow each other by chance, but for the buckets of a histogram.
fn in_order(metrics: &str) -> String {
    let mut lines: Vec<&str> = metrics.lines().collect();
    let name = |line: &str| line.split(['{', ' ']).next().unwrap_or_default().to_owned();
    for series in lines.chunk_by_mut(|a, b| name(a) == name(b)) {
        if !series[0].contains("le=\"") && !series[0].starts_with('#') {
            series.sort_unstable();
        }
    }
    lines.join("\n") + "\n"
}

#[test]
fn the_help_says_what_there_is() {
    let launch = Launch::new().without("AMBASSADOR_LOG_FORMAT").without("AMBASSADOR_ADMIN");
    let finished = launch.argument("--help").finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    expect_golden("help.txt", &finished.stdout);
}
