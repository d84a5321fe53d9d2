//! Cancel requests: asks the server, over a connection of its own, to stop what a session is doing.
//!
//! Goes in: what the session was told at its start. Comes out: nothing; the server does not say whether there was anything
//! to stop. The request goes to the same address, and with TLS if the session has TLS.

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::dial::{self, Address, Handshake};
use super::error::ConnectError;
use super::{Session, Socket, within};
use crate::conninfo::Conninfo;

/// The code of a CancelRequest (manual, "Message Formats").
const CANCEL_REQUEST: u32 = 80_877_102;

/// Cancels the query of one session.
#[derive(Clone)]
pub struct CancelHandle {
    address: Address,
    host_name: Option<String>,
    peer: String,
    encrypted: bool,
    conninfo: Conninfo,
    backend_pid: u32,
    key: Bytes,
}

impl CancelHandle {
    pub(super) fn new(session: &Session, conninfo: &Conninfo) -> Self {
        CancelHandle {
            address: session.address.clone(),
            host_name: session.host_name.clone(),
            peer: session.peer.clone(),
            encrypted: session.is_tls(),
            conninfo: conninfo.clone(),
            backend_pid: session.backend_pid,
            key: session.cancel_key.clone(),
        }
    }

    /// Sends the request and waits until the server has taken it.
    ///
    /// # Errors
    /// If the server cannot be reached, within `connect_timeout` if there is one.
    pub async fn cancel(&self) -> Result<(), ConnectError> {
        let limit = self.conninfo.connect_timeout();
        within(limit, self.send()).await.unwrap_or_else(|| {
            Err(ConnectError::Timeout { peer: self.peer.clone(), after: limit.unwrap_or_default() })
        })
    }

    async fn send(&self) -> Result<(), ConnectError> {
        let failed =
            |source| ConnectError::Unreachable { peer: self.peer.clone(), during: "cancel request", source };
        let mut socket = match &self.address {
            Address::Unix(path) => Socket::Unix(dial::open_unix(path).await.map_err(failed)?),
            Address::Tcp(address) => {
                let stream = dial::open_tcp(*address, self.conninfo.keepalive()).await.map_err(failed)?;
                if self.encrypted {
                    let name = self.host_name.as_deref();
                    match dial::encrypt(stream, self.conninfo.tls(), name, true, &self.peer).await? {
                        Handshake::Encrypted { socket, .. } => socket,
                        Handshake::Refused(stream) => Socket::Tcp(stream),
                    }
                } else {
                    Socket::Tcp(stream)
                }
            }
        };
        let mut request = BytesMut::new();
        request.put_u32(u32::try_from(12 + self.key.len()).unwrap_or(u32::MAX));
        request.put_u32(CANCEL_REQUEST);
        request.put_u32(self.backend_pid);
        request.put_slice(&self.key);
        socket.write_all(&request).await.map_err(failed)?;
        socket.flush().await.map_err(failed)?;
        // The server hangs up when it has passed the request on; how it does so says nothing.
        let _ = socket.read(&mut [0_u8; 16]).await;
        Ok(())
    }
}

impl fmt::Debug for CancelHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelHandle")
            .field("peer", &self.peer)
            .field("backend_pid", &self.backend_pid)
            .finish_non_exhaustive()
    }
}
