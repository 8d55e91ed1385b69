//! What a change asks of the token, and what an interruption there means.

use crate::fault::Function;
use crate::safe::SecretId;

/// Which of the two sealed codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Which {
    /// The one never accepted yet.
    Pending,
    /// The one accepted last.
    Accepted,
    /// The one that an unblock gave the token, or may have given.
    Unblocking,
}

/// What the token was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// Fresh flags before anything.
    Observe,
    /// Log out a leftover login.
    Clear,
    /// Prove the present PIN.
    LoginOld,
    /// `C_SetPIN`.
    SetPin,
    /// `C_InitToken` and `C_InitPIN`.
    Initialise,
    /// `C_InitPIN` by the SO.
    Unblock,
    /// `C_InitToken` on the slot's own token.
    Erase,
    /// Log out after the change.
    Logout,
    /// The state must read as public before the new PIN is proven.
    ReadPublic,
    /// Prove the new PIN.
    LoginNew,
    /// Make the module's files durable.
    Settle,
    /// Deciding: fresh flags.
    DecideObserve,
    /// Deciding: log out a leftover login.
    DecideClear,
    /// Deciding: try a sealed code.
    DecideLogin(Which, SecretId),
    /// Deciding: make the module's files durable before the other code is erased.
    DecideSettle(Which, SecretId),
    /// Deciding: a refusal, or the flags, showed what the token has; a power cut must not
    /// bring back what it had before once the record says so.
    DecideSettleShown,
}

impl Step {
    pub(super) const fn function(self) -> Function {
        match self {
            Step::Observe | Step::ReadPublic | Step::DecideObserve => Function::GetTokenInfo,
            Step::Clear | Step::Logout | Step::DecideClear => Function::Logout,
            Step::LoginOld | Step::LoginNew | Step::DecideLogin(..) => Function::Login,
            Step::SetPin => Function::SetPin,
            Step::Initialise | Step::Unblock => Function::InitPin,
            Step::Erase => Function::InitToken,
            Step::Settle | Step::DecideSettle(..) | Step::DecideSettleShown => Function::Settle,
        }
    }

    /// Whether the token may have been changed when this step is under way.
    pub(super) const fn is_after_calling(self) -> bool {
        match self {
            Step::Observe | Step::Clear | Step::LoginOld => false,
            Step::SetPin
            | Step::Initialise
            | Step::Unblock
            | Step::Erase
            | Step::Logout
            | Step::ReadPublic
            | Step::LoginNew
            | Step::Settle
            | Step::DecideObserve
            | Step::DecideClear
            | Step::DecideLogin(..)
            | Step::DecideSettle(..)
            | Step::DecideSettleShown => true,
        }
    }

    /// Whether the token may have been changed by an earlier step, even if this one was not made.
    pub(super) const fn leaves_doubt_when_not_made(self) -> bool {
        self.is_after_calling() && !self.changes_the_token()
    }

    /// Whether this step is the call that changes the token.
    #[must_use]
    pub const fn changes_the_token(self) -> bool {
        matches!(self, Step::SetPin | Step::Initialise | Step::Unblock | Step::Erase)
    }

    /// Whether it proves the SO PIN.
    pub(super) const fn is_by_so(self) -> bool {
        matches!(self, Step::Initialise | Step::Unblock | Step::Erase)
    }

    pub(super) const fn is_login(self) -> bool {
        matches!(self, Step::LoginOld | Step::LoginNew | Step::DecideLogin(..))
    }

    pub(super) const fn secret(self) -> Option<SecretId> {
        match self {
            Step::DecideLogin(_, id) | Step::DecideSettle(_, id) => Some(id),
            Step::Observe
            | Step::Clear
            | Step::LoginOld
            | Step::SetPin
            | Step::Initialise
            | Step::Unblock
            | Step::Erase
            | Step::Logout
            | Step::ReadPublic
            | Step::LoginNew
            | Step::Settle
            | Step::DecideObserve
            | Step::DecideClear
            | Step::DecideSettleShown => None,
        }
    }
}
