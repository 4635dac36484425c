//! A clock that only goes forward, derived from a wall clock that may be set.

/// Largest step accepted between two reads. A larger one means that the wall clock was changed:
/// while events are pending, reads are at most some 50 ms apart.
const MAX_STEP_MS: u64 = 2_000;

/// Counts milliseconds since the first read.
///
/// ```
/// use keen_edge::delivery::MonotonicClock;
///
/// let mut clock = MonotonicClock::default();
/// assert_eq!(clock.advance(1_700_000_000_000), 0);
/// assert_eq!(clock.advance(1_700_000_000_050), 50);
/// assert_eq!(clock.advance(1_600_000_000_000), 50); // set back
/// ```
#[derive(Debug, Default)]
pub struct MonotonicClock {
    last_unix_ms: Option<u64>,
    elapsed_ms: u64,
}

impl MonotonicClock {
    /// Returns the time now. `unix_ms`: the wall clock, which may jump forward or back.
    pub fn advance(&mut self, unix_ms: u64) -> u64 {
        let step = unix_ms.saturating_sub(self.last_unix_ms.unwrap_or(unix_ms));
        self.last_unix_ms = Some(unix_ms);
        self.elapsed_ms = self.elapsed_ms.saturating_add(step.min(MAX_STEP_MS));
        self.elapsed_ms
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn advance_with_a_clock_that_was_set_goes_forward_in_small_steps() {
        const HOUR: u64 = 3_600_000;
        let mut clock = MonotonicClock::default();
        assert_eq!(clock.advance(9 * HOUR), 0);
        assert_eq!(clock.advance(9 * HOUR + 50), 50);
        // Set back by an hour, then ahead by a day.
        assert_eq!(clock.advance(8 * HOUR), 50);
        assert_eq!(clock.advance(8 * HOUR + 10), 60);
        assert_eq!(clock.advance(32 * HOUR), 2_060);
        assert_eq!(clock.advance(u64::MAX), 4_060);
        assert_eq!(clock.advance(0), 4_060);
    }
}
