//! Slots that survive a failover of the publisher.

use super::{configure, look};
use anyhow::Result;
use proto_tests::sql::wait_for;
use proto_tests::stage::Stage;

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
    assert_eq!(look(pair, &[], &wanted)?.among(FAILOVER), ["failover-alone", "failover-without-standby"]);

    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    let idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'sub'";
    wait_for(&pair.publisher_conninfo(), "the worker's end", idle).await?;
    stage.on_subscriber("ALTER SUBSCRIPTION sub SET (failover = true)").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub ENABLE").await;
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

    // What a slot that is there has counts, not what was asked for.
    stage.on_publisher("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')").await;
    let looked = look(pair, &["--slot=ours"], &wanted)?;
    assert_eq!(looked.among(FAILOVER), ["failover-not-set"]);
    assert!(looked.mends("failover-not-set")[0].starts_with("SELECT pg_drop_replication_slot('ours');"));
    Ok(())
}
