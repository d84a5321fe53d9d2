//! The gate opens for a role that has no right to change a sequence: the advance-only function moves them.

use super::{TABLES, USE, blocker, confirm, fingerprint, independent};
use crate::setup::{admin, ends};
use proto_tests::pair::Pair;
use proto_tests::shadow::Finished;
use proto_tests::stage::Stage;
use proto_tests::verb;
use std::path::Path;

/// Servers on which `shadow` has what setup gave it: it may read, and call the function.
async fn with_function(publisher: u32, subscriber: u32, flag: &str) -> Stage {
    let pair = Pair::new(publisher, subscriber).await.unwrap();
    pair.on_both(TABLES).await.unwrap();
    pair.replicate_all().await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    let stage = Stage { pair, publisher, subscriber };
    stage.on_publisher(USE).await;
    stage.pair.catch_up().await.unwrap();
    ends(&admin(&stage.pair, "setup", &["--role=shadow", "--grant", "--read-tables", flag]), 0, &["Done"]);
    may_change_nothing(&stage).await;
    stage
}

async fn may_change_nothing(stage: &Stage) {
    let sql = "SELECT count(*) FROM pg_class WHERE relkind = 'S' AND (has_sequence_privilege('shadow', oid, 'UPDATE')
                   OR has_sequence_privilege('shadow', oid, 'USAGE'))";
    let changeable: i64 = stage.subscriber.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(changeable, 0);
}

/// As `shadow` on the subscriber, and with `flags` on the publisher.
fn cutover(pair: &Pair, directory: &Path, flags: &[&str]) -> Finished {
    let certificate = format!("--certificate={}", directory.join("certificate.json").display());
    verb::run(pair, "cutover", &[&[certificate.as_str(), "--slot=ours"], flags].concat()).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_call_it_cuts_over() {
    let flag = "--advance-function=Safe Place";
    let stage = with_function(14, 17, flag).await;
    let directory = tempfile::tempdir().unwrap();
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    let stop = [publisher.as_str(), "--stop-writes"];
    let before = fingerprint(&stage).await;
    let refused = cutover(&stage.pair, directory.path(), &stop);
    assert_eq!(refused.code(), 1, "{}", refused.all());
    assert!(!blocker(&refused).is_empty());
    assert_eq!(fingerprint(&stage).await, before, "{}", refused.all());
    assert!(!directory.path().join("certificate.json").exists());

    let cut = cutover(&stage.pair, directory.path(), &[&stop[..], &[flag]].concat());
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
    may_change_nothing(&stage).await;
}

/// With few rights on the publisher, too; and from the file that setup has printed the setting of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sync_and_cutover_by_the_setting_of_the_file() {
    let stage = with_function(16, 12, "--advance-function").await;
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("orders.toml");
    std::fs::write(&file, "slot = \"ours\"\nadvance_function = \"seqshadow\"\n").unwrap();
    let config = format!("--config={}", file.display());
    let before = independent(&stage.pair.subscriber_conninfo()).unwrap();
    ends(&verb::run(&stage.pair, "sync", &["--lead=10"]).unwrap(), 1, &["lacks the right"]);
    assert_eq!(independent(&stage.pair.subscriber_conninfo()).unwrap(), before);
    ends(&verb::run(&stage.pair, "sync", &["--lead=10", &config]).unwrap(), 0, &["2 sequences moved"]);
    let synced = independent(&stage.pair.subscriber_conninfo()).unwrap();
    assert_eq!(synced["public.orders_id_seq"], (500, 510, true));
    assert_eq!(synced["public.items_id_seq"], (300, 310, true));

    stage.on_publisher(USE).await;
    let certificate = format!("--certificate={}", directory.path().join("certificate.json").display());
    let flags = [config.as_str(), certificate.as_str(), "--writes-stopped"];
    let cut = verb::run(&stage.pair, "cutover", &flags).unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
    may_change_nothing(&stage).await;
}
