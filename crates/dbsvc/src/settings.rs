//! Loading settings for a command: environment, `--config`, `--profile`; what is wrong becomes exit code 64.

use database_services::settings::{LoadOptions, Settings, SettingsErrors};
use serde_json::{Value, json};

use crate::cli::SettingsArgs;
use crate::exit::{Exit, Failed};
use crate::preflight;

/// Where to load from.
pub(crate) fn options(args: &SettingsArgs) -> LoadOptions {
    let mut options = LoadOptions::from_env().check_also(preflight::problems);
    if let Some(file) = &args.config {
        options = options.file(file);
    }
    if let Some(profile) = &args.profile {
        options = options.profile(profile);
    }
    options
}

/// Loads and checks.
pub(crate) fn load(args: &SettingsArgs) -> Result<Settings, Failed> {
    Settings::load(&options(args)).map_err(|errors| failed(&errors))
}

/// All problems as one failure.
pub(crate) fn failed(errors: &SettingsErrors) -> Failed {
    Failed::new(Exit::Usage, anyhow::anyhow!("{errors}")).with_report(report(errors))
}

fn report(errors: &SettingsErrors) -> Value {
    let problems: Vec<Value> = errors
        .problems
        .iter()
        .map(|problem| {
            json!({
                "setting": problem.setting,
                "source": problem.source.to_string(),
                "message": problem.message,
                "mend": problem.mend,
            })
        })
        .collect();
    json!({"status": "failed", "exit": Exit::Usage as u8, "problems": problems})
}
