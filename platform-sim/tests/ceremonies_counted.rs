//! What a ceremony costs, counted: commands to cards, things that people do, secrets that are left.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

mod desk;

use desk::{CEREMONIES, Desk, SHARE, cards, ready, replace_set, restore};
use slotwarden_core::ceremony::order::Task;
use slotwarden_core::ceremony::transcript::Entry;
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::limits::STOP_DEADLINE_MS;
use slotwarden_sim::pin_pad::Apdu;
use slotwarden_sim::room::ADMINISTRATOR;

const DONE: Option<Answer> = Some(Answer::Done);

/// A command as people name it.
fn name(apdu: &Apdu) -> &'static str {
    match (apdu.header[1], apdu.from_pad, apdu.header[2]) {
        (0xA4, _, _) => "SELECT",
        (0x20, false, _) => "tries",
        (0x20, true, _) => "VERIFY",
        (0x24, true, _) => "CHANGE",
        (0xB0, _, _) => "READ",
        (0xD6, _, 0x83) => "POINT",
        (0xD6, _, _) => "WRITE",
        _ => "?",
    }
}

/// The commands that a ceremony sends to cards.
fn commands(desk: &mut Desk, command: Command, plan: &[usize]) -> Vec<&'static str> {
    desk.room.terminals.iter_mut().for_each(|terminal| drop(terminal.pad.take_apdus()));
    assert_eq!(desk.run(command, plan), DONE, "{:?}", desk.shown);
    desk.collect_all();
    desk.room.terminals.iter().flat_map(|terminal| terminal.pad.apdus().iter().map(name)).collect()
}

#[test]
fn reading_a_share_is_three_commands_and_the_question_for_tries() {
    let mut desk = Desk::with_set(1, 2, 3);
    let card = ["SELECT", "tries", "VERIFY", "READ"];
    assert_eq!(commands(&mut desk, cards(Task::VerifySet), &[1]), card);
    assert_eq!(
        commands(&mut desk, restore(Some(0), None), &[0, 2]),
        [card, card].concat(),
        "restore: 6, and 2 questions"
    );
}

#[test]
fn changing_a_pin_is_two_commands_and_the_question_for_tries() {
    let mut desk = Desk::with_set(1, 2, 3);
    assert_eq!(commands(&mut desk, cards(Task::ChangePin { credential: SHARE }), &[1]), ["SELECT", "tries", "CHANGE"]);
}

/// Eight commands; beside them the question for tries of each card, and a change of the PIN
/// where the target is on the PIN it came with.
#[test]
fn copying_a_card_is_eight_commands_and_a_question_for_tries_of_each_and_a_change_for_a_new_card() {
    for readers in [1, 2] {
        let mut desk = Desk::with_set(readers, 2, 3);
        let new = desk.blank(1)[0];
        let copy = cards(Task::Copy { credential: SHARE });
        let source = ["SELECT", "tries", "VERIFY", "READ"];
        let target = ["SELECT", "tries", "CHANGE", "VERIFY", "WRITE", "POINT", "READ"];
        assert_eq!(commands(&mut desk, copy, &[0, new]), [&source[..], &target].concat());
        assert_eq!(desk.run(cards(Task::Erase { credential: SHARE }), &[new]), DONE);
        desk.collect_all();
        let target = ["SELECT", "tries", "VERIFY", "WRITE", "POINT", "READ"];
        assert_eq!(commands(&mut desk, copy, &[0, new]), [&source[..], &target].concat());
    }
}

/// What people did, as the last line of the last transcript has it.
fn human_steps(desk: &Desk) -> u16 {
    let (id, _) = desk.room.signed.last().expect("signed");
    let lines = &desk.room.stored.transcripts[&id.0];
    match lines.last().expect("lines").entry {
        Entry::Ended { human_steps, .. } => human_steps,
        ref other => panic!("{other:?}"),
    }
}

#[test]
fn people_insert_type_and_take_out_and_do_nothing_else() {
    // A card that is read: insert, PIN, take out. One that gets its PIN here types that before.
    let (read, written) = (3, 4);
    for which in 0..CEREMONIES {
        let (name, mut desk, command, plan) = ready(which);
        assert_eq!(desk.run(command, &plan), DONE);
        let (cards, expected) = match name {
            "create" | "rotate" | "slot cards" | "SO cards" => (2, 2 * written),
            "replace" | "other slot cards" | "other SO cards" => (4, 2 * read + 2 * written),
            "restore" | "activate" => (2, 2 * read),
            // The source may stay in its reader.
            "copy at two readers" => (2, read - 1 + written + 1),
            // After each card but the last: another one?
            "verify" => (3, 3 * read + 2),
            // Another copy?
            "copy" => (2, read + written + 1),
            "change" | "reassign" | "erase" => (1, read),
            _ => panic!("{name}"),
        };
        println!("{name}: {cards} cards, {expected} steps");
        assert_eq!(human_steps(&desk), expected, "{name}");
        assert_eq!(usize::from(expected), desk.did, "{name}: what people did here");
    }
}

#[test]
fn p16_a_cancel_at_every_step_leaves_no_secret() {
    for which in 0..CEREMONIES {
        for steps in 0.. {
            let (name, mut desk, command, plan) = ready(which);
            let reply = desk.begin(command, &plan);
            let went_on = (0..steps).all(|_| desk.step());
            if let Some(ceremony) = desk.room.ceremony() {
                assert_eq!(desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id: ceremony.id }), DONE);
                for reader in 0..desk.room.terminals.len() {
                    if desk.room.terminals[reader].asking().is_some() {
                        desk.room.pad_times_out(reader);
                    }
                }
            }
            desk.check();
            assert_eq!(desk.room.ceremony(), None, "{name} after {steps} steps");
            assert!(desk.room.answer(reply).is_some());
            if !went_on {
                break;
            }
        }
    }
}

#[test]
fn p16_a_stop_at_every_step_leaves_no_secret_and_the_old_set_in_force() {
    for which in 0..CEREMONIES {
        for steps in 0.. {
            let (name, mut desk, command, plan) = ready(which);
            let before = desk.sets(slotwarden_core::card::sets::SetSubject::BackupKey).current;
            desk.begin(command, &plan);
            let went_on = (0..steps).all(|_| desk.step());
            let over = desk.room.ceremony().is_none();
            desk.room.begin(ADMINISTRATOR, Command::Stop);
            if desk.room.core.is_some() {
                desk.room.wait(STOP_DEADLINE_MS);
            }
            assert!(desk.room.core.is_none(), "{name} after {steps} steps");
            assert_eq!(desk.room.left, Some(0), "{name} after {steps} steps");
            desk.restart();
            desk.check();
            if !over {
                let after = desk.sets(slotwarden_core::card::sets::SetSubject::BackupKey);
                assert_eq!((after.current, after.next), (before, None), "{name} after {steps} steps");
            }
            if !went_on {
                break;
            }
        }
    }
}

#[test]
fn a_set_of_another_quorum_counts_what_its_cards_take() {
    let mut desk = Desk::with_set(1, 2, 3);
    let new = desk.blank(3);
    assert_eq!(desk.run(replace_set(3, 3), &[&[0, 2][..], &new].concat()), DONE);
    assert_eq!(human_steps(&desk), 2 * 3 + 3 * 4);
}

#[test]
fn p38_the_lines_of_every_ceremony_come_to_its_state_and_its_knowledge_after_each_event() {
    for which in 0..CEREMONIES {
        let (name, mut desk, command, plan) = ready(which);
        let before = desk.room.compared;
        assert_eq!(desk.run(command, &plan), DONE);
        let (id, _) = desk.room.signed.last().expect("signed");
        let events = desk.room.stored.transcripts[&id.0].len();
        let compared = desk.room.compared - before;
        // What the service computes is an event within the same turn.
        assert!(compared as usize * 3 >= events, "{name}: {compared} times, {events} lines");
    }
}
