//! `reverse --status`: an alarm where both servers issue ids, and silence where only the new one does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::reverse::{back, backwards, reverse, switched};
use proto_tests::shadow::Finished;
use proto_tests::sql::connect;
use tokio::task::JoinHandle;

/// An application that inserts until it is told to stop.
fn application(conninfo: String, stop: &Arc<AtomicBool>) -> JoinHandle<()> {
    let stop = stop.clone();
    tokio::spawn(async move {
        let client = connect(&conninfo).await.unwrap();
        client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        while !stop.load(Ordering::Relaxed) {
            client.batch_execute("INSERT INTO orders (note) VALUES ('live')").await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    })
}

fn alarms(status: &Finished) -> Vec<String> {
    let json = status.json().unwrap();
    json["alarms"].as_array().unwrap().iter().map(|alarm| alarm.as_str().unwrap().to_owned()).collect()
}

async fn split_brain(old: u32, new: u32) {
    let stage = switched(old, new).await;
    let before = reverse(&stage.pair, &["--status", "--observe=1s"]);
    assert_eq!(before.code(), 1, "{}", before.all());
    assert!(before.stdout.contains("the way back is not made"), "{}", before.all());
    let done = reverse(&stage.pair, &["--apply"]);
    assert_eq!(done.code(), 0, "{}", done.all());
    let _shadow = backwards(&stage.pair);

    // The application on the new server, and our sidecar that moves the old server's sequences: silence.
    let stop = Arc::new(AtomicBool::new(false));
    let on_new = application(stage.pair.subscriber_conninfo(), &stop);
    let quiet = reverse(&stage.pair, &["--status", "--observe=2s", "--json"]);
    assert_eq!(quiet.code(), 0, "{}", quiet.all());
    let json = quiet.json().unwrap();
    assert_eq!(json["schema"], "seqshadow.reverse/1");
    assert!(alarms(&quiet).is_empty(), "{}", quiet.all());
    assert_eq!(json["observed"]["rows"]["changes"], 0, "{}", quiet.all());
    let moved = json["observed"]["moved"].as_array().unwrap();
    assert_eq!(moved.len(), 1, "the application's sequence, on the new server only: {}", quiet.all());
    assert!(moved[0]["on_old"].is_null(), "{}", quiet.all());
    let shown = reverse(&stage.pair, &["--status", "--observe=1s"]);
    assert_eq!(shown.code(), 0, "{}", shown.all());
    assert!(shown.stdout.lines().all(|line| line.chars().count() <= 80), "{}", shown.all());

    // Ids are drawn on the old server too; far ahead, so that only the ids tell and no row collides.
    stage
        .on_publisher("SET default_transaction_read_only = off; SELECT setval('orders_id_seq', 1000000)")
        .await;
    let on_old = application(stage.pair.publisher_conninfo(), &stop);
    let both = reverse(&stage.pair, &["--status", "--observe=2s", "--json"]);
    assert_eq!(both.code(), 4, "{}", both.all());
    let found = alarms(&both);
    assert!(found.iter().any(|a| a.contains("both servers issue ids of public.orders_id_seq")), "{found:?}");
    assert!(found.iter().any(|a| a.contains("did not come by replication")), "{found:?}");
    let human = reverse(&stage.pair, &["--status", "--observe=1s"]);
    assert_eq!(human.code(), 4, "{}", human.all());
    assert!(human.stdout.contains("ALARM: both servers issue ids"), "{}", human.all());
    assert!(human.stdout.lines().all(|line| line.chars().count() <= 80), "{}", human.all());
    stop.store(true, Ordering::Relaxed);
    on_new.await.unwrap();
    on_old.await.unwrap();
    let left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name LIKE 'seqshadow_watch%'";
    assert_eq!(stage.publisher.query_one(left, &[]).await.unwrap().get::<_, i64>(0), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_from_both_servers_raise_an_alarm_15_18() {
    split_brain(15, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_from_both_servers_raise_an_alarm_12_17() {
    split_brain(12, 17).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_written_on_the_old_server_since_the_switch_is_found_in_the_forward_sidecars_slot() {
    let stage = switched(14, 16).await;
    // What the sidecar that ran forwards has left behind.
    stage.on_publisher("SELECT pg_create_logical_replication_slot('ours', 'pgoutput')").await;
    let done = reverse(&stage.pair, &["--apply"]);
    assert_eq!(done.code(), 0, "{}", done.all());
    let _shadow = backwards(&stage.pair);
    stage.on_subscriber("INSERT INTO orders (note) SELECT 'new' FROM generate_series(1, 20)").await;
    back(&stage.pair).await;
    let quiet = reverse(&stage.pair, &["--status", "--observe=100ms", "--json"]);
    assert_eq!(quiet.code(), 0, "{}", quiet.all());
    assert_eq!(quiet.json().unwrap()["observed"]["rows_since_switch"]["changes"], 0, "{}", quiet.all());

    stage.on_publisher("INSERT INTO notes SELECT 'stray' FROM generate_series(1, 3)").await;
    let found = reverse(&stage.pair, &["--status", "--observe=100ms", "--json"]);
    assert_eq!(found.code(), 4, "{}", found.all());
    let rows = found.json().unwrap()["observed"]["rows_since_switch"].clone();
    assert_eq!((rows["changes"].as_i64(), rows["transactions"].as_i64()), (Some(3), Some(1)));
    assert!(alarms(&found)[0].contains("since the switch"), "{}", found.all());
}
