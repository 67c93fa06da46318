//! Names of channels and patterns over them. Matching is exact and ours; a bus may deliver too much, never too little.

use crate::Error;
use serde::{Deserialize, Serialize};
use std::{fmt, sync::Arc};

/// Longest name in bytes.
const MAX_BYTES: usize = 255;

/// The name of one channel: tokens of visible characters separated by dots, as in `orders.created`.
///
/// 1 to 255 bytes; no empty token, no white space, no control characters, no `*` and no `>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Subject(Arc<str>);

impl Subject {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`] with the rule that it breaks.
    pub fn new(name: &str) -> Result<Self, Error> {
        check(name)?;
        if name.contains(['*', '>']) {
            return Err(invalid(name, "a wildcard is for subscribe_pattern; a channel has one name"));
        }
        Ok(Self(name.into()))
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which of three separate sets of channels a name belongs to. The same name in two lanes is two channels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Lane {
    /// Messages in envelopes, for every process that wants them. The default.
    #[default]
    Plain,
    /// The same, but on a cluster only the channel's own shard carries them. Patterns do not reach them.
    Sharded,
    /// Payloads as they are, for peers that know nothing of envelopes.
    Raw,
}

/// What a subscription asks for: one subject, or all that match a pattern, in one lane.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Filter {
    text: Arc<str>,
    wildcard: bool,
    lane: Lane,
}

impl Filter {
    /// A pattern: the token `*` stands for exactly one token, a last token `>` for one or more.
    /// Without either it is the exact name.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`] with the rule that it breaks.
    pub fn new(pattern: &str) -> Result<Self, Error> {
        check(pattern)?;
        let mut wildcard = false;
        let mut tokens = pattern.split('.').peekable();
        while let Some(token) = tokens.next() {
            match token {
                "*" => wildcard = true,
                ">" if tokens.peek().is_none() => wildcard = true,
                ">" => return Err(invalid(pattern, "`>` may only be the last token")),
                _ if token.contains(['*', '>']) => {
                    return Err(invalid(pattern, "a wildcard stands for a whole token"));
                }
                _ => {}
            }
        }
        Ok(Self { text: pattern.into(), wildcard, lane: Lane::Plain })
    }

    /// Exactly `subject`.
    #[must_use]
    pub fn exact(lane: Lane, subject: &Subject) -> Self {
        Self { text: Arc::clone(&subject.0), wildcard: false, lane }
    }

    /// The same over another lane.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`] for a pattern over sharded channels: no server matches patterns over shards.
    pub fn over(self, lane: Lane) -> Result<Self, Error> {
        if self.wildcard && lane == Lane::Sharded {
            return Err(invalid(&self.text, "sharded channels have no patterns"));
        }
        Ok(Self { lane, ..self })
    }

    /// The lane.
    #[must_use]
    pub const fn lane(&self) -> Lane {
        self.lane
    }

    /// The pattern's text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether it can match more than one subject.
    #[must_use]
    pub const fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Whether `subject` is asked for.
    #[must_use]
    pub fn matches(&self, subject: &str) -> bool {
        if !self.wildcard {
            return &*self.text == subject;
        }
        let mut tokens = subject.split('.');
        for wanted in self.text.split('.') {
            match (wanted, tokens.next()) {
                (">", Some(_)) => return true,
                ("*", Some(_)) => {}
                (wanted, Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
        tokens.next().is_none()
    }

    /// A glob that matches at least what this filter matches: `*` for a wildcard, everything else literal.
    #[must_use]
    pub fn glob(&self) -> String {
        let mut glob = String::with_capacity(self.text.len() + 4);
        for character in self.text.chars() {
            match character {
                '>' => glob.push('*'),
                '?' | '[' | ']' | '\\' | '^' => {
                    glob.push('\\');
                    glob.push(character);
                }
                _ => glob.push(character),
            }
        }
        glob
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

fn check(name: &str) -> Result<(), Error> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.len() > MAX_BYTES {
        "it is over 255 bytes"
    } else if name.chars().any(|c| c.is_whitespace() || c.is_control()) {
        "white space and control characters are not allowed"
    } else if name.split('.').any(str::is_empty) {
        "a token between dots is empty"
    } else {
        return Ok(());
    };
    Err(invalid(name, reason))
}

fn invalid(subject: &str, reason: &'static str) -> Error {
    let subject = subject.chars().take(64).collect();
    Error::InvalidSubject { subject, reason }
}

#[cfg(test)]
mod tests;
