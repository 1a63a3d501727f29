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
    /// Asks: INFO says most, but not every user may send it; HELLO nobody can be forbidden, since there is one.
    pub(super) async fn ask(interview: &mut Interview<'_>) -> Result<Self, Failure> {
        let mut server = match interview.ask(&[b"INFO"]).await? {
            BytesFrame::Error(_) => match interview.ask(&[b"HELLO", b"2"]).await? {
                BytesFrame::Error(_) => Self::default(),
                answer => Self::of_hello(&answer),
            },
            answer => Self::of_info(resp::text(&answer).unwrap_or_default()),
        };
        let words = [&mut server.kind, &mut server.version, &mut server.mode, &mut server.role];
        for word in words.into_iter().flatten() {
            *word = interview.mask(word).chars().take(LONGEST).collect();
        }
        Ok(server)
    }

    fn of_info(info: &str) -> Self {
        let field = |name: &str| {
            info.lines()
                .find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
                .map(|value| value.trim().to_owned())
        };
        // Those that came after Redis also tell a version of Redis that they can stand in for.
        let (kind, version) = if let Some(version) = field("valkey_version") {
            ("Valkey", Some(version))
        } else if let Some(version) = field("dragonfly_version") {
            ("Dragonfly", Some(version.trim_start_matches("df-").to_owned()))
        } else if field("mvcc_depth").is_some() {
            ("KeyDB", field("redis_version"))
        } else {
            ("Redis", field("redis_version"))
        };
        Self {
            kind: version.is_some().then(|| kind.to_owned()),
            version,
            mode: field("redis_mode"),
            role: field("role").map(role),
        }
    }

    fn of_hello(answer: &BytesFrame) -> Self {
        let field = |name| resp::field(answer, name).and_then(resp::text).map(str::to_owned);
        let kind = field("server").map(|name| match name.as_str() {
            "redis" => "Redis".to_owned(),
            "valkey" => "Valkey".to_owned(),
            _ => name,
        });
        Self { kind, version: field("version"), mode: field("mode"), role: field("role").map(role) }
    }
}

/// The role as we call it; servers still say `slave`.
fn role(told: String) -> String {
    if told == "slave" { "replica".to_owned() } else { told }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart_by_what_they_add_to_info() {
        for (info, kind, version) in [
            ("# Server\r\nredis_version:7.0.15\r\nredis_mode:standalone\r\n", "Redis", "7.0.15"),
            ("redis_version:7.2.4\r\nserver_name:valkey\r\nvalkey_version:8.1.1\r\n", "Valkey", "8.1.1"),
            ("redis_version:7.4.0\r\ndragonfly_version:df-v1.30.0\r\n", "Dragonfly", "v1.30.0"),
            ("redis_version:6.3.4\r\n# KeyDB\r\nmvcc_depth:0\r\n", "KeyDB", "6.3.4"),
        ] {
            let server = Server::of_info(info);
            assert_eq!((server.kind.as_deref(), server.version.as_deref()), (Some(kind), Some(version)));
        }
        assert_eq!(Server::of_info("nothing:of the kind\r\n"), Server::default());
    }
}
