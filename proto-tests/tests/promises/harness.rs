//! The harness must be able to fail: without seqshadow the sequences of a subscriber stay behind, and the oracle says
//! so; put ahead by hand they are not, and it says that too.

use proto_tests::load::{Load, LoadOptions};
use proto_tests::majors;
use proto_tests::oracle::{Wrong, assert_no_faults, behind, judge};
use proto_tests::pair::Pair;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::watcher::Watcher;
use proto_tests::zoo::{self, Zoo};
use seqshadow::types::quote_literal;
use std::time::Duration;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn native_replication_leaves_the_sequences_behind_and_the_oracle_sees_it() {
    for (publisher_major, subscriber_major) in majors::pairs() {
        eprintln!("pair {publisher_major} to {subscriber_major}");
        replicate_and_judge(publisher_major, subscriber_major).await.unwrap();
    }
}

async fn replicate_and_judge(publisher_major: u32, subscriber_major: u32) -> anyhow::Result<()> {
    let pair = Pair::new(publisher_major, subscriber_major).await?;
    let zoo = Zoo::replicated(&pair).await?;
    let (publisher, subscriber) = pair.clients().await?;

    let watcher = Watcher::start(&pair.subscriber_conninfo(), &zoo);
    let options = LoadOptions { two_phase: true, rows_max: 300, ..LoadOptions::default() };
    let load = Load::start(&pair.publisher_conninfo(), &zoo, options);
    let journal = load.run_for(Duration::from_secs(3)).await?;
    let lsn = pair.catch_up().await?;
    for table in &zoo.tables {
        let count = format!("SELECT count(*) FROM {}", table.name);
        let there: i64 = publisher.query_one(&count, &[]).await?.get(0);
        let here: i64 = subscriber.query_one(&count, &[]).await?.get(0);
        assert_eq!(there, here, "rows of {}", table.name);
    }

    // Every sequence that was drawn from is behind, by what committed and by what was ever given out.
    let drawn: Vec<_> =
        zoo.sequences.iter().filter(|sequence| sequence.is_drawn() && !sequence.cycle).collect();
    for upto in [Some(lsn), None] {
        let faults = behind(&zoo, &journal, upto, &subscriber).await?;
        for sequence in &drawn {
            let name = sequence.name.to_string();
            assert!(faults.iter().any(|fault| fault.sequence == name), "{name} should be behind {upto:?}");
        }
        assert_eq!(faults.len(), drawn.len(), "{faults:?}");
    }
    let faults = judge(&zoo, &journal, &publisher, &subscriber, 3).await?;
    assert!(faults.iter().any(|fault| matches!(fault.what, Wrong::Collides { .. })), "{faults:?}");
    assert!(faults.iter().any(|fault| matches!(fault.what, Wrong::Repeats { .. })), "{faults:?}");
    assert!(!faults.iter().any(|fault| matches!(fault.what, Wrong::OffLattice { .. })), "{faults:?}");

    // Ahead by hand, each on its own lattice: now the same oracle has nothing to say.
    for (index, sequence) in zoo.sequences.iter().enumerate() {
        let Some(furthest) = journal.furthest(index, sequence).filter(|_| !sequence.cycle) else { continue };
        let steps = (furthest - sequence.anchor) / sequence.increment + 60;
        let target = sequence.anchor + steps * sequence.increment;
        let name = quote_literal(&sequence.name.to_string());
        subscriber.query_one(&format!("SELECT setval({name}, {target})"), &[]).await?;
    }
    assert_no_faults(&behind(&zoo, &journal, None, &subscriber).await?);
    assert_no_faults(&judge(&zoo, &journal, &publisher, &subscriber, 5).await?);

    // And back again, which is what the watcher is for.
    watcher.look().await?;
    subscriber.query_one("SELECT setval('zoo.shared', 1)", &[]).await?;
    watcher.look().await?;
    let watched = watcher.stop().await?;
    assert!(watched.rounds > 10, "{watched:?}");
    assert_eq!(watched.setbacks.len(), 1, "{watched:?}");
    assert_eq!(watched.setbacks[0].sequence, "zoo.shared");
    Ok(())
}

/// Waits until the load has drawn this many ids.
async fn draws(load: &Load, ids: usize) {
    wait_until(&format!("{ids} ids"), PATIENCE, async || {
        let drawn = load.journal().len();
        Ok(Probe::when(drawn >= ids, || format!("{drawn} ids")))
    })
    .await
    .unwrap();
}

/// The load goes on over a crash of the publisher. A row is there only if its INSERT was answered before the COMMIT was
/// sent, so the journal has the id of every row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_journal_survives_a_crash_of_the_publisher() {
    let pair = Pair::new(15, 15).await.unwrap();
    let zoo = zoo::all();
    let subscriber = pair.on_subscriber().await.unwrap();
    zoo.create(&pair.on_publisher().await.unwrap(), &subscriber).await.unwrap();
    let options = LoadOptions { survive_outages: true, ..LoadOptions::default() };
    let load = Load::start(&pair.publisher_conninfo(), &zoo, options);
    draws(&load, 500).await;
    pair.publisher.kill9();
    let before = load.journal().len();
    pair.publisher.resume().unwrap();
    draws(&load, before + 500).await;
    let journal = load.stop().await.unwrap();

    let publisher = pair.on_publisher().await.unwrap();
    for (index, sequence) in zoo.sequences.iter().enumerate() {
        let known = journal.ids(index);
        for consumer in &sequence.consumers {
            let sql = format!("SELECT {} FROM {}", consumer.number, consumer.table);
            for row in publisher.query(&sql, &[]).await.unwrap() {
                let id: i64 = row.get(0);
                assert!(known.contains(&id), "{id} of {} is not in the journal", sequence.name);
            }
        }
    }
}

#[test]
fn the_program_under_test_is_built() {
    assert!(proto_tests::binary::binary().is_file());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_and_subscriptions_take_the_options_of_new_majors() {
    let pair = Pair::new(17, 18).await.unwrap();
    let ddl = "CREATE TABLE t (id serial PRIMARY KEY, secret text, n int); \
               CREATE TABLE p (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at); \
               CREATE TABLE p_low PARTITION OF p FOR VALUES FROM (0) TO (10)";
    pair.on_both(ddl).await.unwrap();
    let publication = Publication::of("narrow", &["t (id, n) WHERE (id > 1)"]).only("insert, truncate");
    pair.publish(&publication).await.unwrap();
    pair.publish(&Publication::of("rooted", &["p"]).via_partition_root()).await.unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    publisher
        .batch_execute("SELECT pg_create_logical_replication_slot('made_before', 'pgoutput', false, true)")
        .await
        .unwrap();
    let subscription = Subscription {
        slot: Some("made_before".to_owned()),
        streaming: Some("parallel"),
        binary: Some(true),
        two_phase: Some(true),
        origin: Some("none"),
        ..Subscription::to("sub", &["narrow", "rooted"])
    };
    pair.subscribe(&subscription).await.unwrap();
    pair.wait_for_sync().await.unwrap();
    publisher
        .batch_execute("INSERT INTO t (secret, n) VALUES ('a', 1), ('b', 2); INSERT INTO p VALUES (1, 5)")
        .await
        .unwrap();
    let lsn = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(subscription.slot_name(), lsn).await.unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    let row =
        subscriber.query_one("SELECT id, secret, (SELECT count(*) FROM p_low) FROM t", &[]).await.unwrap();
    assert_eq!((row.get::<_, i32>(0), row.get::<_, Option<&str>>(1), row.get::<_, i64>(2)), (2, None, 1));

    // The role for the sidecar gets no further than it must.
    pair.grant(&["public"]).await.unwrap();
    let shadow = proto_tests::sql::connect(&pair.shadow_subscriber_conninfo()).await.unwrap();
    shadow.query_one("SELECT setval('t_id_seq', 100)", &[]).await.unwrap();
    assert!(shadow.execute("INSERT INTO t (n) VALUES (1)", &[]).await.is_err());
}
