//! The adapters to applications. One so far: [`pin_file`].

pub mod memory;
pub mod pin_file;

use slotwarden_core::effect::{ApplicationId, ApplicationOrder, Input, Outcome, SlotId, Ticket};
use slotwarden_core::fault::{ApplicationFault, Fault};

use self::memory::Memory;
use self::pin_file::{PinFile, hand_over, withdraw};
use crate::devices::{Applications, Event, Events, Lend};

/// The applications of the configuration, by number.
#[derive(Debug)]
pub struct PinFiles {
    files: Vec<PinFile>,
    memory: Memory,
    events: Events,
}

impl PinFiles {
    /// In the order of the configuration.
    #[must_use]
    pub fn new(files: Vec<PinFile>, events: Events) -> Self {
        PinFiles { files, memory: Memory::new(), events }
    }

    /// The same with another view of swap and mounts.
    #[must_use]
    pub fn with_memory(self, memory: Memory) -> Self {
        PinFiles { memory, ..self }
    }

    fn carry_out(
        &self,
        application: ApplicationId,
        order: ApplicationOrder,
        secrets: &dyn Lend,
    ) -> Result<(), (ApplicationFault, String)> {
        let Some(file) = self.files.get(usize::from(application.0)) else {
            return Err((ApplicationFault::NotWritten, format!("application {} is not configured", application.0)));
        };
        match order {
            ApplicationOrder::Withdraw => withdraw(file).map_err(|reason| (ApplicationFault::NotRemoved, reason)),
            ApplicationOrder::HandOver { pin } => {
                let mut written = None;
                let lent = secrets.lend(pin, &mut |pin| written = Some(hand_over(file, &self.memory, pin)));
                match written {
                    Some(result) if lent => result,
                    Some(_) | None => {
                        Err((ApplicationFault::NotWritten, "the token PIN is no longer in the Safe".into()))
                    }
                }
            }
        }
    }
}

impl Applications for PinFiles {
    fn perform(
        &mut self,
        ticket: Ticket,
        application: ApplicationId,
        _slot: SlotId,
        order: ApplicationOrder,
        secrets: &dyn Lend,
    ) {
        let result = self.carry_out(application, order, secrets).map_err(|(fault, reason)| {
            // Closed channels, here and below: the loop has ended, and nobody waits.
            let _ = self.events.send(Event::Note(reason));
            Fault::Application(fault)
        });
        let outcome = Outcome::Application(result);
        let _ = self.events.send(Event::Input(Input::Done { ticket, outcome }));
    }

    fn withdraw_all(&mut self) {
        for file in &self.files {
            if let Err(reason) = withdraw(file) {
                let _ = self.events.send(Event::Note(reason));
            }
        }
    }
}
