//! Arguments → configuration → log → bind → run → exit code.

use std::error::Error;
use std::fmt::Display;
use std::io::{self, Write};
use std::panic::catch_unwind;
use std::process::ExitCode;

use crate::app::{App, StartErrors};
use crate::cli::check::Report;
use crate::cli::screen::Screen;
use crate::cli::{self, Arguments, Command, completions, health, links, man, status};
use crate::config::{Config, ConfigErrors, Env};
use crate::descriptors::Descriptors;
use crate::log;
use crate::net::PassedSockets;
use crate::programs;
use crate::secret;
use crate::systemd;
use crate::text;
use crate::workers;
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
    let arguments = Arguments::read();
    match perform(&arguments, arguments.command.clone().unwrap_or(Command::Run)) {
        Ok(code) => code,
        Err(error) if error.is::<ConfigErrors>() => {
            complain(&error);
            ExitCode::from(MISCONFIGURED)
        }
        Err(error) => {
            complain(&format_args!("{error}\n"));
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: &Arguments, command: Command) -> Result<ExitCode, Box<dyn Error>> {
    // The environment is forgotten before anything runs.
    let config = || Config::load(&environment(arguments)?, &arguments.process);
    let admin = || Config::admin(&environment(arguments)?, &arguments.process);
    let mut out = io::stdout();
    let unwritten = |error| unwritten(&error);
    match command {
        Command::Run => {
            let descriptors = Descriptors::raise();
            run(config()?, descriptors)?;
        }
        Command::Links { format } => {
            links::show(&config()?, format, &Screen::of_output(), &mut out).map_err(unwritten)?;
        }
        Command::Check { format } => {
            Descriptors::raise();
            let report = check(&config()?)?;
            report.show(format, &Screen::of_output(), &mut out).map_err(unwritten)?;
            // What is wrong has been said.
            return Ok(if report.is_fine() { ExitCode::SUCCESS } else { ExitCode::FAILURE });
        }
        Command::Health { links } => {
            let answer = health::ask(admin()?, links.is_some_and(|links| links == cli::DIALLED))?;
            // Who reads nothing has the exit code.
            let _ = writeln!(out, "{answer}");
        }
        Command::Status { watch } => status::show(admin()?, watch, &mut out)?,
        Command::Completions { shell } => completions::write(shell, &mut out).map_err(unwritten)?,
        Command::Man => man::write(&mut out).map_err(unwritten)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// The variables: those of the process, unless a file is named.
fn environment(arguments: &Arguments) -> Result<Env, ConfigErrors> {
    arguments.env_file.as_deref().map_or_else(|| Ok(Env::new(std::env::vars_os())), Env::read)
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
    // Before anything else is open.
    let passed = PassedSockets::new(systemd::passed());
    let runtime = runtime()?;
    let ended = runtime.block_on(async {
        App::bind(config, descriptors, passed)?.run().await;
        Ok(())
    });
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// Dials every link.
fn check(config: &Config) -> Result<Report, StartErrors> {
    let runtime = runtime()?;
    let report = runtime.block_on(Report::make(config));
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    Ok(report)
}
