//! The cache suite: hits in memory, hit rates, hits in Redis.

pub(crate) mod hit_rate;
pub(crate) mod l1;
pub(crate) mod l2;
mod peers;
