//! `dbsvc migrate`: the schema of all parts, forward only; `--plan` changes nothing; `--roles` prints the role script.

use database_services::ManagerMode;
use database_services::postgres_pool_manager::{MigrateOptions, Schema, Step, roles_sql};
use serde_json::json;

use crate::cli::MigrateArgs;
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;
use crate::{services, settings};

/// Postgres cuts longer names off, and would then look for a role that it never made.
const LONGEST_NAME: usize = 63;

pub(crate) async fn run(args: &MigrateArgs, output: Output) -> Outcome {
    let settings = settings::load(&args.settings)?;
    let schema = settings.database_schema.clone();
    if args.roles {
        return roles(args, &schema, output);
    }
    let services = services::create(ManagerMode::Admin, settings)?;
    let options = MigrateOptions { dry_run: args.plan, ..MigrateOptions::default() };
    let report = services.migrate(options).await.map_err(|error| services::failed(&error))?;

    let verb = if args.plan { "would apply" } else { "applied" };
    let mut text: String = report.applied.iter().map(|step| format!("{verb} {}\n", named(step))).collect();
    let known = report.already_applied.len();
    text.push_str(&match report.applied.len() {
        0 => format!("schema {schema} is up to date ({known} migrations)"),
        n => format!("{n} {verb}, {known} were applied before (schema {schema})"),
    });
    let json = json!({
        "schema": schema,
        "dry_run": args.plan,
        "applied": report.applied,
        "already_applied": report.already_applied,
    });
    output.either(&json, &text)?;
    let pending = args.plan && !report.applied.is_empty();
    Ok(if pending { Exit::Warning } else { Exit::Fine })
}

/// The script of `deploy/postgres/roles.sql`, for this schema and these names.
fn roles(args: &MigrateArgs, schema: &str, output: Output) -> Outcome {
    let name = |flag: &str, given: Option<&str>, default: &str| {
        let name = given.map_or_else(|| format!("{schema}_{default}"), str::to_owned);
        if name.is_empty() || name.len() > LONGEST_NAME || name.contains('\0') {
            return Err(Failed::usage(format!(
                "{flag}: {name:?} is no role name; give 1 to {LONGEST_NAME} bytes"
            )));
        }
        Ok(name)
    };
    let owner = name("--owner", args.owner.as_deref(), "owner")?;
    let runtime = name("--runtime", args.runtime.as_deref(), "runtime")?;
    if owner == runtime {
        return Err(Failed::usage(format!(
            "--owner and --runtime are both {owner:?}; the run-time role must not own the tables"
        )));
    }
    let parsed = Schema::new(schema).map_err(|error| Failed::usage(format!("DATABASE_SCHEMA: {error}")))?;
    let script = roles_sql(&parsed, &owner, &runtime);
    let json = json!({"schema": schema, "owner": owner, "runtime": runtime, "script": script});
    output.either(&json, script.trim_end())?;
    Ok(Exit::Fine)
}

fn named(step: &Step) -> String {
    format!("{} {} {}", step.component, step.version, step.name)
}
