//! Settings: one table of names, loaded from defaults < file < profile < environment < overrides into [`Settings`].
//!
//! * **Names.** Every setting has a name (`DATABASE_POOL_SIZE`), perhaps aliases (`DB_POOL_SIZE`), and is also known
//!   as `DATABASE_SERVICES_` + name. In a TOML file the key is the name in lower case, flat
//!   (`database_pool_size = 10`) or in tables (`[database]` `pool_size = 10`).
//! * **Unknown names** are an error, with the nearest name told: in a file always; in the environment under our own
//!   prefixes (`DATABASE_SERVICES_`, `UCM_`, `SECURITY_TIER_`). `DATABASE_…`, `REDIS_…`, `CACHE_…` and the like are
//!   shared with other programs: there a name that is not ours is left alone and told by [`Settings::notes`], with
//!   the nearest of ours. Kubernetes' service links (`REDIS_PORT=tcp://…`) are never ours, and
//!   `DATABASE_SERVICES_IGNORE=NAME,…` excludes any other.
//! * **Two names for one thing** in one layer must agree, else the error names both. `DATABASE_URL` and `REDIS_URL`
//!   stand for the single settings that they contain; in a higher layer they replace those of lower ones as a whole.
//! * **An empty value is unset**, as `NAME=${NAME:-}` leaves it.
//! * **Forms.** Time spans: `500ms`, `5s`, `2m`, `1h`, `1d`, `1m30s`, a bare number is seconds. Sizes: `65536`,
//!   `64KiB`, `1MiB`, `1MB`. Booleans: `true|false|yes|no|on|off|1|0`. Lists: `a,b` or a TOML array.
//! * **Secrets** are taken as they stand (`00123`, `true`, `[a]`, `"x"`, `a#b` stay text), may come from a file
//!   (`REDIS_PASSWORD_FILE=/run/secrets/redis`, its last line break dropped), and are shown nowhere.
//! * **Problems** are reported all at once, each with name, source, message and mend.

mod check;
mod file;
pub(crate) mod hosts;
mod layer;
mod load;
mod names;
mod problem;
mod show;
mod table;
mod typed;
mod url_parts;
mod value;

pub use file::profile_names;
pub use load::{LoadOptions, Note};
pub use problem::{Problem, SettingsErrors, Source};
pub use show::{Explanation, Shown, UnknownSetting, explain, reference};
pub use table::{Definition, Group, PREFIX, TABLE, Values};
pub use typed::Settings;
pub use value::Kind;

pub(crate) use typed::Inner;
pub(crate) use url_parts::parse as url_parts_of;

#[cfg(test)]
mod tests;
