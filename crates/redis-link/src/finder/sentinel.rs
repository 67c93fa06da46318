//! The master by the word of the Sentinels. All are asked, as one that was cut off from the others tells an old story:
//! the story with the largest configuration epoch counts.

use super::answers;
use crate::{
    Endpoint, Error, SentinelTopology, Value,
    layout::Layout,
    opener::Opener,
    wire::{Driver, Failure, Wire, arguments, unavailable},
};
use bytes::Bytes;
use futures_util::future::join;
use resilience::Deadline;

/// A connection to each Sentinel that answered, in the order of the settings.
#[derive(Debug, Default)]
pub(super) struct Sentinels {
    wires: Vec<Option<(Wire, Driver)>>,
    /// The largest configuration epoch that was believed.
    believed: i64,
}

/// What one Sentinel says.
struct Story {
    /// Index of the Sentinel.
    teller: usize,
    config_epoch: i64,
    master: Endpoint,
}

impl Sentinels {
    /// `connected`: the master that was named before is connected, so an older story than its own is of no interest.
    pub(super) async fn find(
        &mut self,
        opener: &Opener,
        topology: &SentinelTopology,
        connected: bool,
    ) -> Result<Layout, Error> {
        let mut wires = std::mem::take(&mut self.wires);
        wires.resize_with(topology.sentinels.len(), || None);
        let limit = opener.config.probe_timeout.min(opener.config.connect_timeout);
        let asked = wires.into_iter().zip(&topology.sentinels).enumerate().map(
            async |(teller, (mut wire, sentinel))| {
                let answer = Box::pin(ask(opener, topology, sentinel, &mut wire)).await;
                if answer.is_err() && !matches!(answer, Err(Error::UnknownMaster { .. })) {
                    wire = None;
                }
                (wire, answer.map(|(config_epoch, master)| Story { teller, config_epoch, master }))
            },
        );
        self.wires.resize_with(topology.sentinels.len(), || None);
        let mut worst = None;
        let mut best: Option<Story> = None;
        // Those who do not answer are connected to anew the next time.
        for (teller, (wire, answer)) in answers(asked, limit, |(_, answer)| answer.is_ok()).await {
            self.wires[teller] = wire;
            match answer {
                Ok(story) if best.as_ref().is_none_or(|best| story.config_epoch > best.config_epoch) => {
                    best = Some(story);
                }
                Ok(_) => {}
                // Of several troubles the one that time does not mend.
                Err(error) if worst.as_ref().is_none_or(|worst: &Error| !worst.is_permanent()) => {
                    worst = Some(error);
                }
                Err(_) => {}
            }
        }
        let Some(best) = best else {
            return Err(worst.unwrap_or_else(|| unavailable("no Sentinel answers")));
        };
        if connected && best.config_epoch < self.believed {
            return Err(unavailable("the Sentinels that answer tell an old story"));
        }
        self.believed = best.config_epoch;
        let replicas = match &self.wires[best.teller] {
            // For the status only: without them the master is as good.
            Some((wire, _)) => Deadline::after(limit).run(replicas(wire, topology)).await.unwrap_or_default(),
            None => Vec::new(),
        };
        Ok(Layout::single(best.master, replicas))
    }
}

async fn ask(
    opener: &Opener,
    topology: &SentinelTopology,
    sentinel: &Endpoint,
    wire: &mut Option<(Wire, Driver)>,
) -> Result<(i64, Endpoint), Error> {
    if wire.as_ref().is_none_or(|(_, driver)| driver.is_finished()) {
        *wire = None;
        *wire = Some(opener.open_sentinel(sentinel, topology).await?);
    }
    let Some((wire, _)) = wire else { return Err(unavailable("it was just opened")) };
    let question = |what: &'static [u8]| {
        wire.exchange("SENTINEL", arguments([Bytes::from_static(what), name(topology)]))
    };
    // While a failover is being completed the first still describes the old master; the second names the new one.
    let both = join(question(b"MASTER"), question(b"GET-MASTER-ADDR-BY-NAME")).await;
    let refused = |failure| match failure {
        Failure::Reply(message) if message.contains("No such master") => {
            Error::UnknownMaster { name: topology.master_name.clone(), asked: sentinel.to_string() }
        }
        Failure::Reply(message) if message.contains("unknown command") => {
            Error::NoSentinel { endpoint: sentinel.to_string() }
        }
        failure => failure.into_error("SENTINEL"),
    };
    let (master, place) = (both.0.map_err(refused)?.into_pairs()?, both.1.map_err(refused)?);
    let epoch = field(&master, "config-epoch").and_then(|text| text.parse().ok()).unwrap_or(0);
    let [host, port] = place.as_array()? else { return Err(place.unexpected("host and port").into()) };
    let port = u16::try_from(port.as_int()?).map_err(|_| port.unexpected("a port"))?;
    Ok((epoch, Endpoint::new(host.as_str()?, port)))
}

async fn replicas(wire: &Wire, topology: &SentinelTopology) -> Vec<Endpoint> {
    let question = arguments([Bytes::from_static(b"REPLICAS"), name(topology)]);
    let Ok(told) = wire.exchange("SENTINEL", question).await else { return Vec::new() };
    let told = told.into_array().unwrap_or_default().into_iter();
    told.filter_map(|replica| endpoint(&replica.into_pairs().ok()?)).collect()
}

fn name(topology: &SentinelTopology) -> Bytes {
    Bytes::copy_from_slice(topology.master_name.as_bytes())
}

fn endpoint(fields: &[(Value, Value)]) -> Option<Endpoint> {
    Some(Endpoint::new(field(fields, "ip")?, field(fields, "port")?.parse().ok()?))
}

fn field<'a>(fields: &'a [(Value, Value)], name: &str) -> Option<&'a str> {
    fields.iter().find(|(key, _)| key.as_str() == Ok(name))?.1.as_str().ok()
}
