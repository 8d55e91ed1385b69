//! Which readers there are, which of them have a number, and what the core was told of each.
//!
//! A reader *appears* when PC/SC names it. Only when its desk found a keypad with secure PIN
//! entry does it get a number and the core hears of it (P2): [`ReaderEvent::Found`], then
//! [`ReaderEvent::CardIn`] if a card is there. Everything is said in the order in which it
//! happened, since it is said while the table is held.
//!
//! Numbers rise in PC/SC's own order of the readers, whichever desk is quicker to ask: one is kept
//! for a reader from its appearance on, and shown when it is used. A name keeps its number as
//! long as the daemon runs, also while the reader is away; but a number that was kept for a reader
//! that cannot be used goes to one that can, when no other is left. After a restart the numbers
//! are given anew, to the same readers in the same order.

use std::sync::mpsc::Sender;

use slotwarden_core::card::{ReaderEvent, ReaderId};
use slotwarden_core::effect::Input;

use super::Job;
use crate::devices::{Event, Events, ReaderView};

/// Most readers that get a number: more than a ceremony can use side by side.
pub const NUMBERED_MAX: u8 = 8;
/// Most readers remembered. Beyond, those are forgotten that have no number and are away:
/// nobody can fill the memory with readers of ever new names.
const ROWS_MAX: usize = 32;

/// One appearance of a reader, from plugging in to unplugging; never given twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Presence(u64);

/// What a look at a reader's slot for cards shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// Whether a card is in it.
    pub(super) card: bool,
    /// Whether PC/SC calls it mute.
    pub(super) mute: bool,
    /// PC/SC's count of insertions and removals: another count, another card.
    pub(super) count: u32,
}

impl Seat {
    /// The same as it is, after another look at the same reader. What pcscd shows may be wrong where
    /// it counts right: it takes a card that it could not reset for one that is there and mute, and one
    /// that it reset for one that is there, also when the card was taken out meanwhile, until the next
    /// one comes; and it shows a change a moment before it counts it, which it says then. Every insertion
    /// and every removal is one more. `odd_at` is the count at which the two said different things
    /// last: if they do at another count too, the first look was at such a moment.
    fn after(self, before: Seat, odd_at: &mut Option<u32>) -> Self {
        let changes = self.count.wrapping_sub(before.count);
        let counted = before.card ^ (changes % 2 == 1);
        if self.card == counted || (!self.mute && odd_at.is_some_and(|count| count != self.count)) {
            *odd_at = None;
            return self;
        }
        if !self.mute {
            *odd_at = Some(self.count);
        }
        Seat { card: counted, ..self }
    }
}

/// The readers.
pub(super) struct Table {
    rows: Vec<Row>,
    presences: u64,
    events: Events,
}

struct Row {
    name: String,
    /// Its number, or the one that is kept for it.
    number: Option<u8>,
    /// Whether it was ever used under its number: then it keeps it.
    used: bool,
    /// `None`: it is away.
    presence: Option<Presence>,
    /// The last look at it; `None`: there was none yet.
    seat: Option<Seat>,
    /// At which count it looked otherwise than was counted.
    odd_at: Option<u32>,
    /// At which count the reader itself said that no card is in it.
    empty_at: Option<u32>,
    /// Where its desk takes calls; none for a reader that policy excludes.
    desk: Option<Sender<Job>>,
    /// Whether the core knows that it is there.
    found: bool,
    reason: Option<String>,
}

impl Row {
    fn has_card(&self) -> bool {
        self.seat.is_some_and(|seat| seat.card)
    }

    /// A first look, before which nothing was counted: the reader knows better.
    fn first(&self, seat: Seat) -> Seat {
        Seat { card: seat.card && self.empty_at != Some(seat.count), ..seat }
    }
}

impl Table {
    pub(super) fn new(events: Events) -> Self {
        Table { rows: Vec::new(), presences: 0, events }
    }

    /// A reader is there; until more is known it is not used, for this reason.
    pub(super) fn appeared(&mut self, name: &str, desk: Option<Sender<Job>>, reason: String) -> Presence {
        self.presences += 1;
        let presence = Presence(self.presences);
        let place = match self.rows.iter().position(|row| row.name == name) {
            Some(place) => place,
            None => {
                self.forget_one();
                self.rows.push(Row {
                    name: name.to_owned(),
                    number: None,
                    used: false,
                    presence: None,
                    seat: None,
                    odd_at: None,
                    empty_at: None,
                    desk: None,
                    found: false,
                    reason: None,
                });
                self.rows.len() - 1
            }
        };
        let kept = self.free_number().filter(|_| desk.is_some());
        let row = &mut self.rows[place];
        row.number = row.number.or(kept);
        row.presence = Some(presence);
        row.seat = None;
        row.odd_at = None;
        row.empty_at = None;
        row.desk = desk;
        row.reason = Some(reason);
        presence
    }

    fn forget_one(&mut self) {
        if self.rows.len() >= ROWS_MAX
            && let Some(place) = self.rows.iter().position(|row| !row.used && row.presence.is_none())
        {
            self.rows.remove(place);
        }
    }

    /// Whether a reader of this name is there, as far as was said.
    pub(super) fn is_there(&self, name: &str) -> bool {
        self.rows.iter().any(|row| row.name == name && row.presence.is_some())
    }

    /// Names of the readers that are there.
    pub(super) fn there(&self) -> Vec<String> {
        self.rows.iter().filter(|row| row.presence.is_some()).map(|row| row.name.clone()).collect()
    }

    /// The reader can be used. The core hears of it, and of the card in it.
    pub(super) fn usable(&mut self, presence: Presence) {
        let Some(place) = self.rows.iter().position(|row| row.presence == Some(presence)) else { return };
        if self.rows[place].found {
            return;
        }
        let Some(number) = self.rows[place].number.or_else(|| self.free_number()).or_else(|| self.taken_back()) else {
            self.rows[place].reason = Some(format!(
                "{NUMBERED_MAX} other readers have been used since the daemon started; restart it to use this one"
            ));
            return;
        };
        let row = &mut self.rows[place];
        row.used = true;
        row.number = Some(number);
        row.found = true;
        row.reason = None;
        let card = row.has_card();
        self.tell(number, ReaderEvent::Found);
        if card {
            self.tell(number, ReaderEvent::CardIn);
        }
    }

    /// The lowest number that no reader has and that is kept for none.
    fn free_number(&self) -> Option<u8> {
        (0..NUMBERED_MAX).find(|number| !self.rows.iter().any(|row| row.number == Some(*number)))
    }

    /// A number that is kept for a reader that cannot be used.
    fn taken_back(&mut self) -> Option<u8> {
        self.rows.iter_mut().filter(|row| !row.used).find_map(|row| row.number.take())
    }

    /// The reader is not used, and why.
    pub(super) fn unusable(&mut self, presence: Presence, reason: String) {
        if let Some(row) = self.rows.iter_mut().find(|row| row.presence == Some(presence)) {
            row.reason = Some(reason);
        }
    }

    /// The reader itself says at this count that no card is in it, whatever pcscd shows: it may have
    /// been wrong before anybody here counted. Said before the reader can be used.
    pub(super) fn empty(&mut self, presence: Presence, count: u32) {
        let Some(row) = self.rows.iter_mut().find(|row| row.presence == Some(presence)) else { return };
        row.empty_at = Some(count);
        row.seat = row.seat.map(|seat| row.first(seat));
    }

    /// What a look at the reader showed.
    pub(super) fn looked(&mut self, name: &str, seat: Seat) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name && row.presence.is_some()) else { return };
        let before = row.seat;
        let seat = match before {
            Some(before) => seat.after(before, &mut row.odd_at),
            None => row.first(seat),
        };
        row.seat = Some(seat);
        if !row.found {
            // Whoever kept its desk from asking may have left; an ended desk needs no word.
            if let Some(desk) = &row.desk {
                let _ = desk.send(Job::LookAgain);
            }
            return;
        }
        let Some(number) = row.number else { return };
        match (before.is_some_and(|before| before.card), seat.card) {
            (false, true) => self.tell(number, ReaderEvent::CardIn),
            (true, false) => self.tell(number, ReaderEvent::CardOut),
            // Out and in again between two looks.
            (true, true) if before.is_some_and(|before| before.count != seat.count) => {
                self.tell(number, ReaderEvent::CardOut);
                self.tell(number, ReaderEvent::CardIn);
            }
            (true, true) | (false, false) => {}
        }
    }

    /// A reader is away.
    pub(super) fn gone(&mut self, name: &str) {
        let Some(row) = self.rows.iter_mut().find(|row| row.name == name) else { return };
        row.presence = None;
        row.seat = None;
        // Its desk ends when it has answered what it is asked.
        row.desk = None;
        row.reason = None;
        if std::mem::take(&mut row.found)
            && let Some(number) = row.number
        {
            self.tell(number, ReaderEvent::Lost);
        }
    }

    /// The same, said by the desk of this appearance; false if that is over already.
    pub(super) fn left(&mut self, presence: Presence) -> bool {
        let name = self.rows.iter().find(|row| row.presence == Some(presence)).map(|row| row.name.clone());
        name.is_some_and(|name| {
            self.gone(&name);
            true
        })
    }

    /// Where the desk of a reader takes calls; `None`: there is no such reader now.
    pub(super) fn desk(&self, reader: ReaderId) -> Option<&Sender<Job>> {
        let row = self.rows.iter().find(|row| row.number == Some(reader.0) && row.found)?;
        row.desk.as_ref()
    }

    pub(super) fn views(&self) -> Vec<ReaderView> {
        let view = |row: &Row| ReaderView {
            number: row.number.filter(|_| row.used),
            name: row.name.clone(),
            present: row.presence.is_some(),
            card: row.has_card(),
            reason: row.reason.clone(),
        };
        let mut views: Vec<ReaderView> = self.rows.iter().map(view).collect();
        views.sort_by_key(|view| view.number.unwrap_or(u8::MAX));
        views
    }

    /// A loop that ended needs no word.
    fn tell(&self, number: u8, event: ReaderEvent) {
        let _ = self.events.send(Event::Input(Input::Reader { reader: ReaderId(number), event }));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, channel};

    use super::*;

    fn table() -> (Table, Receiver<Event>) {
        let (events, arriving) = channel();
        (Table::new(events), arriving)
    }

    fn told(arriving: &Receiver<Event>) -> Vec<(u8, ReaderEvent)> {
        let read = |event| match event {
            Event::Input(Input::Reader { reader, event }) => (reader.0, event),
            other => panic!("a table says nothing else: {other:?}"),
        };
        arriving.try_iter().map(read).collect()
    }

    const CARD: Seat = Seat { card: true, mute: false, count: 1 };
    const EMPTY: Seat = Seat { card: false, mute: false, count: 2 };

    fn appeared(table: &mut Table, name: &str) -> Presence {
        table.appeared(name, None, "not asked yet".to_owned())
    }

    #[test]
    fn p02_a_reader_without_keypad_is_listed_with_the_reason_and_never_numbered() {
        let (mut table, arriving) = table();
        let presence = appeared(&mut table, "plain");
        table.unusable(presence, "no keypad".to_owned());
        table.looked("plain", CARD);
        table.gone("plain");
        assert_eq!(told(&arriving), []);
        let presence = appeared(&mut table, "plain");
        table.unusable(presence, "no keypad".to_owned());
        assert_eq!((table.views()[0].number, table.views()[0].reason.as_deref()), (None, Some("no keypad")));
        assert!(table.desk(ReaderId(0)).is_none());
    }

    #[test]
    fn a_card_that_is_in_a_new_reader_is_told_after_the_reader() {
        let (mut table, arriving) = table();
        let presence = appeared(&mut table, "pad");
        table.looked("pad", CARD);
        assert_eq!(told(&arriving), []);
        table.usable(presence);
        table.usable(presence);
        assert_eq!(told(&arriving), [(0, ReaderEvent::Found), (0, ReaderEvent::CardIn)]);
        table.looked("pad", EMPTY);
        table.looked("pad", EMPTY);
        assert_eq!(told(&arriving), [(0, ReaderEvent::CardOut)]);
    }

    #[test]
    fn a_card_swapped_between_two_looks_is_out_and_in() {
        let (mut table, arriving) = table();
        let presence = appeared(&mut table, "pad");
        table.usable(presence);
        table.looked("pad", CARD);
        table.looked("pad", CARD);
        assert_eq!(told(&arriving), [(0, ReaderEvent::Found), (0, ReaderEvent::CardIn)]);
        table.looked("pad", Seat { count: 3, ..CARD });
        assert_eq!(told(&arriving), [(0, ReaderEvent::CardOut), (0, ReaderEvent::CardIn)]);
    }

    #[test]
    fn a_name_keeps_its_number_and_an_ended_appearance_says_nothing() {
        let (mut table, arriving) = table();
        let first = appeared(&mut table, "one");
        table.usable(first);
        let other = appeared(&mut table, "two");
        table.usable(other);
        table.gone("one");
        table.usable(first);
        assert!(!table.left(first));
        let again = appeared(&mut table, "one");
        table.unusable(first, "said too late".to_owned());
        table.usable(again);
        let events =
            [(0, ReaderEvent::Found), (1, ReaderEvent::Found), (0, ReaderEvent::Lost), (0, ReaderEvent::Found)];
        assert_eq!(told(&arriving), events);
        assert!(table.left(again));
        assert_eq!(told(&arriving), [(0, ReaderEvent::Lost)]);
    }

    #[test]
    fn a_card_is_there_when_the_count_says_so() {
        let seat = |card, mute, count| Seat { card, mute, count };
        let (empty, there) = (seat(false, false, 6), seat(true, false, 5));
        for (before, count, card) in [
            // Its reset failed, when pcscd had noticed that it went, and before.
            (empty, 6, false),
            (there, 6, false),
            // It is there, and does not answer any more; or another one does not, or none ever did.
            (there, 5, true),
            (there, 7, true),
            (empty, 7, true),
        ] {
            assert_eq!(seat(true, true, count).after(before, &mut None).card, card, "{before:?}, {count}");
        }
        let counted = [there, seat(true, true, 6), empty, seat(true, true, 6), seat(true, false, 7)];
        // The removal and the insertion are shown before they are counted, then mute, then again.
        let shown_first =
            [there, seat(false, false, 5), seat(true, true, 6), empty, seat(true, false, 6), seat(true, false, 7)];
        // It was reset while it was taken out: shown as there, and not as mute.
        let reset = [there, seat(true, false, 6), seat(true, false, 6), seat(true, false, 7)];
        for looks in [&counted[..], &shown_first, &reset] {
            let (mut table, arriving) = table();
            let (desk, _jobs) = channel();
            let presence = table.appeared("pad", Some(desk), "not asked yet".to_owned());
            table.usable(presence);
            for look in looks {
                table.looked("pad", *look);
            }
            let first = [(0, ReaderEvent::Found), (0, ReaderEvent::CardIn)];
            assert_eq!(told(&arriving), [&first[..], &[(0, ReaderEvent::CardOut), (0, ReaderEvent::CardIn)]].concat());
        }
    }

    #[test]
    fn a_card_that_the_reader_does_not_have_is_none_and_the_next_one_is_told() {
        let shown = Seat { card: true, mute: true, count: 6 };
        // The desk is quicker than the watcher, or slower; or says nothing, or it of another count.
        for (before, after, ghost) in
            [(Some(6), None, false), (None, Some(6), false), (None, None, true), (Some(5), Some(7), true)]
        {
            let (mut table, arriving) = table();
            let presence = appeared(&mut table, "pad");
            let says = |table: &mut Table, count: Option<u32>| {
                if let Some(count) = count {
                    table.empty(presence, count);
                }
            };
            says(&mut table, before);
            table.looked("pad", shown);
            says(&mut table, after);
            table.usable(presence);
            // It goes on being shown.
            table.looked("pad", shown);
            table.looked("pad", Seat { card: true, mute: false, count: 7 });
            let next = if ghost { [ReaderEvent::CardIn, ReaderEvent::CardOut] } else { [ReaderEvent::CardIn; 2] };
            let told = told(&arriving);
            assert_eq!(told[..2], [(0, ReaderEvent::Found), (0, next[0])], "{before:?}, {after:?}");
            assert_eq!(told.get(2).map(|told| told.1), ghost.then_some(next[1]));
        }
    }

    #[test]
    fn a_first_look_amid_a_change_is_made_good_by_the_next_change() {
        let (mut table, arriving) = table();
        let presence = appeared(&mut table, "pad");
        table.usable(presence);
        // Its first card is shown, and not counted yet: what follows reads as a removal.
        for (card, count) in [(true, 0), (true, 1), (false, 2)] {
            table.looked("pad", Seat { card, mute: false, count });
        }
        assert_eq!(told(&arriving), [(0, ReaderEvent::Found), (0, ReaderEvent::CardIn), (0, ReaderEvent::CardOut)]);
        table.looked("pad", Seat { card: true, mute: false, count: 3 });
        table.looked("pad", Seat { card: false, mute: false, count: 4 });
        assert_eq!(told(&arriving), [(0, ReaderEvent::CardIn), (0, ReaderEvent::CardOut)]);
    }

    #[test]
    fn numbers_are_in_the_order_of_appearance_whoever_is_quicker_and_no_plain_reader_takes_one_away() {
        let (mut table, arriving) = table();
        let (desk, _jobs) = channel();
        let all: Vec<Presence> = (0..NUMBERED_MAX)
            .map(|number| table.appeared(&format!("reader {number}"), Some(desk.clone()), "not asked yet".to_owned()))
            .collect();
        table.usable(all[2]);
        table.usable(all[1]);
        assert_eq!(told(&arriving), [(2, ReaderEvent::Found), (1, ReaderEvent::Found)]);
        table.unusable(all[0], "no keypad".to_owned());
        assert_eq!(table.views()[0].number, Some(1), "what is only kept is not shown");
        let one_more = table.appeared("one more", Some(desk), "not asked yet".to_owned());
        table.usable(one_more);
        assert_eq!(told(&arriving), [(0, ReaderEvent::Found)]);
        table.usable(all[3]);
        assert_eq!(told(&arriving), [(3, ReaderEvent::Found)]);
    }

    #[test]
    fn a_ninth_reader_is_listed_with_the_reason_and_new_names_do_not_fill_the_memory() {
        let (mut table, arriving) = table();
        for number in 0..=NUMBERED_MAX {
            let presence = appeared(&mut table, &format!("pad {number}"));
            table.usable(presence);
        }
        assert_eq!(told(&arriving).len(), usize::from(NUMBERED_MAX));
        let ninth = table.views().pop().expect("nine are listed");
        assert_eq!(ninth.number, None);
        assert!(ninth.reason.expect("it says why").contains("restart"));
        for number in 0..1000 {
            let name = format!("other {number}");
            appeared(&mut table, &name);
            table.gone(&name);
        }
        assert_eq!(table.views().len(), ROWS_MAX);
        assert_eq!(table.views()[0].name, "pad 0");
    }
}
