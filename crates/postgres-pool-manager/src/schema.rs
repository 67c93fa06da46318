//! The schema of the system's own tables: a validated name, and SQL text that is qualified with it.

use crate::{Error, error::Problem};
use std::{fmt, sync::Arc};

/// A validated schema name. Cheap to clone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Schema {
    name: Arc<str>,
}

impl Schema {
    /// The name used unless set otherwise.
    pub const DEFAULT: &'static str = "database_services";

    /// Accepts 1 to 63 of `a-z A-Z 0-9 _`, not starting with a digit or `pg_`: names that read the same quoted
    /// and unquoted in every tool that an operator may use.
    ///
    /// # Errors
    /// [`Error::Invalid`] that says which rule is broken.
    pub fn new(name: &str) -> Result<Self, Error> {
        let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        let reason = if name.is_empty() || name.len() > 63 {
            "has to have 1 to 63 characters"
        } else if !plain || name.as_bytes()[0].is_ascii_digit() {
            "may hold letters, digits and _ only, and not start with a digit"
        } else if name.starts_with("pg_") || name == "information_schema" {
            "is reserved by Postgres"
        } else {
            return Ok(Self { name: name.into() });
        };
        let problem = Problem { setting: "schema".into(), message: format!("schema name {name:?} {reason}") };
        Err(Error::Invalid(vec![problem]))
    }

    /// The bare name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The name as a quoted identifier.
    #[must_use]
    pub fn quoted(&self) -> String {
        quote_ident(&self.name)
    }

    /// `"schema"."table"`, both quoted: safe to put into SQL text.
    #[must_use]
    pub fn table(&self, table: &str) -> String {
        format!("{}.{}", self.quoted(), quote_ident(table))
    }

    /// `template` with each `{schema}` replaced by the quoted name.
    #[must_use]
    pub fn sql(&self, template: &str) -> String {
        template.replace("{schema}", &self.quoted())
    }
}

impl Default for Schema {
    fn default() -> Self {
        Self { name: Self::DEFAULT.into() }
    }
}

impl fmt::Display for Schema {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

pub(crate) fn quote_ident(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_quoted() {
        for bad in ["", "1a", "a b", "a\"b", "pg_x", "information_schema", "é", &"x".repeat(64)] {
            assert!(Schema::new(bad).is_err(), "{bad:?}");
        }
        let schema = Schema::new("Own_1").unwrap();
        assert_eq!(schema.table("a\"b"), r#""Own_1"."a""b""#);
        assert_eq!(schema.sql("SELECT {schema}.f(), '{schema}'"), r#"SELECT "Own_1".f(), '"Own_1"'"#);
    }
}
