//! What every handler shares: the services, the gate, the limits, and the way to run something on the services' runtime.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use database_services::DatabaseServices;
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::admin::peer_of;
use crate::audit::{AdminEvent, AdminOutcome};
use crate::control::Control;
use crate::options::{Limits, Reload, RouterOptions};
use crate::problem::Problem;
use crate::process::CpuMeter;
use crate::tail::TAILS;

#[derive(Debug)]
pub(crate) struct App {
    services: DatabaseServices,
    access: Access,
    limits: Limits,
    runtime: Handle,
    control: Arc<Control>,
    reload: Option<Reload>,
    cpu: CpuMeter,
    tails: Arc<Semaphore>,
}

impl App {
    pub(crate) fn new(services: DatabaseServices, options: RouterOptions) -> Self {
        Self {
            services,
            access: Access::new(options.token.as_ref()),
            limits: options.limits,
            runtime: options.runtime,
            control: options.control,
            reload: options.reload,
            cpu: CpuMeter::new(),
            tails: Arc::new(Semaphore::new(TAILS)),
        }
    }

    pub(crate) fn services(&self) -> &DatabaseServices {
        &self.services
    }

    /// The services once they are up: before that there is nothing to ask.
    pub(crate) fn running(&self) -> Result<&DatabaseServices, Problem> {
        if self.services.is_initialized() {
            Ok(&self.services)
        } else {
            Err(Problem::unavailable("starting", "the services are not up yet: ask again in a moment"))
        }
    }

    /// One permit for each client that listens to messages.
    pub(crate) fn tails(&self) -> &Arc<Semaphore> {
        &self.tails
    }

    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    pub(crate) fn runtime(&self) -> &Handle {
        &self.runtime
    }

    pub(crate) fn control(&self) -> &Control {
        &self.control
    }

    pub(crate) fn reload(&self) -> Option<&Reload> {
        self.reload.as_ref()
    }

    pub(crate) fn cpu_percent(&self) -> f64 {
        self.cpu.percent()
    }

    /// Whether the request shows the token, where that is no condition.
    pub(crate) fn knows(&self, request: &Request) -> bool {
        self.access.admit(request.headers(), &peer_of(request)).is_ok()
    }

    /// Who asks; a refusal is audited under `what`.
    pub(crate) fn admit(&self, request: &Request, what: &str) -> Result<String, Problem> {
        let peer = peer_of(request);
        self.access.admit(request.headers(), &peer).inspect_err(|refused| {
            AdminEvent {
                who: format!("anonymous@{peer}"),
                what: what.chars().take(128).collect(),
                target: String::new(),
                outcome: AdminOutcome::Refused,
                code: Some(refused.code.clone()),
                duration: Duration::ZERO,
            }
            .emit();
        })
    }
}
