//! Services for tests on real servers: apart from each other, quick to have, to be harmed, and gone afterwards.

#![expect(clippy::unwrap_used, reason = "a helper of a test fails like the test itself")]

mod apart;
mod faults;
mod gone;
mod readme;
mod start;
mod topologies;
mod wishes;

use std::convert::Infallible;
use std::time::Duration;

use database_services::DatabaseServices;
use database_services::cache_manager::{Cache, Loaded, RegionOptions};

const SOON: Duration = Duration::from_secs(20);

fn numbers(services: &DatabaseServices) -> Cache<u32> {
    services.cache().region("numbers", RegionOptions::default()).unwrap()
}

/// The number under `key`, or `other` where no level has one.
async fn read(services: &DatabaseServices, key: &str, other: u32) -> u32 {
    let load = move |_| async move { Ok::<_, Infallible>(Loaded::value(other)) };
    *numbers(services).get_or_load(key, load).await.unwrap().value.unwrap()
}
