//! A shorter poll interval counts from the reload on, not from the end of the longer one.

use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::sequence::{next_value, wait_past};
use proto_tests::shadow::{ShadowCommand, Signal};
use proto_tests::sidecar::SLOT;
use proto_tests::sql::PATIENCE;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shorter_poll_interval_counts_at_once() -> Result<()> {
    let pair = Pair::new(15, 17).await?;
    pair.on_both("CREATE SEQUENCE blind; CREATE TABLE t (id serial PRIMARY KEY)").await?;
    pair.grant(&["public"]).await?;
    pair.replicate_all().await?;
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("seqshadow.toml");
    std::fs::write(&file, "poll_interval = '1h'\n")?;
    let mut shadow = ShadowCommand::new(["--slot", SLOT, "--config"])
        .arg(&file)
        .arg(format!("--publisher={}", pair.shadow_publisher_conninfo()))
        .arg(format!("--subscriber={}", pair.shadow_subscriber_conninfo()))
        .spawn()?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    shadow.wait_for_line("streaming slot=", PATIENCE)?;
    // The seed after the creation of the slot is the last poll for an hour.
    tokio::time::sleep(Duration::from_secs(3)).await;
    pair.on_publisher().await?.batch_execute("SELECT setval('blind', 5000)").await?;
    let subscriber = pair.on_subscriber().await?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(next_value(&subscriber, "blind").await? < 5000, "it was polled all the same");
    std::fs::write(&file, "poll_interval = '300ms'\n")?;
    shadow.signal(Signal::HUP);
    wait_past(&subscriber, "blind", 5000).await
}
