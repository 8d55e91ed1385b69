//! Simulated applications: each holds a token PIN or not, and can be out of reach.
//!
//! What the `pin-file` adapter does with a file these do with a field. A hand-over
//! survives the daemon, as the file does, until the daemon's next start takes it back.

use slotwarden_core::effect::ApplicationId;
use slotwarden_core::fault::{ApplicationFault, Fault};

use crate::SLOTS;
use crate::code::Code;

/// Applications of the world: one for each slot, and one more that shares the first slot.
pub const APPLICATIONS: usize = SLOTS + 1;

/// One application.
#[derive(Clone, Copy, Debug)]
pub struct Application {
    /// The token PIN it holds; [`Code::NONE`]: none.
    pub holds: Code,
    /// Whether its adapter can do its work.
    pub reachable: bool,
}

/// All applications.
#[derive(Clone, Copy, Debug)]
pub struct Applications {
    all: [Application; APPLICATIONS],
}

impl Default for Applications {
    fn default() -> Self {
        Applications { all: [Application { holds: Code::NONE, reachable: true }; APPLICATIONS] }
    }
}

impl Applications {
    /// One application.
    pub fn of(&mut self, application: ApplicationId) -> &mut Application {
        &mut self.all[usize::from(application.0)]
    }

    /// Gives it the token PIN.
    ///
    /// # Errors
    /// [`Fault::Application`] when it is out of reach.
    pub fn hand_over(&mut self, application: ApplicationId, pin: Code) -> Result<(), Fault> {
        let one = self.of(application);
        if !one.reachable {
            return Err(Fault::Application(ApplicationFault::NotWritten));
        }
        one.holds = pin;
        Ok(())
    }

    /// Takes it back.
    ///
    /// # Errors
    /// [`Fault::Application`] when it is out of reach.
    pub fn withdraw(&mut self, application: ApplicationId) -> Result<(), Fault> {
        let one = self.of(application);
        if !one.reachable {
            return Err(Fault::Application(ApplicationFault::NotRemoved));
        }
        one.holds = Code::NONE;
        Ok(())
    }

    /// Takes everything back: first at every start, and at every stop.
    pub fn withdraw_all(&mut self) {
        for one in &mut self.all {
            one.holds = Code::NONE;
        }
    }

    /// The power goes: what was handed over lay in memory.
    pub fn power_cut(&mut self) {
        self.withdraw_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_application_out_of_reach_keeps_what_it_has() {
        let mut applications = Applications::default();
        let application = ApplicationId(0);
        assert!(applications.hand_over(application, Code::new(b"pin")).is_ok());
        applications.of(application).reachable = false;
        assert!(applications.withdraw(application).is_err());
        assert!(applications.hand_over(application, Code::new(b"other")).is_err());
        assert_eq!(applications.of(application).holds, Code::new(b"pin"));
        applications.power_cut();
        assert!(applications.of(application).holds.is_none());
    }
}
