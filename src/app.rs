//! The process: bind all listeners, serve, drain.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use rustix::io::Errno;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, sleep, timeout_at};

use crate::admin::{self, Admin, LinkCollector, ProcessCollector};
use crate::client::accept::{Admission, accept, accept_at_nodes};
use crate::config::link::Credentials;
use crate::config::{Config, Link, Process};
use crate::descriptors::{self, Descriptors};
use crate::failure::log::FailureLog;
use crate::metrics::Metrics;
use crate::net::resolve::Resolver;
use crate::net::{Listen, ListenAddress, Listener, PassedSocket, PassedSockets, is_stored, name_of_socket};
use crate::programs;
use crate::relay::drain::{DrainRequest, Reason};
use crate::secret::Source;
use crate::systemd::ServiceManager;
use crate::text;
use crate::upstream::LinkRuntime;
use crate::upstream::backends::Backends;
use crate::upstream::cluster::{self, Change, Cluster};
use crate::upstream::connections::Connections;
use crate::upstream::dial::{Dialler, Health};
use crate::upstream::discovery;
use crate::upstream::loops::Unanswered;
use crate::upstream::pool::{self, Pool};
use crate::upstream::reauth;
use crate::upstream::sharing::Sharing;
use crate::workers::Workers;

/// What sockets for the admin endpoint are named.
const ADMIN: &str = "admin";

/// So many nodes of a cluster have descriptors set aside for their listeners.
const MOST_NODES: usize = 100;

/// Time after the drain timeout for connections that end at the last moment to write their log line.
const LAST_MOMENT: Duration = Duration::from_millis(100);

/// What the service manager may wait after the drain until the process has ended.
const END: Duration = Duration::from_secs(2);

/// So long before the timeout those are counted that it is going to cut.
const COUNT_BEFORE: Duration = Duration::from_millis(10);

/// A link with its listener, and where the listeners of its nodes come from if it leads to a cluster.
struct Bound {
    listener: Listener,
    service: Arc<LinkRuntime>,
    nodes: Option<UnboundedReceiver<Change>>,
}

impl Bound {
    /// How many sockets listen for it at the most, those for nodes among them.
    fn sockets(&self) -> usize {
        let cluster = self.service.link.redis.as_ref().and_then(|redis| redis.cluster.as_ref());
        let nodes = cluster.map_or(0, |cluster| cluster.ports.len().min(MOST_NODES));
        self.listener.sockets() * (1 + nodes)
    }
}

/// The process with its listeners bound.
pub struct App {
    bound: Vec<Bound>,
    admin: Option<Listener>,
    metrics: Metrics,
    process: Process,
    descriptors: Descriptors,
    signals: Signals,
    manager: ServiceManager,
    /// Names of descriptors in its store that nobody here wants.
    unwanted: Vec<String>,
    workers: Arc<Workers>,
}

/// Why the process can't start: every error, each with its remedy.
#[derive(Debug, thiserror::Error)]
pub struct StartErrors(Vec<(String, io::Error, String)>);

impl StartErrors {
    /// A system resource that every start needs is not available.
    pub fn missing(what: &str, error: io::Error) -> Self {
        let remedy = shortage_remedy(&error).unwrap_or("check the system's log").to_owned();
        Self(vec![(what.to_owned(), error, remedy)])
    }
}

impl fmt::Display for StartErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "can't start:")?;
        for (what, error, remedy) in &self.0 {
            write!(f, "\n\n{what}: {}\n  remedy: {remedy}", text::io_error(error))?;
        }
        Ok(())
    }
}

impl App {
    /// Binds every listener, or returns the errors of all that can't be bound. Must be called within a runtime.
    pub fn bind(
        config: Config,
        descriptors: Descriptors,
        mut passed: PassedSockets,
    ) -> Result<Self, StartErrors> {
        // Before the listeners: a signal may be sent as soon as the process is visible.
        let signals = Signals::listen().map_err(|error| StartErrors::missing("signals", error))?;
        tokio::spawn(ignore_hangups().map_err(|error| StartErrors::missing("signals", error))?);
        tokio::spawn(programs::adopt().map_err(|error| StartErrors::missing("signals", error))?);
        let mut metrics = Metrics::new();
        let mut listening = Vec::new();
        let mut errors = Vec::new();
        errors.extend(too_many_ready(&config, descriptors));
        let takes = config.links.iter().map(|link| name_of_socket(&link.name)).collect::<Vec<_>>().join(", ");
        let are_of_a_unit = passed.are_of_a_unit();
        let of_links = config.links.iter().map(|link| &link.listen.addresses);
        let mut addresses: Vec<_> = of_links.flatten().chain(&config.process.admin).cloned().collect();
        addresses.extend(config.links.iter().flat_map(|link| cluster::node_addresses(link)));
        let mut unwanted = passed.close_stored_but(&addresses);
        for link in config.links {
            match Listener::open(Some(&link.name), &link.listen, config.process.keepalive, &mut passed) {
                Ok(listener) => listening.push((listener, link)),
                Err(of_link) => errors.extend(of_link.into_iter().map(|(address, error)| {
                    let remedy = bind_remedy(&link, &address, &error);
                    (format!("{address} ({})", link.variable), error, remedy)
                })),
            }
        }
        let admin = config.process.admin.as_ref().and_then(|address| {
            let listen = Listen { addresses: vec![address.clone()], mode: None };
            let listener = Listener::open(Some(ADMIN), &listen, config.process.keepalive, &mut passed);
            let error = |of_admin: Vec<_>| {
                errors.extend(of_admin.into_iter().map(|(address, error)| {
                    let remedy = admin_remedy(&address, &error);
                    (format!("{address} (AMBASSADOR_ADMIN)"), error, remedy)
                }));
            };
            listener.map_err(error).ok()
        });
        if !errors.is_empty() {
            // What the service manager has is for the next start.
            return Err(StartErrors(errors));
        }
        let clusters: Vec<_> = listening
            .iter()
            .map(|(_, link)| Cluster::of(link, config.process.keepalive, &mut passed).unzip())
            .collect();
        unwanted.extend(tell_of_unwanted(passed, &format!("{takes}, {ADMIN}")));
        if are_of_a_unit {
            let links = listening.iter().map(|(listener, link)| (link.name.as_str(), listener));
            for (link, listener) in links.chain(admin.iter().map(|listener| (ADMIN, listener))) {
                tell_of_unserved(link, listener);
            }
        }
        let dialler = Arc::new(Dialler {
            resolver: Resolver::new(config.process.dns.as_deref()),
            keepalive: config.process.keepalive,
            listening: listening.iter().flat_map(|(listener, _)| listener.addresses()).collect(),
            unanswered: Unanswered::default(),
        });
        let mut bound = Vec::new();
        for ((listener, link), (cluster, nodes)) in listening.into_iter().zip(clusters) {
            let connections = Arc::default();
            let metrics = Arc::new(metrics.link(&link.name));
            let service = Arc::new(LinkRuntime {
                backends: Backends::of(&link, Arc::clone(&connections), Arc::clone(&metrics)),
                dialler: Arc::clone(&dialler),
                health: Health::default(),
                warm: Pool::of(&link),
                sharing: Sharing::of(&link),
                reports: FailureLog::of(&link),
                connections,
                metrics,
                cluster,
                is_node: false,
                link,
            });
            bound.push(Bound { listener, service, nodes });
        }
        metrics.register_of_process(Box::new(ProcessCollector::new()));
        // Two pairs: one for a client and its target, one for lookups.
        descriptors::expect(2).map_err(|error| StartErrors::missing("a first connection", error))?;
        let stored: usize =
            bound.iter().map(|bound| &bound.listener).chain(&admin).map(Listener::stored).sum();
        let of_nodes: usize = bound
            .iter()
            .filter_map(|bound| bound.service.cluster.as_ref())
            .map(|cluster| cluster.passed())
            .sum();
        Ok(Self {
            bound,
            admin,
            metrics,
            descriptors,
            signals,
            manager: ServiceManager::from_environment(stored + of_nodes),
            unwanted,
            workers: Arc::new(start_workers(config.process.threads, descriptors)),
            process: config.process,
        })
    }

    /// Serves until SIGTERM or SIGINT, then drains.
    pub async fn run(mut self) {
        let manager = Arc::new(self.manager);
        for name in &self.unwanted {
            manager.forget(name).await;
        }
        for listener in self.bound.iter_mut().map(|bound| &mut bound.listener).chain(&mut self.admin) {
            listener.store(&manager).await;
        }
        let warm = self.bound.iter().map(|bound| bound.service.link.warm()).sum();
        let of_links = self.bound.iter().map(Bound::sockets);
        let listeners = of_links.chain(self.admin.iter().map(Listener::sockets)).sum();
        let limit = self.descriptors.connections(self.workers.count(), listeners, warm);
        let process_limit = Arc::new(Semaphore::new(limit));
        let links = self.bound.iter().map(|bound| Arc::clone(&bound.service)).collect();
        self.metrics.register(Box::new(LinkCollector { links, limit }));
        let refusals = Arc::new(Semaphore::new(self.descriptors.refusals()));
        let (stop, stopped) = watch::channel(false);
        let links = self.bound.iter().map(|bound| (bound.listener.address(), Arc::clone(&bound.service)));
        let admin = Arc::new(Admin::new(links.collect(), self.metrics));
        let mut services = Vec::new();
        let mut accepting = Vec::new();
        let mut serving = Vec::new();
        for Bound { listener, service, nodes } in self.bound {
            serving.push(format!("{} on {}", service.link.name, listener.address()));
            announce(&listener, &service.link);
            if let Some(credentials) = service.link.credentials() {
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
            if let (Some(cluster), Some(nodes)) = (service.cluster.clone(), nodes) {
                let (admission, workers) = (admission.clone(), Arc::clone(&self.workers));
                accepting.push(tokio::spawn(accept_at_nodes(
                    cluster,
                    nodes,
                    admission,
                    workers,
                    Arc::clone(&manager),
                    stopped.clone(),
                )));
            }
            services.push(Arc::clone(&service));
            let followed = Arc::clone(&service);
            tokio::spawn(async move { discovery::follow(&followed).await });
            let authenticated = Arc::clone(&service);
            tokio::spawn(async move { reauth::run(&authenticated).await });
            let (ready, stopped_too) = (Arc::clone(&service), stopped.clone());
            tokio::spawn(async move { pool::keep(&ready, stopped_too).await });
            accepting.push(tokio::spawn(accept(
                listener,
                service,
                admission,
                Arc::clone(&self.workers),
                stopped.clone(),
            )));
        }
        if let Some(listener) = self.admin {
            let (listen, kept_as) = (listener.address(), listener.names());
            tracing::info!(target: "process", listen, kept_as, "admin endpoint");
            tokio::spawn(admin::keep(Arc::clone(&admin)));
            tokio::spawn(admin::serve(listener, Arc::clone(&admin), self.descriptors.admin()));
        }
        tracing::info!(target: "process", links = services.len(), "ready");
        let connections = || services.iter().map(|service| service.connections.count()).sum::<usize>();
        let serving = serving.join(", ");
        let serving = || match connections() {
            1 => format!("Serving 1 client: {serving}"),
            clients => format!("Serving {clients} clients: {serving}"),
        };
        manager.ready(&serving()).await;
        let (watched, workers) = (Arc::clone(&manager), Arc::clone(&self.workers));
        tokio::spawn(async move { watched.keep_alive(&workers).await });

        let signal = tokio::select! {
            signal = self.signals.next() => signal,
            never = manager.keep_status(serving) => match never {},
        };
        admin.drain();
        tracing::info!(target: "process", signal, connections = connections(), "draining");
        let longest = self.process.drain_delay.saturating_add(self.process.drain_timeout).saturating_add(END);
        let draining = || format!("Draining connections: {}", connections());
        manager.stopping(&draining(), longest).await;
        let cut = tokio::select! {
            cut = drain(&self.process, &stop, accepting, &services) => cut,
            signal = self.signals.next() => {
                tracing::info!(target: "process", signal, "drain ended by a second signal");
                connections()
            }
            never = manager.keep_status(draining) => match never {},
        };
        for service in &services {
            service.reports.tell_all();
        }
        tracing::info!(target: "process", connections_cut = cut, "stopped");
    }
}

/// Accepts for the drain delay, closes the listeners, drains every connection, and waits for them until the timeout. Returns how
/// many were still there then.
async fn drain(
    process: &Process,
    stop: &watch::Sender<bool>,
    accepting: Vec<tokio::task::JoinHandle<()>>,
    services: &[Arc<LinkRuntime>],
) -> usize {
    sleep(process.drain_delay).await;
    // It fails where no accept loop has a receiver any more.
    let _ = stop.send(true);
    join_all(accepting).await;
    let now = Instant::now();
    let leave = DrainRequest { reason: Reason::Drain, from: now, latest: now + process.drain_timeout };
    let rooms: Vec<&Arc<Connections>> = services.iter().map(|service| &service.connections).collect();
    for room in &rooms {
        room.drain_all(leave);
    }
    let idle = || join_all(rooms.iter().map(|room| room.wait_idle()));
    // Those that are left end by themselves at the timeout, and have to be counted before.
    if timeout_at(leave.latest - COUNT_BEFORE, idle()).await.is_ok() {
        return 0;
    }
    let cut = rooms.iter().map(|room| room.count()).sum();
    // What is left after that is closed by the end of the process.
    let _ = timeout_at(leave.latest + LAST_MOMENT, idle()).await;
    cut
}

/// Sockets that no listener has taken, which are closed, and descriptors that are none. Returns their names. `takes` says
/// what sockets may be named.
fn tell_of_unwanted(mut passed: PassedSockets, takes: &str) -> Vec<String> {
    // Of a link that has a socket unit by now.
    let stored = passed.close_stored_but(&[]);
    let (sockets, mut names) = passed.into_rest();
    // One of ours that does not listen was closed by a start that has failed later.
    for name in names.iter().filter(|name| !is_stored(name)) {
        tracing::warn!(
            target: "listen",
            name,
            remedy = "sockets are to be made by ListenStream= (an address with a port, or a path) and Accept=no; what is in \
                      the descriptor store for another purpose is removed from it",
            "descriptor of the service manager passed over: it is no listening socket"
        );
    }
    for socket in sockets {
        let PassedSocket { name, address, .. } = socket;
        tracing::warn!(
            target: "listen",
            name,
            listen = %address,
            remedy = format!(
                "set FileDescriptorName= in its socket unit to what it is for ({takes}), or have a link listen there, or \
                 remove it from the unit"
            ),
            "socket of the service manager closed: no link listens there"
        );
        names.push(name);
    }
    names.extend(stored);
    names
}

/// The service manager has passed sockets for others, and none for this one.
fn tell_of_unserved(link: &str, listener: &Listener) {
    if listener.names().is_none() {
        tracing::info!(
            target: "listen",
            link,
            listen = listener.address(),
            remedy = format!(
                "for a socket unit: ListenStream= with this address, or FileDescriptorName={}",
                name_of_socket(link)
            ),
            "listening without a socket of the service manager"
        );
    }
}

/// The log line of a link at start: listener, target, user and source of the secret.
fn announce(listener: &Listener, link: &Link) {
    let redis = link.redis.as_ref();
    let credentials = link.credentials();
    let username = credentials.and_then(Credentials::user);
    let secret = credentials.and_then(|credentials| match &credentials.password {
        Source::File(file) => Some(file.path().display().to_string()),
        Source::Variable(_) | Source::Token(_) | Source::UserOfToken(_) => Some(credentials.variable.clone()),
        // It is in the target, which is shown without its secret.
        Source::Url(_) => None,
    });
    tracing::info!(
        target: "process",
        link = link.name,
        listen = listener.address(),
        kept_as = listener.names(),
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

/// More connections are to be kept ready than the limit on open files leaves room for: the variables, why, and the remedy.
fn too_many_ready(config: &Config, descriptors: Descriptors) -> Option<(String, io::Error, String)> {
    let warm: Vec<_> = config.links.iter().filter(|link| link.warm() > 0).collect();
    let count = warm.iter().map(|link| link.warm()).fold(0, usize::saturating_add);
    if descriptors.carry(count) {
        return None;
    }
    let variables: Vec<_> = warm.iter().map(|link| link.setting("WARM")).collect();
    let variables = variables.join(", ");
    let error = io::Error::other(format!(
        "{count} connections are to be kept ready, but the limit on file descriptors is {}",
        descriptors.limit()
    ));
    let remedy = format!("lower {variables}, or raise the limit on open files (ulimit -n)");
    Some((variables, error, remedy))
}

/// Starts the worker threads, or as many of them as possible.
fn start_workers(wanted: usize, descriptors: Descriptors) -> Workers {
    let affordable = wanted.min(descriptors.threads());
    let (workers, error) = Workers::start(affordable);
    let error = error.or_else(|| (affordable < wanted).then(|| Errno::MFILE.into()));
    if let Some(error) = error {
        let remedy = match error.kind() {
            io::ErrorKind::PermissionDenied => {
                "update Docker (before 20.10.10 it forbids threads, by clone3), or allow them"
            }
            _ => shortage_remedy(&error).unwrap_or("set AMBASSADOR_THREADS to as many as there are"),
        };
        tracing::warn!(
            target: "process",
            threads = workers.count(),
            wanted,
            error = text::io_error(&error),
            remedy,
            "fewer threads than configured"
        );
    }
    workers
}

/// The remedy for an exhausted system resource.
fn shortage_remedy(error: &io::Error) -> Option<&'static str> {
    match Errno::from_io_error(error)? {
        Errno::MFILE => Some("raise the limit on open files (ulimit -n)"),
        Errno::NFILE => Some("raise the system's limit on open files (sysctl fs.file-max)"),
        // It may also be the memory of a thread.
        Errno::AGAIN => Some("raise the limits on processes (ulimit -u, pids_limit) and memory (ulimit -v)"),
        Errno::NOMEM | Errno::NOBUFS => Some("give it more memory"),
        _ => None,
    }
}

fn bind_remedy(link: &Link, address: &ListenAddress, error: &io::Error) -> String {
    if let Some(remedy) = shortage_remedy(error) {
        return remedy.to_owned();
    }
    let user = rustix::process::geteuid().as_raw();
    let elsewhere = link.another_port();
    let remedy = match (error.kind(), address) {
        (io::ErrorKind::AlreadyExists, ListenAddress::Unix(path)) => {
            format!("remove {} if it is not in use, or name another path", path.display())
        }
        (io::ErrorKind::AddrInUse, ListenAddress::Unix(_)) => {
            "stop what listens there, or name another path".to_owned()
        }
        (io::ErrorKind::AddrInUse, _) => {
            format!("stop what listens there, or listen elsewhere, as in {elsewhere}")
        }
        (_, ListenAddress::Unix(_)) => {
            format!("create its directory, writable for user {user}")
        }
        (io::ErrorKind::PermissionDenied, _) => format!(
            "let user {user} listen there (for ports below 1024: --sysctl net.ipv4.ip_unprivileged_port_start=0), \
             or listen elsewhere, as in {elsewhere}"
        ),
        _ => format!(
            "name an address of this host, as in {}_PORT_{1}_LISTEN=127.0.0.1:{1}",
            link.alias, link.port
        ),
    };
    if link.is_from_kubernetes {
        return format!(
            "{remedy}; or, as Kubernetes made this link of a Service, set enableServiceLinks: false in the pod, or name the \
             links you mean in AMBASSADOR_LINKS"
        );
    }
    remedy
}

fn admin_remedy(address: &ListenAddress, error: &io::Error) -> String {
    if let Some(remedy) = shortage_remedy(error) {
        return remedy.to_owned();
    }
    let off = "turn it off: AMBASSADOR_ADMIN=off";
    match (error.kind(), address) {
        (io::ErrorKind::AddrInUse, ListenAddress::Tcp(interface, port)) => {
            // The next port, if there is one.
            let other = ListenAddress::Tcp(interface.clone(), port.checked_add(1).unwrap_or(9180));
            format!(
                "it is in use by another ambassador in the same network, or by a link of this one: choose another, as in \
                 AMBASSADOR_ADMIN={other}, or {off}"
            )
        }
        (io::ErrorKind::PermissionDenied, ListenAddress::Tcp(interface, _)) => {
            let other = ListenAddress::Tcp(interface.clone(), 9180);
            let user = rustix::process::geteuid().as_raw();
            format!(
                "let user {user} listen there (for ports below 1024: --sysctl net.ipv4.ip_unprivileged_port_start=0), or \
                 choose another port, as in AMBASSADOR_ADMIN={other}, or {off}"
            )
        }
        _ => format!("name an address of this host, as in AMBASSADOR_ADMIN=127.0.0.1:9180, or {off}"),
    }
}

/// A hang-up, which daemons take for the wish to reload, ends nothing. There is nothing to reload.
fn ignore_hangups() -> io::Result<impl Future<Output = ()>> {
    let mut hangups = signal(SignalKind::hangup())?;
    Ok(async move {
        while hangups.recv().await.is_some() {
            tracing::info!(
                target: "process",
                signal = "SIGHUP",
                "nothing to reload: files are read again when they change, variables at a restart"
            );
        }
    })
}

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
