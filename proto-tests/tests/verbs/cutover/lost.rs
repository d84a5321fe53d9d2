//! `cutover --publisher-lost`: what rows cannot tell is left a margin, or said not to be known.

use super::{at_rest, run};
use proto_tests::sequence::state;
use proto_tests::shadow::Finished;
use proto_tests::stage::Stage;
use proto_tests::verb;

fn lost(stage: &Stage, flags: &[&str]) -> Finished {
    let mut all = vec!["--publisher-lost"];
    all.extend(flags);
    verb::run(&stage.pair, "cutover", &all).unwrap()
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[track_caller]
fn is_narrow(finished: &Finished) {
    for line in finished.stdout.lines().chain(finished.stderr.lines()) {
        assert!(line.chars().count() <= 80, "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_rows_are_deleted_has_a_margin() {
    let ddl = "CREATE TABLE jobs (id bigserial PRIMARY KEY, note text);
        CREATE TABLE quiet (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)";
    let stage = Stage::replicating(15, 17, ddl).await.unwrap();
    let work = "INSERT INTO jobs (note) SELECT 'x' FROM generate_series(1, 1000); DELETE FROM jobs";
    stage.on_publisher(work).await;
    stage.pair.catch_up().await.unwrap();
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    let before = stage.next("jobs_id_seq").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO jobs (note) SELECT 'stays there' FROM generate_series(1, 500)").await;
    stage.pair.publisher.kill9();
    let first = lost(&stage, &[]);
    assert_eq!(first.code(), 0, "{}", first.all());
    assert!(words(&first.stdout).contains("2 sequences moved, 0 in place"), "{}", first.all());
    is_narrow(&first);
    assert_eq!(stage.next("jobs_id_seq").await, before + 100_000);
    assert!(stage.next("quiet_id_seq").await > 100_000, "nor is it known that nobody called it there");
    let second = lost(&stage, &["--margin=500"]);
    assert_eq!(second.code(), 0, "{}", second.all());
    assert!(words(&second.stdout).contains("each run adds one more"), "{}", second.all());
    assert_eq!(stage.next("jobs_id_seq").await, before + 100_500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_may_cycle_is_named_with_what_helps_to_decide() {
    let ddl = "CREATE SEQUENCE ring MAXVALUE 1000 CYCLE;
        CREATE TABLE \"Slots\" (no int PRIMARY KEY DEFAULT nextval('ring'), note text)";
    let stage = Stage::replicating(14, 18, ddl).await.unwrap();
    stage.on_publisher("INSERT INTO \"Slots\" (note) SELECT 'x' FROM generate_series(1, 50)").await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    stage.pair.publisher.kill9();
    let said = lost(&stage, &[]);
    assert_eq!(said.code(), 1, "{}", said.all());
    let text = words(&said.stdout);
    assert!(text.contains("0 sequences moved, 0 in place"), "{text}");
    assert!(text.contains("NOT moved: public.ring: it may CYCLE"), "{text}");
    assert!(text.contains("left where it stood, at 50"), "{text}");
    assert!(text.contains("SELECT min(no), max(no), count(*) FROM public.\"Slots\";"), "{text}");
    assert!(text.contains("SELECT setval('public.ring', VALUE);"), "{text}");
    is_narrow(&said);
    let json = lost(&stage, &["--json"]).json().unwrap();
    assert_eq!(json["failed"].as_array().unwrap().len(), 1, "{json}");
    assert_eq!(state(&stage.subscriber, "ring").await.unwrap().last_value, 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_still_sends_is_not_lost() {
    for (publisher, subscriber) in [(16, 18), (12, 13)] {
        let stage = at_rest(publisher, subscriber).await;
        let before = stage.next("orders_id_seq").await;
        // A typing error in the port, and a role that may not read where the subscription leads to.
        let nowhere = "--publisher=host=127.0.0.1 port=1 dbname=shop";
        let refused = lost(&stage, &[nowhere]);
        assert_eq!(refused.code(), 4, "{}", refused.all());
        assert!(words(&refused.all()).contains("subscription sub gets a stream"), "{}", refused.all());
        assert_eq!(stage.next("orders_id_seq").await, before);
        // One that may read it finds the publisher there.
        let admin = format!("--subscriber={}", stage.pair.subscriber_conninfo());
        let refused = lost(&stage, &[nowhere, &admin]);
        assert_eq!(refused.code(), 4, "{}", refused.all());
        assert!(words(&refused.all()).contains("answers"), "{}", refused.all());
        assert_eq!(stage.next("orders_id_seq").await, before);
        // Whoever knows better says so on the subscriber.
        stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
        let done = lost(&stage, &[nowhere, &admin]);
        assert_eq!(done.code(), 0, "{}", done.all());
        assert!(stage.next("orders_id_seq").await > 100_000);
    }
}

/// A bigint sequence past the end of the int column that it fills: nextval works, and the INSERT fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_past_the_end_of_its_column_is_not_proven() {
    let ddl = "CREATE SEQUENCE s; CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('s'), note text)";
    let stage = Stage::replicating(14, 17, ddl).await.unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 10)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("SELECT setval('s', 2147483646)").await;
    let verified = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert_eq!(verified.code(), 0, "one is left: {}", verified.all());
    stage.on_subscriber("SELECT setval('s', 2147483647)").await;
    let verified = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert_eq!(verified.code(), 1, "{}", verified.all());
    let text = words(&verified.stdout);
    assert!(text.contains("ALTER TABLE public.t ALTER COLUMN id TYPE bigint;"), "{text}");
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 1, "{}", cut.all());
    assert!(stage.subscriber.batch_execute("INSERT INTO t (note) VALUES ('app')").await.is_err());
}
