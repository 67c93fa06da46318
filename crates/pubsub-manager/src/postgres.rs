//! Channels, the journal and the outbox in PostgreSQL: what they share, and their tables. A service with a database and
//! no Redis has all of them.

mod bus;
mod error;
mod journal;
mod listener;
mod schema;

pub use bus::{PostgresBus, PostgresBusConfig};
pub use journal::{PostgresJournal, PostgresJournalConfig};
pub use listener::PostgresListener;
pub use schema::migrations;

pub(crate) use error::{BEFORE_SENDING, translate, translate_query};
pub(crate) use listener::Topic;
