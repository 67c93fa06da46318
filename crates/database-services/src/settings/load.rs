//! Loading: defaults < file < profile < environment < overrides, every problem reported at once. The only reader of the
//! process environment is [`LoadOptions::from_env`].

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use figment::Figment;
use figment::value::Value;

use super::layer::{self, Given, Layer};
use super::names::{self, Name};
use super::problem::{Problem, SettingsErrors, Source};
use super::table::{self, Definition, Values};
use super::value::{Parsed, Unreadable};
use super::{Inner, Settings, check, file};

/// A check of a program's own.
type Check = fn(&Settings) -> Vec<Problem>;

/// What to load settings from.
#[derive(Clone, Default)]
pub struct LoadOptions {
    env: BTreeMap<String, String>,
    file: Option<PathBuf>,
    profile: Option<String>,
    over: BTreeMap<String, String>,
    also: Option<Check>,
    unreadable: Vec<String>,
}

impl std::fmt::Debug for LoadOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names: Vec<_> = self.env.keys().collect();
        let over: Vec<_> = self.over.keys().collect();
        let mut shown = f.debug_struct("LoadOptions");
        shown.field("env", &names).field("over", &over).field("file", &self.file).finish_non_exhaustive()
    }
}

impl LoadOptions {
    /// Nothing but the defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// The environment of this process. A binary's convenience: libraries take settings as values.
    pub fn from_env() -> Self {
        Self::default().env_os(std::env::vars_os())
    }

    /// Adds variables to the environment layer.
    #[must_use]
    pub fn env<K: Into<String>, V: Into<String>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        self.env.extend(vars.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// Overrides in a layer above the environment, which they need not agree with. Every name must be a setting.
    #[must_use]
    pub fn over<K: Into<String>, V: Into<String>>(mut self, vars: impl IntoIterator<Item = (K, V)>) -> Self {
        self.over.extend(vars.into_iter().map(|(k, v)| (k.into(), v.into())));
        self
    }

    /// A program's own check, whose problems are reported with the others: a setting that has one already gets no
    /// second.
    #[must_use]
    pub fn check_also(mut self, check: fn(&Settings) -> Vec<Problem>) -> Self {
        self.also = Some(check);
        self
    }

    fn env_os(mut self, vars: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        for (name, value) in vars {
            match (name.into_string(), value.into_string()) {
                (Ok(name), Ok(value)) => {
                    self.env.insert(name, value);
                }
                (Ok(name), Err(_)) => self.unreadable.push(name),
                (Err(_), _) => {} // No name of ours.
            }
        }
        self
    }

    /// Reads this TOML file too (instead of the one that `DATABASE_SERVICES_FILE` names).
    #[must_use]
    pub fn file(mut self, path: impl Into<PathBuf>) -> Self {
        self.file = Some(path.into());
        self
    }

    /// Lays these profiles, comma-separated, over the file (instead of `DATABASE_SERVICES_PROFILE`).
    #[must_use]
    pub fn profile(mut self, names: impl Into<String>) -> Self {
        self.profile = Some(names.into());
        self
    }
}

/// A value that is set without doing what it says, or that we do not know but leave alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Note {
    /// The setting's, or the variable's, name.
    pub setting: String,
    /// Where it was set.
    pub source: Source,
    /// What is to be known about it.
    pub message: String,
}

pub(super) fn load(options: &LoadOptions) -> Result<Settings, SettingsErrors> {
    let mut problems = Vec::new();
    let mut notes = Vec::new();
    let env = read_env(options, &mut problems, &mut notes);
    let over = read_over(options, &mut problems);
    let (path, profiles) = chosen(options, &over, &env);
    let mut layers = vec![Layer::new("defaults".to_owned(), defaults(), &mut problems)];
    if let Some(path) = path {
        let given = file::file(Path::new(&path), &mut problems);
        layers.push(Layer::new("file".to_owned(), given, &mut problems));
    }
    for name in &profiles {
        let given = file::profile(name, &mut problems);
        layers.push(Layer::new(format!("profile {name}"), given, &mut problems));
    }
    layers.push(Layer::new("environment".to_owned(), env, &mut problems));
    layers.push(Layer::new("overrides".to_owned(), over, &mut problems));

    let merged = layers.iter().fold(Figment::new(), |merged, layer| merged.merge(layer));
    let mut parsed = BTreeMap::new();
    let mut sources = BTreeMap::new();
    let mut files = BTreeMap::new();
    for definition in table::TABLE {
        let Some((value, source, file)) = winner(&merged, &layers, definition) else { continue };
        match layer::read(&definition.kind, &value) {
            Ok(value) => {
                judge_support(definition, &source, &value, &mut problems, &mut notes);
                parsed.insert(definition.key, value);
                sources.insert(definition.key, source);
                files.extend(file.map(|file| (definition.key, file)));
            }
            Err(Unreadable { message, mend }) => {
                problems.push(Problem { setting: definition.name.to_owned(), source, message, mend });
                // The checks between settings go on with the default, so that this makes no second problem.
                let default = definition.default.and_then(|text| definition.kind.parse(text).ok());
                parsed.extend(default.map(|value| (definition.key, value)));
            }
        }
    }
    let values = Values::from_lookup(|key| parsed.get(key).cloned());
    let settings = Settings(Arc::new(Inner { values, parsed, sources, files, notes }));
    check::all(&settings, &mut problems);
    for problem in options.also.into_iter().flat_map(|check| check(&settings)) {
        if problems.iter().all(|known| known.setting != problem.setting) {
            problems.push(problem);
        }
    }
    if problems.is_empty() {
        Ok(settings)
    } else {
        Err(SettingsErrors { problems: in_table_order(problems) })
    }
}

/// The value that stands after all layers; an empty one means the default, or none.
fn winner(
    merged: &Figment,
    layers: &[Layer],
    definition: &'static Definition,
) -> Option<(Value, Source, Option<PathBuf>)> {
    let value = merged.find_value(definition.key).ok()?;
    if layer::is_unset(&value) {
        return Some((definition.default?.into(), Source::Default, None));
    }
    let name = merged.get_metadata(value.tag())?.name.to_string();
    let layer = layers.iter().find(|l| l.name() == name)?;
    let source = layer.source_of(definition.key)?.clone();
    Some((value, source, layer.file_of(definition.key).cloned()))
}

fn defaults() -> Vec<Given> {
    let given = |definition: &'static Definition| {
        let value = Value::from(definition.default?);
        Some(Given {
            definition,
            name: definition.name.to_owned(),
            value,
            source: Source::Default,
            file: None,
        })
    };
    table::TABLE.iter().filter_map(given).collect()
}

fn read_env(options: &LoadOptions, problems: &mut Vec<Problem>, notes: &mut Vec<Note>) -> Vec<Given> {
    let ignored = options.env.get("DATABASE_SERVICES_IGNORE").map(String::as_str).unwrap_or_default();
    let mut given = Vec::new();
    for (name, value) in &options.env {
        if ignored.split(',').any(|i| i.trim() == name) {
            continue;
        }
        let source = Source::Env { name: name.clone() };
        match names::judge(name, value) {
            Name::Known { definition, file } => {
                given.extend(resolve(
                    definition,
                    name.clone(),
                    value.as_str().into(),
                    file,
                    source,
                    problems,
                ));
            }
            Name::Unknown { nearest } => {
                let mut problem = unknown(name, nearest, source);
                problem
                    .mend
                    .push_str(", or list it in DATABASE_SERVICES_IGNORE if it belongs to another program");
                problems.push(problem);
            }
            Name::Foreign { nearest, slip } => {
                let hint = if slip {
                    format!("; did you mean {nearest}?")
                } else {
                    format!(" (nearest: {nearest})")
                };
                let message = format!("is not a setting of this service and is left alone{hint}");
                notes.push(Note { setting: name.clone(), source, message });
            }
            Name::Other => {}
        }
    }
    for name in &options.unreadable {
        if matches!(names::judge(name, ""), Name::Known { .. } | Name::Unknown { .. }) {
            problems.push(Problem {
                setting: name.clone(),
                source: Source::Env { name: name.clone() },
                message: "is not valid UTF-8".to_owned(),
                mend: "give it as UTF-8 text".to_owned(),
            });
        }
    }
    given
}

/// Overrides are meant for us: there every name must be known.
fn read_over(options: &LoadOptions, problems: &mut Vec<Problem>) -> Vec<Given> {
    let mut given = Vec::new();
    for (name, value) in &options.over {
        let source = Source::Override { name: name.clone() };
        match names::judge_key(name) {
            Name::Known { definition, file } => {
                let value = value.as_str().into();
                given.extend(resolve(definition, name.clone(), value, file, source, problems));
            }
            Name::Unknown { nearest } | Name::Foreign { nearest, .. } => {
                problems.push(unknown(name, nearest, source));
            }
            Name::Other => {}
        }
    }
    given
}

/// What a name and its value give; for `NAME_FILE` the file's content without its last line break.
pub(super) fn resolve(
    definition: &'static Definition,
    name: String,
    value: Value,
    from_file: bool,
    source: Source,
    problems: &mut Vec<Problem>,
) -> Option<Given> {
    if !from_file || layer::is_unset(&value) {
        return (!from_file).then_some(Given { definition, name, value, source, file: None });
    }
    let path = value.as_str().unwrap_or_default().to_owned();
    let content = std::fs::read_to_string(&path).map_err(|error| error.to_string());
    match content.as_deref().map(|text| text.trim_end_matches(['\r', '\n'])) {
        Ok("") => {}
        Ok(secret) => {
            let (value, file) = (Value::from(secret), Some(PathBuf::from(path)));
            return Some(Given { definition, name, value, source, file });
        }
        Err(_) => {}
    }
    problems.push(Problem {
        setting: definition.name.to_owned(),
        source,
        message: match content {
            Ok(_) => format!("the file {path:?} that {name} names is empty"),
            Err(error) => format!("the file {path:?} that {name} names cannot be read: {error}"),
        },
        mend: format!("write the secret into that file and make it readable, or set {}", definition.name),
    });
    None
}

pub(super) fn unknown(name: &str, nearest: &str, source: Source) -> Problem {
    Problem {
        setting: name.to_owned(),
        source,
        message: "is not a setting".to_owned(),
        mend: format!("did you mean {nearest}? Correct or remove it"),
    }
}

/// The file and the profiles: what an override says, else the options, else the environment.
fn chosen(options: &LoadOptions, over: &[Given], env: &[Given]) -> (Option<String>, Vec<String>) {
    let from = |layer: &[Given], key: &str| {
        let given = layer.iter().find(|given| given.definition.key == key)?;
        given.value.as_str().map(str::to_owned).filter(|text| !text.is_empty())
    };
    let named = options.file.as_ref().map(|p| p.display().to_string());
    let path = from(over, "file").or(named).or_else(|| from(env, "file"));
    let profiles = from(over, "profile").or_else(|| options.profile.clone()).or_else(|| from(env, "profile"));
    let profiles = profiles.unwrap_or_default();
    let names = profiles.split(',').map(str::trim).filter(|name| !name.is_empty());
    (path, names.map(str::to_owned).collect())
}

/// A setting that does nothing yet is refused or noted, never silently ignored.
fn judge_support(
    definition: &Definition,
    source: &Source,
    value: &Parsed,
    problems: &mut Vec<Problem>,
    notes: &mut Vec<Note>,
) {
    if *source == Source::Default || *value == Parsed::Bool(false) {
        return;
    }
    let setting = definition.name.to_owned();
    if let Some(reason) = definition.refused {
        let mend = format!("remove {setting}");
        problems.push(Problem { setting, source: source.clone(), message: reason.to_owned(), mend });
    } else if let Some(reason) = definition.inert {
        notes.push(Note { setting, source: source.clone(), message: format!("has no effect: {reason}") });
    }
}

/// Sorted as the table is, unknown names last; within one setting as found.
fn in_table_order(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.sort_by_key(|p| table::TABLE.iter().position(|d| d.name == p.setting).unwrap_or(usize::MAX));
    problems
}
