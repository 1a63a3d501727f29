//! `completions`: what a shell completes, as `clap_complete` writes it, put right where that is at fault.

use std::io::{self, Write};

use clap::ValueEnum;
use clap_complete::Shell;

const NAME: &str = "redis-ambassador";

/// Writes a shell's completion script.
pub fn write(shell: Shell, out: &mut impl Write) -> io::Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut super::shown(), NAME, &mut script);
    let script = String::from_utf8_lossy(&script);
    let script = match shell {
        Shell::Bash => bash(&script),
        Shell::Fish => fish(&script),
        // The colon in a value's name would end that.
        Shell::Zsh => script.replace("]:ADDRESS:PORT:", "]:ADDRESS\\:PORT:"),
        _ => script.into_owned(),
    };
    out.write_all(script.as_bytes())
}

/// What the script finds out to be the subcommand has another name where it looks for that: a hyphen in the program's name
/// is written in two ways.
fn bash(script: &str) -> String {
    script.replace("redis__subcmd__ambassador__subcmd__", "redis__ambassador__subcmd__")
}

/// Behind `help` nothing is offered, because the word itself counts as one that is there already; `completions` has no
/// shells; and where nothing is to be written, files are offered.
fn fish(script: &str) -> String {
    let mut mended = String::new();
    for line in script.lines() {
        let parts = line.split_once("; and not __fish_seen_subcommand_from ");
        match parts.and_then(|(before, after)| Some((before, after.split_once('"')?.1))) {
            Some((before, after)) => mended.extend([before, "\"", after]),
            None => mended.push_str(line),
        }
        mended.push('\n');
    }
    let shells = Shell::value_variants().iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    let using = "__fish_redis_ambassador_using_subcommand completions";
    mended + &format!("complete -c {NAME} -n \"{using}\" -a \"{shells}\"\ncomplete -c {NAME} -f\n")
}
