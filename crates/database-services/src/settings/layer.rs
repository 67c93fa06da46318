//! One layer of settings (defaults, file, a profile, the environment): names resolved, aliases compared, URLs
//! taken apart. A figment provider over a given map, so that values stay the text they were: figment's own
//! environment parser would turn `00123`, `true` or `[a]` into other types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use figment::value::{Dict, Map, Value};
use figment::{Metadata, Profile, Provider};

use super::problem::{Problem, Source};
use super::table::{self, Definition};
use super::url_parts;
use super::value::{Kind, Parsed, Unreadable};

/// A value as somebody gave it.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) definition: &'static Definition,
    /// The name that was used, as given.
    pub(super) name: String,
    pub(super) value: Value,
    pub(super) source: Source,
    /// The file that the value is the content of.
    pub(super) file: Option<PathBuf>,
}

/// The values of one layer, at most one a setting.
#[derive(Debug)]
pub(super) struct Layer {
    name: String,
    entries: BTreeMap<&'static str, Given>,
}

impl Layer {
    /// Takes what was given in one place; what contradicts itself goes to `problems`.
    pub(super) fn new(name: String, given: Vec<Given>, problems: &mut Vec<Problem>) -> Self {
        let mut layer = Self { name, entries: BTreeMap::new() };
        let mut bundles = Vec::new();
        for item in given {
            if url_parts::is_bundle(item.definition.key) && !is_unset(&item.value) {
                bundles.push(item.clone());
            }
            layer.add(item, problems);
        }
        for bundle in bundles {
            layer.take_apart(&bundle, problems);
        }
        layer
    }

    fn add(&mut self, item: Given, problems: &mut Vec<Problem>) {
        if is_unset(&item.value) {
            return;
        }
        let Some(first) = self.entries.get(item.definition.key) else {
            self.entries.insert(item.definition.key, item);
            return;
        };
        if !same(item.definition, &first.value, &item.value) {
            problems.push(contradiction(item.definition, first, &item));
        }
    }

    /// A URL stands for all of its parts: it replaces those of lower layers, and agrees with those of its own.
    fn take_apart(&mut self, bundle: &Given, problems: &mut Vec<Problem>) {
        let Some(text) = bundle.value.as_str() else { return };
        if bundle.definition.kind.parse(text).is_err() {
            return; // Reported when the value itself is read.
        }
        let parts = match url_parts::parse(bundle.definition.key, text) {
            Ok(parts) => parts,
            Err(Unreadable { message, mend }) => {
                let setting = bundle.definition.name.to_owned();
                problems.push(Problem { setting, source: bundle.source.clone(), message, mend });
                return;
            }
        };
        for (key, part) in parts {
            let Some(definition) = table::TABLE.iter().find(|d| d.key == key) else { continue };
            let item = Given { definition, value: Value::from(part.as_str()), ..bundle.clone() };
            match self.entries.get(key) {
                None => {
                    self.entries.insert(key, item);
                }
                Some(own) if part.is_empty() || same(definition, &own.value, &item.value) => {}
                Some(own) => problems.push(contradiction(definition, own, &item)),
            }
        }
    }

    pub(super) fn file_of(&self, key: &str) -> Option<&PathBuf> {
        self.entries.get(key)?.file.as_ref()
    }

    pub(super) fn source_of(&self, key: &str) -> Option<&Source> {
        self.entries.get(key).map(|given| &given.source)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }
}

impl Provider for Layer {
    fn metadata(&self) -> Metadata {
        Metadata::named(self.name.clone())
    }

    fn data(&self) -> Result<Map<Profile, Dict>, figment::Error> {
        let dict: Dict =
            self.entries.iter().map(|(key, given)| ((*key).to_owned(), given.value.clone())).collect();
        Ok(Map::from([(Profile::Default, dict)]))
    }
}

/// An empty text is the same as not being set: that is what `NAME=${NAME:-}` leaves.
pub(super) fn is_unset(value: &Value) -> bool {
    value.as_str().is_some_and(str::is_empty)
}

/// Reads a value of whatever type the layer had it in.
pub(super) fn read(kind: &Kind, value: &Value) -> Result<Parsed, Unreadable> {
    match (value, kind) {
        (Value::String(_, text), _) => kind.parse(text),
        (Value::Bool(_, b), Kind::Bool) => Ok(Parsed::Bool(*b)),
        (Value::Num(_, n), Kind::Int(..) | Kind::Float(..) | Kind::Duration(..) | Kind::Bytes(..)) => {
            match (n.to_u128(), n.to_i128(), n.to_f64()) {
                (Some(n), ..) => kind.parse(&n.to_string()),
                (_, Some(n), _) => kind.parse(&n.to_string()),
                (.., Some(n)) => kind.parse(&n.to_string()),
                _ => kind.parse("NaN"),
            }
        }
        (Value::Array(_, items), Kind::List) => {
            let texts: Option<Vec<String>> = items.iter().map(|v| v.as_str().map(str::to_owned)).collect();
            texts
                .map(Parsed::List)
                .ok_or_else(|| Unreadable::new("has an item that is not text", "write every item in quotes"))
        }
        (Value::Num(..) | Value::Bool(..), _) if !matches!(kind, Kind::Bool) => {
            Err(Unreadable::new("is a bare value where text is wanted", "write it in quotes"))
        }
        _ => Err(Unreadable::new("has the wrong type", format!("give {}", kind.forms()))),
    }
}

fn same(definition: &Definition, a: &Value, b: &Value) -> bool {
    match (read(&definition.kind, a), read(&definition.kind, b)) {
        (Ok(a), Ok(b)) => a == b,
        _ => a == b,
    }
}

fn contradiction(definition: &Definition, first: &Given, second: &Given) -> Problem {
    let told = |given: &Given| match read(&definition.kind, &given.value) {
        _ if definition.kind.is_secret() => given.name.clone(),
        Ok(parsed) => format!("{} says {}", given.name, parsed.shown()),
        Err(_) => given.name.clone(),
    };
    Problem {
        setting: definition.name.to_owned(),
        source: second.source.clone(),
        message: format!("{} and {} disagree", told(first), told(second)),
        mend: format!("keep one of {} and {}", first.name, second.name),
    }
}
