//! Hands an authenticated session to `tokio-postgres`.
//!
//! `tokio-postgres` wants to open its session itself. [`Handover`] plays the server for that one exchange: it swallows
//! the client's StartupMessage and answers with what the real server already told us. From then on bytes pass
//! unchanged. So TLS, authentication and every rule about them exist once, for SQL and replication alike.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::NoTls;
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::NoTlsStream;

use super::{Session, Socket};

/// Drives a client's connection; it ends when the client is dropped or the connection breaks.
#[must_use = "the client makes progress only while this is polled"]
pub struct SqlConnection {
    inner: tokio_postgres::Connection<Handover, NoTlsStream>,
}

impl SqlConnection {
    /// Waits for the next notice or notification while driving the connection; `None` at its end.
    pub fn poll_message(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<tokio_postgres::AsyncMessage, tokio_postgres::Error>>> {
        self.inner.poll_message(cx)
    }
}

impl Future for SqlConnection {
    type Output = Result<(), tokio_postgres::Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(message) = ready!(self.inner.poll_message(cx)?) {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                tracing::debug!(severity = notice.severity(), "{}", notice.message());
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl std::fmt::Debug for SqlConnection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SqlConnection").finish_non_exhaustive()
    }
}

/// Starts `tokio-postgres` on an open session.
pub(super) async fn hand_over(
    session: Session,
) -> Result<(tokio_postgres::Client, SqlConnection), tokio_postgres::Error> {
    let mut config = tokio_postgres::Config::new();
    // The startup that it sends is swallowed; it only must not ask the operating system for a name.
    config.ssl_mode(SslMode::Disable).user("handed-over");
    let stream = Handover::new(session);
    let (client, inner) = config.connect_raw(stream, NoTls).await?;
    Ok((client, SqlConnection { inner }))
}

/// What of the client's StartupMessage is still to be swallowed.
enum Swallow {
    /// Its length, as far as it has come.
    Length(BytesMut),
    Body(usize),
    Nothing,
}

struct Handover {
    socket: Socket,
    swallow: Swallow,
    playback: BytesMut,
}

impl Handover {
    fn new(session: Session) -> Self {
        let mut playback = BytesMut::new();
        put_message(&mut playback, b'R', &0_u32.to_be_bytes());
        for (name, value) in &session.parameters {
            put_message(&mut playback, b'S', format!("{name}\0{value}\0").as_bytes());
        }
        // The protocol we ask for (3.0) has keys of four bytes, and the client reads no others.
        if let Ok(secret) = <[u8; 4]>::try_from(session.cancel_key.as_ref()) {
            let mut body = session.backend_pid.to_be_bytes().to_vec();
            body.extend_from_slice(&secret);
            put_message(&mut playback, b'K', &body);
        }
        put_message(&mut playback, b'Z', b"I");
        playback.extend_from_slice(&session.unread);
        Handover { socket: session.socket, swallow: Swallow::Length(BytesMut::new()), playback }
    }

    /// How many bytes of `buf` belong to the StartupMessage.
    fn swallow(&mut self, buf: &[u8]) -> usize {
        let mut taken = 0;
        loop {
            let rest = buf.get(taken..).unwrap_or_default();
            self.swallow = match &mut self.swallow {
                Swallow::Length(bytes) => {
                    let part = rest.get(..rest.len().min(4 - bytes.len())).unwrap_or_default();
                    bytes.extend_from_slice(part);
                    taken += part.len();
                    if bytes.len() < 4 {
                        return taken;
                    }
                    Swallow::Body(usize::try_from(bytes.get_u32()).unwrap_or(usize::MAX).saturating_sub(4))
                }
                Swallow::Body(left) => {
                    let part = rest.len().min(*left);
                    taken += part;
                    *left -= part;
                    if *left > 0 {
                        return taken;
                    }
                    Swallow::Nothing
                }
                Swallow::Nothing => return taken,
            };
        }
    }
}

fn put_message(buffer: &mut BytesMut, tag: u8, body: &[u8]) {
    buffer.put_u8(tag);
    buffer.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
    buffer.put_slice(body);
}

impl AsyncRead for Handover {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.playback.is_empty() {
            return Pin::new(&mut self.socket).poll_read(cx, buf);
        }
        let part = self.playback.len().min(buf.remaining());
        let part = self.playback.split_to(part);
        buf.put_slice(&part);
        if self.playback.is_empty() {
            self.playback = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Handover {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.swallow(buf) {
            0 => Pin::new(&mut self.socket).poll_write(cx, buf),
            taken => Poll::Ready(Ok(taken)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
