//! The two-person rule at the door: which orders wait for a second person, and the orders
//! that are about the rule itself.

use super::Service;
use crate::approval::{ApprovalCode, Note, Standing};
use crate::audit::AuditEvent;
use crate::ceremony::event::CeremonyEvent;
use crate::command::{Answer, Caller, Command, CommandKind};
use crate::fault::Refusal;
use crate::outbox::Outbox;
use crate::person::{self, PersonId, Role};
use crate::quorum::{Want, wanted};
use crate::record::{Knows, Mode, PolicyRecord};

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// Whether an order that somebody may give may begin now, or waits for a second person.
    pub(super) fn standing(&mut self, who: PersonId, command: &Command) -> Result<Standing, Refusal> {
        self.is_of_use(command)?;
        // What the protected configuration lets the service do two persons approved with it.
        if who == PersonId::SERVICE && self.orders_by_itself(command)? {
            return Ok(Standing::Approved);
        }
        if !self.policy.dual_control || !person::needs_two(command, self.lowers(command)) {
            return Ok(Standing::Approved);
        }
        let head = self.outbox.chain().head;
        self.approvals.order(who, command, &head, self.now, &mut Journal(&mut self.outbox))
    }

    /// Refuses what would change nothing, before somebody is asked to approve it.
    fn is_of_use(&self, command: &Command) -> Result<(), Refusal> {
        let PolicyRecord { dual_control, configuration } = self.policy;
        match *command {
            Command::DualControl { on } if on == dual_control => Err(Refusal::DualControlAlready),
            Command::DualControl { on: true } if !self.persons.are_two() => Err(Refusal::TooFewPersons),
            Command::AdoptConfiguration { .. } if !dual_control => Err(Refusal::DualControlOff),
            Command::AdoptConfiguration { digest } if digest == configuration => Err(Refusal::ConfigurationSame),
            Command::Cluster { order } => self.judge_cluster(&order),
            Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Boot
            | Command::Activate { .. }
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Init { .. }
            | Command::ChangeCode { .. }
            | Command::Mode { .. }
            | Command::Unblock { .. }
            | Command::Decommission { .. }
            | Command::Split { .. }
            | Command::Share { .. }
            | Command::Reset { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::Cards { .. }
            | Command::SlotCards { .. }
            | Command::AdministratorCards { .. }
            | Command::BySoCards { .. }
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Transfer { .. }
            | Command::Zeroize
            | Command::Stop => Ok(()),
        }
    }

    /// Whether fewer persons would open the slot than now.
    fn lowers(&self, command: &Command) -> bool {
        let new = match command {
            Command::Split { quorum, .. } => quorum.m(),
            Command::Mode { parts: Some(roster), .. } => roster.count(),
            Command::Mode { parts: None, .. } => 1,
            Command::SlotCards { quorum, .. } => quorum.m(),
            Command::Boot
            | Command::Activate { .. }
            | Command::Deactivate { .. }
            | Command::EndCall { .. }
            | Command::Init { .. }
            | Command::ChangeCode { .. }
            | Command::Unblock { .. }
            | Command::Decommission { .. }
            | Command::Share { .. }
            | Command::Reset { .. }
            | Command::Approve { .. }
            | Command::Withdraw { .. }
            | Command::DualControl { .. }
            | Command::AdoptConfiguration { .. }
            | Command::Cards { .. }
            | Command::AdministratorCards { .. }
            | Command::BySoCards { .. }
            | Command::CardLost { .. }
            | Command::AnswerCeremony { .. }
            | Command::CancelCeremony { .. }
            | Command::Transfer { .. }
            | Command::Cluster { .. }
            | Command::Zeroize
            | Command::Stop => return false,
        };
        let entry = command.slot().and_then(|slot| self.entries.get(usize::from(slot.0)));
        entry.is_some_and(|entry| match entry.data.record.mode {
            Mode::Manual => new < wanted(&entry.data, Knows::Current).1,
            Mode::Generated => false,
        })
    }

    pub(super) fn approve(&mut self, id: u32, code: ApprovalCode, caller: Caller) {
        let who = caller.who;
        let ended = match self.persons.place(who) {
            Some(place) => self.approvals.approve(id, who, place, code, self.now, &mut Journal(&mut self.outbox)),
            // The service itself orders boot and stop, and approves nothing.
            None => Err(Refusal::NotAllowed),
        };
        self.ended(CommandKind::Approve, ended, caller);
    }

    /// Whether this approves a zeroize: then it is taken also where nothing else is.
    pub(super) fn approves_zeroize(&self, command: &Command) -> bool {
        matches!(command, Command::Approve { id, .. } if self.approvals.is_about(*id, CommandKind::Zeroize))
    }

    pub(super) fn withdraw(&mut self, id: u32, caller: Caller) {
        let administrator = self.persons.roles(caller.who).has(Role::Administrator);
        let notes = &mut Journal(&mut self.outbox);
        let ended = self.approvals.withdraw(id, caller.who, administrator, self.now, notes);
        self.ended(CommandKind::Withdraw, ended, caller);
    }

    /// Two persons decided it, or one switched it on: see `standing`.
    pub(super) fn switch_dual_control(&mut self, on: bool, caller: Caller) {
        self.policy = PolicyRecord { dual_control: on, configuration: if on { self.in_force } else { [0; 32] } };
        self.policy_dirty = true;
        self.outbox.journal_service(Some(caller.who), AuditEvent::DualControlIs(on));
        if on {
            self.outbox.journal_service(Some(caller.who), AuditEvent::ConfigurationApproved(self.in_force));
            // What one person ordered may need two now: it is ordered anew.
            let alone = self.cards.ceremony().is_some_and(|ceremony| person::needs_two(ceremony.command(), true));
            if alone {
                self.ceremony_event(CeremonyEvent::CancelOrdered { who: None });
            }
            for slot in self.slots() {
                if self.collecting(slot).is_some_and(|collection| collection.order().want != Want::Activate) {
                    self.supersede_collection(slot);
                }
            }
        } else {
            self.approvals.clear(&mut Journal(&mut self.outbox));
        }
        self.ended(CommandKind::DualControl, Ok(()), caller);
    }

    /// Two persons approved the file as it is now. What is in force stays so until the next start.
    pub(super) fn adopt_configuration(&mut self, digest: [u8; 32], caller: Caller) {
        self.policy.configuration = digest;
        self.policy_dirty = true;
        self.offered = digest;
        self.outbox.journal_service(Some(caller.who), AuditEvent::ConfigurationApproved(digest));
        self.ended(CommandKind::AdoptConfiguration, Ok(()), caller);
    }

    pub(super) fn expire_approvals(&mut self) {
        self.approvals.expire(self.now, &mut Journal(&mut self.outbox));
    }

    pub(super) fn configuration_waits(&self) -> bool {
        self.policy.dual_control && self.policy.configuration != self.offered
    }

    /// Writes down how an order ended that needed no device, and answers it.
    fn ended(&mut self, kind: CommandKind, ended: Result<(), Refusal>, caller: Caller) {
        let answer = match ended {
            Ok(()) => {
                self.outbox.journal_service(Some(caller.who), AuditEvent::Completed(kind));
                Answer::Done
            }
            Err(refusal) => {
                self.note_refused_at_door(caller.who, kind, refusal);
                Answer::Refused(refusal)
            }
        };
        self.reply(caller, answer);
    }
}

/// The journal as approvals see it.
struct Journal<'o, const OUTBOX: usize>(&'o mut Outbox<OUTBOX>);

impl<const OUTBOX: usize> Note for Journal<'_, OUTBOX> {
    fn note(&mut self, who: Option<PersonId>, about: &Command, event: AuditEvent) {
        self.0.journal_order(who, about.slot(), event);
    }
}
