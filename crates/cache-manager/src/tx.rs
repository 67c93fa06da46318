//! Invalidation with a transaction: after COMMIT, never on rollback.
//!
//! The tombstone of L3 travels with COMMIT in one message, so it becomes visible together with the change; it does so if
//! L3 is ours, on the pool that the transaction is of, and its tables are known to be there. Otherwise L3 is told after
//! COMMIT, as any other store. What this process, L2 and the journal have to know is done by a hook that `commit()` waits for. A load that began before COMMIT
//! and ends after it is refused by the hook's fence here, by the lease in L2 and by the snapshot in L3; one that began
//! between COMMIT and the hook already sees the change. When the outcome of COMMIT is unknown the hook runs too:
//! forgetting a value that still holds costs a load.
//!
//! Not yet: an outbox. If the process dies between COMMIT and the end of the hook, other processes may serve the old
//! value from L1 and L2 until it expires.

use std::sync::Arc;

use postgres_pool_manager::Tx;
use postgres_pool_manager::sqlx::AssertSqlSafe;

use crate::answer::CacheValue;
use crate::cache::Cache;
use crate::core::tier_key;
use crate::error::CacheError;
use crate::key::Key;
use crate::tier::bury_text;

/// Adds `invalidate` to a transaction.
pub trait TxInvalidate {
    /// Invalidates `key` of the region when the transaction commits. Sends nothing by itself. When `commit()` has
    /// returned, the invalidation holds in this process and, unless a step failed (it is then repeated in the
    /// background and logged), everywhere.
    ///
    /// # Errors
    /// [`CacheError::Key`]; the transaction can go on.
    fn invalidate<V: CacheValue>(&mut self, region: &Cache<V>, key: &str) -> Result<(), CacheError>;

    /// The same for several keys of a region, with one hook.
    ///
    /// # Errors
    /// As [`invalidate`](Self::invalidate); then none of them is taken.
    fn invalidate_many<V: CacheValue>(&mut self, region: &Cache<V>, keys: &[&str]) -> Result<(), CacheError>;
}

impl TxInvalidate for Tx {
    fn invalidate<V: CacheValue>(&mut self, region: &Cache<V>, key: &str) -> Result<(), CacheError> {
        self.invalidate_many(region, &[key])
    }

    fn invalidate_many<V: CacheValue>(&mut self, region: &Cache<V>, keys: &[&str]) -> Result<(), CacheError> {
        let keys = keys.iter().map(|key| Key::new(region.region.id, key)).collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Ok(());
        }
        let (core, region) = (Arc::clone(&region.core), Arc::clone(&region.region));
        let own = core.own_l3.as_ref().filter(|_| core.l3_of(&region).is_some());
        let inside = own.is_some_and(|l3| l3.rides_on(self.manager()));
        if inside {
            let buried: Vec<_> = keys.iter().map(|key| tier_key(&region, key)).collect();
            self.before_commit(AssertSqlSafe(bury_text(self.schema(), &buried)));
        }
        self.on_commit(move |_outcome| {
            Box::pin(async move {
                if let Err(error) = core.invalidate(&region, &keys, !inside).await {
                    tracing::debug!(%error, "an invalidation after COMMIT is not propagated yet");
                }
            })
        });
        Ok(())
    }
}
