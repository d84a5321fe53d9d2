//! Signs of life, for the service manager's watchdog: fed by the stream task, read by [`crate::cli::run`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

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

    /// How long ago the last sign of life was.
    #[must_use]
    pub fn silent_for(&self) -> Duration {
        let last = Duration::from_millis(self.last_beat_ms.load(Ordering::Relaxed));
        self.born.elapsed().saturating_sub(last)
    }
}
