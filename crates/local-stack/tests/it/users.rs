//! Users of Redis: the shipped ACL file in every topology, and passwords that change while the servers run.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;

use local_stack::{Error, Redis, RedisOptions, Server, Stack};

use crate::PATIENCE;

const APP: &str = "database-services";

async fn shipped(options: RedisOptions) -> Stack {
    let acl = include_str!("../../../../deploy/redis/users.acl").replace("CHANGE_ME", "first");
    Stack::builder().redis(RedisOptions { acl: Some(acl), ..options }).start().await.expect("it starts")
}

/// One connection over TCP, as an application has it.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(server: &Server) -> Self {
        let stream = TcpStream::connect(server.target()).expect("connected");
        stream.set_read_timeout(Some(PATIENCE)).expect("set");
        Self(BufReader::new(stream))
    }

    fn say(&mut self, line: &str) -> String {
        self.0.get_mut().write_all(format!("{line}\r\n").as_bytes()).expect("sent");
        let mut answer = String::new();
        self.0.read_line(&mut answer).expect("answered");
        answer.trim_end().to_owned()
    }
}

fn login(server: &Server, user: &str, password: &str) -> Result<Client, String> {
    let mut client = Client::connect(server);
    match client.say(&format!("AUTH {user} {password}")) {
        answer if answer == "+OK" => Ok(client),
        answer => Err(answer),
    }
}

/// The application comes in and is held to its rights on every server; then its password changes everywhere.
async fn rights_and_rotation(redis: &Redis) {
    for server in redis.servers() {
        let mut client = login(server, APP, "first").expect("let in");
        assert_eq!(client.say("PING"), "+PONG");
        assert!(client.say("GET another:key").starts_with("-NOPERM"));
        assert!(client.say("FLUSHALL").starts_with("-NOPERM"));
        assert!(Client::connect(server).say("PING").starts_with("-NOAUTH"), "the default user is off");
    }
    let mut standing = login(redis.master(), APP, "first").expect("let in");
    redis.set_password(APP, &["first", "second"]).await.expect("both hold");
    for (server, password) in redis.servers().flat_map(|server| [(server, "first"), (server, "second")]) {
        assert!(login(server, APP, password).is_ok(), "{} {password}", server.name());
    }
    redis.set_password(APP, &["second"]).await.expect("one holds");
    for server in redis.servers() {
        let refused = login(server, APP, "first").err().expect("the old one");
        assert!(refused.starts_with("-WRONGPASS"), "{refused}");
        assert!(login(server, APP, "second").is_ok());
    }
    assert_eq!(standing.say("PING"), "+PONG", "who is in stays in");
}

#[tokio::test]
async fn the_shipped_file_on_a_master_with_a_replica() {
    let stack = shipped(RedisOptions::with_replicas(1)).await;
    let redis = stack.redis();
    rights_and_rotation(redis).await;
    let master = redis.master();
    let mut client = login(master, APP, "second").expect("let in");
    assert_eq!(client.say("SET database-services:k v"), "+OK");
    redis.wait_replicas(PATIENCE).await.expect("replicated");
    master.restart().await.expect("restarted");
    assert!(login(master, APP, "first").is_err());
    assert!(login(master, APP, "second").is_ok(), "it holds over a restart");
    redis.wait_replicas(PATIENCE).await.expect("replication needs none of it");
}

#[tokio::test]
async fn the_shipped_file_under_sentinels() {
    let stack = shipped(RedisOptions::with_sentinels(1)).await;
    let redis = stack.redis();
    rights_and_rotation(redis).await;
    let now = redis.failover().await.expect("failed over");
    let mut client = login(&now, APP, "second").expect("let in");
    assert_eq!(client.say("SET database-services:k v"), "+OK");
    redis.wait_sentinels(PATIENCE).await.expect("the former master follows");
}

#[tokio::test]
async fn the_shipped_file_on_a_cluster() {
    let stack = shipped(RedisOptions::cluster()).await;
    let redis = stack.redis();
    rights_and_rotation(redis).await;
    let slot = Redis::slot("database-services:k");
    let owner = redis.slot_owner(slot).await.expect("owned");
    let mut client = login(&owner, APP, "second").expect("let in");
    assert_eq!(client.say("SET database-services:k v"), "+OK");
    redis.failover_to(redis.replica_of(&owner).expect("one each")).await.expect("failed over");
    let next = redis.masters().iter().find(|master| master.port() != owner.port()).expect("three masters");
    let owner = redis.slot_owner(slot).await.expect("owned");
    redis.move_slot(slot, &owner, next).await.expect("moved with its key");
    let mut client = login(next, APP, "second").expect("let in");
    assert_eq!(client.say("GET database-services:k"), "$1");
}

#[tokio::test]
async fn without_a_file_the_default_users_password_changes_too() {
    let options = RedisOptions { password: Some("fir st".into()), ..RedisOptions::with_replicas(1) };
    let stack = Stack::builder().redis(options).start().await.expect("it starts");
    let (redis, master) = (stack.redis(), stack.redis().master());
    assert!(login(master, "default", "\"fir st\"").is_ok());
    redis.set_password("default", &["second"]).await.expect("set");
    for round in ["running", "restarted"] {
        assert!(login(master, "default", "\"fir st\"").is_err(), "{round}");
        assert!(login(master, "default", "second").is_ok(), "{round}");
        assert!(Client::connect(master).say("PING").starts_with("-NOAUTH"), "{round}");
        master.restart().await.expect("restarted");
    }
    redis.wait_replicas(PATIENCE).await.expect("replicated");

    let unknown = redis.set_password("nobody", &["x"]).await.expect_err("no such user");
    assert!(matches!(&unknown, Error::NoSuchPart { part } if part == "user nobody on redis-0"), "{unknown}");
    assert!(matches!(redis.set_password("local-stack", &["x"]).await, Err(Error::Setting { .. })));
    redis.replicas()[0].kill().expect("killed");
    let missed = redis.set_password("default", &["thi rd"]).await.expect_err("one does not run");
    assert!(matches!(&missed, Error::NotRunning { server, .. } if server == "redis-1"), "{missed}");
    assert!(login(master, "default", "\"thi rd\"").is_ok());
}
