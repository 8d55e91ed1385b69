//! When a try of a PIN may be made, and what it costs.
//!
//! An attempt is recorded durably before it is made ([`Attempts::begin`]); one without a
//! recorded outcome counts as a failure until a login is accepted. One refusal ends
//! automatic attempts until a person acts; two unknown outcomes in a row do too, unless the
//! token's flags prove that none was refused. From the `tries`-th try in a row, or when the
//! token says that the next one is the last, every try needs a confirmation, and each
//! refusal costs a wait that doubles. All of it survives a restart; the wait then starts anew.

use crate::audit::{AttemptCause, AuditEvent};
use crate::command::Caller;
use crate::fault::Fault;
use crate::limits::{BACK_OFF_FIRST_MS, BACK_OFF_LAST_MS};
use crate::record::{Attempts, ChangeKind};
use crate::turn::Turn;

/// Unknown outcomes in a row that end automatic attempts.
const UNKNOWN_IN_ROW_MAX: u8 = 2;
/// 30 s doubled five times is beyond 15 min: a higher level changes nothing.
const BACK_OFF_LEVEL_MAX: u8 = 6;

impl Attempts {
    /// A try begins. Durable before the token hears of it.
    pub const fn begin(&mut self) {
        self.open = true;
    }

    /// The try was withdrawn before the token heard of it: it costs nothing.
    pub const fn not_made(&mut self) {
        self.open = false;
    }

    /// The token accepted the PIN: everything starts anew.
    pub fn accepted(&mut self) {
        *self = Attempts::default();
    }

    /// The token refused the PIN. `last` says whether this try needed a confirmation.
    pub const fn refused(&mut self, last: bool) {
        self.open = false;
        self.refused_in_row = self.refused_in_row.saturating_add(1);
        self.unknown_in_row = 0;
        self.automatic_stopped = true;
        if last && self.back_off < BACK_OFF_LEVEL_MAX {
            self.back_off = self.back_off.saturating_add(1);
        }
    }

    /// Nobody knows whether the token refused the PIN: counts as refused until a login is accepted.
    pub const fn unknown(&mut self) {
        self.open = false;
        self.refused_in_row = self.refused_in_row.saturating_add(1);
        self.unknown_in_row = self.unknown_in_row.saturating_add(1);
        if self.unknown_in_row >= UNKNOWN_IN_ROW_MAX {
            self.automatic_stopped = true;
        }
    }

    /// A restart found the record: an open attempt has an unknown outcome. Returns whether
    /// that changed anything.
    pub const fn close_after_restart(&mut self) -> bool {
        let open = self.open;
        if open {
            self.unknown();
        }
        open
    }

    /// The flags prove that none of the unknown outcomes was a refusal. Returns whether
    /// that changed anything.
    pub const fn none_was_refused(&mut self) -> bool {
        if self.unknown_in_row == 0 {
            return false;
        }
        self.refused_in_row = self.refused_in_row.saturating_sub(self.unknown_in_row);
        self.unknown_in_row = 0;
        if self.refused_in_row == 0 {
            self.automatic_stopped = false;
        }
        true
    }

    /// The flags say that a try was refused, and the only ones that can have been it are those
    /// with unknown outcomes: one was. Returns whether that changed anything.
    pub const fn one_was_refused(&mut self) -> bool {
        let unknown = self.unknown_in_row > 0;
        if unknown {
            self.unknown_in_row = 0;
            self.automatic_stopped = true;
        }
        unknown
    }

    /// Whether the next try needs a confirmation.
    #[must_use]
    pub const fn needs_confirmation(&self, tries: u8, final_try: bool) -> bool {
        final_try || self.refused_in_row.saturating_add(1) >= tries
    }

    /// Tries up to and with the first that needs a confirmation; 0: every one does.
    #[must_use]
    pub const fn tries_left(&self, tries: u8, final_try: bool) -> u8 {
        let left = tries.saturating_sub(self.refused_in_row);
        if final_try && left > 1 { 1 } else { left }
    }

    /// The wait that the last refusal costs, milliseconds; `None`: no wait.
    #[must_use]
    pub const fn wait_ms(&self) -> Option<u64> {
        if self.back_off == 0 {
            return None;
        }
        let doublings = (self.back_off as u32).saturating_sub(1);
        let factor = 1u64.checked_shl(doublings);
        let wait_ms = match factor {
            Some(factor) => BACK_OFF_FIRST_MS.saturating_mul(factor),
            None => BACK_OFF_LAST_MS,
        };
        Some(if wait_ms > BACK_OFF_LAST_MS { BACK_OFF_LAST_MS } else { wait_ms })
    }
}

/// A try of the user PIN begins: recorded with the turn, before the token hears of it.
pub fn begin(turn: &mut Turn<'_>, caller: Option<Caller>, cause: AttemptCause) {
    turn.slot.record.user.begin();
    turn.slot.tried_serial = turn.slot.token.map(|token| token.serial);
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::AttemptBegins(cause));
}

/// The token that was tried is the slot's from here on; another with its label is not tried.
pub fn know_token(turn: &mut Turn<'_>) {
    turn.slot.record.serial = turn.slot.tried_serial.or(turn.slot.record.serial);
}

/// The token accepted the user PIN.
pub fn accepted(turn: &mut Turn<'_>, caller: Option<Caller>) {
    turn.slot.record.user.accepted();
    turn.slot.cooling_until_ms = None;
    // Until its first PIN is settled a power cut may make the token free again: then another may be taken.
    if turn.slot.record.change.is_none_or(|change| change.kind != ChangeKind::Initialise) {
        know_token(turn);
    }
    turn.slot.fault = None;
    turn.slot.attention = None;
    let tried = turn.slot.tried_serial;
    if let Some(token) = turn.slot.token.as_mut().filter(|token| Some(token.serial) == tried) {
        token.login = crate::token::LoginState::User;
        token.count_low = false;
        token.final_try = false;
    }
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::AttemptAccepted);
}

/// The token refused the user PIN; a refused last try of a person costs a wait.
pub fn refused(turn: &mut Turn<'_>, caller: Option<Caller>, by_person: bool) {
    let last = turn.slot.record.user.needs_confirmation(turn.tries, turn.slot.final_try());
    turn.slot.record.user.refused(last && by_person);
    turn.slot.cooling_until_ms = turn.slot.record.user.wait_ms().map(|wait_ms| turn.now.after_ms(wait_ms));
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::AttemptRefused);
}

/// The try of the user PIN did not reach the token.
pub fn not_made(turn: &mut Turn<'_>, caller: Option<Caller>) {
    turn.slot.record.user.not_made();
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::AttemptNotMade);
}

/// Nobody knows whether the token refused the user PIN.
pub fn unknown(turn: &mut Turn<'_>, caller: Option<Caller>, fault: Fault) {
    turn.slot.record.user.unknown();
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::AttemptUnknown(fault));
}

/// The SO PIN was proven.
pub fn so_accepted(turn: &mut Turn<'_>, caller: Option<Caller>) {
    turn.slot.record.so.accepted();
    turn.slot.so_cooling_until_ms = None;
    turn.slot.record.so_proven_s = turn.now.wall_s;
    turn.slot.so_proven_set = turn.slot.so_tried_set.take();
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::SoPinAccepted);
}

/// The token refused the SO PIN; a refused last try costs a wait.
pub fn so_refused(turn: &mut Turn<'_>, caller: Option<Caller>) {
    let last = turn.slot.record.so.needs_confirmation(turn.tries, turn.slot.so_final_try());
    turn.slot.record.so.refused(last);
    turn.slot.so_cooling_until_ms = turn.slot.record.so.wait_ms().map(|wait_ms| turn.now.after_ms(wait_ms));
    turn.save();
    turn.journal(caller.map(|caller| caller.who), AuditEvent::SoPinRefused);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_refusal_ends_automatic_attempts_until_a_login_is_accepted() {
        let mut attempts = Attempts::default();
        attempts.begin();
        attempts.refused(false);
        assert!(attempts.automatic_stopped);
        attempts.accepted();
        assert!(!attempts.automatic_stopped);
        assert_eq!(attempts.refused_in_row, 0);
    }

    #[test]
    fn p34_two_unknown_outcomes_end_automatic_attempts_unless_the_flags_prove_none_refused() {
        let mut attempts = Attempts::default();
        for stopped in [false, true] {
            attempts.begin();
            assert!(attempts.close_after_restart());
            assert_eq!(attempts.automatic_stopped, stopped);
        }
        assert!(!attempts.close_after_restart());
        assert!(attempts.none_was_refused());
        assert!(!attempts.automatic_stopped);
        assert_eq!(attempts.refused_in_row, 0);
    }

    #[test]
    fn p34_a_low_count_after_an_unknown_outcome_ends_automatic_attempts() {
        let mut attempts = Attempts::default();
        attempts.begin();
        assert!(attempts.close_after_restart());
        assert!(attempts.one_was_refused());
        assert!(attempts.automatic_stopped);
        assert_eq!(attempts.refused_in_row, 1);
        assert!(!Attempts::default().one_was_refused());
    }

    #[test]
    fn flags_do_not_excuse_a_refusal_that_is_known() {
        let mut attempts = Attempts::default();
        attempts.refused(false);
        attempts.unknown();
        attempts.unknown();
        assert!(attempts.none_was_refused());
        assert_eq!(attempts.refused_in_row, 1);
        assert!(attempts.automatic_stopped);
    }

    #[test]
    fn the_third_try_and_a_final_try_need_a_confirmation() {
        let mut attempts = Attempts::default();
        assert!(attempts.needs_confirmation(3, true));
        assert!(!attempts.needs_confirmation(3, false));
        assert_eq!(attempts.tries_left(3, false), 3);
        attempts.refused(false);
        assert!(!attempts.needs_confirmation(3, false));
        attempts.refused(false);
        assert!(attempts.needs_confirmation(3, false));
        assert_eq!(attempts.tries_left(3, false), 1);
        attempts.refused(true);
        assert_eq!(attempts.tries_left(3, false), 0);
    }

    #[test]
    fn waits_double_from_30_s_to_15_min_and_an_accepted_login_ends_them() {
        let mut attempts = Attempts::default();
        assert_eq!(attempts.wait_ms(), None);
        let mut waits = [0; 8];
        for wait in &mut waits {
            attempts.refused(true);
            *wait = attempts.wait_ms().unwrap_or(0);
        }
        assert_eq!(waits, [30_000, 60_000, 120_000, 240_000, 480_000, 900_000, 900_000, 900_000]);
        attempts.accepted();
        assert_eq!(attempts.wait_ms(), None);
    }
}
