//! Collections: every state × every event, as `golden` has it for the machines of a slot.
//!
//! Each state is brought about by what people would do, from the beginning; then the event.

// A test that panics has found something; the lints are for the rules.
#![allow(clippy::expect_used, clippy::panic, clippy::indexing_slicing, clippy::arithmetic_side_effects)]
#![allow(clippy::std_instead_of_core)]

mod table;

use std::collections::BTreeSet;
use std::fmt::Write as _;

use slotwarden_core::Now;
use slotwarden_core::code::RandomWatch;
use slotwarden_core::command::{Caller, CommandKind, ReplyId};
use slotwarden_core::effect::{ApplicationSet, Outcome, SlotId, Ticket};
use slotwarden_core::fault::Fault;
use slotwarden_core::outbox::Pushed;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::quorum::{Collection, CollectionEvent, CollectionOrder, NewCode, Rules, State, Want};
use slotwarden_core::record::{Knowledge, Knows, Mode, Owner, SlotRecord};
use slotwarden_core::safe::{Safe, SecretId};
use slotwarden_core::share::{Quorum, Set};
use slotwarden_core::slot::{SlotEvent, plain_token};
use slotwarden_core::slot_data::SlotData;
use slotwarden_core::turn::Turn;
use table::{check, diagram, difference, first_word, grouped, readable};

const STALE: Ticket = Ticket { slot: Some(SlotId(0)), number: 77 };
const KEY: [u8; 32] = [3; 32];
const FORMER_KEY: [u8; 32] = [4; 32];
const FOREIGN_KEY: [u8; 32] = [5; 32];

/// What surrounds one collection.
struct Scene {
    safe: Safe<32>,
    data: SlotData,
    pushed: Pushed,
    watch: RandomWatch,
    delivered: Option<SlotEvent>,
}

/// Something a person types, by the name it has in the table.
#[derive(Clone, Copy)]
enum Typed {
    Share {
        key: [u8; 32],
        x: u8,
        generation: u16,
    },
    /// The share of the set that is being handed out.
    New {
        x: u8,
    },
    Text(&'static str),
}

/// One thing that happens, before its secret has a place in the Safe.
#[derive(Clone, Copy)]
enum Step {
    Enter(u8, Typed),
    Fetch(u8),
    Reset(u8, bool),
    Draw,
    Event(CollectionEvent),
}

fn caller(who: u8) -> Caller {
    Caller { who: PersonId(who), reply: ReplyId(5) }
}

fn quorum() -> Quorum {
    Quorum::new(2, 3).expect("a quorum")
}

fn held(key: &[u8; 32], generation: u16) -> Set {
    let mut set = Set::new(key, generation, quorum(), 32);
    for x in 1..=3 {
        assert!(set.hand_out(x, PersonId(x)) && set.confirm(x));
    }
    set
}

fn data(knowledge: Knowledge) -> SlotData {
    let mut record = SlotRecord::new([9; 16]);
    record.serial = Some(plain_token().serial);
    record.knowledge = knowledge;
    let mut data = SlotData::new(SlotId(0), Owner(3), record);
    data.token = Some(plain_token());
    if knowledge == Knowledge::Shares {
        data.sets.begin_next(held(&FORMER_KEY, 1));
        data.sets.promote_next();
        data.sets.begin_next(held(&KEY, 2));
        data.sets.promote_next();
    }
    data
}

impl Scene {
    fn new(knowledge: Knowledge) -> Scene {
        Scene {
            safe: Safe::new(),
            data: data(knowledge),
            pushed: Pushed::default(),
            watch: RandomWatch::new(),
            delivered: None,
        }
    }

    fn put(&mut self, bytes: &[u8]) -> SecretId {
        self.safe
            .fill(|place| {
                place[..bytes.len()].copy_from_slice(bytes);
                bytes.len()
            })
            .expect("few secrets")
    }

    fn typed(&mut self, typed: Typed) -> SecretId {
        let mut text = [0; 80];
        let chars = match typed {
            Typed::Text(text) => return self.put(text.as_bytes()),
            Typed::Share { key, x, generation } => {
                let set = Set::new(&key, generation, quorum(), 32);
                set.share(&key, x).expect("1 to 3").encode(&mut text)
            }
            Typed::New { x } => {
                let set = self.data.sets.next.clone().expect("a set is being handed out");
                let key: [u8; 32] = drawn_key();
                set.share(&key, x).expect("1 to 3").encode(&mut text)
            }
        };
        self.put(&text[..chars])
    }

    fn with_turn<T>(&mut self, act: impl FnOnce(&mut Turn<'_>) -> T) -> T {
        let (mut change, mut change_end) = (None, None);
        act(&mut Turn {
            now: Now { mono_ms: 1_000, wall_s: None },
            tries: 3,
            stopping: false,
            halted: false,
            slot: &mut self.data,
            secrets: &mut self.safe,
            watch: &mut self.watch,
            out: &mut self.pushed,
            change: &mut change,
            change_end: &mut change_end,
            deliver: &mut self.delivered,
        })
    }

    /// Lets one thing happen.
    fn play(&mut self, collection: &mut Collection, step: Step) {
        let event = match step {
            Step::Enter(who, typed) => {
                let code = self.typed(typed);
                CollectionEvent::Entered { caller: caller(who), code, confirmed: false }
            }
            Step::Fetch(who) => CollectionEvent::Fetched { caller: caller(who) },
            Step::Reset(who, whoever) => CollectionEvent::ResetOrdered { caller: caller(who), whoever },
            Step::Draw => {
                let State::Drawing { ticket, id } = collection.state() else {
                    return self.with_turn(|turn| {
                        collection.handle(CollectionEvent::Done(STALE, Outcome::Random(Ok(()))), turn);
                    });
                };
                assert!(self.safe.refill(id, |place| {
                    place[..64].copy_from_slice(&drawn());
                    64
                }));
                CollectionEvent::Done(ticket, Outcome::Random(Ok(())))
            }
            Step::Event(CollectionEvent::Done(_, outcome)) => {
                CollectionEvent::Done(collection.state().awaited().unwrap_or(STALE), outcome)
            }
            Step::Event(event) => event,
        };
        self.with_turn(|turn| collection.handle(event, turn));
    }
}

fn drawn() -> [u8; 64] {
    core::array::from_fn(|index| u8::try_from(index).expect("64 bytes").wrapping_mul(37))
}

fn drawn_key() -> [u8; 32] {
    let mut key = [0; 32];
    RandomWatch::new().mix(&drawn(), &mut key).expect("not stuck");
    key
}

/// A state by its name: who knows the code, what is wanted, what the first one typed, what happened since.
type Beginning = (&'static str, Knowledge, Want, Option<Typed>, Vec<Step>);

fn states() -> Vec<Beginning> {
    let roster = Roster::new(&[PersonId(2), PersonId(1)]).expect("two persons");
    let parts = Knowledge::Parts(roster);
    let change = |command, new| Want::Change { command, new, accept: ApplicationSet::NONE };
    let split = change(CommandKind::Split, NewCode::Shares { quorum: quorum(), custodians: Roster::NOBODY });
    let named = Roster::new(&[PersonId(1), PersonId(2), PersonId(3)]).expect("three persons");
    let split_named = change(CommandKind::Split, NewCode::Shares { quorum: quorum(), custodians: named });
    let to_parts = change(CommandKind::Mode, NewCode::Parts(roster));
    let to_generated = change(CommandKind::Mode, NewCode::Generated);
    let share = |x| Typed::Share { key: KEY, x, generation: 2 };
    let code = Some(Typed::Text("the present code"));
    let back = |x| Step::Enter(x, Typed::New { x });
    let handing_out = vec![Step::Draw];
    let one_fetched = vec![Step::Draw, Step::Fetch(1)];
    let all_but_one = vec![Step::Draw, Step::Fetch(1), Step::Fetch(2), Step::Fetch(3), back(1), back(2)];
    vec![
        ("shares for activation: none entered", Knowledge::Shares, Want::Activate, None, vec![]),
        ("shares for activation: one entered", Knowledge::Shares, Want::Activate, Some(share(1)), vec![]),
        ("shares for a switch to generated: one entered", Knowledge::Shares, to_generated, Some(share(1)), vec![]),
        ("parts for activation: one entered", parts, Want::Activate, Some(Typed::Text("part of one")), vec![]),
        ("new parts: none entered", Knowledge::Whole, to_parts, code, vec![]),
        ("new parts: one entered", Knowledge::Whole, to_parts, code, vec![Step::Enter(1, Typed::Text("part of one"))]),
        ("drawing", Knowledge::Whole, split, code, vec![]),
        ("handing out: nobody came", Knowledge::Whole, split, code, handing_out.clone()),
        ("handing out to named persons: nobody came", Knowledge::Whole, split_named, code, handing_out),
        ("handing out: one fetched", Knowledge::Whole, split, code, one_fetched),
        ("handing out: one share is not typed back", Knowledge::Whole, split, code, all_but_one),
        ("ended", Knowledge::Shares, Want::Activate, None, vec![Step::Reset(0, true)]),
    ]
}

fn events() -> Vec<(&'static str, Step)> {
    let share = |x| Typed::Share { key: KEY, x, generation: 2 };
    let former = Typed::Share { key: FORMER_KEY, x: 2, generation: 1 };
    let foreign = Typed::Share { key: FOREIGN_KEY, x: 2, generation: 2 };
    let wrong = Typed::Share { key: KEY, x: 2, generation: 3 };
    let fault = Outcome::Random(Err(Fault::RandomUnavailable));
    vec![
        ("begin", Step::Event(CollectionEvent::Begin)),
        ("person 2 enters share 2", Step::Enter(2, share(2))),
        ("person 1 enters share 1", Step::Enter(1, share(1))),
        ("person 1 enters share 2", Step::Enter(1, share(2))),
        ("person 2 enters a share of a former set", Step::Enter(2, former)),
        ("person 2 enters a share of another slot", Step::Enter(2, foreign)),
        ("person 2 enters an altered share", Step::Enter(2, wrong)),
        ("person 2 enters what is no share", Step::Enter(2, Typed::Text("slws1 with a typing error"))),
        ("person 2 enters a part", Step::Enter(2, Typed::Text("part of two"))),
        ("person 1 enters a part", Step::Enter(1, Typed::Text("part of one"))),
        ("person 2 enters a part of 7 characters", Step::Enter(2, Typed::Text("1234567"))),
        ("person 3 enters a part", Step::Enter(3, Typed::Text("part of three"))),
        ("person 1 fetches", Step::Fetch(1)),
        ("person 2 fetches", Step::Fetch(2)),
        ("person 9 fetches", Step::Fetch(9)),
        ("a participant resets", Step::Reset(1, false)),
        ("a stranger resets", Step::Reset(9, false)),
        ("an operator resets", Step::Reset(9, true)),
        ("drawn", Step::Draw),
        ("not drawn", Step::Event(CollectionEvent::Done(STALE, fault))),
        ("deadline passed", Step::Event(CollectionEvent::DeadlinePassed)),
        ("superseded", Step::Event(CollectionEvent::Superseded)),
    ]
}

/// What only exists while a set is handed out.
fn typed_back() -> Vec<(&'static str, Step)> {
    vec![
        ("person 1 types share 1 back", Step::Enter(1, Typed::New { x: 1 })),
        ("person 3 types share 3 back", Step::Enter(3, Typed::New { x: 3 })),
        ("person 1 types share 2 back", Step::Enter(1, Typed::New { x: 2 })),
    ]
}

#[test]
fn a_collection_answers_every_event_in_every_state() {
    let mut table = String::from("# A collection: every state × every event\n");
    let mut edges = BTreeSet::new();
    for (name, knowledge, want, code, before) in states() {
        writeln!(table, "\n## {name}\n").expect("strings grow");
        let mut lines = Vec::new();
        let handing_out = before.iter().any(|step| matches!(step, Step::Draw));
        let more = if handing_out { typed_back() } else { Vec::new() };
        for (event, step) in events().into_iter().chain(more) {
            let mut scene = Scene::new(knowledge);
            let code = code.map(|typed| scene.typed(typed));
            let who = if knowledge == Knowledge::Whole { 0 } else { 1 };
            let caller = caller(who);
            let order = CollectionOrder { caller, want, by: Knows::Current, code, new_code: None, confirmed: false };
            let mut collection = scene.with_turn(|turn| Collection::begin(order, 41, turn));
            for step in &before {
                scene.play(&mut collection, *step);
            }
            assert!(name == "ended" || !collection.is_over(), "{name} cannot be brought about");
            let (from, data) = (first_word(&collection.state()), scene.data.clone());
            scene.pushed = Pushed { next_ticket: scene.pushed.next_ticket, ..Pushed::default() };
            scene.play(&mut collection, step);
            let to = first_word(&collection.state());
            lines.push((event.to_owned(), line(&collection, &scene, &data)));
            assert!(scene.pushed.bugs.is_empty() || event == "begin", "{name} × {event}: {:?}", scene.pushed.bugs);
            if from != to {
                edges.insert((from, to, event.to_owned()));
            }
        }
        table.push_str(&grouped(lines));
    }
    check("tests/golden/collection.md", &table);
    check("core/docs/collection.md", &diagram("A collection", &edges));
}

#[test]
fn an_order_that_cannot_be_carried_out_calls_nobody_together() {
    let mut table = String::from("# A collection that does not begin\n\n");
    let split = NewCode::Shares { quorum: quorum(), custodians: Roster::NOBODY };
    let cases: Vec<(&str, Knowledge, Mode, Want, Option<Typed>)> = vec![
        ("split without the present code", Knowledge::Whole, Mode::Manual, change(CommandKind::Split, split), None),
        (
            "split with a present code of 5 characters",
            Knowledge::Whole,
            Mode::Manual,
            change(CommandKind::Split, split),
            Some(Typed::Text("short")),
        ),
        (
            "split of a generated code, with a code",
            Knowledge::Whole,
            Mode::Generated,
            change(CommandKind::Split, split),
            Some(Typed::Text("nobody knows it")),
        ),
        (
            "to a single code without the new one",
            Knowledge::Shares,
            Mode::Manual,
            change(CommandKind::Mode, NewCode::Whole),
            None,
        ),
        (
            "activate with a mistyped share",
            Knowledge::Shares,
            Mode::Manual,
            Want::Activate,
            Some(Typed::Text("slws1x")),
        ),
    ];
    for (name, knowledge, mode, want, code) in cases {
        let mut scene = Scene::new(knowledge);
        scene.data.record.mode = mode;
        let code = code.map(|typed| scene.typed(typed));
        let order =
            CollectionOrder { caller: caller(1), want, by: Knows::Current, code, new_code: None, confirmed: false };
        let before = scene.data.clone();
        let collection = scene.with_turn(|turn| Collection::begin(order, 41, turn));
        assert!(collection.is_over(), "{name}");
        writeln!(table, "- {name} → {}", line(&collection, &scene, &before)).expect("strings grow");
    }
    // Nobody may be asked for the last try of a token by accident.
    let mut scene = Scene::new(Knowledge::Shares);
    scene.data.record.user.refused_in_row = 2;
    let share = Typed::Share { key: KEY, x: 1, generation: 2 };
    let code = Some(scene.typed(share));
    let order = CollectionOrder {
        caller: caller(1),
        want: Want::Activate,
        by: Knows::Current,
        code,
        new_code: None,
        confirmed: false,
    };
    let before = scene.data.clone();
    let collection = scene.with_turn(|turn| Collection::begin(order, 41, turn));
    assert!(collection.is_over());
    writeln!(table, "- the last try, unconfirmed → {}", line(&collection, &scene, &before)).expect("strings grow");
    check("tests/golden/collection_refused.md", &table);
}

#[test]
fn a_machine_put_into_a_state_waits_as_long_as_one_that_came_there() {
    let mut scene = Scene::new(Knowledge::Shares);
    let order = CollectionOrder {
        caller: caller(1),
        want: Want::Activate,
        by: Knows::Current,
        code: None,
        new_code: None,
        confirmed: false,
    };
    let now = Now { mono_ms: 1_000, wall_s: None };
    let made = scene.with_turn(|turn| Collection::in_state(Rules::new(order, 41, now), State::Present, turn));
    let begun = scene.with_turn(|turn| Collection::begin(order, 41, turn));
    assert_eq!((made.state(), made.due_ms()), (begun.state(), begun.due_ms()));
}

const fn change(command: CommandKind, new: NewCode) -> Want {
    Want::Change { command, new, accept: ApplicationSet::NONE }
}

fn line(collection: &Collection, scene: &Scene, before: &SlotData) -> String {
    let mut line = format!("{:?}", collection.state());
    for act in &scene.pushed.acts {
        write!(line, " | {act:?}").expect("strings grow");
    }
    if !scene.pushed.journal.is_empty() {
        write!(line, " | journal {:?}", scene.pushed.journal).expect("strings grow");
    }
    if scene.data.record != before.record {
        write!(line, " | record {}", difference(&before.record, &scene.data.record)).expect("strings grow");
    }
    if scene.data.sets != before.sets {
        let next = scene.data.sets.next.as_ref().map(|set| (set.holders, set.confirmed));
        let shown = next.map(|(holders, confirmed)| {
            let who: Vec<String> = (0..3)
                .map(|x| match (holders[x], confirmed[x]) {
                    (None, _) => "–".to_owned(),
                    (Some(PersonId(who)), false) => format!("{who}"),
                    (Some(PersonId(who)), true) => format!("{who} back"),
                })
                .collect();
            who.join(", ")
        });
        write!(line, " | next set {}", shown.unwrap_or_else(|| "void".to_owned())).expect("strings grow");
    }
    if let Some(event) = scene.delivered {
        write!(line, " | deliver {event:?}").expect("strings grow");
    }
    if !scene.pushed.bugs.is_empty() {
        write!(line, " | BUG {:?}", scene.pushed.bugs).expect("strings grow");
    }
    for (long, short) in [
        ("Caller { who: PersonId(0), reply: ReplyId(5) }", "person 0"),
        ("Caller { who: PersonId(1), reply: ReplyId(5) }", "person 1"),
        ("Caller { who: PersonId(2), reply: ReplyId(5) }", "person 2"),
        ("Caller { who: PersonId(3), reply: ReplyId(5) }", "person 3"),
    ] {
        line = line.replace(long, short);
    }
    for place in 0..12 {
        line = line.replace(&format!("SecretId {{ place: {place}, use_count: 0 }}"), &format!("secret {place}"));
    }
    readable(&line)
}
