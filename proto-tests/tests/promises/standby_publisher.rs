//! A standby as publisher: from 16 on it can be followed, and its slot needs a word of the primary; before that it cannot.

use anyhow::Result;
use proto_tests::pair::{DATABASE, SHADOW_ROLE};
use proto_tests::rig::{Rig, insert};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use seqshadow::demo::servers::{Cluster, ClusterOptions};

fn standby(rig: &Rig) -> Result<Cluster> {
    let options = ClusterOptions::default().set("hot_standby_feedback", "on");
    Ok(Cluster::standby_of(&rig.pair.publisher, &options)?)
}

fn publisher(standby: &Cluster) -> String {
    format!("--publisher={}", standby.conninfo_as(SHADOW_ROLE, DATABASE))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_is_followed_once_its_primary_logs_who_runs() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let standby = standby(&rig)?;
    let primary = rig.pair.on_publisher().await?;
    // While it is open, no snapshot that the primary logs by itself is enough.
    let writer = rig.pair.on_publisher().await?;
    writer.batch_execute("BEGIN; SELECT txid_current()").await?;
    let shadow = rig.spawn(&[&publisher(&standby)])?;
    shadow.wait_for_line("the sequences are protected", PATIENCE)?;
    let line = shadow.wait_for_line("the publisher is a standby", PATIENCE)?;
    assert!(line.contains("on the primary: SELECT pg_log_standby_snapshot();"), "{line}");
    let id = insert(&primary, 1000).await?;
    rig.wait_past(id).await?;
    writer.batch_execute("COMMIT").await?;
    wait_until("the slot on the standby", PATIENCE, async || {
        primary.batch_execute("SELECT pg_log_standby_snapshot()").await?;
        let lines = shadow.stderr_lines();
        Ok(Probe::when(lines.iter().any(|line| line.contains("streaming slot=")), || lines.join("\n")))
    })
    .await?;
    let id = insert(&primary, 10_000).await?;
    rig.wait_past(id).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_before_16_is_refused() -> Result<()> {
    let rig = Rig::new(15, 15).await?;
    let run = rig.run(&[&publisher(&standby(&rig)?)])?;
    assert_eq!(run.status.code(), Some(2), "{}", run.stderr);
    for words in ["is a standby of PostgreSQL 15", "name its primary in --publisher"] {
        assert!(run.stderr.contains(words), "{}", run.stderr);
    }
    Ok(())
}
