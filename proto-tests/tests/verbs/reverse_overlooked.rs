//! `reverse`: a table whose rows never came is found before anything is changed, and no secret is printed.

use crate::reverse::{READ_ONLY, TABLES, as_ours, refused, reverse, switched};
use proto_tests::stage::Stage;
use proto_tests::verb;

/// The forward slot confirms rows of a table that the subscription has never heard of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_was_never_subscribed_keeps_the_forward_slot() {
    let mut stage = Stage::replicating(15, 17, TABLES).await.unwrap();
    stage.pair.on_both("CREATE TABLE fresh (id bigserial PRIMARY KEY, note text)").await.unwrap();
    stage.pair.grant(&["public"]).await.unwrap();
    stage.on_publisher("INSERT INTO fresh (note) SELECT 'x' FROM generate_series(1, 20)").await;
    stage.pair.catch_up().await.unwrap();
    stage.on_publisher(READ_ONLY).await;
    as_ours(&mut stage).await;
    refused(&stage, &[], 4, "their rows have not come: public.fresh").await;
    refused(&stage, &["--dry-run"], 4, "ALTER SUBSCRIPTION sub REFRESH PUBLICATION;").await;
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    stage.pair.wait_for_sync().await.unwrap();
    stage.pair.catch_up().await.unwrap();
    let synced = verb::run(&stage.pair, "sync", &[]).unwrap();
    assert_eq!(synced.code(), 0, "{}", synced.all());
    let done = reverse(&stage.pair, &["--apply"]);
    assert_eq!(done.code(), 0, "{}", done.all());
    let rows: i64 = stage.subscriber.query_one("SELECT count(*) FROM fresh", &[]).await.unwrap().get(0);
    assert_eq!(rows, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_of_the_connection_is_printed() {
    let stage = switched(16, 17).await;
    for secret in ["sslpassword=hunter2", "oauth_client_secret=hunter2"] {
        let connection = format!("--connection={} {secret}", stage.pair.subscriber_conninfo());
        for flags in [
            &[connection.as_str()][..],
            &[connection.as_str(), "--apply", "--dry-run"][..],
            &[connection.as_str(), "--json"][..],
        ] {
            let printed = reverse(&stage.pair, flags);
            assert!(!printed.all().contains("hunter2"), "{}", printed.all());
            assert!(printed.all().contains("host="), "{}", printed.all());
        }
        let script = reverse(&stage.pair, &[&connection]).stdout;
        let named = format!("put {}=… into CONNECTION", secret.split('=').next().unwrap());
        assert!(script.contains(&named), "{script}");
    }
    // The subscription has it.
    let connection = format!("--connection={} sslpassword=hunter2", stage.pair.subscriber_conninfo());
    let done = reverse(&stage.pair, &["--apply", &connection]);
    assert_eq!(done.code(), 0, "{}", done.all());
    assert!(!done.all().contains("hunter2"), "{}", done.all());
    let sql = "SELECT bool_and(subconninfo LIKE '%sslpassword=hunter2%') FROM pg_subscription";
    assert!(stage.publisher.query_one(sql, &[]).await.unwrap().get::<_, bool>(0));
}
