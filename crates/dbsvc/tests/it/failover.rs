//! `dbsvc failover …`: promote, repoint, back, with real servers, and everything that stands against it.

use std::io::Write;
use std::path::Path;

use local_stack::{Auth, PostgresOptions, RedisOptions, Server, Stack, wait_for};
use serde_json::{Value, json};

use crate::support::{Place, Run, SOON, run};

/// A primary with standbys that let each other in without a password.
async fn place(replicas: usize) -> (Place, Vec<Server>) {
    let postgres = PostgresOptions { auth: Auth::Trust, ..PostgresOptions::with_replicas(replicas) };
    let stack = Stack::builder().postgres(postgres).redis(RedisOptions::default()).start().await.unwrap();
    let mut place = Place::on(stack).await;
    let servers: Vec<Server> = place.stack.postgres().servers().cloned().collect();
    let list: Vec<String> = servers[1..].iter().map(Server::target).collect();
    place.env.push(("DATABASE_REPLICAS", list.join(",")));
    (place, servers)
}

async fn failover(place: &Place, args: &[&str]) -> Run {
    let args: Vec<&str> = ["failover"].iter().chain(args).chain(&["--json"]).copied().collect();
    run(&place.env(), &args).await
}

async fn is_standby(server: &Server) -> bool {
    server.sql("postgres", "SELECT pg_is_in_recovery()").await.unwrap()[0][0].as_deref() == Some("t")
}

fn outcome(done: &Value, server: &Server) -> Value {
    let list = done["standbys"].as_array().unwrap();
    list.iter().find(|standby| standby["server"] == server.target()).unwrap()["outcome"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn away_and_back_without_losing_a_row() {
    let (place, servers) = place(2).await;
    let [old, first, second] = &servers[..] else { panic!("{servers:?}") };
    place.database.sql("CREATE TABLE t (id int); INSERT INTO t VALUES (1)").await.unwrap();
    let status = failover(&place, &["status"]).await;
    assert_eq!(status.exit, 0, "{status:?}");
    assert_eq!(status.json()["servers"].as_array().unwrap().len(), 3);
    place.stack.postgres().wait_replicas(SOON).await.unwrap();
    old.kill().unwrap();
    assert_eq!(failover(&place, &["status"]).await.exit, 2, "no primary");

    let promoted = failover(&place, &["promote", "--server", &first.target(), "--force", "--yes"]).await;
    assert_eq!(promoted.exit, 0, "{promoted:?}");
    assert!(promoted.err.contains("audit") && promoted.err.contains("failover/promote"), "{promoted:?}");
    let told = promoted.json();
    assert_eq!(
        (&told["timeline_before"], &told["timeline"], &told["lost_bytes"]),
        (&json!(1), &json!(2), &json!(0))
    );
    first.sql(place.database.name(), "INSERT INTO t VALUES (2)").await.unwrap();

    let repointed = failover(&place, &["repoint", "--yes"]).await;
    assert_eq!(repointed.exit, 1, "the old primary is away: {repointed:?}");
    assert_eq!(outcome(&repointed.json(), second), "streaming");
    assert_eq!(outcome(&repointed.json(), old), "left_out");
    let rows = "SELECT count(*) FROM t";
    wait_for("the other standby to have the new row", SOON, async || {
        second.sql(place.database.name(), rows).await.unwrap()[0][0].as_deref() == Some("2")
    })
    .await;
    let again = failover(&place, &["repoint", "--yes"]).await;
    assert_eq!(outcome(&again.json(), second), "already", "{again:?}");

    let missing = failover(&place, &["back", "--yes"]).await;
    assert!(missing.exit == 2 && missing.err.contains("has to run as a standby"), "{missing:?}");
    into_standby(old, first);
    old.restart().await.unwrap();
    wait_for("the old primary to follow", SOON, async || failover(&place, &["status"]).await.exit == 0).await;
    wait_for("the old primary to be streaming", SOON, async || {
        let status = failover(&place, &["status"]).await.json();
        status["servers"][0]["follows"] == json!(first.target())
    })
    .await;

    // It has received everything, replays nothing, and time runs out: writes go on where they were.
    old.sql("postgres", "SELECT pg_wal_replay_pause()").await.unwrap();
    first
        .sql(place.database.name(), "INSERT INTO t SELECT 5 WHERE false; CREATE TABLE later ()")
        .await
        .unwrap();
    let late = failover(&place, &["back", "--yes", "--wait", "4"]).await;
    assert!(late.exit == 2 && late.err.contains("within its deadline"), "{late:?}");
    first.sql(place.database.name(), "DROP TABLE later").await.unwrap();
    assert!(is_standby(old).await);
    old.sql("postgres", "SELECT pg_wal_replay_resume()").await.unwrap();

    let back = failover(&place, &["back", "--yes"]).await;
    assert_eq!(back.exit, 0, "{back:?}");
    let told = back.json();
    assert_eq!(
        (told["server"].as_str(), told["former"].as_str()),
        (Some(&*old.target()), Some(&*first.target()))
    );
    assert_eq!(outcome(&told["standbys"], second), "streaming");
    println!("writes stood still for {} s", told["seconds"]);
    assert!(!is_standby(old).await && is_standby(second).await);
    place.database.sql("INSERT INTO t VALUES (3)").await.unwrap();
    wait_for("the standby to follow it", SOON, async || {
        second.sql(place.database.name(), rows).await.unwrap()[0][0].as_deref() == Some("3")
    })
    .await;
    // The former primary takes no writes that nobody would ever see.
    let refused = first.sql(place.database.name(), "INSERT INTO t VALUES (4)").await.unwrap_err();
    assert!(refused.to_string().contains("read-only"), "{refused}");
    let status = failover(&place, &["status"]).await;
    assert_eq!(status.exit, 2, "two primaries until it is stopped: {status:?}");
    let already = failover(&place, &["back", "--yes"]).await;
    assert!(already.exit == 2 && already.err.contains("are primaries"), "{already:?}");
}

/// What an operator does by hand after a clean stop, with no history of its own to rewind.
fn into_standby(server: &Server, upstream: &Server) {
    let home = server.socket().and_then(Path::parent).unwrap();
    std::fs::write(home.join("standby.signal"), "").unwrap();
    let conf = home.join("postgresql.auto.conf");
    let mut conf = std::fs::OpenOptions::new().append(true).create(true).open(conf).unwrap();
    writeln!(conf, "primary_conninfo = 'host={} port={} user=postgres'", upstream.host(), upstream.port())
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_stands_against_a_promotion_is_said_and_nothing_is_promoted() {
    let (place, servers) = place(2).await;
    let [old, first, second] = &servers[..] else { panic!("{servers:?}") };
    let alive = failover(&place, &["promote", "--yes"]).await;
    assert!(alive.exit == 2 && alive.err.contains("answers and is a primary"), "{alive:?}");
    let unasked = failover(&place, &["promote"]).await;
    assert!(unasked.exit == 64 && unasked.err.contains("--yes"), "{unasked:?}");
    let unknown = failover(&place, &["promote", "--server", "nobody:1", "--yes"]).await;
    assert!(unknown.exit == 64 && unknown.err.contains("nobody:1"), "{unknown:?}");
    let primary = failover(&place, &["promote", "--server", &old.target(), "--force", "--yes"]).await;
    assert!(primary.exit == 2 && primary.err.contains("is no standby"), "not even by force: {primary:?}");
    let back = failover(&place, &["back", "--yes"]).await;
    assert!(back.exit == 2 && back.err.contains("is the primary already"), "{back:?}");
    let already = failover(&place, &["repoint", "--server", &first.target(), "--yes"]).await;
    assert!(already.exit == 2 && already.err.contains("is no primary"), "{already:?}");

    // One standby is behind: it is not the one to promote, by name or by itself.
    first.sql("postgres", "SELECT pg_wal_replay_pause()").await.unwrap();
    first.pause().unwrap();
    place.database.sql("CREATE TABLE t AS SELECT generate_series(1, 100000)").await.unwrap();
    let count = "SELECT count(*) FROM t";
    wait_for("the other standby to have it", SOON, async || {
        second.sql(place.database.name(), count).await.is_ok()
    })
    .await;
    old.kill().unwrap();
    first.resume().unwrap();
    wait_for("the standby that is behind to answer", SOON, async || {
        first.sql("postgres", "SELECT 1").await.is_ok()
    })
    .await;
    let status = failover(&place, &["status"]).await.json();
    let position = |n: usize| status["servers"][n]["position"].as_i64().unwrap();
    assert!(position(1) < position(2), "more than fits between the servers: {status}");
    let behind = failover(&place, &["promote", "--server", &first.target(), "--yes"]).await;
    assert!(behind.exit == 2 && behind.err.contains("bytes more than"), "{behind:?}");
    assert!(is_standby(first).await && is_standby(second).await);
    let promoted = failover(&place, &["promote", "--yes"]).await;
    assert!(matches!(promoted.exit, 0) && promoted.json()["server"] == second.target(), "{promoted:?}");
    assert!(!is_standby(second).await && is_standby(first).await);
    // Writable by the time that it says so.
    second.sql(place.database.name(), "INSERT INTO t VALUES (1)").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_right_nothing_is_promoted_and_strangers_are_told_apart() {
    let (mut place, servers) = place(1).await;
    let [old, standby] = &servers[..] else { panic!("{servers:?}") };
    old.sql("postgres", "CREATE ROLE plain LOGIN").await.unwrap();
    place.stack.postgres().wait_replicas(SOON).await.unwrap();

    // A server of another system is no candidate, whatever it is configured as.
    let options = PostgresOptions { auth: Auth::Trust, own_identity: true, ..PostgresOptions::default() };
    let other = Stack::builder().postgres(options).start().await.unwrap();
    let stranger = other.postgres().primary().target();
    let last = place.env.len() - 1;
    place.env[0].1 = old.url();
    place.env[last].1 = format!("{},{stranger}", standby.target());
    old.kill().unwrap();
    let foreign = failover(&place, &["promote", "--yes"]).await;
    assert!(foreign.exit == 2 && foreign.err.contains("not of one system"), "{foreign:?}");
    place.env[last].1 = standby.target();

    place.env[0].1 = old.url_as("plain", "unused", "postgres");
    let refused = failover(&place, &["promote", "--yes"]).await;
    assert!(refused.exit == 2 && refused.err.contains("GRANT EXECUTE ON FUNCTION"), "{refused:?}");
    assert!(is_standby(standby).await);
    // Nor pointed anywhere.
    place.env[0].1 = old.url();
    assert_eq!(failover(&place, &["promote", "--yes"]).await.exit, 0);
    place.env[0].1 = old.url_as("plain", "unused", "postgres");
    let repointed = failover(&place, &["repoint", "--yes"]).await;
    assert_eq!((repointed.exit, outcome(&repointed.json(), old)), (1, json!("left_out")), "{repointed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_does_not_follow_is_a_failure_and_one_without_rights_is_said() {
    // Over TCP a password is asked for, which the standbys have none of: they came in by the trusted socket.
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(2)).redis(RedisOptions::default());
    let mut place = Place::on(stack.start().await.unwrap()).await;
    let servers: Vec<Server> = place.stack.postgres().servers().cloned().collect();
    let [old, first, second] = &servers[..] else { panic!("{servers:?}") };
    place.env.push(("DATABASE_REPLICAS", format!("{},{}", first.target(), second.target())));
    old.sql("postgres", "CREATE ROLE plain LOGIN PASSWORD 'secret'").await.unwrap();
    place.stack.postgres().wait_replicas(SOON).await.unwrap();
    old.kill().unwrap();
    let promoted = failover(&place, &["promote", "--server", &first.target(), "--force", "--yes"]).await;
    assert_eq!(promoted.exit, 0, "{promoted:?}");
    let superuser = place.env[0].1.clone();
    place.env[0].1 = old.url_as("plain", "secret", place.database.name());
    let blind = failover(&place, &["repoint", "--yes"]).await;
    assert_eq!((blind.exit, outcome(&blind.json(), second)), (2, json!("failed")), "{blind:?}");
    assert!(blind.out.contains("pg_read_all_stats"), "{blind:?}");
    place.env[0].1 = superuser;
    let deaf = failover(&place, &["repoint", "--yes", "--wait", "4"]).await;
    assert_eq!((deaf.exit, outcome(&deaf.json(), second)), (2, json!("failed")), "{deaf:?}");
    assert!(deaf.out.contains("it does not stream"), "{deaf:?}");
    let nowhere = failover(&place, &["repoint", "--yes", "--address", "a:b"]).await;
    assert!(nowhere.exit == 64 && nowhere.err.contains("is no address"), "{nowhere:?}");
}
