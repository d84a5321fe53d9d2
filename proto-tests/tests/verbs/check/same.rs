//! One database as both sides: nothing would be compared with anything else.

use anyhow::Result;
use proto_tests::pair::{DATABASE, SHADOW_ROLE};
use proto_tests::publication::Publication;
use proto_tests::sql::{PATIENCE, connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::{sidecar, verb};
use seqshadow::demo::servers::{Cluster, ClusterOptions};

const TABLE: &str = "CREATE TABLE a (id serial PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_database_is_refused_by_the_daemon_and_the_verbs() -> Result<()> {
    let stage = Stage::with(14, 18, TABLE).await?;
    let pair = &stage.pair;
    pair.publish(&Publication::all("pub")).await?;
    let same = format!("--subscriber={}", pair.shadow_publisher_conninfo());
    let expected =
        format!("publisher and subscriber are the same: database \"{DATABASE}\" of the server at ");
    for args in [
        &["check"][..],
        &["plan"],
        &["sync"],
        &["verify"],
        &["verify", "--data", "--publication=pub"],
        &["status", "--slot=ours"],
        &["setup", "--slot=ours", "--dry-run"],
        &["cutover", "--slot=ours", "--dry-run", "--publication=pub", "--applier-slot=theirs"],
    ] {
        let flags = [&args[1..], &[&same]].concat();
        let refused = verb::run(pair, args[0], &flags)?;
        assert_eq!(refused.code(), 2, "{args:?}: {}", refused.all());
        assert!(refused.stderr.contains(&expected), "{args:?}: {}", refused.all());
    }
    let daemon = sidecar::command(pair, &[&same, "--publication=pub"]).run(PATIENCE)?;
    assert_eq!(daemon.code(), 2, "{}", daemon.all());
    assert!(daemon.all().contains("publisher and subscriber are the same"), "{}", daemon.all());
    let slots: i64 =
        stage.publisher.query_one("SELECT count(*) FROM pg_replication_slots", &[]).await?.get(0);
    assert_eq!(slots, 0, "nothing was made");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_database_and_a_physical_copy_are_others() -> Result<()> {
    let stage = Stage::with(16, 15, TABLE).await?;
    let pair = &stage.pair;
    stage.on_publisher("CREATE DATABASE beside").await;
    let beside = format!("--subscriber={}", pair.publisher.conninfo_as(SHADOW_ROLE, "beside"));
    let planned = verb::run(pair, "plan", &[&beside])?;
    assert_eq!(planned.code(), 0, "{}", planned.all());

    // As a blue/green deployment makes it: with the system identifier of what it was copied from.
    let copy = Cluster::standby_of(&pair.publisher, &ClusterOptions::default())?;
    connect(&copy.conninfo(DATABASE)).await?.batch_execute("SELECT pg_promote(false)").await?;
    wait_for(&copy.conninfo(DATABASE), "the promotion", "SELECT NOT pg_is_in_recovery()").await?;
    let on_copy = connect(&copy.conninfo(DATABASE)).await?;
    on_copy.batch_execute(&format!("GRANT USAGE, UPDATE ON SEQUENCE a_id_seq TO {SHADOW_ROLE}")).await?;
    let identifier = "SELECT system_identifier FROM pg_control_system()";
    // The copying ended the connections of before.
    let publisher = pair.on_publisher().await?;
    let there: i64 = publisher.query_one(identifier, &[]).await?.get(0);
    assert_eq!(on_copy.query_one(identifier, &[]).await?.get::<_, i64>(0), there);
    publisher.batch_execute("SELECT nextval('a_id_seq') FROM generate_series(1, 100)").await?;
    let copied = format!("--subscriber={}", copy.conninfo_as(SHADOW_ROLE, DATABASE));
    let planned = verb::run(pair, "plan", &[&copied])?;
    assert_eq!(planned.code(), 0, "{}", planned.all());
    assert!(planned.stdout.contains("setval("), "{}", planned.all());
    Ok(())
}
