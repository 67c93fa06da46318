//! Moving a slot of a cluster from one master to another, at once or step by step, so that what happens in between
//! (`ASK`) can be tested. Not here: who owns which slot at the beginning (`cluster`).

use std::time::Instant;

use super::cluster::SLOTS;
use super::{Redis, answers, patience, text};
use crate::error::Error;
use crate::options::START_TIMEOUT;
use crate::resp::Reply;
use crate::server::Server;

/// Keys of one `MIGRATE`, which blocks both servers.
const AT_ONCE: &str = "100";
const MIGRATE_MILLISECONDS: &str = "5000";

/// A slot on its way. Requests for keys that are gone from the old master are answered with `ASK`; this stays so until
/// [`finish`](Self::finish_blocking) or [`cancel`](Self::cancel_blocking), also when the handle is dropped.
#[derive(Debug, Clone)]
#[must_use = "the slot stays half-moved until this is finished or cancelled"]
pub struct SlotMove {
    redis: Redis,
    slot: u16,
    from: Server,
    to: Server,
}

impl Redis {
    /// The slot of a key: of what is between its first `{` and the next `}`, if that is anything, else of the whole.
    pub fn slot(key: &str) -> u16 {
        let tag = key.split_once('{').and_then(|(_, rest)| rest.split_once('}')).map(|(tag, _)| tag);
        let hashed = tag.filter(|tag| !tag.is_empty()).unwrap_or(key);
        // CRC-16/XMODEM, as the Redis Cluster specification says.
        let crc = hashed.bytes().fold(0_u16, |crc, byte| {
            (0..8).fold(crc ^ (u16::from(byte) << 8), |crc, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
            })
        });
        crc % SLOTS
    }

    /// Moves a slot with its keys, and waits until all nodes that run know. Blocks.
    ///
    /// [`Error::Refused`] if it is not `from`'s, or `to` is no master.
    pub fn move_slot_blocking(&self, slot: u16, from: &Server, to: &Server) -> Result<(), Error> {
        let moving = self.begin_move_slot_blocking(slot, from, to)?;
        moving.migrate_keys_blocking()?;
        moving.finish_blocking()
    }

    /// Begins to move a slot: marks it at both masters, moves no key. Blocks.
    pub fn begin_move_slot_blocking(&self, slot: u16, from: &Server, to: &Server) -> Result<SlotMove, Error> {
        let (from_id, to_id) = (self.id(from)?, self.id(to)?);
        set_slot(to, slot, &["IMPORTING", from_id])?;
        if let Err(error) = set_slot(from, slot, &["MIGRATING", to_id]) {
            set_slot(to, slot, &["STABLE"])?;
            return Err(error);
        }
        Ok(SlotMove { redis: self.clone(), slot, from: from.clone(), to: to.clone() })
    }
}

impl SlotMove {
    /// The slot.
    pub fn slot(&self) -> u16 {
        self.slot
    }

    /// Moves the keys that are still with the old master; how many. Their names must be UTF-8. Blocks.
    pub fn migrate_keys_blocking(&self) -> Result<usize, Error> {
        let (slot, port) = (self.slot.to_string(), self.to.port().to_string());
        let mut moved = 0;
        loop {
            let list = self.from.redis_command_blocking(&["CLUSTER", "GETKEYSINSLOT", &slot, AT_ONCE])?;
            let keys: Vec<&str> = list.items().iter().filter_map(Reply::as_text).collect();
            if keys.is_empty() {
                return Ok(moved);
            }
            let mut words = vec!["MIGRATE", self.to.host(), &port, "", "0", MIGRATE_MILLISECONDS];
            if let Some((user, password)) = self.to.login() {
                words.extend(["AUTH2", user, password]);
            }
            words.push("KEYS");
            words.extend(&keys);
            let answer = self.from.redis_command_blocking(&words);
            let answer = answer.map_err(|error| error.without_request("MIGRATE …"))?;
            if answer.as_text() == Some("NOKEY") {
                return Err(Error::Refused {
                    server: self.from.name().into(),
                    request: format!("MIGRATE … KEYS {}", keys.join(" ")),
                    message: "NOKEY: a key of the slot is not UTF-8, or was deleted meanwhile".into(),
                });
            }
            moved += keys.len();
        }
    }

    /// Gives the slot to its new master, and waits until all nodes that run know. Blocks. [`Error::Refused`] while
    /// there are keys left.
    pub fn finish_blocking(self) -> Result<(), Error> {
        let start = Instant::now();
        let id = self.redis.id(&self.to)?;
        // The new owner first: were it told last and died before, nobody would own the slot.
        set_slot(&self.to, self.slot, &["NODE", id])?;
        set_slot(&self.from, self.slot, &["NODE", id])?;
        for other in self.redis.servers().filter(|server| answers(server)) {
            match set_slot(other, self.slot, &["NODE", id]) {
                // Replicas hear of it from their masters.
                Ok(()) | Err(Error::Refused { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        while !self.redis.all_know_owner(self.slot, id)? {
            patience(start, START_TIMEOUT, || format!("all nodes know the owner of slot {}", self.slot))?;
        }
        Ok(())
    }

    /// Leaves the slot with its old master. Keys that were moved already are lost to clients. Blocks.
    pub fn cancel_blocking(self) -> Result<(), Error> {
        set_slot(&self.from, self.slot, &["STABLE"])?;
        set_slot(&self.to, self.slot, &["STABLE"])
    }
}

fn set_slot(server: &Server, slot: u16, what: &[&str]) -> Result<(), Error> {
    let slot = slot.to_string();
    let words: Vec<&str> = ["CLUSTER", "SETSLOT", &slot].into_iter().chain(what.iter().copied()).collect();
    text(server, &words).map(drop)
}

#[cfg(feature = "async")]
impl Redis {
    /// [`move_slot_blocking`](Self::move_slot_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn move_slot(&self, slot: u16, from: &Server, to: &Server) -> Result<(), Error> {
        let (redis, from, to) = (self.clone(), from.clone(), to.clone());
        crate::unblock("move_slot", move || redis.move_slot_blocking(slot, &from, &to)).await
    }

    /// [`begin_move_slot_blocking`](Self::begin_move_slot_blocking) off the runtime's threads. Dropped, it still runs
    /// to its end.
    pub async fn begin_move_slot(&self, slot: u16, from: &Server, to: &Server) -> Result<SlotMove, Error> {
        let (redis, from, to) = (self.clone(), from.clone(), to.clone());
        crate::unblock("begin_move_slot", move || redis.begin_move_slot_blocking(slot, &from, &to)).await
    }
}

#[cfg(feature = "async")]
impl SlotMove {
    /// [`migrate_keys_blocking`](Self::migrate_keys_blocking) off the runtime's threads. Dropped, it still runs to its
    /// end.
    pub async fn migrate_keys(&self) -> Result<usize, Error> {
        let moving = self.clone();
        crate::unblock("migrate_keys", move || moving.migrate_keys_blocking()).await
    }

    /// [`finish_blocking`](Self::finish_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn finish(self) -> Result<(), Error> {
        crate::unblock("finish", move || self.finish_blocking()).await
    }

    /// [`cancel_blocking`](Self::cancel_blocking) off the runtime's threads. Dropped, it still runs to its end.
    pub async fn cancel(self) -> Result<(), Error> {
        crate::unblock("cancel", move || self.cancel_blocking()).await
    }
}
