//! The rows that the demo serves: a product catalogue with JSON bodies of realistic size and shape.

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde::{Deserialize, Serialize};

/// A catalogue entry as the service uses it: what a loader builds and the cache holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Product {
    pub(crate) id: u32,
    /// Counts updates; the staleness check lives on it.
    pub(crate) version: u32,
    pub(crate) name: String,
    pub(crate) description: String,
    pub(crate) category: Vec<String>,
    pub(crate) price_cents: u64,
    pub(crate) currency: String,
    pub(crate) stock: Vec<Stock>,
    pub(crate) attributes: Vec<(String, String)>,
    pub(crate) rating: f32,
    pub(crate) active: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Stock {
    pub(crate) warehouse: String,
    pub(crate) count: u32,
}

/// The schema of database-services in the demo: on a server that is not ours it must not be anybody else's.
pub(crate) const SERVICES_SCHEMA: &str = "demo_services";
/// The demo's own tables; and nothing of an earlier run, whose cached versions are higher than the rows' new ones.
pub(crate) const SCHEMA: &str = "
    DROP SCHEMA IF EXISTS demo_services CASCADE;
    CREATE SCHEMA IF NOT EXISTS demo;
    CREATE TABLE IF NOT EXISTS demo.products (id integer PRIMARY KEY, version integer NOT NULL, body jsonb NOT NULL);
    TRUNCATE demo.products;
    CREATE TABLE IF NOT EXISTS demo.jobs (name text PRIMARY KEY, runs bigint NOT NULL, token bigint NOT NULL);
    TRUNCATE demo.jobs;
    INSERT INTO demo.jobs VALUES ('restock', 0, 0)";
pub(crate) const SELECT: &str = "SELECT body::text FROM demo.products WHERE id = $1";
/// One update: a new price and the next version, which is also in the body.
pub(crate) const UPDATE: &str = "UPDATE demo.products SET version = version + 1, \
    body = jsonb_set(jsonb_set(body, '{version}', to_jsonb(version + 1)), '{price_cents}', to_jsonb($2::bigint)) \
    WHERE id = $1 RETURNING version";

const WORDS: [&str; 24] = [
    "aluminium",
    "battery",
    "cable",
    "ceramic",
    "compact",
    "cotton",
    "desk",
    "durable",
    "folding",
    "garden",
    "kettle",
    "lamp",
    "leather",
    "light",
    "mesh",
    "mug",
    "oak",
    "outdoor",
    "pocket",
    "steel",
    "travel",
    "water",
    "wireless",
    "wool",
];

/// The same product for the same id in every run.
pub(crate) fn product(id: u32) -> Product {
    let mut rng = StdRng::seed_from_u64(u64::from(id));
    let mut words = |n: usize| {
        let word = |_| WORDS[rng.random_range(0..WORDS.len())];
        (0..n).map(word).collect::<Vec<_>>().join(" ")
    };
    let name = words(3);
    let description = words(24);
    let category = vec![words(1), words(1)];
    let attributes = (0..5).map(|i| (format!("attribute_{i}"), words(2))).collect();
    let warehouses = ["ams", "fra", "waw"];
    Product {
        id,
        version: 1,
        name,
        description,
        category,
        price_cents: rng.random_range(199..99_999),
        currency: "EUR".to_owned(),
        stock: warehouses.map(|w| Stock { warehouse: w.to_owned(), count: rng.random_range(0..500) }).into(),
        attributes,
        rating: rng.random_range(10..50) as f32 / 10.0,
        active: true,
    }
}

/// The statement that inserts these rows. JSON has no other quote than the doubled one in an SQL literal.
pub(crate) fn insert(ids: std::ops::Range<u32>) -> anyhow::Result<String> {
    let mut sql = "INSERT INTO demo.products VALUES ".to_owned();
    for id in ids.clone() {
        let body = serde_json::to_string(&product(id))?.replace('\'', "''");
        let comma = if id == ids.start { "" } else { "," };
        sql.push_str(&format!("{comma}({id},1,'{body}')"));
    }
    Ok(sql)
}

/// The cache key of a row.
pub(crate) fn key(id: u32) -> String {
    format!("product:{id}")
}
