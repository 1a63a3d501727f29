//! Arguments → configuration → log → bind → run → exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, IsTerminal, Write};
use std::panic::catch_unwind;
use std::process::ExitCode;

use crate::app::{App, StartErrors};
use crate::cli::check::Report;
use crate::cli::{self, Arguments, Command, Format, health, links, man};
use crate::config::{Config, ConfigErrors, Env};
use crate::descriptors::Descriptors;
use crate::log;
use crate::programs;
use crate::secret;
use crate::text;
use crate::workers;
use clap::Parser;
use tokio::runtime::Runtime;

/// The configuration or the command line is wrong.
const MISCONFIGURED: u8 = 2;

/// The program, from its arguments to its exit code.
pub fn main() -> ExitCode {
    // A mistake of the program itself has been told, and is no other exit code.
    catch_unwind(obey).unwrap_or(ExitCode::FAILURE)
}

fn obey() -> ExitCode {
    if let Some(failed) = programs::become_one() {
        return failed;
    }
    secret::harden_process();
    let arguments = Arguments::parse();
    let command = arguments.command.clone().unwrap_or(Command::Run);
    let done = match command {
        Command::Completions { shell } => {
            cli::completions(shell, &mut io::stdout()).map_err(|error| unwritten(&error))
        }
        Command::Man => man::write(&mut io::stdout()).map_err(|error| unwritten(&error)),
        Command::Health { links } => {
            let admin = environment(&arguments).and_then(|env| Config::admin(&env, &arguments.process));
            match admin {
                Err(mistakes) => return misconfigured(&mistakes),
                Ok(admin) => health::ask(admin, links.is_some_and(|links| links == cli::DIALLED))
                    // Who reads nothing has the exit code.
                    .map(|answer| drop(writeln!(io::stdout(), "{answer}")))
                    .map_err(Into::into),
            }
        }
        Command::Run | Command::Links { .. } | Command::Check { .. } => {
            let descriptors = Descriptors::raise();
            // A statement of its own, so that the environment is forgotten before anything runs.
            let loaded = environment(&arguments).and_then(|env| Config::load(&env, &arguments.process));
            match loaded {
                Err(mistakes) => return misconfigured(&mistakes),
                Ok(config) => match command {
                    Command::Links { format } => {
                        links::show(&config, format, &mut io::stdout()).map_err(|error| unwritten(&error))
                    }
                    Command::Check { format } => match check(&config, format) {
                        Ok(true) => Ok(()),
                        // What is wrong has been said.
                        Ok(false) => return ExitCode::FAILURE,
                        Err(error) => Err(error),
                    },
                    _ => run(config, descriptors),
                },
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format_args!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

/// The variables: those of the process, unless a file is named.
fn environment(arguments: &Arguments) -> Result<Env, ConfigErrors> {
    arguments.env_file.as_deref().map_or_else(|| Ok(Env::new(std::env::vars_os())), Env::read)
}

fn misconfigured(mistakes: &impl Display) -> ExitCode {
    complain(mistakes);
    ExitCode::from(MISCONFIGURED)
}

/// To standard error, where there is one that can be written to.
fn complain(about: &impl Display) {
    let _ = write!(io::stderr(), "redis-ambassador: {about}");
}

fn unwritten(error: &io::Error) -> Box<dyn Error> {
    format!("can't write to standard output: {}", text::io_error(error)).into()
}

fn runtime() -> Result<Runtime, StartErrors> {
    workers::runtime().map_err(|error| StartErrors::missing("the runtime", error))
}

fn run(config: Config, descriptors: Descriptors) -> Result<(), Box<dyn Error>> {
    log::start(&config.process.log, config.process.log_format);
    for ignored in &config.ignored {
        tracing::info!(target: "config", variable = ignored.variable, reason = ignored.reason, "variable ignored");
    }
    for warning in &config.warnings {
        tracing::warn!(target: "config", variable = warning.variable, "{}", warning.message);
    }
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        App::bind(config, descriptors)?.run().await;
        Ok(())
    });
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// Dials every link; returns whether all is well.
fn check(config: &Config, format: Format) -> Result<bool, Box<dyn Error>> {
    let runtime = runtime()?;
    let report = runtime.block_on(Report::make(config));
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    let mut out = io::stdout();
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = rustix::termios::tcgetwinsize(&out).ok().map(|size| size.ws_col).filter(|width| *width > 0);
    report.show(format, width, is_coloured, &mut out).map_err(|error| unwritten(&error))?;
    Ok(report.is_fine())
}
