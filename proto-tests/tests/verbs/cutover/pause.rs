//! What can happen while the writes are stopped. A sidecar that is halted holds a cutover in its pause: it waits until the
//! sidecar has passed the fence.

use super::{at_rest, blocker, command, confirm, cuts_over, database_settings, on_a_full_disk, run};
use proto_tests::pair::Pair;
use proto_tests::shadow::{Finished, Shadow, Signal};
use proto_tests::sidecar;
use proto_tests::sql::{PATIENCE, wait_for};
use proto_tests::stage::Stage;
use proto_tests::verb;
use rustix::process::{Pid, kill_process};
use seqshadow::demo::servers::Cluster;
use std::path::Path;
use std::time::Instant;

/// A cutover that has stopped the writes, and cannot get on before `sidecar` does.
async fn held_in_its_pause(pair: &Pair, sidecar: &mut Shadow, directory: &Path, wait: &str) -> Shadow {
    sidecar.signal(Signal::STOP);
    let flags = ["--stop-writes", "--slot=ours", wait];
    let cut = command(pair, directory, &flags).spawn().unwrap();
    // From another database, whose sessions do not end.
    let stopped = "SELECT EXISTS (SELECT FROM pg_db_role_setting WHERE setrole = 0)";
    wait_for(&pair.publisher.conninfo("postgres"), "the pause", stopped).await.unwrap();
    cut.wait_for_output("the writes are stopped", PATIENCE).unwrap();
    cut
}

/// How it ended, and what it said.
pub fn ended(mut cut: Shadow) -> (i32, String) {
    let status = cut.wait_exit(PATIENCE).unwrap();
    let log = format!("{}\n{}", cut.stdout_lines().join("\n"), cut.stderr_lines().join("\n"));
    (status.code().unwrap_or(-1), log)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_abort_in_the_pause_leaves_no_certificate() {
    let stage = at_rest(14, 16).await;
    let mut sidecar = sidecar::start(&stage.pair, &[]).unwrap();
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    // For good, and for a moment only.
    for again in [false, true] {
        let directory = tempfile::tempdir().unwrap();
        let cut = held_in_its_pause(&stage.pair, &mut sidecar, directory.path(), "--wait=40s").await;
        let abort = verb::run(&stage.pair, "cutover", &[&publisher, "--abort"]).unwrap();
        assert!(abort.stdout.contains("go on again"), "{}", abort.all());
        assert!(database_settings(&stage.pair).await.is_empty());
        if again {
            let stop = "ALTER DATABASE shop SET default_transaction_read_only = on";
            stage.pair.on_publisher().await.unwrap().batch_execute(stop).await.unwrap();
        }
        sidecar.signal(Signal::CONT);
        let (code, log) = ended(cut);
        assert_eq!(code, 1, "{log}");
        assert!(log.contains("NO: aborted"), "{log}");
        assert!(!directory.path().join("certificate.json").exists(), "{log}");
        assert!(database_settings(&stage.pair).await.is_empty(), "{log}");
    }
    let directory = tempfile::tempdir().unwrap();
    cuts_over(&stage.pair, directory.path(), &["--stop-writes", "--slot=ours"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_cutover_stopped_stays_stopped_when_the_next_one_fails() {
    let stage = at_rest(13, 17).await;
    let directory = tempfile::tempdir().unwrap();
    let first = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(first.code(), 0, "{}", first.all());
    // The second one fails at the very end: there is no place for its certificate.
    let (code, log) = on_a_full_disk(&stage.pair, &["--json"]);
    assert_eq!(code, Some(1), "{log}");
    assert!(log.contains("was read-only by default before"), "{log}");
    assert_eq!(database_settings(&stage.pair).await, ["default_transaction_read_only=on"], "{log}");
    let third = run(&stage.pair, directory.path(), &["--stop-writes"]);
    assert_eq!(third.code(), 0, "{}", third.all());
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    let abort = verb::run(&stage.pair, "cutover", &[&publisher, "--abort"]).unwrap();
    assert!(abort.stdout.contains("go on again"), "{}", abort.all());
    assert!(abort.stdout.lines().all(|line| line.chars().count() <= 80), "{}", abort.all());
    assert!(database_settings(&stage.pair).await.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_to_stop_writes_are_tried_before_the_pause() {
    let Stage { pair, publisher, .. } = at_rest(15, 18).await;
    let dry = |pair: &Pair| verb::run(pair, "cutover", &["--stop-writes", "--dry-run"]).unwrap();
    let admin = proto_tests::sql::connect(&pair.publisher.conninfo("postgres")).await.unwrap();
    let owner = dry(&pair);
    assert_eq!((owner.code(), blocker(&owner).as_str()), (1, "may-not-stop-writes"), "{}", owner.all());
    let said = |finished: &Finished| finished.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(said(&owner).contains("there: ALTER DATABASE shop OWNER TO shadow;"), "{}", owner.all());
    admin.batch_execute("CREATE ROLE boss; ALTER DATABASE shop OWNER TO boss").await.unwrap();
    let owner = dry(&pair);
    assert!(said(&owner).contains("there: GRANT boss TO shadow;"), "{}", owner.all());
    admin.batch_execute("GRANT boss TO shadow").await.unwrap();
    // A superuser's session, and then one of another role.
    let superuser = dry(&pair);
    assert_eq!(blocker(&superuser), "may-not-stop-writes", "{}", superuser.all());
    assert!(said(&superuser).contains("of role postgres"), "{}", superuser.all());
    drop(publisher);
    super::sessions_gone(&pair, "usename = 'postgres'").await;
    let app = proto_tests::sql::connect(&pair.publisher.conninfo_as("app", "shop")).await.unwrap();
    let other = dry(&pair);
    assert_eq!(blocker(&other), "may-not-stop-writes", "{}", other.all());
    assert!(said(&other).contains("of role app") && said(&other).contains("GRANT pg_signal_backend"));
    admin.batch_execute("GRANT pg_signal_backend TO shadow").await.unwrap();
    let may = dry(&pair);
    assert_eq!(may.code(), 0, "{}", may.all());
    assert!(database_settings(&pair).await.is_empty(), "a dry run changes nothing");
    app.batch_execute("SELECT 1").await.unwrap();
    // And so it can.
    let directory = tempfile::tempdir().unwrap();
    let certificate = format!("--certificate={}", directory.path().join("certificate.json").display());
    let cut = verb::run(&pair, "cutover", &["--stop-writes", &certificate]).unwrap();
    assert_eq!(cut.code(), 0, "{}", cut.all());
    assert!(app.batch_execute("SELECT 1").await.is_err(), "its session has ended");
}

/// The heartbeat is committed long after the fence, and an application's row between the two.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_between_the_fence_and_the_heartbeat() {
    let ddl = format!(
        "{}; CREATE TABLE heartbeat (id serial PRIMARY KEY, token text); CREATE TABLE go (now int PRIMARY KEY)",
        super::TABLES
    );
    let stage = Stage::replicating(15, 16, &ddl).await.unwrap();
    stage.on_publisher(super::USE).await;
    stage.pair.catch_up().await.unwrap();
    stage
        .on_publisher(
            "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
               WHILE NOT EXISTS (SELECT FROM public.go) LOOP PERFORM pg_sleep(0.01); END LOOP; RETURN new; END $$;
             CREATE TRIGGER slow BEFORE INSERT ON heartbeat FOR EACH ROW EXECUTE FUNCTION slow()",
        )
        .await;
    let directory = tempfile::tempdir().unwrap();
    let flags = ["--heartbeat=public.heartbeat", "--wait=40s"];
    let cut = command(&stage.pair, directory.path(), &flags).spawn().unwrap();
    let waits = "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE query LIKE 'INSERT INTO public.heartbeat%'
                                   AND state = 'active' AND pid <> pg_backend_pid())";
    wait_for(&stage.pair.publisher_conninfo(), "the heartbeat", waits).await.unwrap();
    stage.on_publisher("INSERT INTO orders (note) VALUES ('between')").await;
    stage.on_publisher("INSERT INTO go VALUES (1)").await;
    let (code, log) = ended(cut);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("NO: writes-go-on") && log.contains("public.orders"), "{log}");
    assert!(!directory.path().join("certificate.json").exists(), "{log}");
    // Without such a row it passes.
    let cut = run(&stage.pair, directory.path(), &flags);
    assert_eq!(cut.code(), 0, "{}", cut.all());
    confirm(&stage.pair, &directory.path().join("certificate.json"));
}

/// A server of which every process is halted, until this is dropped.
struct Frozen(Vec<Pid>);

impl Frozen {
    fn new(cluster: &Cluster) -> Frozen {
        let postmaster = cluster.pid().unwrap();
        let pid = |pid: u32| Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
        // First the one that would start others.
        kill_process(pid(postmaster), Signal::STOP).unwrap();
        let mut all = vec![pid(postmaster)];
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Ok(child) = entry.file_name().to_string_lossy().parse::<u32>() else { continue };
            let status = std::fs::read_to_string(entry.path().join("status")).unwrap_or_default();
            let parent = status.lines().find_map(|line| line.strip_prefix("PPid:")).map(str::trim);
            if parent == Some(postmaster.to_string().as_str())
                && kill_process(pid(child), Signal::STOP).is_ok()
            {
                all.push(pid(child));
            }
        }
        assert!(all.len() > 3, "the server has processes of its own");
        Frozen(all)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for pid in self.0.iter().rev() {
            let _ = kill_process(*pid, Signal::CONT);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_publisher_that_hangs_is_named_and_what_is_left_to_do() {
    let stage = at_rest(16, 17).await;
    let mut sidecar = sidecar::start(&stage.pair, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = held_in_its_pause(&stage.pair, &mut sidecar, directory.path(), "--wait=5s").await;
    let frozen = Frozen::new(&stage.pair.publisher);
    let since = Instant::now();
    let (code, log) = tokio::task::spawn_blocking(move || ended(cut)).await.unwrap();
    println!("it ended after {:?}", since.elapsed());
    drop(frozen);
    assert_eq!(code, 1, "{log}");
    assert!(log.contains("NO: no-answer") && log.contains("the publisher does not answer"), "{log}");
    assert!(log.contains("STILL STOPPED") && log.contains("cutover --abort"), "{log}");
    assert!(!directory.path().join("certificate.json").exists(), "{log}");
    // It comes to itself, and may by then have done what it was told last.
    let publisher = format!("--publisher={}", stage.pair.publisher_conninfo());
    let abort = verb::run(&stage.pair, "cutover", &[&publisher, "--abort"]).unwrap();
    assert_eq!(abort.code(), 0, "{}", abort.all());
    assert!(database_settings(&stage.pair).await.is_empty());
    sidecar.signal(Signal::CONT);
    cuts_over(&stage.pair, directory.path(), &["--stop-writes", "--slot=ours"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscriber_that_hangs_is_given_up_and_the_writes_go_on() {
    let stage = at_rest(17, 15).await;
    let mut sidecar = sidecar::start(&stage.pair, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = held_in_its_pause(&stage.pair, &mut sidecar, directory.path(), "--wait=5s").await;
    let frozen = Frozen::new(&stage.pair.subscriber);
    sidecar.signal(Signal::CONT);
    let (code, log) = tokio::task::spawn_blocking(move || ended(cut)).await.unwrap();
    assert_eq!(code, 1, "{log}");
    let named = ["NO: no-answer", "NO: applier-lags", "NO: sidecar-lags"];
    assert!(named.iter().any(|code| log.contains(code)), "{log}");
    assert!(log.contains("no-answer") <= log.contains("the subscriber does not answer"), "{log}");
    assert!(log.contains("go on again"), "{log}");
    assert!(database_settings(&stage.pair).await.is_empty(), "{log}");
    assert!(!directory.path().join("certificate.json").exists(), "{log}");
    drop(frozen);
    cuts_over(&stage.pair, directory.path(), &["--stop-writes", "--slot=ours"]);
}

/// What was read before the pause is used in it only as long as it is so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_definition_that_changes_in_the_pause_is_read_anew() {
    let stage = at_rest(12, 15).await;
    let mut sidecar = sidecar::start(&stage.pair, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = held_in_its_pause(&stage.pair, &mut sidecar, directory.path(), "--wait=40s").await;
    stage.on_subscriber("ALTER SEQUENCE orders_id_seq INCREMENT 7").await;
    sidecar.signal(Signal::CONT);
    let (code, log) = ended(cut);
    assert_eq!(code, 0, "{log}");
    drop(sidecar);
    let text = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let sequences = json["databases"][0]["sequences"].as_array().unwrap();
    let orders = sequences.iter().find(|one| one["sequence"] == "public.orders_id_seq").unwrap();
    let next = stage.next("orders_id_seq").await;
    assert_eq!(orders["next_value"], next, "{orders}");
}

/// Where sessions look for a sequence that a default names without its schema: changed by a setting alone, which no
/// definition shows.
async fn a_search_path_that_changes(publisher: u32, subscriber: u32, change: &str) {
    let ddl = format!("{}; {}", super::TABLES, crate::consumers::TWO_OF_A_NAME);
    let stage = Stage::replicating(publisher, subscriber, &ddl).await.unwrap();
    stage.pair.grant(&["public", "one", "two"]).await.unwrap();
    stage.pair.on_both("ALTER DATABASE shop SET search_path = two, public").await.unwrap();
    let verified = verb::run(&stage.pair, "verify", &["--json"]).unwrap();
    let verdict = |json: &serde_json::Value| {
        let found = json["sequences"].as_array().unwrap().iter().find(|one| one["sequence"] == "two.no");
        (found.unwrap()["verdict"].as_str().unwrap().to_owned(), found.unwrap()["columns"].clone())
    };
    assert_eq!(verdict(&verified.json().unwrap()), ("past".to_owned(), serde_json::json!(["public.t.id"])));
    let mut sidecar = sidecar::start(&stage.pair, &[]).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cut = held_in_its_pause(&stage.pair, &mut sidecar, directory.path(), "--wait=40s").await;
    stage.on_subscriber(change).await;
    sidecar.signal(Signal::CONT);
    let (code, log) = ended(cut);
    assert_eq!(code, 0, "{log}");
    drop(sidecar);
    let text = std::fs::read_to_string(directory.path().join("certificate.json")).unwrap();
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let expected = ("past_publisher".to_owned(), serde_json::json!([]));
    assert_eq!(verdict(&json["databases"][0]), expected, "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_path_that_changes_in_the_pause_is_noticed() {
    a_search_path_that_changes(16, 14, "ALTER DATABASE shop RESET search_path").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_roles_search_path_that_changes_in_the_pause_is_noticed() {
    a_search_path_that_changes(13, 18, "ALTER ROLE app SET search_path = one, public").await;
}
