//! How long sequences last.

use super::Findings;
use proto_tests::stage::Stage;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

const CODES: [&str; 3] = ["sequence-exhausted", "sequence-nearly-exhausted", "sequence-exhaustion-forecast"];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sequence_or_column_that_is_used_up_or_nearly() {
    let tables = "CREATE TABLE a (id smallserial PRIMARY KEY); CREATE TABLE b (id smallserial PRIMARY KEY);
                  CREATE SEQUENCE wide; CREATE TABLE c (id int PRIMARY KEY DEFAULT nextval('wide'));
                  CREATE SEQUENCE down INCREMENT -1 MINVALUE -1000 MAXVALUE -1 START -1; CREATE SEQUENCE ring MAXVALUE 5 CYCLE";
    let stage = Stage::replicating(12, 15, tables).await.unwrap();
    stage.on_publisher("SELECT setval('a_id_seq', 26000), setval('down', -790), setval('ring', 5)").await;
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);

    stage.on_publisher("SELECT setval('a_id_seq', 30000), setval('b_id_seq', 32767), setval('wide', 2147483647), setval('down', -900)").await;
    let findings = Findings::of_pair(&stage.pair).unwrap();
    let exhausted = [
        "public.b_id_seq: is used up: it stands at 32,767, and its last usable value is 32,767",
        "public.wide: is used up: it stands at 2,147,483,647, and its last usable value is 2,147,483,647",
    ];
    assert_eq!(findings.of("sequence-exhausted"), exhausted);
    assert_eq!(findings.of("sequence-held").len(), 2, "the subscriber has no room for them either");
    let a = "public.a_id_seq: is 91.5 % used: it stands at 30,000, and its last usable value is 32,767";
    let down = "public.down: is 90.0 % used: it stands at -900, and its last usable value is -1,000";
    assert_eq!(findings.of("sequence-nearly-exhausted"), [a, down, a, down], "on each side");
    findings.mend(&stage.pair, &["sequence-exhausted", "sequence-held", "sequence-nearly-exhausted"]).await;
    let mended = Findings::of_pair(&stage.pair).unwrap();
    mended.expect_none_of(&["sequence-exhausted", "sequence-held", "sequence-nearly-exhausted"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_that_are_taken_so_fast_that_they_end_soon() {
    let stage = Stage::replicating(17, 18, "CREATE TABLE a (id serial PRIMARY KEY)").await.unwrap();
    Findings::of_pair(&stage.pair).unwrap().expect_none_of(&CODES);
    let (client, stop) = (stage.pair.on_publisher().await.unwrap(), Arc::new(AtomicBool::new(false)));
    let stopped = stop.clone();
    let writer = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            let sql = "SELECT count(nextval('a_id_seq')) FROM generate_series(1, 1000)";
            client.batch_execute(sql).await.unwrap();
        }
    });
    let findings = Findings::of_pair(&stage.pair).unwrap();
    stop.store(true, Ordering::Relaxed);
    writer.await.unwrap();
    let soon = findings.of("sequence-exhaustion-forecast");
    let [soon] = soon.as_slice() else { panic!("{soon:?}") };
    assert!(soon.starts_with("public.a_id_seq: is 0."), "{soon}");
    assert!(soon.contains("; at the present rate of ") && soon.contains(" ids a second it lasts "), "{soon}");
    findings.expect_none_of(&["sequence-exhausted", "sequence-nearly-exhausted"]);
}
