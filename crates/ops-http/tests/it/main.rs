//! The HTTP face before real services on real servers.

#![expect(clippy::unwrap_used, reason = "a step that fails is a test that fails")]

mod admin;
mod auth;
mod faults;
mod limits;
mod shapes;
mod support;
