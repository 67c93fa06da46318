//! The instruments that belong to no single component. Observed from the services held weakly; nothing per call.

use std::sync::{Arc, Weak};

use opentelemetry::{KeyValue, global};

use crate::services::Inner;

/// Registers the instruments of these services.
pub(crate) fn register(inner: &Arc<Inner>) {
    let weak: Weak<Inner> = Arc::downgrade(inner);
    let _gauge = global::meter("database_services")
        .f64_observable_gauge("ucm_response_target_seconds")
        .with_description("The p95 that the mode's answers are meant to stay under.")
        .with_callback(move |observer| {
            if let Some(inner) = weak.upgrade() {
                let mode = KeyValue::new("mode", inner.mode.name());
                observer.observe(inner.mode.response_target().as_secs_f64(), &[mode]);
            }
        })
        .build();
}
