//! Opens the stream itself: TCP or Unix socket, its options, and the TLS handshake.
//!
//! Goes in: one resolved address. Comes out: a [`Socket`]. It sends nothing but the request for TLS.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::Socket;
use super::auth::Channel;
use super::certificate::server_end_point;
use super::error::ConnectError;
use super::tls::{self, ClientCertificate};
use crate::conninfo::{Keepalive, SslNegotiation, TlsSettings};

/// One address of one host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What came of asking for TLS.
pub(super) enum Handshake {
    Encrypted {
        socket: Socket,
        channel: Channel,
        certificate: Arc<ClientCertificate>,
    },
    /// The server has no TLS; the stream can be used without.
    Refused(TcpStream),
}

pub(super) async fn open_tcp(address: SocketAddr, keepalive: Keepalive) -> io::Result<TcpStream> {
    let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_nodelay(true)?;
    let options = SockRef::from(&socket);
    if keepalive.enabled {
        let mut settings = TcpKeepalive::new();
        if let Some(idle) = keepalive.idle {
            settings = settings.with_time(idle);
        }
        if let Some(interval) = keepalive.interval {
            settings = settings.with_interval(interval);
        }
        if let Some(count) = keepalive.count {
            settings = settings.with_retries(count);
        }
        options.set_keepalive(true)?;
        options.set_tcp_keepalive(&settings)?;
    }
    #[cfg(target_os = "linux")]
    if keepalive.user_timeout.is_some() {
        options.set_tcp_user_timeout(keepalive.user_timeout)?;
    }
    socket.connect(address).await
}

/// Connects to a socket file, or to an abstract socket (`@name`, Linux).
pub(super) async fn open_unix(path: &Path) -> io::Result<UnixStream> {
    #[cfg(target_os = "linux")]
    if let Some(name) = path.as_os_str().as_encoded_bytes().strip_prefix(b"@") {
        use std::os::linux::net::SocketAddrExt;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(name)?;
        let stream = std::os::unix::net::UnixStream::connect_addr(&address)?;
        stream.set_nonblocking(true)?;
        return UnixStream::from_std(stream);
    }
    UnixStream::connect(path).await
}

/// Asks for TLS and does the handshake. `demanded` turns a server's "no" into an error.
pub(super) async fn encrypt(
    mut stream: TcpStream,
    settings: &TlsSettings,
    host: Option<&str>,
    demanded: bool,
    peer: &str,
) -> Result<Handshake, ConnectError> {
    let failed = |reason: String| ConnectError::Tls { peer: peer.to_owned(), reason };
    let setup = tls::setup(settings, host).map_err(failed)?;
    if settings.negotiation == SslNegotiation::Postgres {
        let answer = ask_for_tls(&mut stream).await.map_err(|source| ConnectError::Unreachable {
            peer: peer.to_owned(),
            during: "SSL negotiation",
            source,
        })?;
        match answer.as_slice() {
            b"S" => {}
            b"N" if demanded => {
                return Err(failed("server does not support SSL, but SSL was required".to_owned()));
            }
            b"N" => return Ok(Handshake::Refused(stream)),
            // The message that follows comes from nobody we know yet, so it is not shown.
            [b'E', ..] => return Err(failed("server sent an error response during SSL exchange".to_owned())),
            // Bytes after the answer were injected by somebody in between (CVE-2021-23222).
            [b'S' | b'N', ..] => {
                return Err(failed("received unencrypted data after SSL response".to_owned()));
            }
            _ => return Err(failed("received invalid response to SSL negotiation".to_owned())),
        }
    }
    let tls = TlsConnector::from(setup.config)
        .connect(setup.server_name, stream)
        .await
        .map_err(|error| failed(describe(&error)))?;
    let (_, connection) = tls.get_ref();
    if settings.negotiation == SslNegotiation::Direct && connection.alpn_protocol().is_none() {
        return Err(failed(
            "direct SSL connection was established without ALPN protocol negotiation extension".to_owned(),
        ));
    }
    let leaf = connection.peer_certificates().and_then(|chain| chain.first());
    let channel = Channel { encrypted: true, server_end_point: leaf.and_then(|leaf| server_end_point(leaf)) };
    Ok(Handshake::Encrypted { socket: Socket::Tls(Box::new(tls)), channel, certificate: setup.certificate })
}

/// Sends an SSLRequest and returns what is there when the answer is: one byte, unless somebody adds to it.
async fn ask_for_tls(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let mut request = BytesMut::new();
    frontend::ssl_request(&mut request);
    stream.write_all(&request).await?;
    let mut answer = Vec::with_capacity(16);
    let count = stream.read_buf(&mut answer).await?;
    if count == 0 {
        return Err(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            "server closed the connection unexpectedly",
        ));
    }
    Ok(answer)
}

/// What our own verifier says is said as it is; the rest is rustls'.
fn describe(error: &io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::General(reason)) => reason.clone(),
        _ => format!("SSL error: {error}"),
    }
}
