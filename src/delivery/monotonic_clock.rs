//! A clock that only goes forward, from one that people set.

/// Time that passes between two looks, at most: looks come far more often while anything waits. More than that is a
/// clock that was set, and must neither end every wait nor make one last for hours.
const MOST_MS: u64 = 2_000;

/// Milliseconds that pass as they do for whoever waits.
#[derive(Debug, Default)]
pub struct MonotonicClock {
    seen: Option<u64>,
    passed: u64,
}

impl MonotonicClock {
    /// The time now. `wall`: milliseconds of a clock that may be set, forward or back.
    pub fn read(&mut self, wall: u64) -> u64 {
        let since = wall.saturating_sub(self.seen.unwrap_or(wall));
        self.seen = Some(wall);
        self.passed = self.passed.saturating_add(since.min(MOST_MS));
        self.passed
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)]
mod tests {
    use super::*;

    #[test]
    fn it_only_goes_forward_and_never_leaps() {
        const HOUR: u64 = 3_600_000;
        let mut clock = MonotonicClock::default();
        assert_eq!(clock.read(9 * HOUR), 0);
        assert_eq!(clock.read(9 * HOUR + 50), 50);
        // Set back by an hour, then ahead by a day.
        assert_eq!(clock.read(8 * HOUR), 50);
        assert_eq!(clock.read(8 * HOUR + 10), 60);
        assert_eq!(clock.read(32 * HOUR), 2_060);
        assert_eq!(clock.read(u64::MAX), 4_060);
        assert_eq!(clock.read(0), 4_060);
    }
}
