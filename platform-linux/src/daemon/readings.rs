//! What clients may read: status, one slot, the audit log. Names are joined here.

use slotwarden_core::Refusal;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::SlotId;

use super::Loop;
use crate::devices::{Applications, Hsm, Store};
use crate::names::Peer;
use crate::problem::Problem;
use crate::random::FirstSource;
use crate::status_json::{self, SCHEMA, SlotDetail, StatusView, Surroundings};
use crate::wire::{AUDIT_PAGE, Answered, Ask, AuditPage, CHECKPOINT_PAGE, CheckpointPage, FreeTokenView};
use crate::{config, control};

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// What can be answered without the core; `None` for an order.
    pub(super) fn answer(&mut self, request: &control::Request) -> Result<Option<Answered>, Problem> {
        let reads = |kind| if self.may(request.peer, kind) { Ok(()) } else { Err(Problem::from(Refusal::NotAllowed)) };
        match &request.ask {
            Ask::Status => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Status(self.status())))
            }
            Ask::Slot { slot } => {
                reads(CommandKind::ReadStatus)?;
                let slot = self.names.slot(slot)?;
                Ok(Some(Answered::Slot(Box::new(self.detail(slot, request.peer)?))))
            }
            Ask::Configuration => {
                reads(CommandKind::ReadStatus)?;
                let policy = self.service.policy();
                let kept = self.devices.store.kept_configuration(&policy.configuration);
                Ok(Some(Answered::Configuration(kept.filter(|_| policy.dual_control))))
            }
            Ask::Audit { first, count } => {
                reads(CommandKind::ReadAudit)?;
                Ok(Some(Answered::Audit(self.audit(*first, *count)?)))
            }
            Ask::Checkpoints { skip } => {
                reads(CommandKind::ReadAudit)?;
                Ok(Some(Answered::Checkpoints(self.checkpoints(*skip)?)))
            }
            Ask::Order(_) => Ok(None),
        }
    }

    pub(super) fn may(&self, peer: Peer, what: CommandKind) -> bool {
        match peer {
            Peer::Person(who) => self.service.may(who, what),
            Peer::OwnUser => matches!(what, CommandKind::Boot | CommandKind::ReadStatus),
        }
    }

    pub(super) fn free_tokens(&self) -> Vec<FreeTokenView> {
        let free = self.devices.hsm.free_tokens().into_iter();
        free.map(|token| FreeTokenView { slot_number: token.slot_number, description: token.description }).collect()
    }

    pub(super) fn surroundings(&self) -> Surroundings {
        Surroundings {
            seal: self.devices.store.seal().to_owned(),
            security_level: self.security_level,
            module: self.devices.hsm.description(),
            random: self.first_source.map_or("not drawn yet", FirstSource::pair).to_owned(),
        }
    }

    pub(super) fn status(&self) -> StatusView {
        let mut view = status_json::join(&self.service.status(self.now()), &self.names, &self.surroundings());
        let policy = self.service.policy();
        let kept = |digest: &[u8; 32]| self.devices.store.kept_configuration(digest).unwrap_or_default();
        for (shown, approval) in view.approvals.iter_mut().zip(&self.service.status(self.now()).approvals) {
            if let Command::AdoptConfiguration { digest } = approval.operation {
                shown.differences = config::differences(&kept(&policy.configuration), &kept(&digest));
            }
        }
        view
    }

    pub(super) fn detail(&self, slot: SlotId, peer: Peer) -> Result<SlotDetail, Problem> {
        let status = self.status();
        let found = status.slots.into_iter().nth(usize::from(slot.0)).ok_or(Refusal::UnknownSlot)?;
        let record = self.service.slot_record(slot);
        Ok(SlotDetail {
            schema: SCHEMA,
            slot: found,
            uid: record.map(|record| record.uid.iter().map(|byte| format!("{byte:02x}")).collect()),
            serial: record
                .and_then(|record| record.serial)
                .map(|serial| String::from_utf8_lossy(&serial).trim_end_matches([' ', '\0']).to_owned()),
            seal: status.seal,
            you: match peer {
                Peer::Person(who) => Some(self.names.person_name(who)),
                Peer::OwnUser => None,
            },
        })
    }

    pub(super) fn audit(&mut self, first: Option<u64>, count: u32) -> Result<AuditPage, Problem> {
        let count = count.min(AUDIT_PAGE);
        let last = self.service.chain().sequence;
        let first = first.unwrap_or_else(|| (last + 1).saturating_sub(u64::from(count))).max(1);
        let records = self.devices.store.audit(first, usize::try_from(count).unwrap_or(0))?;
        let names = records.iter().map(|record| self.names.of_record(record));
        Ok(AuditPage { last, names: names.collect(), records })
    }

    pub(super) fn checkpoints(&mut self, skip: u32) -> Result<CheckpointPage, Problem> {
        let all = self.devices.store.checkpoints()?;
        let page = all.iter().skip(usize::try_from(skip).unwrap_or(usize::MAX));
        let page = page.take(usize::try_from(CHECKPOINT_PAGE).unwrap_or(0));
        Ok(CheckpointPage {
            all: u32::try_from(all.len()).unwrap_or(u32::MAX),
            node_key: self.devices.store.node_key(),
            checkpoints: page.map(|found| (found.sequence, found.head, found.signature.to_vec())).collect(),
        })
    }
}
