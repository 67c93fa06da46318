//! The coordinator's end of its service processes: start them, send them phases, pass floors on between them.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdin, Command as Process};
use tokio::sync::mpsc;

use crate::protocol::{Command, Event, Messages, Phase, PhaseReport, Start, Tick};

/// How long a process may take for what has no length of its own: to start, to finish a phase, to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// All service processes of a run. Dropping it kills them.
#[derive(Debug)]
pub(crate) struct Children {
    children: Vec<Child>,
    events: mpsc::Receiver<(usize, Event)>,
}

#[derive(Debug)]
struct Child {
    process: tokio::process::Child,
    input: ChildStdin,
}

impl Children {
    /// Starts one process for each of `starts` and waits until all of them serve.
    pub(crate) async fn start(starts: Vec<Start>) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("cannot find this program's own file")?;
        let (sender, events) = mpsc::channel(1024);
        let mut children = Vec::new();
        for (index, start) in starts.iter().enumerate() {
            let mut process = Process::new(&program)
                .arg("service")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                // Ctrl-C goes to the coordinator alone, which stops the others in order.
                .process_group(0)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("cannot start a service process from {}", program.display()))?;
            let input = process.stdin.take().context("the service process has no standard input")?;
            let output = process.stdout.take().context("the service process has no standard output")?;
            let sender = sender.clone();
            tokio::spawn(async move {
                let mut lines = BufReader::new(output).lines();
                while let Ok(Some(line)) = lines.next_line().await {
                    let event = serde_json::from_str(&line).unwrap_or_else(|error| Event::Failed {
                        message: format!("unreadable event: {error}"),
                    });
                    // After its last word it may end, before or after the others.
                    let last = matches!(event, Event::Stopped { .. });
                    if sender.send((index, event)).await.is_err() || last {
                        return;
                    }
                }
                let message = "the process ended".to_owned();
                let _ = sender.send((index, Event::Failed { message })).await;
            });
            let mut child = Child { process, input };
            child.send(&Command::Start(start.clone())).await?;
            children.push(child);
        }
        let mut all = Self { children, events };
        for _ in 0..starts.len() {
            match all.event(PATIENCE).await? {
                (_, Event::Ready) => {}
                (index, other) => bail!("service process {index} said {other:?} instead of being ready"),
            }
        }
        Ok(all)
    }

    /// Runs one phase in all processes at once; `progress` sees their ticks.
    pub(crate) async fn phase(
        &mut self,
        phase: &Phase,
        mut progress: impl FnMut(usize, &Tick),
    ) -> anyhow::Result<Vec<PhaseReport>> {
        for child in &mut self.children {
            child.send(&Command::Phase(phase.clone())).await?;
        }
        let limit = tokio::time::Instant::now() + phase.warmup + phase.run + PATIENCE;
        let mut reports = Vec::new();
        while reports.len() < self.children.len() {
            let left = limit.saturating_duration_since(tokio::time::Instant::now());
            match self.event(left).await? {
                (index, Event::Tick(tick)) => progress(index, &tick),
                (index, Event::Floor(floor)) => {
                    for (other, child) in self.children.iter_mut().enumerate() {
                        if other != index {
                            child.send(&Command::Floor(floor)).await?;
                        }
                    }
                }
                (_, Event::Done(report)) => reports.push(*report),
                (index, other) => bail!("service process {index} said {other:?} in the middle of a phase"),
            }
        }
        Ok(reports)
    }

    /// Drains all processes, waits for their end, and returns what became of the messages.
    pub(crate) async fn stop(mut self) -> anyhow::Result<Messages> {
        for child in &mut self.children {
            child.send(&Command::Stop).await?;
        }
        let mut all = Messages::default();
        let mut stopped = 0;
        while stopped < self.children.len() {
            if let (_, Event::Stopped { messages }) = self.event(PATIENCE).await? {
                stopped += 1;
                all.published += messages.published;
                all.refused += messages.refused;
                all.received += messages.received;
                all.gaps += messages.gaps;
            }
        }
        for child in &mut self.children {
            let status = child.process.wait().await.context("cannot wait for a service process")?;
            if !status.success() {
                bail!("a service process ended with {status}");
            }
        }
        Ok(all)
    }

    async fn event(&mut self, patience: Duration) -> anyhow::Result<(usize, Event)> {
        let event = tokio::time::timeout(patience, self.events.recv()).await;
        match event.map_err(|_| anyhow!("no word from the service processes for {patience:?}"))? {
            Some((index, Event::Failed { message })) => bail!("service process {index}: {message}"),
            Some(event) => Ok(event),
            None => bail!("all service processes are gone"),
        }
    }
}

impl Child {
    async fn send(&mut self, command: &Command) -> anyhow::Result<()> {
        let mut line = serde_json::to_vec(command)?;
        line.push(b'\n');
        let sent = tokio::time::timeout(PATIENCE, self.input.write_all(&line)).await;
        sent.context("a service process does not read its commands")?.context("a service process is gone")
    }
}
