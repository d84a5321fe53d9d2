//! Where a capture is written: beside its name until it is whole, so that nothing half done ever has that name.
//!
//! In: the name wanted. Out: a locked file `NAME.partial` that only its owner may read, and in the end the file under
//! its name, durable. An interrupted recording leaves `NAME.partial`.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

/// Why a file cannot be written there.
#[derive(Debug, thiserror::Error)]
pub enum PlaceError {
    #[error("{} exists already; give another --out, or --force to replace it", .0.display())]
    Exists(PathBuf),
    #[error(
        "{} is there, left by a capture that was interrupted; look at it with `seqshadow replay --partial`, then \
         remove it, or give --force",
        .0.display()
    )]
    Left(PathBuf),
    #[error("{} is being written by another capture; wait for its end, or give another --out", .0.display())]
    Busy(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A file on its way to its name.
#[derive(Debug)]
pub struct Place {
    wanted: PathBuf,
    partial: PathBuf,
    force: bool,
}

impl Place {
    /// Opens `NAME.partial` for `wanted`. `force`: whatever is there under either name is replaced, but not what another
    /// capture is writing.
    ///
    /// # Errors
    /// What is in the way.
    pub fn open(wanted: &Path, force: bool) -> Result<(Place, File), PlaceError> {
        if !force && wanted.symlink_metadata().is_ok() {
            return Err(PlaceError::Exists(wanted.to_owned()));
        }
        let mut name = OsString::from(wanted);
        name.push(".partial");
        let place = Place { wanted: wanted.to_owned(), partial: name.into(), force };
        match place.create() {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(place.error(error)),
            Ok(file) => return Ok((place, file)),
        }
        place.make_way()?;
        let file = place.create().map_err(|error| place.error(error))?;
        Ok((place, file))
    }

    /// Where it is written.
    #[must_use]
    pub fn partial(&self) -> &Path {
        &self.partial
    }

    /// Gives the file its name, durably.
    ///
    /// # Errors
    /// What is in the way by now; the file is then whole under [`Self::partial`].
    pub fn finish(self, file: &File) -> Result<(), PlaceError> {
        file.sync_all().map_err(|error| self.error(error))?;
        self.rename().map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => PlaceError::Exists(self.wanted.clone()),
            _ => self.error(error),
        })?;
        let directory = match self.wanted.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        let durable = File::open(directory).and_then(|directory| directory.sync_all());
        durable.map_err(|source| PlaceError::Io { path: directory.to_owned(), source })
    }

    /// Removes it: there is nothing in it.
    pub fn discard(self) {
        let _ = std::fs::remove_file(&self.partial);
    }

    fn create(&self) -> io::Result<File> {
        let mut options = OpenOptions::new();
        let file = options.write(true).create_new(true).mode(0o600).open(&self.partial)?;
        // A file system that knows no locks is no reason to record nothing.
        match file.try_lock() {
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::AlreadyExists.into()),
            _ => Ok(file),
        }
    }

    /// Removes a `NAME.partial` that nobody writes.
    fn make_way(&self) -> Result<(), PlaceError> {
        let mut options = OpenOptions::new();
        let opened = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(&self.partial);
        let left = match opened {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.error(error)),
            Ok(file) => file,
        };
        if matches!(left.try_lock(), Err(TryLockError::WouldBlock)) {
            return Err(PlaceError::Busy(self.partial.clone()));
        }
        let identity = |metadata: io::Result<std::fs::Metadata>| {
            metadata.ok().map(|metadata| (metadata.dev(), metadata.ino()))
        };
        // Whoever wrote it may have given it its name meanwhile, and another may have begun.
        if identity(left.metadata()) != identity(self.partial.symlink_metadata()) {
            return Err(PlaceError::Busy(self.partial.clone()));
        }
        if !self.force {
            return Err(PlaceError::Left(self.partial.clone()));
        }
        std::fs::remove_file(&self.partial).map_err(|error| self.error(error))
    }

    fn rename(&self) -> io::Result<()> {
        if self.force {
            return std::fs::rename(&self.partial, &self.wanted);
        }
        match std::fs::hard_link(&self.partial, &self.wanted) {
            Ok(()) => std::fs::remove_file(&self.partial),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
            // A file system without links: a look has to do.
            Err(_) if self.wanted.symlink_metadata().is_ok() => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => std::fs::rename(&self.partial, &self.wanted),
        }
    }

    fn error(&self, source: io::Error) -> PlaceError {
        PlaceError::Io { path: self.partial.clone(), source }
    }
}
