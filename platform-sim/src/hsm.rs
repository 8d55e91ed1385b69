//! Simulated tokens: the device, with its counters, flags, sessions and a store of its own.
//!
//! What is imitated (`stack.md`; PKCS#11 v3.1): SoftHSM 2.6 never locks, raises the low
//! count at the first wrong PIN and writes its files without fsync, so that a power cut
//! gives back what was there before, of PINs as of objects; Kryoptic 1.5 keeps its files
//! durable, locks after 10 wrong PINs and shows `FINAL_TRY` after 9. Logins belong to the
//! worker's process: they are gone when the worker is.

use slotwarden_core::effect::{HsmAnswer, HsmCall, KeyCounts};
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::token::{LoginState, Presence, Serial, TokenState};

use crate::code::Code;

/// Wrong PINs after which a counting token locks (Kryoptic's figure).
pub const WRONG_PINS_MAX: u8 = 10;
/// Shortest PIN every simulated token takes (SoftHSM's figure).
pub const PIN_CHARS_MIN: usize = 4;
/// Tokens in the world: one per slot and four that are free, foreign or doubles.
pub const TOKENS_MAX: usize = 8;

/// Backup key objects on one token: W, MAK and U of the backup key in force and of one before.
pub const BACKUP_KEYS_MAX: usize = 6;

/// Labels in the world: slots of the appliance to try, one more than a campaign has.
pub const LABELS_MAX: usize = crate::SLOTS + 1;

/// How a token behaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Character {
    /// Whether it locks after [`WRONG_PINS_MAX`] wrong PINs in a row.
    pub locks: bool,
    /// Whether it raises `COUNT_LOW` at the first wrong PIN.
    pub shows_low_count: bool,
    /// Whether its changes are durable at once; otherwise only `Settle` makes them so.
    pub settles_itself: bool,
    /// `ulMaxPinLen`; 0: unstated.
    pub pin_chars_max: u16,
}

impl Character {
    /// Like SoftHSM 2.6.
    pub const SOFT: Character =
        Character { locks: false, shows_low_count: true, settles_itself: false, pin_chars_max: 255 };
    /// Like Kryoptic 1.5.
    pub const COUNTING: Character =
        Character { locks: true, shows_low_count: false, settles_itself: true, pin_chars_max: 0 };
    /// A token that locks, warns early and needs settling.
    pub const STRICT: Character =
        Character { locks: true, shows_low_count: true, settles_itself: false, pin_chars_max: 32 };
    /// A token that never says how many tries are left.
    pub const SILENT: Character =
        Character { locks: false, shows_low_count: false, settles_itself: false, pin_chars_max: 24 };
    /// All of them.
    pub const ALL: [Character; 4] = [Character::SOFT, Character::COUNTING, Character::STRICT, Character::SILENT];
}

/// What a key of a backup key is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// W: wraps, nothing else.
    Wrap,
    /// MAK: signs and verifies, nothing else.
    Authenticate,
    /// U: unwraps, nothing else; only members of a cluster have it.
    Unwrap,
}

/// One key of a backup key, as an object of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupKey {
    /// Names the backup key.
    pub key_id: [u8; 16],
    /// The slot uid.
    pub uid: [u8; 16],
    /// What it is for.
    pub purpose: Purpose,
    /// Its bytes.
    pub value: Code,
}

/// What a token keeps in its own store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kept {
    /// `C_InitToken` was called: the slot's label it got.
    pub label: Option<u8>,
    /// The user PIN; [`Code::NONE`] before `C_InitPIN`.
    pub user_pin: Code,
    /// The SO PIN; [`Code::NONE`] before `C_InitToken`.
    pub so_pin: Code,
    /// Wrong user PINs since the last right one.
    pub wrong_in_row: u8,
    /// `CKF_USER_PIN_COUNT_LOW`, where the token shows it.
    pub count_low: bool,
    /// Wrong SO PINs since the last right one.
    pub so_wrong_in_row: u8,
    /// The slot's keys of backup keys.
    pub backup_keys: [Option<BackupKey>; BACKUP_KEYS_MAX],
}

/// One token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Token {
    /// How it behaves.
    pub character: Character,
    /// Its serial number.
    pub serial: Serial,
    /// Whether it is plugged in.
    pub inserted: bool,
    /// Whether its file can be read; a kill inside `C_SetPIN` can end that.
    pub readable: bool,
    /// What the running module sees.
    pub live: Kept,
    /// What a power cut gives back.
    pub settled: Kept,
    /// Who is logged in by our worker.
    pub session: LoginState,
    /// Whether it holds keys.
    pub has_objects: bool,
}

/// Where a multi-step call is interrupted by a kill.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// It ends.
    Whole,
    /// The worker dies after the first step of several.
    FirstStep,
}

impl Token {
    /// A token that nobody initialised.
    #[must_use]
    pub fn free(number: u8, character: Character) -> Self {
        let kept = Kept {
            label: None,
            user_pin: Code::NONE,
            so_pin: Code::NONE,
            wrong_in_row: 0,
            count_low: false,
            so_wrong_in_row: 0,
            backup_keys: [None; BACKUP_KEYS_MAX],
        };
        let mut serial = *b"SIM-000000000000";
        serial[15] = b'0' + number;
        Token {
            character,
            serial,
            inserted: true,
            readable: true,
            live: kept,
            settled: kept,
            session: LoginState::Public,
            has_objects: false,
        }
    }

    /// A token that was initialised elsewhere.
    #[must_use]
    pub fn initialised(number: u8, character: Character, label: u8, user_pin: Code, so_pin: Code) -> Self {
        let mut token = Token::free(number, character);
        token.live.label = Some(label);
        token.live.user_pin = user_pin;
        token.live.so_pin = so_pin;
        token.settled = token.live;
        token.has_objects = !user_pin.is_none();
        token
    }

    /// Whether it answers at all.
    #[must_use]
    pub fn is_there(&self) -> bool {
        self.inserted && self.readable
    }

    /// Whether the user PIN is locked.
    #[must_use]
    pub fn is_locked(&self) -> bool {
        self.character.locks && self.live.wrong_in_row >= WRONG_PINS_MAX
    }

    /// Whether the SO PIN is locked: then nobody can unblock or erase it.
    #[must_use]
    pub fn is_so_locked(&self) -> bool {
        self.character.locks && self.live.so_wrong_in_row >= WRONG_PINS_MAX
    }

    /// `C_GetTokenInfo` and `C_GetSessionInfo`.
    #[must_use]
    pub fn state(&self) -> TokenState {
        TokenState {
            serial: self.serial,
            initialised: self.live.label.is_some(),
            user_pin: !self.live.user_pin.is_none(),
            count_low: self.live.count_low,
            final_try: self.character.locks && self.live.wrong_in_row == WRONG_PINS_MAX - 1,
            locked: self.is_locked(),
            so_count_low: self.character.shows_low_count && self.live.so_wrong_in_row > 0,
            so_final_try: self.character.locks && self.live.so_wrong_in_row == WRONG_PINS_MAX - 1,
            so_locked: self.is_so_locked(),
            pin_chars_max: self.character.pin_chars_max,
            login: self.session,
        }
    }

    /// `C_Login` as user, from a public session only.
    ///
    /// # Errors
    /// As the device answers.
    pub fn login(&mut self, pin: &Code) -> Result<HsmAnswer, HsmFailure> {
        if self.session != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        self.check(pin, Function::Login)?;
        self.session = LoginState::User;
        Ok(HsmAnswer::LoggedIn)
    }

    /// `C_Logout`.
    pub fn logout(&mut self) -> Result<HsmAnswer, HsmFailure> {
        self.session = LoginState::Public;
        Ok(HsmAnswer::LoggedOut)
    }

    /// `C_SetPIN` in a read-write user session.
    ///
    /// # Errors
    /// As the device answers.
    pub fn set_pin(&mut self, old: &Code, new: &Code) -> Result<HsmAnswer, HsmFailure> {
        if self.session != LoginState::User {
            return Err(failure(rv::USER_NOT_LOGGED_IN, Function::SetPin));
        }
        let chars = new.bytes().len();
        let chars_max = usize::from(self.character.pin_chars_max);
        if chars < PIN_CHARS_MIN || (chars_max != 0 && chars > chars_max) {
            return Err(failure(rv::PIN_LEN_RANGE, Function::SetPin));
        }
        self.check(old, Function::SetPin)?;
        self.live.user_pin = *new;
        self.written();
        Ok(HsmAnswer::PinSet)
    }

    /// `C_InitToken` where needed, `C_Login` as SO, `C_InitPIN`, `C_Logout`.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn initialise(
        &mut self,
        label: u8,
        so_pin: &Code,
        new: &Code,
        extent: Extent,
    ) -> Result<HsmAnswer, HsmFailure> {
        if !self.live.user_pin.is_none() || self.has_objects {
            return Err(HsmFailure::Refused(Refusal::SlotHasToken));
        }
        if self.session == LoginState::User {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        if self.live.label.is_none() {
            self.live.label = Some(label);
            self.live.so_pin = *so_pin;
            self.written();
            if extent == Extent::FirstStep {
                return Err(HsmFailure::NoWorker);
            }
        } else if self.live.so_pin != *so_pin {
            return Err(failure(rv::PIN_INCORRECT, Function::Login));
        }
        let chars_max = usize::from(self.character.pin_chars_max);
        if chars_max != 0 && new.bytes().len() > chars_max {
            return Err(failure(rv::PIN_LEN_RANGE, Function::InitPin));
        }
        self.live.user_pin = *new;
        self.live.wrong_in_row = 0;
        self.live.count_low = false;
        self.written();
        self.session = LoginState::Public;
        Ok(HsmAnswer::Initialised(self.state()))
    }

    /// `C_Login` as SO, `C_InitPIN`, `C_Logout`.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn unblock(&mut self, so_pin: &Code, new: &Code) -> Result<HsmAnswer, HsmFailure> {
        if self.live.label.is_none() || self.live.user_pin.is_none() {
            return Err(HsmFailure::Refused(Refusal::SlotUninitialised));
        }
        if self.session != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        self.check_so(so_pin, Function::Login)?;
        let chars = new.bytes().len();
        let chars_max = usize::from(self.character.pin_chars_max);
        if chars < PIN_CHARS_MIN || (chars_max != 0 && chars > chars_max) {
            return Err(failure(rv::PIN_LEN_RANGE, Function::InitPin));
        }
        self.live.user_pin = *new;
        self.live.wrong_in_row = 0;
        self.live.count_low = false;
        self.written();
        Ok(HsmAnswer::Unblocked)
    }

    /// `C_InitToken` on a token with a label; the worker closed its sessions before.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn erase(&mut self, so_pin: &Code) -> Result<HsmAnswer, HsmFailure> {
        if self.live.label.is_none() {
            return Err(HsmFailure::Refused(Refusal::SlotUninitialised));
        }
        self.session = LoginState::Public;
        self.check_so(so_pin, Function::InitToken)?;
        self.live.user_pin = Code::NONE;
        self.live.wrong_in_row = 0;
        self.live.count_low = false;
        self.live.backup_keys = [None; BACKUP_KEYS_MAX];
        self.has_objects = false;
        if self.character.settles_itself {
            // Kryoptic gives it another serial.
            self.serial[4] = self.serial[4].wrapping_add(1);
        }
        self.written();
        Ok(HsmAnswer::Erased(self.state()))
    }

    /// W and MAK of a backup key, made by the user who is logged in. Those that are there with
    /// the same bytes count as made, others of the same name are replaced.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn put_backup_keys(
        &mut self,
        (key_id, uid): ([u8; 16], [u8; 16]),
        kek: &Code,
        mak: &Code,
        unwrap: bool,
        extent: Extent,
    ) -> Result<HsmAnswer, HsmFailure> {
        self.needs_user(Function::CreateObject)?;
        if kek.bytes().len() != 32 || mak.bytes().len() != 32 {
            return Err(failure(rv::ARGUMENTS_BAD, Function::CreateObject));
        }
        let unwraps = unwrap.then_some((Purpose::Unwrap, *kek));
        for (purpose, value) in [(Purpose::Wrap, *kek), (Purpose::Authenticate, *mak)].into_iter().chain(unwraps) {
            let made = BackupKey { key_id, uid, purpose, value };
            let same_name = |key: &BackupKey| (key.key_id, key.uid, key.purpose) == (key_id, uid, purpose);
            let keys = &mut self.live.backup_keys;
            let place = keys.iter().position(|key| key.as_ref().is_some_and(same_name));
            let place = place.or_else(|| keys.iter().position(Option::is_none));
            let Some(place) = place.and_then(|place| keys.get_mut(place)) else {
                return Err(failure(rv::DEVICE_MEMORY, Function::CreateObject));
            };
            *place = Some(made);
            self.has_objects = true;
            self.written();
            if extent == Extent::FirstStep {
                return Err(HsmFailure::NoWorker);
            }
        }
        Ok(HsmAnswer::BackupKeysPut)
    }

    /// Destroys the keys of every backup key but this one, and says whether both of its keys are there.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn keep_backup_keys(
        &mut self,
        key_id: Option<[u8; 16]>,
        uid: [u8; 16],
        unwrap: bool,
    ) -> Result<HsmAnswer, HsmFailure> {
        self.needs_user(Function::FindObjects)?;
        let is_ours = |key: &BackupKey| key_id == Some(key.key_id) && key.uid == uid;
        let mut destroyed = 0u8;
        for place in &mut self.live.backup_keys {
            let may_stay = |key: &BackupKey| is_ours(key) && (unwrap || key.purpose != Purpose::Unwrap);
            if place.take_if(|key| !may_stay(key)).is_some() {
                destroyed = destroyed.saturating_add(1);
            }
        }
        if destroyed > 0 {
            self.written();
        }
        let ours = || self.live.backup_keys.iter().flatten().filter(|key| is_ours(key));
        let present =
            [Purpose::Wrap, Purpose::Authenticate].into_iter().all(|purpose| ours().any(|key| key.purpose == purpose));
        let unwrap = ours().any(|key| key.purpose == Purpose::Unwrap);
        Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap })
    }

    /// `C_Login` as SO, `C_SetPIN`, `C_Logout`.
    ///
    /// # Errors
    /// As the device or the worker answers.
    pub fn set_so_pin(&mut self, old: &Code, new: &Code) -> Result<HsmAnswer, HsmFailure> {
        if self.live.label.is_none() {
            return Err(HsmFailure::Refused(Refusal::SlotUninitialised));
        }
        if self.session != LoginState::Public {
            return Err(HsmFailure::AlreadyLoggedIn);
        }
        self.check_so(old, Function::Login)?;
        let chars = new.bytes().len();
        let chars_max = usize::from(self.character.pin_chars_max);
        if chars < PIN_CHARS_MIN || (chars_max != 0 && chars > chars_max) {
            return Err(failure(rv::PIN_LEN_RANGE, Function::SetPin));
        }
        self.live.so_pin = *new;
        self.written();
        Ok(HsmAnswer::SoPinSet)
    }

    /// What an export or a restoration wants. A simulated token holds no keys but ours, so it exports
    /// and imports none, and U is never in it.
    ///
    /// # Errors
    /// `CKR_USER_NOT_LOGGED_IN`; `CKR_FUNCTION_NOT_SUPPORTED` for everything but a count and a look for U.
    pub fn transfer(&mut self, call: &HsmCall) -> Result<HsmAnswer, HsmFailure> {
        if self.session != LoginState::User {
            return Err(failure(rv::USER_NOT_LOGGED_IN, Function::FindObjects));
        }
        match call {
            HsmCall::DropUnwrapKey { .. } => Ok(HsmAnswer::UnwrapKeyDropped),
            HsmCall::Inventory { .. } => Ok(HsmAnswer::Counted(KeyCounts::default())),
            _ => Err(failure(rv::FUNCTION_NOT_SUPPORTED, Function::Other)),
        }
    }

    /// Its file is durable.
    pub fn settle(&mut self) {
        self.settled = self.live;
    }

    /// Somebody else logs in with a wrong PIN.
    pub fn spend_a_try(&mut self) {
        self.count_wrong();
    }

    /// Somebody else changes the user PIN and lets the module settle it.
    pub fn change_elsewhere(&mut self, new: Code) {
        self.live.user_pin = new;
        self.live.wrong_in_row = 0;
        self.live.count_low = false;
        self.settled = self.live;
    }

    /// Whether a power cut now may lose something.
    #[must_use]
    pub fn is_unsettled(&self) -> bool {
        self.live != self.settled
    }

    /// The power goes: logins are gone; what was not settled is kept or lost.
    pub fn power_cut(&mut self, unsettled_is_kept: bool) {
        if unsettled_is_kept {
            self.settled = self.live;
        } else {
            self.live = self.settled;
        }
        self.session = LoginState::Public;
    }

    /// The worker ended: its logins are gone.
    pub fn worker_lost(&mut self) {
        self.session = LoginState::Public;
    }

    fn needs_user(&self, function: Function) -> Result<(), HsmFailure> {
        match self.session {
            LoginState::User => Ok(()),
            LoginState::Public | LoginState::SecurityOfficer => Err(failure(rv::USER_NOT_LOGGED_IN, function)),
        }
    }

    fn check(&mut self, pin: &Code, function: Function) -> Result<(), HsmFailure> {
        if self.live.user_pin.is_none() {
            return Err(failure(rv::USER_PIN_NOT_INITIALIZED, function));
        }
        if self.is_locked() {
            return Err(failure(rv::PIN_LOCKED, function));
        }
        if self.live.user_pin != *pin {
            self.count_wrong();
            return Err(failure(rv::PIN_INCORRECT, function));
        }
        if self.live.wrong_in_row != 0 || self.live.count_low {
            self.live.wrong_in_row = 0;
            self.live.count_low = false;
            self.written();
        }
        Ok(())
    }

    fn check_so(&mut self, so_pin: &Code, function: Function) -> Result<(), HsmFailure> {
        if self.is_so_locked() {
            return Err(failure(rv::PIN_LOCKED, function));
        }
        if self.live.so_pin != *so_pin {
            self.live.so_wrong_in_row = self.live.so_wrong_in_row.saturating_add(1).min(WRONG_PINS_MAX);
            self.written();
            return Err(failure(rv::PIN_INCORRECT, function));
        }
        if self.live.so_wrong_in_row != 0 {
            self.live.so_wrong_in_row = 0;
            self.written();
        }
        Ok(())
    }

    fn count_wrong(&mut self) {
        self.live.wrong_in_row = self.live.wrong_in_row.saturating_add(1).min(WRONG_PINS_MAX);
        self.live.count_low = self.character.shows_low_count;
        self.written();
    }

    fn written(&mut self) {
        if self.character.settles_itself {
            self.settled = self.live;
        }
    }
}

/// All tokens, and which of them our worker took for which slot.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    /// Every token of the world.
    pub tokens: heapless::Vec<Token, TOKENS_MAX>,
    /// Per slot the token that the last look found, by its place in `tokens`.
    pub attached: [Option<u8>; LABELS_MAX],
}

impl Tokens {
    /// Looks for the token of a slot and attaches what it finds.
    pub fn look(&mut self, slot: u8) -> Presence {
        let mut found = None;
        let mut count = 0;
        for (number, token) in (0u8..).zip(&self.tokens) {
            if token.is_there() && token.live.label == Some(slot) {
                found = Some((number, token.state()));
                count += 1;
            }
        }
        let (attached, presence) = match (found, count) {
            (Some((number, state)), 1) => (Some(number), Presence::Present(state)),
            (None, _) => (None, Presence::Absent { free: self.free_count() > 0 }),
            (Some(_), _) => (None, Presence::Ambiguous),
        };
        self.attached[usize::from(slot)] = attached;
        presence
    }

    /// The token that calls for this slot reach; `None` when it is gone or never came.
    pub fn of(&mut self, slot: u8) -> Option<&mut Token> {
        let number = self.attached[usize::from(slot)]?;
        self.tokens.get_mut(usize::from(number)).filter(|token| token.is_there())
    }

    /// The token with the slot's label, whether the worker has seen it or not.
    #[must_use]
    pub fn labelled(&self, slot: u8) -> Option<&Token> {
        self.tokens.iter().find(|token| token.live.label == Some(slot))
    }

    /// The token that `slot init` takes: the labelled one, else the only free one.
    ///
    /// # Errors
    /// [`Refusal::NoFreeToken`], [`Refusal::SeveralFreeTokens`].
    pub fn for_init(&mut self, slot: u8, free_slot: Option<u64>) -> Result<u8, Refusal> {
        if let Some(number) = self.attached[usize::from(slot)] {
            return Ok(number);
        }
        let mut free = (0u8..).zip(&self.tokens).filter(|(_, token)| token.is_there() && token.live.label.is_none());
        match (free_slot, free.next(), free.next()) {
            (_, None, _) => Err(Refusal::NoFreeToken),
            (None, Some((number, _)), None) => Ok(number),
            (None, Some(_), Some(_)) => Err(Refusal::SeveralFreeTokens),
            (Some(wanted), Some(first), second) => [Some(first), second]
                .into_iter()
                .flatten()
                .chain(free)
                .map(|(number, _)| number)
                .find(|number| u64::from(*number) == wanted)
                .ok_or(Refusal::NoFreeToken),
        }
    }

    /// Makes the module's files durable.
    pub fn settle_all(&mut self) {
        for token in &mut self.tokens {
            token.settle();
        }
    }

    /// How many tokens are free.
    #[must_use]
    pub fn free_count(&self) -> usize {
        self.tokens.iter().filter(|token| token.is_there() && token.live.label.is_none()).count()
    }
}

fn failure(code: u64, function: Function) -> HsmFailure {
    HsmFailure::Pkcs11 { code, function }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(text: &str) -> Code {
        Code::new(text.as_bytes())
    }

    fn token(character: Character) -> Token {
        Token::initialised(1, character, 0, code("right-pin"), code("S-so-pin"))
    }

    fn wrong(function: Function) -> Result<HsmAnswer, HsmFailure> {
        Err(failure(rv::PIN_INCORRECT, function))
    }

    #[test]
    fn a_counting_token_shows_the_final_try_after_nine_wrong_pins_and_locks_after_ten() {
        let mut token = token(Character::COUNTING);
        for _ in 0..9 {
            assert!(!token.state().final_try);
            assert_eq!(token.login(&code("wrong-pin")), wrong(Function::Login));
        }
        assert!(token.state().final_try && !token.state().locked && !token.state().count_low);
        assert_eq!(token.login(&code("wrong-pin")), wrong(Function::Login));
        assert!(token.state().locked);
        assert_eq!(token.login(&code("right-pin")), Err(failure(rv::PIN_LOCKED, Function::Login)));
    }

    #[test]
    fn a_softhsm_like_token_never_locks_and_shows_a_low_count_until_a_good_login() {
        let mut token = token(Character::SOFT);
        for _ in 0..40 {
            assert_eq!(token.login(&code("wrong-pin")), wrong(Function::Login));
            assert!(token.state().count_low && !token.state().final_try && !token.state().locked);
        }
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert!(!token.state().count_low);
    }

    #[test]
    fn a_second_login_is_refused_before_the_pin_is_looked_at() {
        let mut token = token(Character::SOFT);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(token.login(&code("wrong-pin")), Err(HsmFailure::AlreadyLoggedIn));
        assert!(!token.state().count_low);
    }

    #[test]
    fn set_pin_needs_a_login_and_the_old_pin() {
        let mut token = token(Character::SOFT);
        let without = token.set_pin(&code("right-pin"), &code("next-pin"));
        assert_eq!(without, Err(failure(rv::USER_NOT_LOGGED_IN, Function::SetPin)));
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(token.set_pin(&code("wrong-pin"), &code("next-pin")), wrong(Function::SetPin));
        assert!(token.state().count_low);
        let long = token.set_pin(&code("right-pin"), &code("x"));
        assert_eq!(long, Err(failure(rv::PIN_LEN_RANGE, Function::SetPin)));
        assert_eq!(token.set_pin(&code("right-pin"), &code("next-pin")), Ok(HsmAnswer::PinSet));
        assert_eq!(token.live.user_pin, code("next-pin"));
    }

    #[test]
    fn an_unsettled_pin_may_be_lost_or_kept_by_a_power_cut_and_a_settled_one_is_kept() {
        for (settle, kept, expected) in [
            (false, false, "right-pin"),
            (false, true, "next-pin"),
            (true, false, "next-pin"),
            (true, true, "next-pin"),
        ] {
            let mut token = token(Character::SOFT);
            assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
            assert_eq!(token.set_pin(&code("right-pin"), &code("next-pin")), Ok(HsmAnswer::PinSet));
            if settle {
                token.settle();
            }
            token.power_cut(kept);
            assert_eq!(token.live.user_pin, code(expected));
            assert_eq!(token.session, LoginState::Public);
            assert!(!token.is_unsettled());
        }
    }

    const NAME: ([u8; 16], [u8; 16]) = ([1; 16], [9; 16]);
    const OTHER: ([u8; 16], [u8; 16]) = ([2; 16], [9; 16]);

    fn put(token: &mut Token, name: ([u8; 16], [u8; 16]), extent: Extent) -> Result<HsmAnswer, HsmFailure> {
        token.put_backup_keys(name, &Code::new(&[3; 32]), &Code::new(&[4; 32]), false, extent)
    }

    fn kept(present: bool, destroyed: u8) -> Result<HsmAnswer, HsmFailure> {
        Ok(HsmAnswer::BackupKeysKept { present, destroyed, unwrap: false })
    }

    #[test]
    fn backup_keys_need_a_login_and_whole_keys() {
        let mut token = token(Character::SOFT);
        let without = Err(failure(rv::USER_NOT_LOGGED_IN, Function::CreateObject));
        assert_eq!(put(&mut token, NAME, Extent::Whole), without);
        let without = Err(failure(rv::USER_NOT_LOGGED_IN, Function::FindObjects));
        assert_eq!(token.keep_backup_keys(None, NAME.1, true), without);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        let short = token.put_backup_keys(NAME, &Code::new(&[3; 16]), &Code::new(&[4; 32]), false, Extent::Whole);
        assert_eq!(short, Err(failure(rv::ARGUMENTS_BAD, Function::CreateObject)));
        assert_eq!(token.keep_backup_keys(Some(NAME.0), NAME.1, true), kept(false, 0));
    }

    #[test]
    fn a_kill_between_the_two_backup_keys_leaves_one_and_the_same_order_repairs_that() {
        let mut token = token(Character::COUNTING);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(put(&mut token, NAME, Extent::FirstStep), Err(HsmFailure::NoWorker));
        assert_eq!(token.keep_backup_keys(Some(NAME.0), NAME.1, true), kept(false, 0));
        assert_eq!(put(&mut token, NAME, Extent::Whole), Ok(HsmAnswer::BackupKeysPut));
        assert_eq!(put(&mut token, NAME, Extent::Whole), Ok(HsmAnswer::BackupKeysPut));
        assert_eq!(token.keep_backup_keys(Some(NAME.0), NAME.1, true), kept(true, 0));
        assert_eq!(token.keep_backup_keys(None, NAME.1, true), kept(false, 2));
    }

    #[test]
    fn keys_of_another_backup_key_are_destroyed_and_a_full_token_says_so() {
        let mut token = token(Character::SOFT);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        for name in [NAME, OTHER, ([5; 16], [9; 16])] {
            assert_eq!(put(&mut token, name, Extent::Whole), Ok(HsmAnswer::BackupKeysPut));
        }
        let full = Err(failure(rv::DEVICE_MEMORY, Function::CreateObject));
        assert_eq!(put(&mut token, ([6; 16], [9; 16]), Extent::Whole), full);
        assert_eq!(token.keep_backup_keys(Some(OTHER.0), OTHER.1, true), kept(true, 4));
        assert_eq!(token.keep_backup_keys(Some(OTHER.0), [0; 16], true), kept(false, 2), "another slot's uid");
    }

    #[test]
    fn unsettled_backup_keys_may_be_lost_by_a_power_cut_and_erasing_destroys_them() {
        let mut token = token(Character::SOFT);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(put(&mut token, NAME, Extent::Whole), Ok(HsmAnswer::BackupKeysPut));
        token.power_cut(false);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(token.keep_backup_keys(Some(NAME.0), NAME.1, true), kept(false, 0));
        assert_eq!(put(&mut token, NAME, Extent::Whole), Ok(HsmAnswer::BackupKeysPut));
        token.settle();
        token.power_cut(false);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(token.keep_backup_keys(Some(NAME.0), NAME.1, true), kept(true, 0));
        assert!(token.erase(&code("S-so-pin")).is_ok());
        assert!(token.live.backup_keys.iter().all(Option::is_none));
    }

    #[test]
    fn another_so_pin_needs_the_present_one_and_nobody_logged_in() {
        let mut token = token(Character::STRICT);
        assert_eq!(token.set_so_pin(&code("S-wrong"), &code("S-next")), wrong(Function::Login));
        assert!(token.state().so_count_low);
        let long = Code::new(&[b'x'; 33]);
        let refused = Err(failure(rv::PIN_LEN_RANGE, Function::SetPin));
        assert_eq!(token.set_so_pin(&code("S-so-pin"), &long), refused);
        assert_eq!(token.login(&code("right-pin")), Ok(HsmAnswer::LoggedIn));
        assert_eq!(token.set_so_pin(&code("S-so-pin"), &code("S-next")), Err(HsmFailure::AlreadyLoggedIn));
        assert_eq!(token.logout(), Ok(HsmAnswer::LoggedOut));
        assert_eq!(token.set_so_pin(&code("S-so-pin"), &code("S-next")), Ok(HsmAnswer::SoPinSet));
        assert_eq!(token.unblock(&code("S-so-pin"), &code("next-pin")), wrong(Function::Login));
        assert_eq!(token.unblock(&code("S-next"), &code("next-pin")), Ok(HsmAnswer::Unblocked));
    }

    #[test]
    fn initialise_refuses_a_token_with_a_user_pin_and_checks_the_so_pin_of_a_labelled_one() {
        let mut used = token(Character::SOFT);
        assert_eq!(
            used.initialise(0, &code("S-so-pin"), &code("first-pin"), Extent::Whole),
            Err(HsmFailure::Refused(Refusal::SlotHasToken))
        );
        let mut labelled = Token::initialised(2, Character::SOFT, 0, Code::NONE, code("S-so-pin"));
        assert_eq!(labelled.initialise(0, &code("S-wrong"), &code("first-pin"), Extent::Whole), wrong(Function::Login));
        assert!(labelled.initialise(0, &code("S-so-pin"), &code("first-pin"), Extent::Whole).is_ok());
        assert_eq!(labelled.live.user_pin, code("first-pin"));
    }

    #[test]
    fn a_kill_inside_initialise_leaves_a_labelled_token_without_a_user_pin() {
        let mut token = Token::free(3, Character::COUNTING);
        assert!(token.initialise(1, &code("S-so-pin"), &code("first-pin"), Extent::FirstStep).is_err());
        assert!(token.state().initialised && !token.state().user_pin);
        assert!(token.initialise(1, &code("S-so-pin"), &code("first-pin"), Extent::Whole).is_ok());
    }

    #[test]
    fn a_look_tells_absent_present_and_ambiguous_apart() {
        let mut world = Tokens::default();
        assert_eq!(world.look(0), Presence::Absent { free: false });
        assert!(world.tokens.push(Token::free(1, Character::SOFT)).is_ok());
        assert_eq!(world.look(0), Presence::Absent { free: true });
        assert!(world.tokens.push(token(Character::SOFT)).is_ok());
        assert!(matches!(world.look(0), Presence::Present(state) if state.user_pin));
        assert!(world.of(0).is_some());
        assert!(world.tokens.push(token(Character::SOFT)).is_ok());
        assert_eq!(world.look(0), Presence::Ambiguous);
        assert!(world.of(0).is_none());
    }

    #[test]
    fn init_takes_the_only_free_token_and_asks_when_there_are_several() {
        let mut world = Tokens::default();
        assert_eq!(world.for_init(0, None), Err(Refusal::NoFreeToken));
        assert!(world.tokens.push(Token::free(1, Character::SOFT)).is_ok());
        assert_eq!(world.for_init(0, None), Ok(0));
        assert!(world.tokens.push(Token::free(2, Character::SOFT)).is_ok());
        assert_eq!(world.for_init(0, None), Err(Refusal::SeveralFreeTokens));
        assert_eq!(world.for_init(0, Some(1)), Ok(1));
        assert_eq!(world.for_init(0, Some(7)), Err(Refusal::NoFreeToken));
    }
}
