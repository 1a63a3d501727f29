//! # How redis-ambassador is built
//!
//! An ambassador stands where an application expects its Redis. For each client it dials the real target, authenticates
//! in the client's place, and from then on forwards bytes. This page is the map.
//!
//! ## The layers
//!
//! From the top to the bottom; a module imports from its own layer and from lower ones, never from a higher one.
//! `scripts/layers` has the same table and holds it.
//!
//! | layer | what it does |
//! | --- | --- |
//! | [`cli`] | arguments, subcommands, exit codes |
//! | [`app`] | the process: bind, serve, drain |
//! | [`admin`] | the endpoint for probes, scrapes and people |
//! | [`client`] | [accept](client::accept), [authenticate](client::auth) and [serve](client::connection) clients |
//! | [`upstream`] | [backends](upstream::backends) and their [discovery](upstream::discovery), [dial](upstream::dial), [handshake](upstream::handshake), [credentials](upstream::credentials), [ready connections](upstream::pool), a [cluster's nodes](upstream::cluster), and the [registry](upstream::connections) of a link's connections |
//! | [`relay`] | bytes between two streams, and the [request to end](relay::drain); it knows no link and no backend |
//! | [`failure`], [`metrics`] | what can go wrong, with its remedy, and what is counted |
//! | [`config`] | variables and flags as plain data |
//! | [`cloud`] | tokens of clouds, from where each cloud's own libraries take them |
//! | [`net`] | sockets, [names](net::resolve), [TLS](net::tls); it knows no setting |
//! | [`resp`] | the protocol: [where commands end](mod@resp::commands), [AUTH and HELLO](resp::auth), replies |
//! | [`secret`] | secrets and where they come from; it knows no protocol |
//! | [`descriptors`], [`log`], [`programs`], [`systemd`], [`workers`] | what the operating system gives |
//! | [`backoff`], [`files`], [`random`], [`reload`], [`text`] | what knows nothing of this program |
//!
//! ## Listeners
//!
//! A [`net::Listener`] binds its addresses, or goes on with sockets that the service manager has passed
//! ([`net::PassedSockets`]): those of socket units, named after a link or bound at its address, and those that an earlier
//! process of the service has stored ([`systemd::ServiceManager::store`]). What the manager has lives on when it is closed
//! here, so a drain leaves who waits there to the next process.
//!
//! ## The way of a connection
//!
//! [`client::accept`] admits a client, registers it (its [`ConnectionGuard`](upstream::connections::ConnectionGuard)) and spawns it on one of
//! the [`workers`]. [`client::connection`] runs from top to bottom on one page: what a balancer says of the client
//! ([`net::proxy_protocol`]) and the client's TLS where the link has them, its password where the link requires one, an
//! upstream within one deadline, the relay, one line in the log.
//!
//! [`upstream::dial`] goes through the link's backends in the order of their balance until one serves: it resolves the
//! name, reads the password *now*, connects, says whose connection it is where the target is to know, starts TLS and
//! performs the [`upstream::handshake`]. AUTH, SELECT and the question for the role go out in one write, and exactly that
//! many replies are awaited. A refused password may have a successor, which is offered on the same connection. Only then
//! is there a [`Upstream`](upstream::handshake::Upstream), the one type that can be relayed to. `check` makes the same
//! dial and watches each step ([`Observer`](upstream::handshake::Observer)).
//!
//! The [`relay`] copies both ways and passes each EOF on by itself. A tunnel knows no more. A session of a Redis link
//! knows where commands and replies end, so what is owed to the client and what its connection holds; where nothing is
//! owed its upstream is exchanged for another one: after a close, a move, a demotion, a lifetime, silence, a refusal. It
//! says what it needs (an upstream, the handshake behind a RESET, an AUTH with another secret), and [`client::connection`]
//! does it. Dropping the guard is the end of a connection, whatever path led to it.
//!
//! Sessions of a link with `SHARE` have no upstream of their own as long as they need none: each has a
//! [`Seat`](relay::Seat) at one that the sessions of its thread share, which is a stream like any other to it.
//! [`relay::shared`] puts their commands into one write and cuts the replies where they end; [`upstream::sharing`] dials and
//! keeps such upstreams. Only whole, small commands travel there that leave nothing behind. A command that sets the database,
//! the protocol or a name goes to an upstream where that is set already: it changes nothing there, and the reply is the
//! server's own. What else a client says has an upstream lent to its session until nothing is owed and nothing left behind:
//! that is an exchange of the upstream, there and back; before the next session has it, what was set on it is undone, and an
//! echo proves that the server has said all that there was to say. So a session knows when to ask for one, and three commands
//! that are about the connection itself: QUIT, WAIT and CLIENT ID.
//! Sessions that share fill one thread after the other ([`workers`]): the more there are on one, the more goes out in one
//! write.
//!
//! A link may keep some upstreams ready ([`upstream::pool`]). A client that gets one of those is waited for: until its
//! first byte nothing has gone to the target, so that an upstream that ends meanwhile is replaced without a trace.
//!
//! ## Redis Cluster
//!
//! Clients of a Redis Cluster choose the node, so each node is a listener that leads to it alone. A node is a
//! [`LinkRuntime`](upstream::LinkRuntime) like its link's own: it shares the configuration, the registry, the metrics and the
//! servers with that, and has its own ready and shared connections. So whatever holds for a link holds for each node, and
//! nothing below accept knows that there are several. The link's own listener leads to any of them.
//!
//! The [discovery](upstream::discovery) of a cluster publishes a list of backends, as any source does, and the
//! [`Topology`](upstream::cluster::topology::Topology), from which [`upstream::cluster`] gives numbers to nodes and opens and
//! closes listeners. Clients are accepted there by [`client::accept`].
//!
//! A session knows where replies end that name servers: answers to a few commands, and redirections, also inside other
//! replies. It shows them to its owner, as it does with all that it needs somebody for, and goes on with what comes back.
//! [`resp::cluster`] finds the addresses in them; [`upstream::cluster`] knows the listeners, or waits for a look at the cluster.
//!
//! ## Backends
//!
//! [`upstream::discovery`] finds out in the background where a link's backends are: from SRV records, a file, Sentinels,
//! ZooKeeper, announcements in the local network or the nodes of a cluster, each of which *publishes* a list of endpoints. It also watches the backends that connections use: does the
//! name still have that address, the server that role? Connections of a backend that is gone or demoted are asked to
//! end, spread over the link's grace.
//!
//! Endpoints are listed, addresses are dialled: a name stands for the servers of its last answer, in the one list that
//! balances choose from ([`Listed`](upstream::backends::Listed)). So an address has all that a backend has (back-off,
//! role, password, share), whether a name or a source brought it. A dial resolves a name only when it comes to it, so
//! that one that can't be resolved holds up no others. TLS goes by the endpoint, always. One address of each family is
//! one server with two ways to it; the ways, and the servers of one name, race for the connection (RFC 8305).
//!
//! ## What always holds
//!
//! - No byte of a client goes to a target before every reply of the handshake was good: an
//!   [`Upstream`](upstream::handshake::Upstream) can't be had otherwise.
//! - A refused password ends in the acceptance of another one or in the end of the connection.
//! - A secret is a [`secret::Secret`] from the read to the write. It is zeroed when dropped, has no way into a log, and is
//!   masked in the target's own words.
//! - One task a connection, and nothing shared that it could spoil: a panic ends that connection alone. A shared upstream
//!   is one more task; what is said there that nobody has asked for ends it at once, for all.
//! - Memory a connection is bounded: what is read is written at once or kept, and nothing is read while something is kept.
//! - There is one way to end a connection from outside: its [`Handle`](relay::drain::Handle) is asked, *when nothing is
//!   owed, at the latest then*. The relay does not know who asked. What it can't frame, and plain tunnels, go at a quiet
//!   moment.
//! - A write that may have been executed is never sent twice, and a session of whose state something is not known is never
//!   put on another upstream: commands are on a list of what is known to leave nothing behind, or they pin.
//! - TLS is a kind of stream: the relay and the handshakes know nothing of it. A TLS handshake belongs to its connection's
//!   task and to the connect timeout, never to the accept loop. Nothing that is not verified is spoken to, unless the
//!   configuration says so.
//! - Configuration is read whole, and every mistake is told at once, before any port is opened ([`config`]).
//! - A [`failure::Failure`] names the stage and the remedy: for the operator in the log, for the client in one RESP line.
//!
//! ## Where things will go
//!
//! - Another way to find backends is another source beside those in [`upstream::discovery`]: it publishes lists, and
//!   nothing else changes.
//! - Another place where secrets come from is a kind of [`secret::Source`]; who issues secrets that expire is an
//!   [`secret::tokens::Issuer`], another cloud a part of [`cloud`].
//! - Another count is one more handle of [`metrics::LinkMetrics`]; what can be looked at is read by
//!   [`admin::LinkCollector`] when somebody asks, and costs nothing meanwhile.
//! - Whatever else has to know a client's commands learns it from [`mod@resp::commands`].

mod admin;
mod app;
mod backoff;
mod cli;
mod client;
mod cloud;
mod config;
mod descriptors;
mod failure;
mod files;
#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod log;
mod metrics;
mod net;
mod programs;
mod random;
mod relay;
mod reload;
mod resp;
mod secret;
mod systemd;
mod text;
mod upstream;
mod workers;

pub use cli::main;

/// What the reference pages of the documentation are made of.
pub mod reference {
    pub use crate::cli::{Arguments, EXIT_CODES, synopsis};
    pub use crate::config::settings::{SETTINGS, Scope, Setting};
    pub use crate::config::target::FORMS;
    pub use crate::log::TARGETS;
}

/// What `benches/micro` times.
#[doc(hidden)]
pub mod timed {
    pub use crate::config::{Config, Env, ProcessArguments};
    pub use crate::metrics::Metrics;
    pub use crate::net::Stream;
    pub use crate::relay::drain::Handle;
    pub use crate::relay::{Limits, Policy, Reset, Session, Tunnel};
    pub use crate::resp::cluster::{Place, Port, Told, rewritten};
    pub use crate::resp::commands::{Commands, Found};
    pub use crate::resp::replies::Replies;
    pub use crate::resp::{commands, reply};
}
