//! Which names are ours. Under our own prefixes every name must be known; names such as `DATABASE_…` are shared
//! with other programs, so there a name that is not ours is told as a note, and never an error.

use super::table::{self, Definition, PREFIX};

/// Prefixes that nobody else uses: an unknown name under them is an error.
const OWN: &[&str] = &[PREFIX, "UCM_", "SECURITY_TIER_"];
/// Prefixes shared with other programs: an unknown name is worth a note.
const SHARED: &[&str] =
    &["DATABASE_", "DB_", "REDIS_", "CACHE_", "SECURITY_", "HEALTH_", "HTTP_", "LOCK_", "LOG_"];

/// What a name is to us.
#[derive(Debug)]
pub(super) enum Name {
    /// A setting; `file`: the value is the path of a file that holds it.
    Known { definition: &'static Definition, file: bool },
    /// Must be a mistake.
    Unknown { nearest: &'static str },
    /// Somebody else's, though under a prefix that we share; `slip`: so like one of ours that it may be a mistake.
    Foreign { nearest: &'static str, slip: bool },
    /// Nothing to do with us.
    Other,
}

/// Judges the name of an environment variable; `value` tells apart Kubernetes' service links.
pub(super) fn judge(name: &str, value: &str) -> Name {
    if is_service_link(name, value) {
        return Name::Other;
    }
    if let Some(known) = known(name) {
        return known;
    }
    let nearest = nearest(name);
    if OWN.iter().any(|p| name.starts_with(p)) {
        Name::Unknown { nearest }
    } else if SHARED.iter().any(|p| name.starts_with(p)) {
        let slip = strsim::osa_distance(name, nearest) <= if name.len() < 8 { 1 } else { 2 };
        Name::Foreign { nearest, slip }
    } else {
        Name::Other
    }
}

/// Judges a key of the settings file, `a.b` as `a_b`: there everything is ours.
pub(super) fn judge_key(key: &str) -> Name {
    let name = key.replace(['.', '-'], "_").to_ascii_uppercase();
    if let Some(definition) = table::find(&name) {
        return Name::Known { definition, file: false };
    }
    known(&name).unwrap_or_else(|| Name::Unknown { nearest: nearest(&name) })
}

fn known(name: &str) -> Option<Name> {
    let exact = |wanted: &str| table::TABLE.iter().find(|d| d.names().any(|n| n == wanted));
    let any = |wanted: &str| exact(wanted).or_else(|| exact(wanted.strip_prefix(PREFIX)?));
    if let Some(definition) = any(name) {
        return Some(Name::Known { definition, file: false });
    }
    let definition = any(name.strip_suffix("_FILE")?)?;
    definition.kind.is_secret().then_some(Name::Known { definition, file: true })
}

/// The known name that is most like `name`.
pub(super) fn nearest(name: &str) -> &'static str {
    let name = name.to_ascii_uppercase();
    let bare = name.strip_prefix(PREFIX).unwrap_or(&name);
    let distance = |known: &str| strsim::osa_distance(known, bare).min(strsim::osa_distance(known, &name));
    table::TABLE.iter().flat_map(Definition::names).min_by_key(|known| distance(known)).unwrap_or(PREFIX)
}

/// Kubernetes sets `REDIS_PORT=tcp://10.0.0.1:6379`, `REDIS_SERVICE_HOST`, `REDIS_PORT_6379_TCP_ADDR`, … for a
/// service that is called `redis`: not meant for us.
fn is_service_link(name: &str, value: &str) -> bool {
    let address = value.starts_with("tcp://") || value.starts_with("udp://");
    let ported = name.split_once("_PORT_").is_some_and(|(_, rest)| {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        digits > 0 && rest.get(digits..).is_some_and(|r| r.starts_with("_TCP") || r.starts_with("_UDP"))
    });
    let service =
        name.ends_with("_SERVICE_HOST") || name.ends_with("_SERVICE_PORT") || name.contains("_SERVICE_PORT_");
    ported || service || (address && name.ends_with("_PORT"))
}
