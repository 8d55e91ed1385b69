//! Frames between the daemon and its HSM worker, on a socketpair.
//!
//! A frame is {length u32, request u32, slot u8, kind u8}, little-endian, then `length`
//! bytes of body: postcard, or the raw bytes of one secret. Secrets travel in frames of
//! their own and their buffers are wiped after use; nothing here derives `Debug` over one.
//! Lengths are bounded before anything is allocated: the worker holds foreign code, so the
//! daemon believes none of it (P42). After a restart of either side there is a new
//! socketpair, so no frame outlives the process that sent it.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use slotwarden_core::effect::{HsmAnswer, SlotId};
use slotwarden_core::fault::HsmFailure;
use slotwarden_core::limits::PLACE_BYTES;
use slotwarden_core::token::{Presence, TokenState};
use zeroize::Zeroizing;

/// Longest body, bytes: the configuration of 64 slots and their labels takes about 6 KiB.
const BODY_BYTES_MAX: usize = 64 * 1024;
/// {length u32, request u32, slot u8, kind u8}.
const HEADER_BYTES: usize = 10;
/// One random draw from the token, bytes: one half of `Effect::Random`.
pub const RANDOM_BYTES: usize = 32;
/// Longest text a worker may send, bytes; the loader's reason names two paths at most.
const TEXT_BYTES_MAX: usize = 4096;

/// Which token belongs to a slot: label, serial or both, as plain text without padding.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WantedToken {
    /// `CK_TOKEN_INFO.label`, UTF-8.
    pub label: Option<String>,
    /// `CK_TOKEN_INFO.serialNumber`.
    pub serial: Option<String>,
}

/// The first frame to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WorkerConfiguration {
    /// The PKCS#11 module to load.
    pub(crate) module: WirePath,
    /// The token of each slot, in the order of `SlotId`.
    pub(crate) tokens: Vec<WantedToken>,
    /// Whose files `HsmCall::Settle` makes durable.
    pub(crate) settle_dir: Option<WirePath>,
    /// Wait in one look for slots that do not answer, milliseconds.
    pub(crate) look_wait_ms: u64,
    /// Calls into a slow module at the same time.
    pub(crate) calls_in_flight_max: u16,
    /// Where exports are made and files to restore are kept.
    pub(crate) transfer_dir: WirePath,
    /// What this process is for.
    pub(crate) duty: Duty,
}

/// What a worker process is for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Duty {
    /// Look once, report, exit. Takes no lock and logs in nowhere.
    Look,
    /// Serve until the daemon closes the socket.
    Serve {
        /// Only one serving worker runs at a time.
        lock_file: WirePath,
        /// Wait for a worker of an earlier daemon before it is killed, milliseconds.
        lock_wait_ms: u64,
        /// Wait for one that is inside `C_Login`, milliseconds.
        login_wait_ms: u64,
        /// Interval between looks at an idle token, milliseconds.
        loss_interval_ms: u64,
    },
}

/// A path on the wire: Linux paths are bytes, not text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct WirePath(Vec<u8>);

impl WirePath {
    /// The path as this process uses it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(OsString::from_vec(self.0.clone()))
    }
}

impl From<&Path> for WirePath {
    fn from(path: &Path) -> Self {
        WirePath(path.as_os_str().as_bytes().to_vec())
    }
}

/// One PKCS#11 operation; its secrets came before it, in frames with the same request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Order {
    /// `HsmCall::Observe`.
    Observe,
    /// `HsmCall::Login`; one secret.
    Login,
    /// `HsmCall::Logout`.
    Logout,
    /// `HsmCall::SetPin`; two secrets, old and new.
    SetPin,
    /// `HsmCall::Initialise`; two secrets, SO PIN and new.
    Initialise {
        /// Which free token, when several are free.
        free_slot: Option<u64>,
    },
    /// `HsmCall::Settle`.
    Settle,
    /// `C_GenerateRandom`, [`RANDOM_BYTES`] bytes.
    Random,
    /// Look at the token now, although it is not idle time; there is no answer.
    Look,
    /// `HsmCall::Unblock`; two secrets, SO PIN and new.
    Unblock,
    /// `HsmCall::Erase`; one secret, the SO PIN.
    Erase,
    /// `HsmCall::PutBackupKeys`; two secrets, KEK and MAK.
    PutBackupKeys {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
        /// Whether U is made as well.
        unwrap: bool,
    },
    /// `HsmCall::KeepBackupKeys`.
    KeepBackupKeys {
        /// The backup key in force.
        key_id: Option<[u8; 16]>,
        /// The slot uid.
        uid: [u8; 16],
        /// Whether U may stay.
        unwrap: bool,
    },
    /// `HsmCall::SetSoPin`; two secrets, old and new.
    SetSoPin,
    /// `HsmCall::Inventory`.
    Inventory {
        /// The slot uid.
        uid: [u8; 16],
    },
    /// `HsmCall::ExportSection`; for a key that is for this export only two secrets, KEK and MAK.
    ExportSection {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
        /// Whether it is for this export only.
        once: bool,
    },
    /// `HsmCall::PrepareImport`; two secrets, KEK and MAK.
    PrepareImport {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The section's slot uid.
        uid: [u8; 16],
    },
    /// `HsmCall::Import`.
    Import {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The section's slot uid.
        uid: [u8; 16],
    },
    /// `HsmCall::DropUnwrapKey`.
    DropUnwrapKey {
        /// Key id and slot uid of the one that stays.
        keep: Option<([u8; 16], [u8; 16])>,
    },
    /// `HsmCall::PlanPackage`.
    PlanPackage {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
    },
    /// `HsmCall::ImportPackage`.
    ImportPackage {
        /// Names the backup key.
        key_id: [u8; 16],
        /// The slot uid.
        uid: [u8; 16],
    },
}

/// A token that `slot init` could take, on the wire.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FoundFree {
    pub(crate) slot_number: u64,
    pub(crate) description: String,
}

/// What a look found, and what the module says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Found {
    /// One for each configured slot; `None` as long as a slot of the module that has not
    /// answered may hold its token: then [`Report::Found`] follows.
    pub(crate) presences: Vec<Option<Presence>>,
    pub(crate) free: Vec<FoundFree>,
    /// Vendor, library and version.
    pub(crate) module: String,
}

/// What a worker tells the daemon, apart from random bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Report {
    /// The worker's lock is taken; the module is loaded next.
    Locked,
    /// The first look is done, orders are welcome.
    Up(Found),
    /// The module cannot be used, with the loader's reason; the worker exits.
    NotLoaded(String),
    /// The first look found this out about the frame's slot after [`Report::Up`].
    Found(Presence),
    /// An order ended.
    Done(Result<HsmAnswer, HsmFailure>),
    /// The token of the frame's slot is not there any more.
    Gone,
    /// The token of the frame's slot says something else than before: its flags.
    Changed(TokenState),
    /// The tokens that are free now.
    Free(Vec<FoundFree>),
    /// `Order::Random` failed.
    NoRandom,
    /// Something an operator should read.
    Note(String),
    /// How far an order is that takes long.
    Progress {
        /// Objects that are done.
        done: u32,
        /// Of so many.
        of: u32,
    },
}

/// What a frame's body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Kind {
    /// [`WorkerConfiguration`].
    Configure = 1,
    /// [`Order`].
    Order = 2,
    /// The bytes of one secret: a PIN, or random bytes.
    Secret = 3,
    /// [`Report`].
    Report = 4,
}

/// One frame. Its body may be a secret: it is wiped when dropped, and never printed.
pub(crate) struct Frame {
    pub(crate) request: u32,
    pub(crate) slot: SlotId,
    pub(crate) kind: Kind,
    pub(crate) body: Zeroizing<Vec<u8>>,
}

impl Frame {
    /// A frame with a postcard body.
    ///
    /// # Errors
    /// `InvalidInput` when the body is longer than the bound.
    pub(crate) fn new(request: u32, slot: SlotId, kind: Kind, body: &impl Serialize) -> io::Result<Self> {
        let body = postcard::to_stdvec(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        if body.len() > BODY_BYTES_MAX {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "the frame is longer than its bound"));
        }
        Ok(Frame { request, slot, kind, body: Zeroizing::new(body) })
    }

    /// A frame with one secret. A secret that is too long is cut to nothing: the token
    /// then refuses it, and no byte leaves its place.
    pub(crate) fn secret(request: u32, slot: SlotId, secret: &[u8]) -> Self {
        let secret = if secret.len() > PLACE_BYTES { &[] } else { secret };
        Frame { request, slot, kind: Kind::Secret, body: Zeroizing::new(secret.to_vec()) }
    }

    /// The body as a value.
    ///
    /// # Errors
    /// `InvalidData` when it is not one.
    pub(crate) fn open<T: DeserializeOwned>(&self) -> io::Result<T> {
        postcard::from_bytes(&self.body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Writes header and body with one call, so that frames of several threads do not mix
    /// as long as each holds the lock of the socket.
    ///
    /// # Errors
    /// As of `write_all`.
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let length =
            u32::try_from(self.body.len()).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
        let mut bytes = Zeroizing::new(Vec::with_capacity(HEADER_BYTES + self.body.len()));
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&self.request.to_le_bytes());
        bytes.extend_from_slice(&[self.slot.0, self.kind as u8]);
        bytes.extend_from_slice(&self.body);
        to.write_all(&bytes)
    }

    /// Reads one frame without a buffer of its own, which would keep a copy of a secret.
    /// `None` when the other side closed the socket between two frames.
    ///
    /// # Errors
    /// `InvalidData` for a kind or a length that no honest side sends; `UnexpectedEof` for
    /// half a frame.
    pub(crate) fn read(from: &mut impl Read) -> io::Result<Option<Self>> {
        let mut header = [0; HEADER_BYTES];
        let mut have = 0;
        while have < HEADER_BYTES {
            match from.read(&mut header[have..]) {
                Ok(0) if have == 0 => return Ok(None),
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => have += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        let [l0, l1, l2, l3, r0, r1, r2, r3, slot, kind] = header;
        let (kind, bytes_max) = match kind {
            1 => (Kind::Configure, BODY_BYTES_MAX),
            2 => (Kind::Order, TEXT_BYTES_MAX),
            3 => (Kind::Secret, PLACE_BYTES),
            4 => (Kind::Report, BODY_BYTES_MAX),
            _ => return Err(io::Error::new(io::ErrorKind::InvalidData, "unknown kind of frame")),
        };
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        if length > bytes_max {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is longer than its bound"));
        }
        let mut body = Zeroizing::new(vec![0; length]);
        from.read_exact(&mut body)?;
        Ok(Some(Frame { request: u32::from_le_bytes([r0, r1, r2, r3]), slot: SlotId(slot), kind, body }))
    }
}

/// Text for a report: cut at its bound, at a character's edge.
pub(crate) fn bounded(mut text: String) -> String {
    if text.len() > TEXT_BYTES_MAX {
        let edge = (0..=TEXT_BYTES_MAX).rev().find(|edge| text.is_char_boundary(*edge)).unwrap_or(0);
        text.truncate(edge);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn bytes_of(frame: &Frame) -> Vec<u8> {
        let mut bytes = Vec::new();
        frame.write(&mut bytes).expect("a Vec takes everything");
        bytes
    }

    #[test]
    fn a_frame_of_one_gigabyte_is_refused_before_it_is_read() {
        let mut header = (1u32 << 30).to_le_bytes().to_vec();
        header.extend_from_slice(&[0, 0, 0, 0, 0, Kind::Report as u8]);
        let refused = Frame::read(&mut header.as_slice()).map(|_| ());
        assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::InvalidData));
    }

    #[test]
    fn a_secret_longer_than_a_place_is_refused_and_never_sent() {
        let mut header = u32::try_from(PLACE_BYTES + 1).expect("small").to_le_bytes().to_vec();
        header.extend_from_slice(&[0, 0, 0, 0, 0, Kind::Secret as u8]);
        header.extend_from_slice(&[b'x'; PLACE_BYTES + 1]);
        assert!(Frame::read(&mut header.as_slice()).is_err());
        assert!(Frame::secret(1, SlotId(0), &[b'x'; PLACE_BYTES + 1]).body.is_empty());
    }

    #[test]
    fn half_a_frame_is_an_error_and_the_end_between_frames_is_not() {
        let bytes = bytes_of(&Frame::secret(7, SlotId(3), b"12345678"));
        for cut in 1..bytes.len() {
            assert!(Frame::read(&mut &bytes[..cut]).is_err(), "cut after {cut} bytes");
        }
        assert!(matches!(Frame::read(&mut [].as_slice()), Ok(None)));
    }

    #[test]
    fn a_frame_arrives_as_it_was_sent() {
        let order = Order::Initialise { free_slot: Some(u64::MAX) };
        let sent = Frame::new(u32::MAX, SlotId(63), Kind::Order, &order).expect("an order is short");
        let arrived = Frame::read(&mut bytes_of(&sent).as_slice()).expect("whole").expect("one frame");
        assert_eq!((arrived.request, arrived.slot, arrived.kind), (u32::MAX, SlotId(63), Kind::Order));
        assert_eq!(arrived.open::<Order>().expect("an order"), order);
    }

    proptest! {
        #[test]
        fn p42_no_bytes_from_a_worker_panic_the_daemon(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
            if let Ok(Some(frame)) = Frame::read(&mut bytes.as_slice()) {
                let _ = frame.open::<Report>();
            }
        }
    }
}
