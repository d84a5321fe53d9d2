//! What happens on a socket after `START_REPLICATION`: a list of steps is played, and what the client says is noted.

use super::{Seen, Shared, Status};
use bytes::{BufMut as _, Bytes, BytesMut};
use seqshadow::types::Lsn;
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One thing that the publisher does.
#[derive(Clone, Debug)]
pub enum Step {
    /// A message of the output plugin, in an XLogData (`w`) frame.
    XLogData { start: Lsn, end: Lsn, payload: Bytes },
    /// A primary keepalive (`k`).
    Keepalive { wal_end: Lsn, reply_requested: bool },
    /// CopyData with this content, whatever it is.
    CopyData(Bytes),
    /// These bytes, as they are: half a message, garbage, a message of another protocol.
    Raw(Bytes),
    /// An error message, with its SQLSTATE.
    Error { code: &'static str, message: &'static str },
    /// Nothing for so long.
    Wait(Duration),
    /// Nothing until the client has confirmed this, and then the rest.
    UntilFlushed(Lsn),
    /// Nothing until the client has sent so many status updates on this stream.
    UntilStatuses(usize),
    /// The end of the stream (`CopyDone`).
    CopyDone,
    /// These steps over and over.
    Forever(Vec<Step>),
    /// Nothing more, with the connection open until the client leaves. A script that just ends closes the connection.
    Hold,
}

impl Step {
    /// An XLogData frame at one position.
    #[must_use]
    pub fn at(lsn: Lsn, payload: impl Into<Bytes>) -> Step {
        Step::XLogData { start: lsn, end: lsn, payload: payload.into() }
    }

    /// The bytes that go out, for the steps that send some.
    #[must_use]
    pub fn bytes(&self) -> Option<Bytes> {
        let mut body = BytesMut::new();
        let kind = match self {
            Step::XLogData { start, end, payload } => {
                body.put_u8(b'w');
                body.put_u64(start.0);
                body.put_u64(end.0);
                body.put_i64(0); // the server's clock, microseconds since 2000
                body.put_slice(payload);
                b'd'
            }
            Step::Keepalive { wal_end, reply_requested } => {
                body.put_u8(b'k');
                body.put_u64(wal_end.0);
                body.put_i64(0);
                body.put_u8(u8::from(*reply_requested));
                b'd'
            }
            Step::CopyData(content) => {
                body.put_slice(content);
                b'd'
            }
            Step::Error { code, message } => {
                for (field, value) in [(b'S', "ERROR"), (b'V', "ERROR"), (b'C', *code), (b'M', *message)] {
                    body.put_u8(field);
                    body.put_slice(value.as_bytes());
                    body.put_u8(0);
                }
                body.put_u8(0);
                b'E'
            }
            Step::CopyDone => b'c',
            Step::Raw(bytes) => return Some(bytes.clone()),
            _ => return None,
        };
        Some(message(kind, &body))
    }
}

/// A message: its kind, its length, its body.
fn message(kind: u8, body: &[u8]) -> Bytes {
    let mut message = BytesMut::with_capacity(body.len() + 5);
    message.put_u8(kind);
    message.put_u32(u32::try_from(body.len() + 4).expect("a message of a test is short"));
    message.put_slice(body);
    message.freeze()
}

/// Answers `START_REPLICATION` and plays its script; `early` is what the client had already sent after it.
pub(super) async fn play(
    mut socket: TcpStream,
    early: BytesMut,
    sql: &str,
    shared: &Shared,
) -> io::Result<()> {
    let (stream, steps) = shared.next_stream(sql);
    // CopyBothResponse: text format, no columns.
    socket.write_all(&message(b'W', &[0, 0, 0])).await?;
    let (read, mut write) = socket.split();
    tokio::select! {
        played = play_steps(&steps, stream, &mut write, shared) => played,
        heard = listen(read, early, stream, shared) => heard,
    }
}

async fn play_steps(
    steps: &[Step],
    stream: usize,
    write: &mut tokio::net::tcp::WriteHalf<'_>,
    shared: &Shared,
) -> io::Result<()> {
    for step in steps {
        if let Some(bytes) = step.bytes() {
            write.write_all(&bytes).await?;
            continue;
        }
        let of_this = |status: &&Status| status.stream == stream;
        match step {
            Step::Wait(duration) => tokio::time::sleep(*duration).await,
            Step::UntilFlushed(lsn) => {
                let flushed =
                    |seen: &Seen| seen.statuses.iter().filter(of_this).any(|status| status.flush >= *lsn);
                until(shared, flushed).await;
            }
            Step::UntilStatuses(count) => {
                until(shared, |seen| seen.statuses.iter().filter(of_this).count() >= *count).await;
            }
            Step::Forever(steps) => loop {
                Box::pin(play_steps(steps, stream, write, shared)).await?;
                tokio::task::yield_now().await;
            },
            _ => std::future::pending().await,
        }
    }
    Ok(())
}

async fn until(shared: &Shared, so: impl Fn(&Seen) -> bool) {
    while !so(&shared.seen()) {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Notes what the client says, until it leaves.
async fn listen(
    mut read: impl AsyncRead + Unpin,
    mut buffer: BytesMut,
    stream: usize,
    shared: &Shared,
) -> io::Result<()> {
    loop {
        while let Some((kind, body)) = take_message(&mut buffer) {
            match (kind, status(&body, stream)) {
                (b'd', Some(status)) => shared.seen().statuses.push(status),
                (b'd', None) => shared.seen().other_copy_data.push(body.to_vec()),
                (b'c', _) => shared.seen().copy_done += 1,
                (b'X', _) => return Ok(()),
                _ => {}
            }
        }
        if read.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
    }
}

fn take_message(buffer: &mut BytesMut) -> Option<(u8, Bytes)> {
    let (&kind, rest) = buffer.split_first()?;
    let length = u32::from_be_bytes(*rest.first_chunk()?) as usize;
    if rest.len() < length || length < 4 {
        return None;
    }
    let message = buffer.split_to(length + 1).freeze();
    Some((kind, message.slice(5..)))
}

/// A standby status update: `r`, three positions, a clock, a flag (manual, "Streaming Replication Protocol").
fn status(body: &[u8], stream: usize) -> Option<Status> {
    let position = |at: usize| Some(Lsn(u64::from_be_bytes(*body.get(at..)?.first_chunk()?)));
    if body.first() != Some(&b'r') || body.len() != 34 {
        return None;
    }
    Some(Status {
        stream,
        write: position(1)?,
        flush: position(9)?,
        apply: position(17)?,
        reply_requested: body.last() == Some(&1),
    })
}
