//! The slot: its making is waited for within bounds and leaves nothing half-made; its end spares a running sidecar.

use super::{admin, admin_command, ends, inventories};
use proto_tests::fault_proxy::FaultProxy;
use proto_tests::shadow::Signal;
use proto_tests::sidecar;
use proto_tests::sql::{PATIENCE, Probe, connect, wait_until};
use proto_tests::stage::Stage;
use tokio_postgres::Client;

const ORDERS: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)";

/// A writing transaction in another database of the publisher.
async fn writer(stage: &Stage) -> (Client, i32) {
    let client = connect(&stage.pair.publisher.conninfo("postgres")).await.unwrap();
    client.batch_execute("BEGIN; SELECT txid_current()").await.unwrap();
    let pid = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    (client, pid)
}

async fn wait_for_making(stage: &Stage) {
    wait_until("the slot in the making", PATIENCE, async || {
        let sql = "SELECT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = 'ours' AND active)";
        Ok(Probe::when(stage.publisher.query_one(sql, &[]).await?.get(0), || "not there".to_owned()))
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_wait_is_bounded_names_who_is_waited_for_and_leaves_no_slot() {
    for major in [12, 18] {
        let stage = Stage::replicating(major, 15, ORDERS).await.unwrap();
        let before = inventories(&stage).await;
        let (writer, pid) = writer(&stage).await;
        let run = admin(&stage.pair, "setup", &["--wait=2s"]);
        ends(&run, 1, &["was not made within 2s", &format!("pid {pid} (database postgres"), "NOT complete"]);
        let slots = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = 'ours'";
        let left: i64 = stage.publisher.query_one(slots, &[]).await.unwrap().get(0);
        assert_eq!(left, 0);

        // Told to end in the middle.
        let mut setup = admin_command(&stage.pair, "setup", &[]).spawn().unwrap();
        wait_for_making(&stage).await;
        setup.signal(Signal::TERM);
        assert_eq!(setup.wait_exit(PATIENCE).unwrap().code(), Some(1));
        let left: i64 = stage.publisher.query_one(slots, &[]).await.unwrap().get(0);
        assert_eq!(left, 0);

        // Killed in the middle: the publisher still waits for the writer, and the next one for it.
        let mut setup = admin_command(&stage.pair, "setup", &[]).spawn().unwrap();
        wait_for_making(&stage).await;
        setup.kill9();
        let next = admin_command(&stage.pair, "setup", &[]).spawn().unwrap();
        writer.batch_execute("COMMIT").await.unwrap();
        let mut next = next;
        assert_eq!(next.wait_exit(PATIENCE).unwrap().code(), Some(0), "{:#?}", next.stderr_lines());
        ends(&admin(&stage.pair, "teardown", &[]), 0, &["Done"]);
        assert_eq!(inventories(&stage).await, before);
    }
}

/// What a killed setup left in the making is not taken for a running sidecar.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_maker_was_killed_is_torn_down_and_one_of_a_daemon_is_not() {
    let stage = Stage::replicating(14, 17, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    let (writer, _) = writer(&stage).await;
    let mut setup = admin_command(&stage.pair, "setup", &["--wait=10min"]).spawn().unwrap();
    wait_for_making(&stage).await;
    let running = admin(&stage.pair, "teardown", &[]);
    ends(&running, 1, &["another setup or teardown of slot ours is running"]);
    setup.kill9();
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["slot ours removed"]);
    assert_eq!(inventories(&stage).await, before);

    ends(&admin(&stage.pair, "setup", &["--no-slot"]), 0, &[]);
    let made = inventories(&stage).await;
    let shadow = sidecar::command(&stage.pair, &["--publication=seqshadow_ours"]).spawn().unwrap();
    wait_for_making(&stage).await;
    ends(&admin(&stage.pair, "teardown", &[]), 4, &["a running seqshadow uses slot ours"]);
    drop(shadow);
    ends(&admin(&stage.pair, "teardown", &["--dry-run"]), 0, &["pg_terminate_backend", "dry run"]);
    assert_eq!(inventories(&stage).await[1], made[1]);
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Done"]);
    writer.batch_execute("COMMIT").await.unwrap();
    assert_eq!(inventories(&stage).await, before);
}

/// What can be done on one side is done, and what is left is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_side_that_is_away_does_not_keep_the_other_from_being_torn_down() {
    let stage = Stage::replicating(17, 15, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    let gone = FaultProxy::start(1).await.unwrap();
    gone.refuse(true);
    for side in ["publisher", "subscriber"] {
        ends(&admin(&stage.pair, "setup", &["--role=new", "--grant"]), 0, &[]);
        let conninfo = match side {
            "publisher" => stage.pair.publisher_conninfo(),
            _ => stage.pair.subscriber_conninfo(),
        };
        let away = format!("--{side}={}", gone.conninfo(&conninfo));
        ends(&admin(&stage.pair, "setup", &[&away]), 3, &[]);
        let half = admin(&stage.pair, "teardown", &["--drop-role", &away]);
        ends(&half, 3, &[&format!("The {side} could not be reached"), "removed", "one side is left"]);
        let found = inventories(&stage).await;
        let (here, there) = if side == "publisher" { (1, 0) } else { (0, 1) };
        assert_eq!(found[here], before[here]);
        assert_ne!(found[there], before[there]);
        ends(&admin(&stage.pair, "teardown", &["--drop-role"]), 0, &["Done"]);
        assert_eq!(inventories(&stage).await, before);
    }
}
