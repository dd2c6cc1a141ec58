//! What the process says about itself: the log's set-up and the metrics' exposition.
//!
//! In:    a wish for text or JSON lines; each room's metrics struct.     Out: lines on standard error, Prometheus text.
//! Owner: the roof sets the log up once; each room registers its own metrics with the [`Registry`] it is handed.
//! Not here: names of metrics (each room's `metrics.rs`), the scrape's door (`causeway-api`, the proxy's admin door).

use std::sync::Arc;

use parking_lot::Mutex;
pub use prometheus_client::registry::Registry;
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Sets the process's log up; `filter` is in `tracing`'s directive syntax (`info,causeway_proxy=debug`). A bad filter or a
/// second call is an error text.
pub fn init_log(format: LogFormat, filter: &str) -> Result<(), String> {
    let filter =
        EnvFilter::try_new(filter).map_err(|e| format!("log filter {filter:?} is not understood: {e}"))?;
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(true);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|e| format!("the log is set up already: {e}"))
}

/// The metrics of one process or one test, shared by its rooms. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    registry: Arc<Mutex<Registry>>,
}

impl Metrics {
    /// Lets a room register its metrics; `prefix` becomes the first word of their names.
    pub fn register<T>(&self, prefix: &str, register: impl FnOnce(&mut Registry) -> T) -> T {
        register(self.registry.lock().sub_registry_with_prefix(prefix))
    }

    /// The text a Prometheus server scrapes (OpenMetrics 1.0).
    pub fn exposition(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail; a broken collector of ours would only shorten the text.
        let _ = prometheus_client::encoding::text::encode(&mut text, &self.registry.lock());
        text
    }
}
