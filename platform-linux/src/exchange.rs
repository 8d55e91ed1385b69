//! How the members of a cluster reach each other's packages without a hand.
//!
//! An engine ([`Exchange`]) keeps a few files for all members: a directory that they share, or
//! etcd. A [`Courier`] runs one in a thread of its own. Nothing that an engine says is believed: the
//! files are signed, numbered and sealed, and the core judges them as it judges files that were
//! carried by hand. So an engine that withholds, repeats, reorders or alters can delay, and that is
//! all it can do; what it could use up (memory, disk, the loop's time) is bounded here.
//!
//! Only names that somebody may use are ever asked for: three files of each other member. However
//! many names an engine holds, they are not listed. A node publishes its newest package only, since
//! that one carries everything its targets lack.
//!
//! After a restart nothing is remembered: what the others published is fetched once more, and the
//! loop says that it knows it; what we published is compared with what is there.

mod courier;
pub mod directory;
#[cfg(feature = "etcd")]
pub mod etcd;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

pub use courier::{Answer, Arrival, Courier, CourierSettings, CourierState, Members, PAUSE_MAX};

use slotwarden_core::{package, roster};

use crate::audit::hex;
use crate::config::Engine;
use crate::wire::SPOOL_BYTES_MAX;

/// Longest chain of rosters, bytes: 256 of them, each with its annex, are under 17 MiB.
pub const ROSTER_BYTES_MAX: u64 = 32 << 20;

/// What a member publishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum What {
    /// The chain of rosters. First, since without it the others may not be understood.
    Roster,
    /// The newest package.
    Package,
    /// The newest package without keys.
    Receipt,
}

/// The name of a file at an engine.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The cluster id.
    pub cluster: [u8; 16],
    /// The member that publishes it: its node key.
    pub node: [u8; 32],
    /// Which file of it.
    pub what: What,
}

/// What tells one state of a file from another; what it is made of is the engine's. Equal: nothing
/// changed, as far as the engine says.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Version(pub [u8; 32]);

/// A file that an engine says it has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Its name.
    pub name: Name,
    /// Its state.
    pub version: Version,
    /// Its length, bytes, as the engine says.
    pub length_bytes: u64,
    /// Its SHA-256, where the engine keeps one. Other bytes are not handed on.
    pub hash: Option<[u8; 32]>,
}

/// A file on its way to an engine: read it to its end.
pub struct Source<'a> {
    /// How long it is, bytes.
    pub length_bytes: u64,
    /// Its SHA-256.
    pub hash: [u8; 32],
    /// Ends with an error when the courier shall stop.
    pub bytes: &'a mut dyn Read,
}

/// Why an engine did not do it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It cannot be reached, or it refuses. Asked again later.
    #[error("{0}")]
    Unreachable(String),
    /// What was offered is not there any more, or not whole yet. Looked for again.
    #[error("it changed while it was read")]
    Changed,
    /// The other side of the copy failed: our own disk, or the courier shall stop.
    #[error("{0}")]
    Ours(String),
}

/// Says that something may have changed. Ringing for nothing is harmless, and so is ringing often.
pub type Bell = Arc<dyn Fn() + Send + Sync>;

/// An engine. Called from one thread; a call may take its time, and none decides anything.
pub trait Exchange: Send {
    /// What `sync status` calls it: `directory /srv/exchange`. Holds nothing secret.
    fn description(&self) -> String;
    /// Rings the bell when files of these members may have changed, from now on and until the
    /// next call or the end of the engine. What it misses is found by looking.
    ///
    /// # Errors
    /// [`Failure::Unreachable`]: nothing is watched.
    fn watch(&mut self, members: &Members, bell: Bell) -> Result<(), Failure>;
    /// Which of these files there are.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    fn look(&mut self, wanted: &[Name]) -> Result<Vec<Offer>, Failure>;
    /// Writes the bytes of a file that was offered.
    ///
    /// # Errors
    /// Each [`Failure`].
    fn fetch(&mut self, offer: &Offer, into: &mut dyn Write) -> Result<(), Failure>;
    /// Puts a file there in place of the one of this name: whole, or as if it had not been tried.
    ///
    /// # Errors
    /// Each [`Failure`].
    fn publish(&mut self, name: &Name, source: &mut Source<'_>) -> Result<Offer, Failure>;
    /// Takes a file away, if it is there.
    ///
    /// # Errors
    /// [`Failure::Unreachable`].
    fn withdraw(&mut self, name: &Name) -> Result<(), Failure>;
}

/// The engine that the configuration names; it is not reached yet.
///
/// # Errors
/// A certificate cannot be read, no thread can be started, or the program was built without it.
pub fn open(engine: &Engine) -> io::Result<Box<dyn Exchange>> {
    match engine {
        Engine::Directory(root) => Ok(Box::new(directory::Directory::new(root.clone()))),
        #[cfg(feature = "etcd")]
        Engine::Etcd(settings) => Ok(Box::new(etcd::Etcd::new(settings)?)),
        // The configuration was refused for it.
        #[cfg(not(feature = "etcd"))]
        Engine::Etcd(_) => Err(io::ErrorKind::Unsupported.into()),
    }
}

impl What {
    /// All there are, in the order in which they are fetched.
    pub const ALL: [What; 3] = [What::Roster, What::Package, What::Receipt];

    /// The last part of its name.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            What::Roster => "roster",
            What::Package => "package",
            What::Receipt => "receipt",
        }
    }

    /// What it begins with: its magic, and the newest version that is known here.
    #[must_use]
    pub const fn begins(self) -> ([u8; 4], u8) {
        match self {
            What::Roster => (roster::file::MAGIC, roster::file::VERSION),
            What::Package | What::Receipt => (package::MAGIC, package::VERSION),
        }
    }

    /// Longest file that is fetched, bytes.
    #[must_use]
    pub const fn bytes_max(self) -> u64 {
        match self {
            What::Roster => ROSTER_BYTES_MAX,
            What::Package | What::Receipt => SPOOL_BYTES_MAX,
        }
    }
}

impl Name {
    /// The first part of it.
    #[must_use]
    pub fn cluster_hex(&self) -> String {
        hex(&self.cluster)
    }

    /// The second part of it.
    #[must_use]
    pub fn node_hex(&self) -> String {
        hex(&self.node)
    }
}

impl fmt::Display for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}/{}", self.cluster_hex(), self.node_hex(), self.what.word())
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Version({})", hex(&self.0))
    }
}

/// A failure of the other side of a copy, seen from the engine that reads from it or writes to it.
fn ours(error: &io::Error) -> Failure {
    Failure::Ours(error.to_string())
}
