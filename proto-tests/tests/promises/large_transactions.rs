//! A transaction of a million rows, streamed before it commits.
//!
//! Tries to break: the sequence must be ahead before the commit, not only after it, and our memory must not grow with
//! the transaction.

use anyhow::Result;
use proto_tests::pair::PairOptions;
use proto_tests::rig::{Rig, insert};
use proto_tests::sql::PATIENCE;
use seqshadow::demo::servers::ClusterOptions;

/// What is streamed before memory is measured, and then again three times as much.
const ROWS: i32 = 250_000;
/// How much the resident memory may grow while the other three quarters are streamed: one id kept of each row would
/// take more.
const GROWTH_MAX: u64 = 4 << 20;
/// Far above what it should need in a debug build.
const RSS_MAX: u64 = 128 << 20;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sequence_is_ahead_before_a_million_rows_commit() -> Result<()> {
    let options = PairOptions {
        publisher: ClusterOptions::default()
            .set("logical_decoding_work_mem", "64kB")
            .set("max_wal_size", "4GB"),
        ..PairOptions::default()
    };
    let rig = Rig::with(14, 15, options).await?;
    // Native apply of a million rows would only take the time of the test.
    rig.pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    // Polls must not be what finds it.
    let shadow = rig.start(&["--poll-interval=1h"])?;
    let open = rig.pair.on_publisher().await?;
    open.batch_execute("BEGIN").await?;
    let mut resident = Vec::new();
    for rows in [ROWS, ROWS * 3] {
        let mut last = 0;
        for _ in 0..5 {
            last = insert(&open, rows / 5).await?;
        }
        // The walsender sees WAL once it is flushed, and streams once it has more than its memory holds. No id is
        // committed.
        rig.pair.on_publisher().await?.batch_execute("SELECT pg_logical_emit_message(true, '', '')").await?;
        rig.wait_past(last - 1000).await?;
        resident.push((shadow.rss_bytes().unwrap_or(0), shadow.rss_bytes_max().unwrap_or(0)));
        eprintln!("{last} rows streamed: {}", kib(resident.last()));
    }
    let id = rig.insert(1).await?;
    open.batch_execute("COMMIT").await?;
    rig.wait_past(id).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    resident.push((shadow.rss_bytes().unwrap_or(0), shadow.rss_bytes_max().unwrap_or(0)));
    eprintln!("committed: {}", kib(resident.last()));
    let (first, at_first) = resident[0];
    assert!(first > 0 || cfg!(not(target_os = "linux")), "there is no /proc");
    for (now, most) in &resident {
        assert!(*now < first + GROWTH_MAX && *most < at_first + GROWTH_MAX, "it grows: {resident:?}");
        assert!(*most < RSS_MAX, "{most} bytes resident");
    }
    let complaints: Vec<_> = shadow
        .complaints()
        .into_iter()
        .filter(|line| !line.contains("the subscription is disabled"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    Ok(())
}

fn kib(resident: Option<&(u64, u64)>) -> String {
    let (now, most) = resident.copied().unwrap_or_default();
    format!("{} KiB resident now, {} KiB at most", now / 1024, most / 1024)
}
