//! What clients are told in the place of nodes' addresses.

use std::collections::HashMap;
use std::net::IpAddr;

use super::{Cluster, Served};
use crate::net::Endpoint;
use crate::resp::cluster::{Place, Port, Told, is_redirection, redirection, rewritten};
use crate::upstream::discovery::endpoint_of;
use crate::upstream::link::LinkRuntime;

/// What became of addresses in a reply.
enum Retold {
    Reply(Vec<u8>),
    /// These places are not known.
    Unknown(Vec<Endpoint>),
    /// Why they can't be told.
    Failed(String),
}

impl LinkRuntime {
    /// The reply with every address of a node replaced by that of its listener, for a client that came in at `host`. Where
    /// that can't be, an error that says why.
    pub async fn retell(&self, reply: &[u8], host: Option<IpAddr>) -> Vec<u8> {
        let Some(cluster) = &self.cluster else { return reply.to_vec() };
        let host = match (&cluster.announce, host) {
            (Some(announced), _) => announced.clone(),
            (None, Some(address)) => address.to_string(),
            (None, None) => "127.0.0.1".to_owned(),
        };
        let why = match self.try_to_retell(cluster, reply, &host) {
            Retold::Reply(reply) => return reply,
            Retold::Failed(why) => why,
            Retold::Unknown(places) => {
                cluster.find(places, self.link.connect_timeout).await;
                match self.try_to_retell(cluster, reply, &host) {
                    Retold::Reply(reply) => return reply,
                    Retold::Failed(why) => why,
                    Retold::Unknown(_) => "the cluster could not be looked at in time".to_owned(),
                }
            }
        };
        format!("-ERR redis-ambassador: {}: {why}\r\n", self.link.name).into_bytes()
    }

    fn try_to_retell(&self, cluster: &Cluster, reply: &[u8], host: &str) -> Retold {
        let state = cluster.state.lock();
        let asked = self.backends.listed().first().map(|listed| listed.endpoint.clone());
        let told = Told { host, is_tls: self.link.listen_tls.is_some() };
        let (mut unknown, mut why) = (HashMap::new(), None);
        let mut port_of = |place: &Place<'_>| {
            let host = if place.host.is_empty() { state.host(place, asked.as_ref()) } else { None };
            let place = Place { host: host.as_deref().unwrap_or(place.host), ..*place };
            match state.node(&place) {
                Some(Served { port: Some(port), .. }) => return Port::Known(*port),
                Some(Served { port: None, .. }) => why = Some(cluster.too_few(&state)),
                None => {
                    if let Some(endpoint) = endpoint_of(place.host, place.port) {
                        unknown.insert(endpoint.to_string(), endpoint);
                        return Port::Unknown;
                    }
                }
            }
            Port::Hidden
        };
        let retold = if is_redirection(reply) {
            redirection(reply, &told, &mut port_of)
        } else {
            rewritten(reply, &told, &mut port_of)
        };
        match (retold, why) {
            (_, Some(why)) => Retold::Failed(why),
            (Ok(Some(reply)), None) => Retold::Reply(reply),
            (Ok(None), None) => Retold::Unknown(unknown.into_values().collect()),
            (Err(_), None) => Retold::Failed("the target's reply is no list of nodes".to_owned()),
        }
    }
}
