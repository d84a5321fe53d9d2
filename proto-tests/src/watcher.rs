//! Watches the subscriber's sequences while something else moves them: none may ever step back.

use crate::sequence::{next_of, state_columns};
use crate::sql::{PATIENCE, Probe, connect, wait_until};
use crate::zoo::Zoo;
use anyhow::Result;
use seqshadow::plan::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;

/// A sequence seen at a place behind one where it had been seen before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setback {
    /// The sequence, as SQL names it.
    pub sequence: String,
    /// The next value that it had.
    pub from: i64,
    /// The next value that it then had.
    pub to: i64,
}

/// A watch that is on.
#[derive(Debug)]
pub struct Watcher {
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
    task: JoinHandle<Result<Watched>>,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub struct Watched {
    /// How often all sequences were read.
    pub rounds: u64,
    /// Every step back.
    pub setbacks: Vec<Setback>,
    /// The reads that failed (a locked sequence, a server that was away).
    pub failed_reads: u64,
}

impl Watcher {
    /// Reads every sequence of the zoo, but the cycling ones, as often as the server answers (at most each 2 ms).
    #[must_use]
    pub fn start(conninfo: &str, zoo: &Zoo) -> Watcher {
        let sequences = zoo.sequences.iter().filter(|sequence| !sequence.cycle);
        Self::watch(conninfo, sequences.map(|s| (s.name.to_string(), s.increment)).collect())
    }

    /// Reads one sequence with this increment.
    #[must_use]
    pub fn of(conninfo: &str, sequence: &str, increment: i64) -> Watcher {
        Self::watch(conninfo, vec![(sequence.to_owned(), increment)])
    }

    fn watch(conninfo: &str, sequences: Vec<(String, i64)>) -> Watcher {
        let (stop, rounds) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let task = tokio::spawn(watch(conninfo.to_owned(), sequences, stop.clone(), rounds.clone()));
        Watcher { stop, rounds, task }
    }

    /// Waits until all sequences have been read as they are now.
    ///
    /// # Errors
    /// When they cannot be read.
    pub async fn look(&self) -> Result<()> {
        // The round that goes on may have begun before.
        let wanted = self.rounds.load(Ordering::Relaxed) + 2;
        wait_until("the watcher to look", PATIENCE, async || {
            let rounds = self.rounds.load(Ordering::Relaxed);
            Ok(Probe::when(rounds >= wanted, || format!("{rounds} rounds of {wanted}")))
        })
        .await
    }

    /// Ends the watch.
    ///
    /// # Errors
    /// When it could not go on.
    pub async fn stop(self) -> Result<Watched> {
        self.stop.store(true, Ordering::Relaxed);
        self.task.await?
    }
}

async fn watch(
    conninfo: String,
    sequences: Vec<(String, i64)>,
    stop: Arc<AtomicBool>,
    rounds: Arc<AtomicU64>,
) -> Result<Watched> {
    let select = |(index, (name, _)): (usize, &(String, i64))| {
        format!("SELECT {index}, {} FROM {name}", state_columns(name))
    };
    let sql = sequences.iter().enumerate().map(select).collect::<Vec<_>>().join(" UNION ALL ");
    let mut seen: Vec<Option<i64>> = vec![None; sequences.len()];
    let mut watched = Watched::default();
    let mut client = None;
    while !stop.load(Ordering::Relaxed) {
        tokio::time::sleep(Duration::from_millis(2)).await;
        let connected = match client.take() {
            Some(client) => client,
            None => match connect(&conninfo).await {
                Ok(client) => client,
                Err(_) => {
                    watched.failed_reads += 1;
                    continue;
                }
            },
        };
        let Ok(rows) = connected.query(&sql, &[]).await else {
            watched.failed_reads += 1;
            continue;
        };
        client = Some(connected);
        watched.rounds += 1;
        for row in rows {
            let index = usize::try_from(row.get::<_, i32>(0))?;
            let (name, increment) = &sequences[index];
            let to = next_of(State { last_value: row.get(1), is_called: row.get(2) }, *increment);
            let behind = |from: &i64| (to - from) * increment.signum() < 0;
            if let Some(from) = seen[index].replace(to).filter(behind) {
                watched.setbacks.push(Setback { sequence: name.clone(), from, to });
            }
        }
        rounds.store(watched.rounds, Ordering::Relaxed);
    }
    Ok(watched)
}
