//! The thread of one slot: one session, one call at a time.
//!
//! A login counts only from a session that said "public" immediately before (P33): after a
//! `C_SetPIN` SoftHSM answers `USER_ALREADY_LOGGED_IN` even for a wrong PIN, and other
//! modules take a cached login for a proven PIN (CVE-2023-40660). `C_SetPIN` happens only
//! in a read-write user session: in a security officer's it would change the SO PIN.
//! Nothing is ever repeated here: an unknown outcome is the core's to decide (P5).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use slotwarden_core::effect::{HsmAnswer, SlotId};
use slotwarden_core::fault::{Function, HsmFailure, rv};
use slotwarden_core::token::{LoginState, TokenState};
use zeroize::{Zeroize, Zeroizing};

use super::Replies;
use super::find::{self, unpadded};
use super::lock::Rewrites;
use super::module::{Module, code, failure, says_gone};
use crate::hsm_wire::{Order, RANDOM_BYTES, Report, WantedToken};

/// One order with its secrets, which are wiped when it is dropped.
pub(super) struct Call {
    pub(super) request: u32,
    pub(super) order: Order,
    pub(super) secrets: Vec<Zeroizing<Vec<u8>>>,
}

/// The token of one slot.
pub(super) struct Token {
    pub(super) slot: SlotId,
    pub(super) wanted: WantedToken,
    pub(super) module: Arc<Module>,
    pub(super) place: Option<Slot>,
    /// What the token said last, as if nobody were logged in.
    pub(super) seen: Option<TokenState>,
    pub(super) replies: Replies,
    pub(super) settle_dir: Option<Arc<Path>>,
    pub(super) loss_interval: Duration,
}

/// What the thread keeps between calls.
pub(super) type Kept = Option<Session>;

impl Token {
    /// Answers orders until the daemon is gone; looks at the token when idle.
    pub(super) fn serve(mut self, mailbox: &Receiver<Call>) {
        let mut session: Kept = None;
        loop {
            match mailbox.recv_timeout(self.loss_interval) {
                Ok(call) if self.module.stopping.load(Ordering::SeqCst) => drop(call),
                Ok(call) => self.answer(&mut session, call),
                Err(RecvTimeoutError::Timeout) => self.notice_loss(&mut session),
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn answer(&mut self, session: &mut Kept, mut call: Call) {
        let result = match call.order {
            Order::Observe => self.observe(session).map(HsmAnswer::Observed),
            Order::Login => self.login(session, &mut call).map(|()| HsmAnswer::LoggedIn),
            Order::Logout => self.logout(session).map(|()| HsmAnswer::LoggedOut),
            Order::SetPin => self.set_pin(session, &mut call).map(|()| HsmAnswer::PinSet),
            Order::Initialise { free_slot } => {
                self.initialise(session, &mut call, free_slot).map(HsmAnswer::Initialised)
            }
            Order::Settle => self.settle().map(|()| HsmAnswer::Settled),
            Order::Random => return self.random(session, call.request),
            Order::Look => return self.notice_loss(session),
        };
        // The secrets are wiped before the daemon can act on the answer.
        drop(call.secrets);
        self.replies.report(self.slot, call.request, &Report::Done(result));
        if let Err(HsmFailure::Pkcs11 { code, .. }) = result
            && says_gone(code)
        {
            self.notice_loss(session);
        }
    }

    fn observe(&mut self, session: &mut Kept) -> Result<TokenState, HsmFailure> {
        let place = self.place()?;
        let info =
            self.module.context.get_token_info(place).map_err(|error| failure(&error, Function::GetTokenInfo))?;
        let login = match living(session) {
            Some(open) => login_state(session_state(open)?),
            None => LoginState::Public,
        };
        self.seen = Some(find::state(&info, LoginState::Public));
        Ok(find::state(&info, login))
    }

    fn login(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let pin = pin(call, 0, Function::Login)?;
        let open = self.open(session)?;
        if login_state(session_state(open)?) != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        let _marked = self.module.marked(Rewrites::Flags);
        open.login(UserType::User, Some(&pin)).map_err(|error| failure(&error, Function::Login))
    }

    fn logout(&mut self, session: &mut Kept) -> Result<(), HsmFailure> {
        self.place()?;
        // Without a session nobody is logged in: closing the last one logs out.
        let Some(open) = living(session) else { return Ok(()) };
        logged_out(open)
    }

    fn set_pin(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let old = pin(call, 0, Function::SetPin)?;
        let new = pin(call, 1, Function::SetPin)?;
        let open = self.open(session)?;
        may_set_pin(session_state(open)?)?;
        let _marked = self.module.marked(Rewrites::Pin);
        // What comes after this call must not turn its answer into "not called".
        open.set_pin(&old, &new).map_err(|error| failure(&error, Function::SetPin))
    }

    fn settle(&self) -> Result<(), HsmFailure> {
        let Some(dir) = &self.settle_dir else { return Ok(()) };
        super::settle::settle(dir).map_err(|error| {
            self.replies.note(format!("{} could not be made durable: {error}", dir.display()));
            HsmFailure::NotSettled
        })
    }

    fn random(&mut self, session: &mut Kept, request: u32) {
        let mut drawn = Zeroizing::new([0; RANDOM_BYTES]);
        let done = self.open(session).is_ok_and(|open| open.generate_random_slice(drawn.as_mut_slice()).is_ok());
        if done {
            self.replies.secret(self.slot, request, drawn.as_slice());
        } else {
            self.replies.report(self.slot, request, &Report::NoRandom);
        }
    }

    /// Looks whether the token is still there and still the same, and whether its flags
    /// changed: another process may spend tries. Costs none.
    fn notice_loss(&mut self, session: &mut Kept) {
        let Some(place) = self.place else { return };
        let gone = match self.module.context.get_token_info(place) {
            Ok(info) => {
                let other = |wanted: &Option<String>, has: &str| {
                    wanted.as_deref().is_some_and(|text| unpadded(text) != unpadded(has))
                };
                !info.token_initialized()
                    || other(&self.wanted.label, info.label())
                    || other(&self.wanted.serial, info.serial_number())
            }
            Err(Error::Pkcs11(..)) if self.module.stopping.load(Ordering::SeqCst) => false,
            Err(error) => {
                let lost = failure(&error, Function::GetTokenInfo);
                matches!(lost, HsmFailure::Pkcs11 { code, .. } if says_gone(code))
            }
        };
        if gone {
            self.place = None;
            *session = None;
            self.replies.report(self.slot, 0, &Report::Gone);
            return;
        }
        let before = self.seen;
        if let Ok(now) = self.observe(session)
            && self.seen != before
        {
            self.replies.report(self.slot, 0, &Report::Changed(now));
        }
    }

    /// Where the token is.
    pub(super) fn place(&self) -> Result<Slot, HsmFailure> {
        self.place.ok_or(HsmFailure::TokenGone)
    }

    /// The session, opened if need be: read-write, since a PIN is changed in it.
    pub(super) fn open<'a>(&self, session: &'a mut Kept) -> Result<&'a Session, HsmFailure> {
        let place = self.place()?;
        if living(session).is_none() {
            let opened = self.module.context.open_rw_session(place);
            *session = Some(opened.map_err(|error| failure(&error, Function::OpenSession))?);
        }
        // Just filled if it was empty.
        session.as_ref().ok_or(HsmFailure::TokenGone)
    }
}

/// The session if there is one and the module still knows it.
fn living(session: &mut Kept) -> Option<&Session> {
    if let Some(Err(HsmFailure::Pkcs11 { code, .. })) = session.as_ref().map(session_state)
        && [code::SESSION_HANDLE_INVALID, code::SESSION_CLOSED].contains(&code)
    {
        *session = None;
    }
    session.as_ref()
}

/// `C_Logout`, believed only when the session says "public" afterwards.
pub(super) fn logged_out(open: &Session) -> Result<(), HsmFailure> {
    match open.logout().map_err(|error| failure(&error, Function::Logout)) {
        Ok(()) | Err(HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, .. }) => {}
        Err(other) => return Err(other),
    }
    match login_state(session_state(open)?) {
        LoginState::Public => Ok(()),
        LoginState::User | LoginState::SecurityOfficer => Err(HsmFailure::AlreadyLoggedIn),
    }
}

pub(super) fn session_state(open: &Session) -> Result<SessionState, HsmFailure> {
    let info = open.get_session_info().map_err(|error| failure(&error, Function::GetSessionInfo))?;
    Ok(info.session_state())
}

/// Only a user who is logged in for writing changes the user's PIN.
fn may_set_pin(state: SessionState) -> Result<(), HsmFailure> {
    let refused = |code| Err(HsmFailure::Pkcs11 { code, function: Function::SetPin });
    match state {
        SessionState::RwUser => Ok(()),
        SessionState::RoUser => refused(rv::SESSION_READ_ONLY),
        SessionState::RoPublic | SessionState::RwPublic | SessionState::RwSecurityOfficer => {
            refused(rv::USER_NOT_LOGGED_IN)
        }
    }
}

pub(super) fn login_state(state: SessionState) -> LoginState {
    match state {
        SessionState::RoPublic | SessionState::RwPublic => LoginState::Public,
        SessionState::RoUser | SessionState::RwUser => LoginState::User,
        SessionState::RwSecurityOfficer => LoginState::SecurityOfficer,
    }
}

/// The secret at `index` as a PIN; our copy is wiped, cryptoki wipes its own.
pub(super) fn pin(call: &mut Call, index: usize, function: Function) -> Result<AuthPin, HsmFailure> {
    let invalid = HsmFailure::Pkcs11 { code: rv::PIN_INVALID, function };
    let secret = call.secrets.get_mut(index).ok_or(invalid)?;
    let pin = std::str::from_utf8(secret).map(|text| AuthPin::new(text.into()));
    secret.zeroize();
    pin.map_err(|_| invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pin_is_never_set_in_a_security_officers_session() {
        let refused = |code| Err(HsmFailure::Pkcs11 { code, function: Function::SetPin });
        assert_eq!(may_set_pin(SessionState::RwSecurityOfficer), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(may_set_pin(SessionState::RoPublic), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(may_set_pin(SessionState::RwPublic), refused(rv::USER_NOT_LOGGED_IN));
        assert_eq!(may_set_pin(SessionState::RoUser), refused(rv::SESSION_READ_ONLY));
        assert_eq!(may_set_pin(SessionState::RwUser), Ok(()));
    }
}
