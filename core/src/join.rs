//! A node's request to join a cluster: the file format `SLWJ`, version 1.
//!
//! A file is the magic `SLWJ`, the version byte 1 and two [frames](crate::frame): 1, the [`Request`], and 2,
//! the 64 bytes of its signature: Ed25519 (RFC 8032, judged strictly) of the node over "slotwarden/join/v1" ‖ SHA-256(from
//! the magic to the end of the request's frame).
//!
//! The signature proves that whoever wrote the file has the node's key, and no more. That it is the node that people
//! mean they see by its [fingerprint](crate::roster::Member::fingerprint), which they compare by another way than
//! the file's. Every other file is refused by a named [`Problem`] (P21), and nothing panics.
//! Nothing here is secret, and nothing survives a restart.

use ed25519_dalek::{Signature, VerifyingKey};
use embedded_io::Write;
use heapless::Vec;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::frame::{self, WriteProblem, decode, problems};
use crate::roster::{Member, P256_BYTES, X_WING_BYTES, seal};

/// The first bytes of a file.
pub const MAGIC: [u8; 4] = *b"SLWJ";
/// The version that is written, and the only one that is read.
pub const VERSION: u8 = 1;
/// Bytes of a file at most.
pub const FILE_BYTES_MAX: usize = 2048;
/// Characters of a node's name at most.
pub const NAME_CHARS_MAX: usize = 32;
/// Bytes of what the signature covers.
pub const MESSAGE_BYTES: usize = DOMAIN.len() + 32;

const DOMAIN: &[u8] = b"slotwarden/join/v1";
const SIGNATURE_BYTES: usize = 64;
const SIGNATURE_LENGTH: u32 = 64;
const BODY_BYTES_MAX: usize = 1536;
/// Kinds of frames.
const REQUEST: u8 = 1;
const SIGNATURE: u8 = 2;

/// What a node says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<'a> {
    /// Its Ed25519 public key.
    pub node: [u8; 32],
    /// Its HPKE public key of the suite X-Wing, [`X_WING_BYTES`].
    pub x_wing: &'a [u8],
    /// Its HPKE public key of the suite P-256, [`P256_BYTES`].
    pub p256: &'a [u8],
    /// How it wants to be called, as [`is_name`] has it.
    pub name: &'a str,
    /// When it was made, seconds since 1970; information only, `None` without a clock.
    pub made_s: Option<u64>,
}

problems! {
    /// Why a file is no request to join.
    Unreadable "unreadable" "the file could not be read to its end";
    NotOurs "not-ours" "the file does not begin as a request to join";
    Newer "newer" "the request has a version that is not known here";
    Truncated "truncated" "the file ends too early";
    TooLong "too-long" "the file is longer than the format allows";
    UnknownFrame "unknown-frame" "a frame has a kind that the version does not have";
    OutOfOrder "out-of-order" "a frame is where none of its kind may be";
    Malformed "malformed" "a frame does not hold what its kind holds, in its only form";
    Keys "keys" "a key has another length than those of its kind";
    Name "name" "the name has other characters than letters, digits, dots, hyphens and underscores, or too many";
    Signature "signature" "the signature is not one of the node that the request names";
    Trailing "trailing" "something follows the end of the request";
}

/// Whether a node can be called so: 1 to 32 letters, digits, dots, hyphens and underscores of ASCII, as host names are.
#[must_use]
pub fn is_name(name: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=NAME_CHARS_MAX).contains(&name.len()) && name.bytes().all(fits)
}

impl Request<'_> {
    /// The member that it would be.
    ///
    /// # Errors
    /// [`Problem::Keys`]
    pub fn member(&self) -> Result<Member, Problem> {
        let x_wing: &[u8; X_WING_BYTES] = self.x_wing.try_into().map_err(|_| Problem::Keys)?;
        let p256: &[u8; P256_BYTES] = self.p256.try_into().map_err(|_| Problem::Keys)?;
        Ok(Member { node: self.node, seal: seal(x_wing, p256) })
    }

    /// What the node signs; `None` where no reader would take it.
    #[must_use]
    pub fn message(&self) -> Option<[u8; MESSAGE_BYTES]> {
        self.begin().map(|bytes| message(&bytes))
    }

    /// Writes the file with the signature of [`Request::message`].
    ///
    /// # Errors
    /// [`WriteProblem`]
    pub fn write<W: Write>(&self, mut w: W, signature: &[u8; SIGNATURE_BYTES]) -> Result<(), WriteProblem<W::Error>> {
        let bytes = self.begin().ok_or(WriteProblem::Impossible)?;
        for bytes in [bytes.as_slice(), &frame::head(SIGNATURE, SIGNATURE_LENGTH), signature] {
            frame::write_all(&mut w, bytes)?;
        }
        Ok(())
    }

    /// Takes the bytes of a file.
    ///
    /// # Errors
    /// Why it is none, the signature last.
    pub fn read(file: &[u8]) -> Result<Request<'_>, Problem> {
        if file.len() > FILE_BYTES_MAX {
            return Err(if file.starts_with(&MAGIC) { Problem::TooLong } else { Problem::NotOurs });
        }
        let mut rest = file;
        frame::read_start(&mut rest, MAGIC, VERSION)?;
        let body = take_frame(&mut rest, REQUEST)?;
        let signed = file.get(..file.len().saturating_sub(rest.len())).ok_or(Problem::Truncated)?;
        let signature = take_frame(&mut rest, SIGNATURE)?;
        let signature: &[u8; SIGNATURE_BYTES] = signature.try_into().map_err(|_| Problem::Malformed)?;
        if !rest.is_empty() {
            return Err(Problem::Trailing);
        }
        let request: Request<'_> = decode(body).ok_or(Problem::Malformed)?;
        request.check()?;
        let node = VerifyingKey::from_bytes(&request.node).map_err(|_| Problem::Signature)?;
        node.verify_strict(&message(signed), &Signature::from_bytes(signature)).map_err(|_| Problem::Signature)?;
        Ok(request)
    }

    fn check(&self) -> Result<(), Problem> {
        self.member()?;
        if is_name(self.name) { Ok(()) } else { Err(Problem::Name) }
    }

    /// Everything before the signature's frame.
    fn begin(&self) -> Option<Vec<u8, FILE_BYTES_MAX>> {
        self.check().ok()?;
        let mut place = [0; BODY_BYTES_MAX];
        let body = frame::encode(self, &mut place).and_then(|length| place.get(..length))?;
        let mut bytes = Vec::from_slice(&frame::start(MAGIC, VERSION)).ok()?;
        bytes.extend_from_slice(&frame::head(REQUEST, u32::try_from(body.len()).ok()?)).ok()?;
        bytes.extend_from_slice(body).ok()?;
        Some(bytes)
    }
}

/// What is signed of a file whose bytes up to the end of the request's frame are these.
fn message(signed: &[u8]) -> [u8; MESSAGE_BYTES] {
    frame::joined(DOMAIN, &[&Sha256::digest(signed)])
}

/// Takes the body of the next frame, which has to be of this kind.
fn take_frame<'file>(rest: &mut &'file [u8], kind: u8) -> Result<&'file [u8], Problem> {
    let head = frame::read_head(rest)?;
    match head.kind {
        found if found == kind => {}
        REQUEST | SIGNATURE => return Err(Problem::OutOfOrder),
        _ => return Err(Problem::UnknownFrame),
    }
    let length = head.length();
    let (body, after) = rest.split_at_checked(length).ok_or(Problem::Truncated)?;
    *rest = after;
    Ok(body)
}
