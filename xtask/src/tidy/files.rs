//! Every Rust file: its header, its length, its name, and the calls that its crate may make.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use cargo_metadata::Package;

use super::table::Row;
use super::{Finding, Tree, source};

/// Named at all, called or handed on (`map(env::var)`).
const READS: [&str; 4] = ["env::var", "env::var_os", "env::vars", "env::vars_os"];
const ENDS: [&str; 3] = ["process::exit", "process::abort", "ExitCode"];
/// By which a Postgres connection is opened, in sqlx's names.
const OPENS: [&str; 6] = [
    "PgPool",
    "PgPoolOptions",
    "PgConnectOptions",
    "ConnectOptions",
    "PgConnection::connect",
    "PgConnection::connect_with",
];

/// All files of all crates.
pub(super) fn check(tree: &Tree) -> Result<Vec<Finding>> {
    let mut findings = Vec::new();
    for package in tree.packages() {
        for path in of(package)? {
            let text =
                std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let file = File { tree, package: package.name.as_str(), path: tree.relative(&path), text };
            file.check(&mut findings);
        }
    }
    Ok(findings)
}

/// The Rust files of a package, in order.
pub(super) fn of(package: &Package) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders: Vec<PathBuf> =
        package.manifest_path.parent().map(|path| path.as_std_path().into()).into_iter().collect();
    let root = folders.clone();
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default();
            // What is built lies beside the manifest; a module deeper down may well be called so.
            let built = name == "target" && root.contains(&folder);
            if path.is_dir() && !built {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}

struct File<'a> {
    tree: &'a Tree,
    package: &'a str,
    path: PathBuf,
    text: String,
}

impl File<'_> {
    fn check(&self, findings: &mut Vec<Finding>) {
        self.shape(findings);
        let view = source::code_view(&self.text);
        let lines = self.text.lines().zip(view.lines()).enumerate();
        let row = self.tree.table.crates.get(self.package);
        for (index, (raw, code)) in lines {
            let mut find = |rule, says| findings.push(self.finding(index + 1, rule, says));
            if code.contains("#[ignore") {
                find("ignored-test", "a test that never runs tells nothing; mend or remove it".to_owned());
            }
            if let Some(name) = self.private_type(code) {
                find("private-type", format!("a type of {name} in a public API; wrap it"));
            }
            let Some(row) = row.filter(|_| !self.is_test()) else { continue };
            if let Some(says) = reads(row, raw, code) {
                find("environment", says);
            }
            if !self.tree.table.opens.postgres.iter().any(|name| name == self.package)
                && let Some(name) = OPENS.iter().find(|name| path_in(code, name).is_some())
            {
                let only = self.tree.table.opens.postgres.join(", ");
                let says =
                    format!("only {only} may open Postgres connections ({name}); take one of its pool");
                find("connection", says);
            }
            if !row.exits && ENDS.iter().any(|call| path_in(code, call).is_some()) {
                find(
                    "process-exit",
                    "a library must not know how a process ends; return an error".to_owned(),
                );
            }
        }
    }

    /// Header, length, name.
    fn shape(&self, findings: &mut Vec<Finding>) {
        if !self.text.starts_with("//!") {
            let says =
                "no module header; open the file with `//!`: what it is, and what it deliberately is not";
            findings.push(self.finding(1, "header", says.to_owned()));
        }
        let (lines, limit) = (self.text.lines().count(), self.tree.table.limits.file_lines);
        if lines > limit {
            let says = format!("{lines} lines, more than {limit}; move one idea into a file of its own");
            findings.push(self.finding(limit + 1, "file-length", says));
        }
        let forbidden = &self.tree.table.names.forbidden;
        let parts = self.path.with_extension("");
        for part in parts.components().filter_map(|part| part.as_os_str().to_str()) {
            if forbidden.iter().any(|name| name == part) {
                let says = format!(
                    "`{part}` says nothing; name what it holds, or move it to the crate that means it"
                );
                findings.push(self.finding(1, "name", says));
            }
        }
    }

    fn finding(&self, line: usize, rule: &'static str, says: String) -> Finding {
        Finding { file: self.path.clone(), line, rule, says }
    }

    /// Tests, examples and benchmarks are programs of their own.
    fn is_test(&self) -> bool {
        let folder = |part: &Path| part == "tests" || part == "examples" || part == "benches";
        self.path.components().any(|part| folder(part.as_ref())) || self.path.ends_with("tests.rs")
    }

    /// The library whose type this line makes public, if any.
    fn private_type(&self, code: &str) -> Option<&str> {
        let code = code.trim_start();
        if !code.starts_with("pub ") {
            return None;
        }
        let crates = &self.tree.table.private_types.crates;
        crates.iter().map(String::as_str).find(|name| code.contains(&format!("{name}::")))
    }
}

/// Where the path `name` ends in `code`, if it stands there as a path of its own: not as a part of a longer word.
fn path_in(code: &str, name: &str) -> Option<usize> {
    let word = |c: char| c.is_alphanumeric() || c == '_';
    let ends = code.match_indices(name).map(|(at, _)| (at, at + name.len()));
    let whole = |(at, end): &(usize, usize)| !code[..*at].ends_with(word) && !code[*end..].starts_with(word);
    ends.filter(whole).map(|(_, end)| end).next()
}

/// What is wrong with this line's reading of the environment.
fn reads(row: &Row, raw: &str, code: &str) -> Option<String> {
    let call = READS.iter().find_map(|call| path_in(code, call))?;
    // The view has a character for each of the line's, but not a byte for each byte.
    let after: String = raw.chars().skip(code.get(..call)?.chars().count()).collect();
    let variable = after.strip_prefix("(\"").and_then(|rest| rest.split('"').next());
    if row.may_read(variable) {
        return None;
    }
    let what = variable.unwrap_or("a variable named elsewhere");
    Some(format!("this crate may not read {what} from the environment; take it as a setting's value"))
}
