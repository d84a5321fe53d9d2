//! Ids that lie in the subscriber's own tables: copied by the initial synchronization, or inserted before our slot.
//!
//! In: the managed sequences. Out: the furthest id per sequence. Read in a task and on a connection of its own, so that
//! a slow index delays no advance; when a relation has just been copied, at every reconnect, and every minute.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_postgres::Client;
use tracing::{debug, warn};

use super::managed::Managed;
use super::within;
use crate::catalog::{Consumer, Readable};
use crate::config::Outliers;
use crate::conninfo::Conninfo;
use crate::pgoutput::IdFormat;
use crate::sql::{self, SqlError};
use crate::tables::{self, Question};
use crate::types::Oid;

/// A reading that takes longer is given up, for no other begins before its end.
const READING_TIMEOUT: Duration = Duration::from_secs(60);

/// What one reading found.
pub type Found = Vec<InOwnTable>;

/// The furthest ids of one sequence in one table.
#[derive(Clone, Copy, Debug)]
pub struct InOwnTable {
    pub oid: Oid,
    /// [`Managed::own_era`] when the table was asked.
    pub era: u64,
    pub within: Option<i64>,
    pub beyond: Option<i64>,
}

/// Asks, one reading at a time.
#[derive(Debug)]
pub struct OwnTables {
    conninfo: Conninfo,
    sender: mpsc::Sender<Found>,
    receiver: mpsc::Receiver<Found>,
    running: bool,
    /// Somebody asked while a reading was under way: it may have looked too early.
    again: bool,
    ready_relations: Option<i64>,
    /// Some relation's initial copy is not at its end.
    copying: bool,
}

impl OwnTables {
    #[must_use]
    pub fn new(conninfo: Conninfo) -> Self {
        let (sender, receiver) = mpsc::channel(1);
        OwnTables {
            conninfo,
            sender,
            receiver,
            running: false,
            again: false,
            ready_relations: None,
            copying: false,
        }
    }

    /// Begins a reading of every table that is cheap to read.
    pub fn read(&mut self, managed: &[Managed], outliers: Outliers) {
        if self.running {
            self.again = true;
            return;
        }
        self.running = true;
        let plan: Vec<_> = managed
            .iter()
            .filter(|m| m.excluded.is_none() && !m.cycles())
            .map(|m| (m.oid(), m.own_era(), m.sequence.consumers.clone(), m.descending(), m.limit(outliers)))
            .collect();
        let (sender, conninfo) = (self.sender.clone(), self.conninfo.clone());
        let reading = async move {
            let mut questions = Vec::new();
            for (key, (_, _, consumers, descending, limit)) in plan.iter().enumerate() {
                // A column whose default is `nextval(…) * 10` is an integer too, and holds no ids.
                let holds_ids = |c: &&Consumer| matches!(c.readable, Readable::Yes(IdFormat::Integer));
                for consumer in consumers.iter().filter(holds_ids).filter(|c| tables::is_cheap(c)) {
                    questions.push(Question { key, consumer, descending: *descending, limit: *limit });
                }
            }
            match ask(&conninfo, &questions).await {
                Ok(answers) => answers
                    .into_iter()
                    .filter_map(|tables::Answer { key, within, beyond }| {
                        plan.get(key).map(|&(oid, era, ..)| InOwnTable { oid, era, within, beyond })
                    })
                    .collect(),
                Err(error) => {
                    debug!(%error, "the subscriber's tables could not be read now");
                    Vec::new()
                }
            }
        };
        tokio::spawn(async move {
            let found = at_any_rate(READING_TIMEOUT, reading).await;
            let _ = sender.send(found).await;
        });
    }

    /// What the last reading found.
    pub async fn found(&mut self) -> Found {
        match self.receiver.recv().await {
            Some(found) => {
                self.running = false;
                found
            }
            // Cannot happen: we hold a sender ourselves.
            None => std::future::pending().await,
        }
    }

    /// Reads again if asked to while the last reading was under way.
    pub fn read_again_if_asked(&mut self, managed: &[Managed], outliers: Outliers) {
        if std::mem::take(&mut self.again) {
            self.read(managed, outliers);
        }
    }

    /// Whether an initial copy is under way: then it is worth looking often.
    #[must_use]
    pub fn is_copying(&self) -> bool {
        self.copying
    }

    /// A relation whose initial copy has ended holds ids that no stream showed.
    pub async fn look_for_copied_tables(
        &mut self,
        client: &Client,
        managed: &[Managed],
        outliers: Outliers,
    ) -> Result<(), SqlError> {
        let sql = "SELECT count(*) FILTER (WHERE srsubstate = 'r'), count(*) FILTER (WHERE srsubstate <> 'r')
                     FROM pg_subscription_rel";
        let row = within(client.query_one(sql, &[])).await?;
        let (ready, unready): (i64, i64) = (row.try_get(0)?, row.try_get(1)?);
        self.copying = unready > 0;
        if self.ready_relations.replace(ready).is_some_and(|known| known != ready) {
            self.read(managed, outliers);
        }
        Ok(())
    }
}

/// The outcome of `reading`, or nothing: where it takes longer than `after`, or panics.
async fn at_any_rate(after: Duration, reading: impl Future<Output = Found> + Send + 'static) -> Found {
    let mut task = tokio::spawn(reading);
    match timeout(after, &mut task).await {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            warn!(%error, "reading the subscriber's tables failed; it is tried again");
            Found::new()
        }
        Err(_) => {
            task.abort();
            debug!(?after, "the subscriber's tables could not be read in time");
            Found::new()
        }
    }
}

async fn ask(conninfo: &Conninfo, questions: &[Question<'_>]) -> Result<Vec<tables::Answer>, SqlError> {
    if questions.is_empty() {
        return Ok(Vec::new());
    }
    let connection = sql::connect(conninfo, "subscriber").await?;
    let (answers, _refused) = tables::furthest(&connection.client, questions).await?;
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_reading_ends_also_if_it_hangs_or_panics() {
        let hanging = at_any_rate(Duration::from_millis(10), std::future::pending());
        assert!(hanging.await.is_empty());
        let panicking = at_any_rate(READING_TIMEOUT, async { panic!("for the test") });
        assert!(panicking.await.is_empty());
    }
}
