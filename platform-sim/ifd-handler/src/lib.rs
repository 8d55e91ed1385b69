//! An IFD handler: pcscd loads it, and asks it for a reader that lives in the simulator.
//!
//! pcscd's reader file names this library (`LIBPATH`) and the simulator's socket
//! (`DEVICENAME`, which has to exist). The interface is IFD handler 3.0, as in pcsc-lite's
//! `ifdhandler.h`: `DWORD` is `unsigned long`, `RESPONSECODE` is `long`, `SCARD_IO_HEADER` is
//! passed by value. Frames are those of the simulator's `reader.rs`.
//!
//! Each reader has three connections: one for commands and dialogues, one to look whether a
//! card is in, one to wait until that changes. So a dialogue in which somebody thinks delays
//! neither a look nor another reader. A connection that broke is made anew at the next call;
//! until the simulator is back the reader is empty. Nothing is kept.

// Called by C: pointers come from pcscd, which promises what its header says.
#![allow(unsafe_code)]
#![allow(non_snake_case)]

mod channel;

use std::ffi::{CStr, OsStr, c_char, c_int, c_long, c_uchar, c_ulong};
use std::os::unix::ffi::OsStrExt as _;
use std::panic::catch_unwind;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use channel::{Answer, Channel};

type Dword = c_ulong;
type ResponseCode = c_long;

const SUCCESS: ResponseCode = 0;
const ERROR_TAG: ResponseCode = 600;
const PROTOCOL_NOT_SUPPORTED: ResponseCode = 607;
const ERROR_POWER_ACTION: ResponseCode = 608;
const COMMUNICATION_ERROR: ResponseCode = 612;
const NOT_SUPPORTED: ResponseCode = 614;
const ICC_PRESENT: ResponseCode = 615;
const ICC_NOT_PRESENT: ResponseCode = 616;
const NO_SUCH_DEVICE: ResponseCode = 617;
const ERROR_INSUFFICIENT_BUFFER: ResponseCode = 618;

const POWER_UP: Dword = 500;
const POWER_DOWN: Dword = 501;
const RESET: Dword = 502;

/// `SCARD_ATTR_ICC_PRESENCE` of pcsc-lite's `reader.h`; 2 is said of a card in a reader that holds none fast.
const TAG_ICC_PRESENCE: Dword = 0x0009_0300;
const ICC_IN_READER: u8 = 2;
const TAG_ATR: Dword = 0x0303;
const TAG_THREAD_SAFE: Dword = 0x0FAD;
const TAG_SLOTS_NUMBER: Dword = 0x0FAE;
const TAG_SIMULTANEOUS_ACCESS: Dword = 0x0FAF;
const TAG_STOP_POLLING_THREAD: Dword = 0x0FB2;
const TAG_POLLING_THREAD_WITH_TIMEOUT: Dword = 0x0FB3;

/// Readers that pcscd may give to one loaded library (`PCSCLITE_MAX_READERS_CONTEXTS`).
const READERS_MAX: u8 = 16;
/// Longest answer to reset, bytes (ISO/IEC 7816-3).
const ATR_BYTES_MAX: usize = 33;

/// `SCARD_IO_HEADER`.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct IoHeader {
    /// Which protocol.
    pub protocol: Dword,
    /// Bytes of this header.
    pub length: Dword,
}

/// The readers that pcscd opened, by their `Lun`.
static READERS: Mutex<Vec<(Dword, Arc<Reader>)>> = Mutex::new(Vec::new());

struct Reader {
    calls: Channel,
    looks: Channel,
    waits: Channel,
    atr: Mutex<Vec<u8>>,
}

fn reader(lun: Dword) -> Option<Arc<Reader>> {
    let readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
    readers.iter().find(|(each, _)| *each == lun).map(|(_, reader)| Arc::clone(reader))
}

/// A panic must not cross into C: it is a broken reader.
fn guarded(work: impl FnOnce() -> ResponseCode + std::panic::UnwindSafe) -> ResponseCode {
    catch_unwind(work).unwrap_or(COMMUNICATION_ERROR)
}

/// Copies to where C wants it; returns the bytes, or `None` when there is no room.
///
/// # Safety
/// `to` is null or has room for `room` bytes.
unsafe fn copy_out(from: &[u8], to: *mut c_uchar, room: usize) -> Option<Dword> {
    if from.len() > room || (to.is_null() && !from.is_empty()) {
        return None;
    }
    if !from.is_empty() {
        // SAFETY: `to` has room for `room` bytes, which are at least as many; ours do not overlap C's.
        unsafe { std::ptr::copy_nonoverlapping(from.as_ptr(), to, from.len()) };
    }
    Dword::try_from(from.len()).ok()
}

/// The bytes that C gives.
///
/// # Safety
/// `from` is null or holds `len` bytes for as long as the result is used.
unsafe fn bytes_of<'a>(from: *const c_uchar, len: Dword) -> &'a [u8] {
    match usize::try_from(len) {
        // SAFETY: not null, and holds `len` bytes.
        Ok(len) if !from.is_null() && len > 0 => unsafe { std::slice::from_raw_parts(from, len) },
        _ => &[],
    }
}

/// Opens the reader whose simulator serves the socket `device_name`.
///
/// # Safety
/// `device_name` is a C string.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn IFDHCreateChannelByName(lun: Dword, device_name: *const c_char) -> ResponseCode {
    if device_name.is_null() {
        return NO_SUCH_DEVICE;
    }
    // SAFETY: pcscd passes the DEVICENAME of its reader file, ended by a zero byte.
    let name = unsafe { CStr::from_ptr(device_name) };
    let path = PathBuf::from(OsStr::from_bytes(name.to_bytes()));
    guarded(move || {
        let [calls, looks, waits] = std::array::from_fn(|_| Channel::new(path.clone()));
        let opened = Arc::new(Reader { calls, looks, waits, atr: Mutex::default() });
        let mut readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|(each, _)| *each != lun);
        readers.push((lun, opened));
        SUCCESS
    })
}

/// A reader without a `DEVICENAME`: there is none.
#[unsafe(no_mangle)]
pub extern "C" fn IFDHCreateChannel(_lun: Dword, _channel: Dword) -> ResponseCode {
    NO_SUCH_DEVICE
}

/// Closes a reader.
#[unsafe(no_mangle)]
pub extern "C" fn IFDHCloseChannel(lun: Dword) -> ResponseCode {
    guarded(move || {
        let mut readers = READERS.lock().unwrap_or_else(PoisonError::into_inner);
        readers.retain(|(each, _)| *each != lun);
        SUCCESS
    })
}

/// Says what the reader is and can do.
///
/// # Safety
/// `length` points to the bytes that `value` has room for, and takes those that were written.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn IFDHGetCapabilities(
    lun: Dword,
    tag: Dword,
    length: *mut Dword,
    value: *mut c_uchar,
) -> ResponseCode {
    if length.is_null() {
        return COMMUNICATION_ERROR;
    }
    let said = catch_unwind(|| match tag {
        TAG_ATR => reader(lun).map(|reader| reader.atr.lock().unwrap_or_else(PoisonError::into_inner).clone()),
        TAG_ICC_PRESENCE => reader(lun).and_then(|reader| match reader.looks.ask(channel::CARD, &[&[]]) {
            Answer::Done(answer) if answer == [1] => Some(vec![ICC_IN_READER]),
            Answer::Done(_) => Some(vec![0]),
            Answer::NoCard | Answer::NotSupported | Answer::Broken => None,
        }),
        TAG_SLOTS_NUMBER | TAG_THREAD_SAFE => Some(vec![1]),
        TAG_SIMULTANEOUS_ACCESS => Some(vec![READERS_MAX]),
        // pcscd reads these two as pointers to functions.
        TAG_POLLING_THREAD_WITH_TIMEOUT => {
            let wait: extern "C" fn(Dword, c_int) -> ResponseCode = wait_for_change;
            Some((wait as usize).to_ne_bytes().to_vec())
        }
        TAG_STOP_POLLING_THREAD => {
            let stop: extern "C" fn(Dword) -> ResponseCode = stop_waiting;
            Some((stop as usize).to_ne_bytes().to_vec())
        }
        _ => None,
    });
    let Ok(Some(said)) = said else { return ERROR_TAG };
    // SAFETY: `length` is not null; pcscd sets it to the room that `value` has.
    unsafe {
        let room = usize::try_from(*length).unwrap_or(0);
        match copy_out(&said, value, room) {
            Some(written) => {
                *length = written;
                SUCCESS
            }
            None => ERROR_INSUFFICIENT_BUFFER,
        }
    }
}

/// Nothing of the reader can be set.
#[unsafe(no_mangle)]
pub extern "C" fn IFDHSetCapabilities(_lun: Dword, _tag: Dword, _length: Dword, _value: *mut c_uchar) -> ResponseCode {
    NOT_SUPPORTED
}

/// T=0 and T=1 are the same here: commands go to the card whole.
#[unsafe(no_mangle)]
pub extern "C" fn IFDHSetProtocolParameters(
    _lun: Dword,
    protocol: Dword,
    _flags: c_uchar,
    _pts1: c_uchar,
    _pts2: c_uchar,
    _pts3: c_uchar,
) -> ResponseCode {
    match protocol {
        1 | 2 => SUCCESS,
        _ => PROTOCOL_NOT_SUPPORTED,
    }
}

/// Gives the card power, takes it away, or resets the card.
///
/// # Safety
/// `atr` has room for `atr_length` bytes, at least 33.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn IFDHPowerICC(
    lun: Dword,
    action: Dword,
    atr: *mut c_uchar,
    atr_length: *mut Dword,
) -> ResponseCode {
    let Some(reader) = reader(lun) else { return NO_SUCH_DEVICE };
    let answered = catch_unwind(|| {
        let kind = match action {
            POWER_UP => channel::POWER,
            POWER_DOWN => channel::POWER_OFF,
            RESET => channel::RESET,
            _ => return None,
        };
        match reader.calls.ask(kind, &[&[]]) {
            Answer::Done(answer) if answer.len() <= ATR_BYTES_MAX => {
                reader.atr.lock().unwrap_or_else(PoisonError::into_inner).clone_from(&answer);
                Some(answer)
            }
            // Without a card there is no power to take away.
            _ if action == POWER_DOWN => Some(Vec::new()),
            _ => None,
        }
    });
    let Ok(Some(answer)) = answered else { return ERROR_POWER_ACTION };
    if atr_length.is_null() {
        return SUCCESS;
    }
    // SAFETY: pcscd gives MAX_ATR_SIZE (33) bytes of room; its length on entry is not reliable.
    match unsafe { copy_out(&answer, atr, ATR_BYTES_MAX) } {
        Some(written) => {
            // SAFETY: not null.
            unsafe { *atr_length = written };
            SUCCESS
        }
        None => ERROR_POWER_ACTION,
    }
}

/// Sends a command to the card.
///
/// # Safety
/// `command` holds `command_length` bytes; `response_length` points to the room of `response`;
/// `received` is null or takes a header.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn IFDHTransmitToICC(
    lun: Dword,
    sent: IoHeader,
    command: *mut c_uchar,
    command_length: Dword,
    response: *mut c_uchar,
    response_length: *mut Dword,
    received: *mut IoHeader,
) -> ResponseCode {
    if response_length.is_null() {
        return COMMUNICATION_ERROR;
    }
    // SAFETY: pcscd's own buffer with that many bytes, for the length of this call.
    let command = unsafe { bytes_of(command, command_length) };
    // SAFETY: not null.
    let room = unsafe { *response_length };
    // SAFETY: not null; on any failure nothing was received.
    unsafe { *response_length = 0 };
    let Some(reader) = reader(lun) else { return NO_SUCH_DEVICE };
    let answered = catch_unwind(|| reader.calls.ask(channel::TRANSMIT, &[command]));
    let Ok(Answer::Done(answer)) = answered else { return COMMUNICATION_ERROR };
    // SAFETY: `response` has `room` bytes.
    match unsafe { copy_out(&answer, response, usize::try_from(room).unwrap_or(0)) } {
        Some(written) => {
            // SAFETY: not null; `received` is written only where it is not.
            unsafe {
                *response_length = written;
                if let Some(received) = received.as_mut() {
                    received.protocol = sent.protocol;
                }
            }
            SUCCESS
        }
        None => ERROR_INSUFFICIENT_BUFFER,
    }
}

/// Whether a card is in.
#[unsafe(no_mangle)]
pub extern "C" fn IFDHICCPresence(lun: Dword) -> ResponseCode {
    let Some(reader) = reader(lun) else { return NO_SUCH_DEVICE };
    match catch_unwind(|| reader.looks.ask(channel::PRESENCE, &[&[]])) {
        Ok(Answer::Done(answer)) if answer == [1] => ICC_PRESENT,
        _ => ICC_NOT_PRESENT,
    }
}

/// Asks for the features of the keypad, or for a dialogue.
///
/// # Safety
/// `data` holds `data_length` bytes, `answer` has room for `room` bytes, `returned` takes their number.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn IFDHControl(
    lun: Dword,
    code: Dword,
    data: *mut c_uchar,
    data_length: Dword,
    answer: *mut c_uchar,
    room: Dword,
    returned: *mut Dword,
) -> ResponseCode {
    if returned.is_null() {
        return COMMUNICATION_ERROR;
    }
    // SAFETY: not null; on any failure nothing is returned.
    unsafe { *returned = 0 };
    // SAFETY: pcscd's own buffer with that many bytes, for the length of this call.
    let data = unsafe { bytes_of(data, data_length) };
    let (Some(reader), Ok(code)) = (reader(lun), u32::try_from(code)) else { return NOT_SUPPORTED };
    let said = match catch_unwind(|| reader.calls.ask(channel::CONTROL, &[&code.to_le_bytes(), data])) {
        Ok(Answer::Done(said)) => said,
        Ok(Answer::NotSupported) => return NOT_SUPPORTED,
        Ok(Answer::NoCard) => return ICC_NOT_PRESENT,
        Ok(Answer::Broken) | Err(_) => return COMMUNICATION_ERROR,
    };
    // SAFETY: `answer` has `room` bytes.
    match unsafe { copy_out(&said, answer, usize::try_from(room).unwrap_or(0)) } {
        Some(written) => {
            // SAFETY: not null.
            unsafe { *returned = written };
            SUCCESS
        }
        None => ERROR_INSUFFICIENT_BUFFER,
    }
}

/// Returns when a card came or went, and after so many milliseconds. pcscd looks then itself.
extern "C" fn wait_for_change(lun: Dword, timeout_ms: c_int) -> ResponseCode {
    let Some(reader) = reader(lun) else { return NO_SUCH_DEVICE };
    guarded(std::panic::AssertUnwindSafe(move || {
        reader.waits.wait(u32::try_from(timeout_ms).unwrap_or(0));
        SUCCESS
    }))
}

/// Lets `wait_for_change` return now.
extern "C" fn stop_waiting(lun: Dword) -> ResponseCode {
    if let Some(reader) = reader(lun) {
        reader.waits.interrupt();
    }
    SUCCESS
}
