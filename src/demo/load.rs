//! The load: rows into all tables of the publisher, at a steady rate, until it is stopped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_postgres::Client;

use super::DemoError;
use super::shop::TABLES;

/// How often rows are inserted: at low rates one or none per table and tick, at high ones many.
const TICK: Duration = Duration::from_millis(20);

/// Rows that one statement inserts at most; a load that is late makes up for it over several ticks.
const ROWS_MAX: f64 = 20_000.0;

/// A load at work.
#[derive(Debug)]
pub struct Load {
    rows: Arc<AtomicU64>,
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), tokio_postgres::Error>>,
}

impl Load {
    /// Starts to insert `rate` rows each second over all tables.
    #[must_use]
    pub fn start(client: Client, rate: u32) -> Self {
        let rows = Arc::new(AtomicU64::new(0));
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(insert(client, rate, rows.clone(), stopped));
        Load { rows, stop, task }
    }

    /// Rows inserted so far.
    #[must_use]
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Whether it ended by itself, which it does on an error only.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops it; says how many rows were committed.
    ///
    /// # Errors
    /// What the publisher refused.
    pub async fn stop(self) -> Result<u64, DemoError> {
        self.stop.send_replace(true);
        match self.task.await {
            Ok(Ok(())) => Ok(self.rows.load(Ordering::Relaxed)),
            Ok(Err(error)) => Err(DemoError::sql("the load on the publisher", error)),
            Err(error) => Err(DemoError::Broken(format!("the load failed: {error}"))),
        }
    }
}

async fn insert(
    client: Client,
    rate: u32,
    rows: Arc<AtomicU64>,
    stopped: watch::Receiver<bool>,
) -> Result<(), tokio_postgres::Error> {
    let mut statements = Vec::new();
    for table in TABLES {
        statements.push(client.prepare(&table.insert_many()).await?);
    }
    let weights = f64::from(TABLES.iter().map(|table| table.weight).sum::<u32>());
    let mut owed = [0.0_f64; TABLES.len()];
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut last = Instant::now();
    while !*stopped.borrow() {
        ticks.tick().await;
        let now = Instant::now();
        let due = f64::from(rate) * (now - last).as_secs_f64() / weights;
        last = now;
        for ((table, statement), owed) in TABLES.iter().zip(&statements).zip(&mut owed) {
            *owed += due * f64::from(table.weight);
            let many = owed.min(ROWS_MAX).floor();
            if many >= 1.0 {
                *owed -= many;
                #[allow(clippy::cast_possible_truncation)] // at most ROWS_MAX
                let inserted = client.execute(statement, &[&(many as i32)]).await?;
                rows.fetch_add(inserted, Ordering::Relaxed);
            }
        }
    }
    Ok(())
}
