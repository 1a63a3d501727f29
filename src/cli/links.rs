//! `links`: the wiring, as the configuration alone tells it.

use std::io::{self, Write};

use serde::Serialize;

use super::Format;
use super::screen::Screen;
use super::table::{self, NOTHING};
use crate::config::link::{Credentials, shown_ports};
use crate::config::{Config, Ignored, Link, Warning};
use crate::net::proxy_protocol::Version;
use crate::net::tls::Verification;

/// The wiring of one link, as `links --format json` shows it.
#[derive(Serialize)]
struct Row {
    alias: String,
    port: u16,
    variable: String,
    listen: String,
    cluster_ports: Option<String>,
    announce: Option<String>,
    kind: &'static str,
    target: String,
    backends: Vec<String>,
    tls: bool,
    tls_verify: Option<&'static str>,
    listen_tls: bool,
    listen_proxy_protocol: bool,
    proxy_protocol: Option<&'static str>,
    auth: &'static str,
    username: Option<String>,
    db: Option<u32>,
}

#[derive(Serialize)]
struct Wiring<'a> {
    links: Vec<Row>,
    ignored: &'a [Ignored],
    warnings: &'a [Warning],
}

impl Row {
    fn of(link: &Link) -> Self {
        let redis = link.redis.as_ref();
        let cluster = redis.and_then(|redis| redis.cluster.as_ref());
        let credentials = link.credentials();
        let username = credentials.and_then(Credentials::user);
        Self {
            alias: link.alias.clone(),
            port: link.port,
            variable: link.variable.clone(),
            listen: link.listen.to_string(),
            cluster_ports: cluster.map(|cluster| shown_ports(&cluster.ports)),
            announce: cluster.and_then(|cluster| cluster.announce.clone()),
            kind: if redis.is_some() { "redis" } else { "tcp" },
            target: link.target.to_string(),
            backends: link.endpoints.iter().map(ToString::to_string).collect(),
            tls: link.tls.is_some(),
            tls_verify: link.tls.as_ref().map(|tls| tls.verification.name()),
            listen_tls: link.listen_tls.is_some(),
            listen_proxy_protocol: link.listen_proxy_protocol,
            proxy_protocol: link.proxy_protocol.map(Version::name),
            auth: credentials.map_or("none", |credentials| credentials.password.kind()),
            username: username.map(|name| String::from_utf8_lossy(name.expose()).into_owned()),
            db: redis.and_then(|redis| redis.database),
        }
    }
}

/// Shows the wiring.
pub fn show(config: &Config, format: Format, screen: &Screen, out: &mut impl Write) -> io::Result<()> {
    let wiring = Wiring {
        links: config.links.iter().map(|link| Row::of(link)).collect(),
        ignored: &config.ignored,
        warnings: &config.warnings,
    };
    match format {
        Format::Json => {
            serde_json::to_writer_pretty(&mut *out, &wiring)?;
            writeln!(out)
        }
        Format::Table => table(&wiring, screen, out),
    }
}

/// Where clients come in, to the nodes of a cluster too.
fn listens_on(row: &Row) -> String {
    let nodes = row.cluster_ports.iter().map(|ports| format!(", nodes on {ports}"));
    let announced = row.announce.iter().map(|host| format!(", announced as {host}"));
    let balanced = row.listen_proxy_protocol.then(|| ", behind the PROXY protocol".to_owned());
    [row.listen.clone()].into_iter().chain(nodes).chain(announced).chain(balanced).collect()
}

/// The target, and what it is told of clients.
fn dials(row: &Row) -> String {
    let told = row.proxy_protocol.map(|version| format!(", with PROXY {version}"));
    [row.target.clone()].into_iter().chain(told).collect()
}

/// On which sides there is TLS, and what of the target is verified if that is not everything.
fn tls(row: &Row) -> String {
    let sides = match (row.listen_tls, row.tls) {
        (false, false) => NOTHING,
        (true, false) => "from clients",
        (false, true) => "to the target",
        (true, true) => "both sides",
    };
    match row.tls_verify {
        Some(verification) if verification != Verification::Full.name() => {
            format!("{sides}, verify {verification}")
        }
        _ => sides.to_owned(),
    }
}
const HEADER: [&str; 8] = ["link", "listens on", "dials", "kind", "tls", "auth", "user", "db"];

fn table(wiring: &Wiring<'_>, screen: &Screen, out: &mut impl Write) -> io::Result<()> {
    let row = |row: &Row| {
        vec![
            format!("{}:{}", row.alias.to_lowercase(), row.port),
            listens_on(row),
            dials(row),
            row.kind.to_owned(),
            tls(row),
            row.auth.to_owned(),
            row.username.clone().unwrap_or_else(|| NOTHING.to_owned()),
            row.db.map_or_else(|| NOTHING.to_owned(), |db| db.to_string()),
        ]
    };
    let rows: Vec<_> = wiring.links.iter().map(row).collect();
    let mut lines = table::lines(&HEADER, &rows, str::to_owned);
    if !screen.fits(&lines) {
        lines = rows.iter().flat_map(|row| stacked(row, screen)).collect();
    }
    for Ignored { variable, reason } in wiring.ignored {
        lines.extend(screen.paragraph(0, &format!("ignored: {variable}: {reason}")));
    }
    for Warning { variable, message } in wiring.warnings {
        lines.extend(screen.paragraph(0, &format!("warning: {variable}: {message}")));
    }
    lines.iter().try_for_each(|line| writeln!(out, "{line}"))
}

/// A row as lines, for terminals that the table is too wide for: the link, then each address on a line of its own.
fn stacked(row: &[String], screen: &Screen) -> Vec<String> {
    let named: Vec<_> = HEADER.iter().zip(row).filter(|(_, cell)| *cell != NOTHING).collect();
    let [(_, link), listens, dials, rest @ ..] = &named[..] else { return Vec::new() };
    let told = |(name, cell): &(&&str, &String)| format!("{name} {cell}");
    let rest = rest.iter().map(told).collect::<Vec<_>>().join(", ");
    let lines = [told(listens), told(dials), rest];
    let lines = lines.iter().flat_map(|line| screen.paragraph(2, line));
    [(*link).clone()].into_iter().chain(lines).collect()
}
