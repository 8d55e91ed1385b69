//! Packages that travel by themselves: what the exchange brings is taken, and what changed here is published.
//!
//! Everything that comes is judged as if a person had brought it; the engine and whoever can write there can
//! delay, no more. Rosters are followed, since two persons approved them where they were made. Packages are
//! taken and made only where the protected configuration says `automatic`.
//!
//! A package is published when the own keys changed, when the roster did, when a slot was opened whose keys
//! were in none, and when a member turns out to lack what the last one did not carry. Members take a package one
//! after the other, in the order of the roster, so that applications are restarted on one node at a time: a node
//! waits for each one before it until that one is heard to have the keys, or for one interval. Who let its
//! turn pass is not waited for again before it is heard.
//!
//! After a restart one package is published anew, since nobody knows whether the last one was.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, Instant};

use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::ledger::KeyName;
use slotwarden_core::person::PersonId;
use slotwarden_core::status::{SlotStatus, StateName};
use slotwarden_core::transfer::TransferOrder;
use slotwarden_core::{reception, transfer};
use tracing::{info, warn};

use super::{Loop, Waiting};
use crate::devices::{Applications, Hsm, Store};
use crate::exchange::{self, Arrival, Courier, CourierState, Members, What};
use crate::problem::{self, Problem};
use crate::status_json::ExchangeView;
use crate::sync_dir::{Node, Uid};
use crate::transfer_dir::printable;
use crate::wire::SpooledPackage;

/// First pause between two tries to make a package; each is twice as long as the one before.
const RETRY: Duration = Duration::from_secs(2);
/// Longest pause: each try leaves a line in the audit log.
const RETRY_MAX: Duration = Duration::from_secs(600);
/// What comes so is never taken: another file has to come.
const NEVER: [Refusal; 10] = [
    Refusal::OtherCluster,
    Refusal::RosterFileInvalid,
    Refusal::RosterOld,
    Refusal::RosterOfStranger,
    Refusal::UnknownSource,
    Refusal::NotForUs,
    Refusal::PackageInvalid,
    Refusal::PackageOld,
    Refusal::PackageForked,
    Refusal::PackageNotOpened,
];

/// The exchange as the loop knows it.
pub(super) struct Exchanging {
    courier: Courier,
    /// What the last package carried; `None`: none was made since the start.
    published: Option<Published>,
    /// Whether something changed since it was looked whether one is wanted.
    pub(super) stale: bool,
    /// A package is being made.
    making: bool,
    not_before: Option<Instant>,
    /// The next pause.
    pause: Duration,
    /// The package that is not planned again: refused for a conflict, as long as the own ledgers say what they said
    /// then; given up by people (`None`), whatever they say. Its source makes another one when something changed.
    left: Option<([u8; 32], Option<[u8; 32]>)>,
    /// The members whose files are wanted, as the courier was told.
    others: Vec<Node>,
    /// Slots whose tokens were looked through since they were opened.
    looked_through: SlotSet,
    /// Slots whose keys could be taken at the last look.
    taking: SlotSet,
    /// Rosters that are followed one after the other.
    to_follow: Vec<[u8; 32]>,
    /// Packages that wait for their turn, by their sources: since when.
    seen: BTreeMap<Node, ([u8; 32], Instant)>,
    /// Members that let their turn pass and were not heard since.
    passed: BTreeSet<Node>,
}

/// What a package carried.
struct Published {
    /// Its number: a later one that somebody carries by hand makes this one old wherever it comes first.
    sequence: u64,
    /// Names what it says of the own keys.
    facts: [u8; 32],
    roster: [u8; 32],
    slots: SlotSet,
    /// What it left out, by the name of the slot, sorted.
    skip: BTreeMap<String, Vec<KeyName>>,
}

impl Exchanging {
    pub(super) fn new(courier: Courier) -> Self {
        Exchanging {
            courier,
            published: None,
            stale: true,
            making: false,
            not_before: None,
            pause: RETRY,
            left: None,
            others: Vec::new(),
            looked_through: SlotSet::NONE,
            taking: SlotSet::NONE,
            to_follow: Vec::new(),
            seen: BTreeMap::new(),
            passed: BTreeSet::new(),
        }
    }

    /// When something is tried again, if nothing happens before.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.not_before
    }

    /// As `sync status` shows it.
    pub(super) fn view(&self) -> ExchangeView {
        let CourierState { engine, reachable, problems, .. } = self.courier.state();
        let told = |(name, text): (Option<exchange::Name>, String)| match name {
            Some(name) => format!("{name}: {text}"),
            None => text,
        };
        // What an engine says goes to terminals.
        let problems = problems.into_iter().map(told).map(|text| printable(&text)).collect();
        ExchangeView { engine: printable(&engine), reachable, problems }
    }
}

impl<H: Hsm, S: Store, A: Applications> Loop<'_, H, S, A> {
    /// The roster changed, or the daemon has just begun: says whose files are wanted.
    pub(super) fn tell_exchange(&mut self) {
        let own = self.devices.store.node_keys().current;
        let Some(roster) = self.service.roster().cloned() else { return };
        let others = if roster.member(&own).is_some() { self.others(&roster) } else { Vec::new() };
        let rosters = self.cluster.files.rosters();
        let Some(exchanging) = &mut self.exchanging else { return };
        if exchanging.others.iter().any(|node| !others.contains(node)) {
            // It is sealed for somebody who is no member any more.
            exchanging.courier.withdraw(What::Package);
            exchanging.published = None;
        }
        exchanging.others.clone_from(&others);
        exchanging.courier.members(Members { cluster: roster.cluster, own, others });
        exchanging.courier.publish(What::Roster, rosters);
        // What came under another roster, or while the cluster was divided, may be understood now.
        exchanging.courier.look_again();
        exchanging.stale = true;
    }

    /// A file came.
    pub(super) fn arrived(&mut self, arrival: Arrival) {
        let taken = match arrival.name.what {
            What::Roster => self.take_arrived_rosters(&arrival),
            What::Package | What::Receipt => self.read_arrived_package(&arrival),
        };
        self.answer_arrival(&arrival, taken);
    }

    /// A package that came was read, or given up.
    pub(super) fn arrival_taken(&mut self, arrival: &Arrival, read: Result<SpooledPackage, Problem>) {
        let taken = read.map(|package| self.take_arrived_package(arrival, &package));
        self.answer_arrival(arrival, taken);
    }

    fn answer_arrival(&mut self, arrival: &Arrival, taken: Result<Option<exchange::Answer>, Problem>) {
        match taken {
            Ok(None) => {}
            Ok(Some(answer)) => self.answer_exchange(arrival.hash, answer),
            Err(problem) => {
                let never = NEVER.iter().any(|refusal| problem.is(*refusal));
                warn!(name = %arrival.name, never, "what came is not taken: {problem}");
                self.answer_exchange(
                    arrival.hash,
                    if never { exchange::Answer::Refused } else { exchange::Answer::Later },
                );
            }
        }
    }

    fn answer_exchange(&self, hash: [u8; 32], answer: exchange::Answer) {
        if let Some(exchanging) = &self.exchanging {
            exchanging.courier.answer(hash, answer);
        }
    }

    fn take_arrived_rosters(&mut self, arrival: &Arrival) -> Result<Option<exchange::Answer>, Problem> {
        let taken = self.cluster.files.take_rosters(&arrival.path, self.service.roster())?;
        let in_force = self.service.roster().map(slotwarden_core::roster::Roster::hash);
        if in_force == Some(taken.hash) {
            return Ok(Some(exchange::Answer::Taken));
        }
        if self.service.status(self.now()).cluster.is_some_and(|cluster| cluster.divided) {
            // People choose; until then nothing is followed.
            return Ok(Some(exchange::Answer::Later));
        }
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.to_follow = taken.newer.into_iter().rev().collect();
        }
        self.follow_next(arrival.hash);
        Ok(None)
    }

    /// Follows the next of the rosters that came, one after the other.
    fn follow_next(&mut self, file: [u8; 32]) {
        match self.exchanging.as_mut().and_then(|exchanging| exchanging.to_follow.pop()) {
            Some(hash) => self.follow(Waiting::Arrived { file, roster: true }, hash),
            None => self.answer_exchange(file, exchange::Answer::Taken),
        }
    }

    fn read_arrived_package(&mut self, arrival: &Arrival) -> Result<Option<exchange::Answer>, Problem> {
        if !self.cluster.setup.is_automatic() {
            // People carry packages here: nothing of it is wanted until it changes.
            return Ok(Some(exchange::Answer::Refused));
        }
        if !self.is_idle() || self.is_looking() || !self.has_cluster_key() {
            return Ok(Some(exchange::Answer::Later));
        }
        self.read_arrival(arrival)?;
        Ok(None)
    }

    fn take_arrived_package(&mut self, arrival: &Arrival, package: &SpooledPackage) -> Option<exchange::Answer> {
        if package.known {
            return Some(exchange::Answer::Taken);
        }
        // One without keys disturbs nobody.
        let now = package.slots.is_empty() || self.can_take(package.file) && self.is_our_turn(package.file);
        if !now {
            return Some(exchange::Answer::Later);
        }
        info!(source = package.source, sequence = package.sequence, objects = package.entries, "a package came");
        self.receive(PersonId::SERVICE, Waiting::Arrived { file: arrival.hash, roster: false }, package.file);
        None
    }

    /// What the core did with what came.
    pub(super) fn arrived_answered(&mut self, file: [u8; 32], roster: bool, answer: Answer) {
        match (problem::of_answer(answer), roster) {
            (Ok(()), true) => self.follow_next(file),
            (Ok(()), false) => self.answer_exchange(file, exchange::Answer::Taken),
            (Err(problem), _) => {
                let never = NEVER.iter().any(|refusal| problem.is(*refusal));
                warn!(never, "what came was not carried out: {problem}; {}", problem.remedy);
                if problem.is(Refusal::ImportConflicts)
                    && let (Some(hash), Ok(facts)) = (self.cluster.incoming_hash(), self.facts_hash())
                    && let Some(exchanging) = &mut self.exchanging
                {
                    exchanging.left = Some((hash, Some(facts)));
                }
                if let Some(exchanging) = &mut self.exchanging {
                    exchanging.to_follow.clear();
                }
                self.answer_exchange(file, if never { exchange::Answer::Refused } else { exchange::Answer::Later });
            }
        }
    }

    /// Whether the package could be planned and made now, as far as is known: each order that is refused leaves lines in the
    /// audit log, so none is given in vain.
    fn can_take(&self, hash: [u8; 32]) -> bool {
        let status = self.service.status(self.now());
        let slots = self.cluster.incoming_slots();
        let ready = status.slots.iter().filter(|slot| slots.has(slot.slot)).all(takes_keys);
        let facts = self.facts_hash().ok();
        let left = self.exchanging.as_ref().and_then(|exchanging| exchanging.left);
        ready && !left.is_some_and(|(left, then)| left == hash && (then.is_none() || then == facts))
    }

    /// People give a package up: the exchange does not bring it again at once.
    pub(super) fn leave(&mut self, hash: [u8; 32]) {
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.left = Some((hash, None));
        }
    }

    /// Whether the backup key in force here is the cluster's: before that nothing is sealed or opened.
    fn has_cluster_key(&self) -> bool {
        self.service.roster().is_some_and(|roster| self.backup_key_id() == Some(roster.key_id))
    }

    /// Whether every member before this one has what the package brings, or let its turn pass.
    fn is_our_turn(&mut self, hash: [u8; 32]) -> bool {
        let own = self.devices.store.node_keys().current;
        let (Some(roster), Some((source, facts))) = (self.service.roster(), self.cluster.incoming()) else {
            return true;
        };
        let before: Vec<Node> = roster
            .members
            .iter()
            .map(|member| member.node)
            .take_while(|node| *node != own)
            .filter(|node| *node != source)
            .collect();
        let lacks = |node: &Node| self.cluster.files.ledgers().lacks(*node, facts).unwrap_or(false);
        let before: Vec<Node> = before.into_iter().filter(lacks).collect();
        let turn = self.cluster.setup.settings.as_ref().map_or(Duration::ZERO, |settings| settings.interval);
        let Some(exchanging) = &mut self.exchanging else { return true };
        let waits: Vec<Node> = before.into_iter().filter(|node| !exchanging.passed.contains(node)).collect();
        let seen = exchanging.seen.entry(source).or_insert((hash, Instant::now()));
        if seen.0 != hash {
            *seen = (hash, Instant::now());
        }
        let waited = seen.1.elapsed();
        let patience = u32::try_from(waits.len()).map_or(Duration::MAX, |members| turn.saturating_mul(members));
        if waited < patience {
            return false;
        }
        exchanging.passed.extend(waits);
        true
    }

    /// A member was heard: others may have waited for it, and it for us.
    pub(super) fn member_heard(&mut self, node: Node) {
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.passed.remove(&node);
            exchanging.stale = true;
            exchanging.courier.look_again();
        }
    }

    /// A look at the token of this slot ended; what it has is known.
    pub(super) fn slot_is_known(&mut self, slot: SlotId) {
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.looked_through = exchanging.looked_through.with(slot);
        }
    }

    /// Whether no keys are on their way, so that some may be sent or taken.
    fn is_idle(&self) -> bool {
        self.service.transfer_state() == transfer::State::Idle
            && self.service.reception_state() == reception::State::Idle
            && self.service.ceremony().is_none()
            && !self.is_reading()
    }

    /// Has what came too early brought again where a slot was opened since, or got U, or the cluster's backup key
    /// is in force here now.
    fn look_again_if_more_can_be_taken(&mut self) {
        if self.exchanging.is_none() {
            return;
        }
        let taking = if self.has_cluster_key() {
            let status = self.service.status(self.now());
            let slots = status.slots.iter().filter(|slot| takes_keys(slot)).map(|slot| slot.slot);
            slots.fold(SlotSet::NONE, SlotSet::with)
        } else {
            SlotSet::NONE
        };
        let Some(exchanging) = &mut self.exchanging else { return };
        if taking.slots().any(|slot| !exchanging.taking.has(slot)) {
            exchanging.courier.look_again();
        }
        exchanging.taking = taking;
    }

    /// Has a package made and published, if one is wanted.
    pub(super) fn publish_what_changed(&mut self) {
        self.look_again_if_more_can_be_taken();
        let open = self.open_slots();
        let Some(exchanging) = &mut self.exchanging else { return };
        // What was closed is looked through again when it is opened.
        exchanging.looked_through =
            exchanging.looked_through.slots().filter(|slot| open.has(*slot)).fold(SlotSet::NONE, SlotSet::with);
        let known = open.slots().all(|slot| exchanging.looked_through.has(slot));
        let new_slot =
            exchanging.published.as_ref().is_none_or(|published| open.slots().any(|slot| !published.slots.has(slot)));
        let due = exchanging.not_before.is_none_or(|at| at <= Instant::now());
        let sent = self.service.marks().sent;
        let is_old = exchanging.published.as_ref().is_some_and(|published| published.sequence != sent);
        let asked = exchanging.stale || new_slot || is_old;
        if !asked || !known || !due || exchanging.making {
            return;
        }
        exchanging.not_before = None;
        let automatic = self.cluster.setup.is_automatic();
        if !automatic || !self.is_idle() || self.is_looking() || !self.may_exchange() {
            return;
        }
        match self.is_package_wanted(open) {
            Ok(None) => self.exchanging.iter_mut().for_each(|exchanging| exchanging.stale = false),
            Ok(Some((order, skip))) => {
                if let Some(exchanging) = &mut self.exchanging {
                    (exchanging.making, exchanging.stale) = (true, false);
                }
                let waiting = Waiting::Package { slots: open, skip };
                self.order(PersonId::SERVICE, waiting, Command::Transfer { order });
            }
            Err(problem) => {
                warn!("no package was made: {problem}");
                self.try_again();
            }
        }
    }

    fn may_exchange(&self) -> bool {
        let status = self.service.status(self.now());
        let stopping = self.stop_by.is_some();
        let booting = status.slots.iter().any(|slot| slot.state == StateName::Activating);
        let cluster =
            status.cluster.is_some_and(|cluster| cluster.own.is_some() && cluster.members > 1 && !cluster.divided);
        cluster && !stopping && !booting && self.has_cluster_key()
    }

    #[allow(clippy::type_complexity)] // The order, and what it leaves out.
    fn is_package_wanted(
        &self,
        open: SlotSet,
    ) -> Result<Option<(TransferOrder, BTreeMap<String, Vec<KeyName>>)>, Problem> {
        let Some(roster) = self.service.roster() else { return Ok(None) };
        let nodes = self.others(roster);
        let unreadable = |error: io::Error| Problem::from(Refusal::TransferFiles).with(error.to_string());
        let uids = self.uids();
        let with_keys: Vec<_> = uids.iter().copied().filter(|(slot, _)| open.has(*slot)).collect();
        let skip = self.skips(&with_keys, &nodes).map_err(unreadable)?;
        let facts = self.facts_hash().map_err(unreadable)?;
        let published = self.exchanging.as_ref().and_then(|exchanging| exchanging.published.as_ref());
        let carried = published.is_some_and(|published| {
            let still_skipped = |(slot, left_out): (&String, &Vec<KeyName>)| {
                let now = skip.get(slot).map_or(&[] as &[KeyName], Vec::as_slice);
                left_out.iter().all(|name| now.binary_search(name).is_ok())
            };
            published.sequence == self.service.marks().sent
                && published.facts == facts
                && published.roster == roster.hash()
                && open.slots().all(|slot| published.slots.has(slot))
                && published.skip.iter().filter(|(slot, _)| skip.contains_key(*slot)).all(still_skipped)
        });
        if carried { Ok(None) } else { Ok(Some((self.package_order(&[], &[])?, skip))) }
    }

    fn facts_hash(&self) -> io::Result<[u8; 32]> {
        let uids: Vec<Uid> = self.uids().into_iter().map(|(_, uid)| uid).collect();
        self.cluster.files.ledgers().facts_hash(&uids)
    }

    /// A package was made, or not.
    pub(super) fn package_made(&mut self, slots: SlotSet, skip: BTreeMap<String, Vec<KeyName>>, answer: Answer) {
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.making = false;
        }
        let sequence = self.service.marks().sent;
        match (problem::of_answer(answer), self.facts_hash(), self.service.roster().map(|roster| roster.hash())) {
            (Ok(()), Ok(facts), Some(roster)) => {
                self.publish_package();
                if let Some(exchanging) = &mut self.exchanging {
                    exchanging.published = Some(Published { sequence, facts, roster, slots, skip });
                    exchanging.pause = RETRY;
                }
                self.renew_cluster_view();
            }
            (Err(problem), ..) => {
                warn!("no package was made: {problem}; {}", problem.remedy);
                self.try_again();
            }
            (Ok(()), _, _) => self.try_again(),
        }
    }

    /// The package that was made for the members is theirs to fetch.
    pub(super) fn publish_package(&self) {
        if let Some(exchanging) = &self.exchanging {
            exchanging.courier.publish(What::Package, self.cluster.files.published());
        }
    }

    fn try_again(&mut self) {
        if let Some(exchanging) = &mut self.exchanging {
            exchanging.stale = true;
            exchanging.not_before = Some(Instant::now() + exchanging.pause);
            exchanging.pause = (exchanging.pause * 2).min(RETRY_MAX);
        }
    }
}

/// Whether keys of a package could be made in this slot now, as far as is known.
fn takes_keys(slot: &SlotStatus) -> bool {
    slot.state == StateName::Active && slot.unwrap_key != Some(false)
}
