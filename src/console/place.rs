//! Where the console's socket is, and making that place safe: a directory that nobody else can write to, a socket that
//! nobody else can open, and never somebody else's socket taken away.

use std::fs::{DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _,
};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use crate::config::Settings;
use crate::types::SlotName;

/// The socket's name: that of a server on port 5432, so that `psql -h DIR` finds it.
pub const SOCKET: &str = ".s.PGSQL.5432";
/// A PostgreSQL server puts this beside its socket.
const POSTGRES_LOCK: &str = ".s.PGSQL.5432.lock";
/// Locked for as long as a console is open there.
const LOCK: &str = ".seqshadow.lock";
/// Where the socket is made before everybody sees it.
const NURSERY: &str = ".new";

/// What the usual place depends on.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// `RUNTIME_DIRECTORY`, which systemd sets; several with colons between them.
    pub runtime_directory: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`, which a login sets.
    pub xdg_runtime_dir: Option<PathBuf>,
    pub uid: u32,
}

impl Surroundings {
    /// Those of this process.
    #[must_use]
    pub fn of_process() -> Self {
        let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let first = |paths: PathBuf| std::env::split_paths(&paths).next();
        Surroundings {
            runtime_directory: variable("RUNTIME_DIRECTORY").and_then(first),
            xdg_runtime_dir: variable("XDG_RUNTIME_DIR"),
            uid: rustix::process::geteuid().as_raw(),
        }
    }

    fn temporary(&self, slot: &SlotName) -> PathBuf {
        PathBuf::from(format!("/tmp/seqshadow-{}-{slot}", self.uid))
    }
}

/// Where the daemon of these settings opens its console.
#[must_use]
pub fn directory(settings: &Settings, slot: &SlotName, around: &Surroundings) -> PathBuf {
    let given = settings.console_dir.clone().or_else(|| around.runtime_directory.clone());
    let of_login = || Some(around.xdg_runtime_dir.as_ref()?.join(format!("seqshadow-{slot}")));
    given.or_else(of_login).unwrap_or_else(|| around.temporary(slot))
}

/// Where a console of these settings may be found, the likeliest first. The daemon may have had other surroundings.
#[must_use]
pub fn candidates(settings: &Settings, around: &Surroundings) -> Vec<PathBuf> {
    if let Some(given) = &settings.console_dir {
        return vec![given.clone()];
    }
    let Some(slot) = &settings.slot else { return Vec::new() };
    let mut places = vec![directory(settings, slot, around)];
    places.extend(around.xdg_runtime_dir.as_ref().map(|dir| dir.join(format!("seqshadow-{slot}"))));
    // As the systemd unit of the package has it.
    places.push(PathBuf::from(format!("/run/seqshadow/{slot}")));
    let temporary = around.temporary(slot);
    // In a directory that anybody may make, only one that is ours tells the truth.
    if is_private(&temporary, around.uid).is_ok() {
        places.push(temporary);
    } else {
        places.retain(|place| *place != temporary);
    }
    let mut seen = Vec::new();
    places.retain(|place| {
        !seen.contains(place) && {
            seen.push(place.clone());
            true
        }
    });
    places
}

/// Why there is no console.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
    #[error("{} {what}: name a directory of its own with --console-dir", path.display())]
    NotPrivate { path: PathBuf, what: String },
    #[error("{} is in use by {who}: name another directory with --console-dir", path.display())]
    InUse { path: PathBuf, who: String },
}

fn failed(path: &Path) -> impl FnOnce(io::Error) -> PlaceError {
    let path = path.to_owned();
    move |source| PlaceError::Io { path, source }
}

/// Whether only `uid` (and root) can put anything there.
fn is_private(path: &Path, uid: u32) -> Result<(), PlaceError> {
    let metadata = std::fs::symlink_metadata(path).map_err(failed(path))?;
    let wrong = |what: String| Err(PlaceError::NotPrivate { path: path.to_owned(), what });
    if !metadata.is_dir() {
        return wrong("is not a directory".to_owned());
    }
    if metadata.uid() != uid {
        return wrong(format!("belongs to the user with id {}, not to ours ({uid})", metadata.uid()));
    }
    if metadata.mode() & 0o022 != 0 {
        return wrong(format!("can be written to by others (mode {:o})", metadata.mode() & 0o7777));
    }
    Ok(())
}

/// A place that is ours, with a socket that is listened to. The socket is removed when this is dropped.
#[derive(Debug)]
pub struct Place {
    directory: PathBuf,
    /// Device and inode of our socket.
    socket: (u64, u64),
    /// Locked while we live, also by a process that is killed.
    _lock: File,
}

impl Place {
    /// Makes the directory where it is missing, takes it, and listens.
    ///
    /// # Errors
    /// When it is not private, not writable, or in use: what is in use is left alone.
    pub fn take(directory: &Path, uid: u32) -> Result<(Place, UnixListener), PlaceError> {
        match DirBuilder::new().mode(0o700).create(directory) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(failed(directory)(error));
            }
            _ => {}
        }
        is_private(directory, uid)?;
        let path = directory.join(SOCKET);
        let in_use = |who: String| PlaceError::InUse { path: path.clone(), who };
        if directory.join(POSTGRES_LOCK).exists() {
            return Err(in_use("a PostgreSQL server".to_owned()));
        }
        let lock = lock(&directory.join(LOCK))?.map_err(|pid| in_use(format!("seqshadow, process {pid}")))?;
        if let Ok(metadata) = std::fs::symlink_metadata(&path) {
            if !metadata.file_type().is_socket() {
                return Err(in_use("a file that is no socket".to_owned()));
            }
            if let Ok(stream) = UnixStream::connect(&path) {
                return Err(in_use(listener_of(&stream)));
            }
        }
        let listener = listen(directory, &path)?;
        let metadata = std::fs::symlink_metadata(&path).map_err(failed(&path))?;
        let socket = (metadata.dev(), metadata.ino());
        Ok((Place { directory: directory.to_owned(), socket, _lock: lock }, listener))
    }

    /// The directory, for `psql -h`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let path = self.directory.join(SOCKET);
        let ours = std::fs::symlink_metadata(&path).is_ok_and(|m| (m.dev(), m.ino()) == self.socket);
        if ours {
            let _ = std::fs::remove_file(path);
        }
    }
}

/// Takes the lock, or says which process has it.
fn lock(path: &Path) -> Result<Result<File, String>, PlaceError> {
    let options = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).clone();
    let mut file = options.open(path).map_err(failed(path))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let _ = (&file).take(20).read_to_string(&mut pid);
            return Ok(Err(pid.trim().to_owned()));
        }
        Err(std::fs::TryLockError::Error(error)) => return Err(failed(path)(error)),
    }
    let written =
        file.set_len(0).and_then(|()| file.rewind()).and_then(|()| writeln!(file, "{}", std::process::id()));
    written.map_err(failed(path))?;
    Ok(Ok(file))
}

/// The socket appears with its final mode, in the place of one that nobody listens to any more.
fn listen(directory: &Path, path: &Path) -> Result<UnixListener, PlaceError> {
    let nursery = directory.join(NURSERY);
    // Of one that was killed here.
    let _ = std::fs::remove_dir_all(&nursery);
    DirBuilder::new().mode(0o700).create(&nursery).map_err(failed(&nursery))?;
    let newborn = nursery.join("s");
    let made = (|| {
        let listener = UnixListener::bind(&newborn)?;
        std::fs::set_permissions(&newborn, Permissions::from_mode(0o600))?;
        listener.set_nonblocking(true)?;
        std::fs::rename(&newborn, path)?;
        Ok(listener)
    })();
    let _ = std::fs::remove_dir_all(&nursery);
    made.map_err(failed(path))
}

fn listener_of(stream: &UnixStream) -> String {
    let pid = stream
        .try_clone()
        .and_then(|stream| {
            stream.set_nonblocking(true)?;
            tokio::net::UnixStream::from_std(stream)?.peer_cred()
        })
        .ok()
        .and_then(|credentials| credentials.pid());
    pid.map_or_else(|| "another process".to_owned(), |pid| format!("process {pid}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Environment, Layer, load};

    fn settings(given: &[(&str, &str)]) -> Settings {
        let mut layer = Layer::default();
        given.iter().for_each(|(key, text)| layer.flag(key, *text));
        load(&layer, None, &Environment::default()).unwrap().settings
    }

    fn uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn the_place_is_the_one_given_or_the_systems_or_the_logins_or_a_private_one() {
        let slot: SlotName = "orders".parse().unwrap();
        let (default, given) = (settings(&[]), settings(&[("console_dir", "/c")]));
        let all = Surroundings {
            runtime_directory: Some("/run/seqshadow/orders".into()),
            xdg_runtime_dir: Some("/run/user/7".into()),
            uid: 7,
        };
        let place = |settings: &Settings, around: &Surroundings| directory(settings, &slot, around);
        assert_eq!(place(&given, &all), Path::new("/c"));
        assert_eq!(place(&default, &all), Path::new("/run/seqshadow/orders"));
        let login = Surroundings { runtime_directory: None, ..all.clone() };
        assert_eq!(place(&default, &login), Path::new("/run/user/7/seqshadow-orders"));
        let bare = Surroundings { xdg_runtime_dir: None, ..login };
        assert_eq!(place(&default, &bare), Path::new("/tmp/seqshadow-7-orders"));
        assert_eq!(candidates(&given, &all), [Path::new("/c")]);
        assert!(candidates(&default, &all).is_empty(), "without a slot nothing is known");
        let named = settings(&[("slot", "no_such_slot_here")]);
        assert_eq!(candidates(&named, &bare), [Path::new("/run/seqshadow/no_such_slot_here")]);
    }

    #[tokio::test]
    async fn a_socket_is_private_from_the_first_moment_and_gone_at_the_end() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("console");
        let (place, _listener) = Place::take(&directory, uid()).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&directory.join(SOCKET))), (0o700, 0o600));
        assert!(!directory.join(NURSERY).exists());
        let error = Place::take(&directory, uid()).unwrap_err().to_string();
        assert!(error.contains(&format!("seqshadow, process {}", std::process::id())), "{error}");
        assert!(directory.join(SOCKET).exists(), "it was not taken away");
        drop(place);
        assert!(!directory.join(SOCKET).exists());
        Place::take(&directory, uid()).unwrap();
    }

    #[tokio::test]
    async fn a_dead_socket_is_replaced_and_a_live_one_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(SOCKET);
        let listener = UnixListener::bind(&path).unwrap();
        let error = Place::take(directory.path(), uid()).unwrap_err().to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        UnixStream::connect(&path).unwrap();
        drop(listener);
        let (place, listener) = Place::take(directory.path(), uid()).unwrap();
        UnixStream::connect(&path).unwrap();
        // Somebody else's socket of the same name is not removed with ours.
        std::fs::remove_file(&path).unwrap();
        let _other = UnixListener::bind(&path).unwrap();
        drop((place, listener));
        assert!(path.exists());
    }

    #[tokio::test]
    async fn a_place_of_others_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        std::fs::write(path.join(POSTGRES_LOCK), "1").unwrap();
        assert!(Place::take(path, uid()).unwrap_err().to_string().contains("a PostgreSQL server"));
        std::fs::remove_file(path.join(POSTGRES_LOCK)).unwrap();
        std::fs::write(path.join(SOCKET), "precious").unwrap();
        assert!(Place::take(path, uid()).unwrap_err().to_string().contains("no socket"));
        std::fs::remove_file(path.join(SOCKET)).unwrap();
        assert!(Place::take(path, uid() + 1).unwrap_err().to_string().contains("belongs to"));
        std::fs::set_permissions(path, Permissions::from_mode(0o770)).unwrap();
        assert!(Place::take(path, uid()).unwrap_err().to_string().contains("mode 770"));
        let link = path.join("link");
        std::os::unix::fs::symlink("/", &link).unwrap();
        assert!(Place::take(&link, uid()).unwrap_err().to_string().contains("not a directory"));
        assert!(
            Place::take(Path::new("/nonexistent/x"), uid())
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/x")
        );
    }
}
