//! The page about podman, done with the podman of this machine.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use tempfile::TempDir;

use crate::docker::{Images, clean_up, docker, eventually, output, skipped};
use crate::documents::example;
use crate::roles::{assert_no_password, new_password};

const PAGE: &str = "docs/deploy/podman.md";

/// `podman run` in front of a Redis elsewhere: a secret of podman's, a read-only container, and the health check of an image
/// that podman has built.
#[test]
fn the_page_about_podman_leads_to_pong() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let Some(podman) = Podman::enter(&images, "containers", &password) else { return };
    podman.run("podman network create app");
    podman.start_redis("--network app --network-alias redis.example.com", "secrets/redis");

    let commands = example(PAGE, "podman run").replace("podman network create app\n", "");
    let (commands, ping) = commands.trim().rsplit_once('\n').expect("the client's command");
    podman.run(commands);
    eventually("the client reads PONG", || {
        let answer = podman.try_run(&ping.replace("docker.io/library/redis:7", "localhost/client"));
        (text(&answer.stdout).trim() == "PONG").then_some(())
    });
    podman.run("podman healthcheck run redis");
    // Podman's name server loses questions while a container comes or goes.
    eventually("check sees Redis", || {
        let checked = podman.try_run("podman exec redis /redis-ambassador check");
        (checked.status.success() && text(&checked.stdout).contains("Redis 7")).then_some(())
    });
    assert_no_password(&podman.run("podman logs redis 2>&1 && podman inspect redis"));
    podman.run("podman stop redis");
    assert_eq!(podman.run("podman inspect --format '{{.State.ExitCode}}' redis").trim(), "0");
}

/// Quadlet makes a unit of the file without a complaint, and the command of that unit a container that serves this host's
/// programs.
#[test]
fn the_file_for_quadlet_makes_a_unit_whose_container_serves() {
    let Some(images) = Images::make() else { return };
    let Some(quadlet) = images.quadlet() else { return };
    let password = new_password();
    let Some(podman) = Podman::enter(&images, "containers", &password) else { return };
    podman.start_redis("", "secrets/redis");
    let address = podman.run("podman inspect --format '{{.NetworkSettings.IPAddress}}' database");
    let units = podman.path("units");
    fs::create_dir(&units).expect("a folder");
    let file = fs::read_to_string(repository("deploy/redis-ambassador.container")).expect("a file");
    fs::write(units.join("redis-ambassador.container"), file.replace("redis.example.com", address.trim()))
        .expect("a file");

    let made = output(Command::new(quadlet).arg("-dryrun").env("QUADLET_UNIT_DIRS", &units));
    let complaints = text(&made.stderr);
    assert!(complaints.lines().all(|line| line.contains("Loading source unit file")), "{complaints}");
    let unit = text(&made.stdout);
    for line in ["RestartPreventExitStatus=2", "WantedBy=multi-user.target"] {
        assert!(unit.lines().any(|found| found == line), "no {line}: {unit}");
    }
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).expect("a command");
    // What systemd would have set up, and a port that is free.
    let command = command
        .replace("/usr/bin/podman", "podman")
        .replace("%t/%N.cid", "redis-ambassador.cid")
        .replace(" --cgroups=split", "")
        .replace("127.0.0.1:6379:6379", "127.0.0.1::6379");
    podman.run("podman secret create redis secrets/redis");
    podman.run(&command);
    let published = podman.run("podman port redis-ambassador");
    let port = published.trim().strip_prefix("6379/tcp -> 127.0.0.1:").expect("this host's own address");
    eventually("a program of the host reads PONG", || {
        let answer = podman.try_run(&format!("redis-cli -p {port} ping"));
        (text(&answer.stdout).trim() == "PONG").then_some(())
    });
    podman.run("podman healthcheck run redis-ambassador");
    let process = podman.run("podman inspect --format '{{.State.Pid}}' redis-ambassador");
    let status = fs::read_to_string(format!("/proc/{}/status", process.trim())).expect("a process");
    for line in ["Uid:\t65532\t65532\t65532\t65532", "CapEff:\t0000000000000000", "NoNewPrivs:\t1"] {
        assert!(status.lines().any(|found| found == line), "no {line}: {status}");
    }
    assert_no_password(&podman.run("podman logs redis-ambassador 2>&1"));
}

/// A pod with an application, which dials localhost.
#[test]
fn a_pod_of_podman_serves_its_application() {
    let Some(images) = Images::make() else { return };
    let password = new_password();
    let Some(podman) = Podman::enter(&images, "pods", &password) else { return };
    podman.run("podman network create app");
    // This version gives a container what is in the Secret without having decoded it.
    let is_old = images.podman().is_some_and(|version| version.starts_with("podman version 4.3."));
    podman.run("base64 --wrap 0 secrets/redis > secrets/encoded");
    let file = if is_old { "secrets/encoded" } else { "secrets/redis" };
    podman.start_redis("--network app --network-alias redis.example.com", file);
    let pod = fs::read_to_string(repository("deploy/pod.yaml")).expect("a file");
    let sleeps = "image: localhost/client\n      command: [/bin/sleep, infinity]";
    fs::create_dir(podman.path("deploy")).expect("a folder");
    fs::write(podman.path("deploy/pod.yaml"), pod.replace("image: your-application", sleeps))
        .expect("a file");

    let commands = example(PAGE, "podman kube play");
    podman.run(&commands.replace("kube play deploy", "kube play --network app deploy"));
    eventually("the application reads PONG", || {
        let answer = podman.try_run("podman exec app-app /usr/bin/redis-cli -h localhost ping");
        (text(&answer.stdout).trim() == "PONG").then_some(())
    });
    assert_no_password(&podman.run("podman logs app-redis-ambassador 2>&1"));
    podman.run("podman kube down deploy/pod.yaml");
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn repository(path: &str) -> String {
    format!("{}/{path}", env!("CARGO_MANIFEST_DIR"))
}

/// A place of podman.sh with the images that the page takes for granted. Dropped with all that podman has started.
struct Podman {
    place: Child,
    folder: TempDir,
}

impl Podman {
    fn enter(images: &Images, what: &str, password: &str) -> Option<Self> {
        images.podman()?;
        if text(&output(Command::new("id").arg("-u")).stdout).trim() != "0" {
            skipped("only root has networks of podman's");
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        // The password is podman's to read, and of the user in the container.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("a folder");
        let mut place = Command::new(repository("tests/containers/podman.sh"))
            .arg(folder.path())
            .arg(what)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("podman.sh can be started");
        let mut said = String::new();
        BufReader::new(place.stdout.take().expect("piped")).read_line(&mut said).expect("podman.sh writes");
        let podman = Self { place, folder };
        assert_eq!(said, "ready\n");
        fs::create_dir(podman.path("secrets")).expect("a folder");
        fs::write(podman.path("secrets/redis"), password).expect("a secret");
        for (name, image) in [("redis", &images.redis), ("client", &images.client)] {
            docker(["save", "--output", &podman.path("image.tar").display().to_string(), image]);
            let loaded = podman.run("podman load --quiet --input image.tar");
            let image = loaded.trim().rsplit_once(' ').expect("a line that ends with its name").1;
            podman.run(&format!("podman tag {} localhost/{name}", image.trim_start_matches("sha256:")));
        }
        podman.build(images);
        Some(podman)
    }

    /// The last stage of the Dockerfile as podman builds it by the page; what goes into it Docker has built.
    fn build(&self, images: &Images) {
        let dockerfile = include_str!("../../Dockerfile");
        let (_, last) = dockerfile.split_once("\nFROM scratch\n").expect("a last stage");
        let context = self.path("context");
        for folder in ["build", "etc/ssl/certs"] {
            fs::create_dir_all(context.join(folder)).expect("a folder");
        }
        fs::write(context.join("Dockerfile"), format!("FROM scratch\n{}", last.replace("--from=build ", "")))
            .expect("a file");
        let container = docker(["create", &images.ambassador]);
        for (from, to) in
            [("redis-ambassador", "build"), ("etc/ssl/certs/ca-certificates.crt", "etc/ssl/certs")]
        {
            let to = context.join(to).display().to_string();
            docker(["cp", "--quiet", &format!("{container}:/{from}"), &to]);
        }
        docker(["rm", &container]);
        self.run(&format!("cd context && {}", example(PAGE, "podman build")));
    }

    /// A Redis that wants the password in this file, as the container `database`.
    fn start_redis(&self, options: &str, password: &str) {
        self.run(&format!(
            "podman run --detach --name database {options} --volume \"$PWD/{password}:/redis:ro\" localhost/redis \
             sh -c 'echo requirepass \"$(cat /redis)\" | exec redis-server - --protected-mode no'"
        ));
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, script: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["--mount", "--net"]).arg("--target").arg(self.place.id().to_string());
        command.env("CONTAINERS_CONF", self.path("containers.conf"));
        command.args(["sh", "-e", "-c", &format!("cd \"$0\" && {script}")]).arg(self.folder.path());
        command
    }

    /// Runs commands in the folder, where podman is.
    fn run(&self, script: &str) -> String {
        text(&output(&mut self.command(script)).stdout)
    }

    fn try_run(&self, script: &str) -> Output {
        self.command(script).output().expect("nsenter runs")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let logs = self.try_run("for id in $(podman ps --all --quiet); do podman logs $id; done");
            eprintln!("the containers printed:\n{}{}", text(&logs.stdout), text(&logs.stderr));
        }
        clean_up(&mut self.command(
            "podman pod rm --all --force && podman rm --all --force --time 0 && podman network prune --force",
        ));
        drop(self.place.stdin.take());
        self.place.wait().expect("a child to wait for");
    }
}
