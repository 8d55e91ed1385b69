//! Whether a file system lives in memory and cannot reach a disk.
//!
//! ramfs never swaps. tmpfs swaps, unless mounted with `noswap` (Linux 6.4, `tmpfs(5)`), so
//! every active swap area (`/proc/swaps`) has to be encrypted or memory itself: a dm-crypt
//! device (its `dm/uuid` begins with `CRYPT-`), a device-mapper volume that lies on nothing
//! else, or a zram without a backing device. A swap *file* counts as unencrypted, even on an
//! encrypted disk: what lies under a file system cannot be told reliably.
//!
//! Swap that is switched on later is not noticed until the next hand-over; hibernation
//! writes to the same areas, and so is covered by the same test.

use std::fs;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{fstat, fstatfs, major, minor};

/// `TMPFS_MAGIC` (`linux/magic.h`); devtmpfs says the same and swaps the same.
const TMPFS_MAGIC: u64 = 0x0102_1994;
/// `RAMFS_MAGIC` (`linux/magic.h`).
const RAMFS_MAGIC: u64 = 0x8584_58F6;
/// How deep device-mapper volumes may lie on each other before we call it unknown.
const LAYERS_MAX: u32 = 8;

/// Where the kernel tells about swap, mounts and block devices.
#[derive(Clone, Debug)]
pub struct Memory {
    proc: PathBuf,
    sys: PathBuf,
}

impl Memory {
    /// As mounted on every Linux.
    #[must_use]
    pub fn new() -> Self {
        Memory { proc: "/proc".into(), sys: "/sys".into() }
    }

    /// Copies of the two trees, for tests.
    #[must_use]
    pub fn at(proc: &Path, sys: &Path) -> Self {
        Memory { proc: proc.into(), sys: sys.into() }
    }

    /// Checks the file system of an open directory.
    ///
    /// # Errors
    /// Why a PIN there could reach a disk, for the log.
    pub fn check(&self, directory: impl AsFd) -> Result<(), String> {
        let unknown = |errno: rustix::io::Errno| format!("its file system cannot be told: {errno}");
        // The kernel's type is signed on some machines; the magic is 32 bits of it.
        let kind = fstatfs(&directory).map_err(unknown)?.f_type as u64 & 0xFFFF_FFFF;
        match kind {
            RAMFS_MAGIC => Ok(()),
            TMPFS_MAGIC => {
                let device = fstat(&directory).map_err(unknown)?.st_dev;
                if self.mounted_noswap(&format!("{}:{}", major(device), minor(device))) {
                    return Ok(());
                }
                self.swap_is_protected()
            }
            _ => Err("its directory is not on tmpfs or ramfs".into()),
        }
    }

    /// Whether the tmpfs with this `major:minor` has the option `noswap`.
    fn mounted_noswap(&self, device: &str) -> bool {
        // proc(5), mountinfo: the third field is the device, super options follow "- type source".
        let mounts = fs::read_to_string(self.proc.join("self/mountinfo")).unwrap_or_default();
        mounts.lines().any(|line| {
            let Some((mount, superblock)) = line.split_once(" - ") else { return false };
            let options = superblock.split(' ').nth(2).unwrap_or_default();
            mount.split(' ').nth(2) == Some(device) && options.split(',').any(|option| option == "noswap")
        })
    }

    /// Whether every active swap area is encrypted or memory.
    fn swap_is_protected(&self) -> Result<(), String> {
        let path = self.proc.join("swaps");
        let swaps = match fs::read_to_string(&path) {
            Ok(swaps) => swaps,
            // A kernel without swap has no such file, but then proc itself is there.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.proc.join("self/mountinfo").exists() => {
                return Ok(());
            }
            Err(error) => return Err(format!("{}: {error}", path.display())),
        };
        for line in swaps.lines().skip(1).filter(|line| !line.trim().is_empty()) {
            let mut fields = line.split_whitespace();
            let area = fields.next().unwrap_or_default();
            if fields.next() != Some("partition") || !self.area_is_protected(area) {
                return Err(format!(
                    "tmpfs may be swapped to {area}, which is not encrypted; use ramfs, mount it with noswap, or encrypt the swap"
                ));
            }
        }
        Ok(())
    }

    fn area_is_protected(&self, area: &str) -> bool {
        // Names under /dev/mapper are links to the kernel's own names.
        let path = Path::new(area);
        let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
        path.file_name().and_then(|name| name.to_str()).is_some_and(|name| self.device_is_protected(name, LAYERS_MAX))
    }

    fn device_is_protected(&self, name: &str, layers_left: u32) -> bool {
        let block = self.sys.join("block").join(name);
        if name.starts_with("zram") {
            // A zram may write idle pages to a disk (Documentation/admin-guide/blockdev/zram.rst).
            return match fs::read_to_string(block.join("backing_dev")) {
                Ok(backing) => backing.trim() == "none",
                // Kernels without CONFIG_ZRAM_WRITEBACK have no such attribute.
                Err(_) => block.is_dir(),
            };
        }
        let Ok(uuid) = fs::read_to_string(block.join("dm/uuid")) else { return false };
        if uuid.starts_with("CRYPT-") {
            return true;
        }
        let Some(layers_left) = layers_left.checked_sub(1) else { return false };
        let Ok(under) = fs::read_dir(block.join("slaves")) else { return false };
        let mut any = false;
        for device in under {
            let Ok(device) = device else { return false };
            any = true;
            if !device.file_name().to_str().is_some_and(|name| self.device_is_protected(name, layers_left)) {
                return false;
            }
        }
        any
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A `/proc` and a `/sys` in which these swap areas are active.
    struct Kernel {
        dir: tempfile::TempDir,
    }

    impl Kernel {
        fn with_swaps(lines: &[&str]) -> Self {
            let dir = tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there");
            let kernel = Kernel { dir };
            kernel.file("proc/self/mountinfo", "1 1 0:99 / /x rw - tmpfs tmpfs rw,size=8k\n");
            let mut swaps = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n".to_owned();
            for line in lines {
                swaps.push_str(line);
                swaps.push_str("\t\t1048572\t\t0\t\t-2\n");
            }
            kernel.file("proc/swaps", &swaps);
            kernel
        }

        fn file(&self, path: &str, text: &str) {
            let path = self.dir.path().join(path);
            fs::create_dir_all(path.parent().expect("it has a directory")).expect("writable");
            fs::write(path, text).expect("writable");
        }

        fn memory(&self) -> Memory {
            Memory::at(&self.dir.path().join("proc"), &self.dir.path().join("sys"))
        }

        fn refuses(&self) -> bool {
            let shm = fs::File::open("/dev/shm").expect("/dev/shm is there");
            self.memory().check(&shm).is_err()
        }
    }

    #[test]
    fn a_disk_file_system_is_refused_whatever_the_swap() {
        let kernel = Kernel::with_swaps(&[]);
        let root = fs::File::open("/").expect("there is a root");
        assert!(kernel.memory().check(&root).is_err());
    }

    #[test]
    fn tmpfs_with_a_plain_partition_or_a_swap_file_is_refused() {
        assert!(Kernel::with_swaps(&["/dev/sda2 partition"]).refuses());
        assert!(Kernel::with_swaps(&["/swapfile file"]).refuses());
        let kernel = Kernel::with_swaps(&["/dev/dm-0 partition", "/dev/sda2 partition"]);
        kernel.file("sys/block/dm-0/dm/uuid", "CRYPT-PLAIN-swap\n");
        assert!(kernel.refuses());
    }

    #[test]
    fn tmpfs_with_swap_nobody_can_tell_about_is_refused() {
        let kernel = Kernel::with_swaps(&[]);
        fs::remove_dir_all(kernel.dir.path().join("proc")).expect("it is there");
        assert!(kernel.refuses());
        let kernel = Kernel::with_swaps(&["/dev/zram0 partition"]);
        assert!(kernel.refuses());
        kernel.file("sys/block/zram0/backing_dev", "/dev/sda3\n");
        assert!(kernel.refuses());
        let kernel = Kernel::with_swaps(&["/dev/dm-1 partition"]);
        kernel.file("sys/block/dm-1/dm/uuid", "LVM-abc\n");
        assert!(kernel.refuses());
        kernel.file("sys/block/dm-1/slaves/sda4/partition", "4\n");
        assert!(kernel.refuses());
    }

    #[test]
    fn tmpfs_without_swap_or_with_encrypted_swap_is_taken() {
        assert!(!Kernel::with_swaps(&[]).refuses());
        let kernel = Kernel::with_swaps(&["/dev/dm-0 partition"]);
        kernel.file("sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-0011-swap\n");
        assert!(!kernel.refuses());
        let kernel = Kernel::with_swaps(&["/dev/zram0 partition"]);
        kernel.file("sys/block/zram0/backing_dev", "none\n");
        assert!(!kernel.refuses());
        let kernel = Kernel::with_swaps(&["/dev/dm-1 partition"]);
        kernel.file("sys/block/dm-1/dm/uuid", "LVM-abc\n");
        kernel.file("sys/block/dm-1/slaves/dm-0/x", "");
        kernel.file("sys/block/dm-0/dm/uuid", "CRYPT-LUKS2-0011-vg\n");
        assert!(!kernel.refuses());
        let kernel = Kernel::with_swaps(&[]);
        fs::remove_file(kernel.dir.path().join("proc/swaps")).expect("it is there");
        assert!(!kernel.refuses());
    }

    #[test]
    fn noswap_counts_only_for_the_mount_that_has_it() {
        let shm = fs::File::open("/dev/shm").expect("/dev/shm is there");
        let device = fstat(&shm).expect("it is open").st_dev;
        let kernel = Kernel::with_swaps(&["/dev/sda2 partition"]);
        kernel.file("proc/self/mountinfo", "1 1 0:9999 / /x rw - tmpfs tmpfs rw,noswap\n");
        assert!(kernel.refuses());
        let line =
            format!("2 1 {}:{} / /x rw shared:1 - tmpfs noswap rw,size=8k,noswap\n", major(device), minor(device));
        kernel.file("proc/self/mountinfo", &line.replace(",noswap\n", "\n"));
        assert!(kernel.refuses());
        kernel.file("proc/self/mountinfo", &line);
        assert!(!kernel.refuses());
    }
}
