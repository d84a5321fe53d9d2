//! The signals that end a demonstration: the first is answered in order, the second at once.

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use super::screen;

/// Knows whether we were asked to end.
#[derive(Clone, Debug)]
pub struct Interrupt {
    asked: watch::Receiver<Option<i32>>,
}

impl Interrupt {
    /// Listens from now on.
    ///
    /// # Errors
    /// When signals cannot be caught.
    pub fn listen() -> std::io::Result<Self> {
        let (send, asked) = watch::channel(None);
        let kinds =
            [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup(), SignalKind::quit()];
        for kind in kinds {
            let mut signals = signal(kind)?;
            let send = send.clone();
            tokio::spawn(async move {
                while signals.recv().await.is_some() {
                    if send.send_replace(Some(kind.as_raw_value())).is_some() {
                        // The watchdogs of the servers clean up after us.
                        screen::restore();
                        std::process::exit(128 + kind.as_raw_value());
                    }
                }
            });
        }
        Ok(Interrupt { asked })
    }

    /// Waits for the signal, and says which it was. For ever, if none comes.
    pub async fn wait(&mut self) -> i32 {
        match self.asked.wait_for(Option::is_some).await {
            Ok(signal) => signal.unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    /// The signal that came already.
    #[must_use]
    pub fn signal(&self) -> Option<i32> {
        *self.asked.borrow()
    }
}
