//! `dbsvc serve`: settings → telemetry → port → services → HTTP face, then wait; SIGTERM and Ctrl-C drain.
//!
//! The port is taken before anything is connected, so that a taken one is found at once and leaves nothing behind.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use database_services::settings::Settings;
use database_services::{DatabaseServices, ManagerMode};
use ops_http::{Bound, Listen, Reload, ServeError, ServeOptions, Server, Telemetry, Token, TokenError};
use secrecy::ExposeSecret;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;

use crate::cli::{ServeArgs, env_token};
use crate::exit::{Exit, Failed, Outcome};
use crate::output::Output;
use crate::{logging, services, settings};

/// What open HTTP requests get at least, once the services are drained.
const HTTP_GRACE: Duration = Duration::from_secs(2);

pub(crate) fn run(args: &ServeArgs, token_file: Option<&Path>, output: Output) -> Outcome {
    let settings = settings::load(&args.settings)?;
    logging::init(settings.log_filter(), output.is_json())?;
    tracing::debug!(filter = settings.log_filter(), ?settings, "settings are loaded");
    for note in settings.notes() {
        tracing::warn!(setting = note.setting, "{} ({}) {}", note.setting, note.source, note.message);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(Box::pin(serve(args, token_file, settings, output)));
    match outcome {
        Ok(_) => runtime.shutdown_timeout(Duration::from_secs(1)),
        Err(_) => runtime.shutdown_background(),
    }
    outcome
}

async fn serve(args: &ServeArgs, token_file: Option<&Path>, settings: Settings, output: Output) -> Outcome {
    let mode = mode(args, &settings)?;
    let grace = args.grace.map_or(settings.shutdown_grace, Duration::from_secs);
    // From here on the first signal ends orderly, also in the middle of starting.
    let mut signals = Signals::new(args.until_stdin_ends)?;
    let _telemetry = Telemetry::install().context("setting up the metrics")?;
    let bound = bind(args, &settings)?;
    let token = AdminToken::find(token_file, &settings)?;
    let services = services::create(mode, settings)?;
    let options = ServeOptions {
        token: Some(token.token.clone()),
        reload: Some(reload(args)),
        ..ServeOptions::default()
    };
    // Answers from now on: alive, and not ready before the services are.
    let server = bound.serve(services.clone(), options).map_err(|error| http_failed(&error))?;
    tokio::select! {
        started = services.initialize() => started.map_err(|error| services::failed(&error))?,
        signal = signals.next() => {
            tracing::info!(signal, "stopped while starting");
            return Ok(Exit::Fine);
        }
    }
    announce(&server, mode, &token, output)?;

    let reason = tokio::select! {
        signal = signals.next() => signal,
        () = server.shutdown_requested() => "request",
    };
    tracing::info!(reason, ?grace, "draining; a second signal ends at once");
    server.start_draining();
    tokio::select! {
        biased;
        signal = signals.next() => {
            Err(Failed::failure(format!("a second signal ({signal}) cut the drain short; work under way was lost")))
        }
        exit = drain(services, server, grace) => Ok(exit),
    }
}

async fn drain(services: DatabaseServices, server: Server, grace: Duration) -> Exit {
    let began = Instant::now();
    services.shutdown(grace).await;
    let late = began.elapsed() > grace;
    let cut_off = !server.shutdown(grace.saturating_sub(began.elapsed()).max(HTTP_GRACE)).await;
    let took = began.elapsed();
    if !late && !cut_off {
        tracing::info!(?took, "stopped");
        Exit::Fine
    } else {
        tracing::warn!(?took, "stopped, but not everything had ended in time and was cut off");
        Exit::Warning
    }
}

fn mode(args: &ServeArgs, settings: &Settings) -> Result<ManagerMode, Failed> {
    let name = args.mode.as_deref().unwrap_or(&settings.mode);
    name.parse().map_err(|error| Failed::usage(format!("--mode: {error}")))
}

fn bind(args: &ServeArgs, settings: &Settings) -> Result<Bound, Failed> {
    let listen: Listen = match &args.listen {
        Some(listen) => listen.clone(),
        None => {
            settings.http_listen.parse().map_err(|error| Failed::usage(format!("HTTP_LISTEN: {error}")))?
        }
    };
    let mut bound = Server::bind(&listen).map_err(|error| http_failed(&error))?;
    if let Some(socket) = &settings.http_admin_socket {
        bound = bound.and(&Listen::Unix(socket.clone())).map_err(|error| http_failed(&error))?;
    }
    Ok(bound)
}

/// An address that cannot be taken is a matter of settings.
fn http_failed(error: &ServeError) -> Failed {
    let exit = if matches!(error, ServeError::Bind(_)) { Exit::Usage } else { Exit::Failure };
    Failed::new(exit, anyhow::anyhow!("{error}"))
}

/// What reconfiguring loads: the same sources again, with the given names over them.
fn reload(args: &ServeArgs) -> Reload {
    let (config, profile) = (args.settings.config.clone(), args.settings.profile.clone());
    Reload::new(move |over: &BTreeMap<String, String>| {
        let args = crate::cli::SettingsArgs { config: config.clone(), profile: profile.clone() };
        Settings::load(&settings::options(&args).over(over.clone()))
    })
}

fn announce(server: &Server, mode: ManagerMode, token: &AdminToken, output: Output) -> Result<(), Failed> {
    let url = server.url();
    let token_file = token.shown.as_ref().map(|path| path.display().to_string());
    let json = json!({
        "status": "serving",
        "http": url,
        "token_file": token_file,
        "mode": mode.name(),
        "pid": std::process::id(),
    });
    let mut text = format!("serving at {url}");
    if let Some(file) = token_file {
        text.push_str(&format!(", admin token in {file}"));
    }
    output.line(&json, &text)?;
    Ok(())
}

/// The admin token, where to find it, and the file to remove at the end if we made one nobody asked for.
struct AdminToken {
    token: Token,
    shown: Option<PathBuf>,
    made: bool,
}

impl AdminToken {
    /// `--token-file`, else `HTTP_ADMIN_TOKEN`, else `DBSVC_TOKEN`, else a fresh one in a private file.
    fn find(token_file: Option<&Path>, settings: &Settings) -> Result<Self, Failed> {
        let usage = |what: &str, error: TokenError| {
            Failed::usage(format!("{what}: {:#}", anyhow::Error::from(error)))
        };
        if let Some(path) = token_file {
            let token = Token::read_or_create(path).map_err(|error| usage("--token-file", error))?;
            return Ok(Self { token, shown: Some(path.to_owned()), made: false });
        }
        if let Some(text) = &settings.http_admin_token {
            let token =
                Token::parse(text.expose_secret()).map_err(|error| usage("HTTP_ADMIN_TOKEN", error))?;
            return Ok(Self { token, shown: None, made: false });
        }
        if let Some(text) = env_token() {
            let token = Token::parse(&text.0).map_err(|error| usage("DBSVC_TOKEN", error))?;
            return Ok(Self { token, shown: None, made: false });
        }
        let directory = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
        let (token, path) = Token::create_in(&directory).map_err(|error| {
            usage("no admin token is set, and making one failed; give --token-file", error)
        })?;
        Ok(Self { token, shown: Some(path), made: true })
    }
}

impl Drop for AdminToken {
    fn drop(&mut self) {
        if let (true, Some(path)) = (self.made, &self.shown) {
            let _gone_already = std::fs::remove_file(path);
        }
    }
}

/// All ways to be told to end.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    /// The end of standard input, where that counts; taken once it came.
    input: Option<oneshot::Receiver<()>>,
}

impl Signals {
    fn new(until_stdin_ends: bool) -> Result<Self, Failed> {
        let input = if until_stdin_ends { Some(end_of_input()?) } else { None };
        let (terminate, interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        Ok(Self { terminate, interrupt, input })
    }

    /// Cancel safe.
    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
            () = ended(&mut self.input) => "the end of standard input",
        }
    }
}

/// On a thread of its own: the runtime's reader of standard input would hold up the end of the runtime.
fn end_of_input() -> Result<oneshot::Receiver<()>, Failed> {
    let (ended, input) = oneshot::channel();
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        // An input that cannot be read has ended, too.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = ended.send(());
    })?;
    Ok(input)
}

/// Cancel safe. Completes once.
async fn ended(input: &mut Option<oneshot::Receiver<()>>) {
    match input.as_mut() {
        Some(end) => {
            let _ = end.await;
            *input = None;
        }
        None => std::future::pending().await,
    }
}
