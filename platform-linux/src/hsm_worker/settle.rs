//! Making the module's own files durable.
//!
//! SoftHSM rewrites a token file in place and never syncs it; a power cut shortly after a
//! PIN change could leave either PIN, or neither. So every file under the configured
//! directory is synced, then every directory, before a change is believed.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;

/// Entries visited before settling gives up: a token has one file for each object, and
/// the largest we know of holds 100,000.
const ENTRIES_MAX: usize = 1_000_000;

/// Syncs every regular file under `dir` and every directory; follows no symbolic link.
///
/// # Errors
/// The first that is not "somebody removed it meanwhile".
pub(super) fn settle(dir: &Path) -> io::Result<()> {
    let mut directories: Vec<PathBuf> = vec![dir.to_path_buf()];
    let mut next = 0;
    let mut entries = 0;
    // The configured directory itself has to be there: a wrong path must not pass as settled.
    fs::read_dir(dir)?;
    while let Some(directory) = directories.get(next).cloned() {
        next += 1;
        let Some(listing) = unless_removed(fs::read_dir(&directory))? else { continue };
        for entry in listing {
            let entry = entry?;
            entries += 1;
            if entries > ENTRIES_MAX {
                return Err(io::Error::other("the settle directory holds too many files"));
            }
            let Some(kind) = unless_removed(entry.file_type())? else { continue };
            if kind.is_dir() {
                directories.push(entry.path());
            } else if kind.is_file() {
                sync(&entry.path(), OFlags::empty())?;
            }
        }
    }
    // Deepest first, so that a directory's entry is durable only after what it names.
    directories.iter().rev().try_for_each(|directory| sync(directory, OFlags::DIRECTORY))
}

fn sync(path: &Path, flags: OFlags) -> io::Result<()> {
    let flags = flags | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let flags = i32::try_from(flags.bits()).map_err(io::Error::other)?;
    match unless_removed(OpenOptions::new().read(true).custom_flags(flags).open(path))? {
        Some(file) => File::sync_all(&file),
        None => Ok(()),
    }
}

fn unless_removed<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn a_directory_that_is_missing_does_not_pass_as_settled() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        assert!(settle(&dir.path().join("missing")).is_err());
    }

    #[test]
    fn files_are_settled_at_every_depth_and_links_are_not_followed() {
        let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is a memory file system");
        let deep = dir.path().join("a/b/c");
        fs::create_dir_all(&deep).expect("a fresh directory");
        fs::write(deep.join("token.object"), b"x").expect("a fresh directory");
        symlink("/nonexistent", deep.join("link")).expect("a fresh directory");
        symlink(dir.path(), deep.join("loop")).expect("a fresh directory");
        assert!(settle(dir.path()).is_ok());
    }
}
