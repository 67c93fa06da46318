//! The wake-up call: one LISTEN connection of the process, shared by bus, journal and outbox.
//!
//! A notification says that a table has news and nothing else; what is new is in the table, which is also looked at at
//! least once a second. So a lost notification costs a moment, never a message. Its text is the topic's name.
//!
//! The connection is opened for the first topic that somebody waits for and ends with the last, is drained all the time (the driver's queue has no
//! bound), and asked for a sign of life every 5 s, without which a connection into a black hole would look like peace. When
//! it is lost, another one is opened, with the credentials of that time, and everybody is woken once: something may have
//! been said meanwhile.

use super::error::{late, translate_query};
use crate::{
    Error,
    postgres::{BEFORE_SENDING, translate},
};
use parking_lot::Mutex;
use postgres_pool_manager::{DirectConnection, PoolEvent, PostgresPoolManager, sqlx};
use resilience::{Backoff, BackoffConfig, Deadline};
use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::{Instant, timeout},
};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A sign of life is asked for so often.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// And has to come within this time.
const ALIVE_WITHIN: Duration = Duration::from_secs(3);
const OPEN_WITHIN: Duration = Duration::from_secs(5);
/// Tables are looked at so often while nobody would tell of news.
const DEAF_POLL: Duration = Duration::from_millis(100);

/// One LISTEN connection to a database; clones share it. Make one for each database that a process works with, and give
/// it to everything of this crate that is kept there.
///
/// It also lends what else they need: the pool, and connections of their own.
#[derive(Clone, Debug)]
pub struct PostgresListener(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    shared: Arc<Shared>,
    runtime: Handle,
    _stop: DropGuard,
}

#[derive(Debug)]
struct Shared {
    pool: PostgresPoolManager,
    /// The channel's name: the schema's own, which is as long as a name may be.
    channel: String,
    topics: Mutex<HashMap<Arc<str>, watch::Sender<()>>>,
    /// Somebody waits for a topic, or no longer does.
    wanted: Notify,
    listening: AtomicBool,
    /// Changes with the primary: what was opened before is of no use any more.
    primary: watch::Sender<u64>,
    stop: CancellationToken,
}

impl PostgresListener {
    /// A listener to the database of `pool`, which need not be reachable yet; its task runs on the current runtime.
    ///
    /// # Errors
    /// [`Error::Unavailable`] outside a tokio runtime.
    pub fn new(pool: PostgresPoolManager) -> Result<Self, Error> {
        let runtime = Handle::try_current().map_err(|error| Error::Unavailable {
            operation: "build the listener",
            reason: error.to_string(),
        })?;
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared {
            channel: pool.schema().name().to_owned(),
            pool,
            topics: Mutex::default(),
            wanted: Notify::new(),
            listening: AtomicBool::new(false),
            primary: watch::Sender::new(0),
            stop: stop.clone(),
        });
        let (listening, watching) = (Arc::clone(&shared), Arc::clone(&shared));
        runtime.spawn(stop.clone().run_until_cancelled_owned(async move { listening.listen().await }));
        runtime.spawn(stop.clone().run_until_cancelled_owned(async move { watching.watch_primary().await }));
        Ok(Self(Arc::new(Inner { shared, runtime, _stop: stop.drop_guard() })))
    }

    /// Whether notifications arrive at this moment. Without them everything works, from look to look.
    #[must_use]
    pub fn is_listening(&self) -> bool {
        self.0.shared.listening.load(Relaxed)
    }

    /// The pool of the same database.
    #[must_use]
    pub fn pool(&self) -> &PostgresPoolManager {
        &self.0.shared.pool
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }

    /// The name for `pg_notify`.
    pub(crate) fn channel(&self) -> &str {
        &self.0.shared.channel
    }

    /// News of one topic from now on. There are as many topics as journals, and three more.
    pub(crate) fn topic(&self, name: &str) -> Topic {
        let shared = Arc::clone(&self.0.shared);
        let news =
            shared.topics.lock().entry(name.into()).or_insert_with(|| watch::Sender::new(())).subscribe();
        shared.wanted.notify_one();
        Topic { news, primary: shared.primary.subscribe(), _leave: Leave(Arc::clone(&shared)), shared }
    }

    /// Changes when another server becomes the primary: connections from before are of no use any more, although a former
    /// primary may still answer on them.
    pub(crate) fn primary(&self) -> watch::Receiver<u64> {
        self.0.shared.primary.subscribe()
    }

    /// Opens a connection that is its holder's alone, which does not wait for the pool's other users.
    pub(crate) async fn open(
        &self,
        operation: &'static str,
        deadline: Deadline,
    ) -> Result<DirectConnection, Error> {
        let opened = self.0.shared.pool.open_direct(deadline).await;
        opened.map_err(|error| match translate(operation, error, BEFORE_SENDING) {
            Error::Backend { source, .. } => Error::Unavailable { operation, reason: source.to_string() },
            error => error,
        })
    }

    /// Asks the server through the pool, and says how long the answer took.
    pub(crate) async fn health_check(&self, deadline: Deadline) -> Result<Duration, Error> {
        let checked = self.0.shared.pool.health_check(deadline).await;
        checked.map_err(|error| translate("check health", error, BEFORE_SENDING))
    }
}

/// What wakes one reader of a table.
#[derive(Debug)]
pub(crate) struct Topic {
    news: watch::Receiver<()>,
    primary: watch::Receiver<u64>,
    shared: Arc<Shared>,
    /// The last to be dropped: nobody waits for the news any more then.
    _leave: Leave,
}

/// Has the listener look whether anybody is still waiting.
#[derive(Debug)]
struct Leave(Arc<Shared>);

impl Drop for Leave {
    fn drop(&mut self) {
        self.0.topics.lock().retain(|_, news| news.receiver_count() > 0);
        self.0.wanted.notify_one();
    }
}

impl Topic {
    /// What is told from here on ends the next [`wait`](Self::wait). To be called before the table is looked at.
    pub(crate) fn mark(&mut self) {
        self.news.mark_unchanged();
    }

    /// Until there may be news, at most `limit`; less where nobody would tell.
    pub(crate) async fn wait(&mut self, limit: Duration) {
        let limit = if self.shared.listening.load(Relaxed) { limit } else { limit.min(DEAF_POLL) };
        // A sender that is gone ends with the listener, and the time-out stays.
        if let Ok(Err(_gone)) = timeout(limit, self.news.changed()).await {
            tokio::time::sleep(limit).await;
        }
    }

    /// Whether another server has become the primary since the last [`primary_is_current`](Self::primary_is_current).
    pub(crate) fn primary_has_changed(&self) -> bool {
        self.primary.has_changed().unwrap_or(false)
    }

    /// To be called before a connection is opened.
    pub(crate) fn primary_is_current(&mut self) {
        self.primary.mark_unchanged();
    }
}

impl Shared {
    async fn listen(&self) {
        let mut backoff = Backoff::new(BackoffConfig::default());
        loop {
            while self.topics.lock().is_empty() {
                self.wanted.notified().await;
            }
            let ended = self.listen_once(&mut backoff).await;
            self.listening.store(false, Relaxed);
            // Their connections may have ended with this one.
            self.tell_all();
            tracing::debug!(error = ?ended.err(), "the listener's connection ended");
            tokio::time::sleep(backoff.next_delay()).await;
        }
    }

    async fn listen_once(&self, backoff: &mut Backoff) -> Result<(), Error> {
        const OPERATION: &str = "listen";
        let mut primary = self.primary.subscribe();
        let deadline = Deadline::after(OPEN_WITHIN);
        let opened = self.pool.open_listener(deadline).await;
        let mut listener = opened.map_err(|error| translate(OPERATION, error, BEFORE_SENDING))?;
        let listening = deadline.run(listener.listen(&self.channel)).await;
        listening
            .map_err(|_| late(OPERATION, OPEN_WITHIN))?
            .map_err(|error| translate_query(OPERATION, error))?;
        self.listening.store(true, Relaxed);
        backoff.reset();
        self.tell_all();
        let mut ask = Instant::now() + ALIVE_EVERY;
        loop {
            tokio::select! {
                heard = listener.try_recv() => match heard.map_err(|error| translate_query(OPERATION, error))? {
                    Some(notification) => self.tell(notification.payload()),
                    None => return Ok(()),
                },
                () = tokio::time::sleep_until(ask) => {
                    let alive = sqlx::query("SELECT 1").execute(&mut *listener);
                    timeout(ALIVE_WITHIN, alive)
                        .await
                        .map_err(|_| late(OPERATION, ALIVE_WITHIN))?
                        .map_err(|error| translate_query(OPERATION, error))?;
                    ask = Instant::now() + ALIVE_EVERY;
                }
                _ = primary.changed() => return Ok(()),
                () = self.wanted.notified() => {
                    if self.topics.lock().is_empty() {
                        return Ok(());
                    }
                }
            }
        }
    }

    fn tell(&self, topic: &str) {
        if let Some(news) = self.topics.lock().get(topic) {
            news.send_replace(());
        }
    }

    fn tell_all(&self) {
        self.topics.lock().values().for_each(|news| news.send_replace(()));
    }

    async fn watch_primary(&self) {
        let mut events = self.pool.events();
        while let Some(event) = events.next().await {
            if matches!(event, PoolEvent::PrimaryChanged { .. } | PoolEvent::Missed { .. }) {
                self.primary.send_modify(|changes| *changes += 1);
                self.tell_all();
            }
        }
        // The pool is gone.
        self.stop.cancel();
    }
}
