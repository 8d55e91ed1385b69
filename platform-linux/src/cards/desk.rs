//! The desk of one reader: a thread that asks what the reader can do, then makes the calls
//! there, one after another, until the reader is gone.
//!
//! `Hold` connects exclusively and begins a transaction (`SCardConnect(3)`,
//! `SCardBeginTransaction(3)`); until `Release` every call is one `SCardTransmit` or one
//! `SCardControl`. Nothing is sent twice, and nothing is connected again on its own: whoever
//! lost the card has to hold it anew. However a hold ends, a card that is there is reset.

use std::ffi::CString;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use pcsc::{Attribute, Card, Context, Disposition, Error, Protocols, ReaderState, Scope, ShareMode, State, ctl_code};
use slotwarden_core::SecretId;
use slotwarden_core::card::apdu::{self, Apdu, Dialogue, PinTemplate, RESPONSE_BYTES_MAX};
use slotwarden_core::card::{CardAnswer, CardCall, CardFailure, ProfileId, RecordPlace, StatusWord};
use slotwarden_core::effect::Ticket;
use slotwarden_core::share::record::{self, RECORD_BYTES, ShareHeader, SignedHeader};
use zeroize::Zeroizing;

use super::pad::{self, Features, Quirks};
use super::table::{Presence, Table};
use super::watcher::Alarm;
use super::{Job, lock};
use crate::config::CardsSettings;
use crate::devices::{Event, Events};

/// When a reader that could not be asked is asked again, if nothing changed there before.
const ASK_AGAIN: Duration = Duration::from_secs(5);
/// How soon pcscd notices that a card is gone, with a margin: where a driver does not tell it,
/// it looks every 400 ms (`PCSCLITE_STATUS_POLL_RATE` of pcsc-lite).
const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// What a pad says of a PIN that is too short or too long (part 10, §2.5.2): the answer here
/// where a pad cannot take any PIN of such a card. The card was not asked.
const PIN_LENGTH: StatusWord = StatusWord(0x6403);

/// One reader from its appearance to its end.
pub(super) struct Desk {
    pub(super) name: String,
    /// The name as PC/SC has it.
    pub(super) handle: CString,
    pub(super) presence: Presence,
    pub(super) settings: Arc<CardsSettings>,
    pub(super) table: Arc<Mutex<Table>>,
    pub(super) events: Events,
    pub(super) alarm: Alarm,
}

/// A reader that can be used.
struct Pad {
    context: Context,
    features: Features,
    quirks: Quirks,
}

/// What a call came to, and y where it read a good record.
type Answered = (Result<CardAnswer, CardFailure>, Option<(SecretId, Zeroizing<[u8; 32]>)>);

/// How a hold ends.
enum Ended {
    /// By its order.
    Released(Ticket),
    /// By another order to hold.
    HeldAnew(Job),
    /// The card is gone; whoever called knows it.
    CardGone,
    /// The reader is gone, or nothing was held; whoever called knows it.
    Lost,
    /// No more calls will come.
    Closed,
}

impl Desk {
    pub(super) fn run(self, arriving: &Receiver<Job>) {
        let Some(pad) = self.ask(arriving) else { return };
        lock(&self.table).usable(self.presence);
        let mut next = arriving.recv().ok();
        while let Some(job) = next {
            next = match job {
                Job::LookAgain => None,
                Job::Call { ticket, call: CardCall::Hold, .. } => self.hold(&pad, ticket, arriving),
                Job::Call { ticket, call: CardCall::Release, .. } => {
                    self.answer(ticket, (Ok(CardAnswer::Released), None));
                    None
                }
                Job::Call { ticket, .. } => {
                    self.answer(ticket, (Err(CardFailure::CardGone), None));
                    None
                }
            }
            .or_else(|| arriving.recv().ok());
        }
    }

    /// What the reader can do; `None`: it is not used.
    fn ask(&self, arriving: &Receiver<Job>) -> Option<Pad> {
        loop {
            match self.ask_once() {
                Ok(Some(pad)) => return Some(pad),
                Ok(None) => {
                    lock(&self.table).unusable(self.presence, "no keypad with secure PIN entry".to_owned());
                    return None;
                }
                Err(error) => {
                    let reason = format!("it could not be asked what it can do: {error}");
                    lock(&self.table).unusable(self.presence, reason);
                }
            }
            if let Err(RecvTimeoutError::Disconnected) = arriving.recv_timeout(ASK_AGAIN) {
                return None;
            }
        }
    }

    /// Asks without touching a card: a direct connection needs none (`SCardConnect(3)`).
    fn ask_once(&self) -> Result<Option<Pad>, Error> {
        let context = Context::establish(Scope::System)?;
        let reader = context.connect(&self.handle, ShareMode::Direct, Protocols::UNDEFINED)?;
        let asked = self.features(&reader);
        if let Some(count) = self.seen_empty(&context, &reader) {
            lock(&self.table).empty(self.presence, count);
        }
        // Whatever card is in it has nothing to do with us.
        let _ = reader.disconnect(Disposition::LeaveCard);
        Ok(asked?.map(|(features, quirks)| Pad { context, features, quirks }))
    }

    /// pcscd's count of insertions and removals while it shows a card that the reader says it does not
    /// have, and goes on to: a reset that failed after the card went leaves one. `None`: it is right,
    /// or the reader does not answer that.
    fn seen_empty(&self, context: &Context, reader: &Card) -> Option<u32> {
        let mut state = [ReaderState::new(self.handle.clone(), State::UNAWARE)];
        context.get_status_change(Duration::ZERO, &mut state).ok()?;
        loop {
            let count = state[0].event_count();
            if !state[0].event_state().contains(State::PRESENT) || self.has_card(reader)? {
                return None;
            }
            // A card that was just taken out is told meanwhile.
            state[0].sync_current_state();
            match context.get_status_change(NOTICED_WITHIN, &mut state) {
                Ok(()) => {}
                Err(Error::Timeout) => return Some(count),
                Err(_) => return None,
            }
        }
    }

    /// Whether the reader itself says that a card is in it (`SCARD_ATTR_ICC_PRESENCE`, one byte; part 3
    /// of the PC/SC specification).
    fn has_card(&self, reader: &Card) -> Option<bool> {
        match reader.get_attribute(Attribute::IccPresence, &mut [0; 1]) {
            Ok([presence]) => Some(*presence != 0),
            Ok(_) | Err(_) => None,
        }
    }

    fn features(&self, reader: &Card) -> Result<Option<(Features, Quirks)>, Error> {
        let mut answer = [0; pad::ABOUT_BYTES_MAX];
        let answer = match reader.control(ctl_code(pad::GET_FEATURE_REQUEST.into()), &[], &mut answer) {
            Ok(answer) => answer,
            // What drivers say that do not know the question.
            Err(Error::UnsupportedFeature | Error::NotTransacted | Error::InvalidParameter | Error::InvalidValue) => {
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let Some(features) = Features::read(answer) else { return Ok(None) };
        let mut about = [0; pad::ABOUT_BYTES_MAX];
        let said = features.properties.and_then(|code| {
            // A pad that does not answer says nothing about itself.
            reader.control(code.into(), &[], &mut about).ok().and_then(pad::digits_said)
        });
        Ok(Some((features, Quirks::of(&self.settings, &self.name, said))))
    }

    /// Holds the card until its release; what is to be done next, if that is known already.
    fn hold(&self, pad: &Pad, ticket: Ticket, arriving: &Receiver<Job>) -> Option<Job> {
        let mut card = match pad.context.connect(&self.handle, ShareMode::Exclusive, Protocols::ANY) {
            Ok(card) => card,
            Err(error) => {
                self.fail(ticket, failure(error));
                return None;
            }
        };
        let ended = match card.transaction() {
            Ok(held) => {
                self.answer(ticket, (Ok(CardAnswer::Held), None));
                self.calls(pad, &held, arriving)
            }
            Err(error) => {
                self.fail(ticket, failure(error));
                Ended::Lost
            }
        };
        // pcscd takes a reader whose card it cannot reset for one with a card: where the card is gone
        // there is nothing to reset. A connection that is gone is ended too, and says so.
        let disposition = match ended {
            Ended::CardGone => Disposition::LeaveCard,
            Ended::Released(_) | Ended::HeldAnew(_) | Ended::Lost | Ended::Closed => Disposition::ResetCard,
        };
        let _ = card.disconnect(disposition);
        match ended {
            Ended::Released(ticket) => {
                self.answer(ticket, (Ok(CardAnswer::Released), None));
                None
            }
            Ended::HeldAnew(job) => Some(job),
            Ended::CardGone | Ended::Lost | Ended::Closed => None,
        }
    }

    fn calls(&self, pad: &Pad, card: &Card, arriving: &Receiver<Job>) -> Ended {
        while let Ok(job) = arriving.recv() {
            let (ticket, call, y) = match job {
                Job::LookAgain => continue,
                Job::Call { ticket, call: CardCall::Release, .. } => return Ended::Released(ticket),
                Job::Call { call: CardCall::Hold, .. } => return Ended::HeldAnew(job),
                Job::Call { ticket, call, y } => (ticket, call, y),
            };
            let answered = self.call(pad, card, &call, y);
            match answered.0 {
                Err(CardFailure::CardGone) => {
                    self.answer(ticket, answered);
                    return Ended::CardGone;
                }
                Err(CardFailure::ReaderGone) => {
                    self.fail(ticket, CardFailure::ReaderGone);
                    return Ended::Lost;
                }
                Ok(_) | Err(CardFailure::InUse | CardFailure::Transport | CardFailure::Garbage) => {
                    self.answer(ticket, answered);
                }
            }
        }
        Ended::Closed
    }

    /// One call at a card that is held.
    fn call(&self, pad: &Pad, card: &Card, call: &CardCall, y: Option<Box<Zeroizing<[u8; 32]>>>) -> Answered {
        // A record may come back, and with it y.
        let mut response = Zeroizing::new([0; RESPONSE_BYTES_MAX]);
        let came = if let Some(template) = apdu::pin_template(call) {
            let (code, block) = dialogue(pad, &template);
            let Some(block) = block else {
                let text = format!("the reader {} takes no PIN as long as such a card has one", self.name);
                let _ = self.events.send(Event::Note(text));
                return (Ok(CardAnswer::Pin { status: PIN_LENGTH }), None);
            };
            card.control(code.into(), &block, &mut *response)
        } else {
            let command;
            let mut written = Apdu::empty();
            let made = match call {
                CardCall::Write { profile, place, record, .. } => {
                    write(*profile, *place, record, y, &mut written).then_some(&written)
                }
                CardCall::Hold
                | CardCall::Select { .. }
                | CardCall::Tries { .. }
                | CardCall::Verify { .. }
                | CardCall::ChangePin { .. }
                | CardCall::Read { .. }
                | CardCall::Point { .. }
                | CardCall::Erase { .. }
                | CardCall::Release => {
                    command = apdu::command(call);
                    command.as_ref()
                }
            };
            // No such place on such a card, or y was given up: there is nothing to send.
            let Some(made) = made else { return (Err(CardFailure::Garbage), None) };
            card.transmit(made.bytes(), &mut *response)
        };
        match came {
            Ok(came) => read(call, came),
            Err(error) => (Err(self.failure_at(pad, card, error)), None),
        }
    }

    /// Why a call at a card that was held has no answer. When the card was pulled in the middle,
    /// drivers say only that nothing was transacted; pcscd knows, once it has looked again.
    fn failure_at(&self, pad: &Pad, card: &Card, error: Error) -> CardFailure {
        let until = Instant::now() + NOTICED_WITHIN;
        let mut state = [ReaderState::new(self.handle.clone(), State::UNAWARE)];
        let failed = failure(error);
        if failed != CardFailure::Transport {
            return failed;
        }
        loop {
            match card.status2_len() {
                Ok(_) => {}
                // The connection to pcscd itself is broken.
                Err(Error::CommError | Error::InternalError) => return CardFailure::ReaderGone,
                Err(error) => return failure(error),
            }
            let left = until.saturating_duration_since(Instant::now());
            // The first time it returns at once with what is known.
            if left.is_zero() || pad.context.get_status_change(left, &mut state).is_err() {
                return failed;
            }
            state[0].sync_current_state();
        }
    }

    /// A failure, and what follows from it for the reader.
    fn fail(&self, ticket: Ticket, failure: CardFailure) {
        self.answer(ticket, (Err(failure), None));
        if failure == CardFailure::ReaderGone && lock(&self.table).left(self.presence) {
            // It may be there again already.
            self.alarm.ring();
        }
    }

    /// A loop that ended needs no answer.
    fn answer(&self, ticket: Ticket, (result, y): Answered) {
        let _ = self.events.send(Event::Card { ticket, result, y });
    }
}

/// How a dialogue is begun at this pad: the control code and what goes with it.
fn dialogue(pad: &Pad, template: &PinTemplate) -> (u32, Option<Vec<u8>>) {
    match template.dialogue() {
        Dialogue::Verify => (pad.features.verify, pad::verify_block(template, pad.quirks)),
        Dialogue::Modify => (pad.features.modify, pad::modify_block(template, pad.quirks)),
    }
}

/// Puts a record and its y into `sent`; false: there is no such place on such a card, or no y.
fn write(
    profile: ProfileId,
    place: RecordPlace,
    record: &SignedHeader,
    y: Option<Box<Zeroizing<[u8; 32]>>>,
    sent: &mut Apdu,
) -> bool {
    let Some(y) = y else { return false };
    let mut bytes = Zeroizing::new([0; RECORD_BYTES]);
    record::write(record, &y, &mut bytes);
    apdu::write(profile, place, &bytes, sent)
}

/// What the card's answer says; of a good record y is kept.
fn read(call: &CardCall, response: &[u8]) -> Answered {
    let mut found = Zeroizing::new([0; 32]);
    let check = |bytes: &[u8]| record::check(bytes, &mut found);
    let answer = apdu::parse(call, response, &|bytes| ShareHeader::parse(bytes).ok(), check);
    let y = match (&answer, call) {
        (Ok(CardAnswer::Read { record: Ok(_), .. }), CardCall::Read { y, .. }) => Some((*y, found)),
        _ => None,
    };
    (answer, y)
}

fn failure(error: Error) -> CardFailure {
    match error {
        Error::RemovedCard | Error::NoSmartcard | Error::ResetCard => CardFailure::CardGone,
        Error::SharingViolation => CardFailure::InUse,
        // A handle that is not known any more belongs to a pcscd that was started anew.
        Error::ReaderUnavailable
        | Error::UnknownReader
        | Error::NoService
        | Error::ServiceStopped
        | Error::InvalidHandle
        | Error::NoReadersAvailable => CardFailure::ReaderGone,
        // Longer than any answer to a short command; or no answer to the reset at all.
        Error::InsufficientBuffer
        | Error::UnresponsiveCard
        | Error::UnpoweredCard
        | Error::UnsupportedCard
        | Error::ProtoMismatch
        | Error::InvalidAtr => CardFailure::Garbage,
        _ => CardFailure::Transport,
    }
}
