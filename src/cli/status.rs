//! `status`: what the running process knows of its links, as a table.

use std::io::{self, Write};
use std::thread;
use std::time::Duration;

use super::endpoint::{Unasked, ask};
use super::screen::{Colour, Screen};
use super::table::{self, NOTHING};
use crate::admin::figures::{count, float, long, short};
use crate::admin::{LinkState, Links, STATES, of_node};
use crate::net::ListenAddress;
use crate::text::{self, one_line};

/// How long the process may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Between two looks.
const EVERY: Duration = Duration::from_secs(2);

/// Goes to the beginning of the screen and clears it.
const CLEAR: &str = "\x1b[H\x1b[2J";

const HEADER: [&str; 7] = ["link", "state", "for", "clients", "upstreams", "commands", "errors"];

/// Why there is nothing to show.
#[derive(Debug, thiserror::Error)]
pub enum Unshown {
    #[error(transparent)]
    Unasked(#[from] Unasked),
    #[error("can't write to standard output: {}", text::io_error(.0))]
    Unwritten(#[from] io::Error),
}

/// Shows it on `out`; with `watch`, again and again, until somebody ends the program.
pub fn show(admin: Option<ListenAddress>, watch: bool, out: &mut impl Write) -> Result<(), Unshown> {
    let address = admin.ok_or(Unasked::Off)?;
    let mut known = Ok(links(&address)?);
    loop {
        let screen = Screen::of_output();
        let mut lines = match known {
            Ok(told) => lines(&told, &screen),
            // It may be started again.
            Err(error) => vec![Unshown::from(error).to_string()],
        };
        let (before, after) = match (watch, screen.is_terminal) {
            (false, _) => ("", "\n"),
            (true, false) => ("", "\n\n"),
            (true, true) => (CLEAR, "\n"),
        };
        if before == CLEAR {
            keep_in_sight(&mut lines, screen.height);
        }
        // In one write, so that nobody sees half of it.
        out.write_all([before, &lines.join("\n"), after].concat().as_bytes())?;
        out.flush()?;
        if !watch {
            return Ok(());
        }
        thread::sleep(EVERY);
        known = links(&address);
    }
}

fn links(address: &ListenAddress) -> Result<Links, Unasked> {
    let answer = ask(address, "/links", PATIENCE)?;
    let links = serde_json::from_str(&answer.body).ok().filter(|_| answer.status == 200);
    links.ok_or_else(|| Unasked::Stranger(address.clone()))
}

/// What is above a terminal's first line is out of sight.
fn keep_in_sight(lines: &mut Vec<String>, height: Option<u16>) {
    // The last one is the cursor's.
    let most = height.map_or(usize::MAX, |height| usize::from(height).saturating_sub(1).max(1));
    if lines.len() > most {
        let more = lines.len() - (most - 1);
        lines.truncate(most - 1);
        lines.push(format!("and {more} more lines"));
    }
}

fn lines(told: &Links, screen: &Screen) -> Vec<String> {
    let paint = |cell: &str| screen.painted(cell, colour(cell));
    let mut sorted: Vec<_> = told.links.iter().collect();
    // What fails comes first, as on the page.
    sorted.sort_by_key(|link| link.place());
    let rows: Vec<_> = sorted.iter().map(|link| row(link)).collect();
    let mut heads = table::fitting(screen, &HEADER, &rows, paint).unwrap_or_default().into_iter();
    let mut lines: Vec<_> = heads.next().into_iter().collect();
    for (link, row) in sorted.iter().zip(&rows) {
        match heads.next() {
            Some(line) => lines.push(line),
            None => lines.extend(stacked(row, screen, paint)),
        }
        lines.extend(details(link, screen));
    }
    let number = |state| sorted.iter().filter(|link| link.state == state).count();
    let numbers = STATES.iter().map(|(state, word)| (number(*state), word)).filter(|(number, _)| *number > 0);
    let numbers: Vec<_> = numbers.map(|(number, word)| format!("{number} {word}")).collect();
    lines.push(String::new());
    lines.push(format!("{}: {}", count(sorted.len(), "link"), numbers.join(", ")));
    if !told.ready {
        lines.extend(screen.paragraph(0, "draining: it is about to end"));
    }
    lines
}

/// Those of the [`STATES`].
const COLOURS: [Colour; STATES.len()] = [Colour::Red, Colour::Yellow, Colour::Green, Colour::Cyan];

fn colour(cell: &str) -> Option<Colour> {
    STATES.iter().zip(COLOURS).find(|((_, word), _)| *word == cell).map(|(_, colour)| colour)
}

fn row(link: &LinkState) -> Vec<String> {
    let since = link.last_dial.as_ref().map(|dial| long(dial.since_seconds));
    let nothing = || NOTHING.to_owned();
    // Whoever answers may have sent characters that a terminal obeys.
    vec![
        shown(&link.link),
        shown(link.word()),
        since.unwrap_or_else(nothing),
        link.connections.to_string(),
        link.upstreams.to_string(),
        link.commands.map_or_else(nothing, |number| figure(number, link.commands_per_second)),
        link.errors.map_or_else(nothing, |number| figure(number, link.errors_per_second)),
    ]
}

/// So many since the start, and at the moment.
fn figure(number: u64, a_second: Option<f32>) -> String {
    let number = short(float(usize::try_from(number).unwrap_or(usize::MAX)));
    match a_second.map(short).filter(|rate| rate != "0") {
        Some(rate) => format!("{number} ({rate}/s)"),
        None => number,
    }
}

/// A row as lines, for terminals that the table is too wide for.
fn stacked(row: &[String], screen: &Screen, paint: impl Fn(&str) -> String) -> Vec<String> {
    let [link, state, since, numbers @ ..] = row else { return Vec::new() };
    let since = if since == NOTHING { String::new() } else { format!(" for {since}") };
    let named = numbers.iter().zip(&HEADER[3..]).filter(|(number, _)| *number != NOTHING);
    let numbers: Vec<_> = named.map(|(number, name)| format!("{number} {name}")).collect();
    let mut lines = vec![format!("{link} {}{since}", paint(state))];
    lines.extend(screen.paragraph(2, &numbers.join(", ")));
    lines
}

/// Where it listens and leads, a cluster's nodes too, and what is the matter.
fn details(link: &LinkState, screen: &Screen) -> Vec<String> {
    let mut lines = screen.paragraph(2, &format!("{} -> {}", shown(&link.listen), shown(&link.target)));
    for node in link.cluster.iter().flat_map(|cluster| &cluster.nodes) {
        let listen = node.listen.as_deref().unwrap_or("no listener");
        let told = of_node(node).join(", ");
        let told = format!("{} -> {}: {}", shown(listen), shown(&node.address), shown(&told));
        lines.extend(screen.paragraph(2, &told));
    }
    if let Some(dial) = &link.last_dial
        && let Some(failure) = &dial.failure
    {
        let (stage, error, remedy) = (shown(&failure.stage), shown(&failure.error), shown(&failure.remedy));
        let ago = long(dial.seconds_ago);
        lines.extend(screen.paragraph(2, &format!("failed {ago} ago, at {stage}: {error}")));
        lines.extend(screen.paragraph(2, &format!("remedy: {remedy}")));
    }
    for warning in &link.warnings {
        lines.extend(screen.paragraph(2, &format!("warning: {}", shown(warning))));
    }
    lines
}

fn shown(text: &str) -> String {
    one_line(text.as_bytes())
}
