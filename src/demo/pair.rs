//! The two servers with all that a user of seqshadow would have: a schema on both, rows, a publication, a subscription.
//!
//! In: the chosen installations. Out: a running pair, and connections to it. Dropping it removes both servers.

use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::choose::Choice;
use super::servers::{Cluster, ClusterOptions, ServersError};
use super::shop::{self, DATABASE, PUBLICATION, ROLE, SUBSCRIPTION};
use super::{DemoError, Interrupt};
use crate::types::Lsn;

/// How long anything may take that takes moments.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long we wait for servers that are being started when we are asked to end.
const START_PATIENCE: Duration = Duration::from_secs(10);

/// Two running servers; the subscriber is removed first, so that it does not miss the publisher.
#[derive(Debug)]
pub struct Pair {
    pub subscriber: Cluster,
    pub publisher: Cluster,
}

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    Publisher,
    Subscriber,
}

impl Pair {
    /// Starts both. When asked to end meanwhile, it takes care that nothing of them is left.
    ///
    /// # Errors
    /// When one does not start, or we are asked to end.
    pub async fn start(choice: &Choice, interrupt: &mut Interrupt) -> Result<Pair, DemoError> {
        let start = |installation: &_, family| {
            let installation = Clone::clone(installation);
            tokio::task::spawn_blocking(move || {
                Cluster::start(&installation, &ClusterOptions { family, ..ClusterOptions::default() })
            })
        };
        // Servers that replicate to each other never have the same system identifier.
        let (publisher, subscriber) = (start(&choice.publisher, 0), start(&choice.subscriber, 1));
        let both = async { tokio::join!(publisher, subscriber) };
        tokio::pin!(both);
        let (publisher, subscriber) = tokio::select! {
            both = &mut both => both,
            signal = interrupt.wait() => {
                // What is started by then is dropped here; the servers' watchdogs see to the rest.
                let _ = timeout(START_PATIENCE, both).await;
                return Err(DemoError::Interrupted(signal));
            }
        };
        let started = |result: Result<Result<Cluster, ServersError>, tokio::task::JoinError>| match result {
            Ok(cluster) => cluster.map_err(DemoError::from),
            Err(error) => Err(DemoError::Broken(format!("a server was not started: {error}"))),
        };
        let pair = Pair { subscriber: started(subscriber)?, publisher: started(publisher)? };
        for side in [Side::Publisher, Side::Subscriber] {
            pair.connect_to(side, "postgres").await?.run(&format!("CREATE DATABASE {DATABASE}")).await?;
        }
        Ok(pair)
    }

    /// The schema on both sides with the roles' rights, and the first rows on the publisher.
    ///
    /// # Errors
    /// When a server refuses.
    pub async fn fill(&self) -> Result<(), DemoError> {
        for (side, grants) in
            [(Side::Publisher, shop::GRANTS_ON_PUBLISHER), (Side::Subscriber, shop::GRANTS_ON_SUBSCRIBER)]
        {
            let client = self.connect(side).await?;
            client.run(&shop::schema()).await?;
            client.run(grants).await?;
        }
        self.connect(Side::Publisher).await?.run(&shop::seed()).await
    }

    /// Publication and subscription, until all tables are copied and followed.
    ///
    /// # Errors
    /// When a server refuses, or the copy does not end.
    pub async fn replicate(&self) -> Result<(), DemoError> {
        let publisher = self.connect(Side::Publisher).await?;
        let subscriber = self.connect(Side::Subscriber).await?;
        publisher.run(&format!("CREATE PUBLICATION {PUBLICATION} FOR ALL TABLES")).await?;
        let conninfo = crate::types::quote_literal(&self.publisher.conninfo(DATABASE));
        let sql =
            format!("CREATE SUBSCRIPTION {SUBSCRIPTION} CONNECTION {conninfo} PUBLICATION {PUBLICATION}");
        subscriber.run(&sql).await?;
        wait("the subscription's first copy", PATIENCE, async || {
            publisher.nudge().await?;
            let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
            let unready = subscriber.number(sql).await?;
            Ok((unready > 0).then(|| format!("{unready} tables are not copied yet")))
        })
        .await
    }

    /// Waits until `slot` has confirmed everything below `lsn` to the publisher.
    ///
    /// # Errors
    /// When that takes too long.
    pub async fn wait_confirmed(
        &self,
        publisher: &Session,
        slot: &str,
        lsn: Lsn,
        what: &str,
    ) -> Result<(), DemoError> {
        wait(what, PATIENCE, async || {
            publisher.nudge().await?;
            let sql = format!(
                "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = '{slot}'"
            );
            let at = publisher.text(&sql).await?;
            let there = at.parse::<Lsn>().is_ok_and(|at| at >= lsn);
            Ok((!there).then(|| format!("slot {slot} is at {at}, expected {lsn}")))
        })
        .await
    }

    /// A connection to the demonstration's database, as superuser.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn connect(&self, side: Side) -> Result<Session, DemoError> {
        self.connect_to(side, DATABASE).await
    }

    /// How our role reaches the demonstration's database.
    #[must_use]
    pub fn conninfo(&self, side: Side) -> String {
        self.cluster(side).conninfo_as(ROLE, DATABASE)
    }

    fn cluster(&self, side: Side) -> &Cluster {
        match side {
            Side::Publisher => &self.publisher,
            Side::Subscriber => &self.subscriber,
        }
    }

    async fn connect_to(&self, side: Side, dbname: &str) -> Result<Session, DemoError> {
        let side_name = match side {
            Side::Publisher => "publisher",
            Side::Subscriber => "subscriber",
        };
        let conninfo = self.cluster(side).conninfo(dbname);
        let (client, connection) = timeout(PATIENCE, tokio_postgres::connect(&conninfo, NoTls))
            .await
            .map_err(|_| DemoError::Broken(format!("the {side_name} does not answer")))?
            .map_err(|error| DemoError::sql(format!("connecting to the {side_name}"), error))?;
        tokio::spawn(async move {
            let _ = connection.await; // the client's calls say what went wrong
        });
        Ok(Session { client, side: side_name })
    }
}

/// A superuser's connection.
#[derive(Debug)]
pub struct Session {
    pub client: Client,
    side: &'static str,
}

impl Session {
    /// Runs statements that return nothing.
    ///
    /// # Errors
    /// When the server refuses.
    pub async fn run(&self, sql: &str) -> Result<(), DemoError> {
        self.client.batch_execute(sql).await.map_err(|error| DemoError::sql(self.side, error))
    }

    /// The number that `sql` selects.
    ///
    /// # Errors
    /// When the server refuses, or it is none.
    pub async fn number(&self, sql: &str) -> Result<i64, DemoError> {
        let row = self.client.query_one(sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| DemoError::sql(self.side, error))
    }

    /// The text that `sql` selects.
    ///
    /// # Errors
    /// When the server refuses, or it is none.
    pub async fn text(&self, sql: &str) -> Result<String, DemoError> {
        let row = self.client.query_one(sql, &[]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| DemoError::sql(self.side, error))
    }

    /// Writes a little WAL: the slots of an idle publisher move on every ten seconds only.
    async fn nudge(&self) -> Result<(), DemoError> {
        self.run("SELECT pg_logical_emit_message(true, 'seqshadow demo', '')").await
    }
}

/// Asks `probe` until it finds nothing more to wait for; its last word is in the error.
async fn wait<F>(what: &str, patience: Duration, mut probe: F) -> Result<(), DemoError>
where
    F: AsyncFnMut() -> Result<Option<String>, DemoError>,
{
    let deadline = Instant::now() + patience;
    while let Some(state) = probe().await? {
        if Instant::now() > deadline {
            return Err(DemoError::TimedOut { what: what.to_owned(), seconds: patience.as_secs(), state });
        }
        sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}
