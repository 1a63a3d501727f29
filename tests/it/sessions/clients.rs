//! Real clients, each with an idle cut and a failover in its midst: none of them needs another connection.

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use redis::AsyncTypedCommands as _;

use super::sentinel::{is_demoted, new_primary};
use super::{PACE, counted};
use crate::support::{
    Ambassador, Launch, PATIENCE, Quorum, command_is_missing, eventually, get, leave_out, own_address,
    password,
};

/// What works at the other end of a link, until it is told to pause.
pub(crate) trait Client {
    /// How many times it has done its work.
    fn steps(&self) -> usize;
    /// Finishes what it does, and then nothing for a while.
    fn pause(&mut self);
    fn go_on(&mut self);
    /// Ends, and says what went wrong.
    fn finish(&mut self) -> Vec<String>;
}

/// A program that speaks as `clients/harness.py` does.
pub(crate) struct Program {
    child: Child,
    input: Option<ChildStdin>,
    heard: Arc<Heard>,
    reader: Option<JoinHandle<()>>,
    log: PathBuf,
    _directory: tempfile::TempDir,
}

#[derive(Default)]
struct Heard {
    steps: AtomicUsize,
    pauses: AtomicUsize,
    errors: Mutex<Vec<String>>,
}

impl Program {
    pub(crate) fn start(command: &mut Command) -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let log = directory.path().join("stderr");
        let mut child = command
            .current_dir(clients())
            // For one that is elsewhere.
            .env("PYTHONPATH", clients())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(&log).expect("a file"))
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let heard = Arc::new(Heard::default());
        let output = BufReader::new(child.stdout.take().expect("a pipe"));
        let reader = thread::spawn({
            let heard = Arc::clone(&heard);
            move || {
                for line in output.lines().map_while(Result::ok) {
                    match &*line {
                        "step" => drop(heard.steps.fetch_add(1, Ordering::Relaxed)),
                        "idle" => drop(heard.pauses.fetch_add(1, Ordering::Relaxed)),
                        "done" => return,
                        _ => heard.errors.lock().unwrap_or_else(PoisonError::into_inner).push(line),
                    }
                }
                heard.errors.lock().unwrap_or_else(PoisonError::into_inner).push("it ended early".to_owned());
            }
        });
        let input = child.stdin.take();
        Self { child, input, heard, reader: Some(reader), log, _directory: directory }
    }

    fn tell(&mut self, line: &str) {
        writeln!(self.input.as_mut().expect("a pipe"), "{line}").expect("a program that reads");
    }
}

impl Client for Program {
    fn steps(&self) -> usize {
        self.heard.steps.load(Ordering::Relaxed)
    }

    fn pause(&mut self) {
        let before = self.heard.pauses.load(Ordering::Relaxed);
        self.tell("idle");
        eventually("a pause", || self.heard.pauses.load(Ordering::Relaxed) > before);
    }

    fn go_on(&mut self) {
        self.tell("load");
    }

    fn finish(&mut self) -> Vec<String> {
        drop(self.input.take());
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        let mut wrong = self.heard.errors.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if !wrong.is_empty() {
            let log = std::fs::read_to_string(&self.log).unwrap_or_default();
            wrong.push(log.chars().rev().take(3000).collect::<Vec<_>>().into_iter().rev().collect());
        }
        wrong
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client in this process.
struct Inside {
    paused: Arc<AtomicBool>,
    stopped: Arc<AtomicBool>,
    heard: Arc<Heard>,
    thread: Option<JoinHandle<()>>,
}

impl Inside {
    fn start(mut step: impl FnMut(usize) -> Result<(), String> + Send + 'static) -> Self {
        let (paused, stopped, heard) =
            (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default(), Arc::<Heard>::default());
        let thread = thread::spawn({
            let (paused, stopped, heard) = (Arc::clone(&paused), Arc::clone(&stopped), Arc::clone(&heard));
            move || {
                for number in 0.. {
                    while paused.load(Ordering::Acquire) && !stopped.load(Ordering::Relaxed) {
                        heard.pauses.fetch_add(1, Ordering::Relaxed);
                        thread::sleep(Duration::from_millis(5));
                    }
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    match step(number) {
                        Ok(()) => drop(heard.steps.fetch_add(1, Ordering::Relaxed)),
                        Err(error) => {
                            heard.errors.lock().unwrap_or_else(PoisonError::into_inner).push(error);
                        }
                    }
                    thread::sleep(PACE / 2);
                }
            }
        });
        Self { paused, stopped, heard, thread: Some(thread) }
    }
}

impl Client for Inside {
    fn steps(&self) -> usize {
        self.heard.steps.load(Ordering::Relaxed)
    }

    fn pause(&mut self) {
        let before = self.heard.pauses.load(Ordering::Relaxed);
        self.paused.store(true, Ordering::Release);
        eventually("a pause", || self.heard.pauses.load(Ordering::Relaxed) > before);
    }

    fn go_on(&mut self) {
        self.paused.store(false, Ordering::Release);
    }

    fn finish(&mut self) -> Vec<String> {
        self.stopped.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("a client");
        }
        self.heard.errors.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn clients() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/sessions/clients")
}

/// The Python that has the clients' libraries; `need_clients` of scripts/common has put it into the build's directory.
pub(crate) fn python() -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the build's directory");
    let python = target.join("clients/bin/python");
    if python.is_file() {
        return Some(python);
    }
    leave_out("Python clients are not installed (see need_clients in scripts/common)");
    None
}

/// A primary with Sentinels, and an ambassador with a link for each client.
struct Stage {
    quorum: Quorum,
    ambassador: Ambassador,
    names: Vec<&'static str>,
}

impl Stage {
    fn start(names: &[&'static str], change: impl Fn(Launch) -> Launch) -> Option<Self> {
        let quorum = Quorum::start(&password())?;
        let launch = names.iter().fold(Launch::new(), |launch, name| {
            launch
                .variable(format!("{name}_PORT_6379_TCP"), quorum.target())
                .variable(format!("{name}_LISTEN"), "127.0.0.1:0")
                .variable(format!("{name}_AUTH"), &quorum.password)
                .variable(format!("{name}_CONNECT_TIMEOUT"), "20s")
        });
        let ambassador = change(launch).start();
        Some(Self { quorum, ambassador, names: names.to_vec() })
    }

    /// Host and port of a link.
    fn place(&self, name: &str) -> [String; 2] {
        let address = self.ambassador.address(&link(name));
        [address.ip().to_string(), address.port().to_string()]
    }

    fn url(&self, name: &str) -> String {
        format!("redis://{}/0", self.ambassador.address(&link(name)))
    }

    fn accepted(&self, name: &str) -> usize {
        counted(&self.ambassador, &format!("connections_accepted_total{{link=\"{}\"}}", link(name)))
    }

    /// Ends all that is idle at the primary.
    fn cut(&self) {
        let primary = self.quorum.primary(0).expect("a primary");
        let mut administrator = self.quorum.administrator(primary);
        let ours = |administrator: &mut redis::Connection| {
            let list: String =
                redis::cmd("CLIENT").arg(&["LIST", "TYPE", "normal"]).query(administrator).expect("a list");
            let ids = list
                .lines()
                .filter(|line| !line.contains(" cmd=client") && !line.contains(" name=sentinel-"));
            ids.filter_map(|line| Some(line.strip_prefix("id=")?.split_once(' ')?.0.to_owned()))
                .collect::<Vec<_>>()
        };
        for id in ours(&mut administrator) {
            // It may have gone by itself.
            let _ = redis::cmd("CLIENT").arg(&["KILL", "ID", &id]).exec(&mut administrator);
        }
        self.quorum.servers[primary].wait_until_nobody_is_half_closed();
    }

    /// A failover, up to the moment when the old primary has cut all who stayed.
    fn fail_over(&self) {
        let old = self.quorum.primary(0).expect("a primary");
        self.quorum.fail_over();
        new_primary(&self.quorum, old);
        is_demoted(&self.quorum, old);
    }

    /// Works, is cut while it is idle if that is meant, fails over, and works on: nobody has an error or comes back.
    fn play(&self, mut clients: Vec<(&'static str, Box<dyn Client>)>, cuts: bool) {
        go_on(&clients);
        let before: Vec<_> = self.names.iter().map(|name| self.accepted(name)).collect();
        if cuts {
            for (_, client) in &mut clients {
                client.pause();
            }
            self.cut();
            for (_, client) in &mut clients {
                client.go_on();
            }
            go_on(&clients);
        }
        self.fail_over();
        go_on(&clients);
        let mut wrong = Vec::new();
        for (name, client) in &mut clients {
            for error in client.finish() {
                wrong.push(format!("{name}: {error}"));
            }
        }
        for (name, before) in self.names.iter().zip(before) {
            let more = self.accepted(name) - before;
            if more > 0 {
                wrong.push(format!("{name} has made {more} more connections"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}

fn link(name: &str) -> String {
    format!("{}:6379", name.to_lowercase())
}

/// Waits until all have done something more.
fn go_on(clients: &[(&'static str, Box<dyn Client>)]) {
    let before: Vec<_> = clients.iter().map(|(_, client)| client.steps()).collect();
    for ((name, client), before) in clients.iter().zip(before) {
        eventually(&format!("{name} goes on"), || client.steps() >= before + 3);
    }
}

/// redis-py with its own parsers and with hiredis, in both protocols, blocking and not.
const REDIS_PY: [&str; 6] = ["PLAIN2", "PLAIN3", "HIREDIS2", "HIREDIS3", "ASYNC2", "ASYNC3"];

/// The `redis` crate: a shared asynchronous connection, and one that reconnects by itself and must not have to.
const REDIS_CRATE: [&str; 4] = ["SHARED2", "SHARED3", "MANAGER2", "MANAGER3"];

/// valkey-glide, whose core is its own.
const GLIDE: [&str; 2] = ["GLIDE2", "GLIDE3"];

/// phpredis on a persistent connection, which it takes again and authenticates on with every request.
const PHP: &str = "PHP";

/// Clients that ask and are answered notice neither that they were cut while they were idle nor a failover.
#[test]
fn clients_of_many_languages_notice_neither_a_cut_nor_a_failover() {
    let python = python();
    let has_php = has_php();
    let mut names = REDIS_CRATE.to_vec();
    if python.is_some() {
        names.extend(REDIS_PY);
        names.extend(GLIDE);
    }
    if has_php {
        names.push(PHP);
    }
    let Some(stage) = Stage::start(&names, |launch| launch.variable("PHP_CLIENT_AUTH", "absorb")) else {
        return;
    };
    let mut started: Vec<(&'static str, Box<dyn Client>)> = Vec::new();
    for name in REDIS_CRATE {
        started.push((name, Box::new(redis_crate(&stage, name))));
    }
    if let Some(python) = python {
        for name in REDIS_PY {
            let place = stage.place(name);
            let mut command = Command::new(&python);
            let (kind, protocol) = name.split_at(name.len() - 1);
            match kind {
                "PLAIN" => {
                    let parser = format!("_RESP{protocol}Parser");
                    command.arg("redis_py.py").args(place).args([protocol, &parser])
                }
                "HIREDIS" => command.arg("redis_py.py").args(place).args([protocol, "_HiredisParser"]),
                _ => command.arg("redis_py_async.py").args(place).arg(protocol),
            };
            started.push((name, Box::new(Program::start(&mut command))));
        }
        for name in GLIDE {
            let mut command = Command::new(&python);
            command.arg("valkey_glide.py").args(stage.place(name)).arg(&name[name.len() - 1..]);
            started.push((name, Box::new(Program::start(&mut command))));
        }
    }
    let page = own_address();
    let _server = has_php.then(|| {
        let server = php(page, stage.ambassador.address(&link(PHP)), "pconnect");
        let inside = Inside::start(move |number| {
            let answer = get(page, &format!("/?number={number}"));
            (answer.body == "ok").then_some(()).ok_or(answer.body)
        });
        started.push((PHP, Box::new(inside)));
        server
    });
    stage.play(started, true);
}

/// A client of the `redis` crate.
fn redis_crate(stage: &Stage, name: &'static str) -> Inside {
    let options = if name.ends_with('3') { "?protocol=resp3" } else { "" };
    let client = redis::Client::open(format!("{}{options}", stage.url(name))).expect("a URL");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    if name.starts_with("SHARED") {
        let configuration = redis::AsyncConnectionConfig::new().set_response_timeout(Some(PATIENCE));
        let connection = client.get_multiplexed_async_connection_with_config(&configuration);
        let connection = runtime.block_on(connection).expect("a connection");
        Inside::start(move |number| step(&runtime, &connection, name, number))
    } else {
        let configuration = redis::aio::ConnectionManagerConfig::new()
            .set_number_of_retries(0)
            .set_response_timeout(Some(PATIENCE));
        let connection = redis::aio::ConnectionManager::new_with_config(client, configuration);
        let connection = runtime.block_on(connection).expect("a connection");
        Inside::start(move |number| step(&runtime, &connection, name, number))
    }
}

/// Eight at the same time on one connection.
fn step(
    runtime: &tokio::runtime::Runtime,
    connection: &(impl redis::aio::ConnectionLike + Clone + Send + Sync + 'static),
    name: &str,
    number: usize,
) -> Result<(), String> {
    runtime.block_on(async {
        let tasks = (0..8).map(|task| {
            let mut connection = connection.clone();
            let key = format!("{name}:{task}");
            async move {
                connection.set(&key, number).await?;
                let value = connection.get(&key).await?;
                connection.rpush(format!("list:{key}"), number).await?;
                // A failover of Sentinel's loses what was set in its midst.
                let value = value.and_then(|value| value.parse::<usize>().ok());
                Ok::<_, redis::RedisError>(value.is_some_and(|value| value <= number))
            }
        });
        let done = futures_util::future::try_join_all(tasks).await.map_err(|error| error.to_string())?;
        done.into_iter().all(|right| right).then_some(()).ok_or_else(|| "another number".to_owned())
    })
}

pub(crate) fn has_php() -> bool {
    if command_is_missing("php") {
        return false;
    }
    let modules = Command::new("php").arg("-m").output().expect("php runs");
    let found = String::from_utf8_lossy(&modules.stdout).lines().any(|module| module == "redis");
    if !found {
        leave_out("phpredis is not installed");
    }
    found
}

/// A server of `clients/phpredis.php`, whose page connects with that function of phpredis.
pub(crate) fn php(page: SocketAddr, redis: SocketAddr, connect: &str) -> Server {
    let server = Command::new("php")
        .args(["-S", &page.to_string()])
        .arg(clients().join("phpredis.php"))
        .env("REDIS_HOST", redis.ip().to_string())
        .env("REDIS_PORT", redis.port().to_string())
        .env("REDIS_CONNECT", connect)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let server = Server(server.expect("php runs"));
    eventually("the page is there", || std::net::TcpStream::connect(page).is_ok());
    server
}

/// A program that needs no input. Killed when dropped.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Those that wait for jobs do so in a command that blocks for a second or two, over and over, which Celery and Sidekiq
/// have: a failover comes between two of them, and jobs go on being done.
#[test]
fn workers_notice_no_failover() {
    let (python, has_sidekiq) = (python(), !command_is_missing("sidekiq"));
    let mut names = Vec::new();
    if python.is_some() {
        names.extend(["CELERY", "CELERY_JOBS"]);
    }
    if has_sidekiq {
        names.extend(["SIDEKIQ", "SIDEKIQ_JOBS"]);
    }
    if names.is_empty() {
        return;
    }
    let Some(stage) = Stage::start(&names, |launch| launch) else { return };
    let mut workers = Vec::new();
    let mut producers: Vec<(&'static str, Box<dyn Client>)> = Vec::new();
    if let Some(python) = python {
        let mut worker = Command::new(&python);
        worker.args(["-m", "celery", "-A", "tasks", "worker", "--pool", "solo", "--loglevel", "INFO"]);
        worker.args(["--without-gossip", "--without-mingle", "--without-heartbeat"]);
        workers.push(Worker::start(&mut worker, &stage.url("CELERY"), ["celery", "done:celery"]));
        let mut producer = Command::new(&python);
        producer.arg("celery_producer.py").env("REDIS_URL", stage.url("CELERY_JOBS"));
        producers.push(("CELERY_JOBS", Box::new(Program::start(&mut producer))));
    }
    if has_sidekiq {
        let mut worker = Command::new("sidekiq");
        worker.args(["-r", "./sidekiq_jobs.rb", "-c", "2"]);
        workers.push(Worker::start(&mut worker, &stage.url("SIDEKIQ"), ["queue:default", "done:sidekiq"]));
        let mut producer = Command::new("ruby");
        producer.arg("sidekiq_producer.rb").env("REDIS_URL", stage.url("SIDEKIQ_JOBS"));
        producers.push(("SIDEKIQ_JOBS", Box::new(Program::start(&mut producer))));
    }
    for worker in &workers {
        eventually("jobs are done", || length(&stage, worker.done) > 1);
    }
    stage.play(producers, false);
    // What they were given is done; a failover of Sentinel's may have lost some, and may have some done again.
    for worker in &workers {
        worker.expect_peace(&stage);
    }
}

/// A process that takes jobs from one list, and notes in another one that they are done.
struct Worker {
    _server: Server,
    log: tempfile::NamedTempFile,
    jobs: &'static str,
    done: &'static str,
}

impl Worker {
    fn start(command: &mut Command, url: &str, [jobs, done]: [&'static str; 2]) -> Self {
        let log = tempfile::NamedTempFile::new().expect("a file");
        let output = || log.reopen().expect("a file");
        let server = command
            .current_dir(clients())
            .envs([("REDIS_URL", url), ("PYTHONDONTWRITEBYTECODE", "1")])
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output())
            .spawn();
        let server = server.unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { _server: Server(server), log, jobs, done }
    }

    /// It has done all that there was to do, and its log has nothing to say of connections.
    #[track_caller]
    fn expect_peace(&self, stage: &Stage) {
        eventually("no job is left", || length(stage, self.jobs) == 0);
        let log = std::fs::read_to_string(self.log.path()).expect("a log");
        let is_bad = |line: &&str| {
            let speaks = ["rror", "onnection", "etry"].iter().any(|word| line.contains(word));
            // Of root, and of the beginning.
            speaks && !line.contains("security_error") && !line.contains("Connected to")
        };
        let bad: Vec<_> = log.lines().filter(is_bad).collect();
        assert!(bad.is_empty(), "{bad:#?}");
    }
}

/// The length of a list at the primary.
fn length(stage: &Stage, list: &str) -> usize {
    let Some(primary) = stage.quorum.primary(0) else { return 0 };
    redis::cmd("LLEN").arg(list).query(&mut stage.quorum.administrator(primary)).expect("a list")
}
