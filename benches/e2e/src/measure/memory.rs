//! The daemon's memory while one huge transaction streams by.

use anyhow::{Context as _, Result, ensure};
use proto_tests::pair::{Pair, PairOptions};
use proto_tests::shadow::ShadowCommand;
use proto_tests::sql::PATIENCE;
use std::time::{Duration, Instant};

use super::{LIMIT, Size, server, value};
use crate::process::resident;
use crate::report::Report;
use seqshadow_benches::chart::{Chart, Series};

const MAJOR: u32 = 17;
/// Bytes of one row on the stream; its WAL is far smaller, because the value compresses.
const ROW: u32 = 8000;
const SECTION: &str = "memory, 1000 sequences";

pub async fn run(size: &Size, report: &mut Report) -> Result<()> {
    let pair = Pair::with(MAJOR, MAJOR, PairOptions { publisher: server(), subscriber: server() }).await?;
    let columns: Vec<String> = (0..1000).map(|n| format!("c{n} bigserial")).collect();
    pair.on_both(&format!("CREATE TABLE many ({})", columns.join(", "))).await?;
    pair.on_both("CREATE TABLE large (id bigint PRIMARY KEY DEFAULT nextval('many_c0_seq'), note text)")
        .await?;
    pair.grant(&["public"]).await?;
    let client = pair.on_publisher().await?;
    client.batch_execute("CREATE PUBLICATION pub FOR TABLE many, large").await?;
    let mut shadow = ShadowCommand::new([
        "--slot=memory".to_owned(),
        "--publication=pub".to_owned(),
        format!("--publisher={}", pair.shadow_publisher_conninfo()),
        format!("--subscriber={}", pair.shadow_subscriber_conninfo()),
    ])
    .spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    shadow.wait_for_line("streaming slot=", PATIENCE)?;

    let rows = size.transaction_megabytes * 1_048_576_u32.div_ceil(ROW);
    let writer = pair.on_publisher().await?;
    let writing = tokio::spawn(async move {
        let sql =
            format!("INSERT INTO large (note) SELECT repeat('x', {ROW}) FROM generate_series(1, {rows})");
        writer.batch_execute(&sql).await
    });
    let begun = Instant::now();
    let (mut points, mut end) = (Vec::new(), None::<String>);
    let mut writing = Some(writing);
    loop {
        let bytes = resident(shadow.pid()).context("memory of seqshadow")?;
        #[allow(clippy::cast_precision_loss)]
        points.push((begun.elapsed().as_secs_f64(), bytes as f64 / 1_048_576.0));
        if writing.as_ref().is_some_and(tokio::task::JoinHandle::is_finished)
            && let Some(done) = writing.take()
        {
            done.await??;
            end = Some(value(&client, "SELECT pg_current_wal_insert_lsn()::text").await?);
            // The slot is confirmed past the end of what follows, not past its middle.
            client.batch_execute("INSERT INTO large (note) VALUES ('last')").await?;
        }
        if let Some(end) = &end {
            let sql = format!(
                "SELECT coalesce(confirmed_flush_lsn >= '{end}', false) FROM pg_replication_slots WHERE slot_name = 'memory'"
            );
            if value(&client, &sql).await? {
                break;
            }
        }
        ensure!(
            shadow.is_running() && begun.elapsed() < LIMIT,
            "the transaction did not come through:\n{}",
            shadow.stderr_lines().join("\n")
        );
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let most = points.iter().map(|point| point.1).fold(0.0, f64::max);
    let first = points.first().map_or(0.0, |point| point.1);
    let gigabytes = f64::from(size.transaction_megabytes) / 1024.0;
    let seconds = begun.elapsed().as_secs_f64();
    report.at_most(
        SECTION,
        format!("most, over {gigabytes:.1} GB"),
        24.0,
        " MiB",
        most,
        format!("{most:.1} MiB"),
    );
    report.note(SECTION, "before it", format!("{first:.1} MiB"), first);
    report.note(
        SECTION,
        "the stream, written and read",
        format!("{:.2} GB/s", gigabytes / seconds),
        gigabytes / seconds,
    );
    let title = format!("resident memory over a transaction of {gigabytes:.1} GB");
    let series = vec![Series { name: "seqshadow".to_owned(), points }];
    report.chart(Chart::lines(title, "seconds", "MiB", series));
    Ok(())
}
