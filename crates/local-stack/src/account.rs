//! The user that the servers run as. Not here: installing a user.

use std::fs;
use std::process::Command;

use crate::error::Error;

/// The users tried when we are root. `postgres` first: the distribution's package makes it, and it owns nothing else
/// than its own clusters. `redis` is as narrow. `nobody` comes last because it is shared: whatever else runs as
/// `nobody` could then signal and read our servers.
const CANDIDATES: [&str; 3] = ["postgres", "redis", "nobody"];

/// A user and its group, by number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Account {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl Account {
    /// The user for the servers: ours, unless we are root. One user for all servers, so that the watchdog may run as
    /// the same one: seeing the working directories of other users' processes takes a privilege that containers drop.
    pub(crate) fn choose() -> Result<Option<Self>, Error> {
        if !is_root() {
            return Ok(None);
        }
        if let Some(name) = std::env::var_os("LOCAL_STACK_USER") {
            let name = name.to_string_lossy().into_owned();
            return match lookup(&name) {
                Some(account) if account.uid != 0 => Ok(Some(account)),
                _ => Err(Error::Setting {
                    name: "LOCAL_STACK_USER".into(),
                    reason: format!(
                        "`{name}` is no unprivileged user of this machine; name one that is, or unset it"
                    ),
                }),
            };
        }
        match CANDIDATES.iter().find_map(|name| lookup(name)) {
            Some(account) => Ok(Some(account)),
            None => Err(Error::NoAccount { tried: CANDIDATES.join(", ") }),
        }
    }
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

fn lookup(name: &str) -> Option<Account> {
    let file = fs::read_to_string("/etc/passwd").unwrap_or_default();
    parse(&file, name).or_else(|| {
        let output = Command::new("getent").args(["passwd", name]).output().ok()?;
        parse(&String::from_utf8_lossy(&output.stdout), name)
    })
}

fn parse(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some(Account { uid: fields.nth(1)?.parse().ok()?, gid: fields.next()?.parse().ok()? })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_its_whole_name() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgresql:x:5:6::/:\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(parse(passwd, "postgres"), Some(Account { uid: 101, gid: 104 }));
        assert_eq!(parse(passwd, "redis"), None);
    }
}
