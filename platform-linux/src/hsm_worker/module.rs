//! The loaded PKCS#11 module, and how its errors become ours.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use cryptoki::context::{CInitializeArgs, CInitializeFlags, Function as Called, Pkcs11};
use cryptoki::error::{Error, Rv, RvError};
use slotwarden_core::fault::{Function, HsmFailure, rv};

use super::backup_keys::Bare;
use super::callers::Callers;
use super::lock::{Marked, Rewrites, WorkerLock};

/// Return values above this are a vendor's own (PKCS#11 v3.1, section 3.6).
const STANDARD_RV_MAX: u64 = 0x400;

/// `CK_RV` values that only this room decides about (PKCS#11 v3.1, section 6).
pub(super) mod code {
    /// `CKR_SLOT_ID_INVALID`
    pub(crate) const SLOT_ID_INVALID: u64 = 0x03;
    /// `CKR_GENERAL_ERROR`: what SoftHSM says of a token that went or came back.
    pub(crate) const GENERAL_ERROR: u64 = 0x05;
    /// `CKR_FUNCTION_FAILED`: our stand-in where cryptoki has an error without a code.
    pub(crate) const FUNCTION_FAILED: u64 = 0x06;
    /// `CKR_ATTRIBUTE_READ_ONLY`
    pub(crate) const ATTRIBUTE_READ_ONLY: u64 = 0x10;
    /// `CKR_ATTRIBUTE_TYPE_INVALID`
    pub(crate) const ATTRIBUTE_TYPE_INVALID: u64 = 0x12;
    /// `CKR_ATTRIBUTE_VALUE_INVALID`
    pub(crate) const ATTRIBUTE_VALUE_INVALID: u64 = 0x13;
    /// `CKR_ACTION_PROHIBITED`
    pub(crate) const ACTION_PROHIBITED: u64 = 0x1B;
    /// `CKR_DEVICE_REMOVED`
    pub(crate) const DEVICE_REMOVED: u64 = 0x32;
    /// `CKR_KEY_FUNCTION_NOT_PERMITTED`
    pub(crate) const KEY_FUNCTION_NOT_PERMITTED: u64 = 0x68;
    /// `CKR_MECHANISM_INVALID`
    pub(crate) const MECHANISM_INVALID: u64 = 0x70;
    /// `CKR_MECHANISM_PARAM_INVALID`
    pub(crate) const MECHANISM_PARAM_INVALID: u64 = 0x71;
    /// `CKR_SESSION_CLOSED`
    pub(crate) const SESSION_CLOSED: u64 = 0xB0;
    /// `CKR_SESSION_HANDLE_INVALID`
    pub(crate) const SESSION_HANDLE_INVALID: u64 = 0xB3;
    /// `CKR_TEMPLATE_INCOMPLETE`
    pub(crate) const TEMPLATE_INCOMPLETE: u64 = 0xD0;
    /// `CKR_TEMPLATE_INCONSISTENT`
    pub(crate) const TEMPLATE_INCONSISTENT: u64 = 0xD1;
    /// `CKR_TOKEN_NOT_RECOGNIZED`
    pub(crate) const TOKEN_NOT_RECOGNIZED: u64 = 0xE1;
    /// `CKR_TOKEN_RESOURCE_EXCEEDED`
    pub(crate) const TOKEN_RESOURCE_EXCEEDED: u64 = 0x201;
    /// `CKR_CRYPTOKI_NOT_INITIALIZED`
    pub(crate) const CRYPTOKI_NOT_INITIALIZED: u64 = 0x190;
}

/// A module that answered `C_Initialize`.
pub(crate) struct Module {
    pub(super) context: Pkcs11,
    /// Who makes its calls, and how many at a time.
    pub(super) callers: Callers,
    /// Only one slot takes a free token at a time.
    pub(super) initialising: Mutex<()>,
    /// The daemon is gone: calls that have not begun are not begun.
    pub(super) stopping: AtomicBool,
    /// A thread is inside a call of the first look that never came back.
    pub(super) look_hangs: AtomicBool,
    /// How long one look waits for all slots together.
    pub(super) look_wait: Duration,
    lock: Option<WorkerLock>,
    path: PathBuf,
    bare: OnceLock<Option<Bare>>,
}

impl Module {
    /// Loads and initialises the module.
    ///
    /// # Errors
    /// The loader's words, or the function and code, for people.
    pub(super) fn load(
        path: &Path,
        look_wait: Duration,
        calls_max: usize,
        lock: Option<WorkerLock>,
    ) -> Result<Self, String> {
        let context = Pkcs11::new(path).map_err(|error| match error {
            // The loader's text (dlerror) names path and reason; the crate's own prefix says nothing more.
            Error::LibraryLoading(reason) => reason.to_string(),
            other => other.to_string(),
        })?;
        context
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(|error| format!("C_Initialize: {error}"))?;
        Ok(Module {
            context,
            callers: Callers::new(calls_max),
            initialising: Mutex::new(()),
            stopping: AtomicBool::new(false),
            look_hangs: AtomicBool::new(false),
            look_wait,
            lock,
            path: path.to_path_buf(),
            bare: OnceLock::new(),
        })
    }

    /// One call, counted and measured.
    pub(super) fn call<T>(&self, call: impl FnOnce(&Pkcs11) -> T) -> T {
        self.callers.call(|| call(&self.context))
    }

    /// The module's own function list, for what cryptoki does not offer.
    pub(super) fn bare(&self) -> Option<&Bare> {
        self.bare.get_or_init(|| Bare::load(&self.path)).as_ref()
    }

    /// Vendor, library and version, as `status` shows them.
    pub(super) fn description(&self) -> String {
        match self.context.get_library_info() {
            Ok(info) => format!(
                "{} {} {}.{}",
                info.manufacturer_id().trim(),
                info.library_description().trim(),
                info.library_version().major(),
                info.library_version().minor()
            ),
            Err(error) => format!("unknown ({error})"),
        }
    }

    /// Marks the lock file while a call runs in which the module may rewrite a token file:
    /// SoftHSM does so in place, so a kill there can destroy the token.
    pub(super) fn marked(&self, rewrites: Rewrites) -> Option<Marked<'_>> {
        self.lock.as_ref().map(|lock| lock.mark(rewrites))
    }

    /// `C_Finalize`; logs out every slot.
    pub(super) fn finalise(&self) {
        if !self.look_hangs.load(Ordering::SeqCst) {
            // The process ends next, whatever the module answers.
            let _ = self.context.clone().finalize();
        }
    }
}

/// What cryptoki reported, as the core knows it: the code stays.
pub(super) fn failure(error: &Error, asked: Function) -> HsmFailure {
    match error {
        Error::Pkcs11(reason, called) => HsmFailure::Pkcs11 { code: code_of(*reason), function: function(*called) },
        Error::NullFunctionPointer | Error::NotSupported => {
            HsmFailure::Pkcs11 { code: rv::FUNCTION_NOT_SUPPORTED, function: asked }
        }
        // The module answered with something that is not in the standard.
        _ => HsmFailure::Pkcs11 { code: code::FUNCTION_FAILED, function: asked },
    }
}

/// Whether a code says that the token is not there any more.
pub(super) fn says_gone(code: u64) -> bool {
    [
        rv::TOKEN_NOT_PRESENT,
        code::DEVICE_REMOVED,
        code::SLOT_ID_INVALID,
        code::TOKEN_NOT_RECOGNIZED,
        code::GENERAL_ERROR,
    ]
    .contains(&code)
}

/// `CK_RV` of cryptoki's name for it. The crate maps one way only, so we ask it for each code.
fn code_of(reason: RvError) -> u64 {
    match reason {
        RvError::VendorDefined(code) | RvError::UnknownErrorCode(code) => code,
        named => {
            (1..=STANDARD_RV_MAX).find(|code| Rv::from(*code) == Rv::Error(named)).unwrap_or(code::FUNCTION_FAILED)
        }
    }
}

fn function(called: Called) -> Function {
    match called {
        Called::Initialize => Function::Initialize,
        Called::GetSlotList => Function::GetSlotList,
        Called::GetTokenInfo => Function::GetTokenInfo,
        Called::GetSessionInfo => Function::GetSessionInfo,
        Called::OpenSession => Function::OpenSession,
        Called::CloseSession => Function::CloseSession,
        Called::Login => Function::Login,
        Called::Logout => Function::Logout,
        Called::SetPIN => Function::SetPin,
        Called::InitToken => Function::InitToken,
        Called::InitPIN => Function::InitPin,
        Called::FindObjectsInit | Called::FindObjects | Called::FindObjectsFinal => Function::FindObjects,
        Called::GetAttributeValue => Function::GetAttributeValue,
        Called::CreateObject => Function::CreateObject,
        Called::DestroyObject => Function::DestroyObject,
        Called::WrapKey => Function::WrapKey,
        Called::UnwrapKey => Function::UnwrapKey,
        Called::SignInit | Called::Sign => Function::Sign,
        Called::EncryptInit | Called::Encrypt => Function::Encrypt,
        Called::GenerateKeyPair => Function::GenerateKeyPair,
        Called::GenerateRandom => Function::GenerateRandom,
        _ => Function::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_survive_the_way_through_cryptoki() {
        let known = [
            rv::PIN_INCORRECT,
            rv::PIN_LOCKED,
            rv::USER_ALREADY_LOGGED_IN,
            rv::USER_NOT_LOGGED_IN,
            rv::TOKEN_NOT_PRESENT,
            code::GENERAL_ERROR,
            code::DEVICE_REMOVED,
            code::SESSION_HANDLE_INVALID,
            0x8000_0001, // a vendor's own
            0x0FFF,      // in no list
        ];
        for code in known {
            let Rv::Error(reason) = Rv::from(code) else { panic!("{code:#x} is an error") };
            let error = Error::Pkcs11(reason, Called::SetPIN);
            assert_eq!(failure(&error, Function::Other), HsmFailure::Pkcs11 { code, function: Function::SetPin });
        }
    }

    #[test]
    fn an_error_without_a_code_keeps_the_function_we_asked_for() {
        let absent = failure(&Error::NullFunctionPointer, Function::SetPin);
        assert_eq!(absent, HsmFailure::Pkcs11 { code: rv::FUNCTION_NOT_SUPPORTED, function: Function::SetPin });
    }
}
