//! No more is said than is known: a column that was not read, a sequence that the publisher lacks, one that cycles.

use super::{at_rest, blocker, cuts_over, database_settings, run};
use proto_tests::sequence::state;
use proto_tests::shadow::Finished;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::Value;
use std::path::Path;

/// What `verify --json` or a certificate says of a sequence.
fn proof(document: &Value, sequence: &str) -> Value {
    let of = if document["databases"].is_null() { document } else { &document["databases"][0] };
    let found = of["sequences"].as_array().unwrap().iter().find(|one| one["sequence"] == sequence);
    found.unwrap_or_else(|| panic!("{sequence}: {document}")).clone()
}

fn verified(stage: &Stage, flags: &[&str]) -> (i32, Value) {
    let mut all = vec!["--json"];
    all.extend(flags);
    let verified = verb::run(&stage.pair, "verify", &all).unwrap();
    (verified.code(), verified.json().unwrap())
}

fn certificate(directory: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join("certificate.json")).unwrap()).unwrap()
}

/// As one line.
fn words(finished: &Finished) -> String {
    finished.all().split_whitespace().collect::<Vec<_>>().join(" ")
}

async fn last_value(stage: &Stage, sequence: &str) -> (i64, bool) {
    let state = state(&stage.subscriber, sequence).await.unwrap();
    (state.last_value, state.is_called)
}

/// A pair in step, whose subscriber has rows of its own in orders that `hidden` keeps from being seen there; and why
/// `verify` calls the sequence unproven.
async fn with_unseen_rows(publisher: u32, subscriber: u32, hidden: &str) -> (Stage, String) {
    let stage = at_rest(publisher, subscriber).await;
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    stage.on_subscriber(hidden).await;
    let own = "INSERT INTO orders (id, note) SELECT g, 'local' FROM generate_series(501, 3000) g";
    stage.on_subscriber(own).await;
    let (code, verdicts) = verified(&stage, &[]);
    let orders = proof(&verdicts, "public.orders_id_seq");
    assert_eq!((code, orders["verdict"].as_str()), (1, Some("unproven")), "{orders}");
    assert_eq!(proof(&verdicts, "public.items_id_seq")["verdict"], "past");
    (stage, orders["reason"].as_str().unwrap().to_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishers_column_does_not_speak_for_the_subscribers_without_an_index() {
    let (stage, reason) = with_unseen_rows(15, 18, "ALTER TABLE orders DROP CONSTRAINT orders_pkey").await;
    assert!(reason.contains("public.orders.id was not looked at") && reason.contains("--full"), "{reason}");
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
    assert!(words(&cut).contains("--full"), "{}", cut.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    // A scan finds them, and they are passed.
    cuts_over(&stage.pair, directory.path(), &["--stop-writes", "--full"]);
    stage
        .on_subscriber("ALTER TABLE orders ADD PRIMARY KEY (id); INSERT INTO orders (note) VALUES ('after')")
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishers_column_does_not_speak_for_the_subscribers_without_a_right() {
    let (stage, reason) = with_unseen_rows(16, 14, "REVOKE SELECT ON orders FROM shadow").await;
    let grant = "GRANT SELECT (id) ON public.orders TO shadow;";
    assert!(reason.contains(grant), "{reason}");
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
    assert!(words(&cut).contains(grant), "{}", cut.all());
    // What it says to do is enough.
    stage.on_subscriber(grant).await;
    cuts_over(&stage.pair, directory.path(), &["--stop-writes"]);
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('after')").await;
}

/// Row-level security hides the rows from our role: they are not taken as absent, whichever way they are looked for.
async fn hidden_rows_are_not_absent(publisher: u32, subscriber: u32, hidden: &str, depth: Option<&str>) {
    let (stage, reason) = with_unseen_rows(publisher, subscriber, hidden).await;
    let mend = "ALTER ROLE shadow BYPASSRLS;";
    assert!(reason.contains(mend) && reason.contains("row-level security"), "{reason}");
    assert!(!reason.contains("GRANT") && !reason.contains("--full"), "{reason}");
    let directory = tempfile::tempdir().unwrap();
    for flags in [&["--stop-writes", "--full"][..], &["--stop-writes"]] {
        let cut = run(&stage.pair, directory.path(), flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
        assert!(words(&cut).contains(mend), "{}", cut.all());
    }
    let (code, verdicts) = verified(&stage, &["--full"]);
    let orders = proof(&verdicts, "public.orders_id_seq");
    assert_eq!((code, orders["verdict"].as_str()), (1, Some("unproven")), "{orders}");
    assert!(orders["reason"].as_str().unwrap().contains(mend), "{orders}");
    // A policy that shows them all is no proof that it does.
    stage.on_subscriber("CREATE POLICY all_rows ON orders FOR SELECT TO shadow USING (true)").await;
    assert_eq!(verified(&stage, &["--full"]).0, 1);
    stage.on_subscriber(mend).await;
    let flags: Vec<&str> = ["--stop-writes"].into_iter().chain(depth).collect();
    cuts_over(&stage.pair, directory.path(), &flags);
    assert!(last_value(&stage, "orders_id_seq").await.0 > 3000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_row_level_security_hides_are_not_absent() {
    hidden_rows_are_not_absent(17, 13, "ALTER TABLE orders ENABLE ROW LEVEL SECURITY", None).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_row_level_security_hides_are_not_absent_without_an_index() {
    let hidden = "ALTER TABLE orders DROP CONSTRAINT orders_pkey, ENABLE ROW LEVEL SECURITY";
    hidden_rows_are_not_absent(14, 18, hidden, Some("--full")).await;
}

/// Neither the right nor the policy: both are named, and the two together are enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_table_without_a_right_to_read_it_needs_both() {
    let hidden = "REVOKE SELECT ON orders FROM shadow; ALTER TABLE orders ENABLE ROW LEVEL SECURITY";
    let (stage, reason) = with_unseen_rows(16, 12, hidden).await;
    for mend in ["GRANT SELECT (id) ON public.orders TO shadow;", "ALTER ROLE shadow BYPASSRLS;"] {
        assert!(reason.contains(mend), "{reason}");
        stage.on_subscriber(mend).await;
    }
    let directory = tempfile::tempdir().unwrap();
    cuts_over(&stage.pair, directory.path(), &["--stop-writes"]);
}

/// The ids are made there by a trigger, from a sequence of another name; the highest rows are gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_that_the_publisher_lacks_is_past_the_rows_only() {
    let stage = Stage::with(13, 17, "CREATE TABLE other (x serial PRIMARY KEY)").await.unwrap();
    stage
        .on_publisher(
            "CREATE SEQUENCE old_no; CREATE TABLE t (id bigint PRIMARY KEY, note text);
             CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql
             AS $$BEGIN NEW.id := nextval('public.old_no'); RETURN NEW; END$$;
             CREATE TRIGGER g BEFORE INSERT ON t FOR EACH ROW EXECUTE FUNCTION f()",
        )
        .await;
    stage
        .on_subscriber("CREATE TABLE t (id bigint GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text)")
        .await;
    stage.pair.grant(&["public"]).await.unwrap();
    stage.pair.replicate_all().await.unwrap();
    stage
        .on_publisher(
            "INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 300); DELETE FROM t WHERE id > 50",
        )
        .await;
    stage.pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(
        words(&cut).contains(
            "YES: 1 sequence of 1 database proven past everything, 1 more past the ids in its tables only."
        ),
        "{}",
        cut.all()
    );
    assert!(words(&cut).contains("ids of deleted rows are not known"), "{}", cut.all());
    let certified = certificate(directory.path());
    let one = proof(&certified, "public.t_id_seq");
    assert_eq!(one["verdict"], "past_rows", "{one}");
    assert!(certified["databases"][0]["notes"].to_string().contains("public.t_id_seq"), "{certified}");
    assert_eq!(proof(&certified, "public.other_x_seq")["verdict"], "past");
    let (code, verdicts) = verified(&stage, &[]);
    let one = proof(&verdicts, "public.t_id_seq");
    assert_eq!((code, one["verdict"].as_str()), (0, Some("past_rows")), "{one}");
    assert!(one["reason"].as_str().unwrap().contains("no such sequence"), "{one}");
    let told = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert!(words(&told).contains("1 sequence past the ids in its tables"), "{}", told.all());
    assert!(words(&told).contains("1 sequence proven: every next value"), "{}", told.all());
}

const CYCLES: &str = "CREATE SEQUENCE c MAXVALUE 1000000 CYCLE;
CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('c'), note text)";

async fn cycling(publisher: u32, subscriber: u32) -> Stage {
    let stage = Stage::replicating(publisher, subscriber, CYCLES).await.unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 30)").await;
    stage.pair.catch_up().await.unwrap();
    stage
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cycles_has_the_publishers_state_and_no_more_is_said() {
    let stage = cycling(15, 17).await;
    // Ids that it has not come to yet.
    stage.on_publisher("INSERT INTO t (id) SELECT g FROM generate_series(31, 60) g").await;
    stage.pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(
        words(&cut).contains(
            "YES: 0 sequences of 1 database proven past everything, 1 more at the publisher's state only (CYCLE)."
        ),
        "{}",
        cut.all()
    );
    let certified = certificate(directory.path());
    assert_eq!(proof(&certified, "public.c")["verdict"], "as_publisher", "{certified}");
    let notes = certified["databases"][0]["notes"].to_string();
    assert!(notes.contains("public.c has the publisher's state") && notes.contains("collisions"), "{notes}");
    let (code, verdicts) = verified(&stage, &[]);
    let one = proof(&verdicts, "public.c");
    assert_eq!((code, one["verdict"].as_str()), (0, Some("as_publisher")), "{one}");
    let told = verb::run(&stage.pair, "verify", &[]).unwrap();
    assert!(!words(&told).contains("every next value is past"), "{}", told.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cycles_is_not_set_back_unless_that_is_asked_for() {
    let stage = cycling(14, 16).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    // The application has come here, and draws.
    stage.on_subscriber("INSERT INTO t (note) SELECT 'new' FROM generate_series(1, 400)").await;
    let drawn = (430, true);
    assert_eq!(last_value(&stage, "public.c").await, drawn);

    let (code, verdicts) = verified(&stage, &[]);
    let one = proof(&verdicts, "public.c");
    assert_eq!((code, one["verdict"].as_str()), (1, Some("unproven")), "{one}");
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    assert!(
        words(&synced).contains("public.c: ") && words(&synced).contains("--cycle-back"),
        "{}",
        synced.all()
    );
    assert!(words(&synced).contains("0 sequences moved"), "{}", synced.all());
    assert_eq!(last_value(&stage, "public.c").await, drawn);
    let dry = verb::run(&stage.pair, "sync", &["--dry-run"]).unwrap();
    assert!(words(&dry).contains("0 sequences to move, 0 in place, 1 held"), "{}", dry.all());

    let again = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!((again.code(), blocker(&again).as_str()), (1, "sequence-unproven"), "{}", again.all());
    assert!(words(&again).contains("--cycle-back"), "{}", again.all());
    assert_eq!(last_value(&stage, "public.c").await, drawn);

    let plan = verb::run(&stage.pair, "plan", &[]).unwrap();
    assert_eq!(plan.code(), 1, "{}", plan.all());
    assert!(plan.stdout.contains("-- HELD public.c: "), "{}", plan.all());
    assert!(plan.stdout.contains("\n-- SELECT setval('public.c', 30, true) FROM public.c"), "{}", plan.all());
    assert!(!plan.stdout.contains("\nSELECT setval"), "{}", plan.all());

    // Whoever says so has it set back.
    let plan = verb::run(&stage.pair, "plan", &["--cycle-back"]).unwrap();
    assert_eq!(plan.code(), 0, "{}", plan.all());
    assert!(plan.stdout.contains("\nSELECT setval('public.c', 30, true) FROM public.c;"), "{}", plan.all());
    let dry = verb::run(&stage.pair, "sync", &["--dry-run", "--cycle-back"]).unwrap();
    assert!(words(&dry).contains("1 sequence to move"), "{}", dry.all());
    assert_eq!(last_value(&stage, "public.c").await, drawn);
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", "--cycle-back"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert_eq!(last_value(&stage, "public.c").await, (30, true));
    stage.on_subscriber("SELECT setval('c', 600)").await;
    let synced = verb::run(&stage.pair, "sync", &["--cycle-back"]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    assert_eq!(last_value(&stage, "public.c").await, (30, true));
}

/// Downwards further is lower; and what the subscriber was never asked for is no reason to leave it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_is_meant_in_its_own_direction() {
    let ddl = "CREATE SEQUENCE down INCREMENT -1 MINVALUE -1000 CYCLE; CREATE SEQUENCE high START 500 CYCLE";
    let stage = Stage::with(12, 18, ddl).await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.pair.replicate_all().await.unwrap();
    stage.on_publisher("SELECT nextval('down') FROM generate_series(1, 30); SELECT setval('high', 7)").await;
    stage.on_subscriber("SELECT setval('down', -10)").await;
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    assert_eq!(last_value(&stage, "public.down").await, (-30, true));
    assert_eq!(last_value(&stage, "public.high").await, (7, true));
    stage.on_subscriber("SELECT setval('down', -40)").await;
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 1, "{}", synced.all());
    assert_eq!(last_value(&stage, "public.down").await, (-40, true));
}
