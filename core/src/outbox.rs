//! Durable first, then the act, then the answer.
//!
//! What turns push is sorted here: records, sealed secrets and audit records form one
//! transaction; everything else waits until that transaction is durable. Turns that arrive
//! while a commit is under way form the next transaction, in order. After a failed commit
//! nothing is committed again (P40).

use heapless::{Deque, Vec};

use crate::audit::{AuditEvent, AuditRecord, Chain};
use crate::card::ReaderId;
use crate::ceremony::order::CeremonyId;
use crate::command::{Answer, ReplyId};
use crate::effect::{ApplicationId, ApplicationOrder, Effect, HsmCall, SlotId, Ticket};
use crate::fault::{Fault, Refusal};
use crate::person::PersonId;
use crate::record::{Record, SecretKey};
use crate::safe::SecretId;
use crate::transfer::FileStep;
use crate::turn::Out;

/// An effect that waits for durability, or a wipe that waits for the effects before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)] // the variants and fields are those of `Effect`
pub enum Act {
    Hsm {
        ticket: Ticket,
        slot: SlotId,
        call: HsmCall,
    },
    Random {
        ticket: Ticket,
        id: SecretId,
    },
    Unseal {
        ticket: Ticket,
        key: SecretKey,
        id: SecretId,
    },
    Application {
        ticket: Ticket,
        application: ApplicationId,
        slot: SlotId,
        order: ApplicationOrder,
    },
    Reply {
        reply: ReplyId,
        answer: Answer,
    },
    /// The call itself waits in the service: a record to be written is larger than every other act.
    Card {
        ticket: Ticket,
        reader: ReaderId,
    },
    SignTranscript {
        id: CeremonyId,
        head: [u8; 32],
    },
    /// What an export begins with is the transfer's: it is larger than every other act.
    File {
        ticket: Ticket,
        step: FileStep,
    },
    Checkpoint,
    EndWorker,
    Stopped,
    Wipe(SecretId),
    /// Was withdrawn before the platform saw it.
    Withdrawn,
}

impl Act {
    /// The ticket its answer will carry, and of whose slot.
    #[must_use]
    pub const fn ticket(&self) -> Option<Ticket> {
        match self {
            Act::Hsm { ticket, .. }
            | Act::Random { ticket, .. }
            | Act::Unseal { ticket, .. }
            | Act::Application { ticket, .. }
            | Act::File { ticket, .. }
            | Act::Card { ticket, .. } => Some(*ticket),
            Act::Reply { .. }
            | Act::SignTranscript { .. }
            | Act::Checkpoint
            | Act::EndWorker
            | Act::Stopped
            | Act::Wipe(_)
            | Act::Withdrawn => None,
        }
    }

    /// Whether a halted service still does it: nothing that begins something.
    const fn is_allowed_when_halted(&self) -> bool {
        match self {
            Act::Hsm { call, .. } => matches!(call, HsmCall::Logout),
            Act::Application { order, .. } => matches!(order, ApplicationOrder::Withdraw),
            Act::Random { .. }
            | Act::Unseal { .. }
            | Act::Checkpoint
            | Act::Card { .. }
            | Act::File { .. }
            | Act::SignTranscript { .. } => false,
            Act::Reply { .. } | Act::EndWorker | Act::Stopped | Act::Wipe(_) | Act::Withdrawn => true,
        }
    }
}

/// A change of a sealed secret that waits for its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SealChange {
    Seal(SecretKey, SecretId),
    Erase(SecretKey),
}

/// An audit record that has no number yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    wall_s: Option<u64>,
    who: Option<PersonId>,
    slot: Option<SlotId>,
    event: AuditEvent,
}

/// What the next poll gives.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::large_enum_variant)] // as `Effect`
pub enum Next {
    /// A record of the transaction that forms now; slots add theirs (`Outbox::poll_records`).
    Record(Effect),
    /// An act whose transaction is durable.
    Act(Act),
    /// Nothing now.
    Nothing,
}

/// The queues of the service. `CAPACITY` bounds each of them.
pub struct Outbox<const CAPACITY: usize> {
    acts: Deque<(u32, Act), CAPACITY>,
    seals: Deque<SealChange, CAPACITY>,
    journal: Deque<Entry, CAPACITY>,
    /// Acts pushed by the turn under way; they join `acts` when it ends.
    turn_acts: usize,
    chain: Chain,
    wall_s: Option<u64>,
    next_ticket: u32,
    /// The transaction that collects records now.
    forming: u32,
    /// The last one that is durable.
    durable: u32,
    /// The one whose commit is unanswered.
    committing: Option<Ticket>,
    /// Whether `forming` holds anything.
    collected: bool,
    halted: bool,
    bug: Option<u16>,
}

/// Capacity exceeded: a queue is larger than any run of the machines can need.
const BUG_OUTBOX_FULL: u16 = 1;

impl<const CAPACITY: usize> Outbox<CAPACITY> {
    /// Empty queues at the start of a chain.
    #[must_use]
    pub const fn new() -> Self {
        Outbox {
            acts: Deque::new(),
            seals: Deque::new(),
            journal: Deque::new(),
            turn_acts: 0,
            chain: Chain { sequence: 0, head: [0; 32] },
            wall_s: None,
            next_ticket: 1,
            forming: 1,
            durable: 0,
            committing: None,
            collected: false,
            halted: false,
            bug: None,
        }
    }

    /// Goes on with the chain found in the store.
    pub const fn load_chain(&mut self, chain: Chain) {
        self.chain = chain;
    }

    /// The chain as far as it was handed to the platform.
    #[must_use]
    pub const fn chain(&self) -> Chain {
        self.chain
    }

    /// The number that the next audit record will have.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        let waiting = u64::try_from(self.journal.len()).unwrap_or(u64::MAX);
        self.chain.sequence.saturating_add(waiting).saturating_add(1)
    }

    /// A turn begins at this wall time.
    pub const fn begin_turn(&mut self, wall_s: Option<u64>) {
        self.wall_s = wall_s;
    }

    /// The turn ends; `dirty` says whether a slot's record changed. Its acts wait for its records.
    pub fn end_turn(&mut self, dirty: bool) {
        self.collected |= (dirty || !self.seals.is_empty() || !self.journal.is_empty()) && !self.halted;
        let waits_for = match (self.collected, self.committing) {
            (true, _) => self.forming,
            (false, Some(_)) => self.forming.wrapping_sub(1),
            (false, None) => self.durable,
        };
        let settled = self.acts.len().saturating_sub(self.turn_acts);
        for (batch, _) in self.acts.iter_mut().skip(settled) {
            *batch = waits_for;
        }
        self.turn_acts = 0;
    }

    /// Whether the turn under way pushed acts, and nothing but acts like this.
    #[must_use]
    pub fn turn_is_all(&self, like: impl Fn(&Act) -> bool) -> bool {
        let settled = self.acts.len().saturating_sub(self.turn_acts);
        self.turn_acts > 0 && self.acts.iter().skip(settled).all(|(_, act)| like(act))
    }

    /// The next thing to do. `slot_records` gives the records of slots that changed, one
    /// at each call, when a transaction forms.
    pub fn poll(&mut self, mut slot_records: impl FnMut() -> Option<Record>) -> Next {
        while let Some((batch, act)) = self.acts.front().copied()
            && batch <= self.durable
        {
            self.acts.pop_front();
            if act != Act::Withdrawn {
                return Next::Act(act);
            }
        }
        if self.committing.is_some() || !self.collected {
            return Next::Nothing;
        }
        if let Some(record) = slot_records() {
            return Next::Record(Effect::Store(record));
        }
        if let Some(change) = self.seals.pop_front() {
            return Next::Record(Effect::Store(match change {
                SealChange::Seal(key, id) => Record::Seal { key, id },
                SealChange::Erase(key) => Record::Erase { key },
            }));
        }
        if let Some(entry) = self.journal.pop_front() {
            let record = AuditRecord {
                sequence: self.chain.sequence.saturating_add(1),
                wall_s: entry.wall_s,
                previous: self.chain.head,
                who: entry.who,
                slot: entry.slot,
                event: entry.event,
            };
            self.chain = Chain { sequence: record.sequence, head: record.hash() };
            return Next::Record(Effect::Journal(record));
        }
        let ticket = self.number(None);
        self.committing = Some(ticket);
        self.collected = false;
        self.forming = self.forming.wrapping_add(1);
        Next::Record(Effect::Commit { ticket })
    }

    /// A commit is durable. False when no commit carries this ticket.
    pub fn stored(&mut self, ticket: Ticket) -> bool {
        if self.committing != Some(ticket) {
            return false;
        }
        self.committing = None;
        self.durable = self.forming.wrapping_sub(1);
        true
    }

    /// Whether a commit is unanswered or a transaction forms.
    #[must_use]
    pub const fn is_waiting_for_store(&self) -> bool {
        self.committing.is_some() || self.collected
    }

    /// The broken invariant, if one was reported.
    #[must_use]
    pub const fn broken(&self) -> Option<u16> {
        self.bug
    }

    /// Halts: nothing is committed again; held effects are dropped, their replies become
    /// refusals. Withdrawals, logouts and wipes go on, without records.
    pub fn halt(&mut self, refusal: Refusal) {
        self.halted = true;
        self.seals.clear();
        self.journal.clear();
        self.committing = None;
        self.collected = false;
        self.durable = self.forming;
        let durable = self.durable;
        for (batch, act) in self.acts.iter_mut() {
            *batch = durable;
            if let Act::Reply {
                answer: answer @ (Answer::Done | Answer::NeedsApproval { .. } | Answer::Waits(_) | Answer::Share { .. }),
                ..
            } = act
            {
                *answer = Answer::Refused(refusal);
            }
            if !act.is_allowed_when_halted() {
                *act = Act::Withdrawn;
            }
        }
        self.drop_withdrawn();
        self.turn_acts = 0;
    }

    /// Whether another order could leave too little room for what the machines still have to
    /// say: then it is turned away at the door.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.acts.len().max(self.journal.len()) > CAPACITY / 2
    }

    /// Takes back an order to end the worker that the platform has not seen: it is gone already.
    pub fn withdraw_end_of_worker(&mut self) {
        for (_, act) in self.acts.iter_mut() {
            if *act == Act::EndWorker {
                *act = Act::Withdrawn;
            }
        }
    }

    /// Makes room: entries that were withdrawn leave the queue, the others keep their order.
    fn drop_withdrawn(&mut self) {
        for _ in 0..self.acts.len() {
            if let Some((batch, act)) = self.acts.pop_front()
                && act != Act::Withdrawn
            {
                // The place of an entry that was just taken out.
                let _ = self.acts.push_back((batch, act));
            }
        }
    }

    /// Whether the answer to this order is on its way.
    #[must_use]
    pub fn answers(&self, reply: ReplyId) -> bool {
        self.acts.iter().any(|(_, act)| matches!(act, Act::Reply { reply: queued, .. } if *queued == reply))
    }

    /// Adds an audit record that is about no slot.
    pub fn journal_service(&mut self, who: Option<PersonId>, event: AuditEvent) {
        self.enter(who, None, event);
    }

    /// Adds an audit record about an order: of its slot, if it is about one.
    pub fn journal_order(&mut self, who: Option<PersonId>, slot: Option<SlotId>, event: AuditEvent) {
        self.enter(who, slot, event);
    }

    /// Withdraws every call that the platform has not seen: at stop, when the time is over.
    pub fn withdraw_calls(&mut self) {
        for (_, act) in self.acts.iter_mut() {
            if act.ticket().is_some() {
                *act = Act::Withdrawn;
            }
        }
    }

    fn enter(&mut self, who: Option<PersonId>, slot: Option<SlotId>, event: AuditEvent) {
        if self.halted {
            return;
        }
        let entry = Entry { wall_s: self.wall_s, who, slot, event };
        if self.journal.push_back(entry).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    fn change_seal(&mut self, change: SealChange) {
        if !self.halted && self.seals.push_back(change).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    /// A ticket for an effect of the service itself.
    pub const fn service_ticket(&mut self) -> Ticket {
        self.number(None)
    }

    const fn number(&mut self, slot: Option<SlotId>) -> Ticket {
        let number = self.next_ticket;
        self.next_ticket = self.next_ticket.wrapping_add(1);
        Ticket { slot, number }
    }
}

impl<const CAPACITY: usize> Default for Outbox<CAPACITY> {
    fn default() -> Self {
        Self::new()
    }
}

impl<const CAPACITY: usize> Out for Outbox<CAPACITY> {
    fn ticket(&mut self, slot: SlotId) -> Ticket {
        self.number(Some(slot))
    }

    fn act(&mut self, act: Act) {
        if self.halted && !act.is_allowed_when_halted() {
            return;
        }
        if self.acts.push_back((self.forming, act)).is_err() {
            self.bug(BUG_OUTBOX_FULL);
            return;
        }
        self.turn_acts = self.turn_acts.saturating_add(1);
    }

    fn journal(&mut self, who: Option<PersonId>, slot: SlotId, event: AuditEvent) {
        self.enter(who, Some(slot), event);
    }

    fn seal(&mut self, key: SecretKey, id: SecretId) {
        self.change_seal(SealChange::Seal(key, id));
    }

    fn erase(&mut self, key: SecretKey) {
        self.change_seal(SealChange::Erase(key));
    }

    fn withdraw(&mut self, ticket: Ticket) -> bool {
        for (_, act) in self.acts.iter_mut() {
            if act.ticket() == Some(ticket) {
                *act = Act::Withdrawn;
                return true;
            }
        }
        false
    }

    fn bug(&mut self, place: u16) {
        self.bug.get_or_insert(place);
    }
}

/// A list for golden tables: what one event pushed, in order.
#[derive(Clone, Debug, Default)]
pub struct Pushed {
    /// Acts.
    pub acts: Vec<Act, 16>,
    /// Audit events.
    pub journal: Vec<AuditEvent, 16>,
    /// Sealed secrets by key.
    pub sealed: Vec<SecretKey, 4>,
    /// Erased secrets by key.
    pub erased: Vec<SecretKey, 4>,
    /// Broken invariants.
    pub bugs: Vec<u16, 4>,
    /// The number of the next ticket.
    pub next_ticket: u32,
    /// What `withdraw` answers.
    pub not_seen_yet: bool,
}

impl Out for Pushed {
    fn ticket(&mut self, slot: SlotId) -> Ticket {
        self.next_ticket = self.next_ticket.saturating_add(1);
        Ticket { slot: Some(slot), number: self.next_ticket }
    }

    fn act(&mut self, act: Act) {
        if self.acts.push(act).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    fn journal(&mut self, _who: Option<PersonId>, _slot: SlotId, event: AuditEvent) {
        if self.journal.push(event).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    fn seal(&mut self, key: SecretKey, _id: SecretId) {
        if self.sealed.push(key).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    fn erase(&mut self, key: SecretKey) {
        if self.erased.push(key).is_err() {
            self.bug(BUG_OUTBOX_FULL);
        }
    }

    fn withdraw(&mut self, _ticket: Ticket) -> bool {
        self.not_seen_yet
    }

    fn bug(&mut self, place: u16) {
        // A fifth bug in one event tells nothing that the first four do not.
        let _ = self.bugs.push(place);
    }
}

/// The fault that a broken invariant becomes.
#[must_use]
pub const fn bug_fault(place: u16) -> Fault {
    Fault::Bug(place)
}
