//! Every component's refusal names a setting, and the settings' bounds are no wider than the components'.

use super::{CACHE, COORDINATION, LINK, LOCKS, POOL};
use crate::settings::{Kind, Settings, TABLE};

#[test]
fn every_field_leads_to_a_setting() {
    for (field, key) in [POOL, LINK, COORDINATION, CACHE, LOCKS].into_iter().flatten() {
        assert!(TABLE.iter().any(|d| d.key == *key), "{field}: there is no setting {key}");
    }
}

#[test]
fn the_ends_of_every_range_are_taken_by_the_components() {
    for d in TABLE.iter().filter(|d| d.refused.is_none()) {
        let ends = match d.kind {
            Kind::Int(min, max) => [min.to_string(), max.to_string()],
            Kind::Bytes(min, max) => [min.to_string(), max.to_string()],
            Kind::Duration(min, max) => [format!("{min}ms"), format!("{max}ms")],
            _ => continue,
        };
        for end in ends {
            let pairs = [("REDIS_HOST", "redis"), (d.name, end.as_str())];
            let told = Settings::from_pairs(pairs).map_err(|e| e.to_string()).err().unwrap_or_default();
            // Between settings there are rules of their own; a component alone must take what the table allows.
            assert!(!told.contains("refuses it"), "{} = {end}: {told}", d.name);
        }
    }
}
