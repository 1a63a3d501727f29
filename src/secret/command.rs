//! A program whose standard output is the secret: tokens that live for minutes, from a cloud's own tool.
//!
//! One task a program, the keeper, runs it ahead of the end of its answer's life and when somebody wants another answer;
//! everybody else looks at what the keeper has published. So one run serves all who wait, and nobody who gives up
//! waiting ends it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use rustix::fs::{Access, access};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use zeroize::Zeroizing;

use super::{LONGEST, Secret, without_line_ending};
use crate::backoff::Backoff;
use crate::programs::Program;
use crate::text;

/// How long a run may take at the most, and no longer than its answer would live. The tools of clouds ask a server or
/// two and need seconds; one that hangs must not keep the next run from being tried.
const PATIENCE: Duration = Duration::from_secs(30);

/// The part of an answer's life after which the next one is fetched: a quarter of it is left for failures.
const RENEWED_AFTER: f64 = 0.75;

/// Behind failed runs; at the longest enough to spare whoever issues tokens. Until it is over nobody waits, however many
/// come: what the last run said is the answer.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// An answer that is refused is fetched anew if it is older than this: a younger one would be no other.
const WORTH_ANOTHER: Duration = Duration::from_secs(1);

/// How long the pipes of a program that has ended may go on giving.
const LEFT_IN_PIPES: Duration = Duration::from_millis(200);

/// What is kept of a run's standard error, and shown in as many lines of at most so many characters.
const SAID: usize = 8 * 1024;
const SHOWN_LINES: usize = 20;
const SHOWN: usize = 500;

/// What a setting says about a program.
pub struct CommandSpec {
    /// The variable that names it.
    pub variable: String,
    /// The link, for the log.
    pub link: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// How long one answer serves.
    pub ttl: Duration,
    /// The variables of our environment that it does not see: those that hold secrets of links.
    pub hidden: Vec<String>,
}

/// Why a program gives no secret; never quotes what it printed on its standard output.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{variable}: {reason}")]
pub struct CommandError {
    /// The variable that names the program.
    pub variable: String,
    /// What is wrong.
    pub reason: String,
}

/// A program and its last answer.
pub struct SecretCommand {
    recipe: Arc<CommandSpec>,
    keeper: Arc<Keeper>,
}

/// What the keeper and those who wait for it share.
struct Keeper {
    state: watch::Sender<State>,
    /// Told when somebody wants another answer.
    wanted: Notify,
    is_started: AtomicBool,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    /// Why the last run failed, if it did, and until when there is no other.
    failure: Option<(CommandError, Instant)>,
    /// Runs that have come to an end.
    runs: u64,
}

struct Answer {
    secret: Arc<Secret>,
    at: Instant,
}

impl std::fmt::Debug for SecretCommand {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // Arguments may be secrets too.
        f.debug_struct("SecretCommand").field("variable", &self.recipe.variable).finish_non_exhaustive()
    }
}

impl SecretCommand {
    /// Runs nothing yet.
    pub fn new(recipe: CommandSpec) -> Self {
        let keeper = Keeper {
            state: watch::Sender::default(),
            wanted: Notify::new(),
            is_started: AtomicBool::new(false),
        };
        Self { recipe: Arc::new(recipe), keeper: Arc::new(keeper) }
    }

    /// Starts the keeper on this thread's runtime, if nobody has yet. Its children live no longer than that runtime.
    pub fn start(&self) {
        if !self.keeper.is_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::clone(&self.recipe), Arc::clone(&self.keeper)));
        }
    }

    /// The answer that serves now; if there is none, that of the run that is under way or of another one.
    pub(super) async fn current(&self) -> Result<Arc<Secret>, CommandError> {
        self.answer(|answer, ttl| answer.at.elapsed() < ttl).await
    }

    /// Another answer than `refused`, if there is one to be had.
    pub(super) async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, CommandError> {
        self.answer(|answer, ttl| {
            let age = answer.at.elapsed();
            age < ttl && (*answer.secret != *refused || age < WORTH_ANOTHER)
        })
        .await
    }

    /// The first answer that `will_do`, from as many runs as have begun after this was called, which is one.
    async fn answer(&self, will_do: impl Fn(&Answer, Duration) -> bool) -> Result<Arc<Secret>, CommandError> {
        self.start();
        let mut state = self.keeper.state.subscribe();
        let runs = {
            let state = state.borrow_and_update();
            if let Some(answer) = state.answer.as_ref().filter(|answer| will_do(answer, self.recipe.ttl)) {
                return Ok(Arc::clone(&answer.secret));
            }
            match &state.failure {
                Some((error, not_before)) if Instant::now() < *not_before => return Err(error.clone()),
                _ => state.runs,
            }
        };
        self.keeper.wanted.notify_one();
        // The keeper lives as long as the runtime, and so longer than whoever waits.
        let Ok(state) = state.wait_for(|state| state.runs > runs).await else {
            return Err(self.error("the runtime is shutting down"));
        };
        match (&state.answer, &state.failure) {
            (_, Some((error, _))) => Err(error.clone()),
            (Some(answer), None) => Ok(Arc::clone(&answer.secret)),
            (None, None) => Err(self.error("it was not run")),
        }
    }

    /// The last answer, whatever its age.
    pub fn last(&self) -> Option<Arc<Secret>> {
        self.keeper.state.borrow().answer.as_ref().map(|answer| Arc::clone(&answer.secret))
    }

    /// Whether the last run failed.
    pub fn is_failing(&self) -> bool {
        self.keeper.state.borrow().failure.is_some()
    }

    /// An error of this program.
    pub fn error(&self, reason: impl std::fmt::Display) -> CommandError {
        CommandError { variable: self.recipe.variable.clone(), reason: reason.to_string() }
    }
}

/// Runs the program again and again, for as long as the runtime lives.
async fn keep(recipe: Arc<CommandSpec>, keeper: Arc<Keeper>) {
    let mut failures = 0;
    loop {
        let outcome = run(&recipe).await;
        // Whoever has asked until now is served by this run.
        let _ = keeper.wanted.notified().now_or_never();
        match outcome {
            Ok(secret) => {
                if std::mem::take(&mut failures) > 0 {
                    tracing::info!(
                        target: "secret",
                        link = recipe.link,
                        variable = recipe.variable,
                        "secret program recovered"
                    );
                }
                keeper.state.send_modify(|state| {
                    state.answer = Some(Answer { secret: Arc::new(secret), at: Instant::now() });
                    state.failure = None;
                    state.runs += 1;
                });
                tokio::select! {
                    () = sleep(recipe.ttl.mul_f64(RENEWED_AFTER)) => {}
                    () = keeper.wanted.notified() => {}
                }
            }
            Err(reason) => {
                let error = CommandError { variable: recipe.variable.clone(), reason };
                failures += 1;
                let not_before = Instant::now() + BACKOFF.wait(failures);
                keeper.state.send_modify(|state| {
                    let lasts = state.answer.as_ref().map(|answer| recipe.ttl.saturating_sub(answer.at.elapsed()));
                    let lasts = lasts.unwrap_or_default();
                    tracing::warn!(
                        target: "secret",
                        link = recipe.link,
                        variable = recipe.variable,
                        error = error.reason,
                        last_answer_serves = %humantime::format_duration(Duration::from_secs(lasts.as_secs())),
                        "secret program failed"
                    );
                    state.failure = Some((error, not_before));
                    state.runs += 1;
                });
                sleep_until(not_before).await;
            }
        }
    }
}

/// One run: what it prints, without one line ending, or why that is no secret.
async fn run(recipe: &CommandSpec) -> Result<Secret, String> {
    let Some(name) = recipe.words.first() else {
        return Err("it names no program".to_owned());
    };
    let started = Program::start(&recipe.words, &recipe.hidden);
    let (mut program, stdout, stderr) =
        started.map_err(|error| format!("{name}: {}", text::io_error(&error)))?;
    // One byte more than the longest value and its line ending, so that a longer one shows itself.
    let mut printed = Buffer::new(LONGEST + 3);
    let mut said = Buffer::new(SAID);
    let patience = PATIENCE.min(recipe.ttl);
    let ended = timeout(patience, async {
        // Whoever prints too much reads the end of the pipe; a long complaint is read to its end.
        let reading = async { tokio::join!(printed.fill(stdout, false), said.fill(stderr, true)) };
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            _ = &mut reading => program.ended().await,
            ended = program.ended() => {
                // What it has left running in the background may hold the pipes open for ever.
                let _ = timeout(LEFT_IN_PIPES, reading).await;
                ended
            }
        }
    })
    .await;
    drop(program);
    let value = without_line_ending(printed.bytes());
    let secret = Secret::new(value.to_vec());
    recipe.tell(said.bytes(), &secret, !matches!(&ended, Ok(Ok(status)) if status.success()));
    match ended {
        Err(_) => Err(format!("{name} took longer than {}", humantime::format_duration(patience))),
        Ok(Err(error)) => Err(format!("{name}: {}", text::io_error(&error))),
        Ok(Ok(status)) if !status.success() => Err(format!("{name} failed ({status})")),
        Ok(Ok(_)) if value.is_empty() => Err(format!("{name} printed nothing")),
        Ok(Ok(_)) if value.len() > LONGEST => {
            Err(format!("{name} printed more than {LONGEST} bytes, the most that a Redis server takes"))
        }
        Ok(Ok(_)) => Ok(secret),
    }
}

impl CommandSpec {
    /// Whether there is such a program; looked for as the system does when it is run. It is not named where it is not
    /// found: it may be a password that somebody has written in the wrong place.
    pub fn find(&self) -> Result<(), &'static str> {
        let Some(program) = self.words.first() else { return Err("it names no program") };
        let is_program = |path: &Path| {
            access(path, Access::EXEC_OK).is_ok() && path.metadata().is_ok_and(|data| data.is_file())
        };
        if program.contains('/') {
            let found = is_program(Path::new(program));
            return if found { Ok(()) } else { Err("at its path there is no program that can be run") };
        }
        let path = std::env::var_os("PATH").unwrap_or_default();
        let found = std::env::split_paths(&path).any(|directory| is_program(&directory.join(program)));
        if found { Ok(()) } else { Err("there is no such program in PATH") }
    }

    /// What the program said on its standard error, but for the secret, should it be in there.
    fn tell(&self, said: &[u8], secret: &Secret, has_failed: bool) {
        for line in
            said.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).take(SHOWN_LINES)
        {
            // Masked before it is cut, which may leave a part of the secret that can't be told from other words.
            let line: String = secret.mask(&text::one_line(line)).chars().take(SHOWN).collect();
            if has_failed {
                tracing::warn!(target: "secret", link = self.link, variable = self.variable, stderr = line, "secret program wrote to standard error");
            } else {
                tracing::info!(target: "secret", link = self.link, variable = self.variable, stderr = line, "secret program wrote to standard error");
            }
        }
    }
}

/// What a pipe has given so far; never grows, and is zeroed in the end.
struct Buffer {
    bytes: Zeroizing<Vec<u8>>,
    filled: usize,
}

impl Buffer {
    fn new(length: usize) -> Self {
        Self { bytes: Zeroizing::new(vec![0; length]), filled: 0 }
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.filled]
    }

    /// Reads until the end, or until the buffer is full; then the rest is passed over, or the pipe closed.
    async fn fill(&mut self, mut pipe: impl AsyncRead + Unpin, passes_over: bool) {
        loop {
            // Of a pipe that breaks, what has come is all there is.
            match pipe.read(&mut self.bytes[self.filled..]).await {
                Ok(n) if n > 0 => self.filled += n,
                _ => break,
            }
        }
        if passes_over && self.filled == self.bytes.len() {
            // As above.
            let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
        }
    }
}
