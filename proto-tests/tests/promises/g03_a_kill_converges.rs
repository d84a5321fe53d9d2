//! Promise 3: a kill at any instant converges by itself. And promise 2: what we confirmed is durable on the subscriber.
//!
//! Tries to break: SIGKILL of seqshadow, of the publisher and of the subscriber, thirty times each in random order and at
//! random moments under load, with `synchronous_commit = off` for our role. After each kill, before anybody could mend
//! anything, no sequence may be short of an id that a row committed below what our slot has confirmed. The load truncates
//! tables with RESTART IDENTITY: then that is to be so of the ids since the last truncate that is below what is confirmed
//! (of none, once the subscriber has applied a later one), also after the subscriber has applied all that is confirmed
//! while seqshadow is dead.

use anyhow::Result;
use proto_tests::journal::Journal;
use proto_tests::load::{Load, LoadOptions};
use proto_tests::majors;
use proto_tests::oracle::{Fault, Nexts, Wrong, assert_no_faults, judge};
use proto_tests::pair::{Pair, PairOptions, SHADOW_ROLE, applied, confirmed};
use proto_tests::shadow::{Shadow, Signal};
use proto_tests::sidecar::{SLOT, command};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::zoo::Zoo;
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use seqshadow::demo::servers::ClusterOptions;
use seqshadow::types::Lsn;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How many kills of each victim, and what they follow from.
const KILLS_VARIABLE: &str = "SEQSHADOW_TEST_KILLS";
const KILLS: u64 = 30;
const SEED_VARIABLE: &str = "SEQSHADOW_TEST_SEED";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_all_three_at_random_moments_converge() -> Result<()> {
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand::random);
    let pairs = majors::pairs();
    let kills = number(KILLS_VARIABLE).unwrap_or(KILLS).div_ceil(pairs.len() as u64);
    for (publisher, subscriber) in pairs {
        eprintln!("{kills} kills of each, {publisher} to {subscriber}, {SEED_VARIABLE}={seed}");
        let begun = Instant::now();
        Scene::set(publisher, subscriber).await?.play(seed, kills).await?;
        eprintln!("{:.1} s", begun.elapsed().as_secs_f64());
    }
    Ok(())
}

#[derive(Clone, Copy, Debug)]
enum Victim {
    Seqshadow,
    Publisher,
    Subscriber,
}

struct Scene {
    pair: Pair,
    zoo: Zoo,
    shadow: Shadow,
    /// The furthest that our slot was ever seen to have confirmed; a crash of the publisher may take it back there.
    confirmed: Lsn,
    /// What had been drawn from each sequence, in whatever way, when seqshadow was started; forgotten when the subscriber
    /// crashes.
    before_start: HashMap<usize, i64>,
    /// How often a sequence was held against an id that was promised.
    weighed: u64,
}

impl Scene {
    async fn set(publisher: u32, subscriber: u32) -> Result<Scene> {
        let options = PairOptions {
            subscriber: ClusterOptions { fsync: true, ..ClusterOptions::default() },
            ..PairOptions::default()
        };
        let pair = Pair::with(publisher, subscriber, options).await?;
        let zoo = Zoo::replicated(&pair).await?;
        pair.on_subscriber()
            .await?
            .batch_execute(&format!("ALTER ROLE {SHADOW_ROLE} SET synchronous_commit = off"))
            .await?;
        let shadow = command(&pair, &[SOON]).spawn()?;
        shadow.wait_for_line(PROTECTED, PATIENCE)?;
        Ok(Scene { pair, zoo, shadow, confirmed: Lsn::ZERO, before_start: HashMap::new(), weighed: 0 })
    }

    async fn play(mut self, seed: u64, kills: u64) -> Result<()> {
        let mut random = StdRng::seed_from_u64(seed);
        let options = LoadOptions {
            seed,
            survive_outages: true,
            rows_max: 200,
            restarts: true,
            ..LoadOptions::default()
        };
        let load = Load::start(&self.pair.publisher_conninfo(), &self.zoo, options);
        let one_each = [Victim::Seqshadow, Victim::Publisher, Victim::Subscriber];
        let mut victims: Vec<Victim> = (0..kills).flat_map(|_| one_each).collect();
        victims.shuffle(&mut random);
        for (kill, victim) in victims.into_iter().enumerate() {
            if random.random_bool(0.3) {
                self.recover().await?;
            }
            tokio::time::sleep(Duration::from_millis(random.random_range(20..400))).await;
            eprintln!("{kill}: {victim:?}");
            match victim {
                Victim::Seqshadow => {
                    self.shadow.kill9();
                    self.note_confirmed().await?;
                    self.check(&load).await?;
                    if random.random_bool(0.5) {
                        // A truncate below what is confirmed may still have to come to the subscriber.
                        self.apply_what_is_confirmed().await?;
                        self.check(&load).await?;
                    }
                    self.before_start = self.drawn(&load.journal());
                    self.shadow = command(&self.pair, &[SOON]).spawn()?;
                }
                Victim::Publisher => {
                    self.note_confirmed().await?;
                    self.pair.publisher.kill9();
                    // Nobody may mend anything before we have looked.
                    self.shadow.signal(Signal::STOP);
                    self.check(&load).await?;
                    self.shadow.signal(Signal::CONT);
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                    self.pair.publisher.resume()?;
                }
                Victim::Subscriber => {
                    self.pair.subscriber.kill9();
                    self.shadow.signal(Signal::STOP);
                    self.before_start.clear();
                    self.pair.subscriber.resume()?;
                    self.note_confirmed().await?;
                    self.check(&load).await?;
                    self.shadow.signal(Signal::CONT);
                }
            }
        }
        let journal = load.stop().await?;
        assert!(journal.restarts() > 10, "{} restarts are few", journal.restarts());
        assert!(self.weighed > 20 * kills, "{} promises are few", self.weighed);
        self.converge(&journal).await
    }

    /// Waits until seqshadow has confirmed more than ever: whoever was killed, it is at work again. Most kills come
    /// before that.
    async fn recover(&mut self) -> Result<()> {
        let publisher = self.pair.on_publisher().await?;
        let (pair, shadow) = (&self.pair, &mut self.shadow);
        wait_until("our slot to confirm more", PATIENCE, async || {
            start_again(pair, shadow)?;
            let now = confirmed(&publisher, SLOT).await?;
            Ok(Probe::when(now.is_some_and(|now| now > self.confirmed), || {
                format!("{now:?} of {}\n{}", self.confirmed, shadow.stderr_lines().join("\n"))
            }))
        })
        .await
    }

    /// The load is over, and nobody is killed any more.
    async fn converge(mut self, journal: &Journal) -> Result<()> {
        let (publisher, subscriber) = self.pair.clients().await?;
        // Nothing of before a truncate is promised, and the subscriber may have some of them to come.
        self.pair.catch_up().await?;
        let (pair, shadow, zoo) = (&self.pair, &mut self.shadow, &self.zoo);
        wait_until("every sequence past every committed id", PATIENCE, async || {
            start_again(pair, shadow)?;
            let nexts = Nexts::read(zoo, &subscriber).await?;
            let faults = nexts.not_past(zoo, |index, sequence| journal.furthest_kept(index, sequence));
            Ok(Probe::when(faults.is_empty(), || format!("{faults:?}\n{}", shadow.stderr_lines().join("\n"))))
        })
        .await?;
        // The stream is followed again too, and not only the polls.
        let lsn = self.pair.publisher_lsn().await?;
        wait_until("our slot to confirm everything", PATIENCE, async || {
            let now = confirmed(&publisher, SLOT).await?;
            Ok(Probe::when(now.is_some_and(|now| now >= lsn), || {
                format!("{now:?} of {lsn}\n{}", shadow.stderr_lines().join("\n"))
            }))
        })
        .await?;
        let faults = judge(&self.zoo, journal, &publisher, &subscriber, 3).await?;
        // What a killed publisher had given out and forgotten is in no table, and it gives it out again itself.
        let forgotten = |fault: &Fault| matches!(fault.what, Wrong::Behind { .. } | Wrong::Repeats { .. });
        assert_no_faults(&faults.into_iter().filter(|fault| !forgotten(fault)).collect::<Vec<_>>());
        Ok(())
    }

    async fn note_confirmed(&mut self) -> Result<()> {
        let now = confirmed(&self.pair.on_publisher().await?, SLOT).await?;
        self.confirmed = self.confirmed.max(now.unwrap_or_default());
        Ok(())
    }

    /// Waits until the subscription has applied what our slot has confirmed.
    async fn apply_what_is_confirmed(&self) -> Result<()> {
        let subscriber = self.pair.on_subscriber().await?;
        wait_until("the subscription to apply what we confirmed", PATIENCE, async || {
            let now = applied(&subscriber).await?;
            Ok(Probe::when(now >= self.confirmed, || format!("{now} of {}", self.confirmed)))
        })
        .await
    }

    /// Nobody is at work on the sequences now, but native apply.
    async fn check(&mut self, load: &Load) -> Result<()> {
        let subscriber = self.pair.on_subscriber().await?;
        // In this order: every truncate that these values are of after is below what is applied, and in the journal.
        let nexts = Nexts::read(&self.zoo, &subscriber).await?;
        let applied = applied(&subscriber).await?;
        let journal = load.journal();
        let mut weighed = 0;
        let mut faults = nexts.not_past(&self.zoo, |index, sequence| {
            let promised = journal.promised(index, sequence, self.confirmed, applied);
            let promised = promised.filter(|_| sequence.name.name != HIDDEN);
            weighed += u64::from(promised.is_some());
            promised
        });
        self.weighed += weighed;
        if self.shadow.stderr_lines().iter().any(|line| line.contains(PROTECTED)) {
            // It has acted on what it was told at its start. A restart that is applied since takes that back.
            let restarted = |index| journal.epoch(index) > 0;
            faults.extend(nexts.not_past(&self.zoo, |index, _| {
                self.before_start.get(&index).copied().filter(|_| !restarted(index))
            }));
        }
        if !faults.is_empty() {
            eprintln!(
                "confirmed {}, applied {applied}; seqshadow logged\n{}",
                self.confirmed,
                self.shadow.stderr_lines().join("\n")
            );
        }
        assert_no_faults(&faults);
        Ok(())
    }

    /// Where the publisher's sequences are, for good.
    fn drawn(&self, journal: &Journal) -> HashMap<usize, i64> {
        let sequences = self.zoo.sequences.iter().enumerate();
        sequences.filter_map(|(index, it)| Some((index, journal.furthest_kept(index, it)?))).collect()
    }
}

/// As the service manager does: one that was started while a server was away has ended, with the status for that.
fn start_again(pair: &Pair, shadow: &mut Shadow) -> Result<()> {
    if shadow.is_running() {
        return Ok(());
    }
    let status = shadow.wait_exit(PATIENCE)?;
    let lines = shadow.stderr_lines();
    assert_eq!(status.code(), Some(3), "it ended by itself:\n{}", lines.join("\n"));
    assert!(!lines.iter().any(|line| line.contains(PROTECTED)), "it ended by itself:\n{}", lines.join("\n"));
    *shadow = command(pair, &[SOON]).spawn()?;
    Ok(())
}

/// It tells the publisher at once, so that not much less is confirmed than could be.
const SOON: &str = "--status-interval=100ms";

/// What it logs once it has acted on where the publisher's sequences and tables were at its start.
const PROTECTED: &str = "the sequences are protected";

/// The sequence of a function that is a column's default: no catalog says that the column's ids are its own, so that what
/// the slot has confirmed says nothing of it. Nor does it of ids that an application draws by `nextval` alone, in no row.
/// Polls find both, and promise them from the next poll on only: at a kill, those drawn before seqshadow was started; at
/// the end, all.
const HIDDEN: &str = "in_function";
