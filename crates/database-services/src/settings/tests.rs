//! Settings as an operator meets them.

mod golden;
mod layers;
mod names;
mod secrets;

use super::{Settings, SettingsErrors};

/// Settings from an environment alone.
fn env(pairs: &[(&str, &str)]) -> Result<Settings, SettingsErrors> {
    Settings::from_pairs(pairs.iter().copied())
}

fn file(text: &str) -> tempfile::NamedTempFile {
    let file = tempfile::Builder::new().suffix(".toml").tempfile().unwrap();
    std::fs::write(file.path(), text).unwrap();
    file
}
