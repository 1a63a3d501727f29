//! TLS towards the target and for clients: who is let in, what a certificate and a key may look like, how streams end.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::SocketAddr;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, SystemTime};

use rcgen::{KeyPair, PKCS_ED25519, date_time_ymd};
use rustix::process::Signal;
use rustls::version::{TLS12, TLS13};
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::support::{
    Ambassador, Authority, Identity, Launch, Peer, RedisServer, SERVER_NAME, Target, TlsPeer, command,
    command_is_missing, eventually, fixture, noise, openssl, password, redis_over_tls,
};

/// A link `redis:6379` over TLS to a target with the name that [`redis_over_tls`] gives it.
pub(crate) fn launch_over_tls(target: SocketAddr, authority: &Authority) -> Launch {
    Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("rediss://{target}"))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .variable("REDIS_TLS_CA_FILE", authority.file())
        .variable("REDIS_TLS_SERVER_NAME", SERVER_NAME)
}

#[track_caller]
fn expect_pong(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// A target on 127.0.0.1 that speaks TLS, echoes, and says of each connection what `look` sees after the handshake.
fn tls_echo<T: Send + 'static>(
    config: std::sync::Arc<rustls::ServerConfig>,
    look: impl Fn(&TlsPeer) -> T + Send + Sync + 'static,
) -> (impl Drop, SocketAddr, mpsc::Receiver<T>) {
    let (seen, looked) = mpsc::channel();
    let served = Target::start().serve(move |peer| {
        if let Ok(mut peer) = TlsPeer::accept(peer, &config) {
            let _ = seen.send(look(&peer));
            let mut buffer = [0; 1024];
            while let Ok(length @ 1..) = peer.read(&mut buffer) {
                let _ = peer.write_all(&buffer[..length]);
            }
        }
    });
    let address = served.address();
    (served, address, looked)
}

/// A managed Redis: TLS and a password, for a client that knows of neither.
#[test]
fn a_redis_that_wants_tls_and_a_password_serves_a_client_that_has_neither() {
    let authority = Authority::new("Test CA");
    let password = password();
    let configuration = format!("tls-auth-clients no\nrequirepass {password}");
    let Some((_server, address)) = redis_over_tls(&authority, &configuration) else { return };
    let ambassador = launch_over_tls(address, &authority).variable("REDIS_AUTH", &password).start();
    let mut client = ambassador.connect("redis:6379");
    expect_pong(&mut client);
    let value = "v".repeat(1 << 20);
    client.send(&command(&[b"SET", b"k", value.as_bytes()]));
    client.expect(b"+OK\r\n");
    client.send(&command(&[b"GET", b"k"]));
    client.expect(format!("${}\r\n{value}\r\n", value.len()).as_bytes());
}

/// Docker writes `tcp://`; one setting puts TLS on it.
#[test]
fn a_docker_link_speaks_tls_where_it_is_told_to() {
    let authority = Authority::new("Test CA");
    let password = password();
    let configuration = format!("tls-auth-clients no\nrequirepass {password}");
    let Some((_server, address)) = redis_over_tls(&authority, &configuration) else { return };
    let ambassador = launch_over_tls(address, &authority)
        .variable("REDIS_PORT_6379_TCP", format!("tcp://{address}"))
        .variable("REDIS_TLS", "true")
        .variable("REDIS_AUTH", &password)
        .start();
    expect_pong(&mut ambassador.connect("redis:6379"));
}

/// RSA, ECDSA and Ed25519 keys, in each of the forms that programs write them.
#[test]
fn a_redis_without_a_password_lets_in_who_has_a_certificate_with_a_key_of_any_form() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "tls-auth-clients yes") else { return };
    let path = |name: &str| authority.path(name).display().to_string();
    let (rsa, rsa_pkcs1) = (path("rsa.pem"), path("rsa-pkcs1.pem"));
    openssl(&["genpkey", "-quiet", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048", "-out", &rsa]);
    openssl(&["rsa", "-in", &rsa, "-traditional", "-out", &rsa_pkcs1]);
    let rsa_key = || KeyPair::from_pem(&fs::read_to_string(&rsa).unwrap()).unwrap();
    let ecdsa = authority.issue(&["client"]);
    let sec1 = path("sec1.pem");
    let parameters = openssl(&["ecparam", "-name", "prime256v1"]);
    openssl(&["ec", "-in", ecdsa.key.to_str().unwrap(), "-out", &sec1]);
    // As `openssl ecparam -genkey` writes it, with the curve in front.
    fs::write(&sec1, parameters + &fs::read_to_string(&sec1).unwrap()).unwrap();
    let with_key = |identity: &Identity, key: &str| Identity { key: key.into(), ..identity.clone() };
    let rsa_identity = authority.issue_with(&["client"], &rsa_key(), |_| {});
    let identities = [
        ("BEGIN PRIVATE KEY", ecdsa.clone()),
        ("BEGIN EC PRIVATE KEY", with_key(&ecdsa, &sec1)),
        ("BEGIN PRIVATE KEY", rsa_identity.clone()),
        ("BEGIN RSA PRIVATE KEY", with_key(&rsa_identity, &rsa_pkcs1)),
        (
            "BEGIN PRIVATE KEY",
            authority.issue_with(&["client"], &KeyPair::generate_for(&PKCS_ED25519).unwrap(), |_| {}),
        ),
    ];
    for (form, identity) in identities {
        assert!(fs::read_to_string(&identity.key).unwrap().contains(form), "{form}");
        let ambassador = launch_over_tls(address, &authority).tls_identity("REDIS", &identity).start();
        expect_pong(&mut ambassador.connect("redis:6379"));
    }
}

/// `tls://` carries anything: here lines to a stranger that turns them round.
#[test]
fn a_plain_tunnel_over_tls_reaches_openssls_server() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["localhost"]);
    let server = OpensslServer::start(&identity, &["-rev"]);
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .variable("DB_TLS_SERVER_NAME", "localhost")
        .variable("DB_TLS_CA_FILE", authority.file())
        .start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"desrever\n");
    client.expect(b"reversed\n");
}

/// The server is asked for by the host's name, or by the one that is set instead; by no name where the host is an address.
#[test]
fn the_server_is_asked_for_by_name_and_an_address_stands_in_its_certificate() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["localhost", "127.0.0.1", "other.test"]);
    let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
    let (_served, address, asked) = tls_echo(config, TlsPeer::asked_name);
    for (host, server_name, expected) in [
        ("localhost", None, Some("localhost")),
        ("127.0.0.1", None, None),
        ("127.0.0.1", Some("other.test"), Some("other.test")),
        ("localhost", Some("127.0.0.1"), None),
    ] {
        let mut launch = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{host}:{}", address.port()))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", authority.file());
        if let Some(server_name) = server_name {
            launch = launch.variable("DB_TLS_SERVER_NAME", server_name);
        }
        let ambassador = launch.start();
        let mut client = ambassador.connect("db:5432");
        client.send(b"x");
        client.expect(b"x");
        assert_eq!(asked.recv().unwrap().as_deref(), expected, "{host} {server_name:?}");
    }
}

/// The second dial takes up the session of the first, in both versions of TLS.
#[test]
fn the_second_dial_resumes_the_session_of_the_first() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let config = authority.server(&identity, false, &[version]);
        let (_served, address, resumed) = tls_echo(config, TlsPeer::is_resumed);
        let ambassador = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{address}"))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", authority.file())
            .start();
        for expected in [false, true, true] {
            let mut client = ambassador.connect("db:5432");
            client.send(b"x");
            client.expect(b"x");
            assert_eq!(resumed.recv().unwrap(), expected, "{version:?}");
        }
    }
}

/// And so do clients with us.
#[test]
fn a_client_resumes_its_session() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &identity)
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
        .start();
    for version in [&TLS12, &TLS13] {
        let config = authority.client_of_versions(Some(&identity), &[version]);
        for expected in [false, true] {
            let mut client = TlsPeer::connect(ambassador.address("db:5432"), &config);
            client.send(b"x");
            client.expect(b"x");
            assert_eq!(client.is_resumed(), expected, "{version:?}");
        }
    }
}

/// A certificate that expires lets nobody in any more, not even into a session that began before.
#[test]
fn a_session_is_not_resumed_beyond_the_certificate_that_it_began_with() {
    let authority = Authority::new("Test CA");
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &authority.issue(&["127.0.0.1"]))
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
        .start();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let brief = authority.issue_with(&["client"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(1970, 1, 1) + now + Duration::from_secs(3);
    });
    let config = authority.client(Some(&brief));
    let mut resumed = 0;
    eventually("the certificate's end", || {
        let Ok(mut client) = TlsPeer::try_connect(ambassador.address("db:5432"), &config) else {
            return true;
        };
        resumed += usize::from(client.is_resumed());
        client.write_all(b"x").and_then(|()| client.read_exact(&mut [0])).is_err()
    });
    assert!(resumed > 0, "no session was resumed");
    let line = ambassador.wait_for("connection failed");
    assert!(line["error"].as_str().unwrap().contains("expired on"), "{line}");
}

/// Where verification is turned off, every start says so, and so does `links`.
#[test]
fn an_unverified_target_is_warned_of_at_every_start_and_in_links() {
    let stranger = Authority::new("Stranger");
    let identity = stranger.issue(&["elsewhere.test"]);
    let (_served, address, _) = tls_echo(stranger.server(&identity, false, rustls::ALL_VERSIONS), |_| ());
    for (variable, value) in [("DB_TLS_VERIFY", "none"), ("DB_TLS_INSECURE", "true")] {
        let launch = || {
            Launch::new()
                .variable("DB_PORT_5432_TCP", format!("tls://{address}"))
                .variable("DB_LISTEN", "127.0.0.1:0")
                .variable(variable, value)
        };
        let ambassador = launch().start();
        ambassador.wait_for_log("a warning", |line| line["level"] == "WARN" && line["variable"] == variable);
        expect_echo(&ambassador);
        let wiring = launch().wiring();
        assert_eq!(wiring["warnings"][0]["variable"], variable, "{wiring}");
        assert_eq!(wiring["links"][0]["tls_verify"], "none", "{wiring}");
        let table = launch().argument("links").finish().stdout;
        assert!(table.contains("to the target, verify none"), "{table}");
    }
}

#[track_caller]
fn expect_echo(ambassador: &Ambassador) {
    let mut client = ambassador.connect("db:5432");
    client.send(b"x");
    client.expect(b"x");
}

/// A managed server's certificate often has a name that nobody dials: its authority alone is enough where that is said, and
/// nothing less.
#[test]
fn the_authority_alone_is_enough_where_that_is_said() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let expired = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2021, 3, 4);
    });
    let own = authority.issue(&["elsewhere.test"]);
    let strangers = stranger.issue(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        for (identity, verify, refusal) in [
            (&own, "ca", None),
            (&own, "full", Some("is for elsewhere.test, not for 127.0.0.1")),
            (&strangers, "ca", Some("unknown authority")),
            (&expired, "ca", Some("expired on 2021-03-04")),
        ] {
            let config = authority.server(identity, false, &[version]);
            let (_served, address, _) = tls_echo(config, |_| ());
            let launch = || {
                Launch::new()
                    .variable("DB_PORT_5432_TCP", format!("tls://{address}"))
                    .variable("DB_LISTEN", "127.0.0.1:0")
                    .variable("DB_TLS_CA_FILE", authority.file())
                    .variable("DB_TLS_VERIFY", verify)
            };
            let ambassador = launch().start();
            if let Some(words) = refusal {
                ambassador.connect("db:5432").expect_gone();
                let line = ambassador.wait_for("connection failed");
                assert!(line["error"].as_str().unwrap().contains(words), "{line}");
                continue;
            }
            expect_echo(&ambassador);
            let wiring = launch().wiring();
            assert_eq!(wiring["links"][0]["tls_verify"], verify, "{wiring}");
            assert_eq!(wiring["warnings"], Value::Array(Vec::new()), "{wiring}");
            let table = launch().argument("links").finish().stdout;
            assert!(table.contains("to the target, verify ca"), "{table}");
        }
    }
}

/// Of a public authority anybody has a certificate.
#[test]
fn the_systems_authorities_alone_are_warned_of() {
    let authority = Authority::new("Test CA");
    let wiring = Launch::new()
        .variable("DB_PORT_5432_TCP", "tls://db:5432")
        .variable("SSL_CERT_FILE", authority.file())
        .variable("DB_TLS_VERIFY", "ca")
        .wiring();
    assert_eq!(wiring["warnings"][0]["variable"], "DB_TLS_VERIFY", "{wiring}");
    assert!(wiring["warnings"][0]["message"].as_str().unwrap().contains("DB_TLS_CA_FILE"), "{wiring}");
}

/// The setting for a port wins, however it is written; both ways may say the same.
#[test]
fn what_is_verified_may_be_written_in_either_way_and_for_a_port() {
    let authority = Authority::new("Test CA");
    for (variables, verify) in [
        (&[][..], "full"),
        (&[("DB_TLS_VERIFY", "full")], "full"),
        (&[("DB_TLS_INSECURE", "false")], "full"),
        (&[("DB_TLS_INSECURE", "false"), ("DB_TLS_VERIFY", "ca")], "ca"),
        (&[("DB_TLS_INSECURE", "true"), ("DB_TLS_VERIFY", "none")], "none"),
        (&[("DB_TLS_INSECURE", "true"), ("DB_PORT_5432_TLS_VERIFY", "full")], "full"),
        (&[("DB_PORT_5432_TLS_INSECURE", "true"), ("DB_TLS_VERIFY", "full")], "none"),
        (&[("DB_PORT_5432_TLS_VERIFY", "ca"), ("DB_TLS_VERIFY", "none")], "ca"),
    ] {
        let launch = Launch::new()
            .variable("DB_PORT_5432_TCP", "tls://db:5432")
            .variable("DB_TLS_CA_FILE", authority.file());
        let launch = variables.iter().fold(launch, |launch, (name, value)| launch.variable(name, value));
        assert_eq!(launch.wiring()["links"][0]["tls_verify"], verify, "{variables:?}");
    }
}

/// Without a file of authorities the system's are believed.
#[test]
fn without_a_file_of_authorities_the_systems_are_believed() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let (_served, address, _) = tls_echo(authority.server(&identity, false, rustls::ALL_VERSIONS), |_| ());
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{address}"))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .variable("SSL_CERT_FILE", authority.file())
        .start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"x");
    client.expect(b"x");
}

/// Redis' own client, over TLS to the ambassador, which speaks plain Redis to the server.
#[test]
fn redis_cli_speaks_tls_to_the_ambassador() {
    if command_is_missing("redis-cli") {
        return;
    }
    let password = password();
    let Some(server) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .listen_tls("REDIS", &identity)
        .start();
    let output = Command::new("redis-cli")
        .args([
            "-h",
            "127.0.0.1",
            "-p",
            &ambassador.address("redis:6379").port().to_string(),
            "--tls",
            "--cacert",
        ])
        .arg(authority.file())
        .arg("ping")
        .output()
        .unwrap();
    assert_eq!(output.stdout, b"PONG\n", "{}", String::from_utf8_lossy(&output.stderr));
}

/// A stranger's TLS, in both versions; and whatever protocol it offers is neither taken up nor held against it.
#[test]
fn openssls_client_is_served_in_both_versions_and_its_alpn_left_alone() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).listen_tls("DB", &identity).start();
    for version in ["-tls1_2", "-tls1_3"] {
        let mut client = OpensslClient::start(
            ambassador.address("db:5432"),
            &["-CAfile", authority.file().to_str().unwrap(), "-verify_return_error", version, "-alpn", "h2"],
        );
        client.input.as_mut().unwrap().write_all(b"hello\n").unwrap();
        let mut said = String::new();
        // Before the echo stands all that openssl has to say of the handshake.
        while !said.ends_with("hello\n") {
            assert!(client.output.read_line(&mut said).unwrap() > 0, "{said}");
        }
        assert!(said.contains("No ALPN negotiated"), "{said}");
        assert!(said.contains("Verification: OK"), "{said}");
    }
}

/// With authorities for clients, nobody whom they do not vouch for gets a connection to the target.
#[test]
fn nobody_without_a_certificate_gets_a_connection_with_our_credentials() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .listen_tls("REDIS", &identity)
        .variable("REDIS_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
        .start();
    let address = ambassador.address("redis:6379");
    let strangers_identity = stranger.issue(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        for identity in [None, Some(&strangers_identity)] {
            // In TLS 1.3 a client takes itself for served before the server has looked at its certificate.
            let gone = TlsPeer::try_connect(address, &authority.client_of_versions(identity, &[version]))
                .and_then(|mut peer| peer.read(&mut [0]).map(|_| ()));
            assert!(gone.is_err(), "{version:?}");
        }
    }
    let mut plain = ambassador.connect("redis:6379");
    plain.send(b"PING\r\n");
    plain.expect_gone();
    target.expect_no_connection(Duration::from_millis(200));

    let _client = TlsPeer::connect(address, &authority.client(Some(&identity)));
    target.accept().expect(b"*2\r\n$4\r\nAUTH\r\n");
}

/// A client that connects and says nothing is given up with the connect timeout.
#[test]
fn a_stalled_handshake_ends_with_the_connect_timeout() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &authority.issue(&["127.0.0.1"]))
        .variable("DB_CONNECT_TIMEOUT", "200ms")
        .start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"\x16\x03\x01");
    client.expect_gone();
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["stage"], "tls", "{line}");
    assert!(
        line["error"].as_str().unwrap().contains("did not finish the TLS handshake within 200ms"),
        "{line}"
    );
}

/// Neither a thread nor the accept loop waits for them.
#[test]
fn a_thousand_stalled_handshakes_do_not_hold_up_a_working_client() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &identity)
        .variable("DB_CONNECT_TIMEOUT", "1h")
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    let before = ambassador.descriptors();
    let address = ambassador.address("db:5432");
    let stalled: Vec<_> = (0..1000)
        .map(|number| {
            let mut client = Peer::connect(address);
            // Some say nothing, some the beginning of a hello.
            client.send(&b"\x16\x03\x01\x02\x00\x01"[..number % 7]);
            client
        })
        .collect();
    let mut client = TlsPeer::connect(address, &authority.client(None));
    client.send(b"served");
    client.expect(b"served");
    assert!(ambassador.descriptors() >= before + stalled.len(), "they are not there any more");
}

/// Over TLS too, the line that says why arrives whole, with a goodbye, whatever the client has sent before.
#[test]
fn a_refusal_line_arrives_over_tls_even_when_the_client_has_already_sent() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start().serve(|mut peer| {
        peer.receive(20);
        let _ = peer.try_send(fixture("replies/redis-6.0/wrongpass.resp"));
        peer.expect_gone();
    });
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .listen_tls("REDIS", &identity)
        .start();
    for version in [&TLS12, &TLS13] {
        let config = authority.client_of_versions(None, &[version]);
        let mut client = TlsPeer::connect(ambassador.address("redis:6379"), &config);
        client.send(&noise(1, 100 << 10));
        let line = String::from_utf8(client.expect_rest()).unwrap();
        assert!(line.starts_with("-ERR redis-ambassador: redis:6379: ") && line.ends_with("\r\n"), "{line}");
        assert!(line.contains("WRONGPASS"), "{line}");
    }
}

/// One client too many can read why, once its handshake is done.
#[test]
fn a_client_too_many_reads_so_over_tls() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_MAX_CONNECTIONS", "1")
        .listen_tls("REDIS", &identity)
        .start();
    let config = authority.client(None);
    let _first = TlsPeer::connect(ambassador.address("redis:6379"), &config);
    let _server = target.accept();
    let mut second = TlsPeer::connect(ambassador.address("redis:6379"), &config);
    assert_eq!(second.expect_rest(), fixture("replies/redis-7.0/max-clients.resp"));
}

/// Two ambassadors with TLS between them, in front of `target`.
struct Chain {
    near: Ambassador,
    far: Ambassador,
}

impl Chain {
    fn start(target: SocketAddr) -> Self {
        let authority = Authority::new("Test CA");
        let identity = authority.issue(&["127.0.0.1"]);
        let far = Launch::plain(target)
            .listen_tls("DB", &identity)
            .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
            .start();
        let near = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", far.address("db:5432")))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", authority.file())
            .tls_identity("DB", &identity)
            .start();
        Self { near, far }
    }

    fn pair(&self, target: &Target) -> (Peer, Peer) {
        let client = self.near.connect("db:5432");
        (client, target.accept())
    }
}

fn send_and_hash(mut peer: Peer, seed: u64, length: usize) -> Vec<u8> {
    let mut block = noise(seed, 256 << 10);
    let mut hash = Sha256::new();
    for number in 0..length / block.len() {
        block[..8].copy_from_slice(&number.to_le_bytes());
        hash.update(&block);
        peer.send(&block);
    }
    peer.finish_sending();
    hash.finalize().to_vec()
}

fn receive_and_hash(peer: &mut Peer) -> (usize, Vec<u8>) {
    let mut buffer = vec![0; 256 << 10];
    let (mut hash, mut length) = (Sha256::new(), 0);
    loop {
        match peer.read(&mut buffer).expect("bytes or a clean end") {
            0 => return (length, hash.finalize().to_vec()),
            more => {
                hash.update(&buffer[..more]);
                length += more;
            }
        }
    }
}

/// 64 MiB each way at once, each side ending its own stream, over TLS on both sides of an ambassador.
#[test]
fn bulk_data_both_ways_over_tls_arrive_unchanged_with_each_sides_end() {
    const LENGTH: usize = 64 << 20;
    let target = Target::start();
    let chain = Chain::start(target.address());
    let (mut client, mut server) = chain.pair(&target);
    let (client_sender, server_sender) = (client.handle(), server.handle());
    thread::scope(|scope| {
        let up = scope.spawn(|| send_and_hash(client_sender, 1, LENGTH));
        let down = scope.spawn(|| send_and_hash(server_sender, 2, LENGTH));
        let up_received = scope.spawn(move || receive_and_hash(&mut server));
        let down_received = receive_and_hash(&mut client);
        assert_eq!(up_received.join().unwrap(), (LENGTH, up.join().unwrap()));
        assert_eq!(down_received, (LENGTH, down.join().unwrap()));
    });
}

/// One side's end is passed on while the other goes on speaking, in either direction.
#[test]
fn an_end_goes_through_tls_and_the_other_direction_goes_on() {
    let target = Target::start();
    let chain = Chain::start(target.address());
    let (mut client, mut server) = chain.pair(&target);
    client.send(b"the whole question");
    client.finish_sending();
    assert_eq!(server.expect_rest(), b"the whole question");
    let reply = noise(3, 4 << 20);
    thread::scope(|scope| {
        scope.spawn(|| {
            server.send(&reply);
            drop(server);
        });
        assert!(client.expect_rest() == reply, "the reply is another one");
    });

    let (mut client, mut server) = chain.pair(&target);
    server.send(b"all that I had to say");
    server.finish_sending();
    assert_eq!(client.expect_rest(), b"all that I had to say");
    client.send(b"so be it");
    client.finish_sending();
    assert_eq!(server.expect_rest(), b"so be it");
}

/// A reset of either side goes through TLS as a reset.
#[test]
fn a_reset_goes_through_tls() {
    let target = Target::start();
    let chain = Chain::start(target.address());
    let (mut client, mut server) = chain.pair(&target);
    client.send(b"half a mess");
    server.expect(b"half a mess");
    client.reset();
    server.expect_reset();

    let (mut client, mut server) = chain.pair(&target);
    server.send(b"half a mess");
    client.expect(b"half a mess");
    server.reset();
    client.expect_reset();
}

/// A connection over TLS that both sides have ended leaves nothing open.
#[test]
fn a_connection_over_tls_that_has_ended_leaves_no_descriptor_behind() {
    let target = Target::start();
    let chain = Chain::start(target.address());
    let before = (chain.near.descriptors(), chain.far.descriptors());
    for _ in 0..20 {
        let (mut client, mut server) = chain.pair(&target);
        client.send(b"x");
        server.expect(b"x");
        drop(client);
        server.expect_end();
    }
    eventually("every descriptor closed", || {
        chain.near.descriptors() <= before.0 && chain.far.descriptors() <= before.1
    });
}

/// A client's stream that ends without a goodbye may have been cut by anyone: the target sees a reset, not an end.
#[test]
fn a_clients_truncation_is_a_reset_for_the_target() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let ambassador =
        Launch::plain(target.address()).listen_tls("DB", &authority.issue(&["127.0.0.1"])).start();
    for version in [&TLS12, &TLS13] {
        let config = authority.client_of_versions(None, &[version]);
        let mut client = TlsPeer::connect(ambassador.address("db:5432"), &config);
        let mut server = target.accept();
        client.send(b"half a mess");
        server.expect(b"half a mess");
        client.truncate();
        server.expect_reset();

        // And with a goodbye it is an end.
        let mut client = TlsPeer::connect(ambassador.address("db:5432"), &config);
        let mut server = target.accept();
        client.send(b"a message");
        client.finish_sending();
        assert_eq!(server.expect_rest(), b"a message");
        server.send(b"a reply");
        drop(server);
        assert_eq!(client.expect_rest(), b"a reply");
    }
}

/// And the other way round.
#[test]
fn a_targets_truncation_is_a_reset_for_the_client() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    for version in [&TLS12, &TLS13] {
        let target = Target::start();
        let config = authority.server(&identity, false, &[version]);
        let ambassador = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", target.address()))
            .variable("DB_LISTEN", "127.0.0.1:0")
            .variable("DB_TLS_CA_FILE", authority.file())
            .start();
        let mut client = ambassador.connect("db:5432");
        let mut server = TlsPeer::accept(target.accept(), &config).unwrap();
        server.send(b"half a mess");
        client.expect(b"half a mess");
        server.truncate();
        client.expect_reset();

        let mut client = ambassador.connect("db:5432");
        let mut server = TlsPeer::accept(target.accept(), &config).unwrap();
        server.send(b"a message");
        server.finish_sending();
        assert_eq!(client.expect_rest(), b"a message");
        client.send(b"a reply");
        client.finish_sending();
        assert_eq!(server.expect_rest(), b"a reply");
    }
}

/// Bytes that were on their way before a target broke still reach a client over TLS.
#[test]
fn the_last_words_of_a_target_that_resets_reach_a_client_over_tls() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let ambassador =
        Launch::plain(target.address()).listen_tls("DB", &authority.issue(&["127.0.0.1"])).start();
    let mut client = TlsPeer::connect(ambassador.address("db:5432"), &authority.client(None));
    let mut server = target.accept();
    server.send(b"last words");
    client.expect(b"last words");
    server.reset();
    client.expect_reset();
}

/// A client that does not read for a while costs little memory meanwhile, stops the target, and gets every byte.
#[test]
fn a_slow_reader_over_tls_stops_the_target_and_loses_nothing() {
    const MEMORY: usize = 6 << 20;
    let target = Target::start().with_small_buffers();
    let chain = Chain::start(target.address());
    let before = chain.near.memory() + chain.far.memory();
    let (mut client, mut server) = chain.pair(&target);
    let sent = server.send_until_it_blocks();
    let grown = (chain.near.memory() + chain.far.memory()).saturating_sub(before);
    assert!(grown < MEMORY, "{grown} bytes more for {sent} that wait");
    server.finish_sending();
    assert_eq!(client.expect_rest().len(), sent);
}

/// A drain says goodbye: a client over TLS sees a clean end.
#[test]
fn a_drain_says_goodbye_over_tls() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let ambassador =
        Launch::plain(target.address()).listen_tls("DB", &authority.issue(&["127.0.0.1"])).start();
    let mut client = TlsPeer::connect(ambassador.address("db:5432"), &authority.client(None));
    let mut server = target.accept();
    client.send(b"question");
    server.expect(b"question");
    server.send(b"answer");
    client.expect(b"answer");
    ambassador.signal(Signal::TERM);
    assert_eq!(client.expect_rest(), b"");
    server.expect_end();
    assert_eq!(ambassador.finish().code, Some(0));
}

/// `links` shows on which sides there is TLS, for programs and for people.
#[test]
fn links_shows_where_there_is_tls() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["localhost"]);
    let launch = |from: bool, to: bool| {
        let launch = Launch::new().variable("DB_PORT_5432_TCP", if to { "tls://db:1" } else { "tcp://db:1" });
        let launch = if to { launch.variable("DB_TLS_CA_FILE", authority.file()) } else { launch };
        if from { launch.listen_tls("DB", &identity) } else { launch }
    };
    for (from, to, shown) in [
        (false, false, "   -   "),
        (true, false, "from clients"),
        (false, true, "to the target"),
        (true, true, "both sides"),
    ] {
        let wiring = launch(from, to).wiring();
        assert_eq!(wiring["links"][0]["listen_tls"], from);
        assert_eq!(wiring["links"][0]["tls"], to);
        let table = launch(from, to).argument("links").finish().stdout;
        assert!(table.contains(shown), "{table}");
    }
}

/// Settings of TLS that would be without effect, halves of pairs, and files that are not what they should be are all
/// Variables, the one that is wrong, and why.
type Case<'a> = (&'a [(&'a str, &'a str)], &'a str, &'a str);

/// mistakes, and all are told at once.
#[test]
fn mistakes_in_tls_settings_are_told_with_all_others() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let (identity, other) = (authority.issue(&["localhost"]), authority.issue(&["localhost"]));
    let path = |name: &str| authority.path(name).display().to_string();
    let show = |path: &std::path::Path| path.display().to_string();
    fs::write(path("garbage"), "no PEM").unwrap();
    fs::write(path("broken"), "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let encrypted = path("encrypted");
    openssl(&["pkcs8", "-topk8", "-in", &show(&identity.key), "-passout", "pass:x", "-out", &encrypted]);
    let cert = show(&identity.certificate);
    let key = show(&identity.key);
    let none = path("none");
    let tls = ("DB_PORT_5432_TCP", "tls://db:5432");
    let plain = ("DB_PORT_5432_TCP", "tcp://db:5432");
    let ca = show(&authority.file());
    let known = ("DB_TLS_CA_FILE", ca.as_str());
    let cases: &[Case<'_>] = &[
        (&[plain, known], "DB_TLS_CA_FILE", "no TLS towards the target"),
        (&[plain, ("DB_TLS_SERVER_NAME", "x")], "DB_TLS_SERVER_NAME", "no TLS towards the target"),
        (
            &[plain, ("DB_TLS", "false"), ("DB_TLS_INSECURE", "true")],
            "DB_TLS_INSECURE",
            "no TLS towards the target",
        ),
        (
            &[plain, ("DB_PORT_5432_TLS_KEY_FILE", &key)],
            "DB_PORT_5432_TLS_KEY_FILE",
            "no TLS towards the target",
        ),
        (&[plain, ("DB_TLS", "maybe")], "DB_TLS", "neither true nor false"),
        (&[plain, ("DB_TLS_VERIFY", "ca")], "DB_TLS_VERIFY", "no TLS towards the target"),
        (&[tls, known, ("DB_TLS_VERIFY", "yes")], "DB_TLS_VERIFY", "neither full nor ca nor none"),
        (
            &[tls, known, ("DB_TLS_VERIFY", "full"), ("DB_TLS_INSECURE", "true")],
            "DB_TLS_INSECURE",
            "DB_TLS_VERIFY is full, and contradicts it",
        ),
        (
            &[tls, known, ("DB_TLS_VERIFY", "none"), ("DB_TLS_INSECURE", "false")],
            "DB_TLS_INSECURE",
            "DB_TLS_VERIFY is none, and contradicts it",
        ),
        (&[tls, known, ("DB_TLS", "false")], "DB_TLS", "scheme asks for TLS"),
        (&[("DB_PORT_5432_TCP", "unix:///x"), ("DB_TLS", "true")], "DB_TLS", "Unix socket"),
        (&[tls, known, ("DB_TLS_CERT_FILE", &cert)], "DB_TLS_CERT_FILE", "DB_TLS_KEY_FILE is not set"),
        (&[tls, known, ("DB_TLS_KEY_FILE", &key)], "DB_TLS_KEY_FILE", "DB_TLS_CERT_FILE is not set"),
        (&[tls, ("DB_TLS_CA_FILE", &none)], "DB_TLS_CA_FILE", "No such file"),
        (&[tls, ("DB_TLS_CA_FILE", "")], "DB_TLS_CA_FILE", "empty"),
        (&[tls, ("DB_TLS_CA_FILE", &path("garbage"))], "DB_TLS_CA_FILE", "no certificate"),
        (&[tls, ("DB_TLS_CA_FILE", &path("broken"))], "DB_TLS_CA_FILE", "broken"),
        (&[tls, known, ("DB_TLS_SERVER_NAME", "a b")], "DB_TLS_SERVER_NAME", "not a name"),
        (
            &[tls, known, ("DB_TLS_CERT_FILE", &path("garbage")), ("DB_TLS_KEY_FILE", &key)],
            "DB_TLS_CERT_FILE",
            "no certificate",
        ),
        (
            &[tls, known, ("DB_TLS_CERT_FILE", &cert), ("DB_TLS_KEY_FILE", &show(&other.key))],
            "DB_TLS_KEY_FILE",
            "not the key of the certificate",
        ),
        (
            &[tls, known, ("DB_TLS_CERT_FILE", &cert), ("DB_TLS_KEY_FILE", &encrypted)],
            "DB_TLS_KEY_FILE",
            "encrypted",
        ),
        (
            &[tls, known, ("DB_TLS_CERT_FILE", &cert), ("DB_TLS_KEY_FILE", &cert)],
            "DB_TLS_KEY_FILE",
            "no private key",
        ),
        (
            &[plain, ("DB_LISTEN_TLS_CERT_FILE", &cert)],
            "DB_LISTEN_TLS_CERT_FILE",
            "DB_LISTEN_TLS_KEY_FILE is not set",
        ),
        (
            &[plain, ("DB_LISTEN_TLS_CERT_FILE", &cert), ("DB_LISTEN_TLS_KEY_FILE", &none)],
            "DB_LISTEN_TLS_KEY_FILE",
            "No such file",
        ),
        (
            &[plain, ("DB_LISTEN_TLS_CLIENT_CA_FILE", &ca)],
            "DB_LISTEN_TLS_CLIENT_CA_FILE",
            "no TLS for clients",
        ),
    ];
    for (variables, variable, reason) in cases {
        // A mistake of another kind beside it is told too.
        let launch = Launch::new().variable("OTHER_PORT_0_TCP", "tcp://other:1");
        let launch = variables.iter().fold(launch, |launch, (name, value)| launch.variable(name, value));
        let finished = launch.argument("links").finish();
        let mistake = finished.expect_mistake(variable);
        assert!(mistake.contains(reason), "{mistake}");
        assert!(!finished.stderr.contains("PRIVATE"), "{}", finished.stderr);
        finished.expect_mistake("OTHER_PORT_0_TCP");
        assert!(finished.stderr.contains("has 2 mistakes"), "{}", finished.stderr);
    }
}

/// A setting for a whole alias serves those of its links that have TLS.
#[test]
fn a_setting_for_the_alias_serves_the_links_of_it_that_have_tls() {
    let authority = Authority::new("Test CA");
    let wiring = Launch::new()
        .variable("DB_PORT_5432_TCP", "tls://db:5432")
        .variable("DB_PORT_8080_TCP", "tcp://db:8080")
        .variable("DB_TLS_CA_FILE", authority.file())
        .wiring();
    let of_port = |port: u16| -> &Value {
        let links = wiring["links"].as_array().unwrap();
        links.iter().find(|link| link["port"] == port).unwrap()
    };
    assert_eq!((&of_port(5432)["tls"], &of_port(8080)["tls"]), (&Value::Bool(true), &Value::Bool(false)));
}

/// `openssl s_server`, on a port that it says itself. Killed when dropped.
pub(crate) struct OpensslServer {
    child: Child,
    _output: BufReader<ChildStdout>,
    pub(crate) address: SocketAddr,
}

impl OpensslServer {
    pub(crate) fn start(identity: &Identity, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_server", "-accept", "127.0.0.1:0", "-cert"])
            .arg(&identity.certificate)
            .arg("-key")
            .arg(&identity.key)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let address = loop {
            line.clear();
            assert!(output.read_line(&mut line).unwrap() > 0, "openssl does not listen");
            if let Some(address) = line.trim().strip_prefix("ACCEPT ") {
                break address.parse().unwrap();
            }
        };
        Self { child, _output: output, address }
    }
}

impl Drop for OpensslServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `openssl s_client`. Killed when dropped.
struct OpensslClient {
    child: Child,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl OpensslClient {
    fn start(address: SocketAddr, arguments: &[&str]) -> Self {
        let mut child = Command::new("openssl")
            .args(["s_client", "-connect", &address.to_string(), "-ign_eof"])
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl runs");
        let output = BufReader::new(child.stdout.take().unwrap());
        Self { input: child.stdin.take(), output, child }
    }
}

impl Drop for OpensslClient {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
