//! Servers that run already: another stack's serve as such.

use local_stack::{
    Error, ExternalUrls, FaultProxy, PostgresOptions, Provider, RedisOptions, Stack, TlsOptions,
};

use crate::first;

#[tokio::test]
async fn external_servers_are_used_and_not_harmed() {
    let theirs = Stack::shared().await.expect("the shared stack");
    let urls = ExternalUrls {
        postgres: Some(theirs.postgres_url()),
        redis: Some(theirs.redis_url()),
        ..ExternalUrls::default()
    };
    let stack = Stack::builder()
        .postgres(PostgresOptions::default())
        .redis(RedisOptions::default())
        .provider(Provider::External(urls.clone()))
        .start()
        .await
        .expect("connected");
    let database = stack.database().await.expect("a clone");
    database.sql("create table t (x int); insert into t values (3)").await.expect("written");
    assert_eq!(first(&database.sql("select x from t").await.expect("read")), Some("3"));
    let wrong = database.sql("select nothing from nowhere").await;
    assert!(
        matches!(&wrong, Err(Error::Refused { message, .. }) if message.contains("nowhere")),
        "{wrong:?}"
    );
    stack.redis().master().redis_command(&["PING"]).await.expect("it answers");

    for server in [stack.postgres().primary(), stack.redis().master()] {
        assert_eq!((server.pid(), server.log_path()), (None, None));
        let mut refusals = vec![server.kill(), server.pause(), server.resume(), server.restart().await];
        refusals.push(server.restart_empty().await);
        for refused in refusals {
            assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
        }
    }
    let refused = stack.redis().set_password("default", &["x"]).await;
    assert!(matches!(refused, Err(Error::NotOurs { .. })), "{refused:?}");
    let proxy = FaultProxy::start(stack.redis().master().target()).await.expect("a proxy in front of it");
    assert_eq!(proxy.connections(), 0);
    drop(database);
    assert!(stack.stop().await);
    theirs.redis().master().redis_command(&["PING"]).await.expect("it still runs");

    let plain = PostgresOptions::default();
    for (name, options) in [
        ("synchronous", PostgresOptions { synchronous: true, ..plain.clone() }),
        ("pgbouncer", PostgresOptions { pgbouncer: true, ..plain.clone() }),
        ("tls", PostgresOptions { tls: Some(TlsOptions::default()), ..plain }),
    ] {
        let builder = Stack::builder().postgres(options).provider(Provider::External(urls.clone()));
        let refused = builder.start().await.expect_err("not with servers of others");
        assert!(matches!(&refused, Error::Setting { name: said, .. } if said == name), "{refused}");
    }

    let too_few = Stack::builder()
        .redis(RedisOptions::with_replicas(1))
        .provider(Provider::External(urls))
        .start()
        .await
        .expect_err("no replica was named");
    assert!(too_few.to_string().contains("LOCAL_STACK_REDIS_REPLICA_URLS"), "{too_few}");
}
