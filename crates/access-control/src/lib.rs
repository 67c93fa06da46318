//! Who acts, in which tier, with which rights and at which rate.
//!
//! A [`SecurityContext`] is an agent's name and its [`Tier`]; [`permissions`](SecurityContext::permissions) tells what
//! that allows. A [`RateLimiter`] holds each agent of this process to its tier's rate by the generic cell rate
//! algorithm: a burst of one second's worth, then evenly, nothing stored but one number an agent.
//!
//! ```
//! use access_control::{RateLimiter, Rates, SecurityContext, Tier};
//!
//! let context = SecurityContext::new("reporting", Tier::Basic)?;
//! let limiter = RateLimiter::new(Rates::default());
//! for _ in 0..10 {
//!     limiter.check(&context)?;
//! }
//! assert!(limiter.check(&context).is_err());
//! # Ok::<_, access_control::Error>(())
//! ```
//!
//! Not yet: limits across the fleet, the audit trail, enforcement inside the services (callers ask the limiter).

mod context;
mod error;
mod limiter;

pub use context::{Permission, Permissions, Rates, SecurityContext, Tier, UnknownTier};
pub use error::Error;
pub use limiter::RateLimiter;
