//! What one of several persons does for a code: enters their share or part, fetches their
//! new share, types it back.
//!
//! A new share is shown once, on a screen of its own; a script gets it as one line. What a
//! terminal keeps (a scrollback that also records the alternate screen, `script`(1)) is
//! beyond us.

use std::io::{self, IsTerminal as _};

use slotwarden_core::Refusal;
use slotwarden_core::share::TypedShare;

use super::session::{Session, given};
use crate::client::Refused;
use crate::output::{self, Format};
use crate::problem::{EXIT_DONE, EXIT_WAITS};
use crate::secret::{self, Secret};
use crate::status_json::{SlotDetail, SlotView};
use crate::wire::{Order, SecretRole};

/// What the one who is asked enters, if several persons know the code of the slot or are to
/// know it.
pub(super) fn of_several(slot: &SlotView) -> Option<&'static str> {
    let phase = slot.collection.as_ref().map(|collection| collection.progress.phase.as_str());
    let waits = slot.waits_for.as_ref().map(|wait| wait.kind.as_str()).filter(|kind| *kind != "person");
    match phase.or(waits).unwrap_or(&slot.knowledge.kind) {
        "parts" => Some("Your part of the code"),
        "shares" => Some("Your share of the code"),
        "new-parts" => Some("Your part of the new code"),
        "new-shares" => Some("Your new share of the code"),
        _ => None,
    }
}

impl Session {
    /// `slot share NAME`.
    pub(super) fn share(&self, name: &str, code: Option<Secret>, confirmed: bool) -> Result<u8, Refused> {
        let order = |confirmed| Order::Share { slot: name.to_owned(), confirmed };
        if code.is_some() || !secret::on_terminal() {
            return self.carry_out(name, order, confirmed, given(SecretRole::Code, code));
        }
        let found = self.slot(name)?;
        let phase = found.slot.collection.as_ref().map(|collection| collection.progress.phase.as_str());
        match (phase, of_several(&found.slot)) {
            (Some("new-shares"), Some(own)) => match did(&found) {
                None => self.carry_out(name, order, confirmed, Vec::new()),
                Some(_) => self.enter(name, own, confirmed),
            },
            (Some("new-parts"), Some(own)) => {
                // Twice: nobody can tell a part that was typed wrongly from another.
                let part = secret::ask(SecretRole::NewCode, &format!("{own} of {name}"), true)?;
                self.carry_out(name, order, confirmed, vec![(SecretRole::Code, part)])
            }
            (_, Some(own)) if !found.slot.is_active() || phase.is_some() => {
                // Whoever came to open the slot must not give their share to a change of its code unseen.
                if let Some(collection) = found.slot.collection.as_ref().filter(|under| under.command != "activate") {
                    let (command, attempt) = (&collection.command, &collection.progress.attempt);
                    output::aside(&format!(
                        "What is entered for {name} now is for `slot {command}` (attempt {attempt}): its code will be another."
                    ));
                }
                self.enter(name, own, confirmed)
            }
            // The daemon says why there is nothing to do.
            (_, _) => self.carry_out(name, order, confirmed, Vec::new()),
        }
    }

    /// Asks for a share or a part until it is good, or nothing is entered.
    fn enter(&self, name: &str, own: &str, confirmed: bool) -> Result<u8, Refused> {
        let order = |confirmed| Order::Share { slot: name.to_owned(), confirmed };
        loop {
            let typed = match secret::ask_if_any(&format!("{own} of {name}")) {
                Ok(typed) => typed,
                Err(problem) if problem.is(Refusal::CodeNotPrintable) => {
                    output::aside(&format!("{problem}"));
                    continue;
                }
                Err(problem) => return Err(problem.into()),
            };
            let Some(typed) = typed else {
                output::aside(&format!("nothing was entered; `slotwarden slot share {name}` asks again"));
                return Ok(EXIT_WAITS);
            };
            match self.carry_out(name, order, confirmed, vec![(SecretRole::Code, typed)]) {
                // It costs nothing, and whoever mistyped has it before them.
                Err(refused) if refused.problem.is(Refusal::ShareMistyped) => {
                    output::aside(&format!("{}; enter it again, or only Enter to do that later", refused.problem));
                }
                ended => return ended,
            }
        }
    }

    /// A new share is here: shows it, and at a terminal asks for it back.
    pub(super) fn shown(&self, name: &str, (x, m, n): (u8, u8, u8), share: &[u8]) -> Result<u8, Refused> {
        let set = TypedShare::parse(share).map_or_else(
            |_| String::new(),
            |share| {
                let mark: String = share.set_mark().iter().map(|byte| format!("{byte:02x}")).collect();
                format!(", set {} ({mark})", share.generation())
            },
        );
        let what = format!("Your share of the code of {name}: {x} of {n}, any {m} of which open the slot{set}.");
        let again = format!("`slotwarden slot share {name}`");
        if !secret::on_terminal() || !io::stdout().is_terminal() {
            match self.format {
                Format::Table => {
                    output::share_line(share);
                    output::aside(&what);
                }
                Format::Json => output::share_json(name, (x, m, n), share),
            }
            output::aside(&format!("It is never shown again. Type it back: {again}."));
            return Ok(EXIT_DONE);
        }
        self.interrupts.share_shown(true);
        output::show_share(
            &what,
            share,
            "Write it down, and compare what you wrote. It is never shown again.\n\
             Press Enter when you have it: this screen is then cleared. ",
        );
        // Also a terminal that was closed ends the showing.
        let _ = io::stdin().read_line(&mut String::new());
        output::clear_screen();
        self.interrupts.share_shown(false);
        output::aside(&what);
        output::aside(&format!("Type it back now, or only Enter to do that later with {again}."));
        self.enter(name, "Your new share of the code", false)
    }
}

/// What the one who asks did in the collection under way.
fn did(found: &SlotDetail) -> Option<&str> {
    let you = found.you.as_deref()?;
    let collection = found.slot.collection.as_ref()?;
    collection.persons.iter().find(|person| person.name == you).map(|person| person.did.as_str())
}
