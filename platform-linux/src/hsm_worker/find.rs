//! Which token belongs to which slot.
//!
//! A token is found by label and serial (RFC 7512), never by slot number: SoftHSM renumbers
//! a slot when its token is initialised. Each slot of the module is asked once, by whoever
//! makes calls ([`super::callers`]) and with a bound on the wait: `C_GetTokenInfo` on an
//! unreachable partition can take minutes, and cryptoki's own list of initialised tokens
//! asks one after the other, as slowly as the module is.
//!
//! The first look reports what it has as soon as nothing more comes for a moment, and the
//! rest as it comes. A token that answers late and shows that two are meant makes its slot
//! ambiguous then; no try is lost by that, since a slot opens by itself only the token whose
//! serial number it knows.

use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use cryptoki::slot::{Slot, TokenInfo};
use slotwarden_core::effect::SlotId;
use slotwarden_core::fault::{Function, HsmFailure};
use slotwarden_core::token::{LoginState, Presence, TokenState};

use super::Replies;
use super::desk::Desk;
use super::module::{Module, failure};
use crate::hsm_wire::{Found, FoundFree, Report, WantedToken, bounded};

/// When no slot answered for so long, those that did are reported: shorter than a slow call,
/// longer than a local one, so that a local module's slots come all at once.
const LULL: Duration = Duration::from_millis(3);
/// Free tokens reported: more than any person chooses from.
const FREE_MAX: usize = 64;

/// One token as one look found it.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) number: Slot,
    pub(super) description: String,
    pub(super) info: TokenInfo,
}

/// A look at every slot of the module, under way.
pub(super) struct Look {
    module: Arc<Module>,
    answers: mpsc::Receiver<Option<Sighting>>,
    /// Slots that have not answered.
    missing: usize,
    until: Instant,
    sightings: Vec<Sighting>,
}

/// What a slot's token is, and where; `None` as long as a slot that has not answered may
/// hold it.
pub(super) type Seen = (Option<Presence>, Option<Slot>);

impl Look {
    /// Has every slot asked.
    ///
    /// # Errors
    /// Of `C_GetSlotList`.
    pub(super) fn begin(module: &Arc<Module>) -> Result<Self, HsmFailure> {
        let slots = module.call(|module| module.get_slots_with_token());
        let slots = slots.map_err(|error| failure(&error, Function::GetSlotList))?;
        let (answer, answers) = mpsc::channel();
        let missing = slots.len();
        for number in slots {
            let (answer, asked) = (answer.clone(), Arc::clone(module));
            module.callers.ask(move || {
                // A look that waits no longer hears it no more.
                let _ = answer.send(ask(&asked, number));
            });
        }
        let until = Instant::now() + module.look_wait;
        Ok(Look { module: Arc::clone(module), answers, missing, until, sightings: Vec::new() })
    }

    /// A look that found nothing.
    fn nothing(module: &Arc<Module>) -> Self {
        let (_, answers) = mpsc::channel();
        Look { module: Arc::clone(module), answers, missing: 0, until: Instant::now(), sightings: Vec::new() }
    }

    /// Waits until every slot answered or the time for a look is over.
    fn hear_all(&mut self) {
        while self.missing > 0 && self.hear(self.until) {}
    }

    /// Waits for the answer of one more slot; false when none came.
    fn hear(&mut self, until: Instant) -> bool {
        match self.answers.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(sighting) => {
                self.missing -= 1;
                self.sightings.extend(sighting);
                self.sightings.sort_by_key(|sighting| sighting.number.id());
                true
            }
            Err(_) => false,
        }
    }

    /// What was found so far of the tokens that are `wanted`.
    fn seen(&self, wanted: &[WantedToken], over: bool) -> Vec<Seen> {
        let free = !free(&self.sightings).is_empty();
        let one = |one: &WantedToken| match matching(one, &self.sightings).as_slice() {
            [] if self.missing > 0 && !over => (None, None),
            [] => (Some(Presence::Absent { free }), None),
            // Two slots of ours must not share a token: each would undo what the other did.
            [only] if wanted.iter().filter(|other| matches(other, only)).count() > 1 => {
                (Some(Presence::Ambiguous), None)
            }
            [only] => (Some(Presence::Present(state(&only.info, LoginState::Public))), Some(only.number)),
            _ => (Some(Presence::Ambiguous), None),
        };
        wanted.iter().map(one).collect()
    }

    fn found(&self, seen: &[Seen]) -> Found {
        Found {
            presences: seen.iter().map(|(presence, _)| *presence).collect(),
            free: free(&self.sightings),
            module: bounded(self.module.description()),
        }
    }

    /// Goes on after the first report, until every slot has answered, however late.
    pub(super) fn go_on(mut self, wanted: &[WantedToken], mut told: Vec<Seen>, desks: &[Arc<Desk>], replies: &Replies) {
        let mut over = false;
        while self.missing > 0 {
            let heard = self.hear(if over { Instant::now() + self.module.look_wait } else { self.until });
            if !heard && over {
                continue;
            }
            over |= !heard;
            let seen = self.seen(wanted, over);
            if over || self.missing == 0 {
                replies.report(SlotId(0), 0, &Report::Free(free(&self.sightings)));
            }
            for ((before, (presence, place)), desk) in told.iter().zip(&seen).zip(desks) {
                if let Some(presence) = *presence
                    && before.0 != Some(presence)
                {
                    desk.found(presence, *place);
                }
            }
            told = seen;
        }
        self.module.look_hangs.store(false, Ordering::SeqCst);
    }
}

/// Looks once and waits for every slot, as long as a look may take.
pub(super) fn look(module: &Arc<Module>, wanted: &[WantedToken]) -> Found {
    let mut look = Look::begin(module).unwrap_or_else(|_| Look::nothing(module));
    look.hear_all();
    if look.missing > 0 {
        module.look_hangs.store(true, Ordering::SeqCst);
    }
    look.found(&look.seen(wanted, true))
}

/// The first look of a worker that serves: what it found until nothing came for a moment.
pub(super) fn first_look(module: &Arc<Module>, wanted: &[WantedToken]) -> (Look, Found, Vec<Seen>) {
    let mut look = Look::begin(module).unwrap_or_else(|_| Look::nothing(module));
    while look.missing > 0 {
        // Nobody needs a report of nothing.
        let until = if look.sightings.is_empty() { look.until } else { look.until.min(Instant::now() + LULL) };
        if !look.hear(until) {
            module.look_hangs.store(true, Ordering::SeqCst);
            break;
        }
    }
    let seen = look.seen(wanted, false);
    let found = look.found(&seen);
    (look, found, seen)
}

/// Every token that answered in time.
///
/// # Errors
/// Of `C_GetSlotList`.
pub(super) fn sightings(module: &Arc<Module>) -> Result<Vec<Sighting>, HsmFailure> {
    let mut look = Look::begin(module)?;
    module.callers.aside(|| look.hear_all());
    if look.missing > 0 {
        module.look_hangs.store(true, Ordering::SeqCst);
    }
    Ok(look.sightings)
}

/// The initialised tokens that `wanted` means.
pub(super) fn matching<'a>(wanted: &WantedToken, sightings: &'a [Sighting]) -> Vec<&'a Sighting> {
    sightings.iter().filter(|sighting| matches(wanted, sighting)).collect()
}

/// The tokens that nobody has initialised.
pub(super) fn free(sightings: &[Sighting]) -> Vec<FoundFree> {
    let free = sightings.iter().filter(|sighting| !sighting.info.token_initialized());
    free.take(FREE_MAX)
        .map(|sighting| FoundFree {
            slot_number: sighting.number.id(),
            description: bounded(sighting.description.clone()),
        })
        .collect()
}

/// What the core wants to know of a token.
pub(super) fn state(info: &TokenInfo, login: LoginState) -> TokenState {
    let mut serial = [b' '; 16];
    for (to, from) in serial.iter_mut().zip(info.serial_number().bytes()) {
        *to = from;
    }
    TokenState {
        serial,
        initialised: info.token_initialized(),
        user_pin: info.user_pin_initialized(),
        count_low: info.user_pin_count_low(),
        final_try: info.user_pin_final_try(),
        locked: info.user_pin_locked(),
        so_count_low: info.so_pin_count_low(),
        so_final_try: info.so_pin_final_try(),
        so_locked: info.so_pin_locked(),
        pin_chars_max: u16::try_from(info.max_pin_length()).unwrap_or(u16::MAX),
        login,
    }
}

fn ask(module: &Module, number: Slot) -> Option<Sighting> {
    let info = module.call(|module| module.get_token_info(number)).ok()?;
    // Only who chooses between free tokens reads what their slots are called.
    let described = !info.token_initialized();
    let slot = described.then(|| module.call(|module| module.get_slot_info(number)));
    let description = slot.and_then(Result::ok).map(|slot| unpadded(slot.slot_description()).to_owned());
    Some(Sighting { number, description: description.unwrap_or_default(), info })
}

fn matches(wanted: &WantedToken, sighting: &Sighting) -> bool {
    let same =
        |wanted: &Option<String>, has: &str| wanted.as_deref().is_none_or(|text| unpadded(text) == unpadded(has));
    let named = wanted.label.is_some() || wanted.serial.is_some();
    named
        && sighting.info.token_initialized()
        && same(&wanted.label, sighting.info.label())
        && same(&wanted.serial, sighting.info.serial_number())
}

/// Without the padding: blanks by the standard, NUL by some modules.
pub(super) fn unpadded(text: &str) -> &str {
    text.trim_end_matches([' ', '\0'])
}
