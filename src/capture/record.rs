//! Records a stream until it is told to stop: reads what comes, answers who asks, confirms nothing.
//!
//! In: the socket after `START_REPLICATION`, and a [`CaptureWriter`]. Out: why it ended, and how far it had come. Every
//! status update carries the flush position 0/0, which the server takes for "nothing new": a slot keeps all that it
//! holds, whoever relies on it, and no commit counts us as a synchronous standby.

use std::io::{self, Write};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};
use tokio::time::{Instant, timeout};

use super::redact::{RedactError, Redactor};
use super::{CaptureWriter, WINDOW};
use crate::confirm::FlushLsn;
use crate::publisher::connection::ReplicationError;
use crate::publisher::stream::{FAREWELL, Progress, READ_BYTES, farewell, status};
use crate::session::Socket;
use crate::types::Lsn;
use crate::wire::{Backend, Limits, Reader, Replication, Scanner, StandbyStatus, frontend};

/// What was recorded is in the file after this time, whatever happens to us.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// The shortest time between two answers to keepalives: a publisher that shuts down asks 35,000 times a second.
const REPLY_GAP: Duration = Duration::from_millis(10);

/// When to end. What is `None` does not end it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stop {
    /// Every transaction that is committed up to here is recorded.
    pub until: Option<Lsn>,
    pub after: Option<Duration>,
    /// Messages of pgoutput.
    pub messages: Option<u64>,
    /// Bytes of the file.
    pub size: Option<u64>,
    /// Bytes of WAL that the publisher keeps for us.
    pub retained: Option<u64>,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    Until,
    After,
    Messages,
    Size,
    /// The publisher would keep more WAL than it may.
    Retained,
    /// Somebody asked for it.
    Asked,
}

/// How long to wait for whom.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub status_interval: Duration,
    /// Half of it without a byte, and we ask; the whole of it, and the peer is dead.
    pub dead_after: Duration,
}

/// Why a recording failed. What was recorded before is in the file.
#[derive(Debug, thiserror::Error)]
pub enum RecordError {
    #[error(transparent)]
    Replication(#[from] ReplicationError),
    #[error("the publisher ended the stream")]
    Finished,
    #[error("a message of the stream is not understood, so it cannot be redacted: {0}")]
    Redact(#[from] RedactError),
    #[error(transparent)]
    Write(#[from] io::Error),
}

/// How far it came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recorded {
    /// Messages of pgoutput.
    pub messages: u64,
    /// The end of what was heard of.
    pub received: Lsn,
    /// The end of the last commit, or of what a keepalive said between transactions.
    pub committed: Lsn,
}

/// Records from `socket`, of which `received` was read already, until `stop` or `asked` says so.
pub async fn record<W: Write>(
    socket: Socket,
    received: BytesMut,
    writer: &mut CaptureWriter<W>,
    redactor: Option<Redactor>,
    stop: Stop,
    pace: Pace,
    asked: impl Future<Output = ()>,
) -> (Result<Reason, RecordError>, Recorded) {
    let (mut reading, mut writing) = tokio::io::split(socket);
    let now = Instant::now();
    let mut recording = Recording {
        writer,
        redactor,
        redacted: Vec::new(),
        stop,
        begun: now,
        last_record: now,
        at: Recorded::default(),
        first: Lsn::ZERO,
        inside: false,
        reply: false,
    };
    let ended = {
        let run = recording.run(&mut reading, &mut writing, received, pace);
        tokio::select! {
            ended = run => ended,
            () = asked => Ok(Reason::Asked),
        }
    };
    if ended.is_ok() {
        let status = recording.status(false);
        let _ = timeout(FAREWELL, farewell(&mut reading, &mut writing, status)).await;
    }
    (ended, recording.at)
}

struct Recording<'a, W> {
    writer: &'a mut CaptureWriter<W>,
    redactor: Option<Redactor>,
    redacted: Vec<u8>,
    stop: Stop,
    begun: Instant,
    last_record: Instant,
    at: Recorded,
    /// The first position that was heard of.
    first: Lsn,
    /// Of a transaction, or of a piece of one.
    inside: bool,
    /// The publisher asked for one.
    reply: bool,
}

impl<W: Write> Recording<'_, W> {
    async fn run(
        &mut self,
        reading: &mut ReadHalf<Socket>,
        writing: &mut WriteHalf<Socket>,
        mut buffer: BytesMut,
        pace: Pace,
    ) -> Result<Reason, RecordError> {
        // Longer messages are passed over from there on.
        let mut scanner = Scanner::new(Limits { window: WINDOW, ..Limits::default() });
        let (mut heard, mut said, mut flushed) = (Instant::now(), Instant::now(), Instant::now());
        loop {
            if let Some(reason) = self.take(&mut scanner, &mut buffer)? {
                return Ok(reason);
            }
            if flushed.elapsed() >= FLUSH_INTERVAL {
                self.writer.flush()?;
                flushed = Instant::now();
            }
            // Only a sign of life shows an idle publisher's position.
            let ask = heard.elapsed() >= pace.dead_after / 2 || self.stop.until.is_some();
            let interval = if ask { FLUSH_INTERVAL } else { pace.status_interval };
            let due = if self.reply { REPLY_GAP } else { interval };
            if said.elapsed() >= due {
                self.say(writing, ask).await?;
                said = Instant::now();
                continue;
            }
            let left = due.saturating_sub(said.elapsed()).min(FLUSH_INTERVAL);
            let left =
                self.stop.after.map_or(left, |after| left.min(after.saturating_sub(self.begun.elapsed())));
            buffer.reserve(READ_BYTES);
            match timeout(left.max(Duration::from_millis(1)), reading.read_buf(&mut buffer)).await {
                Ok(Ok(0)) => return Err(ReplicationError::Closed.into()),
                Ok(Ok(_)) => heard = Instant::now(),
                Ok(Err(error)) => return Err(ReplicationError::Io(error).into()),
                Err(_) if heard.elapsed() >= pace.dead_after => {
                    return Err(ReplicationError::Silent(pace.dead_after).into());
                }
                Err(_) => {}
            }
        }
    }

    /// Records every whole message in `buffer`.
    fn take(&mut self, scanner: &mut Scanner, buffer: &mut BytesMut) -> Result<Option<Reason>, RecordError> {
        let mut frames = scanner.scan(buffer);
        let mut reason = self.is_over();
        while reason.is_none()
            && let Some(frame) = frames.next()
        {
            let frame = frame.map_err(ReplicationError::from)?;
            match Backend::parse(frame).map_err(ReplicationError::from)? {
                Backend::CopyData(body) => {
                    self.copy_data(body, frame.rest)?;
                    reason = self.is_over();
                }
                Backend::CopyDone => return Err(RecordError::Finished),
                Backend::Error(error) => return Err(ReplicationError::Server(error.to_error()).into()),
                Backend::Notice(_) | Backend::ParameterStatus { .. } | Backend::CommandComplete { .. } => {}
                other => {
                    let got = format!("{other:?}").chars().take(60).collect();
                    return Err(ReplicationError::Unexpected { expected: "CopyData", got }.into());
                }
            }
        }
        let consumed = frames.consumed();
        buffer.advance(consumed);
        Ok(reason)
    }

    fn copy_data(&mut self, body: &[u8], rest: usize) -> Result<(), RecordError> {
        let now = Instant::now();
        let micros = now.duration_since(self.last_record).as_micros();
        let micros = u32::try_from(micros).unwrap_or(u32::MAX);
        let kept = match &mut self.redactor {
            Some(redactor) => {
                redactor.redact(body, rest, &mut self.redacted)?;
                &self.redacted
            }
            None => body,
        };
        self.writer.record(micros, kept, rest)?;
        self.last_record = now;
        match Replication::parse(body).map_err(ReplicationError::from)? {
            Replication::XLogData { start, wal_end, payload, .. } => {
                self.at.messages = self.at.messages.saturating_add(1);
                self.heard(start.max(wal_end));
                self.see(payload);
            }
            Replication::Keepalive { wal_end, reply_requested, .. } => {
                self.heard(wal_end);
                if !self.inside {
                    self.at.committed = self.at.committed.max(wal_end);
                }
                self.reply |= reply_requested;
            }
        }
        Ok(())
    }

    fn heard(&mut self, lsn: Lsn) {
        self.at.received = self.at.received.max(lsn);
        if self.first == Lsn::ZERO {
            self.first = lsn;
        }
    }

    /// Where transactions begin and end.
    fn see(&mut self, payload: &[u8]) {
        match payload.first() {
            Some(b'B' | b'S' | b'b') => self.inside = true,
            Some(b'E' | b'P') => self.inside = false,
            Some(b'C') => {
                self.inside = false;
                self.commit(payload, 10);
            }
            // A transaction id comes before.
            Some(b'c') => self.commit(payload, 14),
            _ => {}
        }
    }

    /// The end of a commit stands at this byte.
    fn commit(&mut self, payload: &[u8], at: usize) {
        let end = payload.get(at..).and_then(|rest| Reader::new(rest).u64().ok());
        self.at.committed = self.at.committed.max(Lsn(end.unwrap_or(0)));
    }

    fn is_over(&self) -> Option<Reason> {
        let Stop { until, after, messages, size, retained } = self.stop;
        let kept = self.at.received.bytes_since(self.first);
        if until.is_some_and(|until| self.at.committed >= until) {
            Some(Reason::Until)
        } else if messages.is_some_and(|messages| self.at.messages >= messages) {
            Some(Reason::Messages)
        } else if after.is_some_and(|after| self.begun.elapsed() >= after) {
            Some(Reason::After)
        } else if size.is_some_and(|size| self.writer.file_bytes() >= size) {
            Some(Reason::Size)
        } else if retained.is_some_and(|retained| kept > retained) {
            Some(Reason::Retained)
        } else {
            None
        }
    }

    async fn say(&mut self, writing: &mut WriteHalf<Socket>, ask: bool) -> Result<(), RecordError> {
        self.reply = false;
        let mut message = BytesMut::new();
        frontend::standby_status(&self.status(ask), &mut message);
        let sent = async {
            writing.write_all(&message).await?;
            writing.flush().await
        };
        sent.await.map_err(|error| ReplicationError::Io(error).into())
    }

    /// Without a proven position: nothing is confirmed.
    fn status(&self, ask: bool) -> StandbyStatus {
        let Recorded { received, committed, .. } = self.at;
        let progress = Progress { received, wal_end: received, committed };
        StandbyStatus { reply_requested: ask, ..status(FlushLsn::default(), progress) }
    }
}
