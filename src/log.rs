//! The log: to standard error, as text or JSON.

use std::io::IsTerminal;

use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

/// The form of log lines.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One object a line.
    Json,
}

/// What events are about, for filters such as `info,dial=debug`: the target and its meaning. Every event has one of them,
/// so that a filter does not depend on where the code is.
pub const TARGETS: &[(&str, &str)] = &[
    ("admin", "the admin endpoint"),
    ("backends", "a link's list of backends: changes, moves, ejections and recoveries"),
    ("client", "connections of clients: opened, closed, not served"),
    ("config", "variables that are ignored or look wrong"),
    ("credentials", "passwords and their rotation"),
    ("dial", "attempts to reach a target"),
    ("discovery", "SRV records, files of backends, Sentinels"),
    ("file", "the system's own files: hosts and name servers"),
    ("handshake", "what the target says to AUTH, SELECT and the question for its role"),
    ("listen", "listeners"),
    ("pool", "connections that are kept ready"),
    ("process", "start, drain, stop, internal errors"),
    ("resolve", "names"),
    ("secret", "files and programs that give secrets"),
    ("tls", "handshakes and certificates"),
];

/// Starts logging. Whatever is logged before is lost, and a second call has no effect.
pub fn start(filter: Targets, format: LogFormat) {
    // Writing fails where the disk is full or the reader is gone; saying so on the same stream would panic.
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => {
            layer.with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()).boxed()
        }
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    // A second subscriber is refused, which only a test that runs the program twice would see.
    let _ = Registry::default().with(layer.with_filter(filter)).try_init();
    std::panic::set_hook(Box::new(|panic| {
        // That no thread can be started is told by who wanted one: see `files::offload`.
        let words = panic.payload().downcast_ref::<String>();
        if words.is_some_and(|words| words.starts_with("OS can't spawn worker thread")) {
            return;
        }
        let place = panic.location().map(ToString::to_string);
        if tokio::task::try_id().is_some() {
            tracing::error!(target: "process", place, "internal error: a connection panicked; the others go on");
        } else {
            tracing::error!(target: "process", place, "internal error: the program panicked and ends");
        }
    }));
}
