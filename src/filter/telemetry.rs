//! Metrics, and the log of problems.

pub(super) use super::metrics::Metrics;

/// A problem is logged once in this time.
const LOG_INTERVAL_MS: u64 = 60_000;
/// Kinds of problems that are remembered for that.
const MAX_LOG_KEYS: usize = 256;

/// Limits how often a kind of problem is logged.
#[derive(Debug, Default)]
pub(super) struct LogRateLimit {
    /// Kinds of problems, and when each was logged last.
    logged: Vec<(String, u64)>,
}

impl LogRateLimit {
    /// Logs a warning, at most once in [`LOG_INTERVAL_MS`] for each `kind`.
    pub(super) fn warn(&mut self, kind: &str, now_ms: u64, line: impl FnOnce() -> String) {
        self.logged.retain(|(_, last)| now_ms.abs_diff(*last) < LOG_INTERVAL_MS);
        if self.logged.len() < MAX_LOG_KEYS && self.logged.iter().all(|(logged, _)| logged != kind)
        {
            self.logged.push((kind.to_owned(), now_ms));
            log::warn!("{}", line());
        }
    }
}
