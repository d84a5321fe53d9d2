//! Whatever setup or teardown was at when it died, teardown leaves nothing of it.
//!
//! Dies at any byte that it sends to either server, and at any instant. What has reached a server by then is done there.

use super::{admin, admin_command, ends, inventories};
use proto_tests::fault_proxy::{Direction, FaultProxy};
use proto_tests::stage::Stage;
use std::time::{Duration, Instant};

const TABLES: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
    CREATE TABLE items (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY)";
const TRIES: u32 = 15;
const CUTS: u64 = 20;
const FLAGS: [&str; 4] = ["--role=new", "--grant", "--read-tables", "--advance-function"];

/// Tears down until it says that it is done (a backend may need a moment to notice that its client is gone).
async fn leaves_nothing(stage: &Stage, before: &[String; 2], when: &str) {
    let torn = admin(&stage.pair, "teardown", &["--drop-role"]);
    assert_eq!(torn.code(), 0, "{when}: {}", torn.all());
    assert_eq!(inventories(stage).await, *before, "{when}");
    let again = admin(&stage.pair, "teardown", &["--drop-role"]);
    ends(&again, 0, &["Nothing of it was there"]);
}

async fn killed_at_any_instant(publisher: u32, subscriber: u32) {
    let stage = Stage::replicating(publisher, subscriber, TABLES).await.unwrap();
    let before = inventories(&stage).await;
    // Built before anything is timed.
    assert!(proto_tests::binary::binary().is_file());
    for verb in ["setup", "teardown"] {
        let mut takes = Duration::ZERO;
        for attempt in 0..=TRIES {
            if verb == "teardown" {
                ends(&admin(&stage.pair, "setup", &FLAGS), 0, &[]);
            }
            let flags = if verb == "setup" { &FLAGS[..] } else { &["--drop-role"] };
            let begun = Instant::now();
            let mut running = admin_command(&stage.pair, verb, flags).spawn().unwrap();
            if attempt == 0 {
                assert_eq!(running.wait_exit(proto_tests::sql::PATIENCE).unwrap().code(), Some(0));
                takes = begun.elapsed();
            } else {
                std::thread::sleep(takes * attempt / TRIES);
                running.kill9();
            }
            leaves_nothing(&stage, &before, &format!("{verb} killed, {attempt} of {TRIES} of {takes:?}"))
                .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_on_17() {
    killed_at_any_instant(17, 14).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_at_any_instant_on_12() {
    killed_at_any_instant(12, 18).await;
}

/// Which of the things that setup makes are there: publication, slot, rights on either side.
async fn stages(stage: &Stage) -> [bool; 4] {
    let mut found = [false; 4];
    let questions = [
        (&stage.publisher, "pg_publication WHERE pubname = 'seqshadow_ours'"),
        (&stage.publisher, "pg_replication_slots WHERE slot_name = 'ours'"),
        (&stage.publisher, "pg_roles WHERE rolname = 'seqshadow_ours_reads'"),
        (&stage.subscriber, "pg_roles WHERE rolname = 'seqshadow_ours_moves'"),
    ];
    for (found, (client, what)) in found.iter_mut().zip(questions) {
        *found = !client.query(&format!("SELECT FROM {what}"), &[]).await.unwrap().is_empty();
    }
    found
}

/// Cut off from one server after ever more bytes: the steps are what is sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_off_at_any_step() {
    let stage = Stage::replicating(15, 17, TABLES).await.unwrap();
    let before = inventories(&stage).await;
    let mut met = std::collections::BTreeSet::new();
    for (verb, side) in [
        ("setup", "publisher"),
        ("setup", "subscriber"),
        ("teardown", "publisher"),
        ("teardown", "subscriber"),
    ] {
        let (port, conninfo) = match side {
            "publisher" => (stage.pair.publisher.port(), stage.pair.publisher_conninfo()),
            _ => (stage.pair.subscriber.port(), stage.pair.subscriber_conninfo()),
        };
        let flags = if verb == "setup" { &FLAGS[..] } else { &["--drop-role"] };
        let mut total = 0;
        for attempt in 0..=CUTS {
            if verb == "teardown" {
                ends(&admin(&stage.pair, "setup", &FLAGS), 0, &[]);
            }
            let proxy = FaultProxy::start(port).await.unwrap();
            let through = format!("--{side}={} sslmode=disable", proxy.conninfo(&conninfo));
            if attempt > 0 {
                proxy.cut_after(Direction::ToServer, total * attempt / CUTS - 3);
            }
            let run = admin(&stage.pair, verb, &[flags, &[&through]].concat());
            if attempt == 0 {
                assert_eq!(run.code(), 0, "{}", run.all());
                total = proxy.counts().to_server;
            } else {
                assert!([0, 1, 3].contains(&run.code()), "{verb}: {}", run.all());
            }
            met.insert(stages(&stage).await);
            leaves_nothing(&stage, &before, &format!("{verb} cut off {side}, {attempt} of {CUTS}")).await;
        }
    }
    // None, all, and enough in between.
    assert!(met.len() >= 5, "{met:?}");
}
