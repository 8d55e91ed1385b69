//! Parts of exports that the HSM vendor's own program writes and takes back.
//!
//! Before the worker writes the section of such a slot, the program writes its backup into a file of the
//! transfer directory; before the worker ends an import, the program is given that part of the file that was
//! restored. Both in a thread of its own: the loop waits for no program. There is one errand at a time, and an
//! answer counts only as long as its order does: whoever begins or gives up something ends the program before.
//!
//! After a restart the part is gone, and an import that was ordered runs the program once more.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use slotwarden_core::effect::{HsmCall, SlotId, Ticket};
use slotwarden_core::export::{Part, Reader};
use slotwarden_core::fault::Refusal;
use slotwarden_core::limits::TRANSFER_DEADLINE_MS;

use super::{DiskFiles, STORE_BYTES, digest_of};
use crate::devices::{Event, ProgramResult};
use crate::export_file::Io;
use crate::store::directory::{create_private, remove_if_there};
use crate::transfer_dir::{RESTORE, VENDOR_PART};
use crate::vendor_program::{Bounds, VendorProgram};

/// A part at most: what is restored has at most twice as much in all ([`crate::wire::SPOOL_BYTES_MAX`]).
const PART_BYTES_MAX: u64 = 512 * 1024 * 1024;
/// What is left to the worker of the time that the core gives one order.
const WORKER_MS: u64 = 5 * 60_000;
/// How long a program may take.
const PROGRAM_LIMIT: Duration = Duration::from_millis(TRANSFER_DEADLINE_MS - WORKER_MS);

/// What is known of programs and their parts.
pub(super) struct Vendor {
    /// By the name of the slot.
    programs: BTreeMap<String, VendorProgram>,
    /// Bytes of the vendor parts of the spooled file, by the uid of the section.
    parts: BTreeMap<[u8; 16], u64>,
    errand: Option<Errand>,
    /// Why the last one failed.
    said: String,
}

/// A program that runs for an order.
struct Errand {
    ticket: Ticket,
    stopped: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

impl DiskFiles {
    /// With these programs, by the names of the slots whose exports they make.
    #[must_use]
    pub fn with_programs(mut self, programs: BTreeMap<String, VendorProgram>) -> Self {
        self.vendor.programs = programs;
        self
    }
}

impl Vendor {
    /// No program; the file that an earlier run spooled has these parts.
    pub(super) fn new(parts: BTreeMap<[u8; 16], u64>) -> Self {
        Vendor { programs: BTreeMap::new(), parts, errand: None, said: String::new() }
    }

    /// Whether the slot's exports are made by a program.
    pub(super) fn makes(&self, slot: &str) -> bool {
        self.programs.contains_key(slot)
    }

    pub(super) fn program(&self, slot: &str) -> Option<String> {
        self.programs.get(slot).map(|program| program.path.display().to_string())
    }

    /// Bytes of the part in this section of the spooled file.
    pub(super) fn part(&self, uid: [u8; 16]) -> Option<u64> {
        self.parts.get(&uid).copied()
    }

    /// Which sections of the spooled file have a part.
    pub(super) fn spooled(&mut self, parts: BTreeMap<[u8; 16], u64>) {
        self.parts = parts;
    }

    pub(super) fn said(&self) -> &str {
        &self.said
    }

    /// Nobody waits for what runs now.
    pub(super) fn stop(&mut self) -> Option<JoinHandle<()>> {
        let Errand { stopped, thread, .. } = self.errand.take()?;
        stopped.store(true, Ordering::SeqCst);
        Some(thread)
    }
}

impl Drop for Vendor {
    fn drop(&mut self) {
        if let Some(thread) = self.stop() {
            // It ends its program within a moment, which must not outlive us.
            let _ = thread.join();
        }
    }
}

impl DiskFiles {
    /// Runs the program that has to come before this order of the worker, if there is one.
    pub(super) fn run_program(&mut self, ticket: Ticket, slot: SlotId, name: &str, call: HsmCall) -> bool {
        let program = self.vendor.programs.get(name).cloned();
        let dir = self.dir.clone();
        let work: Box<dyn FnOnce(Bounds<'_>) -> ProgramResult + Send> = match (call, program) {
            (HsmCall::ExportSection { .. }, Some(program)) if self.is_backup() => {
                Box::new(move |bounds| back_up(&dir, &program, bounds).map_err(failed))
            }
            (HsmCall::Import { uid, .. }, program) if self.vendor.parts.contains_key(&uid) => {
                let file = self.spooled;
                Box::new(move |bounds| match program {
                    None => Err((Refusal::VendorProgramMissing, "the slot names none".to_owned())),
                    Some(program) => give_back(&dir, &program, (file, uid), bounds).map_err(failed),
                })
            }
            (_, _) => return false,
        };
        let before = self.vendor.stop();
        let (events, stopped) = (self.events.clone(), Arc::new(AtomicBool::new(false)));
        let stop = Arc::clone(&stopped);
        let run = move || {
            // One at a time, also when the order before was given up.
            let _ = before.map(JoinHandle::join);
            let result = work(Bounds { until: Instant::now() + PROGRAM_LIMIT, stopped: &stop });
            // A loop that ended needs no answer.
            let _ = events.send(Event::ProgramEnded { ticket, slot, call, result });
        };
        match thread::Builder::new().name("vendor".to_owned()).spawn(run) {
            Ok(thread) => self.vendor.errand = Some(Errand { ticket, stopped, thread }),
            Err(error) => {
                let result = Err(failed(error.to_string()));
                let _ = self.events.send(Event::ProgramEnded { ticket, slot, call, result });
            }
        }
        true
    }

    fn is_backup(&self) -> bool {
        self.begun.as_ref().is_some_and(|begun| begun.package.is_none())
    }

    /// Whether somebody still waits for what this program did.
    pub(super) fn take_program(&mut self, ticket: Ticket, result: &ProgramResult) -> bool {
        if self.vendor.errand.take_if(|errand| errand.ticket == ticket).is_none() {
            return false;
        }
        self.vendor.said = result.as_ref().err().map(|(_, said)| said.clone()).unwrap_or_default();
        true
    }
}

fn failed(why: String) -> (Refusal, String) {
    (Refusal::VendorProgramFailed, why)
}

/// Has the program write its backup into the part.
fn back_up(dir: &Path, program: &VendorProgram, bounds: Bounds<'_>) -> Result<(), String> {
    let text = |error: std::io::Error| format!("{VENDOR_PART}: {error}");
    let place = dir.join(VENDOR_PART);
    remove_if_there(&place).map_err(text)?;
    let disk = rustix::fs::statvfs(dir).map_err(|errno| text(errno.into()))?;
    let free = disk.f_bavail.saturating_mul(disk.f_frsize).saturating_sub(STORE_BYTES);
    let mut file = create_private(&place).map_err(text)?;
    // It is there twice until the export is whole.
    let written = program.backup(&mut file, (free / 2).min(PART_BYTES_MAX), bounds);
    if written.is_err() {
        let _ = fs::remove_file(&place);
    }
    written.map(|_| ())
}

/// Gives the program the part of the section with this uid. The MAC was checked when the restore was prepared,
/// of the file with this SHA-256.
fn give_back(
    dir: &Path,
    program: &VendorProgram,
    (file, uid): (Option<[u8; 32]>, [u8; 16]),
    bounds: Bounds<'_>,
) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let whole = dir.join(RESTORE);
    if file.is_none() || File::open(&whole).and_then(digest_of).map_err(text)? != file.unwrap_or_default() {
        return Err("the file is not the one that was prepared".to_owned());
    }
    let place = dir.join(VENDOR_PART);
    remove_if_there(&place).map_err(text)?;
    let taken = create_private(&place).map_err(text).and_then(|part| extract(&whole, uid, part));
    let given = taken.and_then(|()| File::open(&place).map_err(text)).and_then(|part| program.restore(part, bounds));
    let _ = fs::remove_file(&place);
    given
}

/// Writes the vendor part of a section into a file of its own.
fn extract(whole: &Path, uid: [u8; 16], mut part: File) -> Result<(), String> {
    let text = |error: std::io::Error| error.to_string();
    let mut reader = Reader::new(Io(BufReader::new(File::open(whole).map_err(text)?)));
    let mut inside = false;
    loop {
        match reader.next().map_err(|problem| problem.sentence().to_owned())? {
            Part::Section(section) => inside = section.uid == uid,
            Part::Piece(piece) if inside => part.write_all(piece.bytes).map_err(text)?,
            Part::Piece(_) | Part::Header(_) | Part::Entry(_) | Part::LeftOut(_) | Part::SectionEnd { .. } => {}
            Part::End { .. } => return Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use slotwarden_core::transfer::FileOrder;

    use super::super::*;
    use super::*;

    #[test]
    fn a_program_that_nobody_waits_for_any_more_is_ended_and_its_answer_counts_for_nothing() {
        let dir = tempfile::tempdir().expect("there is a place for temporary files");
        let script = dir.path().join("stand-in");
        fs::write(&script, "#!/bin/sh\nexec sleep 600\n").expect("the folder is there");
        fs::set_permissions(&script, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("it is ours");
        let (events, arriving) = channel();
        let program = VendorProgram { path: script, label: "ca".into(), serial: "1".into() };
        let files = DiskFiles::new(dir.path().to_owned(), events, Arc::new(|_| [0; 64]), [0; 32]);
        let mut files = files.with_programs(BTreeMap::from([("ca".to_owned(), program)]));
        let call = HsmCall::ExportSection { key_id: [1; 16], uid: [2; 16], once: None };
        let ticket = Ticket { slot: None, number: 7 };
        assert!(!files.run_program(ticket, SlotId(0), "ca", call), "no export was begun");
        files.begun = Some(Begun { header: [0; 32], left_out: Vec::new(), package: None });
        assert!(!files.run_program(ticket, SlotId(1), "tsa", call), "another slot has none");
        assert!(files.run_program(ticket, SlotId(0), "ca", call));
        files.perform(ticket, FileOrder::Discard, ExportAbout::default());
        let Ok(Event::ProgramEnded { ticket: of, result, .. }) = arriving.recv_timeout(Duration::from_secs(20)) else {
            panic!("it did not end");
        };
        assert_eq!(of, ticket);
        assert!(result.as_ref().is_err_and(|(refusal, _)| *refusal == Refusal::VendorProgramFailed), "{result:?}");
        assert!(!files.take_program(ticket, &result), "nobody waits for it");
    }
}
