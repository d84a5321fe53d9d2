//! Whom servers run as: ourselves, or, when we are root (which servers refuse to be), the postgres user.

use super::error::{ServersError, run};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;

/// Names another account than `postgres` for servers started by root.
const VARIABLE: &str = "SEQSHADOW_PG_USER";

/// The ids that a server of ours runs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// `None` when we are not root: then servers run as we do.
///
/// # Errors
/// When we are root and there is no account for servers.
pub(super) fn server_account() -> Result<Option<Account>, ServersError> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let account = std::env::var(VARIABLE).unwrap_or_else(|_| "postgres".to_owned());
    let id = |which: &str| -> Option<u32> {
        run(Command::new("id").args([which, "--", &account])).ok()?.trim().parse().ok()
    };
    match (id("-u"), id("-g")) {
        (Some(uid), Some(gid)) if uid != 0 => Ok(Some(Account { uid, gid })),
        _ => Err(ServersError::NoAccount { account, variable: VARIABLE }),
    }
}

/// Makes `command` run as `account`, with no more than a program of a server needs in its environment.
pub(super) fn prepare(command: &mut Command, account: Option<Account>) {
    if let Some(Account { uid, gid }) = account {
        command.uid(uid).gid(gid);
    }
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
        command.env_remove(name);
    }
    command.env("LC_ALL", "C").env("LANG", "C").current_dir("/");
}

/// Hands `path` to the account.
///
/// # Errors
/// When the owner cannot be changed.
pub(super) fn give(path: &Path, account: Option<Account>) -> Result<(), ServersError> {
    let Some(Account { uid, gid }) = account else { return Ok(()) };
    std::os::unix::fs::chown(path, Some(uid), Some(gid))
        .map_err(ServersError::io(format!("give {} to the server's account", path.display())))
}
