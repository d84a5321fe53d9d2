//! The list of servers: `host`, `hostaddr` and `port` joined into one entry each.
//!
//! Goes in: the three comma-separated lists. Comes out: a [`Host`] per entry, with libpq's rules for lists of unequal
//! length and for empty entries. Names are not resolved here.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::error::ConninfoError;
use super::options::Options;

/// PostgreSQL's port.
pub const DEFAULT_PORT: u16 = 5432;

/// Where one entry leads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// A directory with a socket in it, or an abstract socket (`@name`).
    Socket(PathBuf),
    /// A name that is to be resolved; each of its addresses is tried.
    Name(String),
    /// A numeric address, IPv6 perhaps with a zone (`fe80::1%eth0`).
    Address(String),
}

/// One entry of the list of servers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// `host` as given: what certificates and password files are matched against.
    pub name: Option<String>,
    /// Where it leads.
    pub endpoint: Endpoint,
    /// The port, which is part of a socket's file name too.
    pub port: u16,
}

impl Host {
    /// The path of the socket file, for a socket; `@…` for an abstract one.
    #[must_use]
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.endpoint {
            Endpoint::Socket(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Endpoint::Name(_) | Endpoint::Address(_) => None,
        }
    }

    /// The host part of a line in a password file: the name, else the address; `localhost` for the default socket.
    #[must_use]
    pub fn passfile_host(&self, default_socket_directory: &Path) -> String {
        let given = self.name.as_deref().filter(|name| !name.is_empty());
        match (&self.endpoint, given) {
            (Endpoint::Socket(directory), _) if directory == default_socket_directory => {
                "localhost".to_owned()
            }
            (_, Some(name)) => name.to_owned(),
            (Endpoint::Socket(directory), None) => directory.display().to_string(),
            (Endpoint::Address(address), None) => address.clone(),
            (Endpoint::Name(name), None) => name.clone(),
        }
    }
}

/// `db:5432`, `[::1]:5432` or the path of the socket.
impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.endpoint, self.socket_path()) {
            (_, Some(path)) => write!(f, "{}", path.display()),
            (Endpoint::Name(host) | Endpoint::Address(host), _) => {
                let shown = self.name.as_deref().unwrap_or(host);
                if shown.contains(':') {
                    write!(f, "[{shown}]:{}", self.port)
                } else {
                    write!(f, "{shown}:{}", self.port)
                }
            }
            (Endpoint::Socket(directory), None) => write!(f, "{}", directory.display()),
        }
    }
}

/// Joins the three lists.
pub(crate) fn read(options: &Options, env: &Environment) -> Result<Vec<Host>, ConninfoError> {
    let split =
        |keyword: &str| -> Option<Vec<&str>> { options.filled(keyword).map(|v| v.split(',').collect()) };
    let (names, addresses, ports) = (split("host"), split("hostaddr"), split("port"));
    let count = addresses.as_ref().or(names.as_ref()).map_or(1, Vec::len);
    if let (Some(names), Some(_)) = (&names, &addresses)
        && names.len() != count
    {
        return Err(ConninfoError::ListLength {
            what: "host names",
            got: names.len(),
            to: "hostaddr values",
            expected: count,
        });
    }
    if let Some(ports) = &ports
        && ports.len() != 1
        && ports.len() != count
    {
        return Err(ConninfoError::ListLength {
            what: "port numbers",
            got: ports.len(),
            to: "hosts",
            expected: count,
        });
    }
    let at = |list: &Option<Vec<&str>>, index: usize| -> Option<String> {
        list.as_ref()
            .and_then(|list| list.get(index))
            .filter(|entry| !entry.is_empty())
            .map(|s| (*s).to_owned())
    };
    (0..count)
        .map(|index| {
            let port = match &ports {
                Some(list) if list.len() == 1 => at(&ports, 0),
                _ => at(&ports, index),
            };
            let port = port.map_or(Ok(DEFAULT_PORT), |text| read_port(&text))?;
            let name = at(&names, index);
            let endpoint = match (at(&addresses, index), &name) {
                (Some(address), _) => read_address(address)?,
                (None, Some(name)) if name.starts_with('/') || name.starts_with('@') => {
                    Endpoint::Socket(PathBuf::from(name))
                }
                (None, Some(name)) => Endpoint::Name(name.clone()),
                (None, None) => Endpoint::Socket(env.socket_directory()),
            };
            Ok(Host { name, endpoint, port })
        })
        .collect()
}

fn read_port(text: &str) -> Result<u16, ConninfoError> {
    let number = text.trim_matches(super::keyvalue::is_blank).parse::<u16>().ok().filter(|port| *port != 0);
    number.ok_or_else(|| ConninfoError::InvalidValue {
        keyword: "port",
        expected: "a number from 1 to 65535".to_owned(),
        got: format!("{text:?}"),
    })
}

fn read_address(text: String) -> Result<Endpoint, ConninfoError> {
    let without_zone = text.split_once('%').map_or(text.as_str(), |(address, _)| address);
    match without_zone.parse::<IpAddr>() {
        Ok(_) => Ok(Endpoint::Address(text)),
        Err(_) => Err(ConninfoError::InvalidValue {
            keyword: "hostaddr",
            expected: "a numeric IPv4 or IPv6 address".to_owned(),
            got: format!("{text:?}"),
        }),
    }
}
