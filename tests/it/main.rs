//! The assembled system against real servers: what no crate can show alone, because it needs two processes' worth
//! of services, several parts at once, or what we ship beside the code (roles, ACL).
#![allow(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod assembled;
mod chaos;
mod fixture;
mod secrets;
mod shipped_rights;
mod topologies;
