//! What a gate must not overlook: publications of our own, subscriptions, sessions and sequences on the margin.

use super::{at_rest, blocker, command, confirm, database_settings, run};
use proto_tests::pair::DATABASE;
use proto_tests::sql::{connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::verb;

/// Our own publication shows the id column only, the subscription's shows all of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publication_of_other_columns() {
    let stage = at_rest(15, 17).await;
    stage.on_publisher("CREATE PUBLICATION narrow FOR TABLE orders (id), items (id)").await;
    let writer = stage.pair.on_publisher().await.unwrap();
    let writer = tokio::spawn(async move {
        while writer.batch_execute("INSERT INTO orders (note) VALUES ('load')").await.is_ok() {}
    });
    wait_for(&stage.pair.publisher_conninfo(), "rows", "SELECT count(*) > 550 FROM orders").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--publication=narrow", "--stop-writes"]);
    writer.abort();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
    // The same for an applier of which only the slot is known: there both are read.
    let publisher = stage.pair.on_publisher().await.unwrap();
    for sql in ["SET default_transaction_read_only = off", "INSERT INTO orders (note) VALUES ('one more')"] {
        publisher.batch_execute(sql).await.unwrap();
    }
    let flags = ["--publication=narrow", "--stop-writes", "--applier-slot=sub"];
    let cut = run(&stage.pair, directory.path(), &flags);
    assert_eq!(cut.code(), 0, "{}", cut.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_needs_no_subscriber() {
    let stage = at_rest(16, 18).await;
    stage.on_publisher("ALTER DATABASE shop SET default_transaction_read_only = on").await;
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    let away = "--subscriber=host=127.0.0.1 port=1 dbname=x";
    let abort = verb::run(&stage.pair, "cutover", &["--abort", &publisher, away]).unwrap();
    assert_eq!(abort.code(), 0, "{}", abort.all());
    assert!(database_settings(&stage.pair).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unlogged_sequence_of_the_subscriber_alone() {
    let stage = at_rest(15, 18).await;
    stage.on_subscriber("ALTER TABLE items SET UNLOGGED").await;
    let verify = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert!(verify.code() == 1 && verify.stdout.contains("SET LOGGED"), "{}", verify.all());
    let check = verb::run(&stage.pair, "check", &["--json"]).unwrap();
    assert!(check.stdout.contains("sequence-unlogged"), "{}", check.all());
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    // Whoever leaves it out is told so in the certificate.
    let flags = ["--stop-writes", "--exclude-sequence=public.items_id_seq"];
    let cut = run(&stage.pair, directory.path(), &flags);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(cut.stdout.contains("items_id_seq is not part of the proof"), "{}", cut.all());
}

/// Made on both sides while the cutover waits, after its first look.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_is_made_meanwhile() {
    let stage = at_rest(14, 17).await;
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE").await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) VALUES ('late')").await;
    let directory = tempfile::tempdir().unwrap();
    let mut cut = command(&stage.pair, directory.path(), &["--wait=60s"]).spawn().unwrap();
    // It has looked, and waits for the old backlog.
    let waits = "SELECT count(*) > 0 FROM pg_stat_activity WHERE query LIKE '%pg_logical_emit_message%' AND pid <> pg_backend_pid()";
    wait_for(&stage.pair.publisher_conninfo(), "it to wait", waits).await.unwrap();
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("INSERT INTO late SELECT FROM generate_series(1, 77)").await;
    holder.batch_execute("ROLLBACK").await.unwrap();
    let status = cut.wait_exit(proto_tests::sql::PATIENCE).unwrap();
    let output = cut.stdout_lines().join("\n");
    assert_eq!(status.code(), Some(1), "{output}");
    assert!(output.contains("NO: table-not-subscribed"), "{output}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_subscription_whose_slot_is_gone() {
    let stage = super::two_subscriptions(17, 16).await;
    let flags = ["--subscription=a", "--stop-writes", "--wait=20s"];
    let directory = tempfile::tempdir().unwrap();
    for (sql, code) in [
        ("ALTER SUBSCRIPTION b DISABLE", "subscription-disabled"),
        ("ALTER SUBSCRIPTION b SET (slot_name = NONE)", "subscription-without-slot"),
        ("ALTER SUBSCRIPTION b SET (slot_name = 'nowhere')", "slot-missing"),
    ] {
        stage.on_subscriber(sql).await;
        let cut = run(&stage.pair, directory.path(), &flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, code), "{}", cut.all());
    }
    assert!(database_settings(&stage.pair).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_bears_our_name() {
    let stage = at_rest(16, 17).await;
    stage.on_publisher("GRANT ALL ON orders, orders_id_seq TO app").await;
    let address = format!("{} application_name=seqshadow", stage.pair.publisher.conninfo_as("app", DATABASE));
    let named = connect(&address).await.unwrap();
    let named_so = "SHOW application_name";
    assert_eq!(named.query_one(named_so, &[]).await.unwrap().get::<_, String>(0), "seqshadow");
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    let late = named.batch_execute("INSERT INTO orders (note) VALUES ('late')").await;
    assert!(late.is_err(), "its session has ended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_nothing_stops() {
    let stage = at_rest(13, 16).await;
    let directory = tempfile::tempdir().unwrap();
    let certificate = directory.path().join("certificate.json");
    let cut = run(&stage.pair, directory.path(), &["--unknown-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "writes-not-stopped"), "{}", cut.all());
    assert!(!certificate.exists());
    let rehearsed = run(&stage.pair, directory.path(), &["--unknown-writes", "--dry-run"]);
    assert_eq!(
        (rehearsed.code(), blocker(&rehearsed).as_str()),
        (1, "writes-not-stopped"),
        "{}",
        rehearsed.all()
    );
    // The operator's word, and then his setting.
    let cut = run(&stage.pair, directory.path(), &[]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(std::fs::read_to_string(&certificate).unwrap().contains("is the operator's word"));
    stage.on_publisher("ALTER DATABASE shop SET default_transaction_read_only = on").await;
    // A session that is older than the setting writes on.
    let older = run(&stage.pair, directory.path(), &["--unknown-writes"]);
    assert_eq!((older.code(), blocker(&older).as_str()), (1, "sessions-may-write"), "{}", older.all());
    let Stage { pair, publisher, .. } = stage;
    drop(publisher);
    let admin = connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    super::sessions_gone(&pair, "true").await;
    // Nor does a role keep to it that has a setting of its own.
    admin.batch_execute("ALTER ROLE app SET default_transaction_read_only = off").await.unwrap();
    let exempt = run(&pair, directory.path(), &["--unknown-writes"]);
    assert_eq!((exempt.code(), blocker(&exempt).as_str()), (1, "role-writes-on"), "{}", exempt.all());
    admin.batch_execute("ALTER ROLE app RESET default_transaction_read_only").await.unwrap();
    let cut = run(&pair, directory.path(), &["--unknown-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(!std::fs::read_to_string(&certificate).unwrap().contains("operator's word"));
}

/// Another server, with the same tables and a slot of the same name that somebody confirms on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_is_another_one() {
    let ours = at_rest(16, 18).await;
    let theirs = at_rest(16, 17).await;
    let directory = tempfile::tempdir().unwrap();
    let publisher = format!("--publisher={}", theirs.pair.publisher_conninfo());
    let certificate = format!("--certificate={}", directory.path().join("certificate.json").display());
    let flags = [publisher.as_str(), certificate.as_str(), "--writes-stopped", "--wait=3s"];
    // Whichever of the two has written more.
    for ahead in [&ours, &theirs] {
        for _ in 0..3 {
            ahead.on_publisher("SELECT pg_switch_wal(); SELECT pg_logical_emit_message(true, 'x', '')").await;
        }
        ahead.pair.catch_up().await.unwrap();
        let cut = verb::run(&ours.pair, "cutover", &flags).unwrap();
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "not-its-publisher"), "{}", cut.all());
        // The other one is to be ahead of both.
        for _ in 0..4 {
            theirs
                .on_publisher("SELECT pg_switch_wal(); SELECT pg_logical_emit_message(true, 'x', '')")
                .await;
        }
    }
}

/// Its slot says how far the ids are that were seen, and nothing of rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_applier_slot_that_is_a_seqshadow() {
    let stage = at_rest(14, 17).await;
    let shadow = proto_tests::sidecar::start(&stage.pair, &[]).unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO orders (note) SELECT 'unseen' FROM generate_series(1, 100)").await;
    let directory = tempfile::tempdir().unwrap();
    for flags in [&["--slot=ours", "--applier-slot=ours"][..], &["--applier-slot=ours"]] {
        let cut = run(&stage.pair, directory.path(), flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "applier-is-seqshadow"), "{}", cut.all());
    }
    drop(shadow);
}
