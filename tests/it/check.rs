//! `check`: what an operator is told about every link before, or instead of, the first client.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;
use serde_json::{Value, json};

use crate::support::{
    Authority, BlackHole, Launch, Quorum, RedisServer, Served, Target, TlsPeer, fixture, fixture_text,
    on_a_terminal, password, play_sentinel, redis_over_tls, shown, unknown_command,
};
use crate::tls::launch_over_tls;

/// What `check --format json` says, and that its exit code agrees with it.
#[track_caller]
pub(crate) fn check(launch: Launch) -> Value {
    let finished = launch.argument("check").argument("--format").argument("json").finish();
    let report: Value = serde_json::from_str(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {}{}", finished.stdout, finished.stderr));
    assert_eq!(finished.code, Some(i32::from(report["ok"] != true)), "{report:#}");
    report
}

/// The one finding at this level, which has these words and this remedy; other levels are not looked at.
#[track_caller]
pub(crate) fn expect(report: &Value, level: &str, about: &str, words: &[&str], remedy: &str) {
    let findings: Vec<_> =
        report["findings"].as_array().unwrap().iter().filter(|finding| finding["level"] == level).collect();
    assert_eq!(findings.len(), 1, "{report:#}");
    assert_eq!(findings[0]["about"], about, "{report:#}");
    for words in words {
        assert!(findings[0]["what"].as_str().unwrap().contains(words), "no {words}: {report:#}");
    }
    assert!(findings[0]["remedy"].as_str().unwrap().contains(remedy), "no {remedy}: {report:#}");
    assert_eq!(report["ok"], level != "problem", "{report:#}");
}

/// How each step with the first backend went.
fn steps(report: &Value) -> Vec<(&str, &str)> {
    let steps = report["links"][0]["backends"][0]["steps"].as_array().expect("steps");
    steps.iter().map(|step| (step["step"].as_str().unwrap(), step["state"].as_str().unwrap())).collect()
}

/// A server that answers each command with what `answer` has for its name.
fn scripted(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Served {
    Target::start().serve(move |peer| play_sentinel(peer, &answer))
}

/// Every fact that scripts read, under names that last.
#[test]
fn a_link_that_serves_is_described_in_json() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("user app on >{secret} ~* +@all\nuser default off"))
    else {
        return;
    };
    let mut report = check(
        Launch::redis(server.address())
            .variable("REDIS_AUTH", &secret)
            .variable("REDIS_USERNAME", "app")
            .variable("REDIS_DB", "3"),
    );
    assert_eq!(
        steps(&report),
        [("connect", "ok"), ("auth", "ok"), ("select", "ok"), ("ping", "ok")],
        "{report:#}"
    );
    let backend = &mut report["links"][0]["backends"][0];
    assert!(backend["latency_ms"].as_f64().is_some_and(|time| time > 0.0), "{backend}");
    assert!(backend["server"]["version"].as_str().is_some_and(|version| version.contains('.')), "{backend}");
    backend["latency_ms"] = Value::Null;
    backend["server"]["version"] = Value::Null;
    backend["steps"] = Value::Null;
    let address = server.address();
    assert_eq!(
        report,
        json!({
            "ok": true,
            "links": [{
                "link": "redis:6379",
                "variable": "REDIS_PORT_6379_TCP",
                "kind": "redis",
                "target": format!("redis://{address}"),
                "state": "ok",
                "backends": [{
                    "backend": address.to_string(),
                    "state": "ok",
                    "addresses": [address.ip()],
                    "address": address.ip(),
                    "steps": null,
                    "tls": null,
                    "auth": {"username": "app", "source": "env", "variable": "REDIS_AUTH", "which": "current"},
                    "db": 3,
                    "latency_ms": null,
                    "server": {"kind": "Redis", "version": null, "mode": "standalone", "role": "master"}
                }],
                "cluster": null
            }],
            "findings": []
        })
    );
}

/// In a container localhost is nobody else.
#[test]
fn a_target_at_localhost_is_told_what_that_is() {
    let finished = Launch::redis("localhost:1").argument("check").finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let words = "in a container localhost is the container itself";
    assert!(finished.stdout.contains(words), "{}", finished.stdout);
}

/// The same for people; without colour where nobody looks.
#[test]
fn the_table_tells_it_at_a_glance() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else {
        return;
    };
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", &secret);
    let finished = launch.plain_link("DB", "127.0.0.1:1").argument("check").finish();
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    let cells = |part: &str| -> Vec<_> {
        let line = finished.stdout.lines().find(|line| line.contains(part)).expect("a line of the table");
        line.split("   ").filter(|cell| !cell.is_empty()).map(|cell| cell.trim().to_owned()).collect()
    };
    let header = cells("STATE ");
    let cell = |link: &str, column: &str| {
        let at = header
            .iter()
            .position(|name| *name == column.to_uppercase())
            .unwrap_or_else(|| panic!("no {column}: {header:?}"));
        cells(link)[at].clone()
    };
    let address = server.address().to_string();
    for (column, shown) in
        [("state", "ok"), ("link", "redis:6379"), ("dials", &address), ("auth", "env"), ("role", "master")]
    {
        assert_eq!(cell("redis:6379", column), shown, "{column}: {}", finished.stdout);
    }
    assert!(cell("redis:6379", "server").starts_with("Redis "), "{}", finished.stdout);
    assert!(cell("redis:6379", "ping").ends_with(" ms"), "{}", finished.stdout);
    for (column, shown) in
        [("state", "problem"), ("dials", "127.0.0.1:1"), ("connect", "failed"), ("ping", "-")]
    {
        assert_eq!(cell("db:5432", column), shown, "{column}: {}", finished.stdout);
    }
    // What no link has needs no column.
    assert!(!header.contains(&"TLS".to_owned()), "{header:?}");
    for words in
        ["problem: db:5432: can't connect to 127.0.0.1:1: Connection refused", "  remedy: check", "1 problem"]
    {
        assert!(finished.stdout.contains(words), "no {words}: {}", finished.stdout);
    }
    assert!(!finished.stdout.contains('\x1b'), "{}", finished.stdout);
}

/// Colour is for terminals, and not for those who do not want it.
#[test]
fn a_terminal_sees_colour_unless_no_color_is_set() {
    let printed = |no_color: Option<&str>| {
        let mut command = on_a_terminal(80, 24, "check")?;
        command.env("DB_PORT_5432_TCP", "tcp://127.0.0.1:1");
        command.envs(no_color.map(|value| ("NO_COLOR", value)));
        let output = command.output().expect("script runs");
        Some(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let Some(coloured) = printed(None) else { return };
    assert!(coloured.contains("\x1b[1;31mproblem\x1b[0m"), "{coloured}");
    let plain = printed(Some("1")).expect("a terminal");
    assert!(plain.contains("problem") && !plain.contains("\x1b["), "{plain}");
}

/// A table that is broken into pieces is none.
#[test]
fn a_narrow_terminal_sees_lines_instead_of_a_table() {
    let run = |columns| {
        let mut command = on_a_terminal(columns, 24, "check")?;
        command.env("DB_PORT_5432_TCP", "tcp://127.0.0.1:1");
        Some(shown(command))
    };
    let (Some(wide), Some(narrow)) = (run(80), run(30)) else { return };
    assert!(wide.contains("STATE "), "{wide}");
    assert!(!narrow.contains("STATE ") && narrow.contains("problem db:5432 127.0.0.1:1"), "{narrow}");
    assert!(narrow.contains("connect failed"), "{narrow}");
}

#[test]
fn a_mistake_in_the_configuration_is_exit_code_2() {
    Launch::redis("127.0.0.1:1")
        .variable("REDIS_DB", "x")
        .argument("check")
        .finish()
        .expect_mistake("REDIS_DB");
}

#[test]
fn a_refused_password_is_told_with_the_variable_that_has_it() {
    let Some(server) = RedisServer::start(&format!("requirepass {}", password())) else {
        return;
    };
    let report = check(Launch::redis(server.address()).variable("REDIS_AUTH", password()));
    expect(&report, "problem", "auth", &["refused the password", "WRONGPASS"], "REDIS_AUTH");
    assert_eq!(steps(&report), [("connect", "ok"), ("auth", "failed"), ("ping", "not_reached")]);
}

/// How long it is, and what stands around it, whether or not that is all that is wrong; never what it is.
#[test]
fn white_space_around_a_refused_password_is_told() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("password");
    for (content, bytes) in [(format!("{secret}\n\n"), secret.len() + 1), ("wrong \n".to_owned(), 6)] {
        std::fs::write(&path, content).unwrap();
        let report = check(Launch::redis(server.address()).variable("REDIS_AUTH_FILE", &path));
        let remedy = format!("{bytes} bytes, ends with a ");
        expect(&report, "problem", "auth", &["refused the password"], &remedy);
    }
}

/// It works, and will not for long.
#[test]
fn a_server_that_takes_the_previous_password_is_a_warning() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("previous");
    std::fs::write(&path, secret).unwrap();
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", password());
    let report = check(launch.variable("REDIS_AUTH_PREVIOUS_FILE", &path));
    expect(&report, "warning", "auth", &["AUTH_PREVIOUS_FILE"], "REDIS_AUTH");
    assert_eq!(report["links"][0]["backends"][0]["auth"]["which"], "previous", "{report:#}");
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", password());
    let report = check(launch.variable("REDIS_PORT_6379_AUTH_PREVIOUS_FILE", &path));
    expect(&report, "warning", "auth", &["takes that of REDIS_PORT_6379_AUTH_PREVIOUS_FILE"], "REDIS_AUTH");
}

#[test]
fn a_password_that_is_wanted_and_not_set_is_told() {
    let Some(server) = RedisServer::start(&format!("requirepass {}", password())) else {
        return;
    };
    let report = check(Launch::redis(server.address()));
    expect(&report, "problem", "ping", &["wants a password", "NOAUTH"], "REDIS_AUTH_FILE");
    let report = check(Launch::redis(server.address()).variable("REDIS_DB", "1"));
    expect(&report, "problem", "select", &["wants a password", "NOAUTH"], "REDIS_AUTH_FILE");
}

/// Whoever sets a password takes the server for a protected one.
#[test]
fn a_server_that_wants_no_password_is_a_problem_where_one_is_set() {
    let Some(server) = RedisServer::start("") else {
        return;
    };
    let with_password = || Launch::redis(server.address()).variable("REDIS_AUTH", password());
    let words = ["lets anyone in", "wants no password", "REDIS_AUTH"];
    expect(&check(with_password()), "problem", "open", &words, "requirepass");
    // It would take anything of the user that AUTH means without a name; so that name is not said.
    let report = check(with_password().variable("REDIS_USERNAME", "default"));
    expect(&report, "problem", "open", &words, "requirepass");
    // And where none is set it is only worth knowing.
    expect(&check(Launch::redis(server.address())), "note", "open", &["wants no password"], "requirepass");
}

/// As Dragonfly without a password does.
#[test]
fn a_server_that_takes_any_password_is_found_out() {
    let server = scripted(|name| match name {
        "AUTH" => "+OK\r\n".to_owned(),
        "PING" => "+PONG\r\n".to_owned(),
        "INFO" => fixture_text("replies/dragonfly/info.resp").to_owned(),
        _ => unknown_command(name),
    });
    let report = check(Launch::redis(server.address()).variable("REDIS_AUTH", password()));
    expect(&report, "problem", "open", &["takes any password"], "requirepass");
    assert_eq!(report["links"][0]["backends"][0]["server"]["kind"], "Dragonfly", "{report:#}");
}

/// A server where strangers are the user "default", and our own user has a password.
#[test]
fn a_server_that_serves_strangers_beside_our_user_is_a_warning() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("user app on >{secret} ~* +@all")) else {
        return;
    };
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", secret);
    let report = check(launch.variable("REDIS_USERNAME", "app"));
    expect(&report, "warning", "open", &["serves anyone without a password"], "ACL SETUSER default");
}

/// One line a server: the operator has to be able to find the others.
#[test]
fn the_log_of_acls_gets_one_entry() {
    let secret = password();
    let Some(server) = RedisServer::start(&format!("requirepass {secret}")) else {
        return;
    };
    check(Launch::redis(server.address()).variable("REDIS_AUTH", &secret));
    let mut administrator = server.administrator(&secret);
    let log: Vec<HashMap<String, redis::Value>> =
        redis::cmd("ACL").arg("LOG").query(&mut administrator).expect("ACL LOG");
    assert_eq!(log.len(), 1, "{log:?}");
    assert_eq!(log[0]["count"], redis::Value::Int(1), "{log:?}");
}

/// AUTH was good; it is SELECT that fails.
#[test]
fn a_user_that_may_not_select_is_told_from_a_wrong_password() {
    let secret = password();
    let Some(server) =
        RedisServer::start(&format!("user app on >{secret} ~* +@all -select\nuser default off"))
    else {
        return;
    };
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", secret).variable("REDIS_DB", "1");
    let report = check(launch.variable("REDIS_USERNAME", "app"));
    expect(&report, "problem", "select", &["NOPERM"], "+select");
    let went = [("connect", "ok"), ("auth", "ok"), ("select", "failed"), ("ping", "ok")];
    assert_eq!(steps(&report), went);
}

/// Most users of applications may not send INFO.
#[test]
fn a_server_is_recognised_where_info_is_forbidden() {
    let secret = password();
    let Some(server) =
        RedisServer::start(&format!("user app on >{secret} ~* +@all -@dangerous\nuser default off"))
    else {
        return;
    };
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", secret);
    let report = check(launch.variable("REDIS_USERNAME", "app"));
    let told = &report["links"][0]["backends"][0]["server"];
    assert_eq!([&told["kind"], &told["role"]], ["Redis", "master"], "{report:#}");
    assert_eq!(report["ok"], true, "{report:#}");
}

#[test]
fn what_a_server_does_not_tell_is_not_told() {
    let server = scripted(|name| match name {
        "PING" => "+PONG\r\n".to_owned(),
        _ => unknown_command(name),
    });
    let finished = Launch::redis(server.address()).argument("check").finish();
    assert_eq!(finished.code, Some(0), "{}{}", finished.stdout, finished.stderr);
    assert!(finished.stdout.contains("not told"), "{}", finished.stdout);
}

#[test]
fn a_sentinel_is_not_taken_for_redis_and_leads_to_it() {
    let secret = password();
    let Some(quorum) = Quorum::start(&secret) else {
        return;
    };
    let address = quorum.sentinels[0].address();
    let launch = || Launch::redis(address).variable("REDIS_AUTH", &secret);
    for launch in [launch(), launch().variable("REDIS_DB", "0"), Launch::redis(address)] {
        let remedy = format!("redis+sentinel://{address}/SERVICE");
        expect(&check(launch), "problem", "sentinel", &["is a Sentinel"], &remedy);
    }
    let report = check(launch().variable("REDIS_PORT_6379_TCP", quorum.target()));
    let backend = &report["links"][0]["backends"][0];
    assert_eq!([&backend["server"]["role"], &report["ok"]], [&json!("master"), &json!(true)], "{report:#}");
}

#[test]
fn tls_that_is_spoken_to_a_plain_port_is_told_before_the_timeout() {
    let Some(server) = RedisServer::start(&format!("requirepass {}", password())) else {
        return;
    };
    let authority = Authority::new("Test CA");
    let launch = launch_over_tls(server.address(), &authority).variable("REDIS_CONNECT_TIMEOUT", "20s");
    expect(&check(launch), "problem", "tls", &["does not speak TLS, but plain Redis"], "redis://");
}

#[test]
fn a_plain_link_to_a_port_that_speaks_tls_is_told() {
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "") else {
        return;
    };
    for launch in [Launch::redis(address), Launch::redis(address).variable("REDIS_AUTH", password())] {
        let report = check(launch);
        let about = if report["links"][0]["backends"][0]["auth"].is_null() { "ping" } else { "auth" };
        expect(&report, "problem", about, &["speaks TLS"], "rediss://");
    }
}

/// What the certificate says, and that it ends soon.
#[test]
fn the_certificate_is_described_and_its_end_announced() {
    const DAY: Duration = Duration::from_hours(24);
    let authority = Authority::new("Test CA");
    for (days, soon) in [(20, true), (100, false)] {
        let ends = SystemTime::now() + DAY * days;
        let names = ["127.0.0.1", "redis.example", "*.redis.example"];
        let identity = authority.issue_with(&names, &KeyPair::generate().unwrap(), |params| {
            params.not_after = ends.into();
        });
        let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
        let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
        let launch = Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
            .variable("DB_TLS_CA_FILE", authority.file());
        let report = check(launch);
        let tls = &report["links"][0]["backends"][0]["tls"];
        let certificate = &tls["certificate"];
        assert_eq!(tls["version"], "1.3", "{report:#}");
        assert_eq!(tls["verified"], true, "{report:#}");
        let mut told: Vec<_> = certificate["names"].as_array().expect("names").clone();
        told.sort_by_key(ToString::to_string);
        assert_eq!(told, ["*.redis.example", "127.0.0.1", "redis.example"], "{report:#}");
        assert_eq!(certificate["issuer"], "Test CA", "{report:#}");
        let date = humantime::format_rfc3339_seconds(ends).to_string();
        assert_eq!(certificate["ends"], date, "{report:#}");
        assert_eq!(steps(&report), [("connect", "ok"), ("tls", "ok")], "{report:#}");
        if soon {
            expect(&report, "warning", "certificate", &[&date, "in 19 days"], "renew");
        } else {
            assert_eq!(report["findings"], json!([]), "{report:#}");
        }
    }
}

/// Ours as well: those that clients and the target are shown.
#[test]
fn the_end_of_our_own_certificates_is_announced() {
    let authority = Authority::new("Test CA");
    let ending = |ends: SystemTime| {
        authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
            params.not_after = ends.into();
        })
    };
    let target = Target::start();
    let soon = ending(SystemTime::now() + Duration::from_hours(48));
    let report = check(Launch::plain(target.address()).listen_tls("DB", &soon));
    let path = soon.certificate.to_str().unwrap();
    expect(&report, "warning", "certificate", &["shown to clients", "in a day"], path);
    let past = ending(SystemTime::now() - Duration::from_hours(48));
    let report = check(Launch::plain(target.address()).listen_tls("DB", &past));
    expect(
        &report,
        "problem",
        "certificate",
        &["shown to clients has expired"],
        past.certificate.to_str().unwrap(),
    );
}

/// An authority that has expired, or is about to: who verifies by the book refuses what it vouches for, and rustls does not.
#[test]
fn the_end_of_an_authority_is_announced() {
    const DAY: Duration = Duration::from_hours(24);
    let now = SystemTime::now();
    for (ends, words) in [
        (now - 2 * DAY, "has expired on "),
        (now + 20 * DAY + DAY / 2, "in 20 days"),
        (now + 2 * DAY + DAY / 2, "in 2 days"),
    ] {
        let authority = Authority::new_with("Old CA", |params| params.not_after = ends.into());
        let date = humantime::format_rfc3339_seconds(ends).to_string();
        // The one that vouches for the target, which may send it along.
        for identity in [authority.issue(&["127.0.0.1"]), authority.issue_with_chain(&["127.0.0.1"])] {
            let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
            let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
            // What else is in the file is nobody's business.
            let others = Authority::new_with("Other CA", |params| params.not_after = ends.into());
            let file = std::fs::read_to_string(others.file()).unwrap()
                + &std::fs::read_to_string(authority.file()).unwrap();
            std::fs::write(authority.path("file.pem"), file).unwrap();
            let report = check(
                Launch::new()
                    .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
                    .variable("DB_TLS_CA_FILE", authority.path("file.pem")),
            );
            expect(&report, "warning", "certificate", &["authority \"Old CA\"", words, &date], "renew");
            let tls = &report["links"][0]["backends"][0]["tls"];
            assert_eq!(tls["authority"], json!({"name": "Old CA", "ends": date}), "{report:#}");
            assert_eq!(tls["verify"], "full", "{report:#}");
        }
        // And the one that vouches for clients.
        let target = Target::start();
        let others = Authority::new("Test CA");
        let report = check(
            Launch::plain(target.address())
                .listen_tls("DB", &others.issue(&["127.0.0.1"]))
                .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", authority.file()),
        );
        expect(&report, "warning", "certificate", &["authority \"Old CA\"", words, &date], "renew");
    }
}

/// One between the target and its authority ends the same way.
#[test]
fn the_end_of_an_authority_between_is_announced() {
    let ends = SystemTime::now() + Duration::from_hours(60);
    let root = Authority::new("Test CA");
    let between = root.below("The one between", |params| params.not_after = ends.into());
    let config = root.server(&between.issue_with_chain(&["127.0.0.1"]), false, rustls::ALL_VERSIONS);
    let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let report = check(
        Launch::new()
            .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
            .variable("DB_TLS_CA_FILE", root.file()),
    );
    expect(&report, "warning", "certificate", &["authority \"The one between\"", "in 2 days"], "renew");
}

/// Clients would only say that it is not good.
#[test]
fn a_certificate_for_clients_without_a_name_is_a_warning() {
    let authority = Authority::new("Test CA");
    let target = Target::start();
    let nameless = authority.issue(&[]);
    let report = check(Launch::plain(target.address()).listen_tls("DB", &nameless));
    let path = nameless.certificate.to_str().unwrap();
    expect(
        &report,
        "warning",
        "certificate",
        &["clients may refuse the certificate", "has no name that counts"],
        path,
    );
}

/// How much of a certificate is verified is shown, in JSON and in the table.
#[test]
fn what_is_verified_is_shown() {
    let authority = Authority::new("Test CA");
    for (verify, verified, shown) in
        [("full", true, "1.3"), ("ca", true, "1.3, any name"), ("none", false, "1.3, unverified")]
    {
        let identity = authority.issue(&["127.0.0.1"]);
        let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
        let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
        let launch = || {
            Launch::new()
                .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
                .variable("DB_TLS_CA_FILE", authority.file())
                .variable("DB_TLS_VERIFY", verify)
        };
        let report = check(launch());
        let tls = &report["links"][0]["backends"][0]["tls"];
        assert_eq!((&tls["verify"], &tls["verified"]), (&json!(verify), &json!(verified)), "{report:#}");
        let table = launch().argument("check").finish().stdout;
        let has = table.lines().any(|line| line.split("   ").any(|cell| cell.trim() == shown));
        assert!(has, "no {shown}: {table}");
    }
}

#[test]
fn a_link_that_verifies_nobody_is_a_warning() {
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "tls-auth-clients no") else {
        return;
    };
    let launch = launch_over_tls(address, &authority)
        .without("REDIS_TLS_CA_FILE")
        .without("REDIS_TLS_SERVER_NAME")
        .variable("REDIS_TLS_INSECURE", "true");
    let report = check(launch);
    assert_eq!(report["links"][0]["backends"][0]["tls"]["verified"], false, "{report:#}");
    let findings = report["findings"].as_array().unwrap();
    let warns =
        |finding: &Value| finding["level"] == "warning" && finding.to_string().contains("TLS_INSECURE");
    assert!(findings.iter().any(warns), "{report:#}");
    assert_eq!(report["ok"], true, "{report:#}");
}

/// It serves, because nobody looks; somebody should.
#[test]
fn a_certificate_that_has_expired_is_told_even_where_nobody_verifies() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue_with(&["127.0.0.1"], &KeyPair::generate().unwrap(), |params| {
        params.not_after = rcgen::date_time_ymd(2021, 3, 4);
    });
    let config = authority.server(&identity, false, rustls::ALL_VERSIONS);
    let server = Target::start().serve(move |peer| drop(TlsPeer::accept(peer, &config)));
    let launch = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{}", server.address()))
        .variable("DB_TLS_INSECURE", "true");
    let report = check(launch);
    let findings = report["findings"].to_string();
    assert!(findings.contains("has expired on 2021-03-04"), "{report:#}");
    assert_eq!(report["ok"], true, "{report:#}");
}

/// In TLS 1.3 the server says so only when the handshake is over for us.
#[test]
fn a_client_certificate_that_is_demanded_is_a_matter_of_tls() {
    let authority = Authority::new("Test CA");
    let Some((_server, address)) = redis_over_tls(&authority, "") else {
        return;
    };
    let report = check(launch_over_tls(address, &authority));
    expect(&report, "problem", "tls", &["demands a client certificate"], "REDIS_TLS_CERT_FILE");
    assert_eq!(steps(&report), [("connect", "ok"), ("tls", "failed"), ("ping", "not_reached")]);
}

/// A Redis without a password is open to anyone only where it asks for no certificate either.
#[test]
fn a_server_that_demands_a_client_certificate_lets_not_just_anyone_in() {
    let authority = Authority::new("Test CA");
    let identity = authority.issue(&["client"]);
    for (settings, is_open) in [
        ("tls-auth-clients yes", false),
        ("tls-auth-clients yes\ntls-protocols TLSv1.2", false),
        ("tls-auth-clients optional", true),
        ("tls-auth-clients no", true),
    ] {
        let Some((_server, address)) = redis_over_tls(&authority, settings) else {
            return;
        };
        let report = check(launch_over_tls(address, &authority).tls_identity("REDIS", &identity));
        assert_eq!(report["ok"], true, "{report:#}");
        if is_open {
            expect(&report, "note", "open", &["wants no password"], "requirepass");
        } else {
            assert_eq!(report["findings"], json!([]), "{settings}: {report:#}");
        }
    }
}

/// An error of TLS has the same words as in the log.
#[test]
fn a_certificate_that_nobody_vouches_for_is_a_problem() {
    let (known, unknown) = (Authority::new("Known CA"), Authority::new("Some Other CA"));
    let Some((_server, address)) = redis_over_tls(&unknown, "") else {
        return;
    };
    let report = check(launch_over_tls(address, &known));
    expect(
        &report,
        "problem",
        "tls",
        &["unknown authority", "Some Other CA"],
        known.file().to_str().unwrap(),
    );
}

#[test]
fn a_node_of_a_cluster_is_a_warning_and_its_database_a_problem() {
    let Some(server) = RedisServer::start("cluster-enabled yes") else {
        return;
    };
    let report = check(Launch::redis(server.address()));
    expect(&report, "warning", "cluster", &["MOVED"], "without cluster mode");
    let target = format!("write REDIS_PORT_6379_TCP=redis+cluster://{},", server.address());
    expect(&report, "warning", "cluster", &["MOVED"], &target);
    let report = check(Launch::redis(server.address()).variable("REDIS_DB", "1"));
    expect(&report, "problem", "select", &["cluster mode"], "remove REDIS_DB");
}

/// What a Redis answers to strangers from other hosts, and then hangs up.
#[test]
fn protected_mode_is_recognised() {
    let server = Target::start().serve(|mut peer| {
        let _ = peer.try_send(fixture("replies/redis-7.0/protected-mode.resp"));
        let _ = peer.try_finish_sending();
    });
    for launch in [Launch::redis(server.address()), Launch::redis(server.address()).variable("REDIS_DB", "1")]
    {
        let report = check(launch);
        let about = if report["links"][0]["backends"][0]["db"].is_null() { "ping" } else { "select" };
        expect(&report, "problem", about, &["protected mode"], "requirepass");
    }
}

/// It may be older than HELLO, and have another name for INFO.
#[test]
fn a_role_that_only_role_tells_is_believed() {
    let server = scripted(|name| match name {
        "PING" => "+PONG\r\n".to_owned(),
        "ROLE" => fixture_text("replies/redis-5/role.resp").to_owned(),
        _ => unknown_command(name),
    });
    let report = check(Launch::redis(server.address()).variable("REDIS_ROLE", "master"));
    assert_eq!(report["ok"], true, "{report:#}");
}

/// Both at once, so that nobody has to mend one to hear of the other.
#[test]
fn a_wrong_role_is_told_beside_a_database_that_is_refused() {
    let server = scripted(|name| match name {
        "PING" => "+PONG\r\n".to_owned(),
        "SELECT" => "-ERR DB index is out of range\r\n".to_owned(),
        "ROLE" => fixture_text("replies/redis-5/role.resp").to_owned(),
        _ => unknown_command(name),
    });
    let launch = Launch::redis(server.address()).variable("REDIS_DB", "99");
    let report = check(launch.variable("REDIS_ROLE", "replica"));
    let went = [("connect", "ok"), ("select", "failed"), ("ping", "ok"), ("role", "failed")];
    assert_eq!(steps(&report), went, "{report:#}");
}

/// What ends at the deadline is the step that was under way, and not the handshake's first.
#[test]
fn a_role_that_is_not_told_in_time_is_the_step_that_failed() {
    let server = scripted(|name| match name {
        "AUTH" => "+OK\r\n".to_owned(),
        _ => String::new(),
    });
    let launch = Launch::redis(server.address()).variable("REDIS_AUTH", password());
    let launch = launch.variable("REDIS_ROLE", "master").variable("REDIS_CONNECT_TIMEOUT", "500ms");
    let report = check(launch);
    expect(&report, "problem", "role", &["took longer than 500ms"], "");
    let went = [("connect", "ok"), ("auth", "ok"), ("ping", "not_reached"), ("role", "failed")];
    assert_eq!(steps(&report), went, "{report:#}");
}

#[test]
fn a_server_that_is_loading_is_not_ready() {
    let loading =
        fixture_text("replies/redis-7.0/loading.resp").strip_prefix("+OK\r\n").expect("AUTH succeeds");
    let server = scripted(|name| match name {
        "AUTH" => "+OK\r\n".to_owned(),
        "PING" => loading.to_owned(),
        _ => unknown_command(name),
    });
    expect(&check(Launch::redis(server.address())), "problem", "ping", &["not ready", "LOADING"], "wait");
}

#[test]
fn a_replica_is_noted_and_a_role_decides() {
    let (Some(master), Some(other)) = (RedisServer::start(""), RedisServer::start("")) else {
        return;
    };
    let replica =
        RedisServer::start(&format!("replicaof {} {}", other.address().ip(), other.address().port()));
    let replica = replica.expect("a server");
    let notes = |report: &Value, words: &str| {
        let findings = report["findings"].as_array().unwrap();
        findings
            .iter()
            .any(|found| found["level"] == "note" && found["what"].as_str().unwrap().contains(words))
    };
    let report = check(Launch::redis(replica.address()));
    assert!(notes(&report, "is a replica") && report["ok"] == true, "{report:#}");
    let both = format!("{},{}", replica.address(), master.address());
    let report = check(Launch::redis(both).variable("REDIS_ROLE", "master"));
    assert!(notes(&report, "is a replica, not a master") && report["ok"] == true, "{report:#}");
    let report = check(Launch::redis(replica.address()).variable("REDIS_ROLE", "master"));
    expect(&report, "problem", "role", &["is a replica, not a master"], "REDIS_ROLE");
}

#[test]
fn a_name_that_does_not_resolve_is_told() {
    // Nobody answers there.
    let launch = Launch::redis("redis.invalid:6379").variable("AMBASSADOR_DNS", "127.0.0.1:1");
    let report = check(launch);
    expect(&report, "problem", "resolve", &["redis.invalid can't be resolved"], "REDIS_PORT_6379_TCP");
    assert_eq!(steps(&report)[..2], [("resolve", "failed"), ("connect", "not_reached")]);
}

/// One that hangs, at any step, holds nobody up for longer, and the others not at all.
#[test]
fn a_target_that_hangs_ends_at_the_connect_timeout() {
    let hole = BlackHole::start();
    let silent = Target::start();
    let report = check(
        Launch::redis(silent.address())
            .plain_link("DB", hole.address())
            .variable("AMBASSADOR_CONNECT_TIMEOUT", "700ms"),
    );
    let what = report["findings"].to_string();
    assert!(what.contains("connecting to") && what.contains("the handshake with"), "{report:#}");
    assert!(what.matches("took longer than 700ms").count() == 2, "{report:#}");
}

/// A plain tunnel is dialled, and nothing is said on it.
#[test]
fn a_plain_tunnel_is_only_dialled() {
    let target = Target::start();
    let report = check(Launch::plain(target.address()));
    assert_eq!(steps(&report), [("connect", "ok")]);
    assert_eq!(report["findings"], json!([]), "{report:#}");
    assert!(target.accept().expect_rest().is_empty());
}

/// A link without a password whose name says Redis.
fn tunnel_to_redis(server: impl std::fmt::Display) -> Launch {
    Launch::redis("").variable("REDIS_PORT_6379_TCP", format!("tcp://{server}"))
}

/// It works for clients that send the password by themselves, and hardly anybody means it.
#[test]
fn a_plain_tunnel_to_a_redis_that_wants_a_password_is_a_warning() {
    let Some(server) = RedisServer::start(&format!("requirepass {}", password())) else {
        return;
    };
    let report = check(tunnel_to_redis(server.address()));
    expect(&report, "warning", "tunnel", &["plain tunnel", "NOAUTH"], "set REDIS_AUTH_FILE");
    assert_eq!(steps(&report), [("connect", "ok")]);
    assert_eq!(report["links"][0]["kind"], "tcp", "{report:#}");
    // By the alias alone, which says more than the port.
    let elsewhere = Launch::new()
        .variable("MY_REDIS_PORT_7000_TCP", format!("tcp://{}", server.address()))
        .variable("MY_REDIS_LISTEN", "127.0.0.1:0");
    expect(&check(elsewhere), "warning", "tunnel", &["NOAUTH"], "set MY_REDIS_AUTH_FILE");
}

/// Of an alias with several ports, a password for all of it goes to one alone: for another port the remedy names that port's own
/// variable.
#[test]
fn the_remedy_for_another_port_names_no_password_of_the_first() {
    let servers = [(); 2].map(|()| {
        Target::start().serve(|mut peer| {
            peer.expect_ping();
            peer.send(b"-NOAUTH Authentication required.\r\n");
        })
    });
    for scheme in ["tcp", "redis"] {
        let launch = [6379, 6380].iter().zip(&servers).fold(Launch::new(), |launch, (port, server)| {
            launch
                .variable(format!("REDIS_PORT_{port}_TCP"), format!("{scheme}://{}", server.address()))
                .variable(format!("REDIS_PORT_{port}_LISTEN"), "127.0.0.1:0")
        });
        let report = check(launch);
        let remedies = report["findings"].as_array().expect("a list").iter();
        let remedies =
            remedies.map(|finding| (&finding["link"], finding["remedy"].as_str().unwrap_or_default()));
        for (link, variable) in
            [("redis:6379", "set REDIS_AUTH_FILE"), ("redis:6380", "set REDIS_PORT_6380_AUTH_FILE")]
        {
            let is_told = |(about, remedy): (&Value, &str)| about == link && remedy.contains(variable);
            assert!(remedies.clone().any(is_told), "{variable}: {report:#}");
        }
    }
}

/// The remedy names the scheme where a password alone makes no Redis link of it.
#[test]
fn a_plain_tunnel_of_another_scheme_to_a_redis_is_told_its_own_scheme() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("socket");
    let target = Target::unix(&path);
    let server = std::thread::spawn(move || {
        let mut peer = target.accept();
        peer.expect_ping();
        peer.send(b"-NOAUTH Authentication required.\r\n");
    });
    let launch = Launch::redis("").variable("REDIS_PORT_6379_TCP", format!("unix://{}", path.display()));
    expect(&check(launch), "warning", "tunnel", &["NOAUTH"], "redis+unix:// in REDIS_PORT_6379_TCP");
    server.join().expect("a PING");
}

#[test]
fn a_plain_tunnel_to_an_open_redis_is_noted() {
    let Some(server) = RedisServer::start("") else {
        return;
    };
    let report = check(tunnel_to_redis(server.address()));
    expect(&report, "note", "tunnel", &["without a password"], "write redis:// in REDIS_PORT_6379_TCP");
}

/// Redis' protected mode says so to whoever connects.
#[test]
fn a_plain_tunnel_to_a_redis_in_protected_mode_is_a_warning() {
    let server = Target::start().serve(|mut peer| {
        let _ = peer.try_send(fixture("replies/redis-7.0/protected-mode.resp"));
        let _ = peer.try_finish_sending();
    });
    let report = check(tunnel_to_redis(server.address()));
    expect(&report, "warning", "tunnel", &["protected mode"], "requirepass");
}

/// Whatever else has the port is no business of ours.
#[test]
fn a_plain_tunnel_to_something_else_on_the_port_of_redis_is_fine() {
    for answer in ["", "HTTP/1.1 400 Bad Request\r\n\r\n", "-ERR unknown command\r\n"] {
        let server = Target::start().serve(move |mut peer| {
            peer.expect_ping();
            let _ = peer.try_send(answer.as_bytes());
        });
        let report = check(tunnel_to_redis(server.address()));
        assert_eq!(report["findings"], json!([]), "{report:#}");
        drop(server);
    }
}

/// A server may quote what it is sent.
#[test]
fn a_password_that_the_target_repeats_is_masked() {
    let secret = password();
    let quoted = secret.clone();
    let server = scripted(move |name| match name {
        "AUTH" => format!("-ERR what is '{quoted}'?\r\n"),
        _ => unknown_command(name),
    });
    let report = check(Launch::redis(server.address()).variable("REDIS_AUTH", secret));
    expect(&report, "problem", "auth", &["***"], "REDIS_AUTH");
}

/// Near misses are often the answer to what the target says.
#[test]
fn what_the_configuration_warns_of_is_among_the_findings() {
    let server = Target::start();
    let report = check(Launch::plain(server.address()).variable("DB_ALOW", "10.0.0.0/8"));
    let findings = report["findings"].to_string();
    assert!(findings.contains("DB_ALLOW") && findings.contains("configuration"), "{report:#}");
}
