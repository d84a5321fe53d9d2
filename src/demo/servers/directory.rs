//! A place for a server: a short directory of its own, and a TCP port that nobody uses.

use super::account::{Account, give};
use super::error::ServersError;
use std::fs::{self, DirBuilder};
use std::io;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// A socket's path may have 107 bytes; `/seqshadow-XXXXXXXX/.s.PGSQL.NNNNN` needs 35 of them.
const PARENT_LEN_MAX: usize = 70;

/// Below the ports that Linux and macOS hand to clients, so that no connection takes it while a server restarts.
const PORTS: std::ops::Range<u16> = 20_000..32_000;

/// A new directory that only the account (and root) can enter.
///
/// # Errors
/// When it cannot be created.
pub(super) fn create_directory(account: Option<Account>) -> Result<PathBuf, ServersError> {
    let parent = parent(account);
    loop {
        let path = parent.join(format!("seqshadow-{:08x}", rand::random::<u32>()));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return give(&path, account).map(|()| path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(ServersError::io(format!("create {}", path.display()))(error)),
        }
    }
}

/// The usual place for temporary files, unless its name is too long or the account cannot get there.
fn parent(account: Option<Account>) -> PathBuf {
    let usual = fs::canonicalize(std::env::temp_dir()).unwrap_or_else(|_| std::env::temp_dir());
    let short = usual.as_os_str().len() <= PARENT_LEN_MAX;
    let open = account.is_none() || usual.ancestors().all(anybody_passes);
    if short && open { usual } else { PathBuf::from("/tmp") }
}

fn anybody_passes(folder: &Path) -> bool {
    fs::metadata(folder).is_ok_and(|metadata| metadata.permissions().mode() & 0o001 != 0)
}

/// A port of 127.0.0.1 that is free now. Somebody can take it before it is used: try again then.
///
/// # Errors
/// When none is free after many tries.
pub(super) fn free_port() -> Result<u16, ServersError> {
    let mut last = io::Error::from(io::ErrorKind::AddrInUse);
    for _ in 0..200 {
        let port = rand::random_range(PORTS);
        match TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            Ok(_) => return Ok(port),
            Err(error) => last = error,
        }
    }
    Err(ServersError::io("find a free port on 127.0.0.1")(last))
}
