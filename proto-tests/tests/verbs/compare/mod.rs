//! `verify --data`: finds the one row that differs, and is silent where nothing does.

mod found;
mod limits;
mod load;
mod lost;
mod silent;

use proto_tests::pair::Pair;
use proto_tests::shadow::Finished;
use proto_tests::sql::PATIENCE;
use proto_tests::verb;
use serde_json::Value;

/// Runs `verify --data --json`.
fn compare(pair: &Pair, flags: &[&str]) -> Finished {
    let flags: Vec<&str> = ["--data", "--json"].iter().chain(flags).copied().collect();
    // Many of these compare under a load, on a machine that is busy without it.
    verb::command(pair, "verify", &flags).run(PATIENCE * 3).unwrap()
}

/// What is said of one table.
fn table(finished: &Finished, name: &str) -> Value {
    let json = finished.json().unwrap();
    let tables = json["tables"].as_array().unwrap_or_else(|| panic!("{}", finished.all()));
    let found = tables.iter().find(|table| table["table"] == name);
    found.unwrap_or_else(|| panic!("no {name}: {}", finished.all())).clone()
}

/// `kind` and key of each row that was named.
fn differences(finished: &Finished, name: &str) -> Vec<(String, Value)> {
    let table = table(finished, name);
    let named = |one: &Value| (one["kind"].as_str().unwrap().to_owned(), one["key"].clone());
    table["differences"].as_array().unwrap().iter().map(named).collect()
}

/// Asserts that every table is equal, and that there are some.
fn assert_equal(finished: &Finished) {
    assert_eq!(finished.code(), 0, "{}", finished.all());
    let json = finished.json().unwrap();
    assert_eq!(json["schema"], "seqshadow.compare/1");
    assert_eq!(json["equal"], true, "{}", finished.all());
    assert!(!json["tables"].as_array().unwrap().is_empty());
}
