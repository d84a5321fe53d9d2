//! Opening connections with libpq's meaning: hosts in turn, TLS as asked, authentication as allowed.
//!
//! In: a [`Conninfo`]. Out: a [`Session`], authenticated and ready for queries, for SQL (through
//! [`Session::into_sql`]) and replication alike; so everything about security exists once. It never retries by itself
//! beyond the hosts, addresses and ways of the connection string, and never logs a password.
//!
//! In data-flow order: `mod` walks over the hosts, `attempt` over the ways of one address, `dial` opens the stream
//! (`tls`, `verify`, `certificate`, `version1`), `startup` speaks the protocol (`message`, `auth`), `target` asks for the server's
//! role, `sql` hands the session to `tokio-postgres`, `cancel` stops a query.
//!
//! Where we differ from libpq, on purpose: a server that hangs up before it let us in counts as not reachable, so the
//! next host is tried (libpq stops there); and name resolution counts into `connect_timeout`.

mod attempt;
mod auth;
mod cancel;
mod certificate;
mod dial;
mod error;
mod low_water;
mod message;
mod socket;
mod sql;
mod startup;
mod target;
mod tls;
mod verify;
mod version1;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::seq::SliceRandom;

use crate::conninfo::{Conninfo, Endpoint, Host, LoadBalanceHosts};

pub use auth::AuthError;
pub use cancel::CancelHandle;
pub use error::{ConnectError, ConnectErrorKind, ProtocolError};
pub use low_water::LowWater;
pub use socket::Socket;
pub use sql::SqlConnection;

use attempt::{Failure, Then};
use dial::Address;
use startup::{Dialogue, Facts};
use target::TargetCheck;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// Queries.
    Sql,
    /// A walsender of one database (`replication=database`), which understands queries too.
    Replication,
}

/// An open, authenticated connection that is ready for queries.
#[derive(Debug)]
pub struct Session {
    socket: Socket,
    parameters: BTreeMap<String, String>,
    backend_pid: u32,
    cancel_key: Bytes,
    peer: String,
    address: Address,
    host_name: Option<String>,
    unread: BytesMut,
}

impl Session {
    fn new(dialogue: Dialogue, facts: Facts, peer: String, address: Address, host: &Host) -> Self {
        Session {
            socket: dialogue.socket,
            parameters: facts.parameters,
            backend_pid: facts.backend_pid,
            cancel_key: facts.cancel_key,
            peer,
            address,
            host_name: host.name.clone(),
            unread: dialogue.buffer,
        }
    }

    /// What the server reported (`server_version`, `in_hot_standby`, …).
    #[must_use]
    pub fn parameters(&self) -> &BTreeMap<String, String> {
        &self.parameters
    }

    /// One reported parameter.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's version as `server_version_num` has it (150018, 90624); `None` if it says nothing readable.
    #[must_use]
    pub fn server_version_num(&self) -> Option<u32> {
        self.parameter("server_version").and_then(version_num)
    }

    /// The process that serves us; 0 if the server did not say.
    #[must_use]
    pub fn backend_pid(&self) -> u32 {
        self.backend_pid
    }

    /// The key that a cancel request must show, with [`Session::backend_pid`].
    #[must_use]
    pub fn cancel_key(&self) -> &[u8] {
        &self.cancel_key
    }

    /// What is needed to cancel the session's running query later, from anywhere.
    #[must_use]
    pub fn cancel_handle(&self, conninfo: &Conninfo) -> CancelHandle {
        CancelHandle::new(self, conninfo)
    }

    /// Where we are connected to, for people: `db:5432 (10.0.0.7)` or the path of a socket.
    #[must_use]
    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_tls(&self) -> bool {
        self.socket.is_tls()
    }

    /// The stream and the bytes that were read past ReadyForQuery (notices that came early; usually none). They come
    /// first in the stream.
    pub fn into_parts(self) -> (Socket, BytesMut) {
        (self.socket, self.unread)
    }

    /// Hands the session to `tokio-postgres`: a client and the future that drives it.
    ///
    /// # Errors
    /// Only if `tokio-postgres` itself refuses what the server said at the start.
    pub async fn into_sql(self) -> Result<(tokio_postgres::Client, SqlConnection), tokio_postgres::Error> {
        sql::hand_over(self).await
    }
}

/// Opens a connection to the first host that fits.
///
/// # Errors
/// The failure that ended the search, with those before it; see [`ConnectError::kind`].
pub async fn connect(conninfo: &Conninfo, purpose: Purpose) -> Result<Session, ConnectError> {
    let mut failures = Vec::new();
    let mut hosts: Vec<&Host> = conninfo.hosts().iter().collect();
    let shuffle = conninfo.load_balance_hosts() == LoadBalanceHosts::Random;
    if shuffle {
        hosts.shuffle(&mut rand::rng());
    }
    for check in TargetCheck::rounds(conninfo.target_session_attrs()) {
        for host in &hosts {
            match connect_host(conninfo, host, shuffle, purpose, *check, &mut failures).await {
                Ok(session) => return Ok(session),
                Err(Then::Stop) => return Err(join(failures)),
                Err(Then::NextAddress | Then::NextHost) => {}
            }
        }
    }
    Err(join(failures))
}

fn join(mut failures: Vec<ConnectError>) -> ConnectError {
    match failures.pop() {
        Some(only) if failures.is_empty() => only,
        Some(last) => {
            failures.push(last);
            ConnectError::Several(failures)
        }
        None => ConnectError::Several(failures),
    }
}

/// Tries the addresses of one host; failures are added to the list.
async fn connect_host(
    conninfo: &Conninfo,
    host: &Host,
    shuffle: bool,
    purpose: Purpose,
    check: TargetCheck,
    failures: &mut Vec<ConnectError>,
) -> Result<Session, Then> {
    let limit = conninfo.connect_timeout();
    let timed_out = |after| ConnectError::Timeout { peer: host.to_string(), after };
    let mut addresses = match within(limit, resolve(host)).await {
        Some(Ok(addresses)) => addresses,
        Some(Err(error)) => {
            failures.push(error);
            return Err(Then::NextHost);
        }
        None => {
            failures.push(timed_out(limit.unwrap_or_default()));
            return Err(Then::NextHost);
        }
    };
    if shuffle {
        addresses.shuffle(&mut rand::rng());
    }
    for address in &addresses {
        let attempt = attempt::connect_address(conninfo, host, address, purpose, check);
        let then = match within(limit, attempt).await {
            Some(Ok(session)) => return Ok(session),
            Some(Err(Failure { error, then, .. })) => {
                failures.push(error);
                then
            }
            None => {
                failures.push(timed_out(limit.unwrap_or_default()));
                Then::NextAddress
            }
        };
        if then != Then::NextAddress {
            return Err(then);
        }
    }
    Err(Then::NextHost)
}

/// `None` if `limit` passed first.
async fn within<T>(limit: Option<Duration>, work: impl Future<Output = T>) -> Option<T> {
    match limit {
        Some(limit) => tokio::time::timeout(limit, work).await.ok(),
        None => Some(work.await),
    }
}

/// The addresses of a host, each once, in the resolver's order.
async fn resolve(host: &Host) -> Result<Vec<Address>, ConnectError> {
    let name = match &host.endpoint {
        Endpoint::Socket(_) => return Ok(host.socket_path().map(Address::Unix).into_iter().collect()),
        Endpoint::Name(name) | Endpoint::Address(name) => name,
    };
    let failed = |source| ConnectError::Resolve { host: name.clone(), source };
    let mut addresses: Vec<Address> = Vec::new();
    for address in tokio::net::lookup_host((name.as_str(), host.port)).await.map_err(failed)? {
        if !addresses.contains(&Address::Tcp(address)) {
            addresses.push(Address::Tcp(address));
        }
    }
    if addresses.is_empty() {
        return Err(failed(std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")));
    }
    Ok(addresses)
}

/// Reads `15.8 (Debian …)`, `9.6.24`, `19rc1` into libpq's number.
fn version_num(text: &str) -> Option<u32> {
    let digits = |text: &str| text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let mut numbers = Vec::new();
    let mut rest = text;
    while numbers.len() < 3 {
        let (number, after) = rest.split_at_checked(digits(rest))?;
        numbers.push(number.parse::<u32>().ok().filter(|number| *number < 1000)?);
        match after.strip_prefix('.') {
            Some(more) if more.starts_with(|c: char| c.is_ascii_digit()) => rest = more,
            _ => break,
        }
    }
    let number = match numbers.as_slice() {
        [major, minor, revision] => (major * 100 + minor) * 100 + revision,
        [major, minor] if *major >= 10 => major * 10000 + minor,
        [major, minor] => (major * 100 + minor) * 100,
        [major] => major * 10000,
        _ => return None,
    };
    Some(number)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_libpq_reads_them() {
        for (text, expected) in [
            ("15.18 (Debian 15.18-0+deb12u1)", Some(150_018)),
            ("19rc1", Some(190_000)),
            ("19~rc1 (Debian 19~rc1-1)", Some(190_000)),
            ("9.6.24", Some(90_624)),
            ("18devel", Some(180_000)),
            ("9.6beta1", Some(90_600)),
            ("", None),
            ("PostgreSQL", None),
            ("99999999999.1", None),
        ] {
            assert_eq!(version_num(text), expected, "{text}");
        }
    }
}
