//! The log: to standard error, as text or JSON.

use std::fmt::Debug;
use std::io::IsTerminal;

use tracing::field::Field;
use tracing_subscriber::field::MakeExt;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::fmt::format::{Writer, debug_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt};

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// The targets of log events and their meaning, for filters such as `info,dial=debug`. Every event names one
/// explicitly,
/// so that a filter does not depend on module paths.
pub const TARGETS: &[(&str, &str)] = &[
    ("admin", "the admin endpoint"),
    ("backends", "a link's list of backends: changes, moves, ejections and recoveries"),
    ("client", "connections of clients: opened, closed, refused"),
    ("cluster", "a Redis Cluster's nodes, their listeners, and slots that nobody serves"),
    ("config", "variables that are ignored or look wrong"),
    ("credentials", "passwords and their rotation"),
    ("dial", "attempts to reach a target"),
    ("discovery", "SRV records, files of backends, Sentinels, ZooKeeper, the local network"),
    ("file", "the system's own files: hosts and name servers"),
    ("handshake", "the target's answers to AUTH, SELECT and the query for its role"),
    ("listen", "listeners"),
    ("pool", "connections that are kept ready"),
    ("process", "start, drain, stop, internal errors"),
    ("resolve", "names"),
    ("secret", "secrets from files and programs"),
    ("tls", "handshakes and certificates"),
];

/// A level that names no target is meant for events of our own: from libraries come warnings at most, unless they are named.
fn of_our_own(filter: &Targets) -> Targets {
    let level = filter.default_level().unwrap_or(LevelFilter::OFF);
    Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_targets(TARGETS.iter().map(|(target, _)| (*target, level)))
        .with_targets(filter.iter())
}

/// A field as `name=value`, in quotation marks where the value would else fall apart.
fn write_field(writer: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> std::fmt::Result {
    let text = format!("{value:?}");
    match field.name() {
        "message" => writer.write_str(&text),
        name if text.contains([' ', '=', '"']) && !text.starts_with('"') => write!(writer, "{name}={text:?}"),
        name => write!(writer, "{name}={text}"),
    }
}

/// Starts logging. Earlier events are lost, and a second call has no effect.
pub fn start(filter: &Targets, format: LogFormat) {
    // A write fails where the disk is full or the reader is gone; reporting it on the same stream would panic.
    let layer = fmt::layer().with_writer(std::io::stderr).with_target(false).log_internal_errors(false);
    let layer = match format {
        LogFormat::Text => layer
            .with_ansi(std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
            .fmt_fields(debug_fn(write_field).delimited(" "))
            .boxed(),
        LogFormat::Json => {
            layer.json().flatten_event(true).with_current_span(false).with_span_list(false).boxed()
        }
    };
    // It fails on a second call, as in a test that runs the program twice.
    let _ = Registry::default().with(layer.with_filter(of_our_own(filter))).try_init();
    std::panic::set_hook(Box::new(|panic| {
        // A thread that can't be started is reported by the caller: see `files::offload`.
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

#[cfg(test)]
mod tests {
    use tracing::Level;

    use super::*;

    #[test]
    fn a_level_alone_is_for_our_own_events() {
        let filter = |text: &str| of_our_own(&text.parse().expect("a filter"));
        let debug = filter("debug");
        assert!(debug.would_enable("dial", &Level::DEBUG) && debug.would_enable("hickory_net", &Level::WARN));
        assert!(!debug.would_enable("hickory_net", &Level::INFO));
        let named = filter("info,hickory_net=debug,dial=error");
        assert!(named.would_enable("hickory_net::udp", &Level::DEBUG));
        assert!(named.would_enable("client", &Level::INFO) && !named.would_enable("client", &Level::DEBUG));
        assert!(!named.would_enable("dial", &Level::WARN));
        let quiet = filter("error");
        assert!(!quiet.would_enable("hickory_net", &Level::WARN));
        assert!(!filter("off").would_enable("client", &Level::ERROR));
    }
}
