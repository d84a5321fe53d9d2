//! Draws ids on the publisher in every way an application does, and journals each.
//!
//! Several connections insert single rows, many rows, several tables in one transaction, roll back, delete the newest
//! rows, call `nextval` themselves and, if asked to, truncate tables so that their sequences restart. One seed decides
//! what each connection does.

use crate::journal::{Draw, Fate, Journal};
use crate::sql::connect;
use crate::zoo::{Table, Zoo};
use anyhow::{Context as _, Result};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use seqshadow::types::{Lsn, quote_literal};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::{Client, GenericClient};

/// How hard the load is.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// Connections that work at the same time.
    pub connections: usize,
    /// What they do follows from this.
    pub seed: u64,
    /// Rows of one INSERT at most; some thousands make transactions that are streamed before they commit.
    pub rows_max: u32,
    /// Some transactions are prepared first, and committed or rolled back by PREPARE's name.
    pub two_phase: bool,
    /// Now and then a table is truncated and its sequences are restarted ([`Table::restart`]): ids come again.
    pub restarts: bool,
    /// Between two operations of one connection.
    pub pause: Duration,
    /// Connect again when the server goes away, instead of failing.
    pub survive_outages: bool,
}

impl Default for LoadOptions {
    fn default() -> Self {
        LoadOptions {
            connections: 3,
            seed: 1,
            rows_max: 30,
            two_phase: false,
            restarts: false,
            pause: Duration::from_millis(1),
            survive_outages: false,
        }
    }
}

/// A load that is running; it ends when stopped or dropped.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<Result<()>>>,
}

#[derive(Debug)]
struct Shared {
    conninfo: String,
    zoo: Zoo,
    options: LoadOptions,
    stop: AtomicBool,
    drawn: Vec<AtomicU64>,
    journal: Mutex<Journal>,
}

impl Load {
    /// Starts to draw on the server at `conninfo`, where the zoo lives.
    #[must_use]
    pub fn start(conninfo: &str, zoo: &Zoo, options: LoadOptions) -> Load {
        eprintln!("load: seed {}", options.seed);
        let shared = Arc::new(Shared {
            conninfo: conninfo.to_owned(),
            zoo: zoo.clone(),
            options,
            stop: AtomicBool::new(false),
            drawn: zoo.sequences.iter().map(|_| AtomicU64::new(0)).collect(),
            journal: Mutex::default(),
        });
        let worker = |number: usize| {
            let seed = options.seed.wrapping_mul(1_000_003).wrapping_add(number as u64);
            tokio::spawn(Worker { shared: shared.clone(), random: StdRng::seed_from_u64(seed) }.run())
        };
        let workers = (0..options.connections).map(worker).collect();
        Load { shared, workers }
    }

    /// What has been given out so far.
    #[must_use]
    pub fn journal(&self) -> Journal {
        self.shared.journal().clone()
    }

    /// Ends the load and gives its journal.
    ///
    /// # Errors
    /// When a connection failed on the way (and outages were not to be survived).
    pub async fn stop(mut self) -> Result<Journal> {
        self.shared.stop.store(true, Ordering::Relaxed);
        for worker in std::mem::take(&mut self.workers) {
            worker.await??;
        }
        Ok(self.journal())
    }

    /// Lets the load run for `duration`, then as [`stop`](Self::stop).
    ///
    /// # Errors
    /// As [`stop`](Self::stop).
    pub async fn run_for(self, duration: Duration) -> Result<Journal> {
        tokio::time::sleep(duration).await;
        self.stop().await
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
    }
}

impl Shared {
    fn journal(&self) -> MutexGuard<'_, Journal> {
        self.journal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn record(&self, draws: Vec<(usize, Draw)>, fate: Fate) {
        let mut journal = self.journal();
        draws.into_iter().for_each(|(sequence, draw)| journal.record(sequence, draw, fate));
    }

    /// Ids of rows that are not committed yet: the lock on their table keeps the epoch.
    fn in_rows(&self, ids: Vec<(usize, i64)>) -> Vec<(usize, Draw)> {
        let journal = self.journal();
        let draw = |(sequence, id)| (sequence, Draw { id, in_row: true, epoch: journal.epoch(sequence) });
        ids.into_iter().map(draw).collect()
    }

    /// Takes `count` ids off the budget of a sequence, if it still has them.
    fn may_draw(&self, sequence: usize, count: u64) -> bool {
        let (Some(drawn), Some(of)) = (self.drawn.get(sequence), self.zoo.sequences.get(sequence)) else {
            return false;
        };
        drawn.fetch_add(count, Ordering::Relaxed).saturating_add(count) <= of.budget
    }
}

struct Worker {
    shared: Arc<Shared>,
    random: StdRng,
}

impl Worker {
    async fn run(mut self) -> Result<()> {
        let shared = self.shared.clone();
        while !shared.stop.load(Ordering::Relaxed) {
            let error = match connect(&shared.conninfo).await {
                Ok(client) => match self.work(client).await {
                    Ok(()) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if !shared.options.survive_outages {
                return Err(error).context("load on the publisher");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        Ok(())
    }

    /// Works until the load is stopped or the connection is of no more use.
    async fn work(&mut self, mut client: Client) -> Result<()> {
        while !self.shared.stop.load(Ordering::Relaxed) {
            let done = match self.random.random_range(0..100) {
                0..45 => self.transaction(&mut client, 1, 1, true).await,
                45..65 => self.transaction(&mut client, 1, self.shared.options.rows_max, true).await,
                65..75 => self.transaction(&mut client, 4, 5, true).await,
                75..80 if self.shared.options.two_phase => self.prepared(&client).await,
                75..90 => self.transaction(&mut client, 2, 5, false).await,
                90..94 => self.delete(&client).await,
                94..95 if self.shared.options.restarts => self.restart(&mut client).await,
                94..95 => self.delete(&client).await,
                _ => self.call(&client).await,
            };
            match done {
                // A deadlock or the like: the transaction is gone, the connection is not.
                Err(error) if error.as_db_error().is_none() || client.is_closed() => return Err(error.into()),
                _ => tokio::time::sleep(self.shared.options.pause).await,
            }
        }
        Ok(())
    }

    /// Inserts into up to `tables` tables, up to `rows` rows each, then commits or rolls back.
    async fn transaction(
        &mut self,
        client: &mut Client,
        tables: usize,
        rows: u32,
        commit: bool,
    ) -> Result<(), tokio_postgres::Error> {
        let shared = self.shared.clone();
        let mut draws = Vec::new();
        let mut fate = Fate::RolledBack;
        let result = async {
            let transaction = client.transaction().await?;
            for _ in 0..self.random.random_range(1..=tables) {
                let rows = self.random.random_range(1..=rows);
                if let Some(table) = self.pick(rows) {
                    let ids = insert(&transaction, table, rows).await?;
                    draws.extend(shared.in_rows(ids));
                }
            }
            if !commit {
                return transaction.rollback().await;
            }
            fate = Fate::Unknown;
            transaction.commit().await?;
            fate = Fate::Committed(position(client).await?);
            Ok(())
        }
        .await;
        shared.record(draws, fate);
        result
    }

    /// A transaction that is prepared, and decided a little later.
    async fn prepared(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let shared = self.shared.clone();
        let name = quote_literal(&format!("load {:016x}", self.random.random::<u64>()));
        let commit = self.random.random_bool(0.7);
        let mut draws = Vec::new();
        let mut fate = Fate::Unknown;
        let result = async {
            client.batch_execute("BEGIN").await?;
            let inserted = match self.pick(3) {
                Some(table) => insert(client, table, 3).await,
                None => Ok(Vec::new()),
            };
            let Ok(ids) = inserted else {
                fate = Fate::RolledBack;
                return client.batch_execute("ROLLBACK").await;
            };
            draws = shared.in_rows(ids);
            client.batch_execute(&format!("PREPARE TRANSACTION {name}")).await?;
            tokio::time::sleep(shared.options.pause * 10).await;
            let decision = if commit { "COMMIT" } else { "ROLLBACK" };
            client.batch_execute(&format!("{decision} PREPARED {name}")).await?;
            fate = if commit { Fate::Committed(position(client).await?) } else { Fate::RolledBack };
            Ok(())
        }
        .await;
        shared.record(draws, fate);
        result
    }

    async fn delete(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let tables = &self.shared.zoo.tables;
        let Some(table) = tables.get(self.random.random_range(0..tables.len())) else { return Ok(()) };
        client.execute(&table.delete_newest, &[]).await.map(drop)
    }

    /// `nextval` as an application calls it, outside of any insert.
    async fn call(&mut self, client: &Client) -> Result<(), tokio_postgres::Error> {
        let direct = self.shared.zoo.sequences.iter().enumerate().filter(|(_, sequence)| sequence.direct);
        let direct: Vec<_> = direct.collect();
        let (index, sequence) = direct[self.random.random_range(0..direct.len())];
        if !self.shared.may_draw(index, 1) {
            return Ok(());
        }
        let sql = format!("SELECT nextval({})", quote_literal(&sequence.name.to_string()));
        let id = client.query_one(&sql, &[]).await?.get(0);
        let fate = position(client).await.map_or(Fate::Unknown, Fate::Committed);
        let draw = Draw { id, in_row: false, epoch: self.shared.journal().epoch(index) };
        self.shared.record(vec![(index, draw)], fate);
        Ok(())
    }

    /// Empties a table, so that its sequences begin anew, and fills in a few rows in the same transaction or leaves that
    /// to others.
    async fn restart(&mut self, client: &mut Client) -> Result<(), tokio_postgres::Error> {
        let shared = self.shared.clone();
        let may: Vec<&Table> = shared.zoo.tables.iter().filter(|table| table.restart.is_some()).collect();
        let table = may[self.random.random_range(0..may.len())];
        let mut draws = Vec::new();
        let mut fate = Fate::Unknown;
        let result = async {
            let transaction = client.transaction().await?;
            transaction.batch_execute(table.restart.as_deref().unwrap_or_default()).await?;
            let after = position(&transaction).await?;
            table.draws.iter().for_each(|(sequence, _)| shared.journal().restart(*sequence, after));
            if self.random.random_bool(0.5) {
                draws = shared.in_rows(insert(&transaction, table, 3).await?);
            }
            transaction.commit().await?;
            fate = Fate::Committed(position(client).await?);
            Ok(())
        }
        .await;
        shared.record(draws, fate);
        result
    }

    /// A table whose sequences still have `rows` ids.
    fn pick(&mut self, rows: u32) -> Option<&Table> {
        let table = self.random.random_range(0..self.shared.zoo.tables.len());
        let table = self.shared.zoo.tables.get(table)?;
        let may = table.draws.iter().all(|(sequence, _)| self.shared.may_draw(*sequence, u64::from(rows)));
        may.then_some(table)
    }
}

async fn insert(
    client: &impl GenericClient,
    table: &Table,
    rows: u32,
) -> Result<Vec<(usize, i64)>, tokio_postgres::Error> {
    let rows = i32::try_from(rows).unwrap_or(1);
    let mut ids = Vec::new();
    for row in client.query(&table.insert, &[&rows]).await? {
        let drawn = table.draws.iter().enumerate();
        ids.extend(drawn.map(|(column, (sequence, _))| (*sequence, row.get(column))));
    }
    Ok(ids)
}

/// A position that everything this client did is below.
async fn position(client: &impl GenericClient) -> Result<Lsn, tokio_postgres::Error> {
    let text: String = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await?.get(0);
    Ok(text.parse().expect("the server writes positions as positions"))
}
