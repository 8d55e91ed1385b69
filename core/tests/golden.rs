//! Every state × every event of both machines: the review artefact.
//!
//! Each pair is run once, with the record and the token that make the state possible, and
//! written as one line: what follows, what is pushed, what is journaled, what is sealed and
//! erased. The tables stand under `tests/golden/`, the diagrams made from the same
//! exploration under `core/docs/`. `SLOTWARDEN_GOLDEN=write cargo test -p slotwarden-core
//! --test golden` writes them anew; otherwise a difference fails.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::Now;
use slotwarden_core::audit::AttemptCause;
use slotwarden_core::code::RandomWatch;
use slotwarden_core::command::{Caller, CommandKind, ReplyId};
use slotwarden_core::effect::{ApplicationId, ApplicationSet, HsmAnswer, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal, rv};
use slotwarden_core::outbox::Pushed;
use slotwarden_core::person::PersonId;
use slotwarden_core::pin_change::{self, ChangeEnd, ChangeEvent, ChangeOrder, PinChange, Rules, Then, Which};
use slotwarden_core::record::{Change, ChangeKind, Doubt, Knowledge, Knows, Mode, Owner, SlotRecord, Unblocking};
use slotwarden_core::safe::{Safe, SecretId};
use slotwarden_core::slot::{self, After, SlotEvent, SlotMachine, Source, State, Step, Try};
use slotwarden_core::slot_data::{Bound, SlotData};
use slotwarden_core::status::ApplicationState;
use slotwarden_core::token::{LoginState, Presence, TokenState};
use slotwarden_core::turn::Turn;
use table::{check, diagram, difference, first_word, generations, grouped, readable};

const OURS: Ticket = Ticket { slot: Some(SlotId(0)), number: 900 };
const APPLICATIONS: Ticket = Ticket { slot: Some(SlotId(0)), number: 901 };
const STALE: Ticket = Ticket { slot: Some(SlotId(0)), number: 1 };
const CALLER: Caller = Caller { who: PersonId(0), reply: ReplyId(5) };

/// The secrets a row may use, under names that stay the same from row to row.
struct Secrets {
    safe: Safe<16>,
    pin: SecretId,
    code: SecretId,
    new_code: SecretId,
    short: SecretId,
    so_pin: SecretId,
    drawn: SecretId,
}

fn secrets() -> Secrets {
    let mut safe = Safe::new();
    let mut put = |bytes: &[u8]| {
        safe.fill(|place| {
            place[..bytes.len()].copy_from_slice(bytes);
            bytes.len()
        })
        .expect("sixteen places")
    };
    let (pin, code, new_code) = (put(b"the token pin"), put(b"present code"), put(b"another code"));
    let (short, so_pin) = (put(b"1234567"), put(b"so-pin"));
    let random: Vec<u8> = (0..64).collect();
    let drawn = put(&random);
    Secrets { safe, pin, code, new_code, short, so_pin, drawn }
}

fn token() -> TokenState {
    slot::plain_token()
}

fn data(record: SlotRecord, token: Option<TokenState>) -> SlotData {
    let mut data = SlotData::new(SlotId(0), Owner(3), record);
    data.token = token;
    data.looked = true;
    data.applications.push(Bound::new(ApplicationId(2))).expect("one application fits");
    data
}

fn logged_in(mut data: SlotData) -> SlotData {
    if let Some(token) = &mut data.token {
        token.login = LoginState::User;
    }
    data
}

fn serving(mut data: SlotData) -> SlotData {
    data.applications[0].state = ApplicationState::Pending;
    data.applications[0].unanswered = Some(APPLICATIONS);
    data.applications[0].if_served = ApplicationState::Active;
    data
}

fn manual() -> SlotRecord {
    let mut record = SlotRecord::new([9; 16]);
    record.serial = Some(token().serial);
    record
}

fn generated() -> SlotRecord {
    let mut record = manual();
    record.mode = Mode::Generated;
    record.accepted = Some(4);
    record.next_generation = 5;
    record
}

fn stopped() -> SlotRecord {
    let mut record = generated();
    record.user.refused(false);
    record
}

fn doubtful(doubt: Doubt) -> SlotRecord {
    let mut record = generated();
    record.doubt = Some(doubt);
    if doubt == Doubt::OldOrNew {
        record = manual();
        record.doubt = Some(doubt);
        record.knowledge_next = Some(Knowledge::Whole);
    } else {
        record.pending = Some(5);
        record.next_generation = 6;
    }
    record
}

fn interrupted(kind: ChangeKind) -> SlotRecord {
    let mut record = match kind {
        ChangeKind::GeneratedToGenerated | ChangeKind::GeneratedToManual => generated(),
        ChangeKind::ManualToGenerated | ChangeKind::ManualToManual => manual(),
        ChangeKind::Initialise => SlotRecord::new([9; 16]),
        ChangeKind::Unblock | ChangeKind::UnblockToManual | ChangeKind::Decommission => return by_so(kind),
    };
    record.change = Some(Change::calling(kind));
    if matches!(kind, ChangeKind::GeneratedToManual | ChangeKind::ManualToManual) {
        record.knowledge_next = Some(Knowledge::Whole);
    } else {
        record.pending = Some(record.next_generation);
        record.next_generation += 1;
    }
    record
}

/// Both sealed codes were refused, and then the SO PIN was called for.
fn by_so(kind: ChangeKind) -> SlotRecord {
    let mut record = doubtful(Doubt::BothRefused);
    record.user.refused(false);
    record.by_so = Some(Change::calling(kind));
    if kind == ChangeKind::Unblock {
        record.unblocking = Some(Unblocking::drawn(record.next_generation).calling());
        record.next_generation += 1;
    }
    record
}

fn cooling() -> SlotData {
    let mut record = manual();
    for _ in 0..3 {
        record.user.refused(true);
    }
    let mut data = data(record, Some(token()));
    data.cooling_until_ms = Some(60_000);
    data
}

fn attempt(source: Source, cause: AttemptCause) -> Try {
    let caller = (cause == AttemptCause::Person).then_some(CALLER);
    Try { source, cause, caller, by: Knows::Current, confirmed: false, cleared: false }
}

/// Results that a device may give, under the names of the table.
fn device_results() -> Vec<(&'static str, Result<HsmAnswer, HsmFailure>)> {
    let pkcs11 = |code, function| Err(HsmFailure::Pkcs11 { code, function });
    let logged_in = TokenState { login: LoginState::User, ..token() };
    vec![
        ("observed", Ok(HsmAnswer::Observed(token()))),
        ("observed: user logged in", Ok(HsmAnswer::Observed(logged_in))),
        ("observed: final try", Ok(HsmAnswer::Observed(TokenState { final_try: true, ..token() }))),
        ("observed: locked", Ok(HsmAnswer::Observed(TokenState { locked: true, ..token() }))),
        ("observed: no user PIN", Ok(HsmAnswer::Observed(TokenState { user_pin: false, ..token() }))),
        ("observed: another serial", Ok(HsmAnswer::Observed(TokenState { serial: [b'9'; 16], ..token() }))),
        ("logged in", Ok(HsmAnswer::LoggedIn)),
        ("logged out", Ok(HsmAnswer::LoggedOut)),
        ("PIN set", Ok(HsmAnswer::PinSet)),
        ("initialised", Ok(HsmAnswer::Initialised(token()))),
        ("settled", Ok(HsmAnswer::Settled)),
        ("observed: SO PIN locked", Ok(HsmAnswer::Observed(TokenState { so_locked: true, ..token() }))),
        ("observed: SO final try", Ok(HsmAnswer::Observed(TokenState { so_final_try: true, ..token() }))),
        ("unblocked", Ok(HsmAnswer::Unblocked)),
        ("erased", Ok(HsmAnswer::Erased(TokenState { user_pin: false, ..token() }))),
        ("erased: a user PIN is there", Ok(HsmAnswer::Erased(token()))),
        ("PIN_LEN_RANGE of C_InitPIN", pkcs11(rv::PIN_LEN_RANGE, Function::InitPin)),
        ("DEVICE_ERROR of C_InitPIN", pkcs11(rv::DEVICE_ERROR, Function::InitPin)),
        ("PIN_INCORRECT of C_InitToken", pkcs11(rv::PIN_INCORRECT, Function::InitToken)),
        ("SESSION_EXISTS of C_InitToken", pkcs11(rv::SESSION_EXISTS, Function::InitToken)),
        ("PIN_INCORRECT", pkcs11(rv::PIN_INCORRECT, Function::Login)),
        ("PIN_LOCKED", pkcs11(rv::PIN_LOCKED, Function::Login)),
        ("PIN_LEN_RANGE", pkcs11(rv::PIN_LEN_RANGE, Function::SetPin)),
        ("USER_ALREADY_LOGGED_IN", pkcs11(rv::USER_ALREADY_LOGGED_IN, Function::Login)),
        ("USER_PIN_NOT_INITIALIZED", pkcs11(rv::USER_PIN_NOT_INITIALIZED, Function::Login)),
        ("DEVICE_ERROR", pkcs11(rv::DEVICE_ERROR, Function::Login)),
        ("already logged in", Err(HsmFailure::AlreadyLoggedIn)),
        ("token gone", Err(HsmFailure::TokenGone)),
        ("no worker", Err(HsmFailure::NoWorker)),
        ("refused by the worker", Err(HsmFailure::Refused(Refusal::SlotHasToken))),
        ("not settled", Err(HsmFailure::NotSettled)),
    ]
}

/// Every completion a machine may hear.
fn completions() -> Vec<(String, Ticket, Outcome)> {
    let mut all: Vec<(String, Ticket, Outcome)> = device_results()
        .into_iter()
        .map(|(name, result)| (format!("done: {name}"), OURS, Outcome::Hsm(result)))
        .collect();
    let fault = Fault::Application(slotwarden_core::fault::ApplicationFault::NotWritten);
    all.extend([
        ("done: random".into(), OURS, Outcome::Random(Ok(()))),
        ("done: no random".into(), OURS, Outcome::Random(Err(Fault::RandomUnavailable))),
        ("done: unsealed".into(), OURS, Outcome::Unsealed(Ok(()))),
        ("done: seal broken".into(), OURS, Outcome::Unsealed(Err(Fault::SealBroken))),
        ("application served".into(), APPLICATIONS, Outcome::Application(Ok(()))),
        ("application failed".into(), APPLICATIONS, Outcome::Application(Err(fault))),
        ("stale: logged in".into(), STALE, Outcome::Hsm(Ok(HsmAnswer::LoggedIn))),
        ("stale: application served".into(), STALE, Outcome::Application(Ok(()))),
    ]);
    all
}

fn slot_states(s: &Secrets) -> Vec<(&'static str, State, SlotData)> {
    let stored = attempt(Source::Stored, AttemptCause::Automatic);
    let typed = attempt(Source::Typed(s.code), AttemptCause::Person);
    let kept = attempt(Source::Kept(s.pin), AttemptCause::Repeat);
    let at = |step| State::AtToken { ticket: OURS, step };
    let doubt = |step| State::Doubtful { ticket: OURS, step };
    let there = |record| data(record, Some(token()));
    let mut free = data(SlotRecord::new([9; 16]), None);
    free.free = true;
    let no_pin = TokenState { user_pin: false, ..token() };
    let locked = TokenState { locked: true, ..token() };
    vec![
        ("absent", State::Absent, data(manual(), None)),
        ("absent, generated", State::Absent, data(generated(), None)),
        ("uninitialised, free token", State::Uninitialised, free),
        ("uninitialised", State::Uninitialised, data(SlotRecord::new([9; 16]), Some(no_pin))),
        ("blocked", State::Blocked, data(manual(), Some(locked))),
        ("locked, manual", State::Locked, there(manual())),
        ("locked, generated", State::Locked, there(generated())),
        ("locked, generated and refused", State::Locked, there(stopped())),
        ("in doubt: old or new", State::InDoubt, there(doubtful(Doubt::OldOrNew))),
        ("in doubt: both refused", State::InDoubt, there(doubtful(Doubt::BothRefused))),
        ("in doubt: change open", State::InDoubt, there(interrupted(ChangeKind::GeneratedToGenerated))),
        ("in doubt: unblock open", State::InDoubt, there(interrupted(ChangeKind::Unblock))),
        ("cooling down", State::CoolingDown { until_ms: 60_000 }, cooling()),
        ("unsealing", State::Unsealing { ticket: OURS, id: s.pin, attempt: stored }, there(generated())),
        ("at token: observe", at(Step::Observe(typed)), there(manual())),
        ("at token: clear", at(Step::Clear(typed)), there(manual())),
        ("at token: login, typed", at(Step::Login(typed, s.code)), there(manual())),
        ("at token: login, stored", at(Step::Login(stored, s.pin)), there(generated())),
        ("at token: login, repeat", at(Step::Login(kept, s.pin)), there(generated())),
        ("at token: settle", at(Step::Settle(typed, s.code)), logged_in(there(doubtful(Doubt::BothRefused)))),
        ("at token: logout", at(Step::Logout(Some(CALLER))), there(manual())),
        (
            "handing over",
            State::HandingOver { pin: s.pin, caller: Some((CALLER, CommandKind::Activate)) },
            serving(there(manual())),
        ),
        ("active, manual", State::Active { pin: s.pin }, there(manual())),
        ("active, generated", State::Active { pin: s.pin }, there(generated())),
        ("taking back", State::TakingBack { after: After::Logout(Some(CALLER)) }, serving(there(manual()))),
        ("taking back, login gone", State::TakingBack { after: After::Rest(None) }, serving(there(generated()))),
        ("reconnecting", State::Reconnecting { pin: s.pin }, there(generated())),
        ("changing", State::Changing, there(generated())),
        ("doubtful: observe", doubt(Step::Observe(Try { caller: None, ..typed })), there(manual())),
        ("doubtful: login", doubt(Step::Login(Try { caller: None, ..typed }, s.code)), there(manual())),
        ("doubtful: logout", doubt(Step::Logout(None)), there(manual())),
    ]
}

fn slot_events(s: &Secrets) -> Vec<(String, SlotEvent)> {
    let token_is = |state| SlotEvent::Token(Presence::Present(state));
    let activate = |code, confirmed| SlotEvent::ActivateOrdered { caller: CALLER, code, by: Knows::Current, confirmed };
    let change = |kind, to, code, new_code| SlotEvent::ChangeOrdered {
        caller: CALLER,
        kind,
        to,
        code,
        new_code,
        next: Knowledge::Whole,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    let unblock = |to, new_code| SlotEvent::UnblockOrdered {
        caller: CALLER,
        so_pin: s.so_pin,
        to,
        new_code,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    let decommission = |so_pin| SlotEvent::DecommissionOrdered {
        caller: CALLER,
        so_pin,
        confirmed: false,
        accept: ApplicationSet::NONE,
    };
    let ended = |then| SlotEvent::ChangeEnded(ChangeEnd { then, caller: Some((CALLER, CommandKind::Mode)) });
    let mut all = vec![
        ("token: present".to_string(), token_is(token())),
        ("token: count low".into(), token_is(TokenState { count_low: true, ..token() })),
        ("token: locked".into(), token_is(TokenState { locked: true, ..token() })),
        ("token: another serial".into(), token_is(TokenState { serial: [b'9'; 16], ..token() })),
        ("token: absent".into(), SlotEvent::Token(Presence::Absent { free: false })),
        ("token: absent, one free".into(), SlotEvent::Token(Presence::Absent { free: true })),
        ("token: ambiguous".into(), SlotEvent::Token(Presence::Ambiguous)),
        ("boot ordered".into(), SlotEvent::BootOrdered),
        ("activate".into(), activate(None, false)),
        ("activate with code".into(), activate(Some(s.code), false)),
        ("activate with code, confirmed".into(), activate(Some(s.code), true)),
        ("activate with 7 characters".into(), activate(Some(s.short), false)),
        ("deactivate".into(), SlotEvent::DeactivateOrdered { caller: CALLER }),
        ("change code, manual".into(), change(CommandKind::ChangeCode, Mode::Manual, Some(s.code), Some(s.new_code))),
        ("change code, generated".into(), change(CommandKind::ChangeCode, Mode::Generated, None, None)),
        ("mode generated".into(), change(CommandKind::Mode, Mode::Generated, Some(s.code), None)),
        ("mode manual".into(), change(CommandKind::Mode, Mode::Manual, None, Some(s.new_code))),
        ("init".into(), SlotEvent::InitOrdered { caller: CALLER, so_pin: s.so_pin, free_slot: None, confirmed: false }),
        ("unblock".into(), unblock(Mode::Generated, None)),
        ("unblock to manual".into(), unblock(Mode::Manual, Some(s.new_code))),
        ("decommission".into(), decommission(Some(s.so_pin))),
        ("decommission without token".into(), decommission(None)),
        ("wait over".into(), SlotEvent::WaitOver),
        ("serve ordered".into(), SlotEvent::ServeOrdered),
        ("zeroize ordered".into(), SlotEvent::ZeroizeOrdered),
        ("worker lost".into(), SlotEvent::WorkerLost),
        ("deadline passed".into(), SlotEvent::DeadlinePassed),
        ("change ended: hand over".into(), ended(Then::HandOver(s.pin))),
        ("change ended: reconnect".into(), ended(Then::Reconnect(s.pin))),
        ("change ended: log out".into(), ended(Then::Logout)),
        ("change ended: rest".into(), ended(Then::Rest)),
        ("change ended: go on".into(), ended(Then::GoOn)),
        ("change ended: decide".into(), ended(Then::Decide)),
    ];
    all.extend(completions().into_iter().map(|(name, ticket, outcome)| (name, SlotEvent::Done(ticket, outcome))));
    all
}

fn change_orders(s: &Secrets) -> Vec<(&'static str, ChangeOrder, SlotData)> {
    let there = |record| data(record, Some(token()));
    let order = |kind, active, code, new_code| ChangeOrder::Change {
        kind,
        command: CommandKind::ChangeCode,
        caller: CALLER,
        confirmed: false,
        active,
        code,
        new_code,
        next: Knowledge::Whole,
    };
    let decide = ChangeOrder::Decide { caller: None, confirmed: false };
    let init = ChangeOrder::Initialise { caller: CALLER, confirmed: false, so_pin: s.so_pin, free_slot: None };
    let rescue =
        |kind, new_code| ChangeOrder::BySo { kind, caller: CALLER, confirmed: false, so_pin: s.so_pin, new_code };
    use ChangeKind as Kind;
    vec![
        ("initialise", init, data(SlotRecord::new([9; 16]), None)),
        ("G→G, active", order(Kind::GeneratedToGenerated, Some(s.pin), None, None), there(generated())),
        ("G→G, locked", order(Kind::GeneratedToGenerated, None, None, None), there(generated())),
        ("M→G, active", order(Kind::ManualToGenerated, Some(s.pin), Some(s.code), None), there(manual())),
        ("G→M, active", order(Kind::GeneratedToManual, Some(s.pin), None, Some(s.new_code)), there(generated())),
        ("M→M, locked", order(Kind::ManualToManual, None, Some(s.code), Some(s.new_code)), there(manual())),
        ("decide G→G", decide, there(interrupted(Kind::GeneratedToGenerated))),
        ("decide M→G", decide, there(interrupted(Kind::ManualToGenerated))),
        ("decide G→M", decide, there(interrupted(Kind::GeneratedToManual))),
        ("decide M→M", decide, there(interrupted(Kind::ManualToManual))),
        ("decide initialise", decide, there(interrupted(Kind::Initialise))),
        ("unblock", rescue(Kind::Unblock, None), there(doubtful(Doubt::BothRefused))),
        ("unblock again", rescue(Kind::Unblock, None), there(interrupted(Kind::Unblock))),
        ("unblock to manual", rescue(Kind::UnblockToManual, Some(s.new_code)), there(doubtful(Doubt::BothRefused))),
        ("decommission", rescue(Kind::Decommission, None), there(doubtful(Doubt::BothRefused))),
        ("decide unblock", decide, there(interrupted(Kind::Unblock))),
        ("decide unblock to manual", decide, there(interrupted(Kind::UnblockToManual))),
        ("decide decommission", decide, there(interrupted(Kind::Decommission))),
    ]
}

fn change_states(order: ChangeOrder, s: &Secrets) -> Vec<(&'static str, pin_change::State)> {
    use pin_change::{State, Step};
    let at = |step| State::AtToken { ticket: OURS, step };
    let doubt = |step| State::Doubtful { ticket: OURS, step };
    match order {
        ChangeOrder::Decide { .. } => vec![
            ("waiting", State::Waiting),
            ("at token: decide, observe", at(Step::DecideObserve)),
            ("at token: decide, clear", at(Step::DecideClear)),
            ("unsealing pending", State::UnsealingForDecision { ticket: OURS, which: Which::Pending, id: s.drawn }),
            ("at token: decide, login pending", at(Step::DecideLogin(Which::Pending, s.drawn))),
            ("at token: decide, login accepted", at(Step::DecideLogin(Which::Accepted, s.drawn))),
            ("at token: decide, login unblocking", at(Step::DecideLogin(Which::Unblocking, s.drawn))),
            ("at token: decide, settle unblocking", at(Step::DecideSettle(Which::Unblocking, s.drawn))),
            ("at token: decide, settle pending", at(Step::DecideSettle(Which::Pending, s.drawn))),
            ("at token: decide, settle accepted", at(Step::DecideSettle(Which::Accepted, s.drawn))),
            ("at token: decide, settle shown", at(Step::DecideSettleShown)),
            ("doubtful: decide, login pending", doubt(Step::DecideLogin(Which::Pending, s.drawn))),
            ("ended", State::Ended),
        ],
        ChangeOrder::Initialise { .. } => vec![
            ("waiting", State::Waiting),
            ("drawing", State::Drawing { ticket: OURS, id: s.drawn }),
            ("at token: initialise", at(Step::Initialise)),
            ("doubtful: initialise", doubt(Step::Initialise)),
            ("at token: login new", at(Step::LoginNew)),
            ("at token: settle", at(Step::Settle)),
        ],
        ChangeOrder::BySo { kind: ChangeKind::Decommission, .. } => vec![
            ("waiting", State::Waiting),
            ("closing applications", State::ClosingApplications),
            ("at token: observe", at(Step::Observe)),
            ("at token: clear", at(Step::Clear)),
            ("at token: erase", at(Step::Erase)),
            ("doubtful: erase", doubt(Step::Erase)),
            ("at token: settle", at(Step::Settle)),
        ],
        ChangeOrder::BySo { .. } => vec![
            ("waiting", State::Waiting),
            ("closing applications", State::ClosingApplications),
            ("drawing", State::Drawing { ticket: OURS, id: s.drawn }),
            ("at token: observe", at(Step::Observe)),
            ("at token: clear", at(Step::Clear)),
            ("at token: unblock", at(Step::Unblock)),
            ("doubtful: unblock", doubt(Step::Unblock)),
            ("at token: read public", at(Step::ReadPublic)),
            ("at token: login new", at(Step::LoginNew)),
            ("at token: settle", at(Step::Settle)),
            ("at token: decide within the order, observe", at(Step::DecideObserve)),
        ],
        ChangeOrder::Change { .. } => vec![
            ("waiting", State::Waiting),
            ("closing applications", State::ClosingApplications),
            ("drawing", State::Drawing { ticket: OURS, id: s.drawn }),
            ("at token: observe", at(Step::Observe)),
            ("at token: clear", at(Step::Clear)),
            ("unsealing old", State::UnsealingOld { ticket: OURS, id: s.drawn }),
            ("at token: login old", at(Step::LoginOld)),
            ("at token: set PIN", at(Step::SetPin)),
            ("at token: log out", at(Step::Logout)),
            ("at token: read public", at(Step::ReadPublic)),
            ("at token: login new", at(Step::LoginNew)),
            ("at token: settle", at(Step::Settle)),
            ("doubtful: observe", doubt(Step::Observe)),
            ("doubtful: login old", doubt(Step::LoginOld)),
            ("doubtful: set PIN", doubt(Step::SetPin)),
            ("doubtful: log out", doubt(Step::Logout)),
            ("doubtful: read public", doubt(Step::ReadPublic)),
            ("doubtful: login new", doubt(Step::LoginNew)),
            ("doubtful: settle", doubt(Step::Settle)),
            ("at token: decide within the order, observe", at(Step::DecideObserve)),
            ("at token: decide within the order, login accepted", at(Step::DecideLogin(Which::Accepted, s.drawn))),
            ("at token: decide within the order, settle accepted", at(Step::DecideSettle(Which::Accepted, s.drawn))),
        ],
    }
}

fn change_events() -> Vec<(String, ChangeEvent)> {
    let mut all = vec![
        ("begin".to_string(), ChangeEvent::Begin),
        ("deadline passed".into(), ChangeEvent::DeadlinePassed),
        ("worker lost".into(), ChangeEvent::WorkerLost),
    ];
    all.extend(completions().into_iter().map(|(name, ticket, outcome)| (name, ChangeEvent::Done(ticket, outcome))));
    all
}

/// What a record has while a change is in this state: intent and pending code are durable
/// from the first call on, *calling* from `SetPin` on.
fn record_in(state: pin_change::State, order: ChangeOrder, mut data: SlotData) -> SlotData {
    use pin_change::{State, Step};
    let kind = match order {
        ChangeOrder::Change { kind, .. } => kind,
        ChangeOrder::Initialise { .. } => ChangeKind::Initialise,
        ChangeOrder::BySo { kind, .. } => kind,
        ChangeOrder::Decide { .. } => {
            let settling = matches!(state, State::AtToken { step: Step::DecideSettle(..), .. });
            return if settling { logged_in(data) } else { data };
        }
    };
    let step = match state {
        State::Waiting | State::ClosingApplications | State::Drawing { .. } => return data,
        State::UnsealingOld { .. } => Step::Observe,
        State::AtToken { step, .. } | State::Doubtful { step, .. } => step,
        State::UnsealingForDecision { .. } | State::Ended => return data,
    };
    if matches!(step, Step::Settle | Step::DecideSettle(..)) {
        data = logged_in(data);
    }
    let calling = !matches!(step, Step::Observe | Step::Clear | Step::LoginOld);
    if let ChangeOrder::BySo { .. } = order {
        data.record.by_so = Some(Change { calling, ..Change::intended(kind) });
        if kind == ChangeKind::Unblock {
            let drawn = Unblocking::drawn(data.record.next_generation);
            data.record.next_generation += u32::from(data.record.unblocking.is_none());
            let kept = data.record.unblocking.unwrap_or(drawn);
            data.record.unblocking = Some(if calling { kept.calling() } else { kept });
        }
        return data;
    }
    data.record.change = Some(Change { calling, ..Change::intended(kind) });
    if !matches!(kind, ChangeKind::GeneratedToManual | ChangeKind::ManualToManual) {
        data.record.pending = Some(data.record.next_generation);
        data.record.next_generation += 1;
    }
    data
}

/// One run of one pair.
struct Ran {
    after: String,
    name_after: String,
    pushed: Pushed,
    data: SlotData,
    began: Option<ChangeOrder>,
    ended: Option<ChangeEnd>,
}

fn run<M>(
    data: SlotData,
    mut safe: Safe<16>,
    not_seen_yet: bool,
    make: impl FnOnce(&mut Turn<'_>) -> M,
    handle: impl FnOnce(&mut M, &mut Turn<'_>),
    after: impl FnOnce(&M) -> (String, String),
) -> Ran {
    let mut data = data;
    let mut pushed = Pushed { not_seen_yet, ..Pushed::default() };
    let mut watch = RandomWatch::default();
    let (mut began, mut ended) = (None, None);
    let mut delivered = None;
    let mut turn = Turn {
        now: Now { mono_ms: 60_000, wall_s: None },
        tries: 3,
        stopping: false,
        halted: false,
        slot: &mut data,
        secrets: &mut safe,
        watch: &mut watch,
        out: &mut pushed,
        change: &mut began,
        change_end: &mut ended,
        deliver: &mut delivered,
    };
    let mut machine = make(&mut turn);
    handle(&mut machine, &mut turn);
    let (after, name_after) = after(&machine);
    Ran { after, name_after, pushed, data, began, ended }
}

impl Ran {
    fn line(&self, before: &SlotData) -> String {
        let mut line = self.after.clone();
        for act in &self.pushed.acts {
            write!(line, " | {act:?}").expect("strings grow");
        }
        if !self.pushed.journal.is_empty() {
            write!(line, " | journal {:?}", self.pushed.journal).expect("strings grow");
        }
        if !self.pushed.sealed.is_empty() {
            write!(line, " | seal {:?}", generations(&self.pushed.sealed)).expect("strings grow");
        }
        if !self.pushed.erased.is_empty() {
            write!(line, " | erase {:?}", generations(&self.pushed.erased)).expect("strings grow");
        }
        if self.data.record != before.record {
            write!(line, " | record {}", difference(&before.record, &self.data.record)).expect("strings grow");
        }
        if let Some(order) = self.began {
            write!(line, " | begin change {order:?}").expect("strings grow");
        }
        if let Some(end) = self.ended {
            write!(line, " | change ends {end:?}").expect("strings grow");
        }
        if !self.pushed.bugs.is_empty() {
            write!(line, " | BUG {:?}", self.pushed.bugs).expect("strings grow");
        }
        readable(&line)
    }
}

fn slot_name(state: &State) -> String {
    match state {
        State::AtToken { step, .. } => format!("AtToken {}", first_word(step)),
        State::Doubtful { step, .. } => format!("Doubtful {}", first_word(step)),
        other => first_word(other),
    }
}

fn change_name(state: &pin_change::State) -> String {
    use pin_change::State;
    match state {
        State::AtToken { step, .. } => format!("AtToken {}", first_word(step)),
        State::Doubtful { step, .. } => format!("Doubtful {}", first_word(step)),
        other => first_word(other),
    }
}

#[test]
fn the_slot_machine_answers_every_event_in_every_state() {
    let mut table = String::from("# The slot machine: every state × every event\n");
    let mut edges = BTreeSet::new();
    let s = secrets();
    let (states, events) = (slot_states(&s), slot_events(&s));
    for (state_name, state, data) in &states {
        writeln!(table, "\n## {state_name}\n").expect("strings grow");
        let mut lines = Vec::new();
        for (event_name, event) in &events {
            // Deadlines and lost workers differ by whether the platform saw the effect.
            let seen = matches!(event, SlotEvent::DeadlinePassed | SlotEvent::WorkerLost);
            for not_seen_yet in if seen { &[false, true][..] } else { &[false][..] } {
                let ran = run(
                    data.clone(),
                    secrets().safe,
                    *not_seen_yet,
                    |turn| SlotMachine::in_state(*state, turn),
                    |machine, turn| machine.handle(*event, turn),
                    |machine| (format!("{:?}", machine.state()), slot_name(&machine.state())),
                );
                let note = if *not_seen_yet { " (effect not polled yet)" } else { "" };
                lines.push((format!("{event_name}{note}"), ran.line(data)));
                let from = slot_name(state);
                if from != ran.name_after && ran.pushed.bugs.is_empty() {
                    edges.insert((from, ran.name_after.clone(), event_name.clone()));
                }
                assert!(
                    ran.pushed.bugs.is_empty() || may_break(event_name, state_name),
                    "{state_name} × {event_name}: {:?}",
                    ran.pushed.bugs
                );
            }
        }
        table.push_str(&grouped(lines));
    }
    check("tests/golden/slot.md", &table);
    check("core/docs/slot.md", &diagram("The slot machine", &edges));
}

/// Pairs that only a broken rule of ours can bring about: the service halts there.
fn may_break(event: &str, state: &str) -> bool {
    event.starts_with("change ended") && state != "changing"
}

#[test]
fn the_token_pin_change_answers_every_event_in_every_state() {
    let mut table = String::from("# The token PIN change: every state × every event\n");
    let mut edges = BTreeSet::new();
    let s = secrets();
    for (order_name, order, data) in change_orders(&s) {
        for (state_name, state) in change_states(order, &s) {
            writeln!(table, "\n## {order_name}: {state_name}\n").expect("strings grow");
            let begun_with = data.record;
            let data = record_in(state, order, data.clone());
            let data = if state == pin_change::State::ClosingApplications { serving(data) } else { data };
            let mut lines = Vec::new();
            for (event_name, event) in change_events() {
                let seen = matches!(event, ChangeEvent::DeadlinePassed | ChangeEvent::WorkerLost);
                for not_seen_yet in if seen { &[false, true][..] } else { &[false][..] } {
                    let ran = run(
                        data.clone(),
                        secrets().safe,
                        *not_seen_yet,
                        |turn| {
                            PinChange::in_state(with_new(rules(order, begun_with, turn), state, s.drawn), state, turn)
                        },
                        |machine, turn| machine.handle(event, turn),
                        |machine| (format!("{:?}", machine.state()), change_name(&machine.state())),
                    );
                    let note = if *not_seen_yet { " (effect not polled yet)" } else { "" };
                    lines.push((format!("{event_name}{note}"), ran.line(&data)));
                    let from = change_name(&state);
                    if from != ran.name_after && ran.pushed.bugs.is_empty() {
                        edges.insert((from, ran.name_after.clone(), event_name.clone()));
                    }
                    let ended = ran.name_after == "Ended" && state != pin_change::State::Ended;
                    assert_eq!(ran.ended.is_some(), ended, "{order_name}: {state_name} × {event_name}");
                }
            }
            table.push_str(&grouped(lines));
        }
    }
    check("tests/golden/pin_change.md", &table);
    check("core/docs/pin_change.md", &diagram("The token PIN change", &edges));
}

/// What a change knows that began when the record was this.
fn rules(order: ChangeOrder, begun_with: SlotRecord, turn: &mut Turn<'_>) -> Rules {
    let now = std::mem::replace(&mut turn.slot.record, begun_with);
    let rules = Rules::new(order, turn);
    turn.slot.record = now;
    rules
}

/// A drawn code belongs to the change from the moment it was drawn.
fn with_new(rules: Rules, state: pin_change::State, drawn: SecretId) -> Rules {
    use pin_change::State;
    match state {
        State::AtToken { .. } | State::Doubtful { .. } | State::UnsealingOld { .. } => rules.with_drawn(drawn),
        State::Waiting
        | State::ClosingApplications
        | State::Drawing { .. }
        | State::UnsealingForDecision { .. }
        | State::Ended => rules,
    }
}
