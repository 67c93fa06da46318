//! What the scripts answer, read.

use super::{DeadLetter, DurableGroup, DurableId, DurableRecord, GroupName, Settled};
use crate::{LossCause, RecordedLoss, Subject, Taken, TakenMessage};
use bytes::Bytes;
use redis_link::{UnexpectedReply, Value};
use std::time::Duration;

type Read<T> = Result<T, UnexpectedReply>;

/// The answer to a take.
#[derive(Debug)]
pub(super) struct TakeReply {
    pub(super) taken: Taken,
    /// The channel's last id.
    pub(super) last: Bytes,
    pub(super) due: Option<Duration>,
    pub(super) own: Bytes,
}

fn number(value: &Value) -> Read<u64> {
    u64::try_from(value.as_int()?).map_err(|_| value.unexpected("a number from 0"))
}

fn id(value: &Value) -> Read<DurableId> {
    value.as_str()?.parse().map_err(|_| value.unexpected("an id"))
}

/// `None`: the group is gone.
pub(super) fn taken(reply: Value) -> Read<Option<TakeReply>> {
    let values = reply.into_array()?;
    let [state, now, last, due, lost, told, missed, unknown, cause, own, dead, given @ ..] =
        values.as_slice()
    else {
        return Ok(None);
    };
    let (lost, told) = (number(lost)?, number(told)?);
    let loss = (lost > told).then_some(RecordedLoss {
        number: lost,
        missed: if number(unknown)? == 0 { Some(number(missed)?) } else { None },
        cause: match cause.as_str()? {
            "gone" => LossCause::GroupGone,
            "removed" => LossCause::Removed,
            _ => LossCause::StoreReplaced,
        },
    });
    let mut messages = Vec::with_capacity(given.len() / 3);
    for [place, deliveries, record] in given.as_chunks().0 {
        messages.push(TakenMessage {
            id: id(place)?,
            deliveries: u32::try_from(number(deliveries)?).unwrap_or(u32::MAX),
            record: DurableRecord::from_bytes(record.as_bytes()?.clone()),
        });
    }
    let taken =
        Taken { now: number(now)?, paused: state.as_str()? == "paused", loss, dead: number(dead)?, messages };
    let due = number(due).ok().map(Duration::from_millis);
    Ok(Some(TakeReply { taken, last: last.as_bytes()?.clone(), due, own: own.as_bytes()?.clone() }))
}

pub(super) fn settled(reply: &Value) -> Read<Vec<Settled>> {
    let one = |value: &Value| {
        Ok(match value.as_int()? {
            0 => Settled::Done,
            1 => Settled::Superseded,
            2 => Settled::NotPending,
            _ => Settled::DeadLettersFull,
        })
    };
    reply.as_array()?.iter().map(one).collect()
}

pub(super) fn names(reply: Value) -> Read<Vec<String>> {
    let mut names =
        reply.into_array()?.iter().map(|name| name.as_str().map(str::to_owned)).collect::<Read<Vec<_>>>()?;
    names.sort_unstable();
    Ok(names)
}

pub(super) fn group_names(reply: Value) -> Read<Vec<String>> {
    let mut names = Vec::new();
    for group in reply.into_array()? {
        for (field, value) in group.into_pairs()? {
            if field.as_str()? == "name" {
                names.push(value.as_str()?.to_owned());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// `None`: it has gone meanwhile.
pub(super) fn group(channel: &Subject, name: &GroupName, reply: &Value) -> Read<Option<DurableGroup>> {
    let values = reply.as_array()?;
    let [
        consumers,
        pending,
        waiting,
        lag,
        oldest,
        paused,
        dead,
        losses,
        delivered,
        redelivered,
        acknowledged,
    ] = values
    else {
        return Ok(None);
    };
    Ok(Some(DurableGroup {
        channel: channel.to_string(),
        group: name.to_string(),
        consumers: number(consumers)?,
        pending: number(pending)?,
        waiting: number(waiting)?,
        lag: number(lag)?,
        oldest_unacked: number(oldest).ok().map(Duration::from_millis),
        paused: number(paused)? == 1,
        dead_letters: number(dead)?,
        losses: number(losses)?,
        delivered: number(delivered)?,
        redelivered: number(redelivered)?,
        acknowledged: number(acknowledged)?,
    }))
}

pub(super) fn dead_letters(reply: Value) -> Read<Vec<DeadLetter>> {
    let mut letters = Vec::new();
    for entry in reply.into_array()? {
        let [place, fields] = entry.as_array()? else { return Err(entry.unexpected("an entry")) };
        let mut letter = DeadLetter {
            id: id(place)?,
            position: DurableId::default(),
            deliveries: 0,
            reason: String::new(),
            record: None,
        };
        for (field, value) in fields.clone().into_pairs()? {
            match field.as_str()? {
                "r" => letter.record = DurableRecord::from_bytes(value.as_bytes()?.clone()),
                "i" => letter.position = id(&value)?,
                "d" => letter.deliveries = u32::try_from(number(&value)?).unwrap_or(u32::MAX),
                "w" => letter.reason = String::from_utf8_lossy(value.as_bytes()?).into_owned(),
                _ => {}
            }
        }
        letters.push(letter);
    }
    Ok(letters)
}
