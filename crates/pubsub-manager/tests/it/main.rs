//! The journal and the bus against real Redis servers, with real faults.

mod buses;
mod journal_faults;
mod journals;
mod losses;
mod support;
mod transactions;
