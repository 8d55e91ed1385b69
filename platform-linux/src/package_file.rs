//! A package as a file: sealed for members of the cluster, and opened by one of them.
//!
//! What a file looks like, and why, is said in `slotwarden_core::package`; what is added here is what
//! needs keys: HPKE (RFC 9180; X-Wing as in draft-ietf-hpke-pq) with the crate `hpke`, AES-256-GCM, and
//! the node's signature. Both ways need the memory of one chunk, and that of the facts.
//!
//! A file is read twice. The first time nothing is decrypted: structure, order, and the signature of
//! the node that the header names must be right to the last byte. Only the second time the content
//! key is opened, compared with the commitment, and used; the hash must come out the same again. The
//! export inside goes to a file beside its place, is read to its end there, and gets its
//! name only when all of it is whole. On every refusal nothing is left of it (P21, P22).
//!
//! Whether a header may be believed is for the core ([`package::judge_header`], [`package::admit`]): a
//! signature says only that the node that the header names made the file. After a restart a
//! `NAME.new` can lie beside the place; the next opening replaces it.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use aes_gcm::aead::{AeadInOut, KeyInit, Nonce, Tag};
use aes_gcm::{Aes256Gcm, Key};
use hkdf::Hkdf;
use hpke::aead::{AeadTag, AesGcm256};
use hpke::kdf::HkdfSha256;
use hpke::kem::{DhP256HkdfSha256, XWing};
use hpke::{
    Deserializable, Kem, OpModeR, OpModeS, Serializable, single_shot_open_inout_detached,
    single_shot_seal_inout_detached,
};
use rustix::fs::OFlags;
use sha2::Sha256;
use slotwarden_core::export;
use slotwarden_core::fault::Refusal;
use slotwarden_core::package::{
    self, CHUNK_BYTES, COMMITMENT_INFO, Chunk, Commitment, FRAME_BYTES_MAX, Header, PAYLOAD_INFO, Part,
    SEALED_KEY_BYTES, Sealed, Suite, TAG_BYTES, WriteProblem, facts, hpke_info, message, nonce,
};
use zeroize::{Zeroize as _, Zeroizing};

use crate::devices::Signer;
use crate::export_file::Io;
use crate::member_keys::{MemberKeys, NodeSecrets, SECRET_BYTES};
use crate::problem::{Own, Problem};
use crate::store::directory::{create_private, remove_if_there, rename_durably};
use crate::sync_dir::SlotFacts;

/// Bytes of a content key.
const CONTENT_KEY_BYTES: usize = 32;

/// A package that was opened.
#[derive(Debug)]
pub struct Opened {
    /// What it says about itself.
    pub header: Header,
    /// Names it.
    pub hash: [u8; 32],
    /// What its source knows, slot by slot.
    pub facts: Vec<SlotFacts>,
    /// Whether there was an export in it, which is at its place now; else it is a receipt.
    pub export: bool,
}

/// Why a package does not open. Nothing of it was given out.
#[derive(Debug, thiserror::Error)]
pub enum Wrong {
    /// The file cannot be read.
    #[error("it cannot be read: {0}")]
    Unreadable(io::Error),
    /// What is inside cannot be written to its place.
    #[error("what is inside cannot be written: {0}")]
    Unwritable(io::Error),
    /// It is no whole package.
    #[error("{} ({})", .0.sentence(), .0.name())]
    Package(package::Problem),
    /// It is not for this node.
    #[error("this node is none of its targets")]
    NotForUs,
    /// The content key was not sealed for the keys of this node, or for another package.
    #[error("the content key does not open")]
    ContentKey,
    /// The content key is not the one that all targets have.
    #[error("the content key is not the one that the package is tied to")]
    Commitment,
    /// A piece of the payload was not encrypted with the content key, or for another place.
    #[error("chunk {0} does not open")]
    Chunk(u32),
    /// What is inside does not begin with facts.
    #[error("inside: {} ({})", .0.sentence(), .0.name())]
    Facts(package::Problem),
    /// What is inside behind the facts is no whole export.
    #[error("the export inside: {} ({})", .0.sentence(), .0.name())]
    Export(export::Problem),
    /// The export inside is of another node, another cluster or another backup key.
    #[error("the export inside is not one of the package's source, cluster and backup key")]
    ForeignExport,
    /// The second reading found another file than the first.
    #[error("it changed while it was read")]
    Changed,
}

impl Wrong {
    /// What the operator is told; `None` where the file system is the reason.
    #[must_use]
    pub const fn refusal(&self) -> Option<Refusal> {
        match self {
            Wrong::Unreadable(_) | Wrong::Unwritable(_) => None,
            Wrong::Package(_) | Wrong::Changed => Some(Refusal::PackageInvalid),
            Wrong::NotForUs => Some(Refusal::NotForUs),
            Wrong::ContentKey
            | Wrong::Commitment
            | Wrong::Chunk(_)
            | Wrong::Facts(_)
            | Wrong::Export(_)
            | Wrong::ForeignExport => Some(Refusal::PackageNotOpened),
        }
    }
}

impl From<package::Problem> for Wrong {
    fn from(problem: package::Problem) -> Self {
        Wrong::Package(problem)
    }
}

impl From<Wrong> for Problem {
    fn from(wrong: Wrong) -> Self {
        let detail = wrong.to_string();
        match (wrong.refusal(), wrong) {
            (Some(refusal), _) => Problem::from(refusal).with(detail),
            (None, Wrong::Unwritable(_)) => Own::FileUnwritable.with(detail),
            (None, _) => Own::FileUnreadable.with(detail),
        }
    }
}

/// Writes a package: `facts` by rising uid, and an export where there is one. `targets` are those of
/// the header, in its order. Making it durable is for whoever gave the writer.
///
/// # Errors
/// `InvalidInput` for what no reader would take: other targets than the header's, facts that do not rise, an
/// export of another source, cluster or backup key; else the file system's.
pub fn seal(
    out: impl Write,
    header: &Header,
    targets: &[MemberKeys],
    facts: &[SlotFacts],
    export: Option<&Path>,
    sign: &Signer,
) -> io::Result<[u8; 32]> {
    let mut export = export.map(File::open).transpose()?;
    if let Some(file) = &mut export {
        let mut inside = export::Reader::new(Io(BufReader::new(&*file)));
        match inside.next() {
            Ok(export::Part::Header(inside)) if header.holds(&inside) => {}
            Ok(_) => return Err(impossible("the export is not the package's")),
            Err(problem) => return Err(impossible(problem.sentence())),
        }
        file.rewind()?;
    }
    seal_any(out, header, targets, facts, export, sign)
}

/// Reads what a package says about itself, to judge it before it is opened; no other byte is believed.
///
/// # Errors
/// [`Wrong::Unreadable`], [`Wrong::Package`]
pub fn read_header(path: &Path) -> Result<Header, Wrong> {
    let file = open_file(path).map_err(Wrong::Unreadable)?;
    let mut body = Box::new([0; FRAME_BYTES_MAX]);
    let mut reader = package::Reader::new(Io(BufReader::new(file)), &mut body);
    reader.next()?;
    reader.header().map(|(header, _)| header.clone()).ok_or(Wrong::Changed)
}

/// Opens a package with the secrets of the node `own`. The export inside goes to `into`, which only this user
/// may read; a file that is there already is replaced, if all is well. A receipt writes nothing.
///
/// # Errors
/// [`Wrong`]; nothing is at `into` that was not there before.
pub fn open(path: &Path, own: &[u8; 32], secrets: &NodeSecrets, into: &Path) -> Result<Opened, Wrong> {
    open_from(&mut open_file(path).map_err(Wrong::Unreadable)?, own, secrets, into)
}

/// [`seal`], without a look at what the export says.
fn seal_any(
    out: impl Write,
    header: &Header,
    targets: &[MemberKeys],
    facts: &[SlotFacts],
    export: Option<File>,
    sign: &Signer,
) -> io::Result<[u8; 32]> {
    // What is drawn here first is drawn by HPKE for every target, which would panic without randomness.
    let mut content = Zeroizing::new([0; CONTENT_KEY_BYTES]);
    getrandom::fill(content.as_mut_slice()).map_err(|error| io::Error::other(format!("no randomness: {error}")))?;
    let (commitment, cipher) = keys_of(&content).ok_or_else(|| impossible("the content key"))?;

    let mut writer = package::Writer::begin(Io(BufWriter::new(out)), header.clone()).map_err(unwritten)?;
    if targets.len() != header.targets.len() {
        return Err(impossible("the targets are not those of the header"));
    }
    for target in targets {
        let info = hpke_info(writer.header_hash(), &target.node);
        let (enc, key) = match header.suite {
            Suite::XWing => seal_key::<XWing>(target.of(header.suite), &info, &content),
            Suite::P256 => seal_key::<DhP256HkdfSha256>(target.of(header.suite), &info, &content),
        }
        .ok_or_else(|| impossible("a target's key is none of the suite"))?;
        writer.seal(&Sealed { target: target.node, enc: &enc, key: &key }).map_err(unwritten)?;
    }
    drop(content);
    writer.commit(&Commitment { commitment }).map_err(unwritten)?;

    let mut rows = facts::Writer::new(Payload::new(writer, cipher));
    for (uid, facts) in facts {
        let count = u32::try_from(facts.len()).map_err(|_| impossible("too many facts"))?;
        rows.begin(facts::Begin { uid: *uid, count }).map_err(unwritten)?;
        facts.iter().try_for_each(|fact| rows.fact(*fact)).map_err(unwritten)?;
    }
    let mut payload = rows.end(export.is_some()).map_err(unwritten)?;
    if let Some(mut export) = export {
        io::copy(&mut export, &mut payload)?;
    }
    let writer = payload.end()?;
    let unsigned = writer.unsigned().ok_or_else(|| impossible("no chunk was the last"))?;
    let signature = sign(&message(writer.header_hash(), &unsigned.hash));
    let (hash, Io(mut out)) = writer.end(signature).map_err(unwritten)?;
    out.flush()?;
    Ok(hash)
}

/// The encapsulated key, and the content key sealed for one target.
fn seal_key<K: Kem>(
    public: &[u8],
    info: &[u8],
    content: &[u8; CONTENT_KEY_BYTES],
) -> Option<(Vec<u8>, [u8; SEALED_KEY_BYTES])> {
    let public = K::PublicKey::from_bytes(public).ok()?;
    let mut sealed = [0; SEALED_KEY_BYTES];
    let (key, place) = sealed.split_at_mut(CONTENT_KEY_BYTES);
    key.copy_from_slice(content);
    let buffer = (&mut *key).into();
    match single_shot_seal_inout_detached::<AesGcm256, HkdfSha256, K>(&OpModeS::Base, &public, info, buffer, &[]) {
        Ok((enc, tag)) => {
            tag.write_exact(place);
            Some((enc.to_bytes().to_vec(), sealed))
        }
        Err(_) => {
            sealed.zeroize();
            None
        }
    }
}

/// The content key, if it was sealed for this private key with this info.
fn open_key<K: Kem>(private: &[u8; SECRET_BYTES], info: &[u8], enc: &[u8], sealed: &[u8]) -> Option<ContentKey> {
    let private = K::PrivateKey::from_bytes(private).ok()?;
    let enc = K::EncappedKey::from_bytes(enc).ok()?;
    let (key, tag) = sealed.split_first_chunk::<CONTENT_KEY_BYTES>()?;
    let tag = AeadTag::<AesGcm256>::from_bytes(tag).ok()?;
    let mut content = Zeroizing::new(*key);
    let buffer = content.as_mut_slice().into();
    let mode = OpModeR::Base;
    single_shot_open_inout_detached::<AesGcm256, HkdfSha256, K>(&mode, &private, &enc, info, buffer, &[], &tag).ok()?;
    Some(content)
}

type ContentKey = Zeroizing<[u8; CONTENT_KEY_BYTES]>;

/// The commitment of a content key, and the cipher of the payload.
fn keys_of(content: &[u8; CONTENT_KEY_BYTES]) -> Option<([u8; 32], Aes256Gcm)> {
    let kdf = Hkdf::<Sha256>::from_prk(content).ok()?;
    let mut commitment = [0; 32];
    kdf.expand(COMMITMENT_INFO, &mut commitment).ok()?;
    let mut key = Zeroizing::new([0; 32]);
    kdf.expand(PAYLOAD_INFO, key.as_mut_slice()).ok()?;
    Some((commitment, Aes256Gcm::new(<&Key<Aes256Gcm>>::from(&*key))))
}

/// A file that is a file: what would block or never end is refused.
///
/// # Errors
/// As of the system.
pub fn open_file(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).map_err(io::Error::other)?;
    let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::Error::other("it is not a file")) }
}

/// [`open`], from whatever can be read twice.
///
/// # Errors
/// As [`open`].
pub fn open_from<F: Read + Seek>(
    file: &mut F,
    own: &[u8; 32],
    secrets: &NodeSecrets,
    into: &Path,
) -> Result<Opened, Wrong> {
    let mut body = Box::new([0; FRAME_BYTES_MAX]);
    let expected = verify(&mut package::Reader::new(Io(BufReader::new(&mut *file)), &mut body), own)?;

    file.seek(SeekFrom::Start(0)).map_err(Wrong::Unreadable)?;
    let mut reader = package::Reader::new(Io(BufReader::new(&mut *file)), &mut body);
    let locked = Locked::read(&mut reader, own)?;
    let cipher = locked.unlock(secrets)?;
    let making = making(into);
    let payload =
        OpenPayload { reader, cipher, header_hash: locked.header_hash, plain: Vec::new(), read: 0, wrong: None };
    let opened = take_in(payload, &locked.header, expected, &making).and_then(|(facts, export)| {
        if export {
            rename_durably(&making, into).map_err(Wrong::Unwritable)?;
        }
        Ok(Opened { header: locked.header, hash: expected, facts, export })
    });
    if opened.is_err() {
        // Nothing half is ever at `into`; what cannot be removed here is replaced the next time.
        let _ = remove_if_there(&making);
    }
    opened
}

/// The first reading: everything but what is encrypted. Answers with the package's hash.
fn verify<R: embedded_io::Read>(reader: &mut package::Reader<'_, R>, own: &[u8; 32]) -> Result<[u8; 32], Wrong> {
    Locked::read(reader, own)?;
    loop {
        match reader.next()? {
            Part::End { hash, .. } => return Ok(hash),
            Part::Header | Part::Sealed(_) | Part::Commitment(_) | Part::Chunk { .. } => {}
        }
    }
}

/// What stands before the payload.
struct Locked {
    header: Header,
    header_hash: [u8; 32],
    /// The encapsulated key and the content key, for this node.
    enc: Vec<u8>,
    key: Vec<u8>,
    target: [u8; 32],
    commitment: [u8; 32],
}

impl Locked {
    /// Reads up to the payload.
    fn read<R: embedded_io::Read>(reader: &mut package::Reader<'_, R>, own: &[u8; 32]) -> Result<Self, Wrong> {
        let (mut enc, mut key) = (Vec::new(), Vec::new());
        let commitment = loop {
            match reader.next()? {
                Part::Header => {}
                Part::Sealed(sealed) if sealed.target == *own => {
                    (enc, key) = (sealed.enc.to_vec(), sealed.key.to_vec());
                }
                Part::Sealed(_) => {}
                Part::Commitment(Commitment { commitment }) => break commitment,
                // The reader keeps the order.
                Part::Chunk { .. } | Part::End { .. } => return Err(Wrong::Package(package::Problem::OutOfOrder)),
            }
        };
        let (header, header_hash) = reader.header().ok_or(Wrong::Package(package::Problem::OutOfOrder))?;
        if !header.targets.contains(own) {
            return Err(Wrong::NotForUs);
        }
        Ok(Locked { header: header.clone(), header_hash: *header_hash, enc, key, target: *own, commitment })
    }

    /// The cipher of the payload, where the content key opens and is the one that the package is tied to.
    fn unlock(&self, secrets: &NodeSecrets) -> Result<Aes256Gcm, Wrong> {
        let info = hpke_info(&self.header_hash, &self.target);
        let private = secrets.private(self.header.suite);
        let content = match self.header.suite {
            Suite::XWing => open_key::<XWing>(private, &info, &self.enc, &self.key),
            Suite::P256 => open_key::<DhP256HkdfSha256>(private, &info, &self.enc, &self.key),
        };
        let (commitment, cipher) = keys_of(&*content.ok_or(Wrong::ContentKey)?).ok_or(Wrong::ContentKey)?;
        // Both are public: one stands in the file.
        if commitment == self.commitment { Ok(cipher) } else { Err(Wrong::Commitment) }
    }
}

/// Reads the payload to its end: the facts, and whether there is an export, which is at `making` then.
fn take_in<R: embedded_io::Read>(
    mut payload: OpenPayload<'_, R>,
    header: &Header,
    expected: [u8; 32],
    making: &Path,
) -> Result<(Vec<SlotFacts>, bool), Wrong> {
    let mut rows = facts::Reader::new(&mut payload);
    let facts = read_facts(&mut rows);
    let keys = rows.into_rest().is_some();
    // What keeps a chunk from being opened is the reason why nothing could be read from it.
    if let Some(wrong) = payload.wrong.take() {
        return Err(wrong);
    }
    let facts = facts.map_err(Wrong::Facts)?;
    if keys {
        write_export(&mut payload, header, making)?;
    }
    match payload.reader.next()? {
        Part::End { hash, .. } if hash == expected => Ok((facts, keys)),
        Part::End { .. } | Part::Header | Part::Sealed(_) | Part::Commitment(_) | Part::Chunk { .. } => {
            Err(Wrong::Changed)
        }
    }
}

fn read_facts<R: embedded_io::Read>(rows: &mut facts::Reader<R>) -> Result<Vec<SlotFacts>, package::Problem> {
    let mut found: Vec<SlotFacts> = Vec::new();
    loop {
        match rows.next()? {
            facts::Part::Begin(facts::Begin { uid, .. }) => found.push((uid, Vec::new())),
            facts::Part::Rows(rows) => {
                found.last_mut().into_iter().for_each(|(_, facts)| facts.extend(rows.iter()));
            }
            facts::Part::End(_) => return Ok(found),
        }
    }
}

/// Writes what is left of the payload to a file of its own, and reads it there to its end.
fn write_export<R: embedded_io::Read>(
    payload: &mut OpenPayload<'_, R>,
    header: &Header,
    making: &Path,
) -> Result<(), Wrong> {
    remove_if_there(making).map_err(Wrong::Unwritable)?;
    let mut file = create_private(making).map_err(Wrong::Unwritable)?;
    loop {
        let plain = payload.rest()?;
        if plain.is_empty() {
            break;
        }
        file.write_all(plain).map_err(Wrong::Unwritable)?;
        payload.read = payload.plain.len();
    }
    file.rewind().map_err(Wrong::Unwritable)?;
    let mut inside = export::Reader::new(Io(BufReader::new(&file)));
    loop {
        match inside.next().map_err(Wrong::Export)? {
            export::Part::Header(inside) if !header.holds(&inside) => return Err(Wrong::ForeignExport),
            export::Part::Header(_)
            | export::Part::Section(_)
            | export::Part::Entry(_)
            | export::Part::LeftOut(_)
            | export::Part::Piece(_)
            | export::Part::SectionEnd { .. } => {}
            export::Part::End { .. } => break,
        }
    }
    file.sync_all().map_err(Wrong::Unwritable)
}

/// Where an export is before all of it is known to be whole.
fn making(into: &Path) -> PathBuf {
    let mut path = into.as_os_str().to_owned();
    path.push(".new");
    PathBuf::from(path)
}

/// A payload on its way into a file: full chunks as they come, the last at its end.
struct Payload<W: Write> {
    writer: package::Writer<Io<BufWriter<W>>>,
    cipher: Aes256Gcm,
    /// The chunk that is being filled; encrypted in place when it is known whether it is the last.
    plain: Vec<u8>,
    number: u32,
}

impl<W: Write> Payload<W> {
    fn new(writer: package::Writer<Io<BufWriter<W>>>, cipher: Aes256Gcm) -> Self {
        Payload { writer, cipher, plain: Vec::with_capacity(CHUNK_BYTES + TAG_BYTES), number: 0 }
    }

    fn chunk(&mut self, is_last: bool) -> io::Result<()> {
        let nonce = Nonce::<Aes256Gcm>::from(nonce(self.number, is_last));
        let plain = self.plain.as_mut_slice().into();
        let tag = self.cipher.encrypt_inout_detached(&nonce, self.writer.header_hash(), plain);
        self.plain.extend_from_slice(&tag.map_err(|_| impossible("a chunk is too long"))?);
        self.writer.chunk(&Chunk { is_last, sealed: &self.plain }).map_err(unwritten)?;
        self.plain.clear();
        self.number = self.number.checked_add(1).ok_or_else(|| impossible("too many chunks"))?;
        Ok(())
    }

    fn end(mut self) -> io::Result<package::Writer<Io<BufWriter<W>>>> {
        self.chunk(true)?;
        Ok(self.writer)
    }
}

impl<W: Write> Write for Payload<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        // A full chunk waits until something follows it: the last one must not be empty.
        if self.plain.len() == CHUNK_BYTES && !bytes.is_empty() {
            self.chunk(false)?;
        }
        let taken = bytes.len().min(CHUNK_BYTES - self.plain.len());
        self.plain.extend_from_slice(&bytes[..taken]);
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<W: Write> embedded_io::ErrorType for Payload<W> {
    type Error = io::Error;
}

impl<W: Write> embedded_io::Write for Payload<W> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, io::Error> {
        Write::write(self, bytes)
    }

    fn flush(&mut self) -> Result<(), io::Error> {
        Ok(())
    }
}

/// A payload on its way out of a file, chunk by chunk.
struct OpenPayload<'b, R> {
    reader: package::Reader<'b, R>,
    cipher: Aes256Gcm,
    header_hash: [u8; 32],
    /// The chunk that was opened last, and how much of it was read.
    plain: Vec<u8>,
    read: usize,
    /// Why nothing more could be read: those who read get an error without a reason.
    wrong: Option<Wrong>,
}

impl<R: embedded_io::Read> OpenPayload<'_, R> {
    /// What was opened and not read; empty at the end only.
    fn rest(&mut self) -> Result<&[u8], Wrong> {
        if self.read == self.plain.len() {
            self.open_next()?;
        }
        Ok(&self.plain[self.read..])
    }

    /// Opens the next chunk; after the last there is nothing.
    fn open_next(&mut self) -> Result<(), Wrong> {
        self.plain.clear();
        self.read = 0;
        let (number, chunk) = match self.reader.next()? {
            Part::Chunk { number, chunk } => (number, chunk),
            // The end stays what comes next.
            Part::End { .. } => return Ok(()),
            Part::Header | Part::Sealed(_) | Part::Commitment(_) => return Err(Wrong::Changed),
        };
        let (body, tag) = chunk.sealed.split_last_chunk::<TAG_BYTES>().ok_or(Wrong::Chunk(number))?;
        self.plain.extend_from_slice(body);
        let nonce = Nonce::<Aes256Gcm>::from(nonce(number, chunk.is_last));
        let opened = self.cipher.decrypt_inout_detached(
            &nonce,
            &self.header_hash,
            self.plain.as_mut_slice().into(),
            &Tag::<Aes256Gcm>::from(*tag),
        );
        opened.map_err(|_| {
            self.plain.clear();
            Wrong::Chunk(number)
        })
    }
}

impl<R> embedded_io::ErrorType for OpenPayload<'_, R> {
    type Error = io::Error;
}

impl<R: embedded_io::Read> embedded_io::Read for OpenPayload<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, io::Error> {
        let taken = match self.rest() {
            Ok(rest) => {
                let taken = rest.len().min(buffer.len());
                buffer[..taken].copy_from_slice(&rest[..taken]);
                taken
            }
            Err(wrong) => {
                self.wrong = Some(wrong);
                return Err(io::Error::other("a chunk does not open"));
            }
        };
        self.read += taken;
        Ok(taken)
    }
}

fn impossible(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, what)
}

fn unwritten(problem: WriteProblem<io::Error>) -> io::Error {
    match problem {
        WriteProblem::Device(error) => error,
        WriteProblem::Stopped => io::ErrorKind::WriteZero.into(),
        WriteProblem::TooLong => impossible("a frame is too long"),
        WriteProblem::Impossible => impossible("no reader would take this package"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use ed25519_dalek::{Signer as _, SigningKey};
    use slotwarden_core::export::{Class, Entry, Protection, Section, SectionWriter, Strategy, Trailer};
    use slotwarden_core::ledger::{Fact, KeyName, Known};

    const SOURCE: u8 = 1;

    /// A node of the cluster.
    struct Node {
        secrets: NodeSecrets,
        keys: MemberKeys,
    }

    fn signing(number: u8) -> SigningKey {
        SigningKey::from_bytes(&[number; 32])
    }

    fn signer(number: u8) -> Signer {
        let key = signing(number);
        Arc::new(move |message| key.sign(message).to_bytes())
    }

    fn node(number: u8) -> Node {
        let key = signing(number);
        let secrets = NodeSecrets::of_node(&[number; 32]).expect("it is a seed");
        let keys = secrets.public(key.verifying_key().to_bytes()).expect("they were made");
        Node { secrets, keys }
    }

    /// Targets in the order of a header.
    fn targets(count: u8) -> Vec<Node> {
        let mut nodes: Vec<Node> = (2..count + 2).map(node).collect();
        nodes.sort_by_key(|node| node.keys.node);
        nodes
    }

    fn keys(nodes: &[Node]) -> Vec<MemberKeys> {
        nodes.iter().map(|node| node.keys.clone()).collect()
    }

    fn header(suite: Suite, nodes: &[Node]) -> Header {
        Header {
            package_id: [1; 16],
            cluster: [2; 16],
            source: signing(SOURCE).verifying_key().to_bytes(),
            roster_epoch: 3,
            roster_hash: [4; 32],
            sequence: 5,
            key_id: [6; 16],
            made_s: Some(1_800_000_000),
            targets: nodes.iter().map(|node| node.keys.node).collect(),
            suite,
        }
    }

    fn facts(count: u32) -> Vec<SlotFacts> {
        let fact = |number: u32| {
            let mut name = [0; 16];
            name[..4].copy_from_slice(&number.to_be_bytes());
            Fact { name: KeyName(name), known: Known { count: number % 5 + 1, here: number.is_multiple_of(2) } }
        };
        vec![([7; 16], (0..count).map(fact).collect()), ([8; 16], Vec::new())]
    }

    fn export_header() -> export::Header {
        export::Header {
            export_id: [9; 16],
            cluster: [2; 16],
            node: signing(SOURCE).verifying_key().to_bytes(),
            protection: Protection::Cards { set_id: [3; 16] },
            key_id: [6; 16],
            sequence: 1,
            made_s: None,
            previous: [0; 32],
            sections: 1,
        }
    }

    /// A whole export of so many keys, signed by whom its header names.
    fn export_file(header: export::Header, by: u8, entries: u32) -> Vec<u8> {
        let mut bytes = Vec::new();
        let header_hash = export::begin(&mut bytes, &header).expect("a vector grows");
        let section = Section {
            uid: [7; 16],
            name: "signing",
            strategy: Strategy::Kwp,
            token_label: "a token",
            token_serial: "1",
            manufacturer: "nobody",
            model: "none",
            firmware: (1, 0),
        };
        let mut writer = SectionWriter::begin(&mut bytes, header_hash, &section).expect("a vector grows");
        for index in 0..entries {
            let nothing = export::Attributes::default();
            let entry = Entry {
                index,
                class: Class::Secret,
                key_type: 0x1F,
                id: b"id",
                label: b"the label of a key",
                set: nothing,
                recorded: nothing,
                wrapped: &[0x5A; 4000],
            };
            writer.entry(&entry).expect("in order");
        }
        writer.end([0; 32]).expect("in order");
        let mut reader = export::Reader::new(bytes.as_slice());
        let unsigned = loop {
            if let Some(unsigned) = reader.unsigned() {
                break unsigned;
            }
            reader.next().expect("it is whole so far");
        };
        let signature = signing(by).sign(&export::trailer_message(&header_hash, &unsigned.hash)).to_bytes();
        export::write_trailer(&mut bytes, &Trailer { signature, ..unsigned }).expect("a vector grows");
        bytes
    }

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir_in("/dev/shm").expect("/dev/shm is there")
    }

    fn file_of(dir: &tempfile::TempDir, name: &str, bytes: &[u8]) -> PathBuf {
        let path = dir.path().join(name);
        fs::write(&path, bytes).expect("the directory is writable");
        path
    }

    /// A receipt with a few facts.
    fn receipt(suite: Suite, nodes: &[Node]) -> Vec<u8> {
        let mut bytes = Vec::new();
        seal(&mut bytes, &header(suite, nodes), &keys(nodes), &facts(3), None, &signer(SOURCE)).expect("in order");
        bytes
    }

    fn open_bytes(bytes: &[u8], own: &Node, into: &Path) -> Result<Opened, Wrong> {
        open_from(&mut io::Cursor::new(bytes), &own.keys.node, &own.secrets, into)
    }

    /// Refused, and nothing is left.
    fn refused(bytes: &[u8], own: &Node) -> Wrong {
        let dir = directory();
        let wrong = open_bytes(bytes, own, &dir.path().join("inside")).expect_err("it was opened");
        assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0, "{wrong} left something");
        wrong
    }

    /// A package taken apart, for its source to put together otherwise.
    #[derive(Clone)]
    struct Taken {
        header: Header,
        sealed: Vec<(Vec<u8>, Vec<u8>)>,
        commitment: [u8; 32],
        chunks: Vec<Vec<u8>>,
    }

    fn take_apart(bytes: &[u8]) -> Taken {
        let mut body = Box::new([0; FRAME_BYTES_MAX]);
        let mut reader = package::Reader::new(bytes, &mut body);
        let (mut sealed, mut chunks, mut tied) = (Vec::new(), Vec::new(), [0; 32]);
        loop {
            match reader.next().expect("it is whole") {
                Part::Header => {}
                Part::Sealed(part) => sealed.push((part.enc.to_vec(), part.key.to_vec())),
                Part::Commitment(Commitment { commitment }) => tied = commitment,
                Part::Chunk { chunk, .. } => chunks.push(chunk.sealed.to_vec()),
                Part::End { .. } => break,
            }
        }
        let header = reader.header().expect("it was read").0.clone();
        Taken { header, sealed, commitment: tied, chunks }
    }

    /// Put together again, rightly signed by the source.
    fn put_together(taken: &Taken) -> Vec<u8> {
        let mut bytes = Vec::new();
        let mut writer = package::Writer::begin(&mut bytes, taken.header.clone()).expect("a vector grows");
        for (target, (enc, key)) in taken.header.targets.iter().zip(&taken.sealed) {
            writer.seal(&Sealed { target: *target, enc, key }).expect("in order");
        }
        writer.commit(&Commitment { commitment: taken.commitment }).expect("in order");
        for (number, sealed) in taken.chunks.iter().enumerate() {
            writer.chunk(&Chunk { is_last: number + 1 == taken.chunks.len(), sealed }).expect("in order");
        }
        let hash = writer.unsigned().expect("the last was written").hash;
        let signature = signing(SOURCE).sign(&message(writer.header_hash(), &hash)).to_bytes();
        writer.end(signature).expect("a vector grows");
        bytes
    }

    fn header_hash_of(bytes: &[u8]) -> [u8; 32] {
        let mut body = Box::new([0; FRAME_BYTES_MAX]);
        let mut reader = package::Reader::new(bytes, &mut body);
        reader.next().expect("it is whole");
        *reader.header().expect("it was read").1
    }

    #[test]
    fn every_target_opens_a_package_of_either_suite_and_finds_what_was_put_in() {
        for suite in [Suite::XWing, Suite::P256] {
            let nodes = targets(3);
            let dir = directory();
            // Facts of several frames and an export of several chunks, with a part that is no full one.
            let inside = export_file(export_header(), SOURCE, 40);
            let export = file_of(&dir, "export", &inside);
            let path = dir.path().join("package");
            let header = header(suite, &nodes);
            let file = File::create(&path).expect("the directory is writable");
            let sealed = seal(file, &header, &keys(&nodes), &facts(600), Some(&export), &signer(SOURCE));
            let hash = sealed.expect("in order");
            assert_eq!(read_header(&path).expect("it is whole"), header);
            let bytes = fs::read(&path).expect("it was written");
            for word in [&b"the label"[..], b"signing", &[0x5A; 16]] {
                assert!(!bytes.windows(word.len()).any(|window| window == word), "it can be read by everybody");
            }
            for node in &nodes {
                let into = dir.path().join("inside");
                fs::write(&into, b"of an earlier package").expect("the directory is writable");
                let opened = open(&path, &node.keys.node, &node.secrets, &into).expect("it is for this node");
                assert_eq!((opened.header, opened.hash, opened.export), (header.clone(), hash, true));
                assert_eq!(opened.facts, facts(600));
                assert_eq!(fs::read(&into).expect("it was given out"), inside);
                assert_eq!(fs::metadata(&into).expect("it is there").permissions().mode() & 0o777, 0o600);
            }
        }
    }

    #[test]
    fn a_receipt_opens_and_writes_nothing() {
        for suite in [Suite::XWing, Suite::P256] {
            let (nodes, dir) = (targets(2), directory());
            let opened = open_bytes(&receipt(suite, &nodes), &nodes[1], &dir.path().join("inside"));
            let opened = opened.expect("it is for this node");
            assert_eq!((opened.facts, opened.export), (facts(3), false));
            assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 0);
        }
    }

    #[test]
    fn a_payload_of_exactly_full_chunks_opens() {
        let (nodes, dir) = (targets(1), directory());
        let fill = |count| {
            let header = header(Suite::P256, &nodes);
            let mut bytes = Vec::new();
            seal(&mut bytes, &header, &keys(&nodes), &[([7; 16], facts(count)[0].1.clone())], None, &signer(SOURCE))
                .map(|_| take_apart(&bytes).chunks.iter().map(Vec::len).collect::<Vec<_>>())
                .expect("in order")
        };
        // A payload written byte by byte: full, and one byte more.
        let writer = || {
            let mut writer = package::Writer::begin(Io(BufWriter::new(Vec::new())), header(Suite::P256, &nodes))
                .expect("a vector grows");
            let target = nodes[0].keys.node;
            writer.seal(&Sealed { target, enc: &[9; 65], key: &[9; SEALED_KEY_BYTES] }).expect("in order");
            writer.commit(&Commitment { commitment: [7; 32] }).expect("in order");
            Payload::new(writer, keys_of(&[1; 32]).expect("a key").1)
        };
        for (bytes, chunks) in [(1, 1), (CHUNK_BYTES, 1), (CHUNK_BYTES + 1, 2), (2 * CHUNK_BYTES, 2)] {
            let mut payload = writer();
            for _ in 0..bytes {
                assert_eq!(Write::write(&mut payload, &[5]).expect("a vector grows"), 1);
            }
            assert_eq!(payload.end().expect("in order").unsigned().expect("the last was written").chunks, chunks);
        }
        assert_eq!(fill(0).len(), 1);
        assert_eq!(fill(4_000).len(), 2);
        drop(dir);
    }

    #[test]
    fn p21_every_flipped_bit_and_every_prefix_of_a_package_is_refused() {
        for suite in [Suite::XWing, Suite::P256] {
            let (nodes, dir) = (targets(1), directory());
            let inside = file_of(&dir, "export", &export_file(export_header(), SOURCE, 0));
            let mut bytes = Vec::new();
            seal(&mut bytes, &header(suite, &nodes), &keys(&nodes), &facts(3), Some(&inside), &signer(SOURCE))
                .expect("in order");
            let into = dir.path().join("inside");
            for bit in 0..bytes.len() * 8 {
                let mut damaged = bytes.clone();
                damaged[bit / 8] ^= 1 << (bit % 8);
                assert!(open_bytes(&damaged, &nodes[0], &into).is_err(), "bit {bit}");
            }
            for length in 0..bytes.len() {
                let wrong = open_bytes(&bytes[..length], &nodes[0], &into).expect_err("it was opened");
                assert!(matches!(wrong, Wrong::Package(_)), "{length} bytes: {wrong}");
            }
            let longer = [bytes.as_slice(), &[0]].concat();
            assert!(matches!(refused(&longer, &nodes[0]), Wrong::Package(package::Problem::Trailing)));
            assert_eq!(fs::read_dir(dir.path()).expect("it is there").count(), 1, "only the export");
            assert!(open_bytes(&bytes, &nodes[0], &into).is_ok());
        }
    }

    #[test]
    fn what_is_endless_is_refused_with_the_first_bytes() {
        struct Zeros(Arc<AtomicU64>);
        impl Read for Zeros {
            fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
                buffer.fill(0);
                self.0.fetch_add(buffer.len() as u64, Ordering::SeqCst);
                Ok(buffer.len())
            }
        }
        impl Seek for Zeros {
            fn seek(&mut self, _: SeekFrom) -> io::Result<u64> {
                Ok(0)
            }
        }
        let (node, dir, read) = (node(2), directory(), Arc::new(AtomicU64::new(0)));
        let opened =
            open_from(&mut Zeros(Arc::clone(&read)), &node.keys.node, &node.secrets, &dir.path().join("inside"));
        assert!(matches!(opened, Err(Wrong::Package(package::Problem::NotOurs))));
        assert!(read.load(Ordering::SeqCst) <= 8192, "one buffer");

        let path = dir.path().join("zeros");
        File::create(&path).and_then(|file| file.set_len(10 << 30)).expect("sparse files take no room");
        assert!(matches!(read_header(&path), Err(Wrong::Package(package::Problem::NotOurs))));
        // Neither is a file; opening a pipe would wait for somebody to write.
        assert!(matches!(read_header(dir.path()), Err(Wrong::Unreadable(_))));
        let pipe = dir.path().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, rustix::fs::Mode::RUSR).expect("the directory is writable");
        assert!(matches!(read_header(&pipe), Err(Wrong::Unreadable(_))));
    }

    #[test]
    fn a_node_that_is_no_target_or_has_other_keys_opens_nothing() {
        for suite in [Suite::XWing, Suite::P256] {
            let nodes = targets(2);
            let bytes = receipt(suite, &nodes);
            assert!(matches!(refused(&bytes, &node(9)), Wrong::NotForUs));
            // The node's name with keys that it does not have any more.
            let changed = Node { secrets: NodeSecrets::of_node(&[0xEE; 32]).expect("it is a seed"), ..node(2) };
            assert!(matches!(refused(&bytes, &changed), Wrong::ContentKey));
            // What was sealed for one target is no other's.
            let mut taken = take_apart(&bytes);
            taken.sealed.swap(0, 1);
            assert!(matches!(refused(&put_together(&taken), &nodes[0]), Wrong::ContentKey));
            let first = taken.sealed[1].clone();
            taken.sealed = vec![first.clone(), first];
            let spliced = put_together(&taken);
            assert!(open_bytes(&spliced, &nodes[0], &directory().path().join("inside")).is_ok());
            assert!(matches!(refused(&spliced, &nodes[1]), Wrong::ContentKey));
        }
    }

    #[test]
    fn a_sealed_key_of_another_package_does_not_open_although_both_have_one_content_key() {
        let nodes = targets(1);
        let mut taken = take_apart(&receipt(Suite::P256, &nodes));
        taken.header.sequence += 1;
        assert!(matches!(refused(&put_together(&taken), &nodes[0]), Wrong::ContentKey));
    }

    #[test]
    fn a_target_with_a_content_key_of_its_own_refuses_the_package() {
        for suite in [Suite::XWing, Suite::P256] {
            let nodes = targets(2);
            let bytes = receipt(suite, &nodes);
            let mut taken = take_apart(&bytes);
            let (info, key) = (hpke_info(&header_hash_of(&bytes), &nodes[1].keys.node), nodes[1].keys.of(suite));
            let (enc, sealed) = match suite {
                Suite::XWing => seal_key::<XWing>(key, &info, &[5; 32]),
                Suite::P256 => seal_key::<DhP256HkdfSha256>(key, &info, &[5; 32]),
            }
            .expect("they were made");
            taken.sealed[1] = (enc, sealed.to_vec());
            let two = put_together(&taken);
            assert!(open_bytes(&two, &nodes[0], &directory().path().join("inside")).is_ok());
            assert!(matches!(refused(&two, &nodes[1]), Wrong::Commitment));
            // With the commitment of that key it is the first target that refuses, and the payload is not encrypted with it.
            taken.commitment = keys_of(&[5; 32]).expect("a key").0;
            let two = put_together(&taken);
            assert!(matches!(refused(&two, &nodes[0]), Wrong::Commitment));
            assert!(matches!(refused(&two, &nodes[1]), Wrong::Chunk(0)));
        }
    }

    #[test]
    fn chunks_that_were_exchanged_left_out_repeated_or_spliced_in_are_refused() {
        let nodes = targets(1);
        let sealed = || {
            let (mut bytes, header) = (Vec::new(), header(Suite::P256, &nodes));
            seal(&mut bytes, &header, &keys(&nodes), &facts(8_000), None, &signer(SOURCE)).expect("in order");
            take_apart(&bytes)
        };
        let (one, other) = (sealed(), sealed());
        assert_eq!(one.chunks.len(), 3);
        let with = |change: &dyn Fn(&mut Vec<Vec<u8>>)| {
            let mut taken = one.clone();
            change(&mut taken.chunks);
            refused(&put_together(&taken), &nodes[0])
        };
        assert!(matches!(with(&|chunks| chunks.swap(0, 1)), Wrong::Chunk(0)));
        assert!(matches!(with(&|chunks| drop(chunks.remove(0))), Wrong::Chunk(0)));
        assert!(matches!(with(&|chunks| drop(chunks.remove(1))), Wrong::Chunk(1)));
        // A full chunk can be the last, and is not the last that was written.
        assert!(matches!(with(&|chunks| drop(chunks.remove(2))), Wrong::Chunk(1)));
        assert!(matches!(with(&|chunks| chunks.insert(1, chunks[0].clone())), Wrong::Chunk(1)));
        assert!(matches!(with(&|chunks| chunks[1].clone_from(&other.chunks[1])), Wrong::Chunk(1)));
        assert!(matches!(with(&|chunks| chunks[2].clone_from(&other.chunks[2])), Wrong::Chunk(2)));
        assert!(matches!(with(&|chunks| chunks[2].truncate(40)), Wrong::Chunk(2)));
        assert_eq!(put_together(&one), put_together(&one.clone()));
        assert!(open_bytes(&put_together(&one), &nodes[0], &directory().path().join("inside")).is_ok());
    }

    #[test]
    fn p22_an_export_of_another_node_cluster_or_backup_key_inside_is_refused() {
        let (nodes, dir) = (targets(1), directory());
        let other_node = signing(9).verifying_key().to_bytes();
        let foreign = [
            (export::Header { node: other_node, ..export_header() }, 9),
            (export::Header { cluster: [0; 16], ..export_header() }, SOURCE),
            (export::Header { key_id: [0; 16], ..export_header() }, SOURCE),
        ];
        let header = header(Suite::P256, &nodes);
        for (inside, by) in foreign {
            let path = file_of(&dir, "export", &export_file(inside, by, 1));
            let sealed = seal(io::sink(), &header, &keys(&nodes), &[], Some(&path), &signer(SOURCE));
            assert_eq!(sealed.expect_err("it was sealed").kind(), io::ErrorKind::InvalidInput);
            let (mut bytes, file) = (Vec::new(), File::open(&path).expect("it is there"));
            seal_any(&mut bytes, &header, &keys(&nodes), &[], Some(file), &signer(SOURCE)).expect("nothing looks");
            assert!(matches!(refused(&bytes, &nodes[0]), Wrong::ForeignExport));
        }
        // One that is cut, one with something behind it, and nothing at all.
        let whole = export_file(export_header(), SOURCE, 1);
        for bytes in [&whole[..whole.len() - 1], &[whole.as_slice(), &[0]].concat(), &[]] {
            let file = File::open(file_of(&dir, "export", bytes)).expect("it is there");
            let mut bytes = Vec::new();
            seal_any(&mut bytes, &header, &keys(&nodes), &[], Some(file), &signer(SOURCE)).expect("nothing looks");
            assert!(matches!(refused(&bytes, &nodes[0]), Wrong::Export(_)));
        }
    }

    #[test]
    fn a_payload_that_does_not_begin_with_facts_is_refused() {
        let nodes = targets(1);
        let mut taken = take_apart(&receipt(Suite::P256, &nodes));
        let header_hash = header_hash_of(&put_together(&taken));
        let info = hpke_info(&header_hash, &nodes[0].keys.node);
        let (enc, key) = &taken.sealed[0];
        let private = nodes[0].secrets.private(Suite::P256);
        let content = open_key::<DhP256HkdfSha256>(private, &info, enc, key).expect("it is for this node");
        let mut plain = b"SLWX and what it may be".to_vec();
        let (_, cipher) = keys_of(&content).expect("a key");
        let place = plain.as_mut_slice().into();
        let tag = cipher.encrypt_inout_detached(&Nonce::<Aes256Gcm>::from(nonce(0, true)), &header_hash, place);
        plain.extend_from_slice(&tag.expect("it is short"));
        taken.chunks = vec![plain];
        assert!(matches!(refused(&put_together(&taken), &nodes[0]), Wrong::Facts(package::Problem::UnknownFrame)));
    }

    #[test]
    fn a_package_that_another_node_signed_is_refused_before_anything_is_decrypted() {
        let nodes = targets(1);
        let mut bytes = Vec::new();
        seal(&mut bytes, &header(Suite::P256, &nodes), &keys(&nodes), &facts(3), None, &signer(9)).expect("in order");
        // A node without the keys gets the same answer: nothing was opened.
        for own in [&nodes[0], &Node { secrets: NodeSecrets::of_node(&[0xEE; 32]).expect("it is a seed"), ..node(2) }] {
            assert!(matches!(refused(&bytes, own), Wrong::Package(package::Problem::Signature)));
        }
    }

    #[test]
    fn nothing_is_sealed_for_other_targets_than_the_headers_or_for_no_key() {
        let nodes = targets(2);
        let (header, all) = (header(Suite::XWing, &nodes), keys(&nodes));
        let attempt = |keys: &[MemberKeys], facts: &[SlotFacts]| {
            let sealed = seal(io::sink(), &header, keys, facts, None, &signer(SOURCE));
            sealed.map_err(|error| error.kind())
        };
        let reversed: Vec<MemberKeys> = all.iter().rev().cloned().collect();
        let short = MemberKeys { x_wing: vec![1; 5], ..all[1].clone() };
        for keys in [&all[..1], &reversed, &[all[0].clone(), short.clone()]] {
            assert_eq!(attempt(keys, &facts(1)), Err(io::ErrorKind::InvalidInput));
        }
        let unsorted: Vec<SlotFacts> = facts(1).into_iter().rev().collect();
        assert_eq!(attempt(&all, &unsorted), Err(io::ErrorKind::InvalidInput));
        assert!(attempt(&all, &facts(1)).is_ok());
        assert_eq!(short.member(), None);
        assert_eq!(MemberKeys { p256: vec![4; 65], ..all[1].clone() }.member(), None);
        assert_eq!(all[1].member().map(|member| member.node), Some(all[1].node));
    }
}
