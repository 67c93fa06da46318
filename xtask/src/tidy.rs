//! `cargo xtask tidy`: does the workspace still have the shape that ARCHITECTURE.md gives it?
//!
//! Reads manifests (through `cargo metadata`) and source text; compiles nothing. Every finding names the place, the
//! rule and the mend. What is allowed is data, in `xtask/arrows.toml`.

mod arrows;
mod files;
mod layout;
mod source;
mod table;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::{Metadata, MetadataCommand, Package};

use crate::workspace;
use table::Table;

/// Something that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Finding {
    /// Relative to the root.
    file: PathBuf,
    line: usize,
    rule: &'static str,
    /// What is wrong, and how it is mended.
    says: String,
}

impl std::fmt::Display for Finding {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}: {}: {}", self.file.display(), self.line, self.rule, self.says)
    }
}

/// The workspace under examination.
struct Tree {
    root: PathBuf,
    table: Table,
    metadata: Metadata,
}

/// Checks this workspace; exit 1 when there are findings.
pub(crate) fn run() -> Result<u8> {
    let findings = check(&workspace::root())?;
    for finding in &findings {
        eprintln!("{finding}");
    }
    if findings.is_empty() {
        eprintln!("tidy: no findings");
        return Ok(0);
    }
    eprintln!("tidy: {} findings", findings.len());
    Ok(1)
}

/// Checks the workspace in `root`, sorted by place.
fn check(root: &Path) -> Result<Vec<Finding>> {
    let tree = Tree::open(root)?;
    let mut findings = arrows::check(&tree);
    findings.extend(layout::check(&tree)?);
    findings.extend(files::check(&tree)?);
    findings.sort();
    findings.dedup();
    Ok(findings)
}

impl Tree {
    fn open(root: &Path) -> Result<Self> {
        let path = root.join("xtask/arrows.toml");
        let text =
            std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
        let table = toml::from_str(&text).with_context(|| format!("{}", path.display()))?;
        // Without dependencies' own manifests: nothing is resolved or fetched, so this works offline and at once.
        let metadata = MetadataCommand::new()
            .manifest_path(root.join("Cargo.toml"))
            .no_deps()
            .exec()
            .context("cargo metadata failed")?;
        let root = metadata.workspace_root.clone().into_std_path_buf();
        Ok(Self { root, table, metadata })
    }

    fn packages(&self) -> &[Package] {
        &self.metadata.packages
    }

    fn is_ours(&self, name: &str) -> bool {
        self.packages().iter().any(|package| package.name.as_str() == name)
    }

    fn relative(&self, path: &Path) -> PathBuf {
        path.strip_prefix(&self.root).unwrap_or(path).to_owned()
    }

    /// The first line of the package's manifest that begins with `key`, else 1.
    fn manifest_line(&self, package: &Package, key: &str) -> usize {
        let text = std::fs::read_to_string(&package.manifest_path).unwrap_or_default();
        let names = |line: &str| {
            line.trim_start()
                .strip_prefix(key)
                .is_some_and(|rest| rest.starts_with(['.', ' ', '=', ']']) || rest.is_empty())
        };
        text.lines().position(names).map_or(1, |index| index + 1)
    }

    fn in_manifest(&self, package: &Package, key: &str, rule: &'static str, says: String) -> Finding {
        let file = self.relative(package.manifest_path.as_std_path());
        Finding { file, line: self.manifest_line(package, key), rule, says }
    }
}

#[cfg(test)]
mod tests;
