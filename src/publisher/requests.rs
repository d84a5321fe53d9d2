//! What somebody wants looked at again on the publisher: merged, never lost, and not too often.
//!
//! In: wishes of the keeper and of the follower. Out: for the poller, what is due now. Nobody waits to ask.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use crate::types::Oid;

/// The same question is not put to the publisher again before this: ids past the limit may come in floods.
const GAP: Duration = Duration::from_secs(1);

/// What to look at again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// These sequences, by the subscriber's OIDs, before ids of theirs are set aside.
    Sequences(BTreeSet<Oid>),
    /// Everything, tables too: a slot was made, or the stream connected again.
    Seed,
}

/// The wishes that are open.
#[derive(Debug, Default)]
pub struct Requests {
    open: Mutex<Open>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Open {
    seed: bool,
    sequences: BTreeSet<Oid>,
    /// When each was asked about, and everything, as far as that was within [`GAP`].
    asked: HashMap<Oid, Instant>,
    seeded: Option<Instant>,
}

impl Requests {
    /// Asks for one sequence, by the subscriber's OID.
    pub fn sequence(&self, oid: Oid) {
        self.open().sequences.insert(oid);
        self.news.notify_one();
    }

    /// Asks for everything.
    pub fn seed(&self) {
        self.open().seed = true;
        self.news.notify_one();
    }

    /// Everything is about to be looked at: that answers all who asked until now.
    pub fn answer_all(&self) {
        self.open().answer_all(Instant::now());
    }

    /// Waits until something is due, and takes it. For one poller only.
    pub async fn next(&self) -> Asked {
        loop {
            let news = self.news.notified();
            let later = match self.open().due(Instant::now()) {
                Ok(asked) => return asked,
                Err(later) => later,
            };
            match later {
                Some(at) => tokio::select! {
                    () = news => {}
                    () = sleep_until(at) => {}
                },
                None => news.await,
            }
        }
    }

    fn open(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Open {
    fn answer_all(&mut self, now: Instant) {
        self.seed = false;
        self.seeded = Some(now);
        self.sequences.clear();
    }

    /// What is due, or when something will be.
    fn due(&mut self, now: Instant) -> Result<Asked, Option<Instant>> {
        self.asked.retain(|_, at| now < *at + GAP);
        self.seeded = self.seeded.filter(|at| now < *at + GAP);
        if self.seed && self.seeded.is_none() {
            self.answer_all(now);
            return Ok(Asked::Seed);
        }
        let due: BTreeSet<Oid> =
            self.sequences.iter().filter(|oid| !self.asked.contains_key(oid)).copied().collect();
        if !due.is_empty() {
            self.sequences.retain(|oid| !due.contains(oid));
            self.asked.extend(due.iter().map(|oid| (*oid, now)));
            return Ok(Asked::Sequences(due));
        }
        let seed = self.seeded.filter(|_| self.seed);
        let waiting = self.sequences.iter().filter_map(|oid| self.asked.get(oid)).copied();
        Err(waiting.chain(seed).min().map(|at| at + GAP))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn oids(oids: &[u32]) -> Asked {
        Asked::Sequences(oids.iter().map(|oid| Oid(*oid)).collect())
    }

    #[test]
    fn nothing_is_lost_and_the_same_is_asked_once_a_second() {
        let requests = Requests::default();
        let now = Instant::now();
        for round in 0..10_000 {
            requests.sequence(Oid(round % 2000));
            requests.seed();
        }
        assert_eq!(requests.open().due(now), Ok(Asked::Seed), "it answers the others too");
        assert_eq!(requests.open().due(now), Err(None));
        requests.sequence(Oid(1));
        requests.sequence(Oid(2));
        requests.sequence(Oid(1));
        assert_eq!(requests.open().due(now), Ok(oids(&[1, 2])));
        requests.sequence(Oid(1));
        requests.sequence(Oid(3));
        requests.seed();
        assert_eq!(requests.open().due(now), Ok(oids(&[3])), "what is new does not wait for the rest");
        assert_eq!(requests.open().due(now), Err(Some(now + GAP)));
        assert_eq!(requests.open().due(now + GAP), Ok(Asked::Seed));
        requests.sequence(Oid(1));
        assert_eq!(requests.open().due(now + GAP), Ok(oids(&[1])));
    }

    #[tokio::test]
    async fn who_waits_is_woken() {
        let requests = std::sync::Arc::new(Requests::default());
        let waiting = tokio::spawn({
            let requests = requests.clone();
            async move { (requests.next().await, requests.next().await) }
        });
        tokio::task::yield_now().await;
        requests.sequence(Oid(7));
        requests.sequence(Oid(7));
        tokio::task::yield_now().await;
        requests.sequence(Oid(8));
        assert_eq!(waiting.await.unwrap(), (oids(&[7]), oids(&[8])));
    }
}
