//! Redis Cluster: making one of nodes that know nothing, and what its nodes say of it now. Nodes are told apart by their
//! ids, never by ports: under TLS a node shows none through its Unix socket. Moving slots is `slots`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::{Redis, answers, field, patience, text};
use crate::error::Error;
use crate::options::START_TIMEOUT;
use crate::server::Server;

pub(super) const SLOTS: u16 = 16_384;
/// How long a node itself tries a failover before it silently gives up.
const ATTEMPT: Duration = Duration::from_millis(5_500);

/// What one node says of the cluster, by id.
type View = BTreeMap<String, Node>;

/// A node as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Node {
    well: bool,
    /// Its master's id; of a master itself none.
    master: Option<String>,
    /// Ranges, both ends included.
    slots: Vec<(u16, u16)>,
}

impl Node {
    fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|(from, to)| (*from..=*to).contains(&slot))
    }
}

impl Redis {
    /// Waits until all nodes that run say that the cluster is well (`cluster_state:ok`), and the same about each other
    /// and the slots. Blocks.
    ///
    /// [`Error::Waited`] with what is missing, [`Error::NoSuchPart`] in a stack without a cluster.
    pub fn wait_cluster_blocking(&self, within: Duration) -> Result<(), Error> {
        let start = Instant::now();
        self.required()?;
        while let Some(missing) = self.disagreement()? {
            patience(start, within, || format!("the cluster is well ({missing})"))?;
        }
        Ok(())
    }

    /// Makes a replica of a cluster the master of what it copies (`CLUSTER FAILOVER`, by force if its master is gone),
    /// and waits until all nodes that run know. Blocks.
    pub fn failover_to_blocking(&self, replica: &Server) -> Result<(), Error> {
        let start = Instant::now();
        let id = self.id(replica)?.to_owned();
        let mut asked: Option<Instant> = None;
        while !self.is_master_for_all(&id)? {
            if asked.is_none_or(|asked| asked.elapsed() > ATTEMPT) {
                match replica.redis_command_blocking(&["CLUSTER", "FAILOVER"]) {
                    Err(Error::Refused { message, .. }) if message.contains("FORCE") => {
                        replica.redis_command_blocking(&["CLUSTER", "FAILOVER", "FORCE"])?;
                    }
                    // It is one already, and the others are about to hear of it.
                    Err(Error::Refused { .. }) if asked.is_some() => {}
                    other => drop(other?),
                }
                asked = Some(Instant::now());
            }
            patience(start, START_TIMEOUT, || format!("{} is master for all nodes", replica.name()))?;
        }
        self.wait_cluster_blocking(START_TIMEOUT.saturating_sub(start.elapsed()))
    }

    /// The master that serves a slot, as most of the nodes that answer say. Blocks. [`Error::NoMaster`] if there is none.
    pub fn slot_owner_blocking(&self, slot: u16) -> Result<Server, Error> {
        self.required()?;
        let mut votes: BTreeMap<String, usize> = BTreeMap::new();
        let mut asked = 0;
        for server in self.servers().filter(|server| answers(server)) {
            asked += 1;
            if let Some((id, _)) = view(server)?.into_iter().find(|(_, node)| node.owns(slot)) {
                *votes.entry(id).or_default() += 1;
            }
        }
        let owner = votes.iter().find(|(_, votes)| **votes * 2 > asked).and_then(|(id, _)| self.by_id(id));
        owner
            .cloned()
            .ok_or_else(|| Error::NoMaster { said: format!("{asked} nodes on slot {slot}: {votes:?}") })
    }

    pub(super) fn required(&self) -> Result<(), Error> {
        if self.ids.is_empty() {
            return Err(Error::NoSuchPart { part: "Redis Cluster".into() });
        }
        Ok(())
    }

    /// The id of a node of this cluster.
    pub(super) fn id(&self, server: &Server) -> Result<&str, Error> {
        let found = self.servers().zip(&self.ids).find(|(node, _)| node.port() == server.port());
        found
            .map(|(_, id)| id.as_str())
            .ok_or_else(|| Error::NoSuchPart { part: format!("{} in a Redis Cluster", server.name()) })
    }

    fn by_id(&self, id: &str) -> Option<&Server> {
        self.servers().zip(&self.ids).find(|(_, known)| *known == id).map(|(server, _)| server)
    }

    pub(super) fn all_know_owner(&self, slot: u16, id: &str) -> Result<bool, Error> {
        for server in self.servers().filter(|server| answers(server)) {
            if !view(server)?.get(id).is_some_and(|node| node.owns(slot)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn is_master_for_all(&self, id: &str) -> Result<bool, Error> {
        for server in self.servers().filter(|server| answers(server)) {
            let view = view(server)?;
            if !view.get(id).is_some_and(|node| node.master.is_none() && !node.slots.is_empty()) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What the nodes that answer do not agree on yet, in words.
    fn disagreement(&self) -> Result<Option<String>, Error> {
        let mut first: Option<View> = None;
        for server in self.servers().filter(|server| answers(server)) {
            let info = text(server, &["CLUSTER", "INFO"])?;
            let state = field(&info, "cluster_state").unwrap_or("unknown");
            if state != "ok" {
                return Ok(Some(format!("{} says {state}", server.name())));
            }
            let mut view = view(server)?;
            // What becomes of those that do not run is no matter here: some nodes will have given them up, some not.
            view.retain(|id, _| self.by_id(id).is_none_or(answers));
            if let Some((id, _)) = view.iter().find(|(_, node)| !node.well) {
                let other = self.by_id(id).map_or(id.as_str(), Server::name);
                return Ok(Some(format!("{} has no word of {other}", server.name())));
            }
            if *first.get_or_insert_with(|| view.clone()) != view {
                return Ok(Some(format!("{} and {} differ", self.master().name(), server.name())));
            }
        }
        Ok(None)
    }
}

#[cfg(feature = "async")]
impl Redis {
    /// [`wait_cluster_blocking`](Self::wait_cluster_blocking) off the runtime's threads.
    pub async fn wait_cluster(&self, within: Duration) -> Result<(), Error> {
        let redis = self.clone();
        crate::unblock("wait_cluster", move || redis.wait_cluster_blocking(within)).await
    }

    /// [`failover_to_blocking`](Self::failover_to_blocking) off the runtime's threads. Dropped, it still runs to its
    /// end.
    pub async fn failover_to(&self, replica: &Server) -> Result<(), Error> {
        let (redis, replica) = (self.clone(), replica.clone());
        crate::unblock("failover_to", move || redis.failover_to_blocking(&replica)).await
    }

    /// [`slot_owner_blocking`](Self::slot_owner_blocking) off the runtime's threads.
    pub async fn slot_owner(&self, slot: u16) -> Result<Server, Error> {
        let redis = self.clone();
        crate::unblock("slot_owner", move || redis.slot_owner_blocking(slot)).await
    }
}

/// Makes one cluster of nodes that are fresh, each master with an equal part of the slots. Waits until it serves.
pub(super) fn create(redis: &mut Redis, within: Duration) -> Result<(), Error> {
    let start = Instant::now();
    redis.ids =
        redis.servers().map(|server| text(server, &["CLUSTER", "MYID"])).collect::<Result<_, Error>>()?;
    let nodes: Vec<&Server> = redis.servers().collect();
    let masters = redis.masters().len();
    for (index, master) in redis.masters().iter().enumerate() {
        // Epochs that differ from the beginning spare the nodes from settling it among themselves.
        text(master, &["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])?;
        let slots: Vec<String> =
            (0..SLOTS).filter(|slot| part(*slot, masters) == index).map(|slot| slot.to_string()).collect();
        let words: Vec<&str> =
            ["CLUSTER", "ADDSLOTS"].into_iter().chain(slots.iter().map(String::as_str)).collect();
        text(master, &words)?;
    }
    // Everybody with everybody: left to gossip it would take seconds.
    for (index, one) in nodes.iter().enumerate() {
        for other in &nodes[index + 1..] {
            let port = other.port().to_string();
            text(one, &["CLUSTER", "MEET", other.host(), &port, &bus_port(other)?])?;
        }
    }
    for node in &nodes {
        let knows_all = || -> Result<bool, Error> {
            let view = view(node)?;
            Ok(redis.ids.iter().all(|id| view.get(id).is_some_and(|node| node.well)))
        };
        while !knows_all()? {
            patience(start, within, || format!("{} knows all nodes", node.name()))?;
        }
    }
    for (index, replica) in redis.replicas().iter().enumerate() {
        text(replica, &["CLUSTER", "REPLICATE", &redis.ids[index % masters]])?;
    }
    redis.wait_cluster_blocking(within.saturating_sub(start.elapsed()))?;
    redis.wait_replicas_blocking(within.saturating_sub(start.elapsed()))
}

fn part(slot: u16, masters: usize) -> usize {
    usize::from(slot) * masters / usize::from(SLOTS)
}

fn bus_port(node: &Server) -> Result<String, Error> {
    let nodes = text(node, &["CLUSTER", "NODES"])?;
    let own = nodes.lines().find(|line| line.contains("myself")).and_then(|line| line.split(' ').nth(1));
    let bus = own.and_then(|address| address.split_once('@')).map(|(_, bus)| bus.split(',').next());
    Ok(bus.flatten().unwrap_or_default().to_owned())
}

fn view(server: &Server) -> Result<View, Error> {
    Ok(parse(&text(server, &["CLUSTER", "NODES"])?))
}

// <id> <ip:port@bus,host> <flags> <master> <ping> <pong> <epoch> <link> <slot> <slot>…; a slot being moved is in brackets.
fn parse(nodes: &str) -> View {
    let range = |word: &str| {
        let (from, to) = word.split_once('-').unwrap_or((word, word));
        Some((from.parse().ok()?, to.parse().ok()?))
    };
    let node = |line: &str| {
        let mut words = line.split(' ');
        let id = words.next()?.to_owned();
        let flags: Vec<&str> = words.nth(1)?.split(',').collect();
        let master = words.next().filter(|id| *id != "-").map(str::to_owned);
        let linked = words.nth(3)? == "connected";
        let ill = ["fail", "fail?", "handshake", "noaddr"];
        let well = linked && !flags.iter().any(|flag| ill.contains(flag));
        let master = if flags.contains(&"slave") { master } else { None };
        Some((id, Node { well, master, slots: words.filter_map(range).collect() }))
    };
    nodes.lines().filter_map(node).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_view_as_a_node_gives_it() {
        let view = parse(
            "a 127.0.0.1:1@2,host myself,master - 0 0 1 connected 0-5460 7000 [7001->-b]\n\
             b 127.0.0.1:3@4 slave,fail? a 0 0 1 connected\nc :0@0 master,noaddr - 0 0 2 disconnected 9-10\n",
        );
        assert_eq!(view["a"], Node { well: true, master: None, slots: vec![(0, 5460), (7000, 7000)] });
        assert_eq!(view["b"], Node { well: false, master: Some("a".into()), slots: vec![] });
        assert!(!view["c"].well);
    }

    #[test]
    fn every_slot_is_given_away_evenly() {
        for masters in [1, 3, 7] {
            let mut counts = vec![0_usize; masters];
            (0..SLOTS).for_each(|slot| counts[part(slot, masters)] += 1);
            assert!(
                counts.iter().all(|count| count.abs_diff(usize::from(SLOTS) / masters) <= 1),
                "{counts:?}"
            );
        }
    }
}
