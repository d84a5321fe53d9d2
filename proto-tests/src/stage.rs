//! A pair with a table or two of a test's own, and a superuser's connection to each side.

use crate::pair::{Pair, PairOptions};
use crate::sequence::{next_value, wait_past};
use anyhow::Result;
use tokio_postgres::Client;

/// Servers to play on. Its calls fail the test when a server refuses.
#[derive(Debug)]
pub struct Stage {
    pub pair: Pair,
    pub publisher: Client,
    pub subscriber: Client,
}

impl Stage {
    /// `ddl` on both sides, with rights for our role; nothing is replicated yet.
    pub async fn with(publisher: u32, subscriber: u32, ddl: &str) -> Result<Stage> {
        let pair = Pair::new(publisher, subscriber).await?;
        pair.on_both(ddl).await?;
        pair.grant(&["public"]).await?;
        Stage::of(pair).await
    }

    /// `ddl` on both sides, everything replicated.
    pub async fn replicating(publisher: u32, subscriber: u32, ddl: &str) -> Result<Stage> {
        Self::replicating_with(publisher, subscriber, PairOptions::default(), ddl).await
    }

    /// As [`replicating`](Self::replicating), with settings of one's own.
    pub async fn replicating_with(
        publisher: u32,
        subscriber: u32,
        options: PairOptions,
        ddl: &str,
    ) -> Result<Stage> {
        let pair = Pair::with(publisher, subscriber, options).await?;
        pair.replicate(ddl).await?;
        Stage::of(pair).await
    }

    async fn of(pair: Pair) -> Result<Stage> {
        let (publisher, subscriber) = pair.clients().await?;
        Ok(Stage { pair, publisher, subscriber })
    }

    pub async fn on_publisher(&self, sql: &str) {
        self.publisher.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    pub async fn on_subscriber(&self, sql: &str) {
        self.subscriber.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    /// What the subscriber's sequence would give now.
    pub async fn next(&self, sequence: &str) -> i64 {
        next_value(&self.subscriber, sequence).await.unwrap()
    }

    /// Waits until the subscriber's sequence is past `id`.
    pub async fn wait_past(&self, sequence: &str, id: i64) {
        wait_past(&self.subscriber, sequence, id).await.unwrap();
    }
}
