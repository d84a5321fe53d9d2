//! Signs of life, for the service manager's watchdog: fed by the stream task, read by [`crate::cli::run`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How often whoever waits shows that it lives.
pub const BEAT: Duration = Duration::from_secs(1);

/// Whatever is waited for has a limit of its own, for the longest one (to connect to several hosts) minutes. A wait
/// that goes on and on is no sign of life.
const WAIT_MAX: Duration = Duration::from_secs(600);

/// When the stream task last showed that it runs.
#[derive(Debug)]
pub struct Alive {
    born: Instant,
    last_beat_ms: AtomicU64,
}

impl Default for Alive {
    fn default() -> Self {
        Alive { born: Instant::now(), last_beat_ms: AtomicU64::new(0) }
    }
}

impl Alive {
    /// Called by the stream task whenever it gets through its loop.
    pub fn beat(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_beat_ms.store(now, Ordering::Relaxed);
    }

    /// Waits for `work`, and shows meanwhile that we live. For work that has a time limit.
    pub async fn through<T>(&self, work: impl Future<Output = T>) -> T {
        let begun = Instant::now();
        let mut work = std::pin::pin!(work);
        loop {
            if begun.elapsed() < WAIT_MAX {
                self.beat();
            }
            if let Ok(done) = tokio::time::timeout(BEAT, &mut work).await {
                return done;
            }
        }
    }

    /// How long ago the last sign of life was.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_is_a_sign_of_life() {
        let alive = Alive::default();
        alive.through(tokio::time::sleep(BEAT * 4)).await;
        assert!(alive.silent_for() < BEAT * 3, "{:?}", alive.silent_for());
    }
}
