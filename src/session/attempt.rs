//! One address: the ways to connect that `sslmode` allows, in libpq's order.
//!
//! Goes in: a [`Host`] and one [`Address`] of it. Comes out: a [`Session`], or a [`Failure`] that says whether another
//! address or host is worth trying.

use super::auth::{AuthError, Authenticator, Channel};
use super::dial::{self, Address, Handshake};
use super::error::{CANNOT_CONNECT_NOW, ConnectError};
use super::startup::{Dialogue, Fault};
use super::target::{self, TargetCheck};
use super::{Purpose, Session, Socket};
use crate::conninfo::{Conninfo, Host, PassfileOutcome, SslCertMode, SslMode};

/// What to do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Then {
    /// Nobody answered: the next address may.
    NextAddress,
    /// This server is not ready or not the right one: its other addresses are the same server.
    NextHost,
    /// The server answered; another answer is not to be had by asking elsewhere.
    Stop,
}

#[derive(Debug)]
pub(super) struct Failure {
    pub error: ConnectError,
    pub then: Then,
    /// The same address may work with, or without, TLS.
    other_way: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    Plain,
    /// TLS if the server has it.
    TlsIfOffered,
    TlsOnly,
}

fn ways(mode: SslMode, address: &Address) -> &'static [Way] {
    match (address, mode) {
        // A Unix socket never has TLS; libpq ignores sslmode there, whatever it says.
        (Address::Unix(_), _) | (_, SslMode::Disable) => &[Way::Plain],
        (_, SslMode::Allow) => &[Way::Plain, Way::TlsIfOffered],
        (_, SslMode::Prefer) => &[Way::TlsIfOffered, Way::Plain],
        (_, SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull) => &[Way::TlsOnly],
    }
}

/// Tries one address in every way that is allowed.
pub(super) async fn connect_address(
    conninfo: &Conninfo,
    host: &Host,
    address: &Address,
    purpose: Purpose,
    check: TargetCheck,
) -> Result<Session, Failure> {
    let peer = describe(host, address);
    let mut earlier = Vec::new();
    let ways = ways(conninfo.tls().mode, address);
    for (index, way) in ways.iter().enumerate() {
        let attempt = Attempt { conninfo, host, address, peer: &peer, purpose, check };
        match attempt.run(*way).await {
            Ok(session) => return Ok(session),
            Err(failure) if failure.other_way && index + 1 < ways.len() => earlier.push(failure.error),
            Err(mut failure) => {
                if !earlier.is_empty() {
                    earlier.push(failure.error);
                    failure.error = ConnectError::Several(earlier);
                }
                return Err(failure);
            }
        }
    }
    Err(Failure { error: ConnectError::Several(earlier), then: Then::Stop, other_way: false })
}

/// `db:5432`, with the address where a name was resolved: `db:5432 (10.0.0.7)`.
fn describe(host: &Host, address: &Address) -> String {
    match address {
        Address::Tcp(address)
            if host.name.as_deref().is_some_and(|name| name != address.ip().to_string()) =>
        {
            format!("{host} ({})", address.ip())
        }
        _ => host.to_string(),
    }
}

struct Attempt<'a> {
    conninfo: &'a Conninfo,
    host: &'a Host,
    address: &'a Address,
    peer: &'a str,
    purpose: Purpose,
    check: TargetCheck,
}

/// A stream with what authentication must know of it.
struct Opened {
    socket: Socket,
    channel: Channel,
    /// Why `sslcertmode=require` is not met, if it is asked for.
    certificate_fault: Option<&'static str>,
}

impl Attempt<'_> {
    async fn run(&self, way: Way) -> Result<Session, Failure> {
        let opened = self.open(way).await?;
        let encrypted = opened.channel.encrypted;
        let password = match self.conninfo.password_for(self.host) {
            PassfileOutcome::Found(password) => Some(password),
            PassfileOutcome::Nothing => None,
            PassfileOutcome::Ignored(why) => {
                tracing::warn!("{why}");
                None
            }
        };
        let mut authenticator = Authenticator::new(
            self.conninfo.user(),
            password,
            self.conninfo.channel_binding(),
            self.conninfo.require_auth(),
            opened.channel,
        );
        let mut dialogue = Dialogue::new(opened.socket);
        let fault = |fault| self.startup_failure(fault, encrypted);
        dialogue.send_startup(self.conninfo, self.purpose).await.map_err(fault)?;
        dialogue.authenticate(&mut authenticator).await.map_err(fault)?;
        if let Some(reason) = opened.certificate_fault {
            return Err(fault(Fault::Auth(AuthError::ClientCertificate(reason))));
        }
        let facts = dialogue.read_facts().await.map_err(fault)?;
        if let Some(reason) = target::mismatch(&mut dialogue, &facts, self.check).await.map_err(fault)? {
            let error = ConnectError::NotWanted { peer: self.peer.to_owned(), reason };
            return Err(Failure { error, then: Then::NextHost, other_way: false });
        }
        Ok(Session::new(dialogue, facts, self.peer.to_owned(), self.address.clone(), self.host))
    }

    async fn open(&self, way: Way) -> Result<Opened, Failure> {
        let unreachable = |source| Failure {
            error: ConnectError::Unreachable { peer: self.peer.to_owned(), during: "connect", source },
            then: Then::NextAddress,
            other_way: false,
        };
        let demanded_certificate = self.conninfo.tls().certificate_mode == SslCertMode::Require;
        let plain = |socket| Opened {
            socket,
            channel: Channel::default(),
            certificate_fault: demanded_certificate.then_some("server did not request an SSL certificate"),
        };
        let stream = match self.address {
            Address::Unix(path) => {
                let stream = dial::open_unix(path).await.map_err(unreachable)?;
                self.check_peer(&stream)?;
                return Ok(plain(Socket::Unix(stream)));
            }
            Address::Tcp(address) => {
                dial::open_tcp(*address, self.conninfo.keepalive()).await.map_err(unreachable)?
            }
        };
        if way == Way::Plain {
            return Ok(plain(Socket::Tcp(stream)));
        }
        let demanded = way == Way::TlsOnly;
        let host = self.host.name.as_deref();
        let handshake = dial::encrypt(stream, self.conninfo.tls(), host, demanded, self.peer).await;
        match handshake {
            Ok(Handshake::Refused(stream)) => Ok(plain(Socket::Tcp(stream))),
            Ok(Handshake::Encrypted { socket, channel, certificate }) => {
                let certificate_fault = match (demanded_certificate, certificate.was_requested()) {
                    (true, false) => Some("server did not request an SSL certificate"),
                    (true, true) if !certificate.exists() => {
                        Some("server accepted connection without a valid SSL certificate")
                    }
                    _ => None,
                };
                Ok(Opened { socket, channel, certificate_fault })
            }
            Err(error) => {
                let hung_up = matches!(error, ConnectError::Unreachable { .. });
                let then = if hung_up { Then::NextAddress } else { Then::Stop };
                Err(Failure { error, then, other_way: self.conninfo.tls().mode == SslMode::Prefer })
            }
        }
    }

    /// Sorts a failure of the startup: libpq tries the other way only when the server said no before it knew us.
    fn startup_failure(&self, fault: Fault, encrypted: bool) -> Failure {
        let other_way = match (&fault, self.conninfo.tls().mode) {
            (Fault::Server { authenticated: false, .. }, SslMode::Prefer) => encrypted,
            (Fault::Server { authenticated: false, .. }, SslMode::Allow) => !encrypted,
            _ => false,
        };
        let then = match &fault {
            Fault::Io(_) => Then::NextAddress,
            Fault::Server { error, .. } if error.sqlstate == CANNOT_CONNECT_NOW => Then::NextHost,
            _ => Then::Stop,
        };
        Failure { error: fault.at(self.peer), then, other_way }
    }

    fn check_peer(&self, stream: &tokio::net::UnixStream) -> Result<(), Failure> {
        let Some(expected) = self.conninfo.require_peer() else {
            return Ok(());
        };
        let uid = stream.peer_cred().map(|credentials| credentials.uid());
        let name = uid.as_ref().ok().and_then(|uid| {
            nix::unistd::User::from_uid(nix::unistd::Uid::from_raw(*uid)).ok().flatten().map(|user| user.name)
        });
        let got = match (name, uid) {
            (Some(name), _) if name == expected => return Ok(()),
            (Some(name), _) => name,
            (None, Ok(uid)) => format!("uid {uid}"),
            (None, Err(error)) => format!("an unknown user ({error})"),
        };
        let error =
            ConnectError::WrongPeer { peer: self.peer.to_owned(), expected: expected.to_owned(), got };
        Err(Failure { error, then: Then::Stop, other_way: false })
    }
}
