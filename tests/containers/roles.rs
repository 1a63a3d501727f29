//! Who plays in the tests: a Redis with a password, the ambassador, a client without one.

use std::process;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use serde_json::Value;

use crate::docker::{Container, Images, Network, Recipe, eventually};

/// Every password of this run. No ambassador may print any of them.
static PASSWORDS: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// A password like no other word, known to [`assert_no_password`].
pub(crate) fn new_password() -> String {
    static COUNTER: AtomicUsize = AtomicUsize::new(1);
    let password = format!("battery@staple-{}-{}", process::id(), COUNTER.fetch_add(1, Ordering::Relaxed));
    PASSWORDS.lock().expect("no test panics with the lock").push(password.clone());
    password
}

/// The same password in a URL.
pub(crate) fn in_a_url(password: &str) -> String {
    password.replace('@', "%40")
}

/// That none of the passwords is in the text, neither as it is nor as it is written in a URL.
pub(crate) fn assert_no_password(text: &str) {
    let passwords = PASSWORDS.lock().expect("no test panics with the lock").clone();
    for password in passwords {
        assert!(
            !text.contains(&password) && !text.contains(&in_a_url(&password)),
            "{password} was printed:\n{text}"
        );
    }
}

/// A Redis container that answers, and wants a password.
pub(crate) struct Redis {
    container: Container,
    password: String,
}

impl Redis {
    pub(crate) fn recipe<'a>(images: &'a Images, password: &str) -> Recipe<'a> {
        Recipe::of(&images.redis)
            .file("/etc/redis.conf", format!("protected-mode no\nsave \"\"\nrequirepass {password}\n"))
            .command(&["redis-server", "/etc/redis.conf"])
    }

    pub(crate) fn start(recipe: Recipe, password: &str) -> Self {
        let redis = Self { container: recipe.start(), password: password.to_owned() };
        redis.wait();
        redis
    }

    pub(crate) fn on(network: &Network, name: &str, images: &Images, password: &str) -> Self {
        Self::start(Self::recipe(images, password).on(network, name), password)
    }

    pub(crate) fn id(&self) -> &str {
        &self.container.id
    }

    /// Its address on its network; it must be on one alone.
    pub(crate) fn address(&self) -> String {
        self.container.inspect("{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}")
    }

    /// Waits until it answers.
    pub(crate) fn wait(&self) {
        eventually("Redis answers", || self.try_command(&["PING"]).filter(|answer| answer == "PONG"));
    }

    /// A command as someone who knows the password, past the ambassador.
    pub(crate) fn command(&self, command: &[&str]) -> String {
        self.try_command(command).expect("redis-cli succeeds")
    }

    fn try_command(&self, command: &[&str]) -> Option<String> {
        let command: Vec<_> = ["redis-cli"].iter().chain(command).copied().collect();
        let output = self.container.try_run(&[("REDISCLI_AUTH", &self.password)], &command);
        let answer = String::from_utf8(output.stdout).expect("UTF-8");
        output.status.success().then(|| answer.trim().to_owned())
    }
}

/// An ambassador's container. When it goes, none of the passwords may be in what it has printed.
pub(crate) struct Ambassador {
    pub(crate) container: Container,
}

impl Ambassador {
    pub(crate) fn recipe(images: &Images) -> Recipe<'_> {
        Recipe::of(&images.ambassador).env("AMBASSADOR_LOG_FORMAT", "json")
    }

    /// Starts it and waits until it listens.
    pub(crate) fn start(recipe: Recipe) -> Self {
        let ambassador = Self { container: recipe.start() };
        eventually("the ambassador is ready", || {
            let running = ambassador.container.is_running();
            let ready = !ambassador.events("ready").is_empty();
            assert!(ready || running, "the ambassador has ended");
            ready.then_some(())
        });
        ambassador
    }

    /// Its log lines with this message.
    pub(crate) fn events(&self, message: &str) -> Vec<Value> {
        let printed = self.container.printed();
        let lines = printed.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }
}

impl Drop for Ambassador {
    fn drop(&mut self) {
        if thread::panicking() {
            eprintln!("the ambassador printed:\n{}", self.container.printed());
        } else {
            assert_no_password(&self.container.printed());
        }
    }
}

/// A container with an application's Redis client, and without any password.
pub(crate) struct Client {
    pub(crate) container: Container,
}

impl Client {
    pub(crate) fn start(recipe: Recipe) -> Self {
        Self { container: recipe.command(&["sleep", "infinity"]).start() }
    }

    pub(crate) fn on(network: &Network, images: &Images) -> Self {
        Self::start(Recipe::of(&images.client).on(network, "client"))
    }

    /// A command to the Redis that this client knows as `redis:6379`.
    pub(crate) fn redis(&self, command: &[&str]) -> String {
        let command: Vec<_> = ["redis-cli", "-h", "redis"].iter().chain(command).copied().collect();
        self.container.run(&command)
    }
}
