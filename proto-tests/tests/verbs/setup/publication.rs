//! The publication: narrow, followed by the daemon, made once, brought up to date, and no business of the application's
//! UPDATE and DELETE.

use super::{admin, ends, inventories, wait_for_free_slot};
use proto_tests::limited;
use proto_tests::sidecar;
use proto_tests::stage::Stage;
use tokio_postgres::Client;

/// Every replica identity, partitions, inheritance, an unowned sequence, a text id, awkward names.
const TABLES: &str = "
CREATE TABLE by_key (id bigserial PRIMARY KEY, note text);
CREATE TABLE by_row (id bigserial, note text); ALTER TABLE by_row REPLICA IDENTITY FULL;
CREATE TABLE by_index (id bigserial, code int NOT NULL, note text);
CREATE UNIQUE INDEX by_index_code ON by_index (code); ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;
CREATE TABLE other_key (id bigserial, code int PRIMARY KEY, note text);
CREATE SEQUENCE loose;
CREATE TABLE texts (code text PRIMARY KEY DEFAULT 'A-' || nextval('loose'), note text);
CREATE TABLE parted (id bigserial, at int NOT NULL, note text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
CREATE TABLE parent (id bigserial PRIMARY KEY, note text);
CREATE TABLE child (extra bigserial, PRIMARY KEY (id)) INHERITS (parent);
CREATE SCHEMA \"Größe\";
CREATE TABLE \"Größe\".\"We\"\"ird, 'table'\" (\"Id (x)\" bigserial PRIMARY KEY, note text);";

/// Ids from every table, 100 each.
const INSERT: &str = "
INSERT INTO by_key (note) SELECT repeat('x', 500) FROM generate_series(1, 100);
INSERT INTO by_row (note) SELECT repeat('x', 500) FROM generate_series(1, 100);
INSERT INTO by_index (code, note) SELECT (SELECT coalesce(max(code), 0) FROM by_index) + g, repeat('x', 500)
  FROM generate_series(1, 100) g;
INSERT INTO other_key (code, note) SELECT (SELECT coalesce(max(code), 0) FROM other_key) + g, repeat('x', 500)
  FROM generate_series(1, 100) g;
INSERT INTO texts (note) SELECT repeat('x', 500) FROM generate_series(1, 100);
INSERT INTO parted (at, note) SELECT g % 20, repeat('x', 500) FROM generate_series(1, 100) g;
INSERT INTO parent (note) SELECT repeat('x', 500) FROM generate_series(1, 100);
INSERT INTO child (note) SELECT repeat('x', 500) FROM generate_series(1, 100);
INSERT INTO \"Größe\".\"We\"\"ird, 'table'\" (note) SELECT repeat('x', 500) FROM generate_series(1, 100);";

/// Ids that no sequence knows.
const BY_HAND: &str = "
INSERT INTO by_key (id) VALUES (3000); INSERT INTO by_row (id) VALUES (3000);
INSERT INTO by_index (id, code) VALUES (3000, -1); INSERT INTO other_key (id, code) VALUES (3000, -1);
INSERT INTO texts (code) VALUES ('A-3000'); INSERT INTO parted (id, at) VALUES (3000, 15);
INSERT INTO child (id, extra) VALUES (3000, 3000);
INSERT INTO \"Größe\".\"We\"\"ird, 'table'\" VALUES (3000);";

/// What the application does all the time.
const UPDATE_AND_DELETE: &str = "
UPDATE by_key SET note = 'u'; UPDATE by_row SET note = 'u'; UPDATE by_index SET note = 'u', code = code + 100000;
UPDATE other_key SET note = 'u'; UPDATE texts SET note = 'u'; UPDATE parted SET note = 'u';
UPDATE parent SET note = 'u'; UPDATE \"Größe\".\"We\"\"ird, 'table'\" SET note = 'u';
DELETE FROM by_key WHERE id % 7 = 0; DELETE FROM by_row WHERE id % 7 = 0; DELETE FROM by_index WHERE id % 7 = 0;
DELETE FROM other_key WHERE id % 7 = 0; DELETE FROM texts WHERE code ~ '7$'; DELETE FROM parted WHERE id % 7 = 0;
DELETE FROM parent WHERE id % 7 = 0; DELETE FROM \"Größe\".\"We\"\"ird, 'table'\" WHERE \"Id (x)\" % 7 = 0;";

const SEQUENCES: [(&str, i64); 8] = [
    ("by_key_id_seq", 100),
    ("by_row_id_seq", 100),
    ("by_index_id_seq", 100),
    ("other_key_id_seq", 100),
    ("loose", 100),
    ("parted_id_seq", 100),
    ("parent_id_seq", 200),
    ("\"Größe\".\"We\"\"ird, 'table'_Id (x)_seq\"", 100),
];

/// Tables that cannot be updated where updates of them are published: nobody's publication but ours has them.
const WITHOUT_IDENTITY: &str = "
CREATE TABLE no_key (id bigserial, note text);
CREATE TABLE nothing (id bigserial PRIMARY KEY, note text); ALTER TABLE nothing REPLICA IDENTITY NOTHING;";
const UPDATE_WITHOUT_IDENTITY: &str = "
INSERT INTO no_key (note) VALUES ('x'); UPDATE no_key SET note = 'u'; DELETE FROM no_key;
INSERT INTO nothing (note) VALUES ('x'); UPDATE nothing SET note = 'u'; DELETE FROM nothing;";

/// Bytes that the walsender of our slot has sent in a `pgoutput` stream of everything since `from`.
async fn bytes(client: &Client, slot: &str, publication: &str) -> i64 {
    let sql = "SELECT coalesce(sum(length(data)), 0)::int8 FROM pg_logical_slot_peek_binary_changes(
                   $1, NULL, NULL, 'proto_version', '1', 'publication_names', $2)";
    client.query_one(sql, &[&slot, &format!("\"{publication}\"")]).await.unwrap().get(0)
}

async fn published(client: &Client, publication: &str) -> Vec<String> {
    let sql =
        "SELECT prrelid::regclass::text FROM pg_publication_rel r JOIN pg_publication p ON p.oid = prpubid
                WHERE pubname = $1 ORDER BY 1";
    client.query(sql, &[&publication]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The subscription publishes everything of these tables, with ours beside it, and the daemon follows ours alone.
async fn is_followed(publisher: u32, subscriber: u32) {
    let stage = Stage::with(publisher, subscriber, TABLES).await.unwrap();
    stage.pair.on_both(WITHOUT_IDENTITY).await.unwrap();
    stage.pair.grant(&["public", "Größe"]).await.unwrap();
    // No ids are read in tables: what the publisher's sequences do not know is seen in the stream alone.
    stage.pair.on_both("REVOKE SELECT ON ALL TABLES IN SCHEMA public, \"Größe\" FROM shadow").await.unwrap();
    let theirs =
        "by_key, by_row, by_index, other_key, texts, parted, parent, \"Größe\".\"We\"\"ird, 'table'\"";
    let theirs =
        if publisher < 13 { theirs.replace("parted", "parted_1, parted_2") } else { theirs.to_owned() };
    stage.on_publisher(&format!("CREATE PUBLICATION pub FOR TABLE {theirs}")).await;
    stage.pair.subscribe(&proto_tests::publication::Subscription::to("sub", &["pub"])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();

    let made = admin(&stage.pair, "setup", &["--json", "--role=shadow"]);
    ends(&made, 0, &[]);
    let json = made.json().unwrap();
    assert_eq!(json["schema"], "seqshadow.setup/1");
    assert_eq!(json["polled"], serde_json::json!([]), "{}", made.all());
    assert_eq!(json["objects"][0]["outcome"], "made");
    let listed = published(&stage.publisher, "seqshadow_ours").await;
    let partitioned = if publisher < 13 { ["parted_1", "parted_2"].as_slice() } else { &["parted"] };
    for table in partitioned.iter().chain(&["child", "parent", "no_key", "nothing", "texts"]) {
        assert!(listed.contains(&(*table).to_owned()), "{table} of {listed:?}");
    }
    assert_eq!(listed.len(), 10 + partitioned.len(), "{listed:?}");

    // A second run changes nothing, and says so.
    let before = inventories(&stage).await;
    let again = admin(&stage.pair, "setup", &["--role=shadow"]);
    ends(&again, 0, &["Everything was there: nothing was changed", "publication seqshadow_ours kept"]);
    let again = admin(&stage.pair, "setup", &["--role=shadow", "--refresh"]);
    ends(&again, 0, &["Everything was there: nothing was changed"]);
    assert_eq!(inventories(&stage).await, before);

    stage.on_publisher(INSERT).await;
    stage.on_publisher(UPDATE_AND_DELETE).await;
    stage.on_publisher(UPDATE_WITHOUT_IDENTITY).await;
    let (ours, theirs) = (
        bytes(&stage.publisher, "ours", "seqshadow_ours").await,
        bytes(&stage.publisher, "ours", "pub").await,
    );
    assert!(ours * if publisher >= 15 { 8 } else { 1 } < theirs, "{ours} bytes against {theirs}");

    let shadow =
        sidecar::start(&stage.pair, &["--publication=seqshadow_ours", "--poll-interval=1h", "--lead=10"])
            .unwrap();
    for (sequence, id) in SEQUENCES {
        stage.wait_past(sequence, id).await;
    }
    stage.on_publisher(BY_HAND).await;
    for sequence in SEQUENCES.iter().map(|(sequence, _)| *sequence).chain(["child_extra_seq"]) {
        stage.wait_past(sequence, 3000).await;
    }
    stage.on_publisher(UPDATE_AND_DELETE).await;
    stage.pair.catch_up().await.unwrap();
    let is_known = |line: &String| line.contains("are not published in full");
    let complaints: Vec<String> = shadow.complaints().into_iter().filter(|line| !is_known(line)).collect();
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_follows_every_kind_of_table_by_it_from_12() {
    is_followed(12, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_follows_every_kind_of_table_by_it_from_14() {
    is_followed(14, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_follows_every_kind_of_table_by_it_from_15() {
    is_followed(15, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_follows_every_kind_of_table_by_it_from_18() {
    is_followed(18, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_daemon_follows_every_kind_of_table_by_it_from_19() {
    is_followed(19, 16).await;
}

/// The publisher has partitions where the subscriber has one table, and the other way about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn partitions_need_not_be_the_same_on_both_sides() {
    let stage = Stage::with(17, 15, "").await.unwrap();
    let whole = |name: &str| format!("CREATE TABLE {name} (id bigserial, at int, PRIMARY KEY (id, at));");
    let parts = |name: &str| {
        let whole = whole(name).replace(");", ") PARTITION BY RANGE (at);").replacen(
            ") PARTITION",
            ")) PARTITION",
            1,
        );
        let whole = whole.replace("at))) PARTITION", "at)) PARTITION");
        format!("{whole} CREATE TABLE {name}_old PARTITION OF {name} DEFAULT;")
    };
    stage.on_publisher(&format!("{} {}", whole("a"), parts("b"))).await;
    stage.on_subscriber(&format!("{} {}", parts("a"), whole("b"))).await;
    stage.pair.grant(&["public"]).await.unwrap();
    let made = admin(&stage.pair, "setup", &["--json", "--role=shadow"]);
    ends(&made, 0, &[]);
    assert_eq!(made.json().unwrap()["polled"], serde_json::json!([]), "{}", made.all());
    assert_eq!(made.json().unwrap()["tables"]["skipped"], serde_json::json!([]));
    assert_eq!(published(&stage.publisher, "seqshadow_ours").await, ["a", "b"]);
    let _shadow =
        sidecar::start(&stage.pair, &["--publication=seqshadow_ours", "--poll-interval=1h", "--lead=10"])
            .unwrap();
    for table in ["a", "b"] {
        stage.on_publisher(&format!("INSERT INTO {table} (at) SELECT 1 FROM generate_series(1, 300)")).await;
        stage.wait_past(&format!("{table}_id_seq"), 300).await;
    }
}

/// While the daemon runs: a new table is polled until a refresh, and shown by the stream after it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refresh_takes_in_what_is_new_while_the_daemon_runs() {
    for (publisher, subscriber) in [(14, 17), (17, 14)] {
        let orders = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)";
        let stage = Stage::replicating(publisher, subscriber, orders).await.unwrap();
        ends(&admin(&stage.pair, "setup", &[]), 0, &[]);
        let shadow = sidecar::start(&stage.pair, &["--publication=seqshadow_ours", "--lead=10"]).unwrap();
        let more = "CREATE TABLE items (id bigserial PRIMARY KEY, at int NOT NULL UNIQUE);
                    CREATE TABLE parts (id bigserial, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
                    CREATE TABLE parts_1 PARTITION OF parts DEFAULT;";
        stage.pair.on_both(more).await.unwrap();
        stage.on_subscriber("ALTER TABLE orders ADD second bigserial").await;
        stage.on_publisher("ALTER TABLE orders ADD second bigserial").await;
        stage.pair.grant(&["public"]).await.unwrap();

        let before = inventories(&stage).await;
        let open = admin(&stage.pair, "setup", &[]);
        ends(&open, 1, &["lacks public.items, public.parts", "--refresh"]);
        ends(&admin(&stage.pair, "setup", &["--refresh", "--dry-run"]), 0, &["ALTER PUBLICATION", "dry run"]);
        assert_eq!(inventories(&stage).await, before);
        let refreshed = admin(&stage.pair, "setup", &["--refresh", "--json"]);
        ends(&refreshed, 0, &[]);
        let tables = &refreshed.json().unwrap()["tables"];
        assert_eq!(tables["added"], serde_json::json!(["public.items", "public.parts"]));
        let changed = if publisher < 15 { vec![] } else { vec!["public.orders"] };
        assert_eq!(tables["changed"], serde_json::json!(changed));
        ends(&admin(&stage.pair, "setup", &["--refresh"]), 0, &["nothing was changed"]);

        stage
            .on_publisher(
                "INSERT INTO items (at) SELECT generate_series(1, 400);
                 INSERT INTO parts (at) SELECT generate_series(1, 400);
                 INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 400)",
            )
            .await;
        for sequence in ["items_id_seq", "parts_id_seq", "orders_id_seq", "orders_second_seq"] {
            stage.wait_past(sequence, 400).await;
        }
        // Ids that no sequence and no index knows come through the stream alone.
        stage.on_publisher("INSERT INTO orders (note, second) VALUES ('by hand', 5000)").await;
        stage.wait_past("orders_second_seq", 5000).await;
        // A sequence may have been seen before its rights were granted; nothing else was disturbed.
        let disturbed =
            |line: &String| ["interrupted", "away", "lost", "ceiling"].iter().any(|word| line.contains(word));
        let complaints: Vec<_> = shadow.complaints().into_iter().filter(disturbed).collect();
        assert!(complaints.is_empty(), "{complaints:#?}");

        // What is dropped goes, too.
        stage.pair.on_both("DROP TABLE parts").await.unwrap();
        stage.on_subscriber("DROP TABLE items").await;
        let refreshed = admin(&stage.pair, "setup", &["--refresh", "--json"]);
        ends(&refreshed, 0, &[]);
        assert_eq!(refreshed.json().unwrap()["tables"]["removed"], serde_json::json!(["public.items"]));
        assert_eq!(published(&stage.publisher, "seqshadow_ours").await, ["orders"]);
    }
}

/// The command that is printed in the end is the one that works.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_command_starts_the_daemon() {
    let orders = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)";
    let stage = Stage::replicating(18, 15, orders).await.unwrap();
    let name = "It's \"ours\", too";
    let made = admin(
        &stage.pair,
        "setup",
        &["--json", "--role=shadow", "--no-slot", &format!("--publication={name}")],
    );
    ends(&made, 0, &["left to the daemon"]);
    let command = made.json().unwrap()["command"].as_str().unwrap().to_owned();
    let words = format!("seqshadow() {{ printf '%s\\n' \"$@\"; }}; {command}");
    let words = limited::output(std::process::Command::new("sh").args(["-c", &words])).unwrap();
    let words: Vec<String> = String::from_utf8(words.stdout).unwrap().lines().map(str::to_owned).collect();
    let shadow = proto_tests::shadow::ShadowCommand::new(words).start().unwrap();
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 300).await;
    drop(shadow);
    wait_for_free_slot(&stage).await;
    // So do the lines for its file: the narrow publication, not the subscription's.
    let lines = made.json().unwrap()["config"].as_str().unwrap().to_owned();
    let file = std::env::temp_dir().join(format!("seqshadow-setup-{}.toml", stage.pair.publisher.port()));
    std::fs::write(&file, lines).unwrap();
    let words = ["--slot=ours".to_owned(), format!("--config={}", file.display())];
    let shadow = proto_tests::shadow::ShadowCommand::new(words.to_vec()).start().unwrap();
    std::fs::remove_file(&file).unwrap();
    let follows =
        shadow.stderr_lines().iter().any(|line| line.contains("\\\"ours\\\", too") || line.contains(name));
    assert!(follows, "{:#?}", shadow.stderr_lines());
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 600).await;
    drop(shadow);
    wait_for_free_slot(&stage).await;
    // Found by its mark, whatever its name is.
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Done"]);
    assert!(published(&stage.publisher, name).await.is_empty());
}
