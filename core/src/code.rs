//! Authentication codes: what a typed one must look like, and how a generated one is made.

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;
use zeroize::{Zeroize, Zeroizing};

use crate::derive;
use crate::fault::{Fault, Refusal};
use crate::limits::{
    CODE_CHARS_MAX, CODE_CHARS_MIN, GENERATED_CHARS, GENERATED_CHARS_MIN, PASSPHRASE_CHARS_MAX, PASSPHRASE_CHARS_MIN,
};
use crate::safe::{SecretId, Secrets};
use crate::share::{TypedShare, looks_like_share};

/// The 58 characters without `0 O I l`, which people mistake for each other.
pub const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// Checks a typed code before the token is touched, so that a typo costs no try.
///
/// `token_chars_max` is the token's `ulMaxPinLen`; 0 means unstated.
///
/// # Errors
/// [`Refusal::CodeTooShort`], [`Refusal::CodeTooLong`], [`Refusal::CodeNotPrintable`].
pub fn check_typed(code: &[u8], chars_max: u16) -> Result<(), Refusal> {
    if !code.iter().all(|byte| (0x20..=0x7E).contains(byte)) {
        return Err(Refusal::CodeNotPrintable);
    }
    if code.len() < CODE_CHARS_MIN {
        return Err(Refusal::CodeTooShort);
    }
    let chars_max = usize::from(chars_max);
    if code.len() > CODE_CHARS_MAX || (chars_max != 0 && code.len() > chars_max) {
        return Err(Refusal::CodeTooLong);
    }
    Ok(())
}

/// Checks a typed code in the Safe, as [`check_typed`] does.
///
/// # Errors
/// As [`check_typed`]; [`Refusal::CodeMissing`] for a place that holds none; [`Refusal::ShareForeign`]
/// for a whole share, which without its hyphens is short enough for a code.
pub fn check_in_safe(secrets: &dyn Secrets, id: SecretId, token_chars_max: u16) -> Result<(), Refusal> {
    let mut verdict = Err(Refusal::CodeMissing);
    secrets.lend(id, &mut |bytes| {
        let is_share = looks_like_share(bytes) && TypedShare::parse(bytes).is_ok();
        verdict = if is_share { Err(Refusal::ShareForeign) } else { check_typed(bytes, token_chars_max) };
    });
    verdict
}

/// Checks the passphrase of a new export.
///
/// # Errors
/// [`Refusal::CodeNotPrintable`], [`Refusal::PassphraseTooShort`], [`Refusal::SecretTooLong`].
pub fn check_passphrase(passphrase: &[u8]) -> Result<(), Refusal> {
    if !passphrase.iter().all(|byte| (0x20..=0x7E).contains(byte)) {
        return Err(Refusal::CodeNotPrintable);
    }
    if passphrase.len() < PASSPHRASE_CHARS_MIN {
        return Err(Refusal::PassphraseTooShort);
    }
    if passphrase.len() > PASSPHRASE_CHARS_MAX {
        return Err(Refusal::SecretTooLong);
    }
    Ok(())
}

/// Whether two secrets are equal, in constant time for equal lengths.
#[must_use]
pub fn equal(one: &[u8], other: &[u8]) -> bool {
    one.ct_eq(other).into()
}

/// How long a generated code is, characters, where the token and the applications take `chars_max` (0: unstated).
///
/// # Errors
/// [`Refusal::GeneratedTooShort`] when that is fewer than 22 (128 bit).
pub fn generated_chars(chars_max: u16) -> Result<usize, Refusal> {
    match usize::from(chars_max) {
        0 => Ok(GENERATED_CHARS),
        max if max < GENERATED_CHARS_MIN => Err(Refusal::GeneratedTooShort),
        max => Ok(max.min(GENERATED_CHARS)),
    }
}

/// Watches the two random sources across draws.
///
/// A source is *stuck* when all its bytes are the same or it repeats its last draw. One
/// stuck source does not make a code guessable, since the other is mixed in; two do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RandomWatch {
    last: [Option<[u8; 8]>; 2],
}

impl RandomWatch {
    /// A watch that has seen no draw.
    #[must_use]
    pub const fn new() -> Self {
        RandomWatch { last: [None; 2] }
    }

    /// Turns the 64 random bytes at `id` (two halves of 32, one from each source) into a
    /// code of `chars` Base58 characters, in place: HKDF-SHA-256 over both halves, then
    /// rejection sampling, so that every character is equally likely.
    ///
    /// # Errors
    /// [`Fault::RandomStuck`] when neither source can be trusted; [`Fault::RandomUnavailable`]
    /// when the place does not hold two halves.
    pub fn generate(&mut self, secrets: &mut dyn Secrets, id: SecretId, chars: usize) -> Result<(), Fault> {
        let mut key = Zeroizing::new([0u8; 32]);
        let mut verdict = Err(Fault::RandomUnavailable);
        let lent = secrets.lend(id, &mut |drawn| verdict = self.mix(drawn, &mut key));
        lent.ok_or(Fault::RandomUnavailable)?;
        verdict?;
        let mut written = 0;
        let refilled = secrets.rewrite(id, &mut |place| {
            written = expand_base58(&key, place, chars);
            written
        });
        if refilled && written == chars { Ok(()) } else { Err(Fault::RandomUnavailable) }
    }

    /// Mixes both halves into `key` without making a code: for a slot uid.
    ///
    /// # Errors
    /// As [`RandomWatch::generate`].
    pub fn mix(&mut self, drawn: &[u8], key: &mut [u8; 32]) -> Result<(), Fault> {
        let (first, second) = drawn.split_at_checked(32).ok_or(Fault::RandomUnavailable)?;
        if second.len() != 32 {
            return Err(Fault::RandomUnavailable);
        }
        let stuck = [self.is_stuck(0, first), self.is_stuck(1, second)];
        if stuck == [true, true] {
            return Err(Fault::RandomStuck);
        }
        let mut prk = Zeroizing::new([0; derive::KEY_BYTES]);
        if derive::extract(first, &[second], &mut prk) && derive::expand(&prk, [b"slotwarden/random/v1", &[]], key) {
            Ok(())
        } else {
            Err(Fault::RandomUnavailable)
        }
    }

    /// Notes this draw of a source, and whether it gives no new randomness.
    fn is_stuck(&mut self, source: usize, half: &[u8]) -> bool {
        let constant = half.iter().all(|byte| Some(byte) == half.first());
        let mut mark = [0; 8];
        for (to, from) in mark.iter_mut().zip(Sha256::digest(half)) {
            *to = from;
        }
        let Some(last) = self.last.get_mut(source) else { return true };
        let repeated = *last == Some(mark);
        *last = Some(mark);
        constant || repeated
    }
}

/// Fills `place` with `chars` Base58 characters expanded from `key`; returns how many it wrote.
fn expand_base58(key: &[u8; 32], place: &mut [u8], chars: usize) -> usize {
    // 255 is HKDF's bound on blocks; one block of 64 bytes yields 58 characters on average.
    for round in 0..=u8::MAX {
        let mut stream = Zeroizing::new([0u8; 128]);
        if !derive::expand(key, [b"slotwarden/code/v1", &[round]], stream.as_mut_slice()) {
            return 0;
        }
        let written = base58_digits(stream.as_slice(), place, chars);
        if written == chars {
            return written;
        }
        place.zeroize();
    }
    0
}

/// Writes the token PIN that a secret of typed shares (16 bytes) or cards (32) gives, alone or
/// on top of a code, into `out`; returns `chars`, or 0 with `out` wiped when that is not 22 to
/// 32 (what [`generated_chars`] says for the token), `out` is smaller or the code longer than
/// 65,535.
///
/// How others compute it: PRK = HKDF-Extract with SHA-256 (RFC 5869), salt = slot uid,
/// IKM = secret ‖ length of the code (two bytes, big-endian; 0 without a code) ‖ code.
/// The stream is HKDF-Expand of that PRK, info = "slotwarden/slot-pin/v1" ‖ set id. Byte by
/// byte from its first: the lower six bits, when they are below 58, are the next digit, an
/// index in [`BASE58`]; when they are not, the byte is passed over. `chars` digits are the
/// PIN. The first 128 bytes of the stream are used: fewer than 32 digits in them has a chance
/// below one in 2^200, and counts as refused.
#[must_use]
pub fn token_pin(
    secret: &[u8],
    code: &[u8],
    slot_uid: &[u8; 16],
    set_id: &[u8; 16],
    chars: usize,
    out: &mut [u8],
) -> usize {
    pin(b"slotwarden/slot-pin/v1", secret, code, slot_uid, set_id, chars, out)
}

/// Writes the SO PIN that a secret of HSM administrators' cards gives into `out`: as
/// [`token_pin`] without a code, info = "slotwarden/so-pin/v1" ‖ set id.
#[must_use]
pub fn so_pin(secret: &[u8], slot_uid: &[u8; 16], set_id: &[u8; 16], chars: usize, out: &mut [u8]) -> usize {
    pin(b"slotwarden/so-pin/v1", secret, b"", slot_uid, set_id, chars, out)
}

fn pin(
    info: &[u8],
    secret: &[u8],
    code: &[u8],
    slot_uid: &[u8; 16],
    set_id: &[u8; 16],
    chars: usize,
    out: &mut [u8],
) -> usize {
    out.zeroize();
    let Ok(code_len) = u16::try_from(code.len()) else { return 0 };
    if !(GENERATED_CHARS_MIN..=GENERATED_CHARS).contains(&chars) {
        return 0;
    }
    let mut prk = Zeroizing::new([0; derive::KEY_BYTES]);
    let mut stream = Zeroizing::new([0u8; 128]);
    if !derive::extract(slot_uid, &[secret, &code_len.to_be_bytes(), code], &mut prk)
        || !derive::expand(&prk, [info, set_id], stream.as_mut_slice())
    {
        return 0;
    }
    let written = base58_digits(stream.as_slice(), out, chars);
    if written == chars {
        return written;
    }
    out.zeroize();
    0
}

/// Writes up to `chars` Base58 digits by rejection sampling, so that each is equally likely;
/// returns how many.
fn base58_digits(stream: &[u8], place: &mut [u8], chars: usize) -> usize {
    let digits = stream.iter().filter_map(|byte| BASE58.get(usize::from(byte & 0x3F)));
    let mut written = 0usize;
    for (to, digit) in place.iter_mut().take(chars).zip(digits) {
        *to = *digit;
        written = written.saturating_add(1);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safe::Safe;

    #[test]
    fn codes_of_7_and_65_characters_and_odd_bytes_are_refused() {
        assert_eq!(check_typed(b"1234567", 0), Err(Refusal::CodeTooShort));
        assert_eq!(check_typed(&[b'a'; 65], 0), Err(Refusal::CodeTooLong));
        assert_eq!(check_typed(b"123456789", 8), Err(Refusal::CodeTooLong));
        assert_eq!(check_typed(b"1234\n5678", 0), Err(Refusal::CodeNotPrintable));
        assert_eq!(check_typed(b"1234\x005678", 0), Err(Refusal::CodeNotPrintable));
        assert_eq!(check_typed("1234ü5678".as_bytes(), 0), Err(Refusal::CodeNotPrintable));
        assert_eq!(check_typed(b"12345678", 0), Ok(()));
        assert_eq!(check_typed(b" 234567 ", 8), Ok(()));
    }

    fn draw(watch: &mut RandomWatch, halves: [[u8; 32]; 2]) -> Result<[u8; 32], Fault> {
        let mut safe = Safe::<1>::new();
        let Ok(id) = safe.fill(|place| {
            place[..32].copy_from_slice(&halves[0]);
            place[32..64].copy_from_slice(&halves[1]);
            64
        }) else {
            panic!("the safe is empty")
        };
        watch.generate(&mut safe, id, 32)?;
        let mut code = [0; 32];
        safe.with(id, |secret| code.copy_from_slice(secret));
        Ok(code)
    }

    fn half(seed: u8) -> [u8; 32] {
        Sha256::digest([seed]).into()
    }

    #[test]
    fn p32_two_stuck_sources_refuse() {
        let mut watch = RandomWatch::default();
        assert_eq!(draw(&mut watch, [[0; 32], [0xFF; 32]]), Err(Fault::RandomStuck));
        assert!(draw(&mut watch, [half(1), half(2)]).is_ok());
        assert_eq!(draw(&mut watch, [half(1), half(2)]), Err(Fault::RandomStuck));
    }

    #[test]
    fn p32_one_stuck_source_still_gives_a_new_code_each_time() {
        let mut watch = RandomWatch::default();
        let first = draw(&mut watch, [half(1), half(2)]);
        let second = draw(&mut watch, [half(1), half(3)]);
        let third = draw(&mut watch, [half(4), half(3)]);
        assert!(first.is_ok() && second.is_ok() && third.is_ok());
        assert!(first != second && second != third);
    }

    #[test]
    fn generated_codes_are_base58_and_use_every_character() {
        let mut seen = [false; 58];
        for seed in 0..=255u8 {
            let mut watch = RandomWatch::default();
            let Ok(code) = draw(&mut watch, [half(seed), half(seed ^ 0x55)]) else { panic!("fresh halves") };
            for byte in code {
                match BASE58.iter().position(|digit| *digit == byte) {
                    Some(index) => seen[index] = true,
                    None => panic!("not Base58"),
                }
            }
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn a_token_pin_of_less_than_22_or_more_than_32_characters_is_refused_and_leaves_nothing() {
        for chars in [0, 21, 33, 64] {
            let mut out = [9; 64];
            assert_eq!(token_pin(&[1; 16], b"", &[2; 16], &[3; 16], chars, &mut out), 0);
            assert_eq!(out, [0; 64]);
        }
        let mut small = [9; 31];
        assert_eq!(token_pin(&[1; 16], b"", &[2; 16], &[3; 16], 32, &mut small), 0);
        assert_eq!(small, [0; 31]);
    }

    #[test]
    fn a_token_pin_depends_on_each_part_and_a_shorter_one_is_its_beginning() {
        let pin = |secret: &[u8], code: &[u8], slot_uid: u8, set_id: u8| {
            let mut out = [0; 32];
            assert_eq!(token_pin(secret, code, &[slot_uid; 16], &[set_id; 16], 32, &mut out), 32);
            out
        };
        let one = pin(&[1; 16], b"code", 2, 3);
        assert!(one.iter().all(|digit| BASE58.contains(digit)));
        let others = [
            pin(&[4; 16], b"code", 2, 3),
            pin(&[1; 16], b"", 2, 3),
            pin(&[1; 16], b"code", 4, 3),
            pin(&[1; 16], b"code", 2, 4),
        ];
        assert!(others.iter().all(|other| *other != one));
        // The code's length tells where the secret ends.
        assert_ne!(pin(b"secret", b"code", 2, 3), pin(b"secretcode", b"", 2, 3));
        let mut short = [0; 40];
        assert_eq!(token_pin(&[1; 16], b"code", &[2; 16], &[3; 16], 22, &mut short), 22);
        assert_eq!((&short[..22], &short[22..]), (&one[..22], &[0; 18][..]));
    }

    #[test]
    fn an_so_pin_is_no_token_pin_and_belongs_to_one_slot_and_set() {
        let pin = |slot_uid: u8, set_id: u8| {
            let mut out = [0; 32];
            assert_eq!(so_pin(&[1; 32], &[slot_uid; 16], &[set_id; 16], 32, &mut out), 32);
            out
        };
        let mut out = [9; 32];
        assert_eq!(so_pin(&[1; 32], &[2; 16], &[3; 16], 21, &mut out), 0);
        assert_eq!(out, [0; 32]);
        assert_eq!(token_pin(&[1; 32], b"", &[2; 16], &[3; 16], 32, &mut out), 32);
        let others = [out, pin(3, 3), pin(2, 4)];
        assert!(others.iter().all(|other| *other != pin(2, 3)));
        assert!(pin(2, 3).iter().all(|digit| BASE58.contains(digit)));
    }

    #[test]
    fn a_token_with_room_for_less_than_128_bit_is_refused() {
        assert_eq!(generated_chars(0), Ok(32));
        assert_eq!(generated_chars(255), Ok(32));
        assert_eq!(generated_chars(24), Ok(24));
        assert_eq!(generated_chars(21), Err(Refusal::GeneratedTooShort));
    }
}
