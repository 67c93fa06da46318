//! Logging to stderr by `LOG_LEVEL`: plain for people, one JSON object a line when `--json` asks for it. The audit trail
//! (target `audit`) is no matter of verbosity: it is written at every level unless the directives name it.

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::exit::Failed;

/// What to write instead.
pub(crate) const MEND: &str = "write off, error, warn, info, debug, trace, or as `info,ops_http=debug`";

/// For commands that print a result and end: warnings, unless `LOG_LEVEL` says otherwise.
pub(crate) fn init_short() -> Result<(), Failed> {
    let level = std::env::var("LOG_LEVEL").ok().filter(|level| !level.is_empty());
    init(level.as_deref().unwrap_or("warn"), false)
}

/// `level`: a level, or directives as `info,postgres_pool_manager=debug`.
pub(crate) fn init(level: &str, json: bool) -> Result<(), Failed> {
    let filter = filter(level).map_err(|why| Failed::usage(format!("LOG_LEVEL: {why}; {MEND}")))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false);
    // Set once a process; a second caller has nothing to add.
    let _already_set = if json { builder.json().try_init() } else { builder.try_init() };
    Ok(())
}

/// The filter of `level`, or why it is none.
pub(crate) fn filter(level: &str) -> Result<EnvFilter, String> {
    let unknown = |why: &str| format!("`{level}` is no filter ({why})");
    let plain = !level.contains(['=', ',']);
    if plain && level.parse::<LevelFilter>().is_err() {
        return Err(unknown("no such level"));
    }
    // A plain level is meant for us: what libraries say in passing we say ourselves where it matters.
    let quiet = if plain { ",fred=error,opentelemetry=warn,sqlx=warn" } else { "" };
    let audit = if names_audit(level) { "" } else { ",audit=info" };
    let directives = format!("{level}{quiet}{audit}");
    EnvFilter::builder().parse(&directives).map_err(|error| unknown(&error.to_string()))
}

fn names_audit(directives: &str) -> bool {
    directives
        .split(',')
        .any(|one| one.split(['=', '[']).next().is_some_and(|target| target.trim() == "audit"))
}

#[cfg(test)]
mod tests;
