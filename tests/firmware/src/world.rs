//! The devices of a firmware, in memory: two tokens, a store, random sources, an application.
//!
//! Shared by the image for a Cortex-M3 and by the host's proof without std, so that both
//! run the same life of two slots. Every effect is performed at once; nothing is lost and
//! nothing hangs (that is the simulator's work). The random sources are counters: good for
//! a test, for nothing else. After a restart only records, sealed codes and the audit
//! chain's head are left, as in a real store.

use slotwarden_core::audit::Chain;
use slotwarden_core::effect::{
    ApplicationId, ApplicationOrder, ApplicationSet, HsmAnswer, HsmCall, Outcome, Room, SlotId, StoreResult, Ticket,
};
use slotwarden_core::fault::{Fault, Function, HsmFailure, rv};
use slotwarden_core::limits::PLACE_BYTES;
use slotwarden_core::person::{PersonId, Persons};
use slotwarden_core::record::{Mode, Owner, Record, SecretKey, Sets, SlotRecord};
use slotwarden_core::service::SecurityLevel;
use slotwarden_core::status::StateName;
use slotwarden_core::token::{LoginState, Presence, TokenState};
use slotwarden_core::{
    Answer, Caller, Command, Configuration, Effect, Firmware, Input, Now, Refusal, ReplyId, SecretId, SlotConfiguration,
};

/// Slots in this world: one that is adopted, one that is initialised here.
pub const SLOTS: usize = 2;
/// What one draw fills: two halves of 32 bytes.
const DRAWN_BYTES: usize = 64;
/// Sealed codes kept at once: two generations for each slot.
const SEALED_MAX: usize = 2 * SLOTS;
/// Effects performed for one input before the core counts as a runaway. A mode switch, the
/// longest order, takes about 40.
const EFFECTS_PER_INPUT_MAX: u32 = 500;

/// A secret as a device or the store keeps it.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Kept {
    bytes: [u8; PLACE_BYTES],
    len: usize,
}

/// A token: its PINs, the key id and slot uid of its backup keys, whether its last login was
/// refused, who is logged in.
#[derive(Clone, Copy)]
struct Token {
    pin: Option<Kept>,
    so_pin: Option<Kept>,
    /// Of the backup key in force and of the one that is replacing it.
    backup_keys: [Option<([u8; 16], [u8; 16])>; 2],
    count_low: bool,
    login: LoginState,
}

/// A code in the store. This world has no seal; the platforms' stores encrypt.
#[derive(Clone, Copy)]
struct Sealed {
    key: SecretKey,
    secret: Kept,
}

/// Everything outside the core.
pub struct World {
    tokens: [Token; SLOTS],
    handed_over: [Option<Kept>; SLOTS],
    records: [Option<SlotRecord>; SLOTS],
    sets: [Option<Sets>; SLOTS],
    sealed: [Option<Sealed>; SEALED_MAX],
    chain: Chain,
    chain_holds: bool,
    answer: Option<(ReplyId, Answer)>,
    draws: u64,
    mono_ms: u64,
    replies: u32,
    effects: u32,
}

/// A step that went otherwise than expected: its number and what was found there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deviation {
    /// The step's number, counted from 1.
    pub step: u32,
    /// What was found instead.
    pub found: Found,
}

/// What a step found instead of what it expected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The order was answered like this, or not at all.
    Answer(Option<Answer>),
    /// The slot is in another state.
    State(Option<StateName>),
    /// The application has another PIN than the token, or none, or one too many.
    HandOver,
    /// The core keeps asking for effects.
    Runaway,
    /// The audit records do not follow from each other.
    Chain,
}

/// The slot whose token was initialised elsewhere.
const ADOPTED_SLOT: SlotId = SlotId(0);
/// The slot whose token is free.
const FREE_SLOT: SlotId = SlotId(1);
/// The PIN of the token that was initialised elsewhere.
const ADOPTED: &[u8] = b"adopted code";
/// The manual code slot 1 gets at the end.
const TYPED: &[u8] = b"typed by a person";

/// Gives an empty service the slots of this world.
///
/// # Errors
/// As `Service::configure`.
pub fn configure(service: &mut Firmware) -> Result<(), Refusal> {
    let mut slots = heapless::Vec::new();
    for (owner, application) in (0u16..).zip(0u8..).take(SLOTS) {
        let mut applications = heapless::Vec::new();
        applications.push(ApplicationId(application)).map_err(|_| Refusal::TooManyApplications)?;
        slots
            .push(SlotConfiguration { owner: Owner(owner), uid: [application; 16], applications, pin_chars_max: 0 })
            .map_err(|_| Refusal::TooManySlots)?;
    }
    let persons = Persons::single();
    verbs::configure(
        service,
        &Configuration {
            slots,
            persons,
            tries: 3,
            digest: [0; 32],
            in_force: [0; 32],
            offered: [0; 32],
            level: SecurityLevel::None,
            cluster: [0; 16],
        },
    )
}

impl World {
    /// Power on for the first time: token 0 was initialised elsewhere, token 1 is free.
    #[must_use]
    pub fn new() -> Self {
        World {
            tokens: [Token { pin: Some(Kept::of(ADOPTED)), ..Token::free() }, Token::free()],
            handed_over: [None; SLOTS],
            records: [None; SLOTS],
            sets: [const { None }; SLOTS],
            sealed: [None; SEALED_MAX],
            chain: Chain { sequence: 0, head: [0; 32] },
            chain_holds: true,
            answer: None,
            draws: 0,
            mono_ms: 0,
            replies: 0,
            effects: 0,
        }
    }

    /// Effects performed since power-on.
    #[must_use]
    pub const fn effects(&self) -> u32 {
        self.effects
    }

    /// The first life: adopt slot 0, refuse bad codes, activate, deactivate, initialise
    /// slot 1, switch slot 0 to a generated code. Returns the number of steps.
    ///
    /// # Errors
    /// The first step that went otherwise.
    pub fn first_life(&mut self, service: &mut Firmware) -> Result<u32, Deviation> {
        let mut steps = Steps { world: self, service, step: 0 };
        steps.start()?;
        steps.state(ADOPTED_SLOT, StateName::Locked)?;
        steps.state(FREE_SLOT, StateName::Uninitialised)?;

        steps.activate(b"7 chars", Answer::Refused(Refusal::CodeTooShort))?;
        steps.activate(b"not its code", Answer::Refused(Refusal::CodeWrong))?;
        steps.handed_over(ADOPTED_SLOT, false)?;
        steps.activate(ADOPTED, Answer::Done)?;
        steps.state(ADOPTED_SLOT, StateName::Active)?;
        steps.handed_over(ADOPTED_SLOT, true)?;

        steps.order(Command::Deactivate { slot: ADOPTED_SLOT }, Answer::Done)?;
        steps.state(ADOPTED_SLOT, StateName::Locked)?;
        steps.handed_over(ADOPTED_SLOT, false)?;

        let so_pin = steps.secret(b"security officer")?;
        steps.order(Command::Init { slot: FREE_SLOT, so_pin, free_slot: None, confirmed: false }, Answer::Done)?;
        steps.state(FREE_SLOT, StateName::Active)?;
        steps.handed_over(FREE_SLOT, true)?;

        let code = steps.secret(ADOPTED)?;
        let to = Mode::Generated;
        steps.order(
            Command::Mode {
                slot: ADOPTED_SLOT,
                to,
                parts: None,
                code: Some(code),
                new_code: None,
                confirmed: false,
                accept: ApplicationSet::NONE,
            },
            Answer::Done,
        )?;
        steps.changed_pin(ADOPTED_SLOT, ADOPTED)?;
        Ok(steps.step)
    }

    /// The life after a restart: both slots open without a person, slot 1 becomes manual.
    ///
    /// # Errors
    /// The first step that went otherwise.
    pub fn second_life(&mut self, service: &mut Firmware) -> Result<u32, Deviation> {
        self.power_cycle();
        let mut steps = Steps { world: self, service, step: 0 };
        steps.start()?;
        steps.order(Command::Boot, Answer::Done)?;
        steps.state(ADOPTED_SLOT, StateName::Active)?;
        steps.state(FREE_SLOT, StateName::Active)?;
        steps.handed_over(ADOPTED_SLOT, true)?;
        steps.handed_over(FREE_SLOT, true)?;

        let new_code = steps.secret(TYPED)?;
        let to = Mode::Manual;
        steps.order(
            Command::Mode {
                slot: FREE_SLOT,
                to,
                parts: None,
                code: None,
                new_code: Some(new_code),
                confirmed: false,
                accept: ApplicationSet::NONE,
            },
            Answer::Done,
        )?;
        steps.has_pin(FREE_SLOT, TYPED)?;
        steps.order(Command::Deactivate { slot: FREE_SLOT }, Answer::Done)?;
        steps.handed_over(FREE_SLOT, false)?;
        steps.order(Command::Deactivate { slot: ADOPTED_SLOT }, Answer::Done)?;
        steps.handed_over(ADOPTED_SLOT, false)?;
        Ok(steps.step)
    }

    /// What a power cut leaves: the store and the tokens; logins and hand-overs are gone.
    fn power_cycle(&mut self) {
        for token in &mut self.tokens {
            token.login = LoginState::Public;
        }
        self.handed_over = [None; SLOTS];
    }

    const fn now(&self) -> Now {
        Now { mono_ms: self.mono_ms, wall_s: None }
    }

    /// Feeds one input, then performs effects until the core has none left.
    fn feed(&mut self, service: &mut Firmware, input: Input) -> Result<Result<(), Refusal>, Found> {
        self.mono_ms = self.mono_ms.saturating_add(1);
        let taken = verbs::handle(service, self.now(), input);
        for _ in 0..EFFECTS_PER_INPUT_MAX {
            let Some(effect) = verbs::poll_effect(service) else { return Ok(taken) };
            self.effects = self.effects.saturating_add(1);
            if let Some(input) = self.perform(service, effect) {
                // Only orders can be refused, and no effect causes one.
                let _ = verbs::handle(service, self.now(), input);
            }
        }
        Err(Found::Runaway)
    }

    /// Performs one effect at once; returns how it ended, if it is to be answered.
    fn perform(&mut self, service: &mut Firmware, effect: Effect) -> Option<Input> {
        match effect {
            Effect::Store(record) => {
                self.put(service, record);
                None
            }
            Effect::Journal(record) => {
                self.chain_holds &= self.chain.accept(&record).is_ok();
                None
            }
            Effect::Commit { ticket } => Some(Input::Stored { ticket, result: StoreResult::Durable(Room::Plenty) }),
            Effect::Hsm { ticket, slot, call } => {
                Some(Input::Done { ticket, outcome: Outcome::Hsm(self.call(service, slot, call)) })
            }
            Effect::Random { ticket, id } => {
                Some(Input::Done { ticket, outcome: Outcome::Random(self.draw(service, id)) })
            }
            Effect::Unseal { ticket, key, id } => {
                Some(Input::Done { ticket, outcome: Outcome::Unsealed(self.unseal(service, key, id)) })
            }
            Effect::Application { ticket, slot, order, .. } => Some(self.hand_over(service, ticket, slot, order)),
            Effect::Reply { reply, answer } => {
                self.answer = Some((reply, answer));
                None
            }
            Effect::EndWorker => Some(Input::WorkerLost),
            // A board without card readers.
            Effect::Card { .. }
            | Effect::SignTranscript { .. }
            | Effect::Checkpoint { .. }
            | Effect::File { .. }
            | Effect::Zeroize { .. }
            | Effect::Stopped => None,
        }
    }

    fn put(&mut self, service: &Firmware, record: Record) {
        match record {
            Record::Slot { owner, record } => {
                if let Some(place) = self.records.get_mut(usize::from(owner.0)) {
                    *place = Some(record);
                }
            }
            Record::Sets { owner, sets } => {
                if let Some(place) = self.sets.get_mut(usize::from(owner.0)) {
                    *place = Some(sets);
                }
            }
            Record::Seal { key, id } => {
                let secret = service.with(id, Kept::of);
                let free = self.sealed.iter_mut().find(|place| place.is_none());
                if let (Some(secret), Some(place)) = (secret, free) {
                    *place = Some(Sealed { key, secret });
                }
            }
            // One user, without anybody to approve: never switched on here.
            // No card ever comes: of cards only the cluster id is kept, and that is the configuration's here.
            Record::Policy(_)
            | Record::Cluster(_)
            | Record::Restoration(_)
            | Record::Roster(_)
            | Record::SyncMarks(_)
            | Record::Reception(_)
            | Record::CardSets { .. }
            | Record::Card { .. }
            | Record::Transcript { .. } => {}
            Record::Erase { key } => {
                for place in &mut self.sealed {
                    if place.is_some_and(|sealed| sealed.key == key) {
                        *place = None;
                    }
                }
            }
        }
    }

    /// A PKCS#11 token, as far as the core can see one.
    fn call(&mut self, service: &Firmware, slot: SlotId, call: HsmCall) -> Result<HsmAnswer, HsmFailure> {
        let token = self.tokens.get_mut(usize::from(slot.0)).ok_or(HsmFailure::TokenGone)?;
        let failed = |code, function| HsmFailure::Pkcs11 { code, function };
        match call {
            HsmCall::Observe => Ok(HsmAnswer::Observed(token.state(slot))),
            HsmCall::Login { .. } if token.login != LoginState::Public => Err(HsmFailure::AlreadyLoggedIn),
            HsmCall::Login { pin } => {
                let tried = service.with(pin, Kept::of);
                token.count_low = tried.is_none() || tried != token.pin;
                if token.count_low {
                    return Err(failed(rv::PIN_INCORRECT, Function::Login));
                }
                token.login = LoginState::User;
                Ok(HsmAnswer::LoggedIn)
            }
            HsmCall::Logout => {
                token.login = LoginState::Public;
                Ok(HsmAnswer::LoggedOut)
            }
            HsmCall::SetPin { .. } if token.login != LoginState::User => {
                Err(failed(rv::USER_NOT_LOGGED_IN, Function::SetPin))
            }
            HsmCall::SetPin { old, new } => {
                if service.with(old, Kept::of) != token.pin {
                    token.count_low = true;
                    return Err(failed(rv::PIN_INCORRECT, Function::SetPin));
                }
                token.pin = service.with(new, Kept::of);
                Ok(HsmAnswer::PinSet)
            }
            HsmCall::Initialise { .. } if token.pin.is_some() => Err(HsmFailure::Refused(Refusal::SlotHasToken)),
            HsmCall::Initialise { so_pin, new, .. } => {
                token.so_pin = service.with(so_pin, Kept::of);
                token.pin = service.with(new, Kept::of);
                Ok(HsmAnswer::Initialised(token.state(slot)))
            }
            HsmCall::Settle => Ok(HsmAnswer::Settled),
            HsmCall::Unblock { new, .. } => {
                token.pin = service.with(new, Kept::of);
                token.count_low = false;
                Ok(HsmAnswer::Unblocked)
            }
            HsmCall::Erase { .. } => {
                token.pin = None;
                token.backup_keys = [None; 2];
                Ok(HsmAnswer::Erased(token.state(slot)))
            }
            HsmCall::PutBackupKeys { .. } if token.login != LoginState::User => {
                Err(failed(rv::USER_NOT_LOGGED_IN, Function::CreateObject))
            }
            HsmCall::PutBackupKeys { key_id, uid, .. } => {
                let made = Some((key_id, uid));
                if !token.backup_keys.contains(&made) {
                    let free = token.backup_keys.iter_mut().find(|held| held.is_none());
                    *free.ok_or(failed(rv::DEVICE_MEMORY, Function::CreateObject))? = made;
                }
                Ok(HsmAnswer::BackupKeysPut)
            }
            HsmCall::KeepBackupKeys { .. } if token.login != LoginState::User => {
                Err(failed(rv::USER_NOT_LOGGED_IN, Function::FindObjects))
            }
            HsmCall::KeepBackupKeys { key_id, uid, unwrap: _ } => {
                let ours = key_id.map(|id| (id, uid));
                let mut destroyed = 0u8;
                for held in &mut token.backup_keys {
                    if held.is_some() && *held != ours {
                        *held = None;
                        // W and MAK.
                        destroyed = destroyed.saturating_add(2);
                    }
                }
                let present = ours.is_some() && token.backup_keys.contains(&ours);
                Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap: false })
            }
            HsmCall::SetSoPin { old, new } => {
                // A token that was initialised elsewhere has an SO PIN that this world never heard.
                let tried = service.with(old, Kept::of);
                if token.so_pin.is_some_and(|so_pin| tried != Some(so_pin)) {
                    return Err(failed(rv::PIN_INCORRECT, Function::Login));
                }
                token.so_pin = service.with(new, Kept::of);
                Ok(HsmAnswer::SoPinSet)
            }
            // A board without files exports nothing.
            HsmCall::Inventory { .. }
            | HsmCall::ExportSection { .. }
            | HsmCall::PrepareImport { .. }
            | HsmCall::Import { .. }
            | HsmCall::PlanPackage { .. }
            | HsmCall::ImportPackage { .. }
            | HsmCall::DropUnwrapKey { .. } => Err(failed(rv::FUNCTION_NOT_SUPPORTED, Function::Other)),
        }
    }

    fn draw(&mut self, service: &mut Firmware, id: SecretId) -> Result<(), Fault> {
        self.draws = self.draws.saturating_add(1);
        let draw = self.draws;
        let filled = service.refill(id, |place| {
            // SplitMix64's finaliser over a counter: differs from draw to draw, and is no secret.
            for (number, byte) in (0u64..).zip(place.iter_mut().take(DRAWN_BYTES)) {
                let mixed = (draw << 8 | number).wrapping_mul(0x9E37_79B9_7F4A_7C15);
                *byte = (mixed ^ (mixed >> 29)).to_be_bytes()[0];
            }
            DRAWN_BYTES
        });
        if filled { Ok(()) } else { Err(Fault::RandomUnavailable) }
    }

    fn unseal(&self, service: &mut Firmware, key: SecretKey, id: SecretId) -> Result<(), Fault> {
        let found = self.sealed.iter().flatten().find(|sealed| sealed.key == key).ok_or(Fault::SealBroken)?;
        let filled = service.refill(id, |place| {
            for (to, from) in place.iter_mut().zip(found.secret.bytes) {
                *to = from;
            }
            found.secret.len
        });
        if filled { Ok(()) } else { Err(Fault::SealBroken) }
    }

    fn hand_over(&mut self, service: &Firmware, ticket: Ticket, slot: SlotId, order: ApplicationOrder) -> Input {
        if let Some(place) = self.handed_over.get_mut(usize::from(slot.0)) {
            *place = match order {
                ApplicationOrder::HandOver { pin } => service.with(pin, Kept::of),
                ApplicationOrder::Withdraw => None,
            };
        }
        Input::Done { ticket, outcome: Outcome::Application(Ok(())) }
    }
}

impl Kept {
    fn of(secret: &[u8]) -> Self {
        let mut kept = Kept { bytes: [0; PLACE_BYTES], len: secret.len() };
        for (to, from) in kept.bytes.iter_mut().zip(secret) {
            *to = *from;
        }
        kept
    }
}

impl Token {
    const fn free() -> Self {
        Token { pin: None, so_pin: None, backup_keys: [None; 2], count_low: false, login: LoginState::Public }
    }

    fn state(&self, slot: SlotId) -> TokenState {
        let mut serial = *b"FIRMWARE-TOKEN-0";
        if let Some(last) = serial.last_mut() {
            *last = b'0'.saturating_add(slot.0);
        }
        TokenState {
            serial,
            initialised: self.pin.is_some(),
            user_pin: self.pin.is_some(),
            count_low: self.count_low,
            final_try: false,
            locked: false,
            so_count_low: false,
            so_final_try: false,
            so_locked: false,
            pin_chars_max: 0,
            login: self.login,
        }
    }
}

/// A story under way: each step expects something and is numbered.
struct Steps<'a> {
    world: &'a mut World,
    service: &'a mut Firmware,
    step: u32,
}

impl Steps<'_> {
    /// Loads what the store has, starts the service, reports the tokens.
    fn start(&mut self) -> Result<(), Deviation> {
        for (number, record) in (0u16..).zip(self.world.records) {
            if let Some(record) = record {
                self.service.load(Owner(number), record);
            }
        }
        for (number, sets) in (0u16..).zip(&self.world.sets) {
            if let Some(sets) = sets {
                self.service.load_sets(Owner(number), sets.clone());
            }
        }
        self.service.load_chain(self.world.chain);
        self.input(Input::Start)?;
        for (number, token) in (0u8..).zip(self.world.tokens) {
            let slot = SlotId(number);
            let presence = match token.pin {
                Some(_) => Presence::Present(token.state(slot)),
                None => Presence::Absent { free: true },
            };
            self.input(Input::Token { slot, presence })?;
        }
        self.input(Input::WorkerUp)
    }

    fn input(&mut self, input: Input) -> Result<(), Deviation> {
        match self.world.feed(self.service, input) {
            Ok(Ok(())) => self.expect(self.world.chain_holds, Found::Chain),
            Ok(Err(refusal)) => self.expect(false, Found::Answer(Some(Answer::Refused(refusal)))),
            Err(found) => self.expect(false, found),
        }
    }

    fn order(&mut self, command: Command, expected: Answer) -> Result<(), Deviation> {
        let reply = ReplyId(self.world.replies);
        self.world.replies = self.world.replies.saturating_add(1);
        self.world.answer = None;
        let caller = Caller { who: PersonId(0), reply };
        let answer = match self.world.feed(self.service, Input::Command { caller, command }) {
            Ok(Ok(())) => self.world.answer.filter(|(to, _)| *to == reply).map(|(_, answer)| answer),
            Ok(Err(refusal)) => Some(Answer::Refused(refusal)),
            Err(found) => return self.expect(false, found),
        };
        self.expect(answer == Some(expected), Found::Answer(answer))?;
        self.expect(self.world.chain_holds, Found::Chain)
    }

    fn activate(&mut self, code: &[u8], expected: Answer) -> Result<(), Deviation> {
        let code = self.secret(code)?;
        self.order(Command::Activate { slot: ADOPTED_SLOT, code: Some(code), confirmed: false }, expected)
    }

    fn secret(&mut self, secret: &[u8]) -> Result<SecretId, Deviation> {
        let filled = self.service.fill(|place| {
            for (to, from) in place.iter_mut().zip(secret) {
                *to = *from;
            }
            secret.len()
        });
        filled.map_err(|refusal| Deviation { step: self.step, found: Found::Answer(Some(Answer::Refused(refusal))) })
    }

    fn state(&mut self, slot: SlotId, expected: StateName) -> Result<(), Deviation> {
        let status = verbs::status(self.service, self.world.now());
        let state = status.slots.get(usize::from(slot.0)).map(|slot| slot.state);
        self.expect(state == Some(expected), Found::State(state))
    }

    /// The application has the token's PIN, or nothing.
    fn handed_over(&mut self, slot: SlotId, expected: bool) -> Result<(), Deviation> {
        let given = self.world.handed_over.get(usize::from(slot.0)).copied().flatten();
        let pin = self.world.tokens.get(usize::from(slot.0)).and_then(|token| token.pin);
        self.expect(if expected { given.is_some() && given == pin } else { given.is_none() }, Found::HandOver)
    }

    fn has_pin(&mut self, slot: SlotId, pin: &[u8]) -> Result<(), Deviation> {
        let token = self.world.tokens.get(usize::from(slot.0)).and_then(|token| token.pin);
        self.expect(token == Some(Kept::of(pin)), Found::HandOver)
    }

    /// The token has a PIN of 32 characters that is not the old one.
    fn changed_pin(&mut self, slot: SlotId, old: &[u8]) -> Result<(), Deviation> {
        let token = self.world.tokens.get(usize::from(slot.0)).and_then(|token| token.pin);
        self.expect(token.is_some_and(|pin| pin.len == 32 && pin != Kept::of(old)), Found::HandOver)
    }

    fn expect(&mut self, holds: bool, found: Found) -> Result<(), Deviation> {
        self.step = self.step.saturating_add(1);
        if holds { Ok(()) } else { Err(Deviation { step: self.step, found }) }
    }
}

/// The core's verbs, each a function of its own, so that an image's figures can tell the
/// core's code from the world's.
mod verbs {
    use slotwarden_core::{Configuration, Effect, Firmware, Input, Now, Refusal, Status, limits::SLOTS_FIRMWARE};

    #[inline(never)]
    pub(super) fn configure(service: &mut Firmware, is: &Configuration<SLOTS_FIRMWARE>) -> Result<(), Refusal> {
        service.configure(is)
    }

    #[inline(never)]
    pub(super) fn handle(service: &mut Firmware, now: Now, input: Input) -> Result<(), Refusal> {
        service.handle(now, input)
    }

    #[inline(never)]
    pub(super) fn poll_effect(service: &mut Firmware) -> Option<Effect> {
        service.poll_effect()
    }

    #[inline(never)]
    pub(super) fn status(service: &Firmware, now: Now) -> Status<SLOTS_FIRMWARE> {
        service.status(now)
    }
}
