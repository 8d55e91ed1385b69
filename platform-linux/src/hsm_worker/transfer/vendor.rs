//! Sections that the vendor's own program makes and takes back.
//!
//! The daemon runs the program: this process forks nothing. What the program wrote is in a file of the
//! transfer directory, whole, before the order for the section comes; here it is cut into pieces and
//! authenticated by the MAK of the slot, which is in the token. A restore checks that MAC for the plan.
//! What such a part holds nobody knows but the program: the plan has nothing to count.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read as _;

use cryptoki::session::Session;
use cryptoki::slot::Slot;
use slotwarden_core::effect::{HsmAnswer, ImportPlan};
use slotwarden_core::export::{Attributes, PIECE_BYTES, Piece, SectionWriter, Strategy};
use slotwarden_core::fault::{Function, HsmFailure};

use super::super::backup_keys::does_something_else;
use super::super::token::Token;
use super::calls::Calls;
use super::files_failed;
use super::object::Sheet;
use super::section::{Origin, Out, Told, is_key, key_name, objects};
use crate::transfer_dir::{self, DIGEST_BYTES, ExportJob, Look, PlanOf, RestorePlan, VENDOR_PART, digest};

impl Token {
    /// Appends the section with what the program wrote. The keys that are in the token are noted, so that one
    /// that is made later counts as covered by no export.
    pub(super) fn append_vendor_section(
        &self,
        open: &Session,
        (place, uid, mak): (Slot, [u8; 16], u64),
        job: &ExportJob,
        file: &File,
        look: &mut Look<'_>,
    ) -> Result<Told, HsmFailure> {
        let calls = Calls::new(&self.module, open)?;
        let origin = Origin::of(&self.module, place)?;
        let held = self.held(&calls, uid, look)?;
        let part = |error: std::io::Error| self.failed_file(VENDOR_PART, &error);
        transfer_dir::write_held(&self.transfer_dir, uid, &held).map_err(part)?;
        let mut from = File::open(self.transfer_dir.join(VENDOR_PART)).map_err(part)?;
        let mut left = from.metadata().map_err(part)?.len();
        if left == 0 {
            return Err(part(std::io::ErrorKind::UnexpectedEof.into()));
        }
        let mut out = Out::new(file, &self.module);
        let section = origin.section(uid, &job.name, Strategy::Vendor);
        let mut writer = SectionWriter::begin(&mut out, job.header_hash, &section).map_err(|_| files_failed())?;
        let mut buffer = vec![0; PIECE_BYTES];
        for index in 0u32.. {
            let length = usize::try_from(left).unwrap_or(usize::MAX).min(PIECE_BYTES);
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            self.module.callers.aside(|| from.read_exact(bytes)).map_err(part)?;
            left = left.saturating_sub(length as u64);
            let last = left == 0;
            writer.piece(&Piece { index, last, bytes }).map_err(|_| files_failed())?;
            if last {
                break;
            }
        }
        let mac = calls.authenticate(mak, &writer.message())?;
        writer.end(mac).map_err(|_| files_failed())?;
        embedded_io::Write::flush(&mut out).map_err(|_| files_failed())?;
        self.module.callers.aside(|| file.sync_all()).map_err(|_| files_failed())?;
        Ok(Told::default())
    }

    /// The keys that are in the token now, as coverage knows them.
    fn held(
        &self,
        calls: &Calls<'_>,
        uid: [u8; 16],
        look: &mut Look<'_>,
    ) -> Result<BTreeSet<[u8; DIGEST_BYTES]>, HsmFailure> {
        let (mut sheet, mut recorded, mut held) = (Sheet::new(), Vec::new(), BTreeSet::new());
        for object in objects(calls)? {
            sheet.read(calls, object)?;
            self.module.callers.aside(|| ());
            let Some(name) = key_name(&sheet, &uid) else { continue };
            self.sees(look, name, &sheet)?;
            let Some(class) = sheet.class().filter(|class| is_key(*class)) else { continue };
            sheet.recorded(&mut recorded);
            let recorded = Attributes::new(&recorded).map_err(|_| does_something_else(Function::GetAttributeValue))?;
            held.insert(digest(class, sheet.id(), sheet.label(), recorded));
        }
        Ok(held)
    }

    /// The plan for such a section, whose MAC was checked: nothing is made here, the program does what it does.
    pub(super) fn plan_vendor_part(&self, uid: [u8; 16], hash: [u8; 32]) -> Result<HsmAnswer, HsmFailure> {
        let kept = RestorePlan { hash, uid, new: Vec::new() };
        self.module
            .callers
            .aside(|| transfer_dir::write_plan(&self.transfer_dir, PlanOf::Restore, &kept))
            .map_err(|error| self.failed_file("the plan of an import", &error))?;
        Ok(HsmAnswer::ImportPrepared(ImportPlan::default()))
    }
}
