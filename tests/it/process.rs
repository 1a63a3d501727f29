//! The process: exit codes, signals and the drain, limits, logs, and what it says about itself.

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::support::{
    Ambassador, Launch, Peer, Target, command_is_missing, eventually, fixture, lines, noise, own_address,
    password,
};

/// Every process-wide setting of this version.
const PROCESS_WIDE: [&str; 13] = [
    "bind",
    "links",
    "admin",
    "connect-timeout",
    "idle-timeout",
    "max-lifetime",
    "keepalive",
    "max-connections",
    "drain-delay",
    "drain-timeout",
    "threads",
    "log",
    "log-format",
];

/// A finished exchange on a plain tunnel to an echo.
fn exchange(client: &mut Peer) {
    client.send(b"hell\n");
    client.expect(b"hell\n");
}

/// Whether a new connection to the link is taken and answered.
fn serves(ambassador: &Ambassador, link: &str) -> bool {
    let Ok(mut client) = Peer::try_connect(ambassador.address(link)) else {
        return false;
    };
    let mut reply = [0; 5];
    client.try_send(b"hell\n").is_ok() && client.read_exact(&mut reply).is_ok()
}

/// Either signal ends the process with success, long before the drain timeout, though idle connections are open.
#[test]
fn a_signal_ends_the_process_at_once_when_its_connections_are_idle() {
    for signal in [Signal::TERM, Signal::INT] {
        let target = Target::start().echo();
        let ambassador = Launch::plain(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "10m").start();
        let mut fresh = ambassador.connect("db:5432");
        let mut used = ambassador.connect("db:5432");
        exchange(&mut used);
        ambassador.signal(signal);
        ambassador.wait_for("draining");
        ambassador.wait_for("stopped");
        let finished = ambassador.finish();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        assert_eq!(finished.stdout, "");
        used.expect_end();
        fresh.expect_end();
    }
}

/// SIGHUP ends nothing, and the log says that there is nothing to reload.
#[test]
fn a_hang_up_ends_nothing() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let mut client = ambassador.connect("db:5432");
    exchange(&mut client);
    ambassador.signal(Signal::HUP);
    let line = ambassador.wait_for_log("the signal", |line| line["signal"] == "SIGHUP");
    assert!(line["message"].as_str().unwrap().starts_with("nothing to reload: "), "{line}");
    exchange(&mut client);
    assert!(serves(&ambassador, "db:5432"));
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
}

/// A reply that is due still arrives; meanwhile nobody new is let in.
#[test]
fn a_drain_waits_for_the_reply_that_is_due() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "10m").start();
    let address = ambassador.address("redis:6379");
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    client.send(b"BLPOP queue 0\r\n");
    server.expect(b"BLPOP queue 0\r\n");
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    eventually("the listener is closed", || Peer::try_connect(address).is_err());
    client.expect_silence(Duration::from_millis(500));
    server.send(b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    client.expect(b"*2\r\n$5\r\nqueue\r\n$3\r\njob\r\n");
    client.expect_end();
    server.expect_end();
    assert_eq!(ambassador.finish().code, Some(0));
}

/// Bytes that flow when the signal comes flow to their end.
#[test]
fn a_drain_does_not_cut_a_transfer() {
    let target = Target::start();
    let ambassador = Launch::plain(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "10m").start();
    let mut client = ambassador.connect("db:5432");
    let mut server = target.accept();
    let bytes = noise(7, 16 << 20);
    thread::scope(|scope| {
        scope.spawn(|| server.send(&bytes));
        let first = client.receive(1 << 20);
        ambassador.signal(Signal::TERM);
        ambassador.wait_for("draining");
        let rest = client.expect_rest();
        assert!([first, rest].concat() == bytes, "other bytes than were sent");
    });
    assert_eq!(ambassador.finish().code, Some(0));
}

/// A connection without any quiet moment is ended by the drain timeout, and that is a clean end too.
#[test]
fn the_drain_timeout_ends_what_is_never_quiet() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "500ms").start();
    let mut client = ambassador.connect("redis:6379");
    let mut server = target.accept();
    client.send(b"BLPOP queue 0\r\n");
    server.expect(b"BLPOP queue 0\r\n");
    ambassador.signal(Signal::TERM);
    client.expect_gone();
    let finished = ambassador.finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
}

/// A dial under way does not hold up the end for longer than the drain timeout.
#[test]
fn the_drain_timeout_ends_dials_too() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH", password())
        .variable("AMBASSADOR_CONNECT_TIMEOUT", "10m")
        .variable("AMBASSADOR_DRAIN_TIMEOUT", "300ms")
        .start();
    let mut client = ambassador.connect("redis:6379");
    let _silent = target.accept();
    ambassador.signal(Signal::TERM);
    assert_eq!(ambassador.finish().code, Some(0));
    client.expect_gone();
}

/// A second signal is somebody who does not want to wait.
#[test]
fn a_second_signal_ends_at_once() {
    for second in [Signal::TERM, Signal::INT] {
        let target = Target::start();
        let ambassador = Launch::redis(target.address()).variable("AMBASSADOR_DRAIN_TIMEOUT", "10m").start();
        let mut client = ambassador.connect("redis:6379");
        let mut server = target.accept();
        client.send(b"BLPOP queue 0\r\n");
        server.expect(b"BLPOP queue 0\r\n");
        ambassador.signal(Signal::TERM);
        ambassador.wait_for("draining");
        ambassador.signal(second);
        ambassador.finish();
        client.expect_gone();
    }
}

/// During the drain delay new clients are still served; the load balancer needs that time.
#[test]
fn new_clients_are_served_during_the_drain_delay() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).variable("AMBASSADOR_DRAIN_DELAY", "1s").start();
    ambassador.signal(Signal::TERM);
    ambassador.wait_for("draining");
    exchange(&mut ambassador.connect("db:5432"));
    assert_eq!(ambassador.finish().code, Some(0));
}

/// A port that somebody else has is not a mistake in the configuration, but there is no start either.
#[test]
fn a_taken_port_is_exit_code_1() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    for format in ["json", "text"] {
        let finished = Launch::plain("127.0.0.1:9")
            .variable("DB_LISTEN", &address)
            .variable("AMBASSADOR_LOG_FORMAT", format)
            .finish();
        assert_eq!(finished.code, Some(1), "{}", finished.stderr);
        assert!(finished.stderr.contains(&address), "{}", finished.stderr);
        assert!(!finished.stderr.contains("listening"), "{}", finished.stderr);
    }
}

/// Bad usage is exit code 2, and asking for help is none.
#[test]
fn usage_errors_are_exit_code_2() {
    let link = || Launch::plain("127.0.0.1:9");
    for arguments in
        [&["--no-such-flag"][..], &["no-such-command"], &["links", "--format", "xml"], &["completions", "x"]]
    {
        let launch = arguments.iter().fold(link(), Launch::argument);
        let finished = launch.finish();
        assert_eq!(finished.code, Some(2), "{arguments:?}: {}", finished.stderr);
        assert!(!finished.stderr.is_empty(), "{arguments:?}");
    }
    for argument in ["--help", "-h", "--version", "help"] {
        let finished = Launch::new().argument(argument).finish();
        assert_eq!(finished.code, Some(0), "{argument}: {}", finished.stderr);
        assert!(finished.stdout.contains("redis-ambassador"), "{argument}: {}", finished.stdout);
    }
}

/// Every process-wide setting is told by `--help`, as a flag and as a variable.
#[test]
fn help_names_every_flag_and_its_variable() {
    let help = Launch::new().argument("--help").finish().stdout;
    for name in PROCESS_WIDE {
        let variable = format!("AMBASSADOR_{}", name.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("--{name} ")), "--{name} in {help}");
        assert!(help.contains(&variable), "{variable} in {help}");
    }
    for subcommand in ["run", "links", "check", "health", "status", "completions", "man"] {
        assert!(help.contains(&format!("  {subcommand} ")), "{subcommand} in {help}");
    }
}

/// Only the flags that mean something to a subcommand are shown. All are taken, wherever they stand, so that one line is
/// good for `run` and `links`.
#[test]
fn a_subcommand_shows_the_flags_that_matter_to_it_and_takes_every_one() {
    for (subcommand, shown) in [
        ("run", &PROCESS_WIDE[..]),
        ("links", &["bind", "links"]),
        ("check", &["bind", "links", "connect-timeout"]),
        ("health", &["admin", "links"]),
        ("status", &["admin"]),
        ("completions", &[]),
        ("man", &[]),
    ] {
        for argument in ["-h", "--help"] {
            let help = Launch::new().argument(subcommand).argument(argument).finish().stdout;
            for name in PROCESS_WIDE {
                let is_shown = help.contains(&format!("--{name} "));
                assert_eq!(is_shown, shown.contains(&name), "--{name} in {help}");
            }
            let takes_a_file = !["completions", "man"].contains(&subcommand);
            assert_eq!(help.contains("--env-file "), takes_a_file, "{help}");
        }
    }
    for arguments in [["--drain-timeout=soon", "links"], ["links", "--drain-timeout=soon"]] {
        let launch = Launch::plain("127.0.0.1:9");
        arguments.iter().fold(launch, Launch::argument).finish().expect_mistake("AMBASSADOR_DRAIN_TIMEOUT");
    }
}

/// A flag wins over its variable.
#[test]
fn a_flag_wins_over_its_variable() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .variable("AMBASSADOR_IDLE_TIMEOUT", "10m")
        .variable("AMBASSADOR_LOG_FORMAT", "text")
        .argument("run")
        .argument("--idle-timeout")
        .argument("200ms")
        .argument("--log-format=json")
        .start();
    let mut client = ambassador.connect("db:5432");
    exchange(&mut client);
    client.expect_end();
}

/// Malformed process-wide settings are mistakes like all others, as flags and as variables.
#[test]
fn malformed_process_wide_settings_are_mistakes() {
    for (name, value) in [
        ("bind", "everywhere"),
        ("admin", "on"),
        ("connect-timeout", "soon"),
        ("idle-timeout", "5"),
        ("max-lifetime", "x"),
        ("keepalive", "x"),
        ("max-connections", "many"),
        ("drain-delay", "x"),
        ("drain-timeout", "x"),
        ("threads", "0"),
        ("log", "info=loud"),
        ("log-format", "xml"),
    ] {
        let variable = format!("AMBASSADOR_{}", name.to_uppercase().replace('-', "_"));
        let launch = || Launch::plain("127.0.0.1:9");
        launch().variable(&variable, value).finish().expect_mistake(&variable);
        let by_flag = launch().without(&variable).argument(format!("--{name}={value}")).finish();
        assert_eq!(by_flag.code, Some(2), "{}", by_flag.stderr);
        assert!(by_flag.stderr.contains(name), "{}", by_flag.stderr);
    }
}

/// Above its limit a Redis client reads Redis' own words, a plain one nothing; a place that is given back serves.
#[test]
fn above_the_limit_clients_are_turned_away() {
    let target = Target::start().echo();
    let ambassador = Launch::redis(target.address())
        .plain_link("DB", target.address())
        .argument("--max-connections=2")
        .start();
    for (link, words) in [("redis:6379", fixture("replies/redis-7.0/max-clients.resp")), ("db:5432", b"")] {
        let mut clients = [ambassador.connect(link), ambassador.connect(link)];
        for client in &mut clients {
            exchange(client);
        }
        for _ in 0..20 {
            let mut refused = ambassador.connect(link);
            refused.send(b"PING\r\n");
            if words.is_empty() {
                refused.expect_gone();
            } else {
                assert_eq!(refused.expect_rest(), words);
            }
        }
        let line = ambassador.wait_for_log("the refusal", |line| {
            line["message"] == "connection failed" && line["link"] == link
        });
        assert_eq!(line["stage"], "limit", "{line}");
        for client in &mut clients {
            exchange(client);
        }
        let [first, _second] = clients;
        drop(first);
        eventually("the place that was given back", || serves(&ambassador, link));
    }
}

/// A crowd above the limit is told too, every one of it.
#[test]
fn a_crowd_above_the_limit_is_told_to_the_last_client() {
    let target = Target::start().echo();
    let ambassador = Launch::redis(target.address()).variable("REDIS_MAX_CONNECTIONS", "1").start();
    let mut served = ambassador.connect("redis:6379");
    exchange(&mut served);
    let mut crowd = (0..200).map(|_| ambassador.connect("redis:6379")).collect::<Vec<_>>();
    for refused in &mut crowd {
        refused.expect(fixture("replies/redis-7.0/max-clients.resp"));
        refused.expect_end();
    }
    exchange(&mut served);
}

/// One thread serves many clients at once.
#[test]
fn one_thread_is_enough() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .redis_link("AWAY", own_address())
        .variable("AWAY_CONNECT_TIMEOUT", "10m")
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    let waiting = (0..20).map(|_| ambassador.connect("away:6379")).collect::<Vec<_>>();
    let mut clients = (0..20).map(|_| ambassador.connect("db:5432")).collect::<Vec<_>>();
    for client in &mut clients {
        exchange(client);
    }
    drop(waiting);
}

/// The soft limit on file descriptors is raised to the hard one.
#[test]
fn the_limit_on_file_descriptors_is_raised() {
    if command_is_missing("prlimit") {
        return;
    }
    let ambassador = Launch::plain("127.0.0.1:9").descriptors(64, 512).start();
    let limits = ambassador.kernel_file("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("the limit");
    assert_eq!(line.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["512", "512"], "{line}");
}

/// Without a limit of its own, the ambassador takes as many clients as its descriptors carry and tells the others.
#[test]
fn as_many_clients_are_served_as_the_descriptors_carry() {
    if command_is_missing("prlimit") {
        return;
    }
    let target = Target::start().echo();
    let ambassador = Launch::redis(target.address()).descriptors(80, 80).start();
    let mut clients = Vec::new();
    let refused = loop {
        let mut client = ambassador.connect("redis:6379");
        client.send(b"hell\n");
        let mut reply = [0; 5];
        client.read_exact(&mut reply).expect("an echo or a refusal");
        if &reply == b"-ERR " {
            break client.expect_rest();
        }
        clients.push(client);
        assert!(clients.len() < 80, "more connections than descriptors");
    };
    assert_eq!(String::from_utf8_lossy(&refused), "max number of clients reached\r\n");
    assert!(clients.len() >= 10, "{} clients with 80 descriptors", clients.len());
    for client in &mut clients {
        exchange(client);
    }
    clients.clear();
    eventually("a client is served again", || serves(&ambassador, "redis:6379"));
}

/// Out of descriptors, the accept loop neither ends nor spins: once there are some again, clients are served.
#[test]
fn running_out_of_descriptors_neither_stops_nor_spins_the_accept_loop() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let mut early = ambassador.connect("db:5432");
    exchange(&mut early);
    ambassador.limit_descriptors(ambassador.descriptors() as u64);
    let crowd = (0..50).map(|_| ambassador.connect("db:5432")).collect::<Vec<_>>();
    ambassador.wait_for_log("the lack of descriptors", |line| line["level"] == "ERROR");
    let before = ambassador.processor_ticks();
    // Nothing is waited for here: this is the time over which the processor's use is looked at.
    thread::sleep(Duration::from_secs(1));
    let used = ambassador.processor_ticks() - before;
    assert!(used < 30, "{used} hundredths of a second of processor time in a second without work");
    exchange(&mut early);
    ambassador.limit_descriptors(1000);
    // Whoever was let in without a descriptor left for the target may have been turned away.
    drop(crowd);
    eventually("a client is served again", || serves(&ambassador, "db:5432"));
    exchange(&mut early);
}

/// Every line is an object of its own, and the first ones say what listens where.
#[test]
fn json_logs_are_one_object_a_line() {
    let target = Target::start().echo();
    let ambassador = Launch::redis(target.address())
        .plain_link("DB", target.address())
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let mut client = ambassador.connect("db:5432");
    exchange(&mut client);
    drop(client);
    let closed = ambassador.wait_for("connection closed");
    assert_eq!(closed["level"], "DEBUG", "{closed}");
    assert_eq!(closed["link"], "db:5432", "{closed}");
    assert_eq!((&closed["to_target"], &closed["to_client"]), (&5.into(), &5.into()), "{closed}");
    let listening = ambassador.wait_for_log("listening", |line| line["link"] == "redis:6379");
    assert_eq!(listening["message"], "listening", "{listening}");
    assert!(listening["target"].as_str().is_some_and(|text| text.contains(&target.address().to_string())));
    ambassador.signal(Signal::TERM);
    for line in lines(&ambassador.finish().stderr) {
        for field in ["timestamp", "level", "message"] {
            assert!(line[field].as_str().is_some_and(|text| !text.is_empty()), "{field} in {line}");
        }
    }
}

/// Text logs that go to no terminal are plain text; they are the default.
#[test]
fn text_logs_are_the_default_and_have_no_colour_without_a_terminal() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("db.sock");
    let ambassador = Launch::plain(own_address())
        .without("AMBASSADOR_LOG_FORMAT")
        .variable("DB_LISTEN", format!("unix:{}", path.display()))
        .variable("DB_CONNECT_TIMEOUT", "200ms")
        .start();
    Peer::connect_unix(&path).expect_gone();
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    for word in ["INFO", "WARN", "listening", "connection failed", "db:5432", "draining", "stopped"] {
        assert!(finished.stderr.contains(word), "{word} in {}", finished.stderr);
    }
    assert!(!finished.stderr.contains('\u{1b}'), "{:?}", finished.stderr);
}

/// `AMBASSADOR_LOG` says how much is logged.
#[test]
fn the_log_filter_is_applied() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("db.sock");
    let ambassador = Launch::plain(own_address())
        .variable("DB_LISTEN", format!("unix:{}", path.display()))
        .variable("DB_CONNECT_TIMEOUT", "10ms")
        .argument("--log=error")
        .start_in_silence();
    eventually("the listener", || path.exists());
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    assert_eq!((finished.code, &*finished.stderr), (Some(0), ""));
}

/// The manual page is a manual page.
#[test]
fn the_manual_page_is_printed() {
    let finished = Launch::new().argument("man").finish();
    assert_eq!(finished.code, Some(0), "{}", finished.stderr);
    assert!(finished.stdout.contains(".TH redis-ambassador 1"), "{}", finished.stdout);
    for name in PROCESS_WIDE {
        // roff writes every hyphen as an escape.
        let flag = format!("--{name}").replace('-', "\\-");
        assert!(finished.stdout.contains(&flag), "{flag}");
        let variable = format!("AMBASSADOR_{}", name.to_uppercase().replace('-', "_"));
        assert!(finished.stdout.contains(&format!("\\fB{variable}\\fR")), "{variable}");
    }
    for there in ["\\fBAUTH_FILE\\fR", "\\fBcheck\\fR [\\-\\-format FORMAT]", ".SH \"EXIT STATUS\""] {
        assert!(finished.stdout.contains(there), "{there}: {}", finished.stdout);
    }
    assert!(!finished.stdout.contains("](#"), "{}", finished.stdout);
}

/// Its examples can be copied, and no name is broken in two.
#[test]
fn the_manual_page_keeps_lines_and_names_whole() {
    if command_is_missing("groff") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let page = directory.path().join("redis-ambassador.1");
    fs::write(&page, Launch::new().argument("man").finish().stdout).expect("a file");
    for columns in [60, 78, 100] {
        // Without overstriking, by which terminals are told of bold letters.
        let output = Command::new("groff")
            .args(["-man", "-Tutf8", "-ww", "-P-c", "-P-b", "-P-u", &format!("-rLL={columns}n")])
            .arg(&page)
            .output()
            .expect("groff runs");
        let shown = String::from_utf8_lossy(&output.stdout);
        for line in [
            "REDIS_PORT_6379_TCP=tcp://redis.example.com:6379 \\",
            "  REDIS_AUTH_FILE=/run/secrets/redis redis-ambassador",
            "redis-ambassador check --env-file /etc/redis-ambassador/environment",
        ] {
            let line = format!("           {line}");
            assert!(shown.lines().any(|shown| shown == line), "{columns}: {line}:\n{shown}");
        }
        // As groff writes a hyphen of its own.
        assert!(!shown.contains('\u{2010}'), "{columns}: {shown}");
        assert!(shown.contains("S2\u{2026}/SERVICE"), "{columns}: {shown}");
        let complaints = String::from_utf8_lossy(&output.stderr);
        assert!(columns < 78 || complaints.is_empty(), "{columns}: {complaints}");
    }
}
