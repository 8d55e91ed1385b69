//! The trace of a seed: everything that enters and leaves the core, hashed.
//!
//! Entries are fed in the compact encoding (postcard) into one SHA-256. Audit records are
//! left out: each carries the hash of the one before it, so the end of the chain, fed when
//! the seed ends, stands for all of them.

use serde::Serialize;
use sha2::{Digest, Sha256};
use slotwarden_core::audit::Chain;
use slotwarden_core::effect::{Effect, Input};
use slotwarden_core::record::Record;

/// The trace of the present seed.
#[derive(Clone, Debug, Default)]
pub struct Trace {
    hash: Sha256,
    /// Whether entries are printed as well: the replay of one seed.
    pub prints: bool,
    /// Whether everything printable is searched for secrets (P3): costs much, done for some seeds.
    pub scans: bool,
}

/// Bytes that hold any encoded entry.
const ENTRY_BYTES_MAX: usize = 2048;

impl Trace {
    /// A new seed.
    pub fn begin(&mut self, seed: u64) {
        self.hash = Sha256::new();
        self.hash.update(seed.to_le_bytes());
    }

    /// Something enters the core.
    pub fn input(&mut self, now_ms: u64, input: &Input) {
        if self.prints {
            println!("{now_ms:>9} > {input:?}");
        }
        self.feed(now_ms, input);
    }

    /// The core orders something.
    pub fn effect(&mut self, now_ms: u64, effect: &Effect) {
        if self.prints {
            match effect {
                Effect::Journal(record) => println!("{now_ms:>9} <   journal {:?} {:?}", record.slot, record.event),
                Effect::Store(Record::Slot { owner, record }) => {
                    let (mode, change, doubt) = (record.mode, record.change, record.doubt);
                    let codes = (record.accepted, record.pending);
                    println!("{now_ms:>9} <   {owner:?} {mode:?} {codes:?} {change:?} {doubt:?} {:?}", record.user);
                }
                other => println!("{now_ms:>9} <   {other:?}"),
            }
        }
        if !matches!(effect, Effect::Journal(_)) {
            self.feed(now_ms, effect);
        }
    }

    /// Something happens in the world that the core cannot see; printed only.
    pub fn note(&self, now_ms: u64, what: &str) {
        if self.prints {
            println!("{now_ms:>9} * {what}");
        }
    }

    /// The seed ends with this audit chain.
    pub fn end(&mut self, chain: &Chain) -> [u8; 32] {
        self.hash.update(chain.sequence.to_le_bytes());
        self.hash.update(chain.head);
        std::mem::take(&mut self.hash).finalize().into()
    }

    fn feed(&mut self, now_ms: u64, entry: &impl Serialize) {
        let mut bytes = [0; ENTRY_BYTES_MAX];
        let (time, rest) = bytes.split_at_mut(8);
        time.copy_from_slice(&now_ms.to_le_bytes());
        let encoded = postcard::to_slice(entry, rest).expect("every entry is shorter than ENTRY_BYTES_MAX").len();
        self.hash.update(&bytes[..8 + encoded]);
    }
}
