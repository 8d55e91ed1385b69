//! Kill campaigns: `kill -9` at seeded moments while the PINs of several tokens are being
//! changed, then the question that counts: can every slot still be opened?
//!
//! One round: every slot is ordered another code or mode at once; at its moment the daemon
//! or its worker is killed; recovery is awaited; people open what waits for them, with the
//! codes they can have; then every PIN is proven by another process with PKCS#11 alone. The
//! tokens stay for the next round. Moments are drawn from `SLOTWARDEN_SEED` (the default is
//! fixed), so a round that failed strikes at the same fraction of the operation again.

pub mod appliance;
pub mod custodians;
pub mod destroyed;
pub mod log;
pub mod tally;

use std::thread;
use std::time::{Duration, Instant};

use fastrand::Rng;
use rustix::process::{Pid, Signal};
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::SlotView;
use slotwarden::wire::{Order, SecretRole};
use slotwarden_core::audit::{AuditEvent, AuditRecord};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::{BACK_OFF_FIRST_MS, GENERATED_CHARS};
use slotwarden_core::record::Mode;

use crate::modules::{Bench, Kind, PIN};
use appliance::{Appliance, PATIENCE, give, is_over};
use destroyed::{codes_are_kept, no_init_is_offered};
use log::{calling_at_the_kill, of_slot, tries_at_boot_are_bounded};
use tally::Tally;

/// Slots of an appliance: as many changes as the two cores of CI can overlap, and one more.
const SLOTS: usize = 3;
/// The moments when nothing else is asked for.
const SEED: u64 = 0x51_07_3A_4D;
/// Each kill of the worker doubles the wait before its next start; a new daemon begins anew.
const WORKER_KILLS_OF_ONE_DAEMON: u32 = 2;
/// Between two looks for the event that a kill waits for.
const WATCH_PAUSE: Duration = Duration::from_micros(100);
/// Kills of one recovery: two unknown outcomes, and one more kill while they are resolved.
const KILLS_OF_A_RECOVERY_MAX: u32 = 3;

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Victim {
    /// The daemon; its worker finishes the call in progress.
    Daemon,
    /// The worker, in the middle of whatever it does.
    Worker,
}

/// One slot as its people know it.
#[derive(Clone, Debug)]
struct Slot {
    mode: Mode,
    /// The token PIN, proven at the end of the last round.
    pin: String,
    /// Whether it was deactivated by a person: then it stays so until the next boot.
    held: bool,
}

/// What a slot is ordered in one round.
#[derive(Clone, Debug)]
struct Plan {
    order: Order,
    from: Mode,
    to: Mode,
    /// The new manual code.
    code: Option<String>,
}

/// When to strike.
#[derive(Clone, Copy, Debug)]
enum Event {
    /// When the time has come.
    None,
    /// When a worker says that a PIN is being set.
    PinBeingSet,
    /// When a hand-over file was taken back.
    TakenBack,
    /// When it was handed over again.
    HandedOver,
}

/// A campaign under way.
struct Campaign {
    kind: Kind,
    victim: Victim,
    seed: u64,
    round: u64,
    appliance: Appliance,
    slots: Vec<Slot>,
    /// How long the orders take together when nothing is killed.
    orders_take: Duration,
    /// How long a start takes.
    start_takes: Duration,
    /// Kills of the worker since the daemon's start.
    worker_kills: u32,
    tally: Tally,
}

/// Kills `kills` times and checks after each; what it counted.
#[must_use]
pub fn run(kind: Kind, victim: Victim, kills: u32) -> Tally {
    let mut campaign = Campaign::new(kind, victim);
    campaign.measure();
    while campaign.tally.kills < kills {
        campaign.round += 1;
        campaign.one_round();
    }
    campaign.appliance.stop();
    let tally = campaign.tally.clone();
    println!("campaign: {} passed on {kind:?}, kills of the {victim:?}, seed {}: {tally}", tally.kills, campaign.seed);
    tally
}

impl Campaign {
    fn new(kind: Kind, victim: Victim) -> Self {
        let seed = std::env::var("SLOTWARDEN_SEED").ok().map(|text| text.parse().expect("a seed is a number"));
        let mut campaign = Campaign {
            kind,
            victim,
            seed: seed.unwrap_or(SEED),
            round: 0,
            appliance: Appliance::new(Bench::new(kind, SLOTS), SLOTS),
            slots: Vec::new(),
            orders_take: PATIENCE,
            start_takes: PATIENCE,
            worker_kills: 0,
            tally: Tally::default(),
        };
        campaign.take_over();
        campaign
    }

    /// Starts on tokens that nobody opened before: a person opens them.
    fn take_over(&mut self) {
        self.slots = vec![Slot { mode: Mode::Manual, pin: PIN.to_owned(), held: false }; SLOTS];
        self.start();
        self.open_all();
    }

    fn start(&mut self) {
        let began = Instant::now();
        self.appliance.start();
        let _ = self.appliance.settled(None);
        self.start_takes = self.start_takes.min(began.elapsed());
        self.worker_kills = 0;
    }

    /// Opens every slot as its people would when nothing was interrupted.
    fn open_all(&mut self) {
        let status = self.appliance.status();
        for slot in 0..SLOTS {
            self.slots[slot].held = false;
            if !status.slots[slot].is_active() {
                assert_eq!(self.slots[slot].mode, Mode::Manual, "{:?}", status.slots[slot]);
                let code = self.slots[slot].pin.clone();
                self.activate(slot, Some(&code)).expect("the code was proven");
            }
        }
    }

    /// Orders everything without a kill, a few times: how long it takes, and that it works.
    fn measure(&mut self) {
        // The shortest: on a busy machine a longer one would make most kills come too late.
        for _ in 0..4 {
            self.round += 1;
            let mut rng = self.rng();
            let plans: Vec<Plan> = (0..SLOTS).map(|slot| self.plan(slot, &mut rng)).collect();
            let began = Instant::now();
            let answers = self.order_all(&plans, || ());
            self.orders_take = self.orders_take.min(began.elapsed());
            for (slot, answer) in answers.into_iter().enumerate() {
                answer.expect("nothing is in the way");
                self.slots[slot].mode = plans[slot].to;
                self.slots[slot].pin = self.appliance.handed_over(slot).expect("it is active");
            }
        }
        println!("{:?}: orders take {:?}, a start {:?}", self.kind, self.orders_take, self.start_takes);
    }

    fn one_round(&mut self) {
        let mut rng = self.rng();
        if self.worker_kills == WORKER_KILLS_OF_ONE_DAEMON {
            self.appliance.stop();
            self.start();
            self.open_all();
        }
        self.deactivate_some(&mut rng);
        let plans: Vec<Plan> = (0..SLOTS).map(|slot| self.plan(slot, &mut rng)).collect();
        let first = self.appliance.audit_end() + 1;
        let worker = self.appliance.worker().expect("it serves");
        let answers = self.strike(&plans, worker, &mut rng);
        self.tally.kills += 1;
        let interrupted: Vec<bool> = answers.iter().map(|answer| self.is_interrupted(answer)).collect();
        self.tally.hits += u32::from(interrupted.contains(&true));
        self.recover(worker, &mut rng);

        let records = self.appliance.audit_from(first);
        self.tally.calling += calling_at_the_kill(&records, SLOTS);
        if self.victim == Victim::Daemon {
            tries_at_boot_are_bounded(&records, SLOTS);
        }
        let status = self.appliance.settled(None);
        let destroyed: Vec<usize> = (0..SLOTS).filter(|slot| status.slots[*slot].state == "absent").collect();
        if !destroyed.is_empty() {
            return self.give_up_tokens(&destroyed, &plans);
        }
        for (slot, view) in status.slots.iter().enumerate() {
            self.resolve(slot, view);
        }
        for (slot, plan) in plans.iter().enumerate() {
            self.open(slot, plan);
        }
        self.refusals_are_bounded(&self.appliance.audit_from(first));
        for (slot, plan) in plans.iter().enumerate() {
            self.judge(slot, plan, &answers[slot], interrupted[slot]);
        }
        self.prove();
    }

    /// Each round has its own, so that one can be looked at without those before it.
    fn rng(&self) -> Rng {
        Rng::with_seed(self.seed ^ self.round.wrapping_mul(0x9E37_79B9_7F4A_7C15))
    }

    // The strike.

    /// Some rounds begin with a slot that its person closed.
    fn deactivate_some(&mut self, rng: &mut Rng) {
        for slot in 0..SLOTS {
            if rng.u8(..) < 48 {
                let name = self.appliance.names[slot].clone();
                self.appliance.order(Order::Deactivate { slot: name }, &[]).expect("it is active");
                self.slots[slot].held = true;
            }
        }
    }

    /// Another code or the other mode.
    fn plan(&self, slot: usize, rng: &mut Rng) -> Plan {
        let name = self.appliance.names[slot].clone();
        let from = self.slots[slot].mode;
        let switch = rng.bool();
        let to = match (from, switch) {
            (Mode::Generated, false) | (Mode::Manual, true) => Mode::Generated,
            (Mode::Generated, true) | (Mode::Manual, false) => Mode::Manual,
        };
        let order = if switch {
            Order::Mode { slot: name, to, parts: Vec::new(), confirmed: false, accept: Vec::new() }
        } else {
            Order::ChangeCode { slot: name, confirmed: false, accept: Vec::new() }
        };
        let code = (to == Mode::Manual).then(|| format!("code {slot} of round {}", self.round));
        Plan { order, from, to, code }
    }

    /// Gives every order at once; `meanwhile` runs beside them.
    fn order_all(&self, plans: &[Plan], meanwhile: impl FnOnce()) -> Vec<Result<(), Problem>> {
        let client = &self.appliance.client;
        thread::scope(|scope| {
            let persons: Vec<_> = plans
                .iter()
                .zip(&self.slots)
                .map(|(plan, slot)| {
                    scope.spawn(move || {
                        let mut secrets = Vec::new();
                        if slot.mode == Mode::Manual {
                            secrets.push((SecretRole::Code, slot.pin.as_str()));
                        }
                        if let Some(code) = &plan.code {
                            secrets.push((SecretRole::NewCode, code.as_str()));
                        }
                        give(client, plan.order.clone(), &secrets)
                    })
                })
                .collect();
            meanwhile();
            persons.into_iter().map(|person| person.join().expect("an order does not panic")).collect()
        })
    }

    fn strike(&self, plans: &[Plan], worker: Pid, rng: &mut Rng) -> Vec<Result<(), Problem>> {
        let event = match rng.u8(0..10) {
            0..6 => Event::None,
            6..8 => Event::PinBeingSet,
            8 => Event::TakenBack,
            _ => Event::HandedOver,
        };
        let fraction = rng.f64();
        let victim = match self.victim {
            Victim::Daemon => self.appliance.daemon(),
            Victim::Worker => worker,
        };
        self.order_all(plans, || {
            self.wait_for(event, fraction);
            rustix::process::kill_process(victim, Signal::KILL).expect("it runs until now");
        })
    }

    /// Waits for the event and for a part of the time the orders take: 0 to 1.2 of it
    /// without an event, 0 to 0.2 after one.
    fn wait_for(&self, event: Event, fraction: f64) {
        let until = Instant::now() + self.orders_take.mul_f64(1.2);
        let was_active = |slot: &usize| !self.slots[*slot].held;
        let gone = || (0..SLOTS).filter(was_active).any(|slot| !self.appliance.is_handed_over(slot));
        let watch = |happened: &dyn Fn() -> bool| {
            while !happened() && Instant::now() < until {
                thread::sleep(WATCH_PAUSE);
            }
        };
        match event {
            Event::None => return thread::sleep(self.orders_take.mul_f64(1.2 * fraction)),
            Event::PinBeingSet => watch(&|| self.appliance.is_setting_a_pin()),
            Event::TakenBack => watch(&gone),
            Event::HandedOver => {
                watch(&gone);
                watch(&|| (0..SLOTS).any(|slot| self.appliance.is_handed_over(slot)));
            }
        }
        thread::sleep(self.orders_take.mul_f64(0.2 * fraction));
    }

    /// Whether the answer says that the order was cut short; any other refusal is wrong here.
    fn is_interrupted(&mut self, answer: &Result<(), Problem>) -> bool {
        let Err(problem) = answer else { return false };
        *self.tally.answers.entry(problem.name.clone()).or_default() += 1;
        let lost = problem.number == Problem::from(Own::AnswerLost).number;
        let too_late = match self.victim {
            Victim::Daemon => problem.number == Problem::from(Own::Unreachable).number,
            // The slot is logging in again already.
            Victim::Worker => problem.is(Refusal::Busy),
        };
        match self.victim {
            Victim::Daemon => assert!(lost || too_late, "{problem:?}"),
            Victim::Worker => assert!(problem.class.is_none() || too_late, "{problem:?}"),
        }
        self.tally.interrupted += u32::from(!too_late);
        !too_late
    }

    fn recover(&mut self, worker: Pid, rng: &mut Rng) {
        if self.victim == Victim::Worker {
            self.worker_kills += 1;
            let _ = self.appliance.settled(Some(worker));
            assert!(is_over(worker), "a killed worker serves no more");
            return;
        }
        self.appliance.kill();
        for slot in &mut self.slots {
            slot.held = false;
        }
        for _ in 0..KILLS_OF_A_RECOVERY_MAX {
            if rng.u8(0..4) != 0 {
                break;
            }
            self.appliance.start();
            thread::sleep(self.start_takes.mul_f64(1.1 * rng.f64()));
            self.appliance.kill();
            self.tally.kills_of_recovery += 1;
        }
        self.start();
        // It held the lock; a second one serves only after it has ended.
        assert!(is_over(worker), "two workers serve: {worker:?} and {:?}", self.appliance.worker());
    }

    // The question that counts.

    /// Orders what waits for a person, and not for a code, to be tried with what is stored.
    fn resolve(&mut self, slot: usize, view: &SlotView) {
        let undecided = view.doubt.as_deref() == Some("call-unanswered");
        let stopped = view.mode == "generated" && view.state == "locked";
        if !undecided && !stopped {
            return;
        }
        if !self.slots[slot].held {
            self.tally.doubtful += 1;
        }
        match self.activate(slot, None) {
            Ok(()) => {}
            // It was decided that the code is a person's: by this order, or since the slot was looked at.
            Err(problem) => {
                let by_itself = problem.is(Refusal::CodeMissing) && {
                    let now = &self.appliance.status().slots[slot];
                    now.doubt.as_deref() != Some("call-unanswered")
                };
                assert!(problem.is(Refusal::ManualCodeRules) || by_itself, "slot {slot}: {view:?}: {problem:?}");
            }
        }
    }

    /// Opens what waits for a code, with those that people can have.
    fn open(&mut self, slot: usize, plan: &Plan) {
        let view = self.cooled_down(slot);
        if !view.is_active() {
            assert_eq!(view.mode, "manual", "slot {slot}, {plan:?}: {view:?}");
            let old = Some(self.slots[slot].pin.clone()).filter(|_| plan.from == Mode::Manual);
            let opened = plan.code.iter().chain(old.iter()).any(|code| match self.activate(slot, Some(code)) {
                Ok(()) => true,
                Err(problem) if problem.is(Refusal::CodeWrong) => false,
                Err(problem) => panic!("slot {slot}, {plan:?}: {problem:?}"),
            });
            assert!(opened, "nobody has the code of slot {slot}, {plan:?}: {view:?}");
        }
        self.slots[slot].held = false;
    }

    /// A confirmed try that was refused costs its first wait, also one that decided.
    fn cooled_down(&self, slot: usize) -> SlotView {
        let until = Instant::now() + Duration::from_millis(BACK_OFF_FIRST_MS) + PATIENCE;
        loop {
            let view = self.appliance.status().slots.swap_remove(slot);
            if view.state != "cooling-down" {
                return view;
            }
            assert!(Instant::now() < until, "slot {slot}: {view:?}");
            thread::sleep(Duration::from_millis(100));
        }
    }

    /// A person's order to open the slot; confirmed when asked for.
    fn activate(&mut self, slot: usize, code: Option<&str>) -> Result<(), Problem> {
        let secrets: Vec<_> = code.iter().map(|code| (SecretRole::Code, *code)).collect();
        let order = |confirmed| Order::Activate { slot: self.appliance.names[slot].clone(), confirmed };
        let answer = self.appliance.order(order(false), &secrets);
        match answer {
            Err(problem) if problem.is(Refusal::LastTryUnconfirmed) => {
                self.tally.confirmed += 1;
                self.appliance.order(order(true), &secrets)
            }
            answer => answer,
        }
    }

    fn refusals_are_bounded(&mut self, records: &[AuditRecord]) {
        for slot in 0..SLOTS {
            let refused = of_slot(records, slot).filter(|event| **event == AuditEvent::AttemptRefused).count();
            assert!(
                refused <= 1,
                "slot {slot}: {refused} refused logins: {:#?}",
                Vec::from_iter(of_slot(records, slot))
            );
            self.tally.refused += u32::try_from(refused).expect("at most one");
        }
    }

    /// The slot has one of the codes it can have, in the mode that goes with it.
    fn judge(&mut self, slot: usize, plan: &Plan, answer: &Result<(), Problem>, interrupted: bool) {
        let view = self.appliance.status().slots[slot].clone();
        assert!(view.is_active(), "slot {slot}, {plan:?}: {view:?}");
        let pin = self.appliance.handed_over(slot).expect("it is active");
        let mode = if view.mode == "generated" { Mode::Generated } else { Mode::Manual };
        let is_old = pin == self.slots[slot].pin;
        assert_eq!(mode, if is_old { plan.from } else { plan.to }, "slot {slot}, {plan:?}: {view:?}");
        if !is_old {
            match &plan.code {
                Some(code) => assert!(*code == pin, "slot {slot} has a code that nobody typed"),
                None => assert_eq!(pin.len(), GENERATED_CHARS),
            }
        }
        match (answer, interrupted) {
            (Ok(()), _) => assert!(!is_old, "slot {slot}: a change was reported as done and is not"),
            (Err(_), true) if is_old => self.tally.old += 1,
            (Err(_), true) => self.tally.new += 1,
            (Err(_), false) => assert!(is_old, "slot {slot}: nobody was asked, and its code changed"),
        }
        self.slots[slot].mode = mode;
        self.slots[slot].pin = pin;
    }

    /// Every PIN opens its token for somebody else; no token is near its lock.
    fn prove(&self) {
        let pins: Vec<String> = self.slots.iter().map(|slot| slot.pin.clone()).collect();
        for (slot, seen) in self.appliance.second_look(&pins).iter().enumerate() {
            assert!(seen.present && seen.opens, "slot {slot}: the PIN that was handed over does not open: {seen:?}");
            assert!(seen.flags.is_empty(), "slot {slot}: {seen:?}");
        }
    }

    /// SoftHSM cannot read its own file: the slot is absent, keeps its codes, and offers
    /// nothing that would lose them. The campaign goes on with new tokens.
    fn give_up_tokens(&mut self, destroyed: &[usize], plans: &[Plan]) {
        assert_eq!((self.kind, self.victim), (Kind::SoftHsm, Victim::Worker), "slots {destroyed:?} are absent");
        let seen = self.appliance.second_look(&vec![String::new(); SLOTS]);
        for slot in destroyed {
            assert!(!seen[*slot].present, "slot {slot} is absent, and its token is there: {seen:?}");
            no_init_is_offered(&self.appliance, *slot);
        }
        self.appliance.stop();
        for slot in destroyed {
            codes_are_kept(&self.appliance, *slot, plans[*slot].from, plans[*slot].to);
        }
        self.tally.destroyed += u32::try_from(destroyed.len()).expect("a few");
        self.appliance = Appliance::new(Bench::new(self.kind, SLOTS), SLOTS);
        self.take_over();
    }
}

impl Drop for Campaign {
    /// What a person needs to see the failure again.
    fn drop(&mut self) {
        if thread::panicking() {
            let Campaign { kind, victim, seed, round, tally, .. } = self;
            eprintln!(
                "campaign: failed on {kind:?}, kills of the {victim:?}, round {round}; again with SLOTWARDEN_SEED={seed}"
            );
            eprintln!("so far: {tally}\n{}", self.appliance.log_end());
        }
    }
}
