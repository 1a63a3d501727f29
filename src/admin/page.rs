//! `GET /`: what an operator asks first, as a page.
//!
//! The server writes the table of the moment, which is all that is needed without a script. The script of the page fetches
//! `/links` and `/history`, draws the charts, and puts the new figures where the old ones are; it knows no other markup than
//! what is written here.

use std::fmt::Write;

use super::figures::{count, float, long, short, time};
use super::history::{Events, Sample};
use super::{LinkState, of_node};
use crate::upstream::backends::BackendState;
use crate::upstream::cluster::NodeState;

const TEMPLATE: &str = include_str!("page.html");

/// What the page may do: its own style, its own script, and ask where it came from. The words are the hashes of the two,
/// which a test holds.
pub(super) const POLICY: &str = "default-src 'none'; \
     script-src 'sha256-Cn2bp6wkcTYSqTWZv+QeqaRa61fgUaO3r4XWfpjtwKw='; \
     style-src 'sha256-39bsToXIq2J3MvYB1xZtqdXk8e//86XgO+v8QedBPlU='; \
     connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// So many backends are listed in the open.
const OPEN: usize = 4;

/// The page of these links, each with its last sample and what happened within the hour.
pub(super) fn page(is_ready: bool, links: Vec<LinkState>, history: &[(Sample, Events)]) -> String {
    let mut links: Vec<_> = links.into_iter().zip(history).collect();
    let failing = links.iter().filter(|(link, _)| link.state == "fails").count();
    let sum = |of: fn(&LinkState) -> usize| links.iter().map(|(link, _)| of(link)).sum::<usize>();
    let rate = |of: fn(&Sample) -> f32| short(links.iter().map(|(_, (sample, _))| of(sample)).sum());
    let hour = links.iter().fold(Events::default(), |all, (_, (_, hour))| all.plus(*hour));
    let of_page = [
        ("version", env!("CARGO_PKG_VERSION").to_owned()),
        ("not_draining", if is_ready { " hidden" } else { "" }.to_owned()),
        ("links", short(float(links.len()))),
        ("failing", if failing == 0 { "none failing".to_owned() } else { format!("{failing} failing") }),
        ("clients", short(float(sum(|link| link.connections)))),
        ("upstreams", count(sum(|link| link.upstreams), "upstream")),
        ("commands", rate(|sample| sample.commands)),
        ("errors", rate(|sample| sample.errors)),
        ("exchanged", hour.exchanged.to_string()),
        ("events", format!("exchanged, {} rotated, {} moved", hour.rotated, hour.moved)),
    ];
    links.sort_by_key(|(link, _)| link.place());
    let rows = links.iter().fold(String::new(), |mut rows, (link, (sample, hour))| {
        // Writing to a string can't fail.
        let _ = row(&mut rows, link, sample, *hour);
        rows
    });
    filled(TEMPLATE, |name| {
        let known = of_page.iter().find(|(known, _)| *known == name).map(|(_, text)| &**text);
        known.unwrap_or(&rows)
    })
}

/// The template with each `{{name}}` replaced; what is put in is not looked at again.
fn filled<'a>(template: &str, value: impl Fn(&str) -> &'a str) -> String {
    let mut page = String::with_capacity(template.len() * 2);
    for part in template.split("{{") {
        match part.split_once("}}") {
            Some((name, rest)) => page.extend([value(name), rest]),
            None => page.push_str(part),
        }
    }
    page
}

/// One link: a row, and another one for what is the matter with it.
fn row(rows: &mut String, link: &LinkState, sample: &Sample, hour: Events) -> std::fmt::Result {
    let since = link.last_dial.as_ref().map(|dial| format!("for {}", long(dial.since_seconds)));
    let name = escaped(&link.link);
    let is_redis = link.kind == "redis";
    write!(
        rows,
        "<tbody role=\"rowgroup\" data-link=\"{name}\" class=\"{state}\"><tr role=\"row\">\
         <th scope=\"row\" role=\"rowheader\"><span class=\"name\">{name}</span>\
         <small>{kind} on <code>{listen}</code></small></th>\
         <td role=\"cell\" data-label=\"Leads to\"><code>{target}</code><div class=\"backends\">",
        state = escaped(&link.state),
        kind = if is_redis { "Redis" } else { "Tunnel" },
        listen = breakable(&link.listen),
        target = breakable(&link.target),
    )?;
    backends(rows, link)?;
    let figure = |figure: f32| if is_redis { short(figure) } else { "–".to_owned() };
    let (rate, chart) = if is_redis { (RATE, CHART) } else { ("", "") };
    write!(
        rows,
        "</div></td>\
         <td role=\"cell\"><span class=\"pill\">{pill}</span><small class=\"since\">{since}</small></td>\
         <td role=\"cell\" class=\"number\" data-label=\"Clients\"><span class=\"clients\">{clients}</span>\
         <small class=\"upstreams\">{upstreams}</small></td>\
         <td role=\"cell\" class=\"number\" data-label=\"Commands/s\"><span class=\"commands\">{commands}</span>{rate}</td>\
         <td role=\"cell\" class=\"number\" data-label=\"Errors/s\"><span class=\"errors\">{errors}</span></td>\
         <td role=\"cell\" data-label=\"Latency\">{chart}<small{latency_class}>{latency}</small></td>\
         <td role=\"cell\" class=\"soft\" data-label=\"Last hour\"><span class=\"hour\">{happened}</span></td></tr>",
        pill = escaped(link.word()),
        since = since.unwrap_or_default(),
        clients = short(float(link.connections)),
        upstreams = count(link.upstreams, "upstream"),
        commands = figure(sample.commands),
        errors = figure(sample.errors),
        latency_class = if is_redis { " class=\"latency\"" } else { "" },
        latency = if is_redis { latency(sample) } else { "a plain tunnel".to_owned() },
        happened = happened(hour),
    )?;
    let failure = link.last_dial.as_ref().and_then(|dial| dial.failure.as_ref());
    let nothing = failure.is_none() && link.warnings.is_empty();
    let hidden = if nothing { " hidden" } else { "" };
    write!(rows, "<tr role=\"row\" class=\"more\"{hidden}><td role=\"cell\" colspan=\"8\">")?;
    if let Some(failure) = failure {
        write!(
            rows,
            "<p class=\"failure\"><b>Failed</b> ({}): {}<br><b>Remedy</b>: {}</p>",
            escaped(&failure.stage),
            escaped(&failure.error),
            escaped(&failure.remedy),
        )?;
    }
    for warning in &link.warnings {
        write!(rows, "<p>{}</p>", escaped(warning))?;
    }
    rows.push_str("</td></tr></tbody>\n");
    Ok(())
}

/// What the script draws in.
const CHART: &str = "<small class=\"most\"></small><svg class=\"chart empty\" viewBox=\"0 0 120 32\" preserveAspectRatio=\"none\" role=\"img\" \
     aria-label=\"Latency of ten minutes: drawn by a script\"><path class=\"area\"/><path class=\"line\"/><path class=\"at\"/></svg>";
const RATE: &str = "<svg class=\"rate\" viewBox=\"0 0 120 16\" preserveAspectRatio=\"none\" aria-hidden=\"true\">\
     <path class=\"line\"/></svg>";

/// A server that a link leads to.
struct Item<'a> {
    name: &'a str,
    class: &'static str,
    told: Vec<String>,
}

impl<'a> Item<'a> {
    fn of_backend(backend: &'a BackendState) -> Self {
        let (class, told) = match &backend.role {
            _ if backend.is_down() => (DOWN, Some("down".to_owned())),
            _ if backend.has_other_role() => ("other", Some("has another role".to_owned())),
            role => ("", role.clone()),
        };
        let connections = (backend.connections > 0).then(|| count(backend.connections, "connection"));
        Self { name: &backend.backend, class, told: [told, connections].into_iter().flatten().collect() }
    }

    fn of_node(node: &'a NodeState) -> Self {
        let class = match node {
            node if node.is_down() => DOWN,
            node if node.has_left() => "other",
            _ => "",
        };
        let listen = node.listen.as_ref();
        let listen =
            listen.map_or_else(|| "no listener".to_owned(), |at| format!("on {}", at.replace(',', ", ")));
        Self { name: &node.address, class, told: [listen].into_iter().chain(of_node(node)).collect() }
    }
}

const DOWN: &str = "down";

/// The nodes of a cluster, or else the backends.
fn backends(rows: &mut String, link: &LinkState) -> std::fmt::Result {
    let nodes = link.cluster.as_ref().map(|cluster| &cluster.nodes).filter(|nodes| !nodes.is_empty());
    let (what, items): (_, Vec<_>) = match nodes {
        Some(nodes) => ("node", nodes.iter().map(Item::of_node).collect()),
        None => ("backend", link.backends.iter().map(Item::of_backend).collect()),
    };
    let down = items.iter().filter(|item| item.class == DOWN).count();
    let are_many = items.len() > OPEN;
    if are_many {
        let down = if down > 0 { format!(", {down} down") } else { String::new() };
        write!(rows, "<details><summary>{}{down}</summary>", count(items.len(), what))?;
    }
    rows.push_str("<ul>");
    for Item { name, class, told } in items {
        let class = if class.is_empty() { String::new() } else { format!(" class=\"{class}\"") };
        let told = told.iter().fold(String::new(), |told, part| told + " · " + &escaped(part));
        write!(rows, "<li{class}><code>{}</code><span class=\"soft\">{told}</span></li>", escaped(name))?;
    }
    rows.push_str(if are_many { "</ul></details>" } else { "</ul>" });
    Ok(())
}

fn latency(sample: &Sample) -> String {
    match (sample.p50, sample.p99) {
        (Some(p50), Some(p99)) => format!("p50 {} · p99 {}", time(p50), time(p99)),
        _ => "no command".to_owned(),
    }
}

fn happened(hour: Events) -> String {
    let events = [(hour.exchanged, "exchanged"), (hour.rotated, "rotated"), (hour.moved, "moved")];
    let told: Vec<_> = events
        .into_iter()
        .filter(|(number, _)| *number > 0)
        .map(|(number, what)| format!("{number} {what}"))
        .collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

/// A list of addresses, which may be broken behind a comma.
fn breakable(text: &str) -> String {
    escaped(text).replace(',', ",<wbr>")
}

/// Text as HTML, within an attribute too.
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
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::admin::STATES;

    #[test]
    fn the_policy_allows_this_style_and_this_script_alone() {
        for element in ["style", "script"] {
            let (_, rest) = TEMPLATE.split_once(&format!("<{element}>")).expect(element);
            let (text, rest) = rest.split_once(&format!("</{element}>")).expect(element);
            assert!(!rest.contains(&format!("<{element}")), "a second {element}");
            let word = format!("{element}-src 'sha256-{}'", base64(&Sha256::digest(text)));
            assert!(POLICY.contains(&word), "write it into POLICY: {word}");
        }
        assert!(!POLICY.contains("unsafe"), "{POLICY}");
    }

    #[test]
    fn the_script_has_the_states_and_their_words() {
        let states = STATES.map(|(state, word)| format!("{state}: \"{word}\""));
        let words = format!("const words = {{ {} }};", states.join(", "));
        assert!(TEMPLATE.contains(&words), "write it into the script: {words}");
    }

    fn base64(bytes: &[u8]) -> String {
        const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
        let mut text = String::new();
        for three in bytes.chunks(3) {
            let number = (0..3).fold(0, |number, at| number << 8 | usize::from(*three.get(at).unwrap_or(&0)));
            for digit in 0..4 {
                let is_there = digit <= three.len();
                let digit = DIGITS[number >> (18 - 6 * digit) & 63];
                text.push(if is_there { char::from(digit) } else { '=' });
            }
        }
        text
    }

    #[test]
    fn the_document_is_small_and_loads_nothing() {
        assert!(TEMPLATE.len() < 40 * 1024);
        for foreign in ["http://", "https://", "src=", "@import", "url(", " on", " style="] {
            let markup = TEMPLATE.split("<script>").next().unwrap_or_default();
            let found =
                if foreign == " on" { markup.contains(" onload") } else { TEMPLATE.contains(foreign) };
            assert!(!found, "{foreign}");
        }
    }

    #[test]
    fn what_is_put_in_is_not_looked_at_again() {
        let value = |name: &str| if name == "a" { "{{b}}" } else { "<" };
        assert_eq!(filled("x{{a}}y{{b}}z", value), "x{{b}}y<z");
    }

    #[test]
    fn text_is_no_markup() {
        assert_eq!(escaped("<b>\"&'"), "&lt;b&gt;&quot;&amp;&#39;");
    }
}
