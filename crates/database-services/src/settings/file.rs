//! Reads a settings file or an embedded profile (TOML) into what was given where, with line numbers. It decides
//! nothing about the values.

use std::path::Path;

use figment::value::Value;
use toml::de::{DeTable, DeValue};

use super::layer::Given;
use super::names::{self, Name};
use super::problem::{Problem, Source};

/// The profiles, embedded so that the binary needs no file.
const PROFILES: &[(&str, &str)] = &[
    ("development", include_str!("../../../../config/development.toml")),
    ("production", include_str!("../../../../config/production.toml")),
    ("high-traffic", include_str!("../../../../config/high-traffic.toml")),
    ("memory-constrained", include_str!("../../../../config/memory-constrained.toml")),
    ("ultra-low-latency", include_str!("../../../../config/ultra-low-latency.toml")),
];

/// The names of the profiles that are built in.
pub fn profile_names() -> impl Iterator<Item = &'static str> {
    PROFILES.iter().map(|(name, _)| *name)
}

/// What profile `name` gives.
pub(super) fn profile(name: &str, problems: &mut Vec<Problem>) -> Vec<Given> {
    let wanted = name.replace('_', "-").to_ascii_lowercase();
    let Some((name, text)) = PROFILES.iter().find(|(known, _)| *known == wanted) else {
        let known: Vec<_> = profile_names().collect();
        problems.push(Problem {
            setting: "DATABASE_SERVICES_PROFILE".to_owned(),
            source: Source::Profile { name: name.to_owned() },
            message: format!("there is no profile {name:?}"),
            mend: format!("use one of {}", known.join(", ")),
        });
        return Vec::new();
    };
    read(text, &|_, _| Source::Profile { name: (*name).to_owned() }, problems)
}

/// What the file gives.
pub(super) fn file(path: &Path, problems: &mut Vec<Problem>) -> Vec<Given> {
    let shown = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => read(
            &text,
            &|line, key| Source::File { path: shown.clone(), line, key: key.to_owned() },
            problems,
        ),
        Err(error) => {
            problems.push(Problem {
                setting: "DATABASE_SERVICES_FILE".to_owned(),
                source: Source::File { path: shown, line: 0, key: String::new() },
                message: format!("the settings file cannot be read: {error}"),
                mend: "give the path of a readable TOML file".to_owned(),
            });
            Vec::new()
        }
    }
}

type SourceAt<'a> = &'a dyn Fn(usize, &str) -> Source;

fn read(text: &str, source: SourceAt<'_>, problems: &mut Vec<Problem>) -> Vec<Given> {
    let line = |offset: usize| text.bytes().take(offset).filter(|b| *b == b'\n').count() + 1;
    let table = match DeTable::parse(text) {
        Ok(table) => table,
        Err(error) => {
            problems.push(Problem {
                setting: "DATABASE_SERVICES_FILE".to_owned(),
                source: source(error.span().map_or(0, |span| line(span.start)), ""),
                message: format!("is not TOML: {}", error.message()),
                mend: "correct that line".to_owned(),
            });
            return Vec::new();
        }
    };
    let mut given = Vec::new();
    walk(table.get_ref(), "", &line, source, &mut given, problems);
    given
}

fn walk(
    table: &DeTable<'_>,
    prefix: &str,
    line: &dyn Fn(usize) -> usize,
    source: SourceAt<'_>,
    given: &mut Vec<Given>,
    problems: &mut Vec<Problem>,
) {
    for (key, value) in table {
        let path =
            if prefix.is_empty() { key.get_ref().to_string() } else { format!("{prefix}.{}", key.get_ref()) };
        if let DeValue::Table(inner) = value.get_ref() {
            walk(inner, &path, line, source, given, problems);
            continue;
        }
        let source = source(line(value.span().start), &path);
        match names::judge_key(&path) {
            Name::Known { definition, file } => {
                let value = convert(value.get_ref());
                given.extend(super::load::resolve(definition, path, value, file, source, problems));
            }
            Name::Unknown { nearest } | Name::Foreign { nearest, .. } => {
                problems.push(super::load::unknown(&path, nearest, source));
            }
            Name::Other => {}
        }
    }
}

/// Anything that has no counterpart (a date) becomes its text.
fn convert(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::from(text.as_ref()),
        DeValue::Boolean(b) => Value::from(*b),
        DeValue::Integer(n) => match i64::from_str_radix(n.as_str(), n.radix()) {
            Ok(n) => Value::from(n),
            Err(_) => Value::from(n.as_str()),
        },
        DeValue::Float(n) => match n.as_str().parse::<f64>() {
            Ok(n) => Value::from(n),
            Err(_) => Value::from(n.as_str()),
        },
        DeValue::Array(items) => Value::from(items.iter().map(|v| convert(v.get_ref())).collect::<Vec<_>>()),
        DeValue::Datetime(date) => Value::from(date.to_string()),
        DeValue::Table(_) => Value::from("a table"),
    }
}
