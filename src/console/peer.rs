//! The socket of one client, with a deadline for everything and a bound on what is held.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::{Instant, timeout, timeout_at};

use super::frontend::{MESSAGE_MAX, Violation};

/// How long a client may take to say who it is.
const STARTUP_TIMEOUT: Duration = Duration::from_secs(5);
/// How long it may take from the first byte of a message to the last.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long it may say nothing between two messages.
const IDLE_TIMEOUT: Duration = Duration::from_secs(600);
/// How long it may take to read what we have for it.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);

/// What is written at once.
pub(super) const WRITE_BYTES: usize = 64 * 1024;
const READ_BYTES: usize = 8 * 1024;

/// Why a connection ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// It said so, or is gone.
    #[error("the client has left")]
    Left,
    #[error("terminating connection due to idle-session timeout")]
    Idle,
    #[error("the message was not whole in time")]
    Slow,
    #[error("the client does not read")]
    DoesNotRead,
    #[error(transparent)]
    Violation(#[from] Violation),
    #[error("an answer could not be encoded: {0}")]
    Encode(#[from] pgwire::error::PgWireError),
}

/// A client's socket.
#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    input: BytesMut,
    /// What is to be written.
    pub(super) out: BytesMut,
    /// When the startup must be done; `None` afterwards.
    startup_by: Option<Instant>,
}

impl Peer {
    pub(super) fn new(stream: UnixStream) -> Self {
        Peer {
            stream,
            input: BytesMut::new(),
            out: BytesMut::new(),
            startup_by: Some(Instant::now() + STARTUP_TIMEOUT),
        }
    }

    /// From now on the client may be idle.
    pub(super) fn started(&mut self) {
        self.startup_by = None;
    }

    /// The next message, as `read` finds it in the bytes. What was answered so far is written before it is waited for.
    pub(super) async fn next<T>(
        &mut self,
        read: impl Fn(&[u8]) -> Result<Option<(T, usize)>, Violation>,
    ) -> Result<T, End> {
        let mut begun: Option<Instant> = (!self.input.is_empty()).then(Instant::now);
        loop {
            if let Some((message, length)) = read(&self.input)? {
                self.input.advance(length.min(self.input.len()));
                return Ok(message);
            }
            self.flush().await?;
            let message_by = begun.map(|begun| begun + MESSAGE_TIMEOUT);
            let (by, end) = match (self.startup_by, message_by) {
                (Some(by), _) => (by, End::Slow),
                (None, Some(by)) => (by, End::Slow),
                (None, None) => (Instant::now() + IDLE_TIMEOUT, End::Idle),
            };
            // A message is refused by its length before it could be longer than this.
            let room = (MESSAGE_MAX + READ_BYTES).saturating_sub(self.input.len()).min(READ_BYTES);
            self.input.reserve(room);
            match timeout_at(by, self.stream.read_buf(&mut self.input)).await {
                Ok(Ok(0) | Err(_)) => return Err(End::Left),
                Ok(Ok(_)) => begun = begun.or_else(|| Some(Instant::now())),
                Err(_) => return Err(end),
            }
        }
    }

    /// Writes what is to be written.
    pub(super) async fn flush(&mut self) -> Result<(), End> {
        if self.out.is_empty() {
            return Ok(());
        }
        let written = timeout(WRITE_TIMEOUT, self.stream.write_all(&self.out)).await;
        self.out.clear();
        match written {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Left),
            Err(_) => Err(End::DoesNotRead),
        }
    }

    /// Writes if there is much.
    pub(super) async fn flush_if_full(&mut self) -> Result<(), End> {
        if self.out.len() >= WRITE_BYTES { self.flush().await } else { Ok(()) }
    }
}
