//! Keys of the in-process structures: region number and key text, looked up without building an owned key. Not here:
//! the names under which the tiers store them.

use std::hash::{Hash, Hasher};
use std::sync::Arc;

use quick_cache::Equivalent;

use crate::config::MAX_KEY;
use crate::error::CacheError;

/// A key that begins with one of these is one byte longer in Redis: a brace at the front would empty the hash tag.
pub(crate) const ESCAPED: [char; 2] = ['}', '%'];

/// Number of a region within this process.
pub(crate) type RegionId = u32;

/// Owned key; cloning shares the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) region: RegionId,
    pub(crate) text: Arc<str>,
}

/// Borrowed key for a lookup that allocates nothing.
#[derive(Clone, Copy, Debug)]
pub(crate) struct KeyRef<'a> {
    pub(crate) region: RegionId,
    pub(crate) text: &'a str,
}

impl Key {
    /// An owned key within the limits.
    pub(crate) fn new(region: RegionId, text: &str) -> Result<Self, CacheError> {
        let limit = MAX_KEY - usize::from(text.starts_with(ESCAPED));
        if text.is_empty() || text.len() > limit {
            return Err(CacheError::Key { length: text.len(), limit });
        }
        Ok(Self { region, text: Arc::from(text) })
    }
}

impl Hash for Key {
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        KeyRef { region: self.region, text: &self.text }.hash(state);
    }
}

impl Hash for KeyRef<'_> {
    /// The region takes the place of the terminator that a string's own hash appends, so it costs nothing.
    #[inline]
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write(self.text.as_bytes());
        state.write_u32(self.region);
    }
}

impl Equivalent<Key> for KeyRef<'_> {
    #[inline]
    fn equivalent(&self, key: &Key) -> bool {
        self.region == key.region && *self.text == *key.text
    }
}
