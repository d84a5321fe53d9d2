//! The right to replicate, our slot, and those of others.

use super::look;
use anyhow::Result;
use proto_tests::pair::DATABASE;
use proto_tests::publication::Publication;
use proto_tests::sidecar;
use proto_tests::sql::wait_for;
use proto_tests::stage::Stage;

const SLOT: &[&str] = &[
    "slot-missing",
    "slot-not-made",
    "slot-refused",
    "slot-in-use",
    "slot-lost",
    "slot-retains-wal",
    "inactive-slot",
];
const TABLE: &str = "CREATE TABLE a (id serial PRIMARY KEY)";
const OURS: &[&str] = &["--slot=ours"];

/// Writes more WAL than 64 MiB, the smallest ceiling there is.
async fn write_wal(stage: &Stage) {
    for _ in 0..6 {
        stage.on_publisher("SELECT pg_logical_emit_message(true, 'x', ''); SELECT pg_switch_wal()").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_states_of_our_slot() -> Result<()> {
    let stage = Stage::with(14, 16, TABLE).await?;
    let pair = &stage.pair;
    assert_eq!(look(pair, OURS, &[])?.among(SLOT), ["slot-missing"]);
    let looked = look(pair, OURS, &[("SEQSHADOW_CREATE_SLOT", "off")])?;
    assert_eq!(looked.among(SLOT), ["slot-not-made"]);
    looked.mend(pair, &["slot-not-made"]).await;
    stage.on_publisher("SELECT pg_drop_replication_slot('ours')").await;
    assert!(look(pair, &[], &[])?.among(SLOT).is_empty(), "none is named");

    pair.publish(&Publication::all("pub")).await?;
    let sidecar = sidecar::start(pair, &["--publication=pub"])?;
    let looked = look(pair, OURS, &[])?;
    assert_eq!(looked.among(SLOT), ["slot-in-use"]);
    assert!(looked.of("slot-in-use")[0].starts_with("slot ours: is streamed by another seqshadow (pid "));
    drop(sidecar);
    let left = "SELECT NOT active FROM pg_replication_slots WHERE slot_name = 'ours'";
    wait_for(&pair.publisher_conninfo(), "the slot to be left", left).await?;
    assert!(look(pair, OURS, &[])?.among(SLOT).is_empty());

    write_wal(&stage).await;
    let low = [("SEQSHADOW_MAX_RETAINED_WAL", "64MiB")];
    let looked = look(pair, OURS, &low)?;
    assert_eq!(looked.among(SLOT), ["slot-retains-wal"]);
    assert_eq!(looked.mends("slot-retains-wal"), ["SELECT pg_drop_replication_slot('ours');"]);
    assert!(look(pair, OURS, &[])?.among(SLOT).is_empty(), "1 GiB may be held back");
    let looked = look(pair, &["--slot=other"], &low)?;
    assert_eq!(looked.among(SLOT), ["slot-missing", "inactive-slot"]);
    assert!(looked.of("inactive-slot")[0].starts_with(&format!(
        "slot ours: a logical slot of database {DATABASE}, is read by nobody and holds back "
    )));

    stage.on_publisher("SELECT pg_create_physical_replication_slot('standby')").await;
    let looked = look(pair, &["--slot=standby"], &[])?;
    assert_eq!(
        looked.of("slot-refused"),
        ["slot standby: slot standby is a physical slot, expected a logical one"]
    );

    super::configure(&pair.publisher, &[("max_slot_wal_keep_size", "1MB")]).await?;
    stage.on_publisher("CHECKPOINT").await;
    let looked = look(pair, OURS, &low)?;
    assert_eq!(looked.among(SLOT), ["slot-lost"]);
    looked_at_wal(&stage, &low).await
}

/// Slots that hold back WAL go as it says.
async fn looked_at_wal(stage: &Stage, low: &[(&str, &str)]) -> Result<()> {
    let pair = &stage.pair;
    super::configure(&pair.publisher, &[("max_slot_wal_keep_size", "-1")]).await?;
    stage.on_publisher("SELECT pg_drop_replication_slot('ours')").await;
    stage.on_publisher("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')").await;
    write_wal(stage).await;
    look(pair, &["--slot=other"], low)?.mend(pair, &["inactive-slot"]).await;
    stage.on_publisher("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')").await;
    write_wal(stage).await;
    look(pair, OURS, low)?.mend(pair, &["slot-retains-wal"]).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_replicate() -> Result<()> {
    for major in [12, 18] {
        let stage = Stage::with(major, 15, TABLE).await?;
        let pair = &stage.pair;
        assert!(look(pair, &[], &[])?.of("replication-refused").is_empty());
        let as_app = format!("--publisher={}", pair.publisher.conninfo_as("app", DATABASE));
        let looked = look(pair, &[&as_app], &[])?;
        let refused = looked.of("replication-refused");
        assert!(refused[0].starts_with("role app: may not replicate: "), "{refused:?}");
        assert_eq!(looked.mends("replication-refused"), ["ALTER ROLE app REPLICATION;"]);
        looked.mend(pair, &["replication-refused"]).await;
        assert!(look(pair, &[&as_app], &[])?.of("replication-refused").is_empty());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_that_delay_the_making_of_our_slot() -> Result<()> {
    let stage = Stage::with(15, 14, TABLE).await?;
    let pair = &stage.pair;
    let codes = ["long-writing-transaction", "writers-hidden"];
    let writer = pair.on_publisher().await?;
    writer.batch_execute("BEGIN").await?;
    let pid: i32 = writer.query_one("SELECT pg_backend_pid()", &[]).await?.get(0);
    assert!(look(pair, &[], &[])?.among(&codes).is_empty(), "it has not written");
    writer.batch_execute("SELECT txid_current()").await?;
    let looked = look(pair, &[], &[])?;
    assert_eq!(
        looked.of("writers-hidden"),
        [format!("1 transaction: writing, for how long is hidden from our role: pid {pid}")]
    );
    looked.mend(pair, &["writers-hidden"]).await;
    assert!(look(pair, &[], &[])?.among(&codes).is_empty(), "it has not written for long");

    // Nobody wants to wait for a minute: the server says that it began two minutes earlier.
    let columns: String = stage
        .publisher
        .query_one(
            "SELECT string_agg(CASE attname WHEN 'xact_start' THEN 'xact_start - interval ''2 min'' AS xact_start'
                               ELSE quote_ident(attname) END, ', ' ORDER BY attnum)
               FROM pg_attribute WHERE attrelid = 'pg_stat_activity'::regclass AND attnum > 0",
            &[],
        )
        .await?
        .get(0);
    stage
        .on_publisher(&format!(
            "SET allow_system_table_mods = on;
             ALTER VIEW pg_stat_activity RENAME TO pg_stat_activity_now;
             CREATE VIEW pg_catalog.pg_stat_activity AS SELECT {columns} FROM pg_stat_activity_now;
             GRANT SELECT ON pg_stat_activity TO PUBLIC"
        ))
        .await;
    let looked = look(pair, &[], &[])?;
    assert_eq!(
        looked.of("long-writing-transaction"),
        [format!("1 transaction: writing for long, delays the making of our slot: pid {pid} (2 min)")]
    );
    assert_eq!(looked.mends("long-writing-transaction"), [format!("SELECT pg_terminate_backend({pid});")]);
    looked.mend(pair, &["long-writing-transaction"]).await;
    assert!(look(pair, &[], &[])?.among(&codes).is_empty());
    Ok(())
}
