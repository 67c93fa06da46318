//! The parts of an install that can be tried in a directory of the test's own.

use super::*;

#[test]
fn the_policy_is_restored() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("policy-rc.d");

    drop(Policy::put_in_place(&file).expect("in place"));
    assert!(!file.exists(), "there was none before");

    fs::write(&file, "#!/bin/sh\nexit 0\n").expect("the owner's own");
    let policy = Policy::put_in_place(&file).expect("in place");
    let status = Command::new(&file).status().expect("it runs");
    assert_eq!(status.code(), Some(101));
    drop(policy);
    assert_eq!(fs::read_to_string(&file).expect("back"), "#!/bin/sh\nexit 0\n");
}

#[test]
fn a_killed_install_is_cleared_up_by_the_next() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("policy-rc.d");
    fs::write(&file, "the owner's own").expect("written");
    std::mem::forget(Policy::put_in_place(&file).expect("in place"));
    drop(Policy::put_in_place(&file).expect("in place again"));
    assert_eq!(fs::read_to_string(&file).expect("back"), "the owner's own");
    assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 1, "nothing else is left");
}

#[test]
fn an_owner_of_clusters_keeps_the_choice() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("etc/createcluster.conf");
    no_default_cluster(&file).expect("written");
    assert!(fs::read_to_string(&file).expect("there").contains("create_main_cluster = false"));
    fs::write(&file, "mine").expect("written");
    no_default_cluster(&file).expect("left alone");
    assert_eq!(fs::read_to_string(&file).expect("there"), "mine");
}

#[test]
fn the_line_names_the_packages() {
    let line = install_line(&["postgres", "redis-server"]);
    assert!(line.contains("postgresql") && line.contains("redis"), "{line}");
    let line = install_line(&["pgbouncer"]);
    assert!(line.contains("pgbouncer") && !line.contains("redis"), "{line}");
}
