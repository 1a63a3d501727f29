//! The page for people: `GET /` of the admin endpoint, as it is written and as a browser shows it.

use std::fs;

use serde_json::{Value, json};

use crate::support::{
    Ambassador, Browser, Launch, Peer, RedisServer, Target, eventually, get, own_address, password, request,
    token,
};

/// Words of a server that would be markup where nobody took care.
const HOSTILE: &str = "-ERR </td></table><img src=x onerror=\"pwned=1\"><script>pwned=1</script>'&\r\n";

/// The link `redis:6379` whose server refuses the password with these words.
fn refused(words: &'static str) -> (crate::support::Served, Ambassador) {
    let target = Target::start().serve(move |mut peer| {
        peer.expect(b"*2\r\n$4\r\nAUTH\r\n");
        let _ = peer.try_send(words.as_bytes());
        let _ = peer.try_finish_sending();
    });
    let ambassador = Launch::redis(target.address()).variable("REDIS_AUTH", password()).start();
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    (target, ambassador)
}

/// So many idle links, one of which may fail; `redis:6379` goes to that server.
fn many(number: usize, redis: &RedisServer, password: &str) -> Ambassador {
    let mut launch = Launch::redis(redis.address()).variable("REDIS_AUTH", password);
    for number in 1..number {
        launch = launch.redis_link(&format!("LINK{number:02}"), own_address());
    }
    launch.start()
}

fn ping(client: &mut Peer) {
    client.send(b"PING\r\n");
    client.expect(b"+PONG\r\n");
}

fn url(ambassador: &Ambassador) -> String {
    format!("http://{}/", ambassador.admin())
}

/// The document names what it may do: its own style and script, questions to its own server, and no frame around it.
#[test]
fn the_page_is_small_and_may_do_little() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).start();
    let page = get(ambassador.admin(), "/");
    assert_eq!(page.status, 200);
    assert!(page.body.len() <= 40 * 1024, "{} bytes", page.body.len());
    for header in [
        "content-type: text/html; charset=utf-8\r\n",
        "cache-control: no-store\r\n",
        "x-content-type-options: nosniff\r\n",
        "referrer-policy: no-referrer\r\n",
        "x-frame-options: deny\r\n",
    ] {
        assert!(page.head.contains(header), "{header} in {}", page.head);
    }
    let policy = page.head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.expect("a policy");
    let rules: Vec<_> = policy.split(';').map(str::trim).collect();
    for rule in [
        "default-src 'none'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    ] {
        assert!(rules.contains(&rule), "{rule} in {policy}");
    }
    for kind in ["script-src", "style-src"] {
        let rule = rules.iter().find_map(|rule| rule.strip_prefix(kind)).expect(kind).trim();
        assert!(rule.starts_with("'sha256-") && !rule.contains(' '), "{kind} {rule}");
    }
    let head = request(ambassador.admin(), "HEAD / HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!((head.status, &*head.body), (200, ""), "{head:?}");
    for method in ["POST", "PUT", "DELETE"] {
        let answer = request(ambassador.admin(), &format!("{method} / HTTP/1.1\r\nHost: x\r\n\r\n"));
        assert_eq!(answer.status, 405, "{method}: {answer:?}");
    }
}

/// Without a script there is a table of the moment: where each link listens and leads, who is there, and whether it works.
#[test]
fn the_table_needs_no_script() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address()).redis_link("REDIS", own_address()).start();
    let mut client = ambassador.connect("db:5432");
    client.send(b"hello");
    client.expect(b"hello");
    let page = get(ambassador.admin(), "/").body;
    let row = |link: &str| {
        let (_, row) =
            page.split_once(&format!("<tbody role=\"rowgroup\" data-link=\"{link}\"")).expect("a row");
        row.split_once("</tbody>").expect("its end").0.to_owned()
    };
    let db = row("db:5432");
    for fact in [
        format!("<code>{}</code>", ambassador.listens("db:5432")),
        format!("<code>tcp://{}</code>", target.address()),
        format!("<li><code>{}</code>", target.address()),
        "<span class=\"pill\">works</span>".to_owned(),
        "<span class=\"clients\">1</span>".to_owned(),
        "<small class=\"upstreams\">1 upstream</small>".to_owned(),
        "a plain tunnel".to_owned(),
    ] {
        assert!(db.contains(&fact), "{fact} in {db}");
    }
    assert!(row("redis:6379").contains("<span class=\"pill\">not dialled</span>"), "{page}");
    assert!(page.contains("<dd id=\"links\">2</dd>") && page.contains("<dd id=\"clients\">1</dd>"), "{page}");
    assert!(!page.contains("{{"), "{page}");
}

/// A link that fails comes first, and says since when, at what stage, why, and what helps.
#[test]
fn a_link_that_fails_says_why_and_what_helps() {
    let target = Target::start().echo();
    let ambassador = Launch::plain(target.address())
        .redis_link("REDIS", own_address())
        .variable("REDIS_CONNECT_TIMEOUT", "100ms")
        .start();
    ambassador.connect("redis:6379").expect_refusal("redis:6379");
    let page = get(ambassador.admin(), "/").body;
    let place = |words: &str| page.find(words).unwrap_or_else(|| panic!("{words} in {page}"));
    assert!(place("data-link=\"redis:6379\" class=\"fails\"") < place("data-link=\"db:5432\""), "{page}");
    let dial = &get(ambassador.admin(), "/links").link("redis:6379")["last_dial"];
    let remedy = dial["remedy"].as_str().expect("a remedy").replace('"', "&quot;").replace('\'', "&#39;");
    for words in ["<span class=\"pill\">fails</span>", "<b>Failed</b> (connect)", "1 failing", &remedy] {
        assert!(page.contains(words), "{words} in {page}");
    }
}

/// `/links` says what to look at where a link works all the same.
#[test]
fn a_link_that_works_can_have_a_warning() {
    let (down, target) = (own_address(), Target::start().echo());
    let ambassador =
        Launch::plain(format!("{down},{}", target.address())).variable("DB_CONNECT_TIMEOUT", "2s").start();
    let state = || get(ambassador.admin(), "/links").link("db:5432");
    assert_eq!((&state()["state"], &state()["warnings"]), (&json!("unknown"), &json!([])));
    eventually("the backend that is down has been tried", || {
        let mut client = ambassador.connect("db:5432");
        client.send(b"hello");
        client.expect(b"hello");
        state()["backends"][0]["up"] == false
    });
    let told = state();
    assert_eq!(told["state"], "degraded", "{told}");
    assert!(told["warnings"][0].as_str().is_some_and(|words| words.starts_with("1 of 2 backends")), "{told}");
    let page = get(ambassador.admin(), "/").body;
    assert!(page.contains("1 of 2 backends failed") && page.contains("<li class=\"down\">"), "{page}");
}

/// Names and words from outside are text: those of a server, and those of a target.
#[test]
fn words_from_outside_are_no_markup() {
    let (_target, ambassador) = refused(HOSTILE);
    let page = get(ambassador.admin(), "/").body;
    let (markup, _) = page.split_once("<script>").expect("a script");
    assert!(
        markup.contains("&lt;/td&gt;&lt;/table&gt;&lt;img src=x onerror=&quot;pwned=1&quot;&gt;"),
        "{markup}"
    );
    assert!(!markup.contains("<img") && !markup.contains("pwned=1\""), "{markup}");

    let directory = tempfile::tempdir().expect("a temporary directory");
    let path = directory.path().join("{{rows}}<b onclick='x'>\"&.sock");
    let ambassador = Launch::new()
        .variable("DB_PORT_5432_TCP", format!("unix://{}", path.display()))
        .variable("DB_LISTEN", "127.0.0.1:0")
        .start();
    let page = get(ambassador.admin(), "/").body;
    assert!(!page.contains("<b onclick"), "{page}");
    assert!(page.contains("{{rows}}&lt;b onclick=&#39;x&#39;&gt;&quot;&amp;.sock"), "{page}");
    assert_eq!(page.matches("data-link=").count(), 1, "{page}");
}

/// No secret is there, wherever it came from: `get` looks for each in every answer.
#[test]
fn the_page_shows_no_secret() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, password()).expect("a file");
    let target = Target::start().serve(|mut peer| {
        let said = peer.receive(30);
        // It quotes what it was sent.
        let _ =
            peer.try_send(&[b"-ERR unknown command, with args beginning with: ", &*said, b"\r\n"].concat());
        let _ = peer.try_finish_sending();
    });
    let mut launch = Launch::new()
        .redis_link("FILE", target.address())
        .variable("FILE_AUTH_FILE", &file)
        .redis_link("URL", format!(":{}@{}", password(), target.address()))
        .redis_link("CLIENTS", target.address())
        .variable("CLIENTS_CLIENT_AUTH", "require")
        .variable("CLIENTS_CLIENT_PASSWORD", password());
    launch = launch.variable("SOME_OTHER_VARIABLE", token());
    let ambassador = launch.start();
    for link in ["file:6379", "url:6379"] {
        ambassador.connect(link).expect_refusal(link);
    }
    for path in ["/", "/links", "/history", "/metrics"] {
        assert_eq!(get(ambassador.admin(), path).status, 200);
    }
}

/// `/history` has what the metrics count, a sample every five seconds, and only what is new to who has the rest.
#[test]
fn the_history_is_what_was_counted() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let ambassador = many(2, &redis, &password);
    let told = |query: &str| -> Value {
        serde_json::from_str(&get(ambassador.admin(), &format!("/history{query}")).body).expect("JSON")
    };
    let first = told("");
    assert_eq!((&first["every_seconds"], &first["links"][0]["commands"]), (&json!(5), &json!([])), "{first}");
    let mut client = ambassador.connect("redis:6379");
    for _ in 0..50 {
        ping(&mut client);
    }
    client.send(b"NONSENSE\r\n");
    assert!(client.expect_line().starts_with("-ERR"));
    let sum = |told: &Value, link: usize, name: &str| -> f64 {
        told["links"][link][name].as_array().expect("a list").iter().filter_map(Value::as_f64).sum()
    };
    let redis_is = |told: &Value| {
        told["links"].as_array().expect("links").iter().position(|of| of["link"] == "redis:6379")
    };
    let at = redis_is(&first).expect("redis:6379");
    eventually("both are told", || {
        let now = told("");
        sum(&now, at, "commands") > 1.0 && sum(&now, at, "errors") > 0.01
    });
    let now = told("");
    // 51 within five seconds, or a little more.
    assert!((1.0..=10.3).contains(&sum(&now, at, "commands")), "{now}");
    assert!((0.01..=0.21).contains(&sum(&now, at, "errors")), "{now}");
    assert!(sum(&now, at, "p99_ms") >= sum(&now, at, "p50_ms") && sum(&now, at, "p50_ms") > 0.0, "{now}");
    assert_eq!(now["links"][at]["clients"].as_array().and_then(|all| all.last()), Some(&json!(1)), "{now}");
    let other = 1 - at;
    assert!(
        sum(&now, other, "commands").abs() < 0.001 && now["links"][other]["p50_ms"][0].is_null(),
        "{now}"
    );
    assert_eq!(now["links"][at]["last_hour"], json!({ "exchanged": 0, "rotated": 0, "moved": 0 }), "{now}");
    let taken = now["taken"].as_u64().expect("a number");
    let length = |told: &Value| told["links"][at]["commands"].as_array().map_or(0, Vec::len);
    let new = told(&format!("?after={taken}"));
    assert!(length(&new) <= 1 && new["taken"].as_u64() >= Some(taken), "{new}");
    assert!(length(&told("?after=nonsense")) >= length(&now));
}

/// What happened within the hour is told: a session that went on with another upstream, and a secret that changed.
#[test]
fn what_happened_within_the_hour_is_told() {
    let (old, new) = (password(), password());
    let Some(redis) = RedisServer::start(&format!("user default on >{old} >{new} ~* &* +@all")) else {
        return;
    };
    let directory = tempfile::tempdir().expect("a temporary directory");
    let file = directory.path().join("password");
    fs::write(&file, &old).expect("a file");
    let ambassador = Launch::redis(redis.address()).variable("REDIS_AUTH_FILE", &file).start();
    let mut client = ambassador.connect("redis:6379");
    ping(&mut client);
    let mut admin = Peer::connect(redis.address());
    admin.send(format!("AUTH {old}\r\nCLIENT KILL TYPE normal SKIPME yes\r\n").as_bytes());
    admin.expect(b"+OK\r\n:1\r\n");
    ping(&mut client);
    let next = directory.path().join("next");
    fs::write(&next, &new).expect("a file");
    fs::rename(next, &file).expect("a rename");
    ping(&mut ambassador.connect("redis:6379"));
    let hour = || -> Value {
        let told: Value = serde_json::from_str(&get(ambassador.admin(), "/history").body).expect("JSON");
        told["links"][0]["last_hour"].clone()
    };
    eventually("both are told", || hour() == json!({ "exchanged": 1, "rotated": 1, "moved": 0 }));
    assert!(get(ambassador.admin(), "/").body.contains("1 exchanged, 1 rotated"));
}

/// In a browser the figures change where they are, without another page: clients, a failure and its remedy, charts.
#[test]
fn the_page_is_live_in_a_browser() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let Some(mut browser) = Browser::start() else { return };
    let (_refused, other) = refused(HOSTILE);
    let ambassador = many(5, &redis, &password);
    browser.open(&url(&ambassador));
    browser.eventually("document.querySelectorAll('.unknown').length === 5");
    browser.value("window.same = document.querySelector('[data-link=\"redis:6379\"] .clients'); 1");
    let mut client = ambassador.connect("redis:6379");
    for _ in 0..50 {
        ping(&mut client);
    }
    ambassador.connect("link03:6379").expect_refusal("link03:6379");
    browser.eventually("same.isConnected && same.textContent === '1'");
    browser.eventually("document.querySelector('tbody').dataset.link === 'link03:6379'");
    for (what, selector) in [("fails", ".pill"), ("Remedy", ".more .failure")] {
        browser.eventually(&format!(
            "document.querySelector('[data-link=\"link03:6379\"] {selector}').innerText.includes('{what}')"
        ));
    }
    let redis = "document.querySelector('[data-link=\"redis:6379\"]')";
    browser.eventually(&format!(
        "{redis}.querySelector('.chart .line').getAttribute('d')?.startsWith('M') ?? false"
    ));
    browser.eventually(&format!("{redis}.querySelector('.latency').textContent.includes('p99')"));
    browser.eventually("document.title === '(1 failing) redis-ambassador'");
    browser.eventually("document.querySelector('#news').textContent === 'Failing: link03:6379'");
    browser.expect_no_complaint();

    // What a server says is text there, too.
    browser.open(&url(&other));
    browser.eventually(
        "document.querySelector('.failure')?.textContent.includes('<img src=x onerror=') ?? false",
    );
    assert_eq!(browser.value("document.images.length + document.scripts.length"), 1);
    assert_eq!(browser.value("typeof pwned"), "undefined");
    browser.expect_no_complaint();

    // A process that ends is said to give no answer.
    drop(other);
    browser.eventually("document.body.classList.contains('stale')");
    assert!(browser.value("document.querySelector('#age').innerText").to_string().contains("no answer for"));
}

/// One idle link, five, a hundred; a wide window and a telephone's; by day and by night; with a script and without.
#[test]
fn the_page_fits_every_window() {
    let password = password();
    let Some(redis) = RedisServer::start(&format!("requirepass {password}")) else { return };
    let Some(mut browser) = Browser::start() else { return };
    for number in [1, 5, 100] {
        let ambassador = many(number, &redis, &password);
        ping(&mut ambassador.connect("redis:6379"));
        if number > 1 {
            ambassador.connect("link04:6379").expect_refusal("link04:6379");
        }
        for (width, is_dark) in [(1400, false), (1400, true), (900, false), (360, true), (320, false)] {
            browser.look(width, is_dark);
            browser.open(&url(&ambassador));
            browser.eventually("document.querySelector('#age').textContent === 'live'");
            let wide = browser.value("document.documentElement.scrollWidth");
            assert!(wide.as_u64() <= Some(width.into()), "{number} links need {wide} of {width}");
            let light = browser.value(
                "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).slice(0, 3).every(part => part > 127)",
            );
            assert_eq!(light, !is_dark, "{number} links");
            assert_eq!(browser.value("document.querySelectorAll('tbody').length"), number);
            // A screen reader is told of a table, whatever it looks like.
            let tree = browser.call("Accessibility.getFullAXTree", &json!({}));
            let roles = |role: &str| {
                let nodes = tree["nodes"].as_array().expect("nodes").iter();
                nodes.filter(|node| node["role"]["value"] == role && node["ignored"] != true).count()
            };
            assert_eq!((roles("table"), roles("rowheader")), (1, number), "{number} links, {width}");
        }
        if number == 100 {
            assert_eq!(browser.value("document.querySelector('tbody').dataset.link"), "link04:6379");
            let choose = |browser: &mut Browser, words: &str| {
                browser.value(&format!(
                    "document.querySelector('#filter').value = '{words}'; \
                     document.querySelector('#filter').dispatchEvent(new Event('input')); \
                     [...document.querySelectorAll('tbody')].filter(row => !row.hidden).length"
                ))
            };
            assert_eq!(choose(&mut browser, "link09"), 1);
            assert_eq!(choose(&mut browser, "LINK7"), 10);
            assert_eq!(choose(&mut browser, "no such"), 0);
            assert_eq!(browser.value("document.querySelector('#none').hidden"), false);
            assert_eq!(choose(&mut browser, ""), 100);
            browser.value("document.querySelector('#trouble').click()");
            assert_eq!(choose(&mut browser, ""), 1);
        }
        browser.expect_no_complaint();
        browser.call("Emulation.setScriptExecutionDisabled", &json!({ "value": true }));
        browser.open(&url(&ambassador));
        let text = browser.call("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        let html = browser.call("DOM.getOuterHTML", &json!({ "nodeId": text }))["outerHTML"].to_string();
        assert!(html.contains("as of this moment") && html.contains("works"), "{html}");
        browser.call("Emulation.setScriptExecutionDisabled", &json!({ "value": false }));
        browser.expect_no_complaint();
    }
    // It does complain: of what the policy forbids.
    browser.value(
        "document.body.append(Object.assign(document.createElement('script'), { textContent: 'window.ran = 1' }))",
    );
    assert_eq!(browser.value("window.ran ?? null"), Value::Null);
    assert!(browser.complaints().iter().any(|words| words.contains("Content Security Policy")));
}
