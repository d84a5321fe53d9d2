//! Finds PostgreSQL installations: which server programs are on this machine, and of which version.
//!
//! In: directories the user named, the environment, well-known places. Out: [`Installation`]s whose `postgres
//! --version` was run and understood. It starts no server and fetches nothing.

use super::error::{ServersError, run};
use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Names directories of server programs, separated by colons.
pub const BINDIRS_VARIABLE: &str = "SEQSHADOW_PG_BINDIRS";

/// Names another place for fetched servers.
pub const CACHE_VARIABLE: &str = "SEQSHADOW_CACHE";

/// The programs of one PostgreSQL server version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Installation {
    /// Where `postgres`, `initdb` and `pg_ctl` are.
    pub bindir: PathBuf,
    /// As `server_version_num` counts: 150012 is 15.12. A beta or release candidate counts as minor 0.
    pub version_num: u32,
    /// What `postgres --version` says after the program's name: `15.12 (Debian 15.12-0+deb12u2)`, `19rc1`.
    pub version: String,
}

impl Installation {
    /// The installation whose server program is in `bindir`.
    ///
    /// # Errors
    /// When there is no server program or it does not run here or says no version that we understand.
    pub fn at(bindir: &Path) -> Result<Self, ServersError> {
        let not_a_server = |found: String| ServersError::NotAServer { path: bindir.to_owned(), found };
        for needed in ["postgres", "initdb"] {
            if !bindir.join(needed).is_file() {
                return Err(not_a_server(format!("found no program {needed} in it")));
            }
        }
        let said = run(Command::new(bindir.join("postgres")).arg("--version").current_dir("/"))
            .map_err(|error| not_a_server(error.to_string()))?;
        let (version_num, version) =
            parse_version(&said).ok_or_else(|| not_a_server(format!("it calls itself {said:?}")))?;
        Ok(Installation { bindir: bindir.to_owned(), version_num, version })
    }

    /// The major version: 15 of 15.12.
    #[must_use]
    pub fn major(&self) -> u32 {
        self.version_num / 10_000
    }

    /// A program of the installation, when it is there (packages made for tests bring only the server's own).
    #[must_use]
    pub fn program(&self, name: &str) -> Option<PathBuf> {
        Some(self.bindir.join(name)).filter(|path| path.is_file())
    }
}

/// Every installation on this machine, in the order of preference: `bindirs`, the environment, PATH, `pg_config`,
/// the folders of distributions, our own cache. Each is named once, however many links lead there.
#[must_use]
pub fn find_all(bindirs: &[PathBuf]) -> Vec<Installation> {
    let mut seen = HashSet::new();
    candidates(bindirs)
        .into_iter()
        .filter(|bindir| bindir.join("postgres").is_file())
        .map(|bindir| real_bindir(&bindir))
        .filter(|bindir| seen.insert(bindir.clone()))
        .filter_map(|bindir| Installation::at(&bindir).ok())
        .collect()
}

/// The first installation of `major` that [`find_all`] would list.
#[must_use]
pub fn find_major(bindirs: &[PathBuf], major: u32) -> Option<Installation> {
    find_all(bindirs).into_iter().find(|installation| installation.major() == major)
}

/// Where fetched servers are kept. Root's are outside its home: the account that runs servers must get there.
#[must_use]
pub fn cache_dir() -> PathBuf {
    if let Some(named) = std::env::var_os(CACHE_VARIABLE).filter(|named| !named.is_empty()) {
        return PathBuf::from(named);
    }
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/cache/seqshadow/postgresql");
    }
    let base = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|base| base.is_absolute());
    let home = || std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from).join(".cache");
    base.unwrap_or_else(home).join("seqshadow/postgresql")
}

fn candidates(bindirs: &[PathBuf]) -> Vec<PathBuf> {
    let mut all = bindirs.to_vec();
    for variable in [BINDIRS_VARIABLE, "PATH"] {
        if let Some(list) = std::env::var_os(variable) {
            all.extend(std::env::split_paths(&list).filter(|path| path.is_absolute()));
        }
    }
    if let Ok(said) = run(Command::new("pg_config").arg("--bindir")) {
        all.push(PathBuf::from(said.trim_end_matches('\n')));
    }
    for (parent, prefix, rest) in [
        ("/usr/lib/postgresql", "", "bin"),          // Debian, Ubuntu
        ("/usr", "pgsql-", "bin"),                   // the PostgreSQL project's RPMs
        ("/usr/lib", "postgresql", "bin"),           // SUSE, Gentoo
        ("/opt/homebrew/opt", "postgresql@", "bin"), // Homebrew on Apple silicon
        ("/usr/local/opt", "postgresql@", "bin"),    // Homebrew on Intel
        ("/Applications/Postgres.app/Contents/Versions", "", "bin"), // Postgres.app
        ("/Library/PostgreSQL", "", "bin"),          // EDB's installer on macOS
        ("/opt/PostgreSQL", "", "bin"),              // EDB's installer on Linux
        ("/usr/local", "pgsql", "bin"),              // built from source
    ] {
        all.extend(children(Path::new(parent), prefix).into_iter().map(|child| child.join(rest)));
    }
    all.extend(children(&cache_dir(), "").into_iter().map(|child| child.join("bin")));
    all
}

/// The entries of `parent` whose names begin with `prefix`; newest version first, as far as names tell.
fn children(parent: &Path, prefix: &str) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(parent) else { return Vec::new() };
    let mut found: Vec<(Vec<u32>, PathBuf)> = entries
        .flatten()
        .filter_map(|entry| {
            let name = entry.file_name().into_string().ok()?;
            let rest = name.strip_prefix(prefix)?;
            // A dot begins what is not finished: work directories, downloads, locks.
            (!rest.starts_with('.')).then(|| (numbers(rest), entry.path()))
        })
        .collect();
    found.sort_by(|a, b| b.cmp(a));
    found.into_iter().map(|(_, path)| path).collect()
}

fn numbers(text: &str) -> Vec<u32> {
    text.split(|c: char| !c.is_ascii_digit()).filter_map(|digits| digits.parse().ok()).collect()
}

/// Where the server program really is, with its neighbours: distributions link a few of them into PATH.
fn real_bindir(bindir: &Path) -> PathBuf {
    let program = fs::canonicalize(bindir.join("postgres")).ok();
    program.as_deref().and_then(Path::parent).unwrap_or(bindir).to_owned()
}

/// `(version_num, version)` from `postgres (PostgreSQL) 15.12 (Debian …)`, `… 19rc1`, `… 18devel`.
fn parse_version(said: &str) -> Option<(u32, String)> {
    let version = said.lines().next()?.strip_prefix("postgres (PostgreSQL) ")?.trim().to_owned();
    let word = version.split_whitespace().next()?;
    let major_end = word.find(|c: char| !c.is_ascii_digit()).unwrap_or(word.len());
    let (major, rest) = word.split_at(major_end);
    let major: u32 = major.parse().ok().filter(|major| (10..1000).contains(major))?;
    let minor = match rest.strip_prefix('.') {
        Some(minor) => minor.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()?,
        None => 0,
    };
    (minor < 10_000_u32).then(|| (major * 10_000 + minor, version))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_as_every_package_writes_them() {
        for (said, expected) in [
            ("postgres (PostgreSQL) 12.22\n", Some((120_022, "12.22"))),
            (
                "postgres (PostgreSQL) 15.12 (Debian 15.12-0+deb12u2)\n",
                Some((150_012, "15.12 (Debian 15.12-0+deb12u2)")),
            ),
            ("postgres (PostgreSQL) 19rc1 (Debian 19~rc1-1)", Some((190_000, "19rc1 (Debian 19~rc1-1)"))),
            ("postgres (PostgreSQL) 18devel", Some((180_000, "18devel"))),
            ("postgres (PostgreSQL) 9.6.24", None),
            ("postgres (EnterpriseDB) 15.1", None),
            ("bash: no such thing", None),
            ("", None),
        ] {
            let expected = expected.map(|(num, text)| (num, text.to_owned()));
            assert_eq!(parse_version(said), expected, "{said:?}");
        }
    }

    #[test]
    fn newer_folders_come_first() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["9", "17.10.0-beta.17", "17.9.0", ".work-18", "18"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let names: Vec<_> =
            children(dir.path(), "").iter().map(|path| path.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["18", "17.10.0-beta.17", "17.9.0", "9"]);
    }

    #[test]
    fn a_directory_without_a_server_is_refused_with_its_path() {
        let dir = tempfile::tempdir().unwrap();
        let error = Installation::at(dir.path()).unwrap_err().to_string();
        assert!(error.contains("no program postgres"), "{error}");
        assert!(error.contains(dir.path().to_str().unwrap()), "{error}");
    }
}
