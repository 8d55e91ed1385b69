//! Card sessions: every state × every event, as `golden` has it for the machines of a slot.
//!
//! Each state is brought about by what people, readers and cards would do, from the beginning;
//! then the event.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::Now;
use slotwarden_core::card::session::{
    CardOut, CardProblem, CardSession, SessionEvent, SessionOrder, SessionReport, SessionTurn, State, Then,
};
use slotwarden_core::card::{
    CardAnswer, CardCall, CardFailure, CardSerial, Credential, ProfileId, ReaderEvent, ReaderId, RecordPlace, Selected,
    StatusWord,
};
use slotwarden_core::effect::Ticket;
use slotwarden_core::safe::SecretId;
use slotwarden_core::share::record::{RecordProblem, ShareHeader, ShareKind, SignedHeader};
use table::{check, diagram, first_word, grouped};

const STALE: Ticket = Ticket { slot: None, number: 77 };

/// The calls of one event.
#[derive(Default)]
struct Calls {
    calls: Vec<CardCall>,
    next: u32,
}

impl CardOut for Calls {
    fn call(&mut self, _reader: ReaderId, call: CardCall) -> Ticket {
        self.calls.push(call);
        self.next += 1;
        Ticket { slot: None, number: self.next }
    }
}

/// One thing that happens; an answer is to the call under way, or to none.
#[derive(Clone, Copy)]
enum Step {
    Reader(ReaderEvent),
    Order(SessionOrder),
    Answer(Result<CardAnswer, CardFailure>),
    Stale(CardAnswer),
    Deadline,
}

fn signed(generation: u32) -> SignedHeader {
    let header = ShareHeader {
        kind: ShareKind::BackupKey,
        set_id: [1; 16],
        subject: [2; 16],
        m: 2,
        n: 3,
        x: 1,
        generation,
        created_s: 5,
        key_id: [6; 16],
    };
    SignedHeader { header, public_key: [7; 32], signature: [8; 64] }
}

struct Scene {
    session: CardSession,
    out: Calls,
}

impl Scene {
    fn new(steps: &[Step]) -> Scene {
        let mut scene = Scene { session: CardSession::new(ReaderId(3)), out: Calls::default() };
        for step in steps {
            scene.play(*step);
        }
        scene.out.calls.clear();
        scene
    }

    fn play(&mut self, step: Step) -> Option<SessionReport> {
        let event = match step {
            Step::Reader(event) => SessionEvent::Reader(event),
            Step::Order(order) => SessionEvent::Order(order),
            Step::Answer(result) => SessionEvent::Done(self.session.awaited().unwrap_or(STALE), result),
            Step::Stale(answer) => SessionEvent::Done(STALE, Ok(answer)),
            Step::Deadline => SessionEvent::DeadlinePassed,
        };
        let mut report = None;
        let now = Now { mono_ms: 1_000, wall_s: None };
        self.session.handle(event, &mut SessionTurn { now, out: &mut self.out, report: &mut report });
        report
    }
}

fn pin(word: u16) -> Step {
    Step::Answer(Ok(CardAnswer::Pin { status: StatusWord(word) }))
}

fn written(word: u16) -> Step {
    Step::Answer(Ok(CardAnswer::Written { status: StatusWord(word) }))
}

fn was_read(word: u16, record: Result<SignedHeader, RecordProblem>) -> Step {
    Step::Answer(Ok(CardAnswer::Read { status: StatusWord(word), record }))
}

fn tries(word: u16, left: Option<u8>, serial: Option<CardSerial>) -> Step {
    Step::Answer(Ok(CardAnswer::Tries { status: StatusWord(word), left, serial }))
}

fn selected(word: u16, found: Option<Selected>) -> Step {
    Step::Answer(Ok(CardAnswer::Selected { status: StatusWord(word), found }))
}

fn serial() -> Option<CardSerial> {
    CardSerial::new(&[0xCA, 0x4D])
}

const FILES_BLANK: fn() -> Selected = || Selected { serial: serial(), place: None, header: None };
const FILES_A: fn() -> Selected =
    || Selected { serial: serial(), place: Some(RecordPlace::A), header: Some(signed(1).header) };
const OPENPGP: Selected = Selected { serial: None, place: None, header: None };

/// A state by its name, and what happened before.
fn states() -> Vec<(&'static str, Vec<Step>)> {
    use SessionOrder as Do;
    let y = SecretId::NONE;
    let order = |order| Step::Order(order);
    let identify = order(Do::Identify { credential: Credential::BackupShare });
    let write = order(Do::Write { record: signed(2), y, y_back: y });
    let found = Step::Reader(ReaderEvent::Found);
    let (card_in, card_out) = (Step::Reader(ReaderEvent::CardIn), Step::Reader(ReaderEvent::CardOut));
    let held = Step::Answer(Ok(CardAnswer::Held));
    let cancel = order(Do::Cancel);

    let idle = vec![found, card_in];
    let holding = [&idle[..], &[identify]].concat();
    let selecting = [&holding[..], &[held]].concat();
    let selecting_openpgp = [&selecting[..], &[selected(0x6A82, None)]].concat();
    let asking = [&selecting[..], &[selected(0x9000, Some(FILES_A()))]].concat();
    let asking_openpgp = [&selecting_openpgp[..], &[selected(0x9000, Some(OPENPGP))]].concat();
    let ready = [&asking[..], &[tries(0x63C3, Some(3), None)]].concat();
    let blank = [&selecting[..], &[selected(0x9000, Some(FILES_BLANK())), tries(0x63C3, Some(3), None)]].concat();
    let blocked = [&asking[..], &[tries(0x63C0, Some(0), None)]].concat();
    let openpgp = [&asking_openpgp[..], &[tries(0x9000, Some(3), serial())]].concat();
    let after = |before: &[Step], steps: &[Step]| [before, steps].concat();
    vec![
        ("no reader", vec![]),
        ("no reader: a call is unanswered", after(&holding, &[Step::Reader(ReaderEvent::Lost)])),
        ("idle: no card", vec![found]),
        ("idle: a card is there", idle.clone()),
        ("idle: a card is there that was to be removed", after(&idle, &[order(Do::Remove), cancel])),
        ("waiting for a card", vec![found, identify]),
        ("waiting for a card: another is to be removed first", after(&idle, &[order(Do::Remove), cancel, identify])),
        ("holding", holding.clone()),
        ("selecting files", selecting.clone()),
        ("selecting OpenPGP", selecting_openpgp),
        ("asking tries of files", asking.clone()),
        ("asking tries of OpenPGP", asking_openpgp),
        ("asking tries of files: the card went", after(&asking, &[card_out])),
        ("ready: files with a record at A", ready.clone()),
        ("ready: files without a record", blank.clone()),
        ("ready: files, the PIN is blocked", blocked),
        ("ready: OpenPGP", openpgp.clone()),
        ("verifying", after(&ready, &[order(Do::VerifyPin)])),
        ("verifying: cancelled", after(&ready, &[order(Do::VerifyPin), cancel])),
        ("verifying: the card went", after(&ready, &[order(Do::VerifyPin), card_out])),
        ("changing", after(&ready, &[order(Do::ChangePin)])),
        ("changing: cancelled", after(&ready, &[order(Do::ChangePin), cancel])),
        ("changing: the card went", after(&ready, &[order(Do::ChangePin), card_out])),
        ("asking tries again", after(&openpgp, &[order(Do::VerifyPin), pin(0x6300)])),
        ("reading", after(&ready, &[order(Do::Read { y })])),
        ("reading OpenPGP", after(&openpgp, &[order(Do::Read { y })])),
        ("reading: the card went", after(&ready, &[order(Do::Read { y }), card_out])),
        ("writing to B", after(&ready, &[write])),
        ("writing to A", after(&blank, &[write])),
        ("writing to OpenPGP", after(&openpgp, &[write])),
        ("pointing to B", after(&ready, &[write, written(0x9000)])),
        ("reading back", after(&ready, &[write, written(0x9000), written(0x9000)])),
        ("reading OpenPGP back", after(&openpgp, &[write, written(0x9000)])),
        ("unpointing", after(&ready, &[order(Do::Erase)])),
        ("erasing A", after(&ready, &[order(Do::Erase), written(0x9000)])),
        ("erasing B", after(&ready, &[order(Do::Erase), written(0x9000), written(0x9000)])),
        ("erasing OpenPGP", after(&openpgp, &[order(Do::Erase)])),
        ("cancelling: being held", after(&holding, &[cancel])),
        ("cancelling: held", after(&asking, &[cancel])),
        ("letting go: nobody waits", after(&ready, &[card_out])),
        ("letting go: to be reported", after(&ready, &[cancel])),
        ("letting go: the next is ordered", after(&ready, &[card_out, identify])),
        ("letting go: to be removed", after(&ready, &[order(Do::Remove)])),
        ("letting go: removed already", after(&ready, &[order(Do::Remove), card_out])),
        ("removing", after(&idle, &[order(Do::Remove)])),
        ("silent", after(&ready, &[order(Do::VerifyPin), Step::Deadline])),
    ]
}

fn events() -> Vec<(&'static str, Step)> {
    use SessionOrder as Do;
    let y = SecretId::NONE;
    let failed = |failure| Step::Answer(Err(failure));
    vec![
        ("found", Step::Reader(ReaderEvent::Found)),
        ("lost", Step::Reader(ReaderEvent::Lost)),
        ("card in", Step::Reader(ReaderEvent::CardIn)),
        ("card out", Step::Reader(ReaderEvent::CardOut)),
        ("order identify", Step::Order(Do::Identify { credential: Credential::SlotUser })),
        ("order verify", Step::Order(Do::VerifyPin)),
        ("order change", Step::Order(Do::ChangePin)),
        ("order read", Step::Order(Do::Read { y })),
        ("order write", Step::Order(Do::Write { record: signed(2), y, y_back: y })),
        ("order erase", Step::Order(Do::Erase)),
        ("order remove", Step::Order(Do::Remove)),
        ("cancel", Step::Order(Do::Cancel)),
        ("deadline passed", Step::Deadline),
        ("stale answer", Step::Stale(CardAnswer::Pin { status: StatusWord::OK })),
        ("held", Step::Answer(Ok(CardAnswer::Held))),
        ("selected 9000", selected(0x9000, Some(FILES_BLANK()))),
        ("selected 9000, unreadable", selected(0x9000, None)),
        ("selected 6A82", selected(0x6A82, None)),
        ("selected 6285", selected(0x6285, None)),
        ("tries 63C2", tries(0x63C2, Some(2), None)),
        ("tries 63C0", tries(0x63C0, Some(0), None)),
        ("tries 9000: 2, with serial", tries(0x9000, Some(2), serial())),
        ("tries 9000: not said", tries(0x9000, None, None)),
        ("tries 6A88", tries(0x6A88, None, None)),
        ("PIN 9000", pin(0x9000)),
        ("PIN 63C2", pin(0x63C2)),
        ("PIN 63C0", pin(0x63C0)),
        ("PIN 6300", pin(0x6300)),
        ("PIN 6983", pin(0x6983)),
        ("PIN 6400", pin(0x6400)),
        ("PIN 6401", pin(0x6401)),
        ("PIN 6402", pin(0x6402)),
        ("PIN 6403", pin(0x6403)),
        ("PIN 6A80", pin(0x6A80)),
        ("PIN 6D00", pin(0x6D00)),
        ("PIN 6F00", pin(0x6F00)),
        ("read 9000: record 1", was_read(0x9000, Ok(signed(1)))),
        ("read 9000: record 2", was_read(0x9000, Ok(signed(2)))),
        ("read 9000: forged", was_read(0x9000, Err(RecordProblem::Forged))),
        ("read 6A88", was_read(0x6A88, Err(RecordProblem::Missing))),
        ("read 6982", was_read(0x6982, Err(RecordProblem::Missing))),
        ("written 9000", written(0x9000)),
        ("written 6982", written(0x6982)),
        ("written 6581", written(0x6581)),
        ("released", Step::Answer(Ok(CardAnswer::Released))),
        ("card gone", failed(CardFailure::CardGone)),
        ("in use", failed(CardFailure::InUse)),
        ("reader gone", failed(CardFailure::ReaderGone)),
        ("transport failed", failed(CardFailure::Transport)),
        ("garbage", failed(CardFailure::Garbage)),
    ]
}

#[test]
fn a_card_session_answers_every_event_in_every_state() {
    let answers: Vec<&str> =
        events().into_iter().filter(|(_, step)| matches!(step, Step::Answer(_))).map(|(event, _)| event).collect();
    let mut table = format!(
        "# A card session: every state × every event\n\nAnswers that were tried in every state, to the call under way \
         or to none: {}.\n",
        answers.join("; ")
    );
    let mut edges = BTreeSet::new();
    let mut reached = BTreeSet::new();
    for (name, before) in states() {
        writeln!(table, "\n## {name}\n").expect("strings grow");
        let mut lines = Vec::new();
        for (event, step) in events() {
            let mut scene = Scene::new(&before);
            let from = first_word(&scene.session.state());
            reached.insert(from.clone());
            let report = scene.play(step);
            let to = first_word(&scene.session.state());
            lines.push(Line { event: event.to_owned(), consequence: line(&scene, report), from, to });
        }
        let lines = with_others(lines, &answers);
        for Line { event, from, to, .. } in lines.iter().filter(|line| line.from != line.to) {
            edges.insert((from.clone(), to.clone(), event.clone()));
        }
        table.push_str(&grouped(lines.into_iter().map(|line| (line.event, line.consequence)).collect()));
    }
    assert_eq!(reached.len(), 20, "every state of the machine has its table: {reached:?}");
    check("tests/golden/card_session.md", &table);
    check("core/docs/card_session.md", &diagram("A card session", &edges));
}

/// What one event does in one state.
struct Line {
    event: String,
    consequence: String,
    from: String,
    to: String,
}

/// The answers that most often have the same consequence are one line, the last.
fn with_others(lines: Vec<Line>, answers: &[&str]) -> Vec<Line> {
    let (to_calls, mut shown): (Vec<_>, Vec<_>) =
        lines.into_iter().partition(|line| answers.contains(&line.event.as_str()));
    let count = |consequence: &str| to_calls.iter().filter(|other| other.consequence == consequence).count();
    let most = to_calls.iter().max_by_key(|line| count(&line.consequence)).expect("there are answers");
    let event = if count(&most.consequence) == to_calls.len() { "every answer" } else { "every other answer" };
    let others = Line {
        event: event.to_owned(),
        consequence: most.consequence.clone(),
        from: most.from.clone(),
        to: most.to.clone(),
    };
    shown.extend(to_calls.into_iter().filter(|line| line.consequence != others.consequence));
    shown.push(others);
    shown
}

fn line(scene: &Scene, report: Option<SessionReport>) -> String {
    let mut line = state(&scene.session.state());
    for call in &scene.out.calls {
        write!(line, " | call {}", call_shown(call)).expect("strings grow");
    }
    if let Some(report) = report {
        write!(line, " | report {}", report_shown(&report)).expect("strings grow");
    }
    line
}

/// A state in a few words: the card is always the same one.
fn state(state: &State) -> String {
    let name = first_word(state);
    match state {
        State::NoReader { unanswered: Some(_) } => format!("{name}, a call is unanswered"),
        State::Waiting { credential, due_ms } => format!("{name} for {credential:?} until {due_ms}"),
        State::Removing { due_ms } => format!("{name} until {due_ms}"),
        State::Selecting { profile, .. } | State::AskingTries { profile, .. } => format!("{name} as {profile:?}"),
        State::Ready { held } => {
            let place = held.card.place.map_or("none".to_owned(), |place| format!("{place:?}"));
            let tries = held.card.tries_left.map_or("unknown".to_owned(), |left| left.to_string());
            let header = held.card.header.map_or("none".to_owned(), |header| header.generation.to_string());
            format!("{name} (tries {tries}, place {place}, header of record {header})")
        }
        State::Verifying { cancelled: true, .. } | State::Changing { cancelled: true, .. } => {
            format!("{name}, cancelled")
        }
        State::Erasing { place, .. } => format!("{name} {place:?}"),
        State::Cancelling { holds, .. } => format!("{name} ({})", if *holds { "held" } else { "being held" }),
        State::LettingGo { then, .. } => match then {
            Then::Report(report) => format!("{name}, then report {}", report_shown(report)),
            Then::Rest => format!("{name}, then nothing"),
            Then::Identify(credential) => format!("{name}, then identify {credential:?}"),
            Then::Removal => format!("{name}, then removal"),
        },
        State::NoReader { unanswered: None }
        | State::Idle
        | State::Holding { .. }
        | State::Verifying { .. }
        | State::Changing { .. }
        | State::AskingTriesAgain { .. }
        | State::Reading { .. }
        | State::Writing { .. }
        | State::Pointing { .. }
        | State::ReadingBack { .. }
        | State::Unpointing { .. }
        | State::Silent { .. } => name,
    }
}

fn call_shown(call: &CardCall) -> String {
    let name = first_word(call);
    let kind = |profile: &ProfileId, credential: &Credential| format!("{profile:?} {credential:?}");
    match call {
        CardCall::Hold | CardCall::Release => name,
        CardCall::Select { profile, credential }
        | CardCall::Tries { profile, credential }
        | CardCall::Verify { profile, credential }
        | CardCall::ChangePin { profile, credential } => format!("{name} {}", kind(profile, credential)),
        CardCall::Read { profile, credential, place, .. } | CardCall::Erase { profile, credential, place } => {
            format!("{name} {} {place:?}", kind(profile, credential))
        }
        CardCall::Write { profile, credential, place, record, .. } => {
            format!("{name} {} {place:?} record {}", kind(profile, credential), record.header.generation)
        }
        CardCall::Point { profile, credential, place } => {
            let place = place.map_or("none".to_owned(), |place| format!("{place:?}"));
            format!("{name} {} {place}", kind(profile, credential))
        }
    }
}

fn report_shown(report: &SessionReport) -> String {
    match report {
        SessionReport::Identified(_) => "Identified".to_owned(),
        SessionReport::Failed(CardProblem::Status(word)) => format!("Failed(Status {word:04X})"),
        SessionReport::RecordRead(Ok(record)) => format!("RecordRead(record {})", record.header.generation),
        other => format!("{other:?}"),
    }
}
