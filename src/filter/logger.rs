//! The `log` crate's lines, and panics, in Envoy's log.

use super::hostcalls;
use log::{Level, LevelFilter, Log, Metadata, Record};

/// The ABI's level above `error`.
const CRITICAL: u32 = 5;

struct Logger;

impl Log for Logger {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        let level = match record.level() {
            Level::Trace => 0,
            Level::Debug => 1,
            Level::Info => 2,
            Level::Warn => 3,
            Level::Error => 4,
        };
        if self.enabled(record.metadata()) {
            hostcalls::log(level, &record.args().to_string());
        }
    }

    fn flush(&self) {}
}

/// Callout once, at the start of the VM.
pub(super) fn start() {
    if log::set_logger(&Logger).is_ok() {
        log::set_max_level(LevelFilter::Info);
        std::panic::set_hook(Box::new(|panic| hostcalls::log(CRITICAL, &panic.to_string())));
    }
}
