//! Publishing after COMMIT. It is not an outbox: a process that dies between the two has not published.

use crate::{Channel, Error, PublishOptions};
use postgres_pool_manager::{CommitOutcome, Tx};
use serde::{Serialize, de::DeserializeOwned};

/// Publishing as part of a transaction.
pub trait TxPublish {
    /// Publishes `value` once the transaction is known to have committed; never after a rollback, nor when the answer
    /// to the COMMIT was lost. The value is encoded now, so a later change of it is not published.
    ///
    /// Not yet: an outbox. The publish happens in memory after COMMIT and before `commit()` returns; when it fails, it
    /// is logged and counted, not repeated.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::TooLarge`], at once.
    fn publish<T: Serialize + DeserializeOwned + 'static>(
        &mut self,
        channel: &Channel<T>,
        value: &T,
    ) -> Result<(), Error>;
}

impl TxPublish for Tx {
    fn publish<T: Serialize + DeserializeOwned + 'static>(
        &mut self,
        channel: &Channel<T>,
        value: &T,
    ) -> Result<(), Error> {
        let payload = channel.encode(value)?;
        let channel = channel.clone();
        self.on_commit(move |outcome| {
            Box::pin(async move {
                if !matches!(outcome, CommitOutcome::Committed(_)) {
                    tracing::warn!(subject = %channel.subject(), "not published: the outcome of the COMMIT is unknown");
                    return;
                }
                if let Err(error) = channel.publish_encoded(payload, PublishOptions::default()).await {
                    tracing::warn!(subject = %channel.subject(), %error, "a message of a committed transaction was not published");
                }
            })
        });
        Ok(())
    }
}
