//! `reverse`: what keeps applications from writing on the old server, whom that does not bind, and what does not go back.

use super::reverse::{READ_ONLY, back, backwards, refused, reverse, switched};
use proto_tests::shadow::Finished;
use proto_tests::sql::{connect, wait_for};

const MAY_WRITE: &str =
    "GRANT ALL ON ALL TABLES IN SCHEMA public TO app; GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO app";
const WRITE: &str = "INSERT INTO orders (note) VALUES ('lost')";

fn words(finished: &Finished) -> String {
    finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_setting_of_our_own_role_stops_nobody() {
    let stage = switched(16, 17).await;
    stage.on_publisher(MAY_WRITE).await;
    stage.on_publisher("ALTER DATABASE shop RESET default_transaction_read_only").await;
    stage.on_publisher("ALTER ROLE postgres SET default_transaction_read_only = on").await;
    refused(&stage, &[], 4, "nothing keeps applications from writing to database shop").await;
    refused(&stage, &[], 4, "our role postgres has a setting of its own, which hides it").await;
    let app = connect(&stage.pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
    let status = reverse(&stage.pair, &["--status", "--observe=100ms"]);
    assert!(words(&status).contains("new sessions there may write"), "{}", status.all());
    assert!(words(&status).contains("not seen: whether default_transaction_read_only"), "{}", status.all());
}

/// `false` and `true` are as good as `off` and `on`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn however_the_setting_is_written() {
    let stage = switched(15, 17).await;
    stage.on_publisher(MAY_WRITE).await;
    stage.on_publisher("ALTER ROLE app SET default_transaction_read_only = false").await;
    refused(&stage, &[], 4, "role app has default_transaction_read_only = off of its own").await;
    let status = reverse(&stage.pair, &["--status", "--observe=100ms", "--json"]).json().unwrap();
    assert_eq!(status["writing_roles"], serde_json::json!(["app"]));
    let app = connect(&stage.pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    app.batch_execute(WRITE).await.unwrap();
    drop(app);
    stage
        .on_publisher(
            "ALTER ROLE app RESET default_transaction_read_only;
             ALTER DATABASE shop SET default_transaction_read_only = true",
        )
        .await;
    let dry = reverse(&stage.pair, &["--apply", "--dry-run"]);
    assert_eq!(dry.code(), 0, "{}", dry.all());
    // What the verbs that end a replication say of it.
    let undone = reverse(&stage.pair, &["--undo"]);
    assert!(
        words(&undone).contains("ALTER DATABASE shop RESET default_transaction_read_only;"),
        "{}",
        undone.all()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_is_older_than_the_setting() {
    let stage = switched(15, 17).await;
    stage.on_publisher("ALTER DATABASE shop RESET default_transaction_read_only").await;
    let older = stage.pair.on_publisher().await.unwrap();
    stage.on_publisher(READ_ONLY).await;
    refused(&stage, &[], 4, "sessions are connected to the old server that may be older").await;
    older.batch_execute(WRITE).await.unwrap();
    stage.pair.catch_up().await.unwrap();
    // The operator's word, and then the session's end.
    let dry = reverse(&stage.pair, &["--apply", "--dry-run", "--writes-stopped"]);
    assert_eq!(dry.code(), 0, "{}", dry.all());
    drop(older);
    let done = reverse(&stage.pair, &["--apply"]);
    assert_eq!(done.code(), 0, "{}", done.all());
}

/// A table that is made after the switch has no way back before the subscription is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_that_the_subscription_does_not_have() {
    let stage = switched(15, 17).await;
    assert_eq!(reverse(&stage.pair, &["--apply"]).code(), 0);
    let _shadow = backwards(&stage.pair);
    let table = "CREATE TABLE \"Fresh\" (id int PRIMARY KEY, note text); GRANT SELECT ON \"Fresh\" TO shadow";
    stage.on_subscriber(table).await;
    stage.on_publisher("SET default_transaction_read_only = off").await;
    stage.on_publisher(table).await;
    stage.on_subscriber("INSERT INTO \"Fresh\" SELECT g FROM generate_series(1, 20) g").await;
    back(&stage.pair).await;
    let receiving = "SELECT active FROM pg_replication_slots WHERE slot_name = 'ours_reverse'";
    wait_for(&stage.pair.subscriber_conninfo(), "the sidecar", receiving).await.unwrap();
    let status = reverse(&stage.pair, &["--status", "--observe=100ms"]);
    assert_eq!(status.code(), 1, "{}", status.all());
    assert!(
        words(&status).contains("ALTER SUBSCRIPTION seqshadow_reverse_ours REFRESH PUBLICATION;"),
        "{}",
        status.all()
    );
    assert!(words(&status).contains("rows of public.\"Fresh\" do not go back"), "{}", status.all());
    assert!(!status.stdout.contains("Going back is safe"), "{}", status.all());

    // While it is copied it has not arrived either.
    let holder = stage.pair.on_publisher().await.unwrap();
    holder.batch_execute("BEGIN READ WRITE; LOCK TABLE \"Fresh\" IN SHARE ROW EXCLUSIVE MODE").await.unwrap();
    stage.on_publisher("ALTER SUBSCRIPTION seqshadow_reverse_ours REFRESH PUBLICATION").await;
    let status = reverse(&stage.pair, &["--status", "--observe=100ms"]);
    assert_eq!(status.code(), 1, "{}", status.all());
    assert!(words(&status).contains("has not copied public.\"Fresh\" yet"), "{}", status.all());
    holder.batch_execute("ROLLBACK").await.unwrap();
    let ready = "SELECT bool_and(srsubstate = 'r') FROM pg_subscription_rel";
    wait_for(&stage.pair.publisher_conninfo(), "the copy", ready).await.unwrap();
    let status = reverse(&stage.pair, &["--status", "--observe=100ms"]);
    assert_eq!(status.code(), 0, "{}", status.all());
    let rows: i64 = stage.publisher.query_one("SELECT count(*) FROM \"Fresh\"", &[]).await.unwrap().get(0);
    assert_eq!(rows, 20);
}
