//! What a store has to offer to keep durable channels. It knows no types, no handlers and no back-off.

use crate::{
    DeadLetter, DurableGroup, DurableId, DurableLimits, DurableRecord, Error, GroupName, LossCause,
    StartFrom, Subject,
};
use async_trait::async_trait;
use resilience::Deadline;
use std::{fmt::Debug, sync::Arc, time::Duration};

/// A store of durable channels.
///
/// A channel is an ordered list of records, each with a [`DurableId`] whose sequence has no holes. A group has a place in
/// that list; what lies behind it and was not acknowledged is *pending*: with one consumer, a number of deliveries and a
/// time at which it is *due*, that is, may be delivered again, to any consumer of the group. All times are the store's own
/// clock's. Implementations of ours: [`MemoryDurable`](crate::MemoryDurable) and, with feature `redis`,
/// [`RedisDurable`](crate::RedisDurable).
#[async_trait]
pub trait DurableStore: Debug + Send + Sync + 'static {
    /// A word for status and metrics, such as `redis`.
    fn name(&self) -> &'static str;

    /// Appends records to a channel in order, all or none, and removes what no group needs and `limits` do not keep.
    ///
    /// Cancel safety: dropped, they may or may not have been appended.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Full`]: nothing was appended. [`Error::Unknown`]: it may have
    /// been; the same records may be appended again, as whoever handles them knows them by their ids.
    async fn append(
        &self,
        channel: &Subject,
        records: &[DurableRecord],
        limits: &DurableLimits,
        deadline: Deadline,
    ) -> Result<(), Error>;

    /// A taking end for one consumer. Creates the group at `start` if it is not there.
    ///
    /// `known` is the [incarnation](DurableSource::incarnation) under which this process has had the group open: if it is
    /// another one by now, or gone, the store has lost it. Then it begins with the oldest record that there is, whatever
    /// `start` says, and [`LossCause::GroupGone`] is recorded.
    ///
    /// # Errors
    /// [`Error::Unavailable`], [`Error::Timeout`], [`Error::Unknown`]: try again. [`Error::Limit`]: too many groups.
    async fn open(
        &self,
        consumer: &ConsumerKey,
        start: StartFrom,
        known: Option<u64>,
        deadline: Deadline,
    ) -> Result<Box<dyn DurableSource>, Error>;

    /// Settles deliveries of a consumer; the answers are in the order of the settlements. Repeating it does no harm.
    ///
    /// # Errors
    /// As [`open`](Self::open), for all of them.
    async fn settle(
        &self,
        consumer: &ConsumerKey,
        settlements: &[Settlement],
        deadline: Deadline,
    ) -> Result<Vec<Settled>, Error>;

    /// Records that the group was told of its losses up to `number`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    async fn told(&self, consumer: &ConsumerKey, number: u64, deadline: Deadline) -> Result<(), Error>;

    /// Housekeeping, called every few seconds by every consumer: removes what is not to be kept, forgets consumers that have
    /// nothing pending and were not heard of for `forget_after`.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    async fn tend(
        &self,
        consumer: &ConsumerKey,
        forget_after: Duration,
        deadline: Deadline,
    ) -> Result<(), Error>;

    /// The channels that were ever used, sorted.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    async fn channels(&self, deadline: Deadline) -> Result<Vec<String>, Error>;

    /// The groups of a channel, sorted by name.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    async fn groups(&self, channel: &Subject, deadline: Deadline) -> Result<Vec<DurableGroup>, Error>;

    /// Changes a group.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], else as [`open`](Self::open).
    async fn change(
        &self,
        channel: &Subject,
        group: &GroupName,
        change: GroupChange,
        deadline: Deadline,
    ) -> Result<(), Error>;

    /// Up to `max` dead letters after `after`, oldest first.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], else as [`open`](Self::open).
    async fn dead_letters(
        &self,
        channel: &Subject,
        group: &GroupName,
        after: Option<DurableId>,
        max: usize,
        deadline: Deadline,
    ) -> Result<Vec<DeadLetter>, Error>;

    /// Ends a dead letter: delivered again, to its group alone and as for the first time, or gone.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`], [`Error::UnknownDeadLetter`], else as [`open`](Self::open).
    async fn resolve(
        &self,
        channel: &Subject,
        group: &GroupName,
        letter: DurableId,
        resolution: Resolution,
        deadline: Deadline,
    ) -> Result<(), Error>;
}

/// One consumer's taking end. After an error it is dropped and another one opened.
#[async_trait]
pub trait DurableSource: Debug + Send + 'static {
    /// A number that names the group since it was last created.
    fn incarnation(&self) -> u64;

    /// Takes up to `max` records, waiting up to `wait` for the first: what this consumer's name still has pending, then what
    /// is due, then new ones. Each is pending with this consumer from now on, and due after `ack_timeout`.
    ///
    /// Cancel safety: dropped, records may have been taken; they are due after `ack_timeout`.
    ///
    /// # Errors
    /// [`Error::UnknownGroup`]: the group is gone or another one, open it again. Any error ends this source.
    async fn take(&mut self, take: &Take<'_>) -> Result<Taken, Error>;
}

/// Names one consumer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ConsumerKey {
    /// The channel.
    pub channel: Subject,
    /// The group.
    pub group: GroupName,
    /// The consumer's own name within the group.
    pub name: Arc<str>,
}

/// What a consumer asks for.
#[derive(Clone, Debug)]
pub struct Take<'a> {
    /// Records at most.
    pub max: usize,
    /// Bytes after which no more are added; the answer may be larger by some of them.
    pub max_bytes: usize,
    /// What this consumer holds already: of its own pending ones these are not delivered again.
    pub holding: &'a [DurableId],
    /// When what is taken is due again.
    pub ack_timeout: Duration,
    /// What was delivered so often and is due becomes a dead letter.
    pub max_deliveries: u32,
    /// Unless there are so many.
    pub max_dead_letters: u64,
    /// How long to wait for the first.
    pub wait: Duration,
}

/// What a consumer was given.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Taken {
    /// The store's clock, milliseconds since 1970.
    pub now: u64,
    /// Whether the group is paused: nothing is given then.
    pub paused: bool,
    /// Losses of which the group has not been told.
    pub loss: Option<RecordedLoss>,
    /// Records that became dead letters because they were due too often.
    pub dead: u64,
    /// The records.
    pub messages: Vec<TakenMessage>,
}

/// A record that was given to a consumer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TakenMessage {
    /// Its place.
    pub id: DurableId,
    /// 1 for the first delivery to this group.
    pub deliveries: u32,
    /// `None` if this version cannot read it.
    pub record: Option<DurableRecord>,
}

/// A loss as the store has recorded it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordedLoss {
    /// Names the loss; a later one has a greater number.
    pub number: u64,
    /// Messages missed since what was told last; `None` if it is not known.
    pub missed: Option<u64>,
    /// Of the latest.
    pub cause: LossCause,
}

/// What becomes of one delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settlement {
    /// Which record.
    pub id: DurableId,
    /// Which delivery of it: only the latest counts.
    pub deliveries: u32,
    /// What becomes of it.
    pub how: Settle,
}

/// What becomes of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settle {
    /// Done.
    Ack,
    /// Due again after this time, to any consumer.
    Retry(Duration),
    /// Becomes a dead letter for this reason, unless there are as many as `max`.
    Dead {
        /// The reason, in words.
        reason: String,
        /// The most dead letters of a group.
        max: u64,
    },
    /// Still being worked on: due after this time from now.
    Extend(Duration),
    /// Never reached a handler: due now, and the delivery does not count.
    Release,
}

/// What a settlement came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settled {
    /// It is so.
    Done,
    /// It has been delivered to somebody since; nothing was changed.
    Superseded,
    /// It is not pending: acknowledged already, or lost.
    NotPending,
    /// There are too many dead letters; it is due again after a minute.
    DeadLettersFull,
}

/// A change of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GroupChange {
    /// Nothing is delivered until further notice.
    Pause,
    /// Further notice.
    Resume,
    /// Its place becomes this one. What is pending stays so.
    Place(StartFrom),
    /// It is no more, nor are its dead letters.
    Delete,
}

/// What becomes of a dead letter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resolution {
    /// Delivered again.
    Retry,
    /// Gone.
    Drop,
}
