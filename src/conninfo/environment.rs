//! What surrounds a connection string: environment variables, home directory, operating system user.
//!
//! Tests build one by hand; the program takes [`Environment::from_process`] once at start. Nothing here opens a
//! socket, and nothing else in this module tree reads the process environment.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::keywords;

/// Where Debian's and PGDG's builds of libpq look for the system-wide service file.
const SYSTEM_CONFIG_DIRECTORIES: [&str; 3] =
    ["/etc/postgresql-common", "/etc/sysconfig/pgsql", "/usr/local/pgsql/etc"];

/// Where builds of libpq look for the server's socket: Debian's and PGDG's directory, then upstream's.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

/// Everything a connection string can leave to its surroundings.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    home: Option<PathBuf>,
    user: Option<String>,
    socket_directory: Option<PathBuf>,
}

impl Environment {
    /// Nothing set, no home and no user: a connection string must say everything itself.
    #[must_use]
    pub fn empty() -> Self {
        Environment::default()
    }

    /// The surroundings of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn from_process() -> Self {
        let variables =
            std::env::vars_os().filter_map(|(k, v)| Some((k.into_string().ok()?, v.into_string().ok()?)));
        let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).ok().flatten().map(|user| user.name);
        let socket_directory = SOCKET_DIRECTORIES.iter().map(PathBuf::from).find(|path| path.is_dir());
        Environment {
            variables: variables.filter(|(name, _)| name.starts_with("PG")).collect(),
            home: std::env::home_dir().filter(|path| !path.as_os_str().is_empty()),
            user,
            socket_directory,
        }
    }

    /// The same with one variable set.
    #[must_use]
    pub fn with_variable(mut self, name: &str, value: &str) -> Self {
        self.variables.insert(name.to_owned(), value.to_owned());
        self
    }

    /// The same with another home directory (`~/.pgpass`, `~/.pg_service.conf`, `~/.postgresql/`).
    #[must_use]
    pub fn with_home(mut self, home: impl Into<PathBuf>) -> Self {
        self.home = Some(home.into());
        self
    }

    /// The same with another operating system user, the default of `user`.
    #[must_use]
    pub fn with_user(mut self, user: &str) -> Self {
        self.user = Some(user.to_owned());
        self
    }

    /// The same with another directory for Unix sockets, the default of `host`.
    #[must_use]
    pub fn with_socket_directory(mut self, path: impl Into<PathBuf>) -> Self {
        self.socket_directory = Some(path.into());
        self
    }

    /// The value of a variable; set and empty is not the same as unset.
    #[must_use]
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }

    /// The home directory.
    #[must_use]
    pub fn home(&self) -> Option<&Path> {
        self.home.as_deref()
    }

    /// The operating system's name of the user we run as.
    #[must_use]
    pub fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }

    /// The directory of the server's socket when no host is given.
    #[must_use]
    pub fn socket_directory(&self) -> PathBuf {
        self.socket_directory.clone().unwrap_or_else(|| PathBuf::from(SOCKET_DIRECTORIES[0]))
    }

    /// Where a system-wide `pg_service.conf` may be.
    #[must_use]
    pub fn system_config_directories(&self) -> Vec<PathBuf> {
        match self.variable("PGSYSCONFDIR") {
            Some(directory) => vec![PathBuf::from(directory)],
            None => SYSTEM_CONFIG_DIRECTORIES.iter().map(PathBuf::from).collect(),
        }
    }
}

/// Shows the names of the variables and hides the values of those that hold secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = |name: &str| keywords::KEYWORDS.iter().any(|row| row.secret && row.env == Some(name));
        let variables: BTreeMap<_, _> = self
            .variables
            .iter()
            .map(|(name, value)| (name, if secret(name) { "[hidden]" } else { value.as_str() }))
            .collect();
        f.debug_struct("Environment")
            .field("variables", &variables)
            .field("home", &self.home)
            .field("user", &self.user)
            .field("socket_directory", &self.socket_directory)
            .finish()
    }
}
