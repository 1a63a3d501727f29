//! What may be missing at start: threads, descriptors, standard streams, and the file systems that others take for granted.

use std::net::TcpListener;
use std::os::unix::net::UnixStream;

use crate::support::{
    Ambassador, Finished, Launch, Peer, Target, another_user, command_is_missing, eventually, leave_out,
};

/// How a limit on threads has the ambassador started: as a user whose threads nobody else's are counted with.
fn with_threads(number: u32) -> Option<Vec<String>> {
    if command_is_missing("prlimit") || command_is_missing("setpriv") {
        return None;
    }
    let limit = ["prlimit".to_owned(), format!("--nproc={number}:{number}"), "--".to_owned()];
    Some(limit.into_iter().chain(another_user()?).collect())
}

#[track_caller]
fn expect_service(ambassador: &Ambassador) {
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
}

/// It could not start, and says what is missing and what to do about it, in no library's words.
#[track_caller]
fn expect_cannot_start(finished: &Finished, remedy: &str) {
    assert_eq!(finished.code, Some(1), "{}", finished.stderr);
    assert!(finished.stderr.starts_with("redis-ambassador: can't start:"), "{}", finished.stderr);
    let remedies: Vec<_> = finished.stderr.lines().filter(|line| line.starts_with("  remedy: ")).collect();
    assert!(!remedies.is_empty() && remedies.iter().all(|line| line.contains(remedy)), "{}", finished.stderr);
    assert!(!finished.stderr.contains("os error"), "{}", finished.stderr);
}

/// Where fewer threads can be had than there should be, those serve, and a warning says so.
#[test]
fn fewer_threads_than_wanted_serve_with_a_warning() {
    let echo = Target::start().echo();
    for number in [1, 3] {
        let Some(under) = with_threads(number) else { return };
        let ambassador =
            Launch::plain(echo.address()).variable("AMBASSADOR_THREADS", "8").under(&under).start();
        let warning = ambassador.wait_for("fewer threads than configured");
        assert_eq!((&warning["threads"], &warning["wanted"]), (&number.into(), &8.into()), "{warning}");
        assert_eq!(warning["level"], "WARN", "{warning}");
        assert!(warning["remedy"].as_str().unwrap().contains("ulimit -u"), "{warning}");
        expect_service(&ambassador);
    }
}

/// So it is where somebody forbids threads, as the seccomp profile of old versions of Docker does.
#[test]
fn where_threads_are_forbidden_one_serves() {
    // Answers clone3 with EPERM (prctl 22 is PR_SET_SECCOMP, 38 PR_SET_NO_NEW_PRIVS; the number is the same everywhere).
    const FORBID: &str = "
import ctypes, os, struct, sys
def statement(code, k, jt=0, jf=0): return struct.pack('HBBI', code, jt, jf, k)
program = statement(0x20, 0) + statement(0x15, 435, 0, 1) + statement(6, 0x50001) + statement(6, 0x7fff0000)
program = ctypes.create_string_buffer(program)
class Filter(ctypes.Structure):
    _fields_ = [('length', ctypes.c_ushort), ('program', ctypes.c_void_p)]
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.byref(Filter(4, ctypes.addressof(program))), 0, 0) == 0
os.execv(sys.argv[1], sys.argv[1:])
";
    if command_is_missing("python3") {
        return;
    }
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address())
        .variable("AMBASSADOR_THREADS", "4")
        .under(&["python3", "-c", FORBID])
        .start();
    let warnings = ambassador.logged(|line| line["message"] == "fewer threads than configured");
    // A library that starts threads in the old way is none of their business.
    for warning in warnings {
        assert_eq!(warning["error"], "Operation not permitted", "{warning}");
        assert!(warning["remedy"].as_str().unwrap().contains("Docker"), "{warning}");
    }
    expect_service(&ambassador);
}

/// However few descriptors there are: either clients are served, or the start fails with words that help.
#[test]
fn with_few_descriptors_it_serves_or_says_why_not() {
    if command_is_missing("prlimit") {
        return;
    }
    let echo = Target::start().echo();
    let mut refusals = 0;
    for number in 6.. {
        let launch = || Launch::plain(echo.address()).variable("AMBASSADOR_THREADS", "8");
        match launch().descriptors(number, number).try_start() {
            Err(finished) => expect_cannot_start(&finished, "ulimit -n"),
            Ok(ambassador) => {
                let warning = ambassador.wait_for("fewer threads than configured");
                assert!(warning["remedy"].as_str().unwrap().contains("ulimit -n"), "{warning}");
                expect_service(&ambassador);
                // What is left for all that is no connection was enough.
                assert!(number < 32, "{number} descriptors are not enough");
                break;
            }
        }
        refusals += 1;
    }
    assert!(refusals > 3, "it starts with next to no descriptors");
    let check = Launch::plain(echo.address()).descriptors(6, 6).argument("check").finish();
    expect_cannot_start(&check, "ulimit -n");
}

/// What counts is the hard limit, from the very beginning.
#[test]
fn a_low_soft_limit_keeps_nobody_from_starting() {
    if command_is_missing("prlimit") {
        return;
    }
    let echo = Target::start().echo();
    let launch = || Launch::plain(echo.address()).descriptors(6, 512);
    expect_service(&launch().start());
    let check = launch().argument("check").finish();
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
}

/// Every listener that can't be bound is told, whatever else is missing.
#[test]
fn ports_that_are_taken_are_told_without_threads_too() {
    let taken = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").expect("a listener"));
    let [one, other] = taken.each_ref().map(|listener| listener.local_addr().unwrap().to_string());
    let Some(under) = with_threads(1) else { return };
    let finished = Launch::plain("127.0.0.1:9")
        .variable("DB_LISTEN", &one)
        .redis_link("REDIS", "127.0.0.1:9")
        .variable("REDIS_LISTEN", &other)
        .variable("AMBASSADOR_THREADS", "8")
        .under(&under)
        .finish();
    expect_cannot_start(&finished, "listen elsewhere");
    for address in [&one, &other] {
        assert!(finished.stderr.contains(address.as_str()), "{}", finished.stderr);
    }
}

/// Standard streams that take nothing, or are closed, change no exit code and no service.
#[test]
fn streams_that_are_full_or_closed_change_nothing() {
    let echo = Target::start().echo();
    for streams in [">/dev/full 2>&1", "<&- >&- 2>&-"] {
        let script = format!("exec \"$0\" \"$@\" {streams}");
        let under = ["/bin/sh", "-c", &script];
        let closed = streams.contains("&-");
        for (launch, arguments, code) in [
            (Launch::new(), &["run"][..], 2),
            (Launch::new(), &["check"], 2),
            (Launch::new().variable("AMBASSADOR_ADMIN", "x"), &["health"], 2),
            (Launch::new().variable("AMBASSADOR_ADMIN", "off"), &["health"], 1),
            (Launch::plain(echo.address()), &["links"], i32::from(!closed)),
            (Launch::plain(echo.address()), &["check"], i32::from(!closed)),
            (Launch::new(), &["man"], i32::from(!closed)),
            (Launch::new(), &["completions", "bash"], i32::from(!closed)),
        ] {
            let finished = arguments.iter().fold(launch, Launch::argument).under(&under).finish();
            assert_eq!(finished.code, Some(code), "{arguments:?} {streams}");
        }
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path().join("db.sock");
        let launch = Launch::plain(echo.address()).variable("DB_LISTEN", format!("unix:{}", path.display()));
        let ambassador = launch.under(&under).start_in_silence();
        eventually("it listens", || UnixStream::connect(&path).is_ok());
        let mut client = Peer::connect_unix(&path);
        client.send(b"hello");
        client.expect(b"hello");
        drop(ambassador);
    }
}

/// The answer to `health` is its exit code, whether anybody reads the words or not.
#[test]
fn health_needs_no_reader() {
    let echo = Target::start().echo();
    let ambassador = Launch::plain(echo.address()).start();
    let health = Launch::new()
        .variable("AMBASSADOR_ADMIN", ambassador.admin().to_string())
        .argument("health")
        .under(&["/bin/sh", "-c", "exec \"$0\" \"$@\" >/dev/full 2>&1"]);
    assert_eq!(health.finish().code, Some(0));
}

/// Neither `/proc` nor `/etc`, no home and no time zone: addresses are served all the same.
#[test]
fn without_proc_and_etc_it_serves() {
    if !rustix::process::geteuid().is_root() {
        return leave_out("only root may hide file systems");
    }
    let hide = "mount -t tmpfs none /proc && mount -t tmpfs none /etc && exec \"$0\" \"$@\"";
    let hidden = ["unshare", "--mount", "--", "/bin/sh", "-c", hide];
    let echo = Target::start().echo();
    let launch = || {
        Launch::plain(echo.address())
            .variable("HOME", "/nowhere")
            .variable("TZ", "Nowhere/City")
            .under(&hidden)
    };
    expect_service(&launch().start());
    let check = launch().argument("check").finish();
    assert_eq!(check.code, Some(0), "{}{}", check.stdout, check.stderr);
    let links = launch().wiring();
    assert_eq!(links["links"][0]["port"], 5432, "{links}");
}
