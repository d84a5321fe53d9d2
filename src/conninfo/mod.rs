//! Connection strings with libpq's meaning; no sockets.
//!
//! In: a connection string (`host=… dbname=…` or `postgresql://…`) and its [`Environment`]. Out: a [`Conninfo`], which
//! [`session::connect`](crate::session::connect) opens. The order of precedence is libpq's: connection string, service
//! file, environment variable, default. Passwords are kept as secrets: no `Debug`, `Display` or error shows one.
//!
//! Where we are stricter than libpq, on purpose:
//! - a setting that we cannot honour and that makes a connection safer (`gssencmode=require`, …) is an error, and so is
//!   a revocation list that was named and cannot be read;
//! - a database name or host that must be a misplaced password (`user:secret@host` without `postgresql://`) is refused;
//! - every port and number is checked at once, not when its host is tried.
//!
//! `client_encoding`, `replication`, `PGDATESTYLE`, `PGTZ` and `PGGEQO` are read by nobody: this program sets what its
//! sessions need.

mod environment;
mod error;
mod hosts;
mod keyvalue;
mod keywords;
mod options;
mod passfile;
mod redact;
mod service;
mod settings;
#[cfg(test)]
mod tests;
mod typed;
mod uri;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::SecretString;

pub use environment::Environment;
pub use error::ConninfoError;
pub use hosts::{DEFAULT_PORT, Endpoint, Host};
pub use passfile::PassfileOutcome;
pub use settings::{
    AuthMethod, ChannelBinding, GssEncMode, LoadBalanceHosts, RequireAuth, SslCertMode, SslMode,
    SslNegotiation, TargetSessionAttrs, TlsVersion,
};

use passfile::PassfileKey;

/// What a connection string names itself.
#[derive(Debug)]
pub(crate) struct Named {
    /// Keywords and values that may be shown.
    pub open: Vec<(&'static str, String)>,
    /// Keywords whose values may not.
    pub secret: Vec<&'static str>,
}

/// What is named in `text`, without what service files and the environment add.
///
/// # Errors
/// As [`Conninfo::parse`].
pub(crate) fn named(text: &str) -> Result<Named, ConninfoError> {
    let mut named = Named { open: Vec::new(), secret: Vec::new() };
    for (keyword, value) in read(text)?.filled_ones() {
        if keywords::find(keyword).is_none_or(|row| row.secret) {
            named.secret.push(keyword);
        } else {
            named.open.push((keyword, value.to_owned()));
        }
    }
    Ok(named)
}

/// A URI, keywords and values, or else a bare database name.
fn read(text: &str) -> Result<options::Options, ConninfoError> {
    if let Some(rest) = uri::strip_prefix(text) {
        return uri::parse(rest);
    }
    if text.contains('=') || text.is_empty() {
        return keyvalue::parse(text);
    }
    if redact::has_credentials(text) {
        let reason = "a URI starts with postgresql:// or postgres://".to_owned();
        return Err(ConninfoError::Uri { reason });
    }
    let mut options = options::Options::default();
    options.set("dbname", text.to_owned())?;
    Ok(options)
}

/// Everything needed to open a connection, checked and with its defaults filled in.
#[derive(Clone)]
pub struct Conninfo {
    hosts: Vec<Host>,
    user: String,
    dbname: String,
    password: Option<SecretString>,
    passfile: Option<PathBuf>,
    socket_directory: PathBuf,
    options: Option<String>,
    application_name: Option<String>,
    fallback_application_name: Option<String>,
    connect_timeout: Option<Duration>,
    keepalive: Keepalive,
    tls: TlsSettings,
    channel_binding: ChannelBinding,
    require_auth: RequireAuth,
    require_peer: Option<String>,
    target_session_attrs: TargetSessionAttrs,
    load_balance_hosts: LoadBalanceHosts,
}

/// TCP keepalive settings; an absent one leaves the system's default.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether keepalives are sent at all.
    pub enabled: bool,
    /// Silence before the first one.
    pub idle: Option<Duration>,
    /// Time between them.
    pub interval: Option<Duration>,
    /// How many may go unanswered.
    pub count: Option<u32>,
    /// How long sent data may stay unacknowledged.
    pub user_timeout: Option<Duration>,
}

/// Where the trusted root certificates come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// A file; absent, it makes verify-ca and verify-full fail and the other modes not verify. `None` without a home.
    File(Option<PathBuf>),
    /// The system's (`sslrootcert=system`).
    System,
}

/// Where certificate revocation lists are read from; every certificate of a verified chain must then be on good standing
/// by the list of its issuer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RevocationLists {
    /// `~/.postgresql/root.crl`, if it exists. `None` without a home.
    Default(Option<PathBuf>),
    /// `sslcrl` and `sslcrldir`; what is named must be there.
    Named {
        /// `sslcrl`.
        file: Option<PathBuf>,
        /// `sslcrldir`: every file in it is read.
        directory: Option<PathBuf>,
    },
}

/// All that concerns TLS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsSettings {
    /// Whether TLS is used and how the server is verified.
    pub mode: SslMode,
    /// How TLS begins.
    pub negotiation: SslNegotiation,
    /// What certificate chains must lead to.
    pub roots: RootCertificates,
    /// Lists of certificates that are not to be trusted any more.
    pub revocation: RevocationLists,
    /// Whether a client certificate may or must be sent.
    pub certificate_mode: SslCertMode,
    /// The client's certificate; a file that does not exist means without.
    pub certificate: Option<PathBuf>,
    /// The key of the client's certificate.
    pub key: Option<PathBuf>,
    /// Whether the server is told the host name in the handshake.
    pub send_host_name: bool,
    /// The oldest version of TLS.
    pub version_min: Option<TlsVersion>,
    /// The newest version of TLS.
    pub version_max: Option<TlsVersion>,
}

impl Conninfo {
    /// Reads a connection string, as `psql -d` does: a URI, keywords and values, or else a bare database name. An empty
    /// text takes everything from `env`.
    ///
    /// Service files are read here; the password file only when connecting, so that a new password in it is found.
    ///
    /// # Errors
    /// What libpq refuses, and what we cannot honour (see the module's text). The text is never repeated where it may
    /// hold a password.
    pub fn parse(text: &str, env: &Environment) -> Result<Conninfo, ConninfoError> {
        let mut options = read(text)?;
        service::apply(&mut options, env)?;
        for row in keywords::KEYWORDS {
            if let Some(value) = row.env.and_then(|name| env.variable(name)) {
                options.set_if_absent(row, value.to_owned());
            }
        }
        if env.variable("PGREQUIRESSL").is_some_and(|value| value.starts_with('1')) {
            // The oldest way to ask for TLS; still honoured where nothing newer says otherwise.
            options.set_default("sslmode", "require");
        }
        typed::build(&options, env)
    }

    /// The servers, in the order given; at least one.
    #[must_use]
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to connect as; empty only if the connection string says so.
    #[must_use]
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database to connect to.
    #[must_use]
    pub fn dbname(&self) -> &str {
        &self.dbname
    }

    /// Connects to another database of the same servers.
    pub fn set_dbname(&mut self, dbname: impl Into<String>) {
        self.dbname = dbname.into();
    }

    /// Command-line options for the server process (`options`).
    #[must_use]
    pub fn options(&self) -> Option<&str> {
        self.options.as_deref()
    }

    /// Adds to `options`, for example `-c synchronous_commit=local`; what comes last wins on the server.
    pub fn append_options(&mut self, more: &str) {
        match &mut self.options {
            Some(options) if !options.is_empty() => {
                options.push(' ');
                options.push_str(more);
            }
            options => *options = Some(more.to_owned()),
        }
    }

    /// What the server shows as `application_name`; an explicitly empty one is not replaced by the fallback.
    #[must_use]
    pub fn application_name(&self) -> Option<&str> {
        let name = self.application_name.as_deref().or(self.fallback_application_name.as_deref());
        name.filter(|name| !name.is_empty())
    }

    /// Sets `application_name`, whatever the connection string says.
    pub fn set_application_name(&mut self, name: impl Into<String>) {
        self.application_name = Some(name.into());
    }

    /// Sets the `application_name` that is used when the connection string gives none.
    pub fn set_fallback_application_name(&mut self, name: impl Into<String>) {
        self.fallback_application_name.get_or_insert(name.into());
    }

    /// How long one address may take; `None` is without limit.
    #[must_use]
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// Sets the time that one address may take where the connection string gives none.
    pub fn set_default_connect_timeout(&mut self, timeout: Duration) {
        self.connect_timeout.get_or_insert(timeout);
    }

    /// TCP keepalive settings.
    #[must_use]
    pub fn keepalive(&self) -> Keepalive {
        self.keepalive
    }

    /// TLS settings.
    #[must_use]
    pub fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    /// Whether SCRAM must be bound to the TLS channel.
    #[must_use]
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// Which authentication the server may ask for.
    #[must_use]
    pub fn require_auth(&self) -> &RequireAuth {
        &self.require_auth
    }

    /// The operating system user that the server's end of a Unix socket must run as.
    #[must_use]
    pub fn require_peer(&self) -> Option<&str> {
        self.require_peer.as_deref()
    }

    /// Which role or state the server must have.
    #[must_use]
    pub fn target_session_attrs(&self) -> TargetSessionAttrs {
        self.target_session_attrs
    }

    /// Changes which role or state the server must have.
    pub fn set_target_session_attrs(&mut self, wanted: TargetSessionAttrs) {
        self.target_session_attrs = wanted;
    }

    /// Whether hosts are tried in random order.
    #[must_use]
    pub fn load_balance_hosts(&self) -> LoadBalanceHosts {
        self.load_balance_hosts
    }

    /// The password given by the connection string, a service file or `PGPASSWORD`.
    #[must_use]
    pub fn password(&self) -> Option<&SecretString> {
        self.password.as_ref()
    }

    /// Sets the password, for example one that was read from a file.
    pub fn set_password(&mut self, password: SecretString) {
        self.password = Some(password);
    }

    /// The password for one host: the one given, else what the password file says now.
    #[must_use]
    pub fn password_for(&self, host: &Host) -> PassfileOutcome {
        if let Some(password) = &self.password {
            return PassfileOutcome::Found(password.clone());
        }
        let Some(path) = &self.passfile else {
            return PassfileOutcome::Nothing;
        };
        let key = PassfileKey {
            host: &host.passfile_host(&self.socket_directory),
            port: host.port,
            dbname: &self.dbname,
            user: &self.user,
        };
        passfile::look_up(path, key)
    }

    /// The password file that is asked when no password is given.
    #[must_use]
    pub fn passfile(&self) -> Option<&Path> {
        self.passfile.as_deref()
    }
}

/// What is connected to, for people: `dbname=shop user=app host=db:5432,db2:5432 sslmode=prefer`. Never a password.
impl fmt::Display for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hosts: Vec<String> = self.hosts.iter().map(ToString::to_string).collect();
        write!(f, "dbname={} user={} host={}", self.dbname, self.user, hosts.join(","))?;
        write!(f, " sslmode={}", self.tls.mode)
    }
}

impl fmt::Debug for Conninfo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Conninfo")
            .field("hosts", &self.hosts)
            .field("user", &self.user)
            .field("dbname", &self.dbname)
            .field("password", &self.password.as_ref().map(|_| "[hidden]"))
            .field("passfile", &self.passfile)
            .field("options", &self.options)
            .field("application_name", &self.application_name())
            .field("connect_timeout", &self.connect_timeout)
            .field("keepalive", &self.keepalive)
            .field("tls", &self.tls)
            .field("channel_binding", &self.channel_binding)
            .field("require_auth", &self.require_auth.as_str())
            .field("require_peer", &self.require_peer)
            .field("target_session_attrs", &self.target_session_attrs)
            .field("load_balance_hosts", &self.load_balance_hosts)
            .finish_non_exhaustive()
    }
}
