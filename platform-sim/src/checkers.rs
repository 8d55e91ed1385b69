//! Checkers: one for each promise about slots, each with a broken trace that it must catch.
//!
//! They watch the border between core and world: what enters, what is ordered, what the
//! devices did. They know nothing of the core's states but what `Status` shows. The first
//! violation stays; a campaign stops at it.

use std::fmt;

use heapless::Vec;
use slotwarden_core::audit::AuditEvent;
use slotwarden_core::command::Command;
use slotwarden_core::limits::{COLLECTION_IDLE_MS, HAND_OUT_IDLE_MS};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Change, ChangeKind, Doubt, Mode};
use slotwarden_core::safe::SecretId;
use slotwarden_core::status::{ApplicationState, SlotStatus, StateName, WaitKind};

use crate::SLOTS;
use crate::code::Code;

/// Longest wait for an answer, milliseconds of the world. The longest order is a mode
/// switch whose every call, commit and application answers just before or never: about
/// twelve waits of 30 s, behind a boot of other slots.
pub const ANSWER_WAIT_MAX_MS: u64 = 20 * 60_000;
/// Effects of one turn; more means that the core never ends.
pub const EFFECTS_OF_A_TURN_MAX: u32 = 1_000;
/// Deadlines of several slots may fall on one millisecond.
const TICKS_IN_VAIN_MAX: u32 = 16;
/// How long an approval may be used, milliseconds, and a commit on either side.
const APPROVAL_USED_MS: u64 = 300_000 + 2 * 90_000;
/// Codes tried in one window that a ledger remembers.
const TRIED_MAX: usize = 16;

/// A promise that was broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Its number, as in `promises.md`.
    pub promise: &'static str,
    /// What happened.
    pub what: &'static str,
    /// To which slot.
    pub slot: u8,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} broken at slot {}: {}", self.promise, self.slot, self.what)
    }
}

/// What is noted about one slot.
#[derive(Clone, Debug, Default)]
struct Ledger {
    /// An audit record *attempt begins* is durable, and no login used it yet.
    attempt_recorded: bool,
    /// A login was answered, and its outcome is not in the audit log yet.
    outcome_owed: bool,
    /// A login is at the token.
    login_under_way: bool,
    /// The PIN that this worker's `C_Login` accepted last.
    proven: Option<Code>,
    /// The PIN accepted last since the service started: making that login again, when the
    /// worker was lost, is not an attempt unless it is refused (`design.md`).
    accepted: Option<Code>,
    /// The login under way is such a repetition.
    is_repeat: bool,
    /// `C_SetPIN` refused the PIN that was accepted last, and nobody heard of it yet.
    is_refused_unheard: bool,
    /// The core heard of it; it counts when that is durable.
    is_refusal_heard: bool,
    /// Stored codes tried without a person since the last reason to try them.
    tried: Vec<Code, TRIED_MAX>,
    /// Stored codes the token refused since a person acted or a PIN was accepted.
    refused: Vec<Code, TRIED_MAX>,
    /// Whether the last look showed a low count: then an unknown outcome counts as refused.
    low_count: bool,
    /// The flags were invented, so they may have proved anything.
    flags_lied: bool,
    /// Shares taken since the last collection began: of which set, which, by whom.
    entered: std::vec::Vec<([u8; 6], u8, PersonId)>,
}

/// A code that somebody typed.
#[derive(Clone, Copy, Debug)]
struct Entry {
    code: Code,
    typed: u32,
    refused: u32,
}

/// An order that was told to wait for a second person.
#[derive(Clone, Copy, Debug)]
struct Asked {
    id: u32,
    operation: Command,
    requester: PersonId,
    given: Option<(PersonId, u64)>,
    spent: bool,
    used: bool,
}

/// All checkers.
#[derive(Debug, Default)]
pub struct Checkers {
    /// The first violation.
    pub violation: Option<Violation>,
    slots: [Ledger; SLOTS],
    entries: std::vec::Vec<Entry>,
    shown: std::vec::Vec<([u8; 6], u8, PersonId)>,
    asked: std::vec::Vec<Asked>,
    commit_under_way: bool,
    store_failed: bool,
    reserve: bool,
    stuck_draw: Option<SecretId>,
    ticks_in_vain: u32,
}

impl Checkers {
    /// As new; keeps its memory.
    pub fn clear(&mut self) {
        self.violation = None;
        self.slots = Default::default();
        self.entries.clear();
        self.shown.clear();
        self.restarted();
    }

    /// Notes a violation, unless there is one already.
    pub fn violated(&mut self, promise: &'static str, slot: u8, what: &'static str) {
        self.violation.get_or_insert(Violation { promise, what, slot });
    }

    fn require(&mut self, kept: bool, promise: &'static str, slot: u8, what: &'static str) {
        if !kept {
            self.violated(promise, slot, what);
        }
    }

    /// The service starts anew: what was only in memory is gone.
    pub fn restarted(&mut self) {
        for ledger in &mut self.slots {
            ledger.attempt_recorded = false;
            ledger.outcome_owed = false;
            ledger.login_under_way = false;
            ledger.proven = None;
            ledger.accepted = None;
            ledger.is_refused_unheard = false;
            ledger.is_refusal_heard = false;
            ledger.tried.clear();
            ledger.entered.clear();
        }
        // Approvals die with a restart.
        self.asked.clear();
        self.commit_under_way = false;
        self.store_failed = false;
        self.reserve = false;
        self.stuck_draw = None;
        self.ticks_in_vain = 0;
    }

    // What people do.

    /// A person typed a code for a slot.
    pub fn p05_typed(&mut self, code: Code) {
        if code.is_none() {
            return;
        }
        match self.entries.iter_mut().find(|entry| entry.code == code) {
            Some(entry) => entry.typed += 1,
            None => self.entries.push(Entry { code, typed: 1, refused: 0 }),
        }
    }

    /// A person's order about a slot was taken: stored codes may be tried once more.
    pub fn p34_person_acted(&mut self, slot: u8) {
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.tried.clear();
        ledger.refused.clear();
    }

    /// There is a new reason to try stored codes once: the worker or the token is back.
    /// `low_count` is what the look showed, if it was one.
    pub fn p34_new_reason(&mut self, slot: u8, low_count: Option<bool>) {
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.tried.clear();
        if let Some(low_count) = low_count {
            ledger.low_count = low_count;
        }
    }

    /// The module invented flags.
    pub fn flags_lied(&mut self, slot: u8) {
        self.slots[usize::from(slot)].flags_lied = true;
    }

    /// An order waits for a second person.
    pub fn p27_asked(&mut self, id: u32, operation: Command, requester: PersonId) {
        if !self.asked.iter().any(|asked| asked.id == id) {
            self.asked.push(Asked { id, operation, requester, given: None, spent: false, used: false });
        }
    }

    /// A second person approved a request.
    pub fn p27_given(&mut self, id: u32, by: PersonId, now_ms: u64) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) else { return };
        asked.given = Some((by, now_ms));
        let kept = asked.requester != by;
        self.require(kept, "P26", 0, "somebody approved an order of their own");
    }

    /// An approval is used up, says the audit log.
    pub fn p27_spent(&mut self, id: u32, now_ms: u64) {
        let Some(asked) = self.asked.iter_mut().find(|asked| asked.id == id) else { return };
        let again = std::mem::replace(&mut asked.spent, true);
        let in_time = asked.given.is_some_and(|(_, at_ms)| now_ms.saturating_sub(at_ms) <= APPROVAL_USED_MS);
        self.require(!again, "P27", 0, "an approval was used twice");
        self.require(in_time, "P27", 0, "an approval was used that nobody gave, or too late");
    }

    /// Something that needs two persons was carried out, or begun, for this person.
    pub fn p26_done(&mut self, slot: u8, operation: &Command, who: PersonId) {
        let mine = |asked: &&mut Asked| asked.operation == *operation && asked.requester == who;
        let free = self.asked.iter_mut().find(|asked| mine(asked) && asked.spent && !asked.used);
        let approved = free.map(|asked| asked.used = true).is_some();
        self.require(approved, "P26", slot, "what needs two persons was done for one");
    }

    /// A collection begins: what was entered before counts for nothing.
    pub fn p09_begins(&mut self, slot: u8) {
        self.slots[usize::from(slot)].entered.clear();
    }

    /// A share was taken from a person.
    pub fn p09_entered(&mut self, slot: u8, mark: [u8; 6], x: u8, who: PersonId) {
        self.slots[usize::from(slot)].entered.push((mark, x, who));
    }

    /// A token PIN that m shares of a set give is used: to log in, or as an old or new PIN.
    pub fn p09_used(&mut self, slot: u8, pin: &Code, mark: [u8; 6], m: u8) {
        let ledger = &self.slots[usize::from(slot)];
        let mut behind = [0u64; 2];
        for (_, x, who) in ledger.entered.iter().filter(|(of, ..)| *of == mark) {
            behind[0] |= 1u64.checked_shl(u32::from(*x)).unwrap_or(0);
            behind[1] |= 1u64.checked_shl(u32::from(who.0)).unwrap_or(0);
        }
        let enough = behind.iter().all(|bits| bits.count_ones() >= u32::from(m));
        // A login that succeeded is made again when the worker was lost.
        let kept = enough || ledger.accepted == Some(*pin);
        self.require(kept, "P9", slot, "a token PIN was made of fewer shares, or by fewer persons, than it takes");
    }

    /// An entry was taken; `may_be` unless it is no good share of the person who entered it.
    pub fn p11_taken(&mut self, slot: u8, may_be: bool) {
        self.require(may_be, "P11", slot, "a bad share was taken");
    }

    /// A good share was entered; `kept` unless something was said to be wrong with it.
    pub fn p11_refused(&mut self, slot: u8, kept: bool) {
        self.require(kept, "P11", slot, "a good share was refused as a bad one");
    }

    /// A share is shown; `is_durable`: the store knows to whom, and it is the share it is said to be.
    pub fn p30_shown(&mut self, slot: u8, mark: [u8; 6], x: u8, who: PersonId, is_durable: bool) {
        let again = self.shown.iter().any(|(of, shown, to)| *of == mark && (*shown == x || *to == who));
        self.shown.push((mark, x, who));
        self.require(is_durable, "P30", slot, "a share was shown before that was durable");
        self.require(!again, "P30", slot, "a share was shown twice, or a person saw two of a set");
    }

    // What the core orders.

    /// An effect is polled. A service that halted for a reason of its own lets go of what it holds.
    pub fn p36_effect(&mut self, is_record: bool, halted: bool) {
        self.commit_under_way &= !halted;
        self.require(!self.commit_under_way, "P36", 0, "an effect was yielded while a commit is unanswered");
        self.require(!(is_record && self.store_failed), "P40", 0, "a record was written after a failed commit");
    }

    /// A commit begins.
    pub fn p36_commit(&mut self) {
        self.commit_under_way = true;
    }

    /// A commit was answered.
    pub fn p40_answered(&mut self, durable: bool, reserve: bool) {
        self.commit_under_way = false;
        self.store_failed |= !durable;
        self.reserve |= reserve;
    }

    /// Whether a commit is unanswered.
    #[must_use]
    pub fn waits_for_commit(&self) -> bool {
        self.commit_under_way
    }

    /// Whether the store said that only its reserve is left.
    #[must_use]
    pub fn has_only_reserve(&self) -> bool {
        self.reserve
    }

    /// An audit record became durable.
    pub fn p36_journaled(&mut self, slot: u8, event: &AuditEvent) {
        let ledger = &mut self.slots[usize::from(slot)];
        match event {
            AuditEvent::AttemptBegins(_) => ledger.attempt_recorded = true,
            AuditEvent::AttemptAccepted
            | AuditEvent::AttemptRefused
            | AuditEvent::AttemptUnknown(_)
            | AuditEvent::AttemptNotMade => {
                ledger.outcome_owed = false;
            }
            _ => {}
        }
        if *event == AuditEvent::AttemptRefused
            && std::mem::take(&mut ledger.is_refusal_heard)
            && let Some(pin) = ledger.accepted
        {
            self.refused_once_more(slot, &pin);
        }
    }

    /// `C_Login` is ordered. `automatic`: no person waits for this slot.
    pub fn p36_login(&mut self, slot: u8, pin: &Code, automatic: bool) {
        self.require(!self.store_failed, "P40", slot, "a login after a failed commit");
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.is_repeat = ledger.accepted == Some(*pin) && !ledger.attempt_recorded;
        let recorded = std::mem::take(&mut ledger.attempt_recorded) || ledger.is_repeat;
        let repeated = std::mem::replace(&mut ledger.login_under_way, true);
        let mut tried_again = false;
        if automatic && pin.is_generated() {
            tried_again = ledger.tried.contains(pin);
            let _full = ledger.tried.push(*pin);
        }
        self.require(recorded, "P36", slot, "a login without a durable record of the attempt");
        self.require(!repeated, "P44", slot, "a login while another one is unanswered");
        self.require(!tried_again, "P34", slot, "a stored code was tried twice without a person");
    }

    /// `C_SetPIN` or `C_InitPIN` is ordered; `change` is what the durable record says.
    pub fn p36_change(&mut self, slot: u8, change: Option<Change>, initialise: bool) {
        self.require(!self.store_failed, "P40", slot, "a PIN change after a failed commit");
        let called =
            change.is_some_and(|change| change.calling && (change.kind == ChangeKind::Initialise) == initialise);
        self.require(called, "P36", slot, "a PIN change without the durable record *calling*");
    }

    /// `C_InitPIN` or `C_InitToken` is ordered by the SO PIN; `by_so` is what the durable record says.
    pub fn p36_by_so(&mut self, slot: u8, by_so: Option<Change>, erase: bool) {
        self.require(!self.store_failed, "P40", slot, "a call by the SO PIN after a failed commit");
        let called = by_so.is_some_and(|change| change.calling && (change.kind == ChangeKind::Decommission) == erase);
        self.require(called, "P36", slot, "a call by the SO PIN without the durable record *calling*");
    }

    /// A secret is to be sealed in place `id`.
    pub fn p31_sealed(&mut self, slot: u8, code: &Code, id: SecretId, known_already: bool) {
        self.require(code.is_generated(), "P31", slot, "something typed is being stored");
        self.require(self.stuck_draw != Some(id), "P32", slot, "a code was made of two stuck random sources");
        self.require(!known_already, "P32", slot, "a generated code repeats another one");
    }

    /// Both random sources were constant when they filled this place.
    pub fn p32_stuck_draw(&mut self, id: SecretId) {
        self.stuck_draw = Some(id);
    }

    /// An application is to get this PIN.
    pub fn p33_handed_over(&mut self, slot: u8, pin: &Code) {
        // The worker may be lost between the login and the hand-over; the PIN stays proven.
        let ledger = &self.slots[usize::from(slot)];
        let proven = ledger.proven == Some(*pin) || ledger.accepted == Some(*pin);
        self.require(proven, "P33", slot, "an application got a PIN that no login proved");
    }

    // What the devices did.

    /// The token refused a PIN.
    pub fn p34_refused(&mut self, slot: u8, pin: &Code) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.code == *pin) {
            entry.refused += 1;
            let kept = entry.refused <= entry.typed;
            self.require(kept, "P5", slot, "a typed code was tried more often than it was typed");
            return;
        }
        let ledger = &mut self.slots[usize::from(slot)];
        let is_proven = !ledger.login_under_way && ledger.accepted == Some(*pin);
        if is_proven || ledger.is_repeat && ledger.login_under_way {
            // It becomes an attempt only when its refusal is heard; a power cut may prevent that.
            ledger.is_refused_unheard = is_proven;
            return;
        }
        self.refused_once_more(slot, pin);
    }

    fn refused_once_more(&mut self, slot: u8, pin: &Code) {
        let ledger = &mut self.slots[usize::from(slot)];
        let before = ledger.refused.iter().filter(|code| *code == pin).count();
        let _full = ledger.refused.push(*pin);
        // A token without a low count cannot tell that an unknown outcome was a refusal: one more (product page).
        let allowed = if ledger.low_count { 0 } else { 1 };
        let kept = before <= allowed || ledger.flags_lied;
        self.require(kept, "P34", slot, "the token refused a stored code again, and no person had acted");
    }

    /// The token accepted a PIN.
    pub fn p34_accepted(&mut self, slot: u8) {
        self.slots[usize::from(slot)].refused.clear();
    }

    /// The token lost its count of refused tries with the power.
    pub fn p34_forgotten(&mut self, slot: u8) {
        self.slots[usize::from(slot)].refused.clear();
    }

    /// The answer to a login reached the core; `proven` is the PIN if the module said
    /// `CKR_OK`, `reached` whether `C_Login` was called at all.
    /// A repetition is an attempt only when it is `refused`.
    pub fn p33_login_answered(&mut self, slot: u8, proven: Option<Code>, reached: bool, refused: bool) {
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.login_under_way = false;
        ledger.outcome_owed = reached && (refused || !ledger.is_repeat);
        if !reached {
            ledger.tried.pop();
        }
        if let Some(pin) = proven {
            // It spent no try; a change that cannot be settled proves its PIN once more.
            ledger.tried.retain(|tried| *tried != pin);
            ledger.proven = proven;
            ledger.accepted = proven;
        }
    }

    /// The refusal of a PIN by `C_SetPIN` reached the core.
    pub fn p34_refusal_heard(&mut self, slot: u8) {
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.is_refusal_heard = std::mem::take(&mut ledger.is_refused_unheard);
    }

    /// The core was told that the login of a slot is gone.
    pub fn p33_login_gone(&mut self, slot: u8) {
        let ledger = &mut self.slots[usize::from(slot)];
        ledger.login_under_way = false;
        ledger.proven = None;
    }

    // When all is quiet.

    /// Nothing is under way: every state owns what it may own, and nothing else is kept.
    pub fn p16_quiet(&mut self, slots: &[SlotStatus], taken: usize, free_places_are_wiped: bool) {
        self.require(free_places_are_wiped, "P16", 0, "a free place of the Safe holds bytes");
        let mut least = 0;
        let mut most = 0;
        for status in slots {
            if let Some(collection) = &status.collection {
                let entered = match collection.progress.kind {
                    WaitKind::Shares | WaitKind::Parts | WaitKind::NewParts => usize::from(collection.progress.have),
                    WaitKind::Custodians | WaitKind::Code | WaitKind::Cards | WaitKind::Person => 0,
                };
                // Beside what was entered: the present code, and the new one or what it is made from.
                least += entered;
                most += entered + 2;
            }
            match status.state {
                StateName::Active => {
                    least += 1;
                    most += 1;
                }
                // The worker is away: the PIN waits for the login to be made again.
                StateName::Activating => most += 1,
                // An unanswered call keeps what its answer will decide about.
                StateName::Doubtful if status.doubt == Some(Doubt::CallUnanswered) => most += 3,
                StateName::Changing => most += 3,
                StateName::Absent
                | StateName::Uninitialised
                | StateName::Locked
                | StateName::Collecting
                | StateName::CoolingDown
                | StateName::Doubtful
                | StateName::Blocked => {}
            }
        }
        self.require(taken >= least, "P16", 0, "an active slot has no PIN");
        self.require(taken <= most, "P16", 0, "a secret is kept that no state owns");
    }

    /// Nothing is under way: what is taken in the Safe is what the core's states own.
    pub fn p16_owned(&mut self, taken: usize, owned: usize) {
        self.require(taken == owned, "P16", 0, "the Safe holds more or less than the states own");
    }

    /// The service stopped.
    pub fn p16_stopped(&mut self, taken: usize, free_places_are_wiped: bool) {
        self.require(taken == 0 && free_places_are_wiped, "P16", 0, "a secret is left after the stop");
    }

    /// Nothing is under way: what is shown as active was proven, and every outcome recorded.
    pub fn p33_quiet(&mut self, status: &SlotStatus, halted: bool) {
        let slot = status.slot.0;
        let ledger = &self.slots[usize::from(slot)];
        let proven = status.state != StateName::Active || ledger.proven.is_some();
        let recorded = !ledger.outcome_owed || halted || ledger.login_under_way;
        self.require(proven, "P33", slot, "a slot is active and no login proved it");
        self.require(recorded, "P36", slot, "the outcome of an attempt is not in the audit log");
    }

    /// Nothing is under way: the application of a slot that is not active holds nothing,
    /// unless it could not be reached, and is shown so.
    pub fn p33_taken_back(&mut self, status: &SlotStatus, holds: bool) {
        let closed = match status.state {
            StateName::Absent
            | StateName::Uninitialised
            | StateName::Locked
            | StateName::Collecting
            | StateName::CoolingDown
            | StateName::Blocked => true,
            StateName::Activating | StateName::Active | StateName::Changing | StateName::Doubtful => false,
        };
        let failed = status.applications.iter().any(|one| matches!(one.state, ApplicationState::Failed(_)));
        let kept = !(closed && holds) || failed || self.store_failed;
        self.require(kept, "P33", status.slot.0, "an application holds the PIN of a slot that is not active");
    }

    /// A collection in which nobody went on for so long; `is_hand_out`: custodians are called in.
    pub fn p29_collecting(&mut self, slot: u8, idle_ms: u64, is_hand_out: bool) {
        let wait_max_ms = if is_hand_out { HAND_OUT_IDLE_MS } else { COLLECTION_IDLE_MS };
        self.require(idle_ms <= wait_max_ms, "P29", slot, "a collection outlives its deadline");
    }

    /// An administrator or operator ended a collection; `over` says whether it is gone.
    pub fn p29_reset(&mut self, slot: u8, over: bool) {
        self.require(over, "P29", slot, "a collection could not be ended");
    }

    /// The oldest order that waits for its answer has waited this long.
    pub fn p44_waiting(&mut self, slot: u8, waited_ms: u64) {
        self.require(waited_ms <= ANSWER_WAIT_MAX_MS, "P44", slot, "an order was not answered in bounded time");
    }

    /// A turn had this many effects.
    pub fn p42_turn(&mut self, effects: u32) {
        self.require(effects <= EFFECTS_OF_A_TURN_MAX, "P42", 0, "a turn does not end");
    }

    /// A tick was delivered; `still_due`: the deadline it was for has not moved on.
    pub fn p42_ticked(&mut self, still_due: bool) {
        self.ticks_in_vain = if still_due { self.ticks_in_vain + 1 } else { 0 };
        let kept = self.ticks_in_vain <= TICKS_IN_VAIN_MAX;
        self.require(kept, "P42", 0, "a deadline that is over asks for ticks without end");
    }

    /// An order was answered *done*; `confirmed` says whether devices and store agree.
    pub fn p35_done(&mut self, slot: u8, confirmed: bool) {
        self.require(confirmed, "P35", slot, "an order was answered done, and it is not");
    }

    /// Nobody has a code that the token could have.
    pub fn p35_code_lost(&mut self, slot: u8) {
        self.violated("P35", slot, "the token could have a code that nobody has");
    }

    /// At the end of a life: could the slot be opened by those who have its code?
    pub fn p35_opened(&mut self, slot: u8, opened: bool) {
        self.require(opened, "P35", slot, "those who have the code could not open the slot");
    }

    /// At the end of a life the mode of an active slot says who has its code.
    pub fn p35_known_state(&mut self, slot: u8, mode: Mode, store_has: bool, people_have: bool) {
        let kept = match mode {
            Mode::Generated => store_has,
            Mode::Manual => people_have,
        };
        self.require(kept, "P35", slot, "the mode of the slot does not say who has its code");
    }

    /// Printed text (P3).
    pub fn p03_text(&mut self, text: &str, secrets: &[Code]) {
        let kept = !shows_a_secret(text.as_bytes(), secrets) && !shows_a_list_of_a_secret(text, secrets);
        self.require(kept, "P3", 0, "a secret can be read in what is printed");
    }

    /// Stored bytes that are not sealed (P3).
    pub fn p03_bytes(&mut self, bytes: &[u8], secrets: &[Code]) {
        self.require(!shows_a_secret(bytes, secrets), "P3", 0, "a secret can be read in what is stored");
    }

    /// Every code that anybody typed so far.
    pub fn typed_codes(&self) -> impl Iterator<Item = Code> + '_ {
        self.entries.iter().map(|entry| entry.code)
    }
}

/// Whether any eight bytes in a row of a secret stand in `bytes`.
fn shows_a_secret(bytes: &[u8], secrets: &[Code]) -> bool {
    secrets
        .iter()
        .filter(|secret| secret.bytes().len() >= 8)
        .any(|secret| secret.bytes().windows(8).any(|part| memmem(bytes, part)))
}

/// Whether a secret is printed as a list of numbers, as `Debug` prints byte arrays.
fn shows_a_list_of_a_secret(text: &str, secrets: &[Code]) -> bool {
    secrets.iter().filter(|secret| secret.bytes().len() >= 8).any(|secret| {
        let list = secret.bytes()[..8].iter().map(u8::to_string).collect::<std::vec::Vec<_>>().join(", ");
        text.contains(&list)
    })
}

fn memmem(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotwarden_core::audit::AttemptCause;
    use slotwarden_core::effect::SlotId;
    use slotwarden_core::status::KnowledgeStatus;

    fn stored() -> Code {
        Code::new(&[b'g'; 32])
    }

    fn typed() -> Code {
        Code::new(b"M-typed-code")
    }

    fn broken(checkers: &Checkers) -> Option<&'static str> {
        checkers.violation.map(|violation| violation.promise)
    }

    fn status(state: StateName) -> SlotStatus {
        SlotStatus {
            slot: SlotId(0),
            mode: Mode::Manual,
            knowledge: KnowledgeStatus::Whole,
            collection: None,
            state,
            applications: Vec::new(),
            backup_key: None,
            unwrap_key: None,
            key_counts: None,
            waits_for: None,
            tries_left: 3,
            attention: None,
            doubt: None,
            refusal: None,
            fault: None,
            so_proven_s: None,
        }
    }

    fn id() -> SecretId {
        let mut safe = slotwarden_core::Safe::<1>::new();
        safe.fill(|_| 0).expect("the Safe is empty")
    }

    #[test]
    fn p03_a_secret_in_text_as_characters_or_numbers_is_seen() {
        for text in ["pin=M-typed-code", "pin=[77, 45, 116, 121, 112, 101, 100, 45, 99]"] {
            let mut checkers = Checkers::default();
            checkers.p03_text(text, &[typed()]);
            assert_eq!(broken(&checkers), Some("P3"));
        }
        let mut checkers = Checkers::default();
        checkers.p03_bytes(b"..M-typed-..", &[typed()]);
        assert_eq!(broken(&checkers), Some("P3"));
        let mut checkers = Checkers::default();
        checkers.p03_text("SecretId { place: 1, use_count: 4 }", &[typed()]);
        assert_eq!(broken(&checkers), None);
    }

    #[test]
    fn p05_a_typed_code_that_is_refused_twice_is_seen() {
        let mut checkers = Checkers::default();
        checkers.p05_typed(typed());
        checkers.p34_refused(0, &typed());
        assert_eq!(broken(&checkers), None);
        checkers.p34_refused(0, &typed());
        assert_eq!(broken(&checkers), Some("P5"));
    }

    #[test]
    fn p16_a_secret_without_an_owner_is_seen() {
        let mut checkers = Checkers::default();
        checkers.p16_quiet(&[status(StateName::Active)], 1, true);
        assert_eq!(broken(&checkers), None);
        checkers.p16_quiet(&[status(StateName::Locked)], 1, true);
        assert_eq!(broken(&checkers), Some("P16"));
        let mut checkers = Checkers::default();
        checkers.p16_quiet(&[status(StateName::Locked)], 0, false);
        assert_eq!(broken(&checkers), Some("P16"));
        let mut checkers = Checkers::default();
        checkers.p16_stopped(1, true);
        assert_eq!(broken(&checkers), Some("P16"));
        let mut checkers = Checkers::default();
        checkers.p16_owned(2, 1);
        assert_eq!(broken(&checkers), Some("P16"));
    }

    #[test]
    fn p09_a_token_pin_behind_which_too_few_persons_stand_is_seen() {
        let used_after = |entries: &[(u8, u8)]| {
            let mut checkers = Checkers::default();
            checkers.p09_entered(0, [7; 6], 3, PersonId(3));
            checkers.p09_begins(0);
            for (x, who) in entries {
                checkers.p09_entered(0, [7; 6], *x, PersonId(*who));
            }
            checkers.p09_entered(0, [8; 6], 5, PersonId(5));
            checkers.p09_used(0, &stored(), [7; 6], 2);
            broken(&checkers)
        };
        assert_eq!(used_after(&[(1, 1)]), Some("P9"));
        assert_eq!(used_after(&[(1, 1), (1, 2)]), Some("P9"), "one share twice");
        assert_eq!(used_after(&[(1, 1), (2, 1)]), Some("P9"), "one person twice");
        assert_eq!(used_after(&[(1, 1), (2, 2)]), None);
    }

    #[test]
    fn p11_a_bad_share_taken_and_a_good_one_refused_are_seen() {
        let mut checkers = Checkers::default();
        checkers.p11_taken(0, true);
        checkers.p11_refused(0, true);
        assert_eq!(broken(&checkers), None);
        checkers.p11_taken(0, false);
        assert_eq!(broken(&checkers), Some("P11"));
        let mut checkers = Checkers::default();
        checkers.p11_refused(0, false);
        assert_eq!(broken(&checkers), Some("P11"));
    }

    #[test]
    fn p26_p27_own_missing_late_and_repeated_approvals_are_seen() {
        let operation = Command::DualControl { on: false };
        let seen = |by: Option<u8>, spent_ms: &[u64], done: u32| {
            let mut checkers = Checkers::default();
            checkers.p27_asked(4, operation, PersonId(1));
            if let Some(by) = by {
                checkers.p27_given(4, PersonId(by), 1_000);
            }
            for at_ms in spent_ms {
                checkers.p27_spent(4, *at_ms);
            }
            for _ in 0..done {
                checkers.p26_done(0, &operation, PersonId(1));
            }
            broken(&checkers)
        };
        assert_eq!(seen(Some(2), &[2_000], 1), None);
        assert_eq!(seen(Some(1), &[], 0), Some("P26"), "their own");
        assert_eq!(seen(None, &[2_000], 0), Some("P27"), "nobody gave it");
        assert_eq!(seen(Some(2), &[2_000, 3_000], 1), Some("P27"), "twice");
        assert_eq!(seen(Some(2), &[9_000_000], 1), Some("P27"), "too late");
        assert_eq!(seen(Some(2), &[], 1), Some("P26"), "without it");
        assert_eq!(seen(Some(2), &[2_000], 2), Some("P26"), "two orders with one");
    }

    #[test]
    fn p29_a_collection_that_outlives_its_deadline_or_a_reset_is_seen() {
        let seen = |idle_ms, is_hand_out| {
            let mut checkers = Checkers::default();
            checkers.p29_collecting(0, idle_ms, is_hand_out);
            broken(&checkers)
        };
        assert_eq!(seen(COLLECTION_IDLE_MS, false), None);
        assert_eq!(seen(COLLECTION_IDLE_MS + 1, false), Some("P29"));
        assert_eq!(seen(COLLECTION_IDLE_MS + 1, true), None);
        assert_eq!(seen(HAND_OUT_IDLE_MS + 1, true), Some("P29"));
        let mut checkers = Checkers::default();
        checkers.p29_reset(0, false);
        assert_eq!(broken(&checkers), Some("P29"));
    }

    #[test]
    fn p30_a_share_shown_early_twice_or_to_two_persons_is_seen() {
        let shown = |again: ([u8; 6], u8, u8)| {
            let mut checkers = Checkers::default();
            checkers.p30_shown(0, [7; 6], 1, PersonId(1), true);
            assert_eq!(broken(&checkers), None);
            checkers.p30_shown(0, again.0, again.1, PersonId(again.2), true);
            broken(&checkers)
        };
        assert_eq!(shown(([7; 6], 1, 1)), Some("P30"));
        assert_eq!(shown(([7; 6], 1, 2)), Some("P30"));
        assert_eq!(shown(([7; 6], 2, 1)), Some("P30"));
        assert_eq!(shown(([7; 6], 2, 2)), None);
        assert_eq!(shown(([8; 6], 1, 1)), None);
        let mut checkers = Checkers::default();
        checkers.p30_shown(0, [7; 6], 1, PersonId(1), false);
        assert_eq!(broken(&checkers), Some("P30"));
    }

    #[test]
    fn p31_a_typed_code_that_is_sealed_is_seen() {
        let mut checkers = Checkers::default();
        checkers.p31_sealed(0, &stored(), id(), false);
        assert_eq!(broken(&checkers), None);
        checkers.p31_sealed(0, &typed(), id(), false);
        assert_eq!(broken(&checkers), Some("P31"));
    }

    #[test]
    fn p32_a_code_of_two_stuck_sources_and_a_repeated_one_are_seen() {
        let mut checkers = Checkers::default();
        checkers.p32_stuck_draw(id());
        checkers.p31_sealed(0, &stored(), id(), false);
        assert_eq!(broken(&checkers), Some("P32"));
        let mut checkers = Checkers::default();
        checkers.p31_sealed(0, &stored(), id(), true);
        assert_eq!(broken(&checkers), Some("P32"));
    }

    #[test]
    fn p33_active_without_a_login_and_an_unproven_hand_over_are_seen() {
        let mut checkers = Checkers::default();
        checkers.p33_quiet(&status(StateName::Active), false);
        assert_eq!(broken(&checkers), Some("P33"));
        let mut checkers = Checkers::default();
        checkers.p33_login_answered(0, Some(stored()), true, false);
        checkers.p33_handed_over(0, &stored());
        assert_eq!(broken(&checkers), None);
        checkers.p33_handed_over(0, &typed());
        assert_eq!(broken(&checkers), Some("P33"));
        let mut checkers = Checkers::default();
        checkers.p33_taken_back(&status(StateName::Locked), true);
        assert_eq!(broken(&checkers), Some("P33"));
    }

    #[test]
    fn p34_a_stored_code_tried_twice_at_one_boot_is_seen() {
        let mut checkers = Checkers::default();
        for expected in [None, Some("P34")] {
            checkers.p36_journaled(0, &AuditEvent::AttemptBegins(AttemptCause::Automatic));
            checkers.p36_login(0, &stored(), true);
            checkers.p33_login_answered(0, None, true, false);
            assert_eq!(broken(&checkers), expected);
        }
    }

    #[test]
    fn p34_a_boot_loop_that_spends_tries_is_seen() {
        for (low_count, allowed) in [(true, 1), (false, 2)] {
            let mut checkers = Checkers::default();
            for _ in 0..allowed {
                checkers.p34_refused(0, &stored());
                checkers.restarted();
                checkers.p34_new_reason(0, Some(low_count));
                assert_eq!(broken(&checkers), None);
            }
            checkers.p34_refused(0, &stored());
            assert_eq!(broken(&checkers), Some("P34"));
        }
    }

    #[test]
    fn p35_each_way_to_break_it_is_seen() {
        let seen = |broken_trace: fn(&mut Checkers)| {
            let mut checkers = Checkers::default();
            broken_trace(&mut checkers);
            broken(&checkers)
        };
        assert_eq!(seen(|checkers| checkers.p35_done(0, false)), Some("P35"));
        assert_eq!(seen(|checkers| checkers.p35_code_lost(0)), Some("P35"));
        assert_eq!(seen(|checkers| checkers.p35_opened(0, false)), Some("P35"));
        assert_eq!(seen(|checkers| checkers.p35_known_state(0, Mode::Manual, true, false)), Some("P35"));
        assert_eq!(seen(|checkers| checkers.p35_known_state(0, Mode::Generated, false, true)), Some("P35"));
        assert_eq!(seen(|checkers| checkers.p35_known_state(0, Mode::Generated, true, false)), None);
    }

    #[test]
    fn p36_an_attempt_without_a_record_and_one_without_an_outcome_are_seen() {
        let mut checkers = Checkers::default();
        checkers.p36_login(0, &typed(), false);
        assert_eq!(broken(&checkers), Some("P36"));
        let mut checkers = Checkers::default();
        checkers.p36_journaled(0, &AuditEvent::AttemptBegins(AttemptCause::Person));
        checkers.p36_login(0, &typed(), false);
        checkers.p33_login_answered(0, None, true, false);
        assert_eq!(broken(&checkers), None);
        checkers.p33_quiet(&status(StateName::Locked), false);
        assert_eq!(broken(&checkers), Some("P36"));
    }

    #[test]
    fn p36_a_change_without_calling_and_an_effect_before_its_record_are_seen() {
        let mut checkers = Checkers::default();
        let change = Change::intended(ChangeKind::ManualToManual);
        checkers.p36_change(0, Some(change), false);
        assert_eq!(broken(&checkers), Some("P36"));
        let mut checkers = Checkers::default();
        checkers.p36_change(0, Some(Change { calling: true, ..change }), true);
        assert_eq!(broken(&checkers), Some("P36"));
        let mut checkers = Checkers::default();
        checkers.p36_commit();
        checkers.p36_effect(false, false);
        assert_eq!(broken(&checkers), Some("P36"));
    }

    #[test]
    fn p40_a_record_a_login_or_a_change_after_a_failed_commit_is_seen() {
        let seen = |broken_trace: fn(&mut Checkers)| {
            let mut checkers = Checkers::default();
            checkers.p36_journaled(0, &AuditEvent::AttemptBegins(AttemptCause::Person));
            checkers.p40_answered(false, false);
            broken_trace(&mut checkers);
            broken(&checkers)
        };
        assert_eq!(seen(|checkers| checkers.p36_effect(true, false)), Some("P40"));
        assert_eq!(seen(|checkers| checkers.p36_login(0, &typed(), false)), Some("P40"));
        assert_eq!(seen(|checkers| checkers.p36_change(0, None, false)), Some("P40"));
        assert_eq!(seen(|checkers| checkers.p36_effect(false, false)), None);
    }

    #[test]
    fn p42_a_turn_without_end_is_seen() {
        let mut checkers = Checkers::default();
        checkers.p42_turn(EFFECTS_OF_A_TURN_MAX + 1);
        assert_eq!(broken(&checkers), Some("P42"));
        let mut checkers = Checkers::default();
        for _ in 0..=TICKS_IN_VAIN_MAX {
            checkers.p42_ticked(true);
        }
        assert_eq!(broken(&checkers), Some("P42"));
    }

    #[test]
    fn p44_a_repeated_login_and_an_order_without_an_answer_are_seen() {
        let mut checkers = Checkers::default();
        for _ in 0..2 {
            checkers.p36_journaled(0, &AuditEvent::AttemptBegins(AttemptCause::Person));
            checkers.p36_login(0, &typed(), false);
        }
        assert_eq!(broken(&checkers), Some("P44"));
        let mut checkers = Checkers::default();
        checkers.p44_waiting(0, ANSWER_WAIT_MAX_MS + 1);
        assert_eq!(broken(&checkers), Some("P44"));
    }
}
