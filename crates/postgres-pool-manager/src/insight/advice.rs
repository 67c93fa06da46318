//! Plain advice from a plan. Each piece says what was seen and what to do; there is none for what costs nothing.

use super::{
    InsightError,
    link::Link,
    plan::{Explained, Node},
    scan::{Kind, Token, tokens},
};
use crate::schema::quote_ident;
use serde::Serialize;
use sqlx::Row;

/// A filter that keeps more than this share of the rows is served no better by an index.
const SELECTIVE: f64 = 0.2;

/// Estimates that are wrong by less than this factor seldom change a plan.
const WRONG_BY: f64 = 10.0;

/// Pieces of advice of one kind; the first say what matters.
const MOST: usize = 5;

/// Kinds of advice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AdviceKind {
    /// A big table is read from end to end for a part of its rows, and an index would help.
    MissingIndex,
    /// A big table is read from end to end, and no simple index is known to help.
    SequentialScan,
    /// The planner expects another number of rows than there is.
    RowMisestimate,
    /// A sort or a hash is larger than `work_mem` and is done on disk.
    SpillToDisk,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Advice {
    /// Its kind.
    pub kind: AdviceKind,
    /// What was seen, and what to do.
    pub message: String,
    /// The table, `schema.table`.
    pub table: Option<String>,
    /// The statement that does it, where there is one.
    pub ddl: Option<String>,
}

/// What the server's planner and executor go by.
#[derive(Debug)]
pub(crate) struct Settings {
    big_table_rows: f64,
    /// Bytes.
    work_mem: f64,
    hash_mem: f64,
}

impl Settings {
    pub(crate) async fn read(link: &mut Link, big_table_rows: u64) -> Result<Self, InsightError> {
        let sql = "SELECT pg_size_bytes(current_setting('work_mem'))::float8, current_setting('hash_mem_multiplier')::float8";
        let (work_mem, multiplier): (f64, f64) = sqlx::query_as(sql).fetch_one(&mut link.pg).await?;
        Ok(Self { big_table_rows: big_table_rows as f64, work_mem, hash_mem: work_mem * multiplier })
    }
}

pub(crate) async fn advise(
    explained: &Explained,
    settings: &Settings,
    link: &mut Link,
) -> Result<Vec<Advice>, InsightError> {
    let nodes = explained.nodes();
    let mut advice = Vec::new();
    for (node, processes) in nodes.iter().filter(|(node, _)| node.kind == "Seq Scan") {
        if let Some(piece) = scan(node, *processes, settings, link).await? {
            advice.push(piece);
        }
    }
    advice.sort_by_key(|piece| piece.kind != AdviceKind::MissingIndex);
    advice.dedup();
    advice.truncate(MOST);
    advice.extend(nodes.iter().filter_map(|(node, _)| spill(node, settings)).take(MOST));
    // The scans come last in the list, and theirs are the estimates that the others are made of.
    advice.extend(nodes.iter().rev().filter_map(|(node, _)| misestimate(node)).take(MOST));
    Ok(advice)
}

async fn scan(
    node: &Node,
    processes: f64,
    settings: &Settings,
    link: &mut Link,
) -> Result<Option<Advice>, InsightError> {
    let (Some(schema), Some(table), Some(filter)) = (&node.schema, &node.relation, &node.filter) else {
        return Ok(None);
    };
    let sql = "SELECT c.reltuples::float8 AS rows, ARRAY(SELECT pg_get_indexdef(i.indexrelid, 1, true) \
        FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisvalid AND i.indpred IS NULL) AS leading \
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
        WHERE n.nspname = $1 AND c.relname = $2";
    let Some(row) = sqlx::query(sql).bind(schema).bind(table).fetch_optional(&mut link.pg).await? else {
        return Ok(None);
    };
    let (rows, leading): (f64, Vec<String>) = (row.try_get("rows")?, row.try_get("leading")?);
    if rows < settings.big_table_rows {
        return Ok(None);
    }
    // Processes that share a step each report their own part; a step done again and again reports the mean.
    let kept = match node.actual_rows {
        Some(actual) if processes > 1.0 => actual * node.loops,
        Some(actual) => actual,
        None => node.plan_rows * processes,
    };
    let share = (kept / rows).min(1.0);
    let name = format!("{schema}.{table}");
    let seen = format!(
        "{name} (about {rows:.0} rows) is read from end to end, and {filter} keeps about {:.1} % of them",
        share * 100.0
    );
    let keys = index_keys(filter);
    let (kind, rest, ddl) = if share > SELECTIVE {
        let rest = "an index would not help; read fewer rows, or keep the result".to_owned();
        (AdviceKind::SequentialScan, rest, None)
    } else if keys.is_empty() {
        let rest =
            "no plain index serves such a condition; write it as comparisons of columns, joined by AND"
                .to_owned();
        (AdviceKind::SequentialScan, rest, None)
    } else if leading.iter().any(|column| covers(column, &keys)) {
        let rest = "an index on it is there and not used: compare without a cast or a function, or ANALYZE the table";
        let ddl = format!("ANALYZE {}.{}", quote_ident(schema), quote_ident(table));
        (AdviceKind::SequentialScan, rest.to_owned(), Some(ddl))
    } else {
        let on = format!("{}.{}", quote_ident(schema), quote_ident(table));
        let ddl = format!("CREATE INDEX CONCURRENTLY ON {on} ({})", keys.join(", "));
        (AdviceKind::MissingIndex, "an index would find them".to_owned(), Some(ddl))
    };
    Ok(Some(Advice { kind, message: format!("{seen}: {rest}"), table: Some(name), ddl }))
}

fn spill(node: &Node, settings: &Settings) -> Option<Advice> {
    let bytes = node.plan_rows * (node.width + 24.0);
    let memory = settings.work_mem / 1024.0;
    let hashed = node.strategy.as_deref() == Some("Hashed");
    let done = if node.sort_space.as_deref() == Some("Disk") {
        Some(format!("{} wrote {:.0} kB to disk", node.kind, node.sort_kb))
    } else if node.hash_batches > 1.0 {
        Some(format!("{} was done in {:.0} parts on disk", node.kind, node.hash_batches))
    } else if node.disk_kb > 0.0 {
        Some(format!("{} wrote {:.0} kB to disk", node.kind, node.disk_kb))
    } else {
        None
    };
    let limit = match node.kind.as_str() {
        "Sort" | "Incremental Sort" => settings.work_mem,
        "Hash" => settings.hash_mem,
        "Aggregate" if hashed => settings.hash_mem,
        _ => f64::INFINITY,
    };
    let seen = match done {
        Some(done) => done,
        None if node.actual_rows.is_none() && bytes > limit => {
            format!("{} of about {:.0} kB will not fit into memory", node.kind, bytes / 1024.0)
        }
        None => return None,
    };
    let message = format!(
        "{seen}; work_mem is {memory:.0} kB: raise it for this statement (SET LOCAL work_mem), or sort and group fewer rows"
    );
    Some(Advice { kind: AdviceKind::SpillToDisk, message, table: None, ddl: None })
}

fn misestimate(node: &Node) -> Option<Advice> {
    let actual = node.actual_rows?;
    let (more, less) = (actual.max(node.plan_rows), actual.min(node.plan_rows).max(1.0));
    // A step that was never begun, or stopped early by a LIMIT, says nothing about an estimate.
    if node.loops < 1.0 || more * node.loops < 1000.0 || more / less < WRONG_BY {
        return None;
    }
    let table = node.relation.as_ref().zip(node.schema.as_ref());
    let at = table
        .map_or_else(|| node.kind.clone(), |(table, schema)| format!("{} of {schema}.{table}", node.kind));
    let mend = match table {
        Some(_) => {
            "ANALYZE the table; if that does not help, CREATE STATISTICS on the columns of the condition"
        }
        None => "see to the estimates below it first",
    };
    let message = format!("{at}: {:.0} rows were expected and {actual:.0} came; {mend}", node.plan_rows);
    let ddl = table.map(|(table, schema)| format!("ANALYZE {}.{}", quote_ident(schema), quote_ident(table)));
    let table = table.map(|(table, schema)| format!("{schema}.{table}"));
    Some(Advice { kind: AdviceKind::RowMisestimate, message, table, ddl })
}

/// Whether an index that begins with this serves one of the keys.
fn covers(leading: &str, keys: &[String]) -> bool {
    let leading = tokens(leading).ok().and_then(|found| key(&found));
    leading.is_some_and(|leading| keys.contains(&leading))
}

/// What an index for this condition would hold, as SQL: what is compared for equality first, then one range. Nothing
/// for what is no AND of comparisons of a column (or of a function of it) with something else.
fn index_keys(filter: &str) -> Vec<String> {
    let Ok(found) = tokens(filter) else { return Vec::new() };
    let (mut equal, mut range) = (Vec::new(), Vec::new());
    for part in conjuncts(&found) {
        let part = unwrapped(part);
        let Some(at) = top_level(part).find(|n| part[*n].kind == Kind::Operator || part[*n].is("IS")) else {
            continue;
        };
        let (Some(key), to) = (key(&part[..at]), &part[at]) else { continue };
        let null = to.is("IS") && part.get(at + 1).is_some_and(|next| next.is("NULL"));
        if to.text == "=" || null {
            equal.push(key);
        } else if ["<", ">", "<=", ">="].contains(&to.text) {
            range.push(key);
        }
    }
    equal.extend(range.into_iter().take(1));
    let mut keys: Vec<String> = Vec::new();
    equal.into_iter().for_each(|key| {
        if !keys.contains(&key) {
            keys.push(key)
        }
    });
    keys.truncate(4);
    keys
}

/// The parts joined by AND; none where an OR joins them.
fn conjuncts<'t, 'a>(found: &'t [Token<'a>]) -> Vec<&'t [Token<'a>]> {
    let found = unwrapped(found);
    if top_level(found).any(|n| found[n].is("OR"))
        || top_level(found).next().is_some_and(|n| found[n].is("NOT"))
    {
        return Vec::new();
    }
    let ands: Vec<usize> = top_level(found).filter(|n| found[*n].is("AND")).collect();
    if ands.is_empty() {
        return vec![found];
    }
    let (mut parts, mut from) = (Vec::new(), 0);
    for at in ands.into_iter().chain([found.len()]) {
        parts.extend(conjuncts(&found[from..at]));
        from = at + 1;
    }
    parts
}

/// Places outside of all brackets.
fn top_level<'t>(found: &'t [Token<'_>]) -> impl Iterator<Item = usize> + 't {
    let mut depth = 0_i32;
    (0..found.len()).filter(move |n| {
        let before = depth;
        depth += i32::from(found[*n].is("(") || found[*n].is("["));
        depth -= i32::from(found[*n].is(")") || found[*n].is("]"));
        before == 0 && depth == 0
    })
}

/// Without the brackets around all of it.
fn unwrapped<'t, 'a>(mut found: &'t [Token<'a>]) -> &'t [Token<'a>] {
    while found.len() > 2 && found[0].is("(") && top_level(found).next().is_none() {
        let mut depth = 0_i32;
        let closes = found.iter().position(|token| {
            depth += i32::from(token.is("("));
            depth -= i32::from(token.is(")"));
            depth == 0
        });
        if closes != Some(found.len() - 1) {
            break;
        }
        found = &found[1..found.len() - 1];
    }
    found
}

/// A column, perhaps behind its table's name and a cast, or a function of a column; as it stands in an index.
fn key(found: &[Token<'_>]) -> Option<String> {
    let mut found = found;
    // `(name)::text`: a varchar compared as text, which an index on the column itself serves.
    if let Some(cast) = found.windows(2).position(|pair| pair[0].is(":") && pair[1].is(":"))
        && top_level(found).any(|n| n == cast)
    {
        found = &found[..cast];
    }
    let found = unwrapped(found);
    let is_name = |token: &Token<'_>| matches!(token.kind, Kind::Word | Kind::Quoted);
    match found {
        [column] if is_name(column) => Some(column.text.to_owned()),
        [table, dot, column] if is_name(table) && dot.is(".") && is_name(column) => {
            Some(column.text.to_owned())
        }
        [function, open, inner @ .., close] if is_name(function) && open.is("(") && close.is(")") => {
            if inner.iter().any(|token| token.is(",") || token.kind == Kind::Operator) {
                return None;
            }
            let column = key(inner)?;
            Some(format!("{}({column})", function.text))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_an_index_are_read_off_a_condition() {
        for (filter, expected) in [
            ("(orders.customer_id = 42)", &["customer_id"][..]),
            ("((o.status)::text = 'new'::text)", &["status"]),
            ("((o.at > '2020-01-01'::date) AND (o.\"Kind\" = 3) AND (o.at < now()))", &["\"Kind\"", "at"]),
            ("(lower((users.name)::text) = 'x (y'::text)", &["lower(name)"]),
            ("(t.id = ANY ('{1,2}'::integer[]))", &["id"]),
            ("((t.a IS NULL) AND (t.b >= $1))", &["a", "b"]),
            ("((t.a = 1) OR (t.b = 2))", &[]),
            ("((t.a = 1) AND ((t.b = 2) OR (t.c = 3)))", &["a"]),
            ("(NOT t.done)", &[]),
            ("((t.a + 1) = 3)", &[]),
            ("(t.name ~~ '%x'::text)", &[]),
        ] {
            assert_eq!(index_keys(filter), expected, "{filter}");
        }
    }
}
