//! Talking to the container engine, by testcontainers, from code that blocks. Not here: what is run in containers.
//!
//! One runtime of our own does all of it and is never dropped, so this works on any thread, in a `Drop`, and beside
//! every other runtime; testcontainers' blocking half would panic when its runtime is dropped on another one's thread.

use std::collections::HashMap;
use std::path::Path;
use std::sync::LazyLock;
use std::sync::mpsc;
use std::time::Duration;

use testcontainers::bollard::Docker;
use testcontainers::bollard::errors::Error as Refusal;
use testcontainers::bollard::query_parameters::{
    ListContainersOptionsBuilder, RemoveContainerOptionsBuilder,
};
use testcontainers::core::client::{ClientError, docker_client_instance};
use testcontainers::core::{AccessMode, Mount};
use testcontainers::runners::AsyncRunner as _;
use testcontainers::{GenericImage, ImageExt as _, TestcontainersError};
use tokio::runtime::{Builder, Runtime};

use crate::error::Error;
use crate::options::START_TIMEOUT;

/// Names the stack's directory on each container, for [`sweep`] and for people who list containers.
const LABEL: &str = "local-stack.directory";
/// For an answer that takes the engine milliseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// For a pull over a slow line.
const PULL: Duration = Duration::from_secs(20 * 60);
const GONE: u16 = 404;

static RUNTIME: LazyLock<std::io::Result<Runtime>> = LazyLock::new(|| {
    Builder::new_multi_thread().worker_threads(1).thread_name("local-stack-engine").enable_all().build()
});

/// What a container is made of.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) image: String,
    /// Arguments of `/bin/sh`.
    pub(super) command: Vec<String>,
    pub(super) user: String,
    /// The working directory.
    pub(super) home: String,
    /// The stack's directory.
    pub(super) root: String,
    /// The list of users.
    pub(super) users: String,
}

/// A container that was started. Dropping it does nothing: the engine removes it when its process ends.
#[derive(Debug)]
pub(super) struct Started {
    id: String,
}

/// Fails unless an engine answers that runs on this machine and sees its users and directories as they are.
pub(super) fn check() -> Result<(), Error> {
    let host = std::env::var("DOCKER_HOST").unwrap_or_default();
    if !host.is_empty() && !host.starts_with("unix://") {
        let reason = format!(
            "`{host}` is another machine's engine, which cannot see the stack's directory here; unset it for this \
             machine's own, or set LOCAL_STACK_PROVIDER=native"
        );
        return Err(Error::Setting { name: "DOCKER_HOST".into(), reason });
    }
    let info = ask(PATIENCE, async { client().await?.info().await.map_err(in_words) });
    let info = info.map_err(|reason| Error::NoEngine { reason })?;
    let maps_users = |option: &String| option.contains("rootless") || option.contains("userns");
    if info.security_options.unwrap_or_default().iter().any(maps_users) {
        let reason = "it maps users (rootless, or userns-remap), so servers would not own the stack's directory; use \
            one that does not";
        return Err(Error::NoEngine { reason: reason.into() });
    }
    Ok(())
}

/// Removes in passing what was created and never started, because its owner was killed in between: no process, no data,
/// but a name in a list.
pub(super) fn sweep() {
    let filters = HashMap::from([("label", vec![LABEL]), ("status", vec!["created", "exited", "dead"])]);
    let sweep = async move {
        let docker = client().await?;
        let options = ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        for container in docker.list_containers(Some(options)).await.map_err(in_words)? {
            let directory = container.labels.and_then(|labels| labels.get(LABEL).cloned());
            if let (Some(id), Some(directory)) = (container.id, directory)
                && !Path::new(&directory).exists()
            {
                remove(&docker, &id).await;
            }
        }
        Ok::<_, String>(())
    };
    if let Ok(runtime) = &*RUNTIME {
        runtime.spawn(sweep);
    }
}

/// The id of an image, which is pulled if it is not here. `variable` names another one.
pub(super) fn image_id(image: &str, variable: &'static str) -> Result<String, Error> {
    let name = image.to_owned();
    let id = ask(PULL, async move {
        let docker = client().await?;
        if let Ok(found) = docker.inspect_image(&name).await {
            return Ok(found.id.unwrap_or_default());
        }
        let pulled = generic(&name).pull_image().await;
        pulled.map(drop).map_err(|error| match error {
            TestcontainersError::Client(ClientError::PullImage { err, .. }) => in_words(err),
            other => other.to_string(),
        })?;
        let found = docker.inspect_image(&name).await.map_err(in_words)?;
        Ok(found.id.unwrap_or_default())
    });
    id.map_err(|reason| Error::NoImage { image: image.into(), variable, reason })
}

/// Starts a container, and gives back none if it has ended already; the error says in words why not.
pub(super) fn start(request: Request) -> Result<Option<Started>, String> {
    ask(START_TIMEOUT + PATIENCE, async move {
        let Request { image, command, user, home, root, users } = request;
        let container = generic(&image)
            .with_entrypoint("/bin/sh")
            .with_cmd(command)
            .with_user(user)
            .with_working_dir(&home)
            .with_env_var("HOME", home)
            .with_env_var("LC_ALL", "C")
            .with_mount(Mount::bind_mount(&root, &root))
            .with_mount(Mount::bind_mount(users, "/etc/passwd").with_access_mode(AccessMode::ReadOnly))
            .with_label(LABEL, root)
            .with_network("host")
            .with_startup_timeout(START_TIMEOUT)
            .with_host_config_modifier(|host| {
                host.auto_remove = Some(true);
                host.publish_all_ports = Some(false);
                // The watchdog gives back by its number what Postgres allocates; another's numbers are not ours.
                host.ipc_mode = Some("host".into());
            });
        match container.start().await {
            Ok(container) => {
                let id = container.id().to_owned();
                // Its drop would end the server; that is the watchdog's.
                std::mem::forget(container);
                Ok(Some(Started { id }))
            }
            // Removed before the runner had asked for its state.
            Err(TestcontainersError::Client(ClientError::InspectContainer(
                Refusal::DockerResponseServerError { status_code: GONE, .. },
            ))) => Ok(None),
            Err(error) => Err(error.to_string()),
        }
    })
}

impl Started {
    /// The number of its process, or none if it has ended.
    pub(super) fn pid(&self) -> Option<u32> {
        let id = self.id.clone();
        let pid = ask(PATIENCE, async move {
            let container = client().await?.inspect_container(&id, None).await.map_err(in_words)?;
            Ok(container.state.and_then(|state| state.pid))
        });
        pid.ok().flatten().and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid != 0)
    }

    /// Ends it, where that cannot be done by its process.
    pub(super) fn remove(&self) {
        let id = self.id.clone();
        let _ = ask(PATIENCE, async move {
            remove(&client().await?, &id).await;
            Ok(())
        });
    }
}

async fn remove(docker: &Docker, id: &str) {
    let options = RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    // Gone already is what was wanted.
    let _ = docker.remove_container(id, Some(options)).await;
}

async fn client() -> Result<Docker, String> {
    docker_client_instance().await.map_err(|error| error.to_string())
}

/// Does the work on our runtime and waits for it.
fn ask<T: Send + 'static>(
    within: Duration,
    work: impl Future<Output = Result<T, String>> + Send + 'static,
) -> Result<T, String> {
    let runtime = RUNTIME.as_ref().map_err(|error| format!("no thread for talking to it: {error}"))?;
    let (answer, answered) = mpsc::sync_channel(1);
    runtime.spawn(async move {
        let late = |_| Err(format!("no answer within {within:?}"));
        let _ = answer.send(tokio::time::timeout(within, work).await.unwrap_or_else(late));
    });
    answered.recv().unwrap_or_else(|_| Err("talking to it ended in a panic".into()))
}

fn in_words(error: Refusal) -> String {
    match error {
        Refusal::DockerResponseServerError { message, .. } => message,
        other => other.to_string(),
    }
}

// The crate wants name and tag apart, and joins them again by a colon, so that a digest goes through as well.
fn generic(image: &str) -> GenericImage {
    match image.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => GenericImage::new(name, tag),
        _ => GenericImage::new(image, "latest"),
    }
}
