//! In front of every server that people run: Redis 6.2, 7.0 and 8.2, Valkey 8.1 and 9.1.

use std::net::SocketAddr;

use crate::support::{Launch, RedisServer, Version, error_in, fixture, password};

/// Who a client of the ambassador is at the server, which answers what it was asked.
fn client_info(address: SocketAddr) -> String {
    let client = redis::Client::open(format!("redis://{address}/")).expect("a URL");
    let mut connection = client.get_connection().expect("a connection");
    redis::cmd("CLIENT").arg("INFO").query(&mut connection).expect("CLIENT INFO")
}

/// A password alone, a user with one, a database; and a wrong password is told in the server's own words.
#[test]
fn the_handshake_is_understood_by_every_server() {
    for version in Version::ALL {
        let secret = password();
        let configuration = format!("requirepass {secret}\nuser app on >{secret} ~* +@all");
        let Some(server) = RedisServer::start_version(version, &configuration) else { continue };
        let launch = || Launch::redis(server.address()).variable("REDIS_AUTH", &secret);
        for (launch, user, database) in [
            (launch(), "default", "0"),
            (launch().variable("REDIS_USERNAME", "app"), "app", "0"),
            (launch().variable("REDIS_USERNAME", "app").variable("REDIS_DB", "3"), "app", "3"),
        ] {
            let ambassador = launch.start();
            let info = client_info(ambassador.address("redis:6379"));
            for field in [format!(" user={user} "), format!(" db={database} ")] {
                assert!(info.contains(&field), "{}: no{field}in {info}", version.name());
            }
        }
        let ambassador = launch().variable("REDIS_AUTH", password()).start();
        let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
        let recorded = fixture(&format!("replies/{}/wrongpass.resp", version.name()));
        assert!(words.contains(error_in(recorded)), "{}: {words}", version.name());
        let ambassador = launch().variable("REDIS_DB", "16").start();
        let words = ambassador.connect("redis:6379").expect_refusal("redis:6379");
        let recorded = fixture(&format!("replies/{}/select-range.resp", version.name()));
        assert!(words.contains(error_in(recorded)), "{}: {words}", version.name());
    }
}
