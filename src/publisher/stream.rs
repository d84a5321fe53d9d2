//! The stream itself: one connection in CopyBoth mode, from the first byte to the last.
//!
//! In: the socket after `START_REPLICATION`. Out: marks into the [`Handover`], and status updates to the publisher.
//! Reading, writing and advancing are independent: neither a slow subscriber nor a full send buffer keeps us from
//! reading or from answering keepalives. It decides nothing about slots (see [`super::follow`]).

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, MissedTickBehavior, timeout};

use super::connection::ReplicationError;
use super::moderation::{PATIENCE_IN_BULK, Wakeups};
use crate::alive::{Alive, BEAT};
use crate::confirm::{FlushLsn, Synchronous};
use crate::handover::Handover;
use crate::observe::Observer;
use crate::pgoutput::Tap;
use crate::session::Socket;
use crate::tracking::Tracking;
use crate::types::Lsn;
use crate::wire::{Backend, Limits, Replication, Scanner, StandbyStatus, frontend};

/// How much is read at a time at most. The buffer grows beyond it only for one long message, up to the window.
pub(crate) const READ_BYTES: usize = 256 * 1024;

/// The shortest time between two status updates that nobody asked for.
const STATUS_GAP: Duration = Duration::from_millis(100);

/// The shortest time between two answers to keepalives: a publisher that shuts down asks 35,000 times a second.
const REPLY_GAP: Duration = Duration::from_millis(10);

/// After this many requests for a reply in a row, over [`STUCK_AFTER`], without that we could confirm more: the
/// publisher is shutting down and waits for a confirmation that we cannot give.
const STUCK_REQUESTS: u32 = 100;
const STUCK_AFTER: Duration = Duration::from_secs(3);

/// How long the publisher has to end the stream in order.
pub(crate) const FAREWELL: Duration = Duration::from_secs(2);

/// When the publisher was silent for so long that it counts as dead, bytes that are there already have this long to be
/// read: we may have been busy ourselves.
const LAST_TRY: Duration = Duration::from_millis(100);

/// Microseconds from 1970 to 2000, PostgreSQL's epoch.
const POSTGRES_EPOCH_US: i64 = 946_684_800_000_000;

/// How far a stream has come, for everybody who asks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The end of what was received.
    pub received: Lsn,
    /// The publisher's end of WAL, as it last said.
    pub wal_end: Lsn,
    /// The end of the last commit, or what a keepalive said between transactions.
    pub committed: Lsn,
}

/// Why a stream ended.
#[derive(Debug)]
pub enum End {
    /// We were asked to stop, and told the publisher.
    Asked,
    /// The publisher ended the stream in order.
    Finished,
    /// It asks for replies again and again, and we cannot confirm more: it is shutting down.
    Stuck,
    Failed(ReplicationError),
}

/// What a stream shares with the rest.
#[derive(Clone, Debug)]
pub struct Shared {
    pub handover: Arc<Handover>,
    pub tracking: watch::Receiver<Arc<Tracking>>,
    pub flush: watch::Receiver<FlushLsn>,
    pub progress: watch::Sender<Progress>,
    /// Fed by everything that shows that this task is alive, for the service manager's watchdog.
    pub alive: Arc<Alive>,
}

/// How often to say how far we are, and when to give up on a silent publisher.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    pub status_interval: Duration,
    /// As `wal_receiver_timeout`: half of it without a byte, and we ask; the whole of it, and the peer is dead.
    pub dead_after: Duration,
    /// The publisher's commits wait for our flush position: it is confirmed at once.
    pub synchronous: Option<Synchronous>,
}

/// Reads and answers until the stream ends or `stop` says so.
pub async fn run(
    socket: Socket,
    received: BytesMut,
    mut tap: Tap,
    shared: &mut Shared,
    timing: Timing,
    stop: impl Future<Output = ()>,
) -> (End, Stats) {
    let wakeups = Wakeups::of(socket.low_water());
    let (mut reading, mut writing) = tokio::io::split(socket);
    let wanted = Wanted::default();
    let tracking = shared.tracking.borrow_and_update().clone();
    let mut observer = Observer::new(tracking);
    shared.handover.tell_all_limits();
    let end = {
        let (flush, progress) = (shared.flush.clone(), shared.progress.subscribe());
        let incoming = Incoming {
            socket: &mut reading,
            dead_after: timing.dead_after,
            silence: Silence::default(),
            wakeups,
            held: false,
        };
        let read = read(incoming, received, &mut tap, &mut observer, shared, &wanted);
        let write = write(&mut writing, flush, progress, &wanted, timing);
        tokio::select! {
            end = read => end,
            end = write => end,
            () = stop => End::Asked,
        }
    };
    observer.connection_lost();
    observer.give(&shared.handover);
    if matches!(end, End::Asked) {
        let status = status(*shared.flush.borrow(), *shared.progress.borrow());
        let _ = timeout(FAREWELL, farewell(&mut reading, &mut writing, status)).await;
    }
    (end, Stats { rows: observer.rows() })
}

/// What a stream did, for the log.
#[derive(Clone, Copy, Debug)]
pub struct Stats {
    pub rows: u64,
}

/// What the reader wants the writer to send.
#[derive(Debug, Default)]
struct Wanted {
    reply: Notify,
    /// Ask the publisher to answer, to learn whether it is there.
    ping: Notify,
}

async fn read(
    mut incoming: Incoming<'_>,
    mut buffer: BytesMut,
    tap: &mut Tap,
    observer: &mut Observer,
    shared: &mut Shared,
    wanted: &Wanted,
) -> End {
    let mut scanner = Scanner::new(Limits::default());
    let mut stuck = Stuck::default();
    loop {
        observer.take_limits(&shared.handover);
        match consume(&mut scanner, &mut buffer, tap, observer, shared, wanted, &mut stuck) {
            Ok(Batch { end: Some(end), .. }) => return end,
            Ok(Batch { lag: Some(lag), .. }) => incoming.wakeups.committed(incoming.silence.since, lag),
            Ok(Batch { .. }) => {}
            Err(error) => return End::Failed(error),
        }
        let in_bulk = incoming.wakeups.in_bulk();
        incoming.held = observer.give_in_time(&shared.handover, std::time::Instant::now(), in_bulk);
        shared.alive.beat();
        if stuck.is(*shared.flush.borrow()) {
            return End::Stuck;
        }
        if shared.tracking.has_changed().unwrap_or(false) {
            observer.track(shared.tracking.borrow_and_update().clone());
            // Limits of sequences that were not known yet were not taken.
            shared.handover.tell_all_limits();
            tap.retrack(observer);
        }
        buffer.reserve(READ_BYTES);
        if let Err(error) = incoming.read_some(&mut buffer, wanted, shared).await {
            return End::Failed(error);
        }
    }
}

/// For how long the publisher has said nothing.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// How many quarters of the time after which it is dead it has kept.
    quarters: u128,
}

impl Default for Silence {
    fn default() -> Self {
        Silence { since: Instant::now(), quarters: 0 }
    }
}

impl Silence {
    /// Whether to ask for a sign of life: when half of `dead_after` is over, and once more.
    fn is_to_be_broken(&mut self, dead_after: Duration) -> bool {
        let before = self.quarters;
        self.quarters = self.since.elapsed().as_nanos() / (dead_after / 4).as_nanos().max(1);
        self.quarters >= 2 && self.quarters > before
    }
}

/// What comes over the socket, and when.
struct Incoming<'a> {
    socket: &'a mut ReadHalf<Socket>,
    dead_after: Duration,
    silence: Silence,
    wakeups: Wakeups,
    /// Marks are held back for a moment, and have to be handed over if nothing more comes.
    held: bool,
}

impl Incoming<'_> {
    /// Reads what is there, or returns early when the catalog changed or marks were held back for long enough. A publisher that is silent for half of
    /// `dead_after` is asked for a sign of life.
    async fn read_some(
        &mut self,
        buffer: &mut BytesMut,
        wanted: &Wanted,
        shared: &mut Shared,
    ) -> Result<(), ReplicationError> {
        loop {
            if self.silence.is_to_be_broken(self.dead_after) {
                wanted.ping.notify_one();
            }
            let left = self.dead_after.saturating_sub(self.silence.since.elapsed());
            let collecting = self.wakeups.patience();
            let patience = match collecting {
                Some(patience) => patience,
                None if self.held => PATIENCE_IN_BULK,
                None => left.clamp(LAST_TRY, BEAT),
            };
            tokio::select! {
                read = timeout(patience, self.socket.read_buf(buffer)) => match read {
                    Ok(Ok(0)) => return Err(ReplicationError::Closed),
                    Ok(Ok(bytes)) => {
                        self.silence = Silence::default();
                        self.wakeups.read(self.silence.since, bytes);
                        return Ok(());
                    }
                    Ok(Err(error)) => return Err(error.into()),
                    Err(_) if collecting.is_some() || self.held => {
                        self.wakeups.overdue();
                        if self.held {
                            return Ok(());
                        }
                    }
                    Err(_) if self.silence.since.elapsed() >= self.dead_after => {
                        return Err(ReplicationError::Silent(self.dead_after));
                    }
                    Err(_) => shared.alive.beat(),
                },
                // The catalog changed: have the cached relations looked up again without waiting for bytes.
                changed = shared.tracking.changed() => {
                    changed.map_err(|_| ReplicationError::Closed)?;
                    shared.tracking.mark_changed();
                    return Ok(());
                }
            }
        }
    }
}

/// Decodes every whole message in `buffer`, and notes what else they say.
fn consume(
    scanner: &mut Scanner,
    buffer: &mut BytesMut,
    tap: &mut Tap,
    observer: &mut Observer,
    shared: &Shared,
    wanted: &Wanted,
    stuck: &mut Stuck,
) -> Result<Batch, ReplicationError> {
    let mut progress = *shared.progress.borrow();
    let batch = decode(scanner, buffer, tap, observer, &mut progress, |wal_end, reply_requested| {
        stuck.keepalive(wal_end, reply_requested);
        if reply_requested {
            wanted.reply.notify_one();
        }
    })?;
    shared.progress.send_if_modified(|known| {
        let changed = *known != progress;
        *known = progress;
        changed
    });
    Ok(batch)
}

/// What decoding a batch showed, marks apart.
#[derive(Debug)]
pub(crate) struct Batch {
    /// The stream ended in order.
    pub end: Option<End>,
    /// How old its newest commit was when the publisher sent the last message; `None` without a commit. Both times are
    /// of the publisher's clock.
    pub lag: Option<Duration>,
}

/// Decodes every whole message in `buffer`, and drops it from there: of a socket, or of a recorded stream. `keepalive`
/// is told the end of WAL, and whether a reply is wanted.
///
/// # Errors
/// What is no message, or may not come here; the publisher's error.
pub(crate) fn decode(
    scanner: &mut Scanner,
    buffer: &mut BytesMut,
    tap: &mut Tap,
    observer: &mut Observer,
    progress: &mut Progress,
    mut keepalive: impl FnMut(Lsn, bool),
) -> Result<Batch, ReplicationError> {
    let (mut end, mut sent_us) = (None, 0);
    let mut frames = scanner.scan(buffer);
    for frame in frames.by_ref() {
        let frame = frame?;
        match Backend::parse(frame)? {
            Backend::CopyData(body) => match Replication::parse(body)? {
                Replication::XLogData { start, wal_end, payload, server_time_us } => {
                    sent_us = server_time_us;
                    tap.feed_cut(payload, frame.rest, observer)?;
                    progress.received = progress.received.max(start);
                    progress.wal_end = progress.wal_end.max(wal_end);
                }
                Replication::Keepalive { wal_end, reply_requested, .. } => {
                    observer.keepalive(wal_end);
                    progress.received = progress.received.max(wal_end);
                    progress.wal_end = progress.wal_end.max(wal_end);
                    keepalive(wal_end, reply_requested);
                }
            },
            Backend::CopyDone => end = Some(End::Finished),
            Backend::Error(error) => return Err(ReplicationError::Server(error.to_error())),
            Backend::Notice(_) | Backend::ParameterStatus { .. } | Backend::CommandComplete { .. } => {}
            other => {
                let got = format!("{other:?}").chars().take(60).collect();
                return Err(ReplicationError::Unexpected { expected: "CopyData", got });
            }
        }
    }
    let consumed = frames.consumed();
    buffer.advance(consumed);
    progress.committed = observer.committed_up_to();
    let lag = observer.take_newest_commit().map(|commit_us| {
        Duration::from_micros(u64::try_from(sent_us.saturating_sub(commit_us)).unwrap_or(0))
    });
    Ok(Batch { end, lag })
}

/// Notices a publisher that waits for a confirmation that cannot come.
#[derive(Debug, Default)]
struct Stuck {
    requests: u32,
    wal_end: Lsn,
    since: Option<Instant>,
}

impl Stuck {
    fn keepalive(&mut self, wal_end: Lsn, reply_requested: bool) {
        if !reply_requested || wal_end != self.wal_end {
            *self = Stuck { requests: 0, wal_end, since: None };
        }
        if reply_requested {
            self.requests = self.requests.saturating_add(1);
            self.since.get_or_insert_with(Instant::now);
        }
    }

    fn is(&self, flush: FlushLsn) -> bool {
        self.requests >= STUCK_REQUESTS
            && flush.lsn() < self.wal_end
            && self.since.is_some_and(|since| since.elapsed() >= STUCK_AFTER)
    }
}

async fn write(
    socket: &mut WriteHalf<Socket>,
    mut flush: watch::Receiver<FlushLsn>,
    mut progress: watch::Receiver<Progress>,
    wanted: &Wanted,
    timing: Timing,
) -> End {
    let mut message = BytesMut::new();
    let mut interval = tokio::time::interval(timing.status_interval);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut last = Instant::now();
    loop {
        let mut ping = false;
        tokio::select! {
            () = wanted.reply.notified() => tokio::time::sleep_until(last + REPLY_GAP).await,
            () = wanted.ping.notified() => ping = true,
            changed = flush.changed() => {
                if changed.is_err() {
                    return End::Asked;
                }
                // Whoever asks meanwhile is answered at once all the same, and commits that wait for us are not kept.
                if timing.synchronous.is_none() {
                    tokio::select! {
                        () = tokio::time::sleep_until(last + STATUS_GAP) => {}
                        () = wanted.reply.notified() => {}
                    }
                }
            }
            changed = progress.changed(), if timing.synchronous.is_some() => {
                if changed.is_err() {
                    return End::Asked;
                }
            }
            _ = interval.tick() => {}
        }
        let now = *progress.borrow_and_update();
        let proven = *flush.borrow_and_update();
        let flushed = timing.synchronous.map_or(proven, |why| why.confirm(now.committed).max(proven));
        let status = StandbyStatus { reply_requested: ping, ..status(flushed, now) };
        message.clear();
        frontend::standby_status(&status, &mut message);
        let sent = async {
            socket.write_all(&message).await?;
            socket.flush().await
        };
        if let Err(error) = sent.await {
            return End::Failed(error.into());
        }
        last = Instant::now();
    }
}

pub(crate) fn status(flush: FlushLsn, progress: Progress) -> StandbyStatus {
    // Never past what this publisher has: a server may be another one after a fail-over.
    let flush = flush.lsn().min(progress.received.max(progress.wal_end).max(progress.committed));
    let since_1970 = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let client_time_us =
        i64::try_from(since_1970.as_micros()).unwrap_or(i64::MAX).saturating_sub(POSTGRES_EPOCH_US);
    StandbyStatus {
        write: progress.received.max(flush),
        flush,
        apply: flush,
        client_time_us,
        reply_requested: false,
    }
}

/// Says how far we are for the last time, and ends the stream as the protocol wants it.
pub(crate) async fn farewell(
    reading: &mut ReadHalf<Socket>,
    writing: &mut WriteHalf<Socket>,
    status: StandbyStatus,
) -> std::io::Result<()> {
    let mut message = BytesMut::new();
    frontend::standby_status(&status, &mut message);
    frontend::copy_done(&mut message);
    writing.write_all(&message).await?;
    writing.flush().await?;
    // The publisher answers with CopyDone once it has sent what it was about to send.
    let mut scanner = Scanner::new(Limits::default());
    let mut buffer = BytesMut::new();
    'reading: while reading.read_buf(&mut buffer).await? > 0 {
        let mut frames = scanner.scan(&buffer);
        while let Some(Ok(frame)) = frames.next() {
            if frame.tag == b'c' {
                break 'reading;
            }
        }
        let consumed = frames.consumed();
        buffer.advance(consumed);
    }
    message.clear();
    frontend::terminate(&mut message);
    writing.write_all(&message).await?;
    writing.shutdown().await
}
