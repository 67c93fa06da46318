//! What is refused, and why.

use std::time::Duration;

use crate::{Permission, Tier};

/// Errors of access control.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An agent's name cannot be used.
    #[error("the agent's name has to have 1 to 128 characters and no control character")]
    AgentId,
    /// The tier does not allow it.
    #[error("agent {agent_id} of tier {tier} has no permission to {permission}")]
    Forbidden {
        /// Who.
        agent_id: String,
        /// In which tier.
        tier: Tier,
        /// What for.
        permission: Permission,
    },
    /// Over the tier's rate.
    #[error(
        "agent {agent_id} is over the {rate} requests a second of tier {tier}; try again in {retry_after:?}"
    )]
    RateLimited {
        /// Who.
        agent_id: String,
        /// In which tier.
        tier: Tier,
        /// The tier's rate.
        rate: u32,
        /// When to try again at the earliest.
        retry_after: Duration,
    },
}

impl Error {
    /// Whether the same request may pass later.
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::RateLimited { .. } => true,
            Self::AgentId | Self::Forbidden { .. } => false,
        }
    }
}
