//! The URLs of servers, taken apart and put together. Only the parts that both servers' URLs have; deliberately not
//! a general URL parser.

use std::fmt;

use crate::error::Error;

/// `scheme://[user[:password]@]host[:port][/path][?query]`
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Address {
    pub(crate) scheme: String,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) query: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}:{}/{}", self.scheme, self.host, self.port, self.path)
    }
}

impl Address {
    /// Takes a URL apart. `name` is the setting that it came from, for the error.
    pub(crate) fn parse(name: &str, url: &str) -> Result<Self, Error> {
        Self::taken_apart(url).ok_or_else(|| Error::Setting {
            name: name.into(),
            reason: "not of the form scheme://[user[:password]@]host[:port][/database]".into(),
        })
    }

    fn taken_apart(url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let default_port = match scheme {
            "postgres" | "postgresql" => 5432,
            "redis" | "rediss" => 6379,
            _ => return None,
        };
        let (rest, query) =
            rest.split_once('?').map_or((rest, None), |(rest, query)| (rest, Some(query.to_owned())));
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, place) =
            authority.rsplit_once('@').map_or((None, authority), |(login, place)| (Some(login), place));
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (decode(user), decode(password)),
            None => (String::new(), String::new()),
        };
        let (host, port) = match place.strip_prefix('[').and_then(|place| place.split_once(']')) {
            Some((host, port)) => (host, port.strip_prefix(':')),
            None => place.rsplit_once(':').map_or((place, None), |(host, port)| (host, Some(port))),
        };
        let port = port.map_or(Some(default_port), |port| port.parse().ok())?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        let (user, password) = (some(user), some(password));
        (!host.is_empty()).then(|| Self {
            scheme: scheme.into(),
            user,
            password,
            host: host.into(),
            port,
            path: path.into(),
            query,
        })
    }

    /// The URL.
    pub(crate) fn url(&self) -> String {
        let password = self.password.as_deref().map(|password| format!(":{}", encode(password)));
        let login = match (&self.user, password) {
            (None, None) => String::new(),
            (user, password) => {
                format!("{}{}@", encode(user.as_deref().unwrap_or_default()), password.unwrap_or_default())
            }
        };
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        let query = self.query.as_deref().map(|query| format!("?{query}")).unwrap_or_default();
        format!("{}://{login}{host}:{}/{}{query}", self.scheme, self.port, self.path)
    }

    /// The same with another database.
    pub(crate) fn with_path(&self, path: &str) -> Self {
        Self { path: path.into(), ..self.clone() }
    }
}

/// For any part of a URL.
pub(crate) fn encode(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded.push_str(&format!("%{byte:02X}"));
        }
    }
    encoded
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let code =
            after.get(..2).and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        match (first, code) {
            (b'%', Some(code)) => {
                bytes.push(code);
                rest = &after[2..];
            }
            _ => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_and_back() {
        for url in [
            "postgres://postgres:a%40b%2F@127.0.0.1:5433/test?sslmode=disable",
            "redis://:00123@127.0.0.1:6379/0",
            "redis://127.0.0.1:6379/",
            "redis://app:x@[::1]:7000/2",
        ] {
            assert_eq!(Address::parse("url", url).expect("parsed").url(), url);
        }
    }

    #[test]
    fn parts_and_defaults() {
        let address = Address::parse("url", "postgresql://me:p%3Aw@db.example").expect("parsed");
        assert_eq!((address.user.as_deref(), address.password.as_deref()), (Some("me"), Some("p:w")));
        assert_eq!((address.host.as_str(), address.port, address.path.as_str()), ("db.example", 5432, ""));
        for wrong in ["", "http://x", "postgres://", "postgres://h:port/db"] {
            assert!(Address::parse("url", wrong).is_err(), "{wrong}");
        }
    }
}
