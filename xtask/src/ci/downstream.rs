//! Crates that use ours from outside of the workspace, generated and checked.
//!
//! Our `Executor`s must satisfy sqlx's trait whatever sqlx features somebody else in the build turns on: `describe`
//! is required as soon as anyone enables the macros. So one crate brings sqlx with its default features, one with
//! few, and one no sqlx of its own. They are checked against the workspace's lock file, in a target folder of ours.
//!
//! The example that users copy is checked alone: in the whole workspace's build others turn features on for it.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::workspace;

/// A crate of somebody else's.
struct Downstream {
    name: &'static str,
    /// Its own line for sqlx, if it has one.
    sqlx: &'static str,
    source: &'static str,
}

const CRATES: [Downstream; 3] = [
    Downstream { name: "sqlx-default", sqlx: "sqlx = \"0.9\"", source: QUERIES },
    Downstream {
        name: "sqlx-few",
        sqlx: "sqlx = { version = \"0.9\", default-features = false, features = [\"postgres\", \"runtime-tokio\"] }",
        source: QUERIES,
    },
    Downstream { name: "sqlx-re-exported", sqlx: "", source: RE_EXPORTED },
];

const QUERIES: &str = r#"//! Queries through our executors with the caller's own sqlx.
use postgres_pool_manager::PostgresPoolManager;

async fn read(db: &PostgresPoolManager) -> Result<(i32, Vec<i32>), sqlx::Error> {
    let one = sqlx::query_scalar::<_, i32>("select 1").fetch_one(&db.primary()).await?;
    let many = sqlx::query_scalar::<_, i32>("select generate_series(1, 3)").fetch_all(&db.replica()).await?;
    Ok((one, many))
}

fn main() {
    let _ = read;
}
"#;

const RE_EXPORTED: &str = r#"//! Queries through our executors with the sqlx that comes along.
use postgres_pool_manager::{PostgresPoolManager, sqlx};

async fn read(db: &PostgresPoolManager) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar::<_, i32>("select 1").fetch_one(&db.primary()).await
}

fn main() {
    let _ = read;
}
"#;

/// Generates and checks each crate.
pub(super) fn run() -> Result<()> {
    workspace::run_ok(workspace::cargo("check --locked --quiet --package example-orders".split(' ')))?;
    let root = workspace::root();
    let target = workspace::target_dir()?.join("downstream");
    for Downstream { name, sqlx, source } in CRATES {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        let path = folder.path();
        std::fs::create_dir(path.join("src"))?;
        std::fs::write(path.join("src/main.rs"), source)?;
        std::fs::write(path.join("Cargo.toml"), manifest(name, sqlx, &root))?;
        std::fs::copy(root.join("Cargo.lock"), path.join("Cargo.lock"))?;
        let mut check = workspace::cargo(["check", "--quiet"]);
        check.current_dir(path).env("CARGO_TARGET_DIR", &target);
        workspace::run_ok(check).with_context(|| format!("a crate outside of the workspace ({name})"))?;
    }
    Ok(())
}

fn manifest(name: &str, sqlx: &str, root: &Path) -> String {
    let pool = root.join("crates/postgres-pool-manager");
    format!(
        "[package]\nname = \"{name}\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[dependencies]\n\
         postgres-pool-manager = {{ path = {pool:?} }}\n{sqlx}\n\n[workspace]\n"
    )
}
