//! The store thread: one transaction after the other, in the order they were handed over.
//!
//! After the first failure it answers *failed* to everything and touches the store no more:
//! a sync that failed once may have dropped the pages it could not write, and a later one
//! that succeeds proves nothing about them (P40). Only a restart, which reads the store
//! anew, ends that.

use std::sync::Arc;
use std::sync::mpsc::Receiver;

use redb::Database;
use slotwarden_core::effect::{Input, StoreResult, Ticket};

use super::format::{self, Change};
use super::room::Ballast;
use crate::devices::{Event, Events};

/// One transaction.
#[derive(Debug)]
pub struct Job {
    /// Whom to answer; nobody waits for a checkpoint.
    pub ticket: Option<Ticket>,
    /// What to store, or why that cannot be stored.
    pub changes: Result<Vec<Change>, String>,
}

/// Works until the other end of `jobs` is dropped.
pub fn run(database: &Arc<Database>, ballast: &Ballast, jobs: &Receiver<Job>, events: &Events) {
    let mut failed = false;
    for job in jobs {
        let result = if failed {
            StoreResult::Failed
        } else {
            match perform(database, job.changes) {
                Ok(()) => StoreResult::Durable(ballast.room()),
                Err(reason) => {
                    failed = true;
                    // A closed channel means that the daemon has ended; so does this thread.
                    let _ = events.send(Event::Note(format!("the store failed: {reason}")));
                    StoreResult::Failed
                }
            }
        };
        if let Some(ticket) = job.ticket {
            let _ = events.send(Event::Input(Input::Stored { ticket, result }));
        }
    }
}

fn perform(database: &Database, changes: Result<Vec<Change>, String>) -> Result<(), String> {
    let changes = changes?;
    if changes.is_empty() {
        return Ok(());
    }
    format::apply(database, &changes).map_err(|error| error.to_string())
}
