//! The statements of L3. Why they keep the promise is told one level up.

use postgres_pool_manager::Schema;

pub(super) const TOMBSTONES: &str = "cache_tombstones";
/// Rows of one batch of pruning.
pub(super) const BATCH: u64 = 500;

/// `id` is `region:key` in values; in tombstones also `region` for all of its keys, and `*` for everything.
/// `own` is the transaction of a `set`, whose own tombstone does not void what it stored.
pub(super) const TABLES: &str = "\
CREATE UNLOGGED TABLE {schema}.cache_incarnation (one boolean PRIMARY KEY DEFAULT true CHECK (one), id uuid NOT NULL);
CREATE UNLOGGED TABLE {schema}.cache_entries (
    id bytea PRIMARY KEY,
    region bytea NOT NULL,
    body bytea,
    snapshot pg_snapshot NOT NULL,
    own xid8,
    loaded_at timestamptz NOT NULL,
    fresh_until timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX cache_entries_expires_at ON {schema}.cache_entries (expires_at);
CREATE INDEX cache_entries_region ON {schema}.cache_entries (region);
CREATE UNLOGGED TABLE {schema}.cache_tombstones (id bytea NOT NULL, xid xid8 NOT NULL DEFAULT pg_current_xact_id());
CREATE INDEX cache_tombstones_id_xid ON {schema}.cache_tombstones (id, xid);
CREATE INDEX cache_tombstones_xid ON {schema}.cache_tombstones (xid);
";

#[derive(Debug)]
pub(super) struct Sql {
    pub(super) read: String,
    pub(super) incarnate: String,
    pub(super) fill: String,
    pub(super) put: String,
    pub(super) bury: String,
    pub(super) expire: String,
    pub(super) prune: String,
    pub(super) ping: String,
}

/// Tombstones `t` that void a value with this id, region and snapshot. Those below the snapshot's xmin are visible in
/// it by definition, which keeps the scan short for a key that is invalidated all the time.
fn voids(id: &str, region: &str, snapshot: &str) -> String {
    format!(
        "EXISTS (SELECT 1 FROM {{schema}}.cache_tombstones t WHERE t.id IN ({id}, {region}, '\\x2a'::bytea) \
         AND t.xid >= pg_snapshot_xmin({snapshot}) AND NOT pg_visible_in_snapshot(t.xid, {snapshot})"
    )
}

impl Sql {
    pub(super) fn new(schema: &Schema) -> Self {
        let own = "AND t.xid IS DISTINCT FROM e.own)";
        let read = format!(
            "SELECT pg_current_snapshot()::text AS snapshot, m.id::text AS incarnation, {MICROS} AS at, f.* \
             FROM (VALUES (true)) one(x) LEFT JOIN {{schema}}.cache_incarnation m ON true LEFT JOIN ( \
               SELECT k.n, e.body, (extract(epoch FROM e.fresh_until - now()) * 1000000)::bigint AS fresh, \
                 (extract(epoch FROM now() - e.loaded_at) * 1000000)::bigint AS age \
               FROM unnest($1::bytea[]) WITH ORDINALITY k(id, n) JOIN {{schema}}.cache_entries e ON e.id = k.id \
               WHERE e.expires_at > now() AND NOT {} {own} \
             ) f ON true",
            voids("e.id", "e.region", "e.snapshot")
        );
        let times = |at, fresh, keep| {
            format!(
                "to_timestamp({at} / 1000000.0), now() + {fresh} * interval '1 microsecond', \
                 now() + {keep} * interval '1 microsecond'"
            )
        };
        let voided = format!("{})", voids("$1", "$2", "$4::text::pg_snapshot"));
        let store = |snapshot: &str, own: &str, also_from: &str| {
            format!(
                "INSERT INTO {{schema}}.cache_entries AS e ({COLUMNS}) \
                 SELECT $1, $2, $3, {snapshot}, {own}, {} FROM {{schema}}.cache_incarnation m{also_from} \
                 WHERE m.id = $5::text::uuid AND {MICROS} < $6 AND NOT {voided} {OVERWRITE}",
                times("$7", "$8", "$9"),
            )
        };
        let fill = store("$4::text::pg_snapshot", "NULL", "");
        // Its own tombstone voids what others claimed; the statement does not see it yet. Where another change has come
        // meanwhile that one voids as much, and ours would void what was set since.
        let put = format!(
            "WITH t AS (INSERT INTO {{schema}}.cache_tombstones (id) SELECT $1 WHERE NOT {voided} RETURNING xid) {}",
            store("pg_current_snapshot()", "t.xid", ", t")
        );
        let expire = format!(
            "DELETE FROM {{schema}}.cache_entries WHERE id IN (SELECT id FROM {{schema}}.cache_entries \
             WHERE expires_at < now() ORDER BY expires_at LIMIT {BATCH} FOR UPDATE SKIP LOCKED)"
        );
        let prune = format!(
            "WITH old AS (SELECT ctid, id, xid FROM {{schema}}.cache_tombstones \
               WHERE xid < pg_snapshot_xmax($1::text::pg_snapshot) AND pg_visible_in_snapshot(xid, $1::text::pg_snapshot) \
               ORDER BY xid LIMIT {BATCH} FOR UPDATE SKIP LOCKED), \
             gone AS (DELETE FROM {{schema}}.cache_entries e USING old \
               WHERE (e.id = old.id OR e.region = old.id OR old.id = '\\x2a'::bytea) \
               AND NOT pg_visible_in_snapshot(old.xid, e.snapshot) AND old.xid IS DISTINCT FROM e.own) \
             DELETE FROM {{schema}}.cache_tombstones t USING old WHERE t.ctid = old.ctid"
        );
        let bury = "INSERT INTO {schema}.cache_tombstones (id) SELECT unnest($1::bytea[])";
        let incarnate =
            "INSERT INTO {schema}.cache_incarnation (id) VALUES (gen_random_uuid()) ON CONFLICT DO NOTHING";
        let ping = "SELECT 1 FROM {schema}.cache_incarnation";
        let texts = [&read, incarnate, &fill, &put, bury, &expire, &prune, ping];
        let [read, incarnate, fill, put, bury, expire, prune, ping] = texts.map(|text| schema.sql(text));
        Self { read, incarnate, fill, put, bury, expire, prune, ping }
    }
}

const MICROS: &str = "(extract(epoch FROM clock_timestamp()) * 1000000)::bigint";
const COLUMNS: &str = "id, region, body, snapshot, own, loaded_at, fresh_until, expires_at";
const OVERWRITE: &str = "ON CONFLICT (id) DO UPDATE SET body = excluded.body, snapshot = excluded.snapshot, \
    own = excluded.own, loaded_at = excluded.loaded_at, fresh_until = excluded.fresh_until, \
    expires_at = excluded.expires_at";
