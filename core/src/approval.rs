//! The second person: an order that needs two is requested, approved, and used once.
//!
//! ```text
//!   order of a person ──▶ Requested ──code of another person──▶ Approved ──the same order──▶ spent
//!                             │                                     │
//!                             └── too late, withdrawn ──▶ ended ◀───┘
//! ```
//!
//! No secret waits for an approval: the order's secrets are wiped, its requester is told an
//! id and a short code. Another person approves id and code, which the two read to each
//! other; then the requester gives the same order again, with its secrets, and that spends
//! the approval. It is bound to the requester and to the whole order but its secrets:
//! another slot, another parameter or another person is another request and leaves it as it
//! was. Nobody can block the others: see [`Approvals::order`].
//!
//! Approvals live in memory: after a restart there are none, and codes are others.
//!
//! The machine of one approval has two states and no hierarchy, so it is one plain match. Its
//! golden table is `tests/golden/approval.md`.

use heapless::Vec;
use postcard::ser_flavors::Flavor;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq as _;

use crate::audit::AuditEvent;
use crate::command::{Command, CommandKind};
use crate::fault::Refusal;
use crate::limits::{
    APPROVAL_GIVEN_MS, APPROVAL_REQUESTED_MS, APPROVAL_TRIES, APPROVALS_MAX, APPROVALS_PER_PERSON_MAX,
};
use crate::person::PersonId;
use crate::status::ApprovalStatus;
use crate::time::Now;

/// What every code is derived under, so that it can be mistaken for nothing else.
const CODE_DOMAIN: &[u8] = b"slotwarden/approval/v1";
/// Digits and letters without I, L, O and U, as Crockford's Base32 has them: none is taken for
/// another when read aloud.
const SYMBOLS: &[u8; 32] = b"0123456789ABCDEFGHJKMNPQRSTVWXYZ";
/// Symbols of a code: 40 bit.
const CODE_CHARS: usize = 8;

/// The short code of a request: what two people read to each other, so that both mean the
/// same order. Not a secret, but told to the requester only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct ApprovalCode([u8; CODE_CHARS]);

impl ApprovalCode {
    /// The code of one request: a hash over everything it is about and the end of the audit
    /// chain, which differs after each restart.
    fn of(id: u32, requester: PersonId, operation: &Command, head: &[u8; 32]) -> Self {
        let mut hasher = Sha256::new();
        hasher.update(CODE_DOMAIN);
        hasher.update(id.to_be_bytes());
        hasher.update([requester.0]);
        let mut hasher = match postcard::serialize_with_flavor(operation, Hashing(hasher)) {
            Ok(hasher) => hasher,
            // A hasher takes every byte; plain data has no other reason to fail.
            Err(_) => Sha256::new(),
        };
        hasher.update(head);
        let digest = hasher.finalize();
        let mut code = [b'0'; CODE_CHARS];
        for (symbol, byte) in code.iter_mut().zip(digest.iter()) {
            // 256 is a multiple of 32: every symbol is equally likely.
            *symbol = SYMBOLS.get(usize::from(*byte % 32)).copied().unwrap_or(b'0');
        }
        ApprovalCode(code)
    }

    /// Reads a code as people write it: in any case, with or without its hyphen, O for 0, I
    /// and L for 1. `None` for anything else.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let mut code = Vec::<u8, CODE_CHARS>::new();
        for letter in text.bytes().filter(|letter| *letter != b'-' && *letter != b' ') {
            let symbol = match letter.to_ascii_uppercase() {
                b'O' => b'0',
                b'I' | b'L' => b'1',
                symbol if SYMBOLS.contains(&symbol) => symbol,
                _ => return None,
            };
            code.push(symbol).ok()?;
        }
        code.into_array().ok().map(ApprovalCode)
    }

    /// The two halves as they are shown with a hyphen between them.
    #[must_use]
    pub fn halves(&self) -> (&str, &str) {
        let (one, other) = self.0.split_at(CODE_CHARS / 2);
        (core::str::from_utf8(one).unwrap_or(""), core::str::from_utf8(other).unwrap_or(""))
    }
}

impl core::fmt::Display for ApprovalCode {
    fn fmt(&self, out: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let (one, other) = self.halves();
        write!(out, "{one}-{other}")
    }
}

/// Lets postcard write into a hash: an order may grow, and no bound has to grow with it.
struct Hashing(Sha256);

impl Flavor for Hashing {
    type Output = Sha256;

    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        self.0.update([byte]);
        Ok(())
    }

    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.update(bytes);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Sha256> {
        Ok(self.0)
    }
}

/// The states of one approval. What ended is no longer in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// The order was given once and waits for a second person. Left by that person's code,
    /// by withdrawal, or when it is too old.
    Requested {
        /// Until then, `Now::mono_ms`.
        until_ms: u64,
    },
    /// A second person gave the code. Left by the same order of the same person, by
    /// withdrawal, or when it is too old.
    Approved {
        /// Who approved it.
        by: PersonId,
        /// Until then, `Now::mono_ms`.
        until_ms: u64,
    },
}

/// What happens to one approval.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalEvent {
    /// Somebody gave an order that needs two.
    Ordered {
        /// Who.
        who: PersonId,
        /// What, without its secrets.
        operation: Command,
    },
    /// Somebody who may approve gave a code for it.
    CodeGiven {
        /// Who.
        who: PersonId,
        /// Their place among the persons, below 32.
        place: usize,
        /// What they gave.
        code: ApprovalCode,
    },
    /// Somebody withdraws it.
    WithdrawOrdered {
        /// Who.
        who: PersonId,
        /// Whether they are an administrator.
        administrator: bool,
    },
    /// Time passed.
    TimePassed,
}

/// What follows for whoever caused the event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// It is about another order or another person, or nothing is due.
    NotMine,
    /// It waits for the second person.
    Waits,
    /// It was approved.
    Approved,
    /// It was used: the order may go on. The approval has ended.
    Spent,
    /// It was withdrawn. The approval has ended.
    Withdrawn,
    /// It was too old. The approval has ended.
    Expired,
    /// Nothing changed.
    Refused(Refusal),
}

/// One order that needs two persons, from its request to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Approval {
    id: u32,
    requester: PersonId,
    operation: Command,
    code: ApprovalCode,
    state: State,
    /// Who gave a first, a second, a third wrong code: one bit for each place.
    wrong: [u32; APPROVAL_TRIES],
}

impl Approval {
    /// A request that was just made. `operation` carries no secret.
    #[must_use]
    pub fn requested(id: u32, requester: PersonId, operation: Command, head: &[u8; 32], now: Now) -> Self {
        let code = ApprovalCode::of(id, requester, &operation, head);
        let state = State::Requested { until_ms: now.after_ms(APPROVAL_REQUESTED_MS) };
        Approval { id, requester, operation, code, state, wrong: [0; APPROVAL_TRIES] }
    }

    /// The state, for tables.
    #[must_use]
    pub const fn state(&self) -> State {
        self.state
    }

    /// The code, for whoever asked.
    #[must_use]
    pub const fn code(&self) -> ApprovalCode {
        self.code
    }

    /// One line for each arrow. The caller drops an approval that has ended.
    pub fn handle(&mut self, event: &ApprovalEvent, now: Now) -> Reaction {
        if self.until_ms() <= now.mono_ms {
            return Reaction::Expired;
        }
        let (requester, operation) = (self.requester, self.operation);
        match (self.state, *event) {
            (State::Requested { .. }, ApprovalEvent::Ordered { who, operation: given }) => {
                if who == requester && given == operation { Reaction::Waits } else { Reaction::NotMine }
            }
            (State::Approved { .. }, ApprovalEvent::Ordered { who, operation: given }) => {
                if who == requester && given == operation { Reaction::Spent } else { Reaction::NotMine }
            }
            (_, ApprovalEvent::CodeGiven { who, .. }) if who == requester => Reaction::Refused(Refusal::ApprovalOwn),
            (State::Requested { .. }, ApprovalEvent::CodeGiven { who, place, code }) => {
                if self.is_barred(place) {
                    return Reaction::Refused(Refusal::ApprovalBarred);
                }
                if !bool::from(code.0.ct_eq(&self.code.0)) {
                    self.count_wrong(place);
                    return Reaction::Refused(Refusal::ApprovalCodeWrong);
                }
                self.state = State::Approved { by: who, until_ms: now.after_ms(APPROVAL_GIVEN_MS) };
                Reaction::Approved
            }
            (State::Approved { .. }, ApprovalEvent::CodeGiven { .. }) => Reaction::Refused(Refusal::ApprovalGiven),
            (
                State::Requested { .. } | State::Approved { .. },
                ApprovalEvent::WithdrawOrdered { who, administrator },
            ) => {
                if who == requester || administrator {
                    Reaction::Withdrawn
                } else {
                    Reaction::Refused(Refusal::NotAllowed)
                }
            }
            (State::Requested { .. } | State::Approved { .. }, ApprovalEvent::TimePassed) => Reaction::NotMine,
        }
    }

    const fn until_ms(&self) -> u64 {
        match self.state {
            State::Requested { until_ms } | State::Approved { until_ms, .. } => until_ms,
        }
    }

    fn is_barred(&self, place: usize) -> bool {
        self.wrong.last().is_some_and(|barred| barred & bit(place) != 0)
    }

    fn count_wrong(&mut self, place: usize) {
        if let Some(count) = self.wrong.iter_mut().find(|count| **count & bit(place) == 0) {
            *count |= bit(place);
        }
    }

    fn status(&self, now: Now) -> ApprovalStatus {
        let left_ms = self.until_ms().saturating_sub(now.mono_ms);
        ApprovalStatus {
            id: self.id,
            requester: self.requester,
            operation: self.operation,
            by: match self.state {
                State::Requested { .. } => None,
                State::Approved { by, .. } => Some(by),
            },
            seconds_left: u32::try_from(left_ms.div_ceil(1000)).unwrap_or(u32::MAX),
        }
    }
}

/// One bit for each place among the persons; there are at most 32.
fn bit(place: usize) -> u32 {
    u32::try_from(place).ok().and_then(|place| 1u32.checked_shl(place)).unwrap_or(0)
}

/// Where a table of approvals writes down what happened.
pub trait Note {
    /// An event about an order, caused by somebody or by time.
    fn note(&mut self, who: Option<PersonId>, about: &Command, event: AuditEvent);
}

/// How an order that needs two persons stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// A second person approved it, and that is used up now: go on.
    Approved,
    /// It waits for a second person.
    Waits {
        /// Names the request.
        id: u32,
        /// For whoever asked, to be read aloud.
        code: ApprovalCode,
    },
}

/// Every approval under way.
#[derive(Clone, Debug, Default)]
pub struct Approvals {
    list: Vec<Approval, APPROVALS_MAX>,
    /// The id given last.
    last_id: u32,
}

impl Approvals {
    /// None yet.
    #[must_use]
    pub const fn new() -> Self {
        Approvals { list: Vec::new(), last_id: 0 }
    }

    /// An order that needs two persons was given. The same order of the same person keeps
    /// its id while it waits. `head` is the end of the audit chain.
    ///
    /// Nobody can block the others: a person's fourth request takes the place of their own
    /// oldest one that nobody approved; in a full table a newcomer takes the place of the
    /// oldest one of whoever has several.
    ///
    /// # Errors
    /// [`Refusal::TooManyApprovals`].
    pub fn order(
        &mut self,
        who: PersonId,
        command: &Command,
        head: &[u8; 32],
        now: Now,
        notes: &mut dyn Note,
    ) -> Result<Standing, Refusal> {
        self.expire(now, notes);
        let operation = command.without_secrets();
        let event = ApprovalEvent::Ordered { who, operation };
        for place in 0..self.list.len() {
            let Some(approval) = self.list.get_mut(place) else { continue };
            let (id, code) = (approval.id, approval.code);
            match approval.handle(&event, now) {
                Reaction::Waits => return Ok(Standing::Waits { id, code }),
                Reaction::Spent => {
                    self.end(place);
                    notes.note(Some(who), &operation, AuditEvent::ApprovalSpent(id, operation.kind()));
                    return Ok(Standing::Approved);
                }
                Reaction::NotMine
                | Reaction::Approved
                | Reaction::Withdrawn
                | Reaction::Expired
                | Reaction::Refused(_) => {}
            }
        }
        self.make_room(who, notes)?;
        self.last_id = self.last_id.wrapping_add(1);
        let approval = Approval::requested(self.last_id, who, operation, head, now);
        let (id, code) = (approval.id, approval.code);
        self.list.push(approval).map_err(|_| Refusal::TooManyApprovals)?;
        notes.note(Some(who), &operation, AuditEvent::ApprovalRequested(id, operation.kind()));
        Ok(Standing::Waits { id, code })
    }

    /// Somebody who may approve gave a code. `place` is theirs among the persons.
    ///
    /// # Errors
    /// [`Refusal::ApprovalUnknown`], [`Refusal::ApprovalOwn`], [`Refusal::ApprovalCodeWrong`],
    /// [`Refusal::ApprovalBarred`], [`Refusal::ApprovalGiven`].
    pub fn approve(
        &mut self,
        id: u32,
        who: PersonId,
        place: usize,
        code: ApprovalCode,
        now: Now,
        notes: &mut dyn Note,
    ) -> Result<(), Refusal> {
        self.told(id, &ApprovalEvent::CodeGiven { who, place, code }, Some(who), now, notes)
    }

    /// Somebody withdraws a request or an approval.
    ///
    /// # Errors
    /// [`Refusal::ApprovalUnknown`]; [`Refusal::NotAllowed`] for a stranger's without
    /// administrator's right.
    pub fn withdraw(
        &mut self,
        id: u32,
        who: PersonId,
        administrator: bool,
        now: Now,
        notes: &mut dyn Note,
    ) -> Result<(), Refusal> {
        self.told(id, &ApprovalEvent::WithdrawOrdered { who, administrator }, Some(who), now, notes)
    }

    /// Whether this request is for an order of that kind.
    #[must_use]
    pub fn is_about(&self, id: u32, kind: CommandKind) -> bool {
        self.list.iter().any(|approval| approval.id == id && approval.operation.kind() == kind)
    }

    /// Ends everything: nobody needs a second person any more.
    pub fn clear(&mut self, notes: &mut dyn Note) {
        while !self.list.is_empty() {
            self.make_way(0, notes);
        }
    }

    /// Ends what is too old.
    pub fn expire(&mut self, now: Now, notes: &mut dyn Note) {
        let mut place = 0usize;
        while let Some(approval) = self.list.get_mut(place) {
            if approval.handle(&ApprovalEvent::TimePassed, now) == Reaction::Expired {
                let Approval { id, operation, .. } = *approval;
                self.end(place);
                notes.note(None, &operation, AuditEvent::ApprovalExpired(id, operation.kind()));
            } else {
                place = place.saturating_add(1);
            }
        }
    }

    /// When the next one is too old, `Now::mono_ms`.
    #[must_use]
    pub fn due_ms(&self) -> Option<u64> {
        self.list.iter().map(Approval::until_ms).min()
    }

    /// What everybody may see, oldest first.
    #[must_use]
    pub fn status(&self, now: Now) -> Vec<ApprovalStatus, APPROVALS_MAX> {
        let mut shown = Vec::new();
        for approval in &self.list {
            // As many as there are, in a table of the same capacity.
            let _ = shown.push(approval.status(now));
        }
        shown
    }

    fn told(
        &mut self,
        id: u32,
        event: &ApprovalEvent,
        who: Option<PersonId>,
        now: Now,
        notes: &mut dyn Note,
    ) -> Result<(), Refusal> {
        self.expire(now, notes);
        let place = self.list.iter().position(|approval| approval.id == id).ok_or(Refusal::ApprovalUnknown)?;
        let approval = self.list.get_mut(place).ok_or(Refusal::ApprovalUnknown)?;
        let operation = approval.operation;
        match approval.handle(event, now) {
            Reaction::Approved => {
                notes.note(who, &operation, AuditEvent::ApprovalGiven(id, operation.kind()));
                Ok(())
            }
            Reaction::Withdrawn => {
                self.end(place);
                notes.note(who, &operation, AuditEvent::ApprovalWithdrawn(id, operation.kind()));
                Ok(())
            }
            Reaction::Refused(refusal) => Err(refusal),
            // Not for these events; and what is too old was ended above.
            Reaction::NotMine | Reaction::Waits | Reaction::Spent | Reaction::Expired => Err(Refusal::ApprovalUnknown),
        }
    }

    fn make_room(&mut self, who: PersonId, notes: &mut dyn Note) -> Result<(), Refusal> {
        let of = |list: &[Approval], who| {
            list.iter().filter(|approval| approval.requester == who).fold(0usize, |count, _| count.saturating_add(1))
        };
        let full = self.list.is_full();
        if of(&self.list, who) < APPROVALS_PER_PERSON_MAX && !full {
            return Ok(());
        }
        let several = |approval: &Approval| of(&self.list, approval.requester) > 1;
        let makes_way = |approval: &Approval| {
            matches!(approval.state, State::Requested { .. })
                && (approval.requester == who || (of(&self.list, who) == 0 && several(approval)))
        };
        let place = self.list.iter().position(makes_way).ok_or(Refusal::TooManyApprovals)?;
        self.make_way(place, notes);
        Ok(())
    }

    fn make_way(&mut self, place: usize, notes: &mut dyn Note) {
        let Some(approval) = self.list.get(place) else { return };
        let Approval { id, operation, .. } = *approval;
        self.end(place);
        notes.note(None, &operation, AuditEvent::ApprovalWithdrawn(id, operation.kind()));
    }

    fn end(&mut self, place: usize) {
        if place < self.list.len() {
            self.list.remove(place);
        }
    }
}
