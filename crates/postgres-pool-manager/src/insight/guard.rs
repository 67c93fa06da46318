//! What may be looked at, and what may be run to be looked at. In doubt it is refused.
//!
//! `EXPLAIN ANALYZE` runs the statement. A read-only transaction refuses every write by SQL, sequences included, and
//! the rollback undoes notifications and settings. What both leave standing are functions that act outside of the
//! transaction (`pg_terminate_backend`, `dblink`, `pg_switch_wal`, large objects, …); all of these are declared
//! volatile. Hence a statement is run only if nothing in it is: the functions, operators, aggregates and casts named in
//! its text, in its plan (which shows what row security and inlined functions add) and in the definitions of views and
//! domains (for a plan shows neither LIMIT nor VALUES). What a function is declared as is believed; one that is
//! declared stable and terminates sessions is beyond this guard.

use super::{
    InsightError,
    link::Link,
    scan::{Kind, Token, tokens},
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Volatile, and without an effect on anything.
const HARMLESS: [&str; 8] = [
    "random",
    "random_normal",
    "clock_timestamp",
    "timeofday",
    "gen_random_uuid",
    "uuidv4",
    "uuidv7",
    "pg_backend_pid",
];

/// Members of a plan that hold plain names, which need not be SQL.
const NAMES: [&str; 9] = [
    "Node Type",
    "Relation Name",
    "Alias",
    "Schema",
    "Index Name",
    "CTE Name",
    "Subplan Name",
    "Tuplestore Name",
    "Constraint Name",
];

/// One statement that has a plan.
#[derive(Debug)]
pub(crate) struct Statement<'a> {
    /// Its text without what follows a semicolon.
    pub(crate) sql: &'a str,
    pub(crate) has_parameters: bool,
    tokens: Vec<Token<'a>>,
}

impl<'a> Statement<'a> {
    /// Exactly one statement, of a kind that has a plan.
    pub(crate) fn parse(text: &'a str) -> Result<Self, InsightError> {
        let mut found = tokens(text)?;
        while let Some(last) = found.last().filter(|token| token.is(";")) {
            let at = last.at;
            found.retain(|token| token.at < at);
        }
        if found.iter().any(|token| token.is(";")) {
            return Err(InsightError::SeveralStatements);
        }
        let Some(first) = found.iter().find(|token| !token.is("(")) else {
            return Err(InsightError::EmptySql);
        };
        let explainable = ["SELECT", "INSERT", "UPDATE", "DELETE", "MERGE", "WITH", "VALUES", "TABLE"];
        if !explainable.iter().any(|word| first.is(word)) {
            let word = first.text.chars().take(30).collect::<String>().to_uppercase();
            return Err(InsightError::NotExplainable { word });
        }
        let end = found.last().map_or(0, |last| last.at + last.text.len());
        let has_parameters = found.iter().any(|token| token.kind == Kind::Parameter);
        Ok(Self { sql: &text[..end], has_parameters, tokens: found })
    }

    /// Whether it may be run, as far as its text and its plan show; the rest is asked of the server.
    pub(crate) async fn may_run(&self, plan: &Value, link: &mut Link) -> Result<(), InsightError> {
        if self.has_parameters {
            return Err(InsightError::Parameters);
        }
        let first = self.tokens.iter().find(|token| !token.is("(")).map_or("", |token| token.text);
        if ["INSERT", "UPDATE", "DELETE", "MERGE"].iter().any(|word| first.eq_ignore_ascii_case(word)) {
            return Err(InsightError::Writes { what: first.to_uppercase() });
        }
        if self.tokens.iter().any(|token| token.kind == Kind::Word && token.is("INTO")) {
            return Err(InsightError::Writes { what: "SELECT INTO".to_owned() });
        }
        check_nodes(plan)?;
        let mut texts = vec![self.sql.to_owned()];
        expressions(plan, &mut texts);
        let mut seen = Named::default();
        texts.iter().try_for_each(|text| seen.add(text))?;
        for definition in definitions(&seen, link).await? {
            seen.add(&definition)?;
        }
        match volatile(&seen, link).await? {
            Some(name) => Err(InsightError::Volatile { name }),
            None => Ok(()),
        }
    }
}

/// Nodes that write, lock, or leave the server.
fn check_nodes(plan: &Value) -> Result<(), InsightError> {
    match plan {
        Value::Array(list) => list.iter().try_for_each(check_nodes),
        Value::Object(node) => {
            let text = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
            match text("Node Type").as_str() {
                "ModifyTable" => return Err(InsightError::Writes { what: text("Operation") }),
                "LockRows" => return Err(InsightError::LocksRows),
                "Foreign Scan" | "Async Foreign Scan" => {
                    return Err(InsightError::Foreign { table: text("Relation Name") });
                }
                _ => {}
            }
            node.values().try_for_each(check_nodes)
        }
        _ => Ok(()),
    }
}

/// Every text of the plan that may be an expression.
fn expressions(plan: &Value, into: &mut Vec<String>) {
    match plan {
        Value::String(text) => into.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|value| expressions(value, into)),
        Value::Object(node) => {
            let others = node.iter().filter(|(name, _)| !NAMES.contains(&name.as_str()));
            others.for_each(|(_, value)| expressions(value, into));
        }
        _ => {}
    }
}

/// What is named in texts.
#[derive(Debug, Default)]
struct Named {
    words: BTreeSet<String>,
    /// Words before an opening bracket.
    called: BTreeSet<String>,
    /// Words behind a dot: columns, and functions of a row written like columns.
    members: BTreeSet<String>,
    operators: BTreeSet<String>,
}

impl Named {
    fn add(&mut self, text: &str) -> Result<(), InsightError> {
        let found = tokens(text)?;
        for (n, token) in found.iter().enumerate() {
            if token.kind == Kind::Operator {
                self.operators.insert(token.text.to_owned());
            } else if let Some(name) = token.name() {
                if found.get(n + 1).is_some_and(|next| next.is("(")) {
                    self.called.insert(name.to_string());
                }
                if n > 0 && found[n - 1].is(".") {
                    self.members.insert(name.to_string());
                }
                self.words.insert(name.into_owned());
            }
        }
        Ok(())
    }
}

fn list(names: &BTreeSet<String>) -> Vec<String> {
    names.iter().cloned().collect()
}

/// Of views, of the views below them, and of domains. By name alone: one too many does no harm.
async fn definitions(seen: &Named, link: &mut Link) -> Result<Vec<String>, InsightError> {
    let sql = "WITH RECURSIVE v(oid) AS (SELECT c.oid FROM pg_catalog.pg_class c WHERE c.relname = ANY($1) AND c.relkind = 'v' \
        UNION SELECT c.oid FROM v JOIN pg_catalog.pg_rewrite r ON r.ev_class = v.oid \
        JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_rewrite'::regclass AND d.objid = r.oid \
        AND d.refclassid = 'pg_catalog.pg_class'::regclass \
        JOIN pg_catalog.pg_class c ON c.oid = d.refobjid AND c.relkind = 'v') \
        SELECT pg_get_viewdef(oid) FROM v UNION ALL SELECT pg_get_constraintdef(c.oid) \
        FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_type t ON t.oid = c.contypid WHERE t.typname = ANY($1)";
    Ok(sqlx::query_scalar(sql).bind(list(&seen.words)).fetch_all(&mut link.pg).await?)
}

/// The first thing that is volatile.
async fn volatile(seen: &Named, link: &mut Link) -> Result<Option<String>, InsightError> {
    let sql = "SELECT * FROM (SELECT p.proname || '()' AS name FROM pg_catalog.pg_proc p \
        WHERE (p.proname = ANY($1) OR (p.proname = ANY($5) AND p.pronargs = 1 \
            AND EXISTS (SELECT FROM pg_catalog.pg_type t WHERE t.oid = p.proargtypes[0] AND t.typtype = 'c'))) \
        AND NOT (p.proname = ANY($4) AND p.pronamespace = 'pg_catalog'::regnamespace) \
        AND (p.provolatile = 'v' OR EXISTS (SELECT FROM pg_catalog.pg_aggregate g JOIN pg_catalog.pg_proc f \
            ON f.oid IN (g.aggtransfn, g.aggfinalfn, g.aggcombinefn, g.aggmtransfn, g.aggmfinalfn) \
            WHERE g.aggfnoid = p.oid AND f.provolatile = 'v')) \
        UNION ALL SELECT 'operator ' || o.oprname FROM pg_catalog.pg_operator o \
        JOIN pg_catalog.pg_proc p ON p.oid = o.oprcode WHERE o.oprname = ANY($2) AND p.provolatile = 'v' \
        UNION ALL SELECT 'the cast to ' || t.typname FROM pg_catalog.pg_cast k JOIN pg_catalog.pg_proc p ON p.oid = k.castfunc \
        JOIN pg_catalog.pg_type t ON t.oid = k.casttarget \
        WHERE p.provolatile = 'v' AND (k.castcontext = 'i' OR t.typname = ANY($3))) v ORDER BY name LIMIT 1";
    let harmless: Vec<String> = HARMLESS.map(str::to_owned).to_vec();
    Ok(sqlx::query_scalar(sql)
        .bind(list(&seen.called))
        .bind(list(&seen.operators))
        .bind(list(&seen.words))
        .bind(harmless)
        .bind(list(&seen.members))
        .fetch_optional(&mut link.pg)
        .await?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_statement_with_a_plan_and_nothing_else() {
        assert_eq!(Statement::parse(" (SELECT ';') ; ;-- x").unwrap().sql, " (SELECT ';')");
        assert!(Statement::parse("with a as (values ($1)) table a").unwrap().has_parameters);
        for empty in ["", "  ", ";", "-- SELECT 1", "/* x */ ;;", "("] {
            assert!(matches!(Statement::parse(empty), Err(InsightError::EmptySql)), "{empty:?}");
        }
        for several in ["SELECT 1; SELECT 2", ";SELECT 1", "/* /* */ ' */ SELECT 1; DROP TABLE t --'"] {
            assert!(matches!(Statement::parse(several), Err(InsightError::SeveralStatements)), "{several}");
        }
        for other in ["EXPLAIN SELECT 1", "DROP TABLE t", "CALL p()", "BEGIN", "COPY t TO STDOUT", "1"] {
            assert!(matches!(Statement::parse(other), Err(InsightError::NotExplainable { .. })), "{other}");
        }
    }
}
