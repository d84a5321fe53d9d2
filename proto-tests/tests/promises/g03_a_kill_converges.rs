//! Promise 3: a kill at any instant converges by itself. And promise 2: what we confirmed is durable on the subscriber.
//!
//! Tries to break: SIGKILL of seqshadow, of the publisher and of the subscriber, one after the other at random
//! moments under load, with `synchronous_commit = off` for our role. After each kill, before anybody could mend
//! anything, no sequence may be short of an id committed below what our slot has confirmed.

use anyhow::Result;
use proto_tests::load::{Load, LoadOptions};
use proto_tests::majors;
use proto_tests::oracle::{Fault, Wrong, assert_no_faults, behind, judge};
use proto_tests::pair::{Pair, PairOptions, SHADOW_ROLE, confirmed};
use proto_tests::shadow::{Shadow, Signal};
use proto_tests::sidecar::{SLOT, command};
use proto_tests::sql::{PATIENCE, Probe, wait_until};
use proto_tests::zoo::Zoo;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use seqshadow::demo::servers::ClusterOptions;
use seqshadow::types::Lsn;
use std::time::Duration;

/// How many kills (30), and what they follow from.
const KILLS_VARIABLE: &str = "SEQSHADOW_TEST_KILLS";
const SEED_VARIABLE: &str = "SEQSHADOW_TEST_SEED";

fn number(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kills_of_all_three_at_random_moments_converge() -> Result<()> {
    let seed = number(SEED_VARIABLE).unwrap_or_else(rand::random);
    let pairs = majors::pairs();
    let kills = number(KILLS_VARIABLE).unwrap_or(30).div_ceil(pairs.len() as u64);
    for (publisher, subscriber) in pairs {
        eprintln!("{kills} kills, {publisher} to {subscriber}, {SEED_VARIABLE}={seed}");
        Scene::set(publisher, subscriber).await?.play(seed, kills).await?;
    }
    Ok(())
}

struct Scene {
    pair: Pair,
    zoo: Zoo,
    shadow: Shadow,
    /// The furthest that our slot was ever seen to have confirmed; a crash of the publisher may take it back there.
    confirmed: Lsn,
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
        let shadow = command(&pair, &[]).spawn()?;
        shadow.wait_for_line("the sequences are protected", PATIENCE)?;
        Ok(Scene { pair, zoo, shadow, confirmed: Lsn::ZERO })
    }

    async fn play(mut self, seed: u64, kills: u64) -> Result<()> {
        let mut random = StdRng::seed_from_u64(seed);
        let options = LoadOptions { seed, survive_outages: true, rows_max: 200, ..LoadOptions::default() };
        let load = Load::start(&self.pair.publisher_conninfo(), &self.zoo, options);
        for kill in 0..kills {
            tokio::time::sleep(Duration::from_millis(random.random_range(50..900))).await;
            match random.random_range(0..4) {
                0 | 1 => {
                    eprintln!("{kill}: seqshadow");
                    self.shadow.kill9();
                    self.check(&load).await?;
                    self.shadow = command(&self.pair, &[]).spawn()?;
                }
                2 => {
                    eprintln!("{kill}: publisher");
                    self.note_confirmed().await?;
                    self.pair.publisher.kill9();
                    tokio::time::sleep(Duration::from_millis(random.random_range(0..300))).await;
                    self.pair.publisher.resume()?;
                }
                _ => {
                    eprintln!("{kill}: subscriber");
                    self.pair.subscriber.kill9();
                    // Nobody may mend anything before we have looked.
                    self.shadow.signal(Signal::STOP);
                    self.pair.subscriber.resume()?;
                    self.check(&load).await?;
                    self.shadow.signal(Signal::CONT);
                }
            }
        }
        let journal = load.stop().await?;
        let (publisher, subscriber) = self.pair.clients().await?;
        let shadow = &mut self.shadow;
        let zoo = &self.zoo;
        wait_until("every sequence past every committed id", PATIENCE, async || {
            assert!(shadow.is_running(), "it ended by itself:\n{}", shadow.stderr_lines().join("\n"));
            let faults = promised(zoo, behind(zoo, &journal, Some(Lsn(u64::MAX)), &subscriber).await?);
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
        self.pair.catch_up().await?;
        let faults = judge(&self.zoo, &journal, &publisher, &subscriber, 3).await?;
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

    /// Nobody is at work on the sequences now.
    async fn check(&mut self, load: &Load) -> Result<()> {
        self.note_confirmed().await?;
        let subscriber = self.pair.on_subscriber().await?;
        let faults = behind(&self.zoo, &load.journal(), Some(self.confirmed), &subscriber).await?;
        let faults = promised(&self.zoo, faults);
        if !faults.is_empty() {
            eprintln!(
                "confirmed {}; seqshadow logged\n{}",
                self.confirmed,
                self.shadow.stderr_lines().join("\n")
            );
        }
        assert_no_faults(&faults);
        Ok(())
    }
}

/// Without the sequences whose ids come not with rows alone: what polls must find is not held by the slot.
fn promised(zoo: &Zoo, faults: Vec<Fault>) -> Vec<Fault> {
    let by_rows = |fault: &Fault| {
        let of = zoo.sequences.iter().find(|s| s.name.to_string() == fault.sequence);
        of.is_some_and(|s| !s.direct && s.is_drawn()) && fault.sequence != "zoo.in_function"
    };
    faults.into_iter().filter(by_rows).collect()
}
