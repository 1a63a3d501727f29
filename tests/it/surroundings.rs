//! What the ambassador stands on breaks and comes back: the clock, the resolver, the Sentinels, the files with secrets.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::Value;

use crate::faults::{expect_nothing_left, ping};
use crate::support::{
    Ambassador, BlackHole, Dnsmasq, Launch, Quorum, RedisServer, Target, another_user, command,
    command_is_missing, eventually, leave_out, metric, password,
};

/// What shows a program another time of day; its threads all see the same.
pub(crate) fn clock() -> Option<PathBuf> {
    if command_is_missing("faketime") {
        return None;
    }
    // Debian has a directory for each architecture, others have none.
    let directories = fs::read_dir("/usr/lib").expect("libraries").flatten().map(|entry| entry.path());
    let found = directories
        .chain([PathBuf::from("/usr/lib")])
        .map(|directory| directory.join("faketime/libfaketimeMT.so.1"))
        .find(|library| library.exists());
    if found.is_none() {
        leave_out("faketime is installed, and its library is not found");
    }
    found
}

/// Whoever sets the clock, by a day ahead or back, ends no connection and no wait, prolongs none, and keeps no new password
/// from being read.
#[test]
fn the_clock_may_be_set_at_any_time() {
    let Some(library) = clock() else { return };
    let first = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {first}")) else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let (file, time) = (directory.path().join("password"), directory.path().join("time"));
    fs::write(&file, &first).unwrap();
    fs::write(&time, "+0").unwrap();
    let hole = BlackHole::start();
    let ambassador = Launch::redis(redis.address())
        .variable("REDIS_AUTH_FILE", &file)
        .variable("REDIS_IDLE_TIMEOUT", "1h")
        .variable("REDIS_MAX_LIFETIME", "2h")
        .variable("REDIS_WARM", "2")
        .redis_link("AWAY", hole.address())
        .variable("AWAY_CONNECT_TIMEOUT", "2s")
        .variable("LD_PRELOAD", &library)
        .variable("FAKETIME_TIMESTAMP_FILE", &time)
        .variable("FAKETIME_NO_CACHE", "1")
        .variable("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .variable("AMBASSADOR_LOG", "debug")
        .start();
    let date = |line: &Value| line["timestamp"].as_str().expect("a time")[..10].to_owned();
    let today = date(&ambassador.wait_for("ready"));
    let (mut old, mut old_password) = (ambassador.connect("redis:6379"), first);
    ping(&mut old);
    for step in ["+1d", "-1d"] {
        let mut waits = ambassador.connect("away:6379");
        let begun = Instant::now();
        waits.expect_silence(Duration::from_millis(300));
        fs::write(&time, step).unwrap();
        // Neither idle nor too old.
        ping(&mut old);
        waits.expect_refusal("away:6379");
        let waited = begun.elapsed();
        assert!(waited > Duration::from_millis(1500) && waited < Duration::from_secs(15), "{waited:?}");
        let new = password();
        let mut set = redis::cmd("CONFIG");
        set.arg("SET").arg("requirepass").arg(&new).exec(&mut redis.administrator(&old_password)).unwrap();
        // Those that are ready are used up; then somebody waits for the other half of the rotation.
        let mut held: Vec<_> = (0..3).map(|_| ambassador.connect("redis:6379")).collect();
        fs::write(&time, "+0").unwrap();
        fs::write(&file, &new).unwrap();
        held.iter_mut().for_each(ping);
        for _ in 0..5 {
            ping(&mut ambassador.connect("redis:6379"));
        }
        old_password = new;
        ping(&mut old);
    }
    // It did see another day.
    ambassador.wait_for_log("another day", |line| date(line) != today);
}

/// A name server that stands still, or is gone, costs nobody anything: the last address serves.
#[test]
fn a_name_server_may_stand_still_die_and_come_back() {
    let Some(redis) = RedisServer::start("") else { return };
    let address = format!("address=/redis.test/{}\nlocal-ttl=1", redis.address().ip());
    let Some(mut dns) = Dnsmasq::start(&address) else { return };
    let ambassador = Launch::redis(format!("redis.test:{}", redis.address().port()))
        .variable("AMBASSADOR_DNS", dns.address().to_string())
        .variable("REDIS_CONNECT_TIMEOUT", "1s")
        .start();
    let descriptors = ambassador.descriptors();
    let serves = || {
        let mut client = ambassador.connect("redis:6379");
        client.try_send(b"PING\r\n").is_ok() && client.receive(1) == b"+"
    };
    let mut old = ambassador.connect("redis:6379");
    ping(&mut old);
    for is_killed in [false, true] {
        if is_killed {
            dns.stop();
        } else {
            dns.signal(Signal::STOP);
        }
        let stale = || metric(ambassador.admin(), "names_stale");
        eventually("its last answer serves", || {
            assert!(serves());
            stale() > 0.5
        });
        ping(&mut old);
        if is_killed {
            dns.serve(&address);
        } else {
            dns.signal(Signal::CONT);
        }
        eventually("it answers again", || {
            assert!(serves());
            stale() < 0.5
        });
    }
    drop(old);
    expect_nothing_left(&ambassador, descriptors, "redis:6379");
}

/// Without any Sentinel left the primary that they named last serves on, old clients and new ones.
#[test]
fn the_last_primary_serves_on_without_sentinels() {
    let password = password();
    let Some(mut quorum) = Quorum::start(&password) else { return };
    let ambassador = Launch::redis("unused")
        .variable("REDIS_PORT_6379_TCP", quorum.target())
        .variable("REDIS_AUTH", &password)
        .start();
    let mut old = ambassador.connect("redis:6379");
    ping(&mut old);
    quorum.sentinels.clear();
    ambassador.wait_for("discovery failed; keeping the last known backends");
    ping(&mut ambassador.connect("redis:6379"));
    ping(&mut old);
}

/// A change that a file with a secret suffers.
type Damage = fn(&Path);

/// Whatever becomes of the file with the password, the last one serves, a metric and the log tell, and a new one is read as
/// soon as there is one.
#[test]
fn a_file_with_a_secret_may_break_in_every_way() {
    let Some(user) = another_user() else { return };
    let directory = tempfile::tempdir().expect("a temporary directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).unwrap();
    let path = directory.path().join("password");
    let first = password();
    fs::write(&path, &first).unwrap();
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH_FILE", &path).under(&user).start();
    let expect = |ambassador: &Ambassador, password: &str| {
        let _client = ambassador.connect("redis:6379");
        target.accept().expect(&command(&[b"AUTH", password.as_bytes()]));
    };
    let is_stale = || metric(ambassador.admin(), "secret_stale{link=\"redis:6379\"}") > 0.5;
    let damages: [(&str, Damage); 6] = [
        ("nobody may read it", |path| {
            fs::set_permissions(path, fs::Permissions::from_mode(0o000)).unwrap();
        }),
        ("a full disk has left nothing of it", |path| fs::write(path, "").unwrap()),
        ("it holds more than a password", |path| fs::write(path, "x".repeat(20_000)).unwrap()),
        ("a directory is in its place", |path| {
            fs::remove_file(path).unwrap();
            fs::create_dir(path).unwrap();
        }),
        ("it is a link to nowhere", |path| {
            fs::remove_file(path).unwrap();
            symlink("nowhere", path).unwrap();
        }),
        ("it is a link to itself", |path| {
            fs::remove_file(path).unwrap();
            symlink(path, path).unwrap();
        }),
    ];
    let mut current = first;
    for (what, damage) in damages {
        damage(&path);
        expect(&ambassador, &current);
        assert!(is_stale(), "{what}");
        let _ = fs::remove_dir(&path);
        let (new, beside) = (password(), directory.path().join("beside"));
        fs::write(&beside, &new).unwrap();
        fs::rename(&beside, &path).unwrap();
        expect(&ambassador, &new);
        assert!(!is_stale(), "{what}");
        current = new;
    }
    // A link whose file comes back, as Kubernetes turns them.
    fs::remove_file(&path).unwrap();
    symlink("elsewhere", &path).unwrap();
    expect(&ambassador, &current);
    let new = password();
    fs::write(directory.path().join("elsewhere"), &new).unwrap();
    expect(&ambassador, &new);
    assert!(!is_stale());
}
