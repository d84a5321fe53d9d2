//! What setup and teardown refuse: whatever is not ours, and whatever could break the application.

use super::{admin, ends, inventories};
use proto_tests::sidecar;
use proto_tests::stage::Stage;
use proto_tests::verb;

const ORDERS: &str = "CREATE TABLE orders (id bigserial PRIMARY KEY, note text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publications_that_are_not_ours_are_refused() {
    let stage = Stage::replicating(17, 14, ORDERS).await.unwrap();
    stage.on_publisher("CREATE PUBLICATION wide FOR TABLE orders").await;
    let before = inventories(&stage).await;
    // The subscription's own, one without a mark, and an awkward one.
    ends(&admin(&stage.pair, "setup", &["--publication=pub"]), 4, &["is used by subscription \"sub\""]);
    for refresh in ["--refresh", "--json"] {
        let run = admin(&stage.pair, "setup", &["--publication=wide", refresh]);
        ends(
            &run,
            4,
            &["publication wide", "was not made by setup for slot ours", "COMMENT ON PUBLICATION wide IS"],
        );
    }
    ends(&admin(&stage.pair, "setup", &["--publication=a", "--publication=b"]), 2, &["several publications"]);
    let slot = format!("--slot={}", "x".repeat(60));
    ends(&admin(&stage.pair, "setup", &[&slot]), 2, &["longer than 63 bytes"]);
    assert_eq!(inventories(&stage).await, before);

    // Ours, and altered so that it publishes updates with a column list: the application's would fail.
    ends(&admin(&stage.pair, "setup", &["--no-slot"]), 0, &[]);
    stage.on_publisher("ALTER PUBLICATION seqshadow_ours SET (publish = 'insert, update')").await;
    let run = admin(&stage.pair, "setup", &["--no-slot"]);
    ends(&run, 4, &["it publishes insert, update instead of insert, truncate", "--refresh"]);
    ends(&admin(&stage.pair, "setup", &["--no-slot", "--refresh"]), 0, &["changed"]);
    ends(&admin(&stage.pair, "setup", &["--no-slot"]), 0, &["nothing was changed"]);
    // For another slot.
    let run = admin(&stage.pair, "setup", &["--slot=other", "--publication=seqshadow_ours"]);
    ends(&run, 4, &["was not made by setup for slot other"]);
    let run = admin(&stage.pair, "teardown", &["--slot=other", "--publication=seqshadow_ours"]);
    ends(&run, 0, &["not ours to remove", "Nothing of it was there"]);

    // A subscription that uses it.
    stage.on_subscriber("ALTER SUBSCRIPTION sub ADD PUBLICATION seqshadow_ours WITH (refresh = false)").await;
    ends(&admin(&stage.pair, "teardown", &[]), 4, &["subscription \"sub\" uses publication seqshadow_ours"]);
    stage
        .on_subscriber("ALTER SUBSCRIPTION sub DROP PUBLICATION seqshadow_ours WITH (refresh = false)")
        .await;
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Done"]);
    assert_eq!(inventories(&stage).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slots_that_are_not_ours_are_refused() {
    let stage = Stage::replicating(15, 17, ORDERS).await.unwrap();
    stage
        .on_publisher(
            "SELECT pg_create_logical_replication_slot('theirs', 'pgoutput');
             SELECT pg_create_logical_replication_slot('decoding', 'test_decoding');
             SELECT pg_create_physical_replication_slot('physical')",
        )
        .await;
    let before = inventories(&stage).await;
    for (slot, why) in [
        ("sub", "belongs to subscription \"sub\""),
        ("theirs", "nothing says whose it is"),
        ("decoding", "expected pgoutput"),
        ("physical", "expected a logical one"),
    ] {
        let flag = format!("--slot={slot}");
        for more in ["--json", "--no-slot"] {
            ends(&admin(&stage.pair, "setup", &[&flag, more]), 4, &[why]);
        }
        let why = if slot == "theirs" { "no publication says that setup made it" } else { why };
        for more in ["--json", "--force"] {
            ends(&admin(&stage.pair, "teardown", &[&flag, more]), 4, &[why]);
        }
        assert_eq!(inventories(&stage).await, before, "{slot}");
    }
}

/// A slot that the daemon made and uses is known by that; set up beside it, it is kept.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_a_seqshadow_uses_is_kept_and_not_torn_down() {
    let stage = Stage::replicating(17, 15, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    let mut shadow = sidecar::start(&stage.pair, &[]).unwrap();
    ends(&admin(&stage.pair, "setup", &[]), 0, &["slot ours kept", "uses it"]);
    let made = inventories(&stage).await;
    let run = admin(&stage.pair, "teardown", &[]);
    ends(&run, 4, &["a running seqshadow uses slot ours", "--force"]);
    assert_eq!(inventories(&stage).await, made);
    shadow.signal(proto_tests::shadow::Signal::TERM);
    shadow.wait_exit(proto_tests::sql::PATIENCE).unwrap();
    // Started with the publication that is younger than the slot, it finds its way.
    let mut shadow = sidecar::start(&stage.pair, &["--publication=seqshadow_ours"]).unwrap();
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 300).await;
    ends(&admin(&stage.pair, "teardown", &["--force"]), 0, &["Done"]);
    shadow.kill9();
    assert_eq!(inventories(&stage).await, before);
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Nothing of it was there"]);
}

/// From 18 on a daemon goes on without its publication: it makes the slot again, and that is said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_seqshadow_that_makes_its_slot_again_is_named() {
    let stage = Stage::replicating(18, 17, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    ends(&admin(&stage.pair, "setup", &[]), 0, &[]);
    let mut shadow = sidecar::start(&stage.pair, &["--publication=seqshadow_ours"]).unwrap();
    let run = admin(&stage.pair, "teardown", &["--force"]);
    ends(&run, 1, &["has made it again", "SELECT pg_drop_replication_slot('ours')"]);
    shadow.signal(proto_tests::shadow::Signal::TERM);
    shadow.wait_exit(proto_tests::sql::PATIENCE).unwrap();
    ends(&admin(&stage.pair, "teardown", &[]), 4, &["no publication says that setup made it"]);
    stage.on_publisher("SELECT pg_drop_replication_slot('ours')").await;
    assert_eq!(inventories(&stage).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_privileges_are_named_with_the_grant() {
    let stage = Stage::replicating(14, 18, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    let run = |flags: &[&str]| verb::run(&stage.pair, "setup", &[&["--slot=ours"], flags].concat()).unwrap();
    let nothing_is_made = async || {
        let ours = "SELECT FROM pg_publication WHERE pubname = 'seqshadow_ours'";
        assert!(stage.publisher.query(ours, &[]).await.unwrap().is_empty());
    };
    ends(&run(&[]), 2, &["GRANT CREATE ON DATABASE shop TO shadow"]);
    stage.on_publisher("GRANT CREATE ON DATABASE shop TO shadow").await;
    ends(&run(&[]), 2, &["owner of public.orders", "GRANT postgres TO shadow"]);
    nothing_is_made().await;
    // An owner of the tables who may not replicate: said before anything is made.
    stage.on_publisher("ALTER TABLE orders OWNER TO app; GRANT CREATE ON DATABASE shop TO app").await;
    let app = format!("--publisher={}", stage.pair.publisher.conninfo_as("app", "shop"));
    ends(&run(&[&app]), 2, &["ALTER ROLE app REPLICATION"]);
    nothing_is_made().await;
    // As owner, with the slot left to the daemon.
    ends(&run(&[&app, "--no-slot", "--role=shadow"]), 0, &["made"]);
    let torn = verb::run(&stage.pair, "teardown", &["--slot=ours", &app]).unwrap();
    ends(&torn, 0, &["Done"]);
    stage
        .on_publisher(
            "ALTER TABLE orders OWNER TO postgres;
             REVOKE CREATE ON DATABASE shop FROM app; REVOKE CREATE ON DATABASE shop FROM shadow",
        )
        .await;
    // Giving the table away gives its former owner's rights back in another order, no more.
    assert_eq!(inventories(&stage).await, before);
}

/// What cannot be removed as a whole is not begun: everything stays, and each thing is named with what it takes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_teardown_with_too_few_rights_removes_nothing() {
    for (publisher, subscriber) in [(16, 13), (12, 17)] {
        let stage = Stage::replicating(publisher, subscriber, ORDERS).await.unwrap();
        let before = inventories(&stage).await;
        let flags = ["--role=new", "--grant", "--advance-function"];
        ends(&admin(&stage.pair, "setup", &flags), 0, &["Done"]);
        let made = inventories(&stage).await;
        let refused = |flags: &[&str], words: &[&str]| {
            let run = verb::run(&stage.pair, "teardown", &[&["--slot=ours"], flags].concat()).unwrap();
            ends(&run, 4, words);
        };
        // The role that may replicate could drop the slot, and no more.
        let publication = "publication seqshadow_ours (owner postgres: GRANT postgres TO CURRENT_USER;)";
        let words = [publication, "role seqshadow_ours_reads", "CREATEROLE", "nothing was removed"];
        refused(&[], &words);
        refused(&["--drop-role"], &["role new"]);
        refused(&["--dry-run"], &[publication]);
        let app = format!("--publisher={}", stage.pair.publisher.conninfo_as("app", "shop"));
        refused(&[&app], &["on the publisher role app", "the slot (that takes REPLICATION"]);
        assert_eq!(inventories(&stage).await, made);
        // All of it on one side, and too little on the other.
        let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
        let words =
            ["on the subscriber role shadow", "advance_sequences", "schema seqshadow (owner postgres"];
        refused(&[&publisher], &words);
        assert_eq!(inventories(&stage).await, made);
        ends(&admin(&stage.pair, "teardown", &["--drop-role"]), 0, &["Done"]);
        assert_eq!(inventories(&stage).await, before);
    }
}

/// What fails in spite of all looking is listed with what was removed, and the rest.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_teardown_that_fails_in_the_middle_lists_what_is_left() {
    let stage = Stage::replicating(15, 14, ORDERS).await.unwrap();
    let before = inventories(&stage).await;
    ends(&admin(&stage.pair, "setup", &["--role=new", "--grant"]), 0, &["Done"]);
    stage
        .on_publisher(
            "CREATE FUNCTION no() RETURNS event_trigger LANGUAGE plpgsql AS
               $$BEGIN RAISE EXCEPTION 'not on a Friday'; END$$;
             CREATE EVENT TRIGGER no ON ddl_command_start WHEN TAG IN ('DROP PUBLICATION', 'DROP OWNED')
               EXECUTE FUNCTION no()",
        )
        .await;
    let run = admin(&stage.pair, "teardown", &["--drop-role"]);
    ends(
        &run,
        1,
        &[
            "slot ours removed",
            "publication seqshadow_ours left",
            "rights of seqshadow_ours_reads left",
            "not on a Friday",
            "rights of seqshadow_ours_moves removed",
            "NOT everything could be removed",
        ],
    );
    assert!(!run.stdout.contains("\n\n\n"), "{}", run.stdout);
    stage.on_publisher("DROP EVENT TRIGGER no; DROP FUNCTION no()").await;
    let run = admin(&stage.pair, "teardown", &["--drop-role"]);
    ends(&run, 0, &["publication seqshadow_ours removed", "Done"]);
    assert!(!run.stdout.contains("\n\n\n"), "{}", run.stdout);
    assert_eq!(inventories(&stage).await, before);
}
