//! Passwords and tokens that change under open sessions.

use std::fs;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use super::{LINK, PACE, append_to, counted, read, rounds, sum};
use crate::sharing::all_on_one;
use crate::support::{
    Ambassador, Launch, Load, Peer, RedisServer, Served, Target, Version, eventually, fixture, password,
};

/// How old a token may be whose connection goes on.
const OLDEST: Duration = Duration::from_secs(4);

/// A server that ends connections whose token is too old, as Azure's do. A token is the time at which it was made, in
/// nanoseconds.
fn strict(ended: &Arc<AtomicUsize>) -> Served {
    let ended = Arc::clone(ended);
    Target::start().serve(move |mut peer| {
        let (mut received, mut chunk) = (Vec::new(), [0; 4096]);
        let mut made = None;
        peer.patience(Duration::from_millis(20));
        loop {
            if made.is_some_and(|made| age(made) > OLDEST) {
                ended.fetch_add(1, Ordering::Relaxed);
                return;
            }
            match peer.read(&mut chunk) {
                Ok(0) => return,
                Ok(len) => received.extend(&chunk[..len]),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(_) => return,
            }
            while let Some(words) = next_command(&mut received) {
                let reply = answer(&words, &mut made);
                if peer.try_send(&reply).is_err() {
                    return;
                }
            }
        }
    })
}

fn age(made: u128) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos();
    Duration::from_nanos(u64::try_from(now.saturating_sub(made)).expect("years"))
}

fn answer(words: &[String], made: &mut Option<u128>) -> Vec<u8> {
    let name = words[0].to_uppercase();
    if name == "AUTH" {
        return match words.last().and_then(|token| token.parse::<u128>().ok()) {
            Some(token) if age(token) <= OLDEST => {
                *made = Some(token);
                b"+OK\r\n".to_vec()
            }
            _ => fixture("replies/redis-7.0/wrongpass.resp").to_vec(),
        };
    }
    match (&*name, made) {
        (_, None) => fixture("replies/redis-7.0/noauth.resp").to_vec(),
        ("GET", _) => b"$5\r\nvalue\r\n".to_vec(),
        ("PING", _) if words.len() == 2 => format!("${}\r\n{}\r\n", words[1].len(), words[1]).into_bytes(),
        ("PING", _) => b"+PONG\r\n".to_vec(),
        ("RPUSH", _) => b":1\r\n".to_vec(),
        _ => b"+OK\r\n".to_vec(),
    }
}

/// Takes the next whole command, in the form that clients' libraries send.
fn next_command(received: &mut Vec<u8>) -> Option<Vec<String>> {
    let text = String::from_utf8_lossy(received).into_owned();
    let mut lines = text.split_inclusive("\r\n");
    let whole = |line: &str| line.ends_with("\r\n").then(|| line.trim_end().to_owned());
    let count: usize = whole(lines.next()?)?.trim_start_matches('*').parse().expect("a command");
    let mut words = Vec::new();
    let mut len = 0;
    for _ in 0..count {
        whole(lines.next()?)?;
        words.push(whole(lines.next()?)?);
    }
    for line in text.split_inclusive("\r\n").take(1 + 2 * count) {
        len += line.len();
    }
    received.drain(..len);
    Some(words)
}

/// No connection is ended, busy or quiet: each has a new token before the old one is too old.
#[test]
fn a_token_is_renewed_on_open_sessions() {
    const CLIENTS: usize = 40;
    let kept = tokens_are_renewed(|launch| launch, readers_and_writers);
    assert_eq!(kept.connections, CLIENTS);
    assert!(kept.renewed >= CLIENTS * (kept.lives - 1));
}

fn readers_and_writers(load: &mut Load) {
    load.add("reader", 20, PACE, read);
    load.add("writer", 10, PACE, append_to("writer"));
}

/// What the server has seen of connections, and the ambassador of their tokens' lives.
struct Kept {
    connections: usize,
    renewed: usize,
    lives: usize,
}

/// A strict server, and an ambassador that has a token made every three seconds.
struct Stage {
    ended: Arc<AtomicUsize>,
    server: Served,
    directory: TempDir,
    ambassador: Ambassador,
}

impl Stage {
    fn start(change: impl FnOnce(Launch) -> Launch) -> Self {
        let ended = Arc::new(AtomicUsize::new(0));
        let server = strict(&ended);
        let directory = TempDir::new().expect("a temporary directory");
        let script = directory.path().join("token");
        let runs = directory.path().join("runs");
        fs::write(&script, format!("date +%s%N | tee -a '{}'\n", runs.display())).expect("a script");
        let launch = Launch::redis(server.address())
            .variable("REDIS_AUTH_COMMAND", format!("/bin/sh '{}'", script.display()))
            .variable("REDIS_AUTH_COMMAND_TTL", "3s")
            .variable("PATH", "/usr/bin:/bin");
        let ambassador = change(launch).start();
        Self { ended, server, directory, ambassador }
    }

    /// Tokens so far.
    fn tokens(&self) -> usize {
        fs::read_to_string(self.directory.path().join("runs")).unwrap_or_default().lines().count()
    }

    /// Does something again and again for so many lives of a token; no connection is ended.
    #[track_caller]
    fn live(&self, mut meanwhile: impl FnMut()) -> Kept {
        let in_ci = std::env::var_os("CI").is_some_and(|value| value == "true");
        let lives = rounds(if in_ci { 7 } else { 3 });
        meanwhile();
        let first = self.tokens();
        for life in 1..=lives {
            eventually("another token", || {
                meanwhile();
                self.tokens() >= first + life
            });
        }
        meanwhile();
        assert_eq!(self.ended.load(Ordering::Relaxed), 0, "connections were ended");
        Kept {
            connections: self.server.accepted(),
            renewed: reauthentications(&self.ambassador, "ok"),
            lives,
        }
    }
}

/// Of those who work, and of ten that are quiet.
#[track_caller]
fn tokens_are_renewed(change: impl FnOnce(Launch) -> Launch, work: impl FnOnce(&mut Load)) -> Kept {
    let stage = Stage::start(change);
    let mut load = Load::on(stage.ambassador.address(LINK));
    work(&mut load);
    let mut quiet: Vec<_> = (0..10).map(|_| stage.ambassador.connect(LINK)).collect();
    quiet.iter_mut().for_each(ping);
    let kept = stage.live(|| load.goes_on());
    quiet.iter_mut().for_each(ping);
    load.expect_no_failure();
    kept
}

fn ping(client: &mut Peer) {
    client.send(b"*1\r\n$4\r\nPING\r\n");
    client.expect(b"+PONG\r\n");
}

/// The one that all share shows each new one, however many clients there are.
#[test]
fn a_token_is_renewed_on_a_shared_upstream() {
    let kept = tokens_are_renewed(all_on_one, readers_and_writers);
    // Each client has needed one of its own at most, for what it says of itself when it comes.
    assert!(kept.connections <= 31, "{} connections", kept.connections);
    assert!(kept.renewed >= kept.lives - 1);
}

/// So does one that is lent, and one that nobody has at the moment.
#[test]
fn a_token_is_renewed_on_what_is_lent() {
    const SCRIPTS: usize = 3;
    let kept = tokens_are_renewed(all_on_one, |load| {
        load.add("reader", 5, PACE, read);
        load.add("script", SCRIPTS, 3 * PACE, |connection, _, _| {
            redis::cmd("EVAL").arg(&["return 1", "0"]).exec(connection)
        });
    });
    // Those that are ready are replaced with each token.
    let most = 1 + 5 + SCRIPTS * (kept.lives + 2);
    assert!(kept.connections <= most, "{} connections, not {most}", kept.connections);
}

/// And one that outlives its clients until the next ones come.
#[test]
fn a_token_is_renewed_between_clients_that_come_and_go() {
    let stage = Stage::start(all_on_one);
    let kept = stage.live(|| ping(&mut stage.ambassador.connect(LINK)));
    assert_eq!(kept.connections, 1);
    assert!(kept.renewed >= kept.lives - 1);
}

fn reauthentications(ambassador: &Ambassador, result: &str) -> usize {
    counted(ambassador, &format!("reauthentications_total{{link=\"{LINK}\",result=\"{result}\"}}"))
}

/// A server with the user `app`, whose password the returned file holds.
fn with_user(version: Version) -> Option<(RedisServer, TempDir, Launch, String)> {
    let (root, secret) = (password(), password());
    let configuration = format!("requirepass {root}\nuser app on >{secret} ~* &* +@all");
    let server = RedisServer::start_version(version, &configuration)?;
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, secret).expect("a file");
    let launch =
        Launch::redis(server.address()).variable("REDIS_AUTH_FILE", &file).variable("REDIS_USERNAME", "app");
    Some((server, directory, launch, root))
}

fn replace(directory: &TempDir, secret: &str) {
    let next = directory.path().join("next");
    fs::write(&next, secret).expect("a file");
    fs::rename(next, directory.path().join("password")).expect("a file that is replaced");
}

fn is_served(mut client: Peer) -> bool {
    client.try_send(b"PING\r\n").is_ok() && client.receive(7) == b"+PONG\r\n"
}

/// An ACL user's password rotates, on every server: open sessions show the new one, and nobody notices.
#[test]
fn a_rotated_password_is_shown_on_open_sessions_on_every_server() {
    const CLIENTS: usize = 12;
    for version in Version::ALL {
        let Some((server, directory, launch, root)) = with_user(version) else { continue };
        let ambassador = launch.start();
        let mut load = Load::on(ambassador.address(LINK));
        load.add("reader", CLIENTS / 2, PACE / 5, read);
        load.add_with("?protocol=resp3", "writer", CLIENTS / 2, PACE / 5, append_to("writer"));
        load.goes_on();
        let mut administrator = server.administrator(&root);
        for rotation in 1..=3 {
            let new = password();
            let rules = [format!(">{new}")];
            redis::cmd("ACL").arg("SETUSER").arg("app").arg(&rules).exec(&mut administrator).expect("a user");
            replace(&directory, &new);
            // Whoever dials next reads the file.
            assert!(is_served(ambassador.connect(LINK)));
            eventually(&format!("sessions with the new password at {}", version.name()), || {
                reauthentications(&ambassador, "ok") >= rotation * CLIENTS
            });
        }
        load.expect_no_failure();
        assert_eq!(sum(&ambassador, "exchanges_total"), 0, "an upstream was exchanged at {}", version.name());
        assert!(server.calls(&root, "auth") >= 4 * CLIENTS);
    }
}

/// A file that is ahead of the server: the old authentication stands, and nobody notices.
#[test]
fn a_refused_password_leaves_open_sessions_as_they_were() {
    for version in Version::ALL {
        let Some((_server, directory, launch, _)) = with_user(version) else { continue };
        let ambassador = launch.start();
        let mut load = Load::on(ambassador.address(LINK));
        load.add("reader", 5, PACE / 5, read);
        load.add("writer", 5, PACE / 5, append_to("writer"));
        load.goes_on();
        replace(&directory, &password());
        // The last good one still serves.
        assert!(is_served(ambassador.connect(LINK)));
        load.goes_on();
        load.goes_on();
        load.expect_no_failure();
    }
}

/// `REAUTH=off` leaves open sessions alone.
#[test]
fn with_reauth_off_open_sessions_are_left_alone() {
    let Some((server, directory, launch, root)) = with_user(Version::Redis70) else { return };
    let ambassador = launch.variable("REDIS_REAUTH", "off").start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    let new = password();
    let rules = [format!(">{new}")];
    redis::cmd("ACL")
        .arg("SETUSER")
        .arg("app")
        .arg(&rules)
        .exec(&mut server.administrator(&root))
        .expect("a user");
    replace(&directory, &new);
    assert!(is_served(ambassador.connect(LINK)));
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    client.expect_silence(Duration::from_millis(500));
    assert_eq!(sum(&ambassador, "reauthentications_total"), 0);
}
