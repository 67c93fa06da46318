//! Running the program, with an environment of nothing but what a test gives.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use local_stack::{Database, Stack};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// Longest that anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(30);

pub(crate) type Env<'e> = &'e [(&'e str, &'e str)];

#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) exit: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl Run {
    fn of(output: std::process::Output) -> Self {
        Self {
            exit: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

pub(crate) fn command(env: Env<'_>, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dbsvc"));
    command.args(args).env_clear().envs(env.iter().copied()).stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs to the end.
pub(crate) async fn run(env: Env<'_>, args: &[&str]) -> Run {
    Run::of(tokio::time::timeout(SOON, command(env, args).output()).await.expect("it ends").unwrap())
}

/// A terminal: our side and the program's.
fn terminal() -> (rustix::fd::OwnedFd, std::fs::File) {
    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
    let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
    grantpt(&terminal).unwrap();
    unlockpt(&terminal).unwrap();
    let path = ptsname(&terminal, Vec::new()).unwrap().into_string().unwrap();
    (terminal, std::fs::OpenOptions::new().read(true).write(true).open(path).unwrap())
}

/// Runs to the end with a terminal that somebody looks at, and gives what was shown there instead of stderr.
pub(crate) async fn run_shown(env: Env<'_>, args: &[&str]) -> Run {
    let (terminal, screen) = terminal();
    let shown = tokio::task::spawn_blocking(move || {
        let (mut all, mut some) = (Vec::new(), [0; 4096]);
        // An error is the end: nobody holds the other side any more.
        while let Ok(n @ 1..) = rustix::io::read(&terminal, &mut some) {
            all.extend_from_slice(&some[..n]);
        }
        String::from_utf8_lossy(&all).into_owned()
    });
    let mut command = command(env, args);
    // `output()` would take stderr for itself.
    command.env("TERM", "xterm").stdout(Stdio::piped()).stderr(screen);
    let child = command.spawn().unwrap();
    drop(command);
    let output = tokio::time::timeout(SOON, child.wait_with_output()).await.expect("it ends").unwrap();
    Run { err: shown.await.unwrap(), ..Run::of(output) }
}

/// Runs to the end on a terminal, where somebody types this.
pub(crate) async fn run_on_terminal(env: Env<'_>, args: &[&str], typed: &str) -> Run {
    let (terminal, keyboard) = terminal();
    assert_eq!(rustix::io::write(&terminal, typed.as_bytes()).unwrap(), typed.len());
    let mut command = command(env, args);
    command.stdin(keyboard);
    let output = tokio::time::timeout(SOON, command.output()).await.expect("it ends").unwrap();
    drop(terminal);
    Run::of(output)
}

/// A database and what a service needs to know of it and of Redis.
pub(crate) struct Place {
    pub(crate) stack: Stack,
    pub(crate) database: Database,
    pub(crate) env: Vec<(&'static str, String)>,
}

impl Place {
    pub(crate) async fn shared() -> Self {
        Self::on(Stack::shared().await.unwrap()).await
    }

    pub(crate) async fn on(stack: Stack) -> Self {
        let database = stack.database().await.unwrap();
        let env = vec![
            ("DATABASE_URL", database.url()),
            ("REDIS_URL", stack.redis_url()),
            ("REDIS_NAMESPACE", stack.redis_namespace()),
            ("HTTP_LISTEN", "127.0.0.1:0".to_owned()),
            // Three of these are the patience with a probe: more than its time-out, and than a busy machine's hiccup.
            ("HEALTH_INTERVAL", "1s".to_owned()),
            ("HEALTH_TIMEOUT", "1s".to_owned()),
        ];
        Self { stack, database, env }
    }

    pub(crate) fn env(&self) -> Vec<(&str, &str)> {
        self.env.iter().map(|(name, value)| (*name, value.as_str())).collect()
    }

    /// Starts `dbsvc serve --json` and waits until it serves.
    pub(crate) async fn serve(&self, args: &[&str]) -> Serving {
        self.serve_with(&self.env(), args, Stdio::inherit()).await
    }

    /// The same with another environment and its log somewhere.
    pub(crate) async fn serve_with(&self, env: Env<'_>, args: &[&str], log: Stdio) -> Serving {
        let args: Vec<&str> = ["serve", "--json"].iter().chain(args).copied().collect();
        let mut child = command(env, &args).stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(SOON, lines.next_line()).await.expect("it serves").unwrap();
        let line = line.expect("it says that it serves before it ends");
        Serving { child, told: serde_json::from_str(&line).unwrap() }
    }
}

/// A service under test.
pub(crate) struct Serving {
    pub(crate) child: Child,
    /// What it told when it was up.
    pub(crate) told: Value,
}

impl Serving {
    pub(crate) fn url(&self) -> &str {
        self.told["http"].as_str().unwrap()
    }

    pub(crate) fn token_file(&self) -> &str {
        self.told["token_file"].as_str().unwrap()
    }

    /// Runs a command against it.
    pub(crate) async fn run(&self, args: &[&str]) -> Run {
        let at = ["--url", self.url(), "--token-file", self.token_file()];
        let args: Vec<&str> = args.iter().chain(&at).copied().collect();
        run(&[], &args).await
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().expect("it runs").cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn exit(&mut self) -> i32 {
        let status = tokio::time::timeout(SOON, self.child.wait()).await.expect("it ends").unwrap();
        status.code().unwrap_or(-1)
    }

    pub(crate) async fn stop(mut self) {
        self.signal(rustix::process::Signal::TERM);
        assert_eq!(self.exit().await, 0);
    }

    /// Waits until `dbsvc health` ends with this code.
    pub(crate) async fn until_health_exits(&self, code: i32) -> Run {
        local_stack::wait_for(&format!("health exits with {code}"), SOON, async || {
            self.run(&["health"]).await.exit == code
        })
        .await;
        self.run(&["health", "--json"]).await
    }
}

pub(crate) fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}
