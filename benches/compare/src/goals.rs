//! What is to be reached, judged by the figures of this run.

use crate::machine::Machine;
use crate::peers::{DIRECT, HAPROXY, NGINX, OURS, STUNNEL, UNFRAMED};
use crate::samples::{Metric, Results, Summary};
use crate::workloads::requests::{Case, LARGE, MANY, SMALL};
use crate::workloads::tls::{self, Side};
use crate::workloads::{bulk, connections, growth, idle, sharing, short, startup, warm};

#[derive(Clone, Copy)]
pub enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Bound {
    fn holds(self, value: f64) -> bool {
        match self {
            Self::AtMost(bound) => value <= bound,
            Self::AtLeast(bound) => value >= bound,
        }
    }
}

/// A goal is reached when every figure that it is about keeps the bound.
pub struct Goal {
    pub what: &'static str,
    pub bound: Bound,
    pub unit: String,
    /// Each with the case it stands for; none where it could not be measured.
    figures: Vec<(String, Option<Summary>)>,
}

impl Goal {
    /// How many figures keep the bound, and of how many; none unless all were measured.
    pub fn kept(&self) -> Option<(usize, usize)> {
        let mut kept = 0;
        for (_, figure) in &self.figures {
            kept += usize::from(self.bound.holds(figure.as_ref()?.median));
        }
        Some((kept, self.figures.len()))
    }

    /// The figure furthest on the wrong side, with its case.
    pub fn worst(&self) -> Option<(&str, Summary)> {
        let known = self.figures.iter().filter_map(|(case, figure)| Some((case.as_str(), (*figure)?)));
        match self.bound {
            Bound::AtMost(_) => known.max_by(|(_, one), (_, other)| one.median.total_cmp(&other.median)),
            Bound::AtLeast(_) => known.min_by(|(_, one), (_, other)| one.median.total_cmp(&other.median)),
        }
    }
}

/// Every goal, judged.
pub fn all(results: &Results, machine: &Machine, capacity: usize) -> Vec<Goal> {
    of_requests(results)
        .into_iter()
        .chain(of_connections(results, capacity))
        .chain(of_streams(results))
        .chain([HAPROXY, STUNNEL].into_iter().flat_map(|other| of_tls(results, other)))
        .chain(of_warm(results))
        .chain(of_sessions(results))
        .chain(of_sharing(results))
        .chain(of_the_program(results, machine))
        .collect()
}

fn of_requests(results: &Results) -> [Goal; 4] {
    let cases = |wanted: fn(&Case) -> bool| {
        let wanted = Case::all().into_iter().filter(wanted);
        wanted.map(|case| case.to_string()).collect::<Vec<_>>()
    };
    let small_many = cases(|case| case.is_simple() && case.value == SMALL && case.connections == MANY);
    let small_many_single = Case::simple(SMALL).map(|case| case.to_string());
    let large = cases(|case| LARGE.contains(&case.value));
    let all = cases(|_| true);
    let goal = |what, bound, metric, cases: &[String]| {
        ratio_goal(what, bound, HAPROXY, results, "requests", metric, cases)
    };
    [
        goal(
            "Processor time a small request, 50 connections",
            Bound::AtMost(0.80),
            Metric::RequestCpu,
            &small_many,
        ),
        goal(
            "Throughput of small requests, 50 connections, no pipeline",
            Bound::AtLeast(1.15),
            Metric::RequestRate,
            &small_many_single,
        ),
        goal("Throughput at 64 KiB and 1 MiB values", Bound::AtLeast(1.35), Metric::RequestRate, &large),
        goal("p99 in every request workload", Bound::AtMost(1.0), Metric::P99, &all),
    ]
}

fn of_connections(results: &Results, capacity: usize) -> [Goal; 4] {
    let idle = idle::sizes(capacity).map(connections);
    let memory = Metric::ConnectionMemory;
    let what = "Memory an idle connection";
    let short = [short::CASE.to_owned()];
    let [few, .., most] = growth::sizes(capacity).map(growth::case);
    let cpu = Metric::RequestCpu;
    let grown = results.ratio("growth", (&most, cpu, OURS), (&few, cpu, OURS));
    [
        absolute_goal(what, Bound::AtMost(1.75), "KiB", results, "idle", memory, &idle),
        ratio_goal(what, Bound::AtMost(0.5), HAPROXY, results, "idle", memory, &idle),
        ratio_goal(
            "Processor time a short-lived connection, our AUTH included",
            Bound::AtMost(1.0),
            HAPROXY,
            results,
            "short",
            Metric::ConnectionCpu,
            &short,
        ),
        Goal {
            what: "Processor time a request as open connections grow",
            bound: Bound::AtMost(1.1),
            unit: format!("× {few}"),
            figures: vec![(most, grown)],
        },
    ]
}

fn of_streams(results: &Results) -> [Goal; 2] {
    [(HAPROXY, 1.4), (NGINX, 1.3)].map(|(other, bound)| {
        let (bound, cases) = (Bound::AtLeast(bound), bulk::CASES.map(|(_, _, case)| case.to_owned()));
        ratio_goal("Bulk throughput", bound, other, results, "bulk", Metric::StreamRate, &cases)
    })
}

fn of_tls(results: &Results, other: &str) -> [Goal; 5] {
    let (requests, handshakes, idle) = (tls::request_cases(), tls::handshake_cases(), tls::idle_cases());
    let goal =
        |what, bound, metric, cases: &[String]| ratio_goal(what, bound, other, results, "tls", metric, cases);
    let (less, more) = (Bound::AtMost(0.8), Bound::AtLeast(1.2));
    [
        goal("TLS: processor time a request", less, Metric::RequestCpu, &requests),
        goal("TLS: throughput of requests", more, Metric::RequestRate, &requests),
        goal("TLS: processor time a short-lived connection", less, Metric::ConnectionCpu, &handshakes),
        goal("TLS: handshakes a second", more, Metric::ConnectionRate, &handshakes),
        goal("TLS: memory an idle connection", Bound::AtMost(0.5), Metric::ConnectionMemory, &idle),
    ]
}

fn of_warm(results: &Results) -> [Goal; 3] {
    [
        ("Warm: time to a client's first PONG, loopback", warm::LOOPBACK, 0.85),
        ("Warm: time to a client's first PONG, 1 ms each way", warm::LONG_WAY, 0.55),
        ("Warm: time to a client's first PONG, TLS to the target", warm::TLS, 0.3),
    ]
    .map(|(what, target, bound)| {
        let (bound, cases) = (Bound::AtMost(bound), warm::cases(target));
        ratio_goal(what, bound, DIRECT, results, "warm", Metric::Median, &cases)
    })
}

fn of_sessions(results: &Results) -> [Goal; 4] {
    let [small, large] = [SMALL, LARGE[0]].map(Case::simple);
    let [lrange_100, lrange_600, hgetall] = Case::nested();
    [
        ("Sessions: processor time a small request", 1.03, small.to_vec()),
        ("Sessions: processor time a request at 64 KiB", 1.00, large.to_vec()),
        ("Sessions: processor time a reply of 100 parts", 1.05, vec![lrange_100, hgetall]),
        ("Sessions: processor time a reply of 600 parts", 1.05, vec![lrange_600]),
    ]
    .map(|(what, bound, cases)| {
        let cases: Vec<_> = cases.iter().map(Case::to_string).collect();
        let bound = Bound::AtMost(bound);
        ratio_goal(what, bound, UNFRAMED, results, "sessions", Metric::RequestCpu, &cases)
    })
}

fn of_sharing(results: &Results) -> Vec<Goal> {
    use Bound::{AtLeast, AtMost};
    use Metric::{Median, P99, RedisCpu, RequestCpu, RequestRate};
    let named = |cases: [Case; 2]| cases.map(|case| case.to_string()).to_vec();
    let (many, crowd, pipelines) =
        (named(sharing::many()), named(sharing::crowd()), named(sharing::pipelines()));
    let (large, lists) = (named(sharing::large()), named(sharing::lists()));
    let one = vec![sharing::get(1).to_string()];
    let [far, tls] = [warm::LONG_WAY, warm::TLS].map(|target| vec![sharing::first_answer(target)]);
    [
        ("Sharing: throughput, 50 connections", AtLeast(1.0), DIRECT, RequestRate, &many),
        ("Sharing: throughput, 50 connections", AtLeast(1.6), HAPROXY, RequestRate, &many),
        ("Sharing: processor time a request, 50 connections", AtMost(0.55), HAPROXY, RequestCpu, &many),
        ("Sharing: Redis' processor time a request, 50 connections", AtMost(0.35), DIRECT, RedisCpu, &many),
        ("Sharing: p99, 50 connections", AtMost(1.2), DIRECT, P99, &many),
        ("Sharing: throughput, 200 connections", AtLeast(1.1), DIRECT, RequestRate, &crowd),
        ("Sharing: Redis' processor time a request, 200 connections", AtMost(0.25), DIRECT, RedisCpu, &crowd),
        ("Sharing: p50, one connection", AtMost(1.0), HAPROXY, Median, &one),
        ("Sharing: throughput, pipeline of 16", AtLeast(0.8), DIRECT, RequestRate, &pipelines),
        ("Sharing: throughput, pipeline of 16", AtLeast(1.3), HAPROXY, RequestRate, &pipelines),
        ("Sharing: throughput of 64 KiB values", AtLeast(1.3), HAPROXY, RequestRate, &large),
        ("Sharing: throughput of LRANGE", AtLeast(0.95), DIRECT, RequestRate, &lists),
        ("Sharing: a new client's first answer, 1 ms each way", AtMost(0.40), DIRECT, Median, &far),
        ("Sharing: a new client's first answer, TLS to the target", AtMost(0.20), DIRECT, Median, &tls),
    ]
    .map(|(what, bound, other, metric, cases)| {
        ratio_goal(what, bound, other, results, "sharing", metric, cases)
    })
    .into()
}

fn of_the_program(results: &Results, machine: &Machine) -> [Goal; 4] {
    let start = [startup::CASE.to_owned()];
    let started = |what, bound, unit, metric| {
        absolute_goal(what, Bound::AtMost(bound), unit, results, "startup", metric, &start)
    };
    let size = |what: &'static str, bound, bytes: Option<u64>| {
        let size = bytes.map(|bytes| bytes as f64 / 1e6);
        let figure = size.map(|size| Summary { median: size, min: size, max: size });
        Goal {
            what,
            bound: Bound::AtMost(bound),
            unit: "MB".to_owned(),
            figures: vec![(String::new(), figure)],
        }
    };
    [
        started("Start-up to the first reply", 10.0, "ms", Metric::FirstReply),
        started("Resident memory then", 4.0, "MiB", Metric::ResidentMemory),
        size("Size of the binary", 6.0, machine.binary_of(OURS)),
        size("Size of the image", 7.0, machine.image),
    ]
}

/// A goal in units of another peer's figure.
fn ratio_goal(
    what: &'static str,
    bound: Bound,
    other: &str,
    results: &Results,
    workload: &str,
    metric: Metric,
    cases: &[String],
) -> Goal {
    let ratio = |case: &String| results.ratio(workload, (case, metric, OURS), (case, metric, other));
    let figures = cases.iter().map(|case| (case.clone(), ratio(case))).collect();
    Goal { what, bound, unit: format!("× {other}"), figures }
}

/// A goal in a unit of its own.
fn absolute_goal(
    what: &'static str,
    bound: Bound,
    unit: &str,
    results: &Results,
    workload: &str,
    metric: Metric,
    cases: &[String],
) -> Goal {
    let figure = |case: &String| results.summary(workload, case, metric, OURS);
    let figures = cases.iter().map(|case| (case.clone(), figure(case))).collect();
    Goal { what, bound, unit: unit.to_owned(), figures }
}

/// The four figures that matter, for the README: a name, what is measured, and where it is found.
pub fn headline(capacity: usize) -> [(&'static str, &'static str, String, Metric); 4] {
    let get = |value| {
        let [get, _] = Case::simple(value);
        get
    };
    let tls = tls::request_case(Side::Target, &get(SMALL));
    let [_, most] = idle::sizes(capacity);
    [
        ("Processor time a small request", "requests", get(SMALL).to_string(), Metric::RequestCpu),
        ("Throughput of 64 KiB values", "requests", get(LARGE[0]).to_string(), Metric::RequestRate),
        ("Memory an idle connection", "idle", connections(most), Metric::ConnectionMemory),
        ("Processor time a small request, TLS to the target", "tls", tls, Metric::RequestCpu),
    ]
}
