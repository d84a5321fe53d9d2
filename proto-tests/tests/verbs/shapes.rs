//! The JSON of every verb keeps its shape: names of fields and types of values, compared with what is stored. Where a version
//! of a schema is out, fields are only added.

use super::cutover::{TABLES, USE};
use proto_tests::pair::Pair;
use proto_tests::shadow::{Finished, ShadowCommand};
use proto_tests::sql::PATIENCE;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::{Map, Value, json};

/// Names and types; of a list the union of its elements. `null` with another type makes that one optional.
pub fn shape(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            Value::Object(fields.iter().map(|(name, value)| (name.clone(), shape(value))).collect())
        }
        Value::Array(elements) => {
            Value::Array(elements.iter().map(shape).reduce(union).into_iter().collect())
        }
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("boolean"),
        Value::Null => json!("null"),
    }
}

fn union(one: Value, other: Value) -> Value {
    match (one, other) {
        (Value::Object(one), Value::Object(mut other)) => {
            let mut both = Map::new();
            for (name, a) in one {
                let merged = match other.remove(&name) {
                    Some(b) => union(a, b),
                    None => a,
                };
                both.insert(name, merged);
            }
            both.extend(other);
            Value::Object(both)
        }
        (Value::Array(one), Value::Array(other)) => {
            Value::Array(one.into_iter().chain(other).reduce(union).into_iter().collect())
        }
        (one, other) if one == other => one,
        (Value::String(null), other) | (other, Value::String(null)) if null == "null" => match other {
            Value::String(other) if !other.ends_with(" or null") => json!(format!("{other} or null")),
            other => other,
        },
        (Value::String(one), _) | (_, Value::String(one)) if one.ends_with("or null") => json!(one),
        (one, _) => one,
    }
}

/// As superuser on both sides.
fn run(pair: &Pair, verb: &str, flags: &[&str]) -> Finished {
    let publisher = format!("--publisher={}", pair.publisher_conninfo());
    let subscriber = format!("--subscriber={}", pair.subscriber_conninfo());
    let all: Vec<&str> =
        [publisher.as_str(), subscriber.as_str(), "--json"].iter().chain(flags).copied().collect();
    verb::run(pair, verb, &all).unwrap()
}

fn printed(pair: &Pair, name: &str, verb: &str, flags: &[&str]) {
    stored(name, &run(pair, verb, flags));
}

fn stored(name: &str, finished: &Finished) {
    let json = finished.json().unwrap();
    let mut shape = shape(&json);
    shape["schema"] = json["schema"].clone();
    assert!(json["schema"].as_str().unwrap().starts_with("seqshadow."), "{json}");
    insta::assert_json_snapshot!(name, shape);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_of_every_verb_keeps_its_shape() {
    let stage = Stage::replicating(15, 17, TABLES).await.unwrap();
    let pair = &stage.pair;
    stage.on_publisher("SELECT pg_create_logical_replication_slot('recorded', 'pgoutput')").await;
    stage.on_publisher(USE).await;
    let used = pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("file").display().to_string();
    let flags = [format!("--out={file}"), format!("--until-lsn={used}")];
    printed(pair, "capture", "capture", &["--slot=recorded", &flags[0], &flags[1]]);
    stored("replay", &ShadowCommand::new(["replay", &file, "--json"]).run(PATIENCE).unwrap());
    stage.on_publisher("SELECT pg_drop_replication_slot('recorded')").await;
    stage.pair.on_both("CREATE SEQUENCE narrow; CREATE SEQUENCE moves").await.unwrap();
    stage.on_subscriber("ALTER SEQUENCE narrow MAXVALUE 5").await;
    stage.on_publisher("SELECT setval('narrow', 100)").await;

    printed(pair, "plan", "plan", &[]);
    printed(pair, "blocker", "cutover", &["--wait=2s"]);
    printed(pair, "sync", "sync", &[]);
    printed(pair, "verify", "verify", &[]);
    stage.on_subscriber("INSERT INTO orders VALUES (9000, 'extra')").await;
    printed(pair, "compare", "verify", &["--data"]);
    stage.on_subscriber("DELETE FROM orders WHERE id = 9000").await;
    printed(pair, "check", "check", &[]);
    printed(pair, "status", "status", &["--slot=ours"]);
    stage.on_subscriber("ALTER SEQUENCE narrow MAXVALUE 5000").await;
    printed(pair, "setup", "setup", &["--slot=ours", "--role=shadow", "--grant"]);
    printed(pair, "dry_run", "cutover", &["--dry-run", "--writes-stopped"]);
    printed(pair, "abort", "cutover", &["--abort"]);
    printed(pair, "certificate", "cutover", &["--slot=ours", "--writes-stopped"]);
    printed(pair, "reverse_refused", "reverse", &["--slot=ours", "--apply"]);
    printed(pair, "reverse_script", "reverse", &["--slot=ours", "--writes-stopped"]);
    printed(pair, "reverse_dry_run", "reverse", &["--slot=ours", "--writes-stopped", "--apply", "--dry-run"]);
    printed(pair, "reverse", "reverse", &["--slot=ours", "--writes-stopped", "--apply"]);
    let both = [pair.on_publisher().await.unwrap(), pair.on_subscriber().await.unwrap()].map(|client| {
        tokio::spawn(async move { while client.batch_execute("SELECT nextval('moves')").await.is_ok() {} })
    });
    stage.on_publisher("INSERT INTO orders (note) VALUES ('split brain')").await;
    printed(pair, "reverse_status", "reverse", &["--slot=ours", "--status", "--observe=1s"]);
    both.iter().for_each(tokio::task::JoinHandle::abort);
    printed(pair, "undo", "reverse", &["--slot=ours", "--undo"]);
    printed(pair, "teardown", "teardown", &["--slot=ours"]);
    // Somebody else's, of the same name.
    stage.on_publisher("SET default_transaction_read_only = off; CREATE PUBLICATION seqshadow_ours").await;
    printed(pair, "teardown_kept", "teardown", &["--slot=ours"]);
    stage.pair.on_both("CREATE TABLE no_index (id serial)").await.unwrap();
    pair.publisher.kill9();
    printed(pair, "statement", "cutover", &["--publisher-lost"]);
    printed(pair, "teardown_alone", "teardown", &["--slot=ours"]);
    printed(pair, "error", "plan", &[]);
    printed(pair, "error_of_cutover", "cutover", &[]);
}

/// Without a result there is an error on standard output, and its text on standard error.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_json_too() {
    let stage = Stage::with(14, 16, TABLES).await.unwrap();
    let away = "--publisher=host=127.0.0.1 port=1 dbname=x";
    let refused = ["--publisher-lost", "--json"];
    for (code, verb, flags) in [
        (3, "plan", [away, "--json"]),
        (3, "verify", [away, "--json"]),
        (3, "status", [away, "--json"]),
        (2, "sync", ["--publisher=nonsense=1", "--json"]),
        (2, "check", ["--nonsense", "--json"]),
        (2, "check", ["--json", "--config=/nonexistent"]),
        (4, "cutover", refused),
    ] {
        let finished = verb::run(&stage.pair, verb, &flags).unwrap();
        assert_eq!(finished.code(), code, "{verb} {flags:?} {}", finished.all());
        let json = finished.json().unwrap();
        assert_eq!((&json["schema"], &json["exit"]), (&json!("seqshadow.error/1"), &json!(code)), "{json}");
        let error = json["error"].as_str().unwrap();
        let first = error.lines().next().unwrap();
        assert!(!first.is_empty() && finished.stderr.contains(first), "{}", finished.all());
    }
    // Without --json standard output is left alone.
    let text = verb::run(&stage.pair, "plan", &[away]).unwrap();
    assert_eq!((text.code(), text.stdout.as_str()), (3, ""), "{}", text.all());
}
