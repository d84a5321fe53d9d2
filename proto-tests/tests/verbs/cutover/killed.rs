//! A server, or the cutover itself, killed at any moment: a certificate that holds, or nothing but what `--abort` undoes.

use super::{at_rest, command, confirm, database_settings};
use proto_tests::shadow::Signal;
use proto_tests::sql::PATIENCE;
use proto_tests::verb;
use std::time::Duration;

/// The moments at which something is killed, in milliseconds after the start.
fn moments(count: u64, last: u64) -> impl Iterator<Item = Duration> {
    (0..count).map(move |i| Duration::from_millis(40 + i * last / count))
}

async fn after(stage: &proto_tests::stage::Stage, code: i32, directory: &std::path::Path, log: &str) {
    let certificate = directory.join("certificate.json");
    assert_eq!(certificate.exists(), code == 0, "{log}");
    if code == 0 {
        confirm(&stage.pair, &certificate);
    }
    let (publisher, subscriber) = stage.pair.clients().await.unwrap();
    if !database_settings(&stage.pair).await.is_empty() {
        let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
        let abort = verb::run(&stage.pair, "cutover", &[&publisher, "--abort"]).unwrap();
        assert_eq!(abort.code(), 0, "{}", abort.all());
    }
    assert!(database_settings(&stage.pair).await.is_empty());
    // No slot of the witness is left, and nothing went back.
    let slots: i64 = publisher
        .query_one("SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'seqshadow_cutover%' AND NOT active", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(slots, 0, "{log}");
    let last: i64 = subscriber.query_one("SELECT last_value FROM orders_id_seq", &[]).await.unwrap().get(0);
    assert!(last == 1 || last >= 500, "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_publisher_or_the_subscriber_is_killed() {
    let stage = at_rest(15, 17).await;
    for (round, moment) in moments(12, 700).enumerate() {
        let victim = if round % 2 == 0 { &stage.pair.publisher } else { &stage.pair.subscriber };
        let directory = tempfile::tempdir().unwrap();
        let mut cut =
            command(&stage.pair, directory.path(), &["--stop-writes", "--wait=20s"]).spawn().unwrap();
        tokio::time::sleep(moment).await;
        victim.kill9();
        let status = cut.wait_exit(PATIENCE).unwrap();
        let log = format!(
            "{round} {:?}\n{}\n{}",
            status,
            cut.stdout_lines().join("\n"),
            cut.stderr_lines().join("\n")
        );
        victim.resume().unwrap();
        let code = status.code().unwrap_or(-1);
        assert!([0, 1, 3].contains(&code), "{log}");
        after(&stage, code, directory.path(), &log).await;
        // What it was is said: either it is undone, or how to.
        if code != 0 && log.contains("pause  ") {
            assert!(log.contains("go on again") || log.contains("STILL STOPPED"), "{log}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_at_any_moment_lets_the_writes_go_on() {
    let stage = at_rest(14, 17).await;
    let mut undone = 0;
    for moment in moments(12, 700) {
        let directory = tempfile::tempdir().unwrap();
        let mut cut = command(&stage.pair, directory.path(), &["--stop-writes"]).spawn().unwrap();
        tokio::time::sleep(moment).await;
        cut.signal(Signal::TERM);
        let status = cut.wait_exit(PATIENCE).unwrap();
        let log = cut.stderr_lines().join("\n");
        let stopped = !database_settings(&stage.pair).await.is_empty();
        let code = status.code().unwrap_or(-1);
        // Before it listens to signals one simply ends it.
        assert!(code == 0 || !stopped, "{moment:?} {status:?} {log}");
        undone += u32::from(log.contains("go on again"));
        after(&stage, i32::from(code != 0), directory.path(), &log).await;
    }
    println!("{undone} times in the pause");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_cutover_itself_is_killed() {
    let stage = at_rest(16, 18).await;
    for moment in moments(12, 600) {
        let directory = tempfile::tempdir().unwrap();
        let mut cut =
            command(&stage.pair, directory.path(), &["--stop-writes", "--wait=20s"]).spawn().unwrap();
        tokio::time::sleep(moment).await;
        cut.kill9();
        let code = if directory.path().join("certificate.json").exists() { 0 } else { 1 };
        after(&stage, code, directory.path(), &format!("{moment:?}")).await;
    }
    // And then it goes.
    let directory = tempfile::tempdir().unwrap();
    let cut = super::run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
}
