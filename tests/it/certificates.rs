//! Certificates and keys as people make them: what is wrong with each is told in a sentence, and the line that comes with
//! it mends it.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use rcgen::date_time_ymd;
use serde_json::Value;

use crate::support::{
    Authority, Identity, Launch, RedisServer, Target, TlsPeer, Workbench, command_is_missing, own_address,
    say_skipped,
};
use crate::tls::OpensslServer;

/// What somebody who has to mend it reads.
struct Told {
    error: String,
    remedy: String,
}

impl Told {
    /// From a line of the log or a finding, in which `field` is what is wrong.
    #[track_caller]
    fn of(line: &Value, field: &str) -> Self {
        let text =
            |field: &str| line[field].as_str().unwrap_or_else(|| panic!("no {field}: {line}")).to_owned();
        Self { error: text(field), remedy: text("remedy") }
    }

    #[track_caller]
    fn expect(&self, words: &[&str], remedy: &str) {
        for word in words {
            assert!(self.error.contains(word), "no {word}: {}", self.error);
        }
        assert!(self.remedy.contains(remedy), "no {remedy}: {}", self.remedy);
    }

    /// The command in the remedy, which ends where another way begins.
    #[track_caller]
    fn line(&self) -> &str {
        let (_, line) = self.remedy.split_once(": ").expect("a command behind a colon");
        line.split("; or ").next().unwrap_or_default()
    }
}

/// A tunnel over TLS to a server of the name `localhost`, which the authorities of a file are to vouch for.
fn launch(server: &OpensslServer, authorities: &Path) -> Launch {
    Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("rediss://{}", server.address))
        .variable("REDIS_TLS_SERVER_NAME", "localhost")
        .variable("REDIS_TLS_CA_FILE", authorities)
        .variable("REDIS_LISTEN", "127.0.0.1:0")
}

/// What the client of a link reads, and the operator with it.
#[track_caller]
fn told(launch: Launch) -> Told {
    let ambassador = launch.start();
    let mut client = ambassador.connect("redis:6379");
    let _ = client.try_send(b"PING\r\n");
    let error = client.expect_refusal("redis:6379");
    let line = ambassador.wait_for("connection failed");
    assert_eq!((line["stage"].as_str(), line["error"].as_str()), (Some("tls"), Some(&*error)), "{line}");
    Told::of(&line, "error")
}

/// A server that turns lines round is reached.
#[track_caller]
fn expect_served(launch: Launch) {
    let ambassador = launch.start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"desrever\n");
    client.expect(b"reversed\n");
}

/// openssl lets nobody use weak things without this.
const ANYTHING: [&str; 3] = ["-rev", "-cipher", "DEFAULT@SECLEVEL=0"];

fn serve(identity: &Identity) -> OpensslServer {
    OpensslServer::start(identity, &ANYTHING)
}

fn serve_with_chain(identity: &Identity, chain: &Path) -> OpensslServer {
    OpensslServer::start(identity, &[&ANYTHING[..], &["-cert_chain", chain.to_str().unwrap()]].concat())
}

const P256: &str = "-algorithm EC -pkeyopt ec_paramgen_curve:P-256";
const NAMED: &[&str] = &["subjectAltName=DNS:localhost"];

/// `openssl x509 -req` without a file of extensions, as everybody does it the first time. What openssl itself is content with
/// the verification of rustls is not; but who asks for none gets none.
#[test]
fn a_certificate_of_x509s_first_version_is_told_so_and_the_remedy_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.run("openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem");
    let text = fs::read(bench.path("server.pem")).unwrap();
    assert!(!text.is_empty());
    if !crate::support::openssl(&[
        "x509",
        "-noout",
        "-text",
        "-in",
        bench.path("server.pem").to_str().unwrap(),
    ])
    .contains("Version: 1 ")
    {
        say_skipped("this openssl makes no certificates of the first version any more");
        return;
    }
    let identity = bench.identity("server");
    let server = serve(&identity);
    let ca = bench.path("ca.pem");
    for verify in ["full", "ca"] {
        let told = told(launch(&server, &ca).variable("REDIS_TLS_VERIFY", verify));
        told.expect(&["X.509's first version", &server.address.to_string()], "-extfile");
    }
    let remedy = told(launch(&server, &ca));
    for version in ["-tls1_2", "-tls1_3"] {
        let server = OpensslServer::start(&identity, &["-rev", version]);
        expect_served(launch(&server, &ca).variable("REDIS_TLS_VERIFY", "none"));
    }
    bench.run(remedy.line());
    expect_served(launch(&serve(&identity), &ca));
}

/// The server's authority may be of the first version: whoever is named in a file is believed. Where it is not known but
/// sent along, that it is unknown is what matters.
#[test]
fn an_authority_of_the_first_version_is_believed_and_told_by_name_where_it_is_not_known() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.run(
        "openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out old.key && \
         openssl req -new -key old.key -subj '/CN=The old' -out old.csr && \
         openssl x509 -req -in old.csr -signkey old.key -days 30 -out old.pem",
    );
    bench.issue("server", "old", NAMED, "");
    let server = serve_with_chain(&bench.identity("server"), &bench.path("old.pem"));
    expect_served(launch(&server, &bench.path("old.pem")));
    let ca = bench.path("ca.pem");
    told(launch(&server, &ca)).expect(&["unknown authority", "\"The old\""], ca.to_str().unwrap());
}

/// The name in the subject has not counted for twenty years, and people write it there still.
#[test]
fn a_certificate_with_a_common_name_alone_is_told_so_and_either_remedy_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.issue("server", "ca", &["basicConstraints=CA:FALSE"], "");
    let identity = bench.identity("server");
    let server = serve(&identity);
    let ca = bench.path("ca.pem");
    let told = told(launch(&server, &ca));
    told.expect(&["no subjectAltName", "common name \"localhost\" does not count"], "REDIS_TLS_VERIFY=ca");
    expect_served(launch(&server, &ca).variable("REDIS_TLS_VERIFY", "ca"));
    bench.run(told.line());
    expect_served(launch(&serve(&identity), &ca));
}

/// The same for a server that vouches for itself.
#[test]
fn a_self_signed_certificate_with_a_common_name_alone_is_told_the_line_that_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.run(
        "openssl req -x509 -key server.key -subj /CN=localhost -days 30 -addext basicConstraints=critical,CA:FALSE \
         -out server.pem",
    );
    let identity = bench.identity("server");
    let server = serve(&identity);
    let told = told(launch(&server, &identity.certificate));
    told.expect(&["no subjectAltName"], "openssl req -x509");
    bench.run(told.line());
    expect_served(launch(&serve(&identity), &identity.certificate));
}

/// What openssl makes of a server's name alone, in each of the ways that are found on the net. The line that is told makes
/// one that is taken.
const BY_DEFAULT: [(&str, &str); 4] = [
    ("openssl req -x509 -key server.key -subj /CN=localhost -out server.pem", "that of an authority"),
    (
        "openssl req -x509 -CA ca.pem -CAkey ca.key -key server.key -subj /CN=localhost -out server.pem",
        "that of an authority",
    ),
    ("openssl x509 -req -in server.csr -signkey server.key -out server.pem", "X.509's first version"),
    (
        "openssl x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out server.pem",
        "X.509's first version",
    ),
];

#[test]
fn what_openssl_makes_by_default_is_told_the_line_that_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    for (made, words) in BY_DEFAULT {
        let bench = Workbench::new();
        bench.run(made);
        let identity = bench.identity("server");
        let trusted = if made.contains("-CA ") { bench.path("ca.pem") } else { identity.certificate.clone() };
        let told = told(launch(&serve(&identity), &trusted));
        told.expect(&[words], "subjectAltName=DNS:localhost");
        bench.run(told.line());
        expect_served(launch(&serve(&identity), &trusted));
    }
}

/// Whoever shows such a certificate can tell, too: in `check`, and when a client that refuses it gives no reason. The pair
/// of another line is used at once.
#[test]
fn who_shows_what_openssl_makes_by_default_is_told_the_line_that_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let nameless = "openssl req -x509 -key server.key -subj /CN=localhost -addext basicConstraints=critical,CA:FALSE -out server.pem";
    let target = Target::start().serve(|mut peer| {
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
        peer.expect_gone();
    });
    for (made, words) in BY_DEFAULT.into_iter().chain([(nameless, "no name that counts (no subjectAltName)")])
    {
        let bench = Workbench::new();
        bench.run(made);
        let identity = bench.identity("server");
        let trusted = if made.contains("-CA ") { bench.path("ca.pem") } else { identity.certificate.clone() };
        let report = report(Launch::redis("127.0.0.1:1").listen_tls("REDIS", &identity));
        let warnings = report["findings"].as_array().unwrap();
        let about = |finding: &&Value| {
            finding["what"].as_str().unwrap().starts_with("clients may refuse the certificate")
        };
        let finding = warnings.iter().find(about).unwrap_or_else(|| panic!("{made}: {report:#}"));
        let checked = Told::of(finding, "what");
        checked.expect(&[words], identity.certificate.to_str().unwrap());

        let far = Launch::redis(target.address()).listen_tls("REDIS", &identity).start();
        let near = || {
            Launch::new()
                .variable("REDIS_PORT_6379_TCP", format!("rediss://{}", far.address("redis:6379")))
                .variable("REDIS_TLS_SERVER_NAME", "localhost")
                .variable("REDIS_TLS_CA_FILE", &trusted)
                .variable("REDIS_LISTEN", "127.0.0.1:0")
        };
        told(near());
        let refused = Told::of(&far.wait_for("connection failed"), "error");
        refused.expect(&["the client refused our certificate", words], "subjectAltName=DNS:NAME");
        assert_eq!(refused.line(), checked.line());

        bench.run(&refused.line().replace("NAME", "localhost"));
        let near = near().start();
        let mut client = near.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    }
}

/// An address is an address, and no name.
#[test]
fn an_address_that_is_written_as_a_name_is_told_so_and_the_remedy_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.issue("server", "ca", &["subjectAltName=DNS:127.0.0.1"], "");
    let identity = bench.identity("server");
    let ca = bench.path("ca.pem");
    let launch = |server: &OpensslServer| launch(server, &ca).without("REDIS_TLS_SERVER_NAME");
    let told = told(launch(&serve(&identity)));
    told.expect(&["127.0.0.1 as a name (DNS:)", "not as an address (IP:)"], "subjectAltName=IP:127.0.0.1");
    bench.run(told.line());
    expect_served(launch(&serve(&identity)));
}

/// Who vouches for a server, and whom it is that is not known.
#[test]
fn who_is_not_trusted_is_told_with_what_to_put_where() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    let ca = bench.path("ca.pem");
    let file = ca.to_str().unwrap();

    // Nobody but itself.
    bench.key("own", P256);
    bench.run(
        "openssl req -x509 -key own.key -subj /CN=own -days 30 -addext subjectAltName=DNS:localhost \
         -addext basicConstraints=critical,CA:FALSE -out own.pem",
    );
    let own = bench.identity("own");
    let server = serve(&own);
    told(launch(&server, &ca)).expect(&["unknown authority: it is signed by itself"], "certificate itself");
    expect_served(launch(&server, &own.certificate));

    // The certificate between it and its authority is missing, or is there.
    bench.authority("between", P256, "");
    bench.run("openssl req -new -key between.key -subj '/CN=The between' -out between.csr");
    bench.issue("between", "ca", &["basicConstraints=critical,CA:TRUE"], "");
    bench.issue("server", "between", NAMED, "");
    let identity = bench.identity("server");
    let between = bench.path("between.pem");
    let missing = told(launch(&serve(&identity), &ca));
    missing.expect(&["unknown authority", "\"The between\""], "send the whole chain");
    assert!(missing.remedy.contains(file), "{}", missing.remedy);
    expect_served(launch(&serve_with_chain(&identity, &between), &ca));

    // What is trusted is the server's own certificate, which is not the one that vouches for it.
    told(launch(&serve(&identity), &identity.certificate)).expect(
        &["unknown authority: \"The between\"", "has that certificate itself, which is no authority"],
        "\"The between\" instead of the server's",
    );

    // Chains in a strange order do no harm.
    bench.run("cat ca.pem between.pem > strange.pem");
    expect_served(launch(&serve_with_chain(&identity, &bench.path("strange.pem")), &ca));
}

/// A certificate made by these lines, which ends as `server.pem`, and what is told of it.
struct Case {
    authority: &'static str,
    key: &'static str,
    extensions: &'static [&'static str],
    more: &'static str,
    words: &'static [&'static str],
    remedy: &'static str,
}

const CASE: Case = Case { authority: P256, key: P256, extensions: NAMED, more: "", words: &[], remedy: "" };

/// Algorithms, keys and extensions that are not taken, each by its name.
#[test]
fn what_is_not_taken_of_a_certificate_is_told_by_its_name() {
    const RSA: &str = "-algorithm RSA";
    const RSA_1024: &str = "-algorithm RSA -pkeyopt rsa_keygen_bits:1024";
    if command_is_missing("openssl") {
        return;
    }
    for case in [
        Case {
            authority: RSA,
            more: "-sha1",
            words: &["signed with sha1WithRSAEncryption, which is not taken"],
            remedy: "-sha256",
            ..CASE
        },
        Case { authority: RSA, more: "-md5", words: &["md5WithRSAEncryption"], remedy: "-sha256", ..CASE },
        Case { more: "-sha1", words: &["ecdsa-with-SHA1"], remedy: "-sha256", ..CASE },
        Case {
            authority: RSA,
            more: "-sha1 -sigopt rsa_padding_mode:pss",
            words: &["rsassaPss"],
            remedy: "-sha256",
            ..CASE
        },
        // One that is taken, to show that it is the digest.
        Case {
            authority: RSA,
            more: "-sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:32",
            ..CASE
        },
        Case { authority: "-algorithm ED448", words: &["signed with Ed448"], remedy: "P-256", ..CASE },
        Case {
            authority: "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            more: "-sha256",
            words: &["an authority with a key of the kind ECDSA on P-521"],
            remedy: "authority anew",
            ..CASE
        },
        Case {
            authority: "-algorithm EC -pkeyopt ec_paramgen_curve:brainpoolP256r1",
            words: &["a key of the kind ECDSA on a Brainpool curve"],
            remedy: "authority anew",
            ..CASE
        },
        Case {
            authority: RSA_1024,
            words: &["signed by an authority with an RSA key of 1024 bits", "2048 to 8192"],
            remedy: "authority anew",
            ..CASE
        },
        Case {
            key: RSA_1024,
            words: &["has an RSA key of 1024 bits", "2048 to 8192"],
            remedy: "openssl genpkey",
            ..CASE
        },
        // Of these we say beforehand that we don't take them, and the server has no other.
        Case {
            key: "-algorithm EC -pkeyopt ec_paramgen_curve:P-521",
            words: &["kind of key in common", "handshake_failure"],
            remedy: "P-384",
            ..CASE
        },
        Case { key: "-algorithm ED448", words: &["kind of key in common"], remedy: "Ed25519", ..CASE },
        Case {
            extensions: &["subjectAltName=DNS:localhost", "1.2.3.4=critical,ASN1:UTF8String:x"],
            words: &["critical extension that is not understood here: 1.2.3.4"],
            remedy: "without that extension",
            ..CASE
        },
        Case {
            extensions: &[
                "subjectAltName=DNS:localhost",
                "policyConstraints=critical,requireExplicitPolicy:3",
            ],
            words: &["policyConstraints"],
            remedy: "without that extension",
            ..CASE
        },
        Case {
            extensions: &["subjectAltName=DNS:localhost", "extendedKeyUsage=clientAuth"],
            words: &["not meant for this side of TLS, which is extendedKeyUsage=serverAuth"],
            remedy: "(echo subjectAltName=DNS:localhost; echo extendedKeyUsage=serverAuth)",
            ..CASE
        },
    ] {
        let bench = Workbench::new();
        bench.authority("other", case.authority, "");
        bench.key("server", case.key);
        bench.issue("server", "other", case.extensions, case.more);
        let server = serve(&bench.identity("server"));
        let launch = launch(&server, &bench.path("other.pem"));
        if case.words.is_empty() {
            expect_served(launch);
        } else {
            told(launch).expect(case.words, case.remedy);
        }
    }
}

/// What authorities may and may not do, each by its own name.
#[test]
fn an_authority_that_may_not_vouch_for_a_certificate_is_told_so() {
    const AUTHORITY: &[&str] = &["basicConstraints=critical,CA:TRUE"];
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    let ca = bench.path("ca.pem");
    let chained = |extensions: &[&[&str]], words: &[&str], remedy: &str| {
        let mut above = "ca".to_owned();
        bench.run("rm -f chain.pem");
        for (index, extensions) in extensions.iter().enumerate() {
            let name = format!("between{index}");
            bench.run(&format!(
                "openssl genpkey -quiet {P256} -out {name}.key && openssl req -new -key {name}.key -subj '/CN=The {name}' -out {name}.csr"
            ));
            bench.issue(&name, &above, extensions, "");
            bench.run(&format!("cat {name}.pem >> chain.pem"));
            above = name;
        }
        bench.issue("server", &above, NAMED, "");
        let server = serve_with_chain(&bench.identity("server"), &bench.path("chain.pem"));
        told(launch(&server, &ca)).expect(words, remedy);
    };
    chained(
        &[&["basicConstraints=critical,CA:FALSE"]],
        &["comes with that of \"The between0\", which vouches for others and may not"],
        "CA:TRUE",
    );
    chained(
        &[&["basicConstraints=critical,CA:TRUE,pathlen:0"], AUTHORITY],
        &["more authorities above it", "pathlen"],
        "larger pathlen",
    );
    chained(
        &[&["basicConstraints=critical,CA:TRUE", "nameConstraints=critical,permitted;DNS:example.com"]],
        &["a name that its authority may not vouch for (nameConstraints)"],
        "another authority",
    );
    chained(
        &[&["basicConstraints=critical,CA:TRUE", "extendedKeyUsage=clientAuth"]],
        &["\"The between0\"", "not meant for this side"],
        "without extendedKeyUsage",
    );
    chained(
        &[&["basicConstraints=critical,CA:TRUE", "1.2.3.4=critical,ASN1:UTF8String:x"]],
        &["\"The between0\"", "critical extension that is not understood here: 1.2.3.4"],
        "without that extension",
    );
    chained(&[AUTHORITY; 8], &["in a longer chain, than are looked through"], "and no others");
}

/// Not the server's certificate, but one above it, is out of its time.
#[test]
fn an_authority_between_that_has_expired_is_told_by_name() {
    let root = Authority::new("Test CA");
    let between = root.below("Old intermediate", |params| params.not_after = date_time_ymd(2021, 3, 4));
    let config = root.server(&between.issue_with_chain(&["127.0.0.1"]), false, rustls::ALL_VERSIONS);
    let served = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let launch = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("rediss://{}", served.address()))
        .variable("REDIS_TLS_CA_FILE", root.file())
        .variable("REDIS_LISTEN", "127.0.0.1:0");
    told(launch).expect(
        &["comes with that of \"Old intermediate\", which expired on 2021-03-04"],
        "new certificate of that authority",
    );
}

/// A file of certificates or of a key, and what is told of it. The command in the remedy, if it has one, makes a file that is
/// taken.
#[test]
fn files_that_hold_something_else_than_pem_are_told_with_the_line_that_mends_them() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.issue("server", "ca", NAMED, "");
    fs::write(bench.path("empty"), " \n").unwrap();
    bench.run(
        "cp server.pem good.pem; cp server.key good.key
         openssl x509 -in server.pem -outform der -out cert.der
         openssl pkey -in server.key -outform der -out key.der
         openssl pkcs12 -export -in server.pem -inkey server.key -passout pass: -out both.p12
         openssl crl2pkcs7 -nocrl -certfile server.pem -out cert.p7b
         openssl crl2pkcs7 -nocrl -certfile server.pem -outform der -out cert.p7c
         openssl x509 -in server.pem -trustout -out trusted.pem
         openssl pkcs8 -topk8 -in server.key -passout pass:x -out encrypted.key
         openssl ec -in server.key -aes128 -passout pass:x -out encrypted-sec1.key
         openssl pkey -in server.key -pubout -out public.key
         sed 's/^/  /' server.pem > indented.pem; sed 's/^/  /' server.key > indented.key
         awk '{ printf \"%s\\\\n\", $0 }' server.pem > one-line.pem
         iconv -f ASCII -t UTF-16LE server.pem | (printf '\\377\\376'; cat) > utf16.pem
         head -c 300 server.pem > half.pem
         sed 's/^MI/!!/' server.pem > base64.pem
         openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-521 -out p521.key
         openssl genpkey -quiet -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out another.key
         (echo -----BEGIN DSA PRIVATE KEY-----; echo AAAA; echo -----END DSA PRIVATE KEY-----) > dsa.key
         (printf '\\376\\355\\376\\355'; head -c 100 /dev/zero) > store.jks
         (echo -----BEGIN OPENSSH PRIVATE KEY-----; echo AAAA; echo -----END OPENSSH PRIVATE KEY-----) > ssh.key
         cat ca.pem server.pem > order.pem",
    );
    let certificates: &[(&str, &str, &str)] = &[
        ("empty", "it is empty", "in PEM"),
        ("cert.der", "a certificate in DER", "-inform der"),
        ("both.p12", "it is PKCS#12", "openssl pkcs12"),
        ("cert.p7b", "PKCS#7", "openssl pkcs7"),
        ("cert.p7c", "PKCS#7 in DER", "openssl pkcs7 -inform der"),
        ("trusted.pem", "openssl's own additions", "openssl x509"),
        ("server.csr", "a request for a certificate", "openssl x509 -req"),
        ("server.key", "a private key", "exchanged"),
        ("indented.pem", "its lines are indented", "sed"),
        ("one-line.pem", "written as \\n", "printf"),
        ("utf16.pem", "UTF-16", "iconv"),
        ("half.pem", "ends before its END line", "in PEM"),
        ("base64.pem", "no base64", "in PEM"),
        ("store.jks", "keystore of Java's", "keytool"),
        ("x.ext", "no certificate in PEM", "in PEM"),
    ];
    let keys: &[(&str, &str, &str)] = &[
        ("empty", "it is empty", "in PEM"),
        ("key.der", "it is DER", "openssl pkey -inform der"),
        ("both.p12", "it is PKCS#12", "openssl pkcs12"),
        ("encrypted.key", "encrypted", "openssl pkey"),
        ("encrypted-sec1.key", "encrypted", "openssl pkey"),
        ("public.key", "the public one", "PKCS#8"),
        ("server.pem", "but certificates", "exchanged"),
        ("indented.key", "its lines are indented", "sed"),
        ("ssh.key", "OpenSSH's own form", "ssh-keygen"),
        ("dsa.key", "DSA", "P-256"),
        ("p521.key", "neither an RSA key of 2048", "openssl genpkey"),
        ("another.key", "not the key of the certificate in", "-pubkey"),
    ];
    let launch = |certificate: &str, key: &str| {
        Launch::new()
            .variable("DB_PORT_5432_TCP", "tcp://db:5432")
            .variable("DB_LISTEN_TLS_CERT_FILE", bench.path(certificate))
            .variable("DB_LISTEN_TLS_KEY_FILE", bench.path(key))
            .argument("links")
    };
    let check = |certificate: &str, key: &str, variable: &str, reason: &str, remedy: &str| {
        let mistake = launch(certificate, key).finish().expect_mistake(variable);
        assert!(mistake.contains(reason) && mistake.contains(remedy), "no {reason}, {remedy}: {mistake}");
        if let Some((_, rest)) = mistake.split_once("remedy: ")
            && let Some((line, _)) = rest.split_once(", and name ")
        {
            // Nobody is there to be asked for the passphrase, which is "x", or empty.
            let (_, line) = line.split_once(": ").expect("a command behind a colon");
            let passphrase = match reason {
                "encrypted" => " -passin pass:x",
                "it is PKCS#12" => " -passin pass:",
                _ => "",
            };
            bench.run(&format!("{line}{passphrase}"));
            return true;
        }
        false
    };
    for (name, reason, remedy) in certificates {
        if check(name, "good.key", "DB_LISTEN_TLS_CERT_FILE", reason, remedy) {
            let finished = launch(&format!("{name}.pem"), "good.key").finish();
            assert_eq!(finished.code, Some(0), "{name}: {}", finished.stderr);
        }
    }
    for (name, reason, remedy) in keys {
        if check("good.pem", name, "DB_LISTEN_TLS_KEY_FILE", reason, remedy) {
            let finished = launch("good.pem", &format!("{name}.pem")).finish();
            assert_eq!(finished.code, Some(0), "{name}: {}", finished.stderr);
        }
    }
    // Where the key's certificate is not the first one it is the order that is wrong, not the key.
    check("order.pem", "good.key", "DB_LISTEN_TLS_CERT_FILE", "is number 2 in it", "put it first");
}

/// What editors and other systems do to a text is no reason to refuse it.
#[test]
fn pem_with_a_byte_order_mark_or_other_line_endings_is_taken_whole() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.issue("server", "ca", NAMED, "");
    for name in ["server.pem", "server.key", "ca.pem"] {
        let text = fs::read_to_string(bench.path(name)).unwrap().replace('\n', "\r\n");
        fs::write(bench.path(name), format!("\u{feff}{text}")).unwrap();
    }
    // Of a file with a mark no certificate is lost, least of all the first one.
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["127.0.0.1"]);
    let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
    let target = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let both = format!("\u{feff}{}", fs::read_to_string(authority.file()).unwrap());
    fs::write(authority.path("both.pem"), both).unwrap();
    let report = report(
        Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", target.address()))
            .variable("DB_TLS_CA_FILE", authority.path("both.pem"))
            .variable("DB_LISTEN_TLS_CERT_FILE", bench.path("server.pem"))
            .variable("DB_LISTEN_TLS_KEY_FILE", bench.path("server.key"))
            .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", bench.path("ca.pem")),
    );
    assert_eq!(report["links"][0]["backends"][0]["tls"]["verified"], true, "{report:#}");
}

/// What `check` says.
#[track_caller]
fn report(launch: Launch) -> Value {
    let finished = launch.argument("check").argument("--format").argument("json").finish();
    serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr))
}

/// What the other side thinks of our certificate is its own affair: Redis takes one of the first version.
#[test]
fn a_client_certificate_of_x509s_first_version_is_shown_to_who_takes_it() {
    if command_is_missing("openssl") {
        return;
    }
    let bench = Workbench::new();
    bench.issue("server", "ca", NAMED, "");
    bench.key("client", P256);
    bench.run("openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem");
    let port = own_address().port();
    let shown = |name: &str| bench.path(name).display().to_string();
    let Some(redis) = RedisServer::start(&format!(
        "tls-port {port}\ntls-auth-clients yes\ntls-cert-file {}\ntls-key-file {}\ntls-ca-cert-file {}",
        shown("server.pem"),
        shown("server.key"),
        shown("ca.pem")
    )) else {
        return;
    };
    let address = SocketAddr::new(redis.address().ip(), port);
    let ambassador = Launch::new()
        .variable("REDIS_PORT_6379_TCP", format!("rediss://{address}"))
        .variable("REDIS_TLS_SERVER_NAME", "localhost")
        .variable("REDIS_TLS_CA_FILE", bench.path("ca.pem"))
        .variable("REDIS_LISTEN", "127.0.0.1:0")
        .tls_identity("REDIS", &bench.identity("client"))
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Clients' certificates are told in the same words, with the lines for clients, to both sides.
#[test]
fn what_is_wrong_with_a_clients_certificate_is_told_with_the_line_that_mends_it() {
    if command_is_missing("openssl") {
        return;
    }
    let target = Target::start().serve(|mut peer| {
        peer.expect(b"PING\r\n");
        peer.send(b"+PONG\r\n");
        peer.expect_gone();
    });
    for (made, words, remedy) in [
        (
            "openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key -CAcreateserial -out client.pem",
            "X.509's first version, which has no place to say what it is for",
            "(echo extendedKeyUsage=clientAuth) > client.ext",
        ),
        (
            "openssl req -x509 -key client.key -subj /CN=app -out client.pem",
            "that of an authority",
            "a certificate for the client itself",
        ),
        (
            "echo extendedKeyUsage=serverAuth > x.ext && openssl x509 -req -in client.csr -CA ca.pem -CAkey ca.key \
             -CAcreateserial -extfile x.ext -out client.pem",
            "not meant for this side",
            "(echo extendedKeyUsage=clientAuth) > client.ext",
        ),
    ] {
        let bench = Workbench::new();
        bench.issue("server", "ca", NAMED, "");
        bench.key("client", P256);
        bench.run(made);
        let trust = || bench.run("cat ca.pem client.pem > trusted.pem");
        trust();
        let far = Launch::redis(target.address())
            .listen_tls("REDIS", &bench.identity("server"))
            .variable("REDIS_LISTEN_TLS_CLIENT_CA_FILE", bench.path("trusted.pem"))
            .start();
        let near = || {
            Launch::new()
                .variable("REDIS_PORT_6379_TCP", format!("rediss://{}", far.address("redis:6379")))
                .variable("REDIS_TLS_SERVER_NAME", "localhost")
                .variable("REDIS_TLS_CA_FILE", bench.path("ca.pem"))
                .variable("REDIS_LISTEN", "127.0.0.1:0")
                .tls_identity("REDIS", &bench.identity("client"))
        };
        let to_near = told(near());
        to_near.expect(&["refused our client certificate", words], remedy);
        let to_far = Told::of(&far.wait_for("connection failed"), "error");
        to_far.expect(&["the client's certificate", words], remedy);
        assert_eq!(to_near.line(), to_far.line());

        bench.run(to_near.line());
        trust();
        let near = near().start();
        let mut client = near.connect("redis:6379");
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
    }
}
