//! A tower layer that measures the host's own routes: `http_requests_total` and `http_request_duration_seconds`.
//!
//! Label sets are closed: known methods, the route's pattern (never the path), the numeric status. Our own probe,
//! metrics and admin answers carry a mark and are not counted, wherever they are mounted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use axum::extract::MatchedPath;
use axum::http::{Method, Request, Response};
use opentelemetry::KeyValue;
use opentelemetry::metrics::{Counter, Histogram};
use tower::{Layer, Service};

use crate::telemetry::METER;

/// From half a millisecond to ten seconds.
const BUCKETS: [f64; 14] =
    [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// A client that went away before it was answered counts under this status.
const CLIENT_GONE: u16 = 499;

/// Put on answers that are not the host's traffic.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NotTraffic;

/// Measures every request of the router that it is laid around (`Router::layer`).
///
/// Make it after [`Telemetry::install`](crate::Telemetry::install), or the measures go nowhere.
#[derive(Clone, Debug)]
pub struct HostMetricsLayer {
    instruments: Instruments,
}

#[derive(Clone, Debug)]
struct Instruments {
    requests: Counter<u64>,
    duration: Histogram<f64>,
}

impl HostMetricsLayer {
    /// A layer on the global meter.
    #[must_use]
    pub fn new() -> Self {
        let meter = opentelemetry::global::meter(METER);
        let requests = meter
            .u64_counter("http_requests_total")
            .with_description("Requests that the service answered, by method, route and status")
            .build();
        let duration = meter
            .f64_histogram("http_request_duration_seconds")
            .with_description("Time from a request's head to its answer's head, by method and route")
            .with_boundaries(BUCKETS.to_vec())
            .build();
        Self { instruments: Instruments { requests, duration } }
    }
}

impl Default for HostMetricsLayer {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> Layer<S> for HostMetricsLayer {
    type Service = HostMetrics<S>;

    fn layer(&self, inner: S) -> Self::Service {
        HostMetrics { inner, instruments: self.instruments.clone() }
    }
}

/// The service that [`HostMetricsLayer`] makes.
#[derive(Clone, Debug)]
pub struct HostMetrics<S> {
    inner: S,
    instruments: Instruments,
}

impl<S, B, R> Service<Request<B>> for HostMetrics<S>
where
    S: Service<Request<B>, Response = Response<R>>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Measured<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let route = request.extensions().get::<MatchedPath>().cloned();
        let pending = Pending {
            instruments: Some(self.instruments.clone()),
            method: method_label(request.method()),
            route,
            started: Instant::now(),
        };
        Measured { inner: Box::pin(self.inner.call(request)), pending }
    }
}

/// The future of [`HostMetrics`]; dropped before its end it counts as status 499.
#[derive(Debug)]
pub struct Measured<F> {
    inner: Pin<Box<F>>,
    pending: Pending,
}

impl<F, R, E> Future for Measured<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<R>, E>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = ready!(self.inner.as_mut().poll(context));
        match &answer {
            Ok(response) if response.extensions().get::<NotTraffic>().is_some() => self.pending.forget(),
            Ok(response) => self.pending.count(response.status().as_u16()),
            Err(_) => self.pending.count(500),
        }
        Poll::Ready(answer)
    }
}

#[derive(Debug)]
struct Pending {
    instruments: Option<Instruments>,
    method: &'static str,
    route: Option<MatchedPath>,
    started: Instant,
}

impl Pending {
    fn forget(&mut self) {
        self.instruments = None;
    }

    fn count(&mut self, status: u16) {
        let Some(instruments) = self.instruments.take() else { return };
        let route =
            self.route.as_ref().map_or_else(|| "unmatched".to_owned(), |route| route.as_str().to_owned());
        let labels = [
            KeyValue::new("method", self.method),
            KeyValue::new("route", route),
            KeyValue::new("status", status.to_string()),
        ];
        instruments.duration.record(self.started.elapsed().as_secs_f64(), &labels[..2]);
        instruments.requests.add(1, &labels);
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.count(CLIENT_GONE);
    }
}

fn method_label(method: &Method) -> &'static str {
    const KNOWN: [(Method, &str); 7] = [
        (Method::GET, "GET"),
        (Method::POST, "POST"),
        (Method::PUT, "PUT"),
        (Method::PATCH, "PATCH"),
        (Method::DELETE, "DELETE"),
        (Method::HEAD, "HEAD"),
        (Method::OPTIONS, "OPTIONS"),
    ];
    KNOWN.iter().find(|(known, _)| known == method).map_or("OTHER", |(_, label)| label)
}

#[cfg(test)]
mod tests;
