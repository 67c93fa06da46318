//! Opening the connections to masters: connect, check, determine and claim the epochs. One attempt; the supervisor
//! repeats it.

use super::{Death, Node, monitor};
use crate::{
    Endpoint, EpochAuthority, EpochRequest, Error, Key, Keys, Version,
    epoch::{CLAIM, Claim},
    layout::Layout,
    opener::Opener,
    server_info::ServerInfo,
    tls,
    wire::{Driver, Wire, arguments, unavailable},
};
use bytes::Bytes;
use fred::types::Value as FredValue;
use futures_util::future::{join_all, try_join_all};
use resilience::{
    Deadline,
    clock::{LeaseClock, LeaseInstant, ServerClock},
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize},
};
use tokio::sync::Semaphore;

/// Slots of a master that its epoch key may lie in, while others are on the move.
const CANDIDATES: usize = 4;
/// Rounds of asking the authority and claiming, when other processes claim at the same time.
const CLAIM_ROUNDS: usize = 5;

/// What opening needs.
#[derive(Debug)]
pub(crate) struct Opening<'a> {
    pub(crate) opener: &'a Opener,
    pub(crate) epochs: &'a dyn EpochAuthority,
    pub(crate) keys: &'a Keys,
    /// The link's clock, which one of the masters feeds.
    pub(crate) clock: &'a ServerClock,
    pub(crate) layout: &'a Layout,
    /// The credentials and certificates of now.
    pub(crate) access: u64,
    /// Replication ids of the masters of the layout that are connected already.
    pub(crate) present: Vec<String>,
    /// How many of the layout's masters these are, without those that are to be opened anew.
    pub(crate) kept: usize,
}

/// The server's clock, read once.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reading {
    unix_micros: u64,
    sent: LeaseInstant,
    received: LeaseInstant,
}

impl Reading {
    pub(crate) fn feed(&self, clock: &ServerClock) {
        clock.observe(self.unix_micros, self.sent, self.received);
    }
}

/// The masters' replication ids, as far as they are known.
struct Present {
    masters: Vec<String>,
    all: bool,
}

/// Connections without an epoch yet.
struct Connected {
    wires: Vec<Wire>,
    drivers: Vec<Driver>,
    info: ServerInfo,
    reading: Reading,
}

/// Opens the connections to some of the layout's masters, all at once: each within `connect_timeout`, and as much for its
/// epoch. Cancel safe: dropped early, they are closed.
pub(crate) async fn open(opening: &Opening<'_>, masters: &[usize]) -> Vec<(usize, Result<Arc<Node>, Error>)> {
    let limit = opening.opener.config.connect_timeout;
    let deadline = Deadline::after(limit);
    let connects = masters.iter().map(async |master| {
        let endpoint = &opening.layout.masters[*master];
        (*master, Box::pin(in_time(opening, endpoint, deadline, connect(opening, endpoint))).await)
    });
    let connected = join_all(connects).await;
    // Every epoch is asked for with the knowledge of all masters: those that nobody names are gone.
    let mut present = opening.present.clone();
    present
        .extend(connected.iter().filter_map(|(_, result)| Some(result.as_ref().ok()?.info.replid.clone())));
    let opened = connected.iter().filter(|(_, result)| result.is_ok()).count();
    let present = Present { all: opened + opening.kept >= opening.layout.masters.len(), masters: present };
    // A deadline of their own: those that answer are not to pay for one that does not.
    let deadline = Deadline::after(limit);
    let nodes = connected.into_iter().map(async |(master, connected)| match connected {
        Ok(connected) => {
            let endpoint = &opening.layout.masters[master];
            let begun = begin(opening, master, connected, &present, deadline);
            (master, Box::pin(in_time(opening, endpoint, deadline, begun)).await)
        }
        Err(error) => (master, Err(error)),
    });
    join_all(nodes).await
}

async fn in_time<T>(
    opening: &Opening<'_>,
    endpoint: &Endpoint,
    deadline: Deadline,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    if let Ok(outcome) = deadline.run(work).await {
        return outcome;
    }
    if opening.opener.config.tls.is_some() && tls::speaks_plainly(endpoint).await {
        let message = "the server does not speak TLS on this port".to_owned();
        return Err(Error::Tls { endpoint: endpoint.to_string(), message });
    }
    let limit = opening.opener.config.connect_timeout;
    Err(unavailable(&format!("connecting to {endpoint} took longer than {limit:?}")))
}

async fn connect(opening: &Opening<'_>, endpoint: &Endpoint) -> Result<Connected, Error> {
    let connections = (0..opening.opener.config.pool_size).map(|_| opening.opener.open(endpoint));
    let (wires, drivers): (Vec<Wire>, Vec<Driver>) = try_join_all(connections).await?.into_iter().unzip();
    let info = same_master(&wires, endpoint).await?;
    let reading = read_clock(&wires[0]).await?;
    Ok(Connected { wires, drivers, info, reading })
}

/// Determines the epoch, and watches over the connections from now on.
async fn begin(
    opening: &Opening<'_>,
    master: usize,
    connected: Connected,
    present: &Present,
    deadline: Deadline,
) -> Result<Arc<Node>, Error> {
    let Connected { wires, drivers, info, reading } = connected;
    let (first_key, claimed) = {
        let mut keys = epoch_keys(opening.keys, opening.layout, master);
        let first_key = keys.next().unwrap_or_else(|| opening.keys.epoch());
        let mut key = first_key.clone();
        let claimed = loop {
            let claim = Claiming { opening, wire: &wires[0], key: &key, info: &info, present };
            match (claim.determine(reading, deadline).await, keys.next()) {
                // Its slot is just moving: the next best, as every other process finds.
                (Err(Error::Server { code, .. }), Some(next)) if matches!(code.as_str(), "MOVED" | "ASK") => {
                    key = next;
                }
                (claim, _) => break (claim?, key),
            }
        };
        (first_key, claimed)
    };
    let (claim, epoch_key) = claimed;
    let config = &opening.opener.config;
    let death = Arc::new(Death::default());
    let node = Node {
        endpoint: opening.layout.masters[master].clone(),
        epoch: claim.epoch,
        epoch_key,
        first_key,
        fence: Bytes::from(claim.value()),
        wires: wires.clone(),
        next: AtomicUsize::new(0),
        permits: Semaphore::new(config.max_in_flight),
        death: Arc::clone(&death),
        opener: opening.opener.clone(),
        access: opening.access,
        keeps_time: Arc::new(AtomicBool::new(false)),
        reading,
        info,
    };
    let monitor = monitor::Monitor {
        death,
        wires,
        replid: node.info.replid.clone(),
        epoch_key: node.epoch_key.clone(),
        fence: node.fence.clone(),
        clock: opening.clock.clone(),
        keeps_time: Arc::clone(&node.keeps_time),
        config: Arc::clone(config),
    };
    tokio::spawn(monitor.run(drivers));
    Ok(Arc::new(node))
}

/// With one master the epoch key has one name. On a cluster it lies in one of the master's slots, chosen by weight as in
/// rendezvous hashing: every process chooses the same, and another one only if just that slot leaves or a better one
/// comes. The best few, the best first.
pub(crate) fn epoch_keys(keys: &Keys, layout: &Layout, master: usize) -> impl Iterator<Item = Key> {
    let id = layout.ids.get(master).map_or("", String::as_str);
    let mut slots: Vec<_> = layout.slots_of(master).map(|slot| (weight(id, slot), slot)).collect();
    slots.sort_unstable_by(|a, b| b.cmp(a));
    let one = layout.slots.is_none().then(|| keys.epoch());
    one.into_iter().chain(slots.into_iter().take(CANDIDATES).map(|(_, slot)| keys.epoch_in(slot)))
}

fn weight(id: &str, slot: u16) -> u64 {
    // FNV-1a with a final mix; no adversary.
    let mix = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let hash = id.bytes().chain(slot.to_be_bytes()).fold(0xcbf2_9ce4_8422_2325, mix);
    (hash ^ (hash >> 32)).wrapping_mul(0x9e37_79b9_7f4a_7c15)
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

/// One `TIME`.
pub(super) async fn read_clock(wire: &Wire) -> Result<Reading, Error> {
    let sent = LeaseClock::now();
    let reply = wire.exchange("TIME", Vec::new()).await.map_err(|failure| failure.into_error("TIME"))?;
    let received = LeaseClock::now();
    let parts = reply.as_array()?;
    let [seconds, micros] = parts else { return Err(reply.unexpected("seconds and microseconds").into()) };
    let part = |value: &crate::Value| value.as_int().map(|int| u64::try_from(int).unwrap_or(0));
    let unix_micros = part(seconds)?.saturating_mul(1_000_000).saturating_add(part(micros)?);
    Ok(Reading { unix_micros, sent, received })
}

/// Asks the authority and claims its answer, until the epoch key holds what the authority said.
struct Claiming<'a> {
    opening: &'a Opening<'a>,
    wire: &'a Wire,
    key: &'a Key,
    info: &'a ServerInfo,
    present: &'a Present,
}

impl Claiming<'_> {
    async fn determine(&self, reading: Reading, deadline: Deadline) -> Result<Claim, Error> {
        let read = self.wire.exchange("GET", arguments([self.key.as_bytes().clone()])).await;
        let value = read.map_err(|failure| failure.into_error("GET"))?.into_bytes()?;
        let mut stored = value.as_deref().and_then(Claim::parse);
        for _ in 0..CLAIM_ROUNDS {
            let fresh = stored.as_ref().is_none_or(|claim| claim.replid != self.info.replid);
            let request = EpochRequest {
                name: &self.opening.opener.config.name,
                replid: &self.info.replid,
                masters: &self.present.masters,
                all: self.present.all,
                stored: stored.as_ref().map(|claim| claim.epoch),
                fresh,
                server_unix_seconds: reading.unix_micros / 1_000_000,
                deadline,
            };
            let answer = self.opening.epochs.advance(&request).await;
            let epoch = answer.map_err(|error| Error::Epochs(error.to_string()))?;
            let holds = |claim: &&Claim| claim.replid == self.info.replid && claim.epoch == epoch;
            if let Some(claim) = stored.as_ref().filter(holds) {
                return Ok(claim.clone());
            }
            stored = Some(self.claim(&Claim::new(&self.info.replid, epoch)).await?);
            if let Some(claim) = stored.as_ref().filter(holds) {
                return Ok(claim.clone());
            }
        }
        let key = self.key.as_bytes().escape_ascii();
        Err(Error::Epochs(format!("{key} still changes after {CLAIM_ROUNDS} rounds")))
    }

    /// Writes the claim unless the key already holds a stronger one; answers what it then holds.
    async fn claim(&self, wanted: &Claim) -> Result<Claim, Error> {
        let mut script = arguments([Bytes::from_static(CLAIM.as_bytes())]);
        script.push(FredValue::Integer(1));
        script.extend(arguments([self.key.as_bytes().clone(), Bytes::from(wanted.value())]));
        if self.info.capabilities.info_in_scripts {
            script.push(FredValue::Integer(1));
        }
        let reply = self.wire.exchange("EVAL", script).await;
        let reply = reply.map_err(|failure| failure.into_error("claiming the epoch"))?;
        let held = reply.as_bytes()?;
        Claim::parse(held)
            .ok_or_else(|| Error::Epochs(format!("the epoch key holds {}", held.escape_ascii())))
    }
}
