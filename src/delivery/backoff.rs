//! Jittered exponential backoff.

use fastrand::Rng;

/// The pause after the first failure. Each further failure doubles it.
const BACKOFF_MIN_MS: u64 = 100;

/// Computes pauses, each between half and the whole of the exponential value.
#[derive(Debug)]
pub(super) struct Backoff {
    rng: Rng,
}

impl Backoff {
    /// `seed`: workers with different seeds do not retry at the same moment.
    pub(super) fn new(seed: u64) -> Self {
        Self { rng: Rng::with_seed(seed) }
    }

    /// The pause after `failures` consecutive failures, at most `max_ms`.
    pub(super) fn pause_ms(&mut self, failures: u32, max_ms: u64) -> u64 {
        let doublings = failures.saturating_sub(1).min(16);
        let whole = BACKOFF_MIN_MS.saturating_mul(1_u64.wrapping_shl(doublings)).min(max_ms);
        let half = whole >> 1;
        half.saturating_add(self.rng.u64(..half.max(1)))
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, clippy::indexing_slicing)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn pause_after_failures_doubles_up_to_its_maximum() {
        let mut backoff = Backoff::new(7);
        for (failures, whole) in [(1, 100), (2, 200), (3, 400), (6, 3_200), (7, 5_000), (90, 5_000)]
        {
            for _ in 0..100 {
                let pause = backoff.pause_ms(failures, 5_000);
                assert!((whole / 2..whole).contains(&pause), "{failures}: {pause}");
            }
        }
    }

    #[test]
    fn pause_with_another_seed_differs() {
        let pauses = |seed| {
            let mut backoff = Backoff::new(seed);
            std::iter::repeat_with(|| backoff.pause_ms(9, 5_000)).take(8).collect::<Vec<_>>()
        };
        assert_ne!(pauses(2), pauses(4));
    }

    #[test]
    fn pauses_of_one_seed_are_spread_evenly() {
        let mut backoff = Backoff::new(7);
        let mut tenths = [0; 10];
        for _ in 0..1_000 {
            let jitter = usize::try_from(backoff.pause_ms(9, 5_000) - 2_500).unwrap_or(0);
            tenths[jitter / 250] += 1;
        }
        assert!(tenths.iter().all(|count| (60..=140).contains(count)), "{tenths:?}");
    }

    #[test]
    fn pauses_of_one_seed_do_not_repeat() {
        let mut backoff = Backoff::new(7);
        let pauses: BTreeSet<u64> = (0..60_000).map(|_| backoff.pause_ms(90, u64::MAX)).collect();
        // A few of 3,276,800 possible pauses are the same by chance.
        assert!(pauses.len() > 59_000, "{}", pauses.len());
    }
}
