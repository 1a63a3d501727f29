//! What goes wrong with TLS, in words that a person can act on: one line for the operator and, on a Redis link, one for
//! the client.

use std::io::Read;
use std::net::SocketAddr;
use std::time::Duration;

use rcgen::{BasicConstraints, ExtendedKeyUsagePurpose, IsCa, KeyPair, date_time_ymd};
use rustls::version::{TLS12, TLS13};
use serde_json::Value;

use crate::support::{
    Ambassador, Authority, Identity, Launch, RedisServer, Target, TlsPeer, command_is_missing, fixture,
    password, redis_over_tls,
};
use crate::tls::{OpensslServer, launch_over_tls};

/// The line in the log about the connection that failed at TLS.
#[track_caller]
fn failure(ambassador: &Ambassador) -> Value {
    let line = ambassador.wait_for("connection failed");
    assert_eq!(line["level"], "WARN", "{line}");
    assert_eq!(line["stage"], "tls", "{line}");
    line
}

/// Both the operator and the client are told these words, and the operator the remedy.
#[track_caller]
fn expect_words(launch: Launch, words: &[&str], remedy: &str) {
    let ambassador = launch.start();
    let mut client = ambassador.connect("redis:6379");
    let _ = client.try_send(b"PING\r\n");
    let told = client.expect_refusal("redis:6379");
    let line = failure(&ambassador);
    let error = line["error"].as_str().unwrap();
    assert_eq!(told, error);
    for word in words {
        assert!(error.contains(word), "no {word}: {line}");
    }
    assert!(line["remedy"].as_str().unwrap().contains(remedy), "no {remedy}: {line}");
}

/// A server that shows this certificate, and nobody to talk to behind it.
fn showing(authority: &Authority, identity: &Identity) -> (impl Drop + use<>, SocketAddr) {
    let config = authority.server(identity, false, rustls::ALL_VERSIONS);
    let served = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let address = served.address();
    (served, address)
}

/// A Redis link to a server on 127.0.0.1 that `authority` is to vouch for.
fn launch(address: SocketAddr, authority: &Authority) -> Launch {
    launch_over_tls(address, authority).without("REDIS_TLS_SERVER_NAME")
}

/// Which authority it is that is not known, and where to put it.
#[test]
fn an_unknown_authority_is_named() {
    let (known, unknown) = (Authority::new("Known CA"), Authority::new("Some Other CA"));
    let (_server, address) = showing(&unknown, &unknown.issue(&["127.0.0.1"]));
    let words = ["unknown authority", "\"Some Other CA\"", &address.to_string()];
    expect_words(launch(address, &known), &words, known.file().to_str().unwrap());
    let with_the_systems = launch(address, &known).without("REDIS_TLS_CA_FILE");
    expect_words(with_the_systems, &words, "REDIS_TLS_CA_FILE");
}

/// Which names the certificate has, and which it should have.
#[test]
fn the_names_of_a_certificate_for_another_host_are_told() {
    let authority = Authority::new("Test CA");
    let (_server, address) = showing(&authority, &authority.issue(&["redis.example", "10.9.8.7"]));
    let words = ["redis.example, 10.9.8.7", "not for 127.0.0.1"];
    expect_words(launch(address, &authority), &words, "REDIS_TLS_SERVER_NAME");
}

/// Since when a certificate has been no good, and from when one will be.
#[test]
fn the_day_of_expiry_is_told() {
    let authority = Authority::new("Test CA");
    let expired = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2021, 3, 4);
    });
    let (_server, address) = showing(&authority, &expired);
    expect_words(launch(address, &authority), &["expired on 2021-03-04"], "renew");

    let not_yet = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.not_before = date_time_ymd(2090, 3, 4);
    });
    let (_server, address) = showing(&authority, &not_yet);
    expect_words(launch(address, &authority), &["not valid before 2090-03-04"], "clock");
}

/// What people make with one command of openssl, and wonder why nothing takes it.
#[test]
fn an_authority_that_stands_for_itself_is_told_so() {
    let authority = Authority::new("Test CA");
    let own = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    });
    let (_server, address) = showing(&authority, &own);
    expect_words(launch(address, &authority), &["that of an authority"], "CA:FALSE");
}

/// A certificate for clients is none for servers.
#[test]
fn a_certificate_for_another_purpose_is_told_so() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    });
    let (_server, address) = showing(&authority, &identity);
    expect_words(launch(address, &authority), &["not meant for this side"], "serverAuth");
}

/// A server that answers in something else is recognised at once.
#[test]
fn a_server_that_speaks_no_tls_is_told_so() {
    let authority = Authority::new("Test CA");
    for words in [
        fixture("replies/redis-7.0/unknown-command-before-auth.resp"),
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"SSH-2.0-x\r\n",
    ] {
        let server = Target::start().serve(move |mut peer| {
            peer.receive(1);
            peer.send(words);
            peer.expect_gone();
        });
        let launch = launch(server.address(), &authority);
        expect_words(launch, &["does not speak TLS", &server.address().to_string()], "redis://");
    }
}

/// A plain Redis takes a hello for the beginning of a command and waits for its end.
#[test]
fn a_plain_redis_that_waits_in_silence_is_told_so() {
    let authority = Authority::new("Test CA");
    let Some(server) = RedisServer::start("") else { return };
    let launch = launch(server.address(), &authority).variable("REDIS_CONNECT_TIMEOUT", "300ms");
    expect_words(
        launch,
        &["the TLS handshake with", "took longer than 300ms"],
        "plain Redis waits in silence",
    );
}

/// And the other way round: a Redis that speaks TLS, dialled without.
#[test]
fn a_server_that_speaks_tls_and_is_dialled_without_is_told_so() {
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "tls-auth-clients no") else { return };
    let ambassador = Launch::redis(address).variable("REDIS_AUTH", password()).start();
    let mut client = ambassador.connect("redis:6379");
    let told = client.expect_refusal("redis:6379");
    assert!(told.contains("TLS"), "{told}");
    let line = ambassador.wait_for("connection failed");
    assert!(line["remedy"].as_str().unwrap().contains("rediss://"), "{line}");
}

/// With a password and without one, which are two moments at which a server can say it in TLS 1.3.
#[test]
fn a_redis_that_demands_a_client_certificate_says_so() {
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "tls-auth-clients yes") else { return };
    let words = ["demands a client certificate"];
    expect_words(launch_over_tls(address, &authority), &words, "REDIS_TLS_CERT_FILE");
    let with_password = launch_over_tls(address, &authority).variable("REDIS_AUTH", password());
    expect_words(with_password, &words, "REDIS_TLS_CERT_FILE");
    let Some((_server, address)) = redis_over_tls(&authority, "tls-auth-clients yes\ntls-protocols TLSv1.2")
    else {
        return;
    };
    expect_words(launch_over_tls(address, &authority), &words, "REDIS_TLS_CERT_FILE");
}

/// A client certificate that the target does not take, in the words of its alert.
#[test]
fn a_client_certificate_that_is_refused_is_told_so() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let identity = stranger.issue(&["client"]);
    for protocol in ["TLSv1.2", "TLSv1.3"] {
        let configuration = format!("tls-auth-clients yes\ntls-protocols {protocol}");
        let Some((_server, address)) = redis_over_tls(&authority, &configuration) else { return };
        let launch = launch_over_tls(address, &authority).tls_identity("REDIS", &identity);
        expect_words(launch, &["refused our client certificate", "unknown_ca"], "REDIS_TLS_CERT_FILE");
    }
}

/// On a plain tunnel nobody can be told but the operator; the client's connection is reset.
#[test]
fn a_late_refusal_on_a_plain_tunnel_is_a_reset_for_the_client_and_a_line_in_the_log() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let config = authority.server(&identity, true, &[&TLS13]);
    let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .variable("DB_TLS_CA_FILE", authority.file())
        .start();
    ambassador.connect("db:5432").expect_reset();
    let line = failure(&ambassador);
    assert!(line["error"].as_str().unwrap().contains("demands a client certificate"), "{line}");
}

/// A server of the last century.
#[test]
fn a_server_of_an_old_version_is_told_so() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["localhost"]);
    let server = OpensslServer::start(&identity, &["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]);
    let launch = launch(server.address, &authority);
    expect_words(launch, &["neither TLS 1.2 nor TLS 1.3"], "TLS 1.2 or later");
}

/// A server that closes without a word, as Redis does over TLS when it has too many clients.
#[test]
fn a_server_that_closes_during_the_handshake_is_told_so() {
    let authority = Authority::new("Test CA");
    let server = Target::start().serve(|mut peer| {
        peer.receive(1);
        peer.finish_sending();
        peer.expect_gone();
    });
    expect_words(launch(server.address(), &authority), &["closed the connection"], "speaks TLS");
}

/// A target that is on its way up resets a handshake at times: that costs a wait, not an error.
#[test]
fn a_reset_during_the_handshake_is_tried_again() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let target = Target::start();
    let ambassador = launch(target.address(), &authority).start();
    let mut client = ambassador.connect("redis:6379");
    target.accept().reset();
    let mut server =
        TlsPeer::accept(target.accept(), &authority.server(&identity, false, rustls::ALL_VERSIONS)).unwrap();
    client.send(b"PING\r\n");
    server.expect(b"PING\r\n");
}

/// What the operator is told of a client that comes without the right certificate, or without any TLS.
#[test]
fn what_is_wrong_with_a_client_is_told_to_the_operator() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let identity = authority.issue(&["127.0.0.1"]);
    let expired = authority.issue_with(&["client"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = date_time_ymd(2021, 3, 4);
    });
    let target = Target::start();
    for (from, words, remedy) in [
        (None, "the client shows no certificate", authority.file().display().to_string()),
        (
            Some(stranger.issue(&["client"])),
            "unknown authority: \"Stranger\"",
            authority.file().display().to_string(),
        ),
        (Some(expired), "expired on 2021-03-04", "renew".to_owned()),
    ] {
        for version in [&TLS12, &TLS13] {
            let ambassador = Launch::redis(target.address())
                .listen_tls("REDIS", &identity)
                .variable("REDIS_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
                .start();
            let config = authority.client_of_versions(from.as_ref(), &[version]);
            let gone = TlsPeer::try_connect(ambassador.address("redis:6379"), &config)
                .and_then(|mut peer| peer.read(&mut [0]).map(|_| ()));
            // The alert arrives, and not just a reset.
            let told = gone.unwrap_err().to_string();
            assert!(told.contains("alert"), "{told}");
            let line = failure(&ambassador);
            assert!(line["error"].as_str().unwrap().contains(words), "{line}");
            assert!(line["remedy"].as_str().unwrap().contains(&remedy), "{line}");
        }
    }
    target.expect_no_connection(Duration::from_millis(100));
}

/// A client that does not trust us tells us so, and we tell the operator.
#[test]
fn a_client_that_refuses_our_certificate_is_told_to_the_operator() {
    let (authority, stranger) = (Authority::new("Test CA"), Authority::new("Stranger"));
    let target = Target::start();
    let ambassador =
        Launch::redis(target.address()).listen_tls("REDIS", &authority.issue(&["127.0.0.1"])).start();
    assert!(TlsPeer::try_connect(ambassador.address("redis:6379"), &stranger.client(None)).is_err());
    let line = failure(&ambassador);
    assert!(line["error"].as_str().unwrap().contains("the client refused our certificate"), "{line}");
}

/// A Redis client without TLS reads why, in the only words that it understands.
#[test]
fn a_client_without_tls_reads_that_the_port_wants_it() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let launch = Launch::redis(target.address()).listen_tls("REDIS", &authority.issue(&["127.0.0.1"]));
    expect_words(launch, &["the client does not speak TLS, and this port does"], "turn TLS on in the client");
}

/// A client of the last century.
#[test]
fn a_client_of_an_old_version_is_told_to_the_operator() {
    if command_is_missing("openssl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let ambassador =
        Launch::redis(target.address()).listen_tls("REDIS", &authority.issue(&["127.0.0.1"])).start();
    let address = ambassador.address("redis:6379").to_string();
    let client = std::process::Command::new("openssl")
        .args(["s_client", "-connect", &address, "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"])
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert!(!client.status.success());
    let line = failure(&ambassador);
    assert!(line["error"].as_str().unwrap().contains("neither TLS 1.2 nor TLS 1.3"), "{line}");
}
