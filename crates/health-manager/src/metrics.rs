//! Instruments: breakers' states, recoveries, changes of status. Resolved once; nothing on a hot path.

use std::sync::{Arc, Weak};

use opentelemetry::metrics::{Counter, Histogram, ObservableGauge};
use opentelemetry::{KeyValue, global};

use crate::events::Event;
use crate::state::Inner;

const STATES: [&str; 5] = ["closed", "open", "half_open", "forced_open", "disabled"];

#[derive(Debug)]
pub(crate) struct Metrics {
    transitions: Counter<u64>,
    recovery: Histogram<f64>,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let meter = global::meter("database_services");
        Self {
            transitions: meter
                .u64_counter("unified_health_transitions_total")
                .with_description("Changes of a component's status.")
                .build(),
            recovery: meter
                .f64_histogram("unified_recovery_duration_seconds")
                .with_description("How long a dependency was not healthy, at its recovery.")
                .with_boundaries(vec![0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 300.0, 900.0, 3_600.0])
                .build(),
        }
    }

    pub(crate) fn changed(&self, event: &Event) {
        let component = KeyValue::new("component", event.component.clone());
        self.transitions.add(1, &[component, KeyValue::new("status", event.to.name())]);
        if let Some(seconds) = event.recovery_seconds {
            self.recovery.record(seconds, &[KeyValue::new("dependency", event.component.clone())]);
        }
    }
}

/// One gauge a breaker and state: 1 for the state it is in, 0 for the others.
pub(crate) fn observe_breakers(inner: &Arc<Inner>) -> ObservableGauge<u64> {
    let inner: Weak<Inner> = Arc::downgrade(inner);
    global::meter("database_services")
        .u64_observable_gauge("unified_circuit_breaker_state")
        .with_description("1 for the state that the breaker is in.")
        .with_callback(move |observer| {
            let Some(inner) = inner.upgrade() else { return };
            for (name, breaker) in inner.breakers.lock().iter() {
                let current = state_name(breaker.state());
                for state in STATES {
                    let labels = [KeyValue::new("dependency", name.clone()), KeyValue::new("state", state)];
                    observer.observe(u64::from(state == current), &labels);
                }
            }
        })
        .build()
}

const fn state_name(state: resilience::BreakerState) -> &'static str {
    use resilience::BreakerState as S;
    match state {
        S::Closed => "closed",
        S::Open => "open",
        S::HalfOpen => "half_open",
        S::ForcedOpen => "forced_open",
        S::Disabled => "disabled",
    }
}
