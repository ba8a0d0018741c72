//! [`Metrics`]: what Prometheus reads.
#![forbid(unsafe_code)]

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::fleet::view::Counts;

/// Operations that are told by name; what clients make up is `other`.
const OPERATIONS: [&str; 12] = [
    "ipython/exec",
    "shell/exec",
    "shell/processes",
    "shell/kill",
    "shell/cwd",
    "fs/create_file",
    "fs/read_file",
    "fs/write_file",
    "fs/edit_file",
    "fs/delete_file",
    "fs/list_dir",
    "ipython/kernels",
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: String,
    route: String,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Operation {
    operation: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Named {
    state: &'static str,
}

/// What was counted since the service started.
#[derive(Debug)]
pub(super) struct Metrics {
    requests: Family<Request, Counter>,
    request_seconds: Histogram,
    operations: Family<Operation, Counter>,
    operation_seconds: Histogram,
}

fn seconds() -> Histogram {
    // 0.5 ms to 32 s.
    Histogram::new(exponential_buckets(0.0005, 2.0, 17))
}

impl Metrics {
    pub(super) fn new() -> Self {
        Self {
            requests: Family::default(),
            request_seconds: seconds(),
            operations: Family::default(),
            operation_seconds: seconds(),
        }
    }

    /// One request was answered. `route` is one of ours, not what the client wrote.
    pub(super) fn request(&self, method: &str, route: &str, status: u16, took: Duration) {
        let request = Request { method: method.to_owned(), route: route.to_owned(), status };
        self.requests.get_or_create(&request).inc();
        self.request_seconds.observe(took.as_secs_f64());
    }

    /// One operation was done.
    pub(super) fn operation(&self, operation: &str, status: u16, took: Duration) {
        let operation = OPERATIONS.iter().find(|known| **known == operation).copied().unwrap_or("other");
        self.operations.get_or_create(&Operation { operation, status }).inc();
        self.operation_seconds.observe(took.as_secs_f64());
    }

    /// As Prometheus reads it.
    pub(super) fn text(&self, counts: Counts, pooled: usize) -> String {
        let mut registry = Registry::with_prefix("shipyard");
        registry.register("requests", "Requests that were answered", self.requests.clone());
        registry.register("request_seconds", "How long answers took", self.request_seconds.clone());
        registry.register("operations", "Operations on ships", self.operations.clone());
        registry.register("operation_seconds", "How long operations took", self.operation_seconds.clone());
        let states =
            [("running", counts.running), ("stopped", counts.stopped), ("creating", counts.creating)];
        for (state, count) in states {
            let labels = [("state".into(), Named { state }.state.into())];
            let gauge = ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX));
            registry.sub_registry_with_labels(labels.into_iter()).register("ships", "Ships", gauge);
        }
        for (name, help, count) in [
            ("sessions", "Sessions that are remembered", counts.sessions),
            ("sessions_active", "Sessions that are aboard", counts.active),
            ("pool", "Vessels that wait for a ship", pooled),
        ] {
            registry.register(name, help, ConstGauge::new(i64::try_from(count).unwrap_or(i64::MAX)));
        }
        let mut text = String::new();
        // Writing to a string does not fail.
        let _ = prometheus_client::encoding::text::encode(&mut text, &registry);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_make_up_is_counted_under_one_name() {
        let metrics = Metrics::new();
        metrics.operation("shell/exec", 200, Duration::from_millis(3));
        metrics.operation("made/up", 404, Duration::ZERO);
        metrics.request("GET", "/ship/{ship_id}", 404, Duration::from_millis(1));
        let text = metrics.text(Counts { running: 2, ..Counts::default() }, 1);
        for line in [
            "shipyard_operations_total{operation=\"shell/exec\",status=\"200\"} 1",
            "shipyard_operations_total{operation=\"other\",status=\"404\"} 1",
            "shipyard_requests_total{method=\"GET\",route=\"/ship/{ship_id}\",status=\"404\"} 1",
            "shipyard_ships{state=\"running\"} 2",
            "shipyard_pool 1",
            "# EOF",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
