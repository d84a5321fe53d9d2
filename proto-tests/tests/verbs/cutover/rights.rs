//! A role with few rights stops the writes as surely as a superuser, or is told what it lacks before anything is stopped.

use super::{at_rest, blocker, database_settings, sessions_gone};
use proto_tests::pair::{DATABASE, Pair};
use proto_tests::shadow::Finished;
use proto_tests::sql::{PATIENCE, Probe, connect, wait_for, wait_until};
use proto_tests::stage::Stage;
use proto_tests::verb;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

/// A pair at rest whose administrator may end the sessions of others, and sees no more of them than anybody; and a
/// superuser's connection to another database.
async fn with_an_ordinary_administrator(publisher: u32, subscriber: u32) -> (Pair, Client) {
    let Stage { pair, publisher, .. } = at_rest(publisher, subscriber).await;
    let superuser = connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    superuser
        .batch_execute(
            "CREATE ROLE boss; ALTER DATABASE shop OWNER TO boss; GRANT boss, pg_signal_backend TO shadow",
        )
        .await
        .unwrap();
    drop(publisher);
    sessions_gone(&pair, "usename = 'postgres'").await;
    (pair, superuser)
}

/// A cutover by that role.
fn cut(pair: &Pair, directory: &Path, flags: &[&str]) -> Finished {
    let certificate = format!("--certificate={}", directory.join("certificate.json").display());
    let mut all = vec![certificate.as_str()];
    all.extend(flags);
    verb::run(pair, "cutover", &all).unwrap()
}

/// Sessions of the application that come back whenever they end, and only read: how often each has come.
fn readers(pair: &Pair, count: usize) -> (Vec<tokio::task::JoinHandle<()>>, Vec<Arc<AtomicUsize>>) {
    let begun: Vec<_> = (0..count).map(|_| Arc::new(AtomicUsize::new(0))).collect();
    let tasks = begun.iter().map(|begun| {
        let (address, begun) = (pair.publisher.conninfo_as("app", DATABASE), Arc::clone(begun));
        tokio::spawn(async move {
            loop {
                let Ok(client) = connect(&address).await else { continue };
                begun.fetch_add(1, Ordering::Relaxed);
                while client.batch_execute("SELECT pg_sleep(0.01)").await.is_ok() {}
            }
        })
    });
    (tasks.collect(), begun)
}

async fn readers_come_back_once(publisher: u32, subscriber: u32) {
    let (pair, superuser) = with_an_ordinary_administrator(publisher, subscriber).await;
    let idle = connect(&pair.publisher.conninfo_as("app", DATABASE)).await.unwrap();
    let (tasks, begun) = readers(&pair, 4);
    let count = |begun: &[Arc<AtomicUsize>]| -> Vec<usize> {
        begun.iter().map(|one| one.load(Ordering::Relaxed)).collect()
    };
    wait_until("the readers", PATIENCE, async || {
        let counts = count(&begun);
        Ok(Probe::when(counts.iter().all(|times| *times == 1), || format!("{counts:?}")))
    })
    .await
    .unwrap();
    let directory = tempfile::tempdir().unwrap();
    let pair = Arc::new(pair);
    let (of_task, path) = (Arc::clone(&pair), directory.path().to_owned());
    let cut = tokio::task::spawn_blocking(move || cut(&of_task, &path, &["--stop-writes", "--wait=20s"]));
    let cut = cut.await.unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(idle.batch_execute("SELECT 1").await.is_err(), "whoever was there before has ended");
    // Each has been sent away once, and come back as a reader.
    let counts = count(&begun);
    assert!(counts.iter().all(|times| *times <= 2), "{counts:?}: {}", cut.all());
    let late = connect(&pair.publisher.conninfo_as("app", DATABASE)).await.unwrap();
    let setting: String = late.query_one("SHOW default_transaction_read_only", &[]).await.unwrap().get(0);
    assert_eq!(setting, "on");
    drop(superuser);
    for task in tasks {
        task.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_come_back_are_let_be() {
    readers_come_back_once(15, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn readers_that_come_back_are_let_be_on_the_oldest_and_the_newest() {
    readers_come_back_once(12, 16).await;
    readers_come_back_once(18, 14).await;
}

/// A session that has read the database's settings and is not shown yet when the writes are stopped: it is bound by nothing.
async fn a_session_that_was_about_to_begin(publisher: u32, subscriber: u32, superuser: bool) {
    let (pair, _superuser) = with_an_ordinary_administrator(publisher, subscriber).await;
    let as_app = pair.publisher.conninfo_as("app", DATABASE);
    let slowly = format!("{as_app} options='-c post_auth_delay=5'");
    let late = tokio::spawn(async move { connect(&slowly).await });
    let begins = "SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
                   WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND d.datname = 'shop'
                     AND NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = l.pid AND a.datname = 'shop'))";
    wait_for(&pair.publisher.conninfo("postgres"), "it to begin", begins).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().to_owned();
    let admin = format!("--publisher={}", pair.publisher_conninfo());
    let cut = tokio::task::spawn_blocking(move || {
        let flags = ["--stop-writes", "--wait=30s", admin.as_str()];
        let flags = if superuser { &flags[..] } else { &flags[..2] };
        let cut = cut(&pair, &path, flags);
        (pair, cut)
    });
    let (pair, cut) = cut.await.unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    // Whether it ended while it began or afterwards.
    if let Ok(late) = late.await.unwrap() {
        let setting = late.query_one("SHOW default_transaction_read_only", &[]).await;
        let setting = setting.map(|row| row.get::<_, String>(0));
        assert!(setting.is_err(), "it lives, with default_transaction_read_only = {setting:?}");
    }
    drop(pair);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_was_about_to_begin_does_not_outlive_it() {
    a_session_that_was_about_to_begin(14, 15, false).await;
    a_session_that_was_about_to_begin(18, 17, true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_that_was_about_to_begin_does_not_outlive_it_on_the_oldest() {
    a_session_that_was_about_to_begin(12, 18, true).await;
    a_session_that_was_about_to_begin(17, 16, false).await;
}

async fn may_not_replicate(publisher: u32, subscriber: u32) {
    let (pair, superuser) = with_an_ordinary_administrator(publisher, subscriber).await;
    superuser.batch_execute("ALTER ROLE shadow NOREPLICATION").await.unwrap();
    let app = connect(&pair.publisher.conninfo_as("app", DATABASE)).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    for flags in [&["--stop-writes", "--dry-run"][..], &["--stop-writes"], &["--writes-stopped"]] {
        let refused = cut(&pair, directory.path(), flags);
        assert_eq!(
            (refused.code(), blocker(&refused).as_str()),
            (1, "may-not-replicate"),
            "{}",
            refused.all()
        );
        let said = refused.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(said.contains("on the publisher: ALTER ROLE shadow REPLICATION;"), "{said}");
        assert!(said.contains("Nothing was changed."), "{said}");
        assert!(!said.contains("the writes are stopped"), "{said}");
        assert!(database_settings(&pair).await.is_empty());
        app.batch_execute("SELECT 1").await.unwrap();
    }
    // What it says to do is enough.
    sessions_gone(&pair, "usename = 'postgres'").await;
    superuser.batch_execute("ALTER ROLE shadow REPLICATION").await.unwrap();
    let yes = cut(&pair, directory.path(), &["--stop-writes", "--wait=20s"]);
    assert_eq!(yes.code(), 0, "{}", yes.all());
    tokio::time::timeout(Duration::from_secs(5), app.batch_execute("SELECT 1")).await.unwrap().unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_replicate_is_told_so_before_the_pause() {
    may_not_replicate(13, 18).await;
    may_not_replicate(17, 15).await;
}
