//! The audit log through the daemon: shown, verified, exported.
//!
//! Reading goes page by page, so a log of any length costs the daemon one page at a time.
//! The checkpoints are read before the records: a record is durable before the checkpoint
//! over it, so no checkpoint that was read points behind the last record.

use std::fs::{File, OpenOptions};
use std::io::{BufReader, BufWriter, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use slotwarden_core::audit::AuditRecord;

use crate::audit::{self, Finding, Known, Verified, Verifier};
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

/// Verifies the log that the daemon has.
///
/// # Errors
/// What the daemon refused; [`Own::AuditBroken`] with the finding.
pub fn verify_live(client: &Client) -> Result<Verified, Refused> {
    let (node_key, checkpoints) = checkpoints(client)?;
    let mut verifier = Verifier::new(node_key).map_err(|finding| broken(&finding))?;
    let mut awaited = checkpoints.iter().peekable();
    let (mut signed, mut count) = (0, 0);
    let mut pages = Pages::new(client);
    for record in &mut pages {
        verifier.record(&record).map_err(|finding| broken(&finding))?;
        while let Some(checkpoint) = awaited.next_if(|checkpoint| checkpoint.sequence == record.sequence) {
            verifier.checkpoint(checkpoint).map_err(|finding| broken(&finding))?;
            signed = checkpoint.sequence;
            count += 1;
        }
    }
    if let Some(refused) = pages.refused {
        return Err(refused);
    }
    if let Some(checkpoint) = awaited.next() {
        return Err(broken(&Finding::Truncated(checkpoint.sequence)).into());
    }
    let chain = verifier.chain();
    Ok(Verified { records: chain.sequence, head: chain.head, checkpoints: count, signed, node_key, trusted: true })
}

/// Verifies an exported file, without daemon or HSM.
///
/// # Errors
/// [`Own::FileUnreadable`]; [`Own::AuditBroken`] with the finding.
pub fn verify_file(path: &Path, node_key: Option<[u8; 32]>) -> Result<Verified, Problem> {
    let file = File::open(path).map_err(|error| Own::FileUnreadable.with(format!("{}: {error}", path.display())))?;
    let known = Known { node_key, ..Known::default() };
    audit::verify(&mut BufReader::new(file), &known).map_err(|finding| broken(&finding))
}

/// Writes the log into a new file, durably.
///
/// # Errors
/// What the daemon refused; [`Own::FileUnwritable`], also for a file that exists.
pub fn export(client: &Client, path: &Path) -> Result<(), Refused> {
    let unwritable = |error: std::io::Error| Own::FileUnwritable.with(format!("{}: {error}", path.display()));
    let (node_key, checkpoints) = checkpoints(client)?;
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(unwritable)?;
    let mut out = BufWriter::new(file);
    let mut pages = Pages::new(client);
    let written = audit::export(&mut out, node_key, &mut pages, &checkpoints)
        .and_then(|()| out.flush())
        .and_then(|()| out.get_ref().sync_all());
    let ended = match (written, pages.refused) {
        (_, Some(refused)) => Err(refused),
        (Err(error), None) => Err(unwritable(error).into()),
        (Ok(()), None) => Ok(()),
    };
    if ended.is_err() {
        // Half an export is none. If it cannot be removed, its missing end says so.
        let _ = std::fs::remove_file(path);
    }
    ended
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

/// All checkpoints, page by page, and the node's key.
fn checkpoints(client: &Client) -> Result<([u8; 32], Vec<Checkpoint>), Refused> {
    let mut found: Vec<Checkpoint> = Vec::new();
    loop {
        let skip = u32::try_from(found.len()).unwrap_or(u32::MAX);
        let Answered::Checkpoints(page) = client.ask(Ask::Checkpoints { skip }, &[])? else {
            return Err(Own::OtherVersion.into());
        };
        let CheckpointPage { all: _, node_key, checkpoints } = page;
        if checkpoints.is_empty() {
            return Ok((node_key, found));
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
