//! What the security officer's PIN does to a token that is in use: unblock it, erase it, and
//! give way to another SO PIN.
//!
//! Everything is looked at before the SO logs in. An SO's session is used for one call and
//! nothing else: `C_InitPIN`, or the `C_SetPIN` that changes the SO PIN (PKCS#11 v3.1, section
//! 5.6.8: it changes the PIN of whoever is logged in). It is logged out before the answer, and
//! where that fails it is closed, which logs out too.
//!
//! The function in a failure says how far it came: one that names `C_InitPIN`, `C_SetPIN` or
//! `C_InitToken` leaves open what the token has, every other was before. Once such a call
//! said yes, whatever fails after it is an unknown outcome, never a call that was not made:
//! the core would forget the code that now rules.

use std::sync::PoisonError;
use std::thread;

use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::types::AuthPin;
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::token::{LoginState, TokenState};

use super::find::{self, unpadded};
use super::initialise::{READ_INTERVAL, READS_MAX};
use super::lock::Rewrites;
use super::module::{code, failure};
use super::token::{Call, Kept, Token, login_state, pin};

impl Token {
    /// Gives the token another user PIN; its objects stay.
    pub(super) fn unblock(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let so_pin = pin(call, 0, Function::Login)?;
        let new = pin(call, 1, Function::InitPin)?;
        self.refuse_unusable(true)?;
        self.as_so(session, &so_pin, Function::InitPin, |open| open.init_pin(&new))
    }

    /// Gives the token another SO PIN; its user PIN and its objects stay.
    pub(super) fn set_so_pin(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let old = pin(call, 0, Function::Login)?;
        let new = pin(call, 1, Function::SetPin)?;
        self.refuse_unusable(false)?;
        self.as_so(session, &old, Function::SetPin, |open| open.set_pin(&old, &new))?;
        // Until the module's files are durable a power cut may bring the old SO PIN back; whoever
        // hears that they are not keeps both.
        self.settle()
    }

    /// Logs the SO in, makes one call that rewrites a PIN, and logs the SO out.
    fn as_so(
        &self,
        session: &mut Kept,
        so_pin: &AuthPin,
        function: Function,
        change: impl FnOnce(&Session) -> Result<(), Error>,
    ) -> Result<(), HsmFailure> {
        let (open, state) = self.open(session)?;
        if login_state(state) != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        {
            let _marked = self.module.marked(Rewrites::Flags);
            let made = self.module.call(|_| open.login(UserType::So, Some(so_pin)));
            made.map_err(|error| failure(&error, Function::Login))?;
        }
        let set = is_so_session(self.session_state(open), function).and_then(|()| {
            let _marked = self.module.marked(Rewrites::Pin);
            self.module.call(|_| change(open)).map_err(|error| failure(&error, function))
        });
        self.leave_so_session(session);
        set
    }

    /// Erases the token: every object and the user PIN. Label and SO PIN stay.
    pub(super) fn erase(&mut self, session: &mut Kept, call: &mut Call) -> Result<TokenState, HsmFailure> {
        let so_pin = pin(call, 0, Function::GetTokenInfo)?;
        let module = self.module.clone();
        // It may get another slot number: nobody else takes a free token meanwhile.
        let _one_at_a_time =
            module.callers.aside(|| module.initialising.lock().unwrap_or_else(PoisonError::into_inner));
        let label = self.refuse_unusable(false)?;
        let place = self.place()?;
        // PKCS#11 v3.1, section 5.5.7: "C_InitToken cannot be called while an application has an open session".
        *session = None;
        {
            let _marked = module.marked(Rewrites::Pin);
            let erased = module.call(|module| module.init_token(place, &so_pin, &label));
            erased.map_err(|error| failure(&error, Function::InitToken))?;
        }
        self.state_after_init_token().map_err(|_| outcome_unknown(Function::InitToken))
    }

    /// Refuses a token that nobody initialised, and one without a user PIN where there has to
    /// be one. Returns its label.
    fn refuse_unusable(&self, needs_user_pin: bool) -> Result<String, HsmFailure> {
        let place = self.place()?;
        let info = self.module.call(|module| module.get_token_info(place));
        let info = info.map_err(|error| failure(&error, Function::GetTokenInfo))?;
        if !info.token_initialized() || (needs_user_pin && !info.user_pin_initialized()) {
            return Err(HsmFailure::Refused(Refusal::SlotUninitialised));
        }
        Ok(unpadded(info.label()).to_owned())
    }

    /// Ends the SO's login, whatever the module says to that.
    fn leave_so_session(&self, session: &mut Kept) {
        if session.as_ref().is_some_and(|open| self.logged_out(open).is_err()) {
            // Closing the last session logs out where C_Logout does not; what is then so, the
            // core reads before it believes anything.
            *session = None;
        }
    }

    /// Where the token is now, and what it says.
    fn state_after_init_token(&mut self) -> Result<TokenState, HsmFailure> {
        let mut reads = 1;
        loop {
            let read = self.made_token().and_then(|place| {
                self.place = Some(place);
                let info = self.module.call(|module| module.get_token_info(place));
                info.map_err(|error| failure(&error, Function::GetTokenInfo))
            });
            match read {
                Ok(info) => return Ok(find::state(&info, LoginState::Public)),
                Err(failed) if reads >= READS_MAX => return Err(failed),
                Err(_) => {
                    reads += 1;
                    thread::sleep(READ_INTERVAL);
                }
            }
        }
    }
}

/// A PIN is changed by the SO in a session that says "security officer, read-write", nowhere
/// else: in a user's session `C_SetPIN` would change the user PIN.
fn is_so_session(state: Result<SessionState, HsmFailure>, function: Function) -> Result<(), HsmFailure> {
    match state {
        Ok(SessionState::RwSecurityOfficer) => Ok(()),
        // Not called; the code says so (rule 4 of a token PIN change).
        Ok(SessionState::RwUser | SessionState::RoUser | SessionState::RwPublic | SessionState::RoPublic) | Err(_) => {
            Err(HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, function })
        }
    }
}

fn outcome_unknown(function: Function) -> HsmFailure {
    HsmFailure::Pkcs11 { code: code::FUNCTION_FAILED, function }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_so_changes_a_pin_in_a_security_officers_session_only() {
        for function in [Function::InitPin, Function::SetPin] {
            let not_called = Err(HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, function });
            for state in [SessionState::RwUser, SessionState::RoUser, SessionState::RwPublic, SessionState::RoPublic] {
                assert_eq!(is_so_session(Ok(state), function), not_called);
            }
            assert_eq!(is_so_session(Err(HsmFailure::TokenGone), function), not_called);
            assert_eq!(is_so_session(Ok(SessionState::RwSecurityOfficer), function), Ok(()));
        }
    }

    #[test]
    fn an_unknown_outcome_names_the_call_that_was_made() {
        let unknown = HsmFailure::Pkcs11 { code: code::FUNCTION_FAILED, function: Function::InitToken };
        assert_eq!(outcome_unknown(Function::InitToken), unknown);
    }
}
