//! What the slot machine asks of a token, and for whom: tries, steps, what follows.

use crate::audit::AttemptCause;
use crate::command::Caller;
use crate::fault::Function;
use crate::record::Knows;
use crate::safe::SecretId;

/// One try of a PIN, from the order to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct Try {
    /// Where the PIN comes from.
    pub source: Source,
    /// Why it is tried.
    pub cause: AttemptCause,
    /// Who waits for the end.
    pub caller: Option<Caller>,
    /// Whose code it is, if people entered it.
    pub by: Knows,
    /// Whether the last-try confirmation was typed.
    pub confirmed: bool,
    /// Whether a leftover login was already logged out for this try.
    pub cleared: bool,
}

/// Where a PIN comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Source {
    /// A person typed it.
    Typed(SecretId),
    /// The sealed code that was accepted last; not unsealed yet.
    Stored,
    /// That code, unsealed.
    Unsealed(SecretId),
    /// The PIN of an active slot, kept in the Safe.
    Kept(SecretId),
}

impl Source {
    pub(super) const fn secret(self) -> Option<SecretId> {
        match self {
            Source::Typed(id) | Source::Unsealed(id) | Source::Kept(id) => Some(id),
            Source::Stored => None,
        }
    }
}

/// What the token was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Step {
    /// Fresh flags before a try.
    Observe(Try),
    /// Log out a leftover login before a try.
    Clear(Try),
    /// The try itself.
    Login(Try, SecretId),
    /// Make the module's files durable, before codes that this login proved wrong are erased.
    Settle(Try, SecretId),
    /// Log out at the end of an activation.
    Logout(Option<Caller>),
}

impl Step {
    pub(super) const fn function(&self) -> Function {
        match self {
            Step::Observe(_) => Function::GetTokenInfo,
            Step::Clear(_) | Step::Logout(_) => Function::Logout,
            Step::Login(..) => Function::Login,
            Step::Settle(..) => Function::Settle,
        }
    }

    pub(super) const fn caller(&self) -> Option<Caller> {
        match self {
            Step::Observe(attempt) | Step::Clear(attempt) | Step::Login(attempt, _) | Step::Settle(attempt, _) => {
                attempt.caller
            }
            Step::Logout(caller) => *caller,
        }
    }

    /// The same step with nobody waiting: its caller has been answered.
    pub(super) const fn without_caller(mut self) -> Self {
        match &mut self {
            Step::Observe(attempt) | Step::Clear(attempt) | Step::Login(attempt, _) | Step::Settle(attempt, _) => {
                attempt.caller = None;
            }
            Step::Logout(caller) => *caller = None,
        }
        self
    }
}

/// What follows when the applications have given the PIN back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum After {
    /// Log out, then answer.
    Logout(Option<Caller>),
    /// Nothing to log out: the login is gone already.
    Rest(Option<Caller>),
}
