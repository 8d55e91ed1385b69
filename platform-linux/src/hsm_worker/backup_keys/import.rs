//! How the bytes of a key become a key of the token.
//!
//! By `C_CreateObject`, where the module takes secret keys in the clear. Where it does not, as
//! modules in a FIPS mode, by `C_UnwrapKey`: the bytes are encrypted by RSA-OAEP to a pair that
//! the token makes for this, as objects of the session; its private key never leaves the token
//! and both are destroyed before the answer. With the session that is closed by a worker's
//! death they are gone too.

use std::ffi::c_ulong;

use cryptoki::mechanism::rsa::{PkcsMgfType, PkcsOaepParams, PkcsOaepSource};
use cryptoki::mechanism::{Mechanism, MechanismType};
use cryptoki::object::{Attribute, ObjectHandle};
use cryptoki::session::Session;
use slotwarden_core::fault::{Function, HsmFailure, rv};

use super::super::module::{Module, code, failure};
use super::{Objects, Template};

/// Strength of the pair: 128 bits (NIST SP 800-57 part 1, table 2).
const MODULUS_BITS: c_ulong = 3072;
/// 65537, big-endian.
const PUBLIC_EXPONENT: [u8; 3] = [1, 0, 1];
/// Codes below this are the standard's, the others a vendor's own (PKCS#11 v3.1, section 3.6).
const VENDOR_CODES: u64 = 0x8000_0000;

/// Imports keys for the time of one order.
pub(super) struct Importer<'a> {
    module: &'a Module,
    open: &'a Session,
    /// The pair, once the module refused a key in the clear.
    carrier: Option<Carrier>,
}

/// A pair that carries keys into the token.
#[derive(Clone, Copy)]
struct Carrier {
    public: ObjectHandle,
    private: ObjectHandle,
}

impl<'a> Importer<'a> {
    pub(super) fn new(module: &'a Module, open: &'a Session) -> Self {
        Importer { module, open, carrier: None }
    }

    /// Makes a key with these attributes and bytes.
    pub(super) fn import(&mut self, attributes: Vec<Attribute>, bytes: &[u8]) -> Result<ObjectHandle, HsmFailure> {
        if self.carrier.is_none() {
            let template = Template::with_value(attributes.clone(), bytes);
            let created = self.module.call(|_| self.open.create_object(&template.0));
            match created.map_err(|error| failure(&error, Function::CreateObject)) {
                Err(HsmFailure::Pkcs11 { code, .. }) if refuses_the_clear(code) => {}
                other => return other,
            }
        }
        self.unwrap(&attributes, bytes)
    }

    /// Destroys the pair. A token that does not let it go forgets it with the session.
    pub(super) fn finish(&mut self) {
        if let Some(Carrier { public, private }) = self.carrier.take() {
            let objects = Objects { module: self.module, open: self.open };
            let _ = objects.destroy(private);
            let _ = objects.destroy(public);
        }
    }

    fn unwrap(&mut self, attributes: &[Attribute], bytes: &[u8]) -> Result<ObjectHandle, HsmFailure> {
        let Carrier { public, private } = self.carrier()?;
        let mut refused = HsmFailure::Pkcs11 { code: rv::FUNCTION_NOT_SUPPORTED, function: Function::Encrypt };
        // SoftHSM 2.6 knows OAEP with SHA-1 only, where its collisions do no harm (RFC 8017, section 9.1).
        for (hash, mask) in
            [(MechanismType::SHA256, PkcsMgfType::MGF1_SHA256), (MechanismType::SHA1, PkcsMgfType::MGF1_SHA1)]
        {
            let oaep = Mechanism::RsaPkcsOaep(PkcsOaepParams::new(hash, mask, PkcsOaepSource::empty()));
            match self.through(&oaep, public, private, attributes, bytes) {
                Ok(key) => return Ok(key),
                Err(error) => refused = error,
            }
        }
        Err(refused)
    }

    fn through(
        &self,
        oaep: &Mechanism<'_>,
        public: ObjectHandle,
        private: ObjectHandle,
        attributes: &[Attribute],
        bytes: &[u8],
    ) -> Result<ObjectHandle, HsmFailure> {
        let wrapped = self.module.call(|_| self.open.encrypt(oaep, public, bytes));
        let wrapped = wrapped.map_err(|error| failure(&error, Function::Encrypt))?;
        let unwrapped = self.module.call(|_| self.open.unwrap_key(oaep, private, &wrapped, attributes));
        unwrapped.map_err(|error| failure(&error, Function::UnwrapKey))
    }

    fn carrier(&mut self) -> Result<Carrier, HsmFailure> {
        if let Some(carrier) = self.carrier {
            return Ok(carrier);
        }
        let public = [
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::ModulusBits(MODULUS_BITS.into()),
            Attribute::PublicExponent(PUBLIC_EXPONENT.to_vec()),
            Attribute::Encrypt(true),
            Attribute::Wrap(false),
            Attribute::Verify(false),
        ];
        let private = [
            Attribute::Token(false),
            Attribute::Private(true),
            Attribute::Sensitive(true),
            Attribute::Extractable(false),
            Attribute::Unwrap(true),
            Attribute::Decrypt(false),
            Attribute::Sign(false),
        ];
        let made = self.module.call(|_| self.open.generate_key_pair(&Mechanism::RsaPkcsKeyPairGen, &public, &private));
        let (public, private) = made.map_err(|error| failure(&error, Function::GenerateKeyPair))?;
        let carrier = Carrier { public, private };
        self.carrier = Some(carrier);
        Ok(carrier)
    }
}

/// Whether a refusal of `C_CreateObject` may mean that secret keys are not taken in the clear.
/// The standard has no code of its own for that.
fn refuses_the_clear(code: u64) -> bool {
    matches!(
        code,
        code::ATTRIBUTE_READ_ONLY
            | code::ATTRIBUTE_TYPE_INVALID
            | code::ATTRIBUTE_VALUE_INVALID
            | code::ACTION_PROHIBITED
            | rv::FUNCTION_NOT_SUPPORTED
            | code::KEY_FUNCTION_NOT_PERMITTED
            | code::TEMPLATE_INCOMPLETE
            | code::TEMPLATE_INCONSISTENT
    ) || code >= VENDOR_CODES
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_gone_or_full_is_not_taken_for_one_that_refuses_keys_in_the_clear() {
        for code in [rv::TOKEN_NOT_PRESENT, rv::DEVICE_ERROR, rv::DEVICE_MEMORY, rv::USER_NOT_LOGGED_IN] {
            assert!(!refuses_the_clear(code), "{code:#x}");
        }
        assert!(refuses_the_clear(code::TEMPLATE_INCONSISTENT));
        assert!(refuses_the_clear(0x8000_0001), "a vendor's own");
    }
}
