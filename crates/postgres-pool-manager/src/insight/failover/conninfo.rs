//! `primary_conninfo` taken apart and put together: another host and port, everything else as it was.

/// The text with this host and port instead of its own; `None` if it is of no form that is known here.
pub(super) fn pointed_at(conninfo: &str, host: &str, port: u16) -> Option<String> {
    if conninfo.starts_with("postgres://") || conninfo.starts_with("postgresql://") {
        return None;
    }
    let mut kept = parse(conninfo)?;
    // An address beside the name would still lead to the old one.
    kept.retain(|(name, _)| !["host", "hostaddr", "port"].contains(&name.as_str()));
    let new = [("host".to_owned(), host.to_owned()), ("port".to_owned(), port.to_string())];
    let pair = |(name, value): &(String, String)| {
        format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    Some(new.iter().chain(&kept).map(pair).collect::<Vec<_>>().join(" "))
}

/// `name = value` pairs as libpq reads them.
fn parse(conninfo: &str) -> Option<Vec<(String, String)>> {
    let (mut pairs, mut rest) = (Vec::new(), conninfo.trim_start());
    while !rest.is_empty() {
        let (name, after) = rest.split_once('=')?;
        let (mut value, mut chars) = (String::new(), after.trim_start().chars());
        let quoted = chars.as_str().starts_with('\'');
        if quoted {
            chars.next();
        }
        loop {
            match chars.next() {
                Some('\\') => value.push(chars.next()?),
                Some('\'') if quoted => break,
                Some(c) if !quoted && c.is_whitespace() => break,
                Some(c) => value.push(c),
                None if quoted => return None,
                None => break,
            }
        }
        let name = name.trim();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        pairs.push((name.to_owned(), value));
        rest = chars.as_str().trim_start();
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_but_the_address_is_kept() {
        let old = r"host=/run/pg hostaddr=10.0.0.1 port = 5432 user='o\'brien' password='a\\ b'  application_name=x";
        assert_eq!(
            pointed_at(old, "db2", 6432).unwrap(),
            r"host='db2' port='6432' user='o\'brien' password='a\\ b' application_name='x'"
        );
        assert_eq!(pointed_at("", "/run/pg", 1).unwrap(), "host='/run/pg' port='1'");
        for unknown in ["postgres://a/b", "user='x", "user", "a b=c"] {
            assert_eq!(pointed_at(unknown, "h", 1), None, "{unknown}");
        }
    }
}
