//! `xtask/arrows.toml` as types.

use std::collections::BTreeMap;

use serde::Deserialize;

/// The whole table.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    pub(super) limits: Limits,
    pub(super) top_level: TopLevel,
    pub(super) names: Names,
    pub(super) crates: BTreeMap<String, Row>,
    pub(super) dev: Dev,
    /// Third-party crate → the crates of ours that may name it.
    pub(super) only: BTreeMap<String, Vec<String>>,
    pub(super) private_types: PrivateTypes,
    pub(super) opens: Opens,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limits {
    pub(super) file_lines: usize,
    pub(super) architecture_lines: usize,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopLevel {
    pub(super) folders: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Names {
    pub(super) forbidden: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Dev {
    pub(super) imports: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PrivateTypes {
    pub(super) crates: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Opens {
    pub(super) postgres: Vec<String>,
}

/// One crate's row.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Row {
    /// Ours that it may import; `*` for all.
    imports: Vec<String>,
    /// Variables that it may read; `X_*` for a prefix.
    #[serde(default)]
    environment: Vec<String>,
    /// Whether it may end the process.
    #[serde(default)]
    pub(super) exits: bool,
    /// Whether it is built by default.
    #[serde(default = "yes")]
    pub(super) default_member: bool,
}

fn yes() -> bool {
    true
}

impl Row {
    pub(super) fn may_import(&self, name: &str) -> bool {
        allows(&self.imports, name)
    }

    /// Whether it may read `variable`. A name that is not written at the call is not followed: it is left to the
    /// reviewer where the crate may read anything at all.
    pub(super) fn may_read(&self, variable: Option<&str>) -> bool {
        variable.map_or(!self.environment.is_empty(), |name| allows(&self.environment, name))
    }
}

fn allows(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| match pattern.strip_suffix('*') {
        Some(prefix) => name.starts_with(prefix),
        None => pattern == name,
    })
}
