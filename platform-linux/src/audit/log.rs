//! The audit log of a stopped store, read where it lies.
//!
//! Nothing is written: redb sees a copy in memory. While the log is open no daemon can
//! start on the store, and while one runs it cannot be opened.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use slotwarden_core::audit::AuditRecord;
use slotwarden_core::fault::Refusal;
use slotwarden_core::person::PersonId;

use super::{Finding, Known, NodeKeys, Verified, export, verify_records};
use crate::store::directory::{Directory, Found};
use crate::store::{self, Refused, format};

/// Records read from a store at once.
const PAGE_RECORDS: usize = 1024;

/// A log that can be read in order: a store at rest.
pub struct Log {
    database: redb::Database,
    content: format::Content,
    _lock: Option<File>,
}

impl Log {
    /// Reads the log of a store whose daemon does not run, changing nothing. The chain is
    /// verified by that.
    ///
    /// # Errors
    /// [`Refusal::StoreLocked`], [`Refusal::StoreMissing`], [`Refusal::StoreUnreadable`],
    /// [`Refusal::StoreNewer`].
    pub fn of_store(state_dir: &Path) -> Result<Self, Refused> {
        let directory = Directory { path: state_dir.to_owned() };
        let lock = directory.lock_for_reading()?;
        if directory.look()? == Found::Nothing {
            return Err(Refused::new(Refusal::StoreMissing, directory.store().display().to_string()));
        }
        let database = store::open_copy(&directory)?;
        let content = format::read(&database)?;
        Ok(Log { database, content, _lock: lock })
    }

    /// Verifies the log with everything the verifier knows, and each signature.
    ///
    /// # Errors
    /// A refusal when the store cannot be read, else the finding.
    pub fn verify(&self, known: &Known) -> Result<Result<Verified, Finding>, Refused> {
        let mut refused = None;
        let records = self.records(&mut refused);
        let found = verify_records(&self.node_keys(), records, &self.content.checkpoints, known);
        refused.map_or(Ok(found), Err)
    }

    /// The last `count` records, and the number of the last one there is.
    ///
    /// # Errors
    /// A refusal when the store cannot be read.
    pub fn last(&self, count: usize) -> Result<(u64, Vec<AuditRecord>), Refused> {
        let last = self.content.chain.sequence;
        let first = (last + 1).saturating_sub(count as u64).max(1);
        Ok((last, format::audit(&self.database, first, count)?))
    }

    /// Every person's name that ever had a number.
    #[must_use]
    pub fn persons(&self) -> &[(String, PersonId)] {
        &self.content.persons
    }

    /// The configuration that two persons approved, if dual control is on.
    #[must_use]
    pub fn approved(&self) -> Option<&[u8]> {
        let policy = self.content.policy;
        let kept = self.content.configurations.iter().find(|(digest, _)| *digest == policy.configuration);
        kept.filter(|_| policy.dual_control).map(|(_, bytes)| bytes.as_slice())
    }

    /// Writes the log as an export.
    ///
    /// # Errors
    /// A refusal when the store cannot be read; inside, what the writer answered.
    pub fn export(&self, out: &mut dyn Write) -> Result<io::Result<()>, Refused> {
        let mut refused = None;
        let records = self.records(&mut refused);
        let written = export(out, &self.node_keys(), records, &self.content.checkpoints);
        refused.map_or(Ok(written), Err)
    }

    fn node_keys(&self) -> NodeKeys {
        NodeKeys { former: self.content.former_nodes.clone(), current: self.content.node }
    }

    /// Every record from the first; what ends them early is left in `refused`.
    fn records<'l>(&'l self, refused: &'l mut Option<Refused>) -> impl Iterator<Item = AuditRecord> + use<'l> {
        let pages =
            (0..).step_by(PAGE_RECORDS).map_while(|done| match format::audit(&self.database, done + 1, PAGE_RECORDS) {
                Ok(page) if page.is_empty() => None,
                Ok(page) => Some(page),
                Err(reason) => {
                    *refused = Some(reason);
                    None
                }
            });
        pages.flatten()
    }
}
