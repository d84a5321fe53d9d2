//! The rights: enough for the daemon, no more, and gone with the teardown; what others granted stays.

use super::{admin, ends, inventories, wait_for_free_slot};
use proto_tests::pair::Pair;
use proto_tests::shadow::ShadowCommand;
use proto_tests::sidecar;
use proto_tests::stage::Stage;

const TABLES: &str = "
CREATE TABLE orders (id bigserial PRIMARY KEY, note text);
CREATE SCHEMA \"Größe\";
CREATE TABLE \"Größe\".items (\"Id\" int GENERATED ALWAYS AS IDENTITY PRIMARY KEY);";

/// Servers on which `shadow` has no rights at all.
pub(super) async fn bare(publisher: u32, subscriber: u32) -> Stage {
    let pair = Pair::new(publisher, subscriber).await.unwrap();
    pair.on_both(TABLES).await.unwrap();
    pair.replicate_all().await.unwrap();
    let (publisher, subscriber) = pair.clients().await.unwrap();
    Stage { pair, publisher, subscriber }
}

/// As [`bare`], with an administrator who is no superuser, and the flags that name both servers for them.
pub(super) async fn with_boss(publisher: u32, subscriber: u32) -> (Stage, [String; 2]) {
    let stage = bare(publisher, subscriber).await;
    let sql = "CREATE ROLE boss LOGIN CREATEROLE REPLICATION; GRANT CREATE ON DATABASE shop TO boss;
               ALTER TABLE orders OWNER TO boss; ALTER TABLE \"Größe\".items OWNER TO boss;
               ALTER SCHEMA \"Größe\" OWNER TO boss; GRANT USAGE ON SCHEMA public TO boss WITH GRANT OPTION;
               GRANT CREATE ON SCHEMA public TO boss";
    stage.pair.on_both(sql).await.unwrap();
    let publisher = format!("--publisher={}", stage.pair.publisher.conninfo_as("boss", "shop"));
    let subscriber = format!("--subscriber={}", stage.pair.subscriber.conninfo_as("boss", "shop"));
    (stage, [publisher, subscriber])
}

fn daemon(pair: &Pair, role: &str) -> ShadowCommand {
    let publisher = format!("--publisher={}", pair.publisher.conninfo_as(role, "shop"));
    let subscriber = format!("--subscriber={}", pair.subscriber.conninfo_as(role, "shop"));
    sidecar::command(pair, &[&publisher, &subscriber, "--publication=seqshadow_ours", "--lead=10"])
}

/// With what was granted, and nothing else, the daemon does its work, for later sequences too.
async fn works(stage: &Stage, role: &str) {
    let shadow = daemon(&stage.pair, role).start().unwrap();
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 300).await;
    stage.on_publisher("INSERT INTO \"Größe\".items SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("\"Größe\".\"items_Id_seq\"", 300).await;
    stage.pair.on_both("CREATE TABLE later (id bigserial PRIMARY KEY)").await.unwrap();
    stage.on_publisher("INSERT INTO later SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("later_id_seq", 300).await;
    drop(shadow);
    stage.pair.on_both("DROP TABLE later").await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_is_made_with_the_least_rights_and_goes_with_them() {
    for (publisher, subscriber) in [(12, 18), (17, 14)] {
        let stage = bare(publisher, subscriber).await;
        let before = inventories(&stage).await;
        let flags = ["--role=Shadow Two", "--grant", "--read-tables"];
        let dry = admin(&stage.pair, "setup", &[&flags[..], &["--dry-run"]].concat());
        ends(&dry, 0, &["CREATE ROLE \"Shadow Two\" LOGIN REPLICATION", "\"items_Id_seq\""]);
        assert_eq!(inventories(&stage).await, before);
        let made = admin(&stage.pair, "setup", &flags);
        ends(&made, 0, &["\\password \"Shadow Two\"", "role \"Shadow Two\"", "Done"]);
        let after = inventories(&stage).await;
        ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);
        assert_eq!(inventories(&stage).await, after);
        works(&stage, "Shadow Two").await;
        for (client, sql) in [
            (&stage.publisher, "has_sequence_privilege('Shadow Two', 'orders_id_seq', 'UPDATE')"),
            (&stage.publisher, "has_table_privilege('Shadow Two', 'orders', 'SELECT')"),
            (&stage.publisher, "has_column_privilege('Shadow Two', 'orders', 'note', 'SELECT')"),
            (&stage.subscriber, "has_table_privilege('Shadow Two', 'orders', 'INSERT')"),
            (&stage.subscriber, "(SELECT rolreplication FROM pg_roles WHERE rolname = 'Shadow Two')"),
        ] {
            let has: bool = client.query_one(&format!("SELECT {sql}"), &[]).await.unwrap().get(0);
            assert!(!has, "{sql}");
        }
        // The login role stays unless it is asked for.
        ends(&admin(&stage.pair, "teardown", &["--force"]), 0, &["--drop-role", "Done"]);
        ends(&admin(&stage.pair, "teardown", &["--drop-role"]), 0, &["role Shadow Two removed"]);
        assert_eq!(inventories(&stage).await, before);
        ends(&admin(&stage.pair, "teardown", &["--drop-role"]), 0, &["Nothing of it was there"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_printed_script_does_the_same_and_nothing_granted_by_others_is_taken_away() {
    let stage = bare(15, 17).await;
    stage
        .pair
        .on_both("GRANT SELECT ON orders TO shadow; GRANT USAGE ON SCHEMA \"Größe\" TO shadow")
        .await
        .unwrap();
    let before = inventories(&stage).await;
    let open = admin(&stage.pair, "setup", &["--role=shadow"]);
    ends(&open, 1, &["missing: SELECT on 2 sequences", "--print-grants", "NOT complete"]);
    let printed = admin(&stage.pair, "setup", &["--role=shadow", "--print-grants"]);
    ends(&printed, 0, &["-- On the publisher", "-- On the subscriber"]);
    let (publisher, subscriber) = printed.stdout.split_once("-- On the subscriber").unwrap();
    stage.on_publisher(publisher).await;
    stage.on_subscriber(&format!("--{subscriber}")).await;
    let printed = admin(&stage.pair, "setup", &["--role=shadow", "--print-grants"]);
    ends(&printed, 0, &["role shadow lacks nothing"]);
    ends(&admin(&stage.pair, "setup", &["--role=shadow", "--grant"]), 0, &["nothing was changed"]);
    works(&stage, "shadow").await;
    ends(&admin(&stage.pair, "teardown", &["--force", "--drop-role"]), 0, &["Done"]);
    assert_eq!(inventories(&stage).await, before);
}

/// One that is there and cannot be mended by grants is left, and said so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_grant_does_not_give_is_left_to_a_person() {
    let stage = bare(18, 12).await;
    let before = inventories(&stage).await;
    let made = admin(&stage.pair, "setup", &["--role=app", "--grant"]);
    ends(&made, 1, &["ALTER ROLE app REPLICATION", "NOT complete"]);
    ends(&admin(&stage.pair, "teardown", &["--drop-role"]), 0, &["Done"]);
    assert_eq!(inventories(&stage).await, before);
    // A role of the name that ours would have.
    stage.on_subscriber("CREATE ROLE seqshadow_ours_moves").await;
    let before = inventories(&stage).await;
    ends(
        &admin(&stage.pair, "setup", &["--role=shadow", "--grant"]),
        4,
        &["seqshadow_ours_moves", "not ours"],
    );
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["not ours to remove"]);
    assert_eq!(inventories(&stage).await, before);
}

/// The administrator of a managed service is no superuser: owner of all, CREATEROLE, REPLICATION.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_who_is_no_superuser_sets_up_and_tears_down() {
    for (publisher, subscriber) in [(14, 17), (17, 14)] {
        let (stage, boss) = with_boss(publisher, subscriber).await;
        let before = inventories(&stage).await;
        let servers = [boss[0].as_str(), boss[1].as_str()];
        let flags = [&servers[..], &["--role=shadow", "--grant"]].concat();
        ends(&admin(&stage.pair, "setup", &flags), 0, &["Done"]);
        ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);
        let shadow = daemon(&stage.pair, "shadow").start().unwrap();
        stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
        stage.wait_past("orders_id_seq", 300).await;
        ends(&admin(&stage.pair, "teardown", &servers), 4, &["a running seqshadow"]);
        drop(shadow);
        wait_for_free_slot(&stage).await;
        ends(&admin(&stage.pair, "teardown", &servers), 0, &["Done"]);
        assert_eq!(inventories(&stage).await, before);
    }
}

/// A later run knows the role by what an earlier one gave or made; where nothing was given, it says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_was_named_once_is_known_later() {
    for (publisher, subscriber, role) in [(13, 17, "shadow"), (16, 12, "Shadow Two")] {
        let stage = bare(publisher, subscriber).await;
        let plain = admin(&stage.pair, "setup", &["--no-slot"]);
        ends(&plain, 0, &["Nothing says which role seqshadow is to run as", "--role", "user=postgres"]);
        let role_flag = format!("--role={role}");
        let named = admin(&stage.pair, "setup", &["--no-slot", "--grant", &role_flag]);
        ends(&named, 0, &["Done"]);
        assert!(!named.all().contains("Nothing says which role"), "{}", named.all());
        stage.pair.on_both("CREATE TABLE later (id bigserial PRIMARY KEY)").await.unwrap();
        for flags in [&["--refresh"][..], &["--refresh", "--grant"], &[]] {
            let again = admin(&stage.pair, "setup", &[&["--no-slot", "--json"], flags].concat());
            ends(&again, 0, &[]);
            let json = again.json().unwrap();
            assert_eq!(json["role"], role, "{flags:?}");
            let shown = if role == "shadow" { "user=shadow" } else { "user='\\''Shadow Two'\\''" };
            let command = json["command"].as_str().unwrap();
            assert_eq!(command.matches(shown).count(), 2, "{command}");
            assert!(!again.all().contains("user=postgres"), "{}", again.all());
            assert_eq!(json["objects"][1]["name"], role);
        }
        ends(&admin(&stage.pair, "teardown", &[]), 0, &["Done"]);
    }
}
