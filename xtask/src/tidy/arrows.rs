//! Who may depend on whom.

use cargo_metadata::{Dependency, DependencyKind, Package};

use super::{Finding, Tree};

/// Every dependency of every crate against the table.
pub(super) fn check(tree: &Tree) -> Vec<Finding> {
    let mut findings = Vec::new();
    for package in tree.packages() {
        let name = package.name.as_str();
        if !tree.table.crates.contains_key(name) {
            let says = format!("{name} has no row; add one to xtask/arrows.toml and to ARCHITECTURE.md");
            findings.push(tree.in_manifest(package, "name", "unknown-crate", says));
        }
        for dependency in &package.dependencies {
            findings.extend(ours(tree, package, dependency));
            findings.extend(third_party(tree, package, dependency));
        }
    }
    findings
}

fn ours(tree: &Tree, package: &Package, dependency: &Dependency) -> Option<Finding> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    let row = tree.table.crates.get(from)?;
    if !tree.is_ours(to) {
        return None;
    }
    let for_tests = dependency.kind == DependencyKind::Development
        && tree.table.dev.imports.iter().any(|name| name == to);
    if !row.may_import(to) && !for_tests {
        let says = format!(
            "{from} must not import {to}; move the code to a crate that may, \
             or change the architecture (xtask/arrows.toml, ARCHITECTURE.md)"
        );
        return Some(tree.in_manifest(package, to, "arrow", says));
    }
    let lean = !dependency.uses_default_features && dependency.features.is_empty();
    if from == "xtask" && !lean {
        let says = format!("xtask is to build quickly; take {to} without its features");
        return Some(tree.in_manifest(package, to, "lean-xtask", says));
    }
    None
}

fn third_party(tree: &Tree, package: &Package, dependency: &Dependency) -> Option<Finding> {
    let (from, to) = (package.name.as_str(), dependency.name.as_str());
    let allowed = tree.table.only.get(to)?;
    if allowed.iter().any(|name| name == from) {
        return None;
    }
    let says = format!("only {} may name {to}; use what that crate offers instead", allowed.join(", "));
    Some(tree.in_manifest(package, to, "driver", says))
}
