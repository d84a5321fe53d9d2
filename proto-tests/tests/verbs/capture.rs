//! `capture` and `replay`: what was recorded gives the marks that SQL knows, nobody's slot moves, nothing secret is in the
//! file, and an interrupted recording can be read.

use proto_tests::pair::PairOptions;
use proto_tests::shadow::{Finished, Shadow, ShadowCommand, Signal};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::stage::Stage;
use proto_tests::{sidecar, verb};
use seqshadow::demo::servers::Mode;
use seqshadow::types::Lsn;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text, amount numeric, at timestamptz);
CREATE SEQUENCE down INCREMENT -3 MAXVALUE -1 MINVALUE -10000000 START -1;
CREATE TABLE downs (id int PRIMARY KEY DEFAULT nextval('down'), note text);
CREATE SEQUENCE codes;
CREATE TABLE tickets (code text PRIMARY KEY DEFAULT 'TCK-' || nextval('codes'), note text)";
const SLOT: &str = "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput')";
/// What must not be in a redacted file: a note, an amount, the year of a time, an id that is not one.
const SECRETS: [&str; 5] = ["geheim", "4711.0815", "1848-03-18", "nobody", "whispered"];

fn insert(round: u32) -> String {
    format!(
        "INSERT INTO orders (note, amount, at)
             SELECT 'geheim' || i, 4711.0815, '1848-03-18' FROM generate_series(1, 200) i;
         INSERT INTO downs (note) SELECT 'geheim' FROM generate_series(1, 30);
         INSERT INTO tickets (note) SELECT 'geheim' FROM generate_series(1, 7);
         UPDATE orders SET note = note || ' geheim' WHERE id % 10 = {round} % 10;
         DELETE FROM downs WHERE id % 2 = 0 AND id > (SELECT min(id) + 20 FROM downs)"
    )
}

/// Rows in all tables, and some that were rolled back.
async fn used(stage: &Stage, round: u32) {
    stage.on_publisher(&insert(round)).await;
    stage.on_publisher("BEGIN; INSERT INTO orders (note) VALUES ('geheim'); ROLLBACK").await;
}

struct Files {
    directory: tempfile::TempDir,
}

impl Files {
    fn new() -> Self {
        Files { directory: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// `--out=…` for the file of this name.
    fn out(&self, name: &str) -> String {
        format!("--out={}", self.path(name).display())
    }

    fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.directory.path()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }
}

fn replay(file: &Path, flags: &[&str]) -> Finished {
    let mut args = vec!["replay".to_owned(), file.display().to_string()];
    args.extend(flags.iter().map(|flag| (*flag).to_owned()));
    ShadowCommand::new(args).run(PATIENCE).unwrap()
}

fn replayed(file: &Path, flags: &[&str]) -> Value {
    let finished = replay(file, &[&["--json"], flags].concat());
    assert_eq!(finished.code(), 0, "{}", finished.all());
    finished.json().unwrap()
}

/// The furthest id of each sequence.
fn marks(replayed: &Value) -> Vec<(String, i64)> {
    let marks = replayed["marks"].as_array().unwrap();
    let mark = |mark: &Value| {
        assert_eq!(mark["unreadable"], json!(false), "{mark}");
        (mark["sequence"].as_str().unwrap().to_owned(), mark["furthest_id"].as_i64().unwrap())
    };
    marks.iter().map(mark).collect()
}

/// The same, as SQL knows them.
async fn known(stage: &Stage) -> Vec<(String, i64)> {
    let sql =
        "SELECT max(substr(code, 5)::int8), (SELECT min(id)::int8 FROM downs), (SELECT max(id) FROM orders)
                 FROM tickets";
    let row = stage.publisher.query_one(sql, &[]).await.unwrap();
    ["public.codes", "public.down", "public.orders_id_seq"]
        .iter()
        .enumerate()
        .map(|(index, name)| ((*name).to_owned(), row.get(index)))
        .collect()
}

fn kind(replayed: &Value, message: &str) -> i64 {
    let kinds = replayed["kinds"].as_array().unwrap();
    kinds.iter().find(|kind| kind["message"] == message).map_or(0, |kind| kind["count"].as_i64().unwrap())
}

/// Starts it, and waits until it records.
fn start(stage: &Stage, flags: &[&str]) -> Shadow {
    let command = verb::command(&stage.pair, "capture", flags).env("SEQSHADOW_STATUS_INTERVAL", "1s");
    let shadow = command.spawn().unwrap();
    shadow.wait_for_line("seqshadow: recording", PATIENCE).unwrap();
    shadow
}

/// Waits until the recording has heard of everything that is committed now.
async fn heard(stage: &Stage) {
    let lsn = stage.pair.publisher_lsn().await.unwrap();
    let waited = wait_until("the recording to come so far", PATIENCE, async || {
        stage.publisher.batch_execute("SELECT pg_logical_emit_message(true, 'nudge', '')").await?;
        let sql = "SELECT coalesce(bool_or(write_lsn >= $1::text::pg_lsn), false), count(*)::text
                     FROM pg_stat_replication WHERE application_name = 'seqshadow'";
        let row = stage.publisher.query_one(sql, &[&lsn.to_string()]).await?;
        Ok(Probe::when(row.get(0), || row.get(1)))
    });
    waited.await.unwrap();
}

fn ended(shadow: &mut Shadow) -> (i32, String) {
    let status = shadow.wait_exit(PATIENCE).unwrap();
    let said = [shadow.stdout_lines(), shadow.stderr_lines()].concat().join("\n");
    (status.code().unwrap_or(-1), said)
}

fn contains(file: &Path, text: &str) -> bool {
    let bytes = std::fs::read(file).unwrap();
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

async fn slots(stage: &Stage) -> Vec<(String, String, String)> {
    let sql = "SELECT slot_name::text, confirmed_flush_lsn::text, restart_lsn::text FROM pg_replication_slots
                WHERE slot_name <> 'sub' ORDER BY 1";
    let rows = stage.publisher.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect()
}

async fn under_load(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, TABLES).await.unwrap();
    let files = Files::new();
    let with_password = |conninfo: String| format!("{conninfo} password=hunter2");
    let publisher = format!("--publisher={}", with_password(stage.pair.shadow_publisher_conninfo()));
    let out = files.out("a");
    let mut capture = start(&stage, &[&publisher, &out]);
    assert_eq!(files.names(), ["a.partial"], "nothing half done has the name");
    assert_eq!(slots(&stage).await.len(), 1, "a temporary slot of its own");
    for round in 0..20 {
        used(&stage, round).await;
    }
    heard(&stage).await;
    capture.signal(Signal::INT);
    let (code, said) = ended(&mut capture);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("it was asked to end") && !said.contains("hunter2"), "{said}");
    let waited = wait_until("the temporary slot to go", PATIENCE, async || {
        let left = slots(&stage).await;
        Ok(Probe::when(left.is_empty(), || format!("{left:?}")))
    });
    waited.await.unwrap();

    assert_eq!(files.names(), ["a"]);
    let file = files.path("a");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let host = stage.pair.publisher_conninfo();
    let host = host.split_whitespace().find_map(|part| part.strip_prefix("host=")).unwrap();
    for secret in ["hunter2", host, "dbname", "shadow_", "postgres"] {
        assert!(!contains(&file, secret), "{secret}");
    }
    assert!(contains(&file, "geheim1"), "it was not redacted");
    let found = replayed(&file, &["--loops=3"]);
    assert_eq!(marks(&found), known(&stage).await);
    assert!(kind(&found, "Insert") == 20 * 237 && kind(&found, "Delete") > 0, "{found}");
    assert_eq!((&found["loops"], &found["ended"]), (&json!(3), &json!("asked")));
    assert!(found["nanoseconds_per_message"].as_f64().unwrap() > 0.0);

    let again = verb::run(&stage.pair, "capture", &[&out, "--messages=1"]).unwrap();
    assert_eq!(again.code(), 2, "{}", again.all());
    assert!(again.stderr.contains("exists already") && again.stderr.contains("--force"), "{}", again.all());
    let people = replay(&file, &[]);
    assert!(
        people.stdout.contains("ns per message") && people.stdout.contains("public.down"),
        "{}",
        people.all()
    );
    assert!(people.stdout.lines().all(|line| line.chars().count() <= 80), "{}", people.all());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_under_load_gives_the_marks_that_sql_knows_12() {
    under_load(12, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_recorded_under_load_gives_the_marks_that_sql_knows_19() {
    under_load(19, 16).await;
}

/// Captures `theirs` up to `lsn`, as it is and redacted, and compares.
async fn both_ways(stage: &Stage, lsn: Lsn, flags: &[&str], env: &[(&str, &str)]) -> Value {
    let files = Files::new();
    let before = slots(stage).await;
    let until = format!("--until-lsn={lsn}");
    for (name, more) in [("plain", None), ("clean", Some("--redact"))] {
        let out = files.out(name);
        let all: Vec<&str> =
            ["--slot=theirs", "--json", &out, &until].iter().chain(flags).chain(&more).copied().collect();
        let mut command = verb::command(&stage.pair, "capture", &all);
        for (name, value) in env {
            command = command.env(*name, *value);
        }
        let captured = command.run(PATIENCE).unwrap();
        assert_eq!(captured.code(), 0, "{}", captured.all());
        let captured = captured.json().unwrap();
        assert_eq!(
            (&captured["ended"], &captured["slot_was_temporary"]),
            (&json!("until_lsn"), &json!(false))
        );
        assert_eq!(slots(stage).await, before, "the slot is where it was");
        let again = replayed(&files.path(name), &[]);
        assert_eq!(
            (&captured["messages"], &captured["stream_bytes"]),
            (&again["messages"], &again["bytes"]),
            "both verbs count the same"
        );
    }
    let [plain, clean] = ["plain", "clean"].map(|name| replayed(&files.path(name), &[]));
    for secret in SECRETS {
        assert!(contains(&files.path("plain"), secret), "{secret} was there");
        assert!(!contains(&files.path("clean"), secret), "{secret}");
    }
    assert!(
        contains(&files.path("clean"), "tickets") && contains(&files.path("clean"), "note"),
        "names stay"
    );
    assert_eq!((&plain["redacted"], &clean["redacted"]), (&json!(false), &json!(true)));
    for same in ["marks", "rows"] {
        assert_eq!(plain[same], clean[same], "{same}");
    }
    for same in ["Insert", "Update", "Delete", "Truncate", "Message", "Stream Start", "Commit"] {
        assert_eq!(kind(&plain, same), kind(&clean, same), "{same}");
    }
    plain
}

fn small_work_mem() -> PairOptions {
    let mut options = PairOptions::default();
    options.publisher = options.publisher.set("logical_decoding_work_mem", "64kB");
    options
}

const SECRET_ROWS: &str = "
INSERT INTO tickets VALUES ('nobody', 'geheim');
SELECT pg_logical_emit_message(true, 'letters', 'whispered');
SELECT pg_logical_emit_message(false, 'letters', 'whispered')";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_existing_slot_stays_where_it_is_and_redaction_keeps_the_marks() {
    let stage = Stage::replicating_with(15, 18, small_work_mem(), TABLES).await.unwrap();
    stage.on_publisher("ALTER TABLE orders REPLICA IDENTITY FULL").await;
    stage.on_publisher(SLOT).await;
    stage.on_publisher("INSERT INTO orders (id, note) VALUES (900000, 'geheim')").await;
    stage.on_publisher("TRUNCATE orders RESTART IDENTITY").await;
    for round in 0..3 {
        used(&stage, round).await;
    }
    let streamed = "INSERT INTO orders (note) SELECT repeat('geheim', 20) FROM generate_series(1, 4000)";
    stage.on_publisher(&format!("BEGIN; SAVEPOINT a; {streamed}; RELEASE a; {streamed}; COMMIT")).await;
    let known = known(&stage).await;
    stage.on_publisher(SECRET_ROWS).await;
    let lsn = stage.pair.publisher_lsn().await.unwrap();
    let found = both_ways(&stage, lsn, &[], &[]).await;
    let truncated = kind(&found, "Truncate");
    let streams = kind(&found, "Stream Start");
    assert!(truncated == 1 && streams > 1 && kind(&found, "Message") == 2, "{found}");
    assert_eq!(marks(&found), known, "what was there before the truncate does not count");
    let restarted =
        found["marks"].as_array().unwrap().iter().find(|m| m["sequence"] == "public.orders_id_seq");
    assert!(restarted.unwrap()["restarted_at"].is_string(), "{found}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_values_and_parallel_streams_are_redacted_too() {
    let stage = Stage::replicating_with(17, 19, small_work_mem(), TABLES).await.unwrap();
    stage.on_publisher(SLOT).await;
    for round in 0..3 {
        used(&stage, round).await;
    }
    let big = "INSERT INTO orders (note) SELECT repeat('geheim', 20) FROM generate_series(1, 4000)";
    stage.on_publisher(big).await;
    let known = known(&stage).await;
    // Binary values are not text: what is looked for in the file is.
    stage.on_publisher("INSERT INTO downs VALUES (-5, '4711.0815 1848-03-18')").await;
    stage.on_publisher(SECRET_ROWS).await;
    let lsn = stage.pair.publisher_lsn().await.unwrap();
    let found = both_ways(&stage, lsn, &["--binary"], &[("SEQSHADOW_STREAMING", "parallel")]).await;
    assert!(kind(&found, "Stream Start") > 0, "{found}");
    assert_eq!(marks(&found), known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_recording_can_be_read_up_to_its_last_second() {
    let stage = Stage::replicating(14, 16, TABLES).await.unwrap();
    let files = Files::new();
    let out = files.out("a");
    let mut capture = start(&stage, &[&out]);
    used(&stage, 1).await;
    heard(&stage).await;
    let partial = files.path("a.partial");
    let waited = wait_until("what was recorded to be in the file", PATIENCE, async || {
        let found = replay(&partial, &["--partial", "--json"]);
        let there = found.json().is_ok_and(|json| kind(&json, "Delete") > 0);
        Ok(Probe::when(there, || found.all()))
    });
    waited.await.unwrap();
    let busy = verb::run(&stage.pair, "capture", &[&out, "--force"]).unwrap();
    assert_eq!(busy.code(), 2, "{}", busy.all());
    assert!(busy.stderr.contains("is being written by another capture"), "{}", busy.all());
    capture.kill9();
    assert_eq!(files.names(), ["a.partial"]);
    let cut = replay(&partial, &[]);
    assert_eq!(cut.code(), 2, "{}", cut.all());
    assert!(
        cut.stderr.contains("byte ") && cut.stderr.contains("--partial takes what is whole"),
        "{}",
        cut.all()
    );
    let found = replayed(&partial, &["--partial"]);
    assert_eq!((marks(&found), &found["ended"]), (known(&stage).await, &Value::Null));

    let refused = verb::run(&stage.pair, "capture", &[&out, "--seconds=1"]).unwrap();
    assert_eq!(refused.code(), 2, "{}", refused.all());
    assert!(refused.stderr.contains("left by a capture that was interrupted"), "{}", refused.all());
    let forced = verb::run(&stage.pair, "capture", &[&out, "--seconds=1", "--force"]).unwrap();
    assert_eq!(forced.code(), 0, "{}", forced.all());
    assert_eq!(files.names(), ["a"]);
    assert_eq!(replayed(&files.path("a"), &[])["ended"], json!("seconds"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_shuts_down_is_not_held_up_and_the_file_is_whole() {
    let stage = Stage::replicating(13, 17, TABLES).await.unwrap();
    let files = Files::new();
    let out = files.out("a");
    let mut capture = start(&stage, &[&out]);
    used(&stage, 1).await;
    heard(&stage).await;
    let known = known(&stage).await;
    let begun = Instant::now();
    stage.pair.publisher.stop(Mode::Fast).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    let (code, said) = ended(&mut capture);
    assert_eq!(code, 3, "{said}");
    assert!(said.contains("what was recorded before is in") && said.contains("a.partial"), "{said}");
    assert_eq!(files.names(), ["a.partial"], "it was not ended by whoever began it");
    assert_eq!(marks(&replayed(&files.path("a.partial"), &[])), known);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_of_others_are_left_alone() {
    let stage = Stage::replicating(16, 18, TABLES).await.unwrap();
    let files = Files::new();
    let out = files.out("a");
    let capture = |flags: &[&str]| {
        let all: Vec<&str> = [out.as_str(), "--seconds=1", "--force"].iter().chain(flags).copied().collect();
        verb::run(&stage.pair, "capture", &all).unwrap()
    };
    let shadow = sidecar::start(&stage.pair, &[]).unwrap();
    let subscription = capture(&["--slot=sub"]);
    assert_eq!(subscription.code(), 4, "{}", subscription.all());
    let daemon = capture(&["--slot=ours"]);
    assert_eq!(daemon.code(), 1, "{}", daemon.all());
    assert!(daemon.stderr.contains("in use by another seqshadow"), "{}", daemon.all());
    let missing = capture(&["--publication=nope"]);
    assert_eq!(missing.code(), 1, "{}", missing.all());
    assert!(missing.stderr.contains("no publication nope"), "{}", missing.all());
    assert_eq!(files.names(), Vec::<String>::new(), "nothing is left of what was not begun");
    let nowhere = verb::run(&stage.pair, "capture", &["--out=/nonexistent/a"]).unwrap();
    assert_eq!(nowhere.code(), 1, "{}", nowhere.all());
    assert!(nowhere.stderr.contains("/nonexistent/a.partial"), "{}", nowhere.all());
    // Beside the daemon, with a slot of its own that has the name asked for.
    let beside = capture(&["--slot=mine", "--json"]);
    assert_eq!(beside.code(), 0, "{}", beside.all());
    let beside = beside.json().unwrap();
    assert_eq!((&beside["slot"], &beside["slot_was_temporary"]), (&json!("mine"), &json!(true)));
    assert_eq!(shadow.complaints(), Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_temporary_slot_never_holds_back_more_wal_than_allowed() {
    let stage = Stage::replicating(15, 17, TABLES).await.unwrap();
    let files = Files::new();
    let out = files.out("a");
    let command = verb::command(&stage.pair, "capture", &[&out, "--redact", "--json"])
        .env("SEQSHADOW_MAX_RETAINED_WAL", "64MB");
    let mut capture = command.spawn().unwrap();
    capture.wait_for_line("seqshadow: recording", PATIENCE).unwrap();
    // Longer than what is kept of a message.
    let long = "SELECT pg_logical_emit_message(false, 'long', repeat('geheim', 400000))";
    for _ in 0..40 {
        stage.on_publisher(long).await;
    }
    let (code, said) = ended(&mut capture);
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("\"ended\": \"max_retained_wal\""), "{said}");
    let found = replayed(&files.path("a"), &[]);
    let messages = kind(&found, "Message");
    assert!((26..40).contains(&messages), "{found}");
    assert!(found["bytes"].as_i64().unwrap() > messages * 2_400_000, "{found}");
    let file = std::fs::metadata(files.path("a")).unwrap().len();
    assert!(file < u64::try_from(messages + 1).unwrap() * 1_100_000, "{file}");
}

#[test]
fn what_is_no_capture_is_refused() {
    let files = Files::new();
    for (content, expected) in
        [("", "byte 0: expected a capture"), ("#!/bin/sh\n", "byte 0: expected a capture")]
    {
        std::fs::write(files.path("a"), content).unwrap();
        let refused = replay(&files.path("a"), &["--json"]);
        assert_eq!(refused.code(), 2, "{}", refused.all());
        assert!(refused.stderr.contains(expected), "{}", refused.all());
        assert_eq!(refused.json().unwrap()["schema"], "seqshadow.error/1");
    }
    let missing = replay(&files.path("b"), &[]);
    assert_eq!(missing.code(), 2, "{}", missing.all());
    let directory = replay(files.directory.path(), &[]);
    assert_eq!(directory.code(), 2, "{}", directory.all());
}
