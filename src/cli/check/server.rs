//! What a server tells of itself.

use redis_protocol::resp2::types::BytesFrame;
use serde::Serialize;

use crate::failure::Failure;
use crate::resp;
use crate::upstream::handshake::Interview;

/// Longer words than these are no version of anything.
const LONGEST: usize = 40;

/// Which server it is; `None` is what it does not tell.
#[derive(Debug, Default, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Server {
    /// Redis, Valkey, `KeyDB` or Dragonfly, or what it calls itself.
    pub(super) kind: Option<String>,
    pub(super) version: Option<String>,
    /// `standalone`, `cluster` or `sentinel`.
    pub(super) mode: Option<String>,
    /// `master` or `replica`.
    pub(super) role: Option<String>,
}

impl Server {
    /// Asks: INFO says most, but not every user may send it; HELLO nobody can be forbidden, since there is one; ROLE is
    /// what is left for servers that are older than HELLO and have renamed INFO.
    pub(super) async fn ask(interview: &mut Interview<'_>) -> Result<Self, Failure> {
        let mut server = Self::of_info(&interview.ask(&[b"INFO"]).await?);
        if server == Self::default() {
            server = Self::of_hello(&interview.ask(&[b"HELLO", b"2"]).await?);
        }
        if server == Self::default() {
            let told = interview.ask(&[b"ROLE"]).await?;
            if let BytesFrame::Array(items) = told {
                server.role = items.first().and_then(resp::text).map(role);
            }
        }
        let words = [&mut server.kind, &mut server.version, &mut server.mode, &mut server.role];
        for word in words.into_iter().flatten() {
            *word = interview.mask(word).chars().take(LONGEST).collect();
        }
        Ok(server)
    }

    fn of_info(answer: &BytesFrame) -> Self {
        let info = resp::text(answer).unwrap_or_default();
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        // Those that came after Redis also tell a version of Redis that they can stand in for.
        let (kind, version) = if let Some(version) = field("valkey_version") {
            ("Valkey", Some(version))
        } else if let Some(version) = field("dragonfly_version") {
            ("Dragonfly", Some(version.trim_start_matches("df-v").to_owned()))
        } else if field("mvcc_depth").is_some() {
            ("KeyDB", field("redis_version"))
        } else {
            ("Redis", field("redis_version"))
        };
        Self {
            kind: version.is_some().then(|| kind.to_owned()),
            version,
            // Valkey has called it so since its version 8.
            mode: field("redis_mode").or_else(|| field("server_mode")),
            role: field("role").as_deref().map(role),
        }
    }

    fn of_hello(answer: &BytesFrame) -> Self {
        let field = |name| resp::field(answer, name).and_then(resp::text).map(str::to_owned);
        let kind = field("server").map(|name| match name.as_str() {
            "redis" => "Redis".to_owned(),
            "valkey" => "Valkey".to_owned(),
            _ => name,
        });
        Self {
            kind,
            version: field("version"),
            mode: field("mode"),
            role: field("role").as_deref().map(role),
        }
    }
}

/// The role as we call it; servers still say `slave`.
fn role(told: &str) -> String {
    if told == "slave" { "replica" } else { told }.to_owned()
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;

    use super::*;
    use crate::fixtures::fixture;

    #[test]
    fn servers_are_told_apart_by_what_they_add_to_info() {
        let info = |server: &str| Server::of_info(&answer(server, "info"));
        for (server, kind, version) in [
            ("redis-6.2", "Redis", "6.2.14"),
            ("redis-7.0", "Redis", "7.0.15"),
            ("redis-8.2", "Redis", "8.2.3"),
            ("valkey-8.1", "Valkey", "8.1.8"),
            ("valkey-9.1", "Valkey", "9.1.2"),
            ("dragonfly", "Dragonfly", "1.30.0"),
            ("keydb", "KeyDB", "6.3.4"),
        ] {
            let server = info(server);
            assert_eq!((server.kind.as_deref(), server.version.as_deref()), (Some(kind), Some(version)));
        }
        let nothing = BytesFrame::BulkString("nothing:of the kind\r\n".into());
        assert_eq!(Server::of_info(&nothing), Server::default());
        assert_eq!(Server::of_info(&BytesFrame::Error("NOPERM".into())), Server::default());
    }

    #[test]
    fn info_and_hello_say_the_same() {
        for server in ["redis-6.2", "redis-7.0", "redis-8.2", "valkey-8.1", "valkey-9.1"] {
            let (info, hello) =
                (Server::of_info(&answer(server, "info")), Server::of_hello(&answer(server, "hello-2")));
            assert_eq!(info, hello);
            assert_eq!(
                (info.mode.as_deref(), info.role.as_deref()),
                (Some("standalone"), Some("master")),
                "{server}"
            );
        }
    }

    /// The last value of a recorded answer.
    fn answer(server: &str, situation: &str) -> BytesFrame {
        let said = fixture(&format!("replies/{server}/{situation}.resp"));
        let mut buffer = BytesMut::from(&said[..]);
        resp::value(&mut buffer, said.len()).unwrap().expect("a whole reply")
    }
}
