//! The keys and values of every suite: the same for everybody.

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};
use rand_distr::{Distribution as _, Zipf};

/// Keys of the cache suite.
pub(crate) const KEYS: usize = 10_000;
/// Bytes of a value.
pub(crate) const VALUE: usize = 256;
/// Draws before a sequence repeats. A power of two: the position is masked, not divided.
const DRAWS: usize = 1 << 16;

/// String keys and an order in which they are asked for.
#[derive(Debug)]
pub(crate) struct Keys {
    pub(crate) names: Vec<String>,
    order: Vec<u32>,
}

impl Keys {
    /// `count` keys, asked for evenly.
    pub(crate) fn even(count: usize) -> Self {
        let mut random = StdRng::seed_from_u64(1);
        let order = (0..DRAWS).map(|_| random.random_range(0..count as u32)).collect();
        Self { names: names(count), order }
    }

    /// The key of this turn.
    #[inline]
    pub(crate) fn at(&self, turn: usize) -> &str {
        &self.names[self.order[turn & (DRAWS - 1)] as usize]
    }
}

/// Names of keys, of one length.
pub(crate) fn names(count: usize) -> Vec<String> {
    (0..count).map(|key| format!("product:{key:08}")).collect()
}

/// A stream of Zipf-distributed key numbers below `count`; which keys are hot is shuffled, the same way every time.
pub(crate) fn zipf(count: usize, exponent: f64, seed: u64) -> impl Iterator<Item = usize> {
    let mut popularity: Vec<usize> = (0..count).collect();
    popularity.shuffle(&mut StdRng::seed_from_u64(7));
    let distribution = Zipf::new(count as f64, exponent).expect("the parameters are constants");
    let mut random = StdRng::seed_from_u64(seed);
    std::iter::repeat_with(move || popularity[distribution.sample(&mut random) as usize - 1])
}

/// A value of [`VALUE`] bytes.
pub(crate) fn value(key: usize) -> Vec<u8> {
    format!("{key:0>width$}", width = VALUE).into_bytes()
}
