//! The world: one core, its devices, its people and virtual time, all in one thread.
//!
//! Whatever happens is drawn from one seed, so the same seed gives the same trace, bit for
//! bit (P43). `devices` performs what the core orders, `power` starts and ends the service
//! and its worker, `strike` lets the planned faults happen; this file keeps time and hands
//! inputs over.

use heapless::Deque;
use slotwarden_core::card::{CardAnswer, CardCall, CardFailure, ReaderEvent};
use slotwarden_core::command::{Answer, Caller, Command, CommandKind, ReplyId};
use slotwarden_core::effect::{ApplicationId, ApplicationSet, Effect, HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::{PersonId, Persons, Role, Roles};
use slotwarden_core::record::Owner;
use slotwarden_core::safe::SecretId;
use slotwarden_core::service::SecurityLevel;
use slotwarden_core::status::{SlotStatus, StateName, WaitKind};
use slotwarden_core::time::Now;
use slotwarden_core::token::Presence;
use slotwarden_core::{Configuration, SlotConfiguration};

use crate::approvals::Request;
use crate::apps::Applications;
use crate::checkers::Checkers;
use crate::code::Code;
use crate::custodians::{APPROVER, PERSONS};
use crate::faults::{Kind, Plan, Step, Tally};
use crate::hsm::{Token, Tokens};
use crate::people::{People, Wish};
use crate::store::Disk;
use crate::strike::{ADMINISTRATOR, AUDITOR, OPERATOR, SECOND_ADMINISTRATOR};
use crate::table::{CardCounts, REPLIES_FROM, Table};
use crate::trace::Trace;
use crate::{Core, SLOTS, model};

/// Wall time at the beginning of every world: 2026-01-01.
const WALL_START_S: i64 = 1_767_225_600;
/// Power cuts planned at once: one, one in its recovery, one in that one's.
pub const CUTS_MAX: usize = 3;
/// Calls of one token that wait behind each other: those of its slot, and one more for each
/// ceremony that wanted to give keys to a token that does not answer.
const CALLS_MAX: usize = 12;
/// Events of one seed. More means that somebody goes round in circles.
pub const EVENTS_MAX: u64 = 20_000;

/// Something that will happen.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::large_enum_variant)] // a few dozen at a time, in a queue that keeps its memory
pub(crate) enum Event {
    /// The token of a slot carries out the next call.
    Call(u8),
    /// A device answers.
    Answer(Input),
    /// The store answers a commit.
    Stored(Ticket, Option<Kind>),
    /// The random sources answer.
    Drawn(Ticket, SecretId, Option<Kind>),
    /// The store answers an unsealing.
    Unsealed(Ticket, slotwarden_core::record::SecretKey, SecretId, Option<Kind>),
    /// The worker looks for the token of a slot.
    Look(u8),
    /// The daemon hears that its worker is gone.
    WorkerGone,
    /// A new worker runs.
    WorkerStarts,
    /// The daemon starts.
    DaemonStarts,
    /// A fault is over.
    Heals(Kind, u8),
    /// A reader carries out its call.
    CardCall(u8),
    /// Somebody types at a reader's dialogue, or has thought.
    PadGoesOn(u8, u32),
    /// Nobody typed at it.
    PadTimesOut(u8, u32),
    /// A reader answers a call, with y of a record that was read.
    CardAnswer { reader: u8, ticket: Ticket, call: CardCall, result: Result<CardAnswer, CardFailure>, y: Code },
    /// Something happens at a reader without an order.
    ReaderTells(u8, ReaderEvent),
    /// The disk says that the data key is gone.
    Zeroized(Ticket),
}

/// An event and its time; `number` keeps events of one millisecond in order.
#[derive(Clone, Copy, Debug)]
struct Scheduled {
    at_ms: u64,
    number: u32,
    event: Event,
}

/// A call on its way to a token, with the secrets it carries.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PendingCall {
    pub(crate) ticket: Ticket,
    pub(crate) call: HsmCall,
    pub(crate) first: Code,
    pub(crate) second: Code,
    pub(crate) fault: Option<Kind>,
}

/// Where the power goes, for campaigns that cut at every point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Points (commits and device calls) to let pass since the start or the last cut.
    pub after: u32,
    /// Which way; see [`Cut::WAYS`].
    pub way: u8,
}

impl Cut {
    /// At each point: the commit or call is lost or there, and what was unsettled is lost or kept.
    pub const WAYS: u8 = 4;

    pub(crate) const fn is_there(self) -> bool {
        self.way & 1 != 0
    }

    pub(crate) const fn unsettled_is_kept(self) -> bool {
        self.way & 2 != 0
    }
}

/// What a seed did.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    /// Inputs of the core.
    pub inputs: u64,
    /// Effects of the core.
    pub effects: u64,
    /// Slots that became active and were no longer so.
    pub life_cycles: u64,
    /// Slots that lived from their configuration to the end of their world.
    pub lives: u64,
    /// Orders given.
    pub orders: u64,
    /// Durable writes.
    pub writes: u64,
    /// Device calls carried out.
    pub calls: u64,
    /// Power cuts, each followed by a recovery.
    pub power_cuts: u64,
    /// Starts of the service.
    pub starts: u64,
    /// Slots that nobody can open any more although nothing was lost: locked, changed or
    /// lied about by somebody else, or a token file torn by a kill.
    pub counted_apart: u64,
    /// Collections of shares or parts that began.
    pub collections: u64,
    /// Of them those that were ended by a person.
    pub resets: u64,
    /// Shares shown to their custodians.
    pub shares_shown: u64,
    /// Shares and parts taken.
    pub entries_taken: u64,
    /// Shares and parts refused by what is wrong with them.
    pub entries_refused: u64,
    /// Orders that were told to wait for a second person.
    pub approvals_asked: u64,
    /// Approvals that second persons gave.
    pub approvals_given: u64,
    /// Slots that the SO PIN gave another code.
    pub unblocks: u64,
    /// Sets that came into force.
    pub sets: u64,
    /// What happened at tables.
    pub cards: CardCounts,
    /// How often each refusal from 600 on was answered, by its number.
    pub refusals: Refusals,
}

/// How often each refusal with a number from 600 to 899 was answered.
#[derive(Clone, Copy, Debug)]
pub struct Refusals([u32; 300]);

impl Default for Refusals {
    fn default() -> Self {
        Refusals([0; 300])
    }
}

impl Refusals {
    /// Notes a refusal; the others are not counted.
    pub fn note(&mut self, refusal: Refusal) {
        if let Some(count) = self.place(refusal).and_then(|place| self.0.get_mut(place)) {
            *count += 1;
        }
    }

    /// How often it was answered.
    #[must_use]
    pub fn of(&self, refusal: Refusal) -> u32 {
        self.place(refusal).and_then(|place| self.0.get(place)).copied().unwrap_or(0)
    }

    fn place(&self, refusal: Refusal) -> Option<usize> {
        usize::from(refusal.number()).checked_sub(600)
    }
}

impl Counts {
    /// Takes over the counts of another.
    pub fn add(&mut self, other: &Counts) {
        self.inputs += other.inputs;
        self.effects += other.effects;
        self.life_cycles += other.life_cycles;
        self.lives += other.lives;
        self.orders += other.orders;
        self.writes += other.writes;
        self.calls += other.calls;
        self.power_cuts += other.power_cuts;
        self.starts += other.starts;
        self.counted_apart += other.counted_apart;
        self.collections += other.collections;
        self.resets += other.resets;
        self.shares_shown += other.shares_shown;
        self.entries_taken += other.entries_taken;
        self.entries_refused += other.entries_refused;
        self.sets += other.sets;
        self.cards.add(&other.cards);
        self.approvals_asked += other.approvals_asked;
        self.approvals_given += other.approvals_given;
        self.unblocks += other.unblocks;
        for (mine, theirs) in self.refusals.0.iter_mut().zip(other.refusals.0) {
            *mine += theirs;
        }
    }
}

/// The world of one seed.
pub struct World {
    /// The service; `None` while the daemon is not running.
    pub core: Option<Core>,
    /// The devices.
    pub tokens: Tokens,
    /// Per slot the token that is really its own.
    pub homes: [Option<u8>; SLOTS],
    /// The store.
    pub disk: Disk,
    /// The applications.
    pub apps: Applications,
    /// The people.
    pub people: People,
    /// The card readers and the cards.
    pub table: Table,
    /// Faults to come.
    pub plan: Plan,
    /// Where faults struck.
    pub tally: Tally,
    /// The checkers.
    pub checkers: Checkers,
    /// What happened.
    pub counts: Counts,
    /// The trace.
    pub trace: Trace,
    /// The one source of chance.
    pub random: fastrand::Rng,
    /// Slots in this world.
    pub slots: u8,
    /// Milliseconds since its beginning.
    pub now_ms: u64,
    /// Where the power goes; the last one first.
    pub cuts: heapless::Vec<Cut, CUTS_MAX>,
    /// Whether the last cut found a token with something unsettled.
    pub cut_was_unsettled: bool,
    /// Points passed since the start or the last cut.
    pub points: u32,
    /// Slots whose token somebody else changed, or the module lied about.
    pub apart: [bool; SLOTS],
    /// Slots whose token refused a right PIN: its code is kept, but who may open it is open.
    pub refused_right: [bool; SLOTS],
    /// Whether steps are tallied that no fault struck (costs a status each).
    pub tallies_steps: bool,
    pub(crate) configuration: Configuration<SLOTS>,
    pub(crate) boot_ms: u64,
    pub(crate) wall_jump_s: Option<i64>,
    pub(crate) worker: bool,
    pub(crate) worker_unavailable: bool,
    pub(crate) recovering: bool,
    pub(crate) hung: [bool; SLOTS],
    /// Slots whose generated code a zeroize destroyed: only the SO PIN opens them.
    pub(crate) zeroized: [bool; SLOTS],
    pub(crate) busy_until_ms: [u64; SLOTS],
    pub(crate) calls: [Deque<PendingCall, CALLS_MAX>; SLOTS],
    pub(crate) seen: [Option<Presence>; SLOTS],
    pub(crate) logins: [Option<(Ticket, Code)>; SLOTS],
    pub(crate) stuck: [bool; 2],
    pub(crate) last_draw: [u8; 64],
    pub(crate) burst: u8,
    pub(crate) active: [bool; SLOTS],
    pub(crate) visits_ms: [u64; SLOTS],
    pub(crate) people_act: bool,
    queue: Vec<Scheduled>,
    next_number: u32,
}

impl Default for World {
    fn default() -> Self {
        World {
            core: None,
            tokens: Tokens::default(),
            homes: [None; SLOTS],
            disk: Disk::default(),
            apps: Applications::default(),
            people: People::default(),
            table: Table::default(),
            plan: Plan::none(),
            tally: Tally::default(),
            checkers: Checkers::default(),
            counts: Counts::default(),
            trace: Trace::default(),
            random: fastrand::Rng::with_seed(0),
            slots: 0,
            now_ms: 0,
            cuts: heapless::Vec::new(),
            cut_was_unsettled: false,
            points: 0,
            apart: [false; SLOTS],
            refused_right: [false; SLOTS],
            tallies_steps: false,
            configuration: Configuration {
                slots: heapless::Vec::new(),
                persons: Persons::single(),
                tries: 3,
                digest: [0; 32],
                in_force: [0; 32],
                offered: [0; 32],
                level: SecurityLevel::None,
                cluster: [0; 16],
            },
            boot_ms: 0,
            wall_jump_s: Some(0),
            worker: false,
            worker_unavailable: false,
            recovering: false,
            hung: [false; SLOTS],
            zeroized: [false; SLOTS],
            busy_until_ms: [0; SLOTS],
            calls: Default::default(),
            seen: [None; SLOTS],
            logins: [None; SLOTS],
            stuck: [false; 2],
            last_draw: [0; 64],
            burst: 0,
            active: [false; SLOTS],
            visits_ms: [u64::MAX; SLOTS],
            people_act: false,
            queue: Vec::new(),
            next_number: 0,
        }
    }
}

impl World {
    /// A new world of this seed with so many slots, no tokens yet, the daemon not running.
    /// Counts and tally go on; everything else begins anew.
    pub fn begin(&mut self, seed: u64, slots: u8) {
        self.core = None;
        self.tokens = Tokens::default();
        self.homes = [None; SLOTS];
        self.disk.clear();
        self.apps = Applications::default();
        self.people = People::default();
        self.table.begin(0);
        self.plan = Plan::none();
        self.checkers.clear();
        self.trace.begin(seed);
        self.random = fastrand::Rng::with_seed(seed);
        self.slots = slots;
        self.now_ms = 0;
        self.cuts.clear();
        self.cut_was_unsettled = false;
        self.points = 0;
        self.apart = [false; SLOTS];
        self.refused_right = [false; SLOTS];
        self.boot_ms = 0;
        self.wall_jump_s = Some(0);
        self.worker = false;
        self.worker_unavailable = false;
        self.recovering = false;
        self.hung = [false; SLOTS];
        self.zeroized = [false; SLOTS];
        self.busy_until_ms = [0; SLOTS];
        for calls in &mut self.calls {
            calls.clear();
        }
        self.seen = [None; SLOTS];
        self.logins = [None; SLOTS];
        self.stuck = [false; 2];
        self.last_draw = [0; 64];
        self.burst = 0;
        self.active = [false; SLOTS];
        self.visits_ms = [u64::MAX; SLOTS];
        self.people_act = false;
        self.queue.clear();
        self.next_number = 0;
        self.configure();
    }

    /// Puts a table with so many readers into a new world.
    pub fn set_table(&mut self, readers: u8) {
        self.table.begin(readers);
        let level = if readers > 0 { SecurityLevel::Cards } else { SecurityLevel::None };
        (self.configuration.level, self.configuration.cluster) = (level, [0xC1; 16]);
        self.counts.cards.worlds += u64::from(readers > 0);
    }

    /// Adds a token; `slot` says whose it really is.
    pub fn add_token(&mut self, token: Token, slot: Option<u8>) {
        let number = u8::try_from(self.tokens.tokens.len()).unwrap_or(u8::MAX);
        if self.tokens.tokens.push(token).is_ok()
            && let Some(slot) = slot
        {
            self.homes[usize::from(slot)] = Some(number);
        }
    }

    fn configure(&mut self) {
        self.configuration.slots.clear();
        self.configuration.level = SecurityLevel::None;
        for slot in 0..self.slots {
            let mut applications = heapless::Vec::new();
            // One application for each slot; the last one serves the first slot too.
            let _fits = applications.push(ApplicationId(slot));
            if slot == 0 {
                let _fits = applications.push(ApplicationId(SLOTS as u8));
            }
            let owner = Owner(u16::from(slot));
            let _fits = self.configuration.slots.push(SlotConfiguration {
                owner,
                uid: [slot; 16],
                applications,
                pin_chars_max: 0,
            });
        }
        self.configuration.persons = Persons::default();
        for who in 0..PERSONS {
            let role = match PersonId(who) {
                ADMINISTRATOR | SECOND_ADMINISTRATOR => Role::Administrator,
                OPERATOR => Role::Operator,
                AUDITOR => Role::Auditor,
                APPROVER => Role::Approver,
                _ => Role::Custodian,
            };
            let _fits = self.configuration.persons.add(PersonId(who), Roles::NONE.with(role));
        }
    }

    /// The moment as the core is told it.
    #[must_use]
    pub fn now(&self) -> Now {
        let mono_ms = self.now_ms.saturating_sub(self.boot_ms);
        let seconds = i64::try_from(self.now_ms / 1000).unwrap_or(i64::MAX);
        let wall_s = self.wall_jump_s.and_then(|jump| u64::try_from(WALL_START_S + seconds + jump).ok());
        Now { mono_ms, wall_s }
    }

    /// What everybody may see of one slot; `None` while the daemon is not running.
    #[must_use]
    pub fn status(&self, slot: u8) -> Option<SlotStatus> {
        self.core.as_ref()?.status(self.now()).slots.get(usize::from(slot)).cloned()
    }

    /// The token that is really this slot's.
    #[must_use]
    pub fn home(&self, slot: u8) -> Option<&Token> {
        self.tokens.tokens.get(usize::from(self.homes[usize::from(slot)]?))
    }

    pub(crate) fn schedule(&mut self, in_ms: u64, event: Event) {
        let number = self.next_number;
        self.next_number += 1;
        self.queue.push(Scheduled { at_ms: self.now_ms + in_ms, number, event });
    }

    /// Forgets what devices, worker and daemon were about to do; faults still heal.
    pub(crate) fn unschedule_all(&mut self) {
        self.queue.retain(|scheduled| matches!(scheduled.event, Event::Heals(..)));
    }

    /// Forgets what the worker was about to do.
    pub(crate) fn unschedule_worker(&mut self) {
        self.queue.retain(|scheduled| match scheduled.event {
            Event::Call(_) | Event::Look(_) | Event::WorkerStarts => false,
            Event::Answer(Input::Done { outcome, .. }) => !matches!(outcome, Outcome::Hsm(_)),
            _ => true,
        });
    }

    /// Whether devices, worker or daemon are about to do something.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.queue.iter().any(|scheduled| !matches!(scheduled.event, Event::Heals(..)))
    }

    /// Lets the next thing happen. False when nothing will ever happen any more, a
    /// checker saw a violation, or time would pass `until_ms`.
    pub fn step(&mut self, until_ms: u64) -> bool {
        if self.checkers.violation.is_some() {
            return false;
        }
        let next = self.queue.iter().enumerate().min_by_key(|(_, scheduled)| (scheduled.at_ms, scheduled.number));
        let (event_ms, index) = next.map_or((u64::MAX, None), |(index, next)| (next.at_ms, Some(index)));
        let deadline_ms = match &self.core {
            Some(core) => core.poll_deadline().map_or(u64::MAX, |mono_ms| mono_ms.saturating_add(self.boot_ms)),
            None => u64::MAX,
        };
        let (visit_ms, visited) = self.next_visit();
        let table_ms = if self.core.is_some() { self.table.visit_ms } else { u64::MAX };
        let at_ms = event_ms.min(deadline_ms).min(visit_ms).min(table_ms);
        if at_ms == u64::MAX || at_ms > until_ms {
            return false;
        }
        self.now_ms = self.now_ms.max(at_ms);
        if table_ms < event_ms && table_ms < deadline_ms && table_ms < visit_ms {
            self.visit_table();
        } else if deadline_ms <= event_ms && deadline_ms <= visit_ms {
            self.deliver(Input::Tick);
            let now_ms = self.now().mono_ms;
            let still_due = self.core.as_ref().and_then(Core::poll_deadline).is_some_and(|due_ms| due_ms <= now_ms);
            self.checkers.p42_ticked(still_due);
        } else if event_ms <= visit_ms {
            if let Some(index) = index {
                let event = self.queue.swap_remove(index).event;
                self.happen(event);
            }
        } else {
            self.visit(visited);
        }
        true
    }

    fn next_visit(&self) -> (u64, u8) {
        let mut next = (u64::MAX, 0);
        if self.people_act && self.core.is_some() {
            for (slot, visit_ms) in (0u8..).zip(&self.visits_ms[..usize::from(self.slots)]) {
                if *visit_ms < next.0 {
                    next = (*visit_ms, slot);
                }
            }
        }
        next
    }

    /// Hands an input to the core and performs what it orders.
    pub fn deliver(&mut self, input: Input) {
        self.hand_in(input);
        self.pump();
    }

    /// Hands an input to the core; what it orders is not performed yet.
    fn hand_in(&mut self, input: Input) {
        self.counts.inputs += 1;
        self.trace.input(self.now_ms, &input);
        let now = self.now();
        let Some(core) = &mut self.core else { return };
        let taken = core.handle(now, input);
        if let Input::Command { caller, command } = input {
            match taken {
                Ok(()) => match command.slot() {
                    Some(SlotId(slot)) => self.checkers.p34_person_acted(slot),
                    // Boot asks for one more automatic try of each; refusals still count on.
                    None => (0..self.slots).for_each(|slot| self.checkers.p34_new_reason(slot, None)),
                },
                Err(refusal) => self.answered(caller.reply, Answer::Refused(refusal)),
            }
        }
        if self.trace.scans {
            self.scan(&format!("{input:?}"));
        }
    }

    /// Performs effects until the core yields none.
    fn pump(&mut self) {
        let mut effects = 0;
        while let Some(core) = &mut self.core {
            let Some(effect) = core.poll_effect() else { break };
            effects += 1;
            self.checkers.p42_turn(effects);
            if self.checkers.violation.is_some() {
                return;
            }
            self.trace.effect(self.now_ms, &effect);
            if self.trace.scans {
                self.scan(&format!("{effect:?}"));
            }
            let is_record = matches!(effect, Effect::Store(_) | Effect::Journal(_) | Effect::Commit { .. });
            let halted = self.checkers.waits_for_commit() && self.is_halted();
            self.checkers.p36_effect(is_record, halted);
            self.perform(effect);
        }
        self.counts.effects += u64::from(effects);
        if self.table.is_there() {
            self.watch_ceremony();
        }
        if !self.is_busy() {
            self.quiet();
        }
    }

    fn is_halted(&self) -> bool {
        self.core.as_ref().is_some_and(|core| core.status(self.now()).halted.is_some())
    }

    /// Nothing is under way: checks that only then make sense.
    fn quiet(&mut self) {
        let Some(core) = &self.core else { return };
        let status = core.status(self.now());
        let (taken, owned) = core.secrets_taken_and_owned();
        let wiped = core.free_places_are_wiped();
        if status.halted.is_none() {
            self.checkers.p16_owned(taken, owned);
        } else {
            self.checkers.p16_owned(taken, 0);
        }
        let of_ceremony = core.ceremony().map_or(0, |ceremony| ceremony.secrets());
        if self.people.orders.is_empty() && self.table.orders.is_empty() && status.halted.is_none() {
            self.checkers.p16_quiet(&status.slots, taken.saturating_sub(of_ceremony), wiped);
        }
        if status.ceremony.is_some() && self.now_ms.is_multiple_of(16) {
            self.check_transcript();
        }
        for slot in &status.slots {
            let number = usize::from(slot.slot.0);
            let active = slot.state == StateName::Active;
            if self.active[number] && !active {
                self.counts.life_cycles += 1;
            }
            self.active[number] = active;
            if self.people.are_many {
                let idle = &mut self.people.slots[number].together.idle;
                match (&slot.collection, &mut *idle) {
                    (Some(now), Some((since_ms, before)))
                        if now.progress == before.progress && now.persons == before.persons =>
                    {
                        let is_hand_out = now.progress.kind == WaitKind::Custodians;
                        let idle_ms = self.now_ms.saturating_sub(*since_ms);
                        self.checkers.p29_collecting(slot.slot.0, idle_ms, is_hand_out);
                    }
                    (now, _) => *idle = now.clone().map(|now| (self.now_ms, now)),
                }
            }
            self.checkers.p33_quiet(slot, status.halted.is_some());
            let holds = !self.apps.of(ApplicationId(slot.slot.0)).holds.is_none();
            self.checkers.p33_taken_back(slot, holds);
        }
        if let Some(oldest) = self.people.orders.iter().min_by_key(|order| order.given_ms) {
            // A ceremony takes as long as people take; what follows from it is counted from its end.
            let since_ms = oldest.given_ms.max(self.table.ended_ms);
            let waited_ms = if status.ceremony.is_some() { 0 } else { self.now_ms.saturating_sub(since_ms) };
            let slot = oldest.slot.unwrap_or(0);
            self.checkers.p44_waiting(slot, waited_ms);
        }
        if self.worker && !status.slots.iter().any(|slot| slot.state == StateName::Activating) {
            self.recovering = false;
        }
        if self.trace.scans {
            self.scan(&format!("{status:?}"));
        }
    }

    /// Gives an order. False when the Safe had no place or nobody waits any more.
    pub fn order(&mut self, slot: Option<u8>, wish: &Wish, who: PersonId) -> bool {
        let wish = &Wish { who: Some(who), ..*wish };
        if matches!(wish.kind, CommandKind::Boot | CommandKind::Activate | CommandKind::Init) {
            self.look_for_changes();
            if self.core.is_none() {
                // What it found ended the daemon: nobody is there to take the order.
                return false;
            }
        }
        let forgets = wish.kind == CommandKind::Decommission && wish.typed.is_none();
        if let Some(number) = slot.filter(|_| forgets)
            && self.status(number).is_some_and(|status| status.state == StateName::Absent)
        {
            // They say that the token is gone for good: its codes may be lost from here on.
            self.apart[usize::from(number)] = true;
        }
        let Some(reply) = self.people.give(slot, wish, self.now_ms) else { return false };
        self.counts.orders += 1;
        self.checkers.p05_typed(wish.typed);
        if wish.new != wish.typed {
            self.checkers.p05_typed(wish.new);
        }
        let about = slot.filter(|_| self.people.are_many);
        let before = about.map(|slot| self.before(slot, wish)).unwrap_or_default();
        if let Some(order) = self.people.orders.last_mut() {
            order.verdict = before.verdict;
        }
        let typed = self.fill(&wish.typed);
        let new = self.fill(&wish.new);
        let (typed, new) = match (typed, new) {
            (Ok(typed), Ok(new)) => (typed, new),
            (Err(refusal), other) | (other, Err(refusal)) => {
                // The platform gives the place back with the order that cannot be given.
                if let Ok(Some(id)) = other
                    && let Some(core) = &mut self.core
                {
                    core.wipe(id);
                }
                self.answered(ReplyId(reply), Answer::Refused(refusal));
                return false;
            }
        };
        let confirmed = wish.confirmed;
        // People accept the slot's own application as dead once in a while.
        let accept = match (slot, self.random.u8(..10)) {
            _ if wish.accept.is_some() => wish.accept.unwrap_or(ApplicationSet::NONE),
            (Some(slot), 0) => ApplicationSet::NONE.with(ApplicationId(slot)),
            (Some(_) | None, _) => ApplicationSet::NONE,
        };
        let slot = SlotId(slot.unwrap_or(0));
        let command = match wish.kind {
            CommandKind::Activate => Command::Activate { slot, code: typed, confirmed },
            CommandKind::Deactivate => Command::Deactivate { slot },
            CommandKind::EndCall => Command::EndCall { slot },
            CommandKind::Init => match typed {
                Some(so_pin) => Command::Init { slot, so_pin, free_slot: self.free_slot(slot.0), confirmed },
                None => Command::Boot,
            },
            CommandKind::ChangeCode => Command::ChangeCode { slot, code: typed, new_code: new, confirmed, accept },
            CommandKind::Mode => {
                let (to, parts) = (wish.to, wish.parts);
                Command::Mode { slot, to, parts, code: typed, new_code: new, confirmed, accept }
            }
            CommandKind::Unblock => match typed {
                Some(so_pin) => Command::Unblock { slot, so_pin, to: wish.to, new_code: new, confirmed, accept },
                None => Command::Boot,
            },
            CommandKind::Decommission => Command::Decommission { slot, so_pin: typed, confirmed, accept },
            CommandKind::Stop => Command::Stop,
            CommandKind::Split => match wish.split {
                Some((quorum, custodians)) => {
                    Command::Split { slot, quorum, custodians, code: typed, confirmed, accept }
                }
                None => Command::Boot,
            },
            CommandKind::Share => Command::Share { slot, code: typed, confirmed },
            CommandKind::Reset => Command::Reset { slot },
            CommandKind::Boot
            | CommandKind::ReadStatus
            | CommandKind::ReadAudit
            | CommandKind::CreateSet
            | CommandKind::ChangeCardPin
            | CommandKind::ReassignCard
            | CommandKind::CopyCard
            | CommandKind::VerifySet
            | CommandKind::VerifyFile
            | CommandKind::RestoreKey
            | CommandKind::ReplaceSet
            | CommandKind::RotateKey
            | CommandKind::EraseCard
            | CommandKind::CardLost
            | CommandKind::SlotCards
            | CommandKind::AdministratorCards
            | CommandKind::AnswerCeremony
            | CommandKind::CancelCeremony
            | CommandKind::Export
            | CommandKind::Restore
            | CommandKind::Import
            | CommandKind::EndRestore
            | CommandKind::CountKeys
            | CommandKind::MakePackage
            | CommandKind::ReceivePackage
            | CommandKind::ApplyPackage
            | CommandKind::EndReceive
            | CommandKind::Abandon
            | CommandKind::FoundCluster
            | CommandKind::InviteMember
            | CommandKind::RemoveMember
            | CommandKind::RenewRoster
            | CommandKind::JoinCluster
            | CommandKind::FollowRoster
            | CommandKind::ChooseRoster => Command::Boot,
            CommandKind::Zeroize => Command::Zeroize,
            CommandKind::Approve => match wish.approval {
                Some((id, code)) => Command::Approve { id, code },
                None => Command::Boot,
            },
            CommandKind::Withdraw => match wish.approval {
                Some((id, _)) => Command::Withdraw { id },
                None => Command::Boot,
            },
            CommandKind::DualControl => Command::DualControl { on: wish.on },
            CommandKind::AdoptConfiguration => Command::AdoptConfiguration { digest: [u8::from(wish.on); 32] },
        };
        self.note_operation(reply, &command);
        if let Some(order) = self.people.orders.last_mut().filter(|order| order.reply == reply && order.by_two) {
            order.wish.accept = Some(accept);
        }
        self.hand_in(Input::Command { caller: Caller { who, reply: ReplyId(reply) }, command });
        if let Some(slot) = about {
            // A refusal at the door is answered at once.
            let taken = self.people.orders.iter().any(|order| order.reply == reply);
            self.after(slot, wish, reply, &before, taken);
        }
        self.pump();
        true
    }

    /// How much slower people are about slots where others are busy with cards.
    pub(crate) fn pace(&self) -> u64 {
        if self.table.is_there() { 8 } else { 1 }
    }

    pub(crate) fn fill(&mut self, code: &Code) -> Result<Option<SecretId>, Refusal> {
        if code.is_none() {
            return Ok(None);
        }
        match &mut self.core {
            Some(core) => core.fill(|place| code.write(place)).map(Some),
            None => Ok(None),
        }
    }

    /// The free token that `slot init` names, once people were told that there are several.
    fn free_slot(&self, slot: u8) -> Option<u64> {
        if !self.people.slots[usize::from(slot)].told_several {
            return None;
        }
        let free = self.tokens.tokens.iter().position(|token| token.is_there() && token.live.label.is_none())?;
        u64::try_from(free).ok()
    }

    /// An answer reached the people.
    pub(crate) fn answered(&mut self, reply: ReplyId, answer: Answer) {
        if let Answer::Refused(refusal) = answer {
            self.counts.refusals.note(refusal);
        }
        if reply.0 >= REPLIES_FROM {
            return self.answered_at_table(reply, answer);
        }
        let completed = self.people.completed(reply.0);
        let Some(order) = self.people.answered(reply.0, answer) else {
            self.checkers.violated("P44", 0, "an order was answered twice, or nobody gave it");
            return;
        };
        if order.kind == CommandKind::Zeroize {
            self.zeroize_answered(answer);
        }
        self.remember_at_table(order.slot);
        let pace = self.pace();
        let soon_ms = self.now_ms + pace * self.random.u64(5..200);
        if let Some(slot) = order.slot {
            let visit_ms = &mut self.visits_ms[usize::from(slot)];
            *visit_ms = soon_ms.min(*visit_ms);
        }
        match (answer, order.operation) {
            (Answer::NeedsApproval { id, code }, operation) => {
                self.counts.approvals_asked += 1;
                if let Some(operation) = operation {
                    self.checkers.p27_asked(id, operation, order.who);
                }
                let request = Request { id, code, about: order.slot, wish: order.wish, approved: false };
                self.people.needs_second(request);
            }
            (Answer::Done | Answer::Waits(_), Some(operation)) if order.by_two => {
                self.checkers.p26_done(order.slot.unwrap_or(0), &operation, order.who);
            }
            (Answer::Done, None) if order.kind == CommandKind::Approve => {
                self.counts.approvals_given += 1;
                if let Some((id, _)) = order.wish.approval {
                    self.checkers.p27_given(id, order.who, self.now_ms);
                    if let Some(request) = self.people.requests.iter_mut().find(|request| request.id == id) {
                        request.approved = true;
                    }
                }
            }
            (Answer::Refused(Refusal::ApprovalUnknown), None) => {
                if let Some((id, _)) = order.wish.approval {
                    self.people.requests.retain(|request| request.id != id);
                }
            }
            _ => {}
        }
        let Some(slot) = order.slot else { return };
        if order.verdict.is_some() {
            self.check_answer(slot, order.verdict, answer);
        }
        if answer == Answer::Done {
            let (kind, new) = completed.unwrap_or((order.kind, order.new));
            let confirmed = self.is_confirmed(slot, kind, &new);
            self.checkers.p35_done(slot, confirmed);
            self.counts.sets += u64::from(kind == CommandKind::Split);
            self.counts.unblocks += u64::from(kind == CommandKind::Unblock);
        }
        self.check_codes();
    }

    /// Remembers what two persons decide of the order that was given last.
    pub(crate) fn note_operation(&mut self, reply: u32, command: &Command) {
        let by_two = self.people.are_two && !self.is_single();
        if let Some(order) = self.people.orders.last_mut().filter(|order| order.reply == reply) {
            order.operation = is_of_two(command).then(|| command.without_secrets());
            order.by_two = by_two;
        }
    }

    /// Whether what was answered *done* is what devices and store say.
    fn is_confirmed(&self, slot: u8, kind: CommandKind, new: &Code) -> bool {
        let number = usize::from(slot);
        if self.apart[number] || self.disk.is_in_flight() {
            return true;
        }
        let (Some(token), Some(record)) = (self.home(slot), &self.disk.durable.slots[number]) else { return true };
        match kind {
            CommandKind::ChangeCode
            | CommandKind::Mode
            | CommandKind::Split
            | CommandKind::Init
            | CommandKind::Unblock => model::change_is_done(token, &self.disk, Owner(u16::from(slot)), record, new),
            CommandKind::Decommission => model::decommission_is_done(token, record),
            CommandKind::Activate
            | CommandKind::Deactivate
            | CommandKind::EndCall
            | CommandKind::Share
            | CommandKind::Reset
            | CommandKind::Boot
            | CommandKind::Stop
            | CommandKind::Approve
            | CommandKind::Withdraw
            | CommandKind::DualControl
            | CommandKind::AdoptConfiguration
            | CommandKind::ReadStatus
            | CommandKind::ReadAudit
            | CommandKind::CreateSet
            | CommandKind::ChangeCardPin
            | CommandKind::ReassignCard
            | CommandKind::CopyCard
            | CommandKind::VerifySet
            | CommandKind::VerifyFile
            | CommandKind::RestoreKey
            | CommandKind::ReplaceSet
            | CommandKind::RotateKey
            | CommandKind::EraseCard
            | CommandKind::CardLost
            | CommandKind::SlotCards
            | CommandKind::AdministratorCards
            | CommandKind::AnswerCeremony
            | CommandKind::CancelCeremony
            | CommandKind::Export
            | CommandKind::Restore
            | CommandKind::Import
            | CommandKind::EndRestore
            | CommandKind::CountKeys
            | CommandKind::MakePackage
            | CommandKind::ReceivePackage
            | CommandKind::ApplyPackage
            | CommandKind::EndReceive
            | CommandKind::Abandon
            | CommandKind::FoundCluster
            | CommandKind::InviteMember
            | CommandKind::RemoveMember
            | CommandKind::RenewRoster
            | CommandKind::JoinCluster
            | CommandKind::FollowRoster
            | CommandKind::ChooseRoster
            | CommandKind::Zeroize => true,
        }
    }

    /// Whether every token can be opened by somebody, now and after a power cut (P35).
    pub(crate) fn check_codes(&mut self) {
        for slot in 0..self.slots {
            let number = usize::from(slot);
            let Some(token) = self.homes[number].and_then(|home| self.tokens.tokens.get(usize::from(home))) else {
                continue;
            };
            let owner = Owner(u16::from(slot));
            let lost = model::could_open(token).iter().any(|pin| {
                let people = &self.people.slots[number];
                !model::somebody_has(pin, &self.disk, owner, people)
                    && !self.table.can_open(pin, owner, slot, &self.disk.durable, people)
            });
            if !self.apart[number] && !self.zeroized[number] && token.readable && lost {
                self.checkers.p35_code_lost(slot);
            }
        }
    }

    /// The fault that strikes at this step, if one does; tallied.
    pub(crate) fn due(&mut self, step: Step, slot: u8) -> Option<Kind> {
        let due = self.plan.due(step, self.recovering);
        if due.is_some() || self.tallies_steps {
            let state = self.status(slot).map_or(StateName::Absent, |status| status.state);
            match due {
                Some(kind) => self.tally.struck(kind, step, state),
                None => self.tally.reached(step, state),
            }
        }
        due
    }

    /// Whether the power goes at this point, in a campaign that cuts at every point.
    pub(crate) fn cut_is_due(&mut self) -> Option<Cut> {
        let point = self.points;
        self.points += 1;
        self.cuts.last().copied().filter(|cut| cut.after == point)
    }

    /// A short wait of a device that is well.
    pub(crate) fn latency_ms(&mut self) -> u64 {
        self.random.u64(1..4)
    }

    fn scan(&mut self, text: &str) {
        let secrets = self.secrets();
        self.checkers.p03_text(text, &secrets);
    }

    /// Every code in the world.
    pub(crate) fn secrets(&self) -> Vec<Code> {
        let mut secrets: Vec<Code> = self.checkers.typed_codes().collect();
        secrets.extend(self.disk.durable.sealed.iter().map(|(_, code)| *code));
        secrets.extend(self.table.secrets());
        secrets.extend(self.people.slots.iter().flat_map(|knowledge| knowledge.together.secrets()));
        for token in &self.tokens.tokens {
            secrets.extend([token.live.user_pin, token.live.so_pin]);
            secrets.extend(token.live.backup_keys.iter().flatten().map(|key| key.value));
        }
        secrets
    }
}

/// What the product page asks two persons for, as far as an order alone tells: the last try with
/// a second person, and an order that lowers how many open a slot, are the core's to know.
fn is_of_two(command: &Command) -> bool {
    matches!(
        command,
        Command::Init { .. }
            | Command::Unblock { .. }
            | Command::Decommission { .. }
            | Command::AdoptConfiguration { .. }
            | Command::DualControl { on: false }
            | Command::Mode { to: slotwarden_core::record::Mode::Generated, .. }
            | Command::Activate { confirmed: true, .. }
            | Command::Share { confirmed: true, .. }
    )
}
