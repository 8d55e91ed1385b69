//! Room on the disk, and the ballast that keeps some.
//!
//! A file of 4 MiB is given up when less than that is free, so that deactivations, stops and
//! the journal of boot still find room. It is made again when there is plenty, with a gap
//! between the two limits, so that it does not come and go.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use slotwarden_core::effect::Room;

use super::directory::{create_private, remove_if_there};

/// Below this much free space the ballast is given up, bytes (the product's figure: 4 MiB).
pub const RESERVE_BYTES: u64 = 4 << 20;
/// Free space at which the ballast is made again, bytes: what it takes, what must be left
/// after it, and as much again, so that a disk at the limit does not alternate.
const PLENTY_BYTES: u64 = 3 * RESERVE_BYTES;

/// The ballast of one state directory.
#[derive(Clone, Debug)]
pub struct Ballast {
    directory: PathBuf,
    path: PathBuf,
}

impl Ballast {
    /// The ballast in this directory; nothing is made yet.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Ballast { directory: directory.to_owned(), path: directory.join("ballast") }
    }

    /// How much room there is; gives the ballast up, or makes it again, as that demands.
    #[must_use]
    pub fn room(&self) -> Room {
        // A file system that does not say how much is free gets no benefit of the doubt.
        let free = statvfs(&self.directory).map_or(0, |figures| figures.f_bavail.saturating_mul(figures.f_frsize));
        let there = fs::metadata(&self.path).is_ok_and(|file| file.len() == RESERVE_BYTES);
        if there && free >= RESERVE_BYTES {
            return Room::Plenty;
        }
        if free >= PLENTY_BYTES && remove_if_there(&self.path).is_ok() && self.make().is_ok() {
            return Room::Plenty;
        }
        // Also removes a ballast that was cut short while it was made. If it cannot be
        // removed there is simply less room; the commit that needs it will say so.
        let _ = remove_if_there(&self.path);
        Room::Reserve
    }

    /// Gives the ballast up for what must not wait for room.
    ///
    /// # Errors
    /// Of the file system.
    pub fn give_up(&self) -> io::Result<()> {
        remove_if_there(&self.path)
    }

    fn make(&self) -> io::Result<()> {
        let mut file = create_private(&self.path)?;
        match fallocate(&file, FallocateFlags::empty(), 0, RESERVE_BYTES) {
            Ok(()) => {}
            // Where blocks cannot be reserved they are written, with bytes that no file
            // system compresses away.
            Err(rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::NOSYS) => {
                let mut block = vec![0; 1 << 16];
                for _ in 0..RESERVE_BYTES / (1 << 16) {
                    getrandom::fill(&mut block).map_err(io::Error::other)?;
                    file.write_all(&block)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        file.sync_all()
    }
}
