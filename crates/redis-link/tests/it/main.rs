//! The link against real Redis servers, with real faults.

mod calls;
mod connecting;
mod epochs;
mod faults;
mod lifecycle;
mod subscriptions;
mod support;
mod tls;
