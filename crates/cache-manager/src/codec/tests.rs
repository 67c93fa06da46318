//! Round trips and garbage.

use std::sync::Arc;

use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::{decode, encode, fingerprint};
use crate::config::{Codec, Config, RegionOptions};
use crate::region::{Region, Settled};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Product {
    name: String,
    price: Option<u64>,
    tags: Vec<String>,
}

fn region(codec: Codec, schema_version: u32) -> Region {
    let options = RegionOptions { codec, schema_version, ..RegionOptions::default() };
    let settled = Settled::of(&Config::default(), &options).unwrap();
    Region::new(0, "r", settled, None, Arc::default())
}

proptest! {
    #[test]
    fn values_survive(name in ".*", price: Option<u64>, tags in proptest::collection::vec(".*", 0..5)) {
        let product = Product { name, price, tags };
        for codec in [Codec::MessagePack, Codec::Json] {
            let region = region(codec, 0);
            let body = encode(&region, &product).unwrap();
            prop_assert_eq!(decode::<Product>(&region, &body), Some(product.clone()));
            prop_assert_eq!(decode::<Option<Product>>(&region, &body), None);
            prop_assert_eq!(decode::<Product>(&self::region(codec, 1), &body), None);
        }
    }

    #[test]
    fn garbage_is_none(bytes: Vec<u8>, codec in 0_u8..4) {
        let region = region(Codec::MessagePack, 0);
        prop_assert_eq!(decode::<Product>(&region, &bytes), None);
        let framed = [&[codec][..], &fingerprint::<Product>(0).to_le_bytes(), &bytes].concat();
        // It may happen to be one; it must not panic.
        let _ = decode::<Product>(&region, &framed);
    }
}
