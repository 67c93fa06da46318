//! SQL text for the two roles of the system's own tables. It makes no role itself and sets no password.

use crate::schema::{Schema, quote_ident};

/// A script, to be run by an administrator in the service's database, that makes
/// - `owner`: owns the schema, for migrations;
/// - `runtime`: reads and writes the tables in it, creates nothing, alters nothing.
///
/// It can be run again at any time. The roles may log in but have no password: set one, or use certificates.
///
/// `runtime` is a member of `pg_read_all_stats`, without which a standby does not tell its timeline, and every
/// [`read_after`](crate::PostgresPoolManager::read_after) would go to the primary.
#[must_use]
pub fn roles_sql(schema: &Schema, owner: &str, runtime: &str) -> String {
    include_str!("../sql/roles.sql")
        .replace("{schema}", &schema.quoted())
        .replace("{schema_literal}", &quote_literal(schema.name()))
        .replace("{owner}", &quote_ident(owner))
        .replace("{owner_literal}", &quote_literal(owner))
        .replace("{runtime}", &quote_ident(runtime))
        .replace("{runtime_literal}", &quote_literal(runtime))
}

/// A string literal that means the same whatever `standard_conforming_strings` is.
fn quote_literal(text: &str) -> String {
    let escaped = text.replace('\\', "\\\\").replace('\'', "''");
    if text.contains('\\') { format!(" E'{escaped}'") } else { format!("'{escaped}'") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_wherever_they_stand() {
        let sql = roles_sql(&Schema::default(), "o'w\"n", "run");
        assert!(sql.contains(r#"'o''w"n'"#) && sql.contains(r#""o'w""n""#) && sql.contains(r#""run""#));
        assert!(!sql.contains("{owner") && !sql.contains("{runtime") && !sql.contains("{schema"));
    }

    #[test]
    fn the_shipped_script_is_this_one() {
        let shipped = include_str!("../../../deploy/postgres/roles.sql");
        let sql = roles_sql(&Schema::default(), "database_services_owner", "database_services_runtime");
        assert_eq!(shipped, sql, "write this text to deploy/postgres/roles.sql");
    }
}
