//! The golden table of a reception: every state × every event, `tests/golden/reception.md`, its diagram,
//! and what a table does not say (`SLOTWARDEN_GOLDEN=write` writes both).

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::arithmetic_side_effects, clippy::std_instead_of_core, clippy::wildcard_enum_match_arm)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::audit::AuditEvent;
use slotwarden_core::ceremony::order::SlotSet;
use slotwarden_core::command::{Answer, Caller, CommandKind, ReplyId};
use slotwarden_core::effect::{HsmAnswer, HsmCall, ImportPlan, SlotId};
use slotwarden_core::fault::{Fault, Function, HsmFailure, Refusal};
use slotwarden_core::person::PersonId;
use slotwarden_core::reception::{Parcel, Progress, Receiving, ReceptionEvent, ReceptionOut, State};
use slotwarden_core::transfer::FileStep;
use table::{check, diagram, first_word, grouped};

const CALLER: Caller = Caller { who: PersonId(0), reply: ReplyId(5) };
const OTHER: Caller = Caller { who: PersonId(1), reply: ReplyId(6) };
const FIRST: SlotId = SlotId(0);
const LAST: SlotId = SlotId(2);
const PLAN: ImportPlan = ImportPlan { new: 2, same: 1, conflict: 0, removed: 1 };

fn parcel() -> Parcel {
    let slots = SlotSet::NONE.with(FIRST).with(LAST);
    Parcel { source: [1; 32], sequence: 7, hash: [3; 32], key_id: [2; 16], slots }
}

fn receipt() -> Parcel {
    Parcel { slots: SlotSet::NONE, ..parcel() }
}

/// Writes down what is wanted.
#[derive(Default)]
struct Wanted(Vec<String>);

impl ReceptionOut for Wanted {
    fn file(&mut self, step: FileStep) {
        self.0.push(format!("file {step:?}"));
    }
    fn call(&mut self, slot: SlotId, call: HsmCall) {
        self.0.push(format!("slot {}: {}", slot.0, first_word(&call)));
    }
    fn uid(&self, slot: SlotId) -> [u8; 16] {
        [slot.0; 16]
    }
    fn remember(&mut self, parcel: Option<Parcel>) {
        self.0.push(format!("remember {}", if parcel.is_some() { "the package" } else { "nothing" }));
    }
    fn mark(&mut self, parcel: Parcel) {
        self.0.push(format!("mark {}", parcel.sequence));
    }
    fn journal(&mut self, who: Option<PersonId>, event: AuditEvent) {
        self.0.push(format!("journal {who:?} {event:?}"));
    }
    fn reply(&mut self, caller: Caller, answer: Answer) {
        self.0.push(format!("reply {} {answer:?}", caller.reply.0));
    }
    fn serve(&mut self, slots: SlotSet) {
        self.0.push(format!("serve {:?}", slots.slots().map(|slot| slot.0).collect::<Vec<_>>()));
    }
}

fn states() -> Vec<(&'static str, State)> {
    let (caller, parcel, plan) = (CALLER, parcel(), PLAN);
    let waiter = Some((CALLER, CommandKind::ApplyPackage));
    let progress = Progress { slot: FIRST, made: 0, touched: false, lost: 0 };
    let touched = Progress { touched: true, ..progress };
    let last = Progress { slot: LAST, made: 2, ..touched };
    let why = Answer::Failed(Fault::TokenGone);
    let conflict = ImportPlan { conflict: 1, ..plan };
    vec![
        ("Idle", State::Idle),
        ("Planning, of two", State::Planning { caller, parcel, asks: true, slot: FIRST, plan: ImportPlan::default() }),
        ("Planning, last", State::Planning { caller, parcel, asks: true, slot: LAST, plan }),
        ("Planning, last, nobody asked", State::Planning { caller, parcel, asks: false, slot: LAST, plan }),
        ("Planning, last, conflict", State::Planning { caller, parcel, asks: false, slot: LAST, plan: conflict }),
        ("Planned", State::Planned { parcel, plan }),
        ("Waiting", State::Waiting { parcel, progress, waiter }),
        ("Waiting, after a restart", State::Waiting { parcel, progress: touched, waiter: None }),
        ("AtToken, nothing touched", State::AtToken { parcel, progress, waiter }),
        ("AtToken, after a restart", State::AtToken { parcel, progress: touched, waiter: None }),
        (
            "AtToken, after a worker's death",
            State::AtToken { parcel, progress: Progress { lost: 1, ..touched }, waiter },
        ),
        ("AtToken, last", State::AtToken { parcel, progress: last, waiter }),
        ("Merging", State::Merging { parcel, made: 4, waiter }),
        ("Merging, not awaited", State::Merging { parcel, made: 4, waiter: None }),
        ("Merging, without keys", State::Merging { parcel: receipt(), made: 0, waiter }),
        ("Halfway", State::Halfway { parcel, why }),
    ]
}

fn events() -> Vec<(&'static str, ReceptionEvent)> {
    use ReceptionEvent as On;
    let failed = HsmFailure::Pkcs11 { code: 0x30, function: Function::UnwrapKey };
    let refused = |refusal| On::TokenDone(Err(HsmFailure::Refused(refusal)));
    vec![
        ("receive ordered", On::ReceiveOrdered { caller: OTHER, parcel: parcel(), asks: true }),
        ("receipt ordered", On::ReceiveOrdered { caller: OTHER, parcel: receipt(), asks: true }),
        ("apply ordered", On::ApplyOrdered { caller: OTHER, hash: [3; 32] }),
        ("apply of another ordered", On::ApplyOrdered { caller: OTHER, hash: [9; 32] }),
        ("end ordered", On::EndOrdered { caller: OTHER }),
        ("abandon ordered, slot open", On::AbandonOrdered { caller: OTHER, hash: [3; 32], open: true }),
        ("abandon ordered, slot closed", On::AbandonOrdered { caller: OTHER, hash: [3; 32], open: false }),
        ("abandon of another ordered", On::AbandonOrdered { caller: OTHER, hash: [9; 32], open: false }),
        ("compared", On::TokenDone(Ok(HsmAnswer::ImportPrepared(PLAN)))),
        ("made", On::TokenDone(Ok(HsmAnswer::Imported { made: 2 }))),
        ("token failed", On::TokenDone(Err(failed))),
        ("token refused", refused(Refusal::KeyNotRestorable)),
        ("token has such a key", refused(Refusal::ImportConflicts)),
        ("file done", On::FileDone(Ok(()))),
        ("file failed", On::FileDone(Err(Fault::StoreFailed))),
        ("slot ready", On::SlotReady),
        ("slot closed", On::SlotClosed),
        ("worker lost", On::WorkerLost),
        ("deadline passed", On::DeadlinePassed),
    ]
}

#[test]
fn every_state_answers_every_event_as_the_golden_table_says() {
    let mut text = String::from("# A reception\n\nEvery state and event; made by `core/tests/golden_reception.rs`.\n");
    let mut edges = BTreeSet::new();
    for (name, state) in states() {
        let mut lines = Vec::new();
        for (event, happened) in events() {
            let mut receiving = Receiving::in_state(state);
            let mut wanted = Wanted::default();
            receiving.handle(happened, &mut wanted);
            let next = receiving.state();
            let (from, to) = (first_word(&state), first_word(&next));
            if from != to {
                edges.insert((from, to.clone(), event.to_owned()));
            }
            let shown = if next == state { "the same".to_owned() } else { shown(&next) };
            lines.push((event.to_owned(), std::iter::once(shown).chain(wanted.0).collect::<Vec<_>>().join(" | ")));
        }
        write!(text, "\n## {name}\n\n{}", grouped(lines)).expect("strings grow");
    }
    check("tests/golden/reception.md", &text);
    check("core/docs/reception.md", &diagram("A reception", &edges));
}

/// A state in a few words.
fn shown(state: &State) -> String {
    match state {
        State::Waiting { progress, waiter, .. } | State::AtToken { progress, waiter, .. } => {
            let Progress { slot, made, touched, lost } = progress;
            let awaited = if waiter.is_some() { "awaited" } else { "not awaited" };
            let touched = if *touched { "touched" } else { "untouched" };
            format!("{} slot {}, {made} made, {touched}, {lost} lost, {awaited}", first_word(state), slot.0)
        }
        State::Planning { slot, plan, .. } => format!("Planning slot {}, {plan:?}", slot.0),
        State::Planned { plan, .. } => format!("Planned {plan:?}"),
        State::Merging { made, .. } => format!("Merging, {made} made"),
        other => first_word(other),
    }
}

/// A machine, and what its last event wanted.
#[derive(Default)]
struct Run {
    receiving: Receiving,
    wanted: Wanted,
}

impl Run {
    fn on(&mut self, event: ReceptionEvent) -> Vec<String> {
        self.wanted.0.clear();
        self.receiving.handle(event, &mut self.wanted);
        self.wanted.0.iter().filter(|line| !line.starts_with("journal")).cloned().collect()
    }
}

const COMPARED: ReceptionEvent = ReceptionEvent::TokenDone(Ok(HsmAnswer::ImportPrepared(PLAN)));
const MADE: ReceptionEvent = ReceptionEvent::TokenDone(Ok(HsmAnswer::Imported { made: 2 }));

#[test]
fn p24_nothing_is_made_before_all_of_it_is_planned_and_durable() {
    let mut run = Run::default();
    let ordered = run.on(ReceptionEvent::ReceiveOrdered { caller: CALLER, parcel: parcel(), asks: true });
    assert_eq!(ordered, ["slot 0: PlanPackage"]);
    assert_eq!(run.on(COMPARED), ["slot 2: PlanPackage"], "every slot, before any key is made");
    assert_eq!(run.on(COMPARED), ["reply 5 Done"]);
    assert_eq!(run.receiving.making(), SlotSet::NONE);
    let applied = run.on(ReceptionEvent::ApplyOrdered { caller: OTHER, hash: [3; 32] });
    assert_eq!(applied, ["remember the package"]);
    assert_eq!(run.receiving.making(), parcel().slots, "no application gets the PIN of any of them");
    for (slot, after) in [(FIRST, &[][..]), (LAST, &["file Received"][..])] {
        assert_eq!(run.receiving.waits_for(), Some(slot));
        assert_eq!(run.on(ReceptionEvent::SlotReady), [format!("slot {}: ImportPackage", slot.0)]);
        assert_eq!(run.on(MADE), after);
    }
    let ended = run.on(ReceptionEvent::FileDone(Ok(())));
    assert_eq!(ended, ["mark 7", "remember nothing", "file Discard", "serve [0, 2]", "reply 6 Done"]);
}

#[test]
fn p24_a_restart_goes_on_from_the_first_slot_and_gives_nothing_up() {
    let mut run = Run { receiving: Receiving::loaded(parcel()), wanted: Wanted::default() };
    assert_eq!(run.receiving.waits_for(), Some(FIRST));
    assert_eq!(run.on(ReceptionEvent::SlotReady), ["slot 0: ImportPackage"]);
    // Some of it may be there: what the token refuses now does not end it.
    let refused = ReceptionEvent::TokenDone(Err(HsmFailure::Refused(Refusal::ImportConflicts)));
    assert_eq!(run.on(refused), Vec::<String>::new());
    assert!(matches!(run.receiving.state(), State::Halfway { .. }));
    assert_eq!(run.on(ReceptionEvent::EndOrdered { caller: CALLER }), ["reply 5 Refused(PackageHalfway)"]);
}

#[test]
fn p25_a_conflict_in_the_last_slot_leaves_the_first_one_untouched() {
    let mut run = Run::default();
    run.on(ReceptionEvent::ReceiveOrdered { caller: CALLER, parcel: parcel(), asks: false });
    run.on(COMPARED);
    let conflict = ImportPlan { conflict: 1, ..PLAN };
    let refused = run.on(ReceptionEvent::TokenDone(Ok(HsmAnswer::ImportPrepared(conflict))));
    assert_eq!(refused, ["file Discard", "reply 5 Refused(ImportConflicts)"]);
    assert_eq!(run.receiving.state(), State::Idle);
}

#[test]
fn p23_a_mark_rises_only_with_the_end_of_the_whole() {
    for (name, state) in states() {
        for (event, happened) in events() {
            let mut run = Run { receiving: Receiving::in_state(state), wanted: Wanted::default() };
            let wanted = run.on(happened);
            let marked = wanted.iter().any(|line| line.starts_with("mark"));
            let merged = matches!(state, State::Merging { .. }) && event == "file done";
            assert_eq!(marked, merged, "{name}: {event}");
            // Mark and end are one transaction.
            assert!(!marked || wanted.contains(&"remember nothing".to_owned()), "{name}: {event}");
        }
    }
}
