//! The order of life and death: bind everything, serve, drain.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::accept::{Admission, accept};
use crate::admin::{self, Admin};
use crate::backends::{self, Backends};
use crate::config::{Config, Link, Listen, Process};
use crate::connection::Service;
use crate::dial::{Dialler, Health};
use crate::failure::words;
use crate::leave::{Connections, Leave, Reason};
use crate::metrics::Metrics;
use crate::net::Listener;
use crate::report::Reports;
use crate::resolve::Resolver;
use crate::secret::Source;
use crate::warm::{self, Pool};
use crate::workers::Workers;

/// Descriptors for all that is not a connection: standard streams, the runtime's own, lookups, files that are read.
const OTHER_DESCRIPTORS: u64 = 32;

/// Clients that are told at the same time that they are not served; each needs one descriptor for a moment.
const REFUSALS: u64 = 64;

/// What is left of the drain timeout for connections that end at its last moment to write their line.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// A program whose listeners are bound.
pub struct App {
    bound: Vec<(Listener, Arc<Service>)>,
    admin: Option<Listener>,
    metrics: Metrics,
    process: Process,
    descriptors: Descriptors,
    signals: Signals,
    workers: Arc<Workers>,
}

/// Listeners that can't be bound, all of them.
#[derive(Debug, thiserror::Error)]
pub struct BindErrors(Vec<(String, io::Error, String)>);

impl fmt::Display for BindErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't start:")?;
        for (what, error, remedy) in &self.0 {
            write!(f, "\n\n{what}: {}\n  remedy: {remedy}", words(error))?;
        }
        Ok(())
    }
}

impl App {
    /// Binds every listener, or says of each one that can't be bound why. Must be called within a runtime.
    pub fn bind(config: Config) -> Result<Self, BindErrors> {
        let descriptors = Descriptors::raise();
        let own = |what: &str, error| {
            let remedy = "raise the limits on open files (ulimit -n) and processes (ulimit -u)".to_owned();
            BindErrors(vec![(what.to_owned(), error, remedy)])
        };
        // Before anything can be seen from outside: who sees it may send one.
        let signals = Signals::listen().map_err(|error| own("signals", error))?;
        let dialler = Arc::new(Dialler {
            resolver: Resolver::new(config.process.dns.as_deref()),
            keepalive: config.process.keepalive,
        });
        let mut metrics = Metrics::new();
        let mut bound = Vec::new();
        let mut errors = Vec::new();
        let warm = config.links.iter().map(Link::warm).fold(0, usize::saturating_add);
        if !descriptors.carry(warm) {
            let error = io::Error::other(format!(
                "{warm} connections are to be kept ready, and there are {} file descriptors",
                descriptors.0
            ));
            let remedy = "lower WARM, or raise the limit on open files (ulimit -n)".to_owned();
            errors.push(("WARM".to_owned(), error, remedy));
        }
        for link in config.links {
            match Listener::bind(&link.listen, config.process.keepalive) {
                Ok(listener) => {
                    let connections = Arc::default();
                    let metrics = Arc::new(metrics.link(&link.name));
                    let service = Arc::new(Service {
                        backends: Backends::of(&link, Arc::clone(&connections), Arc::clone(&metrics)),
                        dialler: Arc::clone(&dialler),
                        health: Health::default(),
                        warm: Pool::of(&link),
                        reports: Reports::of(&link),
                        connections,
                        metrics,
                        link,
                    });
                    bound.push((listener, service));
                }
                Err(error) => {
                    let remedy = bind_remedy(&link, &error);
                    errors.push((format!("{} ({})", link.listen, link.variable), error, remedy));
                }
            }
        }
        let admin = config.process.admin.and_then(|address| {
            let listener = Listener::bind(&Listen::Address(address), config.process.keepalive);
            let error = |error| {
                let remedy = admin_remedy(address, &error);
                errors.push((format!("{address} (AMBASSADOR_ADMIN)"), error, remedy));
            };
            listener.map_err(error).ok()
        });
        metrics.watch(bound.iter().map(|(_, service)| Arc::clone(service)).collect());
        let workers = Workers::start(config.process.threads).map_err(|error| own("threads", error))?;
        if errors.is_empty() {
            Ok(Self {
                bound,
                admin,
                metrics,
                process: config.process,
                descriptors,
                signals,
                workers: Arc::new(workers),
            })
        } else {
            Err(BindErrors(errors))
        }
    }

    /// Serves until a signal says otherwise, then drains.
    pub async fn run(mut self) {
        let warm = self.bound.iter().map(|(_, service)| service.link.warm()).sum();
        let listeners = self.bound.len() + usize::from(self.admin.is_some());
        let process_limit = Arc::new(Semaphore::new(self.descriptors.connections(listeners, warm)));
        let refusals = Arc::new(Semaphore::new(self.descriptors.refusals()));
        let (stop, stopped) = watch::channel(false);
        let links = self.bound.iter().map(|(listener, service)| (listener.address(), Arc::clone(service)));
        let admin = Arc::new(Admin::new(links.collect(), self.metrics));
        let mut services = Vec::new();
        let mut accepting = Vec::new();
        for (listener, service) in self.bound {
            announce(&listener, &service.link);
            if let Some(credentials) =
                service.link.redis.as_ref().and_then(|redis| redis.credentials.as_ref())
            {
                credentials.start();
            }
            let admission = Admission {
                link: service
                    .link
                    .max_connections
                    .map(|number| Arc::new(Semaphore::new(number.min(Semaphore::MAX_PERMITS)))),
                process: Arc::clone(&process_limit),
                refusals: Arc::clone(&refusals),
            };
            services.push(Arc::clone(&service));
            let followed = Arc::clone(&service);
            tokio::spawn(async move { backends::follow(&followed).await });
            let (ready, stopped_too) = (Arc::clone(&service), stopped.clone());
            tokio::spawn(async move { warm::keep(&ready, stopped_too).await });
            accepting.push(tokio::spawn(accept(
                listener,
                service,
                admission,
                Arc::clone(&self.workers),
                stopped.clone(),
            )));
        }
        if let Some(listener) = self.admin {
            tracing::info!(listen = listener.address(), "admin endpoint");
            tokio::spawn(admin::serve(listener, Arc::clone(&admin), self.descriptors.admin()));
        }
        tracing::info!(links = services.len(), "ready");

        let signal = self.signals.next().await;
        let connections = || services.iter().map(|service| service.connections.count()).sum::<usize>();
        admin.drain();
        tracing::info!(signal, connections = connections(), "draining");
        tokio::select! {
            () = drain(&self.process, &stop, accepting, &services) => {}
            signal = self.signals.next() => tracing::info!(signal, "a second signal ends the drain"),
        }
        for service in &services {
            service.reports.tell_all();
        }
        tracing::info!(connections_cut = connections(), "stopped");
    }
}

/// Goes on accepting for the drain delay, closes the listeners, asks every connection to go, and waits for them.
async fn drain(
    process: &Process,
    stop: &watch::Sender<bool>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    services: &[Arc<Service>],
) {
    sleep(process.drain_delay).await;
    // Who accepts holds a receiver; if nobody does any more, there is nothing to stop.
    let _ = stop.send(true);
    join_all(accepting).await;
    let now = Instant::now();
    let leave = Leave { reason: Reason::Drain, from: now, latest: now + process.drain_timeout };
    let rooms: Vec<&Arc<Connections>> = services.iter().map(|service| &service.connections).collect();
    for room in &rooms {
        room.ask_all(leave);
    }
    // Whoever is left then is cut by the end of the process.
    let _ = timeout_at(leave.latest + LAST_MOMENT, join_all(rooms.iter().map(|room| room.emptied()))).await;
}

/// The one line at start for every link: what listens, where it goes, as whom, and where the secret comes from.
fn announce(listener: &Listener, link: &Link) {
    let redis = link.redis.as_ref();
    let credentials = redis.and_then(|redis| redis.credentials.as_ref());
    let username = credentials.and_then(|credentials| credentials.username.as_ref()?.last());
    let secret = credentials.and_then(|credentials| match &credentials.password {
        Source::File(file) => Some(file.path().display().to_string()),
        Source::Variable(_) | Source::Command(_) => Some(credentials.variable.clone()),
        // The target has it, which is shown without.
        Source::Url(_) => None,
    });
    tracing::info!(
        link = link.name,
        listen = listener.address(),
        target = %link.target,
        kind = if redis.is_some() { "redis" } else { "tcp" },
        username = username.map(|username| String::from_utf8_lossy(username.expose()).into_owned()),
        auth = credentials.map_or("none", |credentials| credentials.password.kind()),
        secret,
        tls = link.tls.is_some(),
        listen_tls = link.listen_tls.is_some(),
        "listening"
    );
}

fn bind_remedy(link: &Link, error: &io::Error) -> String {
    let user = rustix::process::geteuid().as_raw();
    match (error.kind(), &link.listen) {
        (io::ErrorKind::AddrInUse, _) => {
            format!("stop what listens there, or listen elsewhere, as in {}", link.another_port())
        }
        (_, Listen::Unix(_)) => {
            format!("let there be a directory of that name in which user {user} may make files")
        }
        (io::ErrorKind::PermissionDenied, _) => format!(
            "let user {user} listen there (for ports below 1024: --sysctl net.ipv4.ip_unprivileged_port_start=0), \
             or listen elsewhere, as in {}",
            link.another_port()
        ),
        _ => format!(
            "name an address of this host, as in {}_PORT_{1}_LISTEN=127.0.0.1:{1}",
            link.alias, link.port
        ),
    }
}

fn admin_remedy(address: SocketAddr, error: &io::Error) -> String {
    let off = "do without: AMBASSADOR_ADMIN=off";
    match error.kind() {
        io::ErrorKind::AddrInUse => {
            // Its own neighbour, where it has one.
            let other = SocketAddr::new(address.ip(), address.port().checked_add(1).unwrap_or(9180));
            format!(
                "another ambassador in the same network, or a link of this one, has it: choose another, as in \
                 AMBASSADOR_ADMIN={other}, or {off}"
            )
        }
        _ => format!("name an address of this host, as in AMBASSADOR_ADMIN=127.0.0.1:9180, or {off}"),
    }
}

/// How many file descriptors there are to be had.
#[derive(Debug, Clone, Copy)]
struct Descriptors(u64);

impl Descriptors {
    /// Raises the soft limit to the hard one. Where that is not allowed the soft limit is what there is.
    fn raise() -> Self {
        let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
        let raised = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum });
        let limit = if raised.is_ok() { maximum } else { current };
        Self(limit.unwrap_or(u64::MAX))
    }

    /// Whether they carry so many connections that are kept ready, and as many that are used.
    fn carry(self, warm: usize) -> bool {
        warm as u64 <= self.0 / 4
    }

    fn refusals(self) -> usize {
        usize::try_from(REFUSALS.min(self.0 / 8)).unwrap_or(1)
    }

    /// What the admin endpoint may take; where there are few, it has few clients too.
    fn admin(self) -> usize {
        let most = usize::try_from(self.0 / 16).unwrap_or(usize::MAX);
        most.clamp(1, admin::CONNECTIONS)
    }

    /// Connections that they carry beside those that are kept ready: two descriptors each, a client's and a target's.
    fn connections(self, listeners: usize, warm: usize) -> usize {
        let others = OTHER_DESCRIPTORS + (listeners + self.refusals() + self.admin() + warm) as u64;
        let connections = self.0.saturating_sub(others) / 2;
        usize::try_from(connections).unwrap_or(usize::MAX).clamp(1, Semaphore::MAX_PERMITS)
    }
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> io::Result<Self> {
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
