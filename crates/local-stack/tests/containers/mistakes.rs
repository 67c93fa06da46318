//! What is missing or wrong is named, with the mend.

use std::process::Command;

use local_stack::{Error, Images, PostgresOptions, Provider, RedisOptions, Stack, wait_for};

use crate::{PATIENCE, containers_of, in_containers, ready};

const STARTER: &str = "LOCAL_STACK_TEST_STARTER";

#[tokio::test]
async fn an_image_that_is_not_to_be_had_is_named() {
    if ready().await.is_none() {
        return;
    }
    // A registry where nobody listens: refused at once, on every machine.
    let images = Images { redis: "localhost:1/none:0".into(), ..Images::from_env() };
    let builder = Stack::builder().redis(RedisOptions::default()).provider(Provider::Containers(images));
    let error = builder.start().await.expect_err("no such image");
    assert!(matches!(&error, Error::NoImage { .. }), "{error}");
    for part in [
        "localhost:1/none:0 is not",
        "docker pull localhost:1/none:0",
        "LOCAL_STACK_REDIS_IMAGE",
        "xtask images",
    ] {
        assert!(error.to_string().contains(part), "{part}: {error}");
    }
}

#[tokio::test]
async fn a_server_that_dies_at_start_leaves_its_log_and_no_container() {
    if ready().await.is_none() {
        return;
    }
    let settings = vec![("shared_buffers".into(), "banana".into())];
    let options = PostgresOptions { settings, ..PostgresOptions::default() };
    let error = in_containers().postgres(options).start().await.expect_err("no such amount");
    let Error::DiedAtStart { log, tail, .. } = &error else { panic!("{error}") };
    assert!(tail.contains("banana"), "{tail}");
    let directory = log.parent().and_then(|logs| logs.parent()).expect("a stack's directory").to_owned();
    wait_for("the data are removed", PATIENCE, async || !directory.join("postgres-0").exists()).await;
    wait_for("no container is left", PATIENCE, async || containers_of(&directory).await == 0).await;
    std::fs::remove_dir_all(directory).expect("the log was kept");
}

/// Not a test by itself: a start under the environment that [`a_wrong_environment_is_named`] makes.
#[test]
fn as_starter() {
    if std::env::var_os(STARTER).is_some() {
        let error = Stack::builder().redis(RedisOptions::default()).start_blocking().expect_err("wrong");
        println!("said: {error}");
    }
}

#[test]
fn a_wrong_environment_is_named() {
    let cases = [
        (
            "DOCKER_HOST",
            "tcp://127.0.0.1:1",
            "another machine's engine, which cannot see the stack's directory",
        ),
        ("DOCKER_HOST", "unix:///nowhere/docker.sock", "no container engine to use"),
        ("LOCAL_STACK_PROVIDER", "podman", "is none of native, containers, external"),
    ];
    for (name, value, expected) in cases {
        let output = Command::new(std::env::current_exe().expect("this binary"))
            .args(["--exact", "mistakes::as_starter", "--nocapture", "--test-threads=1"])
            .envs([(STARTER, "1"), ("LOCAL_STACK_PROVIDER", "containers"), (name, value)])
            .output()
            .expect("it runs");
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(said.contains("said: ") && said.contains(expected), "{name}={value}: {said}");
    }
}
