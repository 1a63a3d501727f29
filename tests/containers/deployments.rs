//! What is in `deploy/`, run for real: Compose, Swarm, Prometheus, and the Debian package with its systemd unit.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::panic::resume_unwind;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::docker::{
    Container, Images, Network, Recipe, clean_up, docker, eventually, output, skipped, unique,
};
use crate::documents::example;
use crate::roles::{Ambassador, Client, Redis, assert_no_password, new_password};

/// A file of the repository.
fn repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

/// `docker compose up`: the application reads PONG, is not on Redis' network, and nothing that Docker can tell of it or of
/// the ambassador is the password.
#[test]
fn the_compose_file_leads_to_pong() {
    let Some(images) = Images::make() else { return };
    let Some(project) = Project::up(&images, &new_password()) else { return };
    let app = project.run(&["ps", "--quiet", "app"]);

    eventually("the application reads PONG", || {
        docker(["logs", app.trim()]).lines().any(|line| line == "PONG").then_some(())
    });
    let direct = Command::new("docker")
        .args(["exec", app.trim(), "redis-cli", "-h", "redis-server", "PING"])
        .output()
        .expect("docker can be started");
    assert!(text(&direct.stderr).starts_with("Could not connect"), "{direct:?}");
    assert_no_password(&project.run(&["logs"]));
    for service in ["app", "redis", "redis-server"] {
        let id = project.run(&["ps", "--quiet", service]);
        assert_no_password(&docker(["inspect", id.trim()]));
    }
    // Files of either form are read, with the version that Compose v1 wants and v2 ignores and without it.
    let with_version = project.directory.path().join("with-version.yaml");
    let file = fs::read_to_string(repository("deploy/compose.yaml")).expect("a file");
    fs::write(&with_version, format!("version: \"3.8\"\n{file}")).expect("a file");
    let mut config = images.compose().expect("Compose");
    output(config.args(["--file", &with_version.display().to_string(), "config", "--quiet"]));
}

/// A stack on a swarm of one node, with Docker's own secrets, while clients work: one that keeps its connection and
/// reconnects when it ends, one that connects for each request. A new password comes in with an update that replaces the
/// ambassador, Redis learns it later, and not one request fails.
#[test]
fn an_update_of_the_stack_brings_a_new_password_and_no_request_fails() {
    // Docker forgets the names in every network when its node leaves a swarm.
    let Some(images) = Images::make_alone() else { return };
    let Some(swarm) = Swarm::enter() else { return };
    let (old, new) = (new_password(), new_password());
    let stack = Stack::new(&swarm, &images, &old, &new);
    stack.deploy(&[("REDIS_SECRET", &stack.old), ("REDIS_PREVIOUS_SECRET", &stack.old)]);
    let app = eventually("the application runs", || stack.containers("app").pop());
    eventually("the application reads PONG", || {
        docker(["logs", &app]).lines().any(|line| line == "PONG").then_some(())
    });
    let before = stack.containers("redis");
    let loads = [
        Load::start(&app, "INCR kept", "exec redis-cli -h redis 2>&1"),
        Load::start(&app, "INCR fresh", "while read request; do redis-cli -h redis $request 2>&1; done"),
    ];

    // Redis does not know the new password yet.
    stack.deploy(&[("REDIS_SECRET", &stack.new), ("REDIS_PREVIOUS_SECRET", &stack.old)]);
    eventually("the update is complete", || {
        let status =
            docker(["service", "inspect", "--format", "{{json .UpdateStatus}}", &stack.service("redis")]);
        assert!(!status.contains("rollback") && !status.contains("paused"), "{status}");
        status.contains(r#""completed""#).then_some(())
    });
    let after = eventually("the last one of before has drained", || {
        let now = stack.containers("redis");
        (!now.iter().any(|id| before.contains(id))).then_some(now)
    });
    let redis = stack.containers("redis-server").pop().expect("a Redis");
    let command = |password: &str, command: &[&str]| {
        let mut exec = Command::new("docker");
        exec.args(["exec", "--env", "REDISCLI_AUTH", &redis, "redis-cli"]).args(command);
        text(&output(exec.env("REDISCLI_AUTH", password)).stdout).trim().to_owned()
    };
    assert_eq!(command(&old, &["CONFIG", "SET", "requirepass", &new]), "OK");
    let so_far: u64 = command(&new, &["GET", "fresh"]).parse().expect("a number");
    eventually("requests go on with the new password", || {
        let number: u64 = command(&new, &["GET", "fresh"]).parse().expect("a number");
        (number > so_far + 10).then_some(())
    });

    for load in loads {
        load.end();
    }

    // The end of the rotation: Redis starts with the new password from now on, and keeps its data.
    stack.deploy(&[("REDIS_SECRET", &stack.new), ("REDIS_PREVIOUS_SECRET", &stack.new)]);
    let pong = |before: &str| {
        eventually("another Redis answers the application", || {
            let now = stack.containers("redis-server").pop().filter(|now| now != before)?;
            let answer = Command::new("docker")
                .args(["exec", &app, "redis-cli", "-h", "redis", "GET", "fresh"])
                .output()
                .expect("docker can be started");
            (text(&answer.stdout).trim().parse::<u64>().ok()? > so_far).then_some(now)
        })
    };
    let restarted = pong(&redis);
    docker(["kill", &restarted]);
    pong(&restarted);
    for id in after.iter().chain(&before) {
        let printed = Command::new("docker").args(["logs", id]).output().expect("docker can be started");
        assert_no_password(&text(&printed.stdout));
        assert_no_password(&text(&printed.stderr));
    }
}

/// Docker sees how the ambassador does: it becomes healthy, unhealthy while it hangs, healthy again, and unhealthy when it
/// is about to stop.
#[test]
fn docker_knows_whether_the_ambassador_is_well() {
    let Some(images) = Images::make() else { return };
    let ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .options(&["--health-interval", "500ms", "--health-timeout", "2s", "--health-retries", "1"])
            .env("REDIS_PORT_6379_TCP", "redis://redis.invalid")
            .env("AMBASSADOR_DRAIN_DELAY", "10m"),
    );
    let eventually_is = |status: &str| {
        eventually(status, || {
            (ambassador.container.inspect("{{.State.Health.Status}}") == status).then_some(())
        });
    };
    let signal = |name: &str| docker(["kill", "--signal", name, &ambassador.container.id]);

    eventually_is("healthy");
    signal("STOP");
    eventually_is("unhealthy");
    signal("CONT");
    eventually_is("healthy");
    signal("TERM");
    eventually_is("unhealthy");
    let last = ambassador.container.inspect("{{(index .State.Health.Log 0).ExitCode}}");
    assert!(["0", "1"].contains(&&*last), "{last}");
}

/// A Prometheus with the configuration in `deploy/` reads the metrics, and its alert goes off when Redis is gone.
#[test]
fn prometheus_reads_the_metrics_and_notices_that_redis_is_gone() {
    let Some(images) = Images::make() else { return };
    let Some(prometheus) = images.prometheus() else { return };
    let password = new_password();
    let network = Network::create("network");
    let redis = Redis::on(&network, "database", &images, &password);
    let _ambassador = Ambassador::start(
        Ambassador::recipe(&images)
            .on(&network, "redis")
            .env("REDIS_PORT_6379_TCP", "tcp://database:6379")
            .env("REDIS_AUTH", &password)
            .env("REDIS_CONNECT_TIMEOUT", "500ms")
            .env("AMBASSADOR_ADMIN", "0.0.0.0:9180"),
    );
    let client = Client::on(&network, &images);
    assert_eq!(client.redis(&["PING"]), "PONG");
    let read = |path: &str| fs::read_to_string(repository(path)).expect("a file");
    // The intervals are shorter than an operator's, for the sake of those who wait.
    let configuration = read("deploy/prometheus/prometheus.yml").replace("_interval: 15s", "_interval: 1s");
    let prometheus = Recipe::of(prometheus)
        .on(&network, "prometheus")
        .file("/etc/prometheus/prometheus.yml", configuration)
        .file("/etc/prometheus/alerts.yml", read("deploy/prometheus/alerts.yml"))
        .command(&[
            "prometheus",
            "--config.file=/etc/prometheus/prometheus.yml",
            "--storage.tsdb.path=/tmp/prometheus",
        ])
        .start();
    let eventually_there = |query: &str, value: &str| {
        eventually(query, || {
            let answer =
                prometheus.try_run(&[], &["promtool", "query", "instant", "http://localhost:9090", query]);
            text(&answer.stdout).contains(&format!("=> {value} @")).then_some(())
        });
    };

    eventually_there(r#"up{job="redis-ambassador"}"#, "1");
    eventually_there(r#"redis_ambassador_connections_accepted_total{link="redis:6379"}"#, "1");
    eventually_there(r#"redis_ambassador_backend_up{link="redis:6379",backend="database:6379"}"#, "1");

    docker(["stop", "--time", "0", redis.id()]);
    let answer = client.redis(&["PING"]);
    assert!(answer.starts_with("ERR redis-ambassador: redis:6379: "), "{answer}");
    eventually_there(
        r#"ALERTS{alertname="RedisAmbassadorTargetUnreachable",alertstate="pending",link="redis:6379"}"#,
        "1",
    );
}

/// `scripts/dist` makes a release: an archive, a bill of materials, checksums, and a Debian package. Package and archive are
/// installed on a host with systemd, where the service gets its passwords as credentials and serves.
#[test]
fn the_debian_package_is_installed_and_its_service_serves() {
    let Some(images) = Images::make() else { return };
    let Some(image) = images.host() else { return };
    let dist = tempfile::tempdir().expect("a directory");
    output(Command::new(repository("scripts/dist")).arg(dist.path()));
    assert_release(dist.path());

    let password = new_password();
    let release = [find(dist.path(), ".deb"), find(dist.path(), ".tar.gz")];
    let mounts = release.map(|name| format!("{}/{name}:/{name}:ro", dist.path().display()));
    let host = Host::start(image, &mounts, &password);
    host.start_redis(7000, "/etc/redis.conf");
    let page = "docs/deploy/systemd.md";
    // What the page says, but for where this Redis is.
    let commands = example(page, "dpkg").replace("redis.example.com:6379", "127.0.0.1:7000");
    let (install, commands) = commands.split_once('\n').expect("lines");
    let (configure, ping) = commands.trim_end().rsplit_once('\n').expect("a last line");

    host.run(install);
    assert_eq!(host.run("redis-ambassador --version"), VERSION);
    // There may be passwords in it.
    assert!(host.run("ls -l /etc/redis-ambassador/environment").starts_with("-rw------- "));
    assert!(host.run("ls -ld /etc/redis-ambassador/credentials").starts_with("drwx------ "));
    // The proof is this service's, and not that of a Redis on the same host.
    host.start_redis(6379, "");
    host.run(configure);
    assert_eq!(host.run(ping), "PONG");
    assert_eq!(host.run("redis-ambassador health"), "ready");
    assert!(host.run(&example(page, "redis-ambassador check").replace("\n  ", "\n")).contains(" 0 problems"));
    let first = host.process("MainPID");
    assert_is_nobody(&host.run(&format!("cat /proc/{first}/status")));
    let served = "Serving 0 clients: redis:6380 on 127.0.0.1:6380";
    eventually("the status", || (host.process("StatusText") == served).then_some(()));
    host.run("systemctl kill --signal HUP redis-ambassador");
    assert_eq!(host.process("MainPID"), first);
    host.run("redis-cli -p 6379 shutdown nosave");

    // An update keeps the configuration and restarts what runs.
    host.run(install);
    assert_eq!(host.run(ping), "PONG");
    assert_ne!(host.process("MainPID"), first);
    assert!(host.run("cat /etc/redis-ambassador/environment").contains("\nREDIS_PORT_6380_TCP="));

    // Another link, whose password is another file.
    host.run("install -m 600 /secrets/redis /etc/redis-ambassador/credentials/cache");
    host.run(
        "cat >> /etc/redis-ambassador/environment <<'VARIABLES'
CACHE_PORT_6381_TCP=tcp://127.0.0.1:7000
CACHE_AUTH_FILE=/run/credentials/redis-ambassador.service/credential_cache
VARIABLES",
    );
    // Who takes its port keeps it from starting, and systemctl says so; the update goes on all the same.
    host.start_redis(6381, "");
    let refused = host.try_run("systemctl restart redis-ambassador");
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(text(&refused.stderr).contains("failed"), "{refused:?}");
    host.run(install);
    let log = host.log();
    assert!(log.contains("(CACHE_PORT_6381_TCP): Address already in use"), "{log}");
    host.run("redis-cli -p 6381 shutdown nosave");
    // It goes on trying.
    for port in [6380, 6381] {
        eventually("PONG", || {
            (text(&host.try_run(&format!("redis-cli -p {port} ping")).stdout) == "PONG\n").then_some(())
        });
    }

    // What is left is what its owner wrote, and a purge leaves not even that.
    host.run("dpkg --remove redis-ambassador");
    assert_eq!(host.process("LoadState"), "not-found");
    assert_eq!(host.run("ls /etc/redis-ambassador/credentials"), "cache\nredis");
    host.run("dpkg --purge redis-ambassador");
    assert_eq!(host.run("ls -d /etc/redis*"), "/etc/redis.conf");

    // The archive, in /usr/local.
    host.run(&example(page, "tar "));
    host.run(configure);
    assert_eq!(host.run(ping), "PONG");
    assert_eq!(host.process("FragmentPath"), "/usr/local/lib/systemd/system/redis-ambassador.service");

    assert_restarts_refuse_nobody(&host);
    assert_first_client_starts(&host);

    // systemd waits for the drain, even where it takes longer than the unit allows.
    host.run(
        "mkdir -p /run/systemd/system/redis-ambassador.service.d
cat > /run/systemd/system/redis-ambassador.service.d/drain.conf <<'DROP_IN'
[Service]
Environment=AMBASSADOR_DRAIN_DELAY=3s
TimeoutStopSec=1s
DROP_IN
systemctl daemon-reload
systemctl restart redis-ambassador
systemctl stop redis-ambassador",
    );
    assert_eq!(host.process("Result"), "success");
    let log = host.log();
    assert!(log.matches(" stopped connections_cut=0").count() >= 4, "{log}");
    assert_no_password(&log);
}

/// Clients that come all the time, while the service is restarted and after it was killed: the listener is in systemd's store.
fn assert_restarts_refuse_nobody(host: &Host) {
    host.run(
        "for client in 1 2 3 4; do
    (while ! test -e /run/enough; do redis-cli -p 6380 ping || true; done >>/run/answers 2>&1) &
done",
    );
    let answers = || host.run("cat /run/answers");
    let served = || answers().matches("PONG").count();
    let more = |than| eventually("PONG", || (served() > than + 20).then_some(()));
    let restarted = |restart: &str| {
        let (process, before) = (host.process("MainPID"), served());
        host.run(restart);
        more(before);
        assert_ne!(host.process("MainPID"), process);
        // The link's listener and the admin endpoint's.
        assert_eq!(host.process("NFileDescriptorStore"), "2");
    };
    more(0);
    restarted("systemctl restart redis-ambassador");
    let answers_so_far = answers();
    // The last who were accepted may be closed before they have said anything.
    let is_served = |line: &&str| *line == "PONG" || line.contains("Server closed the connection");
    assert_eq!(answers_so_far.lines().find(|line| !is_served(line)), None);
    restarted("systemctl kill --signal KILL redis-ambassador");
    host.run(": > /run/enough");
    // Who was being served was cut.
    assert!(!answers().contains("refused"), "{}", answers());
}

/// The example of a socket unit: systemd listens, the first client starts the service, and is served.
fn assert_first_client_starts(host: &Host) {
    host.run("systemctl stop redis-ambassador");
    host.run(
        "install -m 644 /usr/local/share/doc/redis-ambassador/deploy/redis-ambassador.socket /run/systemd/system
systemctl daemon-reload
systemctl start redis-ambassador.socket",
    );
    assert_eq!(host.process("ActiveState"), "inactive");
    assert_eq!(host.run("redis-cli -p 6380 ping"), "PONG");
    assert_eq!(host.process("ActiveState"), "active");
    // The admin endpoint, which no socket serves, is in the store.
    assert_eq!(host.process("NFileDescriptorStore"), "1");
    let log = host.log();
    assert!(log.contains("kept_as=\"redis-6380\""), "{log}");
    assert!(log.contains("listening without a socket of the service manager link=\"admin\""), "{log}");
    host.run("systemctl stop redis-ambassador.socket redis-ambassador && rm /run/systemd/system/redis-ambassador.socket");
    host.run("systemctl daemon-reload && systemctl start redis-ambassador");
}

const VERSION: &str = concat!("redis-ambassador ", env!("CARGO_PKG_VERSION"));

/// A container that is a host with systemd and dpkg, with a Redis to start.
struct Host(Container);

impl Host {
    fn start(image: &str, mounts: &[String], password: &str) -> Self {
        let mounts: Vec<_> = mounts.iter().flat_map(|mount| ["--volume", mount]).collect();
        let host = Recipe::of(image)
            // What systemd needs to be the first process of a container.
            .options(&["--cgroupns", "private", "--tmpfs", "/run:mode=755", "--tmpfs", "/sys/fs/cgroup"])
            .options(&["--cap-add", "SYS_ADMIN", "--cap-add", "SYS_PTRACE"])
            .options(&["--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"])
            .options(&mounts)
            .file("/etc/redis.conf", format!("save \"\"\nrequirepass {password}\n"))
            .file("/secrets/redis", format!("{password}\n"))
            .command(&["sh", "-c", "mount --make-rshared / && exec /lib/systemd/systemd --unit=basic.target"])
            .start();
        let host = Self(host);
        eventually("systemd runs", || {
            host.try_run("systemctl start systemd-journald").status.success().then_some(())
        });
        host.run("mkdir -p /usr/local /var/lib/dpkg/info /var/lib/dpkg/updates && : > /var/lib/dpkg/status");
        host
    }

    fn try_run(&self, script: &str) -> Output {
        self.0.try_run(&[], &["sh", "-e", "-c", script])
    }

    /// Runs the lines of a script, none of which may fail.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        let done = self.try_run(script);
        assert!(done.status.success(), "{script}: {}{}", text(&done.stdout), text(&done.stderr));
        text(&done.stdout).trim().to_owned()
    }

    /// Starts a Redis, and waits until it listens.
    fn start_redis(&self, port: u16, configuration: &str) {
        self.run(&format!("redis-server {configuration} --port {port} --daemonize yes"));
        eventually("Redis listens", || {
            let answer = self.try_run(&format!("redis-cli -p {port} ping"));
            ["PONG", "NOAUTH"].iter().any(|word| text(&answer.stdout).starts_with(word)).then_some(())
        });
    }

    /// What systemd knows of the service.
    #[track_caller]
    fn process(&self, property: &str) -> String {
        self.run(&format!("systemctl show --value --property {property} redis-ambassador"))
    }

    #[track_caller]
    fn log(&self) -> String {
        self.run("journalctl --no-pager --unit redis-ambassador")
    }
}

/// The user of the service is one whom the host does not know, without any capability.
fn assert_is_nobody(status: &str) {
    let of = |name: &str| {
        status.lines().find_map(|line| line.strip_prefix(name)).expect("a line").trim().to_owned()
    };
    let user: u32 = of("Uid:").split('\t').next().and_then(|user| user.parse().ok()).expect("a user");
    assert!((61184..=65519).contains(&user), "{user}");
    assert_eq!(of("CapEff:"), "0000000000000000");
}

/// The name of the file that ends like this.
fn find(directory: &Path, end: &str) -> String {
    let names =
        fs::read_dir(directory).expect("a directory").map(|entry| entry.expect("an entry").file_name());
    let mut names = names.map(|name| name.into_string().expect("UTF-8"));
    names.find(|name| name.ends_with(end)).unwrap_or_else(|| panic!("no {end}"))
}

fn assert_release(dist: &Path) {
    let run = |program: &str, arguments: &[&str]| {
        text(&output(Command::new(program).args(arguments).current_dir(dist)).stdout)
    };
    assert_eq!(run("sha256sum", &["--check", "--strict", "SHA256SUMS"]).matches(": OK\n").count(), 3);

    let archive = find(dist, ".tar.gz");
    let directory = archive.trim_end_matches(".tar.gz");
    run("tar", &["--extract", "--gzip", "--file", &archive]);
    let version = run(&format!("./{directory}/bin/redis-ambassador"), &["--version"]);
    assert_eq!(version.trim(), VERSION);
    let read = |name: &str| fs::read_to_string(dist.join(directory).join(name)).expect(name);
    let share = |name: &str| read(&format!("share/{name}"));
    assert!(share("man/man1/redis-ambassador.1").contains(".TH redis-ambassador 1"));
    assert!(share("bash-completion/completions/redis-ambassador").contains("complete "));
    assert!(share("zsh/site-functions/_redis-ambassador").starts_with("#compdef redis-ambassador"));
    assert!(
        share("fish/vendor_completions.d/redis-ambassador.fish").contains("complete -c redis-ambassador")
    );
    assert!(
        read("lib/systemd/system/redis-ambassador.service")
            .contains("ExecStart=/usr/local/bin/redis-ambassador\n")
    );
    assert_eq!(
        share("doc/redis-ambassador/deploy/compose.yaml"),
        fs::read_to_string(repository("deploy/compose.yaml")).expect("a file")
    );
    // A script that can be run as its page has it.
    run(&format!("./{directory}/share/doc/redis-ambassador/deploy/certificates"), &["made", "a.example"]);

    let bill = fs::read_to_string(dist.join(find(dist, ".cdx.json"))).expect("a bill of materials");
    let bill: Value = serde_json::from_str(&bill).expect("JSON");
    assert_eq!(bill["metadata"]["component"]["name"], "redis-ambassador");
    let components = bill["components"].as_array().expect("components");
    for (name, there) in [("tokio", true), ("rustls", true), ("tempfile", false), ("proptest", false)] {
        assert_eq!(components.iter().any(|component| component["name"] == name), there, "{name}");
    }
    for component in components {
        let sum = component["hashes"][0]["content"].as_str().unwrap_or_default();
        assert_eq!(sum.len(), 64, "{component}");
    }
}

/// `deploy/compose.yaml`, with the tests' images, until it is dropped.
struct Project {
    command: Vec<String>,
    directory: TempDir,
}

impl Project {
    fn up(images: &Images, password: &str) -> Option<Self> {
        let compose = images.compose()?;
        let directory = tempfile::tempdir().expect("a directory");
        let secret = directory.path().join("secrets/redis");
        fs::create_dir(directory.path().join("secrets")).expect("a directory");
        fs::write(&secret, password).expect("a secret");
        fs::set_permissions(&secret, Permissions::from_mode(0o644)).expect("a secret");
        let with_images = directory.path().join("images.yaml");
        fs::write(&with_images, services(images).to_string()).expect("a file");
        let mut command = vec![text(compose.get_program().as_encoded_bytes())];
        command.extend(compose.get_args().map(|argument| text(argument.as_encoded_bytes())));
        let paths = [directory.path(), Path::new(&repository("deploy/compose.yaml")), &with_images]
            .map(|path| path.display().to_string());
        let [directory_path, file, with_images] = paths;
        command.extend(["--project-name".into(), unique("compose")]);
        command.extend(["--project-directory".into(), directory_path]);
        command.extend(["--file".into(), file, "--file".into(), with_images]);
        let project = Self { command, directory };
        project.run(&["up", "--detach"]);
        Some(project)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.command[0]);
        command.args(&self.command[1..]).args(arguments).current_dir(self.directory.path());
        command
    }

    fn run(&self, arguments: &[&str]) -> String {
        text(&output(&mut self.command(arguments)).stdout)
    }
}

impl Drop for Project {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!(
                "{}",
                self.command(&["logs"]).output().map_or(String::new(), |logs| text(&logs.stdout))
            );
        }
        clean_up(&mut self.command(&["down", "--volumes", "--timeout", "1"]));
    }
}

/// The tests' images instead of those that a registry has.
fn services(images: &Images) -> Value {
    json!({
        "version": "3.8",
        "services": {
            "app": { "image": images.client },
            "redis": { "image": images.ambassador },
            "redis-server": { "image": images.redis },
        },
    })
}

/// A swarm of this node alone. Everything in it goes with it, and so is not taken away before: what a stack leaves behind while
/// it is being removed, Docker would forget.
struct Swarm;

impl Swarm {
    fn enter() -> Option<Self> {
        if docker(["info", "--format", "{{.Swarm.LocalNodeState}}"]) != "inactive" {
            skipped("this node is in a swarm already");
            return None;
        }
        // The addresses that Docker would take, from 10.0.0.0 on, are often the machine's own.
        docker(["swarm", "init", "--advertise-addr", "127.0.0.1", "--default-addr-pool", "10.213.0.0/16"]);
        Some(Self)
    }
}

impl Drop for Swarm {
    fn drop(&mut self) {
        clean_up(Command::new("docker").args(["swarm", "leave", "--force"]));
    }
}

/// `deploy/stack.yaml`, with the tests' images.
struct Stack<'a> {
    _swarm: &'a Swarm,
    name: String,
    /// The names of the secrets.
    old: String,
    new: String,
    with_images: TempDir,
}

impl<'a> Stack<'a> {
    fn new(swarm: &'a Swarm, images: &Images, old: &str, new: &str) -> Self {
        let with_images = tempfile::tempdir().expect("a directory");
        let secret = |name: &str, password: &str| {
            let file = with_images.path().join(name);
            fs::write(&file, password).expect("a secret");
            docker(["secret", "create", name, &file.display().to_string()]);
            name.to_owned()
        };
        let (old, new) = (secret("redis-1", old), secret("redis-2", new));
        fs::write(with_images.path().join("images.yaml"), services(images).to_string()).expect("a file");
        Self { _swarm: swarm, name: unique("stack"), old, new, with_images }
    }

    fn deploy(&self, environment: &[(&str, &str)]) {
        let mut deploy = Command::new("docker");
        deploy.args(["stack", "deploy", "--resolve-image", "never"]);
        deploy.args(["--compose-file", &repository("deploy/stack.yaml"), "--compose-file"]);
        deploy.arg(self.with_images.path().join("images.yaml")).arg(&self.name);
        output(deploy.envs(environment.iter().copied()));
    }

    fn service(&self, name: &str) -> String {
        format!("{}_{name}", self.name)
    }

    /// Those of a service that run.
    fn containers(&self, service: &str) -> Vec<String> {
        let filter = format!("label=com.docker.swarm.service.name={}", self.service(service));
        docker(["ps", "--quiet", "--no-trunc", "--filter", &filter]).lines().map(str::to_owned).collect()
    }
}

impl Drop for Stack<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            let logs = Command::new("docker").args(["service", "logs", &self.service("redis")]).output();
            eprintln!("the ambassadors printed:\n{}", logs.map_or(String::new(), |logs| text(&logs.stderr)));
        }
    }
}

/// A client in a container that sends one request after the other.
struct Load {
    stop: Arc<AtomicBool>,
    requests: JoinHandle<()>,
}

impl Load {
    /// The script takes a request a line and answers it with a line. Every answer has to be a greater number than the one before.
    fn start(container: &str, request: &'static str, script: &str) -> Self {
        let mut exec = Command::new("docker")
            .args(["exec", "--interactive", container, "sh", "-c", script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker can be started");
        let mut to = exec.stdin.take().expect("piped");
        let mut from = BufReader::new(exec.stdout.take().expect("piped")).lines();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let requests = thread::spawn(move || {
            let mut ask = || {
                writeln!(to, "{request}").expect("the client reads");
                from.next().expect("the client writes").expect("UTF-8")
            };
            let mut last = 0;
            while !stopped.load(Ordering::Relaxed) {
                let mut answer = ask();
                // redis-cli reconnects for the next request, and leaves it to us to repeat this one.
                if request == "INCR kept" && answer == "Error: Server closed the connection" {
                    answer = ask();
                }
                let number: u64 =
                    answer.parse().unwrap_or_else(|_| panic!("{request} after {last}: {answer}"));
                assert!(number > last, "{request}: {number} after {last}");
                last = number;
            }
            drop(to);
            exec.wait().expect("a child to wait for");
        });
        Self { stop, requests }
    }

    /// Every request was answered.
    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Err(panic) = self.requests.join() {
            resume_unwind(panic);
        }
    }
}
