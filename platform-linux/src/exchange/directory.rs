//! A directory that all members share: of one machine, or of a network file system.
//!
//! ```text
//! ⟨root⟩/⟨cluster⟩/⟨node⟩/package
//!                        /.package.part     while it is being written
//! ```
//!
//! A file is written under another name, synced, renamed, and its directory is synced: whoever reads
//! sees it whole or not at all, also after a power cut. Files copied there by hand are read as well,
//! and one that grows while it is read is looked at again. Each member writes into a directory of its
//! own, so with several user ids nobody can write over another's files; who may enter and read is
//! what the administrator gave to the root: its mode and group are handed down. Below the root no
//! symbolic link is followed, only ordinary files are opened, and nothing is listed, so what else lies
//! there does not matter.
//!
//! inotify(7) says when something changed; it says nothing of what other machines write on a network
//! file system, and of what was mounted over the root, so the courier looks in intervals as well. A
//! root that is gone is not made: it may be a file system that is not mounted. It is waited for.

use std::fs::{File, Permissions};
use std::io::{self, Read as _, Write};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, fchmod, fchown, fstat, fsync, mkdirat, openat, renameat, statat,
    unlinkat,
};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::time::Timespec;
use sha2::{Digest as _, Sha256};

use super::{Bell, Exchange, Failure, Members, Name, Offer, Source, Version, ours};

/// Pause between two looks for a root that is not there.
const ABSENT_PAUSE: Timespec = Timespec { tv_sec: 1, tv_nsec: 0 };
/// How often the watch is put on again: the root may have been replaced or mounted over.
const WATCH_AGAIN: Timespec = Timespec { tv_sec: 30, tv_nsec: 0 };
/// What is watched for: names that come and go, and files that are written by hand.
const WATCHED: WatchFlags = WatchFlags::CREATE
    .union(WatchFlags::MOVED_TO)
    .union(WatchFlags::MOVED_FROM)
    .union(WatchFlags::CLOSE_WRITE)
    .union(WatchFlags::DELETE)
    .union(WatchFlags::DELETE_SELF)
    .union(WatchFlags::MOVE_SELF)
    .union(WatchFlags::ONLYDIR);
/// Changes that are read before the bell rings: what the kernel keeps of them by default.
const EVENTS_MAX: usize = 16_384;
/// What is wrong where a directory of ours is something else.
const REPLACED: &str = "our own directory in it was replaced or is closed to us";
/// Bytes copied at once.
const BUFFER_BYTES: usize = 64 * 1024;
/// A directory in the path of a file: never through a link.
const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// A file of another member: a pipe or a terminal must not hold us up.
const FOREIGN: OFlags =
    OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);

/// A shared directory.
pub struct Directory {
    root: PathBuf,
    /// Closed to end the thread that watches.
    watching: Option<OwnedFd>,
}

impl Directory {
    /// The directory at this path; it need not be there yet.
    #[must_use]
    pub fn new(root: PathBuf) -> Self {
        Directory { root, watching: None }
    }

    fn root(&self) -> Result<OwnedFd, Failure> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        openat(CWD, &self.root, flags, Mode::empty()).map_err(|error| unreachable(&self.root, error.into()))
    }

    /// The directory in which this member's files are; `None`: there is none.
    fn node(&self, root: &OwnedFd, name: &Name) -> Result<Option<OwnedFd>, Failure> {
        let mut folder = None;
        for part in [name.cluster_hex(), name.node_hex()] {
            match openat(folder.as_ref().unwrap_or(root), part.as_str(), FOLDER, Mode::empty()) {
                Ok(found) => folder = Some(found),
                // A link, a file, or closed to us: as if it were not there.
                Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM) => return Ok(None),
                Err(error) => return Err(unreachable(&self.root, error.into())),
            }
        }
        Ok(folder)
    }

    /// Makes a member's own directory, if it is missing.
    fn make_node(&self, root: &OwnedFd, name: &Name) -> io::Result<()> {
        let about = fstat(root)?;
        // Other members make their own in it.
        let cluster = make_folder(root, &name.cluster_hex(), about.st_mode & 0o3777, about.st_gid)?;
        make_folder(&cluster, &name.node_hex(), about.st_mode & 0o2755, about.st_gid).map(drop)
    }

    fn put(&self, name: &Name, source: &mut Source<'_>) -> Result<Offer, Failure> {
        let failed = |error: io::Error| unreachable(&self.root, error);
        let root = self.root()?;
        self.make_node(&root, name).map_err(failed)?;
        let mode = fstat(&root).map_err(|error| failed(error.into()))?.st_mode & 0o644;
        // Opened without a link, whatever became of the path meanwhile.
        let Some(folder) = self.node(&root, name)? else {
            return Err(failed(io::Error::other(REPLACED)));
        };
        let part = format!(".{}.part", name.what.word());
        match unlinkat(&folder, part.as_str(), AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(failed(error.into())),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(&folder, part.as_str(), flags, Mode::from_raw_mode(0o600));
        let mut file = File::from(file.map_err(|error| failed(error.into()))?);
        let written = fill(&mut file, source, mode, &self.root).and_then(|()| {
            renameat(&folder, part.as_str(), &folder, name.what.word()).map_err(|error| failed(error.into()))?;
            fsync(&folder).map_err(|error| failed(error.into()))?;
            fstat(&file).map_err(|error| failed(error.into()))
        });
        match written {
            Ok(found) => Ok(offer(name, &found)),
            Err(failure) => {
                let _ = unlinkat(&folder, part.as_str(), AtFlags::empty());
                Err(failure)
            }
        }
    }
}

impl Exchange for Directory {
    fn description(&self) -> String {
        format!("directory {}", self.root.display())
    }

    fn watch(&mut self, members: &Members, bell: Bell) -> Result<(), Failure> {
        self.watching = None;
        let failed = |error: Errno| unreachable(&self.root, error.into());
        let inotify = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).map_err(failed)?;
        let (ending, held) = pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let mut paths = vec![self.root.clone()];
        for node in members.others.iter().chain([&members.own]) {
            let name = Name { cluster: members.cluster, node: *node, what: super::What::Package };
            let cluster = self.root.join(name.cluster_hex());
            paths.push(cluster.join(name.node_hex()));
            if paths.len() == 2 {
                paths.insert(1, cluster);
            }
        }
        let watch = Watch { paths, inotify, ending, bell };
        let started = thread::Builder::new().name("exchange watch".to_owned()).spawn(move || watch.run());
        started.map_err(|error| unreachable(&self.root, error))?;
        self.watching = Some(held);
        Ok(())
    }

    fn look(&mut self, wanted: &[Name]) -> Result<Vec<Offer>, Failure> {
        let root = self.root()?;
        let mut offers = Vec::new();
        for name in wanted {
            let Some(folder) = self.node(&root, name)? else { continue };
            // What cannot be looked at is not there.
            if let Ok(found) = statat(&folder, name.what.word(), AtFlags::SYMLINK_NOFOLLOW)
                && is_file(&found)
            {
                offers.push(offer(name, &found));
            }
        }
        Ok(offers)
    }

    fn fetch(&mut self, wanted: &Offer, into: &mut dyn Write) -> Result<(), Failure> {
        let root = self.root()?;
        let folder = self.node(&root, &wanted.name)?.ok_or(Failure::Changed)?;
        let mut file = match openat(&folder, wanted.name.what.word(), FOREIGN, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT | Errno::LOOP | Errno::NXIO) => return Err(Failure::Changed),
            // One file that is closed to us says nothing about the others.
            Err(error) => return Err(Failure::Ours(format!("it cannot be read: {}", io::Error::from(error)))),
        };
        let same =
            |file: &File| fstat(file).is_ok_and(|found| is_file(&found) && offer(&wanted.name, &found) == *wanted);
        if !same(&file) {
            return Err(Failure::Changed);
        }
        let mut buffer = vec![0; BUFFER_BYTES];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => break,
                Ok(count) => into.write_all(buffer.get(..count).unwrap_or_default()).map_err(|error| ours(&error))?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(unreachable(&self.root, error)),
            }
        }
        if same(&file) { Ok(()) } else { Err(Failure::Changed) }
    }

    fn publish(&mut self, name: &Name, source: &mut Source<'_>) -> Result<Offer, Failure> {
        self.put(name, source)
    }

    fn withdraw(&mut self, name: &Name) -> Result<(), Failure> {
        let root = self.root()?;
        let Some(folder) = self.node(&root, name)? else { return Ok(()) };
        match unlinkat(&folder, name.what.word(), AtFlags::empty()) {
            Ok(()) => rustix::fs::fsync(&folder).map_err(|error| unreachable(&self.root, error.into())),
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(unreachable(&self.root, error.into())),
        }
    }
}

fn fill(file: &mut File, source: &mut Source<'_>, mode: u32, root: &Path) -> Result<(), Failure> {
    let failed = |error: io::Error| unreachable(root, error);
    let mut buffer = vec![0; BUFFER_BYTES];
    let (mut hash, mut length_bytes) = (Sha256::new(), 0);
    loop {
        let count = source.bytes.read(&mut buffer).map_err(|error| ours(&error))?;
        let Some(bytes) = buffer.get(..count).filter(|bytes| !bytes.is_empty()) else { break };
        file.write_all(bytes).map_err(failed)?;
        hash.update(bytes);
        length_bytes += bytes.len() as u64;
    }
    if length_bytes != source.length_bytes || hash.finalize()[..] != source.hash {
        return Err(Failure::Changed);
    }
    file.set_permissions(Permissions::from_mode(mode)).map_err(failed)?;
    file.sync_all().map_err(failed)
}

/// A directory, which is made where it is missing: durably, with this mode and, where we may, this group. What is changed
/// is what was opened, and never through a link that somebody put there meanwhile.
fn make_folder(parent: &OwnedFd, name: &str, mode: u32, group: u32) -> io::Result<OwnedFd> {
    let made = match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => true,
        Err(Errno::EXIST) => false,
        Err(error) => return Err(error.into()),
    };
    let folder = openat(parent, name, FOLDER, Mode::empty()).map_err(|error| match error {
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::ACCESS | Errno::PERM => io::Error::other(REPLACED),
        error => error.into(),
    })?;
    if made {
        // Without the right to give it away it keeps ours, or that of a parent with setgid.
        let _ = fchown(&folder, None, Some(Gid::from_raw(group)));
        fchmod(&folder, Mode::from_raw_mode(mode))?;
        fsync(parent)?;
    }
    Ok(folder)
}

fn is_file(found: &Stat) -> bool {
    FileType::from_raw_mode(found.st_mode) == FileType::RegularFile
}

fn offer(name: &Name, found: &Stat) -> Offer {
    let mut hash = Sha256::new();
    // Not the time of the inode: a changed mode is no other file.
    for figure in [found.st_ino, found.st_size.cast_unsigned(), found.st_mtime.cast_unsigned(), found.st_mtime_nsec] {
        hash.update(figure.to_be_bytes());
    }
    let length_bytes = u64::try_from(found.st_size).unwrap_or(0);
    Offer { name: *name, version: Version(hash.finalize().into()), length_bytes, hash: None }
}

fn unreachable(root: &Path, error: io::Error) -> Failure {
    Failure::Unreachable(format!("{}: {error}", root.display()))
}

/// The thread that waits for the kernel to say that something changed.
struct Watch {
    /// The root, the cluster's directory, each member's.
    paths: Vec<PathBuf>,
    inotify: OwnedFd,
    /// Closed at its other end when the thread shall end.
    ending: OwnedFd,
    bell: Bell,
}

impl Watch {
    fn run(self) {
        let mut watched: Vec<Option<i32>> = Vec::new();
        loop {
            let now: Vec<Option<i32>> = self.paths.iter().map(|path| self.watch(path)).collect();
            if now != watched {
                // Something came, went or was replaced before it was watched.
                (self.bell)();
            }
            let pause = if now.first().is_some_and(Option::is_some) { WATCH_AGAIN } else { ABSENT_PAUSE };
            watched = now;
            let mut waited = [PollFd::new(&self.inotify, PollFlags::IN), PollFd::new(&self.ending, PollFlags::empty())];
            match poll(&mut waited, Some(&pause)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(_) => return,
            }
            let [changed, ending] = waited.map(|one| !one.revents().is_empty());
            if ending {
                return;
            }
            if changed {
                self.drain();
                (self.bell)();
                // A directory full of changes is not worth a look for each.
                thread::sleep(Duration::from_millis(20));
            }
        }
    }

    fn watch(&self, path: &Path) -> Option<i32> {
        let root = self.paths.first().is_some_and(|root| root == path);
        let flags = if root { WATCHED } else { WATCHED | WatchFlags::DONT_FOLLOW };
        inotify::add_watch(&self.inotify, path, flags).ok()
    }

    /// Which changes there were does not matter.
    fn drain(&self) {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        // Somebody may make changes faster than they are read.
        for _ in 0..EVENTS_MAX {
            if events.next().is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt as _, symlink};
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, channel};

    use tempfile::TempDir;

    use super::super::What;
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(20);
    const NAME: Name = Name { cluster: [0xC1; 16], node: [0xA0; 32], what: What::Package };

    fn root() -> TempDir {
        tempfile::tempdir_in("/dev/shm").expect("/dev/shm is writable")
    }

    fn publish(engine: &mut Directory, bytes: &[u8]) -> Result<Offer, Failure> {
        let hash = Sha256::digest(bytes).into();
        let mut reader = bytes;
        engine.publish(&NAME, &mut Source { length_bytes: bytes.len() as u64, hash, bytes: &mut reader })
    }

    fn fetch(engine: &mut Directory, offer: &Offer) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        engine.fetch(offer, &mut bytes).map(|()| bytes)
    }

    fn folder(root: &TempDir) -> PathBuf {
        root.path().join(NAME.cluster_hex()).join(NAME.node_hex())
    }

    fn bell() -> (Bell, Receiver<()>) {
        let (ring, rung) = channel();
        let ring = std::sync::Mutex::new(ring);
        let bell = move || {
            let _ = ring.lock().expect("nobody panics here").send(());
        };
        (Arc::new(bell), rung)
    }

    fn members() -> Members {
        Members { cluster: NAME.cluster, own: [0xB0; 32], others: vec![NAME.node] }
    }

    #[test]
    fn what_is_published_is_found_whole_and_replaced_and_withdrawn() {
        let root = root();
        let mut engine = Directory::new(root.path().to_owned());
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        let one = publish(&mut engine, b"one").expect("the root is writable");
        assert_eq!(engine.look(&[NAME]), Ok(vec![one]));
        assert_eq!(fetch(&mut engine, &one), Ok(b"one".to_vec()));
        let two = publish(&mut engine, b"two").expect("the root is writable");
        assert_eq!(fetch(&mut engine, &one), Err(Failure::Changed), "that one is not there any more");
        assert_eq!(fetch(&mut engine, &two), Ok(b"two".to_vec()));
        let names: Vec<_> = fs::read_dir(folder(&root)).expect("just made").collect();
        assert_eq!(names.len(), 1, "nothing is left beside it: {names:?}");
        assert_eq!(engine.withdraw(&NAME), Ok(()));
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        assert_eq!(engine.withdraw(&NAME), Ok(()));
    }

    #[test]
    fn a_source_that_changes_while_it_is_read_replaces_nothing() {
        let root = root();
        let mut engine = Directory::new(root.path().to_owned());
        let good = publish(&mut engine, b"good").expect("the root is writable");
        for (bytes, length_bytes) in [(&b"evil"[..], 4), (b"goo", 4), (b"good and more", 4)] {
            let mut reader = bytes;
            let hash = Sha256::digest(b"good").into();
            let result = engine.publish(&NAME, &mut Source { length_bytes, hash, bytes: &mut reader });
            assert_eq!(result, Err(Failure::Changed));
        }
        assert_eq!(fetch(&mut engine, &good), Ok(b"good".to_vec()));
        assert_eq!(fs::read_dir(folder(&root)).expect("just made").count(), 1);
    }

    #[test]
    fn links_pipes_and_directories_in_place_of_a_file_are_ignored() {
        let root = root();
        let mut engine = Directory::new(root.path().to_owned());
        let there = publish(&mut engine, b"bytes").expect("the root is writable");
        let file = folder(&root).join("package");
        let secret = root.path().join("secret");
        fs::rename(&file, &secret).expect("our own directory");
        symlink(&secret, &file).expect("our own directory");
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        assert_eq!(fetch(&mut engine, &there), Err(Failure::Changed));
        fs::remove_file(&file).expect("our own directory");
        fs::create_dir(&file).expect("our own directory");
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        assert_eq!(fetch(&mut engine, &there), Err(Failure::Changed));
        fs::remove_dir(&file).expect("our own directory");
        rustix::fs::mkfifoat(CWD, &file, Mode::RWXU).expect("our own directory");
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        assert_eq!(fetch(&mut engine, &there), Err(Failure::Changed), "a pipe does not hold the reader");
        // The member's whole directory, elsewhere.
        fs::rename(folder(&root), root.path().join("elsewhere")).expect("our own directory");
        symlink(root.path().join("elsewhere"), folder(&root)).expect("our own directory");
        assert_eq!(engine.look(&[NAME]), Ok(vec![]));
        assert!(
            matches!(publish(&mut engine, b"x"), Err(Failure::Unreachable(_))),
            "nothing is written through a link"
        );
        // And the cluster's: nothing is made, and nobody's rights are changed, where a link leads.
        let (root, outside) = (self::root(), tempfile::tempdir().expect("there is a place for it"));
        symlink(outside.path(), folder(&root).parent().expect("the cluster's")).expect("our own directory");
        let before = fs::metadata(outside.path()).expect("just made").mode();
        let mut engine = Directory::new(root.path().to_owned());
        assert!(matches!(publish(&mut engine, b"x"), Err(Failure::Unreachable(_))));
        assert_eq!(fs::read_dir(outside.path()).expect("it is ours").count(), 0);
        assert_eq!(fs::metadata(outside.path()).expect("just made").mode(), before);
    }

    #[test]
    fn a_file_that_grows_while_it_is_read_is_not_whole() {
        struct Grow(PathBuf);
        impl Write for Grow {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                let mut file = fs::OpenOptions::new().append(true).open(&self.0)?;
                file.write_all(b"more")?;
                Ok(bytes.len())
            }
            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let root = root();
        let mut engine = Directory::new(root.path().to_owned());
        let there = publish(&mut engine, &vec![1; 10 * BUFFER_BYTES]).expect("the root is writable");
        // Bounded here by the writer, as the courier's is.
        let mut grow = Bound(Grow(folder(&root).join("package")), 20);
        assert!(engine.fetch(&there, &mut grow).is_err());
    }

    struct Bound<W>(W, u32);
    impl<W: Write> Write for Bound<W> {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.1 = self.1.checked_sub(1).ok_or_else(|| io::Error::other("too long"))?;
            self.0.write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn modes_are_those_that_the_root_hands_down() {
        for (of_root, of_cluster, of_node, of_file) in
            [(0o700, 0o700, 0o700, 0o600), (0o2770, 0o2770, 0o2750, 0o640), (0o1777, 0o1777, 0o755, 0o644)]
        {
            let root = root();
            fs::set_permissions(root.path(), Permissions::from_mode(of_root)).expect("our own directory");
            publish(&mut Directory::new(root.path().to_owned()), b"bytes").expect("the root is writable");
            let mode = |path: &Path| fs::metadata(path).expect("just made").mode() & 0o7777;
            let node = folder(&root);
            let found = (mode(node.parent().expect("the cluster's")), mode(&node), mode(&node.join("package")));
            assert_eq!(found, (of_cluster, of_node, of_file), "of a root with {of_root:o}");
        }
    }

    #[test]
    fn the_bell_rings_for_every_way_in_which_a_file_comes() {
        let root = root();
        let (ring, rung) = bell();
        let mut engine = Directory::new(root.path().to_owned());
        engine.watch(&members(), ring).expect("inotify is there");
        rung.recv_timeout(PATIENCE).expect("it rings when it begins");
        let quiet = || while rung.recv_timeout(Duration::from_millis(200)).is_ok() {};
        quiet();
        publish(&mut engine, b"into a directory that is new").expect("the root is writable");
        rung.recv_timeout(PATIENCE).expect("a first file");
        quiet();
        publish(&mut engine, b"renamed into its place").expect("the root is writable");
        rung.recv_timeout(PATIENCE).expect("a second file");
        quiet();
        fs::write(folder(&root).join("package"), "written by hand").expect("our own directory");
        rung.recv_timeout(PATIENCE).expect("a file by hand");
    }

    #[test]
    fn a_root_that_vanishes_is_waited_for_and_not_made() {
        let place = root();
        let root = place.path().join("mounted later");
        let (ring, rung) = bell();
        let mut engine = Directory::new(root.clone());
        engine.watch(&members(), ring).expect("inotify is there");
        while rung.recv_timeout(Duration::from_millis(200)).is_ok() {}
        assert!(matches!(engine.look(&[NAME]), Err(Failure::Unreachable(_))));
        assert!(matches!(publish(&mut engine, b"bytes"), Err(Failure::Unreachable(_))));
        assert!(!root.exists());
        for round in 0..2 {
            fs::create_dir(&root).expect("our own directory");
            rung.recv_timeout(PATIENCE).expect("the root is there");
            let there = publish(&mut engine, &[round]).expect("the root is writable");
            assert_eq!(engine.look(&[NAME]), Ok(vec![there]));
            while rung.recv_timeout(Duration::from_millis(200)).is_ok() {}
            fs::remove_dir_all(&root).expect("our own directory");
            rung.recv_timeout(PATIENCE).expect("the root is gone");
            while rung.recv_timeout(Duration::from_millis(200)).is_ok() {}
        }
    }

    #[test]
    fn the_thread_that_watches_ends_with_its_engine() {
        let (ring, rung) = bell();
        let root = root();
        let mut engine = Directory::new(root.path().to_owned());
        engine.watch(&members(), ring).expect("inotify is there");
        drop(engine);
        // The bell is dropped with the thread.
        while rung.recv_timeout(PATIENCE) != Err(std::sync::mpsc::RecvTimeoutError::Disconnected) {}
    }
}
