//! The section of one slot in an export: every key of the token, wrapped by W.
//!
//! Two calls a key, one key in memory. A module of this machine is asked by one session. One
//! that takes its time is asked by several, each of which takes every n-th key; what they bring is
//! written in the order of the keys, so that the bytes are the same. A session waits when the
//! keys before its own are not written yet, so that memory does not grow with their number.

use std::fs::File;
use std::io::{self, Write as _};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use cryptoki::session::Session;
use cryptoki::slot::Slot;
use cryptoki_sys::{CK_OBJECT_HANDLE, CKA_EXTRACTABLE, CKA_TOKEN, CKA_VALUE, CKA_VALUE_LEN, CKA_WRAP_WITH_TRUSTED};
use slotwarden_core::export::{
    Attributes, Class, Entry, FRAME_BYTES_MAX, LeftOut, Section, SectionWriter, Strategy, Why,
};
use slotwarden_core::fault::{HsmFailure, Refusal};

use super::super::backup_keys::{Purpose, does_something_else};
use super::super::find::unpadded;
use super::super::module::{Module, failure};
use super::calls::Calls;
use super::files_failed;
use super::mechanism::KeyWrap;
use super::object::Sheet;
use super::progress::Progress;
use crate::transfer_dir::{ExportJob, JobPurpose, Look, name_of};
use slotwarden_core::fault::Function;
use slotwarden_core::ledger::{KeyName, Named};

/// A call that takes longer waits for something else than this machine.
const SLOW: Duration = Duration::from_millis(2);
/// Keys after which the pace of the module is known.
const KEYS_FOR_PACE: usize = 4;
/// Sessions that ask a slow module at the same time.
const SESSIONS_MAX: usize = 32;
/// What a session brings before the first of it is written.
const AHEAD: usize = 4;
/// Bytes between two writes to the file, which may be slow.
const BUFFER_BYTES: usize = 64 * 1024;
/// What one entry takes besides its values, at most.
const ENTRY_OVERHEAD: usize = 64;

/// `CKR_DATA_LEN_RANGE`: the reason of an object that is longer than an entry.
const TOO_LONG: u64 = 0x21;
/// `CKR_KEY_SIZE_RANGE`
const KEY_SIZE_RANGE: u64 = 0x62;
/// `CKR_BUFFER_TOO_SMALL`
const BUFFER_TOO_SMALL: u64 = 0x150;
/// `CKR_TEMPLATE_INCONSISTENT`: the reason of a key with attributes that no export carries.
const HAS_TEMPLATE: u64 = 0xD1;

/// One object on its way to the file.
#[derive(Default)]
pub(super) struct Leaf {
    /// `None` for what no export holds.
    class: Option<Class>,
    key_type: u64,
    id: Vec<u8>,
    label: Vec<u8>,
    set: Vec<u8>,
    recorded: Vec<u8>,
    wrapped: Vec<u8>,
    length: usize,
    why: Option<Why>,
    is_ours: bool,
    name: Option<KeyName>,
    /// Nobody wants it.
    is_skipped: bool,
}

impl Leaf {
    fn is_seen(&self, look: &mut Look<'_>) -> Result<(), HsmFailure> {
        let Some((name, class)) = self.name.zip(self.class) else { return Ok(()) };
        look.sees(name, class, self.key_type, &self.id, &self.label).map_err(|_| files_failed())
    }
}

/// What a section came to.
#[derive(Default)]
pub(super) struct Told {
    pub(super) keys: u32,
    pub(super) left_out: u32,
}

/// One session that takes keys.
pub(super) struct Hand<'a> {
    calls: Calls<'a>,
    sheet: Sheet,
    wrap: KeyWrap,
    by: CK_OBJECT_HANDLE,
    uid: [u8; 16],
    skip: &'a [KeyName],
}

impl<'a> Hand<'a> {
    fn new(calls: Calls<'a>, maker: &'a Maker<'_>) -> Self {
        let skip: &[KeyName] = match &maker.job.purpose {
            JobPurpose::Backup { .. } => &[],
            JobPurpose::Package { skip } => skip,
        };
        Hand { calls, sheet: Sheet::new(), wrap: maker.wrap, by: maker.w, uid: maker.uid, skip }
    }

    /// Takes one object: its attributes by one call, its value by another.
    fn take(&mut self, object: CK_OBJECT_HANDLE, leaf: &mut Leaf) -> Result<(), HsmFailure> {
        let sheet = &mut self.sheet;
        sheet.read(&self.calls, object)?;
        leaf.class = sheet.class();
        let Some(class) = leaf.class else { return Ok(()) };
        leaf.key_type = sheet.key_type();
        leaf.is_ours = is_ours(sheet);
        for (into, from) in [(&mut leaf.id, sheet.id()), (&mut leaf.label, sheet.label())] {
            into.clear();
            into.extend_from_slice(from);
        }
        sheet.set(&mut leaf.set);
        sheet.recorded(&mut leaf.recorded);
        leaf.length = 0;
        leaf.why = why_it_stays(sheet, self.wrap);
        leaf.name = key_name(sheet, &self.uid);
        leaf.is_skipped = leaf.name.is_some_and(|name| self.skip.binary_search(&name).is_ok());
        if leaf.why.is_some() || leaf.is_ours || leaf.is_skipped || !is_key(class) {
            return Ok(());
        }
        leaf.wrapped.resize(FRAME_BYTES_MAX, 0);
        match self.calls.wrap(self.wrap.number, self.by, object, &mut leaf.wrapped) {
            // RFC 5649: whole blocks of eight bytes, and at least two of them.
            Ok(length) if length >= 16 && length.is_multiple_of(8) => leaf.length = length,
            Ok(_) => return Err(does_something_else(Function::WrapKey)),
            Err(code) if is_about_the_key(code) => leaf.why = Some(Why::Refused { code }),
            Err(code) => return Err(super::calls::failed(code, Function::WrapKey)),
        }
        Ok(())
    }
}

/// What the nodes of a cluster call an object; `None` for what no export holds, and for ours.
pub(super) fn key_name(sheet: &Sheet, uid: &[u8; 16]) -> Option<KeyName> {
    let class = sheet.class().filter(|_| !is_ours(sheet))?;
    let certificate = sheet.value(CKA_VALUE).filter(|_| class == Class::Certificate).unwrap_or_default();
    let (key_type, id, label) = (sheet.key_type(), sheet.id(), sheet.label());
    KeyName::new(uid, &Named { class, key_type, id, label, certificate })
}

pub(super) fn is_key(class: Class) -> bool {
    match class {
        Class::Private | Class::Secret => true,
        Class::Public | Class::Certificate => false,
    }
}

/// Whether it is a key of the backup key, which counts nowhere.
pub(super) fn is_ours(sheet: &Sheet) -> bool {
    sheet.class() == Some(Class::Secret)
        && Purpose::ALL.iter().any(|purpose| purpose.label().as_bytes() == sheet.label())
}

/// Whether an object can leave at all.
pub(super) fn why_no_export_holds(sheet: &Sheet) -> Option<Why> {
    let class = sheet.class()?;
    if sheet.is_too_long() {
        return Some(Why::Refused { code: TOO_LONG });
    }
    if class == Class::Certificate {
        return None;
    }
    if class == Class::Public {
        return sheet.has_template().then_some(Why::Refused { code: HAS_TEMPLATE });
    }
    if sheet.flag(CKA_EXTRACTABLE) != Some(true) {
        return Some(Why::NotExtractable);
    }
    if sheet.flag(CKA_WRAP_WITH_TRUSTED) == Some(true) {
        return Some(Why::WrapWithTrusted);
    }
    sheet.has_template().then_some(Why::Refused { code: HAS_TEMPLATE })
}

fn why_it_stays(sheet: &Sheet, wrap: KeyWrap) -> Option<Why> {
    why_no_export_holds(sheet).or_else(|| {
        // A private key says itself where it ends; a secret key would come back longer than it was.
        let odd = sheet.class() == Some(Class::Secret)
            && !wrap.keeps_lengths
            && sheet.number(CKA_VALUE_LEN).is_some_and(|length| !length.is_multiple_of(8));
        odd.then_some(Why::Refused { code: KEY_SIZE_RANGE })
    })
}

/// Whether a refusal of `C_WrapKey` is about this key and not about the session or the device.
fn is_about_the_key(code: u64) -> bool {
    // KEY_SIZE_RANGE to KEY_UNEXTRACTABLE, without those about the key that wraps; a blob that fits into no entry.
    matches!(code, 0x62..=0x63 | 0x67..=0x6A | BUFFER_TOO_SMALL) || code >= 0x8000_0000
}

/// Every object of the token.
pub(super) fn objects(calls: &Calls<'_>) -> Result<Vec<CK_OBJECT_HANDLE>, HsmFailure> {
    calls.find(&[(CKA_TOKEN, &[1])])
}

/// What is known of the token.
pub(super) struct Origin {
    label: String,
    serial: String,
    manufacturer: String,
    model: String,
    firmware: (u8, u8),
}

impl Origin {
    pub(super) fn of(module: &Module, place: Slot) -> Result<Self, HsmFailure> {
        let info = module.call(|module| module.get_token_info(place));
        let info = info.map_err(|error| failure(&error, Function::GetTokenInfo))?;
        let firmware = info.firmware_version();
        Ok(Origin {
            label: unpadded(info.label()).to_owned(),
            serial: unpadded(info.serial_number()).to_owned(),
            manufacturer: unpadded(info.manufacturer_id()).to_owned(),
            model: unpadded(info.model()).to_owned(),
            firmware: (firmware.major(), firmware.minor()),
        })
    }

    /// How its section begins.
    pub(super) fn section<'a>(&'a self, uid: [u8; 16], name: &'a str, strategy: Strategy) -> Section<'a> {
        Section {
            uid,
            name,
            strategy,
            token_label: &self.label,
            token_serial: &self.serial,
            manufacturer: &self.manufacturer,
            model: &self.model,
            firmware: self.firmware,
        }
    }
}

/// The file behind a buffer; while it is written, other slots may make calls.
pub(super) struct Out<'a> {
    file: &'a File,
    module: &'a Module,
    buffer: Vec<u8>,
}

impl<'a> Out<'a> {
    pub(super) fn new(file: &'a File, module: &'a Module) -> Self {
        Out { file, module, buffer: Vec::with_capacity(BUFFER_BYTES) }
    }
}

impl embedded_io::ErrorType for Out<'_> {
    type Error = io::Error;
}

impl embedded_io::Write for Out<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.buffer.len().saturating_add(bytes.len()) > BUFFER_BYTES {
            embedded_io::Write::flush(self)?;
        }
        self.buffer.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let (mut file, buffer) = (self.file, &mut self.buffer);
        self.module.callers.aside(|| file.write_all(buffer))?;
        buffer.clear();
        Ok(())
    }
}

/// Where a section is made.
pub(super) struct Maker<'a> {
    pub(super) module: &'a Module,
    pub(super) place: Slot,
    pub(super) uid: [u8; 16],
    pub(super) job: &'a ExportJob,
    pub(super) wrap: KeyWrap,
    pub(super) w: CK_OBJECT_HANDLE,
    pub(super) mak: CK_OBJECT_HANDLE,
    pub(super) sessions_max: usize,
}

impl Maker<'_> {
    /// Appends the section to the file, and says what is in it and, to `look`, in the token. Nothing is in
    /// force when it refuses.
    pub(super) fn append(
        &self,
        open: &Session,
        file: &File,
        refused: &mut Vec<String>,
        look: &mut Look<'_>,
        progress: &mut Progress<'_>,
    ) -> Result<Told, HsmFailure> {
        let mut out = Out::new(file, self.module);
        let origin = Origin::of(self.module, self.place)?;
        let section = origin.section(self.uid, &self.job.name, Strategy::Kwp);
        let calls = Calls::new(self.module, open)?;
        let all = objects(&calls)?;
        progress.begin(all.len());
        let mut hand = Hand::new(calls, self);
        let mut writer = SectionWriter::begin(&mut out, self.job.header_hash, &section).map_err(|_| files_failed())?;
        let mut told = Told::default();
        let mut index = 0u32;
        let mut put = |leaf: &Leaf| {
            progress.step();
            leaf.is_seen(look)?;
            self.put(&mut writer, leaf, &mut index, &mut told, refused)
        };
        let (first, rest) = all.split_at(KEYS_FOR_PACE.min(all.len()));
        let begun = Instant::now();
        let mut leaf = Leaf::default();
        for object in first {
            hand.take(*object, &mut leaf)?;
            put(&leaf)?;
        }
        let calls_so_far = u32::try_from(first.len().max(1)).unwrap_or(1) * 2;
        let sessions = if begun.elapsed() / calls_so_far > SLOW { self.sessions(rest.len()) } else { Vec::new() };
        if sessions.is_empty() {
            for object in rest {
                hand.take(*object, &mut leaf)?;
                put(&leaf)?;
            }
        } else {
            self.together(sessions, rest, &mut put)?;
        }
        if !refused.is_empty() {
            return Err(HsmFailure::Refused(Refusal::KeysCannotLeave));
        }
        let mac = hand.calls.authenticate(self.mak, &writer.message())?;
        writer.end(mac).map_err(|_| files_failed())?;
        embedded_io::Write::flush(&mut out).map_err(|_| files_failed())?;
        self.module.callers.aside(|| file.sync_all()).map_err(|_| files_failed())?;
        Ok(told)
    }

    fn put<W: embedded_io::Write>(
        &self,
        writer: &mut SectionWriter<W>,
        leaf: &Leaf,
        index: &mut u32,
        told: &mut Told,
        refused: &mut Vec<String>,
    ) -> Result<(), HsmFailure> {
        let Some(class) = leaf.class.filter(|_| !leaf.is_ours && !leaf.is_skipped) else { return Ok(()) };
        let wrapped = leaf.wrapped.get(..leaf.length).unwrap_or_default();
        let bytes = leaf.id.len() + leaf.label.len() + leaf.set.len() + leaf.recorded.len() + wrapped.len();
        let too_long = (bytes + ENTRY_OVERHEAD > FRAME_BYTES_MAX).then_some(Why::Refused { code: TOO_LONG });
        let Some(why) = leaf.why.or(too_long) else {
            let entry = Entry {
                index: *index,
                class,
                key_type: leaf.key_type,
                id: &leaf.id,
                label: &leaf.label,
                set: Attributes::new(&leaf.set).map_err(|_| does_something_else(Function::GetAttributeValue))?,
                recorded: Attributes::new(&leaf.recorded)
                    .map_err(|_| does_something_else(Function::GetAttributeValue))?,
                wrapped,
            };
            *index = index.saturating_add(1);
            told.keys = told.keys.saturating_add(u32::from(is_key(class)));
            return writer.entry(&entry).map_err(|_| files_failed());
        };
        let name = name_of(&leaf.label, &leaf.id);
        if let JobPurpose::Backup { accepted } = &self.job.purpose
            && !accepted.contains(&name)
        {
            refused.push(name);
            return Ok(());
        }
        told.left_out = told.left_out.saturating_add(1);
        let left_out = LeftOut { class, key_type: leaf.key_type, id: &leaf.id, label: &leaf.label, why };
        writer.left_out(&left_out).map_err(|_| files_failed())
    }

    /// More sessions, opened together; those that the module does not give are done without.
    fn sessions(&self, keys: usize) -> Vec<Session> {
        let wanted = self.sessions_max.min(SESSIONS_MAX).min(keys);
        if wanted < 2 {
            return Vec::new();
        }
        thread::scope(|scope| {
            let open = || self.module.call(|module| module.open_ro_session(self.place)).ok();
            let opening: Vec<_> = (0..wanted).map(|_| scope.spawn(open)).collect();
            opening.into_iter().filter_map(|one| one.join().ok().flatten()).collect()
        })
    }

    /// Takes the objects by several sessions, and hands them on in their order.
    fn together(
        &self,
        sessions: Vec<Session>,
        objects: &[CK_OBJECT_HANDLE],
        put: &mut dyn FnMut(&Leaf) -> Result<(), HsmFailure>,
    ) -> Result<(), HsmFailure> {
        let count = sessions.len();
        thread::scope(|scope| {
            let mut brought: Vec<Receiver<Result<Leaf, HsmFailure>>> = Vec::with_capacity(count);
            for (number, session) in sessions.into_iter().enumerate() {
                let (bring, take) = mpsc::sync_channel(AHEAD);
                brought.push(take);
                scope.spawn(move || {
                    let mut hand = match Calls::new(self.module, &session) {
                        Ok(calls) => Hand::new(calls, self),
                        Err(failed) => {
                            let _ = bring.send(Err(failed));
                            return;
                        }
                    };
                    for object in objects.iter().skip(number).step_by(count) {
                        let mut leaf = Leaf::default();
                        let taken = hand.take(*object, &mut leaf);
                        leaf.wrapped.truncate(leaf.length);
                        // Whoever writes has given up when nobody takes it.
                        if bring.send(taken.map(|()| leaf)).is_err() {
                            return;
                        }
                    }
                });
            }
            for at in 0..objects.len() {
                let leaf = brought.get(at % count).map(|take| self.module.callers.aside(|| take.recv()));
                // A thread that ended without a word panicked; the token said nothing.
                let Some(Ok(leaf)) = leaf else { return Err(does_something_else(Function::WrapKey)) };
                put(&leaf?)?;
            }
            Ok(())
        })
    }
}
