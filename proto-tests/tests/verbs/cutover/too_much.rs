//! No more is said than is known: of a column that was not read.

use super::{at_rest, blocker, cuts_over, database_settings, run};
use proto_tests::shadow::Finished;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::Value;

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

/// As one line.
fn words(finished: &Finished) -> String {
    finished.all().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publishers_column_does_not_speak_for_the_subscribers_without_an_index() {
    let stage = at_rest(15, 18).await;
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    stage
        .on_subscriber(
            "ALTER TABLE orders DROP CONSTRAINT orders_pkey;
             INSERT INTO orders (id, note) SELECT g, 'local' FROM generate_series(501, 3000) g",
        )
        .await;
    let (code, verdicts) = verified(&stage, &[]);
    let orders = proof(&verdicts, "public.orders_id_seq");
    assert_eq!((code, orders["verdict"].as_str()), (1, Some("unproven")), "{orders}");
    let reason = orders["reason"].as_str().unwrap();
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
    let stage = at_rest(16, 14).await;
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    stage
        .on_subscriber(
            "REVOKE SELECT ON orders FROM shadow;
             INSERT INTO orders (id, note) SELECT g, 'local' FROM generate_series(501, 3000) g",
        )
        .await;
    let (code, verdicts) = verified(&stage, &[]);
    let orders = proof(&verdicts, "public.orders_id_seq");
    assert_eq!((code, orders["verdict"].as_str()), (1, Some("unproven")), "{orders}");
    let grant = "GRANT SELECT (id) ON public.orders TO shadow;";
    assert!(orders["reason"].as_str().unwrap().contains(grant), "{orders}");
    assert_eq!(proof(&verdicts, "public.items_id_seq")["verdict"], "past");
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sequence-unproven"), "{}", cut.all());
    assert!(words(&cut).contains(grant), "{}", cut.all());
    // What it says to do is enough.
    stage.on_subscriber(grant).await;
    cuts_over(&stage.pair, directory.path(), &["--stop-writes"]);
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('after')").await;
}
