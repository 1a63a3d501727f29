//! Arguments → configuration → log → bind → run → exit code.

use std::error::Error;
use std::io::{self, IsTerminal};
use std::process::ExitCode;

use clap::Parser;
use redis_ambassador::app::App;
use redis_ambassador::cli::check::Report;
use redis_ambassador::cli::{self, Arguments, Command, Format, health, links, man};
use redis_ambassador::config::{Config, Env};
use redis_ambassador::{log, secret, workers};

/// The configuration or the command line is wrong.
const MISCONFIGURED: u8 = 2;

fn main() -> ExitCode {
    secret::keep_to_ourselves();
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or(Command::Run);
    let done = match command {
        Command::Completions { shell } => {
            cli::completions(shell, &mut io::stdout());
            Ok(())
        }
        Command::Man => man::write(&mut io::stdout()).map_err(Into::into),
        Command::Health { links } => match Config::admin(&arguments.process) {
            Err(mistakes) => {
                eprint!("redis-ambassador: {mistakes}");
                return ExitCode::from(MISCONFIGURED);
            }
            Ok(admin) => health::ask(admin, links.as_deref() == Some(cli::DIALLED))
                .map(|answer| println!("{answer}"))
                .map_err(Into::into),
        },
        Command::Run | Command::Links { .. } | Command::Check { .. } => {
            // A statement of its own, so that the environment is forgotten before anything runs.
            let loaded = Config::load(&Env::new(std::env::vars_os()), &arguments.process);
            match loaded {
                Err(mistakes) => {
                    eprint!("redis-ambassador: {mistakes}");
                    return ExitCode::from(MISCONFIGURED);
                }
                Ok(config) => match command {
                    Command::Links { format } => {
                        links::show(&config, format, &mut io::stdout()).map_err(Into::into)
                    }
                    Command::Check { format } => match check(&config, format) {
                        Ok(true) => Ok(()),
                        // What is wrong has been said.
                        Ok(false) => return ExitCode::FAILURE,
                        Err(error) => Err(error),
                    },
                    _ => run(config),
                },
            }
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("redis-ambassador: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn Error>> {
    log::start(config.process.log.clone(), config.process.log_format);
    for ignored in &config.ignored {
        tracing::info!(variable = ignored.variable, reason = ignored.reason, "passed over");
    }
    for warning in &config.warnings {
        tracing::warn!(variable = warning.variable, "{}", warning.message);
    }
    let runtime = workers::runtime()?;
    let ended = runtime.block_on(async {
        App::bind(config)?.run().await;
        Ok(())
    });
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    ended
}

/// Dials every link; returns whether all is well.
fn check(config: &Config, format: Format) -> Result<bool, Box<dyn Error>> {
    let runtime = workers::runtime()?;
    let report = runtime.block_on(Report::make(config));
    // A file system that hangs must not keep the process from ending.
    runtime.shutdown_background();
    let mut out = io::stdout();
    let is_coloured = out.is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let width = rustix::termios::tcgetwinsize(&out).ok().map(|size| size.ws_col).filter(|width| *width > 0);
    report.show(format, width, is_coloured, &mut out)?;
    Ok(report.is_fine())
}
