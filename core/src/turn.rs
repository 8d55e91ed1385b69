//! What a machine may do while it handles one event.
//!
//! A turn is one input from its arrival to the effects it caused. Machines decide and push;
//! nothing here performs anything. What a turn pushes becomes visible to the platform in
//! this order: records, journal, commit, then everything else (`outbox`).

use crate::audit::AuditEvent;
use crate::code::RandomWatch;
use crate::command::{Answer, Caller};
use crate::effect::{HsmCall, SlotId, Ticket};
use crate::outbox::Act;
use crate::person::PersonId;
use crate::pin_change::{ChangeEnd, ChangeOrder};
use crate::record::{SecretKey, SecretKind};
use crate::safe::{SecretId, Secrets};
use crate::slot::SlotEvent;
use crate::slot_data::SlotData;
use crate::time::Now;

/// The surroundings of one machine during one event.
pub struct Turn<'t> {
    /// When the input arrived.
    pub now: Now,
    /// Manual tries in a row before each further one needs a confirmation.
    pub tries: u8,
    /// Whether the service is stopping: nothing begins by itself any more.
    pub stopping: bool,
    /// Whether the service has halted: nothing is proven or handed over any more.
    pub halted: bool,
    /// What the slot's machines share.
    pub slot: &'t mut SlotData,
    /// The Safe.
    pub secrets: &'t mut dyn Secrets,
    /// The watch over the random sources.
    pub watch: &'t mut RandomWatch,
    /// Where effects go.
    pub out: &'t mut dyn Out,
    /// Set by the slot machine: a token PIN change should begin.
    pub change: &'t mut Option<ChangeOrder>,
    /// Set by the token PIN change: it ended.
    pub change_end: &'t mut Option<ChangeEnd>,
    /// Set by a collection: what the slot machine should be told.
    pub deliver: &'t mut Option<SlotEvent>,
}

/// Where effects go; the outbox of the service, or a list in a test.
pub trait Out {
    /// A new ticket for an effect of this slot.
    fn ticket(&mut self, slot: SlotId) -> Ticket;
    /// Performs this once the turn's records are durable.
    fn act(&mut self, act: Act);
    /// Adds an audit record to the turn's transaction.
    fn journal(&mut self, who: Option<PersonId>, slot: SlotId, event: AuditEvent);
    /// Seals this secret with the turn's transaction.
    fn seal(&mut self, key: SecretKey, id: SecretId);
    /// Erases a sealed secret with the turn's transaction.
    fn erase(&mut self, key: SecretKey);
    /// Takes an effect back that the platform has not seen yet; true: nothing happened.
    fn withdraw(&mut self, ticket: Ticket) -> bool;
    /// An invariant of ours is broken, at this place: the service halts.
    fn bug(&mut self, place: u16);
}

impl Turn<'_> {
    /// The slot's record changed; it joins the turn's transaction.
    pub fn save(&mut self) {
        self.slot.dirty = true;
    }

    /// Adds an audit record about this slot.
    pub fn journal(&mut self, who: Option<PersonId>, event: AuditEvent) {
        let slot = self.slot.id;
        self.out.journal(who, slot, event);
    }

    /// Orders a PKCS#11 operation; its answer carries the ticket.
    pub fn call(&mut self, call: HsmCall) -> Ticket {
        let slot = self.slot.id;
        let ticket = self.out.ticket(slot);
        self.out.act(Act::Hsm { ticket, slot, call });
        ticket
    }

    /// Wipes a secret once the effects pushed before this are performed.
    pub fn wipe(&mut self, id: SecretId) {
        self.out.act(Act::Wipe(id));
    }

    /// Wipes a secret if there is one.
    pub fn wipe_any(&mut self, id: Option<SecretId>) {
        if let Some(id) = id {
            self.wipe(id);
        }
    }

    /// Answers an order.
    pub fn reply(&mut self, caller: Caller, answer: Answer) {
        self.out.act(Act::Reply { reply: caller.reply, answer });
    }

    /// Orders that a sealed code be decrypted into a new place.
    ///
    /// # Errors
    /// [`crate::Refusal::SafeFull`].
    pub fn unseal(&mut self, generation: u32) -> Result<(Ticket, SecretId), crate::Refusal> {
        let id = self.secrets.reserve()?;
        let ticket = self.out.ticket(self.slot.id);
        let key = self.code_key(generation);
        self.out.act(Act::Unseal { ticket, key, id });
        Ok((ticket, id))
    }

    /// Orders two random halves into a new place.
    ///
    /// # Errors
    /// [`crate::Refusal::SafeFull`].
    pub fn random(&mut self) -> Result<(Ticket, SecretId), crate::Refusal> {
        let id = self.secrets.reserve()?;
        let ticket = self.out.ticket(self.slot.id);
        self.out.act(Act::Random { ticket, id });
        Ok((ticket, id))
    }

    /// The key under which a generated code of this slot is sealed.
    #[must_use]
    pub fn code_key(&self, generation: u32) -> SecretKey {
        SecretKey { kind: SecretKind::GeneratedCode, owner: self.slot.owner, generation }
    }

    /// Erases a sealed code, if there is one of that generation.
    pub fn erase(&mut self, generation: Option<u32>) {
        if let Some(generation) = generation {
            let key = self.code_key(generation);
            self.out.erase(key);
        }
    }
}
