//! Instead of `cards`, `ceremonies` and `judge` where the feature `cards` is off: for a board
//! without readers, whose memory the tables of cards would fill. Orders about cards are refused
//! as they are at any other appliance security level; nothing about cards is kept, and what a
//! store has of them is left as it is.

use super::Service;
use crate::audit::CeremonyEnd;
use crate::card::registry::CardEntry;
use crate::card::sets::{CardSets, SetSubject};
use crate::card::{CardCall, CardSerial, Credential, ReaderEvent, ReaderId};
use crate::ceremony::Ceremony;
use crate::ceremony::event::CeremonyEvent;
use crate::ceremony::order::CeremonyId;
use crate::cluster::ClusterOrder;
use crate::command::{Answer, Caller, Command, CommandKind};
use crate::effect::{Outcome, SlotId, Ticket};
use crate::fault::Refusal;
use crate::outbox::Act;
use crate::reception::Reception;
use crate::record::Record;
use crate::status::{BackupStatus, CeremonyStatus, ClusterStatus, TransferStatus};
use crate::time::Now;
use crate::transfer::{FileOrder, FileStep, Restoration, TransferOrder};
use crate::turn::Out;

/// What the service knows about cards: nothing.
pub(super) struct Cards<const SLOTS: usize> {
    pub(super) level: super::SecurityLevel,
    pub(super) cluster: [u8; 16],
    pub(super) registry: Registry,
}

/// The registry of cards: empty.
pub(super) struct Registry;

impl Registry {
    pub(super) fn load(&mut self, _entry: CardEntry) {}

    pub(super) fn entries(&self) -> &[CardEntry] {
        &[]
    }
}

impl<const SLOTS: usize> Cards<SLOTS> {
    pub(super) const fn new() -> Self {
        Cards { level: super::SecurityLevel::None, cluster: [0; 16], registry: Registry }
    }

    pub(super) const fn load_cluster(&mut self, cluster: [u8; 16]) {
        self.cluster = cluster;
    }

    pub(super) fn load_sets(&mut self, _subject: SetSubject, _sets: CardSets) {}

    pub(super) fn sets(&self, _subject: SetSubject) -> Option<&CardSets> {
        None
    }

    pub(super) fn is_unheard(&self, _slot: SlotId) -> bool {
        false
    }

    pub(super) fn is_dirty(&self) -> bool {
        false
    }

    pub(super) fn take_record(&mut self) -> Option<Record> {
        None
    }

    pub(super) fn ceremony(&self) -> Option<&Ceremony> {
        None
    }

    pub(super) fn take_call(&mut self, _ticket: Ticket) -> Option<CardCall> {
        None
    }

    pub(super) fn arm(&mut self, _reader: ReaderId, _ticket: Ticket, _call: &CardCall, _now: Now) {}

    pub(super) fn due_ms(&self) -> Option<u64> {
        None
    }

    pub(super) fn secrets(&self) -> usize {
        0
    }

    pub(super) fn drop_ceremony(&mut self) {}

    pub(super) fn status(&self, _now: Now) -> Option<CeremonyStatus> {
        None
    }

    pub(super) const fn last(&self) -> Option<(CeremonyId, CommandKind, CeremonyEnd)> {
        None
    }

    pub(super) fn backup_status(&self) -> Option<BackupStatus> {
        None
    }
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    pub(super) fn reader_event(&mut self, _reader: ReaderId, _event: ReaderEvent) {}

    pub(super) fn card_done(&mut self, _ticket: Ticket, _outcome: Outcome) -> bool {
        false
    }

    pub(super) fn service_call_done(&mut self, _ticket: Ticket, _outcome: Outcome) -> bool {
        false
    }

    pub(super) fn tick_cards(&mut self) {}

    pub(super) fn let_cards_go(&mut self) {}

    pub(super) fn ceremony_lost_worker(&mut self) {}

    pub(super) fn settle_card_sets(&mut self) {}

    pub(super) fn keep_backup_keys(&mut self) {}

    pub(super) fn ceremony_event(&mut self, _event: CeremonyEvent) {}

    pub(super) fn close_transcript(&mut self, _end: CeremonyEnd) -> Option<Caller> {
        None
    }

    pub(super) fn ceremony_changes_a_token(&self) -> bool {
        false
    }

    pub(super) fn are_lines_due(&self) -> bool {
        false
    }

    pub(super) fn opens_with_cards(&self, _slot: SlotId) -> bool {
        false
    }

    pub(super) fn start_ceremony(&mut self, caller: Caller, command: Command) {
        for id in command.secrets().into_iter().flatten() {
            self.outbox.act(Act::Wipe(id));
        }
        self.without_cards(caller, command.kind());
    }

    pub(super) fn card_lost(&mut self, caller: Caller, _serial: CardSerial, _credential: Credential) {
        self.without_cards(caller, CommandKind::CardLost);
    }

    pub(super) fn answer_ceremony(&mut self, caller: Caller, _id: CeremonyId, _yes: bool, _confirmed: bool) {
        self.without_cards(caller, CommandKind::AnswerCeremony);
    }

    pub(super) fn cancel_ceremony(&mut self, caller: Caller, _id: CeremonyId) {
        self.without_cards(caller, CommandKind::CancelCeremony);
    }

    pub(super) fn order_transfer(&mut self, caller: Caller, order: TransferOrder) {
        for id in (Command::Transfer { order }).secrets().into_iter().flatten() {
            self.outbox.act(Act::Wipe(id));
        }
        self.without_cards(caller, order.kind());
    }

    pub(super) fn order_cluster(&mut self, caller: Caller, order: ClusterOrder) {
        self.without_cards(caller, order.kind());
    }

    pub(super) const fn judge_cluster(&self, _order: &ClusterOrder) -> Result<(), Refusal> {
        Ok(())
    }

    pub(super) const fn orders_by_itself(&self, _command: &Command) -> Result<bool, Refusal> {
        Ok(false)
    }

    pub(super) fn take_up_reception(&mut self, _reception: &Reception) {}

    pub(super) fn go_on_with_roster(&mut self) {}

    pub(super) fn tick_cluster(&mut self) {}

    pub(super) const fn cluster_status(&self) -> Option<ClusterStatus> {
        None
    }

    pub(super) fn take_up_transfer(&mut self, _restoration: Restoration) {}

    pub(super) fn file_order(&self, _step: FileStep) -> FileOrder {
        FileOrder::Discard
    }

    pub(super) const fn is_transfer_dirty(&self) -> bool {
        false
    }

    pub(super) fn go_on_with_transfer(&mut self) {}

    pub(super) fn transfer_lost_worker(&mut self) {}

    pub(super) fn tick_transfer(&mut self) {}

    pub(super) const fn transfer_due_ms(&self) -> Option<u64> {
        None
    }

    pub(super) const fn transfer_secrets(&self) -> usize {
        0
    }

    pub(super) const fn transfer_status(&self) -> Option<TransferStatus> {
        None
    }

    fn without_cards(&mut self, caller: Caller, kind: CommandKind) {
        self.note_refused_at_door(caller.who, kind, Refusal::LevelNotCards);
        self.reply(caller, Answer::Refused(Refusal::LevelNotCards));
    }
}
