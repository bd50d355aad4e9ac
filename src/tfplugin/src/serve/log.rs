//! Log lines in hclog's JSON form on stderr, which Terraform reads and filters.

use std::fmt::Debug;
use std::io::Write;

use serde_json::{Map, Value, json};
use tracing::field::{Field, Visit};
use tracing::level_filters::LevelFilter;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

/// Libraries whose chatter helps nobody.
const QUIET: [&str; 5] = ["h2", "hyper", "tonic", "tower", "rustls"];

/// Sends `tracing`'s events, and panics, to Terraform's log.
pub fn start() {
    let level = level(|name| std::env::var(name).ok());
    let subscriber = tracing_subscriber::registry().with(Hclog { level });
    // Fails only where a program has set its own before, which then stays.
    let _already_set = tracing::subscriber::set_global_default(subscriber);
    // Rust's own text for a panic is no line of JSON.
    std::panic::set_hook(Box::new(|panic| {
        let place = panic
            .location()
            .map(ToString::to_string)
            .unwrap_or_default();
        tracing::error!(
            place,
            "panic: {}",
            panic.payload_as_str().unwrap_or("no reason given")
        );
    }));
}

/// The level that Terraform asks for. Without one it drops what we write; warnings are kept for the
/// file of a later TF_LOG_PATH.
fn level(variable: impl Fn(&str) -> Option<String>) -> LevelFilter {
    let name = variable("TF_LOG_PROVIDER")
        .or_else(|| variable("TF_LOG"))
        .unwrap_or_default();
    match name.to_ascii_uppercase().as_str() {
        "TRACE" | "JSON" => LevelFilter::TRACE,
        "DEBUG" => LevelFilter::DEBUG,
        "INFO" => LevelFilter::INFO,
        "ERROR" => LevelFilter::ERROR,
        "OFF" => LevelFilter::OFF,
        _ => LevelFilter::WARN,
    }
}

struct Hclog {
    level: LevelFilter,
}

impl<S: Subscriber> Layer<S> for Hclog {
    fn enabled(&self, metadata: &tracing::Metadata<'_>, _context: Context<'_, S>) -> bool {
        let source = metadata.target().split("::").next().unwrap_or_default();
        let limit = if QUIET.contains(&source) {
            LevelFilter::WARN
        } else {
            self.level
        };
        *metadata.level() <= limit.min(self.level)
    }

    fn max_level_hint(&self) -> Option<LevelFilter> {
        Some(self.level)
    }

    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let mut line = line(event, jiff::Timestamp::now()).to_string();
        line.push('\n');
        // One write a line, so that lines of several threads don't mix. Nobody to tell when it fails.
        let _closed = std::io::stderr().lock().write_all(line.as_bytes());
    }
}

fn line(event: &Event<'_>, now: jiff::Timestamp) -> Value {
    let mut fields = Fields(Map::new());
    event.record(&mut fields);
    let mut line = fields.0;
    let message = line.remove("message").unwrap_or_else(|| json!(""));
    let metadata = event.metadata();
    line.insert("@level".into(), json!(level_name(*metadata.level())));
    line.insert("@message".into(), message);
    line.insert("@module".into(), json!(metadata.target()));
    line.insert("@timestamp".into(), json!(timestamp(now)));
    Value::Object(line)
}

/// hclog parses exactly six decimals.
fn timestamp(now: jiff::Timestamp) -> String {
    format!("{now:.6}")
}

fn level_name(level: Level) -> &'static str {
    match level {
        Level::ERROR => "error",
        Level::WARN => "warn",
        Level::INFO => "info",
        Level::DEBUG => "debug",
        Level::TRACE => "trace",
    }
}

struct Fields(Map<String, Value>);

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0
            .insert(field.name().to_owned(), json!(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.0.insert(field.name().to_owned(), json!(value));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.0.insert(field.name().to_owned(), json!(value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps_have_exactly_six_decimals() {
        let whole = jiff::Timestamp::new(1_700_000_000, 0).unwrap();
        assert_eq!(timestamp(whole), "2023-11-14T22:13:20.000000Z");
        let nanos = jiff::Timestamp::new(1_700_000_000, 123_456_789).unwrap();
        assert_eq!(timestamp(nanos), "2023-11-14T22:13:20.123456Z");
    }

    #[test]
    fn the_provider_level_goes_before_the_general_one() {
        let variables = |name: &str| match name {
            "TF_LOG_PROVIDER" => Some("debug".to_owned()),
            "TF_LOG" => Some("ERROR".to_owned()),
            _ => None,
        };
        assert_eq!(level(variables), LevelFilter::DEBUG);
        assert_eq!(level(|_| None), LevelFilter::WARN);
    }
}
