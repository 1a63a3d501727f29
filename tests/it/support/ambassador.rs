//! The ambassador as a process of its own.

use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Instant;

use rustix::process::{Pid, Resource, Rlimit, Signal, getrlimit, kill_process, prlimit};
use serde_json::Value;

use super::{PATIENCE, Peer, leave_out, say_skipped, secret};

/// What to start: arguments and an environment that holds nothing else.
#[derive(Debug)]
pub(crate) struct Launch {
    variables: Vec<(OsString, OsString)>,
    arguments: Vec<OsString>,
    under: Vec<OsString>,
    mounts: Vec<(PathBuf, &'static str)>,
}

impl Launch {
    pub(crate) fn new() -> Self {
        Self {
            variables: vec![
                ("AMBASSADOR_LOG_FORMAT".into(), "json".into()),
                // Many run at the same time.
                ("AMBASSADOR_ADMIN".into(), "127.0.0.1:0".into()),
            ],
            arguments: Vec::new(),
            under: Vec::new(),
            mounts: Vec::new(),
        }
    }

    /// The link `redis:6379` to a server that wants no password.
    pub(crate) fn redis(target: impl Display) -> Self {
        Self::new().redis_link("REDIS", target)
    }

    /// The plain tunnel `db:5432`.
    pub(crate) fn plain(target: impl Display) -> Self {
        Self::new().plain_link("DB", target)
    }

    pub(crate) fn redis_link(self, alias: &str, target: impl Display) -> Self {
        self.variable(format!("{alias}_PORT_6379_TCP"), format!("redis://{target}"))
            .variable(format!("{alias}_LISTEN"), "127.0.0.1:0")
    }

    pub(crate) fn plain_link(self, alias: &str, target: impl Display) -> Self {
        self.variable(format!("{alias}_PORT_5432_TCP"), format!("tcp://{target}"))
            .variable(format!("{alias}_LISTEN"), "127.0.0.1:0")
    }

    /// Sets a variable, instead of an earlier one of that name.
    pub(crate) fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self = self.without(name.as_ref());
        self.variables.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub(crate) fn without(mut self, name: impl AsRef<OsStr>) -> Self {
        self.variables.retain(|(known, _)| known != name.as_ref());
        self
    }

    pub(crate) fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// The soft and the hard limit on file descriptors.
    pub(crate) fn descriptors(self, soft: u32, hard: u32) -> Self {
        self.under(&["prlimit", &format!("--nofile={soft}:{hard}"), "--"])
    }

    /// Starts it by a program that becomes the ambassador, so that the process id stays.
    pub(crate) fn under(mut self, program: &[impl AsRef<OsStr>]) -> Self {
        self.under.extend(program.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Shows the ambassador this file in the place of one of the system's.
    pub(crate) fn mount(mut self, file: &Path, place: &'static str) -> Self {
        self.mounts.push((file.to_owned(), place));
        self
    }

    fn spawn(&self) -> Process {
        let binary = env!("CARGO_BIN_EXE_redis-ambassador");
        let mut command = if self.mounts.is_empty() {
            Command::new(binary)
        } else {
            // unshare and the shell become the programs that they start, so the process id stays.
            let mut command = Command::new("unshare");
            let mounts = self
                .mounts
                .iter()
                .map(|(file, place)| format!("mount --bind {} {place} && ", file.display()));
            let script = format!("{}exec \"$0\" \"$@\"", mounts.collect::<String>());
            command.args(["--mount", "--", "/bin/sh", "-c", &script]).arg(binary);
            command
        };
        if let [program, arguments @ ..] = &self.under[..] {
            let inner = command;
            command = Command::new(program);
            command.args(arguments).arg(inner.get_program()).args(inner.get_args());
        }
        let mut child = command
            .args(&self.arguments)
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the ambassador's binary runs");
        let stdout = Output::read(child.stdout.take().expect("a pipe"));
        let stderr = Output::read(child.stderr.take().expect("a pipe"));
        Process { child, stdout, stderr }
    }

    /// Starts the ambassador and waits until it listens.
    #[track_caller]
    pub(crate) fn start(self) -> Ambassador {
        self.try_start().unwrap_or_else(|finished| panic!("the ambassador ended:\n{}", finished.stderr))
    }

    /// The same, where it may be unable to start.
    #[track_caller]
    pub(crate) fn try_start(self) -> Result<Ambassador, Finished> {
        let process = self.spawn();
        // In JSON or in text.
        let is_ready = |line: &str| line.contains("\"ready\"") || line.contains(" ready ");
        match process.stderr.wait(|line| is_ready(line).then_some(())) {
            Some(()) => Ok(Ambassador(process)),
            None => Err(process.finish()),
        }
    }

    /// Starts an ambassador that is not going to say when it listens.
    pub(crate) fn start_in_silence(self) -> Ambassador {
        Ambassador(self.spawn())
    }

    /// Starts the ambassador, expects it to end by itself, and returns what it printed.
    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        self.spawn().finish()
    }

    /// `links --format json`, which must succeed.
    #[track_caller]
    pub(crate) fn wiring(self) -> Value {
        let finished = self.argument("links").argument("--format").argument("json").finish();
        assert_eq!(finished.code, Some(0), "{}", finished.stderr);
        serde_json::from_str(&finished.stdout).expect("JSON on standard output")
    }
}

/// What becomes another user who can run the ambassador, one that nobody else is; without one a test is left out.
pub(crate) fn another_user() -> Option<[String; 5]> {
    let id = 100_000 + secret::random() % 1_000_000;
    let user = [
        "setpriv".to_owned(),
        format!("--reuid={id}"),
        format!("--regid={id}"),
        "--clear-groups".to_owned(),
        "--".to_owned(),
    ];
    let binary = env!("CARGO_BIN_EXE_redis-ambassador");
    let tried = Command::new(&user[0]).args(&user[1..]).args([binary, "--version"]).output();
    if tried.is_ok_and(|done| done.status.success()) {
        return Some(user);
    }
    say_skipped(&format!("only root may be another user, who has to be able to run {binary}"));
    None
}

/// Every line that came from a pipe so far.
#[derive(Debug)]
struct Output {
    text: Arc<(Mutex<Received>, Condvar)>,
    reader: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Received {
    lines: Vec<String>,
    ended: bool,
}

impl Output {
    fn read(pipe: impl Read + Send + 'static) -> Self {
        let text = Arc::new((Mutex::new(Received::default()), Condvar::new()));
        let reader = thread::spawn({
            let text = Arc::clone(&text);
            move || {
                let mut pipe = BufReader::new(pipe);
                let mut line = Vec::new();
                while pipe.read_until(b'\n', &mut line).is_ok_and(|len| len > 0) {
                    lock(&text.0).lines.push(String::from_utf8_lossy(&line).into_owned());
                    text.1.notify_all();
                    line.clear();
                }
                lock(&text.0).ended = true;
                text.1.notify_all();
            }
        });
        Self { text, reader: Some(reader) }
    }

    fn so_far(&self) -> String {
        lock(&self.text.0).lines.concat()
    }

    /// Waits for the first line that `choose` takes; `None` when the output ends or patience does.
    fn wait<T>(&self, mut choose: impl FnMut(&str) -> Option<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        let mut seen = 0;
        let mut received = lock(&self.text.0);
        loop {
            if let Some(chosen) = received.lines[seen..].iter().find_map(|line| choose(line)) {
                return Some(chosen);
            }
            seen = received.lines.len();
            let left = deadline.checked_duration_since(Instant::now())?;
            if received.ended {
                return None;
            }
            let waited = self.text.1.wait_timeout(received, left);
            received = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn rest(&mut self) -> String {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        self.so_far()
    }
}

fn lock(received: &Mutex<Received>) -> MutexGuard<'_, Received> {
    received.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug)]
struct Process {
    child: Child,
    stdout: Output,
    stderr: Output,
}

impl Process {
    /// Waits for the process to end by itself.
    #[track_caller]
    fn finish(mut self) -> Finished {
        let deadline = Instant::now() + PATIENCE;
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a child to wait for") {
                break status;
            }
            assert!(Instant::now() < deadline, "the ambassador goes on:\n{}", self.stderr.so_far());
            thread::sleep(std::time::Duration::from_millis(5));
        };
        Finished { code: status.code(), stdout: self.stdout.rest(), stderr: self.stderr.rest() }
    }
}

impl Drop for Process {
    /// Ends the process if it still runs, and looks through everything it ever printed.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let printed = self.stdout.rest() + &self.stderr.rest();
        if thread::panicking() {
            eprintln!("the ambassador printed:\n{printed}");
            return;
        }
        let secrets = secret::found_in(&printed);
        assert!(secrets.is_empty(), "the ambassador printed {secrets:?}:\n{printed}");
        assert!(!printed.contains("panicked at"), "the ambassador panicked:\n{printed}");
    }
}

/// A running ambassador. Killed when dropped.
#[derive(Debug)]
pub(crate) struct Ambassador(Process);

impl Ambassador {
    /// Where a link such as `redis:6379` listens.
    #[track_caller]
    pub(crate) fn listens(&self, link: &str) -> String {
        let announced = self.wait_for_log(&format!("the listener of {link}"), |line| {
            line["message"] == "listening" && line["link"] == link
        });
        announced["listen"].as_str().expect("an address").to_owned()
    }

    /// The same, for a TCP listener.
    #[track_caller]
    pub(crate) fn address(&self, link: &str) -> SocketAddr {
        let address = self.listens(link);
        address.parse().unwrap_or_else(|error| panic!("{address}: {error}"))
    }

    /// Where the admin endpoint listens.
    #[track_caller]
    pub(crate) fn admin(&self) -> SocketAddr {
        let announced = self.wait_for("admin endpoint");
        announced["listen"].as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// A new client of a link.
    #[track_caller]
    pub(crate) fn connect(&self, link: &str) -> Peer {
        let address = self.listens(link);
        match address.strip_prefix("unix:") {
            Some(path) => Peer::connect_unix(Path::new(path)),
            None => Peer::connect(self.address(link)),
        }
    }

    /// The log line with this message.
    #[track_caller]
    pub(crate) fn wait_for(&self, message: &str) -> Value {
        self.wait_for_log(message, |line| line["message"] == message)
    }

    /// The first log line, of the past or to come, for which `predicate` holds.
    #[track_caller]
    pub(crate) fn wait_for_log(&self, what: &str, predicate: impl Fn(&Value) -> bool) -> Value {
        let found = self.0.stderr.wait(|line| {
            let line = serde_json::from_str::<Value>(line).ok()?;
            predicate(&line).then_some(line)
        });
        found.unwrap_or_else(|| panic!("no log line: {what}"))
    }

    /// The log lines so far for which `predicate` holds.
    pub(crate) fn logged(&self, predicate: impl Fn(&Value) -> bool) -> Vec<Value> {
        let log = self.0.stderr.so_far();
        let lines = log.lines().filter_map(|line| serde_json::from_str(line).ok());
        lines.filter(predicate).collect()
    }

    /// Lowers the soft limit on file descriptors under the running process, or raises it again.
    pub(crate) fn limit_descriptors(&self, soft: u64) {
        let pid = Pid::from_child(&self.0.child);
        let maximum = getrlimit(Resource::Nofile).maximum;
        let limit = Rlimit { current: Some(soft), maximum };
        prlimit(Some(pid), Resource::Nofile, limit).expect("a limit below the hard one");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.0.child);
        kill_process(pid, signal).expect("a process to signal");
    }

    /// Waits for the process to end, as it should after a signal.
    #[track_caller]
    pub(crate) fn finish(self) -> Finished {
        self.0.finish()
    }

    /// The process' number.
    pub(crate) fn id(&self) -> u32 {
        self.0.child.id()
    }

    /// A file about the process from the kernel, such as `limits`.
    pub(crate) fn kernel_file(&self, name: &str) -> String {
        let path = format!("/proc/{}/{name}", self.0.child.id());
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Whether a test can't look into the memory and has to be left out, which it says; never in continuous integration.
    pub(crate) fn hides_its_memory(&self) -> bool {
        let is_hidden = fs::File::open(format!("/proc/{}/mem", self.0.child.id())).is_err();
        if is_hidden {
            leave_out("only root with CAP_SYS_PTRACE may read another process' memory");
        }
        is_hidden
    }

    /// Whether these bytes are anywhere in the memory that the process can write to.
    pub(crate) fn has_in_memory(&self, bytes: &[u8]) -> bool {
        let memory = fs::File::open(format!("/proc/{}/mem", self.0.child.id())).expect("the memory");
        self.kernel_file("maps").lines().filter(|line| line.contains(" rw")).any(|line| {
            let (range, _) = line.split_once(' ').expect("a range");
            let (start, end) = range.split_once('-').expect("two addresses");
            let [start, end] = [start, end].map(|text| u64::from_str_radix(text, 16).expect("an address"));
            let mut part = vec![0; usize::try_from(end - start).expect("a size")];
            // Some of the kernel's own can't be read, and of others the end may have been given back meanwhile.
            let read = memory.read_at(&mut part, start).unwrap_or_default();
            let part = &part[..read];
            let begins = |(at, byte): (usize, &u8)| *byte == bytes[0] && part[at..].starts_with(bytes);
            part.iter().enumerate().any(begins)
        })
    }

    /// Threads.
    pub(crate) fn threads(&self) -> usize {
        let status = self.kernel_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        line.and_then(|number| number.trim().parse().ok()).expect("a number of threads")
    }

    /// Resident memory in bytes.
    pub(crate) fn memory(&self) -> usize {
        let status = self.kernel_file("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        let kilobytes = line.trim().trim_end_matches(" kB");
        kilobytes.parse::<usize>().expect("a number") * 1024
    }

    /// Processor time used so far, in the kernel's hundredths of a second.
    pub(crate) fn processor_ticks(&self) -> u64 {
        let stat = self.kernel_file("stat");
        // The program's name, in parentheses, may hold anything.
        let (_, fields) = stat.rsplit_once(')').expect("a name");
        let fields = fields.split_whitespace().collect::<Vec<_>>();
        let ticks = |index: usize| fields[index].parse::<u64>().expect("a number");
        ticks(11) + ticks(12)
    }

    /// Open file descriptors. The ambassador keeps to itself, so that only root can count them; for others it has none.
    pub(crate) fn descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.0.child.id());
        match fs::read_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                say_skipped("only root can count the descriptors of another process");
                0
            }
            found => found.expect("a process to look at").count(),
        }
    }
}

/// An ambassador that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    /// The configuration was refused, and this variable was named, with a reason and a remedy, both of which are
    /// returned.
    #[track_caller]
    pub(crate) fn expect_mistake(&self, variable: &str) -> String {
        assert_eq!(self.code, Some(2), "{}", self.stderr);
        let mut lines = self.stderr.lines().skip_while(|line| {
            // The flag of a process-wide setting may stand between the name and the colon.
            !line.strip_prefix(variable).is_some_and(|rest| rest.starts_with([':', ' ']))
        });
        let first = lines.next().unwrap_or_else(|| panic!("{variable} is not named:\n{}", self.stderr));
        let (_, reason) = first.split_once(':').unwrap_or_default();
        assert!(!reason.trim().is_empty(), "no reason for {variable}:\n{}", self.stderr);
        let remedy = lines.take_while(|line| line.starts_with(' ')).collect::<Vec<_>>().join("\n");
        let text = remedy.trim_start().strip_prefix("remedy:").unwrap_or_default();
        assert!(!text.trim().is_empty(), "no remedy for {variable}:\n{}", self.stderr);
        format!("{first}\n{remedy}")
    }
}

/// Lines of output as JSON.
pub(crate) fn lines(output: &str) -> Vec<Value> {
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    output.lines().map(parse).collect()
}
