//! A session between a client and an upstream that tests play.

use std::cell::Cell;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf, duplex};

use super::*;
use crate::metrics::Metrics;
use crate::relay::drain::DrainRequest;
use crate::relay::shared::UNREAD_REPLIES;

thread_local! {
    /// Whether the kernel has something of the peer's that the runtime has not told of yet.
    static HAS_NEWS: Cell<bool> = const { Cell::new(false) };
    /// Whether other sessions have the upstream, too.
    static IS_SHARED: Cell<bool> = const { Cell::new(false) };
    /// Whether nothing more is to be said there.
    static IS_LEAVING: Cell<bool> = const { Cell::new(false) };
    /// Whether what is said there is set already.
    static BEARS: Cell<bool> = const { Cell::new(false) };
}

impl Side for DuplexStream {
    fn take_error(&self) -> Option<io::Error> {
        None
    }

    fn is_quiet(&self) -> bool {
        !HAS_NEWS.get()
    }

    fn is_shared(&self) -> bool {
        IS_SHARED.get()
    }

    fn bears(&self, _: &[u8]) -> bool {
        BEARS.get()
    }

    fn is_leaving(&self) -> bool {
        IS_LEAVING.get()
    }
}

const POLICY: Policy = Policy {
    reset: Reset::Renews,
    absorbs: false,
    resends: true,
    patience: Duration::from_secs(5),
    database: 0,
    shares: false,
    retells: false,
};

/// A session between a client and an upstream, both in the hands of a test.
struct Played {
    session: Session,
    handle: Handle,
    metrics: Metrics,
    near: DuplexStream,
    far: Option<DuplexStream>,
    client: DuplexStream,
    target: DuplexStream,
}

impl Played {
    fn new(policy: Policy) -> Self {
        let (client, near) = duplex(64 * 1024);
        let (far, target) = duplex(64 * 1024);
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None, release_after: None };
        let session = Session::new(Vec::new(), Vec::new(), limits, policy);
        Self {
            session,
            handle: Handle::default(),
            metrics: Metrics::new(),
            near,
            far: Some(far),
            client,
            target,
        }
    }

    /// Goes on until the session needs something, or nothing moves any more.
    async fn run(&mut self) -> Option<Event> {
        tokio::time::timeout(Duration::from_millis(1), self.polled(&mut 0)).await.ok()
    }

    /// Goes on until the session needs something; counts how often it is polled.
    async fn polled(&mut self, times: &mut u32) -> Event {
        let metrics = self.metrics.link("redis:6379");
        std::future::poll_fn(|cx| {
            *times += 1;
            self.session.poll(cx, &mut self.near, &mut self.far, &self.handle, &metrics.session)
        })
        .await
    }

    /// The same while the client reads so much.
    async fn run_while_client_hears(&mut self, heard: &mut [u8]) -> Event {
        let metrics = self.metrics.link("redis:6379");
        let Self { session, near, far, handle, client, .. } = self;
        let run = std::future::poll_fn(|cx| session.poll(cx, near, far, handle, &metrics.session));
        let (event, read) = tokio::join!(run, client.read_exact(heard));
        read.unwrap();
        event
    }

    async fn client_says(&mut self, bytes: &[u8]) {
        self.client.write_all(bytes).await.unwrap();
        assert!(self.run().await.is_none());
    }

    async fn target_says(&mut self, bytes: &[u8]) {
        self.target.write_all(bytes).await.unwrap();
    }

    async fn client_hears(&mut self, bytes: &[u8]) {
        assert!(self.run().await.is_none());
        let mut read = vec![0; bytes.len()];
        let heard = tokio::time::timeout(Duration::from_millis(1), self.client.read_exact(&mut read)).await;
        assert!(heard.is_ok(), "{} is not heard", bytes.escape_ascii());
        assert_eq!(read.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }

    /// Without another turn of the session.
    async fn client_hears_already(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        self.client.read_exact(&mut read).await.unwrap();
        assert_eq!(read, bytes);
    }

    async fn target_hears(&mut self, bytes: &[u8]) {
        let mut read = vec![0; bytes.len()];
        let heard = tokio::time::timeout(Duration::from_millis(1), self.target.read_exact(&mut read)).await;
        assert!(heard.is_ok(), "{} is not heard", bytes.escape_ascii());
        assert_eq!(read.escape_ascii().to_string(), bytes.escape_ascii().to_string());
    }

    async fn nothing_more_is_heard(&mut self) {
        assert!(self.run().await.is_none());
        let (mut client, mut target) = ([0], [0]);
        let both = async {
            tokio::select! {
                read = self.client.read(&mut client) => read,
                read = self.target.read(&mut target) => read,
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(1), both).await.is_err());
    }

    /// Another upstream takes the place of the one before.
    fn attach(&mut self) -> u32 {
        let (far, target) = duplex(64 * 1024);
        self.far = Some(far);
        self.target = target;
        let limits = Limits { idle: None, idle_since: Instant::now(), lifetime: None, release_after: None };
        self.session.attach(b"", limits, &self.handle)
    }

    /// The upstream ends while nothing is owed; the client's next command gets it another one.
    async fn goes_on_elsewhere_with(&mut self, command: &[u8]) {
        self.target.shutdown().await.unwrap();
        assert!(self.run().await.is_none());
        self.client.write_all(command).await.unwrap();
        assert_eq!(shown(self.run().await), CLOSED);
        self.attach();
    }

    fn ask(&self, reason: Reason, grace: Duration) {
        let now = Instant::now();
        self.handle.ask(DrainRequest { reason, from: now, latest: now + grace });
    }
}

#[tokio::test(start_paused = true)]
async fn a_hello_is_answered_and_noted() {
    let mut played = Played::new(POLICY);
    played.client_says(b"HELLO 3\r\nGET a\r\n").await;
    played.target_hears(b"HELLO 3\r\n").await;
    played.target_says(b"%1\r\n+proto\r\n:3\r\n").await;
    played.target_hears(b"GET a\r\n").await;
    played.client_hears(b"%1\r\n+proto\r\n:3\r\n").await;
    assert!(played.session.state.is_resp3);
}

/// An upstream that has gone, of which only a write tells.
struct Gone;

impl AsyncRead for Gone {
    fn poll_read(self: Pinned<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Gone {
    fn poll_write(self: Pinned<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
    }

    fn poll_flush(self: Pinned<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pinned<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for Gone {
    fn take_error(&self) -> Option<io::Error> {
        None
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_of_which_the_upstream_has_heard_nothing_goes_to_another_one() {
    let mut played = Played::new(POLICY);
    played.client.write_all(b"SET a 1\r\n").await.unwrap();
    let metrics = played.metrics.link("redis:6379");
    let Played { session, near, handle, .. } = &mut played;
    let mut gone = Some(Gone);
    let run = std::future::poll_fn(|cx| session.poll(cx, near, &mut gone, handle, &metrics.session));
    let event = tokio::time::timeout(Duration::from_millis(1), run).await;
    assert_eq!(shown(event.ok()), CLOSED);
    assert_eq!(played.attach(), 0, "what is sent again was counted when the upstream was left");
    assert!(played.run().await.is_none());
    played.target_hears(b"SET a 1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_shared_upstream_that_is_to_be_left_hears_nothing_more() {
    IS_SHARED.set(true);
    let mut played = Played::new(Policy { shares: true, ..POLICY });
    played.client_says(b"GET a\r\n").await;
    played.target_hears(b"GET a\r\n").await;
    IS_LEAVING.set(true);
    played.client_says(b"GET b\r\n").await;
    played.nothing_more_is_heard().await;
    played.target_says(b"$1\r\na\r\n").await;
    assert_eq!(shown(played.run().await), "Upstream(Lent)");
    played.client_hears_already(b"$1\r\na\r\n").await;
    IS_LEAVING.set(false);
    assert_eq!(played.attach(), 0, "nothing is sent again");
    assert!(played.run().await.is_none());
    played.target_hears(b"GET b\r\n").await;
    IS_SHARED.set(false);
}

const CLOSED: &str = "Upstream(Closed)";

fn shown(event: Option<Event>) -> String {
    event.map(|event| format!("{event:?}")).unwrap_or_default()
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_ends_while_nothing_is_owed_is_exchanged_with_the_next_command() {
    let mut played = Played::new(POLICY);
    played.client_says(b"SELECT 4\r\nCLIENT SETNAME me\r\n").await;
    played.target_says(b"+OK\r\n+OK\r\n").await;
    played.client_hears(b"+OK\r\n+OK\r\n").await;
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none(), "nobody wants anything");
    assert!(played.far.is_none());
    played.client.write_all(b"INCR a\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), CLOSED);
    let restore = played.session.restore();
    let restored: Vec<_> = restore.commands().map(|(command, needed)| (command.to_vec(), needed)).collect();
    let name = b"*3\r\n$6\r\nCLIENT\r\n$7\r\nSETNAME\r\n$2\r\nme\r\n".to_vec();
    assert_eq!(restored, [(name, false), (b"*2\r\n$6\r\nSELECT\r\n$1\r\n4\r\n".to_vec(), true)]);
    assert_eq!(played.attach(), 0);
    assert!(played.run().await.is_none());
    played.target_hears(b"INCR a\r\n").await;
    played.target_says(b":1\r\n").await;
    played.client_hears(b":1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn commands_that_read_are_sent_again_and_writes_never() {
    let mut played = Played::new(POLICY);
    played.client_says(b"GET a\r\nGET b\r\nSELECT 1\r\n").await;
    played.target_says(b"$1\r\na\r\n").await;
    played.client_hears(b"$1\r\na\r\n").await;
    played.target.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), CLOSED);
    played.attach();
    assert!(played.run().await.is_none());
    played.target_hears(b"GET b\r\nSELECT 1\r\n").await;
    played.target_says(b"$1\r\nb\r\n+OK\r\n").await;
    played.client_hears(b"$1\r\nb\r\n+OK\r\n").await;
    for owed in [&b"INCR a\r\n"[..], b"GET a\r\nBLPOP a 0\r\n", b"EVAL x 0\r\n", b"PUBLISH a b\r\n"] {
        let mut played = Played::new(POLICY);
        played.client_says(owed).await;
        played.target.shutdown().await.unwrap();
        assert!(played.run().await.is_none());
        assert!(played.far.is_some(), "{} is sent again", owed.escape_ascii());
        assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
    }
    // A reply of which the client has a part.
    let mut played = Played::new(POLICY);
    played.client_says(b"GET a\r\n").await;
    played.target_says(b"$10\r\n123").await;
    played.client_hears(b"$10\r\n123").await;
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
}

/// The client reads slowly, so that it says more before the rest of a reply has been read.
#[tokio::test(start_paused = true)]
async fn a_reply_is_heard_to_its_end_from_an_upstream_that_takes_no_more() {
    for (behind, event) in [(&b""[..], CLOSED), (b"$1\r\nb\r\n", CLOSED), (b"$1\r\n", "End(Closed)")] {
        let mut played = Played::new(POLICY);
        let value = [&b"$100000\r\n"[..], &vec![b'x'; 100_000], b"\r\n"].concat();
        let (half, rest) = value.split_at(64 * 1024);
        played.client_says(b"GET a\r\nGET b\r\n").await;
        played.target_says(half).await;
        assert!(played.run().await.is_none());
        played.target_says(rest).await;
        played.target_says(behind).await;
        played.target = duplex(1).0;
        played.client_says(b"GET c\r\n").await;
        let mut heard = vec![0; value.len() + behind.len()];
        assert_eq!(format!("{:?}", played.run_while_client_hears(&mut heard).await), event);
        assert!(heard == [&value, behind].concat());
        if event == CLOSED {
            played.attach();
            assert!(played.run().await.is_none());
            let again: &[u8] = if behind.is_empty() { b"GET b\r\nGET c\r\n" } else { b"GET c\r\n" };
            played.target_hears(again).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn half_a_command_of_a_client_that_has_gone_is_not_sent_again() {
    for (whole, event) in [(&b""[..], "End(Closed)"), (b"GET a\r\n", CLOSED)] {
        let mut played = Played::new(POLICY);
        let said = [whole, b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$40000\r\nhalf"].concat();
        played.client_says(&said).await;
        played.client.shutdown().await.unwrap();
        assert!(played.run().await.is_none());
        played.target_hears(&said).await;
        played.target.shutdown().await.unwrap();
        assert_eq!(shown(played.run().await), event);
    }
}

#[tokio::test(start_paused = true)]
async fn who_has_lost_a_write_with_a_shared_upstream_is_not_led_to_another_one() {
    IS_SHARED.set(true);
    let mut played = Played::new(Policy { shares: true, ..POLICY });
    played.client_says(b"INCR a\r\n").await;
    played.target.shutdown().await.unwrap();
    played.client.write_all(b"MULTI\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "End(Closed)");
    IS_SHARED.set(false);
}

#[tokio::test(start_paused = true)]
async fn what_is_pinned_ends_with_its_upstream() {
    for (said, heard) in [
        (&b"MULTI\r\n"[..], &b"+OK\r\n"[..]),
        (b"WATCH a\r\n", b"+OK\r\n"),
        (b"SUBSCRIBE a\r\n", b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
        (b"CLIENT TRACKING ON\r\n", b"+OK\r\n"),
        (b"AUTH a b\r\n", b"+OK\r\n"),
        (b"CLIENT REPLY OFF\r\n", b""),
        (b"MONITOR\r\n", b"+OK\r\n"),
        (b"HIMPORT PREPARE a\r\n", b"+OK\r\n"),
        (b"MULTI\r\nSELECT 1\r\nEXEC\r\n", b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n"),
        (b"GET a\r\n", b"$1\r\na\r\n+unasked\r\n"),
        (b"QUIT\r\n", b"+OK\r\n"),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert!(played.session.pin().is_some(), "{}", said.escape_ascii());
        played.target.shutdown().await.unwrap();
        assert!(played.run().await.is_none());
        assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0, "{}", said.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn pins_end_with_their_causes() {
    for (said, heard) in [
        (&b"WATCH a\r\nMULTI\r\nEXEC\r\n"[..], &b"+OK\r\n+OK\r\n*0\r\n"[..]),
        (b"MULTI\r\nDISCARD\r\n", b"+OK\r\n+OK\r\n"),
        (b"WATCH a\r\nUNWATCH\r\n", b"+OK\r\n+OK\r\n"),
        (
            b"SUBSCRIBE a b\r\nUNSUBSCRIBE a b\r\n",
            b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\nb\r\n:2\r\n\
              *3\r\n$11\r\nunsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$11\r\nunsubscribe\r\n$1\r\nb\r\n:0\r\n",
        ),
        (b"CLIENT TRACKING ON\r\nCLIENT TRACKING OFF\r\n", b"+OK\r\n+OK\r\n"),
        (b"CLIENT REPLY OFF\r\nGET a\r\nCLIENT REPLY ON\r\n", b"+OK\r\n"),
        (b"CLIENT REPLY SKIP\r\nGET a\r\nGET b\r\n", b"$1\r\nb\r\n"),
        (b"ASKING\r\nGET a\r\n", b"+OK\r\n$1\r\nb\r\n"),
        (b"SUBSCRIBE\r\n", b"-ERR wrong number of arguments for 'subscribe' command\r\n"),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert_eq!(played.session.pin(), None, "{}", said.escape_ascii());
        assert!(played.session.is_at_boundary(), "{}", said.escape_ascii());
    }
}

/// Whether it is refused as a wrong one or as one that nobody wants; what else an error says is no matter of passwords.
#[tokio::test(start_paused = true)]
async fn a_refused_password_of_the_clients_own_is_told_and_leaves_nothing() {
    for (said, heard, is_told) in [
        (&b"AUTH a b\r\n"[..], &b"-WRONGPASS no\r\n"[..], true),
        (b"HELLO 3 AUTH a b\r\n", b"-WRONGPASS no\r\n", true),
        (b"AUTH b\r\n", b"-ERR invalid password\r\n", true),
        (b"AUTH b\r\n", b"-ERR Client sent AUTH, but no password is set\r\n", true),
        (b"AUTH b\r\n", b"-ERR AUTH <password> called without any password configured\r\n", true),
        (b"AUTH a b\r\n", b"-ERR wrong number of arguments for 'auth' command\r\n", false),
        (b"HELLO 3 AUTH a b\r\n", b"-ERR unknown command 'HELLO'\r\n", false),
        (b"HELLO 3\r\n", b"-WRONGPASS no\r\n", false),
        (b"EVAL a 0\r\n", b"-WRONGPASS no\r\n", false),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        let told = matches!(played.run().await, Some(Event::AuthRefused));
        assert_eq!(told, is_told, "{} {}", said.escape_ascii(), heard.escape_ascii());
        played.client_hears(heard).await;
        assert_eq!(played.session.pin(), None, "{}", said.escape_ascii());
        assert!(played.session.is_at_boundary(), "{}", said.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn subscribers_in_both_protocols_get_messages_and_their_own_replies() {
    let mut played = Played::new(POLICY);
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    let message = b"*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
    played.client_says(b"SUBSCRIBE a\r\nPING\r\n").await;
    let said = [&subscribed[..], message, b"*2\r\n$4\r\npong\r\n$0\r\n\r\n", message].concat();
    played.target_says(&said).await;
    played.client_hears(&said).await;
    assert!(played.session.is_at_boundary());
    let mut played = Played::new(POLICY);
    played.client_says(b"HELLO 3\r\nSUBSCRIBE a\r\nPING\r\n").await;
    let said =
        b"%0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n>3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n+PONG\r\n";
    played.target_says(said).await;
    played.client_hears(said).await;
    assert!(played.session.is_at_boundary() && played.session.state.is_subscribed());
}

#[tokio::test(start_paused = true)]
async fn nobody_leaves_in_the_midst_of_a_reply_or_a_transaction() {
    let mut played = Played::new(POLICY);
    played.client_says(b"PING\r\nBLPOP a 0\r\n").await;
    played.target_says(b"+PONG\r\n").await;
    played.client_hears(b"+PONG\r\n").await;
    played.ask(Reason::Drain, Duration::from_secs(5));
    tokio::time::sleep(Duration::from_secs(2)).await;
    // Nothing more goes to the upstream.
    played.client_says(b"INCR b\r\n").await;
    played.target_hears(b"PING\r\nBLPOP a 0\r\n").await;
    played.target_says(b"*2\r\n$1\r\na\r\n").await;
    played.client_hears(b"*2\r\n$1\r\na\r\n").await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    played.target_says(b"$1\r\nb\r\n").await;
    assert_eq!(shown(played.run().await), "End(Left(Drain))");
    played.client_hears_already(b"$1\r\nb\r\n").await;

    let mut played = Played::new(POLICY);
    played.client_says(b"MULTI\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    played.ask(Reason::Drain, Duration::from_secs(5));
    played.client_says(b"INCR a\r\n").await;
    played.target_says(b"+QUEUED\r\n").await;
    played.client_hears(b"+QUEUED\r\n").await;
    played.client_says(b"EXEC\r\nPING\r\n").await;
    played.target_hears(b"MULTI\r\nINCR a\r\nEXEC\r\n").await;
    played.target_says(b"*1\r\n:1\r\n").await;
    assert_eq!(shown(played.run().await), "End(Left(Drain))");

    // At the deadline it is over all the same.
    let mut played = Played::new(POLICY);
    played.client_says(b"BLPOP a 0\r\n").await;
    played.ask(Reason::Drain, Duration::from_secs(5));
    assert!(played.run().await.is_none());
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_eq!(shown(played.run().await), "End(Left(Drain))");
}

#[tokio::test(start_paused = true)]
async fn a_target_that_moved_is_left_at_a_boundary_and_the_client_stays() {
    for reason in [Reason::Moved, Reason::Demoted, Reason::Lifetime] {
        let mut played = Played::new(POLICY);
        played.client_says(b"GET a\r\n").await;
        played.ask(reason, Duration::from_secs(5));
        played.client_says(b"GET b\r\n").await;
        played.target_hears(b"GET a\r\n").await;
        played.target_says(b"$1\r\na\r\n").await;
        let event = shown(played.run().await);
        assert!(event.starts_with("Upstream("), "{event}");
        played.attach();
        played.client_hears(b"$1\r\na\r\n").await;
        played.target_hears(b"GET b\r\n").await;
        assert!(!played.handle.is_asked());
    }
}

#[tokio::test(start_paused = true)]
async fn a_silent_upstream_is_asked_and_replaced() {
    for answers in [true, false] {
        let mut played = Played::new(POLICY);
        tokio::time::sleep(SILENCE).await;
        played.client_says(b"INCR a\r\n").await;
        played.target_hears(b"*1\r\n$4\r\nPING\r\n").await;
        if answers {
            played.target_says(b"+PO").await;
            assert!(played.run().await.is_none());
            played.target_says(b"NG\r\n").await;
            assert!(played.run().await.is_none());
        } else {
            tokio::time::sleep(ANSWER).await;
            assert_eq!(shown(played.run().await), "Upstream(Silent)");
            played.attach();
            assert!(played.run().await.is_none());
        }
        played.target_hears(b"INCR a\r\n").await;
        played.nothing_more_is_heard().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_refused_as_a_whole_goes_to_another_server() {
    let refusal = b"-READONLY You can't write against a read only replica.\r\n";
    let mut played = Played::new(POLICY);
    played.client_says(b"GET x\r\nSET a 1\r\nGET a\r\nSET b 1\r\n").await;
    played.target_says(b"$1\r\nx\r\n-READON").await;
    played.client_hears(b"$1\r\nx\r\n").await;
    played.target_says(&refusal[7..]).await;
    played.target_says(b"$-1\r\n").await;
    assert!(played.run().await.is_none(), "one reply is still to come");
    played.target_says(refusal).await;
    assert_eq!(shown(played.run().await), "Upstream(Refused)");
    assert_eq!(played.attach(), 3);
    assert!(played.run().await.is_none());
    played.target_hears(b"SET a 1\r\nGET a\r\nSET b 1\r\n").await;
    played.target_says(b"+OK\r\n$1\r\n1\r\n+OK\r\n").await;
    played.client_hears(b"+OK\r\n$1\r\n1\r\n+OK\r\n").await;
    played.nothing_more_is_heard().await;

    // Where there is no other server it is told, in Redis' own words.
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\n").await;
    played.target_says(refusal).await;
    assert_eq!(shown(played.run().await), "Upstream(Refused)");
    played.session.refusal_stands();
    played.client_hears(refusal).await;
    assert!(played.session.is_at_boundary());

    // Not where something behind it was executed, in a transaction, or by a script.
    for (said, heard) in [
        (&b"SET a 1\r\nPUBLISH a b\r\n"[..], &b":1\r\n"[..]),
        (b"SET a 1\r\nSET b 1\r\n", b"+OK\r\n"),
        (b"EVAL x 0\r\n", b""),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        let said = [&refusal[..], heard].concat();
        played.target_says(&said).await;
        played.client_hears(&said).await;
        assert!(played.session.is_at_boundary());
    }
    let mut played = Played::new(Policy { resends: false, ..POLICY });
    played.client_says(b"SET a 1\r\n").await;
    played.target_says(refusal).await;
    played.client_hears(refusal).await;
}

#[tokio::test(start_paused = true)]
async fn wait_does_not_tell_of_another_upstreams_writes() {
    let mut played = Played::new(POLICY);
    played.client_says(b"INCR a\r\n").await;
    played.target_says(b":1\r\n").await;
    played.client_hears(b":1\r\n").await;
    played.goes_on_elsewhere_with(b"WAIT 1 100\r\n").await;
    assert_eq!(shown(played.run().await), "Wait");
}

#[tokio::test(start_paused = true)]
async fn behind_a_reset_nothing_goes_out_before_the_handshake() {
    let mut played = Played::new(POLICY);
    played.client_says(b"CLIENT SETNAME me\r\nRESET\r\nPING\r\n").await;
    played.target_hears(b"CLIENT SETNAME me\r\nRESET\r\n").await;
    played.target_says(b"+OK\r\n+RESET\r\n").await;
    assert_eq!(shown(played.run().await), "Reset");
    assert!(played.session.restore().is_empty());
    played.session.greeted(b"");
    played.client_hears(b"+OK\r\n+RESET\r\n").await;
    played.target_hears(b"PING\r\n").await;
    // With the reply to it skipped, a command of ours tells; and what was lost is counted again.
    for said in [&b"CLIENT REPLY SKIP\r\n"[..], b"CLIENT REPLY OFF\r\n", b"MONITOR\r\n"] {
        let mut played = Played::new(POLICY);
        played.client_says(&[said, b"RESET\r\nPING\r\n"].concat()).await;
        let (heard, mark): (&[u8], &[u8]) = match said {
            b"CLIENT REPLY SKIP\r\n" => (b"-NOAUTH\r\n", b"*1\r\n$5\r\nRESET\r\n*1\r\n$4\r\nPING\r\n"),
            b"MONITOR\r\n" => (b"+OK\r\n+1 [0] \"RESET\"\r\n+RESET\r\n", b"RESET\r\n"),
            _ => (b"+RESET\r\n", b"RESET\r\n"),
        };
        played.target_hears(&[said, mark].concat()).await;
        played.target_says(heard).await;
        assert_eq!(shown(played.run().await), "Reset", "{}", said.escape_ascii());
        played.session.greeted(b"");
        assert!(played.run().await.is_none());
        played.target_hears(b"PING\r\n").await;
        played.target_says(b"+PONG\r\n").await;
        assert!(played.run().await.is_none());
        assert!(played.session.is_at_boundary(), "{}", said.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_not_for_an_open_server_is_asked_for_in_vain() {
    let mut played = Played::new(POLICY);
    played.client_says(b"PING\r\nCLIENT maint_notifications ON\r\nPING\r\n").await;
    played.target_hears(b"PING\r\n*2\r\n$6\r\nCLIENT\r\n$19\r\nmaint_notifications\r\nPING\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_that_says_no_more_gets_its_answers_from_another_upstream_too() {
    let mut played = Played::new(POLICY);
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    played.client.write_all(b"INCR a\r\n").await.unwrap();
    played.client.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), CLOSED);
    played.attach();
    assert!(played.run().await.is_none());
    played.target_hears(b"INCR a\r\n").await;
    assert_eq!(played.target.read(&mut [0]).await.unwrap(), 0);
    played.target_says(b":1\r\n").await;
    played.target.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), "End(Closed)");
    played.client_hears_already(b":1\r\n").await;
    // One that leaves while there is none needs none.
    let mut played = Played::new(POLICY);
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    played.client.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), "End(Closed)");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_ends_while_its_upstream_is_to_be_left_is_done() {
    let mut played = Played::new(POLICY);
    played.client_says(b"*3\r\n$3\r\nSET\r\n$1\r\na\r\n$10\r\n01234").await;
    played.ask(Reason::Moved, Duration::from_mins(1));
    assert!(played.run().await.is_none());
    played.client_says(b"56789\r\n").await;
    played.client.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(played.run().await.is_none());
    played.target_says(b"+OK\r\n").await;
    assert_eq!(shown(played.run().await), "End(Closed)");
    played.client_hears_already(b"+OK\r\n").await;
}

const READONLY: &[u8] = b"-READONLY You can't write against a read only replica.\r\n";

/// A reply is good or bad for the command that it belongs to, whatever has been sent behind that.
#[tokio::test(start_paused = true)]
async fn what_commands_leave_behind_counts_in_their_own_order() {
    for (said, heard, pin) in [
        (&b"WATCH a\r\nUNWATCH\r\nWATCH b\r\n"[..], &b"+OK\r\n+OK\r\n+OK\r\n"[..], Some(Pin::Watch)),
        (b"MULTI\r\nDISCARD\r\nWATCH b\r\n", b"+OK\r\n+OK\r\n+OK\r\n", Some(Pin::Watch)),
        (b"MULTI\r\nDISCARD\r\nMULTI\r\n", b"+OK\r\n+OK\r\n+OK\r\n", Some(Pin::Transaction)),
        (b"WATCH b\r\nEXEC\r\n", b"+OK\r\n-ERR EXEC without MULTI\r\n", Some(Pin::Watch)),
        (b"MULTI\r\nSELECT 1\r\n", b"-NOPERM no\r\n+OK\r\n", None),
        (b"MULTI\r\nSELECT 1\r\nDISCARD\r\n", b"+OK\r\n+QUEUED\r\n+OK\r\n", None),
        (b"MULTI\r\nWATCH a\r\nEXEC\r\n", b"+OK\r\n-ERR no\r\n-EXECABORT no\r\n", None),
        (b"CLIENT REPLY OFF\r\nMULTI\r\nDISCARD\r\nCLIENT REPLY ON\r\n", b"+OK\r\n", Some(Pin::RepliesOff)),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert_eq!(played.session.pin(), pin, "{}", said.escape_ascii());
    }
    // Of a command in a transaction its reply tells that it was queued.
    let mut played = Played::new(POLICY);
    played.client_says(b"MULTI\r\nSELECT 1\r\n").await;
    played.target_says(b"-NOPERM no\r\n+OK\r\n").await;
    played.client_hears(b"-NOPERM no\r\n+OK\r\n").await;
    assert_eq!(played.session.restore().commands().count(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_reset_takes_away_what_was_there_before_it_and_nothing_that_comes_behind() {
    for (reset, pin) in [(Reset::Harmless, None), (Reset::Strips, Some(Pin::OwnAuth))] {
        let mut played = Played::new(Policy { reset, ..POLICY });
        played.client_says(b"WATCH a\r\nSELECT 2\r\nRESET\r\nMULTI\r\nSELECT 1\r\nEXEC\r\n").await;
        played.target_says(b"+OK\r\n+OK\r\n+RESET\r\n").await;
        played.client_hears(b"+OK\r\n+OK\r\n+RESET\r\n").await;
        assert_eq!(played.session.pin(), pin);
        assert!(played.session.restore().is_empty());
        played.target_says(b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n").await;
        assert!(played.run().await.is_none());
        assert!(played.session.pin().is_some(), "of SELECT in EXEC nothing is known");
        // One that is refused has reset nothing.
        let mut played = Played::new(Policy { reset, ..POLICY });
        played.client_says(b"WATCH a\r\nRESET\r\n").await;
        played.target_says(b"+OK\r\n-NOPERM no\r\n").await;
        played.client_hears(b"+OK\r\n-NOPERM no\r\n").await;
        assert_eq!(played.session.pin(), Some(Pin::Watch));
        // One that is not answered has.
        let mut played = Played::new(Policy { reset, ..POLICY });
        played.client_says(b"SELECT 2\r\n").await;
        played.target_says(b"+OK\r\n").await;
        played.client_hears(b"+OK\r\n").await;
        played.client_says(b"CLIENT REPLY SKIP\r\nRESET\r\n").await;
        played.target_says(b"+PONG\r\n").await;
        assert!(played.run().await.is_none());
        assert!(played.session.restore().is_empty() && played.session.is_at_boundary());
    }
}

#[tokio::test(start_paused = true)]
async fn behind_a_refusal_every_reply_has_its_own_effect() {
    // A subscription, and a RESET, are not lost behind it.
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n";
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\nSUBSCRIBE c\r\n").await;
    let said = [READONLY, subscribed].concat();
    played.target_says(&said).await;
    played.client_hears(&said).await;
    assert_eq!(played.session.pin(), Some(Pin::Subscription));
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\nRESET\r\nPING\r\n").await;
    played.target_says(&[READONLY, b"+RESET\r\n"].concat()).await;
    assert_eq!(shown(played.run().await), "Reset");
    played.session.greeted(b"");
    played.client_hears(&[READONLY, b"+RESET\r\n"].concat()).await;
    played.target_hears(b"SET a 1\r\nRESET\r\nPING\r\n").await;
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\nSELECT 3\r\nSET b 1\r\n").await;
    played.target_says(&[READONLY, b"+OK\r\n", READONLY].concat()).await;
    assert_eq!(shown(played.run().await), "Upstream(Refused)", "the last one alone");
    assert_eq!(played.session.restore().commands().count(), 1);
    assert_eq!(played.attach(), 1);
    played.client_hears(&[READONLY, b"+OK\r\n"].concat()).await;
    played.target_hears(b"SET b 1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_auth_of_ours_stands_where_it_does_no_harm() {
    for (said, heard, bears) in [
        (&b"GET a\r\n"[..], &b"$-1\r\n"[..], true),
        (b"HIMPORT PREPARE a\r\n", b"+OK\r\n", true),
        (b"HIMPORT PREPARE a\r\nMULTI\r\n", b"+OK\r\n+OK\r\n", false),
        (b"HIMPORT PREPARE a\r\nCLIENT REPLY OFF\r\n", b"+OK\r\n", false),
        (b"HIMPORT PREPARE a\r\nAUTH a b\r\n", b"+OK\r\n+OK\r\n", false),
        (
            b"HIMPORT PREPARE a\r\nSUBSCRIBE a\r\n",
            b"+OK\r\n*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n",
            false,
        ),
        (b"ASKING\r\n", b"+OK\r\n", false),
        (b"CLIENT CACHING YES\r\n", b"+OK\r\n", false),
        (b"CLIENT REPLY SKIP\r\n", b"", false),
        (b"MULTI\r\nAUTH a b\r\nEXEC\r\n", b"+OK\r\n+QUEUED\r\n*1\r\n+OK\r\n", false),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        played.handle.ask_for_authentication();
        assert_eq!(
            shown(played.run().await),
            if bears { "Reauthenticate" } else { "" },
            "{}",
            said.escape_ascii()
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_to_a_command_of_ours_never_reaches_the_client() {
    // Counting stops while it is on its way.
    let mut played = Played::new(POLICY);
    played.session.reauthenticate(b"AUTH x\r\n");
    played.client_says(b"MONITOR\r\n").await;
    played.target_hears(b"AUTH x\r\nMONITOR\r\n").await;
    played.target_says(b"-WRONG").await;
    assert!(played.run().await.is_none());
    played.target_says(b"PASS no\r\n+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    // Its upstream ends in the midst of it.
    let mut played = Played::new(POLICY);
    played.client_says(b"HIMPORT PREPARE a\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    played.session.reauthenticate(b"AUTH x\r\n");
    played.client_says(b"GET a\r\n").await;
    played.target_says(b"-WRONGPASS no").await;
    assert!(played.run().await.is_none());
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
    // However long it is.
    let mut played = Played::new(POLICY);
    played.session.reauthenticate(b"AUTH x\r\n");
    played.client_says(b"GET a\r\n").await;
    played.target_says(b"$20000\r\n").await;
    for _ in 0..20 {
        played.target_says(&[b'x'; 1000]).await;
        assert!(played.run().await.is_none());
    }
    assert_eq!(played.session.rare().withheld.len(), 0);
    played.target_says(b"\r\n$1\r\na\r\n").await;
    played.client_hears(b"$1\r\na\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_auth_of_ours_tells_of_an_upstream_that_was_forgotten() {
    let mut played = Played::new(POLICY);
    tokio::time::sleep(SILENCE).await;
    played.session.reauthenticate(b"AUTH x\r\n");
    played.client_says(b"INCR a\r\n").await;
    played.target_hears(b"AUTH x\r\n").await;
    tokio::time::sleep(ANSWER).await;
    assert_eq!(shown(played.run().await), "Upstream(Silent)");
    played.attach();
    assert!(played.run().await.is_none());
    played.target_hears(b"INCR a\r\n").await;
    played.nothing_more_is_heard().await;
}

#[tokio::test(start_paused = true)]
async fn a_wait_in_vain_is_answered_behind_what_was_asked_before_it() {
    let mut played = Played::new(POLICY);
    played.client_says(b"INCR a\r\n").await;
    played.target_says(b":1\r\n").await;
    played.client_hears(b":1\r\n").await;
    played.goes_on_elsewhere_with(b"GET a\r\nWAIT 1 100\r\n").await;
    assert!(played.run().await.is_none(), "GET is not answered yet");
    played.target_says(b"$1\r\n1\r\n").await;
    assert_eq!(shown(played.run().await), "Wait");
    played.client_hears_already(b"$1\r\n1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_that_was_refused_is_no_write_to_wait_for() {
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\nGET a\r\n").await;
    played.target_says(&[READONLY, b"$-1\r\n"].concat()).await;
    assert_eq!(shown(played.run().await), "Upstream(Refused)");
    played.attach();
    assert!(played.run().await.is_none());
    played.target_hears(b"SET a 1\r\nGET a\r\n").await;
    played.target_says(b"+OK\r\n$1\r\n1\r\n").await;
    played.client_hears(b"+OK\r\n$1\r\n1\r\n").await;
    played.client_says(b"WAIT 1 0\r\n").await;
    played.target_hears(b"WAIT 1 0\r\n").await;
    // Nor is one that has failed.
    let mut played = Played::new(POLICY);
    played.client_says(b"INCR a\r\n").await;
    played.target_says(b"-ERR value is not an integer or out of range\r\n").await;
    assert!(played.run().await.is_none());
    played.goes_on_elsewhere_with(b"WAIT 1 0\r\n").await;
    assert!(played.run().await.is_none());
    played.target_hears(b"WAIT 1 0\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_write_whose_reply_is_skipped_is_never_sent_again() {
    let mut played = Played::new(POLICY);
    played.client_says(b"CLIENT REPLY SKIP\r\nINCR a\r\nGET b\r\n").await;
    played.target_hears(b"CLIENT REPLY SKIP\r\nINCR a\r\nGET b\r\n").await;
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn what_is_new_to_one_server_is_not_asked_of_another() {
    for (said, again) in [
        (&b"XREAD BLOCK 0 STREAMS s $\r\n"[..], false),
        (b"XREAD STREAMS s 0-1\r\n", true),
        (b"XREAD STREAMS s 0\r\n", true),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target.shutdown().await.unwrap();
        assert_eq!(shown(played.run().await), if again { CLOSED } else { "" }, "{}", said.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn who_asks_for_too_much_is_not_followed_any_further() {
    let mut played = Played::new(POLICY);
    let alternating = b"GET a\r\nSET a 1\r\n".repeat(1000);
    for _ in 0..40 {
        played.client_says(&alternating).await;
        played.target_hears(&alternating).await;
    }
    assert_eq!(played.session.pin(), Some(Pin::LostFraming));
    assert!(!played.session.is_at_boundary());
    let replies = b"$1\r\n1\r\n+OK\r\n".repeat(1000);
    for _ in 0..40 {
        played.target_says(&replies).await;
        played.client_hears(&replies).await;
    }
    assert!(played.session.owed.is_empty());
    // Behind RESET all is known again.
    played.client_says(b"RESET\r\n").await;
    played.target_says(b"+RESET\r\n").await;
    assert_eq!(shown(played.run().await), "Reset");
    played.session.greeted(b"");
    played.client_hears(b"+RESET\r\n").await;
    assert!(played.session.is_at_boundary());
}

#[tokio::test(start_paused = true)]
async fn an_idle_limit_holds_though_somebody_waits_for_a_boundary() {
    let mut played = Played::new(POLICY);
    let idle = Duration::from_mins(1);
    let limits = Limits { idle: Some(idle), idle_since: Instant::now(), lifetime: None, release_after: None };
    played.session.attach(b"", limits, &played.handle);
    played.client_says(b"WATCH a\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    played.ask(Reason::Lifetime, Duration::from_hours(1000));
    assert!(played.run().await.is_none());
    // It is not polled but for what it waits for.
    let mut polls = 0;
    let event = tokio::time::timeout(2 * idle, played.polled(&mut polls)).await.ok();
    assert_eq!(shown(event), "End(Idle)");
    assert!(polls < 20, "{polls} polls");
}

const QUIET: Duration = Duration::from_mins(5);

/// A session that gives its upstream back after five minutes, and whatever else `limits` say.
fn releasing(limits: Limits) -> Played {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    let limits = Limits { idle_since: Instant::now(), release_after: Some(QUIET), ..limits };
    played.session.attach(b"", limits, &played.handle);
    played
}

fn no_limits() -> Limits {
    Limits { idle: None, idle_since: Instant::now(), lifetime: None, release_after: None }
}

impl Played {
    /// Lets time pass; what happens meanwhile, happens.
    async fn rest(&mut self, time: Duration) -> Option<Event> {
        tokio::time::timeout(time, self.polled(&mut 0)).await.ok()
    }

    /// After a rest an upstream may be asked whether it is there, before it hears what the client says.
    async fn client_says_after_a_rest(&mut self, bytes: &[u8]) {
        self.client_says(bytes).await;
        if self.session.hold == Hold::Asking {
            self.target_says(b"+PONG\r\n").await;
            assert!(self.run().await.is_none());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_quiet_session_gives_its_upstream_back_and_gets_another_one_with_the_next_command() {
    let mut played = releasing(no_limits());
    played.client_says(b"SELECT 4\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    assert_eq!(shown(played.rest(99 * QUIET / 100).await), "");
    assert!(played.far.is_some(), "it is not late yet");
    // What is said meanwhile puts it off.
    played.client_says_after_a_rest(b"GET a\r\n").await;
    played.target_says(b"$1\r\na\r\n").await;
    played.client_hears(b"$1\r\na\r\n").await;
    assert_eq!(shown(played.rest(99 * QUIET / 100).await), "");
    assert!(played.far.is_some(), "a command has put it off");
    assert_eq!(shown(played.rest(QUIET / 4).await), "");
    assert!(played.far.is_none());
    let mut heard = Vec::new();
    played.target.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, [b"SELECT 4\r\n", PING, b"GET a\r\n"].concat());
    // From then on there is nothing to wait for.
    let mut polls = 0;
    let event = tokio::time::timeout(100 * QUIET, played.polled(&mut polls)).await.ok();
    assert_eq!(shown(event), "");
    assert!(polls <= 2, "{polls} polls");
    // A pipeline, whatever comes first.
    played.client.write_all(b"AUTH x\r\nSET a 1\r\nGET a\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Own(Own(***))", "that needs no upstream");
    played.session.judged(Ok(b"+OK\r\n"));
    assert_eq!(shown(played.run().await), "Upstream(Released)");
    assert_eq!(played.session.restore().commands().count(), 1);
    assert_eq!(played.attach(), 0);
    played.client_hears(b"+OK\r\n").await;
    played.target_hears(b"SET a 1\r\nGET a\r\n").await;
    played.target_says(b"+OK\r\n$1\r\n1\r\n").await;
    played.client_hears(b"+OK\r\n$1\r\n1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn who_has_a_use_for_the_upstream_keeps_it() {
    let subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    for (said, heard, and_then) in [
        // Something is owed, or half there.
        (&b"BLPOP a 0\r\n"[..], &b""[..], Some((&b""[..], &b"*-1\r\n"[..]))),
        (b"GET a\r\n", b"$3\r\nab", Some((b"", b"c\r\n"))),
        // A command is half sent; it has begun to go out, or has not.
        (b"*2\r\n$4\r\nECHO\r\n$3\r\nab", b"", Some((b"c\r\n", b"$3\r\nabc\r\n"))),
        (b"*2\r\n$4\r\nEC", b"", Some((b"HO\r\n$3\r\nabc\r\n", b"$3\r\nabc\r\n"))),
        (b"PI", b"", Some((b"NG\r\n", b"+PONG\r\n"))),
        // Its state can't be restored.
        (b"MULTI\r\nINCR a\r\n", b"+OK\r\n+QUEUED\r\n", Some((b"EXEC\r\n", b"*1\r\n:1\r\n"))),
        (b"WATCH a\r\n", b"+OK\r\n", Some((b"UNWATCH\r\n", b"+OK\r\n"))),
        (b"CLIENT TRACKING ON\r\n", b"+OK\r\n", Some((b"CLIENT TRACKING OFF\r\n", b"+OK\r\n"))),
        (b"SUBSCRIBE a\r\n", subscribed, None),
        (b"CLIENT REPLY OFF\r\n", b"", None),
        (b"HIMPORT PREPARE a\r\n", b"+OK\r\n", None),
        (b"MONITOR\r\n", b"+OK\r\n", None),
    ] {
        let shows = said.escape_ascii();
        let mut played = releasing(no_limits());
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert_eq!(shown(played.rest(3 * QUIET).await), "", "{shows}");
        assert!(played.far.is_some(), "{shows}");
        let Some((said, heard)) = and_then else { continue };
        played.client_says_after_a_rest(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert_eq!(shown(played.rest(QUIET / 2).await), "", "{shows}");
        assert!(played.far.is_some(), "{shows}: that has just come to its end");
        assert_eq!(shown(played.rest(QUIET).await), "", "{shows}");
        assert!(played.far.is_none(), "{shows}");
    }
    // That its client says no more is for the upstream to hear.
    let mut played = releasing(no_limits());
    played.client.shutdown().await.unwrap();
    assert_eq!(shown(played.rest(3 * QUIET).await), "");
    assert!(played.far.is_some());
}

#[tokio::test(start_paused = true)]
async fn each_time_is_counted_by_itself() {
    // The upstream goes first, and then the client.
    let begun = Instant::now();
    let mut played = releasing(Limits { idle: Some(4 * QUIET), ..no_limits() });
    assert_eq!(shown(played.rest(2 * QUIET).await), "");
    assert!(played.far.is_none());
    assert_eq!(shown(played.rest(4 * QUIET).await), "End(Idle)");
    let idle = begun.elapsed();
    assert!(idle >= 4 * QUIET && idle <= 5 * QUIET, "{idle:?}");
    // Or the client, before it could.
    let begun = Instant::now();
    let mut played = releasing(Limits { idle: Some(QUIET / 2), ..no_limits() });
    assert_eq!(shown(played.rest(2 * QUIET).await), "End(Idle)");
    assert!(begun.elapsed() < QUIET && played.far.is_some());
    // A lifetime that ends while there is no upstream asks for nothing.
    let at = Instant::now() + 2 * QUIET;
    let request = DrainRequest { reason: Reason::Lifetime, from: at, latest: at + 100 * QUIET };
    let mut played =
        releasing(Limits { idle: Some(4 * QUIET), lifetime: Some((at, request)), ..no_limits() });
    assert_eq!(shown(played.rest(3 * QUIET).await), "");
    played.client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Upstream(Released)");
    // Nor does it put off the end of the client.
    let begun = Instant::now();
    let at = begun + 2 * QUIET;
    let request = DrainRequest { reason: Reason::Lifetime, from: at, latest: at + 100 * QUIET };
    let mut played =
        releasing(Limits { idle: Some(4 * QUIET), lifetime: Some((at, request)), ..no_limits() });
    assert_eq!(shown(played.rest(10 * QUIET).await), "End(Idle)");
    assert!(begun.elapsed() <= 5 * QUIET, "{:?}", begun.elapsed());
}

/// An AUTH of ours is nothing that the client says.
#[tokio::test(start_paused = true)]
async fn another_secret_does_not_keep_an_upstream() {
    let mut played = releasing(no_limits());
    for _ in 0..5 {
        if played.far.is_some() {
            played.handle.ask_for_authentication();
            assert_eq!(shown(played.run().await), "Reauthenticate");
            played.session.reauthenticate(b"AUTH x\r\n");
            assert!(played.run().await.is_none());
            played.target_says(b"+OK\r\n").await;
        }
        assert_eq!(shown(played.rest(QUIET / 3).await), "");
    }
    assert!(played.far.is_none());
    // Where there is none it waits for the next one.
    played.handle.ask_for_authentication();
    assert_eq!(shown(played.rest(QUIET).await), "");
    played.client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Upstream(Released)");
}

/// Whatever else may come while there is no upstream.
#[tokio::test(start_paused = true)]
async fn a_session_without_an_upstream_ends_at_once() {
    for drains in [true, false] {
        let mut played = releasing(no_limits());
        assert_eq!(shown(played.rest(2 * QUIET).await), "");
        if drains {
            played.ask(Reason::Drain, Duration::from_secs(5));
            assert_eq!(shown(played.run().await), "End(Left(Drain))");
        } else {
            played.client.shutdown().await.unwrap();
            assert_eq!(shown(played.run().await), "End(Closed)");
        }
    }
    // One that has never said anything.
    let limits = Limits { idle: Some(2 * QUIET), ..no_limits() };
    let mut played = Played { far: None, ..Played::new(POLICY) };
    played.session = Session::released(limits, POLICY);
    assert_eq!(shown(played.rest(QUIET).await), "");
    played.client.write_all(b"PING\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Upstream(Released)");
    let limits = Limits { idle_since: Instant::now(), ..limits };
    let mut played = Played { far: None, ..Played::new(POLICY) };
    played.session = Session::released(limits, POLICY);
    assert_eq!(shown(played.rest(3 * QUIET).await), "End(Idle)");
}

/// A WAIT that another upstream could only answer wrongly.
#[tokio::test(start_paused = true)]
async fn nobody_waits_for_writes_from_before_a_release() {
    for (said, heard, is_met) in
        [(&b"SET a 1\r\n"[..], &b"+OK\r\n"[..], false), (b"SET a 1\r\nWAIT 1 0\r\n", b"+OK\r\n:1\r\n", true)]
    {
        let mut played = releasing(no_limits());
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        assert_eq!(shown(played.rest(2 * QUIET).await), "");
        played.client.write_all(b"WAIT 1 0\r\n").await.unwrap();
        assert_eq!(shown(played.run().await), "Upstream(Released)");
        played.attach();
        assert_eq!(shown(played.run().await), if is_met { "" } else { "Wait" });
    }
}

#[tokio::test(start_paused = true)]
async fn another_upstream_knows_nothing_of_what_was_asked_of_the_one_before() {
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\n").await;
    played.ask(Reason::Moved, Duration::from_secs(5));
    played.target_says(READONLY).await;
    assert_eq!(shown(played.run().await), "Upstream(Refused)");
    played.attach();
    assert!(played.run().await.is_none());
    assert!(!played.handle.is_asked());
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert!(played.run().await.is_none());
    assert!(played.far.is_some());
}

#[tokio::test(start_paused = true)]
async fn an_own_authentication_is_judged_behind_a_reply_that_is_half_there() {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    played.client_says(b"MONITOR\r\n").await;
    played.target_says(b"+OK\r\n+line").await;
    assert!(played.run().await.is_none());
    played.client_says(b"AUTH a\r\n").await;
    played.client_hears(b"+OK\r\n+line").await;
    played.target_says(b"\r\n").await;
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    played.client_hears(b"\r\n+OK\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_upstream_that_ends_leaves_an_own_authentication_to_be_judged() {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    played.target.shutdown().await.unwrap();
    played.client.write_all(b"AUTH a\r\nGET a\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    assert_eq!(shown(played.run().await), CLOSED);
    played.client_hears_already(b"+OK\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_ends_as_it_should_is_no_loss() {
    let mut played = Played::new(POLICY);
    played.client_says(b"WATCH a\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    played.client.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    played.target.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), "End(Closed)");
    assert!(!played.metrics.text().contains("pinned_total{link=\"redis:6379\",reason=\"watch\"} 1"));
}

/// What follows a command that the target has refused before all of it was there is no command.
#[tokio::test(start_paused = true)]
async fn the_rest_of_a_command_goes_to_no_other_upstream() {
    let mut played = Played::new(POLICY);
    played.client_says(b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$600000000\r\nFLUSHALL\r\n").await;
    played.target_says(b"-ERR Protocol error: invalid bulk length\r\n").await;
    played.client_hears(b"-ERR Protocol error: invalid bulk length\r\n").await;
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    let _ = played.client.write_all(b"FLUSHALL\r\n").await;
    assert_eq!(shown(played.run().await), "");
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
}

/// An upstream that is to be left hears that the client has gone: it may wait for ever otherwise.
#[tokio::test(start_paused = true)]
async fn an_upstream_that_is_to_be_left_hears_that_its_client_has_gone() {
    for (said, more) in [
        (&b"BLPOP q 0\r\n"[..], &b""[..]),
        (b"BLPOP q 0\r\n", b"GET a\r\n"),
        (b"WAIT 5 0\r\n", b"RESET\r\n"),
        (b"XREAD BLOCK 0 STREAMS s 0-1\r\n", b"RESET\r\nGET a\r\n"),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_hears(said).await;
        played.ask(Reason::Lifetime, Duration::from_hours(1000));
        played.client_says(more).await;
        played.client.shutdown().await.unwrap();
        assert!(played.run().await.is_none());
        if !more.is_empty() {
            tokio::time::sleep(ANSWER).await;
            assert!(played.run().await.is_none());
        }
        let mut heard = Vec::new();
        let end = tokio::time::timeout(Duration::from_millis(1), played.target.read_to_end(&mut heard)).await;
        assert!(end.is_ok(), "{}", said.escape_ascii());
        assert!(heard.is_empty() || heard == b"RESET\r\n", "{}", heard.escape_ascii());
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_command_costs_a_client_that_says_no_more_nothing() {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    played.client_says(b"BLPOP q 0\r\nAUTH a\r\nGET x\r\nAUTH b\r\nSET y 1\r\n").await;
    played.client.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    tokio::time::sleep(Duration::from_millis(950)).await;
    played.target_says(b"*-1\r\n").await;
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    assert!(played.run().await.is_none());
    tokio::time::sleep(ANSWER).await;
    assert!(played.run().await.is_none());
    played.target_says(b"$-1\r\n").await;
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    assert!(played.run().await.is_none());
    played.target_hears(b"BLPOP q 0\r\nGET x\r\nSET y 1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_own_password_never_goes_to_a_target_that_has_ended() {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    played.client_says(b"BLPOP q 0\r\nAUTH secret\r\n").await;
    played.target_hears(b"BLPOP q 0\r\n").await;
    played.target.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    played.client.write_all(b"AUTH secret\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    played.client.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), "End(Closed)");
    let mut heard = Vec::new();
    played.target.read_to_end(&mut heard).await.unwrap();
    assert_eq!(heard, b"");
}

/// More than the client's side takes at once, though all of it is read from the target.
const LARGE: usize = 70_000;

/// A reply of which the client has not taken all yet.
async fn half_taken(played: &mut Played) -> Vec<u8> {
    let reply = [format!("${LARGE}\r\n").as_bytes(), &vec![b'x'; LARGE], b"\r\n"].concat();
    let mut left = &reply[..];
    while !left.is_empty() {
        let piece = left.len().min(30_000);
        played.target_says(&left[..piece]).await;
        assert!(played.run().await.is_none());
        left = &left[piece..];
    }
    reply
}

#[tokio::test(start_paused = true)]
async fn who_does_not_read_is_not_judged_any_further() {
    let mut played = Played::new(Policy { absorbs: true, ..POLICY });
    played.client_says(b"GET a\r\n").await;
    let reply = half_taken(&mut played).await;
    played.client_says(b"AUTH x\r\nAUTH y\r\n").await;
    // Its upstream may go meanwhile.
    played.target.shutdown().await.unwrap();
    let mut heard = vec![0; reply.len()];
    let event = played.run_while_client_hears(&mut heard).await;
    assert_eq!(heard, reply);
    assert_eq!(shown(Some(event)), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    assert_eq!(shown(played.run().await), "Own(Own(***))");
    played.session.judged(Ok(b"+OK\r\n"));
    played.client_hears(b"+OK\r\n+OK\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_client_is_told_behind_all_that_it_is_still_to_hear() {
    let mut played = Played::new(POLICY);
    played.client_says(b"INCR a\r\n").await;
    played.target_says(b":1\r\n").await;
    played.client_hears(b":1\r\n").await;
    played.goes_on_elsewhere_with(b"GET a\r\n").await;
    assert!(played.run().await.is_none());
    half_taken(&mut played).await;
    played.client_says(b"WAIT 1 0\r\n").await;
    assert_eq!(shown(played.run().await), "", "a line would stand in the midst of the reply");
}

#[tokio::test(start_paused = true)]
async fn a_reset_of_which_nothing_is_heard_holds_nobody_up() {
    let mut played = Played::new(POLICY);
    played.client_says(b"CLIENT REPLY OFF\r\nRESET\r\nSET a 1\r\n").await;
    played.target_hears(b"CLIENT REPLY OFF\r\nRESET\r\n").await;
    tokio::time::sleep(ANSWER).await;
    assert!(played.run().await.is_none());
    played.target_hears(b"SET a 1\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_not_held_back_for_ever() {
    let mut played = Played::new(POLICY);
    played.client_says(b"SET a 1\r\nGET a\r\nBLPOP q 0\r\n").await;
    played.target_says(&[READONLY, b"$-1\r\n"].concat()).await;
    assert!(played.run().await.is_none());
    played.client_says(b"GET b\r\n").await;
    tokio::time::sleep(POLICY.patience).await;
    played.client_hears(&[READONLY, b"$-1\r\n"].concat()).await;
    played.target_hears(b"SET a 1\r\nGET a\r\nBLPOP q 0\r\nGET b\r\n").await;
    played.target_says(b"*-1\r\n$1\r\nb\r\n").await;
    played.client_hears(b"*-1\r\n$1\r\nb\r\n").await;
    assert!(played.session.is_at_boundary());
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_was_not_met_is_waited_for_still() {
    for (said, heard, is_met) in [
        (&b"SET a 1\r\nWAIT 1 100\r\n"[..], &b"+OK\r\n:1\r\n"[..], true),
        (b"SET a 1\r\nWAIT 1 100\r\n", b"+OK\r\n:0\r\n", false),
        (b"SET a 1\r\nWAITAOF 1 1 100\r\n", b"+OK\r\n*2\r\n:1\r\n:0\r\n", false),
        (b"EVAL x 0\r\n", b"-ERR in the script\r\n", false),
    ] {
        let mut played = Played::new(POLICY);
        played.client_says(said).await;
        played.target_says(heard).await;
        played.client_hears(heard).await;
        played.goes_on_elsewhere_with(b"WAIT 1 100\r\n").await;
        assert_eq!(shown(played.run().await), if is_met { "" } else { "Wait" }, "{}", said.escape_ascii());
    }
}

/// A target that takes nothing any more, and has ended: that is told at once, and not after the time for last words.
#[tokio::test(start_paused = true)]
async fn the_end_of_a_target_that_takes_nothing_is_heard_at_once() {
    let mut played = Played::new(POLICY);
    played.client_says(b"WATCH a\r\nGET a\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    let reply = half_taken(&mut played).await;
    let (_, gone) = duplex(1);
    drop(std::mem::replace(&mut played.target, gone));
    played.client_says(b"GET b\r\n").await;
    let mut heard = vec![0; reply.len()];
    let begun = Instant::now();
    let event = played.run_while_client_hears(&mut heard).await;
    assert_eq!(shown(Some(event)).split('(').next(), Some("End"));
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_auth_of_ours_that_gets_no_reply_among_pushes_takes_no_others() {
    let mut played = Played::new(POLICY);
    played.client_says(b"HELLO 3\r\nSUBSCRIBE a\r\n").await;
    let subscribed = b"%0\r\n>3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n";
    played.target_says(subscribed).await;
    played.client_hears(subscribed).await;
    let message = b">3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
    for said in [&b"+PONG\r\n"[..], b"+OK\r\n+PONG\r\n", b"-WRONGPASS no\r\n+PONG\r\n"] {
        played.session.reauthenticate(b"AUTH x\r\n");
        played.client_says(b"GET a\r\n").await;
        played.target_says(&[message, said, b"$1\r\na\r\n"].concat()).await;
        played.client_hears(&[&message[..], b"$1\r\na\r\n"].concat()).await;
        assert!(played.session.is_at_boundary());
    }
}

#[tokio::test(start_paused = true)]
async fn many_settings_under_way_are_not_followed_any_further() {
    let mut played = Played::new(POLICY);
    let settings = b"CLIENT SETNAME a\r\n".repeat(600);
    for _ in 0..2 {
        played.client_says(&settings).await;
        played.target_hears(&settings).await;
    }
    assert_eq!(played.session.pin(), Some(Pin::LostFraming));
    // However many subscriptions.
    let mut played = Played::new(POLICY);
    let said = [&b"WATCH a\r\n"[..], &b"SUBSCRIBE a\r\n".repeat(4000)].concat();
    played.client.write_all(&said).await.unwrap();
    assert!(played.run().await.is_none());
    played.target_hears(b"WATCH a\r\n").await;
}

/// What the upstream has said meanwhile is read first, and the command of a client that says no more is not lost over it.
#[tokio::test(start_paused = true)]
async fn a_command_waits_for_news_of_its_upstream() {
    let mut played = Played::new(POLICY);
    tokio::time::sleep(Duration::from_secs(1)).await;
    HAS_NEWS.set(true);
    played.client_says(b"SET a 1\r\n").await;
    played.client.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    HAS_NEWS.set(false);
    assert!(played.run().await.is_none());
    played.target_hears(b"SET a 1\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
}

const SHARING: Policy = Policy { shares: true, ..POLICY };

#[tokio::test(start_paused = true)]
async fn what_may_not_travel_waits_for_all_replies_and_an_upstream_of_its_own() {
    for command in [
        "MULTI\r\n",
        "BLPOP a 0\r\n",
        "EVAL x 0\r\n",
        "EVAL_RO x 0\r\n",
        "SUBSCRIBE a\r\n",
        "SELECT 1\r\n",
        "MODULE.UNKNOWN\r\n",
    ] {
        IS_SHARED.set(true);
        let mut played = Played::new(SHARING);
        played.client_says(format!("INCR a\r\nGET b\r\n{command}GET c\r\n").as_bytes()).await;
        played.target_hears(b"INCR a\r\nGET b\r\n").await;
        played.target_says(b":1\r\n").await;
        assert!(played.run().await.is_none(), "GET is not answered yet");
        played.target_says(b"$1\r\nb\r\n").await;
        assert_eq!(shown(played.run().await), "Upstream(Lent)", "{command}");
        played.client_hears_already(b":1\r\n$1\r\nb\r\n").await;
        assert!(played.session.shared().is_none(), "{command}");
        IS_SHARED.set(false);
        assert_eq!(played.attach(), 0);
        assert!(played.run().await.is_none());
        played.target_hears(command.as_bytes()).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upstream_of_its_own_is_given_back_where_another_state_bears_that() {
    const OK: &str = "+OK\r\n";
    for (said, heard, shared) in [
        ("EVAL x 0", "$-1\r\n", Some("")),
        ("BLPOP a 0", "*-1\r\n", Some("")),
        ("CLIENT SETNAME me", OK, Some("")),
        ("SELECT 3", OK, Some("*2\r\n$6\r\nSELECT\r\n$1\r\n3\r\n")),
        ("SELECT 3", "-ERR DB index is out of range\r\n", Some("")),
        ("HELLO 3", "%0\r\n", Some("*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n")),
        ("CLIENT NO-EVICT on", OK, None),
        ("CLIENT NO-TOUCH on", OK, None),
        ("READONLY", OK, None),
        ("MULTI", OK, None),
        ("WATCH a", OK, None),
        ("CLIENT TRACKING on", OK, None),
        ("MODULE.UNKNOWN", OK, None),
        ("SUBSCRIBE a", "*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n", None),
    ] {
        let mut played = Played::new(SHARING);
        played.client_says(format!("{said}\r\n").as_bytes()).await;
        played.target_says(heard.as_bytes()).await;
        let event = shown(played.run().await);
        assert_eq!(event, if shared.is_some() { "Share" } else { "" }, "{said}");
        played.client_hears_already(heard.as_bytes()).await;
        let state = played.session.shared().map(|state| {
            let commands: Vec<u8> = state.commands().flat_map(|(command, _)| command.to_vec()).collect();
            String::from_utf8(commands).unwrap()
        });
        assert_eq!(state.as_deref(), shared, "{said}");
    }
}

/// What sets a database goes alone to where that is set already; what is behind it goes where the session is then.
#[tokio::test(start_paused = true)]
async fn what_sets_something_is_said_where_it_is_set() {
    fn shown_state(state: Option<Restore>) -> Option<String> {
        let said = |state: Restore| {
            state.commands().map(|(said, _)| String::from_utf8_lossy(said).into_owned()).collect()
        };
        state.map(said)
    }
    const FIRST: &str = "*2\r\n$6\r\nSELECT\r\n$1\r\n1\r\n";
    for (reply, state) in [("+OK\r\n", FIRST), ("-ERR no\r\n", "")] {
        let mut played = Played::new(SHARING);
        IS_SHARED.set(true);
        played.client.write_all(b"SELECT 1\r\nCLIENT SETNAME me\r\nGET a\r\n").await.unwrap();
        assert_eq!(shown(played.run().await), "Upstream(Lent)");
        assert_eq!(shown_state(played.session.shared()), None);
        assert_eq!(shown_state(played.session.shared_behind()).as_deref(), Some(FIRST));
        BEARS.set(true);
        played.attach();
        assert!(played.run().await.is_none());
        played.target_hears(b"SELECT 1\r\n").await;
        played.nothing_more_is_heard().await;
        played.target_says(reply.as_bytes()).await;
        played.client_hears(reply.as_bytes()).await;
        // The name may be said there too.
        played.target_hears(b"CLIENT SETNAME me\r\n").await;
        played.target_says(b"+OK\r\n").await;
        assert_eq!(shown(played.run().await), "Upstream(Lent)");
        played.client_hears_already(b"+OK\r\n").await;
        assert_eq!(shown_state(played.session.shared()).as_deref(), Some(state));
        played.attach();
        assert!(played.run().await.is_none());
        played.target_hears(b"GET a\r\n").await;
        played.target_says(b"$-1\r\n").await;
        played.client_hears(b"$-1\r\n").await;
        // There it is at home, and nothing is waited for.
        played.client_says(b"CLIENT SETNAME you\r\nGET a\r\n").await;
        played.target_hears(b"CLIENT SETNAME you\r\nGET a\r\n").await;
        IS_SHARED.set(false);
        BEARS.set(false);
    }
}

/// An exchange there and back costs more than an upstream for a moment.
#[tokio::test(start_paused = true)]
async fn who_needs_it_again_at_once_keeps_what_is_lent_for_a_moment() {
    let mut played = Played::new(SHARING);
    for (pause, is_kept) in [(Duration::ZERO, false), (BUSY / 2, true), (BUSY / 2, false), (BUSY, false)] {
        tokio::time::sleep(pause).await;
        played.client.write_all(b"EVAL x 0\r\n").await.unwrap();
        if played.far.is_none() {
            assert_eq!(shown(played.run().await), "Upstream(Lent)");
            played.attach();
        }
        assert!(played.run().await.is_none());
        played.target_hears(b"EVAL x 0\r\n").await;
        played.target_says(b"$-1\r\n").await;
        let event = shown(played.run().await);
        played.client_hears_already(b"$-1\r\n").await;
        assert_eq!(event, if is_kept { "" } else { "Share" });
        if is_kept {
            // Who goes on needs no other one; what could travel is no reason to keep it.
            for (said, reply) in [("EVAL y 0\r\n", "$-1\r\n"), ("GET a\r\n", "$1\r\na\r\n")] {
                tokio::time::sleep(BUSY / 3).await;
                played.client_says(said.as_bytes()).await;
                played.target_hears(said.as_bytes()).await;
                played.target_says(reply.as_bytes()).await;
                played.client_hears(reply.as_bytes()).await;
            }
            let event = tokio::time::timeout(BUSY, played.polled(&mut 0)).await.ok();
            assert_eq!(shown(event), "Share");
        }
        played.session.needs_none();
        played.far = None;
    }
}

/// Of a client's end only that upstream hears that still owes it something.
#[tokio::test(start_paused = true)]
async fn a_client_that_goes_leaves_what_was_lent_to_it() {
    for (owes, wants_authentication) in [(false, false), (false, true), (true, false)] {
        let mut played = Played::new(SHARING);
        // It has needed one just now, and keeps this one.
        played.session.rare().needed_at = Some(Instant::now());
        played.session.needs_own = true;
        played.attach();
        played.client_says(b"EVAL x 0\r\n").await;
        played.target_hears(b"EVAL x 0\r\n").await;
        if owes {
            played.client.shutdown().await.unwrap();
            assert!(played.run().await.is_none());
        }
        played.target_says(b"$-1\r\n").await;
        assert!(played.run().await.is_none());
        played.client_hears_already(b"$-1\r\n").await;
        if owes {
            assert_eq!(played.target.read(&mut [0]).await.unwrap(), 0);
            played.target.shutdown().await.unwrap();
            assert_eq!(shown(played.run().await), "End(Closed)");
            continue;
        }
        played.client.shutdown().await.unwrap();
        if wants_authentication {
            played.handle.ask_for_authentication();
        }
        assert_eq!(shown(played.run().await), "Share");
        played.session.needs_none();
        played.far = None;
        assert_eq!(shown(played.run().await), "End(Closed)");
    }
}

/// Large values keep others waiting, and Redis holds all of them for one connection.
#[tokio::test(start_paused = true)]
async fn who_reads_large_values_has_an_upstream_of_its_own() {
    let large = format!("$20000\r\n{}\r\n", "v".repeat(20_000));
    let mut played = Played::new(SHARING);
    IS_SHARED.set(true);
    played.client_says(b"GET a\r\n").await;
    let (half, rest) = large.split_at(9000);
    for piece in [half, rest] {
        played.target_says(piece.as_bytes()).await;
        played.client_hears(piece.as_bytes()).await;
    }
    played.client.write_all(b"GET a\r\n").await.unwrap();
    assert_eq!(shown(played.run().await), "Upstream(Lent)");
    assert!(played.session.shared().is_none());
    IS_SHARED.set(false);
    played.attach();
    assert!(played.run().await.is_none());
    played.target_says(b"$1\r\na\r\n").await;
    assert_eq!(shown(played.run().await), "Share");
    played.client_hears_already(b"$1\r\na\r\n").await;
    assert!(played.session.shared().is_some());
}

/// What is executed without a reply is told by the next one.
#[tokio::test(start_paused = true)]
async fn an_upstream_is_not_given_back_before_what_is_skipped_is_known_to_be_done() {
    let mut played = Played::new(SHARING);
    played.client_says(b"CLIENT REPLY SKIP\r\nBLPOP a 0\r\n").await;
    played.target_hears(b"CLIENT REPLY SKIP\r\nBLPOP a 0\r\n").await;
    played.nothing_more_is_heard().await;
    assert!(played.far.is_some());
    played.client_says(b"GET a\r\n").await;
    played.target_hears(b"GET a\r\n").await;
    played.target_says(b"$1\r\na\r\n").await;
    assert_eq!(shown(played.run().await), "Share");
}

/// A seat whose client has not read what it has asked for.
struct Unread;

impl AsyncRead for Unread {
    fn poll_read(self: Pinned<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Err(UNREAD_REPLIES.into()))
    }
}

impl AsyncWrite for Unread {
    fn poll_write(self: Pinned<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pinned<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pinned<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl Side for Unread {
    fn take_error(&self) -> Option<io::Error> {
        None
    }

    fn is_shared(&self) -> bool {
        true
    }
}

/// What it has asked for is not asked again for it: it would not read that either.
#[tokio::test(start_paused = true)]
async fn a_client_that_does_not_read_what_it_shares_is_closed() {
    let mut played = Played::new(SHARING);
    let mut seat = Some(Unread);
    played.client.write_all(b"GET a\r\nGET b\r\n").await.expect("sent");
    let metrics = played.metrics.link("redis:6379");
    let Played { session, near, handle, .. } = &mut played;
    let event = std::future::poll_fn(|cx| session.poll(cx, near, &mut seat, handle, &metrics.session));
    let event = tokio::time::timeout(Duration::from_mins(1), event).await.expect("an end");
    assert!(matches!(event, Event::End(End::Broken(Party::Client, _))), "{event:?}");
}

/// Of a link whose clients hear of other addresses than those that the upstream names.
const RETELLING: Policy = Policy { retells: true, resends: false, ..POLICY };

impl Played {
    /// What the session has retold for it, which is shorter by what is told to us.
    async fn retells(&mut self, names: &str, retold: &[u8]) {
        let Some(Event::Names(told)) = self.run().await else { panic!("nothing is to be retold") };
        assert_eq!(told.reply.escape_ascii().to_string(), names.as_bytes().escape_ascii().to_string());
        self.session.retold(retold);
    }
}

#[tokio::test(start_paused = true)]
async fn what_names_servers_is_retold_in_its_place_among_the_replies() {
    let mut played = Played::new(RETELLING);
    played.client_says(b"GET a\r\nGET b\r\nGET c\r\nCLUSTER SLOTS\r\nGET d\r\n").await;
    played.target_says(b"+a\r\n-MOVED 1 h:1\r\n-ASK 2 h:2\r\n*1\r\n:1\r\n+d\r\n").await;
    played.retells("-MOVED 1 h:1\r\n", b"-MOVED 1 o:1\r\n").await;
    played.retells("-ASK 2 h:2\r\n", b"-ASK 2 o:2\r\n").await;
    played.retells("*1\r\n:1\r\n", b"*0\r\n").await;
    played.client_hears(b"+a\r\n-MOVED 1 o:1\r\n-ASK 2 o:2\r\n*0\r\n+d\r\n").await;
    assert!(played.session.is_at_boundary());
    // In whatever pieces it comes; what is no redirection is waited for and passed on.
    for (said, names) in [
        (&b"-MOVED 1 h:1\r\n"[..], true),
        (b"-MOVE 1 h:1\r\n", false),
        (b"-ERR MOVED 1 h:1\r\n", false),
        (b"$14\r\n-MOVED 1 h:1\r\n\r\n", false),
    ] {
        played.client_says(b"GET a\r\n").await;
        for byte in &said[..said.len() - 1] {
            played.target_says(&[*byte]).await;
            assert!(played.run().await.is_none());
        }
        played.target_says(&said[said.len() - 1..]).await;
        if names {
            played.retells(std::str::from_utf8(said).unwrap(), b"-MOVED 1 o:1\r\n").await;
            played.client_hears(b"-MOVED 1 o:1\r\n").await;
        } else {
            played.client_hears(said).await;
        }
        assert!(played.session.is_at_boundary());
    }
    // Elsewhere it is passed on; that there is such a thing is told the first time.
    let mut played = Played::new(POLICY);
    played.client_says(b"GET a\r\nCLUSTER SLOTS\r\n").await;
    played.target_says(b"-MOVED 1 h:1\r\n*0\r\n").await;
    assert!(matches!(played.run().await, Some(Event::SentAway)));
    played.client_hears(b"-MOVED 1 h:1\r\n*0\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn redirections_in_other_replies_are_retold_and_the_rest_streams_on() {
    for pieces in [1, 5, 1000] {
        let mut played = Played::new(RETELLING);
        played.client_says(b"EVAL x 0\r\nGET a\r\n").await;
        let said = b"*4\r\n:1\r\n-MOVED 1 h:1\r\n*1\r\n-ERR no\r\n-ASK 1 h:1 x\r\n-MOVED 2 h:2\r\n";
        let (mut rest, mut retold) = (&said[..], Vec::new());
        while !rest.is_empty() {
            let (piece, behind) = rest.split_at(pieces.min(rest.len()));
            rest = behind;
            played.target_says(piece).await;
            while let Some(event) = played.run().await {
                let Event::Names(told) = event else { panic!("{event:?}") };
                // What answers GET is no script's.
                assert_eq!(told.is_server_s_own, told.reply.starts_with(b"-MOVED 2"));
                retold.push(String::from_utf8(told.reply).unwrap());
                played.session.retold(b"-x\r\n");
            }
        }
        assert_eq!(retold, ["-MOVED 1 h:1\r\n", "-ASK 1 h:1 x\r\n", "-MOVED 2 h:2\r\n"]);
        played.client_hears(b"*4\r\n:1\r\n-x\r\n*1\r\n-ERR no\r\n-x\r\n-x\r\n").await;
    }
}

#[tokio::test(start_paused = true)]
async fn lists_of_servers_in_a_transaction_are_retold_with_its_reply() {
    let mut played = Played::new(RETELLING);
    played.client_says(b"MULTI\r\nCLUSTER NODES\r\nEXEC\r\nMULTI\r\nPING\r\nEXEC\r\n").await;
    played.target_says(b"+OK\r\n+QUEUED\r\n*1\r\n$1\r\nx\r\n+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n").await;
    played.retells("+QUEUED\r\n", b"+QUEUED\r\n").await;
    played.retells("*1\r\n$1\r\nx\r\n", b"*1\r\n$1\r\ny\r\n").await;
    played.client_hears(b"+OK\r\n+QUEUED\r\n*1\r\n$1\r\ny\r\n+OK\r\n+QUEUED\r\n*1\r\n+PONG\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn half_a_list_of_servers_is_never_heard() {
    // It is asked for again.
    let mut played = Played::new(RETELLING);
    played.client_says(b"CLUSTER NODES\r\n").await;
    played.target_says(b"$100\r\nid h:1@2").await;
    assert!(played.run().await.is_none());
    played.target.shutdown().await.unwrap();
    assert_eq!(shown(played.run().await), CLOSED);
    played.attach();
    assert!(played.run().await.is_none());
    played.target_hears(b"CLUSTER NODES\r\n").await;
    played.target_says(b"$1\r\nx\r\n").await;
    played.retells("$1\r\nx\r\n", b"$1\r\ny\r\n").await;
    played.client_hears(b"$1\r\ny\r\n").await;
    // Or comes to nothing.
    played.client_says(b"INCR a\r\nCLUSTER NODES\r\n").await;
    played.target_says(b"-MOVED 1 h").await;
    assert!(played.run().await.is_none());
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
    // One without end comes from no server.
    let mut played = Played::new(RETELLING);
    played.client_says(b"CLUSTER NODES\r\n").await;
    played.target_says(b"$99999999\r\n").await;
    let flood = vec![b'x'; 32 * 1024];
    let mut event = None;
    for _ in 0..200 {
        played.target_says(&flood).await;
        event = played.run().await;
        if event.is_some() {
            break;
        }
    }
    assert!(shown(event).contains("a list of servers without end"));
}

#[tokio::test(start_paused = true)]
async fn what_goes_by_unwatch_and_quit_does_not_go_before_what_is_retold() {
    let mut played = Played::new(RETELLING);
    played.client_says(b"MULTI\r\nCLUSTER SLOTS\r\nUNWATCH\r\nEXEC\r\n").await;
    played.target_says(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*2\r\n*0\r\n+OK\r\n").await;
    played.retells("+QUEUED\r\n", b"+QUEUED\r\n").await;
    played.retells("*2\r\n*0\r\n+OK\r\n", b"*1\r\n+told\r\n").await;
    played.client_hears(b"+OK\r\n+QUEUED\r\n+QUEUED\r\n*1\r\n+told\r\n").await;
    // Who shares is answered by us, in its place.
    IS_SHARED.set(true);
    let mut played = Played::new(Policy { shares: true, ..RETELLING });
    played.client_says(b"GET a\r\n").await;
    played.target_says(b"-MOVED 1 h:1\r\n").await;
    played.client.write_all(b"QUIT\r\n").await.unwrap();
    played.retells("-MOVED 1 h:1\r\n", b"-MOVED 1 o:1\r\n").await;
    drop(played.run().await);
    played.client_hears_already(b"-MOVED 1 o:1\r\n+OK\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn an_error_that_nobody_asked_for_is_heard_from_its_first_byte() {
    let mut played = Played::new(RETELLING);
    played.target_says(b"-ERR max numb").await;
    assert!(played.run().await.is_none());
    played.target_says(b"er\r\n").await;
    played.client_hears(b"-ERR max number\r\n").await;
}

#[tokio::test(start_paused = true)]
async fn a_reply_of_which_the_client_has_a_part_is_not_asked_for_again() {
    let mut played = Played::new(RETELLING);
    played.client_says(b"LRANGE a 0 -1\r\n").await;
    played.target_says(b"*2\r\n:1\r\n-ERR h").await;
    played.client_hears(b"*2\r\n:1\r\n").await;
    played.target.shutdown().await.unwrap();
    assert!(played.run().await.is_none());
    assert_eq!(played.client.read(&mut [0]).await.unwrap(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_list_that_nobody_could_tell_from_other_replies_is_not_asked_for() {
    let mut played = Played::new(RETELLING);
    played.client_says(b"MULTI\r\n").await;
    played.target_says(b"+OK\r\n").await;
    played.client_hears(b"+OK\r\n").await;
    // From here on replies are not counted.
    played.client_says(b"CLIENT REPLY ON\r\nCLUSTER SLOTS\r\nGET a\r\n").await;
    played.target_hears(b"MULTI\r\nCLIENT REPLY ON\r\n*1\r\n$7\r\nCLUSTER\r\nGET a\r\n").await;
    // Of one that comes in pieces the rest goes nowhere.
    played.client_says(b"*3\r\n$7\r\nCLUSTER\r\n$8\r\nREPLICAS\r\n").await;
    played.target_hears(b"*1\r\n$7\r\nCLUSTER\r\n").await;
    played.client_says(b"$4\r\nno").await;
    played.client_says(b"de\r\nGET b\r\n").await;
    played.target_hears(b"GET b\r\n").await;
}
