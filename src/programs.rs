//! Programs that are run for what they print, and the orphans that they leave behind.
//!
//! Process number 1 of a container and a subreaper (`PR_SET_CHILD_SUBREAPER`) inherit every process below them whose parent
//! has ended, and have to wait for it, or it stays in the table of processes (a zombie). So one place waits for whatever
//! child has ended, as in any init, and hands on the exit status of a program to who has started it: two places would
//! take children from each other.
//!
//! A program starts as if we had not been there: with the soft limit on descriptors that we were started with, every
//! signal at its default, and none blocked. That can't be done to a process from outside before it runs. So this very
//! binary is started, sets that right about itself, and becomes the program (`execve`).

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use parking_lot::{Mutex, MutexGuard};
use rustix::process::{
    Pid, Resource, Rlimit, WaitOptions, getpid, getrlimit, kill_process_group, prlimit, set_child_subreaper,
    setrlimit, wait,
};
use tokio::net::unix::pipe::Receiver;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::descriptors::limit_of_programs;
use crate::text;
use crate::workers;

/// The first argument of this binary where it is to become a program; the soft limit and the program's words follow.
const BECOME: &str = "become-program";

/// This binary, though its file may have been replaced meanwhile.
const OURSELVES: &str = "/proc/self/exe";

/// What shells exit with where a program can't be run.
const NOT_RUN: u8 = 127;

/// Signals have the numbers up to this (`SIGRTMAX`).
const SIGNALS: i32 = 64;

/// How often somebody who waits for a program looks whether it has ended: where SIGCHLD is blocked, as one may inherit it
/// too, nobody is told.
const LOOK: Duration = Duration::from_millis(100);

/// Programs that nobody has waited for yet, and where to tell how they ended.
static RUNNING: Mutex<Vec<(Pid, oneshot::Sender<ExitStatus>)>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<(Pid, oneshot::Sender<ExitStatus>)>> {
    RUNNING.lock()
}

/// Inherits orphans from now on. What is returned waits for them, for ever.
pub fn adopt() -> io::Result<impl Future<Output = ()>> {
    let mut died = signal(SignalKind::child())?;
    // Process number 1 needs no leave, and where the kernel gives none to others, somebody else inherits.
    let _ = set_child_subreaper(Some(getpid()));
    Ok(async move {
        loop {
            reap();
            died.recv().await;
        }
    })
}

/// Waits for every child that has ended.
fn reap() {
    // Locked: a child that is being started must be known before anybody waits for it.
    let mut running = running();
    while let Ok(Some((pid, status))) = wait(WaitOptions::NOHANG) {
        if let Some(at) = running.iter().position(|(known, _)| *known == pid) {
            let (_, ended) = running.swap_remove(at);
            // Whoever has started it may have lost interest.
            let _ = ended.send(ExitStatus::from_raw(status.as_raw()));
        }
    }
}

/// A program that runs; dropped before it has ended it is killed, with all that it has started.
pub struct Program {
    pid: Pid,
    ended: oneshot::Receiver<ExitStatus>,
    died: Signal,
}

impl Program {
    /// Starts a program, in a process group of its own and without the variables in `hidden`. Returns its standard output
    /// and standard error too.
    pub fn start(words: &[String], hidden: &[String]) -> io::Result<(Self, Receiver, Receiver)> {
        // Before there is a child: where SIGCHLD is ignored, as one may inherit it, the kernel forgets how children end.
        let died = signal(SignalKind::child())?;
        let mut running = running();
        let mut child = spawn(words, hidden)?;
        let pid = Pid::from_child(&child);
        let (tell, ended) = oneshot::channel();
        running.push((pid, tell));
        drop(running);
        let program = Self { pid, ended, died };
        Ok((program, pipe(child.stdout.take())?, pipe(child.stderr.take())?))
    }

    /// Waits until it has ended.
    pub async fn ended(&mut self) -> io::Result<ExitStatus> {
        loop {
            reap();
            tokio::select! {
                biased;
                ended = &mut self.ended => {
                    return ended.map_err(|_| io::Error::other("its exit status is lost"));
                }
                _ = self.died.recv() => {}
                () = sleep(LOOK) => {}
            }
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let mut running = running();
        // Without an entry it has ended, and its number may be another's by now.
        if let Some(at) = running.iter().position(|(known, _)| *known == self.pid) {
            running.swap_remove(at);
            // It may have ended this very moment.
            let _ = kill_process_group(self.pid, rustix::process::Signal::KILL);
        }
    }
}

fn pipe(end: Option<impl Into<OwnedFd>>) -> io::Result<Receiver> {
    Receiver::from_owned_fd(end.ok_or(io::ErrorKind::BrokenPipe)?.into())
}

fn spawn(words: &[String], hidden: &[String]) -> io::Result<Child> {
    let limit = limit_of_programs();
    let soft = limit.current.map_or_else(String::new, |soft| soft.to_string());
    let by_ourselves: Vec<_> =
        [OURSELVES, BECOME, &soft].into_iter().chain(words.iter().map(String::as_str)).collect();
    let started = command(&by_ourselves, hidden)?.spawn();
    // Where there is no /proc, or nobody may start us: then it is told its limit as soon as there is somebody to tell.
    started.or_else(|_| {
        let child = command(words, hidden)?.spawn()?;
        // If even that is forbidden it has ours.
        let _ = prlimit(Some(Pid::from_child(&child)), Resource::Nofile, limit);
        Ok(child)
    })
}

fn command(words: &[impl AsRef<OsStr>], hidden: &[String]) -> io::Result<Command> {
    let (program, arguments) = words.split_first().ok_or(io::ErrorKind::InvalidInput)?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // So that what a script has started ends with it.
    command.process_group(0);
    for variable in hidden {
        command.env_remove(variable);
    }
    Ok(command)
}

/// Becomes a program, if this process was started for that. Returns only where it was not, or where it can't.
pub fn become_one() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != BECOME {
        return None;
    }
    let (soft, program) = (arguments.next()?, arguments.next()?);
    let soft = soft.to_str().and_then(|soft| soft.parse().ok());
    catch_signals();
    // If it is above a hard limit that was lowered a moment ago, that is what there is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: soft, ..getrlimit(Resource::Nofile) });
    let error = Command::new(program).args(arguments).exec();
    // Without its name, which may be a password in the wrong place.
    let _ = writeln!(io::stderr(), "it can't be run: {}", text::io_error(&error));
    Some(ExitCode::from(NOT_RUN))
}

/// Catches every signal, as far as that is allowed: with `execve` those that are caught go back to their default, while
/// those that are ignored would stay so.
fn catch_signals() {
    let Ok(runtime) = workers::runtime() else { return };
    let _within = runtime.enter();
    for number in 1..=SIGNALS {
        // Some can't be caught, and those can't be ignored either.
        let _ = signal(SignalKind::from_raw(number));
    }
}
