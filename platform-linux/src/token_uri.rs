//! PKCS#11 URIs (RFC 7512), as far as they name a token: label and serial.
//!
//! Only `token=` and `serial=` are taken (RFC 7512, section 2.3). Slot numbers change
//! when a token is initialised, so `slot-id=` is refused, and `pin-value=` would put a
//! secret into the configuration. Everything else is refused too: an attribute that is
//! ignored would make the URI look more exact than it is.

use std::fmt;

/// Bytes of `CK_TOKEN_INFO.label`.
pub const LABEL_BYTES_MAX: usize = 32;
/// Bytes of `CK_TOKEN_INFO.serialNumber`.
pub const SERIAL_BYTES_MAX: usize = 16;

/// How the configuration names a token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenUri {
    /// The token's label, without padding.
    pub label: Option<String>,
    /// The token's serial number, without padding.
    pub serial: Option<String>,
}

/// Why a text is no name of a token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UriProblem {
    /// Another scheme, or none.
    #[error("it does not begin with `pkcs11:`")]
    Scheme,
    /// Neither label nor serial.
    #[error("it names neither `token=` nor `serial=`")]
    NamesNothing,
    /// A slot number names different tokens at different times.
    #[error("`{0}` is not used: slot numbers change, name the token by `token=` or `serial=`")]
    SlotNumber(&'static str),
    /// A secret, or where one is, does not belong here.
    #[error("`{0}` does not belong here: the configuration holds nothing secret")]
    Secret(&'static str),
    /// Some other attribute. Its text is not repeated: it could be a secret in a wrong place.
    #[error("it has an attribute other than `token=` and `serial=`")]
    Attribute,
    /// The same attribute twice (RFC 7512, section 2.3: must not).
    #[error("`{0}` stands twice")]
    Twice(&'static str),
    /// Not text, or characters that have to be percent-encoded.
    #[error("the value of `{0}` is not well encoded: use %20 for a space, %3B for a semicolon")]
    Encoding(&'static str),
    /// Empty.
    #[error("the value of `{0}` is empty")]
    Empty(&'static str),
    /// Longer than PKCS#11 allows.
    #[error("the value of `{0}` is longer than PKCS#11 allows (label 32 bytes, serial 16)")]
    TooLong(&'static str),
}

impl TokenUri {
    /// Reads a URI.
    ///
    /// # Errors
    /// [`UriProblem`], which says what to write instead.
    pub fn parse(text: &str) -> Result<Self, UriProblem> {
        // RFC 3986, section 3.1: schemes are compared without case.
        let rest = match text.split_at_checked(7) {
            Some((scheme, rest)) if scheme.eq_ignore_ascii_case("pkcs11:") => rest,
            Some(_) | None => return Err(UriProblem::Scheme),
        };
        let mut uri = TokenUri { label: None, serial: None };
        let (path, query) = rest.split_once('?').map_or((rest, None), |(path, query)| (path, Some(query)));
        for part in path.split(';').filter(|part| !part.is_empty()) {
            let (name, value) = part.split_once('=').ok_or(UriProblem::Attribute)?;
            match name {
                "token" => set(&mut uri.label, "token", value, LABEL_BYTES_MAX)?,
                "serial" => set(&mut uri.serial, "serial", value, SERIAL_BYTES_MAX)?,
                "slot-id" => return Err(UriProblem::SlotNumber("slot-id")),
                "slot-description" => return Err(UriProblem::SlotNumber("slot-description")),
                "pin-value" => return Err(UriProblem::Secret("pin-value")),
                _ => return Err(UriProblem::Attribute),
            }
        }
        if let Some(query) = query {
            let has = |name: &str| query.split('&').any(|part| part.split('=').next() == Some(name));
            return Err(match (has("pin-value"), has("pin-source")) {
                (true, _) => UriProblem::Secret("pin-value"),
                (false, true) => UriProblem::Secret("pin-source"),
                (false, false) => UriProblem::Attribute,
            });
        }
        if uri.label.is_none() && uri.serial.is_none() {
            return Err(UriProblem::NamesNothing);
        }
        Ok(uri)
    }

    /// Whether two names could mean one token as far as they say the same attribute:
    /// they agree in one and contradict each other in none.
    #[must_use]
    pub fn overlaps(&self, other: &TokenUri) -> bool {
        let pairs = [(&self.label, &other.label), (&self.serial, &other.serial)];
        let agree = pairs.iter().any(|(one, two)| one.is_some() && one == two);
        let contradict = pairs.iter().any(|(one, two)| one.is_some() && two.is_some() && one != two);
        agree && !contradict
    }
}

impl fmt::Display for TokenUri {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "pkcs11:")?;
        let mut separator = "";
        for (name, value) in [("token", &self.label), ("serial", &self.serial)] {
            if let Some(value) = value {
                write!(out, "{separator}{name}=")?;
                encode(value, out)?;
                separator = ";";
            }
        }
        Ok(())
    }
}

fn set(field: &mut Option<String>, name: &'static str, value: &str, bytes_max: usize) -> Result<(), UriProblem> {
    if field.is_some() {
        return Err(UriProblem::Twice(name));
    }
    let decoded = decode(value).ok_or(UriProblem::Encoding(name))?;
    if decoded.trim_end_matches(' ').is_empty() {
        return Err(UriProblem::Empty(name));
    }
    if decoded.len() > bytes_max {
        return Err(UriProblem::TooLong(name));
    }
    // PKCS#11 pads with blanks, so blanks at the end cannot be told from padding.
    *field = Some(decoded.trim_end_matches(' ').to_owned());
    Ok(())
}

/// RFC 7512, section 2.3 (`pk11-pchar`): unreserved, `:[]@!$'()*+,=&` and percent-encoded
/// octets. Letters beyond ASCII have to be encoded there; we also take them as they are,
/// since people type labels. The result has to be UTF-8 without control characters.
fn decode(value: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let high = char::from(rest.next()?).to_digit(16)?;
                let low = char::from(rest.next()?).to_digit(16)?;
                bytes.push(u8::try_from(high * 16 + low).ok()?);
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | 0x80..=0xFF => bytes.push(byte),
            _ if b"-._~:[]@!$'()*+,=&".contains(&byte) => bytes.push(byte),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.chars().any(char::is_control))
}

fn encode(value: &str, out: &mut fmt::Formatter<'_>) -> fmt::Result {
    for byte in value.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => write!(out, "{}", char::from(byte))?,
            _ => write!(out, "%{byte:02X}")?,
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn problem(text: &str) -> UriProblem {
        TokenUri::parse(text).expect_err("the text is no name of a token")
    }

    #[test]
    fn what_names_no_token_is_refused_with_the_reason() {
        assert_eq!(problem("ca-root"), UriProblem::Scheme);
        assert_eq!(problem("pkcs1"), UriProblem::Scheme);
        assert_eq!(problem("äöüß"), UriProblem::Scheme);
        assert_eq!(problem("pkcs11:"), UriProblem::NamesNothing);
        assert_eq!(problem("pkcs11:slot-id=0"), UriProblem::SlotNumber("slot-id"));
        assert_eq!(problem("pkcs11:token=a;slot-id=0"), UriProblem::SlotNumber("slot-id"));
        assert_eq!(problem("pkcs11:token=a;object=b"), UriProblem::Attribute);
        assert_eq!(problem("pkcs11:token"), UriProblem::Attribute);
        assert_eq!(problem("pkcs11:token=a;token=a"), UriProblem::Twice("token"));
        assert_eq!(problem("pkcs11:token="), UriProblem::Empty("token"));
        assert_eq!(problem("pkcs11:token=%20"), UriProblem::Empty("token"));
        assert_eq!(problem("pkcs11:token=a b"), UriProblem::Encoding("token"));
        assert_eq!(problem("pkcs11:token=a%2"), UriProblem::Encoding("token"));
        assert_eq!(problem("pkcs11:token=a%zz"), UriProblem::Encoding("token"));
        assert_eq!(problem("pkcs11:token=%FF"), UriProblem::Encoding("token"));
        assert_eq!(problem("pkcs11:token=a%00"), UriProblem::Encoding("token"));
        assert_eq!(problem("pkcs11:serial=12345678901234567"), UriProblem::TooLong("serial"));
        assert_eq!(problem(&format!("pkcs11:token={}", "x".repeat(33))), UriProblem::TooLong("token"));
    }

    #[test]
    fn p03_a_pin_in_a_uri_is_refused_without_repeating_it() {
        for text in ["pkcs11:token=a?pin-value=hunter2", "pkcs11:token=a;pin-value=hunter2", "pkcs11:hunter2"] {
            assert!(!problem(text).to_string().contains("hunter2"));
        }
        assert_eq!(problem("pkcs11:token=a?pin-source=file:/x"), UriProblem::Secret("pin-source"));
    }

    #[test]
    fn labels_with_spaces_and_non_ascii_characters_are_read() {
        let uri = TokenUri::parse("pkcs11:token=CA%20Wurzel%20%C3%9C;serial=1%3B2").expect("well formed");
        assert_eq!(uri.label.as_deref(), Some("CA Wurzel Ü"));
        assert_eq!(uri.serial.as_deref(), Some("1;2"));
        assert_eq!(uri.to_string(), "pkcs11:token=CA%20Wurzel%20%C3%9C;serial=1%3B2");
        assert_eq!(TokenUri::parse("PKCS11:token=Übung").expect("as typed").label.as_deref(), Some("Übung"));
    }

    #[test]
    fn two_names_overlap_when_they_agree_and_contradict_nothing() {
        let uri = |text| TokenUri::parse(text).expect("well formed");
        assert!(uri("pkcs11:token=a").overlaps(&uri("pkcs11:token=a;serial=1")));
        assert!(uri("pkcs11:serial=1").overlaps(&uri("pkcs11:token=a;serial=1")));
        assert!(!uri("pkcs11:token=a;serial=1").overlaps(&uri("pkcs11:token=a;serial=2")));
        assert!(!uri("pkcs11:token=a").overlaps(&uri("pkcs11:serial=1")));
    }

    proptest! {
        #[test]
        fn every_label_survives_writing_and_reading(label in "[^\\p{Cc} ]([^\\p{Cc}]{0,6}[^\\p{Cc} ])?") {
            let uri = TokenUri { label: Some(label), serial: None };
            prop_assert_eq!(TokenUri::parse(&uri.to_string()), Ok(uri));
        }

        #[test]
        fn p42_no_text_makes_the_reader_panic(text in ".{0,80}") {
            let _ = TokenUri::parse(&text);
            let _ = TokenUri::parse(&format!("pkcs11:{text}"));
        }
    }
}
