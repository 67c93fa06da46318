//! Results on stdout: JSON for programs, tables for people, from the same value. A reader that went away is no error.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table, presets};
use serde_json::Value;

/// How results are printed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    json: bool,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self { json }
    }

    pub(crate) fn is_json(self) -> bool {
        self.json
    }

    /// Prints a result: as JSON when asked for, else as tables.
    pub(crate) fn value(self, value: &Value) -> io::Result<()> {
        if self.json { self.json(value) } else { self.text(&tables(value)) }
    }

    /// Prints a result that has a wording of its own for people.
    pub(crate) fn either(self, value: &Value, text: &str) -> io::Result<()> {
        if self.json { self.json(value) } else { self.text(text) }
    }

    /// An announcement of a command that goes on: one line, also as JSON.
    pub(crate) fn line(self, value: &Value, text: &str) -> io::Result<()> {
        if self.json { self.text(&value.to_string()) } else { self.text(text) }
    }

    fn json(self, value: &Value) -> io::Result<()> {
        self.text(&serde_json::to_string_pretty(value)?)
    }

    /// Prints text, ending its last line.
    pub(crate) fn text(self, text: &str) -> io::Result<()> {
        let mut out = io::stdout().lock();
        let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
        let written = out
            .write_all(text.as_bytes())
            .and_then(|()| out.write_all(end.as_bytes()))
            .and_then(|()| out.flush());
        match written {
            // `dbsvc … | head` has read what it wanted.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other,
        }
    }
}

/// A line on stderr; with nobody reading it there is nobody to tell.
pub(crate) fn complain(text: &str) {
    let _nobody_reads = writeln!(io::stderr().lock(), "{text}");
}

/// A table of rows under these headings.
pub(crate) fn table(headings: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    if !headings.is_empty() {
        table.set_header(headings);
    }
    for row in rows {
        table.add_row(row);
    }
    table.lines().map(|line| line.trim_end().to_owned()).collect::<Vec<_>>().join("\n")
}

/// Any JSON as tables: plain members as `name value`, lists of objects as columns.
pub(crate) fn tables(value: &Value) -> String {
    let mut parts = Vec::new();
    lay_out("", value, &mut parts);
    parts.join("\n\n")
}

fn lay_out(name: &str, value: &Value, parts: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            let mut plain = Vec::new();
            let mut lists = Vec::new();
            flatten(name, members, &mut plain, &mut lists);
            if !plain.is_empty() {
                parts.push(table(&[], plain.into_iter().map(|(name, value)| vec![name, cell(value)])));
            }
            for (name, list) in lists {
                parts.push(format!("{name}\n{}", rows_table(list)));
            }
        }
        Value::Array(list) if list.iter().all(Value::is_object) => parts.push(rows_table(list)),
        other => parts.push(cell(other)),
    }
}

fn flatten<'v>(
    prefix: &str,
    members: &'v serde_json::Map<String, Value>,
    plain: &mut Vec<(String, &'v Value)>,
    lists: &mut Vec<(String, &'v [Value])>,
) {
    for (name, value) in members {
        let name = if prefix.is_empty() { name.clone() } else { format!("{prefix}.{name}") };
        match value {
            Value::Object(inner) if !inner.is_empty() => flatten(&name, inner, plain, lists),
            Value::Array(list) if !list.is_empty() && list.iter().all(Value::is_object) => {
                lists.push((name, list));
            }
            other => plain.push((name, other)),
        }
    }
}

fn rows_table(rows: &[Value]) -> String {
    if rows.is_empty() {
        return "(none)".to_owned();
    }
    let mut headings: Vec<&str> = Vec::new();
    for name in rows.iter().filter_map(Value::as_object).flat_map(|row| row.keys()) {
        if !headings.contains(&name.as_str()) {
            headings.push(name);
        }
    }
    table(&headings, rows.iter().map(|row| headings.iter().map(|name| cell(&row[*name])).collect()))
}

pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) => text.clone(),
        Value::Number(number) if number.is_f64() => format!("{:.4}", number.as_f64().unwrap_or_default())
            .trim_end_matches('0')
            .trim_end_matches('.')
            .to_owned(),
        other => other.to_string(),
    }
}

/// What is to be known about an answer: what was cut off, what rights hide, and notes; a line each, after a blank one.
pub(crate) fn remarks(answer: &Value) -> String {
    let mut lines = Vec::new();
    if answer["truncated"] == true {
        lines.push("there are more; see --limit".to_owned());
    }
    lines.extend(answer["notes"].as_array().into_iter().flatten().map(cell));
    for missing in answer["missing"].as_array().into_iter().flatten() {
        let (hidden, grant) = (cell(&missing["hidden"]), cell(&missing["grant"]));
        lines.push(format!("not shown or not done: {hidden}; to mend it: {grant}"));
    }
    if lines.is_empty() { String::new() } else { format!("\n\n{}", lines.join("\n")) }
}

#[cfg(test)]
mod tests;
