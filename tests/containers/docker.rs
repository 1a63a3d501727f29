//! Docker's command line; containers and networks that are gone when their handle is.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{self, Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{LazyLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// By which what an aborted run has left behind can be found.
const LABEL: &str = "redis-ambassador.test";

/// For conditions that come true within a second on an idle machine.
const PATIENCE: Duration = Duration::from_mins(1);

/// Runs `docker` and returns its standard output, trimmed. The test fails if Docker fails.
pub(crate) fn docker<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> String {
    let output = output(Command::new("docker").args(arguments));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

pub(crate) fn output(command: &mut Command) -> Output {
    let output = command.output().expect("docker can be started");
    assert!(
        output.status.success(),
        "{command:?} failed:\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Asks again until there is an answer.
pub(crate) fn eventually<T>(expectation: &str, mut answer: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = answer() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not within {PATIENCE:?}: {expectation}");
        thread::sleep(Duration::from_millis(50));
    }
}

pub(crate) fn unique(role: &str) -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(1);
    format!("redis-ambassador-test-{}-{}-{role}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed))
}

/// The ids of the images that all tests share.
pub(crate) struct Images {
    pub(crate) ambassador: String,
    pub(crate) redis: String,
    pub(crate) client: String,
    prometheus: Option<String>,
    host: Option<String>,
    compose: Option<String>,
    podman: Option<String>,
    quadlet: Option<String>,
    _beside_others: Option<RwLockReadGuard<'static, ()>>,
    _alone: Option<RwLockWriteGuard<'static, ()>>,
}

/// Tests run beside each other, but for one that takes it for itself.
static MACHINE: RwLock<()> = RwLock::new(());

impl Images {
    /// Makes them, once. `None`, and a line that says so, where this machine cannot run containers; with `CI=true` that is a failure.
    pub(crate) fn make() -> Option<Self> {
        let beside_others = MACHINE.read().unwrap_or_else(PoisonError::into_inner);
        Some(Self { _beside_others: Some(beside_others), ..Self::made()? })
    }

    /// The same, for a test that runs while no other does.
    pub(crate) fn make_alone() -> Option<Self> {
        let alone = MACHINE.write().unwrap_or_else(PoisonError::into_inner);
        Some(Self { _alone: Some(alone), ..Self::made()? })
    }

    fn made() -> Option<Self> {
        /// As sysexits.h has it.
        const EX_UNAVAILABLE: i32 = 69;
        static MADE: LazyLock<Output> = LazyLock::new(|| {
            Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/containers/images.sh"))
                .stderr(Stdio::inherit())
                .output()
                .expect("images.sh can be started")
        });
        if MADE.status.code() == Some(EX_UNAVAILABLE) && std::env::var_os("CI").is_none_or(|ci| ci != "true")
        {
            skipped("this machine cannot run containers (see above)");
            return None;
        }
        assert!(MADE.status.success(), "images.sh: {} (see above)", MADE.status);
        let printed = String::from_utf8(MADE.stdout.clone()).expect("UTF-8");
        let printed = |name: &str| {
            let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
            line.map(str::to_owned)
        };
        let id = |name: &str| printed(name).expect("images.sh prints it");
        Some(Self {
            ambassador: id("ambassador"),
            redis: id("redis"),
            client: id("client"),
            prometheus: printed("prometheus"),
            host: printed("host"),
            compose: printed("compose"),
            podman: printed("podman"),
            quadlet: printed("quadlet"),
            _beside_others: None,
            _alone: None,
        })
    }

    /// The image with Prometheus, where this machine has one.
    pub(crate) fn prometheus(&self) -> Option<&str> {
        optional(self.prometheus.as_deref(), "Prometheus")
    }

    /// The image that is a host with systemd and dpkg, where this machine is one.
    pub(crate) fn host(&self) -> Option<&str> {
        optional(self.host.as_deref(), "systemd with dpkg")
    }

    /// Compose, where this machine has it.
    pub(crate) fn compose(&self) -> Option<Command> {
        let mut words = optional(self.compose.as_deref(), "Compose")?.split(' ');
        let mut command = Command::new(words.next().expect("a command"));
        command.args(words);
        Some(command)
    }
}

impl Images {
    /// The version of this machine's podman.
    pub(crate) fn podman(&self) -> Option<&str> {
        optional(self.podman.as_deref(), "podman")
    }

    /// Podman's generator of units for systemd, where this machine has one.
    pub(crate) fn quadlet(&self) -> Option<&str> {
        optional(self.quadlet.as_deref(), "quadlet")
    }
}

/// What images.sh leaves out only where it can't be had.
fn optional<'a>(made: Option<&'a str>, what: &str) -> Option<&'a str> {
    if made.is_none() {
        skipped(&format!("there is no {what} here (see above)"));
    }
    made
}

/// Says which test is not run, and why.
pub(crate) fn skipped(reason: &str) {
    let thread = thread::current();
    let line = format!("{}: {reason}\n", thread.name().unwrap_or_default());
    // Not `eprintln!`, whose output the test harness keeps to itself.
    std::io::stderr().write_all(format!("skipped: {line}").as_bytes()).expect("standard error");
    // The last lines of scripts/test.
    if let Some(list) = std::env::var_os("SKIPPED") {
        let mut list = std::fs::File::options().append(true).open(list).expect("the list of scripts/test");
        list.write_all(line.as_bytes()).expect("the list of scripts/test");
    }
}

/// A network of a test's own, without a way out of the machine.
pub(crate) struct Network {
    id: String,
}

impl Network {
    pub(crate) fn create(role: &str) -> Self {
        let label = format!("{LABEL}={}", process::id());
        Self { id: docker(["network", "create", "--internal", "--label", &label, &unique(role)]) }
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// Gives a container another network, and a name there.
    pub(crate) fn connect(&self, container: &Container, name: &str) {
        docker(["network", "connect", "--alias", name, &self.id, &container.id]);
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        remove(&["network", "rm", &self.id]);
    }
}

fn remove(arguments: &[&str]) {
    clean_up(Command::new("docker").args(arguments));
}

/// Runs a command that takes away what a test has made.
pub(crate) fn clean_up(command: &mut Command) {
    let done = command.output();
    // A second panic would hide the one that the test failed with.
    if !thread::panicking() {
        let done = done.expect("the command can be started");
        assert!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    }
}

/// A container before it is started.
pub(crate) struct Recipe<'a> {
    image: &'a str,
    options: Vec<String>,
    environment: Vec<(&'a str, String)>,
    files: Vec<(&'a str, String)>,
    networks: Vec<(&'a Network, &'a str)>,
    command: &'a [&'a str],
}

impl<'a> Recipe<'a> {
    pub(crate) fn of(image: &'a str) -> Self {
        Self {
            image,
            options: Vec::new(),
            environment: Vec::new(),
            files: Vec::new(),
            networks: Vec::new(),
            command: &[],
        }
    }

    /// Options of `docker create`, as they are.
    pub(crate) fn options(mut self, options: &[&str]) -> Self {
        self.options.extend(options.iter().map(ToString::to_string));
        self
    }

    pub(crate) fn env(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.environment.push((name, value.into()));
        self
    }

    /// A mounted file that cannot be written and that every user in the container can read.
    pub(crate) fn file(mut self, path: &'a str, content: impl Into<String>) -> Self {
        self.files.push((path, content.into()));
        self
    }

    /// A network and the name the container has there. Without any: Docker's own bridge, which knows no names.
    pub(crate) fn on(mut self, network: &'a Network, name: &'a str) -> Self {
        self.networks.push((network, name));
        self
    }

    pub(crate) fn command(mut self, command: &'a [&'a str]) -> Self {
        self.command = command;
        self
    }

    pub(crate) fn start(self) -> Container {
        let files = tempfile::tempdir().expect("a directory for the files to mount");
        let name = unique("container");
        let mut create = Command::new("docker");
        create.args(["create", "--name", &name, "--label", &format!("{LABEL}={}", process::id())]);
        create.args(&self.options);
        for (name, value) in &self.environment {
            // With its value it would be in the process list.
            create.args(["--env", name]).env(name, value);
        }
        for (number, (path, content)) in self.files.iter().enumerate() {
            let file = files.path().join(number.to_string());
            fs::write(&file, content).expect("a file to mount");
            // The user in the container is not the one who runs the tests. Others are kept out by the directory.
            fs::set_permissions(&file, Permissions::from_mode(0o444)).expect("a file to mount");
            create.args(["--volume", &format!("{}:{path}:ro", file.display())]);
        }
        if let Some((network, name)) = self.networks.first() {
            create.args(["--network", &network.id, "--network-alias", name]);
        }
        create.arg(self.image).args(self.command);
        let id = String::from_utf8(output(&mut create).stdout).expect("UTF-8").trim().to_owned();
        let container = Container { id, _files: files };
        for (network, name) in self.networks.iter().skip(1) {
            network.connect(&container, name);
        }
        docker(["start", &container.id]);
        container
    }
}

/// A container that has been started.
pub(crate) struct Container {
    pub(crate) id: String,
    _files: TempDir,
}

impl Container {
    /// Runs a command in the container and returns its standard output, trimmed.
    pub(crate) fn run(&self, command: &[&str]) -> String {
        docker(["exec", &self.id].iter().chain(command))
    }

    /// Runs a command that reads from the test and writes to it.
    pub(crate) fn converse(&self, command: &[&str]) -> Child {
        Command::new("docker")
            .args(["exec", "--interactive", &self.id])
            .args(command)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("docker can be started")
    }

    /// Runs a command that may fail, with variables that nobody can read in the process list.
    pub(crate) fn try_run(&self, environment: &[(&str, &str)], command: &[&str]) -> Output {
        let mut exec = Command::new("docker");
        exec.arg("exec");
        for (name, value) in environment {
            exec.args(["--env", name]).env(name, value);
        }
        exec.arg(&self.id).args(command);
        exec.output().expect("docker can be started")
    }

    /// Everything it has printed.
    pub(crate) fn printed(&self) -> String {
        let output = output(Command::new("docker").args(["logs", &self.id]));
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
    }

    pub(crate) fn inspect(&self, format: &str) -> String {
        docker(["inspect", "--format", format, &self.id])
    }

    pub(crate) fn is_running(&self) -> bool {
        self.inspect("{{.State.Running}}") == "true"
    }

    /// Waits for its end and returns the exit code.
    pub(crate) fn exit_code(&self) -> String {
        eventually("the container ends", || (!self.is_running()).then_some(()));
        self.inspect("{{.State.ExitCode}}")
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        remove(&["rm", "--force", "--volumes", &self.id]);
    }
}
