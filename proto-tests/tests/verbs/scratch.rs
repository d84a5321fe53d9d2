//! Attacks of a review: each prints what it found (`-- --nocapture`), and fails where the program says yes too much.

use crate::cutover::{TABLES, USE, at_rest, command, database_settings, run};
use crate::reverse::{READ_ONLY, reverse, switched};
use proto_tests::shadow::{Finished, Signal};
use proto_tests::sql::{PATIENCE, connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::{sidecar, verb};
use std::time::{Duration, Instant};

fn show(what: &str, finished: &Finished) {
    println!("=== {what}\n{}", finished.all());
}

fn certificate(directory: &std::path::Path) -> serde_json::Value {
    serde_json::from_str(&std::fs::read_to_string(directory.join("certificate.json")).unwrap()).unwrap()
}

/// A queue: its rows are deleted when they are done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_queue() {
    let stage =
        Stage::replicating(15, 17, "CREATE TABLE jobs (id bigserial PRIMARY KEY, note text)").await.unwrap();
    stage
        .on_publisher("INSERT INTO jobs (note) SELECT 'x' FROM generate_series(1, 1000); DELETE FROM jobs")
        .await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let before = stage.next("jobs_id_seq").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO jobs (note) SELECT 'never arrives' FROM generate_series(1, 500)").await;
    stage.pair.publisher.kill9();
    let lost = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    show("lost queue", &lost);
    let after = stage.next("jobs_id_seq").await;
    println!("next before {before}, after {after}; the publisher had given out up to 1500");
    let json = verb::run(&stage.pair, "cutover", &["--publisher-lost", "--json"]).unwrap();
    println!("{}", json.stdout);
    assert!(after > 100_000, "no margin: {after}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_while_it_streams() {
    let stage = at_rest(16, 18).await;
    let lost = verb::run(
        &stage.pair,
        "cutover",
        &["--publisher=host=127.0.0.1 port=1 dbname=shop", "--publisher-lost"],
    )
    .unwrap();
    show("lost, while the subscription streams", &lost);
    assert_eq!(lost.code(), 4, "it is not gone");
}

/// A heartbeat overtakes a table that is still copied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeat_overtakes_a_copy() {
    let ddl = format!("{TABLES}; CREATE TABLE heartbeat (id serial PRIMARY KEY, token text)");
    let stage = Stage::replicating(16, 18, &ddl).await.unwrap();
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    stage.pair.on_both("CREATE TABLE late (id serial PRIMARY KEY, note text)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("INSERT INTO late (note) SELECT 'x' FROM generate_series(1, 50)").await;
    let holder = stage.pair.on_subscriber().await.unwrap();
    holder.batch_execute("BEGIN; LOCK TABLE late IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    let directory = tempfile::tempdir().unwrap();
    let cut =
        run(&stage.pair, directory.path(), &["--stop-writes", "--heartbeat=public.heartbeat", "--wait=5s"]);
    show("heartbeat beside a copy", &cut);
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM late", &[]).await.unwrap().get(0);
    println!("rows of late on the subscriber: {rows} of 50");
    assert_eq!(cut.code(), 1);
}

/// A slot of somebody else, while the subscription is disabled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applier_slot_of_a_stranger() {
    let stage = at_rest(15, 17).await;
    stage.on_publisher("SELECT pg_create_logical_replication_slot('cdc', 'pgoutput')").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO orders (note) SELECT 'not there' FROM generate_series(1, 5)").await;
    let cdc = stage.pair.on_publisher().await.unwrap();
    let cdc = tokio::spawn(async move {
        let sql = "SELECT pg_replication_slot_advance('cdc', pg_current_wal_flush_lsn())";
        while cdc.query(sql, &[]).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--applier-slot=cdc", "--wait=10s"]);
    cdc.abort();
    show("a stranger's slot", &cut);
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    println!("rows of orders on the subscriber: {rows} of 505");
    assert_eq!(cut.code(), 1);
}

/// A session that has read the settings before they were changed, and is seen only afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_its_way_in() {
    let stage = at_rest(16, 18).await;
    // The program is built first, where it has to be.
    let _ = verb::run(&stage.pair, "sync", &[]).unwrap();
    let conninfo = format!("{} options='-c post_auth_delay=8'", stage.pair.publisher_conninfo());
    let coming = tokio::spawn(async move { connect(&conninfo).await });
    tokio::time::sleep(Duration::from_secs(2)).await;
    let directory = tempfile::tempdir().unwrap();
    let since = Instant::now();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    show(&format!("a session on its way in, {:?}", since.elapsed()), &cut);
    let writer = coming.await.unwrap().unwrap();
    let wrote = writer.batch_execute("INSERT INTO orders (note) VALUES ('after the yes')").await;
    println!("after the yes it wrote: {wrote:?}");
    if cut.code() == 0 {
        println!("sessions_left {}", certificate(directory.path())["databases"][0]["sessions_left"]);
    }
    assert!(cut.code() != 0 || wrote.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_temporary_slot() {
    let stage = at_rest(14, 17).await;
    let writer = stage.pair.on_publisher().await.unwrap();
    writer
        .batch_execute("SELECT pg_create_logical_replication_slot('mine', 'pgoutput', true)")
        .await
        .unwrap();
    for flag in ["--stop-writes", "--unknown-writes"] {
        let directory = tempfile::tempdir().unwrap();
        let cut = run(&stage.pair, directory.path(), &[flag]);
        show(&format!("a session with a temporary slot, {flag}"), &cut);
        if cut.code() == 0 {
            println!("sessions_left {}", certificate(directory.path())["databases"][0]["sessions_left"]);
        }
    }
    let wrote = writer.batch_execute("INSERT INTO orders (note) VALUES ('after the yes')").await;
    println!("after the yes it wrote: {wrote:?}");
    assert!(wrote.is_err());
}

/// Nothing is known of a sequence: neither the publisher's nor the rows here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_known() {
    let stage = at_rest(15, 18).await;
    stage.on_publisher("REVOKE ALL ON orders_id_seq FROM shadow; REVOKE ALL ON orders FROM shadow").await;
    stage.on_subscriber("ALTER TABLE orders DROP CONSTRAINT orders_pkey").await;
    let plan = verb::run(&stage.pair, "plan", &[]).unwrap();
    show("plan", &plan);
    let dry = verb::run(&stage.pair, "sync", &["--dry-run"]).unwrap();
    show("sync --dry-run", &dry);
    let sync = verb::run(&stage.pair, "sync", &[]).unwrap();
    show("sync", &sync);
    let again = verb::run(&stage.pair, "sync", &["--json"]).unwrap();
    show("sync --json", &again);
    println!("next {}", stage.next("orders_id_seq").await);
    show("verify", &verb::run(&stage.pair, "verify", &[]).unwrap());
    assert_eq!((plan.code(), sync.code()), (1, 1));
}

/// The publisher is itself a subscriber: what comes in by replication is not kept out.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_subscribes() {
    let stage = at_rest(16, 18).await;
    let admin = connect(&stage.pair.publisher.conninfo("postgres")).await.unwrap();
    admin.batch_execute("CREATE DATABASE upstream").await.unwrap();
    let upstream = connect(&stage.pair.publisher.conninfo("upstream")).await.unwrap();
    upstream
        .batch_execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, note text); CREATE PUBLICATION up FOR ALL TABLES",
        )
        .await
        .unwrap();
    upstream.batch_execute("SELECT pg_create_logical_replication_slot('up', 'pgoutput')").await.unwrap();
    stage
        .on_publisher(&format!(
            "CREATE SUBSCRIPTION up CONNECTION '{}' PUBLICATION up WITH (create_slot = false, slot_name = 'up', copy_data = false)",
            stage.pair.publisher.conninfo("upstream").replace('\'', "''")
        ))
        .await;
    wait_for(
        &stage.pair.publisher.conninfo("postgres"),
        "upstream",
        "SELECT active FROM pg_replication_slots WHERE slot_name = 'up'",
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    show("a publisher that subscribes", &cut);
    let next = stage.next("orders_id_seq").await;
    upstream.batch_execute(&format!("INSERT INTO orders VALUES ({next}, 'from upstream')")).await.unwrap();
    let sql = format!("SELECT EXISTS (SELECT FROM orders WHERE id = {next})");
    let came = wait_for(&stage.pair.subscriber_conninfo(), "the row", &sql).await;
    println!("id {next} came to the subscriber after the yes: {came:?}");
    let taken = stage.subscriber.batch_execute("INSERT INTO orders (note) VALUES ('the application')").await;
    println!("the application's first insert: {taken:?}");
    assert!(cut.code() != 0 || taken.is_ok());
}

/// A trigger that draws through a function.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drawn_through_a_function() {
    let ddl = "CREATE SEQUENCE q; CREATE TABLE a (id bigint PRIMARY KEY DEFAULT nextval('q'));
        CREATE FUNCTION next_no() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('q') $$;
        CREATE TABLE b (no bigint PRIMARY KEY, note text);
        CREATE FUNCTION b_no() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
            IF NEW.no IS NULL THEN NEW.no := public.next_no(); END IF; RETURN NEW; END $$;
        CREATE TRIGGER b_no BEFORE INSERT ON b FOR EACH ROW EXECUTE FUNCTION b_no()";
    let ddl = ddl.replace("SELECT nextval('q')", "SELECT nextval('public.q')");
    let stage = Stage::replicating(15, 18, &ddl).await.unwrap();
    stage.on_publisher("INSERT INTO a SELECT FROM generate_series(1, 100); INSERT INTO b (note) SELECT 'x' FROM generate_series(1, 5); INSERT INTO b VALUES (140, 'by hand')").await;
    stage.pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    show("through a function", &cut);
    let verify = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    println!("{}", verify.stdout);
    let mut outcome = Ok(());
    for _ in 0..40 {
        outcome = stage.subscriber.batch_execute("INSERT INTO b (note) VALUES ('app')").await;
        if outcome.is_err() {
            break;
        }
    }
    println!("the application's inserts into b: {outcome:?}");
    assert!(!cut.stdout.contains("YES: 1 sequence of 1 database proven past everything."));
}

/// The sequence is past what its column can hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_columns_end() {
    let stage = Stage::replicating(
        14,
        17,
        "CREATE SEQUENCE s; CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('s'), note text)",
    )
    .await
    .unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 10)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("SELECT setval('s', 2147483647)").await;
    let verify = verb::run(&stage.pair, "verify", &[]).unwrap();
    show("past the column's end: verify", &verify);
    show("plan", &verb::run(&stage.pair, "plan", &[]).unwrap());
    println!("{:?}", stage.subscriber.batch_execute("INSERT INTO t (note) VALUES ('app')").await);
    assert_eq!(verify.code(), 1);
}

/// Ids below zero inside text.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn negative_ids_in_text() {
    let stage = Stage::replicating(14, 17, "CREATE SEQUENCE d INCREMENT -1; CREATE TABLE t (code text PRIMARY KEY DEFAULT 'A' || nextval('d'), note text)").await.unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 10); INSERT INTO t VALUES ('A-60', 'by hand')").await;
    stage.pair.catch_up().await.unwrap();
    show("sync", &verb::run(&stage.pair, "sync", &[]).unwrap());
    let verify = verb::run(&stage.pair, "verify", &["--full"]).unwrap();
    show("negative ids in text: verify --full", &verify);
    println!("next {}", stage.next("d").await);
    let mut outcome = Ok(());
    for _ in 0..60 {
        outcome = stage.subscriber.batch_execute("INSERT INTO t (note) VALUES ('app')").await;
        if outcome.is_err() {
            break;
        }
    }
    println!("{outcome:?}");
    assert!(outcome.is_ok() || verify.code() == 1);
}

/// `false` is as good as `off`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_a_role_set_to_false() {
    let stage = switched(15, 17).await;
    stage.on_publisher("ALTER ROLE app SET default_transaction_read_only = false; GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app").await;
    let done = reverse(&stage.pair, &["--apply"]);
    show("reverse with a role set to false", &done);
    let app = connect(&stage.pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    println!("it writes: {:?}", app.batch_execute("INSERT INTO orders (note) VALUES ('lost')").await);
    let status = reverse(&stage.pair, &["--status"]);
    show("status", &status);
    assert_ne!(done.code(), 0);
}

/// `true` is as good as `on`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_a_database_set_to_true() {
    let stage = switched(15, 17).await;
    stage.on_publisher("ALTER DATABASE shop SET default_transaction_read_only = true").await;
    let done = reverse(&stage.pair, &["--apply", "--dry-run"]);
    show("reverse with a database set to true", &done);
    assert_eq!(done.code(), 0);
}

/// A session that is older than the setting writes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_an_older_session() {
    let stage = switched(15, 17).await;
    let done = reverse(&stage.pair, &["--apply"]);
    show("reverse with an older session", &done);
    println!(
        "it writes: {:?}",
        stage.publisher.batch_execute("INSERT INTO orders (note) VALUES ('lost')").await
    );
    println!(
        "next there {} ",
        proto_tests::sequence::next_value(&stage.publisher, "orders_id_seq").await.unwrap()
    );
    assert_ne!(done.code(), 0);
}

/// What a dry run says, and what comes of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_and_sessions() {
    let stage = at_rest(13, 16).await;
    stage.on_publisher(READ_ONLY).await;
    let directory = tempfile::tempdir().unwrap();
    let dry = run(&stage.pair, directory.path(), &["--unknown-writes", "--dry-run"]);
    show("dry run", &dry);
    let cut = run(&stage.pair, directory.path(), &["--unknown-writes"]);
    show("cutover", &cut);
    assert_eq!(dry.code(), cut.code());
}

/// The operator's own setting is taken back in the pause.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_in_the_operators_pause() {
    let Stage { pair, publisher, subscriber } = at_rest(14, 16).await;
    publisher.batch_execute(READ_ONLY).await.unwrap();
    drop((publisher, subscriber));
    wait_for(
        &pair.publisher.conninfo("postgres"),
        "sessions to end",
        "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'client backend')",
    )
    .await
    .unwrap();
    let mut sidecar = sidecar::start(&pair, &[]).unwrap();
    sidecar.signal(Signal::STOP);
    let directory = tempfile::tempdir().unwrap();
    let mut cut =
        command(&pair, directory.path(), &["--unknown-writes", "--slot=ours", "--wait=40s"]).spawn().unwrap();
    cut.wait_for_output("nobody writes", PATIENCE).unwrap();
    let named = format!("--publisher={}", pair.publisher_conninfo());
    let abort = verb::run(&pair, "cutover", &[&named, "--abort"]).unwrap();
    show("abort", &abort);
    println!("settings {:?}", database_settings(&pair).await);
    let app = connect(&pair.publisher_conninfo()).await.unwrap();
    sidecar.signal(Signal::CONT);
    let status = cut.wait_exit(PATIENCE).unwrap();
    println!(
        "exit {:?}\n{}\n{}",
        status.code(),
        cut.stdout_lines().join("\n"),
        cut.stderr_lines().join("\n")
    );
    println!("it writes: {:?}", app.batch_execute("INSERT INTO orders (note) VALUES ('after')").await);
    assert_ne!(status.code(), Some(0));
}

/// A CYCLE sequence has rows, too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_cycle() {
    let stage = Stage::replicating(13, 16, "CREATE SEQUENCE ring MAXVALUE 1000 CYCLE; CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('ring'), note text)").await.unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 50)").await;
    stage.pair.catch_up().await.unwrap();
    stage.pair.publisher.kill9();
    let lost = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    show("lost cycle", &lost);
    println!("next {}", stage.next("ring").await);
    let wrote = stage.subscriber.batch_execute("INSERT INTO t (note) VALUES ('app')").await;
    println!("the application: {wrote:?}");
    assert!(wrote.is_ok() || lost.code() != 0 || lost.all().contains("ring"));
}

/// A seqshadow under another name confirms what nobody has applied.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn applier_slot_of_a_renamed_seqshadow() {
    let stage = at_rest(15, 18).await;
    let named =
        format!("--publisher={} application_name=orders_sidecar", stage.pair.shadow_publisher_conninfo());
    let _sidecar = sidecar::start(&stage.pair, &[&named]).unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    stage.on_publisher("INSERT INTO orders (note) SELECT 'not there' FROM generate_series(1, 5)").await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--applier-slot=ours", "--wait=10s", "--stop-writes"]);
    show("a renamed seqshadow's slot", &cut);
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM orders", &[]).await.unwrap().get(0);
    println!("rows of orders on the subscriber: {rows} of 505");
    assert_eq!(cut.code(), 1);
}

/// A refusal leaves the heartbeat's row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn heartbeat_left_behind() {
    let ddl = format!("{TABLES}; CREATE TABLE heartbeat (id serial PRIMARY KEY, token text)");
    let stage = Stage::replicating(14, 17, &ddl).await.unwrap();
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub DISABLE").await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--heartbeat=public.heartbeat", "--wait=1s"]);
    show("heartbeat refused", &cut);
    let rows: i64 = stage.publisher.query_one("SELECT count(*) FROM heartbeat", &[]).await.unwrap().get(0);
    println!("rows of heartbeat on the publisher: {rows}");
    assert_eq!(rows, 0);
}

/// A table that is made after the switch has no way back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_status_and_a_new_table() {
    let stage = switched(15, 17).await;
    assert_eq!(reverse(&stage.pair, &["--apply"]).code(), 0);
    let _shadow = crate::reverse::backwards(&stage.pair);
    stage.on_subscriber("CREATE TABLE fresh (id bigserial PRIMARY KEY, note text); GRANT SELECT ON fresh TO shadow; GRANT SELECT, USAGE, UPDATE ON fresh_id_seq TO shadow").await;
    stage.on_publisher("SET default_transaction_read_only = off; CREATE TABLE fresh (id bigserial PRIMARY KEY, note text); GRANT SELECT ON fresh TO shadow; GRANT SELECT, USAGE, UPDATE ON fresh_id_seq TO shadow").await;
    stage.on_subscriber("INSERT INTO fresh (note) SELECT 'x' FROM generate_series(1, 20)").await;
    crate::reverse::back(&stage.pair).await;
    let status = reverse(&stage.pair, &["--status"]);
    show("status with a new table", &status);
    let rows: i64 = stage.publisher.query_one("SELECT count(*) FROM fresh", &[]).await.unwrap().get(0);
    println!("rows of fresh on the old server: {rows} of 20");
    let json = reverse(&stage.pair, &["--status", "--json"]);
    println!("{}", json.stdout);
    assert_ne!(status.code(), 0);
}

/// Functions that are called by the application alone, and a view with other names.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ordinary_functions_and_views() {
    let ddl = "CREATE SCHEMA archive;
        CREATE SEQUENCE q1; CREATE TABLE a (id bigint PRIMARY KEY DEFAULT nextval('q1'), note text);
        CREATE TABLE archive.a (id bigint PRIMARY KEY, note text);
        CREATE FUNCTION to_archive() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO archive.a VALUES (nextval('public.q1'), 'x'); END $$;
        CREATE SEQUENCE q2; CREATE TABLE b (id bigint PRIMARY KEY DEFAULT nextval('q2'), ref bigint UNIQUE);
        CREATE FUNCTION with_ref() RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO b (ref) VALUES (nextval('public.q2')); END $$;
        CREATE SEQUENCE q3; CREATE TABLE c (id bigint PRIMARY KEY DEFAULT nextval('q3'), ref bigint UNIQUE);
        CREATE VIEW v AS SELECT ref AS id, id AS number FROM c; ALTER VIEW v ALTER COLUMN id SET DEFAULT nextval('q3');
        CREATE SEQUENCE q4; CREATE TABLE d (id bigint PRIMARY KEY DEFAULT nextval('q4'), note text); CREATE TABLE e (no bigint PRIMARY KEY, note text);
        CREATE VIEW w AS SELECT note FROM e; CREATE RULE w_in AS ON INSERT TO w DO INSTEAD INSERT INTO e VALUES (nextval('q4'), NEW.note)";
    let stage = Stage::replicating(15, 18, ddl).await.unwrap();
    stage.pair.grant(&["archive"]).await.unwrap();
    stage.on_publisher("INSERT INTO a (note) SELECT 'x' FROM generate_series(1, 10); INSERT INTO archive.a VALUES (60, 'by hand');
        INSERT INTO b SELECT FROM generate_series(1, 10); UPDATE b SET ref = 60 WHERE id = 1;
        INSERT INTO c SELECT FROM generate_series(1, 10); UPDATE c SET ref = 60 WHERE id = 1;
        INSERT INTO d (note) SELECT 'x' FROM generate_series(1, 10); INSERT INTO e VALUES (60, 'by hand')").await;
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verify = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for one in verify.json().unwrap()["sequences"].as_array().unwrap() {
        println!("{} {} next {} {}", one["sequence"], one["verdict"], one["next_value"], one["suspects"]);
    }
    for sql in [
        "SELECT to_archive()",
        "SELECT with_ref()",
        "INSERT INTO v DEFAULT VALUES",
        "INSERT INTO w VALUES ('x')",
    ] {
        let mut outcome = Ok(());
        for _ in 0..60 {
            outcome = stage.subscriber.batch_execute(sql).await;
            if outcome.is_err() {
                break;
            }
        }
        println!(
            "{sql}: {:?}",
            outcome.map_err(|e| e.to_string() + &e.as_db_error().map(|d| d.to_string()).unwrap_or_default())
        );
    }
}

/// Plain and healthy: nothing is to be said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn check_healthy() {
    for (old, new) in [(12, 17), (18, 18), (16, 15)] {
        let stage = at_rest(old, new).await;
        stage.on_subscriber("ANALYZE").await;
        let sides = [
            format!("--publisher={}", stage.pair.publisher_conninfo()),
            format!("--subscriber={}", stage.pair.subscriber_conninfo()),
        ];
        let setup = verb::run(
            &stage.pair,
            "setup",
            &[&sides[0], &sides[1], "--slot=orders", "--role=seqshadow", "--grant", "--read-tables"],
        )
        .unwrap();
        show("setup", &setup);
        let check = verb::run(
            &stage.pair,
            "check",
            &[&sides[0], &sides[1], "--slot=orders", "--publication=seqshadow_orders"],
        )
        .unwrap();
        show(&format!("check {old} {new}"), &check);
        let teardown =
            verb::run(&stage.pair, "teardown", &[&sides[0], &sides[1], "--slot=orders", "--drop-role"])
                .unwrap();
        show("teardown", &teardown);
    }
}

/// The certificate is kept, and then nobody can be told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_a_full_disk() {
    let stage = at_rest(15, 17).await;
    let _ = verb::run(&stage.pair, "sync", &[]).unwrap();
    for flags in [&["--json"][..], &[][..]] {
        let directory = tempfile::tempdir().unwrap();
        let certificate = directory.path().join("certificate.json");
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let output = std::process::Command::new(proto_tests::binary::binary())
            .args(["cutover", "--stop-writes"])
            .args(flags)
            .arg(format!("--certificate={}", certificate.display()))
            .arg(format!("--publisher={}", stage.pair.publisher_conninfo()))
            .arg(format!("--subscriber={}", stage.pair.shadow_subscriber_conninfo()))
            .env("SEQSHADOW_CONSOLE", "off")
            .stdin(std::process::Stdio::null())
            .stdout(full)
            .stderr(std::process::Stdio::piped())
            .output()
            .unwrap();
        println!(
            "=== {flags:?} exit {:?}\n{}",
            output.status.code(),
            String::from_utf8_lossy(&output.stderr)
        );
        println!(
            "certificate is there: {}; settings {:?}",
            certificate.exists(),
            database_settings(&stage.pair).await
        );
        let admin = stage.pair.on_publisher().await.unwrap();
        admin.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        admin.batch_execute("ALTER DATABASE shop RESET default_transaction_read_only").await.unwrap();
    }
}

/// A role that was there before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn teardown_of_a_role_that_was_there() {
    let stage = at_rest(15, 17).await;
    stage.pair.on_both("CREATE ROLE seqshadow LOGIN REPLICATION; GRANT SELECT ON orders, orders_id_seq TO seqshadow; GRANT USAGE ON SCHEMA public TO seqshadow").await.unwrap();
    let sides = [
        format!("--publisher={}", stage.pair.publisher_conninfo()),
        format!("--subscriber={}", stage.pair.subscriber_conninfo()),
    ];
    let setup = verb::run(
        &stage.pair,
        "setup",
        &[&sides[0], &sides[1], "--slot=orders", "--role=seqshadow", "--grant", "--read-tables"],
    )
    .unwrap();
    println!("{}", setup.all().lines().take(8).collect::<Vec<_>>().join("\n"));
    let teardown =
        verb::run(&stage.pair, "teardown", &[&sides[0], &sides[1], "--slot=orders", "--drop-role"]).unwrap();
    show("teardown of a role that was there", &teardown);
    for client in [&stage.publisher, &stage.subscriber] {
        let there: bool = client
            .query_one("SELECT EXISTS (SELECT FROM pg_roles WHERE rolname = 'seqshadow')", &[])
            .await
            .unwrap()
            .get(0);
        println!("role there: {there}");
        if there {
            let may: bool = client.query_one("SELECT has_table_privilege('seqshadow', 'orders', 'SELECT') AND has_sequence_privilege('seqshadow', 'orders_id_seq', 'SELECT')", &[]).await.unwrap().get(0);
            println!("and may what it might: {may}");
        }
    }
}

/// Another server feeds the same table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_of_two_servers() {
    let stage = at_rest(16, 18).await;
    let admin = connect(&stage.pair.publisher.conninfo("postgres")).await.unwrap();
    admin.batch_execute("CREATE DATABASE other").await.unwrap();
    let other = connect(&stage.pair.publisher.conninfo("other")).await.unwrap();
    other
        .batch_execute(
            "CREATE TABLE orders (id bigint PRIMARY KEY, note text); CREATE PUBLICATION other FOR ALL TABLES",
        )
        .await
        .unwrap();
    stage
        .on_subscriber(&format!(
            "CREATE SUBSCRIPTION other CONNECTION '{}' PUBLICATION other WITH (copy_data = false)",
            stage.pair.publisher.conninfo("other").replace('\'', "''")
        ))
        .await;
    wait_for(
        &stage.pair.publisher.conninfo("postgres"),
        "other",
        "SELECT active FROM pg_replication_slots WHERE slot_name = 'other'",
    )
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", "--subscription=sub"]);
    show("a subscriber of two servers", &cut);
    let next = stage.next("orders_id_seq").await;
    other.batch_execute(&format!("INSERT INTO orders VALUES ({next}, 'from elsewhere')")).await.unwrap();
    let sql = format!("SELECT EXISTS (SELECT FROM orders WHERE id = {next})");
    println!("{:?}", wait_for(&stage.pair.subscriber_conninfo(), "the row", &sql).await);
    let taken = stage.subscriber.batch_execute("INSERT INTO orders (note) VALUES ('the application')").await;
    println!("first insert: {:?}", taken.map_err(|e| e.as_db_error().map(|d| d.to_string())));
}

/// A table that is in no publication.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_in_no_publication() {
    let stage =
        Stage::with(15, 18, &format!("{TABLES}; CREATE TABLE extra (id serial PRIMARY KEY)")).await.unwrap();
    stage
        .pair
        .publish(&proto_tests::publication::Publication::of("pub", &["orders", "items"]))
        .await
        .unwrap();
    stage.pair.subscribe(&proto_tests::publication::Subscription::to("sub", &["pub"])).await.unwrap();
    stage.pair.wait_for_sync().await.unwrap();
    stage.on_publisher(USE).await;
    stage.on_publisher("INSERT INTO extra SELECT FROM generate_series(1, 20)").await;
    stage.pair.catch_up().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&stage.pair, directory.path(), &["--stop-writes"]);
    show("a table in no publication", &cut);
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM extra", &[]).await.unwrap().get(0);
    println!("rows of extra: {rows} of 20");
}

/// The printed reverse script and a role set to false; a session that is older.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_status_and_a_failing_worker() {
    let stage = switched(14, 18).await;
    assert_eq!(reverse(&stage.pair, &["--apply"]).code(), 0);
    let _shadow = crate::reverse::backwards(&stage.pair);
    stage.on_publisher("SET default_transaction_read_only = off; INSERT INTO orders (id, note) VALUES (9000, 'in the way')").await;
    stage.on_subscriber("INSERT INTO orders (id, note) VALUES (9000, 'cannot go back')").await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    for _ in 0..3 {
        let status = reverse(&stage.pair, &["--status"]);
        println!("=== failing worker: exit {}\n{}", status.code(), status.stdout);
    }
}

const MAY_WRITE: &str =
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app";
const NOBODY: &str = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE datname = 'shop' AND backend_type = 'client backend')";

/// The role we connect as is read-only by default, and nobody else is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_role_is_read_only() {
    let Stage { pair, publisher, subscriber } = at_rest(15, 17).await;
    publisher.batch_execute(MAY_WRITE).await.unwrap();
    publisher.batch_execute("ALTER ROLE postgres SET default_transaction_read_only = on").await.unwrap();
    drop((publisher, subscriber));
    wait_for(&pair.publisher.conninfo("postgres"), "sessions to end", NOBODY).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = run(&pair, directory.path(), &["--unknown-writes"]);
    show("our own role is read-only", &cut);
    let named = format!("--publisher={}", pair.publisher_conninfo());
    show("and the abort", &verb::run(&pair, "cutover", &[&named, "--abort"]).unwrap());
    let app = connect(&pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    println!("it writes: {:?}", app.batch_execute("INSERT INTO orders (note) VALUES ('after')").await);
    assert_ne!(cut.code(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn our_own_options_are_read_only() {
    let Stage { pair, publisher, subscriber } = at_rest(16, 18).await;
    drop((publisher, subscriber));
    wait_for(&pair.publisher.conninfo("postgres"), "sessions to end", NOBODY).await.unwrap();
    let named =
        format!("--publisher={} options='-c default_transaction_read_only=on'", pair.publisher_conninfo());
    let directory = tempfile::tempdir().unwrap();
    let certificate = format!("--certificate={}", directory.path().join("c.json").display());
    let cut = verb::run(&pair, "cutover", &[&named, &certificate]).unwrap();
    show("our own options are read-only", &cut);
    assert_ne!(cut.code(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_our_own_role_is_read_only() {
    let stage = switched(16, 17).await;
    stage.on_publisher(MAY_WRITE).await;
    stage.on_publisher("ALTER DATABASE shop RESET default_transaction_read_only").await;
    stage.on_publisher("ALTER ROLE postgres SET default_transaction_read_only = on").await;
    let done = reverse(&stage.pair, &["--apply"]);
    show("reverse, and our own role is read-only", &done);
    let app = connect(&stage.pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    println!("it writes: {:?}", app.batch_execute("INSERT INTO orders (note) VALUES ('lost')").await);
    let status = reverse(&stage.pair, &["--status"]);
    show("status", &status);
    assert_ne!(done.code(), 0);
}

/// Two databases, of which the second has an applier that fails only after the writes were stopped.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_databases_one_file_twice() {
    let stage = at_rest(14, 17).await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("same.toml");
    std::fs::write(
        &file,
        format!(
            "publisher = \"{}\"\nsubscriber = \"{}\"\n",
            stage.pair.publisher_conninfo(),
            stage.pair.subscriber_conninfo()
        ),
    )
    .unwrap();
    let also = format!("--also={}", file.display());
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", &also]);
    show("one database twice", &cut);
    println!("settings {:?}", database_settings(&stage.pair).await);
}

/// A refused cutover has set a CYCLE sequence back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cycle_back_and_refused() {
    let stage = Stage::replicating(15, 18, "CREATE SEQUENCE ring MAXVALUE 1000 CYCLE; CREATE TABLE t (id int PRIMARY KEY DEFAULT nextval('ring'), note text); CREATE TABLE u (id bigserial PRIMARY KEY)").await.unwrap();
    stage.on_publisher("INSERT INTO t (note) SELECT 'x' FROM generate_series(1, 50); INSERT INTO u SELECT FROM generate_series(1, 5)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_subscriber("SELECT setval('ring', 300)").await;
    let _ = verb::run(&stage.pair, "verify", &[]).unwrap();
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = std::process::Command::new(proto_tests::binary::binary())
        .args(["cutover", "--stop-writes", "--json", "--cycle-back"])
        .arg(format!("--publisher={}", stage.pair.publisher_conninfo()))
        .arg(format!("--subscriber={}", stage.pair.shadow_subscriber_conninfo()))
        .env("SEQSHADOW_CONSOLE", "off")
        .stdin(std::process::Stdio::null())
        .stdout(full)
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    println!(
        "=== cycle back, refused: exit {:?}\n{}",
        output.status.code(),
        String::from_utf8_lossy(&output.stderr)
    );
    let next = stage.next("ring").await;
    println!("next {next}, was 301");
    assert_eq!(next, 301);
}

/// A published table that the forward subscription has never heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_a_table_that_was_never_subscribed() {
    let stage = Stage::replicating(15, 17, crate::reverse::TABLES).await.unwrap();
    stage.pair.on_both("CREATE TABLE fresh (id bigserial PRIMARY KEY, note text)").await.unwrap();
    stage.on_publisher("INSERT INTO fresh (note) SELECT 'x' FROM generate_series(1, 20)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_publisher(READ_ONLY).await;
    let done = reverse(&stage.pair, &["--apply"]);
    show("reverse with a table that was never subscribed", &done);
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM fresh", &[]).await.unwrap().get(0);
    println!("rows of fresh on the new server: {rows} of 20");
    assert_ne!(done.code(), 0);
}

/// What status says of a sequence of which nothing is known.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_of_nothing_known() {
    let stage = at_rest(15, 18).await;
    stage.on_publisher("REVOKE ALL ON orders_id_seq FROM shadow; REVOKE ALL ON orders FROM shadow").await;
    stage.on_subscriber("ALTER TABLE orders DROP CONSTRAINT orders_pkey").await;
    let _ = verb::run(&stage.pair, "sync", &[]).unwrap();
    let status = verb::run(&stage.pair, "status", &["--no-console"]).unwrap();
    show("status of nothing known", &status);
}

/// A role that cannot log in writes nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_exempt() {
    let stage = at_rest(16, 17).await;
    stage
        .on_publisher("CREATE ROLE crew NOLOGIN; ALTER ROLE crew SET default_transaction_read_only = off")
        .await;
    let directory = tempfile::tempdir().unwrap();
    show("a group that is exempt", &run(&stage.pair, directory.path(), &["--stop-writes", "--dry-run"]));
}

/// The text of a table of long names, and of the lost publisher.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn widths() {
    let stage = at_rest(16, 17).await;
    let mut wide = Vec::new();
    let verbs: [(&str, &[&str]); 7] = [
        ("plan", &[]),
        ("sync", &["--dry-run"]),
        ("sync", &["--all"]),
        ("verify", &["--all"]),
        ("status", &["--no-console"]),
        ("check", &[]),
        ("cutover", &["--dry-run", "--stop-writes"]),
    ];
    for (verb, flags) in verbs {
        let done = verb::run(&stage.pair, verb, flags).unwrap();
        wide.extend(
            done.stdout
                .lines()
                .chain(done.stderr.lines())
                .filter(|l| l.chars().count() > 80)
                .map(|l| format!("{verb}: {l}")),
        );
    }
    stage.pair.publisher.kill9();
    let done = verb::run(&stage.pair, "cutover", &["--publisher-lost"]).unwrap();
    wide.extend(done.stdout.lines().filter(|l| l.chars().count() > 80).map(|l| format!("lost: {l}")));
    let done = verb::run(&stage.pair, "cutover", &["--stop-writes"]).unwrap();
    wide.extend(
        done.stderr
            .lines()
            .filter(|l| l.chars().count() > 80)
            .map(|l| format!("cutover, publisher gone: {l}")),
    );
    println!("WIDE\n{}", wide.join("\n"));
}

/// A name in a trigger's arguments, and a function behind a domain's default.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_in_trigger_arguments_and_domains() {
    let ddl = "CREATE SEQUENCE q5; CREATE TABLE a5 (id bigint PRIMARY KEY DEFAULT nextval('q5'), note text);
        CREATE TABLE b5 (no bigint PRIMARY KEY, note text);
        CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.no := nextval(TG_ARGV[0]); RETURN NEW; END $$;
        CREATE TRIGGER fill BEFORE INSERT ON b5 FOR EACH ROW WHEN (NEW.no IS NULL) EXECUTE FUNCTION fill('public.q5');
        CREATE SEQUENCE q6; CREATE TABLE a6 (id bigint PRIMARY KEY DEFAULT nextval('q6'), note text);
        CREATE FUNCTION next6() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.q6') $$;
        CREATE DOMAIN d6 AS bigint DEFAULT next6(); CREATE TABLE b6 (no d6 PRIMARY KEY, note text);
        CREATE SEQUENCE q7; CREATE TABLE a7 (id bigint PRIMARY KEY DEFAULT nextval('q7'), note text);
        CREATE FUNCTION next7() RETURNS bigint LANGUAGE sql AS $$ SELECT nextval('public.q7') $$;
        CREATE FUNCTION outer7() RETURNS bigint LANGUAGE plpgsql AS $$ BEGIN RETURN public.next7(); END $$;
        CREATE TABLE b7 (no bigint PRIMARY KEY DEFAULT outer7(), note text)";
    let stage = Stage::replicating(15, 18, ddl).await.unwrap();
    for n in [5, 6, 7] {
        stage.on_publisher(&format!("INSERT INTO a{n} (note) SELECT 'x' FROM generate_series(1, 10); INSERT INTO b{n} VALUES (60, 'by hand')")).await;
    }
    stage.pair.catch_up().await.unwrap();
    assert_eq!(verb::run(&stage.pair, "sync", &[]).unwrap().code(), 0);
    let verify = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    for one in verify.json().unwrap()["sequences"].as_array().unwrap() {
        println!(
            "{} {} next {} {} {}",
            one["sequence"], one["verdict"], one["next_value"], one["columns"], one["suspects"]
        );
    }
    for n in [5, 6, 7] {
        let mut outcome = Ok(());
        for _ in 0..60 {
            outcome =
                stage.subscriber.batch_execute(&format!("INSERT INTO b{n} (note) VALUES ('app')")).await;
            if outcome.is_err() {
                break;
            }
        }
        println!("b{n}: {:?}", outcome.map_err(|e| e.as_db_error().map(|d| d.to_string())));
    }
}

/// Secrets that are no `password`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reverse_and_other_secrets() {
    let stage = switched(16, 17).await;
    for secret in ["sslpassword=hunter2", "oauth_client_secret=hunter2"] {
        let connection = format!("--connection={} {secret}", stage.pair.subscriber_conninfo());
        for flags in [
            &[connection.as_str()][..],
            &[connection.as_str(), "--apply", "--dry-run"][..],
            &[connection.as_str(), "--json"][..],
        ] {
            let printed = reverse(&stage.pair, flags);
            let leaks: Vec<String> = printed
                .all()
                .lines()
                .filter(|l| l.contains("hunter2"))
                .map(|l| l.chars().take(200).collect())
                .collect();
            println!("{secret} {:?} exit {}: {leaks:?}", &flags[1..], printed.code());
        }
    }
}

/// One publisher, two subscribers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out() {
    let stage = at_rest(15, 16).await;
    let admin = connect(&stage.pair.subscriber.conninfo("postgres")).await.unwrap();
    admin.batch_execute("CREATE DATABASE second").await.unwrap();
    let second = connect(&stage.pair.subscriber.conninfo("second")).await.unwrap();
    second.batch_execute(TABLES).await.unwrap();
    second
        .batch_execute(&format!(
            "CREATE SUBSCRIPTION second CONNECTION '{}' PUBLICATION pub",
            stage.pair.publisher_conninfo().replace('\'', "''")
        ))
        .await
        .unwrap();
    wait_for(&stage.pair.subscriber.conninfo("second"), "rows", "SELECT count(*) = 500 FROM orders")
        .await
        .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("second.toml");
    std::fs::write(
        &file,
        format!(
            "publisher = \"{}\"\nsubscriber = \"{}\"\n",
            stage.pair.publisher_conninfo(),
            stage.pair.subscriber.conninfo("second")
        ),
    )
    .unwrap();
    let also = format!("--also={}", file.display());
    let cut = run(&stage.pair, directory.path(), &["--stop-writes", &also]);
    show("a fan-out", &cut);
}
