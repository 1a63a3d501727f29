//! What clients are told in the place of nodes' addresses.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::{Cluster, Served, Wanted};
use crate::failure::OWN_WORDS;
use crate::resp::cluster::{Place, Port, Told, is_redirection, rewritten};
use crate::upstream::discovery::endpoint_of;
use crate::upstream::link::LinkRuntime;

/// What became of addresses in a reply.
enum Retold {
    Reply(Vec<u8>),
    /// These places are not known.
    Unknown(Vec<Wanted>),
    /// Why they can't be told.
    Failed(String),
}

const NO_LIST: &str = "the target's reply is no list of nodes";

/// Whether a reply is a list, or a text, that is not empty.
fn holds_something(reply: &[u8]) -> bool {
    matches!(reply, [b'*' | b'%' | b'~' | b'$' | b'=', b'1'..=b'9', ..])
}

impl LinkRuntime {
    /// The reply with every address of a node replaced by that of its listener, for a client that came in at `host`. Where
    /// that can't be, an error that says why.
    ///
    /// An address that is not known yet is looked for. One to which a server itself (`is_server_s_own`) sends clients has a
    /// listener in any case; what a script says may be anything: nobody is dialled for it, with the link's password, whom the
    /// nodes do not tell of.
    pub async fn retell(&self, reply: &[u8], is_server_s_own: bool, host: Option<IpAddr>) -> Vec<u8> {
        let Some(cluster) = &self.cluster else { return reply.to_vec() };
        let host = match (&cluster.announce, host) {
            (Some(announced), _) => announced.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "127.0.0.1".to_owned(),
        };
        let retold = match self.try_to_retell(cluster, reply, &host, is_server_s_own, false) {
            Retold::Unknown(places) => {
                cluster.find(places, self.link.connect_timeout).await;
                self.try_to_retell(cluster, reply, &host, is_server_s_own, true)
            }
            retold => retold,
        };
        let why = match retold {
            Retold::Reply(reply) => return reply,
            Retold::Failed(why) => why,
            Retold::Unknown(_) => cluster.why_unknown(),
        };
        format!("-{OWN_WORDS}{}: {why}\r\n", self.link.name).into_bytes()
    }

    fn try_to_retell(
        &self,
        cluster: &Cluster,
        reply: &[u8],
        host: &str,
        is_server_s_own: bool,
        has_looked: bool,
    ) -> Retold {
        let is_served = is_redirection(reply);
        let asked = self.backends.listed().first().map(|listed| listed.endpoint.clone());
        let told = Told { host, is_tls: self.link.listen_tls.is_some() };
        let (mut unknown, mut has_no_number) = (BTreeMap::new(), false);
        let mut state = cluster.state.lock();
        // What nodes have in their lists and are not agreed upon has no listener.
        let may_be_hidden = has_looked && !is_served && !state.topology.nodes.is_empty();
        let mut port_of = |place: &Place<'_>| {
            let host = if place.host.is_empty() { state.host(place, asked.as_ref()) } else { None };
            let place = Place { host: host.as_deref().unwrap_or(place.host), ..*place };
            match (state.node(&place), endpoint_of(place.host, place.port)) {
                (Some(Served { port: Some(port), .. }), _) => return Port::Known(*port),
                (Some(Served { port: None, .. }), _) => has_no_number = true,
                (None, Some(endpoint)) if is_server_s_own && !may_be_hidden => {
                    unknown.insert(endpoint.to_string(), Wanted { endpoint, is_served });
                    return Port::Unknown;
                }
                (None, _) => {}
            }
            Port::Hidden
        };
        let retold = rewritten(reply, &told, &mut port_of);
        let is_unchanged = |retold: &Vec<u8>| retold == reply && is_server_s_own && holds_something(reply);
        match retold {
            // What is asked for has addresses in it; these are not where they are looked for.
            Ok(Some(retold)) if is_unchanged(&retold) => Retold::Failed(NO_LIST.to_owned()),
            _ if has_no_number => Retold::Failed(cluster.too_few(&state)),
            Ok(Some(reply)) => Retold::Reply(reply),
            Ok(None) => Retold::Unknown(unknown.into_values().collect()),
            Err(_) => Retold::Failed(NO_LIST.to_owned()),
        }
    }
}

impl Cluster {
    fn why_unknown(&self) -> String {
        let state = self.state.lock();
        if state.nodes.len() > self.ports.len() {
            return self.too_few(&state);
        }
        "the cluster could not be looked at in time".to_owned()
    }
}
