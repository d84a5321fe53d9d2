//! The subscriptions.

use super::{configure, found, look};
use anyhow::Result;
use proto_tests::pair::Pair;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sql::wait_for;
use proto_tests::stage::Stage;

const CODES: &[&str] = &[
    "no-subscription",
    "several-subscriptions",
    "subscription-disabled",
    "subscription-not-running",
    "subscription-errors",
    "relations-not-ready",
    "subscription-slot-missing",
    "subscription-slot-lost",
    "disable-on-error",
    "publications-differ",
];
const TABLE: &str = "CREATE TABLE a (id serial PRIMARY KEY)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn subscriptions_that_are_not_there_or_too_many_or_follow_something_else() -> Result<()> {
    let stage = Stage::with(13, 12, TABLE).await?;
    let pair = &stage.pair;
    assert_eq!(look(pair, &[], &[])?.of("no-subscription").len(), 1);
    pair.replicate_all().await?;
    assert!(look(pair, &[], &[])?.among(CODES).is_empty());
    pair.publish(&Publication::of("narrow", &["a"]).only("insert, truncate")).await?;
    let looked = look(pair, &["--publication=narrow"], &[])?;
    assert_eq!(looked.among(CODES), ["publications-differ"]);
    assert_eq!(
        looked.of("publications-differ"),
        ["subscription sub: follows pub, the sidecar follows narrow"]
    );
    let second = Subscription { copy_data: Some(false), ..Subscription::to("second", &["narrow"]) };
    pair.subscribe(&second).await?;
    let worker =
        "SELECT EXISTS (SELECT FROM pg_stat_subscription WHERE subname = 'second' AND pid IS NOT NULL)";
    wait_for(&pair.subscriber_conninfo(), "the second worker", worker).await?;
    let looked = look(pair, &["--publication=pub"], &[])?;
    assert_eq!(looked.among(CODES), ["several-subscriptions"]);
    assert!(look(pair, &["--subscription=sub"], &[])?.among(CODES).is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_fails() -> Result<()> {
    for (publisher, subscriber) in [(16, 17), (19, 19)] {
        let stage = Stage::replicating(publisher, subscriber, TABLE).await?;
        let pair = &stage.pair;
        assert!(look(pair, &[], &[])?.among(CODES).is_empty());
        // A row that is there already stops the copy of the table.
        let table = "CREATE TABLE b (id serial PRIMARY KEY); INSERT INTO b VALUES (1)";
        stage.on_subscriber(table).await;
        stage.on_publisher(table).await;
        pair.grant(&["public"]).await?;
        stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
        let count = if subscriber >= 19 { "sync_table_error_count" } else { "sync_error_count" };
        let failed = format!("SELECT {count} > 0 FROM pg_stat_subscription_stats");
        wait_for(&pair.subscriber_conninfo(), "the copy to fail", &failed).await?;
        let looked = look(pair, &[], &[])?;
        assert_eq!(looked.among(CODES), ["subscription-errors", "relations-not-ready"]);
        let found = looked.of("subscription-errors");
        assert!(found[0].starts_with("subscription sub: has failed: 0 times while applying, "), "{found:?}");
        let found = looked.of("relations-not-ready");
        assert!(found[0].starts_with("subscription sub: 1 not ready: public.b ("), "{found:?}");
        stage.on_subscriber("DELETE FROM b").await;
        pair.wait_for_sync().await?;
        assert_eq!(look(pair, &[], &[])?.among(CODES), ["subscription-errors"], "until it is acknowledged");
        looked.mend(pair, &["subscription-errors"]).await;
        assert!(look(pair, &[], &[])?.among(CODES).is_empty());

        // So does one that stops the changes.
        stage.on_subscriber("INSERT INTO a VALUES (10)").await;
        stage.on_publisher("INSERT INTO a VALUES (10)").await;
        let failed = "SELECT apply_error_count > 0 FROM pg_stat_subscription_stats";
        wait_for(&pair.subscriber_conninfo(), "the changes to fail", failed).await?;
        let found = look(pair, &[], &[])?.of("subscription-errors");
        assert!(found[0].ends_with(" times while applying, 0 while copying"), "{found:?}");
        stage.on_subscriber("DELETE FROM a").await;
        pair.catch_up().await?;
        looked.mend(pair, &["subscription-errors"]).await;
        assert!(look(pair, &[], &[])?.among(CODES).is_empty());

        stage.on_subscriber("ALTER SUBSCRIPTION sub SET (disable_on_error = true)").await;
        let looked = look(pair, &[], &[])?;
        assert_eq!(looked.among(CODES), ["disable-on-error"]);
        looked.mend(pair, &["disable-on-error"]).await;
        assert!(look(pair, &[], &[])?.among(CODES).is_empty());
    }
    Ok(())
}

async fn disable(pair: &Pair) -> Result<()> {
    pair.on_subscriber().await?.batch_execute("ALTER SUBSCRIPTION sub DISABLE").await?;
    let idle = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'sub'";
    wait_for(&pair.publisher_conninfo(), "the worker's end", idle).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_that_does_not_work() -> Result<()> {
    let stage = Stage::replicating(14, 16, TABLE).await?;
    let pair = &stage.pair;
    disable(pair).await?;
    let looked = look(pair, &[], &[])?;
    assert_eq!(looked.among(CODES), ["subscription-disabled"]);
    looked.mend(pair, &["subscription-disabled"]).await;
    let worker = "SELECT EXISTS (SELECT FROM pg_stat_subscription WHERE pid IS NOT NULL)";
    wait_for(&pair.subscriber_conninfo(), "the worker", worker).await?;
    assert!(look(pair, &[], &[])?.among(CODES).is_empty());

    pair.subscriber.configure(&[("max_logical_replication_workers", "0")])?;
    pair.subscriber.restart()?;
    assert_eq!(look(pair, &[], &[])?.among(CODES), ["subscription-not-running"]);

    configure(&pair.publisher, &[("max_slot_wal_keep_size", "1MB")]).await?;
    for _ in 0..3 {
        stage.on_publisher("SELECT pg_logical_emit_message(true, 'x', ''); SELECT pg_switch_wal()").await;
    }
    stage.on_publisher("CHECKPOINT").await;
    let looked = look(pair, &[], &[])?;
    assert_eq!(looked.among(CODES), ["subscription-not-running", "subscription-slot-lost"]);
    assert_eq!(
        looked.of("subscription-slot-lost"),
        [
            "subscription sub: has the slot sub, and cannot go on with it: its WAL was removed (max_slot_wal_keep_size)"
        ]
    );

    stage.on_publisher("SELECT pg_drop_replication_slot('sub')").await;
    let looked = look(pair, &[], &[])?;
    assert_eq!(
        looked.of("subscription-slot-missing"),
        ["subscription sub: has the slot sub, which is not there on the publisher"]
    );
    looked.mend(pair, &["subscription-slot-missing"]).await;
    let subscriber = pair.on_subscriber().await?;
    subscriber
        .batch_execute(
            "CREATE SUBSCRIPTION sub CONNECTION 'dbname=none' PUBLICATION pub WITH (connect = false)",
        )
        .await?;
    subscriber.batch_execute("ALTER SUBSCRIPTION sub SET (slot_name = NONE)").await?;
    let looked = look(pair, &[], &[])?;
    assert_eq!(
        looked.of("subscription-slot-missing"),
        ["subscription sub: has no slot (slot_name is NONE): it cannot be enabled"]
    );
    assert_eq!(looked.mends("subscription-disabled"), [""], "it has no slot");
    looked.mend(pair, &["subscription-slot-missing"]).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_whose_slot_is_lost() -> Result<()> {
    let stage = Stage::replicating(17, 13, TABLE).await?;
    let pair = &stage.pair;
    disable(pair).await?;
    configure(&pair.publisher, &[("max_slot_wal_keep_size", "1MB")]).await?;
    for _ in 0..3 {
        stage.on_publisher("SELECT pg_logical_emit_message(true, 'x', ''); SELECT pg_switch_wal()").await;
    }
    stage.on_publisher("CHECKPOINT").await;
    look(pair, &[], &[])?.mend(pair, &["subscription-slot-lost"]).await;
    let slots = "SELECT count(*) FROM pg_replication_slots";
    assert_eq!(stage.publisher.query_one(slots, &[]).await?.get::<_, i64>(0), 0, "it goes with it");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_no_subscription_knows() {
    let stage = Stage::replicating(14, 17, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    assert!(found(&stage.pair, "table-not-subscribed", &[]).unwrap().is_empty());
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY)").await.unwrap();
    let expected = ["1 table: published, and not known to any subscription: public.late"];
    let looked = look(&stage.pair, &[], &[]).unwrap();
    assert_eq!(looked.of("table-not-subscribed"), expected);
    looked.mend(&stage.pair, &["table-not-subscribed"]).await;
    // One that is not on the subscriber has to be made first.
    stage.on_publisher("CREATE TABLE later (id serial PRIMARY KEY)").await;
    let looked = look(&stage.pair, &[], &[]).unwrap();
    assert_eq!(looked.mends("table-not-subscribed"), [""]);
    let advice = "public.later is not on the subscriber: make that first, then ALTER SUBSCRIPTION sub REFRESH PUBLICATION";
    assert_eq!(looked.advice("table-not-subscribed"), [advice]);
}
