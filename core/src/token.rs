//! What a PKCS#11 token says about itself.
//!
//! Source: PKCS#11 v3.1, section 3.2 (`CK_TOKEN_INFO`). Everything here comes from a module
//! that may be faulty or hostile: it is compared and shown, never trusted for a length.

use serde::{Deserialize, Serialize};

/// `CK_TOKEN_INFO.serialNumber`, blank padded as the module gave it.
pub type Serial = [u8; 16];

/// The flags and figures of a token that matter to us.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub struct TokenState {
    /// Serial number.
    pub serial: Serial,
    /// `CKF_TOKEN_INITIALIZED`.
    pub initialised: bool,
    /// `CKF_USER_PIN_INITIALIZED`.
    pub user_pin: bool,
    /// `CKF_USER_PIN_COUNT_LOW`: at least one refused login since the last accepted one.
    pub count_low: bool,
    /// `CKF_USER_PIN_FINAL_TRY`.
    pub final_try: bool,
    /// `CKF_USER_PIN_LOCKED`.
    pub locked: bool,
    /// `CKF_SO_PIN_COUNT_LOW`: at least one refused login of the SO since the last accepted one.
    pub so_count_low: bool,
    /// `CKF_SO_PIN_FINAL_TRY`.
    pub so_final_try: bool,
    /// `CKF_SO_PIN_LOCKED`: no unblock and no decommission any more.
    pub so_locked: bool,
    /// `ulMaxPinLen`, characters; 0 means unstated.
    pub pin_chars_max: u16,
    /// Who is logged in on our sessions with this token (`CK_SESSION_INFO.state`).
    pub login: LoginState,
}

/// `CK_SESSION_INFO.state`, without the read-only and read-write halves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum LoginState {
    /// No session, or a public one: a login now proves the PIN.
    Public,
    /// The user is logged in.
    User,
    /// The security officer is logged in.
    SecurityOfficer,
}

/// What the platform found when it looked for the token of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "defmt", derive(defmt::Format))]
pub enum Presence {
    /// Exactly one token matches the slot's label and serial.
    Present(TokenState),
    /// No token matches.
    Absent {
        /// Whether the module offers an uninitialised token that `slot init` could take.
        free: bool,
    },
    /// Several tokens match: none is touched until the configuration names a serial.
    Ambiguous,
}
