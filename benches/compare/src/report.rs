//! The report: Markdown with its charts, the figures of every round as JSON, what the README shows, and the goals for
//! those who work on it.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::Bench;
use crate::charts::{self, Bars, Lines};
use crate::goals::{self, Bound, Goal};
use crate::machine::Machine;
use crate::peers::{DIRECT, HAPROXY, OURS, UNSHARED};
use crate::samples::{Better, Metric, Results, Summary, count, number};
use crate::workloads::requests::{Case, LARGE, SMALL};
use crate::workloads::{self, Workload, growth, sharing, warm};

#[derive(Serialize)]
struct Raw<'a> {
    machine: &'a Machine,
    rounds: usize,
    seconds: f64,
    stolen_percent: f64,
    #[serde(flatten)]
    results: &'a Results,
}

/// Writes all of it. The published report is replaced only by a run of every workload, with enough rounds and
/// nothing missing; any other run leaves its report beside the raw figures.
pub fn write(bench: &Bench, machine: &Machine, stolen: f64, results: &Results, raw: &Path) -> Result<()> {
    let settings = &bench.settings;
    let figures = Raw {
        machine,
        rounds: settings.rounds,
        seconds: settings.duration.as_secs_f64(),
        stolen_percent: stolen,
        results,
    };
    fs::write(raw.join("results.json"), serde_json::to_vec_pretty(&figures)?)?;

    let publishes = settings.publishes() && results.failures().is_empty();
    let folder = if publishes { Path::new("docs") } else { raw };
    fs::create_dir_all(folder)?;
    let report = Report { bench, machine, stolen, results, folder };
    let page = folder.join("benchmarks.md");
    fs::write(&page, report.page()?)?;
    let goals = report.goals_table()?;
    for (name, page, section) in
        [("bench", "README.md", report.readme()?), ("goals", "CONTRIBUTING.md", goals.clone())]
    {
        fs::write(raw.join(format!("{name}.md")), &section)?;
        if publishes {
            fs::write(page, with_section(&fs::read_to_string(page)?, name, &section)?)?;
        }
    }
    println!("{goals}");
    println!("{} and its charts are written.", page.display());
    Ok(())
}

struct Report<'a> {
    bench: &'a Bench,
    machine: &'a Machine,
    stolen: f64,
    results: &'a Results,
    folder: &'a Path,
}

/// What the chart of the workload of that name shows.
const SHARING: &str = "Requests a second and Redis' processor time a request, by the number of connections";

impl Report<'_> {
    fn page(&self) -> Result<String> {
        let mut page = String::new();
        let settings = &self.bench.settings;
        let what = format!(
            "redis-ambassador side by side with the proxies one would otherwise take, and with no proxy (direct), in \
             front of one Redis on one machine. Everything is measured in one run; the peers take turns within every \
             round, so that a machine that grows slower does so for all. Figures are the median of {} rounds, with \
             the least and the greatest in parentheses. `make bench` wrote this page.",
            settings.rounds
        );
        writeln!(page, "# Benchmarks\n\n{}", wrapped(&what))?;
        page.push_str(&self.overview()?);
        page.push_str(&self.warm_in_short());
        page.push_str(&self.setting()?);
        for workload in workloads::ALL {
            if workload.metrics.iter().any(|metric| !self.results.cases(workload.name, *metric).is_empty()) {
                page.push_str(&self.workload(workload)?);
            }
        }
        page.push_str(&self.sizes()?);
        let failures = self.results.failures();
        if !failures.is_empty() {
            writeln!(page, "## What could not be measured\n")?;
            for failure in failures {
                writeln!(page, "- {failure}")?;
            }
            writeln!(page)?;
        }
        page.push_str(METHOD);
        Ok(page)
    }

    /// The README's part: the four figures that matter.
    fn readme(&self) -> Result<String> {
        let mut text = String::new();
        let headline = goals::headline(self.bench.capacity);
        let mut peers: Vec<_> = self.bench.peers.programs.iter().map(|program| program.name).collect();
        peers.retain(|peer| {
            headline.iter().any(|(_, workload, case, metric)| {
                self.results.summary(workload, case, *metric, peer).is_some()
            })
        });
        writeln!(text, "| | {} |\n| --- |{}", peers.join(" | "), " ---: |".repeat(peers.len()))?;
        for (title, workload, case, metric) in headline {
            write!(text, "| {title} |")?;
            for peer in &peers {
                match self.results.summary(workload, &case, metric, peer) {
                    Some(summary) => write!(text, " {} {} |", number(summary.median), metric.unit())?,
                    None => write!(text, " – |")?,
                }
            }
            writeln!(text)?;
        }
        if !self.results.cases("sharing", Metric::RedisCpu).is_empty() {
            let what = "redis-ambassador with [`REDIS_SHARE=1`](docs/redis.md#sharing), where clients share connections to \
                        Redis, beside itself without (not sharing), HAProxy, and no proxy (direct):";
            write!(text, "\n{}\n![{SHARING}](docs/benchmarks-sharing.svg)\n", wrapped(what))?;
        }
        Ok(text)
    }

    /// What warm connections gain, in a sentence.
    fn warm_in_short(&self) -> String {
        let warm: Vec<_> = [warm::LOOPBACK, warm::LONG_WAY, warm::TLS]
            .into_iter()
            .filter_map(|target| {
                let ratio = |case: String| {
                    let first = |peer| (case.as_str(), Metric::Median, peer);
                    Some(self.results.ratio(warm::WORKLOAD.name, first(OURS), first(DIRECT))?.median)
                };
                let [one, other] = warm::cases(target).map(ratio);
                let (one, other) = (one?, other?);
                Some(format!("{}–{} ({target})", number(one.min(other)), number(one.max(other))))
            })
            .collect();
        if warm.is_empty() {
            return String::new();
        }
        let text = format!(
            "With `WARM` the time to a new client's first answer, by that of one that connects to Redis and authenticates by \
             itself (below 1 is faster): {}.",
            warm.join(", ")
        );
        wrapped(&text) + "\n"
    }

    fn goals_table(&self) -> Result<String> {
        let mut table = String::from(
            "| goal | bound | reached | figure | least–greatest | where | cases that keep it |\n\
             | --- | ---: | :---: | ---: | ---: | --- | ---: |\n",
        );
        for goal in goals::all(self.results, self.machine, self.bench.capacity) {
            let Goal { what, bound, unit, .. } = &goal;
            let bound = match bound {
                Bound::AtMost(value) => format!("≤ {value:.2}"),
                Bound::AtLeast(value) => format!("≥ {value:.2}"),
            };
            write!(table, "| {what} | {bound} {unit} |")?;
            match (goal.kept(), goal.worst()) {
                (Some((kept, all)), Some((case, Summary { median, min, max }))) => {
                    let reached = if kept == all { "yes" } else { "**no**" };
                    let spread = format!("{}–{}", number(min), number(max));
                    writeln!(
                        table,
                        " {reached} | {} | {spread} | {case} | {kept} of {all} |",
                        number(median)
                    )?;
                }
                _ => writeln!(table, " not measured | | | | |")?,
            }
        }
        writeln!(
            table,
            "\nA goal with several cases is judged by the worst of them. A ratio is that of the\n\
             medians; its least and greatest are those within one round."
        )?;
        Ok(table)
    }

    fn setting(&self) -> Result<String> {
        let Machine { date, processor, cores, memory_gib, kernel, system, load_before, programs, .. } =
            self.machine;
        let mut text = format!(
            "## Machine and versions\n\n\
             | | |\n| --- | --- |\n\
             | Date | {date} |\n\
             | Processor | {processor}, {cores} cores: load generator, proxy and Redis share them |\n\
             | Memory | {} GiB |\n\
             | System | {system}, {kernel} |\n\
             | Load before the run | {load_before} |\n\
             | Processor time that the hypervisor gave to others | {} % |\n\
             | Connections that a proxy can hold | {}{} |\n",
            number(*memory_gib),
            number(self.stolen),
            count(self.bench.capacity),
            if self.bench.capacity < 10_000 {
                ", as the limit on file descriptors here carries no more"
            } else {
                ""
            },
        );
        for program in programs {
            writeln!(text, "| {} | {} |", program.name, program.version)?;
        }
        writeln!(text)?;
        Ok(text)
    }

    fn workload(&self, workload: &Workload) -> Result<String> {
        let mut text = format!("## {}\n\n{}\n", workload.title, wrapped(workload.text));
        if workload.name == sharing::WORKLOAD.name {
            text.push_str(&self.left_out());
        }
        text.push_str(&self.charts_of(workload)?);
        for metric in workload.metrics {
            text.push_str(&self.table(workload, *metric)?);
        }
        Ok(text)
    }

    /// The proxies that are not here: Debian does not have all of them.
    fn left_out(&self) -> String {
        let programs = self.bench.peers.programs.iter().filter(|program| !program.is_installed());
        let names: Vec<_> = programs.map(|program| program.name).collect();
        if names.is_empty() {
            return String::new();
        }
        format!("Not measured, as not installed here: {}.\n\n", names.join(", "))
    }

    fn table(&self, workload: &Workload, metric: Metric) -> Result<String> {
        let peers = self.results.peers(workload.name, metric);
        let mut against = workload.against.to_vec();
        against.retain(|name| peers.contains(&OURS) && peers.contains(name));
        let mut table = format!("### {}, {}\n\n| |", metric.title(), caption(metric));
        for peer in &peers {
            write!(table, " {peer} |")?;
        }
        for other in &against {
            write!(table, " ours / {other} |")?;
        }
        writeln!(table, "\n| --- |{}", " ---: |".repeat(peers.len() + against.len()))?;
        for case in self.results.cases(workload.name, metric) {
            write!(table, "| {case} |")?;
            for peer in &peers {
                let figure = self.results.summary(workload.name, case, metric, peer);
                write!(table, " {} |", with_spread(figure))?;
            }
            for other in &against {
                let ratio = self.results.ratio(workload.name, (case, metric, OURS), (case, metric, other));
                write!(table, " {} |", with_spread(ratio))?;
            }
            writeln!(table)?;
        }
        writeln!(table)?;
        Ok(table)
    }

    fn sizes(&self) -> Result<String> {
        let mut text = "## Sizes\n\n| | executable file, MB |\n| --- | ---: |\n".to_owned();
        for program in &self.machine.programs {
            if let Some(size) = program.size {
                writeln!(text, "| {} | {} |", program.name, number(size as f64 / 1e6))?;
            }
        }
        let image = &self.bench.settings.image;
        match self.machine.image {
            Some(size) => writeln!(text, "\nThe image `{image}` has {} MB.\n", number(size as f64 / 1e6))?,
            None => writeln!(
                text,
                "\nThe image was not measured: there is no `{image}` here (`BENCH_IMAGE` names\nanother).\n"
            )?,
        }
        Ok(text)
    }

    fn overview(&self) -> Result<String> {
        let panels = goals::headline(self.bench.capacity);
        let panels = panels.iter().map(|(title, workload, case, metric)| {
            let title = format!("{title} ({case})");
            Bars { title, caption: caption(*metric), ..self.bars(workload, case, *metric) }
        });
        self.chart("overview", "The four figures that matter", panels.collect())
    }

    fn charts_of(&self, workload: &Workload) -> Result<String> {
        match workload.name {
            "requests" => self.charts_of_requests(),
            "growth" => self.chart_of_growth(),
            "sharing" => self.chart_of_sharing(),
            "tls" => self.charts_of_tls(),
            _ => self.chart_of_all(workload),
        }
    }

    /// Every case with the first metric; every metric where there is one case only.
    fn chart_of_all(&self, workload: &Workload) -> Result<String> {
        let first = workload.metrics[0];
        let cases = self.results.cases(workload.name, first);
        let panels = match cases[..] {
            [case] => workload.metrics.iter().map(|metric| self.bars(workload.name, case, *metric)).collect(),
            _ => cases.into_iter().map(|case| self.bars(workload.name, case, first)).collect(),
        };
        self.chart(workload.name, workload.title, panels)
    }

    /// The whole matrix is too much for a picture: these are the cells that most applications live in.
    fn charts_of_requests(&self) -> Result<String> {
        let mut text = String::new();
        for (name, metric) in [
            ("throughput", Metric::RequestRate),
            ("p99", Metric::P99),
            ("processor-time", Metric::RequestCpu),
        ] {
            let mut panels = Vec::new();
            for value in [SMALL, LARGE[0], LARGE[1]] {
                for case in Case::simple(value) {
                    panels.push(self.bars("requests", &case.to_string(), metric));
                }
            }
            text.push_str(&self.chart(&format!("requests-{name}"), metric.title(), panels)?);
        }
        Ok(text)
    }

    /// What it costs, in processor time and in memory; the rest is in the tables.
    fn charts_of_tls(&self) -> Result<String> {
        let mut text = String::new();
        for (name, metrics) in [
            ("requests", [Metric::RequestCpu].as_slice()),
            ("connections", &[Metric::ConnectionCpu, Metric::ConnectionMemory]),
        ] {
            let mut panels = Vec::new();
            for metric in metrics {
                let cases = self.results.cases("tls", *metric);
                panels.extend(cases.into_iter().map(|case| self.bars("tls", case, *metric)));
            }
            text.push_str(&self.chart(&format!("tls-{name}"), &format!("TLS: {name}"), panels)?);
        }
        Ok(text)
    }

    fn bars(&self, workload: &str, case: &str, metric: Metric) -> Bars {
        let figure = |name: &'static str| Some((name, self.results.summary(workload, case, metric, name)?));
        let peers = self.results.peers(workload, metric).into_iter().filter_map(figure).collect();
        if self.results.cases(workload, metric).len() > 1 {
            Bars {
                title: case.to_owned(),
                caption: format!("{}: {}", metric.title(), caption(metric)),
                peers,
            }
        } else {
            Bars { title: metric.title().to_owned(), caption: caption(metric), peers }
        }
    }

    /// Draws the panels that have anything to show, and returns what shows them in the page.
    fn chart(&self, name: &str, title: &str, mut panels: Vec<Bars>) -> Result<String> {
        panels.retain(|panel| !panel.peers.is_empty());
        if panels.is_empty() {
            return Ok(String::new());
        }
        let file = format!("benchmarks-{name}.svg");
        charts::bars(&self.folder.join(&file), &panels)?;
        Ok(format!("![{title}]({file})\n\n"))
    }

    fn chart_of_growth(&self) -> Result<String> {
        let peers = self.results.peers("growth", Metric::RequestCpu);
        let points = growth::sizes(self.bench.capacity).map(|number| (number, growth::case(number)));
        let lines = |metric| self.lines("growth", metric, &peers, "other connections open", &points);
        // Memory spans three orders of magnitude.
        let memory = Lines { logarithmic: true, ..lines(Metric::ProcessMemory) };
        self.chart_of_lines("growth", "Growth", vec![lines(Metric::RequestCpu), memory])
    }

    /// What it is about; the rest is in the tables.
    fn chart_of_sharing(&self) -> Result<String> {
        let peers = [OURS, UNSHARED, HAPROXY, DIRECT];
        let points = sharing::CLIENTS.map(|number| (number, sharing::get(number).to_string()));
        let lines = |metric| self.lines("sharing", metric, &peers, "connections, GET", &points);
        self.chart_of_lines("sharing", SHARING, vec![lines(Metric::RequestRate), lines(Metric::RedisCpu)])
    }

    fn lines(
        &self,
        workload: &str,
        metric: Metric,
        peers: &[&'static str],
        over: &'static str,
        points: &[(usize, String)],
    ) -> Lines {
        let line = |name: &'static str| {
            let figure = |(number, case): &(usize, String)| {
                Some((*number as f64, self.results.summary(workload, case, metric, name)?))
            };
            (name, points.iter().filter_map(figure).collect::<Vec<_>>())
        };
        let lines = peers.iter().map(|name| line(name)).filter(|(_, points)| !points.is_empty());
        Lines {
            title: metric.title().to_owned(),
            caption: caption(metric),
            over,
            logarithmic: false,
            peers: lines.collect(),
        }
    }

    /// As `chart`, with lines.
    fn chart_of_lines(&self, name: &str, title: &str, mut panels: Vec<Lines>) -> Result<String> {
        panels.retain(|panel| !panel.peers.is_empty());
        if panels.is_empty() {
            return Ok(String::new());
        }
        let file = format!("benchmarks-{name}.svg");
        charts::lines(&self.folder.join(&file), &panels)?;
        Ok(format!("![{title}]({file})\n\n"))
    }
}

/// The page with that between the two marks that are there for it.
fn with_section(page: &str, name: &str, section: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {name} -->\n"), format!("<!-- /{name} -->"));
    let (before, rest) = page.split_once(&begin).with_context(|| format!("there is no {begin}"))?;
    let (_, after) = rest.split_once(&end).with_context(|| format!("there is no {end}"))?;
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", section.trim_end()))
}

/// Prose in lines of 80 columns, as in every page.
fn wrapped(text: &str) -> String {
    const COLUMNS: usize = 80;
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= COLUMNS {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines.join("\n") + "\n"
}

/// The unit, and which way is better.
fn caption(metric: Metric) -> String {
    match metric.better() {
        Better::Less => format!("{}, less is better", metric.unit()),
        Better::More => format!("{}, more is better", metric.unit()),
    }
}

fn with_spread(summary: Option<Summary>) -> String {
    summary.map_or("–".to_owned(), |Summary { median, min, max }| {
        format!("{} ({}–{})", number(median), number(min), number(max))
    })
}

const METHOD: &str = "\
## How it is measured

- Processor time is what the kernel has charged to the proxy's processes and to
  their children, user and system together, from before to after the load, once
  the proxy has come to rest. On loopback the sender of a packet pays for its
  reception too, so that it holds nearly all of what the proxy causes. Where few
  cores are shared by the load, the proxy and Redis, it is the most telling
  figure: throughput and latency depend on all three.
- Every cell is preceded by a fifth of its time that is not counted.
- The order of the peers is another one in every round, and every other round
  goes backwards, so that none always follows the same other.
- What is measured and what measures share the cores. Throughput therefore says
  how much of the machine a proxy leaves to Redis and its clients; without a
  proxy (direct) it is what Redis and the load generator reach by themselves.
- HAProxy, nginx, socat, stunnel and twemproxy are Debian's packages.
  Debian has none of [predixy](https://github.com/joyieldInc/predixy), which
  takes part where it was built and installed by hand. How each is configured,
  with the reasons, is in [peers.rs](../benches/compare/src/peers.rs).
- Behind the others, and without a proxy, the client authenticates itself;
  redis-ambassador and predixy do it for the client.
- Redis' own processor time is that of its process, over the same load.
- Redis has one thread, a password and no persistence.
- The certificates are made for the run and removed after it.

## How to repeat it

On Debian, or anything with its packages:

```sh
make bench
```

It installs what is missing of haproxy, nginx, libnginx-mod-stream, socat,
stunnel4, nutcracker, redis-server and redis-tools, builds redis-ambassador as
it is released, and measures, for about twenty-five minutes on two cores.

| variable | default | meaning |
| --- | --- | --- |
| `BENCH_ROUNDS` | 5 | how often everything is measured |
| `BENCH_SECONDS` | 0.5 | for how long, each cell of a round |
| `BENCH_ONLY` | all | some of `requests,redis-benchmark,short,idle,bulk,growth,tls,warm,sessions,sharing,startup` |
| `BENCH_IMAGE` | `redis-ambassador:bench` | the image to be weighed |

Every run leaves the figures of all its rounds (`results.json`) and the logs of
the peers in `target/bench`. One with fewer than five rounds, without some of
the workloads, or that could not measure everything leaves its report there too,
and this page alone.

What is inside (RESP, the watch for RESET, link parsing, the relay over socket
pairs) is timed by itself:

```sh
cargo run --release --manifest-path benches/micro/Cargo.toml --target-dir target/micro
```

Ten thousand connections through one process take a limit of 20,400 file
descriptors (`ulimit -Hn`). The best figures come from a machine that does
nothing else meanwhile.
";

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever was there is replaced, and nothing else touched.
    #[test]
    fn the_figures_take_their_place_in_a_page() {
        let empty = "# Title\n<!-- bench -->\n<!-- /bench -->\nMore\n";
        let filled = with_section(empty, "bench", "figures\n").expect("a place");
        assert_eq!(filled, "# Title\n<!-- bench -->\n\nfigures\n\n<!-- /bench -->\nMore\n");
        assert_eq!(with_section(&filled, "bench", "figures\n").expect("a place"), filled);
    }
}
