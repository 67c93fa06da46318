//! Where the workspace is and how its commands are run: printed first, with a clean cargo environment.
//!
//! Not a shell: no pipes, no quoting, no globbing.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};

use anyhow::{Context as _, Result};

/// Set by `cargo run` for this program. Left in place they reach the build scripts of a nested cargo, which then
/// look changed, and C code is compiled anew on every call.
const SET_BY_CARGO_RUN: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_"];

/// The folder of the root `Cargo.toml`.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// The cargo that runs us, in the root folder.
pub(crate) fn cargo<S: AsRef<OsStr>>(args: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(args).current_dir(root());
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| SET_BY_CARGO_RUN.iter().any(|prefix| name.starts_with(prefix))) {
            command.env_remove(name);
        }
    }
    command
}

/// Where cargo puts what it builds.
pub(crate) fn target_dir() -> Result<PathBuf> {
    let metadata = cargo_metadata::MetadataCommand::new()
        .current_dir(root())
        .no_deps()
        .exec()
        .context("cargo metadata failed")?;
    Ok(metadata.target_directory.into_std_path_buf())
}

/// Prints the command on stderr and runs it to its end, its output going where ours goes.
pub(crate) fn run(mut command: Command) -> Result<ExitStatus> {
    eprintln!("$ {}", shown(&command));
    command.status().with_context(|| format!("cannot run `{}`", shown(&command)))
}

/// As [`run`]; a status other than 0 is an error.
pub(crate) fn run_ok(command: Command) -> Result<()> {
    let line = shown(&command);
    let status = run(command)?;
    anyhow::ensure!(status.success(), "`{line}`: {status}");
    Ok(())
}

/// An exit status as our own exit code: a signal becomes 128 + its number, as shells have it.
pub(crate) fn code(status: ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt as _;
    let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

/// The commit that is checked out, with `-dirty` when the tree differs from it.
pub(crate) fn commit() -> String {
    let output = Command::new("git")
        .args(["describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"])
        .current_dir(root())
        .output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}

/// The command as a person would type it in the root folder.
fn shown(command: &Command) -> String {
    let program = Path::new(command.get_program()).file_name().unwrap_or(command.get_program());
    let mut line: Vec<String> = command
        .get_envs()
        .filter_map(|(name, value)| Some(format!("{}={:?}", name.to_string_lossy(), value?)))
        .collect();
    line.push(program.to_string_lossy().into_owned());
    line.extend(command.get_args().map(|arg| arg.to_string_lossy().into_owned()));
    line.join(" ")
}
