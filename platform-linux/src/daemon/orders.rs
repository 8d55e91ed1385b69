//! A client's order on its way to the core: who may send it, which slot it means, its
//! secrets into the Safe.

use std::time::Instant;

use slotwarden_core::Refusal;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::SlotId;
use slotwarden_core::limits::PLACE_BYTES;
use slotwarden_core::person::PersonId;
use zeroize::{Zeroize as _, Zeroizing};

use super::held::{Held, LOOK_WAIT};
use super::{Loop, Waiting};
use crate::control;
use crate::devices::{Applications, Hsm, Store};
use crate::names::Peer;
use crate::problem::Problem;
use crate::wire::{Ask, Order, SecretRole};

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
            Order::Deactivate { .. } | Order::EndCall { .. } | Order::ChangeCode { .. } | Order::Mode { .. } => None,
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
        match self.command(order, slot, &request.secrets) {
            Ok(command) => self.order(who, Waiting::Client(request.answer), command),
            Err(refusal) => {
                let _ = request.answer.try_send(Problem::from(refusal).into());
            }
        }
    }

    /// The command of the core, with its secrets in the Safe.
    pub(super) fn command(
        &mut self,
        order: &Order,
        slot: Option<SlotId>,
        secrets: &[(SecretRole, Zeroizing<Vec<u8>>)],
    ) -> Result<Command, Refusal> {
        // A role that the order does not take, or one that came twice, has no place in it.
        let wanted: &[SecretRole] = match order {
            Order::Boot | Order::Deactivate { .. } | Order::EndCall { .. } => &[],
            Order::Activate { .. } => &[SecretRole::Code],
            Order::Init { .. } => &[SecretRole::SoPin],
            Order::ChangeCode { .. } | Order::Mode { .. } => &[SecretRole::Code, SecretRole::NewCode],
        };
        for (place, (role, secret)) in secrets.iter().enumerate() {
            let twice = secrets.iter().take(place).any(|(before, _)| before == role);
            if twice || !wanted.contains(role) {
                return Err(if *role == SecretRole::NewCode {
                    Refusal::NewCodeNotWanted
                } else {
                    Refusal::CodeNotWanted
                });
            }
            if secret.len() > PLACE_BYTES {
                return Err(if *role == SecretRole::SoPin { Refusal::SecretTooLong } else { Refusal::CodeTooLong });
            }
        }
        let slot = slot.unwrap_or(SlotId(0));
        let mut filled = Vec::with_capacity(secrets.len());
        for (role, secret) in secrets {
            match self.service.fill(|place| fill_place(place, secret)) {
                Ok(id) => filled.push((*role, id)),
                Err(refusal) => {
                    for (_, id) in filled {
                        self.service.wipe(id);
                    }
                    return Err(refusal);
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
                let so_pin = id(SecretRole::SoPin).ok_or(Refusal::CodeMissing)?;
                Command::Init { slot, so_pin, free_slot: *free_slot, confirmed: *confirmed }
            }
            Order::ChangeCode { confirmed, .. } => Command::ChangeCode { slot, code, new_code, confirmed: *confirmed },
            Order::Mode { to, confirmed, .. } => Command::Mode { slot, to: *to, code, new_code, confirmed: *confirmed },
        })
    }
}

impl Order {
    /// The slot it is about, as the person named it.
    fn slot(&self) -> Option<&str> {
        match self {
            Order::Boot => None,
            Order::Activate { slot, .. }
            | Order::Deactivate { slot }
            | Order::EndCall { slot }
            | Order::Init { slot, .. }
            | Order::ChangeCode { slot, .. }
            | Order::Mode { slot, .. } => Some(slot),
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
