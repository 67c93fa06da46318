//! Migrations: planned, run, run again, run by two at once, and under the least rights.

use crate::support::{Place, run};

#[tokio::test]
async fn planned_then_applied_then_nothing_left() {
    let place = Place::shared().await;
    let plan = run(&place.env(), &["migrate", "--plan", "--json"]).await;
    assert_eq!(plan.exit, 1, "{plan:?}");
    let pending = plan.json()["applied"].as_array().unwrap().len();
    assert!(pending > 0 && plan.json()["dry_run"] == true, "{plan:?}");
    // Planning changed nothing: the plan is the same again.
    assert_eq!(run(&place.env(), &["migrate", "--plan", "--json"]).await.json(), plan.json());

    let (first, second) = tokio::join!(async { run(&place.env(), &["migrate", "--json"]).await }, async {
        run(&place.env(), &["migrate", "--json"]).await
    });
    assert_eq!((first.exit, second.exit), (0, 0), "{first:?} {second:?}");
    let count = |ran: &crate::support::Run| ran.json()["applied"].as_array().unwrap().len();
    assert_eq!(count(&first) + count(&second), pending, "each was applied by one of the two");

    let again = run(&place.env(), &["migrate"]).await;
    assert_eq!(again.exit, 0);
    assert!(again.out.contains("up to date"), "{again:?}");
    assert_eq!(run(&place.env(), &["migrate", "--plan"]).await.exit, 0);
}

#[tokio::test]
async fn the_roles_suffice_and_the_run_time_role_cannot_change_the_schema() {
    let mut place = Place::shared().await;
    let name = place.database.name().to_owned();
    // Roles belong to the whole server, which tests share: names of this test's own.
    let (owner, service) = (format!("{name}_migrator"), format!("{name}_service"));
    let roles = run(&place.env(), &["migrate", "--roles", "--owner", &owner, "--runtime", &service]).await;
    assert_eq!(roles.exit, 0, "{roles:?}");
    place.database.sql(&roles.out).await.unwrap();
    place.database.sql(&roles.out).await.unwrap();
    for user in [&owner, &service] {
        place.database.sql(&format!("ALTER ROLE \"{user}\" PASSWORD 'secret'")).await.unwrap();
    }
    let url = |user: &str| place.database.primary().url_as(user, "secret", &name);
    let (owner, service) = (url(&owner), url(&service));

    place.env[0].1 = service.clone();
    let refused = run(&place.env(), &["migrate"]).await;
    assert_eq!(refused.exit, 2, "{refused:?}");
    place.env[0].1 = owner;
    let migrated = run(&place.env(), &["migrate"]).await;
    assert_eq!(migrated.exit, 0, "{migrated:?}");

    place.env[0].1 = service;
    place.env.push(("DATABASE_AUTO_MIGRATE", "false".to_owned()));
    let serving = place.serve(&[]).await;
    let set = serving.run(&["cache", "set", "a", "1"]).await;
    assert_eq!(set.exit, 0, "{set:?}");
    serving.until_health_exits(0).await;
    serving.stop().await;
}

#[tokio::test]
async fn the_printed_roles_are_the_shipped_ones() {
    let shipped = include_str!("../../../../deploy/postgres/roles.sql");
    let printed = run(&[], &["migrate", "--roles"]).await;
    assert_eq!((printed.exit, printed.out.trim_end()), (0, shipped.trim_end()), "{printed:?}");
    let named = run(&[], &["migrate", "--roles", "--runtime", "shop", "--json"]).await.json();
    assert_eq!((&named["owner"], &named["runtime"]), (&"database_services_owner".into(), &"shop".into()));
    assert!(named["script"].as_str().unwrap().contains("\"shop\""), "{named}");
    for wrong in [&["--runtime", ""][..], &["--owner", "same", "--runtime", "same"]] {
        let args: Vec<&str> = ["migrate", "--roles"].iter().chain(wrong).copied().collect();
        assert_eq!(run(&[], &args).await.exit, 64, "{wrong:?}");
    }
}

#[tokio::test]
async fn without_its_tables_the_service_says_what_to_run() {
    let mut place = Place::shared().await;
    place.env.push(("DATABASE_AUTO_MIGRATE", "false".to_owned()));
    let refused = run(&place.env(), &["serve"]).await;
    assert_eq!(refused.exit, 2, "{refused:?}");
    assert!(refused.err.contains("dbsvc migrate"), "{refused:?}");
}
