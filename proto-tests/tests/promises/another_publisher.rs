//! After a fail-over or a restore the same address leads to another server, or to an older copy of the same. Tries to
//! break: positions of the old one confirmed to the new one, which would then skip what it has yet to write, and
//! readings of the new one ignored because its positions are smaller.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, ensure};
use proto_tests::pair::confirmed;
use proto_tests::rig::Rig;
use proto_tests::sidecar::SLOT;
use proto_tests::sql::{PATIENCE, Probe, wait_for, wait_until};
use seqshadow::demo::servers::Mode;
use seqshadow::types::Lsn;

/// Copies a stopped server's data directory, its owner and modes included.
fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status()?;
    ensure!(done.success(), "cp -a {} {}", from.display(), to.display());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_copy_of_the_publisher_is_followed_from_its_own_positions() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    rig.pair.on_both("CREATE SEQUENCE lone").await?;
    rig.pair.grant(&["public"]).await?;
    let shadow = rig.start(&["--refresh-interval=1s"])?;
    rig.follows(100).await?;

    let data = rig.pair.publisher.data_dir();
    let older = data.with_file_name("older");
    rig.pair.publisher.stop(Mode::Fast)?;
    copy(&data, &older)?;
    rig.pair.publisher.resume()?;
    let publisher = rig.pair.on_publisher().await?;
    // Its positions get far ahead of those of the copy.
    publisher
        .batch_execute("CREATE TABLE other AS SELECT repeat('x', 500) FROM generate_series(1, 20000)")
        .await?;
    publisher.batch_execute("SELECT nextval('lone') FROM generate_series(1, 50)").await?;
    rig.follows(1000).await?;
    let end: String = publisher.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let far: Lsn = end.parse()?;
    rig.wait_confirmed(far).await?;

    rig.pair.publisher.stop(Mode::Fast)?;
    std::fs::remove_dir_all(&data)?;
    std::fs::rename(&older, &data)?;
    let seen = shadow.stderr_lines().len();
    rig.pair.publisher.resume()?;
    shadow.wait_for_line_after(seen, "another server or an older copy", PATIENCE)?;
    let publisher = rig.pair.on_publisher().await?;
    // The sequence that only polls show is followed, although every new position is smaller than the last reading's.
    publisher.batch_execute("SELECT nextval('lone') FROM generate_series(1, 9000)").await?;
    let subscriber = rig.pair.subscriber_conninfo();
    wait_for(&subscriber, "the polled sequence is ahead", "SELECT last_value >= 9000 FROM lone").await?;
    // And so is the one in the stream, which is confirmed no further than the copy's WAL goes.
    publisher.batch_execute("SELECT setval('orders_id_seq', 50000)").await?;
    rig.follows(10).await?;
    wait_until("the copy's own position to be confirmed", PATIENCE, async || {
        let now = confirmed(&publisher, SLOT).await?;
        let row = publisher.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?;
        let end: Lsn = row.get::<_, String>(0).parse()?;
        ensure!(now.is_none_or(|now| now <= end), "confirmed {now:?}, the WAL ends at {end}");
        ensure!(end < far, "the copy is still behind the old publisher");
        Ok(Probe::when(now == Some(end), || format!("{now:?} of {end}")))
    })
    .await
}
