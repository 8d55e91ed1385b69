//! The bytes of one PIN or code, as tokens and people hold them.
//!
//! Only the simulated world has this type: here codes are worthless, so they may be copied
//! and compared freely. Its `Debug` still prints nothing, so that a secret found in a trace
//! (P3) is always the core's doing.
//!
//! Every code made in this world shows what it is by its shape, so that a checker needs no
//! list: manual codes begin `M-`, SO PINs `S-`; a generated code is Base58 and holds no `-`.

use std::fmt;

use slotwarden_core::limits::PLACE_BYTES;

/// A PIN or code of up to 64 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Code {
    len: u8,
    bytes: [u8; PLACE_BYTES],
}

impl Code {
    /// No code at all.
    pub const NONE: Code = Code { len: 0, bytes: [0; PLACE_BYTES] };

    /// The first 64 of these bytes.
    #[must_use]
    pub fn new(bytes: &[u8]) -> Self {
        let mut code = Code::NONE;
        for (to, from) in code.bytes.iter_mut().zip(bytes) {
            *to = *from;
            code.len += 1;
        }
        code
    }

    /// A manual code that nobody used before: 16 characters.
    #[must_use]
    pub fn manual(random: &mut fastrand::Rng) -> Self {
        Self::typed(b"M-", random)
    }

    /// An SO PIN that nobody used before: 16 characters.
    #[must_use]
    pub fn so_pin(random: &mut fastrand::Rng) -> Self {
        Self::typed(b"S-", random)
    }

    /// A part of a manual code: 8 characters, so that three fit every token.
    #[must_use]
    pub fn part(random: &mut fastrand::Rng) -> Self {
        Code::new(&Self::typed(b"M-", random).bytes()[..8])
    }

    fn typed(prefix: &[u8; 2], random: &mut fastrand::Rng) -> Self {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(prefix);
        let drawn = random.u128(..).to_le_bytes();
        for (to, from) in bytes[2..].iter_mut().zip(drawn) {
            *to = b'a' + (from & 0x0F);
        }
        Code::new(&bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }

    /// Copies the code into a place of the Safe; returns its length.
    pub fn write(&self, place: &mut [u8]) -> usize {
        place[..usize::from(self.len)].copy_from_slice(self.bytes());
        usize::from(self.len)
    }

    /// Whether there is no code.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.len == 0
    }

    /// Whether it has the shape of what the service generates: nothing a person typed.
    #[must_use]
    pub fn is_generated(&self) -> bool {
        self.len >= 22 && !self.bytes().contains(&b'-')
    }
}

impl fmt::Debug for Code {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Code(..)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manual_code_is_never_taken_for_a_generated_one() {
        let mut random = fastrand::Rng::with_seed(1);
        assert!(!Code::manual(&mut random).is_generated());
        assert!(!Code::so_pin(&mut random).is_generated());
        assert!(!Code::NONE.is_generated());
        assert!(Code::new(&[b'a'; 32]).is_generated());
        assert_ne!(Code::manual(&mut random), Code::manual(&mut random));
    }
}
