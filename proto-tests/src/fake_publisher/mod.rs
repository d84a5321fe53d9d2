//! A publisher that does what the test says: it answers SQL from a closure, streams a script, and writes down what the
//! client confirmed.
//!
//! Ordinary and replication connections are served by pgwire up to `START_REPLICATION`. From there on the socket is ours:
//! a [`Script`](script::Step) is played on one half while the client's standby status is read from the other.

mod answer;
mod script;
mod session;

pub use answer::{Answer, Ask, Cell};
pub use script::Step;
pub use session::Type;

use crate::sql::{Probe, wait_until};
use anyhow::Result;
use seqshadow::types::Lsn;
use std::collections::HashMap;
use std::fmt;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

type OnQuery = Box<dyn Fn(&Ask) -> Option<Answer> + Send + Sync>;
type OnStream = Box<dyn Fn(usize, &str) -> Vec<Step> + Send + Sync>;

/// How the publisher behaves.
pub struct FakePublisherOptions {
    server_version: String,
    on_query: OnQuery,
    on_stream: OnStream,
}

impl fmt::Debug for FakePublisherOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakePublisherOptions")
            .field("server_version", &self.server_version)
            .finish_non_exhaustive()
    }
}

impl Default for FakePublisherOptions {
    fn default() -> Self {
        FakePublisherOptions {
            server_version: "17.0".to_owned(),
            on_query: Box::new(|_| None),
            on_stream: Box::new(|_, _| vec![Step::Hold]),
        }
    }
}

impl FakePublisherOptions {
    /// What it calls itself (`server_version`).
    #[must_use]
    pub fn version(mut self, version: &str) -> Self {
        self.server_version = version.to_owned();
        self
    }

    /// Answers SQL; where it says `None`, [`Answer::usual`] answers.
    #[must_use]
    pub fn on_query(mut self, answer: impl Fn(&Ask) -> Option<Answer> + Send + Sync + 'static) -> Self {
        self.on_query = Box::new(answer);
        self
    }

    /// Says what the `n`-th `START_REPLICATION` (from 0, with its text) gets to see.
    #[must_use]
    pub fn on_stream(mut self, script: impl Fn(usize, &str) -> Vec<Step> + Send + Sync + 'static) -> Self {
        self.on_stream = Box::new(script);
        self
    }

    /// Listens on a free port of 127.0.0.1.
    ///
    /// # Errors
    /// When there is none.
    pub async fn start(self) -> Result<FakePublisher> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let shared = Arc::new(Shared {
            options: self,
            seen: Mutex::default(),
            streams: AtomicUsize::new(0),
            connections: AtomicUsize::new(0),
        });
        let serving = shared.clone();
        let task = tokio::spawn(async move {
            let mut sessions = tokio::task::JoinSet::new(); // end with this task
            while let Ok((socket, _)) = listener.accept().await {
                sessions.spawn(session::serve(socket, serving.clone()));
            }
        });
        Ok(FakePublisher { port, shared, task })
    }
}

/// A running fake; dropping it closes every connection.
#[derive(Debug)]
pub struct FakePublisher {
    port: u16,
    shared: Arc<Shared>,
    task: JoinHandle<()>,
}

/// One standby status update of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// Which `START_REPLICATION` it belongs to, from 0.
    pub stream: usize,
    /// Received up to here.
    pub write: Lsn,
    /// Durable up to here: what the client confirms.
    pub flush: Lsn,
    /// Visible up to here.
    pub apply: Lsn,
    /// Whether the client wants an answer.
    pub reply_requested: bool,
}

/// What clients said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) startups: Vec<HashMap<String, String>>,
    pub(crate) queries: Vec<String>,
    pub(crate) statuses: Vec<Status>,
    pub(crate) other_copy_data: Vec<Vec<u8>>,
    pub(crate) copy_done: usize,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) options: FakePublisherOptions,
    seen: Mutex<Seen>,
    streams: AtomicUsize,
    connections: AtomicUsize,
}

impl Shared {
    pub(crate) fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn next_connection(&self) -> usize {
        self.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of this stream, and what it plays.
    pub(crate) fn next_stream(&self, sql: &str) -> (usize, Vec<Step>) {
        let number = self.streams.fetch_add(1, Ordering::Relaxed);
        (number, (self.options.on_stream)(number, sql))
    }

    pub(crate) fn answer(&self, ask: &Ask) -> Answer {
        (self.options.on_query)(ask).unwrap_or_else(|| Answer::usual(ask))
    }
}

impl FakePublisher {
    /// A connection string for it.
    #[must_use]
    pub fn conninfo(&self) -> String {
        format!("host=127.0.0.1 port={} user=postgres dbname=shop sslmode=disable", self.port)
    }

    /// Its port, on 127.0.0.1.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Every standby status update so far.
    #[must_use]
    pub fn statuses(&self) -> Vec<Status> {
        self.shared.seen().statuses.clone()
    }

    /// The furthest position that a client confirmed as durable.
    #[must_use]
    pub fn confirmed(&self) -> Lsn {
        self.shared.seen().statuses.iter().map(|status| status.flush).max().unwrap_or_default()
    }

    /// All SQL and replication commands so far.
    #[must_use]
    pub fn queries(&self) -> Vec<String> {
        self.shared.seen().queries.clone()
    }

    /// The parameters of each connection's startup message.
    #[must_use]
    pub fn startups(&self) -> Vec<HashMap<String, String>> {
        self.shared.seen().startups.clone()
    }

    /// Copy data of clients that is no standby status update (hot standby feedback, or nonsense).
    #[must_use]
    pub fn other_copy_data(&self) -> Vec<Vec<u8>> {
        self.shared.seen().other_copy_data.clone()
    }

    /// How many streams a client ended with CopyDone.
    #[must_use]
    pub fn copy_done(&self) -> usize {
        self.shared.seen().copy_done
    }

    /// How many `START_REPLICATION` there were.
    #[must_use]
    pub fn streams(&self) -> usize {
        self.shared.streams.load(Ordering::Relaxed)
    }

    /// Waits until a client has confirmed `lsn`.
    ///
    /// # Errors
    /// When none has by then; the statuses are in the error.
    pub async fn wait_for_flush(&self, lsn: Lsn, patience: Duration) -> Result<()> {
        wait_until(&format!("a confirmation of {lsn}"), patience, async || {
            Ok(Probe::when(self.confirmed() >= lsn, || format!("{:?}", self.statuses())))
        })
        .await
    }
}

impl Drop for FakePublisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}
