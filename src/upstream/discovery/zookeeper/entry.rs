//! What a server says of itself in a node of ZooKeeper: `HOST:PORT`, as data or as the node's name; the JSON of Curator's
//! `ServiceInstance`; or that of a Finagle server set.

use serde::Deserialize;

use crate::config::target::endpoint;
use crate::net::Endpoint;
use crate::upstream::discovery::endpoint_of;

/// Curator's record and Finagle's, by the fields that say where a server is.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Record {
    address: Option<String>,
    port: Option<u16>,
    ssl_port: Option<u16>,
    /// Whether a server of Curator's wants to be found.
    enabled: Option<bool>,
    service_endpoint: Option<Place>,
    /// How a server of Finagle's is.
    status: Option<String>,
}

#[derive(Deserialize)]
struct Place {
    host: String,
    port: u16,
}

/// The server behind a node; `None` if it says that it does not serve. Towards a target with TLS, Curator's `sslPort` is
/// meant where there is one.
pub fn read(name: &str, data: &[u8], is_tls: bool) -> Result<Option<Endpoint>, String> {
    let text = data.trim_ascii();
    let of_name = || name.contains(':').then(|| endpoint(name, None).ok()).flatten();
    if text.starts_with(b"{") {
        let record = serde_json::from_slice(text).map_err(|error| {
            let place = format!("line {}, column {}", error.line(), error.column());
            format!("its data is not the JSON of Curator or Finagle ({place})")
        });
        return record.and_then(|record: Record| record.server(is_tls));
    }
    let of_data = std::str::from_utf8(text).ok().filter(|text| text.contains(':'));
    let wrong = match of_data.map(|text| endpoint(text, None)) {
        Some(Ok(endpoint)) => return Ok(Some(endpoint)),
        Some(Err(wrong)) => format!("its data is not HOST:PORT: {wrong}"),
        None => "neither its data nor its name is HOST:PORT".to_owned(),
    };
    of_name().map(Some).ok_or(wrong)
}

impl Record {
    fn server(self, is_tls: bool) -> Result<Option<Endpoint>, String> {
        /// What Finagle writes of a server that takes requests.
        const ALIVE: &str = "ALIVE";
        let is_away = self.enabled == Some(false) || self.status.is_some_and(|status| status != ALIVE);
        if is_away {
            return Ok(None);
        }
        let (host, port) = match (self.service_endpoint, self.address) {
            (Some(Place { host, port }), _) => (host, Some(port)),
            (None, Some(address)) => (address, self.ssl_port.filter(|_| is_tls).or(self.port)),
            (None, None) => return Err("its JSON names neither an address nor a serviceEndpoint".to_owned()),
        };
        let port = port.ok_or("its JSON names no port")?;
        let place = endpoint_of(&host, port).ok_or("its JSON names no host and port that can be dialled")?;
        Ok(Some(place))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(name: &str, data: &str, is_tls: bool) -> Result<Option<String>, String> {
        read(name, data.as_bytes(), is_tls).map(|found| found.map(|endpoint| endpoint.to_string()))
    }

    #[test]
    fn a_server_says_in_one_of_several_ways_where_it_is() {
        let curator = r#"{"name":"redis","id":"7","address":"10.0.0.1","port":6379,"sslPort":6380,"payload":null,"serviceType":"DYNAMIC"}"#;
        let finagle = r#"{"serviceEndpoint":{"host":"::1","port":7},"additionalEndpoints":{"aurora":{"host":"h","port":8}},"status":"ALIVE","shard":0}"#;
        for (name, data, is_tls, place) in [
            ("member_0000000001", "10.0.0.1:6379", false, "10.0.0.1:6379"),
            ("member_0000000001", " redis-1.test:6379\n", false, "redis-1.test:6379"),
            ("10.0.0.1:6379", "", false, "10.0.0.1:6379"),
            ("[::1]:6379", "weight=3", false, "[::1]:6379"),
            // The data is what a server can change.
            ("10.0.0.1:6379", "10.0.0.2:6379", false, "10.0.0.2:6379"),
            ("7", curator, false, "10.0.0.1:6379"),
            ("7", curator, true, "10.0.0.1:6380"),
            ("member_0000000001", finagle, false, "[::1]:7"),
            ("member_0000000001", finagle, true, "[::1]:7"),
        ] {
            assert_eq!(shown(name, data, is_tls), Ok(Some(place.to_owned())), "{name} {data}");
        }
    }

    #[test]
    fn a_server_that_does_not_serve_is_no_mistake_and_nonsense_is_one() {
        for data in [
            r#"{"address":"10.0.0.1","port":6379,"enabled":false}"#,
            r#"{"serviceEndpoint":{"host":"h","port":7},"status":"DEAD"}"#,
        ] {
            assert_eq!(shown("7", data, false), Ok(None), "{data}");
        }
        for (name, data) in [
            ("7", ""),
            ("7", "redis"),
            ("a:b", ""),
            ("10.0.0.1:6379", "{"),
            ("7", "{}"),
            ("7", r#"{"address":"10.0.0.1"}"#),
            ("7", r#"{"address":"10.0.0.1","port":70000}"#),
            ("7", r#"{"address":"a b","port":7}"#),
            ("7", r#"{"serviceEndpoint":{"host":"h","port":0},"status":"ALIVE"}"#),
        ] {
            assert!(shown(name, data, false).is_err(), "{name} {data}");
        }
    }
}
