//! Ceremonies from their order to their end: people, cards, pads, tokens and a store in one room.

use slotwarden_core::card::Credential;
use slotwarden_core::card::sets::SetSubject;
use slotwarden_core::ceremony::order::{CardOrder, Places, SlotSet, Task};
use slotwarden_core::command::{Answer, Command};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::{PersonId, Roster};
use slotwarden_core::share::card_set::CardQuorum;
use slotwarden_core::status::CeremonyWait as Wants;
use slotwarden_sim::cards::Card;
use slotwarden_sim::room::{ADMINISTRATOR, CUSTODIAN, Room};

const TRANSPORT: &str = "123456";
const PIN: &str = "271828";

fn holders(n: u8) -> Roster {
    let persons: Vec<PersonId> = (0..n).map(|number| PersonId(CUSTODIAN.0 + number)).collect();
    Roster::new(&persons).expect("different persons")
}

fn quorum(m: u8, n: u8) -> CardQuorum {
    CardQuorum::new(m, n).expect("a quorum")
}

fn cards(task: Task) -> Command {
    Command::Cards { order: CardOrder { task, at: Places::default() } }
}

fn blank(number: u8) -> Card {
    Card::new([number; 8])
}

/// A new card through its part of a new set.
fn deal(room: &mut Room, card: Card) -> Card {
    assert_eq!(room.wants(), Some(Wants::Insert));
    room.insert(0, card);
    assert_eq!(room.wants(), Some(Wants::NewPin), "{:?}", room.last());
    room.type_pins(0, &[TRANSPORT, PIN, PIN]);
    assert_eq!(room.wants(), Some(Wants::Pin), "{:?}", room.last());
    room.type_pins(0, &[PIN]);
    assert_eq!(room.wants(), Some(Wants::Remove), "{:?}", room.last());
    room.remove(0)
}

/// A card with a share is read.
fn read(room: &mut Room, card: Card) -> Card {
    assert_eq!(room.wants(), Some(Wants::Insert));
    room.insert(0, card);
    assert_eq!(room.wants(), Some(Wants::Pin), "{:?}", room.last());
    room.type_pins(0, &[PIN]);
    assert_eq!(room.wants(), Some(Wants::Remove), "{:?}", room.last());
    room.remove(0)
}

fn create(room: &mut Room, m: u8, n: u8) -> Vec<Card> {
    let task = Task::CreateSet { quorum: quorum(m, n), holders: holders(n), leave_out: SlotSet::NONE };
    let reply = room.begin(ADMINISTRATOR, cards(task));
    let made = (1..=n).map(|number| deal(room, blank(number))).collect();
    assert_eq!(room.answer(reply), Some(Answer::Done));
    made
}

#[test]
fn a_set_of_2_of_3_is_created_and_restored_from_any_two_cards() {
    let mut room = Room::new(1);
    let made = create(&mut room, 2, 3);
    let set = room.stored.card_sets[&SetSubject::BackupKey].current.expect("a set is in force");
    assert_eq!((set.quorum.m(), set.quorum.n(), set.generation), (2, 3, 1));
    assert_eq!(room.calls.iter().filter(|call| **call == "put backup keys").count(), 2);

    let mut made: Vec<Option<Card>> = made.into_iter().map(Some).collect();
    for (first, second) in [(0, 1), (0, 2), (2, 1)] {
        let task = Task::RestoreKey { slot: Some(SlotId(0)), key_id: None };
        let reply = room.begin(ADMINISTRATOR, cards(task));
        for number in [first, second] {
            let card = made[number].take().expect("each card is somewhere");
            made[number] = Some(read(&mut room, card));
        }
        assert_eq!(room.answer(reply), Some(Answer::Done), "{first} {second}");
    }
    let (taken, owned) = room.core().secrets_taken_and_owned();
    assert_eq!(taken, owned);
}

#[test]
fn a_ceremony_is_refused_where_the_level_is_not_cards() {
    let mut room = Room::new(1);
    room.at_level(slotwarden_core::service::SecurityLevel::None);
    let answer = room.order(ADMINISTRATOR, cards(Task::ChangePin { credential: Credential::BackupShare }));
    assert_eq!(answer, Some(Answer::Refused(Refusal::LevelNotCards)));
}
