//! The one operation that can erase: a token's first user PIN.
//!
//! Everything is looked at before anything is changed: a token with a user PIN or with
//! objects is refused, and so is a choice between several free tokens. An interrupted
//! initialisation leaves a token with our label and without a user PIN; the next one
//! takes that and erases nothing. Slot numbers change on the way (SoftHSM), so the token
//! is looked for again by its label.
//!
//! Once `C_InitPIN` said yes the token has its new PIN. Whatever fails after that is
//! answered as an unknown outcome, never as a call that was not made: the core would
//! erase the code that now rules.

use std::sync::PoisonError;
use std::thread;
use std::time::Duration;

use cryptoki::object::{Attribute, AttributeType, ObjectClass};
use cryptoki::session::{Session, UserType};
use cryptoki::slot::Slot;
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::token::{LoginState, TokenState};

use super::find::{self, Sighting};
use super::lock::Rewrites;
use super::module::{code, failure};
use super::token::{Call, Kept, Token, login_state, pin};
use crate::hsm_wire::Report;

/// `CK_TOKEN_INFO.label`, bytes. A longer label would be cut and never found again.
const LABEL_BYTES: usize = 32;
/// How often the token is asked for its state after `C_InitPIN`.
pub(super) const READS_MAX: u32 = 3;
/// Between two of these.
pub(super) const READ_INTERVAL: Duration = Duration::from_millis(200);

impl Token {
    /// Gives the slot's token its first user PIN; makes the token first where none is there.
    pub(super) fn initialise(
        &mut self,
        session: &mut Kept,
        call: &mut Call,
        free_slot: Option<u64>,
    ) -> Result<TokenState, HsmFailure> {
        let so_pin = pin(call, 0, Function::InitToken)?;
        let new = pin(call, 1, Function::InitPin)?;
        let module = self.module.clone();
        let _one_at_a_time =
            module.callers.aside(|| module.initialising.lock().unwrap_or_else(PoisonError::into_inner));
        let sightings = find::sightings(&module)?;
        let place = match find::matching(&self.wanted, &sightings).as_slice() {
            [only] => {
                self.refuse_in_use(only, session)?;
                only.number
            }
            [] => {
                let free = self.free_token(&sightings, free_slot)?;
                self.refuse_in_use(&free, session)?;
                let label = self.wanted.label.clone().filter(|label| label.len() <= LABEL_BYTES);
                let unnameable = HsmFailure::Pkcs11 { code: rv::ARGUMENTS_BAD, function: Function::InitToken };
                let label = label.ok_or(unnameable)?;
                *session = None;
                {
                    let _marked = module.marked(Rewrites::Pin);
                    let made = module.call(|module| module.init_token(free.number, &so_pin, &label));
                    made.map_err(|error| failure(&error, Function::InitToken))?;
                }
                self.made_token()?
            }
            _ => return Err(HsmFailure::Refused(Refusal::SlotAmbiguous)),
        };
        if self.place != Some(place) {
            *session = None;
            self.place = Some(place);
        }
        let (open, state) = self.open(session)?;
        if login_state(state) != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        {
            let _marked = module.marked(Rewrites::Flags);
            let made = module.call(|_| open.login(UserType::So, Some(&so_pin)));
            made.map_err(|error| failure(&error, Function::Login))?;
        }
        let set = {
            let _marked = module.marked(Rewrites::Pin);
            module.call(|_| open.init_pin(&new)).map_err(|error| failure(&error, Function::InitPin))
        };
        if let Err(failed) = set {
            // The core hears why; a session that cannot log out is closed, which logs out too.
            if self.logged_out(open).is_err() {
                *session = None;
            }
            return Err(failed);
        }
        let state = self.state_after_init_pin(session, place).map_err(outcome_unknown)?;
        if let Ok(sightings) = find::sightings(&module) {
            self.replies.report(self.slot, 0, &Report::Free(find::free(&sightings)));
        }
        Ok(state)
    }

    /// Ends the security officer's login and reads the flags: all that is left to do.
    fn state_after_init_pin(&self, session: &mut Kept, place: Slot) -> Result<TokenState, HsmFailure> {
        let out = self.open(session).and_then(|(open, _)| self.logged_out(open));
        if out.is_err() {
            // Closing the last session logs out where C_Logout does not.
            *session = None;
            let (_, state) = self.open(session)?;
            if login_state(state) != LoginState::Public {
                *session = None;
                return Err(HsmFailure::AlreadyLoggedIn);
            }
        }
        let mut reads = 1;
        loop {
            match self.module.call(|module| module.get_token_info(place)) {
                Ok(info) => return Ok(find::state(&info, LoginState::Public)),
                Err(error) if reads >= READS_MAX => return Err(failure(&error, Function::GetTokenInfo)),
                Err(_) => {
                    reads += 1;
                    thread::sleep(READ_INTERVAL);
                }
            }
        }
    }

    /// The free token to take.
    fn free_token(&self, sightings: &[Sighting], free_slot: Option<u64>) -> Result<Sighting, HsmFailure> {
        let serial = self.wanted.serial.as_deref();
        let fits = |sighting: &&Sighting| {
            let has = find::unpadded(sighting.info.serial_number());
            !sighting.info.token_initialized() && serial.is_none_or(|serial| find::unpadded(serial) == has)
        };
        if let Some(number) = free_slot {
            return match sightings.iter().find(|sighting| sighting.number.id() == number) {
                None => Err(HsmFailure::Refused(Refusal::NoFreeToken)),
                Some(named) if !named.info.token_initialized() => Ok(named.clone()),
                Some(_) => Err(HsmFailure::Refused(Refusal::SlotHasToken)),
            };
        }
        let mut free = sightings.iter().filter(fits);
        match (free.next(), free.next()) {
            (None, _) => Err(HsmFailure::Refused(Refusal::NoFreeToken)),
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(HsmFailure::Refused(Refusal::SeveralFreeTokens)),
        }
    }

    /// Where the token is that `C_InitToken` just made.
    pub(super) fn made_token(&self) -> Result<Slot, HsmFailure> {
        let sightings = find::sightings(&self.module)?;
        match find::matching(&self.wanted, &sightings).as_slice() {
            [only] => Ok(only.number),
            _ => Err(HsmFailure::Pkcs11 { code: rv::TOKEN_NOT_PRESENT, function: Function::InitToken }),
        }
    }

    /// Refuses a token that somebody uses, before anything is changed.
    fn refuse_in_use(&self, token: &Sighting, session: &mut Kept) -> Result<(), HsmFailure> {
        let in_use = HsmFailure::Refused(Refusal::SlotHasToken);
        if token.info.user_pin_initialized() {
            return Err(in_use);
        }
        // Ours may be open already; a second one would keep C_InitToken from working.
        *session = None;
        match self.module.call(|module| module.open_ro_session(token.number)) {
            Ok(open) if self.module.call(|_| holds_objects(&open))? => Err(in_use),
            Ok(_) => Ok(()),
            // A token that was never initialised has no sessions in some modules, so no objects either.
            Err(_) if !token.info.token_initialized() => Ok(()),
            Err(error) => Err(failure(&error, Function::OpenSession)),
        }
    }
}

/// Whether a public session sees anything a person could miss. Mechanisms, profiles and
/// features describe the token itself (Kryoptic lists about a hundred).
fn holds_objects(open: &Session) -> Result<bool, HsmFailure> {
    let find = |error| failure(&error, Function::FindObjects);
    for object in open.find_objects(&[]).map_err(find)? {
        let attributes = open.get_attributes(object, &[AttributeType::Class]).map_err(find)?;
        let describes_the_token = attributes.iter().any(|attribute| {
            matches!(
                attribute,
                Attribute::Class(
                    ObjectClass::MECHANISM
                        | ObjectClass::PROFILE
                        | ObjectClass::HARDWARE_FEATURE
                        | ObjectClass::VALIDATION
                )
            )
        });
        // An object whose class is unknown or unreadable is somebody's.
        if !describes_the_token {
            return Ok(true);
        }
    }
    Ok(false)
}

/// A failure after `C_InitPIN` said yes, so that it says neither "not called" nor "the SO
/// PIN is wrong".
fn outcome_unknown(failed: HsmFailure) -> HsmFailure {
    let unknown = |function| HsmFailure::Pkcs11 { code: code::FUNCTION_FAILED, function };
    match failed {
        HsmFailure::Pkcs11 { code: rv::PIN_INCORRECT | rv::PIN_INVALID | rv::PIN_LEN_RANGE, function } => {
            unknown(function)
        }
        HsmFailure::Pkcs11 { .. } => failed,
        HsmFailure::AlreadyLoggedIn => unknown(Function::Logout),
        HsmFailure::TokenGone | HsmFailure::NoWorker | HsmFailure::Refused(_) | HsmFailure::NotSettled => {
            unknown(Function::GetTokenInfo)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_after_init_pin_says_that_it_was_not_called() {
        let code = |code| HsmFailure::Pkcs11 { code, function: Function::GetTokenInfo };
        let failures = [
            HsmFailure::AlreadyLoggedIn,
            HsmFailure::TokenGone,
            HsmFailure::NoWorker,
            HsmFailure::Refused(Refusal::SlotHasToken),
            HsmFailure::NotSettled,
            code(rv::PIN_INCORRECT),
            code(rv::PIN_INVALID),
        ];
        for failed in failures {
            let HsmFailure::Pkcs11 { code: answered, .. } = outcome_unknown(failed) else { panic!("{failed:?}") };
            assert_eq!(answered, code::FUNCTION_FAILED);
        }
        assert_eq!(outcome_unknown(code(rv::TOKEN_NOT_PRESENT)), code(rv::TOKEN_NOT_PRESENT), "codes stay for people");
    }
}
