//! Frames of one process on their way into the table: what waits at the same time travels together, in order. It repeats
//! nothing that may have happened.

use super::{PostgresListener, TOPIC, lane_number};
use crate::{Error, Lane, postgres::translate_query};
use bytes::Bytes;
use postgres_pool_manager::{
    DirectConnection,
    sqlx::{self, AssertSqlSafe},
};
use resilience::Deadline;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

const OPERATION: &str = "publish";
/// Bounds of one INSERT.
const FRAMES: usize = 256;
const BYTES: usize = 1024 * 1024;
/// The longest that one INSERT may hold up the next, whatever its callers' deadlines.
const LONGEST: Duration = Duration::from_secs(5);

/// One frame on its way.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) lane: Lane,
    pub(super) subject: String,
    pub(super) frame: Bytes,
    pub(super) deadline: Deadline,
    pub(super) reply: oneshot::Sender<Result<(), Error>>,
}

/// Until every sender is gone.
pub(super) async fn run(listener: PostgresListener, mut queue: mpsc::Receiver<Outgoing>) {
    let schema = listener.pool().schema();
    let insert = schema.sql(
        "WITH sent AS (INSERT INTO {schema}.bus_frames (lane, subject, frame) \
           SELECT * FROM unnest($1::smallint[], $2::text[], $3::bytea[])) \
         SELECT pg_notify($4, $5)",
    );
    let mut primary = listener.primary();
    let mut connection: Option<DirectConnection> = None;
    let mut carried: Option<Outgoing> = None;
    loop {
        let first = match carried.take() {
            Some(frame) => frame,
            None => match queue.recv().await {
                Some(frame) => frame,
                None => return,
            },
        };
        let mut bytes = first.frame.len();
        let mut batch = vec![first];
        while batch.len() < FRAMES
            && let Ok(next) = queue.try_recv()
        {
            if bytes + next.frame.len() > BYTES {
                carried = Some(next);
                break;
            }
            bytes += next.frame.len();
            batch.push(next);
        }
        // Whose caller has been answered by the deadline, or has gone: nothing is sent.
        batch.retain(|frame| !frame.deadline.is_expired() && !frame.reply.is_closed());
        if batch.is_empty() {
            continue;
        }
        if primary.has_changed().unwrap_or(false) {
            primary.mark_unchanged();
            connection = None;
        }
        let result = send(&listener, &insert, &mut connection, &batch).await;
        for Outgoing { reply, .. } in batch {
            // Whoever went away wanted no answer.
            let _gone = reply.send(result.clone());
        }
    }
}

async fn send(
    listener: &PostgresListener,
    insert: &str,
    connection: &mut Option<DirectConnection>,
    batch: &[Outgoing],
) -> Result<(), Error> {
    let latest = batch.iter().map(|frame| frame.deadline.remaining()).max().unwrap_or(LONGEST);
    let deadline = Deadline::after(latest.min(LONGEST));
    // Taken, so that it is given up with this future, and after every failure.
    let mut open = match connection.take() {
        Some(open) => open,
        None => prepare(listener, deadline).await?,
    };
    let lanes: Vec<i16> = batch.iter().map(|frame| lane_number(frame.lane)).collect();
    let subjects: Vec<&str> = batch.iter().map(|frame| &*frame.subject).collect();
    let frames: Vec<&[u8]> = batch.iter().map(|frame| &*frame.frame).collect();
    let query = sqlx::query(AssertSqlSafe(insert.to_owned()))
        .bind(lanes)
        .bind(subjects)
        .bind(frames)
        .bind(listener.channel())
        .bind(TOPIC);
    let inserted = deadline.run(query.execute(&mut *open)).await;
    let inserted = inserted.map_err(|_| Error::Unknown { operation: OPERATION })?;
    inserted.map_err(|error| translate_query(OPERATION, error))?;
    *connection = Some(open);
    Ok(())
}

async fn prepare(listener: &PostgresListener, deadline: Deadline) -> Result<DirectConnection, Error> {
    let mut open = listener.open(OPERATION, deadline).await?;
    // A frame that a crash loses is counted by whoever misses it; publishers need not wait for the disk.
    let set = deadline.run(sqlx::query("SET synchronous_commit = off").execute(&mut *open)).await;
    match set {
        Ok(Ok(_)) => Ok(open),
        Ok(Err(error)) => Err(Error::Unavailable { operation: OPERATION, reason: error.to_string() }),
        Err(_) => Err(Error::Timeout { operation: OPERATION, after: LONGEST }),
    }
}
