//! Cards that are pulled at each of their commands, and power that goes at each commit, each
//! command and each call of the HSM, in every ceremony: what is in force afterwards is what was,
//! or what was wanted, whole and proven.

// A test that panics has found something.
#![allow(clippy::expect_used, clippy::panic)]

mod desk;

use desk::{CEREMONIES, Desk, SHARE, create_set, quorum, ready, restore};
use slotwarden_core::card::Credential;
use slotwarden_core::card::sets::{CardSet, SetSubject};
use slotwarden_core::ceremony::Question;
use slotwarden_core::ceremony::order::{Places, SoUse};
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::{ApplicationSet, SlotId};
use slotwarden_core::fault::Refusal;
use slotwarden_core::record::{Mode, Owner};
use slotwarden_core::share::record;
use slotwarden_core::slot::State;
use slotwarden_sim::cards::Card;
use slotwarden_sim::pin_pad::Pull;
use slotwarden_sim::room::{ADMINISTRATOR, Cut, CutWay};

const DONE: Option<Answer> = Some(Answer::Done);
const USERS: SetSubject = SetSubject::Users(Owner(1));
const ADMINISTRATORS: SetSubject = SetSubject::Administrators(Owner(1));

/// Which share of which set a card holds, whole.
fn share(card: &Card, credential: Credential) -> Option<([u8; 16], u8)> {
    let mut y = [0; 32];
    let record = record::check(card.record(credential)?, &mut y).ok()?;
    Some((record.header.set_id, record.header.x))
}

/// The cards with different shares of a set.
fn cards_of(desk: &Desk, set: &CardSet, credential: Credential) -> Vec<usize> {
    let mut found: Vec<(u8, usize)> = Vec::new();
    for (number, card) in desk.cards.iter().enumerate() {
        if let Some((id, x)) = card.as_ref().and_then(|card| share(card, credential))
            && id == set.id
            && found.iter().all(|(known, _)| *known != x)
        {
            found.push((x, number));
        }
    }
    found.sort_unstable();
    found.into_iter().map(|(_, number)| number).collect()
}

/// The registry says of no card that it holds a share of a set in force when it does not.
fn registry_is_true(desk: &Desk, note: &str) {
    for entry in desk.room.stored.cards.values() {
        let Some(said) = entry.share else { continue };
        let number = usize::from(entry.serial.bytes()[0]) - 1;
        let is = share(desk.card(number), entry.credential);
        assert_eq!(is, Some((said.set_id, said.x)), "{note}: {entry:?}");
    }
}

fn open_slots(desk: &mut Desk) {
    for slot in 0..2 {
        let state = desk.room.core().slot_state(SlotId(slot));
        if !matches!(state, Some(State::Active { .. })) {
            assert_eq!(desk.activate(slot, Some(b"code-of-people"), &[]), DONE);
        }
    }
}

/// What has to hold after any interruption of a ceremony about the backup key.
fn key_is_whole(desk: &mut Desk, before: Option<CardSet>, note: &str) {
    desk.credential = SHARE;
    registry_is_true(desk, note);
    open_slots(desk);
    let now = desk.sets(SetSubject::BackupKey);
    assert_eq!(now.next, None, "{note}: a set stays in the making");
    if before.is_some() {
        assert!(now.current.is_some(), "{note}: no set is in force any more");
    }
    if let Some(set) = now.current {
        let of_set = cards_of(desk, &set, SHARE);
        assert!(of_set.len() >= usize::from(set.quorum.m()), "{note}");
        let plan = &of_set[of_set.len() - usize::from(set.quorum.m())..];
        assert_eq!(desk.run(restore(Some(0), None), plan), DONE, "{note}: {:?}", desk.shown);
        for token in &desk.room.tokens {
            let others = token.live.backup_keys.iter().flatten().filter(|key| key.key_id != set.key_id).count();
            assert_eq!(others, 0, "{note}: keys of another backup key are left in a token");
        }
    }
    // Void cards say so, and are written over without a question.
    let void = |desk: &Desk| {
        let sets = desk.sets(SetSubject::BackupKey);
        let is_void = |id| {
            sets.standing(&id)
                == Some(slotwarden_core::card::sets::Standing::Former(slotwarden_core::card::sets::Fate::Void))
        };
        let holds =
            |card: &Option<Card>| card.as_ref().and_then(|card| share(card, SHARE)).is_some_and(|(id, _)| is_void(id));
        desk.cards.iter().position(holds)
    };
    if let Some(void) = void(desk) {
        desk.begin(restore(Some(0), None), &[void]);
        desk.step();
        assert_eq!(desk.room.last(), Some(Refusal::CardVoid), "{note}");
        let id = desk.room.ceremony().expect("a ceremony").id;
        desk.room.order(ADMINISTRATOR, Command::CancelCeremony { id });
        desk.collect_all();
        desk.overwrites = false;
        let new = desk.blank(1)[0];
        let command = if now.current.is_some() { desk::rotate(2, 2) } else { create_set(2, 2) };
        assert_eq!(desk.run(command, &[void, new]), DONE, "{note}: {:?}", desk.shown);
        assert!(!desk.asked.contains(&Question::Overwrite), "{note}: {:?}", desk.asked);
        desk.overwrites = true;
    }
}

/// What has to hold after any interruption of a ceremony for a slot's users: it opens, with what
/// opened it before or with the new cards.
fn slot_opens(desk: &mut Desk, note: &str) {
    desk.credential = Credential::SlotUser;
    registry_is_true(desk, note);
    if matches!(desk.room.core().slot_state(SlotId(0)), Some(State::Active { .. })) {
        desk.deactivate(0);
    }
    let sets = desk.sets(USERS);
    let mut opened = None;
    for set in [sets.next, sets.current].into_iter().flatten() {
        let plan = cards_of(desk, &set, Credential::SlotUser);
        let code = set.with_code.then_some(&b"code-on-top"[..]);
        if opened.is_none() && desk.activate(0, code, &plan) == DONE {
            opened = Some(set.id);
        }
    }
    if opened.is_none() {
        let answer = desk.activate(0, Some(b"code-of-people"), &[]);
        assert_eq!(answer, DONE, "{note}: nothing opens it; {:?} {sets:?}", desk.shown);
    }
    let sets = desk.sets(USERS);
    assert_eq!(sets.next, None, "{note}: decided");
    assert_eq!(sets.current.map(|set| set.id), opened, "{note}");
    assert_eq!(desk.room.core().slot_record(SlotId(0)).map(|record| record.mode), Some(Mode::Manual));
}

/// What has to hold after any interruption of a ceremony for the SO PIN: it is the one from
/// before, or that of cards whose set is not void.
fn so_pin_is_known(desk: &mut Desk, note: &str) {
    desk.credential = Credential::HsmAdministrator;
    registry_is_true(desk, note);
    if matches!(desk.room.core().slot_state(SlotId(0)), Some(State::Active { .. })) {
        desk.deactivate(0);
    }
    let unblock = |desk: &mut Desk, set: CardSet| {
        let then = SoUse::Unblock { to: Mode::Generated, new_code: None, accept: ApplicationSet::NONE };
        let plan = cards_of(desk, &set, Credential::HsmAdministrator);
        let at = Places::default();
        desk.run(Command::BySoCards { slot: SlotId(0), then, confirmed: true, at }, &plan)
    };
    let sets: Vec<CardSet> = desk.sets(ADMINISTRATORS).in_force().collect();
    for set in sets {
        let answer = unblock(desk, set);
        if answer == DONE {
            return;
        }
        assert_eq!(answer, Some(Answer::Refused(Refusal::SoPinWrong)), "{note}");
    }
    let so_pin = desk.secret(b"so-pin-of-people");
    let typed = Command::Unblock {
        slot: SlotId(0),
        so_pin,
        to: Mode::Generated,
        new_code: None,
        confirmed: true,
        accept: ApplicationSet::NONE,
    };
    assert_eq!(desk.run(typed, &[]), DONE, "{note}: nobody has the SO PIN");
}

fn is_right_after(which: usize, desk: &mut Desk, before: Option<CardSet>, note: &str) {
    desk.check();
    assert!(desk.tries_spent() <= desk.typed, "{note}: tries were spent that nobody typed");
    match which {
        1 | 12 | 13 => slot_opens(desk, note),
        2 | 14 => so_pin_is_known(desk, note),
        _ => key_is_whole(desk, before, note),
    }
    desk.check();
    assert_eq!(desk.room.ceremony(), None, "{note}");
}

#[test]
fn p15_p39_power_cut_at_every_commit_command_and_call_leaves_the_old_or_the_new() {
    let mut cut_states = 0;
    for which in 0..CEREMONIES {
        for way in [CutWay::Before, CutWay::After, CutWay::Amid] {
            for after in 0.. {
                let (name, mut desk, command, plan) = ready(which);
                let before = desk.sets(SetSubject::BackupKey).current;
                desk.room.cut = Some(Cut { after, way });
                let reply = desk.begin(command, &plan);
                desk.play();
                let note = format!("{name}, cut {way:?} {after}");
                if desk.room.core.is_some() {
                    assert_eq!(desk.room.answer(reply), DONE, "{note}: {:?}", desk.shown);
                    break;
                }
                cut_states += 1;
                desk.restart();
                is_right_after(which, &mut desk, before, &note);
            }
        }
    }
    println!("{cut_states} power cuts");
    assert!(cut_states > 500, "{cut_states}");
}

#[test]
fn p15_p39_power_cut_again_while_it_starts_leaves_the_old_or_the_new() {
    let mut cut_states = 0;
    for which in [0, 1, 2, 3, 4, 7, 12, 14] {
        for after in 0.. {
            let mut whole = true;
            for again in 0..3 {
                let (name, mut desk, command, plan) = ready(which);
                let before = desk.sets(SetSubject::BackupKey).current;
                desk.room.cut = Some(Cut { after, way: CutWay::After });
                desk.begin(command, &plan);
                desk.play();
                if desk.room.core.is_some() {
                    break;
                }
                whole = false;
                desk.room.cut = Some(Cut { after: again, way: CutWay::After });
                desk.restart();
                if desk.room.core.is_none() {
                    cut_states += 1;
                    desk.restart();
                }
                desk.room.cut = None;
                is_right_after(which, &mut desk, before, &format!("{name}, cut after {after}, again after {again}"));
            }
            if whole {
                break;
            }
        }
    }
    println!("{cut_states} second power cuts");
    assert!(cut_states > 100, "{cut_states}");
}

#[test]
fn p5_p15_a_card_pulled_at_any_command_is_asked_for_again_and_the_ceremony_ends_well() {
    let mut pulls = 0;
    for which in 0..CEREMONIES {
        let count = ready(which).3.len();
        for card in 0..count {
            for at in 0..14 {
                for pull in [Pull::AfterApdus(at), Pull::Unheard(at), Pull::Amid(at), Pull::AmidWrite] {
                    if pull == Pull::AmidWrite && at > 0 {
                        continue;
                    }
                    let (name, mut desk, command, plan) = ready(which);
                    let before = desk.sets(SetSubject::BackupKey).current;
                    desk.room.pull = Some((u32::try_from(card).expect("few cards"), pull));
                    let reply = desk.begin(command, &plan);
                    desk.play();
                    let note = format!("{name}, card {card}: {pull:?}");
                    assert_eq!(desk.room.answer(reply), DONE, "{note}: {:?} {:?}", desk.shown, desk.room.ceremony());
                    pulls += usize::from(!desk.shown.is_empty());
                    desk.collect_all();
                    is_right_after(which, &mut desk, before, &note);
                }
            }
        }
    }
    println!("{pulls} cards were pulled in the middle");
    assert!(pulls > 200, "{pulls}");
}

#[test]
fn p13_a_set_comes_into_force_only_after_every_card_was_read_back_and_rehearsed() {
    let (_, mut desk, command, plan) = ready(0);
    desk.begin(command, &plan);
    while desk.room.ceremony().is_some() {
        assert!(desk.sets(SetSubject::BackupKey).current.is_none(), "not before the last card is out");
        assert!(desk.step());
    }
    let set = desk.backup();
    assert_eq!((set.quorum, cards_of(&desk, &set, SHARE).len()), (quorum(2, 2), 2));
    let rehearsed = slotwarden_core::audit::AuditEvent::SetRehearsed;
    let in_force = slotwarden_core::audit::AuditEvent::CardSetInForce;
    let place = |event| desk.room.stored.journal.iter().position(|record| record.event == event).expect("journaled");
    assert!(place(rehearsed) < place(in_force));
}
