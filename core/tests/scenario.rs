//! The life of a slot, told as a story: what is said to the core, and what it asks for.
//!
//! A plain little world stands behind the effects: one token, one store, no faults. Faults
//! are the simulator's.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use std::collections::BTreeMap;

use slotwarden_core::audit::{AuditEvent, AuditRecord};
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{
    ApplicationId, ApplicationOrder, Effect, HsmAnswer, HsmCall, Input, Outcome, Room, SlotId, StoreResult,
};
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::person::{PersonId, Persons};
use slotwarden_core::record::{Mode, Owner, Record, SecretKey, SlotRecord};
use slotwarden_core::service::{Configuration, Service, SlotConfiguration};
use slotwarden_core::status::{StateName, WaitKind};
use slotwarden_core::token::{LoginState, Presence, TokenState};
use slotwarden_core::{Now, SecretId};

type Small = Service<2, 16, 48>;
const SLOT: SlotId = SlotId(0);

struct World {
    service: Small,
    now_ms: u64,
    pin: Vec<u8>,
    refused: u32,
    login: LoginState,
    records: BTreeMap<Owner, SlotRecord>,
    sealed: BTreeMap<SecretKey, Vec<u8>>,
    journal: Vec<AuditRecord>,
    handed_over: Option<Vec<u8>>,
    answers: BTreeMap<u32, Answer>,
    draws: u8,
    replies: u32,
    stopped: bool,
}

impl World {
    fn with_token(pin: &[u8]) -> World {
        let mut world = World {
            service: service(),
            now_ms: 0,
            pin: pin.to_vec(),
            refused: 0,
            login: LoginState::Public,
            records: BTreeMap::new(),
            sealed: BTreeMap::new(),
            journal: Vec::new(),
            handed_over: None,
            answers: BTreeMap::new(),
            draws: 0,
            replies: 0,
            stopped: false,
        };
        world.start();
        world
    }

    fn without_token() -> World {
        let mut world = World::with_token(b"");
        world.input(Input::Token { slot: SLOT, presence: Presence::Absent { free: true } });
        world
    }

    fn init(&mut self, so_pin: &str, confirmed: bool) -> Answer {
        let so_pin = self.secret(so_pin);
        self.order(Command::Init { slot: SLOT, so_pin, free_slot: None, confirmed })
    }

    fn restart(&mut self) {
        self.service = service();
        self.login = LoginState::Public;
        self.handed_over = None;
        for (owner, record) in &self.records {
            self.service.load(*owner, *record);
        }
        self.start();
    }

    fn start(&mut self) {
        self.input(Input::Start);
        let presence = Presence::Present(self.token());
        self.input(Input::Token { slot: SLOT, presence });
        self.input(Input::WorkerUp);
    }

    fn token(&self) -> TokenState {
        TokenState {
            serial: *b"0123456789abcdef",
            initialised: true,
            user_pin: true,
            count_low: self.refused > 0,
            final_try: false,
            locked: false,
            pin_chars_max: 0,
            login: self.login,
        }
    }

    fn secret(&mut self, text: &str) -> SecretId {
        self.service
            .fill(|place| {
                place[..text.len()].copy_from_slice(text.as_bytes());
                text.len()
            })
            .expect("the safe has room")
    }

    fn order(&mut self, command: Command) -> Answer {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        let caller = Caller { who: PersonId(0), reply };
        let now = Now { mono_ms: self.now_ms, wall_s: None };
        if let Err(refusal) = self.service.handle(now, Input::Command { caller, command }) {
            return Answer::Refused(refusal);
        }
        self.perform();
        *self.answers.get(&reply.0).expect("every order is answered")
    }

    /// As `order`, but the secrets of active slots are gone when it is answered.
    fn stop(&mut self) {
        let caller = Caller { who: PersonId(0), reply: ReplyId(0) };
        let now = Now { mono_ms: self.now_ms, wall_s: None };
        self.service.handle(now, Input::Command { caller, command: Command::Stop }).expect("a stop is taken");
        self.perform_all();
    }

    fn activate(&mut self, code: &str, confirmed: bool) -> Answer {
        let code = Some(self.secret(code));
        self.order(Command::Activate { slot: SLOT, code, confirmed })
    }

    fn input(&mut self, input: Input) {
        let now = Now { mono_ms: self.now_ms, wall_s: None };
        self.service.handle(now, input).expect("only commands are refused");
        self.perform();
    }

    fn perform(&mut self) {
        self.perform_all();
        let (taken, owned) = self.service.secrets_taken_and_owned();
        assert_eq!(taken, owned, "every secret in the safe belongs to a state");
        assert!(self.service.free_places_are_wiped());
    }

    fn perform_all(&mut self) {
        while let Some(effect) = self.service.poll_effect() {
            let answer = match effect {
                Effect::Store(Record::Slot { owner, record }) => {
                    self.records.insert(owner, record);
                    None
                }
                Effect::Store(Record::Seal { key, id }) => {
                    let code = self.service.with(id, <[u8]>::to_vec).expect("a secret to seal is in the safe");
                    self.sealed.insert(key, code);
                    None
                }
                Effect::Store(Record::Erase { key }) => {
                    assert!(self.sealed.remove(&key).is_some());
                    None
                }
                Effect::Journal(record) => {
                    self.journal.push(record);
                    None
                }
                Effect::Commit { ticket } => Some(Input::Stored { ticket, result: StoreResult::Durable(Room::Plenty) }),
                Effect::Hsm { ticket, call, .. } => {
                    let outcome = Outcome::Hsm(self.call(call));
                    Some(Input::Done { ticket, outcome })
                }
                Effect::Random { ticket, id } => {
                    self.draws += 1;
                    let draws = self.draws;
                    assert!(self.service.refill(id, |place| {
                        for (index, byte) in (0u8..).zip(place.iter_mut()) {
                            *byte = index.wrapping_mul(31).wrapping_add(draws);
                        }
                        64
                    }));
                    Some(Input::Done { ticket, outcome: Outcome::Random(Ok(())) })
                }
                Effect::Unseal { ticket, key, id } => {
                    let code = self.sealed.get(&key).expect("a sealed code is there").clone();
                    assert!(self.service.refill(id, |place| {
                        place[..code.len()].copy_from_slice(&code);
                        code.len()
                    }));
                    Some(Input::Done { ticket, outcome: Outcome::Unsealed(Ok(())) })
                }
                Effect::Application { ticket, order, .. } => {
                    self.handed_over = match order {
                        ApplicationOrder::HandOver { pin } => self.service.with(pin, <[u8]>::to_vec),
                        ApplicationOrder::Withdraw => None,
                    };
                    Some(Input::Done { ticket, outcome: Outcome::Application(Ok(())) })
                }
                Effect::Reply { reply, answer } => {
                    assert!(self.answers.insert(reply.0, answer).is_none(), "one answer for each order");
                    None
                }
                Effect::Stopped => {
                    self.stopped = true;
                    None
                }
                Effect::Checkpoint { .. } | Effect::EndWorker => None,
            };
            if let Some(answer) = answer {
                let now = Now { mono_ms: self.now_ms, wall_s: None };
                self.service.handle(now, answer).expect("only commands are refused");
            }
        }
    }

    fn call(&mut self, call: HsmCall) -> Result<HsmAnswer, HsmFailure> {
        let refuse = |code, function| Err(HsmFailure::Pkcs11 { code, function });
        match call {
            HsmCall::Observe => Ok(HsmAnswer::Observed(self.token())),
            HsmCall::Login { pin } => {
                assert_eq!(self.login, LoginState::Public);
                if self.service.with(pin, |pin| pin == self.pin) == Some(true) {
                    self.login = LoginState::User;
                    self.refused = 0;
                    Ok(HsmAnswer::LoggedIn)
                } else {
                    self.refused += 1;
                    refuse(rv::PIN_INCORRECT, Function::Login)
                }
            }
            HsmCall::Logout => {
                self.login = LoginState::Public;
                Ok(HsmAnswer::LoggedOut)
            }
            HsmCall::SetPin { old, new } => {
                assert_eq!(self.login, LoginState::User);
                if self.service.with(old, |old| old == self.pin) != Some(true) {
                    self.refused += 1;
                    return refuse(rv::PIN_INCORRECT, Function::SetPin);
                }
                self.pin = self.service.with(new, <[u8]>::to_vec).expect("the new PIN is in the safe");
                Ok(HsmAnswer::PinSet)
            }
            HsmCall::Initialise { so_pin, new, .. } => {
                if self.service.with(so_pin, |pin| pin == b"right so pin") != Some(true) {
                    return refuse(rv::PIN_INCORRECT, Function::Login);
                }
                self.pin = self.service.with(new, <[u8]>::to_vec).expect("the new PIN is in the safe");
                Ok(HsmAnswer::Initialised(self.token()))
            }
            HsmCall::Settle => Ok(HsmAnswer::Settled),
        }
    }

    fn state(&self) -> StateName {
        self.service.status(Now { mono_ms: self.now_ms, wall_s: None }).slots[0].state
    }
}

fn service() -> Small {
    let mut slots = heapless::Vec::new();
    let mut applications = heapless::Vec::new();
    applications.push(ApplicationId(0)).expect("one application fits");
    slots.push(SlotConfiguration { owner: Owner(7), uid: [1; 16], applications }).expect("one slot fits");
    let configuration = Configuration { slots, persons: Persons::single(), tries: 3, digest: [0; 32] };
    Small::new(configuration).expect("the configuration is small")
}

#[test]
fn a_wrong_code_is_refused_and_the_right_one_activates() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.activate("short", false), Answer::Refused(Refusal::CodeTooShort));
    assert_eq!(world.refused, 0, "a typo costs no try");
    assert_eq!(world.activate("wrong code", false), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.records[&Owner(7)].user.refused_in_row, 1);
    assert_eq!(world.activate("right code", false), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.handed_over.as_deref(), Some(&b"right code"[..]));
    assert_eq!(world.records[&Owner(7)].user.refused_in_row, 0);
    assert_eq!(world.order(Command::Deactivate { slot: SLOT }), Answer::Done);
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.handed_over, None);
}

#[test]
fn the_third_try_needs_a_confirmation_and_its_refusal_costs_time() {
    let mut world = World::with_token(b"right code");
    for _ in 0..2 {
        assert_eq!(world.activate("wrong code", false), Answer::Refused(Refusal::CodeWrong));
    }
    assert_eq!(world.activate("right code", false), Answer::Refused(Refusal::LastTryUnconfirmed));
    assert_eq!(world.activate("wrong code", true), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.state(), StateName::CoolingDown);
    assert_eq!(world.activate("right code", true), Answer::Refused(Refusal::SlotCoolingDown));
    world.restart();
    assert_eq!(world.state(), StateName::CoolingDown, "the wait survives a restart");
    world.now_ms += 29_999;
    world.input(Input::Tick);
    assert_eq!(world.state(), StateName::CoolingDown);
    world.now_ms += 1;
    world.input(Input::Tick);
    assert_eq!(world.state(), StateName::Locked);
    assert_eq!(world.activate("right code", true), Answer::Done);
}

#[test]
fn a_generated_slot_is_active_after_a_restart_without_a_hand() {
    let mut world = World::with_token(b"right code");
    let code = Some(world.secret("right code"));
    let to = Mode::Generated;
    let command = Command::Mode { slot: SLOT, to, code, new_code: None, confirmed: false };
    assert_eq!(world.order(command), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin.len(), 32);
    world.restart();
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.handed_over.as_ref(), Some(&world.pin));

    // Another generated code, and back to a manual one.
    let before = world.pin.clone();
    let command = Command::ChangeCode { slot: SLOT, code: None, new_code: None, confirmed: false };
    assert_eq!(world.order(command), Answer::Done);
    assert_ne!(world.pin, before);
    assert_eq!(world.sealed.len(), 1);
    let new_code = Some(world.secret("known to alice"));
    let command = Command::Mode { slot: SLOT, to: Mode::Manual, code: None, new_code, confirmed: false };
    assert_eq!(world.order(command), Answer::Done);
    assert_eq!(world.pin, b"known to alice");
    assert!(world.sealed.is_empty(), "p31: nothing is stored for a manual slot");
    world.restart();
    assert_eq!(world.state(), StateName::Locked);
    let status = world.service.status(Now { mono_ms: 0, wall_s: None });
    assert_eq!(status.slots[0].waits_for.map(|waits| waits.kind), Some(WaitKind::Code));
    assert_eq!(world.activate("known to alice", false), Answer::Done);
}

#[test]
fn a_wrong_present_code_keeps_an_active_slot_active() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    let (code, new_code) = (Some(world.secret("wrong code")), Some(world.secret("another code")));
    let command = Command::ChangeCode { slot: SLOT, code, new_code, confirmed: false };
    assert_eq!(world.order(command), Answer::Refused(Refusal::CodeWrong));
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.pin, b"right code");
    assert_eq!(world.handed_over.as_deref(), Some(&b"right code"[..]));
    assert_eq!(world.records[&Owner(7)].change, None);
}

#[test]
fn p16_a_stop_is_durable_and_leaves_no_secret() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    world.stop();
    assert!(world.stopped);
    assert_eq!(world.journal.last().map(|record| record.event), Some(AuditEvent::Stopped));
    assert_eq!(world.service.secrets_taken_and_owned().0, 0);
    assert!(world.service.free_places_are_wiped());
}

#[test]
fn p37_the_journal_of_a_life_is_one_chain() {
    let mut world = World::with_token(b"right code");
    assert_eq!(world.activate("right code", false), Answer::Done);
    let mut chain = slotwarden_core::audit::Chain::default();
    assert!(world.journal.len() > 5);
    for record in &world.journal {
        assert_eq!(chain.accept(record), Ok(()));
    }
    let mut altered = world.journal[2];
    altered.wall_s = Some(1);
    let mut chain = slotwarden_core::audit::Chain::default();
    let verdicts =
        world.journal.iter().map(|record| chain.accept(if record.sequence == 3 { &altered } else { record }));
    assert!(verdicts.collect::<Result<Vec<()>, _>>().is_err());
}

#[test]
fn p05_the_so_pin_has_a_count_and_a_wait_of_its_own() {
    let mut world = World::without_token();
    assert_eq!(world.state(), StateName::Uninitialised);
    for expected in [Refusal::SoPinWrong, Refusal::SoPinWrong, Refusal::LastTryUnconfirmed] {
        assert_eq!(world.init("wrong so pin", false), Answer::Refused(expected));
    }
    assert_eq!(world.init("wrong so pin", true), Answer::Refused(Refusal::SoPinWrong));
    assert_eq!(world.init("right so pin", true), Answer::Refused(Refusal::SlotCoolingDown));
    world.now_ms += 30_000;
    assert_eq!(world.init("right so pin", true), Answer::Done);
    assert_eq!(world.state(), StateName::Active);
    assert_eq!(world.records[&Owner(7)].so.refused_in_row, 0);
    assert_eq!(world.init("right so pin", true), Answer::Refused(Refusal::SlotHasToken));
}
