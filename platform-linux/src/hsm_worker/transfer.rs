//! Keys that leave the token and come back: exports and restores of one slot.
//!
//! What travels between the daemon and this process is in files of one directory
//! ([`crate::transfer_dir`]), so that no key passes the socket and a section of any length takes
//! the memory of one key, and of the ledger's names of all of them, 16 bytes each. An export is
//! appended to or as it was before: whatever fails, the file is cut to the length that it had (P20). An import is planned first, with every entry tried as an
//! object of the session; the token's own objects stay as they are until the plan is carried out
//! (P19). U, which unwraps, is in the token between the plan and the daemon's order to destroy it.
//! After a crash the same order does what is missing, and nothing twice.
//!
//! A client library that gives each caller another instance of itself (`p11-kit-client`) does not
//! know our session when it is asked past cryptoki: transfers do not work through it, and say so.

mod calls;
mod known;
mod mechanism;
mod object;
mod progress;
mod restored;
mod section;
mod spool;
mod vendor;

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{Seek, SeekFrom};
use std::sync::Arc;

use cryptoki::object::Attribute;
use cryptoki::session::Session;
use slotwarden_core::effect::{HsmAnswer, ImportPlan, KeyCounts};
use slotwarden_core::export::{Attributes, Class, Entry};
use slotwarden_core::fault::{Function, HsmFailure, Refusal, rv};
use slotwarden_core::ledger::KeyName;
use subtle::ConstantTimeEq as _;

pub(super) use self::calls::{Calls, Value};
pub(super) use self::known::Known;
use self::mechanism::KeyWrap;
use self::object::Sheet;
use self::progress::Progress;
use self::restored::{Restorer, known_by};
use self::section::{Maker, Told, is_key, key_name, objects, why_no_export_holds};
use self::spool::{Spool, by_key};
use super::backup_keys::{Bench, Objects, Purpose, does_something_else, id_of, key, says_lost};
use super::module::code;
use super::token::{Call, Kept, Token};
use crate::transfer_dir::{self, EXPORT, Look, PlanOf, RestorePlan, digest, name_of};

/// Which backup key, of which slot.
type Names = ([u8; 16], [u8; 16]);

impl Token {
    /// Counts the slot's private and secret keys, without ours.
    pub(super) fn inventory(&self, session: &mut Kept, uid: [u8; 16]) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::FindObjects)?;
        let calls = Calls::new(&self.module, &own)?;
        let covered = self.module.callers.aside(|| transfer_dir::covered(&self.transfer_dir, uid));
        let covered = covered.map_err(|error| self.failed_file("what was exported", &error))?;
        let mut counts = KeyCounts::default();
        let mut recorded = Vec::new();
        // The daemon notices by it what was made and removed, and what that is called.
        let mut look = Look::begin(&self.transfer_dir, uid).map_err(|error| self.failed_names(&error))?;
        let mut sheet = Sheet::new();
        for object in objects(&calls)? {
            sheet.read(&calls, object)?;
            // Other slots need not wait for all of it.
            self.module.callers.aside(|| ());
            let Some(name) = key_name(&sheet, &uid) else { continue };
            self.sees(&mut look, name, &sheet)?;
            let Some(class) = sheet.class().filter(|class| is_key(*class)) else { continue };
            sheet.recorded(&mut recorded);
            let recorded = Attributes::new(&recorded).map_err(|_| does_something_else(Function::GetAttributeValue))?;
            counts.keys = counts.keys.saturating_add(1);
            counts.can_leave = counts.can_leave.saturating_add(u32::from(why_no_export_holds(&sheet).is_none()));
            let is_covered = covered.contains(&digest(class, sheet.id(), sheet.label(), recorded));
            counts.uncovered = counts.uncovered.saturating_add(u32::from(!is_covered));
        }
        self.keep(look)?;
        Ok(HsmAnswer::Counted(counts))
    }

    fn sees(&self, look: &mut Look<'_>, name: KeyName, sheet: &Sheet) -> Result<(), HsmFailure> {
        let Some(class) = sheet.class() else { return Ok(()) };
        let seen = look.sees(name, class, sheet.key_type(), sheet.id(), sheet.label());
        seen.map_err(|error| self.failed_names(&error))
    }

    fn keep(&self, look: Look<'_>) -> Result<(), HsmFailure> {
        self.module.callers.aside(|| look.keep()).map_err(|error| self.failed_names(&error))
    }

    fn failed_names(&self, error: &std::io::Error) -> HsmFailure {
        self.failed_file("the names of the keys", error)
    }

    /// Appends the slot's section to the export that the daemon began. `once`: under the keys that came with
    /// the order, as objects of this session, which end with it.
    pub(super) fn export_section(
        &mut self,
        session: &mut Kept,
        (call, once): (&Call, bool),
        (key_id, uid): Names,
    ) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::WrapKey)?;
        let (id, place) = (id_of(key_id, uid), self.place()?);
        let right_keys =
            if once { self.keys_for_once(&own, call, &id) } else { self.known.keys(&self.module, &own, place, &id) };
        let dir = Arc::clone(&self.transfer_dir);
        let job = transfer_dir::read_job(&dir).map_err(|error| self.failed_file("the order of an export", &error))?;
        let mut file =
            OpenOptions::new().append(true).open(dir.join(EXPORT)).map_err(|error| self.failed_file(EXPORT, &error))?;
        let begin = file.seek(SeekFrom::End(0)).map_err(|error| self.failed_file(EXPORT, &error))?;
        let mut look = Look::begin(&dir, uid).map_err(|error| self.failed_names(&error))?;
        let mut refused = Vec::new();
        let right_keys = right_keys.and_then(|(w, mak)| {
            // A module without such a mechanism may have a program of its vendor's.
            let wrap = if job.vendor { None } else { Some(self.known.wrap(&self.module, &own, place)?) };
            Ok((w, mak, wrap))
        });
        let mut progress = Progress::new(&self.replies, self.slot, call.request);
        let made = right_keys.and_then(|(w, mak, wrap)| {
            let Some(wrap) = wrap else {
                return self.append_vendor_section(&own, (place, uid, mak), &job, &file, &mut look);
            };
            let maker = Maker {
                module: &self.module,
                place,
                uid,
                job: &job,
                wrap,
                w,
                mak,
                sessions_max: self.module.callers.calls_max(),
            };
            maker.append(&own, &file, &mut refused, &mut look, &mut progress)
        });
        let made = made.and_then(|told| self.keep(look).map(|()| told));
        match made {
            Ok(Told { keys, left_out }) => Ok(HsmAnswer::SectionExported { keys, left_out }),
            Err(failed) => {
                self.cut(&file, begin);
                if failed == HsmFailure::Refused(Refusal::KeysCannotLeave) {
                    transfer_dir::write_report(&dir, &refused)
                        .map_err(|error| self.failed_file("the names of keys that cannot leave", &error))?;
                }
                Err(failed)
            }
        }
    }

    /// W and MAK of a key that is for this export only.
    fn keys_for_once(&self, own: &Session, call: &Call, id: &[u8]) -> Result<(u64, u64), HsmFailure> {
        let (kek, mak) = (key(call, 0)?, key(call, 1)?);
        let mut bench = Bench::new(&self.module, own);
        let made = bench
            .put_for_session(Purpose::Wrap, id, kek)
            .and_then(|w| Ok((w, bench.put_for_session(Purpose::Authenticate, id, mak)?)));
        bench.finish();
        let (w, mak) = made?;
        Ok((w.handle(), mak.handle()))
    }

    /// Takes back what was appended. A file that cannot even be cut has no MAC, and nobody takes it.
    fn cut(&self, file: &File, begin: u64) {
        let cut = self.module.callers.aside(|| file.set_len(begin).and_then(|()| file.sync_all()));
        if let Err(error) = cut {
            self.failed_file(EXPORT, &error);
        }
    }

    /// Puts U into the token, tries every entry of the section, and keeps what is to be made.
    pub(super) fn prepare_import(
        &self,
        session: &mut Kept,
        call: &Call,
        names: Names,
    ) -> Result<HsmAnswer, HsmFailure> {
        let (kek, mak) = (key(call, 0)?, key(call, 1)?);
        let own = self.own_session(session, Function::UnwrapKey)?;
        // Nothing touches the token before the file was verified as a whole.
        let mut spool = Spool::open(&self.transfer_dir, names.1)?;
        let hash = self.module.callers.aside(|| spool.verify(&mut by_key(mak)))?;
        if spool.is_vendor() {
            return self.plan_vendor_part(names.1, hash);
        }
        let mut progress = Progress::new(&self.replies, self.slot, call.request);
        progress.begin(spool.count());
        let id = id_of(names.0, names.1);
        // That of a member of a cluster stays, whatever comes of this.
        let stays = Objects { module: &self.module, open: &own }.right(Purpose::Unwrap, &id)?.map(|_| names);
        let mut bench = Bench::new(&self.module, &own);
        let put = bench.put(Purpose::Unwrap, &id, kek);
        bench.finish();
        // An import that is ordered goes on after a power cut, and needs it then.
        let put = put.and_then(|()| self.settle());
        let planned = put.and_then(|()| self.plan(&own, PlanOf::Restore, names, (&mut spool, hash), &mut progress));
        if planned.is_err() {
            // The first failure says more; the daemon orders it again.
            let _ = self.drop_unwrap_keys(&own, stays);
        }
        planned.map(HsmAnswer::ImportPrepared)
    }

    /// Tries every entry of a package's section by the U of a member, and keeps what is to be made.
    pub(super) fn plan_package(&self, session: &mut Kept, call: &Call, names: Names) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::UnwrapKey)?;
        let calls = Calls::new(&self.module, &own)?;
        let objects = Objects { module: &self.module, open: &own };
        let mak = objects.right(Purpose::Authenticate, &id_of(names.0, names.1))?;
        let mak = mak.ok_or(HsmFailure::Refused(Refusal::NoBackupKey))?.handle();
        let mut spool = Spool::open(&self.transfer_dir, names.1)?;
        let mut section = (Vec::new(), [0; 32]);
        let hash = self.module.callers.aside(|| {
            spool.verify(&mut |message, mac| {
                section = (message.to_vec(), *mac);
                Ok(true)
            })
        })?;
        if spool.is_vendor() {
            // No node of ours sends one.
            return Err(HsmFailure::Refused(Refusal::ExportFileInvalid));
        }
        // The key is in the token alone: what it makes of the message is compared.
        let (message, mac) = section;
        if !bool::from(calls.authenticate(mak, &message)?.as_slice().ct_eq(&mac)) {
            return Err(HsmFailure::Refused(Refusal::ExportOfAnotherKey));
        }
        let mut progress = Progress::new(&self.replies, self.slot, call.request);
        progress.begin(spool.count());
        let which = PlanOf::Package(names.1);
        self.plan(&own, which, names, (&mut spool, hash), &mut progress).map(HsmAnswer::ImportPrepared)
    }

    fn plan(
        &self,
        own: &Session,
        which: PlanOf,
        (key_id, uid): Names,
        (spool, hash): (&mut Spool, [u8; 32]),
        progress: &mut Progress<'_>,
    ) -> Result<ImportPlan, HsmFailure> {
        let remembered = self
            .module
            .callers
            .aside(|| transfer_dir::read_remembered(&self.transfer_dir, which))
            .map_err(|error| self.failed_file("what is recorded as removed", &error))?;
        let mut restorer = self.restorer(own, which, &id_of(key_id, uid))?;
        let index = restorer.index()?;
        let (mut plan, mut new) = (ImportPlan::default(), Vec::new());
        spool.entries(|entry| {
            progress.step();
            let there = index.get(&known_by(entry.class, entry.id, entry.label));
            let removed = remembered.was_removed(entry, there.is_some());
            if removed && which != PlanOf::Restore {
                plan.removed = plan.removed.saturating_add(1);
                return Ok(());
            }
            let made = restorer.make(entry, false).map_err(|failed| self.failed_entry(entry, failed))?;
            let mut same = Ok(false);
            for object in there.into_iter().flatten() {
                same = restorer.has_value_of(entry, made, *object);
                if same != Ok(false) {
                    break;
                }
            }
            restorer.destroy(made)?;
            // A certificate is renewed under the same id; its label tells them apart, if anything does.
            let conflicts = match entry.class {
                Class::Certificate => {
                    let mut conflicts = false;
                    for object in there.into_iter().flatten() {
                        conflicts |= restorer.is_labelled(entry, *object)?;
                    }
                    conflicts
                }
                Class::Secret | Class::Private | Class::Public => there.is_some(),
            };
            let count = if same? {
                &mut plan.same
            } else if conflicts {
                if plan.conflict < NAMED_MAX {
                    let name = name_of(entry.label, entry.id);
                    self.replies.note(format!("{name}: the token has another value under this name"));
                }
                &mut plan.conflict
            } else {
                new.push(entry.index);
                plan.removed = plan.removed.saturating_add(u32::from(removed));
                &mut plan.new
            };
            *count = count.saturating_add(1);
            self.module.callers.aside(|| ());
            Ok(())
        })?;
        let kept = RestorePlan { hash, uid, new };
        self.module
            .callers
            .aside(|| transfer_dir::write_plan(&self.transfer_dir, which, &kept))
            .map_err(|error| self.failed_file("the plan of an import", &error))?;
        Ok(plan)
    }

    /// Makes what this plan calls new, unless it is there and right.
    pub(super) fn import(
        &self,
        session: &mut Kept,
        call: &Call,
        which: PlanOf,
        (key_id, uid): Names,
    ) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::UnwrapKey)?;
        let mut plan = transfer_dir::read_plan(&self.transfer_dir, which)
            .map_err(|error| self.failed_file("the plan of an import", &error))?;
        let mut spool = Spool::open(&self.transfer_dir, uid)?;
        // Its MAC was checked for the plan, and the hash says that it is the same file.
        let hash = self.module.callers.aside(|| spool.verify(&mut |_, _| Ok(true)))?;
        if plan.hash != hash || plan.uid != uid {
            return Err(HsmFailure::Refused(Refusal::ImportPlanOutdated));
        }
        if spool.is_vendor() {
            // The program has taken its part back; the daemon saw to that before this order.
            return self.settle().map(|()| HsmAnswer::Imported { made: 0 });
        }
        let mut restorer = self.restorer(&own, which, &id_of(key_id, uid))?;
        let index = restorer.index()?;
        let failed = |error: std::io::Error| self.failed_file("the plan of an import", &error);
        if !transfer_dir::is_import_begun(&self.transfer_dir, which, &plan).map_err(failed)? {
            // What has such a name now was made by somebody else, since the plan: it stays, and is never ours.
            let mut theirs = HashSet::new();
            spool.entries(|entry| {
                let there = index.get(&known_by(entry.class, entry.id, entry.label));
                for object in there.into_iter().flatten() {
                    if plan.new.binary_search(&entry.index).is_ok() && restorer.is_labelled(entry, *object)? {
                        if !self.is_right(&mut restorer, entry, *object)? {
                            return Err(HsmFailure::Refused(Refusal::ImportConflicts));
                        }
                        theirs.insert(entry.index);
                    }
                }
                Ok(())
            })?;
            if !theirs.is_empty() {
                plan.new.retain(|index| !theirs.contains(index));
                transfer_dir::write_plan(&self.transfer_dir, which, &plan).map_err(failed)?;
            }
            transfer_dir::begin_import(&self.transfer_dir, which, &plan).map_err(failed)?;
        }
        let (mut made, mut claimed) = (0u32, HashSet::new());
        let mut progress = Progress::new(&self.replies, self.slot, call.request);
        progress.begin(spool.count());
        let all = spool.entries(|entry| {
            progress.step();
            if plan.new.binary_search(&entry.index).is_err() {
                return Ok(());
            }
            let there = index.get(&known_by(entry.class, entry.id, entry.label));
            let mut is_there = false;
            let mut torn = Vec::new();
            for object in there.into_iter().flatten() {
                if claimed.contains(object) || !restorer.is_labelled(entry, *object)? {
                    continue;
                }
                if !is_there && self.is_right(&mut restorer, entry, *object)? {
                    is_there = true;
                    claimed.insert(*object);
                } else {
                    torn.push(*object);
                }
            }
            if !is_there {
                // The plan found none of this name: what is there now an interrupted import left, or somebody made since.
                for object in &torn {
                    if !restorer.may_be_left_of(entry, *object)? {
                        let name = name_of(entry.label, entry.id);
                        self.replies.note(format!("{name}: somebody made another object of this name since; it stays"));
                        return Err(HsmFailure::Refused(Refusal::ImportNameTaken));
                    }
                }
                for object in torn {
                    restorer.destroy(object)?;
                }
                // The token took it as an object of the session: what fails now is the token, and not the entry.
                restorer.make(entry, true).inspect_err(|failed| self.note_entry(entry, *failed))?;
                made = made.saturating_add(1);
            }
            self.module.callers.aside(|| ());
            Ok(())
        });
        let failed_file = |error: std::io::Error| self.failed_file("the plan of an import", &error);
        match all {
            Ok(()) => {}
            Err(failed) if is_full(failed) => {
                self.take_back(&mut restorer, &mut spool, &plan)?;
                // What somebody makes under such a name from here on is theirs.
                transfer_dir::end_import(&self.transfer_dir, which).map_err(failed_file)?;
                return Err(HsmFailure::Refused(Refusal::TokenFull));
            }
            Err(failed) => return Err(failed),
        }
        self.settle()?;
        Ok(HsmAnswer::Imported { made })
    }

    /// Destroys what this import made, in this process or one before it, and nothing else: when it began,
    /// the token had nothing of the names that the plan calls new.
    fn take_back(&self, restorer: &mut Restorer<'_>, spool: &mut Spool, plan: &RestorePlan) -> Result<(), HsmFailure> {
        let index = restorer.index()?;
        let mut gone = HashSet::new();
        spool.entries(|entry| {
            if plan.new.binary_search(&entry.index).is_err() {
                return Ok(());
            }
            for object in index.get(&known_by(entry.class, entry.id, entry.label)).into_iter().flatten() {
                let is_named = !gone.contains(object) && restorer.is_labelled(entry, *object)?;
                if is_named && restorer.may_be_left_of(entry, *object)? {
                    restorer.destroy(*object)?;
                    gone.insert(*object);
                }
            }
            self.module.callers.aside(|| ());
            Ok(())
        })?;
        self.replies.note(format!("the token is full: {} objects of the import were destroyed again", gone.len()));
        self.settle()
    }

    fn is_right(&self, restorer: &mut Restorer<'_>, entry: &Entry<'_>, object: u64) -> Result<bool, HsmFailure> {
        if !restorer.is_as(entry, object)? {
            return Ok(false);
        }
        let made = restorer.make(entry, false).map_err(|failed| self.failed_entry(entry, failed))?;
        let same = restorer.has_value_of(entry, made, object);
        restorer.destroy(made)?;
        same
    }

    /// Destroys every U but that of a member of a cluster.
    pub(super) fn drop_unwrap_key(&self, session: &mut Kept, keep: Option<Names>) -> Result<HsmAnswer, HsmFailure> {
        let own = self.own_session(session, Function::DestroyObject)?;
        self.drop_unwrap_keys(&own, keep).map(|()| HsmAnswer::UnwrapKeyDropped)
    }

    fn drop_unwrap_keys(&self, own: &Session, keep: Option<Names>) -> Result<(), HsmFailure> {
        let objects = Objects { module: &self.module, open: own };
        let kept = keep.map(|(key_id, uid)| id_of(key_id, uid));
        for object in objects.find(&[Attribute::Label(Purpose::Unwrap.label().into())])? {
            if kept.is_none() || Some(objects.id(object)?) != kept {
                objects.destroy(object)?;
            }
        }
        Ok(())
    }

    fn restorer<'a>(&'a self, own: &'a Session, which: PlanOf, id: &[u8]) -> Result<Restorer<'a>, HsmFailure> {
        let by = Objects { module: &self.module, open: own }.right(Purpose::Unwrap, id)?;
        let gone = match which {
            PlanOf::Restore => Refusal::UnwrapKeyGone,
            PlanOf::Package(_) => Refusal::SlotWithoutUnwrapKey,
        };
        let by = by.ok_or(HsmFailure::Refused(gone))?.handle();
        let wrap = KeyWrap::find(&self.module, own, &Calls::new(&self.module, own)?)?;
        Restorer::new(&self.module, own, wrap, by)
    }

    /// Says which entry the token did not take. Codes about the session stay what they are.
    fn failed_entry(&self, entry: &Entry<'_>, failed: HsmFailure) -> HsmFailure {
        self.note_entry(entry, failed);
        match failed {
            full if is_full(full) => full,
            HsmFailure::Pkcs11 { code, function: Function::UnwrapKey } if !says_lost(code) => {
                HsmFailure::Refused(Refusal::KeyNotRestorable)
            }
            other => other,
        }
    }

    fn note_entry(&self, entry: &Entry<'_>, failed: HsmFailure) {
        let name = name_of(entry.label, entry.id);
        self.replies.note(format!("entry {} ({name}) of the export was not made: {failed:?}", entry.index));
    }

    fn failed_file(&self, what: &str, error: &std::io::Error) -> HsmFailure {
        self.replies.note(format!("{what} in {}: {error}", self.transfer_dir.display()));
        files_failed()
    }
}

/// Whether a token says that it has no room for another object.
fn is_full(failed: HsmFailure) -> bool {
    matches!(
        failed,
        HsmFailure::Pkcs11 {
            code: rv::DEVICE_MEMORY | code::TOKEN_RESOURCE_EXCEEDED,
            function: Function::UnwrapKey | Function::CreateObject,
        }
    )
}

/// Conflicts that the log names; the plan counts all.
const NAMED_MAX: u32 = 20;

fn files_failed() -> HsmFailure {
    HsmFailure::Refused(Refusal::TransferFiles)
}
