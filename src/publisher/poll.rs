//! Reads the publisher's own sequences and tables: the second and third source of marks.
//!
//! In: the subscriber's catalog, and requests to look again. Out: [`Report`]s. It has an SQL connection of its own, so
//! that a slow publisher delays neither the stream nor the advances. It writes nothing.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_postgres::{Client, Error};
use tracing::{debug, info, warn};

use super::follow::{Doing, SlotState};
use super::look::{Compared, InTable, Look, PublisherValue, Renames};
use super::pace::{Due, Pace};
use super::publication;
use super::requests::{Asked, Requests};
use super::stream::Progress;
use crate::backoff::Backoff;
use crate::catalog::coverage::Coverage;
use crate::catalog::{Catalog, Sequence};
use crate::conninfo::Conninfo;
use crate::plan::outlier;
use crate::sql::{self, SqlError};
use crate::subscriber::subscription::Subscription;
use crate::told::Told;
use crate::types::{Lsn, Oid};

/// How often to look whether the subscription has applied what is waited for.
const APPLIED_LOOK: Duration = Duration::from_secs(1);

/// How long a poll may take before the connection is given up.
const POLL_TIMEOUT: Duration = Duration::from_secs(120);

/// News from the publisher. Sequences are named by the subscriber's OIDs.
#[derive(Debug)]
pub enum Report {
    /// Which sequences the stream shows in full.
    /// `truncates`: a TRUNCATE that it shows reaches the subscriber too.
    Coverage { coverage: HashMap<Oid, Coverage>, truncates: bool },
    /// Publications that are not there, at each look; empty when all are.
    MissingPublications(Vec<String>),
    /// Values of sequences, all read after the publisher's WAL stood at `tag`.
    Values { tag: Lsn, values: Vec<(Oid, PublisherValue)>, polled: Polled },
    /// The furthest ids in publisher tables: within the limit, and past it. `unread` could not be read there. `seed`: as
    /// part of a look at everything.
    Tables { tag: Lsn, found: Vec<InTable>, unread: HashSet<Oid>, seed: bool },
    /// The subscription has durably applied everything that was committed up to `up_to`. Where that is `all_seen` by the
    /// last full look at the publisher, the subscriber's own tables hold it now.
    Applied { up_to: Lsn, all_seen: bool },
}

/// Which sequences only polls follow now, and how far apart those are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polled {
    /// All of them: no stream flows. Otherwise those that it does not show.
    pub all: bool,
    pub every: Duration,
}

/// What the poller needs to know.
#[derive(Debug)]
pub struct Poller {
    pub conninfo: Conninfo,
    pub publications: Vec<String>,
    /// The subscriptions through which the subscriber's database gets its rows.
    pub subscriptions: watch::Receiver<Vec<Subscription>>,
    pub renames: Renames,
    pub poll_interval: watch::Receiver<Duration>,
    pub subscriber: watch::Receiver<Arc<Catalog>>,
    pub requests: Arc<Requests>,
    /// Whether there is a stream, and how far it has come.
    pub slot_state: watch::Receiver<SlotState>,
    pub progress: watch::Receiver<Progress>,
    pub reports: mpsc::Sender<Report>,
}

/// The keeper is gone: the process is ending.
struct Ended;

/// A stream that is this many bytes short of a position has passed it: the server gives a position at the start of a
/// page with the page's header (`SizeOfXLogLongPHD`) or without.
const PAGE_HEADER: u64 = 40;

/// So many polls without a stream are worth a line: at a start, or after a short interruption, there are some.
const POLLS_WORTH_A_LINE: u32 = 5;

impl Poller {
    /// Polls until the receiver of reports is dropped.
    pub async fn run(mut self) {
        let mut backoff = Backoff::default();
        let mut told = Told::default();
        loop {
            let why = match self.connected(&mut backoff, &mut told).await {
                Ok(Ended) => return,
                Err(error) => error.to_string(),
            };
            let delay = backoff.next_delay();
            let streaming = self.slot_state.borrow().doing == Doing::Streaming;
            if told.is_news(&format!("{streaming} {why}")) {
                let meanwhile = if streaming {
                    "only the stream shows its ids until it is polled again"
                } else {
                    "and no stream flows: the sequences stay where they are until it is reached again; check that it \
                     runs and can be reached from here"
                };
                warn!(error = %why, "the publisher cannot be polled, {meanwhile}");
            }
            debug!(error = %why, retry_in = ?delay, "not polled");
            tokio::select! {
                () = sleep(delay) => {}
                () = self.reports.closed() => return,
            }
        }
    }

    async fn connected(&mut self, backoff: &mut Backoff, told: &mut Told) -> Result<Ended, SqlError> {
        let connection = sql::connect(&self.conninfo, "publisher").await?;
        let mut catalog = self.subscriber.borrow_and_update().clone();
        let mut look = Look::new(connection).await?;
        self.requests.answer_all();
        self.compare(&mut look, &catalog).await?;
        let mut wanted = Some(Wanted::Everything);
        let mut pace = Pace::new(*self.poll_interval.borrow_and_update(), Instant::now());
        let mut polls_without_stream = 0_u32;
        let mut seen_up_to = Lsn(u64::MAX);
        let mut looked_at = None;
        loop {
            if let Some(wanted) = &wanted {
                let polled = self.poll(&look, &catalog, wanted, &mut pace);
                let Ok(tag) = sql::within(POLL_TIMEOUT, polled).await? else { return Ok(Ended) };
                if wanted.is_all() {
                    seen_up_to = tag;
                }
                if *wanted == Wanted::Everything {
                    looked_at = Some(sql::within(POLL_TIMEOUT, look.current_lsn()).await?);
                }
            }
            backoff.succeeded();
            if told.is_over() {
                info!("the publisher is polled again");
            }
            if let Some(looked) = looked_at {
                let up_to = sql::within(POLL_TIMEOUT, self.applied(&look.client)).await?;
                let all_seen = up_to >= looked;
                looked_at = looked_at.filter(|_| !all_seen);
                if self.reports.send(Report::Applied { up_to, all_seen }).await.is_err() {
                    return Ok(Ended);
                }
            }
            wanted = loop {
                pace.set_interval(*self.poll_interval.borrow_and_update());
                break tokio::select! {
                    () = sleep(APPLIED_LOOK), if looked_at.is_some() => None,
                    () = sleep_until(pace.next()) => {
                        let due = pace.poll(Instant::now());
                        if due.all {
                            let flows = self.stream_has_passed(seen_up_to);
                            tell_how(&mut polls_without_stream, flows, &pace);
                            pace.set_flowing(flows);
                        }
                        if due.compare || look.incomplete && (due.tables || pace.is_flowing()) {
                            self.compare(&mut look, &catalog).await?;
                        }
                        Some(match due {
                            Due { all: false, .. } => Wanted::BlindValues,
                            Due { tables: true, .. } if !pace.is_flowing() => Wanted::AllWithTables,
                            // What else lies in the tables the stream has shown.
                            Due { tables: true, .. } => Wanted::AllWithUpdates,
                            Due { .. } => Wanted::AllValues,
                        })
                    }
                    // At once when it ends; when it flows again, not before it has caught up.
                    is_ending = stream_ends(&mut self.slot_state), if pace.is_flowing() => {
                        if is_ending {
                            return Ok(Ended);
                        }
                        pace.set_flowing(false);
                        pace.poll(Instant::now());
                        Some(Wanted::AllValues)
                    }
                    () = self.reports.closed() => return Ok(Ended),
                    // With the new interval the next poll may be due at once.
                    changed = self.poll_interval.changed() => {
                        if changed.is_err() {
                            return Ok(Ended);
                        }
                        continue;
                    }
                    asked = self.requests.next() => match asked {
                        Asked::Sequences(oids) => Some(Wanted::These(oids)),
                        Asked::Seed => {
                            pace.polled_everything(Instant::now());
                            self.compare(&mut look, &catalog).await?;
                            Some(Wanted::Everything)
                        }
                    },
                    changed = self.subscriber.changed() => {
                        if changed.is_err() {
                            return Ok(Ended);
                        }
                        catalog = self.subscriber.borrow_and_update().clone();
                        pace.polled_everything(Instant::now());
                        self.requests.answer_all();
                        self.compare(&mut look, &catalog).await?;
                        Some(Wanted::Everything)
                    }
                };
            };
        }
    }

    /// Up to where every subscription has applied what was committed, durably: they confirm nothing else. Slots that are
    /// not on this server do not count.
    async fn applied(&self, client: &Client) -> Result<Lsn, Error> {
        // One that is lost confirms nothing any more. (12 has no wal_status.)
        let sql = "SELECT coalesce(confirmed_flush_lsn, '0/0') FROM pg_replication_slots s
                    WHERE slot_name = ANY($1) AND to_jsonb(s)->>'wal_status' IS DISTINCT FROM 'lost'
                    ORDER BY 1 LIMIT 1";
        let row = client.query_opt(sql, &[&self.subscription_slots()]).await?;
        row.map_or(Ok(Lsn(u64::MAX)), |row| row.try_get(0))
    }

    /// The slots of the subscriptions that bring what our stream shows: of those that share a publication with us, or
    /// else of all; one that is disabled is waited for only where no other brings anything.
    fn subscription_slots(&self) -> Vec<String> {
        let subscriptions = self.subscriptions.borrow();
        let shares = |s: &Subscription| s.publications.iter().any(|name| self.publications.contains(name));
        let ranks: [&dyn Fn(&Subscription) -> bool; 3] =
            [&|s| s.enabled && shares(s), &|s| s.enabled, &|_| true];
        for is_wanted in ranks {
            let slots: Vec<String> =
                subscriptions.iter().filter(|s| is_wanted(s)).filter_map(|s| s.slot.clone()).collect();
            if !slots.is_empty() {
                return slots;
            }
        }
        Vec::new()
    }

    /// Compares both sides anew, and reports what was found.
    async fn compare(&self, look: &mut Look, subscriber: &Catalog) -> Result<(), SqlError> {
        let compared = look.compare(subscriber, &self.publications, &self.renames).await?;
        if look.incomplete {
            debug!("a table is locked on the publisher: what could not be read of it is read again soon");
        }
        let Compared { publications, coverage } = compared;
        let _ = self.reports.send(Report::MissingPublications(publications.missing)).await;
        let truncates = publications.truncates && self.subscriptions_truncate(&look.client).await?;
        let report = Report::Coverage { coverage, truncates };
        let _ = self.reports.send(report).await;
        Ok(())
    }

    /// Whether the subscriptions that this publisher feeds replicate TRUNCATE, all of them. Without a subscription nobody
    /// knows, and then a truncate restarts nothing.
    async fn subscriptions_truncate(&self, client: &Client) -> Result<bool, SqlError> {
        let names: Vec<String> =
            self.subscriptions.borrow().iter().flat_map(|s| s.publications.iter().cloned()).collect();
        let theirs = sql::within(POLL_TIMEOUT, publication::load(client, &names)).await?;
        Ok(theirs.are_there() && theirs.truncates)
    }

    /// Whether a stream flows, and has shown everything up to `lsn`. One that is still at a backlog shows nothing of
    /// today.
    fn stream_has_passed(&self, lsn: Lsn) -> bool {
        let committed = self.progress.borrow().committed.0;
        self.slot_state.borrow().doing == Doing::Streaming && committed.saturating_add(PAGE_HEADER) >= lsn.0
    }

    /// Reads what is wanted and reports it. Everything that was committed up to the position returned was there.
    async fn poll(
        &self,
        look: &Look,
        subscriber: &Catalog,
        wanted: &Wanted,
        pace: &mut Pace,
    ) -> Result<Result<Lsn, Ended>, Error> {
        let sequences: Vec<&Sequence> = subscriber
            .sequences
            .iter()
            .filter(|s| match wanted {
                Wanted::BlindValues => look.blind.contains(&s.oid),
                Wanted::These(oids) => oids.contains(&s.oid),
                _ => true,
            })
            .collect();
        let tag = look.current_lsn().await?;
        let begun = Instant::now();
        let values = look.values(&sequences).await?;
        if wanted.is_all() {
            pace.took_for_values(begun.elapsed());
        }
        let limits: HashMap<Oid, i64> = sequences
            .iter()
            .zip(&values)
            .map(|(s, (oid, value))| {
                (*oid, outlier::limit(&s.definition, &s.bounds(), value.state, value.mark))
            })
            .collect();
        debug!(sequences = sequences.len(), %tag, "publisher polled");
        let polled = Polled { all: !pace.is_flowing(), every: pace.every() };
        if self.reports.send(Report::Values { tag, values, polled }).await.is_err() {
            return Ok(Err(Ended));
        }
        let in_tables: Vec<&Sequence> = match wanted {
            Wanted::Everything | Wanted::AllWithTables => sequences,
            Wanted::AllWithUpdates => {
                sequences.into_iter().filter(|s| look.updated.contains(&s.oid)).collect()
            }
            _ => Vec::new(),
        };
        let seed = *wanted == Wanted::Everything;
        if seed || !in_tables.is_empty() {
            let begun = Instant::now();
            let (found, unread) = look.tables(&in_tables, &limits).await?;
            pace.took_for_tables(begun.elapsed());
            if self.reports.send(Report::Tables { tag, found, unread, seed }).await.is_err() {
                return Ok(Err(Ended));
            }
        }
        Ok(Ok(tag))
    }
}

/// What a poll reads.
#[derive(Debug, PartialEq, Eq)]
enum Wanted {
    /// Values and tables, because there is a reason to.
    Everything,
    /// The same, because it is time.
    AllWithTables,
    /// Values, and the tables where the stream does not show UPDATEs.
    AllWithUpdates,
    AllValues,
    BlindValues,
    /// The values of these.
    These(BTreeSet<Oid>),
}

impl Wanted {
    fn is_all(&self) -> bool {
        !matches!(self, Wanted::BlindValues | Wanted::These(_))
    }
}

/// Waits until no stream flows. True when the whole process ends.
async fn stream_ends(state: &mut watch::Receiver<SlotState>) -> bool {
    state.wait_for(|state| state.doing != Doing::Streaming).await.is_err()
}

/// Says, once, that polls stand in for the stream, and that they do no more.
fn tell_how(polls_without_stream: &mut u32, flows: bool, pace: &Pace) {
    if flows {
        if *polls_without_stream > POLLS_WORTH_A_LINE {
            info!("the stream has caught up: sequences that it shows are followed by it again");
        }
        *polls_without_stream = 0;
        return;
    }
    *polls_without_stream += 1;
    if *polls_without_stream == POLLS_WORTH_A_LINE + 1 {
        info!(
            every = ?pace.gap(),
            "no stream shows what happens now: every sequence is polled on the publisher, with a lead for the time \
             between two polls"
        );
    }
}
