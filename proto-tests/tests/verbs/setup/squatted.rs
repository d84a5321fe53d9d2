//! What has the name and the comment of something that `setup` makes, and is somebody else's: nothing is granted to it, called
//! or removed.

use super::rights::bare;
use super::{admin, ends, inventories};
use proto_tests::sql::connect;
use proto_tests::stage::Stage;
use proto_tests::verb;

const GRANT: [&str; 3] = ["--role=shadow", "--grant", "--advance-function"];

/// A function that answers as ours does and does what its maker likes.
fn theirs(schema: &str, kind: &str) -> String {
    format!(
        "CREATE FUNCTION {schema}.advance_sequences(sequences regclass[], targets bigint[])
           RETURNS TABLE (sequence regclass, last_value bigint, is_called boolean) LANGUAGE plpgsql {kind}
           AS $$ BEGIN PERFORM setval(s, 1) FROM unnest(sequences) s; END $$"
    )
}

async fn as_role(stage: &Stage, role: &str) -> tokio_postgres::Client {
    connect(&stage.pair.subscriber.conninfo_as(role, "shop")).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_of_somebody_else_is_not_adopted() {
    for (publisher, subscriber) in [(13, 15), (15, 18)] {
        let stage = bare(publisher, subscriber).await;
        stage
            .on_subscriber(
                "CREATE ROLE evil LOGIN; CREATE ROLE evil2 LOGIN; CREATE SCHEMA ours; GRANT CREATE, USAGE ON SCHEMA ours TO evil",
            )
            .await;
        let evil = as_role(&stage, "evil").await;
        let comment = "COMMENT ON FUNCTION ours.advance_sequences IS 'made by seqshadow setup, slot ours'";
        let grant = "GRANT EXECUTE ON FUNCTION ours.advance_sequences TO evil2";
        evil.batch_execute(&format!("{}; {comment}; {grant}", theirs("ours", ""))).await.unwrap();
        stage.on_subscriber("REVOKE CREATE ON SCHEMA ours FROM evil").await;
        let before = inventories(&stage).await;
        let flags = ["--role=shadow", "--grant", "--advance-function=ours"];
        ends(&admin(&stage.pair, "setup", &flags), 4, &["belongs to evil", "--advance-function=SCHEMA"]);
        // What is not ours is not removed, and does not keep the rest from it.
        ends(&admin(&stage.pair, "teardown", &[]), 0, &["Nothing of it was there"]);
        let procedure = "CREATE PROCEDURE ours.other() LANGUAGE sql AS 'SELECT 1';
            COMMENT ON PROCEDURE ours.other() IS 'made by seqshadow setup, slot ours'";
        stage.on_subscriber(procedure).await;
        ends(&admin(&stage.pair, "teardown", &[]), 0, &["Nothing of it was there"]);
        stage.on_subscriber("DROP PROCEDURE ours.other()").await;
        assert_eq!(inventories(&stage).await, before);

        // One that is in our schema keeps the schema.
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
        stage.on_subscriber(&procedure.replace("ours.other", "seqshadow.other")).await;
        ends(
            &admin(&stage.pair, "teardown", &[]),
            0,
            &["others have put something into it", "advance_sequences removed"],
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_but_the_daemon_may_call_it() {
    for (publisher, subscriber) in [(12, 18), (16, 12)] {
        let stage = bare(publisher, subscriber).await;
        stage
            .on_subscriber(
                "CREATE ROLE evil LOGIN; ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO evil WITH GRANT OPTION;
                 ALTER DEFAULT PRIVILEGES GRANT ALL ON SCHEMAS TO evil",
            )
            .await;
        let others = async || {
            let sql =
                "SELECT has_schema_privilege('evil', 'seqshadow', 'CREATE') OR has_function_privilege('evil',
                         'seqshadow.advance_sequences(regclass[], bigint[])', 'EXECUTE')";
            stage.subscriber.query_one(sql, &[]).await.unwrap().get::<_, bool>(0)
        };
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
        assert!(!others().await);
        // What is granted later is taken away by the next run.
        stage.on_subscriber("GRANT EXECUTE ON FUNCTION seqshadow.advance_sequences TO evil").await;
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["made"]);
        assert!(!others().await);
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["nothing was changed"]);
        stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
        ends(&verb::run(&stage.pair, "sync", &["--lead=10", "--advance-function"]).unwrap(), 0, &[]);
        assert_eq!(stage.next("orders_id_seq").await, 311);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_others_may_change_is_refused() {
    for subscriber in [12, 15, 18] {
        let stage = bare(14, subscriber).await;
        stage
            .on_subscriber(
                "CREATE ROLE evil LOGIN; CREATE SCHEMA owned AUTHORIZATION evil; CREATE SCHEMA open;
                 GRANT CREATE ON SCHEMA open TO evil; GRANT CREATE ON SCHEMA public TO PUBLIC",
            )
            .await;
        let before = inventories(&stage).await;
        for (schema, who) in [("owned", "evil"), ("open", "evil"), ("public", "PUBLIC")] {
            let flag = format!("--advance-function={schema}");
            let refused = admin(&stage.pair, "setup", &["--role=shadow", "--grant", &flag]);
            ends(&refused, 4, &[&format!("schema {schema} is open to {who}"), "--advance-function=SCHEMA"]);
        }
        assert_eq!(inventories(&stage).await, before);
        stage.on_subscriber("REVOKE CREATE ON SCHEMA public FROM PUBLIC").await;
        let flags = ["--role=shadow", "--grant", "--advance-function=public"];
        ends(&admin(&stage.pair, "setup", &flags), 0, &["Done"]);
    }
}

/// Nor does the daemon call one in a schema that became another's after setup, or one that was put in its place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_that_may_be_replaced_is_not_called() {
    for subscriber in [12, 17] {
        let stage = bare(15, subscriber).await;
        stage.on_subscriber("CREATE ROLE evil LOGIN; ALTER SEQUENCE orders_id_seq OWNED BY NONE").await;
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
        stage.on_publisher("INSERT INTO orders (note) SELECT 'x' FROM generate_series(1, 300)").await;
        let sync = |flags: &[&str]| {
            let all = [&["--lead=10", "--advance-function"], flags].concat();
            verb::run(&stage.pair, "sync", &all).unwrap()
        };
        let kept = async |what: &str| {
            ends(&sync(&[]), 1, &["lacks the right"]);
            let sql = "SELECT last_value FROM orders_id_seq";
            assert_eq!(stage.subscriber.query_one(sql, &[]).await.unwrap().get::<_, i64>(0), 1, "{what}");
        };
        stage.on_subscriber("GRANT CREATE ON SCHEMA seqshadow TO evil").await;
        kept("somebody may create there").await;
        stage
            .on_subscriber(
                "REVOKE CREATE ON SCHEMA seqshadow FROM evil; ALTER SCHEMA seqshadow OWNER TO evil",
            )
            .await;
        kept("its schema is another's").await;
        stage
            .on_subscriber("ALTER SCHEMA seqshadow OWNER TO postgres; GRANT seqshadow_ours_moves TO evil")
            .await;
        kept("its owner is another").await;
        stage
            .on_subscriber("REVOKE seqshadow_ours_moves FROM evil; DROP FUNCTION seqshadow.advance_sequences")
            .await;
        stage.on_subscriber(&theirs("seqshadow", "SECURITY DEFINER")).await;
        stage
            .on_subscriber(
                "GRANT UPDATE ON SEQUENCE orders_id_seq TO evil; ALTER FUNCTION seqshadow.advance_sequences OWNER TO evil;
                 GRANT EXECUTE ON FUNCTION seqshadow.advance_sequences TO shadow",
            )
            .await;
        kept("it is another's").await;
        stage.on_subscriber("DROP FUNCTION seqshadow.advance_sequences").await;
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["made"]);
        ends(&sync(&[]), 0, &[]);
        assert_eq!(stage.next("orders_id_seq").await, 311);
    }
}

/// A role with our comment that somebody logs in as, or is a member of.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_somebody_uses_gets_nothing() {
    for subscriber in [12, 15, 18] {
        let stage = bare(17, subscriber).await;
        stage.on_subscriber("CREATE ROLE evil LOGIN CREATEROLE").await;
        let evil = as_role(&stage, "evil").await;
        // Comments on roles take ADMIN of them from 16 on, which who makes them has.
        let mark = "made by seqshadow setup, slot ours, database shop";
        let make = format!(
            "CREATE ROLE seqshadow_ours_moves LOGIN; COMMENT ON ROLE seqshadow_ours_moves IS '{mark}'"
        );
        evil.batch_execute(&make).await.unwrap();
        let before = inventories(&stage).await;
        for flags in [&GRANT[..], &["--role=shadow", "--grant"]] {
            ends(&admin(&stage.pair, "setup", flags), 4, &["seqshadow_ours_moves may log in", "NOLOGIN"]);
        }
        assert_eq!(inventories(&stage).await, before);
        stage
            .on_subscriber("ALTER ROLE seqshadow_ours_moves NOLOGIN; GRANT seqshadow_ours_moves TO evil")
            .await;
        for flags in [&GRANT[..], &["--role=shadow", "--grant"]] {
            let words = ["other members", "REVOKE seqshadow_ours_moves FROM evil"];
            ends(&admin(&stage.pair, "setup", flags), 4, &words);
        }
        stage.on_subscriber("REVOKE seqshadow_ours_moves FROM evil").await;
        let admin_of_it =
            "SELECT EXISTS (SELECT FROM pg_auth_members WHERE roleid = 'seqshadow_ours_moves'::regrole)";
        if stage.subscriber.query_one(admin_of_it, &[]).await.unwrap().get(0) {
            stage.on_subscriber("REVOKE seqshadow_ours_moves FROM evil GRANTED BY postgres").await;
        }
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["Done"]);
        ends(&admin(&stage.pair, "setup", &GRANT), 0, &["nothing was changed"]);
    }
}
