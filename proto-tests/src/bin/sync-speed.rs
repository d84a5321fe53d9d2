//! How long `seqshadow sync` takes for many sequences, beside PostgreSQL 19's own REFRESH SEQUENCES on the same servers.
//!
//!     cargo build --release && cargo run --release -p proto-tests --bin sync-speed -- [SEQUENCES [ROUNDS]]
//!
//! Both begin with every sequence of the subscriber 1000 short of the publisher's, and end when none is.

use anyhow::{Context as _, Result, ensure};
use proto_tests::pair::Pair;
use std::process::Command;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

#[tokio::main]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<i64>().context("expected a number"));
    let sequences = arguments.next().transpose()?.unwrap_or(10_000);
    let rounds = arguments.next().transpose()?.unwrap_or(5);
    let program = std::env::current_exe()?.with_file_name("seqshadow");
    ensure!(program.exists(), "{} is not built: cargo build --release", program.display());

    let pair = Pair::new(19, 19).await?;
    let (publisher, subscriber) = pair.clients().await?;
    for client in [&publisher, &subscriber] {
        for from in (1..=sequences).step_by(1000) {
            let to = sequences.min(from + 999);
            let sql = format!(
                "DO $$ BEGIN FOR i IN {from}..{to} LOOP EXECUTE format('CREATE SEQUENCE s%s', i); END LOOP; END $$"
            );
            client.batch_execute(&sql).await?;
        }
    }
    pair.grant(&["public"]).await?;
    publisher.batch_execute("CREATE PUBLICATION everything FOR ALL SEQUENCES").await?;
    let connection = seqshadow::types::quote_literal(&pair.publisher_conninfo());
    let subscribe = format!("CREATE SUBSCRIPTION sub CONNECTION {connection} PUBLICATION everything");
    subscriber.batch_execute(&subscribe).await?;
    synced_natively(&subscriber).await?;

    let (mut native, mut ours) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        move_on(&publisher, sequences).await?;
        let begun = Instant::now();
        subscriber.batch_execute("ALTER SUBSCRIPTION sub REFRESH SEQUENCES").await?;
        synced_natively(&subscriber).await?;
        native.push(begun.elapsed());
        are_equal(&publisher, &subscriber).await?;

        move_on(&publisher, sequences).await?;
        let begun = Instant::now();
        let status = Command::new(&program)
            .args(["sync", "--lead=0", "--publisher", &pair.shadow_publisher_conninfo()])
            .args(["--subscriber", &pair.shadow_subscriber_conninfo()])
            .status()?;
        ours.push(begun.elapsed());
        ensure!(status.success(), "sync ended with {status}");
        are_equal(&publisher, &subscriber).await?;
    }
    native.sort();
    ours.sort();
    let middle = |times: &[Duration]| times.get(times.len() / 2).copied().unwrap_or_default().as_secs_f64();
    let (native, ours) = (middle(&native), middle(&ours));
    println!("{sequences} sequences, the middle one of {rounds} rounds");
    println!("  REFRESH SEQUENCES of PostgreSQL 19  {native:7.3} s");
    println!("  seqshadow sync                      {ours:7.3} s");
    println!("  ratio                               {:7.3}", ours / native);
    Ok(())
}

async fn move_on(publisher: &Client, sequences: i64) -> Result<()> {
    for from in (1..=sequences).step_by(500) {
        let to = sequences.min(from + 499);
        let sql = format!(
            "SELECT setval(('s' || i)::regclass, coalesce(pg_sequence_last_value(('s' || i)::regclass), 0) + 1000)
               FROM generate_series({from}, {to}) AS i"
        );
        publisher.batch_execute(&sql).await?;
    }
    Ok(())
}

async fn synced_natively(subscriber: &Client) -> Result<()> {
    let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate <> 'r'";
    loop {
        let open: i64 = subscriber.query_one(sql, &[]).await?.get(0);
        if open == 0 {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn are_equal(publisher: &Client, subscriber: &Client) -> Result<()> {
    let sum = async |client: &Client| -> Result<String> {
        let sql =
            "SELECT sum(pg_sequence_last_value(c.oid)::numeric)::text FROM pg_class c WHERE relkind = 'S'";
        Ok(client.query_one(sql, &[]).await?.get(0))
    };
    let (there, here) = (sum(publisher).await?, sum(subscriber).await?);
    ensure!(there == here, "the sums differ: {there} on the publisher, {here} on the subscriber");
    Ok(())
}
