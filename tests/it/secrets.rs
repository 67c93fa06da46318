//! A planted password must not come out anywhere: Debug, errors, status, statistics, health, settings shown.

use local_stack::RedisOptions;

use crate::fixture::{Fixture, SOON};

const PLANTED: &str = "pl4nted-s3cret-00123-a#b";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_shown_nowhere() {
    let options = RedisOptions { password: Some(PLANTED.to_owned()), ..RedisOptions::default() };
    let fixture = Fixture::with_own_redis(options).await;
    let services = fixture.services("one").await;
    let settings = services.settings();
    let shown = [
        format!("{services:?}"),
        format!("{settings:?}"),
        format!("{:?}", settings.show()),
        format!("{:?} {:?} {:?}", services.database(), services.cache(), services.redis()),
        format!("{:?} {:?}", services.lock_manager(), services.pubsub()),
        format!("{:?}", services.health_manager().check_health()),
        services.stats().unwrap().to_string(),
        format!("{:?}", services.redis().map(|link| link.status())),
    ];
    let postgres = fixture.database.primary().password().map(str::to_owned);
    for secret in [Some(PLANTED.to_owned()), postgres].into_iter().flatten() {
        for text in &shown {
            assert!(!text.contains(&secret), "{text}");
        }
    }
    services.shutdown(SOON).await;
}

#[tokio::test]
async fn a_refused_password_is_not_repeated_in_the_error() {
    let options = RedisOptions { password: Some("right".to_owned()), ..RedisOptions::default() };
    let fixture = Fixture::with_own_redis(options).await;
    let url = fixture.settings["REDIS_URL"].replace("right", &PLANTED.replace('#', "%23"));
    let fixture = fixture.set("REDIS_URL", &url);
    let services = fixture.create("one");
    let error = services.initialize().await.unwrap_err();
    let mut text = format!("{error} {error:?}");
    let mut source = std::error::Error::source(&error);
    while let Some(cause) = source {
        text.push_str(&format!(" {cause} {cause:?}"));
        source = cause.source();
    }
    assert!(!text.contains(PLANTED), "{text}");
    assert!(text.contains("REDIS_PASSWORD"), "the mend names the setting: {text}");
}
