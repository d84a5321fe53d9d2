//! A transaction of a million rows, streamed before it commits.
//!
//! Tries to break: the sequence must be ahead before the commit, not only after it, and our memory must not grow with
//! the transaction.

use anyhow::Result;
use proto_tests::pair::PairOptions;
use proto_tests::rig::{Rig, insert};
use proto_tests::sql::PATIENCE;
use seqshadow::demo::servers::ClusterOptions;

const ROWS: i32 = 1_000_000;
/// Far above what it should need in a debug build, far below what the transaction has.
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
    let mut last = 0;
    for _ in 0..10 {
        last = insert(&open, ROWS / 10).await?;
    }
    // The walsender sees WAL once it is flushed, and streams once it has more than its memory holds. No id is committed.
    rig.pair.on_publisher().await?.batch_execute("CREATE TABLE flushed ()").await?;
    rig.wait_past(last - 1000).await?;
    let id = rig.insert(1).await?;
    open.batch_execute("COMMIT").await?;
    rig.wait_past(id).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    let (now, most) = (shadow.rss_bytes().unwrap_or(0), shadow.rss_bytes_max().unwrap_or(0));
    eprintln!("resident: {} KiB now, {} KiB at most", now / 1024, most / 1024);
    assert!(most < RSS_MAX, "{most} bytes resident");
    let complaints: Vec<_> = shadow
        .complaints()
        .into_iter()
        .filter(|line| !line.contains("the subscription is disabled"))
        .collect();
    assert!(complaints.is_empty(), "{complaints:?}");
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    Ok(())
}
