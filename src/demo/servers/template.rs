//! Fresh data directories, fast: `initdb` runs once per installation, after that its result is copied.
//!
//! A copy has the system identifier of its template, so there are several templates: two servers that must not look
//! like one (a publisher and its subscriber) are made from different ones.

use super::account::{Account, give, prepare};
use super::error::{ServersError, run};
use super::find::Installation;
use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

/// Makes `data` a data directory as `initdb` leaves it: superuser `postgres`, UTF8, C locale, trust.
///
/// # Errors
/// When `initdb` fails or a file cannot be written.
pub(super) fn create_data_dir(
    installation: &Installation,
    family: u8,
    account: Option<Account>,
    data: &Path,
) -> Result<(), ServersError> {
    copy_data_dir(&template(installation, family, account)?, data, account)
}

/// Copies the data directory of a server that does not run.
///
/// # Errors
/// When a file cannot be copied.
pub(super) fn copy_data_dir(from: &Path, to: &Path, account: Option<Account>) -> Result<(), ServersError> {
    run(prepared(Command::new("cp").arg("-R").arg(from).arg(to), account)).map(drop)
}

fn template(
    installation: &Installation,
    family: u8,
    account: Option<Account>,
) -> Result<PathBuf, ServersError> {
    let folder = templates_dir(account)?;
    let name = format!("{}-{:016x}-{family}", installation.major(), fingerprint(installation));
    let finished = folder.join(&name);
    if finished.is_dir() {
        return Ok(finished);
    }
    let lock_path = folder.join(format!("{name}.lock"));
    let lock =
        File::create(&lock_path).map_err(ServersError::io(format!("create {}", lock_path.display())))?;
    lock.lock().map_err(ServersError::io(format!("lock {}", lock_path.display())))?;
    if !finished.is_dir() {
        let work = folder.join(format!("{name}.work"));
        let _ = fs::remove_dir_all(&work);
        run(prepared(
            Command::new(installation.bindir.join("initdb"))
                .args(["--username=postgres", "--auth=trust", "--no-locale", "--encoding=UTF8", "--no-sync"])
                .arg("-D")
                .arg(&work),
            account,
        ))?;
        fs::rename(&work, &finished)
            .map_err(ServersError::io(format!("rename to {}", finished.display())))?;
    }
    Ok(finished)
}

/// Beside the fetched servers, one folder per account, since only its owner may read a data directory.
fn templates_dir(account: Option<Account>) -> Result<PathBuf, ServersError> {
    let uid = account.map_or_else(|| rustix::process::geteuid().as_raw(), |account| account.uid);
    let folder = super::find::cache_dir().join(format!(".templates-{uid}"));
    if !folder.is_dir() {
        fs::create_dir_all(&folder).map_err(ServersError::io(format!("create {}", folder.display())))?;
        give(&folder, account)?;
    }
    Ok(folder)
}

/// Differs when the programs change, for instance by an upgrade of the package.
fn fingerprint(installation: &Installation) -> u64 {
    let mut hasher = DefaultHasher::new();
    installation.hash_into(&mut hasher);
    hasher.finish()
}

impl Installation {
    fn hash_into(&self, hasher: &mut DefaultHasher) {
        self.bindir.hash(hasher);
        self.version.hash(hasher);
        let changed = fs::metadata(self.bindir.join("postgres")).and_then(|metadata| metadata.modified());
        changed.unwrap_or(SystemTime::UNIX_EPOCH).hash(hasher);
    }
}

fn prepared(command: &mut Command, account: Option<Account>) -> &mut Command {
    prepare(command, account);
    command
}
