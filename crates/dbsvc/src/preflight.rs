//! What this program asks of the settings beyond the library: a log filter, an address, a token, probes that it has.
//! Part of loading, so that `config check` and `serve` refuse the same things, all at once.

use database_services::PROBES;
use database_services::settings::{Problem, Settings};
use ops_http::{Listen, Token};
use secrecy::ExposeSecret;

use crate::logging;

/// Everything that `serve` would refuse.
pub(crate) fn problems(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut add = |setting: &str, key: &str, message: String, mend: String| {
        problems.push(Problem { setting: setting.to_owned(), source: settings.source(key), message, mend });
    };
    if let Err(why) = logging::filter(settings.log_filter()) {
        add("LOG_LEVEL", "log_level", why, logging::MEND.to_owned());
    }
    if let Err(error) = settings.http_listen.parse::<Listen>() {
        let mend = "write host:port or unix:/path".to_owned();
        add("HTTP_LISTEN", "http_listen", error.to_string(), mend);
    }
    if let Some(token) = &settings.http_admin_token
        && let Err(error) = Token::parse(token.expose_secret())
    {
        let mend = "remove it, and `dbsvc serve` makes one and says where".to_owned();
        add("HTTP_ADMIN_TOKEN", "http_admin_token", error.to_string(), mend);
    }
    // A host that embeds the library may have probes of its own; this program has none.
    let unknown = settings.health_readiness.iter().find(|name| !PROBES.contains(&name.as_str()));
    if let Some(name) = unknown {
        let mend = format!("name some of {}", PROBES.join(", "));
        add("HEALTH_READINESS", "health_readiness", format!("there is no probe {name:?}"), mend);
    }
    problems
}
