//! The servers' settings.

use super::found;
use proto_tests::pair::{Pair, PairOptions};
use seqshadow::demo::servers::ClusterOptions;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_without_logical_wal() {
    let options = PairOptions {
        publisher: ClusterOptions::default().set("wal_level", "replica"),
        ..PairOptions::default()
    };
    let pair = Pair::with(17, 18, options).await.unwrap();
    assert_eq!(found(&pair, "wal-level", &[]).unwrap(), ["wal_level: is replica, expected logical"]);
    let pair = Pair::new(17, 18).await.unwrap();
    assert!(found(&pair, "wal-level", &[]).unwrap().is_empty());
}
