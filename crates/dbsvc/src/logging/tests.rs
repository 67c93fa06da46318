//! Which filters are taken, and that none of them silences the audit trail by accident.

use super::filter;

#[test]
fn the_audit_trail_stays_unless_it_is_named() {
    for level in
        ["off", "error", "warn", "info", "trace", "ops_http=debug", "warn,fred=off", "error,auditor=off"]
    {
        assert!(filter(level).unwrap().to_string().contains("audit=info"), "{level}");
    }
    for level in ["info,audit=off", "audit=warn", "error,audit[call]=debug"] {
        assert!(!filter(level).unwrap().to_string().contains("audit=info"), "{level}");
    }
}

#[test]
fn what_is_no_filter_is_refused() {
    for level in ["loud", "info,ops_http=loud", "=,="] {
        assert!(filter(level).is_err(), "{level}");
    }
}
