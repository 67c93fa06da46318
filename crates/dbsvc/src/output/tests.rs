//! Tables from JSON.

use serde_json::json;

use super::*;

#[test]
fn members_lists_and_numbers_are_laid_out() {
    let text = tables(&json!({
        "status": "healthy",
        "pool": {"active": 3, "utilization": 0.25, "last": null},
        "hosts": [{"host": "a", "lag": 1.0}, {"host": "b", "weight": 2}],
    }));
    let squeezed = text.split_whitespace().collect::<Vec<_>>().join(" ");
    assert_eq!(
        squeezed,
        "pool.active 3 pool.last - pool.utilization 0.25 status healthy hosts host lag weight a 1 - b - 2"
    );
}

#[test]
fn nothing_prints_as_nothing_and_an_empty_list_says_so() {
    assert_eq!(tables(&json!([])), "(none)");
    assert_eq!(tables(&json!("x")), "x");
}
