//! What can be wrong with settings, told so that the mend is clear. Never holds a secret's text.

use std::fmt;

use serde::Serialize;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Source {
    /// The built-in default.
    Default,
    /// The settings file.
    File {
        /// Its path as given.
        path: String,
        /// The line that holds the value, from 1.
        line: usize,
        /// The key as written there.
        key: String,
    },
    /// A profile.
    Profile {
        /// Its name.
        name: String,
    },
    /// An environment variable.
    Env {
        /// Its name as given.
        name: String,
    },
    /// An override given to a program that runs.
    Override {
        /// Its name as given.
        name: String,
    },
    /// The settings taken together.
    Combination,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line: 0, .. } => write!(f, "file {path}"),
            Self::File { path, line, .. } => write!(f, "file {path}:{line}"),
            Self::Profile { name } => write!(f, "profile {name}"),
            Self::Env { name } => write!(f, "environment variable {name}"),
            Self::Override { name } => write!(f, "override {name}"),
            Self::Combination => f.write_str("settings together"),
        }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The setting's name.
    pub setting: String,
    /// Where its value came from.
    pub source: Source,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub mend: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({}): {}; {}", self.setting, self.source, self.message, self.mend)
    }
}

/// Every problem that was found, in the order of the table. Never empty.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SettingsErrors {
    /// The problems.
    pub problems: Vec<Problem>,
}

impl fmt::Display for SettingsErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.problems.len() {
            1 => f.write_str("1 problem in the settings")?,
            n => write!(f, "{n} problems in the settings")?,
        }
        for problem in &self.problems {
            write!(f, "\n  {problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for SettingsErrors {}

impl SettingsErrors {
    /// Never: the same settings fail the same way.
    pub const fn is_retryable(&self) -> bool {
        false
    }
}
