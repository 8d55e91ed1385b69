//! The table with the card readers: what stands on it, which cards there are, and what is
//! remembered of them to judge the service by.
//!
//! A card is in a reader or in the drawer. What a card holds decides what a set can still do;
//! what the service believes of it is another matter, and `card_checkers` compares the two.
//! After a power cut the cards are where they were, without a verified PIN.

use slotwarden_core::approval::ApprovalCode;
use slotwarden_core::card::sets::{CardSet, SetSubject};
use slotwarden_core::card::{CardCall, Credential, ReaderId};
use slotwarden_core::ceremony::order::CeremonyId;
use slotwarden_core::command::{Command, CommandKind};
use slotwarden_core::effect::Ticket;
use slotwarden_core::person::PersonId;
use slotwarden_core::record::Owner;
use slotwarden_core::share::record::{HEADER_BYTES, RECORD_BYTES, ShareHeader};

use crate::cards::{Card, Manner};
use crate::code::Code;
use crate::faults::Kind;
use crate::people::Knowledge;
use crate::pin_pad::PinPad;
use crate::shares;
use crate::store::Durable;
use crate::terminal::{Terminal, Y};

/// Numbers of the answers that people at the table wait for begin here.
pub(crate) const REPLIES_FROM: u32 = 0x8000_0000;
/// Cards of one world.
pub(crate) const CARDS_MAX: usize = 30;

/// A call on its way to a reader.
#[derive(Clone, Copy)]
pub(crate) struct PendingCard {
    pub(crate) ticket: Ticket,
    pub(crate) call: CardCall,
    pub(crate) y: Option<Y>,
    pub(crate) fault: Option<Kind>,
}

/// One reader.
pub(crate) struct Place {
    pub(crate) terminal: Terminal<Card>,
    /// Whether it is plugged in.
    pub(crate) there: bool,
    pub(crate) pending: Option<PendingCard>,
    /// The card that the last call reached.
    pub(crate) serial: Option<[u8; 8]>,
    /// Tells dialogues apart.
    pub(crate) dialogue: u32,
    /// What the service heard of the tries since it took hold of the card; the inner `None`: the
    /// card did not say.
    pub(crate) tries: Option<Option<u8>>,
    /// Somebody who may agreed to a last try.
    pub(crate) agreed: bool,
    /// Whether the card will be pulled while somebody types.
    pub(crate) pulls_at_pad: bool,
}

/// What is remembered of one card.
#[derive(Clone, Copy)]
pub(crate) struct Past {
    /// PINs that people typed wrong, and commands with a PIN that the card was pulled at.
    pub(crate) wrong: u32,
    /// By credential: a change of the PIN was sent, and nobody heard how it ended.
    pub(crate) unknown: [bool; 3],
    /// The new PIN that was typed last.
    pub(crate) typed: [Code; 3],
}

/// An order that people at the table wait for.
#[derive(Clone, Copy)]
pub(crate) struct TableOrder {
    pub(crate) reply: u32,
    pub(crate) command: Command,
    /// The new code that comes with it.
    pub(crate) new: Code,
    /// The code or SO PIN that was typed with it.
    pub(crate) typed: Code,
    pub(crate) who: PersonId,
}

/// A ceremony as it is watched.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) id: CeremonyId,
    pub(crate) began_ms: u64,
    pub(crate) changes: u32,
    pub(crate) changed_ms: u64,
}

/// What happened at tables.
#[derive(Clone, Copy, Debug)]
pub struct CardCounts {
    /// Ceremonies begun, done, and ended otherwise, by their command.
    pub kinds: [[u32; 3]; CommandKind::ALL.len()],
    /// Ceremonies that were not begun.
    pub refused: u32,
    /// Calls at readers.
    pub calls: u64,
    /// Dialogues at pads.
    pub dialogues: u64,
    /// Sets of cards that were put together once more, plainly, from every quorum of theirs.
    pub quorums: u64,
    /// Transcripts replayed.
    pub replays: u64,
    /// Cards copied 1:1, compared byte by byte.
    pub copies: u64,
    /// Slots opened with cards at the end of their world.
    pub opened: u64,
    /// Worlds that had a table.
    pub worlds: u64,
}

impl Default for CardCounts {
    fn default() -> Self {
        CardCounts {
            kinds: [[0; 3]; CommandKind::ALL.len()],
            refused: 0,
            calls: 0,
            dialogues: 0,
            quorums: 0,
            replays: 0,
            copies: 0,
            opened: 0,
            worlds: 0,
        }
    }
}

impl CardCounts {
    /// Takes over the counts of another.
    pub fn add(&mut self, other: &CardCounts) {
        for (mine, theirs) in self.kinds.iter_mut().flatten().zip(other.kinds.iter().flatten()) {
            *mine += theirs;
        }
        self.refused += other.refused;
        self.calls += other.calls;
        self.dialogues += other.dialogues;
        self.quorums += other.quorums;
        self.replays += other.replays;
        self.copies += other.copies;
        self.opened += other.opened;
        self.worlds += other.worlds;
    }

    /// Ceremonies begun, of every kind.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.kinds.iter().map(|[begun, ..]| u64::from(*begun)).sum()
    }
}

/// The table.
#[derive(Default)]
pub struct Table {
    pub(crate) readers: Vec<Place>,
    pub(crate) drawer: Vec<Card>,
    pub(crate) pasts: Vec<([u8; 8], Past)>,
    pub(crate) orders: Vec<TableOrder>,
    pub(crate) next_reply: u32,
    /// When people come to the table next, milliseconds of the world.
    pub(crate) visit_ms: u64,
    /// They do what is asked, without mistakes, and begin nothing.
    pub(crate) helpful: bool,
    /// The ceremony that everybody left.
    pub(crate) left: Option<CeremonyId>,
    pub(crate) watched: Option<Watched>,
    /// When the last ceremony ended.
    pub(crate) ended_ms: u64,
    /// Serials of the cards that were read in this ceremony.
    pub(crate) read: Vec<[u8; 8]>,
    /// Shares that were read in it.
    pub(crate) read_x: Vec<u8>,
    /// PINs that were typed.
    pub(crate) pins: Vec<Code>,
    /// Backup keys that were in force.
    pub(crate) keys: Vec<[u8; 32]>,
    /// An order that waits for a second person: with which request and code, and whether
    /// somebody said that they approved it.
    pub(crate) request: Option<(TableOrder, u32, ApprovalCode, bool)>,
    /// The card that was taken out last.
    pub(crate) last: Option<[u8; 8]>,
    /// Sets that the store said are in force, and those that were being made.
    pub(crate) in_force: Vec<(SetSubject, [u8; 16])>,
    pub(crate) begun: Vec<[u8; 16]>,
    /// Records whose signature was found good.
    pub(crate) whole: Vec<[u8; RECORD_BYTES]>,
}

impl Table {
    /// A table with so many readers, and no card.
    pub(crate) fn begin(&mut self, readers: u8) {
        *self = Table::default();
        for _ in 0..readers {
            self.readers.push(Place {
                terminal: Terminal::new(PinPad::default()),
                there: true,
                pending: None,
                serial: None,
                dialogue: 0,
                tries: None,
                agreed: false,
                pulls_at_pad: false,
            });
        }
        self.visit_ms = if readers > 0 { 2_000 } else { u64::MAX };
        self.next_reply = REPLIES_FROM;
    }

    /// Whether there is a table in this world.
    #[must_use]
    pub fn is_there(&self) -> bool {
        !self.readers.is_empty()
    }

    /// Every card, wherever it is.
    pub(crate) fn cards(&self) -> impl Iterator<Item = &Card> {
        let inside = self.readers.iter().filter_map(|place| place.terminal.pad.card());
        self.drawer.iter().chain(inside)
    }

    /// What is remembered of a card.
    pub(crate) fn past(&mut self, serial: [u8; 8]) -> &mut Past {
        let place = self.pasts.iter().position(|(of, _)| *of == serial).unwrap_or(self.pasts.len());
        if place == self.pasts.len() {
            self.pasts.push((serial, Past { wrong: 0, unknown: [false; 3], typed: [Code::NONE; 3] }));
        }
        &mut self.pasts[place].1
    }

    /// The new PIN that was typed, where nobody heard whether the card took it.
    pub(crate) fn doubted(&mut self, serial: [u8; 8], credential: Credential) -> Option<Code> {
        let past = self.past(serial);
        let typed = past.typed[crate::readers::index(credential)];
        (past.unknown[crate::readers::index(credential)] && !typed.is_none()).then_some(typed)
    }

    /// The card that is in a reader.
    pub(crate) fn card_in(&mut self, reader: u8) -> Option<&mut Card> {
        self.readers.get_mut(usize::from(reader))?.terminal.pad.card_mut()
    }

    /// A reader.
    pub(crate) fn at(&mut self, reader: ReaderId) -> Option<&mut Place> {
        self.readers.get_mut(usize::from(reader.0))
    }

    /// The shares of a set that are on cards: each x once, with its header and y.
    pub(crate) fn shares_of(&self, credential: Credential, set_id: &[u8; 16]) -> Vec<(ShareHeader, Y)> {
        let mut found: Vec<(ShareHeader, Y)> = Vec::new();
        for card in self.cards().filter(|card| is_sound(card)) {
            if let Some((header, y)) = share_on(card, credential)
                && header.set_id == *set_id
                && !found.iter().any(|(known, _)| known.x == header.x)
            {
                found.push((header, y));
            }
        }
        found
    }

    /// The secret of a set, from the first cards that are enough.
    pub(crate) fn secret_of(&self, credential: Credential, set: &CardSet) -> Option<[u8; 32]> {
        let shares = self.shares_of(credential, &set.id);
        let chosen: Vec<(u8, Y)> =
            shares.iter().take(usize::from(set.quorum.m())).map(|(header, y)| (header.x, *y)).collect();
        (chosen.len() == usize::from(set.quorum.m())).then(|| shares::card_secret(&chosen))
    }

    /// Whether cards of a set that the store still knows, and what people remember, give this PIN.
    pub(crate) fn can_open(&self, pin: &Code, owner: Owner, uid: u8, durable: &Durable, people: &Knowledge) -> bool {
        if !self.is_there() || pin.is_none() {
            return false;
        }
        let users = (SetSubject::Users(owner), Credential::SlotUser, false);
        let administrators = (SetSubject::Administrators(owner), Credential::HsmAdministrator, true);
        [users, administrators].into_iter().any(|(subject, credential, so)| {
            let sets = durable.sets_of(subject);
            let known = sets.map(|sets| [sets.current, sets.next]).into_iter().flatten().flatten();
            known.into_iter().any(|set| {
                let Some(secret) = self.secret_of(credential, &set) else { return false };
                let none = [Code::NONE];
                let codes: &[Code] = if set.with_code { &people.codes } else { &none };
                codes.iter().any(|code| {
                    let names = [&[uid; 16], &set.id];
                    let made = shares::card_pin(&secret, code.bytes(), names, so, usize::from(set.pin_chars));
                    made == *pin
                })
            })
        })
    }

    /// Everything secret at this table.
    pub(crate) fn secrets(&self) -> Vec<Code> {
        let mut secrets = self.pins.clone();
        for card in self.cards() {
            for credential in Credential::ALL {
                if let Some((_, y)) = share_on(card, credential) {
                    secrets.push(Code::new(&y));
                }
            }
        }
        secrets.extend(self.keys.iter().map(|key| Code::new(key)));
        secrets
    }
}

/// Whether a card answers what it holds.
pub(crate) fn is_sound(card: &Card) -> bool {
    matches!(card.manner(), Manner::Proper | Manner::CountsEmptyVerify | Manner::Full | Manner::ManyTries)
}

/// The share in force on a card, as it stands there; whether its signature holds is asked
/// elsewhere.
pub(crate) fn share_on(card: &Card, credential: Credential) -> Option<(ShareHeader, Y)> {
    let record = card.record(credential)?;
    let header = ShareHeader::parse(&record[..HEADER_BYTES]).ok()?;
    let y = record[HEADER_BYTES..HEADER_BYTES + 32].try_into().ok()?;
    Some((header, y))
}
