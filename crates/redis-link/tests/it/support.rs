//! Servers and settings for the tests. No assertions about the link.

use local_stack::{RedisOptions, Server, SharedStack, Stack};
use redis_link::{Config, Deps, Endpoint, RedisLink, SelfKeptEpochs, Topology};
use resilience::Deadline;
use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

/// Longer than anything here takes on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// For tests that do no harm to the server.
static HARMLESS: SharedStack = SharedStack::new(|| Stack::builder().redis(RedisOptions::default()));

pub(crate) async fn shared() -> Stack {
    HARMLESS.get().await.expect("Redis starts")
}

/// For tests that do.
pub(crate) async fn own(options: RedisOptions) -> Stack {
    Stack::builder().redis(options).start().await.expect("Redis starts")
}

pub(crate) fn soon() -> Deadline {
    Deadline::after(PATIENCE)
}

pub(crate) fn within(millis: u64) -> Deadline {
    Deadline::after(Duration::from_millis(millis))
}

/// Settings for an address, with a namespace of its own and a quick probe.
pub(crate) fn config_for(port: u16) -> Config {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    Config {
        topology: Topology::standalone(Endpoint::new("127.0.0.1", port)),
        namespace: format!("t{}-{}", std::process::id(), NEXT.fetch_add(1, Relaxed)),
        probe_interval: Duration::from_millis(100),
        probe_timeout: Duration::from_secs(1),
        ..Config::default()
    }
}

pub(crate) fn config(server: &Server) -> Config {
    config_for(server.port())
}

pub(crate) fn deps() -> Deps {
    Deps { epochs: Arc::new(SelfKeptEpochs::new()) }
}

pub(crate) async fn connected(config: Config) -> RedisLink {
    let link = config.connect(deps()).await.expect("nothing is permanently wrong");
    link.ready(soon()).await.expect("connected");
    link
}
