//! `demo up`: a stack and `dbsvc serve` that stay until Ctrl-C, with their addresses for other programs.

use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::signal::unix::{SignalKind, signal};

use crate::args::{Servers, UpArgs};
use crate::load::Load;
use crate::progress::Progress;
use crate::report::write_whole;
use crate::servers::{Address, Stack};
use crate::workload::ROWS;

/// How long `dbsvc serve` may take to serve, and to drain.
const PATIENCE: Duration = Duration::from_secs(60);

/// `up --json`.
#[derive(Debug, Serialize)]
struct Up {
    http: String,
    admin_token: String,
    postgres: Vec<Address>,
    redis: Vec<Address>,
    /// The process of `dbsvc serve`.
    pid: u32,
}

/// What `dbsvc --json serve` says once it serves.
#[derive(Debug, Deserialize)]
struct Serving {
    http: String,
    token_file: PathBuf,
    pid: u32,
}

/// Comes up, says where, and waits for a signal. Dropping it at any point ends everything that was started.
pub(crate) async fn up(args: &UpArgs) -> anyhow::Result<u8> {
    let mut interrupted = pin!(interrupted());
    let started = tokio::select! {
        started = start(args) => started?,
        () = &mut interrupted => {
            eprintln!("interrupted: what had been started is ended");
            return Ok(crate::INTERRUPTED);
        }
    };
    let Started { up, mut process, input: _input, stack } = started;
    let _addresses = announce(&up, args)?;
    let load = async {
        match args.demo_load {
            true => Load::new(&up.http, &up.admin_token)?.run().await,
            false => std::future::pending().await,
        }
    };
    tokio::select! {
        ended = process.wait() => bail!("dbsvc serve ended by itself: {}", ended?),
        failed = load => failed.context("the demo load broke off")?,
        () = interrupted => {}
    }
    eprintln!("stopping");
    drain(&mut process).await?;
    stack.stop().await?;
    Ok(0)
}

/// What is up. Dropped in this order: the service ends before its servers.
struct Started {
    up: Up,
    process: Child,
    /// Held open: the service ends with it.
    input: ChildStdin,
    stack: Stack,
}

async fn start(args: &UpArgs) -> anyhow::Result<Started> {
    let step = Progress::step("starting Postgres (primary, replica) and Redis (master, replica)");
    let stack = Stack::start(Servers::Native, args.yes).await?;
    step.set_message("loading the demo's catalogue");
    stack.load_catalogue(ROWS, |_| {}).await?;
    step.set_message("starting dbsvc serve");
    let (process, input, serving) = serve(&stack).await?;
    step.finish_and_clear();
    let token = std::fs::read_to_string(&serving.token_file).context("cannot read the admin token")?;
    let (postgres, redis) = stack.addresses();
    let up =
        Up { http: serving.http, admin_token: token.trim().to_owned(), postgres, redis, pid: serving.pid };
    Ok(Started { up, process, input, stack })
}

/// Starts the `dbsvc` beside this program on a free port and waits until it serves. It ends when its input does, so
/// it does not survive a kill of this program.
async fn serve(stack: &Stack) -> anyhow::Result<(Child, ChildStdin, Serving)> {
    let own = std::env::current_exe().context("cannot find this program's own file")?;
    let program = own.with_file_name("dbsvc");
    // Among the servers' data: the watchdog removes it with them.
    let token_file = stack.directory()?.join("admin-token");
    let mut process = tokio::process::Command::new(&program)
        .args(["--json", "serve", "--listen", "127.0.0.1:0", "--mode", "high_availability"])
        .args(["--grace", "3", "--until-stdin-ends", "--token-file"])
        .arg(token_file)
        .envs(stack.settings())
        // The demo load's calls are no news.
        .env("LOG_LEVEL", "warn,fred=error,audit=off")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| {
            format!("cannot start {}; build it: cargo build --release -p dbsvc", program.display())
        })?;
    // Taken, because waiting for a process closes an input that it still has.
    let input = process.stdin.take().context("dbsvc serve has no standard input")?;
    let output = process.stdout.take().context("dbsvc serve has no standard output")?;
    let mut lines = BufReader::new(output).lines();
    let line =
        tokio::time::timeout(PATIENCE, lines.next_line()).await.context("dbsvc serve does not come up")??;
    let line = line.context("dbsvc serve ended before it served")?;
    let serving = serde_json::from_str(&line).with_context(|| format!("dbsvc serve said {line:?}"))?;
    Ok((process, input, serving))
}

async fn drain(process: &mut Child) -> anyhow::Result<()> {
    if let Some(pid) = process.id().and_then(|pid| rustix::process::Pid::from_raw(pid.cast_signed())) {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .context("cannot stop dbsvc serve")?;
    }
    let ended =
        tokio::time::timeout(PATIENCE, process.wait()).await.context("dbsvc serve does not drain")??;
    anyhow::ensure!(ended.success(), "dbsvc serve ended with {ended}");
    Ok(())
}

/// Removes the file of addresses when they no longer hold.
struct Addresses<'a>(&'a Path);

impl Drop for Addresses<'_> {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(self.0) {
            eprintln!("{} holds addresses of servers that are gone: {error}", self.0.display());
        }
    }
}

fn announce<'a>(up: &Up, args: &'a UpArgs) -> anyhow::Result<Option<Addresses<'a>>> {
    use std::io::Write;
    let mut out = std::io::stdout().lock();
    writeln!(out, "http      {}", up.http)?;
    for (name, servers) in [("postgres", &up.postgres), ("redis", &up.redis)] {
        for server in servers {
            writeln!(out, "{name:9} {server}")?;
        }
    }
    if let Some(path) = &args.json {
        // It holds the admin token and the servers' passwords.
        write_whole(path, &(serde_json::to_string_pretty(up)? + "\n"), 0o600)?;
        writeln!(out, "all of it, with the admin token: {} (try: dbsvc --up {0} health)", path.display())?;
    }
    writeln!(out, "Ctrl-C stops it all")?;
    Ok(args.json.as_deref().map(Addresses))
}

/// Completes at the first Ctrl-C or SIGTERM. The second one ends the program at once; the servers' watchdog then
/// does the rest.
pub(crate) async fn interrupted() {
    let signals = (signal(SignalKind::interrupt()), signal(SignalKind::terminate()));
    let (Ok(mut interrupt), Ok(mut terminate)) = signals else {
        return std::future::pending().await;
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    tokio::spawn(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
        eprintln!("second signal: ending at once; the watchdog ends the servers");
        std::process::exit(i32::from(crate::INTERRUPTED));
    });
}
