//! What a server tells of itself.

use redis_protocol::resp2::types::BytesFrame;
use serde::Serialize;

use crate::failure::Failure;
use crate::greet::Interview;
use crate::resp;

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
            mode: field("redis_mode"),
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
    use super::*;

    #[test]
    fn servers_are_told_apart_by_what_they_add_to_info() {
        let info = |info: &'static str| Server::of_info(&BytesFrame::BulkString(info.into()));
        for (told, kind, version) in [
            ("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n", "Redis", "7.0.15"),
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n", "Valkey", "8.1.1"),
            ("redis_version:7.4.0\r\ndragonfly_version:df-v1.30.0\r\n", "Dragonfly", "1.30.0"),
            ("redis_version:6.3.4\r\n# KeyDB\r\nmvcc_depth:0\r\n", "KeyDB", "6.3.4"),
        ] {
            let server = info(told);
            assert_eq!((server.kind.as_deref(), server.version.as_deref()), (Some(kind), Some(version)));
        }
        assert_eq!(info("nothing:of the kind\r\n"), Server::default());
        assert_eq!(Server::of_info(&BytesFrame::Error("NOPERM".into())), Server::default());
    }
}
