//! The smallest thing that can break: one table, one sequence, and `seqshadow` beside it, as roles with few rights.

use crate::pair::{Pair, PairOptions};
use crate::shadow::{Finished, Shadow, ShadowCommand};
use crate::sql::{Probe, connect, wait_until};
use anyhow::Result;
use seqshadow::types::Lsn;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

/// The slot of seqshadow.
pub const SLOT: &str = "ours";
/// How long anything that must happen may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(60);

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
        pair.on_both("CREATE TABLE orders (id bigserial PRIMARY KEY, note text)").await?;
        pair.replicate_all().await?;
        pair.grant(&["public"]).await?;
        Ok(Rig { pair })
    }

    /// `seqshadow` for these servers, with more arguments (`--flag=value`), which replace the usual ones.
    #[must_use]
    pub fn command(&self, more: &[&str]) -> ShadowCommand {
        let (publisher, subscriber) =
            (self.pair.shadow_publisher_conninfo(), self.pair.shadow_subscriber_conninfo());
        let usual = [
            ("--slot", SLOT),
            ("--publisher", &publisher),
            ("--subscriber", &subscriber),
            ("--poll-interval", "500ms"),
            ("--status-interval", "1s"),
        ];
        let given = |flag: &str| more.iter().any(|arg| arg.split('=').next() == Some(flag));
        let mut args: Vec<String> = usual
            .iter()
            .filter(|(flag, _)| !given(flag))
            .map(|(flag, value)| format!("{flag}={value}"))
            .collect();
        args.extend(more.iter().map(|arg| (*arg).to_owned()));
        ShadowCommand::new(args)
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, more: &[&str]) -> Result<Shadow> {
        self.command(more).spawn()
    }

    /// Starts it and waits until it protects the sequences and streams.
    ///
    /// # Errors
    /// When it does not.
    pub fn start(&self, more: &[&str]) -> Result<Shadow> {
        let shadow = self.spawn(more)?;
        shadow.wait_for_line("the sequences are protected", PATIENCE)?;
        shadow.wait_for_line("streaming slot=", PATIENCE)?;
        Ok(shadow)
    }

    /// Starts it and waits for the end that it must come to.
    ///
    /// # Errors
    /// When it does not end.
    pub fn run(&self, more: &[&str]) -> Result<Finished> {
        self.command(more).run(PATIENCE)
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
            let next = next_value(&client).await?;
            Ok(Probe::when(next > id, || format!("the next value is {next}")))
        })
        .await
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

/// What `nextval` would give, without calling it.
///
/// # Errors
/// When the server cannot be asked.
pub async fn next_value(client: &Client) -> Result<i64> {
    let sql = "SELECT last_value + is_called::int FROM orders_id_seq";
    Ok(client.query_one(sql, &[]).await?.get(0))
}

/// The confirmed position of a slot.
///
/// # Errors
/// When the server cannot be asked.
pub async fn confirmed(publisher: &Client, slot: &str) -> Result<Option<Lsn>> {
    let sql = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
    let Some(row) = publisher.query_opt(sql, &[&slot]).await? else { return Ok(None) };
    Ok(row.get::<_, Option<String>>(0).and_then(|text| text.parse().ok()))
}

/// Waits for a value of `SELECT …` (a boolean) on this server.
///
/// # Errors
/// When it is not true within [`PATIENCE`].
pub async fn wait_for(conninfo: &str, what: &str, sql: &str) -> Result<()> {
    let client = connect(conninfo).await?;
    wait_until(what, PATIENCE, async || {
        let row = client.query_one(sql, &[]).await?;
        Ok(Probe::when(row.get::<_, Option<bool>>(0).unwrap_or(false), || "false".to_owned()))
    })
    .await
}

/// How long `work` takes.
///
/// # Errors
/// Those of `work`.
pub async fn timed<T>(work: impl Future<Output = Result<T>>) -> Result<(T, Duration)> {
    let begun = Instant::now();
    let done = work.await?;
    Ok((done, begun.elapsed()))
}
