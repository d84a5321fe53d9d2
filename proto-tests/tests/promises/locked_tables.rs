//! The promise: a table that is locked (a TRUNCATE, an ALTER TABLE, a LOCK TABLE in progress) delays only what must be
//! read from that very table, on either server, at the start and while running.

use proto_tests::pair::Pair;
use proto_tests::publication::{Publication, Subscription};
use proto_tests::sequence::{next_value, wait_past};
use proto_tests::sidecar::{command, start};
use proto_tests::sql::PATIENCE;
use tokio_postgres::Client;

/// `blind` is followed by polls alone. 16 and newer lock every table that `pg_publication_tables` describes.
const TABLES: &str = "CREATE SEQUENCE blind; CREATE TABLE t (id serial PRIMARY KEY); \
                      CREATE TABLE u (id serial PRIMARY KEY)";

async fn pair(publisher: u32, subscriber: u32, ddl: &str) -> Pair {
    let pair = Pair::new(publisher, subscriber).await.unwrap();
    pair.replicate(ddl).await.unwrap();
    pair
}

/// Advances `blind` on the publisher again and again, so that every kind of poll comes to its turn.
async fn is_followed_by_polls(pair: &Pair) {
    let (publisher, subscriber) = pair.clients().await.unwrap();
    for _ in 0..12 {
        let next = next_value(&subscriber, "blind").await.unwrap();
        publisher.execute("SELECT setval('blind', $1)", &[&next]).await.unwrap();
        wait_past(&subscriber, "blind", next).await.unwrap();
    }
}

async fn locked(client: Client, what: &str) -> Client {
    client.batch_execute(&format!("BEGIN; LOCK TABLE {what} IN ACCESS EXCLUSIVE MODE")).await.unwrap();
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_publisher_while_running() {
    let pair = pair(17, 18, TABLES).await;
    let shadow = start(&pair, &[]).unwrap();
    let lock = locked(pair.on_publisher().await.unwrap(), "t").await;
    is_followed_by_polls(&pair).await;
    lock.batch_execute("COMMIT").await.unwrap();
    pair.on_publisher().await.unwrap().batch_execute("INSERT INTO t VALUES (500)").await.unwrap();
    wait_past(&pair.on_subscriber().await.unwrap(), "t_id_seq", 500).await.unwrap();
    assert_eq!(shadow.complaints(), [""; 0]);
    let lines = shadow.stderr_lines();
    let changed = lines.iter().filter(|line| line.contains("followed in another way")).count();
    assert_eq!(changed, 0, "what was known before the lock goes on: {lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_publisher_at_the_start() {
    let pair = pair(17, 18, TABLES).await;
    let publisher = pair.on_publisher().await.unwrap();
    publisher.batch_execute("INSERT INTO u SELECT FROM generate_series(1, 300)").await.unwrap();
    let lock = locked(pair.on_publisher().await.unwrap(), "t").await;
    let shadow = command(&pair, &[]).spawn().unwrap();
    shadow.wait_for_line("the sequences are protected", PATIENCE).unwrap();
    wait_past(&pair.on_subscriber().await.unwrap(), "u_id_seq", 300).await.unwrap();
    is_followed_by_polls(&pair).await;
    lock.batch_execute("COMMIT").await.unwrap();
    shadow.wait_for_line("sequence=public.t_id_seq from=\"blind\" to=\"covered\"", PATIENCE).unwrap();
}

/// The default of a partition may be that of its root, which is locked alone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_the_subscriber_at_the_start() {
    let ddl = format!(
        "{TABLES}; CREATE TABLE root (id serial, at int) PARTITION BY LIST (at); \
         CREATE TABLE leaf PARTITION OF root DEFAULT; ALTER TABLE leaf ALTER id DROP DEFAULT; \
         CREATE TABLE other (id int DEFAULT nextval('u_id_seq'))"
    );
    let pair = pair(15, 16, &ddl).await;
    let lock = locked(pair.on_subscriber().await.unwrap(), "ONLY root").await;
    let another = locked(pair.on_subscriber().await.unwrap(), "other").await;
    let shadow = command(&pair, &[]).spawn().unwrap();
    shadow.wait_for_line("the sequences are protected", PATIENCE).unwrap();
    is_followed_by_polls(&pair).await;
    let publisher = pair.on_publisher().await.unwrap();
    publisher.batch_execute("INSERT INTO root (at) SELECT generate_series(1, 300)").await.unwrap();
    wait_past(&pair.on_subscriber().await.unwrap(), "root_id_seq", 300).await.unwrap();
    assert!(!shadow.stderr_lines().iter().any(|line| line.contains("subscriber is away")));
    lock.batch_execute("COMMIT").await.unwrap();
    another.batch_execute("COMMIT").await.unwrap();
    for sequence in ["root_id_seq", "u_id_seq"] {
        let line = format!("sequence=public.{sequence} from=\"blind\" to=\"covered\"");
        shadow.wait_for_line(&line, PATIENCE).unwrap();
    }
}

/// Through whom a table is published is a matter of its own ancestors only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn published_through_a_root_of_its_own() {
    let ddl = "CREATE SEQUENCE shared; \
               CREATE TABLE ra (id int DEFAULT nextval('shared'), at int) PARTITION BY LIST (at); \
               CREATE TABLE ra1 PARTITION OF ra DEFAULT; \
               CREATE TABLE rb (id int DEFAULT nextval('shared'), at int) PARTITION BY LIST (at); \
               CREATE TABLE rb1 PARTITION OF rb DEFAULT; \
               CREATE TABLE rc (id serial, at int) PARTITION BY LIST (at); \
               CREATE TABLE rc1 PARTITION OF rc DEFAULT PARTITION BY LIST (at); \
               CREATE TABLE rc2 PARTITION OF rc1 DEFAULT";
    let pair = Pair::new(17, 18).await.unwrap();
    pair.on_both(ddl).await.unwrap();
    pair.grant(&["public"]).await.unwrap();
    pair.publish(&Publication::of("pub", &["ra", "rc"]).via_partition_root()).await.unwrap();
    pair.subscribe(&Subscription::to("sub", &["pub"])).await.unwrap();
    pair.wait_for_sync().await.unwrap();
    let shadow = start(&pair, &[]).unwrap();
    shadow.wait_for_line("public.rb1 is not published", PATIENCE).unwrap();
    let lines = shadow.stderr_lines();
    assert!(
        !lines.iter().any(|line| line.contains("rc_id_seq") && line.contains("not covered")),
        "{lines:#?}"
    );
}
