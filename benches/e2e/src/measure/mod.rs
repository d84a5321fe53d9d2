//! The measurements, each with servers of its own.

pub mod delay;
pub mod drain;
pub mod many;
pub mod memory;
pub mod sync;

use anyhow::{Context as _, Result};
use proto_tests::pair::{DATABASE, Pair};
use seqshadow::demo::servers::{ClusterOptions, find};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio_postgres::Client;

/// How long any single step may take.
pub const LIMIT: Duration = Duration::from_secs(300);

/// How much is measured.
#[derive(Clone, Debug)]
pub struct Size {
    pub rounds: usize,
    pub backlog_rows: u32,
    pub backlog_commits: u32,
    pub samples: usize,
    /// Transactions per second of the load; 0 is as many as it can.
    pub rates: Vec<u32>,
    pub load_seconds: u32,
    pub transaction_megabytes: u32,
    /// Numbers of sequences, ascending.
    pub sequences: Vec<u32>,
    pub advances: Vec<u32>,
    /// Over how long the looks at all sequences are measured: three at the usual interval.
    pub looks: Duration,
}

impl Default for Size {
    fn default() -> Self {
        Size {
            rounds: 3,
            backlog_rows: 2_000_000,
            backlog_commits: 200_000,
            samples: 100_000,
            rates: vec![100, 1000, 5000, 0],
            load_seconds: 10,
            transaction_megabytes: 10_240,
            sequences: vec![10, 1000, 10_000, 100_000],
            advances: vec![1, 10, 100, 1000],
            looks: Duration::from_secs(30),
        }
    }
}

impl Size {
    /// Everything once, in little.
    pub fn short() -> Self {
        Size {
            rounds: 1,
            backlog_rows: 20_000,
            backlog_commits: 2_000,
            samples: 500,
            rates: vec![100, 0],
            load_seconds: 2,
            transaction_megabytes: 100,
            sequences: vec![10, 1000],
            advances: vec![1, 10, 100],
            looks: Duration::from_secs(3),
        }
    }
}

/// Settings of a server that is measured: as on a machine that is used, only without waiting for its disk.
pub fn server() -> ClusterOptions {
    ClusterOptions::default()
        .set("shared_buffers", "256MB")
        .set("max_wal_size", "8GB")
        .set("checkpoint_timeout", "1h")
        .set("wal_sender_timeout", "0")
        .set("autovacuum", "off")
}

/// A program of PostgreSQL that the packages with servers only do not have.
pub fn program(name: &str) -> Result<PathBuf> {
    find::find_all(&[])
        .iter()
        .rev()
        .find_map(|installation| installation.program(name))
        .with_context(|| format!("{name} is not here: install the package postgresql-15"))
}

/// pgbench with a script of one transaction, on the pair's publisher.
pub fn pgbench(pair: &Pair, script: &std::path::Path, flags: &[&str]) -> Result<Child> {
    Command::new(program("pgbench")?)
        .args(["--no-vacuum", "--protocol=prepared", "--username=postgres", "--host=127.0.0.1"])
        .arg(format!("--port={}", pair.publisher.port()))
        .arg(format!("--file={}", script.display()))
        .args(flags)
        .arg(DATABASE)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("start pgbench")
}

/// One value of one row.
pub async fn value<T: for<'a> tokio_postgres::types::FromSql<'a>>(client: &Client, sql: &str) -> Result<T> {
    let row = client.query_one(sql, &[]).await.with_context(|| sql.to_owned())?;
    row.try_get(0).with_context(|| sql.to_owned())
}
