//! The audit log: intent before effect, outcome after, each record chained to the one
//! before by SHA-256.
//!
//! A deleted, altered or reordered record breaks the chain and is found offline; a
//! truncated tail is found up to the last signed checkpoint that the verifier has (P37).

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::ceremony::order::CeremonyId;
use crate::command::CommandKind;
use crate::effect::{ApplicationId, ImportPlan, SlotId};
use crate::fault::{Fault, Refusal};
use crate::person::PersonId;
use crate::record::{self, ChangeKind, Doubt, Mode, Owner};

/// What every chain hash begins with, so that it can be mistaken for nothing else.
pub const CHAIN_DOMAIN: &[u8] = b"slotwarden/audit/v1";
/// What every signed checkpoint begins with.
pub const CHECKPOINT_DOMAIN: &[u8] = b"slotwarden/audit-checkpoint/v1";
/// Bytes that always hold an encoded [`AuditRecord`] (91 for the longest event, by test).
pub const AUDIT_RECORD_BYTES_MAX: usize = 192;
/// Version byte before each encoded record.
pub const AUDIT_RECORD_VERSION: u8 = 1;

/// One line of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct AuditRecord {
    /// Counts from 1, without gaps.
    pub sequence: u64,
    /// Seconds since 1970, if there was a clock: information, not proof.
    pub wall_s: Option<u64>,
    /// Chain hash of the record before; zeros for the first.
    pub previous: [u8; 32],
    /// Who caused it; `None`: the service itself.
    pub who: Option<PersonId>,
    /// About which slot.
    pub slot: Option<SlotId>,
    /// What happened.
    pub event: AuditEvent,
}

/// What happened. Nothing here ever carries a secret. Records hold the place of a variant in
/// its enum, here and in every enum below: new ones go to the end, none is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum AuditEvent {
    /// The service started with this configuration (SHA-256 of its text): what the
    /// numbers of persons and slots mean from here on.
    Started {
        /// SHA-256 of the configuration.
        configuration: [u8; 32],
    },
    /// The service was told to stop.
    Stopped,
    /// A slot number stands for this owner from here on.
    SlotConfigured {
        /// The owner number.
        owner: Owner,
    },
    /// A person's order was accepted and begins.
    Ordered(CommandKind),
    /// A person's order was refused.
    Refused(CommandKind, Refusal),
    /// A person's order ended well.
    Completed(CommandKind),
    /// A person's order failed.
    Failed(CommandKind, Fault),
    /// A try of a PIN begins; counted from here.
    AttemptBegins(AttemptCause),
    /// The token accepted the PIN.
    AttemptAccepted,
    /// The token refused the PIN.
    AttemptRefused,
    /// Nobody knows whether the token accepted the PIN.
    AttemptUnknown(Fault),
    /// The try did not reach the token: it costs nothing.
    AttemptNotMade,
    /// The slot is active.
    Activated,
    /// The slot is no longer active.
    Deactivated,
    /// A token PIN change begins: intent and pending code are durable with this record.
    ChangeIntended(ChangeKind),
    /// The next call changes the token.
    ChangeCalling(ChangeKind),
    /// The token has the new PIN: accepted and settled.
    ChangeCompleted(ChangeKind),
    /// The token has the old PIN.
    ChangeUndone(ChangeKind),
    /// The mode of the slot from here on.
    ModeIs(Mode),
    /// People have to resolve this.
    DoubtArose(Doubt),
    /// People resolved it.
    DoubtResolved,
    /// The token disappeared.
    TokenAbsent,
    /// The token is there.
    TokenPresent,
    /// The low count rose without an attempt of ours.
    TriesSpentElsewhere,
    /// An application could not be served.
    ApplicationFailed(ApplicationId, Fault),
    /// The HSM worker died or was ended.
    WorkerLost,
    /// A person asks for the approval of an order that needs two.
    ApprovalRequested(u32, CommandKind),
    /// A second person approved it.
    ApprovalGiven(u32, CommandKind),
    /// The person who asked used the approval: the order follows.
    ApprovalSpent(u32, CommandKind),
    /// It was not approved, or not used, in time.
    ApprovalExpired(u32, CommandKind),
    /// It was withdrawn by a person, or made way for a later one.
    ApprovalWithdrawn(u32, CommandKind),
    /// Whether two persons decide, from here on.
    DualControlIs(bool),
    /// Two persons approved this configuration (SHA-256 of its protected part).
    ConfigurationApproved([u8; 32]),
    /// The configuration file differs from what was approved, which stays in force.
    ConfigurationWaits([u8; 32]),
    /// The SO PIN was proven.
    SoPinAccepted,
    /// The token refused the SO PIN.
    SoPinRefused,
    /// This application could not be told to let go, and a person accepted that by name.
    ApplicationLeft(ApplicationId),
    /// What was known of the slot's token, and its sealed codes, are gone: the slot starts anew.
    SlotForgotten,
    /// People are called together for this order; the number of this record names the attempt.
    CollectionBegan(CommandKind),
    /// A share was entered and is good.
    ShareEntered {
        /// Which of its set.
        x: u8,
    },
    /// A part was entered; only the token can judge it.
    PartEntered,
    /// A new share is shown to this person, and never again.
    ShareShown {
        /// Which of its set.
        x: u8,
    },
    /// The person typed their new share back.
    ShareConfirmed {
        /// Which of its set.
        x: u8,
    },
    /// A collection is over.
    CollectionEnded(CollectionEnd),
    /// A set that was being handed out never came into force: its shares are void.
    SetVoid,
    /// A ceremony begins.
    CeremonyBegan(CeremonyId, CommandKind),
    /// A ceremony ended; its transcript is whole.
    CeremonyEnded(CeremonyId, CeremonyEnd),
    /// A share was read from a card and is good.
    CardRead {
        /// Which of its set.
        x: u8,
    },
    /// A share was written to a card and read back.
    CardWritten {
        /// Which of its set.
        x: u8,
    },
    /// What was on a card is gone.
    CardErased,
    /// A card's PIN was changed on the pad.
    CardPinChanged,
    /// A card refused a PIN that somebody typed on the pad.
    CardPinWrong,
    /// A card did not do.
    CardRefused(Refusal),
    /// A card was declared lost.
    CardLost,
    /// A set of cards is being made.
    CardSetBegun {
        /// Which of its subject.
        generation: u32,
    },
    /// The set of cards that was being made is in force.
    CardSetInForce,
    /// The set of cards that was being made never came into force.
    CardSetVoid,
    /// The new cards gave the secret from two different quorums.
    SetRehearsed,
    /// The cards gave the key that they name.
    KeyCompared,
    /// A slot's token has the derived keys, read back and checked.
    BackupKeyPut(SlotId),
    /// A slot's token does not have them.
    BackupKeyNotPut(SlotId, Fault),
    /// Derived keys of other backup keys were destroyed in a slot's token.
    BackupKeysDestroyed(u8),
    /// A protected export is whole and has its name.
    ExportMade {
        /// Slots in it.
        sections: u8,
        /// Keys in it.
        keys: u32,
        /// Keys that stayed behind, accepted by name.
        left_out: u32,
    },
    /// A file's keys were unwrapped and compared; the token has U.
    ImportPlanned {
        /// Objects that the token does not have.
        new: u32,
        /// Objects that it has already.
        same: u32,
        /// Objects of the same class and id with another value.
        conflict: u32,
    },
    /// Everything new is in the token, read back and settled.
    ImportDone {
        /// Objects that were made.
        made: u32,
    },
    /// This roster is in force from here on.
    RosterInForce {
        /// Its epoch.
        epoch: u32,
        /// Its hash.
        hash: [u8; 32],
    },
    /// Another roster of the epoch in force was seen: no keys are exchanged until two persons choose.
    ClusterDivided {
        /// The epoch.
        epoch: u32,
    },
    /// A package for other members is whole and has its name.
    PackageMade {
        /// Which of this node.
        sequence: u64,
        /// Slots in it.
        sections: u8,
        /// Keys in it.
        keys: u32,
        /// Keys that cannot leave.
        left_out: u32,
    },
    /// What came in a package was compared with every slot's token.
    PackagePlanned(ImportPlan),
    /// Everything new of a package is there, and what its source knows is taken in.
    PackageTaken {
        /// Which of its source.
        sequence: u64,
        /// Objects that were made.
        made: u32,
    },
    /// The data key was destroyed by a person's order, and every sealed code and key with it. Written by
    /// the start that follows.
    Zeroized,
    /// The node signs with another key from here on: checkpoints up to this record are the old key's,
    /// those from it on are the new key's.
    NodeKeyReplaced {
        /// The public key that was destroyed.
        old: [u8; 32],
        /// The public key that was made.
        new: [u8; 32],
    },
    /// The MACs of the file with this SHA-256 are of the backup key that the cards gave.
    FileVerified([u8; 32]),
}

/// How a ceremony ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CeremonyEnd {
    /// Everything was done.
    Done,
    /// What the cards gave went to the slot.
    Delivered,
    /// Refused, cancelled or too late.
    Refused(Refusal),
    /// A device failed.
    Failed(Fault),
    /// The service ended in the middle of it.
    Interrupted,
}

/// How a collection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum CollectionEnd {
    /// Everything was entered; what follows is the slot's.
    Complete,
    /// A person ended it.
    Reset,
    /// Nobody went on in time.
    Expired,
    /// The slot was not any more what was collected for.
    Superseded,
}

/// Why a PIN is tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum AttemptCause {
    /// A stored code, without a person.
    Automatic,
    /// A code a person typed, or a stored one on a person's order.
    Person,
    /// A login that succeeded since the last start is made again.
    Repeat,
    /// The new PIN after a change, or a stored one to decide an interrupted change.
    Change,
}

impl AuditRecord {
    /// Writes version and record into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`AUDIT_RECORD_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        record::encode(AUDIT_RECORD_VERSION, self, out)
    }

    /// Reads what [`AuditRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        record::decode(AUDIT_RECORD_VERSION, bytes)
    }

    /// The chain hash: SHA-256 over the domain and the encoded record (which holds the
    /// hash before it).
    #[must_use]
    pub fn hash(&self) -> [u8; 32] {
        let mut bytes = [0; AUDIT_RECORD_BYTES_MAX];
        let mut hasher = Sha256::new();
        hasher.update(CHAIN_DOMAIN);
        match self.encode(&mut bytes) {
            Ok(encoded) => hasher.update(encoded),
            // Not reachable while AUDIT_RECORD_BYTES_MAX holds (unit test); the record would then break the chain.
            Err(_) => hasher.update([0xFF]),
        }
        hasher.finalize().into()
    }
}

/// Why a chain of records is not whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ChainBreak {
    /// A sequence number is missing or repeated.
    Sequence {
        /// Expected here.
        expected: u64,
        /// Found instead.
        found: u64,
    },
    /// The record does not follow from the one before it.
    Hash {
        /// At this record.
        sequence: u64,
    },
}

/// Checks a chain record by record; the same for the daemon's start and for auditors offline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    /// Number of the last record.
    pub sequence: u64,
    /// Its chain hash; zeros before the first record.
    pub head: [u8; 32],
}

impl Chain {
    /// Accepts the next record.
    ///
    /// # Errors
    /// [`ChainBreak`] when the record is not the next one of this chain.
    pub fn accept(&mut self, record: &AuditRecord) -> Result<(), ChainBreak> {
        let expected = self.sequence.saturating_add(1);
        if record.sequence != expected {
            return Err(ChainBreak::Sequence { expected, found: record.sequence });
        }
        if record.previous != self.head {
            return Err(ChainBreak::Hash { sequence: record.sequence });
        }
        self.sequence = expected;
        self.head = record.hash();
        Ok(())
    }

    /// The bytes a node signs for a checkpoint: domain, sequence (big-endian), head.
    #[must_use]
    pub fn checkpoint_message(&self) -> [u8; CHECKPOINT_DOMAIN.len() + 8 + 32] {
        let mut message = [0; CHECKPOINT_DOMAIN.len() + 8 + 32];
        let sequence = self.sequence.to_be_bytes();
        let parts = CHECKPOINT_DOMAIN.iter().chain(&sequence).chain(&self.head).copied();
        for (to, from) in message.iter_mut().zip(parts) {
            *to = from;
        }
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_record_fits_and_comes_back() {
        let record = AuditRecord {
            sequence: u64::MAX,
            wall_s: Some(u64::MAX),
            previous: [0xFF; 32],
            who: Some(PersonId(u8::MAX)),
            slot: Some(SlotId(u8::MAX)),
            event: AuditEvent::ApplicationFailed(
                ApplicationId(u8::MAX),
                Fault::Pkcs11 { code: u64::MAX, function: crate::fault::Function::Other },
            ),
        };
        let mut bytes = [0; AUDIT_RECORD_BYTES_MAX];
        let Ok(encoded) = record.encode(&mut bytes) else { panic!("the bound holds") };
        assert_eq!(encoded.len(), 72, "the documented size of a record that names a device failure");
        assert_eq!(AuditRecord::decode(encoded), Ok(record));

        let started = AuditRecord { event: AuditEvent::Started { configuration: [0xFF; 32] }, ..record };
        let mut bytes = [0; AUDIT_RECORD_BYTES_MAX];
        let Ok(encoded) = started.encode(&mut bytes) else { panic!("the bound holds") };
        assert_eq!(encoded.len(), 91, "the documented size of the largest record");
    }
}
