//! Servers in containers, for real: what native servers can do and suffer, these can. Short on purpose; the suite of
//! `tests/it` says the same of every detail, with `LOCAL_STACK_PROVIDER=containers` too.
//!
//! The images are those of the environment. Where there is no engine or no image the tests say so in one line and pass,
//! unless `LOCAL_STACK_REQUIRE_CONTAINERS=1`.

mod faults;
mod mistakes;
mod owner;
mod together;
mod topologies;

use std::io::Write as _;
use std::sync::OnceLock;
use std::time::Duration;

use local_stack::{Builder, Error, Images, PostgresOptions, Provider, RedisOptions, SharedStack, Stack};
use testcontainers::core::client::docker_client_instance;

/// Longer than anything here takes on a busy machine; no test waits for it to pass.
const PATIENCE: Duration = Duration::from_secs(20);

/// A primary, a master and a replica of each, for tests that do no harm.
static SHARED: SharedStack = SharedStack::new(|| {
    in_containers().postgres(PostgresOptions::with_replicas(1)).redis(RedisOptions::with_replicas(1))
});

fn in_containers() -> Builder {
    Stack::builder().provider(Provider::Containers(Images::from_env()))
}

/// The shared stack, or none where containers cannot be run, which is told once.
fn shared() -> Option<Stack> {
    static MISSING: OnceLock<bool> = OnceLock::new();
    let required = std::env::var_os("LOCAL_STACK_REQUIRE_CONTAINERS").is_some_and(|value| value == "1");
    let is_missing = |error: &Error| match error {
        Error::NoEngine { .. } | Error::NoImage { .. } => true,
        Error::Setting { name, .. } => name == "DOCKER_HOST",
        _ => false,
    };
    if MISSING.get().is_some() {
        return None;
    }
    match SHARED.get_blocking() {
        Ok(stack) => Some(stack),
        Err(error) if !required && is_missing(&error) => {
            MISSING.get_or_init(|| {
                // Past the capture of a passing test's words.
                writeln!(std::io::stderr(), "the container suite did not run: {error}").is_ok()
            });
            None
        }
        Err(error) => panic!("containers: {error}"),
    }
}

/// [`shared`] off the runtime's threads.
async fn ready() -> Option<Stack> {
    tokio::task::spawn_blocking(shared).await.expect("containers are run")
}

/// The first column of the first row.
fn first(rows: &[local_stack::Row]) -> Option<&str> {
    rows.first()?.first()?.as_deref()
}

/// The containers, in whatever state, of the stack in this directory.
async fn containers_of(directory: &std::path::Path) -> usize {
    use testcontainers::bollard::query_parameters::ListContainersOptionsBuilder;

    let label = format!("local-stack.directory={}", directory.display());
    let filters = std::collections::HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let docker = docker_client_instance().await.expect("a client");
    docker.list_containers(Some(options)).await.expect("listed").len()
}
