//! The roster: which nodes are a cluster, one epoch after the other.
//!
//! A roster names its members by their Ed25519 keys, and binds the keys to which packages are
//! sealed for them, the cluster, the backup key, and an *annex*: bytes of the platform (names,
//! uids of slots, who approved it) of which the core knows the hash only. It is written as a
//! version byte and its canonical [postcard](https://postcard.jamesmunns.com) form, at most
//! [`ROSTER_BYTES_MAX`] bytes; its hash is SHA-256 of that. The member that made it signs
//! "slotwarden/roster/v1" ‖ hash (Ed25519, RFC 8032, judged strictly).
//!
//! What it promises: after a roster comes only one of epoch + 1 that names its hash and is signed by
//! one of its members. Two rosters of one epoch are told apart ([`Problem::Diverged`]), and neither is taken
//! over the other. Who approved a change, and whether two did, is for those who ask for it.
//! Nothing here survives a restart: the roster in force is a record, the chain a [`file`].

pub mod file;

use ed25519_dalek::{Signature, VerifyingKey};
use heapless::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::fault::Refusal;
use crate::frame::{self, problems};
use crate::limits::MEMBERS_MAX;

/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes of a signed roster at most, with its version: with as many members as there may be it has 712.
pub const ROSTER_BYTES_MAX: usize = 1024;
/// Bytes of an HPKE public key of the suite X-Wing.
pub const X_WING_BYTES: usize = 1216;
/// Bytes of an HPKE public key of the suite P-256: a point, not compressed.
pub const P256_BYTES: usize = 65;
/// Bytes of what the signature covers.
pub const MESSAGE_BYTES: usize = DOMAIN.len() + 32;
/// Characters of a fingerprint: four groups of five with a hyphen between.
pub const FINGERPRINT_CHARS: usize = 23;

const DOMAIN: &[u8] = b"slotwarden/roster/v1";
const FINGERPRINT_DOMAIN: &[u8] = b"slotwarden/fingerprint/v1";

/// A node of the cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Member {
    /// Its Ed25519 public key, by which it is known.
    pub node: [u8; 32],
    /// The keys to which packages are sealed for it, as [`seal`] says.
    pub seal: [u8; 32],
}

/// SHA-256 over the HPKE public keys of a node.
#[must_use]
pub fn seal(x_wing: &[u8; X_WING_BYTES], p256: &[u8; P256_BYTES]) -> [u8; 32] {
    Sha256::new().chain_update(x_wing).chain_update(p256).finalize().into()
}

impl Member {
    /// What people compare before they let a node in: 100 bit of SHA-256("slotwarden/fingerprint/v1" ‖
    /// node ‖ seal), 20 characters of Base32 (RFC 4648) in groups of five.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        let hash = Sha256::new().chain_update(FINGERPRINT_DOMAIN).chain_update(self.node).chain_update(self.seal);
        let digest: [u8; 32] = hash.finalize().into();
        let bits = |number: usize| {
            // Five bits from this one on are in one byte or in two.
            let (byte, bit) = (number / 8, number % 8);
            let two = digest.get(byte..).and_then(|rest| rest.first_chunk()).copied().map_or(0, u16::from_be_bytes);
            two.rotate_left(u32::try_from(bit).unwrap_or(0)) >> 11
        };
        let mut chars = [b'-'; FINGERPRINT_CHARS];
        let (mut number, mut column) = (0_usize, 0_u8);
        for place in &mut chars {
            if column == 5 {
                column = 0;
                continue;
            }
            *place = u8::try_from(bits(number)).map_or(b'-', |value| match value {
                0..26 => b'A'.saturating_add(value),
                26.. => b'2'.saturating_add(value.saturating_sub(26)),
            });
            (number, column) = (number.saturating_add(5), column.saturating_add(1));
        }
        Fingerprint(chars)
    }
}

/// What people compare: see [`Member::fingerprint`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint([u8; FINGERPRINT_CHARS]);

impl Fingerprint {
    /// As it is shown.
    #[must_use]
    pub fn as_str(&self) -> &str {
        core::str::from_utf8(&self.0).unwrap_or_default()
    }

    /// Whether this is what somebody typed; letters may be small, hyphens and spaces anywhere or left out.
    #[must_use]
    pub fn is(&self, typed: &str) -> bool {
        let typed = typed.bytes().filter(|byte| !matches!(byte, b'-' | b' ')).map(|byte| byte.to_ascii_uppercase());
        typed.eq(self.0.iter().copied().filter(|byte| *byte != b'-'))
    }
}

/// The members of a cluster at one epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Roster {
    /// Which one: rises by one from 1 with each change.
    pub epoch: u32,
    /// [`Roster::hash`] of the one before, zeros for epoch 1.
    pub previous: [u8; 32],
    /// Which cluster.
    pub cluster: [u8; 16],
    /// Names the backup key that all members have.
    pub key_id: [u8; 16],
    /// SHA-256 of the platform's annex.
    pub annex: [u8; 32],
    /// The members, node keys strictly rising.
    pub members: Vec<Member, MEMBERS_MAX>,
}

/// A roster as it is taken from others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedRoster {
    /// What is signed.
    pub roster: Roster,
    /// The member of the roster before that made it; of epoch 1 a member of it.
    pub signer: [u8; 32],
    /// Ed25519 of [`Roster::message`] under the signer's key.
    #[serde(with = "crate::share::record::signature_bytes")]
    pub signature: [u8; 64],
}

/// What taking a roster means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Change {
    /// It is the one in force.
    Same,
    /// This node founds or joins its cluster.
    Joins,
    /// The next one, of which this node is a member.
    Follows,
    /// The next one, of which this node is no member any more.
    Leaves,
}

problems! {
    /// Why a roster is not taken. What was in force stays so.
    Unreadable "unreadable" "the file could not be read to its end";
    NotOurs "not-ours" "the file does not begin as a roster";
    Newer "newer" "the roster has a version that is not known here";
    Truncated "truncated" "the file ends too early";
    TooLong "too-long" "a frame is longer than the format allows";
    UnknownFrame "unknown-frame" "a frame has a kind that the version does not have";
    OutOfOrder "out-of-order" "a frame is where none of its kind may be";
    Malformed "malformed" "a frame does not hold a roster in its only form";
    Members "members" "the members are none, too many, or not in rising order";
    Annex "annex" "the names beside a roster are not those that it was signed with";
    Signature "signature" "the signature is not one of the node that the roster names as its signer";
    Signer "signer" "whoever signed the roster was no member";
    Trailing "trailing" "something follows the end of the rosters";
    OtherCluster "other-cluster" "the roster is of another cluster";
    NotMember "not-member" "this node is no member of the roster";
    Old "old" "the roster is older than the one in force";
    NotNext "not-next" "the roster does not follow on the one in force";
    Diverged "diverged" "the roster has the epoch of the one in force, and is another";
}

impl Problem {
    /// What an operator is told.
    #[must_use]
    pub const fn refusal(self) -> Refusal {
        match self {
            Problem::Unreadable
            | Problem::NotOurs
            | Problem::Newer
            | Problem::Truncated
            | Problem::TooLong
            | Problem::UnknownFrame
            | Problem::OutOfOrder
            | Problem::Malformed
            | Problem::Members
            | Problem::Annex
            | Problem::Signature
            | Problem::Trailing => Refusal::RosterFileInvalid,
            Problem::Signer => Refusal::RosterOfStranger,
            Problem::OtherCluster => Refusal::OtherCluster,
            Problem::NotMember => Refusal::NotRosterMember,
            Problem::Old => Refusal::RosterOld,
            Problem::NotNext => Refusal::RosterNotNext,
            Problem::Diverged => Refusal::RosterDiverged,
        }
    }
}

impl Roster {
    /// SHA-256 of its only form, by which the next one and packages name it.
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        frame::digest(VERSION, self)
    }

    /// What its signer signs.
    #[must_use]
    pub fn message(&self) -> [u8; MESSAGE_BYTES] {
        frame::joined(DOMAIN, &[&self.hash()])
    }

    /// The member with this node key.
    #[must_use]
    pub fn member(&self, node: &[u8; 32]) -> Option<&Member> {
        self.members.iter().find(|member| member.node == *node)
    }

    /// Its place among the members, by which bit sets name it.
    #[must_use]
    pub fn place(&self, node: &[u8; 32]) -> Option<u8> {
        self.members.iter().position(|member| member.node == *node).and_then(|place| u8::try_from(place).ok())
    }

    /// Whether epoch and hash of the one before go together, and the members are in order.
    ///
    /// # Errors
    /// [`Problem::Malformed`], [`Problem::Members`]
    pub fn check(&self) -> Result<(), Problem> {
        // Who reads it knows: the first one follows on none, and every other one on one.
        match (self.epoch, self.previous == [0; 32]) {
            (0, true | false) | (1, false) | (2.., true) => return Err(Problem::Malformed),
            (1, true) | (2.., false) => {}
        }
        let rise = self.members.iter().zip(self.members.iter().skip(1)).all(|(one, next)| one.node < next.node);
        if self.members.is_empty() || !rise { Err(Problem::Members) } else { Ok(()) }
    }

    /// Whether `next` is in order and follows on this one.
    ///
    /// # Errors
    /// The first problem: form, signature, cluster, [`Problem::Old`], [`Problem::Diverged`],
    /// [`Problem::NotNext`], and that its signer is no member of this one.
    pub fn is_followed_by(&self, next: &SignedRoster) -> Result<(), Problem> {
        next.check()?;
        let (roster, hash) = (&next.roster, self.hash());
        if roster.cluster != self.cluster {
            return Err(Problem::OtherCluster);
        }
        match self.epoch.checked_add(1) {
            Some(epoch) if roster.epoch == epoch => {}
            Some(_) | None if roster.epoch < self.epoch => return Err(Problem::Old),
            Some(_) | None if roster.epoch == self.epoch => return Err(Problem::Diverged),
            Some(_) | None => return Err(Problem::NotNext),
        }
        if roster.previous != hash {
            // Somebody followed another roster of our epoch: who reads the whole chain sees which.
            return Err(Problem::NotNext);
        }
        if self.member(&next.signer).is_none() { Err(Problem::Signer) } else { Ok(()) }
    }

    /// Whether this node, `own`, takes `next` where `current` is in force, and what that means.
    ///
    /// Without one in force it founds a cluster or joins one: then people have compared the
    /// fingerprint of whoever signed it, and the chain behind it, if there is one, was read by [`file`].
    /// A chain of rosters is taken one after the other.
    ///
    /// # Errors
    /// As [`Roster::is_followed_by`]; [`Problem::NotMember`] only where there is none in force.
    pub fn accepts(current: Option<&Roster>, next: &SignedRoster, own: &[u8; 32]) -> Result<Change, Problem> {
        let is_member = next.roster.member(own).is_some();
        match current {
            None => {
                next.check()?;
                if is_member { Ok(Change::Joins) } else { Err(Problem::NotMember) }
            }
            Some(current) if current.epoch == next.roster.epoch && current.hash() == next.roster.hash() => {
                next.check().map(|()| Change::Same)
            }
            Some(current) => {
                current.is_followed_by(next)?;
                Ok(if is_member { Change::Follows } else { Change::Leaves })
            }
        }
    }
}

impl SignedRoster {
    /// Takes the bytes of one, in their only form: version, then roster, signer and signature.
    ///
    /// # Errors
    /// Why they are none, the signature last.
    pub fn decode(bytes: &[u8]) -> Result<Self, Problem> {
        let (version, body) = bytes.split_first().ok_or(Problem::Truncated)?;
        if *version != VERSION {
            return Err(Problem::Newer);
        }
        if bytes.len() > ROSTER_BYTES_MAX {
            return Err(Problem::TooLong);
        }
        let signed: SignedRoster = frame::decode(body).ok_or(Problem::Malformed)?;
        signed.check()?;
        Ok(signed)
    }

    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8, ROSTER_BYTES_MAX> {
        let mut bytes = Vec::new();
        // As many members as fit are shorter than the bound.
        let _ = bytes.resize(ROSTER_BYTES_MAX, 0);
        if let Some((version, body)) = bytes.split_first_mut() {
            *version = VERSION;
            let length = frame::encode(self, body).unwrap_or(0);
            bytes.truncate(length.saturating_add(1));
        }
        bytes
    }

    /// Whether it is in order and signed by whom it says; the first one by one of its own members.
    ///
    /// # Errors
    /// [`Problem::Malformed`], [`Problem::Members`], [`Problem::Signature`], [`Problem::Signer`]
    pub fn check(&self) -> Result<(), Problem> {
        self.roster.check()?;
        let signer = VerifyingKey::from_bytes(&self.signer).map_err(|_| Problem::Signature)?;
        let signature = Signature::from_bytes(&self.signature);
        signer.verify_strict(&self.roster.message(), &signature).map_err(|_| Problem::Signature)?;
        let is_founder = self.roster.epoch > 1 || self.roster.member(&self.signer).is_some();
        if is_founder { Ok(()) } else { Err(Problem::Signer) }
    }
}
