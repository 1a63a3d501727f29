//! # How redis-ambassador is built
//!
//! An ambassador stands where an application expects its Redis. For each client it dials the real target,
//! authenticates in the client's place, and from then on forwards bytes. This page is the map.
//!
//! ## The story of a connection
//!
//! [`client::accept`] takes a place among the connections and a [seat](relay::drain::Seat), and spawns the connection. [`client::connection`]
//! runs from top to bottom on one page: take up the client's TLS where the link has it, have it show a password where
//! the link [requires](client::auth) one, ask [`upstream::dial`] for an upstream within one deadline, meanwhile take in what the
//! client says (and notice if it leaves), [`relay`], one line in the log. [`upstream::dial`] goes through the link's
//! [`upstream::backends`], in the order of their balance, until one serves: it resolves the name ([`net::resolve`]), reads the password
//! of a Redis link *now* ([`upstream::credentials`]), connects ([`net`]), takes up [TLS](net::tls) and [greets](upstream::handshake):
//! AUTH, SELECT and the question for the role go out in one write, and exactly that many replies are awaited. A refused
//! password may have a successor, which is offered on the same connection. Only then is there a [`upstream::handshake::Upstream`],
//! the one type that can be relayed to, with a [place](upstream::backends::Place) at the backend it leads to. The relay copies
//! both ways, passes each end of stream on by itself, and says how it ended. Where a client sends RESET, which takes
//! away the authentication that it does not know of, the relay stops right there ([`resp::commands`] knows where commands
//! end) and goes on with a fresh upstream. Dropping the seat and the permits is the end, whatever path led to it.
//!
//! A link may keep some upstreams ready ([`upstream::pool`]). A client that gets one of those is waited for: until its first word
//! nothing has gone to the target, so that an upstream that ends meanwhile is replaced without a trace. The relay
//! begins with that word.
//!
//! Where a link's backends are is found out in the background: from SRV records, a file or Sentinels, each of which
//! *publishes* a list of endpoints; and what connections sit at is looked after: does the name still have that address,
//! the server that role? Whoever sits where nobody should sit any more is asked to leave, spread over the link's grace.
//!
//! What is listed are endpoints, and what is dialled are addresses. A name stands for the servers of its last answer, in
//! the one list that balances choose from; every answer, whoever asked for it, makes that part of the list anew
//! ([`upstream::backends::Listed`]). So an address has all that a backend has (rest, role, password, share, line), whether a name or
//! a source brought it, and to have moved is one thing: a backend that nothing leads to any more. A dial resolves a name
//! only when its turn comes, so that one that nobody can resolve holds up no others. TLS goes by the endpoint, always.
//! One address of each family is one server with two ways to it; the ways, and the servers of one name, race for the
//! connection (RFC 8305), and who was overtaken rests, so that the wait is one client's and not everybody's.
//!
//! [`cli::check`] goes the same way one step after the other, to say how each of them goes: [`upstream::handshake::Interview`].
//!
//! What fails on the way is a [`failure::Failure`]: it names the stage and the remedy, once for the operator's log and
//! once for the client, in a RESP error line.
//!
//! Who wants to know how it goes asks [`admin`]. It looks at what is there anyway: seats, backends, the link's
//! [health](upstream::dial::Health). What only happens is counted in [`metrics`].
//!
//! ## What always holds
//!
//! - No byte of a client goes to a target before every reply of the handshake was good: [`upstream::handshake::Upstream`] can't be had
//!   otherwise.
//! - A refused password ends in the acceptance of another one or in the end of the connection, whatever the server would
//!   still do for us.
//! - A secret is a [`secret::Secret`] from the read to the write. It is zeroed when dropped, has no way into a log,
//!   and is masked in the target's own words.
//! - One task a connection, and nothing shared that it could spoil: a panic ends that connection alone.
//! - Memory a connection is bounded: what is read is written at once or kept, and nothing is read while something is kept.
//! - There is one way to leave. Whoever wants a connection to end asks its seat: *at your first quiet moment, at the
//!   latest then* ([`relay::drain`]). The relay does not know who asked.
//! - TLS is a kind of stream: the relay, the handshakes and the last words to a client know nothing of it. A TLS handshake
//!   belongs to its connection's task and to the connect timeout, never to the accept loop. Nothing that is not verified
//!   is spoken to, unless the configuration says so.
//! - Configuration is read whole, and every mistake is told at once, before any port is opened ([`config`]).
//!
//! ## The rooms
//!
//! | module | what it does |
//! | --- | --- |
//! | [`cli`] | the command line and its subcommands |
//! | [`config`] | variables and flags to [`config::Config`]: links, targets, settings |
//! | [`secret`] | secrets and where they come from |
//! | [`app`] | the order of life and death: bind, serve, drain |
//! | [`client::accept`] | the accept loop, limits, allow lists |
//! | [`admin`] | the endpoint for probes and scrapes |
//! | [`workers`] | the threads, a runtime each, and who serves what |
//! | [`client::connection`] | one connection, top to bottom |
//! | [`upstream::dial`] | candidates, connect, TLS, greet, within one deadline |
//! | [`upstream::backends`] | which backends there are, whose turn it is, who rests, who has to leave |
//! | [`net::resolve`] | names to addresses and services; the only door to DNS |
//! | [`upstream::credentials`] | which passwords a link has, in which order they are offered, and the rotation of a password |
//! | [`upstream::handshake`] | the Redis handshake |
//! | [`resp`] | commands out, replies in |
//! | [`client::auth`] | clients that authenticate themselves |
//! | [`resp::commands`] | where a client's commands end, and which of them is a RESET |
//! | [`relay`] | the bytes |
//! | [`metrics`] | what is counted, as Prometheus reads it |
//! | [`relay::drain`] | who is here, and the one way to ask them to go |
//! | [`net::tls`] | TLS on either side: certificates and their reload, the stream, its errors in words |
//! | [`upstream::pool`] | upstreams that are kept ready |
//! | [`net`] | sockets and listeners |
//! | [`descriptors`] | how many file descriptors there are, and what they carry |
//! | [`programs`] | programs that are run, and whom they leave behind |
//! | [`random`] | chance, to spread what would happen at once |
//! | [`failure`] | what can go wrong for a client, in words |
//! | [`client::failure_log`] | what the log says of them, held back where it would flood |
//! | [`files`] | files that settings name, and the system's, read where a file system that hangs holds up nobody |
//! | [`log`] | the log |
//!
//! ## Where things will go
//!
//! - Another way to find backends out is another source beside those in [`upstream::backends`]: it publishes lists, and nothing
//!   else changes.
//! - Another place where secrets come from is a kind of [`secret::Source`].
//! - What else is to be counted is one more handle of [`metrics::LinkMetrics`]; what can be looked at is read there when
//!   somebody asks, and costs nothing meanwhile.
//! - Whatever else has to know a client's commands learns it from [`resp::commands`], which sees their boundaries and no payload.

pub mod admin;
pub mod app;
pub mod backoff;
pub mod cli;
pub mod client;
pub mod config;
pub mod descriptors;
pub mod failure;
pub mod files;
#[cfg(test)]
mod fixtures;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod log;
pub mod metrics;
pub mod net;
pub mod programs;
pub mod random;
pub mod relay;
pub mod reload;
pub mod resp;
pub mod secret;
pub mod text;
pub mod upstream;
pub mod workers;
