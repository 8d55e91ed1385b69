//! The daemon's own loop in a thread, with its real store behind a switch: a power cut is a
//! store and tokens that take nothing more, from one moment on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel, sync_channel};
use std::thread::{self, JoinHandle, ThreadId};
use std::time::Duration;

use slotwarden::appliance::{self, Prepared};
use slotwarden::audit::NodeKeys;
use slotwarden::config::Offered;
use slotwarden::control::{self, Reply, Request};
use slotwarden::daemon::{self, Devices, Notice};
use slotwarden::devices::{Checkpoint, Event, Events, Lend, Signer, Store, TranscriptPart};
use slotwarden::files::DiskFiles;
use slotwarden::member_keys::NodeSecrets;
use slotwarden::names::Peer;
use slotwarden::problem::{Own, Problem};
use slotwarden::status_json::StatusView;
use slotwarden::store::DiskStore;
use slotwarden::wire::{Answered, Ask};
use slotwarden_core::audit::AuditRecord;
use slotwarden_core::ceremony::CeremonyId;
use slotwarden_core::effect::{Input, StoreResult, Ticket};
use slotwarden_core::fault::{Fault, Refusal};
use slotwarden_core::person::PersonId;
use slotwarden_core::record::{Record, SecretKey};

use super::bench::{Bench, SimHsm};
use super::stage::Stage;
use super::table::Table;
use super::{Happening, cannot};

/// The loop answers a question within a turn.
const ANSWER_WAIT: Duration = Duration::from_secs(2);

/// The daemon's loop in a thread of its own.
pub(super) struct Running {
    events: Events,
    powered: Arc<AtomicBool>,
    thread: JoinHandle<Result<(), Problem>>,
}

impl Running {
    pub(super) fn start(
        stage: &Stage,
        bench: &Bench,
        table: &Table,
        happens: &Sender<Happening>,
    ) -> Result<Self, Problem> {
        let offered = Offered::read(&stage.path("slotwarden.toml"));
        let (events, arriving) = channel();
        let Prepared { setup, store, applications, settings } = appliance::prepare(&offered, false, &events)?;
        let socket = control::listen(&settings.socket, Arc::clone(&setup.names), events.clone())?;
        let powered = Arc::new(AtomicBool::new(true));
        let store = Powered { store, powered: Arc::clone(&powered), events: events.clone() };
        let hsm = SimHsm::start(bench, events.clone());
        let exchange = appliance::exchange(&settings, &events)?;
        let files = DiskFiles::new(
            appliance::transfer_dir(&settings),
            events.clone(),
            store.signer(),
            store.node_keys().current,
        );
        let (cards, files) = (table.readers(events.clone()), Box::new(files));
        let devices = Devices { hsm, store, applications, cards, files, exchange };
        let happens = happens.clone();
        let thread = thread::Builder::new().name("daemon".into()).spawn(move || {
            let mut show = |notice: Notice<'_>| match notice {
                Notice::Ready(status) | Notice::Changed(status) => {
                    let _ = happens.send(Happening::Status(Box::new(status.clone())));
                }
                Notice::Stopping => {}
            };
            let ended = daemon::run(setup, devices, &arriving, &mut show);
            drop(socket);
            let _ = happens.send(Happening::Ended(thread::current().id()));
            ended.map(|_| ())
        });
        let thread = thread.map_err(|error| cannot("a thread", &error))?;
        Ok(Running { events, powered, thread })
    }

    /// Asks for the status; a loop that is ending has none.
    pub(super) fn status(&self) -> Option<StatusView> {
        let (answer, answered) = sync_channel(1);
        let request = Request { peer: Peer::OwnUser, ask: Ask::Status, secrets: Vec::new(), answer };
        self.events.send(Event::Control(request)).ok()?;
        match answered.recv_timeout(ANSWER_WAIT) {
            Ok(Reply { answered: Answered::Status(status), .. }) => Some(*status),
            Ok(_) | Err(_) => None,
        }
    }

    pub(super) fn cut_power(self, bench: &Bench) {
        self.powered.store(false, Ordering::SeqCst);
        bench.cut_power();
        // Without power the loop's end writes nothing: its store fails, its tokens are gone.
        let _ = self.stop();
    }

    pub(super) fn stop(self) -> Result<(), Problem> {
        // A loop that has ended already needs no order.
        let _ = self.events.send(Event::Stop);
        self.join()
    }

    /// The loop's thread, which says when it ended.
    pub(super) fn thread(&self) -> ThreadId {
        self.thread.thread().id()
    }

    pub(super) fn join(self) -> Result<(), Problem> {
        self.thread.join().unwrap_or_else(|_| Err(Own::SpawnFailed.with("the daemon's loop panicked")))
    }
}

/// The store, until the power is cut: from then on nothing reaches the disk.
struct Powered {
    store: DiskStore,
    powered: Arc<AtomicBool>,
    events: Events,
}

impl Powered {
    fn is_on(&self) -> bool {
        self.powered.load(Ordering::SeqCst)
    }
}

impl Store for Powered {
    fn put(&mut self, record: &Record, secrets: &dyn Lend) {
        if self.is_on() {
            self.store.put(record, secrets);
        }
    }

    fn journal(&mut self, record: &AuditRecord) {
        if self.is_on() {
            self.store.journal(record);
        }
    }

    fn commit(&mut self, ticket: Ticket) {
        if self.is_on() {
            return self.store.commit(ticket);
        }
        let _ = self.events.send(Event::Input(Input::Stored { ticket, result: StoreResult::Failed }));
    }

    fn unseal(&mut self, key: SecretKey, place: &mut [u8]) -> Result<usize, Fault> {
        if self.is_on() { self.store.unseal(key, place) } else { Err(Fault::SealBroken) }
    }

    fn checkpoint(&mut self, sequence: u64, head: [u8; 32]) {
        if self.is_on() {
            self.store.checkpoint(sequence, head);
        }
    }

    fn sign_transcript(&mut self, id: CeremonyId, head: [u8; 32]) {
        if self.is_on() {
            self.store.sign_transcript(id, head);
        }
    }

    fn transcript(&mut self, id: CeremonyId, first: u16, count: usize) -> Result<TranscriptPart, Refusal> {
        self.store.transcript(id, first, count)
    }

    fn audit(&mut self, first: u64, count: usize) -> Result<Vec<AuditRecord>, Refusal> {
        self.store.audit(first, count)
    }

    fn checkpoints(&mut self) -> Result<Vec<Checkpoint>, Refusal> {
        self.store.checkpoints()
    }

    fn kept_configuration(&self, digest: &[u8; 32]) -> Option<Vec<u8>> {
        self.store.kept_configuration(digest)
    }

    fn keep_configuration(&mut self, bytes: &[u8]) -> Result<(), Refusal> {
        if self.is_on() { self.store.keep_configuration(bytes) } else { Err(Refusal::StoreFailed) }
    }

    fn seal(&self) -> &'static str {
        self.store.seal()
    }

    fn node_keys(&self) -> &NodeKeys {
        self.store.node_keys()
    }

    fn zeroize(&mut self, ticket: Ticket, who: PersonId) {
        if self.is_on() {
            self.store.zeroize(ticket, who);
        }
    }

    fn signer(&self) -> Signer {
        self.store.signer()
    }

    fn node_secrets(&self) -> Result<NodeSecrets, Fault> {
        self.store.node_secrets()
    }
}
