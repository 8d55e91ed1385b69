//! The door: which orders enter, and to which machine they go.

use super::entry::Entry;
use super::{Phase, Service};
use crate::approval::Standing;
use crate::audit::AuditEvent;
use crate::ceremony::event::CeremonyEvent;
use crate::command::{Answer, Caller, Command, CommandKind};
use crate::effect::{Input, Room, SlotId};
use crate::fault::Refusal;
use crate::limits::STOP_DEADLINE_MS;
use crate::outbox::Act;
use crate::person::PersonId;
use crate::slot::SlotEvent;
use crate::turn::Out;

/// A refusal at the door that repeats within this time is journaled once, milliseconds; and of
/// one person no more than [`REFUSED_NOTED_MAX`] are.
const REFUSED_AGAIN_MS: u64 = 60_000;
/// More than a person who means it is refused within a minute.
const REFUSED_NOTED_MAX: u8 = 8;
/// More people than are refused within a minute where nobody means harm.
pub(super) const REFUSED_PERSONS_MAX: usize = 8;

/// What was written down lately of one person's refusals at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RefusedLately {
    who: PersonId,
    last: (CommandKind, Refusal),
    noted: u8,
    until_ms: u64,
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Takes a command in, or refuses it at the door with its secrets wiped.
    pub(super) fn admit(&mut self, caller: Caller, command: Command) -> Result<(), Refusal> {
        let standing = self.may_enter(caller, command).and_then(|()| self.standing(caller.who, &command));
        if !matches!(standing, Ok(Standing::Approved)) {
            self.wipe_secrets(&command);
        }
        let standing =
            standing.inspect_err(|refusal| self.note_refused_at_door(caller.who, command.kind(), *refusal))?;
        self.open.push(caller.reply).map_err(|_| Refusal::TooManyCommands)?;
        match standing {
            Standing::Approved => self.dispatch(caller, command),
            Standing::Waits { id, code } => self.reply(caller, Answer::NeedsApproval { id, code }),
        }
        Ok(())
    }

    /// A refusal at the door is written down, but not over and over: whoever may not do
    /// something must not be able to fill the log with it.
    pub(super) fn note_refused_at_door(&mut self, who: PersonId, kind: CommandKind, refusal: Refusal) {
        if self.phase != Phase::Running || self.outbox.is_half_full() {
            return;
        }
        let now_ms = self.now.mono_ms;
        self.refused.retain(|lately| now_ms < lately.until_ms);
        let until_ms = self.now.after_ms(REFUSED_AGAIN_MS);
        match self.refused.iter_mut().find(|lately| lately.who == who) {
            Some(lately) if lately.last == (kind, refusal) || lately.noted == REFUSED_NOTED_MAX => return,
            Some(lately) => {
                lately.last = (kind, refusal);
                lately.noted = lately.noted.saturating_add(1);
            }
            None => {
                let first = RefusedLately { who, last: (kind, refusal), noted: 1, until_ms };
                if self.refused.push(first).is_err() {
                    return;
                }
            }
        }
        self.outbox.journal_service(Some(who), AuditEvent::Refused(kind, refusal));
    }

    pub(super) fn may_enter(&self, caller: Caller, command: Command) -> Result<(), Refusal> {
        match self.phase {
            Phase::Loading => return Err(Refusal::NotStarted),
            Phase::Stopping { .. } | Phase::Stopped => return Err(Refusal::Stopping),
            Phase::Zeroizing(_) => return Err(Refusal::Zeroizing),
            Phase::Running => {}
        }
        let kind = command.kind();
        if !self.may(caller.who, kind) {
            return Err(Refusal::NotAllowed);
        }
        let always = matches!(
            kind,
            CommandKind::Deactivate
                | CommandKind::Stop
                | CommandKind::EndCall
                | CommandKind::CancelCeremony
                | CommandKind::Zeroize
        ) || self.approves_zeroize(&command);
        if self.halted.is_some() && !always {
            return Err(Refusal::Halted);
        }
        if self.room == Room::Reserve && !always && kind != CommandKind::Boot {
            return Err(Refusal::DiskReserve);
        }
        if command.slot().is_some_and(|slot| usize::from(slot.0) >= self.entries.len()) {
            return Err(Refusal::UnknownSlot);
        }
        if self.open.is_full() || self.open.contains(&caller.reply) {
            return Err(Refusal::TooManyCommands);
        }
        if self.outbox.is_half_full() && !matches!(kind, CommandKind::Stop | CommandKind::Zeroize) {
            return Err(Refusal::OutboxFull);
        }
        Ok(())
    }

    pub(super) fn dispatch(&mut self, caller: Caller, command: Command) {
        // What is typed from here on is of no set of cards.
        if let Some(entry) = command.slot().and_then(|slot| self.entries.get_mut(usize::from(slot.0))) {
            entry.data.so_tried_set = None;
        }
        match command {
            Command::Boot => {
                // As many callers as open commands, in a table of the same capacity.
                let _ = self.boot_callers.push(caller);
                for slot in self.slots() {
                    self.slot_event(slot, SlotEvent::BootOrdered);
                }
            }
            Command::Stop => {
                let deadline_ms = self.now.after_ms(STOP_DEADLINE_MS);
                self.outbox.journal_service(Some(caller.who), AuditEvent::Ordered(CommandKind::Stop));
                self.ceremony_event(CeremonyEvent::CancelOrdered { who: None });
                self.phase = Phase::Stopping { caller, deadline_ms };
            }
            Command::Zeroize => self.zeroize(caller),
            Command::EndCall { slot } => self.end_call(slot, caller),
            Command::Approve { id, code } => self.approve(id, code, caller),
            Command::Withdraw { id } => self.withdraw(id, caller),
            Command::DualControl { on } => self.switch_dual_control(on, caller),
            Command::AdoptConfiguration { digest } => self.adopt_configuration(digest, caller),
            Command::Activate { slot, .. } if self.opens_with_cards(slot) => self.start_ceremony(caller, command),
            Command::Mode { slot, .. } | Command::Split { slot, .. } if self.opens_with_cards(slot) => {
                self.start_ceremony(caller, command);
            }
            Command::Cards { .. }
            | Command::SlotCards { .. }
            | Command::AdministratorCards { .. }
            | Command::BySoCards { .. } => self.start_ceremony(caller, command),
            Command::Transfer { order } => self.order_transfer(caller, order),
            Command::Cluster { order } => self.order_cluster(caller, order),
            Command::CardLost { serial, credential } => self.card_lost(caller, serial, credential),
            Command::AnswerCeremony { id, yes, confirmed } => self.answer_ceremony(caller, id, yes, confirmed),
            Command::CancelCeremony { id } => self.cancel_ceremony(caller, id),
            Command::Activate { slot, code, confirmed } => self.activate(slot, caller, code, confirmed),
            Command::Deactivate { slot } => self.slot_event(slot, SlotEvent::DeactivateOrdered { caller }),
            Command::Init { slot, so_pin, free_slot, confirmed } => {
                self.slot_event(slot, SlotEvent::InitOrdered { caller, so_pin, free_slot, confirmed });
            }
            Command::Unblock { slot, so_pin, to, new_code, confirmed, accept } => {
                // What people were entering leads nowhere any more.
                self.supersede_collection(slot);
                self.slot_event(slot, SlotEvent::UnblockOrdered { caller, so_pin, to, new_code, confirmed, accept });
            }
            Command::Decommission { slot, so_pin, confirmed, accept } => {
                self.supersede_collection(slot);
                self.slot_event(slot, SlotEvent::DecommissionOrdered { caller, so_pin, confirmed, accept });
            }
            Command::ChangeCode { slot, code, new_code, confirmed, accept } => {
                self.change_code(slot, caller, [code, new_code], (confirmed, accept));
            }
            Command::Mode { slot, to, parts, code, new_code, confirmed, accept } => {
                self.mode(slot, caller, (to, parts), [code, new_code], (confirmed, accept));
            }
            Command::Split { slot, quorum, custodians, code, confirmed, accept } => {
                self.split(slot, caller, (quorum, custodians), code, (confirmed, accept));
            }
            Command::Share { slot, code, confirmed } => self.share(slot, caller, code, confirmed),
            Command::Reset { slot } => self.reset(slot, caller),
        }
    }

    pub(super) fn end_call(&mut self, slot: SlotId, caller: Caller) {
        let silent = self.entries.get(usize::from(slot.0)).is_some_and(Entry::is_unanswered);
        let unanswered = silent || self.cards.is_unheard(slot);
        // A kill inside another slot's C_SetPIN could destroy its token; that call has a deadline.
        let another_changes = self.entries.iter().any(Entry::is_changing_its_token) || self.ceremony_changes_a_token();
        if !unanswered || another_changes {
            let refusal = if unanswered { Refusal::Busy } else { Refusal::CallNotUnanswered };
            self.outbox.journal(Some(caller.who), slot, AuditEvent::Refused(CommandKind::EndCall, refusal));
            self.reply(caller, Answer::Refused(refusal));
            return;
        }
        self.outbox.journal(Some(caller.who), slot, AuditEvent::Ordered(CommandKind::EndCall));
        self.outbox.act(Act::EndWorker);
        let _ = self.end_callers.push(caller);
    }

    pub(super) fn refuse_at_door(&mut self, input: &Input, refusal: Refusal) -> Result<(), Refusal> {
        let Input::Command { command, .. } = input else { return Ok(()) };
        self.wipe_secrets(command);
        Err(refusal)
    }

    fn wipe_secrets(&mut self, command: &Command) {
        for id in command.secrets().into_iter().flatten() {
            self.safe.wipe(id);
        }
    }
}
