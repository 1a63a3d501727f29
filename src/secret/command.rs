//! `AUTH_COMMAND`: a program whose standard output is the secret, such as a cloud's short-lived token.
//!
//! One task a program, the keeper, runs it before its answer expires and when another answer is requested, and
//! publishes the answer. So one run serves all waiting dials, and a dial that times out does not cancel it.

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
use crate::programs::{Environment, Program};
use crate::text;

/// The timeout of a run, or the TTL if that is shorter. The tools of clouds need seconds for a request or two; one that
/// hangs must not block the next run.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The part of the TTL after which the program is run again: the last quarter is left for failures.
const RENEWED_AFTER: f64 = 0.75;

/// Between failed runs. At its longest it spares the issuer of tokens. During the back-off dials do not wait but fail
/// with the error of the last run.
const BACKOFF: Backoff = Backoff { first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// A refused answer that is younger than this is not fetched again: another run would print the same.
const MIN_AGE_TO_RENEW: Duration = Duration::from_secs(1);

/// How long the pipes of a program that has ended are read: a process in its background may keep them open.
const PIPE_TIMEOUT: Duration = Duration::from_millis(200);

/// Bytes of a run's standard error that are kept.
const MAX_STDERR: usize = 8 * 1024;
/// Lines of it that are logged.
const SHOWN_LINES: usize = 20;
/// Characters of each line that are logged.
const SHOWN_CHARACTERS: usize = 500;

/// The configuration of a program.
pub struct CommandSpec {
    /// The variable that names it.
    pub variable: String,
    /// The link, for the log.
    pub link: String,
    /// The program and its arguments.
    pub words: Vec<String>,
    /// How long an answer is valid.
    pub ttl: Duration,
    /// Without the variables that hold secrets of links.
    pub environment: Environment,
}

/// Why a program gave no secret; never quotes its standard output.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{variable}: {reason}")]
pub struct CommandError {
    /// The variable that names the program.
    pub variable: String,
    pub reason: String,
}

/// A program and its last answer.
pub struct SecretCommand {
    recipe: Arc<CommandSpec>,
    keeper: Arc<Keeper>,
}

/// What the keeper shares with its callers.
struct Keeper {
    state: watch::Sender<State>,
    /// Notified when another answer is requested.
    requested: Notify,
    is_started: AtomicBool,
}

#[derive(Default)]
struct State {
    answer: Option<Answer>,
    /// The error of the last run, if it failed, and the end of the back-off.
    failure: Option<(CommandError, Instant)>,
    /// Completed runs.
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
    /// Does not run the program yet.
    pub fn new(recipe: CommandSpec) -> Self {
        let keeper = Keeper {
            state: watch::Sender::default(),
            requested: Notify::new(),
            is_started: AtomicBool::new(false),
        };
        Self { recipe: Arc::new(recipe), keeper: Arc::new(keeper) }
    }

    /// Starts the keeper on the current runtime, once. Its children live no longer than that runtime.
    pub fn start(&self) {
        if !self.keeper.is_started.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep(Arc::clone(&self.recipe), Arc::clone(&self.keeper)));
        }
    }

    /// The valid answer; if there is none, that of the run in progress or of a new one.
    pub(super) async fn current(&self) -> Result<Arc<Secret>, CommandError> {
        self.answer(|answer, ttl| answer.at.elapsed() < ttl).await
    }

    /// Another answer than `refused`; runs the program again if necessary.
    pub(super) async fn instead_of(&self, refused: &Secret) -> Result<Arc<Secret>, CommandError> {
        self.answer(|answer, ttl| {
            let age = answer.at.elapsed();
            age < ttl && (*answer.secret != *refused || age < MIN_AGE_TO_RENEW)
        })
        .await
    }

    /// The current answer if it `will_do`, else that of one more run.
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
        self.keeper.requested.notify_one();
        // The keeper lives as long as the runtime, and so longer than its callers.
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

    pub fn error(&self, reason: impl std::fmt::Display) -> CommandError {
        CommandError { variable: self.recipe.variable.clone(), reason: reason.to_string() }
    }
}

/// The keeper: runs the program before its answer expires, on request, and after failures. Never returns.
async fn keep(recipe: Arc<CommandSpec>, keeper: Arc<Keeper>) {
    let mut failures = 0;
    loop {
        let outcome = run(&recipe).await;
        // This run answers all requests so far.
        let _ = keeper.requested.notified().now_or_never();
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
                    () = keeper.requested.notified() => {}
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

/// Runs the program once; returns its output without one line ending, or an error.
async fn run(recipe: &CommandSpec) -> Result<Secret, String> {
    let Some(name) = recipe.words.first() else {
        return Err("it names no program".to_owned());
    };
    let started = Program::start(&recipe.words, &recipe.environment);
    let (mut program, stdout, stderr) =
        started.map_err(|error| format!("{name}: {}", text::io_error(&error)))?;
    // One byte more than the longest value with its line ending, so that a longer one is detected.
    let mut printed = Buffer::new(LONGEST + 3);
    let mut complaints = Buffer::new(MAX_STDERR);
    let patience = TIMEOUT.min(recipe.ttl);
    let ended = timeout(patience, async {
        // Standard output that is too long is not read further, standard error is read to its end.
        let reading = async { tokio::join!(printed.fill(stdout, false), complaints.fill(stderr, true)) };
        let mut reading = std::pin::pin!(reading);
        tokio::select! {
            _ = &mut reading => program.ended().await,
            ended = program.ended() => {
                // Processes in its background may keep the pipes open.
                let _ = timeout(PIPE_TIMEOUT, reading).await;
                ended
            }
        }
    })
    .await;
    drop(program);
    let value = without_line_ending(printed.bytes());
    let secret = Secret::new(value.to_vec());
    recipe.log_stderr(complaints.bytes(), &secret, !matches!(&ended, Ok(Ok(status)) if status.success()));
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
    /// Whether the program exists, searched for as the system does. The error does not name it: it may be a password in
    /// the wrong variable.
    pub fn find(&self) -> Result<(), &'static str> {
        let Some(program) = self.words.first() else { return Err("it names no program") };
        let is_program = |path: &Path| {
            access(path, Access::EXEC_OK).is_ok() && path.metadata().is_ok_and(|data| data.is_file())
        };
        if program.contains('/') {
            let found = is_program(Path::new(program));
            return if found { Ok(()) } else { Err("at its path there is no program that can be run") };
        }
        let path = self.environment.path();
        let found = std::env::split_paths(&path).any(|directory| is_program(&directory.join(program)));
        if found { Ok(()) } else { Err("there is no such program in PATH") }
    }

    /// Logs the program's standard error, with the secret masked.
    fn log_stderr(&self, stderr: &[u8], secret: &Secret, has_failed: bool) {
        for line in
            stderr.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).take(SHOWN_LINES)
        {
            // Masked before it is truncated: a truncated secret might not be recognised.
            let line: String = secret.mask(&text::one_line(line)).chars().take(SHOWN_CHARACTERS).collect();
            if has_failed {
                tracing::warn!(target: "secret", link = self.link, variable = self.variable, stderr = line, "secret program wrote to standard error");
            } else {
                tracing::info!(target: "secret", link = self.link, variable = self.variable, stderr = line, "secret program wrote to standard error");
            }
        }
    }
}

/// The bytes read from a pipe; never grows, and is zeroed when dropped.
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

    /// Reads until EOF or until the buffer is full; the rest is then discarded, or the pipe closed.
    async fn fill(&mut self, mut pipe: impl AsyncRead + Unpin, passes_over: bool) {
        loop {
            // After an error, what has been read is used.
            match pipe.read(&mut self.bytes[self.filled..]).await {
                Ok(n) if n > 0 => self.filled += n,
                _ => break,
            }
        }
        if passes_over && self.filled == self.bytes.len() {
            // An error ends it, as above.
            let _ = tokio::io::copy(&mut pipe, &mut tokio::io::sink()).await;
        }
    }
}
