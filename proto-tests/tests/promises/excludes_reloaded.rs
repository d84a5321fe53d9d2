//! What is left out can change while running. Tries to break: a sequence taken in that nobody follows while its ids are
//! confirmed, and one left out that holds the confirmed position for ever.

use anyhow::Result;
use proto_tests::rig::Rig;
use proto_tests::shadow::Signal;
use proto_tests::sql::PATIENCE;
use seqshadow::types::Lsn;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_is_taken_in_and_left_out_by_a_reload() -> Result<()> {
    let rig = Rig::new(15, 17).await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("seqshadow.toml");
    std::fs::write(&file, "exclude_sequence = ['orders_id_seq']\n")?;
    let config = format!("--config={}", file.display());
    let mut shadow = rig.start(&[&config, "--poll-interval=10min"])?;
    rig.insert(3000).await?;

    std::fs::write(&file, "exclude_sequence = []\n")?;
    shadow.signal(Signal::HUP);
    shadow.wait_for_line("the configuration was reloaded", PATIENCE)?;
    // What was inserted while it was left out, and what comes now.
    rig.wait_past(3000).await?;
    rig.follows(5000).await?;

    // A lock keeps the sequence from being advanced, so that ids of it are owed when it is left out.
    let mut client = rig.pair.on_subscriber().await?;
    let lock = client.transaction().await?;
    lock.batch_execute("ALTER SEQUENCE orders_id_seq OWNER TO CURRENT_USER").await?;
    let publisher = rig.pair.on_publisher().await?;
    publisher.batch_execute("SELECT setval('orders_id_seq', 100000)").await?;
    rig.insert(10).await?;
    let end: String = publisher.query_one("SELECT pg_current_wal_lsn()::text", &[]).await?.get(0);
    let end: Lsn = end.parse()?;
    shadow.wait_for_line("the sequence is held", PATIENCE)?;
    assert!(rig.confirmed().await?.is_some_and(|confirmed| confirmed < end), "its ids are owed");
    let seen = shadow.stderr_lines().len();
    std::fs::write(&file, "exclude_sequence = ['orders_id_seq']\n")?;
    shadow.signal(Signal::HUP);
    shadow.wait_for_line_after(seen, "the configuration was reloaded", PATIENCE)?;
    rig.wait_confirmed(end).await?;
    lock.rollback().await?;
    Ok(())
}
