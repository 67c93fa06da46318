//! The workspace as a whole: members, lints, top level, documents.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::Package;

use super::{Finding, Tree, files, source};

/// Lines of code below which a crate is a stub.
const EMPTY: usize = 5;

/// All checks of this file.
pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = stale_rows(tree);
    findings.extend(top_level(tree)?);
    findings.extend(architecture(tree));
    for package in tree.packages() {
        findings.extend(lints(tree, package)?);
        findings.extend(default_member(tree, package));
        findings.extend(empty(tree, package)?);
        findings.extend(folder_name(tree, package));
    }
    Ok(findings)
}

fn stale_rows(tree: &Tree) -> Vec<Finding> {
    let gone = tree.table.crates.keys().filter(|name| !tree.is_ours(name));
    gone.map(|name| Finding {
        file: PathBuf::from("xtask/arrows.toml"),
        line: 1,
        rule: "stale-row",
        says: format!("there is no crate {name}; remove its row"),
    })
    .collect()
}

fn top_level(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for entry in std::fs::read_dir(&tree.root).context("cannot list the root folder")? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let known = tree.table.top_level.folders.contains(&name);
        if entry.path().is_dir() && !name.starts_with('.') && name != "target" && !known {
            let says = format!(
                "the top level has a folder {name} that is not in xtask/arrows.toml; move it below one"
            );
            findings.push(Finding { file: PathBuf::from(name), line: 1, rule: "top-level", says });
        }
    }
    Ok(findings)
}

fn architecture(tree: &Tree) -> Option<Finding> {
    let file = PathBuf::from("ARCHITECTURE.md");
    let limit = tree.table.limits.architecture_lines;
    let says = match std::fs::read_to_string(tree.root.join(&file)) {
        Ok(text) if text.lines().count() <= limit => return None,
        Ok(text) => format!("{} lines, more than {limit}; move detail into crate docs", text.lines().count()),
        Err(error) => format!("cannot be read: {error}"),
    };
    Some(Finding { file, line: limit + 1, rule: "architecture-length", says })
}

fn lints(tree: &Tree, package: &Package) -> Result<Option<Finding>> {
    let text = std::fs::read_to_string(&package.manifest_path)?;
    let manifest: toml::Table = toml::from_str(&text).with_context(|| package.manifest_path.to_string())?;
    let inherited =
        manifest.get("lints").and_then(|lints| lints.get("workspace")).and_then(toml::Value::as_bool);
    if inherited == Some(true) {
        return Ok(None);
    }
    let says = "the workspace's lints are not inherited; add `[lints]` with `workspace = true`".to_owned();
    Ok(Some(tree.in_manifest(package, "[lints", "lints", says)))
}

fn default_member(tree: &Tree, package: &Package) -> Option<Finding> {
    let row = tree.table.crates.get(package.name.as_str())?;
    let is = tree.metadata.workspace_default_members.contains(&package.id);
    if is == row.default_member {
        return None;
    }
    let (verb, mend) = if is { ("is", "remove it from") } else { ("is not", "add it to") };
    let says = format!("{} {verb} built by default; {mend} default-members", package.name);
    Some(Finding { file: PathBuf::from("Cargo.toml"), line: 1, rule: "default-members", says })
}

fn empty(tree: &Tree, package: &Package) -> Result<Option<Finding>> {
    let mut lines = 0;
    for file in files::of(package)? {
        let text = std::fs::read_to_string(&file)?;
        lines += source::code_view(&text).lines().filter(|line| !line.trim().is_empty()).count();
    }
    if lines >= EMPTY {
        return Ok(None);
    }
    let says = format!("{} holds no code; a crate comes with its first content", package.name);
    Ok(Some(tree.in_manifest(package, "name", "empty-crate", says)))
}

fn folder_name(tree: &Tree, package: &Package) -> Option<Finding> {
    let folder = package.manifest_path.parent().and_then(|folder| Path::new(folder.as_str()).file_name())?;
    if folder == package.name.as_str() {
        return None;
    }
    let says = format!("folder {} holds package {}; give both one name", folder.display(), package.name);
    Some(tree.in_manifest(package, "name", "folder-name", says))
}
