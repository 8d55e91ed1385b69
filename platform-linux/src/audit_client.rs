//! The audit log shown, verified and exported: through the daemon, or from its store while
//! it does not run.
//!
//! Reading goes page by page, so a log of any length costs the daemon one page at a time.
//! The checkpoints are read before the records: a record is durable before the checkpoint
//! over it, so no checkpoint that was read points behind the last record.

use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use slotwarden_core::audit::AuditRecord;

use crate::audit::{self, Finding, Known, Log, NodeKeys, Verified};
use crate::client::{Client, Refused};
use crate::devices::Checkpoint;
use crate::problem::{Own, Problem};
use crate::wire::{AUDIT_PAGE, Answered, Ask, AuditPage, CheckpointPage};

/// The last records.
///
/// # Errors
/// What the daemon refused.
pub fn last(client: &Client, count: u32) -> Result<AuditPage, Refused> {
    let mut shown = page(client, None, count)?;
    // More than one page was asked for: the earlier ones come before it.
    while let Some(first) = shown.records.first().map(|record| record.sequence) {
        let have = u32::try_from(shown.records.len()).unwrap_or(u32::MAX);
        let missing = count.saturating_sub(have).min(AUDIT_PAGE);
        let from = first.saturating_sub(u64::from(missing)).max(1);
        if missing == 0 || from == first {
            break;
        }
        let wanted = u32::try_from(first - from).unwrap_or(AUDIT_PAGE);
        let mut before = page(client, Some(from), wanted)?;
        if before.records.is_empty() {
            break;
        }
        before.records.append(&mut shown.records);
        before.names.append(&mut shown.names);
        shown = before;
    }
    Ok(shown)
}

/// Verifies the log that the daemon has. What it says of its own key is taken for true.
///
/// # Errors
/// What the daemon refused; [`Own::AuditBroken`] with the finding.
pub fn verify_live(client: &Client, known: &Known) -> Result<Verified, Refused> {
    let (node_keys, checkpoints) = checkpoints(client)?;
    let mut pages = Pages::new(client);
    let found = audit::verify_records(&node_keys, &mut pages, &checkpoints, known);
    match (pages.refused, found) {
        (Some(refused), _) => Err(refused),
        (None, Ok(found)) => Ok(Verified { trusted: true, ..found }),
        (None, Err(finding)) => Err(broken(&finding).into()),
    }
}

/// Verifies an exported file, without daemon or HSM.
///
/// # Errors
/// [`Own::FileUnreadable`]; [`Own::AuditBroken`] with the finding.
pub fn verify_file(path: &Path, known: &Known) -> Result<Verified, Problem> {
    audit::verify(&mut opened(path)?, known).map_err(|finding| broken(&finding))
}

/// Verifies the log of a store whose daemon does not run.
///
/// # Errors
/// What the store refused; [`Own::AuditBroken`] with the finding.
pub fn verify_stopped(log: &Log, known: &Known) -> Result<Verified, Problem> {
    log.verify(known)?.map_err(|finding| broken(&finding))
}

/// What the verifier knows from elsewhere, with the file of an earlier export or of its
/// checkpoint lines.
///
/// # Errors
/// [`Own::FileUnreadable`]; [`Own::CheckpointFileWrong`] with the finding.
pub fn earlier(path: &Path, known: Known) -> Result<Known, Problem> {
    audit::earlier(&mut opened(path)?, known)
        .map_err(|finding| Own::CheckpointFileWrong.with(format!("{}: {finding}", path.display())))
}

/// Writes the daemon's log into a new file, durably.
///
/// # Errors
/// What the daemon refused; [`Own::FileUnwritable`], also for a file that exists.
pub fn export(client: &Client, path: &Path) -> Result<(), Refused> {
    let (node_keys, checkpoints) = checkpoints(client)?;
    let mut pages = Pages::new(client);
    into_new_file(path, |out| {
        let written = audit::export(out, &node_keys, &mut pages, &checkpoints);
        pages.refused.take().map_or(Ok(written), Err)
    })
}

/// Writes the log of a store whose daemon does not run into a new file, durably.
///
/// # Errors
/// What the store refused; [`Own::FileUnwritable`], also for a file that exists.
pub fn export_stopped(log: &Log, path: &Path) -> Result<(), Refused> {
    into_new_file(path, |out| log.export(out).map_err(|refused| Problem::from(refused).into()))
}

/// Makes the file; if it cannot be made complete, nothing of it stays.
fn into_new_file(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<File>) -> Result<io::Result<()>, Refused>,
) -> Result<(), Refused> {
    let unwritable = |error: io::Error| Own::FileUnwritable.with(format!("{}: {error}", path.display()));
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    let mut out = BufWriter::new(file);
    let ended = write(&mut out).and_then(|written| {
        written
            .and_then(|()| out.flush())
            .and_then(|()| out.get_ref().sync_all())
            .map_err(|error| unwritable(error).into())
    });
    if ended.is_err() {
        // Half an export is none. If it cannot be removed, its missing end says so.
        let _ = std::fs::remove_file(path);
    }
    ended
}

fn opened(path: &Path) -> Result<BufReader<File>, Problem> {
    let file = File::open(path).map_err(|error| Own::FileUnreadable.with(format!("{}: {error}", path.display())))?;
    Ok(BufReader::new(file))
}

/// Every record from the first, page by page. What the daemon refused ends it.
struct Pages<'c> {
    client: &'c Client,
    next: u64,
    page: std::vec::IntoIter<AuditRecord>,
    refused: Option<Refused>,
}

impl<'c> Pages<'c> {
    fn new(client: &'c Client) -> Self {
        Pages { client, next: 1, page: Vec::new().into_iter(), refused: None }
    }
}

impl Iterator for Pages<'_> {
    type Item = AuditRecord;

    fn next(&mut self) -> Option<AuditRecord> {
        if self.page.len() == 0 && self.refused.is_none() {
            match page(self.client, Some(self.next), AUDIT_PAGE) {
                Ok(page) => self.page = page.records.into_iter(),
                Err(refused) => self.refused = Some(refused),
            }
        }
        let record = self.page.next()?;
        self.next = record.sequence.saturating_add(1);
        Some(record)
    }
}

fn page(client: &Client, first: Option<u64>, count: u32) -> Result<AuditPage, Refused> {
    match client.ask(Ask::Audit { first, count }, &[])? {
        Answered::Audit(page) => Ok(page),
        _ => Err(Own::OtherVersion.into()),
    }
}

/// All checkpoints, page by page, and the node's keys.
fn checkpoints(client: &Client) -> Result<(NodeKeys, Vec<Checkpoint>), Refused> {
    let mut found: Vec<Checkpoint> = Vec::new();
    loop {
        let skip = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let Answered::Checkpoints(page) = client.ask(Ask::Checkpoints { skip }, &[])? else {
            return Err(Own::OtherVersion.into());
        };
        let CheckpointPage { all: _, node_keys, checkpoints } = page;
        if checkpoints.is_empty() {
            return Ok((node_keys, found));
        }
        for (sequence, head, signature) in checkpoints {
            let signature = signature.try_into().map_err(|_| Refused::from(Own::OtherVersion))?;
            found.push(Checkpoint { sequence, head, signature });
        }
    }
}

fn broken(finding: &Finding) -> Problem {
    Own::AuditBroken.with(finding.to_string())
}
