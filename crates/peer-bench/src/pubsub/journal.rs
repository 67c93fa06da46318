//! From the append of an entry until a reader that was waiting has it, on one core.

use anyhow::{Context as _, Result};
use fred::clients::Client;
use fred::interfaces::ClientLike as _;
use fred::types::{ClusterHash, CustomCommand, Value};
use local_stack::Stack;
use pubsub_manager::{Journal, JournalConfig, JournalEvent, JournalReader, RedisJournal, RedisJournalConfig};
use resilience::Deadline;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Mutex, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::peers;
use crate::Bench;
use crate::measure::{self, Contender, Crew, Entrant};
use crate::report::{By, OURS};
use crate::servers;

struct Ours {
    journal: Journal,
    reader: Mutex<JournalReader>,
}

impl Contender for Ours {
    async fn op(&self, turn: usize) {
        let (sent, deadline) = (peers::message(turn as u64), Deadline::after(Duration::from_secs(10)));
        let mut reader = self.reader.lock().await;
        self.journal.append(&sent, deadline).await.expect("appended");
        loop {
            match reader.next().await {
                Some(JournalEvent::Entry(entry)) => return assert_eq!(entry.payload, sent),
                Some(JournalEvent::Heartbeat { .. }) => {}
                other => panic!("{other:?} is no entry"),
            }
        }
    }
}

/// XADD, and a task that is in XREAD BLOCK whenever nothing has come. It numbers nothing and notices no loss.
struct Fred {
    client: Client,
    entries: Mutex<mpsc::Receiver<Value>>,
    _reading: AbortOnDropHandle<()>,
}

const STREAM: &str = "fred-journal";

async fn call(client: &Client, name: &'static str, arguments: Vec<Value>) -> Value {
    let command = CustomCommand::new_static(name, ClusterHash::FirstKey, name == "XREAD");
    client.custom(command, arguments).await.expect("an answer")
}

impl Contender for Fred {
    async fn op(&self, turn: usize) {
        let arguments: Vec<Value> = vec![
            STREAM.into(),
            "MAXLEN".into(),
            "~".into(),
            100_000.into(),
            "*".into(),
            "f".into(),
            peers::message(turn as u64).into(),
        ];
        call(&self.client, "XADD", arguments).await;
        std::hint::black_box(self.entries.lock().await.recv().await.expect("an entry"));
    }
}

async fn fred(stack: &Stack) -> Result<Fred> {
    let builder =
        fred::types::Builder::from_config(fred::types::config::Config::from_url(&stack.redis_url())?);
    let (client, reader) = (builder.build()?, builder.build()?);
    client.init().await.context("fred")?;
    reader.init().await.context("fred")?;
    let (sender, entries) = mpsc::channel(1024);
    let reading = tokio::spawn(async move {
        let mut last = Value::from("0-0");
        loop {
            let arguments: Vec<Value> = vec![
                "COUNT".into(),
                512.into(),
                "BLOCK".into(),
                0.into(),
                "STREAMS".into(),
                STREAM.into(),
                last.clone(),
            ];
            for (id, entry) in entries_of(call(&reader, "XREAD", arguments).await) {
                last = id;
                if sender.send(entry).await.is_err() {
                    return;
                }
            }
        }
    });
    Ok(Fred { client, entries: Mutex::new(entries), _reading: AbortOnDropHandle::new(reading) })
}

/// `[[stream, [[id, fields]]]]`, or a map of the same, flattened or not.
fn entries_of(reply: Value) -> Vec<(Value, Value)> {
    let list = |value: Value| value.into_array();
    let streams = list(reply);
    let entries = match streams.last() {
        Some(Value::Array(pair)) if pair.len() == 2 && !matches!(pair[0], Value::Array(_)) => pair[1].clone(),
        Some(entries) => entries.clone(),
        None => return Vec::new(),
    };
    let pair = |entry: Value| {
        let mut parts = list(entry).into_iter();
        (parts.next().expect("an id"), parts.next().expect("fields"))
    };
    list(entries).into_iter().map(pair).collect()
}

/// On the pinned thread of the latencies.
pub(crate) async fn run_one(bench: &mut Bench, stack: &Stack) -> Result<()> {
    let backend = RedisJournal::new(servers::link(stack).await?, &RedisJournalConfig::default())?;
    let journal = Journal::new(Arc::new(backend), JournalConfig::default())?;
    let mut reader = journal.reader(None);
    reader.next().await.context("the journal has no beginning")?;
    let entrants = [
        Entrant::new(OURS, Ours { journal, reader: Mutex::new(reader) }),
        Entrant::new("floor:fred", fred(stack).await?),
    ];
    let progress = bench.progress("pubsub journal_wakeup, one core", 1, entrants.len());
    let shown = measure::measure(&entrants, bench.plan(Crew::One, 1), &progress).await?;
    bench.report.add("pubsub", "journal_wakeup", 1, By::Median, &shown);
    Ok(())
}
