//! Which token belongs to which slot.
//!
//! A token is found by label and serial (RFC 7512), never by slot number: SoftHSM renumbers
//! a slot when its token is initialised. Each slot of the module is asked once, several at
//! a time and with a bound on the wait: `C_GetTokenInfo` on an unreachable partition can
//! take minutes, and cryptoki's own list of initialised tokens asks one after the other.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::thread;
use std::time::Instant;

use cryptoki::slot::{Slot, TokenInfo};
use slotwarden_core::fault::{Function, HsmFailure};
use slotwarden_core::token::{LoginState, Presence, TokenState};

use super::module::{Module, failure};
use crate::hsm_wire::{Found, FoundFree, WantedToken, bounded};

/// Slots asked at the same time. A slot that hangs keeps one asker; 16 may hang before
/// the others are not asked.
const ASKERS_MAX: usize = 16;
/// Free tokens reported: more than any person chooses from.
const FREE_MAX: usize = 64;

/// One token as one look found it.
#[derive(Clone, Debug)]
pub(super) struct Sighting {
    pub(super) number: Slot,
    pub(super) description: String,
    pub(super) info: TokenInfo,
}

/// Looks once; returns what the daemon is told and the slot number of each wanted token.
pub(super) fn look(module: &Arc<Module>, wanted: &[WantedToken]) -> (Found, Vec<Option<Slot>>) {
    let sightings = sightings(module).unwrap_or_default();
    let free = free(&sightings);
    let mut presences = Vec::new();
    let mut places = Vec::new();
    for one in wanted {
        let (presence, place) = match matching(one, &sightings).as_slice() {
            [] => (Presence::Absent { free: !free.is_empty() }, None),
            // Two slots of ours must not share a token: each would undo what the other did.
            [only] if wanted.iter().filter(|other| matches(other, only)).count() > 1 => (Presence::Ambiguous, None),
            [only] => (Presence::Present(state(&only.info, LoginState::Public)), Some(only.number)),
            _ => (Presence::Ambiguous, None),
        };
        presences.push(presence);
        places.push(place);
    }
    (Found { presences, free, module: bounded(module.description()) }, places)
}

/// Every token that answered in time.
///
/// # Errors
/// Of `C_GetSlotList`.
pub(super) fn sightings(module: &Arc<Module>) -> Result<Vec<Sighting>, HsmFailure> {
    let slots = module.context.get_slots_with_token().map_err(|error| failure(&error, Function::GetSlotList))?;
    let count = slots.len();
    let queue = Arc::new(Mutex::new(slots.into_iter()));
    let (answers, answered) = mpsc::channel();
    for _ in 0..count.min(ASKERS_MAX) {
        let (queue, answers, module) = (Arc::clone(&queue), answers.clone(), Arc::clone(module));
        let asker = thread::Builder::new().name("look".into()).spawn(move || {
            loop {
                let Some(number) = queue.lock().unwrap_or_else(PoisonError::into_inner).next() else { return };
                if answers.send(ask(&module, number)).is_err() {
                    return;
                }
            }
        });
        // Without a thread the look is slower or finds less; it never waits for one.
        drop(asker);
    }
    drop(answers);
    let until = Instant::now() + module.look_wait;
    let mut sightings = Vec::new();
    for _ in 0..count {
        match answered.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(sighting) => sightings.extend(sighting),
            Err(_) => {
                module.look_hangs.store(true, Ordering::SeqCst);
                break;
            }
        }
    }
    sightings.sort_by_key(|sighting| sighting.number.id());
    Ok(sightings)
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
        pin_chars_max: u16::try_from(info.max_pin_length()).unwrap_or(u16::MAX),
        login,
    }
}

fn ask(module: &Module, number: Slot) -> Option<Sighting> {
    let info = module.context.get_token_info(number).ok()?;
    let description = module.context.get_slot_info(number).map(|slot| unpadded(slot.slot_description()).to_owned());
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
