//! The PROXY protocol: balancers that say who their clients are, and targets that are told.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::{
    Ambassador, Authority, Balancer, Cluster, Launch, Peer, RedisServer, Target, TlsPeer, command,
    eventually, get, listen, metric, own_address, password,
};

/// How version 2 begins.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// A header of version 2, as the specification lays it out.
fn binary(command: u8, family: u8, block: &[u8]) -> Vec<u8> {
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [SIGNATURE, &[command, family], &length, block].concat()
}

/// The block of one that is about TCP.
fn block(from: SocketAddr, to: SocketAddr) -> Vec<u8> {
    let octets = |address: SocketAddr| match address {
        SocketAddr::V4(v4) => v4.ip().octets().to_vec(),
        SocketAddr::V6(v6) => v6.ip().octets().to_vec(),
    };
    [&octets(from)[..], &octets(to), &from.port().to_be_bytes(), &to.port().to_be_bytes()].concat()
}

fn address(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A header of version 2 about a client over IPv4.
fn of_client(from: &str) -> Vec<u8> {
    binary(0x21, 0x11, &block(address(from), address("203.0.113.1:6379")))
}

/// What is left of a header's TLVs to make it as long as it can be.
fn longest(block: &[u8]) -> Vec<u8> {
    let mut block = block.to_vec();
    while block.len() + 3 < usize::from(u16::MAX) {
        let length = (usize::from(u16::MAX) - block.len() - 3).min(1000);
        block.push(0x04);
        block.extend(u16::try_from(length).unwrap().to_be_bytes());
        block.resize(block.len() + length, b'x');
    }
    block
}

fn announced(launch: Launch) -> Launch {
    launch
        .variable("DB_LISTEN_PROXY_PROTOCOL", "true")
        .variable("REDIS_LISTEN_PROXY_PROTOCOL", "true")
        .variable("AMBASSADOR_LOG", "debug")
}

/// Where a link listens on TCP, the first of several.
fn listens(ambassador: &Ambassador, link: &str) -> SocketAddr {
    address(ambassador.listens(link).split(',').next().expect("an address"))
}

fn connect(ambassador: &Ambassador, link: &str) -> Peer {
    Peer::connect(listens(ambassador, link))
}

/// The client of a connection that was opened, by its number, as the log has it.
#[track_caller]
fn opened(ambassador: &Ambassador, nth: usize) -> String {
    let mut client = String::new();
    eventually("the connection is in the log", || {
        let opened = ambassador.logged(|line| line["message"] == "connection opened");
        client = opened.get(nth).map(|line| text(line, "client").to_owned()).unwrap_or_default();
        !client.is_empty()
    });
    client
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_else(|| panic!("no {field}: {line}"))
}

/// Both versions, every family, in one piece with the client's first bytes and byte by byte: the client is who the header
/// names, and what stands behind the header is the client's, to the byte.
#[test]
fn who_the_balancer_names_is_the_client() {
    let target = Target::start().echo();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.sock");
    let ambassador = announced(Launch::plain(target.address()))
        .variable("DB_LISTEN", format!("127.0.0.1:0,unix:{}", path.display()))
        .start();
    let (v4, v6) = (address("192.0.2.7:50001"), address("[2001:db8::7]:50002"));
    let (to4, to6) = (address("203.0.113.1:5432"), address("[2001:db8::1]:5432"));
    let of_v4 = block(v4, to4);
    let mapped = |v4: SocketAddr| match v4.ip() {
        std::net::IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), v4.port()),
        std::net::IpAddr::V6(_) => v4,
    };
    let own = "PEER";
    let cases: Vec<(Vec<u8>, String)> = vec![
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 50001 5432\r\n".to_vec(), v4.to_string()),
        (b"PROXY TCP6 2001:db8::7 2001:db8::1 50002 5432\r\n".to_vec(), v6.to_string()),
        (b"PROXY UNKNOWN\r\n".to_vec(), own.to_owned()),
        (b"PROXY UNKNOWN what\0ever it is\xff\r\n".to_vec(), own.to_owned()),
        (binary(0x21, 0x11, &of_v4), v4.to_string()),
        (binary(0x21, 0x21, &block(v6, to6)), v6.to_string()),
        // What is IPv4 is shown as such.
        (binary(0x21, 0x21, &block(mapped(v4), mapped(to4))), v4.to_string()),
        (binary(0x21, 0x31, &[b'/'; 216]), "unix".to_owned()),
        (binary(0x21, 0x11, &longest(&of_v4)), v4.to_string()),
        // A health check, with and without what does not count then; what is unknown; a datagram, which this is not.
        (binary(0x20, 0x00, b""), own.to_owned()),
        (binary(0x20, 0x11, &of_v4), own.to_owned()),
        (binary(0x20, 0xff, &longest(b"")), own.to_owned()),
        (binary(0x21, 0x00, &longest(b"")), own.to_owned()),
        (binary(0x21, 0x12, &of_v4), own.to_owned()),
    ];
    let mut nth = 0;
    for (header, expected) in &cases {
        for in_pieces in [false, true] {
            let mut client = connect(&ambassador, "db:5432");
            let expected =
                if expected == own { client.local_address().to_string() } else { expected.clone() };
            if in_pieces {
                let (first, rest) = header.split_at(header.len().min(240));
                client.drip(first);
                client.send(rest);
                client.send(b"hello");
            } else {
                client.send(&[header, &b"hello"[..]].concat());
            }
            client.expect(b"hello");
            assert_eq!(opened(&ambassador, nth), expected, "{header:?}");
            nth += 1;
        }
    }
    // A balancer on the same host may come over a Unix socket.
    for (header, expected) in [(&cases[4].0, v4.to_string()), (&cases[9].0, "unix".to_owned())] {
        let mut client = Peer::connect_unix(&path);
        client.send(&[header, &b"PROXY TCP4 it is the client's own"[..]].concat());
        client.expect(b"PROXY TCP4 it is the client's own");
        assert_eq!(opened(&ambassador, nth), expected);
        nth += 1;
    }
}

/// Whoever does not begin with a header, or not in time, is told, and the operator by what setting; the target hears nothing
/// of it. Health checks that leave without a word are no news.
#[test]
fn who_does_not_say_whose_it_is_is_not_served() {
    let target = Target::start();
    let ambassador = announced(Launch::redis(target.address()))
        .variable("REDIS_LISTEN_PROXY_PROTOCOL", "true")
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    drop(ambassador.connect("redis:6379"));
    ambassador.connect("redis:6379").reset();
    let mut line = b"PROXY TCP4 ".to_vec();
    line.resize(200, b'1');
    let beginnings: Vec<(&[u8], &str)> = vec![
        (b"*2\r\n$4\r\nAUTH\r\n$9\r\nsecret-123\r\n", "something else"),
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 50001 6379\n", "line"),
        (b"PROXY TCP5 192.0.2.7 203.0.113.1 50001 6379\r\n", "TCP4"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 50001\r\n", "line"),
        (b"PROXY TCP4 192.0.2.07 203.0.113.1 50001 6379\r\n", "address"),
        (b"PROXY TCP4 2001:db8::7 2001:db8::1 50001 6379\r\n", "address"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 +5001 6379\r\n", "port"),
        (b"PROXY TCP4 192.0.2.7 203.0.113.1 65536 6379\r\n", "port"),
        (&line, "107 bytes"),
        (b"\r\n\r\n\0\r\nQUIT\n\x11\x11\0\x0c", "version"),
        (b"\r\n\r\n\0\r\nQUIT\n\x22\x11\0\x0c", "command"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x41\0\x0c", "family"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x13\0\x0c", "family"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0b", "short"),
        (b"", "1s"),
        (b"PROXY ", "1s"),
    ];
    for (beginning, reason) in &beginnings {
        let mut client = ambassador.connect("redis:6379");
        client.send(beginning);
        let refusal = client.expect_refusal("redis:6379");
        assert!(refusal.contains("PROXY protocol") && refusal.contains(reason), "{beginning:?}: {refusal}");
    }
    let mut cut_off = ambassador.connect("redis:6379");
    cut_off.send(&of_client("192.0.2.7:1")[..20]);
    cut_off.finish_sending();
    assert!(cut_off.expect_refusal("redis:6379").contains("midst"));
    target.expect_no_connection(Duration::from_millis(50));
    let failed = metric(ambassador.admin(), "connections_failed_total{link=\"redis:6379\",stage=\"proxy\"}");
    assert_eq!(failed.to_string(), (beginnings.len() + 1).to_string());
    let told = ambassador.wait_for("connection failed");
    assert!(text(&told, "remedy").contains("REDIS_LISTEN_PROXY_PROTOCOL"), "{told}");
    assert!(text(&told, "client").starts_with("127.0.0.1:"), "{told}");
}

/// `ALLOW` is about the address that is named, not about the balancer's own, which counts for its health checks alone.
#[test]
fn allow_is_about_the_address_that_is_named() {
    let target = Target::start().echo();
    let launch = announced(Launch::plain(target.address()))
        .redis_link("REDIS", target.address())
        .variable("DB_ALLOW", "192.0.2.0/24")
        .variable("REDIS_ALLOW", "192.0.2.0/24,127.0.0.1");
    let ambassador = launch.start();
    let begin = |link: &str, header: &[u8]| {
        let mut client = connect(&ambassador, link);
        client.send(&[header, b"PING\r\n"].concat());
        client
    };
    begin("db:5432", &of_client("192.0.2.9:1")).expect(b"PING\r\n");
    begin("db:5432", &of_client("198.51.100.9:1")).expect_gone_in_silence();
    begin("db:5432", &binary(0x20, 0, b"")).expect_gone_in_silence();
    let refused = || ambassador.logged(|line| line["message"] == "connection failed");
    eventually("both are told", || refused().len() == 2);
    let refused = refused();
    let refused: Vec<_> = refused.iter().map(|line| (text(line, "client"), text(line, "remedy"))).collect();
    assert_eq!(refused[0].0, "198.51.100.9:1");
    assert!(refused[1].0.starts_with("127.0.0.1:") && refused[1].1.contains("health checks"), "{refused:?}");
    // A balancer over a Unix socket names addresses too.
    announced(Launch::plain(target.address()))
        .variable("DB_LISTEN", "unix:/run/redis-ambassador/db.sock")
        .variable("DB_ALLOW", "192.0.2.0/24")
        .wiring();
    let refusal = begin("redis:6379", &of_client("198.51.100.9:1")).expect_refusal("redis:6379");
    assert!(refusal.contains("198.51.100.9 is not allowed"), "{refusal}");
    begin("redis:6379", &binary(0x20, 0, b"")).expect(b"PING\r\n");
}

/// Whom `ALLOW` refuses is gone at once: no TLS handshake is waited for, and nobody's place is held by one who stays.
#[test]
fn who_is_not_allowed_is_gone_at_once() {
    let target = Target::start().echo();
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let ambassador = announced(Launch::redis(target.address()))
        .redis_link("SAFE", target.address())
        .variable("SAFE_LISTEN_PROXY_PROTOCOL", "true")
        .listen_tls("SAFE", &identity)
        .variable("SAFE_ALLOW", "192.0.2.0/24")
        .variable("SAFE_CONNECT_TIMEOUT", "5m")
        .variable("REDIS_ALLOW", "192.0.2.0/24")
        .variable("REDIS_MAX_CONNECTIONS", "1")
        .start();
    let (stranger, known) = (of_client("198.51.100.9:1"), of_client("192.0.2.9:1"));
    // It has begun no handshake.
    let mut refused = ambassador.connect("safe:6379");
    refused.send(&stranger);
    refused.expect_gone_in_silence();
    let told = ambassador.wait_for("connection failed");
    assert_eq!(text(&told, "client"), "198.51.100.9:1", "{told}");

    let begun = Instant::now();
    let rounds = 4;
    let _stay: Vec<_> = (0..rounds)
        .map(|_| {
            let mut refused = ambassador.connect("redis:6379");
            refused.send(&stranger);
            let refusal = refused.expect_refusal("redis:6379");
            assert!(refusal.contains("198.51.100.9 is not allowed"), "{refusal}");
            eventually("there is a place", || {
                let mut client = ambassador.connect("redis:6379");
                client.send(&[&known[..], b"PING\r\n"].concat());
                client.receive(1) == b"P"
            });
            refused
        })
        .collect();
    // Other refused clients have two seconds to go.
    assert!(begun.elapsed() < Duration::from_secs(rounds), "{:?}", begun.elapsed());
}

/// Debian's balancers in front, with what they send and when: `haproxy` in both versions, with its health checks, and `nginx`. The
/// client's TLS passes through behind the header.
#[test]
fn clients_come_through_haproxy_and_nginx() {
    let Some(server) = RedisServer::start("") else { return };
    let authority = Authority::new("Test CA");
    let [by_line, by_binary, over_tls, by_nginx] = [(); 4].map(|()| own_address());
    let identity = authority.issue(&[&over_tls.ip().to_string()]);
    let ambassador = announced(Launch::redis(server.address()))
        .redis_link("SAFE", server.address())
        .variable("SAFE_LISTEN_PROXY_PROTOCOL", "true")
        .listen_tls("SAFE", &identity)
        .start();
    let (redis, safe) = (ambassador.address("redis:6379"), ambassador.address("safe:6379"));
    let Some(_haproxy) = Balancer::haproxy(&[
        listen(by_line, "", redis, "send-proxy check inter 100"),
        listen(by_binary, "", redis, "send-proxy-v2 proxy-v2-options crc32c,unique-id check inter 100"),
        listen(over_tls, "", safe, "send-proxy-v2"),
    ]) else {
        return;
    };
    let server = format!("server {{ listen {by_nginx}; proxy_pass {redis}; proxy_protocol on; }}");
    let Some(_nginx) = Balancer::nginx(&[(by_nginx, server)]) else { return };
    for address in [by_line, by_binary, by_nginx] {
        let mut client = Peer::connect_from(Ipv4Addr::new(127, 9, 8, 7), address);
        let own = client.local_address().to_string();
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        ambassador.wait_for_log("who it was", |line| {
            line["message"] == "connection opened" && line["client"] == own.as_str()
        });
    }
    let client = Peer::connect_from(Ipv4Addr::new(127, 9, 8, 7), by_binary);
    eventually("it is known by its address", || {
        let state = get(ambassador.admin(), "/links").link("redis:6379");
        let known = |known: &Value| known["address"] == "127.9.8.7" && known["name"].is_null();
        state["clients"].as_array().is_some_and(|clients| clients.iter().any(known))
    });
    drop(client);
    let mut client = TlsPeer::connect(over_tls, &authority.client(None));
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    // Health checks have gone on all the time.
    eventually("health checks", || {
        ambassador.logged(|line| line["message"] == "client announced").len() > 20
    });
    let failed = ambassador.logged(|line| line["message"] == "connection failed");
    assert!(failed.is_empty(), "{failed:?}");
}

/// Debian's balancers behind, which take a header of either version and over either family, before the TLS where there is any,
/// and pass on whom it names.
#[test]
fn haproxy_and_nginx_are_told_who_the_client_is() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let (certificate, key) = (identity.certificate.display(), identity.key.display());
    let told = "return \"$proxy_protocol_addr $proxy_protocol_port $proxy_protocol_server_port\\n\";";
    let [plain, secure, haproxy] = [(); 3].map(|()| own_address());
    let of_plain = format!("server {{ listen {plain} proxy_protocol; {told} }}");
    let of_secure = format!(
        "server {{ listen {secure} ssl proxy_protocol; ssl_certificate {certificate}; ssl_certificate_key {key}; {told} }}"
    );
    let Some(_nginx) = Balancer::nginx(&[(plain, of_plain), (secure, of_secure)]) else { return };
    let behind = Target::start();
    let of_haproxy = listen(haproxy, "accept-proxy", behind.address(), "send-proxy");
    let Some(_haproxy) = Balancer::haproxy(&[of_haproxy]) else { return };
    for version in ["v1", "v2"] {
        let ambassador = Launch::plain(plain)
            .plain_link("SAFE", secure)
            .plain_link("HAPROXY", haproxy)
            .variable("SAFE_PORT_5432_TCP", format!("tls://{secure}"))
            .variable("SAFE_TLS_CA_FILE", authority.file())
            .variable("SAFE_TLS_SERVER_NAME", "127.0.0.1")
            .variable("DB_LISTEN", "localhost:0")
            .variable("DB_PROXY_PROTOCOL", version)
            .variable("SAFE_PROXY_PROTOCOL", version)
            .variable("HAPROXY_PROXY_PROTOCOL", version)
            .start();
        for link in ["db:5432", "safe:5432"] {
            let mut client = Peer::connect_from(Ipv4Addr::new(127, 9, 8, 7), listens(&ambassador, link));
            let port = client.local_address().port();
            let to = listens(&ambassador, link).port();
            client.expect(format!("127.9.8.7 {port} {to}\n").as_bytes());
        }
        let six = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), listens(&ambassador, "db:5432").port());
        if let Ok(mut client) = Peer::try_connect(six) {
            let port = client.local_address().port();
            client.expect(format!("::1 {port} {}\n", six.port()).as_bytes());
        }
        let client = Peer::connect_from(Ipv4Addr::new(127, 9, 8, 7), ambassador.address("haproxy:5432"));
        let (port, to) = (client.local_address().port(), ambassador.address("haproxy:5432").port());
        let mut upstream = behind.accept();
        upstream.expect(format!("PROXY TCP4 127.9.8.7 127.0.0.1 {port} {to}\r\n").as_bytes());
    }
}

/// A session whose upstream goes tells the next one too. What it tells comes from the balancer that it came through; a client
/// over a Unix socket has no address to tell of.
#[test]
fn each_upstream_of_a_session_is_told() {
    let target = Target::start();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("in.sock");
    let ambassador = announced(Launch::redis(target.address()))
        .variable("REDIS_LISTEN", format!("127.0.0.1:0,unix:{}", path.display()))
        .variable("REDIS_PROXY_PROTOCOL", "v2")
        .start();
    let ping = command(&[b"PING"]);
    let header = of_client("192.0.2.7:50001");
    let mut client = connect(&ambassador, "redis:6379");
    client.send(&header);
    for name in [b"one", b"two"] {
        client.send(b"GET k\r\n");
        let mut upstream = target.accept();
        upstream.expect(&[&header[..], &ping].concat());
        upstream.send(b"+PONG\r\n");
        upstream.expect(b"GET k\r\n");
        upstream.send(&[b"+", &name[..], b"\r\n"].concat());
        client.expect(&[b"+", &name[..], b"\r\n"].concat());
    }
    let mut local = Peer::connect_unix(&path);
    local.send(&[&binary(0x20, 0, b"")[..], b"GET k\r\n"].concat());
    target.accept().expect(&binary(0x21, 0x31, &[0; 216]));
}

/// A Redis that refuses the PING behind the header for a reason of its own has read that: the client is served.
#[test]
fn a_server_that_is_of_no_use_for_a_moment_has_read_the_header() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_PROXY_PROTOCOL", "v2").start();
    for words in ["-MISCONF Errors writing to the AOF file\r\n", "-LOADING Redis is loading\r\n"] {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"GET k\r\n");
        let mut upstream = target.accept();
        upstream.receive_until(b"PING\r\n");
        upstream.send(words.as_bytes());
        upstream.expect(b"GET k\r\n");
        upstream.send(b"+value\r\n");
        client.expect(b"+value\r\n");
    }
}

/// Nodes of a cluster have listeners of the same kind, and clients hear of the address that they had dialled: they come back by
/// way of the balancer.
#[test]
fn nodes_of_a_cluster_are_reached_through_the_balancer_too() {
    let password = password();
    let Some(cluster) = Cluster::start(&password) else { return };
    let at = own_address().ip();
    let ambassador = announced(Launch::new())
        .variable("REDIS_PORT_6379_TCP", cluster.target())
        .variable("REDIS_AUTH", &password)
        .variable("REDIS_LISTEN", format!("{at}:0"))
        .variable("REDIS_CLUSTER_PORTS", "7100-7115")
        .start();
    let nodes = || ambassador.logged(|line| line["message"] == "node listening");
    eventually("the nodes have listeners", || nodes().len() == 6);
    let node = address(text(&nodes()[0], "listen"));
    for address in [ambassador.address("redis:6379"), node] {
        let mut client = Peer::connect(address);
        client.send(&of_client("192.0.2.7:50001"));
        client.send(&command(&[b"CLUSTER", b"SLOTS"]));
        client.expect(b"*");
        client.receive_until(b"$11\r\n203.0.113.1\r\n:71");
        let mut stranger = Peer::connect(address);
        stranger.send(b"PING\r\n");
        assert!(stranger.expect_refusal("redis:6379").contains("PROXY protocol"));
    }
}

/// What the ambassador dials for itself is announced as its own: `check`, and dials that find out whether the link works. One
/// ambassador understands what another one says.
#[test]
fn what_is_dialled_for_nobody_says_so() {
    let Some(server) = RedisServer::start("requirepass secret") else { return };
    let far = announced(Launch::redis(server.address())).start();
    for version in ["v1", "v2"] {
        let near = || {
            Launch::redis(far.address("redis:6379"))
                .variable("REDIS_AUTH", "secret")
                .variable("REDIS_PROXY_PROTOCOL", version)
        };
        let checked = near().argument("check").finish();
        assert_eq!(checked.code, Some(0), "{}{}", checked.stdout, checked.stderr);
        let near = near().start();
        let state = get(near.admin(), "/links?dial").link("redis:6379");
        assert_eq!(state["last_dial"]["worked"], true, "{state}");
        let mut client = Peer::connect_from(Ipv4Addr::new(127, 9, 8, 7), near.address("redis:6379"));
        let own = client.local_address().to_string();
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        far.wait_for_log("who it was", |line| {
            line["message"] == "connection opened" && line["client"] == own.as_str()
        });
    }
    let failed = far.logged(|line| line["message"] == "connection failed");
    assert!(failed.is_empty(), "{failed:?}");
}

/// A Redis server takes the header for commands, and would answer them: no client ever reads that as the answer to a command of
/// its own. What is told names the setting.
#[test]
fn a_target_that_expects_no_header_serves_nobody() {
    for configuration in ["", "requirepass secret"] {
        let Some(server) = RedisServer::start(configuration) else { return };
        for version in ["v1", "v2"] {
            let launch = || {
                let launch = Launch::redis(server.address())
                    .variable("REDIS_PROXY_PROTOCOL", version)
                    .variable("REDIS_CONNECT_TIMEOUT", "500ms");
                if configuration.is_empty() { launch } else { launch.variable("REDIS_AUTH", "secret") }
            };
            let ambassador = launch().start();
            let mut client = ambassador.connect("redis:6379");
            client.send(b"SET k v\r\n");
            client.expect_refusal("redis:6379");
            let told = ambassador.wait_for("connection failed");
            assert!(text(&told, "remedy").contains("REDIS_PROXY_PROTOCOL"), "{version}: {told}");
            let checked = launch().argument("check").finish();
            assert_eq!(checked.code, Some(1), "{}", checked.stdout);
            assert!(checked.stdout.contains("REDIS_PROXY_PROTOCOL"), "{version}: {}", checked.stdout);
        }
    }
}

/// What is told of an ambassador that waits in vain for a header names the setting here, and not a circle.
#[test]
fn an_ambassador_that_expects_a_header_is_known_by_its_words() {
    let target = Target::start();
    let far = announced(Launch::redis(target.address())).start();
    let near = || Launch::redis(far.address("redis:6379")).variable("REDIS_AUTH", "secret");
    let ambassador = near().start();
    let refusal = ambassador.connect("redis:6379").expect_refusal("redis:6379");
    assert!(refusal.contains("PROXY protocol"), "{refusal}");
    let told = ambassador.wait_for("connection failed");
    assert!(text(&told, "remedy").starts_with("set REDIS_PROXY_PROTOCOL=v2"), "{told}");
    let checked = near().argument("check").finish();
    assert!(checked.stdout.contains("set REDIS_PROXY_PROTOCOL=v2"), "{}", checked.stdout);
}

/// Connections that are nobody's yet or everybody's can't be announced, and values that are none are told, all at once.
#[test]
fn what_can_not_be_announced_is_a_mistake() {
    let finished = Launch::redis(own_address())
        .redis_link("SHARED", own_address())
        .redis_link("OTHER", own_address())
        .variable("REDIS_PROXY_PROTOCOL", "v2")
        .variable("REDIS_WARM", "2")
        .variable("SHARED_PROXY_PROTOCOL", "v1")
        .variable("SHARED_SHARE", "1")
        .variable("OTHER_PROXY_PROTOCOL", "true")
        .variable("OTHER_LISTEN_PROXY_PROTOCOL", "v2")
        .argument("links")
        .finish();
    for (variable, words) in [
        ("REDIS_WARM", "REDIS_PROXY_PROTOCOL"),
        ("SHARED_SHARE", "SHARED_PROXY_PROTOCOL"),
        ("OTHER_PROXY_PROTOCOL", "neither v1 nor v2"),
        ("OTHER_LISTEN_PROXY_PROTOCOL", "neither true nor false"),
    ] {
        let mistake = finished.expect_mistake(variable);
        assert!(mistake.contains(words), "{mistake}");
    }
}
