//! The admin endpoint: probes, the links' state, and metrics.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rcgen::{KeyPair, date_time_ymd};
use rustix::process::Signal;

use crate::support::{
    Ambassador, Authority, Launch, Peer, RedisServer, Served, Target, TlsPeer, another_user,
    command_is_missing, eventually, fixture, fixture_text, get, metric, noise, own_address, password,
    request, say_skipped,
};

/// The plain tunnel `db:5432` to an echo.
fn echo() -> (Served, Ambassador) {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    (target, ambassador)
}

/// Exchanges some bytes through `db:5432`.
fn exchange(client: &mut Peer) {
    client.send(b"hello");
    client.expect(b"hello");
}

fn failed(ambassador: &Ambassador, link: &str, stage: &str) -> f64 {
    let series = format!("connections_failed_total{{link=\"{link}\",stage=\"{stage}\"}}");
    metric(ambassador.admin(), &series)
}

#[track_caller]
fn eventually_metric(admin: SocketAddr, series: &str, value: f64) {
    eventually(&format!("{series} is {value}"), || (metric(admin, series) - value).abs() < 0.5);
}

/// Alive, ready, and every answer says what it is.
#[test]
fn probes_are_answered() {
    let (_target, ambassador) = echo();
    for (path, content_type) in [
        ("/livez", "text/plain; charset=utf-8"),
        ("/readyz", "text/plain; charset=utf-8"),
        ("/links", "application/json"),
        ("/history", "application/json"),
        ("/", "text/html; charset=utf-8"),
        ("/metrics", "text/plain; version=0.0.4; charset=utf-8"),
    ] {
        let answer = get(ambassador.admin(), path);
        assert_eq!(answer.status, 200, "{path}: {answer:?}");
        assert!(answer.head.contains(&format!("content-type: {content_type}")), "{path}: {answer:?}");
        assert!(!answer.body.is_empty(), "{path}: {answer:?}");
        let head = request(ambassador.admin(), &format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!((head.status, &*head.body), (200, ""), "{path}: {head:?}");
    }
}

/// Other paths say which there are, other methods which are allowed, and nonsense does no harm.
#[test]
fn what_is_not_there_says_what_is() {
    let (_target, ambassador) = echo();
    let admin = ambassador.admin();
    for path in ["/index.html", "/metric", "/livez/", "/readyz/x", "/../etc/passwd", "/links/redis:6379"] {
        let answer = get(admin, path);
        assert_eq!(answer.status, 404, "{path}: {answer:?}");
        for there in ["/,", "/livez", "/readyz", "/links", "/history", "/metrics"] {
            assert!(answer.body.contains(there), "{path}: {answer:?}");
        }
    }
    for method in ["POST", "PUT", "DELETE", "OPTIONS", "BREW"] {
        let answer = request(admin, &format!("{method} /livez HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
        assert!(answer.head.contains("allow: get, head"), "{method}: {answer:?}");
    }
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "x".repeat(64 * 1024));
    for nonsense in ["*1\r\n$4\r\nPING\r\n", "GET\r\n\r\n", "\u{16}\u{3}\u{1}", &long] {
        let mut client = Peer::connect(admin);
        // Who has read enough may close while the rest is still being sent.
        let _ = client.try_send(nonsense.as_bytes());
        let _ = client.try_finish_sending();
        drop(client);
    }
    assert_eq!(get(admin, "/livez").status, 200);
}

/// `off` opens no port.
#[test]
fn the_endpoint_can_be_turned_off() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).variable("AMBASSADOR_ADMIN", "off").start();
    exchange(&mut ambassador.connect("db:5432"));
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    assert!(!finished.stderr.contains("admin"), "{}", finished.stderr);
}

/// A taken admin port is told like a link's, with both ways out.
#[test]
fn a_taken_admin_port_is_exit_code_1_with_a_remedy() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let finished = Launch::plain("127.0.0.1:9").variable("AMBASSADOR_ADMIN", &address).finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    for words in [&*address, "AMBASSADOR_ADMIN=127.0.0.1:", "AMBASSADOR_ADMIN=off"] {
        assert!(finished.stderr.contains(words), "{words} in {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("\"listening\""), "{}", finished.stderr);
    // An address of nobody's.
    let finished = Launch::plain("127.0.0.1:9").variable("AMBASSADOR_ADMIN", "192.0.2.1:9180").finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.contains("name an address of this host"), "{}", finished.stderr);
}

/// A port that needs privileges is told as such: the address is not what is wrong.
#[test]
fn an_admin_port_that_needs_privileges_is_told_as_such() {
    let Some(user) = another_user() else { return };
    let Ok(first) = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start") else { return };
    if first.trim().parse().is_ok_and(|first: u16| first <= 80) {
        return say_skipped("every user may listen on every port");
    }
    let finished =
        Launch::plain("127.0.0.1:9").variable("AMBASSADOR_ADMIN", "127.0.0.1:80").under(&user).finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    for words in ["for ports below 1024", "AMBASSADOR_ADMIN=127.0.0.1:9180", "AMBASSADOR_ADMIN=off"] {
        assert!(finished.stderr.contains(words), "{words} in {}", finished.stderr);
    }
    assert!(!finished.stderr.contains("name an address of this host"), "{}", finished.stderr);
}

/// Not ready from the signal on, while clients are still taken in and connections end; alive all the time.
#[test]
fn readiness_is_false_through_the_drain_and_liveness_true() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("AMBASSADOR_DRAIN_DELAY", "2s")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "10m")
        .start();
    let admin = ambassador.admin();
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    client.send(b"BLPOP queue 0\r\n");
    server.expect(b"BLPOP queue 0\r\n");
    assert_eq!(get(admin, "/readyz").status, 200);
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    assert_eq!(get(admin, "/readyz").status, 503, "in the drain delay");
    let mut late = ambassador.connect("redis:6379");
    late.send(b"PING\r\n");
    let mut late_server = target.accept();
    late_server.expect(b"PING\r\n");
    late_server.send(b"+PONG\r\n");
    late.expect(b"+PONG\r\n");
    let address = ambassador.address("redis:6379");
    eventually("the listener is closed", || Peer::try_connect(address).is_err());
    assert_eq!(get(admin, "/readyz").status, 503, "while connections end");
    assert_eq!(get(admin, "/livez").status, 200);
    server.send(b"*-1\r\n");
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Clients that open connections and say nothing, or one byte now and then, keep nobody else from being answered, and
/// the links serve on.
#[test]
fn clients_that_dawdle_keep_nobody_out() {
    let (_target, ambassador) = echo();
    let admin = ambassador.admin();
    let mut client = ambassador.connect("db:5432");
    let mut crowd = Vec::new();
    for number in 0..200 {
        let mut dawdler = Peer::connect(admin);
        // Those that came first may have been sent away already.
        let _ = dawdler.try_send(if number % 2 == 0 { b"GET /metrics HTTP/1.1\r\nX: " } else { b"" });
        crowd.push(dawdler);
        if number % 10 == 0 {
            exchange(&mut client);
            let begun = Instant::now();
            assert_eq!(get(admin, "/livez").status, 200);
            assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
        }
    }
    let descriptors = ambassador.descriptors();
    assert!(descriptors < 100, "{descriptors} descriptors with {} clients that dawdle", crowd.len());
}

/// Prometheus' own tool finds nothing to mend.
#[test]
fn promtool_finds_nothing_to_mend() {
    if command_is_missing("promtool") {
        return;
    }
    let (_target, ambassador) = echo();
    exchange(&mut ambassador.connect("db:5432"));
    let metrics = get(ambassador.admin(), "/metrics").body;
    let mut promtool = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("promtool");
    promtool.stdin.take().expect("a pipe").write_all(metrics.as_bytes()).expect("promtool reads");
    let output = promtool.wait_with_output().expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.trim().is_empty(), "{said}\n{metrics}");
}

/// What every process has goes by the names that Prometheus' own clients use, and is what the kernel says.
#[test]
fn memory_descriptors_and_processor_time_are_told() {
    let (_target, ambassador) = echo();
    let told = |name: &str| {
        let metrics = get(ambassador.admin(), "/metrics").body;
        let value = metrics.lines().find_map(|line| line.strip_prefix(&format!("process_{name} ")));
        value.unwrap_or_else(|| panic!("no {name}:\n{metrics}")).parse::<f64>().expect("a number")
    };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((now - 60.0..now + 1.0).contains(&told("start_time_seconds")));
    let memory = f64::from(u32::try_from(ambassador.memory()).unwrap());
    assert!((memory * 0.8..memory * 1.2).contains(&told("resident_memory_bytes")));
    assert!(told("cpu_seconds_total") > 0.0);
    let open = told("open_fds");
    assert!(open > 5.0 && open < told("max_fds"), "{open}");
    let crowd: Vec<_> = (0..20).map(|_| ambassador.connect("db:5432")).collect();
    eventually("two more descriptors for each client", || told("open_fds") >= open + 40.0);
    drop(crowd);
    eventually("they are given back", || told("open_fds") <= open + 2.0);
}

/// How many clients may come: those that the link is set to, at most those that descriptors carry.
#[test]
fn limits_are_told() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .redis_link("REDIS", own_address())
        .variable("REDIS_MAX_CONNECTIONS", "17")
        .descriptors(500, 500)
        .start();
    let told = |series: &str| metric(ambassador.admin(), series);
    assert!((told("connections_limit{link=\"redis:6379\"}") - 17.0).abs() < 0.5);
    let capacity = told("connections_capacity");
    assert!((50.0..250.0).contains(&capacity), "{capacity}");
    assert!((told("connections_limit{link=\"db:5432\"}") - capacity).abs() < 0.5);
}

/// The ends of certificates are told: of ours on either side, also of a file that was replaced while nobody connects, and
/// of the one that the target showed last.
#[test]
fn the_ends_of_certificates_are_told() {
    const DAY: f64 = 86_400.0;
    let authority = Authority::new("Test CA");
    let issue = |names: &[&str], year: i32| {
        authority.issue_with(names, &KeyPair::generate().unwrap(), |params| {
            params.not_after = date_time_ymd(year, 1, 1);
        })
    };
    let (listener, client, server) = (issue(&["l"], 2061), issue(&["c"], 2062), issue(&["127.0.0.1"], 2063));
    let config = authority.server(&server, true, rustls::ALL_VERSIONS);
    let target = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{}", target.address()))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .variable("DB_TLS_CA_FILE", authority.file())
        .listen_tls("DB", &listener)
        .tls_identity("DB", &client)
        .start();
    let told = |certificate: &str| {
        let series = format!(
            "redis_ambassador_certificate_not_after_timestamp_seconds{{link=\"db:5432\",certificate=\"{certificate}\"}} "
        );
        let metrics = get(ambassador.admin(), "/metrics").body;
        metrics.lines().find_map(|line| line.strip_prefix(&series)?.parse::<f64>().ok())
    };
    let is = |certificate: &str, year: i32| {
        let end = Duration::try_from(date_time_ymd(year, 1, 1) - date_time_ymd(1970, 1, 1)).unwrap();
        told(certificate).is_some_and(|told| (told - end.as_secs_f64()).abs() < DAY)
    };
    assert!(is("listener", 2061) && is("client", 2062) && told("server").is_none());
    issue(&["l"], 2064).replace(&listener);
    eventually("the new file's end", || is("listener", 2064));
    get(ambassador.admin(), "/links?dial");
    eventually("the target's certificate", || is("server", 2063));
}

/// Every series is there before anything has happened, so that a rate can be told from the first event on.
#[test]
fn every_series_is_there_from_the_start() {
    let (_target, ambassador) = echo();
    let admin = ambassador.admin();
    for name in [
        "connections_accepted_total",
        "connections_active",
        "dial_seconds_count",
        "secret_reloads_total",
        "backends_stale",
        "secret_stale",
        "warm_connections",
        "warm_hits_total",
        "warm_misses_total",
        "target_changes_total",
    ] {
        assert!(metric(admin, &format!("{name}{{link=\"db:5432\"}}")).abs() < 0.5, "{name}");
    }
    for stage in ["resolve", "connect", "tls", "auth", "select", "role", "client_auth", "limit", "allow"] {
        assert!(failed(&ambassador, "db:5432", stage).abs() < 0.5, "{stage}");
    }
    for kind in ["own", "ready"] {
        let series = format!("upstream_connections{{link=\"db:5432\",kind=\"{kind}\"}}");
        assert!(metric(admin, &series).abs() < 0.5, "{kind}");
    }
    for which in ["current", "previous", "last_good"] {
        let series = format!("auth_secret_used_total{{link=\"db:5432\",which=\"{which}\"}}");
        assert!(metric(admin, &series).abs() < 0.5, "{which}");
    }
    let version = concat!("build_info{version=\"", env!("CARGO_PKG_VERSION"), "\"}");
    assert!((metric(admin, version) - 1.0).abs() < 0.5);
}

/// What was sent is what is counted, while the connection lives and after it; who is connected is counted and forgotten.
#[test]
fn bytes_and_connections_are_counted_exactly() {
    let target = Target::start();
    let ambassador = Launch::plain(target.address()).start();
    let admin = ambassador.admin();
    let (out, back) = (noise(1, 3_000_000), noise(2, 700_001));
    let counted = |direction: &str| {
        metric(admin, &format!("bytes_total{{link=\"db:5432\",direction=\"{direction}\"}}"))
    };
    let mut client = ambassador.connect("db:5432");
    let mut server = target.accept();
    std::thread::scope(|scope| {
        scope.spawn(|| client.send(&out));
        server.expect(&out);
    });
    server.send(&back);
    client.expect(&back);
    // What the relay counts it has counted before it waits again, which may be a moment after the bytes arrived.
    eventually("bytes of a living connection", || {
        (counted("to_target"), counted("to_client")) == (3_000_000.0, 700_001.0)
    });
    let mut second = ambassador.connect("db:5432");
    let mut second_server = target.accept();
    second.send(b"hello");
    second_server.expect(b"hello");
    eventually_metric(admin, "connections_active{link=\"db:5432\"}", 2.0);
    drop((client, server, second, second_server));
    eventually_metric(admin, "connections_active{link=\"db:5432\"}", 0.0);
    assert_eq!((counted("to_target"), counted("to_client")), (3_000_005.0, 700_001.0));
    eventually_metric(admin, "connections_accepted_total{link=\"db:5432\"}", 2.0);
    eventually_metric(admin, "dial_seconds_count{link=\"db:5432\"}", 2.0);
}

/// A failure is counted at its stage, once a client, and one link's on no other's account.
#[test]
fn failures_are_counted_by_their_stage() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}\ndatabases 2")) else { return };
    let target = Target::start().echo();
    let link = |launch: Launch, alias: &str, target: SocketAddr| {
        launch
            .redis_link(alias, target)
            .variable(format!("{alias}_AUTH"), &password)
            .variable(format!("{alias}_CONNECT_TIMEOUT"), "300ms")
    };
    let mut launch = link(Launch::new(), "AWAY", own_address());
    launch = link(launch, "WRONG", redis.address()).variable("WRONG_AUTH", crate::support::password());
    launch = link(launch, "FAR", redis.address()).variable("FAR_DB", "7");
    launch = link(launch, "RIGHT", redis.address());
    let ambassador = launch
        .plain_link("CLOSED", target.address())
        .variable("CLOSED_ALLOW", "10.0.0.0/8")
        .plain_link("NOWHERE", "no-such-host.invalid:1")
        .variable("NOWHERE_CONNECT_TIMEOUT", "300ms")
        .start();
    for _ in 0..3 {
        for link in ["away:6379", "wrong:6379", "far:6379"] {
            ambassador.connect(link).expect_refusal(link);
        }
        for link in ["closed:5432", "nowhere:5432"] {
            ambassador.connect(link).expect_gone();
        }
    }
    let mut client = ambassador.connect("right:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    for (link, stage) in [
        ("away:6379", "connect"),
        ("wrong:6379", "auth"),
        ("far:6379", "select"),
        ("closed:5432", "allow"),
        ("nowhere:5432", "resolve"),
    ] {
        assert!((failed(&ambassador, link, stage) - 3.0).abs() < 0.5, "{link} {stage}");
    }
    for stage in ["resolve", "connect", "tls", "auth", "select", "role", "limit", "allow"] {
        assert!(failed(&ambassador, "right:6379", stage).abs() < 0.5, "{stage}");
    }
    let used = |link: &str| format!("auth_secret_used_total{{link=\"{link}\",which=\"current\"}}");
    assert!((metric(ambassador.admin(), &used("right:6379")) - 1.0).abs() < 0.5);
    assert!(metric(ambassador.admin(), &used("wrong:6379")).abs() < 0.5);
}

/// A client that leaves before it is served is no failure of ours.
#[test]
fn a_client_that_leaves_is_no_failure() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let client = ambassador.connect("redis:6379");
    let _server = target.accept();
    drop(client);
    ambassador.wait_for("client left before it was served");
    for stage in ["resolve", "connect", "tls", "auth", "select", "role", "client_auth", "limit", "allow"] {
        assert!(failed(&ambassador, "redis:6379", stage).abs() < 0.5, "{stage}");
    }
    eventually_metric(ambassador.admin(), "connections_active{link=\"redis:6379\"}", 0.0);
}

/// A backend that fails is down until a dial of it works again; `/links` says so, and why, and what to do.
#[test]
fn a_backend_is_down_while_its_dials_fail() {
    let address = own_address();
    let ambassador = Launch::plain(address).variable("DB_CONNECT_TIMEOUT", "100ms").start();
    let admin = ambassador.admin();
    let series = format!("backend_up{{link=\"db:5432\",backend=\"{address}\"}}");
    assert!((metric(admin, &series) - 1.0).abs() < 0.5, "nothing has failed yet");
    let fresh = get(admin, "/links").link("db:5432");
    assert!(fresh["last_dial"].is_null(), "{fresh}");
    ambassador.connect("db:5432").expect_gone();
    assert!(metric(admin, &series).abs() < 0.5);
    let down = get(admin, "/links").link("db:5432");
    assert_eq!(
        (&down["backends"][0]["up"], &down["last_dial"]["worked"]),
        (&false.into(), &false.into()),
        "{down}"
    );
    assert_eq!(down["last_dial"]["stage"], "connect", "{down}");
    for field in ["error", "remedy"] {
        assert!(down["last_dial"][field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {down}");
    }
    let _target = Target::at(address).echo();
    let mut client = ambassador.connect("db:5432");
    exchange(&mut client);
    assert!((metric(admin, &series) - 1.0).abs() < 0.5);
    let up = get(admin, "/links").link("db:5432");
    assert_eq!((&up["backends"][0]["up"], &up["last_dial"]["worked"]), (&true.into(), &true.into()), "{up}");
    assert!(up["last_dial"]["error"].is_null(), "{up}");
    assert_eq!((&up["connections"], &up["kind"]), (&1.into(), &"tcp".into()), "{up}");
    assert_eq!(up["listen"], ambassador.listens("db:5432"), "{up}");
}

/// Many who ask for dials at once make one dial.
#[test]
fn asking_for_dials_is_no_way_to_make_many() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let admin = ambassador.admin();
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let link = get(admin, "/links?dial").link("db:5432");
                assert_eq!(link["last_dial"]["worked"], true, "{link}");
            });
        }
    });
    // Of several that ask one after the other each may have its own, but only one in a second.
    let most = 1 + usize::try_from(begun.elapsed().as_secs()).unwrap();
    assert!(target.accepted() <= most, "{} dials", target.accepted());
    assert!(metric(admin, "connections_accepted_total{link=\"db:5432\"}").abs() < 0.5, "no client came");
}

/// So are those of TLS, of roles, of the number of clients and of what clients have to show.
#[test]
fn failures_before_and_after_the_password_are_counted_too() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let link = |launch: Launch, alias: &str| {
        let launch =
            launch.variable(format!("{alias}_PORT_6379_TCP"), format!("redis://{}", redis.address()));
        launch
            .variable(format!("{alias}_LISTEN"), "127.0.0.1:0")
            .variable(format!("{alias}_AUTH"), &password)
            .variable(format!("{alias}_CONNECT_TIMEOUT"), "500ms")
    };
    let mut launch = link(Launch::new(), "PLAIN").variable("PLAIN_TLS", "true");
    launch = link(launch, "REPLICA").variable("REPLICA_ROLE", "replica");
    launch = link(launch, "SMALL").variable("SMALL_MAX_CONNECTIONS", "1");
    launch = link(launch, "STRICT")
        .variable("STRICT_CLIENT_AUTH", "require")
        .variable("STRICT_CLIENT_PASSWORD", crate::support::password());
    let ambassador = launch.start();
    let ping = |link: &str| {
        let mut client = ambassador.connect(link);
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        client
    };
    ambassador.connect("plain:6379").expect_refusal("plain:6379");
    ambassador.connect("replica:6379").expect_refusal("replica:6379");
    let held = ping("small:6379");
    ambassador.connect("small:6379").expect(fixture("replies/redis-7.0/max-clients.resp"));
    let mut stranger = ambassador.connect("strict:6379");
    stranger.send(b"AUTH wrong\r\n");
    stranger.expect(b"-WRONGPASS");
    drop(stranger);
    for (link, stage) in [
        ("plain:6379", "tls"),
        ("replica:6379", "role"),
        ("small:6379", "limit"),
        ("strict:6379", "client_auth"),
    ] {
        eventually(&format!("{link} fails at {stage}"), || {
            (failed(&ambassador, link, stage) - 1.0).abs() < 0.5
        });
    }
    drop(held);
}

/// A list of backends that becomes another one is a change; the same list again is none.
#[test]
fn changes_of_the_target_are_counted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("backends");
    let replace = |text: &str| {
        let next = directory.path().join("next");
        std::fs::write(&next, text).expect("a file");
        std::fs::rename(next, &file).expect("a rename");
    };
    let (first, second) = (own_address(), own_address());
    replace(&format!("{first}\n"));
    let ambassador = Launch::plain("unused:1")
        .variable("DB_PORT_5432_TCP", format!("tcp+file://{}", file.display()))
        .start();
    let admin = ambassador.admin();
    let changes = "target_changes_total{link=\"db:5432\"}";
    let up = |address: SocketAddr| format!("backend_up{{link=\"db:5432\",backend=\"{address}\"}}");
    let before = metric(admin, changes);
    assert!((metric(admin, &up(first)) - 1.0).abs() < 0.5);
    replace(&format!("# moved\n{second}\n"));
    eventually_metric(admin, changes, before + 1.0);
    assert!((metric(admin, &up(second)) - 1.0).abs() < 0.5);
    let metrics = get(admin, "/metrics").body;
    assert!(!metrics.contains(&first.to_string()), "a backend that is gone is still there:\n{metrics}");
}

/// Connections that are ready are counted, and so is who found one; none of them is left when the link is warm no more.
#[test]
fn warm_connections_are_counted() {
    let password = password();
    let Some(mut redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_WARM", "2")
        .variable("REDIS_CONNECT_TIMEOUT", "200ms")
        .start();
    let admin = ambassador.admin();
    let of_link = |name: &str| format!("{name}{{link=\"redis:6379\"}}");
    eventually_metric(admin, &of_link("warm_connections"), 2.0);
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    eventually_metric(admin, &of_link("warm_hits_total"), 1.0);
    eventually_metric(admin, &of_link("warm_connections"), 2.0);
    // Who has said nothing yet has one all the same.
    let kind = |kind: &str| format!("upstream_connections{{link=\"redis:6379\",kind=\"{kind}\"}}");
    let silent = ambassador.connect("redis:6379");
    eventually_metric(admin, &kind("own"), 2.0);
    eventually_metric(admin, &kind("ready"), 2.0);
    drop(silent);
    eventually_metric(admin, &kind("own"), 1.0);
    redis.stop();
    eventually_metric(admin, &kind("ready"), 0.0);
    eventually_metric(admin, &of_link("warm_connections"), 0.0);
    let mut refused = ambassador.connect("redis:6379");
    refused.expect_refusal("redis:6379");
    assert!(metric(admin, &of_link("warm_misses_total")) > 0.5);
    assert!(metric(admin, "connections_failed_total{link=\"redis:6379\",stage=\"connect\"}") > 0.5);
    drop((client, refused));
    eventually_metric(admin, &of_link("connections_active"), 0.0);
}

/// A target that quotes the password in its refusal is quoted without it; `support::request` looks for it everywhere.
#[test]
fn what_a_target_quotes_is_masked_here_too() {
    let password = password();
    let quoted = fixture_text("replies/redis-7.0/unknown-auth.resp").replace("secret", &password);
    let target = Target::start().serve(move |mut peer| {
        // A dial may ask for more than once.
        let _ = peer.try_send(quoted.as_bytes());
        let _ = peer.try_finish_sending();
        peer.expect_gone();
    });
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", &password).start();
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    let admin = ambassador.admin();
    let link = get(admin, "/links").link("redis:6379");
    assert!(link["last_dial"]["error"].as_str().is_some_and(|error| error.contains("***")), "{link}");
    assert!(failed(&ambassador, "redis:6379", "auth") > 0.5);
    let unwell =
        Launch::new().variable("AMBASSADOR_ADMIN", admin.to_string()).argument("health").argument("--links");
    let said = unwell.finish().stderr;
    assert!(said.contains("***") && !said.contains(&password), "{said}");
}

/// Another value of a secret is counted once it is found, and so is who was let in with it.
#[test]
fn a_changed_secret_is_counted() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("user default on >{old} >{new} ~* &* +@all")) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    std::fs::write(&file, &old).unwrap();
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH_FILE", &file).start();
    let admin = ambassador.admin();
    let reloads = "secret_reloads_total{link=\"redis:6379\"}";
    let used = "auth_secret_used_total{link=\"redis:6379\",which=\"current\"}";
    let ping = || {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    };
    ping();
    assert!(metric(admin, reloads).abs() < 0.5);
    let next = directory.path().join("next");
    std::fs::write(&next, &new).unwrap();
    std::fs::rename(next, &file).unwrap();
    ping();
    eventually_metric(admin, reloads, 1.0);
    eventually_metric(admin, used, 2.0);
}
