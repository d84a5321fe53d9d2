//! A publisher that is there and says nothing: at the start, while a connection is opened, and in the stream. Tries to
//! break: a start that waits for ever, a healthy process taken for a hung one, and a dead stream taken for a live one.

use anyhow::Result;
use proto_tests::fake_publisher::{Answer, FakePublisherOptions, Step, Type};
use proto_tests::rig::Rig;
use proto_tests::sidecar::SLOT;
use proto_tests::split::{Replication, Split};
use proto_tests::sql::PATIENCE;
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_ends() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let fake = FakePublisherOptions::default()
        .on_query(|ask| {
            if ask.sql.contains("pg_publication") {
                let flags = ["pubinsert", "pubupdate", "pubtruncate"].map(|flag| (flag, Type::BOOL));
                let columns = [[("pubname", Type::TEXT)].as_slice(), &flags].concat();
                let row = vec!["pub".into(), true.into(), true.into(), true.into()];
                return Some(Answer::rows(&columns, vec![row]).with_params(&[Type::TEXT_ARRAY]));
            }
            ask.sql.contains("wal_level").then_some(Answer::Silence)
        })
        .start()
        .await?;
    let run = rig.run(&[&format!("--publisher={}", fake.conninfo())])?;
    assert_eq!(run.status.code(), Some(3), "{}", run.stderr);
    assert!(run.stderr.contains("publisher: no answer within"), "{}", run.stderr);
    Ok(())
}

/// A catalog that changes is no sign of life of the publisher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_ends_also_while_the_catalog_changes() -> Result<()> {
    let rig = Rig::new(17, 15).await?;
    let sql = format!("SELECT pg_create_logical_replication_slot('{SLOT}', 'pgoutput')");
    rig.pair.on_publisher().await?.batch_execute(&sql).await?;
    let fake = FakePublisherOptions::default().on_stream(|_, _| vec![Step::Hold]).start().await?;
    let split = Split::start(rig.pair.publisher.port(), Replication::To(fake.port())).await?;
    let address = format!("--publisher={}", split.conninfo(&rig.pair.shadow_publisher_conninfo()));
    let shadow = rig.start(&[&address, "--refresh-interval=1s"])?;
    let subscriber = rig.pair.on_subscriber().await?;
    let begun = Instant::now();
    let mut table = 0;
    while !shadow.stderr_lines().iter().any(|line| line.contains("no answer within")) {
        assert!(begun.elapsed() < PATIENCE, "{}", shadow.stderr_lines().join("\n"));
        table += 1;
        subscriber.batch_execute(&format!("CREATE TABLE t{table} (id serial PRIMARY KEY)")).await?;
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    Ok(())
}
