//! The page of the admin endpoint.

use std::fmt::Write;
use std::net::SocketAddr;
use std::process::Command;

use crate::support::{
    Ambassador, Launch, RedisServer, Target, command_is_missing, eventually, get, own_address, password,
    request,
};

/// A link that works, and one that nobody answers.
fn two_links() -> Option<(RedisServer, Ambassador)> {
    let password = password();
    let server = RedisServer::start(&format!("requirepass {password}"))?;
    let ambassador = Launch::redis(server.address())
        .variable("REDIS_AUTH", &password)
        .plain_link("DB", own_address())
        .variable("DB_CONNECT_TIMEOUT", "1s")
        .start();
    let mut client = ambassador.connect("redis:6379");
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
    ambassador.connect("db:5432").expect_gone();
    Some((server, ambassador))
}

/// What is asked first is there without a script: where links lead, whether they work, what failed and what helps. The
/// document may load nothing and be in nobody's frame.
#[test]
fn the_page_tells_what_is_asked_first() {
    let Some((server, ambassador)) = two_links() else { return };
    let answer = get(ambassador.admin(), "/");
    assert_eq!(answer.status, 200);
    assert!(answer.head.contains("content-type: text/html; charset=utf-8"), "{}", answer.head);
    let policy = answer.head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.expect("a policy");
    assert!(policy.starts_with("default-src 'none'; script-src 'nonce-"), "{policy}");
    assert!(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"), "{policy}");
    assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
    let address = server.address().to_string();
    for told in [
        "2 links · 1 failing · ",
        "redis:6379",
        &address,
        "works, ",
        "db:5432",
        "fails, ",
        "Connection refused",
        "check that the target of DB_PORT_5432_TCP is running and listening",
    ] {
        assert!(answer.body.contains(told), "no {told}:\n{}", answer.body);
    }
    // What fails comes first.
    assert!(answer.body.find(">db:5432<") < answer.body.find(">redis:6379<"));
    let nonce = |head: &str| head.split("'nonce-").nth(1).map(|rest| rest[..32].to_owned());
    assert_ne!(nonce(&answer.head), nonce(&get(ambassador.admin(), "/").head));
    let head = request(ambassador.admin(), "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, &*head.body), (200, ""));
}

/// What a server says is text, whatever it looks like.
#[test]
fn the_words_of_a_server_are_no_markup() {
    let target = Target::start();
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", password()).start();
    let mut client = ambassador.connect("redis:6379");
    target.accept().send(b"-ERR </p><script>alert(\"x\")</script>\r\n");
    client.expect_refusal("redis:6379");
    let page = get(ambassador.admin(), "/").body;
    assert!(page.contains("&lt;script&gt;alert(&quot;x&quot;)&lt;/script&gt;"), "{page}");
    assert_eq!(page.matches("<script").count(), 1);
}

/// The page as a browser has it after some seconds of its time, without an error in its log.
fn browsed(admin: SocketAddr, width: u32) -> String {
    let profile = tempfile::tempdir().expect("a temporary directory");
    let output = Command::new("chromium")
        .args(["--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--dump-dom"])
        .arg(format!("--window-size={width},800"))
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--virtual-time-budget=10000", &format!("http://{admin}/")])
        .output()
        .expect("chromium");
    let log = String::from_utf8_lossy(&output.stderr);
    let said: Vec<_> = log.lines().filter(|line| line.contains("CONSOLE")).collect();
    assert!(said.is_empty(), "{said:#?}");
    String::from_utf8(output.stdout).expect("a page")
}

/// A real browser is content with it, and keeps it up to date.
#[test]
fn a_browser_shows_the_page_and_renews_it() {
    if command_is_missing("chromium") {
        return;
    }
    let Some((_server, ambassador)) = two_links() else { return };
    for width in [1280, 360] {
        let page = browsed(ambassador.admin(), width);
        assert!(page.contains("redis:6379") && page.contains("renewed every 3 s"), "{page}");
        // There is nothing to choose from.
        assert!(page.contains("<label id=\"filter\" hidden"), "{page}");
    }
}

/// So with a hundred links, which can be filtered.
#[test]
fn a_browser_shows_a_hundred_links() {
    if command_is_missing("chromium") {
        return;
    }
    let target = Target::start().echo();
    let launch = (0..100)
        .fold(Launch::new(), |launch, number| launch.plain_link(&format!("LINK{number}"), target.address()));
    let ambassador = launch.start();
    let page = browsed(ambassador.admin(), 1280);
    assert!(page.contains("100 links · no failure · 0 clients"), "{page}");
    assert_eq!(page.matches("<tbody>").count(), 100);
    assert!(page.contains("<label id=\"filter\">"), "{page}");
    assert!(page.len() < 128 * 1024, "{} bytes", page.len());
}

/// Commands and their latency are shown a few seconds later.
#[test]
fn what_was_done_lately_is_shown() {
    let Some((_server, ambassador)) = two_links() else { return };
    let mut client = ambassador.connect("redis:6379");
    let mut said = String::new();
    eventually("a chart", || {
        client.send(b"PING\r\n");
        client.expect(b"+PONG\r\n");
        said.clear();
        let _ = write!(said, "{}", get(ambassador.admin(), "/").body);
        said.contains("<svg") && said.contains("median ")
    });
    assert!(said.contains("aria-label=\"Latency of ten minutes"), "{said}");
}
