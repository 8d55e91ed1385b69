//! The adapter `pin-file`: the token PIN of an active slot in a file, that an application
//! names as `pin-source` (RFC 7512, section 2.4) or reads by itself.
//!
//! The file holds exactly the PIN, without a newline: p11-kit takes every byte of the file
//! as the PIN; GnuTLS, pkcs11-provider and shells strip a newline and do not need one.
//!
//! It appears complete or not at all (written under another name, owner and mode set,
//! renamed), never through a symlink, and only on a file system that cannot reach a disk
//! ([`memory`](super::memory)). It goes at deactivation, at stop, and before anything else
//! at start, since a daemon that was killed could not take it back.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Gid, Mode, OFlags, fchmod, fchown, open, openat, renameat, unlinkat};
use slotwarden_core::fault::ApplicationFault;

use super::Failed;
use super::memory::Memory;

/// Mode of a hand-over file unless configured: owner and group.
pub const MODE_DEFAULT: u32 = 0o640;

/// One application with the adapter `pin-file`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PinFile {
    /// Where the file appears.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
    /// Its group, if not the daemon's.
    pub group: Option<u32>,
}

impl PinFile {
    /// With the usual mode and the daemon's own group.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        PinFile { path: path.to_owned(), mode: MODE_DEFAULT, group: None }
    }
}

/// Puts the PIN into the file.
pub(super) fn hand_over(file: &PinFile, memory: &Memory, pin: &[u8]) -> Result<(), Failed> {
    let fault = |fault| move |reason: String| Failed::new(fault, format!("{}: {reason}", file.path.display()));
    let parent = Parent::of(file).map_err(fault(ApplicationFault::NotWritten))?;
    memory.check(&parent.directory).map_err(fault(ApplicationFault::NotInMemory))?;
    parent.write(file, pin).map_err(|errno| {
        // What was begun is taken away; if that fails too, withdrawal tries again.
        let _ = parent.remove(&parent.temporary);
        fault(ApplicationFault::NotWritten)(errno.to_string())
    })
}

/// Takes the file away, and what a killed daemon may have begun.
pub(super) fn withdraw(file: &PinFile) -> Result<(), String> {
    let parent = match Parent::of(file) {
        Ok(parent) => parent,
        // Without the directory there is no file.
        Err(_) if !file.path.parent().is_some_and(Path::exists) => return Ok(()),
        Err(reason) => return Err(format!("{}: {reason}", file.path.display())),
    };
    for name in [&parent.temporary, &parent.name] {
        parent.remove(name).map_err(|errno| format!("{}: {errno}", file.path.display()))?;
    }
    Ok(())
}

/// The directory of a hand-over file, held open, so that every step means the same one.
struct Parent {
    directory: OwnedFd,
    name: PathBuf,
    temporary: PathBuf,
}

impl Parent {
    fn of(file: &PinFile) -> Result<Self, String> {
        let name = file.path.file_name().ok_or("the path has no file name")?;
        let directory = file.path.parent().ok_or("the path has no directory")?;
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory, flags, Mode::empty()).map_err(|errno| errno.to_string())?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(".slotwarden");
        Ok(Parent { directory, name: name.into(), temporary: temporary.into() })
    }

    fn write(&self, file: &PinFile, pin: &[u8]) -> rustix::io::Result<()> {
        self.remove(&self.temporary)?;
        // Nobody but us may open it before owner and mode are right.
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = openat(&self.directory, &self.temporary, flags, Mode::RUSR | Mode::WUSR)?;
        // No buffer of ours lies between: a `File` writes from the lent bytes themselves.
        let mut opened = File::from(opened);
        opened
            .write_all(pin)
            .map_err(|error| rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO))?;
        if let Some(group) = file.group {
            fchown(&opened, None, Some(Gid::from_raw(group)))?;
        }
        fchmod(&opened, Mode::from_raw_mode(file.mode))?;
        renameat(&self.directory, &self.temporary, &self.directory, &self.name)
    }

    /// Removes a name in the directory; "was not there" counts as done.
    fn remove(&self, name: &Path) -> rustix::io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => Ok(()),
            Err(errno) => Err(errno),
        }
    }
}
