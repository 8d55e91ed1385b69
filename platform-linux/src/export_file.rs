//! A protected export as a file: read from its first byte to its last, with nothing but itself.
//!
//! `slotwarden verify` needs no daemon and no HSM. What it says of keys is what the file says; that
//! the file is whole, and whose node signed it, is checked. The MACs need the backup key: a passphrase gives it here;
//! cards give it to a daemon, which has the pads, and which asks no token for this either ([`check_macs`]).

use std::fs::File;
use std::io::{self, BufReader, Seek as _, SeekFrom};
use std::path::Path;

use serde::Serialize;
use slotwarden_core::code::equal;
use slotwarden_core::export::{Class, Header, Part, Problem as Wrong, Protection, Reader, Strategy, Why};
use slotwarden_core::{Refusal, backup};
use zeroize::Zeroizing;

use crate::audit::hex;
use crate::passphrase::{self, Cost};
use crate::problem::{Own, Problem};
use crate::transfer_dir::{name_of, printable};

/// What a whole export says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Names the export.
    pub export_id: String,
    /// Whose backup key it is.
    pub cluster: String,
    /// The appliance security level: `cards`, `passphrase`.
    pub level: &'static str,
    /// The set of cards that ruled when it was made.
    pub set_id: Option<String>,
    /// Names the backup key that opens it.
    pub key_id: String,
    /// Which export of its node.
    pub sequence: u64,
    /// When it was made, seconds since 1970.
    pub made_s: Option<u64>,
    /// The public key (Ed25519) of the node that signed it.
    pub signed_by: String,
    /// Whether that is the key that the verifier brought.
    pub trusted: bool,
    /// Whether the MAC of every section was checked, with its passphrase or its cards, and is right.
    pub authentic: bool,
    /// What one try of its passphrase costs.
    pub cost: Option<VerifiedCost>,
    /// Its sections.
    pub sections: Vec<VerifiedSection>,
    /// Objects beyond those that are listed.
    pub not_listed: u64,
}

/// What one try of a passphrase costs: Argon2id, RFC 9106.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedCost {
    /// Memory, KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

/// Objects that are listed: more than two slots of 100,000 keys have. A file that anybody made cannot fill the memory.
const LISTED_MAX: u32 = 250_000;

/// What came from one slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedSection {
    /// The slot's name.
    pub slot: String,
    /// The slot uid.
    pub uid: String,
    /// Label and serial of its token.
    pub token: (String, String),
    /// Maker, model and firmware of its HSM.
    pub hsm: String,
    /// `kwp`, `vendor`.
    pub strategy: &'static str,
    /// Objects in it.
    pub objects: Vec<VerifiedObject>,
    /// Keys that stayed behind.
    pub left_out: Vec<VerifiedObject>,
    /// Bytes of the part that the vendor's own program wrote: what is in it only that program knows.
    pub vendor_bytes: Option<u64>,
}

/// One object.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct VerifiedObject {
    /// `secret`, `private`, `public`, `certificate`.
    pub class: &'static str,
    /// `CKK_*`, as far as it has a name here; else its number.
    pub key_type: String,
    /// `CKA_LABEL`, or `id:` and `CKA_ID`.
    pub name: String,
    /// `CKA_ID`, hexadecimal.
    pub id: String,
    /// Why it is not in the file.
    pub why: Option<String>,
}

/// Reads a whole file. `node_key`: whose signature the verifier trusts. With its passphrase the MACs are
/// checked too, before anything in it is shown.
///
/// # Errors
/// [`Own::FileUnreadable`]; [`Own::FileRefused`] with what is wrong with it; [`Own::SignedByAnother`],
/// [`Refusal::PassphraseWrong`],
/// [`Refusal::PassphraseNotWanted`].
pub fn verify(path: &Path, node_key: Option<[u8; 32]>, passphrase: Option<&[u8]>) -> Result<Verified, Problem> {
    let unreadable = |error: io::Error| Own::FileUnreadable.with(format!("{}: {error}", path.display()));
    // Before it is opened: a pipe would be waited for.
    let about = std::fs::metadata(path).map_err(unreadable)?;
    if !about.is_file() {
        return Err(Own::FileUnreadable.with(format!("{}: it is not a file", path.display())));
    }
    let file = File::open(path).map_err(unreadable)?;
    let refused = |what: &str, name: &str| Own::FileRefused.with(format!("{}: {what} ({name})", path.display()));
    let mut found = read(&mut Reader::new(Io(BufReader::new(&file))), node_key)
        .map_err(|wrong| refused(wrong.sentence(), wrong.name()))?;
    if node_key.is_some() && !found.trusted {
        return Err(Own::SignedByAnother.with(format!("{}: signed by {}", path.display(), found.signed_by)));
    }
    if let Some(passphrase) = passphrase {
        (&file).seek(SeekFrom::Start(0)).map_err(unreadable)?;
        let key_of = |header: &Header, place: &mut [u8; 32]| {
            let (salt, cost) = passphrase::of_header(header.protection).ok_or(Refusal::PassphraseNotWanted)?;
            let backup_key = passphrase::backup_key(passphrase, &salt, cost)?;
            if backup::key_id(&backup_key) != header.key_id {
                return Err(Refusal::PassphraseWrong.into());
            }
            place.copy_from_slice(&*backup_key);
            Ok(())
        };
        match check_macs(&mut Reader::new(Io(BufReader::new(&file))), key_of)? {
            Ok(()) => found.authentic = true,
            Err(slot) => {
                return Err(refused(&format!("the MAC of {slot} is not one of its passphrase"), "forged"));
            }
        }
    }
    Ok(found)
}

/// Whether the MAC of every section is of the backup key that `key_of` puts in its place for the header; else the slot
/// of the first that is not. The file was read as a whole before. No HSM takes part: MAKs are derived and used in
/// memory.
///
/// # Errors
/// Those of `key_of`; [`Own::FileRefused`] where the file cannot be read to its end.
pub fn check_macs<R: embedded_io::Read>(
    reader: &mut Reader<R>,
    key_of: impl Fn(&Header, &mut [u8; 32]) -> Result<(), Problem>,
) -> Result<Result<(), String>, Problem> {
    let mut backup_key = Zeroizing::new([0; 32]);
    let mut slot = ([0; 16], String::new());
    loop {
        match reader.next().map_err(|wrong| Own::FileRefused.with(wrong.sentence()))? {
            // It comes first.
            Part::Header(header) => key_of(&header, &mut backup_key)?,
            Part::Section(section) => slot = (section.uid, printable(section.name)),
            Part::SectionEnd { end, message } => {
                let mut mak = Zeroizing::new([0; 32]);
                backup::mak(&backup_key, &slot.0, &mut mak);
                if !equal(&backup::section_mac(&mak, &message), &end.mac) {
                    return Ok(Err(slot.1));
                }
            }
            Part::Entry(_) | Part::LeftOut(_) | Part::Piece(_) => {}
            Part::End { .. } => return Ok(Ok(())),
        }
    }
}

fn read<R: embedded_io::Read>(reader: &mut Reader<R>, node_key: Option<[u8; 32]>) -> Result<Verified, Wrong> {
    let mut found = Verified {
        export_id: String::new(),
        cluster: String::new(),
        level: "cards",
        set_id: None,
        key_id: String::new(),
        sequence: 0,
        made_s: None,
        signed_by: String::new(),
        trusted: false,
        authentic: false,
        cost: None,
        sections: Vec::new(),
        not_listed: 0,
    };
    let mut listed = 0;
    loop {
        match reader.next()? {
            Part::Header(header) => {
                let (level, set_id) = match header.protection {
                    Protection::Cards { set_id } => ("cards", Some(hex(&set_id))),
                    Protection::Passphrase { .. } => ("passphrase", None),
                };
                found = Verified {
                    export_id: hex(&header.export_id),
                    cluster: hex(&header.cluster),
                    level,
                    set_id,
                    key_id: hex(&header.key_id),
                    sequence: header.sequence,
                    made_s: header.made_s,
                    signed_by: hex(&header.node),
                    trusted: node_key == Some(header.node),
                    authentic: false,
                    cost: passphrase::of_header(header.protection)
                        .map(|(_, Cost { memory_kib, passes, lanes })| VerifiedCost { memory_kib, passes, lanes }),
                    sections: Vec::new(),
                    not_listed: 0,
                };
            }
            Part::Section(section) => found.sections.push(VerifiedSection {
                slot: printable(section.name),
                uid: hex(&section.uid),
                token: (printable(section.token_label.trim()), printable(section.token_serial.trim())),
                hsm: format!(
                    "{} {} {}.{}",
                    printable(section.manufacturer.trim()),
                    printable(section.model.trim()),
                    section.firmware.0,
                    section.firmware.1
                ),
                strategy: match section.strategy {
                    Strategy::Kwp => "kwp",
                    Strategy::Vendor => "vendor",
                },
                objects: Vec::new(),
                left_out: Vec::new(),
                vendor_bytes: None,
            }),
            Part::Entry(_) | Part::LeftOut(_) if listed >= LISTED_MAX => found.not_listed += 1,
            Part::Entry(entry) => {
                listed += 1;
                let object = object(entry.class, entry.key_type, entry.id, entry.label, None);
                found.sections.iter_mut().next_back().into_iter().for_each(|last| last.objects.push(object.clone()));
            }
            Part::LeftOut(key) => {
                listed += 1;
                let why = match key.why {
                    Why::NotExtractable => "CKA_EXTRACTABLE is false".to_owned(),
                    Why::WrapWithTrusted => "CKA_WRAP_WITH_TRUSTED is true".to_owned(),
                    Why::Refused { code } => format!("the token refused to wrap it (0x{code:x})"),
                };
                let object = object(key.class, key.key_type, key.id, key.label, Some(why));
                found.sections.iter_mut().next_back().into_iter().for_each(|last| last.left_out.push(object.clone()));
            }
            Part::Piece(piece) => {
                let length = piece.bytes.len() as u64;
                found.sections.iter_mut().next_back().into_iter().for_each(|last| {
                    last.vendor_bytes = Some(last.vendor_bytes.unwrap_or_default().saturating_add(length));
                });
            }
            Part::SectionEnd { .. } => {}
            Part::End { .. } => return Ok(found),
        }
    }
}

fn object(class: Class, key_type: u64, id: &[u8], label: &[u8], why: Option<String>) -> VerifiedObject {
    VerifiedObject {
        class: class_word(class),
        key_type: key_type_word(key_type),
        name: name_of(label, id),
        id: hex(id),
        why,
    }
}

/// As people and scripts read it.
pub(crate) const fn class_word(class: Class) -> &'static str {
    match class {
        Class::Secret => "secret",
        Class::Private => "private",
        Class::Public => "public",
        Class::Certificate => "certificate",
    }
}

/// PKCS#11 v3.1, section 4.6 and its header file; others by their number.
pub(crate) fn key_type_word(key_type: u64) -> String {
    match key_type {
        0x00 => "RSA".to_owned(),
        0x03 => "EC".to_owned(),
        0x10 => "generic".to_owned(),
        0x15 => "DES3".to_owned(),
        0x1F => "AES".to_owned(),
        0x40 => "EC-Edwards".to_owned(),
        0x41 => "EC-Montgomery".to_owned(),
        u64::MAX => "X.509".to_owned(),
        other => format!("0x{other:x}"),
    }
}

/// A file as the format reads and writes it.
pub(crate) struct Io<T>(pub(crate) T);

impl<T> embedded_io::ErrorType for Io<T> {
    type Error = io::Error;
}

impl<T: io::Read> embedded_io::Read for Io<T> {
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, io::Error> {
        self.0.read(buffer)
    }
}

impl<T: io::Write> embedded_io::Write for Io<T> {
    fn write(&mut self, bytes: &[u8]) -> Result<usize, io::Error> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> Result<(), io::Error> {
        self.0.flush()
    }
}
