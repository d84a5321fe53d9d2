//! `CREATE_REPLICATION_SLOT` waits for every writing transaction of the publisher's whole instance, perhaps for hours.
//!
//! Tries to break: the sequences must be kept ahead meanwhile, the log must say what is waited for, and an end in the
//! middle of it must leave nothing behind on the publisher.

use anyhow::Result;
use proto_tests::rig::Rig;
use proto_tests::shadow::Signal;
use proto_tests::sql::{PATIENCE, connect, timed, wait_for};
use std::time::Duration;
use tokio_postgres::Client;

/// A writing transaction in another database of the publisher.
async fn writer_elsewhere(rig: &Rig) -> Result<(Client, i32)> {
    let client = connect(&rig.pair.publisher.conninfo("postgres")).await?;
    client.batch_execute("BEGIN; SELECT txid_current()").await?;
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    Ok((client, pid))
}

const NOTHING_LEFT: &str = "SELECT NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours') \
     AND NOT EXISTS (SELECT FROM pg_stat_activity WHERE application_name = 'seqshadow')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_are_protected_while_the_slot_waits_and_an_end_leaves_nothing_behind() -> Result<()> {
    for major in [12, 17] {
        let rig = Rig::new(major, 15).await?;
        let before = rig.insert(300).await?;
        let (writer, pid) = writer_elsewhere(&rig).await?;
        let mut shadow = rig.spawn(&[])?;
        shadow.wait_for_line("the sequences are protected", PATIENCE)?;
        rig.wait_past(before).await?;
        let line = shadow.wait_for_line("the slot cannot be created before", PATIENCE)?;
        assert!(line.contains(&format!("pid {pid} in database postgres")), "{line}");
        rig.follows(10_000).await?;

        shadow.signal(Signal::TERM);
        let (status, took) = timed(async { shadow.wait_exit(PATIENCE) }).await?;
        assert_eq!(status.code(), Some(0));
        assert!(took < Duration::from_secs(5), "it took {took:?} to end");
        // The writer is still at it: nobody waits for it any more.
        wait_for(&rig.pair.publisher_conninfo(), "nothing left on the publisher", NOTHING_LEFT).await?;

        let shadow = rig.spawn(&[])?;
        shadow.wait_for_line("the slot cannot be created before", PATIENCE)?;
        writer.batch_execute("COMMIT").await?;
        shadow.wait_for_line("replication slot created", PATIENCE)?;
        rig.follows(10_000).await?;
        rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    }
    Ok(())
}

/// A walsender that waits does not notice that its client is gone. It goes on to make the slot when it can, and the
/// next seqshadow has to find its way with that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_while_the_slot_waits_converges() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let (writer, _) = writer_elsewhere(&rig).await?;
    let mut shadow = rig.spawn(&[])?;
    shadow.wait_for_line("the slot cannot be created before", PATIENCE)?;
    shadow.kill9();
    let shadow = rig.spawn(&[])?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    rig.follows(10_000).await?;
    writer.batch_execute("COMMIT").await?;
    rig.follows(10_000).await?;
    rig.wait_confirmed(rig.pair.publisher_lsn().await?).await?;
    let active = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND active)";
    wait_for(&rig.pair.publisher_conninfo(), "our slot streams", active).await
}
