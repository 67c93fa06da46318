//! The statements of the outbox. Why they keep the promises is told one level up.

use postgres_pool_manager::Schema;

/// Rows of one page.
pub(super) const PAGE: i64 = 256;

#[derive(Debug)]
pub(super) struct Sql {
    /// Seconds, or no row.
    pub(super) lease_left: String,
    /// Holder, seconds. The token, or no row.
    pub(super) take_lease: String,
    /// Holder, token, seconds.
    pub(super) renew_lease: String,
    /// Holder, token, NOTIFY's channel and text.
    pub(super) release_lease: String,
    /// Id after which, keys to leave out. One row without an id if there is nothing.
    pub(super) page: String,
    /// Ids, holder, token. The number of its own transaction, or no row: the lease is somebody else's.
    pub(super) delete: String,
    /// Id, holder, token, attempts, reason.
    pub(super) bury: String,
    pub(super) sample: String,
    /// After which id, how many.
    pub(super) dead: String,
    /// Ids; all, if there are none.
    pub(super) revive: String,
    /// Ids; all, if there are none.
    pub(super) drop_dead: String,
}

const COLUMNS: &str = "record, key, target, subject, codec, trace, published_at, payload";

impl Sql {
    pub(super) fn new(schema: &Schema) -> Self {
        let sql = |text: &str| schema.sql(text);
        let holds =
            "EXISTS (SELECT 1 FROM {schema}.outbox_relay WHERE holder = $2::text::uuid AND token = $3)";
        let until = |seconds: &str| format!("clock_timestamp() + {seconds} * interval '1 second'");
        Self {
            lease_left: sql(
                "SELECT extract(epoch FROM expires_at - clock_timestamp())::float8 FROM {schema}.outbox_relay",
            ),
            take_lease: sql(&format!(
                "INSERT INTO {{schema}}.outbox_relay AS relay (one, holder, token, expires_at) \
                 VALUES (true, $1::text::uuid, 1, {until}) ON CONFLICT (one) DO UPDATE SET \
                   holder = excluded.holder, token = relay.token + 1, expires_at = {until} \
                 WHERE relay.expires_at <= clock_timestamp() RETURNING token",
                until = until("$2"),
            )),
            renew_lease: sql(&format!(
                "UPDATE {{schema}}.outbox_relay SET expires_at = {} WHERE holder = $1::text::uuid AND token = $2",
                until("$3"),
            )),
            release_lease: sql(
                "WITH given AS (UPDATE {schema}.outbox_relay SET expires_at = to_timestamp(0) \
                   WHERE holder = $1::text::uuid AND token = $2 RETURNING 1) \
                 SELECT pg_notify($3, $4) FROM given",
            ),
            // A page is bounded in rows and, but for its first row, in bytes.
            page: sql(&format!(
                "SELECT pg_snapshot_xmin(now.seen)::text AS horizon, id, record::text AS record, key, target, subject, \
                   codec, trace, payload, (extract(epoch FROM published_at) * 1000000)::bigint AS published_at, \
                   xid < pg_snapshot_xmin(now.seen) AS settled \
                 FROM (SELECT pg_current_snapshot() AS seen) now LEFT JOIN ( \
                   SELECT *, sum(octet_length(payload)) OVER (ORDER BY id) - octet_length(payload) AS before FROM ( \
                     SELECT * FROM {{schema}}.outbox WHERE id > $1 AND key <> ALL ($2::text[]) ORDER BY id LIMIT {PAGE} \
                   ) page \
                 ) bounded ON before < 4194304 ORDER BY id"
            )),
            delete: sql(&format!(
                "WITH gone AS (DELETE FROM {{schema}}.outbox WHERE id = ANY ($1::bigint[]) AND {holds}) \
                 SELECT pg_current_xact_id()::text WHERE {holds}"
            )),
            bury: sql(&format!(
                "WITH gone AS (DELETE FROM {{schema}}.outbox WHERE id = $1 AND {holds} RETURNING id, {COLUMNS}) \
                 INSERT INTO {{schema}}.outbox_dead (id, {COLUMNS}, attempts, reason) SELECT *, $4, $5 FROM gone"
            )),
            sample: sql(SAMPLE),
            dead: sql("SELECT id, record::text AS record, key, target, subject, attempts, reason, \
                   octet_length(payload) AS bytes, (extract(epoch FROM published_at) * 1000000)::bigint AS published_at, \
                   (extract(epoch FROM died_at) * 1000000)::bigint AS died_at \
                 FROM {schema}.outbox_dead WHERE id > $1 ORDER BY id LIMIT $2"),
            revive: sql(&format!(
                "WITH back AS (DELETE FROM {{schema}}.outbox_dead WHERE $1::bigint[] = '{{}}' OR id = ANY ($1) \
                   RETURNING id, {COLUMNS}) \
                 INSERT INTO {{schema}}.outbox ({COLUMNS}) SELECT {COLUMNS} FROM back ORDER BY id"
            )),
            drop_dead: sql("DELETE FROM {schema}.outbox_dead WHERE $1::bigint[] = '{}' OR id = ANY ($1)"),
        }
    }
}

/// Counts end at ten thousand, so that asking every second costs nothing that is felt. Who holds the relay up is the oldest
/// transaction that writes, if it is older than the oldest row.
const SAMPLE: &str = "\
WITH now AS (SELECT pg_snapshot_xmin(pg_current_snapshot()) AS horizon), \
oldest AS (SELECT xid, published_at FROM {schema}.outbox ORDER BY id LIMIT 1), \
held AS (SELECT horizon::xid AS by FROM now, oldest WHERE oldest.xid >= now.horizon) \
SELECT (SELECT count(*) FROM (SELECT FROM {schema}.outbox LIMIT 10000) few) AS pending, \
  (SELECT count(*) FROM (SELECT FROM {schema}.outbox_dead LIMIT 10000) few) AS dead, \
  (SELECT extract(epoch FROM clock_timestamp() - published_at)::float8 FROM oldest) AS lag, \
  (SELECT pid FROM pg_stat_activity, held WHERE backend_xid = held.by LIMIT 1) AS pid, \
  (SELECT extract(epoch FROM clock_timestamp() - xact_start)::float8 FROM pg_stat_activity, held \
   WHERE backend_xid = held.by LIMIT 1) AS open_for, \
  (SELECT gid FROM pg_prepared_xacts, held WHERE transaction = held.by LIMIT 1) AS prepared";
