//! Promise 6: a sequence that is locked on the subscriber (a truncate being applied) delays only itself.

use proto_tests::pair::{Pair, confirmed};
use proto_tests::sequence::{state, wait_past};
use proto_tests::sidecar::{SLOT, command, start};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use std::time::{Duration, Instant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_locked_sequence_waits_and_its_ids_are_not_confirmed_meanwhile() {
    let pair = Pair::new(15, 15).await.unwrap();
    let tables: String = (0..40).map(|i| format!("CREATE TABLE t{i} (id serial PRIMARY KEY);")).collect();
    pair.replicate(&tables).await.unwrap();
    let shadow = start(&pair, &["--lead=5", "--status-interval=200ms"]).unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();

    let truncating = pair.on_subscriber().await.unwrap();
    truncating.batch_execute("BEGIN; TRUNCATE t7 RESTART IDENTITY").await.unwrap();
    shadow.wait_for_line("the sequence is held", PATIENCE).unwrap();

    // The locked one gets ids too; only then does it hold back what is confirmed.
    publisher
        .batch_execute("INSERT INTO t7 SELECT nextval('t7_id_seq') FROM generate_series(1, 50)")
        .await
        .unwrap();
    let locked_at = pair.publisher_lsn().await.unwrap();
    for round in 1..=20 {
        for table in [0, 6, 8, 39] {
            let sql =
                format!("INSERT INTO t{table} SELECT nextval('t{table}_id_seq') FROM generate_series(1, 20)");
            publisher.batch_execute(&sql).await.unwrap();
            wait_past(&subscriber, &format!("t{table}_id_seq"), round * 20).await.unwrap();
        }
    }
    assert!(confirmed(&publisher, SLOT).await.unwrap().is_some_and(|confirmed| confirmed < locked_at));
    let lines = shadow.stderr_lines();
    let held = lines.iter().filter(|line| line.contains("the sequence is held")).count();
    let released = lines.iter().filter(|line| line.contains("is followed again")).count();
    assert_eq!((held, released), (1, 0), "said once, not at each try: {lines:#?}");
    assert!(lines.iter().any(|line| line.contains("t7_id_seq") && line.contains("locked on the subscriber")));

    truncating.batch_execute("ROLLBACK").await.unwrap();
    wait_past(&subscriber, "t7_id_seq", 50).await.unwrap();
    shadow.wait_for_line("is followed again", PATIENCE).unwrap();
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();

    // The same truncate, committed this time: it went back, and is put ahead again.
    let seen = shadow.stderr_lines().len();
    truncating.batch_execute("BEGIN; TRUNCATE t7 RESTART IDENTITY").await.unwrap();
    shadow.wait_for_line_after(seen, "the sequence is held", PATIENCE).unwrap();
    truncating.batch_execute("COMMIT").await.unwrap();
    wait_past(&subscriber, "t7_id_seq", 50).await.unwrap();
    shadow.wait_for_line_after(seen, "the sequence went back", PATIENCE).unwrap();
}

/// A migration that truncates a whole schema: the others must not wait for one lock after the other.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_locked_sequences_delay_only_themselves() {
    const LOCKED: usize = 400;
    let pair = Pair::new(15, 16).await.unwrap();
    let ddl: String = (0..LOCKED).map(|i| format!("CREATE TABLE t{i} (id serial PRIMARY KEY);")).collect();
    pair.on_both(&format!("{ddl} CREATE TABLE free (id serial PRIMARY KEY)")).await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.replicate_all().await.unwrap();
    let (publisher, subscriber) = (pair.on_publisher().await.unwrap(), pair.on_subscriber().await.unwrap());
    let locking = pair.on_subscriber().await.unwrap();
    let lock = |sequence| format!("ALTER SEQUENCE {sequence} OWNER TO CURRENT_USER;");
    let sql: String = (0..LOCKED).map(|i| lock(format!("t{i}_id_seq"))).collect();

    // Some are locked from the start, and all of them want to be moved.
    locking.batch_execute(&format!("BEGIN; {sql}")).await.unwrap();
    let shadow = command(&pair, &[]).spawn().unwrap();
    shadow.wait_for_line("streaming", PATIENCE).unwrap();
    let one_each: String = (0..LOCKED).map(|i| format!("INSERT INTO t{i} DEFAULT VALUES;")).collect();
    for round in 1..=10 {
        publisher.batch_execute(&format!("BEGIN; {one_each} COMMIT")).await.unwrap();
        publisher
            .batch_execute("INSERT INTO free SELECT nextval('free_id_seq') FROM generate_series(1, 300)")
            .await
            .unwrap();
        let asked = Instant::now();
        wait_past(&subscriber, "free_id_seq", round * 300).await.unwrap();
        // Each try of a locked one takes 50 ms: all of them one by one would take 20 s.
        assert!(asked.elapsed() < Duration::from_secs(10), "{:?}", asked.elapsed());
    }
    locking.batch_execute("ROLLBACK").await.unwrap();
    for i in [0, 7, LOCKED - 1] {
        wait_past(&subscriber, &format!("t{i}_id_seq"), 10).await.unwrap();
    }
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
}

/// What was confirmed before the subscriber went away is confirmed on after it is back, also where nothing moves.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_reconnect_quiet_sequences_hold_nothing_back() {
    let pair = Pair::new(15, 16).await.unwrap();
    pair.replicate("CREATE TABLE quiet (id serial PRIMARY KEY); CREATE TABLE busy (id serial PRIMARY KEY)")
        .await
        .unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    publisher
        .batch_execute("INSERT INTO quiet DEFAULT VALUES; INSERT INTO busy DEFAULT VALUES")
        .await
        .unwrap();
    wait_past(&subscriber, "quiet_id_seq", 1).await.unwrap();
    wait_past(&subscriber, "busy_id_seq", 1).await.unwrap();
    subscriber
        .batch_execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'shadow'")
        .await
        .unwrap();
    shadow.wait_for_line("the subscriber is back", PATIENCE).unwrap();
    publisher
        .batch_execute("INSERT INTO busy SELECT nextval('busy_id_seq') FROM generate_series(1, 500)")
        .await
        .unwrap();
    wait_past(&subscriber, "busy_id_seq", 501).await.unwrap();
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
    wait_until("quiet as it was", PATIENCE, async || {
        let quiet = state(&subscriber, "quiet_id_seq").await?.last_value;
        Ok(Probe::when((1..100).contains(&quiet), || quiet.to_string()))
    })
    .await
    .unwrap();
}
