//! `AUTH_COMMAND`: a program whose standard output is the secret, such as a cloud's short-lived token.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use rustix::fs::{Access, access};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;
use zeroize::Zeroizing;

use super::tokens::{ISSUED_WITHIN, Issuer, Kind, Token};
use super::{LONGEST, Secret, without_line_ending};
use crate::programs::{Environment, Program};
use crate::text;

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
    /// The variable that names it, for the log.
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

impl Issuer for CommandSpec {
    fn kind(&self) -> Kind {
        Kind::Program
    }

    fn issue(&self) -> BoxFuture<'_, Result<Token, String>> {
        async { Ok(Token { secret: Arc::new(run(self).await?), user: None, lives: self.ttl }) }.boxed()
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
    let patience = ISSUED_WITHIN.min(recipe.ttl);
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
