//! The findings for people: a table, what the certificates say, and below it what is wrong.

use std::fmt::Write as _;
use std::io::{self, Write};

use super::examine::{Authority, Examined, State};
use super::findings::{Finding, Level};
use super::{CheckedLink, Report};
use crate::cli::screen::{Colour, Screen};
use crate::cli::table::{self, NOTHING};
use crate::metrics::CredentialKind;
use crate::upstream::cluster::topology;

/// Names of a certificate that are shown.
const MOST_NAMES: usize = 5;

const HEADER: [&str; 12] =
    ["state", "link", "dials", "address", "connect", "tls", "auth", "db", "ping", "server", "role", "slots"];

const FAILED: &str = "failed";
const NOT_TOLD: &str = "not told";

pub(super) fn table(report: &Report, screen: &Screen, out: &mut impl Write) -> io::Result<()> {
    let mut rows = Vec::new();
    for link in &report.links {
        rows.extend(link.backends.iter().map(|backend| row(link, backend)));
        if link.backends.is_empty() {
            let mut row = vec![NOTHING.to_owned(); HEADER.len()];
            (row[0], row[1], row[2]) = (link.state.name().to_owned(), link.link.clone(), link.target.clone());
            rows.push(row);
        }
    }
    // What no link has needs no column.
    let has_news = |column: &usize| rows.iter().any(|row| row[*column] != NOTHING);
    let columns: Vec<_> = (0..HEADER.len()).filter(has_news).collect();
    let header: Vec<_> = columns.iter().map(|column| HEADER[*column]).collect();
    let cells = |row: &Vec<String>| columns.iter().map(|column| row[*column].clone()).collect();
    let shown: Vec<Vec<_>> = rows.iter().map(cells).collect();
    let paint = |cell: &str| screen.painted(cell, colour(cell));
    let lines = table::fitting(screen, &header, &shown, paint)
        .unwrap_or_else(|| rows.iter().flat_map(|row| stacked(row, paint)).collect());
    for line in lines {
        writeln!(out, "{line}")?;
    }
    for link in &report.links {
        if let Some(cluster) = &link.cluster {
            writeln!(out, "{}: {}", link.link, cluster.summary())?;
        }
        for backend in &link.backends {
            if let Some(sentence) = certificate(link, backend) {
                writeln!(out, "{sentence}")?;
            }
        }
    }
    for Finding { level, link, backend, what, remedy, .. } in &report.findings {
        let name = paint(level.name());
        let lease = match (link, backend) {
            // Most sentences name the backend themselves.
            (Some(link), Some(backend)) if !what.contains(backend) => format!("{link}: {backend}: "),
            (Some(link), _) => format!("{link}: "),
            _ => String::new(),
        };
        writeln!(out, "\n{name}: {lease}{what}")?;
        if let Some(remedy) = remedy {
            writeln!(out, "  remedy: {remedy}")?;
        }
    }
    writeln!(out, "\n{}", summary(report))
}

/// A row as lines, for terminals that the table is too wide for.
fn stacked(row: &[String], paint: impl Fn(&str) -> String) -> Vec<String> {
    let named = HEADER.iter().zip(row).skip(3).filter(|(_, cell)| *cell != NOTHING);
    let rest: Vec<_> = named.map(|(name, cell)| format!("{name} {}", paint(cell))).collect();
    let mut lines = vec![format!("{} {} {}", paint(&row[0]), row[1], row[2])];
    if !rest.is_empty() {
        lines.push(format!("  {}", rest.join(", ")));
    }
    lines
}

fn row(link: &CheckedLink, backend: &Examined) -> Vec<String> {
    let timed = |name: &str| match backend.steps.iter().find(|step| step.name == name) {
        Some(step) if step.state == State::Failed => FAILED.to_owned(),
        Some(step) => step.ms.map_or_else(|| NOTHING.to_owned(), |ms| format!("{ms} ms")),
        None => NOTHING.to_owned(),
    };
    let done = |name: &str, shown: Option<String>| match backend.state_of(name) {
        Some(State::Failed) => FAILED.to_owned(),
        Some(State::Ok) => shown.unwrap_or_else(|| NOTHING.to_owned()),
        Some(State::NotReached) | None => NOTHING.to_owned(),
    };
    let address = backend.address.map(|address| match backend.addresses.len() {
        0 | 1 => address.to_string(),
        several => format!("{address} (1 of {several})"),
    });
    let tls = backend.tls.as_ref().map(|tls| {
        let version = tls.version.unwrap_or(NOT_TOLD);
        match tls.verify {
            "none" => format!("{version}, unverified"),
            "ca" => format!("{version}, any name"),
            _ => version.to_owned(),
        }
    });
    let auth = backend.auth.as_ref().map(|auth| {
        let which = if auth.which == Some(CredentialKind::Previous.name()) { ", previous" } else { "" };
        match &auth.username {
            Some(username) => format!("{username} ({}{which})", auth.source),
            None => format!("{}{which}", auth.source),
        }
    });
    let told = |word: Option<String>| match &backend.server {
        Some(_) => word.unwrap_or_else(|| NOT_TOLD.to_owned()),
        None => NOTHING.to_owned(),
    };
    let server = backend.server.as_ref();
    let kind = server.and_then(|server| {
        let kind = server.kind.clone()?;
        Some(server.version.as_ref().map_or_else(|| kind.clone(), |version| format!("{kind} {version}")))
    });
    let nodes = link.cluster.iter().flat_map(|cluster| &cluster.nodes);
    let slots = nodes.filter(|node| node.is_at(&backend.backend)).find(|node| !node.slots.is_empty());
    let resolved = backend.state_of("resolve") != Some(State::Failed);
    vec![
        backend.state.name().to_owned(),
        link.link.clone(),
        backend.backend.clone(),
        if resolved { address.unwrap_or_else(|| NOTHING.to_owned()) } else { FAILED.to_owned() },
        timed("connect"),
        done("tls", tls),
        done("auth", auth),
        done("select", backend.db.map(|db| db.to_string())),
        timed("ping"),
        told(kind),
        told(server.and_then(|server| server.role.clone())),
        slots.map_or_else(|| NOTHING.to_owned(), |node| topology::shown(&node.slots)),
    ]
}

fn certificate(link: &CheckedLink, backend: &Examined) -> Option<String> {
    let certificate = backend.tls.as_ref()?.certificate.as_ref()?;
    let names: Vec<_> = certificate.names.iter().take(MOST_NAMES).map(String::as_str).collect();
    let mut text = format!("{}: {}: its certificate is for ", link.link, backend.backend);
    text += &if names.is_empty() { "no name".to_owned() } else { names.join(", ") };
    let more = certificate.names.len() - names.len();
    if more > 0 {
        // Writing to a string can't fail.
        let _ = write!(text, " and {more} more");
    }
    if let Some(issuer) = &certificate.issuer {
        let _ = write!(text, ", from \"{issuer}\"");
    }
    let _ = write!(text, ", and ends on {}", humantime::format_rfc3339_seconds(certificate.ends));
    if let Some(Authority { name: Some(name), ends }) = &backend.tls.as_ref()?.authority {
        let _ = write!(text, ", its authority \"{name}\" on {}", humantime::format_rfc3339_seconds(*ends));
    }
    Some(text)
}

fn summary(report: &Report) -> String {
    let count = |level| report.findings.iter().filter(|finding| finding.level == level).count();
    let number = |count: usize, of: &str| match count {
        1 => format!("1 {of}"),
        count => format!("{count} {of}s"),
    };
    let backends = report.links.iter().map(|link| link.backends.len()).sum();
    format!(
        "{}, {}: {}, {}, {}",
        number(report.links.len(), "link"),
        number(backends, "backend"),
        number(count(Level::Problem), "problem"),
        number(count(Level::Warning), "warning"),
        number(count(Level::Note), "note"),
    )
}

/// The colour of a word's meaning.
fn colour(word: &str) -> Option<Colour> {
    match word {
        "ok" => Some(Colour::Green),
        "note" => Some(Colour::Cyan),
        "warning" => Some(Colour::Yellow),
        "problem" | FAILED => Some(Colour::Red),
        _ => None,
    }
}
