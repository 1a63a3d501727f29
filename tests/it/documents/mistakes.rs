//! The table of typical mistakes: each is made, and what the program says of it is what the page shows.

use std::fmt::Write as _;
use std::io::Read as _;
use std::thread;

use crate::support::{
    Launch, NameServer, Peer, Served, Target, fixture_text, own_address, play_sentinel, play_server,
    unknown_command,
};

/// What the page shows in the place of a server that a test starts, of its file and of its name server.
const SERVER: &str = "redis.example.com:6379";
const FILE: &str = "/run/secrets/redis";
const NAME_SERVER: &str = "10.0.0.2:53";

/// A link with nothing wrong in it.
const LINK: (&str, &str) = ("REDIS_PORT_6379_TCP", "tcp://redis.example.com:6379");
const REDIS: (&str, &str) = ("REDIS_PORT_6379_TCP", "redis://redis.example.com:6379");

/// What is set, and what is there to be dialled.
type Mistake = (&'static [(&'static str, &'static str)], There);

/// What the target of a link is, where that is dialled.
#[derive(Clone, Copy)]
enum There {
    /// `links` finds the mistake, which dials nothing.
    Unasked,
    /// A Redis that has the password `secret`, and what the file holds, if there is one.
    Locked(Option<&'static str>),
    /// A Redis that wants no password.
    Open,
    Replica,
    Sentinel,
    /// A node of a cluster.
    Node,
    Web,
    /// What speaks TLS alone.
    Secure,
    Protected,
    Full,
    /// Nothing.
    Nothing,
    /// Not even a name.
    Nameless,
}

use There::{
    Full, Locked, Nameless, Node, Nothing, Open, Protected, Replica, Secure, Sentinel, Unasked, Web,
};

/// In the order of the table.
const MISTAKES: &[(&str, &[Mistake])] = &[
    (
        "The name of a link",
        &[
            (&[], Unasked),
            (&[("REDIS_PORT_6379_TPC", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_TCP", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_6379_TCP", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_637O_TCP", "tcp://redis.example.com:6379")], Unasked),
            (&[("redis_port_6379_tcp", "tcp://redis.example.com:6379")], Unasked),
            (&[("MY-REDIS_PORT_6379_TCP", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_66379_TCP", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_URL", "redis://redis.example.com/2")], Unasked),
            (&[("REDIS_HOST", "redis.example.com"), ("REDIS_PORT", "6380")], Unasked),
            (&[("REDIS_PORT", "tcp://redis.example.com:6379")], Unasked),
            (&[("REDIS_SENTINELS", "s1:26379,s2:26379")], Unasked),
            (&[("REDIS_NAME", "/app/redis")], Unasked),
            (&[LINK, ("AMBASSADOR_LINKS", "cache")], Unasked),
        ],
    ),
    (
        "The target",
        &[
            (&[("REDIS_PORT_6379_TCP", "")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "http://redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "redis:/redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "reddis://redis.example.com")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://redis.example.com")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://redis.example.com:637900")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://redis.example.com:6379/2")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://:secret@redis.example.com:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "redis://secret@redis.example.com")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "redis://redis.example.com/two")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://${REDIS_HOST}:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://2001:db8::1:6379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "/run/redis.sock")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "redis+sentinel://s1:26379")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tcp://127.0.0.1:6379")], Unasked),
            (&[LINK, ("CACHE_PORT_6379_TCP", "tcp://cache.example.com:6379")], Unasked),
        ],
    ),
    (
        "The settings",
        &[
            (&[LINK, ("REDIS_PASSWORD", "secret")], Unasked),
            (&[LINK, ("REDIS_PASSWORD_FILE", "/run/secrets/redis")], Unasked),
            (&[LINK, ("REDIS_AUHT_FILE", "/run/secrets/redis")], Unasked),
            (&[LINK, ("AMBASSADOR_LOG_LEVEL", "debug")], Unasked),
            (&[LINK, ("AMBASSADOR_AUTH_FILE", "/run/secrets/redis")], Unasked),
            (&[LINK, ("AMBASSADOR_CONNECT_TIMEOUT", "5")], Unasked),
            (&[LINK, ("REDIS_AUTH", "secret"), ("REDIS_AUTH_FILE", "/run/secrets/redis")], Unasked),
            (&[LINK, ("REDIS_AUTH", "")], Unasked),
            (&[LINK, ("REDIS_AUTH_FILE", "/run/secrets/nowhere")], Unasked),
            (&[LINK, ("REDIS_AUTH_FILE", "secret")], Unasked),
            (&[REDIS, ("REDIS_USERNAME", "app")], Unasked),
            (&[REDIS, ("REDIS_DB", "two")], Unasked),
            (&[REDIS, ("REDIS_TLS_CA_FILE", "/run/secrets/ca.pem")], Unasked),
            (&[("REDIS_PORT_6379_TCP", "tls://redis.example.com:6379"), ("REDIS_AUTH", "secret")], Unasked),
            (&[REDIS, ("REDIS_CLIENT_PASSWORD", "secret")], Unasked),
        ],
    ),
    (
        "What is dialled",
        &[
            (&[LINK], Locked(None)),
            (&[REDIS], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "other")], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "secret"), ("REDIS_USERNAME", "ap")], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "\"secret\"")], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "c2VjcmV0cw==")], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "/run/secrets/password")], Locked(None)),
            (&[LINK, ("REDIS_AUTH_FILE", FILE)], Locked(Some("secret\n\n"))),
            (&[LINK, ("REDIS_AUTH_FILE", FILE)], Locked(Some("app:secret"))),
            (&[("REDIS_PORT_6379_TCP", "redis://:100%25@redis.example.com:6379")], Locked(None)),
            (&[LINK, ("REDIS_AUTH", "secret")], Open),
            (&[REDIS, ("REDIS_ROLE", "master")], Replica),
            (&[REDIS], Sentinel),
            (&[REDIS, ("REDIS_DB", "2")], Node),
            (&[REDIS], Protected),
            (&[REDIS], Full),
            (&[REDIS], Web),
            (&[REDIS], Secure),
            (&[REDIS], Nothing),
            (&[REDIS], Nameless),
        ],
    ),
];

/// A table for each group.
pub(super) fn tables() -> String {
    // Each waits for a process or two.
    let said: Vec<Vec<_>> = thread::scope(|scope| {
        let running: Vec<_> = MISTAKES
            .iter()
            .map(|(_, mistakes)| scope.spawn(|| mistakes.iter().map(said).collect()))
            .collect();
        running.into_iter().map(|group| group.join().expect("no panic")).collect()
    });
    let tables = MISTAKES.iter().zip(said).map(|((title, mistakes), said)| {
        let is_dialled = mistakes.iter().any(|(_, there)| !matches!(there, Unasked));
        let server = if is_dialled { " server |" } else { "" };
        let line = if is_dialled { " --- |" } else { "" };
        let mut table =
            format!("### {title}\n\n| set |{server} said | remedy |\n| --- |{line} --- | --- |\n");
        for ((set, there), (message, remedy)) in mistakes.iter().zip(said) {
            let server = there.shown().map(|server| format!(" {server} |")).unwrap_or_default();
            let remedy = if remedy.is_empty() { remedy } else { format!(" {}", cell(&remedy)) };
            let _ = writeln!(
                table,
                "| {} |{server} {} |{remedy} |",
                shown(set, *there),
                cell(&shortened(&message))
            );
        }
        table
    });
    tables.collect::<Vec<_>>().join("\n")
}

/// What is set, but for a link that is as it should be.
fn shown(set: &[(&str, &str)], there: There) -> String {
    let mut shown = Vec::new();
    for (name, value) in
        set.iter().filter(|variable| set.len() == 1 || **variable != LINK && **variable != REDIS)
    {
        shown.push(cell(&format!("{name}={value}")));
    }
    if let Locked(Some(content)) = there {
        shown.push(format!("with {}", cell(&content.escape_debug().to_string())));
    }
    if shown.is_empty() { "nothing".to_owned() } else { shown.join(" ") }
}

/// What Redis says of itself may be long.
fn shortened(message: &str) -> String {
    const LONGEST: usize = 200;
    match message.get(..LONGEST).and_then(|begin| begin.rsplit_once(' ')) {
        Some((begin, _)) => format!("{begin} …"),
        None => message.to_owned(),
    }
}

fn cell(text: &str) -> String {
    assert!(!text.contains('`'), "{text}");
    format!("`{}`", text.replace('|', "\\|"))
}

/// What the program says first, and its remedy, if it has one.
fn said((set, there): &Mistake) -> (String, String) {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("redis");
    let names = NameServer::start();
    let (_server, address) = there.start();
    let is_dialled = !matches!(there, Unasked);
    let content = if let Locked(Some(content)) = there { content } else { "secret" };
    std::fs::write(&file, content).expect("a file");
    let file = file.to_str().expect("UTF-8");
    let real = |text: &str| match there {
        Nameless => text.replace(FILE, file),
        _ if is_dialled => text.replace(SERVER, &address).replace(FILE, file),
        _ => text.replace(FILE, file),
    };
    let mut launch = Launch::new();
    for (name, value) in *set {
        launch = launch.variable(name, real(value));
    }
    if is_dialled {
        launch = launch.variable("AMBASSADOR_DNS", names.address().to_string());
    }
    let finished = launch.argument(if is_dialled { "check" } else { "links" }).finish();
    let mut said = format!("{}\n{}", finished.stdout, finished.stderr);
    let own_user = format!("user {} ", rustix::process::geteuid().as_raw());
    let names = names.address().to_string();
    for (here, shown) in
        [(&*address, SERVER), (file, FILE), (&*names, NAME_SERVER), (&*own_user, "user 65532 ")]
    {
        said = said.replace(here, shown);
    }
    let is_finding = |line: &&str| {
        ["problem: ", "warning: ", "note: "].iter().any(|level| line.starts_with(level))
            || finished.code == Some(2) && !line.is_empty() && !line.starts_with("redis-ambassador: ")
    };
    let mut lines = said.lines().skip_while(|line| !is_finding(line));
    let message = lines.next().unwrap_or_else(|| panic!("{set:?}: {said}")).to_owned();
    let remedy = lines.next().and_then(|line| line.strip_prefix("  remedy: ")).unwrap_or_default();
    (message, remedy.to_owned())
}

impl There {
    /// In words, where it matters.
    fn shown(self) -> Option<&'static str> {
        Some(match self {
            Unasked => return None,
            Locked(_) => "a Redis with the password `secret`",
            Open => "a Redis without a password",
            Replica => "a replica",
            Sentinel => "a Sentinel",
            Node => "a node of a cluster",
            Web => "a web server",
            Secure => "a Redis that speaks TLS alone",
            Protected => "a Redis in protected mode",
            Full => "a Redis with `maxclients` clients",
            Nothing => "none",
            Nameless => "none of that name",
        })
    }

    /// What is there, and where.
    fn start(self) -> (Option<Served>, String) {
        let play: fn(Peer) = match self {
            Unasked | Nothing | Nameless => return (None, own_address().to_string()),
            Locked(_) => |peer| {
                play_server(peer, |words| match words {
                    ["AUTH", "secret"] => "+OK\r\n".to_owned(),
                    ["AUTH", ..] => fixture_text("replies/redis-7.0/wrongpass.resp").to_owned(),
                    _ => fixture_text("replies/redis-7.0/noauth.resp").to_owned(),
                });
            },
            Open => |peer| {
                play_sentinel(peer, |name| match name {
                    "AUTH" => fixture_text("replies/redis-7.0/no-password.resp").to_owned(),
                    _ => of_master(name),
                });
            },
            Replica => |peer| {
                play_sentinel(peer, |name| match name {
                    "ROLE" => "*1\r\n$5\r\nslave\r\n".to_owned(),
                    _ => of_master(name),
                });
            },
            Sentinel => |peer| {
                play_sentinel(peer, |name| match name {
                    "INFO" => bulk("redis_version:7.0.15\r\nredis_mode:sentinel\r\n"),
                    _ => of_master(name),
                });
            },
            Node => |peer| {
                play_sentinel(peer, |name| match name {
                    "SELECT" => "-ERR SELECT is not allowed in cluster mode\r\n".to_owned(),
                    _ => of_master(name),
                });
            },
            Protected => |peer| answer_all(peer, fixture_text("replies/redis-7.0/protected-mode.resp")),
            Full => |peer| answer_all(peer, "-ERR max number of clients reached\r\n"),
            Web => |peer| answer_all(peer, "HTTP/1.1 400 Bad Request\r\n\r\n"),
            Secure => |peer| answer_all(peer, ""),
        };
        let server = Target::start().serve(play);
        let address = server.address().to_string();
        (Some(server), address)
    }
}

fn of_master(name: &str) -> String {
    match name {
        "PING" => "+PONG\r\n".to_owned(),
        "INFO" => bulk("redis_version:7.0.15\r\nredis_mode:standalone\r\nrole:master\r\n"),
        _ => unknown_command(name),
    }
}

fn bulk(text: &str) -> String {
    format!("${}\r\n{text}\r\n", text.len())
}

/// Hears the first words, answers this and hangs up.
fn answer_all(mut peer: Peer, answer: &str) {
    let _ = peer.read(&mut [0; 4096]);
    let _ = peer.try_send(answer.as_bytes());
    let _ = peer.try_finish_sending();
}
