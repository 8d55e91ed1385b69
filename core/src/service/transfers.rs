//! Transfers in the service: what is checked before one begins, and what it gets done.

use zeroize::Zeroizing;

use super::{SecurityLevel, Service};
use crate::audit::AuditEvent;
use crate::ceremony::order::{SlotSet, Task};
use crate::code;
use crate::command::{Answer, Caller, Command};
use crate::effect::{HsmAnswer, HsmCall, Outcome, SlotId, Ticket};
use crate::fault::{Fault, Function, HsmFailure, Refusal};
use crate::limits::{DROP_AGAIN_MS, SLOT_PATIENCE_MS, TRANSFER_DEADLINE_MS};
use crate::outbox::Act;
use crate::person::PersonId;
use crate::reception::ReceptionEvent;
use crate::record::{Owner, Record};
use crate::safe::{SecretId, Secrets as _};
use crate::slot::{SlotEvent, State as SlotState};
use crate::status::{TransferStage, TransferStatus};
use crate::transfer::{
    Export, FileOrder, FileStep, Purpose, Reached, Restoration, Salt, State, Step, Transfer, TransferEvent,
    TransferOrder, TransferOut,
};
use crate::turn::Out;
use crate::{backup, derive};

/// What a transfer wants done after one event: eight at most (given up while the token keeps U: what whoever waits
/// is told and its record, the applications, what is durable, the file, two records, and an answer).
const WISHES_MAX: usize = 8;
/// Slots whose keys are counted at the same time: people ask for one, the platform for all in turn.
const COUNTS_MAX: usize = 8;
/// More than a transfer wants at once.
const BUG_WISHES: u16 = 70;

/// The transfer, and what it waits for.
pub(super) struct Transfers {
    machine: Transfer,
    /// Its effect under way, of which slot, and until when.
    awaited: Option<(Ticket, Option<SlotId>, u64)>,
    restoration: Option<Restoration>,
    dirty: bool,
    /// The token kept U: when it is asked again, unless the slot is opened anew before.
    again_ms: Option<u64>,
    /// Somebody waits for a slot that may be active soon: how long they do.
    patience_ms: Option<u64>,
    /// Slots whose keys are being counted, and for whom.
    counting: heapless::Vec<(Ticket, SlotId, Caller), COUNTS_MAX>,
}

impl Transfers {
    pub(super) const fn new() -> Self {
        Transfers {
            machine: Transfer::new(),
            awaited: None,
            restoration: None,
            dirty: false,
            again_ms: None,
            patience_ms: None,
            counting: heapless::Vec::new(),
        }
    }

    /// The state.
    pub(super) const fn state(&self) -> State {
        self.machine.state()
    }

    /// Nothing is under way.
    pub(super) const fn await_nothing(&mut self) {
        self.awaited = None;
    }

    /// Only the device ends this wait.
    pub(super) const fn await_for_ever(&mut self) {
        if let Some((_, _, due_ms)) = &mut self.awaited {
            *due_ms = u64::MAX;
        }
    }

    /// The next record of the transaction that forms.
    pub(super) fn take_record(&mut self) -> Option<Record> {
        core::mem::take(&mut self.dirty).then_some(Record::Restoration(self.restoration))
    }
}

/// One thing that the machine wants.
#[derive(Clone, Copy)]
enum Wish {
    File(FileOrder),
    Call(SlotId, HsmCall),
    CallOf(Owner, HsmCall),
    Remember(Option<Restoration>),
    Journal(Option<PersonId>, AuditEvent),
    Reply(Caller, Answer),
    Serve(Owner),
    Sent(u64),
    ExportOnce(SlotId, [u8; 16], SecretId),
    Prepare(Restoration, SecretId),
    Wipe(SecretId),
}

/// Collects what the machine wants, and knows the slots' uids and the names of keys.
struct Wishes<'w> {
    list: heapless::Vec<Wish, WISHES_MAX>,
    lost: bool,
    uids: &'w dyn Fn(SlotId) -> [u8; 16],
    key_ids: &'w dyn Fn(SecretId) -> Option<[u8; 16]>,
    keeps: &'w dyn Fn(Owner) -> Option<([u8; 16], [u8; 16])>,
}

impl Wishes<'_> {
    fn push(&mut self, wish: Wish) {
        self.lost |= self.list.push(wish).is_err();
    }
}

impl TransferOut for Wishes<'_> {
    fn file(&mut self, order: FileOrder) {
        self.push(Wish::File(order));
    }
    fn call(&mut self, slot: SlotId, call: HsmCall) {
        self.push(Wish::Call(slot, call));
    }
    fn call_of(&mut self, owner: Owner, call: HsmCall) {
        self.push(Wish::CallOf(owner, call));
    }
    fn uid(&self, slot: SlotId) -> [u8; 16] {
        (self.uids)(slot)
    }
    fn key_id(&self, place: SecretId) -> Option<[u8; 16]> {
        (self.key_ids)(place)
    }
    fn export_once(&mut self, slot: SlotId, key_id: [u8; 16], place: SecretId) {
        self.push(Wish::ExportOnce(slot, key_id, place));
    }
    fn prepare(&mut self, restoration: Restoration, place: SecretId) {
        self.push(Wish::Prepare(restoration, place));
    }
    fn wipe(&mut self, place: SecretId) {
        self.push(Wish::Wipe(place));
    }
    fn keeps(&self, owner: Owner) -> Option<([u8; 16], [u8; 16])> {
        (self.keeps)(owner)
    }
    fn sent(&mut self, sequence: u64) {
        self.push(Wish::Sent(sequence));
    }
    fn remember(&mut self, restoration: Option<Restoration>) {
        self.push(Wish::Remember(restoration));
    }
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent) {
        self.push(Wish::Journal(who, event));
    }
    fn reply(&mut self, caller: Caller, answer: Answer) {
        self.push(Wish::Reply(caller, answer));
    }
    fn serve(&mut self, owner: Owner) {
        self.push(Wish::Serve(owner));
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// The transfer under way: for checkers.
    #[must_use]
    pub fn transfer_state(&self) -> State {
        self.transfer.state()
    }

    /// Takes a restoration up where the last run left it.
    pub(super) fn take_up_transfer(&mut self, restoration: Restoration) {
        self.transfer.machine = Transfer::loaded(restoration);
        self.transfer.restoration = Some(restoration);
        self.mark_importing();
    }

    pub(super) const fn is_transfer_dirty(&self) -> bool {
        self.transfer.dirty || self.reception.is_dirty() || self.clustering.is_dirty()
    }

    /// An order about an export or a file to restore.
    pub(super) fn order_transfer(&mut self, caller: Caller, order: TransferOrder) {
        match order {
            TransferOrder::Export { .. } | TransferOrder::Package { .. } => match self.plan_export(order) {
                Ok(export) => self.transfer_event(TransferEvent::ExportOrdered { caller, export }),
                Err(refusal) => self.refuse_transfer(caller, order, refusal),
            },
            TransferOrder::Restore { slot, uid, key_id, file, passphrase } => {
                match self.plan_restore(slot, passphrase) {
                    Ok((owner, passphrase)) => {
                        let restoration = Restoration { owner, uid, key_id, file, reached: Reached::Preparing };
                        self.transfer_event(TransferEvent::RestoreOrdered { caller, restoration, passphrase });
                    }
                    Err(refusal) => self.refuse_transfer(caller, order, refusal),
                }
            }
            TransferOrder::Receive { hash, slots } => self.receive(caller, hash, slots),
            TransferOrder::Apply { hash } => self.apply(caller, hash),
            TransferOrder::EndReceive => self.end_reception(caller),
            TransferOrder::Abandon { file } if self.is_receiving() => self.abandon_reception(caller, file),
            TransferOrder::Abandon { file } => {
                let open = self.restored_slot().is_some_and(|slot| self.is_active(slot));
                self.transfer_event(TransferEvent::AbandonOrdered { caller, file, open });
            }
            // Whoever orders something of a token that is not open would wait for who knows how long.
            TransferOrder::Import { .. } | TransferOrder::EndRestore if self.is_restored_slot_closed() => {
                let refused = AuditEvent::Refused(order.kind(), Refusal::SlotNotActive);
                self.outbox.journal_service(Some(caller.who), refused);
                self.reply(caller, Answer::Refused(Refusal::SlotNotActive));
            }
            TransferOrder::Import { slot, file } => {
                let Some(entry) = self.entries.get(usize::from(slot.0)) else { return };
                let owner = entry.data.owner;
                self.transfer_event(TransferEvent::ImportOrdered { caller, owner, file });
            }
            TransferOrder::EndRestore => self.transfer_event(TransferEvent::EndOrdered { caller }),
            TransferOrder::Count { slot } => self.count_keys(slot, caller),
        }
    }

    /// The slot that something is being restored into.
    pub(super) fn restored_owner(&self) -> Option<Owner> {
        self.transfer.machine.restoration().map(|found| found.owner)
    }

    fn restored_slot(&self) -> Option<SlotId> {
        self.restored_owner().and_then(|owner| self.slot_of(owner))
    }

    /// Whether a step is at the token of a slot that is not active any more.
    fn is_at_closed_token(&self) -> bool {
        matches!(self.transfer.state(), State::AtToken { .. }) && self.is_restored_slot_closed()
    }

    /// Whether something is being restored into a slot that is not active.
    fn is_restored_slot_closed(&self) -> bool {
        self.restored_slot().is_some_and(|slot| !self.is_active(slot))
    }

    pub(super) fn is_active(&self, slot: SlotId) -> bool {
        matches!(self.slot_state(slot), Some(SlotState::Active { .. }))
    }

    /// Has the keys of a slot counted; there is no record of it, since nothing changes.
    fn count_keys(&mut self, slot: SlotId, caller: Caller) {
        let Some(entry) = self.entries.get(usize::from(slot.0)) else { return };
        let refusal = if !matches!(entry.machine.state(), SlotState::Active { .. }) {
            Refusal::SlotNotActive
        } else if self.cards.is_unheard(slot) {
            Refusal::SlotDoubtful
        } else if self.transfer.counting.is_full() || self.transfer.counting.iter().any(|(_, at, _)| *at == slot) {
            Refusal::Busy
        } else {
            let uid = entry.data.record.uid;
            let ticket = self.outbox.service_ticket();
            self.outbox.act(Act::Hsm { ticket, slot, call: HsmCall::Inventory { uid } });
            // It was not full.
            let _ = self.transfer.counting.push((ticket, slot, caller));
            return;
        };
        self.reply(caller, Answer::Refused(refusal));
    }

    /// Whether this was a count of keys.
    pub(super) fn counted(&mut self, ticket: Ticket, outcome: Outcome) -> bool {
        let Some(place) = self.transfer.counting.iter().position(|(found, ..)| *found == ticket) else { return false };
        let (_, slot, caller) = self.transfer.counting.swap_remove(place);
        let answer = match outcome {
            Outcome::Hsm(Ok(HsmAnswer::Counted(counts))) => {
                if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
                    entry.data.key_counts = Some(counts);
                }
                Answer::Done
            }
            Outcome::Hsm(Err(failure)) => Answer::Failed(failure.fault(Function::FindObjects)),
            Outcome::Hsm(Ok(_))
            | Outcome::Random(_)
            | Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::File(_)
            | Outcome::FileChecked(_)
            | Outcome::Zeroized(_) => Answer::Failed(Fault::ModuleLies(Function::FindObjects)),
        };
        self.reply(caller, answer);
        true
    }

    /// Refused before anything began; the passphrase goes.
    fn refuse_transfer(&mut self, caller: Caller, order: TransferOrder, refusal: Refusal) {
        for id in (Command::Transfer { order }).secrets().into_iter().flatten() {
            self.outbox.act(Act::Wipe(id));
        }
        self.refuse_package(caller, order.kind(), refusal);
    }

    fn plan_export(&self, order: TransferOrder) -> Result<Export, Refusal> {
        let (slots, purpose, passphrase) = match order {
            TransferOrder::Export { .. } if self.is_receiving() => return Err(Refusal::TransferUnderWay),
            TransferOrder::Export { slots, left_out, passphrase } => (slots, Purpose::Backup { left_out }, passphrase),
            TransferOrder::Package { targets, roster_epoch, slots } => {
                (slots, self.plan_package(targets, roster_epoch)?, None)
            }
            TransferOrder::Import { .. }
            | TransferOrder::EndRestore
            | TransferOrder::Count { .. }
            | TransferOrder::Receive { .. }
            | TransferOrder::Apply { .. }
            | TransferOrder::EndReceive
            | TransferOrder::Abandon { .. }
            | TransferOrder::Restore { .. } => return Err(Refusal::NoSlotChosen),
        };
        let (set_id, key_id) = match (self.cards.level, purpose, passphrase) {
            // Other members have the backup key of cards, and no passphrase.
            (SecurityLevel::None, _, _) | (SecurityLevel::Passphrase, Purpose::Package { .. }, _) => {
                return Err(Refusal::ExportLevelNone);
            }
            (SecurityLevel::Cards, _, Some(_)) => return Err(Refusal::PassphraseNotWanted),
            (SecurityLevel::Cards, _, None) => {
                let current = self.cards.backup.current.ok_or(Refusal::NoBackupKey)?;
                (current.id, current.key_id)
            }
            (SecurityLevel::Passphrase, Purpose::Backup { .. }, None) => return Err(Refusal::PassphraseMissing),
            (SecurityLevel::Passphrase, Purpose::Backup { .. }, Some(id)) => {
                self.safe.with(id, code::check_passphrase).ok_or(Refusal::PassphraseMissing)??;
                // It is named once it is made.
                ([0; 16], [0; 16])
            }
        };
        if self.cards.ceremony().is_some() {
            return Err(Refusal::CeremonyUnderWay);
        }
        // A package without keys says what is known of them.
        if slots == SlotSet::NONE && matches!(purpose, Purpose::Backup { .. }) {
            return Err(Refusal::NoSlotChosen);
        }
        for slot in slots.slots() {
            let entry = self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
            if !matches!(entry.machine.state(), SlotState::Active { .. }) {
                return Err(Refusal::SlotNotActive);
            }
            if self.cards.is_unheard(slot) {
                return Err(Refusal::SlotDoubtful);
            }
            // Right after a ceremony nobody knows yet; the token says it itself.
            if passphrase.is_none() && entry.data.backup_key == Some(false) {
                return Err(Refusal::SlotWithoutBackupKey);
            }
        }
        Ok(Export { slots, set_id, key_id, purpose, passphrase })
    }

    /// What a file was protected by where it was made has to be what this appliance asks for: a file of a
    /// weaker level would bring keys in that its cards never saw.
    fn plan_restore(&self, slot: SlotId, passphrase: Option<SecretId>) -> Result<(Owner, SecretId), Refusal> {
        match self.cards.level {
            SecurityLevel::None => return Err(Refusal::ExportLevelNone),
            SecurityLevel::Cards => return Err(Refusal::FileOfOtherLevel),
            SecurityLevel::Passphrase => {}
        }
        if self.is_receiving() {
            return Err(Refusal::TransferUnderWay);
        }
        let entry = self.entries.get(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
        if !matches!(entry.machine.state(), SlotState::Active { .. }) {
            return Err(Refusal::SlotNotActive);
        }
        if self.cards.is_unheard(slot) {
            return Err(Refusal::SlotDoubtful);
        }
        let id = passphrase.ok_or(Refusal::PassphraseMissing)?;
        self.safe.with(id, |_| ()).ok_or(Refusal::PassphraseMissing)?;
        Ok((entry.data.owner, id))
    }

    /// The restoration that the ceremony under way is for.
    pub(super) fn restoring(&self) -> Option<Restoration> {
        let command = self.cards.ceremony()?.command();
        let Command::Cards { order } = command else { return None };
        match order.task {
            Task::Restore { slot, uid, key_id, file } => {
                let owner = self.entries.get(usize::from(slot.0))?.data.owner;
                Some(Restoration { owner, uid, key_id, file, reached: Reached::Preparing })
            }
            Task::CreateSet { .. }
            | Task::ChangePin { .. }
            | Task::Reassign { .. }
            | Task::Copy { .. }
            | Task::VerifySet
            | Task::VerifyFile { .. }
            | Task::RestoreKey { .. }
            | Task::ReplaceSet { .. }
            | Task::Rotate { .. }
            | Task::Erase { .. } => None,
        }
    }

    /// A file that was only to be checked is kept no longer, unless something else is using what is spooled.
    pub(super) fn let_go_of_file(&mut self) {
        let Some(Command::Cards { order }) = self.cards.ceremony().map(crate::ceremony::Ceremony::command) else {
            return;
        };
        if matches!(order.task, Task::VerifyFile { .. }) && self.transfer.state() == State::Idle && !self.is_receiving()
        {
            let ticket = self.outbox.service_ticket();
            self.outbox.act(Act::File { ticket, step: FileStep::Discard });
        }
    }

    /// Runs one event of the transfer, and does what it wants.
    pub(super) fn transfer_event(&mut self, event: TransferEvent) {
        let entries = &self.entries;
        let uids = |slot: SlotId| entries.get(usize::from(slot.0)).map_or([0; 16], |entry| entry.data.record.uid);
        let safe = &self.safe;
        let key_ids = |place: SecretId| {
            let mut key = Zeroizing::new([0; derive::KEY_BYTES]);
            let whole = safe.with(place, |bytes| {
                key.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from);
                bytes.len() == derive::KEY_BYTES
            });
            whole.filter(|whole| *whole).map(|_| backup::key_id(&key))
        };
        let kept = self.restored_slot().and_then(|slot| self.kept_unwrap_key(slot));
        let keeps = |_| kept;
        let mut wishes =
            Wishes { list: heapless::Vec::new(), lost: false, uids: &uids, key_ids: &key_ids, keeps: &keeps };
        self.transfer.machine.handle(event, &mut wishes);
        let Wishes { list, lost, .. } = wishes;
        if lost {
            self.outbox.bug(BUG_WISHES);
        }
        self.mark_importing();
        let mut failed = None;
        for wish in list {
            match wish {
                Wish::File(order) => {
                    let ticket = self.outbox.service_ticket();
                    let step = match order {
                        FileOrder::Begin(_) => FileStep::Begin,
                        FileOrder::Finish => FileStep::Finish,
                        FileOrder::Discard => FileStep::Discard,
                        FileOrder::KeepRoster { .. } => FileStep::KeepRoster,
                        FileOrder::Received { .. } => FileStep::Received,
                        FileOrder::Stretch { .. } => FileStep::Stretch,
                        FileOrder::Check { .. } => FileStep::Check,
                    };
                    self.outbox.act(Act::File { ticket, step });
                    if order != FileOrder::Discard {
                        self.await_transfer(ticket, None, TRANSFER_DEADLINE_MS);
                    }
                }
                Wish::Sent(sequence) => self.clustering.sent(sequence),
                Wish::Call(slot, call) => self.call_for_transfer(slot, call),
                Wish::CallOf(owner, call) => {
                    if let Some(slot) = self.slot_of(owner) {
                        self.call_for_transfer(slot, call);
                    }
                }
                Wish::Remember(restoration) => {
                    self.transfer.restoration = restoration;
                    self.transfer.dirty = true;
                }
                Wish::Journal(who, event) => {
                    let slot = self.transfer.machine.restoration().and_then(|found| self.slot_of(found.owner));
                    self.outbox.journal_order(who, slot, event);
                }
                Wish::Reply(caller, answer) => self.reply(caller, answer),
                Wish::Serve(owner) => {
                    if let Some(slot) = self.slot_of(owner) {
                        self.slot_event(slot, SlotEvent::ServeOrdered);
                    }
                }
                Wish::ExportOnce(slot, key_id, place) => {
                    let uid = self.slot_record(slot).map_or([0; 16], |record| record.uid);
                    match self.derived(place, &uid) {
                        Ok(once) => {
                            self.call_for_transfer(slot, HsmCall::ExportSection { key_id, uid, once: Some(once) });
                            once.into_iter().for_each(|id| self.outbox.act(Act::Wipe(id)));
                        }
                        Err(refusal) => failed = Some(refusal),
                    }
                }
                Wish::Prepare(Restoration { owner, uid, key_id, .. }, place) => {
                    match (self.derived(place, &uid), self.slot_of(owner)) {
                        (Ok([kek, mak]), Some(slot)) => {
                            self.call_for_transfer(slot, HsmCall::PrepareImport { key_id, uid, kek, mak });
                            [kek, mak].into_iter().for_each(|id| self.outbox.act(Act::Wipe(id)));
                        }
                        (Ok(keys), None) => {
                            keys.into_iter().for_each(|id| self.safe.wipe(id));
                            failed = Some(Refusal::UnknownSlot);
                        }
                        (Err(refusal), _) => failed = Some(refusal),
                    }
                    self.outbox.act(Act::Wipe(place));
                }
                Wish::Wipe(place) => self.outbox.act(Act::Wipe(place)),
            }
        }
        if let Some(refusal) = failed {
            // As if the token had said it: the call was not made.
            self.transfer_event(TransferEvent::TokenDone(Err(HsmFailure::Refused(refusal))));
        }
    }

    /// KEK and MAK of a slot, in places of their own.
    fn derived(&mut self, backup_key: SecretId, uid: &[u8; 16]) -> Result<[SecretId; 2], Refusal> {
        let backup_key = self.secret(backup_key).ok_or(Refusal::PassphraseMissing)?;
        let kek = self.safe.reserve()?;
        let mak = self.safe.reserve().inspect_err(|_| self.safe.wipe(kek))?;
        for (id, derive) in [(kek, backup::kek as fn(&[u8; 32], &[u8; 16], &mut [u8; 32])), (mak, backup::mak)] {
            let mut key = Zeroizing::new([0; 32]);
            derive(&backup_key, uid, &mut key);
            self.put(id, key.as_slice());
        }
        Ok([kek, mak])
    }

    /// Places of the Safe that the transfer owns.
    pub(super) fn transfer_secrets(&self) -> usize {
        usize::from(self.transfer.machine.secret().is_some())
    }

    /// A step at a file with what it begins with, which does not change before it was answered.
    pub(super) fn file_order(&self, step: FileStep) -> FileOrder {
        match (step, self.transfer.state()) {
            (FileStep::KeepRoster, _) => self.roster_order(),
            (FileStep::Received, _) => self.received_order(),
            (FileStep::Begin, State::Beginning { export, .. }) => FileOrder::Begin(export),
            (FileStep::Finish, _) => FileOrder::Finish,
            (FileStep::Stretch, State::Stretching { export: Export { passphrase: Some(passphrase), .. }, .. }) => {
                FileOrder::Stretch { passphrase, of: Salt::New }
            }
            (FileStep::Stretch, State::Unlocking { passphrase, .. }) => {
                FileOrder::Stretch { passphrase, of: Salt::Spooled }
            }
            (FileStep::Check, _) => {
                // Cancelled before it went out: no file is named, and nobody waits for the answer.
                let nothing = ([0; 32], SecretId::NONE);
                let wanted = self.cards.ceremony().and_then(crate::ceremony::Ceremony::file_to_check);
                let (hash, backup_key) = wanted.unwrap_or(nothing);
                FileOrder::Check { hash, backup_key }
            }
            (FileStep::Begin | FileStep::Discard | FileStep::Stretch, _) => FileOrder::Discard,
        }
    }

    pub(super) fn call_for_transfer(&mut self, slot: SlotId, call: HsmCall) {
        let ticket = self.outbox.service_ticket();
        self.outbox.act(Act::Hsm { ticket, slot, call });
        self.await_transfer(ticket, Some(slot), TRANSFER_DEADLINE_MS);
    }

    pub(super) fn await_transfer(&mut self, ticket: Ticket, slot: Option<SlotId>, wait_ms: u64) {
        self.transfer.awaited = Some((ticket, slot, self.now.after_ms(wait_ms)));
    }

    /// Whether the transfer waits for this effect; it does so no more.
    pub(super) fn take_transfer_ticket(&mut self, ticket: Ticket) -> bool {
        match self.transfer.awaited {
            Some((awaited, ..)) if awaited == ticket => {
                self.transfer.awaited = None;
                true
            }
            Some(_) | None => false,
        }
    }

    pub(super) fn transfer_call_done(&mut self, outcome: Outcome) {
        if self.is_receiving() {
            return self.reception_call_done(outcome);
        }
        match outcome {
            // A slot that was closed meanwhile says so in the words of its token.
            Outcome::Hsm(Err(failure)) if !matches!(failure, HsmFailure::Refused(_)) && self.is_at_closed_token() => {
                self.transfer_event(TransferEvent::SlotClosed(Refusal::SlotNotActive));
            }
            Outcome::Hsm(result) => {
                let drops = matches!(self.transfer.state(), State::AtToken { step: Step::Drop, .. });
                let kept = drops && result != Ok(HsmAnswer::UnwrapKeyDropped);
                self.transfer.again_ms = kept.then(|| self.now.after_ms(DROP_AGAIN_MS));
                self.transfer_event(TransferEvent::TokenDone(result));
            }
            Outcome::File(result) => self.transfer_event(TransferEvent::FileDone(result)),
            Outcome::Random(_)
            | Outcome::Unsealed(_)
            | Outcome::Application(_)
            | Outcome::Card(_)
            | Outcome::FileChecked(_)
            | Outcome::Zeroized(_) => {
                let failed = HsmFailure::Pkcs11 { code: crate::fault::rv::DEVICE_ERROR, function: Function::Other };
                self.transfer_event(TransferEvent::TokenDone(Err(failed)));
            }
        }
    }

    pub(super) fn transfer_due_ms(&self) -> Option<u64> {
        let of_call = self.transfer.awaited.map(|(_, _, due_ms)| due_ms);
        let of_slot = [self.transfer.again_ms, self.transfer.patience_ms];
        [of_call, self.clustering.due_ms()].into_iter().chain(of_slot).flatten().min()
    }

    /// Ends waits whose time is over. Only the device ends a call: the slot gets no other one of
    /// this kind before it is heard (P44).
    pub(super) fn tick_transfer(&mut self) {
        let now_ms = self.now.mono_ms;
        // What follows of it comes at the end of the turn.
        self.transfer.again_ms = self.transfer.again_ms.filter(|at_ms| *at_ms > now_ms);
        if self.transfer.patience_ms.is_some_and(|due_ms| due_ms <= now_ms) {
            self.transfer.patience_ms = None;
            let why = match self.restored_slot() {
                Some(slot) if self.is_active(slot) => Refusal::SlotDoubtful,
                Some(_) | None => Refusal::SlotNotActive,
            };
            self.transfer_event(TransferEvent::SlotClosed(why));
        }
        let Some((ticket, slot, due_ms)) = self.transfer.awaited else { return };
        if due_ms > now_ms {
            return;
        }
        if self.is_receiving() {
            return self.tick_reception(ticket, slot);
        }
        match (slot, self.transfer.state()) {
            (Some(slot), State::AtSection { .. }) => {
                self.transfer.awaited = None;
                self.cards.note_unheard(ticket, slot);
                self.transfer_event(TransferEvent::DeadlinePassed);
            }
            (None, _) => {
                self.transfer.awaited = None;
                self.transfer_event(TransferEvent::FileDone(Err(Fault::StoreFailed)));
            }
            // A restoration goes on when the token is heard; only whoever waits is told.
            (Some(_), _) => {
                self.transfer.awaited = Some((ticket, slot, u64::MAX));
                self.transfer_event(TransferEvent::DeadlinePassed);
            }
        }
    }

    pub(super) fn transfer_lost_worker(&mut self) {
        while let Some((_, _, caller)) = self.transfer.counting.pop() {
            self.reply(caller, Answer::Failed(Fault::WorkerLost(Function::FindObjects)));
        }
        if self.transfer.awaited.is_some_and(|(_, slot, _)| slot.is_some()) {
            self.transfer.awaited = None;
            if self.is_receiving() {
                self.reception_event(ReceptionEvent::WorkerLost);
            } else {
                self.transfer_event(TransferEvent::WorkerLost);
            }
        }
    }

    /// The ceremony that gathered cards is over, or the slot is ready for the next step.
    pub(super) fn go_on_with_transfer(&mut self) {
        self.go_on_with_reception();
        if matches!(self.transfer.state(), State::Preparing { .. }) && self.restoring().is_none() {
            self.transfer_event(TransferEvent::CeremonyEnded);
        }
        if self.transfer.machine.waits_for().is_some() {
            self.go_on_at_slot();
        } else {
            (self.transfer.again_ms, self.transfer.patience_ms) = (None, None);
        }
    }

    /// Takes the next step where its slot is active; where it is not, nobody waits for it without end.
    fn go_on_at_slot(&mut self) {
        let Some(slot) = self.restored_slot() else {
            self.transfer_event(TransferEvent::SlotClosed(Refusal::UnknownSlot));
            return;
        };
        let active = self.is_active(slot);
        if !active {
            self.transfer.again_ms = None;
        }
        if active && self.worker && self.halted.is_none() && !self.cards.is_unheard(slot) {
            if self.transfer.again_ms.is_none() {
                self.transfer.patience_ms = None;
                self.transfer_event(TransferEvent::SlotReady);
            }
        } else if !self.transfer.machine.is_awaited() {
            self.transfer.patience_ms = None;
        } else if active || self.slot_state(slot).is_some_and(|state| state.is_working()) {
            let until_ms = self.now.after_ms(SLOT_PATIENCE_MS);
            self.transfer.patience_ms.get_or_insert(until_ms);
        } else {
            self.transfer.patience_ms = None;
            self.transfer_event(TransferEvent::SlotClosed(Refusal::SlotNotActive));
        }
    }

    pub(super) fn slot_of(&self, owner: Owner) -> Option<SlotId> {
        self.entries.iter().find(|entry| entry.data.owner == owner).map(|entry| entry.data.id)
    }

    /// While an import is under way no application gets the PIN of its slot.
    pub(super) fn mark_importing(&mut self) {
        let received = self.reception.making();
        let making = self.transfer.machine.restoration().filter(|found| found.reached == Reached::Committed);
        for entry in &mut self.entries {
            let restored = making.is_some_and(|found| found.owner == entry.data.owner);
            entry.data.importing = restored || received.has(entry.data.id);
        }
    }

    pub(super) fn transfer_status(&self) -> Option<TransferStatus> {
        let restoration = self.transfer.machine.restoration();
        if let Some((stage, slot)) = self.reception_stage() {
            return Some(TransferStatus { stage, slot, file: self.reception_hash(), package: true });
        }
        let package = match self.transfer.state() {
            State::Stretching { export, .. }
            | State::Beginning { export, .. }
            | State::AtSection { export, .. }
            | State::Finishing { export, .. } => matches!(export.purpose, Purpose::Package { .. }),
            State::Idle
            | State::Unlocking { .. }
            | State::Proving { .. }
            | State::Preparing { .. }
            | State::Prepared { .. }
            | State::Waiting { .. }
            | State::AtToken { .. }
            | State::Halfway { .. } => false,
        };
        let (stage, slot) = match self.transfer.state() {
            State::Idle => return None,
            State::Stretching { .. } | State::Beginning { .. } | State::Finishing { .. } => {
                (TransferStage::Exporting, None)
            }
            State::AtSection { slot, .. } => (TransferStage::Exporting, Some(slot)),
            State::Unlocking { .. } | State::Proving { .. } | State::Preparing { .. } => {
                (TransferStage::Preparing, None)
            }
            State::Prepared { plan, .. } => (TransferStage::Prepared(plan), None),
            State::Waiting { step: Step::Import { .. }, .. } | State::AtToken { step: Step::Import { .. }, .. } => {
                (TransferStage::Importing, None)
            }
            State::Waiting { step: Step::Drop, .. } | State::AtToken { step: Step::Drop, .. } => {
                (TransferStage::Ending, None)
            }
            State::Halfway { why, .. } => (TransferStage::Halfway(why), None),
        };
        let slot = slot.or_else(|| restoration.and_then(|found| self.slot_of(found.owner)));
        Some(TransferStatus { stage, slot, file: restoration.map(|found| found.file), package })
    }
}
