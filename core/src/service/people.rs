//! Orders about codes that several persons know: which collection they begin or feed.
//!
//! Where one person knows the code the order goes straight to the slot machine. Otherwise a
//! collection stands between: its people enter, and what it delivers goes the same way.

use super::{Phase, Service};
use crate::audit::AuditEvent;
use crate::command::{Answer, Caller, CommandKind};
use crate::effect::{ApplicationSet, Outcome, SlotId, Ticket};
use crate::fault::Refusal;
use crate::outbox::Act;
use crate::person::{PersonId, Role, Roster, may_hold_a_share};
use crate::quorum::{Collection, CollectionEvent, CollectionOrder, NewCode, Want};
use crate::record::{Doubt, Knowledge, Knows, Mode};
use crate::safe::SecretId;
use crate::share::{Quorum, looks_like_share};
use crate::slot::{SlotEvent, State};
use crate::slot_data::SlotData;
use crate::turn::{Out, Turn};

/// A person's wish for another code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Wish {
    pub(super) slot: SlotId,
    pub(super) caller: Caller,
    pub(super) command: CommandKind,
    pub(super) new: NewCode,
    pub(super) code: Option<SecretId>,
    pub(super) new_code: Option<SecretId>,
    pub(super) confirmed: bool,
    pub(super) accept: ApplicationSet,
}

/// One collection and its slot.
pub(super) struct Collecting {
    pub(super) slot: SlotId,
    pub(super) collection: Collection,
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Opens a slot with what a person typed: the whole code, or what they know of it.
    pub(super) fn activate(&mut self, slot: SlotId, caller: Caller, code: Option<SecretId>, confirmed: bool) {
        let (by, knowledge) = match code {
            Some(id) => self.meant(slot, caller.who, id),
            None => (Knows::Current, Knowledge::Whole),
        };
        if knowledge == Knowledge::Whole || !self.is_closed(slot) {
            self.slot_event(slot, SlotEvent::ActivateOrdered { caller, code, by, confirmed });
            return;
        }
        match (self.collecting(slot).map(|collecting| collecting.order()), code) {
            (Some(CollectionOrder { want: Want::Activate, by: collected, .. }), Some(code)) if collected == by => {
                self.enter(slot, caller, CommandKind::Activate, code, confirmed);
            }
            (Some(_), _) => self.refuse(slot, caller, CommandKind::Activate, Refusal::CollectionUnderWay, [code, None]),
            (None, _) => {
                let want = Want::Activate;
                self.collect(slot, CollectionOrder { caller, want, by, code, new_code: None, confirmed });
            }
        }
    }

    /// Gives a slot another code, or calls the people together who know it or are to know it.
    pub(super) fn change(&mut self, wish: Wish) {
        let Wish { slot, caller, command, new, code, new_code, confirmed, accept } = wish;
        let Some(record) = self.slot_record(slot).copied() else { return };
        let known = matches!(record.knowledge, Knowledge::Parts(_) | Knowledge::Shares);
        let shared = record.mode == Mode::Manual && known;
        let needs_people = shared || matches!(new, NewCode::Parts(_) | NewCode::Shares { .. });
        if self.collecting(slot).is_some() {
            self.refuse(slot, caller, command, Refusal::CollectionUnderWay, [code, new_code]);
        } else if needs_people && self.can_change(slot) {
            let want = Want::Change { command, new, accept };
            self.collect(slot, CollectionOrder { caller, want, by: Knows::Current, code, new_code, confirmed });
        } else {
            let (to, next) = (new.mode(), new.knowledge());
            let kind = command;
            let order = SlotEvent::ChangeOrdered { caller, kind, to, code, new_code, next, confirmed, accept };
            self.slot_event(slot, order);
        }
    }

    /// A new code of the same kind.
    pub(super) fn change_code(
        &mut self,
        slot: SlotId,
        caller: Caller,
        codes: [Option<SecretId>; 2],
        (confirmed, accept): (bool, ApplicationSet),
    ) {
        let [code, new_code] = codes;
        let command = CommandKind::ChangeCode;
        let Some(record) = self.slot_record(slot).copied() else { return };
        let new = match (record.mode, record.knowledge) {
            (Mode::Generated, _) => NewCode::Generated,
            (Mode::Manual, Knowledge::Whole) => NewCode::Whole,
            (Mode::Manual, Knowledge::Parts(roster)) => NewCode::Parts(roster),
            (Mode::Manual, Knowledge::Shares) => {
                return self.refuse(slot, caller, command, Refusal::CodeIsShared, codes);
            }
            (Mode::Manual, Knowledge::Cards { .. }) => {
                return self.refuse(slot, caller, command, Refusal::SlotHasCards, codes);
            }
        };
        self.change(Wish { slot, caller, command, new, code, new_code, confirmed, accept });
    }

    /// Makes a new secret and hands its shares out.
    pub(super) fn split(
        &mut self,
        slot: SlotId,
        caller: Caller,
        (quorum, custodians): (Quorum, Roster),
        code: Option<SecretId>,
        (confirmed, accept): (bool, ApplicationSet),
    ) {
        let command = CommandKind::Split;
        if let Err(refusal) = self.check_custodians(quorum, custodians) {
            return self.refuse(slot, caller, command, refusal, [code, None]);
        }
        let new = NewCode::Shares { quorum, custodians };
        self.change(Wish { slot, caller, command, new, code, new_code: None, confirmed, accept });
    }

    /// Switches the mode, or who knows the manual code.
    pub(super) fn mode(
        &mut self,
        slot: SlotId,
        caller: Caller,
        (to, parts): (Mode, Option<Roster>),
        [code, new_code]: [Option<SecretId>; 2],
        (confirmed, accept): (bool, ApplicationSet),
    ) {
        let command = CommandKind::Mode;
        let new = match (to, parts) {
            (Mode::Generated, None) => NewCode::Generated,
            (Mode::Manual, None) => NewCode::Whole,
            (Mode::Manual, Some(roster)) if self.can_be_parts(roster) => NewCode::Parts(roster),
            (Mode::Generated | Mode::Manual, Some(_)) => {
                return self.refuse(slot, caller, command, Refusal::PartsInvalid, [code, new_code]);
            }
        };
        self.change(Wish { slot, caller, command, new, code, new_code, confirmed, accept });
    }

    /// What a custodian does for a slot: fetch, type back, enter.
    pub(super) fn share(&mut self, slot: SlotId, caller: Caller, code: Option<SecretId>, confirmed: bool) {
        if self.collecting(slot).is_some() {
            return match code {
                Some(code) => self.enter(slot, caller, CommandKind::Share, code, confirmed),
                None => self.collection_event(slot, CollectionEvent::Fetched { caller }),
            };
        }
        let shared = code.is_some_and(|id| self.meant(slot, caller.who, id).1 != Knowledge::Whole);
        if shared && self.is_closed(slot) {
            return self.activate(slot, caller, code, confirmed);
        }
        self.refuse(slot, caller, CommandKind::Share, Refusal::NothingCollected, [code, None]);
    }

    /// Gives a collection what a person entered, unless the slot could not take the whole now:
    /// with the last entry everybody's work would be lost.
    fn enter(&mut self, slot: SlotId, caller: Caller, kind: CommandKind, code: SecretId, confirmed: bool) {
        let cooling = self.entries.get(usize::from(slot.0)).is_some_and(|entry| entry.data.is_cooling(self.now));
        let refusal = match self.slot_state(slot) {
            Some(State::Doubtful { .. }) => Some(Refusal::SlotDoubtful),
            Some(state) if state.is_working() => Some(Refusal::Busy),
            Some(_) | None if cooling => Some(Refusal::SlotCoolingDown),
            Some(_) | None => None,
        };
        match refusal {
            Some(refusal) => self.refuse(slot, caller, kind, refusal, [Some(code), None]),
            None => self.collection_event(slot, CollectionEvent::Entered { caller, code, confirmed }),
        }
    }

    /// Ends a collection; without one, asks for the other code where a change is undecided.
    pub(super) fn reset(&mut self, slot: SlotId, caller: Caller) {
        let roles = self.persons.roles(caller.who);
        let whoever = roles.has(Role::Administrator) || roles.has(Role::Operator);
        if self.collecting(slot).is_some() {
            return self.collection_event(slot, CollectionEvent::ResetOrdered { caller, whoever });
        }
        let undecided = self.entries.get_mut(usize::from(slot.0)).map(|entry| &mut entry.data);
        match undecided.filter(|data| whoever && data.record.knowledge_next.is_some()) {
            Some(data) => {
                data.asks_old = !data.asks_old;
                self.reply(caller, Answer::Done);
            }
            None => self.refuse(slot, caller, CommandKind::Reset, Refusal::NothingCollected, [None, None]),
        }
    }

    /// Ends what is collected for a slot because something was ordered that outdates it.
    pub(super) fn supersede_collection(&mut self, slot: SlotId) {
        self.collection_event(slot, CollectionEvent::Superseded);
    }

    /// Tells a collection that its effect ended; false: it is not a collection's effect.
    pub(super) fn collection_done(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        let waits = |collecting: &&Collecting| collecting.collection.state().awaited() == Some(ticket);
        let Some(slot) = self.collections.iter().find(waits).map(|collecting| collecting.slot) else { return false };
        self.collection_event(slot, CollectionEvent::Done(ticket, outcome));
        true
    }

    /// Ends collections that nobody went on with.
    pub(super) fn tick_collections(&mut self) {
        for slot in self.slots() {
            if self.collecting(slot).is_some_and(|collection| collection.due_ms() <= self.now.mono_ms) {
                self.collection_event(slot, CollectionEvent::DeadlinePassed);
            }
        }
    }

    /// Ends collections whose slot went where they do not lead any more.
    pub(super) fn end_superseded_collections(&mut self) {
        for slot in self.slots() {
            let Some(collection) = self.collecting(slot) else { continue };
            let over = match (self.slot_state(slot), collection.order().want) {
                (Some(State::Absent | State::Uninitialised | State::Blocked) | None, _) => true,
                (Some(State::Active { .. }), want) => want == Want::Activate,
                (Some(_), _) => false,
            };
            if over {
                self.collection_event(slot, CollectionEvent::Superseded);
            }
        }
    }

    /// The collection of a slot.
    pub(super) fn collecting(&self, slot: SlotId) -> Option<&Collection> {
        self.collections.iter().find(|collecting| collecting.slot == slot).map(|collecting| &collecting.collection)
    }

    /// Begins a collection.
    fn collect(&mut self, slot: SlotId, order: CollectionOrder) {
        if self.collections.is_full() {
            let secrets = [order.code, order.new_code];
            return self.refuse(slot, order.caller, order.want.command(), Refusal::TooManyCollections, secrets);
        }
        // The audit record that begins it is the next one, or one of the next few of this turn.
        let attempt = self.outbox.next_sequence();
        self.run_collection(slot, |turn| Collection::begin(order, attempt, turn));
    }

    fn collection_event(&mut self, slot: SlotId, event: CollectionEvent) {
        let Some(place) = self.collections.iter().position(|collecting| collecting.slot == slot) else { return };
        let Collecting { mut collection, .. } = self.collections.swap_remove(place);
        self.run_collection(slot, |turn| {
            collection.handle(event, turn);
            collection
        });
    }

    /// Runs a collection, which may deliver a code to the slot machine. It is put back unless
    /// it is over.
    fn run_collection(&mut self, slot: SlotId, work: impl FnOnce(&mut Turn<'_>) -> Collection) {
        let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { return };
        let (mut order, mut end, mut deliver) = (None, None, None);
        let collection = work(&mut Turn {
            now: self.now,
            tries: self.tries,
            stopping: matches!(self.phase, Phase::Stopping { .. } | Phase::Zeroizing(_)) || self.halted.is_some(),
            halted: self.halted.is_some(),
            slot: &mut entry.data,
            secrets: &mut self.safe,
            watch: &mut self.watch,
            out: &mut self.outbox,
            change: &mut order,
            change_end: &mut end,
            deliver: &mut deliver,
        });
        if !collection.is_over() {
            // It was taken out of this table, or a place in it was seen to be free.
            let _ = self.collections.push(Collecting { slot, collection });
        }
        let Some(event) = deliver else { return };
        self.slot_event(slot, event);
        if let (SlotEvent::ChangeOrdered { .. }, Some(entry)) = (event, self.entries.get_mut(usize::from(slot.0)))
            && entry.change.is_none()
            && entry.data.record.change.is_none()
        {
            // The slot machine refused it: the shares that were handed out are void.
            entry.data.void_handed_out();
        }
    }

    /// Which code a person means by what they typed: a share is told from a code by its looks.
    fn meant(&self, slot: SlotId, who: PersonId, id: SecretId) -> (Knows, Knowledge) {
        let whole = (Knows::Current, Knowledge::Whole);
        let Some(entry) = self.entries.get(usize::from(slot.0)) else { return whole };
        let known = entry.data.known();
        let is_share = self.safe.with(id, looks_like_share).unwrap_or(false);
        // An unblock to a manual code that nobody saw the end of, while the others are known by
        // shares or in parts: who has none of the parts means the whole code.
        let rescued = !is_share && entry.data.record.doubt == Some(Doubt::OldOrNew);
        let fits = |(_, knowledge): &&(Knows, Knowledge)| match knowledge {
            Knowledge::Shares => is_share,
            Knowledge::Whole | Knowledge::Cards { .. } => !is_share,
            Knowledge::Parts(roster) => !is_share && (!rescued || roster.place_of(who).is_some()),
        };
        let otherwise = if rescued { Some((Knows::Rescued, Knowledge::Whole)) } else { known.first().copied() };
        known.iter().find(fits).copied().or(otherwise).unwrap_or(whole)
    }

    /// Whether a code would open the slot now.
    fn is_closed(&self, slot: SlotId) -> bool {
        matches!(self.slot_state(slot), Some(State::Locked | State::InDoubt))
    }

    /// Whether the code of the slot could be changed now.
    fn can_change(&self, slot: SlotId) -> bool {
        let cooling = |data: &SlotData| data.is_cooling(self.now);
        let entry = self.entries.get(usize::from(slot.0));
        matches!(self.slot_state(slot), Some(State::Locked | State::Active { .. }))
            && !entry.is_some_and(|entry| cooling(&entry.data))
    }

    fn can_be_parts(&self, roster: Roster) -> bool {
        let count = roster.persons().len();
        let may = roster.persons().iter().all(|who| may_hold_a_share(self.persons.roles(*who)));
        (2..=crate::limits::PARTS_MAX).contains(&count) && may
    }

    /// Whether there are enough people for the shares.
    fn check_custodians(&self, quorum: Quorum, custodians: Roster) -> Result<(), Refusal> {
        let n = usize::from(quorum.n());
        let named = custodians.persons();
        if named.is_empty() {
            return if self.persons.holders() < n { Err(Refusal::TooFewCustodians) } else { Ok(()) };
        }
        let may = named.iter().all(|who| may_hold_a_share(self.persons.roles(*who)));
        if named.len() == n && may { Ok(()) } else { Err(Refusal::TooFewCustodians) }
    }

    fn refuse(
        &mut self,
        slot: SlotId,
        caller: Caller,
        kind: CommandKind,
        refusal: Refusal,
        secrets: [Option<SecretId>; 2],
    ) {
        for id in secrets.into_iter().flatten() {
            self.outbox.act(Act::Wipe(id));
        }
        self.outbox.journal(Some(caller.who), slot, AuditEvent::Refused(kind, refusal));
        self.reply(caller, Answer::Refused(refusal));
    }
}
