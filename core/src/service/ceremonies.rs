//! Where ceremonies begin and lead: what is checked before anybody is called to a reader, and
//! what the HSM and the slots get from them.

use zeroize::Zeroizing;

use super::Service;
use super::cards::subject_of;
use super::people::Wish;
use crate::audit::{AuditEvent, CeremonyEnd};
use crate::card::Credential;
use crate::card::sets::{CardSet, CardSets, SetSubject};
use crate::ceremony::event::{CeremonyEvent, SoPinEnd};
use crate::ceremony::order::{Facts, Places, SlotSet, SoUse, Task};
use crate::code;
use crate::command::{Answer, Caller, Command};
use crate::effect::{HsmAnswer, HsmCall, Outcome, SlotId, Ticket};
use crate::fault::{Fault, Function, HsmFailure, Refusal, rv};
use crate::outbox::Act;
use crate::person::{PersonId, Roles, Roster, may_hold_a_share};
use crate::quorum::NewCode;
use crate::record::{Knowledge, Knows, Mode};
use crate::safe::{SecretId, Secrets as _};
use crate::share::card_set::CardQuorum;
use crate::slot::{SlotEvent, State};
use crate::transfer::{self, TransferEvent};
use crate::turn::Out;
use crate::{backup, card::ReaderId};

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Begins a ceremony, or says why not; its secrets are then wiped.
    pub(super) fn start_ceremony(&mut self, caller: Caller, command: Command) {
        match self.plan(&command, caller.who) {
            Ok(facts) => {
                self.run_ceremony(caller, command, facts);
                // Durable before the token gets the key that unwraps.
                if let Some(restoration) = self.restoring() {
                    self.transfer_event(TransferEvent::RestoreBegan { restoration });
                }
            }
            Err(refusal) => {
                for id in command.secrets().into_iter().flatten() {
                    self.outbox.act(Act::Wipe(id));
                }
                let refused = AuditEvent::Refused(command.kind(), refusal);
                self.outbox.journal_order(Some(caller.who), command.slot(), refused);
                self.reply(caller, Answer::Refused(refusal));
            }
        }
    }

    /// Whether people open this slot with cards now, so that whatever needs its code calls them.
    pub(super) fn opens_with_cards(&self, slot: SlotId) -> bool {
        self.entries.get(usize::from(slot.0)).is_some_and(|entry| {
            let undecided = entry.data.record.knowledge_next.is_some();
            let (_, knowledge) = entry.data.known()[0];
            (entry.data.record.mode == Mode::Manual || undecided) && matches!(knowledge, Knowledge::Cards { .. })
        })
    }

    /// Checks an order, and gathers what the ceremony may rely on.
    fn plan(&mut self, command: &Command, starter: PersonId) -> Result<Facts, Refusal> {
        if self.cards.level != super::SecurityLevel::Cards {
            return Err(Refusal::LevelNotCards);
        }
        if self.cards.ceremony().is_some() {
            return Err(Refusal::CeremonyUnderWay);
        }
        // The last one is not durable yet; its lines have the place of the next.
        if self.cards.writes_lines() {
            return Err(Refusal::OutboxFull);
        }
        // A ceremony would wait for people with a secret that is nobody's any more.
        if command.secrets().into_iter().flatten().any(|id| self.safe.with(id, |_| ()).is_none()) {
            return Err(Refusal::CodeMissing);
        }
        let places = if let Command::Cards { order } = command {
            order.at
        } else if let Command::SlotCards { at, .. }
        | Command::AdministratorCards { at, .. }
        | Command::BySoCards { at, .. } = command
        {
            *at
        } else {
            Places::default()
        };
        let reader = self.cards.usable(places.reader)?;
        let target = match (places.target, command) {
            (Some(_), _) => self.cards.usable(places.target)?,
            (None, Command::Cards { order }) if matches!(order.task, Task::Copy { .. }) => {
                self.cards.usable_beside(reader)
            }
            (None, _) => reader,
        };
        let facts = self.blank_facts(starter, (reader, target), places.overwrite);
        match *command {
            Command::Cards { order } => self.plan_cards(order.task, facts),
            Command::SlotCards { slot, quorum, holders, with_code, code, new_code, .. } => {
                self.plan_slot_cards(slot, (quorum, holders, with_code), [code, new_code], facts)
            }
            Command::AdministratorCards { slot, quorum, holders, so_pin, confirmed, .. } => {
                self.plan_administrators(slot, (quorum, holders), (so_pin, confirmed), facts)
            }
            Command::BySoCards { slot, .. } => self.plan_by_so(slot, facts),
            Command::Activate { slot, code, .. } => {
                if matches!(self.slot_state(slot), Some(State::Active { .. })) {
                    return Err(Refusal::AlreadyActive);
                }
                self.plan_open(slot, code, facts)
            }
            Command::Mode { slot, code, .. } | Command::Split { slot, code, .. } => self.plan_open(slot, code, facts),
            Command::Boot
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Init { .. }
            | Command::ChangeCode { .. }
            | Command::Unblock { .. }
            | Command::Decommission { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Share { .. }
            | Command::Reset { .. }
            | Command::Stop
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Cluster { .. }
            | Command::Zeroize
            | Command::Transfer { .. } => Err(Refusal::NoSlotCards),
        }
    }

    fn blank_facts(&self, starter: PersonId, (reader, target): (ReaderId, ReaderId), overwrite: bool) -> Facts {
        Facts {
            starter,
            credential: Credential::BackupShare,
            subject: self.cards.cluster,
            owner: None,
            gather: None,
            others: [None; 2],
            make: None,
            fresh_secret: false,
            reader,
            target,
            overwrite,
            slots: SlotSet::NONE,
            two_persons: self.policy.dual_control,
        }
    }

    fn plan_cards(&self, task: Task, facts: Facts) -> Result<Facts, Refusal> {
        let current = self.cards.backup.current;
        let in_force = || current.ok_or(Refusal::NoBackupKey);
        Ok(match task {
            // What is being received needs the keys of the backup key in force, and the tokens' sessions.
            Task::CreateSet { .. } | Task::Rotate { .. } | Task::Restore { .. } if self.is_receiving() => {
                return Err(Refusal::TransferUnderWay);
            }
            Task::CreateSet { .. } if current.is_some() => return Err(Refusal::BackupKeyExists),
            Task::CreateSet { quorum, holders, leave_out } => Facts {
                make: Some(self.plan_backup_set(quorum, holders)?),
                fresh_secret: true,
                slots: self.active_slots(leave_out),
                ..facts
            },
            Task::Rotate { quorum, holders, leave_out } => {
                in_force()?;
                let slots = self.active_slots(leave_out);
                Facts { make: Some(self.plan_backup_set(quorum, holders)?), fresh_secret: true, slots, ..facts }
            }
            Task::ReplaceSet { quorum, holders } => {
                let make = Some(self.plan_backup_set(quorum, holders)?);
                Facts { gather: Some(in_force()?), make, ..facts }
            }
            Task::VerifySet => Facts { gather: Some(in_force()?), ..facts },
            Task::VerifyFile { .. } if self.transfer.state() != transfer::State::Idle || self.is_receiving() => {
                return Err(Refusal::TransferUnderWay);
            }
            // As a restore: a file of an earlier backup key is checked with the cards of that one.
            Task::VerifyFile { key_id, .. } => Facts { gather: current.filter(|set| set.key_id == key_id), ..facts },
            Task::RestoreKey { key_id: Some(typed), .. } if current.is_some_and(|set| set.key_id != typed) => {
                return Err(Refusal::KeyIdDiffers);
            }
            Task::RestoreKey { slot: None, .. } => {
                Facts { gather: current, slots: self.active_slots(SlotSet::NONE), ..facts }
            }
            Task::RestoreKey { slot: Some(slot), .. } => {
                if !matches!(self.slot_state(slot), Some(State::Active { .. })) {
                    return Err(Refusal::SlotNotActive);
                }
                if self.cards.is_unheard(slot) {
                    return Err(Refusal::SlotDoubtful);
                }
                Facts { gather: current, slots: SlotSet::NONE.with(slot), ..facts }
            }
            Task::Restore { slot, key_id, .. } => {
                if !matches!(self.slot_state(slot), Some(State::Active { .. })) {
                    return Err(Refusal::SlotNotActive);
                }
                if self.cards.is_unheard(slot) {
                    return Err(Refusal::SlotDoubtful);
                }
                if self.transfer.state() != transfer::State::Idle {
                    return Err(Refusal::TransferUnderWay);
                }
                // A file of an earlier backup key opens with the cards of that one.
                let gather = current.filter(|set| set.key_id == key_id);
                Facts { gather, slots: SlotSet::NONE.with(slot), ..facts }
            }
            Task::Reassign { credential, to } if !may_have(credential, self.persons.roles(to)) => {
                return Err(Refusal::HoldersInvalid);
            }
            Task::ChangePin { credential }
            | Task::Reassign { credential, .. }
            | Task::Copy { credential }
            | Task::Erase { credential } => Facts { credential, ..facts },
        })
    }

    fn plan_backup_set(&self, quorum: CardQuorum, holders: Roster) -> Result<CardSet, Refusal> {
        quorum.is_for(SetSubject::BackupKey.kind())?;
        self.check_holders(quorum, holders, may_hold_a_share)?;
        Ok(self.planned(SetSubject::BackupKey, quorum, holders, (false, 0)))
    }

    /// A set that is to be made; its ids follow from what is drawn.
    fn planned(
        &self,
        subject: SetSubject,
        quorum: CardQuorum,
        holders: Roster,
        (with_code, pin_chars): (bool, u8),
    ) -> CardSet {
        let last = self.cards.sets(subject).map_or(0, |sets| sets.last_generation);
        CardSet {
            id: [0; 16],
            key_id: [0; 16],
            generation: last.saturating_add(1),
            quorum,
            holders,
            created_s: self.now.wall_s.unwrap_or(0),
            split_knowledge: self.policy.dual_control && holders.count() == quorum.n(),
            with_code,
            pin_chars,
        }
    }

    /// Each share goes to another named person. One who decides alone may name nobody: the set is
    /// then not under split knowledge.
    fn check_holders(&self, quorum: CardQuorum, holders: Roster, may: fn(Roles) -> bool) -> Result<(), Refusal> {
        if holders == Roster::NOBODY && !self.policy.dual_control {
            return Ok(());
        }
        let all_may = holders.persons().iter().all(|who| may(self.persons.roles(*who)));
        if holders.count() == quorum.n() && all_may { Ok(()) } else { Err(Refusal::HoldersInvalid) }
    }

    /// Slots whose tokens can take keys now.
    fn active_slots(&self, leave_out: SlotSet) -> SlotSet {
        let active = |slot: &SlotId| matches!(self.slot_state(*slot), Some(State::Active { .. }));
        let asked = |slot: &SlotId| !leave_out.has(*slot) && !self.cards.is_unheard(*slot);
        self.slots().filter(active).filter(asked).fold(SlotSet::NONE, SlotSet::with)
    }

    fn plan_slot_cards(
        &self,
        slot: SlotId,
        (quorum, holders, with_code): (CardQuorum, Roster, bool),
        [code, new_code]: [Option<SecretId>; 2],
        facts: Facts,
    ) -> Result<Facts, Refusal> {
        let entry = self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
        let data = &entry.data;
        if !matches!(entry.machine.state(), State::Locked | State::Active { .. }) {
            return Err(if data.token.is_none() { Refusal::SlotAbsent } else { Refusal::Busy });
        }
        if data.is_cooling(self.now) {
            return Err(Refusal::SlotCoolingDown);
        }
        if data.keeps_a_code() {
            return Err(Refusal::ActivateFirst);
        }
        if data.is_open_between_two() {
            return Err(Refusal::CodeOldOrNew);
        }
        if self.collecting(slot).is_some() {
            return Err(Refusal::CollectionUnderWay);
        }
        match (with_code, new_code) {
            (true, None) => return Err(Refusal::CardsNeedManual),
            (true, Some(id)) => code::check_in_safe(&self.safe, id, 0)?,
            (false, Some(_)) => return Err(Refusal::NewCodeNotWanted),
            (false, None) => {}
        }
        self.check_holders(quorum, holders, |roles| roles != Roles::NONE)?;
        let subject = SetSubject::Users(data.owner);
        if !self.cards.has_room_for(subject) {
            return Err(Refusal::TooManyCards);
        }
        let pin_chars = pin_chars(data.new_pin_chars_max())?;
        let make = Some(self.planned(subject, quorum, holders, (with_code, pin_chars)));
        let facts = Facts { make, fresh_secret: true, ..facts };
        if self.opens_with_cards(slot) {
            return self.plan_open(slot, code, facts);
        }
        let uid = data.record.uid;
        Ok(Facts { credential: Credential::SlotUser, subject: uid, owner: Some(data.owner), ..facts })
    }

    /// The cards of a slot's users, for whatever needs its code.
    fn plan_open(&self, slot: SlotId, code: Option<SecretId>, facts: Facts) -> Result<Facts, Refusal> {
        let data = &self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?.data;
        if data.token.is_none() {
            return Err(Refusal::SlotAbsent);
        }
        if data.is_cooling(self.now) {
            return Err(Refusal::SlotCoolingDown);
        }
        let sets = self.cards.sets(SetSubject::Users(data.owner)).ok_or(Refusal::NoSlotCards)?;
        // While a change is undecided both sets may be the one: the first card decides.
        let [first, second] = data.known().map(|(_, knowledge)| set_known(sets, knowledge));
        let gather = first.or(second).ok_or(Refusal::NoSlotCards)?;
        match (gather.with_code, code) {
            (true, None) => return Err(Refusal::CodeMissing),
            (false, Some(_)) => return Err(Refusal::CodeNotOnTop),
            (true, Some(_)) | (false, None) => {}
        }
        Ok(Facts {
            credential: Credential::SlotUser,
            subject: data.record.uid,
            owner: Some(data.owner),
            gather: Some(gather),
            others: [second.filter(|other| other.id != gather.id), None],
            ..facts
        })
    }

    fn plan_administrators(
        &mut self,
        slot: SlotId,
        (quorum, holders): (CardQuorum, Roster),
        (so_pin, confirmed): (Option<SecretId>, bool),
        facts: Facts,
    ) -> Result<Facts, Refusal> {
        self.check_holders(quorum, holders, may_hold_a_share)?;
        self.may_try_so(slot, confirmed)?;
        let data = &self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?.data;
        let (owner, subject_uid) = (data.owner, data.record.uid);
        let chars = pin_chars(data.pin_chars_max())?;
        let subject = SetSubject::Administrators(owner);
        if !self.cards.has_room_for(subject) {
            return Err(Refusal::TooManyCards);
        }
        // Three sets of which nobody knows which one counts are as many as are kept.
        if self.cards.sets(subject).is_some_and(|sets| sets.calling && sets.doubted.is_some()) {
            return Err(Refusal::SoPinOldOrNew);
        }
        let make = Some(self.planned(subject, quorum, holders, (false, chars)));
        let facts = Facts { make, fresh_secret: true, ..facts };
        if so_pin.is_none() {
            return self.plan_by_so(slot, facts);
        }
        let credential = Credential::HsmAdministrator;
        Ok(Facts { credential, subject: subject_uid, owner: Some(owner), ..facts })
    }

    /// Whether a try of the SO PIN may be made at this slot now.
    fn may_try_so(&mut self, slot: SlotId, confirmed: bool) -> Result<(), Refusal> {
        if self.cards.is_unheard(slot) {
            return Err(Refusal::SlotDoubtful);
        }
        let (tries, now) = (self.tries, self.now);
        let entry = self.entries.get_mut(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
        match entry.machine.state() {
            State::Locked | State::Blocked | State::InDoubt => {}
            State::Active { .. } => return Err(Refusal::DeactivateFirst),
            State::Absent => return Err(Refusal::SlotAbsent),
            State::Uninitialised => return Err(Refusal::SlotUninitialised),
            State::CoolingDown { .. } => return Err(Refusal::SlotCoolingDown),
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. } => return Err(Refusal::Busy),
        }
        let data = &mut entry.data;
        if data.is_so_cooling(now) {
            return Err(Refusal::SlotCoolingDown);
        }
        if data.token.is_some_and(|token| token.so_locked) {
            return Err(Refusal::SoPinBlocked);
        }
        if data.record.so.needs_confirmation(tries, data.so_final_try()) && !confirmed {
            return Err(Refusal::LastTryUnconfirmed);
        }
        Ok(())
    }

    /// The cards that give a slot's SO PIN.
    fn plan_by_so(&self, slot: SlotId, facts: Facts) -> Result<Facts, Refusal> {
        let data = &self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?.data;
        let sets = self.cards.sets(SetSubject::Administrators(data.owner)).ok_or(Refusal::NoSlotCards)?;
        let mut may_count = sets.in_force();
        let gather = may_count.next().ok_or(Refusal::NoSlotCards)?;
        Ok(Facts {
            credential: Credential::HsmAdministrator,
            subject: data.record.uid,
            owner: Some(data.owner),
            gather: Some(gather),
            others: [may_count.next(), may_count.next()],
            ..facts
        })
    }

    /// The cards of a slot gave what was wanted: the order goes on as if it had been typed.
    pub(super) fn deliver(&mut self, present: Option<SecretId>, new: Option<SecretId>) {
        let Some(ceremony) = self.cards.ceremony() else { return };
        let (command, gathered) = (*ceremony.command(), ceremony.gathered_set());
        let Some(caller) = self.close_transcript(CeremonyEnd::Delivered) else { return };
        let [typed, typed_new] = command.secrets();
        match command {
            Command::Activate { slot, confirmed, .. } => {
                self.wipe_later(typed);
                let by = self.known_by(slot, gathered);
                self.slot_event(slot, SlotEvent::ActivateOrdered { caller, code: present, by, confirmed });
            }
            Command::Mode { slot, to, parts, new_code, confirmed, accept, .. } => {
                self.wipe_later(typed);
                self.mode(slot, caller, (to, parts), [present, new_code], (confirmed, accept));
            }
            Command::Split { slot, quorum, custodians, confirmed, accept, .. } => {
                self.wipe_later(typed);
                self.split(slot, caller, (quorum, custodians), present, (confirmed, accept));
            }
            Command::SlotCards { slot, quorum, with_code, confirmed, accept, .. } => {
                self.wipe_later(typed_new);
                if present.is_some() {
                    self.wipe_later(typed);
                }
                let owner = self.entries.get(usize::from(slot.0)).map(|entry| entry.data.owner);
                let sets = owner.and_then(|owner| self.cards.sets(SetSubject::Users(owner)));
                let generation = sets.map_or(0, |sets| sets.last_generation);
                let new_knowledge = NewCode::Cards(Knowledge::Cards { generation, quorum, with_code });
                let (command, code) = (command.kind(), present.or(typed));
                let new_code = new;
                self.change(Wish { slot, caller, command, new: new_knowledge, code, new_code, confirmed, accept });
            }
            Command::BySoCards { slot, then, confirmed, .. } => {
                if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
                    entry.data.so_tried_set = gathered;
                }
                self.deliver_so(slot, caller, then, present, confirmed);
            }
            Command::Cards { .. }
            | Command::AdministratorCards { .. }
            | Command::Boot
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Init { .. }
            | Command::ChangeCode { .. }
            | Command::Unblock { .. }
            | Command::Decommission { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Share { .. }
            | Command::Reset { .. }
            | Command::Stop
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Cluster { .. }
            | Command::Zeroize
            | Command::Transfer { .. } => {
                // They end by themselves, and deliver nothing.
                for id in [present, new].into_iter().flatten() {
                    self.outbox.act(Act::Wipe(id));
                }
            }
        }
    }

    fn deliver_so(&mut self, slot: SlotId, caller: Caller, then: SoUse, so_pin: Option<SecretId>, confirmed: bool) {
        let Some(so_pin) = so_pin else { return };
        let event = match then {
            SoUse::Init { free_slot } => SlotEvent::InitOrdered { caller, so_pin, free_slot, confirmed },
            SoUse::Unblock { to, new_code, accept } => {
                self.supersede_collection(slot);
                SlotEvent::UnblockOrdered { caller, so_pin, to, new_code, confirmed, accept }
            }
            SoUse::Decommission { accept } => {
                self.supersede_collection(slot);
                SlotEvent::DecommissionOrdered { caller, so_pin: Some(so_pin), confirmed, accept }
            }
        };
        self.slot_event(slot, event);
    }

    /// Whose code the cards of this set give.
    fn known_by(&self, slot: SlotId, gathered: Option<[u8; 16]>) -> Knows {
        let Some(entry) = self.entries.get(usize::from(slot.0)) else { return Knows::Current };
        let sets = self.cards.sets(SetSubject::Users(entry.data.owner));
        let is = |knowledge| sets.and_then(|sets| set_known(sets, knowledge)).map(|set| set.id) == gathered;
        let known = entry.data.known();
        known.iter().find(|(_, knowledge)| is(*knowledge)).map_or(Knows::Current, |(by, _)| *by)
    }

    fn wipe_later(&mut self, id: Option<SecretId>) {
        if let Some(id) = id {
            self.outbox.act(Act::Wipe(id));
        }
    }

    /// Derives a slot's keys and has them put into its token.
    pub(super) fn put_keys(&mut self, secret: SecretId, key_id: [u8; 16], slot: SlotId) -> Option<CeremonyEvent> {
        let restored = self.restoring();
        let uid = match restored {
            Some(restoration) => restoration.uid,
            None => self.slot_record(slot)?.uid,
        };
        let Some(backup_key) = self.secret(secret) else {
            return Some(CeremonyEvent::KeysPut(slot, Err(Fault::RandomUnavailable)));
        };
        let (kek, mak) = match (self.safe.reserve(), self.safe.reserve()) {
            (Ok(kek), Ok(mak)) => (kek, mak),
            (kek, mak) => {
                for id in [kek, mak].into_iter().flatten() {
                    self.safe.wipe(id);
                }
                return Some(CeremonyEvent::KeysPut(slot, Err(Fault::WorkerUnavailable)));
            }
        };
        for (id, derive) in [(kek, backup::kek as fn(&[u8; 32], &[u8; 16], &mut [u8; 32])), (mak, backup::mak)] {
            let mut key = Zeroizing::new([0; 32]);
            derive(&backup_key, &uid, &mut key);
            self.put(id, key.as_slice());
        }
        let ticket = self.outbox.service_ticket();
        let call = match restored {
            Some(_) => HsmCall::PrepareImport { key_id, uid, kek, mak },
            None => HsmCall::PutBackupKeys { key_id, uid, kek, mak, unwrap: self.clustering.has_others() },
        };
        self.outbox.act(Act::Hsm { ticket, slot, call });
        self.outbox.act(Act::Wipe(kek));
        self.outbox.act(Act::Wipe(mak));
        self.await_effect(ticket);
        None
    }

    /// Gives a token the SO PIN of new cards; from here on it may have it.
    pub(super) fn set_so_pin(&mut self, slot: SlotId, [old, new]: [SecretId; 2]) -> Option<CeremonyEvent> {
        let subject = self.subject()?;
        // Hours may have passed since the order, and tries been spent by others.
        let confirmed = self
            .cards
            .ceremony()
            .is_some_and(|ceremony| matches!(ceremony.command(), Command::AdministratorCards { confirmed: true, .. }));
        if let Err(refusal) = self.may_try_so(slot, confirmed) {
            return Some(CeremonyEvent::SoPinSet(Err(SoPinEnd::Refused(refusal))));
        }
        self.cards.change_sets(subject, |sets| sets.calling = true);
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
            entry.data.record.so.begin();
            entry.data.dirty = true;
        }
        let ticket = self.outbox.service_ticket();
        self.outbox.act(Act::Hsm { ticket, slot, call: HsmCall::SetSoPin { old, new } });
        self.await_effect(ticket);
        None
    }

    /// A call for the ceremony, or about derived keys, ended. False: it is neither.
    pub(super) fn service_call_done(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        if let Some(slot) = self.take_keeping(ticket) {
            self.keys_kept(slot, outcome);
            return true;
        }
        if let Some(slot) = self.cards.take_unheard(ticket) {
            // What it did is read from it now.
            if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
                entry.data.backup_key = None;
            }
            return true;
        }
        if self.roster_kept(ticket, outcome) || self.counted(ticket, outcome) {
            return true;
        }
        if self.take_transfer_ticket(ticket) {
            self.transfer_call_done(outcome);
            return true;
        }
        if !self.was_awaited(ticket) {
            return false;
        }
        match outcome {
            Outcome::Random(result) => self.ceremony_event(CeremonyEvent::Drawn(result)),
            Outcome::Hsm(result) => {
                use crate::ceremony::State;
                if let Some(State::AtHsm { slot }) = self.cards.ceremony().map(crate::ceremony::Ceremony::state) {
                    match result {
                        Ok(answer) => self.ceremony_hsm_ended(slot, Ok(answer)),
                        Err(failure) => self.ceremony_call_failed(slot, failure),
                    }
                }
            }
            Outcome::FileChecked(checked) => self.ceremony_event(CeremonyEvent::FileChecked(checked)),
            Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::File(_)
            | Outcome::Zeroized(_) => {}
        }
        true
    }

    fn ceremony_call_failed(&mut self, slot: SlotId, failure: HsmFailure) {
        let by_so = self.is_so_ceremony();
        if let (HsmFailure::Refused(refusal), Some(_)) = (failure, self.restoring()) {
            return self.ceremony_event(CeremonyEvent::RestoreRefused(refusal));
        }
        if !by_so {
            let fault = failure.fault(Function::Other);
            return self.ceremony_event(CeremonyEvent::KeysPut(slot, Err(fault)));
        }
        let end = so_pin_end(failure);
        self.note_so(slot, Err(end));
        self.ceremony_event(CeremonyEvent::SoPinSet(Err(end)));
    }

    /// A token did, or may have done, what the ceremony wanted.
    pub(super) fn ceremony_hsm_ended(&mut self, slot: SlotId, result: Result<HsmAnswer, Fault>) {
        let lied = Err(Fault::ModuleLies(Function::Other));
        if self.is_so_ceremony() {
            let result = match result {
                Ok(HsmAnswer::SoPinSet) => Ok(()),
                Ok(_) => Err(SoPinEnd::OldOrNew(Fault::ModuleLies(Function::SetPin))),
                Err(fault) => Err(SoPinEnd::OldOrNew(fault)),
            };
            self.note_so(slot, result);
            return self.ceremony_event(CeremonyEvent::SoPinSet(result));
        }
        let result = match (result, self.restoring()) {
            (Ok(HsmAnswer::ImportPrepared(plan)), Some(_)) => {
                self.transfer_event(TransferEvent::Planned(plan));
                return self.ceremony_event(CeremonyEvent::KeysPut(slot, Ok(())));
            }
            (result, _) => result,
        };
        let result = match result {
            Ok(HsmAnswer::BackupKeysPut) => Ok(()),
            Ok(_) => lied,
            Err(fault) => Err(fault),
        };
        // Which keys the token has now it says itself, once the ceremony is over.
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
            entry.data.backup_key = None;
        }
        self.ceremony_event(CeremonyEvent::KeysPut(slot, result));
    }

    /// Whether a ceremony is about an SO PIN.
    pub(super) fn is_so_ceremony(&self) -> bool {
        self.cards.ceremony().is_some_and(|ceremony| matches!(ceremony.command(), Command::AdministratorCards { .. }))
    }

    /// Counts a try of the SO PIN by how it ended.
    pub(super) fn note_so(&mut self, slot: SlotId, result: Result<(), SoPinEnd>) {
        let (tries, now) = (self.tries, self.now);
        let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { return };
        let data = &mut entry.data;
        let event = match result {
            Ok(()) => {
                data.record.so.accepted();
                data.so_cooling_until_ms = None;
                data.record.so_proven_s = now.wall_s;
                Some(AuditEvent::SoPinAccepted)
            }
            Err(SoPinEnd::Refused(Refusal::SoPinWrong)) => {
                let last = data.record.so.needs_confirmation(tries, data.so_final_try());
                data.record.so.refused(last);
                data.so_cooling_until_ms = data.record.so.wait_ms().map(|wait_ms| now.after_ms(wait_ms));
                Some(AuditEvent::SoPinRefused)
            }
            Err(SoPinEnd::Refused(_)) => {
                data.record.so.not_made();
                None
            }
            Err(SoPinEnd::OldOrNew(_)) => {
                data.record.so.unknown();
                None
            }
        };
        data.dirty = true;
        if let Some(event) = event {
            let id = data.id;
            self.outbox.journal(None, id, event);
        }
    }

    /// Every open token is asked for the keys of the backup key in force; those of others go.
    pub(super) fn keep_backup_keys_everywhere(&mut self) {
        for entry in &mut self.entries {
            entry.data.backup_key = None;
        }
    }

    /// Asks the tokens that opened since, as long as no set is being made.
    pub(super) fn keep_backup_keys(&mut self) {
        let current = self.cards.backup.current.map(|set| set.key_id);
        let key_id = match (self.cards.level, current) {
            // At level passphrase no key of one stays in a token: what a restore left that was given up goes. What
            // cards put there stays, for whoever takes the level back.
            (super::SecurityLevel::Cards, Some(_)) | (super::SecurityLevel::Passphrase, _) => current,
            (super::SecurityLevel::None, _) | (super::SecurityLevel::Cards, None) => return,
        };
        if self.cards.backup.next.is_some() || self.cards.ceremony().is_some() || !self.worker || self.halted.is_some()
        {
            return;
        }
        let restored = self.restored_owner();
        // A restore brings U, and takes it away itself; several slots may share its partition.
        let unwrap = self.clustering.has_others() || restored.is_some();
        for slot in self.slots() {
            let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { continue };
            if !matches!(entry.machine.state(), State::Active { .. }) {
                (entry.data.backup_key, entry.data.unwrap_key) = (None, None);
                continue;
            }
            if entry.data.backup_key.is_some() || self.cards.is_keeping(slot) || self.cards.is_unheard(slot) {
                continue;
            }
            // Its U may be of another key or another slot's section, and is still needed.
            if restored == Some(entry.data.owner) {
                continue;
            }
            let uid = entry.data.record.uid;
            let ticket = self.outbox.service_ticket();
            let call = HsmCall::KeepBackupKeys { key_id, uid, unwrap };
            self.outbox.act(Act::Hsm { ticket, slot, call });
            self.note_keeping(ticket, slot);
        }
    }

    fn keys_kept(&mut self, slot: SlotId, outcome: Outcome) {
        let member = self.clustering.has_others();
        let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { return };
        let id = entry.data.id;
        match outcome {
            Outcome::Hsm(Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap })) => {
                entry.data.backup_key = Some(present);
                entry.data.unwrap_key = member.then_some(unwrap);
                if destroyed > 0 {
                    self.outbox.journal(None, id, AuditEvent::BackupKeysDestroyed(destroyed));
                }
            }
            // Not known is as good as not there, until the slot is opened anew.
            Outcome::Hsm(_)
            | Outcome::Random(_)
            | Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::File(_)
            | Outcome::FileChecked(_)
            | Outcome::Zeroized(_) => {
                entry.data.backup_key = Some(false);
                entry.data.unwrap_key = member.then_some(false);
            }
        }
    }

    /// Sets in the making that lead nowhere any more are void; those that a slot's code comes
    /// from now are in force.
    pub(super) fn settle_card_sets(&mut self) {
        if self.phase == super::Phase::Loading {
            return;
        }
        let under_way = self.cards.ceremony().map(|ceremony| subject_of(ceremony.facts()));
        if under_way != Some(SetSubject::BackupKey) && self.cards.backup.next.is_some() {
            self.void_set(SetSubject::BackupKey);
        }
        for slot in self.slots() {
            let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { continue };
            if let Some(proven) = entry.data.so_proven_set.take() {
                let owner = entry.data.owner;
                self.cards.change_sets(SetSubject::Administrators(owner), |sets| sets.prove(&proven));
            }
            let Some(entry) = self.entries.get(usize::from(slot.0)) else { continue };
            let record = &entry.data.record;
            let users = SetSubject::Users(entry.data.owner);
            let administrators = SetSubject::Administrators(entry.data.owner);
            let collected = self.collecting(slot).is_some_and(|collection| {
                matches!(collection.order().want, crate::quorum::Want::Change { new: NewCode::Cards(_), .. })
            });
            let changing = entry.change.is_some() || collected;
            let (knowledge, next_knowledge, manual) =
                (record.knowledge, record.knowledge_next, record.mode == Mode::Manual);
            if under_way != Some(users)
                && let Some(sets) = self.cards.sets(users)
            {
                let is = |set: Option<CardSet>, knowledge: Option<Knowledge>| match (set, knowledge) {
                    (Some(set), Some(Knowledge::Cards { generation, .. })) => set.generation == generation,
                    (_, _) => false,
                };
                let (current, next) = (sets.current, sets.next);
                if manual && is(next, Some(knowledge)) {
                    self.cards.change_sets(users, CardSets::promote_next);
                    self.outbox.journal(None, slot, AuditEvent::CardSetInForce);
                } else if next.is_some() && !is(next, next_knowledge) && !changing {
                    self.void_set(users);
                } else if current.is_some()
                    && !(manual && is(current, Some(knowledge)))
                    && !changing
                    && next_knowledge.is_none()
                {
                    self.cards.change_sets(users, CardSets::retire);
                }
            }
            let made = self.cards.sets(administrators).is_some_and(|sets| sets.next.is_some() && !sets.calling);
            if under_way != Some(administrators) && made {
                self.void_set(administrators);
            }
        }
    }

    fn void_set(&mut self, subject: SetSubject) {
        self.cards.change_sets(subject, |sets| {
            sets.void_next();
        });
        self.outbox.journal_service(None, AuditEvent::CardSetVoid);
    }
}

/// Whether somebody with these roles may have such a card.
const fn may_have(credential: Credential, roles: Roles) -> bool {
    match credential {
        Credential::BackupShare | Credential::HsmAdministrator => may_hold_a_share(roles),
        Credential::SlotUser => !roles.is_none(),
    }
}

/// The set of a slot that its code comes from.
fn set_known(sets: &CardSets, knowledge: Knowledge) -> Option<CardSet> {
    let Knowledge::Cards { generation, .. } = knowledge else { return None };
    [sets.current, sets.next].into_iter().flatten().find(|set| set.generation == generation)
}

/// Characters of the PIN that cards give a token.
fn pin_chars(chars_max: u16) -> Result<u8, Refusal> {
    let chars = code::generated_chars(chars_max)?;
    u8::try_from(chars).map_err(|_| Refusal::GeneratedTooShort)
}

/// What a failed change of the SO PIN left behind.
const fn so_pin_end(failure: HsmFailure) -> SoPinEnd {
    match failure {
        HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT, function: Function::Login } => {
            SoPinEnd::Refused(Refusal::SoPinWrong)
        }
        HsmFailure::Pkcs11 { code: rv::PIN_LOCKED, .. } => SoPinEnd::Refused(Refusal::SoPinBlocked),
        HsmFailure::Pkcs11 {
            code:
                rv::PIN_INVALID
                | rv::PIN_LEN_RANGE
                | rv::SESSION_READ_ONLY
                | rv::USER_NOT_LOGGED_IN
                | rv::FUNCTION_NOT_SUPPORTED,
            function: Function::SetPin,
        } => SoPinEnd::Refused(Refusal::SoPinNotTaken),
        HsmFailure::Pkcs11 { function: Function::SetPin, .. } => SoPinEnd::OldOrNew(failure.fault(Function::SetPin)),
        HsmFailure::AlreadyLoggedIn => SoPinEnd::Refused(Refusal::DeactivateFirst),
        HsmFailure::Refused(refusal) => SoPinEnd::Refused(refusal),
        HsmFailure::NotSettled => SoPinEnd::OldOrNew(failure.fault(Function::SetPin)),
        HsmFailure::Pkcs11 { .. } | HsmFailure::TokenGone | HsmFailure::NoWorker => {
            SoPinEnd::Refused(Refusal::SoPinNotTaken)
        }
    }
}
