//! Takes in clients, so many at a time, on a thread of its own: whatever they do, the pipeline does not wait for them.

use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, oneshot};
use tokio::time::{MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use super::pace::{self, Pace};
use super::place::{Place, PlaceError};
use super::session;
use super::view::View;

/// How many clients at a time.
pub(super) const CLIENTS_MAX: usize = 16;

/// After a failed accept (no file descriptor left) so long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum ConsoleError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error("its thread cannot start: {0}")]
    Thread(std::io::Error),
}

/// An open console. It ends, and its socket is removed, when this is dropped.
#[derive(Debug)]
pub struct Console {
    place: Place,
    /// Its end is the thread's.
    _stop: oneshot::Sender<()>,
}

impl Console {
    /// Listens in `directory` and answers from `view`.
    ///
    /// # Errors
    /// Why that cannot be; nothing of anybody else's was touched.
    pub fn open(view: View, directory: &Path) -> Result<Console, ConsoleError> {
        let (place, listener) = Place::take(directory, rustix::process::geteuid().as_raw())?;
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(ConsoleError::Thread)?;
        let thread = std::thread::Builder::new().name("console".to_owned());
        let work = move || runtime.block_on(serve(listener, view, stopped));
        thread.spawn(work).map_err(ConsoleError::Thread)?;
        Ok(Console { place, _stop: stop })
    }

    /// Where it listens, for `psql -h`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.place.directory()
    }
}

async fn serve(listener: StdListener, view: View, mut stopped: oneshot::Receiver<()>) {
    let listener = match UnixListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return warn!(%error, "the console cannot listen"),
    };
    let pace = Pace::default();
    let clients = Arc::new(Semaphore::new(CLIENTS_MAX));
    let mut tick = interval(pace::INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            // Told, or the daemon is gone.
            _ = &mut stopped => return,
            _ = tick.tick() => {
                let wal_end = view.progress.borrow().wal_end;
                let rows = view.registry.totals.rows.load(Ordering::Relaxed);
                pace.sample(wal_end, view.registry.confirmed(), rows);
            }
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => match clients.clone().try_acquire_owned() {
                    Ok(permit) => {
                        let (view, pace) = (view.clone(), pace.clone());
                        tokio::spawn(async move {
                            session::run(stream, view, pace).await;
                            drop(permit);
                        });
                    }
                    Err(_) => refuse(&stream),
                },
                Err(error) => {
                    debug!(%error, "the console could not take in a client");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Says why, if the socket takes it at once.
fn refuse(stream: &UnixStream) {
    let _ = stream.try_write(&session::too_many());
}
