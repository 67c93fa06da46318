//! `dbsvc config check|show|explain`: settings without starting anything.

use std::fmt::Write as _;

use database_services::settings::{self as db_settings, Note, Settings, Source, TABLE};
use serde_json::{Value, json};

use crate::cli::{ConfigCommand, SettingsArgs};
use crate::exit::{Exit, Failed, Outcome};
use crate::output::{Output, complain, table};
use crate::settings;

pub(crate) fn run(command: &ConfigCommand, output: Output) -> Outcome {
    match command {
        ConfigCommand::Check(args) => check(args, output),
        ConfigCommand::Show(args) => show(args, output),
        ConfigCommand::Explain { key, settings } => explain(key, settings, output),
    }
}

fn check(args: &SettingsArgs, output: Output) -> Outcome {
    let settings = settings::load(args)?;
    let notes = settings.notes();
    // A variable of another program is worth telling; a setting of ours that does nothing is a finding.
    let findings = notes.iter().filter(|note| is_ours(note)).count();
    let status = if findings == 0 { "ok" } else { "warning" };
    let listed: Vec<Value> = notes
        .iter()
        .map(|note| json!({"setting": note.setting, "source": note.source.to_string(), "message": note.message}))
        .collect();
    let given = settings.show().iter().filter(|shown| shown.source != Source::Default).count();
    let mut text = format!("settings are fine: {given} given, the rest by default");
    for note in notes {
        let _infallible = write!(text, "\nnote: {} ({}) {}", note.setting, note.source, note.message);
    }
    output.either(&json!({"status": status, "problems": [], "notes": listed}), &text)?;
    Ok(if findings == 0 { Exit::Fine } else { Exit::Warning })
}

fn is_ours(note: &Note) -> bool {
    TABLE.iter().any(|definition| definition.name == note.setting)
}

fn show(args: &SettingsArgs, output: Output) -> Outcome {
    let shown = settings::load(args)?.show();
    let json: Vec<Value> = shown
        .iter()
        .map(|one| {
            json!({"name": one.name, "value": one.value, "source": one.source.to_string(), "group": one.group})
        })
        .collect();
    let rows = shown.iter().map(|one| vec![one.name.to_owned(), plain(&one.value), one.source.to_string()]);
    output.either(&Value::Array(json), &table(&["setting", "value", "source"], rows))?;
    Ok(Exit::Fine)
}

fn explain(key: &str, args: &SettingsArgs, output: Output) -> Outcome {
    let explained = db_settings::explain(key).map_err(Failed::usage)?;
    let mut json = serde_json::to_value(&explained).map_err(anyhow::Error::from)?;
    let mut text = explained.to_string();
    match Settings::load(&settings::options(args)) {
        Ok(settings) => {
            if let Some(now) = settings.show().into_iter().find(|shown| shown.name == explained.name) {
                let _infallible = write!(text, "\n  now      {} ({})", plain(&now.value), now.source);
                json["value"] = now.value;
                json["source"] = json!(now.source.to_string());
            }
        }
        // What a setting means can be told all the same.
        Err(_) => complain(
            "dbsvc: its value now is not known: the settings have problems, see `dbsvc config check`",
        ),
    }
    output.either(&json, &text)?;
    Ok(Exit::Fine)
}

fn plain(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
