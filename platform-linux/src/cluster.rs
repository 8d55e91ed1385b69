//! The cluster as the platform knows it: names of members, their HPKE keys, slots by name.
//!
//! The core knows members by their keys and checks who may follow whom (`slotwarden_core::roster`). What
//! people call them, the keys that packages are sealed to, and which slot of this node is which of the cluster's
//! stand in an *annex*, whose hash is in the roster; so the roster's signature covers it. Here rosters are
//! proposed, signed once the core took them, and kept: all of them, from the first to the one in force, in one
//! file of the synchronisation directory that is replaced as a whole.
//!
//! After a restart the core's record says which roster is in force; the file has it, or a newer one that was not
//! taken, which is then left out.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use slotwarden_core::Refusal;
use slotwarden_core::roster::{Member, Roster, SignedRoster};

use crate::devices::Signer;
use crate::problem::{Own, Problem};
use crate::transfer_dir::{self, printable};
use crate::wire::MemberView;

/// Every roster from the first to the one in force.
const ROSTERS: &str = "rosters.slwr";
/// Longest name of a node, bytes: it fits a line of the panel with its standing.
pub const NAME_BYTES_MAX: usize = 32;
/// Longest file of rosters that is taken: 256 of them with their annexes.
pub const ROSTERS_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// The public keys of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeKeys {
    /// Ed25519.
    pub node: [u8; 32],
    /// X-Wing.
    pub xwing: Vec<u8>,
    /// P-256, uncompressed.
    pub p256: Vec<u8>,
}

impl NodeKeys {
    /// The hash of its HPKE keys, as a roster has it.
    #[must_use]
    pub fn seal(&self) -> [u8; 32] {
        Sha256::new().chain_update(&self.xwing).chain_update(&self.p256).finalize().into()
    }

    /// What people compare: four groups of five characters, 100 bit.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        fingerprint(&self.node, &self.seal())
    }
}

/// What is beside a roster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Annex {
    /// The members, in the order of the roster.
    pub members: Vec<NamedMember>,
    /// The slots whose keys are synchronised: name and uid.
    pub slots: Vec<(String, [u8; 16])>,
    /// Who ordered it and who approved it; the second is empty where one person alone decides.
    pub approved_by: [String; 2],
}

/// A member with its name and keys.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedMember {
    /// What people call it.
    pub name: String,
    /// Its keys.
    pub keys: NodeKeys,
}

impl Annex {
    /// The bytes whose hash is in the roster.
    fn bytes(&self) -> Vec<u8> {
        postcard::to_stdvec(self).unwrap_or_default()
    }

    /// Reads one, and only what [`Annex::bytes`] wrote.
    fn read(bytes: &[u8]) -> Option<Self> {
        let annex: Annex = postcard::from_bytes(bytes).ok()?;
        let names = annex.members.iter().map(|member| &member.name);
        let usable = names.clone().all(|name| is_name(name)) && names.clone().count() == annex.members.len();
        let mut sorted: Vec<&String> = names.collect();
        sorted.sort();
        sorted.dedup();
        (annex.bytes() == bytes && usable && sorted.len() == annex.members.len()).then_some(annex)
    }

    /// Whether it is about the members of this roster, with the keys that the roster names.
    fn fits(&self, roster: &Roster) -> bool {
        let own: Vec<Member> =
            self.members.iter().map(|named| Member { node: named.keys.node, seal: named.keys.seal() }).collect();
        own.as_slice() == roster.members.as_slice()
    }
}

/// A roster with its annex.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// What the core judges.
    pub signed: SignedRoster,
    /// What people read.
    pub annex: Annex,
}

/// Whether this can be the name of a node: short, visible, nothing that a file or a terminal takes for more.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let plain = |char: char| char.is_ascii_alphanumeric() || matches!(char, '-' | '_' | '.');
    !name.is_empty() && name.len() <= NAME_BYTES_MAX && name.chars().all(plain)
}

/// What people compare of a node.
#[must_use]
pub fn fingerprint(node: &[u8; 32], seal: &[u8; 32]) -> String {
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let hash = Sha256::new().chain_update(b"slotwarden/fingerprint/v1").chain_update(node).chain_update(seal).finalize();
    let mut text = String::with_capacity(23);
    for place in 0..20 {
        let bit = place * 5;
        let pair = u16::from_be_bytes([hash[bit / 8], hash[bit / 8 + 1]]);
        let value = usize::from(pair >> (11 - bit % 8) & 31);
        if place > 0 && place % 5 == 0 {
            text.push(' ');
        }
        text.push(char::from(LETTERS[value]));
    }
    text
}
