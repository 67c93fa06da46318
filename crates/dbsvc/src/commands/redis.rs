//! `dbsvc redis …`: the Redis links of a running instance. Asks the instance, not the servers.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use crate::cli::{Instance, RedisCommand};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, table};

/// Certificates that end sooner are a warning: time enough for whoever renews them by hand.
const SOON: Duration = Duration::from_secs(14 * 86_400);

pub(crate) async fn run(command: &RedisCommand, instance: &Instance, output: Output) -> Outcome {
    let RedisCommand::Status = command;
    let status = Client::find(instance)?.admin("redis", "status", &json!({})).await?;
    let links = status.as_object().cloned().unwrap_or_default();
    if links.is_empty() {
        output.either(&status, "no Redis is configured")?;
        return Ok(Exit::Fine);
    }
    let (mut parts, mut exit) = (Vec::new(), Exit::Fine);
    for (name, link) in &links {
        let verdict = Verdict::of(link);
        exit = match (exit, &verdict) {
            (exit, Verdict::Well) => exit,
            (Exit::Failure, _) | (_, Verdict::Away(_)) => Exit::Failure,
            (_, Verdict::Partly(_)) => Exit::Warning,
        };
        parts.push(shown(name, link, &verdict));
    }
    output.either(&status, &parts.join("\n\n"))?;
    Ok(exit)
}

/// What is to be said first.
enum Verdict {
    Well,
    /// Works, but not all of it, or not for long.
    Partly(String),
    /// Nothing can be done through it.
    Away(String),
}

impl Verdict {
    fn of(link: &Value) -> Self {
        if link["state"] != "connected" {
            return Self::Away(link["last_error"].as_str().unwrap_or("it has not connected yet").to_owned());
        }
        let masters = link["masters"].as_array().map(Vec::as_slice).unwrap_or_default();
        let missing = masters.iter().filter(|master| master["connected"] != true).count();
        if missing > 0 {
            return Self::Partly(format!("{missing} of {} masters are not connected", masters.len()));
        }
        let (replicas, following) = (link["replicas"].as_u64(), link["replicas_connected"].as_u64());
        if following < replicas {
            let (following, replicas) = (following.unwrap_or(0), replicas.unwrap_or(0));
            return Self::Partly(format!("{following} of {replicas} replicas follow"));
        }
        let mut ends = masters.iter().map(|master| &master["certificate_expires"]).filter_map(left);
        match left(&link["client_certificate_expires"]).into_iter().chain(&mut ends).min() {
            Some(left) if left < SOON => Self::Partly(format!("a certificate ends in {}", days(left))),
            _ => Self::Well,
        }
    }
}

fn shown(name: &str, link: &Value, verdict: &Verdict) -> String {
    let said = match verdict {
        Verdict::Well => "well".to_owned(),
        Verdict::Partly(what) => format!("warning: {what}"),
        Verdict::Away(what) => format!("not connected: {what}"),
    };
    let word = |key: &str| text(&link[key]);
    let mut facts = vec![
        ("topology", word("topology")),
        ("version", format!("{} (RESP{})", word("version"), word("protocol"))),
        ("when memory is full", text(&link["masters"][0]["capabilities"]["maxmemory_policy"])),
        ("generation, epoch", format!("{}, {}", word("generation"), word("epoch"))),
        ("replicas", format!("{} of {} follow", word("replicas_connected"), word("replicas"))),
        ("connection errors", word("connection_errors")),
    ];
    if let Some(errors) = link["errors"].as_object() {
        let counted = errors.iter().filter(|(_, count)| count.as_u64() != Some(0));
        let counted: Vec<_> = counted.map(|(kind, count)| format!("{count} {kind}")).collect();
        facts.push(("failed calls", if counted.is_empty() { "none".into() } else { counted.join(", ") }));
    }
    if let Some(left) = left(&link["client_certificate_expires"]) {
        facts.push(("our certificate", format!("ends in {}", days(left))));
    }
    let facts = table(&[], facts.into_iter().map(|(fact, value)| vec![fact.to_owned(), value]));
    let row = |master: &Value| {
        let column = |key: &str| text(&master[key]);
        let certificate = left(&master["certificate_expires"]).map_or_else(String::new, days);
        let state = if master["connected"] == true { "connected" } else { "missing" };
        vec![
            column("endpoint"),
            state.to_owned(),
            column("epoch"),
            column("slots"),
            column("connections"),
            column("in_flight"),
            certificate,
        ]
    };
    let headings = ["MASTER", "STATE", "EPOCH", "SLOTS", "CONNECTIONS", "IN FLIGHT", "CERTIFICATE"];
    let masters = table(&headings, link["masters"].as_array().into_iter().flatten().map(row));
    format!("{name}: {said}\n{facts}\n\n{masters}")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

/// The time left until a moment, as serde writes it; nothing if it is over.
fn left(moment: &Value) -> Option<Duration> {
    let ends = SystemTime::UNIX_EPOCH + Duration::from_secs(moment["secs_since_epoch"].as_u64()?);
    Some(ends.duration_since(SystemTime::now()).unwrap_or_default())
}

fn days(left: Duration) -> String {
    match left.as_secs() / 86_400 {
        0 => format!("{} h", left.as_secs() / 3600),
        days => format!("{days} d"),
    }
}
