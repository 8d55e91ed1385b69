//! What this node is in the cluster: the roster in force, and the orders that change it.
//!
//! A roster that this node makes is proposed by the platform, which keeps it, with its annex, until it is
//! asked to sign it. What is judged here is that it follows on the one in force and changes what was
//! ordered and nothing else; two persons approve its hash, which binds names, keys and slots. It
//! is durable before it is signed, so that nothing is signed which nobody remembers. A roster
//! that comes from another member needs no approval here: it had two there.
//!
//! Two rosters of one epoch divide the cluster. That is durable too, and ends all exchange of keys
//! until two persons choose one.
//!
//! After a restart the roster in force is there, and one that was not yet signed and filed is signed
//! then: the same bytes give the same signature.

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::command::CommandKind;
use crate::effect::SlotId;
use crate::fault::Refusal;
use crate::package::Marks;
use crate::record;
use crate::roster::{Change, Problem, Roster, SignedRoster};

/// Version of the encoding of [`Membership`]. A store with a higher one is refused.
pub const MEMBERSHIP_VERSION: u8 = 2;
/// Bytes that always hold an encoded [`Membership`] (650, by test).
pub const MEMBERSHIP_BYTES_MAX: usize = 672;
/// Version of the encoding of [`Marks`]. A store with a higher one is refused.
pub const MARKS_VERSION: u8 = 1;
/// Bytes that always hold encoded [`Marks`] (604, by test).
pub const MARKS_BYTES_MAX: usize = 640;

const SLOTS_DOMAIN: &[u8] = b"slotwarden/joined-slots/v1";

/// What people order about the cluster. Each names a roster by its hash; the roster itself is handed over
/// before ([`crate::Service::offer_roster`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ClusterOrder {
    /// Be the first member of a cluster that keeps this node's cluster id and backup key.
    Found {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// Let one more node in.
    Invite {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// Shut one node out.
    Remove {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// The same members from here on, with the backup key that is in force here.
    Renew {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// Become a member: take over the cluster's id and the uids of its slots.
    Join {
        /// Of the roster.
        hash: [u8; 32],
        /// The uids that slots here get: [`slots_digest`].
        slots: [u8; 32],
    },
    /// Take a roster that another member made.
    Follow {
        /// Of the roster.
        hash: [u8; 32],
    },
    /// End a division: of two rosters of one epoch this one counts.
    Choose {
        /// Of the roster.
        hash: [u8; 32],
    },
}

impl ClusterOrder {
    /// What its rights are checked by.
    #[must_use]
    pub const fn kind(&self) -> CommandKind {
        match self {
            ClusterOrder::Found { .. } => CommandKind::FoundCluster,
            ClusterOrder::Invite { .. } => CommandKind::InviteMember,
            ClusterOrder::Remove { .. } => CommandKind::RemoveMember,
            ClusterOrder::Renew { .. } => CommandKind::RenewRoster,
            ClusterOrder::Join { .. } => CommandKind::JoinCluster,
            ClusterOrder::Follow { .. } => CommandKind::FollowRoster,
            ClusterOrder::Choose { .. } => CommandKind::ChooseRoster,
        }
    }

    /// Of the roster that it names.
    #[must_use]
    pub const fn hash(&self) -> [u8; 32] {
        match self {
            ClusterOrder::Found { hash }
            | ClusterOrder::Invite { hash }
            | ClusterOrder::Remove { hash }
            | ClusterOrder::Renew { hash }
            | ClusterOrder::Join { hash, .. }
            | ClusterOrder::Follow { hash }
            | ClusterOrder::Choose { hash } => *hash,
        }
    }
}

/// What is durable of the cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Membership {
    /// The roster in force; where this node left, the one that it is no member of.
    pub roster: Roster,
    /// Whether the platform has it in its file, signed.
    pub filed: bool,
    /// Whether another roster of its epoch was seen, and nobody chose yet.
    pub divided: bool,
    /// Names that other one; once people chose, the one that they did not choose: seen again, it divides nothing.
    pub other: Option<[u8; 32]>,
}

/// What was durable in version 1.
#[derive(Deserialize)]
struct MembershipV1 {
    roster: Roster,
    filed: bool,
    divided: bool,
}

impl Membership {
    /// Under this roster, which the platform has yet to file.
    #[must_use]
    pub const fn under(roster: Roster) -> Self {
        Membership { roster, filed: false, divided: false, other: None }
    }

    /// The same where people chose it and not the one with this hash.
    #[must_use]
    pub fn chosen(roster: Roster, other: [u8; 32]) -> Self {
        Membership { other: Some(other), ..Membership::under(roster) }
    }

    /// Writes version and record into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`MEMBERSHIP_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(MEMBERSHIP_VERSION, self, out)
    }

    /// Reads what [`Membership::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record, or holds a roster that none can be.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        let found: Membership = match bytes.first() {
            Some(1) => {
                let MembershipV1 { roster, filed, divided } = record::decode(1, bytes)?;
                Membership { roster, filed, divided, other: None }
            }
            Some(_) | None => record::decode(MEMBERSHIP_VERSION, bytes)?,
        };
        found.roster.check().map_err(|_| Refusal::StoreUnreadable)?;
        Ok(found)
    }
}

impl Marks {
    /// Writes version and marks into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`MARKS_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(MARKS_VERSION, self, out)
    }

    /// Reads what [`Marks::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly all marks.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(MARKS_VERSION, bytes)
    }
}

/// What binds the uids that slots get when their node joins: SHA-256 over slot and uid of each, lowest slot first.
#[must_use]
pub fn slots_digest(uids: &[(SlotId, [u8; 16])]) -> [u8; 32] {
    let mut hash = Sha256::new().chain_update(SLOTS_DOMAIN);
    for number in 0..=u8::MAX {
        for (slot, uid) in uids.iter().filter(|(slot, _)| slot.0 == number) {
            hash.update([slot.0]);
            hash.update(uid);
        }
    }
    hash.finalize().into()
}

/// What a node knows of itself when it judges a roster.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Own {
    /// Its node key.
    pub node: [u8; 32],
    /// Its cluster id.
    pub cluster: [u8; 16],
    /// The backup key in force.
    pub key_id: Option<[u8; 16]>,
}

/// Judges a roster that this node is going to sign: it follows on the one in force, has the backup key in
/// force, and changes what was ordered, nothing else.
///
/// # Errors
/// [`Refusal::NoBackupKey`]; [`Refusal::MemberAlready`], [`Refusal::NoCluster`], [`Refusal::NotRosterMember`],
/// [`Refusal::RosterDiverged`] for what is in force; [`Refusal::OtherCluster`],
/// [`Refusal::KeyIdDiffers`], [`Refusal::RemovesItself`], [`Refusal::KeyNotRenewed`], [`Refusal::RosterNotNext`] for
/// what was proposed.
pub fn propose(current: Option<&Membership>, next: &Roster, own: &Own, kind: CommandKind) -> Result<(), Refusal> {
    let key_id = own.key_id.ok_or(Refusal::NoBackupKey)?;
    let not_next = Err(Refusal::RosterNotNext);
    if kind == CommandKind::FoundCluster {
        if current.is_some_and(|current| current.roster.member(&own.node).is_some()) {
            return Err(Refusal::MemberAlready);
        }
    } else {
        let current = current.ok_or(Refusal::NoCluster)?;
        if current.roster.member(&own.node).is_none() {
            return Err(Refusal::NotRosterMember);
        }
        if current.divided {
            return Err(Refusal::RosterDiverged);
        }
    }
    next.check().map_err(Problem::refusal)?;
    if next.cluster != own.cluster {
        return Err(Refusal::OtherCluster);
    }
    if next.key_id != key_id {
        return Err(Refusal::KeyIdDiffers);
    }
    if next.member(&own.node).is_none() {
        return Err(Refusal::RemovesItself);
    }
    let Some(Membership { roster, .. }) = current.filter(|_| kind != CommandKind::FoundCluster) else {
        return if next.epoch == 1 && next.members.len() == 1 { Ok(()) } else { not_next };
    };
    if roster.epoch.checked_add(1) != Some(next.epoch) || next.previous != roster.hash() {
        return not_next;
    }
    let in_both = next.members.iter().filter(|member| roster.members.contains(member));
    let in_both = in_both.fold(0_usize, |count, _| count.saturating_add(1));
    let (old, new) = (roster.members.len(), next.members.len());
    let as_ordered = if kind == CommandKind::InviteMember {
        // A node that comes back with other keys to seal to was removed first.
        in_both == old && new == old.saturating_add(1)
    } else if kind == CommandKind::RemoveMember {
        in_both == new && old == new.saturating_add(1)
    } else if next.key_id == roster.key_id {
        return Err(Refusal::KeyNotRenewed);
    } else {
        in_both == old && new == old
    };
    if as_ordered { Ok(()) } else { not_next }
}

/// What a roster of another member means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Followed {
    /// It is in force already.
    Same,
    /// It is in force from here on.
    Next,
    /// There are two of one epoch: the cluster is divided.
    Divides,
}

/// Judges a roster that another member made and signed.
///
/// # Errors
/// [`Refusal::NoCluster`] where none is in force, [`Refusal::RosterDiverged`] while two persons
/// have to choose, and the refusals of [`Problem`].
pub fn follow(current: Option<&Membership>, next: &SignedRoster, own: &Own) -> Result<Followed, Refusal> {
    let current = current.ok_or(Refusal::NoCluster)?;
    match Roster::accepts(Some(&current.roster), next, &own.node) {
        Ok(Change::Same) => Ok(Followed::Same),
        Ok(_) if current.divided => Err(Refusal::RosterDiverged),
        Ok(Change::Joins | Change::Follows | Change::Leaves) => Ok(Followed::Next),
        // Whoever is no member cannot stop the members.
        Err(Problem::Diverged) if current.roster.member(&next.signer).is_none() => Err(Refusal::RosterOfStranger),
        Err(Problem::Diverged) if current.divided => Err(Refusal::RosterDiverged),
        // People chose the one in force; whoever kept the other one cannot make them choose again.
        Err(Problem::Diverged) if current.other == Some(next.roster.hash()) => Err(Refusal::RosterOld),
        Err(Problem::Diverged) => Ok(Followed::Divides),
        Err(problem) => Err(problem.refusal()),
    }
}

/// Judges the roster that two persons choose of two: the one in force, or the other one of its epoch.
///
/// # Errors
/// [`Refusal::NoCluster`], [`Refusal::NotDivided`]; [`Refusal::RosterNotNext`] for another epoch,
/// [`Refusal::RosterOfStranger`] for one that no member of the roster in force signed; those of [`Problem`].
pub fn choose(current: Option<&Membership>, other: Option<&SignedRoster>, own: &Own) -> Result<(), Refusal> {
    let current = current.ok_or(Refusal::NoCluster)?;
    if !current.divided {
        return Err(Refusal::NotDivided);
    }
    let Some(other) = other else { return Ok(()) };
    other.check().map_err(Problem::refusal)?;
    if other.roster.cluster != current.roster.cluster {
        return Err(Refusal::OtherCluster);
    }
    if current.roster.member(&other.signer).is_none() {
        return Err(Refusal::RosterOfStranger);
    }
    if other.roster.member(&own.node).is_none() {
        return Err(Refusal::NotRosterMember);
    }
    if other.roster.epoch == current.roster.epoch { Ok(()) } else { Err(Refusal::RosterNotNext) }
}

/// Judges the roster of a cluster that this node is to join; people have compared its fingerprint.
///
/// # Errors
/// [`Refusal::MemberAlready`], [`Refusal::HasOwnCluster`] where another backup key is in force here, and those of [`Problem`].
pub fn join(current: Option<&Membership>, next: &SignedRoster, own: &Own) -> Result<(), Refusal> {
    if current.is_some_and(|current| current.roster.member(&own.node).is_some()) {
        return Err(Refusal::MemberAlready);
    }
    Roster::accepts(None, next, &own.node).map_err(Problem::refusal)?;
    // A node that was shut out keeps the cluster's id and key, and may come back with them.
    let same = (next.roster.cluster, next.roster.key_id);
    match own.key_id {
        Some(key_id) if (own.cluster, key_id) != same => Err(Refusal::HasOwnCluster),
        Some(_) | None => Ok(()),
    }
}
