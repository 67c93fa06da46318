//! A statement's first words without what was written into it, for reports that people read. It is no parser: what it
//! cannot tell from a value is left out.

use crate::sql::{body, escapes, quoted};

/// Longer than this is cut.
const LENGTH: usize = 80;

/// Its first words; `?` stands for literals and numbers, comments are gone, white space is one blank.
pub(crate) fn summary(sql: &str) -> String {
    let (mut out, mut at, mut gap) = (String::with_capacity(LENGTH + 4), 0, false);
    while let Some(first) = sql[at..].chars().next() {
        let rest = &sql[at..];
        let in_name = out.ends_with(|c: char| c.is_alphanumeric() || c == '_') && !gap;
        let (length, shown) = match first {
            c if c.is_whitespace() => (c.len_utf8(), None),
            '-' if rest.starts_with("--") => (rest.find('\n').unwrap_or(rest.len()), None),
            '/' if rest.starts_with("/*") => (rest.find("*/").map_or(rest.len(), |end| end + 2), None),
            // A doubled quote ends one piece of a literal and begins the next.
            '\'' if out.ends_with('?') && !gap => (quoted(rest, '\'', false), Some("")),
            '\'' => (quoted(rest, '\'', escapes(&sql[..at])), Some("?")),
            '"' => {
                let length = quoted(rest, '"', false);
                (length, Some(&rest[..length]))
            }
            '$' => match body(rest) {
                1 => (1, Some("$")),
                length => (length, Some("?")),
            },
            c if c.is_ascii_digit() && !in_name && !out.ends_with('$') => {
                let number = |c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_');
                (rest.find(number).unwrap_or(rest.len()), Some("?"))
            }
            c => (c.len_utf8(), Some(&rest[..c.len_utf8()])),
        };
        at += length;
        let Some(shown) = shown else {
            gap = true;
            continue;
        };
        if gap && !out.is_empty() {
            out.push(' ');
        }
        gap = false;
        if out.chars().count() + shown.chars().count() > LENGTH {
            out.truncate(out.trim_end().len());
            out.push('…');
            return out;
        }
        out.push_str(shown);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::summary;

    #[test]
    fn values_are_left_out_and_names_are_not() {
        for (sql, expected) in [
            ("SELECT 1", "SELECT ?"),
            ("  -- why\n select\n\tname from t1 where a_2 = $1 ", "select name from t1 where a_2 = $1"),
            (
                "UPDATE t SET a = 'it''s secret', b = E'\\'x' /* 'no' */ WHERE c = 1.5e3",
                "UPDATE t SET a = ?, b = E? WHERE c = ?",
            ),
            ("SELECT $$secret$$, $x$ secret $x$ FROM \"My 1 table\"", "SELECT ?, ? FROM \"My 1 table\""),
            ("SELECT 'open", "SELECT ?"),
            ("", ""),
        ] {
            assert_eq!(summary(sql), expected, "{sql}");
        }
    }

    #[test]
    fn what_is_long_is_cut_between_characters() {
        let long = format!("SELECT {}", "ä".repeat(200));
        let short = summary(&long);
        assert!(short.starts_with("SELECT ää") && short.ends_with('…'), "{short}");
        assert_eq!(short.chars().count(), 81);
    }
}
