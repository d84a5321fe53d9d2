//! Connections for tests, and waiting for a server to reach a state.

use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// A connection whose background task ends with it.
///
/// # Errors
/// When the server refuses.
pub async fn connect(conninfo: &str) -> Result<Client> {
    let connecting = tokio_postgres::connect(conninfo, NoTls);
    let (client, connection) = tokio::time::timeout(Duration::from_secs(30), connecting)
        .await
        .with_context(|| format!("connecting to {conninfo} took longer than 30 s"))?
        .with_context(|| format!("connect to {conninfo}"))?;
    tokio::spawn(async move {
        let _ = connection.await; // the client's calls say what went wrong
    });
    Ok(client)
}

/// Asks `probe` until it answers `Ready`, at most for `patience`; the last `NotYet` is in the error.
///
/// # Errors
/// When it was not ready in time, or as soon as the probe fails.
pub async fn wait_until<F>(what: &str, patience: Duration, mut probe: F) -> Result<()>
where
    F: AsyncFnMut() -> Result<Probe>,
{
    let deadline = Instant::now() + patience;
    loop {
        match probe().await.with_context(|| format!("waiting for {what}"))? {
            Probe::Ready => return Ok(()),
            Probe::NotYet(state) if Instant::now() > deadline => {
                bail!("{what} did not happen within {patience:?}; the last state was: {state}")
            }
            Probe::NotYet(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// What a probe of [`wait_until`] found.
#[derive(Debug)]
pub enum Probe {
    /// It is so.
    Ready,
    /// Not so yet; this is how it is.
    NotYet(String),
}

impl Probe {
    /// `Ready` if `condition`, else the state that `describe` tells.
    pub fn when(condition: bool, describe: impl FnOnce() -> String) -> Probe {
        if condition { Probe::Ready } else { Probe::NotYet(describe()) }
    }
}
