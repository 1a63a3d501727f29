//! Passwords that a program prints: tokens of clouds and the like.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tempfile::TempDir;

use crate::support::{
    Ambassador, Finished, Launch, Peer, RedisServer, Target, command, command_is_missing, eventually,
    leave_out, lines, metric, own_address, password,
};

const LINK: &str = "redis:6379";
const STALE: &str = "secret_stale{link=\"redis:6379\"}";

/// A program that notes each of its runs and then does what a script says.
struct Program {
    directory: TempDir,
}

impl Program {
    /// `$1` is the program's directory.
    fn new(script: &str) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        fs::write(directory.path().join("script"), format!("echo run >> \"$1/runs\"\n{script}\n")).unwrap();
        Self { directory }
    }

    /// Prints what the file `token` holds.
    fn printing(token: &str) -> Self {
        let program = Self::new("cat \"$1/token\"");
        program.put("token", token);
        program
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn put(&self, name: &str, content: &str) {
        let next = self.path("next");
        fs::write(&next, content).unwrap();
        fs::rename(next, self.path(name)).unwrap();
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_default()
    }

    fn runs(&self) -> usize {
        self.read("runs").lines().count()
    }

    /// The command line that runs it.
    fn line(&self) -> String {
        let directory = self.directory.path().display();
        format!("/bin/sh '{directory}/script' {directory}")
    }

    fn launch(&self, target: impl std::fmt::Display) -> Launch {
        Launch::redis(target)
            .variable("REDIS_AUTH_COMMAND", self.line())
            // A machine under load is no reason to fail.
            .variable("REDIS_CONNECT_TIMEOUT", "15s")
    }
}

#[track_caller]
fn expect_service(mut client: Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

fn stop(ambassador: Ambassador) -> Finished {
    ambassador.signal(Signal::TERM);
    ambassador.finish()
}

fn wiring(variables: &[(&str, &str)]) -> Launch {
    let launch = variables.iter().fold(Launch::new(), |launch, (name, value)| launch.variable(name, value));
    launch.variable("PATH", "/usr/bin:/bin")
}

/// One run serves all who wait for it, and those who come while its answer lives.
#[test]
fn one_run_serves_all_who_wait() {
    let token = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {token}")) else { return };
    let program = Program::new("while ! [ -e \"$1/go\" ]; do sleep 0.01; done; cat \"$1/token\"");
    program.put("token", &format!("{token}\n"));
    let ambassador = program.launch(redis.address()).start();
    let mut waiting: Vec<_> = (0..20).map(|_| ambassador.connect(LINK)).collect();
    waiting[0].expect_silence(Duration::from_millis(100));
    program.put("go", "");
    waiting.into_iter().for_each(expect_service);
    (0..20).for_each(|_| expect_service(ambassador.connect(LINK)));
    assert_eq!(program.runs(), 1);
}

/// Words are split as a shell splits them, and no shell sees them: arguments hold spaces, dollars and semicolons.
#[test]
fn the_command_line_is_split_as_a_shell_does_it_and_seen_by_none() {
    let token = password();
    let words = format!("printf %s \"{token} \\\"$HOME\\\"\"';' # x");
    let target = Target::start();
    let ambassador = Launch::redis(target.address())
        .variable("REDIS_AUTH_COMMAND", words)
        .variable("PATH", "/usr/bin:/bin")
        .start();
    let _client = ambassador.connect(LINK);
    let printed = format!("{token} \"$HOME\";");
    target.accept().expect(&command(&[b"AUTH", printed.as_bytes()]));
}

/// No backend does without the password: where there are several a program has all of the connect timeout all the same.
#[test]
fn a_program_may_take_its_time_where_there_are_several_backends() {
    let token = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {token}")) else { return };
    let program = Program::new("while ! [ -e \"$1/go\" ]; do sleep 0.01; done; cat \"$1/token\"");
    program.put("token", &token);
    let targets = format!("{},{},{}", redis.address(), own_address(), own_address());
    let ambassador = program.launch(targets).variable("REDIS_CONNECT_TIMEOUT", "9s").start();
    let mut client = ambassador.connect(LINK);
    // Longer than one backend of three may take for everything else.
    client.expect_silence(Duration::from_millis(3300));
    program.put("go", "");
    expect_service(client);
}

/// The next answer is there before the last one has ended, whether clients come or not.
#[test]
fn an_answer_is_renewed_in_the_background_ahead_of_its_end() {
    let token = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {token}")) else { return };
    let program = Program::printing(&token);
    let ambassador = program.launch(redis.address()).variable("REDIS_AUTH_COMMAND_TTL", "400ms").start();
    eventually("four runs", || program.runs() >= 4);
    expect_service(ambassador.connect(LINK));
}

/// A token that was changed serves the next connection: from the run that a refusal leads to, long before its time.
#[test]
fn a_changed_token_serves_the_next_connection() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("requirepass {old}")) else { return };
    let program = Program::printing(&old);
    let ambassador = program.launch(redis.address()).variable("REDIS_AUTH_COMMAND_TTL", "1h").start();
    expect_service(ambassador.connect(LINK));
    program.put("token", &new);
    let mut administrator = redis.administrator(&old);
    let () = redis::cmd("CONFIG").arg("SET").arg("requirepass").arg(&new).query(&mut administrator).unwrap();
    expect_service(ambassador.connect(LINK));
    let finished = stop(ambassador);
    let told = |message| lines(&finished.stderr).iter().filter(|line| line["message"] == message).count();
    assert_eq!(told("password rotation started"), 1, "{}", finished.stderr);
    assert_eq!(told("password rotation completed"), 1, "{}", finished.stderr);
    assert!(program.runs() <= 3, "{} runs", program.runs());
}

/// While the last answer lives a program that fails harms nobody; afterwards clients are told.
#[test]
fn a_failing_run_keeps_the_last_answer_while_it_lasts() {
    let token = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {token}")) else { return };
    let program =
        Program::new("[ -e \"$1/broken\" ] && { echo 'the cloud is gone' >&2; exit 3; }; cat \"$1/token\"");
    program.put("token", &token);
    let ambassador = program.launch(redis.address()).variable("REDIS_AUTH_COMMAND_TTL", "8s").start();
    expect_service(ambassador.connect(LINK));
    program.put("broken", "");
    let failed = ambassador.wait_for("secret program failed");
    expect_service(ambassador.connect(LINK));
    assert!(metric(ambassador.admin(), STALE) > 0.5);
    assert!(failed["error"].as_str().unwrap().contains("exit status: 3"), "{failed}");
    assert!(failed["remedy"].as_str().unwrap().contains("run the program of REDIS_AUTH_COMMAND"), "{failed}");
    let said = ambassador.wait_for("secret program wrote to standard error");
    assert_eq!(said["stderr"], "the cloud is gone", "{said}");
    // A second or two later it has ended.
    let mut refusal = Vec::new();
    eventually("the end of the last answer", || {
        let mut client = ambassador.connect(LINK);
        client.send(b"PING\r\n");
        client.finish_sending();
        refusal = client.expect_rest();
        refusal != b"+PONG\r\n"
    });
    let refusal = String::from_utf8(refusal).unwrap();
    assert!(refusal.starts_with("-ERR redis-ambassador: redis:6379: "), "{refusal}");
    assert!(refusal.contains("REDIS_AUTH_COMMAND"), "{refusal}");
    let failure = ambassador.wait_for("connection failed");
    assert_eq!(failure["stage"], "auth", "{failure}");
    assert!(failure["remedy"].as_str().unwrap().contains("REDIS_AUTH_COMMAND"), "{failure}");
    // And goes on as soon as the program works.
    fs::remove_file(program.path("broken")).unwrap();
    eventually("an answer", || {
        let mut client = ambassador.connect(LINK);
        client.send(b"PING\r\n");
        client.finish_sending();
        client.expect_rest() == b"+PONG\r\n"
    });
    ambassador.wait_for("secret program recovered");
    assert!(metric(ambassador.admin(), STALE) < 0.5);
}

/// Whoever issues tokens is spared while the program fails: the pauses between its runs grow, however many clients come.
#[test]
fn a_program_that_fails_is_left_alone_for_longer_each_time_however_many_come() {
    let target = Target::start();
    let program = Program::new("exit 1");
    let begun = Instant::now();
    let ambassador = program.launch(target.address()).start();
    eventually("three runs", || {
        ambassador.connect(LINK).expect_refusal(LINK);
        program.runs() >= 3
    });
    let time = begun.elapsed();
    // After one second and after two more.
    assert!(time >= Duration::from_secs(3), "three runs within {time:?}");
}

/// What is no password is said so: nothing, too much, and what a program that fails prints on the way.
#[test]
fn what_is_no_password_is_not_sent() {
    let target = Target::start();
    for (script, reason) in [
        ("true", "printed nothing"),
        ("echo", "printed nothing"),
        ("head -c 20000 /dev/zero", "more than 16384 bytes"),
        ("echo half; exit 1", "exit status: 1"),
        ("kill -9 $$", "signal: 9"),
    ] {
        let program = Program::new(script);
        let ambassador = program.launch(target.address()).start();
        let words = ambassador.connect(LINK).expect_refusal(LINK);
        assert!(words.contains("REDIS_AUTH_COMMAND") && words.contains(reason), "{words}");
    }
    target.expect_no_connection(Duration::from_millis(100));
}

/// A program that hangs is ended with all that it has started, after the life of an answer, and the next run has its
/// chance.
#[test]
fn a_program_that_hangs_is_ended() {
    let token = password();
    let target = Target::start();
    let program = Program::new(
        "[ -e \"$1/token\" ] || { sleep 3600 & echo $! > \"$1/child\"; wait; }; cat \"$1/token\"",
    );
    let ambassador = program.launch(target.address()).variable("REDIS_AUTH_COMMAND_TTL", "2s").start();
    let failed = ambassador.wait_for("secret program failed");
    assert!(failed["error"].as_str().unwrap().contains("took longer than 2s"), "{failed}");
    expect_gone(&program, "child");
    program.put("token", &token);
    ambassador.wait_for("secret program recovered");
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
}

/// The process that a file names has ended, or waits to be buried by who has inherited it.
#[track_caller]
fn expect_gone(program: &Program, file: &str) {
    let pid: i32 = program.read(file).trim().parse().expect("a process id");
    eventually("the end of the process", || {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_dead = stat.rsplit_once(')').is_none_or(|(_, rest)| rest.trim_start().starts_with('Z'));
        is_dead || test_kill_process(Pid::from_raw(pid).expect("a process id")).is_err()
    });
}

/// A program that is running when the ambassador ends goes with it.
#[test]
fn a_program_ends_with_the_ambassador() {
    let target = Target::start();
    let program = Program::new("echo $$ > \"$1/pid\"; exec sleep 3600");
    let ambassador = program.launch(target.address()).start();
    eventually("a run", || program.read("pid").ends_with('\n'));
    assert_eq!(stop(ambassador).code, Some(0));
    expect_gone(&program, "pid");
}

/// What a program leaves running in the background holds nobody up.
#[test]
fn what_is_left_in_the_background_is_not_waited_for() {
    let token = password();
    let target = Target::start();
    let program = Program::new("cat \"$1/token\"; sleep 20 &");
    program.put("token", &token);
    let ambassador = program.launch(target.address()).start();
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
}

/// What the kernel says of a process: its state and its parent; nothing once nobody knows it any more.
fn process(pid: i32) -> Option<(char, i32)> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The program's name, in parentheses, may hold anything.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

/// Children that have ended and that nobody has waited for.
fn zombies(parent: i32) -> usize {
    let processes = fs::read_dir("/proc").expect("processes").flatten();
    let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(|pid| process(*pid) == Some(('Z', parent))).count()
}

/// Whoever a program leaves behind is ours, in another session too and however much later it ends: it is waited for.
#[test]
fn orphans_are_waited_for() {
    let target = Target::start();
    for leave in [
        "sleep 3600 & echo $! > \"$1/orphan\"",
        "setsid sleep 3600 & echo $! > \"$1/orphan\"",
        "(sh -c 'echo $$ > \"$1/orphan\"; exec sleep 3600' sh \"$1\" &)",
    ] {
        let program = Program::new(&format!("exec 3>&1 >/dev/null 2>&1; {leave}; echo token >&3"));
        // Another run would say the same.
        let ambassador = program.launch(target.address()).variable("REDIS_AUTH_COMMAND_TTL", "1h").start();
        let ambassador_id = ambassador.id().cast_signed();
        eventually("an orphan", || program.read("orphan").ends_with('\n'));
        let orphan: i32 = program.read("orphan").trim().parse().expect("a process id");
        eventually("it is the ambassador's", || {
            process(orphan).is_some_and(|(_, parent)| parent == ambassador_id)
        });
        kill_process(Pid::from_raw(orphan).expect("a process id"), Signal::KILL).expect("an orphan");
        eventually("nobody knows it any more", || process(orphan).is_none());
    }
}

/// As the first process of a container, with programs that leave one behind at every run: none stays, and no program's own
/// end gets lost among them.
#[test]
fn process_number_one_leaves_no_zombies() {
    if !rustix::process::geteuid().is_root() {
        return leave_out("only root may have a table of processes of its own");
    }
    let target = Target::start();
    let program = Program::new("for i in 1 2 3 4 5; do sleep 0.0$i & done >/dev/null 2>&1; echo token");
    let mut launch = program.launch(target.address()).under(&[
        "unshare",
        "--pid",
        "--fork",
        "--kill-child",
        "--mount-proc",
    ]);
    for alias in ["REDIS", "SECOND", "THIRD"] {
        launch = launch
            .redis_link(alias, target.address())
            .variable(format!("{alias}_AUTH_COMMAND"), program.line())
            .variable(format!("{alias}_AUTH_COMMAND_TTL"), "1s");
    }
    let ambassador = launch.start();
    let children = || ambassador.kernel_file(&format!("task/{}/children", ambassador.id()));
    let first: i32 = children().trim().parse().expect("one process");
    eventually("a number of runs", || program.runs() >= 12);
    eventually("nobody waits to be waited for", || zombies(first) == 0);
    let failures = ambassador.logged(|line| line["message"] == "secret program failed");
    assert!(failures.is_empty(), "{failures:?}");
}

/// A program that is ended because it hangs is waited for too, with all that it has started.
#[test]
fn a_program_that_is_ended_is_waited_for() {
    let target = Target::start();
    let program = Program::new("sleep 3600 & echo $! > \"$1/child\"; echo $$ > \"$1/pid\"; wait");
    let ambassador = program.launch(target.address()).variable("REDIS_AUTH_COMMAND_TTL", "1s").start();
    eventually("a run", || program.read("pid").ends_with('\n'));
    let ids = ["child", "pid"].map(|name| program.read(name).trim().parse::<i32>().expect("a process id"));
    ambassador.wait_for("secret program failed");
    eventually("nobody knows them any more", || ids.iter().all(|pid| process(*pid).is_none()));
}

/// A program has the limit on descriptors that the ambassador was started with, not the one that it has raised for itself:
/// some close every descriptor that they could have, one by one.
#[test]
fn a_program_has_the_limit_on_descriptors_that_we_were_started_with() {
    if command_is_missing("prlimit") {
        return;
    }
    let target = Target::start();
    let program = Program::new("echo $(ulimit -Sn) $(ulimit -Hn) > \"$1/limits\"; echo token");
    let ambassador = program.launch(target.address()).descriptors(100, 1000).start();
    eventually("a run", || program.read("limits").ends_with('\n'));
    assert_eq!(program.read("limits"), "100 1000\n");
    assert!(ambassador.kernel_file("limits").contains("Max open files            1000"));
}

/// Signals that the ambassador's parent ignored or blocked are no matter of the program's: it starts with every signal at its
/// default, and the ambassador sees its end though it was started with SIGCHLD ignored and blocked.
#[test]
fn a_program_starts_with_signals_at_their_defaults() {
    const IGNORE: &str = "
import os, signal, sys
for number in range(1, 65):
    if number not in (signal.SIGKILL, signal.SIGSTOP, 32, 33):
        signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR1, signal.SIGCHLD])
os.execv(sys.argv[1], sys.argv[1:])
";
    if command_is_missing("python3") {
        return;
    }
    let token = password();
    let target = Target::start();
    let program = Program::new(
        "exec 3>&1 >\"$1/signals\"; grep -E 'Sig(Blk|Ign)' /proc/self/status; cat \"$1/token\" >&3",
    );
    program.put("token", &token);
    let ambassador = program.launch(target.address()).under(&["python3", "-c", IGNORE]).start();
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
    let signals = program.read("signals");
    let mask = |name: &str| {
        let line = signals.lines().find_map(|line| line.strip_prefix(name)).expect("a mask");
        u64::from_str_radix(line.trim(), 16).expect("a mask")
    };
    assert_eq!(mask("SigBlk:"), 0, "{signals}");
    // What the C library keeps for itself (32 and 33) and nobody sends, and what nobody can ignore (ILL, FPE, SEGV).
    let nobodys = [32, 33, 4, 8, 11].iter().fold(0, |mask, number| mask | 1_u64 << (number - 1));
    assert_eq!(mask("SigIgn:") & !nobodys, 0, "{signals}");
}

/// Without `/proc` programs run all the same.
#[test]
fn without_proc_a_program_is_run_too() {
    if !rustix::process::geteuid().is_root() {
        return leave_out("only root may hide file systems");
    }
    let token = password();
    let target = Target::start();
    let program = Program::new("until [ $(ulimit -Sn) = 100 ]; do sleep 0.01; done; cat \"$1/token\"");
    program.put("token", &token);
    let hide = "mount -t tmpfs none /proc && exec \"$0\" \"$@\"";
    let ambassador = program
        .launch(target.address())
        .descriptors(100, 1000)
        .under(&["unshare", "--mount", "--", "/bin/sh", "-c", hide])
        .start();
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
}

/// A program that is gone when it is to be run is told as that.
#[test]
fn a_program_that_is_gone_is_told() {
    let target = Target::start();
    let program = Program::new("");
    let tool = program.path("tool");
    fs::write(&tool, "#!/bin/sh\nrm \"$0\"; exit 1\n").unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
    let ambassador = program.launch(target.address()).variable("REDIS_AUTH_COMMAND", &tool).start();
    ambassador.wait_for_log("what became of it", |line| {
        line["stderr"] == "it can't be run: No such file or directory"
    });
}

/// Its standard error is in the log, its output never, not even where it says it on its standard error too (the search
/// of everything printed finds it).
#[test]
fn standard_error_is_logged_and_the_output_never() {
    let token = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {token}")) else { return };
    let program = Program::new("echo \"token is $(cat \"$1/token\"), long live it\" >&2; cat \"$1/token\"");
    program.put("token", &token);
    let ambassador = program.launch(redis.address()).variable("AMBASSADOR_LOG", "trace").start();
    expect_service(ambassador.connect(LINK));
    let said = ambassador.wait_for("secret program wrote to standard error");
    assert_eq!(said["stderr"], "token is ***, long live it", "{said}");
    assert_eq!(said["link"], LINK, "{said}");
}

/// The program sees the environment that it needs for its cloud, but none of the passwords in it.
#[test]
fn a_program_sees_the_environment_without_the_passwords_in_it() {
    let token = password();
    let target = Target::start();
    let program = Program::new("env > \"$1/environment\"; cat \"$1/token\"");
    program.put("token", &token);
    let ambassador = program
        .launch(target.address())
        .plain_link("DB", target.address())
        .redis_link("OTHER", target.address())
        .variable("OTHER_AUTH", password())
        .variable("THIRD_PORT_6379_TCP", format!("redis://:{}@cache", password()))
        .variable("THIRD_LISTEN", "127.0.0.1:0")
        .variable("AWS_REGION", "eu-central-1")
        .start();
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
    let environment = program.read("environment");
    assert!(environment.contains("AWS_REGION=eu-central-1"), "{environment}");
    for hidden in ["OTHER_AUTH", "THIRD_PORT_6379_TCP"] {
        assert!(!environment.contains(hidden), "{environment}");
    }
}

/// Nor those of links that are left out.
#[test]
fn a_program_does_not_see_the_passwords_of_links_that_are_left_out() {
    let token = password();
    let target = Target::start();
    let program = Program::new("env > \"$1/environment\"; cat \"$1/token\"");
    program.put("token", &token);
    let ambassador = program
        .launch(target.address())
        .variable("AMBASSADOR_LINKS", "redis")
        .variable("OTHER_PORT_6379_TCP", "tcp://cache:6379")
        .variable("OTHER_PORT_6379_AUTH", password())
        .variable("OTHER_SENTINEL_AUTH", password())
        .variable("THIRD_PORT_6379_TCP", format!("redis://:{}@cache", password()))
        .start();
    let _client = ambassador.connect(LINK);
    target.accept().expect(&command(&[b"AUTH", token.as_bytes()]));
    let environment = program.read("environment");
    assert!(environment.contains("OTHER_PORT_6379_TCP"), "{environment}");
    for hidden in ["OTHER_PORT_6379_AUTH", "OTHER_SENTINEL_AUTH", "THIRD_PORT_6379_TCP"] {
        assert!(!environment.contains(hidden), "{environment}");
    }
}

/// `AUTH_COMMAND` makes a Docker link a Redis link, and goes to the one Redis port of its alias.
#[test]
fn a_command_makes_a_redis_link_of_a_docker_link() {
    let wiring = wiring(&[
        ("REDIS_PORT_6379_TCP", "tcp://cache:6379"),
        ("REDIS_PORT_9121_TCP", "tcp://cache:9121"),
        ("REDIS_USERNAME", "app"),
        ("REDIS_AUTH_COMMAND", "cat /run/token"),
    ])
    .wiring();
    let links = wiring["links"].as_array().unwrap();
    let of_port = |port| links.iter().find(|link| link["port"] == port).unwrap();
    assert_eq!((&of_port(6379)["kind"], &of_port(6379)["auth"]), (&"redis".into(), &"command".into()));
    assert_eq!((&of_port(9121)["kind"], &of_port(9121)["auth"]), (&"tcp".into(), &"none".into()));
}

/// What can't be meant is refused at start.
#[test]
fn a_command_that_can_not_be_meant_is_a_mistake() {
    let refused = |variables: &[(&str, &str)], mistake: &str| -> String {
        let redis = ("REDIS_PORT_6379_TCP", "redis://cache");
        let with_default = [&[redis], variables].concat();
        wiring(&with_default).argument("links").finish().expect_mistake(mistake)
    };
    let secret = password();
    let told = refused(&[("REDIS_AUTH_COMMAND", "cat 'x")], "REDIS_AUTH_COMMAND");
    assert!(told.contains("quotation mark"), "{told}");
    for nothing in ["", "  ", "''", "# nothing"] {
        refused(&[("REDIS_AUTH_COMMAND", nothing)], "REDIS_AUTH_COMMAND");
    }
    for missing in ["no-such-program x", "/no/such/program", "/etc/passwd", "/tmp"] {
        refused(&[("REDIS_AUTH_COMMAND", missing)], "REDIS_AUTH_COMMAND");
    }
    // A password in the wrong place is not shown.
    refused(&[("REDIS_AUTH_COMMAND", &secret)], "REDIS_AUTH_COMMAND");
    refused(&[("REDIS_AUTH_COMMAND", "cat x"), ("REDIS_AUTH", &secret)], "REDIS_AUTH");
    refused(&[("REDIS_AUTH_COMMAND", "cat x"), ("REDIS_AUTH_FILE", "/etc/passwd")], "REDIS_AUTH_FILE");
    let url = format!("redis://:{secret}@cache");
    refused(&[("REDIS_AUTH_COMMAND", "cat x"), ("REDIS_PORT_6379_TCP", &url)], "REDIS_AUTH_COMMAND");
    refused(
        &[("REDIS_AUTH_COMMAND", "cat x"), ("REDIS_PORT_6379_TCP", "tls://cache:1")],
        "REDIS_AUTH_COMMAND",
    );
    refused(&[("REDIS_AUTH_COMMAND", "cat x"), ("REDIS_AUTH_COMMAND_TTL", "0s")], "REDIS_AUTH_COMMAND_TTL");
    refused(&[("REDIS_AUTH", &secret), ("REDIS_AUTH_COMMAND_TTL", "5s")], "REDIS_AUTH_COMMAND_TTL");
    refused(&[("REDIS_AUTH_PREVIOUS_FILE", "/etc/passwd")], "REDIS_AUTH_PREVIOUS_FILE");
    refused(&[("REDIS_AUTH", &secret), ("REDIS_AUTH_PREVIOUS_FILE", "/no/file")], "REDIS_AUTH_PREVIOUS_FILE");
    let tunnel = ("REDIS_PORT_6379_TCP", "tcp://cache:6379");
    refused(&[tunnel, ("REDIS_AUTH_PREVIOUS_FILE", "/etc/passwd")], "REDIS_AUTH_PREVIOUS_FILE");
}

/// A file named as a program is a program by what the kernel says of it.
#[test]
fn a_program_may_be_named_by_its_path() {
    let wiring = wiring(&[("REDIS_PORT_6379_TCP", "tcp://cache:6379"), ("REDIS_AUTH_COMMAND", "/bin/cat x")]);
    assert_eq!(wiring.wiring()["links"][0]["auth"], "command");
    assert!(Path::new("/bin/cat").exists());
}
