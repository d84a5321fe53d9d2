//! What the tests about advancing share: sequences by name, the advancer on a connection of ours, and applications
//! that draw ids on the subscriber.

use anyhow::{Context as _, Result};
use proto_tests::majors::installation;
use proto_tests::sql::connect;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use seqshadow::catalog::{self, Sequence};
use seqshadow::conninfo::{Conninfo, Environment};
use seqshadow::demo::servers::{Cluster, ClusterOptions};
use seqshadow::plan::State;
use seqshadow::readings::Reading;
use seqshadow::sql::{self, Connection};
use seqshadow::subscriber::advance::{Advancer, Outcome, Step};
use seqshadow::types::Lsn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;

/// One server of `major`, with a role `shadow` that may log in.
pub async fn server(major: u32, options: ClusterOptions) -> Result<Cluster> {
    let cluster =
        tokio::task::spawn_blocking(move || Cluster::start(&installation(major)?, &options).context("start"))
            .await??;
    let admin = connect(&cluster.conninfo("postgres")).await?;
    admin.batch_execute("CREATE ROLE shadow LOGIN; GRANT CREATE ON SCHEMA public TO shadow").await?;
    Ok(cluster)
}

/// A connection as the program opens it.
pub async fn ours(conninfo: &str) -> Result<Connection> {
    let conninfo = Conninfo::parse(conninfo, &Environment::default())?;
    Ok(sql::connect(&conninfo, "subscriber").await?)
}

/// The program's way of moving sequences, on a connection of its own.
pub struct Writer {
    pub connection: Connection,
    pub advancer: Advancer,
}

impl Writer {
    pub async fn new(conninfo: &str) -> Result<Writer> {
        let connection = ours(conninfo).await?;
        let advancer = Advancer::prepare(&connection.client).await?;
        Ok(Writer { connection, advancer })
    }

    pub fn client(&self) -> &Client {
        &self.connection.client
    }

    pub async fn sequences(&self) -> Result<Vec<Sequence>> {
        Ok(catalog::load(self.client()).await?.sequences)
    }

    pub async fn sequence(&self, name: &str) -> Result<Sequence> {
        let all = self.sequences().await?;
        all.into_iter().find(|s| s.name.name == name).with_context(|| format!("a sequence {name}"))
    }

    pub async fn state(&self, sequence: &Sequence) -> Result<State> {
        match self.advancer.reader().read(self.client(), &[sequence]).await?.as_slice() {
            [Reading::State(state)] => Ok(*state),
            other => anyhow::bail!("expected a state of {}, got {other:?}", sequence.name),
        }
    }

    /// One call of the advancer for one sequence.
    pub async fn step(&self, sequence: &Sequence, seen: State, to: i64) -> Result<(Outcome, Lsn)> {
        let done = self.advancer.advance(self.client(), &[Step { sequence, seen, to }]).await?;
        Ok((done.outcomes[0].clone(), done.wal.end))
    }
}

/// The sequences' direction, as a sign.
pub fn sign(sequence: &Sequence) -> i64 {
    sequence.definition.increment.signum()
}

/// Connections of an application that draw ids in bursts.
pub struct Applications {
    stop: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<Result<Vec<i64>>>>,
}

impl Applications {
    /// `count` connections; each draws up to `burst` ids at once and then pauses up to `pause`.
    pub fn start(conninfo: &str, sequence: &str, count: u64, burst: i32, pause: Duration) -> Applications {
        let stop = Arc::new(AtomicBool::new(false));
        let tasks = (0..count)
            .map(|number| {
                let (conninfo, sequence, stop) = (conninfo.to_owned(), sequence.to_owned(), stop.clone());
                tokio::spawn(async move {
                    let mut random = StdRng::seed_from_u64(number);
                    let client = connect(&conninfo).await?;
                    let sql = format!("SELECT nextval('{sequence}') FROM generate_series(1, $1::int)");
                    let statement = client.prepare(&sql).await?;
                    let mut drawn = Vec::new();
                    while !stop.load(Ordering::Relaxed) {
                        let rows = client.query(&statement, &[&random.random_range(1..=burst)]).await?;
                        drawn.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
                        let pause_us = u64::try_from(pause.as_micros()).unwrap_or(0);
                        if pause_us > 0 && random.random_bool(0.5) {
                            tokio::time::sleep(Duration::from_micros(random.random_range(0..pause_us))).await;
                        }
                    }
                    Ok(drawn)
                })
            })
            .collect();
        Applications { stop, tasks }
    }

    /// All ids drawn by all connections.
    pub async fn stop(self) -> Result<Vec<i64>> {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Vec::new();
        for task in self.tasks {
            all.extend(task.await??);
        }
        Ok(all)
    }
}

/// How many of `ids` came more than once.
pub fn duplicates(mut ids: Vec<i64>) -> usize {
    let total = ids.len();
    ids.sort_unstable();
    ids.dedup();
    total - ids.len()
}
