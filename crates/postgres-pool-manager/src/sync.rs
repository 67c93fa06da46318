//! The lock and the one-shot channel that [`shell`](crate::shell) is built on. Nothing else, and no code of its own:
//! `tests/model` puts others in their place, under which every interleaving can be tried.

pub(crate) use parking_lot::Mutex;
pub(crate) use tokio::sync::oneshot;
