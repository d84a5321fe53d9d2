//! How long to wait before the next attempt: doubling, capped, with jitter so that many sidecars do not come at once.

use std::time::Duration;

const DELAY_FIRST: Duration = Duration::from_millis(200);
const DELAY_MAX: Duration = Duration::from_secs(15);

/// Counts failed attempts in a row.
#[derive(Debug, Default)]
pub struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Counts a failure and says how long to wait, between half and the whole of the step.
    pub fn next_delay(&mut self) -> Duration {
        let doubled =
            DELAY_FIRST.saturating_mul(1_u32.checked_shl(self.failures.min(16)).unwrap_or(u32::MAX));
        self.failures = self.failures.saturating_add(1);
        doubled.min(DELAY_MAX).mul_f64(rand::random_range(0.5..=1.0))
    }

    /// An attempt succeeded: the next failure starts anew. Says whether there were failures before it.
    pub fn succeeded(&mut self) -> bool {
        std::mem::take(&mut self.failures) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_the_cap_and_start_anew_after_a_success() {
        let mut backoff = Backoff::default();
        assert!(!backoff.succeeded());
        let first = backoff.next_delay();
        assert!(first <= DELAY_FIRST && first >= DELAY_FIRST / 2);
        for _ in 0..100 {
            assert!(backoff.next_delay() <= DELAY_MAX);
        }
        assert!(backoff.next_delay() >= DELAY_MAX / 2);
        assert!(backoff.succeeded());
        assert!(backoff.next_delay() <= DELAY_FIRST);
    }
}
