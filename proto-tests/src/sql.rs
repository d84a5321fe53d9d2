//! Connections for tests, waiting for a server to reach a state, and how long things take.

use anyhow::{Context as _, Result, bail};
use std::time::{Duration, Instant};
use tokio_postgres::{Client, NoTls};

/// How long anything that must happen may take: generous, for a slow machine that runs many tests at once.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// A connection whose background task ends with it.
///
/// # Errors
/// When the server refuses.
pub async fn connect(conninfo: &str) -> Result<Client> {
    crate::deadline::watch();
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

/// Waits until `SELECT …` (a boolean) is true on this server.
///
/// # Errors
/// When it is not within [`PATIENCE`].
pub async fn wait_for(conninfo: &str, what: &str, sql: &str) -> Result<()> {
    let client = connect(conninfo).await?;
    wait_until(what, PATIENCE, async || {
        let row = client.query_one(sql, &[]).await?;
        Ok(Probe::when(row.get::<_, Option<bool>>(0).unwrap_or(false), || "false".to_owned()))
    })
    .await
}

/// What `work` gives, and how long it takes.
///
/// # Errors
/// Those of `work`.
pub async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = work.await?;
    Ok((done, begun.elapsed()))
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
