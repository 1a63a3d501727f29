//! The ambassador on a terminal, which `script` plays.

use std::process::{Command, Stdio};

use super::redis_server::command_is_missing;

/// The ambassador with these arguments on a terminal of that size, and with no variables but PATH; a test that can't have one
/// is left out.
pub(crate) fn on_a_terminal(columns: u16, lines: u16, arguments: &str) -> Option<Command> {
    if command_is_missing("script") || command_is_missing("stty") {
        return None;
    }
    let program = env!("CARGO_BIN_EXE_redis-ambassador");
    // Ctrl-C is ignored by what a shell started in the background, and by all that this starts in its turn.
    let heeding = "env --default-signal=INT";
    let run = format!("stty cols {columns} rows {lines}; exec {heeding} {program} {arguments}");
    let mut command = Command::new("script");
    command.args(["--quiet", "--command", &run, "/dev/null"]).env_clear().env("SHELL", "/bin/sh");
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).stdin(Stdio::null());
    Some(command)
}

/// What stood on it in the end, without its colours.
#[track_caller]
pub(crate) fn shown(mut command: Command) -> String {
    let output = command.env("NO_COLOR", "1").output().expect("script runs");
    String::from_utf8_lossy(&output.stdout).replace('\r', "")
}
