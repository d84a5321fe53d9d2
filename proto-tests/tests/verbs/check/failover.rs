//! Slots that survive a failover of the publisher.

use super::{configure, look};
use anyhow::Result;
use proto_tests::sql::wait_for;
use proto_tests::stage::Stage;
use seqshadow::demo::servers::{Cluster, ClusterOptions, Mode};

const FAILOVER: &[&str] = &[
    "failover-not-set",
    "failover-alone",
    "failover-waits-for-standby",
    "failover-standby-away",
    "failover-without-standby",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_slot_should_do_as_the_subscriptions_does() -> Result<()> {
    let stage = Stage::replicating(17, 18, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    let wanted = [("SEQSHADOW_FAILOVER", "on")];
    assert!(look(pair, &[], &[])?.among(FAILOVER).is_empty());
    let alone = ["failover-alone", "failover-without-standby"];
    assert_eq!(look(pair, &[], &wanted)?.among(FAILOVER), alone);
    let looked = look(pair, &["--failover"], &[])?;
    assert_eq!(looked.among(FAILOVER), alone);
    looked.mend(pair, &["failover-alone"]).await;
    let looked = look(pair, &["--slot=ours"], &[])?;
    assert_eq!(looked.among(FAILOVER), ["failover-not-set"]);
    assert_eq!(
        looked.of("failover-not-set"),
        ["ours: has no failover, but the slot of subscription sub has"]
    );

    stage.on_publisher("SELECT pg_create_physical_replication_slot('standby_1')").await;
    assert!(look(pair, &[], &wanted)?.among(FAILOVER).is_empty());
    configure(&pair.publisher, &[("synchronized_standby_slots", "standby_1")]).await?;
    let looked = look(pair, &[], &wanted)?;
    assert_eq!(looked.among(FAILOVER), ["failover-waits-for-standby", "failover-standby-away"]);
    assert!(look(pair, &["--slot=ours"], &[])?.of("failover-standby-away").is_empty(), "ours does not wait");
    looked.mend(pair, &["failover-standby-away"]).await;

    // What a slot that is there has counts, not what was asked for.
    stage.on_publisher("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')").await;
    let looked = look(pair, &["--slot=ours"], &wanted)?;
    assert_eq!(looked.among(FAILOVER), ["failover-not-set"]);
    looked.mend(pair, &["failover-not-set"]).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_that_is_there_is_silence() -> Result<()> {
    let stage = Stage::replicating(17, 16, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    stage.on_publisher("SELECT pg_create_physical_replication_slot('standby_1', true)").await;
    let options = ClusterOptions::default()
        .set("primary_slot_name", "standby_1")
        .set("hot_standby_feedback", "on")
        .set("sync_replication_slots", "on");
    let standby = Cluster::standby_of(&pair.publisher, &options)?;
    // The copying has stopped the publisher for a moment.
    let primary = pair.publisher_conninfo();
    let reads = "SELECT active FROM pg_replication_slots WHERE slot_name = 'standby_1'";
    wait_for(&primary, "the standby's reading of its slot", reads).await?;
    configure(&pair.publisher, &[("synchronized_standby_slots", "standby_1")]).await?;

    let failover = ["--slot=ours", "--failover"];
    let codes = ["failover-waits-for-standby", "failover-standby-away", "failover-without-standby"];
    let looked = look(pair, &failover, &[])?;
    assert_eq!(looked.among(&codes), ["failover-waits-for-standby"], "{looked:?}");
    standby.stop(Mode::Fast)?;
    wait_for(&primary, "the standby's end", &reads.replace("active", "NOT active")).await?;
    let looked = look(pair, &failover, &[])?;
    assert_eq!(looked.among(&codes), ["failover-waits-for-standby", "failover-standby-away"], "{looked:?}");
    standby.resume()?;
    wait_for(&primary, "the standby's return", reads).await?;
    look(pair, &failover, &[])?.expect_none_of(&codes[1..]);
    Ok(())
}
