//! The tables of this crate. Who reads and writes them, and why they are as they are, is told where that is done.

use postgres_pool_manager::{Migration, MigrationSet};

/// This crate's tables: the bus's frames, the journals and the outbox. They need no rights beyond those of the shipped
/// run-time role.
#[must_use]
pub const fn migrations() -> MigrationSet {
    const BUS: Migration = Migration { version: 1, name: "bus", sql: BUS_TABLES };
    const JOURNAL: Migration = Migration { version: 2, name: "journal", sql: JOURNAL_TABLES };
    const OUTBOX: Migration = Migration { version: 3, name: "outbox", sql: OUTBOX_TABLES };
    MigrationSet { component: "pubsub-manager", migrations: &[BUS, JOURNAL, OUTBOX] }
}

/// Rows are inserted and deleted, never updated. Vacuum comes by the number of dead rows, not by a share of a table whose
/// size says nothing.
const BUS_TABLES: &str = "\
CREATE TABLE {schema}.bus_frames (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    lane smallint NOT NULL,
    subject text NOT NULL,
    frame bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE INDEX bus_frames_xid ON {schema}.bus_frames (xid);
";

/// `journals` is updated with every append: the free space keeps the new versions in the row's own page, off the index.
const JOURNAL_TABLES: &str = "\
CREATE TABLE {schema}.journals (
    name text PRIMARY KEY,
    epoch bigint NOT NULL,
    last bigint NOT NULL,
    timeline bigint NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
CREATE TABLE {schema}.journal_entries (
    journal text NOT NULL,
    epoch bigint NOT NULL,
    sequence bigint NOT NULL,
    frame bytea NOT NULL,
    PRIMARY KEY (journal, epoch, sequence)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
";

/// The order of `xid` and `id` matters: a row has its transaction's number before it takes its own.
const OUTBOX_TABLES: &str = "\
CREATE TABLE {schema}.outbox (
    xid xid8 NOT NULL DEFAULT pg_current_xact_id(),
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    record uuid NOT NULL,
    key text NOT NULL,
    target text NOT NULL,
    subject text NOT NULL,
    codec smallint NOT NULL,
    trace bytea,
    published_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    payload bytea NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);
CREATE TABLE {schema}.outbox_dead (
    id bigint PRIMARY KEY,
    record uuid NOT NULL,
    key text NOT NULL,
    target text NOT NULL,
    subject text NOT NULL,
    codec smallint NOT NULL,
    trace bytea,
    published_at timestamptz NOT NULL,
    payload bytea NOT NULL,
    attempts integer NOT NULL,
    reason text NOT NULL,
    died_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE TABLE {schema}.outbox_relay (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    holder uuid NOT NULL,
    token bigint NOT NULL,
    expires_at timestamptz NOT NULL
) WITH (fillfactor = 10);
";
