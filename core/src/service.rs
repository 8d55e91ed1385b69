//! Routing, durability, deadlines: the four verbs.

use heapless::Vec;

use crate::audit::Chain;
use crate::command::CommandKind;
use crate::effect::{ApplicationId, Effect, Input};
use crate::fault::Refusal;
use crate::limits::{
    APPLICATIONS_PER_SLOT_MAX, OUTBOX_APPLIANCE, OUTBOX_FIRMWARE, PLACES_APPLIANCE, PLACES_FIRMWARE, SLOTS_APPLIANCE,
    SLOTS_FIRMWARE,
};
use crate::person::{self, PersonId, Persons};
use crate::record::{Owner, SlotRecord};
use crate::safe::{Safe, SecretId};
use crate::status::Status;
use crate::time::Now;

/// The service as an appliance runs it.
pub type Appliance = Service<SLOTS_APPLIANCE, PLACES_APPLIANCE, OUTBOX_APPLIANCE>;
/// The service as a firmware runs it.
pub type Firmware = Service<SLOTS_FIRMWARE, PLACES_FIRMWARE, OUTBOX_FIRMWARE>;

/// What the platform read from its configuration file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Configuration<const SLOTS: usize> {
    /// The slots, in the order of the file.
    pub slots: Vec<SlotConfiguration, SLOTS>,
    /// The persons and their roles.
    pub persons: Persons,
    /// Manual tries in a row before each further one needs a confirmation.
    pub tries: u8,
    /// SHA-256 of the configuration's text, for the audit log.
    pub digest: [u8; 32],
}

/// One configured slot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotConfiguration {
    /// The number the platform gave this name for ever.
    pub owner: Owner,
    /// The applications bound to the slot.
    pub applications: Vec<ApplicationId, APPLICATIONS_PER_SLOT_MAX>,
}

/// The service. Call [`Service::handle`] for each input, then [`Service::poll_effect`]
/// until it yields nothing, then wait until [`Service::poll_deadline`] or the next input.
pub struct Service<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> {
    safe: Safe<PLACES>,
    configuration: Configuration<SLOTS>,
}

impl<const SLOTS: usize, const PLACES: usize, const OUTBOX: usize> Service<SLOTS, PLACES, OUTBOX> {
    /// A service that knows its configuration and no records yet.
    ///
    /// # Errors
    /// [`Refusal::TooManyApplications`] and its like, when the configuration cannot be served.
    pub fn new(configuration: Configuration<SLOTS>) -> Result<Self, Refusal> {
        Ok(Service { safe: Safe::new(), configuration })
    }

    /// Hands over a record found in the store. Before `Input::Start` only. A record whose
    /// owner is not configured stays in the store untouched.
    pub fn load(&mut self, _owner: Owner, _record: SlotRecord) {}

    /// Hands over the end of the audit chain found in the store. Before `Input::Start` only.
    pub fn load_chain(&mut self, _chain: Chain) {}

    /// Puts a secret into the Safe; `write` returns its length in bytes.
    ///
    /// # Errors
    /// [`Refusal::SafeFull`], [`Refusal::SecretTooLong`].
    pub fn fill(&mut self, write: impl FnOnce(&mut [u8]) -> usize) -> Result<SecretId, Refusal> {
        self.safe.fill(write)
    }

    /// Answers `Effect::Random` and `Effect::Unseal` with bytes; false for a stale id.
    pub fn refill(&mut self, id: SecretId, write: impl FnOnce(&mut [u8]) -> usize) -> bool {
        self.safe.refill(id, write)
    }

    /// Lends a secret while an effect is performed; `None` for a stale id.
    pub fn with<T>(&self, id: SecretId, read: impl FnOnce(&[u8]) -> T) -> Option<T> {
        self.safe.with(id, read)
    }

    /// Takes one input. Spurious inputs are harmless.
    ///
    /// # Errors
    /// A refusal means that a command was not taken: no `Effect::Reply` will follow, its
    /// secrets are wiped. Other inputs are always taken.
    pub fn handle(&mut self, _now: Now, _input: Input) -> Result<(), Refusal> {
        Ok(())
    }

    /// The next effect to perform, in order; `None` while a commit is unanswered.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        None
    }

    /// When to call `handle` with `Input::Tick` at the latest, `Now::mono_ms`.
    #[must_use]
    pub fn poll_deadline(&self) -> Option<u64> {
        None
    }

    /// What everybody may see.
    #[must_use]
    pub fn status(&self, _now: Now) -> Status<SLOTS> {
        Status {
            slots: Vec::new(),
            halted: None,
            single_person: true,
            boot_done: false,
            worker: false,
            disk_reserve: false,
        }
    }

    /// Whether a person may give an order or read something.
    #[must_use]
    pub fn may(&self, who: PersonId, what: CommandKind) -> bool {
        person::may(self.configuration.persons.roles(who), what)
    }
}
