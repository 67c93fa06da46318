//! Opening a generation: connect, check, determine and claim the epoch. One attempt; the supervisor repeats it.

use super::{Death, Generation, monitor};
use crate::{
    Endpoint, EpochAuthority, EpochRequest, Error, Key, Version,
    epoch::{CLAIM, Claim},
    server_info::ServerInfo,
    tls,
    wire::{Driver, Opener, Wire, arguments, unavailable},
};
use bytes::Bytes;
use fred::types::Value as FredValue;
use futures_util::future::try_join_all;
use resilience::{
    Deadline,
    clock::{LeaseClock, ServerClock},
};
use std::sync::{Arc, atomic::AtomicUsize};
use tokio::sync::Semaphore;

/// Rounds of asking the authority and claiming, when other processes claim at the same time.
const CLAIM_ROUNDS: usize = 5;

/// What opening needs.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) opener: &'a Opener,
    pub(crate) epochs: &'a dyn EpochAuthority,
    pub(crate) epoch_key: &'a Key,
    pub(crate) clock: &'a ServerClock,
    /// The run id of the generation before, whose clock readings still count.
    pub(crate) previous_run_id: Option<&'a str>,
}

/// Opens generation `id` within `connect_timeout`. Cancel safe: dropped early, its connections are closed.
pub(crate) async fn open(opening: Opening<'_>, id: u64) -> Result<Arc<Generation>, Error> {
    let limit = opening.opener.config.connect_timeout;
    let deadline = Deadline::after(limit);
    let endpoint = opening.opener.config.topology.master();
    if let Ok(outcome) = deadline.run(Box::pin(attempt(&opening, id, deadline))).await {
        return outcome;
    }
    if opening.opener.config.tls.is_some() && tls::speaks_plainly(endpoint).await {
        let message = "the server does not speak TLS on this port".to_owned();
        return Err(Error::Tls { endpoint: endpoint.to_string(), message });
    }
    Err(unavailable(&format!("connecting to {endpoint} took longer than {limit:?}")))
}

async fn attempt(opening: &Opening<'_>, id: u64, deadline: Deadline) -> Result<Arc<Generation>, Error> {
    let config = &opening.opener.config;
    let endpoint = config.topology.master();
    let connections = (0..config.pool_size).map(|_| opening.opener.open(endpoint));
    let (wires, drivers): (Vec<Wire>, Vec<Driver>) = try_join_all(connections).await?.into_iter().unzip();
    let info = same_master(&wires, endpoint).await?;
    let first = &wires[0];
    if opening.previous_run_id != Some(&info.run_id) {
        opening.clock.reset();
    }
    read_clock(first, opening.clock).await?;
    let claim = determine_epoch(opening, first, &info, deadline).await?;
    let death = Arc::new(Death::default());
    let generation = Generation {
        id,
        epoch: claim.epoch,
        epoch_key: opening.epoch_key.clone(),
        fence: Bytes::from(claim.value()),
        wires: wires.clone(),
        next: AtomicUsize::new(0),
        permits: Semaphore::new(config.max_in_flight),
        death: Arc::clone(&death),
        opener: opening.opener.clone(),
        info,
    };
    let monitor = monitor::Monitor {
        death,
        wires,
        replid: generation.info.replid.clone(),
        epoch_key: generation.epoch_key.clone(),
        fence: generation.fence.clone(),
        clock: opening.clock.clone(),
        config: Arc::clone(config),
    };
    tokio::spawn(monitor.run(drivers));
    Ok(Arc::new(generation))
}

/// Checks every connection: an address may lead to several servers while it moves.
async fn same_master(wires: &[Wire], endpoint: &Endpoint) -> Result<ServerInfo, Error> {
    let mut infos = try_join_all(wires.iter().map(|wire| wire.info(endpoint))).await?;
    let info = infos.swap_remove(0);
    let version = info.capabilities.version;
    if version < Version::MINIMUM {
        let (endpoint, version) = (endpoint.to_string(), version.to_string());
        return Err(Error::TooOld { endpoint, version, minimum: "6.2" });
    }
    if info.role != "master" {
        return Err(Error::WrongRole { endpoint: endpoint.to_string(), role: info.role });
    }
    if info.loading {
        return Err(unavailable(&format!("{endpoint} is loading its data")));
    }
    if infos.iter().any(|other| other.run_id != info.run_id || other.replid != info.replid) {
        return Err(unavailable(&format!("{endpoint} leads to different servers")));
    }
    Ok(info)
}

/// Feeds the server clock with one `TIME`.
pub(super) async fn read_clock(wire: &Wire, clock: &ServerClock) -> Result<(), Error> {
    let sent = LeaseClock::now();
    let reply = wire.exchange("TIME", Vec::new()).await.map_err(|failure| failure.into_error("TIME"))?;
    let received = LeaseClock::now();
    let parts = reply.as_array()?;
    let [seconds, micros] = parts else { return Err(reply.unexpected("seconds and microseconds").into()) };
    let part = |value: &crate::Value| value.as_int().map(|int| u64::try_from(int).unwrap_or(0));
    clock.observe(part(seconds)?.saturating_mul(1_000_000).saturating_add(part(micros)?), sent, received);
    Ok(())
}

/// Asks the authority and claims its answer, until the epoch key holds what the authority said.
async fn determine_epoch(
    opening: &Opening<'_>,
    wire: &Wire,
    info: &ServerInfo,
    deadline: Deadline,
) -> Result<Claim, Error> {
    let key = opening.epoch_key.as_bytes();
    let read = wire.exchange("GET", arguments([key.clone()])).await;
    let value = read.map_err(|failure| failure.into_error("GET"))?.into_bytes()?;
    let mut stored = value.as_deref().and_then(Claim::parse);
    for _ in 0..CLAIM_ROUNDS {
        let fresh = stored.as_ref().is_none_or(|claim| claim.replid != info.replid);
        let request = EpochRequest {
            name: &opening.opener.config.name,
            replid: &info.replid,
            stored: stored.as_ref().map(|claim| claim.epoch),
            fresh,
            server_unix_seconds: opening.clock.now_unix_millis() / 1000,
            deadline,
        };
        let epoch =
            opening.epochs.advance(&request).await.map_err(|error| Error::Epochs(error.to_string()))?;
        let holds = |claim: &&Claim| claim.replid == info.replid && claim.epoch == epoch;
        if let Some(claim) = stored.as_ref().filter(holds) {
            return Ok(claim.clone());
        }
        stored = Some(claim(wire, opening.epoch_key, &Claim::new(&info.replid, epoch), info).await?);
        if let Some(claim) = stored.as_ref().filter(holds) {
            return Ok(claim.clone());
        }
    }
    Err(Error::Epochs(format!("{} still changes after {CLAIM_ROUNDS} rounds", key.escape_ascii())))
}

/// Writes the claim unless the key already holds a stronger one; answers what it then holds.
async fn claim(wire: &Wire, key: &Key, wanted: &Claim, info: &ServerInfo) -> Result<Claim, Error> {
    let mut script = arguments([Bytes::from_static(CLAIM.as_bytes())]);
    script.push(FredValue::Integer(1));
    script.extend(arguments([key.as_bytes().clone(), Bytes::from(wanted.value())]));
    if info.capabilities.info_in_scripts {
        script.push(FredValue::Integer(1));
    }
    let reply =
        wire.exchange("EVAL", script).await.map_err(|failure| failure.into_error("claiming the epoch"))?;
    let held = reply.as_bytes()?;
    Claim::parse(held).ok_or_else(|| Error::Epochs(format!("the epoch key holds {}", held.escape_ascii())))
}
