//! The token of one slot: one session, one order at a time ([`super::desk`] sees to that).
//!
//! A login counts only from a session that said "public" immediately before (P33): after a
//! `C_SetPIN` SoftHSM answers `USER_ALREADY_LOGGED_IN` even for a wrong PIN, and other
//! modules take a cached login for a proven PIN (CVE-2023-40660). `C_SetPIN` happens only
//! in a read-write user session: in a security officer's it would change the SO PIN, which
//! has an order of its own ([`super::by_so`]).
//! Nothing is ever repeated here: an unknown outcome is the core's to decide (P5).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use cryptoki::error::Error;
use cryptoki::session::{Session, SessionState, UserType};
use cryptoki::slot::Slot;
use cryptoki::types::AuthPin;
use slotwarden_core::effect::{HsmAnswer, SlotId};
use slotwarden_core::fault::{Function, HsmFailure, rv};
use slotwarden_core::token::{LoginState, Presence, TokenState};
use zeroize::{Zeroize, Zeroizing};

use super::Replies;
use super::find::{self, unpadded};
use super::lock::Rewrites;
use super::module::{Module, code, failure, says_gone};
use super::transfer::Known;
use crate::hsm_wire::{Order, RANDOM_BYTES, Report, WantedToken};
use crate::transfer_dir::PlanOf;

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
    pub(super) transfer_dir: Arc<Path>,
    pub(super) known: Known,
}

/// What is kept between calls.
pub(super) type Kept = Option<Session>;

impl Token {
    /// Carries out one order and answers it.
    pub(super) fn answer(&mut self, session: &mut Kept, mut call: Call) {
        let result = match call.order {
            Order::Observe => self.observe(session).map(HsmAnswer::Observed),
            Order::Login => self.login(session, &mut call).map(|()| HsmAnswer::LoggedIn),
            Order::Logout => self.logout(session).map(|()| HsmAnswer::LoggedOut),
            Order::SetPin => self.set_pin(session, &mut call).map(|()| HsmAnswer::PinSet),
            Order::Initialise { free_slot } => {
                self.initialise(session, &mut call, free_slot).map(HsmAnswer::Initialised)
            }
            Order::Settle => self.settle().map(|()| HsmAnswer::Settled),
            Order::Unblock => self.unblock(session, &mut call).map(|()| HsmAnswer::Unblocked),
            Order::Erase => self.erase(session, &mut call).map(HsmAnswer::Erased),
            Order::SetSoPin => self.set_so_pin(session, &mut call).map(|()| HsmAnswer::SoPinSet),
            Order::PutBackupKeys { key_id, uid, unwrap } => {
                self.put_backup_keys(session, &call, (key_id, uid), unwrap).map(|()| HsmAnswer::BackupKeysPut)
            }
            Order::KeepBackupKeys { key_id, uid, unwrap } => self.keep_backup_keys(session, key_id, uid, unwrap),
            Order::Inventory { uid } => self.inventory(session, uid),
            Order::ExportSection { key_id, uid, once } => self.export_section(session, (&call, once), (key_id, uid)),
            Order::PrepareImport { key_id, uid } => self.prepare_import(session, &call, (key_id, uid)),
            Order::Import { key_id, uid } => self.import(session, &call, PlanOf::Restore, (key_id, uid)),
            Order::PlanPackage { key_id, uid } => self.plan_package(session, &call, (key_id, uid)),
            Order::ImportPackage { key_id, uid } => self.import(session, &call, PlanOf::Package(uid), (key_id, uid)),
            Order::DropUnwrapKey { keep } => self.drop_unwrap_key(session, keep),
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
        let info = self.module.call(|module| module.get_token_info(place));
        let info = info.map_err(|error| failure(&error, Function::GetTokenInfo))?;
        let login = self.living(session)?.map_or(LoginState::Public, login_state);
        self.seen = Some(find::state(&info, LoginState::Public));
        Ok(find::state(&info, login))
    }

    fn login(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let pin = pin(call, 0, Function::Login)?;
        let (open, state) = self.open(session)?;
        if login_state(state) != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        let _marked = self.module.marked(Rewrites::Flags);
        let made = self.module.call(|_| open.login(UserType::User, Some(&pin)));
        made.map_err(|error| failure(&error, Function::Login))
    }

    fn logout(&mut self, session: &mut Kept) -> Result<(), HsmFailure> {
        self.place()?;
        // Without a session nobody is logged in: closing the last one logs out.
        self.living(session)?;
        let Some(open) = session else { return Ok(()) };
        self.logged_out(open)
    }

    fn set_pin(&mut self, session: &mut Kept, call: &mut Call) -> Result<(), HsmFailure> {
        let old = pin(call, 0, Function::SetPin)?;
        let new = pin(call, 1, Function::SetPin)?;
        let (open, state) = self.open(session)?;
        may_set_pin(state)?;
        let _marked = self.module.marked(Rewrites::Pin);
        // What comes after this call must not turn its answer into "not called".
        let made = self.module.call(|_| open.set_pin(&old, &new));
        made.map_err(|error| failure(&error, Function::SetPin))
    }

    pub(super) fn settle(&self) -> Result<(), HsmFailure> {
        let Some(dir) = &self.settle_dir else { return Ok(()) };
        // Disks are slow in their own way: that says nothing about the module.
        self.module.callers.aside(|| super::settle::settle(dir)).map_err(|error| {
            self.replies.note(format!("{} could not be made durable: {error}", dir.display()));
            HsmFailure::NotSettled
        })
    }

    fn random(&mut self, session: &mut Kept, request: u32) {
        let mut drawn = Zeroizing::new([0; RANDOM_BYTES]);
        let done = self
            .open(session)
            .is_ok_and(|(open, _)| self.module.call(|_| open.generate_random_slice(drawn.as_mut_slice()).is_ok()));
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
        let mut fresh = None;
        let gone = match self.module.call(|module| module.get_token_info(place)) {
            Ok(info) => {
                fresh = Some(find::state(&info, LoginState::Public));
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
        if let Some(now) = fresh
            && let Ok(login) = self.living(session)
            && self.seen.replace(now) != Some(now)
        {
            let login = login.map_or(LoginState::Public, login_state);
            self.replies.report(self.slot, 0, &Report::Changed(TokenState { login, ..now }));
        }
    }

    /// A slot that was waited for in vain at the first look answered after all, or showed
    /// that two tokens are meant. `None`: the token is not there.
    pub(super) fn found(&mut self, session: &mut Kept, presence: Presence, place: Option<Slot>) {
        let presence = match presence {
            // Another one came to this slot meanwhile: each would undo what the other did.
            Presence::Present(_) if self.place.is_some() && self.place != place => Presence::Ambiguous,
            Presence::Present(_) | Presence::Absent { .. } if self.place.is_some() => return,
            other => other,
        };
        self.place = place.filter(|_| matches!(presence, Presence::Present(_)));
        self.seen = match presence {
            Presence::Present(state) => Some(state),
            Presence::Absent { .. } | Presence::Ambiguous => None,
        };
        if self.place.is_none() {
            *session = None;
        }
        self.replies.report(self.slot, 0, &Report::Found(presence));
    }

    /// Where the token is.
    pub(super) fn place(&self) -> Result<Slot, HsmFailure> {
        self.place.ok_or(HsmFailure::TokenGone)
    }

    /// The session, opened if need be (read-write, since a PIN is changed in it), and what
    /// it says of itself now.
    pub(super) fn open<'a>(&self, session: &'a mut Kept) -> Result<(&'a Session, SessionState), HsmFailure> {
        let place = self.place()?;
        let state = match self.living(session)? {
            Some(state) => state,
            None => {
                let opened = self.module.call(|module| module.open_rw_session(place));
                let opened = session.insert(opened.map_err(|error| failure(&error, Function::OpenSession))?);
                self.session_state(opened)?
            }
        };
        // Just filled if it was empty.
        session.as_ref().map(|open| (open, state)).ok_or(HsmFailure::TokenGone)
    }

    /// What the session says of itself, if there is one and the module still knows it.
    fn living(&self, session: &mut Kept) -> Result<Option<SessionState>, HsmFailure> {
        let Some(open) = session else { return Ok(None) };
        match self.session_state(open) {
            Ok(state) => Ok(Some(state)),
            Err(HsmFailure::Pkcs11 { code: code::SESSION_HANDLE_INVALID | code::SESSION_CLOSED, .. }) => {
                *session = None;
                Ok(None)
            }
            Err(other) => Err(other),
        }
    }

    pub(super) fn session_state(&self, open: &Session) -> Result<SessionState, HsmFailure> {
        let info = self.module.call(|_| open.get_session_info());
        Ok(info.map_err(|error| failure(&error, Function::GetSessionInfo))?.session_state())
    }

    /// `C_Logout`, believed only when the session says "public" afterwards.
    pub(super) fn logged_out(&self, open: &Session) -> Result<(), HsmFailure> {
        match self.module.call(|_| open.logout()).map_err(|error| failure(&error, Function::Logout)) {
            Ok(()) | Err(HsmFailure::Pkcs11 { code: rv::USER_NOT_LOGGED_IN, .. }) => {}
            Err(other) => return Err(other),
        }
        match login_state(self.session_state(open)?) {
            LoginState::Public => Ok(()),
            LoginState::User | LoginState::SecurityOfficer => Err(HsmFailure::AlreadyLoggedIn),
        }
    }
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
