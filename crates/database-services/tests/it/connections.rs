//! Whose connections, and how many: a password that changes under running services, and a fleet of two.

use database_services::postgres_pool_manager::sqlx;
use database_services::resilience::Deadline;
use local_stack::wait_for;

use crate::support::{Ground, PATIENCE};

#[tokio::test(flavor = "multi_thread")]
async fn a_password_file_that_is_replaced_needs_no_restart() {
    let mut ground = Ground::new().await;
    let role = format!("{}_app", ground.database.name());
    let grant = format!(
        "CREATE ROLE {role} LOGIN PASSWORD 'old'; GRANT CREATE ON DATABASE {} TO {role}",
        ground.database.name()
    );
    ground.database.sql(&grant).await.unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "old\n").unwrap();
    let server = ground.database.primary();
    let (host, port, name) = (server.host().to_owned(), server.port(), ground.database.name().to_owned());
    ground.pairs.retain(|(name, _)| name != "DATABASE_URL");
    ground
        .set("DATABASE_HOST", host)
        .set("DATABASE_PORT", port.to_string())
        .set("DATABASE_NAME", name)
        .set("DATABASE_USER", role.as_str())
        .set("DATABASE_PASSWORD_FILE", file.path().display().to_string());
    let services = ground.running().await;
    ground.database.sql(&format!("ALTER ROLE {role} PASSWORD 'new'")).await.unwrap();
    std::fs::write(file.path(), "new\n").unwrap();
    let end = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{role}'");
    ground.database.sql(&end).await.unwrap();
    wait_for("connections with the new password", PATIENCE, async || {
        sqlx::query("SELECT 1").execute(&services.database().primary()).await.is_ok()
    })
    .await;
    services.database().health_check(Deadline::after(PATIENCE)).await.unwrap();
    services.shutdown(PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_the_budget_and_a_swap_fits_into_it() {
    let mut ground = Ground::new().await;
    // Each alone may have all of it.
    ground
        .set("DATABASE_POOL_SIZE", "10")
        .set("DATABASE_MAX_OVERFLOW", "10")
        .set("DATABASE_MAX_CONNECTIONS", "20");
    let first = ground.running().await;
    let share = |services: &database_services::DatabaseServices| services.database().fleet_budget().unwrap();
    wait_for("all of it but what is kept back", PATIENCE, async || share(&first).share == 18).await;
    let second = ground.running().await;
    wait_for("a part of it", PATIENCE, async || share(&second).share >= 4).await;
    assert!(share(&first).share + share(&second).share <= 18, "{:?} {:?}", share(&first), share(&second));
    // The new pool is a third instance until the old one is drained.
    ground.set("DATABASE_STATEMENT_TIMEOUT", "20s");
    first.reconfigure(ground.settings()).await.unwrap();
    sqlx::query("SELECT 1").execute(&first.database().primary()).await.unwrap();
    assert!(ground.connections().await <= 20);
    second.shutdown(PATIENCE).await;
    wait_for("all of it again", PATIENCE, async || share(&first).share == 18 && share(&first).instances == 1)
        .await;
    let context = first.settings().security_context().unwrap();
    assert_eq!(context.agent_id(), "service");
    first.shutdown(PATIENCE).await;
}
