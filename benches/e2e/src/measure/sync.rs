//! `seqshadow sync` beside REFRESH SEQUENCES of PostgreSQL 19, over the number of sequences; and what an advance of the
//! daemon costs over the number of sequences that it moves at once.

use anyhow::{Result, ensure};
use proto_tests::binary::binary;
use proto_tests::pair::{Pair, PairOptions};
use proto_tests::shadow::ShadowCommand;
use proto_tests::sql::{PATIENCE, connect};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tokio_postgres::Client;

use super::{LIMIT, Size, server, value};
use crate::report::Report;
use crate::statistics::middle;
use seqshadow_benches::chart::{Chart, Series};

const MAJOR: u32 = 19;
/// How many ids the publisher is ahead each time.
const AHEAD: u32 = 1000;
/// The number of sequences that the goal is for.
const JUDGED: u32 = 10_000;

pub async fn run(size: &Size, report: &mut Report) -> Result<()> {
    beside_native(size, report).await?;
    advances(size, report).await
}

async fn beside_native(size: &Size, report: &mut Report) -> Result<()> {
    let section = "sync of n sequences, each 1000 behind";
    // REFRESH PUBLICATION and REFRESH SEQUENCES take a lock for each sequence, all in one transaction.
    let server = || server().set("max_locks_per_transaction", "2048");
    let pair = Pair::with(MAJOR, MAJOR, PairOptions { publisher: server(), subscriber: server() }).await?;
    let (publisher, subscriber) = pair.clients().await?;
    publisher.batch_execute("CREATE PUBLICATION everything FOR ALL SEQUENCES").await?;
    let connection = seqshadow::types::quote_literal(&pair.publisher_conninfo());
    let subscribe = format!("CREATE SUBSCRIPTION sub CONNECTION {connection} PUBLICATION everything");
    subscriber.batch_execute(&subscribe).await?;
    let (mut there, mut native_points, mut our_points) = (0, Vec::new(), Vec::new());
    for n in &size.sequences {
        eprintln!("sync: making {n} sequences");
        for client in [&publisher, &subscriber] {
            create(client, there + 1, *n).await?;
        }
        there = *n;
        pair.grant(&["public"]).await?;
        subscriber.batch_execute("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await?;
        synced_natively(&subscriber, *n).await?;
        let rounds = if *n > 10_000 { 1 } else { size.rounds };
        let (mut native, mut ours, mut owner, mut bare) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for _ in 0..rounds {
            move_on(&publisher, *n).await?;
            bare.push(only_what_must_be_asked(&pair).await?);
            are_equal(&publisher, &subscriber, *n).await?;
            move_on(&publisher, *n).await?;
            let begun = Instant::now();
            subscriber.batch_execute("ALTER SUBSCRIPTION sub REFRESH SEQUENCES").await?;
            synced_natively(&subscriber, *n).await?;
            native.push(begun.elapsed().as_secs_f64());
            are_equal(&publisher, &subscriber, *n).await?;
            for (role, times) in [
                (pair.shadow_subscriber_conninfo(), &mut ours),
                // REFRESH SEQUENCES works as the owner, and an owner may lock.
                (pair.subscriber_conninfo(), &mut owner),
            ] {
                move_on(&publisher, *n).await?;
                let begun = Instant::now();
                let output = Command::new(binary())
                    .args(["sync", "--lead=0", "--publisher", &pair.shadow_publisher_conninfo()])
                    .args(["--subscriber", &role])
                    .stdin(Stdio::null())
                    .output()?;
                times.push(begun.elapsed().as_secs_f64());
                ensure!(output.status.success(), "sync: {}", String::from_utf8_lossy(&output.stderr));
                are_equal(&publisher, &subscriber, *n).await?;
            }
        }
        let (native, ours, owner, bare) = (middle(native), middle(ours), middle(owner), middle(bare));
        report.note(section, format!("{n}: REFRESH SEQUENCES"), format!("{native:.2} s"), native);
        let figure = format!("{bare:.2} s = {:.2} ×", bare / native);
        report.note(section, format!("{n}: one look at both, one setval"), figure, bare / native);
        for (what, took) in [("with UPDATE only", ours), ("as the owner", owner)] {
            let ratio = took / native;
            let figure = format!("{took:.2} s = {ratio:.2} ×");
            let what = format!("{n}: seqshadow sync {what}");
            if *n == JUDGED {
                report.at_most(section, what, 0.5, " ×", ratio, figure);
            } else {
                report.note(section, what, figure, ratio);
            }
        }
        native_points.push((f64::from(*n), native));
        our_points.push((f64::from(*n), owner));
    }
    let series = vec![
        Series { name: "REFRESH SEQUENCES of 19".to_owned(), points: native_points },
        Series { name: "seqshadow sync".to_owned(), points: our_points },
    ];
    let chart = Chart::lines("sync of all sequences", "sequences", "seconds", series);
    report.chart(chart.over_powers_of_ten());
    Ok(())
}

/// The least that any client has to ask of the two servers, with nothing proven before or after: new sessions, all
/// sequences read once on both at the same time, all set.
async fn only_what_must_be_asked(pair: &Pair) -> Result<f64> {
    let begun = Instant::now();
    let publisher = connect(&pair.publisher_conninfo()).await?;
    let subscriber = connect(&pair.subscriber_conninfo()).await?;
    let read = "SELECT oid, pg_sequence_last_value(oid) FROM pg_class WHERE relkind = 'S'";
    let (there, here) = tokio::join!(publisher.query(read, &[]), subscriber.query(read, &[]));
    ensure!(there?.len() == here?.len(), "both have the same sequences");
    let set = format!(
        "SELECT count(setval(oid::regclass, coalesce(pg_sequence_last_value(oid), 0) + {AHEAD})) FROM pg_class WHERE relkind = 'S'"
    );
    subscriber.query(&set, &[]).await?;
    Ok(begun.elapsed().as_secs_f64())
}

async fn create(client: &Client, from: u32, to: u32) -> Result<()> {
    let mut first = from;
    while first <= to {
        let last = to.min(first + 999);
        let sql = format!(
            "DO $$ BEGIN FOR i IN {first}..{last} LOOP EXECUTE format('CREATE SEQUENCE s%s', i); END LOOP; END $$"
        );
        client.batch_execute(&sql).await?;
        first = last + 1;
    }
    Ok(())
}

async fn move_on(publisher: &Client, sequences: u32) -> Result<()> {
    let mut first = 1;
    while first <= sequences {
        let last = sequences.min(first + 499);
        let sql = format!(
            "SELECT setval(('s' || i)::regclass, coalesce(pg_sequence_last_value(('s' || i)::regclass), 0) + {AHEAD})
               FROM generate_series({first}, {last}) AS i"
        );
        publisher.batch_execute(&sql).await?;
        first = last + 1;
    }
    Ok(())
}

async fn synced_natively(subscriber: &Client, sequences: u32) -> Result<()> {
    let begun = Instant::now();
    let sql = "SELECT count(*) FROM pg_subscription_rel WHERE srsubstate = 'r'";
    while value::<i64>(subscriber, sql).await? < i64::from(sequences) {
        ensure!(begun.elapsed() < LIMIT, "REFRESH SEQUENCES does not end");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

async fn are_equal(publisher: &Client, subscriber: &Client, sequences: u32) -> Result<()> {
    let sql = "SELECT coalesce(sum(pg_sequence_last_value(oid)), 0)::text FROM pg_class
                WHERE relkind = 'S' AND relname ~ '^s[0-9]+$'";
    let (there, here) = (value::<String>(publisher, sql).await?, value::<String>(subscriber, sql).await?);
    ensure!(there == here, "{sequences} sequences: the sum is {there} there and {here} here");
    Ok(())
}

/// One transaction on the publisher takes an id of each of n sequences; the daemon without a lead has to move them all.
async fn advances(size: &Size, report: &mut Report) -> Result<()> {
    let section = "one batch of n advances, --lead=0";
    let pair = Pair::with(17, 17, PairOptions { publisher: server(), subscriber: server() }).await?;
    for n in &size.advances {
        let columns: Vec<String> = (0..*n).map(|column| format!("c{column} bigserial")).collect();
        pair.on_both(&format!("CREATE TABLE t{n} ({})", columns.join(", "))).await?;
    }
    pair.grant(&["public"]).await?;
    let (publisher, subscriber) = pair.clients().await?;
    publisher.batch_execute("CREATE PUBLICATION pub FOR ALL TABLES").await?;
    let shadow = ShadowCommand::new([
        "--slot=advances".to_owned(),
        "--publication=pub".to_owned(),
        "--lead=0".to_owned(),
        // Only the stream shall tell of new ids.
        "--poll-interval=1h".to_owned(),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ])
    .spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    let (mut points, mut alone) = (Vec::new(), None);
    for n in &size.advances {
        let sql = format!(
            "SELECT coalesce(min(coalesce(pg_sequence_last_value(oid), 0)), 0) >= $1 FROM pg_class
              WHERE relkind = 'S' AND relname LIKE 't{n}\\_c%'"
        );
        let ahead = subscriber.prepare(&sql).await?;
        let insert = publisher.prepare(&format!("INSERT INTO t{n} DEFAULT VALUES RETURNING c0")).await?;
        let mut times = Vec::new();
        for _ in 0..size.rounds * 10 {
            let id: i64 = publisher.query_one(&insert, &[]).await?.try_get(0)?;
            let begun = Instant::now();
            while !subscriber.query_one(&ahead, &[&id]).await?.try_get::<_, bool>(0)? {
                ensure!(begun.elapsed() < LIMIT, "not advanced:\n{}", shadow.stderr_lines().join("\n"));
                tokio::time::sleep(Duration::from_micros(200)).await;
            }
            times.push(begun.elapsed().as_secs_f64() * 1e3);
        }
        let took = middle(times);
        let each = took / f64::from(*n);
        let alone = *alone.get_or_insert(each);
        let figure = format!("{took:.2} ms");
        if *n > 1 {
            let what = format!("{n}: a sequence costs, of what one alone does");
            report.at_most(
                section,
                what,
                1.0,
                " ×",
                each / alone,
                format!("{figure} = {:.3} ×", each / alone),
            );
        } else {
            report.note(section, "1: from the commit to ahead", figure, took);
        }
        points.push((f64::from(*n), each));
    }
    let series = vec![Series { name: "seqshadow".to_owned(), points }];
    let title = "one advance, over the number made at once";
    let chart = Chart::lines(title, "sequences in the batch", "milliseconds each", series);
    report.chart(chart.over_powers_of_ten());
    drop(shadow);
    Ok(())
}
