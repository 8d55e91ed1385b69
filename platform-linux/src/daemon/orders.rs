//! A client's order on its way to the core: who may send it, which slot it means, its
//! secrets into the Safe.

use std::time::Instant;

use slotwarden_core::Refusal;
use slotwarden_core::approval::ApprovalCode;
use slotwarden_core::ceremony::{CardOrder, SoUse};
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::{ApplicationSet, SlotId};
use slotwarden_core::limits::{CODE_CHARS_MAX, PLACE_BYTES};
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::reception;
use slotwarden_core::share::{Quorum, looks_like_share};
use slotwarden_core::transfer::TransferOrder;
use zeroize::{Zeroize as _, Zeroizing};

use super::held::{Held, LOOK_WAIT};
use super::{Loop, Waiting};
use crate::cli::CONFIRM_LAST_TRY;
use crate::devices::{Applications, Hsm, Store};
use crate::names::Peer;
use crate::problem::{Own, Problem};
use crate::wire::{self, Ask, CardTask, Order, SecretRole, SoCardsUse, SyncAsk};
use crate::{config, control};

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// Turns a client's order into a command. `hold`: the HSM may be looked at first.
    pub(super) fn client_order(&mut self, request: control::Request, hold: bool) {
        let Ask::Order(order) = &request.ask else { return };
        let who = match (request.peer, order) {
            (Peer::Person(who), _) => who,
            // The boot hook runs as the daemon's user, who could restart the daemon as well.
            (Peer::OwnUser, Order::Boot) => PersonId::SERVICE,
            (Peer::OwnUser, _) => {
                let _ = request.answer.try_send(Problem::from(Refusal::NotAllowed).into());
                return;
            }
        };
        let slot = match order.slot().map(|slot| self.names.slot(slot)).transpose() {
            Ok(slot) => slot,
            Err(problem) => {
                let _ = request.answer.try_send(problem.into());
                return;
            }
        };
        let looks_for = match order {
            Order::Boot => Some(CommandKind::Boot),
            Order::Activate { .. } => Some(CommandKind::Activate),
            Order::Init { .. } => Some(CommandKind::Init),
            Order::Unblock { .. } => Some(CommandKind::Unblock),
            Order::Decommission { .. } => Some(CommandKind::Decommission),
            Order::Share { .. } => Some(CommandKind::Share),
            Order::Deactivate { .. }
            | Order::EndCall { .. }
            | Order::ChangeCode { .. }
            | Order::Mode { .. }
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Split { .. }
            | Order::Reset { .. }
            | Order::Cards { .. }
            | Order::SlotCards { .. }
            | Order::AdministratorCards { .. }
            | Order::CardLost { .. }
            | Order::AnswerCeremony { .. }
            | Order::CancelCeremony { .. }
            | Order::Export { .. }
            | Order::RestoreByPassphrase { .. }
            | Order::Import { .. }
            | Order::CountKeys { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::Zeroize { .. }
            | Order::EndRestore
            | Order::Abandon { .. } => None,
            Order::BySoCards { then: SoCardsUse::Init { .. }, .. } => Some(CommandKind::Init),
            Order::BySoCards { then: SoCardsUse::Unblock { .. }, .. } => Some(CommandKind::Unblock),
            Order::BySoCards { then: SoCardsUse::Decommission { .. }, .. } => Some(CommandKind::Decommission),
        };
        // Who may not is refused by the core at once, which also records it.
        if hold
            && looks_for.is_some_and(|kind| self.may(request.peer, kind))
            && let Some(absent) = self.first_absent(slot)
        {
            self.devices.hsm.look();
            self.looks += 1;
            let held = Held { request, slot: absent, look: self.looks, until: Instant::now() + LOOK_WAIT };
            self.held.push(held);
            return;
        }
        if let Order::Sync(SyncAsk::Receive { file }) = order
            && self.may(request.peer, CommandKind::ReceivePackage)
        {
            return self.receive(who, Waiting::Client(request.answer), *file);
        }
        let named = self.named(order).and_then(|persons| Ok((persons, self.accepted(order, slot)?)));
        match named.and_then(|named| self.command(who, order, slot, named, &request.secrets)) {
            Ok(command) => {
                let was_received = self.service.reception_state() != reception::State::Idle;
                self.order(who, Waiting::Client(request.answer), command);
                // Only what the core gave up is left: whoever may not give the order, or alone may not, changes nothing.
                let is_over = self.service.reception_state() == reception::State::Idle;
                if let (true, true, Command::Transfer { order: TransferOrder::Abandon { file } }) =
                    (was_received, is_over, command)
                {
                    self.leave(file);
                }
            }
            Err(problem) => {
                let _ = request.answer.try_send(problem.into());
            }
        }
    }

    /// The applications an order accepts as dead. What ends a slot's life is refused here
    /// unless the text that names the slot was typed.
    fn accepted(&self, order: &Order, slot: Option<SlotId>) -> Result<ApplicationSet, Problem> {
        let accept = match order {
            Order::ChangeCode { accept, .. }
            | Order::Mode { accept, .. }
            | Order::Split { accept, .. }
            | Order::Unblock { accept, .. }
            | Order::SlotCards { accept, .. }
            | Order::BySoCards { then: SoCardsUse::Unblock { accept, .. }, .. } => accept,
            Order::Decommission { confirm, accept, .. }
            | Order::BySoCards { then: SoCardsUse::Decommission { confirm, accept }, .. } => {
                let text = wire::decommission_text(&self.names.slot_name(slot.unwrap_or(SlotId(0))));
                if !confirm.contains(&text) {
                    return Err(Problem::from(Refusal::DecommissionUnconfirmed).with(format!("--confirm {text:?}")));
                }
                accept
            }
            Order::Zeroize { confirm } => {
                if confirm.as_deref() != Some(wire::ZEROIZE_TEXT) {
                    let text = wire::ZEROIZE_TEXT;
                    return Err(Problem::from(Refusal::ZeroizeUnconfirmed).with(format!("--confirm {text:?}")));
                }
                return Ok(ApplicationSet::NONE);
            }
            Order::Boot
            | Order::Activate { .. }
            | Order::Deactivate { .. }
            | Order::EndCall { .. }
            | Order::Init { .. }
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Share { .. }
            | Order::Reset { .. }
            | Order::Cards { .. }
            | Order::AdministratorCards { .. }
            | Order::BySoCards { then: SoCardsUse::Init { .. }, .. }
            | Order::CardLost { .. }
            | Order::AnswerCeremony { .. }
            | Order::CancelCeremony { .. }
            | Order::Export { .. }
            | Order::RestoreByPassphrase { .. }
            | Order::Import { .. }
            | Order::CountKeys { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::EndRestore
            | Order::Abandon { .. } => return Ok(ApplicationSet::NONE),
        };
        self.names.application_set(accept)
    }

    /// The digest of the configuration file as it is now, kept in the store before anybody
    /// can approve it. Read only for who may order it and where it can count.
    fn offered_digest(&mut self, who: PersonId) -> Result<[u8; 32], Problem> {
        if !self.service.may(who, CommandKind::AdoptConfiguration) || !self.service.policy().dual_control {
            // The core says which of the two, and writes it down.
            return Ok([0; 32]);
        }
        let path = self.configuration_file.as_ref().ok_or(Refusal::ConfigurationSame)?;
        let settings = config::load(path)?;
        if !config::names_two(&settings) {
            return Err(Problem::from(Refusal::TooFewPersons).with("in the changed file"));
        }
        self.devices.store.keep_configuration(&settings.protected)?;
        Ok(config::digest(&settings.protected))
    }

    /// The persons that an order names.
    fn named(&self, order: &Order) -> Result<Roster, Problem> {
        let names = match order {
            Order::Mode { parts, .. } => parts,
            Order::Split { custodians, .. } => custodians,
            Order::SlotCards { users, .. } => users,
            Order::AdministratorCards { holders, .. } => holders,
            Order::Cards {
                task:
                    CardTask::CreateSet { holders, .. }
                    | CardTask::ReplaceSet { holders, .. }
                    | CardTask::Rotate { holders, .. },
                ..
            } => holders,
            Order::Boot
            | Order::Activate { .. }
            | Order::Deactivate { .. }
            | Order::EndCall { .. }
            | Order::Unblock { .. }
            | Order::Decommission { .. }
            | Order::Init { .. }
            | Order::ChangeCode { .. }
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Share { .. }
            | Order::Reset { .. }
            | Order::Cards { .. }
            | Order::BySoCards { .. }
            | Order::CardLost { .. }
            | Order::AnswerCeremony { .. }
            | Order::CancelCeremony { .. }
            | Order::Export { .. }
            | Order::RestoreByPassphrase { .. }
            | Order::Import { .. }
            | Order::CountKeys { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::Zeroize { .. }
            | Order::EndRestore
            | Order::Abandon { .. } => return Ok(Roster::NOBODY),
        };
        let persons = names.iter().map(|name| self.names.person(name)).collect::<Result<Vec<_>, _>>()?;
        Ok(Roster::new(&persons)?)
    }

    /// The command of the core, with its secrets in the Safe.
    pub(super) fn command(
        &mut self,
        who: PersonId,
        order: &Order,
        slot: Option<SlotId>,
        (named, accept): (Roster, ApplicationSet),
        secrets: &[(SecretRole, Zeroizing<Vec<u8>>)],
    ) -> Result<Command, Problem> {
        // A role that the order does not take, or one that came twice, has no place in it.
        let wanted: &[SecretRole] = match order {
            Order::Boot
            | Order::Deactivate { .. }
            | Order::EndCall { .. }
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Reset { .. }
            | Order::Cards { .. }
            | Order::BySoCards { then: SoCardsUse::Init { .. } | SoCardsUse::Decommission { .. }, .. }
            | Order::CardLost { .. }
            | Order::AnswerCeremony { .. }
            | Order::CancelCeremony { .. }
            | Order::Import { .. }
            | Order::CountKeys { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::Zeroize { .. }
            | Order::EndRestore
            | Order::Abandon { .. } => &[],
            Order::Export { .. } => &[SecretRole::NewPassphrase],
            Order::RestoreByPassphrase { .. } => &[SecretRole::Passphrase],
            Order::BySoCards { then: SoCardsUse::Unblock { .. }, .. } => &[SecretRole::NewCode],
            Order::AdministratorCards { .. } => &[SecretRole::SoPin],
            Order::Activate { .. } | Order::Split { .. } | Order::Share { .. } => &[SecretRole::Code],
            Order::Init { .. } | Order::Decommission { .. } => &[SecretRole::SoPin],
            Order::Unblock { .. } => &[SecretRole::SoPin, SecretRole::NewCode],
            Order::ChangeCode { .. } | Order::Mode { .. } | Order::SlotCards { .. } => {
                &[SecretRole::Code, SecretRole::NewCode]
            }
        };
        for (place, (role, secret)) in secrets.iter().enumerate() {
            let twice = secrets.iter().take(place).any(|(before, _)| before == role);
            if twice || !wanted.contains(role) {
                let not_wanted = match role {
                    SecretRole::NewCode => Refusal::NewCodeNotWanted,
                    SecretRole::Code | SecretRole::SoPin => Refusal::CodeNotWanted,
                    SecretRole::NewPassphrase | SecretRole::Passphrase => Refusal::PassphraseNotWanted,
                };
                return Err(not_wanted.into());
            }
            let bytes_max = if *role == SecretRole::SoPin { CODE_CHARS_MAX } else { PLACE_BYTES };
            if secret.len() > bytes_max {
                let too_long = match role {
                    SecretRole::SoPin | SecretRole::NewPassphrase | SecretRole::Passphrase => Refusal::SecretTooLong,
                    SecretRole::Code if looks_like_share(secret) => Refusal::ShareMistyped,
                    SecretRole::Code | SecretRole::NewCode => Refusal::CodeTooLong,
                };
                return Err(too_long.into());
            }
        }
        // Before a secret is in the Safe, so that a refusal leaves none there.
        let quorum = if let Order::Split { m, n, .. } = order { Some(Quorum::new(*m, *n)?) } else { None };
        let cards = self.card_part(order, named)?;
        let slot = slot.unwrap_or(SlotId(0));
        let mut filled = Vec::with_capacity(secrets.len());
        for (role, secret) in secrets {
            match self.service.fill(|place| fill_place(place, secret)) {
                Ok(id) => filled.push((*role, id)),
                Err(refusal) => {
                    for (_, id) in filled {
                        self.service.wipe(id);
                    }
                    return Err(refusal.into());
                }
            }
        }
        let id = |role| filled.iter().find(|(found, _)| *found == role).map(|(_, id)| *id);
        let (code, new_code) = (id(SecretRole::Code), id(SecretRole::NewCode));
        Ok(match order {
            Order::Boot => Command::Boot,
            Order::Activate { confirmed, .. } => Command::Activate { slot, code, confirmed: *confirmed },
            Order::Deactivate { .. } => Command::Deactivate { slot },
            Order::EndCall { .. } => Command::EndCall { slot },
            Order::Init { free_slot, confirmed, .. } => {
                let so_pin = id(SecretRole::SoPin).ok_or(Refusal::SoPinMissing)?;
                Command::Init { slot, so_pin, free_slot: *free_slot, confirmed: *confirmed }
            }
            Order::ChangeCode { confirmed, .. } => {
                Command::ChangeCode { slot, code, new_code, confirmed: *confirmed, accept }
            }
            Order::Mode { to, parts, confirmed, .. } => {
                let parts = (!parts.is_empty()).then_some(named);
                Command::Mode { slot, to: *to, parts, code, new_code, confirmed: *confirmed, accept }
            }
            Order::Unblock { to, confirmed, .. } => {
                let Some(so_pin) = id(SecretRole::SoPin) else {
                    new_code.into_iter().for_each(|id| self.service.wipe(id));
                    return Err(Refusal::SoPinMissing.into());
                };
                Command::Unblock { slot, so_pin, to: *to, new_code, confirmed: *confirmed, accept }
            }
            Order::Decommission { confirm, .. } => {
                let confirmed = confirm.iter().any(|text| text == CONFIRM_LAST_TRY);
                Command::Decommission { slot, so_pin: id(SecretRole::SoPin), confirmed, accept }
            }
            Order::Approve { id, code } => {
                let code = ApprovalCode::parse(code).ok_or(Refusal::ApprovalCodeWrong)?;
                Command::Approve { id: *id, code }
            }
            Order::Withdraw { id } => Command::Withdraw { id: *id },
            Order::DualControl { on } => {
                if *on && self.service.may(who, CommandKind::DualControl) {
                    // What is in force becomes what is approved: kept before the latch can name it.
                    self.devices.store.keep_configuration(&self.protected)?;
                }
                Command::DualControl { on: *on }
            }
            Order::AdoptConfiguration => Command::AdoptConfiguration { digest: self.offered_digest(who)? },
            Order::Split { confirmed, .. } => {
                let quorum = quorum.ok_or(Refusal::QuorumInvalid)?;
                Command::Split { slot, quorum, custodians: named, code, confirmed: *confirmed, accept }
            }
            Order::Share { confirmed, .. } => Command::Share { slot, code, confirmed: *confirmed },
            Order::Reset { .. } => Command::Reset { slot },
            Order::Cards { .. } => {
                let task = cards.task.ok_or(Refusal::UnknownCard)?;
                Command::Cards { order: CardOrder { task, at: cards.at } }
            }
            Order::SlotCards { with_code, confirmed, .. } => Command::SlotCards {
                slot,
                quorum: cards.quorum.ok_or(Refusal::QuorumInvalid)?,
                holders: named,
                with_code: *with_code,
                code,
                new_code,
                confirmed: *confirmed,
                accept,
                at: cards.at,
            },
            Order::AdministratorCards { confirmed, .. } => Command::AdministratorCards {
                slot,
                quorum: cards.quorum.ok_or(Refusal::QuorumInvalid)?,
                holders: named,
                so_pin: id(SecretRole::SoPin),
                confirmed: *confirmed,
                at: cards.at,
            },
            Order::BySoCards { then, confirmed, .. } => {
                let then = match then {
                    SoCardsUse::Init { free_slot } => SoUse::Init { free_slot: *free_slot },
                    SoCardsUse::Unblock { to, .. } => SoUse::Unblock { to: *to, new_code, accept },
                    SoCardsUse::Decommission { .. } => SoUse::Decommission { accept },
                };
                Command::BySoCards { slot, then, confirmed: *confirmed, at: cards.at }
            }
            Order::CardLost { credential, .. } => {
                let serial = cards.serial.ok_or(Refusal::UnknownCard)?;
                Command::CardLost { serial, credential: *credential }
            }
            Order::AnswerCeremony { yes, confirmed, .. } => {
                let id = cards.id.ok_or(Refusal::NoCeremony)?;
                Command::AnswerCeremony { id, yes: *yes, confirmed: *confirmed }
            }
            Order::CancelCeremony { .. } => Command::CancelCeremony { id: cards.id.ok_or(Refusal::NoCeremony)? },
            Order::Export { slots, left_out } => {
                let passphrase = id(SecretRole::NewPassphrase);
                let order = self.export_order(slots, left_out, passphrase).inspect_err(|_| {
                    passphrase.into_iter().for_each(|id| self.service.wipe(id));
                });
                Command::Transfer { order: order? }
            }
            Order::RestoreByPassphrase { uid, key_id, file, .. } => {
                let passphrase = id(SecretRole::Passphrase);
                if self.devices.files.spooled() != Some(*file) {
                    passphrase.into_iter().for_each(|id| self.service.wipe(id));
                    return Err(Own::FileNotSpooled.into());
                }
                let (uid, key_id, file) = (*uid, *key_id, *file);
                Command::Transfer { order: TransferOrder::Restore { slot, uid, key_id, file, passphrase } }
            }
            Order::Import { file, .. } => Command::Transfer { order: TransferOrder::Import { slot, file: *file } },
            Order::Zeroize { .. } => Command::Zeroize,
            Order::EndRestore => Command::Transfer { order: TransferOrder::EndRestore },
            Order::Abandon { file } => Command::Transfer { order: TransferOrder::Abandon { file: *file } },
            Order::Cluster(ask) => Command::Cluster { order: self.cluster_order(who, ask)? },
            Order::Sync(ask) => Command::Transfer { order: self.sync_order(ask)? },
            Order::CountKeys { .. } => Command::Transfer { order: TransferOrder::Count { slot } },
        })
    }
}

impl Order {
    /// The slot it is about, as the person named it.
    fn slot(&self) -> Option<&str> {
        match self {
            Order::Boot
            | Order::Approve { .. }
            | Order::Withdraw { .. }
            | Order::DualControl { .. }
            | Order::AdoptConfiguration
            | Order::Cards { .. }
            | Order::CardLost { .. }
            | Order::AnswerCeremony { .. }
            | Order::CancelCeremony { .. }
            | Order::Export { .. }
            | Order::Cluster(_)
            | Order::Sync(_)
            | Order::Zeroize { .. }
            | Order::EndRestore
            | Order::Abandon { .. } => None,
            Order::Import { slot, .. }
            | Order::RestoreByPassphrase { slot, .. }
            | Order::CountKeys { slot }
            | Order::SlotCards { slot, .. }
            | Order::AdministratorCards { slot, .. }
            | Order::BySoCards { slot, .. }
            | Order::Activate { slot, .. }
            | Order::Deactivate { slot }
            | Order::EndCall { slot }
            | Order::Init { slot, .. }
            | Order::ChangeCode { slot, .. }
            | Order::Mode { slot, .. }
            | Order::Unblock { slot, .. }
            | Order::Decommission { slot, .. }
            | Order::Split { slot, .. }
            | Order::Share { slot, .. }
            | Order::Reset { slot } => Some(slot),
        }
    }
}

fn fill_place(place: &mut [u8], secret: &[u8]) -> usize {
    match place.get_mut(..secret.len()) {
        Some(start) => {
            start.copy_from_slice(secret);
            secret.len()
        }
        None => {
            place.zeroize();
            usize::MAX
        }
    }
}
