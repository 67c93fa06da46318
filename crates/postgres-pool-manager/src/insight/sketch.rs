//! Which statements take long, as this process sees them: a table of bounded size, fed with one statement in sixteen.
//! It is not the server's statistics, and forgets what was cheap when it is full.

use super::SlowQuery;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher},
    time::Duration,
};

/// One statement in so many is measured: the clock and the text cost what a sixteenth can bear.
pub(crate) const EVERY: u32 = 16;

/// Different statements that are remembered; more than a service of ordinary size has.
const ROOM: usize = 256;

/// Bytes of a text that are looked at. Longer ones with the same beginning count as one.
const LOOKED_AT: usize = 1000;

/// The statements measured.
#[derive(Debug, Default)]
pub(crate) struct Sketch(Mutex<HashMap<u64, Entry>>);

#[derive(Clone, Debug)]
struct Entry {
    shape: Box<str>,
    calls: u32,
    /// Milliseconds.
    total: f64,
    max: f64,
    /// Sum of squared differences from the mean (Welford).
    spread: f64,
}

/// A statement's text without its literals.
#[derive(Debug)]
pub(crate) struct Shape(String);

impl Shape {
    pub(crate) fn of(sql: &str) -> Self {
        Self(shape(sql))
    }

    pub(crate) fn first_word(&self) -> &str {
        let end = self.0.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(self.0.len());
        &self.0[..end]
    }
}

impl Sketch {
    pub(crate) fn add(&self, Shape(shape): Shape, took: Duration) {
        if shape.is_empty() {
            return;
        }
        let mut hasher = DefaultHasher::new();
        hasher.write(shape.as_bytes());
        let (key, took) = (hasher.finish(), took.as_secs_f64() * 1000.0);
        let mut table = self.0.lock();
        if let Some(entry) = table.get_mut(&key) {
            return entry.add(took);
        }
        if table.len() >= ROOM {
            // What cost least so far is the least loss.
            let least = table.iter().min_by(|a, b| a.1.total.total_cmp(&b.1.total)).map(|(key, _)| *key);
            least.and_then(|key| table.remove(&key));
        }
        let shape = shape.into_boxed_str();
        table.insert(key, Entry { shape, calls: 1, total: took, max: took, spread: 0.0 });
    }
}

impl Entry {
    fn add(&mut self, took: f64) {
        let before = self.total / f64::from(self.calls);
        self.calls = self.calls.saturating_add(1);
        self.total += took;
        self.max = self.max.max(took);
        self.spread += (took - before) * (took - self.total / f64::from(self.calls));
    }

    fn merge(&mut self, other: &Self) {
        let (a, b) = (f64::from(self.calls), f64::from(other.calls));
        let apart = other.total / b - self.total / a;
        self.spread += other.spread + apart * apart * a * b / (a + b);
        self.calls = self.calls.saturating_add(other.calls);
        self.total += other.total;
        self.max = self.max.max(other.max);
    }
}

/// All that was measured, of several servers together.
pub(crate) fn merged<'a>(sketches: impl Iterator<Item = &'a Sketch>) -> Vec<SlowQuery> {
    let mut all: HashMap<u64, Entry> = HashMap::new();
    for sketch in sketches {
        for (key, entry) in sketch.0.lock().iter() {
            all.entry(*key).and_modify(|known| known.merge(entry)).or_insert_with(|| entry.clone());
        }
    }
    let query = |entry: Entry| {
        let calls = f64::from(entry.calls);
        SlowQuery {
            query: entry.shape.into_string(),
            calls: i64::from(entry.calls),
            mean_exec_time: entry.total / calls,
            max_exec_time: entry.max,
            stddev_exec_time: (entry.spread / calls).max(0.0).sqrt(),
            total_exec_time: entry.total,
        }
    };
    all.into_values().map(query).collect()
}

/// The text with literals as `?`, white space as one blank, comments gone, and lists of literals as one: values differ
/// from call to call and may be private.
fn shape(sql: &str) -> String {
    let (mut out, mut rest) = (String::with_capacity(sql.len().min(LOOKED_AT)), sql);
    while let Some(c) = rest.chars().next() {
        if out.len() >= LOOKED_AT {
            break;
        }
        let length = match c {
            '\'' => {
                // The letter of E'…', B'…', X'…' and the like belongs to the literal.
                let word = out.len() - out.bytes().rev().take_while(u8::is_ascii_alphanumeric).count();
                if out.len() - word == 1 {
                    out.truncate(word);
                }
                put(&mut out, '?');
                crate::sql::quoted(rest, '\'', crate::sql::escapes(&sql[..sql.len() - rest.len()]))
            }
            '$' if crate::sql::body(rest) > 1 => {
                put(&mut out, '?');
                crate::sql::body(rest)
            }
            '"' => {
                let length = crate::sql::quoted(rest, '"', false);
                out.push_str(&rest[..length]);
                length
            }
            '-' if rest.starts_with("--") => rest.find('\n').unwrap_or(rest.len()),
            '/' if rest.starts_with("/*") => rest.find("*/").map_or(rest.len(), |end| end + 2),
            c if c.is_whitespace() => {
                if !out.ends_with([' ', '(']) && !out.is_empty() {
                    out.push(' ');
                }
                c.len_utf8()
            }
            c if c.is_ascii_digit()
                && !out.ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == '$') =>
            {
                put(&mut out, '?');
                rest.find(|c: char| !c.is_ascii_alphanumeric() && c != '.').unwrap_or(rest.len())
            }
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    out.truncate(out.trim_end_matches([' ', ';']).len());
    out
}

/// A literal; the second of a list and all after it are left out.
fn put(out: &mut String, literal: char) {
    let before = out.trim_end_matches([' ', ',']).len();
    if out[before..].contains(',') && out[..before].ends_with("?") {
        out.truncate(before);
    } else if !out.ends_with(literal) {
        // A doubled quote is two literals to the eye, one to the server.
        out.push(literal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn literals_comments_and_lists_do_not_tell_statements_apart() {
        for (sql, expected) in [
            ("SELECT  1", "SELECT ?"),
            (
                "select * from t2\n where a = 'it''s' -- x\n and b=$1;",
                "select * from t2 where a = ? and b=$1",
            ),
            ("SELECT a FROM t WHERE id IN ( 1, 2,3 , 4)", "SELECT a FROM t WHERE id IN (?)"),
            (r"SELECT E'a\'b', $$x$$, 1.5e3 /* y */ FROM c1", "SELECT ? FROM c1"),
            ("SELECT \"Col 1\" FROM t", "SELECT \"Col 1\" FROM t"),
            ("SELECT x'ff', 'é€'", "SELECT ?"),
            ("", ""),
            ("-- nothing", ""),
        ] {
            assert_eq!(shape(sql), expected, "{sql}");
        }
        let long = shape(&format!("SELECT {}", "é, ".repeat(1000)));
        assert!(long.len() <= LOOKED_AT + 3, "{}", long.len());
    }

    #[test]
    fn the_table_is_bounded_and_keeps_what_costs_most() {
        let sketch = Sketch::default();
        for _ in 0..3 {
            sketch.add(Shape::of("SELECT slow"), Duration::from_secs(1));
        }
        for n in 0..10_000 {
            let name: String = n.to_string().bytes().map(|digit| char::from(digit + 49)).collect();
            sketch.add(Shape::of(&format!("SELECT {name}")), Duration::from_millis(1));
        }
        let all = merged([&sketch, &sketch].into_iter());
        assert_eq!(all.len(), ROOM);
        let slow = all.iter().find(|query| query.query == "SELECT slow").unwrap();
        assert_eq!((slow.calls, slow.mean_exec_time, slow.stddev_exec_time), (6, 1000.0, 0.0));
    }

    #[test]
    fn spread_is_that_of_the_durations() {
        let (a, b) = (Sketch::default(), Sketch::default());
        for (sketch, millis) in [(&a, 10), (&a, 20), (&b, 30), (&b, 40)] {
            sketch.add(Shape::of("SELECT 1"), Duration::from_millis(millis));
        }
        let all = merged([&a, &b].into_iter());
        assert!((all[0].mean_exec_time - 25.0).abs() < 1e-9, "{all:?}");
        assert!((all[0].stddev_exec_time - 125.0_f64.sqrt()).abs() < 1e-9, "{all:?}");
        assert!((all[0].max_exec_time - 40.0).abs() < 1e-9, "{all:?}");
    }
}
