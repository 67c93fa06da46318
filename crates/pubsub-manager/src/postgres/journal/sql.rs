//! The statements of the journal. Why they keep the promises is told one level up.

use postgres_pool_manager::Schema;

/// The server's history, which changes when a standby is promoted or a backup restored.
const HERE: &str = "here AS (SELECT ('x' || substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8))::bit(32)::bigint AS timeline)";

#[derive(Debug)]
pub(super) struct Sql {
    /// Name, frames, greatest epoch and sequence seen, NOTIFY's channel and text. No row: there is no such journal.
    pub(super) append: String,
    /// Name, greatest epoch seen.
    pub(super) create: String,
    /// Name.
    pub(super) epoch: String,
    /// Name.
    pub(super) tail: String,
    /// Name, epoch and sequence after which, how many.
    pub(super) read: String,
    /// Name, epoch and sequence up to which.
    pub(super) trim: String,
}

impl Sql {
    pub(super) fn new(schema: &Schema) -> Self {
        let continues = "j.timeline = here.timeline AND (j.epoch, j.last) >= ($3, $4)";
        // Waits for the append before, and then counts on from what that one has left.
        let append = format!(
            "WITH {HERE}, head AS (UPDATE {{schema}}.journals j SET \
               epoch = CASE WHEN {continues} THEN j.epoch ELSE greatest(j.epoch, $3, here.timeline * 256 - 1) + 1 END, \
               last = CASE WHEN {continues} THEN j.last ELSE 0 END + cardinality($2::bytea[]), \
               timeline = here.timeline \
               FROM here WHERE j.name = $1 RETURNING j.epoch, j.last), \
             entries AS (INSERT INTO {{schema}}.journal_entries (journal, epoch, sequence, frame) \
               SELECT $1, head.epoch, head.last - cardinality($2) + f.n, f.frame \
               FROM head, unnest($2) WITH ORDINALITY f(frame, n)) \
             SELECT head.epoch, head.last, pg_notify($5, $6) FROM head"
        );
        // Where only the row is gone, the entries tell which epochs there have been.
        let create = format!(
            "WITH {HERE}, former AS \
               (SELECT coalesce(max(epoch), 0) AS epoch FROM {{schema}}.journal_entries WHERE journal = $1) \
             INSERT INTO {{schema}}.journals (name, epoch, last, timeline) \
               SELECT $1, greatest(former.epoch, $2, here.timeline * 256 - 1) + 1, 0, here.timeline FROM here, former \
             ON CONFLICT (name) DO NOTHING"
        );
        let epoch = "SELECT epoch FROM {schema}.journals WHERE name = $1";
        let tail = "SELECT epoch, last FROM {schema}.journals WHERE name = $1 AND last > 0";
        let read = "SELECT epoch, sequence, frame FROM {schema}.journal_entries \
             WHERE journal = $1 AND (epoch, sequence) > ($2, $3) ORDER BY epoch, sequence LIMIT $4";
        let trim =
            "DELETE FROM {schema}.journal_entries WHERE journal = $1 AND (epoch, sequence) <= ($2, $3)";
        Self {
            append: schema.sql(&append),
            create: schema.sql(&create),
            epoch: schema.sql(epoch),
            tail: schema.sql(tail),
            read: schema.sql(read),
            trim: schema.sql(trim),
        }
    }
}
