//! The keeper: one task that owns everything known about the subscriber's sequences, and the only one that has them
//! moved.
//!
//! In: marks from the stream ([`Handover`]), words of the publisher ([`Report`]), ids in the subscriber's tables. Out:
//! advances, receipts and with them the position that may be confirmed; views in the [`Registry`]. It goes on taking
//! in what is known while the subscriber is away, and asserts everything again when it is back.

mod absorb;
mod inventory;
mod managed;
mod own_tables;
mod verify;
mod work;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{debug, info, warn};

pub(crate) use inventory::tracking;
pub use managed::{Beyond, Hold, Managed, Todo};
pub use own_tables::{InOwnTable, OwnTables};
use verify::VerifyOrder;

use crate::backoff::Backoff;
use crate::catalog::Catalog;
use crate::config::Settings;
use crate::confirm::{Confirm, FlushLsn};
use crate::conninfo::Conninfo;
use crate::handover::Handover;
use crate::publisher::follow::AnotherPublisher;
use crate::publisher::poll::Report;
use crate::publisher::requests::Requests;
use crate::registry::Registry;
use crate::sql::{self, Connection, SqlError};
use crate::subscriber::advance::{self, Advancer};
use crate::subscriber::receipt::PendingReceipts;
use crate::subscriber::subscription::Subscription;
use crate::told::Told;
use crate::tracking::Tracking;
use crate::types::{Lsn, Oid};

/// How long the subscriber may take for one batch of work before the connection is given up.
const WORK_TIMEOUT: Duration = Duration::from_secs(40);

/// A connection that lasts so long was a success.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// How often to look whether what was read is durable.
const RECEIPT_LOOK: Duration = Duration::from_millis(20);

/// How often at most to take from the stream what needs no advance: it counts for the pace and for what may be confirmed.
const CALM_PACE: Duration = Duration::from_millis(10);

/// After this long without a flush the WAL writer is nudged.
const RECEIPT_NUDGE: Duration = Duration::from_millis(150);

/// How often the subscriber's own tables are read, and its catalog at the earliest after an unknown table was seen.
const OWN_TABLES_INTERVAL: Duration = Duration::from_secs(60);
const REFRESH_GAP: Duration = Duration::from_secs(1);

/// Whom the keeper talks to.
#[derive(Debug)]
pub struct Links {
    pub settings: watch::Receiver<Arc<Settings>>,
    pub handover: Arc<Handover>,
    /// When to take what needs no advance again.
    pub calm_at: Instant,
    pub registry: Arc<Registry>,
    pub reports: mpsc::Receiver<Report>,
    pub requests: Arc<Requests>,
    pub catalog: watch::Sender<Arc<Catalog>>,
    pub tracking: watch::Sender<Arc<Tracking>>,
    pub flush: watch::Sender<FlushLsn>,
    pub receipts_impossible_since: watch::Sender<Option<Instant>>,
    /// `(subscription, slot)` of the whole subscriber.
    pub subscriptions: watch::Sender<Vec<(String, String)>>,
    /// The subscriptions of our database, through which it gets its rows.
    pub own_subscriptions: watch::Sender<Vec<Subscription>>,
    /// Past the WAL ceiling: what has no receipt is owed to a seed.
    pub give_up: mpsc::Receiver<()>,
    /// The publisher is another server: positions known so far mean nothing.
    pub another_publisher: mpsc::Receiver<AnotherPublisher>,
    pub stop: watch::Receiver<bool>,
}

/// The state of the task.
#[derive(Debug)]
pub struct Keeper {
    links: Links,
    conninfo: Conninfo,
    role: String,
    managed: Vec<Managed>,
    by_oid: HashMap<Oid, u32>,
    confirm: Confirm,
    pending: PendingReceipts,
    pending_since: Instant,
    /// When to ask again whether what was read is durable.
    receipts_at: Instant,
    /// No sequence is to be tried again before.
    retry_at: Option<Instant>,
    /// Sequences about which something changed.
    dirty: BTreeSet<u32>,
    /// What the verify tick reads, when there are many sequences.
    verify_order: VerifyOrder,
    /// The clock of the lead meters, as the registry has it.
    born: Instant,
    /// A TRUNCATE … RESTART IDENTITY in the stream will restart the subscriber's sequence too.
    truncates: bool,
    publisher_asked: bool,
    missing_publications: Vec<String>,
    announced: bool,
    catalog_told: bool,
    refresh_wanted: bool,
    /// How long the last advance took, from its marks to its commit.
    last_delay: Option<Duration>,
    /// Since when another writer has kept us from writing, and whether that was said.
    busy: Option<(Instant, bool)>,
    own_tables: OwnTables,
    /// Why the subscriber is away, as far as it was said.
    away: Told,
}

enum Input {
    Stream,
    Report(Box<Report>),
    OwnTables(own_tables::Found),
    GiveUp,
    /// The configuration was reloaded.
    Settings,
    AnotherPublisher(AnotherPublisher),
    Stop,
}

impl Keeper {
    #[must_use]
    pub fn new(links: Links, conninfo: Conninfo) -> Self {
        let role = conninfo.user().to_owned();
        let born = links.registry.born();
        Keeper {
            own_tables: OwnTables::new(conninfo.clone()),
            links,
            conninfo,
            role,
            managed: Vec::new(),
            by_oid: HashMap::new(),
            confirm: Confirm::default(),
            pending: PendingReceipts::default(),
            pending_since: Instant::now(),
            receipts_at: Instant::now(),
            retry_at: None,
            dirty: BTreeSet::new(),
            verify_order: VerifyOrder::default(),
            born,
            truncates: false,
            publisher_asked: false,
            missing_publications: Vec::new(),
            announced: false,
            catalog_told: false,
            refresh_wanted: false,
            last_delay: None,
            busy: None,
            away: Told::default(),
        }
    }

    /// Keeps the sequences ahead until told to stop. `first` is an open connection to the subscriber.
    pub async fn run(mut self, first: Connection) {
        let mut connection = Some(first);
        let mut backoff = Backoff::default();
        while !*self.links.stop.borrow() {
            let attempt = match connection.take() {
                Some(connection) => Ok(connection),
                None => match self.connect().await {
                    Some(attempt) => attempt,
                    None => return,
                },
            };
            let begun = Instant::now();
            let failure = match attempt {
                Ok(open) => match self.connected(&open).await {
                    Ok(()) => return,
                    Err(error) => error,
                },
                Err(error) => error,
            };
            // One that ends soon again is no success: coming back at once would go on for ever.
            if begun.elapsed() > STABLE_AFTER {
                backoff.succeeded();
            }
            self.subscriber_lost();
            let delay = backoff.next_delay();
            let failure = failure.to_string();
            if self.away.is_news(&failure) {
                warn!(error = %failure, "the subscriber is away: no sequence can be advanced before it is back");
            }
            debug!(error = %failure, retry_in = ?delay, "the subscriber is away");
            let until = Instant::now() + delay;
            loop {
                tokio::select! {
                    () = sleep_until(until) => break,
                    input = self.links.next() => if self.take_in(input) { return },
                    found = self.own_tables.found() => { let _ = self.take_in(Input::OwnTables(found)); }
                }
            }
        }
    }

    /// Connects while taking in what comes; `None` when told to stop.
    async fn connect(&mut self) -> Option<Result<Connection, SqlError>> {
        let conninfo = self.conninfo.clone();
        let attempt = sql::connect(&conninfo, "subscriber");
        tokio::pin!(attempt);
        loop {
            tokio::select! {
                outcome = &mut attempt => return Some(outcome),
                input = self.links.next() => if self.take_in(input) { return None },
            }
        }
    }

    fn subscriber_lost(&mut self) {
        self.pending.forget();
        self.links.receipts_impossible_since.send_if_modified(|since| {
            let was_possible = since.is_none();
            since.get_or_insert_with(Instant::now);
            was_possible
        });
    }

    async fn connected(&mut self, connection: &Connection) -> Result<(), SqlError> {
        let client = &connection.client;
        let advancer = within(Advancer::prepare(client)).await?;
        let advancer = advancer.calling(self.settings().advance_function.as_ref());
        let role = within(client.query_one("SELECT current_user::text", &[])).await?;
        self.role = role.try_get(0)?;
        // It may be another server now (a fail-over, a restore): nothing is taken for granted.
        self.confirm.revoke_all();
        self.pending.forget();
        self.refresh(connection).await?;
        self.read_all(client, &advancer).await?;
        self.look_for_copied_tables(client).await?;
        self.own_tables.read(&self.managed, self.settings().outliers);
        self.assert_everything();
        self.work(client, &advancer).await?;
        self.publish();
        self.links.receipts_impossible_since.send_if_modified(|since| since.take().is_some());
        if self.away.is_over() {
            info!(server = %connection.peer, "the subscriber is back: every sequence was asserted again");
            self.links.requests.seed();
        }
        self.keep(connection, &advancer).await
    }

    async fn keep(&mut self, connection: &Connection, advancer: &Advancer) -> Result<(), SqlError> {
        let client = &connection.client;
        let mut verify = interval(self.settings().verify_interval);
        verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut refresh_at = Instant::now() + self.settings().refresh_interval;
        let mut last_refresh = Instant::now();
        let mut own_tables_at = Instant::now() + OWN_TABLES_INTERVAL;
        loop {
            if verify.period() != self.settings().verify_interval {
                verify = interval(self.settings().verify_interval);
                verify.set_missed_tick_behavior(MissedTickBehavior::Delay);
            }
            let (receipts_at, retry_at) = (self.receipts_at, self.retry_at);
            tokio::select! {
                input = self.links.next() => if self.take_in(input) {
                    self.collect_receipts(client, advancer).await?;
                    self.publish();
                    return Ok(());
                },
                found = self.own_tables.found() => { let _ = self.take_in(Input::OwnTables(found)); }
                _ = verify.tick() => {
                    self.verify(client, advancer).await?;
                    if self.own_tables.is_copying() {
                        self.look_for_copied_tables(client).await?;
                    }
                }
                // The last round of work ended before all was done, so that we listen in between.
                () = std::future::ready(()), if !self.dirty.is_empty() => {}
                () = sleep_until(receipts_at), if !self.pending.is_empty() => {}
                () = sleep_until(retry_at.unwrap_or(receipts_at)), if retry_at.is_some() => self.retry_due(),
                () = sleep_until(refresh_at) => self.refresh_wanted = true,
                () = sleep_until(own_tables_at) => {
                    own_tables_at = Instant::now() + OWN_TABLES_INTERVAL;
                    self.own_tables.read(&self.managed, self.settings().outliers);
                }
            }
            if self.refresh_wanted && last_refresh.elapsed() >= REFRESH_GAP {
                last_refresh = Instant::now();
                refresh_at = last_refresh + self.settings().refresh_interval;
                self.refresh_wanted = false;
                self.refresh(connection).await?;
                self.look_for_copied_tables(client).await?;
                self.read_unknown(client, advancer).await?;
            }
            self.work(client, advancer).await?;
            if self.pending.is_empty() || Instant::now() >= self.receipts_at {
                self.collect_receipts(client, advancer).await?;
            }
            self.publish();
        }
    }

    fn settings(&self) -> Arc<Settings> {
        self.links.settings.borrow().clone()
    }

    async fn look_for_copied_tables(&mut self, client: &tokio_postgres::Client) -> Result<(), SqlError> {
        let outliers = self.settings().outliers;
        self.own_tables.look_for_copied_tables(client, &self.managed, outliers).await
    }

    /// Says what may be confirmed now.
    fn publish(&mut self) {
        let flush = self.confirm.flush();
        self.links.registry.set_confirmed(flush.lsn());
        self.links.flush.send_if_modified(|known| {
            let further = flush > *known;
            *known = flush.max(*known);
            further
        });
    }

    /// Takes the receipts of what the subscriber's `flushed` position proves; false where there are none.
    fn prove(&mut self, flushed: Lsn) -> bool {
        let receipts = self.pending.collect(flushed);
        for receipt in &receipts {
            // Without SELECT the state of a sequence that was never called is no more than its definition.
            let managed = self.managed.get(receipt.slot() as usize);
            if receipt.state().is_called || managed.is_some_and(|m| m.sequence.privileges.select) {
                self.confirm.accept(receipt);
            }
        }
        !receipts.is_empty()
    }

    /// Asks for the receipts that are still to come: a walk comes without a flush of its own.
    async fn collect_receipts(
        &mut self,
        client: &tokio_postgres::Client,
        advancer: &Advancer,
    ) -> Result<(), SqlError> {
        if self.pending.is_empty() {
            self.pending_since = Instant::now();
            return Ok(());
        }
        self.receipts_at = Instant::now() + RECEIPT_LOOK;
        let wal = within(advancer.wal_end(client)).await?;
        if self.prove(wal.flushed) || self.pending.is_empty() {
            self.pending_since = Instant::now();
        } else if self.pending_since.elapsed() > RECEIPT_NUDGE {
            self.pending_since = Instant::now();
            within(advance::nudge_wal_writer(client)).await?;
        }
        Ok(())
    }
}

impl Links {
    async fn next(&mut self) -> Input {
        tokio::select! {
            _ = self.stop.wait_for(|stop| *stop) => Input::Stop,
            () = self.handover.urgent() => Input::Stream,
            () = async {
                sleep_until(self.calm_at).await;
                self.handover.changed().await;
            } => {
                self.calm_at = Instant::now() + CALM_PACE;
                Input::Stream
            }
            changed = self.settings.changed() => if changed.is_ok() { Input::Settings } else { Input::Stop },
            // Whoever reports no more has a reason of his own to end, which must come to light before ours.
            Some(report) = self.reports.recv() => Input::Report(Box::new(report)),
            Some(()) = self.give_up.recv() => Input::GiveUp,
            Some(other) = self.another_publisher.recv() => Input::AnotherPublisher(other),
        }
    }
}

/// Bounds the wait for the subscriber: a server that hangs is as good as away.
async fn within<T>(work: impl Future<Output = Result<T, tokio_postgres::Error>>) -> Result<T, SqlError> {
    sql::within(WORK_TIMEOUT, work).await
}
