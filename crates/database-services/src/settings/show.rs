//! What `config show` and `config explain` print, and the reference in the documentation. Secrets are three stars.

use std::fmt::Write as _;

use serde::Serialize;

use super::problem::Source;
use super::table::{self, Group};
use super::{Settings, names};

/// One setting with its value.
#[derive(Clone, Debug, Serialize)]
pub struct Shown {
    /// Its name.
    pub name: &'static str,
    /// Its value; `null` if unset, `"***"` if secret.
    pub value: serde_json::Value,
    /// Where the value came from.
    pub source: Source,
    /// The part of the service that it belongs to.
    pub group: Group,
}

impl Settings {
    /// Every setting with its value and where it came from; secrets redacted.
    pub fn show(&self) -> Vec<Shown> {
        let shown = |d: &table::Definition| Shown {
            name: d.name,
            value: self.value(d.key).map_or(serde_json::Value::Null, |v| v.shown()),
            source: self.source(d.key),
            group: d.group,
        };
        table::TABLE.iter().map(shown).collect()
    }
}

/// Everything about one setting.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// Its name in the environment.
    pub name: &'static str,
    /// Other names of it.
    pub aliases: Vec<&'static str>,
    /// Its key in a TOML file.
    pub key: &'static str,
    /// The accepted forms.
    pub accepts: String,
    /// The default as it would be written; `None`: unset.
    pub default: Option<&'static str>,
    /// What it means.
    pub doc: &'static str,
    /// Never shown; also read from a file named by `NAME_FILE`.
    pub secret: bool,
    /// The part of the service that it belongs to.
    pub group: Group,
    /// The first version that knew it.
    pub since: &'static str,
    /// Why setting it does nothing, or is refused, in this version.
    pub not_yet: Option<&'static str>,
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{}: {}", self.name, self.doc)?;
        writeln!(f, "  accepts  {}", self.accepts)?;
        writeln!(f, "  default  {}", self.default.unwrap_or("unset"))?;
        writeln!(f, "  in TOML  {}", self.key)?;
        let prefixed =
            (!self.name.starts_with(table::PREFIX)).then(|| format!("{}{}", table::PREFIX, self.name));
        let aliases: Vec<_> =
            prefixed.into_iter().chain(self.aliases.iter().map(|a| (*a).to_owned())).collect();
        if !aliases.is_empty() {
            writeln!(f, "  aliases  {}", aliases.join(", "))?;
        }
        if self.secret {
            writeln!(f, "  secret   also from the file that {}_FILE names; never shown", self.name)?;
        }
        if let Some(reason) = self.not_yet {
            writeln!(f, "  not yet  {reason}")?;
        }
        write!(f, "  since    {}", self.since)
    }
}

/// There is no such setting.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name} is not a setting; did you mean {nearest}?")]
pub struct UnknownSetting {
    /// The name that was asked for.
    pub name: String,
    /// The known name that is most like it.
    pub nearest: &'static str,
}

/// Explains a setting by its name, an alias or its file key.
pub fn explain(name: &str) -> Result<Explanation, UnknownSetting> {
    let bare =
        name.trim().strip_suffix("_FILE").filter(|n| table::find(n).is_some_and(|d| d.kind.is_secret()));
    let found = table::find(name).or_else(|| table::find(bare?));
    let d = found.ok_or_else(|| UnknownSetting { name: name.to_owned(), nearest: names::nearest(name) })?;
    Ok(Explanation {
        name: d.name,
        aliases: d.aliases.to_vec(),
        key: d.key,
        accepts: d.kind.forms(),
        default: d.default,
        doc: d.doc,
        secret: d.kind.is_secret(),
        group: d.group,
        since: d.since,
        not_yet: d.refused.or(d.inert),
    })
}

/// The reference of all settings as a Markdown table.
pub fn reference() -> String {
    let mut text =
        String::from("| setting | aliases | default | accepts | meaning |\n|---|---|---|---|---|\n");
    for d in table::TABLE {
        let aliases: Vec<_> = d.aliases.iter().map(|a| format!("`{a}`")).collect();
        let default = d.default.map_or_else(|| "–".to_owned(), |v| format!("`{v}`"));
        let yet = d.refused.or(d.inert).map(|r| format!(" (Not yet: {r}.)")).unwrap_or_default();
        let accepts = d.kind.forms().replace('|', "\\|");
        let _ = writeln!(
            text,
            "| `{}` | {} | {default} | {accepts} | {}{yet} |",
            d.name,
            aliases.join(", "),
            d.doc
        );
    }
    text
}
