//! One run of the demo in a folder of its own, by which its servers and processes are found.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

pub(crate) struct Demo {
    child: Child,
    folder: tempfile::TempDir,
}

impl Demo {
    pub(crate) fn new<'a>(args: impl IntoIterator<Item = &'a str>) -> Self {
        Self::with(args, |_| {})
    }

    pub(crate) fn with<'a>(args: impl IntoIterator<Item = &'a str>, more: impl FnOnce(&mut Command)) -> Self {
        let folder = tempfile::Builder::new().prefix("demo-test-").tempdir().unwrap();
        // The servers run as another user when we are root, and must reach their folders below this one.
        std::fs::set_permissions(folder.path(), std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
        let stderr = std::fs::File::create(folder.path().join("stderr")).unwrap();
        let stdout = std::fs::File::create(folder.path().join("stdout")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_demo"));
        command.args(args).current_dir(&folder).env("LOCAL_STACK_DIR", folder.path());
        command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        more(&mut command);
        Self { child: command.spawn().unwrap(), folder }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub(crate) fn stderr(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap()
    }

    pub(crate) fn json(&self, name: &str) -> serde_json::Value {
        let text = std::fs::read_to_string(self.path(name));
        let text = text.unwrap_or_else(|error| panic!("{name}: {error}; the demo said {}", self.stderr()));
        serde_json::from_str(&text).unwrap()
    }

    pub(crate) fn wait(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        wait_for(&format!("the demo to end ({})", self.folder.path().display()), within, || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap()
    }

    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_raw(self.child.id().cast_signed()).unwrap();
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until all four servers and both service processes run.
    pub(crate) fn wait_for_servers(&self) {
        wait_for("servers and processes", Duration::from_secs(60), || {
            let left = self.left();
            let count = |name: &str| left.iter().filter(|line| line.contains(name)).count();
            count("redis-server") >= 2 && count("postgres") >= 2 && count("service") >= 2
        });
    }

    /// Command lines of living processes that have this run's folder in their environment or command line.
    pub(crate) fn left(&self) -> Vec<String> {
        let folder = self.folder.path().to_str().unwrap();
        let processes = std::fs::read_dir("/proc").unwrap().flatten();
        let own = self.child.id().to_string();
        let living = processes.filter(|entry| entry.file_name().to_str() != Some(&own));
        living.filter_map(|entry| mentions(&entry.path(), folder)).collect()
    }

    pub(crate) fn assert_nothing_left(&self) {
        wait_for("processes to end", Duration::from_secs(5), || self.left().is_empty());
        let files = std::fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.file_name());
        let kept = |name: &std::ffi::OsString| {
            ["stdout", "stderr", "report.json"].iter().any(|kept| name == kept)
                || name.to_string_lossy().contains("cache")
        };
        let left: Vec<_> = files.filter(|name| !kept(name)).collect();
        assert!(left.is_empty(), "left behind: {left:?}");
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The process' command line, if it works in the folder or was told of it. Servers rewrite their command lines and
/// environments, but not where they work.
fn mentions(process: &Path, folder: &str) -> Option<String> {
    let read =
        |name| std::fs::read(process.join(name)).ok().map(|b| String::from_utf8_lossy(&b).replace('\0', " "));
    let line = read("cmdline").filter(|line| !line.is_empty())?;
    let works_there = std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
    let told = |text: Option<String>| text.is_some_and(|text| text.contains(folder));
    (works_there || line.contains(folder) || told(read("environ"))).then_some(line)
}

pub(crate) fn wait_for(what: &str, within: Duration, mut condition: impl FnMut() -> bool) {
    let limit = Instant::now() + within;
    while !condition() {
        assert!(Instant::now() < limit, "waited {within:?} for {what}");
        std::thread::park_timeout(Duration::from_millis(25));
    }
}

/// A plain HTTP GET; the whole answer.
pub(crate) fn get(authority: &str, path: &str) -> String {
    let mut stream = std::net::TcpStream::connect(authority).unwrap();
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}
