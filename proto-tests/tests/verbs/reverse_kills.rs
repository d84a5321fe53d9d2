//! `reverse` killed at any instant: the next run finishes it, `--undo` removes it, and no row is lost.

use std::collections::HashSet;
use std::time::{Duration, Instant};

use super::reverse::{back, catalogs, command, contents, reverse, switched};
use proto_tests::publication::Subscription;
use proto_tests::sql::PATIENCE;
use proto_tests::stage::Stage;

/// The forward subscription as it was, after it had to be dropped.
async fn forwards_again(stage: &Stage) {
    let subscription = Subscription { copy_data: Some(false), ..Subscription::to("sub", &["pub"]) };
    stage.pair.subscribe(&subscription).await.unwrap();
}

fn kill(stage: &Stage, flags: &[&str], after: Duration) {
    let mut run = command(&stage.pair, flags).spawn().unwrap();
    // When it dies is the point, not a wait for something.
    std::thread::sleep(after);
    run.kill9();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_kill_at_any_instant_is_finished_by_the_next_run_or_undone() {
    let stage = switched(15, 18).await;
    let before = catalogs(&stage.pair).await;
    let without_forward: Vec<String> = before
        .iter()
        .filter(|line| {
            !line.contains("slot sub ")
                && !line.contains("subscription sub ")
                && !line.contains("new relation")
        })
        .cloned()
        .collect();
    let begun = Instant::now();
    let whole = reverse(&stage.pair, &["--apply"]);
    let took = begun.elapsed();
    assert_eq!(whole.code(), 0, "{}", whole.all());
    let begun = Instant::now();
    let undone = reverse(&stage.pair, &["--undo"]);
    let undo_took = begun.elapsed();
    assert_eq!(undone.code(), 0, "{}", undone.all());
    assert_eq!(catalogs(&stage.pair).await, without_forward);
    forwards_again(&stage).await;

    let mut left_behind = HashSet::new();
    for round in 0..12u32 {
        kill(&stage, &["--apply"], took * (2 * round + 1) / 24);
        left_behind.insert(catalogs(&stage.pair).await);
        if round % 3 == 2 {
            let undone = reverse(&stage.pair, &["--undo"]);
            assert_eq!(undone.code(), 0, "round {round}: {}", undone.all());
            let after = catalogs(&stage.pair).await;
            // Before the forward subscription is gone all is as before; after it all but that.
            if after == before {
                continue;
            }
            let left: Vec<&String> = after.iter().filter(|line| !without_forward.contains(line)).collect();
            assert!(
                left.is_empty() || undone.stdout.contains("is left on the new server"),
                "round {round}: {left:?}\n{}",
                undone.all()
            );
            stage
                .on_subscriber(
                    "DO $$ BEGIN IF EXISTS (SELECT FROM pg_subscription WHERE subname = 'sub') THEN
                ALTER SUBSCRIPTION sub SET (slot_name = NONE); DROP SUBSCRIPTION sub; END IF; END $$",
                )
                .await;
            assert_eq!(catalogs(&stage.pair).await, without_forward, "round {round}: {}", undone.all());
        } else {
            let done = reverse(&stage.pair, &["--apply"]);
            assert_eq!(done.code(), 0, "round {round}: {}", done.all());
            stage.on_subscriber(&format!("INSERT INTO orders (note) VALUES ('round {round}')")).await;
            back(&stage.pair).await;
            assert_eq!(contents(&stage.publisher).await, contents(&stage.subscriber).await, "round {round}");
            kill(&stage, &["--undo"], undo_took * round / 12);
            let undone = reverse(&stage.pair, &["--undo"]);
            assert_eq!(undone.code(), 0, "round {round}: {}", undone.all());
            assert_eq!(catalogs(&stage.pair).await, without_forward, "round {round}: {}", undone.all());
        }
        forwards_again(&stage).await;
    }
    assert!(left_behind.len() > 1, "no kill came in the middle: {left_behind:?}");
    let complaints = stage.pair.publisher.log();
    assert!(!complaints.contains("duplicate key"), "{complaints}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_at_the_same_time_make_one() {
    let stage = switched(17, 18).await;
    let mut runs: Vec<_> = (0..2).map(|_| command(&stage.pair, &["--apply"]).spawn().unwrap()).collect();
    for run in &mut runs {
        let status = run.wait_exit(PATIENCE).unwrap();
        assert_eq!(status.code(), Some(0), "{:?}{:?}", run.stdout_lines(), run.stderr_lines());
    }
    stage.on_subscriber("INSERT INTO orders (note) VALUES ('once')").await;
    back(&stage.pair).await;
    assert_eq!(contents(&stage.publisher).await, contents(&stage.subscriber).await);
}
