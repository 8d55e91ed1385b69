//! Exports, restores and imports: files between this machine and the daemon.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal as _, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags};
use rustix::io::Errno;
use slotwarden_core::Refusal;

use super::arguments::Confirm;
use super::card_arguments::{At, PassphraseSource};
use super::session::{Session, given, typed};
use super::{CONFIRM_ABANDON, CONFIRM_IMPORT};
use crate::audit::{hex, unhex};
use crate::client::Refused;
use crate::config::SecurityLevel;
use crate::output::{self, Format, transfers};
use crate::problem::{EXIT_DONE, Own, Problem};
use crate::secret;
use crate::status_json::{PlanView, StatusView};
use crate::wire::{
    self, Answered, Ask, CardTask, Order, Outgoing, SPOOL_BYTES_MAX, SPOOL_PAGE, SecretRole, Spooled, SpooledFile,
    SpooledSection,
};

/// Between two looks how far a transfer is.
const PROGRESS_PAUSE: Duration = Duration::from_millis(500);

impl Session {
    /// Has an export made, and brings it here.
    pub(super) fn export(
        &self,
        file: &Path,
        slots: Vec<String>,
        left_out: Vec<String>,
        passphrase: &PassphraseSource,
    ) -> Result<u8, Refused> {
        let given_passphrase = passphrase.source().read(SecretRole::NewPassphrase)?;
        let target = Target::create(file)?;
        let slots = if slots.is_empty() { self.active_slots()? } else { slots };
        let wanted = self.status()?.security_level == SecurityLevel::Passphrase.word();
        let passphrase = match given_passphrase {
            None if wanted && secret::on_terminal() => {
                output::aside("Nobody opens the file without its passphrase, and nobody can find it out again.");
                Some(secret::ask(SecretRole::NewPassphrase, "Passphrase of the export", true)?)
            }
            passphrase => passphrase,
        };
        let secrets = given(SecretRole::NewPassphrase, passphrase);
        self.with_progress(|| {
            self.order(|_| Order::Export { slots: slots.clone(), left_out: left_out.clone() }, true, &secrets)
        })?;
        drop(secrets);
        self.fetch(Outgoing::Export, target)?;
        self.done(&format!("{} is whole; `slotwarden verify {0}` says what is in it", file.display()))
    }

    /// Brings a file of the daemon here.
    pub(super) fn fetch(&self, what: Outgoing, mut target: Target) -> Result<(), Refused> {
        let (mut offset, mut first) = (0, None);
        loop {
            let Answered::Part { version, total, bytes } = self.client.ask(Ask::Read { what, offset }, &[])? else {
                return Err(Own::OtherVersion.into());
            };
            if *first.get_or_insert((version, total)) != (version, total) || (bytes.is_empty() && offset < total) {
                return Err(Own::Replaced.into());
            }
            target.write(&bytes)?;
            offset += bytes.len() as u64;
            if offset >= total {
                break;
            }
        }
        target.finish()?;
        if what == Outgoing::Export {
            // Says that it is here, so that its keys count as covered. Nobody who does not hear it loses anything.
            let _ = self.client.ask(Ask::Read { what, offset }, &[]);
        }
        Ok(())
    }

    /// Waits for an order that takes long; at a terminal it shows how far it is.
    fn with_progress<T>(&self, order: impl FnOnce() -> T) -> T {
        if self.format == Format::Json || !std::io::stderr().is_terminal() {
            return order();
        }
        let (ended, until) = mpsc::channel::<()>();
        let client = &self.client;
        thread::scope(|scope| {
            scope.spawn(move || {
                let mut shown = false;
                while until.recv_timeout(PROGRESS_PAUSE) == Err(RecvTimeoutError::Timeout) {
                    let Ok(Answered::Status(status)) = client.ask(Ask::Status, &[]) else { continue };
                    let Some(transfer) = status.transfer else { continue };
                    if let (Some(slot), Some(done)) = (transfer.slot, transfer.progress) {
                        eprint!("\r{slot}: {}\x1b[K", transfers::progress(done));
                        shown = true;
                    }
                }
                if shown {
                    eprint!("\r\x1b[K");
                }
            });
            let answered = order();
            drop(ended);
            answered
        })
    }

    fn active_slots(&self) -> Result<Vec<String>, Refused> {
        let status = self.status()?;
        Ok(status.slots.into_iter().filter(|slot| slot.state == "active").map(|slot| slot.name).collect())
    }

    /// Brings a file to the daemon, gathers cards, and shows what would be imported.
    pub(super) fn restore(
        &self,
        file: &Path,
        slot: String,
        section: Option<String>,
        passphrase: &PassphraseSource,
        at: At,
    ) -> Result<u8, Refused> {
        let given_passphrase = passphrase.source().read(SecretRole::Passphrase)?;
        let spooled = self.spool_export(file)?;
        let wanted = section.as_deref().unwrap_or(&slot);
        let found = match (spooled.sections.iter().find(|found| found.name == wanted), spooled.sections.as_slice()) {
            (Some(found), _) => found,
            (None, [only]) if section.is_none() => only,
            (None, all) => {
                let names: Vec<&str> = all.iter().map(|found| found.name.as_str()).collect();
                return Err(Own::SectionUnclear.with(format!("it has {}", names.join(", "))).into());
            }
        };
        let SpooledSection { uid, name, entries, left_out, vendor_bytes } = found;
        let opaque = if *vendor_bytes > 0 { format!(", a vendor part of {vendor_bytes} bytes") } else { String::new() };
        let signed = if spooled.own { "this node" } else { "another node" };
        output::aside(&format!(
            "{}: signed by {signed} ({}); section {name}: objects: {entries}, keys left out: {left_out}{opaque}.",
            file.display(),
            hex(&spooled.node)
        ));
        let (uid, key_id, digest) = (*uid, spooled.key_id, spooled.file);
        let done = match *vendor_bytes {
            0 => "every key was unwrapped and compared",
            _ => "the MAC of the section was checked",
        };
        let ended = if spooled.passphrase {
            let passphrase = match given_passphrase {
                None if secret::on_terminal() => {
                    let prompt = format!("Passphrase of {}", file.display());
                    Some(secret::ask(SecretRole::Passphrase, &prompt, false)?)
                }
                passphrase => passphrase,
            };
            let order = |_| Order::RestoreByPassphrase { slot: slot.clone(), uid, key_id, file: digest };
            self.with_progress(|| self.order(order, true, &given(SecretRole::Passphrase, passphrase)))?;
            self.done(done)?
        } else if given_passphrase.is_some() {
            return Err(Problem::from(Refusal::PassphraseNotWanted).into());
        } else {
            let task = CardTask::Restore { slot: slot.clone(), uid, key_id, file: digest };
            self.cards_begin(task, at, done)?
        };
        let status = self.status()?;
        let planned = status.transfer.as_ref().and_then(|transfer| transfer.plan);
        if let (Some(plan), Format::Table) = (planned, self.format) {
            output::line(&format!("{slot}: {}", plan_of(&status, &slot, plan)));
            if plan.conflict > 0 {
                output::line("nothing can be imported; `slotwarden backup end-restore` takes its key away");
            } else {
                let does = if *vendor_bytes > 0 { "hands the part to the program" } else { "makes what is new" };
                output::line(&format!("`slotwarden backup import {slot}` {does}"));
            }
        }
        Ok(ended)
    }

    /// Brings a file to the daemon, which checks its MACs with cards. Nothing is shown but the ceremony.
    pub(super) fn check_with_cards(&self, file: &Path, reader: Option<String>) -> Result<(), Refused> {
        let spooled = self.spool_export(file)?;
        if spooled.passphrase {
            return Err(Problem::from(Refusal::PassphraseMissing).with("use --with-passphrase").into());
        }
        let task = CardTask::VerifyFile { key_id: spooled.key_id, file: spooled.file };
        let at = wire::At { reader, ..wire::At::default() };
        let (ended, _, id) = self.order_followed(Order::Cards { task, at }, Vec::new());
        self.name_transcript(id.as_deref(), true);
        ended.map(|_| ())
    }

    /// Brings an export to the daemon.
    fn spool_export(&self, file: &Path) -> Result<SpooledFile, Refused> {
        match self.spool(file)? {
            Spooled::Export(spooled) => Ok(spooled),
            _ => {
                let detail = format!("{}: not what `backup export` writes", file.display());
                Err(Own::OtherKindOfFile.with(detail).into())
            }
        }
    }

    /// Brings a file to the daemon, which says what it is.
    pub(super) fn spool(&self, path: &Path) -> Result<Spooled, Refused> {
        let unreadable = |error: std::io::Error| Own::FileUnreadable.with(format!("{}: {error}", path.display()));
        // Before it is opened: a pipe would be waited for.
        let about = std::fs::metadata(path).map_err(unreadable)?;
        if !about.is_file() {
            return Err(Own::FileUnreadable.with(format!("{}: it is not a file", path.display())).into());
        }
        let file = File::open(path).map_err(unreadable)?;
        let total = about.len();
        if total == 0 || total > SPOOL_BYTES_MAX {
            let detail = format!("{}: {total} bytes", path.display());
            return Err(Own::FileRefused.with(detail).into());
        }
        let mut offset = 0;
        loop {
            let mut bytes = Vec::with_capacity(SPOOL_PAGE);
            (&file).take(SPOOL_PAGE as u64).read_to_end(&mut bytes).map_err(unreadable)?;
            let sent = bytes.len() as u64;
            match self.client.ask(Ask::Spool { offset, total, bytes }, &[])? {
                Answered::Spooled(Some(spooled)) => return Ok(*spooled),
                Answered::Spooled(None) if sent > 0 => offset += sent,
                Answered::Spooled(None) => {
                    return Err(Own::FileUnreadable.with(format!("{}: it became shorter", path.display())).into());
                }
                _ => return Err(Own::OtherVersion.into()),
            }
        }
    }

    /// Makes what the prepared restore calls new.
    pub(super) fn import(&self, slot: &str, confirm: Option<String>) -> Result<u8, Refused> {
        let name = self.slot(slot)?.slot.name;
        let status = self.status()?;
        let transfer = status.transfer.clone().filter(|found| found.slot.as_deref() == Some(name.as_str()));
        let transfer = transfer.ok_or_else(|| Problem::from(Refusal::NothingPrepared))?;
        let file =
            transfer.file.as_deref().and_then(unhex::<32>).ok_or_else(|| Problem::from(Refusal::NothingPrepared))?;
        if let (Some(plan), Format::Table) = (transfer.plan, self.format) {
            output::line(&format!("{name}: {}", plan_of(&status, &name, plan)));
        }
        if !(Confirm { confirm }).is(CONFIRM_IMPORT)? {
            if !secret::on_terminal() {
                return Err(Own::ImportUnconfirmed.into());
            }
            typed(&format!("Type `{CONFIRM_IMPORT}` to go on: "), CONFIRM_IMPORT)?;
        }
        self.with_progress(|| self.order(|_| Order::Import { slot: name.clone(), file }, true, &[]))?;
        let done = match transfer.vendor_bytes {
            None => format!("every new key is in {name}, read back; its applications were served anew"),
            Some(_) => {
                format!("the vendor's program has taken its part back into {name}; what it made only that knows")
            }
        };
        self.done(&done)?;
        Ok(EXIT_DONE)
    }

    /// Gives up an import that cannot end.
    pub(super) fn abandon(&self, confirm: Option<String>) -> Result<u8, Refused> {
        let confirmed = Confirm { confirm }.is(CONFIRM_ABANDON)?;
        let status = self.status()?;
        let file = status.transfer.as_ref().and_then(|transfer| transfer.file.as_deref()).and_then(unhex::<32>);
        let file = file.ok_or_else(|| Problem::from(Refusal::NothingHalfway))?;
        if !confirmed {
            if !secret::on_terminal() {
                return Err(Own::AbandonUnconfirmed.into());
            }
            output::aside("What it made stays in the tokens; what it did not make is in the file.");
            typed(&format!("Type `{CONFIRM_ABANDON}` to go on: "), CONFIRM_ABANDON)?;
        }
        self.order(|_| Order::Abandon { file }, true, &[])?;
        self.done("the import is given up; what it made is in the tokens")
    }
}

/// What an import would do, as far as anybody knows.
fn plan_of(status: &StatusView, slot: &str, plan: PlanView) -> String {
    let program =
        status.slots.iter().find(|found| found.name == slot).and_then(|found| found.export_program.as_deref());
    match status.transfer.as_ref().and_then(|transfer| transfer.vendor_bytes) {
        Some(bytes) => transfers::vendor_plan(bytes, program),
        None => transfers::plan(plan, false),
    }
}

/// A file that appears under its name when it is whole; until then it has another one.
pub(super) struct Target {
    path: PathBuf,
    temporary: PathBuf,
    file: File,
}

impl Target {
    /// # Errors
    /// [`Own::FileUnwritable`]: it exists, or cannot be made. Before anybody works for an hour.
    pub(super) fn create(path: &Path) -> Result<Self, Problem> {
        // A link that leads nowhere is there too.
        if path.symlink_metadata().is_ok() {
            return Err(Own::FileUnwritable.with(format!("{}: it exists", path.display())));
        }
        let name = path.file_name().ok_or_else(|| Own::FileUnwritable.with(path.display().to_string()))?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(hidden);
        let unwritable = |error| Own::FileUnwritable.with(format!("{}: {error}", temporary.display()));
        let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).map_err(unwritable)?;
        Ok(Target { path: path.to_owned(), temporary, file })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Problem> {
        self.file.write_all(bytes).map_err(|error| self.unwritable(&error))
    }

    /// Durable, then under its name; a file that came there meanwhile stays.
    fn finish(self) -> Result<(), Problem> {
        let path = &self.path;
        self.file.sync_all().map_err(|error| self.unwritable(&error))?;
        match rustix::fs::renameat_with(CWD, &self.temporary, CWD, path.as_path(), RenameFlags::NOREPLACE) {
            Ok(()) => {}
            // A stick with a file system that cannot do this in one step.
            Err(Errno::INVAL | Errno::NOSYS) if !path.exists() => {
                std::fs::rename(&self.temporary, path).map_err(|error| self.unwritable(&error))?;
            }
            Err(error) => return Err(self.unwritable(&error.into())),
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|error| self.unwritable(&error))
    }

    fn unwritable(&self, error: &std::io::Error) -> Problem {
        Own::FileUnwritable.with(format!("{}: {error}", self.temporary.display()))
    }
}

impl Drop for Target {
    fn drop(&mut self) {
        // Nothing has this name any more when it is whole.
        let _ = std::fs::remove_file(&self.temporary);
    }
}
