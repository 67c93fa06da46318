//! What a statement does to its session, read off its text. It is no parser: in doubt a session is reset, which
//! costs a round trip in the background and nothing else.

use sqlx::{SqlSafeStr, SqlStr};

/// What a statement leaves behind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    /// Nothing beyond its transaction.
    None,
    /// Perhaps session state.
    State,
    /// It begins or ends a transaction; the word.
    Transaction(&'static str),
}

/// The latest statement of a connection: the next is very often the same.
#[derive(Debug)]
pub(crate) struct Latest {
    /// Static or shared: cheap to clone.
    sql: SqlStr,
    simple: bool,
    effect: Effect,
}

impl Default for Latest {
    fn default() -> Self {
        Self { sql: "".into_sql_str(), simple: false, effect: Effect::None }
    }
}

impl Latest {
    pub(crate) const fn sql(&self) -> &SqlStr {
        &self.sql
    }

    /// [`effect`], worked out anew if the statement is another one.
    pub(crate) fn effect_of(&mut self, sql: &SqlStr, simple: bool) -> Effect {
        if self.simple != simple || self.sql.as_str() != sql.as_str() {
            *self = Self { sql: sql.clone(), simple, effect: effect(sql.as_str(), simple) };
        }
        self.effect
    }
}

/// `simple`: sent without arguments, hence perhaps several statements.
pub(crate) fn effect(sql: &str, simple: bool) -> Effect {
    if !simple || !sql.contains(';') {
        return statement_effect(sql);
    }
    let (mut rest, mut statements, mut effect) = (sql, 0, Effect::None);
    while !rest.is_empty() {
        let (statement, after) = split_statement(rest);
        rest = after;
        statements += u32::from(!skip_comments(statement).is_empty());
        match statement_effect(statement) {
            Effect::None => {}
            Effect::State => effect = Effect::State,
            Effect::Transaction(word) => return Effect::Transaction(word),
        }
    }
    // Several in one text: in doubt.
    if statements > 1 { Effect::State } else { effect }
}

/// How many statements a text holds; comments and lone semicolons are none.
pub(crate) fn statements(sql: &str) -> usize {
    let (mut rest, mut count) = (sql, 0);
    while !rest.is_empty() {
        let (statement, after) = split_statement(rest);
        rest = after;
        count += usize::from(!skip_comments(statement).is_empty());
    }
    count
}

/// The first statement and what follows its semicolon. One inside a literal, a quoted name, a comment or a function's
/// body ends nothing.
pub(crate) fn split_statement(sql: &str) -> (&str, &str) {
    let mut at = 0;
    while let Some(found) = sql[at..].find([';', '\'', '"', '-', '/', '$']) {
        at += found;
        let rest = &sql[at..];
        at += match rest.as_bytes()[0] {
            b';' => return (&sql[..at], &sql[at + 1..]),
            b'\'' => quoted(rest, '\'', escapes(&sql[..at])),
            b'"' => quoted(rest, '"', false),
            b'-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            b'/' if rest.starts_with("/*") => comment(rest),
            b'$' if !ends_in_name(&sql[..at]) => body(rest),
            _ => 1,
        };
    }
    (sql, "")
}

/// Length of `/* … */`; comments nest.
pub(crate) fn comment(sql: &str) -> usize {
    let (mut depth, mut at) = (0_u32, 0);
    while let Some(found) = sql[at..].find("/*").into_iter().chain(sql[at..].find("*/")).min() {
        at += found + 2;
        if sql[..at].ends_with("/*") {
            depth += 1;
        } else if depth <= 1 {
            return at;
        } else {
            depth -= 1;
        }
    }
    sql.len()
}

/// Whether what follows goes on with a name or a number: there a dollar begins no body.
pub(crate) fn ends_in_name(before: &str) -> bool {
    before.chars().next_back().is_some_and(|c| c.is_alphanumeric() || c == '_' || c == '$')
}

/// Length of what begins with this quote. A doubled quote ends one piece and begins the next.
pub(crate) fn quoted(sql: &str, quote: char, escapes: bool) -> usize {
    let mut escaped = false;
    for (at, c) in sql.char_indices().skip(1) {
        if escaped {
            escaped = false;
        } else if c == quote {
            return at + 1;
        } else {
            escaped = escapes && c == '\\';
        }
    }
    sql.len()
}

/// Whether the literal that follows is of the form `E'…'`.
pub(crate) fn escapes(before: &str) -> bool {
    let mut last = before.bytes().rev();
    matches!(last.next(), Some(b'e' | b'E'))
        && !last.next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Length of `$tag$ … $tag$`; 1 where no tag begins.
pub(crate) fn body(sql: &str) -> usize {
    let tag = sql[1..].find('$').map(|end| &sql[..end + 2]);
    let tag = tag.filter(|tag| tag[1..tag.len() - 1].bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_'));
    let Some(tag) = tag.filter(|tag| !tag.as_bytes()[1].is_ascii_digit()) else { return 1 };
    sql[tag.len()..].find(tag).map_or(sql.len(), |end| end + 2 * tag.len())
}

fn statement_effect(sql: &str) -> Effect {
    let rest = skip_comments(sql);
    let (word, rest) = split_word(rest);
    let is = |list: &[&str]| list.iter().any(|w| word.eq_ignore_ascii_case(w));
    let next = || split_word(skip_comments(rest)).0;
    let next_is = |list: &[&str]| list.iter().any(|w| next().eq_ignore_ascii_case(w));
    if is(&["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "VALUES", "MERGE", "TABLE"]) {
        return if hides_state(sql) { Effect::State } else { Effect::None };
    }
    if is(&["BEGIN", "START"]) {
        return Effect::Transaction("BEGIN");
    }
    if is(&["COMMIT", "END"]) {
        return Effect::Transaction("COMMIT");
    }
    if is(&["ABORT"]) || (is(&["ROLLBACK"]) && !rolls_back_to(rest)) {
        return Effect::Transaction("ROLLBACK");
    }
    if is(&["PREPARE"]) && next_is(&["TRANSACTION"]) {
        return Effect::Transaction("PREPARE TRANSACTION");
    }
    let local_set = is(&["SET"]) && next_is(&["LOCAL", "TRANSACTION", "CONSTRAINTS"]);
    let harmless = is(&[
        "",
        "EXPLAIN",
        "SHOW",
        "ANALYZE",
        "VACUUM",
        "TRUNCATE",
        "NOTIFY",
        "COPY",
        "GRANT",
        "REVOKE",
        "COMMENT",
        "ALTER",
        "DROP",
        "REINDEX",
        "REFRESH",
        "CLUSTER",
        "CHECKPOINT",
        "SAVEPOINT",
        "RELEASE",
        "ROLLBACK",
        "LOCK",
    ]);
    if harmless || local_set { Effect::None } else { Effect::State }
}

fn rolls_back_to(rest: &str) -> bool {
    let (mut word, rest) = split_word(skip_comments(rest));
    if word.eq_ignore_ascii_case("WORK") || word.eq_ignore_ascii_case("TRANSACTION") {
        word = split_word(skip_comments(rest)).0;
    }
    word.eq_ignore_ascii_case("TO")
}

/// Session-level locks and settings hide in functions, a temporary table in SELECT … INTO.
fn hides_state(sql: &str) -> bool {
    let bytes = sql.as_bytes();
    let is = |at: usize, word: &str| {
        bytes.get(at..at + word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes()))
    };
    let temporary = |at: usize| {
        let word = split_word(skip_comments(&sql[at..])).0;
        ["TEMP", "TEMPORARY", "LOCAL", "GLOBAL"].iter().any(|w| word.eq_ignore_ascii_case(w))
    };
    (0..bytes.len()).any(|at| match bytes[at] {
        b'a' | b'A' => is(at, "advisory_lock"),
        b's' | b'S' => is(at, "set_config"),
        b'i' | b'I' => is(at, "into") && temporary(at + 4),
        _ => false,
    })
}

/// Past white space, comments and opening brackets.
pub(crate) fn skip_comments(mut sql: &str) -> &str {
    loop {
        sql = sql.trim_start_matches(|c: char| c.is_whitespace() || c == '(');
        sql = if let Some(comment) = sql.strip_prefix("--") {
            comment.find('\n').map_or("", |end| &comment[end..])
        } else if sql.starts_with("/*") {
            &sql[comment(sql)..]
        } else {
            return sql;
        };
    }
}

pub(crate) fn split_word(sql: &str) -> (&str, &str) {
    sql.split_at(sql.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(sql.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn effects_by_first_word() {
        use Effect::{None, State, Transaction};
        for (sql, expected) in [
            ("SELECT 1", None),
            ("  -- x\n /* y */ (select 1) union (select 2)", None),
            ("SELECT pg_try_advisory_lock(1)", State),
            ("SELECT pg_advisory_xact_lock(1)", None),
            ("SELECT set_config('a.b', 'c', false)", State),
            ("select Pg_Advisory_Lock(1), SET_CONFIG('a.b', 'c', false)", State),
            ("SELECT 1 AS a INTO /* x */ temporary TABLE t", State),
            ("SELECT 1 AS a into Temp t", State),
            ("INSERT INTO temperatures VALUES (1)", None),
            ("SET search_path = x", State),
            ("SET LOCAL search_path = x", None),
            ("set transaction isolation level serializable", None),
            ("LISTEN x", State),
            ("CREATE TEMP TABLE t ()", State),
            ("DECLARE c CURSOR FOR SELECT 1", State),
            ("begin", Transaction("BEGIN")),
            ("START TRANSACTION", Transaction("BEGIN")),
            ("COMMIT;", Transaction("COMMIT")),
            ("ROLLBACK", Transaction("ROLLBACK")),
            ("ROLLBACK WORK TO SAVEPOINT a", None),
            ("rollback to a", None),
            ("PREPARE TRANSACTION 'x'", Transaction("PREPARE TRANSACTION")),
            ("PREPARE p AS SELECT 1", State),
            ("", None),
        ] {
            assert_eq!(effect(sql, false), expected, "{sql}");
        }
    }

    #[test]
    fn several_statements_in_one_text() {
        assert_eq!(effect("SELECT 1; ", true), Effect::None);
        assert_eq!(effect("SELECT 1; -- done", true), Effect::None);
        assert_eq!(effect("SELECT 1; SELECT 2", true), Effect::State);
        assert_eq!(effect("SELECT 1; commit", true), Effect::Transaction("COMMIT"));
        assert_eq!(effect("UPDATE t SET a = 1; DO $$ BEGIN x; END $$", true), Effect::State);
        assert_eq!(effect("DO $a$ BEGIN x; COMMIT; END $a$; end", true), Effect::Transaction("COMMIT"));
        assert_eq!(effect("SET a = 1; COMMIT", true), Effect::Transaction("COMMIT"));
        assert_eq!(effect("SELECT ';' || $1", false), Effect::None);
    }

    #[test]
    fn statements_are_counted() {
        for (sql, expected) in [
            ("", 0),
            (" ; -- nothing\n ; /* at all; */", 0),
            ("SELECT ';'; ", 1),
            ("DO $$ BEGIN a; b; END $$", 1),
            ("SELECT 1; SELECT 2", 2),
        ] {
            assert_eq!(statements(sql), expected, "{sql}");
        }
    }

    #[test]
    fn a_semicolon_in_quotes_ends_no_statement() {
        for sql in [
            "SELECT '; commit'",
            "SELECT 'it''s; commit'",
            r"SELECT E'\'; commit'",
            r"SELECT 'c:\' AS a",
            "SELECT 1 AS \"; commit\"",
            "SELECT 1 -- ; commit",
            "SELECT /* ; commit */ 1",
            "SELECT /* /* */ ; commit */ 1",
            "SELECT 1 /* /* ; commit */",
            "SELECT $$; commit$$, $x$; $$ commit$x$",
        ] {
            assert_eq!(effect(sql, true), Effect::None, "{sql}");
        }
        for sql in [
            "SELECT 'a'; commit",
            "/* a /* b */ SELECT 1 */ commit",
            "SELECT 1 AS a$b$; commit",
            "SELECT 1 AS é$b$; commit",
            r"SELECT 'c:\'; commit",
            "SELECT $1 - 2 / 3; commit",
        ] {
            assert_eq!(effect(sql, true), Effect::Transaction("COMMIT"), "{sql}");
        }
    }
}
