//! Who may come in by the name in its certificate (`LISTEN_TLS_CLIENT_NAMES`), and who came.

use std::io::Read;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use rcgen::string::Ia5String;
use rcgen::{CertificateParams, DnType, KeyPair, SanType};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, SupportedProtocolVersion};
use serde_json::Value;

use crate::support::{
    Ambassador, Authority, Identity, Launch, Target, TlsPeer, eventually, get, own_address, replace,
};

/// What the certificates of these tests say of their owners.
#[derive(Clone, Copy)]
enum Says {
    Dns(&'static str),
    Uri(&'static str),
    Email(&'static str),
    Address(&'static str),
    Common(&'static str),
}

impl Says {
    fn put_into(self, params: &mut CertificateParams) {
        let text = |text: &str| Ia5String::try_from(text).expect("ASCII");
        let name = match self {
            Self::Dns(name) => SanType::DnsName(text(name)),
            Self::Uri(name) => SanType::URI(text(name)),
            Self::Email(name) => SanType::Rfc822Name(text(name)),
            Self::Address(address) => SanType::IpAddress(address.parse::<IpAddr>().expect("an address")),
            Self::Common(name) => return params.distinguished_name.push(DnType::CommonName, name),
        };
        params.subject_alt_names.push(name);
    }
}

fn issue(authority: &Authority, says: &[Says]) -> Identity {
    authority.issue_with(&[], &KeyPair::generate().unwrap(), |params| {
        for says in says {
            says.put_into(params);
        }
    })
}

const NAMES: &str = "uri:spiffe://example.org/ns/*/sa/api, dns:*.clients.example.org,\
                     email:*@ops.example.org;ip:192.0.2.7, cn:Payments Service";

/// An echo over TLS for clients with one of those names.
fn launch(authority: &Authority, target: std::net::SocketAddr) -> Launch {
    let identity = authority.issue(&["127.0.0.1"]);
    Launch::plain(target)
        .listen_tls("DB", &identity)
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
        .variable("DB_LISTEN_TLS_CLIENT_NAMES", NAMES)
        .variable("AMBASSADOR_LOG", "debug")
}

#[track_caller]
fn expect_echo(ambassador: &Ambassador, config: &Arc<ClientConfig>) -> TlsPeer {
    let mut client = TlsPeer::connect(ambassador.address("db:5432"), config);
    client.send(b"hello");
    client.expect(b"hello");
    client
}

/// The client is told by an alert that says so, in TLS 1.3 after the handshake is over for it; the log has its names.
#[track_caller]
fn expect_denied(ambassador: &Ambassador, config: &Arc<ClientConfig>, nth: usize) -> String {
    let tried = TlsPeer::try_connect(ambassador.address("db:5432"), config);
    let denied = tried.and_then(|mut client| client.read(&mut [0]).map(drop)).expect_err("no way in");
    assert!(denied.to_string().contains("AccessDenied"), "{denied}");
    let failed = || ambassador.logged(|line| line["message"] == "connection failed");
    eventually("it is in the log", || failed().len() > nth);
    let told = failed()[nth].clone();
    assert_eq!(told["stage"], "tls", "{told}");
    assert!(told["remedy"].as_str().unwrap().contains("DB_LISTEN_TLS_CLIENT_NAMES"), "{told}");
    told["error"].as_str().expect("an error").to_owned()
}

const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A name of each kind, one among many, one that an intermediate authority vouches for: whose it is, is in the log and in
/// `/links`.
#[test]
fn who_has_one_of_the_names_is_served_and_known() {
    use Says::{Address, Common, Dns, Email, Uri};
    let authority = Authority::new("Test CA");
    let below = authority.below("Intermediate CA", |_| {});
    let target = Target::start().echo();
    let ambassador = launch(&authority, target.address()).start();
    let mut expected = Vec::new();
    let mut open = Vec::new();
    for (says, counts) in [
        (&[Uri("spiffe://example.org/ns/prod/sa/api")][..], "uri:spiffe://example.org/ns/prod/sa/api"),
        (&[Uri("SPIFFE://EXAMPLE.ORG/ns/test/sa/api")], "uri:SPIFFE://EXAMPLE.ORG/ns/test/sa/api"),
        (&[Dns("other.example.org"), Dns("One.CLIENTS.example.org")], "dns:One.CLIENTS.example.org"),
        (&[Email("jo@OPS.example.org")], "email:jo@OPS.example.org"),
        (&[Address("192.0.2.8"), Address("192.0.2.7")], "ip:192.0.2.7"),
        (&[Dns("other.example.org"), Common("Payments Service")], "cn:Payments Service"),
    ] {
        let identity = issue(&authority, says);
        for version in VERSIONS {
            let config = authority.client_of_versions(Some(&identity), &[version]);
            open.push(expect_echo(&ambassador, &config));
            expected.push(counts);
        }
    }
    let mut chain = below.issue_with_chain(&[]);
    let own = below.issue_with(&["a.clients.example.org"], &KeyPair::generate().unwrap(), |_| {});
    let all = [&own.certificate, &below.file()].map(|path| std::fs::read_to_string(path).unwrap()).concat();
    std::fs::write(&chain.certificate, all).unwrap();
    chain.key = own.key;
    open.push(expect_echo(&ambassador, &authority.client(Some(&chain))));
    expected.push("dns:a.clients.example.org");
    let many = authority.issue_with(&[], &KeyPair::generate().unwrap(), |params| {
        for number in 0..1000 {
            let name = Ia5String::try_from(format!("a-{number}.other.example.org")).unwrap();
            params.subject_alt_names.push(SanType::DnsName(name));
        }
        Dns("last.clients.example.org").put_into(params);
    });
    open.push(expect_echo(&ambassador, &authority.client(Some(&many))));
    expected.push("dns:last.clients.example.org");

    let opened = || ambassador.logged(|line| line["message"] == "connection opened");
    eventually("all are in the log", || opened().len() == expected.len());
    let opened = opened();
    let names: Vec<_> = opened.iter().map(|line| line["name"].as_str().unwrap_or_default()).collect();
    assert_eq!(names, expected);
    let state = get(ambassador.admin(), "/links").link("db:5432");
    let clients = state["clients"].as_array().expect("clients");
    let of =
        |name: &str| clients.iter().find(|client| client["name"] == name).cloned().unwrap_or(Value::Null);
    assert_eq!(of("cn:Payments Service")["connections"], 2, "{state}");
    assert_eq!(of("cn:Payments Service")["address"], "127.0.0.1", "{state}");
    assert_eq!(of("dns:a.clients.example.org")["connections"], 1, "{state}");
    assert_eq!(clients.len(), 8, "{state}");
    // Without the setting anybody comes in, and is known by the first name.
    let anybody = launch(&authority, target.address()).without("DB_LISTEN_TLS_CLIENT_NAMES").start();
    let identity = issue(&authority, &[Email("jo@example.org"), Dns("other.example.org")]);
    let _open = expect_echo(&anybody, &authority.client(Some(&identity)));
    let state = get(anybody.admin(), "/links").link("db:5432");
    assert_eq!(state["clients"][0]["name"], "email:jo@example.org", "{state}");
    drop(open);
    eventually("they have gone", || {
        get(ambassador.admin(), "/links").link("db:5432")["clients"].as_array().is_some_and(Vec::is_empty)
    });
}

/// The same words in another kind of name, a wildcard that would have to reach further, no name at all, a thousand of them:
/// refused within the handshake, and told with the names that there are.
#[test]
fn who_has_none_of_the_names_is_refused_and_told() {
    use Says::{Address, Common, Dns, Email, Uri};
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let cases: Vec<(&[Says], &str)> = vec![
        (&[Dns("a.b.clients.example.org")], "dns:a.b.clients.example.org"),
        (&[Dns("clients.example.org")], "dns:clients.example.org"),
        (&[Dns("*.clients.example.org")], "dns:*.clients.example.org"),
        (&[Dns("192.0.2.7")], "dns:192.0.2.7"),
        (&[Common("a.clients.example.org")], "cn:a.clients.example.org"),
        (&[Dns("Payments Service")], "dns:Payments Service"),
        (&[Common("payments service")], "cn:payments service"),
        (&[Uri("spiffe://example.org/ns/a/b/sa/api")], "uri:spiffe://example.org/ns/a/b/sa/api"),
        (&[Uri("spiffe://example.org/ns//sa/api")], "uri:spiffe://example.org/ns//sa/api"),
        (&[Uri("spiffe://example.org/ns/prod/sa/API")], "uri:spiffe://example.org/ns/prod/sa/API"),
        (&[Uri("spiffe://example.org/ns/a%2Fb/sa/api")], "uri:spiffe://example.org/ns/a%2Fb/sa/api"),
        (&[Uri("spiffe://evil.org/ns/prod/sa/api")], "uri:spiffe://evil.org/ns/prod/sa/api"),
        (&[Email("a@b@example.org"), Address("2001:db8::7")], "email:a@b@example.org, ip:2001:db8::7"),
        (&[], "no name"),
    ];
    for (says, names) in cases {
        // One for each, since the log holds lines of one kind back that come close together.
        let ambassador = launch(&authority, target.address()).start();
        let identity = authority.issue_with(&[], &KeyPair::generate().unwrap(), |params| {
            params.distinguished_name.remove(DnType::CommonName);
            for says in says {
                says.put_into(params);
            }
        });
        for (nth, version) in VERSIONS.into_iter().enumerate() {
            let config = authority.client_of_versions(Some(&identity), &[version]);
            let told = expect_denied(&ambassador, &config, nth);
            assert!(told.ends_with(&format!("but {names}")), "{told}");
        }
    }
    let many = authority.issue_with(&[], &KeyPair::generate().unwrap(), |params| {
        for number in 0..1000 {
            let name = Ia5String::try_from(format!("a-{number}.other.example.org")).unwrap();
            params.subject_alt_names.push(SanType::DnsName(name));
        }
    });
    let ambassador = launch(&authority, target.address()).start();
    let told = expect_denied(&ambassador, &authority.client(Some(&many)), 0);
    assert!(told.contains("dns:a-4.other.example.org, 996 more") && told.len() < 1000, "{told}");
    target.expect_no_connection(Duration::from_millis(50));
}

/// Another authority in the file counts at once, and so do the names, of its clients too.
#[test]
fn the_names_count_for_the_authority_that_is_in_the_file_now() {
    let [before, after] = [Authority::new("Old CA"), Authority::new("New CA")];
    let target = Target::start().echo();
    let clients = before.path("clients.pem");
    replace(&before.file(), &clients);
    let identity = before.issue(&["127.0.0.1"]);
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &identity)
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", &clients)
        .variable("DB_LISTEN_TLS_CLIENT_NAMES", NAMES)
        .start();
    let of = |authority: &Authority, name| {
        let identity = issue(authority, &[Says::Dns(name)]);
        before.client(Some(&identity))
    };
    let old = of(&before, "a.clients.example.org");
    // The second one is taken up again, with the certificate of the first.
    expect_echo(&ambassador, &old);
    assert!(expect_echo(&ambassador, &old).is_resumed());
    replace(&after.file(), &clients);
    expect_echo(&ambassador, &of(&after, "a.clients.example.org"));
    expect_denied(&ambassador, &of(&after, "a.others.example.org"), 0);
    let tried = TlsPeer::try_connect(ambassador.address("db:5432"), &old);
    let refused = tried.and_then(|mut client| client.read(&mut [0]).map(drop)).expect_err("no way in");
    assert!(refused.to_string().contains("UnknownCA"), "{refused}");
}

/// All at once, in the words of who wrote it, with what was probably meant.
#[test]
fn names_that_are_none_are_mistakes() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let mistake = |names: &str| {
        let finished = Launch::plain(own_address())
            .listen_tls("DB", &identity)
            .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file())
            .variable("DB_LISTEN_TLS_CLIENT_NAMES", names)
            .argument("links")
            .finish();
        finished.expect_mistake("DB_LISTEN_TLS_CLIENT_NAMES")
    };
    for (names, told) in [
        ("spiffe://example.org/api", "DB_LISTEN_TLS_CLIENT_NAMES=uri:spiffe://example.org/api"),
        ("cn:api,*.example.org", "DB_LISTEN_TLS_CLIENT_NAMES=cn:api,dns:*.example.org"),
        ("jo@example.org", "email:jo@example.org"),
        ("2001:db8::1", "ip:2001:db8::1"),
        ("dns:bücher.example", "dns:xn--bcher-kva.example"),
        ("dns:**.example.org", "one whole label"),
        ("dns:db-*.example.org", "one whole label"),
        ("dns:a..example.org", "no name of its kind"),
        ("uri:spiffe://*/api", "one whole element"),
        ("uri:spiffe://example.org/**", "one whole element"),
        ("uri:example", "no name of its kind"),
        ("email:example.org", "no name of its kind"),
        ("ip:192.0.2.0/24", "no networks"),
        ("ip:example.org", "has no address"),
        ("ip:*", "has no address"),
        ("cn:", "no name of its kind"),
        (",", "names nobody"),
    ] {
        let mistake = mistake(names);
        assert!(mistake.contains(told), "{names}: {mistake}");
    }
    let both = mistake("dns:ok.example.org,dns:**,what:ever");
    assert!(both.contains("\"dns:**\"") && both.contains("\"what:ever\"") && !both.contains("ok."), "{both}");
    let finished = Launch::plain(own_address())
        .listen_tls("DB", &identity)
        .plain_link("OTHER", own_address())
        .variable("DB_LISTEN_TLS_CLIENT_NAMES", "cn:api")
        .variable("OTHER_LISTEN_TLS_CLIENT_NAMES", "cn:api")
        .argument("links")
        .finish();
    for alias in ["DB", "OTHER"] {
        let mistake = finished.expect_mistake(&format!("{alias}_LISTEN_TLS_CLIENT_NAMES"));
        assert!(mistake.contains(&format!("{alias}_LISTEN_TLS_CLIENT_CA_FILE")), "{mistake}");
    }
}
