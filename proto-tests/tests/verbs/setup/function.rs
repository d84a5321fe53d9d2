//! The advance-only function: a role that may read the sequences and call it, and nothing else, keeps up; it goes back by
//! no way, whoever calls it and whatever with; and it goes with the teardown.

use super::rights::{bare, with_boss};
use super::{admin, ends, inventories, wait_for_free_slot};
use proto_tests::pair::Pair;
use proto_tests::sequence::state;
use proto_tests::shadow::ShadowCommand;
use proto_tests::sidecar;
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use proto_tests::verb;
use seqshadow::plan::State;
use std::time::{Duration, Instant};
use tokio_postgres::Client;

const FALLS: &str = "CREATE SEQUENCE down INCREMENT -5 MINVALUE -1000000000 MAXVALUE -1 START -1;
    CREATE TABLE falls (id bigint PRIMARY KEY DEFAULT nextval('down'))";
const GRANT: [&str; 3] = ["--role=shadow", "--grant", "--advance-function"];

fn daemon(pair: &Pair, flags: &[&str]) -> ShadowCommand {
    let usual = ["--publication=seqshadow_ours", "--lead=10"];
    sidecar::command(pair, &[&usual[..], flags].concat())
}

/// As the daemon's role.
async fn as_shadow(stage: &Stage) -> Client {
    connect(&stage.pair.shadow_subscriber_conninfo()).await.unwrap()
}

async fn refusal(client: &Client, sql: &str) -> String {
    let error = client.batch_execute(sql).await.expect_err(sql);
    error.code().unwrap_or_else(|| panic!("{sql}: {error:?}")).code().to_owned()
}

async fn keeps_up(publisher: u32, subscriber: u32) {
    let stage = bare(publisher, subscriber).await;
    stage.pair.on_both(FALLS).await.unwrap();
    stage.on_subscriber("ALTER SUBSCRIPTION sub REFRESH PUBLICATION").await;
    stage.pair.wait_for_sync().await.unwrap();
    let before = inventories(&stage).await;

    let dry = admin(&stage.pair, "setup", &[&GRANT[..], &["--dry-run"]].concat());
    ends(&dry, 0, &["SECURITY DEFINER", "function seqshadow.advance_sequences to be made"]);
    assert_eq!(inventories(&stage).await, before);
    let made = admin(&stage.pair, "setup", &GRANT);
    ends(&made, 0, &["function seqshadow.advance_sequences made", " --advance-function", "Done"]);
    let after = inventories(&stage).await;
    ends(&admin(&stage.pair, "setup", &GRANT), 0, &["nothing was changed"]);
    // Without its name the role is known by what it was given.
    let again = admin(&stage.pair, "setup", &["--refresh", "--grant", "--advance-function"]);
    ends(&again, 0, &["nothing was changed", "user=shadow"]);
    assert_eq!(inventories(&stage).await, after);

    let shadow = as_shadow(&stage).await;
    for sql in [
        "SELECT setval('orders_id_seq', 5)",
        "SELECT nextval('orders_id_seq')",
        "ALTER SEQUENCE orders_id_seq RESTART",
        "SET ROLE seqshadow_ours_moves",
        "CREATE OR REPLACE FUNCTION seqshadow.advance_sequences(sequences regclass[], targets bigint[])
           RETURNS TABLE (sequence regclass, last_value bigint, is_called boolean) LANGUAGE sql AS 'SELECT NULL, 1, true'",
    ] {
        assert_eq!(refusal(&shadow, sql).await, "42501", "{sql}");
    }
    let app = connect(&stage.pair.subscriber.conninfo_as("app", "shop")).await.unwrap();
    stage.on_subscriber("GRANT USAGE ON SCHEMA seqshadow TO app").await;
    let call = "SELECT * FROM seqshadow.advance_sequences('{public.orders_id_seq}', '{5}')";
    assert_eq!(refusal(&app, call).await, "42501");
    stage.on_subscriber("REVOKE USAGE ON SCHEMA seqshadow FROM app").await;

    // Without the function nothing moves; with it everything does, near and far, up and down.
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    let denied = verb::run(&stage.pair, "sync", &["--lead=10"]).unwrap();
    ends(&denied, 1, &["lacks the right"]);
    assert_eq!(stage.next("orders_id_seq").await, 1);
    let codes = ["subscriber-sequence-advance", "subscriber-sequence-update", "subscriber-sequence-select"];
    let flags = ["--slot=ours", "--publication=seqshadow_ours"];
    let looked = crate::check::look(&stage.pair, &flags, &[]).unwrap();
    assert_eq!(looked.among(&codes), ["subscriber-sequence-advance"]);
    let with = [&flags[..], &["--advance-function"]].concat();
    crate::check::look(&stage.pair, &with, &[]).unwrap().expect_none_of(&codes);
    stage.on_publisher("SELECT setval('down', -4000001)").await;
    let synced = verb::run(&stage.pair, "sync", &["--lead=10", "--advance-function"]).unwrap();
    ends(&synced, 0, &[]);
    assert_eq!(stage.next("orders_id_seq").await, 311);
    assert_eq!(stage.next("down").await, -4_000_001 - 55);

    let running = daemon(&stage.pair, &["--advance-function"]).start().unwrap();
    stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
    stage.wait_past("orders_id_seq", 600).await;
    stage.on_publisher("INSERT INTO \"Größe\".items SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("\"Größe\".\"items_Id_seq\"", 300).await;
    stage.on_publisher("INSERT INTO falls SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("down", -4_000_001 - 1500).await;
    stage.on_publisher("SELECT setval('orders_id_seq', 5000000); INSERT INTO orders DEFAULT VALUES").await;
    stage.wait_past("orders_id_seq", 5_000_001).await;
    stage.pair.on_both("CREATE TABLE later (id bigserial PRIMARY KEY)").await.unwrap();
    stage.on_publisher("INSERT INTO later SELECT FROM generate_series(1, 300)").await;
    stage.wait_past("later_id_seq", 300).await;
    assert!(running.complaints().is_empty(), "{:#?}", running.complaints());
    drop(running);
    stage.pair.on_both("DROP TABLE later").await.unwrap();
    wait_for_free_slot(&stage).await;

    ends(&admin(&stage.pair, "teardown", &["--dry-run"]), 0, &["DROP FUNCTION", "DROP SCHEMA seqshadow"]);
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["advance_sequences removed", "schema seqshadow removed"]);
    assert_eq!(inventories(&stage).await, before);
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Nothing of it was there"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_call_it_keeps_up_on_12() {
    keeps_up(16, 12).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_call_it_keeps_up_on_15() {
    keeps_up(13, 15).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_call_it_keeps_up_on_18() {
    keeps_up(14, 18).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_only_call_it_keeps_up_on_19() {
    keeps_up(17, 19).await;
}

/// What it answers and does, called by hand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_goes_forward_on_the_lattice_within_the_bounds_and_never_back() {
    for major in [13, 17] {
        let stage = bare(14, major).await;
        stage
            .on_subscriber(
                "CREATE SEQUENCE up START 100; CREATE SEQUENCE lane INCREMENT 10 START 3 MAXVALUE 2000000;
                 CREATE SEQUENCE falls INCREMENT -5 MINVALUE -9000000 MAXVALUE -1 START -1;
                 CREATE SEQUENCE cached CACHE 20; CREATE SEQUENCE wheel MAXVALUE 50 CYCLE;
                 CREATE SEQUENCE \"It's, {odd}\";
                 CREATE SEQUENCE wide MINVALUE -9223372036854775808 START -9223372036854775808",
            )
            .await;
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
        stage.on_subscriber("CREATE SCHEMA closed; CREATE SEQUENCE closed.other").await;
        let shadow = as_shadow(&stage).await;
        let call = async |sequence: &str, target: i64| -> Result<(i64, bool), String> {
            let sql = "SELECT last_value, is_called FROM seqshadow.advance_sequences(ARRAY[$1::text::regclass], ARRAY[$2::bigint])";
            match shadow.query_one(sql, &[&sequence, &target]).await {
                Ok(row) => Ok((row.get(0), row.get(1))),
                Err(error) => Err(error.code().unwrap_or_else(|| panic!("{error:?}")).code().to_owned()),
            }
        };
        for (sequence, target, last_value, is_called) in [
            ("up", 99, 100, false),
            ("up", 100, 100, true),
            ("up", 1, 100, true),
            ("up", 120, 120, true),
            ("up", 119, 120, true),
            ("up", 3_000_000, 3_000_000, true),
            ("up", 121, 3_000_000, true),
            ("up", i64::MAX - 1, i64::MAX - 1, true),
            ("up", 5, i64::MAX - 1, true),
            ("lane", 25, 33, true),
            ("lane", 1_500_000, 1_500_003, true),
            ("lane", 4, 1_500_003, true),
            ("lane", 2_000_000, 1_999_993, true),
            ("lane", 2_000_000, 1_999_993, true),
            ("falls", -12, -16, true),
            ("falls", -3, -16, true),
            ("falls", -8_000_000, -8_000_001, true),
            ("falls", -1, -8_000_001, true),
            ("\"It's, {odd}\"", 7, 7, true),
            ("wide", 0, 0, true),
            ("wide", i64::MIN, 0, true),
            ("wide", i64::MAX, i64::MAX, true),
        ] {
            let known = call(sequence, target).await;
            assert_eq!(known, Ok((last_value, is_called)), "{sequence} to {target}");
            let found = state(&stage.subscriber, sequence).await.unwrap();
            assert_eq!(found, State { last_value, is_called }, "{sequence} to {target}");
        }
        let (last, _) = call("cached", 50).await.unwrap();
        assert!((50..90).contains(&last), "{last}");
        assert_eq!(call("cached", 3).await, Ok((last, true)));
        for (sequence, target, code) in [
            ("wheel", 40, "55000"),
            ("lane", 2_000_001, "22003"),
            ("falls", 3, "22003"),
            ("orders", 3, "42809"),
        ] {
            assert_eq!(call(sequence, target).await, Err(code.to_owned()), "{sequence} to {target}");
        }
        // What setup did not see is out of its reach.
        let other = "SELECT seqshadow.advance_sequences(ARRAY[c.oid::regclass], '{5}') FROM pg_class c
                      WHERE c.relname = 'other' AND c.relkind = 'S'";
        assert_eq!(refusal(&shadow, other).await, "42501");
        let uneven = "SELECT seqshadow.advance_sequences('{up,lane}', '{5}')";
        assert_eq!(refusal(&shadow, uneven).await, "22023");
    }
}

/// Two that call it at once, near and far, and one that draws: what is drawn only rises.
#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn nobody_takes_it_back_however_many_call() {
    let stage = bare(15, 16).await;
    stage.on_subscriber("CREATE SEQUENCE busy").await;
    ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
    let until = Instant::now() + Duration::from_secs(6);
    let caller = async |ahead: [i64; 4]| {
        let shadow = as_shadow(&stage).await;
        let mut calls = 0_usize;
        while Instant::now() < until {
            let sql = "SELECT last_value FROM busy";
            let now: i64 = shadow.query_one(sql, &[]).await.unwrap().get(0);
            let target = (now + ahead[calls % 4]).max(1);
            let sql = "SELECT last_value FROM seqshadow.advance_sequences('{busy}', ARRAY[$1::bigint])";
            let after: i64 = shadow.query_one(sql, &[&target]).await.unwrap().get(0);
            assert!(after >= now, "{now} to {target} gave {after}");
            calls += 1;
        }
        calls
    };
    let drawer = async {
        // In bursts: it is quiet in between, and looks so.
        let (mut last, mut drawn) = (0, 0_usize);
        while Instant::now() < until {
            let sql = "SELECT nextval('busy') FROM generate_series(1, 5000) UNION ALL SELECT NULL FROM pg_sleep(0.03)";
            for row in stage.subscriber.query(sql, &[]).await.unwrap() {
                let Some(id) = row.get::<_, Option<i64>>(0) else { continue };
                assert!(id > last, "{id} after {last}");
                (last, drawn) = (id, drawn + 1);
            }
        }
        drawn
    };
    let (one, two, drawn) = futures_util::join!(
        caller([1, -500, 150_000, 20]),
        caller([400_000, 3, -100_000, 1_000_000]),
        drawer
    );
    assert!(one > 5 && two > 5 && drawn > 1000, "{one} {two} {drawn}");
}

/// Rights given before, by setup and by others; the other schema; somebody else's function of that name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_that_were_given_before_are_taken_back_or_told() {
    let stage = bare(17, 14).await;
    let before = inventories(&stage).await;
    ends(&admin(&stage.pair, "setup", &["--advance-function"]), 2, &["a superuser", "--role"]);
    ends(&admin(&stage.pair, "setup", &["--role=shadow", "--grant"]), 0, &["Done"]);
    let shadow = as_shadow(&stage).await;
    shadow.batch_execute("SELECT nextval('orders_id_seq')").await.unwrap();
    let open = admin(&stage.pair, "setup", &["--role=shadow", "--advance-function=Other One"]);
    ends(&open, 1, &["function \"Other One\".advance_sequences", "--print-grants", "not done"]);
    let flags = ["--role=shadow", "--grant", "--advance-function=Other One"];
    ends(&admin(&stage.pair, "setup", &flags), 0, &["made", "--advance-function='Other One'"]);
    ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);
    assert_eq!(refusal(&shadow, "SELECT nextval('orders_id_seq')").await, "42501");
    let call = "SELECT * FROM \"Other One\".advance_sequences('{orders_id_seq}', '{50}')";
    shadow.batch_execute(call).await.unwrap();
    assert_eq!(stage.next("orders_id_seq").await, 51);

    // Somebody gives it more: said, as it is no longer the strictest.
    stage.on_subscriber("GRANT UPDATE ON SEQUENCE orders_id_seq TO shadow").await;
    let told = admin(&stage.pair, "setup", &flags);
    ends(&told, 1, &["could set them back", "REVOKE USAGE, UPDATE ON SEQUENCE public.orders_id_seq"]);
    stage.on_subscriber("REVOKE UPDATE ON SEQUENCE orders_id_seq FROM shadow").await;
    // One with CYCLE is what the function refuses: check asks for that right, and setup has nothing against it.
    stage
        .pair
        .on_both("CREATE SEQUENCE wheel MAXVALUE 50 CYCLE; GRANT SELECT ON wheel TO shadow")
        .await
        .unwrap();
    let look = || {
        let flags = ["--publication=seqshadow_ours", "--advance-function=Other One"];
        crate::check::look(&stage.pair, &flags, &[]).unwrap()
    };
    let update = "subscriber-sequence-update";
    assert_eq!(look().of(update), ["schema public: our role lacks UPDATE on the sequences: wheel"]);
    stage.on_subscriber("GRANT UPDATE ON SEQUENCE wheel TO shadow").await;
    look().expect_none_of(&[update]);
    ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);
    stage.pair.on_both("DROP SEQUENCE wheel").await.unwrap();
    // Somebody opens it to all: mended.
    stage.on_subscriber("GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA \"Other One\" TO PUBLIC").await;
    ends(&admin(&stage.pair, "setup", &flags), 0, &["made"]);
    ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);

    // A schema that others use stays, and is said.
    stage.on_subscriber("CREATE TABLE \"Other One\".theirs ()").await;
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["others have put something into it", "Done"]);
    stage.on_subscriber("DROP SCHEMA \"Other One\" CASCADE").await;
    assert_eq!(inventories(&stage).await, before);

    stage
        .on_subscriber(
            "CREATE SCHEMA seqshadow; CREATE FUNCTION seqshadow.advance_sequences(regclass[], bigint[])
               RETURNS bigint LANGUAGE sql AS 'SELECT 1::bigint'",
        )
        .await;
    let before = inventories(&stage).await;
    ends(&admin(&stage.pair, "setup", &GRANT), 4, &["was not made by setup for slot ours"]);
    ends(&admin(&stage.pair, "teardown", &[]), 0, &["Nothing of it was there"]);
    assert_eq!(inventories(&stage).await, before);
}

/// The printed script, and the administrator of a managed service, who is no superuser.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_administrator_who_is_no_superuser_makes_and_removes_it() {
    for subscriber in [13, 17] {
        let (stage, boss) = with_boss(15, subscriber).await;
        let before = inventories(&stage).await;
        let servers = [boss[0].as_str(), boss[1].as_str()];
        let flags = [&servers[..], &GRANT].concat();
        ends(&admin(&stage.pair, "setup", &flags), 0, &["Done"]);
        ends(&admin(&stage.pair, "setup", &flags), 0, &["nothing was changed"]);
        let running = daemon(&stage.pair, &["--advance-function"]).start().unwrap();
        stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
        stage.wait_past("orders_id_seq", 300).await;
        drop(running);
        wait_for_free_slot(&stage).await;
        ends(&admin(&stage.pair, "teardown", &servers), 0, &["Done"]);
        assert_eq!(inventories(&stage).await, before);

        // What is printed does the same, run by somebody who may.
        let print = ["--role=shadow", "--print-grants", "--advance-function"];
        let printed = admin(&stage.pair, "setup", &print);
        ends(&printed, 0, &["-- On the subscriber"]);
        let (_, script) = printed.stdout.split_once("-- On the subscriber").unwrap();
        stage.on_subscriber(&format!("--{script}")).await;
        let printed = admin(&stage.pair, "setup", &print);
        let (_, script) = printed.stdout.split_once("-- On the subscriber").unwrap();
        assert!(script.contains("role shadow lacks nothing"), "{script}");
        ends(&admin(&stage.pair, "teardown", &[]), 0, &["function seqshadow.advance_sequences removed"]);
        assert_eq!(inventories(&stage).await, before);
    }
}
