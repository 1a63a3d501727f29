//! Certificates that change under a running ambassador: the next connection has the new ones, none fails meanwhile, and
//! what is broken is not taken.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use rustls::ServerConfig;

use crate::faults::hang;
use crate::support::{
    Ambassador, Authority, Identity, Launch, Target, TlsPeer, command_is_missing, eventually, replace,
};

/// A copy of `identity` in files that a test may change.
fn copy(identity: &Identity, directory: &Path, name: &str) -> Identity {
    let copy = Identity {
        certificate: directory.join(format!("{name}.pem")),
        key: directory.join(format!("{name}.key")),
    };
    identity.replace(&copy);
    copy
}

/// Runs `connect` again and again in several threads while `meanwhile` runs; it must never fail.
fn under_load(connect: impl Fn() + Sync, meanwhile: impl FnOnce(&AtomicUsize)) {
    let (done, count) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    connect();
                    count.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        // A panic must not leave the threads running.
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| meanwhile(&count)));
        done.store(true, Ordering::Relaxed);
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
    });
}

/// Lets some more connections be made.
fn some_more(count: &AtomicUsize) {
    let before = count.load(Ordering::Relaxed);
    eventually("connections", || count.load(Ordering::Relaxed) >= before + 6);
}

fn shows(address: SocketAddr, client: &Arc<rustls::ClientConfig>, identity: &Identity) -> bool {
    TlsPeer::connect(address, client).shown().as_ref() == identity.certificates().first()
}

#[track_caller]
fn expect_echo(mut client: TlsPeer) {
    client.send(b"x");
    client.expect(b"x");
}

/// The certificate for clients, and the authority that vouches for them, change under load and no connection fails.
#[test]
fn certificates_for_clients_rotate_under_load_without_a_failed_connection() {
    let (old, new) = (Authority::new("Old CA"), Authority::new("New CA"));
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (old.issue(&["127.0.0.1"]), old.issue(&["127.0.0.1"]));
    let identity = copy(&first, directory.path(), "server");
    let clients_authority = directory.path().join("ca.pem");
    fs::copy(old.file(), &clients_authority).unwrap();
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .listen_tls("DB", &identity)
        .variable("DB_LISTEN_TLS_CLIENT_CA_FILE", &clients_authority)
        // A machine under load is no reason to fail.
        .variable("DB_CONNECT_TIMEOUT", "1m")
        .start();
    let address = ambassador.address("db:5432");
    let (old_client, new_identity) = (old.issue(&["client"]), new.issue(&["client"]));
    let config = old.client(Some(&old_client));
    // It trusts the old authority and shows a certificate of the new one.
    let new_config = old.client(Some(&new_identity));
    under_load(
        || expect_echo(TlsPeer::connect(address, &old.client(Some(&old_client)))),
        |count| {
            some_more(count);
            second.replace(&identity);
            assert!(shows(address, &config, &second), "the next connection has the old certificate");
            some_more(count);
            // Both authorities for a time, as one does.
            let both = [fs::read(old.file()).unwrap(), fs::read(new.file()).unwrap()].concat();
            fs::write(directory.path().join("both"), both).unwrap();
            fs::rename(directory.path().join("both"), &clients_authority).unwrap();
            expect_echo(TlsPeer::connect(address, &new_config));
            some_more(count);
        },
    );
    // Then the old one goes, and with it the sessions of those whom it has vouched for.
    expect_echo(TlsPeer::connect(address, &config));
    replace(&new.file(), &clients_authority);
    expect_echo(TlsPeer::connect(address, &new_config));
    let refused = TlsPeer::try_connect(address, &config).and_then(|mut peer| {
        std::io::Write::write_all(&mut peer, b"x")?;
        std::io::Read::read(&mut peer, &mut [0])
    });
    assert!(refused.is_err(), "{refused:?}");
}

/// Our certificate for the target, and the authority that vouches for the target, change under load and no connection
/// fails.
#[test]
fn certificates_for_the_target_rotate_under_load_without_a_failed_connection() {
    let (old, new) = (Authority::new("Old CA"), Authority::new("New CA"));
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (old.issue(&["first"]), old.issue(&["second"]));
    let identity = copy(&first, directory.path(), "client");
    let authority = directory.path().join("ca.pem");
    fs::copy(old.file(), &authority).unwrap();
    // A target that can be told to show another certificate; it takes clients of the old authority, and tells whom.
    let versions = rustls::ALL_VERSIONS;
    let shown_config: Arc<std::sync::Mutex<Arc<ServerConfig>>> =
        Arc::new(std::sync::Mutex::new(old.server(&old.issue(&["127.0.0.1"]), true, versions)));
    let last_shown = Arc::new(std::sync::Mutex::new(None));
    let target = Target::start().serve({
        let (config, last_shown) = (Arc::clone(&shown_config), Arc::clone(&last_shown));
        move |peer| {
            let config = Arc::clone(&config.lock().unwrap());
            if let Ok(mut peer) = TlsPeer::accept(peer, &config) {
                *last_shown.lock().unwrap() = peer.shown();
                let mut byte = [0];
                if std::io::Read::read_exact(&mut peer, &mut byte).is_ok() {
                    let _ = std::io::Write::write_all(&mut peer, &byte);
                    peer.finish_sending();
                }
            }
        }
    });
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("tls://{}", target.address()))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .variable("DB_TLS_CA_FILE", &authority)
        .tls_identity("DB", &identity)
        // A machine under load is no reason to fail.
        .variable("DB_CONNECT_TIMEOUT", "1m")
        .start();
    let connect = || {
        let mut client = ambassador.connect("db:5432");
        client.send(b"x");
        client.expect(b"x");
    };
    under_load(connect, |count| {
        some_more(count);
        second.replace(&identity);
        eventually("the new client certificate", || {
            last_shown.lock().unwrap().as_ref() == second.certificates().first()
        });
        let both = [fs::read(old.file()).unwrap(), fs::read(new.file()).unwrap()].concat();
        fs::write(directory.path().join("both"), both).unwrap();
        fs::rename(directory.path().join("both"), &authority).unwrap();
        some_more(count);
        // A server certificate of the new authority; clients are still of the old one.
        let mutual = old.server(&new.issue(&["127.0.0.1"]), true, versions);
        *shown_config.lock().unwrap() = mutual;
        some_more(count);
    });
}

/// Of a pair that does not fit or a file that is cut off, the last good one serves on, and the log says why.
#[test]
fn a_broken_pair_leaves_the_last_good_one_and_says_why() {
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (authority.issue(&["127.0.0.1"]), authority.issue(&["127.0.0.1"]));
    let identity = copy(&first, directory.path(), "server");
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).listen_tls("DB", &identity).start();
    let address = ambassador.address("db:5432");
    let client = authority.client(None);
    assert!(shows(address, &client, &first));
    let key_path = identity.key.display().to_string();

    // The new certificate is there, its key not yet.
    replace(&second.certificate, &identity.certificate);
    assert!(shows(address, &client, &first));
    expect_complaint(&ambassador, &key_path, "not the key of the certificate");
    // Its key is cut off, in place.
    let whole = fs::read(&second.key).unwrap();
    fs::write(&identity.key, &whole[..whole.len() / 2]).unwrap();
    assert!(shows(address, &client, &first));
    expect_complaint(&ambassador, &key_path, "it is not PEM");
    // Gone.
    fs::remove_file(&identity.key).unwrap();
    assert!(shows(address, &client, &first));
    expect_complaint(&ambassador, &key_path, "No such file");
    // There.
    fs::write(&identity.key, &whole).unwrap();
    assert!(shows(address, &client, &second));
    ambassador.wait_for("certificates reloaded");
}

/// Where the file system of certificates hangs, the last good ones serve on either side, and what is new is taken as soon
/// as the file system answers again.
#[test]
fn certificates_whose_file_system_hangs_serve_on() {
    if command_is_missing("perl") {
        return;
    }
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (authority.issue(&["127.0.0.1"]), authority.issue(&["127.0.0.1"]));
    let identity = copy(&first, directory.path(), "server");
    let own = copy(&authority.issue(&["client"]), directory.path(), "client");
    let versions = rustls::ALL_VERSIONS;
    let config = authority.server(&authority.issue(&["127.0.0.1"]), true, versions);
    let target = Target::start().serve(move |peer| {
        if let Ok(mut peer) = TlsPeer::accept(peer, &config) {
            let mut byte = [0];
            if std::io::Read::read_exact(&mut peer, &mut byte).is_ok() {
                let _ = std::io::Write::write_all(&mut peer, &byte);
                peer.finish_sending();
            }
        }
    });
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address())
        .listen_tls("DB", &identity)
        .variable("FAR_PORT_5433_TCP", format!("tls://{}", target.address()))
        .variable("FAR_LISTEN", "127.0.0.1:0")
        .variable("FAR_TLS_CA_FILE", authority.file())
        .tls_identity("FAR", &own)
        .variable("AMBASSADOR_THREADS", "1")
        .start();
    let (address, client) = (ambassador.address("db:5432"), authority.client(None));
    let far = || {
        let mut client = ambassador.connect("far:5433");
        client.send(b"x");
        client.expect(b"x");
    };
    far();
    assert!(shows(address, &client, &first));
    let threads = ambassador.threads();
    let holders = [hang(&identity.key), hang(&own.key)];
    for _ in 0..10 {
        far();
        assert!(shows(address, &client, &first));
    }
    for link in ["db:5432", "far:5433"] {
        let failed = |line: &serde_json::Value| {
            line["link"] == link
                && line["message"] == "certificate reload failed; keeping the previous certificates"
        };
        let line = ambassador.wait_for_log("the file system that hangs", failed);
        assert!(line["error"].as_str().is_some_and(|error| error.contains("does not answer")), "{line}");
        assert_eq!(ambassador.logged(failed).len(), 1);
    }
    assert!(ambassador.threads() <= threads + 4, "{} threads after {threads}", ambassador.threads());
    drop(holders);
    second.replace(&identity);
    eventually("the new certificate", || shows(address, &client, &second));
    far();
    for link in ["db:5432", "far:5433"] {
        ambassador.wait_for_log("the file system that answers", |line| {
            line["link"] == link && line["message"] == "certificate reload recovered"
        });
    }
}

#[track_caller]
fn expect_complaint(ambassador: &Ambassador, path: &str, reason: &str) {
    ambassador.wait_for_log(reason, |line| {
        let error = line["error"].as_str().unwrap_or_default();
        line["level"] == "WARN"
            && line["link"] == "db:5432"
            && error.contains(path)
            && error.contains(reason)
            && line["remedy"].as_str().is_some_and(|remedy| !remedy.is_empty())
    });
}

/// Files that are written again and again, in place and with contents of one size, are seen each time.
#[test]
fn changes_in_quick_succession_are_all_seen() {
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().unwrap();
    let identities: Vec<_> = (0..10).map(|_| authority.issue(&["127.0.0.1"])).collect();
    let identity = copy(&identities[0], directory.path(), "server");
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).listen_tls("DB", &identity).start();
    let client = authority.client(None);
    for new in &identities {
        // In place, so that not even the file is another one.
        fs::write(&identity.key, fs::read(&new.key).unwrap()).unwrap();
        fs::write(&identity.certificate, fs::read(&new.certificate).unwrap()).unwrap();
        assert!(shows(ambassador.address("db:5432"), &client, new));
    }
}

/// Kubernetes and `certbot` change what a link points to.
#[test]
fn a_link_that_is_turned_to_another_directory_is_followed() {
    let authority = Authority::new("Test CA");
    let directory = tempfile::tempdir().unwrap();
    let (first, second) = (authority.issue(&["127.0.0.1"]), authority.issue(&["127.0.0.1"]));
    for (name, identity) in [("1", &first), ("2", &second)] {
        fs::create_dir(directory.path().join(name)).unwrap();
        copy(identity, &directory.path().join(name), "tls");
    }
    let current = directory.path().join("current");
    std::os::unix::fs::symlink("1", &current).unwrap();
    let identity = Identity { certificate: current.join("tls.pem"), key: current.join("tls.key") };
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).listen_tls("DB", &identity).start();
    let client = authority.client(None);
    assert!(shows(ambassador.address("db:5432"), &client, &first));
    std::os::unix::fs::symlink("2", directory.path().join("next")).unwrap();
    fs::rename(directory.path().join("next"), &current).unwrap();
    assert!(shows(ambassador.address("db:5432"), &client, &second));
}
