//! What the README shows of testing is what the example has.

const README: &str = include_str!("../../../../README.md");
const EXAMPLE: &str = include_str!("../../../example-orders/tests/orders.rs");

#[test]
fn the_readme_shows_a_test_of_the_example() {
    let (_, section) = README.split_once("\n## Testing your service\n").unwrap();
    let (_, code) = section.split_once("```rust\n").unwrap();
    let (code, _) = code.split_once("```").unwrap();
    assert!(EXAMPLE.contains(code), "not in crates/example-orders/tests/orders.rs:\n{code}");
}
