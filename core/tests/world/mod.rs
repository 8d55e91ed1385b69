//! A plain little world behind the core: one token, one store, one application, no faults
//! of its own. What is asked of it can be held back, left unanswered or answered otherwise.
//! Faults without end are the simulator's.

// Each test file uses its part of the world; a test that panics has found something.
#![allow(dead_code, missing_docs, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

use slotwarden_core::audit::{AuditRecord, Chain};
use slotwarden_core::command::{Answer, Caller, Command, ReplyId};
use slotwarden_core::effect::{
    ApplicationId, ApplicationOrder, ApplicationSet, Effect, HsmAnswer, HsmCall, Input, Outcome, Room, SlotId,
    StoreResult,
};
use slotwarden_core::fault::{ApplicationFault, Fault, Function, HsmFailure, rv};
use slotwarden_core::person::{PersonId, Persons, Role, Roles};
use slotwarden_core::record::{Attempts, Change, ChangeKind};
use slotwarden_core::record::{Mode, Owner, PolicyRecord, Record, SecretKey, Sets, SlotRecord};
use slotwarden_core::service::{Configuration, SecurityLevel, Service, SlotConfiguration};
use slotwarden_core::status::StateName;
use slotwarden_core::token::{LoginState, Presence, TokenState};
use slotwarden_core::{Now, SecretId};
use std::collections::BTreeMap;

pub type Small = Service<2, 64, 48>;
pub const SLOT: SlotId = SlotId(0);
/// The wall clock stands still: nothing is decided by it.
pub const WALL_S: Option<u64> = Some(1_700_000_000);

/// An answer that a call gets instead of its own.
pub type Otherwise = fn(&HsmCall) -> Option<Result<HsmAnswer, HsmFailure>>;

pub struct World {
    pub service: Small,
    pub now_ms: u64,
    pub pin: Vec<u8>,
    pub refused: u32,
    pub login: LoginState,
    pub records: BTreeMap<Owner, SlotRecord>,
    pub policy: PolicyRecord,
    pub configuration: Configuration<2>,
    pub sets: BTreeMap<Owner, Sets>,
    /// Who gives an order when nobody is named.
    pub administrator: PersonId,
    /// Every share that was shown: to which order, and its text.
    pub shown: BTreeMap<u32, String>,
    pub sealed: BTreeMap<SecretKey, Vec<u8>>,
    pub journal: Vec<AuditRecord>,
    pub handed_over: Option<Vec<u8>>,
    pub answers: BTreeMap<u32, Answer>,
    pub draws: u8,
    pub replies: u32,
    pub stopped: bool,
    pub final_try: bool,
    pub user_pin: bool,
    pub locked: bool,
    pub so_refused: u32,
    pub so_final_try: bool,
    pub so_locked: bool,
    pub objects: u32,
    pub so_pin: Vec<u8>,
    /// Key id and slot uid of each pair of W and MAK that the token holds.
    pub backup_keys: Vec<([u8; 16], [u8; 16])>,
    pub serial: [u8; 16],
    pub new_serial_when_erased: bool,
    pub hold: bool,
    pub held: Vec<Input>,
    pub logins: u32,
    pub answer_to: Option<Otherwise>,
    pub silent: Option<fn(&HsmCall) -> bool>,
    pub app_silent: bool,
    pub app_fails: bool,
    pub calls: Vec<HsmCall>,
    pub left: u32,
    pub ended_worker: bool,
    /// Who ordered the data key destroyed, each time; and what becomes of it.
    pub zeroized: Vec<PersonId>,
    pub zeroize_result: Result<(), Fault>,
    pub store_fails: bool,
    /// A silent `C_SetPIN` takes effect all the same.
    pub dies_after_set_pin: bool,
}

impl World {
    pub fn with_token(pin: &[u8]) -> World {
        World::of(configuration(Persons::single()), pin)
    }

    /// A world of several persons: a number and the roles of each.
    pub fn of_persons(persons: &[(u8, &[Role])]) -> World {
        let mut list = Persons::none();
        for (who, roles) in persons {
            let roles = roles.iter().fold(Roles::NONE, |set, role| set.with(*role));
            list.add(PersonId(*who), roles).expect("a small list");
        }
        World::of(configuration(list), b"right code")
    }

    fn of(configuration: Configuration<2>, pin: &[u8]) -> World {
        let mut world = World {
            service: Small::new(configuration.clone()).expect("the configuration is small"),
            policy: PolicyRecord::default(),
            configuration,
            now_ms: 0,
            pin: pin.to_vec(),
            refused: 0,
            login: LoginState::Public,
            records: BTreeMap::new(),
            sets: BTreeMap::new(),
            administrator: PersonId::OWN_USER,
            shown: BTreeMap::new(),
            sealed: BTreeMap::new(),
            journal: Vec::new(),
            handed_over: None,
            answers: BTreeMap::new(),
            draws: 0,
            replies: 0,
            stopped: false,
            final_try: false,
            user_pin: true,
            locked: false,
            so_refused: 0,
            so_final_try: false,
            so_locked: false,
            objects: 3,
            so_pin: b"right so pin".to_vec(),
            backup_keys: Vec::new(),
            serial: *b"0123456789abcdef",
            new_serial_when_erased: false,
            hold: false,
            held: Vec::new(),
            logins: 0,
            answer_to: None,
            silent: None,
            app_silent: false,
            app_fails: false,
            calls: Vec::new(),
            left: 3000,
            ended_worker: false,
            zeroized: Vec::new(),
            zeroize_result: Ok(()),
            store_fails: false,
            dies_after_set_pin: false,
        };
        world.start();
        world
    }

    pub fn without_token() -> World {
        let mut world = World::with_token(b"");
        world.input(Input::Token { slot: SLOT, presence: Presence::Absent { free: true } });
        world
    }

    pub fn init(&mut self, so_pin: &str, confirmed: bool) -> Answer {
        let so_pin = self.secret(so_pin);
        self.order(Command::Init { slot: SLOT, so_pin, free_slot: None, confirmed })
    }

    pub fn restart(&mut self) {
        self.service = Small::new(self.configuration.clone()).expect("the configuration is small");
        self.login = LoginState::Public;
        self.handed_over = None;
        for (owner, record) in &self.records {
            self.service.load(*owner, *record);
        }
        self.service.load_policy(self.policy);
        self.service.load_chain(self.chain());
        for (owner, sets) in &self.sets {
            self.service.load_sets(*owner, sets.clone());
        }
        self.start();
    }

    pub fn start(&mut self) {
        self.input(Input::Start);
        let presence = Presence::Present(self.token());
        self.input(Input::Token { slot: SLOT, presence });
        self.input(Input::WorkerUp);
    }

    pub fn token(&self) -> TokenState {
        TokenState {
            serial: self.serial,
            initialised: true,
            user_pin: self.user_pin,
            count_low: self.refused > 0,
            final_try: self.final_try,
            locked: self.locked,
            so_count_low: self.so_refused > 0,
            so_final_try: self.so_final_try,
            so_locked: self.so_locked,
            pin_chars_max: 0,
            login: self.login,
        }
    }

    pub fn secret(&mut self, text: &str) -> SecretId {
        self.service
            .fill(|place| {
                place[..text.len()].copy_from_slice(text.as_bytes());
                text.len()
            })
            .expect("the safe has room")
    }

    /// The end of the journal.
    pub fn chain(&self) -> Chain {
        let last = self.journal.last();
        last.map_or_else(Chain::default, |record| Chain { sequence: record.sequence, head: record.hash() })
    }

    /// A world with so many custodians, numbered from 1, beside the administrator, who is 0.
    pub fn with_custodians(pin: &[u8], custodians: u8) -> World {
        let mut list = Persons::none();
        list.add(PersonId(0), Roles::NONE.with(Role::Administrator)).expect("the first");
        for who in 1..=custodians {
            list.add(PersonId(who), Roles::NONE.with(Role::Custodian)).expect("few persons");
        }
        World::of_all(list, pin)
    }

    /// A world of these persons, of whom 0 is the administrator that gives its orders.
    pub fn of_all(persons: Persons, pin: &[u8]) -> World {
        let mut world = World::of(configuration(persons), pin);
        world.administrator = PersonId(0);
        world
    }

    pub fn order(&mut self, command: Command) -> Answer {
        self.order_as(self.administrator, command)
    }

    pub fn order_by(&mut self, who: u8, command: Command) -> Answer {
        self.order_as(PersonId(who), command)
    }

    pub fn order_as(&mut self, who: PersonId, command: Command) -> Answer {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        let caller = Caller { who, reply };
        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
        if let Err(refusal) = self.service.handle(now, Input::Command { caller, command }) {
            return Answer::Refused(refusal);
        }
        self.perform();
        *self.answers.get(&reply.0).expect("every order is answered")
    }

    /// As `order`, but the secrets of active slots are gone when it is answered.
    pub fn stop(&mut self) {
        let caller = Caller { who: PersonId(0), reply: ReplyId(0) };
        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
        self.service.handle(now, Input::Command { caller, command: Command::Stop }).expect("a stop is taken");
        self.perform_all();
    }

    pub fn activate(&mut self, code: &str, confirmed: bool) -> Answer {
        let code = Some(self.secret(code));
        self.order(Command::Activate { slot: SLOT, code, confirmed })
    }

    pub fn input(&mut self, input: Input) {
        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
        self.service.handle(now, input).expect("only commands are refused");
        self.perform();
    }

    pub fn perform(&mut self) {
        self.perform_all();
        let (taken, owned) = self.service.secrets_taken_and_owned();
        assert_eq!(taken, owned, "every secret in the safe belongs to a state");
        assert!(self.service.free_places_are_wiped());
    }

    pub fn perform_all(&mut self) {
        while let Some(effect) = self.service.poll_effect() {
            self.left -= 1;
            assert!(self.left > 0, "effects without end");
            let answer = match effect {
                Effect::Store(Record::Slot { owner, record }) => {
                    self.records.insert(owner, record);
                    None
                }
                Effect::Store(Record::Policy(policy)) => {
                    self.policy = policy;
                    None
                }
                Effect::Store(Record::Sets { owner, sets }) => {
                    self.sets.insert(owner, sets);
                    None
                }
                Effect::Store(Record::Seal { key, id }) => {
                    let code = self.service.with(id, <[u8]>::to_vec).expect("a secret to seal is in the safe");
                    self.sealed.insert(key, code);
                    None
                }
                // This world has no cards: what is stored of them is only the cluster id.
                Effect::Store(
                    Record::Cluster(_)
                    | Record::CardSets { .. }
                    | Record::Card { .. }
                    | Record::Restoration(_)
                    | Record::Roster(_)
                    | Record::SyncMarks(_)
                    | Record::Reception(_)
                    | Record::Transcript { .. },
                ) => None,
                Effect::Store(Record::Erase { key }) => {
                    assert!(self.sealed.remove(&key).is_some());
                    None
                }
                Effect::Journal(record) => {
                    self.journal.push(record);
                    None
                }
                Effect::Commit { ticket } => {
                    let durable = StoreResult::Durable(Room::Plenty);
                    let result = if self.store_fails { StoreResult::Failed } else { durable };
                    let stored = Input::Stored { ticket, result };
                    if self.hold {
                        self.held.push(stored);
                        None
                    } else {
                        Some(stored)
                    }
                }
                Effect::Hsm { ticket, call, .. } => {
                    self.calls.push(call);
                    if matches!(call, HsmCall::Login { .. }) {
                        self.logins += 1;
                    }
                    if self.silent.is_some_and(|silent| silent(&call)) {
                        if self.dies_after_set_pin && matches!(call, HsmCall::SetPin { .. }) {
                            let _ = self.call(call);
                        }
                        self.held.push(Input::Done { ticket, outcome: Outcome::Hsm(Err(HsmFailure::NoWorker)) });
                        continue;
                    }
                    if let Some(result) = self.answer_to.and_then(|f| f(&call)) {
                        if matches!(call, HsmCall::Initialise { .. }) {
                            // It takes effect; only the answer differs.
                            let _ = self.call(call);
                        }
                        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
                        self.service
                            .handle(now, Input::Done { ticket, outcome: Outcome::Hsm(result) })
                            .expect("only commands are refused");
                        continue;
                    }
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
                Effect::Application { .. } if self.app_silent => None,
                Effect::Application { ticket, .. } if self.app_fails => {
                    let fault = Fault::Application(ApplicationFault::NotWritten);
                    Some(Input::Done { ticket, outcome: Outcome::Application(Err(fault)) })
                }
                Effect::Application { ticket, order, .. } => {
                    self.handed_over = match order {
                        ApplicationOrder::HandOver { pin } => self.service.with(pin, <[u8]>::to_vec),
                        ApplicationOrder::Withdraw => None,
                    };
                    Some(Input::Done { ticket, outcome: Outcome::Application(Ok(())) })
                }
                Effect::Reply { reply, answer } => {
                    if let Answer::Share { id, .. } = answer {
                        let text = self.service.with(id, <[u8]>::to_vec).expect("the share is shown now");
                        self.shown.insert(reply.0, String::from_utf8(text).expect("shares are text"));
                    }
                    assert!(self.answers.insert(reply.0, answer).is_none(), "one answer for each order");
                    None
                }
                Effect::Stopped => {
                    self.stopped = true;
                    None
                }
                Effect::Zeroize { ticket, who } => {
                    self.zeroized.push(who);
                    Some(Input::Done { ticket, outcome: Outcome::Zeroized(self.zeroize_result) })
                }
                Effect::EndWorker => {
                    self.ended_worker = true;
                    None
                }
                Effect::Card { .. }
                | Effect::Checkpoint { .. }
                | Effect::File { .. }
                | Effect::SignTranscript { .. } => None,
            };
            if let Some(answer) = answer {
                let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
                self.service.handle(now, answer).expect("only commands are refused");
            }
        }
    }

    pub fn call(&mut self, call: HsmCall) -> Result<HsmAnswer, HsmFailure> {
        let refuse = |code, function| Err(HsmFailure::Pkcs11 { code, function });
        match call {
            HsmCall::Observe => Ok(HsmAnswer::Observed(self.token())),
            HsmCall::Login { pin } => {
                assert_eq!(self.login, LoginState::Public);
                if self.locked {
                    return refuse(rv::PIN_LOCKED, Function::Login);
                }
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
                if self.service.with(so_pin, |pin| pin == self.so_pin) != Some(true) {
                    return refuse(rv::PIN_INCORRECT, Function::Login);
                }
                self.pin = self.service.with(new, <[u8]>::to_vec).expect("the new PIN is in the safe");
                self.user_pin = true;
                Ok(HsmAnswer::Initialised(self.token()))
            }
            HsmCall::Settle => Ok(HsmAnswer::Settled),
            HsmCall::Unblock { so_pin, new } => {
                assert_eq!(self.login, LoginState::Public);
                self.check_so_pin(so_pin, Function::Login)?;
                self.pin = self.service.with(new, <[u8]>::to_vec).expect("the new PIN is in the safe");
                self.locked = false;
                self.refused = 0;
                Ok(HsmAnswer::Unblocked)
            }
            HsmCall::Erase { so_pin } => {
                assert_eq!(self.login, LoginState::Public);
                self.check_so_pin(so_pin, Function::InitToken)?;
                self.pin.clear();
                self.user_pin = false;
                self.locked = false;
                self.refused = 0;
                self.objects = 0;
                if self.new_serial_when_erased {
                    self.serial = *b"new after erase ";
                }
                self.backup_keys.clear();
                Ok(HsmAnswer::Erased(self.token()))
            }
            HsmCall::PutBackupKeys { key_id, uid, kek, mak, unwrap: _ } => {
                if self.login != LoginState::User {
                    return refuse(rv::USER_NOT_LOGGED_IN, Function::CreateObject);
                }
                for key in [kek, mak] {
                    assert_eq!(self.service.with(key, <[u8]>::len), Some(32), "the key is in the safe");
                }
                if !self.backup_keys.contains(&(key_id, uid)) {
                    self.backup_keys.push((key_id, uid));
                }
                Ok(HsmAnswer::BackupKeysPut)
            }
            HsmCall::KeepBackupKeys { key_id, uid, unwrap: _ } => {
                if self.login != LoginState::User {
                    return refuse(rv::USER_NOT_LOGGED_IN, Function::FindObjects);
                }
                let before = self.backup_keys.len();
                self.backup_keys.retain(|key| key_id.is_some_and(|id| *key == (id, uid)));
                let gone = before.saturating_sub(self.backup_keys.len()).saturating_mul(2);
                let destroyed = u8::try_from(gone).unwrap_or(u8::MAX);
                Ok(HsmAnswer::BackupKeysKept { present: !self.backup_keys.is_empty(), destroyed, unwrap: false })
            }
            HsmCall::SetSoPin { old, new } => {
                assert_eq!(self.login, LoginState::Public);
                self.check_so_pin(old, Function::Login)?;
                self.so_pin = self.service.with(new, <[u8]>::to_vec).expect("the new SO PIN is in the safe");
                Ok(HsmAnswer::SoPinSet)
            }
            // This world has no files, so nobody orders these.
            HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => refuse(rv::FUNCTION_NOT_SUPPORTED, Function::Other),
        }
    }

    fn check_so_pin(&mut self, so_pin: SecretId, function: Function) -> Result<(), HsmFailure> {
        let code = if self.so_locked { rv::PIN_LOCKED } else { rv::PIN_INCORRECT };
        if self.so_locked || self.service.with(so_pin, |pin| pin == self.so_pin) != Some(true) {
            self.so_refused += 1;
            return Err(HsmFailure::Pkcs11 { code, function });
        }
        self.so_refused = 0;
        Ok(())
    }

    pub fn unblock(&mut self, so_pin: &str, new_code: Option<&str>, confirmed: bool) -> Answer {
        let command = self.unblocking(so_pin, new_code, confirmed);
        self.order(command)
    }

    pub fn unblocking(&mut self, so_pin: &str, new_code: Option<&str>, confirmed: bool) -> Command {
        let so_pin = self.secret(so_pin);
        let to = if new_code.is_some() { Mode::Manual } else { Mode::Generated };
        let new_code = new_code.map(|code| self.secret(code));
        Command::Unblock { slot: SLOT, so_pin, to, new_code, confirmed, accept: ApplicationSet::NONE }
    }

    pub fn decommission(&mut self, so_pin: Option<&str>, confirmed: bool) -> Answer {
        let so_pin = so_pin.map(|pin| self.secret(pin));
        self.order(Command::Decommission { slot: SLOT, so_pin, confirmed, accept: ApplicationSet::NONE })
    }

    /// Somebody types wrong PINs past us until the token blocks.
    pub fn block(&mut self) {
        self.locked = true;
        self.present();
    }

    pub fn record(&self) -> SlotRecord {
        self.records[&Owner(7)]
    }

    pub fn state(&self) -> StateName {
        self.service.status(Now { mono_ms: self.now_ms, wall_s: WALL_S }).slots[0].state
    }
}

pub fn configuration(persons: Persons) -> Configuration<2> {
    let mut slots = heapless::Vec::new();
    let mut applications = heapless::Vec::new();
    applications.push(ApplicationId(0)).expect("one application fits");
    slots
        .push(SlotConfiguration { owner: Owner(7), uid: [1; 16], applications, pin_chars_max: 0 })
        .expect("one slot fits");
    Configuration {
        slots,
        persons,
        tries: 3,
        digest: [0; 32],
        in_force: [1; 32],
        offered: [1; 32],
        level: SecurityLevel::Cards,
        cluster: [0xC1; 16],
    }
}

pub fn service() -> Small {
    Small::new(configuration(Persons::single())).expect("the configuration is small")
}

impl World {
    pub fn ask(&mut self, command: Command) -> (u32, Option<Answer>) {
        self.replies += 1;
        let reply = ReplyId(self.replies);
        let caller = Caller { who: self.administrator, reply };
        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
        if let Err(refusal) = self.service.handle(now, Input::Command { caller, command }) {
            return (reply.0, Some(Answer::Refused(refusal)));
        }
        self.perform_all();
        (reply.0, self.answers.get(&reply.0).copied())
    }
    /// A person enters something, and the answer does not come.
    pub fn enter_unanswered(&mut self, who: u8, text: &str) {
        let code = Some(self.secret(text));
        self.replies += 1;
        let caller = Caller { who: PersonId(who), reply: ReplyId(self.replies) };
        let now = Now { mono_ms: self.now_ms, wall_s: None };
        let command = Command::Share { slot: SLOT, code, confirmed: false };
        self.service.handle(now, Input::Command { caller, command }).expect("it enters");
        self.perform_all();
        assert!(!self.answers.contains_key(&self.replies), "it was answered");
    }
    pub fn raw(&mut self, input: Input) {
        let now = Now { mono_ms: self.now_ms, wall_s: WALL_S };
        self.service.handle(now, input).expect("only commands are refused");
        self.perform_all();
    }
    pub fn generated(&mut self) {
        let code = Some(self.secret("right code"));
        let c = Command::Mode {
            slot: SLOT,
            to: Mode::Generated,
            parts: None,
            code,
            new_code: None,
            confirmed: false,
            accept: ApplicationSet::NONE,
        };
        assert_eq!(self.order(c), Answer::Done);
    }
    pub fn present(&mut self) {
        let p = Presence::Present(self.token());
        self.raw(Input::Token { slot: SLOT, presence: p });
    }
}
pub fn key(g: u32) -> SecretKey {
    SecretKey { kind: slotwarden_core::record::SecretKind::GeneratedCode, owner: Owner(7), generation: g }
}

/// An interrupted generated -> generated change; the token has the OLD code (generation 1).
pub fn interrupted(user: Attempts, pin: &[u8]) -> World {
    let mut w = World::with_token(b"xxxxxxxxxx");
    w.pin = pin.to_vec();
    let mut r = w.records[&Owner(7)];
    r.mode = Mode::Generated;
    r.accepted = Some(1);
    r.pending = Some(2);
    r.next_generation = 3;
    r.change = Some(Change::calling(ChangeKind::GeneratedToGenerated));
    r.user = user;
    w.records.insert(Owner(7), r);
    w.sealed.insert(key(1), b"old generated code".to_vec());
    w.sealed.insert(key(2), b"new generated code".to_vec());
    w
}
