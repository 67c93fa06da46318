//! Reads that travel together. A lone read goes straight, in its caller's own future. While one is under way others
//! gather, each key once, and leave as one when it is back; or before, when they are many enough to be worth a call of
//! their own beside it. So nobody waits for company, and a call carries as much as there is.
//!
//! Not here: what a read is.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use quick_cache::DefaultHashBuilder;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::{TierError, TierKey};

/// Answers for keys, in their order.
pub(crate) type Answers<R> = Result<Vec<R>, TierError>;
type Ask<R> = dyn Fn(Vec<TierKey>) -> BoxFuture<'static, Answers<R>> + Send + Sync;

/// See the module's text. `ask` has to end by itself.
pub(crate) struct Gather<R>(Arc<Inner<R>>);

struct Inner<R> {
    ask: Box<Ask<R>>,
    runtime: Handle,
    limits: Limits,
    state: Mutex<State<R>>,
}

struct State<R> {
    running: usize,
    waiting: Batch<R>,
}

struct Batch<R> {
    keys: Vec<TierKey>,
    index: HashMap<TierKey, usize, DefaultHashBuilder>,
    replies: Vec<(usize, oneshot::Sender<Result<R, TierError>>)>,
}

impl<R> Default for Batch<R> {
    fn default() -> Self {
        Self { keys: Vec::new(), index: HashMap::default(), replies: Vec::new() }
    }
}

impl<R> std::fmt::Debug for Gather<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gather").finish_non_exhaustive()
    }
}

/// A place among those under way; given back when dropped, also by a caller that went away.
struct Place<R: Clone + Send + 'static>(Arc<Inner<R>>);

impl<R: Clone + Send + 'static> Drop for Place<R> {
    fn drop(&mut self) {
        let next = {
            let mut state = self.0.state.lock();
            if state.waiting.replies.is_empty() {
                state.running -= 1;
                return;
            }
            take(&mut state.waiting, self.0.limits.most_keys)
        };
        // The place passes on to the next batch.
        Place(Arc::clone(&self.0)).start(next);
    }
}

impl<R: Clone + Send + 'static> Place<R> {
    fn start(self, batch: Batch<R>) {
        let runtime = self.0.runtime.clone();
        runtime.spawn(self.run(batch));
    }

    async fn run(self, batch: Batch<R>) {
        let answers = (self.0.ask)(batch.keys).await;
        for (at, reply) in batch.replies {
            let answer = match &answers {
                Ok(answers) => answers.get(at).cloned().ok_or(TierError::TimedOut),
                Err(error) => Err(error.clone()),
            };
            let _ = reply.send(answer);
        }
        // Those who were answered often ask for the next key at once. They go first, or one of them would leave alone and
        // make all others wait for it.
        tokio::task::yield_now().await;
        drop(self);
    }
}

/// How calls are made up.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Calls under way at a time.
    pub(crate) under_way: usize,
    /// So many keys are worth a call beside those under way.
    pub(crate) company: usize,
    /// Keys of one call.
    pub(crate) most_keys: usize,
}

/// Where a read goes.
enum Way<R: Clone + Send + 'static> {
    Alone(Place<R>, TierKey),
    Together(oneshot::Receiver<Result<R, TierError>>),
}

impl<R: Clone + Send + 'static> Gather<R> {
    /// Calls `ask` within the limits.
    pub(crate) fn new(
        limits: Limits,
        ask: impl Fn(Vec<TierKey>) -> BoxFuture<'static, Answers<R>> + Send + Sync + 'static,
    ) -> Self {
        let state = Mutex::new(State { running: 0, waiting: Batch::default() });
        Self(Arc::new(Inner { ask: Box::new(ask), runtime: Handle::current(), limits, state }))
    }

    /// The answer for one key. Its read begins after this is called.
    pub(crate) async fn ask(&self, key: TierKey) -> Result<R, TierError> {
        match self.way(key) {
            Way::Alone(place, key) => {
                let answers = (place.0.ask)(vec![key]).await;
                drop(place);
                answers?.pop().ok_or(TierError::TimedOut)
            }
            Way::Together(reply) => reply.await.unwrap_or(Err(TierError::TimedOut)),
        }
    }

    fn way(&self, key: TierKey) -> Way<R> {
        let mut state = self.0.state.lock();
        if state.running == 0 {
            state.running = 1;
            return Way::Alone(Place(Arc::clone(&self.0)), key);
        }
        let reply = state.waiting.join(key);
        let limits = &self.0.limits;
        if state.running < limits.under_way && state.waiting.keys.len() >= limits.company {
            state.running += 1;
            let batch = take(&mut state.waiting, limits.most_keys);
            drop(state);
            Place(Arc::clone(&self.0)).start(batch);
        }
        Way::Together(reply)
    }
}

impl<R> Batch<R> {
    fn join(&mut self, key: TierKey) -> oneshot::Receiver<Result<R, TierError>> {
        let next = self.keys.len();
        let at = *self.index.entry(key.clone()).or_insert(next);
        if at == next {
            self.keys.push(key);
        }
        let (reply, answer) = oneshot::channel();
        self.replies.push((at, reply));
        answer
    }
}

/// The first `most` keys of what waits, with those who wait for them.
fn take<R>(waiting: &mut Batch<R>, most: usize) -> Batch<R> {
    let mut all = std::mem::take(waiting);
    if all.keys.len() > most {
        for (at, reply) in std::mem::take(&mut all.replies) {
            if at < most {
                all.replies.push((at, reply));
            } else {
                let key = &all.keys[at];
                let next = waiting.keys.len();
                let moved = *waiting.index.entry(key.clone()).or_insert(next);
                if moved == next {
                    waiting.keys.push(key.clone());
                }
                waiting.replies.push((moved, reply));
            }
        }
        all.keys.truncate(most);
    }
    all
}
