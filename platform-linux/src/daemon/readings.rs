//! What clients may read: status, one slot and its keys, the audit log, ceremonies and cards. Names are
//! joined here.

use std::fs::File;
use std::io::{self, Read as _};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::thread;

use sha2::{Digest as _, Sha256};
use slotwarden_core::Refusal;
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::SlotId;
use slotwarden_core::transfer::Transfer;

use tracing::warn;

use super::Loop;
use crate::audit::{hex, unhex};
use crate::devices::{Applications, FilePart, Hsm, Store, TranscriptPart};
use crate::names::Peer;
use crate::problem::{Own, Problem};
use crate::random::FirstSource;
use crate::status_json::{self, CardsView, SCHEMA, SlotDetail, StatusView, Surroundings, card_view};
use crate::wire::{
    AUDIT_PAGE, Answered, Ask, AuditPage, CHECKPOINT_PAGE, CheckpointPage, FreeTokenView, Outgoing, TRANSCRIPT_PAGE,
    TranscriptPage,
};
use crate::{config, control};

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// What can be answered at once; `None` for an order and a part of a file.
    pub(super) fn answer(&mut self, request: &control::Request) -> Result<Option<Answered>, Problem> {
        let reads = |kind| if self.may(request.peer, kind) { Ok(()) } else { Err(Problem::from(Refusal::NotAllowed)) };
        match &request.ask {
            Ask::Status => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Status(Box::new(self.status()))))
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
            Ask::Ceremony { .. } => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Ceremony(Box::new(self.ceremony_now(request.peer)))))
            }
            Ask::Transcript { id, first } => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Transcript(Box::new(self.transcript(id, *first)?))))
            }
            Ask::Cards => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Cards(self.cards())))
            }
            Ask::Read { what, offset } => {
                reads(match what {
                    Outgoing::Export => CommandKind::Export,
                    Outgoing::Package => CommandKind::MakePackage,
                    Outgoing::Roster | Outgoing::JoinRequest => CommandKind::FollowRoster,
                })?;
                let FilePart { version, total, bytes } = self.read_outgoing(*what, *offset)?;
                if *what == Outgoing::Export && bytes.is_empty() {
                    // Whoever took it has it: what it covers is looked at anew.
                    self.counted.clear();
                }
                Ok(Some(Answered::Part { version, total, bytes }))
            }
            Ask::Keys { slot, after } => {
                reads(CommandKind::ReadStatus)?;
                Ok(Some(Answered::Keys(self.keys_page(slot, *after)?)))
            }
            Ask::Spool { .. } | Ask::Order(_) => Ok(None),
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
            readers: self.devices.cards.readers(),
            wall_s: self.now().wall_s,
            coverage: self.coverage,
            last_export_s: self.devices.files.last_export_s(),
            progress: self.devices.hsm.progress(),
            cluster: self.cluster_view(),
            node_fingerprint: self.cluster.files.fingerprint(),
            synchronised: self.synchronised(),
        }
    }

    pub(super) fn status(&self) -> StatusView {
        let mut view = status_json::join(&self.service.status(self.now()), &self.names, &self.surroundings());
        let policy = self.service.policy();
        let kept = |digest: &[u8; 32]| self.devices.store.kept_configuration(digest).unwrap_or_default();
        for slot in &mut view.slots {
            slot.export_program = self.devices.files.program(&slot.name);
        }
        let restoration = Transfer::in_state(self.service.transfer_state()).restoration();
        if let (Some(shown), Some(restoration)) = (&mut view.transfer, restoration) {
            shown.vendor_bytes = self.devices.files.vendor_bytes(restoration.uid);
        }
        for (shown, approval) in view.approvals.iter_mut().zip(&self.service.status(self.now()).approvals) {
            if let Command::AdoptConfiguration { digest } = approval.operation {
                shown.differences = config::differences(&kept(&policy.configuration), &kept(&digest));
            }
            if let Command::Cluster { order } = approval.operation {
                shown.differences = self.roster_differences(&order.hash());
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
            transfer: status.transfer.filter(|transfer| transfer.slot.as_ref() == Some(&found.name)),
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

    /// Every card that is known, and the readers.
    pub(super) fn cards(&self) -> CardsView {
        let slot_subjects = self.owners.iter().enumerate().flat_map(|(place, owner)| {
            let slot = u8::try_from(place).ok().map(|number| self.names.slot_name(SlotId(number)));
            [SetSubject::Users(*owner), SetSubject::Administrators(*owner)].map(|subject| (subject, slot.clone()))
        });
        let subjects = std::iter::once((SetSubject::BackupKey, None)).chain(slot_subjects);
        let sets: Vec<_> =
            subjects.filter_map(|(subject, slot)| Some((subject, slot, self.service.card_sets(subject)?))).collect();
        CardsView {
            schema: SCHEMA,
            cards: self.service.card_entries().iter().map(|entry| card_view(entry, &sets, &self.names)).collect(),
            readers: self.devices.cards.readers(),
        }
    }

    pub(super) fn transcript(&mut self, id: &str, first: u16) -> Result<TranscriptPage, Problem> {
        let id = ceremony_id(id)?;
        let TranscriptPart { all, lines, end } =
            self.devices.store.transcript(id, first, usize::from(TRANSCRIPT_PAGE))?;
        if all == 0 {
            return Err(Own::NoTranscript.with(id.to_string()));
        }
        // The one that signed it, also where a zeroize made another since.
        let keys = self.devices.store.node_keys();
        let node_key = end.as_ref().and_then(|end| keys.signer_of(id, end)).unwrap_or(keys.current);
        Ok(TranscriptPage {
            id: id.0,
            all,
            lines,
            end: end.map(|end| (end.head, end.signature.to_vec())),
            node_key,
            slots: self.names.slots.iter().map(|slot| slot.name.clone()).collect(),
            applications: self.names.applications.clone(),
            persons: self.names.numbered.iter().map(|(name, person)| (name.clone(), person.0)).collect(),
            readers: self.devices.cards.readers(),
            module: self.devices.hsm.description(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            program: String::new(),
        })
    }

    /// Answers with a transcript. Which program this is is known once its file was read, which
    /// takes a while: by a thread, the first time somebody wants to know.
    pub(super) fn answer_transcript(&self, answer: SyncSender<control::Reply>, page: TranscriptPage) {
        let program = Arc::clone(&self.program);
        let told = move || {
            let program = program.get_or_init(program_hash).clone();
            // A client that left is not told.
            let _ = answer.try_send(Answered::Transcript(Box::new(TranscriptPage { program, ..page })).into());
        };
        if self.program.get().is_some() {
            return told();
        }
        if let Err(error) = thread::Builder::new().name("program hash".into()).spawn(told) {
            // Its end of the answer is gone: the client finds its connection closed.
            warn!("no transcript was shown: {error}");
        }
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
            node_keys: self.devices.store.node_keys().clone(),
            checkpoints: page.map(|found| (found.sequence, found.head, found.signature.to_vec())).collect(),
        })
    }
}

/// The ceremony that people name by its 16 hexadecimal digits.
///
/// # Errors
/// [`Own::NoTranscript`]: no ceremony has such a name.
pub(super) fn ceremony_id(text: &str) -> Result<CeremonyId, Problem> {
    unhex(&text.to_ascii_lowercase()).map(CeremonyId).ok_or_else(|| Own::NoTranscript.with(text))
}

/// SHA-256 of the file that this program was started from, read through the kernel's name for
/// it, so that a file put in its place since does not count.
fn program_hash() -> String {
    let mut hash = Sha256::new();
    let mut part = vec![0; 64 * 1024];
    let read = File::open("/proc/self/exe").and_then(|mut file| {
        loop {
            match file.read(&mut part) {
                Ok(0) => return Ok(()),
                Ok(length) => hash.update(&part[..length]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    });
    read.map_or_else(|error| format!("not known: {error}"), |()| hex(&hash.finalize()))
}
