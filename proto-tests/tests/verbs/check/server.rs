//! The servers' settings.

use super::{configure, found, look};
use anyhow::Result;
use proto_tests::pair::{DATABASE, Pair, PairOptions, SHADOW_ROLE};
use proto_tests::publication::Publication;
use proto_tests::sidecar;
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::demo::servers::{Cluster, ClusterOptions};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_without_logical_wal() {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("wal_level", "replica"),
        ..PairOptions::default()
    };
    let pair = Pair::with(17, 18, options).await.unwrap();
    assert_eq!(found(&pair, "wal-level", &[]).unwrap(), ["wal_level: is replica, expected logical"]);
    let pair = Pair::new(17, 18).await.unwrap();
    assert!(found(&pair, "wal-level", &[]).unwrap().is_empty());
}

const ROOM: &[&str] = &["no-slot-free", "last-slot", "no-wal-sender-free", "last-wal-sender"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_room_for_a_slot_or_a_wal_sender() -> Result<()> {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("max_replication_slots", "2").set("max_wal_senders", "2"),
        ..PairOptions::default()
    };
    let pair = Pair::with(13, 16, options).await?;
    let publisher = pair.on_publisher().await?;
    assert!(look(&pair, &[], &[])?.among(ROOM).is_empty());
    let slot = |name: &str| format!("SELECT pg_create_logical_replication_slot('{name}', 'pgoutput')");
    publisher.batch_execute(&slot("one")).await?;
    let looked = look(&pair, &[], &[])?;
    assert_eq!(looked.among(ROOM), ["last-slot"]);
    let expected = "max_replication_slots: allows 2, of which 1 is taken; one is needed for the sidecar";
    assert_eq!(looked.of("last-slot"), [expected]);
    publisher.batch_execute(&slot("ours")).await?;
    let looked = look(&pair, &[], &[])?;
    assert_eq!(looked.among(ROOM), ["no-slot-free"]);
    assert_eq!(looked.mends("no-slot-free"), ["ALTER SYSTEM SET max_replication_slots = 12;"]);
    assert!(looked.advice("no-slot-free")[0].contains("restart"), "{looked:?}");
    assert!(look(&pair, &["--slot=ours"], &[])?.among(ROOM).is_empty(), "it is there");

    drop(publisher);
    pair.publisher.configure(&[("max_wal_senders", "1")])?;
    pair.publisher.restart()?;
    assert_eq!(look(&pair, &["--slot=ours"], &[])?.among(ROOM), ["last-wal-sender"]);
    pair.publish(&Publication::all("pub")).await?;
    let sidecar = sidecar::start(&pair, &["--publication=pub"])?;
    for ours in [&["--slot=ours"][..], &[]] {
        let looked = look(&pair, ours, &[])?;
        assert!(looked.among(ROOM).is_empty(), "the only one is ours: {looked:?}");
        assert!(ours.is_empty() || looked.of("replication-refused").is_empty(), "{looked:?}");
    }
    let taken = look(&pair, &["--slot=one"], &[])?;
    assert_eq!(taken.among(ROOM), ["no-wal-sender-free"]);
    drop(sidecar);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_free_is_said_also_where_there_is_enough() -> Result<()> {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("max_replication_slots", "7").set("max_wal_senders", "9"),
        ..PairOptions::default()
    };
    let pair = Pair::with(15, 17, options).await?;
    let facts = || -> Result<Value> { Ok(verb::run(&pair, "check", &["--json"])?.json()?["facts"].clone()) };
    let fact = |name: &str, allowed: i64, used: i64| json!({ "name": name, "side": "publisher", "allowed": allowed, "used": used, "free": allowed - used });
    let senders = fact("max_wal_senders", 9, 0);
    assert_eq!(facts()?, json!([fact("max_replication_slots", 7, 0), senders]));
    let publisher = pair.on_publisher().await?;
    publisher.batch_execute("SELECT pg_create_physical_replication_slot('one')").await?;
    assert_eq!(facts()?, json!([fact("max_replication_slots", 7, 1), senders]));
    let text = verb::run(&pair, "check", &[])?.stdout;
    let expected = "max_replication_slots of the publisher: 1 of 7 in use, 6 free
max_wal_senders of the publisher: 0 of 9 in use, 9 free

";
    assert!(text.starts_with(expected), "{text}");
    Ok(())
}

const RETENTION: &[&str] = &["slot-wal-unlimited", "slot-wal-limit-small", "idle-slot-timeout"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_much_wal_a_slot_may_hold_back_and_for_how_long() -> Result<()> {
    let pair = Pair::new(18, 14).await?;
    let looked = look(&pair, &[], &[])?;
    assert_eq!(looked.among(RETENTION), ["slot-wal-unlimited"]);
    looked.mend(&pair, &["slot-wal-unlimited"]).await;
    pair.on_publisher().await?.batch_execute("ALTER SYSTEM RESET max_slot_wal_keep_size").await?;
    let temporary = [("SEQSHADOW_TEMPORARY_SLOT", "on")];
    assert!(look(&pair, &[], &temporary)?.among(RETENTION).is_empty());
    configure(
        &pair.publisher,
        &[("max_slot_wal_keep_size", "512MB"), ("idle_replication_slot_timeout", "1d")],
    )
    .await?;
    let looked = look(&pair, &[], &[])?;
    let expected =
        "max_slot_wal_keep_size: is 512MiB, less than the 1GiB that max_retained_wal allows our slot";
    assert_eq!(looked.of("slot-wal-limit-small"), [expected]);
    let expected = "idle_replication_slot_timeout: is 1d: a slot that nobody reads for so long is lost";
    assert_eq!(looked.of("idle-slot-timeout"), [expected]);
    assert!(looked.of("slot-wal-unlimited").is_empty());
    assert_eq!(look(&pair, &["--max-retained-wal=256MB"], &[])?.among(RETENTION), ["idle-slot-timeout"]);
    assert!(look(&pair, &["--temporary-slot"], &[])?.among(RETENTION).is_empty());
    let both = verb::run(&pair, "check", &["--temporary-slot", "--failover"])?;
    assert_eq!(both.code(), 2, "{}", both.all());
    let less = [("SEQSHADOW_MAX_RETAINED_WAL", "256MiB")];
    assert_eq!(look(&pair, &[], &less)?.among(RETENTION), ["idle-slot-timeout"]);
    assert_eq!(
        looked.mends("slot-wal-limit-small"),
        ["ALTER SYSTEM SET max_slot_wal_keep_size = '2048MB';\nSELECT pg_reload_conf();"]
    );
    looked.mend(&pair, &["slot-wal-limit-small", "idle-slot-timeout"]).await;
    assert!(look(&pair, &[], &[])?.among(RETENTION).is_empty());
    let old = Pair::new(12, 14).await?;
    assert_eq!(look(&old, &[], &[])?.among(RETENTION), ["slot-wal-unlimited"], "12 has no limit at all");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn commits_that_would_wait_for_us() -> Result<()> {
    let pair = Pair::new(14, 18).await?;
    let code = "synchronous-standby";
    let publisher = pair.on_publisher().await?;
    for (names, is_us) in [("FIRST 1 (a, b)", false), ("*", true), ("ANY 1 (a, SeqShadow)", true)] {
        configure(&pair.publisher, &[("synchronous_standby_names", names)]).await?;
        let looked = look(&pair, &[], &[])?;
        let found = looked.of(code);
        assert_eq!(found.len(), usize::from(is_us), "{names}: {found:?}");
        assert!(found.iter().all(|found| found.contains(names)), "{found:?}");
        if names == "*" {
            // Who else is meant is not ours to say.
            assert_eq!(looked.mends(code), [""]);
        } else if is_us {
            looked.mend(&pair, &[code]).await;
            let left: String = publisher.query_one("SHOW synchronous_standby_names", &[]).await?.get(0);
            assert_eq!(left, "ANY 1 (a)");
        }
    }
    Ok(())
}

const STANDBY: &[&str] =
    &["standby-too-old", "standby-publisher", "standby-feedback-off", "failover-on-standby"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_standby_as_publisher() -> Result<()> {
    let stage = Stage::replicating(17, 15, "CREATE TABLE a (id serial PRIMARY KEY)").await?;
    let pair = &stage.pair;
    assert!(look(pair, &[], &[("SEQSHADOW_FAILOVER", "on")])?.among(STANDBY).is_empty());
    let standby = Cluster::standby_of(&pair.publisher, &ClusterOptions::default())?;
    let publisher = format!("--publisher={}", standby.conninfo_as(SHADOW_ROLE, DATABASE));
    let looked = look(pair, &[&publisher], &[])?;
    assert_eq!(looked.among(STANDBY), ["standby-publisher", "standby-feedback-off"]);
    assert!(looked.of("subscription-slot-missing").is_empty(), "it is on the primary");
    configure(&standby, &[("hot_standby_feedback", "on")]).await?;
    let looked = look(pair, &[&publisher], &[("SEQSHADOW_FAILOVER", "on")])?;
    assert_eq!(looked.among(STANDBY), ["standby-publisher", "failover-on-standby"]);

    let pair = Pair::new(15, 15).await?;
    let standby = Cluster::standby_of(&pair.publisher, &ClusterOptions::default())?;
    let publisher = format!("--publisher={}", standby.conninfo_as(SHADOW_ROLE, DATABASE));
    assert_eq!(look(&pair, &[&publisher], &[])?.among(STANDBY), ["standby-too-old"]);
    Ok(())
}
