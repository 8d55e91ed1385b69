//! The adapter `exec`: a program that is given the token PIN.
//!
//! It is run once for each order and told by its environment what to do:
//!
//! | word | value |
//! |---|---|
//! | `SLOTWARDEN_ORDER` | `activate` or `deactivate` |
//! | `SLOTWARDEN_APPLICATION` | the application's name |
//! | `SLOTWARDEN_SLOT` | the slot's name |
//! | `SLOTWARDEN_TOKEN` | the token as a PKCS#11 URI, without a PIN |
//!
//! With `activate` its standard input (descriptor 0) holds exactly the token PIN, without a
//! newline, and then ends; with `deactivate` it is empty. The PIN is in no argument and no
//! word. Exit 0 means done. `deactivate` also comes when nothing was handed over: after
//! each start of the daemon, for an earlier run may have been killed.

use std::process::Stdio;
use std::time::Instant;

use slotwarden_core::fault::ApplicationFault;

use super::pin::Pin;
use super::program::Program;
use super::{About, Failed, Served};
use crate::config::{self, ExecSettings};

/// One application with this adapter.
#[derive(Debug)]
pub struct Exec {
    program: Program,
    about: About,
}

impl Exec {
    /// As configured.
    ///
    /// # Errors
    /// A user that is not there.
    pub fn new(settings: &ExecSettings, about: About) -> Result<Self, String> {
        let ids = match &settings.user {
            None => None,
            Some(user) => Some(config::user_ids(user).ok_or_else(|| format!("there is no user {user:?}"))?),
        };
        Ok(Exec { program: Program { command: settings.command.clone(), ids }, about })
    }

    fn run(&self, order: &str, pin: Option<Pin>, until: Instant) -> Result<(), Failed> {
        let input = pin.map(Pin::into_pipe).transpose();
        let input = input.map_err(|error| Failed::new(ApplicationFault::NotStarted, format!("a pipe: {error}")))?;
        let words = [
            ("SLOTWARDEN_ORDER", order),
            ("SLOTWARDEN_APPLICATION", &self.about.application),
            ("SLOTWARDEN_SLOT", &self.about.slot),
            ("SLOTWARDEN_TOKEN", &self.about.token),
        ];
        self.program.run(&words, input.map(Stdio::from), until)
    }
}

impl Served for Exec {
    fn hand_over(&mut self, pin: Pin, until: Instant) -> Result<(), Failed> {
        self.run("activate", Some(pin), until)
    }

    fn withdraw(&mut self, until: Instant) -> Result<(), Failed> {
        self.run("deactivate", None, until)
    }
}
