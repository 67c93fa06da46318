//! Stands in for `containers` in builds that lack it: nothing can be made here, and asking says why.

use std::sync::Arc;

use crate::directory::Directory;
use crate::error::Error;
use crate::find::{PgBouncerBinary, PostgresBinaries, RedisBinary};
use crate::images::Images;
use crate::launcher::Job;
use crate::process::Process;

/// No value of this type exists.
#[derive(Debug, Clone)]
pub(crate) enum Containers {}

impl Containers {
    pub(crate) fn of(_images: &Images) -> Result<Self, Error> {
        Err(Error::Setting {
            name: "the containers provider (LOCAL_STACK_PROVIDER=containers)".into(),
            reason: "this build lacks it; turn on the feature `containers` of local-stack \
                (cargo test --features local-stack/containers)"
                .into(),
        })
    }

    pub(crate) fn postgres(&self) -> Result<PostgresBinaries, Error> {
        match *self {}
    }

    pub(crate) fn redis(&self) -> Result<RedisBinary, Error> {
        match *self {}
    }

    pub(crate) fn pgbouncer(&self) -> Result<PgBouncerBinary, Error> {
        match *self {}
    }

    pub(crate) fn furnish(&self, _directory: &Directory) -> Result<(), Error> {
        match *self {}
    }

    pub(crate) fn spawn(&self, _job: Job<'_>) -> Result<Arc<Process>, Error> {
        match *self {}
    }

    pub(crate) fn run(&self, _job: Job<'_>) -> Result<Option<String>, Error> {
        match *self {}
    }
}
