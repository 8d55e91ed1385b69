//! Exports and restores on their way between clients, files and the core.

use std::time::{Duration, Instant};

use sha2::{Digest as _, Sha256};
use slotwarden_core::effect::{HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{Fault, HsmFailure};
use slotwarden_core::status::StateName;
use slotwarden_core::transfer::{Export, FileOrder, Purpose, State, TransferOrder};
use slotwarden_core::{Refusal, SecretId};
use tracing::warn;
use zeroize::Zeroizing;

use super::Loop;
use crate::config::SecurityLevel;
use crate::devices::{Applications, ExportAbout, Hsm, Lend, ProgramResult, Store};
use crate::problem::Problem;

/// Between two counts of the keys of a slot: applications make keys without telling anybody. By hand.
const COUNT_INTERVAL: Duration = Duration::from_secs(3_600);
/// Lists of names that orders are remembered with: as many as orders can wait for an approval, and some.
const LISTS_MAX: usize = 32;

/// What a call was lent that waits for a vendor's program: the core wipes its own places when it has given the
/// effect away. As the frames on their way to the worker it is wiped when it is dropped: with the end of the
/// program at the latest, which whoever gives the call up brings about.
pub(super) struct Lent {
    ticket: Ticket,
    secrets: Vec<(SecretId, Zeroizing<Vec<u8>>)>,
}

impl Lent {
    pub(super) fn new(ticket: Ticket, call: HsmCall, from: &dyn Lend) -> Self {
        let mut secrets = Vec::new();
        if let HsmCall::ExportSection { once: Some(ids), .. } = call {
            for id in ids {
                from.lend(id, &mut |secret| secrets.push((id, Zeroizing::new(secret.to_vec()))));
            }
        }
        Lent { ticket, secrets }
    }
}

impl Lend for Lent {
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
        let found = self.secrets.iter().find(|(known, _)| *known == id);
        found.map(|(_, secret)| read(secret)).is_some()
    }
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// The core's order: names of keys are the platform's, so it carries their digest, and an approval
    /// binds them all the same (P27).
    pub(super) fn export_order(
        &mut self,
        slots: &[String],
        left_out: &[String],
        passphrase: Option<SecretId>,
    ) -> Result<TransferOrder, Problem> {
        let slots = self.slot_set(slots)?;
        let mut names = Vec::with_capacity(left_out.len());
        for name in left_out {
            let (slot, key) = name
                .split_once('/')
                .ok_or_else(|| Problem::from(Refusal::UnknownSlot).with(format!("{name}: SLOT/KEY is wanted")))?;
            let slot = self.names.slot_name(self.names.slot(slot)?);
            names.push(format!("{slot}/{key}"));
        }
        names.sort();
        names.dedup();
        let mut hash = Sha256::new().chain_update(b"slotwarden/left-out/v1");
        for name in &names {
            hash.update(u32::try_from(name.len()).unwrap_or(u32::MAX).to_be_bytes());
            hash.update(name);
        }
        let digest: [u8; 32] = hash.finalize().into();
        self.left_out.retain(|(known, _)| *known != digest);
        if self.left_out.len() >= LISTS_MAX {
            self.left_out.pop_front();
        }
        self.left_out.push_back((digest, names));
        Ok(TransferOrder::Export { slots, left_out: digest, passphrase })
    }

    /// Has the keys of each open slot counted that could be exported: when it was opened, after a
    /// transfer, and once in an hour.
    pub(super) fn count_keys(&mut self) {
        self.notice_new_tokens();
        let status = self.service.status(self.now());
        if status.transfer.is_some() {
            self.counted.clear();
            return;
        }
        for slot in &status.slots {
            let can_be_exported = match self.security_level {
                SecurityLevel::None => false,
                SecurityLevel::Passphrase => true,
                SecurityLevel::Cards => slot.backup_key == Some(true),
            };
            let number = slot.slot.0;
            let active = slot.state == StateName::Active;
            if !active || !can_be_exported {
                self.counted.remove(&number);
            } else if self.counted.get(&number).is_none_or(|at| at.elapsed() >= self.count_interval()) {
                self.counted.insert(number, Instant::now());
                self.count(slot.slot);
            }
        }
    }

    /// Where packages are made without a person, somebody waits for them.
    pub(super) fn count_interval(&self) -> Duration {
        let sync = self.cluster.setup.settings.as_ref().filter(|settings| settings.automatic);
        sync.map_or(COUNT_INTERVAL, |settings| settings.interval)
    }

    /// Has the platform's files do something.
    pub(super) fn file(&mut self, ticket: Ticket, order: FileOrder) {
        if let FileOrder::Stretch { passphrase, of } = order {
            // A place that was wiped meanwhile gives a key that fits no file.
            let lent = self.service.with(passphrase, |bytes| Zeroizing::new(bytes.to_vec())).unwrap_or_default();
            return self.devices.files.stretch(ticket, passphrase, lent, of);
        }
        if let FileOrder::Check { hash, backup_key } = order {
            // A place that was wiped meanwhile gives a key that fits no file.
            let lent = self.service.with(backup_key, |bytes| Zeroizing::new(bytes.to_vec())).unwrap_or_default();
            return self.devices.files.check(ticket, hash, lent);
        }
        let left_out = match order {
            FileOrder::Begin(Export { purpose: Purpose::Backup { left_out }, .. }) => {
                let found = self.left_out.iter().find(|(digest, _)| *digest == left_out);
                found.map(|(_, names)| names.clone()).unwrap_or_default()
            }
            FileOrder::KeepRoster { hash } => return self.keep_roster(ticket, hash),
            FileOrder::Received { hash } => return self.received(ticket, hash),
            FileOrder::Begin(Export { purpose: Purpose::Package { .. }, .. })
            | FileOrder::Finish
            | FileOrder::Discard
            | FileOrder::Stretch { .. }
            | FileOrder::Check { .. } => Vec::new(),
        };
        let wall_s = self.now().wall_s;
        let package = self.package_about(order, wall_s);
        let about = ExportAbout { cluster: self.service.cluster(), left_out, wall_s, package };
        self.devices.files.perform(ticket, order, about);
    }

    /// The platform's files did it. A package that was finished took into the ledgers what its tokens had, so how
    /// everybody stands may be another thing now, before whoever ordered it is told.
    pub(super) fn file_done(&mut self) {
        if let State::Finishing { .. } = self.service.transfer_state() {
            self.renew_cluster_view();
        }
    }

    /// A passphrase became a key, which takes its place before the core hears of it.
    pub(super) fn stretched(&mut self, ticket: Ticket, place: SecretId, result: Result<Zeroizing<[u8; 32]>, Fault>) {
        let result = result.and_then(|key| {
            let placed = self.service.refill(place, |bytes| {
                bytes[..key.len()].copy_from_slice(&*key);
                key.len()
            });
            if placed { Ok(()) } else { Err(Fault::StoreFailed) }
        });
        self.turn(Input::Done { ticket, outcome: Outcome::File(result) });
    }

    /// A program of the HSM's vendor ended: the worker goes on, or the call that waited for it failed.
    pub(super) fn program_ended(&mut self, ticket: Ticket, slot: SlotId, call: HsmCall, result: ProgramResult) {
        let lent = self.lent.take_if(|lent| lent.ticket == ticket);
        let Some(lent) = lent.filter(|_| self.devices.files.program_ended(ticket, &result)) else { return };
        match result {
            Ok(()) => self.devices.hsm.perform(ticket, slot, call, &lent),
            Err((refusal, said)) => {
                warn!(slot = self.names.slot_name(slot), "the vendor's program: {said}");
                let failed = Outcome::Hsm(Err(HsmFailure::Refused(refusal)));
                self.turn(Input::Done { ticket, outcome: failed });
            }
        }
    }

    /// Says which keys an export could not hold, and what a vendor's program said.
    pub(super) fn with_names_of_keys(&self, problem: Problem) -> Problem {
        if problem.is(Refusal::VendorProgramFailed) {
            return problem.with(self.devices.files.program_said());
        }
        if !problem.is(Refusal::KeysCannotLeave) {
            return problem;
        }
        problem.with(self.devices.files.left_out().join(", "))
    }
}
