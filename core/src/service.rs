//! Routing, durability, deadlines: the four verbs.
//!
//! `handle` takes an input, `poll_effect` gives what to perform, `poll_deadline` says when
//! time itself becomes an input, `status` shows. The service owns every machine and the
//! Safe; machines never call each other. Same inputs, same trace.
//!
//! Orders enter by `service/door`, those of the two-person rule go on to
//! `service/dual_control`; one slot with its machines is `service/entry`.
//!
//! After a restart the platform hands over the records (`load`, `load_chain`), then
//! `Input::Start`. An attempt that was open counts as unknown; a change that was not yet
//! *calling* is undone; one that was is decided at the first look at its token.

#[cfg(feature = "cards")]
mod cards;
#[cfg(not(feature = "cards"))]
#[path = "service/no_cards.rs"]
mod cards;
#[cfg(feature = "cards")]
mod ceremonies;
#[cfg(feature = "cards")]
mod cluster;
mod door;
mod dual_control;
mod entry;
#[cfg(feature = "cards")]
mod judge;
mod people;
#[cfg(feature = "cards")]
mod receptions;
#[cfg(feature = "cards")]
mod transfers;
mod zeroize;

use heapless::Vec;

use self::cards::Cards;
use self::door::{REFUSED_PERSONS_MAX, RefusedLately};
use self::entry::{Armed, Entry, Waits};
use self::people::Collecting;
use self::zeroize::Zeroizing;

use crate::approval::Approvals;
use crate::audit::{AuditEvent, CeremonyEnd, Chain};
use crate::card::registry::CardEntry;
use crate::card::sets::{CardSets, SetSubject};
use crate::ceremony::Ceremony;
use crate::code::RandomWatch;
use crate::command::{Answer, Caller, CommandKind, ReplyId};
use crate::effect::{ApplicationId, Effect, Input, Outcome, Room, SlotId, StoreResult, Ticket};
use crate::fault::{Fault, Refusal};
use crate::limits::{
    APPLICATION_DEADLINE_MS, APPLICATIONS_PER_SLOT_MAX, CALL_DEADLINE_MS, CHECKPOINT_INTERVAL_MS, COLLECTIONS_MAX,
    COMMANDS_MAX, OUTBOX_APPLIANCE, OUTBOX_FIRMWARE, PLACES_APPLIANCE, PLACES_FIRMWARE, PLATFORM_DEADLINE_MS,
    SLOTS_APPLIANCE, SLOTS_FIRMWARE, TRIES_DEFAULT,
};
use crate::outbox::{Act, Next, Outbox, bug_fault};
use crate::person::{self, PersonId, Persons};
use crate::pin_change::{self, ChangeEnd, ChangeEvent, ChangeOrder, PinChange};
use crate::reception::Reception;
use crate::record::{Owner, PolicyRecord, Record, Sets, SlotRecord};
use crate::safe::{Safe, SecretId};
use crate::slot::{SlotEvent, SlotMachine, State};
use crate::slot_data::{Bound, SlotData};
use crate::status::{SlotStatus, Status};
use crate::time::Now;
use crate::transfer::Restoration;
use crate::turn::{Out, Turn};

/// The service as an appliance runs it.
pub type Appliance = Service<SLOTS_APPLIANCE, PLACES_APPLIANCE, OUTBOX_APPLIANCE>;
/// The service as a firmware runs it.
pub type Firmware = Service<SLOTS_FIRMWARE, PLACES_FIRMWARE, OUTBOX_FIRMWARE>;

/// What the platform read from its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration<const SLOTS: usize> {
    /// The slots, in the order of the file.
    pub slots: Vec<SlotConfiguration, SLOTS>,
    /// The persons and their roles.
    pub persons: Persons,
    /// Manual tries in a row before each further one needs a confirmation.
    pub tries: u8,
    /// SHA-256 of the configuration's text, for the audit log.
    pub digest: [u8; 32],
    /// SHA-256 of the protected part that this configuration was made from.
    pub in_force: [u8; 32],
    /// SHA-256 of the protected part of the file. Another one than `in_force` where two
    /// persons have to approve it first.
    pub offered: [u8; 32],
    /// How backups are protected: smart card operations are offered at level `cards` only.
    pub level: SecurityLevel,
    /// The cluster id for a store that has none yet: 16 random bytes.
    pub cluster: [u8; 16],
}

/// The appliance security level: how backups are protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SecurityLevel {
    /// No export.
    #[default]
    None,
    /// By a passphrase.
    Passphrase,
    /// By cards.
    Cards,
}

impl SecurityLevel {
    /// The word, for configuration, JSON and people.
    #[must_use]
    pub const fn word(self) -> &'static str {
        match self {
            SecurityLevel::None => "none",
            SecurityLevel::Passphrase => "passphrase",
            SecurityLevel::Cards => "cards",
        }
    }
}

/// One configured slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfiguration {
    /// The number the platform gave this name for ever.
    pub owner: Owner,
    /// Slot uid for a slot that has no record yet. No two slots of a node have the same; members of a cluster that
    /// configure a slot of one name should.
    pub uid: [u8; 16],
    /// The applications bound to the slot.
    pub applications: Vec<ApplicationId, APPLICATIONS_PER_SLOT_MAX>,
    /// The longest token PIN that all of them can take, characters; 0: unstated.
    pub pin_chars_max: u16,
}

/// The service. Call [`Service::handle`] for each input, then [`Service::poll_effect`]
/// until it yields nothing, then wait until [`Service::poll_deadline`] or the next input.
pub struct Service<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> {
    entries: Vec<Entry, SLOTS>,
    collections: Vec<Collecting, COLLECTIONS_MAX>,
    safe: Safe<PLACES>,
    outbox: Outbox<OUTBOX>,
    persons: Persons,
    tries: u8,
    digest: [u8; 32],
    in_force: [u8; 32],
    offered: [u8; 32],
    policy: PolicyRecord,
    policy_dirty: bool,
    approvals: Approvals,
    cards: Cards<SLOTS>,
    #[cfg(feature = "cards")]
    transfer: transfers::Transfers,
    #[cfg(feature = "cards")]
    reception: receptions::Receptions,
    #[cfg(feature = "cards")]
    clustering: cluster::Clustering<SLOTS>,
    watch: RandomWatch,
    /// The time of the last input: effects polled after it are timed from here.
    now: Now,
    phase: Phase,
    /// The data key is to be destroyed: before anything else is performed.
    destroy: Option<(Ticket, PersonId)>,
    halted: Option<Fault>,
    room: Room,
    worker: bool,
    boot_done: bool,
    /// Orders whose `Effect::Reply` was not polled yet.
    open: Vec<ReplyId, COMMANDS_MAX>,
    boot_callers: Vec<Caller, COMMANDS_MAX>,
    end_callers: Vec<Caller, COMMANDS_MAX>,
    checkpoint_due_ms: Option<u64>,
    /// When a commit that is still unanswered counts as failed.
    commit_due_ms: Option<u64>,
    /// Whose orders were refused at the door lately: how much of it is still journaled.
    refused: Vec<RefusedLately, REFUSED_PERSONS_MAX>,
}

/// How far the service is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Loading,
    Running,
    Stopping { caller: Caller, deadline_ms: u64 },
    Zeroizing(Zeroizing),
    Stopped,
}

/// The machines of a slot sent each other on without end.
const BUG_ENDLESS_CHANGE: u16 = 30;
/// What one input may lead to: an event, a change that begins, its end, the decision after it,
/// the end of that.
const WORKS_PER_INPUT_MAX: usize = 6;

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// A service that knows its configuration and no records yet.
    ///
    /// # Errors
    /// [`Refusal::TooManyApplications`] and its like, when the configuration cannot be served.
    pub fn new(configuration: Configuration<SLOTS>) -> Result<Self, Refusal> {
        let mut service = Self::empty();
        service.configure(&configuration)?;
        Ok(service)
    }

    /// A service without slots and persons: a constant, so that a firmware needs no stack
    /// to put one into static memory.
    #[must_use]
    pub const fn empty() -> Self {
        const { assert!(OUTBOX >= 4 * SLOTS + 16, "an outbox holds what all slots may push at once") };
        const { assert!(SLOTS <= 128, "a SlotId counts slots in one byte") };
        Service {
            entries: Vec::new(),
            collections: Vec::new(),
            safe: Safe::new(),
            outbox: Outbox::new(),
            persons: Persons::none(),
            tries: TRIES_DEFAULT,
            digest: [0; 32],
            in_force: [0; 32],
            offered: [0; 32],
            policy: PolicyRecord { dual_control: false, configuration: [0; 32] },
            policy_dirty: false,
            approvals: Approvals::new(),
            cards: Cards::new(),
            #[cfg(feature = "cards")]
            transfer: transfers::Transfers::new(),
            #[cfg(feature = "cards")]
            reception: receptions::Receptions::new(),
            #[cfg(feature = "cards")]
            clustering: cluster::Clustering::new(),
            watch: RandomWatch::new(),
            now: Now { mono_ms: 0, wall_s: None },
            phase: Phase::Loading,
            destroy: None,
            halted: None,
            room: Room::Plenty,
            worker: false,
            boot_done: false,
            open: Vec::new(),
            boot_callers: Vec::new(),
            end_callers: Vec::new(),
            checkpoint_due_ms: None,
            commit_due_ms: None,
            refused: Vec::new(),
        }
    }

    /// Gives an empty service its slots and persons. Once, before anything else.
    ///
    /// # Errors
    /// As [`Service::new`].
    pub fn configure(&mut self, configuration: &Configuration<SLOTS>) -> Result<(), Refusal> {
        self.persons = configuration.persons.clone();
        self.tries = configuration.tries;
        self.digest = configuration.digest;
        self.in_force = configuration.in_force;
        self.offered = configuration.offered;
        self.cards.level = configuration.level;
        self.cards.cluster = configuration.cluster;
        for (number, slot) in (0..=u8::MAX).zip(&configuration.slots) {
            let mut data = SlotData::new(SlotId(number), slot.owner, SlotRecord::new(slot.uid));
            data.dirty = true;
            data.applications_pin_chars_max = slot.pin_chars_max;
            for application in &slot.applications {
                data.applications.push(Bound::new(*application)).map_err(|_| Refusal::TooManyApplications)?;
            }
            let machine = self.with_turn(&mut data, SlotMachine::new);
            let entry = Entry { machine, change: None, data, armed: None };
            self.entries.push(entry).map_err(|_| Refusal::TooManySlots)?;
        }
        Ok(())
    }

    /// Hands over a record found in the store. Before `Input::Start` only. A record whose
    /// owner is not configured stays in the store untouched.
    pub fn load(&mut self, owner: Owner, record: SlotRecord) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.data.owner == owner) {
            entry.data.record = record;
            entry.data.dirty = false;
        }
    }

    /// Hands over what two persons decided, as found in the store. Before `Input::Start` only.
    pub const fn load_policy(&mut self, policy: PolicyRecord) {
        self.policy = policy;
        self.policy_dirty = false;
    }

    /// Hands over the sets of shares found in the store. Before `Input::Start` only.
    pub fn load_sets(&mut self, owner: Owner, sets: Sets) {
        if let Some(entry) = self.entries.iter_mut().find(|entry| entry.data.owner == owner) {
            entry.data.sets = sets;
        }
    }

    /// Hands over sets of cards found in the store. Before `Input::Start` only.
    pub fn load_card_sets(&mut self, subject: SetSubject, sets: CardSets) {
        self.cards.load_sets(subject, sets);
    }

    /// Hands over one card of the registry, in the order of places. Before `Input::Start` only.
    pub fn load_card(&mut self, entry: CardEntry) {
        self.cards.registry.load(entry);
    }

    /// Hands over the cluster id found in the store. Before `Input::Start` only.
    pub const fn load_cluster(&mut self, cluster: [u8; 16]) {
        self.cards.load_cluster(cluster);
    }

    /// Hands over the restoration found in the store. Before `Input::Start` only, after the slots'
    /// configuration.
    pub fn load_restoration(&mut self, restoration: Restoration) {
        self.take_up_transfer(restoration);
    }

    /// Hands over the package found in the store whose making was ordered. Before `Input::Start` only, after the
    /// slots' configuration.
    pub fn load_reception(&mut self, reception: &Reception) {
        self.take_up_reception(reception);
    }

    /// Hands over the end of the audit chain found in the store. Before `Input::Start` only.
    pub fn load_chain(&mut self, chain: Chain) {
        self.outbox.load_chain(chain);
    }

    /// Puts a secret into the Safe; `write` returns its length in bytes.
    ///
    /// # Errors
    /// [`Refusal::SafeFull`], [`Refusal::SecretTooLong`].
    pub fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<SecretId, Refusal> {
        self.safe.fill(write)
    }

    /// Answers `Effect::Random` and `Effect::Unseal` with bytes; false for a stale id.
    pub fn refill(&mut self, id: SecretId, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.safe.refill(id, write)
    }

    /// Lends a secret while an effect is performed; `None` for a stale id.
    pub fn with<T>(&self, id: SecretId, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.safe.with(id, read)
    }

    /// Wipes a secret that never became part of a command.
    pub fn wipe(&mut self, id: SecretId) {
        self.safe.wipe(id);
    }

    /// Takes one input. Spurious inputs are harmless.
    ///
    /// # Errors
    /// A refusal means that a command was not taken: no `Effect::Reply` will follow, its
    /// secrets are wiped. Other inputs are always taken.
    pub fn handle(&mut self, now: Now, input: Input) -> Result<(), Refusal> {
        self.now = Now { mono_ms: now.mono_ms.max(self.now.mono_ms), wall_s: now.wall_s };
        // After the end only the last commit is awaited: `Effect::Stopped` follows it.
        if self.phase == Phase::Stopped && !matches!(input, Input::Stored { .. }) {
            return self.refuse_at_door(&input, Refusal::Stopping);
        }
        self.outbox.begin_turn(now.wall_s);
        let taken = match input {
            Input::Command { caller, command } => self.admit(caller, command),
            Input::Start => {
                self.start();
                Ok(())
            }
            Input::Done { ticket, outcome } => {
                self.done(ticket, outcome);
                Ok(())
            }
            Input::Stored { ticket, result } => {
                self.stored(ticket, result);
                Ok(())
            }
            Input::Token { slot, presence } => {
                self.slot_event(slot, SlotEvent::Token(presence));
                Ok(())
            }
            Input::WorkerUp => {
                self.worker = true;
                Ok(())
            }
            Input::WorkerLost => {
                self.worker_lost();
                Ok(())
            }
            Input::Reader { reader, event } => {
                self.reader_event(reader, event);
                Ok(())
            }
            Input::Tick => {
                self.tick();
                Ok(())
            }
        };
        self.conclude();
        taken
    }

    /// The next effect to perform, in order; `None` while a commit is unanswered.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if let Some((ticket, who)) = self.destroy.take() {
            return Some(Effect::Zeroize { ticket, who });
        }
        loop {
            let (entries, policy, policy_dirty) = (&mut self.entries, self.policy, &mut self.policy_dirty);
            let cards = &mut self.cards;
            #[cfg(feature = "cards")]
            let (transfer, reception, clustering) = (&mut self.transfer, &mut self.reception, &mut self.clustering);
            let next = self.outbox.poll(|| {
                if core::mem::take(policy_dirty) {
                    return Some(Record::Policy(policy));
                }
                if let Some(record) = cards.take_record() {
                    return Some(record);
                }
                #[cfg(feature = "cards")]
                if let Some(record) = transfer
                    .take_record()
                    .or_else(|| clustering.take_record())
                    .or_else(|| reception.take_record(|slot| Some(entries.get(usize::from(slot.0))?.data.owner)))
                {
                    return Some(record);
                }
                let entry = entries.iter_mut().find(|entry| entry.data.dirty || entry.data.sets_dirty)?;
                let (owner, data) = (entry.data.owner, &mut entry.data);
                if data.dirty {
                    data.dirty = false;
                    return Some(Record::Slot { owner, record: data.record });
                }
                data.sets_dirty = false;
                Some(Record::Sets { owner, sets: data.sets.clone() })
            });
            match next {
                Next::Nothing => return None,
                Next::Record(effect) => {
                    if matches!(effect, Effect::Commit { .. }) {
                        self.commit_due_ms = Some(self.now.after_ms(PLATFORM_DEADLINE_MS));
                    }
                    return Some(effect);
                }
                Next::Act(Act::Wipe(id)) => self.safe.wipe(id),
                Next::Act(Act::Withdrawn) => {}
                // After a halt everybody was answered already: exactly one answer for each order.
                Next::Act(Act::Reply { reply, .. }) if !self.open.contains(&reply) => {}
                // The session that wanted it is gone with its ceremony.
                Next::Act(Act::Card { ticket, reader }) => {
                    if let Some(call) = self.cards.take_call(ticket) {
                        self.cards.arm(reader, ticket, &call, self.now);
                        return Some(Effect::Card { ticket, reader, call });
                    }
                }
                Next::Act(act) => return Some(self.yielded(act)),
            }
        }
    }

    /// When to call `handle` with `Input::Tick` at the latest, `Now::mono_ms`.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<u64> {
        if self.phase == Phase::Stopped {
            return None;
        }
        let of_slots = self.entries.iter().filter_map(Entry::due_ms).min();
        let of_collections = self.collections.iter().map(|collecting| collecting.collection.due_ms()).min();
        let of_stop = match self.phase {
            Phase::Stopping { deadline_ms, .. } => Some(deadline_ms),
            Phase::Zeroizing(zeroizing) => Some(zeroizing.due_ms()),
            Phase::Loading | Phase::Running | Phase::Stopped => None,
        };
        let of_approvals = self.approvals.due_ms();
        let of_people =
            [of_collections, of_approvals, self.cards.due_ms(), self.transfer_due_ms()].into_iter().flatten().min();
        [of_slots, of_people, of_stop, self.checkpoint_due_ms, self.commit_due_ms].into_iter().flatten().min()
    }

    /// What everybody may see.
    #[must_use]
    pub fn status(&self, now: Now) -> Status<SLOTS> {
        let mut slots = Vec::new();
        for entry in &self.entries {
            // As many as there are entries, in a table of the same capacity.
            let status = entry.status(now, self.tries, self.collecting(entry.data.id));
            // At another level a token has no keys of a backup key, and lacks none.
            let backup_key = status.backup_key.filter(|_| self.cards.level == SecurityLevel::Cards);
            let _ = slots.push(SlotStatus { backup_key, ..status });
        }
        Status {
            slots,
            halted: self.halted,
            single_person: !self.policy.dual_control,
            approvals: self.approvals.status(now),
            configuration_waits: self.configuration_waits(),
            restart_wanted: self.policy.dual_control && self.policy.configuration != self.in_force,
            boot_done: self.boot_done,
            worker: self.worker,
            disk_reserve: self.room == Room::Reserve,
            ceremony: self.cards.status(now),
            last_ceremony: self.cards.last(),
            backup: self.cards.backup_status(),
            transfer: self.transfer_status(),
            cluster: self.cluster_status(),
        }
    }

    /// Whether a person may give an order or read something.
    #[must_use]
    pub fn may(&self, who: PersonId, what: CommandKind) -> bool {
        person::may(self.persons.roles(who), what)
    }

    /// What two persons decided: for platforms and checkers.
    #[must_use]
    pub const fn policy(&self) -> PolicyRecord {
        self.policy
    }

    /// The state of a slot's machine: for checkers and panels.
    #[must_use]
    pub fn slot_state(&self, slot: SlotId) -> Option<State> {
        self.entries.get(usize::from(slot.0)).map(|entry| entry.machine.state())
    }

    /// The state of the token PIN change of a slot, if one runs: for checkers.
    #[must_use]
    pub fn change_state(&self, slot: SlotId) -> Option<pin_change::State> {
        self.entries.get(usize::from(slot.0))?.change.as_ref().map(PinChange::state)
    }

    /// The record of a slot as the machines see it: for checkers.
    #[must_use]
    pub fn slot_record(&self, slot: SlotId) -> Option<&SlotRecord> {
        self.entries.get(usize::from(slot.0)).map(|entry| &entry.data.record)
    }

    /// The sets of shares of a slot as the machines see them: for checkers.
    #[must_use]
    pub fn sets(&self, slot: SlotId) -> Option<&Sets> {
        self.entries.get(usize::from(slot.0)).map(|entry| &entry.data.sets)
    }

    /// Every card that is known.
    #[must_use]
    pub fn card_entries(&self) -> &[CardEntry] {
        self.cards.registry.entries()
    }

    /// The sets of cards of a subject as the machines see them.
    #[must_use]
    pub fn card_sets(&self, subject: SetSubject) -> Option<&CardSets> {
        self.cards.sets(subject)
    }

    /// The ceremony under way: for checkers and transcripts.
    #[must_use]
    pub fn ceremony(&self) -> Option<&Ceremony> {
        self.cards.ceremony()
    }

    /// The cluster id.
    #[must_use]
    pub const fn cluster(&self) -> [u8; 16] {
        self.cards.cluster
    }

    /// The Safe, for checkers of P16: how many places are taken, and how many the states own.
    #[must_use]
    pub fn secrets_taken_and_owned(&self) -> (usize, usize) {
        let owned = self.entries.iter().map(Entry::secrets).fold(0usize, usize::saturating_add);
        let collected = self.collections.iter().map(|collecting| collecting.collection.secrets());
        let of_transfer = if self.halted.is_some() { 0 } else { self.transfer_secrets() };
        let owned = owned.saturating_add(self.cards.secrets()).saturating_add(of_transfer);
        (self.safe.taken(), collected.fold(owned, usize::saturating_add))
    }

    /// Whether every free place of the Safe holds only zero bytes (P16).
    #[must_use]
    pub fn free_places_are_wiped(&self) -> bool {
        self.safe.free_places_are_wiped()
    }

    /// The audit chain as far as it was handed to the platform.
    #[must_use]
    pub const fn chain(&self) -> Chain {
        self.outbox.chain()
    }

    // Events.

    fn start(&mut self) {
        if self.phase != Phase::Loading {
            return;
        }
        self.phase = Phase::Running;
        self.outbox.journal_service(None, AuditEvent::Started { configuration: self.digest });
        if self.configuration_waits() {
            self.outbox.journal_service(None, AuditEvent::ConfigurationWaits(self.offered));
        }
        for entry in &mut self.entries {
            self.outbox.journal(None, entry.data.id, AuditEvent::SlotConfigured { owner: entry.data.owner });
            entry.recover(&mut self.outbox);
        }
        self.go_on_with_roster();
        self.outbox.act(Act::Checkpoint);
        self.checkpoint_due_ms = Some(self.now.after_ms(CHECKPOINT_INTERVAL_MS));
    }

    fn done(&mut self, ticket: Ticket, outcome: Outcome) {
        if let Outcome::Zeroized(result) = outcome {
            return self.key_destroyed(ticket, result);
        }
        if ticket.slot.is_none() {
            let _ = self.card_done(ticket, outcome) || self.service_call_done(ticket, outcome);
            return;
        }
        let Some(slot) = ticket.slot else { return };
        if self.collection_done(ticket, outcome) {
            return;
        }
        let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { return };
        if entry.armed.is_some_and(|armed| armed.waits == Waits::Effect(ticket)) {
            entry.armed = None;
        }
        self.pass_on(slot, ChangeEvent::Done(ticket, outcome), SlotEvent::Done(ticket, outcome));
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0))
            && !entry.data.applications_pending()
        {
            entry.armed = entry.armed.filter(|armed| armed.waits != Waits::Applications);
        }
    }

    fn stored(&mut self, ticket: Ticket, result: StoreResult) {
        match result {
            StoreResult::Durable(room) => {
                if self.outbox.stored(ticket) {
                    self.room = room;
                    self.commit_due_ms = None;
                }
            }
            StoreResult::Failed => self.halt(Fault::StoreFailed, Refusal::StoreFailed),
        }
    }

    fn worker_lost(&mut self) {
        self.worker = false;
        self.outbox.withdraw_end_of_worker();
        self.outbox.journal_service(None, AuditEvent::WorkerLost);
        self.ceremony_lost_worker();
        self.transfer_lost_worker();
        for slot in self.slots() {
            if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
                entry.armed = entry.armed.filter(|armed| armed.waits == Waits::Applications);
            }
            self.pass_on(slot, ChangeEvent::WorkerLost, SlotEvent::WorkerLost);
        }
        while let Some(caller) = self.end_callers.pop() {
            self.outbox.journal_service(Some(caller.who), AuditEvent::Completed(CommandKind::EndCall));
            self.reply(caller, Answer::Done);
        }
    }

    fn tick(&mut self) {
        for slot in self.slots() {
            let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { continue };
            if entry.wait_is_over(self.now) {
                self.slot_event(slot, SlotEvent::WaitOver);
            } else if entry.deadline_passed(self.now) {
                self.pass_on(slot, ChangeEvent::DeadlinePassed, SlotEvent::DeadlinePassed);
            }
        }
        self.expire_approvals();
        self.tick_collections();
        self.tick_cards();
        self.tick_transfer();
        self.tick_cluster();
        self.tick_zeroize();
        // A disk that does not answer is as good as one that fails; what it may still write is
        // what a power cut would have left.
        if self.commit_due_ms.is_some_and(|due_ms| due_ms <= self.now.mono_ms) {
            self.halt(Fault::StoreFailed, Refusal::StoreFailed);
        }
        if self.checkpoint_due_ms.is_some_and(|due_ms| due_ms <= self.now.mono_ms) {
            self.outbox.act(Act::Checkpoint);
            self.checkpoint_due_ms = Some(self.now.after_ms(CHECKPOINT_INTERVAL_MS));
        }
    }

    /// Tells the machine that has the word.
    fn pass_on(&mut self, slot: SlotId, change: ChangeEvent, event: SlotEvent) {
        let changing = self.entries.get(usize::from(slot.0)).is_some_and(|entry| entry.change.is_some());
        if changing {
            self.change_event(slot, change);
        } else {
            self.slot_event(slot, event);
        }
    }

    // Machines.

    fn slot_event(&mut self, slot: SlotId, event: SlotEvent) {
        self.run(slot, Work::Slot(event));
    }

    fn change_event(&mut self, slot: SlotId, event: ChangeEvent) {
        self.run(slot, Work::Change(event));
    }

    /// Runs one event, then whatever the two machines of the slot have for each other.
    fn run(&mut self, slot: SlotId, first: Work) {
        let stopping = matches!(self.phase, Phase::Stopping { .. } | Phase::Zeroizing(_)) || self.halted.is_some();
        let Some(entry) = self.entries.get_mut(usize::from(slot.0)) else { return };
        let mut next = Some(first);
        for _ in 0..WORKS_PER_INPUT_MAX {
            let Some(work) = next.take() else { return };
            let (mut order, mut end, mut deliver) = (None, None, None);
            let mut turn = Turn {
                now: self.now,
                tries: self.tries,
                stopping,
                halted: self.halted.is_some(),
                slot: &mut entry.data,
                secrets: &mut self.safe,
                watch: &mut self.watch,
                out: &mut self.outbox,
                change: &mut order,
                change_end: &mut end,
                deliver: &mut deliver,
            };
            match work {
                Work::Slot(event) => entry.machine.handle(event, &mut turn),
                Work::Change(event) => {
                    if let Some(change) = &mut entry.change {
                        change.handle(event, &mut turn);
                    }
                }
                Work::Begin(order) => entry.change = Some(PinChange::begin(order, &mut turn)),
                Work::End(end) => {
                    entry.change = None;
                    entry.machine.handle(SlotEvent::ChangeEnded(end), &mut turn);
                }
            }
            next = end.map(Work::End).or(order.map(Work::Begin));
        }
        if next.is_some() {
            self.outbox.bug(BUG_ENDLESS_CHANGE);
        }
    }

    /// A turn for a machine that is being made; it has nothing to say yet.
    fn with_turn<T>(&mut self, data: &mut SlotData, make: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let (mut order, mut end): (Option<ChangeOrder>, Option<ChangeEnd>) = (None, None);
        let mut deliver = None;
        make(&mut Turn {
            now: self.now,
            tries: self.tries,
            stopping: false,
            halted: false,
            slot: data,
            secrets: &mut self.safe,
            watch: &mut self.watch,
            out: &mut self.outbox,
            change: &mut order,
            change_end: &mut end,
            deliver: &mut deliver,
        })
    }

    // The end of a turn.

    fn conclude(&mut self) {
        self.end_superseded_collections();
        if self.phase == Phase::Running {
            self.settle_card_sets();
            self.keep_backup_keys();
            self.go_on_with_transfer();
        }
        let working = self.entries.iter().any(|entry| entry.machine.state().is_working());
        let all_looked_at = self.entries.iter().all(|entry| entry.data.looked);
        if self.phase == Phase::Running && all_looked_at && !working {
            self.boot_done = true;
            while let Some(caller) = self.boot_callers.pop() {
                self.reply(caller, Answer::Done);
            }
        }
        if let Phase::Stopping { caller, deadline_ms } = self.phase
            && (!working || self.halted.is_some() || deadline_ms <= self.now.mono_ms)
        {
            self.stop(caller);
        }
        self.conclude_zeroize();
        if let Some(place) = self.outbox.broken()
            && self.halted.is_none()
        {
            self.halt(bug_fault(place), Refusal::Halted);
        }
        if self.halted.is_some() {
            // What a machine reserved or kept meanwhile leads nowhere any more.
            self.safe.wipe_all();
        }
        let of_slots = self.entries.iter().any(|entry| entry.data.dirty || entry.data.sets_dirty);
        let of_tables = self.cards.is_dirty() || self.is_transfer_dirty();
        let dirty = self.policy_dirty || of_tables || self.are_lines_due() || of_slots;
        self.outbox.end_turn(dirty && self.phase != Phase::Loading);
    }

    fn stop(&mut self, caller: Caller) {
        self.phase = Phase::Stopped;
        self.collections.clear();
        self.close_transcript(CeremonyEnd::Interrupted);
        self.outbox.withdraw_calls();
        self.outbox.journal_service(Some(caller.who), AuditEvent::Stopped);
        self.outbox.act(Act::Checkpoint);
        self.answer_all_open(Some(caller.reply), Refusal::Stopping);
        self.reply(caller, Answer::Done);
        self.outbox.act(Act::Stopped);
    }

    fn halt(&mut self, fault: Fault, refusal: Refusal) {
        if self.halted.is_some() {
            return;
        }
        self.halted = Some(fault);
        self.outbox.halt(refusal);
        let stopping = match self.phase {
            Phase::Stopping { caller, .. } => Some(caller.reply),
            Phase::Zeroizing(zeroizing) => Some(zeroizing.caller().reply),
            Phase::Loading | Phase::Running | Phase::Stopped => None,
        };
        self.answer_all_open(stopping, refusal);
        self.boot_callers.clear();
        self.end_callers.clear();
        self.collections.clear();
        self.cards.drop_ceremony();
        self.let_cards_go();
        self.commit_due_ms = None;
        self.checkpoint_due_ms = None;
        self.safe.wipe_all();
    }

    /// Answers every order that has no answer on its way, but one.
    fn answer_all_open(&mut self, but: Option<ReplyId>, refusal: Refusal) {
        for index in 0..self.open.len() {
            let Some(reply) = self.open.get(index).copied() else { continue };
            if Some(reply) != but && !self.outbox.answers(reply) {
                self.outbox.act(Act::Reply { reply, answer: Answer::Refused(refusal) });
            }
        }
    }

    fn reply(&mut self, caller: Caller, answer: Answer) {
        self.outbox.act(Act::Reply { reply: caller.reply, answer });
    }

    /// An act leaves for the platform: its deadline runs from here.
    fn yielded(&mut self, act: Act) -> Effect {
        match act {
            Act::Hsm { ticket, slot, call } => {
                // A ceremony has its own deadline, beside that of the slot.
                if ticket.slot.is_some() {
                    self.arm(slot, Waits::Effect(ticket), CALL_DEADLINE_MS);
                }
                Effect::Hsm { ticket, slot, call }
            }
            Act::Random { ticket, id } => {
                self.arm_ticket(ticket, PLATFORM_DEADLINE_MS);
                Effect::Random { ticket, id }
            }
            Act::Unseal { ticket, key, id } => {
                self.arm_ticket(ticket, PLATFORM_DEADLINE_MS);
                Effect::Unseal { ticket, key, id }
            }
            Act::Application { ticket, application, slot, order } => {
                self.arm(slot, Waits::Applications, APPLICATION_DEADLINE_MS);
                Effect::Application { ticket, application, slot, order }
            }
            Act::Reply { reply, answer } => {
                self.open.retain(|open| *open != reply);
                Effect::Reply { reply, answer }
            }
            Act::Checkpoint => {
                let Chain { sequence, head } = self.outbox.chain();
                Effect::Checkpoint { sequence, head }
            }
            Act::EndWorker => Effect::EndWorker,
            Act::SignTranscript { id, head } => Effect::SignTranscript { id, head },
            Act::File { ticket, step } => Effect::File { ticket, order: self.file_order(step) },
            // Yielded where its call is looked up.
            Act::Stopped | Act::Wipe(_) | Act::Withdrawn | Act::Card { .. } => {
                self.safe.wipe_all();
                Effect::Stopped
            }
        }
    }

    fn arm_ticket(&mut self, ticket: Ticket, wait_ms: u64) {
        // A collection has its own deadline, beside that of its slot.
        let collected = self.collections.iter().any(|found| found.collection.state().awaited() == Some(ticket));
        if let Some(slot) = ticket.slot
            && !collected
        {
            self.arm(slot, Waits::Effect(ticket), wait_ms);
        }
    }

    fn arm(&mut self, slot: SlotId, waits: Waits, wait_ms: u64) {
        let at_ms = self.now.after_ms(wait_ms);
        if let Some(entry) = self.entries.get_mut(usize::from(slot.0)) {
            entry.armed = Some(Armed { at_ms, waits });
        }
    }

    fn slots(&self) -> impl Iterator<Item = SlotId> + use<SLOTS, PLACES, OUTBOX> {
        (0..=u8::MAX).take(self.entries.len()).map(SlotId)
    }
}

/// What the machines of a slot have to do for one input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    /// Something happened to the slot.
    Slot(SlotEvent),
    /// Something happened to the token PIN change.
    Change(ChangeEvent),
    /// The slot machine wants a change.
    Begin(ChangeOrder),
    /// The change is over.
    End(ChangeEnd),
}
