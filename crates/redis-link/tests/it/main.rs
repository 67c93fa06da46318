//! The link against real Redis servers, with real faults.

mod calls;
mod connecting;
mod epochs;
mod failover;
mod faults;
mod hard_cases;
mod hard_clusters;
mod lifecycle;
mod old;
mod protocol;
mod rotation;
mod secure;
mod shards;
mod subscriptions;
mod support;
mod topologies;
