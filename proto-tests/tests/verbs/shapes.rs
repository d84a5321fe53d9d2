//! The JSON of every verb keeps its shape: names of fields and types of values, compared with what is stored. Where a version
//! of a schema is out, fields are only added.

use super::cutover::{TABLES, USE};
use proto_tests::pair::Pair;
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::{Map, Value, json};

/// Names and types; of a list the union of its elements. `null` with another type makes that one optional.
fn shape(value: &Value) -> Value {
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
        (Value::String(one), Value::String(other)) if one == "null" => json!(format!("{other} or null")),
        (Value::String(one), Value::String(other)) if other == "null" => json!(format!("{one} or null")),
        (Value::String(one), _) | (_, Value::String(one)) if one.ends_with("or null") => json!(one),
        (one, _) => one,
    }
}

fn printed(pair: &Pair, name: &str, verb: &str, flags: &[&str]) {
    let publisher = format!("--publisher={}", pair.publisher_conninfo());
    let subscriber = format!("--subscriber={}", pair.subscriber_conninfo());
    let all: Vec<&str> =
        [publisher.as_str(), subscriber.as_str(), "--json"].iter().chain(flags).copied().collect();
    let finished = verb::run(pair, verb, &all).unwrap();
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
    stage.on_publisher(USE).await;
    pair.catch_up().await.unwrap();
    stage.pair.on_both("CREATE SEQUENCE narrow; CREATE SEQUENCE moves").await.unwrap();
    stage.on_subscriber("ALTER SEQUENCE narrow MAXVALUE 5").await;
    stage.on_publisher("SELECT setval('narrow', 100)").await;

    printed(pair, "plan", "plan", &[]);
    printed(pair, "blocker", "cutover", &["--wait=2s"]);
    printed(pair, "sync", "sync", &[]);
    printed(pair, "verify", "verify", &[]);
    printed(pair, "compare", "verify", &["--data"]);
    stage.on_subscriber("ALTER SEQUENCE narrow MAXVALUE 5000").await;
    printed(pair, "setup", "setup", &["--slot=ours", "--role=shadow", "--grant"]);
    printed(pair, "certificate", "cutover", &["--slot=ours"]);
    printed(pair, "reverse", "reverse", &["--slot=ours", "--writes-stopped", "--apply"]);
    printed(pair, "undo", "reverse", &["--slot=ours", "--undo"]);
    printed(pair, "teardown", "teardown", &["--slot=ours"]);
    pair.publisher.kill9();
    printed(pair, "statement", "cutover", &["--publisher-lost"]);
}
