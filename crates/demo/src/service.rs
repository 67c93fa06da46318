//! One service process: database-services in mode `high_availability`, told by the coordinator what load to run.

use std::io::Write;
use std::process::ExitCode;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use database_services::access_control::{SecurityContext, Tier};
use database_services::cache_manager::{Cache, Level, Loaded, RegionOptions};
use database_services::health_manager::Status;
use database_services::pubsub_manager::Channel;
use database_services::{DatabaseServices, ManagerMode, create_database_services, sqlx};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::catalogue::{self, Product};
use crate::floors::Floors;
use crate::measure::Latencies;
use crate::messages;
use crate::protocol::{Command, Event, Levels, Locks, Path, Phase, PhaseReport, Stale, Start, Tick};
use crate::reader::{self, Batch, Stage};
use crate::updater::{self, Updated};
use crate::workload::Workload;

/// Between two looks at what is due: floors, ticks.
const FLOOR_STEP: Duration = Duration::from_millis(5);
const TICK: Duration = Duration::from_millis(250);
/// Texts of failures kept in a phase.
const FAILURES: usize = 5;
/// Time to drain at the end.
const GRACE: Duration = Duration::from_secs(5);
/// How long the health may take to settle after the load.
const SETTLE: Duration = Duration::from_secs(10);

/// Where a read's value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    L1,
    L2,
    L3,
    Loader,
}

/// What the process counts, over its life where it is not reset by a phase.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) updates: AtomicU64,
    pub(crate) failed_updates: AtomicU64,
    pub(crate) locks_acquired: AtomicU64,
    pub(crate) locks_busy: AtomicU64,
    pub(crate) locks_unavailable: AtomicU64,
    pub(crate) lock_violations: AtomicU64,
    pub(crate) published: AtomicU64,
    pub(crate) refused: AtomicU64,
}

/// What readers have handed over in the phase.
#[derive(Debug, Default)]
struct Read {
    latencies: Latencies,
    levels: Levels,
    stale: Stale,
    failed: u64,
    failures: Vec<String>,
}

/// The process: its handle on database-services and the load's state.
#[derive(Debug)]
pub(crate) struct Service {
    pub(crate) services: DatabaseServices,
    pub(crate) region: Cache<Product>,
    pub(crate) channel: Channel<Updated>,
    pub(crate) workload: Workload,
    pub(crate) keys: Box<[String]>,
    pub(crate) floors: Floors,
    pub(crate) stage: Stage,
    pub(crate) counts: Counts,
    read: Mutex<Read>,
}

impl Service {
    /// A read straight on the pool: one query, and the row decoded as a service would.
    pub(crate) async fn read_direct(&self, key: u32) -> anyhow::Result<(u32, Source)> {
        let product = load(&self.services, key).await?.with_context(|| format!("row {key} is gone"))?;
        Ok((product.version, Source::Loader))
    }

    /// The same read through the cache.
    pub(crate) async fn read_cached(&self, key: u32) -> anyhow::Result<(u32, Source)> {
        let name = &self.keys[key as usize];
        if let Some(Some(product)) = self.region.get_local(name) {
            return Ok((product.version, Source::L1));
        }
        let services = self.services.clone();
        let load = move |_| async move { load(&services, key).await.map(Loaded::from) };
        let hit = self.region.get_or_load(name, load).await?;
        let product = hit.value.with_context(|| format!("row {key} is gone"))?;
        let source = match hit.level {
            Level::L1 => Source::L1,
            Level::L2 => Source::L2,
            Level::L3 => Source::L3,
            Level::Loader => Source::Loader,
        };
        Ok((product.version, source))
    }

    pub(crate) fn hand_over(&self, batch: &Batch) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        batch.nanos.iter().for_each(|nanos| read.latencies.record(*nanos));
        read.levels.add(&batch.levels);
        read.stale.add(&batch.stale);
        read.failed += batch.failed;
    }

    pub(crate) fn failed(&self, text: String) {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if read.failures.len() < FAILURES {
            read.failures.push(text);
        }
    }

    /// One event to the coordinator. If it is gone, so is our input, which ends the process.
    pub(crate) fn say(&self, event: &Event) {
        say(event);
    }

    fn health(&self) -> String {
        self.services.health_manager().check_health().status.to_string()
    }
}

fn say(event: &Event) {
    let Ok(mut line) = serde_json::to_vec(event) else { return };
    line.push(b'\n');
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(&line).and_then(|()| out.flush());
}

/// The row from the primary: replicas may lag, and both paths of the comparison promise the same.
async fn load(services: &DatabaseServices, key: u32) -> anyhow::Result<Option<Product>> {
    let id = i32::try_from(key)?;
    let db = services.database();
    let row: Option<(String,)> =
        sqlx::query_as(catalogue::SELECT).bind(id).fetch_optional(&db.primary()).await?;
    row.map(|(body,)| serde_json::from_str(&body).context("unreadable body")).transpose()
}

/// The whole process. It ends when told to, or when its input does.
pub(crate) fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&Event::Failed { message: format!("{error:#}") });
            ExitCode::from(2)
        }
    }
}

fn run() -> anyhow::Result<()> {
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_env_filter(
            tracing_subscriber::EnvFilter::try_from_env("LOG_LEVEL")
                // The report shows the health.
                .unwrap_or_else(|_| "error,health_manager=off".into()),
        )
        .init();
    let (sender, mut commands) = mpsc::channel(1024);
    let alone = CancellationToken::new();
    let end = alone.clone().drop_guard();
    std::thread::Builder::new().name("commands".into()).spawn(move || {
        let _end = end;
        for line in std::io::stdin().lines().map_while(Result::ok) {
            let Ok(command) = serde_json::from_str::<Command>(&line) else { return };
            if sender.blocking_send(command).is_err() {
                return;
            }
        }
    })?;
    let Some(Command::Start(start)) = commands.blocking_recv() else {
        bail!("the first command is not a start")
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(start.threads).enable_all().build()?;
    let served = runtime.block_on(serve(start, commands, alone));
    runtime.shutdown_timeout(Duration::from_secs(1));
    served
}

/// `alone`: the coordinator is gone, and its servers with it.
async fn serve(
    start: Start,
    mut commands: mpsc::Receiver<Command>,
    alone: CancellationToken,
) -> anyhow::Result<()> {
    let over = CancellationToken::new();
    let opened = async {
        let service = Arc::new(open(&start).await?);
        let received = messages::subscribe(&service, over.clone()).await?;
        anyhow::Ok((service, received))
    };
    // Whoever waits for servers that have just been killed waits for long.
    let Some(opened) = alone.run_until_cancelled(opened).await else { return Ok(()) };
    let (service, received) = opened?;
    let mut background = JoinSet::new();
    let floors = service.clone();
    background.spawn(async move {
        let mut step = tokio::time::interval(FLOOR_STEP);
        loop {
            step.tick().await;
            floors.floors.advance();
        }
    });
    say(&Event::Ready);
    let mut phase: Option<tokio::task::JoinHandle<PhaseReport>> = None;
    loop {
        tokio::select! {
            command = commands.recv() => match command {
                Some(Command::Phase(spec)) => phase = Some(tokio::spawn(measure(service.clone(), spec))),
                Some(Command::Floor(floor)) => service.floors.arrived(floor),
                Some(Command::Stop) => break,
                Some(Command::Start(_)) => bail!("started twice"),
                // The coordinator is gone: nobody wants the rest.
                None => return Ok(()),
            },
            report = async { phase.as_mut().expect("guarded").await }, if phase.is_some() => {
                phase = None;
                say(&Event::Done(Box::new(report.context("a phase panicked")?)));
            }
        }
    }
    let messages = received.settled(&service.counts).await;
    over.cancel();
    background.shutdown().await;
    service.services.shutdown(GRACE).await;
    say(&Event::Stopped { messages });
    Ok(())
}

async fn open(start: &Start) -> anyhow::Result<Service> {
    let settings = database_services::Settings::from_pairs(start.settings.clone())?;
    let context = SecurityContext::new(&format!("demo-{}", start.process), Tier::Enterprise)?;
    let services = create_database_services(ManagerMode::HighAvailability, settings, context)?;
    services.initialize().await?;
    let workload = Workload::load(start.trace.as_deref(), start.seed)?;
    let rows = workload.rows();
    Ok(Service {
        region: services.cache().region("products", RegionOptions::default())?,
        channel: services.pubsub().channel("catalogue.updated")?,
        services,
        keys: (0..rows).map(catalogue::key).collect(),
        floors: Floors::new(rows),
        workload,
        stage: Stage::default(),
        counts: Counts::default(),
        read: Mutex::default(),
    })
}

/// Runs one phase and reports it.
async fn measure(service: Arc<Service>, phase: Phase) -> PhaseReport {
    *service.read.lock().unwrap_or_else(PoisonError::into_inner) = Read::default();
    service.floors.set_bound(phase.staleness_bound);
    let counts = &service.counts;
    let before = [&counts.updates, &counts.failed_updates].map(|count| count.load(Relaxed));
    let locks_before = locks(counts);
    service.stage.set(reader::WARMUP);
    let mut readers = JoinSet::new();
    for index in 0..phase.tasks {
        readers.spawn(reader::read(service.clone(), phase.path, index, phase.tasks));
    }
    let over = CancellationToken::new();
    let mut beside = JoinSet::new();
    if phase.updates_per_second > 0.0 {
        beside.spawn(updater::update(service.clone(), phase.updates_per_second, over.clone()));
        beside.spawn(updater::guarded_job(service.clone(), over.clone()));
    }
    beside.spawn(tick(service.clone(), phase.path, over.clone()));
    tokio::time::sleep(phase.warmup).await;
    service.stage.set(reader::MEASURED);
    let began = Instant::now();
    tokio::time::sleep(phase.run.mul_f64(0.8)).await;
    let worked = || (counts.locks_acquired.load(Relaxed), counts.published.load(Relaxed));
    let worked_before = worked();
    tokio::time::sleep(phase.run.mul_f64(0.2)).await;
    service.stage.set(reader::OVER);
    let seconds = began.elapsed().as_secs_f64();
    let last_fifth = (worked().0 - worked_before.0, worked().1 - worked_before.1);
    over.cancel();
    // A reader that panicked must not look like one that read nothing.
    let mut panics = 0;
    while let Some(ended) = readers.join_next().await {
        panics += u64::from(ended.is_err());
    }
    while let Some(ended) = beside.join_next().await {
        panics += u64::from(ended.is_err());
    }
    let (health, unwell) = settled_health(&service, &phase.lasting).await;
    let read = std::mem::take(&mut *service.read.lock().unwrap_or_else(PoisonError::into_inner));
    PhaseReport {
        seconds,
        reads: read.levels.total(),
        levels: read.levels,
        latencies: read.latencies,
        stale: read.stale,
        failed_reads: read.failed + panics,
        failed_updates: counts.failed_updates.load(Relaxed) - before[1],
        failures: read.failures,
        updates: counts.updates.load(Relaxed) - before[0],
        locks: locks(counts).since(&locks_before),
        last_fifth,
        health,
        unwell,
        late_floors: service.floors.take_late(),
    }
}

fn locks(counts: &Counts) -> Locks {
    Locks {
        acquired: counts.locks_acquired.load(Relaxed),
        unavailable: counts.locks_unavailable.load(Relaxed),
        violations: counts.lock_violations.load(Relaxed),
    }
}

/// Health after the load and what is not well: a probe may still show a fault that is over, so it gets a moment.
async fn settled_health(service: &Service, lasting: &[String]) -> (String, Vec<String>) {
    let limit = Instant::now() + SETTLE;
    loop {
        let report = service.services.health_manager().check_health();
        let unwell = report.components.iter().filter(|(_, component)| component.status != Status::Healthy);
        let unwell: Vec<String> = unwell.map(|(name, _)| name.clone()).collect();
        if unwell == lasting || Instant::now() > limit {
            return (report.status.to_string(), unwell);
        }
        tokio::time::sleep(TICK).await;
    }
}

async fn tick(service: Arc<Service>, path: Path, over: CancellationToken) {
    let mut timer = tokio::time::interval(TICK);
    loop {
        tokio::select! {
            _ = timer.tick() => {}
            () = over.cancelled() => return,
        }
        let health = if path == Path::Cached { service.health() } else { "healthy".to_owned() };
        let tick = {
            let read = service.read.lock().unwrap_or_else(PoisonError::into_inner);
            Tick {
                reads: read.levels.total(),
                levels: read.levels,
                p95_ms: read.latencies.millis(0.95),
                health,
                failed: read.failed,
                stale: read.stale.total(),
            }
        };
        say(&Event::Tick(tick));
    }
}
