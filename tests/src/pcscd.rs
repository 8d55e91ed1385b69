//! A real pcscd whose readers are in the simulator, hidden from every other one.
//!
//! pcscd has one place for its socket, `/run/pcscd`, so there is one to a mount namespace.
//! [`Pcscd::start`] takes the *calling thread* into a namespace of its own, where `/run/pcscd`
//! is an empty file system in memory. What this thread starts afterwards (programs and
//! threads alike) is in there too: the `pcsc` crate, `opensc-tool` and a whole
//! [`Stage`](crate::stage::Stage) need nothing else. Tests run in parallel, each in its thread.
//!
//! pcscd runs in the foreground as a child known by its process id; it is ended by that id,
//! and by the kernel when the thread that started it ends without doing so.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::mount::{MountFlags, MountPropagationFlags, mount, mount_change};
use rustix::process::{Pid, Signal};
use rustix::thread::UnshareFlags;
use slotwarden_sim::reader::{Pad, Server};
use tempfile::TempDir;

use crate::build;

/// Where pcscd listens.
const SOCKET: &str = "/run/pcscd/pcscd.comm";
/// Longest wait for pcscd to be there or to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pause between two looks.
const LOOK_PAUSE: Duration = Duration::from_millis(5);

/// A pcscd and its readers, seen from the thread that started it.
pub struct Pcscd {
    readers: Option<Server>,
    sockets: Vec<PathBuf>,
    child: Option<Child>,
    folder: TempDir,
}

impl Pcscd {
    /// Readers with keypads of these names, served by this process, and a pcscd that has them.
    ///
    /// # Panics
    /// Without root, pcscd or unshare: with what is missing.
    #[must_use]
    pub fn start(names: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let sockets: Vec<PathBuf> = names.iter().map(|name| folder.path().join(format!("{name}.sock"))).collect();
        let readers = Server::start(&sockets).expect("the folder was just made");
        let mut pcscd = Pcscd::on(folder, names, sockets);
        pcscd.readers = Some(readers);
        pcscd.start_again();
        pcscd
    }

    /// A pcscd for readers that another program serves at these sockets, which have to exist.
    ///
    /// # Panics
    /// As [`Pcscd::start`].
    #[must_use]
    pub fn for_sockets(readers: &[(&str, &Path)]) -> Self {
        let folder = tempfile::tempdir().expect("there is a place for temporary files");
        let names: Vec<&str> = readers.iter().map(|(name, _)| *name).collect();
        let sockets = readers.iter().map(|(_, socket)| socket.to_path_buf()).collect();
        let mut pcscd = Pcscd::on(folder, &names, sockets);
        pcscd.start_again();
        pcscd
    }

    fn on(folder: TempDir, names: &[&str], sockets: Vec<PathBuf>) -> Self {
        let library = build::ifd_handler();
        let mut text = String::new();
        for (name, socket) in names.iter().zip(&sockets) {
            let (library, socket) = (library.display(), socket.display());
            let _ = write!(text, "FRIENDLYNAME \"{name}\"\nDEVICENAME {socket}\nLIBPATH {library}\nCHANNELID 0\n\n");
        }
        let config = folder.path().join("readers");
        fs::create_dir(&config).expect("the folder was just made");
        fs::write(config.join("pads.conf"), text).expect("the folder was just made");
        hide_others();
        Pcscd { readers: None, sockets, child: None, folder }
    }

    /// The reader of the first name, the second, …
    ///
    /// # Panics
    /// When another program serves them.
    #[must_use]
    pub fn pad(&self, number: usize) -> &Pad {
        self.readers.as_ref().expect("this process serves the readers").pad(number)
    }

    /// Starts pcscd, when it was ended, and waits until it listens.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "pcscd runs");
        // What a killed one left would refuse its successor.
        let _ = fs::remove_file(SOCKET);
        let log = fs::File::create(self.folder.path().join("pcscd.log")).expect("our own folder");
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "pcscd", "--foreground", "--config"])
            .arg(self.folder.path().join("readers"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file can be shared"))
            .stderr(log)
            .spawn()
            .expect("setpriv is missing: apt-get install util-linux");
        let child = self.child.insert(child);
        let began = Instant::now();
        while UnixStream::connect(SOCKET).is_err() {
            let ended = child.try_wait().expect("our own child");
            let log = || fs::read_to_string(self.folder.path().join("pcscd.log")).unwrap_or_default();
            assert!(ended.is_none(), "pcscd ended: {}\napt-get install pcscd", log());
            assert!(began.elapsed() < PATIENCE, "pcscd does not listen: {}", log());
            thread::sleep(LOOK_PAUSE);
        }
    }

    /// From its next start on, pcscd also has what this reader file says (reader.conf(5)).
    pub fn add_reader_file(&self, text: &str) {
        fs::write(self.folder.path().join("readers").join("others.conf"), text).expect("our own folder");
    }

    /// Kills pcscd: nothing is said to its clients.
    pub fn kill(&mut self) {
        self.end(Signal::KILL);
    }

    /// Asks pcscd to end.
    pub fn stop(&mut self) {
        self.end(Signal::TERM);
    }

    /// The readers vanish behind pcscd's back: nobody serves their sockets.
    pub fn lose_readers(&mut self) {
        self.readers = None;
    }

    /// They are back, empty.
    pub fn bring_readers_back(&mut self) {
        self.readers = Some(Server::start(&self.sockets).expect("our own folder"));
    }

    fn end(&mut self, signal: Signal) {
        let Some(mut child) = self.child.take() else { return };
        let id = Pid::from_child(&child);
        // Its own child, so the id is still its own.
        let _ = rustix::process::kill_process(id, signal);
        let began = Instant::now();
        while child.try_wait().expect("our own child").is_none() {
            if began.elapsed() > PATIENCE {
                let _ = child.kill();
            }
            thread::sleep(LOOK_PAUSE);
        }
    }
}

impl Drop for Pcscd {
    fn drop(&mut self) {
        self.end(Signal::TERM);
    }
}

/// Takes this thread, and what it starts, to where `/run/pcscd` is empty and nobody else's.
fn hide_others() {
    // SAFETY: `unshare_unsafe` is unsafe for UnshareFlags::FILES only, which is not among these:
    // file descriptors stay those of the process.
    #[allow(unsafe_code)]
    let parted = unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS | UnshareFlags::NEWNS) };
    parted.expect("these tests need root, for a mount namespace of their own");
    let private = MountPropagationFlags::PRIVATE | MountPropagationFlags::REC;
    mount_change("/", private).expect("a namespace of our own");
    fs::create_dir_all("/run/pcscd").expect("root may");
    mount("tmpfs", "/run/pcscd", "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, None)
        .expect("a namespace of our own");
}
