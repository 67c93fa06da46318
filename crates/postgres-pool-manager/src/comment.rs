//! Comments on statements, so that a database's log or `pg_stat_activity` tells which service and which request a
//! statement came from; written as the [sqlcommenter specification](https://google.github.io/sqlcommenter/spec/) says.
//! Nothing is added unless it is asked for.

use crate::{config::Config, session::Traced};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::fmt::{self, Write};

/// What is said about the request at hand: the W3C `traceparent` of the current trace, if it is sampled.
pub type Traceparent = fn() -> Option<String>;

/// Everything but what URLs leave alone: no quote and no end of a comment can come out of it.
const RESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// What a pool's statements are marked with.
#[derive(Clone, Default)]
pub(crate) struct Comment {
    /// Sorted by key, each `key='value'`.
    tags: Vec<String>,
    traceparent: Option<Traceparent>,
}

impl Comment {
    pub(crate) fn new(config: &Config) -> Self {
        let tags = config.statement_tags.iter().map(|(key, value)| tag(key, value)).collect();
        Self { tags, traceparent: config.traceparent }
    }

    /// The statement with the comment behind it. One that was prepared by hand is left as it was prepared.
    pub(crate) fn on(&self, query: Traced) -> Traced {
        let traceparent = self.traceparent.and_then(|current| current());
        if (self.tags.is_empty() && traceparent.is_none()) || query.is_prepared() {
            return query;
        }
        let mut tags = self.tags.clone();
        // Another text each time: kept, each would be a prepared statement of its own.
        let once = traceparent.is_some();
        tags.extend(traceparent.map(|parent| tag("traceparent", &parent)));
        tags.sort_unstable();
        query.with_comment(&tags.join(","), once)
    }
}

impl fmt::Debug for Comment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Comment").field("tags", &self.tags).finish_non_exhaustive()
    }
}

fn tag(key: &str, value: &str) -> String {
    let (key, value) = (utf8_percent_encode(key, RESERVED), utf8_percent_encode(value, RESERVED));
    let mut tag = String::new();
    // A string takes everything.
    let _ = write!(tag, "{key}='{value}'");
    tag
}

#[cfg(test)]
mod tests {
    use super::*;
    use sqlx::Execute;

    fn commented(config: &Config, sql: &'static str) -> (String, bool) {
        let query = Comment::new(config).on(Traced::new(sqlx::query(sql)).unwrap());
        let persistent = query.persistent();
        (query.sql().as_str().to_owned(), persistent)
    }

    #[test]
    fn nothing_in_a_tag_can_end_the_comment() {
        assert_eq!(commented(&Config::default(), "SELECT 1"), ("SELECT 1".to_owned(), true));
        let mut config = Config::default();
        config.statement_tags.insert("service".into(), "a'*/; DROP TABLE x --".into());
        config.statement_tags.insert("region".into(), "eu 1".into());
        let expected = "SELECT 1 /*region='eu%201',service='a%27%2A%2F%3B%20DROP%20TABLE%20x%20--'*/";
        assert_eq!(commented(&config, "SELECT 1"), (expected.to_owned(), true));
        config.traceparent =
            Some(|| Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned()));
        let (text, persistent) = commented(&config, "SELECT 1");
        assert!(
            text.ends_with(",traceparent='00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'*/"),
            "{text}"
        );
        assert!(!persistent, "it will not come again");
    }
}
