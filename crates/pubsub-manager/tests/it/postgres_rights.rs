//! Everything that this crate does in PostgreSQL, with the rights of the shipped run-time role.

use crate::{
    postgres::{journal, listener, manager, pool, shared_stack},
    support::{PATIENCE, next, opened, payload, quick, soon},
};
use local_stack::wait_for;
use postgres_pool_manager::{Schema, TransactionOptions, roles_sql};
use pubsub_manager::{
    Deps, Event, Outbox, OutboxConfig, PostgresBus, PostgresBusConfig, SubscribeOptions, TxPublish, Which,
    migrations,
};

#[tokio::test]
async fn the_run_time_role_may_do_all_of_it() {
    let database = shared_stack().await.database().await.expect("a database");
    let (owner, runtime) = (format!("{}_owner", database.name()), format!("{}_run", database.name()));
    let roles = roles_sql(&Schema::default(), &owner, &runtime);
    let passwords = format!("ALTER ROLE {owner} PASSWORD 'p'; ALTER ROLE {runtime} PASSWORD 'p'");
    database.sql(&roles).await.expect("roles");
    database.sql(&passwords).await.expect("passwords");
    let migrator = pool(&database.primary().url_as(&owner, "p", database.name())).await;
    migrator.migrate(&[migrations()], Default::default()).await.expect("migrated");
    let url = database.primary().url_as(&runtime, "p", database.name());

    let journal = journal(&url).await;
    let mut reader = opened(&journal).await;
    journal.append("x", soon()).await.expect("appended");
    assert_eq!(payload(&mut reader).await, "x");

    let subscriber = manager(&url).await;
    let mut subscription =
        subscriber.subscribe_pattern::<u64>("n.*", SubscribeOptions::default()).await.expect("subscribed");
    let listener = listener(&url).await;
    let bus = PostgresBus::new(listener.clone(), &PostgresBusConfig::default());
    let relaying = quick().build(Deps::over(bus)).expect("good settings");
    let outbox = Outbox::start(listener, relaying.clone(), OutboxConfig::default()).expect("good settings");
    let pool = pool(&url).await;
    let mut tx = pool.begin(TransactionOptions::default()).await.expect("begun");
    tx.publish(&relaying.channel::<u64>("n.1").expect("a good name"), &7).await.expect("stored");
    tx.commit().await.expect("committed");
    let Event::Message(message) = next(&mut subscription).await else { panic!("no message") };
    assert_eq!(message.value, 7);
    wait_for("figures", PATIENCE, async || outbox.status().figures.is_some()).await;
    assert_eq!(outbox.retry(Which::All).await.expect("nothing to retry"), 0);
    assert_eq!(outbox.drop_dead(Which::All).await.expect("nothing to drop"), 0);
    outbox.shutdown(PATIENCE).await;
    assert_eq!(outbox.status().error, None);
}
