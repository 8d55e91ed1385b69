//! The cluster in the loop: rosters and packages on their way between clients, files and the core.
//!
//! A package is judged by its header before anything of it is opened, admitted when it is known to be whole, and
//! planned after a look at every token that it is for: what was destroyed here a moment ago must not come back (P25).

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::cluster::ClusterOrder;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::ledger::{KeyName, Standing};
use slotwarden_core::package::{Header, Suite};
use slotwarden_core::person::PersonId;
use slotwarden_core::roster::Roster;
use slotwarden_core::status::StateName;
use slotwarden_core::transfer;
use slotwarden_core::transfer::{FileOrder, Purpose, TransferOrder};
use tracing::warn;

use super::exchange::Exchanging;
use super::{Loop, Waiting};
use crate::audit::hex;
use crate::cluster::{Change, ClusterFiles, Listed, Received};
use crate::config::SyncSettings;
use crate::devices::{Applications, FilePart, Hsm, PackageAbout, Store};
use crate::problem::{Own, Problem};
use crate::status_json::{ClusterMemberView, ClusterView, SynchronisedView};
use crate::sync_dir::{SlotCounts, SlotFacts, Uid};
use crate::transfer_dir::{self, Remembered};
use crate::wire::{ClusterAsk, Outgoing, READ_PAGE, SyncAsk};

/// What the loop begins with, of the cluster.
#[derive(Clone, Debug)]
pub struct SyncSetup {
    /// `STATE_DIR/sync`.
    pub dir: std::path::PathBuf,
    /// The directory of exports and restores, where a package is unpacked.
    pub transfer_dir: std::path::PathBuf,
    /// What this node wants to be called.
    pub name: String,
    /// How packages travel by themselves.
    pub settings: Option<SyncSettings>,
}

impl SyncSetup {
    /// Whether packages are made and taken without a person.
    pub(super) fn is_automatic(&self) -> bool {
        self.settings.as_ref().is_some_and(|settings| settings.automatic)
    }
}

/// What the loop knows of the cluster.
pub(super) struct ClusterLoop {
    pub(super) files: ClusterFiles,
    pub(super) setup: SyncSetup,
    /// The package that was admitted last.
    incoming: Option<Incoming>,
    /// Tokens that are looked through before a package is planned.
    looks: Option<Looks>,
    members: Option<ClusterView>,
    /// Of each slot: its keys, and the members that were heard and do not keep it, by name.
    counts: Vec<(SlotCounts, Vec<String>)>,
    /// Slots without a token, which their ledgers know already.
    emptied: SlotSet,
}

/// A package that was admitted.
struct Incoming {
    hash: [u8; 32],
    source: [u8; 32],
    facts: Vec<SlotFacts>,
    slots: SlotSet,
}

/// Looks at the tokens of a package, and who waits for its plan. Nothing else is admitted meanwhile.
struct Looks {
    at: SlotId,
    left: Vec<SlotId>,
    who: PersonId,
    waiting: Waiting,
    hash: [u8; 32],
    slots: SlotSet,
    /// When whoever waits is told that a token does not answer.
    until: Instant,
    /// The token is being looked at for somebody else; when it is asked again.
    again: Option<Instant>,
}

/// How long a package waits for the tokens that it is for.
const LOOKS_WAIT: Duration = Duration::from_secs(60);
/// Pause before a token is looked at again that was being looked at for somebody else.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

impl ClusterLoop {
    /// The slots that the package is for that was admitted last.
    pub(super) fn incoming_slots(&self) -> SlotSet {
        self.incoming.as_ref().map_or(SlotSet::NONE, |incoming| incoming.slots)
    }

    /// Names the package that was admitted last.
    pub(super) fn incoming_hash(&self) -> Option<[u8; 32]> {
        self.incoming.as_ref().map(|incoming| incoming.hash)
    }

    /// Whose package was admitted last, and what it says.
    pub(super) fn incoming(&self) -> Option<([u8; 32], &[SlotFacts])> {
        self.incoming.as_ref().map(|incoming| (incoming.source, incoming.facts.as_slice()))
    }

    /// What was admitted gives way to another file.
    pub(super) fn forget_incoming(&mut self) {
        self.incoming = None;
    }

    /// Keeps what a package says that was admitted.
    pub(super) fn keep_incoming(&mut self, received: Received, slots: SlotSet) -> io::Result<()> {
        self.files.keep_received(&received)?;
        let Received { heard, facts } = received;
        self.incoming = Some(Incoming { hash: heard.hash, source: heard.node, facts, slots });
        Ok(())
    }

    pub(super) const fn new(files: ClusterFiles, setup: SyncSetup) -> Self {
        ClusterLoop {
            files,
            setup,
            incoming: None,
            looks: None,
            members: None,
            counts: Vec::new(),
            emptied: SlotSet::NONE,
        }
    }
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// Has the tokens looked through that the package of this hash is for, then has it planned.
    pub(super) fn receive(&mut self, who: PersonId, waiting: Waiting, hash: [u8; 32]) {
        if self.cluster.looks.is_some() {
            return self.tell(waiting, Answer::Refused(Refusal::TransferUnderWay));
        }
        let slots = self.cluster.incoming.as_ref().filter(|incoming| incoming.hash == hash).map(|found| found.slots);
        let Some(slots) = slots else {
            return self.tell(waiting, Answer::Refused(Refusal::NothingReceived));
        };
        let mut left: Vec<SlotId> = slots.slots().collect();
        let Some(at) = left.pop() else {
            return self.order_receive(who, waiting, hash, slots);
        };
        let until = Instant::now() + LOOKS_WAIT;
        self.cluster.looks = Some(Looks { at, left, who, waiting, hash, slots, until, again: None });
        self.count(at);
    }

    /// A look at a token ended.
    pub(super) fn looked_through(&mut self, slot: SlotId, answer: Answer) {
        let observed = answer == Answer::Done && self.observe(slot);
        if answer == Answer::Refused(Refusal::Busy) {
            // Others are looked at: this one's turn comes.
            self.counted.remove(&slot.0);
        }
        let Some(mut looks) = self.cluster.looks.take_if(|looks| looks.at == slot) else { return };
        if answer == Answer::Refused(Refusal::Busy) {
            looks.again = Some(Instant::now() + LOOK_AGAIN);
            self.cluster.looks = Some(looks);
        } else if !observed {
            // What was destroyed here could come back, so nothing is planned.
            let answer = if answer == Answer::Done { Answer::Refused(Refusal::TransferFiles) } else { answer };
            self.tell(looks.waiting, answer);
        } else if let Some(at) = looks.left.pop() {
            self.cluster.looks = Some(Looks { at, again: None, ..looks });
            self.count(at);
        } else {
            self.order_receive(looks.who, looks.waiting, looks.hash, looks.slots);
        }
    }

    /// When a look is tried again, or given up.
    pub(super) fn looks_due(&self) -> Option<Instant> {
        self.cluster.looks.as_ref().map(|looks| looks.again.map_or(looks.until, |again| again.min(looks.until)))
    }

    /// Tries a look again whose token was busy, and ends the wait for one that does not answer.
    pub(super) fn go_on_with_looks(&mut self) {
        let now = Instant::now();
        let Some(looks) = &mut self.cluster.looks else { return };
        if looks.until <= now {
            let waiting = self.cluster.looks.take().map(|looks| looks.waiting);
            waiting.into_iter().for_each(|waiting| self.tell(waiting, Answer::Refused(Refusal::SlotDoubtful)));
        } else if looks.again.is_some_and(|again| again <= now) {
            looks.again = None;
            let at = looks.at;
            self.count(at);
        }
    }

    /// Whether a package waits for looks at its tokens.
    pub(super) const fn is_looking(&self) -> bool {
        self.cluster.looks.is_some()
    }

    fn order_receive(&mut self, who: PersonId, waiting: Waiting, hash: [u8; 32], slots: SlotSet) {
        match self.write_unwanted(hash, slots) {
            Ok(()) => self.order(who, waiting, Command::Transfer { order: TransferOrder::Receive { hash, slots } }),
            Err(error) => {
                warn!("a package was not planned: {error}");
                self.tell(waiting, Answer::Refused(Refusal::TransferFiles));
            }
        }
    }

    /// Says which keys of the package are not to be made.
    fn write_unwanted(&self, hash: [u8; 32], slots: SlotSet) -> io::Result<()> {
        let incoming =
            self.cluster.incoming.as_ref().filter(|incoming| incoming.hash == hash && incoming.slots == slots);
        let incoming = incoming.ok_or_else(|| io::Error::other("another one was admitted since"))?;
        let dir = &self.cluster.setup.transfer_dir;
        let uids: Vec<Uid> = self.uids().into_iter().filter(|(slot, _)| slots.has(*slot)).map(|(_, uid)| uid).collect();
        if uids.is_empty() {
            return Ok(());
        }
        let keys = dir.join(transfer_dir::RESTORE);
        for (uid, unwanted) in self.cluster.files.ledgers().unwanted(&uids, &incoming.facts, &keys)? {
            transfer_dir::write_unwanted(dir, uid, &unwanted)?;
        }
        Ok(())
    }

    /// Tells the worker, before a restore is planned, which keys of the slot were removed: people see it in the plan.
    pub(super) fn write_remembered(&self, slot: SlotId) {
        let Some(uid) = self.uid(slot) else { return };
        let dir = &self.cluster.setup.transfer_dir;
        let remembered = self.cluster.files.ledgers().remembered(uid);
        let (remembered, unknown) =
            remembered.map_or_else(|error| (Remembered::default(), Some(error)), |it| (it, None));
        let unwritten = transfer_dir::write_remembered(dir, &remembered).err();
        if let Some(error) = unknown.or(unwritten) {
            warn!(slot = self.names.slot_name(slot), "the plan does not say what is recorded as removed: {error}");
        }
    }

    /// Has a token looked through.
    pub(super) fn count(&mut self, slot: SlotId) {
        let order = TransferOrder::Count { slot };
        self.order(PersonId::SERVICE, Waiting::Count(slot), Command::Transfer { order });
    }

    /// Takes in what the last look at a token found; whether it is in the ledger now.
    fn observe(&mut self, slot: SlotId) -> bool {
        let Some(uid) = self.uid(slot) else { return false };
        let observed = transfer_dir::read_names(&self.cluster.setup.transfer_dir, uid)
            .and_then(|names| names.map(|names| self.cluster.files.ledgers().observe(uid, &names)).transpose());
        match observed {
            Ok(Some(observed)) => {
                self.slot_is_known(slot);
                if observed.changed {
                    self.renew_cluster_view();
                }
                true
            }
            Ok(None) => false,
            Err(error) => {
                warn!(slot = self.names.slot_name(slot), "its ledger cannot be kept: {error}");
                false
            }
        }
    }

    /// A slot that has no token, or was given back: whatever it gets next is empty, and nobody removed what the
    /// old one had. A token with another serial is refused by the core, so it is here that one is replaced.
    pub(super) fn notice_new_tokens(&mut self) {
        for slot in self.slots_without_token() {
            let Some(uid) = self.uid(slot).filter(|_| !self.cluster.emptied.has(slot)) else { continue };
            match self.cluster.files.ledgers().emptied(uid) {
                Ok(()) => self.cluster.emptied = self.cluster.emptied.with(slot),
                Err(error) => warn!(slot = self.names.slot_name(slot), "its ledger cannot be kept: {error}"),
            }
        }
    }

    fn slots_without_token(&mut self) -> Vec<SlotId> {
        let slots = (0..self.owners.len()).filter_map(|place| u8::try_from(place).ok()).map(SlotId);
        let (none, some): (Vec<SlotId>, Vec<SlotId>) =
            slots.partition(|slot| self.service.slot_record(*slot).is_some_and(|record| record.serial.is_none()));
        self.cluster.emptied = some.into_iter().fold(self.cluster.emptied, SlotSet::without);
        none
    }

    /// An order about the cluster, with the roster that it is about offered to the core. For who may not give it nothing
    /// is offered: the core refuses it, and writes that down.
    ///
    /// # Errors
    /// What is wrong with the roster.
    pub(super) fn cluster_order(&mut self, who: PersonId, ask: &ClusterAsk) -> Result<ClusterOrder, Problem> {
        let (hash, slots) = ([0; 32], [0; 32]);
        let nothing = match ask {
            ClusterAsk::Found => ClusterOrder::Found { hash },
            ClusterAsk::Invite { .. } => ClusterOrder::Invite { hash },
            ClusterAsk::Join { .. } => ClusterOrder::Join { hash, slots },
            ClusterAsk::Follow { .. } => ClusterOrder::Follow { hash },
            ClusterAsk::Remove { .. } => ClusterOrder::Remove { hash },
            ClusterAsk::Renew => ClusterOrder::Renew { hash },
            ClusterAsk::Choose { .. } => ClusterOrder::Choose { hash },
        };
        if !self.service.may(who, nothing.kind()) {
            return Ok(nothing);
        }
        Ok(match ask {
            ClusterAsk::Found => ClusterOrder::Found { hash: self.propose(&Change::Found)? },
            ClusterAsk::Invite { request } => {
                let asked = self.cluster.files.requested(*request)?;
                ClusterOrder::Invite { hash: self.propose(&Change::Invite(&asked))? }
            }
            ClusterAsk::Remove { node } => ClusterOrder::Remove { hash: self.propose(&Change::Remove(node))? },
            ClusterAsk::Renew => ClusterOrder::Renew { hash: self.propose(&Change::Renew)? },
            ClusterAsk::Follow { roster } => {
                self.offer(*roster)?;
                ClusterOrder::Follow { hash: *roster }
            }
            ClusterAsk::Choose { roster } => {
                self.offer(*roster)?;
                ClusterOrder::Choose { hash: *roster }
            }
            ClusterAsk::Join { roster } => {
                let Listed { annex, .. } = self.offer(*roster)?;
                self.offer_uids(&annex.slots)?;
                ClusterOrder::Join { hash: *roster, slots: self.service.offered_slots() }
            }
        })
    }

    /// Offers the uids that slots here get in the cluster.
    fn offer_uids(&mut self, slots: &[(String, Uid)]) -> Result<(), Problem> {
        for (slot, uid) in self.uids() {
            let name = self.names.slot_name(slot);
            if !slots.iter().any(|(its, _)| *its == name) && slots.iter().any(|(_, its)| *its == uid) {
                return Err(Problem::from(Refusal::HasOwnCluster).with(name));
            }
        }
        for (name, uid) in slots {
            let slot = self.names.slots.iter().position(|slot| slot.name == *name);
            let slot = slot.and_then(|place| u8::try_from(place).ok()).map(SlotId);
            self.service.offer_slot_uid(slot.ok_or_else(|| Own::SlotsDiffer.with(name))?, *uid);
        }
        Ok(())
    }

    /// An order about packages. What is received has its tokens looked through before ([`Loop::receive`]); who may
    /// not comes here, and is refused by the core.
    ///
    /// # Errors
    /// As [`Loop::package_order`].
    pub(super) fn sync_order(&self, ask: &SyncAsk) -> Result<TransferOrder, Problem> {
        Ok(match ask {
            SyncAsk::Package { slots, to } => self.package_order(slots, to)?,
            SyncAsk::Receive { file } => TransferOrder::Receive { hash: *file, slots: SlotSet::NONE },
            SyncAsk::Apply { file } => TransferOrder::Apply { hash: *file },
            SyncAsk::End => TransferOrder::EndReceive,
        })
    }

    /// Has the service itself follow a roster.
    pub(super) fn follow(&mut self, waiting: Waiting, hash: [u8; 32]) {
        match self.offer(hash) {
            Ok(_) => {
                let order = ClusterOrder::Follow { hash };
                self.order(PersonId::SERVICE, waiting, Command::Cluster { order });
            }
            Err(_) => self.tell(waiting, Answer::Refused(Refusal::RosterNotOffered)),
        }
    }

    fn offer(&mut self, hash: [u8; 32]) -> Result<Listed, Problem> {
        let listed = self.cluster.files.offered(hash)?;
        self.service.offer_roster(listed.signed.clone());
        Ok(listed)
    }

    fn propose(&mut self, change: &Change<'_>) -> Result<[u8; 32], Problem> {
        let unfiled = self.service.status(self.now()).cluster.is_some_and(|cluster| !cluster.filed);
        if let (true, Some(hash)) = (unfiled, self.service.roster().map(Roster::hash)) {
            // What follows has to stand behind it.
            self.cluster.files.file(hash).map_err(|error| unwritable(&error))?;
        }
        let key_id = self.backup_key_id().ok_or(Refusal::NoBackupKey)?;
        let slots = self.uids().into_iter().map(|(slot, uid)| (self.names.slot_name(slot), uid)).collect();
        let about = (self.service.cluster(), key_id);
        let proposed = self.cluster.files.propose(self.service.roster(), change, about, slots)?;
        let hash = proposed.roster.hash();
        self.service.offer_roster(proposed);
        Ok(hash)
    }

    /// The backup key in force; while none is known here, the cluster's.
    pub(super) fn key_to_restore(&self) -> Option<[u8; 16]> {
        self.backup_key_id().or_else(|| self.service.roster().map(|roster| roster.key_id))
    }

    pub(super) fn backup_key_id(&self) -> Option<[u8; 16]> {
        self.service.card_sets(SetSubject::BackupKey).and_then(|sets| sets.current).map(|set| set.key_id)
    }

    /// A package for these members of these slots; without names for all, of all that can be read now.
    pub(super) fn package_order(&self, slots: &[String], to: &[String]) -> Result<TransferOrder, Problem> {
        let roster = self.service.roster().ok_or(Refusal::NoCluster)?;
        let own = self.devices.store.node_keys().current;
        let bit = |node: &[u8; 32]| roster.place(node).and_then(|place| 1_u8.checked_shl(place.into())).unwrap_or(0);
        let targets = if to.is_empty() {
            let others = roster.members.iter().filter(|member| member.node != own);
            others.fold(0, |bits, member| bits | bit(&member.node))
        } else {
            let Listed { annex, .. } = self.cluster.files.listed(roster)?;
            to.iter().try_fold(0, |bits, name| {
                let found = annex.members.iter().find(|member| member.name == *name);
                let found = found.ok_or_else(|| Problem::from(Refusal::UnknownMember).with(name))?;
                Ok::<u8, Problem>(bits | bit(&found.keys.node))
            })?
        };
        let slots = if slots.is_empty() { self.open_slots() } else { self.slot_set(slots)? };
        Ok(TransferOrder::Package { targets, roster_epoch: roster.epoch, slots })
    }

    /// Slots whose keys can be put into a package now.
    pub(super) fn open_slots(&self) -> SlotSet {
        let status = self.service.status(self.now());
        let open = status.slots.iter().filter(|slot| slot.state == StateName::Active && slot.backup_key == Some(true));
        open.fold(SlotSet::NONE, |slots, slot| slots.with(slot.slot))
    }

    /// What the package is that the core has begun.
    pub(super) fn package_about(&self, order: FileOrder, wall_s: Option<u64>) -> Option<Box<PackageAbout>> {
        let FileOrder::Begin(transfer::Export { purpose: Purpose::Package { targets, sequence, .. }, slots, .. }) =
            order
        else {
            return None;
        };
        let roster = self.service.roster()?;
        let annex = self.cluster.files.listed(roster).ok()?.annex;
        let chosen = |place: usize| u32::try_from(place).ok().and_then(|place| 1_u8.checked_shl(place));
        let targets: Vec<_> = annex
            .members
            .into_iter()
            .enumerate()
            .filter(|(place, _)| chosen(*place).is_some_and(|bit| targets & bit != 0))
            .map(|(_, member)| member.keys)
            .collect();
        let nodes: Vec<[u8; 32]> = targets.iter().map(|keys| keys.node).collect();
        let mut package_id = [0; 16];
        getrandom::fill(&mut package_id).ok()?;
        let header = Header {
            package_id,
            cluster: roster.cluster,
            source: self.devices.store.node_keys().current,
            roster_epoch: roster.epoch,
            roster_hash: roster.hash(),
            sequence,
            key_id: roster.key_id,
            made_s: wall_s,
            targets: heapless::Vec::from_slice(&nodes).ok()?,
            suite: Suite::XWing,
        };
        let uids = self.uids();
        let with_keys: Vec<(SlotId, Uid)> = uids.iter().copied().filter(|(slot, _)| slots.has(*slot)).collect();
        let skip = self.skips(&with_keys, &nodes).map_err(|error| warn!("no package is made: {error}")).ok()?;
        Some(Box::new(PackageAbout {
            header,
            targets,
            skip,
            with_keys: with_keys.into_iter().map(|(_, uid)| uid).collect(),
            told: uids.into_iter().map(|(_, uid)| uid).collect(),
            ledgers: self.cluster.files.ledgers().clone(),
            place: match self.service.transfer_state() {
                transfer::State::Beginning { caller, .. } if caller.who == PersonId::SERVICE => {
                    self.cluster.files.published()
                }
                _ => self.cluster.files.package(),
            },
        }))
    }

    /// By the name of a slot: what of it these members need not get.
    pub(super) fn skips(
        &self,
        slots: &[(SlotId, Uid)],
        nodes: &[[u8; 32]],
    ) -> io::Result<BTreeMap<String, Vec<KeyName>>> {
        let ledgers = self.cluster.files.ledgers();
        let skip = |(slot, uid): &(SlotId, Uid)| Ok((self.names.slot_name(*slot), ledgers.skip(*uid, nodes)?));
        slots.iter().map(skip).collect()
    }

    /// Files the roster in force.
    pub(super) fn keep_roster(&mut self, ticket: Ticket, hash: [u8; 32]) {
        let filed = self.cluster.files.file(hash);
        if filed.is_ok()
            && let Some(roster) = self.service.roster()
        {
            let members: Vec<[u8; 32]> = roster.members.iter().map(|member| member.node).collect();
            if let Err(error) = self.cluster.files.ledgers().keep_only(&members) {
                warn!("what members said that are none any more is kept: {error}");
            }
        }
        self.filed(ticket, filed);
        self.renew_cluster_view();
        self.tell_exchange();
    }

    /// The keys of a package are there: what its source knows is taken in.
    pub(super) fn received(&mut self, ticket: Ticket, hash: [u8; 32]) {
        let taken = self.cluster.files.take_in(hash);
        // What it says is in files now.
        self.cluster.incoming = None;
        let source = taken.as_ref().ok().copied();
        self.filed(ticket, taken.map(drop));
        self.renew_cluster_view();
        // What was told counts from the next look at each token on.
        self.counted.clear();
        if let Some(source) = source {
            self.member_heard(source);
        }
    }

    fn filed(&mut self, ticket: Ticket, result: io::Result<()>) {
        let result = result.map_err(|error| {
            warn!("a file of the cluster: {error}");
            Fault::StoreFailed
        });
        self.completed.push_back(Input::Done { ticket, outcome: Outcome::File(result) });
    }

    /// A part of a file that a client takes away.
    pub(super) fn read_outgoing(&self, what: Outgoing, offset: u64) -> Result<FilePart, Problem> {
        let path = match what {
            Outgoing::Export => return self.devices.files.read_export(offset, READ_PAGE),
            Outgoing::JoinRequest => {
                let bytes = self.cluster.files.join_request(self.now().wall_s)?;
                let total = bytes.len() as u64;
                // It is shorter than a page.
                return Ok(FilePart { version: 0, total, bytes: if offset == 0 { bytes } else { Vec::new() } });
            }
            Outgoing::Package => self.cluster.files.package(),
            Outgoing::Roster => self.cluster.files.rosters(),
        };
        let absent: Problem = if what == Outgoing::Package { Own::NoPackage.into() } else { Refusal::NoCluster.into() };
        let unreadable = |error: io::Error| match error.kind() {
            io::ErrorKind::NotFound => absent,
            _ => Problem::from(Refusal::StoreUnreadable).with(error.to_string()),
        };
        FilePart::of(&path, offset, READ_PAGE).map_err(unreadable)
    }

    /// Each slot with its uid.
    pub(super) fn uids(&self) -> Vec<(SlotId, Uid)> {
        let slots = (0..self.owners.len()).filter_map(|place| u8::try_from(place).ok()).map(SlotId);
        slots.filter_map(|slot| Some((slot, self.uid(slot)?))).collect()
    }

    pub(super) fn uid(&self, slot: SlotId) -> Option<Uid> {
        self.service.slot_record(slot).map(|record| record.uid)
    }

    pub(super) fn member_name(&self, node: &[u8; 32]) -> String {
        let listed = self.service.roster().and_then(|roster| self.cluster.files.listed(roster).ok());
        let named = listed.and_then(|listed| {
            listed.annex.members.into_iter().find(|member| member.keys.node == *node).map(|member| member.name)
        });
        named.unwrap_or_else(|| hex(node))
    }

    /// What an approver is told about a roster: who comes, who goes, which backup key there is from then on.
    pub(super) fn roster_differences(&self, hash: &[u8; 32]) -> Vec<String> {
        let Ok(Listed { signed, annex }) = self.cluster.files.offered(*hash) else { return Vec::new() };
        let after = self.cluster.files.members(&signed, &annex);
        let current = self.service.roster();
        let before = current
            .and_then(|roster| self.cluster.files.listed(roster).ok())
            .map(|listed| self.cluster.files.members(&listed.signed, &listed.annex))
            .unwrap_or_default();
        let comes = after.iter().filter(|member| !before.contains(member));
        let comes = comes.map(|member| format!("{} comes, with the fingerprint {}", member.name, member.fingerprint));
        let goes = before.iter().filter(|member| !after.contains(member)).map(|member| format!("{} goes", member.name));
        let mut told: Vec<String> = comes.chain(goes).collect();
        if current.is_some_and(|current| current.key_id != signed.roster.key_id) {
            told.push(format!("the backup key is {} from then on", hex(&signed.roster.key_id)));
        }
        told
    }

    /// The members but this node.
    pub(super) fn others(&self, roster: &Roster) -> Vec<[u8; 32]> {
        let own = self.devices.store.node_keys().current;
        roster.members.iter().map(|member| member.node).filter(|node| *node != own).collect()
    }

    /// Reads from the ledgers how everybody stands, after something changed.
    pub(super) fn renew_cluster_view(&mut self) {
        self.exchanging.iter_mut().for_each(|exchanging| exchanging.stale = true);
        let Some(roster) = self.service.roster().cloned() else { return };
        let others = self.others(&roster);
        let uids: Vec<Uid> = self.uids().into_iter().map(|(_, uid)| uid).collect();
        let ledgers = self.cluster.files.ledgers();
        let count = |uid: &Uid| {
            let without = ledgers.without_slot(*uid, &others)?;
            let without = without.iter().map(|node| self.member_name(node)).collect();
            Ok((ledgers.counts(*uid, &others)?, without))
        };
        let counts = uids.iter().map(count).collect::<io::Result<Vec<_>>>();
        let own = self.devices.store.node_keys().current;
        let member = |place: &slotwarden_core::roster::Member| {
            let node = place.node;
            let standing = if node == own { Standing::InSync } else { ledgers.standing(node, &uids)? };
            Ok(ClusterMemberView {
                name: self.member_name(&node),
                fingerprint: place.fingerprint().as_str().to_owned(),
                node: hex(&node),
                own: node == own,
                standing: word(standing).to_owned(),
                package: self.service.marks().of(&node).map_or(0, |mark| mark.sequence),
            })
        };
        let members = roster.members.iter().map(member).collect::<io::Result<Vec<_>>>();
        match (counts, members) {
            (Ok(counts), Ok(members)) => {
                self.cluster.counts = counts;
                self.cluster.members = Some(ClusterView {
                    epoch: roster.epoch,
                    roster: hex(&roster.hash()),
                    member: roster.member(&own).is_some(),
                    members,
                    divided: false,
                    automatic: self.cluster.setup.is_automatic(),
                    exchange: None,
                });
            }
            (Err(error), _) | (_, Err(error)) => warn!("how the members stand is not known: {error}"),
        }
    }

    /// What the status says of the cluster.
    pub(super) fn cluster_view(&self) -> Option<ClusterView> {
        let exchange = self.exchanging.as_ref().map(Exchanging::view);
        // Nothing of the ledgers changes when another roster divides the cluster, or when people choose.
        let divided = self.service.status(self.now()).cluster.is_some_and(|cluster| cluster.divided);
        self.cluster.members.clone().map(|view| ClusterView { exchange, divided, ..view })
    }

    /// What the status says of the keys of each slot, in the order of the configuration.
    pub(super) fn synchronised(&self) -> Vec<Option<SynchronisedView>> {
        if self.cluster.members.is_none() {
            return Vec::new();
        }
        let status = self.service.status(self.now());
        let view = |(slot, (counts, without)): (&slotwarden_core::status::SlotStatus, &(SlotCounts, Vec<String>))| {
            Some(SynchronisedView {
                keys: counts.here,
                ready: counts.here.saturating_sub(counts.not_ready).saturating_sub(counts.removed_elsewhere),
                removed_elsewhere: counts.removed_elsewhere,
                can_receive: slot.unwrap_key,
                not_at: without.clone(),
            })
        };
        status.slots.iter().zip(&self.cluster.counts).map(view).collect()
    }
}

/// As scripts read it.
const fn word(standing: Standing) -> &'static str {
    match standing {
        Standing::InSync => "in-sync",
        Standing::Ahead => "ahead",
        Standing::Behind => "behind",
        Standing::Diverged => "diverged",
        Standing::Unheard => "unheard",
    }
}

pub(super) fn unwritable(error: &io::Error) -> Problem {
    Problem::from(Refusal::TransferFiles).with(error.to_string())
}
