//! `GET /`: what an operator asks first, as a page.
//!
//! All of it is written here, charts too, so that it is whole without a script; the script fetches the page again and puts the
//! new table in the place of the old one.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::Duration;

use super::history::{Events, History, SAMPLES, Sample};
use super::{Admin, LinkState};
use crate::random;

const TEMPLATE: &str = include_str!("page.html");

/// The chart's size in its own units.
const CHART: (usize, f64) = (SAMPLES, 30.0);

/// The page, and the policy that allows it what is its own and nothing else.
pub(super) fn page(admin: &Admin) -> (String, String) {
    let mut links: Vec<_> =
        admin.links.iter().map(|(listen, service)| LinkState::of(listen, service)).collect();
    let has_failed = |link: &LinkState| link.last_dial.as_ref().is_some_and(|dial| !dial.worked);
    let failing = links.iter().filter(|link| has_failed(link)).count();
    links.sort_by_key(|link| !has_failed(link));
    let clients: usize = links.iter().map(|link| link.connections).sum();
    let mut rows = String::new();
    for link in &links {
        row(&mut rows, link, &admin.history);
    }
    let nonce = random::word();
    let state = match (admin.is_ready(), failing) {
        (false, _) => "draining".to_owned(),
        (true, 0) => "no failure".to_owned(),
        (true, failing) => format!("{failing} failing"),
    };
    let summary = format!("{} · {state} · {}", number(links.len(), "link"), number(clients, "client"));
    let page = TEMPLATE
        .replace("{nonce}", &nonce)
        .replace("{version}", env!("CARGO_PKG_VERSION"))
        .replace("{summary}", &summary)
        .replace("{rows}", &rows);
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'"
    );
    (page, policy)
}

fn number(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// One link: a row, and another one with its failure.
fn row(rows: &mut String, link: &LinkState, history: &History) {
    let (samples, hour) = history
        .of(&link.link, |of| (of.samples.clone(), of.hour()))
        .unwrap_or((VecDeque::new(), Events::default()));
    let (class, state) = match &link.last_dial {
        None => ("", "not dialled yet".to_owned()),
        Some(dial) => {
            let since = ago(dial.since_seconds);
            if dial.worked {
                ("works", format!("works, {since}"))
            } else {
                ("fails", format!("fails, {since}"))
            }
        }
    };
    let backends = link.backends.iter().fold(String::new(), |mut list, backend| {
        let class = if backend.up { "" } else { " class=\"down\"" };
        let state = if backend.up { "" } else { " <span class=\"soft\">(its last dial failed)</span>" };
        let _ = write!(list, "<li{class}><code>{}</code>{state}</li>", escaped(&backend.backend));
        list
    });
    let last = samples.back().copied().unwrap_or_default();
    let is_redis = link.kind == "redis";
    let rate = |rate: f64| if is_redis { rate_of(rate) } else { "–".to_owned() };
    // Writing to a string can't fail.
    let _ = write!(
        rows,
        "<tbody><tr><th scope=\"row\">{}<small>listens on <code>{}</code></small></th>\
         <td data-name=\"Leads to\"><code>{}</code><ul class=\"soft\">{backends}</ul></td>\
         <td><span class=\"state {class}\">{state}</span></td>\
         <td class=\"number\" data-name=\"Clients\">{}</td>\
         <td class=\"number\" data-name=\"Commands/s\">{}</td>\
         <td class=\"number\" data-name=\"Errors/s\">{}</td>\
         <td>{}</td><td data-name=\"Last hour\">{}</td></tr>",
        escaped(&link.link),
        escaped(&link.listen),
        escaped(&link.target),
        link.connections,
        rate(last.commands),
        rate(last.errors),
        if is_redis { chart(&samples) } else { "<span class=\"soft\">a tunnel</span>".to_owned() },
        happened(hour),
    );
    if let Some(failure) = link.last_dial.as_ref().and_then(|dial| dial.failure.as_ref()) {
        let _ = write!(
            rows,
            "<tr class=\"failure\"><td colspan=\"8\"><p>{} <span class=\"soft\">({})</span><br><b>Remedy:</b> {}</p></td></tr>",
            escaped(&failure.error),
            escaped(&failure.stage),
            escaped(&failure.remedy),
        );
    }
    rows.push_str("</tbody>\n");
}

/// How long something has been so.
fn ago(seconds: f64) -> String {
    let seconds = Duration::try_from_secs_f64(seconds).unwrap_or_default().as_secs();
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

fn rate_of(rate: f64) -> String {
    if rate > 0.0 && rate < 9.95 { format!("{rate:.1}") } else { format!("{rate:.0}") }
}

fn happened(hour: Events) -> String {
    let events = [(hour.exchanged, "exchanged"), (hour.rotated, "rotated"), (hour.moved, "moved")];
    let told: Vec<_> = events
        .into_iter()
        .filter(|(number, _)| *number > 0.0)
        .map(|(number, what)| format!("{number:.0} {what}"))
        .collect();
    if told.is_empty() { "<span class=\"soft\">nothing</span>".to_owned() } else { told.join("<br>") }
}

/// The p99 of ten minutes as a line above an area of the median, and both of the last command in words.
fn chart(samples: &VecDeque<Sample>) -> String {
    let Some(last) = samples.iter().rev().find(|sample| sample.median.is_some()) else {
        return "<span class=\"soft\">no command yet</span>".to_owned();
    };
    let (width, height) = CHART;
    let most = samples.iter().filter_map(|sample| sample.p99).fold(f64::MIN_POSITIVE, f64::max);
    let begin = SAMPLES.saturating_sub(samples.len());
    let points = |of: fn(&Sample) -> Option<f64>| {
        samples.iter().enumerate().fold(String::new(), |mut points, (index, sample)| {
            let value = of(sample).unwrap_or(0.0);
            let _ = write!(points, "{},{:.0} ", begin + index, height - value / most * (height - 1.0));
            points
        })
    };
    let milliseconds =
        |time: Option<f64>| time.map_or("–".to_owned(), |time| format!("{} ms", precise(time)));
    let words = format!("median {}, p99 {}", milliseconds(last.median), milliseconds(last.p99));
    format!(
        "<svg viewBox=\"0 0 {width} {height}\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"Latency of ten minutes, at most {} ms\">\
         <polygon points=\"{begin},{height} {}{width},{height}\"/><polyline points=\"{}\"/></svg><small>{words}</small>",
        precise(most),
        points(|sample| sample.median),
        points(|sample| sample.p99),
    )
}

fn precise(milliseconds: f64) -> String {
    if milliseconds < 9.95 { format!("{milliseconds:.1}") } else { format!("{milliseconds:.0}") }
}

/// Text as HTML.
fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut escaped, character| {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            other => escaped.push(other),
        }
        escaped
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_small_and_loads_nothing() {
        assert!(TEMPLATE.len() < 40 * 1024);
        for foreign in ["http://", "https://", "src=", "@import", "url("] {
            assert!(!TEMPLATE.contains(foreign), "{foreign}");
        }
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escaped("<b>\"&'"), "&lt;b&gt;&quot;&amp;&#39;");
    }

    #[test]
    fn times_are_told_as_people_do() {
        assert_eq!([ago(5.9), ago(61.0), ago(7_300.0), ago(400_000.0)], ["5 s", "1 min", "2 h", "4 days"]);
    }

    #[test]
    fn a_chart_of_ten_minutes_is_short() {
        let sample = Sample { commands: 1.0, errors: 0.0, median: Some(0.123), p99: Some(123.0) };
        assert!(chart(&VecDeque::from(vec![sample; SAMPLES])).len() < 2_500);
    }
}
