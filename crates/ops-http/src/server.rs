//! The server on its own thread and runtime: it answers when the services' runtime is saturated.
//!
//! Everything that a client can hold is bounded: connections, header bytes and time, body bytes, request time and
//! a connection's age. Not here: TLS (terminate it before, or listen on a Unix socket).

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::http::Request;
use database_services::DatabaseServices;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::access::Peer;
use crate::control::Control;
use crate::listen::{BindError, Listen, Socket};
use crate::options::{Limits, RouterOptions, ServeOptions};
use crate::router::{router, standalone};

/// A pause after a failed accept (no file descriptors left): time for connections to end.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    /// The address cannot be taken.
    #[error(transparent)]
    Bind(#[from] BindError),
    /// Called outside a Tokio runtime.
    #[error("the HTTP server is started inside the services' Tokio runtime, and there is none here")]
    NoRuntime,
    /// The thread or its runtime could not be made.
    #[error("the HTTP server's thread cannot be started: {0}")]
    Thread(#[source] io::Error),
}

/// An address taken before anything else is started; clients that connect wait until [`Bound::serve`].
#[derive(Debug)]
pub struct Bound {
    sockets: Vec<Socket>,
    addr: Listen,
}

impl Bound {
    /// The address with its real port.
    #[must_use]
    pub fn addr(&self) -> &Listen {
        &self.addr
    }

    /// Listens on this address too: a Unix socket beside the port.
    ///
    /// # Errors
    /// It is taken, or may not be taken.
    pub fn and(mut self, listen: &Listen) -> Result<Self, ServeError> {
        self.sockets.push(listen.bind()?.0);
        Ok(self)
    }

    /// Starts answering, on a thread of its own. `options.listen` is not looked at.
    ///
    /// # Errors
    /// Outside a Tokio runtime, or when the thread cannot be made.
    pub fn serve(self, services: DatabaseServices, options: ServeOptions) -> Result<Server, ServeError> {
        let services_runtime = Handle::try_current().map_err(|_outside| ServeError::NoRuntime)?;
        let control = Arc::new(Control::default());
        let limits = options.limits;
        let app = standalone(router(
            services,
            RouterOptions {
                token: options.token,
                limits,
                runtime: services_runtime,
                control: Arc::clone(&control),
                reload: options.reload,
            },
        ));
        let stop = CancellationToken::new();
        let (ended, has_ended) = oneshot::channel();
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(ServeError::Thread)?;
        let stopped = stop.clone();
        std::thread::Builder::new()
            .name("ops-http".to_owned())
            .spawn(move || {
                runtime.block_on(run(self.sockets, app, limits, stopped));
                let _nobody_waits = ended.send(());
            })
            .map_err(ServeError::Thread)?;
        tracing::info!(listen = %self.addr, "HTTP server started");
        Ok(Server { addr: self.addr, control, stop, has_ended })
    }
}

/// A running server. Dropping it ends it without waiting; open requests get [`Limits::request_timeout`].
#[derive(Debug)]
pub struct Server {
    addr: Listen,
    control: Arc<Control>,
    stop: CancellationToken,
    has_ended: oneshot::Receiver<()>,
}

impl Server {
    /// Takes an address.
    ///
    /// # Errors
    /// It is taken, or may not be taken.
    pub fn bind(listen: &Listen) -> Result<Bound, ServeError> {
        let (socket, addr) = listen.bind()?;
        Ok(Bound { sockets: vec![socket], addr })
    }

    /// Takes `options.listen` and starts answering. Call it inside the runtime that the services live on:
    /// whatever talks to a database is run there.
    ///
    /// # Errors
    /// The address cannot be taken, or the thread cannot be started.
    pub fn start(services: DatabaseServices, options: ServeOptions) -> Result<Self, ServeError> {
        let mut bound = Self::bind(&options.listen)?;
        if let Some(socket) = &options.socket {
            bound = bound.and(&Listen::Unix(socket.clone()))?;
        }
        bound.serve(services, options)
    }

    /// The address with its real port.
    #[must_use]
    pub fn addr(&self) -> &Listen {
        &self.addr
    }

    /// `http://host:port`, or `unix:/path`: what a client takes as `--url`.
    #[must_use]
    pub fn url(&self) -> String {
        match &self.addr {
            Listen::Tcp(address) => format!("http://{address}"),
            unix @ Listen::Unix(_) => unix.to_string(),
        }
    }

    /// From now on `/readyz` answers 503, so that no new traffic is sent here; everything else goes on.
    pub fn start_draining(&self) {
        self.control.set_draining(true);
    }

    /// Waits until somebody asks for the end through `POST /v1/service/shutdown`. Cancel safe.
    pub async fn shutdown_requested(&self) {
        self.control.shutdown_requested().await;
    }

    /// Takes no new connections and waits for running requests to end, for at most `grace`; `false`: some had not.
    /// Cancelled: goes on by itself.
    pub async fn shutdown(mut self, grace: Duration) -> bool {
        self.stop.cancel();
        tokio::time::timeout(grace, &mut self.has_ended).await.is_ok()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn run(sockets: Vec<Socket>, app: Router, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let connections = Connections { app, limits, stop, permits, tasks: TaskTracker::new() };
    let accepting = sockets.into_iter().map(|socket| connections.accept_on(socket));
    for accepted in futures_util::future::join_all(accepting).await {
        if let Err(error) = accepted {
            tracing::error!(%error, "the HTTP server cannot accept connections");
        }
    }
    connections.tasks.close();
    // Every connection ends by itself within the request time-out once `stop` is set.
    connections.tasks.wait().await;
}

struct Connections {
    app: Router,
    limits: Limits,
    stop: CancellationToken,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Connections {
    async fn accept_on(&self, socket: Socket) -> io::Result<()> {
        match socket {
            Socket::Tcp(listener) => {
                let listener = TcpListener::from_std(listener)?;
                self.accept(
                    || listener.accept(),
                    |(stream, address), permit| {
                        let _only_latency = stream.set_nodelay(true);
                        self.spawn(stream, Peer::Tcp(address), permit);
                    },
                )
                .await;
            }
            Socket::Unix(listener, _removed_at_the_end) => {
                let listener = UnixListener::from_std(listener)?;
                self.accept(
                    || listener.accept(),
                    |(stream, _unnamed), permit| {
                        self.spawn(stream, Peer::Unix, permit);
                    },
                )
                .await;
            }
        }
        Ok(())
    }

    /// Until stopped: waits for room for one more connection (others wait in the kernel's backlog), then for it.
    async fn accept<F, A>(&self, next: impl Fn() -> F, serve: impl Fn(A, OwnedSemaphorePermit))
    where
        F: Future<Output = io::Result<A>>,
    {
        loop {
            let accepted = async {
                let permit = Arc::clone(&self.permits).acquire_owned().await;
                (next().await, permit)
            };
            tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = accepted => match accepted {
                    (Ok(connection), Ok(permit)) => serve(connection, permit),
                    (Err(error), _) => self.pause_after(&error).await,
                    (_, Err(_closed)) => return,
                },
            }
        }
    }

    async fn pause_after(&self, error: &io::Error) {
        tracing::warn!(%error, "a connection could not be accepted");
        tokio::time::sleep(ACCEPT_PAUSE).await;
    }

    fn spawn<IO>(&self, io: IO, peer: Peer, permit: OwnedSemaphorePermit)
    where
        IO: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (limits, stop) = (self.limits, self.stop.clone());
        let app = self.app.clone().map_request(move |mut request: Request<hyper::body::Incoming>| {
            request.extensions_mut().insert(peer.clone());
            request
        });
        self.tasks.spawn(async move {
            let _permit = permit;
            let connection = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(limits.header_timeout)
                .max_headers(limits.headers)
                .max_header_size(limits.header_bytes)
                .serve_connection(TokioIo::new(io), TowerToHyperService::new(app));
            tokio::pin!(connection);
            tokio::select! {
                _ended = connection.as_mut() => return,
                () = stop.cancelled() => {}
                () = tokio::time::sleep(limits.connection_age) => {}
            }
            connection.as_mut().graceful_shutdown();
            let _cut_off = tokio::time::timeout(limits.request_timeout, connection).await;
        });
    }
}
