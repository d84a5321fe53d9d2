//! The smallest thing that can break: one table and one sequence, replicated, and `seqshadow` beside them.

use crate::fault_proxy::FaultProxy;
use crate::pair::{Pair, PairOptions, confirmed};
use crate::sequence;
use crate::shadow::{Finished, Shadow};
use crate::sidecar::{self, SLOT};
use crate::sql::{PATIENCE, Probe, wait_until};
use anyhow::Result;
use seqshadow::types::Lsn;
use tokio_postgres::Client;

/// The sequence of the table.
pub const SEQUENCE: &str = "orders_id_seq";

/// A pair with the table `orders (id bigserial, note text)`, published as `pub`, subscribed as `sub`.
#[derive(Debug)]
pub struct Rig {
    /// The servers.
    pub pair: Pair,
}

impl Rig {
    /// Servers of these majors.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn new(publisher: u32, subscriber: u32) -> Result<Rig> {
        Self::with(publisher, subscriber, PairOptions::default()).await
    }

    /// As [`new`](Self::new), with settings of one's own.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn with(publisher: u32, subscriber: u32, options: PairOptions) -> Result<Rig> {
        let pair = Pair::with(publisher, subscriber, options).await?;
        pair.replicate("CREATE TABLE orders (id bigserial PRIMARY KEY, note text)").await?;
        Ok(Rig { pair })
    }

    /// Starts `seqshadow` beside it, see [`sidecar::command`].
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, flags: &[&str]) -> Result<Shadow> {
        sidecar::command(&self.pair, flags).spawn()
    }

    /// Starts it and waits until it protects the sequences and streams.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self, flags: &[&str]) -> Result<Shadow> {
        sidecar::start(&self.pair, flags)
    }

    /// Starts it and waits for the end that it must come to.
    ///
    /// # Errors
    /// When it does not end.
    pub fn run(&self, flags: &[&str]) -> Result<Finished> {
        sidecar::command(&self.pair, flags).run(PATIENCE)
    }

    /// Inserts rows on the publisher and gives the largest id.
    ///
    /// # Errors
    /// When the publisher refuses.
    pub async fn insert(&self, rows: i32) -> Result<i64> {
        insert(&self.pair.on_publisher().await?, rows).await
    }

    /// Waits until the subscriber's next value is past `id`.
    ///
    /// # Errors
    /// When it is not within [`PATIENCE`].
    pub async fn wait_past(&self, id: i64) -> Result<()> {
        wait_until(&format!("the sequence past {id}"), PATIENCE, async || {
            // The subscriber may be away just now.
            let Ok(client) = self.pair.on_subscriber().await else {
                return Ok(Probe::NotYet("away".to_owned()));
            };
            sequence::past(&client, SEQUENCE, id).await
        })
        .await
    }

    /// Inserts rows, waits until the subscriber's next value is past them, and gives the largest id.
    ///
    /// # Errors
    /// Those of [`insert`](Self::insert) and [`wait_past`](Self::wait_past).
    pub async fn follows(&self, rows: i32) -> Result<i64> {
        let id = self.insert(rows).await?;
        self.wait_past(id).await?;
        Ok(id)
    }

    /// A network to the publisher that can fail, and the flag that leads `seqshadow` through it.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub async fn faulty_publisher(&self) -> Result<(FaultProxy, String)> {
        let proxy = FaultProxy::start(self.pair.publisher.port()).await?;
        let flag = format!("--publisher={}", proxy.conninfo(&self.pair.shadow_publisher_conninfo()));
        Ok((proxy, flag))
    }

    /// As [`faulty_publisher`](Self::faulty_publisher), to the subscriber.
    ///
    /// # Errors
    /// When there is no port to listen on.
    pub async fn faulty_subscriber(&self) -> Result<(FaultProxy, String)> {
        let proxy = FaultProxy::start(self.pair.subscriber.port()).await?;
        let flag = format!("--subscriber={}", proxy.conninfo(&self.pair.shadow_subscriber_conninfo()));
        Ok((proxy, flag))
    }

    /// What our slot has confirmed; `None` without a slot.
    ///
    /// # Errors
    /// When the publisher cannot be asked.
    pub async fn confirmed(&self) -> Result<Option<Lsn>> {
        confirmed(&self.pair.on_publisher().await?, SLOT).await
    }

    /// Waits until our slot has confirmed `lsn`.
    ///
    /// # Errors
    /// When it has not within [`PATIENCE`].
    pub async fn wait_confirmed(&self, lsn: Lsn) -> Result<()> {
        let client = self.pair.on_publisher().await?;
        wait_until(&format!("{SLOT} to confirm {lsn}"), PATIENCE, async || {
            let now = confirmed(&client, SLOT).await?;
            Ok(Probe::when(now.is_some_and(|now| now >= lsn), || format!("{now:?}")))
        })
        .await
    }
}

/// Inserts rows and gives the largest id.
///
/// # Errors
/// When the server refuses.
pub async fn insert(publisher: &Client, rows: i32) -> Result<i64> {
    let sql = "WITH new AS (INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, $1::int) RETURNING id) \
               SELECT max(id) FROM new";
    Ok(publisher.query_one(sql, &[&rows]).await?.get(0))
}
