//! How probes are run, as values.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::{Error, Group, HealthManager};

/// Settings of a [`HealthManager`].
#[derive(Clone, Debug)]
pub struct Config {
    /// Time between two runs of a probe that says nothing else. Default 5 s: a brief fault costs little.
    pub period: Duration,
    /// A run that takes longer has failed. Default 2 s.
    pub timeout: Duration,
    /// Share of the period by which each run is moved at random, so that a fleet does not probe in step.
    /// Default 0.1; at most 0.5.
    pub jitter: f64,
    /// Changes of status that are remembered. Default 256.
    pub history: usize,
    /// Probes of a group beside those that joined it themselves. Default none.
    pub groups: BTreeMap<Group, Vec<String>>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            period: Duration::from_secs(5),
            timeout: Duration::from_secs(2),
            jitter: 0.1,
            history: 256,
            groups: BTreeMap::new(),
        }
    }
}

impl Config {
    /// Looks at everything at once.
    ///
    /// # Errors
    /// All problems.
    pub fn validate(&self) -> Result<(), Vec<String>> {
        let mut problems = Vec::new();
        if self.period < Duration::from_millis(10) {
            problems.push("period is below 10 ms".to_owned());
        }
        if self.timeout < Duration::from_millis(1) {
            problems.push("timeout is below 1 ms".to_owned());
        }
        if !(0.0..=0.5).contains(&self.jitter) {
            problems.push("jitter is not within 0 and 0.5".to_owned());
        }
        if self.history == 0 || self.history > 100_000 {
            problems.push("history is not within 1 and 100000".to_owned());
        }
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }

    /// A manager that runs nothing yet: register probes, then [`start`](HealthManager::start) it.
    ///
    /// # Errors
    /// [`Error::Invalid`] with all problems.
    pub fn build(self) -> Result<HealthManager, Error> {
        self.validate().map_err(Error::Invalid)?;
        Ok(HealthManager::new(self))
    }
}
