//! Each rule is planted in a copy of this workspace and must be found; the workspace as it is must be clean.

use std::fs;
use std::path::Path;

use super::{Finding, check, source};
use crate::workspace;

/// A copy of the manifests and sources, without what is built.
struct Copy {
    folder: tempfile::TempDir,
}

impl Copy {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        copy(&workspace::root(), folder.path());
        Self { folder }
    }

    fn path(&self, relative: &str) -> std::path::PathBuf {
        self.folder.path().join(relative)
    }

    fn append(&self, relative: &str, text: &str) {
        let path = self.path(relative);
        let old = fs::read_to_string(&path).unwrap_or_default();
        fs::create_dir_all(path.parent().expect("a folder")).expect("created");
        fs::write(path, old + text).expect("written");
    }

    fn replace(&self, relative: &str, from: &str, to: &str) {
        let path = self.path(relative);
        let old = fs::read_to_string(&path).expect("readable");
        assert!(old.contains(from), "{relative} holds {from:?}");
        fs::write(path, old.replacen(from, to, 1)).expect("written");
    }

    /// What is found here and not in the workspace as it is.
    fn new_findings(&self) -> Vec<Finding> {
        let known = check(&workspace::root()).expect("the workspace is readable");
        let mut found = check(self.folder.path()).expect("the copy is readable");
        found.retain(|finding| !known.contains(finding));
        found
    }

    #[track_caller]
    fn expect(&self, rule: &str, file: &str, line: usize) {
        let found = self.new_findings();
        let matches = |f: &&Finding| f.rule == rule && f.file == Path::new(file) && f.line == line;
        assert!(
            found.iter().any(|finding| matches(&finding)),
            "{rule} at {file}:{line} not among {found:#?}"
        );
    }
}

fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).expect("readable") {
        let path = entry.expect("an entry").path();
        let name = path.file_name().expect("a name");
        let hidden = name.to_string_lossy().starts_with('.');
        let built = name == "target" && from == workspace::root();
        if path.is_dir() && !hidden && !built {
            fs::create_dir(to.join(name)).expect("created");
            copy(&path, &to.join(name));
        } else if path.is_file() {
            fs::copy(&path, to.join(name)).expect("copied");
        }
    }
}

#[test]
fn this_workspace_is_tidy() {
    let findings = check(&workspace::root()).expect("the workspace is readable");
    let lines: Vec<String> = findings.iter().map(Finding::to_string).collect();
    assert!(findings.is_empty(), "\n{}", lines.join("\n"));
}

#[test]
fn a_forbidden_arrow_is_found() {
    let copy = Copy::new();
    let manifest = "crates/resilience/Cargo.toml";
    copy.replace(manifest, "[dependencies]", "[dependencies]\nredis-link = { path = \"../redis-link\" }");
    let text = fs::read_to_string(copy.path(manifest)).expect("readable");
    let line = 1 + text.lines().position(|line| line.starts_with("redis-link")).expect("planted");
    copy.expect("arrow", manifest, line);
}

#[test]
fn a_component_that_imports_the_health_manager_is_found() {
    let copy = Copy::new();
    let manifest = "crates/cache-manager/Cargo.toml";
    copy.append(manifest, "\n[target.'cfg(unix)'.dependencies]\nhealth-manager.workspace = true\n");
    let lines = fs::read_to_string(copy.path(manifest)).expect("readable").lines().count();
    copy.expect("arrow", manifest, lines);
}

#[test]
fn a_second_user_of_a_driver_is_found() {
    let copy = Copy::new();
    let manifest = "crates/cache-manager/Cargo.toml";
    copy.append(manifest, "\n[target.'cfg(unix)'.dependencies]\nfred.workspace = true\n");
    let lines = fs::read_to_string(copy.path(manifest)).expect("readable").lines().count();
    copy.expect("driver", manifest, lines);
}

#[test]
fn an_over_long_file_is_found() {
    let copy = Copy::new();
    copy.append("crates/resilience/src/long.rs", &("//! Long.\n".to_owned() + &"fn f() {}\n".repeat(400)));
    copy.expect("file-length", "crates/resilience/src/long.rs", 401);
    let short = "//! Just short enough.\n".to_owned() + &"fn f() {}\n".repeat(399);
    fs::write(copy.path("crates/resilience/src/long.rs"), short).expect("written");
    assert_eq!(copy.new_findings(), []);
}

#[test]
fn a_missing_header_is_found() {
    let copy = Copy::new();
    copy.append("crates/resilience/src/bare.rs", "/// A function.\nfn f() {}\n");
    copy.expect("header", "crates/resilience/src/bare.rs", 1);
}

#[test]
fn a_name_that_says_nothing_is_found() {
    let copy = Copy::new();
    copy.append("crates/resilience/src/utils.rs", "//! Anything.\n");
    copy.expect("name", "crates/resilience/src/utils.rs", 1);
}

#[test]
fn reading_the_environment_and_ending_the_process_are_found() {
    let copy = Copy::new();
    let file = "crates/resilience/src/planted.rs";
    copy.append(file, "//! Planted.\n//! env::var(\"X\") in prose is fine.\nfn f() {\n");
    copy.append(file, "    std::env::var(\"HOME\");\n    std::process::exit(1);\n}\n");
    copy.expect("environment", file, 4);
    copy.expect("process-exit", file, 5);
    let file = "crates/local-stack/src/planted.rs";
    copy.append(
        file,
        "//! Planted.\nfn f() {\n    std::env::var(\"LOCAL_STACK_X\");\n    std::env::var(\"HOME\");\n}\n",
    );
    copy.expect("environment", file, 4);
    assert!(!copy.new_findings().iter().any(|finding| finding.file == Path::new(file) && finding.line == 3));
}

#[test]
fn a_call_that_is_handed_on_is_found_and_a_longer_word_is_not() {
    let copy = Copy::new();
    let file = "crates/resilience/src/planted.rs";
    copy.append(
        file,
        "//! Planted.\nfn f() {\n    [\"A\"].map(std::env::var);\n    let end = std::process::exit;\n",
    );
    copy.append(
        file,
        "    env::variable();\n    my_env::var();\n    process::exiting();\n    MyExitCode;\n}\n",
    );
    copy.expect("environment", file, 3);
    copy.expect("process-exit", file, 4);
    let found = copy.new_findings();
    assert_eq!(found.len(), 2, "{found:#?}");
}

#[test]
fn a_variable_is_read_right_behind_text_of_any_length() {
    let copy = Copy::new();
    let file = "crates/local-stack/src/planted.rs";
    copy.append(
        file,
        "//! Planted.\nfn f() {\n    g(\"größer – länger – 日本\", env::var(\"LOCAL_STACK_X\"));\n",
    );
    copy.append(file, "    g(\"größer – länger – 日本\", env::var(\"HOME\"));\n}\n");
    copy.expect("environment", file, 4);
    let found = copy.new_findings();
    assert!(found.len() == 1 && found[0].says.contains("HOME"), "{found:#?}");
}

#[test]
fn a_folder_of_sources_called_target_is_looked_into() {
    let copy = Copy::new();
    let file = "crates/resilience/src/target/bare.rs";
    copy.append(file, "fn f() {}\n");
    copy.expect("header", file, 1);
    copy.append("crates/resilience/target/debug/built.rs", "fn f() {}\n");
    assert_eq!(copy.new_findings().len(), 1);
}

#[test]
fn a_second_opener_of_postgres_connections_is_found() {
    let copy = Copy::new();
    let file = "crates/cache-manager/src/planted.rs";
    copy.append(file, "//! Planted.\nuse postgres_pool_manager::sqlx::{PgConnection, PgPool};\nfn f() {\n");
    copy.append(
        file,
        "    PgConnection::connect(\"\");\n    let o: sqlx::postgres::PgConnectOptions;\n    o.connect();\n",
    );
    copy.append(file, "    let of_ours: PgPoolLike;\n    fn on(c: &mut PgConnection) {}\n}\n");
    for line in [2, 4, 5] {
        copy.expect("connection", file, line);
    }
    copy.append("crates/cache-manager/tests/planted.rs", "//! Planted.\nuse sqlx::PgPool;\n");
    let found = copy.new_findings();
    assert_eq!(found.len(), 3, "{found:#?}");
}

#[test]
fn an_ignored_test_and_a_public_driver_type_are_found() {
    let copy = Copy::new();
    let file = "crates/redis-link/src/planted.rs";
    copy.append(file, "//! Planted.\n#[ignore = \"slow\"]\nfn f() {}\npub use fred::types::Value as V;\n");
    copy.expect("ignored-test", file, 2);
    copy.expect("private-type", file, 4);
}

#[test]
fn lints_of_its_own_and_a_crate_without_code_are_found() {
    let copy = Copy::new();
    copy.replace(
        "crates/resilience/Cargo.toml",
        "[lints]\nworkspace = true",
        "[lints.rust]\nunused = \"allow\"",
    );
    let text = fs::read_to_string(copy.path("crates/resilience/Cargo.toml")).expect("readable");
    let line = 1 + text.lines().position(|line| line == "[lints.rust]").expect("planted");
    copy.expect("lints", "crates/resilience/Cargo.toml", line);
    let manifest = "[package]\nname = \"hollow\"\nversion = \"0.0.0\"\nedition = \"2024\"\n\n[lints]\nworkspace = true\n";
    copy.append("crates/hollow/Cargo.toml", manifest);
    copy.append("crates/hollow/src/lib.rs", "//! Nothing yet.\n");
    copy.expect("unknown-crate", "crates/hollow/Cargo.toml", 2);
    copy.expect("empty-crate", "crates/hollow/Cargo.toml", 2);
}

#[test]
fn a_long_architecture_document_is_found() {
    let copy = Copy::new();
    copy.append("ARCHITECTURE.md", &"more\n".repeat(251));
    copy.expect("architecture-length", "ARCHITECTURE.md", 251);
}

#[test]
fn prose_and_literals_are_no_code() {
    let view = source::code_view(concat!(
        "a(\"x\\\"y\"); // b\n",
        "let c = '\"'; /* d /* e */ f */ g('\\'');\n",
        "let h: &'static str = r#\"i \"j\" k\"#; l(r\"m\");\n",
    ));
    let lines: Vec<String> = view.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines, ["a(\");", "letc=;g();", "leth:&'staticstr=r;l(r);"]);
}
