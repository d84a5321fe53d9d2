//! How a sequence is moved: set, locked or walked, chosen by what others could do meanwhile. The advancer directly,
//! against a real server.

use crate::advancing::{Applications, Writer, server};
use proto_tests::sequence::state;
use proto_tests::sql::connect;
use proto_tests::watcher::Watcher;
use seqshadow::catalog::Sequence;
use seqshadow::demo::servers::ClusterOptions;
use seqshadow::plan::State;
use seqshadow::readings::{Reading, Trouble};
use seqshadow::subscriber::advance::{Outcome, Step};
use std::time::{Duration, Instant};

fn at(last_value: i64) -> State {
    State { last_value, is_called: true }
}

/// Advances until the sequence is there, as the keeper does; says how many calls that took.
async fn until_there(writer: &Writer, sequence: &Sequence, mut seen: State, to: i64) -> usize {
    let sign = crate::advancing::sign(sequence);
    for call in 1..1_000 {
        match writer.step(sequence, seen, to).await.unwrap().0 {
            Outcome::At(state) => {
                assert!((state.last_value - seen.last_value) * sign >= 0, "{seen:?} {state:?}");
                seen = state;
            }
            other => panic!("{other:?}"),
        }
        if seen.is_called && (seen.last_value - to) * sign >= 0 {
            return call;
        }
    }
    panic!("not there: {seen:?}");
}

/// The lock is taken by naming the owner, who may be another by now.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lock_leaves_the_owner_and_the_namesake_alone() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin
        .batch_execute(
            "CREATE ROLE one; CREATE ROLE other; GRANT CREATE ON SCHEMA public TO one, other;
             CREATE SEQUENCE s; ALTER SEQUENCE s OWNER TO one; CREATE SEQUENCE t; ALTER SEQUENCE t OWNER TO one",
        )
        .await
        .unwrap();
    let writer = Writer::new(&conninfo).await.unwrap();
    let (s, t) = (writer.sequence("s").await.unwrap(), writer.sequence("t").await.unwrap());
    let fresh = writer.state(&s).await.unwrap();
    admin
        .batch_execute(
            "ALTER SEQUENCE s OWNER TO other; SELECT nextval('s');
             ALTER SEQUENCE t RENAME TO \"T\"; CREATE SEQUENCE t OWNED BY NONE; SELECT nextval('\"T\"')",
        )
        .await
        .unwrap();
    // Somebody has moved them since they were seen, and the way is long: they are locked.
    for sequence in [&s, &t] {
        assert_eq!(writer.step(sequence, fresh, 5_000_000).await.unwrap().0, Outcome::At(at(5_000_000)));
    }
    let sql =
        "SELECT string_agg(relname || ' ' || pg_get_userbyid(relowner), ', ' ORDER BY relname COLLATE \"C\")
                 FROM pg_class WHERE relkind = 'S'";
    let owners: String = admin.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(owners, "T one, s other, t postgres");
    assert_eq!(state(&admin, "t").await.unwrap(), fresh, "the new namesake");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_way_follows_distance_and_company() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin
        .batch_execute(
            "CREATE SEQUENCE up; CREATE SEQUENCE down INCREMENT -3; CREATE SEQUENCE cached CACHE 100;
             CREATE TABLE t (id bigint GENERATED ALWAYS AS IDENTITY);
             ALTER SEQUENCE up OWNER TO shadow; ALTER TABLE t OWNER TO shadow;
             GRANT ALL ON down, cached TO shadow",
        )
        .await
        .unwrap();
    let writer = Writer::new(&server.conninfo_as("shadow", "postgres")).await.unwrap();
    let (up, down) = (writer.sequence("up").await.unwrap(), writer.sequence("down").await.unwrap());

    // Never called, near: the first nextval gives the start itself.
    let fresh = writer.state(&up).await.unwrap();
    assert_eq!(fresh, State { last_value: 1, is_called: false });
    assert_eq!(writer.step(&up, fresh, 1).await.unwrap().0, Outcome::At(at(1)));
    // There already, or past it: nothing moves.
    assert_eq!(writer.step(&up, at(1), 1).await.unwrap().0, Outcome::At(at(1)));
    assert_eq!(writer.step(&up, at(1), -5).await.unwrap().0, Outcome::At(at(1)));
    // Set back by somebody since it was seen: what it was to be brought to may be of before, so the caller hears of it.
    assert_eq!(writer.step(&up, at(70), 500).await.unwrap().0, Outcome::At(at(1)));
    assert_eq!(writer.step(&up, at(70), 9_000_000).await.unwrap().0, Outcome::At(at(1)));
    // Quiet and far: set at once.
    assert_eq!(until_there(&writer, &up, at(1), 3_000_000_000).await, 1);
    // Somebody has moved it since it was seen, far, and it is ours: locked, at once.
    admin.batch_execute("SELECT nextval('up')").await.unwrap();
    assert_eq!(until_there(&writer, &up, at(3_000_000_000), 9_000_000_000).await, 1);
    // Somebody uses it in an open transaction: the lock is refused, and it is walked.
    admin.batch_execute("BEGIN; SELECT nextval('up')").await.unwrap();
    let mut calls = 0;
    while writer.state(&up).await.unwrap() != at(9_002_500_000) {
        // As seen before they moved it: the sequence is never quiet.
        writer.step(&up, at(9_000_000_000), 9_002_500_000).await.unwrap();
        calls += 1;
    }
    assert!((10..100).contains(&calls), "{calls}");
    admin.batch_execute("COMMIT").await.unwrap();

    // Descending, not ours, somebody moved it: walked in chunks to the first value that is not short of the target.
    let fresh = writer.state(&down).await.unwrap();
    admin.batch_execute("SELECT nextval('down')").await.unwrap();
    let calls = until_there(&writer, &down, fresh, -1_000_000).await;
    assert!(calls >= 2, "{calls}");
    assert_eq!(writer.state(&down).await.unwrap(), at(-1_000_000));

    // An identity column's sequence can be locked too.
    let identity = writer.sequence("t_id_seq").await.unwrap();
    admin.batch_execute("SELECT nextval('t_id_seq')").await.unwrap();
    let fresh = State { last_value: 1, is_called: false };
    assert_eq!(until_there(&writer, &identity, fresh, 5_000_000).await, 1);

    // Under CACHE, 100,000 steps are a thousand first calls: walked, so that they cannot be overtaken.
    let cached = writer.sequence("cached").await.unwrap();
    let fresh = writer.state(&cached).await.unwrap();
    until_there(&writer, &cached, fresh, 150_000).await;
    let now = writer.state(&cached).await.unwrap().last_value;
    assert!((150_000..150_100).contains(&now), "{now}");
    // A cached session of ours moves with the others: between its walks somebody sets the sequence ahead.
    admin.batch_execute("SELECT setval('cached', 1000000)").await.unwrap();
    assert_eq!(until_there(&writer, &cached, at(now), 1_000_050).await, 1);
    assert!(writer.state(&cached).await.unwrap().last_value >= 1_000_050);
}

/// A walk is overtaken by others; it must not go on to where nothing is left.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_walk_near_the_end_never_uses_the_sequence_up() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin.batch_execute("CREATE SEQUENCE ending MAXVALUE 400000").await.unwrap();
    let writer = Writer::new(&conninfo).await.unwrap();
    let ending = writer.sequence("ending").await.unwrap();
    let mut walked = 0;
    for round in 0..20_i64 {
        let base = round * 15_000;
        admin.execute("SELECT setval('ending', $1)", &[&(base + 1)]).await.unwrap();
        let applications = Applications::start(&conninfo, "ending", 4, 200, Duration::ZERO);
        // Whatever they draw meanwhile, the walk ends at the target.
        let to = base + 14_000;
        writer.step(&ending, at(base + 1), to).await.unwrap();
        let ids = applications.stop().await.unwrap();
        let last = state(&admin, "ending").await.unwrap().last_value;
        let after = ids.iter().filter(|id| **id > to).count();
        assert!(last <= to.max(ids.iter().copied().max().unwrap_or(0)), "{last}: {after} drawn past {to}");
        walked += i64::from(last == to);
    }
    eprintln!("{walked} walks ended exactly at their target");
    // At the very end: one value is left, and stays.
    admin.batch_execute("SELECT setval('ending', 399000)").await.unwrap();
    writer.step(&ending, at(399_000), 399_999).await.unwrap();
    let last: i64 = admin.query_one("SELECT nextval('ending')", &[]).await.unwrap().get(0);
    assert_eq!(last, 400_000);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_locked_one_dropped_and_one_ungranted_of_1200_delay_only_themselves() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin
        .batch_execute(
            "DO $$ BEGIN FOR i IN 1..1200 LOOP EXECUTE format('CREATE SEQUENCE s%s', i); END LOOP; END $$;
             GRANT USAGE, SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA public TO shadow",
        )
        .await
        .unwrap();
    let writer = Writer::new(&server.conninfo_as("shadow", "postgres")).await.unwrap();
    let sequences = writer.sequences().await.unwrap();
    assert_eq!(sequences.len(), 1200);
    // After the catalog was read, as it happens.
    let locking = connect(&conninfo).await.unwrap();
    locking.batch_execute("BEGIN; ALTER SEQUENCE s77 RESTART").await.unwrap();
    admin.batch_execute("DROP SEQUENCE s600; REVOKE ALL ON s1111 FROM shadow").await.unwrap();

    let seen = State { last_value: 1, is_called: false };
    // Some near, some far.
    let to = |name: &str| if name.len().is_multiple_of(2) { 33 } else { 1_000_000 };
    let steps: Vec<Step<'_>> =
        sequences.iter().map(|sequence| Step { sequence, seen, to: to(&sequence.name.name) }).collect();
    let begun = Instant::now();
    let done = writer.advancer.advance(writer.client(), &steps).await.unwrap();
    eprintln!("1200 sequences with three bad ones in {:?}", begun.elapsed());
    assert!(begun.elapsed() < Duration::from_secs(15));
    assert_eq!(done.outcomes.len(), 1200);
    for (sequence, outcome) in sequences.iter().zip(&done.outcomes) {
        let name = sequence.name.name.as_str();
        let expected = match name {
            "s77" => Outcome::Refused(Trouble::Locked),
            "s600" => Outcome::Refused(Trouble::Gone),
            "s1111" => Outcome::Refused(Trouble::Denied),
            _ => Outcome::At(at(to(name))),
        };
        assert_eq!(*outcome, expected, "{name}");
    }
    let all: Vec<&Sequence> = sequences.iter().collect();
    let readings = writer.advancer.reader().read(writer.client(), &all).await.unwrap();
    for (sequence, reading) in sequences.iter().zip(readings) {
        let expected = match sequence.name.name.as_str() {
            "s77" => Reading::Locked,
            "s600" => Reading::Gone,
            "s1111" => Reading::Denied,
            name => Reading::State(at(to(name))),
        };
        assert_eq!(reading, expected, "{}", sequence.name);
    }
}

/// All writers of ours take turns: two walk and set the same sequence, and a third holds the lock for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn two_writers_take_turns_and_a_third_makes_them_wait() {
    let server = server(15, ClusterOptions::default()).await.unwrap();
    let conninfo = server.conninfo("postgres");
    let admin = connect(&conninfo).await.unwrap();
    admin.batch_execute("CREATE SEQUENCE s CACHE 7").await.unwrap();
    let watch = Watcher::of(&conninfo, "s", 1);
    let work = |distance: i64| {
        let conninfo = conninfo.clone();
        tokio::spawn(async move {
            let writer = Writer::new(&conninfo).await.unwrap();
            let sequence = writer.sequence("s").await.unwrap();
            let until = Instant::now() + Duration::from_secs(5);
            let mut made = 0;
            while Instant::now() < until {
                let seen = writer.state(&sequence).await.unwrap();
                match writer.step(&sequence, seen, seen.last_value + distance).await.unwrap().0 {
                    Outcome::At(state) => {
                        assert!(state.last_value >= seen.last_value, "{seen:?} {state:?}");
                        made += 1;
                    }
                    Outcome::Busy => {}
                    other => panic!("{other:?}"),
                }
            }
            made
        })
    };
    // One of them always sets, the other always walks.
    let (one, other) = (work(1_000_000), work(13));
    let applications = Applications::start(&conninfo, "s", 3, 10, Duration::from_millis(5));
    let (one, other) = (one.await.unwrap(), other.await.unwrap());
    let ids = applications.stop().await.unwrap();
    let watched = watch.stop().await.unwrap();
    eprintln!("{one} and {other} advances, {} ids, {} looks", ids.len(), watched.rounds);
    assert!(one > 10 && other > 10 && ids.len() > 100);
    assert_eq!((crate::advancing::duplicates(ids), watched.setbacks), (0, Vec::new()));

    admin.batch_execute("BEGIN; SELECT pg_advisory_xact_lock(1936028019, 1751213167)").await.unwrap();
    let writer = Writer::new(&conninfo).await.unwrap();
    let sequence = writer.sequence("s").await.unwrap();
    let seen = writer.state(&sequence).await.unwrap();
    assert_eq!(writer.step(&sequence, seen, seen.last_value + 50).await.unwrap().0, Outcome::Busy);
    assert_eq!(writer.state(&sequence).await.unwrap(), seen);
}
