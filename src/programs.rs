//! Running programs for their output, and reaping orphans.
//!
//! Process 1 of a container and a subreaper (`PR_SET_CHILD_SUBREAPER`) inherit every descendant whose parent has ended
//! and must wait for it, or it remains a zombie. So, as in any init, one function ([`reap`]) waits for every child and
//! passes a program's exit status to the task that has started it; a second waiter would steal its children.
//!
//! A program starts with our original soft limit on descriptors, every signal at its default, and none blocked. A
//! parent can't set this for a child before it runs, so this binary is started again, sets it for itself, and becomes
//! the program (`execve`).

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{
    Pid, Resource, Rlimit, WaitOptions, getpid, getrlimit, kill_process_group, prlimit, set_child_subreaper,
    setrlimit, wait,
};
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;
use zeroize::Zeroizing;

use crate::descriptors::limit_of_programs;
use crate::systemd;
use crate::text;
use crate::workers;

/// The first argument of this binary when it becomes a program; the soft limit and the program's words follow.
const BECOME: &str = "become-program";

/// This binary, even if its file has been replaced.
const OURSELVES: &str = "/proc/self/exe";

/// A shell's exit code for a program that can't be run.
const NOT_RUN: u8 = 127;

/// The highest signal number (`SIGRTMAX`).
const SIGNALS: i32 = 64;

/// The interval at which the end of a program is polled for: SIGCHLD may be blocked, which is inherited.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The running programs, and where their exit status goes.
static RUNNING: Mutex<Vec<(Pid, oneshot::Sender<ExitStatus>)>> = Mutex::new(Vec::new());

/// Inherits orphans from now on; the returned future reaps them and never ends.
pub fn adopt() -> io::Result<impl Future<Output = ()>> {
    let mut died = signal(SignalKind::child())?;
    // Process 1 inherits anyway; if this fails elsewhere, another process inherits.
    let _ = set_child_subreaper(Some(getpid()));
    Ok(async move {
        loop {
            reap();
            died.recv().await;
        }
    })
}

/// Reaps every child that has ended.
fn reap() {
    // Locked: a child that is being started must be in the list before it is waited for.
    let mut running = RUNNING.lock();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if let Some(at) = running.iter().position(|(known, _)| *known == pid) {
            let (_, ended) = running.swap_remove(at);
            // The receiver may be gone.
            let _ = ended.send(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// The variables that a program gets.
#[derive(Clone)]
pub enum Environment {
    /// Those of this process, without some, and without those of our service manager.
    Ours { hidden: Vec<String> },
    /// Others instead; PATH alone is ours where they have none.
    Other(Vec<(String, Zeroizing<Vec<u8>>)>),
}

impl Environment {
    /// Where programs are searched for.
    pub fn path(&self) -> OsString {
        let other = match self {
            Self::Ours { .. } => None,
            Self::Other(variables) => variables.iter().find(|(name, _)| name == "PATH"),
        };
        match other {
            Some((_, path)) => OsString::from_vec(path.to_vec()),
            None => std::env::var_os("PATH").unwrap_or_default(),
        }
    }

    fn apply(&self, command: &mut Command) {
        match self {
            Self::Ours { hidden } => {
                for variable in hidden.iter().map(String::as_str).chain(systemd::VARIABLES) {
                    command.env_remove(variable);
                }
            }
            Self::Other(variables) => {
                let variables = variables.iter().map(|(name, value)| (name, OsStr::from_bytes(value)));
                command.env_clear().env("PATH", self.path()).envs(variables);
            }
        }
    }
}

/// A running program; killed with its process group when dropped before it has ended.
pub struct Program {
    pid: Pid,
    ended: oneshot::Receiver<ExitStatus>,
    died: Signal,
}

impl Program {
    /// Starts a program in a process group of its own. Also returns its standard output and standard error.
    pub fn start(words: &[String], environment: &Environment) -> io::Result<(Self, Receiver, Receiver)> {
        // Before the child is started: with SIGCHLD ignored, which is inherited, the kernel discards exit statuses.
        let died = signal(SignalKind::child())?;
        let mut running = RUNNING.lock();
        let mut child = spawn(words, environment)?;
        let pid = Pid::from_child(&child);
        let (tell, ended) = oneshot::channel();
        running.push((pid, tell));
        drop(running);
        let program = Self { pid, ended, died };
        Ok((program, pipe(child.stdout.take())?, pipe(child.stderr.take())?))
    }

    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            reap();
            tokio::select! {
                biased;
                ended = &mut self.ended => {
                    return ended.map_err(|_| io::Error::other("its exit status is lost"));
                }
                _ = self.died.recv() => {}
                () = sleep(POLL_INTERVAL) => {}
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut running = RUNNING.lock();
        // Without an entry it has ended, and its process number may have been reused.
        if let Some(at) = running.iter().position(|(known, _)| *known == self.pid) {
            running.swap_remove(at);
            // It may have ended just now.
            let _ = kill_process_group(self.pid, rustix::process::Signal::KILL);
        }
    }
}

fn pipe(end: Option<impl Into<OwnedFd>>) -> io::Result<Receiver> {
    Receiver::from_owned_fd(end.ok_or(io::ErrorKind::BrokenPipe)?.into())
}

fn spawn(words: &[String], environment: &Environment) -> io::Result<Child> {
    let limit = limit_of_programs();
    let soft = limit.current.map_or_else(String::new, |soft| soft.to_string());
    let by_ourselves: Vec<_> =
        [OURSELVES, BECOME, &soft].into_iter().chain(words.iter().map(String::as_str)).collect();
    let started = command(&by_ourselves, environment)?.spawn();
    // Without /proc, or where this binary may not be executed: start the program itself, then set its limit.
    started.or_else(|_| {
        let child = command(words, environment)?.spawn()?;
        // If that is forbidden, it has ours.
        let _ = prlimit(Some(Pid::from_child(&child)), Resource::Nofile, limit);
        Ok(child)
    })
}

fn command(words: &[impl AsRef<OsStr>], environment: &Environment) -> io::Result<Command> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // So that the children of a script are killed with it.
    command.process_group(0);
    environment.apply(&mut command);
    Ok(command)
}

/// Becomes a program, if this process was started for that. Returns `None` if it was not, or the exit code of a
/// failure.
pub fn become_one() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let (soft, program) = (arguments.next()?, arguments.next()?);
    let soft = soft.to_str().and_then(|soft| soft.parse().ok());
    catch_signals();
    // It fails if the hard limit has been lowered since; then the program has our limit.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: soft, ..getrlimit(Resource::Nofile) });
    let error = Command::new(program).args(arguments).exec();
    // Without the name of the program: it may be a password in the wrong variable.
    let _ = writeln!(io::stderr(), "it can't be run: {}", text::io_error(&error));
    Some(ExitCode::from(NOT_RUN))
}

/// Catches every signal: `execve` resets caught signals to their default, while ignored ones stay ignored.
fn catch_signals() {
    let Ok(runtime) = workers::runtime() else { return };
    let _within = runtime.enter();
    for number in 1..=SIGNALS {
        // Those that can't be caught can't be ignored either.
        let _ = signal(SignalKind::from_raw(number));
    }
}
