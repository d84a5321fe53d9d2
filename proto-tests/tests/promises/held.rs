//! Promise 6: a sequence that we may not or cannot move is held, alone, and the log has the SQL that mends it. The SQL is
//! run here as it stands there, and the sequence is followed again without a restart.

use proto_tests::pair::{Pair, PairOptions, confirmed};
use proto_tests::sequence::{state, wait_for_value, wait_past};
use proto_tests::shadow::Shadow;
use proto_tests::sidecar::{SLOT, start};
use proto_tests::sql::PATIENCE;
use seqshadow::demo::servers::{ClusterOptions, Mode};
use tokio_postgres::Client;

/// The statements after `on the subscriber: `.
fn mending_sql(line: &str) -> String {
    let sql = line.split_once("on the subscriber: ").unwrap_or_else(|| panic!("no SQL in {line}")).1;
    let end = sql.rfind(';').unwrap_or_else(|| panic!("no statement in {line}"));
    sql[..=end].to_owned()
}

/// Waits for the word that `sequence` is held.
fn wait_held(shadow: &Shadow, sequence: &str) -> String {
    wait_held_after(shadow, 0, sequence)
}

/// As [`wait_held`], after the first `seen` lines.
fn wait_held_after(shadow: &Shadow, mut seen: usize, sequence: &str) -> String {
    loop {
        let line = shadow.wait_for_line_after(seen, "the sequence is held", PATIENCE).unwrap();
        if line.contains(sequence) {
            return line;
        }
        let lines = shadow.stderr_lines();
        seen += lines[seen..].iter().position(|other| *other == line).unwrap() + 1;
    }
}

async fn insert(publisher: &Client, table: &str, count: i32) {
    let sql = format!("INSERT INTO {table} (note) SELECT 'x' FROM generate_series(1, {count})");
    publisher.batch_execute(&sql).await.unwrap();
}

/// Held, mended with what the log says, followed again.
async fn mend(shadow: &Shadow, subscriber: &Client, sequence: &str, id: i64) -> String {
    let line = wait_held(shadow, sequence);
    let sql = mending_sql(&line);
    subscriber.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    wait_past(subscriber, sequence, id).await.unwrap();
    sql
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_hold_one_sequence_until_they_are_granted() {
    let pair = Pair::new(15, 17).await.unwrap();
    let table = |name: &str| format!("CREATE TABLE {name} (id serial PRIMARY KEY, note text);");
    let ddl = ["fine", "nothing", "read_only", "walk_only", "dropped", "revoked", "\"Odd one\".t"]
        .map(table)
        .concat();
    pair.on_both(&format!("CREATE SCHEMA \"Odd one\"; {ddl}")).await.unwrap();
    pair.grant(&["public", "Odd one"]).await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    subscriber
        .batch_execute(
            "REVOKE ALL ON nothing_id_seq, read_only_id_seq, walk_only_id_seq FROM shadow;
             GRANT SELECT ON read_only_id_seq TO shadow; GRANT USAGE ON walk_only_id_seq TO shadow;
             REVOKE ALL ON SCHEMA \"Odd one\" FROM shadow",
        )
        .await
        .unwrap();
    pair.replicate_all().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    for table in ["nothing", "read_only", "walk_only", "dropped", "revoked", "\"Odd one\".t", "fine"] {
        insert(&publisher, table, 100).await;
    }
    // The others go on, one without UPDATE by walking.
    wait_past(&subscriber, "fine_id_seq", 100).await.unwrap();
    wait_past(&subscriber, "walk_only_id_seq", 100).await.unwrap();
    let lines = [wait_held(&shadow, "nothing_id_seq"), wait_held(&shadow, "read_only_id_seq")];
    for line in &lines {
        assert!(line.contains("the role shadow lacks the right"), "{line}");
    }
    assert_eq!(state(&subscriber, "nothing_id_seq").await.unwrap().last_value, 1);

    let sql = mend(&shadow, &subscriber, "nothing_id_seq", 100).await;
    assert_eq!(sql, "GRANT USAGE, SELECT, UPDATE ON SEQUENCE public.nothing_id_seq TO shadow;");
    let sql = mend(&shadow, &subscriber, "read_only_id_seq", 100).await;
    assert_eq!(sql, "GRANT USAGE, UPDATE ON SEQUENCE public.read_only_id_seq TO shadow;");
    let line = wait_held(&shadow, "Odd one");
    assert!(line.contains("GRANT USAGE ON SCHEMA \"Odd one\" TO shadow;"), "{line}");
    subscriber.batch_execute(&mending_sql(&line)).await.unwrap();
    wait_past(&subscriber, "\"Odd one\".t_id_seq", 100).await.unwrap();

    // Taken away while running, and a sequence that goes.
    subscriber
        .batch_execute("REVOKE ALL ON revoked_id_seq FROM shadow; DROP SEQUENCE dropped_id_seq CASCADE")
        .await
        .unwrap();
    insert(&publisher, "revoked", 1000).await;
    insert(&publisher, "dropped", 1000).await;
    insert(&publisher, "fine", 1000).await;
    wait_past(&subscriber, "fine_id_seq", 1100).await.unwrap();
    mend(&shadow, &subscriber, "revoked_id_seq", 1100).await;
    shadow.wait_for_line("the sequence was dropped on the subscriber", PATIENCE).unwrap();

    // Nothing of this holds back what is confirmed, and no hold is said again and again.
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
    insert(&publisher, "fine", 5000).await;
    wait_past(&subscriber, "fine_id_seq", 6100).await.unwrap();
    let held = shadow.stderr_lines().iter().filter(|line| line.contains("the sequence is held")).count();
    assert_eq!(held, 4, "{:#?}", shadow.complaints());
    // Once mended it is proven again before it is confirmed: lock it, and the position must wait for it.
    let seen = shadow.stderr_lines().len();
    let locking = pair.on_subscriber().await.unwrap();
    locking.batch_execute("BEGIN; ALTER SEQUENCE nothing_id_seq RESTART").await.unwrap();
    insert(&publisher, "nothing", 5000).await;
    let locked_at = pair.publisher_lsn().await.unwrap();
    wait_held_after(&shadow, seen, "nothing_id_seq");
    insert(&publisher, "fine", 5000).await;
    wait_past(&subscriber, "fine_id_seq", 11_100).await.unwrap();
    assert!(confirmed(&publisher, SLOT).await.unwrap().is_some_and(|confirmed| confirmed < locked_at));
    locking.batch_execute("ROLLBACK").await.unwrap();
    wait_past(&subscriber, "nothing_id_seq", 5100).await.unwrap();
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_too_narrow_is_held_until_it_is_widened() {
    let pair = Pair::new(15, 15).await.unwrap();
    let ddl = "CREATE TABLE fine (id serial PRIMARY KEY, note text);
               CREATE TABLE short (id serial PRIMARY KEY, note text);
               CREATE TABLE ident (id bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY, note text);
               CREATE TABLE down (id bigint PRIMARY KEY GENERATED BY DEFAULT AS IDENTITY (INCREMENT -1), note text);
               CREATE TABLE codes (id text PRIMARY KEY DEFAULT 'K' || nextval('short_id_seq'), note text)";
    pair.on_both(ddl).await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    publisher.batch_execute("CREATE TABLE wide (id bigserial PRIMARY KEY, note text)").await.unwrap();
    subscriber
        .batch_execute(
            "ALTER SEQUENCE short_id_seq MAXVALUE 999; ALTER SEQUENCE ident_id_seq MAXVALUE 500;
             ALTER SEQUENCE down_id_seq MINVALUE -500;
             CREATE TABLE wide (id smallserial PRIMARY KEY, note text)",
        )
        .await
        .unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.replicate_all().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    for round in 1..=3 {
        for table in ["short", "ident", "down", "fine"] {
            insert(&publisher, table, 1500).await;
        }
        wait_past(&subscriber, "fine_id_seq", round * 1500).await.unwrap();
    }
    let sql = mend(&shadow, &subscriber, "short_id_seq", 4500).await;
    assert_eq!(sql, "ALTER SEQUENCE public.short_id_seq AS bigint MAXVALUE 2147483647;");
    mend(&shadow, &subscriber, "ident_id_seq", 4500).await;
    let line = wait_held(&shadow, "down_id_seq");
    subscriber.batch_execute(&mending_sql(&line)).await.unwrap();
    let what = "past -4500";
    wait_for_value(&subscriber, "down_id_seq", what, |last| last <= -4500).await.unwrap();

    // Column and sequence both: rows past them cannot even be applied, so native apply waits for the same SQL.
    publisher.batch_execute("SELECT setval('wide_id_seq', 40000)").await.unwrap();
    insert(&publisher, "wide", 10).await;
    let sql = mend(&shadow, &subscriber, "wide_id_seq", 40_010).await;
    assert!(sql.contains("ALTER TABLE public.wide ALTER COLUMN id TYPE bigint;"), "{sql}");
    pair.catch_up().await.unwrap();
    subscriber.batch_execute("INSERT INTO wide (note) VALUES ('after the cutover')").await.unwrap();
    let held = shadow.stderr_lines().iter().filter(|line| line.contains("the sequence is held")).count();
    assert_eq!(held, 4, "each is said once: {:#?}", shadow.complaints());
}

/// The last page of a relation's file loses what makes it one of a sequence.
fn damage(pair: &Pair, path: &str) {
    let file = pair.subscriber.data_dir().join(path);
    let mut bytes = std::fs::read(&file).unwrap();
    let magic = bytes.len() - 8;
    bytes[magic..magic + 4].copy_from_slice(&[0; 4]);
    std::fs::write(&file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_sequence_is_held_with_the_servers_words_and_the_others_go_on() {
    let pair = Pair::new(17, 15).await.unwrap();
    pair.on_both(
        "CREATE TABLE fine (id serial PRIMARY KEY, note text);
         CREATE TABLE bad (id serial PRIMARY KEY, note text)",
    )
    .await
    .unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.replicate_all().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let (publisher, subscriber) = (pair.on_publisher().await.unwrap(), pair.on_subscriber().await.unwrap());
    for table in ["bad", "fine"] {
        insert(&publisher, table, 100).await;
        wait_past(&subscriber, &format!("{table}_id_seq"), 100).await.unwrap();
    }
    let row = subscriber.query_one("SELECT pg_relation_filepath('bad_id_seq')", &[]).await.unwrap();
    pair.subscriber.stop(Mode::Fast).unwrap();
    damage(&pair, row.get(0));
    pair.subscriber.resume().unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();

    let line = wait_held(&shadow, "bad_id_seq");
    assert!(line.contains("bad magic number") && line.contains("XX000"), "{line}");
    for round in 2..=4 {
        insert(&publisher, "bad", 100).await;
        insert(&publisher, "fine", 1000).await;
        wait_past(&subscriber, "fine_id_seq", round * 1000 - 900).await.unwrap();
    }
    // Made anew, as its owner would: it is followed again. Over more than one try the hold was said once.
    subscriber
        .batch_execute(
            "ALTER TABLE bad ALTER id DROP DEFAULT; DROP SEQUENCE bad_id_seq; CREATE SEQUENCE bad_id_seq OWNED BY bad.id;
             ALTER TABLE bad ALTER id SET DEFAULT nextval('bad_id_seq'); GRANT ALL ON bad_id_seq TO shadow",
        )
        .await
        .unwrap();
    wait_past(&subscriber, "bad_id_seq", 400).await.unwrap();
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
    let held = shadow.stderr_lines().iter().filter(|line| line.contains("the sequence is held")).count();
    assert_eq!(held, 1, "{:#?}", shadow.complaints());
}

/// Its values pass through a smallint, folded: that is no end of the sequence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_holds_no_ids_does_not_hold_the_sequence() {
    let pair = Pair::new(16, 15).await.unwrap();
    pair.on_both(
        "CREATE SEQUENCE s;
         CREATE TABLE t (id bigserial PRIMARY KEY, shard smallint DEFAULT (nextval('s') % 1000)::smallint)",
    )
    .await
    .unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.replicate_all().await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    publisher.batch_execute("SELECT setval('s', 100000)").await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    wait_past(&subscriber, "s", 100_000).await.unwrap();
    assert!(!shadow.stderr_lines().iter().any(|line| line.contains("is held")), "{:#?}", shadow.complaints());
}

/// What a role is set to by default must not matter.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_with_defaults_of_its_own_works_and_its_receipts_are_true() {
    let subscriber = ClusterOptions { fsync: true, ..ClusterOptions::default() };
    let pair = Pair::with(15, 15, PairOptions { subscriber, ..PairOptions::default() }).await.unwrap();
    pair.replicate("CREATE TABLE t (id bigserial PRIMARY KEY, note text)").await.unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    for (setting, value) in [
        ("synchronous_commit", "off"),
        ("default_transaction_read_only", "on"),
        ("default_transaction_isolation", "serializable"),
        ("idle_session_timeout", "'300ms'"),
        ("idle_in_transaction_session_timeout", "'10ms'"),
        ("lock_timeout", "1"),
        ("search_path", "nowhere"),
        ("row_security", "off"),
        ("DateStyle", "'German'"),
        ("standard_conforming_strings", "off"),
    ] {
        subscriber.batch_execute(&format!("ALTER ROLE shadow SET {setting} = {value}")).await.unwrap();
        let publisher = pair.on_publisher().await.unwrap();
        publisher.batch_execute(&format!("ALTER ROLE shadow SET {setting} = {value}")).await.unwrap();
    }
    // At the pace of production: a session that is idle for longer than the role may be.
    let shadow = start(&pair, &["--poll-interval=10s"]).unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    for round in 1..=3 {
        insert(&publisher, "t", 200_000).await;
        wait_past(&subscriber, "t_id_seq", round * 200_000).await.unwrap();
    }
    let end = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, end).await.unwrap();
    assert!(!pair.subscriber.log().contains("timeout"), "{}", pair.subscriber.log_tail(30));
    assert!(!pair.publisher.log().contains("timeout"), "{}", pair.publisher.log_tail(30));
    // Nothing was put off: a crash right after the confirmation takes nothing back.
    pair.subscriber.kill9();
    pair.subscriber.resume().unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    assert!(state(&subscriber, "t_id_seq").await.unwrap().last_value >= 600_000);
    assert!(!shadow.stderr_lines().iter().any(|line| line.contains("read-only transaction")));
}
