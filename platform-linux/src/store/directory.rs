//! The state directory: what lies in it, who holds it, and whether it was ever in use.
//!
//! | file | what |
//! |---|---|
//! | `daemon.lock` | locked while a daemon runs; empty |
//! | `store.redb` | records, sealed secrets, journal |
//! | `seal.blob` | the data key, wrapped |
//! | `seal.key` | the key file, unless configured elsewhere or a systemd credential is used |
//! | `slotwarden.state` | the marker: a store was made here, with this format version |
//! | `ballast` | 4 MiB that are given up when the disk is full |
//! | `zeroize`, `seal.next` | a zeroize that is not over (`zeroize.rs`) |
//! | `lost-DATE` | a store that was lost and set aside (`lost.rs`) |
//!
//! A first start makes `seal.new` and `store.new`, renames them in that order, each rename
//! durable, and writes the marker last. So after a power cut anywhere in between the next
//! start knows what it sees: `store.new` means "nothing was ever stored, begin again", a
//! store without marker is complete, and a marker without store is a loss, never a reason
//! to make a new one.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use slotwarden_core::fault::Refusal;

use super::Refused;

/// Version of the whole stored state. A directory with a higher one is refused.
pub const FORMAT_VERSION: u32 = 1;

/// What the marker's line begins with; the version follows.
const MARKER_PREFIX: &str = "slotwarden state ";

/// The paths of one state directory.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The directory itself.
    pub path: PathBuf,
}

/// What a state directory holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing was ever stored here.
    Nothing,
    /// A store, and whether the marker stands beside it.
    Store {
        /// Whether the marker is there.
        marked: bool,
    },
}

impl Directory {
    /// Makes the directory (mode 0700) if it is missing; one that is there stays as it is.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when it cannot be made or is no directory.
    pub fn make(path: &Path) -> Result<Self, Refused> {
        let directory = Directory { path: path.to_owned() };
        if !path.exists() {
            let made = fs::DirBuilder::new().mode(0o700).recursive(true).create(path);
            made.map_err(|error| directory.refused(path, &error))?;
            if let Some(parent) = path.parent() {
                // A root directory that cannot be synced was not made by us.
                sync_directory(parent).map_err(|error| directory.refused(parent, &error))?;
            }
        }
        if !path.is_dir() {
            return Err(Refused::new(Refusal::StoreUnreadable, format!("{} is not a directory", path.display())));
        }
        Ok(directory)
    }

    /// Takes the directory for one daemon; it is held as long as the file is open.
    ///
    /// # Errors
    /// [`Refusal::StoreLocked`] while another process holds it.
    pub fn lock(&self) -> Result<File, Refused> {
        let path = self.path.join("daemon.lock");
        let file = fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&path)
            .map_err(|error| self.refused(&path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Refused::new(Refusal::StoreLocked, self.path.display().to_string()))
            }
            Err(error) => Err(self.refused(&path, &error.into())),
        }
    }

    /// Takes the directory for reading, if a daemon ever left a lock file there; `None` for
    /// a copy without one. Makes nothing.
    ///
    /// # Errors
    /// [`Refusal::StoreLocked`] while a daemon holds it.
    pub fn lock_for_reading(&self) -> Result<Option<File>, Refused> {
        let path = self.path.join("daemon.lock");
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused(&path, &error)),
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Refused::new(Refusal::StoreLocked, self.path.display().to_string()))
            }
            Err(error) => Err(self.refused(&path, &error.into())),
        }
    }

    /// Looks what the directory holds. Changes nothing.
    ///
    /// # Errors
    /// [`Refusal::StoreMissing`], [`Refusal::StoreNewer`], [`Refusal::StoreUnreadable`].
    pub fn look(&self) -> Result<Found, Refused> {
        let marked = match self.read_marker()? {
            Some(version) if version > FORMAT_VERSION => {
                return Err(Refused::new(
                    Refusal::StoreNewer,
                    format!(
                        "{} has format version {version}, this program knows {FORMAT_VERSION}",
                        self.path.display()
                    ),
                ));
            }
            Some(_) => true,
            None => false,
        };
        if self.store().exists() {
            return Ok(Found::Store { marked });
        }
        let missing = || Refused::new(Refusal::StoreMissing, self.store().display().to_string());
        if marked {
            return Err(missing());
        }
        // A wrapped data key without a store under way: the store and the marker were removed.
        if self.blob().exists() && !self.store_in_making().exists() {
            return Err(missing());
        }
        Ok(Found::Nothing)
    }

    /// Writes the marker: from here on a missing store is a loss.
    ///
    /// # Errors
    /// [`Refusal::StoreFailed`].
    pub fn mark(&self) -> Result<(), Refused> {
        let path = self.marker();
        write_durably(&path, format!("{MARKER_PREFIX}{FORMAT_VERSION}\n").as_bytes())
            .map_err(|error| Refused::new(Refusal::StoreFailed, format!("{}: {error}", path.display())))
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        self.path.join("store.redb")
    }

    /// The store while the first start makes it.
    #[must_use]
    pub fn store_in_making(&self) -> PathBuf {
        self.path.join("store.new")
    }

    /// The wrapped data key.
    #[must_use]
    pub fn blob(&self) -> PathBuf {
        self.path.join("seal.blob")
    }

    /// The marker.
    #[must_use]
    pub fn marker(&self) -> PathBuf {
        self.path.join("slotwarden.state")
    }

    fn read_marker(&self) -> Result<Option<u32>, Refused> {
        let path = self.marker();
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                file.take(64).read_to_string(&mut text).map_err(|error| self.refused(&path, &error))?;
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(self.refused(&path, &error)),
        }
        let version = text.strip_prefix(MARKER_PREFIX).and_then(|rest| rest.strip_suffix('\n'));
        match version.and_then(|version| version.parse().ok()) {
            Some(version) => Ok(Some(version)),
            None => Err(Refused::new(Refusal::StoreUnreadable, format!("{} is damaged", path.display()))),
        }
    }

    fn refused(&self, path: &Path, error: &io::Error) -> Refused {
        Refused::of_file(Refusal::StoreUnreadable, path, error)
    }
}

/// Makes a file complete and durable under its name, or leaves what was there. The way
/// there leads over `NAME.new`, which only this function makes.
///
/// # Errors
/// Of the file system.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    remove_if_there(&temporary)?;
    let mut file = create_private(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    rename_durably(&temporary, path)
}

/// Renames within one directory; on return the new name is durable.
///
/// # Errors
/// Of the file system.
pub fn rename_durably(from: &Path, to: &Path) -> io::Result<()> {
    fs::rename(from, to)?;
    match to.parent() {
        Some(parent) => sync_directory(parent),
        None => Ok(()),
    }
}

/// Removes a file; "was not there" counts as done.
///
/// # Errors
/// Of the file system.
pub fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Makes a file that only its owner may read; it must not exist, not even as a symlink.
///
/// # Errors
/// Of the file system.
pub fn create_private(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Of the file system.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    // `Path::parent` of a bare file name is the empty path.
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}
