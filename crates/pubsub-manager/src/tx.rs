//! Publishing as part of a transaction: through the outbox, which a crash does not stop, or in memory after COMMIT, which
//! costs the database nothing.

use crate::{
    Channel, Error, PublishOptions,
    envelope::Kind,
    outbox::{self, OutboxChannel, OutboxOptions},
};
use postgres_pool_manager::{CommitOutcome, Tx};
use serde::{Serialize, de::DeserializeOwned};
use uuid::Uuid;

/// Publishing as part of a transaction.
pub trait TxPublish {
    /// Stores `value` in the transaction for the [`Outbox`](crate::Outbox), which publishes it after COMMIT, at least once,
    /// in the order of its key: if the transaction commits, it is published, whatever dies; else it never is. The value is
    /// encoded now. The message's id.
    ///
    /// One INSERT. Some process that uses the database has to run an outbox.
    ///
    /// Cancel safety: dropped, the message may or may not be part of the transaction.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::TooLarge`], before anything is sent; [`Error::Backend`] where the statement failed,
    /// and with it the transaction.
    fn publish<C: OutboxChannel>(
        &mut self,
        channel: &C,
        value: &C::Value,
    ) -> impl Future<Output = Result<Uuid, Error>> + Send {
        self.publish_with(channel, value, OutboxOptions::default())
    }

    /// [`publish`](Self::publish) with a key and a trace of one's own.
    ///
    /// # Errors
    /// As [`publish`](Self::publish); [`Error::Unsupported`] for a key that is too long.
    fn publish_with<C: OutboxChannel>(
        &mut self,
        channel: &C,
        value: &C::Value,
        options: OutboxOptions,
    ) -> impl Future<Output = Result<Uuid, Error>> + Send;

    /// Publishes `value` once the transaction is known to have committed; never after a rollback, nor when the answer
    /// to the COMMIT was lost. The value is encoded now, so a later change of it is not published. A savepoint that is rolled
    /// back does not take it back; it does what [`publish`](Self::publish) stored.
    ///
    /// The publish happens in memory after COMMIT and before `commit()` returns: a process that dies between the two has
    /// not published, and a publish that fails is logged and counted, not repeated.
    ///
    /// # Errors
    /// [`Error::Encode`] and [`Error::TooLarge`], at once.
    fn publish_on_commit<T: Serialize + DeserializeOwned + 'static>(
        &mut self,
        channel: &Channel<T>,
        value: &T,
    ) -> Result<(), Error>;
}

impl TxPublish for Tx {
    fn publish_with<C: OutboxChannel>(
        &mut self,
        channel: &C,
        value: &C::Value,
        options: OutboxOptions,
    ) -> impl Future<Output = Result<Uuid, Error>> + Send {
        let message = channel.prepare(value);
        async move { outbox::store(self, message?, options).await }
    }

    fn publish_on_commit<T: Serialize + DeserializeOwned + 'static>(
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
                if let Err(error) = channel.publish_encoded(Kind::Message, payload, PublishOptions::default()).await {
                    tracing::warn!(subject = %channel.subject(), %error, "a message of a committed transaction was not published");
                }
            })
        });
        Ok(())
    }
}
