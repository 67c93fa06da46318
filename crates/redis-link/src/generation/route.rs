//! Which master a command goes to. With one master there is nothing to decide; on a cluster the slot of the first key
//! decides, and what the servers say about slots that have moved.

use super::{Generation, Node, node::Lane};
use crate::{Command, Endpoint, Error, Key, Value, layout::SLOTS};
use fred::types::Value as FredValue;
use resilience::Deadline;
use std::sync::Arc;

/// Redirections that one command follows: one for a slot that has moved, one for a key that is just moving, one to spare.
const MOST_REDIRECTIONS: usize = 3;

/// A command on its way.
pub(super) struct Parcel<'a> {
    pub(super) operation: &'static str,
    pub(super) name: &'static str,
    /// Of its keys; without one any master will do.
    pub(super) slot: Option<u16>,
    pub(super) lane: Lane<'a>,
    pub(super) deadline: Deadline,
}

impl Generation {
    /// The slot of a key on a cluster.
    pub(super) fn slot(&self, key: &Key) -> Option<u16> {
        self.layout.slots.is_some().then(|| key.slot())
    }

    /// The slot of a command's first key on a cluster.
    pub(super) fn slot_of(&self, command: &Command) -> Option<u16> {
        if self.is_cluster() { command.slot() } else { None }
    }

    /// The slot of several keys, which has to be the same on a cluster.
    pub(super) fn common_slot(&self, operation: &'static str, keys: &[Key]) -> Result<Option<u16>, Error> {
        let Some(slot) = keys.first().and_then(|first| self.slot(first)) else { return Ok(None) };
        if keys.iter().any(|key| key.slot() != slot) {
            return Err(Error::CrossSlot { operation });
        }
        Ok(Some(slot))
    }

    /// The connections to the master of a slot, or to any.
    pub(super) fn node_of(&self, slot: Option<u16>) -> Result<&Arc<Node>, Error> {
        self.node_at(self.index_of(slot)?)
    }

    /// The index of the master of a slot, or of any.
    pub(super) fn index_of(&self, slot: Option<u16>) -> Result<usize, Error> {
        match (&self.layout.slots, slot) {
            (Some(slots), Some(slot)) => slots.owner(slot).ok_or_else(|| self.uncovered(slot)),
            (Some(_), None) => Ok(self.nodes.iter().position(|node| alive(node).is_some()).unwrap_or(0)),
            (None, _) => Ok(0),
        }
    }

    pub(super) fn node_at(&self, index: usize) -> Result<&Arc<Node>, Error> {
        self.nodes.get(index).and_then(Option::as_ref).ok_or_else(|| self.absent(index))
    }

    /// Sends a command to where it belongs. A server that says that it belongs elsewhere has not carried it out, so it is
    /// sent there; `arguments` are made for each server, as a fenced script's differ.
    pub(super) async fn send(
        &self,
        parcel: &Parcel<'_>,
        mut arguments: impl FnMut(&Node) -> Vec<FredValue>,
    ) -> Result<Value, Error> {
        let mut node = self.node_of(parcel.slot)?;
        let Parcel { operation, name, lane, mut deadline, .. } = *parcel;
        if self.is_cluster() {
            // Of all attempts together.
            deadline = deadline.capped(self.opener.config.command_timeout);
        }
        let mut outcome = node.exchange(node.wire(lane), operation, name, arguments(node), deadline).await;
        if self.layout.slots.is_none() {
            return outcome;
        }
        for _ in 0..MOST_REDIRECTIONS {
            let Err(Error::Server { code, message, .. }) = &outcome else { break };
            let asking = match code.as_str() {
                "MOVED" => false,
                "ASK" => true,
                "CLUSTERDOWN" => {
                    self.look_again();
                    break;
                }
                _ => break,
            };
            let there = self.named_in(message, node);
            if !asking || there.is_none() {
                self.look_again();
            }
            let Some(there) = there else { break };
            node = there;
            outcome = if asking {
                node.bounded(operation, deadline, node.wire(lane).exchange_asking(name, arguments(node)))
                    .await
            } else {
                node.exchange(node.wire(lane), operation, name, arguments(node), deadline).await
            };
        }
        outcome
    }

    /// Has the layout looked at, unless there is a newer view already.
    fn look_again(&self) {
        if self.is_alive() {
            self.moved.notify_one();
        }
    }

    /// The master that a redirection names, `MOVED 3999 127.0.0.1:6381`, if this view has it.
    fn named_in(&self, message: &str, sender: &Node) -> Option<&Arc<Node>> {
        let named = Endpoint::parse(message.split_whitespace().nth(2)?)?;
        let host = if named.host.is_empty() { &sender.endpoint.host } else { &named.host };
        self.nodes().find(|node| node.endpoint.port == named.port && node.endpoint.host == *host)
    }

    fn uncovered(&self, slot: u16) -> Error {
        let count = self.layout.uncovered().map_or(1, |(count, _)| count);
        debug_assert!(usize::from(slot) < SLOTS, "a slot is a checksum modulo 16384");
        Error::SlotsUncovered { cluster: self.opener.config.topology.to_string(), count, first: slot }
    }

    /// Why not all masters can be reached.
    pub(super) fn incomplete(&self) -> Error {
        self.absent(self.nodes.iter().position(Option::is_none).unwrap_or(0))
    }

    fn absent(&self, index: usize) -> Error {
        let master = self.layout.masters.get(index).map(ToString::to_string).unwrap_or_default();
        crate::wire::unavailable(&format!("there is no connection to the master {master} now"))
    }
}

fn alive(node: &Option<Arc<Node>>) -> Option<&Arc<Node>> {
    node.as_ref().filter(|node| node.is_alive())
}
