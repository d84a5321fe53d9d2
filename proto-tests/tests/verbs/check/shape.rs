//! What is printed: the JSON keeps its shape, the text its margins.

use proto_tests::stage::Stage;
use proto_tests::verb;
use serde_json::json;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_json_keeps_its_shape_and_the_text_fits() {
    let tables = "CREATE TABLE a (id serial PRIMARY KEY, note text)";
    let stage = Stage::replicating(16, 17, tables).await.unwrap();
    stage
        .on_publisher("DO $$ BEGIN FOR i IN 11..17 LOOP EXECUTE format('CREATE TABLE t_%s (id int)', i); END LOOP; END $$")
        .await;
    stage.on_subscriber("ALTER SEQUENCE a_id_seq CACHE 20").await;
    let run = |flags: &[&str]| {
        verb::run(&stage.pair, "check", &[&["--ack=sequence-cache"], flags].concat()).unwrap()
    };

    let finished = run(&["--json"]);
    assert_eq!(finished.code(), 1, "{}", finished.all());
    let mut report = finished.json().unwrap();
    let version = |key: &str| report[key].as_u64().unwrap() / 10_000;
    assert_eq!((version("publisher_version"), version("subscriber_version")), (16, 17));
    assert!(report["at"].as_str().unwrap().ends_with('Z'));
    report["at"] = json!("(time)");
    report["publisher_version"] = json!("(version)");
    report["subscriber_version"] = json!("(version)");
    // Others are found here, too; these show all there is in one.
    let shown = ["table-missing", "sequence-cache", "sequence-cache-differs"];
    report["findings"].as_array_mut().unwrap().retain(|f| shown.contains(&f["code"].as_str().unwrap()));
    insta::assert_json_snapshot!("check", report);

    let text = run(&[]);
    assert_eq!(text.code(), 1, "{}", text.all());
    assert!(text.stdout.lines().all(|line| line.chars().count() <= 80), "{}", text.all());
    let setting =
        "\n      ALTER SYSTEM SET max_slot_wal_keep_size = '10240MB';\n      SELECT pg_reload_conf();\n";
    assert!(text.stdout.contains(setting), "{}", text.all());
    assert!(
        text.stdout
            .contains("\nwarning: sequence-cache, on the subscriber (acknowledged)\n  public.a_id_seq: has")
    );
    let mend = "\n      ALTER TABLE public.t_11 REPLICA IDENTITY FULL;\n      ALTER TABLE public.t_12";
    assert!(text.stdout.contains(mend), "{}", text.all());
    assert!(text.stdout.lines().last().unwrap().starts_with("NOT ready: "), "{}", text.all());
    let list = run(&["--list"]);
    assert!(list.stdout.lines().all(|line| line.chars().count() <= 80), "{}", list.all());
}
