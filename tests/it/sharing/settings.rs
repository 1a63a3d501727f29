//! What `SHARE` may be.

use super::LINK;
use crate::support::{Launch, RedisServer, password};

fn launch() -> Launch {
    Launch::redis("127.0.0.1:1").variable("REDIS_AUTH", password())
}

/// Only sessions can share, and not without bound.
#[test]
fn the_setting_is_checked() {
    for value in ["0", "65", "100000000000000000000", "-1", "1.5", "many", "on"] {
        launch().variable("REDIS_SHARE", value).finish().expect_mistake("REDIS_SHARE");
    }
    launch().variable("REDIS_PORT_6379_SHARE", "65").finish().expect_mistake("REDIS_PORT_6379_SHARE");
    let mistake = launch().variable("REDIS_SHARE", "2").variable("REDIS_SESSIONS", "off").finish();
    let text = mistake.expect_mistake("REDIS_SHARE");
    assert!(text.contains("SESSIONS"), "{text}");
    Launch::plain("127.0.0.1:1").variable("DB_SHARE", "2").finish().expect_mistake("DB_SHARE");
}

/// As few as there may be, and as many.
#[test]
fn from_one_to_the_most_all_are_served() {
    let Some(server) = RedisServer::start("") else { return };
    for [name, value] in [["REDIS_SHARE", "1"], ["REDIS_SHARE", "64"], ["REDIS_PORT_6379_SHARE", "2"]] {
        let ambassador = Launch::redis(server.address()).variable(name, value).start();
        let mut client = ambassador.connect(LINK);
        client.send(b"SET k v\r\nGET k\r\nMULTI\r\nGET k\r\nEXEC\r\n");
        client.expect(b"+OK\r\n$1\r\nv\r\n+OK\r\n+QUEUED\r\n*1\r\n$1\r\nv\r\n");
    }
}
