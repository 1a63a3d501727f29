//! Discovery by Redis Sentinel: the primary, or its replicas.
//!
//! All Sentinels are queried, and the answers with the highest failover *epoch* are used: a Sentinel that was
//! partitioned or suspended names a former primary. Sentinels that do not answer, or answer an error or null, are
//! ignored. The query is repeated when a Sentinel announces a change, when a dial has failed, and at an interval. Every
//! dial verifies the server's role itself.

use std::collections::HashSet;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::future::{join, join_all};
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use redis_protocol::resp2::types::BytesFrame;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, sleep_until, timeout, timeout_at};

use crate::backoff::Backoff;
use crate::config::Link;
use crate::config::link::{Access, Role};
use crate::net::{Address, Endpoint};
use crate::random::jittered;
use crate::resp;
use crate::text;
use crate::upstream::backends::{Backends, Listing};
use crate::upstream::conversation::Conversation;
use crate::upstream::credentials::auth;
use crate::upstream::dial::Dialler;
use crate::upstream::discovery::{addresses, endpoint_of, open, some};

/// The interval of queries; announcements of a change arrive by themselves.
const INTERVAL: Duration = Duration::from_secs(5);
/// The interval of queries after one without a usable answer.
const INTERVAL_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// The shortest time between two queries.
const MIN_INTERVAL: Duration = Duration::from_millis(250);

/// The timeout of a query.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The timeout of the others once one Sentinel has answered, and of the optional `SENTINEL MASTER`.
const OTHERS_TIMEOUT: Duration = Duration::from_millis(250);

/// Between attempts to subscribe to a Sentinel's announcements.
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(250), longest: Duration::from_secs(5) };

/// Queries and subscribes to the Sentinels. Never returns.
pub(super) async fn follow(
    backends: &Backends,
    dialler: &Dialler,
    link: &Link,
    sentinels: &[Endpoint],
    service: &str,
) {
    let none = Access::default();
    let sentinels = Sentinels::of(dialler, link, sentinels, service, &none);
    let listening = join_all(sentinels.places.iter().map(|sentinel| sentinels.listen(sentinel)));
    join(sentinels.query_repeatedly(backends), listening).await;
}

/// Queries the Sentinels once.
pub(super) async fn ask_once(
    dialler: &Dialler,
    link: &Link,
    sentinels: &[Endpoint],
    service: &str,
) -> Result<Vec<Endpoint>, String> {
    let none = Access::default();
    let sentinels = Sentinels::of(dialler, link, sentinels, service, &none);
    let answers = sentinels.ask_all().await;
    let believed = believe(&answers, service, &mut 0)?;
    Ok(sentinels.endpoints(&believed))
}

struct Sentinels<'a> {
    dialler: &'a Dialler,
    link: &'a Link,
    access: &'a Access,
    role: Role,
    places: &'a [Endpoint],
    service: &'a str,
    /// The last announcement that no query has followed yet.
    announcement: Mutex<Option<String>>,
    announced: Notify,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Answer {
    primary: Endpoint,
    /// The epoch of the failover that chose this primary; 0 if the Sentinel does not say.
    epoch: u64,
    /// The healthy replicas.
    replicas: Vec<Endpoint>,
}

/// The answers of one query, by Sentinel.
type Answers = Vec<(String, Result<Answer, String>)>;

impl<'a> Sentinels<'a> {
    fn of(
        dialler: &'a Dialler,
        link: &'a Link,
        places: &'a [Endpoint],
        service: &'a str,
        none: &'a Access,
    ) -> Self {
        let redis = link.redis.as_ref();
        Self {
            dialler,
            link,
            access: redis.map_or(none, |redis| &redis.sentinel),
            role: redis.and_then(|redis| redis.role).unwrap_or(Role::Master),
            places,
            service,
            announcement: Mutex::default(),
            announced: Notify::new(),
        }
    }

    /// The endpoints in the believed answers.
    fn endpoints(&self, believed: &[(&str, &Answer)]) -> Vec<Endpoint> {
        match self.role {
            Role::Replica => believed[0].1.replicas.clone(),
            Role::Master => believed.iter().map(|(_, answer)| answer.primary.clone()).collect(),
        }
    }

    async fn query_repeatedly(&self, backends: &Backends) {
        let mut epoch = 0;
        loop {
            let asked = Instant::now();
            let answers = self.ask_all().await;
            let announcement = self.announcement.lock().take();
            let pause = match believe(&answers, self.service, &mut epoch) {
                Ok(believed) => {
                    if let Some(announcement) = announcement {
                        tracing::debug!(target: "discovery", announcement, "Sentinel announcement received");
                    }
                    let endpoints = self.endpoints(&believed).into_iter();
                    backends.publish(endpoints.map(Listing::in_order).collect(), "sentinel");
                    INTERVAL
                }
                Err(reason) => {
                    backends.unknown(&reason, None);
                    INTERVAL_AFTER_FAILURE
                }
            };
            tokio::select! {
                () = sleep(jittered(pause)) => {}
                () = self.announced.notified() => {}
                () = backends.refresh_requested() => {}
            }
            sleep_until(asked + MIN_INTERVAL).await;
        }
    }

    /// Queries every Sentinel, at every address of its name.
    async fn ask_all(&self) -> Answers {
        let deadline = Instant::now() + TIMEOUT;
        let mut answers = Answers::new();
        let mut asked = Vec::new();
        let resolving = self.places.iter().map(|sentinel| addresses(self.dialler, sentinel, deadline));
        for (sentinel, places) in self.places.iter().zip(join_all(resolving).await) {
            match places {
                Ok(places) => asked.extend(places.into_iter().map(|place| (sentinel, place))),
                Err(reason) => answers.push((sentinel.to_string(), Err(reason))),
            }
        }
        let mut silent: HashSet<_> = asked.iter().map(|(_, place)| place.to_string()).collect();
        let mut asking: FuturesUnordered<_> =
            asked.into_iter().map(|(sentinel, place)| self.ask(sentinel, place, deadline)).collect();
        let mut until = deadline;
        while let Ok(Some((name, answer))) = timeout_at(until, asking.next()).await {
            if answer.is_ok() {
                until = until.min(Instant::now() + OTHERS_TIMEOUT);
            }
            silent.remove(&name);
            answers.push((name, answer));
        }
        // One entry for each silent Sentinel: a majority is one of all Sentinels.
        answers.extend(silent.into_iter().map(|name| (name, Err("no answer in time".to_owned()))));
        answers
    }

    /// Queries the Sentinel at one address.
    async fn ask(
        &self,
        sentinel: &Endpoint,
        address: Address,
        deadline: Instant,
    ) -> (String, Result<Answer, String>) {
        let answer = timeout_at(deadline, async {
            let mut conversation = self.begin(sentinel, &address, deadline).await?;
            let service = self.service.as_bytes();
            let mut commands = vec![vec![&b"SENTINEL"[..], b"GET-MASTER-ADDR-BY-NAME", service]];
            if self.role == Role::Replica {
                commands.push(vec![b"SENTINEL", b"REPLICAS", service]);
            }
            // Last, because its reply is optional.
            commands.push(vec![b"SENTINEL", b"MASTER", service]);
            conversation.send(&commands).await?;
            let primary = match conversation.receive().await? {
                BytesFrame::Null => return Err(format!("it knows no {}", self.service)),
                BytesFrame::Error(words) => return Err(text::one_line(words.as_bytes())),
                BytesFrame::Array(items) => match &items[..] {
                    [host, port] => endpoint(Some(host), Some(port)),
                    _ => None,
                },
                _ => None,
            };
            let primary = primary.ok_or("it does not answer like a Sentinel")?;
            let replicas = match self.role {
                Role::Master => Vec::new(),
                Role::Replica => healthy(&conversation.receive().await?)?,
            };
            // Without an epoch (0) an answer is used only if no Sentinel reports one.
            let state = timeout(OTHERS_TIMEOUT, conversation.receive()).await;
            let epoch = state
                .ok()
                .and_then(Result::ok)
                .and_then(|state| resp::field(&state, "config-epoch").and_then(resp::text)?.parse().ok());
            Ok(Answer { primary, epoch: epoch.unwrap_or_default(), replicas })
        });
        let answer = answer.await.unwrap_or_else(|_| Err("no answer in time".to_owned()));
        (address.to_string(), answer)
    }

    /// Connects to a Sentinel, performs the TLS handshake if the link has TLS, and authenticates.
    async fn begin(
        &self,
        sentinel: &Endpoint,
        address: &Address,
        deadline: Instant,
    ) -> Result<Conversation, String> {
        let tls = self.link.tls.as_ref();
        let stream = open(self.dialler, self.link, tls, sentinel, address, deadline).await?;
        let mut conversation = Conversation::over(stream, "Redis Sentinel");
        let Some(password) = &self.access.password else {
            return Ok(conversation);
        };
        let password = password.current().await.map_err(|error| error.to_string())?;
        let username = match &self.access.username {
            Some(username) => Some(username.current().await.map_err(|error| error.to_string())?),
            None => None,
        };
        let username = username.as_ref();
        conversation.send(&[auth(username.map(|username| username.expose()), password.expose())]).await?;
        match conversation.receive().await? {
            BytesFrame::Error(words) if !crate::upstream::handshake::wants_no_password(&words) => {
                let words = password.mask(&text::one_line(words.as_bytes()));
                let words = username.map_or(words.clone(), |username| username.mask(&words));
                Err(format!("it refused the password: {words}"))
            }
            _ => Ok(conversation),
        }
    }

    /// Subscribes to a Sentinel's announcements; those about the service trigger a query. Never returns.
    async fn listen(&self, sentinel: &Endpoint) {
        let mut failures = 0;
        // The addresses of a name are tried in rotation.
        let mut turn = 0_usize;
        loop {
            if let Err(reason) = self.subscribe_once(sentinel, turn, &mut failures).await {
                tracing::debug!(target: "discovery", %sentinel, error = reason, "Sentinel subscription failed");
            }
            failures += 1;
            sleep(jittered(BACKOFF.wait(failures))).await;
            turn = turn.wrapping_add(1);
        }
    }

    async fn subscribe_once(
        &self,
        sentinel: &Endpoint,
        turn: usize,
        failures: &mut u32,
    ) -> Result<(), String> {
        let mut subscribe: Vec<&[u8]> = vec![b"SUBSCRIBE", b"+switch-master"];
        if self.role == Role::Replica {
            subscribe.extend([&b"+slave"[..], b"+sdown", b"-sdown", b"+convert-to-slave"]);
        }
        let deadline = Instant::now() + TIMEOUT;
        let subscribed = timeout_at(deadline, async {
            let addresses = addresses(self.dialler, sentinel, deadline).await?;
            let address = &addresses[turn % addresses.len()];
            let mut conversation = self.begin(sentinel, address, deadline).await?;
            conversation.send(&[subscribe]).await?;
            match conversation.receive().await? {
                BytesFrame::Error(words) => Err(text::one_line(words.as_bytes())),
                _ => Ok(conversation),
            }
        });
        let mut conversation = subscribed.await.unwrap_or_else(|_| Err("no answer in time".to_owned()))?;
        *failures = 0;
        // An announcement may have been missed before the subscription.
        self.announced.notify_one();
        loop {
            if let BytesFrame::Array(items) = conversation.receive().await?
                && let [kind, channel, message] = &items[..]
                && resp::text(kind) == Some("message")
                && let (Some(channel), Some(message)) = (resp::text(channel), resp::text(message))
                && message.split(' ').any(|word| word == self.service)
            {
                *self.announcement.lock() = Some(format!("{channel} from Sentinel {sentinel}"));
                self.announced.notify_one();
            }
        }
    }
}

/// The answers with the highest epoch. `epoch` is that of the last believed answer; only a majority of all Sentinels
/// can
/// go back behind it.
fn believe<'a>(
    answers: &'a Answers,
    service: &str,
    epoch: &mut u64,
) -> Result<Vec<(&'a str, &'a Answer)>, String> {
    let good: Vec<(&str, &Answer)> = answers
        .iter()
        .filter_map(|(name, answer)| answer.as_ref().ok().map(|answer| (name.as_str(), answer)))
        .collect();
    let newest = good.iter().map(|(_, answer)| answer.epoch).max();
    match newest {
        Some(newest) if newest >= *epoch || good.len() * 2 > answers.len() => {
            *epoch = newest;
            Ok(good.into_iter().filter(|(_, answer)| answer.epoch == newest).collect())
        }
        _ => {
            let reasons: Vec<_> = answers
                .iter()
                .map(|(name, answer)| match answer {
                    Ok(_) => format!("{name}: its answer is older than an earlier one"),
                    Err(reason) => format!("{name}: {reason}"),
                })
                .collect();
            Err(format!("no Sentinel names {service}: {}", some(&reasons)))
        }
    }
}

/// The replicas that are reachable and replicate.
pub(crate) fn healthy(replies: &BytesFrame) -> Result<Vec<Endpoint>, String> {
    let BytesFrame::Array(replicas) = replies else {
        return Err("it does not list replicas".to_owned());
    };
    let is_healthy = |replica: &&BytesFrame| {
        let field = |name| resp::field(replica, name).and_then(resp::text).unwrap_or_default();
        let flags = field("flags");
        !flags.split(',').any(|flag| flag.ends_with("_down") || flag == "disconnected")
            && field("master-link-status") != "err"
    };
    let place = |replica: &BytesFrame| endpoint(resp::field(replica, "ip"), resp::field(replica, "port"));
    Ok(replicas.iter().filter(is_healthy).filter_map(place).collect())
}

/// A host and a port as Sentinels write them.
pub(crate) fn endpoint(host: Option<&BytesFrame>, port: Option<&BytesFrame>) -> Option<Endpoint> {
    endpoint_of(resp::text(host?)?, resp::text(port?)?.parse().ok()?)
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::fixtures::fixture;

    type Said = Result<Answer, String>;

    fn answer(port: u16, epoch: u64) -> Said {
        let primary = crate::config::target::endpoint(&format!("h:{port}"), None);
        primary.map(|primary| Answer { primary, epoch, replicas: Vec::new() }).map_err(|e| e.to_string())
    }

    fn named(answers: Vec<Said>) -> Answers {
        answers.into_iter().enumerate().map(|(number, answer)| (format!("s{number}"), answer)).collect()
    }

    fn believed(answers: Vec<Said>, epoch: &mut u64) -> Option<Vec<String>> {
        let answers = named(answers);
        let believed = believe(&answers, "mymaster", epoch).ok()?;
        Some(believed.into_iter().map(|(_, answer)| answer.primary.to_string()).collect())
    }

    #[test]
    fn who_knows_of_the_latest_failover_is_believed() {
        let mut epoch = 0;
        let dead = || Err("dead".to_owned());
        assert_eq!(believed(vec![answer(1, 3), answer(2, 4), dead()], &mut epoch).unwrap(), ["h:2"]);
        // A suspended Sentinel does not lead back, but a majority does: the Sentinels may have been set up anew.
        assert_eq!(believed(vec![answer(1, 3), dead(), dead()], &mut epoch), None);
        assert_eq!(believed(vec![answer(1, 3), answer(1, 3), dead()], &mut epoch).unwrap(), ["h:1", "h:1"]);
        assert_eq!(epoch, 3);
        assert_eq!(believed(vec![dead(), dead(), dead()], &mut epoch), None);
    }

    #[test]
    fn addresses_are_read_as_sentinels_write_them() {
        let bulk = |text: &'static str| BytesFrame::BulkString(text.into());
        for (host, shown) in
            [("::1", "[::1]:7"), ("10.0.0.1", "10.0.0.1:7"), ("node-1.local", "node-1.local:7")]
        {
            assert_eq!(endpoint(Some(&bulk(host)), Some(&bulk("7"))).unwrap().to_string(), shown);
        }
        assert_eq!(endpoint(Some(&bulk("x y")), Some(&bulk("7"))), None);
        assert_eq!(endpoint(Some(&bulk("h")), Some(&bulk("0"))), None);
    }

    #[test]
    fn sentinels_of_every_version_are_understood() {
        for version in ["redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1", "valkey-9.1"] {
            let said = |situation: &str| {
                let said = fixture(&format!("sentinel/{version}/{situation}.resp"));
                resp::value(&mut BytesMut::from(&said[..]), said.len()).unwrap().expect("a whole reply")
            };
            let epoch = |situation: &str| {
                let said = said(situation);
                let epoch = resp::field(&said, "config-epoch").and_then(resp::text);
                epoch.and_then(|epoch| epoch.parse::<u64>().ok()).expect("an epoch")
            };
            let replicas = |situation: &str| {
                let places = healthy(&said(situation)).expect("a list of replicas");
                places.iter().map(ToString::to_string).collect::<Vec<_>>()
            };
            let BytesFrame::Array(address) = said("address") else { panic!("{version}") };
            let primary = endpoint(address.first(), address.get(1)).expect("an address");
            assert_eq!(primary.to_string(), "127.0.0.1:6379", "{version}");
            assert_eq!([epoch("old-epoch"), epoch("master"), epoch("new-epoch")], [3, 4, 5], "{version}");
            assert_eq!(replicas("replicas"), ["127.0.0.1:6380", "127.0.0.1:6381"], "{version}");
            assert_eq!(replicas("replicas-down"), ["127.0.0.1:6380"], "{version}");
            assert_eq!(said("null"), BytesFrame::Null, "{version}");
            assert!(healthy(&said("replicas-unknown")).is_err(), "{version}");
        }
    }
}
