//! One meter provider for the process, read by one Prometheus exporter that leaves names as they were given.
//!
//! Every crate takes its instruments from the global meter when it is built, so [`Telemetry::install`] comes before
//! the services. Units and counter suffixes are off: `unified_cache_operations_total` is registered under exactly that
//! name. Not yet: the OTLP push reader and traces.

use std::fmt;

use opentelemetry::metrics::MeterProvider as _;
use opentelemetry_sdk::metrics::SdkMeterProvider;
use parking_lot::Mutex;
use prometheus::{Encoder, Registry, TextEncoder, proto::MetricFamily};
use sha2::{Digest, Sha256};

use crate::process;

/// The meter that all our instruments belong to.
pub(crate) const METER: &str = "database_services";

static INSTALLED: Mutex<Option<Telemetry>> = Mutex::new(None);

/// The process's metrics. Cheap to clone.
#[derive(Clone)]
pub struct Telemetry {
    registry: Registry,
    provider: SdkMeterProvider,
}

/// The exporter could not be built.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TelemetryError {
    /// Registering the exporter failed.
    #[error("the Prometheus exporter cannot be set up: {0}")]
    Exporter(String),
    /// Rendering the metrics failed.
    #[error("the metrics cannot be rendered: {0}")]
    Render(String),
}

impl Telemetry {
    /// Builds the meter provider with its Prometheus exporter and makes it the global one. Once a process:
    /// a later call hands out what the first one built.
    ///
    /// # Errors
    /// [`TelemetryError::Exporter`] when the exporter cannot be registered.
    pub fn install() -> Result<Self, TelemetryError> {
        let mut installed = INSTALLED.lock();
        if let Some(telemetry) = installed.as_ref() {
            return Ok(telemetry.clone());
        }
        let telemetry = Self::build()?;
        opentelemetry::global::set_meter_provider(telemetry.provider.clone());
        *installed = Some(telemetry.clone());
        Ok(telemetry)
    }

    /// What [`Telemetry::install`] built in this process, if anything did.
    #[must_use]
    pub fn installed() -> Option<Self> {
        INSTALLED.lock().clone()
    }

    fn build() -> Result<Self, TelemetryError> {
        let registry = Registry::new();
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(registry.clone())
            .without_units()
            .without_counter_suffixes()
            .without_target_info()
            .scope_info_enabled(false)
            .build()
            .map_err(|error| TelemetryError::Exporter(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        observe_process(&provider);
        Ok(Self { registry, provider })
    }

    /// All metrics in Prometheus' text format.
    ///
    /// Blocks for as long as the observable instruments' callbacks take: microseconds, they read counters.
    ///
    /// # Errors
    /// [`TelemetryError::Render`] when a metric cannot be written.
    pub fn render(&self) -> Result<String, TelemetryError> {
        render(&self.registry.gather())
    }

    /// The same for anybody: servers by an alias that stays the same, not by name or address.
    ///
    /// # Errors
    /// As [`render`](Self::render).
    pub fn render_public(&self) -> Result<String, TelemetryError> {
        let mut families = self.registry.gather();
        for metric in families.iter_mut().flat_map(|family| family.mut_metric()) {
            for label in metric.mut_label().iter_mut().filter(|label| HOSTS.contains(&label.name())) {
                let alias = alias(label.value());
                label.set_value(alias);
            }
        }
        render(&families)
    }
}

/// Labels of OpenTelemetry's conventions that name a server.
const HOSTS: [&str; 2] = ["server_address", "db_client_connection_pool_name"];

fn alias(host: &str) -> String {
    let digest = Sha256::digest(host.as_bytes());
    let start: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    format!("server-{start}")
}

/// The metrics of the installed telemetry; nothing when the host never installed any.
pub(crate) fn render_installed(hosts_shown: bool) -> Result<String, TelemetryError> {
    match Telemetry::installed() {
        Some(telemetry) if hosts_shown => telemetry.render(),
        Some(telemetry) => telemetry.render_public(),
        None => Ok(String::new()),
    }
}

/// `text/plain` in the version that the encoder writes.
pub(crate) const CONTENT_TYPE: &str = prometheus::TEXT_FORMAT;

fn render(families: &[MetricFamily]) -> Result<String, TelemetryError> {
    let mut text = Vec::new();
    TextEncoder::new()
        .encode(families, &mut text)
        .map_err(|error| TelemetryError::Render(error.to_string()))?;
    String::from_utf8(text).map_err(|error| TelemetryError::Render(error.to_string()))
}

fn observe_process(provider: &SdkMeterProvider) {
    let meter = provider.meter(METER);
    // The provider keeps the callbacks; the handles need not live.
    let _resident = meter
        .u64_observable_gauge("process_resident_memory_bytes")
        .with_description("Resident memory of the process")
        .with_callback(|observer| {
            if let Some(bytes) = process::resident_memory_bytes() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
    let _limit = meter
        .u64_observable_gauge("process_memory_limit_bytes")
        .with_description("Memory that the process may use: the least of its control groups' limits and the machine's memory")
        .with_callback(|observer| {
            if let Some(bytes) = process::memory_limit_bytes() {
                observer.observe(bytes, &[]);
            }
        })
        .build();
}

impl fmt::Debug for Telemetry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Telemetry").finish_non_exhaustive()
    }
}
