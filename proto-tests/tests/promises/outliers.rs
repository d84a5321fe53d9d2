//! An id typed in by hand neither burns a sequence nor stops it: it is set aside and reported, and the sequence follows
//! the rest. Ids within reach are followed.

use proto_tests::pair::Pair;
use proto_tests::sequence::{state, wait_for_value, wait_past};
use proto_tests::shadow::Signal;
use proto_tests::sidecar::{SLOT, start};
use proto_tests::sql::PATIENCE;

const SET_ASIDE: &str = "is set aside";
const ORDERS: &str = "CREATE TABLE orders (id serial PRIMARY KEY, note text)";

async fn stage(ddl: &str) -> Pair {
    let pair = Pair::new(15, 17).await.unwrap();
    pair.on_both(ddl).await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_largest_integer_typed_in_by_hand_is_set_aside() {
    let pair = stage(ORDERS).await;
    pair.replicate_all().await.unwrap();
    let shadow = start(&pair, &["--lead=32"]).unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    // A stream that has been quiet until now knows what is too far, too.
    publisher.batch_execute("INSERT INTO orders (id) VALUES (2147483647)").await.unwrap();
    let line = shadow.wait_for_line(SET_ASIDE, PATIENCE).unwrap();
    assert!(line.contains("2147483647") && line.contains("public.orders_id_seq"), "{line}");
    // In one transaction with others, before and after it: none of them is hidden by it.
    publisher
        .batch_execute(
            "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 100);
             BEGIN; INSERT INTO orders (note) VALUES ('101'); INSERT INTO orders (id) VALUES (2147483646);
             INSERT INTO orders (note) SELECT 'x' FROM generate_series(102, 200); COMMIT",
        )
        .await
        .unwrap();
    wait_past(&subscriber, "orders_id_seq", 200).await.unwrap();
    // What is in reach is followed.
    publisher.batch_execute("INSERT INTO orders (id) VALUES (5000)").await.unwrap();
    wait_past(&subscriber, "orders_id_seq", 5000).await.unwrap();
    // Nothing is held back by the id that is not followed.
    let lsn = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, lsn).await.unwrap();
    let last = state(&subscriber, "orders_id_seq").await.unwrap().last_value;
    assert!((5000..10_000).contains(&last), "{last}");

    // Also for a stream that begins anew: the publisher goes away and comes back.
    let seen = shadow.stderr_lines().len();
    pair.publisher.restart().unwrap();
    shadow.wait_for_line_after(seen, "the stream goes on", PATIENCE).unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    publisher
        .batch_execute(
            "DELETE FROM orders WHERE id = 2147483647; INSERT INTO orders (id) VALUES (2147483647), (5001)",
        )
        .await
        .unwrap();
    wait_past(&subscriber, "orders_id_seq", 5001).await.unwrap();
    let lsn = pair.publisher_lsn().await.unwrap();
    pair.wait_for_catchup(SLOT, lsn).await.unwrap();
    let last = state(&subscriber, "orders_id_seq").await.unwrap().last_value;
    assert!((5001..10_000).contains(&last), "{last}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_nearly_full_smallserial_is_neither_burnt_nor_stopped() {
    let pair = stage("CREATE TABLE small (id smallserial PRIMARY KEY)").await;
    pair.replicate_all().await.unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    publisher
        .batch_execute("SELECT setval('small_id_seq', 32000); INSERT INTO small DEFAULT VALUES")
        .await
        .unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    wait_past(&subscriber, "small_id_seq", 32_001).await.unwrap();
    publisher.batch_execute("INSERT INTO small VALUES (32767)").await.unwrap();
    shadow.wait_for_line(SET_ASIDE, PATIENCE).unwrap();
    publisher
        .batch_execute("INSERT INTO small SELECT nextval('small_id_seq') FROM generate_series(1, 50)")
        .await
        .unwrap();
    wait_past(&subscriber, "small_id_seq", 32_051).await.unwrap();
    pair.catch_up().await.unwrap();
    let last = state(&subscriber, "small_id_seq").await.unwrap().last_value;
    assert!(last < 32_100, "{last}");
    subscriber.batch_execute("INSERT INTO small DEFAULT VALUES").await.unwrap();
}

/// The row is older than our slot: no stream shows it, the tables of both sides do.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_from_before_the_slot_is_set_aside_too() {
    let copied = stage(ORDERS).await;
    let only_here = stage(ORDERS).await;
    let rows = "INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 700);
                INSERT INTO orders (id) VALUES (2147483647), (900)";
    for (pair, publisher_readable) in [(&copied, true), (&only_here, false)] {
        let publisher = pair.on_publisher().await.unwrap();
        publisher.batch_execute(rows).await.unwrap();
        if !publisher_readable {
            publisher.batch_execute("REVOKE SELECT ON orders FROM shadow").await.unwrap();
        }
        pair.replicate_all().await.unwrap();
        let shadow = start(pair, &["--lead=32"]).unwrap();
        shadow.wait_for_line(SET_ASIDE, PATIENCE).unwrap();
        let subscriber = pair.on_subscriber().await.unwrap();
        wait_past(&subscriber, "orders_id_seq", 900).await.unwrap();
        publisher.batch_execute("INSERT INTO orders (id) VALUES (1000)").await.unwrap();
        wait_past(&subscriber, "orders_id_seq", 1000).await.unwrap();
        let last = state(&subscriber, "orders_id_seq").await.unwrap().last_value;
        assert!((1000..2000).contains(&last), "{last}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn outliers_are_followed_where_that_is_asked_for() {
    let pair = stage(ORDERS).await;
    pair.replicate_all().await.unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    let shadow = start(&pair, &["--outliers=follow"]).unwrap();
    publisher.batch_execute("INSERT INTO orders (id) VALUES (2000000000)").await.unwrap();
    let subscriber = pair.on_subscriber().await.unwrap();
    wait_for_value(&subscriber, "orders_id_seq", "past it", |last| last >= 2_000_000_000).await.unwrap();
    assert!(!shadow.stderr_lines().iter().any(|line| line.contains(SET_ASIDE)));
    // Past the very last one there is nothing: then it is held, with the way out.
    publisher.batch_execute("INSERT INTO orders (id) VALUES (2147483647)").await.unwrap();
    let line = shadow.wait_for_line("the sequence is held", PATIENCE).unwrap();
    assert!(line.contains("ALTER TABLE public.orders ALTER COLUMN id TYPE bigint;"), "{line}");
}

/// Each is reported, not only the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_id_that_is_set_aside_is_named() {
    let pair = stage(ORDERS).await;
    pair.replicate_all().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    let publisher = pair.on_publisher().await.unwrap();
    for id in ["2147483647", "1500000000", "1700000000"] {
        let seen = shadow.stderr_lines().len();
        publisher.batch_execute(&format!("INSERT INTO orders (id) VALUES ({id})")).await.unwrap();
        let line = shadow.wait_for_line_after(seen, SET_ASIDE, PATIENCE).unwrap();
        assert!(line.contains(id) && line.contains("WARN"), "{line}");
    }
}

/// A reload takes the ids that were set aside, without waiting for a poll.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_follows_what_was_set_aside() {
    let pair = stage(ORDERS).await;
    pair.replicate_all().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("seqshadow.toml");
    std::fs::write(&file, "outliers = 'aside'\n").unwrap();
    let config = format!("--config={}", file.display());
    let mut shadow = start(&pair, &[&config, "--poll-interval=10min"]).unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    publisher.batch_execute("INSERT INTO orders (id) VALUES (1500000000)").await.unwrap();
    shadow.wait_for_line(SET_ASIDE, PATIENCE).unwrap();
    std::fs::write(&file, "outliers = 'follow'\n").unwrap();
    shadow.signal(Signal::HUP);
    shadow.wait_for_line("is followed now", PATIENCE).unwrap();
    wait_past(&subscriber, "orders_id_seq", 1_500_000_000).await.unwrap();
}

/// Where the publisher's sequence says nothing, the subscriber's own, fresh from the schema dump, is no measure of its ids.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_of_a_sequence_that_cannot_be_read_are_followed() {
    let columns = "(id int GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, note text)";
    let elsewhere = "(id int PRIMARY KEY, note text)";
    for (on_publisher, revoke) in [(columns, true), (elsewhere, false)] {
        let pair = Pair::new(15, 17).await.unwrap();
        let (publisher, subscriber) = pair.clients().await.unwrap();
        publisher.batch_execute(&format!("CREATE TABLE orders {on_publisher}")).await.unwrap();
        subscriber.batch_execute(&format!("CREATE TABLE orders {columns}")).await.unwrap();
        pair.grant(&["public"]).await.unwrap();
        publisher.batch_execute("REVOKE SELECT ON orders FROM shadow").await.unwrap();
        subscriber.batch_execute("REVOKE SELECT ON orders FROM shadow").await.unwrap();
        if revoke {
            publisher.batch_execute("REVOKE ALL ON orders_id_seq FROM shadow").await.unwrap();
        }
        pair.replicate_all().await.unwrap();
        let shadow = start(&pair, &[]).unwrap();
        for id in 1_000_000_001..1_000_000_010 {
            publisher.batch_execute(&format!("INSERT INTO orders VALUES ({id}, 'x')")).await.unwrap();
        }
        wait_past(&subscriber, "orders_id_seq", 1_000_000_009).await.unwrap();
        let aside = shadow.stderr_lines().iter().any(|line| line.contains(SET_ASIDE));
        assert!(!aside, "{:#?}", shadow.complaints());
        // From here on the ids themselves are the measure.
        publisher.batch_execute("INSERT INTO orders VALUES (2147483647, 'by hand')").await.unwrap();
        let line = shadow.wait_for_line(SET_ASIDE, PATIENCE).unwrap();
        assert!(line.contains("cannot be read"), "{line}");
    }
}
