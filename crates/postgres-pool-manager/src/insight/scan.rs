//! SQL text as tokens, exactly as the server's scanner cuts it (with `standard_conforming_strings` on): quotes, nested
//! comments, dollar quotes. It knows no grammar.

use super::InsightError;
use std::borrow::Cow;

/// What a piece of text is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A keyword or a name.
    Word,
    /// A name in double quotes.
    Quoted,
    /// A string or a number.
    Literal,
    /// `$1`.
    Parameter,
    /// `=`, `<@`, `~~*`, …
    Operator,
    /// One character: brackets, comma, dot, semicolon, colon.
    Sign,
}

/// A piece of text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    /// Where it begins, in bytes.
    pub(crate) at: usize,
}

impl<'a> Token<'a> {
    pub(crate) fn is(&self, text: &str) -> bool {
        self.kind != Kind::Quoted && self.kind != Kind::Literal && self.text.eq_ignore_ascii_case(text)
    }

    /// The name that it is, as catalogs hold it; `None` for what is no word.
    pub(crate) fn name(&self) -> Option<Cow<'a, str>> {
        match self.kind {
            Kind::Word => Some(Cow::Owned(self.text.to_lowercase())),
            Kind::Quoted => Some(Cow::Owned(self.text[1..self.text.len() - 1].replace("\"\"", "\""))),
            _ => None,
        }
    }
}

/// All tokens; comments and white space are none.
pub(crate) fn tokens(sql: &str) -> Result<Vec<Token<'_>>, InsightError> {
    let (mut found, mut at) = (Vec::new(), 0);
    while let Some(c) = sql[at..].chars().next() {
        let rest = &sql[at..];
        if c.is_whitespace() {
            at += c.len_utf8();
            continue;
        }
        if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
            continue;
        }
        if rest.starts_with("/*") {
            at += comment(rest).ok_or(InsightError::Unterminated("a comment"))?;
            continue;
        }
        let (kind, length) = piece(rest, c)?;
        found.push(Token { kind, text: &rest[..length], at });
        at += length;
    }
    Ok(found)
}

fn piece(rest: &str, c: char) -> Result<(Kind, usize), InsightError> {
    let literal = InsightError::Unterminated("a literal");
    let quote = |escapes, from| string(&rest[from..], escapes).map(|length| (Kind::Literal, from + length));
    match c {
        '\'' => quote(false, 0).ok_or(literal),
        'e' | 'E' if rest[1..].starts_with('\'') => quote(true, 1).ok_or(literal),
        'b' | 'B' | 'x' | 'X' | 'n' | 'N' if rest[1..].starts_with('\'') => quote(false, 1).ok_or(literal),
        'u' | 'U' if rest[1..].starts_with("&'") => quote(false, 2).ok_or(literal),
        'u' | 'U' if rest[1..].starts_with("&\"") => {
            Err(InsightError::Unterminated("a name of the form U&\"…\""))
        }
        '"' => {
            let length = doubled(rest, '"').ok_or(InsightError::Unterminated("a quoted name"))?;
            Ok((Kind::Quoted, length))
        }
        '$' => match rest[1..].bytes().take_while(u8::is_ascii_digit).count() {
            0 => dollar(rest).map(|length| (Kind::Literal, length)).ok_or(literal),
            digits => Ok((Kind::Parameter, 1 + digits)),
        },
        c if is_start(c) => {
            let end = rest.find(|c: char| !(is_start(c) || c.is_ascii_digit() || c == '$'));
            Ok((Kind::Word, end.unwrap_or(rest.len())))
        }
        c if c.is_ascii_digit() => {
            let end = rest.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.' || c == '_'));
            Ok((Kind::Literal, end.unwrap_or(rest.len())))
        }
        c if OPERATOR.contains(c) => Ok((Kind::Operator, operator(rest))),
        c => Ok((Kind::Sign, c.len_utf8())),
    }
}

const OPERATOR: &str = "+-*/<>=~!@#%^&|`?";

/// Its characters up to where a comment begins.
fn operator(rest: &str) -> usize {
    let end = rest.find(|c: char| !OPERATOR.contains(c)).unwrap_or(rest.len());
    let comment = [rest[..end].find("--"), rest[..end].find("/*")].into_iter().flatten().min();
    comment.filter(|at| *at > 0).unwrap_or(end)
}

fn is_start(c: char) -> bool {
    c.is_ascii_alphabetic() || c == '_' || !c.is_ascii()
}

/// Length of a comment that begins here, with those inside it.
fn comment(rest: &str) -> Option<usize> {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if rest[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return Some(at);
            }
        } else {
            at += rest[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    None
}

fn string(rest: &str, escapes: bool) -> Option<usize> {
    if !escapes {
        return doubled(rest, '\'');
    }
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            '\'' if chars.peek().is_some_and(|(_, next)| *next == '\'') => drop(chars.next()),
            '\'' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// Length of what this quote begins and ends; doubled it stands for itself.
fn doubled(rest: &str, quote: char) -> Option<usize> {
    let mut chars = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = chars.next() {
        if c == quote {
            if chars.peek().is_some_and(|(_, next)| *next == quote) {
                chars.next();
            } else {
                return Some(at + 1);
            }
        }
    }
    None
}

fn dollar(rest: &str) -> Option<usize> {
    let end = rest[1..].find('$')? + 2;
    let tag = &rest[..end];
    let plain = tag[1..end - 1].chars().all(|c| is_start(c) || c.is_ascii_digit());
    let close = rest[end..].find(tag).filter(|_| plain)?;
    Some(end + close + tag.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(sql: &str) -> Vec<&str> {
        tokens(sql).unwrap().into_iter().map(|token| token.text).collect()
    }

    #[test]
    fn text_is_cut_where_the_server_cuts_it() {
        assert_eq!(
            cut("SELECT a.\"b\"\"c\", 'it''s' -- x\n FROM t;"),
            ["SELECT", "a", ".", "\"b\"\"c\"", ",", "'it''s'", "FROM", "t", ";"]
        );
        assert_eq!(cut("/* /* */ ' */ a; b --'"), ["a", ";", "b"], "comments nest");
        assert_eq!(cut(r"E'\'; x' 'c:\' n'y'"), [r"E'\'; x'", r"'c:\'", "n'y'"]);
        assert_eq!(cut("$1 $$;$$ $a$ $$ $a$ 1e3 a$1"), ["$1", "$$;$$", "$a$ $$ $a$", "1e3", "a$1"]);
        assert_eq!(cut("a<=b-- x\n*-c/**/|| d"), ["a", "<=", "b", "*-", "c", "||", "d"]);
        assert_eq!(cut("x::text[1]"), ["x", ":", ":", "text", "[", "1", "]"]);
        for broken in ["'a", "\"a", "/* /* */", "$a$ x", r"E'\'", "U&\"a\""] {
            assert!(matches!(tokens(broken), Err(InsightError::Unterminated(_))), "{broken}");
        }
    }

    #[test]
    fn names_are_folded_unless_quoted() {
        let names: Vec<_> = tokens("Ab \"Ab\" 'Ab'").unwrap().iter().map(|t| t.name()).collect();
        assert_eq!(names, [Some("ab".into()), Some("Ab".into()), None]);
    }
}
