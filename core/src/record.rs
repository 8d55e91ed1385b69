//! What is durable.
//!
//! Records are postcard behind a version byte; the store adapter adds nothing but keys.
//! A turn's records are one transaction, durable before the turn's other effects are
//! performed. After a restart the platform loads every record before `Input::Start`.

use heapless::Vec;
use serde::{Deserialize, Serialize};

use crate::card::registry::CardEntry;
use crate::card::sets::{CardSets, SetSubject};
use crate::ceremony::order::CeremonyId;
use crate::ceremony::transcript::Line;
use crate::cluster::Membership;
use crate::fault::Refusal;
use crate::limits::FORMER_SETS_MAX;
use crate::package::Marks;
use crate::person::Roster;
use crate::reception::Reception;
use crate::safe::SecretId;
use crate::share::Set;
use crate::share::card_set::CardQuorum;
use crate::token::Serial;
use crate::transfer::Restoration;

/// Version of the encoding of [`SlotRecord`]. A store with a higher one is refused.
pub const SLOT_RECORD_VERSION: u8 = 2;
/// Bytes that always hold an encoded [`SlotRecord`] (132 with every field in use, by test).
pub const SLOT_RECORD_BYTES_MAX: usize = 160;
/// Version of the encoding of [`Sets`]. A store with a higher one is refused.
pub const SETS_VERSION: u8 = 1;
/// Bytes that always hold encoded [`Sets`] (683 with every field in use, by test).
pub const SETS_BYTES_MAX: usize = 768;

/// A number the platform gave a slot name when it first saw it; never reused, so a sealed
/// code can never be taken for another slot's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Owner(pub u16);

/// One durable change.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[allow(clippy::large_enum_variant)] // as `Effect`
pub enum Record {
    /// The state of a slot; replaces the one before.
    Slot {
        /// Whose.
        owner: Owner,
        /// The state.
        record: SlotRecord,
    },
    /// The sets of shares of a slot; replaces those before.
    Sets {
        /// Whose.
        owner: Owner,
        /// The sets.
        sets: Sets,
    },
    /// Seal this secret under its key.
    Seal {
        /// Under which key; bound into the seal.
        key: SecretKey,
        /// The secret, in the Safe until the commit is answered.
        id: SecretId,
    },
    /// Erase a sealed secret.
    Erase {
        /// Which.
        key: SecretKey,
    },
    /// What two persons decided; replaces the one before.
    Policy(PolicyRecord),
    /// The sets of cards of one subject; replaces those before.
    CardSets {
        /// Whose.
        subject: SetSubject,
        /// The sets.
        sets: CardSets,
    },
    /// One card of the registry; replaces the one at its place.
    Card {
        /// Its place.
        place: u8,
        /// What is known of it.
        entry: CardEntry,
    },
    /// The cluster id; replaces the one before.
    Cluster([u8; 16]),
    /// One line of a ceremony's transcript.
    Transcript {
        /// Of which ceremony.
        id: CeremonyId,
        /// Counted from 0.
        number: u16,
        /// What happened.
        line: Line,
    },
    /// The restoration under way; replaces the one before.
    Restoration(Option<Restoration>),
    /// The roster in force; replaces the one before.
    Roster(Membership),
    /// What was taken from other members and sent to them; replaces what was before.
    SyncMarks(Marks),
    /// The package under way whose making was ordered; replaces the one before.
    Reception(Option<Reception>),
}

/// Version of the encoding of [`PolicyRecord`]. A store with a higher one is refused.
pub const POLICY_RECORD_VERSION: u8 = 1;
/// Bytes that always hold an encoded [`PolicyRecord`] (34, by test).
pub const POLICY_RECORD_BYTES_MAX: usize = 64;

/// What only two persons can change, once dual control is on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct PolicyRecord {
    /// Whether two persons decide.
    pub dual_control: bool,
    /// SHA-256 of the protected part of the configuration that was approved; zeros while
    /// dual control is off.
    pub configuration: [u8; 32],
}

impl PolicyRecord {
    /// Writes version and record into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`POLICY_RECORD_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        encode(POLICY_RECORD_VERSION, self, out)
    }

    /// Reads what [`PolicyRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        decode(POLICY_RECORD_VERSION, bytes)
    }
}

/// Names one sealed secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SecretKey {
    /// What it is.
    pub kind: SecretKind,
    /// Whose.
    pub owner: Owner,
    /// Which of them; rises with every new code of the slot.
    pub generation: u32,
}

/// Kinds of sealed secrets. Manual codes have none: they are never stored (P31).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum SecretKind {
    /// A generated code.
    GeneratedCode,
    /// The node's Ed25519 private key; made and used by the platform.
    NodeKey,
}

/// The code mode of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Mode {
    /// Made by the service, stored sealed, used at boot, never shown.
    Generated,
    /// Never stored, known to people.
    Manual,
}

/// Everything durable about one slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct SlotRecord {
    /// Slot uid: 16 random bytes, given when the slot is first configured.
    pub uid: [u8; 16],
    /// The code mode.
    pub mode: Mode,
    /// Who knows the manual code: in generated mode [`Knowledge::Whole`].
    pub knowledge: Knowledge,
    /// Who knows the new manual code, while a change to one is under way, or its outcome is
    /// *old or new*.
    pub knowledge_next: Option<Knowledge>,
    /// Serial of the token last opened; another token with the same label is not tried.
    pub serial: Option<Serial>,
    /// Whether this token was ever seen with a low count: only then does the absence of
    /// the flag prove that no try was refused (PKCS#11 lets a token never set it).
    pub shows_count_low: bool,
    /// Generation of the sealed code that was accepted last, if one is kept.
    pub accepted: Option<u32>,
    /// Generation of the sealed code that was never accepted yet, if one is kept.
    pub pending: Option<u32>,
    /// The next generation number.
    pub next_generation: u32,
    /// A token PIN change under way.
    pub change: Option<Change>,
    /// What only people can resolve.
    pub doubt: Option<Doubt>,
    /// Attempts with the user PIN.
    pub user: Attempts,
    /// Attempts with the SO PIN: same rules, own count.
    pub so: Attempts,
    /// What the SO PIN is doing to the token: an unblock or a decommission. Beside `change`,
    /// which stays as it was until the token has proven what it has.
    pub by_so: Option<Change>,
    /// The sealed code of an unblock; kept until it or another code was accepted and settled.
    pub unblocking: Option<Unblocking>,
    /// When the SO PIN was last proven, seconds since 1970; `None`: never, or without a clock.
    pub so_proven_s: Option<u64>,
}

/// The sealed code that an unblock gives the token. A later unblock gives it the same one, so
/// that whichever of the calls took effect, the code is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Unblocking {
    /// Under which generation it is sealed.
    pub generation: u32,
    /// Whether a call with it may have reached the token.
    pub called: bool,
    /// A try of it began to decide the last call: the service makes no other by itself.
    pub tried: bool,
    /// The token refused it since the last call.
    pub refused: bool,
}

impl Unblocking {
    /// A code that was drawn now; no call knows it.
    #[must_use]
    pub const fn drawn(generation: u32) -> Self {
        Unblocking { generation, called: false, tried: false, refused: false }
    }

    /// The same code while a call with it begins.
    #[must_use]
    pub const fn calling(self) -> Self {
        Unblocking { called: true, tried: false, refused: false, ..self }
    }

    /// Whether the token may have it, as far as anybody knows.
    #[must_use]
    pub const fn may_rule(self) -> bool {
        self.called && !self.refused
    }
}

/// Who knows a manual code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Knowledge {
    /// One person, or several as one: the whole code is typed.
    Whole,
    /// Persons in conjunction: each types a part, in any order; parts are joined in the order of the roster.
    Parts(Roster),
    /// Any m of n persons, each with a share of the set in the slot's [`Sets`].
    Shares,
    /// Any k of n users with cards, of the set in the slot's `CardSets`; on top of a code or alone.
    Cards {
        /// Which set of the slot.
        generation: u32,
        /// How many users of how many.
        quorum: CardQuorum,
        /// Whether a code is typed as well.
        with_code: bool,
    },
}

/// Which of two codes a person means while a change is undecided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Knows {
    /// The one that ruled last.
    Current,
    /// The one that a change was to bring.
    Next,
    /// Another than those two, known whole: what the SO PIN was to set, or what the service made.
    Rescued,
}

/// The sets of shares of one slot. Nothing here is secret: each share is known by a hash of
/// its 128 random bits.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sets {
    /// The set in force, or the last one that was.
    pub current: Option<Set>,
    /// A set that is being handed out, or that a change of the token PIN makes the one in force.
    pub next: Option<Set>,
    /// Beginnings of the ids of sets that are void or superseded: their shares are refused by that name.
    pub former: Vec<[u8; 6], FORMER_SETS_MAX>,
    /// Generation of the set that was made last; 0: none.
    pub last_generation: u16,
}

impl Sets {
    /// A slot that never had a set.
    #[must_use]
    pub const fn none() -> Self {
        Sets { current: None, next: None, former: Vec::new(), last_generation: 0 }
    }

    /// A set is being handed out.
    pub fn begin_next(&mut self, set: Set) {
        self.void_next();
        self.last_generation = set.generation;
        self.next = Some(set);
    }

    /// The next set never came into force: its shares are void. Returns whether there was one.
    pub fn void_next(&mut self) -> bool {
        match self.next.take() {
            Some(set) => {
                self.remember(set.set_mark());
                true
            }
            None => false,
        }
    }

    /// The next set is in force from here on.
    pub fn promote_next(&mut self) {
        if let Some(next) = self.next.take()
            && let Some(superseded) = self.current.replace(next)
        {
            self.remember(superseded.set_mark());
        }
    }

    /// Writes version and sets into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`SETS_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        encode(SETS_VERSION, self, out)
    }

    /// Reads what [`Sets::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly the sets of one slot.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        decode(SETS_VERSION, bytes)
    }

    /// Whether a share with this mark is of a set that is void or superseded.
    #[must_use]
    pub fn is_former(&self, mark: [u8; 6]) -> bool {
        self.former.contains(&mark)
    }

    fn remember(&mut self, mark: [u8; 6]) {
        if self.former.is_full() {
            self.former.remove(0);
        }
        // One place was just made free.
        let _ = self.former.push(mark);
    }
}

/// A token PIN change under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Change {
    /// From what to what.
    pub kind: ChangeKind,
    /// Whether the record *calling* stands: without it nothing changed.
    pub calling: bool,
    /// The token refused the pending code since then: it is not tried again.
    pub pending_refused: bool,
    /// A try of the accepted code began since then: the service makes no other by itself.
    pub accepted_tried: bool,
}

impl Change {
    /// A change that is intended; nothing was called.
    #[must_use]
    pub const fn intended(kind: ChangeKind) -> Self {
        Change { kind, calling: false, pending_refused: false, accepted_tried: false }
    }

    /// A change whose call may have reached the token.
    #[must_use]
    pub const fn calling(kind: ChangeKind) -> Self {
        Change { kind, calling: true, pending_refused: false, accepted_tried: false }
    }
}

/// From what to what a token PIN changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum ChangeKind {
    /// The first user PIN of a token.
    Initialise,
    /// A generated code by another.
    GeneratedToGenerated,
    /// A manual code by a generated one.
    ManualToGenerated,
    /// A generated code by a manual one.
    GeneratedToManual,
    /// A manual code by another.
    ManualToManual,
    /// Whatever it is by a generated code, with the SO PIN.
    Unblock,
    /// Whatever it is by a manual code, with the SO PIN.
    UnblockToManual,
    /// To none: the token is erased.
    Decommission,
}

/// What only people can resolve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Doubt {
    /// The token has the old manual code or the new one: try the new, then the old.
    OldOrNew,
    /// The token refused both sealed codes; both are kept.
    BothRefused,
    /// A call is, or twice stayed, without an answer.
    CallUnanswered,
}

/// The count of one PIN. Written before each attempt and after it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Attempts {
    /// An attempt was recorded whose outcome was not.
    pub open: bool,
    /// Refused ones since the last accepted one; unknown ones count as refused.
    pub refused_in_row: u8,
    /// Unknown ones since the last known outcome.
    pub unknown_in_row: u8,
    /// No automatic attempt until a person acts.
    pub automatic_stopped: bool,
    /// How often the wait has doubled; 0: no wait.
    pub back_off: u8,
}

impl SlotRecord {
    /// The record of a slot that was never opened: manual, locked.
    #[must_use]
    pub const fn new(uid: [u8; 16]) -> Self {
        const NONE: Attempts =
            Attempts { open: false, refused_in_row: 0, unknown_in_row: 0, automatic_stopped: false, back_off: 0 };
        SlotRecord {
            uid,
            mode: Mode::Manual,
            knowledge: Knowledge::Whole,
            knowledge_next: None,
            serial: None,
            shows_count_low: false,
            accepted: None,
            pending: None,
            next_generation: 1,
            change: None,
            doubt: None,
            user: NONE,
            so: NONE,
            by_so: None,
            unblocking: None,
            so_proven_s: None,
        }
    }

    /// The record of this slot with nothing known of a token. The uid stays, and generations go
    /// on, so that a forgotten code can never be taken for a new one.
    #[must_use]
    pub const fn forgotten(&self) -> Self {
        let mut record = SlotRecord::new(self.uid);
        record.next_generation = self.next_generation;
        record
    }

    /// The record of this slot after every sealed code was destroyed. What only people know stays, and
    /// so does the mode: a generated slot without a code is what a zeroize leaves. A change that began
    /// with a sealed code or was to end with one can be decided by nobody any more: the slot opens with
    /// a code that people know, or by the SO PIN.
    #[must_use]
    pub fn without_sealed_codes(&self) -> Self {
        let of_people = |change: &Change| match change.kind {
            ChangeKind::ManualToManual | ChangeKind::UnblockToManual | ChangeKind::Decommission => true,
            ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToGenerated
            | ChangeKind::GeneratedToManual
            | ChangeKind::Unblock => false,
        };
        let change = self.change.filter(of_people);
        let by_so = self.by_so.filter(|by_so| of_people(by_so) && self.mode == Mode::Manual);
        let kept = self.mode == Mode::Manual && (change.is_some() || self.doubt == Some(Doubt::OldOrNew));
        SlotRecord {
            accepted: None,
            pending: None,
            unblocking: None,
            change,
            by_so,
            knowledge_next: self.knowledge_next.filter(|_| kept),
            doubt: self.doubt.filter(|doubt| kept && *doubt == Doubt::OldOrNew),
            ..*self
        }
    }

    /// Whether its code was generated and is gone.
    #[must_use]
    pub fn lacks_its_code(&self) -> bool {
        self.mode == Mode::Generated && self.sealed().iter().all(Option::is_none)
    }

    /// The sealed codes it names.
    #[must_use]
    pub fn sealed(&self) -> [Option<u32>; 3] {
        [self.accepted, self.pending, self.unblocking.map(|kept| kept.generation)]
    }

    /// Writes version and record into `out`; returns the part written.
    ///
    /// # Errors
    /// [`Refusal::StoreUnreadable`] when `out` is smaller than [`SLOT_RECORD_BYTES_MAX`].
    pub fn encode<'out>(&self, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
        encode(SLOT_RECORD_VERSION, self, out)
    }

    /// Reads what [`SlotRecord::encode`] wrote.
    ///
    /// # Errors
    /// [`Refusal::StoreNewer`] for a higher version, [`Refusal::StoreUnreadable`] for
    /// anything that is not exactly one record.
    pub fn decode(bytes: &[u8]) -> Result<Self, Refusal> {
        match bytes.first() {
            Some(1) => decode::<SlotRecordV1>(1, bytes).map(SlotRecord::from),
            Some(_) | None => decode(SLOT_RECORD_VERSION, bytes),
        }
    }
}

/// The record as 0.1.0 wrote it: every manual code was known whole.
#[derive(Deserialize)]
struct SlotRecordV1 {
    uid: [u8; 16],
    mode: Mode,
    serial: Option<Serial>,
    shows_count_low: bool,
    accepted: Option<u32>,
    pending: Option<u32>,
    next_generation: u32,
    change: Option<Change>,
    doubt: Option<Doubt>,
    user: Attempts,
    so: Attempts,
}

impl From<SlotRecordV1> for SlotRecord {
    fn from(old: SlotRecordV1) -> Self {
        let to_manual = |change: Change| match change.kind {
            ChangeKind::GeneratedToManual | ChangeKind::ManualToManual => true,
            ChangeKind::Initialise
            | ChangeKind::GeneratedToGenerated
            | ChangeKind::ManualToGenerated
            | ChangeKind::Unblock
            | ChangeKind::UnblockToManual
            | ChangeKind::Decommission => false,
        };
        let undecided = old.change.is_some_and(to_manual) || old.doubt == Some(Doubt::OldOrNew);
        SlotRecord {
            mode: old.mode,
            knowledge_next: undecided.then_some(Knowledge::Whole),
            serial: old.serial,
            shows_count_low: old.shows_count_low,
            accepted: old.accepted,
            pending: old.pending,
            next_generation: old.next_generation,
            change: old.change,
            doubt: old.doubt,
            user: old.user,
            so: old.so,
            ..SlotRecord::new(old.uid)
        }
    }
}

/// Writes a version byte and the postcard encoding of `value` into `out`; returns the part written.
///
/// # Errors
/// [`Refusal::StoreUnreadable`] when `out` is too small.
pub(crate) fn encode<'out>(version: u8, value: &impl Serialize, out: &'out mut [u8]) -> Result<&'out [u8], Refusal> {
    let (first, rest) = out.split_first_mut().ok_or(Refusal::StoreUnreadable)?;
    *first = version;
    let written = postcard::to_slice(value, rest).map_err(|_| Refusal::StoreUnreadable)?.len();
    out.get(..written.saturating_add(1)).ok_or(Refusal::StoreUnreadable)
}

/// Reads what [`encode`] wrote, and nothing behind it.
///
/// # Errors
/// [`Refusal::StoreNewer`] for a version above `version`, [`Refusal::StoreUnreadable`] for
/// anything that is not exactly one value.
pub(crate) fn decode<'bytes, T: Deserialize<'bytes>>(version: u8, bytes: &'bytes [u8]) -> Result<T, Refusal> {
    let (first, rest) = bytes.split_first().ok_or(Refusal::StoreUnreadable)?;
    if *first > version {
        return Err(Refusal::StoreNewer);
    }
    match postcard::take_from_bytes(rest) {
        Ok((value, [])) => Ok(value),
        Ok(_) | Err(_) => Err(Refusal::StoreUnreadable),
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects)] // a test that overflows has found something
mod tests {
    use super::*;
    use crate::person::PersonId;

    fn owned(bytes: &[u8]) -> heapless::Vec<u8, SLOT_RECORD_BYTES_MAX> {
        heapless::Vec::from_slice(bytes).expect("an encoded record is within its bound")
    }

    fn full_roster() -> Roster {
        let persons: heapless::Vec<PersonId, 16> = (240..=255).map(PersonId).collect();
        Roster::new(&persons).expect("sixteen different persons")
    }

    /// Every number at its longest encoding, every option in use.
    fn largest() -> SlotRecord {
        let attempts = Attempts {
            open: true,
            refused_in_row: u8::MAX,
            unknown_in_row: u8::MAX,
            automatic_stopped: true,
            back_off: u8::MAX,
        };
        SlotRecord {
            uid: [0xFF; 16],
            mode: Mode::Manual,
            knowledge: Knowledge::Parts(full_roster()),
            knowledge_next: Some(Knowledge::Parts(full_roster())),
            serial: Some([0xFF; 16]),
            shows_count_low: true,
            accepted: Some(u32::MAX),
            pending: Some(u32::MAX),
            next_generation: u32::MAX,
            change: Some(Change::calling(ChangeKind::ManualToManual)),
            doubt: Some(Doubt::CallUnanswered),
            user: attempts,
            so: attempts,
            by_so: Some(Change::calling(ChangeKind::Decommission)),
            unblocking: Some(Unblocking { generation: u32::MAX, called: true, tried: true, refused: true }),
            so_proven_s: Some(u64::MAX),
        }
    }

    /// What 0.1.0 wrote for a slot with every field in use.
    #[rustfmt::skip]
    const V1: [u8; 70] = [
        0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0x01, 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF,
        0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0x01, 0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F,
        0x01, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0xFF, 0xFF, 0xFF, 0xFF, 0x0F, 0x01, 0x04, 0x01,
        0x00, 0x00, 0x01, 0x02, 0x01, 0xFF, 0xFF, 0x01, 0xFF, 0x01, 0xFF, 0xFF, 0x01, 0xFF,
    ];

    #[test]
    fn a_record_of_0_1_0_is_read_for_ever() {
        let expected = SlotRecord { by_so: None, unblocking: None, so_proven_s: None, ..largest() };
        // Known whole, and so is what the open change leads to.
        let (knowledge, knowledge_next) = (Knowledge::Whole, Some(Knowledge::Whole));
        let expected = SlotRecord { knowledge, knowledge_next, ..expected };
        assert_eq!(SlotRecord::decode(&V1), Ok(expected));
        for len in 0..V1.len() {
            assert_eq!(SlotRecord::decode(&V1[..len]), Err(Refusal::StoreUnreadable));
        }
    }

    #[test]
    fn the_largest_record_fits_and_comes_back() {
        let mut bytes = [0; SLOT_RECORD_BYTES_MAX];
        let encoded = largest().encode(&mut bytes).map(owned).expect("the bound holds");
        assert_eq!(encoded.len(), 132, "the documented size of the largest record");
        assert_eq!(SlotRecord::decode(&encoded), Ok(largest()));
    }

    #[test]
    fn the_largest_sets_fit_and_come_back() {
        let mut set = Set::new(&[7; 32], u16::MAX, crate::share::Quorum::new(16, 16).expect("a quorum"), u8::MAX);
        set.id = [0xFF; 16];
        set.fingerprints = [[0xFF; 16]; 16];
        for x in 1..=16 {
            assert!(set.hand_out(x, PersonId(x)) && set.confirm(x));
        }
        let former = heapless::Vec::from_slice(&[[0xFF; 6]; FORMER_SETS_MAX]).expect("its capacity");
        let sets = Sets { current: Some(set.clone()), next: Some(set), former, last_generation: u16::MAX };
        let mut bytes = [0; SETS_BYTES_MAX];
        let encoded = sets.encode(&mut bytes).expect("the bound holds");
        assert_eq!(encoded.len(), 683, "the documented size of the largest sets");
        assert_eq!(Sets::decode(encoded), Ok(sets));
        assert_eq!(Sets::decode(&encoded[..encoded.len() - 1]), Err(Refusal::StoreUnreadable));
    }

    #[test]
    fn a_newer_a_truncated_and_a_longer_record_are_refused() {
        let mut bytes = [0; SLOT_RECORD_BYTES_MAX];
        let mut encoded = largest().encode(&mut bytes).map(owned).expect("the bound holds");
        for len in 0..encoded.len() {
            assert_eq!(SlotRecord::decode(&encoded[..len]), Err(Refusal::StoreUnreadable));
        }
        encoded.push(0).expect("the bound leaves room for one byte");
        assert_eq!(SlotRecord::decode(&encoded), Err(Refusal::StoreUnreadable));
        encoded[0] = SLOT_RECORD_VERSION + 1;
        assert_eq!(SlotRecord::decode(&encoded), Err(Refusal::StoreNewer));
    }

    #[test]
    fn a_policy_comes_back_and_nothing_else_is_one() {
        let policy = PolicyRecord { dual_control: true, configuration: [0xAB; 32] };
        let mut bytes = [0; POLICY_RECORD_BYTES_MAX];
        let mut encoded = policy.encode(&mut bytes).map(owned).expect("the bound holds");
        assert_eq!(encoded.len(), 34, "the documented size");
        assert_eq!(encoded[..3], [1, 1, 0xAB], "the bytes of version 1 stay as they are");
        assert_eq!(PolicyRecord::decode(&encoded), Ok(policy));
        for len in 0..encoded.len() {
            assert_eq!(PolicyRecord::decode(&encoded[..len]), Err(Refusal::StoreUnreadable));
        }
        encoded[1] = 2;
        assert_eq!(PolicyRecord::decode(&encoded), Err(Refusal::StoreUnreadable));
        encoded[0] = POLICY_RECORD_VERSION + 1;
        assert_eq!(PolicyRecord::decode(&encoded), Err(Refusal::StoreNewer));
    }
}
