//! Routes many names and patterns to handlers. It decides nothing about messages beyond which handler gets them.

use crate::{
    Error, Filter, HandlerLoss, HandlerOptions, Handlers, Message, PubSubManager,
    handler::{OnLoss, Work, log_loss},
};
use serde::de::DeserializeOwned;
use std::{fmt, future::Future, pin::Pin, sync::Arc};

type Started = Pin<Box<dyn Future<Output = Result<Employ, Error>> + Send>>;
type Employ = Box<dyn FnOnce(&Handlers, Arc<OnLoss>) + Send>;
type Start = Box<dyn FnOnce(PubSubManager) -> Started + Send>;

/// Routes from names and patterns to handlers, subscribed to together by [`start`](Self::start).
///
/// A message that matches several routes goes to each of them. A handler that fails or panics is logged and counted; the
/// message is not repeated, which is what [durable channels](crate::DurableChannel) are for.
///
/// ```
/// use pubsub_manager::{Config, Deps, HandlerOptions, MemoryBus, Message, Router};
/// # #[tokio::main(flavor = "current_thread")] async fn main() -> Result<(), pubsub_manager::Error> {
/// let manager = Config::default().build(Deps::over(MemoryBus::new()))?;
/// let parallel = HandlerOptions { concurrency: 8, ..HandlerOptions::default() };
/// let handlers = Router::new()
///     .route("orders.created", HandlerOptions::default(), |order: Message<u64>| async move {
///         println!("order {}", order.value);
///         Ok::<(), std::io::Error>(())
///     })?
///     .route("mail.>", parallel, |mail: Message<String>| async move {
///         if mail.value.is_empty() { Err("an empty mail") } else { Ok(()) }
///     })?
///     .start(&manager)
///     .await?;
/// manager.channel::<u64>("orders.created")?.publish(&7).await?;
/// handlers.shutdown(std::time::Duration::from_secs(5)).await;
/// # Ok(()) }
/// ```
#[derive(Default)]
pub struct Router {
    routes: Vec<(Filter, Start)>,
    on_loss: Option<Arc<OnLoss>>,
}

impl Router {
    /// Without routes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends what matches `pattern` (see [`Filter::new`]) to `handler`.
    ///
    /// # Errors
    /// [`Error::InvalidSubject`].
    pub fn route<T, F, O, E>(
        mut self,
        pattern: &str,
        options: HandlerOptions,
        handler: F,
    ) -> Result<Self, Error>
    where
        T: DeserializeOwned + Send + 'static,
        F: Fn(Message<T>) -> O + Send + Sync + 'static,
        O: Future<Output = Result<(), E>> + Send + 'static,
        E: fmt::Display,
    {
        let filter = Filter::new(pattern)?;
        let wanted = filter.clone();
        let start = move |manager: PubSubManager| -> Started {
            Box::pin(async move {
                let subscription = manager.subscribe_filter::<T>(wanted, options.subscribe).await?;
                let employ = move |handlers: &Handlers, on_loss: Arc<OnLoss>| {
                    let work = move |message| -> Work {
                        let handled = handler(message);
                        Box::pin(async move { handled.await.map_err(|error| error.to_string()) })
                    };
                    handlers.employ(subscription, options.concurrency, work, on_loss);
                };
                Ok(Box::new(employ) as Employ)
            })
        };
        self.routes.push((filter, Box::new(start)));
        Ok(self)
    }

    /// Has every loss told to `hook` instead of the log.
    #[must_use]
    pub fn on_loss(mut self, hook: impl Fn(HandlerLoss) + Send + Sync + 'static) -> Self {
        self.on_loss = Some(Arc::new(hook));
        self
    }

    /// Subscribes all routes, and puts the handlers to work once every subscription is confirmed.
    ///
    /// Cancel safety: dropped, there are no subscriptions.
    ///
    /// # Errors
    /// Those of [`PubSubManager::subscribe_pattern`], for the first route that fails; then there are no subscriptions.
    pub async fn start(self, manager: &PubSubManager) -> Result<Handlers, Error> {
        let on_loss = self.on_loss.unwrap_or_else(|| Arc::new(|loss: HandlerLoss| log_loss(&loss)));
        let mut confirmed = Vec::with_capacity(self.routes.len());
        for (_, start) in self.routes {
            confirmed.push(start(manager.clone()).await?);
        }
        let handlers = manager.handlers();
        for employ in confirmed {
            employ(&handlers, Arc::clone(&on_loss));
        }
        Ok(handlers)
    }
}

impl fmt::Debug for Router {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.routes.iter().map(|(filter, _)| filter.as_str())).finish()
    }
}
