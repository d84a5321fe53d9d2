//! Watches the subscriber's sequences while something else moves them: none may ever step back.

use crate::sequence::next_of;
use crate::sql::connect;
use crate::zoo::Zoo;
use anyhow::Result;
use seqshadow::plan::State;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
        let stop = Arc::new(AtomicBool::new(false));
        let task = tokio::spawn(watch(conninfo.to_owned(), zoo.clone(), stop.clone()));
        Watcher { stop, task }
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

async fn watch(conninfo: String, zoo: Zoo, stop: Arc<AtomicBool>) -> Result<Watched> {
    let watched_ones = (0..zoo.sequences.len()).filter(|index| !zoo.sequences[*index].cycle);
    let sql = zoo.states_sql(watched_ones);
    let mut seen: Vec<Option<i64>> = vec![None; zoo.sequences.len()];
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
            let sequence = &zoo.sequences[index];
            let state = State { last_value: row.get(1), is_called: row.get(2) };
            let to = next_of(state, sequence.increment);
            if let Some(from) = seen[index].replace(to).filter(|from| sequence.further(*from, to)) {
                watched.setbacks.push(Setback { sequence: sequence.name.to_string(), from, to });
            }
        }
    }
    Ok(watched)
}
