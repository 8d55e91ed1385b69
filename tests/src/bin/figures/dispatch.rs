//! Instructions per event: a machine with the slot machine's states and hierarchy, once
//! through statig (its traits by hand, as in the core), once as a plain match.
//!
//! The arrows do next to nothing, so what is counted is dispatch. The events are one life
//! of a slot: found, opened, refused as busy, proven, handed over, refused, taken back,
//! gone; some are answered by a leaf, some one, two or three levels up. Valgrind counts, so
//! the figure is the same on every machine with the same compiler.

use std::hint::black_box;
use std::process::Command;

use statig::Outcome::{self, Handled, Super, Transition};
use statig::blocking::{self, IntoStateMachine, IntoStateMachineExt as _};

/// The slot machine's leaves: those that the stories pass, and those that they do not.
#[expect(dead_code, reason = "a match over fewer states would be cheaper than the slot machine's")]
#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    Uninitialised,
    Blocked,
    Locked,
    InDoubt,
    CoolingDown { until_ms: u64 },
    Unsealing { ticket: u32, id: u32 },
    AtToken { ticket: u32, step: Step },
    HandingOver { pin: u32 },
    Active { pin: u32 },
    TakingBack { pin: u32 },
    Reconnecting { pin: u32 },
    Changing,
    Doubtful { ticket: u32 },
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Step {
    Observe,
    Login,
    Logout,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    Top,
    Resting,
    Closed,
    Working,
}

#[expect(dead_code, reason = "as for the states")]
#[derive(Clone, Copy)]
enum Event {
    Token(bool),
    ActivateOrdered { code: u32 },
    DeactivateOrdered,
    Done(u32),
    DeadlinePassed,
    WaitOver,
    WorkerLost,
}

/// What arrows touch.
#[derive(Default)]
struct Context {
    refused: u32,
    bugs: u32,
    pin: u32,
}

/// One life of a slot: these events lead back to where it began.
const LIFE: [Event; 13] = [
    Event::Token(true),
    Event::ActivateOrdered { code: 7 },
    Event::ActivateOrdered { code: 8 },
    Event::Done(1),
    Event::Done(2),
    Event::Done(3),
    Event::Token(true),
    Event::ActivateOrdered { code: 9 },
    Event::WaitOver,
    Event::DeactivateOrdered,
    Event::Done(4),
    Event::Done(5),
    Event::Token(false),
];

/// What an active slot answers without changing: a leaf's answers, and one from the top.
const STILL: [Event; 4] =
    [Event::Token(true), Event::ActivateOrdered { code: 8 }, Event::WaitOver, Event::ActivateOrdered { code: 9 }];

struct Rules;

impl IntoStateMachine for Rules {
    type Event<'event> = Event;
    type Context<'context> = Context;
    type State = State;
    type Superstate<'sub> = Group;

    fn initial() -> State {
        State::Absent
    }
}

impl blocking::State<Rules> for State {
    fn call_handler(&mut self, _: &mut Rules, event: &Event, context: &mut Context) -> Outcome<State> {
        match (*self, *event) {
            (State::AtToken { step: Step::Observe, .. }, Event::Done(ticket)) => {
                Transition(State::AtToken { ticket, step: Step::Login })
            }
            (State::AtToken { step: Step::Login, .. }, Event::Done(_)) => {
                Transition(State::HandingOver { pin: context.pin })
            }
            (State::AtToken { step: Step::Logout, .. }, Event::Done(_)) => Transition(State::Locked),
            (State::AtToken { ticket, .. }, Event::DeadlinePassed) => Transition(State::Doubtful { ticket }),
            (State::HandingOver { pin }, Event::Done(_)) => Transition(State::Active { pin }),
            (State::HandingOver { pin } | State::Active { pin }, Event::WorkerLost) => {
                Transition(State::Reconnecting { pin })
            }
            (State::Active { .. }, Event::Token(true)) => Handled,
            (State::Active { .. }, Event::Token(false)) => Transition(State::Absent),
            (State::Active { .. }, Event::ActivateOrdered { .. }) => refuse(context),
            (State::Active { pin }, Event::DeactivateOrdered) => Transition(State::TakingBack { pin }),
            (State::TakingBack { pin }, Event::Done(_)) => {
                Transition(State::AtToken { ticket: pin, step: Step::Logout })
            }
            (State::CoolingDown { .. }, Event::WaitOver) => Transition(State::Locked),
            (State::Unsealing { ticket, .. } | State::Doubtful { ticket }, Event::Done(done)) if ticket == done => {
                Transition(State::Locked)
            }
            _ => Super,
        }
    }

    fn superstate(&mut self) -> Option<Group> {
        Some(match self {
            State::Absent | State::Uninitialised | State::Blocked => Group::Resting,
            State::Locked | State::InDoubt | State::CoolingDown { .. } => Group::Closed,
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. } => Group::Working,
            State::Active { .. } => Group::Top,
        })
    }
}

impl blocking::Superstate<Rules> for Group {
    fn call_handler(&mut self, _: &mut Rules, event: &Event, context: &mut Context) -> Outcome<State> {
        match (*self, *event) {
            (Group::Closed, Event::ActivateOrdered { code }) => activate(context, code),
            (Group::Resting, Event::Token(present)) => found(present),
            (Group::Working, Event::ActivateOrdered { .. } | Event::DeactivateOrdered) => refuse(context),
            (Group::Top, _) => unexpected(context),
            (Group::Closed | Group::Resting | Group::Working, _) => Super,
        }
    }

    fn superstate(&mut self) -> Option<Group> {
        match self {
            Group::Top => None,
            Group::Closed => Some(Group::Resting),
            Group::Resting | Group::Working => Some(Group::Top),
        }
    }
}

/// The same machine as one match: what somebody would write who has no hierarchy.
fn plain(state: &mut State, event: &Event, context: &mut Context) {
    let outcome = match (*state, *event) {
        (State::AtToken { step: Step::Observe, .. }, Event::Done(ticket)) => {
            Transition(State::AtToken { ticket, step: Step::Login })
        }
        (State::AtToken { step: Step::Login, .. }, Event::Done(_)) => {
            Transition(State::HandingOver { pin: context.pin })
        }
        (State::AtToken { step: Step::Logout, .. }, Event::Done(_)) => Transition(State::Locked),
        (State::AtToken { ticket, .. }, Event::DeadlinePassed) => Transition(State::Doubtful { ticket }),
        (State::HandingOver { pin }, Event::Done(_)) => Transition(State::Active { pin }),
        (State::HandingOver { pin } | State::Active { pin }, Event::WorkerLost) => {
            Transition(State::Reconnecting { pin })
        }
        (State::Active { .. }, Event::Token(true)) => Handled,
        (State::Active { .. }, Event::Token(false)) => Transition(State::Absent),
        (State::Active { .. }, Event::ActivateOrdered { .. }) => refuse(context),
        (State::Active { pin }, Event::DeactivateOrdered) => Transition(State::TakingBack { pin }),
        (State::TakingBack { pin }, Event::Done(_)) => Transition(State::AtToken { ticket: pin, step: Step::Logout }),
        (State::CoolingDown { .. }, Event::WaitOver) => Transition(State::Locked),
        (State::Unsealing { ticket, .. } | State::Doubtful { ticket }, Event::Done(done)) if ticket == done => {
            Transition(State::Locked)
        }
        (State::Locked | State::InDoubt | State::CoolingDown { .. }, Event::ActivateOrdered { code }) => {
            activate(context, code)
        }
        (
            State::Absent
            | State::Uninitialised
            | State::Blocked
            | State::Locked
            | State::InDoubt
            | State::CoolingDown { .. },
            Event::Token(present),
        ) => found(present),
        (
            State::Unsealing { .. }
            | State::AtToken { .. }
            | State::HandingOver { .. }
            | State::TakingBack { .. }
            | State::Reconnecting { .. }
            | State::Changing
            | State::Doubtful { .. },
            Event::ActivateOrdered { .. } | Event::DeactivateOrdered,
        ) => refuse(context),
        _ => unexpected(context),
    };
    if let Transition(target) = outcome {
        *state = target;
    }
}

fn activate(context: &mut Context, code: u32) -> Outcome<State> {
    context.pin = code;
    Transition(State::AtToken { ticket: code, step: Step::Observe })
}

fn found(present: bool) -> Outcome<State> {
    Transition(if present { State::Locked } else { State::Absent })
}

fn refuse(context: &mut Context) -> Outcome<State> {
    context.refused = context.refused.wrapping_add(1);
    Handled
}

fn unexpected(context: &mut Context) -> Outcome<State> {
    context.bugs = context.bugs.wrapping_add(1);
    Handled
}

/// Feeds the events of `story` `rounds` times through one of the two ways, or through
/// neither (the loop alone).
pub(crate) fn live(way: &str, story: &str, rounds: u32) -> Result<(), String> {
    let (events, began): (&[Event], State) = match story {
        "life" => (&LIFE, State::Absent),
        "still" => (&STILL, State::Active { pin: 7 }),
        _ => return Err(format!("no story is called {story}")),
    };
    let mut context = Context::default();
    let mut state = began;
    let mut machine = Rules.uninitialized_state_machine();
    *machine.state_mut() = began;
    let mut machine = machine.init_with_context(&mut context);
    let way = match way {
        "statig" => 0,
        "match" => 1,
        _ => 2,
    };
    for _ in 0..rounds {
        for event in black_box(events) {
            match black_box(way) {
                0 => machine.handle_with_context(black_box(event), &mut context),
                1 => plain(&mut state, black_box(event), &mut context),
                _ => {
                    black_box((&mut state, event));
                }
            }
        }
    }
    black_box((context.refused, context.bugs));
    if *machine.state() == began && state == began {
        Ok(())
    } else {
        Err("the story did not end where it began".to_owned())
    }
}

/// Prints both figures and their ratio, for each story.
pub(crate) fn print() -> Result<(), String> {
    for (story, events, words) in [
        ("life", LIFE.len(), "one life of a slot, 10 of 13 events change the state"),
        ("still", STILL.len(), "events that change nothing"),
    ] {
        let loop_alone = per_event("loop", story, events)?;
        let statig = per_event("statig", story, events)? - loop_alone;
        let plain = per_event("match", story, events)? - loop_alone;
        println!(
            "dispatch, {words}: statig {statig:.1} instructions per event, hand-written match {plain:.1}, ratio {:.2}",
            statig / plain
        );
    }
    Ok(())
}

/// Instructions per event: the difference between two runs, so that start and end cancel out.
fn per_event(way: &str, story: &str, events: usize) -> Result<f64, String> {
    const FEW: u32 = 1_000;
    const MANY: u32 = 11_000;
    let run = |rounds: u32| instructions(&["dispatch", way, story, &rounds.to_string()]);
    let between = run(MANY)? - run(FEW)?;
    Ok(between / (f64::from(MANY - FEW) * events as f64))
}

/// What callgrind counted in one run of this program.
pub(crate) fn instructions(arguments: &[&str]) -> Result<f64, String> {
    let this = std::env::current_exe().map_err(|error| format!("this program: {error}"))?;
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(this)
        .args(arguments)
        .output()
        .map_err(|error| format!("install valgrind: {error}"))?;
    let said = String::from_utf8_lossy(&run.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected : ")).map(|(_, count)| count.trim().parse());
    match counted {
        Some(Ok(count)) if run.status.success() => Ok(count),
        _ => Err(format!("valgrind counted nothing:\n{said}")),
    }
}
