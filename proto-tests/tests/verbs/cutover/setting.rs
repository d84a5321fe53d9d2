//! The setting that keeps an application from writing: read from what is set for everybody, for all sessions, until the end.

use super::pause::ended;
use super::{at_rest, blocker, command, confirm, cuts_over, database_settings, run, sessions_gone};
use crate::reverse::READ_ONLY;
use proto_tests::pair::Pair;
use proto_tests::shadow::{Finished, Signal};
use proto_tests::sql::{PATIENCE, connect, wait_for};
use proto_tests::stage::Stage;
use proto_tests::{sidecar, verb};
use std::time::Duration;

/// At rest, without a session of our own, after `sql` on the publisher.
async fn after(publisher: u32, subscriber: u32, sql: &str) -> Pair {
    let stage = at_rest(publisher, subscriber).await;
    stage.on_publisher(sql).await;
    let Stage { pair, publisher, subscriber } = stage;
    drop((publisher, subscriber));
    sessions_gone(&pair, "true").await;
    pair
}

/// Says nothing of how the writes are stopped.
fn by_setting(pair: &Pair, flags: &[&str]) -> (Finished, bool) {
    let directory = tempfile::tempdir().unwrap();
    let flags: Vec<&str> = flags.iter().copied().chain(["--unknown-writes"]).collect();
    let cut = run(pair, directory.path(), &flags);
    (cut, directory.path().join("certificate.json").exists())
}

fn abort(pair: &Pair) -> Finished {
    verb::run(pair, "cutover", &[&format!("--publisher={}", pair.publisher_conninfo()), "--abort"]).unwrap()
}

fn words(finished: &Finished) -> String {
    finished.all().split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setting_of_our_own_role_stops_nobody() {
    let pair = after(15, 17, "ALTER ROLE postgres SET default_transaction_read_only = on").await;
    for flags in [&[][..], &["--dry-run"]] {
        let (cut, certified) = by_setting(&pair, flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "writes-not-stopped"), "{}", cut.all());
        assert!(words(&cut).contains("our role postgres has a setting of its own"), "{}", cut.all());
        assert!(!certified);
    }
    let aborted = abort(&pair);
    assert_eq!(aborted.code(), 2, "{}", aborted.all());
    assert!(!aborted.all().contains("ALTER SYSTEM"), "{}", aborted.all());
    assert!(words(&aborted).contains("ALTER ROLE postgres RESET default_transaction_read_only;"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setting_of_our_own_connection_stops_nobody() {
    let pair = after(16, 18, "SELECT").await;
    let publisher =
        format!("--publisher={} options='-c default_transaction_read_only=on'", pair.publisher_conninfo());
    let directory = tempfile::tempdir().unwrap();
    let certificate = format!("--certificate={}", directory.path().join("c.json").display());
    let cut = verb::run(&pair, "cutover", &[&publisher, &certificate]).unwrap();
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "writes-not-stopped"), "{}", cut.all());
    assert!(words(&cut).contains("our own connection sets it"), "{}", cut.all());
    // Where the database's own setting decides, ours is of no interest.
    let admin = connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    admin.batch_execute(READ_ONLY).await.unwrap();
    let cut = verb::run(&pair, "cutover", &[&publisher, &certificate]).unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
}

/// In the order in which the server goes by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_decides_before_all_roles_and_these_before_the_server() {
    let pair = after(13, 16, "ALTER SYSTEM SET default_transaction_read_only = true").await;
    let admin = connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    admin.batch_execute("SET default_transaction_read_only = off; SELECT pg_reload_conf()").await.unwrap();
    let loaded = "SELECT reset_val = 'on' FROM pg_settings WHERE name = 'default_transaction_read_only'";
    wait_for(&pair.publisher.conninfo("postgres"), "the configuration", loaded).await.unwrap();
    assert_eq!(by_setting(&pair, &[]).0.code(), 0);
    assert!(words(&abort(&pair)).contains("ALTER SYSTEM RESET default_transaction_read_only;"));

    admin.batch_execute("ALTER ROLE ALL SET default_transaction_read_only = false").await.unwrap();
    let (cut, _) = by_setting(&pair, &[]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "writes-not-stopped"), "{}", cut.all());
    assert!(words(&abort(&pair)).contains("nothing was changed"));
    admin.batch_execute("ALTER ROLE ALL SET default_transaction_read_only = yes").await.unwrap();
    assert_eq!(by_setting(&pair, &[]).0.code(), 0);
    assert!(words(&abort(&pair)).contains("ALTER ROLE ALL RESET default_transaction_read_only;"));

    admin.batch_execute("ALTER DATABASE shop SET default_transaction_read_only = off").await.unwrap();
    let (cut, _) = by_setting(&pair, &[]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "writes-not-stopped"), "{}", cut.all());
    admin.batch_execute("ALTER DATABASE shop SET default_transaction_read_only = true").await.unwrap();
    let (cut, certified) = by_setting(&pair, &[]);
    assert!(cut.code() == 0 && certified, "{}", cut.all());
}

/// The operator's own setting is taken back in the pause: for good, for a moment only, and for one role.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_in_the_operators_pause_leaves_no_certificate() {
    let pair = after(14, 16, READ_ONLY).await;
    let mut sidecar = sidecar::start(&pair, &[]).unwrap();
    let admin = connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    for (sql, code) in [
        ("SELECT", "aborted"),
        (READ_ONLY, "aborted"),
        ("ALTER ROLE app SET default_transaction_read_only = off", "role-writes-on"),
    ] {
        sidecar.signal(Signal::STOP);
        let directory = tempfile::tempdir().unwrap();
        let flags = ["--unknown-writes", "--slot=ours", "--wait=40s"];
        let cut = command(&pair, directory.path(), &flags).spawn().unwrap();
        cut.wait_for_output("nobody writes", PATIENCE).unwrap();
        if code == "aborted" {
            assert!(abort(&pair).stdout.contains("go on again"));
        }
        admin.batch_execute(sql).await.unwrap();
        sidecar.signal(Signal::CONT);
        let (status, log) = ended(cut);
        assert_eq!(status, 1, "{log}");
        assert!(log.contains(&format!("NO: {code}")), "{log}");
        assert!(!directory.path().join("certificate.json").exists(), "{log}");
        admin.batch_execute(READ_ONLY).await.unwrap();
        sessions_gone(&pair, "application_name <> 'seqshadow'").await;
    }
    admin.batch_execute("ALTER ROLE app RESET default_transaction_read_only").await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    cuts_over(&pair, directory.path(), &["--unknown-writes", "--slot=ours"]);
}

/// A session that has read the settings before the operator changed them, and is seen only afterwards.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_its_way_in() {
    let pair = after(16, 18, "SELECT").await;
    let conninfo = format!("{} options='-c post_auth_delay=8'", pair.publisher_conninfo());
    let coming = tokio::spawn(async move { connect(&conninfo).await });
    let admin = pair.publisher.conninfo("postgres");
    let begins = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'object' AND mode = 'RowExclusiveLock'
                                   AND classid = 'pg_database'::regclass
                                   AND objid = (SELECT oid FROM pg_database WHERE datname = 'shop'))";
    wait_for(&admin, "the session to begin", begins).await.unwrap();
    connect(&admin).await.unwrap().batch_execute(READ_ONLY).await.unwrap();
    let (cut, certified) = by_setting(&pair, &[]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sessions-may-write"), "{}", cut.all());
    assert!(!certified);
    let writer = coming.await.unwrap().unwrap();
    writer.batch_execute("INSERT INTO orders (note) VALUES ('not bound')").await.unwrap();
}

/// Whoever holds a slot is not for that reason a walsender.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_with_a_temporary_slot() {
    let stage = at_rest(14, 17).await;
    let slot = "SELECT pg_create_logical_replication_slot('mine', 'pgoutput', true)";
    stage.on_publisher(slot).await;
    stage.on_publisher(READ_ONLY).await;
    let (cut, certified) = by_setting(&stage.pair, &[]);
    assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sessions-may-write"), "{}", cut.all());
    assert!(!certified);
    let directory = tempfile::tempdir().unwrap();
    cuts_over(&stage.pair, directory.path(), &["--stop-writes"]);
    let wrote = stage.publisher.batch_execute("INSERT INTO orders (note) VALUES ('after the yes')").await;
    assert!(wrote.is_err(), "its session has ended");
    confirm(&stage.pair, &directory.path().join("certificate.json"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_names_the_sessions_that_stand_against_it() {
    let stage = at_rest(13, 16).await;
    stage.on_publisher(READ_ONLY).await;
    for flags in [&["--dry-run"][..], &[]] {
        let (cut, _) = by_setting(&stage.pair, flags);
        assert_eq!((cut.code(), blocker(&cut).as_str()), (1, "sessions-may-write"), "{}", cut.all());
    }
    let Stage { pair, publisher, subscriber } = stage;
    drop((publisher, subscriber));
    sessions_gone(&pair, "true").await;
    let (dry, _) = by_setting(&pair, &["--dry-run"]);
    assert_eq!(dry.code(), 0, "{}", dry.all());
}

/// A role that cannot log in writes nothing; in this database its own setting comes before the one for everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_are_exempt_on_paper_only() {
    let stage = at_rest(16, 17).await;
    stage
        .on_publisher(
            "CREATE ROLE crew NOLOGIN; ALTER ROLE crew SET default_transaction_read_only = off;
             ALTER ROLE app SET default_transaction_read_only = off;
             ALTER ROLE app IN DATABASE shop SET default_transaction_read_only = on",
        )
        .await;
    let directory = tempfile::tempdir().unwrap();
    let dry = run(&stage.pair, directory.path(), &["--stop-writes", "--dry-run"]);
    assert_eq!(dry.code(), 0, "{}", dry.all());
    stage.on_publisher("ALTER ROLE app IN DATABASE shop SET default_transaction_read_only = no").await;
    let dry = run(&stage.pair, directory.path(), &["--stop-writes", "--dry-run"]);
    assert_eq!((dry.code(), blocker(&dry).as_str()), (1, "role-writes-on"), "{}", dry.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    tokio::time::timeout(Duration::from_secs(20), stage.publisher.batch_execute("SELECT 1"))
        .await
        .unwrap()
        .unwrap();
}
