//! Which masters there are at one moment, and which slots each serves. A value; finding it out is the finder's work.

use crate::{Endpoint, Error, Value};
use std::{collections::BTreeMap, fmt};

/// The number of hash slots of a cluster.
pub(crate) const SLOTS: usize = 16_384;
/// Stands for "no master" in a [`SlotTable`].
const NOBODY: u16 = u16::MAX;

/// The masters, in the order of their lowest slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Layout {
    pub(crate) masters: Vec<Endpoint>,
    pub(crate) replicas: Vec<Endpoint>,
    /// On a cluster: the masters' own ids, which are the same whoever is asked.
    pub(crate) ids: Vec<String>,
    /// On a cluster: who serves what.
    pub(crate) slots: Option<SlotTable>,
}

/// Slot to index of a master.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SlotTable(Box<[u16]>);

impl Layout {
    pub(crate) fn single(master: Endpoint, replicas: Vec<Endpoint>) -> Self {
        Self { masters: vec![master], replicas, ids: Vec::new(), slots: None }
    }

    /// From the answer to `CLUSTER SLOTS`. `asked` stands in where a node does not know its own address.
    pub(crate) fn of_cluster(reply: &Value, asked: &Endpoint) -> Result<Self, Error> {
        let mut ranges: BTreeMap<u16, (u16, Endpoint, String)> = BTreeMap::new();
        let mut replicas = Vec::new();
        for range in reply.as_array()? {
            let parts = range.as_array()?;
            let [first, last, master, others @ ..] = parts else {
                return Err(range.unexpected("a range of slots").into());
            };
            let slot = |value: &Value| -> Result<u16, Error> {
                let slot = u16::try_from(value.as_int()?).ok().filter(|slot| usize::from(*slot) < SLOTS);
                slot.ok_or_else(|| value.unexpected("a slot").into())
            };
            let id = master.as_array()?.get(2).and_then(|id| id.as_str().ok()).unwrap_or_default();
            ranges.insert(slot(first)?, (slot(last)?, endpoint(master, asked)?, id.to_owned()));
            for other in others {
                let replica = endpoint(other, asked)?;
                if !replicas.contains(&replica) {
                    replicas.push(replica);
                }
            }
        }
        let (mut masters, mut ids, mut table) = (Vec::new(), Vec::new(), vec![NOBODY; SLOTS]);
        for (first, (last, master, id)) in ranges {
            let known = masters.iter().position(|known| *known == master);
            let index = known.unwrap_or_else(|| {
                masters.push(master);
                ids.push(id);
                masters.len() - 1
            });
            let index = u16::try_from(index).unwrap_or(NOBODY);
            table[usize::from(first)..=usize::from(last.max(first))].fill(index);
        }
        Ok(Self { masters, replicas, ids, slots: Some(SlotTable(table.into())) })
    }

    /// The same masters serve the same.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.masters == other.masters && self.slots == other.slots
    }

    /// The masters are all among the other's.
    pub(crate) fn has_masters_of(&self, other: &Self) -> bool {
        self.masters.iter().all(|master| other.masters.contains(master))
    }

    /// How many slots nobody serves, and the first of them.
    pub(crate) fn uncovered(&self) -> Option<(usize, u16)> {
        let table = &self.slots.as_ref()?.0;
        let first = table.iter().position(|owner| *owner == NOBODY)?;
        let count = table.iter().filter(|owner| **owner == NOBODY).count();
        Some((count, u16::try_from(first).unwrap_or(0)))
    }

    /// The slots of a master.
    pub(crate) fn slots_of(&self, master: usize) -> impl Iterator<Item = u16> {
        let table = self.slots.as_ref().map(|table| &*table.0).unwrap_or_default();
        let owned = table.iter().enumerate().filter(move |(_, owner)| usize::from(**owner) == master);
        owned.filter_map(|(slot, _)| u16::try_from(slot).ok())
    }
}

impl SlotTable {
    /// The index of the master that serves a slot.
    pub(crate) fn owner(&self, slot: u16) -> Option<usize> {
        self.0.get(usize::from(slot)).filter(|owner| **owner != NOBODY).map(|owner| usize::from(*owner))
    }
}

impl fmt::Debug for SlotTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SlotTable")
    }
}

/// `[host, port, id, …]`; the host is nil or empty where the node does not know how it is reached.
fn endpoint(node: &Value, asked: &Endpoint) -> Result<Endpoint, Error> {
    let parts = node.as_array()?;
    let [host, port, ..] = parts else { return Err(node.unexpected("a node").into()) };
    let host = match host {
        Value::Nil => "",
        host => host.as_str()?,
    };
    let host = if host.is_empty() || host == "?" { &asked.host } else { host };
    let port = u16::try_from(port.as_int()?).map_err(|_| port.unexpected("a port"))?;
    Ok(Endpoint::new(host, port))
}

#[cfg(test)]
mod tests;
