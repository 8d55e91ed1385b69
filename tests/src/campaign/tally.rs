//! What a campaign counted.

use std::collections::BTreeMap;
use std::fmt;

/// What a campaign counted.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Kills that struck while every slot was ordered something.
    pub kills: u32,
    /// Of these, how many interrupted at least one order.
    pub hits: u32,
    /// Further kills while the daemon recovered from the one before.
    pub kills_of_recovery: u32,
    /// Orders that were interrupted: the answer was lost, or says that the worker was.
    pub interrupted: u32,
    /// Of these, how many between *calling* and the end: the token may have either PIN.
    pub calling: u32,
    /// Interrupted orders after which the token had its old PIN.
    pub old: u32,
    /// Interrupted orders after which the token had its new PIN.
    pub new: u32,
    /// Slots that waited for a person because of two unknown outcomes.
    pub doubtful: u32,
    /// Tries of a person that needed the last-try confirmation.
    pub confirmed: u32,
    /// Logins that a token refused.
    pub refused: u32,
    /// Tokens that SoftHSM itself could not read any more.
    pub destroyed: u32,
    /// What the interrupted orders were answered.
    pub answers: BTreeMap<String, u32>,
}

impl fmt::Display for Tally {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} kills interrupted {} orders ({} of them calling), {} kills of a recovery, decided old {}, decided new {}, \
             doubtful counted apart {}, tokens destroyed by SoftHSM counted apart {}, refused logins {}, \
             confirmed tries {}, answers {:?}",
            self.hits,
            self.interrupted,
            self.calling,
            self.kills_of_recovery,
            self.old,
            self.new,
            self.doubtful,
            self.destroyed,
            self.refused,
            self.confirmed,
            self.answers
        )
    }
}
