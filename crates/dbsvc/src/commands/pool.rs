//! `dbsvc pool …`: the connection pool of a running instance, and what its servers do.

use serde_json::{Value, json};

use crate::cli::{Instance, PoolCommand};
use crate::client::Client;
use crate::exit::{Exit, Outcome};
use crate::output::{Output, cell, remarks, table};

pub(crate) async fn run(command: &PoolCommand, instance: &Instance, output: Output) -> Outcome {
    let client = Client::find(instance)?;
    match command {
        PoolCommand::Stats => output.value(&client.admin("pool", "stats", &json!({})).await?)?,
        PoolCommand::Resize { size, overflow } => {
            let mut input = json!({"size": size});
            if let Some(overflow) = overflow {
                input["max_overflow"] = json!(overflow);
            }
            output.value(&client.admin("pool", "resize", &input).await?)?;
        }
        PoolCommand::Sessions { scope, server, limit } => {
            let input = json!({"scope": scope.word(), "server": server, "limit": limit});
            let seen = client.admin("pool", "sessions", &input).await?;
            output.either(&seen, &sessions(&seen))?;
        }
        PoolCommand::Kill { .. } => return kill(command, &client, output).await,
        PoolCommand::Cancel { session, server } => {
            let input = json!({"session": session, "server": server});
            let done = client.admin("pool", "cancel", &input).await?;
            output.either(&done, &killed(std::slice::from_ref(&done)))?;
        }
        PoolCommand::Slow { limit, server } => {
            let seen = client.admin("pool", "slow", &json!({"limit": limit, "server": server})).await?;
            output.either(&seen, &slow(&seen))?;
        }
        PoolCommand::Explain { sql, analyze, run_for, server } => {
            let input = json!({"sql": sql, "analyze": analyze, "timeout_seconds": run_for, "server": server});
            let seen = client.admin("pool", "explain", &input).await?;
            output.either(&seen, &explained(&seen))?;
            let advice = seen["advice"].as_array().is_some_and(|advice| !advice.is_empty());
            return Ok(if advice { Exit::Warning } else { Exit::Fine });
        }
    }
    Ok(Exit::Fine)
}

async fn kill(command: &PoolCommand, client: &Client, output: Output) -> Outcome {
    let PoolCommand::Kill { session, slow, idle, scope, terminate, dry_run, server, confirm } = command
    else {
        return Ok(Exit::Fine);
    };
    if let Some(session) = session {
        confirm.ask(&format!("session {session} will be ended"))?;
        let done = client.admin("pool", "kill", &json!({"session": session, "server": server})).await?;
        output.either(&done, &killed(std::slice::from_ref(&done)))?;
        return Ok(Exit::Fine);
    }
    let kind = if slow.is_some() { "slow" } else { "idle" };
    let mut input =
        json!({"kind": kind, "older_than_seconds": slow.or(*idle), "scope": scope.word(), "server": server});
    input["terminate"] = json!(terminate);
    if !dry_run && !confirm.yes {
        input["dry_run"] = json!(true);
        let would = client.admin("pool", "kill", &input).await?;
        let chosen = rows(&would).len();
        if chosen > 0 {
            if !output.is_json() {
                output.text(&killed(rows(&would)))?;
            }
            confirm.ask(&format!("{chosen} sessions or statements will be ended"))?;
        }
    }
    input["dry_run"] = json!(dry_run);
    let done = client.admin("pool", "kill", &input).await?;
    output.either(&done, &format!("{}{}", killed(rows(&done)), remarks(&done)))?;
    let fine = |row: &Value| row["outcome"] != "forbidden";
    Ok(if !rows(&done).is_empty() && rows(&done).iter().all(fine) { Exit::Fine } else { Exit::Warning })
}

fn rows(report: &Value) -> &[Value] {
    report["rows"].as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Sessions for people, here and in `db activity`.
pub(crate) fn sessions(report: &Value) -> String {
    let row = |row: &Value| {
        let id = if row["id"].is_null() { &row["pid"] } else { &row["id"] };
        vec![
            cell(id),
            cell(&row["username"]),
            cell(&row["application_name"]),
            cell(&row["client"]),
            cell(&row["state"]),
            cell(&row["transaction_seconds"]),
            cell(&row["query_seconds"]),
            cell(&row["waits_for"]),
            short(&row["query"]),
        ]
    };
    let headings = [
        "SESSION",
        "USER",
        "APPLICATION",
        "CLIENT",
        "STATE",
        "TRANSACTION S",
        "QUERY S",
        "WAITS FOR",
        "QUERY",
    ];
    format!("{}{}", table(&headings, rows(report).iter().map(row)), remarks(report))
}

fn killed(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "there is nothing to end".to_owned();
    }
    let row = |row: &Value| {
        let column = |name: &str| cell(&row[name]);
        vec![
            column("id"),
            column("outcome"),
            column("username"),
            column("application_name"),
            column("state"),
            column("seconds"),
            short(&row["query"]),
        ]
    };
    let headings = ["SESSION", "OUTCOME", "USER", "APPLICATION", "STATE", "FOR S", "QUERY"];
    table(&headings, rows.iter().map(row))
}

fn slow(seen: &Value) -> String {
    let row = |row: &Value| {
        let column = |name: &str| cell(&row[name]);
        let figures = ["calls", "mean_exec_time", "max_exec_time", "stddev_exec_time", "total_exec_time"];
        figures.iter().map(|name| column(name)).chain([short(&row["query"])]).collect()
    };
    let headings = ["CALLS", "MEAN MS", "MAX MS", "STDDEV MS", "TOTAL MS", "QUERY"];
    let queries = seen["queries"].as_array().map(Vec::as_slice).unwrap_or_default();
    let source = match seen["source"].as_str() {
        Some("pg_stat_statements") => format!("from pg_stat_statements of {}", cell(&seen["server"])),
        _ => format!(
            "measured by {}, one statement in {}",
            cell(&seen["server"]),
            cell(&seen["sampled_every"])
        ),
    };
    let note = seen["note"].as_str().map(|note| format!("\n{note}")).unwrap_or_default();
    format!("{source}{note}\n{}{}", table(&headings, queries.iter().map(row)), remarks(seen))
}

fn explained(seen: &Value) -> String {
    let mut text = format!("cost {}, {} rows expected", cell(&seen["total_cost"]), cell(&seen["plan_rows"]));
    if let Some(millis) = seen["execution_ms"].as_f64() {
        text.push_str(&format!(", ran {millis:.1} ms"));
    }
    let advice = seen["advice"].as_array().map(Vec::as_slice).unwrap_or_default();
    if advice.is_empty() {
        text.push_str("\nno advice: the plan is as good as can be told");
    }
    for piece in advice {
        text.push_str(&format!("\n\n{}: {}", cell(&piece["kind"]), cell(&piece["message"])));
        if let Some(ddl) = piece["ddl"].as_str() {
            text.push_str(&format!("\n  {ddl};"));
        }
    }
    text
}

/// A statement on one line, its beginning.
fn short(query: &Value) -> String {
    let query = query.as_str().unwrap_or("-").split_whitespace().collect::<Vec<_>>().join(" ");
    let mut text: String = query.chars().take(80).collect();
    if text.len() < query.len() {
        text.push('…');
    }
    text
}
