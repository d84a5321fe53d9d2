//! `verify --data`: finds the one row that differs, and is silent where nothing does.

mod alone;
mod found;
mod limits;
mod load;
mod lost;
mod silent;

use proto_tests::pair::Pair;
use proto_tests::shadow::{Finished, Shadow};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::Value;
use std::path::PathBuf;

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

/// A table of 300,000 rows on both sides, and a comparison of it that can be interrupted and goes on.
struct Long {
    stage: Stage,
    _directory: tempfile::TempDir,
    /// Where it notes how far it is.
    file: PathBuf,
    /// The flag that says so.
    state: String,
}

impl Long {
    async fn new(publisher: u32, subscriber: u32) -> Self {
        let ddl = "CREATE TABLE t (id int PRIMARY KEY, v text)";
        let stage = Stage::with(publisher, subscriber, ddl).await.unwrap();
        stage.on_publisher("INSERT INTO t SELECT i, 'row ' || i FROM generate_series(1, 300000) i").await;
        stage.pair.replicate_all().await.unwrap();
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("state.json");
        let state = format!("--state={}", file.display());
        Long { stage, _directory: directory, file, state }
    }

    /// How many of the 3,000 chunks it has as equal.
    fn done(&self) -> usize {
        let text = std::fs::read_to_string(&self.file).unwrap_or_default();
        let json: Value = serde_json::from_str(&text).unwrap_or_default();
        json["tables"]["public.t"]["equal"].as_object().map_or(0, serde_json::Map::len)
    }

    /// Starts it, and waits until it has got some chunks further.
    async fn under_way(&self) -> Shadow {
        let before = self.done();
        let flags = ["--data", "--json", "--chunk-rows=100", "--jobs=1", self.state.as_str()];
        let run = verb::command(&self.stage.pair, "verify", &flags).spawn().unwrap();
        wait_until("some more chunks to be done", PATIENCE, async || {
            Ok(Probe::when(self.done() > before, || self.done().to_string()))
        })
        .await
        .unwrap();
        run
    }
}

/// Asserts that every table is equal, and that there are some.
fn assert_equal(finished: &Finished) {
    assert_eq!(finished.code(), 0, "{}", finished.all());
    let json = finished.json().unwrap();
    assert_eq!(json["schema"], "seqshadow.compare/1");
    assert_eq!(json["equal"], true, "{}", finished.all());
    assert!(!json["tables"].as_array().unwrap().is_empty());
}
