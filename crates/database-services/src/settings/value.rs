//! The kinds of values a setting can have, and how their text is read. It knows no setting by name and no source.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

/// What a setting's value looks like.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Any text; white space at both ends is dropped.
    Text,
    /// A secret: taken as it stands, also from a file (`NAME_FILE`), never shown.
    Secret,
    /// A URL with one of the schemes; it may carry a password, so it is treated as a secret.
    Url(&'static [&'static str]),
    /// The address of another tool (`http://…`); user and password in it are not shown.
    Link,
    /// `true|false|yes|no|on|off|1|0`.
    Bool,
    /// A whole number within both bounds.
    Int(u64, u64),
    /// A number within both bounds.
    Float(f64, f64),
    /// A time span within both bounds, in milliseconds: `500ms`, `5s`, `2m`, `1h`, `1d`, `1m30s`; bare = seconds.
    Duration(u64, u64),
    /// A size within both bounds, in bytes: `65536`, `64KiB`, `1MiB`, `1GiB` (also `KB`, `MB`, `GB` = 1,000s).
    Bytes(u64, u64),
    /// A path in the file system.
    Path,
    /// Items separated by commas, or a list in the file.
    List,
    /// One of the words.
    Choice(&'static [&'static str]),
}

/// A value that has been read.
#[derive(Clone, Debug)]
pub(crate) enum Parsed {
    Text(String),
    Secret(SecretString),
    Link(SecretString),
    Bool(bool),
    Int(u64),
    Float(f64),
    Duration(Duration),
    List(Vec<String>),
}

impl PartialEq for Parsed {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Secret(a), Self::Secret(b)) | (Self::Link(a), Self::Link(b)) => {
                a.expose_secret() == b.expose_secret()
            }
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Int(a), Self::Int(b)) => a == b,
            (Self::Float(a), Self::Float(b)) => a == b,
            (Self::Duration(a), Self::Duration(b)) => a == b,
            (Self::List(a), Self::List(b)) => a == b,
            _ => false,
        }
    }
}

impl std::fmt::Display for Unreadable {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}; {}", self.message, self.mend)
    }
}

/// Why a text is not a value of its kind; never holds the text of a secret.
#[derive(Debug, PartialEq)]
pub(crate) struct Unreadable {
    pub(crate) message: String,
    pub(crate) mend: String,
}

impl Unreadable {
    pub(crate) fn new(message: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { message: message.into(), mend: mend.into() }
    }
}

impl Kind {
    /// Never shown, and also read from `NAME_FILE`.
    pub const fn is_secret(&self) -> bool {
        matches!(self, Self::Secret | Self::Url(_))
    }

    /// The accepted forms, in words.
    pub fn forms(&self) -> String {
        match self {
            Self::Text => "text".to_owned(),
            Self::Secret => "text taken as it stands, or a file named by the setting with _FILE".to_owned(),
            Self::Url(schemes) => {
                format!("a URL that begins with {}", schemes.join("://, ") + "://")
            }
            Self::Link => "a URL that begins with http:// or https://".to_owned(),
            Self::Bool => "true or false (also yes/no, on/off, 1/0)".to_owned(),
            Self::Int(min, u64::MAX) => format!("a whole number of at least {min}"),
            Self::Int(min, max) => format!("a whole number from {min} to {max}"),
            Self::Float(min, max) => format!("a number from {min} to {max}"),
            Self::Duration(min, max) => format!(
                "a time span from {} to {}, such as 500ms, 5s, 2m, 1h or 1m30s; a bare number is seconds",
                format_duration(Duration::from_millis(*min)),
                format_duration(Duration::from_millis(*max)),
            ),
            Self::Bytes(min, max) => {
                format!("a size from {min} to {max} bytes, such as 65536, 64KiB or 1MiB")
            }
            Self::Path => "a path".to_owned(),
            Self::List => "items separated by commas".to_owned(),
            Self::Choice(words) => format!("one of {}", words.join(", ")),
        }
    }

    /// Reads `text`.
    pub(crate) fn parse(&self, text: &str) -> Result<Parsed, Unreadable> {
        let trimmed = text.trim();
        let wrong = |what: &str| {
            Unreadable::new(format!("{trimmed:?} is not {what}"), format!("give {}", self.forms()))
        };
        match *self {
            Self::Text | Self::Path => Ok(Parsed::Text(trimmed.to_owned())),
            Self::Secret => Ok(Parsed::Secret(text.into())),
            Self::Url(schemes) => match trimmed.split_once("://") {
                Some((scheme, _)) if schemes.contains(&scheme) => Ok(Parsed::Secret(trimmed.into())),
                _ => Err(Unreadable::new(
                    "is not a URL of a known scheme (its text is not shown, it may hold a password)",
                    format!("give {}", self.forms()),
                )),
            },
            Self::Link if trimmed.starts_with("http://") || trimmed.starts_with("https://") => {
                Ok(Parsed::Link(trimmed.into()))
            }
            Self::Link => Err(Unreadable::new(
                "is not an http or https URL (its text is not shown, it may hold a password)",
                format!("give {}", self.forms()),
            )),
            Self::Bool => match trimmed.to_ascii_lowercase().as_str() {
                "true" | "yes" | "on" | "1" => Ok(Parsed::Bool(true)),
                "false" | "no" | "off" | "0" => Ok(Parsed::Bool(false)),
                _ => Err(wrong("true or false")),
            },
            Self::Int(min, max) => {
                let n: u64 = trimmed.replace('_', "").parse().map_err(|_| wrong("a whole number"))?;
                if n < min || n > max { Err(wrong("in range")) } else { Ok(Parsed::Int(n)) }
            }
            Self::Float(min, max) => {
                let n: f64 = trimmed.parse().map_err(|_| wrong("a number"))?;
                if (min..=max).contains(&n) { Ok(Parsed::Float(n)) } else { Err(wrong("in range")) }
            }
            Self::Duration(min, max) => {
                let span = parse_duration(trimmed).ok_or_else(|| wrong("a time span"))?;
                let bounds = Duration::from_millis(min)..=Duration::from_millis(max);
                if bounds.contains(&span) { Ok(Parsed::Duration(span)) } else { Err(wrong("in range")) }
            }
            Self::Bytes(min, max) => {
                let n = parse_bytes(trimmed).ok_or_else(|| wrong("a size"))?;
                if n < min || n > max { Err(wrong("in range")) } else { Ok(Parsed::Int(n)) }
            }
            Self::List => Ok(Parsed::List(
                trimmed.split(',').map(str::trim).filter(|s| !s.is_empty()).map(str::to_owned).collect(),
            )),
            Self::Choice(words) => {
                let word = trimmed.to_ascii_lowercase().replace('_', "-");
                words
                    .iter()
                    .find(|known| known.replace('_', "-") == word)
                    .map(|known| Parsed::Text((*known).to_owned()))
                    .ok_or_else(|| wrong("one of the known words"))
            }
        }
    }
}

/// `1m30s`, `500ms`, `1.5h`, `30` (seconds). `None` for anything else, an empty text included.
fn parse_duration(text: &str) -> Option<Duration> {
    if let Ok(seconds) = text.parse::<f64>() {
        return whole_micros(seconds);
    }
    if text.is_empty() {
        return None;
    }
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        let tail = rest.get(digits..)?;
        let end = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let unit = match tail.get(..end)?.trim() {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        total = total.checked_add(whole_micros(number * unit)?)?;
        rest = tail.get(end..)?;
    }
    Some(total)
}

/// Rounded, so that `0.384s` is 384 ms and not a nanosecond more.
fn whole_micros(seconds: f64) -> Option<Duration> {
    let span = Duration::try_from_secs_f64(seconds).ok()?.checked_add(Duration::from_nanos(500))?;
    Some(span - Duration::from_nanos(u64::from(span.subsec_nanos() % 1_000)))
}

/// `65536`, `64KiB`, `64KB`.
fn parse_bytes(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '_').unwrap_or(text.len());
    let number: u64 = text.get(..digits)?.replace('_', "").parse().ok()?;
    let factor = match text.get(digits..)?.trim().to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// The shortest form that `parse_duration` reads back.
pub(crate) fn format_duration(span: Duration) -> String {
    let ms = span.as_millis();
    for (unit, size) in [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)] {
        if ms >= size && ms.is_multiple_of(size) {
            return format!("{}{unit}", ms / size);
        }
    }
    if ms == 0 { "0s".to_owned() } else { format!("{ms}ms") }
}

impl Parsed {
    /// As `show` prints it; a secret is three stars.
    pub(crate) fn shown(&self) -> serde_json::Value {
        match self {
            Self::Text(s) => s.as_str().into(),
            Self::Secret(_) => "***".into(),
            Self::Link(url) => without_userinfo(url.expose_secret()).into(),
            Self::Bool(b) => (*b).into(),
            Self::Int(n) => (*n).into(),
            Self::Float(n) => (*n).into(),
            Self::Duration(d) => format_duration(*d).into(),
            Self::List(items) => items.clone().into(),
        }
    }
}

/// The URL with three stars for user and password.
fn without_userinfo(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    match authority.rsplit_once('@') {
        // A password with a slash in it ends the authority too early: then the rest is no plain path.
        None if path.contains('@') => format!("{scheme}://***"),
        None => url.to_owned(),
        Some((_, host)) => format!("{scheme}://***@{host}{path}"),
    }
}

/// A Rust type that a setting's field may have.
pub(crate) trait FromParsed: Sized + Default {
    /// `None` if the value is of another kind: a mistake in the table, which its test finds.
    fn from_parsed(value: &Parsed) -> Option<Self>;
}

macro_rules! from_parsed {
    ($($ty:ty: $pattern:pat => $value:expr;)*) => {$(
        impl FromParsed for $ty {
            fn from_parsed(value: &Parsed) -> Option<Self> {
                match value { $pattern => $value, _ => None }
            }
        }
    )*};
}

from_parsed! {
    String: Parsed::Text(s) => Some(s.clone());
    PathBuf: Parsed::Text(s) => Some(PathBuf::from(s));
    SecretString: Parsed::Secret(s) | Parsed::Link(s) => Some(s.clone());
    bool: Parsed::Bool(b) => Some(*b);
    u64: Parsed::Int(n) => Some(*n);
    u32: Parsed::Int(n) => u32::try_from(*n).ok();
    u16: Parsed::Int(n) => u16::try_from(*n).ok();
    u8: Parsed::Int(n) => u8::try_from(*n).ok();
    usize: Parsed::Int(n) => usize::try_from(*n).ok();
    f64: Parsed::Float(n) => Some(*n);
    Duration: Parsed::Duration(d) => Some(*d);
    Vec<String>: Parsed::List(items) => Some(items.clone());
}

impl<T: FromParsed> FromParsed for Option<T> {
    fn from_parsed(value: &Parsed) -> Option<Self> {
        T::from_parsed(value).map(Some)
    }
}

#[cfg(test)]
mod tests;
