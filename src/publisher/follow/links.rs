//! What the follower shares with the rest: what changes under it, whom it tells, and when to stop.

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::publisher::requests::Requests;
use crate::publisher::stream::Shared;
use crate::types::Lsn;

/// The publisher is another server, or an older copy.
#[derive(Debug)]
pub struct AnotherPublisher {
    /// The end of its WAL when it was met.
    pub wal_end: Lsn,
    /// Answered when the positions of the old one are forgotten.
    pub forgotten: oneshot::Sender<()>,
}

/// What changes, and whom to tell.
#[derive(Debug)]
pub struct Links {
    pub shared: Shared,
    pub requests: Arc<Requests>,
    /// Since when receipts are impossible (the subscriber is away); `None` while they are possible.
    pub receipts_impossible_since: watch::Receiver<Option<Instant>>,
    /// Bytes of WAL that our slot may hold back.
    pub max_retained_wal: watch::Receiver<u64>,
    /// Tells the keeper to confirm what has no receipt: past the ceiling.
    pub give_up: mpsc::Sender<()>,
    /// Tells the keeper that the publisher is another server: positions known so far mean nothing. Answered when done.
    pub another_publisher: mpsc::Sender<AnotherPublisher>,
    pub stop: watch::Receiver<bool>,
    /// What the slot does now, for people: `streaming`, `waiting for the slot`, …
    pub state: watch::Sender<SlotState>,
}

/// What the slot does now.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotState {
    pub doing: Doing,
    pub retained_bytes: u64,
    /// How often the slot was lost, dropped or given up, and had to be made anew.
    pub lost: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Doing {
    #[default]
    Connecting,
    /// `CREATE_REPLICATION_SLOT` waits for writing transactions.
    Creating,
    /// Another seqshadow streams.
    Standby,
    Streaming,
    /// The subscriber is away: the slot is left alone.
    Idle,
}

impl Links {
    /// The outcome of `work`, which has a time limit, or `None` when told to stop before it is done.
    pub(super) async fn unless_stopped<T>(&self, work: impl Future<Output = T>) -> Option<T> {
        let mut stop = self.stop.clone();
        tokio::select! {
            done = self.shared.alive.through(work) => Some(done),
            () = told_to(&mut stop) => None,
        }
    }
}

/// Waits until told to stop, or until whoever could tell is gone.
pub(in crate::publisher) async fn told_to(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}
