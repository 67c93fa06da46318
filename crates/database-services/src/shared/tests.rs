//! One instance per mode and runtime, held weakly.

use std::sync::Arc;
use std::time::Duration;

use super::instance;
use crate::settings::Settings;
use crate::{Error, ManagerMode};

fn settings() -> Result<Settings, crate::settings::SettingsErrors> {
    Settings::from_pairs([("SECURITY_AGENT_ID", "tests"), ("SECURITY_TIER", "enterprise")])
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn one_per_mode_and_runtime_while_somebody_holds_it() {
    let (one, other) = (runtime(), runtime());
    let admin = one.block_on(async { instance(ManagerMode::Admin, settings) }).unwrap();
    let again = one.block_on(async { instance(ManagerMode::Admin, || panic!("read again")) }).unwrap();
    assert!(Arc::ptr_eq(&admin.inner, &again.inner));
    assert_eq!(admin.security_context().agent_id(), "tests");
    let mcp = one.block_on(async { instance(ManagerMode::McpServer, settings) }).unwrap();
    assert!(!Arc::ptr_eq(&admin.inner, &mcp.inner));
    let elsewhere = other.block_on(async { instance(ManagerMode::Admin, settings) }).unwrap();
    assert!(!Arc::ptr_eq(&admin.inner, &elsewhere.inner));
    let weak = Arc::downgrade(&admin.inner);
    drop((admin, again));
    assert!(weak.upgrade().is_none(), "the registry holds weakly");
    let fresh = one.block_on(async { instance(ManagerMode::Admin, settings) }).unwrap();
    one.block_on(fresh.shutdown(Duration::ZERO));
    let next = one.block_on(async { instance(ManagerMode::Admin, settings) }).unwrap();
    assert!(!Arc::ptr_eq(&fresh.inner, &next.inner), "one that was shut down is replaced");
}

#[test]
fn wrong_settings_and_no_runtime_are_errors() {
    assert!(matches!(instance(ManagerMode::Admin, settings), Err(Error::NoRuntime)));
    let wrong = || Settings::from_pairs([("DATABASE_PORT", "x")]);
    let told = runtime().block_on(async { instance(ManagerMode::HighAvailability, wrong) });
    assert!(matches!(told, Err(Error::Settings(_))));
}

#[test]
fn before_initialize_there_is_nothing_but_health() {
    let services = runtime().block_on(async { instance(ManagerMode::AsyncModern, settings) }).unwrap();
    assert!(!services.is_initialized());
    assert!(matches!(services.stats(), Err(Error::NotInitialized)));
    assert!(!services.health_manager().group(health_manager::Group::Readiness).passing);
    let told =
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| services.database())).expect_err("no panic");
    assert!(told.downcast_ref::<String>().unwrap().contains("call initialize() first"));
}
