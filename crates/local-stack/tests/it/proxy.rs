//! Every fault of the proxy, in front of a real Redis and of a real Postgres.

use std::io::ErrorKind;
use std::time::{Duration, Instant};

use local_stack::{Existing, FaultProxy, RedisOptions, Stack, wait_for};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::PATIENCE;

/// Long enough for an answer that comes at once on a busy machine, short enough to wait for in vain.
const SILENCE: Duration = Duration::from_millis(150);

async fn redis() -> (Stack, FaultProxy) {
    let stack = Stack::shared().await.expect("the shared stack");
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy");
    (stack, proxy)
}

struct Client(TcpStream);

impl Client {
    async fn of(proxy: &FaultProxy) -> Self {
        Self(TcpStream::connect(proxy.addr()).await.expect("connected"))
    }

    async fn send(&mut self, words: &str) {
        self.0.write_all(format!("{words}\r\n").as_bytes()).await.expect("sent");
    }

    async fn line(&mut self) -> std::io::Result<String> {
        let mut line = Vec::new();
        while !line.ends_with(b"\r\n") {
            line.push(timeout(PATIENCE, self.0.read_u8()).await.expect("in time")?);
        }
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn ask(&mut self, words: &str) -> std::io::Result<String> {
        self.0.write_all(format!("{words}\r\n").as_bytes()).await?;
        self.line().await
    }

    async fn is_silent(&mut self) -> bool {
        timeout(SILENCE, self.0.peek(&mut [0])).await.is_err()
    }
}

#[tokio::test]
async fn it_passes_and_counts() {
    let (_stack, proxy) = redis().await;
    let mut client = Client::of(&proxy).await;
    for _ in 0..5 {
        assert_eq!(client.ask("PING").await.expect("answered"), "+PONG");
    }
    // Two commands sent together are one trip.
    client.send("PING\r\nPING").await;
    client.line().await.expect("one");
    client.line().await.expect("two");
    let traffic = proxy.traffic();
    assert_eq!((traffic.connections, traffic.open, traffic.round_trips), (1, 1, 6));
    assert_eq!((traffic.bytes_up, traffic.bytes_down), (7 * 6, 7 * 7));
    proxy.reset_counts();
    client.ask("PING").await.expect("answered");
    assert_eq!((proxy.connections(), proxy.round_trips()), (0, 1));
    assert_eq!(client.ask("QUIT").await.expect("answered"), "+OK");
    let end = client.line().await.expect_err("the server closed");
    assert_eq!(end.kind(), ErrorKind::UnexpectedEof, "an orderly end arrives as one");
    drop(client);
    wait_for("the connection is over", PATIENCE, async || proxy.traffic().open == 0).await;
}

#[tokio::test]
async fn cut_resets_what_there_is() {
    let (_stack, proxy) = redis().await;
    let mut clients = [Client::of(&proxy).await, Client::of(&proxy).await];
    for client in &mut clients {
        client.ask("PING").await.expect("answered");
    }
    proxy.cut();
    assert_eq!(proxy.traffic().open, 0, "it took effect before it returned");
    for mut client in clients {
        assert_eq!(client.line().await.expect_err("cut").kind(), ErrorKind::ConnectionReset);
    }
    assert_eq!(Client::of(&proxy).await.ask("PING").await.expect("a new one passes"), "+PONG");
}

#[tokio::test]
async fn refuse_closes_the_port_for_new_ones() {
    let (_stack, proxy) = redis().await;
    let mut old = Client::of(&proxy).await;
    old.ask("PING").await.expect("answered");
    for _ in 0..3 {
        proxy.refuse(true);
        let refused = TcpStream::connect(proxy.addr()).await.expect_err("refused");
        assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
        assert_eq!(old.ask("PING").await.expect("the old one goes on"), "+PONG");
        proxy.refuse(false);
        assert_eq!(Client::of(&proxy).await.ask("PING").await.expect("accepted again"), "+PONG");
    }
}

#[tokio::test]
async fn a_black_hole_swallows_and_loses_nothing() {
    let (_stack, proxy) = redis().await;
    let mut old = Client::of(&proxy).await;
    old.ask("PING").await.expect("answered");
    proxy.black_hole(true);
    let mut new = Client::of(&proxy).await;
    old.send("ECHO old").await;
    new.send("ECHO new").await;
    assert!(old.is_silent().await && new.is_silent().await);
    proxy.black_hole(false);
    for (client, word) in [(&mut old, "old"), (&mut new, "new")] {
        assert_eq!(client.line().await.expect("late"), "$3");
        assert_eq!(client.line().await.expect("late"), word);
    }
}

#[tokio::test]
async fn a_delay_is_added_each_way() {
    let (_stack, proxy) = redis().await;
    let mut client = Client::of(&proxy).await;
    client.ask("PING").await.expect("answered");
    proxy.delay(Duration::from_millis(60));
    let start = Instant::now();
    client.ask("PING").await.expect("answered");
    assert!(start.elapsed() >= Duration::from_millis(120), "took {:?}", start.elapsed());

    proxy.delay_each(Duration::ZERO, Duration::from_millis(100));
    let start = Instant::now();
    // Delayed together, not one after the other.
    client.send("PING\r\nPING\r\nPING").await;
    for _ in 0..3 {
        client.line().await.expect("answered");
    }
    assert!((Duration::from_millis(100)..Duration::from_millis(290)).contains(&start.elapsed()));

    proxy.delay(Duration::from_secs(3600));
    client.send("PING").await;
    assert!(client.is_silent().await);
    proxy.heal();
    assert_eq!(client.line().await.expect("healed while it waited"), "+PONG");
}

#[tokio::test]
async fn a_throttle_limits_the_rate() {
    let (_stack, proxy) = redis().await;
    let mut client = Client::of(&proxy).await;
    let value = "x".repeat(20_000);
    client.ask("PING").await.expect("answered");
    proxy.throttle(100_000);
    let start = Instant::now();
    assert_eq!(client.ask(&format!("ECHO {value}")).await.expect("answered"), "$20000");
    assert_eq!(client.line().await.expect("answered"), value);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(200), "40 kB at 100 kB/s took {took:?}");
    proxy.throttle(1);
    client.send("PING").await;
    assert!(client.is_silent().await);
    proxy.throttle(None);
    assert_eq!(client.line().await.expect("healed while it waited"), "+PONG");
}

#[tokio::test]
async fn a_reset_after_so_many_bytes() {
    let (stack, proxy) = redis().await;
    let mut client = Client::of(&proxy).await;
    client.ask("PING").await.expect("answered");
    proxy.reset_after(6 + 7 + 6 + 3);
    assert_eq!(client.ask("PING").await.expect("13 bytes pass"), "+PONG");
    client.send("PING").await;
    let mut got = Vec::new();
    let end = client.0.read_to_end(&mut got).await.expect_err("reset");
    assert_eq!((got.as_slice(), end.kind()), (&b"+PO"[..], ErrorKind::ConnectionReset));

    // The request arrives, its answer does not.
    let key = stack.redis_namespace();
    proxy.reset_answers_after(0);
    let mut client = Client::of(&proxy).await;
    client.send(&format!("SET {key} done")).await;
    assert_eq!(client.line().await.expect_err("reset").kind(), ErrorKind::ConnectionReset);
    proxy.heal();
    let stored = stack.redis().master().redis_command(&["GET", &key]).await.expect("asked");
    assert_eq!(stored.as_text(), Some("done"));
    assert_eq!(Client::of(&proxy).await.ask("PING").await.expect("healed"), "+PONG");
}

#[tokio::test]
async fn retarget_leads_elsewhere() {
    let (_stack, proxy) = redis().await;
    let other = Stack::builder().redis(RedisOptions::default()).start().await.expect("another Redis");
    other.redis().master().redis_command(&["SET", "who", "other"]).await.expect("set");
    let mut old = Client::of(&proxy).await;
    assert_eq!(old.ask("GET who").await.expect("answered"), "$-1");
    proxy.retarget(other.redis().master().target(), Existing::Keep);
    assert_eq!(old.ask("GET who").await.expect("still the former"), "$-1");
    assert_eq!(Client::of(&proxy).await.ask("GET who").await.expect("the new one"), "$5");
    proxy.retarget(other.redis().master().target(), Existing::Cut);
    assert!(old.ask("GET who").await.is_err());
    other.redis().master().kill().expect("killed");
    // The reset may come as early as in the connect itself.
    let end = match TcpStream::connect(proxy.addr()).await {
        Ok(stream) => Client(stream).line().await.expect_err("no target"),
        Err(end) => end,
    };
    assert_eq!(end.kind(), ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn a_stalled_receiver_stops_the_sender() {
    let target = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a target that reads nothing");
    let proxy =
        FaultProxy::start(target.local_addr().expect("its address").to_string()).await.expect("a proxy");
    let mut client = Client::of(&proxy).await;
    let (_held, _) = target.accept().await.expect("accepted");
    let block = vec![0; 1 << 20];
    // Buffers of the proxy and of the kernel are finite: a sender that is never read is stopped.
    let flood = async {
        for _ in 0..512 {
            client.0.write_all(&block).await.expect("sent");
        }
    };
    assert!(timeout(Duration::from_secs(2), flood).await.is_err(), "half a gigabyte was buffered");
    assert!(proxy.traffic().bytes_up < 256 << 20);
}

#[tokio::test]
async fn it_ends_with_its_last_handle() {
    let (_stack, proxy) = redis().await;
    let addr = proxy.addr();
    let mut client = Client::of(&proxy).await;
    client.ask("PING").await.expect("answered");
    drop(proxy.clone());
    assert_eq!(client.ask("PING").await.expect("one handle is left"), "+PONG");
    drop(proxy);
    assert_eq!(client.line().await.expect_err("gone").kind(), ErrorKind::ConnectionReset);
    wait_for("the port is closed", PATIENCE, async || TcpStream::connect(addr).await.is_err()).await;
}

#[tokio::test(start_paused = true)]
async fn a_paused_clock_does_not_hasten_it() {
    let (_stack, proxy) = redis().await;
    proxy.delay(Duration::from_millis(40));
    let start = Instant::now();
    let mut stream = std::net::TcpStream::connect(proxy.addr()).expect("connected");
    std::io::Write::write_all(&mut stream, b"PING\r\n").expect("sent");
    let mut answer = [0; 7];
    std::io::Read::read_exact(&mut stream, &mut answer).expect("answered");
    assert!(start.elapsed() >= Duration::from_millis(80));
}

#[tokio::test]
async fn a_url_through_it_reaches_postgres() {
    let stack = Stack::shared().await.expect("the shared stack");
    let proxy = FaultProxy::start(stack.postgres().primary().target()).await.expect("a proxy");
    let database = stack.database().await.expect("a database");
    let url = proxy.url(&database.url());
    assert_eq!(url, database.url_via(proxy.addr()));
    let output = tokio::process::Command::new("psql")
        .args(["-XAtc", "select 1", &url])
        .output()
        .await
        .expect("psql runs");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "1",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    assert_eq!(proxy.connections(), 1);
    assert!(proxy.round_trips() >= 3, "start-up, password, query");
}
