//! `dbsvc db …`: the servers of the settings, with no instance running, and without rights.

use local_stack::{PostgresOptions, RedisOptions, Stack};
use serde_json::json;

use crate::support::{Place, Run, run, run_on_terminal, run_shown};

#[tokio::test]
async fn figures_of_the_settings_servers() {
    let place = Place::shared().await;
    place
        .database
        .sql(
            "CREATE TABLE big (id int PRIMARY KEY, t text); CREATE INDEX unused ON big (t); \
             INSERT INTO big SELECT i, repeat('x', 50) FROM generate_series(1, 5000) i",
        )
        .await
        .unwrap();
    let db = async |args: &[&str]| {
        let args: Vec<&str> = ["db"].iter().chain(args).copied().collect();
        run(&place.env(), &args).await
    };
    let activity = db(&["activity", "--json"]).await;
    assert!(activity.exit == 0 && activity.json()["sessions"]["rows"].is_array(), "{activity:?}");
    let indexes = db(&["indexes"]).await;
    assert_eq!(indexes.exit, 1, "one may go: {indexes:?}");
    assert!(indexes.out.contains("DROP INDEX CONCURRENTLY public.unused"), "{indexes:?}");
    assert!(!indexes.out.contains("CONCURRENTLY public.big_pkey"), "{indexes:?}");
    let sizes = db(&["sizes", "--limit", "1", "--json"]).await.json();
    assert_eq!(sizes["tables"][0]["table"], "big", "{sizes}");
    assert!(db(&["sizes"]).await.out.contains("big"));
    let replication = db(&["replication", "--json"]).await;
    assert_eq!((replication.exit, &replication.json()["is_standby"]), (0, &json!(false)), "{replication:?}");
    assert!(replication.json()["wal_rate"]["seconds"].as_f64().unwrap() >= 1.0);
    let state = db(&["vacuum", "--state", "--json"]).await;
    assert!(state.exit == 0 && state.json()["freeze_max_age"].as_i64().unwrap() > 0, "{state:?}");

    let unknown = db(&["activity", "--server", "nobody:1"]).await;
    assert!(unknown.exit == 64 && unknown.err.contains("known: 127.0.0.1"), "{unknown:?}");
    let mut env = place.env();
    env[0].1 = "postgres://postgres@127.0.0.1:9/x";
    assert_eq!(run(&env, &["db", "sizes"]).await.exit, 69, "no server there");
    assert_eq!(run(&[("DATABASE_POOL_SIZE", "many")], &["db", "sizes"]).await.exit, 64);
}

#[tokio::test]
async fn maintenance_of_a_table_or_a_schema() {
    let place = Place::shared().await;
    place
        .database
        .sql("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
        .await
        .unwrap();
    let db = async |args: &[&str]| -> Run {
        let args: Vec<&str> = ["db"].iter().chain(args).copied().collect();
        run(&place.env(), &args).await
    };
    for (args, tables) in [
        (&["vacuum", "a"][..], 1),
        (&["vacuum", "public.a", "--full", "--yes"], 1),
        (&["analyze", "--schema", "public"], 2),
        (&["reindex", "--schema", "public"], 2),
        (&["reindex", "a", "--blocking", "--yes"], 1),
    ] {
        let done = db(&[args, &["--json"]].concat()).await;
        assert_eq!(
            (done.exit, done.json()["tables"].as_array().unwrap().len()),
            (0, tables),
            "{args:?}: {done:?}"
        );
        assert!(!done.err.contains('\r'), "no bar where nobody looks: {done:?}");
        assert!(done.err.contains("audit") && done.err.contains(&format!("db/{}", args[0])), "{done:?}");
    }
    assert!(db(&["analyze", "a"]).await.out.contains("public.a"));
    for (args, word) in [
        (&["vacuum", "nowhere"][..], "no table \"nowhere\""),
        (&["analyze", "--schema", "nowhere"], "no schema \"nowhere\""),
        (&["reindex", "a; DROP TABLE a"], "no table's name"),
        (&["vacuum"], "name a table"),
        (&["analyze"], "name a table"),
        (&["analyze", "a", "--schema", "public"], "cannot be used"),
        (&["vacuum", "a", "--full"], "--yes"),
        (&["reindex", "a", "--blocking"], "--yes"),
    ] {
        let refused = db(args).await;
        assert!(refused.exit == 64 && refused.err.contains(word), "{args:?}: {refused:?}");
    }
    let declined = run_on_terminal(&place.env(), &["db", "vacuum", "a", "--full"], "\n").await;
    assert_eq!(declined.exit, 2, "{declined:?}");
}

#[tokio::test]
async fn long_work_shows_how_far_it_is_where_somebody_looks() {
    let place = Place::shared().await;
    place
        .database
        .sql(
            "CREATE FUNCTION slow(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS \
             $$ BEGIN PERFORM pg_sleep(0.2); RETURN $1; END $$; CREATE TABLE quick (id int PRIMARY KEY); \
             CREATE TABLE t AS SELECT generate_series(1, 5) AS id; CREATE INDEX ON t (slow(id))",
        )
        .await
        .unwrap();
    let done = run_shown(&place.env(), &["db", "reindex", "--schema", "public"]).await;
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(done.err.contains("1/2") && done.err.contains("public.t"), "{done:?}");
}

#[tokio::test]
async fn without_rights_it_says_what_is_missing() {
    let mut place = Place::shared().await;
    let user = format!("{}_guest", place.database.name());
    place
        .database
        .sql(&format!("CREATE ROLE \"{user}\" LOGIN PASSWORD 'secret'; CREATE TABLE theirs (id int)"))
        .await
        .unwrap();
    place.env[0].1 = place.database.primary().url_as(&user, "secret", place.database.name());
    let activity = run(&place.env(), &["db", "activity"]).await;
    assert!(activity.exit == 0 && activity.out.contains("GRANT pg_read_all_stats TO"), "{activity:?}");
    let vacuum = run(&place.env(), &["db", "vacuum", "theirs"]).await;
    assert!(vacuum.exit == 2 && vacuum.err.contains("may not VACUUM public.theirs"), "{vacuum:?}");
    let schema = run(&place.env(), &["db", "vacuum", "--schema", "public"]).await;
    assert!(schema.exit == 1 && schema.out.contains("left out public.theirs"), "{schema:?}");
}

#[tokio::test]
async fn a_standby_is_asked_by_name_and_a_forgotten_slot_is_a_warning() {
    let stack = Stack::builder().postgres(PostgresOptions::with_replicas(1)).redis(RedisOptions::default());
    let mut place = Place::on(stack.start().await.unwrap()).await;
    let replica = place.stack.postgres().replicas()[0].target();
    place.env.push(("DATABASE_REPLICAS", replica.clone()));
    let standby = run(&place.env(), &["db", "replication", "--server", &replica, "--json"]).await;
    assert_eq!(
        (standby.exit, &standby.json()["receiver"]["status"]),
        (0, &json!("streaming")),
        "{standby:?}"
    );
    let primary = run(&place.env(), &["db", "replication", "--json"]).await;
    assert_eq!((primary.exit, primary.json()["standbys"].as_array().unwrap().len()), (0, 1), "{primary:?}");
    place.database.sql("SELECT pg_create_physical_replication_slot('forgotten', true)").await.unwrap();
    let warned = run(&place.env(), &["db", "replication"]).await;
    assert!(warned.exit == 1 && warned.out.contains("slot forgotten is used by nobody"), "{warned:?}");
    // Maintenance is the primary's alone.
    place.env[0].1 = place.database.replica_url(0).unwrap();
    place.env.pop();
    let refused = run(&place.env(), &["db", "analyze", "--schema", "public"]).await;
    assert!(refused.exit == 69 && refused.err.contains("standby"), "{refused:?}");
}
