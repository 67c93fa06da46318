//! `host[:port][*weight]`, the form of one replica.

/// One replica.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Host {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) weight: u32,
}

/// Reads one item; a missing port is `port`, a missing weight 1. `Err` if it has another form.
pub(crate) fn parse(item: &str, port: u16) -> Result<Host, ()> {
    let (address, weight) = match item.trim().rsplit_once('*') {
        Some((address, weight)) => (address, weight.parse().map_err(|_| ())?),
        None => (item.trim(), 1),
    };
    let (host, port) = match address.strip_prefix('[').and_then(|a| a.split_once(']')) {
        Some((host, "")) => (host, port),
        Some((host, rest)) => (host, rest.strip_prefix(':').ok_or(())?.parse().map_err(|_| ())?),
        None => match address.split_once(':') {
            Some((host, digits)) => (host, digits.parse().map_err(|_| ())?),
            None => (address, port),
        },
    };
    let plain = !host.is_empty() && !host.contains([' ', '@', '=']) && port > 0;
    if plain && (1..=1_000).contains(&weight) {
        Ok(Host { host: host.to_owned(), port, weight })
    } else {
        Err(())
    }
}
