//! Passwords that change under a running ambassador: no client notices, in whichever order server and file change, and
//! the server's log does not fill up meanwhile.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    Ambassador, Launch, Peer, RedisServer, Target, command, eventually, fixture, get, lines, metric,
    password, replace,
};

const LINK: &str = "redis:6379";
const WRONG: &str = "replies/redis-7.0/wrongpass.resp";

/// A password's file as Kubernetes mounts it: behind a link to a directory that is exchanged as a whole.
struct Mounted {
    directory: TempDir,
    version: usize,
}

impl Mounted {
    fn new(password: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut mounted = Self { directory, version: 0 };
        mounted.exchange(password);
        symlink("..data/password", mounted.file()).expect("a link");
        mounted
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("password")
    }

    fn exchange(&mut self, password: &str) {
        self.version += 1;
        let (version, root) = (format!("..{}", self.version), self.directory.path());
        fs::create_dir(root.join(&version)).expect("a directory");
        fs::write(root.join(&version).join("password"), password).expect("a file");
        symlink(version, root.join("..next")).expect("a link");
        fs::rename(root.join("..next"), root.join("..data")).expect("a link that is turned");
    }

    /// Changes the password in one of several manners.
    fn change(&mut self, manner: usize, password: &str) {
        let real = self.directory.path().join("..data/password");
        match manner % 4 {
            0 => self.exchange(password),
            1 => fs::write(real, password).expect("a file"),
            2 => {
                let next = self.directory.path().join("next");
                fs::write(&next, format!("{password}\n")).expect("a file");
                fs::rename(next, real).expect("a file that is replaced");
            }
            // In two writes, so that somebody may see half of it.
            _ => {
                let (half, _) = password.split_at(password.len() / 2);
                fs::write(&real, half).expect("a file");
                fs::write(&real, password).expect("a file");
            }
        }
    }
}

#[track_caller]
fn expect_service(mut client: Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

/// Connects again and again in several threads while `meanwhile` runs. Every client must be served.
fn under_load(ambassador: &Ambassador, meanwhile: impl FnOnce()) -> usize {
    let (done, served) = (AtomicBool::new(false), AtomicUsize::new(0));
    let address = ambassador.address(LINK);
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    expect_service(Peer::connect(address));
                    served.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A panic must not leave the threads running.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(meanwhile));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
    served.into_inner()
}

/// How many times the server has refused a password.
fn refusals(administrator: &mut redis::Connection) -> usize {
    let statistics: String = redis::cmd("INFO").arg("errorstats").query(administrator).expect("statistics");
    let line = statistics.lines().find_map(|line| line.strip_prefix("errorstat_WRONGPASS:count="));
    line.map_or(0, |count| count.trim().parse().expect("a number"))
}

fn set_password(administrator: &mut redis::Connection, password: &str) {
    let () = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(password).query(administrator).unwrap();
}

fn launch(redis: &RedisServer, file: &Path) -> Launch {
    Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", file)
        // A machine under load is no reason to fail.
        .variable("REDIS_CONNECT_TIMEOUT", "15s")
}

/// The lines of the whole log with this message.
fn told(ambassador: Ambassador, message: &str) -> usize {
    ambassador.signal(Signal::TERM);
    let finished = ambassador.finish();
    lines(&finished.stderr).iter().filter(|line| line["message"] == message).count()
}

/// Over a hundred rotations under load, the server first, the file first, both at once, with the file changed in
/// every manner: not one client fails.
#[test]
fn rotations_of_requirepass_in_every_order_cost_no_connection() {
    const ROTATIONS: usize = 108;
    let mut old = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let mut administrator = redis.administrator(&old);
    let mut mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).start();
    expect_service(ambassador.connect(LINK));
    let served = under_load(&ambassador, || {
        for rotation in 0..ROTATIONS {
            let new = password();
            match rotation % 3 {
                0 => {
                    set_password(&mut administrator, &new);
                    // One that comes in between, for certain.
                    let client = ambassador.connect(LINK);
                    mounted.change(rotation / 3, &new);
                    expect_service(client);
                }
                1 => {
                    mounted.change(rotation / 3, &new);
                    expect_service(ambassador.connect(LINK));
                    set_password(&mut administrator, &new);
                }
                _ => thread::scope(|scope| {
                    scope.spawn(|| set_password(&mut administrator, &new));
                    mounted.change(rotation / 3, &new);
                }),
            }
            expect_service(ambassador.connect(LINK));
            old = new;
        }
    });
    assert!(served > ROTATIONS, "{served} clients are no load");
}

/// The same with an ACL user, who may have two passwords for a time or is given another one at once.
#[test]
fn rotations_of_an_acl_user_in_every_order_cost_no_connection() {
    const ROTATIONS: usize = 108;
    let (mut old, root) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {root}\nuser app on >{old} ~* &* +@all"))
    else {
        return;
    };
    let mut administrator = redis.administrator(&root);
    let mut set_user = |rules: &[String]| {
        let () = redis::cmd("ACL").arg("SETUSER").arg("app").arg(rules).query(&mut administrator).unwrap();
    };
    let mut mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).variable("REDIS_USERNAME", "app").start();
    expect_service(ambassador.connect(LINK));
    under_load(&ambassador, || {
        for rotation in 0..ROTATIONS {
            let new = password();
            let (add, remove) = (format!(">{new}"), format!("<{old}"));
            match rotation % 4 {
                // As it should be done: both are valid for a time.
                0 => {
                    set_user(&[add]);
                    mounted.change(rotation / 4, &new);
                    expect_service(ambassador.connect(LINK));
                    set_user(&[remove]);
                }
                1 => {
                    mounted.change(rotation / 4, &new);
                    expect_service(ambassador.connect(LINK));
                    set_user(&[add, remove]);
                }
                2 => {
                    set_user(&[add, remove]);
                    let client = ambassador.connect(LINK);
                    mounted.change(rotation / 4, &new);
                    expect_service(client);
                }
                _ => thread::scope(|scope| {
                    scope.spawn(|| set_user(&[add, remove]));
                    mounted.change(rotation / 4, &new);
                }),
            }
            expect_service(ambassador.connect(LINK));
            old = new;
        }
    });
}

/// The server's password has changed and the file's not yet: a client waits, and is served when the file changes. The
/// log tells the beginning and the end, once each.
#[test]
fn a_client_is_held_until_the_file_changes() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let mut mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).start();
    expect_service(ambassador.connect(LINK));
    set_password(&mut redis.administrator(&old), &new);
    let mut held: Vec<_> = (0..20).map(|_| ambassador.connect(LINK)).collect();
    ambassador.wait_for("password rotation started");
    held[0].expect_silence(Duration::from_millis(300));
    mounted.change(0, &new);
    held.into_iter().for_each(expect_service);
    ambassador.wait_for("password rotation completed");
    // All that they came to, and what followed from that.
    assert!(refusals(&mut redis.administrator(&new)) <= 40);
    assert_eq!(told(ambassador, "password rotation started"), 1);
}

/// A rotation is told once, however many clients come while it lasts, and completed once.
#[test]
fn a_rotation_is_told_once() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let mut mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).start();
    expect_service(ambassador.connect(LINK));
    mounted.change(0, &new);
    (0..20).for_each(|_| expect_service(ambassador.connect(LINK)));
    set_password(&mut redis.administrator(&old), &new);
    (0..20).for_each(|_| expect_service(ambassador.connect(LINK)));
    assert_eq!(told(ambassador, "password rotation completed"), 1);
}

/// Nobody waits longer than the connect timeout, and then the server's own words say why.
#[test]
fn the_hold_ends_with_the_connect_timeout() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).variable("REDIS_CONNECT_TIMEOUT", "300ms").start();
    expect_service(ambassador.connect(LINK));
    set_password(&mut redis.administrator(&old), &new);
    let words = ambassador.connect(LINK).expect_refusal(LINK);
    assert!(words.contains("WRONGPASS"), "{words}");
    let failure = ambassador.wait_for("connection failed");
    assert_eq!(failure["stage"], "auth", "{failure}");
    assert!(failure["remedy"].as_str().unwrap().contains("REDIS_AUTH_FILE"), "{failure}");
}

/// A password that has never worked is no rotation: that is said at once. However many clients come, the server is
/// not asked again and again; a change of the file counts at once.
#[test]
fn a_wrong_password_is_told_at_once_and_seldom_tried() {
    let (right, wrong) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let mut mounted = Mounted::new(&wrong);
    let ambassador = launch(&redis, &mounted.file()).variable("REDIS_CONNECT_TIMEOUT", "1h").start();
    let address = ambassador.address(LINK);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..50 {
                    let words = Peer::connect(address).expect_refusal(LINK);
                    assert!(words.contains("WRONGPASS"), "{words}");
                }
            });
        }
    });
    let refused = refusals(&mut redis.administrator(&right));
    // Those that were under way together at first, a few more, and then one after ever longer pauses.
    assert!((1..30).contains(&refused), "{refused} tries for 200 clients");
    mounted.change(0, &right);
    expect_service(ambassador.connect(LINK));
}

/// The file is ahead of the server: the last password that worked goes on serving, and the new one is offered now and
/// then, not by every client.
#[test]
fn the_last_password_that_worked_serves_while_the_new_one_does_not() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let mut mounted = Mounted::new(&old);
    let ambassador = launch(&redis, &mounted.file()).variable("AMBASSADOR_LOG", "debug").start();
    expect_service(ambassador.connect(LINK));
    mounted.change(2, &new);
    for _ in 0..200 {
        expect_service(ambassador.connect(LINK));
    }
    let mut administrator = redis.administrator(&old);
    let refused = refusals(&mut administrator);
    assert!((1..30).contains(&refused), "{refused} tries for 200 clients");
    ambassador.wait_for_log("the last good one", |line| line["which"] == "last_good");
    set_password(&mut administrator, &new);
    expect_service(ambassador.connect(LINK));
    ambassador.wait_for("password rotation completed");
}

/// An ambassador that starts in the midst of a rotation knows no password that worked: the previous file has it.
#[test]
fn the_previous_file_serves_while_the_server_still_has_that_password() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let (current, previous) = (Mounted::new(&new), Mounted::new(&old));
    let ambassador = launch(&redis, &current.file())
        .variable("REDIS_AUTH_PREVIOUS_FILE", previous.file())
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    expect_service(ambassador.connect(LINK));
    ambassador.wait_for_log("the previous one", |line| line["which"] == "previous");
    set_password(&mut redis.administrator(&old), &new);
    expect_service(ambassador.connect(LINK));
    ambassador.wait_for_log("the current one", |line| line["which"] == "current");
    ambassador.wait_for("password rotation completed");
}

/// Between rotations there is no previous password, and the file is empty; it may also be gone.
#[test]
fn a_previous_file_may_be_empty_or_go_away() {
    let (right, wrong) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let (mounted, directory) = (Mounted::new(&wrong), tempfile::tempdir().unwrap());
    let previous = directory.path().join("previous");
    fs::write(&previous, "").unwrap();
    let ambassador = launch(&redis, &mounted.file()).variable("REDIS_AUTH_PREVIOUS_FILE", &previous).start();
    ambassador.connect(LINK).expect_refusal(LINK);
    fs::remove_file(&previous).unwrap();
    ambassador.connect(LINK).expect_refusal(LINK);
    fs::write(&previous, &right).unwrap();
    expect_service(ambassador.connect(LINK));
}

/// All of it on one connection, each password once and with everything that belongs to a handshake, and not a byte of the
/// client's before the end of it.
#[test]
fn every_password_is_offered_once_on_one_connection() {
    let (current, previous) = (password(), password());
    let (current_file, previous_file) = (Mounted::new(&current), Mounted::new(&previous));
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_FILE", current_file.file())
        .variable("REDIS_AUTH_PREVIOUS_FILE", previous_file.file())
        .variable("REDIS_DB", "2")
        .start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    let mut server = target.accept();
    let handshake =
        |password: &str| [command(&[b"AUTH", password.as_bytes()]), command(&[b"SELECT", b"2"])].concat();
    server.expect(&handshake(&current));
    server.drip(fixture("replies/redis-7.0/noauth-pipeline.resp"));
    server.expect(&handshake(&previous));
    server.send(b"+OK\r\n+OK\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// The file may have changed since the connection began: it is read once more, and goes before all that is older.
#[test]
fn a_file_that_has_changed_meanwhile_is_offered_on_the_same_connection() {
    let (first, second, previous) = (password(), password(), password());
    let (mut current, previous_file) = (Mounted::new(&first), Mounted::new(&previous));
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_FILE", current.file())
        .variable("REDIS_AUTH_PREVIOUS_FILE", previous_file.file())
        .start();
    let mut client = ambassador.connect(LINK);
    client.send(b"PING\r\n");
    let mut server = target.accept();
    server.expect(&command(&[b"AUTH", first.as_bytes()]));
    current.change(1, &second);
    server.send(fixture(WRONG));
    server.expect(&command(&[b"AUTH", second.as_bytes()]));
    server.send(b"+OK\r\n");
    server.expect(b"PING\r\n");
    server.send(b"+PONG\r\n");
    client.expect(b"+PONG\r\n");
}

/// A server whose default user needs no password serves whoever was refused, as that user: nobody is relayed to it.
#[test]
fn nobody_is_relayed_after_a_refusal_even_where_the_server_would_serve() {
    let (current, previous) = (Mounted::new(&password()), Mounted::new(&password()));
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_USERNAME", "app")
        .variable("REDIS_AUTH_FILE", current.file())
        .variable("REDIS_AUTH_PREVIOUS_FILE", previous.file())
        .variable("REDIS_DB", "2")
        .start();
    let mut client = ambassador.connect(LINK);
    client.send(b"GET secret\r\n");
    let mut server = target.accept();
    server.send(&[fixture(WRONG), b"+OK\r\n", fixture(WRONG), b"+OK\r\n"].concat());
    client.expect_refusal(LINK);
    let received = server.expect_rest();
    assert!(!received.windows(3).any(|word| word == b"GET"), "{}", received.escape_ascii());
}

/// Some servers close the connection when they have refused a password: the next one goes to another connection.
#[test]
fn a_server_that_closes_after_a_refusal_is_offered_the_next_password_on_another_connection() {
    let (current, previous) = (password(), password());
    let (current_file, previous_file) = (Mounted::new(&current), Mounted::new(&previous));
    let accepted = command(&[b"AUTH", previous.as_bytes()]);
    let target = Target::start().serve(move |mut peer| {
        if peer.receive(accepted.len()) == accepted {
            peer.send(b"+OK\r\n");
            peer.expect(b"PING\r\n");
            peer.send(b"+PONG\r\n");
        } else {
            peer.send(fixture(WRONG));
        }
    });
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_FILE", current_file.file())
        .variable("REDIS_AUTH_PREVIOUS_FILE", previous_file.file())
        .variable("REDIS_CONNECT_TIMEOUT", "15s")
        .start();
    expect_service(ambassador.connect(LINK));
}

/// A password in a variable can't become another one: there is nothing to wait for.
#[test]
fn a_password_that_can_not_change_is_not_waited_for() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH", &old)
        .variable("REDIS_CONNECT_TIMEOUT", "1h")
        .start();
    expect_service(ambassador.connect(LINK));
    set_password(&mut redis.administrator(&old), &new);
    ambassador.connect(LINK).expect_refusal(LINK);
    assert_eq!(told(ambassador, "password rotation started"), 0);
}

/// White space that nobody meant is found out and told, in the log and nowhere made good: what the file says counts.
#[test]
fn white_space_around_a_password_is_told() {
    let right = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {right}")) else { return };
    let length = right.len() + 1;
    for (written, told) in [
        (format!("{right}\n\n"), format!("{length} bytes, ends with a newline")),
        (format!("{right} "), format!("{length} bytes, ends with a space")),
        // As an env-file keeps them.
        (
            format!("\"{right}\""),
            format!("{} bytes, begins with a quotation mark, ends with a quotation mark", right.len() + 2),
        ),
        (format!("\u{feff}{right}"), format!("{} bytes, begins with a byte-order mark", right.len() + 3)),
    ] {
        let mounted = Mounted::new(&written);
        let ambassador = launch(&redis, &mounted.file()).variable("REDIS_DB", "1").start();
        let words = ambassador.connect(LINK).expect_refusal(LINK);
        assert!(words.contains("WRONGPASS"), "{words}");
        ambassador
            .wait_for_log(&told, |line| line["remedy"].as_str().is_some_and(|text| text.contains(&told)));
        // Nor the next one.
        ambassador.connect(LINK).expect_refusal(LINK);
    }
    // Where it is the password that is wrong, white space is not blamed.
    let mounted = Mounted::new(&format!("{} ", password()));
    let ambassador = launch(&redis, &mounted.file()).start();
    ambassador.connect(LINK).expect_refusal(LINK);
    let failure = ambassador.wait_for("connection failed");
    assert!(!failure["remedy"].as_str().unwrap().contains("around it"), "{failure}");
}

/// A user and a password that change together, as those that Vault issues do.
#[test]
fn a_user_and_a_password_that_change_together_cost_no_connection() {
    let (root, first, second) = (password(), password(), password());
    let configuration = format!("requirepass {root}\nuser v-1 on >{first} ~* &* +@all");
    let Some(redis) = RedisServer::start(&configuration) else { return };
    let (mut user, mut mounted) = (Mounted::new("v-1"), Mounted::new(&first));
    let ambassador = launch(&redis, &mounted.file()).variable("REDIS_USERNAME_FILE", user.file()).start();
    expect_service(ambassador.connect(LINK));
    let mut administrator = redis.administrator(&root);
    // The new user's name is there, its password not yet: what worked together goes on working.
    user.change(0, "v-2");
    expect_service(ambassador.connect(LINK));
    let new_user = ["v-2", "on", &format!(">{second}"), "~*", "&*", "+@all"].map(str::to_owned);
    let () = redis::cmd("ACL").arg("SETUSER").arg(&new_user).query(&mut administrator).unwrap();
    mounted.change(0, &second);
    expect_service(ambassador.connect(LINK));
    let () = redis::cmd("ACL").arg("DELUSER").arg("v-1").query(&mut administrator).unwrap();
    expect_service(ambassador.connect(LINK));
    ambassador.wait_for("password rotation completed");
}

/// A file that is removed and written again, as some tools do, is no reason for alarm.
#[test]
fn a_file_that_is_gone_for_a_moment_serves_when_it_is_back() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let directory = tempfile::tempdir().unwrap();
    let (file, next) = (directory.path().join("password"), directory.path().join("next"));
    fs::write(&file, &old).unwrap();
    let ambassador = launch(&redis, &file).start();
    expect_service(ambassador.connect(LINK));
    fs::remove_file(&file).unwrap();
    expect_service(ambassador.connect(LINK));
    set_password(&mut redis.administrator(&old), &new);
    let held = ambassador.connect(LINK);
    fs::write(&next, &new).unwrap();
    replace(&next, &file);
    expect_service(held);
    eventually("the file's last reader to be content", || file.exists());
}

/// One open session finds out whether the new password is accepted already; only then the others are sent it. So a file
/// that is ahead of its server costs one refusal, and not one for each session.
#[test]
fn open_sessions_are_authenticated_once_the_new_password_is_accepted() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, "old").expect("a file");
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &file).start();
    let auth = |password: &str| command(&[b"AUTH", password.as_bytes()]);
    let ping = |client: &mut Peer, upstream: &mut Peer| {
        client.send(b"PING\r\n");
        upstream.expect(b"PING\r\n");
        upstream.send(b"+PONG\r\n");
        client.expect(b"+PONG\r\n");
    };
    let connect = || {
        let mut client = ambassador.connect(LINK);
        let mut upstream = target.accept();
        upstream.expect(&auth("old"));
        upstream.send(b"+OK\r\n");
        ping(&mut client, &mut upstream);
        (client, upstream)
    };
    let (mut first, mut second) = (connect(), connect());
    fs::write(&file, "new").expect("a file");
    first.1.expect(&auth("new"));
    first.1.send(fixture(WRONG));
    second.1.expect_silence(Duration::from_millis(300));
    ping(&mut first.0, &mut first.1);
    first.1.expect(&auth("new"));
    first.1.send(b"+OK\r\n");
    second.1.expect(&auth("new"));
    second.1.send(b"+OK\r\n");
    ping(&mut second.0, &mut second.1);
}

/// Where the file alone is mounted and is replaced on the host, the container keeps the old one: told in the log, to the
/// client's operator with what helps, in the metric, and by `check`.
#[test]
fn a_file_that_was_replaced_under_its_mount_is_told() {
    let [old, new] = [password(), password()];
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let directory = TempDir::new().expect("a temporary directory");
    let file = directory.path().join("redis");
    fs::write(&file, &old).expect("a file");
    // Any file that is there already can be mounted over.
    let place = "/etc/hostname";
    let ambassador =
        launch(&redis, Path::new(place)).mount(&file, place).variable("REDIS_CONNECT_TIMEOUT", "1s").start();
    expect_service(ambassador.connect("redis:6379"));
    let next = directory.path().join("next");
    fs::write(&next, &new).expect("a file");
    fs::rename(next, &file).expect("a rename");
    let replaced = format!("{place} was replaced, and the old file is still mounted here");
    let check = || {
        launch(&redis, Path::new(place))
            .argument("check")
            .under(&["nsenter", "--mount", "--target", &ambassador.id().to_string(), "--"])
            .finish()
    };
    // Also while the server takes the old one.
    let checked = check();
    assert_eq!(checked.code, Some(0));
    assert!(checked.stdout.contains(&format!("warning: redis:6379: {replaced}")), "{}", checked.stdout);
    set_password(&mut redis.administrator(&old), &new);
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect_refusal("redis:6379");
    let told = ambassador.wait_for("secret reload failed; keeping the last value");
    let remedy = "restart the container, or mount the file's directory instead of the file";
    assert_eq!(told["error"], replaced);
    assert_eq!(told["remedy"], remedy);
    let links = get(ambassador.admin(), "/links").body;
    assert!(links.contains(&format!("{replaced}: {remedy}")), "{links}");
    let failed = ambassador.wait_for("connection failed");
    assert!(failed["remedy"].as_str().is_some_and(|said| said.starts_with(remedy)), "{failed}");
    assert!((metric(ambassador.admin(), "secret_stale{link=\"redis:6379\"}") - 1.0).abs() < f64::EPSILON);
    let checked = check();
    assert_eq!(checked.code, Some(1));
    assert!(checked.stdout.contains(remedy), "{}", checked.stdout);
}
