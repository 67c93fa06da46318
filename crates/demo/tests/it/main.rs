//! The demo as a user meets it: its reports, its errors, and that nothing of it survives its end.
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod process;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use process::{Demo, wait_for};
use serde_json::Value;

/// One at a time: each has servers, processes and a load of its own.
static ALONE: Mutex<()> = Mutex::new(());

fn alone() -> MutexGuard<'static, ()> {
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// As many readers as a debug build can serve while other things run on the machine.
const TASKS: &str = "8";

/// What a debug build need not reach within seconds (so few reads that the caches are still cold); everything else
/// must hold. `cargo xtask demo` judges these too, on a release build.
fn only_speed(problem: &Value) -> bool {
    let speed = ["× the baseline", "p95", "hit rate", "updates", "checked late"];
    problem.as_str().is_some_and(|text| speed.iter().any(|word| text.contains(word)))
}

fn check(report: &Value) {
    let problems = report["problems"].as_array().unwrap();
    assert!(problems.iter().all(only_speed), "{report:#}");
    assert_eq!(report["stale_reads"], 0);
    assert_eq!(report["failed_requests"], 0);
    assert_eq!(report["servers"], "native");
    assert_eq!(report["processes"], 2);
    assert!(report["seconds"].as_f64().unwrap() > 1.0);
    for phase in ["read_only", "mixed"] {
        for path in ["baseline_performance", "enhanced_performance"] {
            let performance = &report[phase][path];
            assert!(performance["throughput_rps"].as_f64().unwrap() > 0.0, "{performance}");
            for time in ["mean", "p50", "p95", "p99"] {
                assert!(performance["response_times_ms"][time].as_f64().unwrap() > 0.0, "{performance}");
            }
        }
        let hit_rate = report[phase]["enhanced_performance"]["overall_hit_rate"].as_f64().unwrap();
        assert!(hit_rate > 0.0 && hit_rate <= 1.0, "{report:#}");
        assert_eq!(report[phase]["baseline_performance"]["overall_hit_rate"], 0.0);
    }
    for level in ["l1", "l2", "l3", "loader"] {
        assert!(report["levels"][level].is_u64());
    }
    assert!(report["locks"]["acquired"].as_u64().unwrap() > 0);
    assert!(report["messages"]["published"].as_u64().unwrap() > 0);
    assert!(report["updates"].as_u64().unwrap() > 0);
}

#[test]
fn a_short_run_reports_what_its_contract_says() {
    let _alone = alone();
    let mut demo = Demo::new(["run", "--tasks", TASKS, "--seconds", "8", "--json", "report.json"]);
    let status = demo.wait(Duration::from_secs(120));
    let report = demo.json("report.json");
    check(&report);
    let good = report["problems"].as_array().unwrap().is_empty();
    assert_eq!(status.code(), Some(i32::from(!good)));
    assert_eq!(report["locks"]["unavailable"], 0);
    assert_eq!(report["health"], "healthy");
    let messages = &report["messages"];
    assert_eq!(messages["gaps"], 0);
    assert_eq!(messages["received"].as_u64(), messages["published"].as_u64().map(|n| n * 2));
    demo.assert_nothing_left();
}

#[test]
fn under_chaos_no_request_fails_and_none_is_stale() {
    let _alone = alone();
    let mut demo = Demo::new(["run", "--chaos", "--tasks", TASKS, "--seconds", "4", "--json", "report.json"]);
    demo.wait(Duration::from_secs(180));
    let report = demo.json("report.json");
    check(&report);
    assert_eq!(report["faults"].as_array().unwrap().len(), 3);
    assert_eq!(report["health"], "degraded");
    assert_eq!(
        report["unwell"],
        serde_json::json!(["database"]),
        "the replica is dead, everything else is back"
    );
    assert!(report["locks"]["unavailable"].as_u64().unwrap() > 0, "Redis was away: {report:#}");
    demo.assert_nothing_left();
}

#[test]
fn a_killed_run_leaves_nothing_after_five_seconds() {
    let _alone = alone();
    let demo = Demo::new(["run", "--seconds", "600"]);
    demo.wait_for_servers();
    demo.signal(rustix::process::Signal::KILL);
    wait_for("everything to be gone", Duration::from_secs(5), || demo.left().is_empty());
}

#[test]
fn ctrl_c_ends_a_run_in_order() {
    let _alone = alone();
    let mut demo = Demo::new(["run", "--seconds", "600"]);
    demo.wait_for_servers();
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.wait(Duration::from_secs(15)).code(), Some(130));
    wait_for("everything to be gone", Duration::from_secs(5), || demo.left().is_empty());
}

/// A second run must not meet what the first one left in Postgres, where versions were higher.
#[test]
fn servers_that_run_already_serve_one_run_after_the_other() {
    let _alone = alone();
    let stack = local_stack::Stack::builder()
        .postgres(local_stack::PostgresOptions::with_replicas(0))
        .redis(local_stack::RedisOptions::default());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let stack = runtime.block_on(stack.start()).unwrap();
    let primary = stack.postgres().primary();
    runtime.block_on(primary.sql("postgres", "CREATE DATABASE shop")).unwrap();
    for _ in 0..2 {
        let mut demo = Demo::with(
            ["run", "--servers", "external", "--tasks", TASKS, "--seconds", "4", "--json", "report.json"],
            |run| {
                run.env("LOCAL_STACK_POSTGRES_URL", primary.url_for("shop"));
                run.env("LOCAL_STACK_REDIS_URL", stack.redis().master().url());
            },
        );
        demo.wait(Duration::from_secs(120));
        let report = demo.json("report.json");
        assert_eq!(report["servers"], "external");
        assert!(report["problems"].as_array().unwrap().iter().all(only_speed), "{report:#}");
        demo.assert_nothing_left();
    }
    assert!(runtime.block_on(stack.stop()));
}

#[test]
fn a_killed_up_leaves_nothing_whether_it_was_up_or_not() {
    let _alone = alone();
    let starting = Demo::new(["up"]);
    wait_for("dbsvc to start", Duration::from_secs(60), || {
        starting.left().iter().any(|line| line.contains("dbsvc"))
    });
    starting.signal(rustix::process::Signal::KILL);
    wait_for("everything to be gone", Duration::from_secs(5), || starting.left().is_empty());

    let demo = Demo::new(["up", "--json", "up.json"]);
    wait_for("the addresses", Duration::from_secs(60), || demo.path("up.json").exists());
    demo.signal(rustix::process::Signal::KILL);
    wait_for("everything to be gone", Duration::from_secs(5), || demo.left().is_empty());
}

#[test]
fn ctrl_c_before_it_is_up_ends_up() {
    let _alone = alone();
    let mut demo = Demo::new(["up", "--json", "up.json"]);
    wait_for("the servers", Duration::from_secs(60), || {
        demo.left().iter().any(|line| line.contains("redis-server"))
    });
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.wait(Duration::from_secs(15)).code(), Some(130), "{}", demo.stderr());
    demo.assert_nothing_left();
}

#[test]
fn up_serves_until_ctrl_c() {
    let _alone = alone();
    let mut demo = Demo::new(["up", "--demo-load", "--json", "up.json"]);
    wait_for("the addresses", Duration::from_secs(60), || demo.path("up.json").exists());
    let up = demo.json("up.json");
    let http = up["http"].as_str().unwrap().strip_prefix("http://").unwrap();
    assert!(process::get(http, "/livez").starts_with("HTTP/1.1 200"));
    wait_for("the load to show", Duration::from_secs(20), || {
        let metrics = process::get(http, "/metrics");
        let gets = metrics.lines().filter(|line| {
            line.starts_with("unified_cache_operations_total{") && line.contains("operation_type=\"get\"")
        });
        let counts = gets.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok());
        counts.sum::<f64>() > 100.0
    });
    let servers = [("postgres", ["primary", "replica"]), ("redis", ["master", "replica"])];
    for (part, roles) in servers {
        for (index, role) in roles.into_iter().enumerate() {
            let server = &up[part][index];
            assert_eq!(server["role"], role);
            assert!(server["url"].as_str().unwrap().contains("://") && server["pid"].as_u64().unwrap() > 1);
        }
    }
    assert!(up["pid"].as_u64().unwrap() > 1 && up["admin_token"].as_str().unwrap().len() >= 32);
    demo.signal(rustix::process::Signal::INT);
    assert_eq!(demo.wait(Duration::from_secs(30)).code(), Some(0));
    assert!(!demo.path("up.json").exists(), "addresses that no longer hold were left behind");
    demo.assert_nothing_left();
}

#[test]
fn bad_input_is_refused_before_anything_starts() {
    let _alone = alone();
    for (args, code, words) in [
        (&["run", "--seconds", "soon"][..], 64, "invalid value 'soon'"),
        (&["run", "--second", "5"], 64, "--seconds"),
        (&["run", "--chaos", "--servers", "external"], 64, "--servers native"),
        (&["run", "--trace", "nowhere.bin"], 2, "cannot read the trace nowhere.bin"),
        (&["run", "--json", "no/such/folder/x.json"], 64, "no/such/folder"),
    ] {
        let mut demo = Demo::new(args.iter().copied());
        assert_eq!(demo.wait(Duration::from_secs(10)).code(), Some(code), "{args:?}");
        assert!(demo.stderr().contains(words), "{args:?} said {}", demo.stderr());
        demo.assert_nothing_left();
    }
}

#[test]
fn missing_servers_are_named_with_the_line_that_installs_them() {
    let _alone = alone();
    let mut demo = Demo::with(["run"], |command| {
        command.env("LOCAL_STACK_REDIS_SERVER", "/no/such/redis-server");
    });
    assert_eq!(demo.wait(Duration::from_secs(20)).code(), Some(69), "{}", demo.stderr());
    assert!(demo.stderr().contains("/no/such/redis-server"), "{}", demo.stderr());
    demo.assert_nothing_left();
}
