//! The table before the appliance: one PIN pad, and cards with names beside it.
//!
//! Cards lie there as they were made, on their transport PIN; what is written to them stays
//! as long as the simulator runs, through power cuts too. The pad waits for what is typed at
//! the simulator, and ends its dialogue by itself like any other.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use slotwarden::devices::{Cards, Event, Events, Lend, ReaderView};
use slotwarden_core::card::{CardCall, ReaderEvent, ReaderId};
use slotwarden_core::effect::{Input, Ticket};
use slotwarden_core::safe::SecretId;
use zeroize::Zeroizing;

use crate::cards::Card;
use crate::code::Code;
use crate::pin_pad::{Entry, PinPad};
use crate::terminal::{Performed, Terminal, Y};

/// The cards; the place is the first byte of the serial.
pub(super) const CARDS: [&str; 5] = ["alice", "bob", "carol", "dave", "spare"];
/// The one reader.
const READER: ReaderId = ReaderId(0);

/// The table, shared by what a person types and the daemon's loop.
#[derive(Clone)]
pub(super) struct Table(Arc<Mutex<State>>);

struct State {
    terminal: Terminal<Card>,
    /// Cards beside the pad; the one that is in it is not here.
    beside: [Option<Card>; CARDS.len()],
    inserted: Option<usize>,
    /// The call whose dialogue waits, and where y goes that is read.
    waits: Option<Ticket>,
    /// Rises with each dialogue, so that a late time-out ends no other one.
    dialogues: u32,
    events: Option<Events>,
}

impl Table {
    /// A pad and blank cards.
    pub(super) fn new() -> Self {
        let beside = std::array::from_fn(|number| Some(Card::new([u8::try_from(number).unwrap_or(0) + 1; 8])));
        let terminal = Terminal::new(PinPad::default());
        Table(Arc::new(Mutex::new(State { terminal, beside, inserted: None, waits: None, dialogues: 0, events: None })))
    }

    /// The readers of a daemon that starts; those of one before it are gone.
    pub(super) fn readers(&self, events: Events) -> Box<dyn Cards + Send> {
        let mut state = self.state();
        state.terminal.pad.power_off();
        state.terminal.pad.forget();
        state.waits = None;
        state.events = Some(events);
        state.tell(ReaderEvent::Found);
        if state.inserted.is_some() {
            state.tell(ReaderEvent::CardIn);
        }
        drop(state);
        Box::new(SimCards(self.clone()))
    }

    /// Somebody puts a card into the reader; the one that was in comes out.
    pub(super) fn insert(&self, card: u8) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.inserted.is_some() {
            return Err("a card is in the reader: `card out` first");
        }
        let number = usize::from(card);
        let taken = state.beside[number].take().ok_or("it is not here")?;
        state.inserted = Some(number);
        state.terminal.pad.insert(taken);
        state.tell(ReaderEvent::CardIn);
        Ok(())
    }

    /// Somebody takes the card out.
    pub(super) fn remove(&self) -> Result<(), &'static str> {
        let mut state = self.state();
        let number = state.inserted.take().ok_or("no card is in the reader")?;
        state.beside[number] = state.terminal.pad.remove();
        if state.terminal.asking().is_some() {
            let performed = state.terminal.go_on();
            self.performed(&mut state, performed);
        }
        state.tell(ReaderEvent::CardOut);
        Ok(())
    }

    /// Somebody types PINs on the pad, or presses cancel.
    pub(super) fn at_pad(&self, entries: impl Iterator<Item = Entry>) -> Result<(), &'static str> {
        let mut state = self.state();
        if state.terminal.asking().is_none() {
            return Err("the pad asks for nothing");
        }
        entries.for_each(|entry| state.terminal.pad.expect(entry));
        let performed = state.terminal.go_on();
        self.performed(&mut state, performed);
        Ok(())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A call ended, or waits for somebody until the pad gives up.
    fn performed(&self, state: &mut State, performed: Performed) {
        match performed {
            Performed::Ended(result, y) => {
                if let (Some(ticket), Some(events)) = (state.waits.take(), &state.events) {
                    let y = y.zip(state.terminal.y_into()).map(|(y, id): (Y, SecretId)| (id, Zeroizing::new(y)));
                    // A loop that has ended hears nothing any more.
                    let _ = events.send(Event::Card { ticket, result, y });
                }
            }
            Performed::Waits { timeout_ms } => {
                state.dialogues += 1;
                let (table, dialogue) = (self.clone(), state.dialogues);
                thread::spawn(move || {
                    thread::sleep(Duration::from_millis(timeout_ms.into()));
                    table.time_out(dialogue);
                });
            }
            // Nobody hesitates who types here.
            Performed::Hesitates(_) => {}
        }
    }

    fn time_out(&self, dialogue: u32) {
        let mut state = self.state();
        if state.dialogues == dialogue && state.terminal.asking().is_some() {
            let performed = state.terminal.time_out();
            self.performed(&mut state, performed);
        }
    }
}

impl State {
    fn tell(&self, event: ReaderEvent) {
        if let Some(events) = &self.events {
            let _ = events.send(Event::Input(Input::Reader { reader: READER, event }));
        }
    }
}

/// The daemon's side of the table.
struct SimCards(Table);

impl Cards for SimCards {
    fn perform(&mut self, ticket: Ticket, _reader: ReaderId, call: CardCall, secrets: &dyn Lend) {
        let mut y: Zeroizing<Y> = Zeroizing::default();
        if let CardCall::Write { y: id, .. } = call {
            secrets.lend(id, &mut |bytes| y.iter_mut().zip(bytes).for_each(|(to, from)| *to = *from));
        }
        let mut state = self.0.state();
        state.waits = Some(ticket);
        let performed = state.terminal.perform(&call, Some(&y));
        self.0.performed(&mut state, performed);
    }

    fn readers(&self) -> Vec<ReaderView> {
        let card = self.0.state().inserted.is_some();
        vec![ReaderView { number: Some(READER.0), name: "Simulated Pad".into(), present: true, card, reason: None }]
    }
}

/// PINs as somebody types them.
pub(super) fn typed(pins: &[Code]) -> impl Iterator<Item = Entry> {
    pins.iter().map(|pin| Entry::Types(*pin))
}
