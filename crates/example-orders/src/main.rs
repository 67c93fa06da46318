//! The process: starts the services from the environment, archives at the start and every day, ends in order. Give it `DATABASE_URL` and
//! `REDIS_URL`, and a database that has the tables of `schema.sql`.

use std::time::Duration;

use database_services::{ManagerMode, get_database_services};
use example_orders::Orders;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let services = get_database_services(ManagerMode::AsyncModern).await?;
    let orders = Orders::new(services.clone());
    let mut days = tokio::time::interval(Duration::from_secs(24 * 3600));
    let mut ended = std::pin::pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            _ = &mut ended => break,
            _ = days.tick() => match orders.archive().await {
                Ok(count) => eprintln!("archived {count}; {}", services.health_manager().check_health().status),
                // Another process may have done it, or this one tries again tomorrow.
                Err(error) => eprintln!("archived nothing: {error}"),
            },
        }
    }
    services.shutdown(Duration::from_secs(30)).await;
    Ok(())
}
