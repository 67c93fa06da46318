//! Takes `DATABASE_URL` and `REDIS_URL` apart into the single settings they stand for. An empty part means
//! "not said": it hides what a lower layer said, because a URL names one server as a whole.

use url::Url;

use super::value::Unreadable;

type Parts = Vec<(&'static str, String)>;

/// Whether the setting stands for several others.
pub(super) fn is_bundle(key: &str) -> bool {
    matches!(key, "database_url" | "redis_url")
}

/// The parts of the URL in setting `key`; the text of the URL is never in the error.
pub(crate) fn parse(key: &str, text: &str) -> Result<Parts, Unreadable> {
    let url = Url::parse(text).map_err(|error| {
        Unreadable::new(
            format!("cannot be read as a URL: {error}"),
            "write scheme://user:password@host:port/name, special characters of the password percent-encoded",
        )
    })?;
    if key == "database_url" { postgres(&url) } else { redis(&url) }
}

fn postgres(url: &Url) -> Result<Parts, Unreadable> {
    let mut parts = vec![
        ("database_host", decode(url.host_str().unwrap_or_default())?),
        ("database_port", url.port().map(|p| p.to_string()).unwrap_or_default()),
        ("database_name", decode(url.path().trim_start_matches('/'))?),
        ("database_user", decode(url.username())?),
        ("database_password", decode(url.password().unwrap_or_default())?),
        ("database_ssl_mode", String::new()),
        ("database_ssl_ca_path", String::new()),
        ("database_ssl_cert_path", String::new()),
        ("database_ssl_key_path", String::new()),
        ("database_use_ssl", String::new()),
    ];
    for (name, value) in url.query_pairs() {
        let key = match name.as_ref() {
            "host" => "database_host",
            "port" => "database_port",
            "dbname" => "database_name",
            "user" => "database_user",
            "password" => "database_password",
            "sslmode" | "ssl" => "database_ssl_mode",
            "sslrootcert" => "database_ssl_ca_path",
            "sslcert" => "database_ssl_cert_path",
            "sslkey" => "database_ssl_key_path",
            other => {
                return Err(Unreadable::new(
                    format!("has the parameter {other:?}, which this service does not know"),
                    "remove it; known are host, port, dbname, user, password, sslmode, sslrootcert, sslcert, sslkey",
                ));
            }
        };
        let value = match (key, value.as_ref()) {
            ("database_ssl_mode", "true") => "require",
            ("database_ssl_mode", "false" | "allow") => "prefer",
            (_, other) => other,
        };
        set(&mut parts, key, value);
    }
    Ok(parts)
}

fn redis(url: &Url) -> Result<Parts, Unreadable> {
    let host = decode(url.host_str().unwrap_or_default())?;
    if host.is_empty() {
        return Err(Unreadable::new("names no host", "write redis://host:6379"));
    }
    if let Some((name, _)) = url.query_pairs().next() {
        return Err(Unreadable::new(
            format!("has the parameter {name:?}, which this service does not know"),
            "remove it; use the REDIS_ settings instead",
        ));
    }
    Ok(vec![
        ("redis_host", host),
        ("redis_port", url.port().map(|p| p.to_string()).unwrap_or_default()),
        ("redis_username", decode(url.username())?),
        ("redis_password", decode(url.password().unwrap_or_default())?),
        ("redis_database", decode(url.path().trim_start_matches('/'))?),
        ("redis_use_ssl", (url.scheme() == "rediss").to_string()),
    ])
}

fn set(parts: &mut Parts, key: &'static str, value: &str) {
    if let Some(part) = parts.iter_mut().find(|(known, _)| *known == key) {
        value.clone_into(&mut part.1);
    }
}

/// Percent-decoding; `[::1]` loses its brackets.
fn decode(text: &str) -> Result<String, Unreadable> {
    let text = text.strip_prefix('[').and_then(|t| t.strip_suffix(']')).unwrap_or(text);
    let broken = || Unreadable::new("has a broken percent-encoding", "write a percent sign as %25");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte != b'%' {
            bytes.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16)).ok_or_else(broken);
        let value = digit(rest.next())? * 16 + digit(rest.next())?;
        bytes.push(u8::try_from(value).map_err(|_| broken())?);
    }
    String::from_utf8(bytes).map_err(|_| broken())
}
