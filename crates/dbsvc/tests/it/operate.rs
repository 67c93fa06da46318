//! `dbsvc pool …` and `dbsvc replicas …` at a running instance, with what goes wrong.

use local_stack::{PostgresOptions, RedisOptions, Stack, wait_for};
use serde_json::{Value, json};

use crate::support::{Place, SOON, Serving, run, run_on_terminal};

/// A service with one replica, and that replica's name.
async fn replicated() -> (Place, Serving, String) {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).redis(RedisOptions::default());
    let mut place = Place::on(stack.start().await.unwrap()).await;
    let replica = place.stack.postgres().replicas()[0].target();
    place.env.push(("DATABASE_REPLICAS", replica.clone()));
    let serving = place.serve(&[]).await;
    (place, serving, replica)
}

fn server<'v>(list: &'v Value, name: &str) -> &'v Value {
    list["servers"].as_array().unwrap().iter().find(|server| server["name"] == name).unwrap_or(&Value::Null)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_are_listed_weighted_drained_removed_and_added() {
    let (_place, serving, replica) = replicated().await;
    let list = async || serving.run(&["replicas", "list", "--json"]).await;
    wait_for("the replica to serve", SOON, async || list().await.exit == 0).await;
    assert_eq!(server(&list().await.json(), &replica)["state"], "up");
    let people = serving.run(&["replicas", "list"]).await;
    assert!(people.out.contains("LAG S") && people.out.contains(&replica), "{people:?}");

    let weighed = serving.run(&["replicas", "weight", &replica, "3", "--json"]).await.json();
    assert_eq!((&weighed["before"], &weighed["weight"]), (&json!(1), &json!(3)));
    assert_eq!(server(&list().await.json(), &replica)["weight"], 3);
    for wrong in
        [&["replicas", "weight", &replica, "-1"][..], &["replicas", "add", "db9:1", "--weight", "-5"]]
    {
        let refused = serving.run(wrong).await;
        assert_eq!(refused.exit, 64, "{refused:?}");
        assert!(refused.err.contains("weight"), "{refused:?}");
    }
    assert_eq!(server(&list().await.json(), &replica)["weight"], 3, "as it was");

    assert_eq!(serving.run(&["replicas", "drain", &replica]).await.exit, 0);
    assert_eq!(server(&list().await.json(), &replica)["state"], "drained");
    assert_eq!(serving.run(&["replicas", "drain", &replica, "--undo"]).await.exit, 0);
    assert_eq!(server(&list().await.json(), &replica)["state"], "up");
    assert_eq!(serving.run(&["replicas", "force-primary", "on"]).await.exit, 0);
    let forced = list().await;
    assert_eq!((forced.exit, &forced.json()["force_primary_reads"]), (0, &json!(true)), "{forced:?}");
    assert_eq!(serving.run(&["replicas", "force-primary", "off"]).await.exit, 0);
    assert_eq!(serving.run(&["replicas", "force-primary", "perhaps"]).await.exit, 64);

    // Removing asks; where nobody can be asked it has to be said.
    let unasked = serving.run(&["replicas", "remove", &replica]).await;
    assert!(unasked.exit == 64 && unasked.err.contains("--yes"), "{unasked:?}");
    let at = ["replicas", "remove", &replica, "--url", serving.url(), "--token-file", serving.token_file()];
    let declined = run_on_terminal(&[], &at, "no\n").await;
    assert!(declined.exit == 2 && declined.err.contains("nothing was done"), "{declined:?}");
    assert_eq!(server(&list().await.json(), &replica)["state"], "up");
    let agreed = run_on_terminal(&[], &at, "yes\n").await;
    assert!(agreed.exit == 0 && agreed.err.contains("forgotten"), "{agreed:?}");
    assert!(server(&list().await.json(), &replica).is_null());

    for action in [&["drain", &replica][..], &["weight", &replica, "1"], &["remove", &replica, "--yes"]] {
        let args: Vec<&str> = ["replicas"].iter().chain(action).copied().collect();
        let unknown = serving.run(&args).await;
        assert!(unknown.exit == 64 && unknown.err.contains("unknown_replica"), "{unknown:?}");
    }
    let added = serving.run(&["replicas", "add", &replica, "--weight", "2", "--json"]).await;
    assert_eq!((added.exit, added.json()["weight"].as_i64()), (0, Some(2)), "{added:?}");
    wait_for("the added replica to serve", SOON, async || {
        server(&list().await.json(), &replica)["state"] == "up"
    })
    .await;
    let twice = serving.run(&["replicas", "add", &replica]).await;
    assert!(twice.exit == 64 && twice.err.contains("already"), "{twice:?}");
    assert_eq!(serving.run(&["replicas", "add", "no host@all"]).await.exit, 64);
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_are_shown_cancelled_and_ended() {
    let place = Place::shared().await;
    let serving = place.serve(&[]).await;
    let sleep = |seconds: u32| {
        let (server, name) = (place.database.primary().clone(), place.database.name().to_owned());
        tokio::spawn(async move { server.sql(&name, &format!("SELECT pg_sleep({seconds})")).await })
    };
    let seen = async || serving.run(&["pool", "sessions", "--scope", "database", "--json"]).await.json();
    let named = async |query: &str| {
        let rows = seen().await["rows"].as_array().unwrap().clone();
        rows.iter().find(|row| row["query"] == query).and_then(|row| row["id"].as_str().map(str::to_owned))
    };

    let running = sleep(71);
    wait_for("the statement to be seen", SOON, async || named("SELECT pg_sleep(71)").await.is_some()).await;
    let id = named("SELECT pg_sleep(71)").await.unwrap();
    let people = serving.run(&["pool", "sessions", "--scope", "database"]).await;
    assert!(people.out.contains(&id) && people.out.contains("SELECT pg_sleep(71)"), "{people:?}");
    // The right process number with another start is another session.
    let (pid, start) = id.split_once('@').unwrap();
    let recycled = format!("{pid}@{}", start.parse::<i64>().unwrap() - 1);
    let refused = serving.run(&["pool", "cancel", &recycled]).await;
    assert!(refused.exit == 2 && refused.err.contains("another session"), "{refused:?}");
    assert!(!running.is_finished());
    let cancelled = serving.run(&["pool", "cancel", &id]).await;
    assert!(cancelled.exit == 0 && cancelled.out.contains("cancelled"), "{cancelled:?}");
    assert!(running.await.unwrap().is_err());

    let running = sleep(72);
    wait_for("the statement to be seen", SOON, async || named("SELECT pg_sleep(72)").await.is_some()).await;
    let id = named("SELECT pg_sleep(72)").await.unwrap();
    let unasked = serving.run(&["pool", "kill", &id]).await;
    assert!(unasked.exit == 64 && unasked.err.contains("--yes"), "{unasked:?}");
    assert!(!running.is_finished());
    assert_eq!(serving.run(&["pool", "kill", &id, "--yes"]).await.exit, 0);
    assert!(running.await.unwrap().is_err());
    assert_eq!(serving.run(&["pool", "kill", &id, "--yes"]).await.exit, 2, "it is gone");

    let running = sleep(73);
    wait_for("the statement to be seen", SOON, async || named("SELECT pg_sleep(73)").await.is_some()).await;
    // It is not ours: by default it is none to end.
    let own = serving.run(&["pool", "kill", "--slow", "0", "--yes"]).await;
    assert!(own.exit == 1 && own.out.contains("nothing"), "{own:?}");
    let all = ["pool", "kill", "--slow", "0", "--scope", "database"];
    let dry = serving.run(&[&all[..], &["--dry-run"]].concat()).await;
    assert!(dry.exit == 0 && dry.out.contains("dry_run") && dry.out.contains("pg_sleep(73)"), "{dry:?}");
    let unasked = serving.run(&all).await;
    assert!(unasked.exit == 64 && unasked.err.contains("1 sessions"), "{unasked:?}");
    assert!(!running.is_finished());
    assert_eq!(
        serving.run(&[&all[..], &["--yes", "--json"]].concat()).await.json()["rows"][0]["outcome"],
        "cancelled"
    );
    assert!(running.await.unwrap().is_err());

    for wrong in [
        &["kill"][..],
        &["kill", "1@2", "--slow"],
        &["kill", "--slow", "-1"],
        &["cancel", "abc"],
        &["slow", "--limit", "0"],
    ] {
        let args: Vec<&str> = ["pool"].iter().chain(wrong).copied().collect();
        assert_eq!(serving.run(&args).await.exit, 64, "{wrong:?}");
    }
    let unknown = serving.run(&["pool", "sessions", "--server", "nobody"]).await;
    assert!(unknown.exit == 64 && unknown.err.contains("nobody"), "{unknown:?}");
    let idle = serving.run(&["pool", "kill", "--idle", "3600", "--yes", "--json"]).await;
    assert_eq!((idle.exit, idle.json()["rows"].as_array().map(Vec::len)), (1, Some(0)), "{idle:?}");
    serving.stop().await;
    assert_eq!(run(&[], &["pool", "sessions", "--url", "http://127.0.0.1:9"]).await.exit, 69, "no service");
    assert_eq!(run(&[], &["replicas", "list"]).await.exit, 64, "none named");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_statements_and_plans_with_advice() {
    let place = Place::shared().await;
    place
        .database
        .sql("CREATE TABLE orders AS SELECT i AS id, i % 5000 AS customer FROM generate_series(1, 50000) i; ANALYZE orders")
        .await
        .unwrap();
    let serving = place.serve(&[]).await;
    let slow = serving.run(&["pool", "slow", "--json"]).await.json();
    assert_eq!((&slow["source"], &slow["sampled_every"]), (&json!("client_sampled"), &json!(16)));
    let people = serving.run(&["pool", "slow", "--limit", "3"]).await;
    assert!(
        people.out.contains("one statement in 16") && people.out.contains("shared_preload_libraries"),
        "{people:?}"
    );

    let advice = serving.run(&["pool", "explain", "SELECT * FROM orders WHERE customer = $1"]).await;
    assert_eq!(advice.exit, 1, "{advice:?}");
    assert!(
        advice.out.contains("CREATE INDEX CONCURRENTLY ON \"public\".\"orders\" (customer);"),
        "{advice:?}"
    );
    let fine = serving.run(&["pool", "explain", "--analyze", "SELECT count(*) FROM orders", "--json"]).await;
    assert!(fine.exit == 0 && fine.json()["execution_ms"].as_f64().unwrap() > 0.0, "{fine:?}");
    for (sql, word) in [
        ("", "no statement"),
        ("SELECT 1; DROP TABLE orders", "several"),
        ("DROP TABLE orders", "no plan"),
        ("DELETE FROM orders", "writes"),
        ("SELECT * FROM orders FOR UPDATE", "locks"),
        ("SELECT pg_terminate_backend(1)", "volatile"),
        ("SELECT * FROM nowhere", "nowhere"),
    ] {
        let refused = serving.run(&["pool", "explain", "--analyze", sql]).await;
        assert!(refused.exit == 64 && refused.err.contains(word), "{sql}: {refused:?}");
    }
    let count = place.database.sql("SELECT count(*) FROM orders").await.unwrap();
    assert_eq!(count[0][0].as_deref(), Some("50000"));
    serving.stop().await;
}
