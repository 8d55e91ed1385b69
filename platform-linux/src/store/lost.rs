//! What is left of a lost store, moved aside so that a new one can be made.
//!
//! Nothing is deleted and nothing that can be read is moved: a store that opens with its seal
//! was not lost, and one of a newer version is somebody's. The marker is moved last, so after
//! a power cut at any point the directory still says that a store was lost here, and the same
//! order goes on. An order that stands in a unit file is refused at the next start, since
//! nothing is lost then: it cannot make a new store of the next loss unseen.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use slotwarden_core::fault::Refusal;

use super::directory::{Directory, Found, sync_directory};
use super::{Refused, StoreSettings, inspect, unseal_node, zeroize};
use crate::{output, seal};

/// What the name of such a directory begins with.
const ASIDE_PREFIX: &str = "lost-";
/// Directories of one second: who orders it oftener is a runaway script.
const SAME_SECOND_MAX: u32 = 16;

/// Moves store, data key, key file and marker into `lost-DATE`; returns where they lie.
///
/// # Errors
/// [`Refusal::StoreNotLost`] where a store can be read or none ever was;
/// [`Refusal::StoreLocked`], [`Refusal::StoreNewer`], and what the file system forbids:
/// nothing was changed. [`Refusal::StoreFailed`]: the disk refused; the same order goes on.
pub fn set_lost_aside(settings: &StoreSettings) -> Result<PathBuf, Refused> {
    let directory = Directory::make(&settings.state_dir)?;
    // Held until everything is moved; the opening that follows takes it anew.
    let _lock = directory.lock()?;
    zeroize::destroy_if_ordered(&directory, settings)?;
    match read(&directory, settings) {
        Ok(()) => return Err(Refused::new(Refusal::StoreNotLost, directory.path.display().to_string())),
        Err(refused) if refused.forbidden || !is_a_loss(refused.refusal) => return Err(refused),
        Err(_) => {}
    }
    let failed = |error: io::Error| Refused::new(Refusal::StoreFailed, error.to_string());
    let aside = make_aside(&directory.path).map_err(failed)?;
    let in_directory = |path: &PathBuf| path.parent() == Some(directory.path.as_path());
    let key_file = Some(settings.seal.key_file.clone()).filter(in_directory);
    let left = [
        directory.store(),
        directory.store_in_making(),
        directory.blob(),
        directory.next_blob(),
        directory.zeroize_intent(),
    ];
    for path in left.into_iter().chain(key_file).chain([directory.marker()]) {
        move_into(&path, &aside).map_err(failed)?;
    }
    Ok(aside)
}

/// Directories of stores that were set aside.
///
/// # Errors
/// Of the file system.
pub(super) fn set_aside_in(state_dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(state_dir)? {
        let entry = entry?;
        let is_named_so = entry.file_name().to_str().is_some_and(|name| name.starts_with(ASIDE_PREFIX));
        if is_named_so && entry.file_type()?.is_dir() {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Whether the store opens, with everything that an opening checks.
fn read(directory: &Directory, settings: &StoreSettings) -> Result<(), Refused> {
    match directory.look()? {
        // The first start makes the store by itself.
        Found::Nothing => return Ok(()),
        Found::Store { .. } => {}
    }
    let content = inspect(directory)?;
    if directory.zeroize_intent().exists() || directory.next_blob().exists() {
        // The next start makes a new data key: nothing is lost but what was to be destroyed.
        return Ok(());
    }
    let blob = directory.blob();
    let bytes = fs::read(&blob).map_err(|error| Refused::of_file(Refusal::SealMissing, &blob, &error))?;
    let (key, _) = seal::open(&bytes, &settings.seal)?;
    unseal_node(&content, &key).map(|_| ())
}

const fn is_a_loss(refusal: Refusal) -> bool {
    matches!(refusal, Refusal::StoreMissing | Refusal::StoreUnreadable | Refusal::SealMissing | Refusal::SealWrong)
}

/// A new directory whose name says when, durable under its name.
fn make_aside(parent: &Path) -> io::Result<PathBuf> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let date: String = output::utc(seconds).chars().filter(char::is_ascii_digit).collect();
    for again in 0..SAME_SECOND_MAX {
        let suffix = if again == 0 { String::new() } else { format!("-{again}") };
        let path = parent.join(format!("{ASIDE_PREFIX}{date}{suffix}"));
        match DirBuilder::new().mode(0o700).create(&path) {
            Ok(()) => return sync_directory(parent).map(|()| path),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

/// Moves a file if it is there; on return both directories are durable.
fn move_into(path: &Path, aside: &Path) -> io::Result<()> {
    let Some(name) = path.file_name() else { return Ok(()) };
    match fs::rename(path, aside.join(name)) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    sync_directory(aside)?;
    path.parent().map_or(Ok(()), sync_directory)
}
