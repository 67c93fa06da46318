//! The verdict on reports of the demo.

use serde_json::json;

use super::{Operations, Verdict};

fn verdict() -> Verdict {
    Verdict {
        part: "demo".into(),
        seed: None,
        commit: "c".into(),
        started_unix: 0,
        seconds: 0.0,
        runs: 1,
        operations: Operations::default(),
        faults: Default::default(),
        anomalies: Vec::new(),
        passed: false,
        reasons: Vec::new(),
    }
}

fn report(problems: &[&str], updates: u64) -> serde_json::Value {
    json!({
        "seconds": 60.0, "updates": updates, "updates_intended": 6000, "problems": problems,
        "levels": {"l1": 10, "l2": 5, "l3": 3, "loader": 2},
        "faults": ["3.1 s: Redis killed", "6.0 s: Redis back, empty", "9.0 s: replica killed"],
    })
}

#[test]
fn ten_clean_runs_pass_and_nine_do_not() {
    let mut verdict = verdict();
    for _ in 0..9 {
        verdict.add(&report(&[], 6000));
    }
    verdict.judge();
    assert!(!verdict.passed, "nine injections of a kind prove too little");
    verdict.add(&report(&[], 6000));
    verdict.judge();
    assert!(verdict.passed, "{:?}", verdict.reasons);
    assert_eq!(verdict.operations.reads, 200);
    assert_eq!(verdict.faults["Redis back, empty"], 10);
}

#[test]
fn an_anomaly_or_too_few_operations_fail() {
    let mut with_anomaly = verdict();
    let mut too_slow = verdict();
    for _ in 0..10 {
        with_anomaly.add(&report(&["1 stale reads"], 6000));
        too_slow.add(&report(&[], 5399));
    }
    with_anomaly.judge();
    too_slow.judge();
    assert!(!with_anomaly.passed && with_anomaly.anomalies.len() == 10);
    assert!(!too_slow.passed && too_slow.anomalies.is_empty());
}

#[test]
fn nine_tenths_are_of_what_the_demo_intended() {
    let mut enough = verdict();
    for _ in 0..10 {
        enough.add(&report(&[], 5400));
    }
    enough.judge();
    assert!(enough.passed, "{:?}", enough.reasons);
    let mut silent = verdict();
    let mut report = report(&[], 6000);
    report.as_object_mut().expect("an object").remove("updates_intended");
    silent.add(&report);
    assert_eq!(silent.anomalies, ["run 1: the report says no updates_intended"]);
}

#[test]
fn a_verdict_is_written_whole_and_alone() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("new/verdict.json");
    for runs in 1..=2 {
        super::write(&path, &Verdict { runs, ..verdict() }).expect("written");
        let text = std::fs::read_to_string(&path).expect("readable");
        let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert_eq!(json["runs"], runs);
    }
    // A folder in its place: the failure leaves nothing behind.
    std::fs::create_dir_all(folder.path().join("new/taken.json/full")).expect("made");
    super::write(&folder.path().join("new/taken.json"), &verdict()).expect_err("taken");
    let left = std::fs::read_dir(folder.path().join("new")).expect("readable").count();
    assert_eq!(left, 2, "the verdict and the folder");
}

#[test]
fn a_run_without_faults_is_no_pass() {
    let mut verdict = verdict();
    verdict.judge();
    assert_eq!(verdict.reasons, ["no fault was injected"]);
}
