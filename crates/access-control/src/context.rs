//! Agents, tiers, permissions: plain values.

use std::collections::BTreeSet;
use std::fmt;
use std::num::NonZeroU32;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Error;

/// How much an agent may do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// Reads and writes.
    #[default]
    Basic,
    /// Also invalidates, locks and publishes.
    Professional,
    /// Also administers.
    Enterprise,
}

impl Tier {
    /// All, from least to most.
    pub const ALL: [Self; 3] = [Self::Basic, Self::Professional, Self::Enterprise];

    /// Its name in settings and JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Basic => "basic",
            Self::Professional => "professional",
            Self::Enterprise => "enterprise",
        }
    }

    /// What it allows.
    pub fn permissions(self) -> BTreeSet<Permission> {
        use Permission as P;
        let allowed: &[P] = match self {
            Self::Basic => &[P::Read, P::Write],
            Self::Professional => &[P::Read, P::Write, P::Invalidate, P::Lock, P::Publish],
            Self::Enterprise => &[P::Read, P::Write, P::Invalidate, P::Lock, P::Publish, P::Admin],
        };
        allowed.iter().copied().collect()
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// There is no tier of this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a tier: use basic, professional or enterprise")]
pub struct UnknownTier(pub String);

impl FromStr for Tier {
    type Err = UnknownTier;

    fn from_str(name: &str) -> Result<Self, UnknownTier> {
        let wanted = name.to_ascii_lowercase();
        Self::ALL.into_iter().find(|tier| tier.name() == wanted).ok_or_else(|| UnknownTier(name.to_owned()))
    }
}

/// One thing an agent may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Read from database and cache.
    Read,
    /// Write to database and cache.
    Write,
    /// Invalidate cache entries.
    Invalidate,
    /// Take locks.
    Lock,
    /// Publish messages.
    Publish,
    /// Administer.
    Admin,
}

impl fmt::Display for Permission {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Invalidate => "invalidate",
            Self::Lock => "lock",
            Self::Publish => "publish",
            Self::Admin => "admin",
        })
    }
}

/// Requests a second of each tier.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Rates {
    /// Default 10.
    pub basic: NonZeroU32,
    /// Default 100.
    pub professional: NonZeroU32,
    /// Default 1,000.
    pub enterprise: NonZeroU32,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self { basic: rate(10), professional: rate(100), enterprise: rate(1_000) }
    }
}

impl Rates {
    /// The rate of a tier.
    pub const fn of(&self, tier: Tier) -> NonZeroU32 {
        match tier {
            Tier::Basic => self.basic,
            Tier::Professional => self.professional,
            Tier::Enterprise => self.enterprise,
        }
    }
}

/// Who acts, in which tier.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct SecurityContext {
    agent_id: String,
    tier: Tier,
}

impl SecurityContext {
    /// An agent in a tier.
    ///
    /// # Errors
    /// A name that is empty, longer than 128 characters or has control characters (it goes into logs).
    pub fn new(agent_id: &str, tier: Tier) -> Result<Self, Error> {
        let length = agent_id.chars().count();
        if length == 0 || length > 128 || agent_id.chars().any(char::is_control) {
            return Err(Error::AgentId);
        }
        Ok(Self { agent_id: agent_id.into(), tier })
    }

    /// Who.
    pub fn agent_id(&self) -> &str {
        &self.agent_id
    }

    /// In which tier.
    pub const fn tier(&self) -> Tier {
        self.tier
    }

    /// What it may do, at which rate.
    pub fn permissions(&self, rates: &Rates) -> Permissions {
        Permissions {
            tier: self.tier,
            rate_limit: rates.of(self.tier).get(),
            permissions: self.tier.permissions(),
        }
    }

    /// Whether it may.
    ///
    /// # Errors
    /// [`Error::Forbidden`].
    pub fn require(&self, permission: Permission) -> Result<(), Error> {
        if self.tier.permissions().contains(&permission) {
            return Ok(());
        }
        Err(Error::Forbidden { agent_id: self.agent_id.clone(), tier: self.tier, permission })
    }
}

/// The service itself, in the basic tier.
impl Default for SecurityContext {
    fn default() -> Self {
        Self { agent_id: "service".into(), tier: Tier::Basic }
    }
}

/// What a context allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Permissions {
    /// The tier.
    pub tier: Tier,
    /// Requests a second.
    pub rate_limit: u32,
    /// What it may do.
    pub permissions: BTreeSet<Permission>,
}
