//! `dbsvc pubsub …` at a running instance, beside another one that publishes and handles.

use std::process::Stdio;
use std::time::Duration;

use database_services::postgres_pool_manager::TransactionOptions;
use database_services::pubsub_manager::{ConsumerOptions, SubscribeOptions, TxPublish};
use database_services::settings::{LoadOptions, Settings};
use database_services::{DatabaseServices, ManagerMode, SecurityContext, create_database_services};
use local_stack::wait_for;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::{Place, SOON, Serving, command};

/// An instance of the program, and one in this process.
async fn two() -> (Place, Serving, DatabaseServices) {
    let place = Place::shared().await;
    let serving = place.serve(&[]).await;
    let settings = Settings::load(&LoadOptions::new().env(place.env())).unwrap();
    let services =
        create_database_services(ManagerMode::default(), settings, SecurityContext::default()).unwrap();
    services.initialize().await.unwrap();
    (place, serving, services)
}

fn first<'v>(seen: &'v Value, name: &str) -> &'v Value {
    &seen[name][0]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_are_published_listed_and_tailed() {
    let (_place, serving, services) = two().await;
    let pubsub = services.pubsub();
    let orders = pubsub.channel::<Value>("orders.created").unwrap();
    let mut subscription = orders.subscribe(SubscribeOptions::default()).await.unwrap();

    let at = ["--url", serving.url(), "--token-file", serving.token_file(), "--json"];
    let tail = [&["pubsub", "tail", "orders.*", "--max", "2"][..], &at].concat();
    let mut tail = command(&[], &tail).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let listening = async || serving.run(&["pubsub", "subscribers", "--json"]).await.json();
    wait_for("the tail to listen", SOON, async || {
        first(&listening().await, "subscriptions")["confirmed"] == true
    })
    .await;
    let published = serving.run(&["pubsub", "publish", "orders.created", r#"{"id": 7}"#, "--json"]).await;
    assert_eq!((published.exit, published.json()["receivers"].as_u64()), (0, Some(2)), "{published:?}");
    let message = subscription.next().await.unwrap();
    assert!(format!("{message:?}").contains('7'), "{message:?}");
    orders.publish(&json!("eight")).await.unwrap();
    let mut lines = BufReader::new(tail.stdout.take().unwrap()).lines();
    let mut values = Vec::new();
    while let Some(line) = lines.next_line().await.unwrap() {
        let line: Value = serde_json::from_str(&line).unwrap();
        assert_eq!(
            (&line["type"], &line["subject"]),
            (&json!("message"), &json!("orders.created")),
            "{line}"
        );
        values.push(line["value"].clone());
    }
    assert_eq!(values, [json!({"id": 7}), json!("eight")]);
    assert_eq!(tail.wait().await.unwrap().code(), Some(0), "it ends by itself");
    wait_for("the instance is not subscribed any more", SOON, async || {
        listening().await["subscriptions"].as_array().unwrap().is_empty()
    })
    .await;

    let channels = serving.run(&["pubsub", "channels", "--json"]).await.json();
    assert_eq!(first(&channels, "channels")["subject"], "orders.created", "{channels}");
    let people = serving.run(&["pubsub", "channels"]).await;
    assert!(people.out.contains("PUBLISHED") && people.out.contains("orders.created"), "{people:?}");
    let stats = serving.run(&["pubsub", "stats", "--json"]).await.json();
    assert_eq!(
        (&stats["bus"], &stats["connected"], &stats["published"]),
        (&json!("redis"), &json!(true), &json!(1))
    );

    // Nothing came: the time is over, and --max was not reached.
    let quiet = serving.run(&["pubsub", "tail", "nobody", "--max", "1", "--for", "1"]).await;
    assert_eq!((quiet.exit, quiet.out.as_str()), (1, ""), "{quiet:?}");
    for (wrong, says) in [
        (&["pubsub", "tail", "a..b"][..], "is empty"),
        (&["pubsub", "tail", ""], "is empty"),
        (&["pubsub", "publish", "orders.*", "1"], "wildcard"),
        (&["pubsub", "publish", &"x".repeat(256), "1"], "over 255 bytes"),
        (&["pubsub", "publish", "a", "1", "--lane", "sea"], "possible values"),
    ] {
        let refused = serving.run(wrong).await;
        assert!(refused.exit == 64 && refused.err.contains(says), "{wrong:?}: {refused:?}");
    }
    services.shutdown(Duration::from_secs(5)).await;
    serving.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn durable_channels_and_the_outbox_are_looked_after() {
    let (_place, serving, services) = two().await;
    let pubsub = services.pubsub();
    let bills = pubsub.durable_channel::<u64>("bills").unwrap();
    let options = ConsumerOptions { max_deliveries: 1, ..ConsumerOptions::default() };
    let handler = bills.handle("billing", options, |message| async move {
        if message.value % 2 == 0 { Ok(()) } else { Err(format!("{} is odd", message.value)) }
    });
    let handler = handler.await.unwrap();
    for value in ["1", "2", "3", "4"] {
        let published = serving.run(&["pubsub", "publish", "bills", value, "--lane", "durable"]).await;
        assert_eq!(published.exit, 0, "{published:?}");
    }
    let groups = async || serving.run(&["pubsub", "groups", "--json"]).await;
    wait_for("two handled and two dead", SOON, async || {
        let group = groups().await.json();
        let group = first(&group, "groups");
        (&group["acknowledged"], &group["dead_letters"]) == (&json!(2), &json!(2))
    })
    .await;
    assert_eq!(groups().await.exit, 1, "dead letters are amiss");
    let list = serving.run(&["pubsub", "dead-letters", "list", "--json"]).await;
    let letters = list.json();
    assert_eq!((list.exit, &first(&letters, "dead_letters")["value"]), (1, &json!(1)), "{letters}");
    assert!(first(&letters, "dead_letters")["reason"].as_str().unwrap().contains("1 is odd"), "{letters}");
    let people = serving.run(&["pubsub", "dead-letters", "list", "bills", "billing"]).await;
    assert!(people.out.contains("REASON") && people.out.contains("3 is odd"), "{people:?}");

    let id = first(&letters, "dead_letters")["id"].as_str().unwrap();
    let retried = serving.run(&["pubsub", "dead-letters", "retry", "bills", "billing", id, "--json"]).await;
    assert_eq!(retried.json()["resolved"], 1, "{retried:?}");
    let again = serving.run(&["pubsub", "dead-letters", "retry", "bills", "billing", id]).await;
    assert!(again.exit == 64 && again.err.contains("unknown_dead_letter"), "{again:?}");
    let unasked = serving.run(&["pubsub", "dead-letters", "drop", "bills", "billing", "--all"]).await;
    assert!(unasked.exit == 64 && unasked.err.contains("--yes"), "{unasked:?}");
    wait_for("it has died again", SOON, async || {
        first(&groups().await.json(), "groups")["dead_letters"] == 2
    })
    .await;
    let dropped = ["pubsub", "dead-letters", "drop", "bills", "billing", "--all", "--yes", "--json"];
    assert_eq!(serving.run(&dropped).await.json()["resolved"], 2);
    let none = serving.run(&["pubsub", "dead-letters", "list"]).await;
    assert!(none.exit == 0 && none.out.contains("no dead letters"), "{none:?}");

    assert_eq!(serving.run(&["pubsub", "group", "pause", "bills", "billing"]).await.exit, 0);
    let paused = groups().await;
    assert_eq!((paused.exit, &first(&paused.json(), "groups")["paused"]), (1, &json!(true)));
    assert_eq!(serving.run(&["pubsub", "group", "resume", "bills", "billing"]).await.exit, 0);
    let replay = ["pubsub", "group", "replay", "bills", "billing", "--from", "earliest", "--yes"];
    assert_eq!(serving.run(&replay).await.exit, 0);
    wait_for("all were delivered again", SOON, async || {
        first(&groups().await.json(), "groups")["acknowledged"] == 4
    })
    .await;
    for (wrong, says) in [
        (&["pubsub", "group", "pause", "bills", "nobody"][..], "unknown_group"),
        (&["pubsub", "group", "replay", "bills", "billing", "--from", "yesterday", "--yes"], "earliest"),
        (&["pubsub", "dead-letters", "list", "bills", "nobody"], "unknown_group"),
        (&["pubsub", "dead-letters", "retry", "bills", "billing", "x"], "is no position"),
    ] {
        let refused = serving.run(wrong).await;
        assert!(refused.exit == 64 && refused.err.contains(says), "{wrong:?}: {refused:?}");
    }

    let mut tx = services.database().begin(TransactionOptions::default()).await.unwrap();
    tx.publish(&bills, &6).await.unwrap();
    tx.commit().await.unwrap();
    wait_for("relayed and handled", SOON, async || {
        first(&groups().await.json(), "groups")["acknowledged"] == 5
    })
    .await;
    let outbox = serving.run(&["pubsub", "outbox", "status", "--json"]).await;
    assert_eq!((outbox.exit, &outbox.json()["pending"]), (0, &json!(0)), "{outbox:?}");
    let none = serving.run(&["pubsub", "outbox", "dead"]).await;
    assert!(none.exit == 0 && none.out.contains("no message"), "{none:?}");
    let nothing = serving.run(&["pubsub", "outbox", "retry", "--all", "--json"]).await;
    assert_eq!(nothing.json()["resolved"], 0, "{nothing:?}");

    handler.shutdown(SOON).await;
    services.shutdown(Duration::from_secs(5)).await;
    serving.stop().await;
}
