//! The card readers of this machine, by PC/SC.
//!
//! One thread watches for readers and cards, without polling: `SCardGetStatusChange` waits for
//! ever, with the pseudo reader that reports new ones ([`watcher`]). Each reader has a desk, a
//! thread that makes the calls there one after another, so that a reader that hangs delays no
//! other ([`desk`]). A connection is exclusive and lasts from `Hold` to `Release`, in one
//! transaction; it ends with a reset, so that no PIN stays verified.
//!
//! Outside facts: pcsc-lite; a context serves one call at a time, so each thread has its own;
//! when pcscd ends, every call fails and every handle is dead. Readers are then *lost*, and
//! found again when it is back; nothing is repeated on its own. When this process ends in the
//! middle of a step, pcscd resets the card.
//!
//! A card PIN cannot be here: the pad asks for it and sends it to the card (P1), and readers
//! without pad are never given a number (P2). y crosses in buffers that are wiped, and nothing
//! of a command or answer is logged (P3). pcscd itself logs every command where it runs with
//! `--apdu`: an appliance must not. Where pcscd asks polkit, the daemon's user needs
//! `org.debian.pcsc-lite.access_pcsc` and `org.debian.pcsc-lite.access_card`.
//!
//! After a restart every reader is found anew.

mod desk;
mod pad;
mod table;
mod watcher;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use slotwarden_core::card::{CardCall, CardFailure, ReaderId};
use slotwarden_core::effect::Ticket;
use zeroize::Zeroizing;

use crate::config::CardsSettings;
use crate::devices::{Cards, Event, Events, Lend, ReaderView};
use table::Table;
use watcher::Watcher;

pub use table::NUMBERED_MAX;

/// The readers of this machine.
pub struct PcscCards {
    table: Arc<Mutex<Table>>,
    events: Events,
    // Ends with it.
    _watcher: Watcher,
}

/// What a desk is told.
enum Job {
    /// Make this call and answer it.
    Call {
        ticket: Ticket,
        call: CardCall,
        /// Of a write: y. In its own place on the heap, so that moving the job copies no y.
        y: Option<Box<Zeroizing<[u8; 32]>>>,
    },
    /// Something changed at the reader: ask again what it can do, if that is not known.
    LookAgain,
}

impl PcscCards {
    /// Begins to watch. It waits for nothing: pcscd may start later.
    ///
    /// # Errors
    /// When no thread can be started.
    pub fn start(settings: CardsSettings, events: Events) -> std::io::Result<Self> {
        let table = Arc::new(Mutex::new(Table::new(events.clone())));
        let watcher = Watcher::start(Arc::new(settings), Arc::clone(&table), events.clone())?;
        Ok(PcscCards { table, events, _watcher: watcher })
    }
}

impl Cards for PcscCards {
    fn perform(&mut self, ticket: Ticket, reader: ReaderId, call: CardCall, secrets: &dyn Lend) {
        let y = match call {
            CardCall::Write { y, .. } => lent(y, secrets),
            CardCall::Hold
            | CardCall::Select { .. }
            | CardCall::Tries { .. }
            | CardCall::Verify { .. }
            | CardCall::ChangePin { .. }
            | CardCall::Read { .. }
            | CardCall::Point { .. }
            | CardCall::Erase { .. }
            | CardCall::Release => None,
        };
        let taken = lock(&self.table).desk(reader).is_some_and(|desk| desk.send(Job::Call { ticket, call, y }).is_ok());
        if !taken {
            let _ = self.events.send(Event::Card { ticket, result: Err(CardFailure::ReaderGone), y: None });
        }
    }

    fn readers(&self) -> Vec<ReaderView> {
        lock(&self.table).views()
    }
}

/// y of a record to be written; `None`: its place was given up, or holds no y.
fn lent(id: slotwarden_core::SecretId, secrets: &dyn Lend) -> Option<Box<Zeroizing<[u8; 32]>>> {
    let mut y = Box::new(Zeroizing::new([0; 32]));
    let mut whole = false;
    secrets.lend(id, &mut |secret| {
        whole = secret.len() == y.len();
        if whole {
            y.copy_from_slice(secret);
        }
    });
    whole.then_some(y)
}

/// A thread that panicked left the table whole: each change of it is one step.
fn lock(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}
