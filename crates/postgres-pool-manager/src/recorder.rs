//! What one server's pool measures as it works: durations, sampled, and which statements they were of. Its counts are
//! the pool's own and are read by [`metrics`](crate::metrics) when somebody asks.

use crate::{
    insight::sketch::{EVERY, Shape, Sketch},
    metrics::Durations,
};
use opentelemetry::KeyValue;
use sqlx::postgres::PgConnectOptions;
use std::time::Duration;

/// The first words of statements that are told apart in `db.operation.name`; the last stands for all others.
const OPERATIONS: [&str; 9] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "WITH", "MERGE", "BEGIN", "COMMIT", "OTHER"];

/// Instruments with their attributes, resolved once.
#[derive(Debug)]
pub(crate) struct Recorder {
    pub(crate) sketch: Sketch,
    durations: Durations,
    /// Attributes of a statement, by [`OPERATIONS`].
    statements: [[KeyValue; 5]; OPERATIONS.len()],
    /// The pool's name, `db.client.connection.pool.name`.
    pool: [KeyValue; 1],
}

/// A statement that is measured.
#[derive(Debug)]
pub(crate) struct Sample {
    operation: usize,
    shape: Shape,
}

impl Sample {
    /// Of the statement with this number on its connection; one in [`EVERY`] is measured.
    #[inline]
    pub(crate) fn of(number: u32, sql: &str) -> Option<Self> {
        (number % EVERY == 1).then(|| Self::measured(sql))
    }

    fn measured(sql: &str) -> Self {
        let shape = Shape::of(sql);
        let word = shape.first_word();
        let known = OPERATIONS.iter().position(|operation| operation.eq_ignore_ascii_case(word));
        Self { operation: known.unwrap_or(OPERATIONS.len() - 1), shape }
    }
}

impl Recorder {
    pub(crate) fn new(name: &str, options: &PgConnectOptions) -> Self {
        let address = options.get_socket().map(|path| path.display().to_string());
        let address = address.unwrap_or_else(|| options.get_host().to_owned());
        let database = options.get_database().unwrap_or(options.get_username()).to_owned();
        let statements = OPERATIONS.map(|operation| {
            [
                KeyValue::new("db.system.name", "postgresql"),
                KeyValue::new("db.namespace", database.clone()),
                KeyValue::new("db.operation.name", operation),
                KeyValue::new("server.address", address.clone()),
                KeyValue::new("server.port", i64::from(options.get_port())),
            ]
        });
        let pool = [KeyValue::new("db.client.connection.pool.name", name.to_owned())];
        Self { sketch: Sketch::default(), durations: Durations::new(), statements, pool }
    }

    /// A measured statement ended; `error` is of a closed set.
    pub(crate) fn statement(&self, sample: Sample, took: Duration, error: Option<&'static str>) {
        let attributes = &self.statements[sample.operation];
        self.durations.statement(took, attributes, error);
        self.sketch.add(sample.shape, took);
    }

    /// A connection was opened.
    pub(crate) fn created(&self, took: Duration) {
        self.durations.create.record(took.as_secs_f64(), &self.pool);
    }

    /// A caller who had to wait was served.
    pub(crate) fn waited(&self, took: Duration) {
        self.durations.wait.record(took.as_secs_f64(), &self.pool);
    }

    /// A measured loan came back.
    pub(crate) fn used(&self, took: Duration) {
        self.durations.usage.record(took.as_secs_f64(), &self.pool);
    }
}
