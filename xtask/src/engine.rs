//! The container engine as its command line shows it: whether it answers, which images it has. Not here: running
//! containers, which is `local-stack`'s.

use std::process::{Command, Stdio};

use anyhow::Result;

use crate::servers;

/// Makes sure that an engine answers; otherwise an error that says how to get one. Its version.
pub(crate) fn require() -> Result<String> {
    let missing = |message: String| {
        servers::missing(format!(
            "{message}; containers need Docker: sudo apt-get install -y docker.io, then sudo systemctl start docker \
             (or sudo dockerd)"
        ))
    };
    let output = Command::new("docker")
        .args(["version", "--format", "{{.Server.Version}}"])
        .stdin(Stdio::null())
        .output()
        .map_err(|error| missing(format!("the command docker cannot be run ({error})")))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(missing(format!(
        "no container engine answers ({})",
        said.trim().lines().last().unwrap_or("it said nothing")
    )))
}

/// Whether the engine has the image already.
pub(crate) fn has_image(name: &str) -> bool {
    let mut inspect = Command::new("docker");
    inspect.args(["image", "inspect", name]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    inspect.status().is_ok_and(|status| status.success())
}
