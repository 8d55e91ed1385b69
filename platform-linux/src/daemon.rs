//! The loop: the only place that talks to the core.
//!
//! Inputs arrive by one channel, from devices, clients and signals. Each is handed to
//! [`Service::handle`]; then effects are performed until there are none; then the loop
//! sleeps until the next input or the core's next deadline. It decides nothing: it knows
//! names, and which client waits for which answer. It is generic over the devices, so the
//! simulator runs this loop too.
//!
//! At start the loop itself orders `Boot`, so that the automatic slots come up without a
//! hand; at SIGTERM it orders `Stop` and ends when the core says that everything is taken
//! back. After a crash the next start does the same from the records.

mod card_orders;
mod cluster;
mod exchange;
mod held;
mod incoming;
mod keys;
mod orders;
mod readings;
mod transfers;
mod watch;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use slotwarden_core::audit::Chain;
use slotwarden_core::card::registry::CardEntry;
use slotwarden_core::card::sets::{CardSets, SetSubject};
use slotwarden_core::card::{CardAnswer, CardFailure};
use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::cluster::Membership;
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{Effect, HsmCall, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::ledger::KeyName;
use slotwarden_core::limits::{SLOTS_APPLIANCE, STOP_DEADLINE_MS};
use slotwarden_core::package::Marks;
use slotwarden_core::person::PersonId;
use slotwarden_core::reception::Reception;
use slotwarden_core::record::{Owner, PolicyRecord, Sets, SlotRecord};
use slotwarden_core::status::Status;
use slotwarden_core::transfer::Restoration;
use slotwarden_core::{Appliance, Configuration, Now, SecretId, Service};
use tracing::{error, info, warn};
use zeroize::Zeroizing;

use crate::cluster::ClusterFiles;
use crate::config::{CoverageSettings, SecurityLevel};
use crate::control;
use crate::devices::{Applications, Cards, Event, Files, Hsm, Lend, Store};
use crate::exchange::Courier;
use crate::names::Names;
use crate::problem::{self, Problem};
use crate::random::{self, FirstSource};
use crate::status_json::{self, ProgressView, StatusView};
use crate::wire::{Answered, Ask};
use cluster::ClusterLoop;
pub use cluster::SyncSetup;
use exchange::Exchanging;
use held::Held;
use incoming::IncomingFiles;
use watch::{WATCH_WAIT, Watcher};

/// How long the stop may take before the loop ends anyway: the core's own bound, and as
/// much again for the last commit.
const STOP_WAIT: Duration = Duration::from_millis(2 * STOP_DEADLINE_MS);
/// The loop looks up at least so often, so that a wrong clock cannot put it to sleep for ever.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// Events taken in before the status is told, although more wait.
const UNTOLD_MAX: u32 = 2 * SLOTS_APPLIANCE as u32;

/// The devices of one appliance.
pub struct Devices<H, S, A> {
    /// The HSM behind its worker.
    pub hsm: H,
    /// The store.
    pub store: S,
    /// The adapters.
    pub applications: A,
    /// The card readers.
    pub cards: Box<dyn Cards + Send>,
    /// Files of exports and restores.
    pub files: Box<dyn Files + Send>,
    /// What carries packages between the members of a cluster, where the configuration names something.
    pub exchange: Option<Courier>,
}

/// What the loop begins with.
#[derive(Debug)]
pub struct Setup {
    /// Names of slots, applications, persons.
    pub names: Arc<Names>,
    /// The same for the core.
    pub configuration: Configuration<SLOTS_APPLIANCE>,
    /// Every slot's record found in the store.
    pub records: Vec<(Owner, SlotRecord)>,
    /// What two persons decided, found in the store.
    pub policy: PolicyRecord,
    /// Every slot's sets of shares found in the store.
    pub sets: Vec<(Owner, Sets)>,
    /// What the store holds of cards.
    pub cards: StoredCards,
    /// The restoration under way when the last run ended.
    pub restoration: Option<Restoration>,
    /// What the store holds of the cluster.
    pub cluster: StoredCluster,
    /// Where the rest of it is.
    pub sync: SyncSetup,
    /// The end of the audit chain found in the store.
    pub chain: Chain,
    /// The protected part of the configuration in force.
    pub protected: Vec<u8>,
    /// When exports do not cover what they should.
    pub coverage: CoverageSettings,
    /// The configuration file, to be read again when somebody wants it adopted.
    pub configuration_file: Option<PathBuf>,
}

/// What the store holds of the cluster.
#[derive(Clone, Debug, Default)]
pub struct StoredCluster {
    /// The roster in force.
    pub membership: Option<Membership>,
    /// What was taken from other members, and sent to them.
    pub marks: Marks,
    /// The package under way whose making was ordered.
    pub reception: Option<Reception>,
}

/// What the store holds of cards.
#[derive(Clone, Debug, Default)]
pub struct StoredCards {
    /// The sets.
    pub sets: Vec<(SetSubject, CardSets)>,
    /// The cards, in the order of their places.
    pub cards: Vec<CardEntry>,
    /// The cluster id, once it was recorded.
    pub cluster: Option<[u8; 16]>,
}

/// What the loop tells its owner.
#[derive(Debug)]
pub enum Notice<'s> {
    /// The automatic slots were tried: the appliance is ready.
    Ready(&'s StatusView),
    /// Something in the status changed.
    Changed(&'s StatusView),
    /// The order to stop was taken.
    Stopping,
}

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Stopped,
    /// The data key was destroyed: whoever runs the loop starts anew, which finishes it.
    Zeroized,
    /// The disk did not confirm that the data key is destroyed: nothing starts by itself.
    ZeroizeUnconfirmed,
}

/// Runs until the service has stopped. Blocks its thread.
///
/// # Errors
/// A configuration that the core cannot serve.
pub fn run<H: Hsm, S: Store, A: Applications>(
    setup: Setup,
    devices: Devices<H, S, A>,
    events: &Receiver<Event>,
    notice: &mut dyn FnMut(Notice<'_>),
) -> Result<Ended, Problem> {
    let mut running = Loop::new(setup, devices, notice)?;
    running.turn(Input::Start);
    running.renew_cluster_view();
    running.tell_exchange();
    running.order(PersonId::SERVICE, Waiting::Boot, Command::Boot);
    let mut untold = 0;
    while !running.ended {
        // What waits already is taken in first: 64 tokens that come up at once are one change
        // to whoever reads the status, and telling it takes longer than taking it in.
        let waiting = if untold < UNTOLD_MAX { events.try_recv().ok() } else { None };
        let event = match waiting {
            Some(event) => Ok(event),
            None => {
                untold = 0;
                running.tell_changes();
                running.count_keys();
                running.publish_what_changed();
                events.recv_timeout(running.sleep())
            }
        };
        untold += 1;
        match event {
            Ok(event) => running.take(event),
            Err(RecvTimeoutError::Timeout) => running.turn(Input::Tick),
            // Every sender is gone: nothing can ever arrive again.
            Err(RecvTimeoutError::Disconnected) => running.stop(),
        }
        running.release_held();
        running.release_watchers();
        running.go_on_with_looks();
        running.check_stop();
    }
    // Whoever stops the service meanwhile has it stay down; the next start finishes the zeroize.
    let mut confirmed = running.zeroized.filter(|_| running.stop_by.is_none());
    running.end();
    // A slow disk is waited for where the store is closed, which is over now.
    while let Ok(event) = events.try_recv() {
        if let (Event::Input(Input::Done { outcome: Outcome::Zeroized(result), .. }), Some(confirmed)) =
            (event, &mut confirmed)
        {
            *confirmed = result.is_ok();
        }
    }
    Ok(match confirmed {
        None => Ended::Stopped,
        Some(true) => Ended::Zeroized,
        Some(false) => Ended::ZeroizeUnconfirmed,
    })
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Lend for Service<SLOTS, PLACES, OUTBOX> {
    fn lend(&self, id: SecretId, read: &mut dyn FnMut(&[u8])) -> bool {
        self.with(id, |secret| read(secret)).is_some()
    }
}

/// Who waits for the answer to an order.
enum Waiting {
    /// A client.
    Client(SyncSender<control::Reply>),
    /// The loop itself: boot.
    Boot,
    /// The loop itself: a look through a slot's token; the status and the ledger have what it found.
    Count(SlotId),
    /// The exchange: what it brought was ordered to be taken.
    Arrived {
        /// SHA-256 of the file.
        file: [u8; 32],
        /// Whether a roster is followed; else a package is received.
        roster: bool,
    },
    /// The exchange: a package is made.
    Package {
        /// Whose keys are in it.
        slots: SlotSet,
        /// What it leaves out, by the name of the slot.
        skip: BTreeMap<String, Vec<KeyName>>,
    },
    /// The loop itself: stop.
    Stop,
}

struct Loop<'n, H, S, A> {
    service: Box<Appliance>,
    devices: Devices<H, S, A>,
    names: Arc<Names>,
    waiting: HashMap<u32, Waiting>,
    held: Vec<Held>,
    /// Looks at the HSM that were ordered, and how many of them ended: in that order.
    looks: u64,
    looks_ended: u64,
    next_reply: u32,
    /// Completions known at once; handled after the effects before them.
    completed: VecDeque<Input>,
    begun: Instant,
    first_source: Option<FirstSource>,
    shown: Option<Status<SLOTS_APPLIANCE>>,
    notice: &'n mut dyn FnMut(Notice<'_>),
    stop_by: Option<Instant>,
    ended: bool,
    /// Whether the disk confirmed it; `None`: no zeroize was ordered.
    zeroized: Option<bool>,
    protected: Vec<u8>,
    coverage: CoverageSettings,
    security_level: SecurityLevel,
    /// The number that each slot has for ever, in the order of the configuration.
    owners: Vec<Owner>,
    /// Who waits for the next change of a ceremony.
    watching: Vec<Watcher>,
    /// SHA-256 of this program, once somebody wanted to know.
    program: Arc<OnceLock<String>>,
    configuration_file: Option<PathBuf>,
    /// What orders named as staying behind, by the digest that stands in the command.
    left_out: VecDeque<([u8; 32], Vec<String>)>,
    /// When the keys of each slot were counted last.
    counted: HashMap<u8, Instant>,
    cluster: ClusterLoop,
    exchanging: Option<Exchanging>,
    incoming: IncomingFiles,
    /// What belongs to the call that waits for a vendor's program.
    lent: Option<transfers::Lent>,
}

impl<'n, H: Hsm, S: Store, A: Applications> Loop<'n, H, S, A> {
    fn new(
        setup: Setup,
        mut devices: Devices<H, S, A>,
        notice: &'n mut dyn FnMut(Notice<'_>),
    ) -> Result<Self, Problem> {
        let security_level = setup.configuration.level;
        let owners = setup.configuration.slots.iter().map(|slot| slot.owner).collect();
        // In place: a service that is handed on by value takes its size of stack each time.
        let mut service: Box<Appliance> = Box::new(Service::empty());
        service.configure(&setup.configuration)?;
        for (owner, record) in &setup.records {
            service.load(*owner, *record);
        }
        service.load_policy(setup.policy);
        for (owner, sets) in setup.sets {
            service.load_sets(owner, sets);
        }
        for (subject, sets) in setup.cards.sets {
            service.load_card_sets(subject, sets);
        }
        for entry in setup.cards.cards {
            service.load_card(entry);
        }
        if let Some(cluster) = setup.cards.cluster {
            service.load_cluster(cluster);
        }
        if let Some(restoration) = setup.restoration {
            service.load_restoration(restoration);
        }
        service.load_node(devices.store.node_keys().current);
        if let Some(membership) = setup.cluster.membership {
            service.load_roster(membership);
        }
        service.load_marks(setup.cluster.marks);
        if let Some(reception) = &setup.cluster.reception {
            service.load_reception(reception);
        }
        service.load_chain(setup.chain);
        service.load_automatic(setup.sync.settings.as_ref().is_some_and(|settings| settings.automatic));
        let keys = devices.store.node_secrets()?.public(devices.store.node_keys().current)?;
        let (dir, name) = (setup.sync.dir.clone(), setup.sync.name.clone());
        let files = ClusterFiles::open(dir, name, keys, devices.store.signer())?;
        let cluster = ClusterLoop::new(files, setup.sync);
        let exchanging = devices.exchange.take().map(Exchanging::new);
        Ok(Loop {
            service,
            devices,
            names: setup.names,
            waiting: HashMap::new(),
            held: Vec::new(),
            looks: 0,
            looks_ended: 0,
            next_reply: 0,
            completed: VecDeque::new(),
            begun: Instant::now(),
            first_source: None,
            shown: None,
            notice,
            stop_by: None,
            ended: false,
            zeroized: None,
            protected: setup.protected,
            coverage: setup.coverage,
            security_level,
            owners,
            watching: Vec::new(),
            program: Arc::default(),
            configuration_file: setup.configuration_file,
            left_out: VecDeque::new(),
            counted: HashMap::new(),
            cluster,
            exchanging,
            incoming: IncomingFiles::default(),
            lent: None,
        })
    }

    fn now(&self) -> Now {
        Now {
            mono_ms: u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            wall_s: SystemTime::now().duration_since(UNIX_EPOCH).ok().map(|since| since.as_secs()),
        }
    }

    /// How long nothing is due.
    fn sleep(&self) -> Duration {
        let now = self.now();
        let deadline = self.service.poll_deadline().map(|due| Duration::from_millis(due.saturating_sub(now.mono_ms)));
        // Those whose time is over wait for an input, not for the clock.
        let held = self.held.iter().filter_map(|held| held.until.checked_duration_since(Instant::now())).min();
        let stop = self.stop_by.map(|by| by.saturating_duration_since(Instant::now()));
        let watching =
            self.watching.iter().map(|watcher| watcher.until.saturating_duration_since(Instant::now())).min();
        let exchange = self.exchanging.as_ref().and_then(Exchanging::due);
        let exchange = exchange.map(|at| at.saturating_duration_since(Instant::now()));
        let looks = self.looks_due().map(|at| at.saturating_duration_since(Instant::now()));
        let counting = self.count_interval().max(Duration::from_secs(1));
        [deadline, held, stop, watching, exchange, looks, Some(counting)]
            .into_iter()
            .flatten()
            .fold(SLEEP_MAX, Duration::min)
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Input(input) => {
                if let Input::Done { outcome: Outcome::File(_), .. } = input {
                    self.file_done();
                }
                if let Input::Done { outcome: Outcome::Zeroized(Ok(())), .. } = input {
                    warn!("zeroize: the data key is destroyed");
                    self.zeroized = Some(true);
                }
                self.turn(input);
            }
            Event::Card { ticket, result, y } => self.card_answered(ticket, result, y),
            Event::Stretched { ticket, place, result } => self.stretched(ticket, place, result),
            Event::Control(request) => self.request(request),
            Event::Looked => self.looks_ended += 1,
            Event::Stop => self.stop(),
            Event::ProgramEnded { ticket, slot, call, result } => self.program_ended(ticket, slot, call, result),
            Event::FileRead { number, result } => self.file_read(number, result),
            Event::Arrived(arrival) => self.arrived(arrival),
            Event::Note(text) => warn!("{text}"),
        }
    }

    /// One input, and everything it causes.
    fn turn(&mut self, input: Input) {
        // Only commands are refused here, and they come by `order`.
        if let Err(refusal) = self.service.handle(self.now(), input) {
            warn!(refusal = refusal.name(), "an input was not taken");
        }
        self.perform_all();
    }

    fn perform_all(&mut self) {
        loop {
            while let Some(effect) = self.service.poll_effect() {
                self.perform(effect);
            }
            let Some(input) = self.completed.pop_front() else { return };
            if let Err(refusal) = self.service.handle(self.now(), input) {
                warn!(refusal = refusal.name(), "a completion was not taken");
            }
        }
    }

    /// Performs one effect. What cannot answer at once answers by an event later.
    fn perform(&mut self, effect: Effect) {
        let secrets: &dyn Lend = &*self.service;
        match effect {
            Effect::Store(record) => {
                self.devices.store.put(&record, secrets);
            }
            Effect::Journal(record) => {
                self.devices.store.journal(&record);
            }
            Effect::Commit { ticket } => self.devices.store.commit(ticket),
            Effect::Hsm { ticket, slot, call } => {
                if let HsmCall::ExportSection { .. } = call {
                    // Read by the worker before anything else; without it the section is refused.
                    self.devices.files.begin_section(&self.names.slot_name(slot));
                }
                if let HsmCall::PrepareImport { .. } = call {
                    self.write_remembered(slot);
                }
                if matches!(call, HsmCall::ExportSection { .. } | HsmCall::Import { .. })
                    && self.devices.files.program_first(ticket, slot, &self.names.slot_name(slot), call)
                {
                    self.lent = Some(transfers::Lent::new(ticket, call, secrets));
                    return;
                }
                self.devices.hsm.perform(ticket, slot, call, secrets);
            }
            Effect::Random { ticket, id } => self.random(ticket, id),
            Effect::Unseal { ticket, key, id } => {
                let mut result = Err(Fault::SealBroken);
                let store = &mut self.devices.store;
                let taken = self.service.refill(id, |place| {
                    result = store.unseal(key, place).map(|length| length.min(place.len()));
                    result.map_or(0, |length| length)
                });
                let result = result.map(|_| ()).and(if taken { Ok(()) } else { Err(Fault::SealBroken) });
                self.completed.push_back(Input::Done { ticket, outcome: Outcome::Unsealed(result) });
            }
            Effect::Application { ticket, application, slot, order } => {
                self.devices.applications.perform(ticket, application, slot, order, secrets);
            }
            Effect::Card { ticket, reader, call } => self.devices.cards.perform(ticket, reader, call, secrets),
            Effect::Reply { reply, answer } => self.reply(reply, answer),
            Effect::Checkpoint { sequence, head } => self.devices.store.checkpoint(sequence, head),
            Effect::SignTranscript { id, head } => self.devices.store.sign_transcript(id, head),
            Effect::File { ticket, order } => self.file(ticket, order),
            Effect::EndWorker => self.devices.hsm.end_worker(),
            Effect::Stopped => self.ended = true,
            Effect::Zeroize { ticket, who } => {
                warn!(by = self.names.person_name(who), "zeroize: destroying the data key");
                self.zeroized = Some(false);
                self.devices.files.give_up_reading();
                self.devices.store.zeroize(ticket, who);
            }
        }
    }

    /// A call at a card reader ended: what it read goes into its place before the core hears of it.
    fn card_answered(
        &mut self,
        ticket: Ticket,
        result: Result<CardAnswer, CardFailure>,
        y: Option<(SecretId, Zeroizing<[u8; 32]>)>,
    ) {
        let placed = y.is_none_or(|(id, y)| {
            self.service.refill(id, |place| {
                place[..y.len()].copy_from_slice(&*y);
                y.len()
            })
        });
        // The place was given up meanwhile: what was read leads nowhere.
        let result = if placed { result } else { result.and(Err(CardFailure::Garbage)) };
        self.turn(Input::Done { ticket, outcome: Outcome::Card(result) });
    }

    fn random(&mut self, ticket: Ticket, id: SecretId) {
        let mut halves = Zeroizing::new([0; 2 * random::HALF_BYTES]);
        let drawn = random::draw(&mut halves, |half| self.devices.hsm.random(half));
        let result = drawn.and_then(|source| {
            if self.first_source.replace(source) != Some(source) {
                info!(sources = source.pair(), "random draws");
            }
            let taken = self.service.refill(id, |place| {
                let length = halves.len().min(place.len());
                place[..length].copy_from_slice(&halves[..length]);
                length
            });
            if taken { Ok(()) } else { Err(Fault::RandomUnavailable) }
        });
        self.completed.push_back(Input::Done { ticket, outcome: Outcome::Random(result) });
    }

    /// Gives an order to the core; whoever waits is told by `Effect::Reply` or at once.
    fn order(&mut self, who: PersonId, waiting: Waiting, command: Command) {
        self.next_reply = self.next_reply.wrapping_add(1);
        let reply = ReplyId(self.next_reply);
        self.waiting.insert(reply.0, waiting);
        let taken = self.service.handle(self.now(), Input::Command { caller: Caller { who, reply }, command });
        if let Err(refusal) = taken {
            self.reply(reply, Answer::Refused(refusal));
        }
        self.perform_all();
    }

    fn reply(&mut self, reply: ReplyId, answer: Answer) {
        match self.waiting.remove(&reply.0) {
            Some(waiting) => self.tell(waiting, answer),
            None => error!(reply = reply.0, "an answer nobody waits for"),
        }
    }

    fn tell(&mut self, waiting: Waiting, answer: Answer) {
        match waiting {
            Waiting::Client(client) => {
                // A client that left is not told; its order is done all the same.
                let _ = client.try_send(self.told(answer));
            }
            Waiting::Boot => {
                let status = self.status();
                info!("{}", status.sentence());
                (self.notice)(Notice::Ready(&status));
            }
            // Why one could not be counted is the slot's state; it is tried again in an hour.
            Waiting::Arrived { file, roster } => self.arrived_answered(file, roster, answer),
            Waiting::Package { slots, skip } => self.package_made(slots, skip, answer),
            Waiting::Count(slot) => self.looked_through(slot, answer),
            // `Effect::Stopped` ends the loop. A refusal means that the service cannot
            // stop in order; the deadline of the stop ends it then.
            Waiting::Stop => {
                if let Err(problem) = problem::of_answer(answer) {
                    error!("stop: {problem}");
                }
            }
        }
    }

    /// What a client is told; the only place where a share leaves the Safe (P30).
    fn told(&self, answer: Answer) -> control::Reply {
        match (answer, problem::of_answer(answer)) {
            (Answer::Waits(progress), _) => Answered::Waits(ProgressView::from(progress)).into(),
            (Answer::Share { id, x, quorum }, _) => {
                let share = self.service.with(id, |text| Zeroizing::new(text.to_vec()));
                control::Reply { answered: Answered::Share { x, m: quorum.m(), n: quorum.n() }, share }
            }
            (Answer::NeedsApproval { id, code }, _) => Answered::NeedsApproval { id, code: code.to_string() }.into(),
            (Answer::Done | Answer::Refused(_) | Answer::Failed(_), Ok(())) => Answered::Done.into(),
            (Answer::Done | Answer::Refused(_) | Answer::Failed(_), Err(problem)) => {
                let problem = self.with_names_of_keys(problem);
                let free_tokens = if problem.is(Refusal::SeveralFreeTokens) { self.free_tokens() } else { vec![] };
                Answered::Problem { problem, free_tokens }.into()
            }
        }
    }

    /// A client's request.
    fn request(&mut self, request: control::Request) {
        match self.answer(&request) {
            Ok(Some(Answered::Transcript(page))) => self.answer_transcript(request.answer, *page),
            Ok(Some(answered)) => {
                if let Ask::Ceremony { seen: Some(seen) } = request.ask
                    && self.is_as_seen(seen)
                {
                    self.watching.push(Watcher { request, seen, until: Instant::now() + WATCH_WAIT });
                    return;
                }
                let _ = request.answer.try_send(answered.into());
            }
            Ok(None) => match &request.ask {
                Ask::Spool { offset, total, bytes } => {
                    let spooled = self.client_spools(&request, (*offset, *total, bytes));
                    if let Some(answer) = spooled.transpose() {
                        let _ = request.answer.try_send(answer.map_or_else(control::Reply::from, control::Reply::from));
                    }
                }
                _ => self.client_order(request, true),
            },
            Err(problem) => {
                let _ = request.answer.try_send(problem.into());
            }
        }
    }

    /// Logs and passes on what changed since the last time.
    fn tell_changes(&mut self) {
        let status = self.service.status(self.now());
        let same_apart_from_time = self.shown.as_ref().is_some_and(|shown| !differs(shown, &status));
        if same_apart_from_time {
            return;
        }
        for slot in &status.slots {
            let before = self.shown.as_ref().and_then(|shown| shown.slots.iter().find(|old| old.slot == slot.slot));
            if before.map(|old| old.state) != Some(slot.state) {
                let fault = slot.fault.map(|fault| Problem::from(fault).to_string());
                info!(slot = self.names.slot_name(slot.slot), fault, "{}", slot.state.word());
            }
        }
        if let Some(halted) = status.halted
            && self.shown.as_ref().is_none_or(|shown| shown.halted.is_none())
        {
            let problem = Problem::from(halted);
            error!("halted: {problem}; {}", problem.remedy);
        }
        let view = status_json::join(&status, &self.names, &self.surroundings());
        self.shown = Some(status);
        (self.notice)(Notice::Changed(&view));
    }

    /// The order to stop; once.
    fn stop(&mut self) {
        if self.stop_by.is_none() {
            self.stop_by = Some(Instant::now() + STOP_WAIT);
            (self.notice)(Notice::Stopping);
            self.order(PersonId::SERVICE, Waiting::Stop, Command::Stop);
        }
    }

    fn check_stop(&mut self) {
        if !self.ended && self.stop_by.is_some_and(|by| by <= Instant::now()) {
            warn!("not everything was taken back in time; ending all the same");
            self.ended = true;
        }
    }

    /// Takes back what may be left, ends the worker. Clients that still wait find their
    /// connection closed.
    fn end(mut self) {
        for (_, waiting) in self.waiting.drain() {
            if let Waiting::Client(client) = waiting {
                let _ = client.try_send(Problem::from(Refusal::Stopping).into());
            }
        }
        self.end_reading();
        self.devices.applications.withdraw_all();
        self.devices.hsm.stop();
        info!("stopped");
    }
}

/// Whether anything differs but the seconds that tick down.
fn differs(one: &Status<SLOTS_APPLIANCE>, other: &Status<SLOTS_APPLIANCE>) -> bool {
    let timeless = |status: &Status<SLOTS_APPLIANCE>| {
        let mut status = status.clone();
        for wait in status.slots.iter_mut().filter_map(|slot| slot.waits_for.as_mut()) {
            wait.seconds_left = None;
        }
        for approval in &mut status.approvals {
            approval.seconds_left = 0;
        }
        for collection in status.slots.iter_mut().filter_map(|slot| slot.collection.as_mut()) {
            collection.seconds_left = 0;
        }
        if let Some(ceremony) = &mut status.ceremony {
            ceremony.seconds_left = None;
        }
        status
    };
    timeless(one) != timeless(other)
}
