//! Attributes of an object: PKCS#11's types and values, in one order and one form.
//!
//! Repeated {type u32, length u16, value}, numbers big-endian, types strictly rising, so that
//! the same attributes are always the same bytes. A `CK_BBOOL` is one byte, a `CK_ULONG` eight
//! bytes big-endian whatever the machine's are, other values are PKCS#11's bytes. What a type
//! means is for those to say who talk to tokens.

use serde::{Deserialize, Serialize};

/// Bytes before a value: type and length.
pub const ATTRIBUTE_HEADER_BYTES: usize = 6;

/// Attributes as they are in a file.
///
/// Those from [`Attributes::new`], from [`push`]ed bytes and from a reader are in order. Of
/// others [`Attributes::iter`] gives those before the first byte that is not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attributes<'a>(&'a [u8]);

impl<'a> Attributes<'a> {
    /// None at all.
    pub const NONE: Attributes<'static> = Attributes(&[]);

    /// Takes bytes that are attributes in order.
    ///
    /// # Errors
    /// [`super::Problem::Attributes`]: one is cut, or a type does not rise.
    pub fn new(bytes: &'a [u8]) -> Result<Self, super::Problem> {
        let attributes = Attributes(bytes);
        if attributes.are_in_order() { Ok(attributes) } else { Err(super::Problem::Attributes) }
    }

    /// The bytes.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.0
    }

    /// Type and value of each, types rising.
    #[must_use]
    pub const fn iter(&self) -> Iter<'a> {
        Iter { rest: self.0, above: None }
    }

    /// The value of this type, if it is there.
    #[must_use]
    pub fn value(&self, attribute_type: u32) -> Option<&'a [u8]> {
        self.iter().find(|(found, _)| *found == attribute_type).map(|(_, value)| value)
    }

    pub(super) fn are_in_order(&self) -> bool {
        let mut iter = self.iter();
        iter.by_ref().for_each(drop);
        iter.rest.is_empty()
    }
}

impl<'a> IntoIterator for Attributes<'a> {
    type Item = (u32, &'a [u8]);
    type IntoIter = Iter<'a>;

    fn into_iter(self) -> Iter<'a> {
        self.iter()
    }
}

/// Goes through attributes.
#[derive(Clone, Debug)]
pub struct Iter<'a> {
    rest: &'a [u8],
    /// The type before.
    above: Option<u32>,
}

impl<'a> Iterator for Iter<'a> {
    type Item = (u32, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let (attribute_type, rest) = self.rest.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (value, rest) = rest.split_at_checked(usize::from(u16::from_be_bytes(*length)))?;
        let attribute_type = u32::from_be_bytes(*attribute_type);
        if self.above.is_some_and(|above| above >= attribute_type) {
            return None;
        }
        (self.above, self.rest) = (Some(attribute_type), rest);
        Some((attribute_type, value))
    }
}

/// Writes one attribute into `out` behind the `at` bytes that are there already, and answers
/// with how many are there then; `None`, with nothing written, when it does not fit or its
/// type does not rise above those that are there.
#[must_use]
pub fn push(out: &mut [u8], at: usize, attribute_type: u32, value: &[u8]) -> Option<usize> {
    let (before, place) = out.split_at_mut_checked(at)?;
    let before = Attributes::new(before).ok()?;
    if before.iter().last().is_some_and(|(last, _)| last >= attribute_type) {
        return None;
    }
    let length = u16::try_from(value.len()).ok()?.to_be_bytes();
    let bytes = ATTRIBUTE_HEADER_BYTES.checked_add(value.len())?;
    let place = place.get_mut(..bytes)?;
    let parts: [&[u8]; 3] = [&attribute_type.to_be_bytes(), &length, value];
    for (place, byte) in place.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    at.checked_add(bytes)
}
